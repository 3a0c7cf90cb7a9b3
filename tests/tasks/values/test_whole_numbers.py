"""Settings that are integers take whole floats and refuse the rest by name."""

from collections.abc import Sequence

import pytest
import torch

from tasks.base.build import build_data, make
from tasks.values.whole_numbers import whole_numbers
from tests.tasks.conftest import composed


class Base:
    def __init__(self, count: int | None = None, share: float = 1.0) -> None: ...


class Derived(Base):
    def __init__(self, size: int | list[int] = 1, many: int | str = 1, free=1, **options) -> None: ...


def test_whole_floats_become_integers_where_integers_are_taken():
    given = {"count": 1e1, "share": 1.0, "size": 64.0, "many": 2.0, "free": 3.0}
    found = whole_numbers(Derived, given)
    assert found == given
    assert {name: type(value) for name, value in found.items()} == {
        "count": int, "share": float, "size": int, "many": int, "free": float
    }  # fmt: skip
    assert whole_numbers(Derived, {"count": None, "many": "auto", "size": [1, 2]}) == {
        "count": None, "many": "auto", "size": [1, 2]
    }  # fmt: skip


@pytest.mark.parametrize(("value", "text"), [(1.5, "1.5"), (True, "true"), ("8", "8"), (float("nan"), "nan")])
def test_what_is_no_whole_number_is_named(value, text):
    with pytest.raises(ValueError, match=f"^trainer.count={text}: expected a whole number$"):
        whole_numbers(Derived, {"count": value}, "trainer.")


def folder(ids: Sequence[int] = (), sizes: tuple[float, float] | None = None, names: Sequence[str] = ()): ...


@pytest.mark.parametrize(("name", "value"), [("ids", 255), ("ids", "1,2"), ("sizes", 0.5), ("sizes", True)])
def test_a_single_value_is_no_list_of_numbers(name, value):
    with pytest.raises(ValueError, match=f"^data.{name}={value}: expected a list, in brackets$"):
        whole_numbers(folder, {name: value}, "data.")
    taken = {"ids": [255], "sizes": None, "names": "cat"}
    assert whole_numbers(folder, taken) == taken


@pytest.mark.parametrize("value", ["1e0", "1.0", "1"])
def test_a_trainer_of_1e0_epochs_trains_one(value):
    config = composed("train", "task=segmentation", f"trainer.max_epochs={value}", "trainer.accelerator=cpu")
    trainer = make(config["trainer"], logger=False, enable_checkpointing=False)
    assert trainer.max_epochs == 1 and type(trainer.max_epochs) is int
    config.trainer.max_epochs = 1.5
    with pytest.raises(ValueError, match=r"^trainer\.max_epochs=1\.5: expected a whole number"):
        make(config["trainer"])


def test_settings_within_nodes_and_the_demo_datas_are_integers_too(tmp_path):
    node = {"_target_": "torch.nn.Sequential", "_args_": []}
    assert isinstance(make(node), torch.nn.Sequential)
    inner = {"_target_": "heads.point_assignment.task_aligned", "_partial_": True, "candidates": 9.0}
    outer = make({"_target_": "builtins.dict", "assign": inner})
    assert type(outer["assign"].keywords["candidates"]) is int
    sizes = ("data.num_train=2", "data.num_val=2", "data.num_objects=[0,0]", f"data.root={tmp_path}")
    data = build_data(composed("train", "task=detection", *sizes, "data.detection.batch_size=2e0"))
    assert type(data.batch_size) is int
    with pytest.raises(ValueError, match=r"^data\.detection\.batch_size=2\.5: expected a whole number"):
        build_data(composed("train", "task=detection", *sizes, "data.detection.batch_size=2.5"))
