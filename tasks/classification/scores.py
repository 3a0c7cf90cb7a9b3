"""Classification scores: accuracies, overall and of each class, and confusions."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from tasks.base.image_scores import ImageScores
from tasks.base.tables import Table
from tasks.files.writing import write_csv

TOP = 5  # guesses among which the true class counts for top-5
SHOWN = 10  # rows of the tables of best and worst classes and of confusions


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Scores of a set of images, each in [0, 1], or NaN where it is undefined.

    Attributes:
        top1: Share of images whose likeliest class is right.
        top5: Share of images whose class is among the five likeliest; None for five classes or fewer.
        mean_accuracy: Mean of `accuracy` over the classes that occur.
        matrix: (K, K) int64, images by true class (rows) and first guess (columns).
    """

    top1: float
    top5: float | None
    mean_accuracy: float
    matrix: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """Count the images of each class, (K,) int64."""
        return self.matrix.sum(axis=1)

    @property
    def accuracy(self) -> np.ndarray:
        """Compute the share of right predictions among each class's images (recall), (K,) float64."""
        return _share(self.matrix.diagonal(), self.images)

    @property
    def precision(self) -> np.ndarray:
        """Compute the share of right predictions among the images predicted as a class, (K,) float64."""
        return _share(self.matrix.diagonal(), self.matrix.sum(axis=0))

    def to_dict(self) -> dict[str, float]:
        """Return the metrics by their names in logs and JSON."""
        top5 = {} if self.top5 is None else {"val/top5": self.top5}
        return {"val/top1": self.top1, **top5, "val/mean_accuracy": self.mean_accuracy}

    def confusions(self) -> list[tuple[int, int, int]]:
        """List (true class, first guess, images) of all errors, the most frequent first."""
        errors = self.matrix - np.diag(self.matrix.diagonal())
        true, guess = np.nonzero(errors)
        order = np.argsort(-errors[true, guess], kind="stable")
        return [(int(true[at]), int(guess[at]), int(errors[true[at], guess[at]])) for at in order]


class ClassResults:
    """Predictions for each image of a set; the scores do not depend on how it was spread over processes.

    Args:
        num_classes: Number of classes, K.

    >>> import torch
    >>> results = ClassResults(3)
    >>> results.add(torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]), torch.tensor([0, 1]), ["a.jpg", "b.jpg"])
    >>> results.scores().top1
    0.5
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.names: list[str] = []
        self.parts: list[tuple[np.ndarray, ...]] = []  # labels, guess, its probability, the label's, whether in top 5

    def add(self, probabilities: Tensor, labels: Tensor, names: Sequence[str]) -> None:
        """Add a batch.

        Args:
            probabilities: (N, K) of the classes.
            labels: (N,) int64.
            names: N image names.

        Raises:
            ValueError: A label is outside 0..K-1.
        """
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"labels {labels.tolist()[:8]}... of {names[0]}...: expected 0 to {self.num_classes - 1}")
        values, guesses = probabilities.float().topk(min(TOP, self.num_classes))
        of_label = probabilities.float().gather(1, labels[:, None])[:, 0]
        among = (guesses == labels[:, None]).any(1)
        part = (labels, guesses[:, 0], values[:, 0], of_label, among)
        self.parts.append(tuple(column.cpu().numpy() for column in part))
        self.names += names

    def merge(self, other: "ClassResults") -> None:
        """Add all images of another process."""
        self.names += other.names
        self.parts += other.parts

    def columns(self) -> tuple[np.ndarray, ...]:
        """Return true class, first guess, probabilities of first guess and true class, and in top 5, of each image."""
        empty = (np.zeros(0, np.int64),) * 2 + (np.zeros(0, np.float32),) * 2 + (np.zeros(0, bool),)
        return tuple(np.concatenate(column) for column in zip(empty, *self.parts, strict=True))

    def scores(self) -> ClassScores:
        """Compute the scores of all images added."""
        labels, guesses, _, _, among = self.columns()
        size = self.num_classes
        matrix = np.bincount(labels * size + guesses, minlength=size**2).reshape(size, size)
        total = len(labels) or np.nan
        accuracy = _share(matrix.diagonal(), matrix.sum(axis=1))
        return ClassScores(
            top1=float(matrix.trace() / total),
            top5=float(among.sum() / total) if size > TOP else None,
            mean_accuracy=float(np.nanmean(accuracy)) if len(labels) else float("nan"),
            matrix=matrix,
        )

    def write(self, path: Path, class_names: Sequence[str]) -> None:
        """Write one CSV row an image, by name: true class, first guess, and the probabilities of both."""
        rows = sorted(zip(self.names, *(column.tolist() for column in self.columns()[:4]), strict=True))
        write_csv(
            path,
            ("name", "true", "guess", "probability", "true_probability"),
            (
                (name, class_names[label], class_names[guess], f"{top:.7g}", f"{own:.7g}")
                for name, label, guess, top, own in rows
            ),
        )


def read_image_scores(path: Path) -> ImageScores:
    """Read top-1 of a file that `ClassResults.write` left, for any choice of its images.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = np.array([row["true"] == row["guess"] for row in rows])

    def top1(times: np.ndarray) -> float:
        return float(np.average(right, weights=times)) if times.any() else float("nan")

    return ImageScores("val/top1", [row["name"] for row in rows], top1)


def score_tables(scores: ClassScores, class_names: Sequence[str]) -> list[Table]:
    """Make tables: overall scores; classes (of many only the worst and best); the most frequent confusions."""
    overall = [(key.removeprefix("val/"), value) for key, value in scores.to_dict().items()]
    tables: list[Table] = [("overall", ("score", "value"), [*overall, ("images", int(scores.images.sum()))])]
    columns = ("class", "accuracy", "precision", "images")
    accuracy, precision, images = scores.accuracy, scores.precision, scores.images
    judged = [at for at in np.argsort(accuracy, kind="stable").tolist() if images[at]]
    rows = [(class_names[at], float(accuracy[at]), float(precision[at]), int(images[at])) for at in judged]
    if len(rows) <= 2 * SHOWN:
        tables.append(("classes, the worst first", columns, rows))
    else:
        tables += [("worst classes", columns, rows[:SHOWN]), ("best classes", columns, rows[: -SHOWN - 1 : -1])]
    confusions = [
        (class_names[true], class_names[guess], count, count / int(images[true]))
        for true, guess, count in scores.confusions()[:SHOWN]
    ]
    if confusions:
        tables.append(("most frequent confusions", ("class", "taken for", "images", "share of the class"), confusions))
    return tables


def write_classes(path: Path, scores: ClassScores, class_names: Sequence[str]) -> None:
    """Write one CSV row a class: images, right ones, accuracy, precision, most frequent confusion."""
    errors = scores.matrix - np.diag(scores.matrix.diagonal())
    rows = []
    for at, name in enumerate(class_names):
        other = int(errors[at].argmax())
        taken_for = (class_names[other], int(errors[at, other])) if errors[at, other] else ("", 0)
        shares = (f"{share[at]:.6f}" if np.isfinite(share[at]) else "" for share in (scores.accuracy, scores.precision))
        rows.append((name, int(scores.images[at]), int(scores.matrix[at, at]), *shares, *taken_for))
    columns = ("class", "images", "correct", "accuracy", "precision", "most_often_taken_for", "times")
    write_csv(path, columns, rows)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
