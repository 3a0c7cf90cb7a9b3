"""MobileNetV3 against torchvision, with weights carried over."""

import pytest
import timm
import torch
import torchvision
from timm.models.mobilenetv3 import _gen_mobilenet_v3
from torchvision.models._utils import IntermediateLayerGetter

from backbones.mobilenetv3 import (
    VARIANTS,
    mobilenet_v3_large,
    mobilenet_v3_large_minimalistic,
    mobilenet_v3_small,
    mobilenet_v3_small_minimalistic,
)
from backbones.weights.loading import load_weights
from tasks.base.build import make
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.conftest import ROOT
from tests.oracles import randomised, relative_error
from tools.composition import read_choice

FACTORIES = {"mobilenet_v3_large": mobilenet_v3_large, "mobilenet_v3_small": mobilenet_v3_small}
# torchvision's layer behind each tap; the last is the closing convolution
LAYERS = {
    "mobilenet_v3_large": {"c1": 1, "c2": 3, "c3_first": 4, "c3": 6, "c4": 12, "c5_first": 13, "c5": 15, "final": 16},
    "mobilenet_v3_small": {"c1": 0, "c2": 1, "c3_first": 2, "c3": 3, "c4": 8, "c5_first": 9, "c5": 11, "final": 12},
}
MINIMALISTIC = {"large": mobilenet_v3_large_minimalistic, "small": mobilenet_v3_small_minimalistic}
TIMM_PLACES = {
    "large": {
        "c1_first": "bn1", "c1": "blocks.0", "c2_first": "blocks.1.0", "c2": "blocks.1", "c3_first": "blocks.2.0",
        "c3": "blocks.2", "c4_first": "blocks.3.0", "c4": "blocks.4", "c5_exp": "blocks.5.0.bn1",
        "c5_first": "blocks.5.0", "c5": "blocks.5", "final": "blocks.6",
    },
    "small": {
        "c1": "bn1", "c2": "blocks.0", "c3_first": "blocks.1.0", "c3": "blocks.1", "c4_first": "blocks.2.0",
        "c4": "blocks.3", "c5_exp": "blocks.4.0.bn1", "c5_first": "blocks.4.0", "c5": "blocks.4", "final": "blocks.5",
    },
}  # fmt: skip
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


@pytest.mark.parametrize("size", ["large", "small"])
@pytest.mark.parametrize("width", [1.0, 0.75, 1.25])
def test_every_tap_equals_timm_at_every_width(size, width, tmp_path):
    """TensorFlow's widths, in which the 0.75 variants were published; torchvision's differ and have no weights."""
    torch.manual_seed(0)
    oracle = randomised(_gen_mobilenet_v3(f"mobilenetv3_{size}_100", width))

    def in_float64(*, weights, **options):  # float32 would round the variances that take up timm's other eps
        backbone = FACTORIES[f"mobilenet_v3_{size}"](**options).double()
        load_weights(backbone, weights)
        return backbone

    assert worst_error(in_float64, oracle, TIMM_PLACES[size], tmp_path, width=width) <= 1e-10


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("size", ["large", "small"])
def test_minimalistic_equals_timm(size, output_stride, dtype, bound, tmp_path):
    oracle = randomised(timm.create_model(f"tf_mobilenetv3_{size}_minimal_100", pad_type=""))  # padded as ours
    places, options = TIMM_PLACES[size], {"output_stride": output_stride}
    assert worst_error(MINIMALISTIC[size], oracle, places, tmp_path, dtype, **options) <= bound


@pytest.mark.parametrize("size", ["large", "small"])
def test_tensorflows_padding_is_ours_at_sizes_of_32_k_plus_1_px(size, tmp_path):
    oracle = randomised(timm.create_model(f"tf_mobilenetv3_{size}_minimal_100"))
    assert worst_error(MINIMALISTIC[size], oracle, TIMM_PLACES[size], tmp_path, size=(65, 97)) <= 1e-10
    assert worst_error(MINIMALISTIC[size], oracle, TIMM_PLACES[size], tmp_path, size=(64, 96)) > 1e-2


@pytest.mark.parametrize(
    ("name", "oracle", "count", "millions"),
    [
        ("mnv3_large_075", "mobilenetv3_large_075", 3_993_528, 155),
        ("mnv3_small_075", "mobilenetv3_small_075", 2_041_872, 44),
        ("mnv3_large_minimalistic", "tf_mobilenetv3_large_minimal_100", 3_924_288, 209),
        ("mnv3_small_minimalistic", "tf_mobilenetv3_small_minimal_100", 2_044_736, 52),
    ],
)
def test_parameter_counts_and_multiply_adds_of_tensorflows_variants(name, oracle, count, millions):
    backbone, oracle = make(read_choice(ROOT / "conf" / "backbone" / f"{name}.yaml")), timm.create_model(oracle)
    assert parameters(backbone, oracle.conv_head, oracle.classifier) == parameters(oracle) == count
    macs = profile(backbone, (224, 224)).macs + oracle.conv_head.weight.numel() + oracle.classifier.weight.numel()
    assert macs / 1e6 == pytest.approx(millions, abs=0.7)
    assert VARIANTS[name].published.macs in (millions, None)


@pytest.mark.parametrize("variant", FACTORIES)
def test_multiply_adds_are_the_published_ones(variant):
    published = torchvision.models.get_model_weights(variant).DEFAULT.meta["_ops"]  # in G, with the classifier
    classifier = torchvision.models.get_model(variant, weights=None).classifier
    linear = sum(layer.weight.numel() for layer in classifier if isinstance(layer, torch.nn.Linear))
    assert (profile(FACTORIES[variant](), (224, 224)).macs + linear) / 1e9 == pytest.approx(published, abs=0.0006)
