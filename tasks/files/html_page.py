"""Compose an HTML page that opens from disk: pictures are inside it, all text is escaped, nothing is fetched or run."""

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

LARGE = 400_000  # bytes; larger pictures are embedded as JPEG
WIDTH, QUALITY = 1600, 85  # px at most, of 100: of those
MANY = 40  # rows; longer tables are closed at first
_WHOLE = (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82")  # begin and end of a PNG file
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser then fetches and runs nothing
_STYLE = """
:root { color-scheme: light dark; --ink: #1b2330; --soft: #5d6878; --paper: #fff; --band: #f4f6f9; --line: #dbe1e9;
  --accent: #2257c5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa6b6; --paper: #14181f; --band: #1d232c;
  --line: #333c49; --accent: #8ab0ff; } }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 2.4rem 0 .8rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); font-size: 1.25rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
p, nav, figcaption { color: var(--soft); }
a { color: var(--accent); }
nav a { margin-right: 1.1rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.cards div { padding: .6rem 1.1rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--band); }
.cards b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.wide { margin: .8rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .3rem; color: var(--soft); text-align: left; }
th, td { padding: .2rem .9rem .2rem .5rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { background: var(--band); }
th:first-child, td:first-child, .n { white-space: nowrap; }
.n { text-align: right; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: .3rem;
  background: #fff; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; padding: .8rem; border-radius: .5rem; background: var(--band); font-size: 13px; }
"""


def page(title: str, remark: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """Compose a page with a list of its sections at the top.

    Args:
        title, remark: Text.
        lead: HTML above the sections.
        sections: Titles as text, contents as HTML.
    """
    links = "".join(f'<a href="#s{number}">{escape(name)}</a>' for number, (name, _) in enumerate(sections))
    body = "".join(
        f'<section id="s{number}"><h2>{escape(name)}</h2>\n{content}</section>\n'
        for number, (name, content) in enumerate(sections)
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n<p>{escape(remark)}</p>\n"
        f"<nav>{links}</nav>\n{lead}{body}</body></html>\n"
    )


def paragraph(text: str) -> str:
    """Make a paragraph.

    >>> paragraph("a < b")
    '<p>a &lt; b</p>'
    """
    return f"<p>{escape(text)}</p>"


def cards(entries: Iterable[tuple[str, object]]) -> str:
    """Show a few numbers large, each below its name; nothing where there are none."""
    shown = "".join(f"<div>{escape(name)}<b>{_cell(value)}</b></div>" for name, value in entries)
    return f'<div class="cards">{shown}</div>\n' if shown else ""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Make a table: text to the left, numbers to the right, "–" for None and NaN; nothing where there are no rows."""
    if not rows:
        return ""
    numbers = [all(value is None or _is_number(value) for value in column) for column in zip(*rows, strict=True)]
    kinds = [' class="n"' if number else "" for number in numbers]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_cell(value)}</td>" for kind, value in zip(kinds, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    named = f"<caption>{escape(title)}</caption>" if title and len(rows) <= MANY else ""
    content = f'<div class="wide"><table>{named}<tr>{head}</tr>\n{body}</table></div>\n'
    return content if len(rows) <= MANY else _closed(f"{title}, {len(rows)} rows", content)


def long_text(title: str, text: str) -> str:
    """Show lines as they are, closed at first."""
    return _closed(title, f"<pre>{escape(text)}</pre>")


def picture(path: Path, caption: str) -> str:
    """Embed a PNG file, with a link to the file beside the page; nothing where it is missing or broken.

    Charts keep every pixel; files above 400 kB become JPEG, at most 1600 px wide.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return ""
    kind = "png"
    if not (data.startswith(_WHOLE[0]) and data.endswith(_WHOLE[1])):
        return ""
    if len(data) > LARGE:
        kind, data = "jpeg", _smaller(data)
    if not data:
        return ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure><a href="{escape(path.name)}"><img src="{source}" alt="{escape(caption)}"></a>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _smaller(data: bytes) -> bytes:
    """Encode a picture as JPEG; empty where it cannot be decoded."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        return b""
    height, width = pixels.shape[:2]
    if width > WIDTH:
        size = (WIDTH, max(1, round(height * WIDTH / width)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    encoded, smaller = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return smaller.tobytes() if encoded else b""


def _closed(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n{content}</details>\n"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    """Format a value: a float with four digits after the point, fewer of a large one, three in all of a tiny one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if _is_number(value) else escape(str(value))
