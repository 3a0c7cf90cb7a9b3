"""Segmentation metric: torch.argmax, bincount and torchmetrics as oracles, exact counts, one matrix over the set."""

import json
import math
import runpy
import subprocess
import sys
import warnings

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

import tasks.segmentation.confusion_matrix
from tasks.segmentation.confusion_matrix import ConfusionMatrix, predicted_classes
from tests.conftest import ROOT

BENCHMARK = ROOT / "tests" / "benchmarks" / "segmentation_metric.py"
SHAPES = [(2, 2, 33, 47), (1, 11, 65, 97), (2, 19, 31, 129), (1, 200, 17, 23), (1, 255, 5, 7), (3, 1, 4, 5)]
SHAPES += [(2, 19, 1, 1), (1, 5, 9, 1), (1, 5, 1, 9)]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def tied_logits(*shape: int) -> torch.Tensor:
    """Few distinct values, so that most pixels have ties at the top; small whole numbers are exact in every dtype."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(0)).float()


def pair(num_classes: int, *shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions (uint8) and targets (int64) over all classes, half of them agreeing, a tenth ignored."""
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(num_classes, shape, generator=generator)
    target = torch.randint(num_classes, shape, generator=generator)
    target = target.where(torch.rand(shape, generator=generator) < 0.5, predicted)
    target[torch.rand(shape, generator=generator) < 0.1] = 255
    return predicted.to(torch.uint8), target


def counted(num_classes: int, *pairs: tuple[torch.Tensor, torch.Tensor]) -> ConfusionMatrix:
    metric = ConfusionMatrix(num_classes)
    for predicted, target in pairs:
        metric.update(predicted, target)
    return metric


