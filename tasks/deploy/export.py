"""From a checkpoint to artifacts: written, run, compared, measured, certified; or not left behind."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.base import Table, VisionTask
from tasks.build import Config, build_data, make, plain
from tasks.checkpoint import load_task
from tasks.data.base import VisionDataModule
from tasks.deploy.backend import Backend, Deployable, Exported, ExportOptions, Runtime, backend
from tasks.deploy.deployable import make_deployable
from tasks.deploy.deployed import Run, deployed_task
from tasks.deploy.manifest import Manifest, TensorSpec, sha256
from tasks.deploy.parity import compare, worst
from tasks.evaluate import needed_checkpoint
from tasks.fit import quiet

PARITY_IMAGES = 4  # of the validation set, and one of noise
logger = logging.getLogger(__name__)


@dataclass
class _Job:
    """What all formats of one call share."""

    task: VisionTask
    data: VisionDataModule
    model: Deployable
    config: dict[str, Any]
    image_size: tuple[int, int]
    examples: Tensor  # (N, 3, H, W) uint8
    eager_metric: dict[str, float]


def export(config: Config) -> tuple[list[Table], list[str]]:
    """Export `config.checkpoint` into every format of `config.export.formats`.

    Each artifact becomes a folder {format}-{precision}-{form} in `output_dir`, or in export/ beside the checkpoint. It
    appears whole, with its manifest.json, once it agrees with eager and keeps the metric; else not at all.

    Args:
        config: As stored in the checkpoint, with `export`.

    Returns:
        A table of what was made, and what failed, a line a format. One format's failure does not stop the others.

    Raises:
        ValueError, FileNotFoundError: Checkpoint, data or settings are not as they should be, or an artifact is there.
    """
    quiet()
    settings = config["export"]
    checkpoint = Path(needed_checkpoint(config)).expanduser()
    folder = Path(config["output_dir"] or checkpoint.parent / "export").expanduser()
    if not settings["formats"]:
        raise ValueError("no format is chosen; give export=onnx, or another of --help")
    job = _prepare(config)
    names = {name: f"{name}-{settings['precision']}-{job.model.form}" for name in settings["formats"]}
    for name in names.values():
        if (folder / name).exists() and not config["overwrite"]:
            raise ValueError(f"{folder / name} is there already; give another output_dir=, or overwrite=true")
    rows, failures = [], []
    for name, place in names.items():
        logger.info("exporting to %s", name)
        try:
            manifest = _export_one(backend(name), job, folder / place)
        except (ValueError, ImportError, OSError, RuntimeError) as error:
            failures.append(f"{name}: {error}")
            rows.append((name, settings["precision"], job.model.form, "-", "-", "-", "-", str(error)[:60]))
            continue
        size = sum(file.stat().st_size for file in (folder / place).iterdir()) / 2**20
        metric = manifest.metric
        scores = [f"{metric[key]:.4f}" if metric else "-" for key in ("eager", "runtime")]
        parity = f"{worst(manifest.parity['outputs']):.1e}" if manifest.parity else "-"
        rows.append((name, settings["precision"], job.model.form, f"{size:.1f}", parity, *scores, str(folder / place)))
    monitor = job.task.monitor
    columns = ("format", "precision", "form", "MiB", "difference", f"{monitor} eager", f"{monitor} here", "artifact")
    return [(f"{checkpoint} at {job.image_size[0]}x{job.image_size[1]} px", columns, rows)], failures


def calibration_images(data: VisionDataModule, count: int, image_size: Sequence[int]) -> list[Tensor]:
    """Training images as validation would see them: (1, 3, H, W) uint8 each, spread over the set."""
    dataset = data.plain_dataset("train")
    places = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long().unique().tolist()
    return [_sized(dataset[(0, place)]["image"].permute(2, 0, 1)[None], image_size) for place in places]


def measure(run: Run, manifest: Manifest, config: Config, data: VisionDataModule) -> dict[str, float]:
    """The task's validation metrics through a network that is already deployed, on the CPU.

    Args:
        run: A `Runtime`, or a deployable in eager mode that answers alike.
        manifest: Of the artifact.
        config: Of the task and the trainer.
        data: Set up for validation.
    """
    task = deployed_task(run, manifest, config)
    limit = config["export"]["evaluation_images"]
    batches = -(-limit // data.val_batch_size) if limit else None
    here = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "limit_val_batches": batches}
    trainer = make(
        plain(config["trainer"]) | here,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=str(Path.cwd()),
    )  # fmt: skip
    trainer.validate(task, datamodule=data, verbose=False)
    return {key: float(value) for key, value in trainer.callback_metrics.items()} | {"images": task.validated_images}


def _prepare(config: Config) -> _Job:
    settings = config["export"]
    task = load_task(needed_checkpoint(config), config)
    data = build_data(config)
    data.setup("validate")
    image_size = tuple(settings["image_size"] or _validated_size(task, data))
    data.set_image_size(image_size)
    form = {
        "classification": "probabilities" if settings["probabilities"] else "logits",
        "segmentation": settings["tail"], "detection": settings["detections"],
    }[task.kind]  # fmt: skip
    model = make_deployable(task, form=form, image_size=image_size)
    dataset = data.plain_dataset("val")
    places = torch.linspace(0, len(dataset) - 1, min(PARITY_IMAGES, len(dataset))).long().unique().tolist()
    images = [_sized(dataset[(0, place)]["image"].permute(2, 0, 1)[None], image_size) for place in places]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, 3, *image_size), generator=generator, dtype=torch.uint8)
    job = _Job(task, data, model, plain(config), image_size, torch.cat([*images, noise]), {})
    if settings["evaluate"]:
        job.eager_metric = measure(_eager(model), _manifest(job, None, "uint8"), job.config, data)
    return job


def _validated_size(task: VisionTask, data: VisionDataModule) -> tuple[int, int]:
    """(H, W) px of a validation image: segmentation sees images at their own size."""
    if task.kind != "segmentation":
        return data.image_size
    return tuple(data.plain_dataset("val")[(0, 0)]["image"].shape[:2])


def _export_one(format: Backend, job: _Job, target: Path) -> Manifest:
    """One artifact, in a folder that appears whole or not at all."""
    settings = job.config["export"]
    precision = settings["precision"]
    if precision not in format.precisions:
        raise ValueError(f"{format.name} has no precision {precision}; it has {', '.join(format.precisions)}")
    dtype = settings["input"] or format.inputs[0]
    if dtype not in format.inputs:
        raise ValueError(f"{format.name} takes no {dtype} pixels; it takes {', '.join(format.inputs)}")
    if settings["dynamic_batch"] and not format.dynamic:
        raise ValueError(f"{format.name} has no dynamic batch; set export.dynamic_batch=false")
    example = job.examples[:1].to(getattr(torch, dtype)).repeat(settings["batch"], 1, 1, 1)
    calibration: list[Tensor] = []
    if precision == "int8":
        images = calibration_images(job.data, settings["calibration_images"], job.image_size)
        calibration = [image.to(example.dtype) for image in images]
    options = ExportOptions(precision, settings["dynamic_batch"], calibration, tuple(settings["keep_float"]))
    working = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    try:
        exported = format.export(job.model, example, working, options)
        manifest = _manifest(job, format, dtype, exported)
        manifest.hashes |= {file.name: sha256(file) for file in sorted(working.iterdir())}
        if format.here:
            runtime = format.load(working, manifest, threads=settings["threads"])
            _prove(job, format, runtime, manifest)
            del runtime
        else:
            manifest.notes += ("this machine cannot run the format: neither compared nor measured",)
        manifest.save(working)
        if target.exists():
            shutil.rmtree(target)
        working.rename(target)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return manifest


def _prove(job: _Job, format: Backend, runtime: Runtime, manifest: Manifest) -> None:
    """Compare with eager and measure the metric, into the manifest; refuse what is too far off."""
    settings = job.config["export"]
    expected, found = _eager(job.model)(job.examples), runtime(job.examples)
    differences = compare(job.model.form, expected, found)
    manifest.parity = {"images": len(job.examples), "outputs": differences}
    if settings["precision"] == "fp32" and not worst(differences) <= format.tolerance:
        raise ValueError(
            f"the artifact computes something else than the network: {json.dumps(differences)}, of at most "
            f"{format.tolerance} allowed; try another export.detections= or export.tail=, or report the operator"
        )
    if not job.eager_metric:
        return
    monitor = job.task.monitor
    measured = measure(runtime, manifest, job.config, job.data)
    budget = settings["max_drop"]
    if budget is None:
        budget = 0.01 if settings["precision"] == "int8" else 0.001
    drop = job.eager_metric[monitor] - measured[monitor]
    manifest.metric = {
        "name": monitor, "eager": job.eager_metric[monitor], "runtime": measured[monitor], "drop": drop,
        "max_drop": budget, "images": int(measured["images"]),
    }  # fmt: skip
    if not drop <= budget:
        doctor = "export.doctor=true finds the layers to keep in floating point, or "
        remedy = doctor if settings["precision"] == "int8" else ""
        raise ValueError(
            f"{monitor} falls from {job.eager_metric[monitor]:.4f} to {measured[monitor]:.4f}, by {drop:.4f}, more "
            f"than export.max_drop={budget}; {remedy} allow more"
        )


def _manifest(job: _Job, format: Backend | None, dtype: str, exported: Exported | None = None) -> Manifest:
    """All but what is measured."""
    settings, model = job.config["export"], job.model
    outputs = _eager(model)(job.examples[:1])
    batch = -1 if settings["dynamic_batch"] else settings["batch"]
    specs = tuple(
        TensorSpec(name, (batch, *tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in outputs.items()
    )
    checkpoint = Path(job.config["checkpoint"]).expanduser()
    stored = {key: value for key, value in job.config.items() if key not in ("export", "checkpoint", "output_dir")}
    classes = job.task.classes
    return Manifest(
        backend=format.name if format else "eager", artifact=format.file if format else "", kind=job.task.kind,
        form=model.form, precision=settings["precision"],
        input=TensorSpec("images", (batch, 3, *job.image_size), dtype), outputs=specs,
        classes={"names": list(classes.names), "palette": [list(color) for color in classes.palette],
                 "ids": list(classes.ids) if classes.ids else None},
        config=stored, settings=settings, preprocessing=_preprocessing(job),
        anchors=_anchors(job), hashes={"checkpoint": sha256(checkpoint)},
        versions=format.versions() if format else {}, operators=exported.operators if exported else {},
        delegated=exported.delegated if exported else None, notes=exported.notes if exported else (),
    )  # fmt: skip


def _preprocessing(job: _Job) -> dict[str, Any]:
    network = job.task.network
    ways = {
        "detection": "resize the whole picture to the input's size",
        "segmentation": "resize the whole picture to the input's size",
        "classification": "resize the shorter side to the input's side divided by crop_ratio, cut out the centre",
    }
    known = {key: getattr(job.data, key) for key in ("crop_ratio", "interpolation") if hasattr(job.data, key)}
    mean, std = ((getattr(network, name).flatten() / 255).tolist() for name in ("mean", "std"))
    return {"pixels": "RGB, 0 to 255", "resize": ways[job.task.kind], **known, "inside": {"mean": mean, "std": std}}


def _anchors(job: _Job) -> dict[str, Any]:
    if job.model.form != "raw":
        return {}
    head = job.task.network.head
    return {"boxes": head.anchors(job.image_size).tolist(), "form": head.form, "unit": "px, xyxy"}


def _eager(model: Deployable) -> Run:
    def run(images: Tensor) -> Mapping[str, Tensor]:
        with torch.inference_mode():
            parts = [model(image) for image in images.split(1)]
        return {name: torch.cat(tensors) for name, tensors in zip(model.outputs, zip(*parts, strict=True), strict=True)}

    return run


def _sized(images: Tensor, image_size: Sequence[int]) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(image_size):
        return images
    resized = torch.nn.functional.interpolate(images.float(), tuple(image_size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
