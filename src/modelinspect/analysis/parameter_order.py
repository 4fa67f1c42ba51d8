"""
Which parameter of an optimizer is which of the model's, by order and shape.

An optimizer numbers its parameters in the order in which it was given them, group after
group. People give it ``model.parameters()``, which is the order of a state_dict, or split
that into groups which each keep it: matrices that decay and vectors that don't, a head
and a backbone. Parameters that ask for no gradient may be left out. A *reading* says for
each parameter of the optimizer which of the model's it is; shapes say whether it fits.
Of several that fit, the one that leaves the fewest holes in the model is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

from modelinspect.readers.parts.natural_order import naturally_sorted
from modelinspect.tensors import ParameterTable, TensorInfo

__all__ = ["HELP", "Reading", "Shape", "read_order"]

Shape = tuple[int, ...]
MAX_PLACES = 200_000
"""Places of all parameters together that are compared with each other."""
MAX_WORK = 4_000_000
"""Groups times parameters up to which groups are looked for one by one."""

_SORTED = "in the order of a file whose names are sorted, for that of registration is not known"
HELP = "its names are sorted; a definition as --weights says the order of registration"
"""What to do where the order is not known."""
_Groups = Sequence[Sequence["Shape | None"]]


class Reading(NamedTuple):
    """Names for the parameters of an optimizer, or why there are none."""

    rows: tuple[TensorInfo, ...]
    """One a parameter, group after group; empty where nothing fits."""
    certain: bool
    """No other reading fits, as long as each group keeps the order of the model."""
    said: str
    """How it was read, or why nothing fits, as a part of a sentence."""

    def note(self, title: str) -> str:
        """
        That names are inferred, as a sentence.

        Args:
            title: What the model is called.
        """
        doubt = (
            "no other reading in that order fits the shapes"
            if self.certain
            else "shapes leave other readings, so two names of one shape may be exchanged"
        )
        return f"names are inferred: parameters of {title}, {self.said}, by their shapes; {doubt}"


def read_order(groups: _Groups, table: ParameterTable) -> Reading:
    """
    Find the parameters of an optimizer in a model.

    Args:
        groups: Of each group the shapes of its parameters; None where it isn't known.
        table: The model, whose order is that of ``state_dict()``. Parameters that are
            tied are taken once, buffers only where nothing fits without them.
    """
    groups = [group for group in groups if group]
    wanted = [shape for group in groups for shape in group]
    there = [row for row in table if row.name not in table.tied_to and _can_learn(row)]
    is_sorted = _is_sorted(there)
    for rows, said in _orders(there, len(wanted), is_sorted):
        if len(rows) >= len(wanted):
            shapes = [row.shape for row in rows]
            found = _best(groups, rows)
            if found is not None:
                names = tuple(rows[place] for place in chain.from_iterable(found))
                # In a file that is sorted by name only a shape of its own tells a parameter.
                certain = len(set(shapes)) == len(shapes) if is_sorted else _is_certain(groups, shapes)
                return Reading(names, certain, said)
    why = _why_nothing_fits(wanted, there)
    return Reading((), False, f"{why} ({HELP})" if is_sorted else why)


def _is_sorted(rows: Sequence[TensorInfo]) -> bool:
    """Are the names in natural order, as writers of safetensors bring them?"""
    names = [row.name for row in rows]
    return naturally_sorted(names) == names


def _is_certain(groups: _Groups, shapes: Sequence[Shape]) -> bool:
    everywhere = range(len(shapes))
    return len(groups) * len(shapes) <= MAX_WORK and all(
        _first_fit(group, shapes, everywhere) == _last_fit(group, shapes, everywhere) for group in groups
    )


def _can_learn(row: TensorInfo) -> bool:
    return row.dtype.category in ("float", "complex") and row.layout != "uninitialized"


def _orders(
    there: Sequence[TensorInfo], wanted: int, is_sorted: bool
) -> Iterator[tuple[list[TensorInfo], str]]:
    """What may have been given to the optimizer, those first that are as many."""
    parameters = [row for row in there if row.kind == "parameter"]
    asking = [row for row in parameters if row.requires_grad is not False]
    found = [(parameters, _SORTED if is_sorted else "in the order of the model")]
    if len(asking) < len(parameters):
        found.insert(0, (asking, "those that ask for a gradient"))
    if is_sorted:
        found.append((_weight_first(parameters), f"weights before biases, {_SORTED}"))
    found.append((list(there), "buffers included"))
    yield from sorted(found, key=lambda order: len(order[0]) != wanted)


def _weight_first(rows: Sequence[TensorInfo]) -> list[TensorInfo]:
    """
    The rows with each bias after what else its module holds, as modules register them.
    """
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(row.name.rpartition(".")[0], place)

    def key(row: TensorInfo) -> tuple[int, bool]:
        module, _, leaf = row.name.rpartition(".")
        return first[module], leaf == "bias"

    return sorted(rows, key=key)


# -- readings ----------------------------------------------------------------------------


def _best(groups: _Groups, rows: Sequence[TensorInfo]) -> list[list[int]] | None:
    """Places of each group's parameters: of all readings that with the fewest holes, None without one."""
    return min(_readings(groups, rows), key=_runs, default=None)


