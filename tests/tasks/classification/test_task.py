"""The classification task, piece by piece, and a small set of coloured shapes in class folders."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.repvit import repvit_m0_6
from heads.classification import LinearClassifier, RepViTClassifier
from tasks.base.build import connect
from tasks.base.network import build_network
from tasks.classification.mixing import Mixing
from tasks.classification.task import ClassificationTask
from tasks.data.classes import Classes
from tasks.data.folders import FolderData
from tests.oracles import randomised

CLASSES = Classes(("bar", "disc", "ring"), ((200, 60, 60), (60, 200, 60), (60, 60, 200)))
SIZE = (40, 48)  # H, W px


def write_folders(root, *, train: int = 4, val: int = 2, size=SIZE) -> None:
    """Coloured shapes on noise, so many a class: {train,val}/{bar,disc,ring}/{number}.png."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, color in zip(CLASSES.names, CLASSES.palette, strict=True):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                image = rng.integers(60, 120, (*size, 3), dtype=np.uint8)
                x, y = (int(rng.integers(extent // 2 - 5, extent // 2 + 5)) for extent in size[::-1])
                if name == "bar":
                    cv2.rectangle(image, (x - 12, y - 4), (x + 12, y + 4), color, -1)
                else:
                    cv2.circle(image, (x, y), 10, color, -1 if name == "disc" else 3)
                cv2.imwrite(str(root / split / name / f"{index}.png"), image[..., ::-1])


def task(head=LinearClassifier, backbone=mobilenet_v3_small, **options) -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(build_network(backbone(width=0.25), head, len(CLASSES)), CLASSES, **options)


def batch(count: int = 6) -> dict:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"images": images, "labels": torch.arange(count) % 3, "names": [f"{index}.png" for index in range(count)]}


def test_the_loss_is_torchs_cross_entropy_of_labels_or_targets():
    logits, sample = torch.randn(6, 3), batch()
    weights = [1.0, 2.0, 0.5]
    for options in ({}, {"label_smoothing": 0.1}, {"class_weights": weights}):
        weight = torch.tensor(options["class_weights"]) if "class_weights" in options else None
        smoothing = options.get("label_smoothing", 0.0)
        made = task(**options)
        expected = F.cross_entropy(logits, sample["labels"], weight, label_smoothing=smoothing)
        torch.testing.assert_close(sum(made.loss(logits, sample).values()), expected)
        targets = torch.rand(6, 3).softmax(1)
        expected = F.cross_entropy(logits, targets, weight, label_smoothing=smoothing)
        if weight is not None:  # torch divides by the images; here, as of labels, by their weights
            expected = expected * len(targets) / (targets * weight).sum()
        torch.testing.assert_close(sum(made.loss(logits, sample | {"targets": targets}).values()), expected)
    assert "class_weights" not in task(class_weights=weights).state_dict(), "a setting is no part of a checkpoint"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_of_mixed_targets_are_relative_and_those_of_labels_where_nothing_is_mixed(smoothing):
    logits, sample, weights = torch.randn(6, 3), batch(), [1.0, 2.0, 0.5]
    made = task(class_weights=weights, label_smoothing=smoothing, mixup=0.4)
    scaled = task(class_weights=[10 * weight for weight in weights], label_smoothing=smoothing, mixup=0.4)
    shares = torch.rand(6, 1)
    labels = F.one_hot(sample["labels"], 3).float()
    mixed = sample | {"targets": shares * labels + (1 - shares) * labels.roll(1, 0)}
    torch.testing.assert_close(scaled.loss(logits, mixed), made.loss(logits, mixed))
    whole = sample | {"targets": labels}
    oracle = F.cross_entropy(logits, sample["labels"], torch.tensor(weights), label_smoothing=smoothing)
    torch.testing.assert_close(made.loss(logits, whole)["cross_entropy"], oracle)
    equal = task(class_weights=[3.0] * 3, label_smoothing=smoothing)
    oracle = F.cross_entropy(logits, mixed["targets"], label_smoothing=smoothing)
    torch.testing.assert_close(equal.loss(logits, mixed)["cross_entropy"], oracle)


def test_mixing_changes_training_batches_alone():
    made, sample = task(mixup=0.4, cutmix=1.0), batch()
    torch.manual_seed(1)
    mixed = made.augment_batch(sample)
    torch.manual_seed(1)
    images, targets = Mixing(3, mixup=0.4, cutmix=1.0)(sample["images"], sample["labels"])
    assert torch.equal(mixed["images"], images) and torch.equal(mixed["targets"], targets)
    assert (targets.amax(1) < 1).any()
    plain = task(mixup=0.4, mixing_probability=0.0).augment_batch(sample)
    assert torch.equal(plain["targets"], F.one_hot(sample["labels"], 3).float())
    assert task().augment_batch(sample) is sample


def test_a_second_pair_is_left_to_its_teacher_and_without_one_trained_along():
    def head(**options):
        return RepViTClassifier(**options, distillation=True)

    made, sample = task(head, repvit_m0_6), batch()
    raw = made.train()(sample["images"])
    mean = F.cross_entropy((raw["logits"] + raw["distilled_logits"]) / 2, sample["labels"])
    torch.testing.assert_close(sum(made.loss(raw, sample).values()), mean)
    made.distillation = object()
    own = F.cross_entropy(raw["logits"], sample["labels"])
    torch.testing.assert_close(sum(made.loss(raw, sample).values()), own)
    made.distillation = None
    logits = made.eval()(sample["images"])
    assert logits.shape == (6, 3)


def test_predictions_are_probabilities():
    made = task().eval()
    randomised(made.network)
    found = made.predict(made(batch()["images"]), [(1, 1)] * 6, (32, 32))
    assert len(found) == 6
    for one in found:
        assert one.shape == (3,) and one.dtype == torch.float32 and one.sum().item() == pytest.approx(1)


def test_a_row_of_pictures_is_spread_over_its_batch():
    made, sample = task(), batch(30)
    (row,) = made.picture_samples(sample, {"probabilities": torch.eye(3)[torch.arange(30) % 3]}, [15])
    assert len(row) == 12
    assert row[0].name == "0.png" and row[-1].name == "29.png"
    assert np.array_equal(row[-1].image, sample["images"][29].permute(1, 2, 0).numpy())
    assert made.draw_sheet([row]).dtype == np.uint8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, r"task\.label_smoothing=1\.0: expected"),
        ({"class_weights": [1.0]}, r"task\.class_weights holds 1 numbers; expected 3"),
        ({"class_weights": [1.0, 0.0, 1.0]}, r"task\.class_weights=.*expected positive"),
        ({"mixup": -1.0}, "mixup=-1.0"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        task(**options)


def test_data_follows_the_weights_where_it_is_left_open_and_the_configuration_says_so(tmp_path, monkeypatch):
    write_folders(tmp_path, train=1, val=1)
    wanted = {"crop_ratio": 0.95, "interpolation": "bicubic", "image_size": 256}
    for options, preprocessing, expected in (
        ({}, {}, (0.875, "bilinear")),
        ({}, wanted, (0.95, "bicubic")),
        ({"crop_ratio": 1.0}, wanted, (1.0, "bicubic")),
    ):
        made, data = task(), FolderData(str(tmp_path), image_size=32, **options)
        made.network.backbone.preprocessing = preprocessing
        for node in (
            {"root": "x"},
            {"classification": {"crop_ratio": None}, "detection": {}},
        ):  # and the demo's
            made.config = {"data": node}
            connect(made, data)
            held = node.get("classification", node)
            assert (held["crop_ratio"], held["interpolation"]) == expected
        view = data.dataset("val").view
        assert view.resized_side == int(32 / expected[0]) and view.interpolation == expected[1]
    monkeypatch.setattr(type(made), "kind", "detection")
    with pytest.raises(ValueError, match=r"task=detection needs .*: data=folders.*; FolderData gives"):
        connect(made, data)
