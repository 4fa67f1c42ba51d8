"""
What is left of two regions: tensors that are one on one side and several on the other.

A fused projection is cut into its parts or made of them; experts that are stacked along a
first axis become one module each, or the other way round; both at once where stacked experts
are fused as well. Everything is seen as *slots* of equal count: a slot is one tensor, one
tensor that stacks several, or a list of tensors that differ in one number of their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelinspect.transplant.matching.fusing import fused
from modelinspect.transplant.matching.scoring import Scorer
from modelinspect.transplant.matching.slots import Made, Unit, counts_of, units_of
from modelinspect.transplant.matching.stacking import stacked
from modelinspect.transplant.matching.trees import Node

__all__ = ["combine"]


def combine(sources: Sequence[Node], targets: Sequence[Node], scorer: Scorer) -> list[Made]:
    """
    Tensors that fuse, split or stack what the other side has.

    Args:
        sources: Tensors of the source's region that have no place yet.
        targets: Of the target's.
        scorer: Of the region: names, neighbours, heads.
    """
    if not sources or not targets:
        return []
    made: list[Made] = []
    for count in sorted(counts_of(sources) & counts_of(targets)):
        ours = units_of(sources, count, scorer.source)
        theirs = units_of(targets, count, scorer.target)
        if count > 1:
            _without(ours, theirs, made, stacked(ours, theirs, scorer))
        _without(ours, theirs, made, fused(ours, theirs, scorer, is_split=False))
        _without(ours, theirs, made, fused(theirs, ours, scorer, is_split=True))
        used = {id(node) for each in made for node, _ in each.pieces}
        done = {id(each.target) for each in made}
        sources = [node for node in sources if id(node) not in used]
        targets = [node for node in targets if id(node) not in done]
    return made


def _without(ours: list[Unit], theirs: list[Unit], made: list[Made], new: Iterable[Made]) -> None:
    """Take note of what was made, and take its units out."""
    found = list(new)
    made += found
    used = {id(node) for each in found for node, _ in each.pieces}
    done = {id(each.target) for each in found}
    for units, gone in ((ours, used), (theirs, done)):
        for unit in units:
            for role, slot in list(unit.slots.items()):
                if any(id(node) in gone for node in slot.members):
                    del unit.slots[role]
        units[:] = [unit for unit in units if unit.slots]
