"""Cut class folders out of a detection set: each box a picture of its class, and pictures of background."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from rich.progress import track

from tasks.data.datamodule import SPLITS, VisionDataModule
from tasks.data.dataset import VisionDataset
from tasks.files.new_folder import new_folder
from tasks.files.writing import write_image, write_json
from tasks.values.errors import DataError

BACKGROUND = "background"
TRIALS = 4000  # squares drawn to find background in an image


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut.

    Attributes:
        margin: Added around a box on each side, as a share of its longer side.
        min_side: Boxes whose longer side is less are left out, px; background crops are not smaller either.
        background: Crops of background from each image, or "boxes": as many as it has boxes cut out.
        overlap: Share of a background crop, and of any box, that the two may have in common.
        suffix: ".jpg" (quality 95) or ".png".
        seed: Of the background.
    """

    margin: float = 0.1
    min_side: int = 32
    background: int | str = 0
    overlap: float = 0.0
    suffix: str = ".jpg"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.margin < 0 or self.min_side < 1 or not 0 <= self.overlap < 1:
            raise ValueError(
                f"margin={self.margin} min_side={self.min_side} overlap={self.overlap}: expected a share of at least "
                "0, px above 0, and a share below 1"
            )
        if self.background != "boxes" and not (isinstance(self.background, int) and self.background >= 0):
            raise ValueError(f"background={self.background}: expected a number of crops an image, or boxes")
        if self.suffix not in (".jpg", ".png"):
            raise ValueError(f"suffix={self.suffix}: expected .jpg or .png")


def write_crops(
    data: VisionDataModule, folder: Path, splits: Sequence[str] = SPLITS, settings: CropSettings = CropSettings()
) -> dict[str, Any]:
    """Cut the boxes of a detection set into {split}/{class}/ folders, as `data=folders` reads them.

    A crop is a square around its box, grown by the margin and moved to stay inside the image; only where the image is
    too narrow for the square it is as narrow as that. Crowds are not cut out, nor is background that touches them.

    Args:
        data: The detection set.
        folder: Folder to make; it appears when all is written.
        splits: "train", "val".
        settings: As in `CropSettings`.

    Returns:
        What crops.json holds: {split: {"images", "crops": {class: number}, "left_out": {"small", "crowd", "unusable",
        "background": how many fewer than wanted}}}.

    Raises:
        ValueError: The folder holds files already; the set has no boxes, or a class "background" of its own.
        DataError: An image cannot be read, or two classes would have one folder.
    """
    names = [re.sub(r"[^\w .()+&'-]", "_", name).strip(" .") or "_" for name in data.classes.names]
    if settings.background:
        names.append(BACKGROUND)
    twice = [name for name, count in Counter(map(str.lower, names)).items() if count > 1]
    if twice:
        raise DataError(f"two classes would have the folder {twice[0]!r}; rename one of them, or set background=0")
    report: dict[str, Any] = {}
    with new_folder(folder) as part:
        for number, split in enumerate(splits):
            dataset = data.whole_dataset(split)
            if dataset.box_annotations() is None:
                raise ValueError(
                    f"action=crops needs images with boxes, not {type(data).__name__}; take data=coco or data=voc with "
                    "task=detection"
                )
            cutter = _Cutter(dataset, part / split, names, settings, number)
            images = range(len(dataset))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                found = list(track(pool.map(cutter, images), f"cutting {split}", total=len(images), transient=True))
            crops, left_out = (sum((row[part] for row in found), Counter()) for part in (0, 1))
            report[split] = {
                "images": len(images),
                "crops": {name: crops[name] for name in names},
                "left_out": {reason: left_out[reason] for reason in ("small", "crowd", "unusable", BACKGROUND)},
            }
        used = [name for name in names if any(report[split]["crops"][name] for split in splits)]
        if not set(used) - {BACKGROUND}:
            raise DataError(f"no box of {cutter.annotations.source} can be cut out; lower min_side")
        for split in splits:
            for name in used:  # the folders of the splits are the same, if need be empty
                (part / split / name).mkdir(parents=True, exist_ok=True)
        write_json(part / "crops.json", report)
    return report


def crop_table(report: dict[str, Any]) -> tuple[Sequence[str], list[tuple]]:
    """Columns and rows of what `write_crops` reports: crops of each class, then what was left out."""
    reasons = {"small": "left out: smaller than min_side", "crowd": "left out: crowds", "unusable": "left out: no box"}
    labels = reasons | {BACKGROUND: "background that found no room"}
    rows = [(name, *(part["crops"][name] for part in report.values())) for name in next(iter(report.values()))["crops"]]
    rows += [(text, *(part["left_out"][key] for part in report.values())) for key, text in labels.items()]
    return ("class", *report), rows


