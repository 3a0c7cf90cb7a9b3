"""A look at every file of a data set before training on it."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from rich.progress import track
from torch.utils.data import Dataset

from tasks.base.machine import allowed_cores
from tasks.data.datamodule import VisionDataModule
from tasks.data.detection import DetectionData, DetectionDataset
from tasks.data.errors import DataError
from tasks.data.label_counts import LabelCounts
from tasks.data.segmentation import IGNORE_INDEX, SegmentationDataset
from tasks.files.image_depth import Lost, lost_parts
from tasks.segmentation.confusion_matrix import ConfusionMatrix
from tasks.values.counted import counted

QUEUED = 4096  # samples that wait at once


class Look(NamedTuple):
    """What one sample shows.

    Attributes:
        problems, warnings: Texts, each naming a file.
        annotated: There is something to learn from.
        size: (H, W) px of the image; (0, 0) where it cannot be read.
        digest: Of the image file's bytes; none where there are none.
        shades: Two 64-bit numbers that near-duplicates share: 8x8 mean grey values above their mean, and rising to the
            right; none for an image without any contrast.
        counts: (K, K) int64 confusion of a mask with itself.
        lost: As `lost_parts` gives it.
        ignored: px of a mask that do not count.
    """

    problems: list[str]
    warnings: list[str]
    annotated: bool
    size: tuple[int, int] = (0, 0)
    digest: bytes | None = None
    shades: tuple[int, int] | None = None
    counts: torch.Tensor | None = None
    lost: Sequence[tuple[str, str]] = ()
    ignored: int = 0


@dataclass
class SplitLooks:
    """What all samples of a split show.

    Attributes:
        dataset: The samples without augmentation; none if the split cannot be opened.
        looks: One a sample.
        problems, warnings: Of the split as a whole.
        counts: (K, K) int64, the sum over the masks.
        labels: How often each class occurs; none if that is not known.
    """

    dataset: Dataset | None
    looks: list[Look] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: torch.Tensor | None = None
    labels: LabelCounts | None = None

    def all_problems(self) -> list[str]:
        return [*self.problems, *(text for look in self.looks for text in look.problems)]

    def all_warnings(self) -> list[str]:
        return [*self.warnings, *(text for look in self.looks for text in look.warnings)]


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
        dataset = open_plain(data, split)
    except DataError as error:
        return SplitLooks(None, problems=[str(error)])
    found = SplitLooks(dataset)
    found.problems += _split_flaws(data, dataset)
    lost, ignored = Lost(), 0
    for look in each(lambda index: _look(data, dataset, index), len(dataset), f"checking {split}"):
        if look.counts is not None:
            found.counts = look.counts if found.counts is None else found.counts + look.counts
        ignored += look.ignored
        found.looks.append(look._replace(counts=None))
        lost.add(image_file(dataset, len(found.looks) - 1), look.lost)
    found.warnings += [f"{split}: {line}" for line in lost.lines()]
    if found.counts is not None:
        pixels = np.append(found.counts.sum(1).numpy(), np.zeros(256 - len(found.counts), np.int64))
        pixels[IGNORE_INDEX] = ignored
        found.labels = data.pixel_counts(pixels, len(found.looks), len(found.looks))
    elif not isinstance(dataset, SegmentationDataset):
        found.labels = data.label_counts(split)
    findings = data.split_findings(split)
    if found.labels is not None:
        findings += found.labels.findings(split, data.classes.names)
    found.problems += [finding.text for finding in findings if finding.level >= logging.ERROR]
    found.warnings += [finding.text for finding in findings if finding.level == logging.WARNING]
    return found


def each(job: Callable[[int], Any], count: int, text: str) -> Iterator[Any]:
    """Results of `job(index)` for index 0..count - 1, in order; in threads, since decoding leaves the interpreter lock.

    Args:
        job: What is done with a number.
        count: How many there are.
        text: Names the work beside its progress.
    """
    with ThreadPoolExecutor(allowed_cores()) as pool:
        parts = (range(start, min(start + QUEUED, count)) for start in range(0, count, QUEUED))
        results = (result for part in parts for result in pool.map(job, part))
        yield from track(results, text, total=count, transient=True)


def open_plain(data: VisionDataModule, split: str) -> Dataset:
    """Every sample of a split as it lies on disk, images without boxes included.

    Raises:
        DataError: As the data module does on opening a split.
    """
    if isinstance(data, DetectionData):
        data.dataset(split)
        return DetectionDataset(data.annotations(split), data.image_size)
    return data.plain_dataset(split)


def image_file(dataset: Dataset, index: int) -> Path:
    """Where a sample's image lies; of one in a shard, its name."""
    if isinstance(dataset, SegmentationDataset):
        return Path(dataset.pairs[index][0])
    if isinstance(dataset, DetectionDataset):
        return dataset.annotations.folder / dataset.annotations.name(dataset.indices[index])
    return Path(getattr(dataset.samples, "folder", ""), dataset.samples.name(index))


