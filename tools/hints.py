"""What a key may have meant that no configuration has."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

# what others call a setting: what it is called here
ALIASES = {
    "epochs": "max_epochs", "num_epochs": "max_epochs", "epoch": "max_epochs", "steps": "max_steps",
    "learning_rate": "lr", "lr0": "lr", "wd": "weight_decay", "batch": "batch_size", "bs": "batch_size",
    "workers": "num_workers", "gpus": "devices", "device": "accelerator", "amp": "precision", "fp16": "precision",
    "pretrained": "weights", "weight": "weights", "ckpt": "checkpoint", "model": "backbone", "net": "backbone",
    "arch": "backbone", "encoder": "backbone", "decoder": "head", "dataset": "data", "data_dir": "root",
    "data_root": "root", "dataset_path": "root", "classes": "class_names", "names": "class_names",
    "size": "image_size", "img_size": "image_size", "imgsz": "image_size", "input_size": "image_size",
    "crop": "crop_size", "output": "output_dir", "out": "output_dir", "save_dir": "output_dir", "input": "source",
    "conf": "score_threshold", "threshold": "score_threshold",
    "iou": "iou_threshold", "form": "score_type", "ema": "ema_decay", "clip": "gradient_clip_val",
}  # fmt: skip
# the same thing under another name, where data or a tool have the other
ALSO = {"image_size": ("crop_size",), "score_threshold": ("min_score",)}
MOST = 3


def unknown_key(key: str, config: DictConfig, groups: Sequence[str]) -> str:
    """Say of a misspelt key what there is.

    Args:
        key: As on the command line: "lr", "trainer.epochs".
        config: What the command line gives without it.
        groups: Of configurations, that this tool chooses from.

    Returns:
        A line that suggests keys of similar names and those so named further down, else lists what there is.
    """
    parent, _, leaf = key.rpartition(".")
    there = OmegaConf.select(config, parent) if parent else config
    known = isinstance(there, DictConfig)
    siblings = [*map(str, there)] if known else []
    siblings += [] if parent else [group for group in groups if group not in siblings]
    nested = [name for name in _nested(leaf, config, groups) if name.rpartition(".")[0] != parent]
    close = [*_called(leaf, siblings), *difflib.get_close_matches(leaf, siblings, n=MOST)]
    found = list(dict.fromkeys([*nested, *close]))[:MOST]
    missing = leaf if known else parent.partition(".")[0]
    remedy = f"did you mean {' or '.join(found)}?" if found else f"there are {', '.join(siblings) or 'none'}"
    return f"{key}=: no key {missing}{f' in {parent}' if parent and known else ''}; {remedy}"


def meant_options(name: str, options: Sequence[str]) -> list[str]:
    """Options that a name may have meant: the paper's name of a family, the start of a name, or a misspelling."""
    short = re.sub(r"^mobilenet[_-]?v?(?=\d)", "mnv", name.lower()).replace("-", "_")
    short = re.sub(r"^shufflenet[_-]?v?(?=\d)", "snv", short)
    if short in options:
        return [short]
    begun = [option for option in options if option.startswith(short)]
    return begun[:MOST] or difflib.get_close_matches(short, options, n=2)


def _nested(leaf: str, config: DictConfig, groups: Sequence[str]) -> list[str]:
    """Groups and keys anywhere in the configuration that are called so, or as an alias says."""
    kind = OmegaConf.select(config, "task._target_", default="").rpartition(".")[2].removesuffix("Task").lower()
    found = [key for key in _keys(config) if _called(leaf, [key.rpartition(".")[2]]) and not key.startswith("choices.")]
    own = [key for key in found if f"data.{kind}." in key]  # data=demo has settings of every task
    return _called(leaf, groups) + (own or found)


def _called(leaf: str, names: Iterable[str]) -> list[str]:
    """Those of some names that are meant by a name, its alias, or what data call that."""
    meant = {leaf, ALIASES.get(leaf, leaf)}
    meant |= {other for name in meant for other in ALSO.get(name, ())}
    return [name for name in names if name in meant]


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in node:
        yield f"{prefix}{name}"
        below = None if OmegaConf.is_missing(node, name) else node._get_node(name)
        if isinstance(below, DictConfig) and not below._is_none():
            yield from _keys(below, f"{prefix}{name}.")
