"""One network of every family under every task, in every format: how far its outputs are from eager PyTorch.

    python tests/benchmarks/export_zoo.py [--backbones mnv2 ...] [--tasks ...] [--formats ...] [--side 96] [--fitted]

Random weights with randomised BatchNorm (fresh ones would be the identity, and their outputs fade); noise as images.
The difference is the largest of an output in parts of the output's largest magnitude. Nothing is timed. Column
"float32" is how far eager PyTorch itself is from float64: random weights let some networks' maps grow so large that the
head's ReLU6 tells only their signs, and rounding flips a few. With --fitted the norms have the statistics of images, as
trained ones do, and no map grows.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from torch.nn.modules.batchnorm import _BatchNorm

from tasks.base.build import build_task
from tasks.base.schemas import SCHEMAS
from tasks.data.classes import Classes
from tasks.deploy.backend import ExportOptions, backend
from tasks.deploy.deployable import make_deployable
from tasks.deploy.manifest import Manifest, TensorSpec
from tasks.deploy.original import eager
from tasks.deploy.parity import compare, worst
from tests.oracles import randomised
from tools.tables import print_table

BACKBONES = (
    "mnv1_025", "mnv2_035", "mnv3_small", "mnv4_conv_small", "mnasnet_050", "mnasnet_a1", "snv1_g3_050", "snv2_050",
    "repvgg_a0", "mobileone_s0", "repvit_m0_6", "resnet18", "mnv4_hybrid_medium", "efficientnet_lite0",
    "edgetpu_v2_xs", "starnet_s050",
)  # fmt: skip
TASKS = ("classification", "segmentation", "detection")
FORMATS = ("pt2", "onnx", "executorch", "litert", "ncnn", "coreml")
CLASSES = Classes(tuple("abcde"), ((0, 0, 0),) * 5)


def deployable(task: str, backbone: str, side: int, fitted: bool = False):
    """The task's network with random weights, with its first output."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"task={task}", f"backbone={backbone}"])
    torch.manual_seed(0)
    built = build_task(OmegaConf.to_container(config, resolve=True), CLASSES)
    randomised(built.network)
    if fitted:
        fit_norms(built.network, side)
    return make_deployable(built, image_size=(side, side))


@torch.no_grad()
def fit_norms(network: torch.nn.Module, side: int) -> None:
    """Give all norms the statistics of four images."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches
    network.train()(noise(side, 4).float())
    network.eval()


def rounding(model, side: int) -> float:
    """Largest relative difference between the network in float32 and in float64."""
    images, results = noise(side).float(), []
    with torch.inference_mode():
        for dtype in (torch.float32, torch.float64):
            found = copy.deepcopy(model.network).to(dtype)(images.to(dtype))
            results.append(list(found.values()) if isinstance(found, dict) else [found])
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*results, strict=True))


def noise(side: int, count: int = 1) -> torch.Tensor:
    """(count, 3, side, side) in 0..255."""
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1))


def difference(model, format_name: str, side: int) -> float | str:
    """Largest relative difference, or why there is none."""
    format = backend(format_name)
    images = noise(side).to(getattr(torch, format.inputs[0]))
    expected = eager(model)(images)
    outputs = tuple(
        TensorSpec(name, tuple(values.shape), str(values.dtype).removeprefix("torch."))
        for name, values in expected.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            format.export(model, images, Path(folder), ExportOptions())
            manifest = Manifest(
                format_name, format.file, "any", model.output, "fp32",
                TensorSpec("images", tuple(images.shape), format.inputs[0]), outputs, {}, {},
            )  # fmt: skip
            if not format.here:
                return "converts"
            return worst(compare(model.output, expected, format.load(Path(folder), manifest)(images)))
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:100]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, choices in (("backbones", BACKBONES), ("tasks", TASKS), ("formats", FORMATS)):
        parser.add_argument(f"--{name}", nargs="+", default=choices)
    parser.add_argument("--side", type=int, default=96, help="px")
    parser.add_argument("--fitted", action="store_true", help="norms with the statistics of images")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name, schema)
    columns = ("float32", *options.formats)
    rows, found, began = [], [], time.perf_counter()
    for task in options.tasks:
        for name in options.backbones:
            model = deployable(task, name, options.side, options.fitted)
            cells = [rounding(model, options.side)]
            cells += [difference(model, format, options.side) for format in options.formats]
            rows.append((task, name, *(f"{cell:.1e}" if isinstance(cell, float) else cell for cell in cells)))
            found += [
                {"task": task, "backbone": name, "format": format, "difference": cell}
                for format, cell in zip(columns, cells, strict=True)
            ]
            print(f"{time.perf_counter() - began:.0f} s  {'  '.join(rows[-1])}", file=sys.stderr, flush=True)
    print_table(f"largest relative difference from eager, {options.side} px", ("task", "backbone", *columns), rows)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
