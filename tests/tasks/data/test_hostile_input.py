"""Data of strangers: names that lead out of a folder, pictures that unpack to gigabytes, files that are cut off."""

import json
import logging
import struct
import tracemalloc
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.data.coco import CocoData
from tasks.data.imagenet import read_labels
from tasks.data.masks import MaskFolders
from tasks.data.shard_data import ShardData
from tasks.data.voc import VocData
from tasks.detection.results import DetectionResults, GroundTruth
from tasks.files.images import MAX_PIXELS, decode_image, decode_pil, read_image, read_mask
from tasks.files.safe_paths import below
from tasks.files.videos import frames
from tasks.inspection.crops import CropSettings, write_crops
from tasks.values.errors import DataError
from tests.tasks.data.test_coco import CONTENT, OPTIONS, changed, write_coco

OUTSIDE = ("../secret.png", "a/../../secret.png", "/etc/passwd", "..", "", "a\0b", "\ud800.png", "a" * 300)


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(noise, (96, 64), interpolation=cv2.INTER_CUBIC)


def encoded(picture, kind: str, mode: str = "RGB", **options) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused(name):
    with pytest.raises(DataError, match=r"list\.txt: the file name .* leads out of the image folder"):
        below(name, "list.txt")


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "a b/ü.png", "..a/b..png", "...", "a:b.png", "~/a.png", "$HOME"])
def test_names_below_are_taken_as_they_are(name):
    assert below(name, "list.txt") == name


@pytest.mark.parametrize("name", OUTSIDE)
def test_coco_opens_no_file_outside(tmp_path, name):
    write_coco(tmp_path)
    content = changed(lambda c: c["images"][0].update(file_name=name))
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"instances_val2017\.json: the file name .* leads out"):
        CocoData(str(tmp_path), **OPTIONS)


