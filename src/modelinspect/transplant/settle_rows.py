"""
What a target that is run alone can be asked about the rows of its weights, and what follows.

A question is about tensors of one module in all blocks that are alike. Its answer gives their
assignments other steps: from how rows lie in the source, which its names tell, to how they
lie in the target, which was measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple

from modelinspect.errors import ModelInspectError
from modelinspect.transplant.matching.vocabulary import concepts_of, tokens_of
from modelinspect.transplant.plan import Assignment, Label, Piece, Plan
from modelinspect.transplant.prove_units import Unit, units_of
from modelinspect.transplant.transforms import Step, shape_after

if TYPE_CHECKING:
    from modelinspect.live.symmetries import Layout, Rotation, Rows, SymmetryBench

__all__ = ["SHOWN", "Answer", "Question", "questions_of"]

SHOWN = "the target's own symmetry shows how its rows lie"
_ATTENTION = ("q", "k", "v")
_KEYED = ("k", "v")
_GATED = ("gate", "up")
_MOST_GROUPS = 12
_USUAL_SIZES = (64, 32, 128, 16, 8, 80, 96, 4, 256)
_OPEN = re.compile(
    "^fused of |^a part of what is fused|rows that are fused|go head by head|rows of rotary heads"
    "|pixels of a patch|stored less one"
)
"""Reasons of rows that are ambiguous for no other cause than how rows lie."""

Shape = tuple[int, ...]
Values = Callable[[str], Any]


class Answer(NamedTuple):
    """What was found."""

    said: str
    """``holds q, k, v one after the other``."""
    changes: tuple[Assignment, ...]


class View:
    """
    A plan, and what is asked for all the time.
    """

    def __init__(self, plan: Plan) -> None:
        self.source = {row.name: row.shape for row in plan.source}
        self.target = {row.name: row.shape for row in plan.target if row.persistent is not False}
        self.now = {each.target: each for each in plan.assignments}
        self.units = units_of(self.target)
        self.by_pattern = {unit.pattern: unit for unit in self.units}

    def open(self, name: str) -> Assignment | None:
        """The assignment of a tensor, if how its rows lie is not certain."""
        each = self.now.get(name)
        if each is None or not (each.label == "likely" or _is_open(each)):
            return None
        return each


def _is_open(assignment: Assignment) -> bool:
    return assignment.label == "ambiguous" and bool(_OPEN.search(assignment.reason))


def own_names(unit: Unit) -> list[str]:
    """Of the tensors of a module itself, in all blocks."""
    own = [leaf for leaf, _ in unit.leaves if "." not in leaf]
    return [f"{path}.{leaf}" if path else leaf for path in unit.paths for leaf in own]


@dataclass(frozen=True)
class Question:
    """About tensors of one module, in all blocks that are alike."""

    view: View
    unit: Unit
    assignments: tuple[Assignment, ...]

    @property
    def is_ambiguous(self) -> bool:
        """The plan leaves it open."""
        return any(each.label == "ambiguous" for each in self.assignments)

    def answered(self, bench: SymmetryBench) -> Answer | None:
        """What the target shows; None: nothing, or the source's names don't tell the rest."""
        raise NotImplementedError


def questions_of(plan: Plan, values: Values | None = None) -> Iterator[Question]:
    """
    All that the target could show of a plan.

    Args:
        plan: As names and shapes have it.
        values: Reads a tensor of the source by name; None: it has none.
    """
    if not any(each.label == "likely" or _is_open(each) for each in plan.assignments):
        return
    view = View(plan)
    for unit in view.units:
        found = [each for name in own_names(unit) if (each := view.open(name)) is not None]
        if found:
            yield from _fused(view, unit, found)
            yield from _copied(view, unit, found)
            yield from _rotated(view, unit, found)
            yield from _patches(view, unit, found)
            if values is not None:
                yield from _normed(view, unit, found, values)
    yield from _parted(view)


# ------------------------------------------------------------------------- names


def role_of(name: str) -> str:
    """What a tensor is to its layer: q, k, v, gate or up; empty where its name does not say."""
    for component in reversed(name.split(".")):
        members = {m for family, m in concepts_of(component).members if family in ("qkvo", "glu")}
        found = members & {*_ATTENTION, *_GATED}
        if len(found) == 1:
            return found.pop()
        # The three matrices of a gated net, as many papers number them.
        if component in ("w1", "w3"):
            return {"w1": "gate", "w3": "up"}[component]
    return ""


def _module_name(name: str) -> str:
    """The module that a tensor is of; of a fused tensor of torch the tensor itself."""
    parts = name.split(".")
    return parts[-1] if len(parts) == 1 or "proj" in parts[-1] else parts[-2]


def _is_by_head(name: str) -> bool:
    """One word for all three, query_key_value: rows that go head by head, as is the custom."""
    return tokens_of(_module_name(name))[:3] == ("query", "key", "value")


def _is_stacked(name: str) -> bool:
    """A word such as qkv: all of q, then all of k, then all of v."""
    own = _module_name(name)
    return not _is_by_head(name) and own != "wqkv" and ("qkvo", "qkv") in concepts_of(own).members


def _is_norm(name: str) -> bool:
    return ("kind", "norm") in concepts_of(".".join(name.split(".")[-2:])).members


def _source_rotation(source: str, target: str, shown: Rotation) -> tuple[Rotation, Label] | None:
    """How rows of heads are turned where the source's weights are at home; None: its name does not tell."""
    ours, theirs = source.split("."), target.split(".")
    if ours[-3:] == theirs[-3:] and len(ours) > 2:
        return shown, "likely"  # one calls the same layer the same: hardly two customs
    own = _module_name(source)
    if own in ("wq", "wk"):
        return "pairs", "likely"
    if own.startswith("to_"):
        return None
    # Names other than wq and wk are at home where halves are turned; a target for which that
    # does not hold says that its source may be another exception.
    is_exception = shown == "pairs" and _module_name(target) not in ("wq", "wk")
    return "halves", "ambiguous" if is_exception else "likely"


