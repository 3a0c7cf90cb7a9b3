"""The pictures of the demo data: street scenes in perspective, and single objects before a textured background."""

from collections.abc import Mapping
from typing import NamedTuple

from numpy.random import Generator

from tasks.demo.canvas import Canvas, Material, Scene, box, ellipse
from tasks.demo.objects import SPECIES, Figure, draw, extent
from tasks.demo.street import Street, paint_bonnet, paint_ground, paint_houses, paint_sky

BACKDROP, FLOOR = (Material((0, 1), (0, 0.45), (0.2, 0.95), 12, shade) for shade in (10, 0))
SPOT = Material((0, 1), (0, 0.6), (0.2, 0.95), 11, 0, 0.06)


class Placed(NamedTuple):
    """An object in a street."""

    kind: str
    figure: Figure
    foot: tuple[float, float]  # (x, y) px
    size: float  # its height, px
    bounds: tuple[float, float, float, float]  # left, top, right, bottom px


def paint_street(
    generator: Generator, image_size: tuple[int, int], counts: Mapping[str, int], *, ego_vehicle: bool = False
) -> Scene:
    """Paint a street: sky, sidewalks and road, buildings, vegetation, and on them the objects asked for.

    Objects are placed so that at least about half of each stays visible; one that finds no such place is left out.

    Args:
        generator: Decides everything else.
        image_size: (H, W) px.
        counts: How many objects of each kind, of SPECIES.
        ego_vehicle: Whether the bonnet of the camera's own car covers the lower edge.

    Returns:
        The scene; its kinds are "sky", "sidewalk", "road", "building", "vegetation", "pole", "ego vehicle" and the
        objects'.
    """
    canvas, street = Canvas(generator, image_size), Street.random(generator, image_size)
    paint_sky(canvas, street)
    paint_ground(canvas, street)
    paint_houses(canvas, street)
    placed: list[Placed] = []
    for kind, count in counts.items():
        for _ in range(count):
            _place(generator, street, kind, placed)
    for item in sorted(placed, key=lambda item: item.foot[1]):
        draw(canvas, *item[:4])
    if ego_vehicle:
        paint_bonnet(canvas)
    return canvas.finish()


def _place(generator: Generator, street: Street, kind: str, placed: list[Placed]) -> None:
    """Add an object where it and those behind it stay visible, if one of twelve places is such."""
    species, figure, width = SPECIES[kind], _figure(generator, kind), street.image_size[1]
    reach, low, high = extent(figure)
    for _ in range(12):
        depth, side = generator.uniform(*species.depth), generator.integers(2)
        pavement = sorted((street.walls[side], side))
        x, y = street.at(generator.uniform(*((0, 1) if generator.random() < species.on_road else pavement)), depth)
        size = generator.uniform(*species.height) * (y - street.vanishing[1])
        bounds = (x - reach * size, y - high * size, x + reach * size, y - low * size)
        objects = [*placed, Placed(kind, figure, (x, y), size, bounds)]
        if 0.03 * width < x < 0.97 * width and min(_visible(own, objects, street) for own in objects) > 0.65:
            placed.append(objects[-1])
            return


def _figure(generator: Generator, kind: str) -> Figure:
    figures = SPECIES[kind].figures
    return figures[generator.integers(len(figures))]


def _visible(own: Placed, objects: list[Placed], street: Street) -> float:
    """Share of an object's bounds that is inside the image and not behind those of others."""
    left, top, right, bottom = own.bounds

    def shared(other: tuple[float, ...]) -> float:
        width, height = min(right, other[2]) - max(left, other[0]), min(bottom, other[3]) - max(top, other[1])
        return max(width, 0) * max(height, 0) / ((right - left) * (bottom - top))

    hidden = sum(shared(other.bounds) for other in objects if other.foot[1] > own.foot[1])
    return shared((0, 0, *street.image_size[::-1])) - hidden


def paint_portrait(generator: Generator, image_size: tuple[int, int], kind: str) -> Scene:
    """Paint one object, roughly in the middle, before a textured background.

    Args:
        generator: Decides everything else.
        image_size: (H, W) px.
        kind: One of SPECIES.
    """
    canvas, (height, width), figure = Canvas(generator, image_size), image_size, _figure(generator, kind)
    floor = generator.uniform(0.4, 0.8) * height
    canvas.begin("background")
    canvas.fill(BACKDROP, box(0, floor, width, 0))
    for _ in range(int(generator.integers(1, 6))):
        canvas.begin("background")
        x, y, rx, ry = generator.uniform((0, 0, 0.08, 0.08), (1, 1, 0.3, 0.3)) * (width, floor, width, height)
        canvas.fill(SPOT, ellipse(x, y, rx, ry))
    canvas.fill(FLOOR, box(0, height, width, floor))
    reach, low, high = extent(figure)
    size = generator.uniform(0.55, 0.85) * min(height, width) / max(2 * reach, high - low)
    x, y = (0.5 + generator.uniform(-0.1, 0.1, 2)) * (width, height)
    draw(canvas, kind, figure, (x, y + size * (low + high) / 2), size)
    return canvas.finish()
