"""Time small networks made for a study through the runtimes, all of them in turn."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from tasks.benchmark.cases import TORCH_RUNTIMES, Case, torch_subject
from tasks.benchmark.exported_cases import exported_subject
from tasks.benchmark.latency import in_words, torch_threads
from tests.benchmarks.alternating import load, medians

RUNTIMES = ("eager", "fused", "onnx", "executorch", "litert", "ncnn")


class Chain(Backbone):
    """Layers one behind the other, each of stride 1, with one tap behind the last.

    Args:
        layers: In order.
        channels: What the last one gives.
        in_channels: As in `Backbone`.
    """

    def __init__(self, layers: Sequence[nn.Module], channels: int, *, in_channels: int = 3) -> None:
        super().__init__(in_channels=in_channels)
        for layer in layers[:-1]:
            self._append(layer, channels)
        self._append(layers[-1], channels, tap="final")


def latencies(
    networks: Mapping[str, tuple[Backbone, Tensor]], runtimes: Sequence[str], *, runs: int, threads: int
) -> dict[str, dict[str, float]]:
    """Time networks with random weights.

    Args:
        networks: {name: (network, its images)}.
        runtimes: Some of `RUNTIMES`.
        runs: Timed calls of each, all networks and runtimes in turn.
        threads: CPU threads of a call. Of one the times are those that it runs, and long calls are not disadvantaged
            on a busy machine.

    Returns:
        {name: {runtime: median, ms}}; what cannot run in a runtime is told on stderr and left out.
    """
    calls, found = {}, {name: {} for name in networks}
    with TemporaryDirectory() as scratch:
        for place, (name, (network, images)) in enumerate(networks.items()):
            torch.manual_seed(0)
            case = Case(name, "", "", {}, None, network.eval(), images, "features", False)
            for runtime in runtimes:
                folder = Path(scratch, f"{place}-{runtime}")
                try:
                    subject = (
                        torch_subject(case, runtime) if runtime in TORCH_RUNTIMES
                        else exported_subject(case, runtime, "fp32", folder, threads=threads)
                    )  # fmt: skip
                    with torch.inference_mode():
                        subject.call()
                except Exception as error:
                    print(f"\n{name} in {runtime}: {in_words(error)}", file=sys.stderr)
                    continue
                calls[f"{name} {runtime}"] = subject.call
                found[name][runtime] = 0.0
            print(f"\r{place + 1} of {len(networks)} networks prepared ", end="", file=sys.stderr, flush=True)
        with torch_threads(threads), torch.inference_mode():
            times = medians(calls, runs, clock=process_time if threads == 1 else perf_counter)
    print(file=sys.stderr)
    for name, row in found.items():
        found[name] = {runtime: times[f"{name} {runtime}"] for runtime in row}
    return found


def asked(about: str, picture: str, runtimes: Sequence[str] = RUNTIMES) -> argparse.ArgumentParser:
    """The arguments that the studies share; `about` is the script's docstring."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runtimes", nargs="+", default=list(runtimes))
    parser.add_argument("--picture", type=Path, default=Path(picture))
    return parser


def print_ratios(title: str, times: Mapping[str, Mapping[str, float]], runtimes: Sequence[str], base: str) -> None:
    """Print a line a network: in each runtime its ms and, behind it, the ratio to the network `base`."""
    print(f"{title}, {load()}; in brackets the ratio to {base}")
    print(f"{'':24}" + "".join(f"{runtime:>18}" for runtime in runtimes))
    for name, row in times.items():
        cells = [f"{row[key]:.2f} ({row[key] / times[base][key]:.2f}x)" if key in row else "-" for key in runtimes]
        print(f"{name:24}" + "".join(f"{cell:>18}" for cell in cells))
