"""ShuffleNetV2 against torchvision, with weights carried over."""

import pytest
import torch
import torchvision

from backbones.shufflenetv2 import shufflenet_v2_x0_5, shufflenet_v2_x1_0, shufflenet_v2_x1_5, shufflenet_v2_x2_0
from tasks.benchmark.costs import profile
from tests.oracles import randomised, relative_error

FACTORIES = {f.__name__: f for f in (shufflenet_v2_x0_5, shufflenet_v2_x1_0, shufflenet_v2_x1_5, shufflenet_v2_x2_0)}
each_variant = pytest.mark.parametrize("variant", FACTORIES)


def expected_taps(oracle: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    taps = {"c1": oracle.conv1(images)}
    taps["c2"] = x = oracle.maxpool(taps["c1"])
    for name, stage in (("c3", oracle.stage2), ("c4", oracle.stage3), ("c5", oracle.stage4)):
        taps[f"{name}_first"] = stage[0](x)
        taps[name] = x = stage(x)
    return taps | {"final": oracle.conv5(x)}


@each_variant
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_every_tap_equals_torchvision(variant, dtype, bound, tmp_path):
    torch.manual_seed(0)
    oracle = randomised(torchvision.models.get_model(variant, weights=None))
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    backbone = FACTORIES[variant](weights=str(tmp_path / "weights.pth")).to(dtype).eval()
    images = torch.rand(2, 3, 97, 65, dtype=dtype)
    with torch.inference_mode():
        expected, actual = expected_taps(oracle.to(dtype), images), backbone(images)
    assert expected.keys() == actual.keys()
    for tap, features in expected.items():
        assert relative_error(actual[tap], features) <= bound, tap


@pytest.mark.long
@each_variant
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_maps_contain_the_undilated_ones(variant, output_stride):
    torch.manual_seed(0)
    strided = randomised(FACTORIES[variant]()).double()
    dilated = FACTORIES[variant](output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.rand(1, 3, 97, 65, dtype=torch.float64)
    with torch.inference_mode():
        expected, actual = strided(images), dilated(images)
    for coarse, fine in zip(strided.taps, dilated.taps, strict=True):
        step = coarse.stride // fine.stride
        assert relative_error(actual[fine.name][:, :, ::step, ::step], expected[coarse.name]) <= 1e-10


@each_variant
def test_parameters_and_multiply_adds_are_torchvisions(variant):
    meta = torchvision.models.get_model_weights(variant).DEFAULT.meta
    backbone = FACTORIES[variant]()
    cost, last = profile(backbone, (224, 224)), backbone.taps[-1].channels
    assert cost.parameters + 1000 * (last + 1) == meta["num_params"]
    assert (cost.macs + 1000 * last) / 1e9 == pytest.approx(meta["_ops"], abs=0.0006)


def test_width_scales_every_count():
    taps = {tap.name: tap.channels for tap in shufflenet_v2_x1_0(width=0.5).taps}
    assert taps["c1"] == 12
    assert [taps[name] for name in ("c3", "c4", "c5", "final")] == [60, 116, 232, 512]
