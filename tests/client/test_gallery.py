import re
from pathlib import Path

import numpy as np
from PIL import Image
from tests.client.pictures import encoded, photo

from vitrail.cli.gallery import GOOD, QUERY, SIDE, Picture, Row, draw, page, thumbnail, write

HITS = [Picture("0.9\na", photo(1), True), Picture("0.8\nb", photo(2)), Picture("0.7\nlost", None)]
ROW = Row("a query", photo(0), HITS)


def count(image: Image.Image, color: str) -> int:
    wanted = tuple(bytes.fromhex(color[1:]))
    return int((np.asarray(image) == wanted).all(axis=2).sum())


def test_the_page_is_self_contained() -> None:
    """Query and hits are inside the page, which refers to nothing outside."""
    text = page([ROW], "Vitrail")
    assert text.count("src='data:image/jpeg;base64,") == 3
    assert not re.search(r"(?:src|href)=.(?!data:)", text)
    assert text.count("class='good'") == 1
    assert "<div class='card'>lost</div>" in text


def test_the_page_escapes_what_users_wrote() -> None:
    """An id or a title is never read as HTML."""
    text = page([Row("<b>", None, [Picture("0.5\n<script>'\"", None)])], "<i>")
    assert "<script" not in text
    assert "<b>&lt;" not in text.split("<h2>")[0]
    assert "&lt;script&gt;&#x27;&quot;" in text


def test_the_picture_outlines_the_correct() -> None:
    """The query stands in its own colour, the correct hits are outlined in green, the others are not."""
    drawn = draw([ROW], "Vitrail")
    plain = draw([Row("a query", photo(0), [hit._replace(highlighted=False) for hit in HITS])], "Vitrail")
    assert count(drawn, QUERY) > 1000
    assert count(drawn, GOOD) > 1000
    assert count(plain, GOOD) == 0


def test_rows_wrap() -> None:
    """Ten hits stand beside each other; more go beneath, and none is cut off."""
    ten, eleven = (draw([Row("q", None, [Picture("x", None)] * n)], "t") for n in (10, 11))
    assert ten.width == eleven.width
    assert eleven.height > ten.height + SIDE


def test_no_rows() -> None:
    """Nothing to show is shown as nothing."""
    assert draw([], "Vitrail").height > 0
    assert "<section" not in page([], "Vitrail")


def test_pictures_that_cannot_be_decoded() -> None:
    """Junk, truncated and missing pictures are cards, not errors."""
    assert thumbnail(None) is thumbnail(b"") is thumbnail(b"junk") is thumbnail(photo()[:-100]) is None


def test_pictures_of_other_modes() -> None:
    """A transparent picture stands on white, a CMYK one is converted, a turned one is upright."""
    clear = thumbnail(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0))))
    assert clear is not None
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    assert thumbnail(encoded(Image.new("CMYK", (4, 4)), "JPEG")) is not None
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = thumbnail(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif))
    assert turned is not None
    assert turned.size == (10, 20)


def test_the_suffix_names_the_format(tmp_path: Path) -> None:
    """A path that ends in .png gives a PNG, any other HTML."""
    write(tmp_path / "a.PNG", [ROW])
    write(tmp_path / "a.html", [ROW])
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