def _runs(places: Sequence[Sequence[int]]) -> int:
    """Parts of the model, each without a hole, that are taken."""
    taken = sorted(chain.from_iterable(places))
    return len(taken) - sum(after == place + 1 for place, after in pairwise(taken))


def _readings(groups: _Groups, rows: Sequence[TensorInfo]) -> Iterator[list[list[int]]]:
    shapes = [row.shape for row in rows]
    together = _fit(list(chain.from_iterable(groups)), shapes, range(len(rows)), late=True)
    if together is not None:
        yield _cut(together, groups)
    if len(groups) == 2:
        yield from _by_rule(groups, rows)
    if 1 < len(groups) <= MAX_WORK // len(rows):
        turns = range(len(groups))
        for order in (turns, turns[::-1], sorted(turns, key=lambda turn: -len(groups[turn]))):
            places = _one_by_one(groups, shapes, order)
            if places is not None:
                yield places


def _cut(places: Sequence[int], groups: _Groups) -> list[list[int]]:
    remaining = iter(places)
    return [[next(remaining) for _ in group] for group in groups]


_NORM = re.compile(r"layer_?norm|rms_?norm|(^|[._])(norm|ln)\d*(_\w+)?([._]|$)|_norm([._]|$)", re.IGNORECASE)
# How people split parameters in two: by what weight decay is for.
_RULES: tuple[Callable[[TensorInfo], bool], ...] = (
    lambda row: len(row.shape) >= 2,
    lambda row: "bias" not in row.name and not _NORM.search(row.name),
    lambda row: not row.name.endswith("bias"),
)


def _by_rule(groups: _Groups, rows: Sequence[TensorInfo]) -> Iterator[list[list[int]]]:
    shapes = [row.shape for row in rows]
    for rule in _RULES:
        classes: tuple[list[int], list[int]] = ([], [])
        for place, row in enumerate(rows):
            classes[not rule(row)].append(place)
        for halves in (classes, classes[::-1]):
            places = [_fit(group, shapes, half, late=True) for group, half in zip(groups, halves)]
            if None not in places:
                yield [part for part in places if part is not None]


