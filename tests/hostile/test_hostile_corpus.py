"""
Some hundreds of files made to do harm, each with what it is to give, through all commands.

All commands run on all of them in one process that is watched: see ``hostile.batch``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile import setting
from hostile.entries import ENTRIES
from hostile.entry import Hostile, Place

Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each command gave, by the entry's name."""
    found: Results = {}
    for result in setting.run(ENTRIES, tmp_path_factory.mktemp("hostile")):
        found.setdefault(result["name"], []).append(result)
    return found


def test_each_has_a_name_of_its_own() -> None:
    """Results are told apart by it."""
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names) > 800


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_it_is_told_and_does_nothing(entry: Hostile, results: Results) -> None:
    """
    Of every command: nothing of the file runs, nothing outside its folder is opened, no traceback,
    no odd characters, bounded time and memory; of ``count`` and ``scan`` also the outcome expected.
    """
    assert not setting.problems(entry, results[entry.name])


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
