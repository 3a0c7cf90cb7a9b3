"""Faults injected into a run: what it goes on from, that nothing is repeated, skipped or lost."""

import errno
import json
import math
import os
import shutil
import signal

import lightning as L
import pytest
import torch

from tasks.base import checkpoint_files
from tasks.base.checkpoint import read_checkpoint
from tasks.data import measured_loader
from tasks.data.samplers import EpochSampler, ResumedSampler
from tasks.training import fit as fit_module
from tasks.training.checkpoint_io import CheckpointFiles
from tasks.training.fit import fit
from tests.tasks.training.test_fit import rows, same


class Fault(L.Callback):
    """Does something at the end of one step."""

    def __init__(self, step: int, act) -> None:
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer, task, outputs, batch, index) -> None:
        if trainer.global_step == self.step:
            self.act()


class Broken(Exception):
    """An error in the middle of an epoch."""


def fail() -> None:
    raise Broken


def run_with(monkeypatch, config, *callbacks):
    make = fit_module.make

    def more(node, **options):
        if "callbacks" in options:
            options["callbacks"] = [*callbacks, *options["callbacks"]]
        return make(node, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "make", more)
        return fit(config)


def assert_same_end(whole, broken) -> None:
    expected, actual = (read_checkpoint(folder / "last.ckpt") for folder in (whole, broken))
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert same(expected[part], actual[part]), part
    assert rows(whole) == rows(broken)


