"""A checkpoint carries no machine with it: where it was trained decides nothing elsewhere."""

import pytest
import torch

from tasks.base.inference_settings import inference_settings
from tasks.training.fit import fit
from tests.tasks.conftest import composed

CLUSTERS = [
    {"num_nodes": 2, "devices": 4, "strategy": "ddp"}, {"accelerator": "gpu", "devices": [4]},
    {"accelerator": "tpu", "sync_batchnorm": True}, {"strategy": "ddp_find_unused_parameters_true", "num_nodes": 16},
    {"precision": "16-mixed", "accelerator": "cuda"}, {"plugins": ["slurm"], "overfit_batches": 1, "fast_dev_run": 2},
    {"limit_val_batches": 1, "max_time": "00:00:00:01"},
]  # fmt: skip


@pytest.mark.parametrize("stored", CLUSTERS, ids=str)
def test_what_is_left_is_what_a_trainer_here_takes(stored, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    default = dict(composed("train", "task=segmentation").trainer)
    settings = inference_settings(default | stored)
    same = {key: value for key, value in settings.items() if key in default}
    assert same == default | {"limit_train_batches": None, "limit_val_batches": None}
    extra = {"plugins": None, "overfit_batches": 0.0, "fast_dev_run": False, "max_time": None}
    assert {key: settings[key] for key in settings.keys() - default.keys()} == {
        key: value for key, value in extra.items() if key in stored
    }


def test_precision_stays_where_the_machine_has_it(monkeypatch):
    for there, asked, left in ((True, "16-mixed", "16-mixed"), (False, "16-true", "32-true"),
                               (False, "bf16-mixed", "bf16-mixed"), (False, "64-true", "64-true")):  # fmt: skip
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert inference_settings({"precision": asked})["precision"] == left


@pytest.mark.long
def test_a_checkpoint_of_a_cluster_is_evaluated_here(small_run, run_tool, tmp_path):
    fit(small_run("trainer.max_epochs=1"))
    content = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)
    content["config"]["trainer"] |= {"accelerator": "gpu", "devices": [4], "num_nodes": 2, "strategy": "ddp"}
    content["config"]["trainer"] |= {"sync_batchnorm": True, "precision": "16-mixed"}
    torch.save(content, tmp_path / "cluster.ckpt")
    status, _, err = run_tool("tools/evaluate.py checkpoint=cluster.ckpt output_dir=e")
    assert status == 0, err
    status, _, err = run_tool("tools/evaluate.py checkpoint=cluster.ckpt output_dir=f trainer.accelerator=nonsense")
    assert status == 1 and "nonsense" in err, "what the command line gives is used"
