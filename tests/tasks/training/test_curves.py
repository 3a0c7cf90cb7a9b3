"""Curves: what each panel shows of a metrics.csv, however little stands in it."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from matplotlib.colors import to_rgb

from tasks.files.images import read_image
from tasks.training.curves import curves_figure, draw_curves
from tests.conftest import ROOT


@pytest.fixture
def training(tmp_path):
    """Three epochs of ten steps as Lightning logs them; the fourth has begun."""
    logger = CSVLogger(tmp_path, name=None, version="run")
    for step in range(35):
        logger.log_metrics({"train/loss": 2 - step / 35, "epoch": step // 10}, step)
        logger.log_metrics({"lr-AdamW": 1e-3 * (1 - step / 35), "lr-AdamW-momentum": 0.9}, step)
        if step % 10 == 9:
            scores = {"val/mIoU": step / 35, "val/IoU/road": 0.5, "val/IoU/void": float("nan")}
            logger.log_metrics({"val/loss": 2 - step / 70, "epoch": step // 10, **scores}, step)
    logger.save()
    return tmp_path / "run" / "metrics.csv"


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_each_panel_shows_its_columns_at_their_steps(training):
    loss, validation, rate = curves_figure(training).axes
    assert set(lines(loss)) == {"train/loss", "val/loss"}
    assert set(lines(validation)) == {"val/mIoU", "val/IoU/road", "val/IoU/void"}
    assert set(lines(rate)) == {"lr-AdamW"}  # the momentum is no rate
    assert lines(loss)["val/loss"].get_xdata().tolist() == [9, 19, 29]
    np.testing.assert_allclose(lines(validation)["val/mIoU"].get_ydata(), np.array([9, 19, 29]) / 35)
    np.testing.assert_allclose(lines(loss)["train/loss"].get_ydata(), 2 - np.arange(35) / 35)
    assert validation.get_ylim()[0] == 0 and 1 <= validation.get_ylim()[1] < 1.1


def test_schedules_have_a_panel_where_something_is_scheduled(tmp_path):
    names = "lr-SGD/pg1-weight_decay,lr-SGD/pg2-weight_decay,progress/image_size,progress/strength,ema/decay"
    rows = ["0,0,0.004,0,,,", "0,1,0.003,0,160,1,0.5", "1,2,0.002,0,,,", "1,3,0.001,0,224,1,0.5"]
    (tmp_path / "metrics.csv").write_text("\n".join([f"epoch,step,{names}", *rows]) + "\n")
    *_, rate, schedules = curves_figure(tmp_path / "metrics.csv").axes
    shown = lines(schedules)
    assert set(shown) == {"weight decay 0.004 to 0.001", "image size 160 to 224 px", "EMA decay 0.5 to 0.5"}
    np.testing.assert_allclose(shown["weight decay 0.004 to 0.001"].get_ydata(), [1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(shown["image size 160 to 224 px"].get_ydata(), [160 / 224, 1])
    assert shown["image size 160 to 224 px"].get_drawstyle() == "steps-pre"
    assert schedules.get_xlabel() == "step" and not rate.get_xlabel()


def test_a_teachers_share_of_the_loss_is_shown_with_it(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss,train/distillation,train/data_wait\n0,1.5,0.5,0.1\n")
    assert set(lines(curves_figure(tmp_path / "metrics.csv").axes[0])) == {"train/loss", "train/distillation"}


def test_classes_are_fainter_than_the_mean(training):
    shown = lines(curves_figure(training).axes[1])
    assert shown["val/IoU/road"].get_alpha() < 1 and shown["val/mIoU"].get_alpha() is None
    assert shown["val/IoU/road"].get_linewidth() < shown["val/mIoU"].get_linewidth()


@pytest.mark.parametrize("count", [2, 11, 30])
def test_curves_of_classes_are_told_apart(tmp_path, count):
    names = [f"val/IoU/{k}" for k in range(count)]
    rows = [",".join(["step", "epoch", *names]), *(",".join([str(step), "0", *["0.5"] * count]) for step in (1, 2))]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    shown = [line for name, line in lines(curves_figure(tmp_path / "metrics.csv").axes[1]).items() if name in names]
    assert len(shown) == count
    colors = np.array([to_rgb(line.get_color()) for line in shown], np.float32)
    lab = cv2.cvtColor(colors[None], cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1) + np.where(np.eye(count), np.inf, 0)
    styles = np.array([line.get_linestyle() for line in shown])
    assert apart.min() > 15, "CIELAB: 2.3 is just seen side by side"
    assert apart[styles[:, None] == styles].min() > 20


def test_ticks_count_finished_epochs(training):
    axes = curves_figure(training).axes[2]
    assert axes.get_xlabel() == "finished epochs"
    ticks = {label.get_text(): tick for label, tick in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    assert ticks == {"1": 9, "2": 19, "3": 29}  # the fourth is under way


def test_one_epoch_counts_steps(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,train/loss\n0,0,1.5\n0,1,1.25\n")
    assert curves_figure(file).axes[2].get_xlabel() == "step"


@pytest.mark.parametrize(("count", "drawn"), [(30, 30), (31, 0)])
def test_many_classes_are_left_out_and_counted(tmp_path, count, drawn):
    file = tmp_path / "metrics.csv"
    names = [f"val/IoU/class{i}" for i in range(count)]
    file.write_text(f"step,val/mIoU,{','.join(names)}\n1,0.5{',0.5' * count}\n")
    axes = curves_figure(file).axes[1]
    assert len(lines(axes)) == 1 + drawn
    assert (f"{count} scores" in axes.get_title("right")) == (drawn == 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch,step,train/loss\n",
        "epoch,step,train/loss,val/mIoU,lr-SGD\n0,0,1.5,0.25,0.1\n",
        "epoch,step,train/loss,val/mIoU\n0,0,nan,nan\n0,1,inf,\n",
        "epoch,step,train/loss,val/mIoU\n0,0,1.5,\n0,1,1.2,\n1,2,0.",
        "epoch,step,train/loss,val/mIoU\n0,0,1.5,\n0,1,-",
        "epoch,train/loss\n0,1.5\n",
    ],
    ids=["empty", "header", "one row", "not finite", "half a row", "half a number", "no steps"],
)
@pytest.mark.filterwarnings("error")
def test_little_or_odd_content_still_gives_a_picture(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    draw_curves(tmp_path / "metrics.csv", tmp_path / "new" / "curves.png")
    picture = read_image(tmp_path / "new" / "curves.png")
    assert min(picture.shape[:2]) > 500 and picture.min() < 100
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["curves.png"]


def test_an_empty_panel_says_so(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.5\n")
    loss, validation, _ = curves_figure(tmp_path / "metrics.csv").axes
    assert [text.get_text() for text in validation.texts] == ["nothing logged yet"] and not loss.texts
    (tmp_path / "metrics.csv").write_text("epoch,train/loss\n0,1.5\n")
    assert curves_figure(tmp_path / "metrics.csv").axes[0].texts  # a row without a step has no place


def test_a_single_point_is_visible(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.5\n")
    assert lines(curves_figure(tmp_path / "metrics.csv").axes[0])["train/loss"].get_marker() == "o"


@pytest.mark.filterwarnings("error")
def test_long_training_curves_show_points_and_running_mean(tmp_path):
    values = np.random.default_rng(0).normal(1, 0.1, 400)
    values[7] = values[300:330] = np.nan
    rows = "".join(f"{step},{value},{value}\n" for step, value in enumerate(values))
    (tmp_path / "metrics.csv").write_text(f"step,train/loss,lr-SGD\n{rows}")
    loss, _, rate = curves_figure(tmp_path / "metrics.csv").axes
    points, mean = (line.get_ydata() for line in loss.get_lines())
    np.testing.assert_array_equal(points, values)
    assert np.isfinite(mean[:295]).all() and np.isnan(mean[310:320]).all()  # only a long gap stays one
    assert mean[8:295].std() < values[8:295].std() / 2
    np.testing.assert_allclose(mean[200], values[195:205].mean())
    np.testing.assert_array_equal(lines(rate)["lr-SGD"].get_ydata(), values)  # what was set, not a mean


@pytest.mark.parametrize(("first", "scale"), [(2.0, "linear"), (1000.0, "log")])
def test_losses_of_many_sizes_get_a_log_scale(tmp_path, first, scale):
    (tmp_path / "metrics.csv").write_text(f"step,train/loss\n0,{first}\n1,1.0\n")
    assert curves_figure(tmp_path / "metrics.csv").axes[0].get_yscale() == scale


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        draw_curves(tmp_path / "none.csv", tmp_path / "curves.png")


def test_importing_leaves_pyplot_and_its_global_state_alone():
    code = "import sys, tasks.training.curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
