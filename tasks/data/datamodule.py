"""Base of all data modules: classes, and loaders whose order depends only on seed and epoch."""

import copy
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tasks.data.balance import expected_draws
from tasks.data.classes import Classes
from tasks.data.dataset import VisionDataset
from tasks.data.label_counts import Finding, LabelCounts
from tasks.data.measured_loader import MeasuredLoader
from tasks.data.samplers import EpochSampler, FixedSampler, ResumedSampler
from tasks.data.submission import Submission
from tasks.data.workers import WatchedDataset, WatchedLoader, default_workers, one_thread
from tasks.files.image_depth import Lost, lost_parts
from tasks.files.pixels import check_format, decode_pixels
from tasks.transforms.progressive import Progressive
from tasks.values.errors import DataError
from tasks.values.first_process import is_first_process
from tasks.values.lightning_twin import LightningTwin
from tasks.values.pixel_format import RGB, PixelFormat
from tasks.values.sizes import Size, parse_size

SPLITS = ("train", "val")
LOOKED_AT = 16  # images of a split whose files are looked at before the first step
logger = logging.getLogger(__name__)


class VisionDataModule(LightningTwin):
    """Loaders over a training and a validation set.

    A subclass makes the sets in `make_dataset`, which are indexed by `SampleKey`, and the batches in `collate`.

    Attributes:
        kind: Of the tasks that it is for, as `VisionTask.kind`; None: of any.
        task: Dotted name of the class of those tasks, which judges the data's own ground truth; None: no class.
        content: What it gives, for errors.
        classes: Names and colours.
        image_size: (H, W) px of a training image.
        pixels: Format of the images.
        augmentations: Those of training, one for each stage of `progressive`.
        submission: How the benchmark of the data takes predicted masks; None: it has none.
        sampling, repeat_threshold: How often an epoch draws each training image, as in `expected_draws`; None: once.

    Args:
        classes: Names and colours.
        image_size: (H, W) px of a training image, or the side of a square.
        batch_size, val_batch_size: Images a step on each device.
        num_workers: Loader processes, 0 for none; None: with a GPU `default_workers()`, else as many as are measured to
            be worth it, as in `MeasuredLoader`.
        progressive: Sizes and strengths of training images that change with the epoch, as in `Progressive`.
        seed: Of the order and the augmentation.
    """

    lightning_base = "LightningDataModule"
    trainer: Any = None
    kind: str | None = None
    task: str | None = None
    content = "samples"
    pixels: PixelFormat = RGB
    augmentations: Sequence[Any] = ()
    submission: Submission | None = None
    sampling: str | None = None
    repeat_threshold: float = 0.001

    def __init__(
        self, classes: Classes, image_size: int | Sequence[int], *, batch_size: int, val_batch_size: int = 1,
        num_workers: int | None = None, progressive: Mapping[str, Any] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes = classes
        self.image_size: Size = parse_size(image_size, "data.image_size")
        self.progressive = Progressive(self.image_size, progressive)
        self.batch_size = _whole("batch_size", batch_size, least=1)
        self.val_batch_size, self.seed = _whole("val_batch_size", val_batch_size, least=1), seed
        self.num_workers = default_workers() if num_workers is None else _whole("num_workers", num_workers, least=0)
        self.measured = num_workers is None and not self.num_workers
        self._sets: dict[str, VisionDataset] = {}
        self._resumed: tuple[int, int] | None = None
        self._told: set[str] = set()
        self._labels: Tensor | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def progress(self, epoch: int) -> dict[str, float]:
        """Return what changes with the epoch in training images, for the log; as in `Progressive.progress`."""
        return self.progressive.progress(epoch)

    def dataset(self, split: str) -> VisionDataset:
        """Return the set of a split, "train" or "val", which is opened once."""
        if split not in SPLITS:
            raise ValueError(f"there is no split {split}; expected {' or '.join(SPLITS)}")
        if split not in self._sets:
            self._sets[split] = self.formatted(self.make_dataset(split))
        return self._sets[split]

    def take_pixels(self, format: PixelFormat) -> None:
        """Read images in another format than RGB of 8 bits; before a set is opened.

        Raises:
            ValueError: An augmentation is for RGB alone; the message names its setting.
        """
        self.pixels = format
        for augmentation in self.augmentations:
            augmentation.take_pixels(format)

    def formatted(self, dataset: VisionDataset) -> Any:
        """Let a set read images in the format of the data."""
        if not self.pixels.is_rgb:
            dataset.pixels = self.pixels
        return dataset

    def make_dataset(self, split: str) -> VisionDataset:
        """Open a split."""
        raise NotImplementedError

    def plain_dataset(self, split: str) -> VisionDataset:
        """Open a split with the transforms of an evaluation, such as training images for int8 calibration."""
        dataset = copy.copy(self.dataset(split))
        dataset.augmentations = ()
        return dataset

    def whole_dataset(self, split: str) -> VisionDataset:
        """Every sample of a split as it lies on disk, those that training passes over included.

        Raises:
            DataError: As the data module does on opening a split.
        """
        return self.plain_dataset(split)

    def images(self, split: str) -> list[Path]:
        """List the image files of a split, whose ground truth need not be there.

        Raises:
            DataError: The images are no files of their own, or as the data module does on opening a split.
        """
        dataset = self.dataset(split)
        if dataset.folders() is None:
            raise DataError("the data's images are no files of their own; give source=")
        return [Path(dataset.file(index)) for index in range(len(dataset))]

    def image_ids(self, split: str) -> Sequence[int] | None:
        """Return the data set's own number of each of `images`; None where it has none."""
        return None

    def keep_outlines(self) -> None:
        """Let the sets hold the outlines of objects too, where there are any."""

    def collate(self, samples: list) -> dict:
        """Make a batch."""
        raise NotImplementedError

    def take_labels(self, labels: Sequence[int]) -> None:
        """Give batches other labels than the data set's own from the next loader on; `classes` stays as it is.

        Args:
            labels: The label that each of the data set's own becomes.
        """
        table = torch.arange(max(256, len(labels)) + 1)  # 255, which no mask counts, stays; so does -1, the last
        table[-1] = -1
        table[: len(labels)] = torch.tensor(labels)
        self._labels = table

    def label_counts(self, split: str) -> LabelCounts | None:
        """Count how often each class occurs in a split; None where that would take long."""

    def ground_truth(self, split: str) -> dict[str, list[dict]]:
        """Return the boxes of a split, by which detections in a file are judged."""
        raise ValueError("predictions= holds boxes, which this data has none of; give data=coco or data=voc")

    def split_findings(self, split: str) -> list[Finding]:
        """List remarks on a split that need no reading of images, class counts left out."""
        return []

    def notes(self) -> list[Finding]:
        """List remarks on the data set as a whole."""
        return []

    def findings(self) -> list[Finding]:
        """List remarks on the splits that take seconds, above all classes without a sample."""
        found = self.notes()
        for split in SPLITS:
            counts = self.label_counts(split)
            found += [*self.split_findings(split), *(counts.findings(split, self.classes.names) if counts else ())]
        return found

    def set_image_size(self, image_size: int | Sequence[int]) -> None:
        """Evaluate at another (H, W) px from the next loader on, unless images keep their own size."""

    def make_sampler(self, size: int, *, shuffle: bool) -> EpochSampler:
        """Make the sampler of `size` samples, for training (shuffled) or validation."""
        return EpochSampler(size, shuffle=shuffle, seed=self.seed, draws=self.draws() if shuffle else None)

    def draws(self) -> np.ndarray | None:
        """Compute how often an epoch draws each training sample, as `sampling` says; None: each once.

        Raises:
            ValueError: As in `expected_draws`.
        """
        if self.sampling is None:
            return None
        size = len(self.dataset("train"))
        return expected_draws(self.sampling, *self.occurrences(), size, self.repeat_threshold)

    def occurrences(self) -> tuple[np.ndarray, np.ndarray]:
        """List the objects of the training set: index of the sample and class, (P,) each."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Open the sets first of all, so that missing files are reported at once."""
        for split in ("train", "val") if stage == "fit" else ("val",):
            if not len(self.dataset(split)):
                raise DataError(f"the {split} set holds no samples")
            self._tell_lost(split) if self.pixels.is_rgb else self._check_format(split)
        if stage == "fit" and len(self.dataset("train")) < self.batch_size:
            raise DataError(
                f"batch_size={self.batch_size} is more than the {len(self.dataset('train'))} training images; "
                "set data.batch_size to at most that"
            )

    def _tell_lost(self, split: str) -> None:
        """Warn once of what 8-bit RGB loses of a split's images, judged by a sample of them."""
        if split in self._told or not is_first_process():
            return
        self._told.add(split)
        lost, dataset = Lost(), self.dataset(split)
        for index in np.unique(np.linspace(0, len(dataset) - 1, LOOKED_AT).round().astype(int)).tolist():
            with suppress(DataError, OSError):  # reading it will say so
                lost.add(dataset.file(index), lost_parts(dataset.encoded(index)))
        for line in lost.lines():
            logger.warning("%s: %s; tools/data.py action=check looks at all", split, line)

    def _check_format(self, split: str) -> None:
        """Look once at the headers of all files of a split, and decode some of them.

        Raises:
            ValueError: A file has another format, or cannot be decoded.
        """
        if split in self._told:
            return
        self._told.add(split)
        dataset = self.dataset(split)
        for index in range(len(dataset)) if dataset.folders() is not None else ():  # else they lie in shards
            with suppress(OSError):  # reading it will say so
                check_format(dataset.file(index), self.pixels)
        for index in np.unique(np.linspace(0, len(dataset) - 1, LOOKED_AT).round().astype(int)).tolist():
            with suppress(OSError):
                decode_pixels(dataset.encoded(index), dataset.file(index), self.pixels)

    def go_on(self, epoch: int, batches: int) -> None:
        """Train from the next loader on with what is left of an epoch.

        Args:
            epoch: Epoch, from 0.
            batches: Those of each process that are done in it.
        """
        self._resumed = (epoch, batches)

    def state_dict(self) -> dict[str, int]:
        """Return the settings that must not change when a run resumes within an epoch; stored in checkpoints."""
        return {"batch_size": self.batch_size, "processes": self.trainer.world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Check that a resumed epoch has the same number of processes.

        Raises:
            ValueError: The number differs.
        """
        before, now = state.get("processes", 1), self.trainer.world_size
        if self._resumed and self._resumed[1] and before != now:
            raise ValueError(
                f"{before} processes began the epoch that goes on, {now} would repeat and skip samples; start "
                f"{before}, or go on from an epoch's end"
            )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", self.val_batch_size, shuffle=False)

    def _batch(self, samples: list) -> dict:
        """Make a batch with the labels of `take_labels`, and images of 16 bits as float32."""
        batch = self.collate(samples)
        if not self.pixels.is_rgb and batch["images"].dtype == torch.uint16:
            batch["images"] = batch["images"].float()  # few operations of torch take uint16
        if self._labels is None:
            return batch
        changed = {key: batch[key] for key in ("labels", "masks") if key in batch}
        return batch | {key: self._labels[values.long()].to(values.dtype) for key, values in changed.items()}

    def _loader(self, split: str, batch_size: int, *, shuffle: bool) -> DataLoader:
        dataset = self.dataset(split)
        overfits = self.trainer is not None and self.trainer.overfit_batches
        sampler = FixedSampler(len(dataset)) if overfits else self.make_sampler(len(dataset), shuffle=shuffle)
        if shuffle and self._resumed:
            epoch, batches = self._resumed
            sampler = ResumedSampler(sampler, epoch, batches * batch_size)
        options = {
            "sampler": sampler, "drop_last": shuffle,
            "num_workers": self.num_workers, "collate_fn": self._batch, "pin_memory": torch.cuda.is_available(),
        }  # fmt: skip
        if self.measured:
            return MeasuredLoader(dataset, batch_size, **options)
        if not self.num_workers:
            return DataLoader(dataset, batch_size, **options)
        watched = WatchedDataset(dataset, self.num_workers)
        return WatchedLoader(watched, batch_size, persistent_workers=True, worker_init_fn=one_thread, **options)


def _whole(name: str, value: float, *, least: int) -> int:
    """Read an integer setting of the data; 1e2 is 100.

    Raises:
        ValueError: The value is not an integer, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 or value < least:
        raise ValueError(f"data.{name}={value}: expected a whole number of at least {least}")
    return int(value)
