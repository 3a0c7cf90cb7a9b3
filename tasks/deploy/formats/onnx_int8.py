"""Post-training static int8 of ONNX, as quantize-dequantize pairs that ONNX Runtime turns into int8 kernels.

Weights are int8, symmetric, a scale for each output channel; activations uint8, a scale and a zero for each tensor: the
pair that ONNX Runtime's CPU kernels are fastest with. "w8a16" has uint16 activations, which NPUs compute with and CPUs
round in float. Where a processor adds two such products in 16 bits, weights of 8
bits overflow (255 * 127 * 2 > 32,767) and weights of 7 bits, -64 to 64, do not.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Inference", section 3.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from torch import Tensor

from tasks.deploy.formats.silence import silenced
from tasks.quantization.scope import is_quantizable, is_within

# With int8 kernels, or without arithmetic. Of what has weights, all; sigmoids, h-swish and softmax stay in float.
QUANTIZED_TYPES = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat",
    "Split", "Slice", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze",
)  # fmt: skip
ACTIVATIONS = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid")
SCOPES = "pkg.torch.onnx.name_scopes"  # where torch's exporter notes the modules that a node came from
Ranges = dict[str, tuple[float, float]]


def quantize_onnx(
    source: Path, target: Path, calibration: Sequence[Tensor], keep_float: Sequence[str] = (), *,
    reduce_range: bool = False, activations: QuantType = QuantType.QUInt8, float_logits: bool = True,
) -> str:  # fmt: skip
    """Quantize a model.

    What is in no module of backbone or head stays in float, and so do the modules of `keep_float` with what they read:
    tensors that only they use are not rounded.

    Args:
        source: Of `tasks.deploy.formats.onnx.write_onnx`.
        target: File to write.
        calibration: Batches that the model takes.
        keep_float, reduce_range: As in `ExportOptions`.
        activations: Type of the values between layers.
        float_logits: Let the last matrix product give floats, as the CPU's int8 kernel does; an NPU's gives integers.

    Returns:
        How much became int8, in words.

    Raises:
        ValueError: ONNX Runtime cannot quantize the model.
    """
    with silenced("ONNX Runtime cannot quantize the network"):
        model = onnx.load(str(source))
        kept, tails = set(), set()
        for node in model.graph.node:
            modules = scopes(node)
            if is_within(modules, keep_float):
                kept.add(node.name)
            elif not is_quantizable(modules):
                tails.add(node.name)
        kept |= set(_activations_before(model, kept))
        left = {name: tuple(node.input) for node in model.graph.node if (name := node.name) in kept}
        ranges = {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in calibrated_ranges(model, calibration, tails).items()
        }
        quantizer = QDQQuantizer(
            model, per_channel=True, reduce_range=reduce_range, weight_qType=QuantType.QInt8,
            activation_qType=activations, tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[], nodes_to_exclude=sorted(kept | tails), op_types_to_quantize=list(QUANTIZED_TYPES),
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"] if float_logits else []},
        )  # fmt: skip
        quantizer.quantize_model()
        quantized = quantizer.model.model
        _read_unrounded(quantized, left)
        quantizer.model.topological_sort()
        onnx.save(quantized, str(target))
        onnx.checker.check_model(str(target))
    weighted = [node for node in quantized.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    whole = {name for node in quantized.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    count = sum(node.input[0] in whole and node.input[1] in whole for node in weighted)
    named = "int8" if activations == QuantType.QUInt8 else "int8 by uint16"
    return f"{count} of {len(weighted)} convolutions and matrix products are {named}"


def calibrated_ranges(model: ModelProto, calibration: Sequence[Tensor], tails: set[str]) -> Ranges:
    """The values that each tensor takes.

    The range of a tensor is the mean of the images' own ranges, which a few images of huge activations do not widen;
    that of a result which a tail reads is what contains all images, since the highest scores must not be cut.

    Args:
        model: In float.
        calibration: Batches that it takes.
        tails: Names of the nodes outside backbone and head.

    Returns:
        {tensor: (lowest, highest)}, 0 included.
    """
    graph = model.graph
    given = {info.name for info in graph.output}
    described = (*graph.value_info, *graph.output)
    known = {info.name for info in described if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    whole = given | {name for node in graph.node if node.name in tails for name in node.input}
    names = [name for node in graph.node for name in node.output if name in known]
    seen = ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(info for info in graph.value_info if info.name in known - given)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(seen.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for batch in calibration:
        for name, values in zip(names, session.run(names, {images.name: batch.numpy()}), strict=True):
            found[name].append((min(0.0, float(values.min())), max(0.0, float(values.max()))))
    ranges = {}
    for name, pairs in found.items():
        lows, highs = np.array(pairs).T
        ranges[name] = (lows.min(), highs.max()) if name in whole else (lows.mean(), highs.mean())
    return ranges


def scopes(node: NodeProto) -> list[str]:
    """Names of the modules that a node is in, from the outermost on; none for a node of the optimiser's own."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    return [name for name in ast.literal_eval(noted)[:-1] if name]  # the last is the operator


def _activations_before(model: ModelProto, kept: set[str]) -> Iterator[str]:
    """Names of activation functions that only the kept nodes read: a rounded input would undo their being kept."""
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    results = {info.name for info in model.graph.output}
    for node in model.graph.node:
        inner = node.op_type in ACTIVATIONS and node.output[0] not in results
        if inner and readers.get(node.output[0], {""}) <= kept:
            yield node.name


def _read_unrounded(model: ModelProto, left: dict[str, tuple[str, ...]]) -> None:
    """Let nodes read their own inputs where quantization made them read the rounded ones, as far as they are there.

    Args:
        left: {node: its inputs in the float model}.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for place, own in enumerate(left.get(node.name, ())):
            pair = [makers.get(node.input[place])]
            pair.append(makers.get(pair[0].input[0]) if pair[0] is not None and pair[0].input else None)
            kinds = [maker.op_type if maker is not None else "" for maker in pair]
            if kinds == ["DequantizeLinear", "QuantizeLinear"] and pair[1].input[0] == own:
                node.input[place] = own
    results = {info.name for info in graph.output}
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        read = results | {name for node in graph.node for name in node.input}
        for node in [node for node in graph.node if node.op_type == kind and not read & set(node.output)]:
            graph.node.remove(node)
