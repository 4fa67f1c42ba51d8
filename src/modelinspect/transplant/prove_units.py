"""
A target's names as a tree in which blocks that repeat are one: what is decided once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Unit", "patterns_of", "units_of"]

Shape = tuple[int, ...]
_Tree = dict[str, Any]
_MOST_APART = 4


class Unit(NamedTuple):
    """A module, in all the blocks in which it stands."""

    pattern: str
    """``blocks.*.attn.q``."""
    block: str
    """The pattern up to its last star; empty outside of blocks."""
    paths: tuple[str, ...]
    """One a block, in order."""
    leaves: tuple[tuple[str, Shape], ...]
    """Names of its tensors, from the module on, with their shapes."""

    @property
    def is_module(self) -> bool:
        """True: its tensors are its own, not those of modules in it."""
        return all("." not in leaf for leaf, _ in self.leaves)

    def names(self) -> tuple[str, ...]:
        """Of all tensors, in all blocks."""
        return tuple(_joined(path, leaf) for path in self.paths for leaf, _ in self.leaves)


def units_of(shapes: Mapping[str, Shape]) -> tuple[Unit, ...]:
    """
    Every module that holds tensors, those in blocks that repeat together.

    Args:
        shapes: Of the target's tensors, by name.
    """
    tree: _Tree = {}
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):  # a tensor's name goes on in that of another
                break
        else:
            node.setdefault(leaf, shape)
    found: dict[str, list[tuple[str, tuple[tuple[str, Shape], ...]]]] = {}
    _walk(tree, "", "", found)
    units: list[Unit] = []
    for pattern, members in found.items():
        unit = Unit(pattern, _block(pattern), tuple(path for path, _ in members), members[0][1])
        units += [unit, *_own(unit)]
    return tuple(units)


def _own(unit: Unit) -> list[Unit]:
    """
    What a module holds itself beside modules, or beside layers that it writes out: parts of it.

    Tensors of one length go together, as ``in_proj_weight`` and ``in_proj_bias`` do; each is a
    part by itself, too, where there are matrices of several sizes.
    """
    own = tuple(leaf for leaf in unit.leaves if "." not in leaf[0])
    if not own or (len(own) == len(unit.leaves) and len({shape[:1] for _, shape in own}) == 1):
        return []
    lengths: dict[Shape, list[tuple[str, Shape]]] = {}
    for leaf in own:
        lengths.setdefault(leaf[1][:1], []).append(leaf)
    parts = [unit._replace(leaves=tuple(leaves)) for leaves in lengths.values() if len(leaves) > 1]
    if 1 < len(own) < len(unit.leaves):
        parts.append(unit._replace(leaves=own))
    alone = [
        Unit(
            _joined(unit.pattern, leaf),
            unit.block,
            tuple(_joined(path, leaf) for path in unit.paths),
            (("", shape),),
        )
        for leaf, shape in own
    ]
    return [*dict.fromkeys(parts), *alone]


def patterns_of(units: Iterable[Unit]) -> dict[str, str]:
    """Name of each tensor to what it is called in all blocks alike."""
    patterns: dict[str, str] = {}
    for unit in units:
        for path in unit.paths:
            for leaf, _ in unit.leaves:
                if "." not in leaf:
                    patterns.setdefault(_joined(path, leaf), _joined(unit.pattern, leaf))
    return patterns


def _walk(
    node: _Tree, path: str, pattern: str, found: dict[str, list[tuple[str, tuple[tuple[str, Shape], ...]]]]
) -> None:
    found.setdefault(pattern, []).append((path, tuple(_leaves(node, ""))))
    inner = {name: child for name, child in node.items() if isinstance(child, dict)}
    tokens = _tokens(inner)
    for name, child in inner.items():
        _walk(child, _joined(path, name), _joined(pattern, tokens[name]), found)


def _tokens(children: Mapping[str, _Tree]) -> dict[str, str]:
    """Numbers of children that are alike become one star."""
    groups: dict[tuple[tuple[str, Shape], ...], list[str]] = {}
    for name, child in children.items():
        if name.isdigit():
            groups.setdefault(tuple(_leaves(child, "")), []).append(name)
    tokens = {name: name for name in children}
    several = [members for members in groups.values() if len(members) > 1]
    # A short list of plain layers is no row of blocks: q, k and v, or the layers of an MLP.
    several = [
        members
        for members in several
        if len(members) > _MOST_APART or any(isinstance(each, dict) for each in children[members[0]].values())
    ]
    for members in several:
        star = "*" if len(several) == 1 else f"{members[0]}*"
        tokens |= dict.fromkeys(members, star)
    return tokens


def _leaves(node: _Tree, prefix: str) -> Iterable[tuple[str, Shape]]:
    for name, child in node.items():
        if isinstance(child, dict):
            yield from _leaves(child, _joined(prefix, name))
        else:
            yield _joined(prefix, name), child


def _block(pattern: str) -> str:
    parts = pattern.split(".")
    last = max((at for at, part in enumerate(parts) if part.endswith("*")), default=-1)
    return ".".join(parts[: last + 1])


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
