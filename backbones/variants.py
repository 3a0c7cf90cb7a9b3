"""Variants of a family: the table that describes them, and the factories that build them from it."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from backbones.base import Backbone
from backbones.weights.loading import load_weights

AnyBackbone = TypeVar("AnyBackbone", bound=Backbone)


@dataclass(frozen=True)
class Published:
    """Numbers that were published for a variant, with its classifier of 1,000 classes.

    Attributes:
        parameters: In millions, of the fused network where the source counts that; None where not stated.
        macs: Multiply-adds in millions at `resolution`; None where not stated.
        top1: ImageNet accuracy in percent; None where not stated.
        source: Paper, table or repository.
        resolution: Side of the square image in px.
    """

    parameters: float | None
    macs: float | None
    top1: float | None
    source: str
    resolution: int = 224


@dataclass(frozen=True)
class Variant:
    """One row of a family's table `VARIANTS`, under the name of its configuration in conf/backbone.

    Attributes:
        published: Its published numbers.
        arguments: Arguments of the family's class. A width that the configuration sets is not among them.
        known_as: {library: its name of the architecture}, where "{percent:03}" stands for the width in percent.
        classifier: Name of its published classifier in conf/head.
        classifier_options: Settings in which its classifier differs from that file.
    """

    published: Published
    arguments: Mapping[str, Any] = field(default_factory=dict)
    known_as: Mapping[str, str] = field(default_factory=dict)
    classifier: str = "linear"
    classifier_options: Mapping[str, Any] = field(default_factory=dict)


def factory(family: type[AnyBackbone], name: str, variant: Variant) -> Callable[..., AnyBackbone]:
    """Make the function that builds a variant.

    Args:
        family: Class of the backbone.
        name: Name of the function, under which the family's module has to hold it.
        variant: Its row; keywords given to the function win over the row's arguments, unless they are None.

    Returns:
        A function of `weights` (as in `load_weights`, None for random ones) and the family's keywords.

    >>> from backbones.mobilenetv2 import MobileNetV2
    >>> row = Variant(Published(3.47, 300, 71.8, "the paper"), {"width": 0.5}, {"timm": "mobilenetv2_{percent:03}"})
    >>> thin_net = factory(MobileNetV2, "thin_net", row)
    >>> thin_net().known_as
    {'timm': 'mobilenetv2_050'}
    >>> thin_net(width=0.35, output_stride=16).taps[-2]
    Tap(name='c5', channels=112, stride=16)
    """

    def build(*, weights: str | None = None, **options: Any) -> AnyBackbone:
        options |= {name: value for name, value in variant.arguments.items() if options.get(name) is None}
        backbone = family(**options)
        percent = round(100 * options.get("width", 1))
        names = {library: pattern.format(percent=percent) for library, pattern in variant.known_as.items()}
        backbone.known_as = {**backbone.known_as, **names}
        if weights is not None:
            load_weights(backbone, weights)
        return backbone

    build.__name__ = build.__qualname__ = name
    build.__module__ = family.__module__
    build.__doc__ = f"Build {name}. `weights` as in `load_weights`; other keywords as in `{family.__name__}`."
    return build


def find_variant(name: str) -> Variant | None:
    """Find the row of a configuration of conf/backbone among all families.

    Returns:
        None where no family has such a row.

    >>> find_variant("mnv3_small_075").classifier
    'mnv3_small_classifier'
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    tables = (getattr(importlib.import_module(f"backbones.{file.stem}"), "VARIANTS", {}) for file in files)
    return next((table[name] for table in tables if name in table), None)
