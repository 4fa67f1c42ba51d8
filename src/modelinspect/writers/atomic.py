"""
Write a file whole or not at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, BinaryIO, TextIO, cast

from modelinspect.errors import TargetError, visible

__all__ = ["check_folder", "replacing", "replacing_bytes", "usual_mode"]


def check_folder(path: str) -> None:
    """
    Refuse a path to write to whose folder is not there, before any work is done for it.

    Raises:
        TargetError: There is no such folder, or the path is one itself.
    """
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise TargetError(f"{visible(path)} cannot be written: it is a folder")
    if folder and not os.path.isdir(folder):
        raise TargetError(f"{visible(path)} cannot be written: there is no folder {visible(folder)}")


@contextmanager
def replacing(path: str) -> Iterator[TextIO]:
    """
    A text stream whose contents become *path* when the block ends well.

    A temporary file beside *path* is flushed to disk and renamed over it; on any
    error, Ctrl-C included, it is removed and what was there stays. Something that is
    no regular file (``/dev/stdout``, a pipe) is written to directly.

    Raises:
        TargetError: The folder cannot be written to.
    """
    with _replacing(path, {"mode": "w", "encoding": "utf-8", "newline": ""}) as stream:
        yield cast("TextIO", stream)


@contextmanager
def replacing_bytes(path: str) -> Iterator[BinaryIO]:
    """
    The same for bytes.

    Raises:
        TargetError: The folder cannot be written to.
    """
    with _replacing(path, {"mode": "wb"}) as stream:
        yield cast("BinaryIO", stream)


@contextmanager
def _replacing(path: str, how: dict[str, Any]) -> Iterator[IO[Any]]:
    if os.path.exists(path) and not os.path.isfile(path):
        with _opened(path, how) as stream:
            yield stream
        return
    real = os.path.realpath(path)
    try:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{os.path.basename(real)[:60]}.", dir=os.path.dirname(real)
        )
    except OSError as error:
        raise _cannot(path, error) from error
    try:
        with open(handle, **how) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, usual_mode(real))
        os.replace(temporary, real)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _opened(path: str, how: dict[str, Any]) -> IO[Any]:
    try:
        return cast("IO[Any]", open(path, **how))
    except OSError as error:
        raise _cannot(path, error) from error


def _cannot(path: str, error: OSError) -> TargetError:
    return TargetError(f"{visible(path)} cannot be written: {error.strerror}")


def usual_mode(path: str, new: int = 0o666) -> int:
    """
    Permissions of the file that is replaced, or those of a new one under the umask.
    """
    with suppress(OSError):
        return os.stat(path).st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return new & ~mask
