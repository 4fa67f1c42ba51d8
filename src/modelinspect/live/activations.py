"""
What passes between the operations of a model, each tensor as a few numbers.

A :class:`Print` does not change when elements are permuted, repeated or reshaped, so that
the same activation is found again in another implementation, whatever its layout and
whatever the modules around it are called. Operations are watched below autograd, where
all implementations are written in the same few hundred of them.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TENSOR", "Call", "Event", "Print", "Prints", "Tape", "place_pattern", "print_of", "record"]

_SAME_VALUES = frozenset(
    [
        "view",
        "_unsafe_view",
        "_reshape_alias",
        "reshape",
        "transpose",
        "permute",
        "t",
        "unsqueeze",
        "squeeze",
        "expand",
        "clone",
        "contiguous",
        "_to_copy",
        "detach",
        "alias",
        "lift_fresh",
        "as_strided",
        "copy_",
        "_conj",
        "view_as_real",
        "view_as_complex",
    ]
)
"""Operations whose result holds the same numbers: not worth a look."""
_LISTS = frozenset(
    ["split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unbind", "chunk"]
)
_VAGUE = frozenset(["_softmax", "_safe_softmax", "one_hot", "ge", "gt", "le", "lt", "eq", "ne"])
"""Operations whose results are much alike, whatever went in."""
_FEWEST = 4
"""Elements: fewer are found again by chance."""
_LARGEST = 9_999


class Print(NamedTuple):
    """A tensor as numbers that the order of its elements does not change."""

    rms: float
    mean: float
    top: float
    low: float

    def agrees(self, other: Print, tolerance: float) -> bool:
        """All numbers equal but for a share of the root mean square."""
        slack = tolerance * self.rms
        return all(abs(one - two) <= slack for one, two in zip(self, other))


def print_of(tensor: Tensor, *, link: bool = False) -> Print | None:
    """
    None for what has nothing to recognise: integers, constants, infinities, a few elements.

    Args:
        tensor: Of any type.
        link: To find it again in the same run: constants and masked values do for that.
    """
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point() or tensor.numel() < _FEWEST or tensor.layout is not torch.strided:
        return None
    flat = tensor.detach().double().reshape(-1)
    if link:
        flat = torch.nan_to_num(flat, 0.0, 0.0, 0.0)
    rms = (flat.dot(flat).item() / len(flat)) ** 0.5
    if not isfinite(rms) or rms == 0:
        return None
    low, top = flat.min().item(), flat.max().item()
    # What stands for minus infinity in a mask hides all other values.
    if not link and (top - low <= 1e-9 * rms or max(top, -low) > _LARGEST):
        return None
    return Print(rms, flat.mean().item(), top, low)


class Prints:
    """
    Prints that were seen, to look others up in.

    Args:
        prints: In any order.
        tolerance: As a share of the root mean square.
    """

    def __init__(self, prints: Iterable[Print | None], tolerance: float) -> None:
        self._tolerance = tolerance
        self._sorted = sorted({each for each in prints if each is not None})

    def __contains__(self, wanted: object) -> bool:
        return isinstance(wanted, Print) and self.find(wanted) is not None

    def find(self, wanted: Print) -> Print | None:
        """The first print that agrees."""
        slack = self._tolerance * wanted.rms
        at = bisect_left(self._sorted, (wanted.rms - slack,))
        while at < len(self._sorted) and self._sorted[at].rms <= wanted.rms + slack:
            if wanted.agrees(self._sorted[at], self._tolerance):
                return self._sorted[at]
            at += 1
        return None


class _Tensor:
    def __repr__(self) -> str:
        return "tensor"


TENSOR = _Tensor()
"""What stands for a tensor among arguments."""


class Call(NamedTuple):
    """An operation with what it is given beside tensors."""

    function: Any
    arguments: tuple[Any, ...]
    """:data:`TENSOR` stands for a tensor."""
    keywords: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """``native_layer_norm``."""
        return str(self.function.name()).rpartition("::")[2].partition(".")[0]

    @property
    def kind(self) -> str:
        """The same for an operation in place."""
        return self.name.rstrip("_")

    def settings(self) -> dict[str, Any]:
        """Its arguments by name, tensors left out."""
        known = self.function._schema.arguments
        given = {each.name: each.default_value for each in known if each.has_default_value()}
        given |= dict(zip((each.name for each in known), self.arguments)) | dict(self.keywords)
        return {name: value for name, value in given.items() if not _has_tensor(value)}


class Event(NamedTuple):
    """One operation that ran."""

    call: Call
    place: str
    """Path of the module in whose forward it ran; empty for the outermost."""
    print: Print | None
    """Of what it put out."""
    link: Print | None = None
    """The same where it need only be found again in the same run."""
    inputs: tuple[Print | None, ...] = ()
    """Of the tensors that it was given, where these were asked for."""
    parameters: tuple[str, ...] = ()
    """Names of parameters and buffers among them."""


class Tape(NamedTuple):
    """What was noted of one run."""

    prints: list[Print | None]
    """Of what each operation put out."""
    events: list[Event]
    """The operations themselves; only of a run whose inputs were looked at."""
    modules: dict[str, tuple[Print | None, Print | None]]
    """Path to the prints of the first tensor in and the first one out, of its first call, in
    the order in which they ended."""
    outputs: Any
    """None where the run was stopped."""


class _Enough(BaseException):
    """Ends a run: no handler of the model's may take it for an error of its own."""


Rewrites = Mapping[tuple[Call, str], Call]
"""Calls that are to be made in the place of others: everywhere, or in modules of one pattern."""


