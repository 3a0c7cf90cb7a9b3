"""Find image formats that alter class ids."""

from contextlib import suppress
from pathlib import Path

from PIL import Image

PNG, TIFF = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*")
COMPRESSION, LOSSY_TIFF = 259, (6, 7, 34892, 34712, 33003, 33005, 50001)  # JPEG, JPEG 2000, WebP


def lossy_format(file: Path) -> str | None:
    """Name the lossy format of an image file by its header; None where the format is lossless.

    Lossy are JPEG, JPEG 2000 unless reversible, lossy WebP, AVIF, HEIF, and TIFF compressed by one of these.
    """
    with file.open("rb") as stream:
        head = stream.read(64)
        if head.startswith(PNG):
            return None
        if head.startswith(b"\xff\xd8"):
            return "JPEG"
        if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"):
            return "AVIF or HEIF"
        rest = head + stream.read(1 << 16) if head[:4] in (b"RIFF", b"\xff\x4f\xff\x51", b"\0\0\0\x0c") else head
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "lossy WebP" if b"VP8 " in rest and b"VP8L" not in rest else None
    style = rest.find(b"\xff\x52")  # JPEG 2000's coding style, whose 13th byte names the wavelet: 1 is reversible
    if head != rest and style >= 0 and rest[style + 13 : style + 14] == b"\0":
        return "lossy JPEG 2000"
    if head.startswith(TIFF):
        with suppress(Exception), Image.open(file) as image:  # PIL raises whatever comes up in a damaged file
            return "TIFF with lossy compression" if image.tag_v2.get(COMPRESSION) in LOSSY_TIFF else None
    return None
