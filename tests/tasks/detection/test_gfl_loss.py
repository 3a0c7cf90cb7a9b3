"""Losses of the anchor-free head against torchvision, by hand, and learning one picture by heart."""

import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from backbones.base import Tap
from heads.gfl_lite import GFLLite, boxes_from_distances
from heads.point_assignment import task_aligned
from tasks.detection.gfl_loss import (
    GFLLoss,
    distribution_focal_loss,
    generalized_iou_loss,
    quality_focal_loss,
    varifocal_loss,
)

SIZE = (96, 128)
TAPS = [Tap("c3", 8, 8), Tap("c4", 12, 16), Tap("c5", 16, 32)]


@pytest.fixture
def head():
    torch.manual_seed(0)
    return GFLLite(TAPS, 3, channels=16, stacked=1)


@pytest.fixture
def raw(head):
    cells = len(head.anchors(SIZE))
    random = torch.Generator().manual_seed(1)
    shapes = {"class_logits": (3, cells, 3), "box_distributions": (3, cells, 32)}
    return {name: torch.randn(*shape, generator=random).requires_grad_() for name, shape in shapes.items()}


@pytest.fixture
def batch():
    boxes = [[[8, 10, 60, 70], [50, 20, 120, 90]], [[30, 30, 34, 33], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 2]
    return {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor([[0, 2], [1, -1], [-1, -1]])}


def test_quality_focal_loss_of_hard_targets_is_the_focal_loss_of_torchvision():
    logits = 3 * torch.randn(4, 7, dtype=torch.float64)
    targets = torch.randint(0, 2, (4, 7)).double()
    for gamma in (1.0, 2.0):
        expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma)
        torch.testing.assert_close(quality_focal_loss(logits, targets, gamma), expected)


def test_quality_focal_loss_by_hand():
    # Score 0.75 for a target of 0.5: 0.25 ** 2 * -(log 0.75 + log 0.25) / 2; none where they agree.
    loss = quality_focal_loss(torch.tensor([math.log(3), 0.0]), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(loss, torch.tensor([-0.0625 * (math.log(0.75) + math.log(0.25)) / 2, 0.0]))


def test_varifocal_loss_by_hand_and_as_an_option(head, raw, batch):
    # Score 0.75: for a target of 0.5 times that, for none 0.75 * 0.75 ** 2; a target reached still has its entropy.
    logits, targets = torch.tensor([math.log(3), math.log(3), 0.0]), torch.tensor([0.5, 0.0, 0.5])
    expected = [-0.5 * (math.log(0.75) + math.log(0.25)) / 2, -0.75 * 0.75**2 * math.log(0.25), 0.5 * math.log(2)]
    torch.testing.assert_close(varifocal_loss(logits, targets), torch.tensor(expected))
    other, plain = (GFLLoss(scores=scores)(raw, batch, head, SIZE) for scores in ("varifocal", "quality"))
    assert other["classification"] != plain["classification"] and other["boxes"] == plain["boxes"]
    with pytest.raises(ValueError, match=r"task\.loss\.scores=focal: expected one of quality, varifocal"):
        GFLLoss(scores="focal")


def test_distribution_focal_loss_by_hand():
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    distances = torch.tensor([1.75, 0.0, 3.0, 7.0, -2.0])
    expected = [-0.25 * math.log(0.2) - 0.75 * math.log(0.3), *(-math.log(p) for p in (0.1, 0.4, 0.4, 0.1))]
    torch.testing.assert_close(distribution_focal_loss(shares.log().expand(5, 4), distances), torch.tensor(expected))


def test_distribution_focal_loss_is_least_where_the_mean_is_the_distance():
    logits = torch.tensor([-50.0, math.log(0.25), math.log(0.75), -50.0], requires_grad=True)
    distribution_focal_loss(logits, torch.tensor(1.75)).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(4), atol=1e-6, rtol=0)


