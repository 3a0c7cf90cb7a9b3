"""Any number of images of any type, through artifacts of one batch and type."""

import pytest
import torch

from tasks.deploy.backend import Runtime
from tasks.deploy.manifest import Manifest, TensorSpec


class Red(Runtime):
    """Gives the red of each picture, and keeps what it was called with."""

    def __init__(self, batch: int, dtype: str):
        spec = TensorSpec("images", (batch, 3, 2, 2), dtype)
        outputs = (TensorSpec("red", (batch,), "float32"),)
        super().__init__(None, Manifest("any", "m", "any", "raw", "fp32", spec, outputs, {}, {}))
        self.calls = []

    def run(self, images):
        self.calls.append(images)
        return [images[:, 0, 0, 0].float()]


@pytest.mark.parametrize(("batch", "calls"), [(1, [1] * 5), (2, [2, 2, 2]), (4, [4, 4]), (8, [8]), (-1, [5])])
def test_images_come_in_the_artifacts_batches_and_go_out_as_many_as_came(batch, calls):
    runtime, images = Red(batch, "float32"), torch.arange(5.0)[:, None, None, None].expand(5, 3, 2, 2)
    assert runtime(images)["red"].tolist() == [0, 1, 2, 3, 4]
    assert [len(call) for call in runtime.calls] == calls


def test_pixels_are_rounded_and_clipped_to_bytes():
    values = torch.tensor([-3.0, 0.4, 0.6, 254.7, 300.0])[:, None, None, None].expand(5, 3, 2, 2)
    runtime = Red(1, "uint8")
    assert runtime(values)["red"].tolist() == [0, 0, 1, 255, 255] and runtime.calls[0].dtype == torch.uint8
    assert Red(1, "float32")(values)["red"].tolist() == pytest.approx([-3.0, 0.4, 0.6, 254.7, 300.0])
    with pytest.raises(ValueError, match=r"images of 3x2x2 \(channels, H, W px\), not 3x2x4"):
        runtime(torch.zeros(1, 3, 2, 4))
