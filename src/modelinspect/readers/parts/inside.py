"""
Which files a checkpoint may name: those of its own folder.

A name is plain and relative. A symbolic link may lead to another place inside the
folder or, as in a Hugging Face cache, from ``snapshots/<revision>/`` to the sibling
``blobs/``; nowhere else is anything opened.
"""

from __future__ import annotations

import os

from modelinspect.errors import RefusedError, visible

__all__ = ["inside"]

_MAX_BELOW_SNAPSHOT = 3
"""Folders in each other: ``snapshots/<revision>/text_encoder``."""


def inside(folder: str, name: str, target: str) -> str:
    """
    The real path of an entry of *folder*, which must not lead out of it.

    Args:
        folder: Of the checkpoint.
        name: As a file of the checkpoint gives it: a plain relative name.
        target: The checkpoint as the user spelt it.

    Raises:
        RefusedError: The name, or what it links to, lies outside.
    """
    plain = name and not os.path.isabs(name) and ".." not in name.split("/") and _is_encodable(name)
    real = os.path.realpath(os.path.join(folder, name)) if plain else ""
    allowed = [os.path.realpath(folder)]
    blobs = _blobs_of(allowed[0])
    if blobs is not None:
        allowed.append(blobs)
    if not any(real.startswith(place.rstrip("/") + "/") for place in allowed):
        raise RefusedError(
            f"{visible(target)} names a file outside its folder: {visible(name)!r}",
            details=("a shard is a plain name inside the folder, and so is what it links to",),
        )
    return real


def _blobs_of(folder: str) -> str | None:
    """The ``blobs/`` of the cache that a folder below ``snapshots/<revision>/`` lies in."""
    for _ in range(_MAX_BELOW_SNAPSHOT):
        above = os.path.dirname(folder)
        if os.path.basename(above) == "snapshots":
            return os.path.join(os.path.dirname(above), "blobs")
        folder = above
    return None


def _is_encodable(name: str) -> bool:
    """Can the file system have such a name? Half surrogate pairs and null characters it can't."""
    try:
        return b"\x00" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False
