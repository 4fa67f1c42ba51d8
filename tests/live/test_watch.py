"""
Recording a training loop: the norms of a loop by hand, each step once, no harm done.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

import modelinspect as mi
from modelinspect.analysis.runs import Run, read_run, run_report
from modelinspect.errors import TargetError, UsageError
from modelinspect.live.watch import Watch

Norms = list[list[float | None]]


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def _norms(model: nn.Module) -> list[float | None]:
    return [None if p.grad is None else float(p.grad.to_dense().double().norm()) for p in model.parameters()]


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, after: Callable[[Any], Any] | None = None
) -> Norms:
    """A plain loop; the norms that each step was taken with."""
    generator = torch.Generator().manual_seed(1)
    norms = []
    for _ in range(steps):
        x = torch.randn(7, 3, generator=generator)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        norms.append(_norms(model))
        optimizer.step()
        if after is not None:
            after(loss)
    return norms


def assert_records(run: Run, norms: Norms) -> None:
    """Each step's norms, and the global one, to 1e-6."""
    assert run.steps == tuple(range(1, len(norms) + 1))
    for recorded, whole, expected in zip(run.by_parameter, run.norms, norms):
        there = [norm for norm in expected if norm is not None]
        assert [norm is None for norm in recorded] == [norm is None for norm in expected]
        assert [norm for norm in recorded if norm is not None] == pytest.approx(there, rel=1e-6)
        assert whole == pytest.approx(math.sqrt(sum(norm**2 for norm in there)), rel=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_context_records_every_optimizer_step(name: str, tmp_path: Path) -> None:
    """By itself, with a full table at the first step and at every third."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
    with mi.watch(model, path, every=3) as w:
        norms = _train(model, optimizer, 7)
    run = read_run(str(path))
    assert_records(run, norms)
    assert (run.target, run.is_finished, w.steps) == ("Sequential", True, 7)
    assert run.table_step == 6
    assert [parameter.name for parameter in run.parameters] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    tables = [json.loads(line)["step"] for line in path.read_text().splitlines() if '"table"' in line]
    assert tables == [1, 3, 6]
    _train(model, optimizer, 2)
    assert len(read_run(str(path)).steps) == 7


def test_step_records_before_and_after_the_optimizer(tmp_path: Path) -> None:
    """In any loop, with the loss; the record is the same wherever the call stands."""
    runs = []
    for place in ("before", "after"):
        model, path = _net(), tmp_path / f"{place}.jsonl"
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        w = mi.watch(model, path)
        generator = torch.Generator().manual_seed(1)
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(torch.randn(7, 3, generator=generator)).square().mean()
            loss.backward()
            if place == "before":
                w.step(loss)
            optimizer.step()
            if place == "after":
                w.step(loss)
        w.close()
        runs.append(read_run(str(path)))
    assert runs[0].by_parameter == runs[1].by_parameter
    assert runs[0].losses == runs[1].losses
    assert all(loss is not None for loss in runs[0].losses)


@pytest.mark.parametrize("place", ["before", "after"])
def test_step_inside_of_the_context_records_once(place: str, tmp_path: Path) -> None:
    """The hook and the call are one step; the call brings the loss."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with mi.watch(model, path) as w:
        if place == "after":
            norms = _train(model, optimizer, 5, after=w.step)
        else:
            optimizer.register_step_pre_hook(lambda *_: w.step(0.5))
            norms = _train(model, optimizer, 5)
    run = read_run(str(path))
    assert_records(run, norms)
    assert all(loss is not None for loss in run.losses)


def test_accumulated_gradients_are_one_step(tmp_path: Path) -> None:
    """Several backward passes to one step of the optimizer: the sum is what counts."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with mi.watch(model, path):
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(2):
                model(torch.randn(7, 3)).mean().backward()
            norms.append(_norms(model))
            optimizer.step()
    assert_records(read_run(str(path)), norms)


def test_other_optimizers_are_not_ours(tmp_path: Path) -> None:
    """A discriminator's steps beside a generator's are no steps of the generator."""
    model, other, path = _net(), _net(), tmp_path / "run.jsonl"
    mine, foreign = (torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, other))
    with mi.watch(model, path):
        _train(other, foreign, 3)
        norms = _train(model, mine, 2)
        _train(other, foreign, 3)
    assert_records(read_run(str(path)), norms)


def test_lbfgs_is_recorded(tmp_path: Path) -> None:
    """Its closure makes gradients only inside of the step: those of its last call are recorded."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    x = torch.randn(7, 3)
    norms = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(x).square().mean()
        loss.backward()
        return loss

    with mi.watch(model, path):
        for _ in range(3):
            optimizer.step(closure)
            norms.append(_norms(model))
    assert_records(read_run(str(path)), norms)


class Odd(nn.Module):
    """Tied, frozen, sparse, complex and unused parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 4, sparse=True)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.two.bias.requires_grad_(False)
        self.spin = nn.Parameter(torch.randn(4, dtype=torch.complex64))
        self.spare = nn.Linear(2, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(batch,) to (batch, 4)."""
        hidden: torch.Tensor = self.two(torch.tanh(self.one(self.embedding(ids))))
        return (hidden * self.spin).abs()


def test_every_kind_of_parameter(tmp_path: Path) -> None:
    """A tied one once, frozen and unused ones as null, sparse and complex ones measured."""
    model, path = Odd(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with mi.watch(model, path, every=2) as w:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randint(20, (6,))).mean().backward()
            norms.append(
                [
                    None if p.grad is None else float(p.grad.to_dense().abs().double().norm())
                    for p in model.parameters()
                ]
            )
            optimizer.step()
    run = read_run(str(path))
    assert_records(run, norms)
    verdicts = {row.name: row.verdict for row in w.report().rows}
    assert verdicts["two.bias"] == "frozen"
    assert verdicts["spare.weight"] == "none"
    assert [p.also for p in run.parameters if p.also] == [("two.weight",)]


@pytest.mark.parametrize("order", ["1", "inf"])
def test_other_norms(order: Any, tmp_path: Path) -> None:
    """L1 and the largest entry, for those who want them."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with mi.watch(model, path, order=order):
        _train(model, optimizer, 1)
    run = read_run(str(path))
    kind = float(order)
    expected = [float(p.grad.double().norm(kind)) for p in model.parameters() if p.grad is not None]
    assert run.by_parameter[0] == pytest.approx(expected, rel=1e-6)
    assert run.norms[0] == pytest.approx(sum(expected) if order == "1" else max(expected), rel=1e-6)


def test_lazy_and_compiled_models(tmp_path: Path) -> None:
    """Shapes are those of the first step; a compiled module's names are those of the one inside."""
    lazy = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1))
    with mi.watch(lazy, tmp_path / "lazy.jsonl"):
        lazy(torch.ones(2, 3))
        _train(lazy, torch.optim.SGD(lazy.parameters(), lr=0.1), 2)
    assert read_run(str(tmp_path / "lazy.jsonl")).parameters[0].shape == (4, 3)
    model = _net()
    compiled: Any = torch.compile(model, backend="eager")
    with mi.watch(compiled, tmp_path / "compiled.jsonl"):
        _train(compiled, torch.optim.SGD(compiled.parameters(), lr=0.1), 1)
    run = read_run(str(tmp_path / "compiled.jsonl"))
    assert (run.target, run.parameters[0].name) == ("Sequential", "0.weight")


