"""
Count what a table holds, so that the figures reconcile with the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CountReport", "DTypeTotal", "Grouping", "GroupTotal", "TieGroup"]

Grouping = Literal["dtype", "kind", "module", "prefix", "section", "shard"]


@dataclass(frozen=True)
class TieGroup:
    """Names of one and the same parameter."""

    names: tuple[str, ...]
    numel: int


@dataclass(frozen=True)
class DTypeTotal:
    """Everything of one data type; bytes are those of the storages, each once."""

    dtype: str
    tensors: int
    numel: int
    nbytes: int


@dataclass(frozen=True)
class GroupTotal:
    """One line of ``--by``: the totals of the tensors that share a label."""

    label: str
    tensors: int
    unique: int
    """Unique parameters; a tensor counts where its first name stands."""
    named: int
    trainable: int | None
    buffers: int
    nbytes: int


@dataclass(frozen=True)
class CountReport:
    """
    How much there is of what in one section of one target. All figures are
    elements unless they are called tensors or bytes.
    """

    target: str
    section: str
    unique: int
    """The headline: parameters, each once; packed values as what they stand for."""
    named: int
    """Parameters under every name, so tied ones more than once."""
    stored: int
    """Elements that the parameters' storages hold, each storage once and whole: less
    than unique where values are packed or expanded, more where a view drags a
    larger storage along."""
    trainable: int | None
    """None: unknown, as in a bare state_dict."""
    frozen: int | None
    buffers: int
    persistent_buffers: int | None
    """Part of the state_dict; None where it is unknown."""
    non_persistent_buffers: int | None
    nbytes: int
    """Bytes of all storages of the section, each once: parameters, buffers and others."""
    tensors: int
    """Names in the section."""
    parameter_tensors: int
    """Distinct parameters."""
    buffer_tensors: int
    dtypes: tuple[DTypeTotal, ...]
    ties: tuple[TieGroup, ...]
    by: Grouping | None = None
    groups: tuple[GroupTotal, ...] = ()
    notes: tuple[str, ...] = ()
