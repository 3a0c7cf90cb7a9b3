"""The manifest inside an artifact's own file, by which the file is known where the one beside it is lost."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tasks.deploy.script.runtimes import (
    inside_coreml,
    inside_executorch,
    inside_litert,
    inside_onnx,
    inside_openvino,
    inside_pt2,
)

# by the ending of the file; ncnn's two files have no place for it
READERS: dict[str, Callable[[str], str | None]] = {
    ".onnx": inside_onnx, ".tflite": inside_litert, ".pte": inside_executorch, ".pt2": inside_pt2,
    ".zip": inside_coreml, ".xml": inside_openvino,
}  # fmt: skip
NOTE = "the manifest was read from the file itself: no hash tells whether the file was changed since"


def lone_file(path: Path) -> Path | None:
    """Find the file that a path means which may hold its manifest: itself, or the only such file of a folder."""
    files = [file for file in path.iterdir() if file.suffix in READERS] if path.is_dir() else [path]
    return files[0] if len(files) == 1 and files[0].is_file() and files[0].suffix in READERS else None


def inside_text(content: Mapping[str, Any]) -> str:
    """Write what a file holds of a manifest's content: no hashes of its own files, and no folders of this machine."""
    hashes = {key: value for key, value in content["hashes"].items() if key == "checkpoint"}
    return json.dumps(_without_folders({**content, "hashes": hashes}))


def read_inside(file: Path) -> dict[str, Any] | None:
    """Read the manifest's content inside an artifact's file; None where it holds none.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        text = READERS[file.suffix](str(file))
        content = None if text is None else json.loads(text)
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged file brings up
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} cannot be read ({reason[:200]}); export it again") from error
    if not isinstance(content, dict):
        return None
    return content | {"artifact": file.name, "notes": [*content.get("notes", ()), NOTE]}


def _without_folders(value: Any) -> Any:
    """Absolute paths become the names of what they lead to."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and kind(value).is_absolute():
            return kind(value).name
    return value
