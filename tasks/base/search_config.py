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
    """How method=platform_aware samples and scores networks.

    Attributes:
        sampler: Of Optuna: "tpe", which maximises the reward, "nsga2", which looks for the whole trade between metric
            and latency, or "random".
        trials: Networks in all; the same command with a higher number goes on.
        exponent: w of the reward, metric x (ms / target_ms)^w; -0.15 suits small networks, whose metric changes more
            with their latency.
        kernels: Sides of depthwise kernels that a stage may have, px.
        expansions: Expansions that a stage may have.
        squeeze_excite: Whether a stage may be without and with squeeze-and-excite.
        depths: Blocks that a stage may have more, or below 0 fewer, than `backbone.stages` says.
        widths: Factors of the channels that `backbone.stages` says.
    """

    sampler: str = "tpe"
    trials: int = 40
    exponent: float = -0.07
    kernels: list[int] = field(default_factory=lambda: [3, 5])
    expansions: list[int] = field(default_factory=lambda: [3, 4, 6])
    squeeze_excite: list[bool] = field(default_factory=lambda: [False, True])
    depths: list[int] = field(default_factory=lambda: [-1, 0, 1])
    widths: list[float] = field(default_factory=lambda: [0.75, 1.0, 1.25])


@dataclass
class SearchConfig(TrainConfig):
    """A search for a network of a latency; all other settings are those of the training of each candidate.

    Attributes:
        method: "netadapt" narrows the trained network of `checkpoint`, step by step; "platform_aware" samples networks
            from a space of blocks.
        target_ms: Latency to reach, ms.
        runtime: Where it is measured: "fused" (PyTorch), or a format: onnx, executorch, litert, ncnn, openvino.
        precision: Of the format, fp32 or int8.
        threads: CPU threads of a call.
        image_size: (H, W) px of the measured image, or the side of a square; else that of the validation, or of the
            task.
        steps: Training steps of each candidate.
        images: Validation images that candidates of method=netadapt are scored on, the first of the split; else all.
        processes: Candidates of method=netadapt trained at the same time on this machine. Over machines that share the
            `output_dir` torchrun starts them.
        store: File of measurements, which searches may share; else benchmark.jsonl in `output_dir`.
        output_dir: Folder of the search, where a killed one goes on; else runs/search-{task}-{backbone}.
        netadapt: Settings of method=netadapt.
        platform_aware: Settings of method=platform_aware.
        request: The command line; filled in by the tool.
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
    request: list[str] = field(default_factory=list)
