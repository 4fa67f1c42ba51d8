"""
A projection that is one matrix on one side and several on the other: q, k and v, gate and up, gates.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from modelinspect.transplant.matching.scoring import Scorer, name_score, natural
from modelinspect.transplant.matching.slots import Made, Slot, Steps, Unit, with_steps
from modelinspect.transplant.matching.trees import Node, template_of
from modelinspect.transplant.matching.vocabulary import concepts_of, tokens_of
from modelinspect.transplant.plan import Label
from modelinspect.transplant.transforms import Step

__all__ = ["fused"]

Shape = tuple[int, ...]
_TURN = (Step("transpose"),)
_IMPOSSIBLE = -1000.0
_MOST_COMPARED = 250_000
"""Of sets with wholes; what is left in such numbers has nothing in common."""


class _Set(NamedTuple):
    """Units that together may be one, in the order in which they lie in it."""

    units: tuple[Unit, ...]
    node: Node
    """Around all of them."""
    is_named: bool
    """Names say the order; else it is that of registration."""
    kind: str = ""
    """``glu``: one half gates the other."""


def fused(parts: Sequence[Unit], wholes: Sequence[Unit], scorer: Scorer, *, is_split: bool) -> Iterator[Made]:
    """Wholes that are made of parts, or with *is_split* the parts made of them."""
    sets = list(_sets(parts, scorer, is_split=is_split))
    if not sets or not wholes or len(sets) * len(wholes) > _MOST_COMPARED:
        return
    folded = [[_folded(found, whole) for whole in wholes] for found in sets]
    layouts = [[_layout(found, whole) for found, whole in zip(line, wholes)] for line in folded]
    scores = [
        [
            _set_score(found, whole, scorer, is_split=is_split)
            if layouts[row][column] and not _of_other_parts(found, whole)
            else _IMPOSSIBLE
            for column, whole in enumerate(wholes)
        ]
        for row, found in enumerate(sets)
    ]
    for row, place in enumerate(_places([found.node for found in sets])):
        for column, other in enumerate(_places([whole.node for whole in wholes])):
            scores[row][column] += 1.5 * (1 - abs(place - other))
    taken: set[int] = set()
    done: set[int] = set()
    order = sorted(
        (-scores[row][column], row, column) for row in range(len(sets)) for column in range(len(wholes))
    )
    for lost, row, column in order:
        if -lost <= _IMPOSSIBLE / 2:
            break
        if column in done or any(id(unit) in taken for unit in sets[row].units):
            continue
        done.add(column)
        taken.update(id(unit) for unit in sets[row].units)
        layout = layouts[row][column]
        assert layout is not None
        yield from _emitted(folded[row][column], wholes[column], layout, scorer, is_split=is_split)


def _folded(found: _Set, whole: Unit) -> _Set:
    """The set with heads that have an axis of their own as rows, where the whole is a matrix."""
    weight = whole.slots.get("weight")
    if weight is None or len(weight.shape) != 2:
        return found
    if not any(len(slot.shape) == 3 for unit in found.units for slot in unit.slots.values()):
        return found
    lengths = {length for unit in found.units for slot in unit.slots.values() for length in slot.shape}
    width = weight.shape[1] if weight.shape[1] in lengths else weight.shape[0]
    units = tuple(
        Unit(unit.node, {role: slot.folded(width) for role, slot in unit.slots.items()}, unit.path)
        for unit in found.units
    )
    return found._replace(units=units)


def _of_other_parts(found: _Set, whole: Unit) -> bool:
    """One is of an attention and the other of a feed-forward net."""
    ours = {
        member
        for unit in found.units
        for family, member in concepts_of(unit.path).members
        if family == "part"
    }
    theirs = {member for family, member in concepts_of(whole.path).members if family == "part"}
    return bool(ours and theirs and not ours & theirs)


def _places(nodes: Sequence[Node]) -> list[float]:
    """Where each stands among those whose paths differ from its own in numbers alone, 0 to 1."""
    alike: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        if node not in alike[template_of(node.path)]:
            alike[template_of(node.path)].append(node)
    for listed in alike.values():
        listed.sort(key=lambda node: natural(node.path))
    ranked = [alike[template_of(node.path)] for node in nodes]
    return [listed.index(node) / max(1, len(listed) - 1) for node, listed in zip(nodes, ranked)]


def _set_score(found: _Set, whole: Unit, scorer: Scorer, *, is_split: bool) -> float:
    source, target = (whole.node, found.node) if is_split else (found.node, whole.node)
    score = name_score(source.below(scorer.source), target.below(scorer.target))
    score += 4.0 * scorer.neighbours.closeness(source, target)
    members = {member for unit in found.units for member in concepts_of(unit.path.rpartition(".")[2]).members}
    wanted = _WHOLE_OF.get(frozenset(member for family, member in members if family in ("qkvo", "glu")))
    if wanted and wanted in concepts_of(whole.path).members:
        score += 3.0
    return score + found.is_named + 0.1 * len(found.units) + _same_way(found, whole)


def _same_way(found: _Set, whole: Unit) -> float:
    """Gates of the input go with the input's, those of the state with the state's."""
    words = set(
        tokens_of(_role_in_set(found.units[0].path)[0][-1] if _role_in_set(found.units[0].path)[0] else "")
    )
    for member, own in (
        ("ih", {"w", "x", "i", "input", "ih"}),
        ("hh", {"u", "h", "hidden", "recurrent", "hh"}),
    ):
        if ("gates", member) in concepts_of(whole.path).members:
            return 2.0 if words & own else 0.0
    return 0.0


_WHOLE_OF = {
    frozenset({"q", "k", "v"}): ("qkvo", "qkv"),
    frozenset({"q", "kv"}): ("qkvo", "qkv"),
    frozenset({"k", "v"}): ("qkvo", "kv"),
    frozenset({"gate", "up"}): ("glu", "gate_up"),
}
# Of an LSTM and of a GRU in the order of torch.nn.LSTM and torch.nn.GRU.
_ORDERS: tuple[tuple[str, ...], ...] = (
    ("q", "k", "v"), ("q", "kv"), ("k", "v"), ("gate", "up"), ("i", "f", "c", "o"), ("r", "z", "c"),
)  # fmt: skip
_GATE_LETTERS = {
    "i": "i", "input": "i", "in": "i", "ingate": "i", "f": "f", "forget": "f", "g": "c", "c": "c",
    "cell": "c", "candidate": "c", "n": "c", "new": "c", "h": "c", "hidden": "c", "o": "o", "output": "o",
    "out": "o", "r": "r", "reset": "r", "z": "z", "update": "z",
}  # fmt: skip
_GATES: tuple[dict[str, int], ...] = (
    {"i": 0, "input": 0, "in": 0, "f": 1, "forget": 1, "g": 2, "c": 2, "cell": 2, "candidate": 2,
     "o": 3, "output": 3, "out": 3},
    {"r": 0, "reset": 0, "z": 1, "update": 1, "u": 1, "n": 2, "new": 2, "h": 2, "candidate": 2, "hidden": 2},
)  # fmt: skip


def _sets(units: Sequence[Unit], scorer: Scorer, *, is_split: bool) -> Iterator[_Set]:
    """Units that go together: q, k and v of one attention; all that are left of one module."""
    groups: dict[tuple[str, ...], dict[str, Unit]] = defaultdict(dict)
    for unit in units:
        key, member = _role_in_set(unit.path)
        if member:
            groups[key].setdefault(member, unit)
    for found in groups.values():
        yield from _named_sets(found)
    is_ordered = scorer.ordered[1 if is_split else 0]
    siblings: dict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        siblings[id(unit.node.parent)].append(unit)
    for together in siblings.values():
        yield from _sibling_sets(together, is_ordered=is_ordered)


def _named_sets(found: dict[str, Unit]) -> Iterator[_Set]:
    """Of units that say which part they are."""
    if found.keys() >= {"q", "v"} and "k" not in found and not found["q"].slots.get("weight"):
        # An attention whose keys have no bias: nothing stands in its place.
        found["k"] = Unit(found["q"].node, {}, found["q"].path)
    for order in _ORDERS:
        if all(member in found for member in order):
            chosen = tuple(found[member] for member in order)
            yield _Set(
                chosen, _around([unit.node for unit in chosen]), True, "glu" if "gate" in order else ""
            )


def _sibling_sets(together: Sequence[Unit], *, is_ordered: bool) -> Iterator[_Set]:
    """Of units that one module holds."""
    gates = [unit for unit in together if _role_in_set(unit.path)[1] == "gate"]
    if len(together) == 2 and len(gates) == 1:
        other = next(unit for unit in together if unit is not gates[0])
        yield _Set((gates[0], other), _around([unit.node for unit in together]), True, "glu")
    if 2 <= len(together) <= _MOST_PARTS:
        yield _as_set(together, is_ordered=is_ordered)


_MOST_PARTS = 8


def _role_in_set(path: str) -> tuple[tuple[str, ...], str]:
    """A path with the part that says q, k or v blanked, and what it says."""
    parts = path.split(".")
    for at in range(len(parts) - 1, -1, -1):
        members = {m for f, m in concepts_of(parts[at]).members if f in ("qkvo", "glu") and m in _PARTS}
        if len(members) == 1:
            return (*parts[:at], "*", *parts[at + 1 :]), members.pop()
    gated = _gate_in(parts[-1])
    if gated:
        return (*parts[:-1], gated[0]), gated[1]
    numbered = re.fullmatch(r"(.*?)w([13])", path)
    if numbered:
        # The three matrices of a gated net, as many papers number them: w1 gates, w3 is its partner.
        return (numbered[1], "*"), {"1": "gate", "3": "up"}[numbered[2]]
    return (), ""


def _gate_in(component: str) -> tuple[str, str] | None:
    """``forget_x`` and ``Wf`` as what else they say, and the gate's letter."""
    lettered = re.fullmatch(r"([WUwu])_?([a-z])", component)
    words = list(lettered.groups()) if lettered else list(tokens_of(component))
    found = [word for word in words if word in _GATE_LETTERS and not (lettered and word == words[0])]
    if len(found) != 1 or len(words) > 3:
        return None
    words.remove(found[0])
    return "*" + "_".join(words).lower(), _GATE_LETTERS[found[0]]


