"""
What comes through a pipe, made a file that can be read anywhere.

Most formats keep their directory at the end, so a stream is copied to a temporary file
first, which has no name and is gone when the process is. Only the target itself may be
a stream: a pipe that a checkpoint or a folder names is refused as ever.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable

from modelinspect.errors import LimitError, RefusedError, TargetError, UnrecognisedFileError, visible

__all__ = ["STANDARD_INPUT", "as_file"]

STANDARD_INPUT = "-"
MAX_SHARE_OF_DISK = 0.9
"""Of the room for temporary files that a stream may take: it may never end."""
SECONDS_WITHOUT_WRITER = 2.0
_LOOK_AGAIN = 0.02
_PIECE = 1 << 20
_HEAD = 512

_copies: dict[str, int] = {}
"""Descriptors of temporary files by the target they were read from: a pipe can be read once."""


def as_file(path: str, objection: Callable[[bytes], str | None] | None = None) -> str:
    """
    The path of a stream's copy; of standard input from a file, of that file.

    Args:
        path: Of a named pipe, or ``-`` for standard input (``registry.is_stream`` tells).
        objection: Told the first bytes; a text says why the rest is not worth copying.

    Raises:
        TargetError: Standard input is closed or a terminal.
        RefusedError: The objection, as the reason.
        LimitError: The stream is longer than there is room for.
    """
    if path in _copies:
        return _named(_copies[path])
    if path == STANDARD_INPUT:
        return _standard_input(objection)
    # Without O_NONBLOCK this would wait for a writer, who may never come.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        begun = _from_a_writer(descriptor, path)
        os.set_blocking(descriptor, True)
        return _named(_copied(descriptor, path, objection, begun))
    finally:
        os.close(descriptor)


def _from_a_writer(descriptor: int, path: str) -> bytes:
    """The first bytes, or none where somebody has the pipe open and takes his time."""
    import time

    for _ in range(round(SECONDS_WITHOUT_WRITER / _LOOK_AGAIN)):
        try:
            begun = os.read(descriptor, _HEAD)
        except BlockingIOError:
            return b""
        if begun:
            return begun
        time.sleep(_LOOK_AGAIN)
    raise RefusedError(f"{_shown(path)} is a named pipe that nobody writes to")


def _standard_input(objection: Callable[[bytes], str | None] | None) -> str:
    try:
        status = os.fstat(0)
    except OSError:
        raise TargetError("standard input is closed, and - was to be read from it") from None
    if os.isatty(0):
        raise TargetError("standard input is a terminal", hint="give a file: modelinspect count - < model.pt")
    if stat.S_ISREG(status.st_mode):
        return "/dev/fd/0"
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        raise RefusedError("standard input is a device", details=("only files and pipes are read",))
    return _named(_copied(0, STANDARD_INPUT, objection))


def _named(copy: int) -> str:
    return f"/dev/fd/{copy}"


def _copied(
    descriptor: int, path: str, objection: Callable[[bytes], str | None] | None, begun: bytes = b""
) -> int:
    import tempfile

    head = _filled(descriptor, begun)
    if not head:
        raise UnrecognisedFileError(
            f"{_shown(path)} is empty", hint="the command that was to write to it may have failed"
        )
    reason = objection(head) if objection is not None else None
    if reason is not None:
        raise RefusedError(f"{_shown(path)} is not a checkpoint this version can read", details=(reason,))
    copy, name = tempfile.mkstemp(prefix="modelinspect-")
    os.unlink(name)  # open, and gone with the process
    room = shutil.disk_usage(tempfile.gettempdir()).free * MAX_SHARE_OF_DISK
    length, piece = 0, head
    while piece:
        length += len(piece)
        if length > room:
            os.close(copy)
            raise _too_long(path, length)
        try:
            _write(copy, piece)
        except OSError:
            os.close(copy)
            raise _too_long(path, length) from None
        piece = os.read(descriptor, _PIECE)
    _copies[path] = copy
    return copy


def _write(descriptor: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]


def _filled(descriptor: int, head: bytes) -> bytes:
    """The first bytes; a pipe may hand them over in small pieces."""
    while len(head) < _HEAD:
        piece = os.read(descriptor, _HEAD - len(head))
        if not piece:
            break
        head += piece
    return head


def _too_long(path: str, length: int) -> LimitError:
    import tempfile

    return LimitError(
        f"{_shown(path)} is too long to be kept in a temporary file",
        details=(f"after {length:,} bytes there is no more room in {visible(tempfile.gettempdir())}",),
        hint="TMPDIR names another folder for it; or save the stream to a file and name that",
    )


def _shown(path: str) -> str:
    return "standard input" if path == STANDARD_INPUT else visible(path)
