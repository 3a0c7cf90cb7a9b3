"""SSDLite: SSD with depthwise separable prediction layers, in its published forms.

Source: Sandler et al. 2018, "MobileNetV2", section 6.2; its levels on MobileNetV3: Howard et al. 2019, "Searching for
MobileNetV3", section 6.3. The forms: torchvision's `ssdlite320_mobilenet_v3_large`, TensorFlow's Object Detection API
(`ssdlite_mobilenet_v3_large_320x320_coco.config`), mmdetection (`ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py`).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.base import Norm, Tap, select_taps
from backbones.blocks.layers import ConvNormAct
from backbones.weights.loading import load_weights
from backbones.weights.names import conv_norm_names, openmmlab_names
from heads.anchors import box_shapes, default_boxes
from heads.base import SIGMOID, SOFTMAX, DetectionHead
from heads.box_coding import FORMULA, LARGEST_LOG_RATIO, VARIANCES, decode
from heads.sparse_gradient import SparseGradientConv

FIRST, SECOND = ("c5_exp", "c4"), ("final", "c5")
EXTRA_CHANNELS = (512, 256, 256, 128)
FOREGROUND_PRIOR = -4.6  # logit of 0.01: focal loss starts from few false alarms (Lin et al. 2017, section 4.1)


class SSDLite(DetectionHead):
    """SSDLite: two levels from the backbone, further ones by strided blocks, a pair of prediction layers for each.

    The first level reads c5_exp, or c4 of a backbone without expanded features. The second reads final, or c5 of a
    backbone without a closing 1x1 convolution.

    Raw predictions: {"box_deltas": (N, A, 4), "class_logits": (N, A, K + 1), the background first} with
    score_type="softmax", (N, A, K) with score_type="sigmoid"; deltas as in `heads.box_coding`.

    Args:
        taps: What the backbone offers.
        num_classes: Number of classes without the background.
        first, second: Tap of the level; of several names the first that is offered.
        finest: Tap of one more level before the first, for small objects ("c3": stride 8); None has no such level.
        extra_channels: Channels of the further levels, each of half its predecessor's resolution.
        score_type: "softmax" (torchvision, mmdetection) or "sigmoid" (TensorFlow: biases for the focal loss, and all
            weights drawn within two standard deviations).
        scales, ratios, reduced_first: Default boxes, as in `box_shapes`.
        square_boxes: As in `default_boxes`.
        prediction_std: Standard deviation of the prediction layers' initial weights; the extra levels have 0.03.
        norm: Function from a channel count to a norm; by default BatchNorm with eps 0.001 and momentum 0.03, as in all
            three forms.
        weights: File of torchvision's SSDLite (score_type="softmax") or of ours, as in `load_weights`.

    Raises:
        ValueError: A tap is not offered; unknown `score_type`; scales that are no numbers, or do not fit the levels.
    """

    SCORE_TYPES = ("softmax", "sigmoid")

    norm_eps = MappingProxyType({"ours": 0.001})  # that weights of this head were trained with, torchvision's too

    def __init__(
        self, taps: Sequence[Tap], num_classes: int, *, first: str | Sequence[str] = FIRST,
        second: str | Sequence[str] = SECOND, finest: str | Sequence[str] | None = None,
        extra_channels: Sequence[int] = EXTRA_CHANNELS, score_type: str = "softmax",
        scales: Sequence[float] = (0.2, 0.95), ratios: Sequence[float] = (2, 3), reduced_first: bool = False,
        square_boxes: bool = False, prediction_std: float = 0.03, norm: Norm | None = None, weights: str | None = None,
    ) -> None:  # fmt: skip
        read = {"head.first": first, "head.second": second}
        read = read if finest is None else {"head.finest": finest, **read}
        super().__init__(select_taps(taps, names=tuple(read.values()), settings=tuple(read)), num_classes)
        if score_type not in self.SCORE_TYPES:
            raise ValueError(f"score_type={score_type}: expected one of {', '.join(self.SCORE_TYPES)}")
        if isinstance(scales, str):
            raise ValueError(
                f"head.scales={scales}: expected numbers; auto is for what has data to fit them to: training, and "
                "tools/data.py action=check"
            )
        norm = norm or partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        self.score_type, self.square_boxes = score_type, square_boxes
        channels = [*(tap.channels for tap in self.taps), *extra_channels]
        deepest = self.taps[-1].stride
        self.strides = [*(tap.stride for tap in self.taps), *(deepest << k + 1 for k in range(len(extra_channels)))]
        self.shapes = box_shapes(len(channels), scales, ratios, reduced_first=reduced_first)
        self.extra = nn.ModuleList(_extra_level(*pair, norm) for pair in pairwise(channels[len(self.taps) - 1 :]))
        self.class_columns = num_classes + (score_type == "softmax")
        levels = list(zip(channels, map(len, self.shapes), strict=True))
        self.box_layers = nn.ModuleList(_prediction(width, 4 * boxes, norm) for width, boxes in levels)
        self.class_layers = nn.ModuleList(
            _prediction(width, self.class_columns * boxes, norm) for width, boxes in levels
        )
        self._anchors: dict[tuple, Tensor] = {}
        self._init_weights(prediction_std)
        if weights is not None:
            load_weights(self, weights)

    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> dict[str, Tensor]:
        """Return {"box_deltas", "class_logits"}, which do not depend on `image_size` = (H, W)."""
        maps = [features[tap.name] for tap in self.taps]
        for level in self.extra:
            maps.append(level(maps[-1]))
        return {
            "box_deltas": _rows(self.box_layers, maps, 4),
            "class_logits": _rows(self.class_layers, maps, self.class_columns),
        }

    def anchors(self, image_size: tuple[int, int]) -> Tensor:
        """Compute the default boxes of images of (H, W) px: (A, 4) float32 xyxy, px, on the device of the head.

        They are kept by size, so a call before an export makes them a constant there.
        """
        device = next(self.parameters()).device
        key = (tuple(image_size), device)
        if key in self._anchors:
            return self._anchors[key]
        height, width = image_size
        grids = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        with torch.inference_mode(False):
            anchors = default_boxes(self.shapes, grids, image_size, square=self.square_boxes).to(device)
        if not torch.compiler.is_compiling():  # what is traced is no tensor to keep
            self._anchors[key] = anchors
        return anchors

    def decode(
        self, raw: Mapping[str, Tensor], image_size: tuple[int, int], *, anchors: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (N, A, 4) float32 xyxy, px, clipped, and scores (N, A, num_classes) float32."""
        logits = raw["class_logits"].float()
        scores = logits.softmax(-1)[..., 1:] if self.score_type == "softmax" else logits.sigmoid()
        anchors = self.anchors(image_size) if anchors is None else anchors
        return decode(raw["box_deltas"], anchors, image_size), scores

    def code(self) -> dict[str, Any]:
        softmax = self.score_type == "softmax"
        return {
            "score_type": self.score_type, "background": 0 if softmax else None, "variances": VARIANCES,
            "largest_log_ratio": LARGEST_LOG_RATIO, "formula": [*FORMULA, *(SOFTMAX if softmax else SIGMOID)],
        }  # fmt: skip

    def class_outputs(self) -> dict[str, int]:
        return {f"class_layers.{level}.1": self.class_columns - self.num_classes for level in range(len(self.shapes))}

    @classmethod
    def known_with(cls, backbone: Mapping[str, str]) -> dict[str, str]:
        whole = {"mobilenet_v3_large": "ssdlite320_mobilenet_v3_large"}.get(backbone.get("torchvision", ""))
        return {"torchvision": whole} if whole else {}

    def source_names(self) -> dict[str, dict[str, str]]:
        if self.score_type != "softmax" or len(self.taps) > 2:
            return {}
        names: dict[str, str] = {}
        for level in range(len(self.extra)):
            for part in range(3):
                names |= conv_norm_names(f"extra.{level}.{part}", f"backbone.extra.{level}.{part}")
        for ours, theirs in (("box_layers", "regression_head"), ("class_layers", "classification_head")):
            for level in range(len(self.shapes)):
                place = f"head.{theirs}.module_list.{level}"
                names |= conv_norm_names(f"{ours}.{level}.0", f"{place}.0") | {f"{ours}.{level}.1": f"{place}.1"}
        return {"torchvision": names, "mmdetection": self._openmmlab_names()}

    def _openmmlab_names(self) -> dict[str, str]:
        """Map names to mmdetection's SSDNeck and SSDHead; its class layers have the background last."""
        names: dict[str, str] = {}
        for level, layers in enumerate(self.extra.children()):
            place = f"neck.extra_layers.{level}"
            parts = zip(layers.named_children(), ("0", "1.depthwise_conv", "1.pointwise_conv"), strict=True)
            for (part, layer), theirs in parts:
                names |= openmmlab_names(layer, f"extra.{level}.{part}", f"{place}.{theirs}")
        for ours, theirs in (("box_layers", "reg_convs"), ("class_layers", "cls_convs")):
            for level, layer in enumerate(getattr(self, ours)):
                place = f"bbox_head.{theirs}.{level}"
                names |= openmmlab_names(layer[0], f"{ours}.{level}.0", f"{place}.0")
                names[f"{ours}.{level}.1"] = f"{place}.1"
        return names

    def unfit_sources(self) -> dict[str, str]:
        return {"mmdetection": "its class layers have the background last; weights= takes the whole network's file"}

    def _init_weights(self, prediction_std: float) -> None:
        reach = 2 if self.score_type == "sigmoid" else torch.inf  # in standard deviations
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                std = 0.03 if name.startswith("extra.") else prediction_std
                nn.init.trunc_normal_(module.weight, std=std, a=-reach * std, b=reach * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.score_type == "sigmoid":
            for layer in self.class_layers:
                nn.init.constant_(cast(Any, layer)[-1].bias, FOREGROUND_PRIOR)


def _extra_level(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    between, block = out_channels // 2, partial(ConvNormAct, norm=norm, activation=nn.ReLU6)
    return nn.Sequential(
        block(in_channels, between), block(between, between, 3, 2, groups=between), block(between, out_channels)
    )


def _prediction(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    depthwise = ConvNormAct(in_channels, in_channels, 3, groups=in_channels, norm=norm, activation=nn.ReLU6)
    return nn.Sequential(depthwise, SparseGradientConv(in_channels, out_channels))


def _rows(layers: nn.ModuleList, maps: Sequence[Tensor], columns: int) -> Tensor:
    """Predictions of all levels, a row for each anchor: (N, A, columns)."""
    outputs = (layer(x).permute(0, 2, 3, 1).flatten(1) for layer, x in zip(layers, maps, strict=True))
    return torch.cat([output.unflatten(1, (-1, columns)) for output in outputs], dim=1)
