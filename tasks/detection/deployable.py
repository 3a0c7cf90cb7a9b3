"""A detector as it is exported: pixels in; raw maps, decoded boxes or final detections out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from heads.base import DetectionHead
from heads.static_nms import StaticNMS, best_anchors
from tasks.base.network import Deployable, Network

OUTPUTS = ("raw", "boxes", "decoded", "nms")  # each needs more operators of a format than the one before
SELECTION = ("score_threshold", "candidates", "iou_threshold", "max_detections")  # of a DetectionTask
OPTIONS = {
    "raw": frozenset(),
    "boxes": frozenset(),
    "decoded": frozenset({"limit"}),
    "nms": frozenset({"limit", "block", "rounds", *SELECTION}),
}


def free_selection(selection: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the selection from a head that gives each box once: the best pairs, of which none is suppressed.

    >>> free_selection({"score_threshold": 0.1, "candidates": 9, "iou_threshold": 0.5, "max_detections": 100})
    {'score_threshold': 0.1, 'candidates': 100, 'iou_threshold': 1.0, 'max_detections': 100}
    """
    return {**selection, "candidates": selection["max_detections"], "iou_threshold": 1.0}


def held_output(asked: str, held: Sequence[str], limit: int | None = None, *, suppresses: bool = True) -> str:
    """The output that a format gets: what is asked for, or the next that it holds well.

    Suppression in plain operators is for formats that are quick at it; a `limit` makes it small enough for all that
    decode. Without suppression all of these give final detections, and "boxes" stand in where none can be picked.

    Args:
        asked: One of `OUTPUTS`.
        held: Those that the format holds well.
        limit: Of the export.
        suppresses: Whether the head needs suppression.

    Raises:
        ValueError: There is no such output.

    >>> held_output("nms", ("raw", "decoded"))
    'decoded'
    >>> held_output("nms", ("raw", "decoded"), limit=300)
    'nms'
    >>> held_output("nms", ("raw", "boxes"), suppresses=False), held_output("nms", ("raw", "boxes"))
    ('boxes', 'raw')
    """
    if asked not in OUTPUTS:
        raise ValueError(f"export.detections={asked}: expected one of {', '.join(OUTPUTS)}")
    able = {*held, *(["nms"] if (limit or not suppresses) and "decoded" in held else [])}
    able -= {"boxes"} if suppresses and asked != "boxes" else set()
    return next(output for output in reversed(OUTPUTS[: 1 + OUTPUTS.index(asked)]) if output in able)


def output_meaning(output: str, head: DetectionHead, selection: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what the numbers of an output mean, and what is left to do, as in `Manifest.decoding`."""
    described = {
        "boxes": {"format": "xyxy", "frame": "px of the input", "clipped": True},
        "scores": {"range": [0, 1], "background": None},
        "nms": {"inside": output == "nms", "of": "each class" if head.suppresses else None, **selection},
    }  # fmt: skip
    if output == "nms":
        described["padding"] = {"boxes": 0, "scores": 0, "labels": -1}
    return described | ({"raw": head.code()} if output == "raw" else {})


class DetectionDeployable(Deployable):
    """Boxes and scores.

    "raw" gives the head's maps under their own names. "boxes" gives "boxes" (N, A, 4) xyxy, px of the input, clipped to
    it, and "scores" (N, A, K) in [0, 1] without background, of every anchor. "decoded" gives the best anchors of these,
    the best first: (N, k, 4) and (N, k, K); `heads.static_nms.select_from_decoded` finishes both. "nms" gives what
    `heads.static_nms.StaticNMS` selects: "boxes" (N, D, 4), "scores" (N, D), "labels" (N, D) int64, padded with label
    -1 (`heads.static_nms.unpadded`).

    Args:
        network, output: As in `make_deployable`.
        image_size: (H, W) px of the images, the only ones that it takes.
        limit: Anchors that are decoded, or (box, class) pairs that NMS looks at.
        selection: Of `StaticNMS`.
        classes: Names, for formats that write them into the artifact.
    """

    def __init__(
        self, network: Network, output: str, image_size: tuple[int, int], limit: int, selection: Mapping[str, Any],
        classes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes = tuple(classes)
        self.network, self.output, self.image_size, self.limit = network, output, image_size, limit
        if output == "raw":
            with torch.no_grad():
                shape = (1, network.pixels.channels, *image_size)
                self.outputs = tuple(network(torch.zeros(shape, device=network.mean.device)))
            return
        self.outputs = ("boxes", "scores", "labels") if output == "nms" else ("boxes", "scores")
        if output != "boxes" and network.head.suppresses:
            self.notes = (f"looks at the {limit} best only (export.limit=): of more, the last are missing",)
        self.decoder = _Decoder(network.head, image_size)
        if output == "nms":
            self.nms = StaticNMS(limit=limit, **selection)

    @property
    def suppresses(self) -> bool:
        """Whether detections come out of non-maximum suppression."""
        return self.output == "nms" and self.network.head.suppresses

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(
                "this detector's anchors are for images of {}x{} px, not {}x{}; make another".format(
                    *self.image_size, *images.shape[-2:]
                )
            )
        raw = self.network(images.float())
        if self.output == "raw":
            return tuple(raw.values())
        boxes, scores = self.decoder(raw)
        if self.output == "boxes":
            return boxes, scores
        return best_anchors(boxes, scores, self.limit) if self.output == "decoded" else self.nms(boxes, scores)


class _Decoder(nn.Module):
    """The head's own decoding, with anchors that were computed once and are a buffer from then on."""

    anchors: Tensor

    def __init__(self, head: DetectionHead, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size, self.decode = image_size, head.decode  # bound: the head itself is the network's module
        self.register_buffer("anchors", head.anchors(image_size).clone(), persistent=False)

    def forward(self, raw: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.decode(raw, self.image_size, anchors=self.anchors)
