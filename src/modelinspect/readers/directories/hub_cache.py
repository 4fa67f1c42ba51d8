"""
A model's folder in the cache of the Hugging Face hub: ``models--ORGANISATION--NAME``.

``refs/main`` holds the name of a revision, ``snapshots/<revision>/`` its files, which are
links to ``blobs/`` (huggingface_hub 1.3, ``file_download.py``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from modelinspect.errors import TargetError, visible
from modelinspect.readers.directories.named_files import entries_of, short_text
from modelinspect.readers.parts.inside import inside
from modelinspect.tensors import Checkpoint

__all__ = ["is_one", "read"]

_REVISION = re.compile(r"[\w.-]{1,120}")
_SHOWN = 8


def is_one(folder: str, entries: Sequence[str]) -> bool:
    """Is the folder a checkpoint of that kind? Only names are looked at."""
    return "snapshots" in entries and bool({"refs", "blobs"} & set(entries)) and os.path.isdir(
        os.path.join(folder, "snapshots")
    )  # fmt: skip


def read(folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    """
    Read the snapshot that ``refs/main`` names, or the only one.

    Raises:
        TargetError: There are several, and ``refs/main`` names none of them.
        RefusedError: A link leads out of the folder.
    """
    from modelinspect.readers.directories.folder import read_directory

    snapshots = entries_of(folder, "snapshots", target)
    revision = _main(folder, entries, target)
    if revision in snapshots:
        said = f"read snapshots/{visible(revision)}, which refs/main names"
    elif len(snapshots) == 1:
        revision, said = snapshots[0], f"read snapshots/{visible(snapshots[0])}"
    else:
        raise TargetError(
            f"{visible(target)} is a cache with {len(snapshots)} snapshots, and refs/main names none of them",
            details=tuple(visible(os.path.join(target, "snapshots", name)) for name in snapshots[:_SHOWN]),
            hint="name one of them" if snapshots else "a download may have stopped early",
        )
    if is_one(
        os.path.join(folder, "snapshots", revision), entries_of(folder, f"snapshots/{revision}", target)
    ):
        raise TargetError(
            f"{visible(target)} is a cache inside a cache", details=(f"snapshots/{visible(revision)}",)
        )
    if len(snapshots) > 1:
        said += f"; the cache holds {len(snapshots) - 1} more"
    found = read_directory(inside(folder, f"snapshots/{revision}", target), target)
    return replace(found, notes=(said, *found.notes), facts={**found.facts, "revision": visible(revision)})


def _main(folder: str, entries: Sequence[str], target: str) -> str:
    """What ``refs/main`` says, where that is a plain name."""
    said = short_text(folder, "refs/main", target) if "refs" in entries else None
    plain = said is not None and _REVISION.fullmatch(said) is not None and ".." not in said
    return said if plain and said is not None else ""
