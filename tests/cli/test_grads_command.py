"""
``modelinspect grads`` as a process: what is printed, the exit code, planted faults.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from command import Cli, plain_environment
from safetensors.torch import load_file
from torch import nn

REGRESSION = "models/regression.py"
DATA = "models/regression.csv"


def _definition(folder: Path, source: str) -> str:
    path = folder / "net.py"
    head = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
    path.write_text(head + textwrap.dedent(source), encoding="utf-8")
    return str(path)


def test_pipe_gets_a_line_a_parameter(cli: Cli) -> None:
    """Tab-separated: name, shape, norm, largest, ratio, zeros, verdict; what went in stands on stderr."""
    code, stdout, stderr = cli("grads", REGRESSION)
    assert code == 0
    rows = [line.split("\t") for line in stdout.splitlines()]
    assert [row[:2] for row in rows] == [
        ["0.weight", "[13, 1]"], ["0.bias", "[13]"], ["2.weight", "[1, 13]"], ["2.bias", "[1]"],
    ]  # fmt: skip
    assert all(float(row[2]) > 0 and row[6] == "ok" for row in rows)
    assert "note: input float32[8, 1], example_input() of" in stderr
    assert cli("grads", REGRESSION, "-q").stderr == ""


def test_json_holds_everything(cli: Cli) -> None:
    """Raw figures, the global norm, how it came about, a verdict of the whole."""
    code, stdout, _ = cli("grads", REGRESSION, "--json", "--loss", "sum")
    document = json.loads(stdout)
    assert (code, document["report"], document["healthy"]) == (0, "grads", True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 13), nn.Tanh(), nn.Linear(13, 1))
    model(torch.linspace(1.0, 7.0, 8).unsqueeze(1)).sum().backward()
    expected = [p.grad.norm().item() for p in model.parameters() if p.grad is not None]
    assert [row["norm"] for row in document["parameters"]] == pytest.approx(expected, rel=1e-6)
    assert document["global_norm"] == pytest.approx(sum(norm**2 for norm in expected) ** 0.5, rel=1e-6)
    assert document["setup"]["loss"] == "sum"


@pytest.mark.parametrize("form", ["table", "plain", "json", "jsonl", "csv", "tsv", "markdown"])
def test_every_form(form: str, cli: Cli, tmp_path: Path) -> None:
    """All of them hold every parameter, on stdout as in a file."""
    code, stdout, _ = cli("grads", REGRESSION, "--format", form)
    assert code == 0
    assert all(name in stdout for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    out = tmp_path / "result"
    assert cli("grads", REGRESSION, "--format", form, "-o", out).code == 0
    assert out.read_text(encoding="utf-8") == stdout


def test_fit_the_example_and_feed_what_was_saved_to_other_commands(cli: Cli, tmp_path: Path) -> None:
    """Train, look at the hidden layer's gradients, count and list the fitted state_dict."""
    saved = tmp_path / "fitted.safetensors"
    code, stdout, _ = cli(
        "grads", REGRESSION, "--data", DATA, "--epochs", "200", "--lr", "0.01",
        "--include", "0.weight", "--values", "--save", saved,
    )  # fmt: skip
    assert code == 0
    assert stdout.startswith("0.weight\t[13, 1]\t")
    assert list(load_file(saved)) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert cli("count", saved).stdout == "40\n"
    assert cli("params", REGRESSION, "--against", saved).code == 0


