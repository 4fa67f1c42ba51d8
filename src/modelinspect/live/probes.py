"""
Watch one forward and backward pass: where NaN first appears, what is dead, what never ran.

Modules get forward hooks, and the tensors that pass between them get tensor hooks,
which see the gradient that arrives. Unlike full backward hooks those stand no operation
in the way: models that change their activations in place run as they do without them.

What is not finite is a fault only where it has consequences. Masks hold -inf, and
scores do before their softmax: what a module takes in and does not pass on is forgiven.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from math import isfinite, isnan
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelinspect.analysis.gradients import Finding, FindingKind, GradientRow
from modelinspect.errors import visible
from modelinspect.live.norms import plain_name

__all__ = ["Probe", "tensors_in"]

_MOST = 5
"""Findings of one kind; the rest are counted."""
_DEEPEST = 8
"""Levels of lists and dictionaries in which a module's inputs and outputs are looked for."""
_NOT_FINITE = "NaN or infinity first appears"
_HIDDEN = (torch.jit.ScriptModule, nn.ParameterList, nn.ParameterDict)
"""Modules that run no hooks, so that whether they are used can't be seen."""


@dataclass(eq=False)
class _Call:
    """One run of a module."""

    path: str
    caller: str
    """The module in whose forward it runs."""
    number: int
    """Among the runs of this module, from 1; 0 of a checkpointed part that runs again."""
    bad_before: int
    """How many values that are not finite were noted before."""
    takes_zeros: bool = False
    puts_zeros: bool = False
    is_reached: bool = False
    """A gradient other than 0 arrived at what it put out."""
    passes: bool | None = None
    """A gradient other than 0 arrived at what it took in; None: none arrived at all."""


class _Bad(NamedTuple):
    """Values that are not finite, in what a module took in or put out."""

    call: _Call
    is_input: bool
    has_nan: bool
    argument: str = ""
    """Of the model's own input, where it has several."""


class _First:
    """The first gradient of some kind in a backward pass, and everything at which it arrived."""

    def __init__(self) -> None:
        self._gradient: Tensor | None = None
        self.taken_by: list[_Call] = []
        self.put_by: list[_Call] = []

    def note(self, call: _Call, gradient: Tensor, *, is_output: bool) -> None:
        """The hooks of one tensor are given one and the same gradient."""
        if self._gradient is None:
            self._gradient = gradient
        if gradient is self._gradient:
            (self.put_by if is_output else self.taken_by).append(call)


