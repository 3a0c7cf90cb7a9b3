"""SSD's losses against torchvision's, in value and gradient, and where there is nothing to find."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou, sigmoid_focal_loss

from backbones.mobilenetv2 import mobilenet_v2
from heads.anchor_matching import match_anchors
from heads.box_coding import encode
from heads.ssdlite import SSDLite
from tasks.detection.ssd_losses import MultiboxLoss, SigmoidFocalLoss
from tests.heads.test_anchor_matching import padded, random_boxes

SIZE, CLASSES = (96, 96), 6


@pytest.fixture(scope="module")
def heads():
    taps = mobilenet_v2(width=0.35).taps
    return {form: SSDLite(taps, CLASSES, score_type=form, extra_channels=[32]) for form in ("softmax", "sigmoid")}


def random_batch(*counts):
    images = [random_boxes(count) for count in counts]
    boxes, labels = padded(images)
    labels[labels >= 0] = torch.randint(CLASSES, (sum(counts),))
    return {"boxes": boxes, "labels": labels}


def random_raw(head, images, dtype=torch.float32):
    anchors = len(head.anchors(SIZE))
    deltas, logits = torch.randn(images, anchors, 4), 2 * torch.randn(images, anchors, head.class_columns)
    return {"box_deltas": deltas.to(dtype).requires_grad_(), "class_logits": logits.to(dtype).requires_grad_()}


def gradients(losses, raw):
    return torch.autograd.grad(sum(losses.values()), list(raw.values()))


def torchvisions_losses(raw, batch, anchors, negatives, threshold=0.5):
    """SSD.compute_loss after its matching."""
    targets, matched = [], []
    for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True):
        boxes, labels = boxes[labels >= 0], labels[labels >= 0]
        targets.append({"boxes": boxes, "labels": labels + 1})
        empty = torch.full((len(anchors),), -1)
        matched.append(SSDMatcher(threshold)(box_iou(boxes, anchors)) if len(boxes) else empty)
    ssd = SimpleNamespace(box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=negatives)
    outputs = {"bbox_regression": raw["box_deltas"], "cls_logits": raw["class_logits"]}
    losses = SSD.compute_loss(ssd, targets, outputs, [anchors] * len(targets), matched)
    return {"boxes": losses["bbox_regression"], "classes": losses["classification"]}


@pytest.mark.parametrize("counts", [(3, 0, 8, 1), (1, 1), (0, 0)], ids=str)
@pytest.mark.parametrize("negatives", [3.0, 1.0])
@pytest.mark.parametrize("confident", [False, True])  # where boxes are: the positives are what looks least like none
def test_the_multibox_loss_is_torchvisions_in_value_and_gradient(heads, counts, negatives, confident):
    torch.manual_seed(0)
    head, batch = heads["softmax"], random_batch(*counts)
    raw = random_raw(head, len(counts))
    if confident:
        found = match_anchors(head.anchors(SIZE), batch["boxes"], batch["labels"]) >= 0
        raw["class_logits"].data[found] += torch.tensor([-20.0, *[0.0] * CLASSES])
    losses = MultiboxLoss(negatives_per_positive=negatives)(raw, batch, head, SIZE)
    expected = torchvisions_losses(raw, batch, head.anchors(SIZE), negatives)
    torch.testing.assert_close(losses, expected)
    for actual, wanted in zip(gradients(losses, raw), gradients(expected, raw), strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-7, rtol=1e-5)
        assert bool(wanted.any()) == any(counts)


def focal_losses(raw, batch, anchors, alpha, gamma):
    """By torchvision's focal loss, on a one-hot map of all targets."""
    matched = match_anchors(anchors, batch["boxes"], batch["labels"])
    one_hot, deviation = torch.zeros_like(raw["class_logits"]), 0.0
    for image, row in enumerate(matched):
        at = (row >= 0).nonzero()[:, 0]
        one_hot[image, at, batch["labels"][image, row[at]]] = 1
        targets = encode(batch["boxes"][image, row[at]], anchors[at])
        deviation = deviation + F.smooth_l1_loss(raw["box_deltas"][image, at], targets, reduction="sum")
    count = max(1, int(one_hot.sum()))
    focal = sigmoid_focal_loss(raw["class_logits"], one_hot, alpha, gamma, reduction="sum")
    return {"boxes": deviation / 4 / count, "classes": focal / count}


