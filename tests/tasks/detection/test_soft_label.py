"""NanoDet-Plus's assignment and loss, against the numbers that its own code gives for the same tensors.

They are of RangiLyu/nanodet be9b4a9: `NanoDetPlusHead.loss` and `DynamicSoftLabelAssigner.assign`, in float32.
"""

import numpy as np
import pytest
import torch

from backbones.base import Tap
from heads.gfl_lite import GFLLite, boxes_from_distances
from heads.soft_label_assignment import dynamic_soft_label
from tasks.base.build import build_task
from tasks.data.classes import Classes
from tasks.detection.gfl_loss import GFLLoss
from tools.cli import composed

SIZE = (64, 96)
TAPS = [Tap("c3", 8, 8), Tap("c4", 12, 16), Tap("c5", 16, 32)]


@pytest.fixture
def head():
    return GFLLite(TAPS, 3, channels=16, stacked=1, centred=False)


@pytest.fixture
def raw():
    random = np.random.RandomState(0)
    draws = {"class_logits": (-1, 1.5, (3, 128, 3)), "box_distributions": (0, 1.5, (3, 128, 32))}
    return {
        name: torch.from_numpy(random.normal(*draw).astype(np.float32)).requires_grad_() for name, draw in draws.items()
    }


@pytest.fixture
def batch():
    none = [[0, 0, 0, 0]]
    boxes = [[[4, 6, 40, 50], [20, 10, 90, 60], [22, 14, 60, 40]], [[30, 30, 36, 35], *2 * none], 3 * none]
    return {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor([[0, 2, 1], [1, -1, -1], [-1, -1, -1]])}


def test_the_summands_are_theirs(head, raw, batch):
    losses = GFLLoss(assignment="soft_label")(raw, batch, head, SIZE)
    expected = {"classification": 15.6980734, "boxes": 1.0086664, "distributions": 0.6746405}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-5)
    sum(losses.values()).backward()
    sums = [raw[name].grad.abs().sum().item() for name in ("class_logits", "box_distributions")]
    assert sums == pytest.approx([16.1942195892334, 1.6464425325393677], rel=1e-5)


def test_edges_beyond_the_last_bin_are_theirs(head, raw):
    """Boxes that fill the image, whose edges lie up to 11 strides from the points of the finest level."""
    none = [[0, 0, 0, 0]]
    batch = {"boxes": torch.tensor([[[0, 0, 96, 64]], [[1, 1, 90, 60]], none]).float(),
             "labels": torch.tensor([[0], [1], [-1]])}  # fmt: skip
    losses = GFLLoss(assignment="soft_label")(raw, batch, head, SIZE)
    expected = {"classification": 18.1176147, "boxes": 0.9440497, "distributions": 0.673345}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-5)


def test_the_assignment_is_theirs(head, raw, batch):
    with torch.no_grad():
        anchors = head.anchors(SIZE)
        predicted = boxes_from_distances(anchors, head.distances(raw["box_distributions"]))
        found = dynamic_soft_label(anchors, predicted, raw["class_logits"], batch["boxes"], batch["labels"])
    cells = [row.nonzero()[:, 0].tolist() for row in found.positive]
    assert cells == [[29, 43, 44, 49, 51, 52, 55, 62, 63, 65, 67, 68, 69], [52], []]
    owners = [3, 3, 2, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2]
    assert (found.boxes[0][cells[0]] + 1).tolist() == owners and found.boxes[1][52] == 0
    overlaps = [0.3812, 0.39426, 0.55511, 0.41702, 0.56832, 0.40552, 0.59637, 0.49525, 0.88965, 0.5065, 0.58895,
                0.73767, 0.52811]  # fmt: skip
    assert found.quality[0][cells[0]].tolist() == pytest.approx(overlaps, abs=1e-5)
    assert found.quality[1][52].item() == pytest.approx(0.01077, abs=1e-5)
    assert not found.quality[~found.positive].any() and not found.weight[~found.positive].any()


def test_without_boxes_it_is_finite_and_one_image_does_not_change_another(head, raw, batch):
    loss = GFLLoss(assignment="soft_label")
    none = {"boxes": torch.zeros(3, 2, 4), "labels": torch.full((3, 2), -1)}
    losses = loss(raw, none, head, SIZE)
    assert losses["boxes"] == losses["distributions"] == 0 and losses["classification"].isfinite()
    parts = [{name: x[n : n + 1] for name, x in raw.items()} for n in range(3)]
    alone = [
        loss(part, {name: x[n : n + 1] for name, x in batch.items()}, head, SIZE)["classification"]
        for n, part in enumerate(parts)
    ]
    whole = loss(raw, batch, head, SIZE)["classification"]
    torch.testing.assert_close(whole, (alone[0] * 13 + alone[1] + alone[2]) / 14)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"task\.loss\.assignment=otas: expected one of task_aligned, soft_label, "):
        GFLLoss(assignment="otas")


def test_a_head_without_suppression_is_refused_when_the_task_is_built():
    words = ["task=detection", "backbone=mnv1_025", "head=gfl_lite", "head.nms_free=true"]
    classes = Classes(("one",), ((0, 0, 0),))
    build_task(composed("train", words), classes)
    refused = composed("train", [*words, "task.loss.assignment=soft_label"])
    with pytest.raises(ValueError, match=r"soft_label .*, head\.nms_free=true .* set task\.loss\.assignment="):
        build_task(refused, classes)
