"""What headers tell: PNGs are read whatever else is in them, and what is not decoded is called by its name."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tasks.files.image_headers import PNG, without_texts
from tasks.files.images import decode_pil, read_image, read_mask

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def one_text(size: int, *, packed: bool):
    def save(path):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", "x" * size, zip=packed)
        Image.fromarray(PICTURE).save(path, pnginfo=info)

    return save


def many_texts(path):
    info = PngImagePlugin.PngInfo()
    for number in range(80):
        info.add_text(f"k{number}", "x" * 900_000, zip=True)
    Image.fromarray(PICTURE).save(path, pnginfo=info)


def profile(path):
    Image.fromarray(PICTURE).save(path, icc_profile=os.urandom(9_000_000))


def damaged(kind: bytes):
    def save(path):
        body = struct.pack(">I", 3) + kind + b"abc" + struct.pack(">I", 12345)
        Image.fromarray(PICTURE).save(path)
        data = path.read_bytes()
        end = data.index(b"IDAT") - 4
        path.write_bytes(data[:end] + body + data[end:])

    return save


@pytest.mark.parametrize(
    "save",
    [one_text(3_000_000, packed=True), one_text(9_000_000, packed=False), many_texts, profile, damaged(b"tEXt"),
     damaged(b"vpAg"), damaged(b"gAMA")],
    ids=["a large text", "a huge text", "many texts", "a large profile", "a damaged text", "a damaged chunk of a "
         "program", "a damaged gamma"],
)  # fmt: skip
def test_pngs_are_read_whatever_they_tell_besides(tmp_path, capfd, save):
    path = tmp_path / "a.png"
    save(path)
    capfd.readouterr()
    np.testing.assert_array_equal(read_image(path), PICTURE)
    np.testing.assert_array_equal(np.array(decode_pil(path.read_bytes(), path)), PICTURE)
    assert capfd.readouterr() == ("", "")  # neither libpng nor OpenCV speaks


def test_a_palette_with_a_large_text_is_a_mask(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 3_000_000, zip=True)
    mask = Image.fromarray(PICTURE[..., 0] % 5)
    mask.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200, 90, 90, 0] + [0] * 753)
    mask.save(tmp_path / "a.png", pnginfo=info)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), PICTURE[..., 0] % 5)


def test_damage_to_the_pixels_stays_an_error(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert without_texts(data) == data and without_texts(b"GIF89a") == b"GIF89a"
    for broken in (data[: len(data) // 2], PNG, data[:20] + b"\xff\xff" + data[22:]):
        (tmp_path / "b.png").write_bytes(broken)
        with pytest.raises(ValueError, match=r"b\.png cannot be decoded"):
            read_image(tmp_path / "b.png")


def test_the_orientation_stays(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 3_000_000, zip=True)
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif, pnginfo=info)
    assert read_image(tmp_path / "a.png").shape == (24, 16, 3)
    assert decode_pil((tmp_path / "a.png").read_bytes(), "a").size == (16, 24)


def tiff(pixels: np.ndarray, sample_format: int) -> bytes:
    """An uncompressed TIFF of (H, W, C) samples of any type and number."""
    height, width, channels = pixels.shape
    tags = [(256, 3, [width]), (257, 3, [height]), (258, 3, [8 * pixels.itemsize] * channels), (259, 3, [1]),
            (262, 3, [2 if channels > 2 else 1]), (273, 4, [0]), (277, 3, [channels]), (278, 3, [height]),
            (279, 4, [pixels.nbytes]), (284, 3, [1]), (338, 3, [0] * max(0, channels - 3)),
            (339, 3, [sample_format] * channels)]  # fmt: skip
    tags = [tag for tag in tags if tag[2]]
    place, more, entries = 8 + 2 + 12 * len(tags) + 4, b"", []
    for tag, kind, values in tags:
        raw = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        entries.append((tag, kind, len(values), raw.ljust(4, b"\0") if len(raw) <= 4 else place + len(more)))
        more += raw if len(raw) > 4 else b""
    fields = [
        struct.pack("<HHI", *entry[:3]) + (
            struct.pack("<I", place + len(more)) if entry[0] == 273
            else entry[3] if isinstance(entry[3], bytes) else struct.pack("<I", entry[3])
        ) for entry in entries
    ]  # fmt: skip
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(fields) + bytes(4) + more + pixels.tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(np.zeros((8, 8, 3), np.float32), 3), "holds 32-bit float samples"),
        (tiff(np.zeros((8, 8, 1), np.float32), 3), "holds 32-bit float samples"),
        (tiff(np.zeros((8, 8, 3), np.float16), 3), "holds 16-bit float samples"),
        (tiff(np.zeros((8, 8, 1), np.uint32), 1), "holds 32-bit samples"),
        (tiff(np.zeros((8, 8, 5), np.uint8), 1), "holds 5 channels; expected 1"),
        (b"#?RADIANCE\n", "is a Radiance HDR file"),
        (b"v/1\x01abcd", "is a OpenEXR file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC file, which is not decoded here"),
    ],
)
def test_files_that_are_not_decoded_are_called_by_their_kind(tmp_path, capfd, data, message):
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ValueError, match=message) as raised:
        read_image(tmp_path / "a.tif")
    assert "damaged" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_chunk_before_the_pixels_is_cut_out_alone():
    encoded = cv2.imencode(".png", PICTURE)[1].tobytes()
    whole = struct.pack(">I", 2) + b"vpAgab" + struct.pack(">I", zlib.crc32(b"vpAgab"))
    kept = encoded[:33] + whole + encoded[33:]
    assert without_texts(kept) == kept
