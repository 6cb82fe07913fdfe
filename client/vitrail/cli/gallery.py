r"""Queries and what was found for them, as pictures: one self-contained HTML page, or one PNG.

    write(Path("out.html"), [Row("red hat", query_bytes, [Picture("0.93\nhats/a.jpg", hit_bytes, True)])])

Captions: the first line stands out (the score), the second is small (the id). What is highlighted, the correct
hits, is outlined in green. A picture that is missing or cannot be decoded is a grey card with its caption.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

SIDE = 220
"""Pixels of the longer side of a picture."""


class Picture(NamedTuple):
    caption: str
    image: bytes | None
    highlighted: bool = False


class Row(NamedTuple):
    title: str
    query: bytes | None
    hits: Sequence[Picture]


def write(path: Path, rows: Sequence[Row], *, title: str = "Vitrail") -> None:
    """Write a gallery in the format that the suffix names, .png or else .html.

    Raises:
        OSError: The file cannot be written.
    """
    if path.suffix.lower() == ".png":
        draw(rows, title).save(path, "PNG")
    else:
        path.write_text(page(rows, title), encoding="utf-8")


def thumbnail(image: bytes | None) -> Image.Image | None:
    """Decode a picture, upright and small; None where that fails."""
    try:
        with Image.open(io.BytesIO(image or b"")) as opened:
            opened.draft("RGB", (2 * SIDE, 2 * SIDE))
            picture = ImageOps.exif_transpose(opened)
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            return _on_white(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _lines(caption: str) -> tuple[str, str]:
    first, _, rest = caption.partition("\n")
    return first, rest


# HTML

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --dim: #6e6e73; --paper: #fafafa; --card: #fff;
  --line: #e3e3e6; --good: #1a9c4b; --query: #3b6fe0; }
@media (prefers-color-scheme: dark) { :root { --ink: #f2f2f4; --dim: #9a9aa0; --paper: #161618;
  --card: #222225; --line: #36363a; --good: #3ecf77; --query: #7aa2ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem); max-width: 1800px; background: var(--paper);
  color: var(--ink); font: 15px/1.4 system-ui, sans-serif; }
h1 { font-size: 1.5rem; font-weight: 650; margin: 0 0 1.5rem; }
h2 { font-size: 1rem; font-weight: 600; margin: 0 0 .75rem; }
section { padding: 1.25rem 0 1.75rem; border-top: 1px solid var(--line); }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
figure { margin: 0; padding: 6px; min-width: 0; background: var(--card); border-radius: 10px;
  outline: 1px solid var(--line); }
figure.good { outline: 3px solid var(--good); }
figure.query { outline: 3px dashed var(--query); }
figure img, .card { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px; }
.card { display: grid; place-items: center; padding: 8px; background: #9a9aa033; color: var(--dim);
  font-size: 12px; overflow-wrap: anywhere; text-align: center; }
figcaption { padding: 6px 2px 0; }
figcaption b { display: block; font-variant-numeric: tabular-nums; font-weight: 600; }
figure.good b::after { content: " ✓"; color: var(--good); }
figure.query b { color: var(--query); }
figcaption small { display: block; color: var(--dim); overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
"""


