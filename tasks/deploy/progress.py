"""Say which step of which format an export is in, and about how long the rest takes."""

import logging
import time
from collections.abc import Sequence

# CPU seconds of LR-ASPP with MobileNetV3-Large on the demo data, scoring included: only their ratios count
WORK = {
    "fp32": {"pt2": 9, "onnx": 15, "executorch": 48, "coreml": 18, "litert": 40, "ncnn": 10, "openvino": 16},
    "int8": {"onnx": 25, "executorch": 170, "litert": 100, "openvino": 40, "qnn": 400},
    "w8a16": {"onnx": 25, "qnn": 400},
}
OTHER = 20  # of a format that is not listed
logger = logging.getLogger(__name__)


class ExportProgress:
    """Log the steps of an export of several formats, each with the time left from the second format on.

    The time left follows from how long the formats so far took, and how long formats take in proportion.

    Args:
        names: Formats, in order.
        precision: Of all.
    """

    def __init__(self, names: Sequence[str], precision: str) -> None:
        known = WORK.get(precision, WORK["fp32"])
        self.names, self.work = tuple(names), [known.get(name, OTHER) for name in names]
        self.began = time.perf_counter()

    def begin(self, name: str) -> None:
        """Go on to a format."""
        self.place, self.turn = self.names.index(name), time.perf_counter()

    def passed_over(self) -> None:
        """Take this format, which took no time, out of the estimate."""
        self.work[self.place] = 0

    def left(self) -> float | None:
        """Estimate the seconds that are left, by those of the formats before this one; None: there are none yet."""
        done, rest = sum(self.work[: self.place]), sum(self.work[self.place :])
        if not done:
            return None
        return max(0.0, (self.turn - self.began) * rest / done - (time.perf_counter() - self.turn))

    def tell(self, step: str) -> None:
        """Log a step of this format: "scoring"."""
        left = self.left()
        time_left = "" if left is None else f", about {left:.0f} s left"
        logger.info("%d/%d %s: %s%s", self.place + 1, len(self.names), self.names[self.place], step, time_left)
