"""
Files and folders under temporary names beside the place that they take when they are whole.

A living process holds a lock on what it is writing. What nobody holds was left by one that
was killed, and the next who writes in that folder removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress

from modelinspect.errors import TargetError, visible
from modelinspect.writers.atomic import usual_mode

__all__ = ["Temporary", "TemporaryFile", "TemporaryFolder", "cannot_write", "clear_stale"]

_SUFFIX = ".modelinspect-tmp"
_OURS = re.compile(r"\..*\.[0-9a-f]{12}" + re.escape(_SUFFIX), re.DOTALL)
_ATTEMPTS = 100


def cannot_write(path: str, error: OSError) -> TargetError:
    """The error for a path that the system refuses to write."""
    return TargetError(f"{visible(path)} cannot be written: {error.strerror}")


class Temporary:
    """
    What both kinds share. Use it in a ``with`` block: at its end it is removed,
    unless :meth:`take_place` was called.

    Args:
        path: What it becomes; a link is followed.
    """

    def __init__(self, path: str) -> None:
        self._shown = path
        self._real = os.path.realpath(path)
        self._is_placed = False
        folder = os.path.dirname(self._real)
        clear_stale(folder)
        try:
            self.path, self.descriptor = self._make(folder)
        except OSError as error:
            raise cannot_write(path, error) from error

    def __enter__(self) -> Temporary:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_placed:
            with suppress(OSError):
                _remove(self.path)
        os.close(self.descriptor)  # which lets go of the lock

    def take_place(self) -> None:
        """
        Become what it is for, in one step, and have that on disk.

        Raises:
            TargetError: The system refuses.
        """
        try:
            self._place(self._real)
            self._is_placed = True
            _sync_folder(os.path.dirname(self._real))
        except OSError as error:
            raise cannot_write(self._shown, error) from error

    def _make(self, folder: str) -> tuple[str, int]:
        """A new name that this process holds, and its descriptor."""
        for _ in range(_ATTEMPTS):
            name = f".{os.path.basename(self._real)[:48]}.{secrets.token_hex(6)}{_SUFFIX}"
            path = os.path.join(folder, name)
            # Whoever clears up may take it for a dead one before the lock is on it.
            try:
                descriptor = self._create(path)
            except FileNotFoundError:
                if not os.path.isdir(folder):
                    raise
                continue
            if _lock(descriptor) is not False and _is_at(path, descriptor):
                return path, descriptor
            os.close(descriptor)
        raise FileExistsError(0, "no name for a temporary file is free")

    def _create(self, path: str) -> int:
        raise NotImplementedError

    def _place(self, real: str) -> None:
        raise NotImplementedError


class TemporaryFile(Temporary):
    """
    A file to be written to ``descriptor``, which becomes *path*.

    Raises:
        TargetError: The folder can't be written to.
    """

    def _create(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _place(self, real: str) -> None:
        os.chmod(self.path, usual_mode(real))
        os.replace(self.path, real)


class TemporaryFolder(Temporary):
    """
    A folder to put files into, at ``path``, which becomes one that is new or was empty.

    Raises:
        TargetError: Its parent can't be written to.
    """

    def _create(self, path: str) -> int:
        os.mkdir(path, 0o700)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _place(self, real: str) -> None:
        os.chmod(self.path, usual_mode(real, 0o777))
        os.fsync(self.descriptor)
        os.rename(self.path, real)


def clear_stale(folder: str) -> None:
    """
    Remove what processes that are no more have left under temporary names of ours.
    """
    for path in _ours(folder):
        with suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags)
            try:
                if (
                    os.fstat(descriptor).st_uid == os.geteuid()
                    and _lock(descriptor)
                    and _is_at(path, descriptor)
                ):
                    _remove(path)
            finally:
                os.close(descriptor)


def _ours(folder: str) -> Iterator[str]:
    with suppress(OSError), os.scandir(folder or os.curdir) as entries:
        yield from [entry.path for entry in entries if _OURS.fullmatch(entry.name)]


def _lock(descriptor: int) -> bool | None:
    """True: it is ours now. False: somebody holds it. None: the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(path: str, descriptor: int) -> bool:
    """Is what is open still what has that name?"""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    """A file, or a folder of files."""
    if not stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode):
        os.unlink(path)
        return
    with os.scandir(path) as entries:
        for name in [entry.path for entry in entries]:
            os.unlink(name)
    os.rmdir(path)


def _sync_folder(folder: str) -> None:
    """Have a new name in a folder on disk; some file systems can't, and need it not."""
    descriptor = os.open(folder or os.curdir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