def test_voc_opens_no_file_outside(tmp_path):
    lists = tmp_path / "root" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (tmp_path / "secret.xml").write_text("<annotation/>")
    for name in ("../../secret", str(tmp_path / "secret")):
        (lists / "val.txt").write_text(f"{name}\n")
        with pytest.raises(DataError, match=r"val\.txt: the file name .*secret' leads out"):
            VocData(str(tmp_path / "root"), **OPTIONS).setup("validate")
    (lists / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val\.txt is no text"):
        VocData(str(tmp_path / "root"), **OPTIONS).setup("validate")


def test_links_that_a_user_made_are_followed(tmp_path):
    write_coco(tmp_path / "elsewhere")
    (tmp_path / "root").mkdir()
    for name in ("annotations", "train2017", "val2017"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert CocoData(str(tmp_path / "root"), **OPTIONS).dataset("val").read(0)[0].shape == (40, 60, 3)


def test_class_names_become_folders_inside(tmp_path):
    def rename(content):
        for category, name in zip(content["categories"], ("../x", "a/b", ".."), strict=True):
            category["name"] = name

    write_coco(tmp_path / "data", changed(rename), changed(rename))
    data = CocoData(str(tmp_path / "data"), **OPTIONS)
    before = sorted(path.name for path in tmp_path.iterdir())
    write_crops(data, tmp_path / "crops", settings=CropSettings(min_side=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "crops"])
    assert sorted(path.name for path in (tmp_path / "crops" / "val").iterdir()) == ["_", "_x", "a_b"]


def test_an_index_of_shards_names_plain_files(tmp_path):
    entry = {"file": "train.npz", "bytes": 1, "sha256": "0" * 64}
    index = {"classes": {"names": ["a"], "palette": [[0, 0, 0]]}}
    for wrong in ({"file": "../x"}, {"file": "/x"}, {"sha256": "../../../../tmp/" + "0" * 48}, {"bytes": -1},
                  {"bytes": 10**30}, {"bytes": "1"}):  # fmt: skip
        part = {"samples": 1, "index": entry | wrong, "shards": []}
        (tmp_path / "index.json").write_text(json.dumps(index | {"splits": {"train": part}}))
        with pytest.raises(DataError, match=r"index\.json is no index of shards"):
            ShardData(str(tmp_path), num_workers=0)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> dict[str, bytes]:
    """Small files that state side x side px."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000), 9)) + chunk(b"IEND", b"")
    jpeg = encoded(np.zeros((8, 8, 3), np.uint8), "JPEG")
    start = jpeg.index(b"\xff\xc0") + 5
    bmp = bytearray(encoded(np.zeros((8, 8, 3), np.uint8), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, side)
    tiff = encoded(np.zeros((8, 8, 3), np.uint8), "TIFF")
    deep = cv2.imencode(".tiff", np.zeros((8, 8, 3), np.uint16))[1].tobytes()  # of a kind that PIL refuses
    for tag in (256, 257):
        for kind in (3, 4):
            old, new = struct.pack("<HHII", tag, kind, 1, 8), struct.pack("<HHII", tag, 4, 1, side)
            tiff, deep = tiff.replace(old, new), deep.replace(old, new)
    return {
        "png": png, "jpeg": jpeg[:start] + struct.pack(">HH", side, side) + jpeg[start + 4 :], "bmp": bytes(bmp),
        "tiff": tiff, "odd tiff": deep, "ppm": b"P6\n%d %d\n255\n" % (side, side),
    }  # fmt: skip


@pytest.mark.parametrize("kind", bomb(50_000))
def test_pictures_that_state_too_much_are_refused_unread(tmp_path, kind):
    data = bomb(50_000)[kind]
    (tmp_path / "bomb.png").write_bytes(data)
    tracemalloc.start()
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=rf"bomb\.png states more than the {MAX_PIXELS} px that are decoded"):
            read(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match=r"bomb\.png"):
        decode_pil(data, "bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_large_pictures_are_read():
    buffer = BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG", compress_level=1)
    assert decode_image(buffer.getvalue(), "a", reduction=8).shape == (1250, 1250, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("left", [0.1, 0.5, 0.95])
def test_pictures_that_are_cut_off_are_refused(tmp_path, picture, kind, left):
    data = encoded(picture, kind)
    (tmp_path / "cut.png").write_bytes(data[: int(len(data) * left)])
    for read in (read_image, read_mask, lambda path: decode_pil(path.read_bytes(), path)):
        with pytest.raises(ValueError, match=r"cut\.png cannot be decoded as an image"):
            read(tmp_path / "cut.png")


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "RGBA"), ("PNG", "1"), ("GIF", "P")],
)
def test_every_kind_of_picture_is_rgb(picture, kind, mode):
    data = encoded(picture, kind, mode)
    for image in (decode_image(data, "a"), np.array(decode_pil(data, "a"))):
        assert image.shape == picture.shape
        expected = np.array(Image.open(BytesIO(data)).convert("RGB"))
        assert np.abs(image.astype(int) - expected).mean() < (12 if mode == "CMYK" else 3)


def test_an_animation_is_its_first_picture(picture):
    buffer = BytesIO()
    first, *rest = (Image.fromarray(np.roll(picture, k, 1)).quantize(64) for k in (0, 20, 40))
    first.save(buffer, "GIF", save_all=True, append_images=rest)
    expected = np.array(first.convert("RGB")).astype(int)
    assert np.abs(decode_image(buffer.getvalue(), "a.gif") - expected).mean() < 3
    assert np.abs(np.array(decode_pil(buffer.getvalue(), "a.gif")) - expected).mean() < 3


def test_deep_colours_are_read(picture):
    deep = cv2.imencode(".tiff", picture[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode_image(deep, "a.tiff"), picture)


def test_text_that_is_called_a_picture_is_named_by_its_set(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
            (tmp_path / split / kind / "a.png").write_text("no picture")
    data = MaskFolders(str(tmp_path), ["a", "b"], crop_size=[8, 8], num_workers=0)
    with pytest.raises(DataError, match=r"images/a\.png cannot be decoded"):
        data.dataset("val").read(0)


@pytest.mark.parametrize("left", [0.6, 1.0])
def test_a_video_that_is_cut_off_gives_what_comes_before(tmp_path, picture, caplog, left):
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (96, 64))
    for _ in range(40):
        writer.write(picture)
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])
    with caplog.at_level(logging.WARNING):
        count = len(list(frames(path)))
    if left == 1:
        assert count == 40 and not caplog.messages
    else:
        assert 15 <= count <= 30
        assert caplog.messages == [f"{path} is cut off or damaged: {count} of its 40 frames can be decoded"]


def test_a_video_without_its_index_is_refused(tmp_path, picture):
    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (96, 64))
    for _ in range(20):
        writer.write(picture)
    writer.release()
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be decoded as a video"):
        frames(path)


BIG = 10**30
DEEP = "[" * 100_000 + "]" * 100_000
WRONG = {
    "list": lambda c: c["images"].__setitem__(0, [1, 2]),
    "huge id": lambda c: c["images"][0].update(id=BIG),
    "float id": lambda c: c["images"][0].update(id=9.5),
    "null id": lambda c: c["annotations"][0].update(image_id=None),
    "true id": lambda c: c["categories"][0].update(id=True),
    "huge height": lambda c: c["images"][0].update(height=BIG),
    "absurd size": lambda c: c["images"][0].update(height=100_000, width=100_000),
    "negative width": lambda c: c["images"][0].update(width=-1),
    "huge box": lambda c: c["annotations"][0].update(bbox=[BIG, 0, 1, 1]),
    "true box": lambda c: c["annotations"][0].update(bbox=[True, 0, 1, 1]),
    "box of lists": lambda c: c["annotations"][0].update(bbox=[[0], 0, 1, 1]),
    "text area": lambda c: c["annotations"][0].update(area="9"),
    "area of NaN": lambda c: c["annotations"][0].update(area=float("nan")),
    "huge area": lambda c: c["annotations"][0].update(area=BIG),
    "text crowd": lambda c: c["annotations"][0].update(iscrowd="0"),
    "odd name": lambda c: c["categories"][0].update(name="\ud800"),
    "no dicts": lambda c: c.update(annotations=[1, 2]),
    "no list": lambda c: c.update(categories={"id": 1}),
    "deep": lambda c: DEEP,
    "number": lambda c: "7",
    "no unicode": lambda c: b"\xff\xfe\xff",
    "endless number": lambda c: "1" * 5000,
}


@pytest.mark.parametrize("fault", WRONG)
def test_annotations_of_wrong_types_are_refused(tmp_path, fault):
    (tmp_path / "annotations").mkdir()
    content = json.loads(json.dumps(CONTENT))
    raw = WRONG[fault](content)
    raw = raw if isinstance(raw, str | bytes) else json.dumps(content)
    (tmp_path / "annotations/instances_val2017.json").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    with pytest.raises(DataError, match=r"instances_val2017\.json") as raised:
        CocoData(str(tmp_path), **OPTIONS)
    assert len(str(raised.value)) < 600


RESULT = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}


@pytest.mark.parametrize(
    "text",
    [DEEP, "{}", "7", *(json.dumps([RESULT | wrong]) for wrong in (
        {"image_id": BIG}, {"image_id": "1"}, {"category_id": 1.5}, {"bbox": [0, 0, 1]}, {"bbox": [0, 0, BIG, 1]},
        {"score": float("inf")}, {"score": BIG}, {"score": True},
    ))],
    ids=lambda text: text[:60],
)  # fmt: skip
def test_results_of_wrong_types_are_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json"):
        DetectionResults.from_json(tmp_path / "results.json")


@pytest.mark.parametrize("key", ["images", "categories", "annotations"])
@pytest.mark.parametrize("value", [None, {}, [1], [{"id": BIG}], [{"id": "1"}], [{}]], ids=str)
def test_a_ground_truth_of_wrong_types_is_refused(key, value):
    with pytest.raises(ValueError, match="the ground truth"):
        GroundTruth.from_coco(json.loads(json.dumps(CONTENT)) | {key: value})


@pytest.mark.parametrize(
    ("name", "content"),
    [("val.txt", b"\xff\xfe"), ("val.txt", b"1" * 5000), ("val.txt", b"../../x n00000000"), ("a.csv", b"\0"),
     ("a.csv", b'"' + b"x" * 200_000), ("a.csv", b"ImageId,PredictionString\na, \n")],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_wrong_label_lists_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError):
        read_labels(tmp_path / name)
