"""Shapes by the rules of this project are those of torch's own, and what the rules do not know is left to torch."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.benchmark import shapes
from tests.conftest import ROOT

POOLS = [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, dilation=2), nn.AvgPool2d(3, 2, 1)]
CALLS = [
    nn.Conv2d(8, 6, 3, stride=2, padding=1),
    nn.Conv2d(8, 8, (5, 3), padding=(2, 0), dilation=(1, 2), groups=4, bias=False),
    nn.Conv2d(8, 8, 3, padding="same"),
    nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1),
    *POOLS,
    nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
    nn.AdaptiveAvgPool2d(1),
    nn.BatchNorm2d(8),
    nn.Sequential(nn.Conv2d(8, 4, 1), nn.Hardswish(inplace=True), nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.Hardsigmoid()),
    nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Linear(5, 3, bias=False)),
    lambda x: (x - torch.zeros(8, 1, 1)) / 2 + x[:1] * 3,
    lambda x: x + x.int(),
    lambda x: x.mean((2, 3), keepdim=True) + x.mean(-1, keepdim=True) + x.mean(),
    lambda x: x.mean((1, -1), dtype=torch.float64),
    lambda x: torch.cat([x, x[:, :2], x], dim=1),
    lambda x: torch.cat([x.flatten(2).transpose(1, 2)] * 2, dim=-2),
    lambda x: torch.cat([x, x], dim=-1).chunk(2, dim=1)[0].sigmoid_(),
    lambda x: F.interpolate(x, (5, 4), mode="bilinear"),
    lambda x: F.interpolate(x, scale_factor=2),
    lambda x: F.conv2d(x[..., ::2, ::2], torch.empty(4, 8, 1, 1)),
    lambda x: F.conv2d(x.to(memory_format=torch.channels_last), torch.empty(4, 8, 3, 3)),
    lambda x: F.conv1d(x.flatten(2), torch.empty(4, 8, 3)),
]


class Shapes(TorchDispatchMode):
    """Compare the outputs of each call with those of torch's rule; count the calls that a rule answered."""

    answered = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        rule = shapes.RULES.get(func.overloadpacket)
        before = [(x.shape, x.stride()) for x in shapes.tensors_of(args)]
        found = shapes.outputs_of(func, args, kwargs)
        if rule is not None:
            self.answered += 1
            outputs, expected = shapes.tensors_of(found), shapes.tensors_of(func(*args, **kwargs))
            kept = 1 if rule is shapes._batch_norm else None  # on a CPU eval mode returns no statistics
            facts = [[(x.shape, x.stride(), x.dtype) for x in of[:kept]] for of in (outputs, expected)]
            assert facts[0] == facts[1], func
            assert [(x.shape, x.stride()) for x in shapes.tensors_of(args)] == before
        return found


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
@pytest.mark.parametrize("size", [(2, 8, 9, 12), (1, 8, 6, 5)], ids=["9x12", "6x5"])
def test_shapes_strides_and_dtypes_are_torchs(call, size):
    call = call.eval().to("meta") if isinstance(call, nn.Module) else call
    with torch.no_grad(), torch.device("meta"), Shapes() as seen:
        call(torch.empty(size))
    assert seen.answered


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: F.conv2d(x, torch.empty(4, 5, 3, 3)), "channel"),
        (lambda x: F.conv2d(x, torch.empty(4, 8, 9, 9)), "[Kk]ernel size"),
        (lambda x: x + torch.empty(7), "broadcast"),
        (lambda x: x[0].add_(x), "shape|size"),
        (lambda x: torch.cat([x, x[:, :, 1:]], dim=1), "[Ss]izes"),
        (lambda x: F.linear(x.flatten(1), torch.empty(3, 5)), "shape|dim|size"),
        (lambda x: F.max_pool2d(x, 20), "size"),
    ],
)
def test_what_does_not_fit_is_refused_by_torch(call, message):
    with torch.no_grad(), torch.device("meta"), Shapes(), pytest.raises((RuntimeError, ValueError), match=message):
        call(torch.empty(1, 8, 6, 6))


@pytest.mark.long
def test_networks_are_described_without_torchs_compiler():
    lines = """
import sys
from tasks.describe import describe
from tools.cli import composed
heads = (), ("task=classification",), ("task=segmentation",), ("task=detection",), ("task=detection", "head=gfl_lite")
for backbone in ("mnv3_large", "mnv4_conv_small", "snv2_100", "snv1_g3", "repvgg_a0", "repvit_m0_9", "resnet18"):
    for words in heads if backbone == "mnv3_large" else heads[:1]:
        describe(composed("describe", [f"backbone={backbone}", *words]))
        loaded = {"sympy", "torch._dynamo", "triton", "lightning"} & {*sys.modules}
        assert not loaded, (backbone, words, loaded)
"""
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
