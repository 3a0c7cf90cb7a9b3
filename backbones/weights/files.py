"""Reads files of torch.save of any layout: finds the state dict, skips foreign objects, and executes nothing."""

import builtins
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Where training codes put a state dict, the averaged one first, by whose accuracy they publish it.
WRAPPERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema", "state_dict", "model_state_dict", "model",
    "net", "network", "params", "weights", "module", "backbone",
)  # fmt: skip
_PLAIN = "make a plain file where its library is at hand: torch.save(model.state_dict(), 'plain.pth')"


class _StandIn:
    """Stands in for objects of foreign classes; it accepts any state and keeps nothing."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state) -> None:
        pass

    def __setitem__(self, key, value) -> None:
        pass


def read_pickled(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file of torch.save and find its state dict.

    Foreign classes (an `argparse.Namespace`, another library's configuration) are neither imported nor called; their
    objects are skipped.

    Returns:
        The file's upper level, {} where it is not a dictionary, and the state dict.

    Raises:
        ValueError: It is not such a file, calls a function or holds no state dict.

    >>> torch.save({"epoch": 3, "state_dict": {"weight": torch.ones(2)}}, "run.pth")
    >>> content, tensors = read_pickled(Path("run.pth"))
    >>> content["epoch"], tensors
    (3, {'weight': tensor([1., 1.])})
    """
    foreign = _foreign_classes(path)
    stand_ins: list[Any] = [(type(name.rpartition(".")[2], (_StandIn,), {}), name) for name in sorted(foreign)]
    try:
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a file of plain tensors ({_reason(error)}); {_PLAIN}") from error
    found = next(_state_dicts(content), None)
    if found is None:
        holds = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
        names = sorted(foreign - {"argparse.Namespace"})
        passed = f", and objects of {', '.join(names[:3])}" if names else ""
        raise ValueError(f"{path}: holds no state dict (names to tensors), but {holds}{passed}; {_PLAIN}")
    return content if isinstance(content, dict) else {}, found


def _foreign_classes(path: Path) -> set[str]:
    """Classes that the file names and torch does not know as harmless; in the old format, only a Namespace is known."""
    try:
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip archive; reading it will tell what it is
        names = set()
    functions = [
        name
        for name in sorted(names)
        if name.partition(".")[0] in ("builtins", "__builtin__")
        and not isinstance(getattr(builtins, name.rpartition(".")[2], None), type)
    ]
    if functions:
        raise ValueError(f"{path}: not a file of plain tensors (it calls {functions[0]}); {_PLAIN}")
    return names | {"argparse.Namespace"}


def _state_dicts(content: Any) -> Iterator[dict[str, Tensor]]:
    """State dicts in nested dictionaries: at the known places first, else where there is one only."""
    if not isinstance(content, Mapping):
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    others = [value for key, value in content.items() if key not in tensors]
    if tensors and not any(isinstance(value, Mapping | list | tuple | _StandIn) for value in others):
        yield tensors
        return
    for wrapper in WRAPPERS:
        yield from _state_dicts(content.get(wrapper))
    rest = [found for key, value in content.items() if key not in WRAPPERS for found in _state_dicts(value)]
    if len(rest) == 1:
        yield from rest


def _reason(error: Exception) -> str:
    """Why torch would not read a file, without its escape codes and its advice."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"it needs {named[1]}, which is not run"
    if "TorchScript" in text:
        return "it is a TorchScript archive"
    if isinstance(error, OSError):
        return text.splitlines()[0]
    return "it is damaged, or no file of torch.save"
