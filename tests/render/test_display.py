"""Reports that show themselves, with rich and in a notebook."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.panel import Panel

from modelinspect import display
from modelinspect.render import to_html
from modelinspect.render.display import html_of, sheets_of
from modelinspect.render.to_lines import lines_chunks
from modelinspect.tensors import Checkpoint, FileInfo


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_installed", ["modelinspect.render.display"])


def reports(samples: Any) -> list[Any]:
    """One of each kind of thing that displays itself."""
    table = samples.regression()
    checkpoint = Checkpoint("f", "torch-zip", (FileInfo("f", 9, 9),), {"": table}, {"": "model"}, "")
    return [samples.report(table), samples.counts()[0], samples.misfit(), table, checkpoint]


def test_rich_prints_what_the_command_shows(samples: Any) -> None:
    """Printing a report with rich gives the table of the command line."""
    for report in reports(samples):
        stream = StringIO()
        Console(file=stream, width=90).print(report)
        expected = "".join(text for sheet in sheets_of(report) for text in lines_chunks(sheet, 90))
        assert stream.getvalue() == expected


def test_rich_fits_a_panel(samples: Any) -> None:
    """A report inside a panel keeps to the panel's width."""
    stream = StringIO()
    Console(file=stream, width=60).print(Panel(samples.report(samples.gpt2())))
    lines = stream.getvalue().splitlines()
    assert {len(line) for line in lines} == {60}
    assert any("transformer.h.{0..11}.mlp.c_proj.weight" in line for line in lines)


def test_notebooks_get_a_table(samples: Any) -> None:
    """Jupyter gets one HTML table with the names and totals."""
    text = samples.report(samples.gpt2())._repr_html_()
    assert text.count("<table>") == text.count("</table>") == 1
    assert "<td style='text-align:left'>transformer.h.{0..11}.ln_1.weight</td>" in text
    assert "124,439,808 (124.4 M) unique parameters" in text
    assert all("<table>" in html_of(report) for report in reports(samples))


def test_notebooks_are_told_what_is_left_out(samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A very long table is shortened in a notebook, and says so."""
    monkeypatch.setattr(to_html, "MOST_ROWS", 3)
    text = html_of(samples.report(samples.regression()))
    assert "2.weight" in text
    assert "2.bias" not in text
    assert "1 more rows are not shown" in text


def test_nothing_installed(samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package's hook a report is shown by its repr."""
    monkeypatch.setattr(display, "_installed", [])
    report = samples.counts()[0]
    assert report.__rich__() == repr(report)
    assert report._repr_html_() is None


def test_install_names_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installing keeps the name; the module is imported when something is shown."""
    monkeypatch.setattr(display, "_installed", [])
    display.install("no.such.module")
    with pytest.raises(ModuleNotFoundError):
        display.Displayed().__rich__()


def test_other_things_have_no_view() -> None:
    """Asking for the view of something else is an error."""
    with pytest.raises(TypeError, match="a int has no view"):
        sheets_of(3)
