"""
The two sides of a transplant as people name them: parts of them, and what is known beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from modelinspect.errors import UsageError, visible
from modelinspect.tensors import ParameterTable
from modelinspect.transplant.plan import Hint

__all__ = ["check_hints", "in_order_of", "is_sorted", "parse_hint", "under_prefix"]

_MOST_OFFERED = 4


def parse_hint(text: str) -> Hint:
    """
    What ``--map`` says: ``SOURCE=TARGET``, two globs with as many stars.

    Raises:
        UsageError: It is spelt otherwise.

    >>> parse_hint("encoder.layer.*=blocks.*")
    Hint(source='encoder.layer.*', target='blocks.*')
    """
    source, equals, target = text.partition("=")
    source, target = source.strip(), target.strip()
    if not equals or not source or not target:
        raise UsageError(
            f"--map {visible(text)!r} is no SOURCE=TARGET",
            hint="for example --map 'encoder.layer.*=blocks.*'",
        )
    if source.count("*") != target.count("*"):
        ours, theirs = source.count("*"), target.count("*")
        raise UsageError(
            f"--map {visible(text)!r} has {ours} stars before the = and {theirs} after it",
            details=("each star stands for the same text on both sides",),
        )
    return Hint(source, target)


def check_hints(hints: Iterable[Hint], source: ParameterTable, target: ParameterTable) -> None:
    """
    Refuse hints that say nothing about the two sides.

    Raises:
        UsageError: A glob matches no name of its side, or no two names that it pairs are there.
    """
    for hint in hints:
        found = _matches(hint.source, source)
        wanted = _matches(hint.target, target)
        for glob, table, some in ((hint.source, source, found), (hint.target, target, wanted)):
            if not some:
                raise UsageError(
                    f"--map: no name of {visible(table.source)} matches {visible(glob)!r}",
                    details=_offered(glob, table),
                )
        if not found.keys() & wanted.keys():
            raise UsageError(
                f"--map '{visible(hint.source)}={visible(hint.target)}' pairs nothing",
                details=(
                    f"in {visible(source.source)} the stars stand for {_some(found)}",
                    f"in {visible(target.source)} for {_some(wanted)}",
                ),
                hint="a star stands for the same text on both sides: --map 'a.*.q.*=b.*.query.*'",
            )


def _matches(glob: str, table: ParameterTable) -> dict[tuple[str, ...], None]:
    """What the stars stand for in each name that matches, of a tensor or of a module."""
    pattern = re.compile("(.*)".join(map(re.escape, glob.split("*"))), re.DOTALL)
    names: dict[str, None] = {}
    for row in table:
        name = row.name
        while name and name not in names:
            names[name] = None
            name = name.rpartition(".")[0]
    found = (pattern.fullmatch(name) for name in names)
    return {match.groups(): None for match in found if match}


def _some(found: Iterable[tuple[str, ...]]) -> str:
    shown = dict.fromkeys(", ".join(filter(None, each)) or "nothing" for each in found)
    listed = [visible(each) for each in list(shown)[:_MOST_OFFERED]]
    return "; ".join(listed) + ("; …" if len(shown) > _MOST_OFFERED else "")


def _offered(glob: str, table: ParameterTable) -> tuple[str, ...]:
    """Names that a glob may have meant."""
    from difflib import get_close_matches

    some = [row.name for _, row in zip(range(5_000), table)]
    near = get_close_matches(glob.replace("*", "0"), some, _MOST_OFFERED, 0.4) or some[:_MOST_OFFERED]
    return (f"names there: {', '.join(map(visible, near))}{', …' if len(table) > len(near) else ''}",)


def under_prefix(table: ParameterTable, prefix: str, flag: str) -> ParameterTable:
    """
    The part of a side whose names begin with a prefix; names stay as they are.

    Args:
        table: Of the side.
        prefix: A module's path, with or without the dot behind it; empty takes everything.
        flag: Named in errors.

    Raises:
        UsageError: No name begins with it.
    """
    if not prefix:
        return table
    dotted = prefix if prefix.endswith(".") else f"{prefix}."
    rows = [row for row in table if row.name.startswith(dotted)]
    if not rows:
        heads = dict.fromkeys(row.name.partition(".")[0] for row in table if "." in row.name)
        listed = ", ".join(visible(f"{head}.") for head in list(heads)[:8])
        raise UsageError(
            f"{flag}: no name of {visible(table.source)} begins with {visible(dotted)!r}",
            details=(f"names begin with: {listed}{', …' if len(heads) > 8 else ''}",) if heads else (),
        )
    return replace(table, tensors=rows)


def is_sorted(table: ParameterTable) -> bool:
    """
    Did somebody sort the names? Then their order says nothing about the order of registration.

    Modules register a weight before its bias; sorted, the bias is first.
    """
    names = [row.name for row in table]
    return len(names) > 1 and (names == sorted(names) or names == sorted(names, key=_natural))


_NUMBER = re.compile(r"([0-9]+)")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(_NUMBER.split(name)[:40])]


def in_order_of(table: ParameterTable, other: ParameterTable) -> ParameterTable | None:
    """
    A checkpoint's table as its definition has it: in the order of registration, with the
    definition's modules and kinds.

    Args:
        table: Of the checkpoint.
        other: Of the definition that the checkpoint is of.

    Returns:
        None where the two don't have the same names and shapes.
    """
    theirs: Mapping[str, int] = {row.name: at for at, row in enumerate(other)}
    if not table.tensors or any(
        row.name not in theirs or other[row.name].shape != row.shape for row in table
    ):
        return None
    rows = [
        row._replace(kind=other[row.name].kind, declared=True, persistent=other[row.name].persistent)
        for row in sorted(table, key=lambda row: theirs[row.name])
    ]
    return replace(table, tensors=rows, modules=other.modules)
