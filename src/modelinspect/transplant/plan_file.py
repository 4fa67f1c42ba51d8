"""
Plans as files: made to be reviewed, edited and kept in git.

A plan file is JSON, an object with, in this order,

- ``schema_version``: 1;
- ``source`` and ``target``: objects ``target`` (as it was spelt), ``section``, ``tensors`` and
  ``fingerprint``, a digest of all names and shapes; they tell whether a plan is applied to
  what it was made for, and nothing else goes by them;
- ``rows``: what goes where, a list of objects

  - ``target``: a pattern of names, see :mod:`modelinspect.transplant.patterns`;
  - ``source``: a pattern, or a list of those that are joined; in a list an object ``name``
    and ``transform`` is a source with steps of its own. An empty name is a constant, whose
    transform begins with ``zeros``;
  - ``transform``: steps joined by ``|``, see :mod:`modelinspect.transplant.transforms`. Those
    before a ``cat`` or ``stack`` are done to each of the sources;
  - ``count``: tensors that the row stands for; for people, not read;
  - ``label``: ``certain``, ``likely``, ``ambiguous`` or ``proven``;
  - ``reason``: why;

- ``missing``: objects ``target`` (a pattern), ``shape``, ``why``, ``made_by_target``;
- ``unused``: objects ``source`` (a pattern), ``shape``, ``why``;
- ``doubts``: objects ``targets`` and ``candidates`` (lists of patterns) and ``settle``;
- ``notes``: list of texts.

Only ``rows`` is needed, and of a row its ``target`` and ``source``; the label is ``certain``
where it is left out: a person said so. What is missing and unused follows from the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from modelinspect.errors import UsageError, visible
from modelinspect.tensors import ParameterTable, TensorInfo
from modelinspect.transplant.patterns import (
    PatternPiece,
    PatternRow,
    expand,
    expand_names,
    name_patterns,
    rows,
)
from modelinspect.transplant.plan import Assignment, Doubt, Label, Missing, Plan, Unused
from modelinspect.transplant.shapes import made_shape
from modelinspect.transplant.transforms import JOINS

__all__ = ["SCHEMA_VERSION", "expected", "fingerprint", "plan_text", "read_plan_file", "write_plan_file"]

SCHEMA_VERSION = 1
_MOST_SAID = 12
"""Faults that one error lists."""


def expected(table: ParameterTable) -> list[TensorInfo]:
    """The rows of a table that a state_dict holds."""
    return [row for row in table if row.persistent is not False]


def fingerprint(table: ParameterTable) -> str:
    """
    A digest of a table's names and shapes, whatever their order.
    """
    lines = sorted(json.dumps([row.name, list(row.shape)]) for row in expected(table))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------ writing


def write_plan_file(plan: Plan, path: str) -> None:
    """
    Write a plan for people to review and edit.

    Args:
        plan: Any, also one that is not complete.
        path: File to write, whole or not at all.

    Raises:
        TargetError: It can't be written there.
    """
    from modelinspect.writers.atomic import replacing

    with replacing(path) as stream:
        stream.write(plan_text(plan))


def plan_text(plan: Plan) -> str:
    """The text of a plan's file; the same plan has the same text."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "source": _side(plan.source),
        "target": _side(plan.target),
        "rows": [_row_object(row) for row in rows(plan)],
        "missing": _missing_objects(plan.missing),
        "unused": _unused_objects(plan.unused),
        "doubts": [
            {
                "targets": list(name_patterns(doubt.targets)),
                "candidates": list(name_patterns(doubt.candidates)),
                "settle": doubt.settle,
            }
            for doubt in plan.doubts
        ],
        "notes": list(plan.notes),
    }
    return "".join(_encoded(document, "")) + "\n"


def _side(table: ParameterTable) -> dict[str, Any]:
    return {
        "target": table.source,
        "section": table.section,
        "tensors": len(expected(table)),
        "fingerprint": fingerprint(table),
    }


def _row_object(row: PatternRow) -> dict[str, Any]:
    lead, common = _common_transform(row)
    sources = [
        piece.name if lead or not piece.transform else {"name": piece.name, "transform": piece.transform}
        for piece in row.pieces
    ]
    is_one = len(sources) == 1 and isinstance(sources[0], str)
    return {
        "target": row.target,
        "source": sources[0] if is_one else sources,
        "transform": common,
        "count": row.count,
        "label": row.label,
        "reason": row.reason,
    }


def _common_transform(row: PatternRow) -> tuple[str, str]:
    """The steps that all of a row's pieces have in common, and all that is said for the row."""
    own = {piece.transform for piece in row.pieces}
    if len(own) == 1:
        lead = own.pop()
        return lead, " | ".join(filter(None, (lead, row.transform)))
    return "", row.transform


def _missing_objects(missing: Iterable[Missing]) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for each in missing:
        groups.setdefault((each.shape, each.why, each.is_made), []).append(each.name)
    return [
        {"target": pattern, "shape": list(shape), "why": why, "made_by_target": is_made}
        for (shape, why, is_made), names in groups.items()
        for pattern in name_patterns(names)
    ]


