"""
What all tests share: the command as a process of its own, and real weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import command
import pytest
import shipped


@pytest.fixture(scope="session")
def cli() -> command.Cli:
    """``cli("count", path)``: the installed command's code, stdout and stderr."""
    return command.installed()


@pytest.fixture(scope="session")
def shipped_weights() -> Callable[[str], Path]:
    """``shipped_weights("lpips==0.1.4")``: the folder of that package, unpacked, not installed."""
    return shipped.unpacked