RECIPE = (
    "ema_decay=0.9", "final_weight_decay=0.001", "trainer.max_epochs=3", "checkpoint_every_steps=1", "resume=auto",
    "data.progressive={epochs:[0,1],image_size:[32,48]}",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("workers", ["null", pytest.param("2", marks=pytest.mark.slow)])
def test_a_run_goes_on_within_an_epoch_bit_for_bit(small_run, tmp_path, monkeypatch, workers):
    """The whole one loads in its own process; the other in two, or from each start's second batch on in another."""
    monkeypatch.setattr(measured_loader, "WORTH", 0.0)
    monkeypatch.setattr(measured_loader, "SHARE", 0.0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(small_run(*RECIPE[:-1], "data.num_workers=0", f"output_dir={whole}"))
    again = [*RECIPE[:-1], f"data.num_workers={workers}", f"output_dir={broken}"]
    with pytest.raises(Broken):
        run_with(monkeypatch, small_run(*again), Fault(5, fail))  # the second step of the second epoch
    assert read_checkpoint(broken / "last.ckpt")["global_step"] == 4
    with pytest.raises(SystemExit) as stop:
        run_with(monkeypatch, small_run(*again), Fault(7, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert stop.value.code == 143 and read_checkpoint(broken / "last.ckpt")["global_step"] == 7
    fit(small_run(*again))
    assert_same_end(whole, broken)
    assert fit(small_run(*again)) == json.loads((broken / "metrics.json").read_text())  # nothing is left to do


def test_a_full_disk_leaves_the_last_checkpoint_whole(small_run, tmp_path, monkeypatch):
    run, flush = tmp_path / "run", os.fsync
    calls = iter(range(100))

    def full(descriptor):
        if next(calls) == 2:  # a checkpoint flushes its file and its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files.os, "fsync", full)
        with pytest.raises(OSError, match=r"cannot be written \(No space left on device\); it takes .* MiB"):
            fit(small_run("checkpoint_every_steps=1", "resume=auto"))
    assert not list(run.glob(".*")) and read_checkpoint(run / "last.ckpt")["global_step"] == 1


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        content = {"weight": torch.arange(1000.0) * step}
        CheckpointFiles().save_checkpoint(content, path)
    return path


def test_what_reads_back_differently_does_not_replace_what_is_whole(written, monkeypatch):
    before = written.read_bytes()
    monkeypatch.setattr(checkpoint_files.os, "fsync", lambda descriptor: os.pwrite(descriptor, b"?", 700))
    with pytest.raises(OSError, match=r"cannot be written \(what was written reads back differently\); .* is whole"):
        CheckpointFiles().save_checkpoint({"weight": torch.zeros(1000)}, written)
    assert written.read_bytes() == before and len(list(written.parent.iterdir())) == 2


class Own:
    """What no other process could load."""


def test_what_could_not_be_loaded_again_does_not_replace_what_can(written):
    before = written.read_bytes()
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint \(.*"):
        CheckpointFiles().save_checkpoint({"weight": torch.zeros(1), "own": Own()}, written)
    assert written.read_bytes() == before and {path.name for path in written.parent.iterdir()} == {
        "last.ckpt", "previous.ckpt",
    }  # fmt: skip


def test_damage_is_noticed_and_the_one_before_is_taken(written):
    data, original = written.read_bytes(), checkpoint_files.load(written)
    assert checkpoint_files.last_good(written.parent) == (written, [])
    for place in range(0, len(data), 97):
        written.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            assert same(checkpoint_files.load(written), original)
        except ValueError as error:
            assert "last.ckpt cannot be read" in str(error) and "previous.ckpt" in str(error)
    for length in range(0, len(data), 97):
        written.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cannot be read as a checkpoint.*there is .*previous\.ckpt"):
            checkpoint_files.load(written)
    found, damaged = checkpoint_files.last_good(written.parent)
    assert found.name == "previous.ckpt" and damaged == [written]
    assert checkpoint_files.load(found)["weight"][-1] == 999


def test_a_sampler_goes_on_with_what_is_left():
    whole = EpochSampler(10, shuffle=True, seed=3)
    whole.set_epoch(2)
    rest = ResumedSampler(EpochSampler(10, shuffle=True, seed=3), 2, 4)
    rest.set_epoch(0)
    assert list(rest) == list(whole)[4:] and len(rest) == 10
    rest.set_epoch(3)
    whole.set_epoch(3)
    assert list(rest) == list(whole)


def test_a_gradient_that_is_not_finite_stops_with_the_batch_kept(small_run, tmp_path, monkeypatch):
    class Poison(L.Callback):
        def on_after_backward(self, trainer, task) -> None:
            if trainer.global_step == 1:
                next(iter(task.parameters())).grad[0] = float("inf")

    with pytest.raises(FloatingPointError, match=r"the gradient is not finite \(of network.*00\d\.png.*not_finite\.pt"):
        run_with(monkeypatch, small_run("trainer.gradient_clip_val=1.0"), Poison())
    kept = torch.load(tmp_path / "run" / "not_finite.pt", weights_only=True)
    assert kept["step"] == 1 and len(kept["names"]) == 2 and kept["batch"]["images"].shape[0] == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resume=yes"], "expected auto"),
        (["resume=auto", "output_dir=null"], "output_dir=, which has to be given"),
        (["resume=auto", "overwrite=true"], r"without overwrite=true"),
        (["checkpoint_every_steps=0"], "expected a number of steps"),
    ],
)
def test_settings_that_cannot_be(small_run, overrides, message):
    with pytest.raises(ValueError, match=message):
        fit(small_run(*overrides))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return tmp_path_factory.mktemp("stopped")


@pytest.fixture
def midway(small_run, stopped, tmp_path, monkeypatch):
    """A run that was stopped within its second epoch."""
    run = tmp_path / "run"
    if not (stopped / "run").exists():
        config = small_run("checkpoint_every_steps=1", "resume=auto")
        with pytest.raises(SystemExit):
            run_with(monkeypatch, config, Fault(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        run.rename(stopped / "run")
    shutil.copytree(stopped / "run", run)
    return run


@pytest.mark.long
def test_an_epoch_goes_on_only_as_it_began(midway, small_run):
    with pytest.raises(ValueError, match=r"data\.batch_size=3: .* 1 batches of 2 into an epoch"):
        fit(small_run("resume=auto", "data.batch_size=3"))
    content = torch.load(midway / "last.ckpt", weights_only=True)
    content["MaskFolders"]["processes"] = 2
    checkpoint_files.write_checkpoint(midway / "last.ckpt", content)
    with pytest.raises(ValueError, match="2 processes began the epoch"):
        fit(small_run("resume=auto"))


def test_another_network_does_not_go_on(midway, small_run):
    config = small_run("resume=auto", "backbone=mnv2_035")
    stored = read_checkpoint(midway / "last.ckpt")
    stored["config"]["choices"] = {"backbone": "mnv3_small"}
    checkpoint_files.write_checkpoint(midway / "last.ckpt", stored)
    config.choices = {"backbone": "mnv2_035"}
    with pytest.raises(ValueError, match=r"backbone=mnv2_035: .* was trained with backbone=mnv3_small"):
        fit(config)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[background,bar,disc]", r"with 'disc' as class 1, in the data that is 'bar'"),
        ("[background,disc,ring]", r"with 'bar' as class 2, in the data that is 'ring'"),
        ("[background,disc,bar,ring]", r"with 3 classes, the data has 4"),
    ],
)
@pytest.mark.parametrize("how", ["resume=auto", "checkpoint={}"])
def test_other_classes_do_not_go_on(midway, small_run, names, message, how):
    before = {path.name: path.read_bytes() for path in midway.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=rf"last\.ckpt was trained {message}; .*backbone\.weights="):
        fit(small_run(how.format(midway / "last.ckpt"), f"data.class_names={names}"))
    assert before == {path.name: path.read_bytes() for path in midway.iterdir() if path.is_file()}


@pytest.mark.long
def test_a_run_without_a_score_that_has_ended_is_read_again(small_run, tmp_path):
    overrides = ["trainer.limit_val_batches=0", "average_best=2", "resume=auto"]
    fit(small_run(*overrides))
    text = (tmp_path / "run" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["averaged/mIoU"] is None
    assert math.isnan(fit(small_run(*overrides))["averaged/mIoU"])


def test_where_all_is_damaged_nothing_begins_anew(midway, small_run):
    for path in midway.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="are damaged; begin anew"):
        fit(small_run("resume=auto"))


def test_a_loss_that_is_not_finite_stops_with_the_batch_kept(small_run, tmp_path, monkeypatch):
    class Poison(L.Callback):
        def on_train_batch_start(self, trainer, task, batch, index) -> None:
            if trainer.global_step == 1:
                next(iter(task.parameters())).data[0] = float("nan")

    with pytest.raises(FloatingPointError, match=r"the loss is not finite .*00\d\.png.*not_finite\.pt"):
        run_with(monkeypatch, small_run(), Poison())
    assert torch.load(tmp_path / "run" / "not_finite.pt", weights_only=True)["step"] == 1


@pytest.mark.long
def test_the_determinism_switch_holds(small_run, tmp_path):
    def weights(name: str, *overrides: str) -> dict:
        fit(
            small_run("trainer.deterministic=true", "trainer.max_epochs=1", f"output_dir={tmp_path / name}", *overrides)
        )
        return read_checkpoint(tmp_path / name / "last.ckpt")["state_dict"]

    try:
        one = weights("one")
        assert torch.are_deterministic_algorithms_enabled()
        assert same(one, weights("again")) and not same(one, weights("other", "seed=1"))
    finally:
        torch.use_deterministic_algorithms(False)
