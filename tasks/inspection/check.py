"""Check every file of a data set before training on it."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.data.dataset import VisionDataset
from tasks.data.looks import Look, SplitLooks
from tasks.files.image_depth import Lost, lost_parts
from tasks.pictures.shown import shown
from tasks.values.errors import DataError
from tasks.values.machine import allowed_cores

QUEUED = 4096  # samples that wait at once


def check(data: VisionDataModule, splits: Sequence[str]) -> dict[str, dict]:
    """Read every sample of the splits.

    Args:
        data: The data module.
        splits: "train", "val".

    Returns:
        {split: {"samples": number, "problems": [messages, each naming a file]}}, boxes that training passes over
        included; a split that cannot be opened at all has no samples and one problem.
    """
    found = {split: look_at(data, split) for split in splits}
    return {split: {"samples": len(one.looks), "problems": one.all_problems()} for split, one in found.items()}


def look_at(data: VisionDataModule, split: str) -> SplitLooks:
    """Read every sample of a split, in threads."""
    try:
        dataset = data.whole_dataset(split)
    except DataError as error:
        return SplitLooks(None, problems=[str(error)])
    found = SplitLooks(dataset, problems=_split_flaws(data.classes, dataset))
    lost = Lost()
    for look, pixels in each(lambda index: _look(dataset, index), len(dataset), f"checking {split}"):
        if pixels is not None:
            found.pixels = pixels if found.pixels is None else found.pixels + pixels
        lost.add(Path(dataset.file(len(found.looks))), look.lost)
        found.looks.append(look)
    found.warnings += [f"{split}: {line}" for line in lost.lines()]
    if found.pixels is not None:
        found.labels = data.pixel_counts(found.pixels, len(found.looks), len(found.looks))
    elif not dataset.truth_in_files:
        found.labels = data.label_counts(split)
    findings = data.split_findings(split)
    if found.labels is not None:
        findings += found.labels.findings(split, data.classes.names)
    found.problems += [finding.text for finding in findings if finding.level >= logging.ERROR]
    found.warnings += [finding.text for finding in findings if finding.level == logging.WARNING]
    return found


def each(job: Callable[[int], Any], count: int, text: str) -> Iterator[Any]:
    """Yield `job(index)` for index 0..count - 1, in order; threads work, as decoding leaves the interpreter lock.

    Args:
        job: What is done with a number.
        count: How many there are.
        text: Names the work beside its progress.
    """
    with ThreadPoolExecutor(allowed_cores()) as pool:
        parts = (range(start, min(start + QUEUED, count)) for start in range(0, count, QUEUED))
        results = (result for part in parts for result in pool.map(job, part))
        yield from track(results, text, total=count, transient=True)


def shades(image: np.ndarray) -> tuple[int, int] | None:
    """Hash an image (H, W, 3) to two 64-bit numbers that barely change when it is resized or compressed again."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(float)
    if grey.std() < 2:
        return None
    bits = (grey[:, :8] > grey[:, :8].mean(), grey[:, 1:] > grey[:, :-1])
    return tuple(int.from_bytes(np.packbits(part).tobytes(), "big") for part in bits)


def _look(dataset: VisionDataset, index: int) -> tuple[Look, np.ndarray | None]:
    """What a sample shows, and the (256,) px of each label where it has a mask."""
    problems = dataset.flaws(index)
    try:
        image, *truth = dataset.read(index)
        content = dataset.encoded(index)
    except DataError as error:
        return Look([str(error), *problems], [], True), None
    seen = dataset.inspected(index, image, *truth)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    lost = tuple(lost_parts(content)) if dataset.pixels.is_rgb else ()
    found = Look(
        [*problems, *seen.problems], [*seen.warnings], seen.annotated, image.shape[:2], digest,
        shades(shown(image, dataset.pixels)), lost,
    )  # fmt: skip
    return found, seen.pixels


def _split_flaws(classes: Classes, dataset: VisionDataset) -> list[str]:
    """Names and numbers that do not go back and forth between the data set and the labels."""
    found = []
    for what, values in (("name", classes.names), ("id", classes.ids or ())):
        found += [f"two classes have the {what} {v!r}; each needs its own" for v, n in Counter(values).items() if n > 1]
    return found + dataset.set_flaws(classes)
