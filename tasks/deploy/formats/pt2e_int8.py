"""Post-training static int8 of an exported program, for the formats whose quantizers annotate torch's graphs (PT2E).

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Inference", section 3.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.observer import HistogramObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer, SharedQuantizationSpec
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from tasks.deploy.backend import ExportOptions
from tasks.quantization.scope import QUANTIZED, is_within

EXACT = 2**24  # counts below are exact in float32


def quantize(
    program: ExportedProgram, quantizer: Quantizer, options: ExportOptions, *, fold: bool,
    merging: Sequence[Callable] = (), overlooked: Sequence[Callable] = (),
) -> GraphModule:  # fmt: skip
    """Give a program the int8 ranges that calibration images show.

    Args:
        program: Of a `Deployable`, without operators that write in place.
        quantizer: The format's own.
        options: With calibration images.
        fold: Store weights as integers; else as floats, quantized in the graph.
        merging: Operators on a list of tensors that the format runs with one scale for all, whether the head itself
            calls them or its parts; quantized so here.
        overlooked: Operators on two tensors that this quantizer does not find by itself; quantized here.
    """
    module = program.module()
    for node in module.graph.nodes:
        if node.op == "call_function" and not _quantizable(node, options.keep_float, merging):
            # quantizers leave alone what is annotated already, even where they look at no filter
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(_annotated=True)
    _annotate_clamped(module, quantizer.global_config)
    _annotate_pairs(module, quantizer.global_config, overlooked)
    _annotate_lists(module, quantizer.global_config, merging)
    prepared = prepare_pt2e(module, quantizer)
    hasten(prepared)
    with torch.no_grad():
        for images in options.calibration:
            prepared(images.contiguous())
            settle(prepared)
    return move_exported_model_to_eval(convert_pt2e(prepared, fold_quantize=fold))


def _quantizable(node: Node, keep_float: Sequence[str], merging: Sequence[Callable]) -> bool:
    """Whether a node may become int8: it is inside backbone or head, and in none of the modules named."""
    names = {name.split("@")[0] for name, _ in node.meta.get("nn_module_stack", {}).values()}
    inside = any(name.startswith(QUANTIZED) for name in names) or (node.target in merging and "network.head" in names)
    return inside and not is_within(names, keep_float)


def _annotate_clamped(module: GraphModule, config) -> None:
    """Have ReLU6 fused into the convolution before it, as the quantizers have ReLU; else its input is rounded too."""
    for node in module.graph.nodes:
        conv = node.args[0] if node.target is torch.ops.aten.hardtanh.default else None
        if (
            conv is not None and conv.target is torch.ops.aten.conv2d.default and len(conv.users) == 1
            and not any(Q_ANNOTATION_KEY in part.meta for part in (conv, node))
        ):  # fmt: skip
            images, weight, *bias = conv.args[:3]
            inputs = {images: config.input_activation, weight: config.weight} | dict.fromkeys(bias, config.bias)
            conv.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(output_qspec=config.output_activation, _annotated=True)


def _annotate_pairs(module: GraphModule, config, targets: Sequence[Callable]) -> None:
    """Have operators of two tensors computed in int8."""
    for node in module.graph.nodes:
        if node.target in targets and Q_ANNOTATION_KEY not in node.meta and len(node.all_input_nodes) == 2:
            inputs = dict.fromkeys(node.all_input_nodes, config.input_activation)
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(inputs, config.output_activation, _annotated=True)


def _annotate_lists(module: GraphModule, config, targets: Sequence[Callable]) -> None:
    """Have operators on a list of tensors computed in int8 with the range that all of them span."""
    for node in module.graph.nodes:
        if node.target in targets and Q_ANNOTATION_KEY not in node.meta:
            first, *rest = node.all_input_nodes
            shared = SharedQuantizationSpec((first, node))
            inputs = {first: config.input_activation} | dict.fromkeys(rest, shared)
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(inputs, shared, _annotated=True)


class _Histogram(HistogramObserver):
    """Counts values as `torch.histc` does, by operators that are several times faster."""

    def forward(self, values: Tensor) -> Tensor:
        seen = values.detach()
        if not seen.numel():
            return values
        low, high = torch.aminmax(seen)
        low, high = torch.min(self.min_val, low), torch.max(self.max_val, high)
        known = bool(torch.isfinite(high - low)) and float(self.min_val) <= float(self.max_val)
        if not (known and low < high and seen.dtype == torch.float32 and seen.numel() < EXACT):
            return super().forward(values)
        found = histogram(seen, self.bins, low, high)
        self.histogram.copy_(self._combine_histograms(self.histogram, self.min_val, self.max_val, found, low, high))
        self.min_val.copy_(low)
        self.max_val.copy_(high)
        return values


class _Settled(PerChannelMinMaxObserver):
    """Has seen its weights, which no image changes."""

    def forward(self, values: Tensor) -> Tensor:
        return values


def histogram(values: Tensor, bins: int, low: Tensor, high: Tensor) -> Tensor:
    """Count values by bins of the same width, exactly as `torch.histc(values, bins, low, high)`.

    Args:
        values: float32, fewer than 2 ** 24, all from `low` to `high`.
        bins: Number of bins.
        low, high: Outer edges, apart from each other.

    Returns:
        (bins,) float32.

    >>> histogram(torch.tensor([0.0, 0.4, 1.0, 1.0]), 2, torch.tensor(0.0), torch.tensor(1.0))
    tensor([2., 2.])
    """
    places = (values.flatten() - low).mul_(bins).div_(high - low).to(torch.int32).clamp_max_(bins - 1)
    return torch.bincount(places, minlength=bins).float()


def hasten(prepared: nn.Module) -> None:
    """Give a prepared network observers of activations that take less time for the same numbers."""
    for module in prepared.modules():
        if type(module) is HistogramObserver:
            module.__class__ = _Histogram


def settle(prepared: nn.Module) -> None:
    """Let observers of weights, which have seen them once, rest."""
    for module in prepared.modules():
        if type(module) is PerChannelMinMaxObserver:
            module.__class__ = _Settled
