"""The street of the demo scenes: its perspective, and sky, buildings, greenery and ground painted in it."""

from dataclasses import dataclass

import numpy as np

from tasks.demo.canvas import Canvas, blob, box, ellipse, noise, tone
from tasks.demo.objects import leaves


@dataclass(frozen=True)
class Street:
    """The perspective of a straight street: all lines along it meet in one point.

    Attributes:
        image_size: (H, W) px.
        vanishing: (x, y) px of the vanishing point, on the horizon.
        kerbs: x px of the left and right kerb on the lower edge of the image.
        walls: x px of the left and right row of buildings there, mostly outside the image.
        end: Depth of the row of buildings or trees that closes the street, from 0 (horizon) to 1 (lower edge).
    """

    image_size: tuple[int, int]
    vanishing: tuple[float, float]
    kerbs: tuple[float, float]
    walls: tuple[float, float]
    end: float

    @classmethod
    def random(cls, generator: np.random.Generator, image_size: tuple[int, int]) -> "Street":
        height, width = image_size
        left, right = generator.uniform(-0.02, 0.22), generator.uniform(0.78, 1.02)
        kerbs = (left * width, right * width)
        walls = (kerbs[0] - generator.uniform(0.4, 0.6) * width, kerbs[1] + generator.uniform(0.4, 0.6) * width)
        vanishing = (generator.uniform(0.38, 0.62) * width, generator.uniform(0.3, 0.38) * height)
        return cls(image_size, vanishing, kerbs, walls, generator.uniform(0.12, 0.22))

    def at(self, across: float, depth: float, up: float = 0.0) -> tuple[float, float]:
        """Image px (x, y) of a point above the line along the street that meets the lower edge at `across`.

        Args:
            across: x px on the lower edge of the image.
            depth: 0 at the horizon, 1 at the lower edge of the image.
            up: Height over the ground, in units of the camera's.
        """
        x, y = self.vanishing
        return x + depth * (across - x), y + depth * (self.image_size[0] - y) * (1 - up)

    def quad(self, left: float, right: float, far: float, near: float) -> list[tuple[float, float]]:
        """Corners of a rectangle on the ground."""
        return [self.at(left, far), self.at(right, far), self.at(right, near), self.at(left, near)]


def paint_sky(canvas: Canvas, street: Street) -> None:
    """Paint a gradient down to the horizon, blue to grey or towards sunset, and clouds."""
    random, shape = canvas.generator, canvas.part_map.shape
    canvas.begin("sky")
    zenith = tone(random, (0.53, 0.64), (0.05, 0.6), (0.45, 0.95))
    glow = tone(random, *[((0.02, 0.15), (0, 0.35), (0.75, 1)), ((0.5, 0.62), (0, 0.25), (0.7, 1))][random.integers(2)])
    canvas.fill(box(0, street.vanishing[1] + 1, canvas.width, 0), colour=zenith, grain=1.5)
    rows = int(shape[0] * street.vanishing[1] / canvas.height)
    cloud = 0.85 * np.clip(noise(random, (rows, shape[1]), (12, 30, 60)) + random.uniform(-1, 0.6), 0, 1)
    sky = canvas.picture[:, :rows]
    sky += np.linspace(0, 1, rows, dtype=np.float32)[:, None] * (glow - zenith)[:, None, None]
    sky += cloud.astype(np.float32) * (np.float32(random.uniform(170, 250)) - sky)


def paint_street_end(canvas: Canvas, street: Street) -> None:
    """Paint the row of buildings and trees that closes the street."""
    random, (_, base) = canvas.generator, street.at(0, street.end)
    right, tallest = 0.0, random.uniform(0.1, 0.24) * canvas.height
    while right < canvas.width:
        left, right = right, right + random.uniform(0.2, 0.5) * canvas.width
        top = street.vanishing[1] - random.uniform(0.5, 1) * tallest
        if random.random() < 0.25:
            canvas.begin("vegetation")
            leaf = leaves(random)
            for x in np.linspace(left, right, 6):
                crown = blob(random, x, (base + top) / 2, (right - left) / 4, (base - top) / 2)
                canvas.fill(crown, colour=leaf, grain=20)
            continue
        canvas.begin("building")
        wall = _wall(random)
        canvas.fill(box(left, base, right + 1, top), colour=wall, grain=7, shade=8)
        windows = [
            box(x, y + 3.5, x + 3, y)
            for x in np.arange(left + 3, right - 4, 6.5)
            for y in np.arange(top + 3, base - 4, 7.5)
        ]
        if windows:
            canvas.fill(*windows, colour=_pane(random, wall))


def _wall(random: np.random.Generator) -> np.ndarray:
    return tone(random, (-0.03, 0.16) if random.random() < 0.8 else (0, 1), (0, 0.5), (0.35, 0.9))


def _pane(random: np.random.Generator, wall: np.ndarray) -> np.ndarray:
    if random.random() < 0.15:
        return tone(random, (0.1, 0.15), (0.2, 0.6), (0.8, 1))
    return 0.45 * wall + tone(random, (0.5, 0.65), (0, 0.4), (0, 0.25))


