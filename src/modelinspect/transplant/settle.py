"""
Settle how rows lie in a target's fused weights by running the target alone.

What the target reads as q, k and v, or as gate and up, a symmetry of its outputs shows
(:mod:`modelinspect.live.symmetries`). How they lie in the source its names tell: tensors that
are apart there leave nothing open. Sources of a row are never changed here, only its steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import gcd, prod
from typing import TYPE_CHECKING, Any, NamedTuple

from modelinspect.errors import DefinitionError, visible
from modelinspect.transplant.matching.vocabulary import concepts_of
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.prove_units import Unit, units_of
from modelinspect.transplant.transforms import Step, shape_after

if TYPE_CHECKING:
    from modelinspect.live.symmetries import Layout, SymmetryBench

__all__ = ["settle_by_target"]

Progress = Callable[[int, int], None]
_MOST_ELEMENTS = 200_000_000
"""Of a target that is run."""
_SHOWN = "the target's own symmetry shows how its rows lie"
_ATTENTION = ("q", "k", "v")
_GATED = ("gate", "up")
_OPEN_LAYOUT = re.compile(r"^fused of |rows that are fused|go head by head|rows of rotary heads")
"""Reasons of rows that are ambiguous for no other cause than how rows lie."""
_MOST_GROUPS = 12


def settle_by_target(
    plan: Plan,
    definition: Any,
    *,
    inputs: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """
    The plan with what running the target alone shows.

    Args:
        plan: As names and shapes have it.
        definition: The target: a definition, a module, or a target such as ``net.py:Net``. A
            module is left as it was.
        inputs: As ``--input`` spells them; empty: worked out.
        seed: Of weights, inputs and generators.
        progress: Told of what was looked at and of all there is to look at.

    Returns:
        The plan with other steps and labels, and notes that say what was run; the plan itself
        where nothing is open that the target could show.

    Raises:
        UsageError: An input is spelt badly.
    """
    questions = list(_questions(plan))
    if not questions:
        return plan
    tied = plan.target.tied_to
    size = sum(prod(row.shape) for row in plan.target if row.name not in tied)
    if size > _MOST_ELEMENTS:
        return _noted(
            plan,
            f"how rows lie in the target was not tried: {size:,} elements are more than {_MOST_ELEMENTS:,}; "
            "--source-definition runs both models",
        )
    from modelinspect.live.symmetries import symmetry_bench

    used = {each.target for each in plan.assignments}
    try:
        with symmetry_bench(definition, used, inputs, seed=seed) as bench:
            return _settled(plan, bench, questions, progress)
    except DefinitionError as error:
        return _noted(plan, f"how rows lie in the target was not tried: {error.message}")


def _noted(plan: Plan, note: str) -> Plan:
    return replace(plan, notes=(*plan.notes, note))


class _Question(NamedTuple):
    """Tensors of one module, in all blocks that are alike, that are fused of the same parts."""

    unit: Unit
    roles: tuple[str, ...]
    assignments: tuple[Assignment, ...]


def _questions(plan: Plan) -> Iterator[_Question]:
    """What the target could show."""
    open_ones = {each.target: each for each in plan.assignments if _is_open(each)}
    if not open_ones:
        return
    shapes = {row.name: row.shape for row in plan.target if row.persistent is not False}
    for unit in units_of(shapes):
        groups: dict[tuple[str, ...], list[Assignment]] = {}
        for name in _own_names(unit):
            roles = _fused_roles(open_ones[name]) if name in open_ones else ()
            if roles:
                groups.setdefault(roles, []).append(open_ones[name])
        for roles, found in groups.items():
            yield _Question(unit, roles, tuple(found))


def _own_names(unit: Unit) -> list[str]:
    """Of the tensors of a module itself, in all blocks."""
    own = [leaf for leaf, _ in unit.leaves if "." not in leaf]
    return [f"{path}.{leaf}" if path else leaf for path in unit.paths for leaf in own]


def _is_open(assignment: Assignment) -> bool:
    if assignment.label == "likely":
        return True
    return assignment.label == "ambiguous" and bool(_OPEN_LAYOUT.search(assignment.reason))


def _settled(
    plan: Plan, bench: SymmetryBench, questions: Sequence[_Question], progress: Progress | None
) -> Plan:
    changes: dict[str, Assignment] = {}
    said: dict[str, None] = {}
    for at, question in enumerate(questions):
        if progress is not None:
            progress(at, len(questions))
        found = _Fused(plan, bench, question).answered()
        if found is not None:
            changes |= {each.target: each for each in found[1]}
            said[f"{visible(question.unit.pattern)} {found[0]}"] = None
    if progress is not None:
        progress(len(questions), len(questions))
    plan = _changed(plan, changes)
    lead = f"the target was run alone on {bench.input}, with random weights: "
    return _noted(plan, lead + ("; ".join(said) if said else "that showed nothing of how its rows lie"))


def _changed(plan: Plan, changes: Mapping[str, Assignment]) -> Plan:
    assignments = tuple(changes.get(each.target, each) for each in plan.assignments)
    open_ones = {each.target for each in assignments if each.label == "ambiguous"}
    doubts = tuple(
        doubt
        for doubt in plan.doubts
        if changes.keys().isdisjoint(doubt.targets) or open_ones & {*doubt.targets}
    )
    return replace(plan, assignments=assignments, doubts=doubts)


# ------------------------------------------------------------------------- names


def _fused_roles(assignment: Assignment) -> tuple[str, ...]:
    """``q, k, v`` or ``gate, up``, where source tensors of these roles are joined."""
    if not assignment.steps or assignment.steps[0].op != "cat":
        return ()
    roles = [_role(piece.name) if piece.name else "" for piece in assignment.pieces]
    for wanted in (_ATTENTION, _GATED):
        if set(wanted) >= {*roles} - {""} and {*roles} - {""}:
            count = len(wanted)
            if len(roles) % count == 0 and all(
                {*roles[at : at + count]} | {""} == {*wanted, ""} or "" in roles[at : at + count]
                for at in range(0, len(roles), count)
            ):
                return wanted
    return ()


def _role(name: str) -> str:
    """What a source tensor is to its layer: q, k, v, gate or up; empty where its name does not say."""
    for component in reversed(name.split(".")):
        members = {m for family, m in concepts_of(component).members if family in ("qkvo", "glu")}
        found = members & {*_ATTENTION, *_GATED}
        if len(found) == 1:
            return found.pop()
        # The three matrices of a gated net, as many papers number them.
        if component in ("w1", "w3"):
            return {"w1": "gate", "w3": "up"}[component]
    return ""


# ---------------------------------------------------------------- fused of what is apart


class _Fused:
    """One question about tensors that are joined of others."""

    def __init__(self, plan: Plan, bench: SymmetryBench, question: _Question) -> None:
        self._plan, self._bench, self._question = plan, bench, question
        self._shapes = {row.name: row.shape for row in plan.source}

    def answered(self) -> tuple[str, list[Assignment]] | None:
        """What was found in words, and the assignments as they are then."""
        fused = [
            (each.target, axis)
            for each in self._question.assignments
            if (axis := self._axis(each)) is not None
        ]
        if len(fused) != len(self._question.assignments):
            return None
        lengths = self._lengths()
        if lengths is None:
            return None
        layout = self._measured(fused, lengths)
        if layout is None:
            return None
        changed = [self._rebuilt(each, layout) for each in self._question.assignments]
        if None in changed:
            return None
        return f"holds {_said(layout)}", [each for each in changed if each is not None]

    def _measured(self, fused: Sequence[tuple[str, int]], lengths: Mapping[str, int]) -> Layout | None:
        unit = self._question.unit
        if self._question.roles == _GATED:
            return self._bench.gated_layout(
                fused, _gated_layouts(lengths), _downs(self._plan, unit, lengths["up"])
            )
        names = {name for name, _ in fused}
        beside = [
            name for name in _own_names(unit) if name not in names and len(self._plan.target[name].shape) == 1
        ]
        for layouts in _attention_layouts(lengths, self._bench.head_counts, self._bench.head_sizes):
            found = self._bench.fused_layout(fused, layouts, beside)
            if found is not None:
                return found
        return None

    def _axis(self, assignment: Assignment) -> int | None:
        """The axis of the target in which parts are joined."""
        axis = assignment.steps[0].args[0]
        for step in assignment.steps[1:]:
            if step.op == "transpose":
                axis = {0: 1, 1: 0}.get(axis, axis)
            elif step.op == "permute":
                axis = step.args.index(axis)
            elif step.op == "reshape" and axis == 0 and len(step.args) > 1:
                axis = 1  # several modules are stacked
            else:
                return None
        return axis

    def _lengths(self) -> dict[str, int] | None:
        """Rows of each part."""
        roles = self._question.roles
        for each in self._question.assignments:
            axis, found = each.steps[0].args[0], dict[str, int]()
            for piece, role in zip(each.pieces, self._roles_of(each)):
                shape = self._shapes[piece.name] if piece.name else ()
                found.setdefault(role, shape_after(shape, piece.steps)[axis])
            if found.keys() == {*roles}:
                return found
        return None

    def _roles_of(self, assignment: Assignment) -> list[str]:
        """A part that is a constant stands in the place that the others leave."""
        roles, wanted = [], self._question.roles
        for at in range(0, len(assignment.pieces), len(wanted)):
            named = [_role(p.name) if p.name else "" for p in assignment.pieces[at : at + len(wanted)]]
            left = iter([role for role in wanted if role not in named])
            roles += [role or next(left) for role in named]
        return roles

    def _rebuilt(self, assignment: Assignment, layout: Layout) -> Assignment | None:
        """The pieces in the order in which the target has them."""
        roles, count = self._roles_of(assignment), len(self._question.roles)
        is_stacked = len(roles) > count
        if is_stacked and layout.groups != 1:
            return None
        pieces: list[Piece] = []
        for at in range(0, len(roles), count):
            by_role = dict(zip(roles[at : at + count], assignment.pieces[at : at + count]))
            pieces += [by_role[role] for role in layout.roles]
        steps = (Step("cat", (assignment.steps[0].args[0], layout.groups)), *assignment.steps[1:])
        return _as_shown(assignment._replace(pieces=tuple(pieces), steps=steps))


def _as_shown(assignment: Assignment) -> Assignment:
    """With the label and the reason of what was measured."""
    reason = assignment.reason
    if assignment.label == "ambiguous" or "may" in reason:
        reason = _SHOWN
    elif _SHOWN not in reason:
        reason = f"{reason}; {_SHOWN}"
    return assignment._replace(label="likely", reason=reason)


def _said(layout: Layout) -> str:
    listed = ", ".join(layout.roles)
    if layout.groups == 1:
        return f"{listed} one after the other"
    if layout.groups == layout.lengths[0]:
        return f"{listed} row by row"
    return f"{listed} in {layout.groups} groups"


# ----------------------------------------------------------------------- layouts


def _gated_layouts(lengths: Mapping[str, int]) -> Iterator[Layout]:
    from modelinspect.live.symmetries import Layout

    for groups in (1, lengths["up"]):
        for roles in (("gate", "up"), ("up", "gate")):
            yield Layout(roles, tuple(lengths[role] for role in roles), groups)


def _attention_layouts(
    lengths: Mapping[str, int], counts: Iterable[int], sizes: Iterable[int]
) -> Iterator[list[Layout]]:
    """The usual order in any number of groups; then v elsewhere."""
    from modelinspect.live.symmetries import Layout

    common = gcd(*lengths.values())
    said = [*counts, *(common // size for size in sizes if size and common % size == 0)]
    some = [n for n in range(2, common) if common % n == 0]
    groups = list(dict.fromkeys(n for n in (1, *said, *some) if n and common % n == 0))[:_MOST_GROUPS]
    for orders in ((("q", "k", "v"),), (("q", "v", "k"), ("v", "q", "k"))):
        yield [
            Layout(roles, tuple(lengths[role] for role in roles), count)
            for count in groups
            for roles in orders
        ]


def _downs(plan: Plan, unit: Unit, width: int) -> Iterator[list[str]]:
    """Matrices beside a module, or in it, that may take what its gate lets through."""
    names = [row.name for row in plan.target if len(row.shape) > 1 and width in row.shape]
    own = set(_own_names(unit))
    for depth in (0, 1, 2):
        found: dict[str, list[str]] = {}
        for path in unit.paths:
            above = ".".join(path.split(".")[: max(0, path.count(".") + 1 - depth)])
            prefix = f"{above}." if above else ""
            for name in names:
                if name.startswith(prefix):
                    found.setdefault(name[len(prefix) :], []).append(name)
        for members in found.values():
            if (
                len(members) == len(unit.paths)
                and len({*members}) == len(members)
                and _is_apart(plan, members, own, width)
            ):
                yield members


def _is_apart(plan: Plan, members: Sequence[str], own: set[str], width: int) -> bool:
    """Not the fused tensor itself: that has the width twice."""
    return not any(name in own and 2 * width in plan.target[name].shape for name in members)