def test_watching_changes_nothing(tmp_path: Path) -> None:
    """Bit for bit the same weights as without it; generators and hooks as they were."""
    plain, watched = _net(), _net()
    _train(plain, torch.optim.Adam(plain.parameters(), lr=0.01), 5)
    state = torch.get_rng_state()
    with mi.watch(watched, tmp_path / "run.jsonl", every=2):
        _train(watched, torch.optim.Adam(watched.parameters(), lr=0.01), 5)
    assert torch.equal(torch.get_rng_state(), state)
    for mine, theirs in zip(watched.parameters(), plain.parameters()):
        assert torch.equal(mine, theirs)
    assert not _global_optimizer_pre_hooks
    assert not _global_optimizer_post_hooks


def test_training_that_breaks_off(tmp_path: Path) -> None:
    """Everything up to there is in the file, without an end; the hook is gone."""
    model, path = _net(), tmp_path / "run.jsonl"

    def fail(_: Any) -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError), mi.watch(model, path):
        _train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3, after=fail)
    run = read_run(str(path))
    assert (run.steps, run.is_finished) == ((1,), False)
    assert not _global_optimizer_pre_hooks
    assert not _global_optimizer_post_hooks


def test_nan_is_recorded(tmp_path: Path) -> None:
    """As a text, and its verdict is in the table."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with mi.watch(model, path, every=1) as w:
        model(torch.full((2, 3), float("nan"))).mean().backward()
        optimizer.step()
    assert {row.verdict for row in w.report().rows} >= {"nan"}
    assert '"NaN"' in path.read_text(encoding="utf-8")


def test_model_without_steps_or_parameters(tmp_path: Path) -> None:
    """A header and an end: grads shows an empty table."""
    with mi.watch(nn.Identity(), tmp_path / "run.jsonl"):
        pass
    assert mi.grads(tmp_path / "run.jsonl").rows == []


def test_places_and_numbers_that_are_wrong(tmp_path: Path) -> None:
    """A folder that isn't there, a table every 0 steps."""
    with pytest.raises(TargetError, match="cannot be written"):
        mi.watch(_net(), tmp_path / "no" / "run.jsonl")
    with pytest.raises(UsageError, match="must be at least 1"):
        mi.watch(_net(), tmp_path / "run.jsonl", every=0)


