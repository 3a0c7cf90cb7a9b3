"""Convert foreign weights into a file of ours, and compare with the network that they come from."""

import copy
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.blocks.fusion import fuse_model
from backbones.timm_library import import_timm
from backbones.weights.loading import LoadReport, load_weights
from backbones.weights.sources import Source, read_source
from tasks.base.build import Config, build_backbone, plain
from tasks.files.writing import write_bytes

IMAGE_SIZE = (224, 224)  # px, of the images that networks are compared on
PARITY, FUSED_PARITY = 1e-3, 1e-6  # relative: of rounding in float32 through some 60 layers, and in float64
logger = logging.getLogger(__name__)


def import_weights(config: Config) -> dict[str, Any]:
    """Load `source` into `backbone`, compare, and write `output`.

    The file holds the backbone's state dict by our names, its normalisation, its preprocessing and its origin;
    `backbone.weights=` takes it, as it takes the source itself.

    Args:
        config: With `backbone`, `source`, `output`, `mean`, `std`, `overwrite`.

    Returns:
        {"source", "naming", "tensors", "unused", "adapted", "mean", "std", "reference": the library compared with or
        none, "compared": number of convolutions, "relative_error": the largest of their outputs, "fused_error":
        relative, of the deepest tap, in float64}.

    Raises:
        ValueError: `source` or `output` is not given, `output` exists, outputs differ from those of the library's
            network or of the fused twin, or as `load_weights`.
        FileNotFoundError, OSError, ImportError: As `load_weights`.
    """
    for name in ("source", "output"):
        if not config[name]:
            raise ValueError(f"no {name} is given; give {name}=<file>")
    output = Path(config["output"]).expanduser()
    if output.exists() and not config["overwrite"]:
        raise ValueError(f"{output} exists; choose another output=, or replace it with overwrite=true")
    backbone = build_backbone(config).eval()
    report = load_weights(backbone, config["source"])
    for name in ("mean", "std"):
        if config[name] is not None:
            values = tuple(map(float, config[name]))
            if len(values) != backbone.in_channels:
                raise ValueError(f"{name}={list(values)}: expected {backbone.in_channels} numbers, one a channel")
            setattr(backbone, name, values)
    source = read_source(config["source"], backbone.known_as)
    result = {
        "source": report.source, "naming": report.naming, "tensors": report.matched, "unused": list(report.unused),
        "adapted": list(report.adapted), "mean": list(backbone.mean), "std": list(backbone.std),
        **compare(backbone, report, source), "fused_error": _fused_error(backbone),
    }  # fmt: skip
    _check_parity(result, output)
    content = {key: result[key] for key in ("source", "naming", "mean", "std")}
    content |= {"state_dict": backbone.state_dict(), "preprocessing": backbone.preprocessing or None, "fused": False}
    content["backbone"] = plain(config["backbone"])  # with the eps of its norms
    buffer = io.BytesIO()
    torch.save(content, buffer)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, buffer.getvalue())
    return result


def _check_parity(result: dict[str, Any], output: Path) -> None:
    """Refuse to write weights that compute something else here."""
    errors = {f"{result['reference']}'s network": (result["relative_error"], PARITY),
              "its fused twin": (result["fused_error"], FUSED_PARITY)}  # fmt: skip
    for other, (error, bound) in errors.items():
        if error is not None and not error <= bound:
            raise ValueError(
                f"{result['source']}: outputs differ from those of {other} by {error:.1e} of the largest (at most "
                f"{bound:.0e} is rounding); {output} is not written. Is it the right backbone, and are its settings "
                "(norm, width) those of the weights?"
            )


def compare(backbone: Backbone, report: LoadReport, source: Source) -> dict[str, Any]:
    """Run the library's own network with the same weights beside ours, on noise.

    Every convolution that both run as a module of its own is compared.

    Returns:
        {"reference", "compared", "relative_error"} as in `import_weights`; nones where no library at hand has a
        network of this naming (the authors' repositories), the input channels were adapted, or the library's network
        has other names or shapes than the source (a prefix, another width).
    """
    reference = None if report.adapted else _reference(report.naming, backbone.known_as)
    theirs = {theirs: source.tensors[theirs] for theirs in report.keys.values()}
    places = reference.state_dict() if reference else {}
    if not all(name in places and places[name].shape == tensor.shape for name, tensor in theirs.items()):
        return {"reference": None, "compared": 0, "relative_error": None}
    reference.load_state_dict(theirs, strict=False)  # all but its classifier, which is not compared
    convs = {
        ours.rpartition(".")[0]: name.rpartition(".")[0]
        for ours, name in report.keys.items()
        if isinstance(backbone.get_submodule(ours.rpartition(".")[0]), nn.Conv2d)
    }
    images = torch.randn(1, backbone.in_channels, *IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    ours = _outputs(backbone, images, convs)
    expected = _outputs(reference, images, convs.values())
    errors = [
        float((ours[name] - expected[other]).abs().max() / expected[other].abs().max().clamp_min(1e-12))
        for name, other in convs.items()
        if name in ours and other in expected
    ]
    return {"reference": report.naming, "compared": len(errors), "relative_error": max(errors, default=None)}


def _reference(naming: str, known_as: Mapping[str, str]) -> nn.Module | None:
    if naming not in known_as:
        return None
    if naming == "torchvision":
        from torchvision.models import get_model

        return get_model(known_as[naming], weights=None).eval()
    if naming == "timm":
        try:
            timm = import_timm("a comparison with timm")
        except ImportError:
            return None
        return timm.create_model(known_as[naming]).eval() if timm.is_model(known_as[naming]) else None
    return None


def _outputs(network: nn.Module, images: Tensor, names) -> dict[str, Tensor]:
    """What the modules of these names give; those that do not run are left out."""
    found, modules = {}, dict(network.named_modules())
    handles = [
        modules[name].register_forward_hook(
            lambda module, args, output, name=name: found.update({name: output.clone()})
        )
        for name in names
        if name in modules
    ]
    with torch.inference_mode():
        network(images)
    for handle in handles:
        handle.remove()
    return found


def _fused_error(backbone: Backbone) -> float:
    network = copy.deepcopy(backbone).double()
    images = torch.randn(1, backbone.in_channels, 96, 96, dtype=torch.float64)
    deepest = backbone.taps[-1].name
    with torch.inference_mode():
        expected, actual = network(images)[deepest], fuse_model(network)(images)[deepest]
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
