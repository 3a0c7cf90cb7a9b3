"""A run: what it leaves, what it refuses, and that a resumed one is the undisturbed one bit for bit."""

import csv
import json
import shutil

import lightning as L
import pytest
import torch

from backbones.mobilenetv1 import mobilenet_v1
from tasks.base import checkpoint
from tasks.base.build import build_data, build_task
from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.training import fit as fit_module
from tasks.training.fit import fit


class StopAfter(L.Callback):
    """Ends a run as a user's interruption between two epochs would: the schedule still reaches to max_epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, task) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def run_with(monkeypatch, config, callback: L.Callback) -> dict:
    """`fit` with one callback more."""
    make = fit_module.make

    def with_it(node, **options):
        if "callbacks" in options:
            options["callbacks"] = [*options["callbacks"], callback]
        return make(node, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "make", with_it)
        return fit(config)


def run_and_stop(monkeypatch, config, epochs: int) -> None:
    run_with(monkeypatch, config, StopAfter(epochs))


@pytest.fixture
def teacher(small_run, tmp_path):
    fit(small_run("trainer.max_epochs=1", f"output_dir={tmp_path / 'teacher'}", "seed=9"))
    return tmp_path / "teacher" / "last.ckpt"


@pytest.mark.long
def test_a_resumed_run_with_every_part_of_a_recipe_is_the_undisturbed_one(small_run, tmp_path, monkeypatch, teacher):
    overrides = ["final_weight_decay=0.001", "average_best=2", "distillation=soft", f"distillation.teacher={teacher}"]
    overrides += ["ema_decay=0.9", "task.freeze=c2", "task.freeze_epochs=3", "scheduler=staircase"]
    overrides += ["scheduler.periods=6", "optimizer=rmsprop", "task.adaptive_clip=0.02"]
    test_a_resumed_run_ends_bit_for_bit_where_the_undisturbed_one_ends(small_run, tmp_path, monkeypatch, overrides)
    averages = [read_checkpoint(tmp_path / run / "averaged.ckpt") for run in ("whole", "broken")]
    assert same(averages[0]["state_dict"], averages[1]["state_dict"])
    scores = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "broken")]
    assert scores[0]["averaged/mIoU"] == scores[1]["averaged/mIoU"]
    assert {"train/distillation", "ema/distance", "lr-RMSprop/pg1-weight_decay"} <= rows(tmp_path / "broken")[0].keys()


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        ["ema_decay=0.9"],
        ["optimizer=sgd", "scheduler=cosine", "trainer.check_val_every_n_epoch=2", "trainer.gradient_clip_val=1.0"],
    ],
    ids=["ema", "sgd"],
)
def test_a_resumed_run_ends_bit_for_bit_where_the_undisturbed_one_ends(small_run, tmp_path, monkeypatch, overrides):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(small_run("trainer.max_epochs=4", f"output_dir={whole}", *overrides))
    run_and_stop(monkeypatch, small_run("trainer.max_epochs=4", f"output_dir={broken}", *overrides), epochs=2)
    halfway = read_checkpoint(broken / "last.ckpt")
    assert halfway["epoch"] == 1
    fit(small_run("trainer.max_epochs=4", f"checkpoint={broken / 'last.ckpt'}", "output_dir=null", *overrides))

    expected, actual = read_checkpoint(whole / "last.ckpt"), read_checkpoint(broken / "last.ckpt")
    assert expected["global_step"] == actual["global_step"] == 12
    for part in ("state_dict", "current_model_state") if "ema_decay=0.9" in overrides else ("state_dict",):
        assert expected[part].keys() == actual[part].keys()
        for name, tensor in expected[part].items():
            assert torch.equal(tensor, actual[part][name]), (part, name)
            if name.endswith("conv.weight"):
                assert not torch.equal(tensor, halfway[part][name]), "nothing was trained after the stop"
    assert same(expected["optimizer_states"], actual["optimizer_states"])
    assert same(expected["lr_schedulers"], actual["lr_schedulers"])
    assert rows(whole) == rows(broken)


def rows(folder) -> list[dict]:
    """Without the one column that tells a time."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "train/data_wait"} for row in csv.DictReader(file)]


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_run_leaves_its_files_and_learns(small_run, masks_root, tmp_path):
    shutil.copytree(masks_root, tmp_path / "masks")
    for file in sorted((tmp_path / "masks" / "train").rglob("*.png")):  # an epoch of ten steps with the same images
        for number in range(9):
            file.with_stem(f"{file.stem}-{number}").symlink_to(file)
    overrides = ["backbone=mnv3_small", "trainer.max_epochs=5", "optimizer.lr=0.004", "data.batch_size=6"]
    overrides += ["data.crop_size=[48,64]", "data.scale=[1.0,1.2]", f"data.root={tmp_path / 'masks'}"]
    result = fit(small_run("tensorboard=true", *overrides))
    run = tmp_path / "run"
    for name in (
        "config.yaml",
        "best.ckpt",
        "last.ckpt",
        "metrics.csv",
        "metrics.json",
        "curves.png",
        "predictions.png",
        "report.html",
    ):
        assert (run / name).stat().st_size > 0, name
    assert any((run / "tensorboard").iterdir())
    assert not list(run.glob(".*"))
    assert json.loads((run / "metrics.json").read_text()) == result
    assert result["best/mIoU"] > 0.4  # the background alone gives 0.28
    losses = [float(row["train/loss_epoch"]) for row in rows(run) if row["train/loss_epoch"]]
    assert losses[-1] < losses[0] / 3


