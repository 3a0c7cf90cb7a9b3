"""The objects of the demo data as tables: the polygons of each, and how and where it stands in a street."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.demo.canvas import Canvas, Material, Points, box, ellipse

PAINT = Material((0, 1), (0, 0.9), (0.2, 0.95), shade=18)
GLASS = Material((0.5, 0.65), (0.05, 0.35), (0.15, 0.5), shade=5)
RUBBER = Material((0, 1), (0, 0.2), (0.06, 0.2))
METAL = Material((0, 1), (0, 0.04), (0.27, 0.67))
LAMP = Material((0.1, 0.16), (0.05, 0.2), (0.85, 1))
COAT = Material((0, 1), (0.1, 0.85), (0.2, 0.95), shade=12)
TROUSERS = Material((0, 1), (0.05, 0.6), (0.1, 0.7), shade=8)
SKIN = Material((0.04, 0.09), (0.25, 0.6), (0.35, 0.95))
HAIR = Material((0.03, 0.12), (0.2, 0.7), (0.05, 0.6))
FUR = Material((0.03, 0.12), (0.05, 0.65), (0.15, 0.9), 12, 7)
BARK = Material((0.05, 0.1), (0.1, 0.5), (0.15, 0.45), 12)
LEAVES = Material((0.17, 0.4), (0.25, 0.75), (0.2, 0.6), 22, 6, 0.06)
AUTUMN = Material((0.05, 0.16), (0.4, 0.8), (0.4, 0.75), 22, 6, 0.06)
CLOTH = [Material((0, 1), (least, 0.9), (0.2, 0.95), shade=10) for least in (0.1, 0.3)]
LEATHER, PATCH = Material((0, 1), (0, 0.35), (0.75, 0.95), shade=25), Material((0, 1), (0, 0.9), (0.05, 0.4))
BLACK, WHITE = Material((0, 1), (0, 0.1), (0.06, 0.12)), Material((0.05, 0.15), (0, 0.05), (0.88, 0.95))
RED = Material((-0.02, 0.02), (0.75, 0.95), (0.55, 0.85), shade=5)
BLUE = Material((0.6, 0.64), (0.8, 0.9), (0.6, 0.7), shade=5)
GREEN = Material((0.4, 0.45), (0.75, 0.85), (0.4, 0.9), shade=5)
YELLOW = Material((0.12, 0.14), (0.8, 0.9), (0.92, 1), shade=5)

# Painted one after the other: a material, the light on it, polygons. A figure is one unit high, and y points up.
Figure = Sequence[tuple[Material, float, Sequence[Points]]]


class Species(NamedTuple):
    """A kind of object: what it looks like, and where and how large it appears in a street."""

    figures: Sequence[Figure]  # one of which is taken
    height: tuple[float, float] = (1, 1)  # range, in units of the camera's
    depth: tuple[float, float] = (0.5, 0.9)  # range of where it stands, from 0 (horizon) to 1 (lower edge of the image)
    on_road: float = 0  # how often it stands on the road; else on a sidewalk
    pole: float = 0  # height of the pole that carries it, a part of its own
    members: int = 1  # how many stand side by side as one


def _both(*shapes: Points) -> list[np.ndarray]:
    """Shapes, and what they are in a mirror."""
    return [np.multiply(shape, (side, 1)) for side in (1, -1) for shape in shapes]


def _disc(x: float, y: float, radius: float, start: float = 0, count: int = 24) -> np.ndarray:
    return ellipse(x, y, radius, radius, start, start + 360, count)


def _bar(start: Sequence[float], end: Sequence[float], width: float) -> np.ndarray:
    along = np.subtract(end, start)
    across = along[::-1] * (-0.5, 0.5) * width / np.hypot(*along)
    return np.array([start - across, end - across, end + across, start + across])


def _hollow(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """An outline with a hole."""
    return np.concatenate([outer, outer[:1], inner, inner[:1]])


def _board(outline: Points, inner: float, rim: Material, face: Material, ink: Material, *symbol: Points) -> Figure:
    """A sign's board and what is on it, from polygons in units of its own height around its middle."""
    layers = ((rim, [outline]), (face, [np.multiply(outline, inner)]), (ink, symbol))
    return [(material, 1, [np.add((0, 0.75), np.divide(shape, 2)) for shape in shapes]) for material, shapes in layers]


