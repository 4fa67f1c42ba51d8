"""`modelinspect info` as a script and as a person sees it: real processes."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import ROOT, Cli
from safetensors.torch import save_file
from torch import nn


class Block(nn.Module):
    """One layer of the language model below."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.register_buffer("mask", torch.ones(64, 64, dtype=torch.bool).tril())


class LM(nn.Module):
    """A language model with a tied head, as small ones are written."""

    def __init__(self, words: int = 5000, width: int = 96, layers: int = 6) -> None:
        super().__init__()
        self.wte = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.wte.weight


class Runs:
    """Writes a file where it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch ran",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README shows, beside files of other kinds."""
    made = tmp_path_factory.mktemp("info")
    model = LM()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    args = argparse.Namespace(width=96)
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "step": 1200,
         "best_loss": 2.71, "args": args},
        made / "last.pt",
    )  # fmt: skip
    torch.save(model, made / "whole.pt")
    save_file({"w": torch.zeros(2, 3)}, made / "small.safetensors", {"format": "pt", "a\x1b[31m": "b\x1b[0m"})
    (made / "broken.pt").write_bytes((made / "last.pt").read_bytes()[:5000])
    (made / "folder").mkdir()
    save_file({"w": torch.zeros(2)}, made / "folder" / "model.safetensors")
    return made


def test_the_readme_shows_a_checkpoint_as_it_is(cli: Cli, folder: Path) -> None:
    """The card in the README is the command's own, to the character."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(last\.pt .*?)^```$", readme, re.MULTILINE | re.DOTALL)
    out = cli("info", "last.pt", "--format", "table", cwd=folder, env={"COLUMNS": "100"}).stdout
    assert out == shown


def test_a_pipe_gets_keys_and_values(cli: Cli, folder: Path) -> None:
    """One fact a line, raw, so that a script can pick one."""
    code, out, err = cli("info", "small.safetensors", cwd=folder)
    facts = dict(line.split("\t") for line in out.splitlines())
    assert (code, err) == (0, "")
    assert facts["format"] == "safetensors"
    assert facts["unique"] == "6"
    assert facts["writer"] == "PyTorch"
    assert facts["largest.1.share"] == "1.0"
    assert facts["loading.verdict"] == "no"
    assert facts["metadata.a\\x1b[31m"] == "b\\x1b[0m"


def test_json_holds_a_list(cli: Cli, folder: Path) -> None:
    """Also of one target."""
    document = json.loads(cli("info", "last.pt", "--json", cwd=folder).stdout)
    (target,) = document["targets"]
    assert (target["epoch"], target["step"]) == ("3", "1200")
    assert target["loading"]["names"] == ["argparse.Namespace"]
    lines = cli("info", "last.pt", "small.safetensors", "-f", "jsonl", cwd=folder).stdout.splitlines()
    assert [json.loads(line)["target"] for line in lines] == ["last.pt", "small.safetensors"]


def test_several_targets_are_several_cards(cli: Cli, folder: Path) -> None:
    """One below the other, with an empty line between."""
    out = cli("info", "last.pt", "small.safetensors", "--format", "table", cwd=folder).stdout
    assert re.search(r"\n\nsmall.safetensors\n\n", out)
    rows = cli("info", "last.pt", "small.safetensors", cwd=folder).stdout.splitlines()
    assert {line.split("\t")[0] for line in rows} == {"last.pt", "small.safetensors"}


def test_what_cannot_be_read_is_an_error_and_the_others_are_shown(cli: Cli, folder: Path) -> None:
    """Exit 2, the reason on stderr, the readable targets on stdout with their names."""
    code, out, err = cli("info", "broken.pt", "small.safetensors", "nothing.pt", cwd=folder)
    assert code == 2
    assert out.startswith("small.safetensors\t")
    assert "error: broken.pt" in err
    assert "nothing.pt" in err
    assert cli("info", "broken.pt", cwd=folder)[:2] == (2, "")


def test_a_directory_is_a_target(cli: Cli, folder: Path) -> None:
    """What is in it, and how many files."""
    facts = dict(line.split("\t") for line in cli("info", "folder", cwd=folder).stdout.splitlines())
    assert (facts["format"], facts["unique"]) == ("safetensors", "2")


def test_a_section_can_be_chosen(cli: Cli, folder: Path) -> None:
    """The figures are then of that section; an unknown one is an error."""
    facts = cli("info", "last.pt", "--section", "optimizer", cwd=folder).stdout
    assert "\nsection\toptimizer\n" in facts
    assert cli("info", "last.pt", "--section", "nothing", cwd=folder).code == 2


def test_a_definition_shows_its_classes(cli: Cli) -> None:
    """Modules by class, trainable and frozen, no file."""
    out = cli("info", "models/tied.py", "--format", "table").stdout
    assert "modules     Linear ×2, Embedding, GRUCell" in out
    assert "format" not in out


def test_a_file_for_the_result(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """The suffix decides on the form."""
    assert cli("info", "small.safetensors", "-o", tmp_path / "x.md", cwd=folder).code == 0
    assert (tmp_path / "x.md").read_text().startswith("**small.safetensors**\n\n| ")
    assert cli("info", "small.safetensors", "-o", tmp_path / "x.csv", cwd=folder).code == 0
    assert (tmp_path / "x.csv").read_text().startswith("key,value\n")


@pytest.mark.parametrize("name", ["small.safetensors", "last.pt", "whole.pt"])
def test_nothing_heavy_is_imported(folder: Path, name: str) -> None:
    """No torch, no numpy, no rich; of our own nothing that the file doesn't need."""
    program = (
        "import sys\nfrom modelinspect.cli.app import app\n"
        "app(['info', sys.argv[1]], standalone_mode=False)\nprint('loaded', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, name], cwd=folder, capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.rpartition("loaded")[2].split())
    assert not loaded & {"torch", "numpy", "rich"}
    assert "modelinspect.analysis.adapters" not in loaded


def test_reading_runs_nothing(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """A file that would write another when it is loaded says so and writes nothing."""
    torch.save({"w": torch.ones(2), "x": Runs()}, tmp_path / "hostile.pt")
    code, out, _ = cli("info", "hostile.pt", "--format", "table", cwd=tmp_path)
    assert code == 0
    assert re.search(
        r"runs code +not by itself\n +torch\.load: .*would import and call (posix|nt)\.system", out
    )
    assert not (tmp_path / "ran").exists()
