"""MnasNet B1 against torchvision, A1 against timm, with weights carried over."""

import pytest
import timm
import torch
import torchvision

from backbones import mnasnet
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.oracles import randomised

B1 = {
    "mnasnet_050": "mnasnet0_5",
    "mnasnet_075": "mnasnet0_75",
    "mnasnet": "mnasnet1_0",
    "mnasnet_130": "mnasnet1_3",
}
LAYERS = {  # torchvision's layer behind each tap
    "c1_first": "2", "c1": "7", "c2_first": "8.0", "c2": "8", "c3_first": "9.0", "c3": "9", "c4_first": "10.0",
    "c4": "11", "c5_exp": "12.0.layers.2", "c5_first": "12.0", "c5": "13", "final": "16",
}  # fmt: skip
PLACES = {tap: f"layers.{layer}" for tap, layer in LAYERS.items()}
TIMM_PLACES = {
    "c1_first": "bn1", "c1": "blocks.0", "c2_first": "blocks.1.0", "c2": "blocks.1", "c3_first": "blocks.2.0",
    "c3": "blocks.2", "c4_first": "blocks.3.0", "c4": "blocks.4", "c5_exp": "blocks.5.0.bn1",
    "c5_first": "blocks.5.0", "c5": "blocks.6", "final": "bn2",
}  # fmt: skip


def reference(variant: str) -> torch.nn.Module:
    torch.manual_seed(0)
    build = timm.create_model if variant.startswith("se") else torchvision.models.get_model
    return randomised(build(variant))


@pytest.mark.parametrize("output_stride", [32, *(pytest.param(stride, marks=pytest.mark.long) for stride in (16, 8))])
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
@pytest.mark.parametrize(("variant", "places"), [("mnasnet1_0", PLACES), ("semnasnet_100", TIMM_PLACES)])
def test_every_tap_equals_the_reference(variant, places, output_stride, dtype, bound, tmp_path):
    factory = getattr(mnasnet, variant)
    assert worst_error(factory, reference(variant), places, tmp_path, dtype, output_stride=output_stride) <= bound


@pytest.mark.parametrize("variant", ["mnasnet0_5", "mnasnet0_75", "mnasnet1_3"])
def test_widths_equal_torchvision(variant, tmp_path):
    assert worst_error(getattr(mnasnet, variant), reference(variant), PLACES, tmp_path) <= 1e-10


def test_b1_and_a_thinner_a1_equal_timm(tmp_path):
    b1, thin = (randomised(timm.create_model(name)) for name in ("mnasnet_100", "semnasnet_075"))
    assert worst_error(mnasnet.mnasnet1_0, b1, TIMM_PLACES, tmp_path) <= 1e-10
    assert worst_error(mnasnet.semnasnet_100, thin, TIMM_PLACES, tmp_path, width=0.75) <= 1e-10


def test_norms_are_the_references():
    ours, theirs = mnasnet.mnasnet1_0(), torchvision.models.mnasnet1_0(weights=None)
    norms = [[m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)] for model in (ours, theirs)]
    assert [(m.eps, m.momentum) for m in norms[0]] == [(m.eps, m.momentum) for m in norms[1]]


@pytest.mark.parametrize("name", B1)
def test_b1_has_the_published_parameters_and_multiply_adds(name):
    meta = torchvision.models.get_model_weights(B1[name]).DEFAULT.meta
    backbone, classifier = getattr(mnasnet, B1[name])(), reference(B1[name]).classifier
    assert parameters(backbone, classifier) == meta["num_params"]
    macs = profile(backbone, (224, 224)).macs + classifier[1].weight.numel()
    assert macs / 1e9 == pytest.approx(meta["_ops"], abs=0.0006)
    published = mnasnet.VARIANTS[name].published
    assert (published.top1, published.macs) == (meta["_metrics"]["ImageNet-1K"]["acc@1"], 1000 * meta["_ops"])


def test_a1_has_the_references_parameters_and_multiply_adds():
    backbone, oracle = mnasnet.semnasnet_100(), reference("semnasnet_100")
    assert parameters(backbone, oracle.classifier) == parameters(oracle) == 3_887_038
    macs = profile(backbone, (224, 224)).macs + oracle.classifier.weight.numel()
    assert macs / 1e6 == pytest.approx(mnasnet.VARIANTS["mnasnet_a1"].published.macs, abs=1)
