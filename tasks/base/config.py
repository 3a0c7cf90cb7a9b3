"""Schemas of our own scalar settings: a misspelt key fails while the configuration is composed."""

from dataclasses import dataclass, field
from typing import Any

from tasks.base.export_settings import ExportSettings
from tasks.base.target_settings import AndroidSettings, WebSettings
from tasks.values.pixel_format import PixelSettings

NO_TASK = "no task is chosen; give task=segmentation"


@dataclass
class TrainConfig:
    """Settings of a training run; backbone, head and data are described by the signatures of their `_target_`s.

    Attributes:
        seed: Seed of initialisation, order and augmentation.
        checkpoint: Checkpoint of a run to go on from.
        weights: Trained weights of the whole network to start from, at epoch 0: a checkpoint of ours, "torchvision", or
            a file of torchvision's SSDLite or LR-ASPP, mmdetection's SSDLite-MobileNetV2 or mmsegmentation's LR-ASPP.
            Class layers are carried by class name, and backbone and head are those of the weights.
        resume: "auto" goes on from the last good checkpoint in `output_dir`, or starts where there is none, so that the
            same command starts a run and goes on with it. Without it only `checkpoint` goes on.
        checkpoint_every_steps: Write last.ckpt within epochs too, after so many steps of the optimiser each time;
            else after epochs, and at SIGTERM or Ctrl-C.
        output_dir: Folder of the run; else runs/{task}-{backbone}, numbered where that is taken.
        overwrite: Allow `output_dir` to hold an earlier run, which is then replaced; evaluations of it go, too.
        ema_decay: Decay of the exponential moving average of the weights, 0.9998 say; else no average.
        final_weight_decay: Weight decay at the run's end, reached along half a cosine; else it is constant.
        average_best: Number of best checkpoints whose weights are averaged at the run's end; else none are.
        patience: Number of validations in a row without a better score after which the run ends; else it runs all
            epochs. best.ckpt is of the best one either way.
        tensorboard: Write TensorBoard events beside metrics.csv.
        data_variant: End of the names of data sets that are made for a task, as its file says: with "masks", data=coco
            means data=coco_masks where there is one.
        pixels: Format of the images.
        choices: Which file of each group was chosen; filled in by the tool.
    """

    seed: int = 0
    checkpoint: str | None = None
    weights: str | None = None
    resume: str | None = None
    checkpoint_every_steps: int | None = None
    output_dir: str | None = None
    overwrite: bool = False
    ema_decay: float | None = None
    final_weight_decay: float | None = None
    average_best: int | None = None
    patience: int | None = None
    tensorboard: bool = True
    data_variant: str | None = None
    pixels: PixelSettings = field(default_factory=PixelSettings)
    choices: dict[str, Any] = field(default_factory=dict)
    backbone: Any = None
    task: Any = None
    head: Any = None
    data: Any = None
    optimizer: Any = None
    scheduler: Any = None
    distillation: Any = None
    qat: Any = None
    trainer: Any = None
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)


@dataclass
class TuneConfig(TrainConfig):
    """A search for hyperparameters; all other settings are those of each training.

    Attributes:
        search: What is searched, by setting: ranges such as [1e-4, 1e-1, log], [0, 0.3, float] and [1, 64, int, log],
            or lists of choices such as [8, 16, 32] and [sgd, adamw].
        trials: Trainings in all; the same command with a higher number goes on.
        output_dir: Folder of the study and its runs, where a killed search goes on; else runs/tune-{task}-{backbone}.
    """

    search: Any = None
    trials: int = 20


@dataclass
class EvaluateConfig(TrainConfig):
    """An evaluation of a checkpoint, all that is not given being the checkpoint's own; of published weights, by
    `task` and `weights`, or `backbone.weights` and `head.weights`; or of anybody's detections.

    Attributes:
        output_dir: Folder of evaluation.json and evaluation.png; else the checkpoint's, or that of the predictions, or
            for weights runs/evaluation-{task}-{backbone}; and where that holds another evaluation, or other data or
            settings are given, evaluation-2, -3 ... in it.
        overwrite: Replace the evaluation of something else in `output_dir`.
        predictions: Detections in COCO's results form, in place of a checkpoint, judged by `data`.
        evaluator: Judge of detections: "pycocotools", or "fast" for the same numbers sooner.
        boundary_iou: Score a segmenter near the classes' contours, too, within 2% of an image's diagonal; it takes a
            tenth of a second an image of 1024 x 2048 px.
        store_thresholds: Write the score of best F1 of each class into a detector's checkpoint. Predictions of it and
            of its artifacts are then drawn from there on; AP is of all boxes as before.
        artifact: Folder of an artifact of tools/export.py, in place of a checkpoint.
        threads: CPU threads of an artifact's runtime.
        split: "test" for the test split of the data: "val" in the paths of its settings becomes "test".
    """

    artifact: str | None = None
    threads: int = 1
    split: str = "val"
    predictions: str | None = None
    evaluator: str = "pycocotools"
    boundary_iou: bool = False
    store_thresholds: bool = False


