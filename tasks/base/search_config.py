"""Schema of tools/search.py, which looks for a network that is fast enough."""

from dataclasses import dataclass, field
from typing import Any

from tasks.base.config import TrainConfig


@dataclass
class NetAdaptSettings:
    """How method=netadapt narrows the network of a checkpoint.

    Attributes:
        target_share: Latency to reach, as a share of the checkpoint's, in place of `target_ms`.
        first_cut: Share of the checkpoint's latency that each proposal of the first iteration saves at least.
        decay: Factor of that saving from one iteration to the next.
        divisor: Widths are multiples of it.
        pick: Which candidate an iteration keeps: "ratio", the least loss of the metric for each ms saved (MobileNetV3),
            or "metric", the best metric (NetAdapt).
        latency: "table" predicts a candidate's latency from its layers, "network" measures each candidate whole.
        criterion: Which channels stay: those of the largest "l2" norm, or by a first-order "taylor" estimate.
        final_steps: Steps of the last fine-tuning, after the target is reached.
    """

    target_share: float | None = None
    first_cut: float = 0.05
    decay: float = 0.96
    divisor: int = 8
    pick: str = "ratio"
    latency: str = "table"
    criterion: str = "l2"
    final_steps: int = 1000


@dataclass
class PlatformAwareSettings:
    """How method=platform_aware samples and scores networks."""


@dataclass
class SearchConfig(TrainConfig):
    """A search for a network of a latency; all other settings are those of the training of each candidate.

    Attributes:
        method: "netadapt" narrows the trained network of `checkpoint`, step by step; "platform_aware" samples networks
            from a space of blocks.
        target_ms: Latency to reach, ms.
        runtime: Where it is measured: "fused" (PyTorch), or a format: onnx, executorch, litert, ncnn.
        precision: Of the format, fp32 or int8.
        threads: CPU threads of a call.
        image_size: (H, W) px of the measured image, or the side of a square; else that of the validation, or of the
            task.
        steps: Training steps of each candidate.
        images: Validation images that candidates are scored on, drawn by `seed`; else all.
        processes: Candidates trained at the same time on this machine. Over machines with a shared `output_dir`:
            torchrun.
        store: File of measurements; else benchmark.jsonl in `output_dir`.
        output_dir: Folder of the search, where a killed one goes on; else runs/search-{task}-{backbone}.
        netadapt: Settings of method=netadapt.
        platform_aware: Settings of method=platform_aware.
    """

    method: str = "netadapt"
    target_ms: float | None = None
    runtime: str = "onnx"
    precision: str = "fp32"
    threads: int = 1
    image_size: Any = None
    steps: int = 200
    images: int | None = None
    processes: int = 1
    store: str | None = None
    netadapt: NetAdaptSettings = field(default_factory=NetAdaptSettings)
    platform_aware: PlatformAwareSettings = field(default_factory=PlatformAwareSettings)
