"""The report of a data set: one self-contained page, with examples of each finding."""

import base64
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from vitrail.client import InvalidArgument
from vitrail.client.sources import Source
from vitrail.server.decode import ImageLimits, decode, thumbnail
from vitrail.training.findings import Findings, counts, sizes, warnings
from vitrail.training.photos import SPLITS, Photo

SIDE = 160
EXAMPLES = 12
"""Of each finding, so that the page stays one that a browser opens."""
IN_A_ROW = 8


class Shown(NamedTuple):
    """A photo on the page."""

    photo: Photo
    note: str
    image: str
    """A data URI; "" where it is gone."""


class Finding(NamedTuple):
    """What was found, how often, and examples of it: a row each."""

    title: str
    meaning: str
    found: int
    rows: Sequence[Sequence[Shown]]


def page(title: str, source: Source, findings: Findings, table: Sequence[Photo]) -> str:
    """Write the report.

    Args:
        title: What was examined.
        source: Where the photos are.
        findings: What was found.
        table: The photos of the table that was made.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("vitrail.training").joinpath("dataset.html.jinja").read_text("utf-8"))
    return template.render(
        title=title,
        photos=len(findings.seen) + len(findings.failed),
        before=counts([each.photo for each in findings.seen]),
        after=counts(table),
        splits=SPLITS,
        sizes=sizes(findings.seen),
        warnings=warnings([each.photo for each in findings.seen]),
        failed=findings.failed,
        findings=list(_findings(source, findings)),
    )


def _findings(source: Source, findings: Findings) -> Iterator[Finding]:
    exact = [group for group in findings.groups if group.is_exact]
    near = [group for group in findings.groups if not group.is_exact]
    for title, meaning, groups in (
        ("In more than one split", "What is measured on one of them was seen in training.", findings.across),
        ("With more than one label", "One of the labels is wrong, or both are true.", findings.conflicts),
        ("The same file", "Byte for byte.", exact),
        ("The same picture", "Encoded, scaled, cut or coloured otherwise.", near),
    ):
        rows = [[_shown(source, photo) for photo in group.photos[:IN_A_ROW]] for group in groups[:EXAMPLES]]
        yield Finding(title, meaning, len(groups), rows)
    strangest = [_shown(source, one.photo, f"cosine {one.cosine:.2f}") for one in findings.outliers[: 2 * EXAMPLES]]
    meaning = "The photos that are most like them are not much like them. Rare, or none of this set."
    yield Finding("Like no other", meaning, len(findings.outliers), [strangest] if strangest else [])


def _shown(source: Source, photo: Photo, note: str = "") -> Shown:
    try:
        small = thumbnail(decode(source.read(photo.id), ImageLimits(), SIDE), SIDE)
    except (OSError, InvalidArgument):  # it was there when it was examined
        return Shown(photo, note, "")
    return Shown(photo, note, f"data:image/jpeg;base64,{base64.b64encode(small).decode()}")