class Probe:
    """
    Knows, after a forward and a backward pass, what to say of them.

    Args:
        model: Its hooks are gone when the block of :meth:`attached` ends.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {plain_name(path): module for path, module in model.named_modules()}
        self._hidden = {path for path, module in self._modules.items() if isinstance(module, _HIDDEN)}
        self._follows: dict[str, bool] = {}
        """Modules that ran, and whether autograd followed what they put out."""
        self._calls: list[_Call] = []
        self._running: list[_Call] = []
        self._counts: dict[str, int] = {}
        self._bad: list[_Bad] = []
        self._forgiven: list[_Bad] = []
        """Those that went no further than the module around them."""
        self._bad_gradient, self._zero_gradient = _First(), _First()
        self._is_forward = False
        self._broken = ""

    @property
    def broke_in(self) -> str:
        """The innermost module that an exception left, e.g. ``layers.2.fc (Linear)``; empty without one."""
        return self._called(self._broken) if self._broken else ""

    @contextmanager
    def attached(self) -> Iterator[Probe]:
        """Hooks are there inside, and what is compiled runs as it was written."""
        handles: list[Any] = []
        try:
            for path, module in self._modules.items():
                if path not in self._hidden:
                    enter, leave = partial(self._enter, path), partial(self._leave, path)
                    handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                    # Always: a model may catch what one of its modules raises.
                    handles.append(module.register_forward_hook(leave, always_call=True))
            with _uncompiled():
                yield self
        finally:
            for handle in handles:
                handle.remove()

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
        caller = self._running[-1].path if self._running else ""
        number = self._counts[path] = self._counts.get(path, 0) + self._is_forward
        call = _Call(path, caller, number if self._is_forward else 0, len(self._bad))
        self._calls.append(call)
        self._running.append(call)
        tensors = list(tensors_in((args, kwargs)))
        self._await_gradients(call, tensors, is_output=False)
        values = [look for look in map(_look, tensors) if look is not None and not look.is_mask]
        call.takes_zeros = _are_zero(values)
        if self._is_forward and not _are_finite(values):
            argument = "" if path else _first_bad_argument(args, kwargs)
            self._bad.append(_Bad(call, True, any(look.has_nan for look in values), argument))

    def _leave(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        call = self._ended(path)
        self._broken = (self._broken or path) if sys.exc_info()[1] is not None else ""
        if call is None:
            return
        tensors = list(tensors_in(output))
        self._await_gradients(call, tensors, is_output=True)
        values = [look for look in map(_look, tensors) if look is not None]
        call.puts_zeros = _are_zero(values)
        if self._is_forward and not _are_finite(values):
            self._bad.append(_Bad(call, False, any(look.has_nan for look in values)))
        elif self._is_forward and values:
            self._forgiven += self._bad[call.bad_before :]
            del self._bad[call.bad_before :]
        follows = any(tensor.requires_grad for tensor in tensors)
        self._follows[path] = follows or self._follows.get(path, False)

    def _ended(self, path: str) -> _Call | None:
        """The call that ends; None of one that another hook broke off before it began."""
        if self._running and self._running[-1].path == path:
            return self._running.pop()
        return None

    def _await_gradients(self, call: _Call, tensors: Iterable[Tensor], *, is_output: bool) -> None:
        for tensor in tensors:
            # A leaf is a parameter or the input: its gradient is the table's.
            if tensor.requires_grad and not tensor.is_leaf and not _is_transformed(tensor):
                with suppress(RuntimeError):
                    tensor.register_hook(partial(self._arrived, call, is_output))

    def _arrived(self, call: _Call, is_output: bool, gradient: Tensor | None) -> None:
        if gradient is None:  # of a Function that has no gradient to give
            return
        look = _look(gradient)
        if look is None:
            return
        if not look.is_finite:
            self._bad_gradient.note(call, gradient, is_output=is_output)
        elif look.is_zero:
            self._zero_gradient.note(call, gradient, is_output=is_output)
        if is_output:
            call.is_reached |= not look.is_zero
        else:
            call.passes = bool(call.passes) or not look.is_zero

    # ---------------------------------------------------------------- findings

    def findings(self, rows: Sequence[GradientRow], loss: float | None) -> tuple[Finding, ...]:
        """
        What was seen.

        Args:
            rows: Of the gradients that came out.
            loss: Its value.
        """
        forward: list[Finding] = []
        if (loss is not None and not isfinite(loss)) or any(row.verdict in ("nan", "inf") for row in rows):
            forward = [*self._broken_weights(rows), *self._not_finite_forward(rows, loss)]
        return (
            *forward,
            *self._not_finite_backward(rows, is_expected=bool(forward)),
            *_capped(self._unreached(rows)),
            *_capped(self._dead(rows)),
        )

    def _broken_weights(self, rows: Sequence[GradientRow]) -> Iterator[Finding]:
        broken = [row.name for row in rows if _weight_is_broken(row)]
        if broken:
            names = ", ".join(map(visible, broken[:_MOST]))
            more = f" and {len(broken) - _MOST} more" if len(broken) > _MOST else ""
            text = f"NaN or infinity in the weights themselves: {names}{more}"
            yield Finding("nan-weight", text, _owner(broken[0]))

    def _not_finite_forward(self, rows: Sequence[GradientRow], loss: float | None) -> Iterator[Finding]:
        # A NaN that went no further may have reached the loss on some other way.
        bad = self._bad or [each for each in self._forgiven if each.has_nan]
        if not bad:
            if loss is not None and not isfinite(loss):
                yield Finding("nan-forward", f"forward: {_NOT_FINITE} in the loss ({loss})")
            return
        call, is_input, _, argument = bad[0]
        if not is_input:
            where = f"in what {self._run(call)} puts out"
            if any(_weight_is_broken(row) and _owner(row.name) == call.path for row in rows):
                where += ", as its weights hold some"
            yield Finding("nan-forward", f"forward: {_NOT_FINITE} {where}", call.path)
        elif call.path == "":
            yield Finding("nan-input", f"forward: the input holds NaN or infinity{argument}", "")
        else:
            where = f"in the forward() of {self._called(call.caller)}, before it calls {self._run(call)}"
            yield Finding("nan-forward", f"forward: {_NOT_FINITE} {where}", call.caller)

    def _not_finite_backward(self, rows: Sequence[GradientRow], *, is_expected: bool) -> Iterator[Finding]:
        sick = [row for row in rows if row.verdict in ("nan", "inf")]
        if not sick:
            return
        place = self._place(self._bad_gradient)
        if place is None:
            # Every gradient between modules is finite, so it is made where the parameter is used.
            path = _owner(sick[-1].name)
            place = f"in {self._called(path)}, at {visible(sick[-1].name)}", path
        text, path = place
        after = "; to be expected after the forward pass" if is_expected else ""
        yield Finding("nan-backward", f"backward: {_NOT_FINITE} {text}{after}", path)

    def _place(self, first: _First) -> tuple[str, str] | None:
        """Where a gradient is made, and the module there."""
        takers = {call.path: call for call in first.taken_by}
        inner = [
            call for path, call in takers.items() if not any(_is_inside(other, path) for other in takers)
        ]
        if len(inner) == 1:
            return f"in {self._run(inner[0])}", inner[0].path
        if inner:
            names = " or ".join(self._run(call) for call in inner[:_MOST])
            return f"in {names}, which take in the same values", inner[0].caller
        if not first.put_by:
            return None
        # Nothing that has hooks took the tensor in: the code around it did.
        outer = min(first.put_by, key=lambda call: _depth(call.path))
        if outer.path == "":
            return "in the loss", ""
        code = f"in the forward() of {self._called(outer.caller)}"
        return f"{code}, in what it does with the output of {self._run(outer)}", outer.caller

    # --------------------------------------------------------------- unreached

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
            owner = _owner(path)
            text = (
                f"no gradient for {visible(path)}: the loss does not depend on it, though it does on the rest"
            )
            return Finding("unused", f"{text} of {self._called(owner)}", owner)
        parameters = "1 parameter" if count == 1 else f"{count} parameters"
        whole = f"no gradient for {self._called(path)} ({parameters})"
        if path in self._hidden:
            return Finding("unused", f"{whole}: the loss does not depend on it", path)
        follows = [follows for name, follows in self._follows.items() if _is_within(name, path)]
        if not follows:
            return Finding("unused", f"{whole}: it never ran in the forward pass", path)
        why = (
            "what it puts out is detached, or not used for the loss"
            if any(follows)
            else "it ran without autograd (torch.no_grad), or what it puts out needs no gradient"
        )
        return Finding("detached", f"{whole}: {why}", path)

    # -------------------------------------------------------------------- dead

    def _dead(self, rows: Sequence[GradientRow]) -> Iterator[Finding]:
        """Why gradients are zero: each module that passes nothing back of what reaches it."""
        if not any(row.verdict == "zero" for row in rows):
            return
        if any(call.takes_zeros and call.path == "" for call in self._calls):
            yield Finding("dead", "the input holds zeros only", "")
        zeros = {_owner(row.name): row.name for row in rows if _weight_is_zero(row)}
        place = self._place(self._zero_gradient)
        is_of_loss = any(call.path == "" for call in self._zero_gradient.put_by)
        if is_of_loss and not any(call.path == "" and call.is_reached for call in self._calls):
            text = "the gradient of the loss is zero where the model's output goes into it"
            yield Finding("dead", text, "")
            return
        found = [self._barrier(call, zeros) for call in self._barriers()]
        if place is not None and not self._zero_gradient.taken_by and not is_of_loss:
            found.append(self._dead_between(place, zeros))
        elif not found:
            found += self._starved(rows)
        yield from dict.fromkeys(found)

    def _barriers(self) -> list[_Call]:
        """The innermost runs of modules that let no gradient through."""
        shut = [call for call in self._calls if call.is_reached and call.passes is False]
        paths = {call.path for call in shut}
        after = (
            {call.caller for call in self._zero_gradient.put_by} if not self._zero_gradient.taken_by else ()
        )
        return [
            call
            for call in shut
            if call.path not in after and not any(_is_inside(path, call.path) for path in paths)
        ]

    def _barrier(self, call: _Call, zeros: Mapping[str, str]) -> Finding:
        name = self._run(call)
        if call.path in zeros:
            text = f"{name} has a weight of zeros: nothing passes back through it"
            return Finding("zero-weight", text, call.path)
        if call.puts_zeros:
            both = "takes in and puts out" if call.takes_zeros else "puts out"
            text = f"{name} {both} zeros only: nothing passes back through it"
        else:
            text = f"nothing passes back through {name}: it is saturated, or flat as rounding is"
        return Finding("dead", text, call.path)

    def _dead_between(self, place: tuple[str, str], zeros: Mapping[str, str]) -> Finding:
        """Between modules: an activation that is a function, a factor that is a parameter."""
        where, path = place
        kind: FindingKind = "zero-weight" if path in zeros else "dead"
        why = f"{visible(zeros[path])} is zero" if path in zeros else "what stands there is dead or saturated"
        return Finding(kind, f"gradients become zero {where}: {why}", path)

    def _starved(self, rows: Sequence[GradientRow]) -> Iterator[Finding]:
        """Gradients pass, and weights get none as they are multiplied with zeros."""
        owners = {_owner(row.name) for row in rows if row.verdict == "zero"}
        for call in self._calls:
            if call.takes_zeros and call.path in owners:
                text = f"{self._run(call)} takes in zeros only, so that its weight gets no gradient"
                yield Finding("dead", text, call.path)
                return

    # ------------------------------------------------------------------- names

    def _called(self, path: str, run: str = "") -> str:
        """``layers.3 (ReLU)``; the model itself goes by its class."""
        kind = visible(type(self._modules[path]).__name__) if path in self._modules else ""
        said = ", ".join(filter(None, (kind, run)))
        name = visible(path) if path else "the model"
        return f"{name} ({said})" if said else name

    def _run(self, call: _Call) -> str:
        """The name of a module, and which of its runs it is where there are several."""
        count = self._counts[call.path]
        is_one_of_several = call.number and count > 1
        return self._called(call.path, f"call {call.number} of {count}" if is_one_of_several else "")


def tensors_in(thing: Any, depth: int = _DEEPEST) -> Iterator[Tensor]:
    """Floating-point and complex tensors in tuples, lists, dictionaries and data classes."""
    if isinstance(thing, Tensor):
        if thing.is_floating_point() or thing.is_complex():
            yield thing
    elif depth == 0:
        return
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from tensors_in(value, depth - 1)
    elif isinstance(thing, (tuple, list)):
        for value in thing:
            yield from tensors_in(value, depth - 1)
    elif hasattr(thing, "__dataclass_fields__"):
        fields = [getattr(thing, name, None) for name in thing.__dataclass_fields__]
        yield from tensors_in(fields, depth - 1)


class _Look(NamedTuple):
    """What the least and the greatest value of a tensor tell."""

    least: float
    most: float
    needs_gradient: bool

    @property
    def has_nan(self) -> bool:
        return isnan(self.least) or isnan(self.most)

    @property
    def is_finite(self) -> bool:
        return isfinite(self.least) and isfinite(self.most)

    @property
    def is_zero(self) -> bool:
        return self.least == self.most == 0

    @property
    def is_mask(self) -> bool:
        """As it is added to the scores of an attention: 0 here, -inf there."""
        return not self.needs_gradient and self.most == 0 and self.least == float("-inf")


def _look(tensor: Tensor) -> _Look | None:
    """None where there are no values, or none that can be looked at."""
    values: Any = tensor.detach()
    if _is_transformed(values) or values.is_nested or values.is_meta:
        return None
    if values.layout != torch.strided:
        values = values.coalesce().values() if values.layout == torch.sparse_coo else values.values()
    if type(values).__name__ == "DTensor":
        values = values.to_local()
    if values.numel() == 0:
        return None
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if values.element_size() == 1:
        values = values.float()
    least, most = (float(end) for end in torch.aminmax(values))
    return _Look(least, most, tensor.requires_grad)


def _uncompiled() -> AbstractContextManager[None]:
    """Hooks are not for compilers. Loading one takes seconds: without it, nothing is compiled."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None or "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[None] = set_stance("force_eager")
    return stance


