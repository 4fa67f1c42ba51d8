"""The command `scan`: exit codes, forms, baselines, and that nothing of a file runs."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Cli


class Touches:
    """Makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, Path]:
    """A file of tensors, one that would make a folder, and that folder."""
    mark = tmp_path / "ran"
    torch.save({"w": torch.zeros(2)}, tmp_path / "good.pt")
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Touches(mark)))
    return str(tmp_path / "good.pt"), str(tmp_path / "bad.pkl"), mark


def test_exit_codes(cli: Cli, files: tuple[str, str, Path]) -> None:
    """0: nothing found; 1: findings; 2: could not read, whatever the others hold. Nothing runs."""
    good, bad, mark = files
    assert cli("scan", good).code == 0
    assert cli("scan", bad).code == 1
    assert cli("scan", good, bad).code == 1
    result = cli("scan", good, bad, "gone.pt")
    assert result.code == 2
    assert "gone.pt" in result.stderr
    assert "mkdir" in result.stdout
    assert not mark.exists()


def test_nothing_found_says_what_was_looked_at(cli: Cli, files: tuple[str, str, Path]) -> None:
    """Nothing on stdout, the sentence on stderr; `-q` leaves that out."""
    good, *_ = files
    code, stdout, stderr = cli("scan", good)
    assert (code, stdout) == (0, "")
    assert "nothing found in: 1 pickle" in stderr
    assert "safe" not in stderr
    assert cli("scan", "-q", good) == (0, "", "")


def test_a_line_a_finding(cli: Cli, files: tuple[str, str, Path]) -> None:
    """Level, rule, place and message, with the call as it would be made."""
    _, bad, _ = files
    (line,) = cli("scan", bad).stdout.splitlines()
    level, rule, place, message = line.split("\t")
    assert (level, rule) == ("error", "executes-code")
    assert place.startswith(f"{bad}@")
    assert message.startswith("runs posix.mkdir('")


def test_the_table_names_the_danger_first(cli: Cli, files: tuple[str, str, Path]) -> None:
    """The headline says what would run."""
    _, bad, _ = files
    result = cli("scan", bad, "--format", "table")
    assert "what would run: posix.mkdir(" in result.stdout.splitlines()[0]
    assert result.stderr == ""


def test_sarif_goes_to_a_file_by_its_suffix(cli: Cli, files: tuple[str, str, Path], tmp_path: Path) -> None:
    """`-o x.sarif` and `--format sarif` write the same."""
    good, bad, _ = files
    out = tmp_path / "x.sarif"
    assert cli("scan", good, bad, "-o", str(out)).code == 1
    document = json.loads(out.read_text())
    assert document == json.loads(cli("scan", good, bad, "--format", "sarif").stdout)
    (result,) = document["runs"][0]["results"]
    assert result["ruleId"] == "executes-code"
    assert json.loads(cli("scan", good, "--format", "sarif").stdout)["runs"][0]["results"] == []
    assert cli("scan", good, "--format", "sarif", "--json").code == 2


def test_json_lines_and_csv(cli: Cli, files: tuple[str, str, Path]) -> None:
    """One document, or a finding a line."""
    _, bad, _ = files
    document = json.loads(cli("scan", bad, "--json").stdout)
    assert document["targets"][0]["found"] is True
    (line,) = cli("scan", bad, "--format", "jsonl").stdout.splitlines()
    assert json.loads(line) == document["findings"][0]
    header, _ = cli("scan", bad, "--format", "csv").stdout.splitlines()
    assert header == "target,level,rule,message,file,record,position,offset,fingerprint"


def test_a_baseline(cli: Cli, files: tuple[str, str, Path], tmp_path: Path) -> None:
    """Written once, it accepts what was there; what comes later is found."""
    _, bad, _ = files
    baseline = str(tmp_path / "accepted.json")
    assert cli("scan", bad, "--write-baseline", baseline).code == 0
    assert cli("scan", bad, "--baseline", baseline).code == 0
    moved = str(tmp_path / "moved.bin")
    os.rename(bad, moved)
    assert cli("scan", moved, "--baseline", baseline).code == 0
    Path(moved).write_bytes(pickle.dumps(Touches(tmp_path / "other")))
    assert cli("scan", moved, "--baseline", baseline).code == 1
    assert cli("scan", moved, "--baseline", str(tmp_path / "gone.json")).code == 2


def test_standard_input(cli: Cli) -> None:
    """`-` is read to its end."""
    result = cli("scan", "-", stdin="cos\ngetcwd\n(tR.")
    assert result.code == 1
    assert "runs os.getcwd()" in result.stdout


def test_lines_on_folders_have_paths(cli: Cli, files: tuple[str, str, Path], tmp_path: Path) -> None:
    """Two folders with files of one name: each line says which it is of."""
    _, bad, _ = files
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x.pkl").write_bytes(Path(bad).read_bytes())
    folders = [str(tmp_path / name) for name in ("a", "b")]
    places = [line.split("\t")[2] for line in cli("scan", *folders).stdout.splitlines()]
    assert [place.rpartition("@")[0] for place in places] == [f"{folder}/deep/x.pkl" for folder in folders]


@pytest.mark.parametrize("command", ["count", "scan"])
def test_empty_standard_input(cli: Cli, command: str) -> None:
    """What should have written to it has failed, which is no file of an unknown format."""
    result = cli(command, "-", stdin="")
    assert result.code == 2
    assert result.stderr.startswith("error: standard input is empty\n")


def test_names_of_a_file_are_data(cli: Cli, tmp_path: Path) -> None:
    """Control characters and markup in names and arguments come out escaped."""
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cos\x1b[31m\n[red]sys\xe2\x80\xaetem\n(S'\\x07id'\ntR.")
    for form in ("table", "plain", "json", "csv", "markdown", "sarif"):
        out = cli("scan", str(path), "--format", form).stdout
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "\u202e" not in out
