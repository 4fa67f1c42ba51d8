"""
Files and folders that take their place when they are whole.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelinspect.errors import TargetError
from modelinspect.writers import temporary
from modelinspect.writers.temporary import TemporaryFile, TemporaryFolder


def test_a_file_takes_its_place(tmp_path: Path) -> None:
    """Until then nothing is there; permissions are those of any new file."""
    path = tmp_path / "out"
    with TemporaryFile(str(path)) as file:
        os.write(file.descriptor, b"new")
        assert not path.exists()
        file.take_place()
    (tmp_path / "usual").touch()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_takes_no_place_is_gone(tmp_path: Path) -> None:
    """A file, and a folder with what is in it."""
    with TemporaryFile(str(tmp_path / "file")), TemporaryFolder(str(tmp_path / "folder")) as folder:
        Path(folder.path, "inside").touch()
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path: Path) -> None:
    """Also where something comes into it meanwhile."""
    place = tmp_path / "place"
    with TemporaryFolder(str(place)) as folder:
        Path(folder.path, "inside").touch()
        folder.take_place()
    assert [entry.name for entry in place.iterdir()] == ["inside"]
    with TemporaryFolder(str(place)) as folder, pytest.raises(TargetError, match="not empty"):
        folder.take_place()
    assert [entry.name for entry in tmp_path.iterdir()] == ["place"]


def test_a_folder_that_is_not_there_or_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said, with the path."""
    with pytest.raises(TargetError, match="cannot be written: No such file"):
        TemporaryFile(str(tmp_path / "no" / "out"))
    with pytest.raises(TargetError, match="cannot be written: No such file"):
        TemporaryFolder(str(tmp_path / "no" / "out"))


def test_long_names(tmp_path: Path) -> None:
    """The temporary name is no longer than a file system takes."""
    for name in ("x" * 255, "🙂" * 63):
        with TemporaryFile(str(tmp_path / name)) as file:
            file.take_place()
    assert len(list(tmp_path.iterdir())) == 2


def test_one_that_is_cleared_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who clears up between the two steps costs another attempt, no more."""
    taken: list[Path] = []
    lock = temporary._lock

    def cleared(descriptor: int) -> bool | None:
        if not taken:
            (path,) = tmp_path.iterdir()
            taken.append(path)
            path.unlink()
        return lock(descriptor)

    monkeypatch.setattr(temporary, "_lock", cleared)
    with TemporaryFile(str(tmp_path / "out")) as file:
        assert Path(file.path).exists()
        assert Path(file.path) not in taken


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may be a living one's stays."""
    with TemporaryFile(str(tmp_path / "out")) as file:
        monkeypatch.setattr(temporary, "_lock", lambda _: None)
        with TemporaryFile(str(tmp_path / "other")) as other:
            other.take_place()
        assert Path(file.path).exists()