def _unused_objects(unused: Iterable[Unused]) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for each in unused:
        groups.setdefault((each.shape, each.why), []).append(each.name)
    return [
        {"source": pattern, "shape": list(shape), "why": why}
        for (shape, why), names in groups.items()
        for pattern in name_patterns(names)
    ]


def _encoded(value: Any, indent: str) -> Iterator[str]:
    """JSON with a key a line; lists of numbers and short texts stay on theirs."""
    deeper = f"{indent}  "
    if isinstance(value, dict) and value:
        before = "{\n"
        for key, item in value.items():
            yield f"{before}{deeper}{json.dumps(key)}: "
            yield from _encoded(item, deeper)
            before = ",\n"
        yield f"\n{indent}}}"
    elif isinstance(value, list) and any(isinstance(item, (dict, str)) for item in value):
        before = "[\n"
        for item in value:
            yield f"{before}{deeper}"
            yield from _encoded(item, deeper)
            before = ",\n"
        yield f"\n{indent}]"
    else:
        yield json.dumps(value)


# ------------------------------------------------------------------------------ reading


def read_plan_file(path: str, source: ParameterTable, target: ParameterTable) -> Plan:
    """
    Read a plan and hold it against the two sides that it is to be applied to.

    Args:
        path: A file that :func:`write_plan_file` wrote, perhaps edited since.
        source: Whose tensors its rows name.
        target: Whose tensors they fill.

    Returns:
        The plan; a note says where it was made for other tensors.

    Raises:
        UsageError: It is no plan, or rows don't hold: they name what is not there, don't
            fit through their steps, fill a tensor twice. The message names the rows.
    """
    document = _document(path)
    faults: list[str] = []
    assignments = _assignments(document, source, target, faults)
    if faults:
        more = (f"… and {len(faults) - _MOST_SAID:,} more",) if len(faults) > _MOST_SAID else ()
        what = "a row that can't be used" if len(faults) == 1 else f"{len(faults):,} faults in its rows"
        raise UsageError(f"{visible(path)} has {what}", details=(*faults[:_MOST_SAID], *more))
    made = {each.target: each for each in assignments}
    ordered = tuple(made[row.name] for row in target if row.name in made)
    return Plan(
        source,
        target,
        ordered,
        _missing(document, target, made),
        _unused(document, source, ordered),
        _doubts(document, made),
        tuple(_texts(document.get("notes"))) + tuple(_other_sides(document, path, source, target)),
    )


_MOST_BYTES = 256 << 20
"""Of a plan: rows of patterns are some hundred bytes each."""


def _document(path: str) -> dict[str, Any]:
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UsageError(f"{visible(path)} is no regular file, and a plan is one")
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise UsageError(f"{visible(path)} is no plan: it has more than {_MOST_BYTES:,} bytes")
        document = json.loads(text)
    except FileNotFoundError:
        from modelinspect.targets import no_such_file

        raise no_such_file(path) from None
    except IsADirectoryError:
        raise UsageError(f"{visible(path)} is a folder, and a plan is a file") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{visible(path)} is no plan: it is not JSON",
            details=(visible(str(error)),),
            hint="--plan-out FILE writes one",
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise UsageError(
            f"{visible(path)} is no plan: it has no list of rows", hint="--plan-out FILE writes one"
        )
    version = document.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{visible(path)} is a plan of schema_version {visible(json.dumps(version))[:40]}",
            details=(f"this version reads schema_version {SCHEMA_VERSION}",),
        )
    return document


def _assignments(
    document: Mapping[str, Any], source: ParameterTable, target: ParameterTable, faults: list[str]
) -> list[Assignment]:
    """What the rows stand for; whatever is wrong with one goes to the faults, a line each."""
    found: list[Assignment] = []
    filled: dict[str, int] = {}
    for number, entry in enumerate(document["rows"], 1):
        try:
            expanded = expand(_row(entry))
            for assignment in expanded:
                _check(assignment, source, target, filled)
                filled[assignment.target] = number
        except ValueError as error:
            named = entry.get("target") if isinstance(entry, dict) else None
            where = f"row {number}" + (f", {visible(named)}" if isinstance(named, str) else "")
            faults.append(f"{where}: {visible(str(error))}")
            continue
        found.extend(expanded)
    return found


def _row(entry: Any) -> PatternRow:
    if not isinstance(entry, dict):
        raise ValueError("it is no object with a target and a source")
    unknown = set(entry) - {"target", "source", "transform", "count", "label", "reason"}
    if unknown:
        raise ValueError(f"it has {sorted(unknown)[0]!r}, which means nothing here")
    for key in ("target", "transform", "label", "reason"):
        if not isinstance(entry.get(key, ""), str):
            raise ValueError(f"its {key} is no text")
    if not entry.get("target"):
        raise ValueError("it names no target")
    label: Label = entry.get("label", "certain")
    if label not in get_args(Label):
        raise ValueError(f"its label is {label!r}: expected one of {', '.join(get_args(Label))}")
    lead, joined = _parted(entry.get("transform", ""))
    given = entry.get("source")
    sources = given if isinstance(given, list) else [given]
    if not sources:
        raise ValueError("it names no source")
    pieces = tuple(_piece(each, lead) for each in sources)
    return PatternRow(entry["target"], pieces, joined, label=label, reason=entry.get("reason", ""))


