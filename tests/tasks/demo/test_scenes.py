"""The demo data: same bytes for the same seed, masks and boxes that fit the pictures, folders nobody loses."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tasks.demo.canvas import Canvas, Material, Scene, box
from tasks.demo.files import CITYSCAPES_IDS, COCO_CATEGORIES, IMAGENET_CLASSES
from tasks.demo.painting import paint_street
from tasks.demo.scenes import draw_demo_data

TRAIN, VAL = 24, 6
CLASSES = {"road": 7, "sidewalk": 8, "building": 11, "sign": 20, "vegetation": 21, "sky": 23, "person": 24, "car": 26}
VOID = {0, 1}
GREY = Material((0, 1), (0, 0), (0.2, 0.8))


def draw(root: Path, num_train: int = 2, num_val: int = 1, **options) -> Path:
    return draw_demo_data(root, num_train=num_train, num_val=num_val, **{"progress": silent, **options})


def silent(pictures, description):
    return pictures


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image[..., ::-1] if image.ndim == 3 else image


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("demo") / "data", TRAIN, VAL)


@pytest.fixture(scope="module")
def scenes(demo) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, H, W, 3) and label ids (N, H, W) of the training scenes."""
    pictures = sorted((demo / "cityscapes/leftImg8bit/train/demo").iterdir())
    labels = sorted((demo / "cityscapes/gtFine/train/demo").iterdir())
    return np.stack([read(path) for path in pictures]), np.stack([read(path) for path in labels])


@pytest.fixture(scope="module")
def coco(demo) -> COCO:
    return COCO(str(demo / "coco/annotations/instances_train2017.json"))


# --- drawing


def test_part_map_is_exact_to_the_pixel():
    canvas = Canvas(np.random.default_rng(0), (12, 16))
    canvas.begin("ground")
    canvas.fill(GREY, box(0, 12, 16, 0))
    canvas.begin("thing")
    canvas.fill(GREY, box(3, 9, 7, 4))
    expected = np.ones((12, 16), np.uint8)
    expected[4:9, 3:7] = 2
    np.testing.assert_array_equal(canvas.finish().parts, expected)


def test_a_pixel_belongs_to_what_covers_half_of_it():
    canvas = Canvas(np.random.default_rng(0), (12, 16))
    canvas.begin("thing")
    canvas.fill(GREY, box(3.6, 9, 7, 4.6))
    expected = np.zeros((12, 16), np.uint8)
    expected[4:9, 3:7] = 1
    expected[4, 3] = 0  # a quarter of this one
    np.testing.assert_array_equal(canvas.finish().parts, expected)


def test_what_stands_nearer_is_painted_over_what_stands_behind():
    ordered = []
    for index in range(12):
        scene = paint_street(np.random.default_rng(index), (128, 256), {"car": 3, "person": 2})
        objects = [part for part, kind in enumerate(scene.kinds) if kind in ("car", "person")]
        feet = [np.nonzero(scene.parts == part)[0].max() for part in objects]
        ordered += [later >= earlier for earlier, later in pairwise(feet)]
    assert np.mean(ordered) > 0.9  # a foot may be hidden itself


def test_objects_are_wide_and_tall_enough_to_be_found():
    objects = {"car": 3, "person": 3, "sign": 2}
    for index in range(12):
        scene = paint_street(np.random.default_rng(index), (128, 256), objects)
        for part, kind in enumerate(scene.kinds):
            if kind in objects:
                rows, columns = np.nonzero(scene.parts == part)
                assert np.ptp(rows) >= 13, (index, kind)
                assert np.ptp(columns) >= 9, (index, kind)


# --- determinism


def test_same_arguments_give_the_same_bytes(tmp_path):
    first, second = (files(draw(tmp_path / name)) for name in ("first", "second"))
    assert first == second


