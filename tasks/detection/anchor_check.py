"""The part of a data check that says which boxes the anchors of a configuration's head fit."""

from collections.abc import Callable, Mapping

from heads.base import DetectionHead
from tasks.base.build import Config, build_whole_network, plain
from tasks.base.outcome import LISTED, Outcome
from tasks.data.detection import DetectionData
from tasks.data.looks import SplitLooks
from tasks.detection.anchor_fit import anchor_fit
from tasks.detection.anchor_reach import boxes_of
from tasks.detection.fitted_scales import with_fitted_scales
from tasks.values.counted import counted


def check_anchors(
    config: Config,
    data: DetectionData,
    found: Mapping[str, SplitLooks],
    outcome: Outcome,
    losses: Mapping[str, Callable],
) -> None:  # fmt: skip
    """Add to a check which training boxes the head cannot learn, and what would.

    Args:
        config: With backbone, head and task.
        data: What was looked at.
        found: What reading every sample of each split has shown.
        outcome: Of the check.
        losses: {score type of a head: its loss}.
    """
    split = "train" if "train" in found else next(iter(found))
    one = found[split]
    if one.dataset is None:
        return
    annotations = one.dataset.annotations
    known = annotations.sizes.tolist()
    sizes = [look.size if min(look.size) else known[k] for k, look in enumerate(one.looks)]
    boxes, images = boxes_of(annotations, sizes)
    if not boxes:
        return
    config = with_fitted_scales(config, data, losses)
    head = build_whole_network(config, data.num_classes, pretrained=False).head
    if not isinstance(head, DetectionHead):
        outcome.hints.append("task=detection   # and head=: tells which boxes no anchor fits, and what would fit them")
        return
    criterion = losses[head.score_type](**(config["task"].get("loss") or {}))
    threshold = getattr(criterion, "match_threshold", 0.0)
    report = anchor_fit(head, plain(config["head"]), boxes, data.image_size, threshold)
    unmatched, lost = report.pop("unmatched"), {tuple(entry) for entry in report.pop("lost_boxes")}
    report["unmatched"] = [
        {"image": annotations.name(images[place]), "box": _file_box(annotations, images[place], k),
         "match": value, "lost": (place, k) in lost} for place, k, value in unmatched[:LISTED]
    ]  # fmt: skip
    report |= {"split": split, "head": config["choices"].get("head"), "image_size": list(data.image_size),
               "images": len(images), "threshold": threshold}  # fmt: skip
    outcome.content["anchors"] = report
    measured = ("anchors", "matched", "forced", "lost")
    settings = ({"override": "now"} | report, *report["suggestions"])
    rows = [(one["override"], *(one[key] for key in measured)) for one in settings]
    size = "x".join(map(str, data.image_size))
    outcome.tables.append((
        f"{counted(report['boxes'], 'box', 'boxes')} of {split} and head={report['head']} at {size} px",
        ("settings", "anchors", "share matched", "only forced", "lost to another box"), rows,
    ))  # fmt: skip
    by_size = [(name, row["boxes"], "-" if row["matched"] is None else f"{row['matched']:.4f}")
               for name, row in report["by_size"].items()]  # fmt: skip
    outcome.tables.append((f"the same by area at {size} px", ("boxes", "number", "share matched"), by_size))
    if report["forced"]:
        outcome.warnings.append(
            f"{split}: {report['forced']} of {report['boxes']} boxes fit no anchor or point of head={report['head']} "
            f"at {size} px, and {report['lost']} share their nearest with another box and are never learnt"
        )
    outcome.hints += [
        f"{hint['override']}   # {hint['matched']:.1%} of the boxes matched, now {report['matched']:.1%}, by "
        f"{hint['anchors']:,} anchors, now {report['anchors']:,}; a match promises no score"
        for hint in report["suggestions"]
    ]


def _file_box(annotations, image: int, number: int) -> list[float]:
    return [round(float(value), 2) for value in annotations.targets(image)[0][number]]