def _ball(turn: float) -> Figure:
    patches = [_disc(*spot, 0.11, turn + 36, 5) for spot in _disc(0, 0.5, 0.37, turn, 5)]
    return [(LEATHER, 1, [_disc(0, 0.5, 0.5)]), (PATCH, 1, [_disc(0, 0.5, 0.15, turn + 36, 5), *patches])]


def _traffic_light(lit: int) -> Figure:
    colours = enumerate((RED, YELLOW, GREEN))
    lamps = [(colour, 1 if row == lit else 0.28, [_disc(0, 0.86 - 0.26 * row, 0.11)]) for row, colour in colours]
    return [(RUBBER, 1.4, [box(-0.175, 0.2, 0.175, 1)]), *lamps]


def _tree(leaves: Material) -> Figure:
    levels = np.linspace(0.42, 0.85, 9)  # dark below, sunlit above
    crown = [(leaves, 0.45 + 0.75 * y, [ellipse(0.1 * np.sin(9 * y), y, 0.21, 0.17)]) for y in levels]
    return [(BARK, 1, [[(-0.06, 0), (-0.035, 0.5), (0.035, 0.5), (0.06, 0)]]), *crown]


_CAR_SIDE = [
    (PAINT, 1, [[(-0.85, 0.5), (-0.6, 1), (0.23, 1), (0.64, 0.5)], [(-1.05, 0.14), (-1.1, 0.2), (-1.08, 0.52),
                (-0.95, 0.6), (0.58, 0.6), (1, 0.5), (1.1, 0.4), (1.1, 0.14)]]),
    (GLASS, 1, [[(-0.7, 0.58), (-0.56, 0.92), (-0.09, 0.92), (-0.09, 0.58)],
                [(-0.03, 0.58), (-0.03, 0.92), (0.2, 0.92), (0.49, 0.58)]]),
    (RED, 1, [box(-1.1, 0.36, -1, 0.48)]), (LAMP, 1, [box(0.98, 0.33, 1.1, 0.43)]),
    (RUBBER, 1, _both(_disc(0.65, 0.2, 0.21))), (METAL, 1, _both(_disc(0.65, 0.2, 0.11))),
]  # fmt: skip
_CAR_REAR = [
    (RUBBER, 1, _both(box(0.34, 0, 0.56, 0.3))), (PAINT, 1, _both([(0, 0.5), (0, 1), (0.38, 1), (0.52, 0.55)])),
    (PAINT, 1, [[(-0.6, 0.14), (-0.6, 0.5), (-0.53, 0.6), (0.53, 0.6), (0.6, 0.5), (0.6, 0.14)]]),
    (GLASS, 1, [[(-0.43, 0.6), (-0.33, 0.93), (0.33, 0.93), (0.43, 0.6)]]),
    (RED, 1, _both(box(0.36, 0.38, 0.57, 0.5))), (LAMP, 0.9, [box(-0.16, 0.2, 0.16, 0.3)]),
]  # fmt: skip
_CAR_FRONT = [*_CAR_REAR, (LAMP, 1, _both(box(0.36, 0.38, 0.57, 0.5))), (PAINT, 0.35, [box(-0.3, 0.34, 0.3, 0.46)])]
_LEG = np.array([(-0.02, 0.5), (0.14, 0.5), (0.14, 0.02), (0.02, 0.02)])
_PERSON = [
    (TROUSERS, 0.8, [_LEG * (-1, 1)]), (TROUSERS, 1, [_LEG]), (HAIR, 0.5, _both(box(0.02, 0, 0.16, 0.04))),
    (COAT, 1, _both([(0, 0.4), (0, 0.86), (0.1, 0.86), (0.19, 0.8), (0.17, 0.4)])),
    (COAT, 0.8, _both([(0.14, 0.82), (0.2, 0.78), (0.19, 0.48), (0.12, 0.48)])),
    (SKIN, 1, [*_both(_disc(0.155, 0.46, 0.04)), ellipse(0, 0.9, 0.085, 0.1)]),
    (HAIR, 1, [ellipse(0, 0.92, 0.09, 0.08, 0, 180)]),
]  # fmt: skip
_LEGS = [[(x - 0.08, 0.45), (x + 0.08, 0.45), (x + 0.06, 0), (x - 0.05, 0)] for x in (-0.3, 0.3, -0.38, 0.2)]
_DOG = [
    (FUR, 1, [_bar((-0.36, 0.55), (-0.58, 0.72), 0.09), _bar((-0.56, 0.68), (-0.63, 0.8), 0.09)]),
    (FUR, 0.75, _LEGS[:2]), (FUR, 1, [*_LEGS[2:], ellipse(-0.05, 0.5, 0.46, 0.2)]),
    (FUR, 1, [[(0.15, 0.5), (0.35, 0.9), (0.58, 0.75), (0.4, 0.42)], ellipse(0.5, 0.82, 0.18, 0.16),
              ellipse(0.66, 0.76, 0.12, 0.09)]),
    (FUR, 0.6, [ellipse(0.4, 0.82, 0.07, 0.16)]), (BLACK, 1, [_disc(0.76, 0.79, 0.035), _disc(0.55, 0.87, 0.025)]),
]  # fmt: skip
_UMBRELLA = [
    (BARK, 1, [box(-0.025, 0, 0.025, 0.7)]),
    *((CLOTH[index % 2], 1 - 0.1 * index, [ellipse(0, 0.55, 0.5 - 0.16 * index, 0.43, 0, 180)]) for index in range(3)),
]
_HUBS, _PEDALS, _SADDLE, _BARS = [(-0.48, 0.34), (0.48, 0.34)], (-0.02, 0.32), (-0.2, 0.86), (0.34, 0.86)
_TUBES = [(_HUBS[0], _PEDALS), (_PEDALS, (0.36, 0.74)), ((0.36, 0.74), (-0.16, 0.7)), ((-0.16, 0.7), _HUBS[0]),
          (_PEDALS, _SADDLE), (_HUBS[1], _BARS)]  # fmt: skip
