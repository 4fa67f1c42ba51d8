"""
Forward, loss, backward, and a report on the gradients: the work of ``modelinspect grads``.

What a seed makes reproducible, so that anyone can recompute a figure by hand: the
generators are seeded before a definition is built, and again just before the forward
pass that the report is of. Made-up inputs and targets come from generators of their own.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from modelinspect.analysis.gradient_rows import row_findings
from modelinspect.analysis.gradients import (
    Figures,
    GradientRow,
    GradientsReport,
    Spread,
    global_norm,
    judge,
    settled,
    with_history,
)
from modelinspect.errors import DefinitionError, ModelInspectError, UsageError, visible
from modelinspect.live.data import Data, open_data
from modelinspect.live.definition import Definition, load_definition
from modelinspect.live.inputs import (
    Batch,
    Prepared,
    copied,
    described,
    given_inputs,
    inferred_inputs,
    samples,
)
from modelinspect.live.losses import Loss, checked
from modelinspect.live.norms import Named, measure, plain_name, unique_parameters, unwrapped
from modelinspect.live.parallel import processes, spread_over
from modelinspect.live.preserve import preserved
from modelinspect.live.probes import Probe
from modelinspect.live.recipe import Recipe
from modelinspect.live.surroundings import undisturbed
from modelinspect.live.training import Feed, Progress, Trained, autocast, train
from modelinspect.live.user_errors import raised
from modelinspect.live.weights import check_suffix, load_weights, save_weights

__all__ = ["batch_of", "definition_gradients", "module_gradients"]

SMALL = 20
"""Gradients of up to so many elements are shown in full, where values are asked for."""
_SHARE_OF_MEMORY = 0.8
"""Of the machine's memory that a definition may take with its gradients."""


def definition_gradients(
    target: str,
    recipe: Recipe,
    *,
    loss: Callable[..., Any] | None = None,
    weights: str | None = None,
    section: str | None = None,
    save: str | None = None,
    progress: Progress | None = None,
) -> GradientsReport:
    """
    Build a definition for real and take its gradients.

    Args:
        target: As on the command line.
        recipe: Input, loss, mode, device, training.
        loss: A function of output and target, instead of the recipe's.
        weights: A checkpoint whose tensors are loaded first; none of its pickles is run.
        section: Of that checkpoint.
        save: Where the state_dict goes in the end: ``.safetensors`` or ``.pt``.
        progress: Told of the steps of training.

    Raises:
        DefinitionError: It can't be built, or its forward or backward pass raises.
        CheckpointError: The weights can't be read.
        UsageError: Parts of the recipe contradict each other.
    """
    if save is not None:
        check_suffix(save)
    definition = _built(target, recipe)
    _refuse_meta(definition.module, target)
    said = definition.notes
    origin = f"fresh, seed {recipe.seed}"
    if weights is not None:
        said += load_weights(definition.module, weights, section=section)
        origin = weights
    with processes(recipe):
        report = _report(
            definition.module, recipe, target=target, weights=origin, progress=progress,
            function=loss, home=definition.home,
        )  # fmt: skip
        if save is not None:
            said += save_weights(definition.module, save, metadata={"origin": f"modelinspect grads {target}"})
    return _noted(report, (*said, *report.notes))


def module_gradients(
    module: nn.Module,
    recipe: Recipe,
    *,
    batch: Batch | None = None,
    loss: Callable[..., Any] | None = None,
    weights: str | None = None,
    section: str | None = None,
    save: str | None = None,
    progress: Progress | None = None,
) -> GradientsReport:
    """
    The gradients of a module in hand, which comes back as it was.

    Args:
        module: Where it is to be trained, loaded into or spread over processes, a copy is.
        recipe: Input, loss, mode, device, training.
        batch: What goes in, instead of the recipe's inputs or data.
        loss: A function of output and target, instead of the recipe's.
        weights: As :func:`definition_gradients`.
        section: Of that checkpoint.
        save: As :func:`definition_gradients`.
        progress: As :func:`definition_gradients`.
    """
    name = type(module).__name__
    said: tuple[str, ...] = ()
    _refuse_meta(module, name, hint="mi.load_definition(TARGET, real=True), or the target itself")
    if save is not None:
        check_suffix(save)
    if recipe.trains or weights is not None or recipe.parallel is not None:
        module = _copied(module, name)
    if weights is not None:
        said = load_weights(module, weights, section=section)
    prepared = None if batch is None else Prepared(batch, described(batch), "given", ())
    with preserved(module), processes(recipe):
        report = _report(
            module, recipe, target=name, weights=weights or "", progress=progress,
            prepared=prepared, function=loss,
        )  # fmt: skip
        if save is not None:
            said += save_weights(module, save, metadata={"origin": f"modelinspect grads {name}"})
    return _noted(report, (*said, *report.notes))


