"""Write TIFFs of any number of channels, in the layouts that cameras and GIS programs write."""

import struct
import zlib

import cv2
import numpy as np


def encode_tiff(
    pixels: np.ndarray, *, planar: bool = False, deflate: bool = False, differences: bool = False,
    tile: int | None = None, rows: int = 5, order: str = "<", big: bool = False, rgb: bool = False, **other: list[int],
) -> bytes:  # fmt: skip
    """Encode (H, W, C) integers; `tile`: side of tiles, px; `rows`: of a strip; `other`: tags by name, "t259"."""
    height, width, channels = pixels.shape
    planes = list(pixels.transpose(2, 0, 1)[..., None]) if planar else [pixels]
    chunks = []
    for plane in planes:
        if tile:
            padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
            parts = [padded[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]
        else:
            parts = [plane[y : y + rows] for y in range(0, height, rows)]
        for part in parts:
            if differences:
                part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1]))
            raw = part.astype(part.dtype.newbyteorder(order)).tobytes()
            chunks.append(zlib.compress(raw) if deflate else raw)
    start = 16 if big else 8
    offsets = (start + np.cumsum([0, *map(len, chunks)])[:-1]).tolist()
    tags = {
        256: [width], 257: [height], 258: [8 * pixels.itemsize] * channels, 259: [8 if deflate else 1],
        262: [2 if rgb else 1], 277: [channels], 284: [2 if planar else 1], 339: [1] * channels,
    }  # fmt: skip
    if differences:
        tags[317] = [2]
    sizes = list(map(len, chunks))
    tags |= {322: [tile], 323: [tile], 324: offsets, 325: sizes} if tile else {273: offsets, 278: [rows], 279: sizes}
    tags |= {int(key[1:]): values for key, values in other.items()}
    place = start + sum(sizes)
    place += place % 2
    count, field, code, entry = ("Q", "Q", 16, 20) if big else ("H", "I", 4, 12)
    values = place + struct.calcsize(f"={count}") + entry * len(tags) + struct.calcsize(f"={field}")
    more, entries = b"", b""
    for tag, numbers in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(numbers)}{field}", *numbers)
        entries += struct.pack(f"{order}HH{field}", tag, code, len(numbers))
        if len(numbers) > 1:
            entries += struct.pack(f"{order}{field}", values + len(more))
            more += raw
        else:
            entries += raw.ljust(8 if big else 4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    header = mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, place) if big else struct.pack(f"{order}HI", 42, place))
    body = b"".join(chunks)
    directory = struct.pack(f"{order}{count}", len(tags)) + entries + bytes(8 if big else 4)
    return header + body + bytes(len(body) % 2) + directory + more


def deepen(root) -> None:
    """Turn the PNGs of a set into TIFFs, their colours in channels 8, 2 and 5 of a sensor of 12 bits."""
    for path in [path for path in root.rglob("*.png") if "masks" not in path.parts]:
        pixels = np.full((*cv2.imread(str(path)).shape[:2], 8), 700, np.uint16)
        pixels[..., [7, 1, 4]] += cv2.imread(str(path)).astype(np.uint16)[..., ::-1] * 12
        path.with_suffix(".tif").write_bytes(encode_tiff(pixels, deflate=True, differences=True))
        path.unlink()
    for path in root.rglob("*.json"):
        path.write_text(path.read_text().replace(".png", ".tif"))