def paint_ground(canvas: Canvas, street: Street) -> None:
    """Paint sidewalks with joints and kerb, the road with repairs and marks, at times in the houses' shadow."""
    random, (left, right) = canvas.generator, street.kerbs
    canvas.begin("sidewalk")
    slab = tone(random, (0.02, 0.15), (0, 0.25), (0.4, 0.75))
    canvas.fill(box(0, canvas.height, canvas.width, street.vanishing[1]), colour=slab, grain=9)
    depths = 0.12 * random.uniform(1.1, 1.3) ** np.arange(20)
    for wall, kerb in zip(street.walls, street.kerbs, strict=True):
        joints = [street.quad(*sorted((wall, kerb)), depth, depth * 1.015) for depth in depths[depths < 1.1]]
        middle, width = (wall + 2 * kerb) / 3, 0.006 * canvas.width
        canvas.fill(*joints, street.quad(middle - width, middle + width, 0, 1.02), colour=slab * 0.78, grain=9)
    rim = 0.022 * canvas.width
    canvas.fill(street.quad(left - rim, right + rim, 0, 1.02), colour=np.minimum(slab * 1.25, 245), grain=6)
    canvas.begin("road")
    asphalt = tone(random, (0.5, 0.7) if random.random() < 0.6 else (0, 0.15), (0, 0.15), (0.22, 0.6))
    canvas.fill(street.quad(left, right, 0, 1.02), colour=asphalt, grain=11)
    for _ in range(int(random.integers(0, 4))):  # repairs
        x, depth = random.uniform(left, right - 0.2 * canvas.width), random.uniform(0.4, 0.9)
        patch = street.quad(x, x + random.uniform(0.1, 0.2) * canvas.width, depth, depth * random.uniform(1.1, 1.3))
        canvas.fill(patch, colour=asphalt * random.uniform(0.75, 1.2), grain=9)
    width, start, middle = 0.012 * canvas.width, random.uniform(0.1, 0.14), (left + right) / 2
    marks = [(middle, depth, depth * 1.22) for depth in start * 1.5 ** np.arange(6)]
    if random.random() < 0.4:
        marks += [(middle + reach * (right - left), 0.1, 1.02) for reach in (-0.44, 0.44)]
    if random.random() < 0.3:  # a zebra crossing
        width, depth = 0.025 * canvas.width, random.uniform(0.35, 0.7)
        marks = [(x, depth, depth * 1.35) for x in np.linspace(left, right, 10)[1:-1]]
    stripes = [street.quad(x - width, x + width, far, near) for x, far, near in marks]
    canvas.fill(*stripes, colour=(random.uniform(170, 240),) * 3)
    if random.random() < 0.5:  # the houses' shadow
        reach = random.uniform(0.1, 0.6) * (right - left)
        canvas.shadow(street.quad(street.walls[0], left + reach, 0, 1.02), random.uniform(0.2, 0.45))


def paint_side(canvas: Canvas, street: Street, side: int) -> None:
    """Paint buildings and greenery along the left (0) or right (1) side, from the street's end out of the image."""
    random, wall, near = canvas.generator, street.walls[side], street.end
    edge, outside = ((0, -canvas.width), (canvas.width, 2 * canvas.width))[side]
    last = (edge - street.vanishing[0]) / (wall - street.vanishing[0])
    while near < last:
        far, near = near, near * random.uniform(1.6, 2.6)
        if random.random() < 0.22:
            canvas.begin("vegetation")
            leaf, up = leaves(random), random.uniform(0.7, 1.3)
            for depth in np.linspace(far, near, 7):
                x, y = street.at(wall, depth, up * 0.45)
                reach = up * depth * (canvas.height - street.vanishing[1])
                bush = blob(random, x, y, reach * 0.5, reach * random.uniform(0.45, 0.6))
                canvas.fill(bush, colour=leaf * random.uniform(0.8, 1.15), grain=22, shade=12)
            continue
        canvas.begin("building")
        colour, up = _wall(random), random.uniform(1.3, 2.5)
        (x, base), (_, roof) = street.at(wall, near), street.at(wall, near, up)
        canvas.fill(box(x, base, outside, roof), colour=colour * 0.75, grain=8, shade=8)
        front = [street.at(wall, far), street.at(wall, near), street.at(wall, near, up), street.at(wall, far, up)]
        canvas.fill(front, colour=colour, grain=8, shade=6)
        columns, floors = int(random.integers(2, 4)), int(random.integers(2, 4))
        windows = []
        for column in range(columns):
            a, b = (far + (near - far) * (column + part) / columns for part in (0.25, 0.75))
            for floor in range(floors):
                low, high = (up * (floor + part) / floors for part in (0.3, 0.8))
                corners = ((a, low), (b, low), (b, high), (a, high))
                windows.append([street.at(wall, depth, height) for depth, height in corners])
        canvas.fill(*windows, colour=_pane(random, colour))


def paint_ego_vehicle(canvas: Canvas) -> None:
    """Paint the bonnet of the camera's own car along the lower edge."""
    random = canvas.generator
    canvas.begin("ego vehicle")
    canvas.move()
    colour = tone(random, saturation=(0, 0.3), value=(0.15, 0.7))
    rise = random.uniform(0.05, 0.09) * canvas.height
    bonnet = ellipse(canvas.width / 2, canvas.height, random.uniform(0.42, 0.55) * canvas.width, rise)
    canvas.fill(bonnet, colour=colour, grain=3, shade=25)
