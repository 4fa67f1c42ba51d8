"""
Transplants killed at random moments: what is at OUT afterwards is always whole.

As a script: ``python tests/support/kills.py 100`` kills so often and says what it found.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file

__all__ = ["killed_at_random", "main"]

# Writes one and the other of two sources to OUT without end, and says before each which.
_CHILD = """\
import sys
from dataclasses import replace
from modelinspect.readers.registry import open_checkpoint
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.transforms import Step
from modelinspect.transplant.write import write_plan

out, *sources = sys.argv[1:]
while True:
    for source in sources:
        table = open_checkpoint(source).table
        target = replace(table, tensors=[row._replace(name="new." + row.name) for row in table])
        steps = [(Step("transpose"),), *[()] * (len(table) - 1)]
        lines = [Assignment("new." + row.name, (Piece(row.name, own),)) for row, own in zip(table, steps)]
        print(source, flush=True)
        write_plan(Plan(table, target, tuple(lines)), out)
"""


def killed_at_random(
    folder: Path, times: int, *, tensors: int = 12, width: int = 512, seed: int = 0, seconds: float = 0.5
) -> Counter[str]:
    """
    Kill a process that writes, so often, and look at its output each time.

    Args:
        folder: An empty one.
        times: Kills.
        tensors: Of each of the two sources.
        width: Each tensor is a square of this side.
        seed: Of the moments and the values.
        seconds: Each comes at most so long after the writing has begun.

    Returns:
        How often OUT was what: ``none``, ``a`` or ``b``; and of how many kills a temporary was left.

    Raises:
        AssertionError: OUT was anything else.
    """
    whole = {_digest(_references(folder, name, tensors, width, seed)): name for name in ("a", "b")}
    out = folder / "out" / "net.safetensors"
    out.parent.mkdir()
    chance, found = random.Random(seed), Counter[str]()
    for number in range(times):
        first, second = ("a", "b") if number % 2 else ("b", "a")
        _kill_one(
            [folder / f"{name}.safetensors" for name in (first, second)], out, chance.uniform(0, seconds)
        )
        found[whole[_digest(out)] if out.exists() else "none"] += 1
        others = [entry for entry in out.parent.iterdir() if entry != out]
        assert all(entry.name.endswith(".modelinspect-tmp") for entry in others), others
        assert len(others) <= 1, others  # what was left before is cleared
        found["left behind"] += len(others)
    return found


def _references(folder: Path, name: str, tensors: int, width: int, seed: int) -> Path:
    """The source of that name; the path of the output that it becomes, written undisturbed."""
    generator = torch.Generator().manual_seed(seed + ord(name))
    state = {f"t{number}": torch.randn(width, width, generator=generator) for number in range(tensors)}
    source, whole = folder / f"{name}.safetensors", folder / f"whole-{name}.safetensors"
    save_file(state, source)
    process = _child(whole, source)
    assert process.stdout is not None
    for _ in range(2):  # the second line comes once the first output is there
        process.stdout.readline()
    _kill(process)
    return whole


def _kill_one(sources: list[Path], out: Path, seconds: float) -> None:
    process = _child(out, *sources)
    assert process.stdout is not None
    assert process.stdout.readline()
    time.sleep(seconds)
    _kill(process)


def _child(out: Path, *sources: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _CHILD, os.fspath(out), *map(os.fspath, sources)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Kill as often as the first argument says."""
    with tempfile.TemporaryDirectory() as folder:
        times = int(sys.argv[1])
        found = killed_at_random(
            Path(folder), times, tensors=24, width=1024, seed=int(sys.argv[2]), seconds=1.5
        )
    print(f"killed {times} times, OUT always whole; it was: {dict(found)}")


if __name__ == "__main__":
    main()