_PARTS = frozenset({"q", "k", "v", "kv", "gate", "up"})


def _as_set(units: Sequence[Unit], *, is_ordered: bool) -> _Set:
    node = _around([unit.node for unit in units])
    for gates in _GATES:
        places = [_gate(unit.path, gates) for unit in units]
        if None not in places and len(set(places)) == len(places) == len(set(gates.values())):
            ranked = sorted(zip(places, range(len(units))))
            return _Set(tuple(units[at] for _, at in ranked), node, True)
    if is_ordered:
        return _Set(tuple(sorted(units, key=lambda unit: unit.node.position)), node, False)
    return _Set(tuple(sorted(units, key=lambda unit: natural(unit.path))), node, False)


def _gate(path: str, gates: Mapping[str, int]) -> int | None:
    places = {gates[word] for word in tokens_of(path.rpartition(".")[2]) if word in gates}
    return places.pop() if len(places) == 1 else None


def _around(nodes: Sequence[Node]) -> Node:
    """The lowest node above all."""
    common: list[Node] = list(nodes[0].ancestors())
    for node in nodes[1:]:
        above = {id(each) for each in node.ancestors()}
        common = [each for each in common if id(each) in above]
    return common[0] if common else nodes[0]


# ------------------------------------------------------------------------ layouts