def place_pattern(place: str) -> str:
    """``blocks.*.norm`` for ``blocks.3.norm``."""
    return re.sub(r"\d+", "*", place)


def record(
    run: Callable[[], Any],
    module: nn.Module,
    *,
    limit: int | None = None,
    inputs: bool = False,
    rewrites: Rewrites | None = None,
) -> Tape:
    """
    Run a model and note what passes.

    Args:
        run: Calls the module.
        module: Whose modules give places their names.
        limit: Stop after so many events.
        inputs: Look at what operations are given, too: about three times the work.
        rewrites: Operations to make in the place of others.
    """
    recorder = _Recorder(module if inputs else None, limit, inputs, rewrites or {})
    outputs = None
    with recorder.following(module) if inputs or rewrites else nullcontext(), _decomposed():
        try:
            with torch.no_grad(), recorder:
                outputs = run()
        except _Enough:
            pass
    return Tape(recorder.prints, recorder.events, recorder.modules, outputs)


@contextmanager
def _decomposed() -> Iterator[None]:
    """Fused fast paths hide what happens inside; what is compiled runs as it was written."""
    stance = getattr(torch.compiler, "set_stance", None)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if stance is not None and "torch._dynamo" in sys.modules:
            with stance("force_eager"):
                yield
        else:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Recorder(TorchDispatchMode):
    def __init__(self, module: nn.Module | None, limit: int | None, inputs: bool, rewrites: Rewrites) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.prints: list[Print | None] = []
        self.modules: dict[str, tuple[Print | None, Print | None]] = {}
        self._limit, self._inputs, self._rewrites = limit, inputs, rewrites
        self._places: list[str] = []
        self._names = {} if module is None else _storages(module)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its compiler, which takes seconds, to keep it from looking in here."""
        return False

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """Know in which module an operation runs."""
        handles: list[Any] = []
        for path, part in module.named_modules():
            if not isinstance(part, (torch.jit.ScriptModule, nn.ParameterList, nn.ParameterDict)):
                handles.append(part.register_forward_pre_hook(self._enter(path)))
                # Always: the run may be ended inside.
                handles.append(part.register_forward_hook(self._leave(path), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str) -> Callable[..., None]:
        def enter(_module: nn.Module, _args: Any) -> None:
            self._places.append(path)

        return enter

    def _leave(self, path: str) -> Callable[..., None]:
        def leave(_module: nn.Module, args: Any, outputs: Any) -> None:
            self._places.pop()
            if path not in self.modules and self._inputs:
                with torch.utils._python_dispatch._disable_current_modes():
                    self.modules[path] = (_first(args), _first(outputs))

        return leave

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name().rpartition("::")[2].partition(".")[0]
        if name in _SAME_VALUES:
            return func(*args, **kwargs)
        if not self._inputs and not self._rewrites:
            result = func(*args, **kwargs)
            prints = (None if name in _VAGUE else print_of(value) for value in _results(result, name))
            self.prints.extend(prints)
            self._stop()
            return result
        call = _call(func, args, kwargs)
        given: tuple[Print | None, ...] = ()
        parameters: tuple[str, ...] = ()
        if self._inputs:
            tensors = list(_tensors((args, kwargs)))
            given = tuple(print_of(tensor, link=True) for tensor in tensors)
            parameters = tuple(dict.fromkeys(filter(None, map(self._name, tensors))))
        place = self._places[-1] if self._places else ""
        other = self._rewrites.get((call, place_pattern(place))) or self._rewrites.get((call, ""))
        result = func(*args, **kwargs) if other is None else _made_instead(other, args, kwargs)
        for value in _results(result, name):
            self.prints.append(None if name in _VAGUE else print_of(value))
            link = print_of(value, link=True) if self._inputs else None
            self.events.append(Event(call, place, self.prints[-1], link, given, parameters))
        self._stop()
        return result

    def _stop(self) -> None:
        if self._limit is not None and len(self.prints) >= self._limit:
            raise _Enough

    def _name(self, tensor: Tensor) -> str:
        if tensor.layout is not torch.strided or not tensor.numel():
            return ""
        return self._names.get(tensor.untyped_storage().data_ptr(), "")


def _storages(module: nn.Module) -> dict[int, str]:
    found: dict[int, str] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.layout is torch.strided and tensor.numel() and not tensor.is_meta:
            found.setdefault(tensor.untyped_storage().data_ptr(), name)
    return found


def _results(result: Any, name: str) -> Iterator[Tensor]:
    """What is worth a print: all parts of a split; else the first, others are statistics of it."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        tensors = [each for each in result if isinstance(each, Tensor)]
        yield from tensors if name in _LISTS else tensors[:1]


def _first(thing: Any) -> Print | None:
    return next((print_of(tensor) for tensor in _tensors(thing)), None)


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from _tensors(value)
    elif isinstance(thing, (tuple, list)):
        for value in thing:
            yield from _tensors(value)


# ------------------------------------------------------------------------- calls


def _call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    return Call(function, _frozen(args), tuple((name, _frozen(value)) for name, value in kwargs.items()))


def _has_tensor(value: Any) -> bool:
    return value is TENSOR or (isinstance(value, tuple) and any(map(_has_tensor, value)))


def _frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TENSOR
    if isinstance(value, (tuple, list)):
        return tuple(map(_frozen, value))
    return value


def _made_instead(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The other call with the tensors of this one, in their order."""
    tensors = _tensors((args, kwargs))

    def filled(value: Any) -> Any:
        if isinstance(value, tuple):
            return [filled(each) for each in value]
        return next(tensors) if value is TENSOR else value

    arguments = [filled(value) for value in call.arguments]
    return call.function(*arguments, **{name: filled(value) for name, value in call.keywords})
