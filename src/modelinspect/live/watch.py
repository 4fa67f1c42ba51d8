"""
Record gradients from inside a training loop: norms at every step, a full table now and then.

What is to be had without waiting is taken at each step, one small tensor on the device of
the model. It becomes lines of the file only at the full tables, at the end, and at least
once a second, so that a step costs little more than it did.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from math import inf, isnan, sqrt
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor, distributed, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim.optimizer import register_optimizer_step_pre_hook

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
    read_run,
    run_report,
    step_line,
    table_line,
)
from modelinspect.errors import TargetError, UsageError, visible
from modelinspect.live.norms import Named, l2_norms, measure, unique_parameters, unwrapped

__all__ = ["Watch", "watch"]

PATIENCE = 1.0
"""Seconds after which what was recorded is written, if no full table comes before."""


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

    As a context manager it records by itself: whenever an optimizer that holds parameters of
    the model is about to step, with the gradients that it is given; where several step in
    turn, the first one counts. :meth:`Watch.step` in the loop then adds the loss. Elsewhere,
    call it once a step, before or after ``optimizer.step()``, as long as the gradients are
    there; :meth:`Watch.close`, or the end of the process, writes what is left.

    Args:
        model: As it is trained, also inside DistributedDataParallel, compiled or sharded
            by ``fully_shard``; then every process watches, and the first one writes.
        path: File of the record, JSON Lines; replaced if it is there.
        every: Steps from one full table to the next.
        order: Of the norms: ``"2"``, or ``"1"`` or ``"inf"``, which take longer.
        thresholds: Where a gradient stops being ok.
        target: What the record says it is of; None: the model's class.

    Raises:
        TargetError: The file can't be written.
        UsageError: *every* is less than 1.

    Example:
        >>> with watch(model, "run.jsonl", every=100):  # doctest: +SKIP
        ...     train(model)
    """
    return Watch(model, os.fspath(path), every, order, thresholds or Thresholds(), target)


