"""
The example models are what models/README.md says they are.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from command import Cli
from torch import Tensor, nn

MODELS = Path(__file__).parents[1] / "models"
README = (MODELS / "README.md").read_text(encoding="utf-8")


class Listed(NamedTuple):
    """A row of the table in models/README.md."""

    file: str
    name: str
    parameters: int
    tensors: int


def _listed() -> list[Listed]:
    rows = re.findall(r"^\| `(\w+\.py):(\w+)` \| ([\d,]+) \| (\d+) \|", README, re.MULTILINE)
    return [
        Listed(file, name, int(count.replace(",", "")), int(tensors)) for file, name, count, tensors in rows
    ]


LISTED = _listed()


def _module(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"models_{file[:-3]}", MODELS / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(file: str, **sizes: int) -> tuple[nn.Module, Tensor]:
    """The file's one definition, seeded, and its example input."""
    module = _module(file)
    (name,) = [row.name for row in LISTED if row.file == file]
    torch.manual_seed(0)
    return getattr(module, name)(**sizes).eval(), module.example_input()


def test_every_model_is_listed() -> None:
    """No definition lies in models/ that the table does not count."""
    assert sorted(row.file for row in LISTED) == sorted(path.name for path in MODELS.glob("*.py"))


@pytest.mark.parametrize("row", LISTED, ids=lambda row: row.file)
def test_listed_counts_are_torchs(row: Listed) -> None:
    """The table's figures are what torch counts, each parameter once."""
    with torch.device("meta"):
        parameters = list(getattr(_module(row.file), row.name)().parameters())
    assert sum(parameter.numel() for parameter in parameters) == row.parameters
    assert len(parameters) == row.tensors


@pytest.mark.parametrize("row", LISTED, ids=lambda row: row.file)
def test_bare_file_is_a_target(row: Listed, cli: Cli) -> None:
    """Each file alone names its one definition, and the command counts what the table says."""
    code, stdout, stderr = cli("count", MODELS / row.file)
    assert (code, stdout) == (0, f"{row.parameters}\n")
    assert stderr == "" or (row.file == "tied.py" and re.match(r"note: .*\bh\b.*never registered", stderr))


@pytest.mark.parametrize("row", LISTED, ids=lambda row: row.file)
def test_example_input_runs(row: Listed) -> None:
    """Each model can be called with its example input and gives finite values."""
    sizes = {"layers": 2, "width": 64, "inner": 128, "heads": 4, "groups": 2, "vocabulary": 100}
    model, example = _build(row.file, **(sizes if row.file == "giant.py" else {}))
    assert model(example).isfinite().all()


def test_regression_is_numbered() -> None:
    """The regression network has these four tensors, in this order."""
    model, _ = _build("regression.py")
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "0.weight": (13, 1),
        "0.bias": (13,),
        "2.weight": (1, 13),
        "2.bias": (1,),
    }


REGRESSION_NAMES = (("0", "hidden_linear"), ("2", "output_linear"))
ENCODER_NAMES = (
    ("word_embeddings", "tok"),
    ("position_embeddings", "pos"),
    ("embedding_norm", "ln0"),
    ("classifier", "head"),
    ("encoder", "blocks"),
    ("attention_norm", "ln1"),
    ("output_norm", "ln2"),
    ("attention.query", "attn.wq"),
    ("attention.key", "attn.wk"),
    ("attention.value", "attn.wv"),
    ("attention.dense", "attn.wo"),
    ("intermediate", "mlp.0"),
    ("output", "mlp.2"),
)


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ("regression.py", "regression_named.py", REGRESSION_NAMES),
        ("encoder_a.py", "encoder_b.py", ENCODER_NAMES),
    ],
)
def test_twins_differ_in_names_only(one: str, other: str, names: tuple[tuple[str, str], ...]) -> None:
    """A renamed state_dict loads strictly into the twin, which then computes the same."""
    source, example = _build(one)
    target, _ = _build(other)
    renamed = {_renamed(name, names): value for name, value in source.state_dict().items()}
    assert list(renamed) != list(source.state_dict())
    target.load_state_dict(renamed, strict=True)
    torch.testing.assert_close(target(example), source(example))


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for old, new in names:
        name = re.sub(rf"(^|\.){re.escape(old)}(?=\.)", rf"\g<1>{new}", name)
    return name


def test_encoders_register_in_another_order() -> None:
    """The shapes of the two encoders are the same, their order is not."""
    shapes = [
        [tuple(value.shape) for value in _build(file)[0].state_dict().values()]
        for file in ("encoder_a.py", "encoder_b.py")
    ]
    assert shapes[0] != shapes[1]
    assert sorted(shapes[0]) == sorted(shapes[1])


def test_speller_has_every_kind_of_tensor() -> None:
    """Tied, frozen, persistent, non-persistent and unregistered: one of each."""
    model, _ = _build("tied.py")
    named = dict(model.named_parameters(remove_duplicate=False))
    assert named["out.weight"] is named["embedding.weight"]
    assert [name for name, p in named.items() if not p.requires_grad] == ["rotation.weight"]
    assert {name for name, _ in model.named_buffers()} == {"usage", "stop"}
    assert "usage" in model.state_dict()
    assert "stop" not in model.state_dict()
    assert isinstance(model.h, Tensor)
    assert "h" not in model.state_dict()


def test_data_are_what_their_recipe_makes() -> None:
    """regression.csv holds what the lines in models/README.md print."""
    (recipe,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    printed = subprocess.run([sys.executable, "-c", recipe], capture_output=True, text=True, check=True)
    assert (MODELS / "regression.csv").read_text(encoding="utf-8") == printed.stdout


Optimizer = Callable[..., torch.optim.Optimizer]


@pytest.mark.parametrize(
    ("optimizer", "rate", "bound"), [(torch.optim.SGD, 0.001, 0.4), (torch.optim.Adam, 0.01, 0.25)]
)
def test_regression_fits_its_data(optimizer: Optimizer, rate: float, bound: float) -> None:
    """5,000 epochs get far below the 1.50 °C² that the best straight line leaves."""
    rows = (MODELS / "regression.csv").read_text(encoding="utf-8").splitlines()[1:]
    readings, celsius = torch.tensor([[float(cell) for cell in row.split(",")] for row in rows]).split(
        1, dim=1
    )
    model, _ = _build("regression.py")
    steps = optimizer(model.parameters(), lr=rate)
    loss = torch.tensor(float("inf"))
    for _ in range(5000):
        steps.zero_grad()
        loss = nn.functional.mse_loss(model(readings), celsius)
        loss.backward()
        steps.step()
    with_one = torch.cat([readings, torch.ones_like(readings)], dim=1)
    line = with_one @ torch.linalg.lstsq(with_one, celsius).solution
    assert loss < bound < 1.4 < nn.functional.mse_loss(line, celsius)