def _one_by_one(groups: _Groups, shapes: Sequence[Shape], order: Sequence[int]) -> list[list[int]] | None:
    """Each group where it fits among what those before it left over."""
    left: Sequence[int] = range(len(shapes))
    found: dict[int, list[int]] = {}
    for turn in order:
        places = _fit(groups[turn], shapes, left, late=False, most=MAX_PLACES // len(groups))
        if places is None:
            return None
        taken = set(places)
        left = [place for place in left if place not in taken]
        found[turn] = places
    return [found[turn] for turn in range(len(groups))]


# -- one list in another -----------------------------------------------------------------


def _fits(wanted: Shape | None, shape: Shape) -> bool:
    return wanted is None or wanted == shape


def _first_fit(
    wanted: Sequence[Shape | None], shapes: Sequence[Shape], places: Sequence[int]
) -> list[int] | None:
    """The earliest places, in order, that have the shapes; None where there are none."""
    found: list[int] = []
    remaining = iter(places)
    for shape in wanted:
        place = next((place for place in remaining if _fits(shape, shapes[place])), None)
        if place is None:
            return None
        found.append(place)
    return found


def _last_fit(
    wanted: Sequence[Shape | None], shapes: Sequence[Shape], places: Sequence[int]
) -> list[int] | None:
    found = _first_fit(wanted[::-1], shapes, places[::-1])
    return None if found is None else found[::-1]


def _fit(
    wanted: Sequence[Shape | None],
    shapes: Sequence[Shape],
    places: Sequence[int],
    *,
    late: bool,
    most: int = MAX_PLACES,
) -> list[int] | None:
    """
    Places, in order, that have the shapes, with the fewest holes between them.

    Args:
        wanted: Shapes to find; None fits everywhere.
        shapes: Of all places.
        places: Those that may be taken, ascending.
        late: Of equally good ones the last, for what is trained is mostly nearer to the
            output; otherwise the first.
        most: Places to compare; where there are more, the first or the last fit is taken.
    """
    first, last = _first_fit(wanted, shapes, places), _last_fit(wanted, shapes, places)
    if first is None or last is None or first == last:
        return first
    at = {place: number for number, place in enumerate(places)}
    if sum(at[high] - at[low] + 1 for low, high in zip(first, last)) > most:
        return min(last, first, key=lambda chosen: _runs([chosen]))
    if late:
        return _fewest_holes(wanted, shapes, places, first, last)
    return _fewest_holes(wanted[::-1], shapes, places[::-1], last[::-1], first[::-1])[::-1]


def _fewest_holes(
    wanted: Sequence[Shape | None],
    shapes: Sequence[Shape],
    places: Sequence[int],
    first: Sequence[int],
    last: Sequence[int],
) -> list[int]:
    """Dynamic programming over the places that each shape can take at all."""
    at = {place: number for number, place in enumerate(places)}
    ranges = [range(at[low], at[high] + 1) for low, high in zip(first, last)]
    costs: dict[int, int] = {}
    origins: list[dict[int, int]] = []
    for shape, reach in zip(wanted, ranges):
        costs, origin = _extended(costs, [n for n in reach if _fits(shape, shapes[places[n]])])
        origins.append(origin)
    number = min(costs, key=lambda n: (costs[n], -n))
    chosen = [number]
    for origin in origins[:0:-1]:
        number = origin[number]
        chosen.append(number)
    return [places[number] for number in reversed(chosen)]


def _extended(costs: dict[int, int], numbers: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """
    Runs up to each place that the next parameter can take, and where the one before it lies.

    Args:
        costs: Runs up to each place of the parameter before; empty for the first one.
        numbers: Places that this one can take, ascending.
    """
    if not costs:
        return dict.fromkeys(numbers, 1), {}
    reached: dict[int, int] = {}
    origin: dict[int, int] = {}
    before = iter(costs)  # ascending
    upcoming = next(before, None)
    best: int | None = None
    for number in numbers:
        while upcoming is not None and upcoming < number:
            if best is None or costs[upcoming] <= costs[best]:
                best = upcoming
            upcoming = next(before, None)
        if best is None:
            continue
        beside = costs.get(number - 1)
        if beside is not None and beside <= costs[best] + 1:
            reached[number], origin[number] = beside, number - 1
        else:
            reached[number], origin[number] = costs[best] + 1, best
    return reached, origin


def _why_nothing_fits(wanted: Sequence[Shape | None], there: Sequence[TensorInfo]) -> str:
    if len(wanted) > len(there):
        return f"the optimizer has {len(wanted):,} parameters, the model {len(there):,}"
    shapes = [row.shape for row in there]
    remaining = iter(shapes)
    for number, shape in enumerate(wanted):
        if not any(_fits(shape, other) for other in remaining):
            shown = "×".join(map(str, shape or ())) or "a scalar"
            what = "in that order" if shape in shapes else "at all"
            return f"its parameter {number:,} is {shown}, and the model has none like it left {what}"
    return "no order of its groups fits the model"
