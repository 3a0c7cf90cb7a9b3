"""Training steps of three networks, ours against timm's and torchvision's: ms, images a second, memory; GPU or CPU.

    python tests/benchmarks/training_steps.py [--device cuda] [--batch 32] [--runs 10] [--scale 1] [--compile]
        [--tasks classification detection segmentation] [--types float32 bfloat16 float16]

A step is forward, loss, backward and SGD with momentum on one batch that stays on the device: MobileOne-S0 at 224 px
beside timm's, SSDLite at 320 px and LR-ASPP at 512 px with MobileNetV3-Large beside torchvision's. Each in 32 bits, in
bfloat16 and, on a GPU, in float16 autocast with a gradient scaler; ours in channels_last as tasks train, the others in
both layouts; with --compile all of them compiled as well (minutes). Of classification also our step with MixUp and
CutMix, which change the batch on the device ("ours mixed"). The optimiser is fused on a GPU, on all sides. The
sides alternate in one process; medians, the ratio to the better layout of the other's, and on a GPU the peak memory.
--scale 0.25 takes a quarter of each image size, for a try on a CPU; torchvision's detector makes 320 px of any size, so
its times compare at scale 1 alone. Sides that fail are named and left out.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import timm
import torch
import torchvision
from torch import Tensor, nn

from backbones.mobilenetv3 import mobilenet_v3_large
from backbones.mobileone import mobileone_s0
from heads.classification import LinearClassifier
from heads.lraspp import LRASPP
from heads.ssdlite import SSDLite
from tasks.base.network import build_network
from tasks.base.task import VisionTask
from tasks.classification.task import ClassificationTask
from tasks.data.classes import Classes
from tasks.detection.task import DetectionTask
from tasks.segmentation.task import SegmentationTask
from tests.benchmarks.alternating import load, medians

SIZES = {"classification": 224, "detection": 320, "segmentation": 512}  # px
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
Step = Callable[[], object]


def classes(count: int) -> Classes:
    return Classes(tuple(f"class {index}" for index in range(count)), ((0, 0, 0),) * count, tuple(range(1, count + 1)))


def batch_of(kind: str, count: int, size: int, device: str) -> dict:
    """Random images in 0..255 with what the task learns from: labels, 8 boxes an image, or masks."""
    batch = {"images": 255 * torch.rand(count, 3, size, size, device=device)}
    if kind == "classification":
        return batch | {"labels": torch.randint(1000, (count,), device=device)}
    if kind == "segmentation":
        return batch | {"masks": torch.randint(21, (count, size, size), device=device)}
    corners = size * 0.5 * torch.rand(count, 8, 2, device=device)
    boxes = torch.cat([corners, corners + size * (0.1 + 0.4 * torch.rand(count, 8, 2, device=device))], dim=-1)
    return batch | {"boxes": boxes, "labels": torch.randint(90, (count, 8), device=device)}


def ours(kind: str, **mixing: float) -> VisionTask:
    if kind == "classification":
        return ClassificationTask(build_network(mobileone_s0(), LinearClassifier, 1000), classes(1000), **mixing)
    if kind == "detection":
        return DetectionTask(build_network(mobilenet_v3_large(reduced_tail=True), SSDLite, 90), classes(90))
    return SegmentationTask(build_network(mobilenet_v3_large(output_stride=16), LRASPP, 21), classes(21))


def peer(kind: str) -> nn.Module:
    if kind == "classification":
        network = timm.create_model(
            "mobileone_s0"
        )  # strides by slicing: else its backward pass corrupts the heap of a CPU
        network.stem.conv_scale.conv.stride = (1, 1)
        network.stem.conv_scale.register_forward_pre_hook(lambda module, args: (args[0][:, :, ::2, ::2],))
        return network
    name = "ssdlite320_mobilenet_v3_large" if kind == "detection" else "lraspp_mobilenet_v3_large"
    return torchvision.models.get_model(name, weights=None, weights_backbone=None)


def peer_loss(kind: str, network: nn.Module, images: Tensor, batch: dict) -> Tensor:
    if kind == "classification":
        return nn.functional.cross_entropy(network(images), batch["labels"])
    if kind == "segmentation":
        return nn.functional.cross_entropy(network(images)["out"], batch["masks"])
    targets = zip(batch["boxes"], batch["labels"] + 1, strict=True)
    return sum(network(list(images), [{"boxes": b, "labels": n} for b, n in targets]).values())


def task_loss(task: VisionTask, network: nn.Module, images: Tensor, batch: dict) -> Tensor:
    return torch.stack(list(task.loss(network(images), batch).values())).sum()


def mixed_loss(task: VisionTask, images: Tensor, batch: dict) -> Tensor:
    batch = task.augment_batch(batch | {"images": images})
    return task_loss(task, task, batch["images"], batch)


def training_step(loss: Callable[[], Tensor], network: nn.Module, device: str, dtype: torch.dtype) -> Step:
    """Make a step; on a GPU it ends when the device has ended it."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            value = loss()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def sides(kind: str, batch: dict, device: str, dtype: torch.dtype, compiled: bool) -> Iterator[tuple[str, Step]]:
    """Make the steps of ours and the other's, by name."""
    for layout, memory_format in LAYOUTS.items():
        images = (batch["images"] / 255).contiguous(memory_format=memory_format)
        network = peer(kind).to(device, memory_format=memory_format).train()
        for suffix, form in (("", network), (" compiled", torch.compile(network) if compiled else None)):
            if form is not None:
                loss = partial(peer_loss, kind, form, images, batch)
                yield (
                    f"{'timm' if kind == 'classification' else 'torchvision'} {layout}{suffix}",
                    training_step(loss, network, device, dtype),
                )
    task = ours(kind).to(device).train()
    images = batch["images"].contiguous(memory_format=torch.channels_last)
    for suffix, form in (("", task), (" compiled", torch.compile(task.network) if compiled else None)):
        if form is not None:
            yield f"ours{suffix}", training_step(partial(task_loss, task, form, images, batch), task, device, dtype)
    if kind == "classification":
        task = ours(kind, mixup=0.2, cutmix=1.0).to(device).train()
        yield "ours mixed", training_step(partial(mixed_loss, task, images, batch), task, device, dtype)


