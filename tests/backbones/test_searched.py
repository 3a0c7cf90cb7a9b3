"""Stages as data: MnasNet-A1's and MobileNetV2's tables give these networks, and what cannot be is named."""

import pytest
import timm
import torch

from backbones.mnasnet import semnasnet_100
from backbones.mobilenetv2 import STAGES, mobilenet_v2
from backbones.searched import searched
from tests.backbones.references import worst_error
from tests.backbones.test_mnasnet import TIMM_PLACES
from tests.conftest import ROOT
from tests.oracles import randomised
from tools.composition import read_choice

A1 = read_choice(ROOT / "conf" / "backbone" / "searched.yaml").stages
A1 = [dict(stage) for stage in A1]
V2 = [
    {"kernel": 3, "expansion": expansion, "out": out, "depth": depth, "stride": stride}
    for expansion, out, depth, stride in STAGES
]


@pytest.mark.parametrize("width", [0.25, 1.0])
@pytest.mark.parametrize(
    ("stages", "activation", "family"), [(A1, "relu", semnasnet_100), (V2, "relu6", mobilenet_v2)], ids=["a1", "v2"]
)
def test_the_table_of_a_family_gives_its_network(stages, activation, family, width):
    torch.manual_seed(0)
    theirs = randomised(family(width=width)).eval()
    ours = searched(stages=stages, activation=activation, width=width).eval()
    ours.load_state_dict(theirs.state_dict())
    assert ours.taps == theirs.taps
    images = 4 * torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        expected, actual = theirs(images), ours(images)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_weights_of_timm_load(tmp_path):
    oracle = randomised(timm.create_model("semnasnet_100"))
    assert worst_error(searched, oracle, TIMM_PLACES, tmp_path, stages=A1) <= 1e-10


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (2, {"kernel": 4}, r"backbone\.stages\[2\]\.kernel=4: expected an odd number, at least 3"),
        (1, {"kernel": "5"}, r"stages\[1\]\.kernel=5: expected an odd number"),
        (0, {"expansion": 1.5}, r"stages\[0\]\.expansion=1\.5: expected a whole number, at least 1"),
        (4, {"depth": 0}, r"stages\[4\]\.depth=0: expected a whole number, at least 1"),
        (4, {"out": True}, r"stages\[4\]\.out=True: expected a whole number"),
        (3, {"stride": 3}, r"stages\[3\]\.stride=3: expected 1 or 2"),
        (3, {"stride": 1}, r"backbone\.stages: their strides multiply to 8; expected 16"),
        (5, {"skip": 1}, r"stages\[5\]\.skip=1: expected true or false"),
        (6, {"se": True}, r"stages\[6\]\.se: a stage has no such key; it has kernel, .*squeeze_excite"),
        (6, {"out": None}, r"stages\[6\]\.out=None: expected a whole number"),
    ],
)
def test_a_stage_that_cannot_be_is_named_with_its_key(place, change, message):
    stages = [dict(stage) for stage in A1]
    stages[place] |= change
    with pytest.raises(ValueError, match=message) as error:
        searched(stages=stages)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stages", [None, [], "mnv2", 3, {"kernel": 3}, [3]])
def test_stages_are_a_list_of_mappings(stages):
    with pytest.raises(ValueError, match=r"backbone\.stages(\[0\])?=.*: expected .*kernel, expansion, out"):
        searched(stages=stages)
    with pytest.raises(ValueError, match=r"backbone\.stages\[1\]: depth is missing"):
        searched(stages=[A1[0], {"kernel": 3, "expansion": 6, "out": 24}])


def test_whole_floats_are_whole_and_an_unknown_activation_is_refused():
    stages = [dict(stage, out=float(stage["out"])) for stage in A1]
    assert searched(stages=stages).taps == searched(stages=A1).taps
    with pytest.raises(ValueError, match=r"activation=gelu: expected one of relu, relu6, hardswish"):
        searched(stages=A1, activation="gelu")
