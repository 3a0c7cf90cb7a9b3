"""Sheets of samples: what the network sees in training, and what a check found."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from tasks.data.datamodule import VisionDataModule
from tasks.data.detection import DetectionDataset
from tasks.data.errors import DataError
from tasks.data.segmentation import IGNORE_INDEX, SegmentationDataset
from tasks.files.images import read_image, read_mask
from tasks.inspection.check import SplitLooks, image_file
from tasks.pictures.boxes import draw_boxes
from tasks.pictures.sheets import overlay, sheet

WRONG = (180, 30, 40)  # RGB of what is not as it should be
SIDE = 320  # px, longest side of a picture on a sheet
CAPTION = 90  # characters of a caption


def augmented_sheet(
    data: VisionDataModule, split: str, *, samples: int = 6, epochs: Sequence[int] = (0, 1, 2), seed: int = 0
) -> np.ndarray:
    """Samples as they come out of the loader, row by row, each as it is in several epochs, with boxes or masks.

    Args:
        data: The data module.
        split: "train" is augmented, "val" is not.
        samples: Rows, drawn at random.
        epochs: Columns.
        seed: Of the drawing.

    Returns:
        A picture, (H, W, 3) uint8 RGB.

    Raises:
        DataError: As raised by the data.
    """
    dataset = data.dataset(split)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:samples].tolist()
    rows, present = [], set()
    for index in chosen:
        cells, caption = [], ""
        for epoch in epochs:
            sample = dataset[(epoch, index)]
            image = sample["image"].numpy()
            if "mask" in sample:
                truth, labels = sample["mask"].numpy(), set(np.unique(sample["mask"]).tolist()) - {IGNORE_INDEX}
            elif "boxes" in sample:
                truth = (sample["boxes"].numpy(), sample["labels"].numpy())
                labels = set(truth[1].tolist())
            else:
                truth, labels = None, {sample["label"]}
            present |= labels
            cells.append(_drawn(data, image, truth))
            text = "" if "boxes" in sample or "mask" in sample else data.classes.names[sample["label"]]
            caption = f"{sample['name']}  {text}"
        rows.append((_of_one_size(cells), caption[-CAPTION:]))
    columns = [f"epoch {epoch}, {'x'.join(map(str, _size(data, dataset, split, epoch)))} px" for epoch in epochs]
    return sheet(columns, rows, data.classes.names, np.array(data.classes.palette, np.uint8), present)


def check_sheet(
    data: VisionDataModule, found: Mapping[str, SplitLooks], flawed: Mapping[tuple[str, int], str], *,
    samples: int = 12, seed: int = 0,
) -> np.ndarray | None:  # fmt: skip
    """Samples with what is wrong with them, or if nothing is, some at random: the image beside its ground truth.

    Args:
        data: The data module.
        found: What `look_at` gave for each split.
        flawed: {(split, index): what is wrong}.
        samples: Most rows.
        seed: Of the choice.

    Returns:
        A picture, (H, W, 3) uint8 RGB; none if there are no samples at all.
    """
    chosen = list(flawed)[:samples]
    if not chosen:
        everything = [(split, index) for split, one in found.items() for index in range(len(one.looks))]
        order = np.random.default_rng(seed).permutation(len(everything))[: samples // 2]
        chosen = [everything[place] for place in sorted(order.tolist())]
    rows, present = [], set()
    for split, index in chosen:
        dataset = found[split].dataset
        labels: set[int] = set()
        try:
            image, *truth = dataset.read(index)
        except DataError:
            image, drawn = _opened(image_file(dataset, index)), _raw_truth(dataset, index)
        else:
            if isinstance(dataset, SegmentationDataset):
                drawn, labels = _drawn(data, image, truth[0]), set(np.unique(truth[0]).tolist()) - {IGNORE_INDEX}
            elif isinstance(dataset, DetectionDataset):
                picture, boxes = _fitted(image, truth[0])
                drawn, labels = _drawn(data, picture, (boxes, truth[1])), set(truth[1].tolist())
                _mark_wrong(drawn, dataset, index, image.shape[:2])
            else:
                drawn, labels = image, set(truth)
        present |= labels
        text = flawed.get((split, index)) or ", ".join(data.classes.names[label] for label in sorted(labels)[:5])
        name = image_file(dataset, index).name
        text = re.sub(r"^\S+\.json: |\S*/", "", text)  # paths would fill the line
        caption = f"{split}: {text}" if text.startswith(name) else f"{split}: {name}: {text}"
        caption = caption if len(caption) <= CAPTION else caption[: CAPTION - 3] + "..."
        rows.append((_of_one_size([_fitted(image)[0], _fitted(drawn)[0]]), caption))
    if not rows:
        return None
    palette = np.array(data.classes.palette, np.uint8)
    return sheet(("image", "ground truth"), rows, data.classes.names, palette, present)


def _drawn(data: VisionDataModule, image: np.ndarray, truth) -> np.ndarray:
    """An image with its mask (H, W), its (boxes, labels), or nothing, over it."""
    palette = np.array(data.classes.palette, np.uint8)
    if truth is None:
        return _fitted(image)[0]
    if isinstance(truth, tuple):
        picture, boxes = _fitted(image, truth[0])
        return draw_boxes(picture, boxes, truth[1], None, data.classes.names, palette)
    return _fitted(overlay(image, truth, palette))[0]


def _fitted(image: np.ndarray, boxes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """An image scaled to `SIDE`, and its boxes with it."""
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=way), None if boxes is None else boxes * scale


def _of_one_size(cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cells on paper of the largest height and width of them."""
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    papers = [np.full((height, width, 3), 255, np.uint8) for _ in cells]
    for paper, cell in zip(papers, cells, strict=True):
        paper[: cell.shape[0], : cell.shape[1]] = cell
    return papers


