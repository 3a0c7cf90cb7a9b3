"""The demo data's brush: textured polygons on a canvas that knows which part is seen at each pixel."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

SCALE = 2  # canvas px per image px: the picture is averaged down, the part map takes the majority
_SHIFT = 3  # cv2's fixed-point bits: polygons are placed to 1/8 canvas px

Point = tuple[float, float]
Colour = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Scene:
    """A finished picture and what is seen in it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        parts: (H, W) uint8, the number of the part that covers each pixel.
        kinds: What each part is, by number: "road", "car", ...; part 0 is "void".
    """

    image: np.ndarray
    parts: np.ndarray
    kinds: tuple[str, ...]


class Canvas:
    """A picture painted back to front at twice its size, beside the map of the part seen at each pixel.

    Args:
        generator: Draws every texture and tone; the same state gives the same picture.
        image_size: (H, W) px of the finished image.
    """

    def __init__(self, generator: np.random.Generator, image_size: tuple[int, int]):
        self.generator = generator
        self.height, self.width = image_size
        shape = (SCALE * self.height, SCALE * self.width)
        self.picture = np.zeros((3, *shape), np.float32)  # RGB planes: several times faster to paint than pixels
        self.part_map = np.zeros(shape, np.uint8)
        self.kinds = ["void"]
        self.grain = noise(generator, shape, octaves=(2, 6, 24))
        self.move()

    def begin(self, kind: str) -> None:
        """Start a part: what is filled from now on belongs to it."""
        self.kinds.append(kind)
        if len(self.kinds) > 256:
            raise ValueError("a demo scene holds at most 255 parts")

    def move(self, foot: Point = (0, 0), size: float | None = None, mirror: bool = False) -> None:
        """Set the frame of the points that follow: an object's own, or without a size image px with y pointing down.

        Args:
            foot: (x, y) px where the object stands.
            size: Pixels per unit; an object is about one unit high, and y points up.
            mirror: Whether x points left.
        """
        self._origin = np.array(foot, np.float32)
        self._axes = np.array([1, 1] if size is None else [-size if mirror else size, -size], np.float32)

    def fill(self, *polygons: Sequence[Point] | np.ndarray, colour: Colour, grain: float = 5, shade: float = 0) -> None:
        """Fill polygons, each (N, 2), with one tone.

        Args:
            colour: RGB, 0 to 255.
            grain: Standard deviation of the texture, grey levels.
            shade: Grey levels by which the top is lighter and the bottom darker.
        """
        self._paint([self._corners(polygon) for polygon in polygons], 0, True, colour, grain, shade)

    def stroke(self, points: Sequence[Point] | np.ndarray, width: float, colour: Colour, closed: bool = False) -> None:
        """Draw a line through (N, 2) points; the width is in units of the frame."""
        thickness = max(2, round(width * SCALE * abs(float(self._axes[0]))))
        self._paint([self._corners(points)], thickness, closed, colour, 4, 0)

    def shadow(self, polygon: Sequence[Point] | np.ndarray, strength: float) -> None:
        """Darken a polygon by a factor of 1 - strength; the parts below stay what they are."""
        window, mask = self._mask([self._corners(polygon)], 0, True)
        self.picture[:, *window] *= 1 - np.float32(strength) * mask

    def finish(self) -> Scene:
        """Light the scene, send it through a lens and a sensor, and bring both maps to image size."""
        random, size = self.generator, (self.width, self.height)
        picture = cv2.merge([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in self.picture])
        across = 1 + random.uniform(-0.2, 0.2) * np.linspace(-1, 1, self.width, dtype=np.float32)
        picture *= random.uniform(0.8, 1.15) * across[None, :, None]
        picture *= random.uniform(0.93, 1.07, 3).astype(np.float32)
        picture += random.uniform(-0.15, 0.15) * (picture - 110)  # contrast
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.3, 0.7))
        picture += random.uniform(1.5, 5) * random.standard_normal(picture.shape, np.float32)
        return Scene(np.clip(picture, 0, 255).astype(np.uint8), _majority(self.part_map), tuple(self.kinds))

    def _corners(self, points) -> np.ndarray:
        return (self._origin + np.asarray(points, np.float32) * self._axes) * SCALE - 0.5

    def _mask(self, polygons: list[np.ndarray], thickness: int, closed: bool):
        """The window (two slices) around the polygons inside the canvas, and the (h, w) mask in it, 0 or 1."""
        left, top, width, height = cv2.boundingRect(np.concatenate(polygons))
        rows, columns = self.part_map.shape
        low = (max(left - thickness, 0), max(top - thickness, 0))
        high = (min(left + width + thickness, columns), min(top + height + thickness, rows))
        mask = np.zeros((max(high[1] - low[1], 0), max(high[0] - low[0], 0)), np.uint8)
        for polygon in polygons if mask.size else []:
            fixed = np.rint((polygon - np.float32(low)) * 2**_SHIFT).astype(np.int32)
            if thickness:
                cv2.polylines(mask, [fixed], closed, 1, thickness, shift=_SHIFT)
            else:
                cv2.fillPoly(mask, [fixed], 1, shift=_SHIFT)
        return (slice(low[1], high[1]), slice(low[0], high[0])), mask

    def _paint(self, polygons, thickness: int, closed: bool, colour: Colour, grain: float, shade: float) -> None:
        window, mask = self._mask(polygons, thickness, closed)
        if not mask.size:
            return
        (height, width), (rows, columns) = mask.shape, self.part_map.shape
        # A patch of grain from anywhere, so that no two parts share their texture.
        top, left = (int(self.generator.random() * room) for room in (rows - height + 1, columns - width + 1))
        tone = np.float32(grain) * self.grain[top : top + height, left : left + width]
        if shade:
            tone += np.float32(shade) * (1 - np.arange(height, dtype=np.float32) * np.float32(2 / height))[:, None]
        for plane, level in zip(self.picture, colour, strict=True):
            cv2.copyTo(tone + np.float32(level), mask, plane[window])
        np.copyto(self.part_map[window], np.uint8(len(self.kinds) - 1), where=mask.view(bool))


def noise(generator: np.random.Generator, shape: tuple[int, int], octaves: Sequence[int]) -> np.ndarray:
    """Smooth noise of about unit deviation, (H, W) float32: the sum of random grids of the given cell sizes in px."""
    total = np.zeros(shape, np.float32)
    for cell in octaves:
        grid = generator.standard_normal((shape[0] // cell + 2, shape[1] // cell + 2), np.float32)
        total += cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return total / np.float32(np.sqrt(len(octaves)))


def _majority(part_map: np.ndarray) -> np.ndarray:
    """(2H, 2W) -> (H, W): the value held by most of each 2x2 block, of a tie the one painted later."""
    a, b, c, d = (part_map[row::2, column::2] for row in (0, 1) for column in (0, 1))
    second = np.minimum(np.maximum(a, b), np.maximum(c, d))  # the second largest of four holds every majority
    return np.maximum(second, np.maximum(np.minimum(a, b), np.minimum(c, d)))


def tone(
    generator: np.random.Generator,
    hue: tuple[float, float] = (0, 1),
    saturation: tuple[float, float] = (0.1, 0.85),
    value: tuple[float, float] = (0.2, 0.95),
) -> np.ndarray:
    """A random colour, RGB 0 to 255, with its hue, saturation and value in the given ranges (0 to 1; the hue wraps)."""
    h, s, v = (generator.uniform(*bounds) for bounds in (hue, saturation, value))
    return np.float32(255) * np.array(colorsys.hsv_to_rgb(h % 1, s, v), np.float32)


def box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    """Corners of an upright rectangle, (4, 2)."""
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)], np.float32)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> np.ndarray:
    """Points along an ellipse from one angle to another in degrees, (24, 2)."""
    return _arc(start, stop) * np.float32((rx, ry)) + np.float32((x, y))


@cache
def _arc(start: float, stop: float) -> np.ndarray:
    angles = np.radians(np.linspace(start, stop, 24, endpoint=stop - start < 360))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def blob(generator: np.random.Generator, x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """An irregular ellipse, (24, 2)."""
    return ellipse(0, 0, rx, ry) * (1 + 0.06 * generator.standard_normal((24, 1), np.float32)) + np.float32((x, y))
