"""Compose the pages of a browser: which files they consist of, and what they have to know of an artifact."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.deploy.manifest import Manifest, TensorSpec
from tasks.deploy.web.runtimes import runtime_files

SHARED = ("runtimes.js", "style.css")
PAGES = {
    "bench": ("bench.html", ("bench.js", *SHARED)),
    "demo": ("demo.html", ("demo.js", "resize.js", "decode.js", "draw.js", *SHARED)),
}
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


def _of_batch(spec: TensorSpec, batch: int) -> dict[str, Any]:
    shape = [batch if size < 0 else size for size in spec.shape]
    return asdict(spec) | {"shape": shape}
