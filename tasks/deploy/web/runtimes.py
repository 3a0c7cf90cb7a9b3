"""ONNX Runtime Web and LiteRT.js: packages of npm, pinned in npm/, fetched once into a cache and served from there."""

import json
import os
import shutil
import subprocess
from pathlib import Path

PINNED = Path(__file__).with_name("npm")  # package.json with the versions, package-lock.json with npm's checksums
PACKAGES = {"onnx": "onnxruntime-web", "litert": "@litertjs/core"}  # by format of the artifact
FETCH = "python tools/doctor.py fetch=web"
# Folder in the pages' folder: (folder in node_modules, its files)
_PARTS = {
    "onnx": {
        "ort": (
            "onnxruntime-web/dist",
            (
                "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
                "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
            ),
        ),
    },
    "litert": {
        "litert": ("@litertjs/core/dist", ("index.js",)),
        "litert/wasm-utils": ("@litertjs/wasm-utils/dist", ("index.js",)),
        "litert/wasm": (
            "@litertjs/core/wasm",
            tuple(
                f"litert_wasm_{build}.{suffix}"
                for build in ("internal", "compat_internal", "threaded_internal")
                for suffix in ("js", "wasm")
            ),
        ),
    },
}  # fmt: skip


def versions() -> dict[str, str]:
    """Read the pinned versions, by package.

    >>> sorted(versions())
    ['@litertjs/core', 'onnxruntime-web']
    """
    return json.loads((PINNED / "package.json").read_text())["dependencies"]


def cache_folder() -> Path:
    """Name the folder of the fetched packages: mobile-dense/web in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobile-dense" / "web"


def fetch() -> None:
    """Fetch the packages by npm, which checks them against the sums of package-lock.json; none of their scripts run.

    Raises:
        FileNotFoundError: There is no npm.
        ValueError: npm fails.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for file in PINNED.iterdir():
        shutil.copy(file, folder)
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("no npm on this machine; install Node.js, which brings it")
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or "it said nothing").splitlines()
        raise ValueError(f"npm ci in {folder} ended with status {done.returncode}: {said[0]}")


def missing(format: str) -> str | None:
    """Say what the cache lacks for a format, or None.

    Args:
        format: "onnx" or "litert".
    """
    package, folder = PACKAGES[format], cache_folder() / "node_modules"
    wanted, stated = versions()[package], folder / package / "package.json"
    if not stated.is_file():
        return f"{package} {wanted} is not fetched"
    found = json.loads(stated.read_text())["version"]
    if found != wanted:
        return f"{package} is {found}, wanted {wanted}"
    return next((f"{path} is missing" for path in _files(format).values() if not path.is_file()), None)


def runtime_files(format: str) -> dict[str, Path]:
    """List the files of a format's runtime: {path in the pages' folder: file in the cache}.

    Raises:
        FileNotFoundError: The cache lacks the package, or has another version.
    """
    if lack := missing(format):
        raise FileNotFoundError(f"{lack}; type: {FETCH}")
    return _files(format)


def _files(format: str) -> dict[str, Path]:
    folder = cache_folder() / "node_modules"
    return {
        f"{place}/{name}": folder / source / name for place, (source, names) in _PARTS[format].items() for name in names
    }
