"""
Lists beside one another that run in opposite directions: levels of a pyramid, fine to coarse.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from modelinspect.transplant.matching.links import HINTED, Link
from modelinspect.transplant.matching.trees import Node, template_of

__all__ = ["both_ways", "level_by_level"]

_NUMBER = re.compile(r"\d+")


def both_ways(links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node]) -> list[Link]:
    """
    The links, with lists of equal members ambiguous where one beside them runs backwards.

    Shapes say which way a list runs whose members differ; one of equal members follows its
    numbers, and may have to follow the other.
    """
    lists: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    shapes: dict[tuple[str, str], dict[int, list[tuple[int, ...]]]] = defaultdict(lambda: defaultdict(list))
    places: dict[int, tuple[str, str]] = {}
    for number, link in enumerate(links):
        at = link.pieces[0][0]
        if at < 0 or len(link.pieces) > 1:
            continue
        ours, theirs = sources[at].path, targets[link.target].path
        found = _NUMBER.findall(ours), _NUMBER.findall(theirs)
        if len(found[0]) == len(found[1]) == 1:
            place = (_list_of(ours), _list_of(theirs))
            lists[place][int(found[1][0])] = int(found[0][0])
            shapes[place][int(found[1][0])].append(targets[link.target].shape)
            places[number] = place
    backwards = {
        len(found) for place, found in lists.items() if _differ(shapes[place]) and _is_reversed(found)
    }
    open_ones = {
        place
        for place, found in lists.items()
        if len(found) in backwards and not _differ(shapes[place]) and not _is_reversed(found)
    }
    reason = "beside it a list of that length runs backwards"
    return [
        link._replace(label="ambiguous", reason=reason)
        if places.get(number) in open_ones and link.reason != HINTED
        else link
        for number, link in enumerate(links)
    ]


def _list_of(path: str) -> str:
    return template_of(path).partition("#")[0]


def _differ(members: dict[int, list[tuple[int, ...]]]) -> bool:
    found = [tuple(sorted(shapes)) for shapes in members.values()]
    return len(set(found)) == len(found) > 1


def _is_reversed(found: dict[int, int]) -> bool:
    order = [other for _, other in sorted(found.items())]
    return len(order) > 1 and order == sorted(order, reverse=True) and len(set(order)) == len(order)


def level_by_level(links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node]) -> list[Link]:
    """
    The links, with lists of as many lists likely at most: which level is which, nothing but
    their order says.
    """
    grids: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    places: dict[int, tuple[str, ...]] = {}
    for number, link in enumerate(links):
        at = link.pieces[0][0]
        ours, theirs = sources[at].path if at >= 0 else "", targets[link.target].path
        if ours.count(".") and template_of(ours).count("#") == template_of(theirs).count("#") == 2:
            places[number] = (template_of(ours), template_of(theirs), str(targets[link.target].shape))
            first, second = map(int, _NUMBER.findall(theirs))
            grids[places[number]].append((first, second))
    square = {
        place for place, found in grids.items() if _is_square(found) and _words(place[0]) != _words(place[1])
    }
    reason = "level by level, in the order of their numbers"
    return [
        link._replace(label="likely", reason=reason)
        if places.get(number) in square and link.label == "certain" and link.reason != HINTED
        else link
        for number, link in enumerate(links)
    ]


def _is_square(found: Sequence[tuple[int, int]]) -> bool:
    """As many lists as each has members."""
    outer, inner = len({first for first, _ in found}), len({second for _, second in found})
    return outer == inner > 1 and len(found) == outer * inner


def _words(template: str) -> list[str]:
    """The modules that are lists."""
    parts = template.split(".")
    return [before for before, part in pairwise(parts) if part == "#"]
