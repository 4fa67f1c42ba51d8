"""
State_dicts as trees of modules, with what each subtree holds summed up in a few numbers.

Two subtrees with equal ``key`` hold tensors of the same roles and shapes, however they are
nested; with equal ``size``, as many elements, however they are split; with equal ``form``, the
same names as well. That is all that structure can say, in time linear in the names.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from modelinspect.tensors import TensorInfo
from modelinspect.transplant.matching.vocabulary import Leaf, leaf_of

__all__ = ["Forms", "Node", "build_tree", "sum_up", "template_of"]

Shape = tuple[int, ...]
_NUMBER = re.compile(r"\d+")


@dataclass(eq=False, slots=True)
class Node:
    """A module, or a tensor, which is a node without children."""

    name: str
    """Its part of the path."""
    path: str
    """Dotted, from the root; of a tensor, its name in the state_dict."""
    parent: Node | None
    position: int
    """Rank in the side's order."""
    children: list[Node] = field(default_factory=list)
    row: TensorInfo | None = None
    role: str = ""
    size: int = 0
    """Elements of all tensors under it."""
    count: int = 0
    """Tensors under it."""
    key: int = 0
    """Of the multiset of roles and shapes under it."""
    form: int = 0
    """Of names, roles and shapes under it, its own name left out."""
    depth: int = 0
    start: int = 0
    """Rank of its first tensor among all, in the tree's own order."""
    frequency: float = 1.0
    """In which share of the blocks that repeat around it there is one like it."""

    @property
    def is_leaf(self) -> bool:
        """A tensor."""
        return self.row is not None

    @property
    def is_unit(self) -> bool:
        """A module that holds tensors and no modules."""
        return bool(self.children) and all(child.row is not None for child in self.children)

    @property
    def shape(self) -> Shape:
        """Of a tensor."""
        assert self.row is not None
        return self.row.shape

    def leaves(self) -> Iterator[Node]:
        """The tensors under it, in order."""
        pending = [self]
        while pending:
            node = pending.pop()
            if node.row is not None:
                yield node
            pending.extend(reversed(node.children))

    def ancestors(self) -> Iterator[Node]:
        """From its parent to the root."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def below(self, root: Node) -> str:
        """Its path as seen from a node above it."""
        return ".".join(reversed(list(self._names_up_to(root))))

    def _names_up_to(self, root: Node) -> Iterator[str]:
        node: Node | None = self
        while node is not None and node is not root:
            yield node.name
            node = node.parent


class Forms:
    """
    Numbers for what subtrees hold; one object serves both sides, so that they compare.
    """

    def __init__(self) -> None:
        self._keys: dict[tuple[str, Shape], int] = {}
        self._forms: dict[object, int] = {}

    def key(self, role: str, shape: Shape) -> int:
        """Of one tensor; keys of several are added."""
        known = self._keys.get((role, shape))
        if known is None:
            known = random.Random(len(self._keys)).getrandbits(64)  # noqa: S311  no secret: a hash
            self._keys[role, shape] = known
        return known

    def form(self, content: object) -> int:
        """Of a tensor's role and shape, or of a node's children with their names."""
        return self._forms.setdefault(content, len(self._forms))


@lru_cache(maxsize=1 << 20)
def template_of(path: str) -> str:
    """A path with its numbers taken out: ``h.3.ln_1`` is ``h.#.ln_#``."""
    return _NUMBER.sub("#", path)


def build_tree(rows: Sequence[TensorInfo], forms: Forms) -> Node:
    """
    The tree of some tensors.

    Args:
        rows: Of one state_dict, each tensor once, in an order that means something:
            of registration, or natural.
        forms: Shared by the two sides.
    """
    root = Node("", "", None, 0)
    names = {row.name for row in rows}
    containers = _containers(names)
    places: dict[str, Node] = {"": root}
    for position, row in enumerate(rows):
        parts = row.name.split(".")
        module = ".".join(parts[:-1])
        leaf = leaf_of(parts, module in containers)
        if (
            leaf.role == "bias"
            and leaf.holder
            and len(row.shape) > 1
            and not _has_weight(module, leaf, names)
        ):
            # Added to scores, position by position, and learned like any weight.
            leaf = Leaf(parts[-1], "weight")
        if leaf.role == "v" and parts[-1] == "weight_v" and _is_one_of(module, ("weight_orig",), names):
            leaf = Leaf("", "spectral_v")
        is_short = leaf.role == "bias" and not leaf.holder and parts[-1] in _SHORT_BIASES
        if is_short and not _is_one_of(module, _BESIDE_BIASES, names):
            leaf = Leaf(parts[-1], "weight")
        if leaf.holder == parts[-1] and leaf.holder.endswith("_scale"):
            holder = leaf.holder[: -len("_scale")]
            if _is_one_of(module, (f"{holder}_bias", f"{holder}_offset"), names):
                leaf = Leaf(holder, "weight")
        numbered = _BARE_BIAS.fullmatch(leaf.holder)
        if numbered and _is_one_of(module, (f"w{numbered[1]}", f"W{numbered[1]}"), names):
            leaf = Leaf(f"w{numbered[1]}", "bias")
        if leaf.parts > 1:
            module = ".".join(parts[: -leaf.parts])
        if leaf.holder:
            module = f"{module}.{leaf.holder}" if module else leaf.holder
        node = places.get(module) or _place(places, module, position)
        tensor = Node(parts[-1], row.name, node, position, row=row, role=leaf.role)
        node.children.append(tensor)
    sum_up(root, forms)
    _count_alike(root)
    return root


