"""
Where a transplant is written to: what the path says, and whether it may be taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from modelinspect.errors import TargetError, UsageError, visible
from modelinspect.writers.atomic import check_folder

__all__ = ["Destination", "check_space", "destination_of", "free_place"]

_SAFETENSORS = ".safetensors"
_TORCH = (".pt", ".pth", ".bin")


class Destination(NamedTuple):
    """What a path says of the format, and of the names of shards."""

    path: str
    """As it was given."""
    folder: str
    """Where shards go."""
    stem: str
    suffix: str
    is_file: bool
    """The path names a file: what fits into one shard becomes that file."""

    @property
    def is_safetensors(self) -> bool:
        """Otherwise it is torch's zip archive."""
        return self.suffix == _SAFETENSORS

    @property
    def reader(self) -> str:
        """Name of the format in the readers' registry."""
        return "safetensors" if self.is_safetensors else "torch-zip"


def destination_of(out: str, *, is_sharded: bool) -> Destination:
    """
    Read a path.

    Raises:
        UsageError: Its suffix says no format.
    """
    stem, suffix = os.path.splitext(os.path.basename(out))
    if suffix.lower() in (_SAFETENSORS, *_TORCH) and not os.path.isdir(out):
        return Destination(out, os.path.dirname(out) or os.curdir, stem, suffix.lower(), is_file=True)
    if not is_sharded:
        raise UsageError(
            f"{visible(out)}: its suffix says no format to write",
            details=(f"known: {', '.join((_SAFETENSORS, *_TORCH))}",),
            hint=None if suffix else "a folder of shards is written with --shard-size, e.g. --shard-size 5GB",
        )
    return Destination(out, out, "model", _SAFETENSORS, is_file=False)


def free_place(path: str, sources: Iterable[str], *, is_folder: bool) -> str:
    """
    Where a path leads, after a look whether that may be replaced.

    Args:
        path: Of a file or a folder.
        sources: Files that must stay as they are.
        is_folder: A folder is wanted, new or empty.

    Raises:
        TargetError: It is a source, no regular file, a folder that holds something; or
            there is no folder for it.
    """
    real = os.path.realpath(path)
    if is_folder:
        _check_empty(path, real)
        return real
    check_folder(real)
    if os.path.lexists(real) and not os.path.isfile(real):
        raise TargetError(f"{visible(path)} cannot be written: it is no regular file")
    for source in sources:
        if os.path.exists(real) and os.path.exists(source) and os.path.samefile(real, source):
            raise TargetError(
                f"{visible(path)} is a file of the source, which is never written over",
                hint="name another file",
            )
    return real


def _check_empty(path: str, real: str) -> None:
    parent = os.path.dirname(real)
    if not os.path.isdir(parent):
        raise TargetError(f"{visible(path)} cannot be written: there is no folder {visible(parent)}")
    if os.path.lexists(real) and (not os.path.isdir(real) or os.listdir(real)):
        raise TargetError(
            f"{visible(path)} cannot be written: it is there and is no empty folder",
            details=("shards go to a folder that is new or empty",),
            hint="name another one, e.g. -o shards/ or -o shards/model.safetensors",
        )


def check_space(real: str, needed: int, shown: str) -> None:
    """
    Refuse what can't fit, before hours are spent on it.

    Args:
        real: Where it will be, links followed.
        needed: Bytes.
        shown: The path as it was given.

    Raises:
        TargetError: The disk has less room.
    """
    status = os.statvfs(os.path.dirname(real))
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise TargetError(
            f"{visible(shown)} cannot be written: the disk has no room for it",
            details=(f"{needed:,} bytes are needed beside what is there, {free:,} are free",),
        )
