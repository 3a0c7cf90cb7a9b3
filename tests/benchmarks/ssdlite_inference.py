"""Time of SSDLite320 with MobileNetV3-Large, ours against torchvision's with the same weights.

    python tests/benchmarks/ssdlite_inference.py [--runs 15] [--threads 2] [--step] [--batch 8] [--json out.json]

Detection: the whole way from one 320x320 image of floats to boxes at its size, in inference mode, ours in channels_last
and fused as it is deployed, and unfused; then the postprocessing alone, on the network's raw outputs and on random ones
(candidates: scores above 0.001, and those among the best 300 of their class). With --step instead a training step on
a batch, an image having 8 boxes: forward, loss, backward, SGD. All sides alternate in one process, so what else the
machine does hits each; medians in ms, and the ratio torchvision / ours.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch
import torchvision
from torch import Tensor, nn

from backbones.mobilenetv3 import mobilenet_v3_large
from backbones.reparam import fuse_model
from backbones.weights import load_weights
from heads.detections import Detections, select_detections
from heads.ssdlite import SSDLite
from tasks.network import Network
from tasks.ssd_losses import MultiboxLoss
from tests.heads.ssd_oracle import SETTINGS, coarse_noise, postprocess, torchvision_detector

SIZE, CLASSES = (320, 320), 90


def networks() -> tuple[nn.Module, Network]:
    """torchvision's detector, and ours with its weights."""
    oracle = torchvision_detector(CLASSES)
    backbone = mobilenet_v3_large(reduced_tail=True, norm=partial(nn.BatchNorm2d, eps=0.001, momentum=0.03))
    backbone.mean = backbone.std = (0.5, 0.5, 0.5)
    ours = Network(backbone, SSDLite(backbone.taps, CLASSES))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ssdlite.pth"
        torch.save(oracle.state_dict(), path)
        load_weights(ours.backbone, path), load_weights(ours.head, path)
    return oracle, ours.eval().to(memory_format=torch.channels_last)


def detect(network: nn.Module, image: Tensor) -> Detections:
    """The best detections in one image."""
    raw = network(image[None].to(memory_format=torch.channels_last))
    return select_detections(*network.head.decode(raw, SIZE), **SETTINGS)[0].resized(SIZE, SIZE)


def raw_outputs(network: Network, pixels: Tensor) -> dict[str, dict[str, Tensor]]:
    """Raw outputs: the network's, of scores that are all above the threshold, and of few that are."""
    anchors, columns = 3234, CLASSES + 1
    sparse = 3 * torch.randn(1, anchors, columns)
    sparse[..., 0] += 12
    kinds = {"dense scores": torch.randn(1, anchors, columns), "sparse scores": sparse}
    random = {kind: {"box_deltas": torch.randn(1, anchors, 4), "class_logits": x} for kind, x in kinds.items()}
    return {"network's scores": network(pixels[None])} | random


def inference_sides() -> dict[str, dict[str, Callable]]:
    """{what: {side: function}}."""
    oracle, ours = networks()
    image = coarse_noise(1, SIZE)[0]
    pixels, fused = 255 * image, fuse_model(ours)
    sides = {
        "whole detector": {
            "torchvision": lambda: oracle([image]), "ours fused": lambda: detect(fused, pixels),
            "ours unfused": lambda: detect(ours, pixels),
        },
    }  # fmt: skip
    for kind, raw in raw_outputs(ours, pixels).items():
        above = (raw["class_logits"].softmax(-1)[0, :, 1:] > SETTINGS["score_threshold"]).sum(0)
        print(f"{kind}: {above.sum()} candidates, {above.clamp(max=SETTINGS['candidates']).sum()} among the best")
        sides[f"postprocessing, {kind}"] = {
            "torchvision": partial(postprocess, raw, ours.head.anchors(SIZE), SIZE, SETTINGS),
            "ours": lambda raw=raw: select_detections(*ours.head.decode(raw, SIZE), **SETTINGS),
        }
    return sides


def step_sides(batch: int) -> dict[str, dict[str, Callable]]:
    """A training step of each side."""
    oracle, ours = networks()
    oracle.train(), ours.train()
    images = coarse_noise(batch, SIZE)
    corner = 200 * torch.rand(batch, 8, 2)
    boxes, labels = torch.cat([corner, corner + 20 + 100 * torch.rand(batch, 8, 2)], -1), torch.randint(90, (batch, 8))
    pixels = (255 * images).to(torch.uint8).to(memory_format=torch.channels_last)
    criterion = MultiboxLoss()

    def theirs_step() -> dict[str, Tensor]:
        pairs = zip(boxes, labels, strict=True)
        return oracle(list(images), [{"boxes": box.clone(), "labels": label + 1} for box, label in pairs])

    def ours_step() -> dict[str, Tensor]:
        return criterion(ours(pixels), {"boxes": boxes, "labels": labels}, ours.head, SIZE)

    def step(network: nn.Module, losses: Callable, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        sum(losses().values()).backward()
        optimizer.step()

    sides = {"torchvision": (oracle, theirs_step), "ours": (ours, ours_step)}
    return {
        f"training step, batch {batch}": {
            name: partial(step, network, losses, torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9))
            for name, (network, losses) in sides.items()
        }
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 15), ("threads", 2), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {}
    with torch.inference_mode(not options.step):
        for what, sides in (step_sides(options.batch) if options.step else inference_sides()).items():
            times = {name: [] for name in sides}
            for run in range(options.runs + 1):  # the first warms up
                for name, function in sides.items():
                    start = perf_counter()
                    function()
                    if run:
                        times[name].append(1e3 * (perf_counter() - start))
            result[what] = {name: median(values) for name, values in times.items()}
            for name, value in result[what].items():
                print(f"{what:32} {name:14} {value:8.1f} ms   ratio {result[what]['torchvision'] / value:5.2f}")
    if options.json:
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
        options.json.write_text(json.dumps({"ms": result, "threads": options.threads} | versions))


if __name__ == "__main__":
    main()
