"""Which checkpoint is the best one: of a network of one weight, whose scores are given."""

import math

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from tasks.training.run_checkpoints import BestCheckpoint

NAN = math.nan
SCORED = {"monitor": "score", "mode": "max", "save_on_train_epoch_end": True, "enable_version_counter": False,
          "auto_insert_metric_name": False}  # fmt: skip


class Scored(L.LightningModule):
    """Learns nothing; its validations have the scores that are given, one after the other."""

    def __init__(self, scores) -> None:
        super().__init__()
        self.weight, self.scores = torch.nn.Parameter(torch.zeros(())), iter(scores)

    def training_step(self, batch, index):
        return self.weight * 1.0

    def validation_step(self, batch, index):
        pass

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("score", next(self.scores))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def run(folder, scores, *, keep: int = 1, resume=None, **options) -> BestCheckpoint:
    """Train over epochs of four batches; the weight is minus the step that it is of."""
    name = "best" if keep == 1 else "step{step}"
    best = BestCheckpoint(folder, name, save_top_k=keep, **SCORED)
    settings = {"max_epochs": len(scores), "num_sanity_val_steps": 0} | options
    trainer = L.Trainer(
        **settings, accelerator="cpu", logger=False, callbacks=[best], enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, log_every_n_steps=1,
    )  # fmt: skip
    loaders = (DataLoader(torch.zeros(4, 1)), DataLoader(torch.zeros(1, 1)))
    trainer.fit(Scored(scores), *loaders, ckpt_path=resume, weights_only=True)
    return best


def step_of(path) -> int:
    content = torch.load(path, weights_only=True)
    assert content["state_dict"]["weight"] == -content["global_step"]
    return content["global_step"]


@pytest.mark.parametrize(
    ("scores", "epoch", "score"),
    [
        ([NAN, NAN, NAN], 3, None),
        ([NAN, 0.2, NAN], 2, 0.2),
        ([0.1, NAN, 0.05], 1, 0.1),
        ([NAN, 0.0, 0.3, NAN], 3, 0.3),
    ],
)
def test_a_score_wins_over_none_and_without_any_the_newest_is_kept(tmp_path, scores, epoch, score):
    best = run(tmp_path, scores)
    assert step_of(tmp_path / "best.ckpt") == 4 * epoch
    assert best.score == (None if score is None else pytest.approx(score))


def test_a_resumed_run_goes_on_from_scores_that_were_none(tmp_path):
    run(tmp_path, [NAN, NAN])
    again = run(tmp_path, [NAN, 0.1], resume=tmp_path / "best.ckpt", max_epochs=4)
    assert step_of(tmp_path / "best.ckpt") == 16 and again.score == pytest.approx(0.1)
    assert run(tmp_path, [NAN], resume=tmp_path / "best.ckpt", max_epochs=5).score == pytest.approx(0.1)
    assert step_of(tmp_path / "best.ckpt") == 16


def test_checkpoints_of_earlier_versions_are_understood(tmp_path):
    """These are the keys that they hold."""
    one, several = (BestCheckpoint(tmp_path, "x", save_top_k=k, every_n_epochs=2, **SCORED) for k in (1, 3))
    key = "RunCheckpoint{'monitor': 'score', 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 2, "
    assert one.state_key == key + "'train_time_interval': None}"
    assert several.state_key == one.state_key + ", several"


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([NAN, 0.2, NAN, 0.1, NAN], [8, 16]),
        ([0.2, 0.1, 0.2], [4, 12]),
        ([NAN, NAN, NAN, NAN], [16, 12]),
        ([NAN, NAN, 0.3, NAN], [12]),
    ],
)
def test_several_are_ranked_by_their_scores_and_without_any_by_age(tmp_path, scores, kept):
    best = run(tmp_path, scores, keep=2)
    assert [step_of(path) for path in best.ranked()] == kept
    assert len([*tmp_path.glob("step*.ckpt")]) == 2


def test_undefined_ones_are_as_old_after_a_resume(tmp_path):
    run(tmp_path, [NAN, NAN, NAN], keep=2)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step12.ckpt", "step8.ckpt"]
    best = run(tmp_path, [NAN], keep=2, resume=tmp_path / "step12.ckpt", max_epochs=4)
    assert [step_of(path) for path in best.ranked()] == [16, 12]


def test_fewer_in_another_folder_are_the_best_of_them(tmp_path):
    for name, scores, kept in (("none", [NAN] * 3, [12, 16]), ("equal", [0.2] * 3, [4, 8])):
        run(tmp_path / name, scores, keep=3)
        last = tmp_path / name / "step12.ckpt"
        run(tmp_path / f"{name}-on", [NAN], keep=2, resume=last, max_epochs=4)
        assert sorted(step_of(path) for path in (tmp_path / f"{name}-on").glob("*.ckpt")) == kept


@pytest.mark.parametrize(
    ("options", "scores", "step"),
    [
        ({"limit_val_batches": 0, "max_epochs": 2}, [], 8),  # nothing is validated: the newest
        ({"max_steps": 6, "max_epochs": 9}, [0.3], 4),  # ends within an epoch, after a validated one
        ({"max_steps": 3, "max_epochs": 9}, [], 3),  # ends before the first validation
        ({"check_val_every_n_epoch": 2, "max_epochs": 3}, [0.3], 8),
        ({"check_val_every_n_epoch": 3, "max_epochs": 2}, [], 8),
        ({"val_check_interval": 0.5, "max_epochs": 2}, [0.1, 0.2, 0.9, 0.3], 6),  # within the second epoch
        ({"val_check_interval": 3, "check_val_every_n_epoch": None, "max_epochs": 2}, [0.4, 0.2], 3),
        ({"num_sanity_val_steps": 1, "max_epochs": 2}, [0.4, 0.2], 4),
        ({"overfit_batches": 2, "max_epochs": 2}, [0.4, 0.2], 2),
    ],
)
def test_the_best_is_of_the_weights_that_had_the_score(tmp_path, options, scores, step):
    best = run(tmp_path, scores, **options)
    assert step_of(tmp_path / "best.ckpt") == step
    assert best.score == (pytest.approx(max(scores)) if scores else None)
