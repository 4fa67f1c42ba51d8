"""
Names that both sides share, but for a prefix: nothing has to be found out about those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from modelinspect.analysis.fit import common_names
from modelinspect.tensors import TensorInfo
from modelinspect.transplant.matching.trees import template_of

__all__ = ["same_names"]


def same_names(source: Sequence[TensorInfo], target: Sequence[TensorInfo]) -> dict[str, str]:
    """
    Names of the target to those of the source that are the same, with the same shapes.

    Returns:
        Empty where few of the target's names are there, of which some may be so by chance,
        and where tensors of one name have their axes exchanged.
    """
    ours, theirs = {row.name: row for row in source}, {row.name: row for row in target}
    target_names, source_names = common_names(list(theirs), list(ours))
    partners = {common: name for name, common in source_names.items()}
    found: dict[str, str] = {}
    for name, common in target_names.items():
        partner = partners.get(common)
        if partner is None:
            continue
        if partner != name and not _WORD.search(common.rpartition(".")[0]):
            continue  # a number, and nothing that it counts
        shape, other = theirs[name].shape, ours[partner].shape
        if shape == other:
            found[name] = partner
        elif sorted(shape) == sorted(other):
            return {}
    # A list that has other numbers on the other side may be counted in another way.
    partial = {template_of(name) for name in theirs if name not in found}
    found = {name: partner for name, partner in found.items() if template_of(name) not in partial}
    found = _without_shifted(found, ours, theirs)
    return found if len(found) >= _MOST * len(theirs) else {}


_WORD = re.compile("[A-Za-z]")
_MOST = 0.7
"""Share of the target's names that the source must have."""


def _without_shifted(
    found: dict[str, str], ours: Mapping[str, TensorInfo], theirs: Mapping[str, TensorInfo]
) -> dict[str, str]:
    """
    Without lists that may be numbered from another start: fc1 to fc4 beside inp, fc1, fc2, fc3.
    """
    used = set(found.values())
    wanted = {row.shape for name, row in theirs.items() if name not in found}
    shifted = {template_of(name) for name, row in ours.items() if name not in used and row.shape in wanted}
    return {name: partner for name, partner in found.items() if template_of(partner) not in shifted}
