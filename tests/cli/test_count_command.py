"""`modelinspect count` as a script and as a person sees it: real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import Cli
from safetensors.torch import save_file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small safetensors file: 10 parameters, 3 buffer elements."""
    path = tmp_path / "small.safetensors"
    save_file(
        {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(4).half(), "bn.running_mean": torch.zeros(3)},
        path,
    )
    return path


def test_the_regression_network_counts_40(cli: Cli) -> None:
    """The promise of the README, and nothing else on stdout."""
    assert cli("count", "models/regression.py") == (0, "40\n", "")


def test_the_shell_idiom_works(cli: Cli, checkpoint: Path) -> None:
    """A number alone, so that `[ "$(modelinspect count FILE)" -lt N ]` works."""
    code, out, err = cli("count", checkpoint)
    assert (code, int(out)) == (0, 10)
    assert "running_mean" in err, "what was taken for a buffer is said on stderr"


def test_several_targets_are_lines_of_number_and_name(cli: Cli, checkpoint: Path) -> None:
    """`number<TAB>target`, in the order given; no total, which would be one more line to strip."""
    code, out, _ = cli("count", "models/regression.py", checkpoint)
    assert (code, out) == (0, f"40\tmodels/regression.py\n10\t{checkpoint}\n")


@pytest.mark.parametrize(
    ("what", "expected"),
    [("unique", 10), ("named", 10), ("stored", 10), ("buffers", 3), ("bytes", 24 + 8 + 12)],
)
def test_what_selects_a_figure(cli: Cli, checkpoint: Path, what: str, expected: int) -> None:
    """Each figure by its name."""
    assert cli("count", checkpoint, "--what", what).stdout == f"{expected}\n"


@pytest.mark.parametrize("what", ["trainable", "frozen"])
def test_what_is_unknown_is_an_error(cli: Cli, checkpoint: Path, what: str) -> None:
    """A bare state_dict does not say what is trainable: exit 2, nothing on stdout."""
    code, out, err = cli("count", checkpoint, "--what", what)
    assert (code, out) == (2, "")
    assert f"does not say which parameters are {what}" in err


def test_a_definition_knows_what_is_trainable(cli: Cli) -> None:
    """Trainable and frozen of the example with a frozen part add up to its unique count."""
    figures = [
        int(cli("count", "models/tied.py", "--what", what).stdout)
        for what in ("unique", "trainable", "frozen")
    ]
    assert figures[0] == figures[1] + figures[2]
    assert figures[2] > 0


LIMITS = [
    (["--max", "10"], 0),
    (["--max", "9"], 1),
    (["--max", "1M"], 0),
    (["--min", "10"], 0),
    (["--min", "1K"], 1),
    (["--equals", "10"], 0),
    (["--equals", "11"], 1),
    (["--max", "0.00001M"], 0),
    (["--what", "bytes", "--max", "1KiB"], 0),
    (["--what", "bytes", "--min", "1KiB"], 1),
    (["--what", "trainable", "--max", "1M"], 2),
    (["--max", "many"], 2),
    (["--min", "-3"], 2),
]


@pytest.mark.parametrize(("flags", "code"), LIMITS)
def test_limits_set_the_exit_code(cli: Cli, checkpoint: Path, flags: list[str], code: int) -> None:
    """0 kept, 1 not kept and said on stderr, 2 not answerable."""
    finished = cli("count", checkpoint, *flags, "--quiet")
    assert finished.code == code, finished
    assert (finished.stderr == "") == (code == 0)


def test_equals_takes_another_target(cli: Cli, checkpoint: Path) -> None:
    """The same figure of another target decides, and both figures are said."""
    assert cli("count", "models/regression.py", "--equals", "models/regression_named.py").code == 0
    code, out, err = cli("count", "models/regression.py", "--equals", checkpoint)
    assert (code, out) == (1, "40\n")
    assert "unique 40 is not 10" in err


def test_readable_targets_are_printed_beside_unreadable_ones(cli: Cli, checkpoint: Path) -> None:
    """One of three can't be read: the others are printed, the code is 2."""
    code, out, err = cli("count", checkpoint, "gone.pt", "models/regression.py")
    assert (code, out) == (2, f"10\t{checkpoint}\n40\tmodels/regression.py\n")
    assert "gone.pt: no such file" in err


