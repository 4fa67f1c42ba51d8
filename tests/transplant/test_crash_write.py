"""Killed at any moment: the old file or the new one, whole; nothing else for long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from hand_plans import assert_same, load, plan_for
from kills import killed_at_random
from safetensors.torch import save_file

from modelinspect.transplant.write import write_plan
from modelinspect.writers.temporary import TemporaryFile, TemporaryFolder


def test_kills_at_random_moments(tmp_path: Path) -> None:
    """What is at OUT is always one of the two whole outputs, and leftovers never gather."""
    found = killed_at_random(tmp_path, 6)
    assert found["a"] + found["b"] + found["none"] == 6


def test_next_run_clears_what_the_dead_left(tmp_path: Path) -> None:
    """Files and folders of a process that was killed go; those of a living one stay."""
    save_file({"w": torch.zeros(3)}, tmp_path / "source.safetensors")
    script = (
        "import os, signal, sys\n"
        "from modelinspect.writers.temporary import TemporaryFile, TemporaryFolder\n"
        "file, folder = TemporaryFile(sys.argv[1]), TemporaryFolder(sys.argv[2])\n"
        "open(os.path.join(folder.path, 'shard'), 'w').close()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    dead = subprocess.run([sys.executable, "-c", script, tmp_path / "a.pt", tmp_path / "shards"], check=False)
    assert dead.returncode == -9
    assert len([entry for entry in tmp_path.iterdir() if entry.name.endswith(".modelinspect-tmp")]) == 2
    mine = tmp_path / ".mine.0123456789ab.modelinspect-tmp.txt"
    mine.write_text("not one of them", encoding="utf-8")
    with TemporaryFile(str(tmp_path / "b.pt")) as file, TemporaryFolder(str(tmp_path / "c")) as folder:
        plan = plan_for(tmp_path / "source.safetensors", {"v": "w"}, {"v": torch.zeros(3)})
        write_plan(plan, str(tmp_path / "out.pt"))
        left = {entry for entry in tmp_path.iterdir() if entry.name.endswith(".modelinspect-tmp")}
        assert left == {Path(file.path), Path(folder.path)}
    assert mine.exists()
    assert_same(load(tmp_path / "out.pt"), {"v": torch.zeros(3)})
    assert not [entry for entry in tmp_path.iterdir() if entry.name.endswith(".modelinspect-tmp")]
