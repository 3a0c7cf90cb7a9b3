"""Upsampling of the classes that can win gives the classes of upsampling all, and leaves most others out."""

import random

import pytest
import torch
from torch.nn import functional as F

from tasks.deploy.backend import BACKENDS, ExportOptions, Unsupported, backend
from tasks.deploy.deployable import make_deployable
from tasks.deploy.manifest import Manifest, TensorSpec
from tasks.segmentation.present_classes import can_win, upsampled_classes
from tests.tasks.deploy.test_deployable import SIZE, pictures, task_of


def resized(logits: torch.Tensor, size) -> torch.Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def test_classes_are_those_of_upsampling_all_whatever_the_logits():
    torch.manual_seed(0)
    draw, left_out, unnecessary = random.Random(0), 0, 0
    for _ in range(300):
        classes, small = draw.choice([1, 2, 5, 19, 33]), [draw.randint(2, 7) for _ in range(2)]
        logits = torch.randn(draw.choice([1, 2]), classes, *small) * 10 ** draw.uniform(-3, 3)
        kind = draw.random()
        if kind < 0.3:
            logits = logits.round()  # ties
        elif kind < 0.6:
            logits += 2 * logits.abs().max() * torch.randn(1, classes, 1, 1)  # most classes are nowhere near
        size = tuple(draw.randint(1, 40) for _ in range(2))
        expected = resized(logits, size).argmax(1)
        assert torch.equal(upsampled_classes(logits, size).long(), expected)
        kept = can_win(logits)
        left_out += int((~kept).sum())
        unnecessary += int(kept.sum()) - len(resized(logits, (64, 64)).argmax(1).unique())
    assert left_out > 500 and unnecessary < 4 * left_out


def test_a_class_that_is_the_largest_nowhere_may_win_between():
    """The means of (10, 9, 0) and (0, 9, 10) are (5, 9, 5): what PP-MobileSeg's module leaves out."""
    logits = torch.tensor([[10.0, 9, 0], [0, 9, 10]]).T.reshape(1, 3, 1, 2)
    assert logits.argmax(1).unique().tolist() == [0, 2]
    assert (
        upsampled_classes(logits, (1, 6)).tolist()
        == resized(logits, (1, 6)).argmax(1).tolist()
        == [[[0, 0, 1, 1, 2, 2]]]
    )


def test_where_a_class_is_far_below_another_at_all_corners_it_is_left_out():
    base = torch.tensor([[4.0, 0, 3], [0, 4, 3]]).T.reshape(1, 3, 1, 2)
    assert can_win(base).tolist() == [True, True, True]
    assert can_win(base - torch.tensor([0, 0, 4.0]).reshape(1, 3, 1, 1)).tolist() == [True, True, False]
    # a tie and what rounding could decide are kept, in one cell of one image
    level = torch.zeros(2, 3, 3, 3)
    level[:, 1], level[:, 2] = -1.0, -1.0
    level[1, 1, 1, 1] = 0.0
    level[0, 2, 0, 0] = -1e-7
    assert can_win(level).tolist() == [True, True, True]
    assert can_win(level[:1]).tolist() == [True, False, True]


def test_what_is_not_a_number_stays_the_largest():
    logits = torch.zeros(1, 3, 4, 4)
    logits[0, 1], logits[0, 2, 1, 1] = -9.0, float("nan")
    assert torch.equal(upsampled_classes(logits, (8, 8)).long(), resized(logits, (8, 8)).argmax(1))


@pytest.mark.long
@pytest.mark.parametrize("name", ["pt2", pytest.param("onnx", marks=pytest.mark.long)])
def test_an_artifact_gives_the_classes_of_the_whole_argmax(name, tmp_path):
    task = task_of("segmentation", "lite_fpn")
    models = {output: make_deployable(task, output=output) for output in ("argmax", "present")}
    images = pictures(3, seed=3)
    backend(name).export(models["present"], images[:1], tmp_path, ExportOptions(dynamic_batch=True))
    pixels = TensorSpec("images", (-1, 3, *SIZE), "uint8"), (TensorSpec("classes", (-1, *SIZE), "uint8"),)
    runtime = backend(name).load(
        tmp_path, Manifest(name, backend(name).file, "segmentation", "present", "fp32", *pixels, {}, {})
    )
    for batch in (images, images[:1], torch.zeros_like(images)):
        found = runtime(batch)["classes"]
        assert found.dtype == torch.uint8
        with torch.inference_mode():
            assert torch.equal(found, models["argmax"](batch)[0])


OTHERS = sorted({*BACKENDS} - {"pt2", "onnx", "executorch"})  # whose imports take long


@pytest.mark.parametrize("name", ["executorch", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_formats_of_fixed_sizes_refuse_it(name):
    model = make_deployable(task_of("segmentation", "raspp"), output="present")
    with pytest.raises(Unsupported, match=f"output=present has sizes .*, which {name} does not hold; .*tail=argmax"):
        backend(name).check(model)
    backend(name).check(make_deployable(task_of("segmentation", "raspp"), output="argmax"))
