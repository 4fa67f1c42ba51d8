"""
How time and memory are taken: whole processes and code in fresh processes, in turns.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

__all__ = ["COMMAND", "Sample", "in_pipe", "in_turns", "inside", "on_terminal", "python"]

COMMAND = os.path.join(sysconfig.get_path("scripts"), "modelinspect")
# ru_maxrss counts KiB on Linux, bytes on macOS.
_RSS_PER_MIB = 1 << 20 if sys.platform == "darwin" else 1 << 10


class Sample(NamedTuple):
    """What one run took."""

    seconds: float
    mib: float
    """Largest resident size of the process, MiB."""


Run = Callable[[], Sample]


def in_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, Sample]:
    """
    Medians over *rounds*, A B A B ..., after one round that only fills the caches.

    Taking turns spreads whatever else the machine does over all of them.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            sample = run()
            if number:
                samples[name].append(sample)
    return {
        name: Sample(median(s.seconds for s in taken), median(s.mib for s in taken))
        for name, taken in samples.items()
    }


def python(code: str) -> list[str]:
    """The command line that runs *code* with this interpreter."""
    return [sys.executable, "-c", code]


def in_pipe(command: Sequence[str]) -> Run:
    """A whole process, from its start to its end, with its output in a pipe."""

    def run() -> Sample:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read()
            errors = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        _demand(process.returncode, command, errors)
        return Sample(seconds, usage.ru_maxrss / _RSS_PER_MIB)

    return run


def on_terminal(command: Sequence[str], columns: int = 200, keep: list[bytes] | None = None) -> Run:
    """
    A whole process whose output is a terminal that reads as fast as it can.

    Args:
        command: What to run.
        columns: Width of the terminal, characters.
        keep: What the terminal showed is put here, in chunks.
    """

    def run() -> Sample:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
            os.close(theirs)
            shown = _drain(ours)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        _demand(process.returncode, command, b"".join(shown[-1:]))
        if keep is not None:
            keep[:] = shown
        return Sample(seconds, usage.ru_maxrss / _RSS_PER_MIB)

    return run


def _drain(terminal: int) -> list[bytes]:
    chunks: list[bytes] = []
    try:
        while chunk := os.read(terminal, 1 << 16):
            chunks.append(chunk)
    except OSError:  # Linux reports the end of a terminal as an input error
        pass
    finally:
        os.close(terminal)
    return chunks


def inside(setup: str, work: str) -> Run:
    """
    The seconds that *work* takes in a fresh process after *setup*: imports aside.

    Memory is the process's largest, so it includes what *setup* imported.
    """
    code = (
        f"import time, json, resource\n{setup}\n_t = time.perf_counter()\n{work}\n"
        "_t = time.perf_counter() - _t\n"
        "print(json.dumps([_t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))"
    )

    def run() -> Sample:
        done = subprocess.run(python(code), capture_output=True, check=False)
        _demand(done.returncode, ["python", "-c", work], done.stderr)
        seconds, peak = json.loads(done.stdout)
        return Sample(seconds, peak / _RSS_PER_MIB)

    return run


def _demand(code: int, command: Sequence[str], errors: bytes) -> None:
    """A run that failed is not a measurement."""
    if code:
        raise SystemExit(f"{' '.join(command)[:200]} ended with {code}\n{errors.decode(errors='replace')}")
