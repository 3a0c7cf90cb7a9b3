"""The objects of the demo data, drawn on a canvas: cars, people, signs, trees and what else stands about."""

from itertools import pairwise

import numpy as np

from tasks.demo.canvas import Canvas, Colour, Point, blob, box, ellipse, tone

# Each object stands on `foot` (x, y) px and is `size` px high.


def draw_car_side(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a car from the side, 2.2 times as wide as high."""
    random = canvas.generator
    paint = tone(random, saturation=(0, 0.9), value=(0.2, 0.95))
    glass = tone(random, (0.5, 0.65), (0.05, 0.35), (0.15, 0.5))
    canvas.move(foot, size, mirror=random.random() < 0.5)
    canvas.shadow(ellipse(0, 0.02, 1.15, 0.08), 0.35)
    canvas.begin("car")
    back, front = random.uniform(-0.85, -0.55), random.uniform(0.35, 0.6)
    canvas.fill([(back - 0.15, 0.5), (back + 0.1, 1), (front - 0.25, 1), (front + 0.15, 0.5)], colour=paint, shade=8)
    bonnet = [(front + 0.1, 0.6), (1.0, 0.5), (1.1, 0.38), (1.1, 0.14)]
    canvas.fill([(-1.05, 0.14), (-1.1, 0.2), (-1.08, 0.52), (-0.95, 0.6), *bonnet], colour=paint, shade=18)
    post = random.uniform(-0.2, 0.1)
    canvas.fill([(back, 0.58), (back + 0.14, 0.92), (post - 0.03, 0.92), (post - 0.03, 0.58)], colour=glass)
    canvas.fill([(post + 0.03, 0.58), (post + 0.03, 0.92), (front - 0.27, 0.92), (front + 0.02, 0.58)], colour=glass)
    canvas.fill(box(-1.1, 0.36, -1.0, 0.48), colour=(180, 30, 25))
    canvas.fill(box(0.98, 0.33, 1.1, 0.43), colour=(240, 235, 200))
    for x in (-0.65, 0.65):
        canvas.fill(ellipse(x, 0.2, 0.21, 0.21), colour=(28, 28, 30))
        canvas.fill(ellipse(x, 0.2, 0.11, 0.11), colour=(150, 150, 155))


def draw_car_front(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a car from the front or from behind, 1.2 times as wide as high."""
    random = canvas.generator
    paint = tone(random, saturation=(0, 0.9), value=(0.2, 0.95))
    canvas.move(foot, size)
    canvas.shadow(ellipse(0, 0.02, 0.7, 0.08), 0.35)
    canvas.begin("car")
    canvas.fill(box(-0.56, 0, -0.34, 0.3), box(0.34, 0, 0.56, 0.3), colour=(28, 28, 30))
    canvas.fill([(-0.52, 0.55), (-0.38, 1), (0.38, 1), (0.52, 0.55)], colour=paint, shade=8)
    body = [(-0.6, 0.14), (-0.6, 0.5), (-0.53, 0.6), (0.53, 0.6), (0.6, 0.5), (0.6, 0.14)]
    canvas.fill(body, colour=paint, shade=18)
    glass = tone(random, (0.5, 0.65), (0.05, 0.35), (0.15, 0.5))
    canvas.fill([(-0.43, 0.6), (-0.33, 0.93), (0.33, 0.93), (0.43, 0.6)], colour=glass, shade=10)
    rear = random.random() < 0.5
    lamp = (190, 25, 20) if rear else (245, 240, 210)
    canvas.fill(box(-0.57, 0.38, -0.36, 0.5), box(0.36, 0.38, 0.57, 0.5), colour=lamp)
    canvas.fill(box(-0.16, 0.2, 0.16, 0.3), colour=(225, 225, 215))
    if not rear:
        canvas.fill(box(-0.3, 0.34, 0.3, 0.46), colour=paint * 0.35)


def _figure(canvas: Canvas, foot: Point, size: float) -> None:
    random = canvas.generator
    coat, trousers = tone(random), tone(random, saturation=(0.05, 0.6), value=(0.1, 0.7))
    skin = tone(random, (0.04, 0.09), (0.25, 0.6), (0.35, 0.95))
    hair = tone(random, (0.03, 0.12), (0.2, 0.7), (0.05, 0.6))
    canvas.move(foot, size, mirror=random.random() < 0.5)
    stride, swing = random.uniform(0, 0.05), random.uniform(0, 0.05)
    for side in (-1, 1):
        hip, ankle = 0.06 * side, side * (stride + 0.06)
        leg = [(hip - 0.08, 0.5), (hip + 0.08, 0.5), (ankle + 0.06, 0.02), (ankle - 0.06, 0.02)]
        canvas.fill(leg, colour=trousers * (0.9 + 0.1 * side), shade=8)
        canvas.fill(box(ankle - 0.06, 0, ankle + 0.08, 0.04), colour=hair * 0.5)
    hem = random.uniform(0.32, 0.47)
    shoulders = [(-0.19, 0.8), (-0.1, 0.86), (0.1, 0.86), (0.19, 0.8)]
    canvas.fill([(-0.17, hem), *shoulders, (0.17, hem)], colour=coat, shade=12)
    for side in (-1, 1):
        arm = [(0.14, 0.82), (0.2, 0.78), (0.17 + swing, 0.48), (0.1 + swing, 0.48)]
        canvas.fill([(side * x, y) for x, y in arm], colour=coat * 0.8)
        canvas.fill(ellipse(side * (0.135 + swing), 0.46, 0.04, 0.04), colour=skin)
    canvas.fill(ellipse(0, 0.9, 0.085, 0.1), colour=skin)
    canvas.fill(ellipse(0, 0.92, 0.09, 0.08, 0, 180), colour=hair)


def draw_person(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a standing or walking person, 0.45 times as wide as high."""
    canvas.move(foot, size)
    canvas.shadow(ellipse(0.05, 0.01, 0.26, 0.035), 0.35)
    canvas.begin("person")
    _figure(canvas, foot, size)


def draw_crowd(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw seven to nine people side by side as one part, about 1.5 times as wide as high."""
    random = canvas.generator
    canvas.begin("crowd")
    count = int(random.integers(7, 10))
    for x in random.permutation(np.linspace(-0.55, 0.55, count)):
        _figure(canvas, (foot[0] + float(x) * size, foot[1]), size * random.uniform(0.85, 1))


def draw_dog(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a dog from the side, 1.4 times as wide as high."""
    random = canvas.generator
    fur = tone(random, (0.03, 0.12), (0.05, 0.65), (0.15, 0.9))
    canvas.move(foot, size, mirror=random.random() < 0.5)
    canvas.shadow(ellipse(0, 0.01, 0.6, 0.05), 0.5)
    canvas.begin("dog")
    canvas.stroke([(-0.42, 0.6), (-0.58, 0.72), (-0.62, random.uniform(0.6, 0.95))], 0.09, fur)
    for x, dark in ((-0.3, 0.75), (0.3, 0.75), (-0.38, 1), (0.2, 1)):
        canvas.fill([(x - 0.08, 0.45), (x + 0.08, 0.45), (x + 0.06, 0), (x - 0.05, 0)], colour=fur * dark, grain=9)
    canvas.fill(ellipse(-0.05, 0.5, 0.46, 0.2), colour=fur, grain=14, shade=15)
    canvas.fill([(0.15, 0.5), (0.35, 0.9), (0.58, 0.75), (0.4, 0.42)], colour=fur, grain=14)
    canvas.fill(ellipse(0.5, 0.82, 0.18, 0.16), ellipse(0.66, 0.76, 0.12, 0.09), colour=fur, grain=10)
    canvas.fill(ellipse(0.4, 0.82, 0.07, 0.16), colour=fur * 0.6)
    canvas.fill(ellipse(0.76, 0.79, 0.035, 0.035), ellipse(0.55, 0.87, 0.025, 0.025), colour=(20, 18, 18))


def _pole(canvas: Canvas, foot: Point, size: float, top: float) -> None:
    grey = canvas.generator.uniform(70, 170)
    canvas.begin("pole")
    canvas.move(foot, size)
    canvas.fill(box(-0.035, 0, 0.035, top), colour=(grey, grey, grey))


def _board(canvas: Canvas, kind: str, outline: np.ndarray, rim: Colour, face: Colour, inner: float) -> None:
    canvas.begin(kind)
    canvas.fill(outline, colour=rim)
    canvas.fill(outline * inner, colour=face, shade=8)


def draw_stop_sign(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a red octagon on a pole; the board is half as wide as the sign is high."""
    _pole(canvas, foot, size, 0.6)
    canvas.move((foot[0], foot[1] - 0.75 * size), 0.5 * size)  # the board's frame, a unit high around (0, 0)
    red, white = tone(canvas.generator, (-0.02, 0.02), (0.8, 0.95), (0.55, 0.8)), (235, 232, 228)
    _board(canvas, "stop sign", 0.53 * _star(22.5, 8), white, red, 0.88)
    for x in (-0.29, -0.1, 0.09, 0.28):  # four letters, more or less
        canvas.fill(box(x - 0.07, -0.11, x + 0.07, 0.11), colour=white)
        canvas.fill(box(x - 0.02, -0.06, x + 0.02, 0.06), colour=red)


def draw_sign(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a warning triangle, a round sign or a rectangular one on a pole; the board is about half the height."""
    random = canvas.generator
    _pole(canvas, foot, size, 0.6)
    canvas.move((foot[0], foot[1] - 0.75 * size), 0.5 * size)
    red, blue, white = tone(random, (-0.02, 0.02), (0.75, 0.95), (0.6, 0.85)), (25, 70, 165), (236, 234, 228)
    black, yellow = (25, 25, 25), (240, 200, 40)
    shape = random.integers(4)
    if shape == 0:
        triangle = np.array([(-0.58, -0.43), (0.58, -0.43), (0, 0.55)])
        _board(canvas, "sign", triangle, red, (white, yellow)[random.integers(2)], 0.62)
        canvas.fill(box(-0.05, -0.2, 0.05, 0.1), colour=black)
    elif shape == 1:
        _board(canvas, "sign", ellipse(0, 0, 0.5, 0.5), red, white, 0.7)
        canvas.fill(box(-0.22, -0.14, -0.06, 0.14), box(0.06, -0.14, 0.22, 0.14), colour=black)
    elif shape == 2:
        entry = random.random() < 0.4
        _board(canvas, "sign", ellipse(0, 0, 0.5, 0.5), white, red if entry else blue, 0.88)
        arrow = [(-0.07, -0.28), (0.07, -0.28), (0.07, 0.05), (0.24, 0.05), (0, 0.33), (-0.24, 0.05), (-0.07, 0.05)]
        canvas.fill(box(-0.31, -0.08, 0.31, 0.08) if entry else arrow, colour=white)
    else:
        face = (blue, (20, 110, 70), yellow)[random.integers(3)]
        _board(canvas, "sign", box(-0.58, -0.43, 0.58, 0.43), white, face, 0.9)
        for y in (-0.22, 0, 0.22):
            line = box(-0.42, y - 0.05, random.uniform(0, 0.42), y + 0.05)
            canvas.fill(line, colour=black if face is yellow else white)


def _star(start: float, count: int) -> np.ndarray:
    """Unit vectors at equal angles, the first at `start` degrees, (count, 2)."""
    angles = np.radians(start + 360 / count * np.arange(count))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def draw_umbrella(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw an open umbrella on its stick, as wide as high."""
    random = canvas.generator
    first, second = tone(random, saturation=(0.3, 0.9)), tone(random, saturation=(0.1, 0.9))
    canvas.move(foot, size)
    canvas.shadow(ellipse(0.05, 0.01, 0.4, 0.05), 0.4)
    canvas.begin("umbrella")
    canvas.fill(box(-0.025, 0, 0.025, 0.7), colour=(60, 50, 45))
    ribs = np.linspace(-0.5, 0.5, 7)
    for index, (left, right) in enumerate(pairwise(ribs)):
        dome = [(x, 0.58 + 0.4 * np.sqrt(max(0, 1 - (x / 0.5) ** 2))) for x in np.linspace(left, right, 6)]
        hem = ellipse((left + right) / 2, 0.57, (right - left) / 2, 0.05, 0, 180)
        canvas.fill(np.concatenate([dome, hem]), colour=(first, second)[index % 2] * (1.1 - 0.08 * index), shade=10)


def draw_traffic_light(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a housing with three lamps, one of them lit, on a short pole; 0.35 times as wide as high."""
    random = canvas.generator
    _pole(canvas, foot, size, 0.3)
    canvas.begin("traffic light")
    case = tone(random, (0.1, 0.4), (0, 0.5), (0.08, 0.3))
    canvas.fill(box(-0.175, 0.2, 0.175, 1), colour=case, shade=6)
    lit = random.integers(3)
    for index, lamp in enumerate(((240, 40, 30), (250, 180, 30), (40, 220, 110))):
        glow = 1 if index == lit else 0.28
        canvas.fill(ellipse(0, 0.86 - 0.26 * index, 0.11, 0.11), colour=np.multiply(lamp, glow), shade=10)


def draw_ball(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a football, pale with dark patches, as wide as high."""
    random = canvas.generator
    pale = tone(random, saturation=(0, 0.35), value=(0.75, 0.95))
    dark = tone(random, saturation=(0, 0.9), value=(0.05, 0.4))
    canvas.move(foot, size)
    canvas.shadow(ellipse(0.1, 0.03, 0.5, 0.1), 0.5)
    canvas.begin("ball")
    canvas.fill(ellipse(0, 0.5, 0.5, 0.5), colour=pale, shade=25)
    turn = random.uniform(0, 72)
    pentagon = _star(turn + 36, 5)
    for centre, size_of_patch in [((0, 0), 0.15), *((0.37 * spoke, 0.11) for spoke in _star(turn, 5))]:
        canvas.fill(np.add(centre, (0, 0.5)) + size_of_patch * pentagon, colour=dark)


def draw_bicycle(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a bicycle from the side, 1.6 times as wide as high."""
    random = canvas.generator
    paint, tyre = tone(random, value=(0.3, 0.9)), tone(random, saturation=(0, 0.2), value=(0.05, 0.25))
    canvas.move(foot, size, mirror=random.random() < 0.5)
    canvas.begin("bicycle")
    for hub in np.array([(-0.48, 0.34), (0.48, 0.34)]):
        canvas.stroke(ellipse(*hub, 0.31, 0.31), 0.06, tyre, closed=True)
        for spoke in _star(random.uniform(0, 60), 6):
            canvas.stroke([hub, hub + 0.28 * spoke], 0.012, (150, 150, 150))
    frame = [(-0.48, 0.34), (-0.02, 0.32), (0.36, 0.74), (-0.16, 0.7), (-0.48, 0.34)]
    for line in (frame, [(-0.02, 0.32), (-0.2, 0.86)], [(0.48, 0.34), (0.34, 0.86)]):
        canvas.stroke(line, 0.055, paint)
    canvas.fill(ellipse(-0.2, 0.88, 0.16, 0.05), colour=tyre)
    canvas.stroke([(0.34, 0.86), (0.3, 0.96), (0.46, 0.97)], 0.05, tyre)


def leaves(random: np.random.Generator) -> np.ndarray:
    """The colour of foliage: mostly greens, at times autumn."""
    if random.random() < 0.8:
        return tone(random, (0.17, 0.4), (0.25, 0.75), (0.2, 0.6))
    return tone(random, (0.05, 0.16), (0.4, 0.8), (0.4, 0.75))


def draw_tree(canvas: Canvas, foot: Point, size: float) -> None:
    """Draw a trunk and a crown of leaves, about 0.65 times as wide as high."""
    random = canvas.generator
    leaf = leaves(random)
    bark = tone(random, (0.05, 0.1), (0.1, 0.5), (0.15, 0.45))
    canvas.move(foot, size)
    canvas.shadow(ellipse(0.05, 0, 0.3, 0.03), 0.4)
    canvas.begin("vegetation")
    canvas.fill([(-0.06, 0), (-0.035, 0.5), (0.035, 0.5), (0.06, 0)], colour=bark, grain=12)
    for level in np.linspace(0.42, 0.85, 9):  # dark below, sunlit above
        x, reach = random.uniform(-0.1, 0.1), random.uniform(0.18, 0.24)
        canvas.fill(blob(random, x, level, reach, reach * 0.8), colour=leaf * (0.45 + level * 0.75), grain=22)
