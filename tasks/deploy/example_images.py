"""Images that an export needs: those of a data set, or of any folder, at the input's size."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.data.datamodule import VisionDataModule, list_files
from tasks.files.images import is_image, read_image


def data_images(
    opened: Callable[[], VisionDataModule], split: str, count: int, image_size: Sequence[int]
) -> list[Tensor]:
    """Read images of a split as validation sees them: (1, 3, H, W) uint8 each, spread over the set.

    Args:
        opened: Opens the data.
        split: "train" or "val".
        count: Images at most.
        image_size: (H, W) px.

    Raises:
        ValueError: They cannot be opened; the message says what else to set.
    """
    try:
        dataset = opened().plain_dataset(split)
    except (ValueError, OSError) as error:
        if split == "val":
            raise ValueError(f"{error}; without these images: export.evaluate=false") from error
        raise ValueError(
            f"int8 is calibrated on training images, which cannot be opened: {error}; set data.root= to where they "
            "are, export.calibration_source= to a folder of other images, or export.precision=fp32"
        ) from error
    images = (dataset[(0, place)]["image"].permute(2, 0, 1)[None] for place in _spread(len(dataset), count))
    return [_sized(image, image_size) for image in images]


def folder_images(folder: str | Path, count: int, image_size: Sequence[int]) -> list[Tensor]:
    """Read images of a folder and those below it: (1, 3, H, W) uint8 each, spread over their sorted names.

    Raises:
        ValueError: There are none, or one cannot be read.
    """
    remedy = "set export.calibration_source"
    files = list_files(Path(folder).expanduser(), is_image, what="images", remedy=remedy)
    images = (read_image(files[place]) for place in _spread(len(files), count))
    return [_sized(torch.from_numpy(image).permute(2, 0, 1)[None], image_size) for image in images]


def _spread(size: int, count: int) -> list[int]:
    return torch.linspace(0, size - 1, min(count, size)).long().unique().tolist()


def _sized(images: Tensor, image_size: Sequence[int]) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(image_size):
        return images
    resized = F.interpolate(images.float(), tuple(image_size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
