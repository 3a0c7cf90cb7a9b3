"""Random augmentation of classification."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from tasks.files.images import decode_image, jpeg_size
from tasks.files.pixels import decode_pixels
from tasks.transforms.channels import fill_of, flip_channels, jitter_channels
from tasks.transforms.resizing import resize_image
from tasks.values.pixel_format import RGB, PixelFormat

POLICIES = ("autoaugment", "randaugment", "trivialaugment")
Box = tuple[int, int, int, int]  # top, left, height, width, px


class ClassAugmentation:
    """Random resized crop, flip, policy, colour jitter and erasing, drawn from a generator.

    The crop is drawn from the size in the file's header, before decoding. A JPEG is decoded at the smallest reduced
    size that has enough pixels for the result. The rest of the shrinking averages areas from a factor of 2 on, and is
    bilinear below. Bilinear takes a third to a tenth of the time; it aliases, by 2 to 5 of 255 (root mean square)
    against `CenterView` and torchvision at factors of 1.25 to 1.95.

    Args:
        scale: Range of the crop's share of the image's area, uniform.
        ratio: Range of its width over its height, uniform in the logarithm.
        flip: Probability of a horizontal flip.
        policy: None, "autoaugment" (ImageNet's), "randaugment" or "trivialaugment", as torchvision has them.
        policy_magnitude: Magnitude of RandAugment, 0 to 30 (timm's "m9" of 10 is 27 here).
        policy_operations: Number of RandAugment's operations in a row.
        color: Strength of the jitter of brightness, contrast and saturation; 0: no jitter.
        erasing: Probability that a rectangle is filled with the mean colour.
        strength: Scales RandAugment's magnitude, the probability that another policy is applied, `color` and `erasing`.
        fill: RGB of what is erased.

    Raises:
        ValueError: A name or a number is out of range.

    Source: Szegedy et al. 2015, "Going Deeper with Convolutions", section 6 (the crop); Zhong et al. 2020, "Random
    Erasing Data Augmentation"; the policies' papers are Cubuk et al. 2019, 2020 and Müller & Hutter 2021.
    """

    def __init__(
        self,
        *,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        policy: str | None = None,
        policy_magnitude: int = 9,
        policy_operations: int = 2,
        color: float = 0.0,
        erasing: float = 0.0,
        strength: float = 1.0,
        fill: Sequence[int] = (124, 116, 104),
    ) -> None:
        for name, (low, high), most in (("scale", scale, 1), ("ratio", ratio, 100)):
            if not 0 < low <= high <= most:
                raise ValueError(f"data.{name}=[{low}, {high}]: expected two factors above 0, at most {most}")
        for name, value in (("flip", flip), ("erasing", erasing), ("color", color)):
            if not 0 <= value <= 1:
                raise ValueError(f"data.{name}={value}: expected 0 to 1")
        if policy is not None and policy not in POLICIES:
            raise ValueError(f"data.policy={policy}: expected null, {', '.join(POLICIES)}")
        if not 0 <= policy_magnitude <= 30 or policy_operations < 1:
            raise ValueError(
                f"data.policy_magnitude={policy_magnitude}, data.policy_operations={policy_operations}: expected a "
                "magnitude of 0 to 30, and at least one operation"
            )
        from torchvision.transforms import InterpolationMode, v2  # takes seconds

        self.scale, self.ratio, self.flip = tuple(scale), tuple(ratio), flip
        self.policy, self.color, self.pixels = policy, color * strength, RGB
        self.changes = []
        if policy == "randaugment":
            magnitude = round(policy_magnitude * strength)
            self.changes.append(v2.RandAugment(policy_operations, magnitude, interpolation=InterpolationMode.BILINEAR))
        elif policy:
            kind = {"autoaugment": v2.AutoAugment, "trivialaugment": v2.TrivialAugmentWide}[policy]
            whole = kind(interpolation=InterpolationMode.BILINEAR)
            self.changes.append(whole if strength == 1 else v2.RandomApply([whole], p=strength))
        if color * strength:
            self.changes.append(v2.ColorJitter(*[color * strength] * 3))
        self.erase = v2.RandomErasing(erasing * strength, value=list(fill), inplace=True) if erasing else None

    def take_pixels(self, format: PixelFormat) -> None:
        """Augment images of another format than RGB of 8 bits: the jitter is then of brightness and contrast alone.

        Raises:
            ValueError: A policy is set.
        """
        if self.policy:
            raise ValueError(f"data.policy={self.policy} changes RGB of 8 bits, not {format}; set data.policy=null")
        self.pixels = format
        if self.erase:
            self.erase.value = list(map(float, fill_of(format)))

    def __call__(self, data: bytes, name: str, side: int, random: np.random.Generator) -> np.ndarray:
        """Decode a file and augment.

        Args:
            data: The image file's bytes.
            name: File name, for errors.
            side: Side of the result, px.
            random: Generator of all random numbers.

        Returns:
            (side, side, 3) uint8 RGB.

        Raises:
            ValueError: The bytes are no image, or damaged.
        """
        image = resize_image(self._cropped(data, name, side, random), (side, side))
        if random.random() < self.flip:
            image = flip_channels(image)
        if not self.pixels.is_rgb:
            return self._changed(image, random)
        if self.changes or self.erase:
            with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
                torch.default_generator.manual_seed(int(random.integers(2**63)))
                if self.changes:
                    picture = Image.fromarray(image)
                    for change in self.changes:
                        picture = change(picture)
                    image = np.array(picture)
                if self.erase:
                    self.erase(torch.from_numpy(image).permute(2, 0, 1))
        return image

    def _changed(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Jitter and erase in any format."""
        if self.color:
            image = jitter_channels(image, self.pixels.white, random, brightness=self.color, contrast=self.color)
        if self.erase:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(random.integers(2**63)))
                values = self.erase(torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1))
            image = values.permute(1, 2, 0).numpy().astype(image.dtype)
        return image

    def _cropped(self, data: bytes, name: str, side: int, random: np.random.Generator) -> np.ndarray:
        """Decode the crop of an image, at a reduced size where that is enough."""
        size = jpeg_size(data) if self.pixels.is_rgb else None
        if size:
            top, left, height, width = self.crop(size, random)
            reduction = next((factor for factor in (8, 4, 2) if min(height, width) >= factor * side), 1)
            image = decode_image(data, name, reduction=reduction)
            if image.shape[:2] == tuple(-(-extent // reduction) for extent in size):
                edges = (top, top + height, left, left + width)
                top, bottom, left, right = ((edge + reduction // 2) // reduction for edge in edges)
                return image[top:bottom, left:right]
        # No JPEG, or one whose header says one thing to PIL and another to OpenCV.
        image = decode_pixels(data, name, self.pixels)
        top, left, height, width = self.crop(image.shape[:2], random)
        return image[top : top + height, left : left + width]

    def crop(self, size: Sequence[int], random: np.random.Generator) -> Box:
        """Draw a crop of an image of (H, W) px; after ten that do not fit, take the middle, as torchvision does."""
        area, (rows, columns) = size[0] * size[1], size
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            target, shape = area * random.uniform(*self.scale), math.exp(random.uniform(low, high))
            height, width = round(math.sqrt(target / shape)), round(math.sqrt(target * shape))
            if 0 < height <= rows and 0 < width <= columns:
                top, left = random.integers(rows - height + 1), random.integers(columns - width + 1)
                return int(top), int(left), height, width
        height = min(rows, max(1, round(columns / self.ratio[0])))
        width = min(columns, max(1, round(rows * self.ratio[1])))
        return (rows - height) // 2, (columns - width) // 2, height, width