def test_other_vector_instructions_give_the_same_bytes(tmp_path):
    """As on a machine without AVX2, where OpenCV and NumPy round sums of fractions differently."""
    code = (
        "import sys; from tasks.demo.scenes import draw_demo_data; draw_demo_data(sys.argv[1], num_train=5, num_val=1)"
    )
    plain = {
        "OPENCV_CPU_DISABLE": "AVX2,FMA3,AVX,SSE4.2",
        "OPENCV_IPP": "disabled",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
    }
    command = [sys.executable, "-c", code, str(tmp_path / "plain")]
    subprocess.run(command, env={**os.environ, **plain}, check=True, capture_output=True)
    assert files(tmp_path / "plain") == files(draw(tmp_path / "here", 5))


@pytest.mark.long
def test_a_picture_depends_only_on_seed_split_and_number(demo, tmp_path):
    few, many = files(draw(tmp_path / "few")), files(demo)
    pictures = [name for name in few if not name.endswith(".json")]
    assert len(pictures) == 3 * 4  # one of them a label map
    assert all(few[name] == many[name] for name in pictures)


def test_seeds_and_splits_draw_from_different_streams(demo, tmp_path):
    zero, one = files(demo), files(draw(tmp_path / "one", seed=1))
    assert not [name for name in one if name.endswith(("jpg", "png", "JPEG")) and one[name] == zero[name]]
    for first in (
        "cityscapes/leftImg8bit/train/demo/demo_000000_000019_leftImg8bit.png",
        "coco/train2017/000000000001.jpg",
    ):
        assert zero[first] != zero[first.replace("train", "val")]


# --- layout


def test_layout_is_that_of_the_real_sets(demo):
    expected = {"demo.json"}
    for split, count in (("train", TRAIN), ("val", VAL)):
        expected.add(f"coco/annotations/instances_{split}2017.json")
        for index in range(count):
            scene = f"{split}/demo/demo_{index:06d}_000019"
            expected.add(f"cityscapes/leftImg8bit/{scene}_leftImg8bit.png")
            expected.add(f"cityscapes/gtFine/{scene}_gtFine_labelIds.png")
            expected.add(f"coco/{split}2017/{1 + 3 * index:012d}.jpg")
            synset = sorted(IMAGENET_CLASSES)[index % len(IMAGENET_CLASSES)]
            expected.add(f"imagenet/{split}/{synset}/{synset}_{index // len(IMAGENET_CLASSES) + 1}.JPEG")
    assert set(files(demo)) == expected


def test_description_records_how_it_was_drawn(demo):
    description = json.loads((demo / "demo.json").read_text())
    del description["version"]
    assert description == {"seed": 0, "num_train": TRAIN, "num_val": VAL, "image_size": [128, 256]}


def test_image_size_is_height_and_width(tmp_path):
    root = draw(tmp_path / "data", image_size=(64, 96))
    for path in (root / "cityscapes").rglob("*.png"):
        assert read(path).shape[:2] == (64, 96)


def test_imagenet_pictures_are_small_and_coloured(demo):
    for path in (demo / "imagenet").rglob("*.JPEG"):
        image = read(path)
        assert image.shape == (96, 96, 3)
        assert image.std() > 12, f"{path} is nearly blank"


# --- segmentation


def test_label_maps_hold_cityscapes_ids_and_some_void(scenes):
    images, labels = scenes
    assert images.shape == (TRAIN, 128, 256, 3)
    assert labels.shape == (TRAIN, 128, 256)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == VOID | set(CLASSES.values())
    assert {kind: CITYSCAPES_IDS[kind] for kind in CLASSES} == CLASSES


def test_each_class_occurs_in_most_scenes(scenes):
    _, labels = scenes
    for name, label in CLASSES.items():
        seen = (labels == label).reshape(TRAIN, -1).sum(axis=1) >= 100
        assert seen.mean() >= 0.5, f"{name} occurs in {seen.sum()} of {TRAIN} scenes"


