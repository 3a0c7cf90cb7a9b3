"""ShuffleNet against pytorchcv, with weights carried over, and against the authors' code by its rules."""

import pytest
import torch
from pytorchcv.models.shufflenet import get_shufflenet
from torch.nn import functional as F

from backbones.shufflenetv1 import CHANNELS, DEPTHS, VARIANTS, average_pool, shufflenet_v1
from tasks.benchmark.costs import profile
from tests.oracles import randomised, relative_error

precisions = pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
NETWORKS = [*((groups, 1.0) for groups in CHANNELS), (1, 0.25), (3, 0.25), (3, 0.5), (3, 0.75), (3, 2.0), (8, 2.0)]
# pytorchcv's own table
COUNTS = {(1, 1.0): 1_531_936, (2, 1.0): 1_733_848, (3, 1.0): 1_865_728, (4, 1.0): 1_968_344, (8, 1.0): 2_434_768}
COUNTS |= {(1, 0.75): 975_214, (3, 0.75): 1_238_266, (1, 0.5): 534_484, (3, 0.5): 718_324, (1, 0.25): 209_746}
COUNTS |= {(3, 0.25): 305_902}


def pytorchcv_taps(oracle: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    stem = oracle.features.init_block
    taps = {"c1": stem.activ(stem.bn(stem.conv(images)))}
    taps["c2"] = x = stem.pool(taps["c1"])
    for name, stage in (("c3", "stage1"), ("c4", "stage2"), ("c5", "stage3")):
        units = getattr(oracle.features, stage)
        taps[f"{name}_first"] = units[0](x)
        taps[name] = x = units(x)
    return taps


@pytest.mark.parametrize(("groups", "width"), NETWORKS)
@precisions
def test_every_tap_equals_pytorchcv(groups, width, dtype, bound, tmp_path):
    torch.manual_seed(0)
    oracle = randomised(get_shufflenet(groups=groups, width_scale=width))
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    backbone = shufflenet_v1(groups=groups, width=width, layout="pytorchcv", weights=str(tmp_path / "weights.pth"))
    backbone, images = backbone.to(dtype).eval(), torch.rand(2, 3, 97, 65, dtype=dtype)
    with torch.inference_mode():
        expected, actual = pytorchcv_taps(oracle.to(dtype), images), backbone(images)
    assert expected.keys() == actual.keys()
    for tap, features in expected.items():
        assert relative_error(actual[tap], features) <= bound, tap


def authors_taps(state: dict[str, torch.Tensor], groups: int, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The network that the names of a file of megvii-model/ShuffleNet-Series stand for, in plain functions."""

    def conv_norm(x, at, index, **options):
        x = F.conv2d(x, state[f"{at}.{index}.weight"], **options)
        mean, var, gamma, beta = (
            state[f"{at}.{index + 1}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, gamma, beta)

    taps = {"c1": F.relu(conv_norm(images, "first_conv", 0, stride=2, padding=1))}
    taps["c2"] = x = F.max_pool2d(taps["c1"], 3, 2, 1)
    unit = 0
    for name, depth in zip(("c3", "c4", "c5"), DEPTHS, strict=True):
        for index in range(depth):
            at, entry = f"features.{unit}.branch_main_", index == 0
            out = F.relu(conv_norm(x, f"{at}1", 0, groups=groups if unit else 1))
            inner = out.shape[1]
            out = conv_norm(out, f"{at}1", 3, stride=1 + entry, padding=1, groups=inner)
            # group m of the last convolution reads channels m, m + groups, m + 2 groups, ...
            out = out[:, [channel for first in range(groups) for channel in range(first, inner, groups)]]
            out = conv_norm(out, f"{at}2", 0, groups=groups)
            x = torch.cat([F.avg_pool2d(x, 3, 2, 1), F.relu(out)], 1) if entry else F.relu(x + out)
            taps |= {f"{name}_first": x} if entry else {name: x}
            unit += 1
    return taps


@pytest.mark.long
@pytest.mark.parametrize(("groups", "width"), [(3, 0.5), (3, 1.0), (3, 1.5), (3, 2.0), (8, 0.5), (8, 1.0), (8, 1.5)])
@precisions
def test_every_tap_equals_the_authors_network(groups, width, dtype, bound, tmp_path):
    torch.manual_seed(0)
    source = randomised(shufflenet_v1(groups=groups, width=width))
    names = source.source_names()["megvii"]
    state = {
        f"{names[owner]}.{leaf}": tensor
        for (owner, _, leaf), tensor in ((key.rpartition("."), value) for key, value in source.state_dict().items())
    }
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "weights.pth")
    backbone = shufflenet_v1(groups=groups, width=width, weights=str(tmp_path / "weights.pth")).to(dtype).eval()
    images = torch.rand(2, 3, 97, 65, dtype=dtype)
    with torch.inference_mode():
        expected = authors_taps({key: value.to(dtype) for key, value in state.items()}, groups, images)
        actual = backbone(images)
    assert expected.keys() == actual.keys()
    for tap, features in expected.items():
        assert relative_error(actual[tap], features) <= bound, tap


def test_the_layouts_differ_and_refuse_each_others_weights(tmp_path):
    first = randomised(shufflenet_v1(layout="megvii"))
    other = shufflenet_v1(layout="pytorchcv").eval()
    other.load_state_dict(first.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert relative_error(other(images)["c5"], first(images)["c5"]) > 0.1
    torch.save(get_shufflenet(groups=3, width_scale=1.0).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"none of its 296 names is one of shufflenet_v1 .groups=3, layout=megvii"):
        shufflenet_v1(weights=str(tmp_path / "weights.pth"))


@pytest.mark.long
@pytest.mark.parametrize("layout", ["megvii", "pytorchcv"])
@pytest.mark.parametrize("groups", CHANNELS)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_maps_contain_the_undilated_ones(layout, groups, output_stride):
    torch.manual_seed(0)
    strided = randomised(shufflenet_v1(groups=groups, layout=layout)).double()
    dilated = shufflenet_v1(groups=groups, layout=layout, output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.rand(1, 3, 97, 65, dtype=torch.float64)
    with torch.inference_mode():
        expected, actual = strided(images), dilated(images)
    for coarse, fine in zip(strided.taps, dilated.taps, strict=True):
        step = coarse.stride // fine.stride
        assert relative_error(actual[fine.name][:, :, ::step, ::step], expected[coarse.name]) <= 1e-10


def test_dilated_pooling_is_pooling_of_every_other_px():
    x = torch.rand(1, 4, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(average_pool(x, 1, 2)[:, :, ::2, ::2], F.avg_pool2d(x[:, :, ::2, ::2], 3, 1, 1))


@pytest.mark.parametrize(("groups", "width"), COUNTS)
def test_parameter_counts_with_the_classifier(groups, width):
    for layout in ("megvii", "pytorchcv"):
        backbone = shufflenet_v1(groups=groups, width=width, layout=layout)
        last = backbone.taps[-1].channels
        assert sum(p.numel() for p in backbone.parameters()) + 1000 * (last + 1) == COUNTS[groups, width]


@pytest.mark.parametrize("name", VARIANTS)
def test_costs_are_the_published_ones(name):
    """The authors' repository counts the classifier (without a bias), the paper's table 1 leaves it out."""
    published = VARIANTS[name].published
    groups, _, percent = name.removeprefix("snv1_g").partition("_")
    backbone = shufflenet_v1(groups=int(groups), width=int(percent or 100) / 100)
    cost, classifier = profile(backbone, (224, 224)), 1000 * backbone.taps[-1].channels
    if published.parameters is not None:
        assert (cost.parameters + classifier) / 1e6 == pytest.approx(published.parameters, abs=0.0501)
    if published.macs is not None:
        counted = cost.macs + (0 if "table" in published.source else classifier)
        assert counted / 1e6 == pytest.approx(published.macs, abs=0.55)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"groups": 5}, "groups=5: expected one of 1, 2, 3, 4, 8"), ({"layout": "x"}, "layout=x: expected one of megvii")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        shufflenet_v1(**options)
