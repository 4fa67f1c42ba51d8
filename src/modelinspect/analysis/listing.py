"""
The parameter table: which rows, in which order, as a list or as a tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelinspect.analysis.statistics import ValueSummary
from modelinspect.tensors import ParameterTable, TensorInfo

__all__ = ["ParamsReport", "Totals", "TreeNode"]


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
class ParamsReport:
    """
    The rows of a parameter table after filters and sorting.
    """

    table: ParameterTable
    """Everything that the rows were chosen from."""
    tensors: Sequence[TensorInfo]
    """The rows, in the order to show."""
    totals: Totals
    tied_to: Mapping[str, str] = field(default_factory=dict)
    """Name of a tied tensor to the first name of the same one."""
    tree: Sequence[TreeNode] | None = None
    """The same rows as a tree, where one was asked for."""
    values: Mapping[str, ValueSummary] | None = None
    """Summaries by name, where values were asked for."""
    notes: tuple[str, ...] = ()
