"""
What one hostile file is: who makes it, and what each command is to say of it.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "SOME", "Hostile", "Outcome", "Place", "archive", "one", "opened", "short", "tensor", "text", "zipped",
]  # fmt: skip

Outcome = tuple[int, str]
"""Exit code, and a piece of what is written: of ``scan`` mostly the rule."""


class Place(NamedTuple):
    """Where a file is made."""

    folder: Path
    """Of its own."""
    marker: str
    """A file that the payload creates where it runs."""
    outside: Path
    """A folder beside, with ``secret.bin``, ``secret.safetensors`` and ``planted.py``."""


class Hostile(NamedTuple):
    """One file or folder."""

    name: str
    make: Callable[[Place], str]
    """Writes it and gives what is to be named on the command line, from the folder on."""
    counted: Outcome
    scanned: Outcome
    runs: bool = False
    """Does ``pickle.load`` run the payload? Then the tests do so, elsewhere."""
    costly: bool = False
    """It takes a while: fewer commands run on it."""


def one(
    name: str,
    raw: bytes | Callable[[], bytes] | Callable[[str], bytes],
    count: Outcome,
    scan: Outcome,
    file: str = "x.pt",
    *,
    runs: bool = False,
    costly: bool = False,
) -> Hostile:
    """An entry that is one file; what makes its bytes may take the name of the marker."""

    def make(place: Place) -> str:
        content = raw if isinstance(raw, bytes) else raw(*[place.marker][: _arguments(raw)])
        (place.folder / file).write_bytes(content)
        return file

    return Hostile(name, make, count, scan, runs, costly)


def _arguments(function: Callable[..., bytes]) -> int:
    return sum(each.default is each.empty for each in signature(function).parameters.values())


# -- pieces of pickles ------------------------------------------------------------------------


def text(word: str) -> bytes:
    """BINUNICODE: every protocol from 1 on."""
    raw = word.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def short(word: str) -> bytes:
    """SHORT_BINUNICODE: protocol 4."""
    raw = word.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def opened(marker: str) -> bytes:
    """The call ``io.open(marker, "w")``, which makes the file."""
    return b"cio\nopen\n" + text(marker) + text("w") + b"\x86R"


STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x03tQ"


def tensor(
    storage: bytes = STORAGE, offset: bytes = b"K\0", size: bytes = b"K\3\x85", stride: bytes = b"K\1\x85"
) -> bytes:
    """A tensor of three numbers, parts of it replaced."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage + offset + size + stride
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


SOME = struct.pack("<3f", 1, 2, 3)
"""Its values."""


def zipped(records: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as Python writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as out:
        for name, content in records.items():
            out.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def archive(pickled: bytes, **records: bytes) -> bytes:
    """What torch.save writes around a pickle; ``a__b`` is the record ``a/b``."""
    more = {f"m/{name.replace('__', '/')}": content for name, content in records.items()}
    return zipped({"m/data.pkl": pickled, "m/data/0": SOME, "m/version": b"3\n", **more})