def _is_transformed(tensor: Tensor) -> bool:
    """Inside of vmap, grad and the like of torch.func, where values can't be looked at."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _are_finite(values: Sequence[_Look]) -> bool:
    return all(look.is_finite for look in values)


def _are_zero(values: Sequence[_Look]) -> bool:
    return bool(values) and all(look.is_zero for look in values)


def _first_bad_argument(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    named = [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    named += [(visible(name), value) for name, value in kwargs.items()]
    for name, value in named if len(named) > 1 else ():
        looks = [look for look in map(_look, tensors_in(value)) if look is not None and not look.is_mask]
        if not _are_finite(looks):
            return f", in {name}"
    return ""


def _capped(findings: Iterable[Finding]) -> list[Finding]:
    """A few, and how many more there are."""
    found = list(findings)
    if len(found) <= _MOST:
        return found
    rest = found[_MOST:]
    return [*found[:_MOST], Finding(rest[0].kind, f"and {len(rest)} more like these", rest[0].module)]


def _weight_is_broken(row: GradientRow) -> bool:
    return row.figures is not None and row.figures.weight is not None and not isfinite(row.figures.weight)


def _weight_is_zero(row: GradientRow) -> bool:
    return row.figures is not None and row.figures.weight == 0 and "bias" not in row.name


def _owner(name: str) -> str:
    """The module that holds a parameter."""
    return name.rpartition(".")[0]


def _depth(path: str) -> int:
    return path.count(".") + bool(path)


def _is_within(path: str, outer: str) -> bool:
    return outer in ("", path) or path.startswith(f"{outer}.")


def _is_inside(path: str, outer: str) -> bool:
    return path != outer and _is_within(path, outer)


def _outermost(name: str, reached: set[str]) -> str:
    """The outermost module around a parameter in which no other has a gradient."""
    parts = name.split(".")
    for length in range(len(parts)):
        path = ".".join(parts[:length])
        if not any(_is_within(other, path) for other in reached):
            return path
    return name
