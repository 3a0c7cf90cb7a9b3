"""The contract of a task, kept by classification, detection, segmentation, and by a task of your own."""

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from backbones.blocks.fusion import fuse_model
from tasks.base.image_scores import ImageScores
from tasks.base.network import Deployable, Network
from tasks.base.outcome import Outcome
from tasks.base.plain_config import Config
from tasks.base.predictor import Predictor
from tasks.base.tables import Table
from tasks.base.training_steps import Raw, TrainingSteps
from tasks.data.datamodule import VisionDataModule
from tasks.data.label_counts import Finding
from tasks.data.looks import SplitLooks
from tasks.transforms.resizing import AVERAGED, resize_antialiased

Size = tuple[int, int]  # (H, W) px


class VisionTask(TrainingSteps):
    """A network with its loss, its predictions and its metrics.

    A new task has to say its `kind`, `monitor`, `outputs` and `whole_output`, and how to compute a loss, predict,
    validate, draw and export; the rest has answers here that are right where there is nothing to tell. How a step is
    trained is in `TrainingSteps`, whose arguments every task takes.

    Attributes:
        kind: The task's name in configs ("segmentation").
        needs: What data it takes, and which choices give that, for errors.
        monitor: The metric that chooses the best checkpoint; higher is better.
        batch_keys: What a batch, a dict, holds at least; "names" of the images are numbered where they are missing.
        validation_keys: What one of the validation holds besides.
        class_weighted: Whether the loss takes `class_weights`.
        teachers: What a distillation may follow: "checkpoint" of the same task, "timm" for a classifier of timm's.
        distilled: What other distillations may compare with a checkpoint of the same task: "logits" of pixels,
            "features" of the backbone, "anchors".
        outputs: What an exported network may give out, the default first.
        whole_output: The one of `outputs` after which nothing is left to do, which benchmarks time as a whole.
        losses_of_output: For those of `outputs` that cost accuracy by themselves, what they cut off: "tail", "limit".
        usual_classes, usual_size: Classes, and (H, W) px of an image, of a benchmark without data.
        has_thresholds: Whether a report tells `best_thresholds`.
        evaluator: Engine that computes its metric, of those that the task knows; ignored where it has no choice.
        shorter_side: Side in px that the shorter one of images of any size is resized to, as `weights=` were evaluated;
            None: images are taken as the data gives them.
    """

    kind: str
    needs: str = "data of its own kind"
    class_weighted = False
    teachers: tuple[str, ...] = ()
    distilled: tuple[str, ...] = ()
    outputs: tuple[str, ...]
    whole_output: str
    losses_of_output: Mapping[str, str] = {}
    usual_classes = 1000
    usual_size: Size = (224, 224)
    has_thresholds = False
    evaluator = "fast"
    shorter_side: int | None = None

    # --- evaluation

    @abstractmethod
    def predict(self, raw: Raw, image_sizes: Sequence[Size], input_size: Size) -> list:
        """Predict for each image, at the (H, W) px given; the network saw images of `input_size`."""

    def take_ids(self, ids: Sequence[int]) -> None:
        """Write results with a data set's own number of each class, where they hold such numbers."""
        return

    @abstractmethod
    def picture_samples(self, batch: dict, outputs: dict, places: Sequence[int]) -> list:
        """Collect what a sheet shows of some images of a validated batch, one sample an image.

        `outputs` came from `validation_step`.
        """

    @abstractmethod
    def draw_sheet(self, samples: Sequence) -> np.ndarray:
        """Draw samples from `picture_samples` as one picture, (H, W, 3) uint8 RGB."""

    def report(self, folder: Path) -> tuple[dict[str, float], list[Table]]:
        """Leave further files of the last validation in the folder.

        Returns:
            Metrics unrounded (what is logged is float32), and tables that say more than they.
        """
        return {}, []

    def keep_image_scores(self) -> None:
        """Let validations keep of each image what `image_scores` needs, which `report` leaves."""

    @classmethod
    def image_scores(cls, folder: Path, record: Mapping[str, Any]) -> ImageScores:
        """Read an evaluation's score as a function of its images.

        Args:
            folder: What `report` left there.
            record: Content of its evaluation.json.

        Raises:
            ValueError: The task keeps no scores of images.
            FileNotFoundError: A file is not there.
        """
        raise ValueError(f"evaluations of {cls.kind} keep no scores of images, so that they cannot be compared")

    def score_boundaries(self) -> None:
        """Let validations compute boundary IoU, which `report` tells.

        Raises:
            ValueError: The task has no masks.
        """
        raise ValueError(f"boundary_iou=true is for segmentation, this is {self.kind}; leave it out")

    def best_thresholds(self) -> list[float | None]:
        """Get, after `report`, the score from which on predictions of each class are best; None for a class without."""
        raise NotImplementedError

    # --- data

    @classmethod
    def image_size_of(cls, data: Mapping[str, Any]) -> Size | None:
        """Get the (H, W) px of a validation image from the settings of the data; None where it is up to the images."""
        return None

    @classmethod
    def score_truth(
        cls, data: VisionDataModule, split: str, found: SplitLooks
    ) -> tuple[dict[str, float], list[tuple[str, str]]]:
        """Score a split's ground truth as if it had been predicted.

        Args:
            data: What holds it.
            split: "train" or "val".
            found: What reading every sample has shown.

        Returns:
            {metric: value}, and (class, its score in words) for each class below 1.0.
        """
        return {}, []

    @classmethod
    def check_network(
        cls, config: Mapping[str, Any], data: VisionDataModule, found: Mapping[str, SplitLooks], outcome: Outcome
    ) -> None:
        """Add to a check of the data what a configuration's network can make of it.

        Args:
            config: With backbone, head and task.
            data: What was looked at.
            found: What reading every sample of each split has shown.
            outcome: Of the check.
        """

    @classmethod
    def fitted(cls, config: Config, data: VisionDataModule) -> Config:
        """Put values that are fitted to the training data in place of settings that ask for that, such as "auto".

        A training calls it before it builds the network, so that checkpoints hold the values.

        Raises:
            ValueError: They cannot be fitted to this data.
        """
        return config

    def findings(self, data: VisionDataModule) -> list[Finding]:
        """Tell what a user should know of this network on this data before training."""
        return []

    # --- a user's own pictures

    @abstractmethod
    def predictor(self, config: Mapping[str, Any]) -> Predictor:
        """Make the predictor for single pictures.

        Args:
            config: Stored in the checkpoint, with `image_size`, `opacity` and `min_score`.
        """

    # --- export

    def deployable(self) -> Network:
        """Get the network alone: a fused copy in eval mode."""
        return cast(Network, fuse_model(copy.deepcopy(self.network).eval()))

    @abstractmethod
    def exported(self, network: nn.Module, output: str, image_size: Size | None, **options: Any) -> Deployable:
        """Wrap a network as it is exported.

        Args:
            network: From `deployable`.
            output: One of `outputs`.
            image_size: (H, W) px of the images, if known.
            options: Those of `export_options`.
        """

    def export_options(self, output: str) -> frozenset[str]:
        """Names of the options that `exported` takes for an output."""
        return frozenset()

    def chosen_output(self, settings: Mapping[str, Any], held: Sequence[str]) -> str:
        """Choose the one of `outputs` that a format gets.

        Args:
            settings: Of the export.
            held: Forms of detections that the format holds well.
        """
        return self.outputs[0]

    @classmethod
    def fixed_settings(cls, output: str) -> tuple[str, ...]:
        """Settings of the task that an artifact with this output has fixed."""
        return ()

    def check_export(self, image_size: Size) -> None:
        """Refuse an input's (H, W) px that the network is not for.

        Raises:
            ValueError: It is not for that.
        """

    def check_deployed(self) -> None:
        """Refuse settings of the task that no artifact can follow.

        Raises:
            ValueError: The setting, and what to set instead.
        """

    def from_artifact(self, outputs: dict[str, Tensor], output: str, size: Size) -> Raw:
        """Turn what an artifact gives into what the network would give, for predictions at (H, W) px."""
        (values,) = outputs.values()
        return values

    def preprocessing(self, image_size: Size) -> dict[str, Any]:
        """Describe in words and numbers how a picture becomes an input of (H, W) px, as `resized_picture` does it.

        Returns:
            "resize": words; "resizing": {"geometry": "stretch", or "centre" (the shorter side becomes "shorter_side"
            px, then the centre is cut out), "kernel", "antialias": whether it widens with the shrink, "area_above":
            times of the shrink above which pixels are averaged by area instead, "rounded", "padding"}.
        """
        return {"resize": "resize the whole picture to the input's size", "resizing": AVERAGED}

    def resized_picture(self, image: np.ndarray, image_size: Size) -> np.ndarray:
        """Make an input of (H, W) px, of any type, of a picture (h, w, C)."""
        return resize_antialiased(image, image_size)

    def decoding(self, output: str, image_size: Size) -> dict[str, Any]:
        """Describe what an artifact's numbers mean, and what is left to do with them.

        Returns:
            As in `Manifest.decoding`; anchors stand apart, in `anchors`.
        """
        return {}

    def anchors(self, output: str, image_size: Size) -> dict[str, Any]:
        """Get the anchors that a reader of an artifact needs, as in `Manifest.anchors`."""
        return {}