def assigned(head, raw, batch):
    """Boxes that the points predict, unclipped, and what they are to predict."""
    anchors = head.anchors(SIZE)
    centres, strides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    distances = head.distances(raw["box_distributions"].detach())
    boxes = torch.cat([centres - distances[..., :2] * strides, centres + distances[..., 2:] * strides], dim=-1)
    scores = raw["class_logits"].detach().sigmoid()
    return boxes, task_aligned(anchors, boxes, scores, batch["boxes"], batch["labels"])


def test_the_summands_equal_loops_around_torchvision(head, raw, batch):
    losses = GFLLoss()(raw, batch, head, SIZE)
    boxes, (positive, index, weights, quality) = assigned(head, raw, batch)
    classification = overlap = edges = 0.0
    for n in range(3):
        for a, cell in enumerate(head.anchors(SIZE)):
            for k, logit in enumerate(raw["class_logits"][n, a].detach()):
                own = positive[n, a] and batch["labels"][n, index[n, a]] == k
                target, score = float(quality[n, a]) if own else 0.0, float(logit.sigmoid())
                cross_entropy = -target * math.log(score) - (1 - target) * math.log(1 - score)
                classification += (target - score) ** 2 * cross_entropy
            if not positive[n, a]:
                continue
            goal, weight = batch["boxes"][n, index[n, a]], float(weights[n, a])
            overlap += weight * float(generalized_box_iou_loss(boxes[n, a], goal))
            centre, stride = (cell[:2] + cell[2:]) / 2, cell[2] - cell[0]
            sides = torch.cat([centre - goal[:2], goal[2:] - centre]) / stride
            for side, logits in zip(sides.tolist(), raw["box_distributions"][n, a].reshape(4, 8), strict=True):
                shares, side = logits.softmax(0).tolist(), min(max(side, 0.0), 7.0)
                low = min(int(side), 6)
                edges -= weight * (1 - side + low) * math.log(shares[low]) / 4
                edges -= weight * (side - low) * math.log(shares[low + 1]) / 4
    total = float(weights.sum())
    assert total > 3
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(
        {
            "classification": classification / max(1.0, float(quality.sum())),
            "boxes": 2.0 * overlap / total,
            "distributions": 0.25 * edges / total,
        },
        rel=1e-4,
    )


def test_every_prediction_of_an_image_gets_a_gradient_and_boxes_only_where_there_are_some(head, raw, batch):
    sum(GFLLoss()(raw, batch, head, SIZE).values()).backward()
    assert (raw["class_logits"].grad != 0).all()
    touched = raw["box_distributions"].grad.abs().sum(-1) > 0
    assert touched.any(1).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [
        (torch.zeros(3, 1, 4), torch.full((3, 1), -1)),
        (torch.tensor([[10.0, 10, 10, 10], [5, 5, 90, 5]]).expand(3, 2, 4), torch.zeros(3, 2, dtype=torch.int64)),
    ],
    ids=["padding", "without area"],
)
def test_without_a_box_only_the_scores_are_trained(head, raw, boxes, labels):
    losses = GFLLoss()(raw, {"boxes": boxes, "labels": labels}, head, SIZE)
    sum(losses.values()).backward()
    assert losses["boxes"] == losses["distributions"] == 0
    expected = sigmoid_focal_loss(raw["class_logits"], torch.zeros_like(raw["class_logits"]), alpha=-1, reduction="sum")
    torch.testing.assert_close(losses["classification"], expected)
    assert raw["class_logits"].grad.isfinite().all()
    assert not raw["box_distributions"].grad.any()


def test_float32_under_autocast_and_for_half_predictions(head, raw, batch):
    half = {name: x.detach().bfloat16().requires_grad_() for name, x in raw.items()}
    expected = GFLLoss()({name: x.float() for name, x in half.items()}, batch, head, SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = GFLLoss()(half, batch, head, SIZE)
    assert all(value.dtype == torch.float32 for value in losses.values())
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)
    sum(losses.values()).backward()
    assert all(x.grad.isfinite().all() for x in half.values())


