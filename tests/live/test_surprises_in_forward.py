"""
What a forward pass may do that nobody expects: print, leave, change what is global.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Cli

HEAD = "import sys, torch\nfrom torch import nn\n\n\nclass Net(nn.Linear):\n"
HEAD += "    def __init__(self):\n        super().__init__(3, 2)\n\n    def forward(self, x):\n        "
FOOT = "\n        return super().forward(x)\n"


def _net(folder: Path, line: str) -> str:
    path = folder / "net.py"
    path.write_text(HEAD + line + FOOT, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "line",
    [
        "print('a word from forward')",
        "torch.manual_seed(7)",
        "torch.set_default_dtype(torch.float64)",
        "torch.set_grad_enabled(True)",
        "self.eval()",
        "self.weight.requires_grad_(True)",
        "x = x.clone().requires_grad_(True)",
    ],
)
def test_what_forward_does_besides_stays_out_of_the_result(line: str, cli: Cli, tmp_path: Path) -> None:
    """Two rows on stdout and nothing else, whatever forward prints or sets."""
    code, stdout, _ = cli("grads", _net(tmp_path, line), "--input", "2x3", "-q")
    assert code == 0
    assert [row.split("\t")[0] for row in stdout.splitlines()] == ["weight", "bias"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sys.exit(3)", "it called sys.exit(3)"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("return None", "the model puts out nothing, which no gradient flows through"),
        ("return 'text'", "the model puts out a str"),
        ("return x[:, :1].long()", "which no gradient flows through"),
        ("import no_such_module", "pip install no_such_module"),
    ],
)
def test_what_forward_breaks_is_one_message(line: str, message: str, cli: Cli, tmp_path: Path) -> None:
    """Exit 2, nothing on stdout, no traceback."""
    code, stdout, stderr = cli("grads", _net(tmp_path, line), "--input", "2x3")
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert "Traceback" not in stderr


def test_output_that_needs_no_gradient_is_a_finding(cli: Cli, tmp_path: Path) -> None:
    """Not an error: every parameter is unreached, and why is said."""
    target = _net(tmp_path, "return super().forward(x).detach()")
    code, stdout, _ = cli("grads", target, "--input", "2x3", "-f", "table", "--check")
    assert code == 1
    assert "no gradient for the model (Net) (2 parameters)" in stdout


def test_ctrl_c_and_closed_pipes_are_quiet(cli: Cli, tmp_path: Path) -> None:
    """As for every command; KeyboardInterrupt in forward ends with 130."""
    code, stdout, stderr = cli("grads", _net(tmp_path, "raise KeyboardInterrupt"), "--input", "2x3", "-q")
    assert (code, stdout, stderr) == (130, "", "")
