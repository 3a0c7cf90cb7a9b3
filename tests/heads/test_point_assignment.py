"""Task-aligned assignment on worked examples and against a plain loop."""

import pytest
import torch
from torchvision.ops import box_iou

from heads.point_assignment import task_aligned

# Three cells of stride 8 in a row, centres (4, 4), (12, 4), (20, 4).
CELLS = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8]])


def assign(predicted, scores, boxes, labels, cells=CELLS, **options):
    """Of one image, given as lists."""
    boxes, labels = torch.tensor(boxes).reshape(1, -1, 4).float(), torch.tensor(labels).reshape(1, -1)
    result = task_aligned(cells, torch.tensor([predicted]).float(), torch.tensor([scores]), boxes, labels, **options)
    return [part[0] for part in result]


def test_a_worked_example():
    """One box over the first two points, overlapped 1/2 and 1, with scores 0.8 and 0.2 for its class, 1.

    With exponents 1 and 1 the alignments are 0.4 and 0.2; scaled so that the best gets the best IoU: 1 and 0.5.
    """
    predicted = [[0, 0, 8, 8], [0, 0, 16, 8], [0, 0, 16, 8]]
    scores = [[0.1, 0.8], [0.9, 0.2], [0.5, 1.0]]  # the third point lies outside
    positive, index, weight, quality = assign(predicted, scores, [[0, 0, 16, 8]], [1], alpha=1.0, beta=1.0)
    assert positive.tolist() == [True, True, False]
    assert index.tolist() == [0, 0, 0]
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(quality, torch.tensor([1.0, 0.5, 0.0]))
    positive, _, weight, quality = assign(predicted, scores, [[0, 0, 16, 8]], [1], alpha=1.0, beta=1.0, candidates=1)
    assert positive.tolist() == [True, False, False]
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(quality, torch.tensor([0.5, 0.0, 0.0]))  # the best IoU among those that were chosen


def test_a_point_goes_to_the_box_that_it_overlaps_most():
    predicted = [[0, 0, 8, 8], [4, 0, 16, 8], [16, 0, 24, 8]]
    boxes = [[0, 0, 16, 8], [8, 0, 24, 8]]  # both hold the second point: IoU 12/16 and 8/20
    positive, index, _, quality = assign(predicted, [[0.5]] * 3, boxes, [0, 0])
    assert positive.tolist() == [True, True, True]
    assert index.tolist() == [0, 0, 1]
    assert quality[1] == pytest.approx(0.75)
    assert quality[2] == pytest.approx(0.5)


def test_the_overlap_decides_and_not_the_alignment():
    """The second point overlaps the box of class 0 more, but scores 0.9 for class 1 and 0.01 for class 0."""
    predicted, scores = [[0, 0, 8, 8], [4, 0, 16, 8], [16, 0, 24, 8]], [[0.5, 0.5], [0.01, 0.9], [0.5, 0.5]]
    boxes = [[0, 0, 16, 8], [8, 0, 24, 8]]  # IoU with the second point's: 12/16 and 8/20
    _, index, _, _ = assign(predicted, scores, boxes, [0, 1], alpha=1.0, beta=1.0)
    assert index.tolist() == [0, 0, 1]


def test_a_point_on_the_border_is_not_inside():
    predicted = [[4, 0, 20, 8]] * 3
    for box in ([4, 0, 20, 8], [-20, 4, 13, 40], [-20, -40, 13, 4]):  # the first and third point; all; all
        held = [box[0] < x < box[2] and box[1] < 4 < box[3] for x in (4, 12, 20)]
        positive, *_ = assign(predicted, [[0.5]] * 3, [box], [0])
        # A box that holds no point gets the nearest to its centre, here the first.
        assert positive.tolist() == (held if any(held) else [True, False, False]), box


def test_a_box_between_the_points_gets_the_nearest():
    predicted = [[0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8]]
    positive, _, weight, quality = assign(predicted, [[0.01]] * 3, [[13, 5, 15, 7]], [0])
    assert positive.tolist() == [False, True, False]
    assert weight.tolist() == [0, 1, 0]  # learnt in full, however little it is overlapped
    assert quality[1] == pytest.approx(4 / 64)
    # Its nearest point is the finest level's where levels are equally near.
    cells = torch.cat([CELLS, CELLS + torch.tensor([-4.0, -4, 4, 4])])
    positive, *_ = assign(predicted * 2, [[0.01]] * 6, [[13, 5, 15, 7]], [0], cells)
    assert positive.tolist() == [False, True, False, False, False, False]


