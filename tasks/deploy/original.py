"""The original that an artifact is held against: the network in eager mode, same images, same output."""

import copy
import logging
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.base.build import Config, build_data, connect, make, plain
from tasks.base.carrying import trained_task
from tasks.base.checkpoint import load_task
from tasks.base.class_matching import match_classes
from tasks.base.network import Deployable
from tasks.base.run_folders import needed_checkpoint, weights_folder
from tasks.base.stored_sizes import stored_image_size
from tasks.base.task import VisionTask
from tasks.data.datamodule import VisionDataModule
from tasks.deploy.backend import QUANTIZED, Backend, Exported, Runtime
from tasks.deploy.certificate import new_manifest
from tasks.deploy.deployable import make_deployable
from tasks.deploy.deployed import Run, deployed_task
from tasks.deploy.example_images import data_images, folder_images
from tasks.deploy.instruction_set import instruction_set
from tasks.deploy.kept_batches import KeptBatches
from tasks.deploy.manifest import Manifest, sha256
from tasks.deploy.parity import Suppression, compare, other_outputs, share_text, worst
from tasks.training.trainer_settings import evaluation_settings
from tasks.values.sizes import parse_size

PARITY_IMAGES = 4  # of the validation set, and one of noise
SHARE_OF_PIXELS = 1e-3  # whose class may differ: the two best are a tie there
HALF = 0.05  # largest relative difference, or share of pixels or detections, in fp16 where no metric is measured
MAX_DROP = {"int8": 0.01, "w8a16": 0.01}  # of the metric, where the settings leave it open; else 0.001
NEGLIGIBLE = 1e-4  # of the metric: not worth an evaluation to tell its causes apart
REMEDIES = {  # by what cost most of the metric
    "input": "export.image_size= chooses the size",
    "tail": "export.tail=argmax decides after upsampling",
    "limit": "a larger export.limit= finds more",
}
NOT_CERTIFIED = (
    "not certified: {} is held to the metric alone, which was not measured (export.evaluate=false), or the images "
    "compared show nothing"
)
logger = logging.getLogger(__name__)