def shown(assignment: Assignment, label: Label = "likely") -> Assignment:
    """With the label and the reason of what was measured."""
    reason = assignment.reason
    if label == "ambiguous":
        reason = "the target turns neighbouring rows of its heads, and no name tells whether the source does"
    elif assignment.label == "ambiguous" or " may " in reason:
        reason = SHOWN
    elif SHOWN not in reason:
        reason = f"{reason}; {SHOWN}"
    return assignment._replace(label=label, reason=reason)


# ----------------------------------------------------------- joined of what is apart


def _fused(view: View, unit: Unit, found: Sequence[Assignment]) -> Iterator[Question]:
    groups: dict[tuple[str, ...], list[Assignment]] = {}
    for each in found:
        roles = _joined_roles(each)
        if roles:
            groups.setdefault(roles, []).append(each)
    for roles, members in groups.items():
        yield _Fused(view, unit, tuple(members), roles)


def _joined_roles(assignment: Assignment) -> tuple[str, ...]:
    """``q, k, v`` or ``gate, up``, where source tensors of these roles are joined."""
    if not assignment.steps or assignment.steps[0].op != "cat":
        return ()
    roles = [role_of(piece.name) if piece.name else "" for piece in assignment.pieces]
    for wanted in (_ATTENTION, _KEYED, _GATED):
        runs = [roles[at : at + len(wanted)] for at in range(0, len(roles), len(wanted))]
        if all(_is_run(run, wanted) for run in runs) and any(roles):
            return wanted
    return ()


def _is_run(roles: Sequence[str], wanted: Sequence[str]) -> bool:
    """Each role once, but for constants."""
    named = [role for role in roles if role]
    return len(roles) == len(wanted) and len({*named}) == len(named) and {*named} <= {*wanted}


