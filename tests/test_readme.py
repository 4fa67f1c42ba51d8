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

import modelinspect as mi

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
    lines = [
        line for block in blocks("sh") + blocks("console") for line in block.replace("\\\n", "").splitlines()
    ]
    return [
        line.removeprefix("$ ")
        for line in lines
        if re.search(r"(^|\W)modelinspect (info|count|params|bytes|grads|transpl|compl)", line)
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
    _add_what_transplant_reads(made)
    (made / "net.py").write_text(
        TRANSPLANTED + "\n\nclass Net(torch.nn.Module):\n    def __init__(self, width=1, hidden=13):\n"
        "        super().__init__()\n        self.encoder = torch.nn.Linear(width, hidden)\n\n"
        "    def forward(self, x):\n        return self.encoder(x.flatten(1)[:, :1]).mean(1, keepdim=True)\n"
    )
    _add_what_grads_reads(made)
    state_dict = torch.nn.ModuleDict({"encoder": torch.nn.Linear(1, 13)}).state_dict()
    for name in ("model.pt", "a.pt"):
        torch.save(state_dict, made / name)
    for name in ("model.safetensors", "b.safetensors"):
        save_file(state_dict, made / name)
    return made


TRANSPLANTED = """\
import torch


class Old(torch.nn.Module):
    def __init__(self):
        super().__init__()
        parts = [{"up": torch.nn.Linear(6, 8), "down": torch.nn.Linear(8, 6)} for _ in range(3)]
        self.layers = torch.nn.ModuleList(map(torch.nn.ModuleDict, parts))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer["down"](layer["up"](x).tanh())
        return x


class New(torch.nn.Module):
    def __init__(self):
        super().__init__()
        parts = [[torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6)] for _ in range(3)]
        self.blocks = torch.nn.ModuleList(torch.nn.Sequential(*part) for part in parts)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x

"""


def _add_what_transplant_reads(made: Path) -> None:
    """Weights of one class, those of another whose names are to be taken, and a plan."""
    names: dict[str, type[torch.nn.Module]] = {}
    exec(TRANSPLANTED, names)
    torch.save(names["Old"]().state_dict(), made / "old.pt")
    torch.save(names["New"]().state_dict(), made / "other.pt")
    mi.plan_transplant(made / "old.pt", names["New"]()).save(str(made / "plan.json"))


def _add_what_grads_reads(made: Path) -> None:
    """Data, a language model, a loader and a loss, a checkpoint with an optimizer, two runs."""
    (made / "lm.py").write_text("import torch\n\n\nclass LM(torch.nn.Embedding):\n    def __init__(self):\n"
                                "        super().__init__(1000, 4)\n")  # fmt: skip
    (made / "masked.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.embedding = torch.nn.Embedding(50, 4)\n\n"
        "    def forward(self, ids, mask, use_cache=True):\n"
        "        return self.embedding(ids) * mask[..., None]\n"
    )
    (made / "train.py").write_text(
        "import torch\n\ndataloader = [(torch.randn(4, 1), torch.randn(4, 1)) for _ in range(3)]\n\n\n"
        "def my_loss(output, target):\n    return (output - target).abs().mean()\n"
    )
    rows = "\n".join(f"{number},{number % 7},{number / 9}" for number in range(70))
    (made / "train.csv").write_text(f"pixel0,pixel1,label\n{rows}\n")
    save_file({"x": torch.randn(6, 1), "y": torch.randn(6, 1)}, made / "batches.safetensors")
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(1, 13)})
    optimizer = torch.optim.Adam(model.parameters())
    for name in ("run.jsonl", "run1.jsonl", "run2.jsonl"):
        with mi.watch(model, made / name, every=1):
            model["encoder"](torch.ones(2, 1)).mean().backward()
            optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, made / "checkpoint.pt")
    torch.save(optimizer.state_dict(), made / "optimizer.pt")


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
    models: dict[str, type[torch.nn.Module]] = {}
    exec(TRANSPLANTED, models)
    names: dict[str, object] = {
        "model": torch.nn.Linear(2, 3), "x": torch.ones(4, 2), "y": torch.ones(4, 3),
        "old_model": models["Old"](), "new_model": models["New"](),
        "state_dict": models["Old"]().state_dict(),
    }  # fmt: skip
    for line in blocks("python")[-1].splitlines():
        if line.strip():
            exec(line, names)


def test_the_watch_example_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block that stands in a training script, with a loop of one step."""

    def train(model: torch.nn.Module) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()

    monkeypatch.chdir(folder)
    exec(blocks("python")[0], {"mi": mi, "model": torch.nn.Linear(2, 3), "train": train})
    assert mi.grads("run.jsonl").loss is None
