"""Images that an export needs: those of a data set, or of any folder, at the input's size."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.data.datamodule import VisionDataModule
from tasks.files.file_lists import list_files
from tasks.files.images import is_image
from tasks.files.pixels import read_pixels
from tasks.values.pixel_format import RGB, PixelFormat


def data_images(
    opened: Callable[[], VisionDataModule], split: str, count: int, image_size: Sequence[int]
) -> list[Tensor]:
    """Read images of a split as validation sees them, spread over the set.

    Args:
        opened: Opens the data.
        split: "train" or "val".
        count: Images at most.
        image_size: (H, W) px.

    Returns:
        (1, C, H, W) each: uint8, or of 16 bits float32.

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
    images = (dataset[(0, place)]["image"] for place in _spread(len(dataset), count))
    return [_sized(image, image_size) for image in images]


def folder_images(folder: str | Path, count: int, image_size: Sequence[int], format: PixelFormat = RGB) -> list[Tensor]:
    """Read images of a folder and those below it, spread over their sorted names; as in `data_images`.

    Raises:
        ValueError: There are none, or one cannot be read.
    """
    remedy = "set export.calibration_source"
    files = list_files(Path(folder).expanduser(), is_image, what="images", remedy=remedy)
    images = (read_pixels(files[place], format) for place in _spread(len(files), count))
    return [_sized(torch.from_numpy(image), image_size) for image in images]


def _spread(size: int, count: int) -> list[int]:
    return torch.linspace(0, size - 1, min(count, size)).long().unique().tolist()


def _sized(image: Tensor, image_size: Sequence[int]) -> Tensor:
    """Turn an image (H, W, C) into a batch of one at a size."""
    images = image.permute(2, 0, 1)[None]
    deep = images.dtype == torch.uint16
    images = images.float() if deep else images
    if tuple(images.shape[-2:]) == tuple(image_size):
        return images
    resized = F.interpolate(images.float(), tuple(image_size), mode="bilinear", antialias=True).round()
    return resized if deep else resized.clamp(0, 255).to(torch.uint8)