class _Layout(NamedTuple):
    """How parts lie in a whole, for each of its roles."""

    whole_is_turned: bool
    parts_are_turned: bool


def _layout(found: _Set, whole: Unit) -> _Layout | None:
    """None where the parts don't make the whole."""
    weight = whole.slots.get("weight")
    if weight is None or len(weight.shape) < 2:
        return _Layout(False, False) if _fits_flat(found, whole) else None
    parts = [unit.slots.get("weight") for unit in found.units]
    shapes = [slot.shape for slot in parts if slot is not None]
    if len(shapes) != len(parts):
        return None
    are_folded = any(slot.fold for slot in parts if slot is not None)
    for turned_whole, turned_parts in ((False, False), (True, True), (True, False), (False, True)):
        if turned_parts and are_folded:
            continue  # what was heads lies in rows now
        goal = _turned(weight.shape, turned_whole)
        own = [_turned(shape, turned_parts) for shape in shapes]
        is_even = len({(len(shape), shape[1:]) for shape in own}) == 1 and own[0][1:] == goal[1:]
        if is_even and sum(shape[0] for shape in own) == goal[0]:
            return _Layout(turned_whole, turned_parts)
    return None


def _fits_flat(found: _Set, whole: Unit) -> bool:
    """Only vectors are left: a fused bias and its parts."""
    if set(whole.slots) - {"bias"} or "bias" not in whole.slots:
        return False
    own = [unit.slots.get("bias") for unit in found.units if unit.slots]
    if any(slot is None or len(slot.shape) != 1 for slot in own) or not own:
        return False
    lengths = [slot.shape[0] for slot in own if slot is not None]
    lengths += lengths[:1] * (len(found.units) - len(own))
    return sum(lengths) == whole.slots["bias"].shape[0]


def _turned(shape: Shape, is_turned: bool) -> Shape:
    return shape[::-1] if is_turned and len(shape) == 2 else shape


