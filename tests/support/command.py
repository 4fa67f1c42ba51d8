"""
The installed command as a process of its own. Tests ask for the fixture ``cli``.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_TERMINAL = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "CLICOLOR", "CLICOLOR_FORCE"}


class Finished(NamedTuple):
    """A process that has ended."""

    code: int
    stdout: str
    stderr: str


class Cli:
    """Runs ``modelinspect`` with its output in a pipe and waits for it."""

    def __init__(self, script: Path) -> None:
        self.script = script

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        cwd: str | os.PathLike[str] = ROOT,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Finished:
        """
        Run it.

        Args:
            arguments: As typed.
            cwd: The project's folder unless said.
            env: Added to the environment, from which all that Python, pytest and
                terminals read has been taken away.
            stdin: Its standard input.
        """
        done = subprocess.run(
            [self.script, *arguments],
            cwd=cwd,
            env={**plain_environment(), **(env or {})},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=300,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)


def installed() -> Cli:
    """The command that lies beside the interpreter that runs the tests."""
    script = Path(sysconfig.get_path("scripts")) / "modelinspect"
    assert script.exists(), f"{script} is not there: make test installs the wheel"
    return Cli(script)


def plain_environment() -> dict[str, str]:
    """The environment without what would make a run differ from a user's."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COV_", "PYTEST_")) and name not in _TERMINAL
    }