_BICYCLE = [
    (RUBBER, 1, [_hollow(_disc(*hub, 0.34), _disc(*hub, 0.28)) for hub in _HUBS]),
    (METAL, 1, [_bar(hub, end, 0.012) for hub in _HUBS for end in _disc(*hub, 0.3, count=6)]),
    (PAINT, 1, [_bar(*ends, 0.055) for ends in _TUBES]),
    (RUBBER, 1, [ellipse(*_SADDLE, 0.16, 0.05), _bar(_BARS, (0.3, 0.96), 0.05), _bar((0.3, 0.96), (0.46, 0.97), 0.05)]),
]
_TRIANGLE, _ROUND, _PLATE = [(-0.58, -0.43), (0.58, -0.43), (0, 0.55)], _disc(0, 0, 0.5), box(-0.58, -0.43, 0.58, 0.43)
_ARROW = [(-0.07, -0.28), (0.07, -0.28), (0.07, 0.05), (0.24, 0.05), (0, 0.33), (-0.24, 0.05), (-0.07, 0.05)]
_TEXT = [box(-0.42, y - 0.05, right, y + 0.05) for y, right in ((-0.22, 0.1), (0, 0.2), (0.22, 0.4))]
_LETTERS = [_hollow(box(x - 0.07, -0.11, x + 0.07, 0.11), box(x - 0.02, -0.06, x + 0.02, 0.06))
            for x in (-0.29, -0.1, 0.09, 0.28)]  # fmt: skip
