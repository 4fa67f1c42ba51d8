"""
Which rows of a gradient table, in which order, under which modules; what they say together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import Any, Literal

from modelinspect.analysis.gradients import (
    SICK,
    Figures,
    Finding,
    GradientNode,
    GradientRow,
    NormOrder,
    combined,
    worst,
)
from modelinspect.analysis.selection import matching
from modelinspect.errors import unknown_choice, visible
from modelinspect.readers.parts.natural_order import naturally_sorted

__all__ = ["GRADIENT_SORT_KEYS", "by_module", "choose", "gradient_tree", "row_findings", "sorted_rows"]


def choose(
    rows: Sequence[GradientRow], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[GradientRow], tuple[str, ...]]:
    """
    Choose rows by globs of their names, as for every table; a tied parameter by any of its names.

    Returns:
        The rows that remain, in their order, and the globs that match no name.
    """
    names = [name for row in rows for name in (row.name, *row.also)]
    wanted, unmatched = matching(names, include)
    unwanted, more_unmatched = matching(names, exclude)

    def is_in(row: GradientRow, names: set[str]) -> bool:
        return any(name in names for name in (row.name, *row.also))

    chosen = [row for row in rows if (not include or is_in(row, wanted)) and not is_in(row, unwanted)]
    return chosen, (*unmatched, *more_unmatched)


def _of_figures(get: Callable[[Figures], float | None]) -> Callable[[GradientRow, NormOrder], Any]:
    return lambda row, _order: _place(None if row.figures is None else get(row.figures))


def _norm(row: GradientRow, order: NormOrder) -> tuple[int, float]:
    return _place(None if row.figures is None else row.figures.norm(order))


def _place(value: float | None) -> tuple[int, float]:
    """What there is no figure of comes first, NaN last."""
    if value is None:
        return 0, 0.0
    return (2, 0.0) if isnan(value) else (1, value)


_KEYS: dict[str, Callable[[GradientRow, NormOrder], Any]] = {
    "norm": _norm,
    "largest": _of_figures(lambda figures: figures.largest),
    "ratio": _of_figures(lambda figures: figures.ratio),
    "zeros": _of_figures(lambda figures: figures.zero_share),
    "relative_size": _of_figures(lambda figures: figures.relative_size),
    "numel": lambda row, _: row.numel,
    "shape": lambda row, _: row.shape,
    "dtype": lambda row, _: row.dtype,
    "verdict": lambda row, _: (row.verdict in SICK, row.verdict),
}
GRADIENT_SORT_KEYS = ("name", *_KEYS)
"""What rows of gradients can be sorted by."""


def sorted_rows(
    rows: Sequence[GradientRow], key: str | None, order: NormOrder, *, reverse: bool = False
) -> list[GradientRow]:
    """
    Rows in the order of one column; equal ones stay in the order they came in.

    Args:
        rows: The rows.
        key: One of :data:`GRADIENT_SORT_KEYS`; None keeps the order.
        order: Which norm ``norm`` is.
        reverse: Largest first.

    Raises:
        UsageError: There is no such column.
    """
    if key is None:
        return list(rows[::-1] if reverse else rows)
    if key == "name":
        places = {name: place for place, name in enumerate(naturally_sorted([row.name for row in rows]))}
        return sorted(rows, key=lambda row: places[row.name], reverse=reverse)
    if key not in _KEYS:
        message = f"rows of gradients can't be sorted by {visible(key)!r}"
        raise unknown_choice(message, key, "choices", GRADIENT_SORT_KEYS)
    return sorted(rows, key=lambda row: _KEYS[key](row, order), reverse=reverse)


# ------------------------------------------------------------------- by module


def by_module(
    rows: Iterable[GradientRow], classes: Mapping[str, str], depth: int | None = None
) -> tuple[GradientNode, ...]:
    """
    One line a module, in the order of their first parameters.

    Args:
        rows: The rows.
        classes: Dotted path of a module to its class.
        depth: Dotted parts of a path to keep; None: the module that holds the parameter.
    """
    groups: dict[str, list[GradientRow]] = {}
    for row in rows:
        path = row.name.rpartition(".")[0]
        kept = path if depth is None else ".".join(path.split(".")[:depth])
        groups.setdefault(kept, []).append(row)
    return tuple(_node(path, 0, members, classes, label=path) for path, members in groups.items())


def gradient_tree(
    rows: Sequence[GradientRow], classes: Mapping[str, str], depth: int | None = None
) -> tuple[GradientNode, ...]:
    """
    The rows as a tree of modules, each with the gradients below it together.

    Args:
        rows: The rows; modules stand where their first parameter does.
        classes: Dotted path of a module to its class.
        depth: Levels below the root to show; None shows all.

    Returns:
        Lines from the root downwards, each directly below its parent.
    """
    below: dict[str, list[GradientRow]] = {"": []}
    children: dict[str, list[tuple[str, GradientRow | None]]] = {"": []}
    for row in rows:
        path = ""
        below[path].append(row)
        for part in row.name.split(".")[:-1]:
            inner = f"{path}.{part}" if path else part
            if inner not in below:
                below[inner], children[inner] = [], []
                children[path].append((inner, None))
            path = inner
            below[path].append(row)
        children[path].append((row.name, row))
    return tuple(_lines(below, children, classes, depth))


def _lines(
    below: Mapping[str, list[GradientRow]],
    children: Mapping[str, list[tuple[str, GradientRow | None]]],
    classes: Mapping[str, str],
    depth: int | None,
) -> Iterator[GradientNode]:
    """A stack of its own, so that no depth is too deep."""
    pending: list[tuple[int, str, GradientRow | None]] = [(0, "", None)]
    while pending:
        level, path, row = pending.pop()
        members = below[path] if row is None else [row]
        yield _node(path, level, members, classes, row=row)
        if row is None and (depth is None or level < depth):
            pending.extend((level + 1, name, child) for name, child in reversed(children[path]))


def _node(
    path: str,
    depth: int,
    members: Sequence[GradientRow],
    classes: Mapping[str, str],
    *,
    label: str | None = None,
    row: GradientRow | None = None,
) -> GradientNode:
    return GradientNode(
        path=path,
        label=path.rpartition(".")[2] if label is None else label,
        depth=depth,
        class_name="" if row is not None else classes.get(path, ""),
        tensors=len(members),
        numel=sum(member.numel for member in members),
        figures=combined(member.figures for member in members),
        verdict=worst(member.verdict for member in members),
        row=row,
    )


# -------------------------------------------------------------------- findings


def row_findings(rows: Sequence[GradientRow]) -> tuple[Finding, ...]:
    """
    What the rows say together: towards which layer gradients vanish or explode.
    """
    return (*_extremes(rows, "vanishing"), *_extremes(rows, "exploding"))


def _extremes(rows: Sequence[GradientRow], verdict: Literal["vanishing", "exploding"]) -> Iterator[Finding]:
    sick = [(row.figures, row.name) for row in rows if row.figures is not None and row.verdict == verdict]
    if not sick:
        return
    others = [
        (row.figures, row.name)
        for row in rows
        if row.figures is not None and row.figures.numel and row.verdict in ("ok", "vanishing", "exploding")
    ]
    least, most = min, max
    if verdict == "exploding":
        least, most = max, min
    (far, far_name), (near, near_name) = least(sick, key=_l2), most(others, key=_l2)
    one, many = {"vanishing": ("vanishes", "vanish"), "exploding": ("explodes", "explode")}[verdict]
    what = f"1 gradient {one}" if len(sick) == 1 else f"{len(sick)} gradients {many}"
    way = "down" if verdict == "vanishing" else "up"
    text = f"{what}: {way} to {far.l2:.2g} at {visible(far_name)}"
    if near.l2 != far.l2:
        text += f", from {near.l2:.2g} at {visible(near_name)}"
    yield Finding(verdict, text, far_name.rpartition(".")[0])


def _l2(pair: tuple[Figures, str]) -> float:
    return pair[0].l2
