"""Read text files of any system's encoding and line ends."""

import codecs
from pathlib import Path

from tasks.values.errors import DataError

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(file: Path) -> str:
    """Read UTF-8, or UTF-16 that begins with a byte-order mark, with line ends of any system as "\\n".

    Raises:
        DataError: The file is neither UTF-8 nor such UTF-16.
    """
    content = file.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text: {error}; save it as UTF-8") from error


def read_lines(file: Path) -> list[str]:
    """Read the lines of a text file, stripped; empty ones are left out."""
    return [line.strip() for line in read_text(file).split("\n") if line.strip()]
