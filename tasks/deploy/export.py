"""From a checkpoint to artifacts: written, run, compared, measured, certified; or not left behind."""

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from tasks.base.build import Config
from tasks.base.quiet import quiet
from tasks.base.tables import Table
from tasks.deploy.backend import BACKENDS, OWN_EXTRAS, QUANTIZED, Backend, ExportOptions, Runtime, Unsupported, backend
from tasks.deploy.inside import inside_text
from tasks.deploy.manifest import Manifest, sha256
from tasks.deploy.original import Original
from tasks.deploy.parity import share_text, worst
from tasks.deploy.progress import ExportProgress
from tasks.deploy.quantization_diagnosis import Drop, doctor
from tasks.deploy.run_script import write_run_script
from tasks.deploy.web.page import check_demo, write_demo
from tasks.deploy.web.runtimes import PACKAGES
from tasks.detection.deployable import OUTPUTS

LARGEST_FP16 = 65504
PASSED_OVER = "passed over"  # in the table, in place of an artifact's folder
COLUMNS = (
    "format", "precision", "output", "MiB", "difference", "{} of the checkpoint", "eager", "here", "lost",
    "certified by", "artifact",
)  # fmt: skip
EXPECTED = (ValueError, ImportError, OSError, RuntimeError)  # they say what is wrong by themselves
logger = logging.getLogger(__name__)


