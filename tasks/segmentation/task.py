"""Semantic segmentation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from heads.base import AUXILIARY
from tasks.base.image_scores import ImageScores
from tasks.base.network import Network
from tasks.base.tables import Table
from tasks.base.task import VisionTask
from tasks.base.test_time import check_one_size, checked_scales, scaled
from tasks.base.tiles import Tiling
from tasks.data.classes import Classes
from tasks.data.looks import SplitLooks
from tasks.data.masked_images import IGNORE_INDEX
from tasks.data.segmentation import SegmentationData
from tasks.files.writing import write_bytes, write_confusion
from tasks.pictures.confusion import confusion_picture
from tasks.pictures.shown import shown
from tasks.segmentation.blending import blended
from tasks.segmentation.boundary_iou import BoundaryIoU
from tasks.segmentation.confusion_matrix import ConfusionMatrix, predicted_classes
from tasks.segmentation.deployable import SegmentationDeployable
from tasks.segmentation.image_counts import ImageCounts, read_image_counts
from tasks.segmentation.loss import SegmentationLoss
from tasks.segmentation.pictures import segmentation_sheet
from tasks.segmentation.predictor import SegmentationPredictor


class SegmentationTask(VisionTask):
    """One class for every pixel.

    Scores come from one confusion matrix over the whole set, at the masks' own resolution.

    Args:
        network, classes, options: As in `VisionTask`.
        class_weights, label_smoothing, ohem_threshold, ohem_min_kept, dice_weight: As in `SegmentationLoss`.
        auxiliary_weight: Weight of the loss of each of a head's auxiliary logits, at their resolution.
        tta_scales: Resize factors whose class probabilities are averaged in evaluation and prediction.
        tta_flip: Average with the mirrored image as well.
        tile, tile_overlap: As in `Tiling`, in evaluation and prediction; logits are blended where tiles overlap.
    """

    kind = "segmentation"
    needs = (
        "images with masks: data=masks, coco_masks, yolo_masks, labelme_masks, cvat_masks, voc_masks, ade20k, camvid, "
        "cityscapes or demo"
    )
    monitor = "val/mIoU"
    batch_keys = ("images", "masks")
    class_weighted = True
    teachers = ("checkpoint",)
    distilled = ("logits", "features")
    outputs = ("logits", "argmax", "present", "argmax_low", "low")
    whole_output = "argmax"
    losses_of_output = {"argmax": "tail", "present": "tail", "argmax_low": "tail", "low": "tail"}
    usual_classes, usual_size = 19, (512, 1024)

    def __init__(
        self, network: Network, classes: Classes, *,
        class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0,
        ohem_threshold: float | None = None, ohem_min_kept: float = 0.1, dice_weight: float = 0.0,
        auxiliary_weight: float = 0.4, tta_scales: Sequence[float] = (1.0,), tta_flip: bool = False,
        tile: int | Sequence[int] | None = None, tile_overlap: float = 0.25, **options,
    ) -> None:  # fmt: skip
        super().__init__(network, classes, **options)
        if not 0 <= auxiliary_weight < math.inf:
            raise ValueError(f"task.auxiliary_weight={auxiliary_weight}: expected 0 or more")
        self.auxiliary_weight = auxiliary_weight
        self.criterion = SegmentationLoss(
            ignore_index=IGNORE_INDEX, class_weights=class_weights, label_smoothing=label_smoothing,
            ohem_threshold=ohem_threshold, ohem_min_kept=ohem_min_kept, dice_weight=dice_weight,
        )  # fmt: skip
        self.tta_scales, self.tta_flip = checked_scales(tta_scales), tta_flip
        self.tiling = Tiling(tile, tile_overlap)
        self.confusion = ConfusionMatrix(len(classes), ignore_index=IGNORE_INDEX)
        self.boundaries: BoundaryIoU | None = None
        self.image_counts: ImageCounts | None = None  # of an evaluation

    def loss(self, raw: Tensor | dict[str, Tensor], batch: dict) -> dict[str, Tensor]:
        """As `SegmentationLoss`; "auxiliary" is the weighed loss of a head's auxiliary logits, where it gives some."""
        masks = batch["masks"]
        if isinstance(raw, Tensor):
            return self.criterion(raw, masks)
        losses = self.criterion(raw["logits"], masks)
        further = [logits for name, logits in raw.items() if name.startswith(AUXILIARY)]
        if further and self.auxiliary_weight:
            parts = [self.criterion(logits, nearest(masks, logits.shape[-2:])) for logits in further]
            losses["auxiliary"] = self.auxiliary_weight * torch.stack([sum(part.values()) for part in parts]).sum()
        return losses

    def predict(
        self, raw: Tensor, image_sizes: Sequence[tuple[int, int]], input_size: tuple[int, int] | None = None
    ) -> list[Tensor]:
        """Class of every pixel: (H, W) uint8 for each image."""
        masks = []
        for logits, size in zip(raw, image_sizes, strict=True):
            if not logits.is_floating_point():  # an artifact's classes, at this size already
                masks.append(logits.to(torch.uint8))
                continue
            if tuple(logits.shape[-2:]) != tuple(size):
                logits = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
            masks.append(predicted_classes(logits[None])[0])
        return masks

    def resized(self, images: Tensor) -> Tensor:
        """Resize images to `shorter_side` px, the longer one rounded down; an artifact's own size stays its affair.

        Source: torchvision's references/segmentation, which so evaluate their weights.
        """
        if self.shorter_side is None or getattr(self.network, "image_size", None):
            return images
        size = images.shape[-2:]
        height, width = (side * self.shorter_side // min(size) for side in size)
        return F.interpolate(images.float(), (height, width), mode="bilinear", align_corners=False, antialias=True)

    def evaluate_images(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits at (H, W) px, or with test-time augmentation the logarithm of averaged probabilities.

        An artifact may give classes, as (N, H, W).
        """
        tiles = self.tiling.boxes(tuple(images.shape[-2:]))
        if len(tiles) == 1:
            return self._views(images, size)
        return self._at(blended(self._views, images, tiles), size)

    def _views(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """As `evaluate_images`, of whole images."""
        if self.tta_scales == (1.0,) and not self.tta_flip:
            return self.network(images, size)
        total = 0.0
        for scale in self.tta_scales:
            view, seen = images, scaled(tuple(images.shape[-2:]), scale)
            if scale != 1.0:
                view = F.interpolate(images.float(), seen, mode="bilinear", align_corners=False, antialias=True)
            total = total + self.network(view, size).softmax(1)
            if self.tta_flip:
                total = total + self.network(view.flip(-1), size).softmax(1).flip(-1)
        mean = total / (len(self.tta_scales) * (1 + self.tta_flip))
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.confusion.reset()
        if self.image_counts is not None:
            self.keep_image_scores()
        if self.boundaries:
            self.boundaries = BoundaryIoU(len(self.classes), IGNORE_INDEX)

    def validation_step(self, batch: dict, index: int) -> dict:
        masks = batch["masks"]
        logits = self.evaluate_images(self.resized(batch["images"]), tuple(masks.shape[-2:]))
        # an artifact may give classes, which have no loss
        loss = sum(self.loss(logits, batch).values()) if logits.is_floating_point() else math.nan
        self.add_validation_loss(loss, len(masks))
        predicted = predicted_classes(logits) if logits.is_floating_point() else logits.to(torch.uint8)
        if self.image_counts is None:
            self.confusion.update(predicted, masks)
        else:
            self.image_counts.update(batch["names"], predicted, masks, self.confusion)
        if self.boundaries:
            self.boundaries.update(predicted, masks)
        return {"predicted": predicted}

    def on_validation_epoch_end(self) -> None:
        self.confusion.matrix = self._summed(self.confusion.matrix)
        if self.image_counts is not None:
            self.image_counts = self._merged(self.image_counts)
        total, images = self._summed(self.validation_loss)
        self.validated_images = int(images)
        self.log("val/loss", total / images)
        scores = self.confusion.scores()
        self.log("val/mIoU", scores.miou, prog_bar=True)
        self.log_dict({"val/pixel_accuracy": scores.pixel_accuracy, "val/mean_accuracy": scores.mean_accuracy})
        self.log_dict({f"val/IoU/{name}": iou for name, iou in zip(self.classes.names, scores.iou, strict=True)})
        if self.boundaries:
            self.boundaries.counts = self._summed(self.boundaries.counts)

    def keep_image_scores(self) -> None:
        self.image_counts = ImageCounts()

    def score_boundaries(self) -> None:
        self.boundaries = BoundaryIoU(len(self.classes), IGNORE_INDEX)

    def report(self, folder: Path) -> tuple[dict[str, float], list[Table]]:
        """Leave confusion.png, confusion.csv and image_counts.npz; tell boundary IoU where it was asked for."""
        matrix, names = self.confusion.matrix.numpy(), self.classes.names
        title = (
            f"{int(matrix.sum()):,} px, {self.confusion.scores().pixel_accuracy:.1%} right; in percent of each class"
        )
        write_bytes(folder / "confusion.png", confusion_picture(matrix, names, title=title, percent=True))
        write_confusion(folder / "confusion.csv", matrix, names)
        if self.image_counts is not None:
            self.image_counts.write(folder)
        if not self.boundaries:
            return {}, []
        iou = self.boundaries.iou()
        each = {f"val/boundary_IoU/{name}": value for name, value in zip(names, iou.tolist(), strict=True)}
        return {"val/boundary_mIoU": iou.nanmean().item(), **each}, []

    @classmethod
    def image_scores(cls, folder: Path, record: Mapping[str, Any]) -> ImageScores:
        return read_image_counts(folder)

    @classmethod
    def score_truth(
        cls, data: SegmentationData, split: str, found: SplitLooks
    ) -> tuple[dict[str, float], list[tuple[str, str]]]:
        names = data.classes.names
        confusion = ConfusionMatrix(len(names), IGNORE_INDEX)
        if found.pixels is not None:
            confusion.matrix = torch.from_numpy(found.pixels[: len(names)]).diag()
        result = confusion.scores()
        each = zip(names, result.iou.tolist(), strict=True)
        return {"mIoU": result.miou}, [(name, f"{value:.3f} of IoU") for name, value in each if value < 1]

    def picture_samples(self, batch: dict, outputs: dict, places: Sequence[int]) -> list[tuple]:
        samples = []
        for place in places:
            image, mask, predicted = batch["images"][place], batch["masks"][place], outputs["predicted"][place]
            confusion = ConfusionMatrix(len(self.classes))
            confusion.update(predicted[None], mask[None])
            picture = shown(image.permute(1, 2, 0).cpu().numpy(), self.network.pixels)
            caption = f"{batch['names'][place]}  mIoU {confusion.scores().miou:.3f}"
            samples.append((picture, mask.cpu().numpy(), predicted.cpu().numpy(), caption))
        return samples

    def draw_sheet(self, samples: Sequence[tuple]) -> np.ndarray:
        return segmentation_sheet(samples, self.classes.names, self.classes.palette)

    def predictor(self, config: Mapping[str, Any]) -> SegmentationPredictor:
        size = None if self.tiling.tile and config.get("artifact") else config["image_size"]  # each tile is resized
        return SegmentationPredictor(self, size, opacity=config["opacity"])

    def exported(self, network: Network, output: str, image_size: tuple[int, int] | None) -> SegmentationDeployable:
        return SegmentationDeployable(network, output)

    def chosen_output(self, settings: Mapping[str, Any], held: Sequence[str]) -> str:
        return settings["tail"]

    def check_deployed(self) -> None:
        check_one_size(self.tta_scales)

    def from_artifact(self, outputs: dict[str, Tensor], output: str, size: tuple[int, int]) -> Tensor:
        """Logits are brought to the size bilinearly, classes by the nearest."""
        return self._at(super().from_artifact(outputs, output, size), size)

    def decoding(self, output: str, image_size: tuple[int, int]) -> dict[str, Any]:
        if output == "logits":
            return {"classes": "the largest of axis 1", "resize": {"kernel": "bilinear", "antialias": False}}
        return {"classes": "values", "resize": {"kernel": "nearest"}}

    def _at(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(values.shape[-2:]) == size:
            return values
        if values.is_floating_point():
            return F.interpolate(values, size, mode="bilinear", align_corners=False)
        return F.interpolate(values[:, None].to(torch.uint8), size, mode="nearest")[:, 0]


def nearest(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Pick from masks (N, H, W) of any type the px nearest to those of maps of (h, w) px.

    >>> nearest(torch.arange(8).reshape(1, 1, 8), (1, 4)).tolist()
    [[[1, 3, 5, 7]]]
    """
    rows, columns = (
        ((torch.arange(small, device=masks.device) + 0.5) * (large / small)).long()
        for small, large in zip(size, masks.shape[-2:], strict=True)
    )
    return masks[:, rows][:, :, columns]
