"""A folder to write definitions into, as a user's current folder."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = "import torch\nfrom torch import Tensor, nn\n"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """``write("net.py", source)`` makes a file in the current folder; gives its name."""
    monkeypatch.chdir(tmp_path)

    def to_file(name: str, source: str, *, head: str = HEAD) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + textwrap.dedent(source))
        return name

    return to_file
