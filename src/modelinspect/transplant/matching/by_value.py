"""
Cheap facts about values, where they settle or raise a doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modelinspect.errors import ModelInspectError
from modelinspect.transplant.matching.caution import NORM_OFFSET
from modelinspect.transplant.matching.links import Link
from modelinspect.transplant.matching.trees import Node, template_of
from modelinspect.transplant.matching.vocabulary import members_of

__all__ = ["weighed"]

_NEAR = 0.35
"""Of 0 or of 1: where the mean of a norm's weight lies that starts there."""
_LARGEST = 1 << 20


def weighed(
    links: Sequence[Link],
    sources: Sequence[Node],
    targets: Sequence[Node],
    values: Callable[[str], Any] | None,
) -> list[Link]:
    """
    The links, with labels lowered where the source's values contradict them.

    A norm's weight that lies near 0 is stored less one; a variance is never negative.

    Args:
        links: Of whole trees.
        sources: Tensors by rank.
        targets: Tensors by rank.
        values: Reads a tensor of the source; None: nothing can be read.
    """
    if values is None:
        return list(links)
    known: dict[tuple[str, str], str] = {}
    found = []
    for link in links:
        target, at = targets[link.target], link.pieces[0][0]
        is_norm = link.reason == NORM_OFFSET and ("kind", "norm") in members_of(target.path)
        if at < 0 or not (is_norm or target.role == "var") or sources[at].size > _LARGEST:
            found.append(link)
            continue
        source = sources[at]
        kind = ("norm" if is_norm else "var", template_of(source.path))
        if kind not in known:
            known[kind] = _contradiction(kind[0], source, values)
        reason = known[kind]
        found.append(link._replace(label="ambiguous", reason=reason) if reason else link)
    return found


def _contradiction(kind: str, source: Node, values: Callable[[str], Any]) -> str:
    """What speaks against a claim; empty: nothing."""
    try:
        array = values(source.path)
    except ModelInspectError:
        return ""  # what can't be read says nothing
    if array is None or source.size == 0:
        return ""
    if kind == "var":
        return "a variance is never negative, and its values are" if float(array.min()) < 0 else ""
    mean = float(array.mean())
    return "its values lie near 0: it may be stored less one" if abs(mean) < _NEAR else ""
