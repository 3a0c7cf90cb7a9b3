"""A look at every file of a data set before training on it."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.progress import track

from tasks.data.base import DataError, VisionDataModule


def check(data: VisionDataModule, splits: Sequence[str]) -> dict[str, dict]:
    """Read every sample of the splits.

    Args:
        data: The data module.
        splits: "train", "val".

    Returns:
        {split: {"samples": number, "problems": [messages, each naming a file]}}, boxes that training passes over
        included; a split that cannot be opened at all has no samples and one problem.
    """
    report = {}
    for split in splits:
        try:
            dataset = data.dataset(split)
        except DataError as error:
            report[split] = {"samples": 0, "problems": [str(error)]}
            continue

        def problems(index: int, dataset=dataset) -> list[str]:
            found = dataset.flaws(index) if hasattr(dataset, "flaws") else []
            try:
                dataset.read(index)
            except DataError as error:
                return [str(error), *found]
            return found

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves the interpreter lock
            indices = range(len(dataset))
            found = list(track(pool.map(problems, indices), f"checking {split}", total=len(indices), transient=True))
        report[split] = {"samples": len(dataset), "problems": [text for texts in found for text in texts]}
    return report
