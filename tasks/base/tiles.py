"""Cut images that are much larger than the network's input into tiles that overlap."""

from collections.abc import Sequence
from math import ceil

from tasks.values.sizes import Size, parse_size

Box = tuple[int, int, int, int]  # top, left, bottom, right, px


class Tiling:
    """How images are cut.

    Args:
        tile: (H, W) px of a tile, or the side of a square; None: images stay whole.
        overlap: Least share of a tile that its neighbour covers too, from 0 to below 1.

    Raises:
        ValueError: `tile` is no size, or `overlap` is out of range.
    """

    def __init__(self, tile: int | Sequence[int] | None, overlap: float) -> None:
        if not 0 <= overlap < 1:
            raise ValueError(f"task.tile_overlap={overlap}: expected a share of the tile, from 0 to below 1")
        self.tile: Size | None = None if tile is None else parse_size(tile, "task.tile")
        self.overlap = overlap

    def boxes(self, image_size: tuple[int, int]) -> list[Box]:
        """List the tiles of an image, row by row; they cover it, evenly spread, and none reaches beyond it.

        >>> Tiling((4, 6), 0.5).boxes((4, 12))
        [(0, 0, 4, 6), (0, 3, 4, 9), (0, 6, 4, 12)]
        >>> Tiling(None, 0.5).boxes((4, 12))
        [(0, 0, 4, 12)]
        """
        height, width = self.tile or image_size
        rows, columns = _places(image_size[0], height, self.overlap), _places(image_size[1], width, self.overlap)
        return [(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def _places(length: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """Begin and end of the tiles along one side."""
    tile = min(tile, length)
    step = max(1.0, tile * (1 - overlap))
    count = 1 + ceil((length - tile) / step)
    starts = [round(number * (length - tile) / max(1, count - 1)) for number in range(count)]
    return [(start, start + tile) for start in starts]
