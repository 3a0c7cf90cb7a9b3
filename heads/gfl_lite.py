"""GFL-lite, an anchor-free detection head with a depthwise neck, light towers, and box edges as distributions."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.base import Norm, Tap, select_taps
from backbones.blocks.fusion import fuse_model
from backbones.blocks.layers import LeakyReLU, init_weights
from backbones.weights.loading import load_weights
from heads.assign_guide import AssignGuide
from heads.base import SIGMOID, DetectionHead
from heads.box_coding import clip
from heads.lite_pan import LitePAN, depthwise_separable
from heads.nanodet_names import guide_names, nanodet_names
from heads.nanodet_necks import AdditivePAN, GhostPAN

FORMULA = [  # `decode` for readers without torch, before clipping
    "logits = box_distributions.reshape(*box_distributions.shape[:-1], 4, bins)",
    "shares = np.exp(logits - logits.max(-1, keepdims=True))",
    "distances = (shares / shares.sum(-1, keepdims=True) * np.arange(bins)).sum(-1)",
    "centres, strides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]",
    "low, high = centres - distances[..., :2] * strides, centres + distances[..., 2:] * strides",
    "boxes = np.concatenate([low, high], -1)",
]
NECKS: dict[str, Any] = {"lite_pan": LitePAN, "ghost_pan": GhostPAN, "additive_pan": AdditivePAN}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "hardswish": nn.Hardswish, "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": LeakyReLU,
}  # fmt: skip
MANY = ("towers", "classifiers", "regressors")  # layers of the branch that learns many cells a box
ONE = "one_to_one"  # the branch that learns one
GUIDE = "guide"
PRIOR = 0.01  # score of every class before training, so that the many negatives do not swamp the first steps


class Branch(nn.Module):
    """Predictions of every level: a tower of depthwise separable convolutions, then classes and box edges.

    Args:
        levels: Number of levels, each with its own layers.
        num_classes: Classes.
        bins: Distances of each edge.
        channels, stacked, kernel_size, branches, norm, activation: As in `GFLLite`.
    """

    def __init__(
        self, levels: int, num_classes: int, bins: int, *, channels: int, stacked: int, kernel_size: int, **options: Any
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(*(depthwise_separable(channels, channels, kernel_size, **options) for _ in range(stacked)))
            for _ in range(levels)
        )
        self.classifiers = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for _ in range(levels))
        self.regressors = nn.ModuleList(nn.Conv2d(channels, 4 * bins, 1) for _ in range(levels))

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute "class_logits" (N, A, K) and "box_distributions" (N, A, 4 * bins) of maps (N, channels, h_i, w_i)."""
        return predictions(levels, self.towers, self.classifiers, self.regressors)