def _piece(given: Any, lead: str) -> PatternPiece:
    """One source with its own steps and those that all sources have."""
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise ValueError("its source is no name, nor a list of names")
    own = given.get("transform", "")
    if not isinstance(own, str) or set(given) - {"name", "transform"}:
        raise ValueError("a source is a name, or an object with name and transform")
    return PatternPiece(given["name"], " | ".join(filter(None, (own, lead))))


def _parted(transform: str) -> tuple[str, str]:
    """The steps before a join, and those from it on."""
    steps = [step.strip() for step in transform.split("|")]
    for at, step in enumerate(steps):
        if step.partition("(")[0].strip() in JOINS:
            return " | ".join(steps[:at]), " | ".join(steps[at:])
    return transform, ""


def _check(
    assignment: Assignment, source: ParameterTable, target: ParameterTable, filled: Mapping[str, int]
) -> None:
    if assignment.target not in target:
        raise ValueError(f"the target has no tensor {assignment.target!r}{_near(assignment.target, target)}")
    if assignment.target in filled:
        raise ValueError(f"{assignment.target!r} is filled by row {filled[assignment.target]} already")
    for piece in assignment.pieces:
        if not piece.name and not (piece.steps and piece.steps[0].op == "zeros"):
            raise ValueError("a source without a name is a constant, and its transform begins with zeros")
        if piece.name and piece.name not in source:
            raise ValueError(f"the source has no tensor {piece.name!r}{_near(piece.name, source)}")
    try:
        shape = made_shape(assignment, lambda name: source[name].shape)
    except ValueError as error:
        raise ValueError(f"{assignment.target!r} can't be made: {error}") from None
    wanted = target[assignment.target].shape
    if shape != wanted:
        raise ValueError(f"{assignment.target!r} is of shape {list(wanted)}, and this makes {list(shape)}")


def _near(name: str, table: ParameterTable) -> str:
    from difflib import get_close_matches

    some = [row.name for _, row in zip(range(2000), table)]
    near = get_close_matches(name, some, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _missing(
    document: Mapping[str, Any], target: ParameterTable, made: Mapping[str, Assignment]
) -> tuple[Missing, ...]:
    said = _said(document.get("missing"), "target")
    found = []
    for row in expected(target):
        if row.name not in made:
            entry = said.get(row.name, {})
            why = str(entry.get("why") or "no row of the plan fills it")
            found.append(Missing(row.name, row.shape, why, entry.get("made_by_target") is True))
    return tuple(found)


def _unused(
    document: Mapping[str, Any], source: ParameterTable, assignments: Iterable[Assignment]
) -> tuple[Unused, ...]:
    tied = source.tied_to
    used = {tied.get(name, name) for each in assignments for name in each.sources}
    said = _said(document.get("unused"), "source")
    return tuple(
        Unused(row.name, row.shape, str(said.get(row.name, {}).get("why") or "no row of the plan takes it"))
        for row in expected(source)
        if tied.get(row.name, row.name) not in used
    )


def _said(entries: Any, key: str) -> dict[str, Mapping[str, Any]]:
    """Entries of a list by each of the names that their patterns stand for."""
    said: dict[str, Mapping[str, Any]] = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            said.update(dict.fromkeys(_names([entry.get(key)]), entry))
    return said


def _doubts(document: Mapping[str, Any], made: Mapping[str, Assignment]) -> tuple[Doubt, ...]:
    """The doubts that are still open: a row whose label was changed is settled."""
    entries = document.get("doubts")
    found = []
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            targets = tuple(
                name
                for name in _names(entry.get("targets"))
                if name in made and made[name].label == "ambiguous"
            )
            if targets:
                settle = str(entry.get("settle", ""))
                found.append(Doubt(targets, tuple(_names(entry.get("candidates"))), settle))
    return tuple(found)


def _names(patterns: Any) -> Iterator[str]:
    for pattern in _texts(patterns):
        yield from _expanded(pattern)


def _expanded(pattern: str) -> tuple[str, ...]:
    """Names; none where it is no pattern: what these lists say is for people, and follows from the rows."""
    try:
        return expand_names(pattern)
    except ValueError:
        return ()


def _texts(given: Any) -> Sequence[str]:
    return [each for each in given if isinstance(each, str)] if isinstance(given, list) else []


def _other_sides(
    document: Mapping[str, Any], path: str, source: ParameterTable, target: ParameterTable
) -> Iterator[str]:
    for key, table in (("source", source), ("target", target)):
        side = document.get(key)
        if isinstance(side, dict) and side.get("fingerprint") not in (None, fingerprint(table)):
            made_for = visible(str(side.get("target", "another")))
            yield (
                f"{visible(path)} was made for a {key} of other names or shapes ({made_for}); "
                "its rows fit all the same"
            )
