"""Oracle: the strided network itself, whose maps the dilated one must have at every second or fourth px."""

import copy

import pytest
import torch
from torch import nn

from backbones.blocks.dilation import dilate, undilate

POOLS = {
    "max": nn.MaxPool2d(3, 2, 1),
    "max of 2": nn.MaxPool2d(2, 2),
    "average": nn.AvgPool2d(3, 2, 1),
    "average of what is there": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average of 2": nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "convolution of 2": nn.Conv2d(4, 4, 2, 2),
    "convolution of 3": nn.Conv2d(4, 4, 3, 2, 1, groups=4),
    "convolution of 5": nn.Conv2d(4, 4, (5, 3), 2, (2, 1)),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("output_stride", [1, 2])
def test_every_kind_of_stride_equals_the_strided_one_at_its_px(name, output_stride):
    torch.manual_seed(0)
    layers = [
        POOLS[name],
        nn.Conv2d(4, 4, 3, 1, 1),
        copy.deepcopy(POOLS[name]),
        nn.AvgPool2d(3, 1, 1),
        nn.Conv2d(4, 4, 1),
    ]
    strided = nn.Sequential(*layers).eval().double()
    images = torch.randn(2, 4, 32, 48, dtype=torch.float64)
    dilated = copy.deepcopy(strided)
    dilate(dilated, images, output_stride)
    factor = 4 // output_stride
    with torch.inference_mode():
        expected, actual = strided(images), dilated(images)
        assert actual.shape[-2:] == (32 // output_stride, 48 // output_stride)
        assert torch.allclose(actual[..., ::factor, ::factor], expected, rtol=0, atol=1e-12)
        assert dilated.state_dict().keys() == strided.state_dict().keys()
        undilate(dilated)
        assert torch.equal(dilated(images), expected)
    assert [type(part) for part in dilated] == [type(part) for part in strided]


def test_what_runs_at_two_strides_or_pads_too_much_is_named():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, 2, 1)

        def forward(self, x):
            return self.conv(self.conv(x))

    images = torch.rand(1, 1, 16, 16)
    with pytest.raises(ValueError, match=r"conv works at several strides: \[1, 2\]"):
        dilate(Twice(), images, 2)
    with pytest.raises(ValueError, match=r"0 pads its kernel of \(2, 2\) px by \(1, 1\)"):
        dilate(nn.Sequential(nn.Conv2d(1, 1, 2, 2, 1)), images, 1)
    with pytest.raises(ValueError, match="0 is a pooling of stride 4 at stride 1"):
        dilate(nn.Sequential(nn.MaxPool2d(4)), images, 2)
