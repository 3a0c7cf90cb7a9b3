"""Prepare artifacts to be timed: exported on the fly, or written before by tools/export.py."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from backbones.blocks.fusion import fuse_model
from tasks.base.build import Config
from tasks.base.network import Deployable
from tasks.benchmark.cases import Case, Subject, case_deployable, costs_of, make_case
from tasks.benchmark.store import artifact_paths
from tasks.data.classes import Classes
from tasks.deploy.backend import QUANTIZED, ExportOptions, Runtime, backend, load_runtime
from tasks.deploy.manifest import Manifest, TensorSpec, sha256


def exported_subject(case: Case, runtime: str, precision: str, folder: Path, *, threads: int) -> Subject:
    """Export a network into an empty folder and load it.

    Raises:
        ValueError, ImportError: The format has no such precision, cannot run here or cannot hold the network.
    """
    found = backend(runtime)
    if precision not in found.precisions:
        raise ValueError(f"{runtime} has no precision {precision}; it has {', '.join(found.precisions)}")
    if not found.here:
        raise ValueError(f"this machine exports {runtime} and cannot run it; see target=ios or target=android")
    folder.mkdir(parents=True)
    manifest, notes = export_here(case, runtime, precision, folder)
    subject = runtime_subject(found.load(folder, manifest, threads=threads), case.images, case=case)
    subject.notes, subject.costs = (*notes, *subject.notes), costs_of(fuse_model(case.model), case)
    return subject


def export_here(case: Case, runtime: str, precision: str, folder: Path) -> tuple[Manifest, tuple[str, ...]]:
    """Export a case for timing only, as `export_for_timing`."""
    return export_for_timing(
        case_deployable(case, output_for(case, runtime)), case.images, runtime, precision, folder, kind=case.kind,
        classes=case.task.classes if case.task else None, choices=case.choices,
    )  # fmt: skip


def export_for_timing(
    model: Deployable, images: Tensor, runtime: str, precision: str, folder: Path, *, kind: str = "part",
    classes: Classes | None = None, choices: Mapping[str, str] | None = None,
) -> tuple[Manifest, tuple[str, ...]]:  # fmt: skip
    """Export into an empty folder without the comparison with eager, and with int8 ranges from random pixels.

    Returns:
        The manifest, and remarks for the report.
    """
    found, classes = backend(runtime), classes or Classes((), ())
    if str(images.dtype).removeprefix("torch.") not in found.inputs:
        images = images.to(getattr(torch, found.inputs[0]))
    calibration, notes = (), ()
    if precision in QUANTIZED:
        generator = torch.Generator().manual_seed(1)
        shape = (4, *images.shape)
        drawn = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        calibration, notes = list(drawn.to(images.dtype)), (f"{precision} ranges from random pixels: for speed alone",)
    found.check(model)
    exported = found.export(model, images, folder, ExportOptions(precision, False, calibration))
    with torch.inference_mode():
        outputs = model(images)
    manifest = Manifest(
        backend=runtime,
        artifact=found.file,
        kind=kind,
        output=model.output,
        precision=precision,
        input=_spec("images", images),
        outputs=tuple(_spec(name, output) for name, output in zip(model.outputs, outputs, strict=True)),
        classes={"names": list(classes.names), "palette": [list(color) for color in classes.palette], "ids": None},
        config={"choices": dict(choices or {})},
        operators=exported.operators,
        delegated=exported.delegated,
        versions=found.versions(),
        hashes={file.name: sha256(file) for file in sorted(folder.iterdir()) if file.is_file()},
        notes=(*exported.notes, "made for timing: neither compared with the network nor measured on data"),
    )
    manifest.save(folder)
    return manifest, notes


def artifact_subject(path: str | Path, config: Config) -> tuple[Subject, Manifest, Tensor]:
    """Load an artifact and draw random images of its size.

    Raises:
        FileNotFoundError, ValueError, ImportError: As `load_runtime`.
    """
    runtime = load_runtime(path, threads=config["threads"])
    spec = runtime.manifest.input
    generator = torch.Generator().manual_seed(config["seed"])
    batch = config["batch"] if runtime.manifest.batch < 0 else runtime.manifest.batch
    drawn = torch.randint(0, 256, (batch, *spec.shape[1:]), generator=generator, dtype=torch.uint8)
    images = drawn.to(getattr(torch, spec.dtype))
    subject = runtime_subject(runtime, images)
    subject.notes = (*(note for note in runtime.manifest.notes if "timing" in note), *subject.notes)
    return subject, runtime.manifest, images


def phone_artifacts(config: Config, formats: Iterable[str], folder: Path) -> list[Path]:
    """List the artifacts that `config` names, or export the network that it names, for timing only.

    Args:
        formats: Formats to export to, each in every precision of `config.precisions` that it has.
        folder: Where the exports are written.
    """
    if given := artifact_paths(config):
        return [Path(path) for path in given]
    case, made = make_case(config), []
    for name in formats:
        for precision in (one for one in config["precisions"] if one in backend(name).precisions):
            target = folder / f"{name}-{precision}"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            export_here(case, name, precision, target)
            made.append(target)
    return made


def runtime_subject(runtime: Runtime, images: Tensor, *, case: Case | None = None) -> Subject:
    """Prepare a loaded artifact; where the graph ends before the detections, the rest is done in PyTorch."""
    manifest = runtime.manifest
    images = images.to(getattr(torch, manifest.input.dtype)).contiguous()
    size = sum((runtime.folder / name).stat().st_size for name in manifest.hashes if name != "checkpoint")
    subject = Subject(
        manifest.backend, manifest.precision, manifest.output, size=size, runtime_object=runtime, folder=runtime.folder
    )
    settings = backend(manifest.backend).session(manifest.precision)
    subject.notes = tuple(f"with {name}={value}" for name, value in settings.items())
    subject.call = lambda: runtime.run(images)
    if case and case.end_to_end:
        subject.call = _to_the_end(case, runtime, images)
    return subject


def output_for(case: Case, runtime: str) -> str:
    """Choose the kind of output of a case in a format: the fastest one for end-to-end detection.

    In ONNX Runtime that is NMS inside the graph; elsewhere static NMS in the graph is slower than ours after it.
    """
    if not case.task or not case.end_to_end or runtime == "onnx" or case.output != case.task.whole_output:
        return case.output
    held = [output for output in backend(runtime).detections if output != case.task.whole_output]
    return next((output for output in reversed(held) if output in case.task.outputs), case.output)


def _to_the_end(case: Case, runtime: Runtime, images: Tensor) -> Callable[[], object]:
    """Make a function that runs the artifact and then the rest of the task."""
    manifest, size = runtime.manifest, tuple(images.shape[-2:])
    if not case.task or manifest.output == case.task.whole_output:
        return lambda: runtime.run(images)
    names, sizes = [output.name for output in manifest.outputs], [size] * len(images)

    def run() -> object:
        outputs = dict(zip(names, runtime.run(images), strict=True))
        return case.task.predict(case.task.from_artifact(outputs, manifest.output, size), sizes, size)

    return run


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
