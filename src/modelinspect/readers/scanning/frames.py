"""
Frames of a pickle that end inside an argument.

Protocol 4 packs opcodes into frames. CPython's C unpickler, reading from a file, takes a frame
whole; an argument that reaches beyond it is read anew from behind the frame, and what was left
of the frame is lost (``_Unpickler_ReadImpl`` in Modules/_pickle.c). So the program that it runs
is another one than the bytes show to whoever reads them in a row.
"""

from __future__ import annotations

from modelinspect.readers.parts.pickle_symbols import Pickle
from modelinspect.readers.scanning.item import Item, Scan

__all__ = ["check_frames"]


def check_frames(scan: Scan, item: Item, pickle: Pickle, begin: int) -> None:
    """Compare the ends of frames with where opcodes begin."""
