"""
View of :class:`~modelinspect.transplant.plan.Plan`: what goes where, what does not, what is open.

A row is a pattern of names, see :mod:`modelinspect.transplant.patterns`. After the rows of
what is filled come those of what is ``missing``, ``made`` by the target itself, and ``unused``.

JSON (``transplant SRC DST --json``): ``source`` and ``target``, the two as they were named;
``complete`` and ``ambiguous``, booleans; ``tensors``, an object of ``filled``, ``missing``,
``made`` and ``unused``, numbers of tensors; ``labels``, an object of label to tensors;
``doubts``, a list of objects ``targets`` and ``candidates`` (lists of patterns), ``settle``
(what would settle it) and ``doubts`` (how many there are of the kind); ``proof``, null or an
object of ``equal`` and ``equal_but_for`` (booleans), ``input``, ``dtype``, ``outputs`` and
``own_outputs`` (lists of objects ``source``, ``target``, ``shape``, ``absolute``, ``relative``,
``equal``, ``note``), ``activations`` and ``agreeing`` (numbers of modules), ``first_apart``,
``settled`` (a list of objects ``targets``, ``how``), ``differences``, ``unproven`` and ``notes``
(lists of texts). Then ``rows``, a list of objects ``source`` (a text), ``sources`` (a list of
objects ``name`` and ``transform``), ``target``, ``transform`` (all steps in words), ``count``,
``label`` and ``reason``; of what is not filled or used ``source`` or ``target`` is null, and
``shape`` is its shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelinspect.render.sheet import Column, Line, Sheet
from modelinspect.render.units import short_number
from modelinspect.transplant.patterns import (
    DoubtRow,
    PatternRow,
    doubt_rows,
    expand,
    expand_names,
    name_patterns,
    rows,
)
from modelinspect.transplant.plan import Plan
from modelinspect.transplant.proof import PROVEN, OutputGap, Proof

__all__ = ["TRANSPLANT_COLUMNS", "proof_texts", "transplant_sheet"]

_COLUMNS = (
    Column("source", "source", "name"),
    Column("target", "→ target", "name"),
    Column("transform", "transform", "text"),
    Column("count", "×", "count"),
    Column("label", "label", "status"),
    Column("reason", "why", "text"),
)
TRANSPLANT_COLUMNS = tuple(column.key for column in _COLUMNS)
_MOST_DOUBTS = 12
_MOST_NAMES = 6
_MOST_REASONS = 12
_LABELS = ("proven", "certain", "likely", "ambiguous", "missing", "made", "unused")


def transplant_sheet(plan: Plan, *, for_people: bool = False) -> Sheet:
    """
    A row a pattern, and below what is open and what comes next.

    Args:
        plan: What :func:`modelinspect.plan_transplant` returned.
        for_people: Put rows together that differ in the last part of their names, a weight and
            its bias; scripts get each pattern by itself.
    """
    found = rows(plan)
    kept = [*map(_cells, _together(plan, found) if for_people else found), *_left_over(plan)]
    return Sheet(
        "transplant",
        _COLUMNS,
        [row[:6] for row in kept],
        title=f"{plan.source.source} → {plan.target.source}",
        footer=tuple(_footer(plan)),
        notes=plan.notes,
        summary=_summary(plan),
        records=[*map(_record, found), *map(_record_left_over, _left_over(plan))],
        # The reasons are few, and stand below the table.
        hidden=frozenset({"reason"} if any(row[2] for row in kept) else {"reason", "transform"}),
    )


_Cells = tuple[str | None, str | None, str | None, int, str, str, tuple[int, ...] | None]


def _cells(row: PatternRow) -> _Cells:
    return row.source, row.target, row.steps or None, row.count, row.label, row.reason, None


def _left_over(plan: Plan) -> Iterator[_Cells]:
    """Rows of what has no partner, the target's first."""
    groups: dict[tuple[bool, str, str, tuple[int, ...]], list[str]] = {}
    for missing in sorted(plan.missing, key=lambda each: each.is_made):
        label = "made" if missing.is_made else "missing"
        groups.setdefault((True, label, missing.why, missing.shape), []).append(missing.name)
    for unused in plan.unused:
        groups.setdefault((False, "unused", unused.why, unused.shape), []).append(unused.name)
    for (is_target, label, why, shape), names in groups.items():
        for pattern in name_patterns(names):
            source, target = (None, pattern) if is_target else (pattern, None)
            yield source, target, None, len(expand_names(pattern)), label, why, shape


# ------------------------------------------------------------------ rows for people


