"""The certificate beside an artifact: what it is, what it was made from, and how it was proven."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.base.plain_config import label
from tasks.base.renamed_targets import rename_targets, renamed_keys
from tasks.base.trusted_targets import check_targets
from tasks.data.classes import Classes
from tasks.deploy.inside import READERS, lone_file, read_inside
from tasks.files.images import MAX_PIXELS
from tasks.files.writing import write_json
from tasks.values.pixel_format import MOST_CHANNELS

FORMAT = 3  # of manifest.json; 1 called the output `form`, and neither it nor 2 had `decoding` and `tensors`
FILE = "manifest.json"
OBJECTS = (
    "config", "settings", "preprocessing", "decoding", "anchors", "tensors", "versions", "operators", "parity",
    "metric", "measured_on",
)  # fmt: skip
DTYPES = ("uint8", "int8", "int32", "int64", "float16", "float32", "bool")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: As the artifact calls it.
        shape: Sizes; -1 where any size goes.
        dtype: "float32", "uint8", "int64", ...
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass
class Manifest:
    """What stands in manifest.json.

    Attributes:
        backend: Name of the format: "onnx", "executorch", ...
        artifact: File name of the artifact, beside the manifest.
        kind: Of the task.
        output: What comes out: "logits", "probabilities" of classification; a `tail` of segmentation; "raw", "boxes",
            "decoded" or "nms" of detection.
        precision: "fp32", "int8", ...
        input: (N, C, H, W): RGB in 0..255, or what "pixels" of the preprocessing says; the normalisation is inside.
        outputs: In the order of the artifact.
        classes: {"names": [...], "palette": [...], "ids": [...] or None}, and of a detector "thresholds", the scores
            from which on boxes are shown, where the checkpoint has them; the artifact gives those below, too.
        config: Resolved configuration that rebuilds the task.
        settings: Of the export, as configured.
        preprocessing: How a picture becomes the input, in words and numbers: "pixels", "layout" (of `input`, "NCHW"),
            "inside" (the normalisation that the artifact does itself), and what `VisionTask.preprocessing` gives.
        decoding: What the outputs mean, and what is left to do with them. Of classification {"scores": {"axis",
            "activation": "softmax" that is still to do, or None}}; of segmentation {"classes": how they are found,
            "resize": to the picture's size}; of detection {"boxes": {"format": "xyxy", "frame": "px of the input",
            "clipped"}, "scores": {"range", "background"}, "nms": {"inside": whether the artifact does it, "of":
            "each class", or None where the head needs none, and its settings: of an iou_threshold of 1 none is
            suppressed}, "padding": of "nms", "raw": of "raw" what `DetectionHead.code` gives}. Boxes and scores of
            "raw" are so after its formula, with boxes clipped to the input.
        anchors: For raw detections what decoding needs: {"boxes": [[x1, y1, x2, y2] px, ...], ...}; else empty.
        tensors: {"input": {...}, "outputs": [{...}, ...]}, as the runtime knows them: "name" (None where it knows but
            places), "dtype", "shape", "layout" of the input, "scale" and "zero_point" of what it gives as integers.
        hashes: SHA-256 of every file of the artifact, by name, and of the checkpoint ("checkpoint").
        versions: Of the packages that took part.
        operators: How often each operator stands in the artifact.
        delegated: The same, of operators that a delegate runs; None where the format has none.
        notes: What a reader has to know.
        parity: For each output the worst {"absolute", "relative"} difference from eager, and on how many images.
        metric: {"name", "checkpoint": by the checkpoint's own evaluation, "eager": of the network with this output at
            this size, "runtime": of the artifact, "drop": from checkpoint to runtime, "shares": {what cost it: how
            much}, "max_drop", "images"}; empty where it was not measured.
        certified: What the artifact was held to: "outputs", the bound on `parity`, and the name of the metric; empty
            where nothing certifies it.
        measured_on: {"instruction_set": of the machine that compared and measured, "session": settings of the runtime
            beyond its own defaults}; empty where it was neither compared nor measured.
    """

    backend: str
    artifact: str
    kind: str
    output: str
    precision: str
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    classes: dict[str, Any]
    config: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    anchors: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    delegated: dict[str, int] | None = None
    notes: tuple[str, ...] = ()
    parity: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    certified: tuple[str, ...] = ()
    measured_on: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) px of the input."""
        return self.input.shape[2], self.input.shape[3]

    @property
    def batch(self) -> int:
        """Images a call; -1: any number."""
        return self.input.shape[0]

    @property
    def network(self) -> str:
        """Names of backbone and head; empty where no file of theirs was chosen."""
        choices = self.config.get("choices") or {}
        return " + ".join(label(self.config, key) for key in ("backbone", "head") if choices.get(key))

    def class_table(self) -> Classes:
        """Names, colours and ids of the classes."""
        ids, thresholds = (tuple(self.classes.get(key) or ()) or None for key in ("ids", "thresholds"))
        palette = tuple(tuple(color) for color in self.classes["palette"])
        return Classes(tuple(self.classes["names"]), palette, ids, thresholds)

    def save(self, folder: Path) -> None:
        """Write manifest.json into the folder."""
        write_json(folder / FILE, asdict(self))