@pytest.mark.parametrize("tile_logits", [1, 4 * 19 * 129, 10**9], ids=["row", "four rows", "image"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_argmax_equals_torch(shape, layout, tile_logits, monkeypatch):
    monkeypatch.setattr(tasks.segmentation.confusion_matrix, "TILE_LOGITS", tile_logits)
    for logits in (tied_logits(*shape), torch.randn(shape)):
        logits = logits.contiguous(memory_format=LAYOUTS[layout])
        before = logits.clone()
        predicted = predicted_classes(logits)
        assert predicted.dtype == torch.uint8
        assert torch.equal(predicted.long(), logits.argmax(1))
        assert torch.equal(logits, before)


def test_the_first_of_equal_logits_wins():
    logits = torch.tensor([0.0, 2.0, 2.0, 1.0]).view(1, 4, 1, 1).expand(1, 4, 2, 3)
    assert predicted_classes(logits).unique().tolist() == [1]
    assert predicted_classes(torch.full((1, 255, 2, 2), -math.inf)).unique().tolist() == [0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_argmax_in_every_precision(dtype, layout):
    for logits in (tied_logits(2, 19, 13, 17), torch.randn(2, 19, 13, 17)):
        logits = logits.to(dtype).contiguous(memory_format=LAYOUTS[layout])
        assert torch.equal(predicted_classes(logits).long(), logits.argmax(1))
    close = torch.tensor([1.0, 1.0 + torch.finfo(dtype).eps, 1.0], dtype=dtype).view(1, 3, 1, 1)
    assert predicted_classes(close).item() == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_counts_as_the_highest_as_in_torch(dtype, layout):
    logits = torch.randn(2, 7, 13, 17)
    logits[torch.rand(logits.shape) < 0.1] = math.nan
    logits[torch.rand(logits.shape) < 0.1] = math.inf
    logits[:, :, 3] = -math.inf
    logits[0, :, 4] = math.nan
    logits = logits.to(dtype).contiguous(memory_format=LAYOUTS[layout])
    assert torch.equal(predicted_classes(logits).long(), logits.argmax(1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_argmax_of_views_and_with_gradient(layout):
    logits = tied_logits(2, 19, 40, 50).contiguous(memory_format=LAYOUTS[layout])
    views = [logits[..., 3:31, 5:44], logits[:, ::2], logits[1:, :, ::3, ::2], logits.transpose(2, 3), logits.flip(1)]
    views += [logits[:, :, :1].expand(2, 19, 8, 50), logits.permute(0, 2, 1, 3), logits.clone().requires_grad_()]
    for view in views:
        assert torch.equal(predicted_classes(view).long(), view.argmax(1))
    with torch.inference_mode():
        assert torch.equal(predicted_classes(logits * 2).long(), logits.argmax(1))


def test_argmax_and_counts_with_two_threads():
    logits, (_, target) = torch.randn(1, 19, 65, 97), pair(19, 1, 65, 97)
    alone = counted(19, (predicted_classes(logits), target)).matrix
    torch.set_num_threads(2)
    try:
        assert torch.equal(counted(19, (predicted_classes(logits), target)).matrix, alone)
    finally:
        torch.set_num_threads(1)


def test_argmax_elsewhere_stays_on_the_device():
    predicted = predicted_classes(torch.empty(2, 19, 8, 9, device="meta"))
    assert predicted.device.type == "meta" and predicted.shape == (2, 8, 9) and predicted.dtype == torch.uint8


@pytest.mark.parametrize("shape", [(0, 19, 4, 5), (2, 19, 0, 5), (2, 19, 4, 0)])
def test_argmax_of_nothing(shape):
    assert predicted_classes(torch.empty(shape)).shape == (shape[0], *shape[2:])


def test_argmax_refuses_what_is_no_map_of_logits():
    with pytest.raises(TypeError, match=r"floating.*int64"):
        predicted_classes(torch.zeros(1, 3, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="256"):
        predicted_classes(torch.zeros(1, 256, 2, 2))
    with pytest.raises(ValueError, match=r"\(3, 2, 2\)"):
        predicted_classes(torch.zeros(3, 2, 2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
@pytest.mark.parametrize("num_classes", [2, 11, 19, 200])
def test_scores_equal_torchmetrics_over_several_images(num_classes, dtype):
    matrix = MulticlassConfusionMatrix(num_classes, ignore_index=255)
    iou = MulticlassJaccardIndex(num_classes, average="none", ignore_index=255)
    miou = MulticlassJaccardIndex(num_classes, average="macro", ignore_index=255)
    accuracy = MulticlassAccuracy(num_classes, average="micro", ignore_index=255)
    mean_accuracy = MulticlassAccuracy(num_classes, average="macro", ignore_index=255)
    weighted_iou = MulticlassJaccardIndex(num_classes, average="weighted", ignore_index=255)
    ours = ConfusionMatrix(num_classes)
    for seed, shape in enumerate([(2, 65, 97), (1, 33, 129), (3, 64, 64)]):
        predicted, target = pair(num_classes, *shape, seed=seed)
        ours.update(predicted, target.to(dtype))
        for theirs in (matrix, iou, miou, accuracy, mean_accuracy, weighted_iou):
            theirs.update(predicted.long(), target)
    scores = ours.scores()
    assert ours.matrix.dtype == torch.int64 and torch.equal(ours.matrix, matrix.compute())
    assert scores.iou.dtype == torch.float64
    torch.testing.assert_close(scores.iou.float(), iou.compute())
    assert scores.miou == pytest.approx(miou.compute().item(), rel=1e-6)
    assert scores.pixel_accuracy == pytest.approx(accuracy.compute().item(), rel=1e-6)
    assert scores.mean_accuracy == pytest.approx(mean_accuracy.compute().item(), rel=1e-6)
    assert scores.frequency_weighted_iou == pytest.approx(weighted_iou.compute().item(), rel=1e-6)
    assert torch.equal(scores.pixels, matrix.compute().sum(1))


def test_absent_classes_are_no_part_of_the_mean_as_in_torchmetrics():
    predicted = torch.tensor([[[0, 0, 1, 3]]], dtype=torch.uint8)
    target = torch.tensor([[[0, 1, 1, 255]]])  # 2 is nowhere, 3 only where nothing counts
    scores = counted(4, (predicted, target)).scores()
    assert scores.iou[:2].tolist() == [0.5, 0.5] and scores.iou[2:].isnan().all()
    assert scores.miou == 0.5 and scores.pixel_accuracy == pytest.approx(2 / 3)
    assert scores.mean_accuracy == 0.75 and scores.frequency_weighted_iou == pytest.approx(0.5)
    assert scores.pixels.tolist() == [1, 2, 0, 0]
    theirs = MulticlassJaccardIndex(4, ignore_index=255)
    assert scores.miou == pytest.approx(theirs(predicted.long(), target).item())
    # A class that is only predicted has IoU 0, which counts; it has no accuracy.
    scores = counted(3, (torch.tensor([[[0, 2]]], dtype=torch.uint8), torch.tensor([[[0, 0]]]))).scores()
    assert scores.iou[[0, 2]].tolist() == [0.5, 0.0] and scores.miou == 0.25 and scores.mean_accuracy == 0.5


def test_the_score_is_the_sets_and_no_mean_over_images():
    first = (torch.tensor([[[0, 0, 0, 0]]], dtype=torch.uint8), torch.tensor([[[0, 0, 0, 0]]]))
    second = (torch.tensor([[[0, 1]]], dtype=torch.uint8), torch.tensor([[[1, 1]]]))
    of_images = [counted(2, images).scores().miou for images in (first, second)]
    assert of_images == [1.0, 0.25]
    assert counted(2, first, second).scores().miou == pytest.approx((4 / 5 + 1 / 2) / 2)
    joined = counted(2, tuple(torch.cat(tensors, 2) for tensors in zip(first, second, strict=True)))
    assert joined.scores().miou == counted(2, first, second).scores().miou


def test_merging_equals_counting_everything_in_one():
    pairs = [pair(11, 2, 9, 13, seed=seed) for seed in range(3)]
    whole, merged = counted(11, *pairs), counted(11, pairs[0])
    assert merged.merge(counted(11, pairs[1])) is merged
    merged += counted(11, pairs[2])
    assert isinstance(merged, ConfusionMatrix) and torch.equal(merged.matrix, whole.matrix)
    merged.reset()
    assert merged.matrix.sum() == 0
    for other in (ConfusionMatrix(12), ConfusionMatrix(11, ignore_index=200)):
        with pytest.raises(ValueError, match="cannot merge"):
            merged.merge(other)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("num_classes", [1, 2, 16, 127, 128, 129, 200, 255])
def test_index_arithmetic_does_not_overflow(num_classes, dtype):
    every = torch.arange(num_classes)
    target, predicted = (grid.contiguous()[None] for grid in torch.meshgrid(every, every, indexing="ij"))
    target = torch.cat([target, torch.full_like(target[:, :1], 255)], 1).to(dtype)
    predicted = torch.cat([predicted, predicted[:, -1:]], 1).to(torch.uint8)
    before = target.clone()
    metric = counted(num_classes, (predicted, target))
    assert torch.equal(metric.matrix, torch.ones(num_classes, num_classes, dtype=torch.int64))
    assert torch.equal(target, before)
    top = torch.full((1, 3, 3), num_classes - 1)
    metric.update(top.to(torch.uint8), top.to(dtype))
    assert metric.matrix[-1, -1] == 10


def test_counts_beyond_what_floats_hold():
    pixels = torch.ones(1, 1, 1, dtype=torch.uint8).expand(1, 4097, 4099)  # odd and above 2**24
    assert counted(2, (pixels, pixels)).matrix[1, 1] == 4097 * 4099
    metric = counted(2, (pixels[:, :1, :1], pixels[:, :1, :1]))
    metric.matrix[1, 1] += 2**53
    metric += counted(2, (pixels[:, :1, :1], pixels[:, :1, :1]))
    assert metric.matrix[1, 1].item() == 2**53 + 2


def test_views_count_like_copies():
    predicted, target = pair(19, 2, 40, 50)
    for view in (lambda x: x[:, 3:31, 5:44], lambda x: x.transpose(1, 2), lambda x: x[1:, ::3, ::2]):
        expected = counted(19, (view(predicted).contiguous(), view(target).contiguous()))
        assert torch.equal(counted(19, (view(predicted), view(target))).matrix, expected.matrix)
        assert torch.equal(counted(19, (view(predicted).contiguous(), view(target))).matrix, expected.matrix)


@pytest.mark.parametrize("dtype, bad", [(torch.uint8, 19), (torch.uint8, 254), (torch.int16, -1), (torch.int64, 19)])
@pytest.mark.parametrize("ignore_index", [255, 100])
def test_a_bad_target_is_named_and_nothing_counted(dtype, bad, ignore_index):
    metric = ConfusionMatrix(19, ignore_index=ignore_index)
    target = torch.zeros(1, 4, 5, dtype=dtype)
    target[0, 2, 3] = bad
    with pytest.raises(ValueError, match=f"target {bad} is neither.*19 classes.*{ignore_index}"):
        metric.update(torch.zeros(1, 4, 5, dtype=torch.uint8), target)
    assert metric.matrix.sum() == 0


@pytest.mark.parametrize("bad", [-1, -100, 256, 256 + 255, 2**32, -(2**63)])
def test_wide_targets_do_not_wrap_into_valid_ones(bad):
    target = torch.zeros(1, 4, 5, dtype=torch.int64)
    target[0, 2, 3] = bad
    with pytest.raises(ValueError, match=f"target {bad} is neither"):
        counted(19, (torch.zeros(1, 4, 5, dtype=torch.uint8), target))


def test_ignore_index_decides_what_255_means():
    predicted = torch.zeros(1, 1, 2, dtype=torch.uint8)
    metric = ConfusionMatrix(19, ignore_index=100)
    metric.update(predicted, torch.tensor([[[0, 100]]]))
    assert metric.matrix.sum() == metric.matrix[0, 0] == 1
    with pytest.raises(ValueError, match="target 255"):
        metric.update(predicted, torch.tensor([[[0, 255]]]))


def test_update_refuses_what_would_count_wrongly():
    metric, image = ConfusionMatrix(19), torch.zeros(1, 4, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match="prediction 19"):
        metric.update(image + 19, image)
    with pytest.raises(ValueError, match="differ in shape"):
        metric.update(image, image[:, :1])
    for predicted, target in ((image.long(), image), (image, image.float()), (image, image.bool())):
        with pytest.raises(TypeError, match="uint8 predictions and integer targets"):
            metric.update(predicted, target)
    for num_classes, ignore_index in ((0, 255), (256, 255), (19, 18), (19, -100), (19, 256)):
        with pytest.raises(ValueError, match=r"must be \d+ to 255"):
            ConfusionMatrix(num_classes, ignore_index)


@pytest.mark.parametrize("pixels", [0, 20])
def test_nothing_to_judge_is_nan_without_warnings(pixels):
    metric = ConfusionMatrix(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update(torch.ones(1, 1, pixels, dtype=torch.uint8), torch.full((1, 1, pixels), 255))
        scores = metric.scores()
    assert metric.matrix.sum() == 0 and scores.pixels.tolist() == [0, 0, 0] and scores.iou.isnan().all()
    for score in (scores.miou, scores.pixel_accuracy, scores.mean_accuracy, scores.frequency_weighted_iou):
        assert math.isnan(score)


@pytest.mark.gpu
def test_cuda_equals_cpu_also_when_deterministic():
    logits, (_, target) = torch.randn(2, 19, 65, 97), pair(19, 2, 65, 97)
    expected = counted(19, (predicted_classes(logits), target)).matrix
    torch.use_deterministic_algorithms(True)
    try:
        for memory_format in LAYOUTS.values():
            predicted = predicted_classes(logits.cuda().contiguous(memory_format=memory_format))
            assert predicted.is_cuda and torch.equal(counted(19, (predicted, target.cuda())).matrix, expected)
    finally:
        torch.use_deterministic_algorithms(False)


def run_benchmark(*arguments) -> int:
    size = ["--height", "65", "--width", "97", "--runs", "2"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [str(BENCHMARK), *size, *arguments])
        patch.setattr(sys, "path", [str(BENCHMARK.parent), *sys.path])
        runpy.run_path(str(BENCHMARK), run_name="__main__")
    return ended.value.code


def test_benchmark_reports_both_layouts(tmp_path, capsys):
    assert run_benchmark("--json", str(tmp_path / "out.json")) == 0
    assert capsys.readouterr().out.count(" equal") == 2
    assert set(json.loads((tmp_path / "out.json").read_text())["ms"]) == set(LAYOUTS)


def test_benchmark_fails_when_the_matrices_differ(monkeypatch, capsys):
    monkeypatch.setattr(ConfusionMatrix, "update", lambda *_: None)
    assert run_benchmark() == 1
    assert capsys.readouterr().out.count("NOT EQUAL") == 2


@pytest.mark.slow
def test_benchmark_starts_as_a_script_from_any_directory(tmp_path):
    done = subprocess.run([sys.executable, BENCHMARK, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--runs" in done.stdout, done.stderr
