"""Sessions of ONNX Runtime, with exact int8 sums on every processor; without torch."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

INPUT = "images"
INT8 = re.compile(rb"QuantizeLinear|QLinear|Integer")  # names of operators that a model with int8 sums has
EXACT = "session.x64quantprecision"  # "1": sums of int8 products are exact on x86 processors without VNNI too
# "values" (1, 64) uint8 times 64 weights of 127 in int8 -> "sums" (1, 1) int32; as onnx, slow to import, writes it
PROBE = (
    b'\x08\x08:\xb7\x01\n&\n\x06values\n\x07weights\x12\x04sums"\rMatMulInteger\x12\x08products*Q\x08@\x08\x01\x10\x03*@'
    + 64 * b"\x7f"
    + b"B\x07weightsZ\x18\n\x06values\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08@b\x16\n\x04sums\x12\x0e\n"
    b"\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\x12"
)


def open_session(path: Path, *, threads: int, profile: Path | None = None) -> onnxruntime.InferenceSession:
    """Open a model.

    Args:
        path: The file.
        threads: Of a call.
        profile: Beginning of the name of a JSON trace to write; None: no trace.

    Raises:
        ValueError: ONNX Runtime cannot run the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if INT8.search(path.read_bytes()) and saturates():
        options.add_session_config_entry(EXACT, "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(
            f"ONNX Runtime cannot run {path} ({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from error


@cache
def saturates() -> bool:
    """Whether ONNX Runtime's own setting clips sums of uint8 x int8 products at 16 bits here; tried, once a process.

    x86 processors without VNNI multiply and add pairs by `pmaddubsw`, whose sums end at 32,767.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(PROBE, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"values": np.full((1, 64), 255, np.uint8)})
    return int(found[0, 0]) != 64 * 127 * 255
