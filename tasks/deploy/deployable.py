"""What leaves the house: a fused network that begins with pixels and ends in the form that is asked for.

Everything has the shapes that the image's size gives it, whatever the image holds, so that every exporter takes it.
What is not the network is a module of its own ("decoder", "nms") or has no weights, and stays floating point in int8.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.base import DetectionHead
from heads.static_nms import StaticNMS, best_anchors, default_limit
from tasks.base import VisionTask
from tasks.deploy.backend import Deployable
from tasks.network import Network
from tasks.sizes import parse_size

FORMS = {  # by the task's kind, the default first
    "classification": ("logits", "probabilities"),
    "segmentation": ("logits", "argmax", "argmax_low", "low"),
    "detection": ("raw", "decoded", "nms"),
}


class ClassificationDeployable(Deployable):
    """Class scores of the image, (N, K) float32: "logits", or their softmax as "probabilities"."""

    def __init__(self, network: Network, form: str) -> None:
        super().__init__()
        self.network, self.form, self.outputs = network, form, (form,)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        logits = self.network(images.float())
        return (logits if self.form == "logits" else logits.softmax(-1),)


class SegmentationDeployable(Deployable):
    """Class scores or classes of the pixels.

    "logits" are (N, K, H, W) float32. The other forms give "classes", as bytes: "argmax" (N, H, W) of those logits, as
    `SegmentationTask.predict` does; "argmax_low" (N, H, W), decided at the head's own resolution and then repeated,
    which spares the upsampling of K maps; "low" (N, h, w) at that resolution, for the caller to enlarge.

    Bytes are the smallest that ONNX Runtime, ExecuTorch and LiteRT give out. Core ML knows int32 instead, and ncnn
    float32: their backends turn them so.
    """

    def __init__(self, network: Network, form: str) -> None:
        super().__init__()
        self.network, self.form = network, form
        self.outputs = ("logits",) if form == "logits" else ("classes",)
        self.stride = min(tap.stride for tap in network.head.taps)  # of the map that a decoder ends at

    def forward(self, images: Tensor) -> tuple[Tensor]:
        images, size = images.float(), tuple(images.shape[-2:])
        if self.form == "logits":
            return (self.network(images),)
        if self.form == "argmax":
            return (self.network(images).argmax(1).to(torch.uint8),)
        # for predictions of the size that the head has anyway it does not resample
        classes = self.network(images, tuple(-(-side // self.stride) for side in size)).argmax(1)
        if self.form == "argmax_low":
            classes = F.interpolate(classes[:, None].float(), size, mode="nearest")[:, 0]
        return (classes.to(torch.uint8),)


class DetectionDeployable(Deployable):
    """Boxes and scores.

    "raw" gives the head's maps under their own names. "decoded" gives the best anchors, the best first: "boxes"
    (N, k, 4) xyxy, px of the input, clipped to it, and "scores" (N, k, K) in [0, 1] without background;
    `heads.static_nms.select_from_decoded` finishes them. "nms" gives what `heads.static_nms.StaticNMS` selects: "boxes"
    (N, D, 4), "scores" (N, D), "labels" (N, D) int64, padded with label -1 (`heads.static_nms.unpadded`).

    Args:
        network, form: As in `make_deployable`.
        image_size: (H, W) px of the images, the only ones that it takes.
        limit: Anchors that are decoded, or (box, class) pairs that NMS looks at.
        selection: Of `StaticNMS`.
        classes: Names, for formats that write them into the artifact.
    """

    def __init__(
        self, network: Network, form: str, image_size: tuple[int, int], limit: int, selection: Mapping[str, Any],
        classes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes = tuple(classes)
        self.network, self.form, self.image_size, self.limit = network, form, image_size, limit
        if form == "raw":
            with torch.no_grad():
                self.outputs = tuple(network(torch.zeros(1, 3, *image_size, device=network.mean.device)))
            return
        self.outputs = ("boxes", "scores") if form == "decoded" else ("boxes", "scores", "labels")
        self.decoder = _Decoder(network.head, image_size)
        if form == "nms":
            self.nms = StaticNMS(limit=limit, **selection)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(
                "this detector's anchors are for images of {}x{} px, not {}x{}; make another".format(
                    *self.image_size, *images.shape[-2:]
                )
            )
        raw = self.network(images.float())
        if self.form == "raw":
            return tuple(raw.values())
        boxes, scores = self.decoder(raw)
        return best_anchors(boxes, scores, self.limit) if self.form == "decoded" else self.nms(boxes, scores)


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


class _Decoder(nn.Module):
    """The head's own decoding, with anchors that were computed once and are a buffer from then on."""

    anchors: Tensor

    def __init__(self, head: DetectionHead, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size, self.decode = image_size, head.decode  # bound: the head itself is the network's module
        self.register_buffer("anchors", head.anchors(image_size).clone(), persistent=False)

    def forward(self, raw: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.decode(raw, self.image_size, anchors=self.anchors)
