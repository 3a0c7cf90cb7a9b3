"""One folder a class: which files count, which classes there are, what errors name; and the demo data through it."""

import os

import cv2
import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder

from tasks.base.build import build_data
from tasks.data.demo import demo_data
from tasks.data.folders import FolderData, ImageFiles
from tasks.values.errors import DataError
from tests.tasks.conftest import composed

OPTIONS = {"image_size": 32, "batch_size": 2, "val_batch_size": 3, "num_workers": 0}


def put(root, *names: str) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((20, 30, 3), 10 * number, np.uint8))


@pytest.fixture
def root(tmp_path):
    put(tmp_path, "train/dog/b.jpg", "train/dog/a.JPG", "train/dog/more/deep/c.png", "train/cat/a.jpeg",
        "val/dog/x.bmp", "val/cat/y.JPEG")  # fmt: skip
    (tmp_path / "train" / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "dog" / "._a.jpg").write_text("left by a Mac")
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path


def opened(root, **options) -> FolderData:
    return FolderData(str(root), **OPTIONS | options)


def test_samples_are_torchvisions_in_their_order(root):
    data = opened(root)
    files = data.dataset("train").samples
    assert data.classes.names == ("cat", "dog") and len(data.classes.palette) == 2
    names = [(files.name(i), files.label(i)) for i in range(len(files))]
    assert names == [("cat/a.jpeg", 0), ("dog/a.JPG", 1), ("dog/b.jpg", 1), ("dog/more/deep/c.png", 1)]
    (root / "train" / "dog" / "._a.jpg").unlink()
    (root / "train" / ".cache").rmdir()
    expected = ImageFolder(str(root / "train"))
    assert [(str(root / "train" / name), label) for name, label in names] == expected.samples
    assert files.encoded(1) == (root / "train/dog/a.JPG").read_bytes()


def test_names_of_any_kind_come_back(tmp_path):
    names = ["hund/größe 1.jpg", "hund/日本.png", "x/" + os.fsdecode(b"\xff.jpg")]
    files = ImageFiles(tmp_path, [(name, k) for k, name in enumerate(names)])
    assert [files.name(k) for k in range(3)] == names and [files.label(k) for k in range(3)] == [0, 1, 2]
    assert isinstance(files.names.text, bytes), "loader processes share it, a list of paths would be copied"
    with pytest.raises(DataError, match=r"größe 1\.jpg cannot be read: No such file"):
        files.encoded(0)


def test_a_validation_set_alone_can_be_evaluated(root):
    for path in sorted((root / "train").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "train").rmdir()
    data = opened(root)
    data.setup("validate")
    assert data.classes.names == ("cat", "dog") and len(data.dataset("val")) == 2
    with pytest.raises(DataError, match=r"no folder .*train; expected one folder of images for each class"):
        data.setup("fit")
    named = opened(root, class_names=["bird", "dog", "cat"])
    files = named.dataset("val").samples
    assert [(files.name(k), files.label(k)) for k in range(2)] == [("dog/x.bmp", 1), ("cat/y.JPEG", 2)]


def test_classes_can_be_chosen_and_named(root):
    data = opened(root, class_names={"dog": "Canis familiaris"}, batch_size=1)
    data.setup("fit")
    assert data.classes.names == ("Canis familiaris",) and len(data.dataset("train")) == 3
    assert len(data.dataset("val")) == 1
    with pytest.raises(ValueError, match=r"data\.class_names: 'dog' is named twice"):
        opened(root, class_names=["dog", "dog"])


def test_what_is_amiss_is_named(root, tmp_path):
    put(root, "val/horse/z.png")
    with pytest.raises(DataError, match=r"val/horse is a class that .*train lacks"):
        opened(root).dataset("val")
    (root / "train" / "horse").mkdir()
    data = opened(root)
    assert len(data.dataset("val")) == 3
    with pytest.raises(DataError, match=r"train/horse holds no images .*data\.class_names"):
        data.dataset("train")
    with pytest.raises(DataError, match=r"no folder .*nowhere/val; expected one folder of images"):
        opened(root / "nowhere")
    put(root / "flat", "train/a.png")
    with pytest.raises(DataError, match=r"flat/train holds no folders; expected one folder of images for each class"):
        opened(root / "flat")


def test_the_tool_checks_every_file(root, run_tool):
    command = f"tools/data.py action=check task=classification data=folders data.root={root}"
    status, out, _ = run_tool(command)
    assert status == 0 and "train" in out
    (root / "train/cat/a.jpeg").write_bytes(b"\xff\xd8 damaged")
    status, out, error = run_tool(command)
    assert status == 1 and "train/cat/a.jpeg cannot be decoded" in out and "1 problem;" in error


@pytest.mark.long
def test_demo_data_is_topped_up_where_it_was_drawn_for_less(tmp_path):
    options = {"root": str(tmp_path / "demo"), "num_train": 8, "num_val": 8}
    small = {"classification": OPTIONS}
    demo_data("detection", **options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.*") if path.is_file()}
    data = demo_data("classification", **options, **small, num_objects=[24, 16])
    data.setup("fit")
    assert data.classes.names[:3] == ("person", "dog", "bicycle")
    assert (len(data.dataset("train")), len(data.dataset("val"))) == (24, 16)
    assert np.bincount(data.dataset("val").samples.labels).tolist() == [2] * 8
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "nothing is drawn twice"
    assert len(list((tmp_path / "demo").iterdir())) == 4, "nothing is left beside the sets"
    more = demo_data("classification", root=str(tmp_path / "more"), num_train=24, num_val=16, **small)
    for path in more.folders["train"].rglob("*.JPEG"):
        assert (
            tmp_path / "demo/imagenet/train" / path.relative_to(more.folders["train"])
        ).read_bytes() == path.read_bytes()


def test_the_demo_file_serves_classification(tmp_path):
    data = build_data(composed("train", "task=classification", "data=demo", f"data.root={tmp_path / 'demo'}",
                               "data.num_train=1", "data.num_val=1", "data.num_objects=[40,8]"))  # fmt: skip
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape == (data.batch_size, 3, 96, 96) and batch["labels"].max() < data.num_classes == 8


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_plain_training_images_are_not_augmented(task, tmp_path):
    """int8 is calibrated on them."""
    data = build_data(composed("train", f"task={task}", "data=demo", f"data.root={tmp_path / 'demo'}",
                               "data.num_train=1", "data.num_val=1", "data.num_objects=[8,8]"))  # fmt: skip
    images = [data.plain_dataset("train")[(epoch, 0)]["image"] for epoch in range(4)]
    assert all(torch.equal(image, images[0]) for image in images)
    seen = [data.dataset("train")[(epoch, 0)]["image"] for epoch in range(4)]
    assert not all(image.shape == seen[0].shape and torch.equal(image, seen[0]) for image in seen)
