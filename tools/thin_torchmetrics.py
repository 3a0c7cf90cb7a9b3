"""Let Lightning have the two classes that it needs of torchmetrics, without what that imports besides."""

import logging
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

# all that Lightning takes from the package, and the module that holds it
HELD = {"Metric": "metric", "MetricCollection": "collections", "__version__": "__about__"}


def install_thin_torchmetrics() -> None:
    """Put torchmetrics among the loaded modules as a package that imports its parts when they are asked for.

    Lightning imports `torchmetrics.Metric`, and torchmetrics then imports scipy, transformers, torchvision and with it
    torch's compiler: half of the CPU seconds until the first training step. Whoever asks for anything else of it gets
    the whole package, as ever.
    """
    spec = None if "torchmetrics" in sys.modules else find_spec("torchmetrics")
    if spec is not None:
        package = module_from_spec(spec)
        vars(package).update(_logger=logging.getLogger(package.__name__), __getattr__=_on_demand(package))
        sys.modules["torchmetrics"] = package


def _on_demand(package: ModuleType) -> Callable[[str], Any]:
    """Make the function that Python calls for a name that a module lacks."""

    def get(name: str) -> Any:
        if name in HELD:
            import_module(f"{package.__name__}.utilities")  # it and the module of metrics import each other
            return getattr(import_module(f"{package.__name__}.{HELD[name]}"), name)
        if name.startswith("__"):  # what Python asks of every module
            raise AttributeError(name)
        if package.__dict__.pop("__getattr__", None):
            package.__spec__.loader.exec_module(package)
        return getattr(package, name)

    return get
