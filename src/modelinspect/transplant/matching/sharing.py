"""
One tensor of the source for several of the target: weights that one side ties and the other does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from modelinspect.tensors import ParameterTable
from modelinspect.transplant.matching.orientation import reshaped
from modelinspect.transplant.matching.scoring import name_score
from modelinspect.transplant.matching.trees import Node
from modelinspect.transplant.matching.vocabulary import concepts_of, meaning_of
from modelinspect.transplant.plan import Assignment, Piece

__all__ = ["held_apart", "shared_again"]

_MOST_MISSING = 500
"""Where more is missing, it is not for want of a second name."""
_REASON = "tied in the source, as the names say"
_GUESS = "as the source has no other head, it ties its own to the embedding"


def shared_again(
    source: ParameterTable, sources: Sequence[Node], targets: Sequence[Node], made: Mapping[str, Assignment]
) -> Iterator[Assignment]:
    """
    Assignments of target tensors that are still missing, to source tensors that have a place already.

    A file that keeps each tensor once, as safetensors does, has dropped the second name of an
    embedding that is the head as well.
    """
    aliases: dict[str, list[str]] = {}
    for name, first in source.tied_to.items():
        aliases.setdefault(first, []).append(name)
    used = {name for each in made.values() for name in each.sources}
    has_own_head = any(_is_head(node.path) for node in sources)
    missing = [target for target in targets if target.path not in made]
    if len(missing) > _MOST_MISSING:
        return
    yield from _all_names(sources, missing, aliases, used)
    for target in missing:
        if target.role != "weight" or len(target.shape) != 2:
            continue
        for node in sources:
            steps = reshaped(node.shape, target.shape) if node.path in used else None
            if steps is None or len(steps) > 1:
                continue
            names = [node.path, *aliases.get(node.path, ())]
            if len(names) > 1 and max(name_score(name, target.path) for name in names) > 0:
                yield Assignment(target.path, (Piece(node.path, steps),), (), "likely", _REASON)
                break
            if _is_table(node.path) and (
                _is_table(target.path) or (_is_head(target.path) and not has_own_head)
            ):
                yield Assignment(target.path, (Piece(node.path, steps),), (), "likely", _GUESS)
                break


def _all_names(
    sources: Sequence[Node], missing: Sequence[Node], aliases: Mapping[str, list[str]], used: AbstractSet[str]
) -> Iterator[Assignment]:
    """A tensor with as many further names as tensors of its kind are missing."""
    for node in sources:
        names = aliases.get(node.path, [])
        alike = [each for each in missing if (each.role, each.shape) == (node.role, node.shape)]
        if names and node.path in used and len(alike) == len(names):
            for target in alike:
                yield Assignment(target.path, (Piece(node.path),), (), "likely", _REASON)


def _is_head(path: str) -> bool:
    return ("kind", "head") in concepts_of(path).members


def _is_table(path: str) -> bool:
    return "word" in meaning_of(path)


def held_apart(
    assignments: Sequence[Assignment], source: ParameterTable, target: ParameterTable
) -> list[Assignment]:
    """
    The assignments, ambiguous where the target ties what the source holds apart.
    """
    used = {name for each in assignments for name in each.sources}
    first = source.tied_to
    spare = {row.name: row.shape for row in source if row.name not in used and row.name not in first}
    groups: dict[str, list[Assignment]] = {}
    for each in assignments:
        groups.setdefault(target.tied_to.get(each.target, each.target), []).append(each)
    open_ones = {
        each.target
        for group in groups.values()
        if len(group) > 1
        for alias in group
        if spare.get(alias.target) == target[alias.target].shape
        for each in group
    }
    reason = "the target ties what the source holds apart"
    return [
        each._replace(label="ambiguous", reason=reason) if each.target in open_ones else each
        for each in assignments
    ]
