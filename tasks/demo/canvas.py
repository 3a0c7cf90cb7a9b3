"""The demo data's brush: polygons of a material on a canvas that knows which part is seen at each pixel."""

import colorsys
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

# Noise and blur are computed in whole numbers: other vector instructions would round them differently.
_FINE = 4  # 4x4 points a pixel decide how much of it a polygon covers
_SHIFT = 3  # cv2's fixed-point bits: corners are placed to 1/32 px

Points = Sequence[Sequence[float]] | np.ndarray


class Material(NamedTuple):
    """What something looks like: ranges of its colour, 0 to 1, and its texture, in grey levels."""

    hue: tuple[float, float]  # wraps
    saturation: tuple[float, float]
    value: tuple[float, float]
    grain: float = 5  # standard deviation
    shade: float = 0  # the top is that much lighter, the bottom darker
    rough: float = 0  # share of the radius by which each corner is moved at random


class Scene(NamedTuple):
    """A finished picture and what is seen in it."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    parts: np.ndarray  # (H, W) uint8, the number of the part that covers each pixel
    kinds: tuple[str, ...]  # what each part is, by number: "road", "car", ...; part 0 is "void"


class Canvas:
    """A picture painted back to front, beside the map of the part seen at each pixel.

    Args:
        generator: Draws every texture and tone; the same state gives the same picture.
        image_size: (H, W) px.
    """

    def __init__(self, generator: np.random.Generator, image_size: tuple[int, int]):
        self.random = generator
        self.height, self.width = image_size
        self.picture = np.zeros((3, *image_size), np.float32)  # RGB planes: several times faster to paint than pixels
        self.parts = np.zeros(image_size, np.uint8)
        self.kinds = ["void"]
        self.tones: dict[Material, np.ndarray] = {}
        self._grain = noise(generator, image_size, (1, 3, 12))
        self.move()

    def begin(self, kind: str) -> None:
        """Start a part: what is filled from now on belongs to it, in materials of new tones."""
        self.kinds.append(kind)
        self.tones.clear()

    def move(self, foot: Sequence[float] = (0, 0), x: Sequence[float] = (1, 0), y: Sequence[float] = (0, 1)) -> None:
        """Set the frame of the points that follow: px of its origin, and of a unit along each of its axes."""
        self._frame = np.array((foot, x, y), np.float32)

    def tone(self, material: Material) -> np.ndarray:
        """Colour of a material, RGB 0 to 255, drawn once a part."""
        if material not in self.tones:
            hue, *others = (self.random.uniform(*bounds) for bounds in material[:3])
            self.tones[material] = 255 * np.array(colorsys.hsv_to_rgb(hue % 1, *others), np.float32)
        return self.tones[material]

    def fill(self, material: Material, *polygons: Points, light: float = 1) -> None:
        """Fill polygons, each (N, 2), with a material whose colour is multiplied by `light`."""
        window, cover = self._cover(polygons, material.rough)
        height, width = cover.shape
        # A patch of grain from anywhere, so that no two parts share their texture.
        top, left = (int(self.random.random() * room) for room in (self.height - height + 1, self.width - width + 1))
        grey = np.float32(material.grain) * self._grain[top : top + height, left : left + width]
        if material.shade:
            grey += np.linspace(material.shade, -material.shade, height, dtype=np.float32)[:, None]
        seen = self.picture[:, *window]
        seen += cover * (grey + np.float32(light) * self.tone(material)[:, None, None] - seen)
        self.parts[window][cover >= 0.5] = len(self.kinds) - 1

    def shadow(self, polygon: Points, strength: float) -> None:
        """Darken a polygon by a factor of 1 - strength; the parts below stay what they are."""
        window, cover = self._cover([polygon])
        self.picture[:, *window] *= 1 - np.float32(strength) * cover

    def finish(self) -> Scene:
        """Light the scene and send it through a lens and a sensor."""
        random, picture = self.random, self.picture
        across = 1 + random.uniform(-0.2, 0.2) * np.linspace(-1, 1, self.width)
        picture *= (random.uniform(0.8, 1.15) * random.uniform(0.93, 1.07, (3, 1, 1)) * across).astype(np.float32)
        picture += np.float32(random.uniform(-0.15, 0.15)) * (picture - 110)  # contrast
        sharp = cv2.GaussianBlur(cv2.merge(_whole(picture)), (0, 0), random.uniform(0.3, 0.7))
        noisy = sharp + np.float32(random.uniform(1.5, 5)) * random.standard_normal(sharp.shape, np.float32)
        return Scene(_whole(noisy), self.parts, tuple(self.kinds))

    def _cover(self, polygons: Sequence[Points], rough: float = 0) -> tuple[tuple[slice, slice], np.ndarray]:
        """The window around polygons inside the canvas, and the share of each px in it that they cover, (h, w)."""
        points, (foot, x, y) = np.concatenate(polygons).astype(np.float32), self._frame
        if rough:
            moved = np.float32(rough) * self.random.standard_normal((len(points), 1), np.float32)
            points += moved * (points - points.mean(axis=0))
        points = foot + points[:, :1] * x + points[:, 1:] * y
        limits = np.array((self.width, self.height))
        low = np.clip(np.floor(points.min(axis=0)), 0, limits - 1).astype(int)
        high = np.clip(np.ceil(points.max(axis=0)), low + 1, limits).astype(int)
        (left, top), (width, height) = low, high - low
        mask = np.zeros((_FINE * height, _FINE * width), np.uint8)
        fixed = np.rint(((points - low.astype(np.float32)) * _FINE - np.float32(0.5)) * 2**_SHIFT).astype(np.int32)
        ends = np.cumsum([len(polygon) for polygon in polygons]).tolist()
        for start, end in pairwise([0, *ends]):
            cv2.fillPoly(mask, [fixed[start:end]], _FINE**2, shift=_SHIFT)
        cover = cv2.resize(mask, (int(width), int(height)), interpolation=cv2.INTER_AREA)
        return (slice(top, top + height), slice(left, left + width)), cover / np.float32(_FINE**2)


def _whole(picture: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)


def noise(generator: np.random.Generator, shape: tuple[int, int], octaves: Sequence[int]) -> np.ndarray:
    """Smooth noise of about unit deviation, (H, W) float32: the sum of random grids of the given cell sizes in px."""
    total = np.zeros(shape, np.float32)
    for cell in octaves:
        grid = generator.integers(0, 256, (shape[0] // cell + 2, shape[1] // cell + 2), np.uint8)
        total += cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
    return (total - np.float32(127.5 * len(octaves))) / np.float32(74 * len(octaves) ** 0.5)


def box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    """Corners of an upright rectangle, (4, 2)."""
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)])


def ellipse(
    x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360, count: int = 24
) -> np.ndarray:
    """Points along an ellipse from one angle to another in degrees, (count, 2)."""
    angles = np.radians(np.linspace(start, end, count, endpoint=end - start < 360))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)