class Original:
    """Hold artifacts of all formats and outputs against the network of a checkpoint or of weights.

    Without data nothing is measured, and formats are compared on `export.calibration_source` and noise.

    Args:
        config: As stored in the checkpoint, with `export`; or with `weights`.

    Attributes:
        source: The checkpoint, or the weights.
        pixels: Format of the images.
        beside: Folder of the checkpoint; of weights one of their own in runs/.
        tell: Told what is being measured.

    Raises:
        ValueError, FileNotFoundError: Checkpoint, weights, data or settings are not as they should be.
    """

    tell: Callable[[str], None] = staticmethod(lambda step: None)

    def __init__(self, config: Config) -> None:
        self.config: dict[str, Any] = plain(config)
        self.settings = self.config["export"]
        given = self.settings["image_size"]
        size = None if given is None else parse_size(given, "export.image_size")
        if not config["checkpoint"] and not (config.get("weights") and config["task"]):
            needed_checkpoint(config)
        if not self.config.get("data"):
            self._measure_nothing()
        self.source = Path(config["checkpoint"] or config["weights"]).expanduser()
        self.beside = self.source.parent if config["checkpoint"] else weights_folder(config)
        self.task, implied = self._trained(config)
        self.image_size = size or implied or self._validated_size()
        self.task.check_export(self.image_size)
        self.pixels = self.task.network.pixels
        shape, white = (1, self.pixels.channels, *self.image_size), self.pixels.white
        noise = torch.randint(0, white + 1, shape, generator=torch.Generator().manual_seed(0))
        self.examples = torch.cat([*self._seen(), noise.to(getattr(torch, self.dtype))])
        self._models: dict[str, Deployable] = {}
        self._references: dict[str, Mapping[str, Tensor]] = {}
        self._kept: dict[int | None, KeptBatches] = {}
        self._metrics: dict[str, dict[str, float]] = {}

    @property
    def dtype(self) -> str:
        """Type of the pixels in memory, "uint8" or "float32": torch computes little with uint16."""
        return "uint8" if self.pixels.bits == 8 else "float32"

    def _measure_nothing(self) -> None:
        """Set `export.evaluate` to false, and say so."""
        if self.settings["doctor"]:
            raise ValueError("export.doctor=true measures, and no data is given; give data=<name>")
        if self.settings["evaluate"]:
            logger.warning("no data is given, so no metric is measured; data=<name> measures it")
        self.settings = self.settings | {"evaluate": False}

    def _trained(self, config: Config) -> tuple[VisionTask, tuple[int, int] | None]:
        """The task, and the (H, W) px that weights without data imply."""
        if config["checkpoint"]:
            return load_task(self.source, config), None
        data = self.config.get("data")
        task, weights = trained_task(config, build_data(config).classes if data else None)
        side = weights.shorter_side
        return task, None if data else weights.image_size or (side and (side, side))

    def _seen(self) -> list[Tensor]:
        """Images that artifacts are compared on, beside noise."""
        if self.settings["evaluate"] or self.settings["doctor"]:
            return self.images("val", PARITY_IMAGES)
        folder = self.settings.get("calibration_source")
        return folder_images(folder, PARITY_IMAGES, self._resized, self.pixels) if folder else []

    @cached_property
    def data(self) -> VisionDataModule:
        """Open the data set when it is first asked for; without evaluation and calibration it never is."""
        data = build_data(self.config)
        connect(self.task, data)
        match_classes(self.task, data)
        self._evaluated_size = data.image_size
        data.set_image_size(self.image_size)
        return data

    def asking(self, **settings: Any) -> "Original":
        """Copy this with other settings of `export`."""
        twin = copy.copy(self)
        twin.settings = self.settings | settings
        return twin

    def model(self, output: str) -> Deployable:
        """Make the network with an output, as in `make_deployable`; once."""
        if output not in self._models:
            options = {key: self.settings[key] for key in self.task.export_options(output) if key in self.settings}
            self._models[output] = make_deployable(self.task, output=output, image_size=self.image_size, **options)
        return self._models[output]

    def reference(self, output: str) -> Mapping[str, Tensor]:
        """Compute what the network gives for `examples` in eager mode; once."""
        if output not in self._references:
            self._references[output] = eager(self.model(output))(self.examples)
        return self._references[output]

    def images(self, split: str, count: int) -> list[Tensor]:
        """Read images of a split as in `data_images`; in place of training images those of `calibration_source`."""
        folder = self.settings.get("calibration_source")
        if folder and split == "train":
            return folder_images(folder, count, self._resized, self.pixels)
        return data_images(lambda: self.data, split, count, self.image_size)

    def _resized(self, image: np.ndarray) -> np.ndarray:
        """Make an input of a picture (h, w, C), as predictions do."""
        return self.task.resized_picture(image, self.image_size)

    def checkpoint_metric(self) -> dict[str, float]:
        """Measure the task's metrics by the checkpoint's own evaluation, at its own sizes; once."""
        if "checkpoint" not in self._metrics:
            self.tell("scoring the checkpoint")
            self.data.set_image_size(self._evaluated_size)
            self._metrics["checkpoint"] = self._validated(self.task)
            self.data.set_image_size(self.image_size)
        return self._metrics["checkpoint"]

    def metric(self, output: str) -> dict[str, float]:
        """Measure the task's metrics in eager mode; once."""
        if output not in self._metrics:
            self.tell("scoring the network in eager mode")
            run = eager(self.model(output))
            self._metrics[output] = self.measure(run, self.certificate(output, None, self.dtype, Exported({})))
        return self._metrics[output]

    def measure(self, run: Run, manifest: Manifest) -> dict[str, float]:
        """Measure the task's metrics through a deployed network, on the CPU.

        Args:
            run: A `Runtime`, or a deployable in eager mode that answers alike.
            manifest: Of the artifact.
        """
        task = deployed_task(run, manifest, self.config)
        match_classes(task, self.data)
        return self._validated(task)

    def _validated(self, task: VisionTask) -> dict[str, float]:
        limit = self.settings["evaluation_images"]
        batches = -(-limit // self.data.val_batch_size) if limit else None
        here = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1, "limit_val_batches": batches}
        trainer = make(
            evaluation_settings(self.config["trainer"]) | here, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, default_root_dir=str(self.beside),
        )  # fmt: skip
        self.data.val_dataloader = lambda: self._batches(batches)
        trainer.validate(task, datamodule=self.data, verbose=False)
        scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
        return scores | {"images": task.validated_images}

    def _batches(self, count: int | None) -> KeptBatches:
        """Batches of the validation set at the artifacts' size; or at the checkpoint's, which sees them once."""
        loader = type(self.data).val_dataloader(self.data)
        if tuple(self.data.image_size) != tuple(self.image_size):
            return KeptBatches(loader, count, limit=0)
        return self._kept.setdefault(count, KeptBatches(loader, count))

    def max_drop(self, precision: str) -> float:
        """Get how much of the metric an artifact may lose."""
        asked = self.settings["max_drop"]
        return MAX_DROP.get(precision, 0.001) if asked is None else asked

    def prove(self, format: Backend, runtime: Runtime, manifest: Manifest) -> None:
        """Compare an artifact with eager and measure the metric through it, into its manifest.

        Raises:
            ValueError: It computes something else, or loses more of the checkpoint's metric than `export.max_drop`.
        """
        precision, output = manifest.precision, manifest.output
        manifest.measured_on = {"instruction_set": instruction_set(), "session": format.session(precision)}
        self.tell("comparing with eager mode")
        differences = compare(
            output, self.reference(output), runtime(self.examples), suppression=self._suppression(output)
        )
        manifest.parity = {"images": len(self.examples), "outputs": differences}
        allowed = SHARE_OF_PIXELS if any("differing" in one for one in differences.values()) else format.tolerance
        if precision == "fp32" and not worst(differences) <= allowed:
            raise other_outputs(differences, allowed, HALF)
        bound = {"fp32": allowed, "fp16": HALF}.get(precision)  # of int8 there is none that tells right from wrong
        held = bound is not None and worst(differences) <= bound
        if not math.isfinite(worst(differences)) or (bound and not held and not self.settings["evaluate"]):
            raise other_outputs(differences, bound, HALF)
        if held and differences.get("detections", {}).get("detections") != 0:
            manifest.certified += ("outputs",)
        if self.settings["evaluate"]:
            self._prove_metric(runtime, manifest)
        if not manifest.certified:
            manifest.notes += (NOT_CERTIFIED.format(precision),)
            logger.warning("%s: %s", format.name, manifest.notes[-1])

    def _suppression(self, output: str) -> Suppression | None:
        """What the network's NMS chooses from in the images that are compared."""
        if not getattr(self.model(output), "suppresses", False):
            return None
        nms, decoded = self.model(output).nms, self.reference("decoded")
        return Suppression(
            decoded["boxes"], decoded["scores"], nms.score_threshold, self.task.selection["iou_threshold"], nms.limit
        )

    def _prove_metric(self, runtime: Runtime, manifest: Manifest) -> None:
        """Measure what of the checkpoint's own metric is left."""
        name, precision = self.task.monitor, manifest.precision
        before = self.checkpoint_metric()[name]
        if math.isnan(before):
            raise ValueError(
                f"{name} of the checkpoint is not defined on this data, which holds nothing to score; give other data, "
                "or export.evaluate=false"
            )
        plain = self.metric(manifest.output)[name]
        self.tell("scoring")
        after = self.measure(runtime, manifest)
        shares = self._shares(manifest.output, before, plain) | {"runtime": plain - after[name]}
        budget = self.max_drop(precision)
        drop = before - after[name]
        manifest.metric = {
            "name": name, "checkpoint": before, "eager": plain, "runtime": after[name], "drop": drop, "shares": shares,
            "max_drop": budget, "images": int(after["images"]),
        }  # fmt: skip
        if not drop <= budget:
            doctor = "export.doctor=true finds the layers to keep in floating point; " if precision in QUANTIZED else ""
            remedy = {**REMEDIES, "runtime": doctor}.get(max(shares, key=shares.get), "")
            raise ValueError(
                f"{name} falls from {before:.4f} to {after[name]:.4f}, by {drop:.4f} ({share_text(shares)}), more than "
                f"export.max_drop={budget}; {remedy}{'; ' if remedy and remedy != doctor else ''}or allow more"
            )
        manifest.certified += (name,)

    def _shares(self, output: str, before: float, plain: float) -> dict[str, float]:
        """What of the metric the settings cost that no runtime can give back.

        Args:
            output: As in `Manifest`.
            before: Of the checkpoint's own evaluation.
            plain: Of the fused network with this output, in eager mode.

        Returns:
            "input", the one size of all images, and "tail" or "limit", where the output has one.
        """
        lost, cut = before - plain, self.task.losses_of_output.get(output)
        if cut is None:
            return {"input": lost}
        resized = stored_image_size(self.config) is None or self.image_size != tuple(self._evaluated_size)
        whole = self.metric(self.task.outputs[0])[self.task.monitor] if resized and abs(lost) > NEGLIGIBLE else before
        return {"input": before - whole, cut: whole - plain}

    def certificate(self, output: str, format: Backend | None, dtype: str, exported: Exported) -> Manifest:
        """Make a manifest of all that needs no measurement; without a format, of the network in eager mode."""
        return new_manifest(
            self.task, output, self.reference(output), format, exported, config=self.config, settings=self.settings,
            image_size=self.image_size, dtype=dtype, notes=self.model(output).notes,
            hashes={"checkpoint": sha256(self.source)} if self.source.is_file() else {},
        )  # fmt: skip

    def _validated_size(self) -> tuple[int, int]:
        """(H, W) px of a validation image; segmentation, which sees images at their own size, opens one for it."""
        if size := stored_image_size(self.config):
            return size
        try:
            data = build_data(self.config)
            return tuple(data.plain_dataset("val")[(0, 0)]["image"].shape[:2])
        except (ValueError, OSError) as error:
            raise ValueError(
                f"export.image_size is not set, and the data that would tell it cannot be opened: {error}; give "
                "export.image_size=[<height>,<width>]"
            ) from error


def eager(model: Deployable) -> Run:
    """Call a deployable in eager mode like a `Runtime`: any number of images in, outputs by name."""

    def run(images: Tensor) -> Mapping[str, Tensor]:
        with torch.inference_mode():
            parts = [model(image) for image in images.split(1)]
        return {name: torch.cat(tensors) for name, tensors in zip(model.outputs, zip(*parts, strict=True), strict=True)}

    return run
