"""
The inputs that fuzzing found and the tests keep: one archive a target, because they are many and short.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ARCHIVES", "inputs", "keep", "unpack"]

ARCHIVES = Path(__file__).parents[1] / "fuzz" / "corpus"
MOST_INPUTS = 400
MOST_BYTES = 6144
"""Of one input. Longer ones are seeds with little changed, and hold paths of the machine that made them."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def inputs(target: str) -> Iterator[bytes]:
    """Every input that is kept for a target."""
    path = ARCHIVES / f"{target}.zip"
    if path.exists():
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                yield archive.read(name)


def keep(target: str, found: Path) -> None:
    """Put the shortest inputs in a folder, and those kept so far, into the archive of a target."""
    every = {path.read_bytes() for path in found.iterdir() if path.stat().st_size <= MOST_BYTES}
    chosen = sorted(every | set(inputs(target)), key=lambda data: (len(data), data))[:MOST_INPUTS]
    ARCHIVES.mkdir(exist_ok=True)
    with zipfile.ZipFile(ARCHIVES / f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for data in chosen:
            name = hashlib.sha256(data).hexdigest()[:16]
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)


def unpack(target: str, folder: Path) -> None:
    """Write every input that is kept into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs(target):
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
