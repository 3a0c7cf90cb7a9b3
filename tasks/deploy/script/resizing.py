"""How a generated run.py resizes a picture, (h, w, 3) uint8 RGB, to an input of (H, W) px, as its manifest says."""

import numpy as np
from PIL import Image


def resized_centre(image, size, resizing):
    """The shorter side becomes so many px, then the centre is cut out; by Pillow, which widens the kernel itself."""
    picture, side = Image.fromarray(image), resizing["shorter_side"]
    width, height = (side * extent // min(picture.size) for extent in picture.size)
    picture = picture.resize((width, height), Image.Resampling[resizing["kernel"].upper()])
    left, top = round((width - size[1]) / 2), round((height - size[0]) / 2)
    return np.array(picture.crop((left, top, left + size[1], top + size[0])))


def resized_averaged(image, size, resizing):
    """Bilinear with antialiasing: averages over a triangle as wide as the shrink, all in float32."""

    def averaged(lines, new):
        old = len(lines)
        scale = np.float32(old) / np.float32(new)
        centres = (np.float64(scale) * (np.arange(new) + 0.5)).astype(np.float32)
        offsets = (np.arange(old, dtype=np.float32) - centres[:, None]).astype(np.float64) + 0.5
        shares = (1 - np.abs((offsets * np.float64(1 / max(scale, np.float32(1)))).astype(np.float32))).clip(0)
        shares /= shares.cumsum(1)[:, -1:]
        totals = np.zeros((new, *lines.shape[1:]), np.float32)
        for total, own in zip(totals, shares.astype(float), strict=True):
            for place in own.nonzero()[0]:  # one after the other, each sum rounded
                total[:] = total + own[place] * lines[place]
        return totals

    columns = averaged(image.swapaxes(0, 1), size[1])
    return averaged(columns.swapaxes(0, 1), size[0])


def resized_sampled(image, size, resizing):
    """Averages by area where the picture shrinks by more than so much, else bilinear with OpenCV's whole numbers."""

    def areas(old, new):
        edges, lines = np.arange(new + 1) * old / new, np.arange(old)
        shares = np.minimum(edges[1:, None], lines + 1) - np.maximum(edges[:-1, None], lines)
        return shares.clip(0) * new / old

    def neighbours(old, new):
        places = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
        low = np.floor(places).astype(int)
        shares = np.rint(np.stack([1 + low - places, places - low]) * 2048).astype(int)
        return low.clip(0, old - 1), (low + 1).clip(0, old - 1), *shares[..., None, None]

    shrink = np.divide(image.shape[:2], size)
    if shrink.max() > resizing["area_above"] and shrink.min() >= 1:
        rows = np.tensordot(areas(image.shape[0], size[0]), image, 1)
        return np.rint(areas(image.shape[1], size[1]) @ rows).astype(np.uint8)
    image = image.astype(int)
    left, right, before, after = neighbours(image.shape[1], size[1])
    rows = image[:, left] * before[:, 0] + image[:, right] * after[:, 0] >> 4
    top, bottom, above, below = neighbours(image.shape[0], size[0])
    return ((rows[top] * above >> 16) + (rows[bottom] * below >> 16) + 2 >> 2).astype(np.uint8)
