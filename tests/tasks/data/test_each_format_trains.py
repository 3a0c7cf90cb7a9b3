"""Every form of data with boxes or masks goes through a step of training and an evaluation."""

import lightning
import numpy as np
import pytest

from tasks.base.build import build_data, build_task, connect
from tasks.data.coco import CocoData
from tasks.data.masks import MaskFolders
from tasks.files.writing import write_image
from tasks.inspection.converted import Layout, write_converted
from tests.tasks.conftest import NAMES, composed, write_masks
from tests.tasks.data import test_described_masks as described
from tests.tasks.data.test_segmentation_data import write_cityscapes
from tests.tasks.data.written_formats import (
    write_cvat,
    write_flat_voc,
    write_labelme,
    write_roboflow_coco,
    write_yolo,
)  # fmt: skip
from tests.tasks.detection.test_task import write_shapes

SHAPES = [[("cat", [[2, 2], [50, 2], [50, 36]])], [("dog", [[5, 5], [40, 9], [22, 39]])]]
DETECTION = {"yolo": write_yolo, "labelme": write_labelme, "voc": write_flat_voc, "cvat": write_cvat,
             "coco": write_roboflow_coco}  # fmt: skip
SEGMENTATION = ("cityscapes", "voc_masks", "ade20k", "coco_masks", "yolo_masks", "labelme_masks", "cvat_masks", "masks")


def boxes(root, name: str) -> list[str]:
    write_shapes(root / "source", train=2, val=2)
    source = CocoData(str(root / "source"), num_workers=0)
    for split in ("train", "val"):
        DETECTION[name](root / "data", split, source.ground_truth(split), source.folders[split])
    return ["data.image_size=64"]


def masks(root, name: str) -> list[str]:
    """Write a set; returns the settings that it needs."""
    named = f"data.class_names=[{','.join(NAMES)}]"
    ids = np.random.default_rng(0).integers(1, 30, (40, 60)).astype(np.uint8)
    if name == "cityscapes":
        for split in ("train", "val"):
            write_cityscapes(root / "data", {f"bonn_00000{k}_000019": ids for k in (0, 1)}, split)
    elif name == "ade20k":
        for split in ("training", "validation"):
            for k in (1, 2):
                write_image(root / f"data/images/{split}/{k}.jpg", np.zeros((40, 60, 3), np.uint8))
                write_image(root / f"data/annotations/{split}/{k}.png", ids)
    elif name in ("labelme_masks", "cvat_masks"):
        getattr(described, f"write_{name.removesuffix('_masks')}")(root / "data", SHAPES)
    else:
        folder = root / ("data" if name == "masks" else "source")
        write_masks(folder, train=2, val=2)
        if name != "masks":
            source = MaskFolders(str(folder), list(NAMES), crop_size=32, num_workers=0)
            layout = Layout(name if name == "voc_masks" else name.removesuffix("_masks"))
            write_converted(source, root / "data", layout=layout)
        return [named] if name in ("masks", "voc_masks") else []
    return []


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "write", "name"),
    [("detection", boxes, name) for name in DETECTION] + [("segmentation", masks, name) for name in SEGMENTATION],
)
def test_each_form_trains_and_is_evaluated(tmp_path, kind, write, name):
    settings = write(tmp_path, name)
    if kind == "segmentation":
        settings += ["data.crop_size=32"]
    config = composed(
        "train", f"task={kind}", "backbone=mnv1_025", f"data={name}", *settings,
        f"data.root={tmp_path / 'data'}", "data.batch_size=2", "data.num_workers=0",
    )  # fmt: skip
    data = build_data(config)
    task = build_task(config, data.classes)
    connect(task, data)
    before = {key: value.clone() for key, value in task.network.named_parameters()}
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 1 and task.validated_images == 2
    assert any((before[key] != value).any() for key, value in task.network.named_parameters())
    assert 0 <= trainer.callback_metrics[task.monitor] <= 1 and np.isfinite(trainer.callback_metrics["val/loss"])
