"""
What all tests share: the command as a process of its own, and real weights.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
import shipped

ROOT = Path(__file__).parents[1]


class Finished(NamedTuple):
    """A process that has ended."""

    code: int
    stdout: str
    stderr: str


class Cli(Protocol):
    """Runs ``modelinspect`` with these arguments and waits for it."""

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        cwd: str | os.PathLike[str] = ...,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Finished:
        """Arguments as typed; *cwd* is the project's folder, *env* is added to the environment."""


@pytest.fixture(scope="session")
def console_script() -> Path:
    """The installed command, beside the interpreter that runs the tests."""
    script = Path(sysconfig.get_path("scripts")) / "modelinspect"
    assert script.exists(), f"{script} is not there: make test installs the wheel"
    return script


@pytest.fixture(scope="session")
def cli(console_script: Path) -> Cli:
    """The installed command in a process of its own, its output in a pipe."""
    bare = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COV_", "PYTEST_")) and name not in _TERMINAL
    }

    def run(
        *arguments: str | os.PathLike[str],
        cwd: str | os.PathLike[str] = ROOT,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Finished:
        done = subprocess.run(
            [console_script, *arguments],
            cwd=cwd,
            env={**bare, **(env or {})},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=300,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


_TERMINAL = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "CLICOLOR", "CLICOLOR_FORCE"}


@pytest.fixture(scope="session")
def shipped_weights() -> Callable[[str], Path]:
    """``shipped_weights("lpips==0.1.4")``: the folder of that package, unpacked, not installed."""
    return shipped.unpacked