def working(candidates: Iterator[tuple[str, Step]], device: str) -> tuple[dict[str, Step], dict[str, float]]:
    """Run each step twice: {name: step} of those that work, and {name: peak memory, MiB}, which a CPU does not tell."""
    steps, peaks = {}, {}
    for name, step in candidates:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        try:
            step(), step()
        except (RuntimeError, NotImplementedError) as error:
            print(f"{name}: left out, {str(error).splitlines()[0][:100]}")
            continue
        steps[name] = step
        if device == "cuda":
            peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return steps, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in (("batch", 32), ("runs", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--tasks", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=TYPES)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, batch {options.batch}, median of {options.runs} runs, {load()}")
    types = [name for name in options.types if options.device == "cuda" or name != "float16"]
    rows = []
    for kind in options.tasks:
        size = max(64, round(SIZES[kind] * options.scale / 32) * 32)
        batch = batch_of(kind, options.batch, size, options.device)
        for precision in types:
            candidates = sides(kind, batch, options.device, TYPES[precision], options.compile)
            steps, peaks = working(candidates, options.device)
            times = medians(steps, options.runs)
            best = min(value for side, value in times.items() if not side.startswith("ours"))
            for side, value in times.items():
                ratio = f"   ratio {best / value:.2f}x" if side.startswith("ours") else ""
                memory = f" {peaks[side]:8.0f} MiB" if side in peaks else ""
                kept = {"task": kind, "type": precision, "side": side, "ms": value}
                rows.append(kept | {"images/s": 1e3 * options.batch / value, "MiB": peaks.get(side)})
                print(f"{kind:<15}{precision:<9}{side:<36}{value:9.1f} ms{rows[-1]['images/s']:9.0f}/s{memory}{ratio}")
    if options.json:
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
        options.json.write_text(json.dumps({"device": name, "rows": rows} | versions, indent=2))


if __name__ == "__main__":
    main()
