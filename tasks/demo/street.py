"""The street of the demo scenes: its perspective, and sky, ground, buildings and greenery painted in it."""

from typing import NamedTuple

import numpy as np

from tasks.demo.canvas import Canvas, Material, Points, box, ellipse, noise
from tasks.demo.objects import AUTUMN, LEAVES

ZENITH = Material((0.53, 0.64), (0.05, 0.6), (0.45, 0.95), 1.5)
SUNSET, HAZE = Material((0.02, 0.15), (0, 0.35), (0.75, 1)), Material((0.5, 0.62), (0, 0.25), (0.7, 1))
BRICK, PLASTER = (Material(hue, (0, 0.5), (0.35, 0.9), 8, 7) for hue in ((-0.03, 0.16), (0, 1)))
DARK, LIT = Material((0.5, 0.65), (0, 0.4), (0.15, 0.5)), Material((0.1, 0.15), (0.2, 0.6), (0.8, 1))
ASPHALT, GRAVEL = (Material(hue, (0, 0.15), (0.22, 0.6), 11) for hue in ((0.5, 0.7), (0, 0.15)))
SLAB, MARK = Material((0.02, 0.15), (0, 0.25), (0.4, 0.75), 9), Material((0, 1), (0, 0), (0.67, 0.94))
BONNET = Material((0, 1), (0, 0.3), (0.15, 0.7), 3, 25)


class Street(NamedTuple):
    """The perspective of a straight street: all lines along it meet in one point.

    A place is told by its depth, from 0 (horizon) to 1 (lower edge of the image), and by how far across it lies, from
    0 (left kerb) to 1 (right kerb).
    """

    image_size: tuple[int, int]  # (H, W) px
    vanishing: tuple[float, float]  # (x, y) px of the vanishing point, on the horizon
    kerbs: tuple[float, float]  # x px of the left and the right one at depth 1
    walls: tuple[float, float]  # how far across the rows of houses stand
    end: float  # depth of the row that closes the street

    @classmethod
    def random(cls, generator: np.random.Generator, image_size: tuple[int, int]) -> "Street":
        """Draw a street."""
        (height, width), uniform = image_size, generator.uniform
        vanishing = (uniform(0.38, 0.62) * width, uniform(0.3, 0.38) * height)
        kerbs = (uniform(-0.02, 0.22) * width, uniform(0.78, 1.02) * width)
        return cls(image_size, vanishing, kerbs, (-uniform(0.5, 0.75), 1 + uniform(0.5, 0.75)), uniform(0.12, 0.22))

    def at(self, across: float, depth: float, up: float = 0) -> tuple[float, float]:
        """Image px (x, y) of a place, `up` over the ground in units of the camera's height."""
        (x, y), (left, right) = self.vanishing, self.kerbs
        return x + depth * (left + across * (right - left) - x), y + depth * (self.image_size[0] - y) * (1 - up)

    def quad(self, left: float, right: float, far: float, near: float) -> list[tuple[float, float]]:
        """Image px of the corners of a rectangle on the ground."""
        return [self.at(left, far), self.at(right, far), self.at(right, near), self.at(left, near)]


def paint_sky(canvas: Canvas, street: Street) -> None:
    """Paint a gradient down to the horizon, blue to grey or towards sunset, and clouds."""
    random, rows = canvas.random, int(street.vanishing[1])
    canvas.begin("sky")
    canvas.fill(ZENITH, box(0, rows + 1, canvas.width, 0))
    glow = canvas.tone((SUNSET, HAZE)[random.integers(2)]) - canvas.tone(ZENITH)
    clouds = noise(random, (rows, canvas.width), (6, 15, 30)) + np.float32(random.uniform(-1, 0.6))
    sky = canvas.picture[:, :rows]
    sky += np.linspace(0, 1, rows, dtype=np.float32)[:, None] * glow[:, None, None]
    sky += np.float32(0.85) * np.clip(clouds, 0, 1) * (np.float32(random.uniform(170, 250)) - sky)