def _refuse_meta(module: nn.Module, name: str, hint: str | None = None) -> None:
    try:
        parameters = list(module.parameters())
    except Exception as error:
        raise raised(f"{visible(name)}: its parameters can't be listed", error) from error
    if any(parameter.is_meta for parameter in parameters):
        raise UsageError(f"{visible(name)} is on the meta device, where nothing has a value", hint=hint)


def _copied(module: nn.Module, name: str) -> nn.Module:
    """What may be changed for good, in the place of what the caller has in hand."""
    try:
        with torch.inference_mode(False):
            return copy.deepcopy(module)
    except Exception as error:
        failure = raised(f"{visible(name)} can't be copied, and a copy is what is changed", error)
        failure.hint = "name its definition instead: net.py:Net"
        raise failure from error


def batch_of(inputs: Any, target: Any = None) -> Batch:
    """
    Tensors in hand as a batch.

    Args:
        inputs: A tensor, a tuple of positional or a dict of keyword arguments.
        target: For the loss; None: there is none.
    """
    args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, dict) else (inputs,)
    kwargs = dict(inputs) if isinstance(inputs, dict) else {}
    first = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.ndim), None)
    return Batch(tuple(args), kwargs, target, None if first is None else len(first))


def _noted(report: GradientsReport, notes: Sequence[str]) -> GradientsReport:
    return replace(report, notes=tuple(dict.fromkeys(notes)))


# -------------------------------------------------------------------- building


def _built(target: str, recipe: Recipe) -> Definition:
    """On the meta device first, which costs next to nothing, to learn what it takes."""
    definition = load_definition(target, seed=recipe.seed)
    if not any(tensor.device == "meta" for tensor in definition.table):
        return definition
    nbytes = sum(tensor.nbytes for tensor in definition.table)
    # Weights and gradients; an optimizer keeps two more of each at most.
    needed, there = nbytes * (4 if recipe.trains else 2), _memory()
    is_here = recipe.device in (None, "cpu") and recipe.parallel is None
    if is_here and there is not None and needed > there * _SHARE_OF_MEMORY:
        raise DefinitionError(
            f"{visible(target)} is too large for its gradients to be taken here",
            details=(
                f"weights, gradients{' and optimizer' if recipe.trains else ''} take {needed:,} bytes",
                f"this machine has {there:,} bytes of memory",
            ),
            hint="give smaller arguments, for example fewer layers: net.py:Net(layers=2)",
        )
    return load_definition(target, meta=False, seed=recipe.seed)


