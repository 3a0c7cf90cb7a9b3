"""Resizing without torch is torch's own, to the last bit where its kernel is the one that is described."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tasks.transforms.resizing import resize_antialiased, resize_classes

EXACT = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_antialiased_resizing_is_torchs(dtype):
    random = np.random.default_rng(0)
    for height, width, *size in [(480, 640, 128, 256), (97, 200, 128, 64), (33, 21, 48, 64), (300, 301, 30, 17),
                                 (64, 96, 64, 96), (500, 7, 3, 90), (1, 1, 5, 4)]:  # fmt: skip
        image = random.integers(0, np.iinfo(dtype).max + 1, (height, width, 3)).astype(dtype)
        values = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
        expected = F.interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=True)
        found, expected = resize_antialiased(image, size), expected[0].permute(1, 2, 0).numpy()
        assert found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.iinfo(dtype).max)
        assert not EXACT or np.array_equal(found, expected), (height, width, size)


def test_classes_are_resized_as_by_torch():
    for old in (1, 2, 3, 24, 63, 127):
        for new in range(1, 160):
            line = np.arange(old, dtype=np.uint8)
            expected = F.interpolate(torch.from_numpy(line)[None, None, None], (2, new), mode="nearest")[0, 0].numpy()
            found = resize_classes(line[None], (2, new))
            assert found.dtype == np.uint8 and np.array_equal(found, expected), (old, new)
