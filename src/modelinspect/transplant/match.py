"""
Which tensor of a target comes from which of a source: the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from modelinspect.readers.registry import no_collector
from modelinspect.tensors import TensorInfo
from modelinspect.transplant.matching.by_value import weighed
from modelinspect.transplant.matching.caution import cautious
from modelinspect.transplant.matching.constants import is_constant, matching_constants
from modelinspect.transplant.matching.directions import both_ways, level_by_level
from modelinspect.transplant.matching.doubting import doubts_of
from modelinspect.transplant.matching.hinting import Hinted, hinted, mark
from modelinspect.transplant.matching.leftovers import missing_of, unused_of
from modelinspect.transplant.matching.links import HINTED, Link, Result, weaker
from modelinspect.transplant.matching.modules import as_units, of_other_kinds
from modelinspect.transplant.matching.namesakes import not_by_chance, without_strangers
from modelinspect.transplant.matching.orientation import how
from modelinspect.transplant.matching.regions import Solver
from modelinspect.transplant.matching.same_names import same_names
from modelinspect.transplant.matching.scoring import natural
from modelinspect.transplant.matching.sharing import held_apart, shared_again
from modelinspect.transplant.matching.squeezing import squeezed_rows
from modelinspect.transplant.matching.styles import Turns, turned_rows, turns
from modelinspect.transplant.matching.trees import Forms, Node, build_tree
from modelinspect.transplant.matching.turning import turned
from modelinspect.transplant.plan import Assignment, Hint, Label, Piece, Plan, Side
from modelinspect.transplant.transforms import Step

__all__ = ["match"]


def match(
    source: Side,
    target: Side,
    *,
    hints: Sequence[Hint] = (),
    values: Callable[[str], object] | None = None,
) -> Plan:
    """
    A plan that fills a target's tensors with a source's.

    Args:
        source: Whose tensors are offered.
        target: Whose tensors are to be filled.
        hints: What a person knows; taken as certain.
        values: Reads a tensor of the source by name, where values settle a doubt.

    Returns:
        An assignment for each target tensor that has one; what is missing, unused, in doubt.
    """
    with no_collector():
        return _matched(source, target, hints, values)


def _matched(
    source: Side, target: Side, hints: Sequence[Hint], values: Callable[[str], object] | None
) -> Plan:
    forms = Forms()
    ours, theirs = _distinct(source), _distinct(target)
    known = same_names(ours, theirs)
    if hints:
        spoken_for = _under(hinted(build_tree(ours, forms), build_tree(theirs, forms), hints))
        known = {a: b for a, b in known.items() if a not in spoken_for and b not in spoken_for}
    taken = set(known.values())
    ours, theirs, *true_shapes = squeezed_rows(
        [row for row in ours if row.name not in taken], [row for row in theirs if row.name not in known]
    )
    trees = build_tree(ours, forms), build_tree(theirs, forms)
    turned_ones = turns(*trees)
    if turned_ones.steps:
        trees = build_tree(turned_rows(ours, turned_ones.steps), forms), trees[1]
    said = hinted(*trees, hints)
    if said.pairs:
        mark(trees, said.pairs, forms)
    ordered, facts = (source.is_ordered, target.is_ordered), (source.facts, target.facts)
    result = Solver(ordered=ordered, facts=facts, hinted=said.pairs).solve(*trees)
    made = {name: Assignment(name, (Piece(partner),), (), *_SAME_NAME) for name, partner in known.items()}
    for node, other in said.again:
        pieces = (Piece(node.path, how(node, other) or ()),)
        made[other.path] = Assignment(other.path, pieces, (), "certain", HINTED)
    return _plan(source, target, trees, result, _Stored(turned_ones, *true_shapes), made, values)


def _under(found: Hinted) -> set[str]:
    """Names of the tensors that hints speak of."""
    pairs = [*found.pairs.values(), *found.again]
    return {leaf.path for pair in pairs for node in pair for leaf in node.leaves()}


def _distinct(side: Side) -> list[TensorInfo]:
    """The tensors of a side, each once."""
    tied = side.table.tied_to
    # A tensor without a name can be kept under none.
    rows = [
        row
        for row in side.table
        if row.name and row.persistent is not False and row.name not in tied and not is_constant(row)
    ]
    if not side.is_ordered:
        rows.sort(key=lambda row: natural(row.name))
    return rows


def _plan(
    source: Side,
    target: Side,
    trees: tuple[Node, Node],
    result: Result,
    stored: _Stored,
    made: dict[str, Assignment],
    values: Callable[[str], object] | None,
) -> Plan:
    source_leaves, target_leaves = (list(tree.leaves()) for tree in trees)
    links = as_units(result.links, source_leaves, target_leaves)
    links = without_strangers(links, source_leaves, target_leaves)
    links = turned(links, source_leaves, target_leaves, target.table.modules)
    if not _are_one_class(source, target):
        links = weighed(cautious(links, source_leaves, target_leaves), source_leaves, target_leaves, values)
    links = level_by_level(both_ways(links, source_leaves, target_leaves), source_leaves, target_leaves)
    links = not_by_chance(links, source_leaves, target_leaves, made)
    for link in links:
        made.setdefault(target_leaves[link.target].path, _assignment(link, source_leaves, target_leaves))
    for each in shared_again(source.table, source_leaves, target_leaves, made):
        made[each.target] = each
    ours, theirs = (
        [row for row in side.table if is_constant(row) and row.persistent is not False]
        for side in (source, target)
    )
    for each in matching_constants(ours, theirs, _modules(links, source_leaves, target_leaves)):
        made.setdefault(each.target, each)
    made = {name: _as_stored(each, stored) for name, each in made.items()}
    assignments = []
    for row in target.table:
        first = target.table.tied_to.get(row.name, row.name)
        if first in made:
            assignments.append(made[first]._replace(target=row.name))
    assignments = of_other_kinds(assignments, source.table.modules, target.table.modules)
    assignments = held_apart(assignments, source.table, target.table)
    filled = {each.target for each in assignments}
    used = {name for each in assignments for name in each.sources}
    tied = source.table.tied_to
    free = [
        row
        for row in source.table
        if row.persistent is not False and tied.get(row.name, row.name) not in used
    ]
    empty = [row for row in target.table if row.persistent is not False and row.name not in filled]
    missing = tuple(missing_of(empty, free))
    return Plan(
        source.table,
        target.table,
        tuple(assignments),
        missing,
        tuple(unused_of(free, missing)),
        tuple(doubts_of(result.doubts, source_leaves, target_leaves, made)),
    )


_SAME_NAME: tuple[Label, str] = ("certain", "the same name")


def _are_one_class(source: Side, target: Side) -> bool:
    """All names of the target are the source's, with the same shapes: one class, or two that mean to be."""
    ours = {row.name: row.shape for row in source.table}
    return all(ours.get(row.name) == row.shape for row in target.table if row.persistent is not False)


