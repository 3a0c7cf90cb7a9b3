"""MobileNetV3 against torchvision, with weights carried over."""

import pytest
import torch
import torchvision
from torchvision.models._utils import IntermediateLayerGetter

from backbones.mobilenetv3 import mobilenet_v3_large, mobilenet_v3_small
from tasks.deploy.profile import profile
from tests.oracles import randomised, relative_error

FACTORIES = {"mobilenet_v3_large": mobilenet_v3_large, "mobilenet_v3_small": mobilenet_v3_small}
# torchvision's layer behind each tap; the last is the closing convolution
LAYERS = {
    "mobilenet_v3_large": {"c1": 1, "c2": 3, "c3_first": 4, "c3": 6, "c4": 12, "c5_first": 13, "c5": 15, "final": 16},
    "mobilenet_v3_small": {"c1": 0, "c2": 1, "c3_first": 2, "c3": 3, "c4": 8, "c5_first": 9, "c5": 11, "final": 12},
}
C5_EXPANSION = {"mobilenet_v3_large": 13, "mobilenet_v3_small": 9}


def reference(variant: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return randomised(torchvision.models.get_model(variant, weights=None, **options))


@pytest.mark.parametrize("reduced_tail", [False, True])
@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("variant", FACTORIES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_every_tap_equals_torchvision(variant, dilated, reduced_tail, dtype, bound, tmp_path):
    oracle = reference(variant, dilated=dilated, reduced_tail=reduced_tail)
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    backbone = FACTORIES[variant](
        reduced_tail=reduced_tail, output_stride=16 if dilated else 32, weights=str(tmp_path / "weights.pth")
    )
    backbone, oracle = backbone.to(dtype).eval(), oracle.to(dtype)
    images = torch.rand(2, 3, 97, 65, dtype=dtype)
    getter = IntermediateLayerGetter(oracle.features, {str(at): tap for tap, at in LAYERS[variant].items()})
    with torch.inference_mode():
        expected, actual = getter(images), backbone(images)
        block = C5_EXPANSION[variant]
        before = oracle.features[:block](images)
        expected["c5_exp"] = oracle.features[block].block[0](before)
    for tap, features in expected.items():
        assert relative_error(actual[tap], features) <= bound, tap


@pytest.mark.parametrize(
    ("variant", "published"), [("mobilenet_v3_large", 5_483_032), ("mobilenet_v3_small", 2_542_856)]
)
def test_parameter_counts_with_the_classifier(variant, published):
    classifier = torchvision.models.get_model(variant, weights=None).classifier
    count = sum(p.numel() for module in (FACTORIES[variant](), classifier) for p in module.parameters())
    assert count == published


@pytest.mark.parametrize("variant", FACTORIES)
@pytest.mark.parametrize("width", [0.5, 0.75, 1.25])
def test_widths_equal_torchvision(variant, width):
    from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf

    oracle = MobileNetV3(*_mobilenet_v3_conf(variant, width_mult=width))
    ours = FACTORIES[variant](width=width)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in oracle.features.parameters()]


@pytest.mark.parametrize("variant", FACTORIES)
def test_multiply_adds_are_the_published_ones(variant):
    published = torchvision.models.get_model_weights(variant).DEFAULT.meta["_ops"]  # in G, with the classifier
    classifier = torchvision.models.get_model(variant, weights=None).classifier
    linear = sum(layer.weight.numel() for layer in classifier if isinstance(layer, torch.nn.Linear))
    assert (profile(FACTORIES[variant](), (224, 224)).macs + linear) / 1e9 == pytest.approx(published, abs=0.0006)
