"""
Training: the same weights as a loop by hand, and what is remembered of it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT
from safetensors.torch import load_file
from torch import nn

import modelinspect as mi
from modelinspect.analysis.runs import read_run, run_lines

MODELS = ROOT / "models"
REGRESSION = str(MODELS / "regression.py")
DATA = str(MODELS / "regression.csv")


def _rows() -> tuple[torch.Tensor, torch.Tensor]:
    lines = (MODELS / "regression.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = torch.tensor([[float(cell) for cell in line.split(",")] for line in lines])
    return rows[:, :1], rows[:, 1:]


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 13), nn.Tanh(), nn.Linear(13, 1))


OPTIMIZERS = [
    ("sgd", {"lr": 0.001}, torch.optim.SGD),
    ("sgd(momentum=0.9)", {"lr": 0.001}, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
    ("adam", {"lr": 0.01}, torch.optim.Adam),
    ("AdamW(weight_decay=0.1)", {"lr": 0.01}, lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.1)),
    ("rmsprop", {"lr": 0.01}, torch.optim.RMSprop),
    ("lbfgs", {"lr": 0.5}, torch.optim.LBFGS),
]


@pytest.mark.parametrize(("name", "options", "make"), OPTIMIZERS, ids=[row[0] for row in OPTIMIZERS])
def test_weights_are_those_of_a_loop_by_hand(name: str, options: Any, make: Any, tmp_path: Path) -> None:
    """Full batches, with clipping: the saved state_dict, the loss and the gradients after the last step."""
    saved = tmp_path / "fitted.safetensors"
    report = mi.grads(
        REGRESSION, data=DATA, epochs=30, optimizer=name, clip=500.0, save=str(saved), **options
    )
    x, y = _rows()
    model = _network()
    optimizer = make(model.parameters(), **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 500.0)
        return loss

    for _ in range(30):
        optimizer.step(closure)
    for key, value in load_file(saved).items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-5, atol=1e-6)
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    assert report.loss == pytest.approx(loss.item(), rel=1e-4)
    for row, parameter in zip(report.rows, model.parameters()):
        assert row.figures is not None
        assert parameter.grad is not None
        assert row.figures.l2 == pytest.approx(parameter.grad.norm().item(), rel=1e-2)


def test_what_was_saved_has_the_gradients_that_were_reported(tmp_path: Path) -> None:
    """The table after training is the table of the file it wrote."""
    saved = tmp_path / "fitted.pt"
    trained = mi.grads(REGRESSION, data=DATA, steps=20, lr=0.01, save=str(saved))
    again = mi.grads(REGRESSION, data=DATA, weights=str(saved))
    assert again.rows == trained.rows
    assert again.loss == trained.loss
    assert mi.count(str(saved)).unique == 40


def test_fitting_the_example_gets_where_the_readme_says(tmp_path: Path) -> None:
    """5,000 epochs of Adam leave 0.17 °C², and the network runs in its twin's data."""
    report = mi.grads(REGRESSION, data=DATA, epochs=5000, optimizer="adam", lr=0.01, values=True)
    assert report.loss is not None
    assert report.loss < 0.25
    hidden = report.rows[0]
    assert hidden.name == "0.weight"
    assert torch.tensor(hidden.values).shape == (13, 1)
    assert report.is_healthy


def test_batches_and_history(tmp_path: Path) -> None:
    """Every step of two epochs is counted; norms of the recorded ones are those by hand."""
    report = mi.grads(REGRESSION, data=DATA, epochs=2, batch_size=20, every=2, optimizer="sgd", lr=0.001)
    assert report.history is not None
    assert report.history.steps == (1, 2, 4, 6)
    assert mi.grads(REGRESSION, data=DATA, steps=5, every=2).history.steps == (1, 2, 4, 5)  # type: ignore[union-attr]
    x, y = _rows()
    whole = mi.grads(REGRESSION, data=DATA, steps=3, every=1, optimizer="sgd", lr=0.001)
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    assert whole.history is not None
    for step in range(3):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        norms = [
            parameter.grad.norm().item() for parameter in model.parameters() if parameter.grad is not None
        ]
        assert [row.history[step] for row in whole.rows] == pytest.approx(norms, rel=1e-5)
        assert whole.history.losses[step] == pytest.approx(loss.item(), rel=1e-6)
        assert whole.history.norms[step] == pytest.approx(math.hypot(*norms), rel=1e-5)
        optimizer.step()


def test_shuffled_batches_are_the_seeds(tmp_path: Path) -> None:
    """The same seed takes the same batches in the same order."""
    options: dict[str, Any] = {"data": DATA, "epochs": 2, "batch_size": 7, "lr": 0.01}
    assert mi.grads(REGRESSION, **options).rows == mi.grads(REGRESSION, **options).rows
    assert mi.grads(REGRESSION, seed=1, **options).rows != mi.grads(REGRESSION, **options).rows


def test_learning_rate_that_diverges_is_named() -> None:
    """Training stops where the loss is no number any more, and the report says from which step on."""
    report = mi.grads(REGRESSION, data=DATA, steps=2000, optimizer="sgd", lr=5.0)
    assert not report.is_healthy
    assert report.findings[0].kind == "diverging"


def test_module_in_hand_is_trained_as_a_copy() -> None:
    """The caller's weights stay; only the report knows of the training."""
    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    x = torch.randn(8, 3)
    report = mi.grads(
        model, inputs=x, target=x.sum(1, keepdim=True), steps=5, optimizer="sgd", lr=0.1, every=1
    )
    assert torch.equal(model.weight, before)
    assert report.history is not None
    assert report.history.losses[-1] is not None
    assert report.history.losses[0] is not None
    assert report.history.losses[-1] < report.history.losses[0]


def test_progress_is_told() -> None:
    """After each step: steps done, steps in all, the loss."""
    told: list[tuple[int, int, float | None]] = []
    mi.grads(REGRESSION, data=DATA, epochs=2, batch_size=24, progress=lambda *args: told.append(args))
    assert [(done, total) for done, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(loss is not None for _, _, loss in told)


def test_record_of_training_belongs_to_its_last_step(tmp_path: Path) -> None:
    """The table in a run's file is of the step that stands beside it, not of the one after."""
    report = mi.grads(REGRESSION, data=DATA, steps=5, every=2, optimizer="sgd", lr=0.001)
    path = tmp_path / "run.jsonl"
    path.write_text("".join(run_lines(report)), encoding="utf-8")
    run = read_run(str(path))
    assert (run.steps[-1], run.table_step, run.every) == (5, 5, 2)
    assert run.table is not None
    norms = [None if figures is None else figures.l2 for figures in run.table]
    assert list(run.by_parameter[-1]) == pytest.approx(norms, rel=1e-9)
    before = mi.grads(REGRESSION, data=DATA, steps=4, optimizer="sgd", lr=0.001)
    assert norms == pytest.approx([row.figures.l2 for row in before.rows if row.figures], rel=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_floats_of_a_file_become_the_models(dtype: str, tmp_path: Path) -> None:
    """NumPy writes float64; the model of float32 takes it all the same."""
    path = tmp_path / "data.npz"
    x = np.linspace(0, 1, 12).reshape(4, 3).astype(dtype)
    np.savez(path, x=x, y=x.sum(axis=1, keepdims=True))
    assert mi.grads(nn.Linear(3, 1), data=str(path)).is_healthy
