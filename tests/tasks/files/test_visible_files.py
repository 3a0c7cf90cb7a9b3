"""Whose files they are: what systems and programs leave in folders is no picture in any data set."""

import logging

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.data.folders import FolderData, image_names
from tasks.data.imagenet import ImageNetData, synsets
from tasks.data.masks import MaskFolders
from tasks.files.file_lists import list_files
from tasks.files.images import IMAGE_SUFFIXES, is_image, read_image
from tasks.files.visible_files import is_hidden, suffix_counts, visible_files
from tasks.inspection.duplicates import unnamed_images
from tasks.values.errors import DataError
from tests.tasks.conftest import NAMES, write_masks

HIDDEN = (
    "._a.jpg", ".hidden.png", ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/._a.jpg", "__MACOSX/b/a.jpg",
    "@eaDir/a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "deep/.git/a.png",
)  # fmt: skip


def litter(folder) -> None:
    for name in HIDDEN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no picture")


def test_hidden_files_are_left_out(tmp_path):
    litter(tmp_path)
    for name in ("b.jpg", "deep/a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [str(path.relative_to(tmp_path)) for path in visible_files(tmp_path)] == ["b.jpg", "deep/a.png", "notes.txt"]
    assert is_hidden("THUMBS.DB") and not is_hidden("thumbs.png")
    assert list(image_names(tmp_path)) == ["b.jpg", "deep/a.png"]


def test_a_folder_that_is_hidden_itself_may_be_the_source(tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.png").write_bytes(b"")
    assert [path.name for path in visible_files(tmp_path / ".cache")] == ["a.png"]


def test_no_data_set_takes_hidden_files(tmp_path, caplog):
    write_masks(tmp_path / "masks")
    picture = np.zeros((8, 8, 3), np.uint8)
    for folder in (tmp_path / "masks").glob("*/*"):
        litter(folder)
    with caplog.at_level(logging.WARNING):
        data = MaskFolders(str(tmp_path / "masks"), NAMES, crop_size=[8, 8])
        assert [len(data.pairs(split)) for split in ("train", "val")] == [6, 3]
        assert unnamed_images(data) == []
    assert not caplog.messages
    for place in ("train/a", "val/a", f"flat/{synsets()[0]}"):
        (tmp_path / place).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / place / "1.png"), picture)
        litter((tmp_path / place).parent)
    assert FolderData(str(tmp_path)).classes.names == ("a", "deep")
    (tmp_path / "official").mkdir()
    cv2.imwrite(str(tmp_path / "official" / "ILSVRC2012_val_00000001.png"), picture)
    (tmp_path / "official" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "val.txt").write_text(f"{synsets()[3]}\n")
    samples = ImageNetData(str(tmp_path), val="official").samples("val")
    assert [samples.label(0), len(samples)] == [3, 1]


def test_what_is_passed_over_is_counted(tmp_path, caplog):
    write_masks(tmp_path / "masks")
    for name in ("a.heic", "b.HEIC", "notes.txt", "LICENSE"):
        (tmp_path / "masks" / "val" / "images" / name).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        MaskFolders(str(tmp_path / "masks"), NAMES, crop_size=[8, 8]).pairs("val")
    (line,) = caplog.messages
    _, _, counts = line.partition("val/images: passed over ")
    assert counts.startswith("2 .heic, ") and {*counts.split(", ")} == {"2 .heic", "1 .txt", "1 without suffix"}
    assert suffix_counts(["a.MOV", "b.mov", "c"]) == "2 .mov, 1 without suffix"

    caplog.clear()
    for split in ("train", "val"):
        (tmp_path / "folders" / split / "cat").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "folders" / split / "cat" / "1.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "folders/train/cat/2.tga").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert len(FolderData(str(tmp_path / "folders")).samples("train")) == 1
    assert caplog.messages == [f"{tmp_path}/folders/train: passed over 1 .tga"]


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    with pytest.raises(DataError, match="holds no files; expected images"):
        list_files(tmp_path, is_image, what="images")
    for name in ("a.tga", "b.tga", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"holds 2 \.tga, 1 \.txt files; expected images"):
        list_files(tmp_path, is_image, what="images")


WRITTEN_BY = {".jfif": ".jpg", ".jpe": ".jpg", ".mpo": ".jpg", ".apng": ".png", ".avifs": ".avif", ".sr": ".ras",
              ".dib": ".bmp"}  # fmt: skip


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_that_is_looked_for_is_decoded(tmp_path, suffix):
    picture = np.full((16, 24, 3), 200, np.uint8)
    written = tmp_path / f"a{WRITTEN_BY.get(suffix, suffix)}"
    if written.suffix == ".ras":
        cv2.imwrite(str(written), picture)
    else:
        Image.fromarray(picture).save(written)
    target = written.rename(tmp_path / f"b{suffix}")
    assert is_image(target) and abs(read_image(target).astype(int) - picture).max() <= 4