def test_report_while_training_goes_on(tmp_path: Path) -> None:
    """What is recorded so far can be looked at from inside of the loop."""
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with mi.watch(model, tmp_path / "run.jsonl", every=1) as w:
        assert isinstance(w, Watch)
        _train(model, optimizer, 2)
        report = w.report()
        assert report.history is not None
        assert report.history.steps == (1, 2)
        _train(model, optimizer, 1)
    assert mi.grads(w.path).history.steps == (1, 2, 3)  # type: ignore[union-attr]


def _backward(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = model(torch.randn(7, 3)).square().mean()
    loss.backward()
    return loss


def test_closures_are_measured_where_they_were_used(tmp_path: Path) -> None:
    """Not by what the closure of the step before left there."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = _backward(model)
        norms.append(_norms(model))
        return loss.item()

    with mi.watch(model, path):
        for _ in range(4):
            optimizer.step(closure)
    assert_records(read_run(str(path)), norms)


@pytest.mark.parametrize("place", ["before", "after"])
def test_losses_now_and_then_go_to_their_steps(place: str, tmp_path: Path) -> None:
    """Every third step is given its loss, the hook records all."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected: list[float | None] = []
    with mi.watch(model, path) as w:
        for number in range(8):
            optimizer.zero_grad()
            loss = _backward(model)
            expected.append(loss.item() if number % 3 == 0 else None)
            if place == "before" and number % 3 == 0:
                w.step(loss)
            optimizer.step()
            if place == "after" and number % 3 == 0:
                w.step(loss)
    run = read_run(str(path))
    assert run.losses == tuple(expected)
    assert run.steps == tuple(range(1, 9))


def test_loss_after_gradients_were_zeroed_in_place(tmp_path: Path) -> None:
    """Zeros are no new backward pass: the loss is that of the step before."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with mi.watch(model, path) as w:
        for _ in range(3):
            loss = _backward(model)
            losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            w.step(loss)
    assert read_run(str(path)).losses == tuple(losses)


def test_step_at_each_accumulated_batch(tmp_path: Path) -> None:
    """What the optimizer steps with is recorded, once, also before its first step."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with mi.watch(model, path, every=1) as w:
        for number in range(6):
            w.step(_backward(model))
            if number % 2:
                norms.append(_norms(model))
                optimizer.step()
                optimizer.zero_grad()
    assert_records(read_run(str(path)), norms)


def test_clipped_gradients_are_recorded(tmp_path: Path) -> None:
    """As the optimizer uses them, also where the loss was given before."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with mi.watch(model, path) as w:
        for _ in range(2):
            optimizer.zero_grad()
            w.step(_backward(model))
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
    assert read_run(str(path)).norms == pytest.approx((1e-3, 1e-3), rel=1e-2)


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_are_unscaled_and_skipped_steps_left_out(fused: bool, tmp_path: Path) -> None:
    """By a GradScaler, whose first scale is too large here; the fused optimizer unscales by itself."""
    model, path = _net(), tmp_path / "run.jsonl"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    norms, losses = [], []
    with mi.watch(model, path) as w:
        for number in range(4):
            optimizer.zero_grad()
            loss = 1e3 * model(torch.randn(7, 3)).square().mean()
            scaler.scale(loss).backward()
            if number:
                norms.append([norm and norm / 1024 for norm in _norms(model)])
                losses.append(loss.item())
            scaler.step(optimizer)
            scaler.update(1024.0)
            w.step(loss)
    run = read_run(str(path))
    assert [list(each) for each in run.by_parameter] == [pytest.approx(each, rel=1e-6) for each in norms]
    assert run.losses == tuple(losses)


def test_optimizers_that_share_a_model(tmp_path: Path) -> None:
    """One step together where each has parameters of its own; each its own where they follow one another."""
    model, path = _net(), tmp_path / "run.jsonl"
    one, two = (torch.optim.SGD(model[place].parameters(), lr=0.1) for place in (0, 2))
    both = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with mi.watch(model, path, every=1):
        for optimizers in ((one, two), (one, two), (both,), (both,)):
            model.zero_grad()
            _backward(model)
            norms.append(_norms(model))
            for optimizer in optimizers:
                optimizer.step()
    assert_records(read_run(str(path)), norms)


class _Extended(torch.optim.Adam):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_extended_optimizers_step_once(tmp_path: Path) -> None:
    """The hooks are called for the class and for the one that it extends."""
    model, path = _net(), tmp_path / "run.jsonl"
    torch.optim.Adam([nn.Parameter(torch.zeros(1))])  # from here on its step calls hooks
    with mi.watch(model, path):
        norms = _train(model, _Extended(model.parameters(), lr=0.01), 3)
    assert_records(read_run(str(path)), norms)


def test_parameters_are_frozen_and_thawed(tmp_path: Path) -> None:
    """Verdicts are by what asks for a gradient at the last full table."""
    model, path = _net(), tmp_path / "run.jsonl"
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with mi.watch(model, path, every=2):
        _train(model, optimizer, 2)
        model[0].requires_grad_(True)
        model[2].requires_grad_(False)
        _train(model, optimizer, 2)
    verdicts = {row.name: row.verdict for row in run_report(read_run(str(path))).rows}
    assert verdicts == {"0.weight": "ok", "0.bias": "ok", "2.weight": "frozen", "2.bias": "frozen"}


def test_parameters_that_come_and_go(tmp_path: Path) -> None:
    """Another parameter of the same name goes on; one that goes has no gradient; one that comes is noted."""
    model, path = _net(), tmp_path / "run.jsonl"
    with mi.watch(model, path, every=2):
        _train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)
        model[0], model[2] = nn.Linear(3, 5), nn.Linear(5, 1, bias=False)
        model.append(nn.Linear(1, 1))
        _train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)
    run = read_run(str(path))
    assert run.steps == (1, 2, 3, 4, 5, 6)
    assert [norm is None for norm in run.by_parameter[-1]] == [False, False, False, True]
    assert run.notes == ("parameters that came after the first step are not recorded: 3.bias, 3.weight",)


@pytest.mark.parametrize("last", ["", "raise SystemError"])
def test_forgotten_watch_loses_nothing(last: str, tmp_path: Path) -> None:
    """A script that ends without close() leaves all steps; how it ended, the record says."""
    path = tmp_path / "run.jsonl"
    code = f"""
import torch, modelinspect as mi
model = torch.nn.Linear(3, 1)
w = mi.watch(model, {os.fspath(path)!r})
for _ in range(15):
    model(torch.ones(2, 3)).sum().backward()
    w.step()
{last}
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == bool(last)
    run = read_run(str(path))
    assert (len(run.steps), run.is_finished) == (15, not last)


def test_abandoned_context_takes_its_hooks_along(tmp_path: Path) -> None:
    """Where nobody holds it any more, as after a notebook's interrupt."""
    model, path = _net(), tmp_path / "run.jsonl"
    w = mi.watch(model, path).__enter__()
    _train(model, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    del w
    assert not _global_optimizer_pre_hooks
    assert read_run(str(path)).steps == (1, 2)


def test_norms_out_of_the_range_of_float32_squares(tmp_path: Path) -> None:
    """Steps between full tables know them, too."""
    model, path = nn.Linear(256, 256, bias=False), tmp_path / "run.jsonl"
    w = mi.watch(model, path)
    for _ in range(3):
        model.weight.grad = torch.full((256, 256), 1e-25)
        w.step()
    w.close()
    assert read_run(str(path)).norms == pytest.approx((2.56e-23,) * 3, rel=1e-6)


def test_record_that_cannot_be_written_leaves_training_alone() -> None:
    """A full disk is a warning."""
    model = _net()
    w = mi.watch(model, "/dev/full", every=1)
    with pytest.warns(RuntimeWarning, match="the record ends here"), w:
        _train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)
    assert w.steps == 3


def test_other_files_are_not_replaced(tmp_path: Path) -> None:
    """A record is, weights are not."""
    weights, record = tmp_path / "model.pt", tmp_path / "run.jsonl"
    torch.save(_net().state_dict(), weights)
    before = weights.read_bytes()
    with pytest.raises(TargetError, match="is no record of a run, so it is not replaced"):
        mi.watch(_net(), weights)
    assert weights.read_bytes() == before
    for _ in range(2):
        with mi.watch(_net(), record):
            pass
    assert read_run(str(record)).is_finished


def test_losses_and_reports_that_make_no_sense(tmp_path: Path) -> None:
    """Said where the call is made, not when lines are written."""
    w = mi.watch(_net(), tmp_path / "run.jsonl")
    with pytest.raises(UsageError, match="no step is recorded yet"):
        w.report()
    with pytest.raises(UsageError, match="a tensor of 2 numbers"):
        w.step(torch.ones(2))
    w.close()


def test_loss_after_a_report_is_kept(tmp_path: Path) -> None:
    """Looking at the newest step does not fix its line."""
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with mi.watch(model, tmp_path / "run.jsonl") as w:
        _train(model, optimizer, 1)
        assert w.report().loss is None
        w.add_loss(0.5)
    assert w.report().loss == 0.5


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rank that torchrun gives, where the processes are not connected yet."""
    monkeypatch.setenv("RANK", "1")
    model, path = _net(), tmp_path / "run.jsonl"
    with mi.watch(model, path) as w:
        _train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)
    assert (w.steps, path.exists()) == (3, False)
    with pytest.raises(UsageError, match="only the first process"):
        w.report()
