"""Validation's view against torchvision's presets, pixel by pixel; training's view against torchvision's transforms."""

from io import BytesIO

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification

from tasks.data.center_view import CenterView
from tasks.data.classification_transforms import ClassAugmentation
from tasks.files.images import decode_image, decode_pil, jpeg_size, read_image


def photograph(size=(90, 140), seed: int = 0) -> np.ndarray:
    """Detail at every scale, (H, W, 3) uint8 RGB."""
    random = np.random.default_rng(seed)
    picture = np.full((*size, 3), 120, np.float32)
    for cells in (3, 9, 30):
        noise = random.normal(0, 120 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.uint8(picture.clip(0, 255))


def encoded(picture, form: str = "JPEG", **options) -> bytes:
    buffer = BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, form, **options)
    return buffer.getvalue()


def oriented(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = number
    return exif


def same_as_preset(data: bytes, side: int, resized: int, interpolation: str, crop_ratio: float) -> None:
    preset = ImageClassification(
        crop_size=side,
        resize_size=resized,
        interpolation=InterpolationMode(interpolation),
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    expected = preset(Image.open(BytesIO(data)).convert("RGB")) * 255
    ours = CenterView(side, crop_ratio, interpolation)(data, "photograph")
    assert np.array_equal(ours, expected.round().to(torch.uint8).permute(1, 2, 0).numpy())


@pytest.mark.data
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "resized"), [(224, 256), (224, 232), (160, 182), (192, 219)])
def test_validation_is_torchvisions_on_photographs(real_data, side, resized, interpolation):
    files = (
        sorted((real_data / "coco" / "val2017").glob("*.jpg"))[:5]
        + sorted((real_data / "raccoon/images").iterdir())[:5]
    )
    for file in files:
        same_as_preset(file.read_bytes(), side, resized, interpolation, 224 / 232 if resized == 232 else 0.875)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(90, 140), (141, 67), (33, 33), (40, 401)])
def test_validation_is_torchvisions_at_any_shape(size, interpolation):
    for form in ("JPEG", "PNG"):
        same_as_preset(encoded(photograph(size), form), 56, 64, interpolation, 0.875)


def test_the_shorter_side_is_what_libraries_resize_to():
    """torchvision's weights state 256, 232 and 236 px for 224; timm rounds down, as the papers' repositories do."""
    resized = [CenterView(224, 224 / side).resized_side for side in range(224, 400)]
    assert resized == list(range(224, 400))
    assert [CenterView(side, ratio).resized_side for side, ratio in ((224, 0.95), (160, 0.875))] == [235, 182]


