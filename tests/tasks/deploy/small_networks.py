"""Small networks of every kind, their artifacts, and how far these are from eager PyTorch."""

from functools import partial

import torch

from backbones.mobilenetv1 import mobilenet_v1
from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.repvit import repvit_m0_6
from backbones.reparam import fuse_model
from heads.classification import LinearClassifier
from heads.lraspp import LRASPP
from heads.ssdlite import SSDLite
from tasks.deploy.backend import Deployable, ExportOptions
from tasks.deploy.manifest import Manifest, TensorSpec
from tasks.network import build_network
from tests.oracles import randomised

# cut after the tap that the head reads: converters take seconds a stage
NETWORKS = {
    "classification": (mobilenet_v3_small, partial(LinearClassifier, deep="c4")),
    "repvit": (repvit_m0_6, partial(LinearClassifier, deep="c3")),
    "plain": (partial(mobilenet_v1, width=0.25), partial(LinearClassifier, deep="c3")),
    "lraspp": (partial(mobilenet_v1, width=0.25), partial(LRASPP, deep="c4", filters=16)),
    "ssdlite": (partial(mobilenet_v1, width=0.25), partial(SSDLite, second="c5", extra_channels=(32,))),
}


class Small(Deployable):
    """A fused network with randomised norms."""

    def __init__(self, name: str):
        super().__init__()
        torch.manual_seed(0)
        backbone, head = NETWORKS[name]
        self.network = fuse_model(randomised(build_network(backbone(), head, 7)))
        self.form = "raw" if name == "ssdlite" else "logits"
        self.outputs = ("class_logits", "box_deltas") if name == "ssdlite" else ("logits",)
        self.eval()

    def forward(self, images):
        raw = self.network(images)
        return tuple(raw[name] for name in self.outputs) if isinstance(raw, dict) else (raw,)


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
        format.name, format.file, "any", model.form, precision, _spec("images", images), specs, {"names": []}, {}
    )
    return told, manifest


def signal_to_noise(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """In dB: power of what is expected against that of the difference."""
    return 10 * torch.log10(expected.square().mean() / (actual - expected).square().mean()).item()


def _spec(name: str, values: torch.Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(values.shape), str(values.dtype).removeprefix("torch."))
