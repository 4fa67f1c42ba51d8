"""
Record gradients from inside a training loop: norms at every step, a full table now and then.

What is to be had without waiting is taken at each step, one small tensor on the device of
the model. It becomes lines of the file only at the full tables, at the end, and at least
once a second, so that a step costs little more than it did. The newest step is held back,
because its loss may come after it.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import fsum, hypot, inf, isfinite, isnan
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor, distributed, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from modelinspect.analysis.gradient_rows import row_findings
from modelinspect.analysis.gradients import (
    Figures,
    GradientRow,
    GradientsReport,
    NormOrder,
    Thresholds,
    judge,
    settled,
)
from modelinspect.analysis.runs import (
    Parameter,
    end_line,
    finding_line,
    header_line,
    is_run_file,
    note_line,
    read_run,
    run_report,
    step_line,
    table_line,
)
from modelinspect.errors import TargetError, UsageError, visible
from modelinspect.live.norms import l2_norms, measure, unique_parameters, unwrapped

__all__ = ["Watch", "watch"]

PATIENCE = 1.0
"""Seconds after which what was recorded is written, if no full table comes before."""
MOST_PENDING = 256
"""Steps that wait to be written at most."""
_SMALLEST, _LARGEST = 1e-15, 1e15
"""Outside of these a norm is added up in float64 from the start: squares leave the range of float32."""


def watch(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    every: int = 10,
    order: NormOrder = "2",
    thresholds: Thresholds | None = None,
    target: str | None = None,
) -> Watch:
    """
    Record the gradients of a model while it is trained.

    As a context manager it records by itself: each step of each optimizer that holds
    parameters of the model, with the gradients that the optimizer uses: clipped, unscaled,
    of the last call where ``step`` is given a closure. Steps that a ``GradScaler`` skips are
    not recorded. Optimizers that take turns with parameters of their own make one step together.

    Elsewhere, call :meth:`Watch.step` once a step, before or after ``optimizer.step()``, as
    long as the gradients are there; :meth:`Watch.close`, or the end of the process, writes
    what is left.

    Args:
        model: As it is trained, also inside DistributedDataParallel, compiled or sharded
            by ``fully_shard``; then every process watches, and the first one writes.
        path: File of the record, JSON Lines. An older record is replaced, any other file is not.
        every: Steps from one full table to the next.
        order: Of the norms: ``"2"``, or ``"1"`` or ``"inf"``, which take longer.
        thresholds: Where a gradient stops being ok.
        target: What the record says it is of; None: the model's class.

    Raises:
        TargetError: The file can't be written, or is something else than a record.
        UsageError: *every* is less than 1.

    Example:
        >>> with watch(model, "run.jsonl", every=100):  # doctest: +SKIP
        ...     train(model)
    """
    return Watch(model, os.fspath(path), every, order, thresholds or Thresholds(), target)


@dataclass(slots=True, eq=False)
class _Step:
    """A step that is not yet a line."""

    number: int
    loss: Any = None
    norms: list[tuple[Sequence[int], Tensor]] = field(default_factory=list)
    """Places of parameters and their norms in float64; what comes later counts."""
    table: dict[int, Figures] | None = None
    """By place; None: no full table."""
    frozen: tuple[int, ...] = ()
    """Places of the parameters that asked for no gradient; known where there is a table."""
    note: str = ""
    covered: set[int] = field(default_factory=set)
    """Places of the optimizers that have taken the step."""
    skipped: Tensor | None = None
    """More than 0 where the optimizer finds that the step is to be left out."""


class _Mark(NamedTuple):
    """One gradient that was recorded, to see later whether there was a backward pass since."""

    place: int
    gradient: Tensor
    version: int

    def is_passed(self, now: Tensor | None) -> bool:
        """The gradient that is there *now* is another, and not merely set to zero."""
        if now is None:
            return False
        if now is not self.gradient:
            return True
        values = now.to_local() if hasattr(now, "to_local") else now
        return now._version != self.version and bool(values.any())


class Watch:
    """
    A record that is being written; :func:`watch` makes one.
    """

    def __init__(
        self,
        model: nn.Module,
        path: str,
        every: int,
        order: NormOrder,
        thresholds: Thresholds,
        target: str | None,
    ) -> None:
        if every < 1:
            raise UsageError(f"every is {every}, and must be at least 1")
        self.path = path
        """The file."""
        self.steps = 0
        """Recorded so far."""
        self._model = model
        self._every = every
        self._order = order
        self._parameters: list[nn.Parameter | None] = []
        """In the order of the first line; None where one is gone."""
        self._names: list[str] = []
        self._uncounted: set[str] = set()
        self._note = ""
        self._wide: set[int] = set()
        """Places whose norms need float64 from the start."""
        self._mark: _Mark | None = None
        self._hooks: list[Any] = []
        self._sees_optimizer = False
        """A hook was called for an optimizer of ours: steps are recorded by it."""
        self._coming_loss: Any = None
        """Given by :meth:`step` before the optimizer's step."""
        self._inside: dict[int, bool] = {}
        """Optimizers that are stepping, and whether to record after their step."""
        self._ours: weakref.WeakKeyDictionary[Any, tuple[int, list[int]]] = weakref.WeakKeyDictionary()
        title = target or type(unwrapped(model)).__name__
        self._file = _File(path, title, every, order, thresholds, is_written=_is_first_process())
        # A watch that is forgotten leaves no hook and loses no step.
        weakref.finalize(self, _let_go, self._file, self._hooks).atexit = False
        _open_watches.add(self)

    # --------------------------------------------------------------------- hooks

    def __enter__(self) -> Watch:
        here = weakref.ref(self)
        self._hooks += [
            register_optimizer_step_pre_hook(_calling(here, Watch._before_step)),
            register_optimizer_step_post_hook(_calling(here, Watch._after_step)),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(ended=kind is None)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        key = id(optimizer)
        places = self._places_of(optimizer)
        # A class that extends an optimizer's step may call the hooks twice.
        if not places or key in self._inside:
            return
        # With a closure the gradients come inside of the step; a fused optimizer may unscale there.
        has_closure = any(argument is not None for argument in args[1:]) or kwargs.get("closure") is not None
        later = has_closure or getattr(optimizer, "grad_scale", None) is not None
        self._inside[key] = later
        if not later:
            self._optimizer_step(places)

    def _after_step(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._inside.pop(id(optimizer), False):
            self._optimizer_step(self._places_of(optimizer), getattr(optimizer, "found_inf", None))

    def _places_of(self, optimizer: torch.optim.Optimizer) -> list[int]:
        """Those of our parameters that an optimizer holds."""
        held = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._ours.get(optimizer)
        if known is None or known[0] != held:
            self._look_at_parameters()
            where = {id(parameter): place for place, parameter in enumerate(self._parameters)}
            all_held = (id(p) for group in optimizer.param_groups for p in group["params"])
            known = self._ours[optimizer] = (held, [where[key] for key in all_held if key in where])
        return known[1]

    def _optimizer_step(self, places: list[int], skipped: Tensor | None = None) -> None:
        if all(self._gradient(place) is None for place in places):
            return
        if not self._sees_optimizer:
            self._sees_optimizer = True
            self._forget_provisional_steps()
        newest = self._file.newest
        if newest is not None and newest.covered and newest.covered.isdisjoint(places):
            self._measure(newest, places)
        else:
            newest = self._begin(self._coming_loss)
            self._coming_loss = None
        newest.covered.update(places)
        newest.skipped = skipped

    def _forget_provisional_steps(self) -> None:
        """Those that were recorded by hand before it turned out that an optimizer does it."""
        newest = self._file.newest
        if newest is not None and not self._has_new_gradients():
            self._coming_loss = newest.loss
        self.steps -= self._file.forget()

    # ----------------------------------------------------------------- recording

    def step(self, loss: Any = None) -> None:
        """
        Record the gradients that are there now.

        Inside of a ``with``, where the optimizer's steps are recorded by themselves, it only
        adds the loss: to the step before where no backward pass came since, else to the next.

        Args:
            loss: A number or a tensor of one; None: the record has no loss.

        Raises:
            UsageError: The loss is more than one number.
        """
        loss = _one_number(loss)
        if not self._sees_optimizer:
            self._begin(loss)
        elif self._has_new_gradients():
            self._coming_loss = loss
        else:
            self.add_loss(loss)

    def add_loss(self, loss: Any) -> None:
        """
        Give the newest step its loss, where that is known only afterwards.

        Args:
            loss: A number or a tensor of one.

        Raises:
            UsageError: The loss is more than one number.
        """
        loss = _one_number(loss)
        if self._file.newest is not None and loss is not None:
            self._file.newest.loss = loss

    def _begin(self, loss: Any) -> _Step:
        """A new step, with what is there now."""
        may_be_provisional = bool(self._hooks) and not self._sees_optimizer
        self._file.write_if_due(hold=may_be_provisional)
        self.steps += 1
        step = _Step(self.steps, loss)
        if self.steps == 1 or self.steps % self._every == 0:
            self._look_at_parameters()
            step.table = {}
            step.frozen = tuple(
                place for place, p in enumerate(self._parameters) if p is not None and not p.requires_grad
            )
        step.note, self._note = self._note, ""
        self._measure(step, range(len(self._parameters)))
        self._file.add(step)
        return step

    def _look_at_parameters(self) -> None:
        """Find the parameters by their names, which the first step fixes; note the others."""
        found = {named.name: named for named in unique_parameters(self._model)}
        if self._file.is_fresh and self._file.newest is None:
            self._names = list(found)
            self._file.describe(
                Parameter(
                    named.name,
                    ()
                    if isinstance(named.parameter, UninitializedParameter)
                    else tuple(named.parameter.shape),
                    str(named.parameter.dtype).removeprefix("torch."),
                    named.parameter.requires_grad,
                    named.also,
                )
                for named in found.values()
            )
        parameters = [found[name].parameter if name in found else None for name in self._names]
        if [*map(id, parameters)] != [*map(id, self._parameters)]:
            self._parameters = parameters
            self._ours.clear()
        added = found.keys() - set(self._names) - self._uncounted
        self._uncounted |= added
        listed = ", ".join(sorted(added)[:3]) + (", …" if len(added) > 3 else "")
        if added:
            self._note = f"parameters that came after the first step are not recorded: {listed}"

    def _gradient(self, place: int) -> Tensor | None:
        parameter = self._parameters[place]
        return None if parameter is None else parameter.grad

    def _has_new_gradients(self) -> bool:
        """Was there a backward pass since the newest step was recorded?"""
        return self._mark is not None and self._mark.is_passed(self._gradient(self._mark.place))

    @torch.no_grad()
    def _measure(self, step: _Step, places: Sequence[int]) -> None:
        there = [(place, g) for place in places if (g := self._gradient(place)) is not None]
        places, gradients = [place for place, _ in there], [gradient for _, gradient in there]
        # The smallest, because it is held until the next step.
        strided = [pair for pair in there if pair[1].layout == torch.strided]
        place, smallest = min(strided, key=lambda pair: pair[1].numel(), default=(-1, None))
        self._mark = None if smallest is None else _Mark(place, smallest, smallest._version)
        figures: list[Figures | None] = []
        if step.table is not None or self._order != "2":
            figures = measure((gradient, self._parameters[place]) for place, gradient in there)
        if step.table is not None:
            step.table.update((place, each) for place, each in zip(places, figures) if each is not None)
            self._wide = {place for place, each in step.table.items() if not _is_plain(each.l2)}
        if figures:
            known = [each.norm(self._order) for each in figures if each is not None]
            norms = torch.tensor(known, dtype=torch.float64)
        else:
            norms = self._quick_norms(places, gradients)
        step.norms.append((places, norms))

    def _quick_norms(self, places: Sequence[int], gradients: Sequence[Tensor]) -> Tensor:
        norms = l2_norms(gradients)
        for number, (place, gradient) in enumerate(zip(places, gradients)):
            if place in self._wide and gradient.is_floating_point() and type(gradient) is Tensor:
                norms[number] = torch.linalg.vector_norm(gradient.detach().to_dense(), dtype=norms.dtype)
        return norms

    # ------------------------------------------------------------------- results

    def close(self, *, ended: bool = True) -> None:
        """
        Write what is left and stop watching.

        Args:
            ended: Training came to its end; the record says so.
        """
        _take_away(self._hooks)
        if self._file.is_fresh:
            self._look_at_parameters()
        self._file.close(self.steps if ended else None)
        _open_watches.discard(self)

    def report(self) -> GradientsReport:
        """
        What was recorded so far, as ``modelinspect grads`` shows it.

        Raises:
            UsageError: Nothing is recorded yet, or it is another process that records.
        """
        if not self._file.is_written:
            raise UsageError("only the first process writes the record and can report it")
        if not self.steps:
            raise UsageError("no step is recorded yet")
        return run_report(read_run(self.path, more=self._file.pending_lines()))


# ------------------------------------------------------------------------- file


class _File:
    """
    Steps on their way to a file; knows nothing of the model.

    Args:
        path: Where; opened at once, so that what stands in the way is said before training.
        is_written: False: another process writes; steps are dropped.
    """

    def __init__(
        self,
        path: str,
        target: str,
        every: int,
        order: NormOrder,
        thresholds: Thresholds,
        *,
        is_written: bool,
    ) -> None:
        self.is_written = is_written
        self.is_fresh = True
        """The first line is still open to change."""
        self.newest: _Step | None = None
        self._path = path
        self._about = (target, order, every, thresholds)
        self._order = order
        self._thresholds = thresholds
        self._parameters: list[Parameter] = []
        self._pending: list[_Step] = []
        self._written_at = time.monotonic()
        self._process = os.getpid()
        self._stream: TextIO | None = _opened(path) if is_written else None

    def describe(self, parameters: Any) -> None:
        """What the first line says of the parameters."""
        self._parameters = list(parameters)

    def add(self, step: _Step) -> None:
        """A step that is the newest from now on."""
        if self.newest is not None:
            self._pending.append(self.newest)
        self.newest = step

    def forget(self) -> int:
        """Drop what is not written yet; returns how many steps that are."""
        count = len(self._pending) + (self.newest is not None)
        self._pending, self.newest = [], None
        return count

    def write_if_due(self, *, hold: bool) -> None:
        """
        Write what was recorded, if there is a full table, or it is time.

        Args:
            hold: Nobody knows yet whether these steps count: wait, but not for ever.
        """
        steps = [*self._pending, self.newest]
        has_table = any(step is not None and step.table is not None for step in steps)
        waited = time.monotonic() - self._written_at > PATIENCE
        if len(steps) > MOST_PENDING or (not hold and (has_table or waited)):
            self.write()

    def write(self) -> None:
        """All that is recorded, as lines, whole."""
        self._written_at = time.monotonic()
        # A process that was forked off has the file, too, and must leave it alone.
        if self._stream is not None and os.getpid() == self._process:
            text = "".join(self.pending_lines())
            self.is_fresh = self.is_fresh and not text
            self._put(text)
        self._pending, self.newest = [], None

    def _put(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            # Training is worth more than its record.
            with suppress(OSError):
                self._stream.close()
            self._stream = None
            reason = f"{visible(self._path)} cannot be written: {error.strerror}; the record ends here"
            warnings.warn(reason, RuntimeWarning, stacklevel=2)

    def pending_lines(self) -> list[str]:
        """The lines that are to come; the first one of the file, too, where it isn't there yet."""
        steps = self._pending if self.newest is None else [*self._pending, self.newest]
        if not steps:
            return []
        first = [header_line(*self._about, self._parameters)] if self.is_fresh else []
        return first + [line for step in steps if not _is_skipped(step) for line in self._lines(step)]

    def _lines(self, step: _Step) -> list[str]:
        norms: list[float | None] = [None] * len(self._parameters)
        for places, found in step.norms:
            for place, norm in zip(places, found.tolist()):
                norms[place] = norm
        loss = None if step.loss is None else float(step.loss)
        lines = [note_line(step.number, step.note)] if step.note else []
        lines.append(step_line(step.number, loss, _together(norms, self._order), norms))
        if step.table is not None:
            table = [step.table.get(place) for place in range(len(self._parameters))]
            lines.append(table_line(step.number, table, step.frozen))
            rows = self._rows(table, step.frozen)
            lines += [finding_line(step.number, finding) for finding in row_findings(rows)]
        return lines

    def _rows(self, table: Sequence[Figures | None], frozen: Sequence[int]) -> list[GradientRow]:
        verdicts = [
            judge(figures, self._thresholds, trainable=place not in frozen)
            for place, figures in enumerate(table)
        ]
        return settled(
            [
                GradientRow(
                    parameter.name, parameter.shape, parameter.dtype, figures, verdict, parameter.also
                )
                for parameter, figures, verdict in zip(self._parameters, table, verdicts)
            ]
        )

    def close(self, steps: int | None) -> None:
        """
        Write what is left.

        Args:
            steps: How many there were, where training came to its end; None: it broke off.
        """
        self.write()
        if self._stream is None or os.getpid() != self._process:
            return
        end = "" if steps is None else end_line(steps)
        self._put((header_line(*self._about, self._parameters) if self.is_fresh else "") + end)
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _opened(path: str) -> TextIO:
    if os.path.isfile(path) and os.path.getsize(path) and not is_run_file(path):
        raise TargetError(
            f"{visible(path)} is there and is no record of a run, so it is not replaced",
            hint="name another file, or remove this one first",
        )
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise TargetError(f"{visible(path)} cannot be written: {error.strerror}") from error


def _is_first_process() -> bool:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    # What torchrun started knows its rank before the processes are connected.
    return os.environ.get("RANK", "0") == "0"


def _calling(here: weakref.ref[Watch], method: Callable[..., None]) -> Callable[[Any, Any, Any], None]:
    def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
        watching = here()
        if watching is not None:
            method(watching, optimizer, args, kwargs)

    return hook


def _let_go(file: _File, hooks: list[Any]) -> None:
    _take_away(hooks)
    file.close(None)


_open_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for each in list(_open_watches):
        each.close(ended=not hasattr(sys, "last_value"))


def _take_away(hooks: list[Any]) -> None:
    while hooks:
        hooks.pop().remove()


def _one_number(loss: Any) -> Any:
    """A float, or a tensor on a device that nobody waits for."""
    if not isinstance(loss, Tensor):
        return None if loss is None else float(loss)
    if loss.numel() != 1:
        raise UsageError(
            f"the loss is a tensor of {loss.numel()} numbers, and must be one", hint="for example loss.mean()"
        )
    return loss.item() if loss.device.type == "cpu" else loss.detach().clone()


def _is_skipped(step: _Step) -> bool:
    return step.skipped is not None and bool(step.skipped.item())


def _is_plain(norm: float) -> bool:
    return not norm or not isfinite(norm) or _SMALLEST < norm < _LARGEST


def _together(norms: Sequence[float | None], order: NormOrder) -> float | None:
    there = [norm for norm in norms if norm is not None]
    if not there:
        return None
    broken = [norm for norm in there if not isfinite(norm)]
    if broken:
        return next((norm for norm in broken if isnan(norm)), inf)
    if order == "1":
        return fsum(there)
    return hypot(*there) if order == "2" else max(there)
