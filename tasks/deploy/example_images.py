"""Images that an export needs: those of a data set, or of any folder, at the input's size."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.data.datamodule import VisionDataModule
from tasks.files.file_lists import list_files
from tasks.files.images import is_image
from tasks.files.pixels import read_pixels
from tasks.transforms.resizing import resize_antialiased
from tasks.values.pixel_format import RGB, PixelFormat

Resize = Callable[[np.ndarray], np.ndarray]  # a picture (h, w, C) -> the input made of it, (H, W, C) of any type


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
    images = (dataset[(0, place)]["image"].numpy() for place in _spread(len(dataset), count))
    size = tuple(image_size)

    def resize(image: np.ndarray) -> np.ndarray:  # of a data set whose images keep their own size
        return image if image.shape[:2] == size else resize_antialiased(image, size)

    return [_input(image, resize) for image in images]


def folder_images(folder: str | Path, count: int, resize: Resize, format: PixelFormat = RGB) -> list[Tensor]:
    """Read images of a folder and those below it, spread over their sorted names, and resize them; as in `data_images`.

    Raises:
        ValueError: There are none, or one cannot be read.
    """
    remedy = "set export.calibration_source"
    files = list_files(Path(folder).expanduser(), is_image, what="images", remedy=remedy)
    return [_input(read_pixels(files[place], format), resize) for place in _spread(len(files), count)]


def _spread(size: int, count: int) -> list[int]:
    return torch.linspace(0, size - 1, min(count, size)).long().unique().tolist()


def _input(image: np.ndarray, resize: Resize) -> Tensor:
    """Make a batch of one of a picture (h, w, C), in whole numbers."""
    values = torch.from_numpy(resize(image).transpose(2, 0, 1)[None].astype(np.float32)).round()
    return values if image.dtype == np.uint16 else values.clamp(0, 255).to(torch.uint8)
