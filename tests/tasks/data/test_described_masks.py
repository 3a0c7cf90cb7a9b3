"""Polygons of LabelMe and CVAT as masks, against pycocotools."""

import json

import numpy as np
import pytest
from pycocotools import mask as pycocotools_mask

from tasks.data.errors import DataError
from tasks.data.outlined_masks import CvatMasks, LabelmeMasks
from tests.tasks.data.test_cvat import BOX, document, image
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


def test_boxes_alone_are_no_masks(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "images/0.png")
        text(tmp_path / split / "annotations.xml", document(image("0.png", BOX)))
    with pytest.raises(DataError, match="none of the 1 objects of train has an outline; expected polygons"):
        CvatMasks(str(tmp_path), **OPTIONS).dataset("train")


def test_a_circle_is_drawn_and_a_rectangle_told_of(tmp_path):
    circle = {"label": "cat", "points": [[30, 20], [30, 30]], "shape_type": "circle"}
    for split in ("train", "val"):
        box = {"label": "dog", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
        write_labelme_file(tmp_path / split / "a.json", circle, box)
    data = LabelmeMasks(str(tmp_path), **OPTIONS)
    mask = data.dataset("train").read(0)[1]
    assert np.unique(mask).tolist() == [0, 1] and (mask == 1).sum() == pytest.approx(100 * np.pi, rel=0.02)
    assert "1 of 2 objects have no outline and are not in the masks" in data.split_findings("train")[0].text


def test_a_file_that_is_torn_is_named(tmp_path):
    write_labelme(tmp_path, [[("cat", [[1, 2], [9, 2], [9, 9]])]])
    (tmp_path / "val/0.json").write_text(json.dumps({"shapes": None}))
    with pytest.raises(DataError, match=r"val/0\.json has no list 'shapes'"):
        LabelmeMasks(str(tmp_path), **OPTIONS)
