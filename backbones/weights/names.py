"""Names of the parts of a chain of layers in torchvision and timm, for the families' key maps."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from backbones.blocks.layers import ConvNormAct, InvertedResidual


def conv_norm_names(ours: str, theirs: str) -> dict[str, str]:
    """Map the names of a `ConvNormAct` to those of torchvision's Conv2dNormActivation.

    >>> conv_norm_names("layers.0", "features.0")
    {'layers.0.conv': 'features.0.0', 'layers.0.norm': 'features.0.1'}
    """
    return {f"{ours}.conv": f"{theirs}.0", f"{ours}.norm": f"{theirs}.1"}


def inverted_residual_names(block: InvertedResidual, ours: str, theirs: str) -> dict[str, str]:
    """Map the names of a block to torchvision's, which numbers the parts that are there.

    >>> inverted_residual_names(InvertedResidual(16, 16, 24), "layers.1", "1.conv")["layers.1.project.conv"]
    '1.conv.1.0'
    """
    names: dict[str, str] = {}
    index = 0
    for part in ("expand", "depthwise", "squeeze", "project"):
        module = getattr(block, part)
        if isinstance(module, nn.Identity):
            continue
        if part == "squeeze":
            names |= {f"{ours}.squeeze.{fc}": f"{theirs}.{index}.{fc}" for fc in ("fc1", "fc2")}
        else:
            names |= conv_norm_names(f"{ours}.{part}", f"{theirs}.{index}")
        index += 1
    return names


def openmmlab_names(layer: nn.Module, ours: str, theirs: str) -> dict[str, str]:
    """Map the names of a `ConvNormAct` or an inverted residual to those of OpenMMLab's ConvModule and InvertedResidual.

    >>> openmmlab_names(InvertedResidual(16, 16, 24), "layers.1", "layer1")["layers.1.project.norm"]
    'layer1.linear_conv.bn'
    """
    if isinstance(layer, ConvNormAct):
        return {f"{ours}.conv": f"{theirs}.conv", f"{ours}.norm": f"{theirs}.bn"}
    names = {f"{ours}.squeeze.fc{at}": f"{theirs}.se.conv{at}.conv" for at in (1, 2)}
    for part, name in (("expand", "expand_conv"), ("depthwise", "depthwise_conv"), ("project", "linear_conv")):
        names |= {f"{ours}.{part}.conv": f"{theirs}.{name}.conv", f"{ours}.{part}.norm": f"{theirs}.{name}.bn"}
    return names


def timm_places(blocks: Sequence[int], last: str | None = None) -> list[str]:
    """List timm's names of a chain of layers (EfficientNet, MobileNetV3): the stem, the blocks of each stage, the last.

    >>> timm_places([1, 2], "head")
    ['stem', 'blocks.0.0', 'blocks.1.0', 'blocks.1.1', 'head']
    """
    numbered = [f"blocks.{stage}.{block}" for stage, count in enumerate(blocks) for block in range(count)]
    return ["stem", *numbered, *([last] if last else [])]


def timm_names(layers: Iterable[nn.Module], places: Iterable[str]) -> dict[str, str]:
    """Map the names of stem, inverted residuals and closing convolution ("head", or a block) to timm's.

    Args:
        layers: The first of a backbone's layers; layers of other types are left out.
        places: As in `timm_places`.

    >>> timm_names([ConvNormAct(3, 16, 3, 2)], ["stem"])
    {'layers.0.conv': 'conv_stem', 'layers.0.norm': 'bn1'}
    """
    names: dict[str, str] = {}
    ends = {"stem": ("conv_stem", "bn1"), "head": ("conv_head", "bn2")}
    for index, (layer, place) in enumerate(zip(layers, places, strict=False)):
        ours = f"layers.{index}"
        if isinstance(layer, InvertedResidual):
            expands = not isinstance(layer.expand, nn.Identity)
            theirs = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
            for at, conv in enumerate(theirs, start=1):
                part = ("expand", "depthwise", "project")[at - 1 - len(theirs)]
                names |= {f"{ours}.{part}.conv": f"{place}.{conv}", f"{ours}.{part}.norm": f"{place}.bn{at}"}
            names[f"{ours}.squeeze.fc1"] = f"{place}.se.conv_reduce"
            names[f"{ours}.squeeze.fc2"] = f"{place}.se.conv_expand"
        elif isinstance(layer, ConvNormAct):
            conv, norm = ends.get(place, (f"{place}.conv", f"{place}.bn1"))
            names |= {f"{ours}.conv": conv, f"{ours}.norm": norm}
    return names


def efficientnet_names(model: Any) -> dict[str, dict[str, str]]:
    """Map the names in timm's EfficientNet to others', {naming: {our name: theirs}}; {} for other models.

    "lukemelas": lukemelas/EfficientNet-PyTorch and its forks, blocks numbered on; "efficientnet_lite":
    RangiLyu/EfficientNet-Lite, blocks numbered by stage.
    """
    if not hasattr(model, "conv_stem") or not isinstance(getattr(model, "blocks", None), nn.Sequential):
        return {}
    parts = {"conv_dw": "_depthwise_conv", "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    flat, staged = {"conv_stem": "_conv_stem", "bn1": "_bn0"}, {"conv_stem": "stem.0", "bn1": "stem.1"}
    flat |= {"conv_head": "_conv_head", "bn2": "_bn1"}
    staged |= {"conv_head": "head.0", "bn2": "head.1"}
    places = [(stage, at) for stage, blocks in enumerate(model.blocks) for at in range(len(blocks))]
    for number, (stage, at) in enumerate(places):
        expands = hasattr(model.blocks[stage][at], "conv_pwl")
        if expands:
            own = {"conv_pw": "_expand_conv", "conv_pwl": "_project_conv", "bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
        else:
            own = {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
        for ours, theirs in (parts | own).items():
            flat[f"blocks.{stage}.{at}.{ours}"] = f"_blocks.{number}.{theirs}"
            staged[f"blocks.{stage}.{at}.{ours}"] = f"blocks.{stage}.{at}.{theirs}"
    names = {"lukemelas": flat, "efficientnet_lite": staged}
    return {naming: {f"model.{ours}": theirs for ours, theirs in own.items()} for naming, own in names.items()}
