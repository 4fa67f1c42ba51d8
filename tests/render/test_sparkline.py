"""Series of numbers as a line of blocks, and where that line stands."""

from __future__ import annotations

from io import BytesIO, TextIOWrapper
from math import inf, isfinite, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.render.output import write_sheet
from modelinspect.render.sheet import Column, Sheet
from modelinspect.render.sparkline import BLOCKS, BROKEN, sparkline
from modelinspect.render.to_html import html_text
from modelinspect.render.to_markdown import markdown_chunks

NORMS = st.none() | st.floats(0) | st.just(nan)


@given(st.lists(NORMS, max_size=50), st.booleans())
def test_a_character_a_value(values: list[float | None], logarithmic: bool) -> None:
    """Each value has its character in its place, whatever it is, and larger ones are never lower."""
    line = sparkline(values, 50, logarithmic=logarithmic).ljust(len(values))
    assert len(line) == len(values)
    for value, mark in zip(values, line):
        assert (mark == " ") == (value is None)
        assert (mark == BROKEN) == (value is not None and not isfinite(value))
    sound = [(value, mark) for value, mark in zip(values, line) if value is not None and isfinite(value)]
    heights = [BLOCKS.index(mark) for _, mark in sorted(sound)]
    assert heights == sorted(heights)


@given(st.lists(NORMS), st.integers(1, 30))
def test_no_wider_than_asked(values: list[float | None], width: int) -> None:
    """Long series share characters out."""
    assert len(sparkline(values, width)) <= width


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([1.0, 100.0, 1.0, 1.0], 2, "█▁"),  # the larger of two
        ([1.0, None, nan, 100.0, None, None], 3, "▅×"),  # NaN before what is larger; nothing of nothing
        ([1.0] * 10, 4, "▅▅▅▅"),
    ],
)
def test_shared_characters(values: list[float | None], width: int, line: str) -> None:
    """Of values that share a character the largest is drawn, and a broken one before all."""
    assert sparkline(values, width) == line


def test_linear_series() -> None:
    """Losses may be negative and of any size; what does not change lies in the middle."""
    assert sparkline([2.0, 1.0, 0.0, -1.5], logarithmic=False) == "█▆▄▁"
    assert sparkline([-3.0, -3.0], logarithmic=False) == "▅▅"
    assert sparkline([-1.7e308, 1.7e308, inf], logarithmic=False) == "▁█×"


@pytest.mark.parametrize(("encoding", "line"), [("latin-1", "_-~=+*%#"), ("utf-8", BLOCKS)])
def test_streams_without_blocks(encoding: str, line: str) -> None:
    """A stream that lacks the blocks gets characters of growing weight."""
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding=encoding)
    write_sheet(Sheet("x", (Column("h", "h"),), [(BLOCKS,)]), "plain", stream)
    stream.flush()
    assert raw.getvalue().decode(encoding) == f"{line}\n"


def test_blanks_keep_their_places() -> None:
    """HTML and Markdown take no blank of a series away; a name stays as it is."""
    sheet = Sheet("x", (Column("n", "n", "name"), Column("h", "h")), [("a  b", " ▁   █ ▁")])
    for text in (html_text(sheet), "".join(markdown_chunks(sheet))):
        assert "\xa0▁\xa0\xa0\xa0█ ▁" in text
        assert "a  b" in text