def _modules(links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node]) -> dict[str, str]:
    """Modules of the target to those of the source whose weights they get."""
    found: dict[str, str] = {}
    for link in links:
        at = link.pieces[0][0]
        if at >= 0:
            ours, theirs = sources[at].path.split("."), targets[link.target].path.split(".")
            while ours and theirs and found.setdefault(".".join(theirs[:-1]), ".".join(ours[:-1])):
                ours, theirs = ours[:-1], theirs[:-1]
                if len(ours) < 2 or len(theirs) < 2 or ".".join(theirs[:-1]) in found:
                    break
    return found


class _Stored(NamedTuple):
    """How tensors lie in truth that were matched in another way."""

    turns: Turns
    """Of source tensors: the step to how they were matched."""
    source_shapes: Mapping[str, tuple[int, ...]]
    target_shapes: Mapping[str, tuple[int, ...]]
    """Of tensors that were squeezed to matrices."""


def _as_stored(assignment: Assignment, stored: _Stored) -> Assignment:
    """With the steps from how the source stores its tensors, and to how the target does."""
    shape = stored.target_shapes.get(assignment.target)
    if shape is None and all(
        name not in stored.turns.steps and name not in stored.source_shapes for name in assignment.sources
    ):
        return assignment
    if (
        shape is not None
        and shape == stored.source_shapes.get(assignment.pieces[0].name)
        and assignment.is_copy
    ):
        return assignment
    pieces = []
    for piece in assignment.pieces:
        steps, turn = piece.steps, stored.turns.steps.get(piece.name)
        if turn is not None:
            steps = steps[1:] if turn.op == "transpose" and steps[:1] == (turn,) else (turn, *steps)
        true = stored.source_shapes.get(piece.name)
        if true is not None:
            steps = (Step("reshape", true[:2]), *steps)
        pieces.append(piece._replace(steps=steps))
    if stored.turns.is_guess and not stored.turns.steps.keys().isdisjoint(assignment.sources):
        label, reason = weaker((assignment.label, assignment.reason), _GUESSED)
        assignment = assignment._replace(label=label, reason=reason)
    if shape is None:
        return assignment._replace(pieces=tuple(pieces))
    back = Step("reshape", shape)
    if len(pieces) == 1 and not assignment.steps:
        steps = pieces[0].steps
        steps = steps[:-1] if steps[-1:] and steps[-1].op == "reshape" else steps
        return assignment._replace(pieces=(pieces[0]._replace(steps=(*steps, back)),))
    return assignment._replace(pieces=tuple(pieces), steps=(*assignment.steps, back))


_GUESSED: tuple[Label, str] = ("likely", "transposed, as the words for what is first and last say")


def _assignment(link: Link, sources: Sequence[Node], targets: Sequence[Node]) -> Assignment:
    pieces = tuple(Piece(sources[at].path if at >= 0 else "", steps) for at, steps in link.pieces)
    return Assignment(targets[link.target].path, pieces, link.steps, link.label, link.reason)
