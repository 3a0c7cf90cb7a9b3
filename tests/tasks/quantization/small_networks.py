"""Small networks of every kind, one with published weights, and their artifacts."""

from functools import partial
from pathlib import Path

import cv2
import torch
import torchvision

from backbones.base import Backbone
from backbones.blocks.fusion import fuse_model
from backbones.blocks.layers import ConvNormAct
from backbones.mobilenetv2 import mobilenet_v2
from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.repvit import repvit_m0_6
from backbones.shufflenetv2 import shufflenet_v2_x0_5
from heads.classification import LinearClassifier
from heads.gfl_lite import GFLLite
from heads.lite_fpn import LiteFPN
from heads.lraspp import LRASPP
from heads.ssdlite import SSDLite
from tasks.base.network import Deployable, build_network
from tasks.deploy.backend import ExportOptions
from tasks.deploy.manifest import Manifest, TensorSpec
from tests.oracles import randomised


class Shallow(Backbone):
    """MobileNetV1 with one pair of convolutions a stage, 8 to 64 channels."""

    def __init__(self):
        super().__init__(in_channels=3, output_stride=32)
        self._append(ConvNormAct(3, 8, 3, 2, activation=torch.nn.ReLU6), 8, stride=2)
        for before, after in ((8, 16), (16, 32), (32, 48), (48, 64)):
            depthwise = ConvNormAct(before, before, 3, 2, groups=before, activation=torch.nn.ReLU6)
            pair = torch.nn.Sequential(depthwise, ConvNormAct(before, after, activation=torch.nn.ReLU6))
            self._append(pair, after, stride=2)


def nms_free(**given) -> GFLLite:
    """A head without suppression whose predictions are not mostly their biases."""
    head = GFLLite(**given, channels=16, stacked=1, nms_free=True)
    with torch.no_grad():
        for conv in (*head.one_to_one.classifiers, *head.one_to_one.regressors):
            conv.weight.mul_(100)
    return head


DETECTORS = {  # what they give
    "ssdlite": ("class_logits", "box_deltas"), "nms_free": ("class_logits", "box_distributions"),
}  # fmt: skip
# Cut after the tap that the head reads: converters take seconds a stage.
NETWORKS = {
    "classification": (mobilenet_v3_small, partial(LinearClassifier, deep="c3")),
    "repvit": (repvit_m0_6, partial(LinearClassifier, deep="c3")),
    "shuffle": (shufflenet_v2_x0_5, partial(LinearClassifier, deep="c3")),
    "plain": (Shallow, partial(LinearClassifier, deep="c4")),
    "lraspp": (Shallow, partial(LRASPP, deep="c4", filters=16)),
    "lite_fpn": (Shallow, partial(LiteFPN, channels=16)),
    "ssdlite": (Shallow, partial(SSDLite, second="c5", extra_channels=(32,))),
    "nms_free": (Shallow, nms_free),
}


class Small(Deployable):
    """A fused network with randomised norms."""

    def __init__(self, name: str):
        super().__init__()
        torch.manual_seed(0)
        backbone, head = NETWORKS[name]
        self.network = fuse_model(randomised(build_network(backbone(), head, 7)))
        self.output = "raw" if name in DETECTORS else "logits"
        self.outputs = DETECTORS.get(name, ("logits",))
        self.eval()

    def forward(self, images):
        raw = self.network(images)
        return tuple(raw[name] for name in self.outputs) if isinstance(raw, dict) else (raw,)


class Photographed(Deployable):
    """MobileNetV2 with torchvision's weights, what torchvision's own network gives, and photographs to try them on.

    Attributes:
        batches: (1, 3, 160, 160) float32 each, of COCO's validation set, with the strides that decoding left.
        expected: Logits of all but the first eight, from torchvision's network.
    """

    output, outputs = "logits", ("logits",)

    def __init__(self, folder: Path):
        super().__init__()
        weights = folder / "weights" / "mobilenet_v2-b0353104.pth"
        network = build_network(
            mobilenet_v2(weights=str(weights)), partial(LinearClassifier, weights=str(weights)), 1000
        )
        network.take_normalization()
        self.network = fuse_model(network.eval())
        self.eval()
        images = [cv2.imread(str(file)) for file in sorted((folder / "coco" / "val2017").glob("*.jpg"))[:32]]
        resized = [torch.from_numpy(cv2.resize(image, (160, 160))[..., ::-1].copy()) for image in images]
        self.batches = [image.permute(2, 0, 1)[None].float() for image in resized]
        oracle = torchvision.models.mobilenet_v2().eval()
        oracle.load_state_dict(torch.load(weights, weights_only=True))
        mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.inference_mode():
            self.expected = torch.cat([oracle((images / 255 - mean) / std) for images in self.batches[8:]])

    def forward(self, images):
        return (self.network(images),)


def pictures(count: int = 1, size: int = 64, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Blurred noise in 0..255: (N, 3, size, size)."""
    noise = torch.rand(count, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise * 255, size=size, mode="bilinear").round().to(dtype)


def exported(format, model, images, folder, **options):
    """Write an artifact of a network for such images: (what the exporter tells, its manifest)."""
    with torch.inference_mode():
        outputs = dict(zip(model.outputs, model(images), strict=True))
    told = format.export(model, images, folder, ExportOptions(**options))
    specs = tuple(_spec(name, values) for name, values in outputs.items())
    precision = options.get("precision", "fp32")
    manifest = Manifest(
        format.name, format.file, "any", model.output, precision, _spec("images", images), specs, {"names": []}, {}
    )
    return told, manifest


def signal_to_noise(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """In dB: power of what is expected against that of the difference."""
    return 10 * torch.log10(expected.square().mean() / (actual - expected).square().mean()).item()


def _spec(name: str, values: torch.Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(values.shape), str(values.dtype).removeprefix("torch."))