def test_json_holds_raw_numbers(cli: Cli, checkpoint: Path) -> None:
    """One document, versioned, with every figure and null for what is unknown."""
    document = json.loads(cli("count", checkpoint, "models/tied.py", "--json").stdout)
    assert document["schema_version"] == 1
    first, second = document["targets"]
    assert (first["unique"], first["buffers"], first["bytes"], first["trainable"]) == (10, 3, 44, None)
    assert {row["dtype"]: row["bytes"] for row in first["dtypes"]} == {"float32": 36, "float16": 8}
    assert len(second["ties"]) == 1
    assert document["notes"]


def test_groups_go_into_a_pipe_as_lines(cli: Cli, checkpoint: Path) -> None:
    """`--by` gives a line a group with raw numbers; sorting and cutting apply to the groups."""
    out = cli("count", checkpoint, "--by", "prefix", "--sort", "unique", "--reverse", "--top", "1").stdout
    assert out.split("\t")[:2] == ["a", "10"]
    assert cli("count", checkpoint, "--by", "dtype").stdout.count("\n") == 2


def test_groups_by_section_cover_the_whole_file(cli: Cli, tmp_path: Path) -> None:
    """The model is the headline; `--by section` shows what else the file holds."""
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(5)}, "ema": {"w": torch.zeros(5)}, "epoch": 3}, path)
    assert cli("count", path).stdout == "5\n"
    assert [line.split("\t")[0] for line in cli("count", path, "--by", "section").stdout.splitlines()] == [
        "state_dict",
        "ema",
    ]
    assert cli("count", path, "--section", "ema").stdout == "5\n"
    assert cli("count", path, "--section", "all").stdout == "10\n"
    code, _, err = cli("count", path, "--section", "emma")
    assert code == 2
    assert "no section 'emma'" in err
    assert "'state_dict', 'ema', 'all'" in err


def test_groups_of_several_targets_name_their_target(cli: Cli) -> None:
    """`--by` of several targets: each group beside its target, on a terminal and in a pipe."""
    for form in ("plain", "table"):
        targets = ("models/regression.py", "models/tied.py")
        out = cli("count", *targets, "--by", "prefix", "--format", form).stdout
        assert "embedding" in out
        assert out.count("models/tied.py") > 1


def test_filters_choose_what_is_counted(cli: Cli, checkpoint: Path) -> None:
    """Globs cross dots; one that matches nothing is said, and is exit 1 when nothing is left."""
    assert cli("count", checkpoint, "--include", "a*").stdout == "10\n"
    assert cli("count", checkpoint, "--exclude", "*.bias").stdout == "6\n"
    code, out, err = cli("count", checkpoint, "--include", "z*")
    assert (code, out) == (1, "0\n")
    assert "no name matches 'z*'" in err


def test_on_a_terminal_there_is_a_card(cli: Cli) -> None:
    """The table form says what the figures mean and names the tie."""
    out = cli("count", "models/tied.py", "--format", "table").stdout
    assert "unique parameters" in out
    assert " = " in out, "the tied names stand side by side"


def test_output_goes_to_a_file(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    """`-o` takes the form from the suffix and leaves nothing else behind."""
    target = tmp_path / "out" / "count.json"
    target.parent.mkdir()
    code, out, _ = cli("count", checkpoint, "-o", target)
    assert (code, out) == (0, "")
    assert json.loads(target.read_text())["targets"][0]["unique"] == 10
    assert [entry.name for entry in target.parent.iterdir()] == ["count.json"]
    code, _, err = cli("count", checkpoint, "-o", tmp_path / "gone" / "x.json")
    assert code == 2
    assert "cannot be written" in err


def test_an_optimizer_that_knows_of_fewer_parameters_is_heard(cli: Cli, tmp_path: Path) -> None:
    """A buffer without a telling name counts; the optimizer beside it does not know it, and that is said."""
    net = torch.nn.Linear(2, 3)
    net.register_buffer("scale", torch.ones(4))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    code, out, err = cli("count", tmp_path / "run.pt")
    assert (code, out) == (0, "13\n")
    assert "the optimizer's state is of 9 elements" in err
    torch.save({"model": {"w": torch.zeros(9)}, "optimizer": optimizer.state_dict()}, tmp_path / "same.pt")
    assert "optimizer's state" not in cli("count", tmp_path / "same.pt").stderr
