"""RepNeXt against numbers that the authors' code gives with weights that follow from their names."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from backbones import repnext
from backbones.blocks.fusion import fuse_model
from backbones.weights.loading import load_weights
from heads.classification import RepViTClassifier
from tasks.benchmark.costs import profile
from tests.backbones.references import parameters
from tests.oracles import relative_error

DEPTHS = (1, 2, 1, 1)
small = partial(repnext.repnext_m0, width=0.4, depths=DEPTHS)
# tap: sum of features times waves, of suous/RepNeXt's RepNext(embed_dim=(16, 32, 64, 128), depth=DEPTHS) in float64
EXPECTED = {
    "c1": -0.824004074, "c2_first": 1.574334176, "c2": 1.377055651, "c3_first": 30.776404835,
    "c3": -0.982657086, "c4_first": -46.515362177, "c4": -45.950756936, "c5_first": 24.481363727,
    "c5": 21.211371125, "logits": 0.628004717,
}  # fmt: skip
# variant: parameters of the authors' network as trained
PARAMETERS = {
    "repnext_m0": 2_716_480, "repnext_m1": 5_323_316, "repnext_m2": 7_049_082, "repnext_m3": 8_466_560,
    "repnext_m4": 14_080_480, "repnext_m5": 22_708_860,
}  # fmt: skip


def waves(shape: torch.Size, start: float) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.7 + start).reshape(shape)


def patterned(key: str, tensor: Tensor) -> Tensor:
    """Values that follow from the source's name: of either sign, of variances positive."""
    if not tensor.is_floating_point():
        return tensor
    pattern = waves(tensor.shape, sum(map(ord, key)))
    if key.endswith(("running_var", "norm.weight")):
        return 1 + 0.5 * pattern
    return pattern / math.sqrt(2 * tensor[0].numel()) if tensor.ndim > 1 else 0.3 * pattern


def sums(features: dict[str, Tensor]) -> dict[str, float]:
    return {name: (x * waves(x.shape, 0.5)).sum().item() for name, x in features.items()}


def test_every_tap_and_the_logits_equal_the_authors(tmp_path):
    """Their names, too: weights stand in a file as theirs do, the classifier's under `head`."""
    backbone = small().double().eval()
    head = RepViTClassifier(backbone.taps, 5, distillation=True).double().eval()
    state = {}
    for part in (backbone, head):
        names = part.source_names()["repnext"]
        for key, tensor in part.state_dict().items():
            owner, _, leaf = key.rpartition(".")
            name = f"{names[owner]}.{leaf}"
            state[name] = patterned(name, tensor)
    torch.save({"model": state}, tmp_path / "official.pth")
    reports = [load_weights(part, tmp_path / "official.pth") for part in (backbone, head)]
    assert [report.naming for report in reports] == ["repnext", "repnext"]
    images, fused = waves(torch.Size((1, 3, 97, 65)), 0.1), fuse_model(backbone)
    with torch.inference_mode():
        for network in (backbone, fused):
            features = network(images)
            assert sums(features | {"logits": head(features, (97, 65))}) == pytest.approx(EXPECTED, rel=1e-9)


@pytest.mark.parametrize("variant", repnext.VARIANTS)
def test_counts_with_the_classifier(variant):
    backbone = getattr(repnext, variant)()
    head = RepViTClassifier(backbone.taps, 1000, distillation=True)
    assert parameters(backbone, head) == PARAMETERS[variant]
    row = repnext.VARIANTS[variant].published
    fused = fuse_model(backbone.eval())
    linear = 1001 * backbone.taps[-1].channels
    assert (parameters(fused) + linear) / 1e6 == pytest.approx(row.parameters, abs=0.05)
    assert profile(fused, (224, 224)).macs / 1e6 == pytest.approx(row.macs, abs=50)  # given in tenths of G


def test_kernels_that_are_added_are_the_convolutions_that_the_authors_add():
    """Also while training, and dilated, where nothing of theirs is to compare with."""
    torch.manual_seed(0)
    x = torch.rand(2, 8, 23, 17, dtype=torch.float64)
    for halves, stride, dilation in ((False, 1, 1), (False, 1, 3), (True, 2, 1), (True, 1, 2)):
        for layer in (repnext._small(8, halves=halves, stride=stride, dilation=dilation),
                      repnext._medium(8, stride=stride, dilation=dilation)):  # fmt: skip
            layer.double()
            expected: Tensor | float = 0.0
            for name in layer.parallel:
                expected = expected + strided(layer.convs[name], x, stride, dilation)
            for name in layer.stacked:
                row = strided(layer.convs[f"{name}_w"], x, (1, stride), dilation)
                expected = expected + strided(layer.convs[f"{name}_h"], row, (stride, 1), dilation)
            assert relative_error(layer(x), expected) < 1e-14
            assert relative_error(layer.fuse()(x), expected) < 1e-14


def strided(conv: nn.Conv2d, x: Tensor, stride: int | tuple[int, int], dilation: int) -> Tensor:
    """2x2 px lie two apart, in the corners of 3x3."""
    step = 2 * dilation if conv.kernel_size == (2, 2) else dilation
    padding = tuple(step * (size - 1) // 2 for size in conv.kernel_size)
    return nn.functional.conv2d(x, conv.weight, conv.bias, stride, padding, step, conv.groups)


def test_a_fused_block_has_six_convolutions():
    fused = fuse_model(small().eval())
    for layer, count in ((fused.layers[2], 6), (fused.layers[3], 4)):
        assert sum(isinstance(part, nn.Conv2d) for part in layer.modules()) == count