@dataclass(frozen=True)
class _Fused(Question):
    """Tensors that are joined of q, k and v, or of gate and up."""

    roles: tuple[str, ...]

    def answered(self, bench: SymmetryBench) -> Answer | None:
        """The order in which the target has them, and in how many groups."""
        axes = [self._axis(each) for each in self.assignments]
        lengths = self._lengths()
        if None in axes or lengths is None:
            return None
        fused = [(each.target, axis) for each, axis in zip(self.assignments, axes) if axis is not None]
        layout = self._measured(bench, fused, lengths)
        if layout is None:
            return None
        changed = [self._rebuilt(each, layout) for each in self.assignments]
        kept = [each for each in changed if each is not None]
        if len(kept) < len(changed):
            return None
        said = f"holds {_said(layout)}"
        if self.roles != _ATTENTION:
            return Answer(said, tuple(map(shown, kept)))
        turned = self._turned(bench, fused, layout, kept)
        return Answer(said, turned) if turned else Answer(said, tuple(map(shown, kept)))

    def _measured(
        self, bench: SymmetryBench, fused: Sequence[tuple[str, int]], lengths: Mapping[str, int]
    ) -> Layout | None:
        if self.roles == _GATED:
            downs = _downs(self.view, self.unit, lengths["up"])
            return bench.gated_layout(fused, _gated_layouts(lengths), downs)
        queries = self._queries() if self.roles == _KEYED else ()
        if self.roles == _KEYED and not queries:
            return None
        return _attention_layout(bench, self.view, self.unit, fused, [lengths], queries)

    def _queries(self) -> list[Rows]:
        """Rows of the q that stands beside k and v."""
        from modelinspect.live.symmetries import Rows

        return [Rows(name, 0) for name in _beside(self.view, self.unit, "q")]

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
        for each in self.assignments:
            axis, found = each.steps[0].args[0], dict[str, int]()
            for piece, role in zip(each.pieces, self._roles_of(each)):
                shape = self.view.source[piece.name] if piece.name else ()
                found.setdefault(role, shape_after(shape, piece.steps)[axis])
            if found.keys() == {*self.roles}:
                return found
        return None

    def _roles_of(self, assignment: Assignment) -> list[str]:
        """A part that is a constant stands in the place that the others leave."""
        roles: list[str] = []
        for at in range(0, len(assignment.pieces), len(self.roles)):
            run = assignment.pieces[at : at + len(self.roles)]
            named = [role_of(piece.name) if piece.name else "" for piece in run]
            left = iter([role for role in self.roles if role not in named])
            roles += [role or next(left) for role in named]
        return roles

    def _rebuilt(self, assignment: Assignment, layout: Layout) -> Assignment | None:
        """The pieces in the order in which the target has them."""
        roles, count = self._roles_of(assignment), len(self.roles)
        if len(roles) > count and layout.groups != 1:
            return None
        pieces: list[Piece] = []
        for at in range(0, len(roles), count):
            by_role = dict(zip(roles[at : at + count], assignment.pieces[at : at + count]))
            pieces += [by_role[role] for role in layout.roles]
        steps = (Step("cat", (assignment.steps[0].args[0], layout.groups)), *assignment.steps[1:])
        return assignment._replace(pieces=tuple(pieces), steps=steps)

    def _turned(
        self,
        bench: SymmetryBench,
        fused: Sequence[tuple[str, int]],
        layout: Layout,
        changed: Sequence[Assignment],
    ) -> tuple[Assignment, ...]:
        """With rows of q and k as the target turns them; empty where that is not known."""
        from modelinspect.live.symmetries import Rows

        q, k, v = ([Rows(name, axis, layout.rows(role)) for name, axis in fused] for role in "qkv")
        found = _Heads(self.view, self.unit, (q, k, v), _usual(layout)[:2]).rotation(bench)
        if found is None or found[0] == "none":
            return ()
        turned = [self._turned_parts(each, *found) for each in changed]
        kept = tuple(each for each in turned if each is not None)
        return kept if len(kept) == len(turned) else ()

    def _turned_parts(self, assignment: Assignment, target: Rotation, size: int) -> Assignment | None:
        """With steps for its q and k; None where a name does not tell how the source turns them."""
        axis = assignment.steps[0].args[0]
        label: Label = "likely"
        pieces = []
        for piece in assignment.pieces:
            steps: tuple[Step, ...] = ()
            if piece.name and role_of(piece.name) in ("q", "k"):
                told = _source_rotation(piece.name, assignment.target, target)
                if told is None:
                    return None
                label = told[1] if label == "likely" else label
                rows = shape_after(self.view.source[piece.name], piece.steps)[axis]
                steps = _turn(axis, rows, size, told[0], target)
            pieces.append(piece._replace(steps=(*piece.steps, *steps)))
        return shown(assignment._replace(pieces=tuple(pieces)), label)


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


