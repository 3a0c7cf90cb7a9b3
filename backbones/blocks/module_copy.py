"""Copy modules in half the time of `copy.deepcopy`."""

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

EMPTY = (OrderedDict, dict, set)


def copy_module(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Copy a module with all that it holds.

    Each module has a dozen empty registries of hooks, which cost deepcopy more than the weights do; new ones take
    their place.

    Args:
        module: It stays unchanged.
        memo: {id of an object: what takes its place}, as deepcopy takes it.
    """
    memo = {} if memo is None else memo
    for part in module.modules():
        memo |= {id(value): type(value)() for value in vars(part).values() if type(value) in EMPTY and not value}
    return copy.deepcopy(module, memo)
