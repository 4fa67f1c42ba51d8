"""
Train a model for some steps, and remember how its gradients went.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from modelinspect.analysis.gradients import Figures, Finding, History, NormOrder, global_norm
from modelinspect.analysis.runs import diverges
from modelinspect.errors import DefinitionError, ModelInspectError, UsageError, visible
from modelinspect.live.data import Data
from modelinspect.live.inputs import Batch, moved
from modelinspect.live.norms import measure, trainable_parameters, unique_parameters
from modelinspect.live.recipe import Recipe
from modelinspect.live.user_errors import raised
from modelinspect.targets import did_you_mean, parse_call

__all__ = ["Feed", "LossFunction", "Progress", "Trained", "autocast", "make_optimizer", "train"]

LossFunction = Callable[[Any, Any], Tensor]
"""Of the output and the target, which may be None."""
Progress = Callable[[int, int, "float | None"], None]
"""Told of the steps done, of those in all (0: not known), and of the loss."""


@dataclass
class Feed:
    """
    Where batches come from: one that was made up, or data.

    Args:
        batch: The one batch, where there is no data.
        data: What was opened.
    """

    batch: Batch | None
    data: Data | None
    recipe: Recipe
    device: torch.device
    dtype: torch.dtype | None = None
    """Of the model's floats, which those of a file are cast to."""

    def first(self) -> Batch:
        """What gradients are taken on without training: everything, or the first batch."""
        if self.data is None:
            assert self.batch is not None
            return self._ready(self.batch)
        size = self.recipe.batch_size
        in_one = size is None and not self._is_stream
        batch = self.data.whole() if in_one else next(self.data.batches(size, None), None)
        if batch is None:
            raise UsageError(f"the data holds no batch: {self.data.described}")
        return self._ready(batch)

    def epochs(self) -> Iterator[Iterator[Batch]]:
        """Epochs without end, in an order that the seed gives."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        whole = self.first() if self.recipe.batch_size is None and not self._is_stream else None
        while True:
            if whole is not None:
                yield iter((whole,))
            else:
                assert self.data is not None
                yield map(self._ready, self.data.batches(self.recipe.batch_size, generator))

    @property
    def steps_an_epoch(self) -> int:
        """Batches in an epoch; 0 where only the end of the first one tells."""
        size, batch = None if self.data is None else self.data.size, self.recipe.batch_size
        if size is None:
            return 0 if self._is_stream else 1
        return 1 if batch is None else -(-size // batch)

    @property
    def _is_stream(self) -> bool:
        """Does the data come in batches of its own?"""
        return self.data is not None and self.data.size is None

    def _ready(self, batch: Batch) -> Batch:
        # Files of numbers are float64 where NumPy wrote them; a user's own loader knows its types.
        of_file = self.data is not None and not self._is_stream
        return moved(batch, self.device, self.recipe.module_dtype() or (self.dtype if of_file else None))


@dataclass
class Trained:
    """
    What came of training.
    """

    described: str
    """Optimizer, learning rate and steps, for people."""
    batch: Batch
    """Of the last step."""
    planned: int = 0
    """Steps that are to be taken; 0: not known."""
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    """Of every step."""
    recorded: list[int] = field(default_factory=list)
    """Steps at which norms were taken, from 1 on."""
    norms: dict[str, list[float | None]] = field(default_factory=dict)
    """By parameter, an entry a recorded step."""
    total: list[float | None] = field(default_factory=list)
    """Global norms, an entry a recorded step."""
    last: dict[str, Figures | None] = field(default_factory=dict)
    """Figures at the last recorded step."""

    def history(self) -> History | None:
        """What was recorded, or None."""
        if not self.recorded:
            return None
        losses = tuple(self.losses[step - 1] for step in self.recorded)
        return History(tuple(self.recorded), losses, tuple(self.total), self.last)

    def findings(self) -> tuple[Finding, ...]:
        """Whether it went astray."""
        text = diverges(self.losses)
        return () if text is None else (Finding("diverging", text),)


def train(
    model: nn.Module,
    feed: Feed,
    loss: LossFunction,
    recipe: Recipe,
    *,
    target: str,
    progress: Progress | None = None,
) -> Trained:
    """
    Take the steps that a recipe asks for; ends early where the loss is not finite.

    Args:
        model: Trained in place.
        feed: Where batches come from.
        loss: Called with the output and the batch's target.
        recipe: Its optimizer, steps, clipping.
        target: Named in errors.
        progress: Told after each step.

    Raises:
        DefinitionError: The model, the loss or the optimizer raised.
    """
    optimizer, described = make_optimizer(model, recipe)
    total = recipe.steps or (recipe.epochs or 0) * feed.steps_an_epoch
    done = Trained(described, feed.first() if feed.data is None else Batch(()), total)
    for epoch, batches in enumerate(feed.epochs()):
        if recipe.epochs is not None and epoch >= recipe.epochs:
            break
        before = done.steps
        for batch in batches:
            done.batch = batch
            _one_step(model, optimizer, loss, recipe, done, target)
            if progress is not None:
                progress(done.steps, total, done.losses[-1])
            if done.steps == recipe.steps or not isfinite(done.losses[-1]):
                return _described(done)
        if done.steps == before:
            raise UsageError(
                f"the data gave no batch in epoch {epoch + 1:,}",
                hint="a generator is used up after one epoch: name a function that returns one"
                if epoch
                else None,
            )
    return _described(done)


def _described(done: Trained) -> Trained:
    done.described = f"{done.described}, {done.steps:,} step{'' if done.steps == 1 else 's'}"
    return done


def _one_step(
    model: nn.Module, optimizer: Any, loss: LossFunction, recipe: Recipe, done: Trained, target: str
) -> None:
    number = done.steps + 1
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        optimizer.zero_grad()
        with autocast(recipe, model):
            value = loss(model(*done.batch.args, **done.batch.kwargs), done.batch.target)
        if not value.requires_grad:
            raise DefinitionError(
                f"{visible(target)} can't be trained: the loss depends on no parameter",
                hint="without --steps and --epochs the table says what is detached",
            )
        value.backward()
        calls += 1
        if calls == 1:  # LBFGS asks several times; what it begins with counts
            done.losses.append(float(value.detach()))
            if _is_recorded(number, done, recipe):
                _record(model, done, number, recipe.order)
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(
                [named.parameter for named in unique_parameters(model)], recipe.clip
            )
        return value

    try:
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    except (ModelInspectError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise raised(f"{visible(target)}: training failed at step {number:,}", error) from error
    done.steps = number


def _is_recorded(number: int, done: Trained, recipe: Recipe) -> bool:
    """The first step, every so many of them, and the last."""
    if recipe.every is None:
        return False
    is_last = number == done.planned or not isfinite(done.losses[-1])
    return number == 1 or number % recipe.every == 0 or is_last


def _record(model: nn.Module, done: Trained, step: int, order: NormOrder) -> None:
    named = unique_parameters(model)
    figures = measure((each.parameter.grad, each.parameter) for each in named)
    done.last = dict(zip((each.name for each in named), figures))
    done.recorded.append(step)
    done.total.append(global_norm(figures, order))
    for each, found in zip(named, figures):
        done.norms.setdefault(each.name, []).append(None if found is None else found.norm(order))


def autocast(recipe: Recipe, model: nn.Module) -> AbstractContextManager[Any]:
    """Mixed precision, where the recipe asks for it."""
    dtype = recipe.autocast_dtype()
    if dtype is None:
        return nullcontext()
    device = next((p.device.type for p in model.parameters()), "cpu")
    return torch.autocast(device, dtype)


# ------------------------------------------------------------------- optimizers


def _optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    return {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and name != "Optimizer"
    }


def make_optimizer(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, str]:
    """
    The optimizer that a recipe names, over the trainable parameters, and its description.

    Raises:
        UsageError: torch.optim has none of that name, or it does not take those arguments.
    """
    name, args, kwargs, _ = parse_call(recipe.optimizer or "adam", "--optimizer")
    known = _optimizers()
    if name.lower() not in known:
        raise UsageError(
            f"torch.optim has no optimizer {visible(name)!r}",
            details=(f"it has: {', '.join(sorted(known))}",),
            hint=did_you_mean(name, known),
        )
    kind = known[name.lower()]
    if recipe.lr is not None:
        kwargs = {**kwargs, "lr": recipe.lr}
    parameters: Sequence[Any] = [named.parameter for named in trainable_parameters(model)]
    if not parameters:
        raise UsageError("there is nothing to train: no parameter asks for a gradient")
    try:
        optimizer = kind(parameters, *args, **kwargs)
    except Exception as error:
        first = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"torch.optim.{kind.__name__} can't be made: {visible(first)}",
            hint=f"spelt, for example: --optimizer '{name}(weight_decay=0.01)' --lr 0.01",
        ) from error
    rate = optimizer.param_groups[0].get("lr")
    shown = f", lr {float(rate):g}" if rate is not None else ""
    if recipe.clip is not None:
        shown += f", gradients clipped to a norm of {recipe.clip:g} (shown as they were before)"
    return optimizer, f"{kind.__name__}{shown}"