@pytest.mark.parametrize("counts", [(3, 0, 8, 1), (0, 0)], ids=str)
@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 2.0), (0.25, 1.5)])
def test_the_focal_loss_is_torchvisions_in_value_and_gradient(heads, counts, alpha, gamma):
    torch.manual_seed(0)
    head, batch = heads["sigmoid"], random_batch(*counts)
    raw = random_raw(head, len(counts))
    losses = SigmoidFocalLoss(alpha=alpha, gamma=gamma)(raw, batch, head, SIZE)
    expected = focal_losses(raw, batch, head.anchors(SIZE), alpha, gamma)
    torch.testing.assert_close(losses, expected)
    for actual, wanted in zip(gradients(losses, raw), gradients(expected, raw), strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("loss", "form"), [(MultiboxLoss, "softmax"), (SigmoidFocalLoss, "sigmoid")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_losses_are_finite_float32_whatever_the_boxes_and_logits(heads, loss, form, dtype, size):
    torch.manual_seed(0)
    head = heads[form]
    line, point, normal = [5.0, 5.0, 5.0, 20.0], [5.0, 5.0, 5.0, 5.0], [10.0, 10.0, 40.0, 40.0]
    sliver = [50.0, 10.0, 50.00001, 40.0]
    batch = {
        "boxes": torch.tensor([[line, point, normal], [point, point, line], [sliver, normal, normal]]),
        "labels": torch.tensor([[0, 1, 2], [3, 3, 3], [4, 5, -1]]),
    }
    raw = random_raw(head, 3, dtype)
    scaled = {name: size * tensor for name, tensor in raw.items()}
    losses = loss()(scaled, batch, head, SIZE)
    for value in losses.values():
        assert value.dtype == torch.float32 and value.shape == () and value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(losses, raw))


def test_few_anchors_have_no_more_negatives_than_there_are(heads):
    """Every anchor is matched or kept; none counts twice."""
    torch.manual_seed(0)
    head = heads["softmax"]
    raw, batch = random_raw(head, 1), random_batch(4)
    losses = MultiboxLoss(negatives_per_positive=1e6)(raw, batch, head, SIZE)
    matched = match_anchors(head.anchors(SIZE), batch["boxes"], batch["labels"])[0]
    targets = torch.where(matched >= 0, batch["labels"][0, matched.clamp(min=0)] + 1, 0)
    expected = F.cross_entropy(raw["class_logits"][0], targets, reduction="sum") / (matched >= 0).sum()
    torch.testing.assert_close(losses["classes"], expected)


def test_settings_scale_and_match(heads):
    torch.manual_seed(0)
    head, batch = heads["softmax"], random_batch(5)
    raw = random_raw(head, 1)
    plain, weighted = (MultiboxLoss(box_weight=w)(raw, batch, head, SIZE) for w in (1.0, 0.5))
    torch.testing.assert_close(weighted, {"boxes": plain["boxes"] / 2, "classes": plain["classes"]})
    for threshold in (0.2, 0.35):
        losses = MultiboxLoss(match_threshold=threshold)(raw, batch, head, SIZE)
        torch.testing.assert_close(losses, torchvisions_losses(raw, batch, head.anchors(SIZE), 3.0, threshold))
        assert losses["boxes"] != plain["boxes"]  # other anchors are matched


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (MultiboxLoss, {"match_threshold": 0}, r"match_threshold is an IoU in \(0, 1\], not 0"),
        (MultiboxLoss, {"negatives_per_positive": 0}, "negatives_per_positive must be positive, not 0"),
        (SigmoidFocalLoss, {"box_weight": -1}, "box_weight must be at least 0, not -1"),
        (SigmoidFocalLoss, {"alpha": 2}, r"alpha must be in \[0, 1\] and gamma at least 0, not 2 and 2.0"),
    ],
)
def test_wrong_settings_are_named(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(**options)


def test_a_loss_refuses_the_other_form(heads):
    head = heads["sigmoid"]
    with pytest.raises(ValueError, match="MultiboxLoss needs a head of score_type=softmax, this one has sigmoid"):
        MultiboxLoss()(random_raw(head, 1), random_batch(1), head, SIZE)
