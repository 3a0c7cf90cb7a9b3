"""Sources of weights: torchvision's and timm's published ones, and files of many origins."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from backbones.timm_library import import_timm
from backbones.weights.files import read_pickled
from backbones.weights.preprocessing import stored_preprocessing

TORCH_EPS = 1e-5  # of a BatchNorm of torch, where nothing else is said
LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Source:
    """Weights as a source has them, with what it states about them.

    Attributes:
        name: File, or the library's name of the weights.
        tensors: Tensors by the names of their origin.
        mean, std: Normalisation of RGB in [0, 1] that they expect; None where the source does not state it.
        preprocessing: As in `Backbone`; None where the source does not state it.
        norm_eps: {"backbone", "head": eps of the norms, or None for the family's own}; None where not stated.
        layout: Order of channels of a family with several; None where not stated.
        labels: Names of the outputs, in their order; None where not stated.
    """

    name: str
    tensors: dict[str, Tensor]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None
    norm_eps: Mapping[str, float | None] | None = None
    layout: str | None = None
    labels: tuple[str, ...] | None = None


def read_source(weights: str, known_as: Mapping[str, str]) -> Source:
    """Read published weights, or a file.

    Args:
        weights: "torchvision" or "timm" (the library's default for the architecture), "torchvision:IMAGENET1K_V1",
            "timm:lamb_in1k" (a certain entry), or a file: a state dict (.pth, .safetensors), a checkpoint of a
            training run, or what tools/import_weights.py wrote.
        known_as: {library: its name of the architecture}.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The library has no such weights; the file holds no weights, or fused ones, which cannot be trained.
        ImportError: timm or safetensors is not installed.
        OSError: Published weights could not be downloaded.
    """
    library, _, tag = weights.partition(":")
    if library in LIBRARIES:
        if library not in known_as:
            architecture = next(iter(known_as.values()), "this architecture")
            raise ValueError(f"{library} publishes no weights of {architecture}; give a file")
        return (_torchvision if library == "torchvision" else _timm)(known_as[library], tag)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; expected a file, or one of {', '.join(LIBRARIES)}")
    return _safetensors(path) if path.suffix == ".safetensors" else _pickled(path, known_as)


def _torchvision(variant: str, tag: str) -> Source:
    from torchvision.models import get_model_weights

    try:
        entries = get_model_weights(variant)
    except ValueError as error:
        raise ValueError(f"torchvision publishes no weights of {variant}; give a file") from error
    name = tag or entries.DEFAULT.name
    if name not in entries.__members__:
        raise ValueError(f"torchvision has no weights {name} of {variant}; it has {', '.join(entries.__members__)}")
    entry = entries[name]
    try:
        state = entry.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise OSError(f"could not download {entry.url} ({error}); fetch it by hand and give the file") from error
    return Source(str(entry), state, *_preset(entry), labels=tuple(entry.meta["categories"]))


def _preset(entry: Any) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, dict[str, Any] | None]:
    """Read mean, std and preprocessing of torchvision's weights; a detector's are in its code."""
    preset = entry.transforms()
    if not hasattr(preset, "crop_size"):
        mean, std = (getattr(preset, name, None) for name in ("mean", "std"))
        return mean and tuple(mean), std and tuple(std), None
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    preprocessing = {"crop_ratio": crop / resize, "interpolation": preset.interpolation.value, "image_size": crop}
    return tuple(preset.mean), tuple(preset.std), preprocessing


def _timm(variant: str, tag: str) -> Source:
    timm = import_timm("weights=timm")
    tags = [name.partition(".")[2] for name in timm.list_models(f"{variant}.*", pretrained=True)]
    if not tags or (tag and tag not in tags):
        has = f"it has {', '.join(tags)}" if tags else "give a file"
        raise ValueError(f"timm has no weights {tag} of {variant}; {has}".replace("  ", " "))
    name = f"{variant}.{tag}" if tag else variant
    try:
        model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise OSError(f"could not download timm's {name} ({error}); fetch it by hand and give the file") from error
    return Source(f"timm {name}", model.state_dict(), *_timm_preset(cast(Any, model).pretrained_cfg))


def _timm_preset(config: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, dict | None]:
    """Read mean, std and preprocessing as far as timm's description of the weights has them."""
    mean, std = (tuple(config[key]) if key in config else None for key in ("mean", "std"))
    ours = {"crop_pct": "crop_ratio", "interpolation": "interpolation"}
    preprocessing = {name: config[key] for key, name in ours.items() if key in config}
    if "input_size" in config:
        preprocessing["image_size"] = config["input_size"][-1]
    return mean, std, preprocessing or None


def _safetensors(path: Path) -> Source:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{path} needs safetensors; install it: uv pip install safetensors") from error
    try:
        tensors = load_file(path)
    except Exception as error:
        raise ValueError(f"{path}: not a safetensors file ({_first_line(error)})") from error
    beside = path.with_name("config.json")  # as timm publishes its models
    try:
        described = json.loads(beside.read_bytes()) if beside.is_file() else {}
        eps = _tensorflow_eps(str(described.get("architecture", path.name)))
        return Source(str(path), tensors, *_timm_preset(described.get("pretrained_cfg", {})), eps)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ValueError(f"{beside}: not a description of weights as timm has it ({_first_line(error)})") from error


def _pickled(path: Path, known_as: Mapping[str, str]) -> Source:
    known, tensors = read_pickled(path)
    if known.get("fused") is True:
        raise ValueError(
            f"{path} is fused: its branches and norms are merged into single convolutions, which cannot be trained on; "
            "give the checkpoint that it was fused from"
        )
    if entry := _published_file(path.name, known_as.get("torchvision")):
        return Source(str(path), tensors, *_preset(entry))
    ours = "fused" in known  # a checkpoint, or of tools/import_weights.py; others may have keys of these names
    try:
        config = known.get("config") if ours else None
        white = 65535 if ((config or {}).get("pixels") or {}).get("bits") == 16 else 255
        mean, std = (_normalization(known, tensors, name, white) for name in ("mean", "std"))
        preprocessing = dict(known.get("preprocessing") or stored_preprocessing(config) or {}) or None
        node = (config or known).get("backbone") if ours else None
        norm_eps = stored_norm_eps({"backbone": node, "head": (config or {}).get("head")}) if ours else None
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: its normalisation or preprocessing cannot be read ({_first_line(error)})") from error
    return Source(str(path), tensors, mean, std, preprocessing, norm_eps or _tensorflow_eps(path.name),
                  (node or {}).get("layout"))  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def stored_norm_eps(config: Mapping[str, Any]) -> dict[str, float | None]:
    """Read the eps of the norms in a checkpoint's configuration.

    Returns:
        {"backbone": eps, "head": eps}; None for a part with its default norms.

    >>> stored_norm_eps({"backbone": {"norm": {"eps": 0.001}}, "head": {"norm": None}})
    {'backbone': 0.001, 'head': None}
    """
    norms = {part: (config.get(part) or {}).get("norm") for part in ("backbone", "head")}
    eps = {part: float(norm.get("eps", TORCH_EPS)) if norm else None for part, norm in norms.items()}
    options = (config.get("backbone") or {}).get("model_options") or {}  # timm's
    return eps | ({"backbone": float(options["bn_eps"])} if "bn_eps" in options else {})


def _tensorflow_eps(name: str) -> dict[str, float] | None:
    """Give the eps of networks that timm calls "tf_...", which is TensorFlow's."""
    return {"backbone": 0.001} if name.startswith("tf_") else None


def _published_file(name: str, variant: str | None) -> Enum | None:
    """Find the entry that torchvision publishes under a file name."""
    from torchvision.models import get_model_weights, list_models

    entries = get_model_weights(variant) if variant in list_models() else ()
    return next((entry for entry in entries if entry.url.rpartition("/")[2] == name), None)


def _normalization(
    known: Mapping[str, Any], tensors: dict[str, Tensor], name: str, white: int
) -> tuple[float, ...] | None:
    """Read mean or std as tools/import_weights.py states it, or as a checkpoint's network holds it (for 0..white)."""
    if isinstance(known.get(name), list | tuple):
        return tuple(map(float, known[name]))
    held = tensors.pop(f"network.{name}", None)
    return None if held is None else tuple((held.flatten().double() / white).tolist())
