"""Time of a training step of MobileOne-S0, ours against timm's: forward, backward, SGD step.

    python tests/benchmarks/mobileone_step.py [--runs 9] [--batch 8] [--size 224] [--threads 2] [--compile]

timm runs as it is, in NCHW, and in channels_last with its stem's strided 1x1 convolution striding by slicing (as it is,
that convolution's backward corrupts torch's heap in this layout); with --compile the latter is compiled too. All sides
alternate in one process, so what else the machine does hits each; medians in ms, and the ratio timm / ours for each
form of timm's.
"""

import argparse
import copy
import json
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import timm
import torch
from torch import Tensor, nn

from backbones.mobileone import mobileone_s0
from tests.benchmarks.alternating import load, medians


class Ours(nn.Module):
    """The backbone with timm's classifier."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.body = mobileone_s0(**options)
        self.head = nn.Linear(self.body.taps[-1].channels, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images)["c5"].mean((2, 3)))


def sides(compiled: bool) -> dict[str, tuple[nn.Module, torch.memory_format]]:
    """The networks by name, each with its layout."""
    other = timm.create_model("mobileone_s0")
    other.stem.conv_scale.conv.stride = (1, 1)
    other.stem.conv_scale.register_forward_pre_hook(lambda module, args: (args[0][:, :, ::2, ::2],))
    result = {
        "timm NCHW": (timm.create_model("mobileone_s0"), torch.contiguous_format),
        "timm channels_last": (other, torch.channels_last),
    }
    if compiled:
        result["timm compiled"] = (torch.compile(copy.deepcopy(other)), torch.channels_last)
    result |= {"ours NCHW": (Ours(), torch.contiguous_format), "ours channels_last": (Ours(), torch.channels_last)}
    return {name: (net.to(memory_format=layout).train(), layout) for name, (net, layout) in result.items()}


def step(network: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 9), ("batch", 8), ("size", 224), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true", help="compile timm's network too (minutes)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.randint(1000, (options.batch,))
    print(f"batch {options.batch}, {options.threads} threads, median of {options.runs} runs, {load()}")
    result = medians({
        name: partial(
            step, network, images.to(memory_format=layout), labels,
            torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9),
        )
        for name, (network, layout) in sides(options.compile).items()
    }, options.runs)  # fmt: skip
    theirs = [value for name, value in result.items() if name.startswith("timm")]
    for name, value in result.items():
        ratios = ", ".join(f"{other / value:.2f}x" for other in theirs)
        print(f"{name:20} {value:8.0f} ms" + ("" if name.startswith("timm") else f"   ratio {ratios}"))
    if options.json:
        versions = {"torch": torch.__version__, "timm": timm.__version__}
        options.json.write_text(json.dumps({"ms": result, "load": load()} | versions))


if __name__ == "__main__":
    main()
