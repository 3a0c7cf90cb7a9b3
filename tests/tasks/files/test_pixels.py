"""Images in their own channels and depth: TIFFs in every layout, PNGs with alpha, files that differ from the set."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tasks.files.images import image_size, read_image
from tasks.files.pixels import check_format, decode_pixels, read_pixels
from tasks.pictures.shown import shown
from tasks.values.pixel_format import PixelFormat, check_same_format, pixel_format
from tests.tasks.files.written_tiffs import encode_tiff

NOISE = np.random.default_rng(0).integers(0, 65536, (37, 50, 13), dtype=np.uint16)
LAYOUTS = [
    {}, {"planar": True}, {"order": ">"}, {"big": True}, {"deflate": True}, {"deflate": True, "differences": True},
    {"tile": 32}, {"tile": 32, "deflate": True, "differences": True}, {"planar": True, "tile": 16, "deflate": True},
    {"planar": True, "deflate": True, "differences": True, "order": ">"}, {"rows": 1000},
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: " ".join(layout) or "plain")
@pytest.mark.parametrize("bits", [8, 16])
def test_every_layout_of_a_tiff_is_read_sample_by_sample(layout, bits):
    for channels in (2, 3, 4, 8, 13):
        pixels = (NOISE[..., :channels] >> (16 - bits)).astype(f"uint{bits}")
        for meaning in (False, True)[: 1 + (channels > 2)]:
            data = encode_tiff(pixels, **layout, rgb=meaning)
            if (channels, bits) == (3, 8):
                continue  # read as RGB of 8 bits, by OpenCV alone
            found = decode_pixels(data, "a.tif", PixelFormat(channels, bits))
            assert found.dtype == pixels.dtype and np.array_equal(found, pixels)


def test_pages_of_one_channel_are_channels_and_overviews_are_not(tmp_path):
    pages = [np.ascontiguousarray(NOISE[..., channel]) for channel in range(8)]
    data = cv2.imencodemulti(".tif", [*pages, pages[0][::2, ::2]])[1].tobytes()
    assert np.array_equal(decode_pixels(data, "a.tif", PixelFormat(8, 16)), NOISE[..., :8])
    (tmp_path / "a.tif").write_bytes(data)
    check_format(tmp_path / "a.tif", PixelFormat(8, 16))


def test_the_size_of_a_tiff_of_many_channels_is_in_its_header(tmp_path):
    (tmp_path / "a.tif").write_bytes(encode_tiff(NOISE))
    assert image_size(tmp_path / "a.tif") == (37, 50)
    with pytest.raises(ValueError, match=r"holds 13 channels; .* set pixels.channels=13 pixels.bits=16 to read them"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_png_and_other_files_keep_their_channels_upright(mode):
    picture = Image.fromarray((NOISE[..., :4] >> 8).astype(np.uint8)).convert(mode)
    for suffix in ("PNG", "TIFF", "JPEG")[: 3 if mode == "L" else 2]:
        for orientation in range(1, 9):
            exif, file = picture.getexif(), BytesIO()
            exif[274] = orientation
            picture.save(file, suffix, exif=exif.tobytes())
            expected = np.array(ImageOps.exif_transpose(Image.open(BytesIO(file.getvalue()))))
            found = decode_pixels(file.getvalue(), f"a.{suffix}", PixelFormat(len(mode), 8))
            assert np.array_equal(found, expected.reshape(found.shape)), (suffix, orientation)


def test_a_png_of_16_bits_keeps_all_of_them():
    for channels in (1, 3, 4):
        pixels = NOISE[..., :channels]
        swapped = pixels[..., [2, 1, 0, 3][:channels]] if channels > 1 else pixels
        data = cv2.imencode(".png", swapped)[1].tobytes()
        assert np.array_equal(decode_pixels(data, "a.png", PixelFormat(channels, 16)), pixels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode_tiff(NOISE[..., :7]), "a.tif holds 7 channels of 16 bits, not 8 channels of 16 bits as set: write it "),
        (encode_tiff((NOISE[..., :8] >> 8).astype(np.uint8)), "holds 8 channels of 8 bits, not 8 .* set pixels"),
        (encode_tiff(NOISE[..., :8], t339=[2] * 8), "a.tif holds other samples than unsigned whole numbers"),
        (encode_tiff(NOISE[..., :8], t259=[50000]), "is compressed by TIFF's method 50000; write it with deflate"),
        (encode_tiff(NOISE[..., :8], deflate=True)[:900], "a.tif cannot be decoded"),
        (encode_tiff(NOISE[..., :8], t273=[]), "a.tif cannot be decoded"),
        (cv2.imencode(".png", NOISE[..., :4])[1].tobytes(), "a.tif holds 4 channels of 16 bits, not 8"),
        (cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes(), "a.tif holds 3 channels of 8 bits, not 8"),
    ],
)  # fmt: skip
def test_a_file_of_another_format_is_named_with_what_it_holds(data, message, tmp_path):
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_pixels(tmp_path / "a.tif", PixelFormat(8, 16))


def test_pictures_show_the_chosen_channels_stretched():
    image = NOISE[..., :8] // 64 + 500  # a sensor of 10 bits
    picture = shown(image, PixelFormat(8, 16))
    assert picture.shape == (37, 50, 3) and picture.dtype == np.uint8
    assert all(np.corrcoef(picture[..., k].ravel(), image[..., k].ravel())[0, 1] > 0.99 for k in range(3))
    assert picture.min() == 0 and picture.max() == 255 and 110 < picture.mean() < 145
    assert np.array_equal(shown(image, PixelFormat(8, 16, shown=(3, 2, 1))), picture[..., ::-1])
    grey = shown(image[..., :2], PixelFormat(2, 16))
    assert np.array_equal(grey, np.repeat(picture[..., :1], 3, axis=2))
    eight = image.astype(np.uint8)
    assert np.array_equal(shown(eight, PixelFormat(8)), eight[..., :3]) and shown(eight) is eight


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "pixels.channels=0: expected 1 to 16"),
        ({"bits": 12}, "pixels.bits=12: expected 8 or 16"),
        ({"mean": [0.5] * 3}, "pixels.mean and pixels.std belong together"),
        ({"mean": [0.5] * 3, "std": [0.5] * 2}, r"pixels.std=\[0.5,0.5\]: expected 3 numbers"),
        ({"mean": [128] * 3, "std": [64] * 3}, "expected 3 numbers, one a channel, in parts of the largest value"),
        ({"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, "pixels.std"),
        ({"shown": [1, 4, 2]}, r"pixels.shown=\[1,4,2\]: expected one or three channels, from 1 to 3"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        pixel_format({"pixels": settings})


def test_a_trained_format_stays_but_pictures_may_show_other_channels():
    stored = {"pixels": {"channels": 4, "bits": 16}}
    check_same_format({"pixels": stored["pixels"] | {"shown": [4]}}, stored, "best.ckpt")
    check_same_format({}, {"pixels": {"channels": 3, "bits": 8, "mean": None}}, "an old one")
    with pytest.raises(ValueError, match=r"pixels.bits=8: best.ckpt was trained with 16, which stays"):
        check_same_format({"pixels": {"channels": 4}}, stored, "best.ckpt")
