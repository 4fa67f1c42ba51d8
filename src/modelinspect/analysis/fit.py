"""
Does a checkpoint fit a definition? Names, shapes and data types side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelinspect.display import Displayed
from modelinspect.tensors import ParameterTable, TensorInfo

__all__ = ["FitReport", "FitRow", "FitStatus"]

FitStatus = Literal["ok", "missing", "unexpected", "shape", "dtype"]


@dataclass(frozen=True)
class FitRow:
    """
    One name on either side.
    """

    name: str
    """Name in the definition; in the checkpoint for ``unexpected``."""
    status: FitStatus
    """``missing``: the checkpoint lacks it; ``unexpected``: the definition does."""
    expected: TensorInfo | None
    """The definition's tensor."""
    found: TensorInfo | None
    """The checkpoint's tensor."""


@dataclass(frozen=True)
class FitReport(Displayed):
    """
    A definition and a checkpoint side by side.
    """

    definition: ParameterTable
    checkpoint: ParameterTable
    rows: tuple[FitRow, ...]
    """Definition's order, then what is unexpected."""
    checkpoint_prefix: str = ""
    """Prefix of the checkpoint's names that the definition's lack, e.g. ``module.``."""
    definition_prefix: str = ""
    """The same the other way round."""
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """True: ``load_state_dict(strict=True)`` succeeds as it is, without a prefix change."""
        bad = any(row.status in ("missing", "unexpected", "shape") for row in self.rows)
        return not bad and not self.checkpoint_prefix and not self.definition_prefix