def test_the_nearest_point_is_so_in_a_straight_line():
    cells = torch.tensor([[2.0, -4, 10, 4], [0, 0, 8, 8]])  # centres (6, 0) and (4, 4) of a box around (0, 0)
    positive, *_ = assign([[0, 0, 8, 8]] * 2, [[0.5]] * 2, [[-1, -1, 1, 1]], [0], cells)
    assert positive.tolist() == [False, True]


def test_a_box_that_holds_a_point_gets_no_other_be_it_nearer():
    cells = torch.tensor([[16.0, 0, 24, 8], [4, 0, 20, 16]])  # centres (20, 4) and (12, 8), the box's (12, 4)
    positive, *_ = assign([[0, 0, 24, 16]] * 2, [[0.5]] * 2, [[0, 3, 24, 5]], [0], cells)
    assert positive.tolist() == [True, False]


def test_what_does_not_overlap_at_all_stays_finite():
    positive, _, weight, quality = assign([[0, 0, 0, 0]] * 3, [[0.0]] * 3, [[0, 0, 8, 8]], [0])
    assert positive.tolist() == [True, False, False]
    assert weight.tolist() == [1, 0, 0]
    assert quality.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [
        ([[0, 0, 0, 0]], [-1]),
        ([[0, 0, 24, 8]], [-1]),  # padding is told by its label alone
        ([[4, 4, 4, 4]], [0]),
        ([[0, 4, 24, 4]], [0]),  # no height
        ([[20, 8, 0, 0]], [0]),  # corners swapped
        ([[float("nan")] * 4], [0]),
    ],
)
def test_nothing_to_find(boxes, labels):
    result = assign([[0, 0, 8, 8], [4, 4, 4, 4], [0, 0, 0, 0]], [[0.5]] * 3, boxes, labels)
    assert not any(part.any() for part in result)


def by_loops(cells, predicted, scores, boxes, labels, candidates, alpha, beta):
    """The same for one image, box by box and point by point."""
    centres = (cells[:, :2] + cells[:, 2:]) / 2
    iou = box_iou(boxes, predicted)
    wishes = {}  # point -> boxes that want it
    alignment = {}
    for m, (box, label) in enumerate(zip(boxes, labels.tolist(), strict=True)):
        if label < 0:
            continue
        inside = [a for a, (x, y) in enumerate(centres) if box[0] < x < box[2] and box[1] < y < box[3]]
        inside = inside or [int((centres - (box[:2] + box[2:]) / 2).norm(dim=1).argmin())]
        alignment[m] = {a: float(scores[a, label] ** alpha * iou[m, a] ** beta) for a in inside}
        for a in sorted(inside, key=lambda a: -alignment[m][a])[:candidates]:
            wishes.setdefault(a, []).append(m)
    owner = {a: max(wanting, key=lambda m: float(iou[m, a])) for a, wanting in wishes.items()}
    positive, index = torch.zeros(len(cells), dtype=torch.bool), torch.zeros(len(cells), dtype=torch.int64)
    weight, quality = torch.zeros(2, len(cells))
    for a, m in owner.items():
        own = [point for point, box in owner.items() if box == m]
        positive[a], index[a] = True, m
        weight[a] = alignment[m][a] / max(alignment[m][point] for point in own)
        quality[a] = weight[a] * max(float(iou[m, point]) for point in own)
    return positive, index, weight, quality


@pytest.mark.parametrize("options", [(13, 1.0, 6.0), (3, 0.5, 2.0), (1000, 1.0, 1.0)])
def test_a_batch_equals_plain_loops(options):
    random = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(*shape, generator=random)

    cells = torch.cat(
        [
            torch.tensor([[x, y, x + s, y + s] for y in range(0, 64, s) for x in range(0, 80, s)]).float()
            for s in (8, 16, 32)
        ]
    )
    centres = (cells[:, :2] + cells[:, 2:]) / 2
    reach = draw(4, len(cells), 4) * 40
    predicted = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)
    scores = draw(4, len(cells), 3)
    corners = draw(4, 6, 2) * 60
    boxes = torch.cat([corners, corners + 2 + draw(4, 6, 2) ** 3 * 60], dim=-1)
    labels = torch.randint(0, 3, (4, 6), generator=random)
    labels[1, 2:], labels[2], boxes[1, 2:] = -1, -1, 0.0

    result = task_aligned(
        cells, predicted, scores, boxes, labels, candidates=options[0], alpha=options[1], beta=options[2]
    )
    assert not result.positive[2].any()
    assert result.positive.sum() > 3 * 6
    for n in range(4):
        expected = by_loops(cells, predicted[n], scores[n], boxes[n], labels[n], *options)
        for actual, values in zip(result, expected, strict=True):
            torch.testing.assert_close(actual[n], values, rtol=1e-4, atol=1e-6)
