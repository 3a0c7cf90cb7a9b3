"""The masks of Pascal VOC and ADE20K in their own folders, masks in colours, and names of masks that end otherwise."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.data.ade20k import Ade20kData
from tasks.data.masks import MaskFolders
from tasks.data.voc_masks import VOC_MASK_CLASSES, VocMasks, voc_palette
from tasks.files.writing import write_class_ids
from tasks.inspection.check import check
from tasks.values.errors import DataError
from tests.tasks.data.test_yolo import picture, text

OPTIONS = {"crop_size": [32, 32], "batch_size": 1, "num_workers": 0}


def png(file, pixels) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file)


def write_voc_masks(root, mask, names=("train", "val")) -> None:
    for name in names:
        picture(root / f"JPEGImages/{name}_1.jpg", np.shape(mask))
        (root / "SegmentationClass").mkdir(exist_ok=True)
        write_class_ids(
            root / f"SegmentationClass/{name}_1.png", np.asarray(mask, np.uint8), np.array(voc_palette(256))
        )
        text(root / f"ImageSets/Segmentation/{name}.txt", f"{name}_1\r\n")


def test_voc(tmp_path):
    ids = np.zeros((20, 30), np.uint8)
    ids[:4], ids[4:6], ids[6:9] = 15, 255, 20
    write_voc_masks(tmp_path / "VOC2012", ids)
    data = VocMasks(str(tmp_path / "VOC2012"), **OPTIONS)
    data.setup("fit")
    assert data.classes.names == VOC_MASK_CLASSES and data.classes.palette[15] == (192, 128, 128)
    assert (data.dataset("val").read(0)[1] == ids).all()
    assert [part["problems"] for part in check(data, ("train", "val")).values()] == [[], []]
    both = VocMasks(str(tmp_path), train_sets=["VOC2012/train", "VOC2012/val"], val_sets="VOC2012/val", **OPTIONS)
    assert len(both.dataset("train")) == 2 and len(both.dataset("val")) == 1


def test_a_voc_mask_of_16_bits_and_a_foreign_id(tmp_path):
    write_voc_masks(tmp_path, np.zeros((20, 30)))
    cv2.imwrite(str(tmp_path / "SegmentationClass/val_1.png"), np.full((20, 30), 3, np.uint16))
    data = VocMasks(str(tmp_path), **OPTIONS)
    assert (data.dataset("val").read(0)[1] == 3).all()
    png(tmp_path / "SegmentationClass/val_1.png", np.full((20, 30), 21))
    with pytest.raises(DataError, match=r"val_1\.png holds the class id 21; the data set defines 0-20"):
        data.dataset("val").read(0)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("ImageSets/Segmentation/val.txt", r"no file .*Segmentation.val\.txt; .* data\.val_sets"),
        (
            "JPEGImages/val_1.jpg",
            r"val\.txt lists 1 of 1 names .* no file in .*JPEGImages, the first: val_1\.jpg",
        ),
        ("SegmentationClass/val_1.png", r"no file in .*SegmentationClass, the first: val_1\.png"),
    ],
)
def test_what_voc_lacks_is_named(tmp_path, gone, message):
    write_voc_masks(tmp_path, np.zeros((20, 30)))
    (tmp_path / gone).unlink()
    with pytest.raises(DataError, match=message):
        VocMasks(str(tmp_path), **OPTIONS).dataset("val")


def test_a_list_cannot_lead_out(tmp_path):
    write_voc_masks(tmp_path, np.zeros((20, 30)))
    text(tmp_path / "ImageSets/Segmentation/val.txt", "../../secret\n")
    with pytest.raises(DataError, match="leads out of the image folder"):
        VocMasks(str(tmp_path), **OPTIONS).dataset("val")


def test_ade20k(tmp_path):
    ids = np.zeros((20, 30), np.uint8)
    ids[:5], ids[5:9] = 150, 1
    for split in ("training", "validation"):
        picture(tmp_path / f"images/{split}/ADE_1.jpg", (20, 30))
        png(tmp_path / f"annotations/{split}/ADE_1.png", ids)
    data = Ade20kData(str(tmp_path), **OPTIONS)
    data.setup("fit")
    mask = data.dataset("val").read(0)[1]
    assert [mask[0, 0], mask[6, 0], mask[12, 0]] == [149, 0, 255]
    assert len(data.classes) == 150 and data.classes.names[149] == "flag" and data.classes.palette[0] == (120,) * 3
    mask = Ade20kData(str(tmp_path), class_names=["flag"], **OPTIONS).dataset("train").read(0)[1]
    assert [mask[0, 0], mask[6, 0], mask[12, 0]] == [0, 255, 255]
    with pytest.raises(ValueError, match=r"'fog' is no class of ADE20K; expected wall, building"):
        Ade20kData(str(tmp_path), class_names=["fog"], **OPTIONS)
    png(tmp_path / "annotations/validation/ADE_1.png", ids + 1)
    with pytest.raises(DataError, match=r"ADE_1\.png holds the class id 151; the data set defines 1-150"):
        data.dataset("val").read(0)


PALETTE = [[0, 0, 0], [128, 64, 0], [255, 255, 255]]
COLORED = np.array(PALETTE, np.uint8)[np.repeat([[0, 1, 2]], 20, 0).repeat(10, 1)]


def colored(root, mask=COLORED, **options) -> MaskFolders:
    for split in ("train", "val"):
        picture(root / split / "images/a.png", (20, 30))
        png(root / split / "masks/a.png", mask)
    return MaskFolders(str(root), ["road", "mud", "snow"], **OPTIONS, **options)


def test_masks_in_the_colours_of_a_palette(tmp_path):
    data = colored(tmp_path, palette=PALETTE)
    mask = data.dataset("val").read(0)[1]
    assert mask[0].tolist() == [0] * 10 + [1] * 10 + [2] * 10 and data.classes.palette[1] == (128, 64, 0)
    assert data.dataset("train")[(0, 0)]["mask"].shape == (32, 32)
    assert [part["problems"] for part in check(data, ("train", "val")).values()] == [[], []]
    opaque = np.dstack([COLORED, np.full((20, 30), 255, np.uint8)])
    assert (colored(tmp_path / "alpha", opaque, palette=PALETTE).dataset("val").read(0)[1] == mask).all()
    png(tmp_path / "val/masks/a.png", mask)  # class ids are read as such
    assert (data.dataset("val").read(0)[1] == mask).all()


def test_other_colours_are_named_or_ignored(tmp_path):
    strange = COLORED.copy()
    strange[3, :4] = 1, 2, 3
    with pytest.raises(DataError, match=r"a\.png has 4 px in colours of no class, the first \[1, 2, 3\]; exp"):
        colored(tmp_path, strange, palette=PALETTE).dataset("val").read(0)
    data = colored(tmp_path, strange, palette=PALETTE, ignore_colors=[[1, 2, 3]])
    assert data.dataset("val").read(0)[1][3].tolist() == [255] * 4 + [0] * 6 + [1] * 10 + [2] * 10
    with pytest.raises(DataError, match=r"data\.palette= repeats a colour"):
        colored(tmp_path, palette=[*PALETTE[:2], PALETTE[1]]).dataset("val").read(0)
    with pytest.raises(DataError, match="holds 3 channels; expected a single-channel PNG of class ids"):
        colored(tmp_path).dataset("val").read(0)


@pytest.mark.parametrize("suffix", ["_mask", "_mask.png"])
def test_masks_beside_their_images(tmp_path, suffix):
    for split in ("train", "val"):
        for name in ("a", "ä 2%"):
            picture(tmp_path / split / f"{name}.JPG", (20, 30))
            png(tmp_path / split / f"{name}_mask.png", np.ones((20, 30)))
    one = {f"{split}_{kind}": split for split in ("train", "val") for kind in ("images", "masks")}
    data = MaskFolders(str(tmp_path), ["a", "b"], **one, mask_suffix=suffix, **OPTIONS)
    assert [(image.name, mask.name) for image, mask in data.dataset("val").pairs] == [
        ("a.JPG", "a_mask.png"), ("ä 2%.JPG", "ä 2%_mask.png"),
    ]  # fmt: skip
    (tmp_path / "val/a_mask.png").unlink()
    with pytest.raises(DataError, match=r"1 image has no mask, the first: .*a\.JPG; expected a_mask\.\* in .*val"):
        MaskFolders(str(tmp_path), ["a", "b"], **one, mask_suffix=suffix, **OPTIONS).dataset("val")
    with pytest.raises(DataError, match=r"has no mask \*_label\.\*; expected that end \(set data\.mask_suffix\)"):
        MaskFolders(str(tmp_path), ["a", "b"], **one, mask_suffix="_label", **OPTIONS).dataset("train")
