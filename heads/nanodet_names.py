"""Names of NanoDet's layers for those of `GFLLite`."""

from collections.abc import Mapping

from torch import Tensor, nn

from heads.nanodet_necks import AdditivePAN, GhostPAN

CLASSES, EDGES = "classes", "edges"  # parts of its one prediction layer a level, as `split_predictions` names them


def nanodet_names(neck: nn.Module, stacked: int, levels: int) -> dict[str, str]:
    """Map the names of a `GFLLite` to those of NanoDet-Plus or NanoDet, as its neck is; {} for another neck.

    Args:
        neck: Of the head.
        stacked, levels: Convolutions in a tower, and towers.
    """
    if not isinstance(neck, GhostPAN | AdditivePAN):
        return {}
    names = _ghost_pan(neck) if isinstance(neck, GhostPAN) else {
        f"neck.laterals.{at}": f"fpn.lateral_convs.{at}.conv" for at in range(len(neck.laterals))
    }  # fmt: skip
    for level in range(levels):
        for at in range(stacked):
            names |= _separable(f"towers.{level}.{at}", f"head.cls_convs.{level}.{at}")
        names[f"classifiers.{level}"] = f"head.gfl_cls.{level}.{CLASSES}"
        names[f"regressors.{level}"] = f"head.gfl_cls.{level}.{EDGES}"
    return names


def guide_names(names: Mapping[str, str], stacked: int, levels: int) -> dict[str, str]:
    """Map the names of an `AssignGuide` to those of NanoDet-Plus.

    Args:
        names: Of the head that it guides, as `nanodet_names` gives them; {}: there are none.
        stacked: Convolutions in a tower of the guide.
        levels: Its levels.
    """
    if not names:
        return {}
    found = {f"guide.{ours}": f"aux_{theirs}" for ours, theirs in names.items() if ours.startswith("neck.")}
    for tower, theirs in (("class_tower", "cls_convs"), ("edge_tower", "reg_convs")):
        for at in range(stacked):
            found |= _conv(f"guide.{tower}.{at}", f"aux_head.{theirs}.{at}.conv", f"aux_head.{theirs}.{at}.gn")
    found |= {"guide.classifier": "aux_head.gfl_cls", "guide.regressor": "aux_head.gfl_reg"}
    found |= {f"guide.scales.{at}": f"aux_head.scales.{at}.scale" for at in range(levels)}
    return found | {"guide.scales": "aux_head.scales"}


def split_predictions(tensors: Mapping[str, Tensor], edges: int) -> dict[str, Tensor]:
    """Part each level's prediction layer, (K + edges, C, 1, 1), into its classes and its edges.

    >>> import torch
    >>> parts = split_predictions({"head.gfl_cls.0.bias": torch.tensor([1.0, 2.0, 3.0])}, 2)
    >>> parts
    {'head.gfl_cls.0.classes.bias': tensor([1.]), 'head.gfl_cls.0.edges.bias': tensor([2., 3.])}
    """
    parts: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        place, _, leaf = key.rpartition(".")
        if f".{place}".rpartition(".")[0].endswith(".head.gfl_cls"):
            rows = len(tensor) - edges
            parts |= {f"{place}.{CLASSES}.{leaf}": tensor[:rows], f"{place}.{EDGES}.{leaf}": tensor[rows:]}
        else:
            parts[key] = tensor
    return parts


def _ghost_pan(neck: GhostPAN) -> dict[str, str]:
    names: dict[str, str] = {}
    for at in range(len(neck.laterals)):
        names |= _conv(f"neck.laterals.{at}", f"fpn.reduce_layers.{at}.conv", f"fpn.reduce_layers.{at}.bn")
    for at in range(len(neck.halvings)):
        names |= _separable(f"neck.halvings.{at}", f"fpn.downsamples.{at}")
        for ours, theirs in (("top_down", "top_down_blocks"), ("bottom_up", "bottom_up_blocks")):
            names |= _bottleneck(f"neck.{ours}.{at}", f"fpn.{theirs}.{at}.blocks.0")
    for at, theirs in zip(range(len(neck.extra)), ("extra_lvl_in_conv", "extra_lvl_out_conv"), strict=False):
        names |= _separable(f"neck.extra.{at}", f"fpn.{theirs}.0")
    return names


def _bottleneck(ours: str, theirs: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for part, ghost in (("expand", "ghost1"), ("project", "ghost2")):
        for half, place in (("primary", "primary_conv"), ("cheap", "cheap_operation")):
            names |= _conv(f"{ours}.{part}.{half}", f"{theirs}.{ghost}.{place}.0", f"{theirs}.{ghost}.{place}.1")
    for at in range(2):
        names |= _conv(f"{ours}.shortcut.{at}", f"{theirs}.shortcut.{2 * at}", f"{theirs}.shortcut.{2 * at + 1}")
    return names


def _separable(ours: str, theirs: str) -> dict[str, str]:
    depthwise = _conv(f"{ours}.0", f"{theirs}.depthwise", f"{theirs}.dwnorm")
    return depthwise | _conv(f"{ours}.1", f"{theirs}.pointwise", f"{theirs}.pwnorm")


def _conv(ours: str, conv: str, norm: str) -> dict[str, str]:
    return {f"{ours}.conv": conv, f"{ours}.norm": norm}
