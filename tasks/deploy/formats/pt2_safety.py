"""What a .pt2 file may hold before torch loads it: the loader unpickles, evaluates and calls what the file names.

A file of ours holds plain tensors and a graph of operators, and that is all that passes: no pickled tensor or object,
no compiled library, no code of guards, no name that is not a plain one, no function but operators that compute.
"""

import io
import json
import math
import re
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch

RECORDS = (
    r"models/model\.json", r"data/weights/(model_weights_config\.json|weight_\d+)",
    r"data/constants/(model_constants_config\.json|tensor_\d+)", r"data/sample_inputs/model\.pt",
    r"extra/manifest\.json",  # which the loader does not look into
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version|\.storage_alignment",
)  # fmt: skip
PLAIN = re.compile(r"[\w.+ -]{0,500}")  # names, versions
EXPRESSION = re.compile(  # of symbolic sizes: few words, and no power that never ends
    r"(?!.*\*\*)(?:\b(?:Symbol|Integer|positive|integer|True|False|[su]\d+|Max|Min|Mod|FloorDiv|CeilDiv|Mul|Add|"
    r"LessThan|GreaterThan)\b|[\d ()+*/<>=,'-])*"
)
SPEC = re.compile(r"(?!.*__)[\w .,:\[\]{}\"]*")  # how inputs and outputs nest
OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision)\.(?!from_file)\w+(\.\w+)?|torch\.sym_\w+|"
    r"_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)|math\.\w+"
)
TEXT = re.compile(".*", re.DOTALL)  # an operator's argument
STRINGS = {
    "expr_str": EXPRESSION, "in_spec": SPEC, "out_spec": SPEC, "target": OPERATOR, "as_operator": OPERATOR,
    "as_string": TEXT,
}  # fmt: skip
UNWANTED = {"guards_code", "custom_obj_values", "as_custom_obj", "treespec_namedtuple_fields"}


def check_pt2(path: Path) -> None:
    """Refuse a file that does more than compute.

    Raises:
        ValueError: It is no .pt2 file, or holds what `Pt2Backend` does not write; nothing of it was run.
    """
    try:
        with ZipFile(path) as archive:
            _check(archive)
    except Exception as error:  # a damaged file raises whatever comes up
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is no .pt2 file that is safe to load ({reason[:200]}); export it again") from error


def _check(archive: ZipFile) -> None:
    entries = {}
    for entry in archive.infolist():
        name = entry.filename.partition("/")[2]
        if not any(re.fullmatch(pattern, name) for pattern in RECORDS) or name in entries:
            raise ValueError(f"it holds {entry.filename!r}")
        if entry.compress_type != ZIP_STORED:
            raise ValueError(f"{entry.filename!r} is compressed")
        entries[name] = entry
    if archive.comment or len({entry.filename.partition("/")[0] for entry in entries.values()}) != 1:
        raise ValueError("its records have no common folder")
    for part, prefix in (("weights", "weight"), ("constants", "tensor")):
        config = json.loads(archive.read(entries[f"data/{part}/model_{part}_config.json"]))["config"]
        for key, payload in config.items():
            record = entries[f"data/{part}/{payload['path_name']}"]
            if payload["use_pickle"] is not False or not payload["path_name"].startswith(f"{prefix}_"):
                raise ValueError(f"{key[:80]!r} is pickled")
            sizes = [size["as_int"] for size in payload["tensor_meta"]["sizes"]]
            if not record.file_size and math.prod(sizes):
                raise ValueError(f"{key[:80]!r} of {sizes} has no numbers")
            _strings(payload, "")
    samples = archive.read(entries["data/sample_inputs/model.pt"])
    if samples:
        torch.load(io.BytesIO(samples), map_location="cpu", weights_only=True)  # else the loader unpickles anything
    _strings(json.loads(archive.read(entries["models/model.json"])), "")


def _strings(value: Any, key: str) -> None:
    """Look at every string of a JSON value, what describes a node for a reader aside."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in UNWANTED and inner:
                raise ValueError(f"it has {name}")
            if not PLAIN.fullmatch(name):
                raise ValueError(f"a name is {name[:80]!r}")
            if name != "metadata":
                _strings(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _strings(inner, key)
    elif isinstance(value, str) and not STRINGS.get(key, PLAIN).fullmatch(value):
        raise ValueError(f"{key or 'a value'} is {value[:80]!r}")