def export(config: Config) -> tuple[list[Table], list[str]]:
    """Export `config.checkpoint`, or `config.weights`, into every format that `config.export` chooses.

    Each artifact becomes a folder {format}-{precision}-{output} in `output_dir`, or in export/ beside the checkpoint.
    It appears whole, with its manifest.json, once it agrees with eager and keeps the metric; else not at all. A format
    that cannot hold the detections asked for gets the next output that it can; of "all" formats those are passed over,
    with a line, that have no such precision, input or batch, or whose own extra is not installed. With
    `config.export.doctor` no artifact is left, but int8 is looked into
    (`tasks.deploy.quantization_diagnosis.doctor`).

    Args:
        config: As stored in the checkpoint, with `export`; or with `weights`.

    Returns:
        A table of what was made, or the doctor's; and what failed, a line a format. One format's failure does not stop
        the others.

    Raises:
        ValueError, FileNotFoundError: Checkpoint, data or settings are not as they should be, or an artifact is there.
    """
    quiet()
    settings = config["export"]
    if settings["reduce_range"] and settings["precision"] != "int8" and not settings["doctor"]:
        raise ValueError("export.reduce_range=true is of int8 weights; give export.precision=int8 too")
    names, every = chosen_formats(settings)
    if not names:
        raise ValueError("no format is chosen; give export=onnx, or another of --help")
    if settings["detections"] not in OUTPUTS:
        raise ValueError(f"export.detections={settings['detections']}: expected one of {', '.join(OUTPUTS)}")
    if settings["demo"] not in (None, "web"):
        raise ValueError(f"export.demo={settings['demo']}: expected web")
    original = Original(config)
    if settings["demo"]:
        shown = [name for name in names if name in PACKAGES] if every else names
        for name in shown:
            check_demo(name, original.task.kind)
    folder = Path(config["output_dir"] or original.beside / "export").expanduser()
    if settings["doctor"]:
        return doctor(original, _int8_exports(original, names), folder), []
    rows, failures = [], []
    progress = ExportProgress(names, settings["precision"])
    original.tell = progress.tell
    for name in names:
        row = (name, settings["precision"])
        progress.begin(name)
        try:
            format = backend(name)
            output = _output(original, format)
            target = folder / f"{name}-{settings['precision']}-{output}"
            if target.exists() and not config["overwrite"]:
                raise ValueError(f"{target} is there already; give another output_dir=, or overwrite=true")
            progress.tell(f"exporting to {target}")
            manifest = _export_one(format, output, original, target)
            if settings["demo"] and name in PACKAGES:
                write_demo(target, manifest, target.with_name(f"{target.name}-web"))
        except Exception as error:  # converters raise all kinds, and one format's end is not that of the others
            said = str(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"
            optional = isinstance(error, ImportError) and name in OWN_EXTRAS
            passed_over = every and (optional or isinstance(error, Unsupported))
            if passed_over:
                progress.passed_over()
                logger.warning("%s is passed over: %s", name, said)
            else:
                failures.append(f"{name}: {said}")
            outcome = f"{PASSED_OVER}: {said}" if passed_over else "failed"
            rows.append((*row, *["-"] * (len(COLUMNS) - 3), outcome))
            continue
        rows.append((*row, *_described(manifest, target)))
    if all(row[-1].startswith(PASSED_OVER) for row in rows):
        failures.append("no format has what is asked for; the lines above say what each has")
    columns = [column.format(original.task.monitor) for column in COLUMNS]
    height, width = original.image_size
    return [(f"{original.source} at {height}x{width} px", columns, rows)], failures


def chosen_formats(settings: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Names of the formats that settings of `export` choose, each once; and whether they are "all" there are."""
    names = settings["formats"] or [name for name, chosen in settings["chosen"].items() if chosen]
    return (list(BACKENDS), True) if "all" in names else (list(dict.fromkeys(names)), False)


def _described(manifest: Manifest, target: Path) -> tuple[str, ...]:
    """An artifact's cells of the table."""
    size = sum(file.stat().st_size for file in target.iterdir()) / 2**20
    difference = f"{worst(manifest.parity['outputs']):.1e}" if manifest.parity else "-"
    metric = manifest.metric
    scores = [f"{metric[key]:.4f}" if metric else "-" for key in ("checkpoint", "eager", "runtime")]
    lost = share_text(metric["shares"]) or "nothing" if metric else "-"
    certified = ", ".join(manifest.certified) or "NOT CERTIFIED"
    return manifest.output, f"{size:.1f}", difference, *scores, lost, certified, str(target)


def _int8_exports(original: Original, names: Sequence[str]) -> dict[str, Drop]:
    """{format: what exports it in int8 with some modules in float} of those of these formats that have int8."""
    found = {}
    for name in names:
        try:
            format = backend(name)
        except ImportError as error:
            logger.warning("%s; it is not measured", error)
            continue
        if "int8" in format.precisions and format.here:
            found[name] = partial(_int8_drop, format, _output(original, format), original)
        else:
            logger.info("%s has no int8 that could be measured here; it is passed over", name)
    return found


def _int8_drop(format: Backend, output: str, original: Original, keep_float: Sequence[str]) -> float:
    """What an artifact loses of the metric; more than anything where the format cannot hold the mix. It is not kept."""
    asked = original.asking(precision="int8", keep_float=list(keep_float), max_drop=math.inf)
    named = ", ".join(keep_float) or "nothing"
    with TemporaryDirectory() as scratch:
        try:
            drop = _export_one(format, output, asked, Path(scratch, "artifact")).metric["drop"]
        except (ValueError, RuntimeError) as error:
            logger.warning("%s with %s in float: %s", format.name, named, error)
            return math.inf
    logger.info("%s with %s in float loses %.4f", format.name, named, drop)
    return drop


def _output(original: Original, format: Backend) -> str:
    """What comes out of the artifact."""
    output = original.task.chosen_output(original.settings, format.detections)
    asked = original.settings["detections"]
    if asked in original.task.outputs and output != asked:
        logger.info("%s has no detections=%s: exporting %s instead", format.name, asked, output)
    return output


def _export_one(format: Backend, output: str, original: Original, target: Path) -> Manifest:
    """One artifact, in a folder that appears whole or not at all."""
    settings = original.settings
    inputs = format.pixel_inputs(original.pixels)
    precision, dtype = settings["precision"], settings["input"] or inputs[0]
    if precision not in format.precisions:
        raise Unsupported(f"export.precision={precision}: {format.name} has {', '.join(format.precisions)}")
    if dtype not in inputs:
        of = "" if original.pixels.is_rgb else f" of {original.pixels}"
        raise Unsupported(f"export.input={dtype}: {format.name} takes {', '.join(inputs)}{of}")
    if precision == "fp16" and original.pixels.white > LARGEST_FP16:
        raise Unsupported(
            f"export.precision=fp16 holds no pixel above {LARGEST_FP16}, and these have 16 bits; set fp32"
        )
    if settings["dynamic_batch"] and not format.dynamic:
        raise Unsupported(f"{format.name} has no dynamic batch; set export.dynamic_batch=false")
    format.check(original.model(output))
    example = original.examples[:1].to(getattr(torch, dtype)).repeat(settings["batch"], 1, 1, 1)
    images = original.images("train", settings["calibration_images"]) if precision in QUANTIZED else []
    calibration = [image.to(example.dtype).repeat(settings["batch"], 1, 1, 1) for image in images]
    options = ExportOptions(
        precision, settings["dynamic_batch"], calibration, tuple(settings["keep_float"]), settings["reduce_range"]
    )
    working = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    try:
        exported = format.export(original.model(output), example, working, options)
        manifest = original.certificate(output, format, dtype, exported)
        if settings["reduce_range"] and not format.narrows:
            manifest.notes += ("export.reduce_range: not needed, sums of int8 products are exact on every processor",)
        if format.here:
            runtime = format.load(working, manifest, threads=settings["threads"])
            original.prove(format, runtime, manifest)
            expected = runtime(original.examples[:1])
        else:
            manifest.notes += ("this machine cannot run the format: neither compared nor measured, so not certified",)
        format.embed(working / format.file, inside_text(asdict(manifest)))
        if format.here:
            _check_embedded(format.load(working, manifest, threads=settings["threads"]), original, expected)
        manifest.hashes |= {file.name: sha256(file) for file in sorted(working.iterdir())}
        manifest.save(working)
        write_run_script(working, manifest)
        if target.exists():
            shutil.rmtree(target)
        working.rename(target)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return manifest


def _check_embedded(runtime: Runtime, original: Original, expected: Mapping[str, Tensor]) -> None:
    """Raise if an artifact computes anything else since its manifest was written into its file."""
    found = runtime(original.examples[:1])
    changed = [name for name, values in expected.items() if not torch.equal(values, found[name])]
    if changed:
        raise ValueError(f"{', '.join(changed)}: changed by writing the manifest into the file; report it")
