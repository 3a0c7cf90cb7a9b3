"""Post-training static int8 of an exported program, for the formats whose quantizers annotate torch's graphs (PT2E).

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Inference", section 3.
"""

from collections.abc import Callable, Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer, SharedQuantizationSpec
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from tasks.deploy.backend import ExportOptions
from tasks.deploy.formats.calibration import hasten, settle
from tasks.quantization.scope import QUANTIZED, is_within


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