def read_manifest(path: str | Path) -> tuple[Path, Manifest]:
    """Open an artifact, given as its folder, its file or its manifest.

    Where manifest.json is missing, or is another artifact's, the copy inside the file is read.

    Returns:
        The folder and the manifest, whose files were found and have the hashes that it states.

    Raises:
        FileNotFoundError: There is no manifest, or a file of the artifact is missing.
        ValueError: The manifest is none, of another format, or calls code that is not ours; a file was changed since.
        ImportError: What reads the copy inside the file is not installed.
    """
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    file = folder / FILE
    content = None
    if not _is_beside(file, path):
        lone = lone_file(path)
        content = read_inside(lone) if lone else None
        if content is None:
            raise FileNotFoundError(
                f"no {FILE} at {path}; expected the folder of an artifact that tools/export.py wrote, or a file with "
                "its manifest inside"
            )
        file = lone
        content["hashes"] = content.get("hashes", {}) | {lone.name: sha256(lone)}
    try:
        content = json.loads(file.read_bytes()) if content is None else content
        if content.get("format") not in range(1, FORMAT + 1):
            raise ValueError(f"format {str(content.get('format'))[:80]}, expected {FORMAT}; export it again")
        content = _as_today(content)
        specs = {"input": _spec(content["input"]), "outputs": tuple(_spec(spec) for spec in content["outputs"])}
        lists = {key: tuple(content.get(key, ())) for key in ("notes", "certified")}
        manifest = Manifest(**content | specs | lists)
        _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is no manifest of this toolkit ({str(error)[:300]})") from error
    rename_targets(manifest.config)
    check_targets(manifest.config, file)
    for name, expected in manifest.hashes.items():
        if name == "checkpoint":
            continue
        if Path(name).name != name or not (folder / name).is_file():
            raise FileNotFoundError(f"{file} names {name}, which is not beside it; export again")
        if sha256(folder / name) != expected:
            raise ValueError(f"{folder / name} is not the file that {file} certifies: it was changed; export again")
    if manifest.artifact not in manifest.hashes:
        raise ValueError(f"{file} does not certify its own artifact {manifest.artifact}; export again")
    return folder, manifest


def _is_beside(file: Path, path: Path) -> bool:
    """Whether a manifest.json is there, and is not of another artifact than the file that a path names."""
    if not file.is_file() or path.suffix not in READERS or path.is_dir() or not path.is_file():
        return file.is_file()
    try:
        return json.loads(file.read_bytes()).get("artifact") in (path.name, None)
    except (ValueError, AttributeError, RecursionError):
        return True  # where it is read, it is refused


def sha256(path: str | Path) -> str:
    """Hash of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_today(content: dict[str, Any]) -> dict[str, Any]:
    anchors = content.get("anchors", {})
    anchors = renamed_keys("manifest.anchors", anchors) if isinstance(anchors, dict) else anchors
    return renamed_keys("manifest", content) | {"anchors": anchors, "format": FORMAT}


def _spec(content: dict[str, Any]) -> TensorSpec:
    name, shape, dtype = content["name"], tuple(content["shape"]), content["dtype"]
    sizes = all(type(size) is int and (size == -1 or 0 <= size < 2**31) for size in shape)
    if not (isinstance(name, str) and sizes and len(shape) <= 8 and dtype in DTYPES):
        raise ValueError(f"a tensor is {str(content)[:200]}")
    return TensorSpec(name, shape, dtype)


def _check(manifest: Manifest) -> None:
    """Refuse values that the rest of the code base does not expect.

    Raises:
        ValueError: Names the field.
    """
    for key in ("backend", "artifact", "kind", "output", "precision"):
        _expect(isinstance(getattr(manifest, key), str), key, "a string")
    for key in OBJECTS:
        _expect(isinstance(getattr(manifest, key), dict), key, "an object")
    _expect(isinstance(manifest.delegated, dict | None), "delegated", "an object or null")
    for key in ("notes", "certified"):
        _expect(all(isinstance(text, str) for text in getattr(manifest, key)), key, "strings")
    hashes = manifest.hashes
    _expect(isinstance(hashes, dict) and all(isinstance(v, str) for v in hashes.values()), "hashes", "names to hashes")
    shape = manifest.input.shape
    fits = len(shape) == 4 and 1 <= shape[1] <= MOST_CHANNELS and shape[0] != 0
    _expect(fits, "input", f"a shape (N, 3, H, W), or of 1 to {MOST_CHANNELS} channels")
    _expect(min(shape[2:]) > 0 and abs(math.prod(shape)) <= 3 * MAX_PIXELS, "input", f"at most {MAX_PIXELS} px")
    classes = manifest.classes
    names, palette, ids = (classes[key] if key != "ids" else classes.get(key) for key in ("names", "palette", "ids"))
    _expect(isinstance(names, list) and all(isinstance(n, str) for n in names), "classes", "names")
    colors = all(len(color) == 3 and all(type(c) is int and 0 <= c < 256 for c in color) for color in palette)
    _expect(colors and len(palette) == len(names), "classes.palette", "an RGB colour a class")
    numbers = ids is None or (len(ids) == len(names) and all(type(i) is int and abs(i) < 2**63 for i in ids))
    _expect(numbers, "classes.ids", "a number a class, or null")
    scores = classes.get("thresholds")
    known = scores is None or (isinstance(scores, list) and len(scores) == len(names))
    known = known and all(one is None or (type(one) in (int, float) and 0 <= one <= 1) for one in scores or ())
    _expect(known, "classes.thresholds", "a score from 0 to 1, or null, for each class")


def _expect(met: bool, key: str, expected: str) -> None:
    if not met:
        raise ValueError(f"{key}: expected {expected}")
