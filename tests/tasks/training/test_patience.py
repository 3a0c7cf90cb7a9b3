"""A run with patience= ends where its score no longer gets better, and knows that it has ended."""

import logging
import sys

import pytest
import torch

from tasks.base.checkpoint import read_checkpoint
from tasks.segmentation.task import SegmentationTask
from tasks.training.fit import fit

SCORES = [0.2, 0.5, 0.5, float("nan"), 0.4, 0.3, 0.9, 0.9]


@pytest.fixture
def scores(monkeypatch):
    """Let the epochs have the scores above."""

    def log(self) -> None:
        self.log(self.monitor, torch.tensor(SCORES[self.current_epoch]))

    monkeypatch.setattr(SegmentationTask, "on_validation_epoch_end", log)


def test_a_run_ends_where_its_score_gets_no_better_and_is_not_begun_again(small_run, tmp_path, scores, caplog):
    words = "patience=3", "trainer.max_epochs=8", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"
    with caplog.at_level(logging.INFO):
        result = fit(small_run(*words))
    assert (result["epochs"], result["best/epoch"], result["best/mIoU"]) == (5, 2, 0.5)
    assert "no better score in 3 validations, val/mIoU 0.5000 is the best" in caplog.text
    assert read_checkpoint(tmp_path / "run" / "best.ckpt")["epoch"] == 1

    assert fit(small_run(*words, "resume=auto")) == result, "it has ended"
    last = tmp_path / "run" / "last.ckpt"
    with pytest.raises(ValueError, match=r"last\.ckpt has reached patience=3; set a higher one"):
        fit(small_run(*words, f"checkpoint={last}"))
    more = fit(small_run(*words[1:], "patience=5", f"checkpoint={last}"))
    assert (more["best/epoch"], more["epochs"]) == (7, 8), "the fifth validation without a better one is not reached"


def test_a_run_without_any_score_ends_and_says_so(small_run, monkeypatch, scores, caplog):
    monkeypatch.setattr(sys.modules[__name__], "SCORES", [float("nan")] * 4)
    words = "trainer.max_epochs=4", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"
    with caplog.at_level(logging.INFO):
        assert fit(small_run("patience=2", *words))["epochs"] == 2
    assert "no better score in 2 validations, val/mIoU was never defined" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["patience=0"], "patience=0: expected a number of validations, at least 1"),
        (["patience=2", "trainer.limit_val_batches=0"], "patience=2 counts validations, .*limit_val_batches=0"),
    ],
)
def test_patience_that_cannot_be_is_refused(small_run, words, message):
    with pytest.raises(ValueError, match=message):
        fit(small_run(*words))
