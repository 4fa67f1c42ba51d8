"""
Views of :class:`~modelinspect.analysis.footprint.FootprintReport`: a table with shares, lines, records.

JSON (``bytes --json``): ``target``, ``format``; ``bytes``, the size of all files, which the
``bytes`` of ``lines`` add up to; ``waste`` in bytes, ``waste_share`` of all; ``groups``, an object of
``tensors``, ``contents``, ``container``, ``waste`` to bytes; ``files``, a list of objects ``path``,
``bytes``, ``groups``; ``remedies``, a list of objects ``remedy``, ``saves`` in bytes, ``share``,
``tensors`` (names of those to clone);
``duplicates``, null where nothing is known, else a list of objects ``names``, ``bytes`` of each,
``evidence`` (``checksum`` or ``values``), ``fill`` (``zeros``, ``ones``, ``unknown`` or empty);
``bytes_read``; ``lines``, a list of objects ``key``, ``bytes``, ``share``, ``group``, ``kind``,
``section``, ``label``, ``tensors``, ``remark``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from modelinspect.analysis.footprint import Duplicate, FootprintLine, FootprintReport, Group
from modelinspect.render.sheet import Column, Line, Sheet
from modelinspect.render.units import ratio_text

__all__ = ["bytes_lines", "bytes_plain", "bytes_table"]

_BAR = 20
"""Blocks of the whole."""
_SHOWN = 5
"""Groups of duplicates on a terminal."""
_NAMES = 3
"""Names of one group."""
_FILES = 40
_FILLS = {
    "zeros": "of equal sizes are all zeros",
    "ones": "of equal sizes are all ones",
    "unknown": "have a like of the same CRC and size, perhaps because both hold one value",
}
_TITLES: dict[Group, str] = {
    "tensors": "tensors",
    "contents": "beside tensors",
    "container": "container",
    "waste": "waste",
}


def bytes_table(report: FootprintReport) -> tuple[Sheet, ...]:
    """For people: groups and their lines, what to do below, and the files if there are several."""
    rows: list[tuple[Any, ...]] = []
    indents: list[int] = []
    for group, nbytes in report.groups.items():
        rows.append((_TITLES[group], nbytes, *_share(nbytes, report), "", ""))
        indents.append(0)
        for line in report.lines:
            if line.group == group:
                tensors = f"{line.tensors:,}" if line.tensors else ""
                rows.append((_name(line), line.nbytes, *_share(line.nbytes, report), tensors, line.remark))
                indents.append(1)
    main = Sheet(
        "bytes",
        (
            Column("what", "what", "name"),
            Column("bytes", "bytes", "count"),
            Column("share", "share", "ratio"),
            Column("bar", "of all", "text"),
            Column("tensors", "tensors", "text"),
            Column("remark", "remark", "text"),
        ),
        rows,
        title=report.target,
        indents=indents,
        footer=tuple(_footer(report)),
        notes=report.notes,
        hidden=frozenset() if any(row[5] for row in rows) else frozenset({"remark"}),
        dispensable=("remark", "bar", "tensors"),
    )
    return (main,) if len(report.files) == 1 else (main, _files(report))


def _name(line: FootprintLine) -> str:
    """As people read it: ``model: parameters``, ``model.ema: slack of views``, ``data.pkl``."""
    if line.group == "tensors" and not line.section:
        return line.label if line.kind == "model" else f"{line.kind}: {line.label}"
    return f"{line.section}: {line.label}" if line.section else line.label


def _share(nbytes: int, report: FootprintReport) -> tuple[float, str]:
    share = nbytes / report.nbytes if report.nbytes else 0.0
    return share, "█" * round(share * _BAR)


def _footer(report: FootprintReport) -> Iterator[Line]:
    count = len(report.files)
    yield Line("", report.nbytes, "bytes", "the size of the file" if count == 1 else f"of {count:,} files")
    for remedy in report.remedies:
        saved = f"{remedy.saves:,} bytes less, {ratio_text(remedy.saves / report.nbytes)}"
        yield Line("ok", f"{saved}: {remedy.text}", "status")
    yield from _twice(report.duplicates or ())


def _twice(duplicates: Sequence[Duplicate]) -> Iterator[Line]:
    """Tensors that are stored more than once, the most wasteful first; those of one value in a line."""
    true = [one for one in duplicates if not one.fill]
    for one in true[:_SHOWN]:
        evidence = "same bytes" if one.evidence == "values" else "same CRC and size"
        names = " = ".join(one.names[:_NAMES])
        if len(one.names) > _NAMES:
            names += f" and {len(one.names) - _NAMES:,} more"
        times = f"{len(one.names):,} times " if len(one.names) > 2 else "twice "
        yield Line("", f"stored {times}({evidence}): {names}, {one.nbytes:,} bytes each", "text")
    if len(true) > _SHOWN:
        yield Line(
            "", f"{len(true) - _SHOWN:,} more are stored several times; --format json lists them", "text"
        )
    for fill, words in _FILLS.items():
        alike = [one for one in duplicates if one.fill == fill]
        if alike:
            count = sum(len(one.names) for one in alike)
            total = sum(len(one.names) * one.nbytes for one in alike)
            yield Line("", f"{count:,} tensors {words}: {total:,} bytes", "text")


def _files(report: FootprintReport) -> Sheet:
    """A row a file, the largest first."""
    files = sorted(report.files, key=lambda file: -file.nbytes)
    rows = [
        (
            os.path.basename(file.path),
            file.nbytes,
            _share(file.nbytes, report)[0],
            *(file.groups.get(group, 0) for group in _TITLES),
        )
        for file in files[:_FILES]
    ]
    more = len(files) - len(rows)
    rest = sum(file.nbytes for file in files[_FILES:])
    footer = (Line("", f"{more:,} smaller files: {rest:,} bytes", "text"),) if more else ()
    columns = (
        Column("file", "file", "name"),
        Column("bytes", "bytes", "count"),
        Column("share", "share", "ratio"),
        *(Column(group, title, "count") for group, title in _TITLES.items()),
    )
    dull = {group for group in _TITLES if not report.groups.get(group)}
    dispensable = ("container", "contents", "tensors")
    return Sheet("bytes", columns, rows, footer=footer, hidden=frozenset(dull), dispensable=dispensable)


def bytes_lines(report: FootprintReport) -> Sheet:
    """A line a line of the report: key and bytes first. For plain, CSV and JSON."""
    columns = (
        Column("key", "key", "name"),
        Column("bytes", "bytes", "count"),
        Column("share", "share", "ratio"),
        Column("group", "group", "text"),
        Column("kind", "kind", "text"),
        Column("section", "section", "name"),
        Column("label", "label", "name"),
        Column("tensors", "tensors", "count"),
        Column("remark", "remark", "text"),
    )
    rows = [
        (_key(line), line.nbytes, _share(line.nbytes, report)[0], *line[:4], line.tensors, line.remark)
        for line in report.lines
    ]
    return Sheet("bytes", columns, rows, notes=report.notes, summary=_summary(report), rows_key="lines")


def bytes_plain(report: FootprintReport) -> Sheet:
    """Key and bytes alone."""
    columns = (Column("key", "key", "name"), Column("bytes", "bytes", "count"))
    return Sheet("bytes", columns, [(_key(line), line.nbytes) for line in report.lines])


def _key(line: FootprintLine) -> str:
    """One word for scripts: ``model.parameters``, ``optimizer.exp_avg``, ``header.zip-directory``."""
    label = "-".join(line.label.replace(":", "").split())
    if line.group == "tensors":
        return f"{line.section or line.kind}.{label}"
    return ".".join(filter(None, (line.kind, line.section, label)))


def _summary(report: FootprintReport) -> dict[str, Any]:
    whole = report.nbytes or 1
    return {
        "target": report.target,
        "format": report.format,
        "bytes": report.nbytes,
        "waste": report.waste,
        "waste_share": report.waste / whole,
        "groups": report.groups,
        "files": [{"path": one.path, "bytes": one.nbytes, "groups": one.groups} for one in report.files],
        "remedies": [
            {"remedy": one.text, "saves": one.saves, "share": one.saves / whole, "tensors": one.tensors}
            for one in report.remedies
        ],
        "duplicates": None
        if report.duplicates is None
        else [
            {"names": one.names, "bytes": one.nbytes, "evidence": one.evidence, "fill": one.fill}
            for one in report.duplicates
        ],
        "bytes_read": report.bytes_read,
    }
