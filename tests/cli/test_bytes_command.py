"""`modelinspect bytes` as a script and as a person sees it: real processes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from command import Cli
from safetensors.torch import save_file


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A training's checkpoint in which two rows drag a large storage along."""
    path = tmp_path / "last.pt"
    model = torch.nn.Linear(30, 40)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 30)).sum().backward()
    optimizer.step()
    sliced = {"rows": torch.randn(500, 10)[:2]}
    torch.save({"model": {**model.state_dict(), **sliced}, "optimizer": optimizer.state_dict()}, path)
    return path


def test_lines_in_a_pipe_add_up(cli: Cli, saved: Path) -> None:
    """Key, tab, bytes: their sum is what stat says."""
    code, out, err = cli("bytes", saved)
    assert (code, err) == (0, "")
    figures = dict(line.split("\t") for line in out.splitlines())
    assert sum(map(int, figures.values())) == saved.stat().st_size
    assert figures["model.parameters"] == str(4 * (30 * 40 + 40 + 20))
    assert figures["slack.model.slack-of-views"] == str(4 * 498 * 10)


def test_a_terminal_gets_remedies(cli: Cli, saved: Path) -> None:
    """What to do and what it saves stands below the table, with the size of the file."""
    shown = cli("bytes", saved, "--format", "table").stdout
    assert f"{saved.stat().st_size:,} bytes" in shown
    assert "19,920 bytes less" in shown
    assert ".clone() before saving" in shown
    assert "save without the optimizer" in shown


def test_waste_can_be_limited(cli: Cli, saved: Path) -> None:
    """Exit 1 above the limit, a share or an amount; nonsense is a usage error."""
    assert cli("bytes", saved, "--max-waste", "19920").code == 0
    assert cli("bytes", saved, "--max-waste", "90%").code == 0
    code, out, err = cli("bytes", saved, "--max-waste", "1%")
    assert (code, out != "") == (1, True)
    assert "19,920 bytes" in err
    for wrong in ("x%", "120%", "-1", "nan%", "ten"):
        code, out, err = cli("bytes", saved, f"--max-waste={wrong}")
        assert (code, out) == (2, "")
        assert "--max-waste" in err


def test_json_of_a_folder(cli: Cli, tmp_path: Path) -> None:
    """All files of a checkpoint, each with its bytes."""
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({f"w{number}": torch.randn(50)}, tmp_path / name)
    document = json.loads(cli("bytes", tmp_path, "--json").stdout)
    assert document["bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert [file["bytes"] for file in document["files"]] == [216 + 56 for _ in range(2)]
    assert document["duplicates"] is None


def test_values_tell_duplicates(cli: Cli, tmp_path: Path) -> None:
    """Left out, a note says that nobody looked; given, the names are there and the note is gone."""
    path = tmp_path / "m.safetensors"
    first = torch.randn(100)
    save_file({"a": first, "b": first.clone()}, path)
    assert "--values reads them" in cli("bytes", path).stderr
    code, out, err = cli("bytes", path, "--values", "--format", "table")
    assert (code, err) == (0, "")
    assert "stored twice (same bytes): a = b, 400 bytes each" in out


def test_standard_input_is_read(cli: Cli, saved: Path) -> None:
    """A checkpoint out of a pipe adds up as the file does."""
    with saved.open("rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
        done = subprocess.run(
            [cli.script, "bytes", "-"], stdin=cat.stdout, capture_output=True, text=True, check=False
        )
    assert done.stdout == cli("bytes", saved).stdout


def test_what_has_no_file_is_refused(cli: Cli) -> None:
    """A definition: nothing runs, and the hint says what to ask."""
    code, out, err = cli("bytes", "models/regression.py")
    assert (code, out) == (2, "")
    assert "modelinspect count models/regression.py --what bytes" in err


def test_nothing_heavy_is_imported(cli: Cli, saved: Path) -> None:
    """Neither torch nor numpy nor rich, also with --values."""
    probe = (
        "import sys, runpy; sys.argv = ['modelinspect', 'bytes', sys.argv[1], '--values']\n"
        "try:\n    runpy.run_module('modelinspect', run_name='__main__')\n"
        "except SystemExit:\n    found = {'torch', 'numpy', 'rich'} & set(sys.modules)\n"
        "    print(sorted(found), file=sys.stderr)"
    )
    python = Path(cli.script).parent / "python"
    done = subprocess.run([python, "-c", probe, saved], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "[]"
