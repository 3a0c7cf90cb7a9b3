"""The manifest of an artifact before anything is measured: what it is, what it takes and what it gives."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from tasks.base.task import VisionTask
from tasks.deploy.backend import Backend, Exported
from tasks.deploy.manifest import Manifest, TensorSpec

LAYOUT = "NCHW"


def new_manifest(
    task: VisionTask, output: str, results: Mapping[str, Tensor], format: Backend | None, exported: Exported, *,
    config: Mapping[str, Any], settings: Mapping[str, Any], image_size: tuple[int, int], dtype: str,
    hashes: dict[str, str], notes: tuple[str, ...],
) -> Manifest:  # fmt: skip
    """Make a manifest of all that needs no measurement.

    Args:
        task: What is exported.
        output: As in `Manifest`.
        results: What the network gives in eager mode, by name.
        format, exported: The format, and what it told; without a format the manifest is of eager mode.
        config, settings: As in `Manifest`; `config` may hold more.
        image_size: (H, W) px of the input.
        dtype: Of the input.
        hashes: Known by now.
        notes: Of the network with this output.
    """
    pixels, classes = task.network.pixels, task.classes
    batch = -1 if settings["dynamic_batch"] else settings["batch"]
    images = TensorSpec("images", (batch, pixels.channels, *image_size), dtype)
    outputs = tuple(
        TensorSpec(name, (batch, *tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in results.items()
    )
    thresholds = {"thresholds": list(classes.thresholds)} if classes.thresholds else {}
    inside = {key: (getattr(task.network, key).flatten() / pixels.white).tolist() for key in ("mean", "std")}
    return Manifest(
        backend=format.name if format else "eager", artifact=format.file if format else "", kind=task.kind,
        output=output, precision=settings["precision"], input=images, outputs=outputs,
        classes={"names": list(classes.names), "palette": [list(color) for color in classes.palette],
                 "ids": list(classes.ids) if classes.ids else None, **thresholds},
        config={key: value for key, value in config.items() if key not in ("export", "checkpoint", "output_dir")},
        settings=dict(settings),
        preprocessing={"pixels": pixels.described, "layout": LAYOUT, "inside": inside,
                       **task.preprocessing(image_size)},
        decoding=task.decoding(output, image_size), anchors=task.anchors(output, image_size),
        tensors=_tensors(images, outputs, exported, named=format is None or format.named), hashes=hashes,
        versions=format.versions() if format else {}, operators=exported.operators, delegated=exported.delegated,
        notes=(*exported.notes, *notes),
    )  # fmt: skip


def _tensors(images: TensorSpec, outputs: tuple[TensorSpec, ...], exported: Exported, *, named: bool) -> dict[str, Any]:
    """As in `Manifest.tensors`."""
    specs = [asdict(spec) | ({} if named else {"name": None}) for spec in (images, *outputs)]
    told = exported.tensors
    return {
        "input": specs[0] | {"layout": LAYOUT} | told.get("input", {}), "outputs": told.get("outputs", specs[1:]),
    }  # fmt: skip
