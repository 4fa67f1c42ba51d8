"""`bytes` for people, for scripts and as JSON, from reports made by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from modelinspect.analysis.duplicates import Duplicate
from modelinspect.analysis.footprint import FileTotal, FootprintLine, FootprintReport, Remedy
from modelinspect.render.output import Format, Terminal, write_sheets
from modelinspect.render.sheet import Sheet
from modelinspect.render.views.bytes import bytes_lines, bytes_plain, bytes_table

LINES = (
    FootprintLine("tensors", "model", "model", "parameters", 4_000_000, 48),
    FootprintLine("tensors", "optimizer", "optimizer", "exp_avg", 4_000_000, 48),
    FootprintLine("tensors", "optimizer", "optimizer", "exp_avg_sq", 4_000_000, 48),
    FootprintLine("tensors", "optimizer", "optimizer", "step", 192, 48),
    FootprintLine("contents", "objects", "", "data.pkl", 21_007, 0, "all that is no tensor: epoch, args"),
    FootprintLine("container", "header", "", "zip: directory", 9_800),
    FootprintLine("container", "header", "", "zip: headers of records", 9_900),
    FootprintLine("container", "alignment", "", "alignment of records", 5_101),
    FootprintLine("waste", "slack", "model", "slack of views", 1_000_000),
    FootprintLine("waste", "unclaimed", "", "bytes after the archive", 50),
)


def report() -> FootprintReport:
    """A training's checkpoint with slack."""
    total = sum(line.nbytes for line in LINES)
    groups = {"tensors": 12_000_192, "contents": 21_007, "container": 24_801, "waste": 1_000_050}
    return FootprintReport(
        target="last.pt",
        format="torch-zip",
        nbytes=total,
        lines=LINES,
        files=(FileTotal("runs/last.pt", total, groups),),  # type: ignore[arg-type]
        duplicates=(
            Duplicate(("model.a", "ema.a"), 40_000, "checksum"),
            Duplicate(("a", "b", "c", "d", "e"), 400, "values"),
            Duplicate(("z0", "z1"), 96, "checksum", "zeros"),
        ),
        remedies=(
            Remedy("save without the optimizer", 8_000_192),
            Remedy(".clone() before saving, of views of larger storages: model.rows and 3 more", 999_900),
        ),
        bytes_read=31_000,
        notes=("without bytes in the files: 1 tensor",),
    )


def text(sheets: tuple[Sheet, ...], form: Format, width: int | None = None, encoding: str = "utf-8") -> str:
    """What a sink writes."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    write_sheets(sheets, form, stream, terminal=Terminal(width, False))
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 200])
def test_a_table_on_a_terminal(golden: Callable[[str, str], None], width: int) -> None:
    """Groups, lines, shares and bars; the size of the file, remedies and duplicates below."""
    golden(f"bytes-{width}", text(bytes_table(report()), "table", width))


def test_a_folder_has_a_row_a_file(golden: Callable[[str, str], None]) -> None:
    """Several files: a second table, the largest first, its columns the groups."""
    one = report()
    files = (
        FileTotal("m/a.safetensors", 5_000_000, {"tensors": 4_000_000, "waste": 1_000_000}),
        FileTotal("m/b.safetensors", one.nbytes - 5_000_000, {"tensors": one.nbytes - 5_000_000}),
    )
    golden("bytes-files-80", text(bytes_table(replace(one, files=files)), "table", 80))


def test_plain_lines_are_key_and_bytes() -> None:
    """They add up to the file, and each key is one word that stands once."""
    lines = [line.split("\t") for line in text((bytes_plain(report()),), "plain").splitlines()]
    assert sum(int(nbytes) for _, nbytes in lines) == report().nbytes
    keys = [key for key, _ in lines]
    assert keys[0] == "model.parameters"
    assert keys[-2:] == ["slack.model.slack-of-views", "unclaimed.bytes-after-the-archive"]
    assert len(set(keys)) == len(keys)
    assert not any(" " in key for key in keys)


def test_json_holds_everything() -> None:
    """Raw figures: size, waste, groups, files, remedies, duplicates and lines."""
    document = json.loads(text((bytes_lines(report()),), "json"))
    assert document["report"] == "bytes"
    assert document["bytes"] == sum(line["bytes"] for line in document["lines"])
    assert document["waste"] == 1_000_050 + 40_000 + 4 * 400
    assert document["groups"]["container"] == 24_801
    assert document["files"][0]["path"] == "runs/last.pt"
    assert document["remedies"][0] == {
        "remedy": "save without the optimizer", "saves": 8_000_192, "share": 8_000_192 / document["bytes"],
        "tensors": [],
    }  # fmt: skip
    assert document["duplicates"][2] == {
        "names": ["z0", "z1"], "bytes": 96, "evidence": "checksum", "fill": "zeros",
    }  # fmt: skip
    assert document["lines"][1] == {
        "key": "optimizer.exp_avg", "bytes": 4_000_000, "share": 4_000_000 / document["bytes"],
        "group": "tensors", "kind": "optimizer", "section": "optimizer", "label": "exp_avg", "tensors": 48,
        "remark": "",
    }  # fmt: skip
    unknown = json.loads(text((bytes_lines(replace(report(), duplicates=None)),), "json"))
    assert unknown["duplicates"] is None


def test_a_bar_is_ascii_where_the_stream_is() -> None:
    """A terminal without Unicode gets a bar of number signs, and nothing it can't show."""
    shown = text(bytes_table(report()), "table", 120, "ascii")
    assert "##################" in shown
    assert "\\u" not in shown


def test_hostile_names_are_shown_escaped() -> None:
    """Names of sections, records and tensors come from a file."""
    bad = "x\x1b]8;;evil\x07\u202e"
    line = FootprintLine("tensors", "other", bad, bad, 1, 1, bad)
    one = replace(
        report(), target=bad, lines=(line,), nbytes=1, duplicates=(Duplicate((bad, bad), 1, "values"),)
    )
    for form, sheets in (
        ("table", bytes_table(one)),
        ("plain", (bytes_plain(one),)),
        ("csv", (bytes_lines(one),)),
        ("markdown", bytes_table(one)),
    ):
        shown = text(sheets, form, 100)  # type: ignore[arg-type]
        assert shown.translate({9: "", 10: "", 13: ""}).isprintable()
