import math

import pytest
import torch
from torch.nn import functional as F

from tasks.segmentation.loss import SegmentationLoss

N, K, H, W = 2, 5, 6, 7
WEIGHTS = (0.5, 2.0, 1.0, 0.1, 3.0)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def logits(request):
    values = 2 * torch.randn(N, K, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return values.contiguous(memory_format=request.param).requires_grad_()


@pytest.fixture
def masks():
    masks = torch.randint(0, K - 1, (N, H, W), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    masks[0, :2] = 255  # class 4 nowhere, two rows ignored
    return masks


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def assert_same(loss, expected, logits):
    """Equal values, equal gradients."""
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, logits), gradient(expected, logits), check_stride=False)


def pixels(logits, masks):
    """(log-probabilities, class) of every labelled pixel, the slow way."""
    log_probs = logits.log_softmax(1)
    return [(log_probs[n, :, y, x], int(masks[n, y, x])) for n, y, x in (masks != 255).nonzero().tolist()]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_equals_torch(logits, masks, weights, smoothing):
    losses = SegmentationLoss(class_weights=weights, label_smoothing=smoothing)(logits, masks)
    weight = weights and torch.tensor(weights).double()
    expected = F.cross_entropy(logits, masks.long(), weight, ignore_index=255, label_smoothing=smoothing)
    assert list(losses) == ["cross_entropy"]
    assert_same(losses["cross_entropy"], expected, logits)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(
    ("threshold", "min_kept", "count"),
    [
        (0.3, 1, None),  # the threshold decides
        (1e-9, 13, 2 * 13),  # none is hard: a count per image, picked over the batch
        (1e-9, 0.25, 2 * math.ceil(0.25 * H * W)),
        (1e-9, 1.0, 2 * H * W),  # more than there are labelled pixels: all of them
        (1e-9, 10**9, 2 * H * W),
        (1.0, 1, 2 * H * W),
    ],
)
def test_ohem_equals_a_sorted_list(logits, masks, threshold, min_kept, count, weights):
    loss = SegmentationLoss(class_weights=weights, ohem_threshold=threshold, ohem_min_kept=min_kept)
    listed = sorted((log_probs[label], label) for log_probs, label in pixels(logits, masks))
    hard = [(log_prob, label) for log_prob, label in listed if log_prob.exp() < threshold]
    assert count is not None or 2 < len(hard) < len(listed)
    kept = hard if count is None else listed[:count]
    factors = torch.tensor(weights or [1.0] * K).double()
    expected = -sum(factors[label] * log_prob for log_prob, label in kept) / sum(factors[label] for _, label in kept)
    assert_same(loss(logits, masks)["cross_entropy"], expected, logits)


def test_ohem_picks_over_the_whole_batch_and_keeps_ties():
    masks = torch.zeros(2, 1, 4, dtype=torch.long)
    easy, hard = [5.0, -5.0], [-5.0, 5.0]
    logits = torch.tensor([[hard, hard, hard, easy], [easy] * 4]).permute(0, 2, 1).unsqueeze(2)
    loss = SegmentationLoss(ohem_threshold=1e-9, ohem_min_kept=1)
    assert loss(logits, masks)["cross_entropy"] == pytest.approx(10.0, abs=1e-3)  # the 2 hardest are both in one image
    fresh = torch.zeros(2, 3, 1, 4, requires_grad=True)
    assert (gradient(loss(fresh, masks)["cross_entropy"], fresh) != 0).all()


def test_ohem_leaves_out_what_is_just_at_the_threshold():
    """Probabilities of exactly 1/2, and one of 0.27 that is kept in any case."""
    logits = torch.zeros(1, 2, 1, 4, dtype=torch.float64)
    logits[0, 0, 0, 0] = -1.0
    loss = SegmentationLoss(ohem_threshold=0.5, ohem_min_kept=1)(logits, torch.zeros(1, 1, 4, dtype=torch.long))
    assert loss["cross_entropy"].item() == pytest.approx(math.log(1 + math.e))


def test_the_scale_of_class_weights_does_not_matter(logits, masks):
    """Nor where the weights of all pixels come to less than 1."""
    plain, small = (
        SegmentationLoss(class_weights=[factor * weight for weight in WEIGHTS], label_smoothing=0.1)(logits, masks)
        for factor in (1, 1e-4)
    )
    torch.testing.assert_close(small, plain, rtol=1e-6, atol=0)


