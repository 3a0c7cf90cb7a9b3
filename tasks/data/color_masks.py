"""Masks that mark classes by colours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.data.masked_images import IGNORE_INDEX, SegmentationDataset
from tasks.files.images import ColoredMaskError, decode_image, read_mask


class ColorMasks(SegmentationDataset):
    """Segmentation images whose masks are RGB pictures in the classes' colours; masks of class ids are read as such.

    Args:
        palette: One RGB colour a class, in order of the ids.
        ignored: RGB colours that do not count.
        options: As in `SegmentationDataset`.
    """

    def __init__(
        self, *args, palette: Sequence[Sequence[int]], ignored: Sequence[Sequence[int]] = (), **options
    ) -> None:
        super().__init__(*args, **options)
        colors = [*((tuple(color), label) for label, color in enumerate(palette)),
                  *((tuple(color), IGNORE_INDEX) for color in ignored)]  # fmt: skip
        codes = np.array([_code(np.array(color)) for color, _ in colors])
        order = codes.argsort()
        self.codes, self.ids = codes[order], np.array([label for _, label in colors], np.uint8)[order]

    def decode_ids(self, mask_file: Path) -> np.ndarray:
        """Read ids, of colours where the mask has such.

        Raises:
            ValueError: The mask has a colour that is no class's.
        """
        try:
            return read_mask(mask_file)
        except ColoredMaskError:
            pass
        if (self.codes[1:] == self.codes[:-1]).any():
            raise ValueError(f"{mask_file} is in colours, but data.palette= repeats a colour; each class needs its own")
        codes = _code(decode_image(mask_file.read_bytes(), mask_file).astype(np.int64))
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        unknown = self.codes[places] != codes
        if unknown.any():
            code, number = int(codes[unknown][0]), int(unknown.sum())
            color = [code >> 16, code >> 8 & 255, code & 255]
            raise ValueError(
                f"{mask_file} has {number} px in colours of no class, the first {color}; expected those of "
                "data.palette=, or of data.ignore_colors=[[r,g,b],...] (edges smoothed by an editor cannot be read)"
            )
        return self.ids[places]


def _code(color: np.ndarray) -> np.ndarray:
    """Pack RGB (..., 3) into one number."""
    return color[..., 0] << 16 | color[..., 1] << 8 | color[..., 2]