def page(rows: Iterable[Row], title: str) -> str:
    """The gallery as one HTML page, its pictures inside."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{''.join(map(section, rows))}</body></html>\n"
    )


def section(row: Row) -> str:
    figures = [_figure(Picture("query", row.query), "query")]
    figures += [_figure(hit, "good" if hit.highlighted else "") for hit in row.hits]
    return f"<section><h2>{html.escape(row.title)}</h2><div class='grid'>{''.join(figures)}</div></section>\n"


def _figure(picture: Picture, kind: str) -> str:
    first, rest = map(html.escape, _lines(picture.caption))
    small = thumbnail(picture.image)
    shown = f"<img alt='' loading='lazy' src='{_data_uri(small)}'>" if small else _card(rest or first)
    caption = f"<b>{first}</b>" + (f"<small title='{rest}'>{rest}</small>" if rest else "")
    return f"<figure class='{kind}'>{shown}<figcaption>{caption}</figcaption></figure>"


def _card(text: str) -> str:
    return f"<div class='card'>{text}</div>"


def _data_uri(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


# PNG

COLUMNS = 10
"""Hits beside each other; more wrap."""
GAP, MARGIN, PAD = 16, 36, 7
TILE = SIDE + 2 * PAD
CAPTION = 48
HEADING, TITLE = 48, 64
INK, DIM, PAPER, CARD, LINE = "#1d1d1f", "#6e6e73", "#fafafa", "#ffffff", "#e3e3e6"
GREY, GOOD, QUERY = "#e4e4e8", "#1a9c4b", "#3b6fe0"

FONTS = ("DejaVuSans.ttf", "Arial.ttf", "Helvetica.ttc")
"""Tried in turn, since the font that comes with Pillow has no accents."""


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def draw(rows: Sequence[Row], title: str) -> Image.Image:
    """The gallery as one picture: a row a query, the query at the left."""
    columns = 1 + min(COLUMNS, max((len(row.hits) for row in rows), default=0))
    width = 2 * MARGIN + columns * (TILE + GAP)
    canvas = Image.new("RGB", (width, 2 * MARGIN + TITLE + sum(map(_height, rows))), PAPER)
    brush = ImageDraw.Draw(canvas)
    brush.text((MARGIN, MARGIN), title, INK, _font(32))
    top = MARGIN + TITLE
    for row in rows:
        brush.line((MARGIN, top, width - MARGIN - GAP, top), LINE)
        brush.text((MARGIN, top + 13), row.title, INK, _font(18))
        _draw_row(canvas, brush, row, top + HEADING)
        top += _height(row)
    return canvas


def _height(row: Row) -> int:
    lines = max(1, -(-len(row.hits) // COLUMNS))
    return HEADING + lines * (TILE + CAPTION + GAP) + GAP


def _draw_row(canvas: Image.Image, brush: ImageDraw.ImageDraw, row: Row, top: int) -> None:
    _draw_tile(canvas, brush, Picture("query", row.query), (MARGIN, top), QUERY)
    for place, hit in enumerate(row.hits):
        line, column = divmod(place, COLUMNS)
        corner = (MARGIN + (1 + column) * (TILE + GAP), top + line * (TILE + CAPTION + GAP))
        _draw_tile(canvas, brush, hit, corner, GOOD if hit.highlighted else "")


def _draw_tile(
    canvas: Image.Image, brush: ImageDraw.ImageDraw, picture: Picture, corner: tuple[int, int], outline: str
) -> None:
    left, top = corner
    box = (left, top, left + TILE, top + TILE + CAPTION)
    brush.rounded_rectangle(box, 12, CARD, outline or LINE, width=4 if outline else 1)
    first, rest = _lines(picture.caption)
    small = thumbnail(picture.image)
    if small is None:
        inner = (left + PAD, top + PAD, left + PAD + SIDE, top + PAD + SIDE)
        brush.rounded_rectangle(inner, 8, GREY)
        _text(brush, (left + 2 * PAD, top + TILE // 2), rest or first, DIM, 15, SIDE - 2 * PAD)
    else:
        at = (left + (TILE - small.width) // 2, top + (TILE - small.height) // 2)
        canvas.paste(small, at)
    _text(brush, (left + PAD + 3, top + TILE), first, outline or INK, 17, SIDE - 6)
    _text(brush, (left + PAD + 3, top + TILE + 23), rest, DIM, 13, SIDE - 6)


def _text(brush: ImageDraw.ImageDraw, at: tuple[int, int], text: str, color: str, size: int, room: int) -> None:
    """Write a line, its beginning left out where there is no room: the end of an id says more."""
    font = _font(size)
    if font.getlength(text) > room:
        while text and font.getlength("…" + text) > room:
            text = text[1:]
        text = "…" + text
    brush.text(at, text, color, font)
