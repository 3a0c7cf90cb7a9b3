"""ResNet and ResNeXt against torchvision, with weights carried over, dilated too."""

import pytest
import torch
import torchvision

from backbones.resnet import resnet18, resnet50, resnext50_32x4d
from tasks.benchmark.costs import profile
from tests.oracles import randomised, relative_error

FACTORIES = {f.__name__: f for f in (resnet18, resnet50, resnext50_32x4d)}
DILATED = {32: [False, False, False], 16: [False, False, True], 8: [False, True, True]}
each_variant = pytest.mark.parametrize("variant", FACTORIES)


def expected_taps(oracle: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    taps = {"c1": oracle.relu(oracle.bn1(oracle.conv1(images)))}
    taps["c2_first"] = x = oracle.maxpool(taps["c1"])
    taps["c2"] = x = oracle.layer1(x)
    for name, layer in (("c3", oracle.layer2), ("c4", oracle.layer3), ("c5", oracle.layer4)):
        taps[f"{name}_first"] = layer[0](x)
        taps[name] = x = layer(x)
    return taps


@pytest.mark.parametrize(
    ("variant", "output_stride"),
    [
        ("resnet18", 32),
        ("resnet50", 8),
        *(pytest.param("resnet50", stride, marks=pytest.mark.long) for stride in (16, 32)),
        *(pytest.param("resnext50_32x4d", stride, marks=pytest.mark.long) for stride in DILATED),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "bound"), [pytest.param(torch.float32, 1e-5, marks=pytest.mark.slow), (torch.float64, 1e-10)]
)
def test_every_tap_equals_torchvision(variant, output_stride, dtype, bound, tmp_path):
    torch.manual_seed(0)
    options = {"replace_stride_with_dilation": DILATED[output_stride]} if output_stride < 32 else {}
    oracle = randomised(torchvision.models.get_model(variant, weights=None, **options))
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    backbone = FACTORIES[variant](output_stride=output_stride, weights=str(tmp_path / "weights.pth"))
    backbone, images = backbone.to(dtype).eval(), torch.rand(1, 3, 97, 65, dtype=dtype)
    with torch.inference_mode():
        expected, actual = expected_taps(oracle.to(dtype), images), backbone(images)
    assert expected.keys() == actual.keys()
    for tap, features in expected.items():
        assert relative_error(actual[tap], features) <= bound, tap


@pytest.mark.long
@each_variant
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_maps_contain_the_undilated_ones(variant, output_stride):
    """The definition of dilation without loss; torchvision has no dilated ResNet-18 to compare with."""
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
    meta = torchvision.models.get_model_weights(variant).IMAGENET1K_V1.meta
    backbone = FACTORIES[variant]()
    cost, last = profile(backbone, (224, 224)), backbone.taps[-1].channels
    assert cost.parameters + 1000 * (last + 1) == meta["num_params"]
    assert (cost.macs + 1000 * last) / 1e9 == pytest.approx(meta["_ops"], abs=0.0006)


@pytest.mark.long
@each_variant
@pytest.mark.parametrize("width", [0.25, 0.5, 1.5])
def test_width_scales_every_count(variant, width):
    backbone, whole = FACTORIES[variant](width=width).eval(), FACTORIES[variant]()
    assert [tap.channels for tap in backbone.taps] == [tap.channels * width for tap in whole.taps]
    assert backbone(torch.rand(1, 3, 64, 64))["c5"].shape[1] == backbone.taps[-1].channels