def test_an_earlier_run_is_not_overwritten_unless_told(small_run, tmp_path):
    fit(small_run("trainer.max_epochs=1"))
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    with pytest.raises(
        ValueError, match=r"holds a run already; resume it with checkpoint=.*last\.ckpt.*overwrite=true"
    ):
        fit(small_run("trainer.max_epochs=1", "seed=1"))
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before
    fit(small_run("trainer.max_epochs=1", "seed=1", "overwrite=true"))
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["config"]["seed"] == 1


def test_without_a_folder_runs_are_numbered(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("segmentation-mnv3_small", "segmentation-mnv3_small-2"):
        config = small_run("output_dir=null", "trainer.max_epochs=1", "trainer.limit_train_batches=1")
        config.choices = {"task": "segmentation", "backbone": "mnv3_small"}
        fit(config)
        assert (tmp_path / "runs" / name / "last.ckpt").is_file()


def test_a_checkpoint_is_plain_data_and_rebuilds_the_task(small_run, tmp_path):
    fit(small_run("trainer.max_epochs=1", "head=lraspp_mmseg", "head.pool=global", "backbone.width=0.5"))
    path = tmp_path / "run" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    task = load_task(path)
    assert task.classes.names == ("background", "disc", "bar")
    assert all(torch.equal(tensor, content["state_dict"][name]) for name, tensor in task.state_dict().items())
    assert not task.training


def test_a_checkpoint_is_read_once_while_it_is_unchanged(small_run, tmp_path, monkeypatch):
    fit(small_run("trainer.max_epochs=1", "trainer.limit_train_batches=1"))
    path, reads, load = tmp_path / "run" / "last.ckpt", [], checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda path: reads.append(path) or load(path))
    read_checkpoint(path)["config"]["trainer"]["max_epochs"] = 9  # a caller's own
    assert read_checkpoint(path)["config"]["trainer"]["max_epochs"] == 1
    load_task(path)
    assert len(reads) == 1
    content = torch.load(path, weights_only=True)
    content["config"]["seed"] = 7
    for written in (path, tmp_path / "other.ckpt"):
        torch.save(content, written)
        assert read_checkpoint(written)["config"]["seed"] == 7
    assert len(reads) == 3


