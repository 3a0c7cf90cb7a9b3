"""Masks drawn from the outlines of objects: COCO's, YOLO's, LabelMe's and CVAT's polygons for segmentation."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.data.annotations import Annotations
from tasks.data.classes import Classes
from tasks.data.coco import CocoData
from tasks.data.cvat import CvatData
from tasks.data.described_images import DescribedImages
from tasks.data.detection import DetectionData
from tasks.data.label_counts import Finding
from tasks.data.labelme import LabelmeData
from tasks.data.masked_images import IGNORE_INDEX, SegmentationDataset
from tasks.data.segmentation import SegmentationData, id_table
from tasks.data.voc_masks import BACKGROUND, VOC_MASK_CLASSES, voc_palette
from tasks.data.yolo import YoloData
from tasks.files.images import image_size
from tasks.pictures.colors import distinct_colors
from tasks.transforms.outlines import class_ids, draw_outline
from tasks.transforms.segmentation import SegmentationAugmentation
from tasks.values.errors import DataError

VOC_IN_COCO = (5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)  # category ids of VOC's 20
VOC_MIN_AREA = 1000  # px of objects that torchvision's training images have at least
OVERLAPS = {"ignore": IGNORE_INDEX, "last": None}


class OutlinedDataset(SegmentationDataset):
    """Segmentation images whose masks are drawn from outlines.

    Args:
        annotations: File names, sizes, labels and outlines.
        numbers: (K,) id in the mask of each label; -1: not drawn.
        background: Id of px without an object.
        overlap: Id of px with several objects; None: that of the last of them.
        indices: Images to take.
        options: As in `SegmentationDataset`.
    """

    def __init__(
        self, annotations: Annotations, numbers: np.ndarray, table: np.ndarray, *, background: int,
        overlap: int | None, indices: np.ndarray, **options,
    ) -> None:  # fmt: skip
        files = [annotations.folder / annotations.name(index) for index in indices.tolist()]
        super().__init__([(file, annotations.source) for file in files], table, **options)
        self.annotations, self.numbers, self.indices = annotations, numbers, indices
        self.background, self.overlap = background, overlap

    def read_ids(self, index: int) -> np.ndarray:
        """Draw the mask of an image.

        Raises:
            DataError: An outline is invalid, or the image's size is not known.
        """
        annotations, place = self.annotations, int(self.indices[index])
        where = f"{annotations.source}: {annotations.name(place)}"
        size = tuple(annotations.sizes[place].tolist())
        try:
            size = size if all(size) else image_size(self.pairs[index][0])
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from error
        labels = annotations.labels[slice(*annotations.offsets[place : place + 2])]
        objects = []
        for number, (label, outline) in enumerate(zip(labels, json.loads(annotations.outlines[place]), strict=True), 1):
            if self.numbers[label] >= 0 and outline:
                try:
                    objects.append((int(self.numbers[label]), draw_outline(outline, size)))
                except ValueError as error:
                    raise DataError(f"{where}: object {number} {error}") from error
        return class_ids(objects, size, background=self.background, overlap=self.overlap)


class OutlinedMasks(SegmentationData):
    """Data module of masks drawn from the outlines of a detection set.

    Px without an object are of a class of their own. Crowds are drawn like objects, as in torchvision's recipe.

    Args:
        source: Detection set, which keeps outlines from then on.
        names: Classes in the masks, the background left out.
        numbers: Index in `names` of each class of the source; -1: not drawn.
        background: Name of the class of px without an object; None: they are not counted.
        overlap: "ignore": px of several objects are not counted; "last": they are of the last of them.
        min_area: Annotated px of objects that a training image has more than.
        palette: One RGB colour a class; None: `distinct_colors`, and black for the background.
        options: As in `SegmentationData`.

    Raises:
        ValueError: A setting is unknown, or there are more than 254 classes.
        DataError: No object has an outline (when a set is opened).
    """

    def __init__(
        self, source: DetectionData, names: Sequence[str], numbers: Sequence[int], *,
        background: str | None = BACKGROUND, overlap: str = "ignore", min_area: float = 0,
        palette: Sequence[Sequence[int]] | None = None, **options,
    ) -> None:  # fmt: skip
        if overlap not in OVERLAPS:
            raise ValueError(f"data.overlap={overlap}: expected {' or '.join(OVERLAPS)}")
        if background in names:
            raise ValueError(f"data.background={background} is a class with objects, too; give another name, or null")
        first = [] if background is None else [background]
        colors = [(0, 0, 0)][: len(first)] + distinct_colors(len(names)).tolist() if palette is None else palette
        classes = Classes((*first, *names), tuple(tuple(map(int, color)) for color in colors))
        super().__init__(classes, id_table({k: k for k in range(len(classes))}), **options)
        source.keep_outlines()
        self.source, self.overlap, self.min_area = source, OVERLAPS[overlap], min_area
        self.background = 0 if first else IGNORE_INDEX
        self.numbers = np.array([number + len(first) if number >= 0 else -1 for number in numbers], np.int64)

    def make_dataset(self, split: str) -> OutlinedDataset:
        training = split == "train"
        return self._opened(split, self.augmentations if training else (), self.min_area if training else 0)

    def whole_dataset(self, split: str) -> OutlinedDataset:
        return self.formatted(self._opened(split))

    def _opened(
        self, split: str, augmentations: Sequence[SegmentationAugmentation] = (), min_area: float = 0
    ) -> OutlinedDataset:
        annotations = self.source.whole_dataset(split).annotations
        if len(annotations.labels) and not self._outlined(annotations).any():
            raise DataError(
                f"{annotations.source}: none of the {len(annotations.labels)} objects of {split} has an outline; "
                "expected polygons or run lengths (boxes alone train task=detection)"
            )
        owners = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
        drawn = self.numbers[annotations.labels] >= 0
        areas = np.bincount(owners[drawn], annotations.areas[drawn], minlength=len(annotations))
        indices = np.flatnonzero(areas > min_area) if min_area else np.arange(len(annotations))
        return OutlinedDataset(
            annotations, self.numbers, self.table, background=self.background, overlap=self.overlap, indices=indices,
            augmentations=augmentations, progressive=self.progressive, seed=self.seed,
        )  # fmt: skip

    def occurrences(self) -> tuple[np.ndarray, np.ndarray]:
        """As there, of the annotated objects, drawn or covered; no mask is drawn. The background is in every image."""
        dataset = self.dataset("train")
        annotations, count = dataset.annotations, len(dataset)
        owners = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
        numbers = self.numbers[annotations.labels]
        drawn = (numbers >= 0) & self._outlined(annotations) & np.isin(owners, dataset.indices)
        samples, classes = np.searchsorted(dataset.indices, owners[drawn]), numbers[drawn]
        if self.background:
            return samples, classes
        return np.concatenate([np.arange(count), samples]), np.concatenate([np.zeros(count, int), classes])

    def setup(self, stage: str) -> None:
        super().setup(stage)
        for split in ("train", "val") if stage == "fit" else ("val",):
            self.source.check_files(split)

    def split_findings(self, split: str) -> list[Finding]:
        annotations = self.source.annotations(split)
        outlined = self._outlined(annotations)
        if outlined.all():
            return []
        first = int(np.searchsorted(annotations.offsets, np.flatnonzero(~outlined)[0], side="right")) - 1
        text = (
            f"{split}: {(~outlined).sum()} of {len(outlined)} objects have no outline and are not in the masks, the "
            f"first: {self.source.named_by(split, first)}: {annotations.name(first)}"
        )
        return [Finding(logging.WARNING, text)]

    def images(self, split: str) -> list[Path]:
        return self.source.images(split)

    def notes(self) -> list[Finding]:
        return self.source.notes()

    @staticmethod
    def _outlined(annotations: Annotations) -> np.ndarray:
        """Mark the objects that have an outline, (B,) bool."""
        found = np.ones(len(annotations.labels), bool)
        for start, text in zip(annotations.offsets.tolist(), annotations.outlines, strict=False):
            if "null" in text or "[]" in text:  # few have such
                outlines = json.loads(text)
                found[start : start + len(outlines)] = [bool(one) for one in outlines]
        return found


class CocoMasks(OutlinedMasks):
    """Read COCO, or another set in its JSON form, as masks: polygons and run lengths, drawn as torchvision does.

    Args:
        root, train_images, train_json, val_images, val_json: As in `CocoData`.
        class_names: Categories to keep; None: all; "voc": VOC's 20, in VOC's order, by COCO's category ids.
        min_area: As in `OutlinedMasks`; None: 0, with class_names="voc" 1000.
        options: As in `OutlinedMasks`.

    Raises:
        ValueError, DataError: As `CocoData`, `OutlinedMasks`; the categories are not COCO's, as "voc" needs them.

    Source: the recipe of torchvision's references/segmentation.
    """

    def __init__(
        self, root: str, *, train_images: str, train_json: str, val_images: str, val_json: str,
        class_names: Sequence[str] | str | None = None, min_area: float | None = None, **options,
    ) -> None:  # fmt: skip
        voc = class_names == "voc"
        source = CocoData(
            root, train_images=train_images, train_json=train_json, val_images=val_images, val_json=val_json,
            class_names=None if voc else class_names, batch_size=1, num_workers=0,
        )  # fmt: skip
        names, numbers = source.classes.names, list(range(len(source.classes)))
        if voc:
            if missing := [number for number in VOC_IN_COCO if number not in source.classes.ids]:
                raise ValueError(
                    f"data.class_names=voc: {Path(root)} has no category with COCO's id {missing[0]}; name your own "
                    "classes, or null for all"
                )
            names = VOC_MASK_CLASSES[1:]
            numbers = [VOC_IN_COCO.index(i) if i in VOC_IN_COCO else -1 for i in source.classes.ids]
            options = {"palette": voc_palette(21)} | {k: v for k, v in options.items() if k != "palette" or v}
        least = min_area if min_area is not None else VOC_MIN_AREA if voc else 0
        super().__init__(source, names, numbers, min_area=least, **options)


class DescribedMasks(OutlinedMasks):
    """Read the shapes of an annotation tool's files as masks; those that enclose nothing are not drawn.

    Args:
        root, train, val, class_names: As in `reader`.
        options: As in `OutlinedMasks`.

    Raises:
        ValueError, DataError: As `reader`, `OutlinedMasks`.
    """

    reader: type[DescribedImages]
    filled = True  # whether rectangles are drawn: where the tool's user may have meant them as outlines

    def __init__(
        self, root: str, *, train: str = "train", val: str = "val", class_names: Sequence[str] | None = None, **options
    ) -> None:
        source = self.reader(root, train=train, val=val, class_names=class_names, batch_size=1, num_workers=0)
        source.filled = self.filled
        super().__init__(source, source.classes.names, range(len(source.classes)), **options)


class YoloMasks(DescribedMasks):
    """Read YOLO's polygons as masks; its boxes are not drawn."""

    reader, filled = YoloData, False


class LabelmeMasks(DescribedMasks):
    """Read LabelMe's polygons, rectangles, circles and masks as masks."""

    reader = LabelmeData


class CvatMasks(DescribedMasks):
    """Read CVAT's polygons, boxes, ellipses and masks as masks."""

    reader = CvatData
