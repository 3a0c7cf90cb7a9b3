"""What callbacks measure: the average's distance and decay, the share of waiting, the progress of the data."""

import time
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.data.segmentation import SegmentationData
from tasks.training import callbacks
from tasks.training.callbacks import Curves, DataMonitor, PredictionSheet, TerminalBar, WeightDecay
from tasks.training.fit import fit
from tasks.training.interruption import Stopped
from tasks.training.weight_averaging import EMA
from tests.tasks.training.test_recipes import column


@pytest.mark.long
def test_the_average_is_logged_once_an_epoch(small_run, tmp_path):
    fit(small_run("ema_decay=0.9", "trainer.max_epochs=3"))
    run = tmp_path / "run"
    assert column(run, "ema/decay") == pytest.approx([(1 + n) / (10 + n) for n in (2, 5, 8)])
    content = read_checkpoint(run / "last.ckpt")
    names = [name for name, _ in load_task(run / "last.ckpt").named_parameters()]
    averaged, current = (
        torch.cat([content[part][name].flatten().double() for name in names])
        for part in ("state_dict", "current_model_state")
    )
    expected = (averaged - current).norm() / current.norm()
    distances = column(run, "ema/distance")
    assert len(distances) == 3 and distances[-1] == pytest.approx(expected.item(), rel=1e-4)


def test_the_decay_reaches_its_value():
    assert [EMA(0.99)._decay_at(n) for n in (0, 10_000)] == [0.1, 0.99]


class Small(L.LightningModule):
    """A convolution and its norm, trained on noise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.validated: list[dict] = []

    def training_step(self, batch, index):
        return (self.net(batch) - 1).square().mean()

    def validation_step(self, batch, index) -> None:
        self.validated.append(copied(self.net))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def train_dataloader(self):
        torch.manual_seed(1)
        return DataLoader([3 * torch.randn(4, 3, 8, 8) + step for step in range(6)], None)

    def val_dataloader(self):
        return DataLoader([torch.zeros(1, 3, 8, 8)], None)


class TorchsAverage(L.Callback):
    """torch's own average, after each step."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def on_train_start(self, trainer, task) -> None:
        rule = get_ema_multi_avg_fn(self.decay)
        self.average = AveragedModel(task.net, multi_avg_fn=rule, use_buffers=True)

    def on_train_batch_end(self, trainer, task, *_) -> None:
        self.average.update_parameters(task.net)


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_weights_and_buffers_are_averaged_as_torch_does():
    """The statistics that BatchNorm keeps belong to the averaged weights; the number of batches is a count.

    A decay of 0.1 is below the warm-up's first, 2/11, so it holds throughout."""
    ema, oracle, task = EMA(0.1), TorchsAverage(0.1), Small()
    L.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[ema, oracle], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    ).fit(task)  # fmt: skip
    expected = copied(oracle.average.module) | {"1.num_batches_tracked": torch.tensor(6)}
    (validated,) = task.validated
    torch.testing.assert_close(validated, expected)
    torch.testing.assert_close(copied(ema._average_model.module.net), expected)


def test_an_average_lies_on_the_tasks_device_and_no_value_is_read_from_there():
    """Tensors of the device "meta" have no values: reading one raises."""
    ema, task = EMA(0.9), Small()
    ema.setup(None, task, "fit")
    task.to("meta")
    ema.on_train_start(None, task)
    for _ in range(2):
        ema._average_model.update_parameters(task)
    assert {tensor.device.type for tensor in ema._average_model.module.state_dict().values()} == {"meta"}
    assert ema._average_model.n_averaged.device.type == "cpu" and ema._average_model.n_averaged == 2


def test_weight_decay_follows_torchs_cosine_by_the_number_of_the_step():
    """In the first group alone, and at a step of any number: within an epoch, after a resume, behind the end."""
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0}], 0.1,
                                weight_decay=1e-4)  # fmt: skip
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-4)
    schedule, expected = CosineAnnealingLR(reference, 8, eta_min=1e-5), []
    for _ in range(9):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        schedule.step()
    trainer = SimpleNamespace(optimizers=[optimizer], estimated_stepping_batches=8, global_step=0)
    callback, seen = WeightDecay(1e-5), []
    callback.on_train_start(trainer, None)
    for trainer.global_step in (*range(9), 100):
        callback.on_train_batch_start(trainer, None, {}, trainer.global_step % 3)
        seen.append(optimizer.param_groups[0]["weight_decay"])
        assert optimizer.param_groups[1]["weight_decay"] == 0
    assert seen == pytest.approx([*expected, 1e-5])


class Logged(DataMonitor):
    def __init__(self) -> None:
        self.values = {}

    def log(self, name, value) -> None:
        self.values[name] = value


def test_waiting_is_measured_between_batches_without_validation(monkeypatch):
    now = iter([0.0, 3.0, 4.0, 5.0, 105.0, 107.0, 108.0])  # begin, batch: 3 s late, 1 s; validated in 101 s; 2 s late
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    monitor, data = Logged(), SimpleNamespace(progress=lambda epoch: {"image_size": 160 + epoch})
    trainer = SimpleNamespace(datamodule=data, current_epoch=7)
    monitor.on_train_epoch_start(trainer, None)
    monitor.on_train_batch_start(trainer, None, {}, 0)
    monitor.on_train_batch_end(trainer, None, None, {}, 0)
    next(now)
    monitor.on_validation_end(trainer, None)
    monitor.on_train_batch_start(trainer, None, {}, 1)
    monitor.on_train_batch_end(trainer, None, None, {}, 1)
    monitor.on_train_epoch_end(trainer, None)
    assert monitor.values == {"train/data_wait": pytest.approx(5 / 7), "progress/image_size": 167.0}


