"""Draw sheets of samples: what the network sees in training, and what a check found."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from tasks.data.datamodule import VisionDataModule
from tasks.data.looks import SplitLooks
from tasks.files.pixels import read_pixels
from tasks.pictures.boxes import scaled
from tasks.pictures.colors import WRONG
from tasks.pictures.sheets import sheet
from tasks.pictures.shown import shown
from tasks.values.errors import DataError
from tasks.values.pixel_format import RGB, PixelFormat

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
            truth = dataset.truth_of(sample)
            present |= dataset.labels_in(*truth)
            cells.append(dataset.draw(data.classes, SIDE, shown(sample["image"].numpy(), data.pixels), *truth))
            label = dataset.image_class(index)
            caption = f"{sample['name']}  {'' if label is None else data.classes.names[label]}"
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
        A picture, (H, W, 3) uint8 RGB; None if there are no samples at all.
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
            image, drawn = _opened(dataset.file(index), data.pixels), dataset.raw_truth(index)
            drawn = _opened(dataset.truth_file(index)) if drawn is None else drawn
        else:
            image = shown(image, data.pixels)
            drawn, labels = dataset.draw(data.classes, SIDE, image, *truth), dataset.labels_in(*truth)
            dataset.mark_flaws(drawn, index, image.shape[:2])
        present |= labels
        text = flawed.get((split, index)) or ", ".join(data.classes.names[label] for label in sorted(labels)[:5])
        name = Path(dataset.file(index)).name
        text = re.sub(r"^\S+\.json: |\S*/", "", text)  # paths would fill the line
        caption = f"{split}: {text}" if text.startswith(name) else f"{split}: {name}: {text}"
        caption = caption if len(caption) <= CAPTION else caption[: CAPTION - 3] + "..."
        rows.append((_of_one_size([_fitted(image), _fitted(drawn)]), caption))
    if not rows:
        return None
    palette = np.array(data.classes.palette, np.uint8)
    return sheet(("image", "ground truth"), rows, data.classes.names, palette, present)


def _fitted(image: np.ndarray) -> np.ndarray:
    return scaled(image, SIDE / max(image.shape[:2]))


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


def _opened(file: str | Path, format: PixelFormat = RGB) -> np.ndarray:
    """An image, if that much can be read."""
    try:
        return shown(read_pixels(file, format), format)
    except (ValueError, OSError):
        picture = np.full((SIDE // 2, SIDE, 3), 225, np.uint8)
        place = (70, SIDE // 4)
        return cv2.putText(picture, "cannot be read", place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, WRONG, 2, cv2.LINE_AA)
