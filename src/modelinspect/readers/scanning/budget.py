"""
How much one target may ask of a scan.
"""

from __future__ import annotations

from time import process_time

from modelinspect.errors import LimitError

__all__ = ["MAX_DEPTH", "MAX_FINDINGS", "MAX_HELD", "MAX_RATIO", "Budget", "TooLongError"]

MAX_DEPTH = 6
"""Archives, and pickles in byte strings, inside each other."""
MAX_HELD = 1 << 26
"""Bytes unpacked into memory at a time."""
MAX_RATIO = 1_000
"""How often its own size a stream may unpack to before it is called a bomb; deflate's most is 1,032."""
MAX_FINDINGS = 1_000
"""Of one file."""
_MAX_SECONDS = 3.0
"""Of work on more bytes than the file has; what it has is read however long that takes."""
_FREE_BYTES = 1 << 27
_TIMES_THE_FILE = 4
_FREE_ITEMS = 50_000
_BYTES_AN_ITEM = 64


class TooLongError(LimitError):
    """A file asks for more work than one of its size may."""


class Budget:
    """
    Bytes to unpack, things to look into and time, in proportion to the size of the file.

    Records may share their bytes, and archives may hold each other: without this a few
    kilobytes keep a scan busy for ever.
    """

    def __init__(self, nbytes: int) -> None:
        self.bytes = _FREE_BYTES + _TIMES_THE_FILE * nbytes
        self.items = _FREE_ITEMS + nbytes // _BYTES_AN_ITEM
        self.unread = nbytes
        self.until = process_time() + _MAX_SECONDS

    def take(self, nbytes: int) -> bool:
        """Is there enough left for one more thing of that many bytes? Then it is taken."""
        if self.bytes < nbytes or self.items < 1:
            return False
        self.bytes -= nbytes
        self.items -= 1
        return True

    def spend(self, nbytes: int) -> None:
        """
        Note that so many bytes were worked on.

        Raises:
            TooLongError: They are more than the file has, and the time is up.
        """
        self.unread -= nbytes
        if self.unread < 0 and process_time() > self.until:
            raise TooLongError(
                "the file asks for too much work",
                details=("what it holds is compressed, shared or nested: the rest is not looked into",),
            )
