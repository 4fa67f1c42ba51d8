"""
How far a long piece of work is: one line on stderr, on a terminal only.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ProgressLine", "StepLine"]

PATIENCE = 0.5
"""Seconds that work may take before a line is shown at all."""
INTERVAL = 0.1
"""Seconds between two changes of the line."""


class ProgressLine:
    """
    Called with the bytes done and those in all; the line is gone when the block ends.

    Args:
        what: Stands before the percentage, e.g. ``reading values``.
        quiet: Show nothing.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what = what
        self._shows = sys.stderr.isatty() and not quiet
        self._next = time.monotonic() + PATIENCE
        self._length = 0

    def __call__(self, done: int, total: int) -> None:
        """Show the share that is done, if it is time to."""
        if self._is_time():
            self._write(self._share(done, total))

    def _share(self, done: int, total: int) -> str:
        return f"{self._what}: {done / max(1, total):.0%} of {total / 2**20:,.0f} MiB"

    def _is_time(self) -> bool:
        now = time.monotonic()
        if not self._shows or now < self._next:
            return False
        self._next = now + INTERVAL
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._length:
            self._write("")
            print(end="\r", file=sys.stderr, flush=True)

    def _write(self, text: str) -> None:
        print(f"\r{text:<{self._length}}", end="", file=sys.stderr, flush=True)
        self._length = len(text)


class StepLine(ProgressLine):
    """
    Called with the steps of training done, those in all (0: not known) and the loss;
    or, while a file is read, with bytes and None.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__("reading values", quiet=quiet)

    def __call__(self, done: int, total: int, loss: float | None = None) -> None:
        """Show how far it is, if it is time to."""
        if not self._is_time():
            return
        if loss is None:
            self._write(self._share(done, total))
            return
        of = f" of {total:,}" if total else ""
        self._write(f"training: step {done:,}{of}, loss {loss:.4g}")
