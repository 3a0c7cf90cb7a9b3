"""What an artifact is held against: the network in eager mode, on the same images, in the same form."""

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from backbones.weight_sources import stored_preprocessing
from tasks.base import VisionTask
from tasks.build import Config, build_data, connect, make, plain
from tasks.checkpoint import load_task
from tasks.class_matching import match_classes
from tasks.data.base import VisionDataModule
from tasks.data.classification import DEFAULT_PREPROCESSING
from tasks.deploy.backend import Backend, Deployable, Exported, Runtime
from tasks.deploy.deployable import make_deployable
from tasks.deploy.deployed import Run, deployed_task
from tasks.deploy.manifest import Manifest, TensorSpec, sha256
from tasks.deploy.parity import compare, worst
from tasks.evaluate import needed_checkpoint
from tasks.stored_sizes import stored_image_size
from tasks.trainer_settings import evaluation_settings

PARITY_IMAGES = 4  # of the validation set, and one of noise
SHARE_OF_PIXELS = 1e-3  # whose class may differ: the two best are a tie there
MAX_DROP = {"int8": 0.01}  # of the metric, where the settings leave it open; else 0.001
RESIZING = {
    "detection": "resize the whole picture to the input's size",
    "segmentation": "resize the whole picture to the input's size",
    "classification": "resize the shorter side to the input's side divided by crop_ratio, cut out the centre",
}


