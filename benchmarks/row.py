"""
One line of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Row"]

Unit = Literal["s", "MiB"]


@dataclass(frozen=True)
class Row:
    """One line of the result: the same work, ours beside a peer's."""

    work: str
    ours: float
    peer_name: str
    peer: float
    unit: Unit = "s"
    budget: float | None = None
    """The most that the ratio may be; None: no budget, the figure is for information."""
    excess: bool = False
    """The budget is of the difference ours − peer, in *unit*, instead of the ratio."""

    @property
    def measured(self) -> float:
        """What the budget is about."""
        return self.ours - self.peer if self.excess else self.ours / self.peer

    @property
    def verdict(self) -> str:
        """``ok`` or ``over``; empty without a budget."""
        if self.budget is None:
            return ""
        return "ok" if self.measured <= self.budget else "over"