FAULTS = {
    "a NaN from log(0)": (
        """
        class Score(nn.Module):
            def forward(self, x):
                return torch.log(F.relu(x))
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.score, self.last = nn.Linear(6, 6), Score(), nn.Linear(6, 1)
            def forward(self, x):
                return self.last(self.score(self.first(x)))
        """,
        "forward: NaN or infinity first appears in what score (Score) puts out",
    ),
    "a detached branch": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk, self.branch = nn.Linear(6, 6), nn.Linear(6, 6)
            def forward(self, x):
                return self.trunk(x) + self.branch(x).detach()
        """,
        "no gradient for branch (Linear) (2 parameters): what it puts out is detached, or not used",
    ),
    "a dead ReLU layer": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.act, self.last = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1)
                nn.init.constant_(self.first.bias, -100.0)
            def forward(self, x):
                return self.last(self.act(self.first(x)))
        """,
        "act (ReLU) puts out zeros only: nothing passes back through it",
    ),
    "an exploding RNN": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn, self.out = nn.RNN(6, 16, nonlinearity="relu", batch_first=True), nn.Linear(16, 1)
                with torch.no_grad():
                    self.rnn.weight_hh_l0.mul_(8)
            def forward(self, x):
                return self.out(self.rnn(x)[0][:, -1])
        def example_input():
            return torch.ones(2, 25, 6)
        """,
        "gradients explode: up to",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_named(fault: str, cli: Cli, tmp_path: Path) -> None:
    """The module where it is stands below the table, and --check exits with 1."""
    source, sentence = FAULTS[fault]
    target = _definition(tmp_path, source)
    arguments = [] if "example_input" in source else ["--input", "4x6"]
    code, stdout, _ = cli("grads", target, *arguments, "--check", "-f", "table", env={"COLUMNS": "200"})
    assert code == 1
    assert sentence in stdout
    assert cli("grads", target, *arguments).code == 0


def test_vanishing_stack_is_named(cli: Cli) -> None:
    """Thirty sigmoid layers: the lowest ones vanish, the highest are ok."""
    code, stdout, _ = cli("grads", "models/sigmoid_stack.py", "--check")
    verdicts = {line.split("\t")[0]: line.split("\t")[6] for line in stdout.splitlines()}
    assert code == 1
    assert verdicts["layers.0.weight"] == "vanishing"
    assert verdicts["layers.29.weight"] == verdicts["out.weight"] == "ok"
    relaxed = cli("grads", "models/sigmoid_stack.py", "--check", "--vanishing", "0")
    assert relaxed.code == 0


def test_diverging_training_is_named(cli: Cli) -> None:
    """A learning rate that is too large: said, and exit 1 with --check."""
    code, stdout, _ = cli(
        "grads", REGRESSION, "--data", DATA, "--steps", "500", "--optimizer", "sgd", "--lr", "3",
        "--check", "--json",
    )  # fmt: skip
    assert code == 1
    assert "diverging" in [finding["kind"] for finding in json.loads(stdout)["findings"]]


def test_history_is_a_file_that_grads_reads(cli: Cli, tmp_path: Path) -> None:
    """--every with JSON Lines writes what mi.watch writes; two of them stand side by side."""
    runs = []
    for rate in ("0.001", "0.01"):
        runs.append(tmp_path / f"run{rate}.jsonl")
        done = cli(
            "grads", REGRESSION, "--data", DATA, "--steps", "20", "--every", "5", "--lr", rate, "-o", runs[-1]
        )
        assert done.code == 0, done.stderr
    lines = [json.loads(line) for line in runs[0].read_text(encoding="utf-8").splitlines()]
    assert lines[0]["report"] == "grads-run"
    assert [line["step"] for line in lines if "norms" in line] == [1, 5, 10, 15, 20]
    shown = cli("grads", runs[0], "--json")
    assert [row["name"] for row in json.loads(shown.stdout)["parameters"]] == [
        "0.weight", "0.bias", "2.weight", "2.bias",
    ]  # fmt: skip
    both = cli("grads", *runs, "-f", "table", env={"COLUMNS": "200"})
    assert both.code == 0
    assert "0.weight" in both.stdout
    followed = cli("grads", runs[0], "--follow")
    assert [line.split("\t")[0] for line in followed.stdout.splitlines()] == ["1", "5", "10", "15", "20"]


@pytest.mark.parametrize("suffix", ["png", "svg", "html"])
def test_plot(suffix: str, cli: Cli, tmp_path: Path) -> None:
    """Norms by step and a heat map, in each kind of file."""
    out = tmp_path / f"norms.{suffix}"
    done = cli("grads", REGRESSION, "--data", DATA, "--steps", "20", "--every", "5", "--plot", out)
    assert done.code == 0, done.stderr
    head = out.read_bytes()[:300]
    assert {"png": b"\x89PNG", "svg": b"<svg", "html": b"<html"}[suffix] in head


def test_optimizer_state_of_a_checkpoint(cli: Cli, tmp_path: Path) -> None:
    """Adam's moments by parameter, from the file alone; torch is not imported."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    code, stdout, stderr = cli("grads", path, "--json")
    assert code == 0
    rows = json.loads(stdout)["parameters"]
    assert [row["name"] for row in rows] == [name for name, _ in model.named_parameters()]
    for row, parameter in zip(rows, model.parameters()):
        state = optimizer.state[parameter]
        first = (state["exp_avg"].double() / (1 - 0.9**3)).norm().item()
        second = (state["exp_avg_sq"].double() / (1 - 0.999**3)).mean().sqrt().item()
        assert (row["norm"], row["second_rms"]) == pytest.approx((first, second), rel=1e-6)
    assert "names are inferred" in stderr
    script = f"import sys; sys.argv = ['modelinspect', 'grads', {str(path)!r}]\n"
    script += "from modelinspect.cli.app import main\nimport atexit\n"
    script += "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=plain_environment()
    )
    assert done.stderr.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([REGRESSION, "--input", "2x"], "--input 2x can't be read"),
        ([REGRESSION, "--vanishing", "2", "--exploding", "1"], "leave nothing that is ok"),
        ([REGRESSION, DATA], "only runs are shown side by side"),
        ([REGRESSION, "--follow"], "only a run goes on"),
        ([REGRESSION, "--plot", "x.png"], "--every"),
        ([REGRESSION, "--save", "x.bin.txt", "--steps", "1"], ".safetensors"),
        ([REGRESSION, "--columns", "nrom"], "there is no column 'nrom'"),
        ([REGRESSION, "--input", "8x2"], "the forward pass failed"),
        ([REGRESSION, "--weights", "nowhere.pt"], "nowhere.pt: no such file"),
        ([REGRESSION, "--loss", "crossentropy"], "cross_entropy"),
        ([DATA], "regression.csv"),
    ],
)
def test_errors(arguments: list[str], message: str, cli: Cli, tmp_path: Path) -> None:
    """Each is one message, exit 2, nothing on stdout, no traceback."""
    code, stdout, stderr = cli("grads", *arguments)
    assert (code, stdout) == (2, "")
    assert re.search(r"^error: ", stderr, re.MULTILINE)
    assert message in stderr
    assert "Traceback" not in stderr