@pytest.mark.parametrize(("seconds", "told"), [(4.0, True), (2.0, False)])
def test_a_training_that_waited_for_data_says_what_for(seconds, told, caplog):
    monitor = DataMonitor()
    monitor.waited, monitor.spent = seconds, 10.0
    monitor.on_train_end(SimpleNamespace(is_global_zero=True, train_dataloader=SimpleNamespace(num_workers=2)), None)
    assert told == ("the last epoch waited for data for 40% of its time: 2 loader processes on " in caplog.text)
    assert told == bool(caplog.text)


def test_curves_are_drawn_every_ten_seconds_and_at_the_end(tmp_path, monkeypatch):
    now, drawn = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(callbacks, "draw_curves", lambda csv, path: drawn.append((now[0], csv.name, path.name)))
    (tmp_path / "metrics.csv").touch()
    curves = Curves(SimpleNamespace(path=tmp_path / "metrics.csv"), tmp_path / "curves.png")
    for index, writes in enumerate((True, False)):  # of two processes one draws
        trainer = SimpleNamespace(is_global_zero=writes)
        curves.on_train_start(trainer, None)
        for seconds in (109, 111, 112, 120, 122):
            now[0] = seconds + 100.0 * index
            curves.on_train_epoch_end(trainer, None)
        now[0] += 1
        curves.on_train_end(trainer, None)
        curves.on_exception(trainer, None, Stopped())
        curves.on_exception(trainer, None, OSError("no space"))
    assert drawn == [(seconds, "metrics.csv", "curves.png") for seconds in (111, 122, 123, 123)]


@pytest.mark.parametrize(("sizes", "shown"), [
    ([16, 16, 4], [(0, 4), (0, 12), (1, 4), (1, 12), (2, 1), (2, 3)]),
    ([1] * 12, [(1, 0), (3, 0), (5, 0), (7, 0), (9, 0), (11, 0)]),
    ([40], [(0, 3), (0, 10), (0, 16), (0, 23), (0, 30), (0, 36)]), ([2], [(0, 0), (0, 1)]), ([1, 1], [(0, 0), (1, 0)]),
])  # fmt: skip
def test_a_sheet_shows_images_from_all_over_the_set(tmp_path, sizes, shown):
    class Task:
        def picture_samples(self, batch, outputs, places):
            return [(batch["number"], place) for place in places]

    sheet = PredictionSheet(tmp_path / "sheet.png")
    trainer = SimpleNamespace(is_global_zero=True, num_val_batches=[len(sizes)])
    for number, size in enumerate(sizes):
        batch = {"images": torch.zeros(size, 1), "number": number}
        sheet.on_validation_batch_end(trainer, Task(), {}, batch, number)
    assert sheet.samples == shown


@pytest.mark.parametrize(("epochs", "text"), [(3, "Epoch 3/3"), (-1, "Epoch 3"), (None, "Epoch 3")])
def test_a_terminals_bar_counts_epochs_from_1_and_shows_no_version(epochs, text):
    bar = TerminalBar()
    version = SimpleNamespace(version="tensorboard")
    bar._trainer = SimpleNamespace(
        max_epochs=epochs, loggers=[version], progress_bar_metrics={"val/mIoU": 0.5}, training=False
    )
    assert bar._get_train_description(2).strip() == text
    assert bar.get_metrics(bar._trainer, None) == {"val/mIoU": 0.5}


def test_a_bar_reads_metrics_of_a_gpu_at_logged_steps_alone():
    bar = TerminalBar()
    for device, shown in (("cuda", [0, 0, 0, 3, 3]), ("cpu", [0, 1, 2, 3, 4])):
        task = SimpleNamespace(device=torch.device(device))
        for step, expected in enumerate(shown):
            metrics = {"train/loss": step}
            bar._trainer = SimpleNamespace(
                loggers=[], progress_bar_metrics=metrics, training=True, global_step=step, log_every_n_steps=3
            )
            assert bar.get_metrics(bar._trainer, task) == {"train/loss": expected}


def test_a_slow_loader_shows(small_run, tmp_path, monkeypatch):
    quick = fit(small_run("trainer.max_epochs=1", f"output_dir={tmp_path / 'quick'}"))
    collate = SegmentationData.collate

    def slow(self, samples):
        time.sleep(0.3)
        return collate(self, samples)

    monkeypatch.setattr(SegmentationData, "collate", slow)
    result = fit(small_run("trainer.max_epochs=1"))
    assert result["train/data_wait"] > max(0.3, quick["train/data_wait"])
    assert column(tmp_path / "run", "train/data_wait") == [pytest.approx(result["train/data_wait"], abs=1e-4)]


@pytest.mark.parametrize(("batches", "shown"), [(12, [2, 6, 10]), (3, [0, 1, 2]), (2, [0, 1]), (7, [1, 3, 5])])
def test_a_sheet_takes_batches_from_the_whole_set(tmp_path, batches, shown):
    drawn = []
    task = SimpleNamespace(
        picture_samples=lambda batch, outputs, places: [batch["images"][place] for place in places],
        draw_sheet=lambda samples: drawn.append(list(samples)) or np.zeros((4, 4, 3), np.uint8),
    )
    trainer = SimpleNamespace(num_val_batches=[batches], is_global_zero=True, sanity_checking=False)
    sheet = PredictionSheet(tmp_path / "predictions.png", count=3)
    for _ in range(2):  # a second validation begins anew
        sheet.on_validation_epoch_start(trainer, task)
        for index in range(batches):
            sheet.on_validation_batch_end(trainer, task, None, {"images": [index]}, index)
        sheet.on_validation_epoch_end(trainer, task)
    assert drawn == [shown] * 2 and (tmp_path / "predictions.png").is_file()
