"""The families' tables: every configuration has a row, and every factory is what its row and its file say."""

import inspect
from importlib import import_module

import pytest
from hydra.utils import get_method

from backbones.variants import Variant, find_variant
from tests.conftest import ROOT
from tools.composition import read_choice

FILES = {path.stem: path for path in sorted((ROOT / "conf" / "backbone").glob("*.yaml"))}
FAMILIES = [import_module(f"backbones.{path.stem}") for path in sorted((ROOT / "backbones").glob("*.py"))]


def test_every_configuration_has_one_row_and_every_row_a_configuration():
    rows = [name for family in FAMILIES for name in getattr(family, "VARIANTS", {})]
    assert sorted(rows) == list(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_configuration_builds_its_own_row(name):
    """The table stands in the family's file, and the factory that the file names fixes the arguments of that row."""
    factory = get_method(read_choice(FILES[name])["_target_"])
    row = import_module(factory.__module__).VARIANTS[name]
    assert row is find_variant(name)
    assert (ROOT / "conf" / "head" / f"{row.classifier}.yaml").is_file()
    if name != "timm":
        fixed = inspect.getclosurevars(factory).nonlocals["variant"]
        assert (fixed.arguments, fixed.known_as) == (row.arguments, row.known_as)


def test_a_factory_is_found_under_its_name():
    """Checkpoints name factories by module and name."""
    made = {f"{family.__name__}.{name}": value for family in FAMILIES for name, value in vars(family).items()
            if inspect.isfunction(value) and "variant" in inspect.getclosurevars(value).nonlocals}  # fmt: skip
    assert set(made) == {read_choice(FILES[name])["_target_"] for name in FILES if name != "timm"}
    assert all(f"{value.__module__}.{value.__qualname__}" == place for place, value in made.items())


def test_keywords_win_over_the_row():
    from backbones.resnet import resnet50

    assert resnet50(depths=(1, 1, 1, 1)).depths == (1, 1, 1, 1)


def test_a_name_without_a_row_is_not_found():
    assert find_variant("mnv9") is None
    assert isinstance(find_variant("timm"), Variant)
