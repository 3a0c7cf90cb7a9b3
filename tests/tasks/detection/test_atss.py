"""ATSS and NanoDet's loss, against the numbers that NanoDet's own code gives for the same tensors.

They are of RangiLyu/nanodet be9b4a9: `NanoDetHead.loss` and `ATSSAssigner.assign`, in float32.
"""

import numpy as np
import pytest
import torch

from backbones.base import Tap
from heads.atss_assignment import adaptive
from heads.gfl_lite import GFLLite, boxes_from_distances
from tasks.detection.gfl_loss import GFLLoss

SIZE = (64, 96)
TAPS = [Tap("c3", 8, 8), Tap("c4", 12, 16), Tap("c5", 16, 32)]
NONE = [0, 0, 0, 0]
CASES = {
    "several": (
        [[[4, 6, 40, 50], [21, 10, 90, 61], [22, 13, 60, 40]], [[30, 29, 37, 35], NONE, NONE],
         [[5, 5, 60, 60], NONE, NONE]],
        [[0, 2, 1], [1, -1, -1], [-1] * 3],
        [{26: 0, 28: 2, 29: 2, 38: 0, 39: 0, 40: 2, 41: 2, 50: 0, 52: 2, 53: 2, 105: 1, 111: 1}, {}, {}],
        (15.486456871032715, 1.3474228382110596, 0.6487628817558289, 16.028779983520508, 1.0407021045684814),
    ),
    "large": (
        [[[0, 0, 96, 64], NONE], [[1, 1, 90, 60], [50, 3, 71, 33]], [NONE] * 2],
        [[0, -1], [1, 2], [-1] * 2],
        [{104: 0, 105: 0, 110: 0, 111: 0},
         dict.fromkeys((18, 19, 20, 30, 31, 32), 1) | dict.fromkeys((104, 105, 110, 111), 0), {}],
        (14.482046127319336, 1.338726282119751, 0.6820400953292847, 14.938384056091309, 1.058455228805542),
    ),
    "contested": (
        [[[4, 6, 60, 58], [8, 2, 53, 50], NONE], [[8, 2, 53, 50], [4, 6, 60, 58], [10, 7, 55, 62]], [NONE] * 3],
        [[0, 2, -1], [1, 0, 2], [-1] * 3],
        [dict.fromkeys((27, 28, 39, 40, 51), 1) | {52: 0},
         dict.fromkeys((27, 28, 39, 40), 0) | dict.fromkeys((51, 52, 63, 64), 2), {}],
        (14.461837768554688, 0.9867970943450928, 0.7023521065711975, 14.91811752319336, 1.401607632637024),
    ),
}  # fmt: skip


@pytest.fixture
def head():
    return GFLLite(TAPS, 3, channels=16, stacked=1, extra_level=False)


@pytest.fixture
def raw():
    random, cells = np.random.RandomState(0), 8 * 12 + 4 * 6 + 2 * 3
    draws = {"class_logits": (-1, 1.5, (3, cells, 3)), "box_distributions": (0, 1.5, (3, cells, 32))}
    return {
        name: torch.from_numpy(random.normal(*draw).astype(np.float32)).requires_grad_() for name, draw in draws.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_points_summands_and_gradients_are_theirs(case, head, raw):
    boxes, labels, expected, numbers = CASES[case]
    batch = {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}
    anchors = head.anchors(SIZE)
    predicted = boxes_from_distances(anchors, head.distances(raw["box_distributions"])).detach()
    found = adaptive(anchors, predicted, batch["boxes"], batch["labels"])
    for positive, owners, own in zip(found.positive, found.boxes, expected, strict=True):
        cells = positive.nonzero()[:, 0].tolist()
        assert dict(zip(cells, owners[cells].tolist(), strict=True)) == own
    losses = GFLLoss(assignment="atss")(raw, batch, head, SIZE)
    sum(losses.values()).backward()
    sums = [raw[name].grad.abs().sum().item() for name in ("class_logits", "box_distributions")]
    assert [*(losses[name].item() for name in ("classification", "boxes", "distributions")), *sums] == pytest.approx(
        numbers, rel=1e-5
    )


def test_without_a_box_it_is_finite(head, raw):
    none = {"boxes": torch.zeros(3, 2, 4), "labels": torch.full((3, 2), -1)}
    losses = GFLLoss(assignment="atss")(raw, none, head, SIZE)
    assert losses["boxes"] == losses["distributions"] == 0 and losses["classification"].isfinite()


def test_heads_that_it_does_not_suit_are_refused():
    loss = GFLLoss(assignment="atss")
    for options, message in (
        ({"nms_free": True}, r"assignment=atss assigns several points .*task_aligned or head\.nms_free=false"),
        ({"guided": True}, r"head\.guided=true guides nothing; set task\.loss\.assignment=soft_label"),
    ):
        with pytest.raises(ValueError, match=message):
            loss.check_head(GFLLite(TAPS, 3, channels=16, stacked=1, **options))
