"""Tiles cover an image, overlap as asked, and stay inside."""

from itertools import pairwise

import numpy as np
import pytest

from tasks.base.tiles import Tiling


@pytest.mark.parametrize("size", [(64, 64), (65, 100), (300, 200), (64, 1000)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_tiles_cover_an_image_and_overlap(size, overlap):
    tiles = np.array(Tiling((64, 96), overlap).boxes(size))
    height, width = min(64, size[0]), min(96, size[1])
    assert (tiles[:, 2] - tiles[:, 0] == height).all() and (tiles[:, 3] - tiles[:, 1] == width).all()
    assert tiles.min() == 0 and tiles[:, 2].max() == size[0] and tiles[:, 3].max() == size[1]
    for begin, end, least in ((0, 2, height), (1, 3, width)):
        places = sorted({(row[begin], row[end]) for row in tiles.tolist()})
        for (_, before), (start, _) in pairwise(places):
            assert before - start >= np.floor(overlap * least), "the next tile begins before this one ends"
    assert len(tiles) == len({tuple(row) for row in tiles.tolist()})


@pytest.mark.parametrize(("tile", "overlap", "key"), [("big", 0.2, "task.tile=big"), (64, 1.0, "task.tile_overlap=1.0"),
                                                      (64, -0.1, "tile_overlap=-0.1")])  # fmt: skip
def test_settings_are_checked(tile, overlap, key):
    with pytest.raises(ValueError, match=key):
        Tiling(tile, overlap)
