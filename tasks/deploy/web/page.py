"""Compose the pages of a browser: which files they consist of, and what they have to know of an artifact."""

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.deploy.manifest import Manifest, TensorSpec
from tasks.deploy.web.runtimes import PACKAGES, runtime_files
from tasks.files.writing import write_json

SHARED = ("runtimes.js", "style.css")
PAGES = {
    "bench": ("bench.html", ("bench.js", *SHARED)),
    "demo": ("demo.html", ("demo.js", "worker.js", "resize.js", "decode.js", "draw.js", *SHARED)),
}
SHOWN = ("backend", "artifact", "kind", "output", "classes", "preprocessing", "decoding", "anchors")  # of the manifest
KINDS = ("classification", "detection", "segmentation")
_HERE = Path(__file__).parent


def page_files(page: str, formats: Iterable[str]) -> dict[str, Path]:
    """List the files of a page, with the runtimes of some formats: {path below its address: file}; "" is the page.

    Raises:
        FileNotFoundError: A runtime is not fetched.
    """
    html, scripts = PAGES[page]
    files = {"": _HERE / html} | {name: _HERE / name for name in scripts}
    for format in formats:
        files |= runtime_files(format)
    return files


def tensors(manifest: Manifest, batch: int = 1) -> dict[str, Any]:
    """Describe input and outputs for `openModel` of runtimes.js, with the number of images set."""
    sized = [_of_batch(spec, batch) for spec in (manifest.input, *manifest.outputs)]
    return {"input": sized[0], "outputs": sized[1:]}


def write_demo(folder: Path, manifest: Manifest, target: Path) -> None:
    """Write a page that shows what an artifact finds: a folder for any static host, that works without a network.

    Of the manifest it has what the page reads, and nothing of the configuration, which names folders of this machine.

    Args:
        folder: Of the artifact.
        manifest: Its certificate.
        target: Folder to write; one that is there is replaced.

    Raises:
        ValueError: No browser runs the format, or the page does not know the task.
        FileNotFoundError: The runtime is not fetched.
    """
    check_demo(manifest.backend, manifest.kind)
    files = page_files("demo", [manifest.backend])
    shutil.rmtree(target, ignore_errors=True)
    for name, file in files.items():
        place = target / (name or "index.html")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    shutil.copy(folder / manifest.artifact, target)
    height, width = manifest.image_size
    words = f"{manifest.kind}, {width} x {height} px, {manifest.backend} {manifest.precision}"
    told = {key: getattr(manifest, key) for key in SHOWN} | tensors(manifest)
    write_json(target / "demo.json", {"title": manifest.network or folder.name, "words": words, **told})


def check_demo(format: str, kind: str) -> None:
    """Refuse what no page shows.

    Raises:
        ValueError: No browser runs the format, or the page does not know the task.
        FileNotFoundError: The runtime is not fetched.
    """
    if format not in PACKAGES:
        raise ValueError(f"export.demo=web: no browser runs {format}; export={' or '.join(PACKAGES)} has a page")
    if kind not in KINDS:
        raise ValueError(f"export.demo=web: the page shows {', '.join(KINDS)}, not {kind}")
    runtime_files(format)


def _of_batch(spec: TensorSpec, batch: int) -> dict[str, Any]:
    shape = [batch if size < 0 else size for size in spec.shape]
    return asdict(spec) | {"shape": shape}