def _memory() -> int | None:
    """Of the machine, in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


# ------------------------------------------------------------------- the report


class _Bench(NamedTuple):
    """A model on the bench: what goes in, what is asked of it."""

    target: str
    recipe: Recipe
    model: nn.Module
    """As it is run: perhaps spread over processes."""
    feed: Feed
    loss: Loss | _Given
    prepared: Prepared | None
    """The one input; None where there is data."""
    data: Data | None


class _Given:
    """A loss that the caller wrote: a function of output and target, or of the output alone."""

    notes: tuple[str, ...] = ()

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.described = getattr(function, "__name__", type(function).__name__)

    def __call__(self, output: Any, target: Any) -> Tensor:
        value = self._function(output) if target is None else self._function(output, target)
        return checked(value, self.described)


def _report(
    module: nn.Module,
    recipe: Recipe,
    *,
    target: str,
    weights: str,
    progress: Progress | None,
    prepared: Prepared | None = None,
    function: Callable[..., Any] | None = None,
    home: str | None = None,
) -> GradientsReport:
    with torch.inference_mode(False), torch.enable_grad(), undisturbed(recipe.seed, program=target):
        bench = _bench(module, recipe, target, prepared, function, home)
        trained = None
        if recipe.trains:
            torch.manual_seed(recipe.seed)
            trained = train(bench.model, bench.feed, bench.loss, recipe, target=target, progress=progress)
        batch = bench.feed.first() if trained is None else trained.batch
        probe = Probe(unwrapped(bench.model))
        with probe.attached():
            loss = _one_pass(bench, batch, probe)
        rows = _rows(bench)
        findings = (*probe.findings(rows, loss), *row_findings(rows))
        whole = global_norm((row.figures for row in rows), recipe.order)
        rows, spread = _with_spread(bench, batch, rows) if recipe.per_sample else (rows, None)
    return GradientsReport(
        target=target,
        source="backward",
        rows=rows if trained is None else with_history(rows, trained.norms),
        parameters=len(rows),
        order=recipe.order,
        global_norm=whole,
        thresholds=recipe.thresholds,
        modules={
            plain_name(path): type(part).__name__ for path, part in unwrapped(bench.model).named_modules()
        },
        loss=loss,
        setup=_setup(bench, batch, weights, trained),
        findings=findings if trained is None else (*trained.findings(), *findings),
        history=None if trained is None else trained.history(),
        sample_spread=spread,
        notes=_notes(bench, rows),
    )


def _bench(
    module: nn.Module,
    recipe: Recipe,
    target: str,
    prepared: Prepared | None,
    function: Callable[..., Any] | None,
    home: str | None,
) -> _Bench:
    device = _placed(module, recipe, target)
    data = None
    if recipe.data is not None:
        data = open_data(recipe.data, module, inputs=recipe.data_inputs, target=recipe.data_target)
    elif prepared is None and recipe.inputs:
        prepared = given_inputs(module, recipe.inputs, seed=recipe.seed)
    elif prepared is None:
        prepared = inferred_inputs(module, seed=recipe.seed, device=device, home=home)
    if recipe.mode is not None:
        module.train(recipe.mode == "train")
    floats = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    feed = Feed(None if prepared is None else prepared.batch, data, recipe, device, floats)
    loss = Loss(recipe.loss, seed=recipe.seed) if function is None else _Given(function)
    return _Bench(target, recipe, spread_over(module, recipe), feed, loss, prepared, data)


def _placed(module: nn.Module, recipe: Recipe, target: str) -> torch.device:
    """Move a module to the recipe's device and data type; the device that it is on then."""
    try:
        device = None if recipe.device is None else torch.device(recipe.device)
        if device is not None or recipe.dtype is not None:
            module.to(device=device, dtype=recipe.module_dtype())
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise UsageError(
            f"{visible(target)} can't be put on {visible(recipe.device or 'its device')}"
            + (f" as {visible(recipe.dtype)}" if recipe.dtype else ""),
            details=(visible(first),),
        ) from error
    _refuse_meta(module, target)
    return next((p.device for p in module.parameters()), device or torch.device("cpu"))


def _one_pass(bench: _Bench, batch: Batch, probe: Probe | None) -> float:
    """Gradients of one batch, in the place of those that were there; the loss."""
    torch.manual_seed(bench.recipe.seed)
    batch = copied(batch)  # what a model does to its input in place is not for the next pass
    for parameter in bench.model.parameters():
        parameter.grad = None
    stage = "the forward pass"
    try:
        with torch.enable_grad():  # in spite of a pass before that turned it off
            with autocast(bench.recipe, bench.model), nullcontext() if probe is None else probe.forward():
                output = bench.model(*batch.args, **batch.kwargs)
            stage = "the loss"
            with autocast(bench.recipe, bench.model):
                value = bench.loss(output, batch.target)
            stage = "the backward pass"
            # A loss that depends on no parameter has no gradients: the table says so.
            if value.requires_grad:
                value.backward()
    except (ModelInspectError, KeyboardInterrupt):
        raise
    except BaseException as error:
        module = "" if probe is None else probe.broke_in
        raise _failed(bench, batch, stage, error, module) from error
    return float(value.detach())


def _failed(bench: _Bench, batch: Batch, stage: str, error: BaseException, module: str) -> DefinitionError:
    failure = raised(f"{visible(bench.target)}: {stage} failed", error)
    made = "" if bench.prepared is None else f", {bench.prepared.origin}"
    inside = (f"in module {module}",) if module else ()
    failure.details = (f"input: {described(batch)}{made}", *inside, *failure.details)
    if failure.hint is None and stage == "the forward pass":
        failure.hint = (
            "give another input: --input 2x3x224x224, or --input 'ids=int64[2,128]<1000', "
            "or an example_input() in the file"
            if bench.data is None
            else "see which columns or keys go where: --x NAME,… --y NAME"
        )
    return failure


