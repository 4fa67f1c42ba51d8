"""
The parameter table: which rows, in which order, as a list or as a tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelinspect.analysis.summary import ValueSummary
from modelinspect.display import Displayed
from modelinspect.tensors import ParameterTable, Storage, TensorInfo

__all__ = ["ParamsReport", "Totals", "TreeNode", "build_tree", "total"]


@dataclass(frozen=True)
class Totals:
    """Sums over the rows shown; tied parameters and shared storages count once."""

    tensors: int
    unique: int
    """Unique parameters, elements."""
    buffers: int
    """Elements of distinct buffers."""
    nbytes: int
    """Bytes of distinct storages."""


@dataclass(frozen=True)
class TreeNode:
    """
    One line of the tree: a module with the totals of its subtree, or a tensor.
    """

    path: str
    """Dotted path; ``""`` is the root."""
    label: str
    """Last part of the path; what a tree shows."""
    depth: int
    class_name: str
    """Class of the module where known, else ``""``."""
    totals: Totals
    tensor: TensorInfo | None = None
    """The tensor, where the line is one."""


@dataclass(frozen=True)
class ParamsReport(Displayed):
    """
    The rows of a parameter table after filters and sorting.
    """

    table: ParameterTable
    """Everything that the rows were chosen from."""
    tensors: Sequence[TensorInfo] = field(repr=False)
    """The rows, in the order to show."""
    totals: Totals
    tied_to: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Name of a tied tensor to the first name of the same one."""
    tree: Sequence[TreeNode] | None = field(default=None, repr=False)
    """The same rows as a tree, where one was asked for."""
    values: Mapping[str, ValueSummary] | None = field(default=None, repr=False)
    """Summaries by name, where values were asked for."""
    of: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of an optimizer's state: name of a tensor to that of the parameter it belongs to,
    where that can be told."""
    notes: tuple[str, ...] = ()


class _Sum:
    """Totals while they are being added up."""

    __slots__ = ("buffers", "nbytes", "tensors", "unique")

    def __init__(self) -> None:
        self.tensors = self.unique = self.buffers = self.nbytes = 0

    def add(self, tensor: TensorInfo, numel: int, nbytes: int) -> None:
        self.tensors += 1
        self.nbytes += nbytes
        if tensor.kind == "parameter":
            self.unique += numel
        elif tensor.kind == "buffer":
            self.buffers += numel

    def totals(self) -> Totals:
        return Totals(self.tensors, self.unique, self.buffers, self.nbytes)


def _figures(tensors: Iterable[TensorInfo], tied_to: Mapping[str, str]) -> list[tuple[TensorInfo, int, int]]:
    """
    Each tensor with the elements and bytes that are its own: of tied tensors only the
    first shown has any, a storage belongs to the first that looks into it.
    """
    rows = []
    storages: set[Storage] = set()
    counted: set[str] = set()
    for tensor in tensors:
        nbytes = 0
        # Nearly every tensor has the one storage, and is tied to no other.
        held = (tensor.storage,) if not tensor.parts else (storage for storage, _ in tensor.storages())
        for storage in held:
            if storage is not None and storage not in storages:
                storages.add(storage)
                nbytes += storage.nbytes
        numel = tensor.logical_numel
        if tied_to:
            first_name = tied_to.get(tensor.name, tensor.name)
            numel = 0 if first_name in counted else numel
            counted.add(first_name)
        rows.append((tensor, numel, nbytes))
    return rows


def total(tensors: Iterable[TensorInfo], tied_to: Mapping[str, str]) -> Totals:
    """
    Add up rows; tied tensors and shared storages count once.

    Args:
        tensors: The rows.
        tied_to: Further name of a tied tensor to its first name.
    """
    result = _Sum()
    for row in _figures(tensors, tied_to):
        result.add(*row)
    return result.totals()


def build_tree(
    tensors: Sequence[TensorInfo], table: ParameterTable, depth: int | None = None
) -> tuple[TreeNode, ...]:
    """
    The rows as a tree of modules, each with the totals of its subtree.

    Args:
        tensors: The rows, in their order; modules stand where their first tensor does.
        table: Knows class names and ties.
        depth: Levels below the root to show; None shows all. What lies deeper is in
            the totals of the level above.

    Returns:
        Lines from the root downwards, each directly below its parent.
    """
    sums: dict[str, _Sum] = {"": _Sum()}
    # Below each module, in order: sub-modules by path, tensors with themselves.
    children: dict[str, list[_Child]] = {"": []}
    for tensor, numel, nbytes in _figures(tensors, table.tied_to):
        path = ""
        sums[path].add(tensor, numel, nbytes)
        for part in tensor.name.split(".")[:-1]:
            below = f"{path}.{part}" if path else part
            if below not in sums:
                sums[below], children[below] = _Sum(), []
                children[path].append((below, None, None))
            path = below
            sums[path].add(tensor, numel, nbytes)
        own = _Sum()
        own.add(tensor, numel, nbytes)
        children[path].append((tensor.name, tensor, own))
    return tuple(_walk(children, sums, table.modules, depth))


_Child = tuple[str, TensorInfo | None, _Sum | None]


def _walk(
    children: Mapping[str, list[_Child]],
    sums: Mapping[str, _Sum],
    classes: Mapping[str, str],
    depth: int | None,
) -> Iterable[TreeNode]:
    """Lines from the root downwards; a stack of its own, so that no depth is too deep."""
    pending: list[tuple[int, _Child]] = [(0, ("", None, None))]
    while pending:
        level, (path, tensor, own) = pending.pop()
        class_name = classes.get(path, "") if tensor is None else tensor.class_name
        totals = (sums[path] if own is None else own).totals()
        yield TreeNode(path, path.rpartition(".")[2], level, class_name, totals, tensor)
        if tensor is None and (depth is None or level < depth):
            pending.extend((level + 1, child) for child in reversed(children[path]))