_ORDERS: tuple[tuple[tuple[str, ...], ...], ...] = ((_ATTENTION,), (("q", "v", "k"), ("v", "q", "k")))
_KEY_ORDERS: tuple[tuple[tuple[str, ...], ...], ...] = ((_KEYED,), (("v", "k"),))


def _attention_layout(
    bench: SymmetryBench,
    view: View,
    unit: Unit,
    fused: Sequence[tuple[str, int]],
    lengths: Iterable[Mapping[str, int]],
    queries: Sequence[Rows] = (),
) -> Layout | None:
    """The usual order of q, k and v in any number of groups; then v elsewhere."""
    from modelinspect.live.symmetries import Layout

    names = {name for name, _ in fused}
    beside = [name for name in own_names(unit) if name not in names and len(view.target[name]) == 1]
    lengths = list(lengths)
    for orders in _KEY_ORDERS if queries else _ORDERS:
        for is_said in (True, False):
            layouts = [
                Layout(roles, tuple(each[role] for role in roles), count)
                for each in lengths
                for count in _groups(bench, each, is_said=is_said)
                for roles in orders
            ]
            found = bench.fused_layout(fused, layouts, beside, queries)
            if found is not None:
                return found
    return None


def _groups(bench: SymmetryBench, lengths: Mapping[str, int], *, is_said: bool) -> list[int]:
    """Those that attributes name; else whatever divides the rows."""
    common = gcd(*lengths.values())
    said = [1, *bench.head_counts, *(common // size for size in bench.head_sizes if common % size == 0)]
    said = [n for n in said if common % n == 0]
    others = [n for n in range(2, common) if common % n == 0 and n not in said]
    return list(dict.fromkeys(said if is_said else others))[:_MOST_GROUPS]


def _downs(view: View, unit: Unit, width: int) -> Iterator[list[str]]:
    """Matrices beside a module, or in it, that may take what its gate lets through."""
    names = [name for name, shape in view.target.items() if len(shape) > 1 and width in shape]
    own = {name for name in own_names(unit) if 2 * width in view.target[name]}
    for depth in (0, 1, 2):
        found: dict[str, list[str]] = {}
        for path in unit.paths:
            prefix = _above(path, depth)
            for name in names:
                if name.startswith(prefix):
                    found.setdefault(name[len(prefix) :], []).append(name)
        for members in found.values():
            if len({*members}) == len(members) == len(unit.paths) and own.isdisjoint(members):
                yield members


def _above(path: str, depth: int) -> str:
    """What the names of all in the module so many levels above begin with."""
    parts = path.split(".") if path else []
    kept = parts[: max(0, len(parts) - depth)]
    return ".".join(kept) + "." if kept else ""


# ----------------------------------------------------------------------- rotation


class _Heads(NamedTuple):
    """An attention of the target: rows of its q, k and v, of all blocks that are alike."""

    view: View
    unit: Unit
    parts: tuple[Sequence[Rows], Sequence[Rows], Sequence[Rows]]
    """The last is empty where it is not known."""
    lengths: tuple[int, int]
    """Of q and k."""

    def rotation(self, bench: SymmetryBench) -> tuple[Rotation, int] | None:
        """What is turned in each head, and how many rows a head has."""
        said = [
            *bench.head_sizes,
            *(length // n for length in self.lengths for n in bench.head_counts if length % n == 0),
        ]
        fitting = [n for n in said if self._fits(n)]
        sizes = list(dict.fromkeys(fitting or filter(self._fits, _USUAL_SIZES)))
        found = bench.rotation(*self.parts[:2], sizes, _norms(self.view, self.unit))
        if not found or found[0][0] == "none" or (fitting and len(found) == 1):
            return found[0] if found else None
        if len(found) == 1 and found[0][0] == "halves":
            return found[0]
        size = self.size(bench) if self.parts[2] else None
        return next((each for each in found if each[1] == size), None)

    def _fits(self, size: int) -> bool:
        return size > 2 and size % 2 == 0 and not any(length % size for length in self.lengths)

    def size(self, bench: SymmetryBench) -> int | None:
        """Rows of a head: where heads that change places show, else what attributes say, if they agree."""
        from modelinspect.live.symmetries import Rows

        wide, narrow = self.lengths
        divisors = [n for n in range(2, narrow) if narrow % n == 0]
        for after in _downs(self.view, self.unit, wide):
            if all(len(self.view.target[name]) == 2 for name in after):
                axis = 1 if self.view.target[after[0]][1] == wide else 0
                found = bench.head_size(self.parts, [Rows(name, axis) for name in after], divisors)
                if found is not None:
                    return found
        said = {wide // n for n in bench.head_counts if wide % n == 0}
        fitting = {n for n in (*said, *bench.head_sizes) if n and narrow % n == 0}
        return fitting.pop() if len(fitting) == 1 else None


def _norms(view: View, unit: Unit) -> list[str]:
    """Vectors of norms in the module around another, which may be of its q and k."""
    prefixes = tuple(_above(path, 1) for path in unit.paths)
    return [
        name
        for name, shape in view.target.items()
        if len(shape) == 1 and name.startswith(prefixes) and _is_norm(name)
    ]


def _turn(axis: int, rows: int, size: int, source: Rotation, target: Rotation) -> tuple[Step, ...]:
    if source == target or "none" in (source, target):
        return ()
    lengths = (size // 2, 2) if source == "pairs" else (2, size // 2)
    return (Step("swap", (axis, rows // size, *lengths)),)


def _rotated(view: View, unit: Unit, found: Sequence[Assignment]) -> Iterator[Question]:
    """Queries and keys apart, taken as they are or transposed."""
    if not unit.is_module or not all(_is_plain(each) for each in found):
        return
    if {role_of(each.sources[0]) for each in found} != {"q"} or any(_is_norm(each.target) for each in found):
        return
    above = unit.pattern.rpartition(".")[0]
    for pattern, other in view.by_pattern.items():
        if pattern.rpartition(".")[0] != above or not other.is_module or other.paths == unit.paths:
            continue
        theirs = [each for name in other.names() if (each := view.open(name)) is not None]
        if theirs and all(
            _is_plain(each) and role_of(each.sources[0]) == "k" and not _is_norm(each.target)
            for each in theirs
        ):
            yield _Rotated(view, unit, tuple(found), tuple(theirs), _beside(view, unit, "v"))
            return


def _beside(view: View, unit: Unit, role: str) -> tuple[str, ...]:
    """Names of q, or v, beside a module of the same attention."""
    above = unit.pattern.rpartition(".")[0]
    for pattern, other in view.by_pattern.items():
        if pattern.rpartition(".")[0] == above and other.is_module and len(other.paths) == len(unit.paths):
            found = [each for name in other.names() if (each := view.now.get(name)) is not None]
            roles = {role_of(each.sources[0]) for each in found if _is_plain(each)}
            if len(found) == len(other.names()) and roles == {role} and not any(map(_is_norm, other.names())):
                return other.names()
    return ()


def _is_plain(assignment: Assignment) -> bool:
    steps = [*assignment.pieces[0].steps, *assignment.steps]
    return len(assignment.sources) == len(assignment.pieces) == 1 and all(s.op == "transpose" for s in steps)


@dataclass(frozen=True)
class _Rotated(Question):
    """Queries and keys that are apart on both sides."""

    keys: tuple[Assignment, ...]
    values: tuple[str, ...]

    @property
    def is_ambiguous(self) -> bool:
        """The plan leaves it open."""
        return any(each.label == "ambiguous" for each in (*self.assignments, *self.keys))

    def answered(self, bench: SymmetryBench) -> Answer | None:
        """How the target turns rows of heads, with the steps from how the source does."""
        from modelinspect.live.symmetries import Rows

        lengths = self._rows(self.assignments), self._rows(self.keys)
        if None in lengths:
            return None
        q, k = ([Rows(each.target, 0) for each in part] for part in (self.assignments, self.keys))
        v = [Rows(name, 0) for name in self.values]
        both = (lengths[0] or 0, lengths[1] or 0)
        found = _Heads(self.view, self.unit, (q, k, v), both).rotation(bench)
        if found is None:
            return None
        changes = []
        for each in (*self.assignments, *self.keys, *self._norms_of(both, found[1])):
            told = _source_rotation(each.sources[0], each.target, found[0])
            if found[0] == "none":
                told = ("none", "likely")
            if told is None:
                return None
            steps = _turn(0, self.view.target[each.target][0], found[1], told[0], found[0])
            if _is_norm(each.target) and not steps:
                continue
            changes.append(shown(_followed(each, steps), told[1]))
        said = {"none": "no rows", "pairs": "neighbouring rows", "halves": "halves of rows"}[found[0]]
        return Answer(f"turns {said} of its heads", tuple(changes))

    def _rows(self, part: Sequence[Assignment]) -> int | None:
        rows = {self.view.target[each.target][0] for each in part}
        return rows.pop() if len(rows) == 1 else None

    def _norms_of(self, lengths: tuple[int, int], size: int) -> list[Assignment]:
        """Of the norms of q and k, which have a number for each row."""
        names = _norms(self.view, self.unit)
        roles = {"q": lengths[0], "k": lengths[1]}
        return [
            each
            for name in names
            if (each := self.view.now.get(name)) is not None
            and _is_plain(each)
            and (role := role_of(each.sources[0])) in roles
            and self.view.target[name][0] in (size, roles[role])
        ]


def _followed(assignment: Assignment, steps: tuple[Step, ...]) -> Assignment:
    """With more steps at the end."""
    if not steps:
        return assignment
    if len(assignment.pieces) > 1 or assignment.steps:
        return assignment._replace(steps=(*assignment.steps, *steps))
    (piece,) = assignment.pieces
    return assignment._replace(pieces=(piece._replace(steps=(*piece.steps, *steps)),))


# ------------------------------------------------------------- fused on both sides


def _copied(view: View, unit: Unit, found: Sequence[Assignment]) -> Iterator[Question]:
    """Fused tensors that are taken as they are."""
    plain = [each for each in found if _is_plain(each)]
    told = [each for each in plain if _is_by_head(each.sources[0]) or _is_stacked(each.sources[0])]
    if told and len({_module_name(each.sources[0]) for each in told}) <= 2:
        yield _Copied(view, unit, tuple(told))


@dataclass(frozen=True)
class _Copied(Question):
    """q, k and v in one tensor on both sides."""

    def answered(self, bench: SymmetryBench) -> Answer | None:
        """The steps from the order that is custom for the source's name to that of the target."""
        fused = self._axes()
        if not fused:
            return None
        rows = self.view.target[fused[0][0]][fused[0][1]]
        found = _attention_layout(bench, self.view, self.unit, fused, _splits(rows, bench))
        if found is None:
            return None
        changes = []
        for each, (_, axis) in zip(self.assignments, fused):
            if _is_by_head(each.sources[0]):
                given = self._by_head(bench, found, fused)
            else:
                given = found._replace(roles=_ATTENTION, lengths=_usual(found), groups=1)
            if given is None:
                return None
            changes.append(shown(_reordered(each, axis, given, found)))
        return Answer(f"holds {_said(found)}", tuple(changes))

    def _axes(self) -> list[tuple[str, int]]:
        """Each tensor with the axis of its rows, which is that of the bias and the longer one."""
        shapes = [self.view.target[each.target] for each in self.assignments]
        wide = {shape for shape in shapes if len(shape) == 2}
        if len(wide) != 1 or any(len(shape) > 2 for shape in shapes):
            return []
        (shape,) = wide
        lengths = {each[0] for each in shapes if len(each) == 1} or {max(shape)}
        if len(lengths) != 1 or shape[0] == shape[1] or not lengths <= {*shape}:
            return []
        axis = shape.index(lengths.pop())
        return [
            (each.target, axis if len(self.view.target[each.target]) == 2 else 0) for each in self.assignments
        ]

    def _by_head(
        self, bench: SymmetryBench, found: Layout, fused: Sequence[tuple[str, int]]
    ) -> Layout | None:
        """The layout that goes head by head: one group for each head of k and v."""
        lengths = _usual(found)
        if found.groups > 1 and found.roles == _ATTENTION:
            return found
        from modelinspect.live.symmetries import Rows

        q, k, v = ([Rows(name, axis, found.rows(role)) for name, axis in fused] for role in _ATTENTION)
        size = _Heads(self.view, self.unit, (q, k, v), lengths[:2]).size(bench)
        return found._replace(roles=_ATTENTION, lengths=lengths, groups=lengths[1] // size) if size else None


def _usual(layout: Layout) -> tuple[int, int, int]:
    by_role = dict(zip(layout.roles, layout.lengths))
    return by_role["q"], by_role["k"], by_role["v"]


def _splits(rows: int, bench: SymmetryBench) -> list[dict[str, int]]:
    """How many of the rows may be of q, k and v."""
    found = [(rows // 3,) * 3] if rows % 3 == 0 else []
    for heads in bench.head_counts:
        for shared in (*bench.head_counts, 1):
            if shared < heads and heads % shared == 0 and rows % (heads + 2 * shared) == 0:
                size = rows // (heads + 2 * shared)
                found.append((heads * size, shared * size, shared * size))
    return [dict(zip(_ATTENTION, each)) for each in dict.fromkeys(found)]


def _reordered(assignment: Assignment, axis: int, given: Layout, wanted: Layout) -> Assignment:
    """With the steps from one layout to another."""
    if (given.roles, given.groups) == (wanted.roles, wanted.groups):
        return assignment
    lengths = {*given.lengths}
    if given.roles == wanted.roles and len(lengths) == 1 and 1 in (given.groups, wanted.groups):
        rows = sum(given.lengths)
        heads = max(given.groups, wanted.groups)
        sizes = (len(given.roles), heads) if given.groups == 1 else (heads, len(given.roles))
        assert rows % (sizes[0] * sizes[1]) == 0
        return _followed(assignment, (Step("swap", (axis, 1, *sizes)),))
    (piece,) = assignment.pieces
    before = (*piece.steps, *assignment.steps)
    whole = sum(given.lengths) // given.groups
    starts = {role: sum(given.lengths[:at]) // given.groups for at, role in enumerate(given.roles)}
    pieces = []
    for role, length in zip(wanted.roles, wanted.lengths):
        start, stop = starts[role], starts[role] + length // given.groups
        assert stop <= whole
        pieces.append(Piece(piece.name, (*before, Step("take", (axis, start, stop, given.groups)))))
    return assignment._replace(pieces=tuple(pieces), steps=(Step("cat", (axis, wanted.groups)),))


# ------------------------------------------------------------- parts of what is fused


def _parted(view: View) -> Iterator[Question]:
    """q, k and v apart in the target, and one tensor that goes head by head in the source."""
    by_place: dict[str, dict[str, Unit]] = {}
    for unit in view.units:
        if not unit.is_module or not unit.pattern:
            continue
        found = [view.open(name) for name in unit.names()]
        if any(each is None or not _is_part(each) or not _is_by_head(each.sources[0]) for each in found):
            continue
        role = role_of(unit.pattern)
        if role in _ATTENTION and not _is_norm(unit.pattern):
            by_place.setdefault(unit.pattern.rpartition(".")[0], {})[role] = unit
    for units in by_place.values():
        if units.keys() == {*_ATTENTION}:
            members = tuple(units[role] for role in _ATTENTION)
            names = [name for unit in members for name in unit.names()]
            yield _Parted(view, members[0], tuple(view.now[name] for name in names), members)


def _is_part(assignment: Assignment) -> bool:
    steps = [step for step in assignment.pieces[0].steps if step.op != "transpose"]
    return len(assignment.pieces) == 1 and not assignment.steps and [step.op for step in steps] == ["take"]


@dataclass(frozen=True)
class _Parted(Question):
    """q, k and v of a tensor that goes head by head."""

    units: tuple[Unit, ...]

    def answered(self, bench: SymmetryBench) -> Answer | None:
        """The rows of each part, now that it is known how many a head has."""
        from modelinspect.live.symmetries import Rows

        q, k, v = ([Rows(name, 0) for name in unit.names()] for unit in self.units)
        rows = [{self.view.target[each.name][0] for each in part} for part in (q, k, v)]
        if any(len(each) != 1 for each in rows):
            return None
        lengths = (rows[0].pop(), rows[1].pop(), rows[2].pop())
        size = _Heads(self.view, self.units[0], (q, k, v), lengths[:2]).size(bench)
        if size is None:
            return None
        groups = lengths[1] // size
        changes: list[Assignment] = []
        start = 0
        for unit, length in zip(self.units, lengths):
            bounds = (start // groups, (start + length) // groups, groups)
            changes += [shown(_taken(self.view.now[name], bounds)) for name in unit.names()]
            start += length
        return Answer(f"has heads of {size} rows", tuple(changes))


def _taken(assignment: Assignment, bounds: tuple[int, int, int]) -> Assignment:
    """With other rows of what is fused: start, stop and groups."""
    (piece,) = assignment.pieces
    steps = tuple(
        Step("take", (step.args[0], *bounds)) if step.op == "take" else step for step in piece.steps
    )
    return assignment._replace(pieces=(piece._replace(steps=steps),))


# ----------------------------------------------------------------------- patches


def _patches(view: View, unit: Unit, found: Sequence[Assignment]) -> Iterator[Question]:
    """A matrix over patches whose source is a convolution."""
    for each in found:
        shapes = view.target[each.target], view.source[each.sources[0]] if each.sources else ()
        if (
            "pixels of a patch" in each.reason
            and len(each.pieces) == 1
            and (len(shapes[0]), len(shapes[1])) == (2, 4)
            and shapes[1][1] > 1
            and shapes[0] == (shapes[1][0], shapes[1][1] * shapes[1][2] * shapes[1][3])
        ):
            yield _Patches(view, unit, (each,))


@dataclass(frozen=True)
class _Patches(Question):
    """The convolution over patches of a source as a matrix."""

    def answered(self, bench: SymmetryBench) -> Answer | None:
        """Whether the target has the channels of a pixel together, or the pixels of a channel."""
        (each,) = self.assignments
        shape = self.view.source[each.sources[0]]
        width = self.view.target[each.target][1]
        prefixes = tuple(_above(path, 1) for path in self.unit.paths)
        beside = [
            name for name, own in self.view.target.items() if own == (width,) and name.startswith(prefixes)
        ]
        order = bench.patch_order([each.target], beside, shape[1])
        if order is None:
            return None
        steps = (Step("permute", (0, 2, 3, 1)),) if order == "channels last" else ()
        piece = Piece(each.pieces[0].name, (*steps, Step("reshape", (shape[0], width))))
        changed = each._replace(pieces=(piece,), steps=())
        return Answer(f"takes patches with {order}", (shown(changed),))


# ------------------------------------------------------------------------- norms


def _normed(view: View, unit: Unit, found: Sequence[Assignment], values: Values) -> Iterator[Question]:
    """Weights of norms without a bias, whose values lie around 0: they are stored less one."""
    if [len(shape) for _, shape in unit.leaves] != [1] or len(found) < len(unit.paths):
        return
    if not all(_is_plain(each) and (_is_norm(each.target) or _is_norm(each.sources[0])) for each in found):
        return
    if all(_lies_around_0(each.sources[0], values) for each in found):
        yield _Normed(view, unit, tuple(found))


def _lies_around_0(name: str, values: Values) -> bool:
    """
    A mean near 0 is not enough: weights of norms in trained networks may be small.

    They are hardly negative, though.
    """
    try:
        array = values(name)
    except ModelInspectError:
        return False  # what can't be read says nothing
    if array is None or not array.size:
        return False
    return abs(float(array.mean())) < _NEAR and float((array < 0).mean()) > _NEGATIVE


_NEAR = 0.3
_NEGATIVE = 0.2


@dataclass(frozen=True)
class _Normed(Question):
    """Weights of norms that are stored less one in the source."""

    def answered(self, bench: SymmetryBench) -> Answer | None:
        """Whether the target adds one as well."""
        weights = [each.target for each in self.assignments]
        offset = bench.norm_offset(weights)
        if offset is None:
            return None
        steps = () if offset else (Step("add", (1,)),)
        changes = tuple(shown(_followed(each, steps)) for each in self.assignments)
        return Answer(f"adds {offset or 'nothing'} to its weights, and the source's lie around 0", changes)