class _Recorded(NamedTuple):
    """A step that is not yet a line."""

    step: int
    norms: Tensor
    """Of the parameters that had a gradient, in float64."""
    there: Sequence[int]
    """Their places among all parameters."""
    loss: Any
    table: list[Figures | None] | None


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
        self._thresholds = thresholds
        self._target = target or type(unwrapped(model)).__name__
        self._named: list[Named] = []
        self._pending: list[_Recorded] = []
        self._written_at = time.monotonic()
        self._by_hook = False
        """The newest step was recorded by the hook, and no call of step() has met it yet."""
        self._by_hand = False
        """The caller records: the hook stays out of the way."""
        self._hook: Any = None
        self._writes = (
            not distributed.is_available()
            or not distributed.is_initialized()
            or (distributed.get_rank() == 0)
        )
        self._stream: TextIO | None = _opened(path) if self._writes else None
        self._leader: int | None = None
        """The optimizer whose steps count, where several step in turn."""
        self._followers: set[int] = set()
        """Others that have stepped since."""
        _open_watches.add(self)

    # ---------------------------------------------------------------- recording

    def __enter__(self) -> Watch:
        self._hook = register_optimizer_step_pre_hook(self._before_step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(ended=kind is None)

    def _before_step(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._by_hand or not self._is_ours(optimizer) or not self._leads(id(optimizer)):
            return
        if self._gradients()[0]:
            self._record(None)
            self._by_hook = True

    def _leads(self, optimizer: int) -> bool:
        """Is it the one whose steps count: the first, or one that goes on where that stopped?"""
        if self._leader not in (None, optimizer) and optimizer not in self._followers:
            self._followers.add(optimizer)
            return False
        self._leader = optimizer
        self._followers.clear()
        return True

    def _is_ours(self, optimizer: torch.optim.Optimizer) -> bool:
        mine = {id(named.parameter) for named in self._parameters()}
        return any(id(p) in mine for group in optimizer.param_groups for p in group["params"])

    def step(self, loss: Any = None) -> None:
        """
        Record the gradients that are there now.

        Inside a ``with`` whose hook has recorded this step already, only the loss is added.

        Args:
            loss: A number or a tensor of one; None: the record has no loss.
        """
        if isinstance(loss, Tensor):
            loss = loss.detach()
        if self._by_hook:
            self._by_hook = False
            if loss is not None:
                self.add_loss(loss)
            return
        self._by_hand = True
        self._record(loss)

    def add_loss(self, loss: Any) -> None:
        """
        Give the newest step its loss, where that is known only afterwards.

        Args:
            loss: A number or a tensor of one.
        """
        if self._pending:
            self._pending[-1] = self._pending[-1]._replace(loss=loss)

    def _parameters(self) -> list[Named]:
        """Those of the first step; a lazy model has its shapes only then."""
        if not self._named:
            self._named = unique_parameters(self._model)
        return self._named

    def _gradients(self) -> tuple[list[Tensor], list[int]]:
        gradients, places = [], []
        for place, named in enumerate(self._parameters()):
            gradient = named.parameter.grad
            if gradient is not None:
                gradients.append(gradient)
                places.append(place)
        return gradients, places

    def _record(self, loss: Any) -> None:
        gradients, places = self._gradients()
        # A step that the hook recorded waits for its loss until the next one comes.
        self._by_hook = False
        due = bool(self._pending) and (
            self._pending[-1].table is not None or time.monotonic() - self._written_at > PATIENCE
        )
        if due:
            self._write()
        self.steps += 1
        table = None
        if self.steps % self._every == 0 or self.steps == 1:
            table = measure((named.parameter.grad, named.parameter) for named in self._parameters())
        if self._order == "2":
            norms = l2_norms(gradients)
        else:
            found = table or measure((gradient, None) for gradient in gradients)
            norms = torch.tensor(
                [each.norm(self._order) for each in found if each is not None], dtype=torch.float64
            )
        self._pending.append(_Recorded(self.steps, norms, places, loss, table))

    # ------------------------------------------------------------------ writing

    def _write(self) -> None:
        """What is pending, as lines."""
        self._written_at = time.monotonic()
        pending, self._pending = self._pending, []
        if self._stream is None or not pending:
            return
        if pending[0].step == 1:
            self._stream.write(self._header())
        self._stream.writelines(line for recorded in pending for line in self._lines(recorded))
        self._stream.flush()

    def _header(self) -> str:
        parameters = [
            Parameter(
                named.name,
                () if isinstance(named.parameter, UninitializedParameter) else tuple(named.parameter.shape),
                str(named.parameter.dtype).removeprefix("torch."),
                named.parameter.requires_grad,
                named.also,
            )
            for named in self._parameters()
        ]
        return header_line(self._target, self._order, self._every, self._thresholds, parameters)

    def _lines(self, recorded: _Recorded) -> list[str]:
        norms: list[float | None] = [None] * len(self._named)
        for place, norm in zip(recorded.there, recorded.norms.tolist()):
            norms[place] = norm
        loss = None if recorded.loss is None else float(recorded.loss)
        lines = [step_line(recorded.step, loss, _together(norms, self._order), norms)]
        if recorded.table is not None:
            lines.append(table_line(recorded.step, recorded.table))
            rows = self._rows(recorded.table)
            lines += [finding_line(recorded.step, finding) for finding in row_findings(rows)]
        return lines

    def _rows(self, table: Sequence[Figures | None]) -> list[GradientRow]:
        return settled(
            [
                GradientRow(
                    named.name, tuple(named.parameter.shape), str(named.parameter.dtype), figures,
                    judge(figures, self._thresholds, trainable=named.parameter.requires_grad), named.also,
                )
                for named, figures in zip(self._parameters(), table)
            ]
        )  # fmt: skip

    def close(self, *, ended: bool = True) -> None:
        """
        Write what is left and stop watching.

        Args:
            ended: Training came to its end; the record says so.
        """
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._write()
        if self._stream is not None:
            if self.steps == 0:
                self._stream.write(self._header())
            if ended:
                self._stream.write(end_line(self.steps))
            self._stream.close()
            self._stream = None
        _open_watches.discard(self)

    def __del__(self) -> None:
        # Of a watch that nobody closed; at the end of the process things may be gone already.
        with suppress(Exception):
            self.close(ended=False)

    def report(self) -> GradientsReport:
        """What the record holds so far, as ``modelinspect grads`` shows it; of the first process."""
        self._write()
        return run_report(read_run(self.path))


def _together(norms: Sequence[float | None], order: NormOrder) -> float | None:
    there = [norm for norm in norms if norm is not None]
    if not there:
        return None
    if order == "1":
        return sum(there)
    if order == "inf":
        return next((norm for norm in there if isnan(norm)), max(there))
    largest = max(there)
    if not largest or largest == inf or any(map(isnan, there)):
        return sum(there)
    return largest * sqrt(sum((norm / largest) ** 2 for norm in there))


_open_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A loop that called step() and no close() has its last steps in the file all the same."""
    for each in list(_open_watches):
        each.close(ended=not hasattr(sys, "last_value"))


def _opened(path: str) -> TextIO:
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise TargetError(f"{visible(path)} cannot be written: {error.strerror}") from error
