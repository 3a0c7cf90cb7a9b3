"""The pictures of the demo data: street scenes in perspective, and single objects before a textured background."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tasks.demo import objects as objects
from tasks.demo.canvas import Canvas, Scene, blob, box, tone
from tasks.demo.street import Street, paint_ego_vehicle, paint_ground, paint_side, paint_sky, paint_street_end

Bounds = tuple[float, float, float, float]  # left, top, right, bottom px


@dataclass(frozen=True)
class Species:
    """Where and how large a kind of object appears in a street.

    Attributes:
        draws: Its painters, one of which is taken, each with its width per height.
        height: Range of its height in units of the camera's.
        depth: Range of where it stands, from 0 (horizon) to 1 (lower edge of the image).
        on_road: How often it stands on the road; else on a sidewalk.
        span: (lower, upper) of what counts of it as seen, in parts of its height: a sign's board without its pole.
    """

    draws: tuple[tuple[Callable, float], ...]
    height: tuple[float, float]
    depth: tuple[float, float]
    on_road: float = 0.0
    span: tuple[float, float] = (0.0, 1.0)


CARS = ((objects.draw_car_side, 2.2), (objects.draw_car_front, 1.2))
STREET = {
    "tree": Species(((objects.draw_tree, 0.6),), (1.7, 2.3), (0.4, 0.6), span=(0.3, 1)),
    "car": Species(CARS, (0.75, 0.9), (0.5, 0.9), on_road=1),
    "person": Species(((objects.draw_person, 0.45),), (1.0, 1.25), (0.7, 0.97), on_road=0.3),
    "sign": Species(((objects.draw_sign, 0.58),), (1.3, 1.65), (0.45, 0.75), span=(0.5, 1)),
    "stop sign": Species(((objects.draw_stop_sign, 0.5),), (1.3, 1.65), (0.45, 0.75), span=(0.5, 1)),
    "dog": Species(((objects.draw_dog, 1.4),), (0.42, 0.55), (0.5, 0.92), on_road=0.5),
    "umbrella": Species(((objects.draw_umbrella, 1.0),), (1.2, 1.6), (0.4, 0.7), on_road=0.1),
    "crowd": Species(((objects.draw_crowd, 1.5),), (0.9, 1.1), (0.4, 0.7), on_road=0.6),
}

# A single object's painters, its extent and the height of its middle, both in parts of its height.
PORTRAITS: dict[str, tuple[tuple[tuple[Callable, float], ...], float]] = {
    "person": (((objects.draw_person, 1.0),), 0.5),
    "dog": (((objects.draw_dog, 1.4),), 0.5),
    "bicycle": (((objects.draw_bicycle, 1.6),), 0.5),
    "car": (CARS, 0.5),
    "ball": (((objects.draw_ball, 1.0),), 0.5),
    "umbrella": (((objects.draw_umbrella, 1.0),), 0.6),
    "sign": (((objects.draw_sign, 0.58), (objects.draw_stop_sign, 0.5)), 0.75),
    "traffic light": (((objects.draw_traffic_light, 0.9),), 0.58),
}


@dataclass
class _Crowding:
    """Keep objects visible: what stands in front or outside the image may hide only a part of each.

    Attributes:
        image_size: (H, W) px.
        seen: Bounds, y px of the foot, and area in px of the bounds still visible, of each object so far.
    """

    image_size: tuple[int, int]
    seen: list[tuple[Bounds, float, float]] = field(default_factory=list)

    def admit(self, bounds: Bounds, foot: float, least: float = 0.65) -> bool:
        """Add an object, unless less than a share of `least` of it or of another one would remain visible."""
        height, width = self.image_size
        visible, candidates = _shared(bounds, (0, 0, width, height)), []
        for other, other_foot, other_visible in self.seen:
            hidden = _shared(bounds, other)
            in_front = foot > other_foot
            visible -= 0 if in_front else hidden
            candidates.append((other, other_foot, other_visible - (hidden if in_front else 0)))
        candidates.append((bounds, foot, visible))
        if any(remaining < least * _shared(own, own) for own, _, remaining in candidates):
            return False
        self.seen = candidates
        return True


def _shared(first: Bounds, second: Bounds) -> float:
    """Area in px that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    return max(width, 0) * max(min(first[3], second[3]) - max(first[1], second[1]), 0)


