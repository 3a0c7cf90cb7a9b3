"""Polygons of LabelMe and CVAT as masks, against pycocotools."""

import base64
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as pycocotools_mask

from tasks.data.outlined_masks import CvatMasks, LabelmeMasks
from tasks.values.errors import DataError
from tests.tasks.data.test_cvat import document, image
from tests.tasks.data.test_labelme import write as write_labelme_file
from tests.tasks.data.test_yolo import picture, text

OPTIONS = {"crop_size": [32, 32], "batch_size": 1, "num_workers": 0}
SIZE = (40, 60)  # px of the images
Shapes = list[tuple[str, list[list[float]]]]  # class and corners


def write_labelme(root, images: list[Shapes]) -> None:
    for split in ("train", "val"):
        for number, shapes in enumerate(images):
            entries = [{"label": name, "points": corners, "shape_type": "polygon"} for name, corners in shapes]
            write_labelme_file(root / split / f"{number}.json", *entries)


def write_cvat(root, images: list[Shapes]) -> None:
    for split in ("train", "val"):
        texts = []
        for number, shapes in enumerate(images):
            points = [";".join(f"{x!r},{y!r}" for x, y in corners) for _, corners in shapes]
            parts = [f'<polygon label="{name}" points="{p}"/>' for (name, _), p in zip(shapes, points, strict=True)]
            texts.append(image(f"{number}.png", "".join(parts)))
            picture(root / split / f"images/{number}.png")
        text(root / split / "annotations.xml", document(*texts))


SETS = {"labelme": (write_labelme, LabelmeMasks), "cvat": (write_cvat, CvatMasks)}


def drawn(shapes: Shapes, names: list[str]) -> np.ndarray:
    """What `COCO.annToMask` makes of each shape, the ids being places in `names`; 255 where two meet."""
    ids, times = np.zeros(SIZE, np.uint8), np.zeros(SIZE, int)
    for name, corners in shapes:
        if name in names:
            rle = pycocotools_mask.frPyObjects([np.ravel(corners).tolist()], *SIZE)
            mask = pycocotools_mask.decode(pycocotools_mask.merge(rle)).astype(bool)
            ids[mask] = names.index(name)
            times += mask
    ids[times > 1] = 255
    return ids


@pytest.mark.parametrize("kind", SETS)
def test_masks_equal_pycocotools(tmp_path, kind):
    write, reader = SETS[kind]
    random = np.random.default_rng(0)
    images = [
        [
            (str(random.choice(["cat", "dog"])), (random.uniform(-0.1, 1.1, (n, 2)) * SIZE[::-1]).tolist())
            for n in random.integers(3, 8, number % 4)
        ]
        for number in range(12)
    ]
    assert [] in images
    write(tmp_path, images)
    for names in (["background", "cat", "dog"], ["background", "dog"]):
        data = reader(str(tmp_path), class_names=names[1:] if len(names) < 3 else None, **OPTIONS)
        data.setup("fit")
        assert list(data.classes.names) == names
        seen = set()
        for split in ("train", "val"):
            masks = {data.dataset(split).file(k): data.dataset(split).read(k)[1] for k in range(12)}
            for file, mask in masks.items():
                expected = drawn(images[int(file.rpartition("/")[2].partition(".")[0])], names)
                assert (mask == expected).all()
                seen |= set(np.unique(mask).tolist())
        assert seen >= {*range(len(names))} and (255 in seen or len(names) < 3)


@pytest.mark.parametrize("corners", [[], [[1, 2], [3, 4]]])
@pytest.mark.parametrize("kind", SETS)
def test_polygons_of_too_few_corners_are_named(tmp_path, kind, corners):
    write, reader = SETS[kind]
    write(tmp_path, [[("cat", [[1, 2], [9, 2], [9, 9]])], [("cat", corners)]])
    with pytest.raises(DataError, match=r"(1\.json: shape 1|image '1\.png').*expected 3 or more") as caught:
        reader(str(tmp_path), **OPTIONS).dataset("train")
    assert "\n" not in str(caught.value)