ODD = {
    "grey": lambda p: encoded(Image.fromarray(p).convert("L")),
    "CMYK": lambda p: encoded(Image.fromarray(p).convert("CMYK")),
    "progressive": lambda p: encoded(p, progressive=True, subsampling=0),
    "palette": lambda p: encoded(Image.fromarray(p).quantize(64), "PNG"),
    "16 bits": lambda p: cv2.imencode(".png", p.astype(np.uint16) * 257)[1].tobytes(),
    "16 bits, grey": lambda p: cv2.imencode(".png", p[..., 0].astype(np.uint16) * 257)[1].tobytes(),
    "alpha": lambda p: encoded(np.dstack([p, p[..., 0]]), "PNG"),
    "webp": lambda p: encoded(p, "WEBP", lossless=True),
    **{f"turned {n}": lambda p, n=n: encoded(p, exif=oriented(n)) for n in (2, 3, 6, 8)},
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_are_seen_as_read_image_sees_them(kind, tmp_path):
    data = ODD[kind](photograph())
    (tmp_path / "picture").write_bytes(data)
    expected = read_image(tmp_path / "picture")
    whole = ClassAugmentation(scale=(1, 1), ratio=(1, 1), flip=0)
    shorter, longer = sorted(expected.shape[:2])
    start = (longer - shorter) // 2
    middle = expected[start : start + shorter] if expected.shape[0] == longer else expected[:, start : start + shorter]
    assert np.array_equal(whole(data, "", shorter, np.random.default_rng(0)), middle), "a crop that never fits"
    seen = np.asarray(decode_pil(data, ""))
    assert seen.shape == expected.shape
    if kind != "CMYK":  # each library has its own way from CMYK to RGB; torchvision's is PIL's
        assert np.abs(seen.astype(int) - expected).max() <= 1
    assert jpeg_size(data) == (expected.shape[:2] if data.startswith(b"\xff\xd8") else None)


def test_crops_are_distributed_as_torchvisions():
    options = {"scale": (0.1, 0.8), "ratio": (0.9, 2)}
    ours, random = ClassAugmentation(**options), np.random.default_rng(0)
    theirs, picture = v2.RandomResizedCrop(10, **options), torch.empty(3, 300, 500)
    torch.manual_seed(0)
    left = np.array([ours.crop((300, 500), random) for _ in range(4000)])
    right = np.array(
        [[theirs.make_params([picture])[k] for k in ("top", "left", "height", "width")] for _ in range(4000)]
    )
    for column, spread in zip(range(4), (70, 110, 80, 120), strict=True):
        quantiles = np.linspace(0.05, 0.95, 10)
        difference = np.quantile(left[:, column], quantiles) - np.quantile(right[:, column], quantiles)
        assert np.abs(difference).max() < 0.15 * spread, column
    assert (left[:, 0] + left[:, 2]).max() <= 300 and (left[:, 1] + left[:, 3]).max() <= 500


def test_a_crop_reaches_every_place_of_the_image():
    """9x9 px of 10x11: two places down, three across."""
    ours, random = ClassAugmentation(scale=(81 / 110, 81 / 110), ratio=(1, 1)), np.random.default_rng(0)
    crops = {ours.crop((10, 11), random) for _ in range(200)}
    assert crops == {(top, left, 9, 9) for top in (0, 1) for left in (0, 1, 2)}


@pytest.mark.parametrize("size", [(10, 400), (400, 10), (1, 1), (7, 9)])
def test_images_of_extreme_shape_give_torchvisions_middle(size):
    ours = ClassAugmentation(scale=(1, 1)).crop(size, np.random.default_rng(0))
    theirs = v2.RandomResizedCrop(10, scale=(1, 1)).make_params([torch.empty(3, *size)])
    if max(size) > 9:
        assert ours == tuple(theirs[key] for key in ("top", "left", "height", "width"))
    assert min(ours[2:]) >= 1


@pytest.mark.parametrize(("ratio", "reduction"), [((1, 1), 2), ((2.25, 2.25), 1), ((1 / 2.25, 1 / 2.25), 1)])
def test_the_shorter_side_of_a_crop_decides_the_reduction(ratio, reduction, monkeypatch):
    """Crops of 360x360, 240x540 and 540x240 px, of which 150x150 are to be seen: half of 240 would be too few."""
    used, data = [], encoded(photograph((600, 600)), quality=95)
    monkeypatch.setattr(
        "tasks.data.classification_transforms.decode_image",
        lambda data, name, *, reduction=1: (used.append(reduction), decode_image(data, name, reduction=reduction))[1],
    )
    ClassAugmentation(scale=(0.36, 0.36), ratio=ratio)(data, "", 150, np.random.default_rng(1))
    assert used == [reduction]


@pytest.mark.parametrize("exif", [1, 6])
@pytest.mark.parametrize(("size", "share", "reduction"), [
    ((400, 640), 0.4, 2), ((401, 643), 0.4, 2), ((900, 1200), 0.4, 4), ((1700, 1500), 0.6, 8),
])  # fmt: skip
def test_a_reduced_decode_shows_the_same_crop(size, share, reduction, exif, monkeypatch):
    """It is nearer to the same crop of the whole decode than that crop is to itself one reduced pixel aside."""
    data, used = encoded(photograph(size), quality=95, exif=oriented(exif)), []

    def spy(data, name, *, reduction=1):
        used.append(reduction)
        return decode_image(data, name, reduction=reduction)

    monkeypatch.setattr("tasks.data.classification_transforms.decode_image", spy)
    augmentation, side = ClassAugmentation(scale=(share, share), ratio=(1, 1.02), flip=0), 150
    result = augmentation(data, "", side, np.random.default_rng(1))
    assert used == [reduction]
    whole = decode_image(data, "")
    top, left, height, width = augmentation.crop(whole.shape[:2], np.random.default_rng(1))

    def distance(picture, shift: int = 0) -> float:
        seen = whole[top + shift : top + shift + height, left + shift : left + shift + width]
        expected = cv2.resize(seen, (side, side), interpolation=cv2.INTER_AREA)
        return np.abs(picture.astype(int) - expected).mean()

    exact = cv2.resize(whole[top : top + height, left : left + width], (side, side), interpolation=cv2.INTER_AREA)
    assert distance(exact) == 0 and top >= reduction and left >= reduction
    assert distance(result) < max(distance(exact, reduction), distance(exact, -reduction))


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment", "trivialaugment"])
def test_a_policy_is_torchvisions_and_leaves_the_generator_alone(policy):
    picture = photograph((64, 64))
    kind = {"autoaugment": v2.AutoAugment, "randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}[
        policy
    ]
    theirs = kind(interpolation=InterpolationMode.BILINEAR)
    options = {"scale": (1, 1), "ratio": (1, 1), "flip": 0, "policy": policy}
    changed = 0
    for seed in range(6):
        random = np.random.default_rng(seed)
        ClassAugmentation(scale=(1, 1), ratio=(1, 1)).crop((64, 64), random)
        random.random()
        torch.manual_seed(int(random.integers(2**63)))
        expected = np.asarray(theirs(Image.fromarray(picture)))
        torch.manual_seed(99)
        before = torch.random.get_rng_state()
        ours = ClassAugmentation(**options)(encoded(picture, "PNG"), "", 64, np.random.default_rng(seed))
        assert np.array_equal(ours, expected)
        assert torch.equal(before, torch.random.get_rng_state())
        changed += not np.array_equal(ours, picture)
    assert changed >= 3


def test_a_flip_mirrors_left_and_right():
    picture = photograph((64, 64))
    augment = ClassAugmentation(scale=(1, 1), ratio=(1, 1), flip=1)
    view = augment(encoded(picture, "PNG"), "", 64, np.random.default_rng(0))
    assert np.array_equal(view, picture[:, ::-1])


@pytest.mark.parametrize(("strength", "around"), [(1.0, (0.6, 1.4)), (0.5, (0.8, 1.2))])
def test_color_jitters_brightness_contrast_and_saturation_alike(strength, around):
    (jitter,) = ClassAugmentation(color=0.4, strength=strength).changes
    assert [jitter.brightness, jitter.contrast, jitter.saturation] == [pytest.approx(around)] * 3
    assert jitter.hue is None


def test_edges_of_a_crop_fall_on_the_nearest_reduced_pixel(monkeypatch):
    """A crop of 31 to 96 across and 33 to 98 down, decoded at half the size: 15.5 and 16.5 go up, as 48 and 49 are."""
    rows, columns = np.indices((60, 60))
    reduced = np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)
    augmentation = ClassAugmentation()
    monkeypatch.setattr("tasks.data.classification_transforms.jpeg_size", lambda data: (120, 120))
    monkeypatch.setattr("tasks.data.classification_transforms.decode_image", lambda data, name, *, reduction: reduced)
    monkeypatch.setattr(augmentation, "crop", lambda size, random: (33, 31, 65, 65))
    seen = augmentation._cropped(b"", "", 32, None)
    assert seen[0, 0].tolist() == [17, 16, 0] and seen[-1, -1].tolist() == [48, 47, 0]