def test_nothing_that_matches_is_exit_1(cli: Cli) -> None:
    """As for every table."""
    code, _, stderr = cli("grads", REGRESSION, "--include", "nothing*")
    assert code == 1
    assert "no name matches 'nothing*'" in stderr


def test_diagnosis_reaches_a_pipe(cli: Cli, tmp_path: Path) -> None:
    """Rows go to stdout, what is wrong with the whole to stderr; -q leaves it out."""
    source, sentence = FAULTS["a dead ReLU layer"]
    target = _definition(tmp_path, source)
    code, stdout, stderr = cli("grads", target, "--input", "4x6", "--check")
    assert code == 1
    assert len(stdout.splitlines()) == 4
    assert sentence.partition(":")[0] in stderr
    assert cli("grads", target, "--input", "4x6", "--check", "-q").stderr == ""


def test_several_runs_are_checked_and_take_no_flags_of_one(cli: Cli, tmp_path: Path) -> None:
    """--check looks at all of them; what means nothing for several is refused."""
    runs = []
    for name, rate in (("good", "0.001"), ("bad", "5")):
        runs.append(tmp_path / f"{name}.jsonl")
        cli("grads", REGRESSION, "--data", DATA, "--steps", "40", "--every", "5", "--optimizer", "sgd",
            "--lr", rate, "-o", runs[-1])  # fmt: skip
    assert cli("grads", runs[0], runs[0], "--check").code == 0
    assert cli("grads", *runs, "--check").code == 1
    for flags in (["--plot", "x.png"], ["--sort", "norm"], ["--tree"], ["--top", "1"], ["--include", "2.*"]):
        code, stdout, stderr = cli("grads", *runs, *flags)
        assert (code, stdout) == (2, "")
        assert "is of one run, and 2 are named" in stderr


def test_module_in_which_forward_breaks_is_named(cli: Cli, tmp_path: Path) -> None:
    """Of several instances of one class, the one that raised."""
    target = _definition(
        tmp_path,
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                sizes = ((5, 5), (5, 5), (5, 7), (8, 1))
                self.blocks = nn.Sequential(*(nn.Linear(*size) for size in sizes))
            def forward(self, x):
                return self.blocks(x)
        """,
    )
    _, _, stderr = cli("grads", target, "--input", "2x5")
    assert "in module blocks.3 (Linear)" in stderr
