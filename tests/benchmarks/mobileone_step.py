"""Time of a training step of MobileOne-S0, ours against timm's: forward, backward, SGD step.

    python tests/benchmarks/mobileone_step.py [--runs 9] [--batch 8] [--size 224] [--threads 2] [--json out.json]

All sides alternate in one process, so what else the machine does hits each; medians in ms, ratios to timm in NCHW, its
only layout that runs: in channels_last the backward of its stem's strided 1x1 convolution corrupts torch's heap. With
--patched that convolution strides by slicing instead, and timm's channels_last is measured too.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import timm
import torch
from torch import Tensor, nn

from backbones.mobileone import mobileone_s0


class Ours(nn.Module):
    """The backbone with timm's classifier."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.body = mobileone_s0(**options)
        self.head = nn.Linear(self.body.taps[-1].channels, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images)["c5"].mean((2, 3)))


def sides(patched: bool) -> dict[str, tuple[nn.Module, torch.memory_format]]:
    """The networks by name, each with its layout."""
    result = {
        "timm NCHW": (timm.create_model("mobileone_s0"), torch.contiguous_format),
        "ours NCHW": (Ours(), torch.contiguous_format),
        "ours channels_last": (Ours(), torch.channels_last),
    }
    if patched:
        other = timm.create_model("mobileone_s0")
        other.stem.conv_scale.conv.stride = (1, 1)
        other.stem.conv_scale.register_forward_pre_hook(lambda module, args: (args[0][:, :, ::2, ::2],))
        result["timm channels_last"] = (other, torch.channels_last)
    return {name: (net.to(memory_format=layout).train(), layout) for name, (net, layout) in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 9), ("batch", 8), ("size", 224), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--patched", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.randint(1000, (options.batch,))
    networks = sides(options.patched)
    optimizers = {name: torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9) for name, (net, _) in networks.items()}
    times = {name: [] for name in networks}
    for run in range(options.runs + 1):  # the first warms up
        for name, (network, layout) in networks.items():
            batch = images.to(memory_format=layout)
            start = perf_counter()
            optimizers[name].zero_grad()
            nn.functional.cross_entropy(network(batch), labels).backward()
            optimizers[name].step()
            if run:
                times[name].append(1e3 * (perf_counter() - start))
    result = {name: median(values) for name, values in times.items()}
    for name, value in result.items():
        print(f"{name:20} {value:8.0f} ms   ratio {result['timm NCHW'] / value:5.2f}x")
    if options.json:
        options.json.write_text(json.dumps({"ms": result, "torch": torch.__version__, "timm": timm.__version__}))


if __name__ == "__main__":
    main()
