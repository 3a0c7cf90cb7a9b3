"""Object detection."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from heads.detections import Detections
from heads.nms import select_detections
from heads.static_nms import default_limit, select_from_decoded, unpadded
from tasks.base.image_scores import ImageScores
from tasks.base.network import Network
from tasks.base.outcome import Outcome
from tasks.base.plain_config import Config
from tasks.base.stored_sizes import stored_image_size
from tasks.base.tables import Table
from tasks.base.task import VisionTask
from tasks.base.test_time import check_one_size, checked_scales
from tasks.base.tiles import Tiling
from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.data.detection import IMAGE_SIZE, DetectionData
from tasks.data.label_counts import Finding
from tasks.data.looks import SplitLooks
from tasks.detection.anchor_check import check_anchors
from tasks.detection.anchor_reach import anchor_reach
from tasks.detection.coco_scores import CocoScores, evaluate_boxes, format_scores
from tasks.detection.deployable import (
    OPTIONS,
    OUTPUTS,
    SELECTION,
    DetectionDeployable,
    free_selection,
    held_output,
    output_meaning,
)
from tasks.detection.error_analysis import ErrorAnalysis, analyse_errors
from tasks.detection.error_report import write_errors
from tasks.detection.fitted_scales import advice, with_fitted_scales
from tasks.detection.gfl_loss import GFLLoss
from tasks.detection.image_matches import read_image_scores
from tasks.detection.pictures import DetectionSample, detection_sheet, precision_recall_picture
from tasks.detection.pooled_views import decoded, pooled
from tasks.detection.predictor import DetectionPredictor
from tasks.detection.results import DetectionResults, GroundTruth
from tasks.detection.ssd_losses import MultiboxLoss, SigmoidFocalLoss
from tasks.detection.truth_scores import evaluate_truth
from tasks.files.writing import write_json
from tasks.pictures.shown import shown
from tasks.transforms.resizing import SAMPLED, resize_image
from tasks.values.counted import counted
from tasks.values.sizes import parse_size

LOSSES = {"softmax": MultiboxLoss, "sigmoid": SigmoidFocalLoss, "distribution": GFLLoss}  # by the head's `score_type`


class DetectionTask(VisionTask):
    """Boxes with a class and a score.

    The loss follows from what the head's numbers mean. Scores are COCO's, over boxes in the px of the image files.

    Args:
        network, classes, options: As in `VisionTask`; the head is a `DetectionHead`.
        loss: Settings of the head's loss: `MultiboxLoss`, `SigmoidFocalLoss` or `GFLLoss`.
        score_threshold, candidates, iou_threshold, max_detections: As in `select_detections`. Of a head that needs no
            suppression the second and third are for views of one image alone: `tta_scales`, `tta_flip`, `tile`.
        evaluator: Engine of the validation's scores, as in `evaluate_boxes`.
        tta_scales: Factors of the network's input size, in evaluation and prediction: the boxes of views of these sizes
            go through suppression together. Each view is resized from the image file. SSD's anchors are parts of the
            image, so other factors than 1 help a detector that was trained at several sizes (`multiscale`) alone.
        tta_flip: Take the boxes of each view mirrored, too.
        tile, tile_overlap: As in `Tiling`, in evaluation and prediction, in px of the image files; each tile and the
            whole image are resized to what the network sees, and what they show is merged.

    Raises:
        ValueError: A setting is out of its range.
    """

    kind = "detection"
    needs = "images with boxes: data=coco, yolo, voc, labelme, cvat or demo"
    monitor = "val/mAP"
    batch_keys = ("images", "boxes", "labels")
    validation_keys = ("image_ids", "image_sizes")
    distilled = ("anchors", "features")
    outputs = OUTPUTS
    whole_output = "nms"
    losses_of_output = {"decoded": "limit", "nms": "limit"}
    usual_classes, usual_size = 80, (320, 320)
    has_thresholds = True

    def __init__(
        self, network: Network, classes: Classes, *, loss: Mapping[str, Any] | None = None,
        score_threshold: float = 0.001, candidates: int = 300, iou_threshold: float = 0.55, max_detections: int = 300,
        evaluator: str = "fast", tta_scales: Sequence[float] = (1.0,), tta_flip: bool = False,
        tile: int | Sequence[int] | None = None, tile_overlap: float = 0.25, **options,
    ) -> None:  # fmt: skip
        super().__init__(network, classes, **options)
        try:
            self.criterion = LOSSES[network.head.score_type](**(loss or {}))
        except TypeError as error:
            raise ValueError(f"task.loss={dict(loss)}: {error}") from error
        if isinstance(self.criterion, GFLLoss):
            self.criterion.check_head(network.head)
        self.selection = {
            "score_threshold": score_threshold, "candidates": candidates, "iou_threshold": iou_threshold,
            "max_detections": max_detections,
        }  # fmt: skip
        for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"task.{name}={value}: expected a number from 0 to 1")
        for name, value in (("candidates", candidates), ("max_detections", max_detections)):
            if value < 1:
                raise ValueError(f"task.{name}={value}: expected 1 or more")
        self.unsuppressed = None if getattr(network.head, "suppresses", True) else free_selection(self.selection)
        self.evaluator, self.tiling = evaluator, Tiling(tile, tile_overlap)
        self.tta_scales, self.tta_flip = checked_scales(tta_scales), tta_flip
        self.category_ids = np.array(classes.numbers)  # of the results, by label
        self.truth: GroundTruth | None = None  # of the validation set, once it is known
        self.scores: CocoScores | None = None
        self.analysis: ErrorAnalysis | None = None  # of the detections that were reported last

    @property
    def chosen(self) -> dict[str, Any]:
        """How detections are selected of what the network predicts in one view; views of an image overlap anyhow."""
        views = self.tta_flip or self.tta_scales != (1.0,)
        return self.selection if views or self.unsuppressed is None else self.unsuppressed

    def loss(self, raw: dict[str, Tensor], batch: dict) -> dict[str, Tensor]:
        return self.criterion(raw, batch, self.network.head, tuple(batch["images"].shape[-2:]))

    def predict(
        self, raw: dict[str, Tensor], image_sizes: Sequence[tuple[int, int]], input_size: tuple[int, int]
    ) -> list[Detections]:
        """Detections of each image, boxes in px of (H, W) = its entry of `image_sizes`.

        Args:
            raw: What the head gave, or an artifact: decoded, or final detections.
            image_sizes, input_size: As in `VisionTask.predict`.
        """
        if "labels" in raw:
            found = unpadded(raw["boxes"], raw["scores"], raw["labels"])
        elif "boxes" in raw:
            found = select_from_decoded(raw["boxes"], raw["scores"], **self.chosen)
        else:
            found = select_detections(*self.network.head.decode(raw, input_size), **self.chosen)
        return [one.resized(input_size, size) for one, size in zip(found, image_sizes, strict=True)]

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if isinstance(self.criterion, GFLLoss):
            self.criterion.begin_epoch(self.network.head, self.current_epoch)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.enable_validation:
            self._check_truth()

    def _check_truth(self) -> None:
        """Raise where detections could not be judged: loaders alone do not hold crowds, areas and ids."""
        if self.truth is None and not hasattr(self.trainer.datamodule, "ground_truth"):
            raise ValueError(
                "detections are judged by a data module's ground_truth('val'), which loaders alone do not have; give "
                "the trainer datamodule=, or set task.truth = GroundTruth.from_coco(<annotations as in COCO's JSON>)"
            )

    @classmethod
    def score_truth(
        cls, data: DetectionData, split: str, found: SplitLooks
    ) -> tuple[dict[str, float], list[tuple[str, str]]]:
        """Boxes go the way of a detector's: in px of the network's input, then back to each image."""
        scores = evaluate_truth(data, split, found)
        low = [(one.name, f"{one.ap:.3f} of AP") for one in scores.classes if one.ap < 1 - 1e-6]
        return {"mAP": scores.numbers["AP"]}, low

    @classmethod
    def check_network(
        cls, config: Mapping[str, Any], data: DetectionData, found: Mapping[str, SplitLooks], outcome: Outcome
    ) -> None:
        check_anchors(config, data, found, outcome, LOSSES)

    @classmethod
    def fitted(cls, config: Config, data: VisionDataModule) -> Config:
        """Fit `head.scales=auto` to the training boxes."""
        if not isinstance(data, DetectionData):
            return config
        return with_fitted_scales(config, data, LOSSES)

    def findings(self, data: VisionDataModule) -> list[Finding]:
        if not isinstance(data, DetectionData):
            return []
        threshold = getattr(self.criterion, "match_threshold", 0.0)
        head, annotations = self.network.head, data.annotations("train")
        reach = anchor_reach(head, threshold, annotations, data.image_size, self.classes.names)
        if reach and self.config:
            reach += advice(head, self.config["head"], threshold, annotations, data.image_size)
        return [Finding(logging.INFO, f"train: {reach}")] if reach else []

    def take_ids(self, ids: Sequence[int]) -> None:
        self.category_ids = np.array(ids)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.results = DetectionResults()

    def validation_step(self, batch: dict, index: int) -> dict:
        raw = self(batch["images"])
        count = len(batch["names"])
        # an artifact's decoded boxes have no loss
        self.add_validation_loss(math.nan if "boxes" in raw else sum(self.loss(raw, batch).values()), count)
        input_size = tuple(batch["images"].shape[-2:])
        if self.tiling.tile or self.tta_scales != (1.0,):
            detections = self._found_in_files(batch["image_ids"], input_size)
        else:
            raw = self.evaluate_views([batch["images"]], input_size, raw)
            detections = self.predict(raw, batch["image_sizes"], input_size)
        for image_id, found in zip(batch["image_ids"], detections, strict=True):
            self.results.add(image_id, found.boxes, found.scores, self.category_ids[found.labels.cpu().numpy()])
        return {"detections": detections}

    def evaluate_views(
        self, views: Sequence[Tensor], input_size: tuple[int, int], raw: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Predict views of the same images as one, for `predict`: with test-time augmentation all their boxes.

        Args:
            views: (N, C, h, w) each, one for each of `tta_scales`.
            input_size: (H, W) px that boxes refer to.
            raw: What the network gives for the first view, where that is known.
        """
        raw = self(views[0]) if raw is None else raw
        if len(views) == 1 and not self.tta_flip and tuple(views[0].shape[-2:]) == tuple(input_size):
            return raw
        found = []
        for number, view in enumerate(views):
            size = tuple(view.shape[-2:])
            for mirrored in (False, True)[: 1 + self.tta_flip]:
                seen = raw if not (number or mirrored) else self(view.flip(-1) if mirrored else view)
                found.append((decoded(seen, self.network.head, size, len(self.classes)), size, mirrored))
        return pooled(found, input_size)

    def _found_in_files(self, image_ids: Sequence[int], input_size: tuple[int, int]) -> list[Detections]:
        """Detections in images as their files hold them, which a batch does not."""
        if not isinstance(data := self.trainer.datamodule, DetectionData):
            raise ValueError(
                "task.tile, task.tta_scales: tiles and scaled views are made of the image files, which loaders alone "
                "do not have; set null and [1.0]"
            )
        dataset = data.dataset("val")
        ids = dataset.annotations.image_ids[dataset.indices]
        predictor = self.predictor({"image_size": input_size, "min_score": None})
        places = [int(np.flatnonzero(ids == int(number))[0]) for number in image_ids]
        return [predictor.find(dataset.read(place)[0]) for place in places]

    def on_validation_epoch_end(self) -> None:
        self.results = self._merged(self.results)
        total, images = self._summed(self.validation_loss)
        self.validated_images = int(images)
        self.log("val/loss", total / images)
        self.scores = evaluate_boxes(self._ground_truth(), self.results, engine=self.evaluator, curves=True)
        values = {key: value for key, value in self.scores.to_dict().items() if value is not None}
        self.log(self.monitor, values.pop(self.monitor, float("nan")), prog_bar=True)
        self.log_dict(values)

    def _ground_truth(self) -> GroundTruth:
        """All of the validation set; where the trainer limits the batches, of the images that they held."""
        if self.truth is None:
            self._check_truth()
            self.truth = GroundTruth.from_coco(self.trainer.datamodule.ground_truth("val"))
        limit = self.trainer.limit_val_batches  # a whole number counts batches, 1.0 is all of them
        limited = limit is not None and (isinstance(limit, int) or limit < 1)
        return self.truth.of_images(self.results.images) if limited else self.truth

    def picture_samples(self, batch: dict, outputs: dict, places: Sequence[int]) -> list[DetectionSample]:
        samples = []
        height, width = batch["images"].shape[-2:]
        columns = (batch["images"], batch["image_sizes"], batch["boxes"], batch["labels"], outputs["detections"],
                   batch["names"])  # fmt: skip
        for image, size, boxes, labels, found, name in ([column[place] for column in columns] for place in places):
            picture = cv2.resize(shown(image.permute(1, 2, 0).cpu().numpy(), self.network.pixels), size[::-1])
            factor = np.tile(np.divide(size[::-1], (width, height)), 2)
            there = (labels >= 0).cpu().numpy()
            arrays = (found.boxes, found.labels, found.scores)
            predicted_boxes, predicted_labels, scores = (values.float().cpu().numpy() for values in arrays)
            samples.append(DetectionSample(
                picture, boxes.cpu().numpy()[there] * factor, labels.cpu().numpy()[there], predicted_boxes,
                predicted_labels.astype(int), scores, f"{name}  {counted(int(there.sum()), 'box', 'boxes')}",
            ))  # fmt: skip
        return samples

    def draw_sheet(self, samples: Sequence[DetectionSample]) -> np.ndarray:
        return detection_sheet(samples, self.classes.names, np.array(self.classes.palette, np.uint8))

    def report(self, folder: Path) -> tuple[dict[str, float], list[Table]]:
        """Leave detections.json in COCO's results form, precision_recall.png, and the analysis of the errors."""
        write_json(folder / "detections.json", self.results.to_json())
        self.analysis = analyse_errors(self._ground_truth(), self.results)
        return score_report(self.scores, self.analysis, folder, self.trainer.datamodule)

    def best_thresholds(self) -> list[float | None]:
        numbers = self.analysis.matches.truth.categories
        known = {number: one.threshold for number, one in zip(numbers, self.analysis.thresholds, strict=True)}
        ordered = [known.get(number, math.nan) for number in self.category_ids.tolist()]
        return [None if math.isnan(one) else one for one in ordered]

    @classmethod
    def image_scores(cls, folder: Path, record: Mapping[str, Any]) -> ImageScores:
        return read_image_scores(folder, record)

    @classmethod
    def image_size_of(cls, data: Mapping[str, Any]) -> tuple[int, int]:
        size = data.get("image_size")
        return parse_size(IMAGE_SIZE if size is None else size, "data.image_size")

    def predictor(self, config: Mapping[str, Any]) -> DetectionPredictor:
        size = config["image_size"]
        size = stored_image_size(config) if size is None else size
        return DetectionPredictor(self, size, min_score=config["min_score"])

    def export_options(self, output: str) -> frozenset[str]:
        """ "limit" of decoded boxes; of suppression also the settings of `StaticNMS`."""
        return OPTIONS[output]

    def exported(
        self, network: Network, output: str, image_size: tuple[int, int] | None, *, limit: int | None = None,
        **selection: Any,
    ) -> DetectionDeployable:  # fmt: skip
        """As `VisionTask.exported`.

        Args:
            network, output, image_size: As there; the size has to be known.
            limit: The best anchors that are decoded, or the best (box, class) pairs that NMS looks at; None: four times
                `max_detections`, and 300 at least.
            selection: score_threshold, candidates, iou_threshold, max_detections of NMS, where they are not the task's
                own; block and rounds, as in `StaticNMS`.

        Raises:
            ValueError: The size is not known.
        """
        if image_size is None:
            raise ValueError("detection has anchors for images of one size; give image_size=(H, W)")
        chosen, suppresses = self.selection | selection, self.unsuppressed is None
        if not suppresses:
            chosen = free_selection(chosen)
        if limit is None:
            limit = default_limit(chosen["max_detections"]) if suppresses else chosen["max_detections"]
        return DetectionDeployable(network, output, image_size, limit, chosen, self.classes.names)

    def chosen_output(self, settings: Mapping[str, Any], held: Sequence[str]) -> str:
        suppresses = self.unsuppressed is None
        return held_output(settings["detections"], held, settings["limit"], suppresses=suppresses)

    def check_deployed(self) -> None:
        check_one_size(self.tta_scales)

    @classmethod
    def fixed_settings(cls, output: str) -> tuple[str, ...]:
        return SELECTION if output == "nms" else ()

    def from_artifact(self, outputs: dict[str, Tensor], output: str, size: tuple[int, int]) -> dict[str, Tensor]:
        """Boxes and scores as they are, unless the artifact gives the raw maps."""
        return outputs

    def preprocessing(self, image_size: tuple[int, int]) -> dict[str, Any]:
        return super().preprocessing(image_size) | {"resizing": SAMPLED}

    def resized_picture(self, image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        return resize_image(image, image_size)

    def decoding(self, output: str, image_size: tuple[int, int]) -> dict[str, Any]:
        return output_meaning(output, self.network.head, self.unsuppressed or self.selection)

    def anchors(self, output: str, image_size: tuple[int, int]) -> dict[str, Any]:
        if output != "raw":
            return {}
        head = self.network.head
        return {"boxes": head.anchors(image_size).tolist(), "score_type": head.score_type, "unit": "px, xyxy"}


def score_report(
    scores: CocoScores, analysis: ErrorAnalysis, folder: Path, data: DetectionData
) -> tuple[dict[str, float], list[Table]]:
    """Leave precision_recall.png and the files of `write_errors` in the folder.

    Returns:
        Metrics, and tables with what must be known about them last.
    """
    metrics = {key: value for key, value in scores.to_dict().items() if value is not None}
    precision_recall_picture(scores, folder / "precision_recall.png")
    columns = {"F1": "f1", "at score": "threshold"}
    best = {title: [getattr(one, name) for one in analysis.thresholds] for title, name in columns.items()}
    notes = [("to know", ("note",), [(note,) for note in scores.notes])] if scores.notes else []
    tables = [*format_scores(scores, best), *write_errors(analysis, folder, data), *notes]
    return metrics | analysis.metrics(), tables
