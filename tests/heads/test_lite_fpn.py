"""LiteFPN: its arithmetic step by step, what training alone has, and its refusals."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from backbones.blocks.fusion import fuse_model
from backbones.mobilenetv3 import mobilenet_v3_small
from heads.lite_fpn import LiteFPN
from tests.oracles import randomised, relative_error

SIZE = (65, 97)


def maps(head: LiteFPN, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        tap.name: torch.randn(2, tap.channels, *(-(-side // tap.stride) for side in SIZE), dtype=dtype)
        for tap in head.taps
    }


def small_head(output_stride: int = 32, **options) -> LiteFPN:
    torch.manual_seed(0)
    return randomised(LiteFPN(mobilenet_v3_small(output_stride=output_stride).taps, 5, channels=8, **options))


def test_deep_features_go_down_level_by_level_to_the_finest():
    head = small_head(pool="global").eval()
    features = maps(head)
    c2, c3, c4, deep = features.values()
    with torch.inference_mode():
        x = head.deep(deep) * torch.sigmoid(head.gate.conv(deep.mean((2, 3), keepdim=True)))
        for level, skip in ((2, c4), (1, c3), (0, c2)):
            lateral = head.laterals[level].norm(head.laterals[level].conv(skip))  # no activation before the sum
            x = F.interpolate(x, skip.shape[2:], mode="bilinear") + lateral
            x = x + head.mixes[level](x)
        expected = F.interpolate(head.classifier(x), SIZE, mode="bilinear")
        torch.testing.assert_close(head(features, SIZE), expected)
        # at the size that the decoder ends at nothing is resampled
        torch.testing.assert_close(head(features, tuple(c2.shape[2:])), head.classifier(x))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_fused_equals_unfused_and_holds_nothing_of_training_alone(output_stride):
    head = small_head(output_stride).double().eval()
    features = maps(head, torch.float64)
    fused = fuse_model(head)
    assert head.auxiliaries and not any("auxiliaries" in key for key in fused.state_dict())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.inference_mode():
        assert relative_error(fused(features, SIZE), head(features, SIZE)) < 1e-9


def test_auxiliary_logits_come_in_training_alone_and_are_of_the_levels_between():
    head = small_head()
    features = maps(head)
    raw = head.train()(features, SIZE)
    shapes = {name: tuple(logits.shape) for name, logits in raw.items()}
    assert shapes == {
        "logits": (2, 5, *SIZE), "auxiliary_logits.c4": (2, 5, 5, 7), "auxiliary_logits.c3": (2, 5, 9, 13),
    }  # fmt: skip
    without = small_head(auxiliary=False)
    assert isinstance(without.train()(features, SIZE), torch.Tensor) and not without.auxiliaries
    extra = {*head.state_dict()} - {*without.state_dict()}
    assert extra == {f"auxiliaries.{tap}.{part}" for tap in ("c3", "c4") for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ["c2", "c7"]}, r"head\.levels: the backbone has no tap c7; it offers: .*c2 \(16 channels"),
        ({"levels": ["c4", "c2"]}, r"head\.levels=\['c4', 'c2'\] have strides \[16, 4\]: expected two or more"),
        ({"levels": ["c4"]}, "expected two or more different taps from fine to coarse, such as"),
        ({"levels": ["c2", "c5", "c5"]}, "expected two or more different taps"),
        ({"pool": "max"}, "pool=max: expected one of global, large49, large_scaled"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LiteFPN(mobilenet_v3_small().taps, 3, **options)
