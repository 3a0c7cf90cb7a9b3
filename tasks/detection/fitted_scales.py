"""Settings of a head that fit the boxes that are trained on: `head.scales=auto` in numbers, and advice on others."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from heads.base import DetectionHead
from heads.gfl_lite import GFLLite
from heads.ssdlite import SSDLite
from tasks.base.build import Config, build_whole_network
from tasks.base.plain_config import plain
from tasks.data.annotations import Annotations
from tasks.data.detection import DetectionData
from tasks.detection.anchor_fit import anchor_fit, fit_scales
from tasks.detection.anchor_reach import REACH_IMAGES, boxes_of

logger = logging.getLogger(__name__)

AUTO, ANY = "auto", [0.2, 0.95]
ADVISED = 0.05  # share of boxes out of reach from which other settings are searched
ADVISED_BOXES = 150  # by which they are compared: a run should begin at once


def with_fitted_scales(config: Config, data: DetectionData, losses: Mapping[str, Callable]) -> Config:
    """Fit the scales of SSD's default boxes where a configuration has `head.scales=auto`.

    Args:
        config: With backbone, head and task.
        data: What is trained on; images of unknown size are passed over.
        losses: {score type of a head: its loss}.

    Returns:
        A copy whose head has numbers; the configuration as it is where there is nothing to fit.

    Raises:
        ValueError: There are no boxes to fit them to.
    """
    if config["head"].get("scales") != AUTO:
        return config
    given, config = config, config.copy()
    config["head"] = {**plain(config["head"]), "scales": ANY}
    head = build_whole_network(config, data.num_classes, pretrained=False).head
    if not isinstance(head, SSDLite):
        return given
    annotations = data.annotations("train")
    boxes, _ = boxes_of(annotations, annotations.sizes)
    if not boxes:
        raise ValueError(
            f"head.scales={AUTO}: no image of the training set has boxes and a known size to fit them to; give numbers"
        )
    criterion = losses[head.score_type](**plain(config["task"].get("loss") or {}))
    scales = fit_scales(head, plain(config["head"]), boxes, data.image_size, criterion.match_threshold)
    config["head"]["scales"] = scales
    logger.info("head.scales=%s: [%s], fitted to the training boxes", AUTO, ", ".join(map(str, scales)))
    return config


def advice(
    head: DetectionHead, settings: Mapping[str, Any], threshold: float, annotations: Annotations,
    image_size: tuple[int, int],
) -> str:  # fmt: skip
    """Name settings of the head and the input's size that reach more boxes, where many are out of reach.

    Args:
        head, settings, threshold, image_size: As in `anchor_fit`.
        annotations: What is trained on.

    Returns:
        Words to stand behind those of `anchor_reach`; "" where there is nothing to say.
    """
    boxes, _ = boxes_of(annotations, annotations.sizes, most=REACH_IMAGES)
    if not boxes or not isinstance(head, SSDLite | GFLLite):
        return ""
    report = anchor_fit(head, settings, boxes, image_size, threshold, tried=ADVISED_BOXES)
    if report["matched"] > 1 - ADVISED or not report["suggestions"]:
        return ""
    found = (f"{1 - hint['matched']:.1%} with {hint['override']}" for hint in report["suggestions"])
    return f"; it would be {', '.join(found)}"