def test_checkpoints_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*absent\.ckpt"):
        load_task(tmp_path / "absent.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"no checkpoint of this toolkit; for weights alone use backbone\.weights="):
        load_task(tmp_path / "weights.pth")
    (tmp_path / "half.ckpt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"half\.ckpt cannot be read as a checkpoint"):
        load_task(tmp_path / "half.ckpt")


@pytest.mark.parametrize(
    ("override", "look", "expected"),
    [
        (
            "task.class_weights=[1,2,30]",
            lambda task, data: str(task.criterion.class_weights),
            "tensor([ 1.,  2., 30.])",
        ),
        ("task.ohem_threshold=0.2", lambda task, data: task.criterion.ohem_threshold, 0.2),
        ("task.ohem_min_kept=0.3", lambda task, data: task.criterion.ohem_min_kept, 0.3),
        ("task.dice_weight=1.5", lambda task, data: task.criterion.dice_weight, 1.5),
        ("task.label_smoothing=0.3", lambda task, data: task.criterion.label_smoothing, 0.3),
        ("task.freeze_norm=true", lambda task, data: {norm.training for norm in task.train().norms()}, {False}),
        ("task.tta_scales=[0.5,1.0]", lambda task, data: task.tta_scales, (0.5, 1.0)),
        ("task.tta_flip=true", lambda task, data: task.tta_flip, True),
        ("data.scale=[2.0,2.0]", lambda task, data: [one.scale for one in data.augmentations], [(2.0, 2.0)]),
        ("data.flip=0", lambda task, data: data.dataset("train").augmentations[0].after_crop[0].p, 0),
        ("seed=1", lambda task, data: (data.seed, data.dataset("train").seed), (1, 1)),
    ],
)
def test_options_reach_what_they_set(small_run, override, look, expected):
    """What they do there is tested there."""
    plain, changed = (
        look(build_task(config, data.classes), data)
        for config in (small_run(), small_run(override))
        for data in [build_data(config)]
    )
    assert changed == expected != plain


def test_options_of_the_trainer_reach_each_step(small_run, monkeypatch):
    """Convolutions in bfloat16, and the whole gradient of a norm of 0.01."""

    class Look(L.Callback):
        types, norms = set(), []

        def on_fit_start(self, trainer, task) -> None:
            task.network.head.classifier.register_forward_hook(lambda layer, x, y: self.types.add(y.dtype))

        def on_train_batch_end(self, trainer, task, *_) -> None:
            gradients = [parameter.grad.flatten() for parameter in task.parameters() if parameter.grad is not None]
            self.norms.append(torch.cat(gradients).norm().item())

    options = ["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.01", "trainer.max_epochs=1"]
    run_with(monkeypatch, small_run(*options), Look())
    assert Look.types == {torch.bfloat16} and Look.norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_with_the_images_named(small_run):
    with pytest.raises(FloatingPointError, match=r"not finite .*00\d\.png.*lower optimizer\.lr"):
        fit(small_run("optimizer=sgd", "optimizer.lr=1e30", "scheduler.warmup=0", "trainer.max_epochs=3"))


@pytest.mark.long
def test_a_longer_run_follows_the_new_schedule_and_settings(small_run, tmp_path):
    run = tmp_path / "run"
    fit(small_run("trainer.max_epochs=2", "scheduler.warmup=0"))
    assert read_checkpoint(run / "last.ckpt")["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    longer = ["trainer.max_epochs=4", f"checkpoint={run / 'last.ckpt'}", "output_dir=null", "scheduler.warmup=0"]
    fit(small_run(*longer, "optimizer.lr=0.01", "optimizer.weight_decay=0.5"))
    rates = [float(row["lr-AdamW/pg1"]) for row in rows(run) if row["lr-AdamW/pg1"]][6:]
    assert rates == pytest.approx([0.01 * (1 - step / 12) ** 0.9 for step in range(6, 12)])
    groups = read_checkpoint(run / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]


@pytest.mark.long
def test_a_run_that_has_ended_is_not_trained_on_nor_rewound(small_run, tmp_path):
    run = tmp_path / "run"
    fit(small_run("trainer.max_epochs=2"))
    before = {path.name: path.read_bytes() for path in run.glob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match=r"last\.ckpt has reached trainer\.max_epochs=2; set a higher one"):
        fit(small_run(f"checkpoint={run / 'last.ckpt'}", "output_dir=null"))
    content = torch.load(run / "best.ckpt", weights_only=True)
    torch.save(content | {"epoch": 0}, run / "early.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is further \(epoch 2, not 1\) and would be overwritten"):
        fit(small_run(f"checkpoint={run / 'early.ckpt'}", "output_dir=null", "trainer.max_epochs=3"))
    assert before == {name: (run / name).read_bytes() for name in before}


@pytest.mark.long
def test_a_moved_run_remembers_its_best(small_run, tmp_path):
    fit(small_run("trainer.max_epochs=1"))
    content = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    (key,) = [key for key in content["callbacks"] if "val/mIoU" in key]
    content["callbacks"][key]["best_model_score"] = torch.tensor(0.99)
    content["callbacks"][key]["best_k_models"] = dict.fromkeys(
        content["callbacks"][key]["best_k_models"], torch.tensor(0.99)
    )
    (tmp_path / "run").rename(tmp_path / "moved")
    torch.save(content, tmp_path / "moved" / "last.ckpt")
    best = (tmp_path / "moved" / "best.ckpt").read_bytes()
    result = fit(small_run(f"checkpoint={tmp_path / 'moved' / 'last.ckpt'}", "output_dir=null"))
    assert result["best/mIoU"] == pytest.approx(0.99)
    assert (tmp_path / "moved" / "best.ckpt").read_bytes() == best
    elsewhere = tmp_path / "elsewhere"
    again = ["trainer.max_epochs=3", f"output_dir={elsewhere}"]
    fit(small_run(f"checkpoint={tmp_path / 'moved' / 'last.ckpt'}", *again))
    assert (elsewhere / "best.ckpt").read_bytes() == best


@pytest.mark.long
def test_a_resumed_run_needs_no_weights_file(small_run, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save(mobilenet_v1(width=0.25).state_dict(), weights)
    fit(small_run("trainer.max_epochs=1", f"backbone.weights={weights}"))
    weights.unlink()
    again = [f"checkpoint={tmp_path / 'run' / 'last.ckpt'}", "output_dir=null"]
    assert fit(small_run(*again, f"backbone.weights={weights}"))["epochs"] == 2


def test_a_new_run_starts_from_a_checkpoints_weights(small_run, tmp_path):
    """Though the first head had let go of the layers that it does not read."""
    fit(small_run("trainer.max_epochs=1", "head.deep=c5"))
    config = small_run("head.deep=c5", f"backbone.weights={tmp_path / 'run' / 'last.ckpt'}", "seed=5")
    started, trained = (
        build_task(config, load_task(tmp_path / "run" / "last.ckpt").classes),
        tmp_path / "run" / "last.ckpt",
    )
    expected = load_task(trained).network.backbone.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in started.network.backbone.state_dict().items())


def test_overwriting_replaces_the_whole_run(small_run, tmp_path):
    fit(small_run("trainer.max_epochs=1", "tensorboard=true"))
    (tmp_path / "run" / "notes.txt").write_text("mine")
    fit(small_run("trainer.max_epochs=1", "trainer.check_val_every_n_epoch=2", "overwrite=true"))
    best = read_checkpoint(tmp_path / "run" / "best.ckpt")
    assert best["config"]["trainer"]["check_val_every_n_epoch"] == 2, "not validated, but of the new run"
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_run_folder_in_place_of_its_checkpoint_is_told(tmp_path):
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"is a run's folder; give .*best\.ckpt"):
        read_checkpoint(tmp_path)
