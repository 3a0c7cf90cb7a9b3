"""Match the classes of a trained task with those of data that number them otherwise."""

import logging

from tasks.base.task import VisionTask
from tasks.data.datamodule import VisionDataModule

logger = logging.getLogger(__name__)


def match_classes(task: VisionTask, data: VisionDataModule) -> None:
    """Make the data give the task's labels, by class name; detections are then written with the data's own ids.

    Raises:
        ValueError: A class is on one side alone, or a name repeats and the order differs.
    """
    known, found = (tuple(map(str, classes.names)) for classes in (task.classes, data.classes))
    if known != found:
        missing, surplus = sorted({*known} - {*found}), sorted({*found} - {*known})
        if missing or surplus or len({*known}) < len(known) or len(known) != len(found):
            sides = (("lacks", missing), ("also has", surplus))
            told = " and ".join(f"{verb} {_some(names)}" for verb, names in sides if names) or "names classes twice"
            raise ValueError(
                f"the data {told}, of the {len(known)} classes that the network was trained on ({_some(known)}); "
                "evaluate on data with the same classes, in any order, or name them by data.class_names=[...]"
            )
        data.take_labels([known.index(name) for name in found])
    if data.classes.ids:
        task.take_ids([data.classes.ids[found.index(name)] for name in known])


def known_places(task: VisionTask, data: VisionDataModule) -> list[int] | None:
    """Find the place of each of a task's classes among those of data, by name; None where one is missing or repeats."""
    known, found = (tuple(map(str, classes.names)) for classes in (task.classes, data.classes))
    if len({*found}) < len(found) or not {*known} <= {*found}:
        logger.warning(
            "the data has other classes than the network, so results are not numbered as the data is: %s",
            _some([name for name in known if found.count(name) != 1]),
        )
        return None
    return [found.index(name) for name in known]


def _some(names) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
