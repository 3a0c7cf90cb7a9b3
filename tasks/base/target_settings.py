"""Schemas of the settings of a benchmark's targets: phones, and browsers."""

from dataclasses import dataclass, field


@dataclass
class AndroidSettings:
    """A phone and the programs that run there, as paths on this machine.

    Attributes:
        adb: Program of Android's platform tools.
        serial: Serial number of the phone, where adb sees several.
        folder: Folder on the phone for artifact and runner.
        executor_runner: ExecuTorch's program.
        benchmark_model: LiteRT's program.
        benchncnn: ncnn's program.
        onnxruntime_perf_test: ONNX Runtime's program.
        app: Write a Gradle project for each ONNX artifact, an app that measures it, in place of reaching a phone by
            adb.
    """

    adb: str = "adb"
    serial: str | None = None
    folder: str = "/data/local/tmp/mobile-dense"
    executor_runner: str | None = None
    benchmark_model: str | None = None
    benchncnn: str | None = None
    onnxruntime_perf_test: str | None = None
    app: bool = False


@dataclass
class WebSettings:
    """A page on the local network, and what the browsers that open it do.

    Attributes:
        host: Address to listen at; 0.0.0.0 for all of this machine.
        port: Port, or 0 for a free one.
        timeout_s: Seconds without a word from any device after which it ends.
        devices: Devices to measure.
        backends: What runs the artifacts there: "wasm", "webgpu", or both.
        threads: Numbers of threads of wasm, each a measurement; more than the device's cores become those.
        sample: A picture to compare outputs on; else a drawn one.
        images: Validation images to measure the task's metric on, of the data that the artifact was trained on: sent to
            the device, scored here, whole batches. 0 for none.
    """

    host: str = "0.0.0.0"
    port: int = 0
    timeout_s: float = 600.0
    devices: int = 1
    backends: list[str] = field(default_factory=lambda: ["wasm", "webgpu"])
    threads: list[int] = field(default_factory=lambda: [1, 4])
    sample: str | None = None
    images: int = 0