@dataclass
class PredictConfig(TrainConfig):
    """Predictions for a user's own pictures.

    Attributes:
        source: An image, a video, or a folder of images and videos.
        split: "val" or "test": the images of that split of the data, in place of a source; their ground truth need not
            be there. Results are numbered as the data set's, and submission/ has the masks that its benchmark takes.
        output_dir: Folder of the pictures; else predictions/ beside the checkpoint, or predictions-2, -3 ... where that
            holds those of another source.
        overwrite: Allow `output_dir` to hold the predictions of another source.
        overlays: Leave what was found drawn over the pictures, which is most of the time and disk.
        opacity: Opacity of the colours over the picture, 0 to 1.
        min_score: Boxes of lower score are not drawn; the JSON holds them all. Else the thresholds that
            tools/evaluate.py store_thresholds=true stored, or 0.3.
        image_size: (H, W) px to resize the pictures to for the network, or the side of a square; of a
            classifier the side of the square cut out of the picture's middle. Else segmentation takes the pictures' own
            size, the others that of their validation. Results always have the pictures' own size.
        artifact: Folder of an artifact of tools/export.py, in place of a checkpoint.
        threads: CPU threads of an artifact's runtime.
    """

    artifact: str | None = None
    threads: int = 1

    source: str | None = None
    split: str | None = None
    overlays: bool = True
    opacity: float = 0.5
    min_score: float | None = None
    image_size: Any = None


@dataclass
class DescribeConfig(TrainConfig):
    """A backbone, or the network of a task, in numbers.

    Attributes:
        all: Describe every backbone of conf/backbone in one table.
        image_size: (H, W) px of the profiled image, or the side of a square.
        num_classes: Classes of the head; else those of the checkpoint or the weights, or 19.
        output_json: JSON file for the same numbers.
    """

    all: bool = False
    image_size: Any = field(default_factory=lambda: [224, 224])
    num_classes: int | None = None
    output_json: str | None = None


@dataclass
class ImportWeightsConfig(TrainConfig):
    """Foreign weights as a file of ours.

    Attributes:
        source: Weights to convert: a file, "torchvision", "timm", or the latter with ":" and an entry.
        output: File to write.
        overwrite: Replace a file of that name.
        mean, std: Normalisation of values in [0, 1], three numbers; else what the source states, or ImageNet's.
        output_json: JSON file for the report.
    """

    source: str | None = None
    output: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    output_json: str | None = None


@dataclass
class CompareConfig:
    """A comparison of two evaluations on the same images.

    Attributes:
        a, b: Folders that tools/evaluate.py left, or their evaluation.json.
        samples: Draws of the images, for the interval of the difference.
        seed: Of the draws.
        output_json: JSON file for the numbers.
        choices: Which file of each group was chosen; filled in by the tool.
    """

    a: str | None = None
    b: str | None = None
    samples: int = 1000
    seed: int = 0
    output_json: str | None = None
    choices: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig(TrainConfig):
    """A look at a data set, or another form of it.

    Attributes:
        action: "check", "stats", "preview", "shards", "crops", "convert" or "split", as above.
        splits: Splits to look at; of "split" those whose images are divided.
        output_dir: Folder to make, of report and sheet, or of a data set; else runs/data-{data}-{action}, numbered
            where that is taken. Actions that make a data set need it.
        overwrite: Allow `output_dir` to hold an earlier report, which is then replaced.
        output_json: JSON file for the report, besides.
        samples: Most rows of a sheet.
        epochs: Epochs that "preview" shows, a column each.
        shard_size: Size in MiB after which a shard ends.
        margin: Border of a crop on each side of its box, in parts of the box's longer side.
        min_side: Least px of the longer side of a box that is cut out.
        background: Crops of background from each image, or "boxes" for as many as it has boxes cut out.
        overlap: Share that a crop of background and a box may have in common.
        suffix: Format of the crops, .jpg or .png.
        to: Form that "convert" and "split" write, "coco" or "yolo", which have each connected region of a mask as an
            object; or of masks "voc_masks".
        images: "copy" the images, or "link" to them.
        outlines: Write objects as polygons in YOLO's form; COCO's has the outlines anyway.
        val_share, test_share: Shares of the images that "split" gives to val and test.
        group: Regular expression whose first group names what "split" keeps together, such as "(.*)_frame".
    """

    action: str = "check"
    splits: list[str] = field(default_factory=lambda: ["train", "val"])
    output_json: str | None = None
    samples: int = 12
    epochs: list[int] = field(default_factory=lambda: [0, 1, 2])
    shard_size: float = 256
    margin: float = 0.1
    min_side: int = 32
    background: Any = 0
    overlap: float = 0.0
    suffix: str = ".jpg"
    to: str = "coco"
    images: str = "copy"
    outlines: bool = False
    val_share: float = 0.2
    test_share: float = 0.0
    group: str | None = None


