"""
All hostile files that the tests make.
"""

from __future__ import annotations

from hostile import archives, folders, headers, names, pickles
from hostile.entry import Hostile

ENTRIES: tuple[Hostile, ...] = (
    *pickles.ENTRIES,
    *archives.ENTRIES,
    *headers.ENTRIES,
    *folders.ENTRIES,
    *names.ENTRIES,
)
