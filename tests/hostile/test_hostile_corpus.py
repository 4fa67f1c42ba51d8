"""
Some hundreds of files made to do harm, each with what it is to give, through all commands.

All commands run on them in processes that are watched: see ``hostile.batch``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import command
import pytest
from hostile import setting
from hostile.entries import ENTRIES
from hostile.entry import Place, archive, tensor, text

BATCH = 50
"""Entries that one watched process is given: several may work at a time."""


def test_each_has_a_name_of_its_own() -> None:
    """Results are told apart by it."""
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names) > 800


@pytest.mark.parametrize("first", range(0, len(ENTRIES), BATCH))
def test_they_are_told_and_do_nothing(first: int, tmp_path: Path) -> None:
    """
    Of every command: nothing of the file runs, nothing outside its folder is opened, no traceback,
    no odd characters, bounded time and memory; of ``count`` and ``scan`` also the outcome expected.
    """
    entries = ENTRIES[first : first + BATCH]
    found: dict[str, list[dict[str, Any]]] = {}
    for result in setting.run(entries, tmp_path):
        found.setdefault(result["name"], []).append(result)
    wrong = {entry.name: setting.problems(entry, found[entry.name]) for entry in entries}
    assert not {name: problems for name, problems in wrong.items() if problems}


def test_nothing_is_imported_from_the_current_folder(cli: command.Cli, tmp_path: Path) -> None:
    """Modules of Python's and of libraries' names beside the file stay what they are: files."""
    marker = tmp_path / "marker"
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in (
        "torch", "json", "numpy", "typing", "os", "re", "ast", "zlib", "typer", "rich", "sitecustomize",
        "usercustomize", "safetensors", "modelinspect", "encodings", "fsspec", "csv", "heapq", "struct",
    ):  # fmt: skip
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    (folder / "x.pt").write_bytes(archive(b"\x80\x02}" + text("w") + tensor() + b"s."))
    for arguments in (["count"], ["params", "--values"], ["info"], ["scan"], ["bytes", "--json"]):
        done = cli(*arguments, "x.pt", cwd=folder)
        assert done.code == 0, done.stderr
    assert not marker.exists()


def test_the_payloads_are_real(tmp_path: Path) -> None:
    """Loaded as pickles, elsewhere, those that say so make their markers."""
    chosen = [entry for entry in ENTRIES if entry.runs]
    assert len(chosen) > 50
    program = (
        "import io, os, pickle, sys\n"
        "for line in sys.stdin:\n"
        "    path, marker = line.rstrip().split('\\t')\n"
        "    os.environ['HOSTILE_MARKER'] = marker\n"
        "    for name in [name for name in sys.modules if name.startswith('planted')]:\n"
        "        del sys.modules[name]\n"
        "    with open(path, 'rb') as file:\n"
        "        try: pickle.load(file)\n"
        "        except Exception: pass\n"
        "    if not os.path.exists(marker): print(path)\n"
    )
    modules = setting.planted(tmp_path)
    (tmp_path / "markers").mkdir()
    lines = []
    for number, entry in enumerate(chosen):
        folder = tmp_path / str(number)
        folder.mkdir()
        marker = setting.marker_of(tmp_path, number)
        lines.append(f"{folder / entry.make(Place(folder, marker, tmp_path))}\t{marker}\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        input="".join(lines),
        env={"PYTHONPATH": str(modules), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    quiet = [chosen[int(Path(line).parent.name)].name for line in done.stdout.split()]
    assert not quiet
