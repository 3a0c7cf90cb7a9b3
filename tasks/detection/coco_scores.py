"""Compute COCO's detection scores by pycocotools (the reference) or hotcoco (the same numbers many times faster).

Only this file imports either. Both give the same arrays of precision and recall, from which every score is read here;
the engines' own summaries, which say -1 for an undefined score, are not used.
"""

import contextlib
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import hotcoco
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.detection.results import DetectionResults, GroundTruth
from tasks.values.counted import counted

AREAS = ("all", "small", "medium", "large")  # all, under 32 x 32 px, up to 96 x 96 px, above: of the annotated area
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision
BEYOND = 1e12  # px, above COCO's largest area of 1e10
_AP50, _AP75 = 0, 5  # of the IoU thresholds 0.50, 0.55 ... 0.95


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; NaN where it has no boxes.

    Attributes:
        name: Name of the class.
        images, boxes: Number of images that show it, and of its boxes, crowds left out.
        ap, ap50, ap75, ar: Its AP, AP50, AP75 and AR_100.
    """

    name: str
    images: int
    boxes: int
    ap: float
    ap50: float
    ap75: float
    ar: float


@dataclass(frozen=True, eq=False)
class CocoScores:
    """Scores of a set of images, from `evaluate_boxes`.

    Attributes:
        numbers: COCO's twelve, by name: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR_1, AR_10, AR_100, AR_small,
            AR_medium, AR_large; each in [0, 1], or NaN where the ground truth has no box for it. With
            `max_detections` other than 100, AR_100 is named after that number.
        classes: Scores of each category, by ascending id.
        images, detections: Numbers of images and detections counted.
        max_detections: Limit of detections an image and class.
        notes: Remarks for the reader, such as the classes without a box.
        curves: {0.5: (101, K), 0.75: (101, K)} precision at `RECALLS` for each class; NaN for a class without boxes.
            None unless asked for.
    """

    numbers: dict[str, float]
    classes: tuple[ClassScores, ...]
    images: int
    detections: int
    max_detections: int
    notes: tuple[str, ...]
    curves: dict[float, np.ndarray] | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Map the logged metric keys to values: "val/mAP" (AP), "val/AP50", ..., "val/AP/<class>"; None for NaN."""
        values = {f"val/{'mAP' if name == 'AP' else name}": value for name, value in self.numbers.items()}
        values |= {f"val/AP/{one.name}": one.ap for one in self.classes}
        return {key: None if math.isnan(value) else value for key, value in values.items()}


