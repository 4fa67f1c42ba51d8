"""
Which tensor of a target comes from which of a source: the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from modelinspect.tensors import ParameterTable, TensorInfo
from modelinspect.transplant.caution import cautious
from modelinspect.transplant.links import Link, Result
from modelinspect.transplant.plan import Assignment, Doubt, Hint, Missing, Piece, Plan, Side, Unused
from modelinspect.transplant.regions import Solver
from modelinspect.transplant.scoring import natural
from modelinspect.transplant.sharing import shared_again
from modelinspect.transplant.styles import turned_rows, turns
from modelinspect.transplant.transforms import Step
from modelinspect.transplant.trees import Forms, Node, build_tree
from modelinspect.transplant.turning import turned

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
    forms = Forms()
    ours, theirs = _distinct(source), _distinct(target)
    source_tree, target_tree = build_tree(ours, forms), build_tree(theirs, forms)
    turned_steps = turns(source_tree, target_tree)
    if turned_steps:
        source_tree = build_tree(turned_rows(ours, turned_steps), forms)
    solver = Solver(ordered=(source.is_ordered, target.is_ordered), facts=(source.facts, target.facts))
    result = solver.solve(source_tree, target_tree)
    return _plan(source, target, source_tree, target_tree, result, turned_steps)


def _distinct(side: Side) -> list[TensorInfo]:
    """The tensors of a side, each once."""
    tied = side.table.tied_to
    rows = [row for row in side.table if row.persistent is not False and row.name not in tied]
    if not side.is_ordered:
        rows.sort(key=lambda row: natural(row.name))
    return rows


def _plan(
    source: Side, target: Side, ours: Node, theirs: Node, result: Result, turned_steps: Mapping[str, Step]
) -> Plan:
    source_leaves, target_leaves = list(ours.leaves()), list(theirs.leaves())
    made: dict[str, Assignment] = {}
    links = turned(result.links, source_leaves, target_leaves, target.table.modules)
    for link in cautious(links, source_leaves, target_leaves):
        made[target_leaves[link.target].path] = _assignment(link, source_leaves, target_leaves)
    for each in shared_again(source.table, source_leaves, target_leaves, made):
        made[each.target] = each
    made = {name: _as_stored(each, turned_steps) for name, each in made.items()}
    assignments = []
    for row in target.table:
        first = target.table.tied_to.get(row.name, row.name)
        if first in made:
            assignments.append(made[first]._replace(target=row.name))
    filled = {each.target for each in assignments}
    used = {name for each in assignments for name in each.sources}
    return Plan(
        source.table,
        target.table,
        tuple(assignments),
        tuple(
            _missing(row) for row in target.table if row.name not in filled and row.persistent is not False
        ),
        tuple(
            Unused(row.name, row.shape, "nothing in the target takes it")
            for row in source.table
            if source.table.tied_to.get(row.name, row.name) not in used
        ),
        tuple(
            Doubt(
                tuple(target_leaves[at].path for at in targets),
                tuple(source_leaves[at].path for at in sources),
                "a hint",
            )
            for targets, sources in result.doubts
        ),
    )


def _as_stored(assignment: Assignment, turned_steps: Mapping[str, Step]) -> Assignment:
    """With the steps that turn what was matched the other way round than it is stored."""
    if turned_steps.keys().isdisjoint(assignment.sources):
        return assignment
    pieces = []
    for piece in assignment.pieces:
        steps, turn = piece.steps, turned_steps.get(piece.name)
        if turn is not None:
            steps = steps[1:] if turn.op == "transpose" and steps[:1] == (turn,) else (turn, *steps)
        pieces.append(piece._replace(steps=steps))
    return assignment._replace(pieces=tuple(pieces))


def _assignment(link: Link, sources: Sequence[Node], targets: Sequence[Node]) -> Assignment:
    pieces = tuple(Piece(sources[at].path if at >= 0 else "", steps) for at, steps in link.pieces)
    return Assignment(targets[link.target].path, pieces, link.steps, link.label, link.reason)


def _missing(row: TensorInfo) -> Missing:
    return Missing(row.name, row.shape, "nothing in the source fits", is_made=_is_made(row))


def _is_made(row: TensorInfo) -> bool:
    """Masks, counters and tables that a module makes itself."""
    return row.kind == "buffer" and not row.name.rpartition(".")[2].startswith("running_")
