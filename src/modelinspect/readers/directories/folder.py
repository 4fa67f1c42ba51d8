"""
Which kind of checkpoint a folder is: asked of each kind in turn, by the names in it.
"""

from __future__ import annotations

import os
from importlib import import_module

from modelinspect.errors import TargetError, visible
from modelinspect.readers.directories.sharded import read_entries
from modelinspect.readers.parts.natural_order import naturally_sorted
from modelinspect.tensors import Checkpoint

__all__ = ["KINDS", "read_directory"]

KINDS = ("hub_cache", "megatron", "dcp", "deepspeed", "pipeline")
"""Modules beside this one with ``is_one(folder, entries)`` and ``read(folder, entries, target)``."""


def read_directory(folder: str, target: str) -> Checkpoint:
    """
    The checkpoint that a folder holds.

    Raises:
        TargetError: It holds none, or several and no usual name among them.
        RefusedError: A link leads out of it.
    """
    try:
        entries = naturally_sorted(os.listdir(folder))
    except OSError as error:
        raise TargetError(f"{visible(target)} cannot be listed: {error.strerror}") from error
    for kind in KINDS:
        module = import_module(f"modelinspect.readers.directories.{kind}")
        if module.is_one(folder, entries):
            return module.read(folder, entries, target)  # type: ignore[no-any-return]
    return read_entries(folder, entries, target)
