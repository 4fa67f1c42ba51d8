"""
Files written whole or not at all.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from modelinspect.errors import TargetError
from modelinspect.writers.atomic import replacing, replacing_bytes


@pytest.mark.parametrize("write", [replacing, replacing_bytes])
def test_file_is_replaced_at_the_end(write: object, tmp_path: Path) -> None:
    """Until then the old one is there; afterwards nothing else is; its permissions stay."""
    path = tmp_path / "out"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o640)
    new = "new" if write is replacing else b"new"
    with write(str(path)) as stream:  # type: ignore[operator]
        stream.write(new)
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_error_leaves_the_old_file(tmp_path: Path) -> None:
    """And no temporary one."""
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with suppress(ZeroDivisionError), replacing_bytes(str(path)) as stream:
        stream.write(b"half")
        stream.write(bytes(1 // 0))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_kill_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that dies in the middle has not touched it."""
    path = tmp_path / "out"
    path.write_bytes(b"old")
    script = (
        "import os, signal, sys\nfrom modelinspect.writers.atomic import replacing_bytes\n"
        "with replacing_bytes(sys.argv[1]) as stream:\n"
        "    stream.write(b'half')\n    stream.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"


def test_link_stays_a_link_and_pipes_are_written_to(tmp_path: Path) -> None:
    """The file behind a link is replaced; what is no regular file is not."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with replacing_bytes(str(link)) as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    with replacing_bytes(os.devnull) as stream:
        stream.write(b"gone")
    assert Path(os.devnull).is_char_device()


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """Said, with the path."""
    with pytest.raises(TargetError, match="cannot be written"), replacing_bytes(str(tmp_path / "no" / "out")):
        pass


@pytest.mark.parametrize("write", ["replacing", "replacing_bytes"])
def test_standard_output_is_written_to(write: str) -> None:
    """A pipe that has a path, as /dev/stdout has."""
    new = "new" if write == "replacing" else b"new"
    script = (
        f"from modelinspect.writers.atomic import {write}\n"
        f"with {write}('/dev/stdout') as stream:\n    stream.write({new!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"new"


def test_new_file_has_the_permissions_of_any(tmp_path: Path) -> None:
    """Those that the umask leaves, not the narrow ones of a temporary file."""
    plain, written = tmp_path / "plain", tmp_path / "written"
    plain.touch()
    with replacing_bytes(str(written)):
        pass
    assert written.stat().st_mode == plain.stat().st_mode


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not safely on the disk is not put in the place of the old one."""
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), replacing_bytes(str(path)) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_can_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said, with the system's reason; root may write anywhere, so it is the system that says so here."""

    def refused(*_arguments: object, **_keywords: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", refused)
    with pytest.raises(TargetError, match="cannot be written: Permission denied"):
        replacing_bytes(str(tmp_path / "out")).__enter__()
