"""
Files to scan: those that a target names, each regular file below a folder.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from modelinspect.errors import RefusedError, TargetError, visible
from modelinspect.readers.parts.inside import inside
from modelinspect.readers.parts.json_size import is_dense
from modelinspect.readers.source import open_local

__all__ = ["Found", "files_of", "shards_of"]

MAX_FILES = 100_000
MAX_INDEX_BYTES = 48_000_000
_LEFT_OUT = (".git",)
"""Folders of other programs, whose files are compressed copies of those beside them."""


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
                if entry.name in _LEFT_OUT:
                    yield Found(os.path.join(folder, name), name, "a folder of another program")
                else:
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


def shards_of(path: str, target: str) -> Iterator[Found]:
    """The files that an ``*.index.json`` names, as far as they lie in its folder."""
    folder = os.path.dirname(path) or "."
    try:
        with open_local(path) as source:
            if source.size > MAX_INDEX_BYTES:
                yield Found(
                    path, os.path.basename(path), f"{source.size:,} bytes of names", "not-looked-into"
                )
                return
            text = source.read(0, source.size, "index").decode("utf-8-sig")
        weight_map = {} if is_dense(text) else json.loads(text)["weight_map"]
        names = sorted({name for name in weight_map.values() if isinstance(name, str)})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    for name in names[:MAX_FILES]:
        try:
            real = inside(folder, name, target)
        except RefusedError as error:
            yield Found(os.path.join(folder, name), name, error.message, "path-escape")
            continue
        if os.path.isfile(real):
            yield Found(real, name)
        else:
            yield Found(real, name, "it is missing, or no regular file", "not-looked-into")
