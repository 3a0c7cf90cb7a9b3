"""Training on a GPU: what a step waits for, told on any machine, and whole runs where there is one."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from heads.sparse_gradient import SparseGradientConv
from tasks.base.build import build_data, build_task
from tasks.training.fit import fit
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import NAMES, composed, write_masks
from tests.tasks.detection.test_task import write_shapes

BOXES = ("task=detection", "data=coco", "data.image_size=[64,64]")
TASKS = {
    "segmentation": ("task=segmentation", "data=masks", f"data.class_names=[{','.join(NAMES)}]",
                     "data.crop_size=[32,32]"),
    "ssdlite": BOXES,
    "ssdlite_tv": (*BOXES, "head=ssdlite_tv"),
    "gfl_lite": (*BOXES, "head=gfl_lite"),
    "classification": ("task=classification", "data=folders", "data.image_size=32"),
}  # fmt: skip
SHAPE = {"nonzero", "masked_select", "_unique2", "unique_dim", "repeat_interleave"}  # depends on values
VALUE = {"_local_scalar_dense", "is_nonzero", "equal"}  # read by Python


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("device")
    write_masks(root / "segmentation", train=4, size=(40, 48))
    write_shapes(root / "boxes", train=5, val=3)
    write_folders(root / "classification", train=2, val=1, size=(40, 40))
    return root


def words(task: str, data: Path, *more: str) -> tuple[str, ...]:
    root = data / ("boxes" if TASKS[task][0] == "task=detection" else task)
    return (
        *TASKS[task], "backbone=mnv1_025", f"data.root={root}", "data.num_workers=0", "data.batch_size=2",
        "tensorboard=false", *more,
    )  # fmt: skip


class Waits(TorchDispatchMode):
    """Count the operators that a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else [])
        )
        self.seen[name] += name in SHAPE | VALUE or masks
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("task", "waits"),
    [
        ("classification", {}),
        ("segmentation", {"_local_scalar_dense": 2}),  # of masks on a CPU alone: are their values classes?
        ("ssdlite", {"nonzero": 2}),  # anchors that match, and those that mining keeps
        ("ssdlite_tv", {"nonzero": 2}),
        ("gfl_lite", {"nonzero": 1}),
    ],
)
def test_a_step_waits_for_the_device_only_where_a_shape_depends_on_the_matches(data, task, waits):
    config = composed("train", *words(task, data))
    module = build_data(config)
    module.setup("fit")
    built = build_task(config, module.classes, pretrained=False).train()
    for layer in built.modules():
        if isinstance(layer, SparseGradientConv):  # a CPU's own backward pass
            layer.__class__ = nn.Conv2d
    batch = next(iter(module.train_dataloader()))
    with Waits() as found:
        batch = built.augment_batch(batch)
        losses = built.loss(built(batch["images"]), batch)
        torch.stack(list(losses.values())).sum().backward()
    assert +found.seen == waits


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_on_a_gpu_is_as_on_a_cpu(data, tmp_path, monkeypatch, task, precision):
    """Losses of the validation after an epoch: in 32 bits within 1 %, in half precision within 10 %."""
    losses = {}
    for accelerator, bits in (("cpu", "32-true"), ("gpu", precision)):
        monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
        trainer = f"trainer.accelerator={accelerator}", f"trainer.precision={bits}", "trainer.max_epochs=1"
        losses[accelerator] = fit(
            composed("train", *words(task, data, *trainer, f"output_dir={tmp_path / accelerator}"))
        )
    rtol = 0.01 if precision == "32-true" else 0.1
    torch.testing.assert_close(losses["gpu"]["val/loss"], losses["cpu"]["val/loss"], rtol=rtol, atol=rtol)
