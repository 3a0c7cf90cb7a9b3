"""Image classification."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones.weights.preprocessing import stored_preprocessing
from tasks.base.image_scores import ImageScores
from tasks.base.network import Network
from tasks.base.processes import shared_count
from tasks.base.tables import Table
from tasks.base.task import VisionTask
from tasks.classification.deployable import ClassificationDeployable
from tasks.classification.mixing import Mixing
from tasks.classification.pictures import ClassificationSample, classification_sheet
from tasks.classification.predictor import ClassificationPredictor
from tasks.classification.scores import ClassResults, ClassScores, read_image_scores, score_tables, write_classes
from tasks.data.center_view import CenterView
from tasks.data.classes import Classes
from tasks.data.classification import DEFAULT_PREPROCESSING, ClassificationData
from tasks.data.looks import SplitLooks
from tasks.files.writing import write_bytes
from tasks.pictures.confusion import confusion_picture
from tasks.pictures.shown import shown
from tasks.values.counted import counted
from tasks.values.sizes import parse_sides

MOST_LOGGED = 30  # classes whose accuracies are logged one by one; files hold those of all
PICTURED = 12  # images of a batch that a sheet may show


class ClassificationTask(VisionTask):
    """One class for every image.

    Scores are counted over the whole set, every image once.

    Args:
        network, classes, options: As in `VisionTask`.
        label_smoothing: Share of the target that is spread evenly over the classes, in [0, 1).
        mixup, cutmix: Strengths (alpha of the Beta distribution) of the mixing of training images; 0 for none.
        mixing_probability: Share of the training batches that are mixed.
        class_weights: One positive factor a class; the mean divides by the weights of the images, of a mixed image by
            those of its classes in their shares.

    Raises:
        ValueError: A setting is out of its range.

    Source: label smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
    """

    kind = "classification"
    needs = "images of one class each: data=folders, imagenet, shards or demo"
    monitor = "val/top1"
    batch_keys = ("images", "labels")
    class_weighted = True
    teachers = ("checkpoint", "timm")
    outputs = ("logits", "probabilities")
    whole_output = "logits"

    def __init__(
        self, network: Network, classes: Classes, *, label_smoothing: float = 0.0, mixup: float = 0.0,
        cutmix: float = 0.0, mixing_probability: float = 1.0, class_weights: Sequence[float] | None = None, **options,
    ) -> None:  # fmt: skip
        super().__init__(network, classes, **options)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={label_smoothing}: expected a number from 0 to below 1")
        if class_weights is not None and len(class_weights) != len(classes):
            raise ValueError(
                f"task.class_weights holds {len(class_weights)} numbers; expected {len(classes)}, one a class"
            )
        weights = None if class_weights is None else [float(weight) for weight in class_weights]
        if weights and not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"task.class_weights={weights}: expected positive numbers")
        # A setting, not something learnt: the config holds it, checkpoints need not.
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.label_smoothing = label_smoothing
        mixed = mixup or cutmix
        self.mixing = (
            Mixing(len(classes), mixup=mixup, cutmix=cutmix, probability=mixing_probability) if mixed else None
        )
        self.results = ClassResults(len(classes))
        self.scores: ClassScores | None = None

    def augment_batch(self, batch: dict) -> dict:
        """Mix images and labels: "images" become (N, 3, H, W) float32, "targets" are (N, K) float32."""
        if self.mixing is None:
            return batch
        images, targets = self.mixing(batch["images"], batch["labels"])
        return batch | {"images": images, "targets": targets}

    def loss(self, raw: Tensor | dict[str, Tensor], batch: dict) -> dict[str, Tensor]:
        """Cross-entropy with the labels, or with the mixed targets.

        Of a head with a second pair for a teacher it is that of the first pair's logits; without a teacher that of the
        mean of both, which is what is evaluated.
        """
        logits = raw
        if isinstance(raw, dict):
            taught = self.distillation is not None
            logits = raw["logits"] if taught else (raw["logits"] + raw["distilled_logits"]) / 2
        targets = batch.get("targets", batch["labels"])
        settings = {"weight": self.class_weights, "label_smoothing": self.label_smoothing}
        if self.class_weights is None:  # as many images in each process
            return {"cross_entropy": F.cross_entropy(logits.float(), targets, **settings)}
        # Of mixed targets torch's own mean divides by the images: twice the weights would be twice the loss.
        weights = targets @ self.class_weights if targets.is_floating_point() else self.class_weights[targets]
        total = shared_count(weights.sum(), self)
        return {"cross_entropy": F.cross_entropy(logits.float(), targets, reduction="sum", **settings) / total}

    def predict(
        self, raw: Tensor, image_sizes: Sequence[tuple[int, int]] = (), input_size: tuple[int, int] | None = None
    ) -> list[Tensor]:
        """Probability of each class: (K,) float32 for each image, of float64 computed in that; sizes do not matter."""
        return list((raw if raw.dtype == torch.float64 else raw.float()).softmax(1).float())

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.results = ClassResults(len(self.classes))

    def validation_step(self, batch: dict, index: int) -> dict:
        logits, labels = self(batch["images"]), batch["labels"]
        self.add_validation_loss(torch.stack(list(self.loss(logits, batch).values())).sum(), len(labels))
        probabilities = torch.stack(self.predict(logits))
        self.results.add(probabilities, labels, batch["names"])
        return {"probabilities": probabilities}

    def on_validation_epoch_end(self) -> None:
        self.results = self._merged(self.results)
        total, images = self._summed(self.validation_loss)
        self.validated_images = int(images)
        self.log("val/loss", total / images)
        self.scores = self.results.scores()
        values = self.scores.to_dict()
        self.log(self.monitor, values.pop(self.monitor), prog_bar=True)
        self.log_dict(values)
        if len(self.classes) <= MOST_LOGGED:
            each = zip(self.classes.names, self.scores.accuracy.tolist(), strict=True)
            self.log_dict({f"val/accuracy/{name}": value for name, value in each if math.isfinite(value)})

    @classmethod
    def score_truth(
        cls, data: ClassificationData, split: str, found: SplitLooks
    ) -> tuple[dict[str, float], list[tuple[str, str]]]:
        names, samples = data.classes.names, found.dataset.samples
        results = ClassResults(len(names))
        labels = torch.tensor([samples.label(index) for index in range(len(samples))])
        for part in labels.split(1024):
            results.add(F.one_hot(part, len(names)).float(), part, [""] * len(part))
        result = results.scores()
        each = zip(names, result.accuracy, strict=True)
        return {"top1": result.top1}, [(name, f"{value:.3f} of top-1") for name, value in each if value < 1]

    def picture_samples(self, batch: dict, outputs: dict, places: Sequence[int]) -> list[list[ClassificationSample]]:
        """One list for the batch, a row of the sheet, of samples spread over all of it, whatever `places`."""
        count = len(batch["names"])
        row = []
        for at in np.unique(np.linspace(0, count - 1, min(PICTURED, count)).round().astype(int)).tolist():
            picture = shown(batch["images"][at].permute(1, 2, 0).cpu().numpy(), self.network.pixels)
            probabilities = outputs["probabilities"][at].cpu().numpy()
            row.append(ClassificationSample(picture, int(batch["labels"][at]), probabilities, batch["names"][at]))
        return [row]

    def draw_sheet(self, samples: Sequence[list[ClassificationSample]]) -> np.ndarray:
        return classification_sheet(samples, self.classes.names)

    def report(self, folder: Path) -> tuple[dict[str, float], list[Table]]:
        """Leave confusion.png, per_class.csv and predictions.csv."""
        names = self.classes.names
        title = f"{counted(int(self.scores.images.sum()), 'image')}, {self.scores.top1:.1%} right"
        write_bytes(
            folder / "confusion.png", confusion_picture(self.scores.matrix, names, title=title, columns="first guess")
        )
        write_classes(folder / "per_class.csv", self.scores, names)
        self.results.write(folder / "predictions.csv", names)
        return self.scores.to_dict(), score_tables(self.scores, names)

    @classmethod
    def image_scores(cls, folder: Path, record: Mapping[str, Any]) -> ImageScores:
        return read_image_scores(folder / "predictions.csv")

    @classmethod
    def image_size_of(cls, data: Mapping[str, Any]) -> tuple[int, int]:
        """Of a classifier that is evaluated at several sizes it is the first."""
        size = data.get("image_size")
        side = parse_sides(224 if size is None else size, "data.image_size")[0]
        return side, side

    def predictor(self, config: Mapping[str, Any]) -> ClassificationPredictor:
        return ClassificationPredictor(self, config["image_size"])

    def exported(self, network: Network, output: str, image_size: tuple[int, int] | None) -> ClassificationDeployable:
        return ClassificationDeployable(network, output)

    def chosen_output(self, settings: Mapping[str, Any], held: Sequence[str]) -> str:
        return "probabilities" if settings["probabilities"] else "logits"

    def check_export(self, image_size: tuple[int, int]) -> None:
        if len({*image_size}) > 1:
            raise ValueError(f"export.image_size={list(image_size)}: a classifier sees a square")

    def from_artifact(self, outputs: dict[str, Tensor], output: str, size: tuple[int, int]) -> Tensor:
        """Logits as they are, of probabilities the logarithm in float64."""
        values = super().from_artifact(outputs, output, size)
        return values.clamp_min(torch.finfo(values.dtype).tiny).double().log() if output == "probabilities" else values

    def preprocessing(self, image_size: tuple[int, int]) -> dict[str, Any]:
        words = "resize the shorter side to the input's side divided by crop_ratio, cut out the centre"
        view = self._view(image_size)
        return {"resize": words, **self._view_settings(), "resizing": view.described(self.network.pixels)}

    def resized_picture(self, image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        return self._view(image_size).of_pixels(image, self.network.pixels)

    def _view(self, image_size: tuple[int, int]) -> CenterView:
        return CenterView(image_size[0], **self._view_settings())

    def _view_settings(self) -> dict[str, Any]:
        known = DEFAULT_PREPROCESSING | self.network.backbone.preprocessing | (stored_preprocessing(self.config) or {})
        return {key: known[key] for key in DEFAULT_PREPROCESSING}

    def decoding(self, output: str, image_size: tuple[int, int]) -> dict[str, Any]:
        return {"scores": {"axis": 1, "activation": "softmax" if output == "logits" else None}}