_SIGNS = [
    *(_board(_TRIANGLE, 0.62, RED, face, BLACK, box(-0.05, -0.2, 0.05, 0.1)) for face in (WHITE, YELLOW)),
    _board(_ROUND, 0.7, RED, WHITE, BLACK, *_both(box(0.06, -0.14, 0.22, 0.14))),
    _board(_ROUND, 0.7, RED, WHITE, BLACK, _bar((-0.2, -0.2), (0.2, 0.2), 0.1)),
    _board(_ROUND, 0.88, WHITE, RED, WHITE, box(-0.31, -0.08, 0.31, 0.08)),
    _board(_ROUND, 0.88, WHITE, BLUE, WHITE, _ARROW),
    *(_board(_PLATE, 0.9, WHITE, face, ink, *_TEXT) for face, ink in ((BLUE, WHITE), (GREEN, WHITE), (YELLOW, BLACK))),
]
_STOP_SIGN = _board(_disc(0, 0, 0.53, 22.5, 8), 0.88, WHITE, RED, WHITE, *_LETTERS)

SPECIES = {
    "tree": Species([_tree(leaves) for leaves in (LEAVES, LEAVES, LEAVES, AUTUMN)], (1.7, 2.3), (0.4, 0.6)),
    "car": Species([_CAR_SIDE, _CAR_SIDE, _CAR_REAR, _CAR_FRONT], (0.75, 0.9), (0.5, 0.9), on_road=1),
    "person": Species([_PERSON], (1.0, 1.25), (0.7, 0.97), on_road=0.3),
    "crowd": Species([_PERSON], (0.9, 1.1), (0.4, 0.7), on_road=0.6, members=8),
    "sign": Species(_SIGNS, (1.3, 1.65), (0.45, 0.75), pole=0.6),
    "stop sign": Species([_STOP_SIGN], (1.3, 1.65), (0.45, 0.75), pole=0.6),
    "dog": Species([_DOG], (0.42, 0.55), (0.5, 0.92), on_road=0.5),
    "umbrella": Species([_UMBRELLA], (1.2, 1.6), (0.4, 0.7), on_road=0.1),
    # These stand in no street.
    "bicycle": Species([_BICYCLE]),
    "soccer ball": Species([_ball(turn) for turn in (0, 25, 50)]),
    "street sign": Species([*_SIGNS, _STOP_SIGN, _STOP_SIGN], pole=0.6),
    "traffic light": Species([_traffic_light(lit) for lit in range(3)], pole=0.3),
}


def extent(figure: Figure) -> tuple[float, float, float]:
    """Half the width of a figure, and the heights where it begins and ends."""
    points = np.concatenate([shape for _, _, shapes in figure for shape in shapes])
    return float(np.abs(points[:, 0]).max()), float(points[:, 1].min()), float(points[:, 1].max())


def draw(canvas: Canvas, kind: str, figure: Figure, foot: Sequence[float], size: float) -> None:
    """Draw an object, `size` px high, on a point in px: a little wider or narrower than its figure, and leaning."""
    random, species = canvas.random, SPECIES[kind]
    canvas.move(foot, (size, 0), (0, -size))
    canvas.shadow(ellipse(0.05, 0.01, extent(figure)[0], 0.04), 0.35)
    if species.pole:
        canvas.begin("pole")
        canvas.fill(METAL, box(-0.035, 0, 0.035, species.pole))
    canvas.begin(kind)
    for member in random.permutation(species.members):
        along = (member - (species.members - 1) / 2) * 0.16 * size
        width = size * random.choice((-1, 1)) * random.uniform(0.9, 1.1)
        canvas.move((foot[0] + along, foot[1]), (width, 0), (size * random.uniform(-0.04, 0.04), -size))
        canvas.tones.clear()
        for material, light, polygons in figure:
            canvas.fill(material, *polygons, light=light)
