"""Time each layer, in PyTorch and in runtimes that have a profiler."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tasks.base.build import Config
from tasks.base.tables import Table
from tasks.benchmark.costs import layer_table
from tasks.benchmark.latency import torch_threads
from tasks.files.writing import write_json

if TYPE_CHECKING:
    from tasks.benchmark.cases import Entry

SHOWN = 20  # layers on the terminal; all are in the JSON
WARMUP = 3  # calls
TELLING = {  # what measures layers where a runtime's Python package does not
    "litert": "benchmark_model --graph=model.tflite --use_xnnpack=true --enable_op_profiling=true, on a phone or here",
    "ncnn": "benchncnn, built with NCNN_BENCHMARK=ON, which prints each layer's time",
    "openvino": "benchmark_app -m model.xml -d CPU -hint latency -pc, which OpenVINO's package brings",
    "coreml": "Xcode: open the package, Performance, a new report on a device",
    "pt2": "runtimes=[fused], the same operators",
    "compile": "torch.profiler; layers are merged into kernels",
    "channels_last": "runtimes=[fused], in the other layout",
}


@dataclass
class LayerTime:
    """Time of one layer, or of one operator of a runtime.

    Attributes:
        name: Name of the module, or of the operator in its graph.
        kind: Class of the module, or type of the operator.
        ms: Median over the calls, submodules left out.
        macs: Multiply-adds; None where the runtime has no modules.
        bytes_moved: bytes read and written, weights included, as if there were no cache; None where unknown.
    """

    name: str
    kind: str
    ms: float
    macs: int | None = None
    bytes_moved: int | None = None


def profile_tables(entries: Iterable["Entry"], config: Config, folder: Path) -> list[Table]:
    """Time the layers in each runtime that has a profiler, and write layers.json.

    Returns:
        One table for each of eager, fused, ONNX Runtime and ExecuTorch, slowest layers first. For other runtimes one
        table names their own profiling tools.
    """
    tables, content, silent = [], {}, []
    for entry in entries:
        subject, runs = entry.subject, max(config["runs"], 5)
        if subject.runtime in ("eager", "fused"):
            layers, whole = profile_module(subject.module, entry.images, runs=runs, threads=config["threads"])
        elif subject.runtime == "onnx":
            layers, whole = profile_onnx(subject, entry.images, runs=runs, threads=config["threads"])
        elif subject.runtime == "executorch":
            layers, whole = profile_executorch(subject, entry.images, runs=runs)
        else:
            silent.append((subject.name, TELLING.get(subject.runtime, "none is known")))
            continue
        title = f"{entry.row['network']}, {subject.name}"
        tables.append(layers_table(title, layers, whole))
        content[subject.name] = {"whole_ms": whole, "layers": [asdict(layer) for layer in layers]}
    write_json(folder / "layers.json", content)
    if silent:
        tables.append(("no times of layers from Python", ("runtime", "what tells instead"), silent))
    return tables


def profile_module(model: nn.Module, images: Tensor, *, runs: int, threads: int = 1) -> tuple[list[LayerTime], float]:
    """Time each module without its submodules.

    The addition of a residual block is in the block's row, so the rows add up to the whole call, hooks included.

    Args:
        model: In eval mode; hooks are removed afterwards.
        images: Its input.
        runs: Number of calls; each row has their median.
        threads: Threads of torch.

    Returns:
        Rows, slowest first, and the median of the whole call without hooks, ms.
    """
    counted = {row.name: row for row in layer_table(model, tuple(images.shape[-2:]), batch_size=len(images))}
    names = {module: name for name, module in model.named_modules()}
    times: dict[str, list[float]] = defaultdict(list)
    open_calls: list[list[float]] = []  # start and time inside parts, of each call that goes on
    own: dict[str, float] = defaultdict(float)
    whole: list[float] = []

    def enter(module: nn.Module, inputs: tuple) -> None:
        open_calls.append([time.perf_counter(), 0.0])

    def leave(module: nn.Module, inputs: tuple, output: object) -> None:
        start, inside = open_calls.pop()
        spent = time.perf_counter() - start
        own[names[module]] += spent - inside
        if open_calls:
            open_calls[-1][1] += spent

    with torch_threads(threads), torch.inference_mode():
        for _ in range(WARMUP):
            model(images)
        for _ in range(runs):  # in turn, so that what else the machine does hits both
            whole.append(_timed_ms(lambda: model(images)))
            hooks = [module.register_forward_pre_hook(enter) for module in names]
            hooks += [module.register_forward_hook(leave) for module in names]
            own.clear()
            try:
                model(images)
            finally:
                for hook in hooks:
                    hook.remove()
            for name, seconds in own.items():
                times[name].append(1e3 * seconds)
    layers = []
    for module, name in names.items():
        if name in times:
            row = counted.get(name)
            costs = (row.macs, row.memory_access_bytes) if row else (0, 0)
            layers.append(LayerTime(name, type(module).__name__, median(times[name]), *costs))
    return sorted(layers, key=lambda layer: -layer.ms), median(whole)


def profile_onnx(subject, images: Tensor, *, runs: int, threads: int = 1) -> tuple[list[LayerTime], float]:
    """Time each operator by ONNX Runtime's profiler; returns as `profile_module`.

    Source: ONNX Runtime, documentation, "Profiling tools".
    """
    from tasks.deploy.formats.onnx_session import open_session

    manifest = subject.runtime_object.manifest
    path = subject.folder / manifest.artifact
    feed = {manifest.input.name: images.to(getattr(torch, manifest.input.dtype)).contiguous().numpy()}
    plain, whole = open_session(path, threads=threads), []
    with tempfile.TemporaryDirectory(prefix="trace-") as scratch:
        traced = open_session(path, threads=threads, profile=Path(scratch) / "trace")
        for _ in range(WARMUP + runs):
            whole.append(_timed_ms(lambda: plain.run(None, feed)))
            traced.run(None, feed)
        events = json.loads(Path(traced.end_profiling()).read_text())
    return read_onnx_trace(events, warmup=WARMUP), median(whole[WARMUP:])


def read_onnx_trace(events: list[dict], *, warmup: int = 0) -> list[LayerTime]:
    """Read operators from ONNX Runtime's profiling JSON, slowest first.

    Args:
        events: [{"cat": "Node", "name": "<node>_kernel_time", "dur": us, "args": {"op_name", "output_size",
            "parameter_size", "activation_size": bytes as text}}, ...].
        warmup: Calls to drop.
    """
    times, about = defaultdict(list), {}
    for event in events:
        if event.get("cat") != "Node" or not event.get("name", "").endswith("_kernel_time"):
            continue
        name, said = event["name"].removesuffix("_kernel_time"), event.get("args", {})
        times[name].append(event["dur"] / 1e3)
        sizes = [int(said.get(key) or 0) for key in ("output_size", "parameter_size", "activation_size")]
        about[name] = (said.get("op_name", "?"), sum(sizes))
    layers = [
        LayerTime(name, about[name][0], median(found[warmup:] or found), None, about[name][1])
        for name, found in times.items()
    ]
    return sorted(layers, key=lambda layer: -layer.ms)


def profile_executorch(subject, images: Tensor, *, runs: int) -> tuple[list[LayerTime], float]:
    """Time each operator by ExecuTorch's event trace, those in XNNPACK by XNNPACK's clock; returns as `profile_module`.

    XNNPACK counts whole microseconds. Its operators are not those of the program: it merges activations into
    convolutions, turns 1x1 ones into fully connected ones, and adds transpositions. So they have no macs and bytes.

    Source: ExecuTorch, documentation, "Profiling models".
    """
    from tasks.deploy.formats.executorch import operator_events

    runtime = subject.runtime_object
    images = images.to(getattr(torch, runtime.manifest.input.dtype)).contiguous()
    whole = [_timed_ms(lambda: runtime.run(images)) for _ in range(WARMUP + runs)]
    events = operator_events(runtime, images, calls=WARMUP + runs)
    return read_executorch_events(events, warmup=WARMUP), median(whole[WARMUP:])


def read_executorch_events(events: Iterable[tuple[str, bool, list[float]]], *, warmup: int = 0) -> list[LayerTime]:
    """Read operators from ExecuTorch's trace, slowest first.

    Args:
        events: (name, whether a delegate ran it, ms of each call). The call of a delegate is itself an event, too;
            its time beyond its operators becomes the row "around the delegate's operators". The call of the whole
            method is left out.
        warmup: Calls to drop.
    """
    layers, inside, around = [], 0.0, 0.0
    for name, delegated, times in events:
        ms = median(times[warmup:] or times)
        if name == "DELEGATE_CALL":
            around += ms
        elif delegated or not name.startswith("Method::"):
            inside += ms if delegated else 0.0
            kind = name.rpartition(" #")[0] or name
            layers.append(LayerTime(name, kind, ms))
    if around > inside:
        layers.append(LayerTime("around the delegate's operators", "DELEGATE_CALL", around - inside))
    return sorted(layers, key=lambda layer: -layer.ms)


def layers_table(title: str, layers: list[LayerTime], whole: float) -> Table:
    """Tabulate the slowest layers, the others in one row, and their sum beside the whole call."""
    total = sum(layer.ms for layer in layers)

    def line(name: str, kind: str, part: list[LayerTime]) -> tuple[str, ...]:
        ms = sum(layer.ms for layer in part)
        macs = [layer.macs for layer in part if layer.macs is not None]
        moved = [layer.bytes_moved for layer in part if layer.bytes_moved is not None]
        rate = f"{sum(macs) / ms / 1e6:.1f}" if macs and ms else "-"
        return (
            name, kind, f"{ms:.3f}", f"{100 * ms / max(total, 1e-12):.1f}", f"{sum(macs) / 1e6:.2f}" if macs else "-",
            rate, f"{sum(moved) / 2**20:.2f}" if moved else "-",
        )  # fmt: skip

    rows = [line(layer.name or "(the network's own)", layer.kind, [layer]) for layer in layers[:SHOWN]]
    if len(layers) > SHOWN:
        rows.append(line(f"{len(layers) - SHOWN} others", "", layers[SHOWN:]))
    rows.append(line("sum", "", layers))
    columns = ("layer", "kind", "ms", "share %", "MACs M", "GMAC/s", "moved MiB")
    return f"{title}: {total:.2f} ms in layers, {whole:.2f} ms a call without the clocks", columns, rows


def _timed_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)