class _Cutter:
    """Cuts one image of a split; called by several threads."""

    def __init__(
        self, dataset: VisionDataset, folder: Path, names: Sequence[str], settings: CropSettings, number: int
    ) -> None:
        self.dataset, self.annotations = dataset, dataset.box_annotations()
        self.folder, self.names, self.settings, self.number = folder, names, settings, number
        stems = [PurePosixPath(self.annotations.name(i)).with_suffix("") for i in range(len(self.annotations))]
        self.stems = [re.sub(r"[^\w.-]", "_", str(stem)) for stem in stems]
        counts = Counter(stem.lower() for stem in self.stems)
        ids = self.annotations.image_ids
        self.stems = [f"{s}_{i}" if counts[s.lower()] > 1 else s for s, i in zip(self.stems, ids, strict=True)]

    def __call__(self, index: int) -> tuple[Counter, Counter]:
        """Crops written, by class; boxes left out, by reason."""
        part = slice(*self.annotations.offsets[index : index + 2])
        crowd, usable = self.annotations.crowd[part], self.annotations.usable[part]
        written, left_out = Counter(), Counter(crowd=int(crowd.sum()), unusable=int((~usable & ~crowd).sum()))
        image, boxes, labels = self.dataset.read(index)
        size = image.shape[:2]
        for place, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            if (box[2:] - box[:2]).max() < self.settings.min_side:
                left_out["small"] += 1
                continue
            self._write(image, square_around(box, size, self.settings.margin), self.names[label], index, place)
            written[self.names[label]] += 1
        wanted = self.settings.background
        wanted = written.total() if wanted == "boxes" else wanted
        if wanted:
            taken = self.annotations.boxes[part][usable]  # crowds too
            taken = np.concatenate([taken[:, :2], taken[:, :2] + taken[:, 2:]], 1)
            seeds = np.random.SeedSequence((self.settings.seed, self.number, index))
            squares = background_squares(
                taken, size, wanted, np.random.default_rng(seeds), self.settings.min_side, self.settings.overlap
            )
            for place, square in enumerate(squares):
                self._write(image, square, BACKGROUND, index, place)
            written[BACKGROUND] += len(squares)
            left_out[BACKGROUND] += wanted - len(squares)
        return written, left_out

    def _write(self, image: np.ndarray, square: np.ndarray, name: str, index: int, place: int) -> None:
        left, top, right, bottom = square
        file = self.folder / name / f"{self.stems[index]}_{place}{self.settings.suffix}"
        write_image(file, np.ascontiguousarray(image[top:bottom, left:right]))


def square_around(box: np.ndarray, size: tuple[int, int], margin: float) -> np.ndarray:
    """The square to cut out for a box.

    Args:
        box: (4,) xyxy px within the image.
        size: (H, W) px of the image.
        margin: Added on each side, as a share of the longer side.

    Returns:
        (4,) int xyxy px that hold the box, within the image; square unless the image is too narrow.
    """
    bounds = np.array(size[::-1])
    first, last = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    longer = np.asarray(box[2:] - box[:2], float).max()
    side = np.maximum(np.minimum(round(longer * (1 + 2 * margin)), bounds), last - first)
    corner = np.round((first + last - side) / 2).astype(int)
    corner = corner.clip(0, bounds - side)
    return np.concatenate([corner, corner + side])


def background_squares(
    boxes: np.ndarray, size: tuple[int, int], count: int, random: np.random.Generator, min_side: int, overlap: float
) -> np.ndarray:
    """Squares that show none of the boxes.

    Sides are drawn evenly in their logarithm from `min_side` to the image's shorter side; of the squares that show no
    box, larger ones are preferred by their area, since few large ones pass. Squares overlap one another by a
    quarter of the smaller at most.

    Args:
        boxes: (M, 4) xyxy px.
        size: (H, W) px of the image.
        count: Squares that are wanted.
        random: What all is drawn from.
        min_side: Smallest side, px.
        overlap: Share of a square, and of a box, that the two may have in common.

    Returns:
        (K, 4) int xyxy px, K at most `count`.
    """
    bounds = np.array(size[::-1])
    if bounds.min() < min_side:
        return np.zeros((0, 4), int)
    sides = np.exp(random.uniform(np.log(min_side), np.log(bounds.min()), TRIALS)).round().astype(int)
    corners = np.floor(random.random((TRIALS, 2)) * (bounds - sides[:, None] + 1)).astype(int)
    squares = np.concatenate([corners, corners + sides[:, None]], 1)
    common = _common(squares, boxes)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    free = (common <= overlap * np.minimum(areas, (sides**2)[:, None]) + 1e-6).all(1)
    order = np.argsort(random.exponential(size=TRIALS) / sides**2)  # a draw without replacement, weighted by area
    chosen: list[int] = []
    for place in order[free[order]]:
        if len(chosen) == count:
            break
        others = _common(squares[[place]], squares[chosen])[0]
        if (others <= np.minimum(sides[place], sides[chosen]) ** 2 / 4).all():
            chosen.append(place)
    return squares[chosen]


def _common(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, 4), (M, 4) xyxy -> (N, M) area that each two have in common."""
    corners = np.maximum(first[:, None, :2], second[None, :, :2]), np.minimum(first[:, None, 2:], second[None, :, 2:])
    return (corners[1] - corners[0]).clip(0).prod(2)
