"""`modelinspect params` as a script and as a person sees it: real processes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from command import Cli
from safetensors.torch import save_file

REGRESSION = [
    "0.weight\t[13, 1]\tfloat32\t13\t52\tparameter\ttrue\t",
    "0.bias\t[13]\tfloat32\t13\t52\tparameter\ttrue\t",
    "2.weight\t[1, 13]\tfloat32\t13\t52\tparameter\ttrue\t",
    "2.bias\t[1]\tfloat32\t1\t4\tparameter\ttrue\t",
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The regression network's state_dict as torch.save writes it."""
    path = tmp_path / "regression.pt"
    net = torch.nn.Sequential(torch.nn.Linear(1, 13), torch.nn.Tanh(), torch.nn.Linear(13, 1))
    torch.save(net.state_dict(), path)
    return path


def test_plain_lines_are_the_named_parameters(cli: Cli) -> None:
    """One line a tensor in the order of `named_parameters()`, tab-separated, raw numbers."""
    code, out, err = cli("params", "models/regression.py")
    assert (code, out.splitlines(), err) == (0, REGRESSION, "")


def test_a_file_and_its_class_show_the_same_names_and_shapes(cli: Cli, saved: Path) -> None:
    """Only what a state_dict does not know differs: trainable is empty."""
    lines = cli("params", saved).stdout.splitlines()
    assert lines == [line.replace("\ttrue\t", "\t\t") for line in REGRESSION]


def test_quantized_weights_show_what_they_stand_for(cli: Cli, tmp_path: Path) -> None:
    """Two columns more, at the end, and only there; the numbers of values add up to the headline."""
    words = {"l.qweight": (32, 96), "l.qzeros": (2, 12)}
    tensors = {name: torch.zeros(shape, dtype=torch.int32) for name, shape in words.items()}
    save_file({**tensors, "l.scales": torch.zeros(2, 96), "n": torch.zeros(7)}, tmp_path / "m.safetensors")
    lines = cli("params", tmp_path / "m.safetensors").stdout.splitlines()
    assert lines[0] == "l.qweight\t[32, 96]\tint32\t24576\t12288\tparameter\t\t\t[96, 256]\tGPTQ 4-bit"
    assert lines[3] == "n\t[7]\tfloat32\t7\t28\tparameter\t\t\t\t"
    assert cli("count", tmp_path / "m.safetensors").stdout == f"{24576 + 7}\n"
    largest = cli("params", tmp_path / "m.safetensors", "--sort", "numel", "--reverse", "--json").stdout
    row = json.loads(largest)["tensors"][0]
    assert (row["shape"], row["logical"], row["quantized"]) == ([32, 96], [96, 256], "GPTQ 4-bit")


def test_columns_are_chosen_and_checked(cli: Cli, saved: Path) -> None:
    """Columns come in the order asked for; a name that is not one lists those that are."""
    out = cli("params", saved, "--columns", "name,stride,storage_offset").stdout
    assert out.splitlines()[0] == "0.weight\t[1, 1]\t0"
    code, out, err = cli("params", saved, "--columns", "name,strde")
    assert (code, out) == (2, "")
    assert "there is no column 'strde'" in err
    assert "did you mean stride?" in err


