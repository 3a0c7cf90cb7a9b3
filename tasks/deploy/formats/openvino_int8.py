"""Post-training static int8 of OpenVINO's graphs, by NNCF.

Weights are symmetric, of 7 bits, a scale for each output channel; activations asymmetric, or unsigned behind a ReLU, a
scale for each tensor, whose range is that of all images; what rounding shifts on average goes into the convolutions'
biases, from the first to the last.

Source: NNCF, "Post-training Quantization"; Jacob et al. 2018, section 3; Nagel et al. 2019, "Data-Free Quantization
Through Weight Equalization and Bias Correction", section 4.2 (here measured on the calibration images).
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import onnx
import openvino
from openvino.passes import ConstantFolding, Manager
from torch import Tensor

from tasks.deploy.formats.onnx_int8 import scopes
from tasks.deploy.formats.silence import silenced
from tasks.quantization.scope import is_quantizable, is_within

with mock.patch.dict(os.environ, NNCF_CI="1", CI="true"):  # else each call is reported to its makers
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
NARROW = (
    "weights have 7 bits: with 8, OpenVINO adds two products in 16 bits on x86 processors without VNNI, which "
    "overflow, and it has no setting against that"
)


def quantize_openvino(
    graph: openvino.Model, source: Path, calibration: Sequence[Tensor], keep_float: Sequence[str] = ()
) -> tuple[openvino.Model, list[str]]:
    """Quantize a graph.

    What is in no module of backbone or head stays in float, and so do the modules of `keep_float`.

    Args:
        graph: Read from `source`.
        source: Of `tasks.deploy.formats.onnx.write_onnx`.
        calibration: Batches that it takes.
        keep_float: As in `ExportOptions`.

    Returns:
        The quantized graph; how much became int8, in words.

    Raises:
        ValueError: NNCF cannot quantize it.
    """
    modules = {node.name: scopes(node) for node in onnx.load(str(source)).graph.node}
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(graph)  # NNCF corrects constant biases; as read, one is reshaped to a computed shape
    kept = [name for name in _names(graph) if _stays(modules, name, keep_float)]
    with silenced("NNCF cannot quantize the network"):
        quantized = nncf.quantize(
            graph, nncf.Dataset([images.numpy() for images in calibration]), preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration), ignored_scope=nncf.IgnoredScope(names=kept), fast_bias_correction=False,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                bias_correction_params=nncf.AdvancedBiasCorrectionParameters(threshold=math.inf),
            ),
        )  # fmt: skip
    weighted = [node for node in quantized.get_ordered_ops() if node.get_type_name() in WEIGHTED]
    count = sum("FakeQuantize" in _makers(node, 0) for node in weighted)
    said = f"{count} of {len(weighted)} convolutions and matrix products are int8"
    return quantized, [said, NARROW]


def _names(graph: openvino.Model) -> list[str]:
    """Of the operators; constants have no values of an image."""
    return [
        node.get_friendly_name() for node in graph.get_ordered_ops()
        if node.get_type_name() not in ("Constant", "Parameter", "Result")
    ]  # fmt: skip


def _stays(modules: Mapping[str, list[str]], name: str, keep_float: Sequence[str]) -> bool:
    """Whether an operator stays in float; "node_conv2d/WithoutBiases" is a part of "node_conv2d"."""
    around = modules.get(name.split("/")[0], [])
    return not is_quantizable(around) or is_within(around, keep_float)


def _makers(node: openvino.Node, place: int) -> str:
    """Type of what computes an input."""
    return node.input_value(place).get_node().get_type_name()
