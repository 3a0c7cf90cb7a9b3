"""Artifacts that predictors look through: ONNX in NumPy alone, where that suffices, everything else by torch."""

import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tasks.base.plain_config import Config, plain
from tasks.base.predictor import Predictor
from tasks.deploy.fixed_settings import check_fixed_settings
from tasks.deploy.manifest import Manifest, read_manifest
from tasks.values.pixel_format import pixel_format

ROOM = re.compile(r"(tasks\.\w+)\.task\.\w+")  # of a task of ours, in its target


class Artifact:
    """An ONNX artifact in the place of a task, as far as predictors ask one, without torch and without a network.

    Args:
        folder: Of the artifact.
        manifest: Its certificate, with a batch of one image or any number.
        threads: CPU threads of a call.

    Attributes:
        classes, config: As in `VisionTask`.
        pixels: Format of the images.
        output: As in `Manifest`.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int) -> None:
        from tasks.deploy.formats.onnx_session import INPUT, open_session  # an optional extra

        self.classes, self.config, self.output = manifest.class_table(), manifest.config, manifest.output
        self.pixels, self.dtype, self.input = pixel_format(manifest.config), manifest.input.dtype, INPUT
        self.names = [output.name for output in manifest.outputs]
        self.session = open_session(folder / manifest.artifact, threads=threads)

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run an image (H, W, C) of the input's size and of any type; its outputs by name, without the batch."""
        if self.dtype == "uint8" and image.dtype != np.uint8:
            image = np.rint(image).clip(0, 255)
        images = np.ascontiguousarray(image.transpose(2, 0, 1)[None], self.dtype)
        outputs = self.session.run(self.names, {self.input: images})
        return {name: values[0] for name, values in zip(self.names, outputs, strict=True)}


def array_predictor(config: Config, manifest: Manifest) -> type[Predictor] | None:
    """Choose the class of predictors that needs no torch; None where the artifact or a setting of the task needs it."""
    if config.get("split"):  # the data set, which numbers images and classes, needs torch
        return None
    task = plain(config)["task"]
    room = ROOM.fullmatch(task["_target_"])
    if manifest.backend != "onnx" or manifest.batch not in (-1, 1) or task != manifest.config["task"] or not room:
        return None
    with suppress(ModuleNotFoundError):  # a task need not have one
        predictor = import_module(f"{room[1]}.artifact_predictor").ArtifactPredictor
        return predictor if predictor.takes(manifest.output, task) else None
    return None


def artifact_predictor(config: Config) -> Predictor:
    """Make the predictor of `config.artifact`.

    Raises:
        FileNotFoundError, ValueError, ImportError: As `read_manifest`, `check_fixed_settings` and `load_runtime`; or
            `image_size` is given.
    """
    folder, manifest = read_manifest(config["artifact"])
    check_fixed_settings(config, manifest)
    size = manifest.image_size
    if config["image_size"] is not None:
        raise ValueError(f"the artifact sees {size[0]}x{size[1]} px; leave image_size= out")
    settings: Mapping[str, Any] = plain(config) | {"image_size": list(size)}
    if predictor := array_predictor(config, manifest):
        with suppress(ImportError):  # the backend says what is not installed
            return predictor(Artifact(folder, manifest, threads=config["threads"]), settings)
    from tasks.deploy.backend import backend
    from tasks.deploy.deployed import deployed_task

    runtime = backend(manifest.backend).load(folder, manifest, threads=config["threads"])
    return deployed_task(runtime, manifest, config).predictor(settings)