@pytest.mark.parametrize("shift", [(0, 3), (0, -3), (3, 0), (-3, 0)])
def test_masks_lie_on_the_edges_of_the_picture(scenes, shift):
    images, labels = scenes
    grey = images.astype(np.float32).mean(axis=-1)
    edges = np.abs(np.diff(grey, axis=2))[:, :-1] + np.abs(np.diff(grey, axis=1))[:, :, :-1]

    def contrast(masks):
        borders = (masks[:, :-1, :-1] != masks[:, :-1, 1:]) | (masks[:, :-1, :-1] != masks[:, 1:, :-1])
        return edges[borders].mean()

    assert contrast(labels) > 1.5 * contrast(np.roll(labels, shift, axis=(1, 2)))


def test_colours_alone_do_not_tell_the_classes(scenes):
    """The nearest class mean in RGB is right for well under half of the pixels of the classes that overlap most."""
    images, labels = scenes
    names = list(CLASSES)
    means = np.array([images[labels == CLASSES[name]].mean(axis=0) for name in names])
    shares = []
    for index, name in enumerate(names):
        pixels = images[labels == CLASSES[name]][::50].astype(np.float32)
        nearest = np.linalg.norm(pixels[:, None] - means, axis=-1).argmin(axis=1)
        shares.append((nearest == index).mean())
    assert np.mean(shares) < 0.45, dict(zip(names, np.round(shares, 2), strict=True))


def test_pictures_are_written_in_rgb(demo, scenes, coco):
    top = scenes[0][:, :8][scenes[1][:, :8] == CLASSES["sky"]].mean(axis=0)
    assert top[2] > top[0] + 10, "the sky is not blue"
    for annotation in coco.loadAnns(coco.getAnnIds(catIds=[13])):
        image = read(demo / "coco/train2017" / coco.imgs[annotation["image_id"]]["file_name"])
        red, _, blue = image[coco.annToMask(annotation) > 0].mean(axis=0)
        assert red > blue + 30, "a stop sign is not red"


# --- detection


def test_coco_file_has_the_real_form(demo, coco):
    content = coco.dataset
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    assert {entry["name"]: entry["id"] for entry in content["categories"]} == {
        "person": 1, "car": 3, "stop sign": 13, "dog": 18, "umbrella": 28}  # fmt: skip
    assert len(COCO_CATEGORIES) == 5
    assert {annotation["category_id"] for annotation in content["annotations"]} == {1, 3, 13, 18, 28}
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(set(ids)) == len(ids)
    assert min(ids) == 1  # pycocotools takes id 0 for "no match"
    assert len(content["images"]) == TRAIN
    for image in content["images"]:
        assert read(demo / "coco/train2017" / image["file_name"]).shape == (image["height"], image["width"], 3)
    assert len({(image["height"], image["width"]) for image in content["images"]}) > 1


def test_boxes_are_tight_and_inside_the_image(coco):
    for annotation in coco.dataset["annotations"]:
        image = coco.imgs[annotation["image_id"]]
        left, top, width, height = annotation["bbox"]
        assert left >= 0 and top >= 0 and left + width <= image["width"] and top + height <= image["height"]
        assert min(width, height) >= 10
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_allclose((left, top, left + width, top + height), found, atol=1)
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.02)


def test_some_images_are_empty_and_some_hold_crowds(coco):
    empty = [image for image in coco.imgs if not coco.getAnnIds(imgIds=[image])]
    crowds = [annotation for annotation in coco.dataset["annotations"] if annotation["iscrowd"]]
    assert 1 <= len(empty) <= TRAIN / 3
    assert 1 <= len(crowds) <= TRAIN / 3
    for annotation in crowds:
        assert annotation["category_id"] == 1
        assert coco.annToMask(annotation).sum() == annotation["area"]


