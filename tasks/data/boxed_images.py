"""Images with boxes: samples for a detector, and what can be said of them before training."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from tasks.data.annotations import Annotations
from tasks.data.box_statistics import box_statistics
from tasks.data.classes import Classes
from tasks.data.dataset import Inspected, VisionDataset
from tasks.data.samplers import SampleKey
from tasks.files.pixels import read_pixels
from tasks.pictures.boxes import draw_boxes, scaled
from tasks.pictures.colors import WRONG
from tasks.transforms.copy_paste import OutlinedImage, paste_objects
from tasks.transforms.detection import BoxedImage, DetectionAugmentation, resize_boxed
from tasks.transforms.progressive import Progressive
from tasks.values.counted import counted
from tasks.values.errors import DataError
from tasks.values.sizes import Size


class DetectionDataset(VisionDataset):
    """Detection images and boxes as arrays of one size.

    Args:
        annotations: File names, sizes and boxes.
        image_size: (H, W) px of every image.
        augmentations: Transforms of training, one for each stage of `progressive`; without any, images are only
            resized.
        progressive: Chooses stage and size by the epoch.
        keep_empty: Keep images that have no box to train on.
        seed: Seed of the augmentation.
    """

    def __init__(
        self, annotations: Annotations, image_size: Size, augmentations: Sequence[DetectionAugmentation] = (),
        progressive: Progressive | None = None, *, keep_empty: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        self.annotations, self.image_size = annotations, image_size
        self.augmentations, self.progressive, self.seed = augmentations, progressive, seed
        counted = np.concatenate([[0], np.cumsum(annotations.trained)])[annotations.offsets]
        self.indices = np.arange(len(annotations)) if keep_empty else np.flatnonzero(np.diff(counted))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: SampleKey | tuple[int, int, Size]) -> dict:
        """Return the sample (epoch, index) or (epoch, index, copy), at the epoch's size or at that of (..., (H, W)).

        Returns:
            {"image": (H, W, 3) uint8 RGB, "boxes": (M, 4) float32 xyxy px of this image, "labels": (M,) int64,
            "image_id": number, "image_size": (H, W) px of the file, "name": file name}.
        """
        epoch, index, *more = key
        size = [one for one in more if not isinstance(one, int)]
        copy = [one for one in more if isinstance(one, int)]
        sample = self.read(index)
        original_size = sample[0].shape[:2]
        if self.augmentations:
            size = size[0] if size else self.progressive.stage(epoch).image_size
            augmentation = self.augmentations[self.progressive.number(epoch)]
            random = np.random.default_rng(np.random.SeedSequence((self.seed, epoch, index, *copy)))
            if (donor := augmentation.donor(random, len(self))) is not None:
                own = OutlinedImage(*sample, self.outlines(index))
                other = OutlinedImage(*self.read(donor), self.outlines(donor))
                sample = paste_objects(own, other, random, flip=augmentation.flip)
            others = augmentation.partners(random, len(self))
            image, boxes, labels = augmentation([sample, *map(self.read, others)], size, random)
        else:
            image, boxes, labels = resize_boxed(*sample, size[0] if size else self.image_size)
        place = self.indices[index]
        return {
            "image": torch.from_numpy(image), "boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels),
            "image_id": int(self.annotations.image_ids[place]), "image_size": original_size,
            "name": self.annotations.name(place),
        }  # fmt: skip

    def read(self, index: int) -> BoxedImage:
        """Read an image (H, W, 3) RGB as stored, its boxes (M, 4) float32 xyxy px inside it, and labels (M,) int64.

        Raises:
            DataError: The file is missing or cannot be decoded, or its size is not the annotated one.
        """
        place = self.indices[index]
        file = self.file(index)
        try:
            image = read_pixels(file, self.pixels)
        except FileNotFoundError as error:
            raise DataError(f"{file} is not there; {self.annotations.source} names it") from error
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from error
        height, width = self.annotations.sizes[place]
        if height and width and image.shape[:2] != (height, width):
            raise DataError(
                f"{file} is {image.shape[1]}x{image.shape[0]} px, {self.annotations.source} says {width}x{height}; "
                "boxes must refer to the upright image (turned as its EXIF tag tells)"
            )
        boxes, labels = self.annotations.targets(place)
        return image, boxes.clip(0, np.tile(np.float32(image.shape[1::-1]), 2)), labels

    def outlines(self, index: int) -> list[Any]:
        """The outline of each box that `read` gives, in COCO's form; None where a box has none, or none was read."""
        return self.annotations.target_outlines(self.indices[index])

    def encoded(self, index: int) -> bytes:
        """Read the image file's bytes."""
        return Path(self.file(index)).read_bytes()

    def file(self, index: int) -> str:
        """Name a sample in errors."""
        return str(self.annotations.folder / self.name(index))

    def name(self, index: int) -> str:
        return self.annotations.name(self.indices[index])

    def box_annotations(self) -> Annotations:
        return self.annotations

    def flaws(self, index: int) -> list[str]:
        """Describe boxes that `read` leaves out, or clips by more than a pixel."""
        return self.annotations.flaws(self.indices[index])

    def inspected(self, index: int, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> Inspected:
        """Boxes beyond an image whose size the annotations do not tell, and boxes that are there twice."""
        annotations, place, size = self.annotations, self.indices[index], image.shape[:2]
        part = slice(*annotations.offsets[place : place + 2])
        stored, where = annotations.boxes[part], f"{annotations.source}: {annotations.name(place)}"
        problems = []
        if not annotations.sizes[place].all():
            for left, top, width, height in stored[annotations.usable[part]].tolist():
                if left + width > size[1] + 1 or top + height > size[0] + 1:
                    problems.append(
                        f"{where} has the box x={left:g} y={top:g} width={width:g} height={height:g}, which reaches "
                        f"out of the image of {size[1]}x{size[0]} px"
                    )
        rows = Counter(map(tuple, np.column_stack([stored, annotations.labels[part]]).tolist()))
        twice = sum(count - 1 for count in rows.values())
        repeating = counted(twice, "box that repeats", "boxes that repeat")
        warnings = [f"{where} has {repeating} another of the same class"] if twice else []
        return Inspected(problems, warnings, annotated=len(labels) > 0)

    def set_flaws(self, classes: Classes) -> list[str]:
        names = Counter(map(self.annotations.name, range(len(self.annotations))))
        twice = [f"{self.annotations.source}: {n} images are the file {name}" for name, n in names.items() if n > 1]
        return [*classes.out_of_range(self.annotations.labels), *twice]

    def labels_in(self, boxes: np.ndarray, labels: np.ndarray) -> set[int]:
        return set(labels.tolist())

    def truth_of(self, sample: dict) -> tuple[np.ndarray, np.ndarray]:
        return sample["boxes"].numpy(), sample["labels"].numpy()

    def draw(self, classes: Classes, side: int, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        factor = side / max(image.shape[:2])
        palette = np.array(classes.palette, np.uint8)
        return draw_boxes(scaled(image, factor), boxes * factor, labels, None, classes.names, palette)

    def mark_flaws(self, picture: np.ndarray, index: int, size: tuple[int, int]) -> None:
        """Draw boxes that are not as they should be in red, from where they begin to where the picture ends."""
        annotations, place = self.annotations, self.indices[index]
        part = slice(*annotations.offsets[place : place + 2])
        scale, (height, width) = picture.shape[1] / size[1], picture.shape[:2]
        boxes, usable = annotations.boxes[part].tolist(), annotations.usable[part]
        for (left, top, wide, high), fine in zip(boxes, usable, strict=True):
            reaching = min(left, top) < -1 or left + wide > size[1] + 1 or top + high > size[0] + 1
            if np.isfinite([left, top, wide, high]).all() and (reaching or not fine):
                corners = np.array([left, top, left + wide, top + high]) * scale
                x0, y0, x1, y1 = corners.clip(1, [width - 2, height - 2] * 2).astype(int).tolist()
                cv2.rectangle(picture, (x0 - 1, y0 - 1), (x1 + 1, y1 + 1), WRONG, 2)

    def statistics(self, names: Sequence[str], pixels: Sequence[np.ndarray] = ()) -> dict[str, Any]:
        return box_statistics(self.annotations, self.image_size, names)

    def image_sizes(self) -> list[tuple[int, int]]:
        return [tuple(size) for size in self.annotations.sizes.tolist() if min(size)]