def test_every_form_holds_every_row(cli: Cli, saved: Path) -> None:
    """JSON, JSON Lines, CSV, TSV and Markdown hold the same four names."""
    names = [line.split("\t")[0] for line in REGRESSION]
    document = json.loads(cli("params", saved, "--json").stdout)
    assert [row["name"] for row in document["tensors"]] == names
    assert document["tensors"][0]["shape"] == [13, 1]
    assert document["totals"]["unique"] == 40
    lines = cli("params", saved, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == names
    for form, delimiter in (("csv", ","), ("tsv", "\t")):
        rows = list(
            csv.DictReader(io.StringIO(cli("params", saved, "--format", form).stdout), delimiter=delimiter)
        )
        assert [row["name"] for row in rows] == names
        assert [int(row["numel"]) for row in rows] == [13, 13, 13, 1]
    markdown = cli("params", saved, "--format", "markdown").stdout
    assert all(name in markdown for name in names)


def test_sorting_and_cutting(cli: Cli, saved: Path) -> None:
    """`--sort`, `--reverse` and `--top` work on what is left after the filters."""
    out = cli(
        "params",
        saved,
        "--columns",
        "name",
        "--sort",
        "numel",
        "--reverse",
        "--top",
        "1",
        "--include",
        "*bias",
    )
    assert out.stdout == "0.bias\n"
    code, _, err = cli("params", saved, "--sort", "size")
    assert code == 2
    assert "size" in err


def test_a_filter_without_a_match_is_exit_1(cli: Cli, saved: Path) -> None:
    """Nothing matched: said on stderr, nothing on stdout, exit 1."""
    code, out, err = cli("params", saved, "--include", "encoder.*")
    assert (code, out) == (1, "")
    assert "no name matches 'encoder.*'" in err


def test_kinds_are_chosen(cli: Cli) -> None:
    """`--kind buffer` lists buffers only; a kind that does not exist is an error."""
    out = cli("params", "models/convolutional.py", "--kind", "buffer", "--columns", "kind").stdout
    assert set(out.splitlines()) == {"buffer"}
    assert cli("params", "models/convolutional.py", "--kind", "buffers").code == 2


def test_tied_and_unregistered_tensors_are_pointed_out(cli: Cli) -> None:
    """The second name of a tied weight says to which; a plain attribute is named on stderr."""
    out, err = cli("params", "models/tied.py", "--columns", "name,tied_to")[1:]
    assert sum(bool(line.split("\t")[1]) for line in out.splitlines()) == 1
    assert "never registered" in err


def test_tree_has_totals_and_class_names(cli: Cli) -> None:
    """Modules with their classes and the totals of their subtrees; `--depth` cuts."""
    document = json.loads(cli("params", "models/tiny_lm.py", "--tree", "--depth", "1", "--json").stdout)
    root = document["tree"][0]
    assert root["class"] == "TinyLM"
    assert root["parameters"] == 842_496
    assert max(node["depth"] for node in document["tree"]) == 1
    assert cli("params", "models/tiny_lm.py", "--depth", "1").code == 2


def test_blocks_fold_in_a_table_only(cli: Cli, tmp_path: Path) -> None:
    """Repeated blocks are one row in a table, and all rows in a pipe or with `--no-fold`."""
    path = tmp_path / "deep.safetensors"
    save_file({f"h.{n}.weight": torch.zeros(2) for n in range(12)}, path)
    assert "h.{0..11}.weight" in cli("params", path, "--format", "table").stdout
    assert "h.11.weight" in cli("params", path, "--format", "table", "--no-fold").stdout
    assert len(cli("params", path).stdout.splitlines()) == 12


def test_values_of_a_file(cli: Cli, tmp_path: Path) -> None:
    """Range, mean and marks, equal to torch's; a small tensor whole."""
    path = tmp_path / "v.safetensors"
    big = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    big[3] = float("nan")
    save_file({"big": big, "small": torch.tensor([1.5, -2.0])}, path)
    rows = {
        row["name"]: row["values"]
        for row in json.loads(cli("params", path, "--values", "--json").stdout)["tensors"]
    }
    finite = big[~big.isnan()].double()
    assert rows["big"]["min"] == pytest.approx(finite.min().item())
    assert rows["big"]["mean"] == pytest.approx(finite.mean().item())
    assert rows["big"]["std"] == pytest.approx(finite.std().item())
    assert (rows["big"]["nans"], rows["big"]["values"]) == (1, None)
    assert rows["small"]["values"] == [1.5, -2.0]
    shown = cli("params", path, "--values", "--format", "table").stdout
    assert "NaN" in shown
    assert "-2" in shown


def test_values_of_a_definition_are_fresh_and_say_so(cli: Cli) -> None:
    """Built for real under a seed: equal for the same seed, another for another, labelled."""
    first, again, other = (
        cli("params", "models/regression.py", "--values", "--columns", "values", "--seed", seed)
        for seed in "112"
    )
    assert first.stdout == again.stdout != other.stdout
    assert "fresh initialisation" in first.stderr


def test_values_of_what_cannot_be_on_meta_are_fresh_too(cli: Cli, tmp_path: Path) -> None:
    """A constructor that needs numbers is run for real; its values still come from the seed."""
    (tmp_path / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.w = torch.nn.Parameter(torch.randn(3))\n        self.n = int(self.w.sum().item())\n"
    )
    first, again = (cli("params", "net.py", "--values", cwd=tmp_path) for _ in range(2))
    assert first.stdout == again.stdout
    assert "fresh initialisation with seed 0" in first.stderr


def test_values_of_a_giant_definition_are_refused(cli: Cli) -> None:
    """282 GB are not allocated: exit 2, and the limit is said."""
    code, out, err = cli("params", "models/giant.py", "--values")
    assert (code, out) == (2, "")
    assert "limit: 1,073,741,824 bytes" in err


def test_against_a_checkpoint_that_fits(cli: Cli, saved: Path) -> None:
    """What `load_state_dict` would accept is exit 0."""
    assert cli("params", "models/regression.py", "--against", saved).code == 0


def test_against_a_checkpoint_that_does_not(cli: Cli, tmp_path: Path) -> None:
    """Missing, unexpected and another shape, each in its row; exit 1."""
    path = tmp_path / "other.pt"
    torch.save(
        {
            "0.weight": torch.zeros(13, 2),
            "0.bias": torch.zeros(13),
            "2.weight": torch.zeros(1, 13),
            "x": torch.zeros(1),
        },
        path,
    )
    code, out, _ = cli("params", "models/regression.py", "--against", path, "--json")
    assert code == 1
    document = json.loads(out)
    found = {
        row["name"]: row["status"]
        for row in next(v for v in document.values() if isinstance(v, list) and v and isinstance(v[0], dict))
    }
    assert found == {
        "0.weight": "shape",
        "0.bias": "ok",
        "2.weight": "ok",
        "2.bias": "missing",
        "x": "unexpected",
    }


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_against_a_checkpoint_with_a_prefix(cli: Cli, tmp_path: Path, prefix: str) -> None:
    """Only a prefix is in the way: exit 1, and that is what is said."""
    path = tmp_path / "ddp.pt"
    net = torch.nn.Sequential(torch.nn.Linear(1, 13), torch.nn.Tanh(), torch.nn.Linear(13, 1))
    torch.save({prefix + name: tensor for name, tensor in net.state_dict().items()}, path)
    code, out, err = cli("params", "models/regression.py", "--against", path, "--format", "table")
    assert code == 1
    assert prefix in out + err
    assert "prefix" in out + err
