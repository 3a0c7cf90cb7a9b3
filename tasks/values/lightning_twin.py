"""Classes that are Lightning's where Lightning is loaded, and plain ones where nothing is trained."""

import functools
import sys
from typing import Any


class LightningTwin:
    """Base of a class whose objects belong to one of Lightning's classes too, if Lightning was imported before them.

    Training, evaluation and a trainer of your own import Lightning first, so their tasks and data are Lightning's.
    Prediction and export do not: importing it takes longer than they do.

    Attributes:
        lightning_base: Name of the class in `lightning.pytorch`.
    """

    lightning_base: str

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return super().__new__(_twin(cls))

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = vars(type(self)).get("twin_of")  # pickle finds the plain class by its name
        return (_made, (plain,), vars(self)) if plain else super().__reduce_ex__(protocol)


@functools.cache
def _with(cls: type, base: type) -> type:
    names = ("__module__", "__qualname__", "__doc__")
    return type(cls)(cls.__name__, (cls, base), {name: getattr(cls, name) for name in names} | {"twin_of": cls})


def _twin(cls: type[LightningTwin]) -> type:
    lightning = sys.modules.get("lightning.pytorch")
    base = getattr(lightning, cls.lightning_base, None)  # None, too, while Lightning itself is being imported
    return cls if base is None or issubclass(cls, base) else _with(cls, base)


def _made(cls: type[LightningTwin]) -> Any:
    return cls.__new__(cls)
