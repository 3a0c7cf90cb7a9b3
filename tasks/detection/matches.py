"""Match detections with annotated boxes at one IoU, as COCO does; tell what is wrong with each that does not hit."""

from dataclasses import dataclass

import numpy as np

from tasks.detection.results import DetectionResults, GroundTruth

ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg")  # kinds of false detections, by their names in TIDE
CLS, LOC, BOTH, DUPE, BKG, HIT, IGNORED = range(7)


@dataclass(frozen=True, eq=False)
class Matches:
    """D detections that count, by descending score, and the B annotated boxes of the `GroundTruth`.

    Attributes:
        truth: The annotated boxes.
        boxes: (D, 4) xywh, px.
        images, labels: (D,) places of image and category in the `GroundTruth`.
        scores: (D,).
        kinds: (D,) `HIT`; `IGNORED`, in a crowd or on a difficult object; or what is wrong: `CLS` a box of another
            class, `LOC` a box of its class, but too far from it, `BOTH`, `DUPE` a box that another detection hits,
            `BKG` no box.
        own: (D,) the box that it hits, else the box of its class with the largest IoU; -1 where there is none.
        other: (D,) the box of another class with the largest IoU, of those that reach `iou`; -1 where there is none.
        counted: (B,) bool, boxes that have to be found: neither crowd nor difficult.
        box_labels: (B,) places of their categories.
        hit: (B,) bool.
        iou: Least IoU of a hit.
    """

    truth: GroundTruth
    boxes: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    own: np.ndarray
    other: np.ndarray
    counted: np.ndarray
    box_labels: np.ndarray
    hit: np.ndarray
    iou: float

    @property
    def targets(self) -> np.ndarray:
        """(D,) the box that a detection of kind `CLS` or `LOC` would hit without its error; -1 of the others."""
        return np.where(self.kinds == LOC, self.own, np.where(self.kinds == CLS, self.other, -1))

    @property
    def mendable(self) -> np.ndarray:
        """(D,) bool, detections whose target nothing hits."""
        targets = self.targets
        marked = targets >= 0
        marked[marked] = ~self.hit[targets[marked]]
        return marked

    @property
    def positives(self) -> np.ndarray:
        """(K,) boxes of each category that have to be found."""
        return np.bincount(self.box_labels[self.counted], minlength=len(self.truth.categories))


def match_boxes(
    truth: GroundTruth, results: DetectionResults, *, iou: float = 0.5, background: float = 0.1,
    max_detections: int = 100,
) -> Matches:  # fmt: skip
    """Match detections with boxes; the hits are those of COCO's AP at this IoU.

    Args:
        truth: Annotated boxes.
        results: Detections; those of categories that are not the truth's are left out.
        iou: Least IoU of a hit.
        background: IoU up to which a detection has nothing to do with a box.
        max_detections: Detections of highest score that count, for each image and class.

    Source: kinds of errors by Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors",
    arXiv:2008.08115, section 2.2.
    """
    categories = np.array(list(truth.categories))
    rows = np.flatnonzero(np.isin(results.category_ids, categories) & np.isin(results.image_ids, truth.images))
    images = np.searchsorted(truth.images, results.image_ids[rows])
    labels, scores = np.searchsorted(categories, results.category_ids[rows]), results.scores[rows]
    order = np.lexsort((-scores, labels, images))  # stable: of equal scores the first stays the first
    group = images[order] * len(categories) + labels[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    order = order[rank < max_detections]
    rows, images, labels, scores = (column[order] for column in (rows, images, labels, scores))

    owners = np.searchsorted(truth.images, truth.image_ids)
    box_labels = np.searchsorted(categories, truth.category_ids)
    by_image = np.argsort(owners, kind="stable")
    box_ends = np.searchsorted(owners[by_image], np.arange(len(truth.images) + 1))
    ends = np.searchsorted(images, np.arange(len(truth.images) + 1))
    kinds, own, other = np.full(len(rows), BKG), np.full(len(rows), -1), np.full(len(rows), -1)
    hit, boxes = np.zeros(len(owners), bool), results.boxes[rows]
    for image in np.flatnonzero((np.diff(ends) > 0) & (np.diff(box_ends) > 0)):
        found, there = slice(*ends[image : image + 2]), by_image[slice(*box_ends[image : image + 2])]
        counted = ~truth.crowd[there]
        regions = truth.crowd[there] & ~truth.difficult[there]
        overlap = box_overlaps(boxes[found], truth.boxes[there], regions)
        same = labels[found, None] == box_labels[there]
        matched, ignored = _matched(overlap, same, counted, iou)
        of_class, of_others = (np.where(pairs & counted, overlap, 0) for pairs in (same, ~same))
        best, best_other = of_class.max(axis=1), of_others.max(axis=1)
        kind = np.select(
            [matched >= 0, ignored, (best >= background) & (best < iou), best_other >= iou, best >= iou,
             np.maximum(best, best_other) > background],
            [HIT, IGNORED, LOC, CLS, DUPE, BOTH], BKG,
        )  # fmt: skip
        nearest = np.where(best > 0, there[of_class.argmax(axis=1)], -1)
        kinds[found], own[found] = kind, np.where(matched >= 0, there[matched], nearest)
        other[found] = np.where(best_other >= iou, there[of_others.argmax(axis=1)], -1)
        hit[there[matched[matched >= 0]]] = True

    order = np.argsort(-scores, kind="stable")
    columns = (column[order] for column in (boxes, images, labels, scores, kinds, own, other))
    return Matches(truth, *columns, counted=~truth.crowd, box_labels=box_labels, hit=hit, iou=iou)


def _matched(overlap: np.ndarray, same: np.ndarray, counted: np.ndarray, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Match the detections of one image in their order.

    Returns:
        (D,) the box that each hits, or -1; (D,) whether it is in a crowd or on a difficult object.
    """
    able, free = same & (overlap >= iou), counted.copy()
    matched = np.full(len(overlap), -1)
    for row in np.flatnonzero((able & counted).any(axis=1)):
        options = np.flatnonzero(able[row] & free)
        if len(options):
            values = overlap[row, options]
            matched[row] = options[len(values) - 1 - values[::-1].argmax()]  # COCO takes the last of equal ones
            free[matched[row]] = False
    return matched, (matched < 0) & (able & ~counted).any(axis=1)


def box_overlaps(boxes: np.ndarray, annotated: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Compute (D, B) IoU of xywh boxes; of `regions`, (B,) bool, the share of the detection inside."""
    low = np.maximum(boxes[:, None, :2], annotated[:, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], annotated[:, :2] + annotated[:, 2:])
    inner = np.clip(high - low, 0, None).prod(axis=2)
    area = boxes[:, 2:].prod(axis=1)[:, None]
    union = np.where(regions, area, area + annotated[:, 2:].prod(axis=1) - inner)
    return np.divide(inner, union, out=np.zeros_like(inner), where=inner > 0)
