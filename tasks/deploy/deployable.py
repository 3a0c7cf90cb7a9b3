"""What leaves the house: a fused network that begins with pixels and ends in the form that is asked for.

Everything has the shapes that the image's size gives it, whatever the image holds, so that every exporter takes it.
What is not the network is a module of its own ("decoder", "nms") or has no weights, and stays floating point in int8.
"""

from collections.abc import Sequence
from typing import Any

import torch

from heads.static_nms import default_limit
from tasks.base.network import Deployable
from tasks.base.task import VisionTask
from tasks.classification.deployable import ClassificationDeployable
from tasks.detection.deployable import DetectionDeployable
from tasks.segmentation.deployable import SegmentationDeployable
from tasks.values.sizes import parse_size

FORMS = {  # by the task's kind, the default first
    "classification": ("logits", "probabilities"),
    "segmentation": ("logits", "argmax", "argmax_low", "low"),
    "detection": ("raw", "decoded", "nms"),
}


def make_deployable(
    task: VisionTask, *, form: str | None = None, image_size: int | Sequence[int] | None = None,
    limit: int | None = None, **selection: Any,
) -> Deployable:  # fmt: skip
    """Prepare a task's network for export.

    Args:
        task: Trained; it stays unchanged.
        form: One of `FORMS[task.kind]`; none: the first, what the network itself computes.
        image_size: (H, W) px of the images, or the side of a square; only detection has to know.
        limit: Of detection, the best anchors that are decoded, or the best (box, class) pairs that NMS looks at; none:
            four times `max_detections`, and 300 at least.
        selection: score_threshold, candidates, iou_threshold, max_detections of NMS, where they are not the task's own;
            block and rounds, as in `StaticNMS`.

    Returns:
        A fused copy in eval mode. Backbone and head are named "network.backbone" and "network.head".

    Raises:
        ValueError: The form is unknown, or detection lacks the image's size; options of NMS without NMS.
    """
    forms = FORMS[task.kind]
    form = forms[0] if form is None else form
    if form not in forms:
        raise ValueError(f"form={form}: expected one of {', '.join(forms)} for {task.kind}")
    if (selection and form != "nms") or (limit is not None and form not in ("nms", "decoded")):
        given = ", ".join([*selection, *(["limit"] if limit is not None else [])])
        raise ValueError(f"{given}: options of detection's form=nms (limit: of decoded too), not of form={form}")
    network = task.deployable().to(memory_format=torch.contiguous_format)  # what mobile runtimes start from
    if task.kind == "classification":
        return ClassificationDeployable(network, form).eval()
    if task.kind == "segmentation":
        return SegmentationDeployable(network, form).eval()
    if image_size is None:
        raise ValueError("detection has anchors for images of one size; give image_size=(H, W)")
    chosen = task.selection | selection
    limit = default_limit(chosen["max_detections"]) if limit is None else limit
    size = parse_size(image_size, "image_size")
    return DetectionDeployable(network, form, size, limit, chosen, task.classes.names).eval()