class Original:
    """A checkpoint's network, which artifacts of several formats and forms are made from and held against.

    Args:
        config: As stored in the checkpoint, with `export`.

    Raises:
        ValueError, FileNotFoundError: Checkpoint, data or settings are not as they should be.
    """

    def __init__(self, config: Config) -> None:
        self.config: dict[str, Any] = plain(config)
        self.settings = self.config["export"]
        self.checkpoint = Path(needed_checkpoint(config)).expanduser()
        self.task: VisionTask = load_task(self.checkpoint, config)
        self.image_size = tuple(self.settings["image_size"] or self._validated_size())
        if self.task.kind == "classification" and len({*self.image_size}) > 1:
            raise ValueError(f"export.image_size={list(self.image_size)}: a classifier sees a square")
        noise = torch.randint(0, 256, (1, 3, *self.image_size), generator=torch.Generator().manual_seed(0))
        seen = self.images("val", PARITY_IMAGES) if self.settings["evaluate"] or self.settings["doctor"] else []
        self.examples = torch.cat([*seen, noise.to(torch.uint8)])
        self._models: dict[str, Deployable] = {}
        self._metrics: dict[str, dict[str, float]] = {}

    @cached_property
    def data(self) -> VisionDataModule:
        """The data set, opened when it is first asked for: without evaluation and calibration none is needed."""
        data = build_data(self.config)
        connect(self.task, data)
        match_classes(self.task, data)
        data.set_image_size(self.image_size)
        return data

    def asking(self, **settings: Any) -> "Original":
        """The same, with other settings of `export` than the command's."""
        twin = copy.copy(self)
        twin.settings = self.settings | settings
        return twin

    def model(self, form: str) -> Deployable:
        """The network in a form, as in `make_deployable`; made once."""
        if form not in self._models:
            limit = self.settings["limit"] if form in ("decoded", "nms") else None
            self._models[form] = make_deployable(self.task, form=form, image_size=self.image_size, limit=limit)
        return self._models[form]

    def images(self, split: str, count: int) -> list[Tensor]:
        """Images of a split as validation would see them: (1, 3, H, W) uint8 each, spread over the set."""
        try:
            dataset = self.data.plain_dataset(split)
        except (ValueError, OSError) as error:
            if split == "val":
                raise ValueError(f"{error}; without these images: export.evaluate=false") from error
            raise ValueError(
                f"int8 is calibrated on training images, which cannot be opened: {error}; set data.root= to where they "
                "are, or export.precision=fp32"
            ) from error
        places = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long().unique().tolist()
        return [_sized(dataset[(0, place)]["image"].permute(2, 0, 1)[None], self.image_size) for place in places]

    def metric(self, form: str) -> dict[str, float]:
        """The task's validation metrics in eager mode; measured once."""
        if form not in self._metrics:
            run = eager(self.model(form))
            self._metrics[form] = self.measure(run, self.certificate(form, None, "uint8", Exported({})))
        return self._metrics[form]

    def measure(self, run: Run, manifest: Manifest) -> dict[str, float]:
        """The task's validation metrics through a network that is already deployed, on the CPU.

        Args:
            run: A `Runtime`, or a deployable in eager mode that answers alike.
            manifest: Of the artifact.
        """
        task = deployed_task(run, manifest, self.config)
        match_classes(task, self.data)
        limit = self.settings["evaluation_images"]
        batches = -(-limit // self.data.val_batch_size) if limit else None
        here = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1, "limit_val_batches": batches}
        trainer = make(
            evaluation_settings(self.config["trainer"]) | here, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, default_root_dir=str(self.checkpoint.parent),
        )  # fmt: skip
        trainer.validate(task, datamodule=self.data, verbose=False)
        scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
        return scores | {"images": task.validated_images}

    def max_drop(self, precision: str) -> float:
        """How much of the metric an artifact may lose."""
        asked = self.settings["max_drop"]
        return MAX_DROP.get(precision, 0.001) if asked is None else asked

    def prove(self, format: Backend, runtime: Runtime, manifest: Manifest) -> None:
        """Compare an artifact with eager and measure the metric through it, into its manifest.

        Raises:
            ValueError: It computes something else, or loses more of the metric than `export.max_drop`.
        """
        precision, form = manifest.precision, manifest.form
        differences = compare(form, eager(self.model(form))(self.examples), runtime(self.examples))
        manifest.parity = {"images": len(self.examples), "outputs": differences}
        allowed = SHARE_OF_PIXELS if any("differing" in one for one in differences.values()) else format.tolerance
        if precision == "fp32" and not worst(differences) <= allowed:
            raise ValueError(
                f"the artifact computes something else than the network: {json.dumps(differences)}, at most {allowed} "
                "is allowed; try another export.detections= or export.tail=, and report it"
            )
        if not self.settings["evaluate"]:
            return
        name = self.task.monitor
        before, after = self.metric(form)[name], self.measure(runtime, manifest)
        budget = self.max_drop(precision)
        drop = before - after[name]
        manifest.metric = {
            "name": name, "eager": before, "runtime": after[name], "drop": drop, "max_drop": budget,
            "images": int(after["images"]),
        }  # fmt: skip
        if not drop <= budget:
            doctor = "export.doctor=true finds the layers to keep in floating point; or " if precision == "int8" else ""
            raise ValueError(
                f"{name} falls from {before:.4f} to {after[name]:.4f}, by {drop:.4f}, more than export.max_drop="
                f"{budget}; {doctor}allow more"
            )

    def certificate(self, form: str, format: Backend | None, dtype: str, exported: Exported) -> Manifest:
        """A manifest of all but what is measured; without a format, of the network in eager mode."""
        settings, head = self.settings, self.task.network.head
        batch = -1 if settings["dynamic_batch"] else settings["batch"]
        outputs = tuple(
            TensorSpec(name, (batch, *tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in eager(self.model(form))(self.examples[:1]).items()
        )
        stored = {key: value for key, value in self.config.items() if key not in ("export", "checkpoint", "output_dir")}
        names, palette, ids = self.task.classes.names, self.task.classes.palette, self.task.classes.ids
        known = DEFAULT_PREPROCESSING | self.task.network.backbone.preprocessing
        known |= stored_preprocessing(self.task.config) or {}
        known = {key: known[key] for key in DEFAULT_PREPROCESSING if self.task.kind == "classification"}
        inside = {key: (getattr(self.task.network, key).flatten() / 255).tolist() for key in ("mean", "std")}
        anchors = {}
        if form == "raw":
            anchors = {"boxes": head.anchors(self.image_size).tolist(), "form": head.form, "unit": "px, xyxy"}
        notes = exported.notes
        if form in ("decoded", "nms"):
            notes += (
                f"looks at the {self.model(form).limit} best only (export.limit=): of more, the last are missing",
            )
        return Manifest(
            backend=format.name if format else "eager", artifact=format.file if format else "", kind=self.task.kind,
            form=form, precision=settings["precision"],
            input=TensorSpec("images", (batch, 3, *self.image_size), dtype), outputs=outputs,
            classes={"names": list(names), "palette": [list(color) for color in palette],
                     "ids": list(ids) if ids else None},
            config=stored, settings=settings,
            preprocessing={"pixels": "RGB, 0 to 255", "resize": RESIZING[self.task.kind], **known, "inside": inside},
            anchors=anchors, hashes={"checkpoint": sha256(self.checkpoint)},
            versions=format.versions() if format else {}, operators=exported.operators, delegated=exported.delegated,
            notes=notes,
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
    """A deployable as a `Runtime` would be called: images by any number, outputs by name."""

    def run(images: Tensor) -> Mapping[str, Tensor]:
        with torch.inference_mode():
            parts = [model(image) for image in images.split(1)]
        return {name: torch.cat(tensors) for name, tensors in zip(model.outputs, zip(*parts, strict=True), strict=True)}

    return run


def _sized(images: Tensor, image_size: Sequence[int]) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(image_size):
        return images
    resized = F.interpolate(images.float(), tuple(image_size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
