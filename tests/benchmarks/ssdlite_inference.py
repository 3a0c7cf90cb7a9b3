"""Time of SSDLite320 with MobileNetV3-Large, ours against torchvision's with the same weights.

    python tests/benchmarks/ssdlite_inference.py [--runs 15] [--threads 2] [--step] [--batch 8] [--compile]

Detection: the whole way from one 320x320 image of floats to boxes at its size, in inference mode, ours in channels_last
and fused as it is deployed, and unfused; then the postprocessing alone, for numbers of candidates from a network that
knows nothing to one that is trained (candidates: scores above 0.001). With --step instead a training step on a batch,
an image having 8 boxes: forward, loss, backward, SGD. torchvision runs in its own layout and in channels_last, with
--compile also with its backbone and head compiled, and ours too. All sides alternate in one process, so what else the
machine does hits each; medians in ms, and the ratio torchvision / ours for each form of torchvision's.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch
import torchvision
from torch import Tensor, nn

from backbones.blocks.fusion import fuse_model
from backbones.mobilenetv3 import mobilenet_v3_large
from backbones.weights.loading import load_weights
from heads.detections import Detections
from heads.nms import select_detections
from heads.ssdlite import SSDLite
from tasks.base.network import Network
from tasks.detection.ssd_losses import MultiboxLoss
from tests.benchmarks.alternating import load, medians
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


def peers(oracle: nn.Module, compiled: bool) -> dict[str, nn.Module]:
    """torchvision's detector as it is, in channels_last, and compiled: {name: network}."""
    other = copy.deepcopy(oracle).to(memory_format=torch.channels_last)
    forms = {"torchvision": oracle, "torchvision channels_last": other}
    if compiled:
        third = copy.deepcopy(other)
        third.backbone, third.head = torch.compile(third.backbone), torch.compile(third.head)
        forms["torchvision compiled"] = third
    return forms


def detect(network: nn.Module, head: SSDLite, image: Tensor) -> Detections:
    """The best detections in one image."""
    raw = network(image[None].to(memory_format=torch.channels_last))
    return select_detections(*head.decode(raw, SIZE), **SETTINGS)[0].resized(SIZE, SIZE)


def raw_outputs(head: SSDLite) -> dict[str, dict[str, Tensor]]:
    """Raw outputs with random scores: {number of candidates: raw}.

    The higher the background's logits, the fewer scores are above the threshold.
    """
    anchors, columns = len(head.anchors(SIZE)), CLASSES + 1
    found = {}
    for spread, background in ((1, 0), (3, 12), (3, 16), (3, 20)):
        logits = spread * torch.randn(1, anchors, columns)
        logits[..., 0] += background
        above = (logits.softmax(-1)[0, :, 1:] > SETTINGS["score_threshold"]).sum().item()
        found[f"{above:,} candidates"] = {"box_deltas": torch.randn(1, anchors, 4), "class_logits": logits}
    return found


def inference_sides(compiled: bool) -> dict[str, dict[str, Callable]]:
    """{what: {side: function}}."""
    oracle, ours = networks()
    image = coarse_noise(1, SIZE)[0]
    pixels, head = 255 * image, ours.head
    forms = {"ours fused": fuse_model(ours), "ours unfused": ours}
    if compiled:
        forms["ours fused, compiled"] = torch.compile(forms["ours fused"])
    whole = {name: partial(peer, [image]) for name, peer in peers(oracle, compiled).items()}
    whole |= {name: partial(detect, form, head, pixels) for name, form in forms.items()}
    sides = {"whole detector": whole}
    for kind, raw in raw_outputs(head).items():
        sides[f"postprocessing, {kind}"] = {
            "torchvision": partial(postprocess, raw, head.anchors(SIZE), SIZE, SETTINGS),
            "ours": lambda raw=raw: select_detections(*head.decode(raw, SIZE), **SETTINGS),
        }
    return sides


def step_sides(batch: int, compiled: bool) -> dict[str, dict[str, Callable]]:
    """A training step of each side."""
    oracle, ours = networks()
    images = coarse_noise(batch, SIZE)
    corner = 200 * torch.rand(batch, 8, 2)
    boxes, labels = torch.cat([corner, corner + 20 + 100 * torch.rand(batch, 8, 2)], -1), torch.randint(90, (batch, 8))
    pixels = (255 * images).to(torch.uint8).to(memory_format=torch.channels_last)
    criterion = MultiboxLoss()

    def their_losses(network: nn.Module) -> dict[str, Tensor]:
        pairs = zip(boxes, labels, strict=True)
        return network(list(images), [{"boxes": box.clone(), "labels": label + 1} for box, label in pairs])

    def our_losses(network: nn.Module) -> dict[str, Tensor]:
        return criterion(network(pixels), {"boxes": boxes, "labels": labels}, ours.head, SIZE)

    def step(network: nn.Module, losses: Callable, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        sum(losses(network).values()).backward()
        optimizer.step()

    networks_of = {name: (peer, their_losses) for name, peer in peers(oracle, compiled).items()}
    networks_of["ours"] = (ours, our_losses)
    return {
        f"training step, batch {batch}": {
            name: partial(step, net.train(), losses, torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9))
            for name, (net, losses) in networks_of.items()
        }
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 15), ("threads", 2), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--compile", action="store_true", help="compile torchvision's network too (minutes)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {}
    print(f"{options.threads} threads, median of {options.runs} runs, {load()}")
    with torch.inference_mode(not options.step):
        for what, sides in (
            step_sides(options.batch, options.compile) if options.step else inference_sides(options.compile)
        ).items():
            result[what] = medians(sides, options.runs)
            theirs = {name: value for name, value in result[what].items() if name.startswith("torchvision")}
            for name, value in result[what].items():
                ratios = ", ".join(f"{other / value:.2f}" for other in theirs.values())
                print(f"{what:38} {name:26} {value:8.1f} ms" + ("" if name in theirs else f"   ratio {ratios}"))
    if options.json:
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
        options.json.write_text(json.dumps({"ms": result, "threads": options.threads, "load": load()} | versions))


if __name__ == "__main__":
    main()
