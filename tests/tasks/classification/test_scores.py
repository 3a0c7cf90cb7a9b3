"""Accuracies and confusions against torchmetrics and literal numbers."""

import csv

import numpy as np
import pytest
import torch
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassPrecision,
    MulticlassRecall,
)

from tasks.classification.scores import ClassResults, score_tables, write_classes

NAMES = tuple("abcdefgh")


def drawn(count: int = 200, classes: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes - 1, (count,), generator=generator)  # the last class does not occur
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.5
    return logits.softmax(1), labels, [f"{index:03}.png" for index in range(count)]


def counted(*batches) -> ClassResults:
    results = ClassResults(batches[0][0].shape[1])
    for batch in batches:
        results.add(*batch)
    return results


def test_scores_are_those_of_torchmetrics():
    probabilities, labels, names = drawn()
    scores = counted((probabilities, labels, names)).scores()
    assert scores.top1 == pytest.approx(MulticlassAccuracy(8, average="micro")(probabilities, labels).item())
    assert scores.top5 == pytest.approx(MulticlassAccuracy(8, average="micro", top_k=5)(probabilities, labels).item())
    recall = MulticlassRecall(8, average=None)(probabilities, labels).numpy()
    np.testing.assert_allclose(scores.accuracy[:7], recall[:7], rtol=1e-6)
    assert scores.mean_accuracy == pytest.approx(recall[:7].mean())
    assert np.array_equal(scores.matrix, MulticlassConfusionMatrix(8)(probabilities, labels).numpy())
    precision = MulticlassPrecision(8, average=None)(probabilities, labels).numpy()
    np.testing.assert_allclose(scores.precision, precision, rtol=1e-6)
    assert np.isnan(scores.accuracy[7]) and scores.matrix.dtype == np.int64


def test_batches_and_processes_make_no_difference():
    probabilities, labels, names = drawn()
    whole = counted((probabilities, labels, names)).scores()
    parts = [counted(*[(probabilities[i : i + 7], labels[i : i + 7], names[i : i + 7]) for i in range(*ends, 7)])
             for ends in ((0, 98), (98, 200))]  # fmt: skip
    parts[0].merge(parts[1])
    assert parts[0].scores().to_dict() == whole.to_dict()
    assert np.array_equal(parts[0].scores().matrix, whole.matrix)
    assert sorted(parts[0].names) == names


def test_few_classes_have_no_top5_and_no_images_no_scores():
    scores = counted((torch.eye(3), torch.tensor([0, 1, 1]), ["x", "y", "z"])).scores()
    assert scores.to_dict() == {"val/top1": 2 / 3, "val/mean_accuracy": 0.75}
    assert scores.confusions() == [(1, 2, 1)]
    assert np.isnan(ClassResults(3).scores().top1)


@pytest.mark.parametrize(("classes", "top5"), [(5, None), (6, 0.5)])
def test_top5_is_for_more_than_five_classes(classes, top5):
    """Of six, the least likely is the only one that is not among the five."""
    falling = torch.arange(classes, 0, -1).float().softmax(0).repeat(2, 1)
    assert counted((falling, torch.tensor([0, classes - 1]), ["x", "y"])).scores().top5 == top5


def test_confusions_begin_with_the_most_frequent():
    guesses, labels = torch.tensor([1, 2, 2, 2, 0, 0, 1]), torch.tensor([0, 0, 1, 1, 2, 1, 1])
    scores = counted((torch.eye(3)[guesses], labels, list("abcdefg"))).scores()
    assert scores.confusions() == [(1, 2, 2), (0, 1, 1), (0, 2, 1), (1, 0, 1), (2, 0, 1)]


def test_a_label_of_no_class_is_named():
    with pytest.raises(ValueError, match=r"labels \[5\].*x\.png.*expected 0 to 2"):
        ClassResults(3).add(torch.eye(3)[:1], torch.tensor([5]), ["x.png"])


def test_the_files_hold_every_image_and_every_class(tmp_path):
    probabilities, labels, names = drawn()
    results = counted((probabilities, labels, names))
    results.write(tmp_path / "predictions.csv", NAMES)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    guesses = probabilities.argmax(1)
    for row, label, guess, values in zip(rows, labels, guesses, probabilities, strict=True):
        assert (row["true"], row["guess"]) == (NAMES[label], NAMES[guess])
        assert float(row["probability"]) == pytest.approx(values[guess].item(), rel=1e-6)
        assert float(row["true_probability"]) == pytest.approx(values[label].item(), rel=1e-6)
    write_classes(tmp_path / "per_class.csv", results.scores(), NAMES)
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(NAMES)
    first = guesses[labels == 0]
    assert int(rows[0]["images"]) == len(first) and int(rows[0]["correct"]) == (first == 0).sum()
    most = int(np.bincount(first[first != 0], minlength=8).argmax())
    assert rows[0]["most_often_taken_for"] == NAMES[most] and int(rows[0]["times"]) == (first == most).sum()
    assert rows[7]["accuracy"] == rows[7]["most_often_taken_for"] == ""


def test_the_tables_name_the_worst_the_best_and_the_confusions():
    matrix_of = counted((torch.eye(3)[[0, 1, 1, 2, 2]], torch.tensor([0, 1, 0, 2, 1]), list("vwxyz"))).scores()
    overall, classes, confusions = score_tables(matrix_of, ("a", "b", "c"))
    assert dict(overall[2])["images"] == 5 and dict(overall[2])["top1"] == pytest.approx(0.6)
    assert [row[0] for row in classes[2]] == ["a", "b", "c"] and classes[2][2] == ("c", 1.0, 0.5, 1)
    assert confusions[2] == [("a", "b", 1, 0.5), ("b", "c", 1, 0.5)]
    many = [str(label) for label in range(60)]
    results = ClassResults(60)
    for label in range(60):
        results.add(torch.eye(60)[[label, 0]], torch.tensor([label, label]), ["x", "y"])
    _, worst, best, _ = score_tables(results.scores(), many)
    assert len(worst[2]) == len(best[2]) == 10
    assert best[2][0][:2] == ("0", 1.0) and worst[2][0][1] == 0.5


@pytest.mark.parametrize(("classes", "tables"), [(20, 1), (21, 2)])
def test_twenty_classes_are_shown_whole(classes, tables):
    results = ClassResults(classes)
    results.add(torch.eye(classes), torch.arange(classes), [str(label) for label in range(classes)])
    _, *shown = score_tables(results.scores(), [str(label) for label in range(classes)])
    assert len(shown) == tables and [len(table[2]) for table in shown] == [[20], [10, 10]][tables - 1]