def paint_street(
    generator: np.random.Generator, image_size: tuple[int, int], counts: Mapping[str, int], *, ego_vehicle: bool = False
) -> Scene:
    """Paint a street: sky, buildings, vegetation, sidewalks and road, and on them the objects asked for.

    Objects are placed so that at least about half of each stays visible; one that finds no such place is left out.

    Args:
        generator: Decides everything else.
        image_size: (H, W) px.
        counts: How many objects of each kind, of STREET's kinds.
        ego_vehicle: Whether the bonnet of the camera's own car covers the lower edge.

    Returns:
        The scene; its kinds are "sky", "building", "vegetation", "sidewalk", "road", "pole", "ego vehicle" and the
        objects' ("tree" becomes "vegetation").
    """
    canvas, street = Canvas(generator, image_size), Street.random(generator, image_size)
    paint_sky(canvas, street)
    paint_ground(canvas, street)
    paint_street_end(canvas, street)
    for side in (0, 1):
        paint_side(canvas, street, side)
    for _ in range(int(generator.integers(0, 4))):
        x, y = street.at(generator.uniform(0, image_size[1]), generator.uniform(0.3, 1))
        reach = image_size[1] * generator.uniform(0.05, 0.2)
        canvas.shadow(blob(generator, x, y, reach, reach * 0.3), generator.uniform(0.1, 0.3))
    placed, crowding = [], _Crowding(image_size)
    for kind, count in counts.items():
        for _ in range(count):
            placed += _place(generator, street, STREET[kind], crowding)
    for draw, foot, size in sorted(placed, key=lambda item: item[1][1]):
        draw(canvas, foot, size)
    if ego_vehicle:
        paint_ego_vehicle(canvas)
    return canvas.finish()


def _place(generator, street: Street, species: Species, crowding: _Crowding) -> list[tuple[Callable, tuple, float]]:
    draw, breadth = species.draws[generator.integers(len(species.draws))]
    height, width = street.image_size
    for _ in range(12):
        depth = generator.uniform(*species.depth)
        if generator.random() < species.on_road:
            across = generator.uniform(*street.kerbs)
        else:
            side = generator.integers(2)
            across = generator.uniform(*sorted((street.walls[side], street.kerbs[side])))
        x, y = street.at(across, depth)
        size = generator.uniform(*species.height) * depth * (height - street.vanishing[1])
        low, high = species.span
        bounds = (x - breadth * size / 2, y - high * size, x + breadth * size / 2, y - low * size)
        if 0.03 * width < x < 0.97 * width and crowding.admit(bounds, y):
            return [(draw, (x, y), size)]
    return []


def paint_portrait(generator: np.random.Generator, image_size: tuple[int, int], kind: str) -> Scene:
    """Paint one object, roughly in the middle, before a textured background.

    Args:
        generator: Decides everything else.
        image_size: (H, W) px.
        kind: One of PORTRAITS.
    """
    canvas = Canvas(generator, image_size)
    height, width = image_size
    canvas.begin("background")
    floor = generator.uniform(0.4, 0.8) * height
    canvas.fill(box(0, floor, width, 0), colour=tone(generator, saturation=(0, 0.5)), grain=12, shade=15)
    for _ in range(int(generator.integers(1, 6))):
        reach = generator.uniform(0.08, 0.3, 2) * (width, height)
        spot = blob(generator, *(generator.uniform(0, 1, 2) * (width, floor)), *reach)
        canvas.fill(spot, colour=tone(generator, saturation=(0, 0.6)), grain=generator.uniform(4, 18))
    canvas.fill(box(0, height, width, floor), colour=tone(generator, saturation=(0, 0.4)), grain=12)
    draws, middle = PORTRAITS[kind]
    draw, extent = draws[generator.integers(len(draws))]
    size = generator.uniform(0.55, 0.85) * min(height, width) / extent
    x, y = (0.5 + generator.uniform(-0.1, 0.1, 2)) * (width, height)
    draw(canvas, (float(x), float(y + middle * size)), size)
    return canvas.finish()
