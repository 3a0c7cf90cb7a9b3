"""Sums of int8 products are exact through every runtime that has int8, whatever the processor of this machine."""

import pytest
import torch
from torch import nn

from tasks.base.network import Deployable
from tasks.deploy.backend import BACKENDS, backend
from tests.tasks.quantization.small_networks import exported


class Sum(Deployable):
    """The sum of 64 channels that are all the picture's red, at the ends of both ranges: 255 and the largest weight.

    Added in pairs that are clipped at 16 bits, it comes out as half.
    """

    output, outputs = "logits", ("logits",)

    def __init__(self):
        super().__init__()
        self.network = nn.Module()
        self.network.backbone = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 8, 1))
        with torch.no_grad():
            for layer, columns in (
                (self.network.backbone[0], [255.0, 0.0, 0.0]),
                (self.network.backbone[2], [1.0] * 64),
            ):
                layer.weight.copy_(torch.tensor(columns)[None, :, None, None].expand_as(layer.weight))
                layer.bias.zero_()
        self.eval()

    def forward(self, images):
        return (self.network.backbone(images / 255).mean((2, 3)),)


# the NPU's emulator has files of its own: test_qnn.py
FORMATS = [(name, backend(name)) for name in BACKENDS if name != "qnn" and "int8" in backend(name).precisions]


@pytest.mark.parametrize(
    ("name", "reduce_range"),
    [pytest.param(name, False, marks=[] if format.narrows else pytest.mark.slow) for name, format in FORMATS]
    + [(name, True) for name, format in FORMATS if format.narrows],
)
def test_the_largest_sums_are_exact(name, reduce_range, tmp_path):
    format, images = backend(name), torch.full((1, 3, 16, 16), 255.0)
    calibration = [images, images * 0.5, images * 0]
    told, manifest = exported(
        format, Sum(), images, tmp_path, precision="int8", calibration=calibration[:1], reduce_range=reduce_range
    )
    assert any("int8" in text for text in (*told.notes, *told.operators))
    for pixels in calibration:
        (found,) = format.load(tmp_path, manifest).run(pixels)
        assert found.numpy() == pytest.approx(64 * pixels[0, 0, 0, 0].item(), rel=0.02, abs=1)