def test_a_batch_equals_its_images_and_padding_changes_nothing(head, raw, batch):
    def losses(first, last, rows=2):
        part = {name: x[first:last] for name, x in raw.items()}
        return GFLLoss()(part, {name: x[first:last, :rows] for name, x in batch.items()}, head, SIZE)

    torch.testing.assert_close(losses(1, 2, rows=1), losses(1, 2))
    alone, whole = [losses(n, n + 1) for n in range(3)], losses(0, 3)
    *_, weight, quality = assigned(head, raw, batch)[1]
    for name, value in whole.items():
        totals = (quality if name == "classification" else weight).sum(1)
        joined = sum(one[name] * max(1.0, total) for one, total in zip(alone, totals, strict=True))
        torch.testing.assert_close(value, joined / totals.sum().clamp(min=1.0))


def test_of_two_branches_one_learns_the_best_point_of_each_box(raw, batch):
    free = GFLLite(TAPS, 3, channels=16, stacked=1, nms_free=True)
    other = {f"dense_{name}": x.detach().flip(1).clone() for name, x in raw.items()}
    losses = GFLLoss()(raw | other, batch, free, SIZE)
    plain = GFLLite(TAPS, 3, channels=16, stacked=1)
    dense = GFLLoss()({name.removeprefix("dense_"): x for name, x in other.items()}, batch, plain, SIZE)
    single = GFLLoss(candidates=1)(raw, batch, plain, SIZE)
    assert losses == {**single, **{f"dense_{name}": value for name, value in dense.items()}}
    assert GFLLoss()(raw, batch, free, SIZE) == single  # in eval mode, or fused
    anchors, scores = free.anchors(SIZE), raw["class_logits"].detach().sigmoid()
    predicted = boxes_from_distances(anchors, free.distances(raw["box_distributions"].detach()))
    args = (anchors, predicted, scores, batch["boxes"], batch["labels"])
    one, many = task_aligned(*args, candidates=1), task_aligned(*args)
    assert one.positive.sum(1).tolist() == [2, 1, 0]
    assert (many.positive & one.positive).sum() == one.positive.sum() < many.positive.sum()
    assert (many.weight[one.positive] == 1).all()  # consistent: the best point of the other branch, too


@pytest.mark.long
def test_it_learns_pictures_by_heart(head, batch):
    """The box of 4x3 px in the second too, which overlaps its first predictions by a two-hundredth."""
    features = {tap.name: torch.randn(3, tap.channels, SIZE[0] // tap.stride, SIZE[1] // tap.stride) for tap in TAPS}
    steps = 150
    optimizer = torch.optim.AdamW(head.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, steps)
    loss = GFLLoss()
    for _ in range(steps):
        total = sum(loss(head(features, SIZE), batch, head, SIZE).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        boxes, scores = head.decode(head(features, SIZE), SIZE)
    for n, (true, labels) in enumerate(zip(batch["boxes"], batch["labels"].tolist(), strict=True)):
        for box, label in zip(true, labels, strict=True):
            if label >= 0:
                best = scores[n, :, label].argmax()
                assert scores[n, best, label] > 0.5, (n, label)
                assert box_iou(box[None], boxes[n, best][None]) > 0.8, (n, label)
    assert scores[2].max() < 0.2  # nothing is in the last


def test_generalized_iou_loss_and_its_gradient_are_torchvisions():
    torch.manual_seed(0)
    corners = torch.rand(2, 400, 2) * 40
    boxes = torch.cat([corners, corners + 1 + torch.rand_like(corners) * 30], dim=-1)  # some overlap, some do not
    boxes[1, :5] = boxes[0, :5]
    boxes[0, 5:9, 2:] = boxes[0, 5:9, :2]  # no area
    found, expected = (boxes[0].clone().requires_grad_() for _ in range(2))
    ours, theirs = generalized_iou_loss(found, boxes[1]), generalized_box_iou_loss(expected, boxes[1])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    apart = (ours > 1).sum()
    assert 50 < apart < 350
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=0)
