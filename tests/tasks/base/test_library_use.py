"""Tasks in the hands of a plain Lightning trainer, with loaders of the user's own."""

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from backbones.mobilenetv3 import mobilenet_v3_small
from heads.lraspp import LRASPP
from heads.ssdlite import SSDLite
from tasks.base.build import build_data, build_task
from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.base.network import build_network
from tasks.data.classes import Classes
from tasks.detection.task import DetectionTask
from tasks.segmentation.task import SegmentationTask
from tasks.training.fit import fit
from tests.tasks.conftest import NAMES

CLASSES = Classes(NAMES, ((0, 0, 0), (200, 0, 0), (0, 0, 200)))


class Pairs(torch.utils.data.Dataset):
    """Images and masks as somebody's own code gives them."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
        return {"images": image, "masks": torch.randint(0, 3, (32, 32), generator=generator)}


def trainer(folder, **options) -> L.Trainer:
    settings = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False,
                "enable_model_summary": False, "default_root_dir": folder, "limit_train_batches": 2}  # fmt: skip
    return L.Trainer(**settings | options)


def by_hand(**options) -> SegmentationTask:
    network = build_network(mobilenet_v3_small(width=0.25), LRASPP, len(CLASSES))
    return SegmentationTask(network, CLASSES, optimizer=torch.optim.AdamW, **options)


def test_own_loaders_train_validate_and_leave_a_checkpoint_that_says_what_it_lacks(tmp_path):
    loaders = DataLoader(Pairs(), batch_size=2), DataLoader(Pairs(), batch_size=2)
    task, used = by_hand(), trainer(tmp_path)
    before = task.network.head.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    used.fit(task, *loaders)
    assert 0 <= float(used.callback_metrics["val/mIoU"]) <= 1
    assert any(not torch.equal(value, before[name]) for name, value in task.network.head.state_dict().items())
    (path,) = tmp_path.rglob("*.ckpt")
    with pytest.raises(ValueError, match=r"no configuration of task, backbone, head: .*built by hand.*'state_dict'"):
        load_task(path)
    again = by_hand()
    again.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    used.validate(again, loaders[1], verbose=False)


@pytest.mark.long
def test_a_task_of_a_configuration_leaves_checkpoints_for_all_tools(small_run, tmp_path):
    config = small_run()
    data = build_data(config)
    task = build_task(config, data.classes)
    used = trainer(tmp_path / "plain", max_epochs=1)
    used.fit(task, data.train_dataloader(), data.val_dataloader())
    (path,) = (tmp_path / "plain").rglob("*.ckpt")
    path = path.rename(tmp_path / "plain" / "last.ckpt")
    found = load_task(path).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in task.state_dict().items())
    result = fit(small_run(f"checkpoint={path}", f"output_dir={tmp_path / 'on'}"))
    assert result["epochs"] == 2 and read_checkpoint(tmp_path / "on" / "last.ckpt")["epoch"] == 1


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda rows: [torch.stack([row["images"] for row in rows])], "this one is of list, without images, masks"),
        (lambda rows: {"images": torch.stack([row["images"] for row in rows])}, "is of images, without masks"),
    ],
)
def test_a_batch_without_what_the_task_reads_is_refused(tmp_path, batch, message):
    with pytest.raises(ValueError, match=f"a batch for task=segmentation is a dict of images, masks; .*{message}"):
        trainer(tmp_path).fit(by_hand(), DataLoader(Pairs(), batch_size=2, collate_fn=batch))


def test_images_in_0_to_1_are_told_of(tmp_path, caplog):
    def scaled(rows: list) -> dict:
        batch = torch.utils.data.default_collate(rows)
        return batch | {"images": batch["images"] / 255}

    trainer(tmp_path).fit(by_hand(), DataLoader(Pairs(), batch_size=2, collate_fn=scaled))
    assert caplog.text.count("images lie within 0..1") == 1


def test_detections_without_a_ground_truth_are_refused_before_training(tmp_path):
    def boxes(rows: list) -> dict:
        box = torch.tensor([[[4.0, 4.0, 20.0, 20.0]]]).repeat(len(rows), 1, 1)
        labels = torch.zeros(len(rows), 1, dtype=torch.int64)
        images = torch.stack([row["images"] for row in rows])
        return {"images": images, "boxes": box, "labels": labels, "image_ids": [1] * len(rows),
                "image_sizes": [(32, 32)] * len(rows)}  # fmt: skip

    classes = Classes(("box",), ((9, 9, 9),))
    network = build_network(mobilenet_v3_small(width=0.25), SSDLite, len(classes))
    task = DetectionTask(network, classes, optimizer=torch.optim.AdamW)
    loader = DataLoader(Pairs(), batch_size=2, collate_fn=boxes)
    with pytest.raises(ValueError, match=r"judged by a data module's ground_truth\('val'\).*datamodule="):
        trainer(tmp_path).fit(task, loader, loader)
    trainer(tmp_path).fit(task, loader)  # nothing is judged


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.num_workers=-1", r"data\.num_workers=-1: expected a whole number of at least 0"),
        ("data.batch_size=0", r"data\.batch_size=0: expected a whole number of at least 1"),
        ("data.val_batch_size=-2", r"data\.val_batch_size=-2: expected a whole number of at least 1"),
        ("data.batch_size=2.5", r"data\.batch_size=2\.5: expected a whole number"),
        ("data.num_workers=all", r"data\.num_workers=all: expected a whole number"),
    ],
)
def test_numbers_of_the_loaders_out_of_range_are_named(small_run, override, message):
    with pytest.raises(ValueError, match=message):
        build_data(small_run(override))
    data = build_data(small_run("data.batch_size=2e0"))
    assert data.batch_size == 2 and isinstance(data.batch_size, int)


def test_overfitting_trains_on_the_same_samples_again_and_again(small_run):
    data = build_data(small_run())
    data.trainer = trainer(None, overfit_batches=1)
    keys = []
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        assert isinstance(loader.sampler, torch.utils.data.SequentialSampler), "or Lightning puts its own in its place"
        keys.append([*loader.sampler])
    assert keys[0] == keys[1] == [(0, index) for index in range(6)]
    assert np.array_equal(*(next(iter(data.train_dataloader()))["images"] for _ in range(2)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "steps", "validated"),
    [
        (["+trainer.overfit_batches=1"], 2, True),
        (["trainer.max_steps=2"], 2, False),  # ends within the first epoch
        (["trainer.limit_val_batches=0"], 6, False),
        (["trainer.num_sanity_val_steps=2"], 6, True),
        (["+trainer.val_check_interval=1", "average_best=2"], 6, True),  # after each batch
        (["+trainer.max_time=00:12:00:00"], 6, True),
        (["trainer.check_val_every_n_epoch=5", "average_best=2"], 6, False),
    ],
    ids=lambda value: value[0].removeprefix("+").removeprefix("trainer.") if isinstance(value, list) else None,
)
def test_lightnings_settings_leave_a_best_checkpoint(small_run, tmp_path, overrides, steps, validated):
    result = fit(small_run(*overrides))
    best = read_checkpoint(tmp_path / "run" / "best.ckpt")
    assert result["steps"] == steps
    assert ("best/mIoU" in result) == validated
    if not validated:
        assert best["global_step"] == steps, "the newest"
    load_task(tmp_path / "run" / "best.ckpt")


def test_a_fast_development_run_ends_without_a_word(small_run):
    assert fit(small_run("+trainer.fast_dev_run=true", "trainer.num_sanity_val_steps=2"))["steps"] == 1