# ----------------------------------------------------------------------- rows


def _rows(bench: _Bench) -> list[GradientRow]:
    recipe = bench.recipe
    named = unique_parameters(bench.model)
    gradients = [each.parameter.grad for each in named]
    found = measure((gradient, each.parameter) for gradient, each in zip(gradients, named))
    rows = [
        _row(each, figures, recipe, gradient)
        for each, figures, gradient in zip(named, found, gradients)
        if not isinstance(each.parameter, UninitializedParameter)
    ]
    return settled(rows)


def _row(each: Named, figures: Figures | None, recipe: Recipe, gradient: Tensor | None) -> GradientRow:
    parameter = each.parameter
    values = None
    if recipe.values and gradient is not None and parameter.numel() <= SMALL:
        values = _listed(gradient)
    return GradientRow(
        name=each.name,
        shape=tuple(parameter.shape),
        dtype=str(parameter.dtype).removeprefix("torch."),
        figures=figures,
        verdict=judge(figures, recipe.thresholds, trainable=parameter.requires_grad),
        also=each.also,
        values=values,
    )


def _listed(gradient: Any) -> Any:
    """Nested lists of a gradient's values; complex ones as text, as JSON has none."""
    if type(gradient).__name__ == "DTensor":
        gradient = gradient.full_tensor()
    dense = gradient.detach().to_dense() if gradient.layout != torch.strided else gradient.detach()
    return dense.cpu().tolist() if not dense.is_complex() else _as_texts(dense.cpu().tolist())


def _as_texts(values: Any) -> Any:
    return [_as_texts(value) for value in values] if isinstance(values, list) else str(values)


def _with_spread(
    bench: _Bench, batch: Batch, rows: Sequence[GradientRow]
) -> tuple[list[GradientRow], Spread | None]:
    """The batch once more, a sample at a time: how far the norms of the samples lie apart."""
    order = bench.recipe.order
    norms: dict[str, list[float]] = {row.name: [] for row in rows}
    whole: list[float] = []
    for number, sample in enumerate(samples(batch)):
        if isinstance(bench.loss, Loss):
            bench.loss.sample = number, batch.size or 0
        _one_pass(bench, sample, None)
        there = [(row.name, row.figures) for row in _rows(bench) if row.figures is not None]
        total = global_norm((figures for _, figures in there), order)
        whole += [] if total is None else [total]
        for name, figures in there:
            norms[name].append(figures.norm(order))
    return [row._replace(spread=_spread(norms[row.name])) for row in rows], _spread(whole)


def _spread(norms: Sequence[float]) -> Spread | None:
    return Spread(min(norms), median(norms), max(norms)) if norms else None


# ----------------------------------------------------------------- what is said


def _setup(bench: _Bench, batch: Batch, weights: str, trained: Trained | None) -> dict[str, str]:
    recipe, model = bench.recipe, unwrapped(bench.model)
    made = "" if bench.prepared is None else f", {bench.prepared.origin}"
    lines = {"input": f"{described(batch)}{made}"}
    if bench.data is not None:
        lines["data"] = bench.data.described
    lines["loss"] = bench.loss.described
    if trained is not None:
        lines["trained"] = trained.described
    lines["mode"] = "train" if model.training else "eval"
    device = next((p.device for p in model.parameters()), None)
    if device is not None and device.type != "cpu":
        lines["device"] = str(device)
    for key in ("dtype", "autocast", "parallel"):
        if (value := getattr(recipe, key)) is not None:
            lines[key] = value
    if weights:
        lines["weights"] = weights
    return {**lines, "seed": str(recipe.seed)}


def _notes(bench: _Bench, rows: Sequence[GradientRow]) -> tuple[str, ...]:
    prepared, data = bench.prepared, bench.data
    notes = [
        *(
            [f"input {prepared.described}, {prepared.origin}"]
            if prepared and prepared.origin != "given"
            else ()
        ),
        *(prepared.notes if prepared is not None else ()),
        *(data.notes if data is not None else ()),
        *bench.loss.notes,
    ]
    if not rows:
        notes.append("the model has no parameters")
    elif all(row.verdict == "frozen" for row in rows):
        notes.append("every parameter is frozen (requires_grad is False)")
    return tuple(notes)
