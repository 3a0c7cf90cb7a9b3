"""Objects are Lightning's where Lightning is loaded, and else of the plain class."""

import copy
import pickle
import sys

import lightning as L
import pytest
from torch import nn

from tasks.values.lightning_twin import LightningTwin


class Plain(LightningTwin, nn.Module):
    """With a hook of Lightning's."""

    lightning_base = "LightningModule"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.width = nn.Linear(width, 1), width

    def on_fit_start(self) -> str:
        return "ours"


class Own(Plain, L.LightningModule):
    """Lightning's already."""


@pytest.mark.parametrize("loaded", [True, False])
def test_the_class_is_lightnings_where_lightning_is_loaded(loaded, monkeypatch):
    if not loaded:
        monkeypatch.delitem(sys.modules, "lightning.pytorch")
    made = Plain(3)
    assert isinstance(made, Plain) and isinstance(made, L.LightningModule) == loaded
    assert (type(made).__name__, type(made).__module__) == ("Plain", __name__)
    assert made.on_fit_start() == "ours" and made.layer.in_features == 3
    assert type(Plain(1)) is type(made), "one class, however many objects"


@pytest.mark.parametrize("way", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_are_of_the_same_class(way):
    made = Plain(2)
    twin = way(made)
    assert type(twin) is type(made) and twin.width == 2
    assert twin.layer is not made.layer and bool((twin.layer.weight == made.layer.weight).all())


def test_a_class_that_is_lightnings_stays_as_it_is():
    assert type(Own(1)) is Own