def _size(data: VisionDataModule, dataset, split: str, epoch: int) -> Sequence[int]:
    image = dataset[(epoch, 0)]["image"]
    return tuple(image.shape[:2])


def _opened(file: Path) -> np.ndarray:
    """An image, if that much can be read."""
    try:
        return read_image(file)
    except (ValueError, OSError):
        picture = np.full((SIDE // 2, SIDE, 3), 225, np.uint8)
        place = (70, SIDE // 4)
        return cv2.putText(picture, "cannot be read", place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, WRONG, 2, cv2.LINE_AA)


def _raw_truth(dataset, index: int) -> np.ndarray:
    """What the annotation of a sample that cannot be read looks like: its mask in greys, as far as that opens."""
    if not isinstance(dataset, SegmentationDataset):
        return _opened(image_file(dataset, index))
    try:
        mask = read_mask(dataset.pairs[index][1])
    except (ValueError, OSError):
        return _opened(dataset.pairs[index][1])
    spread = cv2.normalize(mask, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.repeat(spread[..., None], 3, axis=2)


def _mark_wrong(picture: np.ndarray, dataset: DetectionDataset, index: int, size: tuple[int, int]) -> None:
    """Draw boxes that are not as they should be in red, from where they begin to where the picture ends."""
    annotations, place = dataset.annotations, dataset.indices[index]
    part = slice(*annotations.offsets[place : place + 2])
    scale, (height, width) = picture.shape[1] / size[1], picture.shape[:2]
    for (left, top, wide, high), usable in zip(annotations.boxes[part].tolist(), annotations.usable[part], strict=True):
        reaching = min(left, top) < -1 or left + wide > size[1] + 1 or top + high > size[0] + 1
        if np.isfinite([left, top, wide, high]).all() and (reaching or not usable):
            corners = np.array([left, top, left + wide, top + high]) * scale
            x0, y0, x1, y1 = corners.clip(1, [width - 2, height - 2] * 2).astype(int).tolist()
            cv2.rectangle(picture, (x0 - 1, y0 - 1), (x1 + 1, y1 + 1), WRONG, 2)
