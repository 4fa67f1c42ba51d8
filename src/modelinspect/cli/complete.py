"""
What the shell may offer for a half-typed word: paths, definitions, sections, names.

Nothing is imported or run for it: a definition's file is parsed, a checkpoint's
header is read. Whatever goes wrong, nothing is offered and nothing is printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import typer

from modelinspect.errors import ModelInspectError, visible

if TYPE_CHECKING:
    from modelinspect.tensors import Checkpoint

__all__ = ["complete_name", "complete_section", "complete_target"]

MOST_OFFERED = 300
Offer = list[str | tuple[str, str]]


def complete_target(ctx: typer.Context, args: list[str], incomplete: str) -> Offer:
    """Files and folders; after ``net.py:`` the definitions in that file."""
    path, colon, _ = incomplete.partition(":")
    if colon and path.endswith(".py"):
        return _quietly(lambda: [(f"{path}:{name}", what) for name, what in _definitions(path)])
    return _quietly(lambda: _paths(incomplete))


def complete_section(ctx: typer.Context, args: list[str], incomplete: str) -> Offer:
    """Sections of the checkpoint that stands on the command line."""

    def offer() -> Offer:
        checkpoint = _checkpoint_of(ctx)
        found = [(s.name, f"{s.role}, {s.tensors} tensors") for s in checkpoint.sections if s.name]
        return [*found, ("all", "everything")]

    return _quietly(offer)


def complete_name(ctx: typer.Context, args: list[str], incomplete: str) -> Offer:
    """Names of tensors, up to the next dot, of the checkpoint on the command line."""

    def offer() -> Offer:
        names = (tensor.name for tensor in _checkpoint_of(ctx).section(_parameter(ctx, "section")))
        start = len(incomplete.rpartition(".")[0])
        matching = (name for name in names if name.startswith(incomplete) and visible(name) == name)
        offered = dict.fromkeys(_to_next_dot(name, start + 1) for name in matching)
        return [name for name, _ in zip(offered, range(MOST_OFFERED))]

    return _quietly(offer)


def _quietly(offer: Callable[[], Iterable[str | tuple[str, str]]]) -> Offer:
    try:
        return list(offer())
    except (ModelInspectError, OSError, SyntaxError, ValueError):
        return []


def _paths(incomplete: str) -> Offer:
    folder, name = os.path.split(incomplete)
    shown = os.path.join(folder, "")
    with os.scandir(os.path.expanduser(folder) or ".") as entries:
        found = sorted(e.name + ("/" if e.is_dir() else "") for e in entries if e.name.startswith(name))
    visible_ones = [entry for entry in found if not entry.startswith(".") or name.startswith(".")]
    return [(shown if folder else "") + entry for entry in visible_ones if visible(entry) == entry]


def _definitions(path: str) -> list[tuple[str, str]]:
    from modelinspect.outline import definitions_in

    with open(os.path.expanduser(path), "rb") as file:
        return definitions_in(file.read())


def _checkpoint_of(ctx: typer.Context) -> Checkpoint:
    from modelinspect.api import open_checkpoint
    from modelinspect.targets import parse_target

    # With an option still to be given its value, the words are not yet sorted out.
    words = [word for word in getattr(ctx, "args", ()) if not word.startswith("-")]
    named = [_parameter(ctx, "target"), _parameter(ctx, "source")]
    given = [*named, *(_parameter(ctx, "targets") or ()), *words]
    target = parse_target(next(filter(None, given), ""))
    if target.kind != "checkpoint":
        raise ValueError("names of a definition are known only when it is run")
    return open_checkpoint(target.path)


def _parameter(ctx: typer.Context, name: str) -> Any:
    return (getattr(ctx, "params", None) or {}).get(name)


def _to_next_dot(name: str, start: int) -> str:
    dot = name.find(".", start)
    return name if dot < 0 else name[: dot + 1]
