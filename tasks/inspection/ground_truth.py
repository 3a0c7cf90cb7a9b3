"""Score the ground truth as if it were a prediction: below 1.0, the data set cannot judge a network."""

import math

from tasks.base.build import task_of
from tasks.data.datamodule import VisionDataModule
from tasks.data.looks import SplitLooks


def truth_score(data: VisionDataModule, split: str, found: SplitLooks) -> tuple[dict[str, float], list[str]]:
    """Score a split's ground truth by the task's own metric, as if a network had predicted it.

    Args:
        data: The data module.
        split: "train" or "val".
        found: What `look_at` gave.

    Returns:
        {metric: value}, without those that nothing defines, and a text for each class that has less than 1.0.
    """
    task = task_of(data)
    if task is None:
        return {}, []
    metrics, low = task.score_truth(data, split, found)
    return {key: value for key, value in metrics.items() if not math.isnan(value)}, [
        f"{split}: the ground truth of {name}, taken as a prediction, scores {text}; expected 1.0: no network could "
        "reach it (look for boxes without area, beyond their image, or more than 100 of a class in one)"
        for name, text in low
    ]  # fmt: skip