X, Y = np.arange(60) + 0.5, np.arange(40)[:, None] + 0.5
RING = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 1, 1]], bool)
PLACED = np.pad(RING, ((5, 32), (10, 46)))
PNG = base64.b64encode(cv2.imencode(".png", RING.astype(np.uint8))[1].tobytes()).decode()
CVAT_SHAPES = [  # shape, the px that it is
    ('<box label="cat" xtl="10" ytl="5" xbr="40" ybr="30"/>', (X > 10) & (X < 40) & (Y > 5) & (Y < 30)),
    ('<box label="cat" xtl="10" ytl="5" xbr="40" ybr="30" rotation="90"/>',
     (X > 12.5) & (X < 37.5) & (Y > 2.5) & (Y < 32.5)),
    ('<box label="cat" xtl="20" ytl="10" xbr="40" ybr="30" rotation="45"/>', abs(X - 30) + abs(Y - 20) < 200**0.5),
    ('<ellipse label="cat" cx="30" cy="20" rx="12" ry="5"/>', ((X - 30) / 12) ** 2 + ((Y - 20) / 5) ** 2 < 1),
    ('<ellipse label="cat" cx="30" cy="20" rx="12" ry="5" rotation="30"/>',
     (((X - 30) * 3**0.5 / 2 + (Y - 20) / 2) / 12) ** 2 + (((Y - 20) * 3**0.5 / 2 - (X - 30) / 2) / 5) ** 2 < 1),
    ('<mask label="cat" rle="0, 5, 2, 1, 1, 3" left="10" top="5" width="4" height="3"/>', PLACED),
]  # fmt: skip
LABELME_SHAPES = [
    ("rectangle", [[40, 30], [10, 5]], (X > 10) & (X < 40) & (Y > 5) & (Y < 30)),
    ("circle", [[30, 20], [30, 30]], (X - 30) ** 2 + (Y - 20) ** 2 < 100),
    ("oriented_rectangle", [[30, 6], [44, 20], [30, 34], [16, 20]], abs(X - 30) + abs(Y - 20) < 14),
    ("mask", [[10, 5], [13, 7]], PLACED),
]


def same_px(data, split: str, expected: np.ndarray) -> None:
    """Compare a mask with what it should be; px whose middle lies by the edge may differ."""
    mask = data.dataset(split).read(0)[1]
    assert data.classes.names == ("background", "cat") and set(np.unique(mask)) == {0, 1}
    edge = cv2.morphologyEx(expected.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
    assert ((mask == 1) == expected)[~edge | (expected is PLACED)].all()


@pytest.mark.parametrize(("shape", "expected"), CVAT_SHAPES, ids=range(len(CVAT_SHAPES)))
def test_every_shape_of_cvat_that_has_an_area_is_filled(tmp_path, shape, expected):
    for split in ("train", "val"):
        picture(tmp_path / split / "images/0.png")
        text(tmp_path / split / "annotations.xml", document(image("0.png", shape)).replace("<name>dog</name>", ""))
    same_px(CvatMasks(str(tmp_path), **OPTIONS), "train", expected)


@pytest.mark.parametrize(("kind", "points", "expected"), LABELME_SHAPES, ids=[row[0] for row in LABELME_SHAPES])
def test_every_shape_of_labelme_that_has_an_area_is_filled(tmp_path, kind, points, expected):
    shape = {"label": "cat", "points": points, "shape_type": kind, "mask": PNG if kind == "mask" else None}
    for split in ("train", "val"):
        write_labelme_file(tmp_path / split / "a.json", shape)
    same_px(LabelmeMasks(str(tmp_path), **OPTIONS), "val", expected)


def test_shapes_without_area_are_told_of_and_unknown_ones_refused(tmp_path):
    line = {"label": "dog", "points": [[1, 1], [9, 9]], "shape_type": "line"}
    cat = {"label": "cat", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
    for split in ("train", "val"):
        write_labelme_file(tmp_path / split / "a.json", cat)
        write_labelme_file(tmp_path / split / "b.json", cat, line)
    data = LabelmeMasks(str(tmp_path), **OPTIONS)
    (found,) = data.split_findings("train")
    assert "1 of 3 objects have no outline and are not in the masks, the first: " in found.text
    assert found.text.endswith("train/b.json: train/b.png")
    for wrong, message in (
        ({"shape_type": "cuboid"}, r"b\.json: shape 1 \(dog\) has the shape_type 'cuboid'; expected rectangle, circle"),
        (
            {"shape_type": "mask", "mask": "no PNG"},
            r"\(dog, mask\) has the mask no PNG; expected a PNG as base",
        ),
        ({"shape_type": "mask", "mask": "AAAA"}, r"\(dog, mask\) has the mask AAAA; expected a PNG"),
    ):
        write_labelme_file(tmp_path / "val/b.json", line | wrong)
        with pytest.raises(DataError, match=message):
            LabelmeMasks(str(tmp_path), **OPTIONS)


@pytest.mark.parametrize("counts", ["", "1, 2", "13", "-1, 13", "a", "12", "99999999999999999999"])
def test_run_lengths_of_cvat_that_are_no_mask_are_named(tmp_path, counts):
    mask = f'<mask label="cat" rle="{counts}" left="10" top="5" width="4" height="3"/>'
    for split in ("train", "val"):
        text(tmp_path / split / "annotations.xml", document(image("0.png", mask)))
    with pytest.raises(DataError, match=r"image '0\.png': a mask 'cat' has (rle=.* run lengths of 4x3 px|no px; exp)"):
        CvatMasks(str(tmp_path), **OPTIONS).source.annotations("train")


def test_a_file_that_is_torn_is_named(tmp_path):
    write_labelme(tmp_path, [[("cat", [[1, 2], [9, 2], [9, 9]])]])
    (tmp_path / "val/0.json").write_text(json.dumps({"shapes": None}))
    with pytest.raises(DataError, match=r"val/0\.json has no list 'shapes'"):
        LabelmeMasks(str(tmp_path), **OPTIONS)