def _together(plan: Plan, found: Sequence[PatternRow]) -> list[PatternRow]:
    """
    Neighbouring rows that differ in the last part of their names as one: ``q.(weight, bias)``,
    and ``q.*`` where that is all that the modules of both sides hold.
    """
    groups: list[list[PatternRow]] = []
    for row in found:
        if groups and _go_together(groups[-1][-1], row):
            groups[-1].append(row)
        else:
            groups.append([row])
    held = [Counter(row.name.rpartition(".")[0] for row in table) for table in (plan.target, plan.source)]
    return [_merged(group, held) if len(group) > 1 else group[0] for group in groups]


def _go_together(one: PatternRow, other: PatternRow) -> bool:
    def traits(row: PatternRow) -> tuple[object, ...]:
        stems = [name.rpartition(".")[0] for name in (row.target, *(piece.name for piece in row.pieces))]
        return (stems, row.count, row.steps, row.label, row.reason)

    return len(one.pieces) == 1 and "." in one.target and traits(one) == traits(other)


def _merged(group: Sequence[PatternRow], held: Sequence[Mapping[str, int]]) -> PatternRow:
    (piece,) = group[0].pieces
    names = [[row.target for row in group], [row.pieces[0].name for row in group]]
    leaves = [[name.rpartition(".")[2] for name in side] for side in names]
    firsts = [made[0].target, made[0].sources[0]] if (made := expand(group[0])) else []
    if leaves[0] == leaves[1] and all(
        side[name.rpartition(".")[0]] == len(group) for side, name in zip(held, firsts)
    ):
        target, source = (f"{side[0].rpartition('.')[0]}.*" for side in names)
    else:
        target, source = map(_with_leaves, names)
    count = sum(row.count for row in group)
    return replace(group[0], target=target, pieces=(piece._replace(name=source),), count=count)


def _with_leaves(names: Sequence[str]) -> str:
    stem = names[0].rpartition(".")[0]
    leaves = ", ".join(name.rpartition(".")[2] for name in names)
    return f"{stem}.({leaves})" if stem else f"({leaves})"


# --------------------------------------------------------------------------- footer


def _footer(plan: Plan) -> Iterator[Line]:
    counts = _counts(plan)
    yield Line("tensors filled", counts["filled"])
    for label, count in plan.labels.items():
        yield Line(label, count)
    for key, words in (("missing", "missing"), ("made", "made by the target"), ("unused", "unused")):
        if counts[key]:
            yield Line(words, counts[key])
    if not plan.assignments:
        yield Line("", "nothing of the source goes into the target", "text")
    yield from _reason_lines(plan)
    yield from _doubt_lines(doubt_rows(plan.doubts))
    if plan.proof is not None:
        yield from _proof_lines(plan.proof)
    yield _verdict(plan, counts)


def _verdict(plan: Plan, counts: Mapping[str, int]) -> Line:
    """May it be carried out, and if not, what next?"""
    if counts["missing"]:
        what = "1 tensor gets" if counts["missing"] == 1 else f"{counts['missing']:,} tensors get"
        return Line("missing", f"not complete: {what} nothing; --map or --allow-missing goes on", "status")
    if plan.is_ambiguous:
        count = plan.labels["ambiguous"]
        what = "1 tensor is" if count == 1 else f"{count:,} tensors are"
        return Line(
            "ambiguous",
            f"{what} ambiguous: add a --map, or --accept-doubtful to take the first candidate",
            "status",
        )
    if plan.proof is not None and plan.proof.is_refuted:
        return Line(
            "missing", "complete, but outputs differ: --accept-doubtful writes it all the same", "status"
        )
    return Line("ok", "complete: -o OUT writes it", "status")


def _reason_lines(plan: Plan) -> Iterator[Line]:
    """Why, once for all that have the label and the reason, the most frequent first."""
    reasons: Counter[tuple[str, str]] = Counter(
        (each.label, each.reason) for each in plan.assignments if each.reason
    )
    reasons.update(("made" if each.is_made else "missing", each.why) for each in plan.missing)
    reasons.update(("unused", each.why) for each in plan.unused)
    order = {label: at for at, label in enumerate(_LABELS)}
    ranked = sorted(reasons.items(), key=lambda item: (order[item[0][0]], -item[1]))
    if plan.proof is not None:  # what is proven by outputs alone is said with them
        ranked = [item for item in ranked if item[0] != ("proven", PROVEN)]
    for (label, reason), count in ranked[:_MOST_REASONS]:
        yield Line(label, f"{reason} ({count:,})", "text")
    if len(ranked) > _MOST_REASONS:
        yield Line("", f"{len(ranked) - _MOST_REASONS:,} more reasons: --format csv shows each row's", "text")