def test_strength_scales_what_it_says():
    data, picture = encoded(photograph((64, 64)), "PNG"), photograph((64, 64))
    whole = {"scale": (1, 1), "ratio": (1, 1), "flip": 0}

    def share(**options) -> float:
        views = [ClassAugmentation(**whole, **options)(data, "", 64, np.random.default_rng(k)) for k in range(150)]
        return np.mean([not np.array_equal(view, picture) for view in views])

    assert share(policy="trivialaugment", strength=0.0, color=0.4, erasing=1.0) == 0
    full = share(policy="trivialaugment")
    assert abs(share(policy="trivialaugment", strength=0.3) - 0.3 * full) < 0.12
    assert share(erasing=1.0) == 1 and abs(share(erasing=1.0, strength=0.3) - 0.3) < 0.12
    magnitudes = [ClassAugmentation(policy="randaugment", policy_magnitude=10, strength=s).changes[0].magnitude
                  for s in (0.3, 0.7, 1.0)]  # fmt: skip
    assert magnitudes == [3, 7, 10]
    assert ClassAugmentation(color=0.4, strength=0.5).changes[0].brightness == (0.8, 1.2)


def test_what_is_erased_is_zero_once_normalised():
    view = ClassAugmentation(scale=(1, 1), ratio=(1, 1), flip=0, erasing=1.0)
    picture = np.zeros((64, 64, 3), np.uint8)
    result = view(encoded(picture, "PNG"), "", 64, np.random.default_rng(0))
    erased = result[result.any(2)]
    assert 0.02 * 4096 * 0.9 <= len(erased) <= 0.34 * 4096 and (erased == (124, 116, 104)).all()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert np.abs((erased[0] / 255 - mean) / std).max() < 0.01


@pytest.mark.parametrize(("options", "message"), [
    ({"policy": "augmix"}, r"data\.policy=augmix: expected null, autoaugment, randaugment, trivialaugment"),
    ({"scale": (0, 1)}, r"data\.scale=\[0, 1\]"), ({"scale": (0.5, 1.5)}, r"data\.scale"),
    ({"ratio": (2, 1)}, r"data\.ratio=\[2, 1\]"), ({"erasing": 2}, r"data\.erasing=2"),
    ({"color": -1}, r"data\.color=-1"), ({"policy_magnitude": 31}, r"data\.policy_magnitude=31"),
])  # fmt: skip
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ClassAugmentation(**options)


def test_an_evaluation_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"data\.crop_ratio=1\.5"):
        CenterView(224, 1.5)
    with pytest.raises(ValueError, match=r"data\.interpolation=nearest: expected bilinear or bicubic"):
        CenterView(224, 0.875, "nearest")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0 no JPEG", encoded(photograph())[:400], b"text"])
def test_a_damaged_file_is_named(data):
    for view in (CenterView(32), lambda d, n: ClassAugmentation()(d, n, 32, np.random.default_rng(0))):
        with pytest.raises(ValueError, match=r"broken\.jpg cannot be decoded"):
            view(data, "broken.jpg")
