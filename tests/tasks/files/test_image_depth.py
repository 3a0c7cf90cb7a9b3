"""What 8-bit RGB leaves out of files is told once for all of them: by check, training and prediction."""

import logging
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.data.masks import MaskFolders
from tasks.files.image_depth import Lost, lost_parts
from tasks.inspection.check import check, look_at
from tests.tasks.conftest import NAMES, write_masks
from tests.tasks.files.test_image_headers import tiff
from tests.tasks.files.written_tiffs import encode_tiff

NOISE = np.random.default_rng(0).integers(0, 65536, (16, 24, 4), dtype=np.uint16)
RGB = Image.fromarray((NOISE[..., :3] >> 8).astype(np.uint8))
RGBA = Image.fromarray((NOISE >> 8).astype(np.uint8))


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "detail", "data"),
    [
        ("levels", "16 levels", encoded(".png", NOISE[..., 0] >> 4)),
        ("levels", "16 levels", encoded(".png", NOISE[..., :3] >> 4)),
        ("levels", "16 levels", encoded(".tif", NOISE[..., 0] >> 4)),
        ("levels", "values 16384 to 40000", encoded(".png", NOISE[..., 0].clip(16384, 40000))),
        ("levels", "1 levels", encoded(".png", NOISE[..., 0] >> 8)),
        ("levels", "16 levels", b"P5\n# camera\n24 16\n4095\n" + (NOISE[..., 0] >> 4).astype(">u2").tobytes()),
        ("alpha", "not opaque", saved(RGBA, "PNG")),
        ("depth alpha", "not opaque", encoded(".png", NOISE)),
        ("alpha", "not opaque", saved(RGBA.convert("LA"), "PNG")),
        ("alpha", "not opaque", saved(RGB.quantize(), "PNG", transparency=3)),
        ("alpha", "not opaque", saved(RGBA, "WEBP", lossless=True)),
        ("depth alpha", "not opaque", encoded(".tif", NOISE)),
        ("channels", "4 of them", tiff((NOISE >> 8).astype(np.uint8), 1)),
        ("depth", "16 bits", encoded(".png", NOISE[..., :3])),
        ("depth", "16 bits", encoded(".tif", NOISE[..., 0])),
        ("channels", "3 of them", encode_tiff((NOISE[..., :3] >> 8).astype(np.uint8))),
        ("channels", "2 of them", tiff((NOISE[..., :2] >> 8).astype(np.uint8), 1)),
        ("pages", "2 of them", saved(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(180)])),
        ("pages", "2 of them", saved(RGB, "GIF", save_all=True, append_images=[RGB.rotate(180)])),
    ],
)
def test_what_is_left_out_is_found(kind, detail, data):
    found = dict(lost_parts(data))
    assert " ".join(found) == kind and detail in found[kind.split()[-1]]


@pytest.mark.parametrize(
    "data",
    [
        saved(RGB, "PNG"), saved(RGB, "JPEG"), saved(RGB.convert("CMYK"), "JPEG"), saved(RGB.convert("CMYK"), "TIFF"),
        saved(RGB.convert("RGBA"), "PNG"),
        saved(RGB, "MPO", save_all=True, append_images=[RGB]), saved(RGB.quantize(), "PNG"), saved(RGB, "GIF"),
        saved(RGB.convert("L"), "PNG"), saved(RGB.convert("1"), "PNG"), b"no picture", b"",
    ],
)  # fmt: skip
def test_nothing_is_said_of_pictures_that_lose_nothing(data):
    assert list(lost_parts(data)) == []


def test_many_files_make_one_line_a_kind():
    lost = Lost()
    for number in range(5):
        lost.add(f"{number}.png", lost_parts(encoded(".png", NOISE[..., 0] >> 4) if number else saved(RGBA, "PNG")))
    first, second = lost.lines()
    assert first.startswith("4 of 5 images hold more than 8 bits") and "(the first: 1.png: values 43 to 4084" in first
    assert second.startswith("1 of 5 images hold transparency")


def test_check_and_training_tell_it_once(tmp_path, caplog):
    write_masks(tmp_path)
    for path in (tmp_path / "train" / "images").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16) * 16)
    data = MaskFolders(str(tmp_path), NAMES, crop_size=[32, 32], batch_size=2, num_workers=0)
    (warning,) = look_at(data, "train").warnings
    assert warning.startswith("train: 6 of 6 images hold more than 8 bits a sample")
    assert look_at(data, "val").warnings == [] and check(data, ["train"])["train"]["problems"] == []
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
        data.setup("fit")
    (line,) = caplog.messages
    assert line.startswith("train: 6 of 6 images hold more than 8 bits") and "action=check looks at all" in line
