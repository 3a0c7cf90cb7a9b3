"""Augmentation of images with boxes."""

from collections.abc import Sequence

import cv2
import numpy as np

from tasks.transforms.channels import add_border, fill_of, flip_channels, jitter_channels
from tasks.transforms.color_steps import share_state, ssd_colors
from tasks.transforms.resizing import resize_image
from tasks.values.pixel_format import PixelFormat

BoxedImage = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, boxes, labels
Window = tuple[int, int, int, int]  # left, top, right, bottom, px of an image, perhaps beyond it
MIN_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # of an IoU crop; 1: no crop
TRIALS = 40  # crops to try for one of them


def resize_boxed(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, size: Sequence[int]) -> BoxedImage:
    """Resize an image to (H, W) px, ignoring its aspect ratio, and its boxes (M, 4) xyxy px with it."""
    gain = np.divide(size, image.shape[:2], dtype=np.float32)[::-1]
    return resize_image(image, size), boxes * np.tile(gain, 2), labels


class DetectionAugmentation:
    """SSD's augmentation of images with boxes: zoom-out, IoU crop, flip, resize, colour jitter; a mosaic, or MixUp.

    Zoom-out and crop are drawn first, as one window into the image. The visible part is resized once, and colours
    change last, so no pixel outside is touched. A box is kept, clipped to the window, if its centre is inside and it
    stays at least one pixel thick.

    Args:
        zoom_out: Probability of placing the image on a larger canvas of `fill`.
        zoom_range: Sides of that canvas in those of the image, uniform.
        iou_crop: Probability of an IoU crop: a part that overlaps some box by at least a drawn IoU.
        crop_range: Sides of that part in those of the canvas, uniform, their ratio between 1/2 and 2.
        flip: Probability of a horizontal flip.
        color: Strength of the jitter of contrast and saturation; brightness gets a quarter of it and hue a tenth. Each
            is applied with probability 1/2, in SSD's order, as is a shuffle of channels. 0: no jitter.
        mosaic: Probability that three other samples join a sample around a point, each at its own scale, in place of
            zoom-out and crop.
        mixup: Probability that another sample, seen through its own zoom-out and crop, is blended with one that is in
            no mosaic; by a share near 1/2, with the boxes of both.
        copy_paste: Probability that objects of another sample are pasted onto a sample, before all else, as in
            `paste_objects`.
        fill: RGB of the canvas.

    Raises:
        ValueError: A probability or a range is invalid.

    Source: Liu et al. 2016, "SSD: Single Shot MultiBox Detector", sections 2.2 and 3.6; numbers as in torchvision.
    Mosaic: Bochkovskiy et al. 2020, "YOLOv4", section 3.3. MixUp: Zhang et al. 2019, "Bag of Freebies for Training
    Object Detection Neural Networks", section 3.1, but with YOLOv5's share, Beta(32, 32), and without weights of boxes.
    """

    def __init__(
        self,
        *,
        zoom_out: float = 0.5,
        zoom_range: Sequence[float] = (1.0, 4.0),
        iou_crop: float = 1.0,
        crop_range: Sequence[float] = (0.3, 1.0),
        flip: float = 0.5,
        color: float = 0.5,
        mosaic: float = 0.0,
        mixup: float = 0.0,
        copy_paste: float = 0.0,
        fill: Sequence[int] = (124, 116, 104),
    ) -> None:
        chances = {"zoom_out": zoom_out, "iou_crop": iou_crop, "flip": flip, "mosaic": mosaic, "mixup": mixup,
                   "copy_paste": copy_paste}  # fmt: skip
        for name, value in chances.items():
            if not 0 <= value <= 1:
                raise ValueError(f"data.{name}={value}: expected a probability, 0 to 1")
        for name, (low, high), limits in (("zoom_range", zoom_range, (1, 100)), ("crop_range", crop_range, (0.01, 1))):
            if not limits[0] <= low <= high <= limits[1]:
                raise ValueError(f"data.{name}=[{low}, {high}]: expected two factors from {limits[0]} to {limits[1]}")
        if not 0 <= color <= 1:
            raise ValueError(f"data.color={color}: expected a strength, 0 to 1")
        self.zoom_out, self.iou_crop, self.flip, self.mosaic, self.mixup, self.copy_paste = chances.values()
        self.zoom_range, self.crop_range, self.fill = tuple(zoom_range), tuple(crop_range), tuple(fill)
        self.color, self.recolor = color, ssd_colors(color) if color else None
        self.white = 0

    def take_pixels(self, format: PixelFormat) -> None:
        """Augment images of another format than RGB of 8 bits: the jitter is then of brightness and contrast alone."""
        self.fill, self.white, self.recolor = fill_of(format), format.white, None

    def donor(self, random: np.random.Generator, size: int) -> int | None:
        """Draw the one of `size` samples whose objects are pasted onto a sample; None: none is."""
        if not self.copy_paste or random.random() >= self.copy_paste:  # without copy-paste nothing is drawn
            return None
        return int(random.integers(size))

    def partners(self, random: np.random.Generator, size: int) -> list[int]:
        """Draw the three of `size` samples that join one in a mosaic, or the one for MixUp; an empty list: neither."""
        count = 3 if random.random() < self.mosaic else 0
        if not count and self.mixup:  # without MixUp nothing more is drawn
            count = int(random.random() < self.mixup)
        return random.integers(size, size=count).tolist() if count else []

    def __call__(self, samples: Sequence[BoxedImage], size: Sequence[int], random: np.random.Generator) -> BoxedImage:
        """Augment a sample, join four to a mosaic, or blend two.

        Args:
            samples: One sample, four for a mosaic, or two for MixUp: image (H, W, 3) uint8 RGB, boxes (M, 4) float32
                xyxy px and labels (M,).
            size: (H, W) px of the result.
            random: Generator of all random numbers.

        Returns:
            Image, boxes and labels of the result.
        """
        if len(samples) == 4:
            image, boxes, labels = self._join(samples, size, random)
        else:
            views = [self._view(sample, self._window(sample, random), size, random) for sample in samples]
            image, boxes, labels = views[0] if len(views) == 1 else _blended(*views, random.beta(32, 32))
        if random.random() < self.flip:
            image = flip_channels(image)
            boxes = np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
        boxes = boxes.clip(0, np.tile(np.float32(size)[::-1], 2))  # rounding reaches out by a millionth
        wide = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        return image, boxes[wide], labels[wide]

    def _window(self, sample: BoxedImage, random: np.random.Generator) -> Window:
        """Draw the window of zoom-out and crop, in pixels of the image."""
        (height, width), boxes = sample[0].shape[:2], sample[1]
        left = top = 0
        if random.random() < self.zoom_out:
            factor = random.uniform(*self.zoom_range)
            canvas_width, canvas_height = int(width * factor), int(height * factor)
            left, top = int((canvas_width - width) * random.random()), int((canvas_height - height) * random.random())
            width, height = canvas_width, canvas_height
        crop = (0, 0, width, height)
        if len(boxes) and random.random() < self.iou_crop:
            crop = iou_crop(boxes + np.float32([left, top, left, top]), (height, width), self.crop_range, random)
        return crop[0] - left, crop[1] - top, crop[2] - left, crop[3] - top

    def _view(self, sample: BoxedImage, window: Window, size: Sequence[int], random: np.random.Generator) -> BoxedImage:
        """Cut a window out of a sample, resized to (H, W) px."""
        image, boxes, labels = sample
        seen, placed = zip(
            *(
                _seen(window[axis], window[axis + 2], extent, new)
                for axis, extent, new in ((0, image.shape[1], size[1]), (1, image.shape[0], size[0]))
            ),
            strict=True,
        )
        (left, right), (top, bottom) = seen
        (x0, x1), (y0, y1) = placed
        picture = resize_image(image[top:bottom, left:right], (y1 - y0, x1 - x0))
        if self.recolor:
            share_state(self.recolor, random)
            picture = self.recolor(image=picture)["image"]
        elif self.white and self.color:
            strengths = {"brightness": self.color / 4, "contrast": self.color}
            chosen = {name: strength * (random.random() < 0.5) for name, strength in strengths.items()}
            picture = jitter_channels(picture, self.white, random, **chosen)
        if picture.shape[:2] != tuple(size):
            picture = add_border(picture, (y0, size[0] - y1, x0, size[1] - x1), self.fill)
        low, high = np.float32([left, top]), np.float32([right, bottom])
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        kept = ((low < centers) & (centers < high)).all(1)
        gain = np.float32([x1 - x0, y1 - y0]) / (high - low)
        corners = boxes[kept].reshape(-1, 2, 2).clip(low, high)
        return picture, ((corners - low) * gain + np.float32([x0, y0])).reshape(-1, 4), labels[kept]

    def _join(self, samples: Sequence[BoxedImage], size: Sequence[int], random: np.random.Generator) -> BoxedImage:
        """Join four samples around a point, each with a corner there."""
        height, width = size
        x, y = (int(random.uniform(0.25, 0.75) * extent) for extent in (width, height))
        canvas, found = np.empty((height, width, samples[0][0].shape[2]), samples[0][0].dtype), []
        for place, sample in enumerate(samples):
            (x0, x1), (y0, y1) = ((0, x), (x, width))[place % 2], ((0, y), (y, height))[place // 2]
            rows, columns = sample[0].shape[:2]
            scale = min(height / rows, width / columns) * random.uniform(0.5, 1.5)
            across, down = max(1, round((x1 - x0) / scale)), max(1, round((y1 - y0) / scale))
            left, top = (0 if place % 2 else columns - across), (0 if place // 2 else rows - down)
            window = (left, top, left + across, top + down)
            canvas[y0:y1, x0:x1], boxes, labels = self._view(sample, window, (y1 - y0, x1 - x0), random)
            found.append((boxes + np.float32([x0, y0, x0, y0]), labels))
        boxes, labels = zip(*found, strict=True)
        return canvas, np.concatenate(boxes), np.concatenate(labels)


def _blended(one: BoxedImage, other: BoxedImage, share: float) -> BoxedImage:
    """Blend two samples of one size; `share` is the first one's."""
    image = cv2.addWeighted(one[0], share, other[0], 1 - share, 0).reshape(one[0].shape)
    return image, np.concatenate([one[1], other[1]]), np.concatenate([one[2], other[2]])


def iou_crop(boxes: np.ndarray, size: tuple[int, int], sides: Sequence[float], random: np.random.Generator) -> Window:
    """Draw SSD's crop: it contains the centre of a box that it overlaps by at least a drawn IoU.

    The IoU is drawn from `MIN_OVERLAPS`, then `TRIALS` crops, and again until a crop fits. An IoU of 1 is the whole
    image.

    Args:
        boxes: (M, 4) xyxy px.
        size: (H, W) px of the image.
        sides: Range of the crop's sides, as a share of the image's.
        random: Generator of all random numbers.

    Returns:
        Left, top, right, bottom px.
    """
    whole = np.array(size[::-1])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    while (least := MIN_OVERLAPS[random.integers(len(MIN_OVERLAPS))]) < 1:
        extents = (random.uniform(*sides, (TRIALS, 2)) * whole).astype(int)  # (T, 2) width, height
        starts = (random.random((TRIALS, 2)) * (whole - extents)).astype(int)
        low, high = starts[:, None], (starts + extents)[:, None]
        common = (np.minimum(high, boxes[:, 2:]) - np.maximum(low, boxes[:, :2])).clip(0).prod(2)  # (T, M)
        overlaps = common / (extents.prod(1)[:, None] + areas - common).clip(1e-9)
        fitting = ((low < centers) & (centers < high)).all(2) & (overlaps >= least)
        shaped = (extents[:, 0] <= 2 * extents[:, 1]) & (extents[:, 1] <= 2 * extents[:, 0])
        chosen = np.flatnonzero(fitting.any(1) & shaped)
        if len(chosen):
            return (*starts[chosen[0]].tolist(), *(starts + extents)[chosen[0]].tolist())
    return 0, 0, *whole.tolist()


def _seen(low: int, high: int, extent: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Find, along one axis, the part of an image inside a window, and its place in a view of `size` px."""
    first, last = max(low, 0), min(high, extent)
    gain = size / (high - low)
    start = min(round((first - low) * gain), size - 1)
    return (first, last), (start, max(start + 1, round((last - low) * gain)))
