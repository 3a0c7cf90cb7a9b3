"""Post-training static int8 of an exported program, for the formats whose quantizers annotate torch's graphs (PT2E).

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Inference", section 3.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer, SharedQuantizationSpec
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from tasks.deploy.backend import Deployable, ExportOptions

# What lies deeper than these may become int8. What they, the network or the deployable compute themselves are the
# tails: normalisation, merging of predictions, upsampling, softmax, box decoding, NMS.
QUANTIZED = ("network.backbone.", "network.head.")


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
    with torch.no_grad():
        for images in options.calibration:
            prepared(images.contiguous())
    return move_exported_model_to_eval(convert_pt2e(prepared, fold_quantize=fold))


def check_calibration(model: Deployable, example: Tensor, options: ExportOptions) -> None:
    """See that a network can be quantized as asked for.

    Raises:
        ValueError: There are no calibration images, or others than the artifact takes; no module has a name of
            `keep_float`.
    """
    if not options.calibration:
        raise ValueError("int8 takes its ranges from calibration images, and there are none; give at least one batch")
    for images in options.calibration:
        if images.shape != example.shape or images.dtype != example.dtype:
            raise ValueError(
                f"calibration images of {tuple(images.shape)} {images.dtype}, but the artifact takes "
                f"{tuple(example.shape)} {example.dtype}; calibrate with what it takes"
            )
    names = {name for name, _ in model.named_modules()}
    for name in options.keep_float:
        if name not in names:
            below = [other for other in sorted(names) if other.startswith("network") and other.count(".") <= 2][:8]
            raise ValueError(f"keep_float={name}: the network has no such module; it has {', '.join(below)}, ...")


def _quantizable(node: Node, keep_float: Sequence[str], merging: Sequence[Callable]) -> bool:
    """Whether a node may become int8: it is inside backbone or head, and in none of the modules named."""
    names = {name.split("@")[0] for name, _ in node.meta.get("nn_module_stack", {}).values()}
    inside = any(name.startswith(QUANTIZED) for name in names) or (node.target in merging and "network.head" in names)
    return inside and not names & set(keep_float)


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
