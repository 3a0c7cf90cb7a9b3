"""How folders, tables and pictures name a network."""

import pytest

from tasks.base.build import monitored
from tasks.base.plain_config import label


@pytest.mark.parametrize(("choice", "name", "expected"), [
    ("mnv3_large", None, "mnv3_large"), ("timm", "resnet18.a1_in1k", "timm-resnet18.a1_in1k"),
    ("timm", "hf-hub:timm/resnet18", "timm-hf-hub-timm-resnet18"),
])  # fmt: skip
def test_models_of_timm_are_named_by_themselves(choice, name, expected):
    node = {"_target_": "x"} | ({} if name is None else {"name": name})
    assert label({"choices": {"backbone": choice}, "backbone": node}, "backbone") == expected


def test_without_a_choice_the_group_is_the_name():
    assert label({"choices": {}}, "task") == label({}, "task") == "task"


def test_a_task_knows_what_its_checkpoints_are_chosen_by():
    assert monitored({"task": {"_target_": "tasks.detection.task.DetectionTask"}}) == "val/mAP"
    with pytest.raises(ValueError, match="no task is chosen"):
        monitored({"task": None})
