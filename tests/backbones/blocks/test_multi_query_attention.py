"""Multi-query attention: its formula, its dilation, its fused form."""

import pytest
import torch
from torch import nn

from backbones.blocks.fusion import fold_bn_into_next_conv, fuse_model
from backbones.blocks.multi_query_attention import MultiQueryAttention
from tests.oracles import randomised, relative_error

IMAGE = torch.randn(2, 12, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def block(**options) -> MultiQueryAttention:
    torch.manual_seed(0)
    attention = MultiQueryAttention(12, heads=3, head_channels=5, **options)
    attention.init_weights()
    return randomised(attention).double()


def test_each_head_is_torchs_attention_with_the_shared_key_and_value():
    attention = block()
    with torch.inference_mode():
        normed = attention.norm(IMAGE)
        tokens = {name: getattr(attention, name)(normed).flatten(2).mT for name in ("query", "key", "value")}
        heads = [
            nn.functional.scaled_dot_product_attention(query, tokens["key"], tokens["value"])
            for query in tokens["query"].split(5, 2)
        ]
        expected = IMAGE + attention.project(torch.cat(heads, 2).mT.reshape(2, 15, 9, 7))
        assert relative_error(attention(IMAGE), expected) < 1e-12
        assert relative_error(attention(IMAGE) - IMAGE, expected - IMAGE) < 1e-12


@pytest.mark.parametrize("reduction", [1, 2])
@pytest.mark.parametrize("dilation", [2, 4])
def test_a_dilated_block_gives_the_undilated_ones_output_at_its_px(reduction, dilation):
    strided, dilated = block(reduction=reduction), block(reduction=reduction, dilation=dilation)
    dilated.load_state_dict(strided.state_dict())
    with torch.inference_mode():
        expected = strided(IMAGE[..., ::dilation, ::dilation])
        actual = dilated(IMAGE)
    assert actual.shape == IMAGE.shape
    assert relative_error(actual[..., ::dilation, ::dilation], expected) < 1e-12


@pytest.mark.parametrize("options", [{}, {"dilation": 2}, {"reduction": 2}, {"reduction": 2, "dilation": 2}])
def test_fused_equals_unfused_up_to_the_borders(options):
    attention = block(**options)
    fused = fuse_model(attention)
    with torch.inference_mode():
        branch = attention(IMAGE) - IMAGE
        assert relative_error(fused(IMAGE) - IMAGE, branch) < 1e-12
        assert torch.equal(fuse_model(fused)(IMAGE), fused(IMAGE))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    assert not [name for name, _ in fused.named_parameters() if "gamma" in name]
    convs = sum(isinstance(part, nn.Conv2d) for part in fused.modules())
    assert convs == (7 if "reduction" in options else 4)  # of those a norm before grids that pad is one


def test_other_norms_stay():
    attention = block(norm=lambda channels: nn.GroupNorm(3, channels), reduction=2)
    fused = fuse_model(attention)
    assert relative_error(fused(IMAGE), attention(IMAGE)) < 1e-12
    assert isinstance(fused.norm, nn.GroupNorm)


def test_a_norm_is_not_folded_into_a_convolution_that_pads():
    with pytest.raises(ValueError, match="cannot be folded into the convolution behind it, which pads or has groups"):
        fold_bn_into_next_conv(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1))