def _has_weight(module: str, leaf: Leaf, names: AbstractSet[str]) -> bool:
    """Is there what the bias belongs to, under the same word?"""
    prefix = f"{module}." if module else ""
    return any(f"{prefix}{leaf.holder}{end}" in names for end in ("", "_weight", "_kernel", "_scale", "_w"))


_SHORT_BIASES = frozenset({"b", "offset", "shift", "beta", "b_2"})
_BESIDE_BIASES = ("weight", "weights", "w", "W", "kernel", "gamma", "g", "scale", "a_2", "a", "alpha")
_BARE_BIAS = re.compile(r"[bB]_?(\d+)")
"""``b1``, beside ``w1``."""


def _is_one_of(module: str, lasts: Iterable[str], names: AbstractSet[str]) -> bool:
    prefix = f"{module}." if module else ""
    return any(prefix + last in names for last in lasts)


def _containers(names: Iterable[str]) -> set[str]:
    """Modules that hold modules."""
    found: set[str] = set()
    for name in names:
        module = name.rpartition(".")[0]
        while module:
            module = module.rpartition(".")[0]
            if module in found:
                break
            found.add(module)
    return found


def _place(places: dict[str, Node], module: str, position: int) -> Node:
    known = places.get(module)
    if known is not None:
        return known
    above, _, name = module.rpartition(".")
    parent = _place(places, above, position)
    node = Node(name, module, parent, position)
    parent.children.append(node)
    places[module] = node
    return node


def sum_up(root: Node, forms: Forms, own: Mapping[int, tuple[int, int]] | None = None) -> None:
    """
    Fill in what the nodes of a tree hold.

    Args:
        root: Of the tree.
        forms: Of both sides.
        own: Key and form of nodes, by identity, that are to have others than they would.
    """
    order = [root]
    for node in order:
        order.extend(node.children)
        for child in node.children:
            child.depth = node.depth + 1
    for node in reversed(order):
        if node.row is not None:
            shape = node.row.shape
            node.size, node.count = prod(shape), 1
            node.key = forms.key(node.role, shape)
            if node.role == "count":
                # Older files lack it; what is counted in batches is no weight.
                node.size = node.key = 0
            node.form = forms.form((node.role, shape, node.name))
        else:
            node.size = sum(child.size for child in node.children)
            node.count = sum(child.count for child in node.children)
            node.key = sum(child.key for child in node.children) & (2**64 - 1)
            node.form = forms.form(tuple((child.name, child.form) for child in node.children))
        if own and id(node) in own:
            node.key, node.form = own[id(node)]
    for node in order:
        start = node.start
        for child in node.children:
            child.start = start
            start += child.count


def _count_alike(root: Node) -> None:
    """A shortcut is in some blocks, what it runs beside is in all: that tells them apart."""
    nodes = [root]
    for node in nodes:
        nodes.extend(child for child in node.children if not child.is_leaf)
    blocks = Counter(template_of(node.path) for node in nodes)
    places: dict[int, tuple[str, str]] = {}
    holders: dict[int, Node | None] = {id(root): None}
    for node in nodes[1:]:
        above = node.parent
        assert above is not None
        is_block = blocks[template_of(above.path)] > 1 and any(map(str.isdigit, above.name))
        block = holders[id(node)] = above if is_block else holders[id(above)]
        if block is not None:
            places[id(node)] = (template_of(block.path), node.path[len(block.path) :])
    alike = Counter(places.values())
    for node in nodes:
        place = places.get(id(node))
        if place is not None:
            node.frequency = alike[place] / blocks[place[0]]
            for child in node.children:
                if child.is_leaf:
                    child.frequency = node.frequency