def shades(image: np.ndarray) -> tuple[int, int] | None:
    """Two 64-bit numbers of an image (H, W, 3) that barely change when it is resized or compressed again."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(float)
    if grey.std() < 2:
        return None
    bits = (grey[:, :8] > grey[:, :8].mean(), grey[:, 1:] > grey[:, :-1])
    return tuple(int.from_bytes(np.packbits(part).tobytes(), "big") for part in bits)


def _look(data: VisionDataModule, dataset: Dataset, index: int) -> Look:
    problems = dataset.flaws(index) if hasattr(dataset, "flaws") else []
    warnings, annotated, counts, ignored = [], True, None, 0
    try:
        image, *truth = dataset.read(index)
        content = dataset.encoded(index)
    except DataError as error:
        return Look([str(error), *problems], warnings, annotated)
    if isinstance(dataset, SegmentationDataset):
        matrix, mask = ConfusionMatrix(data.num_classes, IGNORE_INDEX), torch.from_numpy(truth[0])[None]
        matrix.update(mask.where(mask != IGNORE_INDEX, 0), mask)
        counts, annotated = matrix.matrix, bool(matrix.matrix.any())
        ignored = mask.numel() - int(counts.sum())
    elif isinstance(dataset, DetectionDataset):
        annotated = len(truth[1]) > 0
        more = _box_flaws(dataset, index, image.shape[:2])
        problems, warnings = problems + more[0], more[1]
    digest = hashlib.blake2b(content, digest_size=16).digest()
    lost = tuple(lost_parts(content))
    return Look(problems, warnings, annotated, image.shape[:2], digest, shades(image), counts, lost, ignored)


def _box_flaws(dataset: DetectionDataset, index: int, size: tuple[int, int]) -> tuple[list[str], list[str]]:
    """Boxes beyond an image whose size the annotations do not tell, and boxes that are there twice."""
    annotations, place = dataset.annotations, dataset.indices[index]
    part = slice(*annotations.offsets[place : place + 2])
    boxes, where = annotations.boxes[part], f"{annotations.source}: {annotations.name(place)}"
    problems = []
    if not annotations.sizes[place].all():
        for left, top, width, height in boxes[annotations.usable[part]].tolist():
            if left + width > size[1] + 1 or top + height > size[0] + 1:
                problems.append(
                    f"{where} has the box x={left:g} y={top:g} width={width:g} height={height:g}, which reaches out of "
                    f"the image of {size[1]}x{size[0]} px"
                )
    rows = Counter(map(tuple, np.column_stack([boxes, annotations.labels[part]]).tolist()))
    twice = sum(count - 1 for count in rows.values())
    repeating = counted(twice, "box that repeats", "boxes that repeat")
    return problems, [f"{where} has {repeating} another of the same class"] if twice else []


def _split_flaws(data: VisionDataModule, dataset: Dataset) -> list[str]:
    """Numbers that do not go back and forth between the data set and the labels."""
    found, classes = [], data.classes
    for what, values in (("name", classes.names), ("id", classes.ids or ())):
        found += [f"two classes have the {what} {v!r}; each needs its own" for v, n in Counter(values).items() if n > 1]
    if isinstance(dataset, SegmentationDataset):
        missing = set(range(len(classes))) - set(dataset.table.tolist())
        found += [f"no id in the masks means the class {classes.names[label]}" for label in sorted(missing)]
        return found
    labels = np.unique(dataset.annotations.labels if isinstance(dataset, DetectionDataset) else dataset.samples.labels)
    if len(labels) and not 0 <= labels[0] <= labels[-1] < len(classes):
        found.append(f"labels go from {labels[0]} to {labels[-1]}; expected 0 to {len(classes) - 1}")
    if isinstance(dataset, DetectionDataset):
        names = Counter(map(dataset.annotations.name, range(len(dataset.annotations))))
        found += [f"{dataset.annotations.source}: {n} images are the file {name}" for name, n in names.items() if n > 1]
    return found
