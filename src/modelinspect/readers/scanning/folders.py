"""
Files to scan: those that a target names, each regular file below a folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from modelinspect.errors import RefusedError, TargetError, visible
from modelinspect.readers.parts.inside import inside

__all__ = ["Found", "files_of"]

MAX_FILES = 100_000


class Found(NamedTuple):
    """A file to scan, or why it is not."""

    path: str
    name: str
    """As reports are to call it: relative to the folder."""
    reason: str = ""
    """Why it is left out; empty for what is to be scanned."""
    rule: str = ""


def files_of(folder: str, target: str) -> Iterator[Found]:
    """
    Every regular file below a folder, in order of names; links only where they lead inside.

    Raises:
        TargetError: The folder can't be listed, or there are too many files.
    """
    waiting, files = [""], 0
    while waiting:
        below = waiting.pop()
        folders = []
        for entry in _listed(os.path.join(folder, below), target):
            name = f"{below}/{entry.name}" if below else entry.name
            files += 1
            if files > MAX_FILES:
                raise TargetError(f"{visible(target)} holds more than {MAX_FILES:,} files")
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            else:
                yield _found(folder, name, entry, target)
        waiting += reversed(folders)


def _listed(folder: str, target: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise TargetError(f"{visible(target)} cannot be listed: {error.strerror}") from error


def _found(folder: str, name: str, entry: os.DirEntry[str], target: str) -> Found:
    path = os.path.join(folder, name)
    if entry.is_symlink():
        try:
            path = inside(folder, name, target)
        except RefusedError:
            return Found(path, name, "it is a link that leads out of the folder", "link")
    try:
        status = os.stat(path)
    except OSError as error:
        return Found(path, name, f"it can't be opened: {error.strerror}", "not-looked-into")
    if stat.S_ISDIR(status.st_mode):
        return Found(path, name, "it is a link to a folder of this one", "")
    if not stat.S_ISREG(status.st_mode):
        return Found(path, name, "it is no regular file", "not-looked-into")
    return Found(path, name)