def evaluate_boxes(
    ground_truth: Mapping | GroundTruth,
    results: DetectionResults,
    *,
    engine: str = "pycocotools",
    max_detections: int = 100,
    curves: bool = False,
) -> CocoScores:
    """Score detections as COCO does; crowds and VOC's difficult objects count neither as hits nor as misses.

    Args:
        ground_truth: A dict in COCO's annotation form, or a `GroundTruth`.
        results: Detections; images without detections may be missing.
        engine: "pycocotools" or "fast".
        max_detections: Detections of highest score that count, for each image and class.
        curves: Keep the precision-recall curves.

    >>> truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}],
    ...          "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}]}
    >>> results = DetectionResults()
    >>> results.add(1, [[0, 0, 10, 8]], [0.9], [1])  # IoU 0.8: a hit at 7 of the 10 thresholds
    >>> round(evaluate_boxes(truth, results, engine="fast").numbers["AP"], 3)
    0.7

    Raises:
        ValueError: The engine is unknown, max_detections is below 1, the ground truth is not in COCO's form, or the
            results hold an image that it does not list.

    Source: Lin et al., "Microsoft COCO: Common Objects in Context", 2014; the numbers' definition is pycocotools'.
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no evaluator {engine}; expected {' or '.join(ENGINES)}")
    if max_detections < 1:
        raise ValueError(f"max_detections={max_detections}: expected 1 or more, 100 for COCO's own numbers")
    truth = ground_truth if isinstance(ground_truth, GroundTruth) else GroundTruth.from_coco(ground_truth)
    if unknown := results.images - set(truth.images.tolist()):
        raise ValueError(
            f"{results.source}: image id {min(unknown)} ({len(unknown)} such ids) is none of the {len(truth.images)} "
            f"images of the ground truth, whose ids go from {truth.images[0]} to {truth.images[-1]}"
        )
    columns = {name: getattr(results, name) for name in ("image_ids", "boxes", "scores", "category_ids")}
    kept = np.isin(results.category_ids, list(truth.categories))
    if not kept.all():
        columns = {name: column[kept] for name, column in columns.items()}
    # hotcoco takes no negative ids, and none that a float64 cannot hold
    columns["image_ids"] = np.searchsorted(truth.images, columns["image_ids"])
    columns["category_ids"] = np.searchsorted(list(truth.categories), columns["category_ids"])
    limits = sorted({min(limit, max_detections) for limit in (1, 10)} | {max_detections})
    precision, recall = ENGINES[engine](_with_difficult(truth.numbered(), columns), columns, limits)
    precision, recall = (np.where(values > -1, values, math.nan) for values in (precision, recall))
    numbers, classes = _numbers(precision, recall, limits), _classes(truth, precision, recall)
    return CocoScores(
        numbers,
        classes,
        len(truth.images),
        int(kept.sum()),
        max_detections,
        tuple(_notes(truth, results, numbers, classes)),
        {iou: precision[index, :, :, 0, -1] for iou, index in ((0.5, _AP50), (0.75, _AP75))} if curves else None,
    )


def format_scores(
    scores: CocoScores, more: Mapping[str, Sequence[float]] | None = None
) -> list[tuple[str, tuple[str, ...], list[tuple]]]:
    """Make tables for a terminal as (title, columns, rows); NaN is "-", classes without boxes come last.

    Args:
        scores: What they show.
        more: Further columns of the table of classes: a number a class.
    """
    more = more or {}
    of = {"": "all sizes"} | {f"_{area}": f"{area} boxes" for area in AREAS[1:]}
    rows = []
    for name, value in scores.numbers.items():
        kind, _, what = name.partition("_")
        limit = int(what) if what.isdigit() else scores.max_detections
        iou = {"AP50": "0.50", "AP75": "0.75"}.get(kind, "0.50:0.95")
        size = of.get(f"_{what}", of[""])
        rows.append((name, f"IoU {iou}, {size}, up to {limit} an image", _cell(value)))
    table = [
        (one.name, one.images, one.boxes, *map(_cell, (one.ap, one.ap50, one.ap75, one.ar, *further)))
        for one, *further in sorted(zip(scores.classes, *more.values(), strict=True), key=lambda row: not row[0].boxes)
    ]
    title = f"COCO scores of {counted(scores.detections, 'detection')} in {counted(scores.images, 'image')}"
    last = f"AR_{scores.max_detections}"
    return [
        (title, ("metric", "of", "value"), rows),
        ("each class", ("class", "images", "boxes", "AP", "AP50", "AP75", last, *more), table),
    ]


def _with_difficult(truth: GroundTruth, columns: dict[str, np.ndarray]) -> GroundTruth:
    """Rewrite VOC's difficult objects so that COCO's engines follow VOC's rule.

    Detections that reach the IoU with a difficult object count neither as hits nor as false alarms, however many they
    are. So each object is copied once for each detection of its image and class, with an area outside every range:
    COCO ignores such boxes.

    Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge", the development kit's
    VOCevaldet.m.
    """
    if not truth.difficult.any():
        return truth
    found = Counter(zip(columns["image_ids"].tolist(), columns["category_ids"].tolist(), strict=True))
    owners = zip(truth.image_ids.tolist(), truth.category_ids.tolist(), strict=True)
    copies = np.where(truth.difficult, [found[owner] for owner in owners], 1)
    changed = replace(truth, crowd=truth.crowd & ~truth.difficult, areas=np.where(truth.difficult, BEYOND, truth.areas))
    names = ("image_ids", "category_ids", "boxes", "areas", "crowd", "difficult")
    return replace(changed, **{name: getattr(changed, name).repeat(copies, axis=0) for name in names})


def _pycocotools(truth: GroundTruth, columns: dict[str, np.ndarray], limits: list[int]) -> tuple:
    """Precision (10, 101, K, 4, M) and recall (10, K, 4, M) over IoU, recall, class, area and limit; -1: undefined."""
    names = ("image_id", "category_id", "bbox", "area", "iscrowd", "id")
    numbers = np.arange(1, 1 + max(len(truth.boxes), len(columns["boxes"])))  # from 1: 0 would read as "no match"
    true = (truth.image_ids, truth.category_ids, truth.boxes, truth.areas, truth.crowd.astype(int))
    boxes = columns["boxes"]
    found = (columns["image_ids"], columns["category_ids"], boxes, boxes[:, 2] * boxes[:, 3], np.zeros(len(boxes), int))
    sets = []
    with contextlib.redirect_stdout(io.StringIO()):  # it reports to the terminal
        for table in (true, found):
            rows = zip(*(column.tolist() for column in (*table, numbers[: len(table[0])])), strict=True)
            coco = COCO()
            coco.dataset = {
                "images": [{"id": image} for image in truth.images.tolist()],
                "categories": [{"id": number, "name": name} for number, name in truth.categories.items()],
                "annotations": [dict(zip(names, row, strict=True)) for row in rows],
            }
            sets.append(coco)
        for annotation, score in zip(sets[1].dataset["annotations"], columns["scores"].tolist(), strict=True):
            annotation["score"] = score
        for coco in sets:
            coco.createIndex()
        judge = COCOeval(*sets, "bbox")
        judge.params.maxDets = limits
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"], judge.eval["recall"]


def _fast(truth: GroundTruth, columns: dict[str, np.ndarray], limits: list[int]) -> tuple:
    """Compute the same arrays as `_pycocotools` by hotcoco."""
    coco = hotcoco.COCO.from_arrays(
        [{"id": image} for image in truth.images.tolist()],
        [{"id": number, "name": name} for number, name in truth.categories.items()],
        truth.image_ids,
        truth.category_ids,
        truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowd,
    )
    table = np.column_stack([columns[name] for name in ("image_ids", "boxes", "scores", "category_ids")])
    judge = hotcoco.COCOeval(coco, coco.load_res(table), "bbox")
    judge.params.max_dets = limits
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"], judge.eval["recall"]


ENGINES = {"pycocotools": _pycocotools, "fast": _fast}


def _numbers(precision: np.ndarray, recall: np.ndarray, limits: list[int]) -> dict[str, float]:
    numbers = {"AP": _mean(precision[..., 0, -1])}
    numbers |= {f"AP{iou}": _mean(precision[at, ..., 0, -1]) for iou, at in ((50, _AP50), (75, _AP75))}
    numbers |= {f"AP_{area}": _mean(precision[..., place, -1]) for place, area in enumerate(AREAS) if place}
    numbers |= {f"AR_{limit}": _mean(recall[..., 0, place]) for place, limit in enumerate(limits)}
    return numbers | {f"AR_{area}": _mean(recall[..., place, -1]) for place, area in enumerate(AREAS) if place}


def _classes(truth: GroundTruth, precision: np.ndarray, recall: np.ndarray) -> tuple[ClassScores, ...]:
    rows = []
    for place, (number, name) in enumerate(truth.categories.items()):
        own = (truth.category_ids == number) & ~truth.crowd
        curve = precision[:, :, place, 0, -1]
        values = (curve, curve[_AP50], curve[_AP75], recall[:, place, 0, -1])
        rows.append(ClassScores(name, len(np.unique(truth.image_ids[own])), int(own.sum()), *map(_mean, values)))
    return tuple(rows)


def _notes(truth: GroundTruth, results: DetectionResults, numbers: dict, classes: Sequence[ClassScores]) -> list[str]:
    notes = []
    if absent := [one.name for one in classes if math.isnan(one.ap)]:
        notes.append(f"{len(absent)} of {len(classes)} classes have no box and no score: {_some(absent)}")
    if sizes := [area for area in AREAS[1:] if math.isnan(numbers[f"AP_{area}"])]:
        notes.append(f"no box is {' or '.join(sizes)}: AP and AR of that size are not defined")
    if flat := int((~truth.crowd & (truth.boxes[:, 2:] <= 0).any(axis=1)).sum()):
        notes.append(
            f"{counted(flat, 'box of the ground truth has', 'boxes of the ground truth have')} no area; no detection "
            "can match that, so it counts as missed"
        )
    if missing := len(truth.images) - len(results.images):
        notes.append(
            f"{missing} of {len(truth.images)} images are not in {results.source}; their boxes count as missed"
        )
    found, counts = np.unique(results.category_ids, return_counts=True)
    unknown = ~np.isin(found, list(truth.categories))
    if unknown.any():
        notes.append(
            f"{counts[unknown].sum()} of {len(results)} detections do not count: their category ids "
            f"({_some(found[unknown].tolist())}) are none of the ground truth's ({_some(list(truth.categories))})"
        )
    return notes


def _some(things: list) -> str:
    return ", ".join(map(str, things[:10])) + (", ..." if len(things) > 10 else "")


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _cell(value: float) -> float | str:
    return "-" if math.isnan(value) else value