def paint_ground(canvas: Canvas, street: Street) -> None:
    """Paint sidewalks with joints and kerbs, the road with repairs and marks, and shadows on them."""
    random, quad, depths = canvas.random, street.quad, canvas.random.uniform(0.1, 0.14) * 1.25 ** np.arange(11)
    canvas.begin("sidewalk")
    canvas.fill(SLAB, box(0, canvas.height, canvas.width, street.vanishing[1]))
    joints = [quad(-2, 3, depth, 1.015 * depth) for depth in depths]
    canvas.fill(SLAB, *joints, *(quad(x - 0.008, x + 0.008, 0, 1.02) for x in (-0.2, 1.2)), light=0.78)
    canvas.fill(SLAB, quad(-0.03, 1.03, 0, 1.02), light=1.25)
    canvas.begin("road")
    surface = (ASPHALT, GRAVEL)[random.integers(2)]
    canvas.fill(surface, quad(0, 1, 0, 1.02))
    for _ in range(int(random.integers(0, 4))):  # repairs
        left, far = random.uniform(0, 0.75), random.uniform(0.4, 0.9)
        patch = quad(left, left + random.uniform(0.13, 0.25), far, far * random.uniform(1.1, 1.3))
        canvas.fill(surface, patch, light=random.uniform(0.75, 1.2))
    marks = [quad(0.485, 0.515, depth, 1.22 * depth) for depth in depths[::2]]
    if random.random() < 0.4:
        marks += [quad(x - 0.015, x + 0.015, 0.1, 1.02) for x in (0.06, 0.94)]
    if random.random() < 0.3:  # a zebra crossing
        depth = random.uniform(0.35, 0.7)
        marks = [quad(x - 0.033, x + 0.033, depth, 1.35 * depth) for x in np.linspace(0, 1, 10)[1:-1]]
    canvas.fill(MARK, *marks)
    if random.random() < 0.5:  # of the houses
        canvas.shadow(quad(street.walls[0], random.uniform(0.1, 0.6), 0, 1.02), random.uniform(0.2, 0.45))
    for _ in range(int(random.integers(0, 4))):
        x, y = street.at(random.uniform(-0.3, 1.3), random.uniform(0.3, 1))
        reach = random.uniform(0.05, 0.2) * canvas.width
        canvas.shadow(ellipse(x, y, reach, 0.3 * reach), random.uniform(0.1, 0.3))


def paint_houses(canvas: Canvas, street: Street) -> None:
    """Paint buildings and greenery: the row that closes the street, then those on either side of it."""
    random, right = canvas.random, 0.0
    (_, base), tallest = street.at(0, street.end), random.uniform(0.1, 0.24) * canvas.height
    while right < canvas.width:
        left, right = right, right + random.uniform(0.2, 0.5) * canvas.width
        top = street.vanishing[1] - random.uniform(0.5, 1) * tallest
        _paint_front(canvas, box(left, base, right + 1, top), (int((right - left) / 6.5), int((base - top) / 7.5)))
    for wall, edge in zip(street.walls, (0, canvas.width), strict=True):
        near = street.end
        while 0 < street.at(wall, near)[0] < canvas.width:
            far, near, up = near, near * random.uniform(1.6, 2.6), random.uniform(1.3, 2.5)
            front = [street.at(wall, *point) for point in ((far, 0), (near, 0), (near, up), (far, up))]
            _paint_front(canvas, front, random.integers(2, 4, 2), edge)


def _paint_front(canvas: Canvas, corners: Points, rooms: tuple[int, int], edge: float | None = None) -> None:
    """Paint a house, with its side up to the x px `edge`, or greenery between corners from the lower left one on."""
    random, (a, b, c, d) = canvas.random, np.asarray(corners)

    def place(points) -> np.ndarray:
        u, v = np.moveaxis(np.asarray(points), -1, 0)[..., None]
        return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)

    if random.random() < 0.23:
        canvas.begin("vegetation")
        leaves = LEAVES if random.random() < 0.8 else AUTUMN
        for u in np.linspace(0, 1, 7):
            (x, y), (_, top) = place([(u, 0.4), (u, random.uniform(0.7, 1))])
            canvas.fill(leaves, ellipse(x, y, y - top, y - top), light=random.uniform(0.8, 1.15))
        return
    canvas.begin("building")
    wall, pane = BRICK if random.random() < 0.8 else PLASTER, DARK if random.random() < 0.85 else LIT
    if edge is not None:
        canvas.fill(wall, box(*b, edge, c[1]), light=0.75)
    canvas.fill(wall, corners)
    grid = np.stack(np.meshgrid(*map(range, rooms)), axis=-1).reshape(-1, 1, 2)
    canvas.fill(pane, *place((grid + box(0.25, 0.3, 0.75, 0.8)) / rooms))


def paint_bonnet(canvas: Canvas) -> None:
    """Paint the bonnet of the camera's own car along the lower edge."""
    canvas.begin("ego vehicle")
    canvas.move()
    reach, rise = canvas.random.uniform((0.42, 0.05), (0.55, 0.09)) * (canvas.width, canvas.height)
    canvas.fill(BONNET, ellipse(canvas.width / 2, canvas.height, reach, rise))