@dataclass
class DoctorConfig:
    """Checks of the installation.

    Attributes:
        output_dir: Folder that runs will be written to; else runs.
        output_json: JSON file for the findings.
        formats: Load the packages of every export format.
        fetch: "web" fetches the packages that target=web and export.demo=web put into their pages, by npm, once.
        adb: Program that reaches phones.
        shared_memory: Folder that batches of loader processes go through.
        min_disk, min_memory, min_shared_memory: Least GiB that are free; less is a warning.
        choices: Which file of each group was chosen; filled in by the tool.
    """

    output_dir: str | None = None
    output_json: str | None = None
    formats: bool = True
    fetch: str | None = None
    adb: str = "adb"
    shared_memory: str = "/dev/shm"
    min_disk: float = 5.0
    min_memory: float = 4.0
    min_shared_memory: float = 1.0
    choices: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExportConfig(TrainConfig):
    """Artifacts of a checkpoint, or of `weights`.

    Attributes:
        export: Settings; the group chooses the formats.
        output_dir: Folder of the artifacts, each in one of its own; else export/ beside the checkpoint, or of weights
            runs/weights-{task}-{backbone}/export.
        overwrite: Replace artifacts of the same name.
    """

    export: ExportSettings = field(default_factory=ExportSettings)


def _sweep() -> dict[str, Any]:
    return dict.fromkeys(("backbone", "task", "head", "checkpoint", "runtimes", "precisions"))


@dataclass
class BenchmarkConfig(TrainConfig):
    """Latency of a network: of `checkpoint`, of a task with random weights, or of artifacts.

    Attributes:
        artifact, artifacts: Folders that tools/export.py wrote; without a checkpoint they alone are timed.
        target: "host", "android", "ios", or "web" for browsers on the local network.
        runtimes: Some of "eager" (as trained), "fused", "channels_last", "compile", and of the formats, exported on the
            fly: onnx, executorch, litert, ncnn, openvino.
        precisions: Precisions of the formats, fp32 or int8; PyTorch's own runtimes have fp32.
        threads: CPU threads of a call.
        batch: Images a call.
        image_size: (H, W) px, or the side of a square; else 224x224 for classification, 512x1024 for segmentation,
            320x320 for detection.
        dtype: Type of the pixels, "uint8" or "float32"; a format that has no such input gets its default.
        output: What comes out: logits, argmax, raw, decoded, nms ...; else what the network alone gives.
        num_classes: Classes of a network with random weights; else 1000, 19 and 80.
        end_to_end: Time the whole way from pixels to final classes, masks or boxes.
        warmup: Calls before the first round, which do not count.
        rounds: Rounds, in each of which every runtime takes its turn.
        runs: Calls of a runtime in a round.
        trim: Share of the slowest and of the fastest calls that the mean leaves out.
        max_seconds: Seconds for one runtime; slower ones get fewer runs, at least three a round. null for no limit.
        memory: Measure the peak memory too, each in a process of its own.
        profile: Time the layers too.
        output_dir: Folder of tables and pictures; else benchmarks.
        store: File that measurements are appended to; else benchmark.jsonl in `output_dir`.
        again: Time what the store has in equal settings; else not in a sweep alone.
        sweep: "zoo" for every backbone, or lists of what to combine.
        android: Settings of target=android.
        web: Settings of target=web.
        dry_run: Print what would be run on the phone.
        ios_report: Numbers of Xcode's report, for target=ios.
        request: The command line; filled in by the tool.
    """

    artifact: str | None = None
    artifacts: list[str] = field(default_factory=list)
    target: str = "host"
    runtimes: list[str] = field(default_factory=lambda: ["eager", "fused", "channels_last", "compile"])
    precisions: list[str] = field(default_factory=lambda: ["fp32"])
    threads: int = 1
    batch: int = 1
    image_size: Any = None
    dtype: str = "uint8"
    output: str | None = None
    num_classes: int | None = None
    end_to_end: bool = False
    warmup: int = 10
    rounds: int = 5
    runs: int = 20
    trim: float = 0.1
    max_seconds: float | None = 60.0
    memory: bool = False
    profile: bool = False
    store: str | None = None
    again: bool | None = None
    sweep: Any = field(default_factory=_sweep)
    android: AndroidSettings = field(default_factory=AndroidSettings)
    web: WebSettings = field(default_factory=WebSettings)
    dry_run: bool = False
    ios_report: str | None = None
    request: list[str] = field(default_factory=list)
