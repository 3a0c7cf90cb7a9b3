"""Image files: what is read is what was written, by Pillow as the judge; what cannot be read or written is named."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.files import videos
from tasks.files.images import is_image, read_image, read_mask
from tasks.files.videos import VideoWriter, frame_rate, frames, is_video
from tasks.files.writing import write_bytes, write_image

MASK = np.array([[0, 1, 2, 3, 1], [255, 7, 11, 18, 0]], dtype=np.uint8)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_suffixes_tell_images_from_videos_in_either_case():
    assert is_image("a/b.PNG") and is_image(Path("b.jpeg")) and not is_image("b.mp4") and not is_image("png")
    assert is_video("a/b.MP4") and is_video(Path("b.avi")) and not is_video("b.png")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_read_image_is_rgb(tmp_path, picture, suffix):
    Image.fromarray(picture).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), picture)


def test_read_image_makes_three_channels_of_8_bits(tmp_path, picture):
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), picture[..., :1].repeat(3, axis=2))
    cv2.imwrite(str(tmp_path / "deep.png"), picture[..., 0].astype(np.uint16) * 256)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), picture[..., :1].repeat(3, axis=2))
    Image.fromarray(picture).convert("RGBA").save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), picture)


def test_read_image_turns_the_picture_upright(tmp_path):
    flat = np.full((16, 32, 3), 255, dtype=np.uint8)
    flat[:, :16] = 0
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    Image.fromarray(flat).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = read_image(tmp_path / "turned.jpg")
    assert upright.shape == (32, 16, 3) and upright[:12].max() < 60 and upright[20:].min() > 200


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_images_are_named(tmp_path, read, content):
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"odd\.png cannot be decoded as an image; .* {len(content)} bytes"):
        read(tmp_path / "odd.png")


@pytest.mark.parametrize("read", [read_image, read_mask, frames, frame_rate])
def test_missing_files_are_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read(tmp_path / "gone.png")


def test_read_mask_returns_grey_values_unchanged(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK)


def test_read_mask_returns_the_indices_of_a_palette(tmp_path):
    image = Image.fromarray(MASK).convert("L")
    indexed = Image.frombytes("P", image.size, image.tobytes())
    indexed.putpalette([value for i in range(256) for value in (i * 7 % 256, i * 3 % 256, 255 - i)])
    indexed.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), MASK)
    indexed.save(tmp_path / "clear.png", transparency=0)
    np.testing.assert_array_equal(read_mask(tmp_path / "clear.png"), MASK)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_read_mask_does_not_stretch_few_bits(tmp_path, bits):
    mask = np.arange(16, dtype=np.uint8).reshape(2, 8) % 2**bits
    planes = (mask[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1
    packed = np.packbits(planes.reshape(2, -1), axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))),
        (b"IEND", b""),
    ]
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_masks_of_colors_raise_with_the_remedy(tmp_path, picture):
    write_image(tmp_path / "colors.png", picture)
    with pytest.raises(ValueError, match=r"colors\.png holds 3 channels; expected a single-channel PNG of class ids"):
        read_mask(tmp_path / "colors.png")


def test_masks_of_16_bits_are_read_while_ids_fit(tmp_path):
    cv2.imwrite(str(tmp_path / "mask.png"), MASK.astype(np.uint16))
    mask = read_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK)
    cv2.imwrite(str(tmp_path / "mask.png"), MASK.astype(np.uint16) + 1)
    with pytest.raises(ValueError, match=r"mask\.png holds uint16 values up to 256"):
        read_mask(tmp_path / "mask.png")


def test_write_image_makes_folders_and_leaves_one_rgb_file(tmp_path, picture):
    write_image(tmp_path / "new" / "folder" / "a.PNG", picture)
    assert names(tmp_path / "new" / "folder") == ["a.PNG"]
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "new" / "folder" / "a.PNG")), picture)


def test_write_image_keeps_class_ids_single_channel(tmp_path):
    write_image(tmp_path / "mask.png", MASK)
    assert Image.open(tmp_path / "mask.png").mode == "L"
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), MASK)


@pytest.mark.parametrize("name", ["a.xyz", "a"])
def test_unknown_suffixes_are_named(tmp_path, picture, name):
    with pytest.raises(ValueError, match=rf"{name}: OpenCV writes no .* choose \.png"):
        write_image(tmp_path / name, picture)
    assert names(tmp_path) == []


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 1), (0, 4, 3), (4,)])
def test_arrays_that_are_no_pictures_raise(tmp_path, shape):
    with pytest.raises(ValueError, match=r"a picture is \(H, W, 3\) or \(H, W\) uint8"):
        write_image(tmp_path / "a.png", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="float64"):
        write_image(tmp_path / "a.png", np.zeros((4, 4, 3)))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_bytes(tmp_path / "a.png", b"old")
    write = Path.write_bytes

    def write_half(path, data):
        write(path, data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(tmp_path / "a.png", b"the new content")
    assert (tmp_path / "a.png").read_bytes() == b"old" and names(tmp_path) == ["a.png"]


COLORS = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (128, 128, 128)]


@pytest.mark.parametrize("size", [(48, 64), (47, 63)], ids=["even", "odd"])
def test_videos_return_frame_by_frame_in_rgb(tmp_path, size):
    with VideoWriter(tmp_path / "new" / "a.mp4", 12.5) as video:
        for color in COLORS:
            video.write(np.full((*size, 3), color, dtype=np.uint8))
    assert names(tmp_path / "new") == ["a.mp4"]
    found = list(frames(tmp_path / "new" / "a.mp4"))
    assert [frame.shape for frame in found] == [(48, 64, 3)] * 4  # an odd side is padded, not cropped
    for frame, color in zip(found, COLORS, strict=True):
        np.testing.assert_allclose(frame.reshape(-1, 3).mean(axis=0), color, atol=12)
        assert frame.std(axis=(0, 1)).max() < 8
    assert frame_rate(tmp_path / "new" / "a.mp4") == pytest.approx(12.5)


def test_a_video_that_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="no more"), VideoWriter(tmp_path / "a.mp4", 10) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
        assert (tmp_path / "a.mp4").read_bytes() == b"old" and len(names(tmp_path)) == 2
        raise RuntimeError("no more")
    assert (tmp_path / "a.mp4").read_bytes() == b"old" and names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("a.mp4", [], "no frame was written to .*a.mp4"),
        ("a.mp4", [(32, 32, 3), (32, 34, 3)], r"a.mp4 takes frames of \(32, 32, 3\), not \(32, 34, 3\)"),
        ("a.mp4", [(32, 32)], r"a frame is \(H, W, 3\) uint8, not \(32, 32\)"),
        ("a.webm", [(32, 32, 3)], "a.webm: OpenCV writes no MPEG-4 video"),
    ],
)
def test_videos_that_cannot_be_written_raise_and_leave_nothing(tmp_path, name, shapes, message):
    with pytest.raises(ValueError, match=message), VideoWriter(tmp_path / name, 10) as video:
        for shape in shapes:
            video.write(np.zeros(shape, np.uint8))
    assert names(tmp_path) == []


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_speed_that_is_not_positive_raises(tmp_path, rate):
    with pytest.raises(ValueError, match="frames_per_second must be positive"):
        VideoWriter(tmp_path / "a.mp4", rate)


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_files_that_are_no_videos_raise_at_the_call(tmp_path, content):
    (tmp_path / "odd.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.mp4 cannot be decoded as a video"):
        frames(tmp_path / "odd.mp4")


def test_a_video_without_a_stated_rate_gets_the_default(tmp_path, monkeypatch):
    class Capture:
        def get(self, _):
            return 0.0

        def release(self):
            pass

    monkeypatch.setattr(videos, "_open_video", lambda path: (Capture(), None))
    assert frame_rate(tmp_path / "a.mp4", default=15) == 15
