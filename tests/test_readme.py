"""The README is true: its output is the command's own, and each of its examples runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from command import ROOT, Cli, plain_environment
from safetensors.torch import save_file

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The contents of the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def shown() -> list[tuple[str, str]]:
    """Commands of console blocks that show what they print, and that output."""
    found = []
    for block in blocks("console"):
        for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = piece.partition("\n")
            if output.strip():
                found.append((command, output.rstrip()))
    return found


def examples() -> list[str]:
    """Lines of the other blocks that run the command."""
    lines = [line for block in blocks("sh") + blocks("console") for line in block.splitlines()]
    return [
        line.removeprefix("$ ")
        for line in lines
        if re.search(r"(^|\W)modelinspect (count|params|compl)", line)
    ]


@pytest.mark.parametrize(("command", "output"), shown())
def test_output_is_the_commands_own(cli: Cli, command: str, output: str) -> None:
    """What the README shows is what the command prints, to the character."""
    words = command.partition("#")[0].partition("|")[0].split()
    form = ["--format", "table"] if "# on a terminal" in command else []
    assert cli(*words[1:], *form).stdout.rstrip() == output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the examples name."""
    made = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "models", made / "models")
    (made / "net.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self, width=1, hidden=13):\n"
        "        super().__init__()\n        self.encoder = torch.nn.Linear(width, hidden)\n"
    )
    state_dict = torch.nn.ModuleDict({"encoder": torch.nn.Linear(1, 13)}).state_dict()
    for name in ("model.pt", "a.pt"):
        torch.save(state_dict, made / name)
    for name in ("model.safetensors", "b.safetensors"):
        save_file(state_dict, made / name)
    return made


@pytest.mark.parametrize("line", examples())
def test_every_example_runs(cli: Cli, folder: Path, line: str) -> None:
    """Each line of the README does what it says, in a real shell: exit 0 or 1, no error."""
    environment = {
        **plain_environment(),
        "PATH": f"{cli.script.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
    }
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert "error:" not in done.stderr


def test_there_is_something_to_test() -> None:
    """The two lists above find what the README holds."""
    assert len(shown()) >= 4
    assert len(examples()) >= 15


def test_the_library_example_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python block of the README, line by line, with a model in hand."""
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"model": torch.nn.Linear(2, 3)}
    for line in blocks("python")[0].splitlines():
        if line.strip():
            exec(line, names)
