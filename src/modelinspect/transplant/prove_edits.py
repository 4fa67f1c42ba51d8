"""
What else an assignment could be: the changes to a plan that a run of both models can judge.

Nothing here knows a model. A change is made in all blocks that repeat at once: exchange
modules of equal shapes, other layouts of what is fused, rows of rotary halves, transposes of
squares, halves, gates, unit offsets of norms, reversed order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, permutations
from typing import NamedTuple

from modelinspect.errors import visible
from modelinspect.transplant.matching.links import HINTED
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.prove_fills import fills
from modelinspect.transplant.prove_units import Unit, units_of
from modelinspect.transplant.transforms import Step, inverse, shape_after

__all__ = ["Edit", "Heads", "edited", "edits"]

Shape = tuple[int, ...]
_FAR = 10_000
_MOST_PARTNERS = 8
_MOST_PERMUTED = 4
_SHARES = (4, 8, 2)
"""Groups that are no heads: devices among which a model was once divided."""
_NEAREST = 8
"""Modules that are looked at together, all that is plain before all that is rare."""
_WAYS = {True: "halves to pairs", False: "pairs to halves"}


class Edit(NamedTuple):
    """One change to a plan."""

    how: str
    changes: tuple[Assignment, ...]


class Heads(NamedTuple):
    """What the two models' attributes say of attention, the likeliest first."""

    counts: tuple[int, ...]
    """Numbers of heads."""
    sizes: tuple[int, ...]
    """Rows of one head."""

    def sizes_for(self, *rows: int) -> list[int]:
        """Sizes of heads that divide all numbers of rows, what attributes say before powers of two."""
        said = [*self.sizes, *(rows[0] // count for count in self.counts if count and not rows[0] % count)]
        usual = [64, 32, 128, 16, 8, 80, 96, 4, 256] if not said else [64, 128]
        fitting = (n for n in (*said, *usual) if n > 1 and all(row % n == 0 for row in rows))
        return list(dict.fromkeys(fitting))[:6]


def edited(plan: Sequence[Assignment], changes: Iterable[Assignment]) -> tuple[Assignment, ...]:
    """The assignments with some of them changed, others added."""
    new = {change.target: change for change in changes}
    kept = [new.pop(each.target, each) for each in plan]
    return (*kept, *new.values())


def edits(plan: Plan, near: Mapping[str, int], heads: Heads, *, apart: bool = False) -> Iterator[Edit]:
    """
    Changes to a plan, those near a place first.

    Args:
        plan: As it is.
        near: Names of the target to how far they are from what is wrong.
        heads: To take fused and rotary rows apart.
        apart: Blocks are changed one by one.
    """
    workshop = _Workshop(plan, near, heads, apart=apart)
    seen: set[tuple[Assignment, ...]] = set()
    for edit in workshop.edits():
        if edit.changes and edit.changes not in seen and not workshop.contradicts(edit):
            seen.add(edit.changes)
            yield edit


class _Workshop:
    def __init__(self, plan: Plan, near: Mapping[str, int], heads: Heads, *, apart: bool) -> None:
        self._plan, self._heads = plan, heads
        self._now = {each.target: each for each in plan.assignments}
        self._shapes = {row.name: row.shape for row in plan.target if row.persistent is not False}
        self._source_shapes = {row.name: row.shape for row in plan.source}
        units = units_of({name: shape for name, shape in self._shapes.items() if name in self._now})
        if apart:
            units = tuple(
                unit._replace(pattern=path, block="", paths=(path,)) for unit in units for path in unit.paths
            )
        self._distance = {
            unit: min((near.get(name, _FAR) for name in unit.names()), default=_FAR) for unit in units
        }
        self._units = sorted(units, key=lambda unit: self._distance[unit])
        self._modules = [unit for unit in self._units if unit.is_module]

    def contradicts(self, edit: Edit) -> bool:
        """Whether another source is taken for what a person has said."""
        return any(
            now is not None and now.reason.startswith(HINTED) and now.sources != change.sources
            for change in edit.changes
            for now in (self._now.get(change.target),)
        )

    # ------------------------------------------------------------------ order

    def edits(self) -> Iterator[Edit]:
        """From the nearest module on; what concerns all modules at once comes in between."""
        yield from self._missing()
        near = [unit for unit in self._modules if self._distance[unit] < _FAR]
        if near and all(len(shape) == 1 for _, shape in near[0].leaves):
            yield from self._offsets(near[0])
        rounds: tuple[tuple[Callable[[Unit], Iterator[Edit]], ...], ...] = (
            (self._exchanges, self._leaf_exchanges, self._gates, self._fused, self._rotary, self._transposes),
            (self._halves, self._columns),
            (self._parts, self._rotary_fused, self._rotary_in_part, self._reversed),
        )
        for start in range(0, len(near), _NEAREST):
            for makers in rounds:
                for unit in near[start : start + _NEAREST]:
                    for make in makers:
                        yield from make(unit)
            if start == 0 and near:
                yield from self._everywhere()
                yield from self._offsets(near[0])
                yield from self._subtrees()

    # -------------------------------------------------------------- exchanges

    def _partners(self, unit: Unit, units: Sequence[Unit]) -> list[Unit]:
        """Units of the same shapes in the same blocks."""
        wanted = _signature(unit)
        alike = [
            other
            for other in units
            if other.pattern != unit.pattern
            and other.block == unit.block
            and len(other.paths) == len(unit.paths)
            and _signature(other) == wanted
        ]
        return alike[:_MOST_PARTNERS]

    def _exchanges(self, unit: Unit) -> Iterator[Edit]:
        partners = self._partners(unit, self._modules)
        for other in partners:
            yield Edit(f"{_short(unit)} and {_short(other)} exchanged", self._permuted([unit, other], (1, 0)))
        group = [unit, *partners]
        if 3 <= len(group) <= _MOST_PERMUTED:
            for order in permutations(range(len(group))):
                moved = sum(at != place for place, at in enumerate(order))
                if moved > 2:
                    names = ", ".join(_short(group[at]) for at in order)
                    yield Edit(
                        f"{', '.join(map(_short, group))} in the order {names}", self._permuted(group, order)
                    )

    def _permuted(self, units: Sequence[Unit], order: Sequence[int]) -> tuple[Assignment, ...]:
        changes = []
        for place, at in enumerate(order):
            if place == at:
                continue
            here, there = units[place], units[at]
            leaves = _leaf_pairs(here, there)
            for path, other in zip(here.paths, there.paths):
                for leaf, other_leaf in leaves:
                    found = self._now[_name(other, other_leaf)]
                    changes.append(found._replace(target=_name(path, leaf)))
        return tuple(changes)

    def _leaf_exchanges(self, unit: Unit) -> Iterator[Edit]:
        """Of tensors in one module: a norm's weight and bias, two biases of a recurrent layer."""
        alike: dict[Shape, list[str]] = {}
        for leaf, shape in unit.leaves:
            alike.setdefault(shape, []).append(leaf)
        for leaves in alike.values():
            if not 2 <= len(leaves) <= _MOST_PERMUTED:
                continue
            for order in list(permutations(leaves))[1:]:
                changes = [
                    self._now[_name(path, there)]._replace(target=_name(path, here))
                    for path in unit.paths
                    for here, there in zip(leaves, order)
                    if here != there
                ]
                names = ", ".join(order)
                yield Edit(f"{', '.join(leaves)} of {_short(unit)} in the order {names}", tuple(changes))

    def _subtrees(self) -> Iterator[Edit]:
        """Of modules that hold modules: two towers, self and cross attention."""
        larger = [unit for unit in self._units if not unit.is_module and unit.pattern]
        for place, unit in enumerate(larger):
            for other in self._partners(unit, larger[place + 1 :]):
                if not _within(unit, other) and not _within(other, unit):
                    yield Edit(
                        f"{_short(unit)} and {_short(other)} exchanged", self._permuted([unit, other], (1, 0))
                    )

    def _reversed(self, unit: Unit) -> Iterator[Edit]:
        """The blocks of a row in the other order: its own module, then all that repeat with it."""
        if len(unit.paths) < 2:
            return
        together = [other for other in self._modules if other.block == unit.block]
        for units, what in ((together, visible(unit.block)), ([unit], _short(unit))):
            changes = [
                self._now[_name(there, leaf)]._replace(target=_name(here, leaf))
                for each in units
                for here, there in zip(each.paths, each.paths[::-1])
                for leaf, _ in each.leaves
                if here != there
            ]
            yield Edit(f"{what} in reversed order", tuple(changes))

    # ----------------------------------------------------------------- fused

    def _fused(self, unit: Unit) -> Iterator[Edit]:
        yield from self._fused_of_one(unit)
        yield from self._fused_of_several(unit)
        yield from self._shared_source(unit)
        yield from self._shared_by_two(unit)

    def _fused_of_one(self, unit: Unit) -> Iterator[Edit]:
        """One tensor to one tensor, but stacked on one side and head by head on the other."""
        rows = self._rows(unit)
        if not rows or len(self._now[unit.names()[0]].pieces) > 1:
            return
        for parts in (3, 2):
            for size in self._heads.sizes_for(rows // parts) if rows % parts == 0 else ():
                heads = rows // parts // size
                for step in (Step("swap", (0, 1, parts, heads)), Step("swap", (0, 1, heads, parts))):
                    if heads > 1:
                        how = f"{_short(unit)} from {parts} parts to {heads} heads"
                        yield self._stepped(unit, step, how)

    def _fused_of_several(self, unit: Unit) -> Iterator[Edit]:
        """Several tensors joined to one: in other groups, in another order."""
        leaf, *_ = [leaf for leaf, _ in unit.leaves]
        first = self._now[_name(unit.paths[0], leaf)]
        if len(first.pieces) < 2 or len(first.pieces) > 4 or not first.steps or first.steps[0].op != "cat":
            return
        lengths = [self._length(piece) for piece in first.pieces]
        if any(length is None for length in lengths):
            return
        known = [length for length in lengths if length]
        groups = [1, *(min(known) // size for size in self._heads.sizes_for(*known)), *_SHARES, min(known)]
        for order in permutations(range(len(known))):
            for count in dict.fromkeys(groups):
                if all(length % count == 0 for length in known):
                    step = Step("cat", (0, count))
                    changes = self._joined_anew(unit, order, step)
                    yield Edit(f"{_short(unit)} joined in {count} groups, parts {list(order)}", changes)

    def _joined_anew(self, unit: Unit, order: Sequence[int], step: Step) -> tuple[Assignment, ...]:
        changes = []
        for name in unit.names():
            now = self._now[name]
            if len(now.pieces) == len(order) and now.steps and now.steps[0].op == "cat":
                pieces = tuple(now.pieces[at] for at in order)
                changes.append(now._replace(pieces=pieces, steps=(step, *now.steps[1:])))
        return tuple(changes)

    def _length(self, piece: Piece) -> int | None:
        shape = self._source_shapes.get(piece.name)
        try:
            return None if shape is None else shape_after(shape, piece.steps)[0]
        except (ValueError, IndexError):
            return None

    def _shared_source(self, unit: Unit) -> Iterator[Edit]:
        """Several tensors out of one: other ranges of it, in other groups."""
        sharing = self._sharing(unit)
        if not 2 <= len(sharing) <= 4:
            return
        lengths = [self._rows(each) or 1 for each in sharing]
        sizes = self._heads.sizes_for(*lengths)
        groups = dict.fromkeys([1, *(min(lengths) // size for size in sizes), *_SHARES, min(lengths)])
        for order in permutations(range(len(sharing))):
            for count in groups:
                if all(length % count == 0 for length in lengths):
                    how = f"{', '.join(_short(sharing[at]) for at in order)} taken in {count} groups"
                    yield Edit(how, self._taken_anew([sharing[at] for at in order], count))

    def _shared_by_two(self, unit: Unit) -> Iterator[Edit]:
        """One tensor whose rows go to two, of which the smaller stacks two parts: q; k and v."""
        sharing = self._sharing(unit)
        if len(sharing) != 2:
            return
        lengths = [self._rows(each) or 1 for each in sharing]
        for at in (0, 1):
            whole, double = sharing[at], sharing[1 - at]
            one, both = lengths[at], lengths[1 - at]
            if both % 2:
                continue
            sizes = self._heads.sizes_for(one, both // 2)
            for groups in dict.fromkeys((1, *(both // 2 // size for size in sizes))):
                if one % groups or both // 2 % groups:
                    continue
                cuts = [0, one // groups, (one + both // 2) // groups, (one + both) // groups]
                takes = [Step("take", (0, start, stop, groups)) for start, stop in pairwise(cuts)]
                changes = [
                    self._now[name]._replace(pieces=(Piece(self._now[name].pieces[0].name, (takes[0],)),))
                    for name in whole.names()
                ]
                for name in double.names():
                    source = self._now[name].pieces[0].name
                    pieces = tuple(Piece(source, (take,)) for take in takes[1:])
                    changes.append(self._now[name]._replace(pieces=pieces, steps=(Step("cat", (0, 1)),)))
                how = f"{_short(whole)} and two parts of {_short(double)} taken in {groups} groups"
                yield Edit(how, tuple(changes))

    def _sharing(self, unit: Unit) -> list[Unit]:
        """The units that take ranges of the same source's rows, in the target's order."""
        sources = self._taken_from(unit)
        if sources is None:
            return []
        return [other for other in self._in_order() if self._taken_from(other) == sources]

    def _in_order(self) -> list[Unit]:
        place = {name: at for at, name in enumerate(self._shapes)}
        return sorted(self._modules, key=lambda unit: place[unit.names()[0]])

    def _taken_from(self, unit: Unit) -> tuple[str, ...] | None:
        found = []
        for name in unit.names():
            now = self._now[name]
            if len(now.pieces) != 1 or now.steps or not any(s.op == "take" for s in now.pieces[0].steps):
                return None
            found.append(now.pieces[0].name)
        return tuple(found)

    def _taken_anew(self, units: Sequence[Unit], groups: int) -> tuple[Assignment, ...]:
        changes, start = [], 0
        for unit in units:
            stop = start + (self._rows(unit) or 0) // groups
            for name in unit.names():
                (piece,) = self._now[name].pieces
                axis = next(step.args[0] for step in piece.steps if step.op == "take")
                step = Step("take", (axis, start, stop, groups))
                steps = tuple(step if each.op == "take" else each for each in piece.steps)
                changes.append(self._now[name]._replace(pieces=(piece._replace(steps=steps),)))
            start = stop
        return tuple(changes)

    # ---------------------------------------------------------------- rotary

    def _rotary(self, unit: Unit) -> Iterator[Edit]:
        """Rows of a layer, of each head the halves to pairs or back."""
        rows = self._rows(unit)
        if self._columns_of(unit) and rows:
            for size in self._heads.sizes_for(rows)[:4]:
                yield from self._turned_heads([unit], size, 1)

    def _rotary_in_part(self, unit: Unit) -> Iterator[Edit]:
        """The same of the first half or quarter of each head; then of two layers at once."""
        rows, columns = self._rows(unit), self._columns_of(unit)
        if not columns or not rows:
            return
        for size in self._heads.sizes_for(rows)[:3]:
            for share in (2, 4):
                yield from self._turned_heads([unit], size, share)
        others = [
            other
            for other in self._modules
            if other.block == unit.block
            and other.pattern != unit.pattern
            and self._columns_of(other) == columns
        ]
        for other in sorted(others, key=lambda each: not _are_query_and_key(unit, each))[:3]:
            for size in self._heads.sizes_for(rows, self._rows(other) or 1)[:2]:
                yield from self._turned_heads([unit, other], size, 1)

    def _turned_heads(self, units: Sequence[Unit], size: int, share: int) -> Iterator[Edit]:
        turned = size // share
        if turned < 4 or turned % 2 or size % share:
            return
        for halves_first in (True, False):
            changes: list[Assignment] = []
            for unit in units:
                changes += self._stepped_rows(unit, _turn(self._rows(unit) or 1, size, turned, halves_first))
            names = " and ".join(map(_short, units))
            how = f"rows of {names} from rotary {_WAYS[halves_first]}, heads of {size}"
            yield Edit(how if share == 1 else f"{how}, {turned} of them", tuple(changes))

    def _rotary_fused(self, unit: Unit) -> Iterator[Edit]:
        """The same where q, k and v are one tensor of the target."""
        rows = self._rows(unit)
        if not rows or not self._columns_of(unit):
            return
        if len(self._now[unit.names()[0]].pieces) > 1:
            yield from self._rotary_joined(unit)
            return
        layouts = []
        for size in self._heads.sizes_for(rows):
            count = rows // size
            for heads, shared in _splits(count, self._heads.counts):
                lengths = (heads * size, shared * size, shared * size)
                layouts += [(lengths, groups, size) for groups in dict.fromkeys((1, shared))]
        for lengths, groups, size in layouts[:24]:
            for halves_first in (True, False):
                yield self._turned_parts(unit, lengths, groups, size, halves_first)

    def _turned_parts(
        self, unit: Unit, lengths: tuple[int, int, int], groups: int, size: int, halves_first: bool
    ) -> Edit:
        changes = []
        for name in unit.names():
            now = self._now[name]
            if len(now.pieces) != 1 or now.steps:
                return Edit("", ())
            pieces, start = [], 0
            for part, length in enumerate(lengths):
                stop = start + length // groups
                take = Step("take", (0, start, stop, groups))
                turn = _turn(length, size, size, halves_first) if part < 2 else ()
                pieces.append(Piece(now.pieces[0].name, (*now.pieces[0].steps, take, *_only(turn))))
                start = stop
            changes.append(now._replace(pieces=tuple(pieces), steps=(Step("cat", (0, groups)),)))
        how = f"rows of q and k in {_short(unit)} from rotary {_WAYS[halves_first]}, heads of {size}"
        return Edit(how, tuple(changes))

    def _rotary_joined(self, unit: Unit) -> Iterator[Edit]:
        first = self._now[unit.names()[0]]
        lengths = [self._length(piece) or 0 for piece in first.pieces]
        if len(lengths) < 2 or 0 in lengths:
            return
        for size in self._heads.sizes_for(*lengths[:2]):
            for halves_first in (True, False):
                changes = []
                for name in unit.names():
                    now = self._now[name]
                    if len(now.pieces) != len(lengths):
                        continue
                    pieces = [
                        piece._replace(
                            steps=_simplified((*piece.steps, *_turn(length, size, size, halves_first)))
                        )
                        if part < 2
                        else piece
                        for part, (piece, length) in enumerate(zip(now.pieces, lengths))
                    ]
                    changes.append(now._replace(pieces=tuple(pieces)))
                how = f"rows of q and k in {_short(unit)} from rotary {_WAYS[halves_first]}, heads of {size}"
                yield Edit(how, tuple(changes))

    # --------------------------------------------------------- single tensors

    def _transposes(self, unit: Unit) -> Iterator[Edit]:
        names = [name for name in unit.names() if _is_square(self._shapes[name])]
        if names:
            yield self._with_step(names, Step("transpose"), f"{_short(unit)} transposed")

    def _halves(self, unit: Unit) -> Iterator[Edit]:
        """Halves of the rows exchanged, or taken in turn."""
        rows = self._rows(unit)
        if not rows or rows % 2 or rows == 2:
            return
        yield self._stepped(unit, Step("reorder", (0, 1, 0)), f"halves of {_short(unit)} exchanged")
        for step in (Step("swap", (0, 1, 2, rows // 2)), Step("swap", (0, 1, rows // 2, 2))):
            yield self._stepped(unit, step, f"halves of {_short(unit)} taken in turn")

    def _parts(self, unit: Unit) -> Iterator[Edit]:
        """Thirds and sixths of the rows in another order."""
        rows = self._rows(unit)
        if rows and rows % 3 == 0 and rows > 3:
            for order in list(permutations(range(3)))[1:]:
                yield self._stepped(
                    unit, Step("reorder", (0, *order)), f"thirds of {_short(unit)} {list(order)}"
                )
        if rows and rows % 6 == 0 and rows > 12:
            for order in ((1, 0, 2, 4, 3, 5), (3, 4, 5, 0, 1, 2), (0, 1, 3, 4, 2, 5), (0, 3, 1, 4, 2, 5)):
                yield self._stepped(
                    unit, Step("reorder", (0, *order)), f"sixths of {_short(unit)} {list(order)}"
                )

    def _gates(self, unit: Unit) -> Iterator[Edit]:
        """Of recurrent layers, also of a cell made of two: all tensors have so many gates of equal size."""
        parent = unit.pattern.rpartition(".")[0]
        cells = [unit, *(each for each in self._units if each.pattern == parent and not each.is_module)]
        for cell in cells:
            rows = {shape[:1] for _, shape in cell.leaves}
            if len(cell.leaves) < 2 or len(rows) != 1 or rows == {()}:
                continue
            (length,) = next(iter(rows))
            for gates in (4, 3):
                if length % gates or all(shape[1:] != (length // gates,) for _, shape in cell.leaves):
                    continue
                for order in list(permutations(range(gates)))[1:]:
                    how = f"gates of {_short(cell)} {list(order)}"
                    yield self._stepped(cell, Step("reorder", (0, *order)), how)

    def _columns(self, unit: Unit) -> Iterator[Edit]:
        """What a layer takes in: halves exchanged, channels before or after places, quarters."""
        names = [name for name in unit.names() if len(self._shapes[name]) >= 2]
        if not names:
            return
        width = self._shapes[names[0]][1]
        same = [name for name in names if self._shapes[name][1] == width]
        if width % 2 == 0 and width > 2:
            yield self._with_step(
                same, Step("reorder", (1, 1, 0)), f"halves of the inputs of {_short(unit)} exchanged"
            )
        if width % 4 == 0 and width > 4:
            yield from self._quarters(unit, same, width)
        channels = [
            c for c in (self._channels() if len(self._shapes[names[0]]) == 2 else ()) if 1 < c < width
        ]
        for count in [c for c in channels if width % c == 0][:6]:
            for step in (
                Step("swap", (1, 1, count, width // count)),
                Step("swap", (1, 1, width // count, count)),
            ):
                how = f"inputs of {_short(unit)} as {step.args[2]} × {step.args[3]} exchanged"
                yield self._with_step(same, step, how)
        if all(len(self._shapes[name]) == 4 for name in same) and len(same) == len(unit.paths):
            shape = self._shapes[same[0]]
            last = (Step("reshape", (shape[0], *shape[2:], shape[1])), Step("permute", (0, 3, 1, 2)))
            first = (Step("permute", (0, 2, 3, 1)), Step("reshape", shape))
            for steps in (last, first) if shape[2] * shape[3] > 1 else ():
                yield self._with_steps(same, steps, f"channels of {_short(unit)} first or last")
            both = (Step("flip", (2,)), Step("flip", (3,)))
            yield self._with_steps(same, both, f"kernels of {_short(unit)} turned round")
            if self._shapes[same[0]][2] == self._shapes[same[0]][3] > 1:
                yield self._with_step(
                    same, Step("permute", (0, 1, 3, 2)), f"kernels of {_short(unit)} transposed"
                )

    def _quarters(self, unit: Unit, names: Sequence[str], width: int) -> Iterator[Edit]:
        """Four neighbours that are merged, together with the norm before."""
        norms = [
            name
            for other in self._modules
            if other.block == unit.block
            and other.pattern.rpartition(".")[0] == unit.pattern.rpartition(".")[0]
            for name in other.names()
            if self._shapes[name] == (width,)
        ]
        for order in ((0, 2, 1, 3), (3, 2, 1, 0), (1, 0, 3, 2)):
            linear = self._with_step(names, Step("reorder", (1, *order)), "")
            norm = self._with_step(norms, Step("reorder", (0, *order)), "")
            how = f"quarters of the inputs of {_short(unit)} {list(order)}"
            yield Edit(how, (*linear.changes, *norm.changes))
            if norm.changes:
                yield Edit(how, linear.changes)

    def _channels(self) -> list[int]:
        """Numbers of channels that occur, the smallest last but for those of images."""
        found = {shape[0] for shape in self._shapes.values() if len(shape) >= 3}
        return [*sorted(found, reverse=True), 3, 4]

    # -------------------------------------------------------------- everything

    def _offsets(self, unit: Unit) -> Iterator[Edit]:
        """Norms that keep their weight less one; all of them, then this one."""
        for count in (1, -1):
            step = Step("add", (count,))
            alone = [u for u in self._modules if len(u.leaves) == 1 and len(u.leaves[0][1]) == 1]
            firsts = [
                _name(path, leaf)
                for u in self._modules
                for leaf, shape in u.leaves
                if len(shape) == 1 and "bias" not in leaf and "running" not in leaf and len(u.leaves) <= 2
                and all(len(s) == 1 for _, s in u.leaves)
                for path in u.paths
            ]  # fmt: skip
            names = [name for u in alone for name in u.names()]
            yield self._with_step(
                names, step, f"{'+1' if count > 0 else '-1'} on weights of all norms without bias"
            )
            yield self._with_step(firsts, step, f"{'+1' if count > 0 else '-1'} on weights of all norms")
            if len(unit.leaves[0][1]) == 1:
                yield self._with_step(
                    [_name(path, unit.leaves[0][0]) for path in unit.paths],
                    step,
                    f"{count:+d} on {_short(unit)}",
                )

    def _everywhere(self) -> Iterator[Edit]:
        """Conventions that a whole library has."""
        squares = [
            name
            for unit in self._modules
            if any(len(shape) == 2 for _, shape in unit.leaves)
            for name in unit.names()
            if _is_square(self._shapes[name])
        ]
        yield self._with_step(squares, Step("transpose"), "all square weights transposed")

    def _missing(self) -> Iterator[Edit]:
        """Targets without a source; then other candidates for what is in doubt."""
        for how, changes in fills(self._plan, self._heads.sizes_for):
            yield Edit(how, changes)
        yield from self._with_neighbours()
        for doubt in self._plan.doubts:
            for target in doubt.targets:
                now = self._now.get(target)
                for name in doubt.candidates:
                    if now is None or not now.is_copy or now.pieces[0].name == name:
                        continue
                    if self._source_shapes.get(name) == self._shapes.get(target):
                        yield Edit(f"{visible(target)} from {visible(name)}", self._instead(target, name))

    def _with_neighbours(self) -> Iterator[Edit]:
        """A gap, and tensors of its shape beside it that may have got what belongs there."""
        gaps = {each.name for each in self._plan.missing if not each.is_made and each.name not in self._now}
        expected = {name: shape for name, shape in self._shapes.items() if name in gaps or name in self._now}
        for unit in units_of(expected) if gaps else ():
            if not unit.is_module or len(unit.leaves) < 2 or gaps.isdisjoint(unit.names()):
                continue
            for shape in dict.fromkeys(shape for _, shape in unit.leaves):
                leaves = [leaf for leaf, other in unit.leaves if other == shape]
                if 2 <= len(leaves) <= _MOST_PERMUTED:
                    yield from self._dealt_anew(unit, leaves, shape)

    def _dealt_anew(self, unit: Unit, leaves: Sequence[str], shape: Shape) -> Iterator[Edit]:
        """The same tensors of the source's module for the same of the target's, in all blocks."""
        hands = [self._hand(path, leaves, shape) for path in unit.paths]
        kinds = {tuple(name.rpartition(".")[2] for name in hand) for hand in hands}
        if len(kinds) != 1 or len(hands[0]) != len(leaves):
            return
        for order in permutations(range(len(leaves))):
            changes = tuple(
                Assignment(_name(path, leaf), (Piece(hand[at]),), (), "likely", "it was left over")
                for path, hand in zip(unit.paths, hands)
                for leaf, at in zip(leaves, order)
            )
            names = ", ".join(visible(hands[0][at].rpartition(".")[2]) for at in order)
            yield Edit(f"{', '.join(leaves)} of {_short(unit)} from {names}", changes)

    def _hand(self, path: str, leaves: Sequence[str], shape: Shape) -> list[str]:
        """What these tensors take now, and what else of that shape the source's module has to spare."""
        now = [self._now.get(_name(path, leaf)) for leaf in leaves]
        taken = [each.pieces[0].name for each in now if each is not None and each.is_copy]
        parents = {name.rpartition(".")[0] for name in taken}
        spare = [
            each.name
            for each in self._plan.unused
            if each.shape == shape and each.name.rpartition(".")[0] in parents
        ]
        return sorted({*taken, *spare})

    def _instead(self, target: str, name: str) -> tuple[Assignment, ...]:
        """Another source, and its former user gets what was here."""
        now = self._now[target]
        users = [each for each in self._now.values() if each.is_copy and each.pieces[0].name == name]
        return (
            now._replace(pieces=(Piece(name),)),
            *(user._replace(pieces=now.pieces) for user in users[:1]),
        )

    # ------------------------------------------------------------------ steps

    def _rows(self, unit: Unit) -> int | None:
        """The length of the first axis that all tensors of the unit share."""
        lengths = {shape[0] if shape else 0 for _, shape in unit.leaves}
        return next(iter(lengths)) if len(lengths) == 1 else None

    def _columns_of(self, unit: Unit) -> int | None:
        """The width of the unit's one matrix."""
        widths = [shape[1] for _, shape in unit.leaves if len(shape) == 2]
        return widths[0] if len(widths) == 1 else None

    def _stepped(self, unit: Unit, step: Step, how: str) -> Edit:
        return self._with_step(unit.names(), step, how)

    def _stepped_rows(self, unit: Unit, steps: tuple[Step, ...] | _Partial) -> Iterator[Assignment]:
        for name in unit.names():
            now = self._now[name]
            if isinstance(steps, _Partial):
                if len(now.pieces) != 1 or now.steps:
                    continue
                piece = now.pieces[0]
                turned = (*piece.steps, steps.take, *steps.turn)
                rest = (*piece.steps, steps.rest)
                pieces = (piece._replace(steps=turned), piece._replace(steps=rest))
                yield now._replace(pieces=pieces, steps=(steps.join,))
            else:
                yield _with_steps(now, steps)

    def _with_step(self, names: Collection[str], step: Step, how: str) -> Edit:
        return self._with_steps(names, (step,), how)

    def _with_steps(self, names: Collection[str], steps: tuple[Step, ...], how: str) -> Edit:
        changes = []
        for name in names:
            try:
                if shape_after(self._shapes[name], steps) != self._shapes[name]:
                    return Edit(how, ())
            except ValueError:
                return Edit(how, ())
            changes.append(_with_steps(self._now[name], steps))
        return Edit(how, tuple(changes))


# --------------------------------------------------------------------------- helpers


class _Partial(NamedTuple):
    """Only some rows of each head are turned."""

    take: Step
    turn: tuple[Step, ...]
    rest: Step
    join: Step


def _turn(rows: int, size: int, turned: int, halves_first: bool) -> tuple[Step, ...] | _Partial:
    heads = rows // size
    lengths = (2, turned // 2) if halves_first else (turned // 2, 2)
    swap = Step("swap", (0, heads, *lengths))
    if turned == size:
        return (swap,)
    return _Partial(
        Step("take", (0, 0, turned, heads)),
        (swap,),
        Step("take", (0, turned, size, heads)),
        Step("cat", (0, heads)),
    )


def _only(steps: tuple[Step, ...] | _Partial) -> tuple[Step, ...]:
    return () if isinstance(steps, _Partial) else steps


def _with_steps(now: Assignment, steps: tuple[Step, ...]) -> Assignment:
    if len(now.pieces) == 1 and not now.steps:
        (piece,) = now.pieces
        return now._replace(pieces=(piece._replace(steps=_simplified((*piece.steps, *steps))),))
    return now._replace(steps=_simplified((*now.steps, *steps)))


def _simplified(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """What undoes the step before it goes together with it."""
    kept: list[Step] = []
    for step in steps:
        if kept and step.op in ("transpose", "flip", "swap", "reorder", "add") and kept[-1].op == step.op:
            if inverse(kept[-1], ()) == step:
                kept.pop()
                continue
            if step.op == "add":
                kept[-1] = Step("add", (kept[-1].args[0] + step.args[0],))
                continue
        kept.append(step)
    return tuple(kept)


def _signature(unit: Unit) -> tuple[object, ...]:
    """Equal for units that can stand for each other: of one module kinds of tensors, else names, too."""
    if unit.is_module:
        return tuple(shape for _, shape in sorted(unit.leaves, key=_kind))
    return tuple(sorted(unit.leaves))


def _leaf_pairs(one: Unit, other: Unit) -> list[tuple[str, str]]:
    if one.is_module and other.is_module:
        return [(a[0], b[0]) for a, b in zip(sorted(one.leaves, key=_kind), sorted(other.leaves, key=_kind))]
    return [(leaf, leaf) for leaf, _ in one.leaves]


def _kind(leaf: tuple[str, Shape]) -> tuple[bool, int, str]:
    return ("bias" in leaf[0], -len(leaf[1]), leaf[0])


def _splits(count: int, said: Sequence[int]) -> list[tuple[int, int]]:
    """Heads of q and of k where all three have so many together."""
    found = [
        (heads, (count - heads) // 2) for heads in said if 0 < heads < count and (count - heads) % 2 == 0
    ]
    if count % 3 == 0:
        found.append((count // 3, count // 3))
    return list(dict.fromkeys(found))


def _are_query_and_key(one: Unit, other: Unit) -> bool:
    names = (unit.pattern.rpartition(".")[2].lower().strip("_").removeprefix("w") for unit in (one, other))
    return {name[:1] for name in names} == {"q", "k"}


def _is_square(shape: Shape) -> bool:
    return len(shape) >= 2 and shape[0] == shape[1] and shape[0] > 1


def _within(one: Unit, other: Unit) -> bool:
    return other.pattern.startswith(f"{one.pattern}.")


def _short(unit: Unit) -> str:
    return visible(unit.pattern) or "the outermost module"


def _name(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path and leaf else path or leaf