def _emitted(found: _Set, whole: Unit, layout: _Layout, scorer: Scorer, *, is_split: bool) -> Iterator[Made]:
    groups, is_sure = _groups(found, whole, scorer, is_split=is_split)
    label: Label = "likely" if is_sure else "ambiguous"
    what = ", ".join(unit.path.rpartition(".")[2] for unit in found.units)
    reason = f"fused of {what}" if not is_split else f"a part of what is fused of {what}"
    lengths = {role: [_length(unit, role, layout, found) for unit in found.units] for role in whole.slots}
    for role, slot in whole.slots.items():
        if is_split:
            yield from _split(found, slot, role, lengths[role], layout, groups, label, reason)
        elif any(role in unit.slots for unit in found.units):
            yield from _joined(found, slot, role, lengths[role], layout, groups, label, reason)


def _length(unit: Unit, role: str, layout: _Layout, found: _Set) -> int:
    """Rows of one part, which a bias that is not there has as well."""
    for other in (unit, *found.units):
        slot = other.slots.get(role) or other.slots.get("weight")
        if slot is not None:
            break
    assert slot is not None
    return _turned(slot.shape, layout.parts_are_turned)[0]


def _split(
    found: _Set,
    slot: Slot,
    role: str,
    lengths: Sequence[int],
    layout: _Layout,
    groups: int,
    label: Label,
    reason: str,
) -> Iterator[Made]:
    is_matrix = len(slot.shape) == 2
    start = 0
    for unit, length in zip(found.units, lengths):
        bounds = (start // groups, (start + length) // groups, groups)
        start += length
        part = unit.slots.get(role)
        if part is None:
            continue
        if is_matrix and layout.whole_is_turned and layout.parts_are_turned:
            steps: Steps = (Step("take", (1, *bounds)),)
        else:
            steps = (
                *(_TURN if is_matrix and layout.whole_is_turned else ()),
                Step("take", (0, *bounds)),
                *(_TURN if is_matrix and layout.parts_are_turned else ()),
            )
        for at, target in enumerate(part.members):
            yield Made(target, (with_steps(slot.piece(at), (*steps, *part.unfold)),), (), label, reason)


def _joined(
    found: _Set,
    slot: Slot,
    role: str,
    lengths: Sequence[int],
    layout: _Layout,
    groups: int,
    label: Label,
    reason: str,
) -> Iterator[Made]:
    is_matrix = len(slot.shape) == 2
    along_columns = is_matrix and layout.whole_is_turned and layout.parts_are_turned
    turn = _TURN if is_matrix and layout.parts_are_turned and not along_columns else ()

    def pieces(at: int) -> list[tuple[Node, Steps]]:
        listed: list[tuple[Node, Steps]] = []
        for unit, length in zip(found.units, lengths):
            part = unit.slots.get(role)
            if part is None:
                listed.append((_NOTHING, (Step("zeros", (length, *slot.shape[1:])),)))
            else:
                listed.append(with_steps(part.piece(at), turn))
        return listed

    after = _TURN if is_matrix and layout.whole_is_turned and not along_columns else ()
    join = Step("cat", (1 if along_columns else 0, groups))
    if not slot.is_stacked:
        for at, target in enumerate(slot.members):
            yield Made(target, tuple(pieces(at)), (join, *after), label, reason)
        return
    if groups != 1 or along_columns:
        return
    whole = slot.shape[::-1] if after else slot.shape
    yield Made(
        slot.members[0],
        tuple(piece for at in range(slot.count) for piece in pieces(at)),
        (join, Step("reshape", (slot.count, *whole)), *((Step("permute", (0, 2, 1)),) if after else ())),
        label,
        reason,
    )


_NOTHING = Node("", "", None, 0)
"""Stands for a constant."""


def _groups(found: _Set, whole: Unit, scorer: Scorer, *, is_split: bool) -> tuple[int, bool]:
    """
    In how many groups parts alternate in a whole, and whether anything says so.

    One word for all three, query_key_value, is a projection whose rows go head by head;
    ``qkv`` and its kin hold all of q, then all of k, then all of v.
    """
    words = tokens_of(whole.path.rpartition(".")[2])
    if words[:3] == ("query", "key", "value"):
        members = [_role_in_set(unit.path)[1] for unit in found.units]
        slot = found.units[0].slots.get("weight") or next(iter(found.units[0].slots.values()))
        rows = slot.shape[0]
        heads = scorer.heads(whole.node, rows, is_target=not is_split)
        heads = heads or scorer.heads(found.node, rows, is_target=is_split)
        return (heads, True) if heads and members == ["q", "k", "v"] else (1, False)
    if found.kind == "glu":
        # Which half gates is a custom of each author, unless the name of the whole says it.
        return 1, ("glu", "gate_up") in concepts_of(whole.path).members
    return 1, found.is_named
