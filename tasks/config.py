"""Schemas of our own scalar settings: a misspelt key fails while the configuration is composed."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainConfig:
    """A run. Backbone, head, data and the like are described by the signatures of what they name in `_target_`.

    Attributes:
        seed: Of initialisation, order and augmentation.
        checkpoint: Checkpoint to go on from.
        output_dir: Folder of the run; none: runs/{task}-{backbone}, numbered where that is taken.
        overwrite: Allow `output_dir` to hold an earlier run, which is then replaced.
        ema_decay: Decay of the exponential moving average of the weights; none: no average.
        tensorboard: Write TensorBoard events beside metrics.csv.
        choices: Which file of each group was chosen; filled in by the tool.
    """

    seed: int = 0
    checkpoint: str | None = None
    output_dir: str | None = None
    overwrite: bool = False
    ema_decay: float | None = None
    tensorboard: bool = True
    choices: dict[str, Any] = field(default_factory=dict)
    backbone: Any = None
    task: Any = None
    head: Any = None
    data: Any = None
    optimizer: Any = None
    scheduler: Any = None
    trainer: Any = None


@dataclass
class EvaluateConfig(TrainConfig):
    """An evaluation of a checkpoint, all that is not given being the checkpoint's own; or of anybody's detections.

    Attributes:
        output_dir: Folder of evaluation.json and evaluation.png; none: the checkpoint's, or that of the predictions.
        predictions: Detections in COCO's results form, in place of a checkpoint, judged by `data`.
        evaluator: Judge of detections: "pycocotools", or "fast" for the same numbers sooner.
    """

    predictions: str | None = None
    evaluator: str = "pycocotools"


@dataclass
class PredictConfig(TrainConfig):
    """Predictions for a user's own pictures.

    Attributes:
        source: An image, a folder of images, or a video.
        output_dir: Where the pictures go; none: predictions/ beside the checkpoint.
        opacity: Of the colours over the picture, 0 to 1.
        min_score: Boxes of lower score are not drawn; the JSON holds them all.
        image_size: (H, W) px to resize the pictures to for the network; none: segmentation takes their own size,
            detection that of its validation. Results always have the pictures' own size.
    """

    source: str | None = None
    opacity: float = 0.5
    min_score: float = 0.3
    image_size: Any = None


@dataclass
class DescribeConfig(TrainConfig):
    """A backbone, or the network of a task, in numbers.

    Attributes:
        all: Every backbone of conf/backbone as one table.
        image_size: (H, W) px of the profiled image.
        num_classes: Classes of the head; none: the checkpoint's, or 19.
        output_json: File for the same numbers.
    """

    all: bool = False
    image_size: list[int] = field(default_factory=lambda: [224, 224])
    num_classes: int | None = None
    output_json: str | None = None


@dataclass
class ImportWeightsConfig(TrainConfig):
    """Foreign weights as a file of ours.

    Attributes:
        source: As in `backbone.weights`: a file, "torchvision", "timm", or with ":" and an entry.
        output: File to write.
        mean, std: Normalisation of values in [0, 1]; none: what the source states, else ImageNet's.
        output_json: File for the report.
    """

    source: str | None = None
    output: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    output_json: str | None = None


@dataclass
class DataConfig(TrainConfig):
    """A look at a data set.

    Attributes:
        action: "check": open every file and compare it with what is expected.
        splits: Which splits.
        output_json: File for the report.
    """

    action: str = "check"
    splits: list[str] = field(default_factory=lambda: ["train", "val"])
    output_json: str | None = None


SCHEMAS = {
    "train_schema": TrainConfig,
    "evaluate_schema": EvaluateConfig,
    "predict_schema": PredictConfig,
    "describe_schema": DescribeConfig,
    "data_schema": DataConfig,
    "import_weights_schema": ImportWeightsConfig,
}