def _doubt_lines(doubts: Sequence[DoubtRow]) -> Iterator[Line]:
    for doubt in doubts[:_MOST_DOUBTS]:
        candidates, targets = _some(doubt.candidates), _some(doubt.targets)
        yield Line("ambiguous", f"? {targets} may be {candidates}", "status")
        if doubt.settle:
            yield Line("", f"  settled by {doubt.settle}", "text")
    if len(doubts) > _MOST_DOUBTS:
        yield Line("ambiguous", f"? {len(doubts) - _MOST_DOUBTS:,} more doubts", "status")


def _some(patterns: Sequence[str]) -> str:
    more = f" or {len(patterns) - _MOST_NAMES:,} more" if len(patterns) > _MOST_NAMES else ""
    return " or ".join(patterns[:_MOST_NAMES]) + more


def proof_texts(proof: Proof) -> tuple[str, ...]:
    """What running both models has shown, a line each, for where there is no table."""
    return tuple(
        str(line.value) if line.kind == "status" or not line.label else f"{line.label}: {line.value}"
        for line in _proof_lines(proof)
    )


def _proof_lines(proof: Proof) -> Iterator[Line]:
    """What running both models has shown."""
    if proof.outputs:
        worst = max(proof.outputs, key=lambda gap: gap.relative)
        gap = f"largest difference {short_number(worst.absolute)}, relative {short_number(worst.relative)}"
        if proof.equal:
            yield Line("proven", f"proven: both models give equal outputs ({gap}) on {proof.input}", "status")
        elif proof.equal_but_for:
            yield Line(
                "likely", f"outputs are equal but for what differs beside the weights ({gap})", "status"
            )
        else:
            yield Line("missing", f"outputs differ: {gap}, on {proof.input}", "status")
    if proof.activations and not proof.equal:
        apart = f", the first that does not is {proof.first_apart}" if proof.first_apart else ""
        yield Line("", f"{proof.agreeing:,} of {proof.activations:,} modules put out the same{apart}", "text")
    for settled in proof.settled[:_MOST_DOUBTS]:
        yield Line("settled", f"{_some(name_patterns(settled.targets))}: {settled.how}", "text")
    for difference in proof.differences:
        yield Line("differs", difference, "text")
    for own in proof.own_outputs:
        words = "equal" if own.equal else f"differ by {short_number(own.absolute)}"
        yield Line("", f"with the checkpoint's own weights outputs {words}", "text")
    for note in proof.notes:
        yield Line("", note, "text")


# ----------------------------------------------------------------------------- JSON


def _counts(plan: Plan) -> dict[str, int]:
    made = sum(each.is_made for each in plan.missing)
    return {
        "filled": len(plan.assignments),
        "missing": len(plan.missing) - made,
        "made": made,
        "unused": len(plan.unused),
    }


def _summary(plan: Plan) -> dict[str, Any]:
    return {
        "source": plan.source.source,
        "target": plan.target.source,
        "complete": plan.is_complete,
        "ambiguous": plan.is_ambiguous,
        "tensors": _counts(plan),
        "labels": dict(plan.labels),
        "doubts": [doubt._asdict() for doubt in doubt_rows(plan.doubts)],
        "proof": None if plan.proof is None else _proof_object(plan.proof),
    }


def _record(row: PatternRow) -> dict[str, Any]:
    return {
        "source": row.source,
        "sources": [piece._asdict() for piece in row.pieces],
        "target": row.target,
        "transform": row.steps,
        "count": row.count,
        "label": row.label,
        "reason": row.reason,
    }


def _record_left_over(row: _Cells) -> dict[str, Any]:
    source, target, _, count, label, why, shape = row
    return {
        "source": source,
        "sources": [],
        "target": target,
        "transform": "",
        "count": count,
        "label": label,
        "reason": why,
        "shape": shape,
    }


def _proof_object(proof: Proof) -> dict[str, Any]:
    return {
        "equal": proof.equal,
        "equal_but_for": proof.equal_but_for,
        "input": proof.input,
        "dtype": proof.dtype,
        "outputs": _gaps(proof.outputs),
        "own_outputs": _gaps(proof.own_outputs),
        "activations": proof.activations,
        "agreeing": proof.agreeing,
        "first_apart": proof.first_apart,
        "settled": [settled._asdict() for settled in proof.settled],
        "differences": list(proof.differences),
        "unproven": list(proof.unproven),
        "notes": list(proof.notes),
    }


def _gaps(gaps: Iterable[OutputGap]) -> list[dict[str, Any]]:
    return [gap._asdict() for gap in gaps]
