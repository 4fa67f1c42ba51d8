"""Text from a file is data: whatever a name holds, it reaches no terminal, spreadsheet or page as code."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from io import StringIO
from typing import Any

import pytest

from modelinspect.render.display import html_of, rich_of
from modelinspect.render.output import FORMATS, Terminal, write_sheet
from modelinspect.render.to_markdown import escaped
from modelinspect.render.views.count import count_card, count_rows
from modelinspect.render.views.params import params_sheet

HOSTILE = {
    "ansi": "a\x1b[31mred",
    "osc 8": "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
    "c1": "a\x9b31m",
    "bidi": "weight\u202egpj.exe",
    "isolate": "\u2066x\u2069",
    "zero width": "wei\u200bght",
    "lines": "a\nb\r\nc\u2028d",
    "tabs": "a\tb\x0bc",
    "null": "a\x00b",
    "surrogate": "a\ud800b",
    "tag": "a\U000e0041",
    "delete": "a\x7fb",
    "bom": "\ufeffa",
    "markup": "[red]a[/red] [link=http://evil]b[/link]",
    "markdown": "a|b`c`*d* _e_ [x](http://evil) ![y](z) <img src=x onerror=alert(1)> \\",
    "html": "</td></table><script>alert(1)</script>&amp;'\"",
    "formula": '=HYPERLINK("http://evil","x")',
    "percent": "%s%d%(x)s {0} {x}",
}
OURS = re.compile(r"\x1b\[[0-9;]*m")


def written(sheet: Any, form: Any, *, width: int | None = None, colour: bool = False) -> str:
    """The sheet in that form."""
    stream = StringIO()
    write_sheet(sheet, form, stream, terminal=Terminal(width, colour))
    return stream.getvalue()


def is_harmless(text: str) -> bool:
    """No control, format, surrogate or separator character but blanks, tabs and ends of lines."""
    harmful = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return not any(unicodedata.category(char) in harmful and char not in "\n\t" for char in text)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("tree", [False, True])
def test_no_control_character_gets_out(samples: Any, name: str, form: str, tree: bool) -> None:
    """In no form does a control or bidirectional character of a name, target or section remain."""
    table = samples.named(name, "other").table
    table = type(table)(name, table.tensors, "file", section=name, modules={"": name})
    sheet = params_sheet(samples.report(table, tree=tree))
    text = written(sheet, form)
    assert is_harmless(text)
    assert "\r" not in text
    text.encode("utf-8")


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("width", [None, 20, 80])
def test_no_control_character_gets_out_in_colour(samples: Any, name: str, width: int | None) -> None:
    """The only escape sequences are our own colours, and markup in a name stays text."""
    sheet = params_sheet(samples.named(name, "other"))
    text = written(sheet, "table", width=width, colour=True)
    assert OURS.search(text)
    assert is_harmless(OURS.sub("", text))
    assert OURS.sub("", text) == written(sheet, "table", width=width)


def test_markup_is_shown_as_it_is(samples: Any) -> None:
    """Rich markup and emoji codes in a name are shown, not interpreted."""
    name = "[red]a[/red] :smile:"
    assert name in OURS.sub("", written(params_sheet(samples.named(name)), "table", colour=True))


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_rows_stay_rows(samples: Any, name: str) -> None:
    """A name can't add a row or a column to plain, CSV or TSV."""
    sheet = params_sheet(samples.named(name, "other"))
    plain = written(sheet, "plain").split("\n")
    assert len(plain) == 3
    assert {line.count("\t") for line in plain[:2]} == {7}
    for form, delimiter in (("csv", ","), ("tsv", "\t")):
        text = written(sheet, form)
        assert text.count("\n") == 3
        assert [len(row) for row in csv.reader(StringIO(text), delimiter=delimiter)] == [8, 8, 8]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-weight", "'-weight"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "\\x09=1"),
        ("\r=1", "\\x0d=1"),
        ("＝1", "'＝1"),
        ("a=1", "a=1"),
        ("0.weight", "0.weight"),
    ],
)
def test_formulas_are_neutralised(samples: Any, name: str, cell: str) -> None:
    """A text that a spreadsheet would run begins with an apostrophe; numbers and others don't."""
    row = list(csv.reader(StringIO(written(params_sheet(samples.named(name)), "csv"))))[1]
    assert row[0] == cell
    assert row[3:5] == ["6", "24"]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_json_gives_names_back(samples: Any, name: str) -> None:
    """JSON is ASCII, and reading it gives the very name, lone surrogates included."""
    sheet = params_sheet(samples.named(name))
    text = written(sheet, "json")
    assert text.isascii()
    assert json.loads(text)["tensors"][0]["name"] == name
    assert json.loads(written(sheet, "jsonl"))["name"] == name


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_markdown_cells_stay_cells(samples: Any, name: str) -> None:
    """In Markdown each row keeps its cells, and no character of a name is active."""
    rows = [
        line for line in written(params_sheet(samples.named(name)), "markdown").split("\n") if line[:1] == "|"
    ]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}
    assert "<img" not in "".join(rows)
    assert "<script" not in "".join(rows)


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("model.layers.0.q_proj.weight", "model.layers.0.q_proj.weight"),
        ("a|b", "a\\|b"),
        ("`x`", "\\`x\\`"),
        ("__init__", "\\_\\_init\\_\\_"),
        ("a*b*", "a\\*b\\*"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("[x](y)", "\\[x\\](y)"),
        ("a\\", "a\\\\"),
        ("https://x www.y", "https\\://x www\\.y"),
        ("a\nb", "a\\\\x0ab"),
    ],
)
def test_markdown_escapes(text: str, markdown: str) -> None:
    """Each active character is escaped, and usual names are left as they are."""
    assert escaped(text) == markdown


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_html_is_inert(samples: Any, name: str) -> None:
    """A notebook gets no tag that is not ours."""
    table = samples.named(name).table
    report = samples.report(type(table)(name, table.tensors, "file"))
    text = html_of(report)
    tags = set(re.findall(r"</?([a-z]+)", text))
    assert tags <= {"table", "caption", "b", "thead", "tbody", "tfoot", "tr", "th", "td", "br"}
    assert is_harmless(text)
    assert rich_of(report) is not None


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("form", FORMATS)
def test_cards_are_harmless_too(samples: Any, name: str, form: str) -> None:
    """Targets and tied names in a count are escaped in every form."""
    storage = samples.tensor("x").storage
    table = samples.named().table
    tensors = [samples.tensor(f"{name}{i}", storage=storage) for i in range(3)]
    from modelinspect.analysis.count import count_table

    report = count_table(type(table)(name, tensors, "file", section=name), by="prefix")
    for sheet in (*count_card(report), count_rows([report, report])):
        assert is_harmless(written(sheet, form, width=60))