class GFLLite(DetectionHead):
    """Detection head that predicts class scores, and distances to the four edges of a box, at each cell of each level.

    A distance, in strides, is the mean of a distribution over the integers 0..reg_max. Scores carry the quality of the
    box, as the loss trains them, so there is no separate centre or objectness output. Each level has its own tower,
    since BatchNorm cannot be shared by levels of different statistics.

    With `nms_free` a second branch learns one cell a box, on maps through which no gradient goes back, beside the
    branch that learns many. In eval mode it alone predicts, so that nothing has to be suppressed, and `fuse` drops the
    other one. Of weights of a head without it both branches begin as copies.

    Hard swish is the default activation: it trains like swish and costs a clamp and a product on a phone. "relu6"
    suits exact int8.

    Args:
        taps: What the backbone offers.
        num_classes: Classes.
        levels: Taps from fine to coarse, each of twice the stride of the one before; of an entry with several names
            the first that is offered.
        channels: Width of neck and towers, even.
        stacked: Depthwise separable convolutions in a tower.
        kernel_size: Kernel size of all depthwise convolutions.
        reg_max: Largest distance in strides.
        extra_level: Add a level of twice the deepest stride.
        neck: "lite_pan"; "ghost_pan", that of NanoDet-Plus; "additive_pan", that of NanoDet, without an extra level.
        centred: Distances begin at the centres of the cells; False: at their upper left corners, as in NanoDet-Plus.
        nms_free: Predict each box once.
        guided: Have an `AssignGuide` in training, which `fuse` drops.
        branches: Parallel depthwise convolutions of each layer of a tower, beside a 1x1 branch and the input, which
            fuse to one; 0: a single one.
        norm: Function from a channel count to a norm.
        activation: One of `ACTIVATIONS`, or a class.
        weights: File of ours, as in `load_weights`.

    Raises:
        ValueError: A tap is not offered; strides do not double from level to level; `channels` is odd; unknown `neck`
            or `activation`; an extra level of a neck that has none; `guided` with `nms_free`.

    Source: Li et al. 2020, "Generalized Focal Loss"; the light form: Yu et al. 2021, "PP-PicoDet", and NanoDet-Plus;
    the branch without suppression: Wang et al. 2024, "YOLOv10", section 3.1.
    """

    score_type = "distribution"
    bins: Tensor

    def __init__(
        self, taps: Sequence[Tap], num_classes: int, *, levels: Sequence[str | Sequence[str]] = ("c3", "c4", "c5"),
        channels: int = 96, stacked: int = 2, kernel_size: int = 5, reg_max: int = 7, extra_level: bool = True,
        neck: str = "lite_pan", centred: bool = True, nms_free: bool = False, guided: bool = False,
        branches: int = 0, norm: Norm = nn.BatchNorm2d, activation: str | type[nn.Module] = "hardswish",
        weights: str | None = None,
    ) -> None:  # fmt: skip
        chosen = select_taps(taps, names=levels, settings=("head.levels",))
        if any(coarse.stride != 2 * fine.stride for fine, coarse in pairwise(chosen)):
            raise ValueError(
                f"levels={[tap.name for tap in chosen]} have strides {[tap.stride for tap in chosen]}, each has to be "
                "twice the one before; set backbone.output_stride=32, or name other levels"
            )
        if branches < 0:
            raise ValueError(f"head.branches={branches}: expected 0 or more")
        if guided and nms_free:
            raise ValueError("head.guided=true and head.nms_free=true do not go together; set one of them false")
        if channels % 2:
            raise ValueError(f"channels={channels}: expected an even number")
        for key, value, known in (("neck", neck, NECKS), ("activation", activation, ACTIVATIONS)):
            if isinstance(value, str) and value not in known:
                raise ValueError(f"head.{key}={value}: expected one of {', '.join(known)}")
        super().__init__(chosen, num_classes)
        self.strides = [tap.stride for tap in chosen] + ([2 * chosen[-1].stride] if extra_level else [])
        self.centred, self.nms_free, self.suppresses, self.guided = centred, nms_free, not nms_free, guided
        self.stacked, self.branches = stacked, branches
        activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation
        options: dict[str, Any] = {"kernel_size": kernel_size, "norm": norm, "activation": activation}
        widths = [tap.channels for tap in chosen]
        self.neck = _neck(neck, widths, channels, extra_level=extra_level, **options)
        options |= {"channels": channels, "stacked": stacked, "branches": branches}
        many = Branch(len(self.strides), num_classes, reg_max + 1, **options)
        one = Branch(len(self.strides), num_classes, reg_max + 1, **options) if nms_free else None
        self.towers, self.classifiers, self.regressors = many.towers, many.classifiers, many.regressors
        if one:
            self.one_to_one = one
        init_weights(self)
        for branch in filter(None, (many, one)):
            for conv in (*branch.classifiers, *branch.regressors):
                nn.init.normal_(cast(nn.Conv2d, conv).weight, std=0.01)
            for conv in branch.classifiers:
                nn.init.constant_(cast(Tensor, conv.bias), -math.log(1 / PRIOR - 1))
        if guided:
            guide = (self.neck, len(self.strides), num_classes, reg_max + 1)
            self.guide = AssignGuide(*guide, channels=channels, activation=activation)
            nn.init.constant_(cast(Tensor, self.guide.classifier.bias), -math.log(1 / PRIOR - 1))
        self.register_buffer("bins", torch.arange(reg_max + 1, dtype=torch.float32), persistent=False)
        if weights is not None:
            load_weights(self, weights)

    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> dict[str, Tensor]:
        """Compute logits at every cell, levels from fine to coarse, each row by row.

        Returns:
            "class_logits" (N, A, num_classes) and "box_distributions" (N, A, 4 * bins): for left, top, right and
            bottom the logits of distances of 0..reg_max strides. With `nms_free` those of one cell a box; in training
            also "dense_class_logits" and "dense_box_distributions", those of many; of a head that is `guided`
            "guide_class_logits" and "guide_box_distributions".
        """
        maps = [features[tap.name] for tap in self.taps]
        levels = self.neck(maps)
        if not self.nms_free:
            found = predictions(levels, self.towers, self.classifiers, self.regressors)
            guide = self.guide(maps, levels) if self.training and self.guided else {}
            return found | {f"{GUIDE}_{name}": x for name, x in guide.items()}
        if not (self.training and hasattr(self, "towers")):
            return self.one_to_one(levels)
        dense = predictions(levels, self.towers, self.classifiers, self.regressors)
        return self.one_to_one([x.detach() for x in levels]) | {f"dense_{name}": x for name, x in dense.items()}

    def fuse(self) -> nn.Module:
        twin = copy.copy(self)
        twin.guided = False
        dropped = (GUIDE, *(MANY if self.nms_free else ()))
        kept = {name: part for name, part in self._modules.items() if name not in dropped}
        twin._modules = {name: fuse_model(part) if part else part for name, part in kept.items()}
        return twin

    def code(self) -> dict[str, Any]:
        return {
            "score_type": self.score_type, "background": None, "bins": len(self.bins),
            "formula": [*FORMULA, *SIGMOID],
        }  # fmt: skip

    def source_names(self) -> dict[str, dict[str, str]]:
        """Map NanoDet's names; of a head of `nms_free` also those of one branch, of which both are copies then."""
        theirs = {} if self.branches else nanodet_names(self.neck, self.stacked, len(self.strides))
        if self.guided:
            theirs |= guide_names(theirs, len(self.guide.class_tower), len(self.strides))
        offered = {"nanodet": theirs} if theirs else {}
        if not self.nms_free:
            return offered
        offered["one branch"] = {name: name for name, _ in self.named_modules() if not name.startswith(ONE)}
        return {naming: names | {f"{ONE}.{name}": other for name, other in names.items() if name.startswith(MANY)}
                for naming, names in offered.items()}  # fmt: skip

    def class_outputs(self) -> dict[str, int]:
        branches = ("", f"{ONE}.") if self.nms_free else ("",)
        layers = [f"{branch}classifiers.{level}" for branch in branches for level in range(len(self.strides))]
        return dict.fromkeys([*layers, *([f"{GUIDE}.classifier"] if self.guided else ())], 0)

    def anchors(self, image_size: tuple[int, int]) -> Tensor:
        """Compute the cells, (A, 4) float32 xyxy, px: squares with the stride as their side, round the points."""
        cells = []
        for stride in self.strides:
            y, x = (torch.arange(math.ceil(size / stride), device=self.bins.device) * stride for size in image_size)
            corners = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
            corners = corners if self.centred else corners - stride // 2
            cells.append(torch.cat([corners, corners + stride], dim=1))
        return torch.cat(cells).float()

    def distances(self, box_distributions: Tensor) -> Tensor:
        """Average distances to left, top, right and bottom: (..., 4 * bins) logits -> (..., 4) float32, in strides."""
        shares = box_distributions.float().unflatten(-1, (4, len(self.bins))).softmax(dim=-1)
        return (shares * self.bins).sum(dim=-1)

    def decode(
        self, raw: Mapping[str, Tensor], image_size: tuple[int, int], *, anchors: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute boxes (N, A, 4), clipped to the image, and scores (N, A, num_classes), as in `DetectionHead`."""
        anchors = self.anchors(image_size) if anchors is None else anchors
        boxes = boxes_from_distances(anchors, self.distances(raw["box_distributions"]))
        return clip(boxes, image_size), raw["class_logits"].float().sigmoid()


def boxes_from_distances(anchors: Tensor, distances: Tensor) -> Tensor:
    """Compute boxes from distances to the centres of cells.

    Args:
        anchors: (A, 4) xyxy cells, px.
        distances: (..., A, 4) to left, top, right and bottom edges, in strides; positive where the centre is inside.

    Returns:
        (..., A, 4) xyxy, px.

    >>> boxes_from_distances(torch.tensor([[8.0, 8.0, 16.0, 16.0]]), torch.tensor([[1.0, 0.5, 1.0, 2.0]]))
    tensor([[ 4.,  8., 20., 28.]])
    """
    centres, stride = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    return torch.cat([centres - distances[..., :2] * stride, centres + distances[..., 2:] * stride], dim=-1)


def distances_to_boxes(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Compute the distances of `boxes_from_distances`, for cells and boxes of equal shape (..., 4).

    >>> distances_to_boxes(torch.tensor([[8.0, 8.0, 16.0, 16.0]]), torch.tensor([[4.0, 8.0, 20.0, 28.0]]))
    tensor([[1.0000, 0.5000, 1.0000, 2.0000]])
    """
    centres, stride = (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:] - anchors[..., :2]
    return torch.cat([(centres - boxes[..., :2]) / stride, (boxes[..., 2:] - centres) / stride], dim=-1)


def predictions(
    levels: Sequence[Tensor], towers: Iterable[nn.Module], classifiers: Iterable[nn.Module],
    regressors: Iterable[nn.Module],
) -> dict[str, Tensor]:  # fmt: skip
    """Compute "class_logits" and "box_distributions" of all levels, as in `Branch`, by each level's own layers."""
    maps = [tower(x) for tower, x in zip(towers, levels, strict=True)]
    logits = [_by_cell(conv(x)) for conv, x in zip(classifiers, maps, strict=True)]
    distributions = [_by_cell(conv(x)) for conv, x in zip(regressors, maps, strict=True)]
    return {"class_logits": torch.cat(logits, dim=1), "box_distributions": torch.cat(distributions, dim=1)}


def _neck(name: str, in_channels: Sequence[int], channels: int, *, extra_level: bool, **options: Any) -> nn.Module:
    if name != "additive_pan":
        return NECKS[name](in_channels, channels, extra_level=extra_level, **options)
    if extra_level:
        raise ValueError("head.neck=additive_pan has no extra level; set head.extra_level=false")
    return AdditivePAN(in_channels, channels)


def _by_cell(x: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h * w, C); free where memory is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
