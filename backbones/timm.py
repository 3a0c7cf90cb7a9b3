"""Any timm model with feature maps as a backbone.

Source: the models and their `forward_intermediates`, `prune_intermediate_layers` and `feature_info` are timm's
(https://github.com/huggingface/pytorch-image-models), an optional extra.
"""

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from math import log2
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones.base import Backbone, Tap, select_taps, spread
from backbones.blocks.dilation import dilate, undilate
from backbones.blocks.fusion import fold_bn_into_conv
from backbones.timm_library import import_timm
from backbones.variants import Published, Variant
from backbones.weights.loading import load_weights
from backbones.weights.names import efficientnet_names

logger = logging.getLogger(__name__)

VARIANTS = {"timm": Variant(Published(None, None, None, "timm's results/results-imagenet.csv, by backbone.name"))}


class TimmBackbone(Backbone):
    """A timm model without its classifier.

    Taps: the last map of each depth in timm's `feature_info`, c1..c5 as far as the model has them (transformers on
    patches begin at c2, plain vision transformers have c4 only), and `final` where it is asked for and exists; no
    c5_exp. Maps of fewer than ceil(size / stride) px, from models that pad less, are extended by repeating their
    borders; maps of more, from models that stretch them to whole patches, are resized.
    Models of a fixed image size (most transformers) take theirs through `model_options={"img_size": [H, W]}`.

    Args:
        name: timm's name of the model, with its pretrained tag where one is wanted ("mobilenetv3_large_100.ra_in1k").
        output_stride: 8, 16 or 32. A model that takes none itself is dilated as `dilate` does.
        in_channels: As in `Backbone`.
        final: Offer as `final` the output of a closing convolution behind the last map, which the classifier pools.
        pretrained: Download timm's weights.
        model_options: Further keywords of `timm.create_model`.
        widths: Refused: timm's models do not name theirs.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such model, it gives no feature maps, or it cannot be dilated (windows of a
            fixed size, maps added across resolutions).
        OSError: Pretrained weights could not be downloaded.
    """

    def __init__(
        self, name: str, *, output_stride: int = 32, in_channels: int = 3, final: bool = False,
        pretrained: bool = False, model_options: dict[str, Any] | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        self.known_as = {"timm": name}
        options = dict(model_options or {}) | {"in_chans": in_channels}
        model = _create(name, options, pretrained)
        maps = getattr(model, "feature_info", None)
        if not maps or not hasattr(model, "forward_intermediates"):
            raise ValueError(f"timm's {name} gives no feature maps: it has no forward_intermediates and feature_info")
        depths = [log2(entry["reduction"]) for entry in maps]  # before dilation: names follow depth
        if not all(depth.is_integer() for depth in depths):
            strides = ", ".join(str(entry["reduction"]) for entry in maps)
            raise ValueError(f"timm's {name} has maps of strides {strides}; taps need powers of two")
        if output_stride < min(32, max(entry["reduction"] for entry in maps)):
            try:
                model = _create(name, options | {"output_stride": output_stride}, pretrained)
            except (TypeError, AssertionError, NotImplementedError):  # it takes none itself
                self._dilate(model)
        last = {int(depth): index for index, depth in enumerate(depths) if depth >= 1}
        for depth, index in last.items():
            stride = min(2**depth, output_stride) if output_stride < 32 else 2**depth
            tap = Tap(f"c{depth}", maps[index]["num_chs"], stride)
            self._taps[tap.name] = tap, index
            self._ends[tap.name] = maps[index]["module"]
        if final and model.num_features != maps[-1]["num_chs"]:
            stride = min(maps[-1]["reduction"], output_stride) if output_stride < 32 else maps[-1]["reduction"]
            self._taps["final"] = Tap("final", model.num_features, stride), len(maps) - 1
        self.norm_eps: dict[str, float | None] = {
            "ours": None,
            "timm": None,
            "lukemelas": 0.001,
            "efficientnet_lite": 0.001,
        }
        if "bn_eps" in options:  # the weights are those of the model as it is
            usual = _create(name, {"in_chans": in_channels}, False)
            self.norm_eps |= dict.fromkeys(("ours", "timm"), usual.bn1.eps)
        self.mean, self.std = (spread(model.pretrained_cfg[key], in_channels) for key in ("mean", "std"))
        self.model: Any = model
        self._deepest: tuple[str, int] | None = None
        self._prune()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        size, taps = images.shape[-2:], {tap.name: tap for tap in self.taps}
        return {name: _extended(x, size, taps[name]) for name, x in self._maps(self.model, images).items()}

    def _maps(self, model: Any, images: Tensor) -> dict[str, Tensor]:
        names, indices = list(self._taps), self._indices()
        if names[-1] != "final":
            maps = model.forward_intermediates(images, indices=indices, intermediates_only=True)
            return dict(zip(names, maps, strict=True))
        last, maps = model.forward_intermediates(images, indices=indices)
        return dict(zip(names, [*maps[: len(names) - 1], last], strict=True))

    def keep_taps(self, names) -> "TimmBackbone":
        kept = {tap.name for tap in select_taps(self.taps, names=tuple(names))}
        self._taps = {name: entry for name, entry in self._taps.items() if name in kept}
        self._prune()
        return self

    def modules_until(self, end: str) -> list[nn.Module]:
        """As in `Backbone`; timm registers its modules in the order in which they run."""
        if end == "final" and "final" in self._taps:
            return list(self.children())
        if end not in self._ends:
            return super().modules_until(end)
        parts: list[nn.Module] = []
        for name, module in self.model.named_modules():
            if name == self._ends[end]:
                return [*parts, module]
            if not f"{self._ends[end]}.".startswith(f"{name}." if name else ""):
                parts.append(module)
        raise ValueError(f"timm's {self.known_as['timm']} has no part {self._ends[end]}; freeze all, or nothing")

    @torch.inference_mode(False)  # in it torch hands convolutions on whole, unseen by `_Readers`
    def fuse(self) -> nn.Module:
        """Copy the backbone with timm's own branches merged and BatchNorms folded, in float64.

        The copy equals this model: both are compared, and a copy that differs stays unfused, with a warning. A
        BatchNorm is folded where one forward shows it to be the only reader of a convolution's output. A BatchNorm
        before its convolution, other norms, and convolutions that compute their kernel stay.
        """
        exact, usual, first = copy.deepcopy(self).double(), torch.get_default_dtype(), next(self.parameters())
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(self._probe_shape(self.model), dtype=torch.float64, generator=generator).to(first.device)
        twin = copy.deepcopy(exact)
        with torch.no_grad():
            expected = exact(images)
            undilate(twin.model)
            try:
                torch.set_default_dtype(torch.float64)  # timm makes merged convolutions of the default type
                twin.model = import_timm("backbone=timm").utils.model.reparameterize_model(twin.model)
            finally:
                torch.set_default_dtype(usual)
            if any(hasattr(part, "undilated") for part in self.model.modules()):
                dilate(twin.model, images, self.output_stride, lambda images: self._maps(twin.model, images))
            with _Readers(twin) as readers:
                features = self._maps(twin.model, images)
            for conv, norm in readers.pairs(features.values()):
                _fold(twin, conv, norm)
            actual = twin.eval()(images)
        if any((actual[name] - x).abs().max() > 1e-9 * x.abs().max() for name, x in expected.items()):
            logger.warning("timm's %s stays unfused: its fused copy computes something else", self.known_as["timm"])
            return copy.deepcopy(self)
        return twin.to(first.dtype)

    def source_names(self) -> dict[str, dict[str, str]]:
        names = {f"model.{name}".rstrip("."): name for name, _ in self.model.named_modules()}
        return {"timm": names} | efficientnet_names(self.model)

    def unfit_sources(self) -> dict[str, str]:
        name = self.known_as["timm"]
        others = {
            "lukemelas": ("TensorFlow's padding", f"tf_{name}"),
            "efficientnet_lite": ("even padding", name.removeprefix("tf_")),
        }
        return {
            naming: f"these weights, by the names of {naming}, were trained with {padding}; take backbone.name={other}"
            for naming, (padding, other) in others.items()
            if name.startswith("tf_") != (naming == "lukemelas")
        }

    def _indices(self) -> list[int]:
        return sorted({index for _, index in self._taps.values()})

    def _prune(self) -> None:
        deepest = list(self._taps)[-1], self._indices()[-1]
        if deepest != self._deepest:  # timm does not prune twice at the same place
            rest = deepest[0] != "final"  # timm counts the closing convolution to the head
            self.model.prune_intermediate_layers(self._indices(), prune_norm=rest, prune_head=rest)
            self._deepest = deepest

    def _dilate(self, model: Any) -> None:
        """Dilate a model that takes no output stride itself, and compare the sizes of its maps."""
        images, stride = torch.zeros(self._probe_shape(model)), self.output_stride
        model.eval()
        try:
            dilate(model, images, stride)
            with torch.no_grad():
                maps = model.forward_intermediates(images, intermediates_only=True)
            for entry, x in zip(model.feature_info, maps, strict=True):
                if entry["reduction"] > stride and x.shape[-1] <= images.shape[-1] // (2 * stride):
                    raise ValueError(f"its map of {x.shape[-1]} px stays strided")
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ValueError(
                f"timm's {self.known_as['timm']} takes no output_stride={stride} ({str(error).splitlines()[0]}); set "
                "backbone.output_stride=32"
            ) from error
        model.train()

    def _probe_shape(self, model: Any) -> tuple[int, int, int, int]:
        config = model.pretrained_cfg
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        if size is None:
            size = config["input_size"][1:] if config.get("fixed_input_size") else (96, 96)
        return 1, self.in_channels, *size


def timm_model(*, name: str, weights: str | None = None, **options) -> TimmBackbone:
    """Build a timm model. `weights`: "timm" (a download), or a file of timm's or ours; others as in `TimmBackbone`."""
    if weights == "timm":  # timm's own loading adapts whatever the options change
        return TimmBackbone(name, pretrained=True, **options)
    backbone = TimmBackbone(name, **options)
    if weights is not None:
        load_weights(backbone, weights)
    return backbone


def _create(name: str, options: dict[str, Any], pretrained: bool) -> Any:
    timm = import_timm("backbone=timm")
    if not timm.is_model(name):
        close = ", ".join(get_close_matches(name, timm.list_models(), 5)) or "those of timm.list_models()"
        raise ValueError(f"timm {timm.__version__} has no model {name}; it has {close}")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except OSError as error:
        raise OSError(f"could not download timm's {name} ({error}); fetch it by hand and give the file") from error


def _extended(x: Tensor, image_size: Sequence[int], tap: Tap) -> Tensor:
    """Extend a map that is too small for its stride by repeating its borders on both sides, an odd px at the end.

    A larger map, of a model that stretches its maps to whole patches, is resized.
    """
    size = [-(-extent // tap.stride) for extent in image_size]
    missing = [want - have for want, have in zip(size, x.shape[-2:], strict=True)]
    if missing == [0, 0]:
        return x
    if min(missing) < 0:
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    (top, left), (bottom, right) = ([m // 2 for m in missing], [m - m // 2 for m in missing])
    return F.pad(x, (left, right, top, bottom), mode="replicate")


class _Readers(TorchDispatchMode):
    """Records which operators read the output of each convolution."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        parts = list(model.named_modules())
        self.convs = {id(part.weight): name for name, part in parts if isinstance(part, nn.Conv2d)}
        self.norms = {id(part.running_mean): name for name, part in parts if isinstance(part, nn.BatchNorm2d)}
        self.made: dict[int, tuple[Tensor, str, list]] = {}  # id of an output -> it, its convolution, its readers
        self.calls: Counter[str | None] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        norm = next((self.norms[id(tensor)] for tensor in tensors if id(tensor) in self.norms), None)
        self.calls[norm] += 1
        for tensor in tensors:
            if id(tensor) in self.made:
                self.made[id(tensor)][2].append(norm)
        conv = next((self.convs[id(tensor)] for tensor in tensors if id(tensor) in self.convs), None)
        if conv and func.overloadpacket is torch.ops.aten.convolution:
            self.calls[conv] += 1
            self.made[id(output)] = output, conv, []
        return output

    def pairs(self, handed_out: Iterable[Tensor]) -> list[tuple[str, str]]:
        """List (convolution, BatchNorm) that each ran once, the second as the only reader of the first."""
        seen_outside = {id(tensor) for tensor in handed_out}
        alone = [(conv, readers[0]) for output, conv, readers in self.made.values()
                 if len(readers) == 1 and readers[0] and id(output) not in seen_outside]  # fmt: skip
        return [(conv, norm) for conv, norm in alone if self.calls[conv] == self.calls[norm] == 1]


def _fold(module: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold in place; what a norm with an activation does after normalising stays."""
    conv = cast(nn.Conv2d, module.get_submodule(conv_name))
    norm = cast(nn.BatchNorm2d, module.get_submodule(norm_name))
    weight, bias = fold_bn_into_conv(conv.weight, conv.bias, norm)
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    parent, _, leaf = norm_name.rpartition(".")
    rest = getattr(norm, "act", None)
    setattr(module.get_submodule(parent), leaf, (rest if rest is not None else nn.Identity()).eval())