def test_annotations_of_a_known_scene(tmp_path, monkeypatch):
    parts = np.ones((80, 120), np.uint8)
    parts[20:60, 30:100] = 2  # a car ...
    parts[10:80, 50:55] = 3  # ... behind a pole
    parts[40:70, 0:10] = 4
    scene = Scene(np.zeros((80, 120, 3), np.uint8), parts, ("void", "road", "car", "pole", "crowd", "dog"))
    monkeypatch.setattr("tasks.demo.files.paint_street", lambda *args, **kwargs: scene)
    monkeypatch.setattr("tasks.demo.files.CITYSCAPES_IDS", dict.fromkeys(scene.kinds, 0))
    root = draw(tmp_path / "data", 1, 1)
    coco = COCO(str(root / "coco/annotations/instances_train2017.json"))
    car, crowd = coco.dataset["annotations"]  # no dog: it is hidden
    assert (car["category_id"], car["bbox"], car["area"], car["iscrowd"]) == (3, [30, 20, 70, 40], 65 * 40, 0)
    assert (crowd["category_id"], crowd["bbox"], crowd["area"], crowd["iscrowd"]) == (1, [0, 40, 10, 30], 300, 1)
    assert len(car["segmentation"]) == 2  # one polygon on either side of the pole
    np.testing.assert_array_equal(coco.annToMask(car), parts == 2)
    np.testing.assert_array_equal(coco.annToMask(crowd), parts == 4)


def test_a_stop_sign_is_its_board_without_the_pole(coco):
    whole = [a["bbox"] for a in coco.loadAnns(coco.getAnnIds(catIds=[13])) if a["bbox"][0] > 0]
    ratios = [width / height for _, _, width, height in whole]
    assert np.median(ratios) == pytest.approx(1, abs=0.1)


# --- folders


def fail(pictures, description):
    raise AssertionError("drawn again")


def siblings(root: Path) -> list[str]:
    return sorted(path.name for path in root.parent.iterdir())


def test_second_call_does_nothing(tmp_path):
    root = draw(tmp_path / "data")
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert draw(root, progress=fail) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times
    assert siblings(root) == ["data"]


def test_parents_are_made_and_an_empty_folder_is_used(tmp_path):
    root = tmp_path / "some" / "where"
    root.mkdir(parents=True)
    assert (draw(root) / "demo.json").is_file()
    assert (draw(tmp_path / "else" / "where") / "demo.json").is_file()


@pytest.mark.parametrize("change", [{"seed": 1}, {"num_val": 2}, {"image_size": (64, 128)}])
def test_other_demo_data_is_refused(tmp_path, change):
    root = draw(tmp_path / "data")
    before = files(root)
    with pytest.raises(ValueError, match=r"data\.root"):
        draw(root, **change)
    assert files(root) == before


def test_another_version_is_refused(tmp_path, monkeypatch):
    root = draw(tmp_path / "data")
    monkeypatch.setattr("tasks.demo.scenes.VERSION", 1000)
    with pytest.raises(ValueError, match="1000"):
        draw(root)


@pytest.mark.parametrize("name, text", [("holiday.jpg", "dear to someone"), ("demo.json", "[not json")])
def test_a_foreign_folder_is_refused_and_kept(tmp_path, name, text):
    root = tmp_path / "data"
    root.mkdir()
    (root / name).write_text(text)
    with pytest.raises(ValueError, match=r"data does not hold(.|\n)*choose another data\.root"):
        draw(root)
    assert files(root) == {name: text.encode()}
    assert siblings(root) == ["data"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ValueError, match=r"data\.root"):
        draw(tmp_path / "data")


def test_failing_midway_leaves_nothing(tmp_path):
    def stop_midway(pictures, description):
        yield from pictures[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "data", progress=stop_midway)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed_of_the_winner", [0, 1])
def test_a_faster_process_wins(tmp_path, seed_of_the_winner):
    root = tmp_path / "data"

    def overtaken(pictures, description):
        yield from pictures
        draw(root, seed=seed_of_the_winner)

    if seed_of_the_winner == 0:
        assert draw(root, progress=overtaken) == root
    else:
        with pytest.raises(ValueError, match=r"data\.root"):
            draw(root, progress=overtaken)
    assert json.loads((root / "demo.json").read_text())["seed"] == seed_of_the_winner
    assert siblings(root) == ["data"]


@pytest.mark.parametrize("options", [{"seed": -1}, {"num_val": 0}, {"num_train": 0}, {"image_size": (32, 256)}])
def test_arguments_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="at least one image"):
        draw(tmp_path / "data", **options)
    assert list(tmp_path.iterdir()) == []
