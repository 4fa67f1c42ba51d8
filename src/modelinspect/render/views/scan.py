"""
Views of :class:`~modelinspect.analysis.scan.ScanReport`: findings as rows, what was looked at below.

JSON (``scan --json``): ``targets``, a list of objects ``target``, ``headline``, ``found`` (is there more
than notes?), ``looked_at``, a list of objects ``file``, ``record``, ``what``, ``bytes``,
``looked_into``, ``why``, ``records``, and ``globals``, a list of objects ``module``, ``name``,
``group`` (``understood``, ``unknown``, ``executes code``), ``file``, ``record``, ``position``,
``calls``, ``times``; ``accepted``, fingerprints of findings that the baseline lists; ``findings``, a
list of objects ``target``, ``level`` (``error``, ``warning``, ``note``), ``rule``, ``message``, ``file``,
``record``, ``position`` (byte of the record), ``offset`` (byte of the file, null where the record is
compressed), ``fingerprint``. JSON Lines hold the findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modelinspect.analysis.scan import Finding, LookedAt, NamedGlobal, ScanReport
from modelinspect.render.sheet import Column, Line, Sheet

__all__ = ["scan_lines", "scan_records", "scan_table"]

_LOOKED_SHOWN = 20
_FEW_LOOKED = 12
"""More rows of what was looked at stand before the findings."""
_NAMES_SHOWN = 12
_COLUMNS = (
    Column("level", "level", "text"),
    Column("rule", "rule", "name"),
    Column("place", "where", "name"),
    Column("message", "what", "text"),
)

_LOOKED_COLUMNS = (
    Column("place", "looked at", "name"),
    Column("what", "what it is", "text"),
    Column("bytes", "bytes", "bytes"),
    Column("looked_into", "looked into", "flag"),
    Column("why", "why not, or how far", "text"),
)


def scan_table(report: ScanReport) -> tuple[Sheet, ...]:
    """One target for people: findings and names by group, then what was looked at, if that is short."""
    rows = _looked_rows(report)
    more = _more(len(rows))
    looked = Sheet(
        "scan",
        _LOOKED_COLUMNS,
        rows[:_LOOKED_SHOWN],
        footer=more,
        hidden=frozenset() if any(row[4] for row in rows) else frozenset({"why"}),
        dispensable=("bytes",),
    )
    if not report.findings:
        title = f"{report.target} · {report.headline}"
        return (replace(looked, title=title, footer=(*more, *_names(report), *_accepted(report))),)
    found = Sheet(
        "scan",
        _COLUMNS,
        [
            (each.level, each.rule, _within(report, each, each.place), each.message)
            for each in report.findings
        ],
        title=f"{report.target} · {report.headline}",
        footer=(*_names(report), *_accepted(report)),
        notes=report.notes,
        rows_key="findings",
    )
    # What a terminal shows when all has scrolled by is the end of it.
    return (found, looked) if len(rows) <= _FEW_LOOKED else (looked, found)


def scan_lines(reports: Sequence[ScanReport]) -> Sheet:
    """A line a finding: level, rule, place, message."""
    rows = [
        (each.level, each.rule, _from_here(report, each), each.message)
        for report in reports
        for each in report.findings
    ]
    return Sheet("scan", _COLUMNS, rows, rows_key="findings")


def scan_records(reports: Sequence[ScanReport]) -> Sheet:
    """Everything, for JSON, JSON Lines and spreadsheets."""
    columns = (
        Column("target", "target", "name"),
        Column("level", "level", "text"),
        Column("rule", "rule", "name"),
        Column("message", "message", "text"),
        Column("file", "file", "name"),
        Column("record", "record", "name"),
        Column("position", "position", "count"),
        Column("offset", "offset", "count"),
        Column("fingerprint", "fingerprint", "text"),
    )
    rows = [
        (
            report.target, each.level, each.rule, each.message, each.file, each.record, each.position,
            each.offset, each.fingerprint,
        )
        for report in reports
        for each in report.findings
    ]  # fmt: skip
    return Sheet(
        "scan",
        columns,
        rows,
        summary={
            "targets": [_target(report) for report in reports],
            "accepted": [each.fingerprint for report in reports for each in report.accepted],
        },
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        rows_key="findings",
    )


def _from_here(report: ScanReport, finding: Finding) -> str:
    """A place with the path of a file that lies in the folder that was asked for: there may be several."""
    if finding.file == report.target or not finding.uri:
        return finding.place
    return finding.uri + finding.place[len(finding.file) :]


def _target(report: ScanReport) -> dict[str, Any]:
    return {
        "target": report.target,
        "headline": report.headline,
        "found": report.found,
        "looked_at": [_looked_record(each) for each in report.looked_at],
        "globals": [_name_record(each) for each in report.globals],
    }


def _looked_record(each: LookedAt) -> dict[str, Any]:
    return {
        "file": each.file, "record": each.record, "what": each.what, "bytes": each.nbytes,
        "looked_into": each.looked_into, "why": each.why, "records": each.records,
    }  # fmt: skip


def _name_record(each: NamedGlobal) -> dict[str, Any]:
    return {
        "module": each.module, "name": each.name, "group": each.group, "file": each.file,
        "record": each.record, "position": each.position, "calls": list(each.calls), "times": each.times,
    }  # fmt: skip


def _names(report: ScanReport) -> list[Line]:
    """Names by group, the worst first."""
    lines = []
    for group in ("executes code", "unknown", "understood"):
        names = list(dict.fromkeys(each.dotted for each in report.globals if each.group == group))
        if names:
            more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
            lines.append(Line(group, ", ".join(names[:_NAMES_SHOWN]) + more, "text"))
    return lines


def _looked_rows(report: ScanReport) -> list[tuple[Any, ...]]:
    """A row each; in one are records of a file that were left alone for the same reason."""
    alike: dict[tuple[Any, ...], list[LookedAt]] = {}
    for number, each in enumerate(report.looked_at):
        key = (number,) if each.looked_into else (each.file, each.what, each.why)
        alike.setdefault(key, []).append(each)
    return [_looked_row(report, records) for records in alike.values()]


def _within(report: ScanReport, each: Finding | LookedAt, place: str) -> str:
    """A place in the file that the title names: records without its name, which may be long."""
    return place[len(each.file) + 1 :] if each.record and each.file == report.target else place


def _looked_row(report: ScanReport, alike: Sequence[LookedAt]) -> tuple[Any, ...]:
    first = alike[0]
    place = _within(report, first, first.file + (f"!{first.record}" if first.record else ""))
    place += f" and {len(alike) - 1:,} more" if len(alike) > 1 else ""
    count = sum(each.records for each in alike)
    what = first.what if count == 1 else f"{count:,} × {first.what}"
    return place, what, sum(each.nbytes for each in alike), first.looked_into, first.why


def _more(rows: int) -> tuple[Line, ...]:
    more = rows - _LOOKED_SHOWN
    return (Line("looked at", f"{more:,} more; --json lists them", "text"),) if more > 0 else ()


def _accepted(report: ScanReport) -> list[Line]:
    count = len(report.accepted)
    if not count:
        return []
    return [Line("accepted", f"{count:,} finding{'' if count == 1 else 's'} that the baseline lists", "text")]
