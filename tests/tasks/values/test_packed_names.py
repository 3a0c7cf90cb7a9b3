"""Names in one buffer."""

import os
import pickle

import numpy as np
import pytest

from tasks.values.packed_names import PackedNames

NAMES = ["hund/größe 1.jpg", "", "日本.png", os.fsdecode(b"\xff.jpg"), "z"]


def test_names_of_any_kind_come_back_in_one_buffer():
    packed = PackedNames.pack(iter(NAMES))
    assert list(packed) == NAMES and len(packed) == 5 and [packed[k] for k in range(-5, 5)] == NAMES * 2
    assert type(packed.text) is bytes and packed.ends.dtype == np.int64
    assert packed.text == b"".join(map(os.fsencode, NAMES)), "as shards written by earlier versions store them"
    assert list(pickle.loads(pickle.dumps(packed))) == NAMES
    assert len(PackedNames.pack([])) == 0
    for outside in (5, -6):
        with pytest.raises(IndexError):
            packed[outside]
