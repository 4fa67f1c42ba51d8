"""
Watch one forward and backward pass: where NaN first appears, what is dead, what never ran.

Modules get forward hooks, and the tensors that pass between them get tensor hooks,
which see the gradient that arrives. Unlike full backward hooks those stand no operation
in the way: models that change their activations in place run as they do without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelinspect.analysis.gradients import Finding, GradientRow
from modelinspect.errors import visible

__all__ = ["Probe", "tensors_in"]

_MOST_DEAD = 5
_DEEPEST = 8
"""Levels of lists and dictionaries in which a module's inputs and outputs are looked for."""


class _Seen(NamedTuple):
    """What a look at some values tells."""

    is_finite: bool
    is_zero: bool


class _Arrival(NamedTuple):
    """A gradient that arrived at a tensor which a module took in or put out."""

    path: str
    is_output: bool
    gradient: int
    """Identity of the gradient: the hooks of one tensor are given the same one."""


class Probe:
    """
    Knows, after a forward and a backward pass, what to say of them.

    Args:
        model: Its hooks are gone when the block of :meth:`attached` ends.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self.ran: dict[str, bool] = {}
        """Modules that ran, and whether autograd followed what they put out."""
        self._output_is_zero: dict[str, bool] = {}
        self._input_is_zero: dict[str, bool] = {}
        self._bad_forward: tuple[str, bool] | None = None
        """First module at which a value is not finite; True: already in what it takes in."""
        self._bad_backward: list[_Arrival] = []
        """All at the first tensor whose gradient is not finite."""
        self._bad_gradient: Tensor | None = None
        self._is_forward = False
        self._handles: list[Any] = []

    @contextmanager
    def attached(self) -> Iterator[Probe]:
        """Hooks are there inside."""
        try:
            for path, module in self._modules.items():
                # What torch.jit made takes no hooks with keywords.
                with suppress(RuntimeError, NotImplementedError):
                    self._handles.append(
                        module.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True)
                    )
                    self._handles.append(module.register_forward_hook(partial(self._leave, path)))
            yield self
        finally:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The forward pass is inside; what runs later is a checkpointed part that runs again."""
        self._is_forward = True
        try:
            yield
        finally:
            self._is_forward = False

    # ------------------------------------------------------------------- hooks

    def _enter(self, path: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = list(tensors_in((args, kwargs)))
        self._await_gradients(path, tensors, is_output=False)
        if self._is_forward:
            seen = _look(tensors)
            if not seen.is_finite and self._bad_forward is None:
                self._bad_forward = path, True
            self._input_is_zero[path] = seen.is_zero and self._input_is_zero.get(path, True)

    def _leave(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        tensors = list(tensors_in(output))
        self._await_gradients(path, tensors, is_output=True)
        if self._is_forward:
            seen = _look(tensors)
            if not seen.is_finite and self._bad_forward is None:
                self._bad_forward = path, False
            self._output_is_zero[path] = seen.is_zero and self._output_is_zero.get(path, True)
            follows = any(tensor.requires_grad for tensor in tensors)
            self.ran[path] = follows or self.ran.get(path, False)

    def _await_gradients(self, path: str, tensors: Iterable[Tensor], *, is_output: bool) -> None:
        for tensor in tensors:
            # A leaf is a parameter or the input: its gradient is the table's.
            if tensor.requires_grad and not tensor.is_leaf:
                with suppress(RuntimeError):
                    tensor.register_hook(partial(self._arrived, path, is_output))

    def _arrived(self, path: str, is_output: bool, gradient: Tensor) -> None:
        if self._bad_gradient is None:
            if _look([gradient]).is_finite:
                return
            self._bad_gradient = gradient
        if gradient is self._bad_gradient:
            self._bad_backward.append(_Arrival(path, is_output, id(gradient)))

    # ---------------------------------------------------------------- findings

    def findings(self, rows: Sequence[GradientRow], loss: float | None) -> tuple[Finding, ...]:
        """
        What was seen.

        Args:
            rows: Of the gradients that came out.
            loss: Its value.
        """
        return (
            *self._not_finite_forward(rows, loss),
            *self._not_finite_backward(rows),
            *self._unreached(rows),
            *self._dead(rows),
        )

    def _not_finite_forward(self, rows: Sequence[GradientRow], loss: float | None) -> Iterator[Finding]:
        broken = [row.name for row in rows if _weight_is_broken(row)]
        if broken:
            names = ", ".join(map(visible, broken[:_MOST_DEAD]))
            yield Finding("nan-weight", f"NaN or infinity in the weights themselves: {names}")
        if self._bad_forward is None:
            if loss is not None and not isfinite(loss):
                yield Finding("nan-forward", f"forward: NaN or infinity first appears in the loss ({loss})")
            return
        path, is_input = self._bad_forward
        if not is_input:
            where = f"in what {self._called(path)} puts out"
            yield Finding("nan-forward", f"forward: NaN or infinity first appears {where}", path)
        elif path == "":
            yield Finding("nan-input", "forward: the input holds NaN or infinity", path)
        else:
            parent = path.rpartition(".")[0]
            where = f"in the forward() of {self._called(parent)}, before it calls {self._called(path)}"
            yield Finding("nan-forward", f"forward: NaN or infinity first appears {where}", parent)

    def _not_finite_backward(self, rows: Sequence[GradientRow]) -> Iterator[Finding]:
        sick = [row for row in rows if row.verdict in ("nan", "inf")]
        if self._bad_backward:
            consumers = [arrival.path for arrival in self._bad_backward if not arrival.is_output]
            if consumers:
                path = max(consumers, key=_depth)
                text = f"in the backward of {self._called(path)}"
            else:
                # Nothing that has hooks took the tensor in: the code around it did.
                outermost = min((arrival.path for arrival in self._bad_backward), key=_depth)
                path = outermost.rpartition(".")[0]
                if outermost == "":
                    text = "in the loss"
                else:
                    text = f"in {self._called(path)}, behind {self._called(outermost)}"
        elif sick:
            # Every gradient between modules is finite, so it is made where the parameter is used.
            path = sick[-1].name.rpartition(".")[0]
            text = f"in the backward of {self._called(path)}, at {visible(sick[-1].name)}"
        else:
            return
        yield Finding("nan-backward", f"backward: NaN or infinity first appears {text}", path)

    def _unreached(self, rows: Sequence[GradientRow]) -> Iterator[Finding]:
        unreached = [row for row in rows if row.verdict == "none"]
        reached = {row.name for row in rows if row.verdict not in ("none", "frozen")}
        groups: dict[str, int] = {}
        for row in unreached:
            path = _outermost(row.name, reached)
            groups[path] = groups.get(path, 0) + 1
        for path, count in groups.items():
            yield self._why_unreached(path, count)

    def _why_unreached(self, path: str, count: int) -> Finding:
        if path not in self._modules:
            owner = self._called(path.rpartition(".")[0])
            text = f"no gradient for {visible(path)}: the loss does not depend on it, though {owner} is used"
            return Finding("unused", text, path.rpartition(".")[0])
        parameters = "1 parameter" if count == 1 else f"{count} parameters"
        whole = f"{self._called(path)} ({parameters})"
        ran = [follows for name, follows in self.ran.items() if _is_within(name, path)]
        if not ran:
            return Finding("unused", f"no gradient for {whole}: it never ran in the forward pass", path)
        why = (
            "what it puts out is detached, or not used for the loss"
            if any(ran)
            else "it ran without autograd (torch.no_grad), or what it puts out needs no gradient"
        )
        return Finding("detached", f"no gradient for {whole}: {why}", path)

    def _dead(self, rows: Sequence[GradientRow]) -> Iterator[Finding]:
        if not any(row.verdict == "zero" for row in rows):
            return
        zero_weights = {row.name.rpartition(".")[0] for row in rows if _weight_is_zero(row)}
        found = []
        for path, is_zero in self._output_is_zero.items():
            if not is_zero or self._input_is_zero.get(path) or next(self._modules[path].children(), None):
                continue
            if path in zero_weights:
                text = f"{self._called(path)} has a weight of zeros: nothing passes back through it"
                found.append(Finding("zero-weight", text, path))
            else:
                text = f"{self._called(path)} puts out zeros only: nothing passes back through it"
                found.append(Finding("dead", text, path))
        yield from found[:_MOST_DEAD] or self._dead_between(rows)
        if len(found) > _MOST_DEAD:
            yield Finding("dead", f"and {len(found) - _MOST_DEAD} more modules like these")

    def _dead_between(self, rows: Sequence[GradientRow]) -> Iterator[Finding]:
        """An activation that is a function, not a module: what follows it takes in zeros only."""
        owners = {row.name.rpartition(".")[0] for row in rows if row.verdict == "zero"}
        for path, is_zero in self._input_is_zero.items():
            if is_zero and path in owners:
                parent = path.rpartition(".")[0]
                text = (
                    f"{self._called(path)} takes in zeros only: what comes before it "
                    f"in the forward() of {self._called(parent)} is dead"
                )
                yield Finding("dead", text, path)
                return

    def _called(self, path: str) -> str:
        """``layers.3 (ReLU)``; the model itself goes by its class."""
        module = self._modules.get(path)
        kind = "" if module is None else visible(type(module).__name__)
        if not path:
            return f"the model ({kind})" if kind else "the model"
        return f"{visible(path)} ({kind})" if kind else visible(path)


def tensors_in(thing: Any, depth: int = _DEEPEST) -> Iterator[Tensor]:
    """Floating-point and complex tensors in tuples, lists, dictionaries and data classes."""
    if isinstance(thing, Tensor):
        if thing.is_floating_point() or thing.is_complex():
            yield thing
    elif depth == 0:
        return
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors_in(value, depth - 1)
    elif isinstance(thing, (tuple, list)):
        for value in thing:
            yield from tensors_in(value, depth - 1)
    elif hasattr(thing, "__dataclass_fields__"):
        yield from tensors_in(list(vars(thing).values()), depth - 1)


def _look(tensors: Sequence[Tensor]) -> _Seen:
    """Are all values finite, are all of them zero? No tensor is neither broken nor zero."""
    finite, zero, any_values = True, True, False
    for tensor in tensors:
        values: Any = tensor.detach()
        if values.layout != torch.strided:
            values = values.coalesce().values() if values.layout == torch.sparse_coo else values.values()
        if type(values).__name__ == "DTensor":
            values = values.to_local()
        if values.is_nested or values.numel() == 0 or values.is_meta:
            continue
        if values.is_complex():
            values = torch.view_as_real(values.resolve_conj())
        if values.element_size() == 1:
            values = values.float()
        least, most = (float(end) for end in torch.aminmax(values))
        any_values = True
        finite = finite and isfinite(least) and isfinite(most)
        zero = zero and least == most == 0
    return _Seen(finite, zero and any_values)


def _weight_is_broken(row: GradientRow) -> bool:
    return row.figures is not None and row.figures.weight is not None and not isfinite(row.figures.weight)


def _weight_is_zero(row: GradientRow) -> bool:
    return row.figures is not None and row.figures.weight == 0 and "bias" not in row.name


def _depth(path: str) -> int:
    return path.count(".") + bool(path)


def _is_within(path: str, outer: str) -> bool:
    return outer in ("", path) or path.startswith(f"{outer}.")


def _outermost(name: str, reached: set[str]) -> str:
    """The outermost module around a parameter in which no other has a gradient."""
    parts = name.split(".")
    for length in range(len(parts)):
        path = ".".join(parts[:length])
        if not any(_is_within(other, path) for other in reached):
            return path
    return name