def test_ohem_selects_before_weights_and_smoothing(logits, masks):
    plain = SegmentationLoss(ohem_threshold=0.3, ohem_min_kept=1)
    other = SegmentationLoss(ohem_threshold=0.3, ohem_min_kept=1, class_weights=WEIGHTS, label_smoothing=0.2)
    touched = [gradient(loss(logits, masks)["cross_entropy"], logits).abs().sum(1) > 0 for loss in (plain, other)]
    assert torch.equal(*touched)
    assert 0 < touched[0].sum() < (masks != 255).sum()


def test_dice_equals_a_naive_loop(logits, masks):
    scores = []
    for k in range(K):
        overlap = squares = target = 0
        for log_probs, label in pixels(logits, masks):
            p, g = log_probs[k].exp(), float(label == k)
            overlap, squares, target = overlap + p * g, squares + p * p, target + g
        if target:
            scores.append(1 - 2 * overlap / (squares + target))
    assert len(scores) == K - 1  # the absent class is left out
    losses = SegmentationLoss(dice_weight=0.7)(logits, masks)
    assert list(losses) == ["cross_entropy", "dice"]
    assert_same(losses["dice"], 0.7 * sum(scores) / len(scores), logits)


@pytest.mark.parametrize("ohem", [{}, {"ohem_threshold": 0.7}, {"ohem_threshold": 0.7, "ohem_min_kept": 3}])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_nothing_labelled_is_zero(logits, ohem, weights):
    loss = SegmentationLoss(class_weights=weights, label_smoothing=0.1, dice_weight=1.0, **ohem)
    losses = loss(logits, torch.full((N, H, W), 255, dtype=torch.uint8))
    assert all(value == 0 for value in losses.values())
    assert torch.equal(gradient(sum(losses.values()), logits), torch.zeros_like(logits))


def test_float32_under_autocast_and_for_half_logits(logits, masks):
    loss = SegmentationLoss(class_weights=WEIGHTS, label_smoothing=0.1, ohem_threshold=0.7, dice_weight=1.0)
    half = logits.detach().bfloat16().requires_grad_()
    expected = loss(half.float(), masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss(half, masks)
    assert all(value.dtype == torch.float32 for value in losses.values())
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)
    sum(losses.values()).backward()
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("ignore_index", [255, 3, 0])
def test_mask_types_and_ignored_classes(logits, masks, dtype, ignore_index):
    masks = masks.masked_fill(masks == 255, ignore_index).to(dtype)
    result = SegmentationLoss(ignore_index=ignore_index)(logits, masks)["cross_entropy"]
    torch.testing.assert_close(result, F.cross_entropy(logits, masks.long(), ignore_index=ignore_index))


@pytest.mark.parametrize(("value", "ignore_index"), [(K, 255), (255, 254), (-1, 255), (-100, 255)])
def test_a_value_that_names_no_class_is_named(logits, masks, value, ignore_index):
    masks = masks.long().masked_fill(masks == 255, 0)
    masks[1, 2, 3] = value
    with pytest.raises(ValueError, match=rf"the value {value}, .*ignore_index={ignore_index}"):
        SegmentationLoss(ignore_index=ignore_index)(logits, masks)


def test_shapes_are_checked(logits, masks):
    cases = [(logits, bad) for bad in (masks[:, :-1], masks[:1], masks.unsqueeze(1), masks.float())]
    for arguments in [*cases, (logits[0, 0, 0], masks)]:
        with pytest.raises(ValueError, match=r"logits must be \(N, K, H, W\) and masks \(N, H, W\) integers"):
            SegmentationLoss()(*arguments)
    with pytest.raises(ValueError, match="3 class_weights for 5 classes"):
        SegmentationLoss(class_weights=[1, 2, 3])(logits, masks)
    assert not SegmentationLoss(class_weights=WEIGHTS).state_dict()  # a setting, kept out of checkpoints


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("class_weights", [[1.0, 0.0], [-1.0], [], [math.nan], [math.inf]]),
        ("label_smoothing", [-0.1, 1.0, math.nan]),
        ("ohem_threshold", [0.0, 1.1, math.nan]),
        ("ohem_min_kept", [0, -1, 0.0, 1.5, math.nan]),
        ("dice_weight", [-1.0, math.nan, math.inf]),
    ],
)
def test_settings_are_checked(setting, values):
    for value in values:
        with pytest.raises(ValueError, match=setting):
            SegmentationLoss(**{setting: value})
