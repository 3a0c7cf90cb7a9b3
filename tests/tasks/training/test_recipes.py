"""Parts of recipes in a run: weight decay that anneals, averaged checkpoints, freezing for a while, RepVGG's decay."""

import csv

import lightning as L
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from tasks.base.build import build_data, build_task
from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.data.classes import Classes
from tasks.training.fit import fit
from tests.tasks.conftest import NAMES
from tests.tasks.training.test_fit import run_with

CLASSES = Classes(NAMES, ((0, 0, 0),) * 3)


def column(folder, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


class Watch(L.Callback):
    """Calls a function with the task after each epoch."""

    def __init__(self, look) -> None:
        self.look = look

    def on_train_epoch_end(self, trainer, task) -> None:
        self.look(trainer, task)


def watched(monkeypatch, config, look) -> dict:
    return run_with(monkeypatch, config, Watch(look))


@pytest.mark.long
def test_weight_decay_anneals_as_torchs_cosine_in_the_decayed_group_alone(small_run, tmp_path):
    fit(small_run("final_weight_decay=0.00001", "optimizer.weight_decay=0.0001", "trainer.max_epochs=3"))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    schedule, expected = CosineAnnealingLR(optimizer, 9, eta_min=1e-5), []
    for _ in range(9):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert column(tmp_path / "run", "lr-AdamW/pg1-weight_decay") == pytest.approx(expected)
    assert set(column(tmp_path / "run", "lr-AdamW/pg2-weight_decay")) == {0.0}
    groups = read_checkpoint(tmp_path / "run" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert groups[0]["weight_decay"] == pytest.approx(expected[-1])  # what the last step trained with


def test_weight_decay_that_cannot_anneal(small_run):
    with pytest.raises(ValueError, match=r"final_weight_decay=-1.*at least 0"):
        fit(small_run("final_weight_decay=-1"))
    config = small_run("final_weight_decay=0.1")
    config.optimizer = {"_target_": "torch.optim.Rprop", "_partial_": True, "lr": 0.01}
    with pytest.raises(ValueError, match=r"Rprop has no weight decay"):
        fit(config)


@pytest.mark.long
def test_the_best_checkpoints_are_averaged_in_float64_and_validated(small_run, tmp_path):
    scores = ["trainer.max_epochs=5", "average_best=3", "optimizer.lr=0.02"]
    result = fit(small_run(*scores))
    run = tmp_path / "run"
    files = sorted((run / "to_average").iterdir())
    assert len(files) == 3
    parts = [read_checkpoint(path) for path in files]
    average, best = read_checkpoint(run / "averaged.ckpt"), read_checkpoint(run / "best.ckpt")
    (same_step,) = [part for part in parts if part["global_step"] == best["global_step"]]
    for key, value in average["state_dict"].items():
        assert value.dtype == best["state_dict"][key].dtype
        if value.is_floating_point():
            mean = torch.stack([part["state_dict"][key].double() for part in parts]).mean(0)
            torch.testing.assert_close(value, mean.to(value.dtype), rtol=1e-6, atol=1e-9)
        else:
            assert torch.equal(value, same_step["state_dict"][key])
    assert not all(torch.equal(value, best["state_dict"][key]) for key, value in average["state_dict"].items())
    task = load_task(run / "averaged.ckpt")
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.validate(task, datamodule=build_data(small_run()), verbose=False)
    assert result["averaged/mIoU"] == pytest.approx(float(trainer.callback_metrics["val/mIoU"]))
    with pytest.raises(ValueError, match=r"averaged\.ckpt holds weights alone, .*; go on from last\.ckpt"):
        fit(small_run(f"checkpoint={run / 'averaged.ckpt'}", "output_dir=null", "trainer.max_epochs=6"))
    fit(small_run("trainer.max_epochs=1", "overwrite=true"))
    assert not (run / "averaged.ckpt").exists() and not (run / "to_average").exists()


def test_averaging_takes_two_or_more(small_run):
    with pytest.raises(ValueError, match=r"average_best=1: expected a number of checkpoints, at least 2"):
        fit(small_run("average_best=1"))


@pytest.mark.long
def test_the_average_goes_on_in_another_folder_with_fewer(small_run, tmp_path):
    fit(small_run("trainer.max_epochs=3", "average_best=3"))
    last, other = tmp_path / "run" / "last.ckpt", tmp_path / "other"
    fit(small_run(f"checkpoint={last}", f"output_dir={other}", "trainer.max_epochs=4", "average_best=2"))
    kept = {int(path.stem.removeprefix("step")) for path in (other / "to_average").iterdir()}
    assert len(kept) == 2 and (other / "averaged.ckpt").is_file()


def test_a_frozen_part_trains_from_its_epoch_on(small_run, tmp_path, monkeypatch):
    seen = []

    def look(trainer, task) -> None:
        layers = task.network.backbone.layers
        held = sum(1 for _ in trainer.optimizers[0].param_groups[0]["params"])
        seen.append((layers[0].conv.weight.detach().clone(), layers[0].norm.running_mean.clone(),
                     layers[0].norm.training, layers[0].conv.weight.requires_grad, held))  # fmt: skip

    watched(monkeypatch, small_run("trainer.max_epochs=3", "task.freeze=c1", "task.freeze_epochs=2"), look)
    assert [one[2:4] for one in seen] == [(False, False), (False, False), (True, True)]
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[1][0], seen[2][0]) and not torch.equal(seen[1][1], seen[2][1])
    assert len({one[4] for one in seen}) == 1  # the optimiser holds all from the start


def test_freezing_for_a_while_needs_a_part_and_one_process(small_run):
    for overrides in (["task.freeze_epochs=2"], ["task.freeze=c1", "task.freeze_epochs=0"]):
        with pytest.raises(ValueError, match=r"task\.freeze_epochs=.*task\.freeze names.*give both"):
            build_task(small_run(*overrides), CLASSES)
    task = build_task(small_run("task.freeze=c1", "task.freeze_epochs=1"), CLASSES)
    with pytest.raises(ValueError, match=r"works in one process, not in 2: set trainer\.devices=1"):
        task.freezing.check_processes(2)


def test_the_equivalent_decay_is_a_summand_and_its_kernels_leave_the_decayed_group(small_run, tmp_path, monkeypatch):
    overrides = ["backbone=repvgg_a0", "backbone.width=0.25", "task.equivalent_decay=true", "optimizer=sgd"]
    overrides += ["optimizer.weight_decay=0.5", "optimizer.lr=1e-9", "trainer.max_epochs=1"]
    config = small_run(*overrides, "trainer.limit_train_batches=1")

    def look(trainer, task) -> None:
        kernels = {id(k) for block in task.decayed_blocks for k in block.decayed_as_one()}
        decayed, free = ({id(p) for p in group["params"]} for group in trainer.optimizers[0].param_groups)
        assert len(task.decayed_blocks) == 22 and len(kernels) == 44
        assert kernels <= free and not kernels & decayed and decayed

    watched(monkeypatch, config, look)
    logged = column(tmp_path / "run", "train/equivalent_decay")
    blocks = load_task(tmp_path / "run" / "last.ckpt").decayed_blocks
    assert logged == [pytest.approx(0.25 * sum(block.equivalent_l2().item() for block in blocks), rel=1e-5)]
    with pytest.raises(ValueError, match=r"equivalent_decay=true is for RepVGG's blocks"):
        build_task(small_run("task.equivalent_decay=true"), CLASSES)


def by_unit(tensor: torch.Tensor) -> torch.Tensor:
    """The norm of what makes one output: of a filter; of a bias or a norm's weights as a whole."""
    return tensor.flatten(1).norm(dim=1) if tensor.ndim > 1 else tensor.norm()


def test_adaptive_clipping_bounds_every_gradient_of_a_run_by_its_weights(small_run, tmp_path, monkeypatch):
    """By section 4.1 of "NFNets": at most the factor times the unit's norm, 0.001 at least."""
    shares = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer, task, *_) -> None:  # by steps so small, weights hardly change
            parts = [by_unit(p.grad) / (1e-4 * by_unit(p).clamp(min=1e-3)) for p in task.network.parameters()]
            shares.append(torch.cat([part.detach().flatten() for part in parts]))

    common = ["optimizer=sgd", "optimizer.lr=0.0001", "trainer.max_epochs=1", "trainer.limit_train_batches=1"]
    run_with(monkeypatch, small_run(*common, f"output_dir={tmp_path / 'plain'}"), Look())
    run_with(monkeypatch, small_run(*common, "task.adaptive_clip=0.0001"), Look())
    plain, clipped = shares
    assert (plain > 1.1).double().mean() > 0.5
    assert clipped.max() == pytest.approx(1, abs=1e-3) and (clipped > 0.999).double().mean() > 0.5
