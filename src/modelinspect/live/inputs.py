"""
What goes into a model: spelt by the user, or worked out from the model itself.

Made-up values come from a generator of their own, seeded with the user's seed, so that
they are the same in every run and touch no global generator. Floats are standard normal.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from time import monotonic
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from modelinspect.errors import DefinitionError, ModelInspectError, UsageError, visible
from modelinspect.live.guesses import Guess, guesses
from modelinspect.live.hugging_face import hugging_face_inputs
from modelinspect.live.input_spec import Literal, TensorSpec, parse_inputs
from modelinspect.live.preserve import preserved
from modelinspect.live.user_errors import raised, said, where_raised
from modelinspect.targets import did_you_mean

__all__ = [
    "Batch",
    "Prepared",
    "copied",
    "described",
    "given_inputs",
    "inferred_inputs",
    "made",
    "moved",
    "samples",
]

_MOST_TRIED = 3
"""Failed guesses that an error names."""
_LONGEST_TRIAL = 5.0
"""Seconds after which no further guess is tried."""


class Batch(NamedTuple):
    """What one call of a model takes, and what the loss compares its output with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = {}  # noqa: RUF012  (never written to)
    target: Any = None
    """None: there is none."""
    size: int | None = None
    """Samples along the first axis; None where it isn't known."""


class Prepared(NamedTuple):
    """A batch that was made, and what to say of it."""

    batch: Batch
    described: str
    """``float32[2, 13]``."""
    origin: str
    """``given``, ``example_input() of net.py``, ``worked out from fc1 (Linear, in_features=13)``."""
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------------- given


def given_inputs(module: nn.Module, specs: Sequence[str], *, seed: int) -> Prepared:
    """
    Make what ``--input`` asks for.

    Args:
        module: Its parameters say what floats are, its embeddings how large integers may be.
        specs: See :mod:`modelinspect.live.input_spec`.
        seed: Of the values.

    Raises:
        UsageError: A spec can't be read, or ``forward`` takes no such argument.
    """
    parsed = parse_inputs(specs)
    _check_names(module, parsed.kwargs)
    maker = _Maker(module, seed)
    args = tuple(maker.value(spec) for spec in parsed.args)
    kwargs = {name: maker.value(spec) for name, spec in parsed.kwargs.items()}
    batch = _sized(args, kwargs)
    return Prepared(batch, described(batch), "given", tuple(dict.fromkeys(maker.notes)))


def _check_names(module: nn.Module, names: Mapping[str, Any]) -> None:
    parameters = _signature(module)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for name in names:
        if known and name not in known:
            raise UsageError(
                f"--input {visible(name)}=…: forward() of {type(module).__name__} takes no such argument",
                details=(f"it takes: {', '.join(known)}",),
                hint=did_you_mean(name, known),
            )


def _signature(module: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []


class _Maker:
    """Makes tensors of specs."""

    def __init__(self, module: nn.Module, seed: int) -> None:
        self._module = module
        self._generator = torch.Generator().manual_seed(seed)
        self.notes: list[str] = []

    def value(self, spec: Any) -> Any:
        """A tensor, a literal's value, or a dictionary of them."""
        if isinstance(spec, Literal):
            return spec.value
        if isinstance(spec, dict):
            return {name: self.value(inner) for name, inner in spec.items()}
        return self.tensor(spec)

    def tensor(self, spec: TensorSpec) -> Tensor:
        """One tensor, on the CPU."""
        dtype = _dtype(spec.dtype) if spec.dtype else _float_of(self._module)
        try:
            return self._filled(spec, dtype)
        except (RuntimeError, TypeError, ValueError) as error:  # no arithmetic in it, or no memory
            first = visible(str(error).partition("\n")[0])
            raise UsageError(
                f"--input: torch can't make {spec.dtype or dtype}{list(spec.shape)}", details=(first,)
            ) from error

    def _filled(self, spec: TensorSpec, dtype: torch.dtype) -> Tensor:
        if spec.fill == "arange":
            return torch.arange(max(1, _numel(spec.shape)))[: _numel(spec.shape)].reshape(spec.shape)
        if spec.fill:
            return torch.full(spec.shape, float(spec.fill == "ones"), dtype=dtype)
        if dtype.is_floating_point or dtype.is_complex:
            plain = torch.float32 if not dtype.is_complex else torch.complex64
            return torch.randn(spec.shape, generator=self._generator, dtype=plain).to(dtype)
        bound = 2 if dtype is torch.bool else spec.bound or self._bound()
        if dtype is not torch.bool and bound - 1 > torch.iinfo(dtype).max:
            raise ValueError(f"its largest integer is {torch.iinfo(dtype).max:,}, less than {bound - 1:,}")
        return torch.randint(bound, spec.shape, generator=self._generator).to(dtype)

    def _bound(self) -> int:
        kinds = (nn.Embedding, nn.EmbeddingBag)
        sizes = [m.num_embeddings for m in self._module.modules() if isinstance(m, kinds)]
        bound = min(sizes, default=2)
        why = "the smallest embedding" if sizes else "no embedding says more"
        self.notes.append(f"integers are drawn below {bound:,} ({why}); NAME=int64[…]<N says otherwise")
        return bound


def _numel(shape: Sequence[int]) -> int:
    numel = 1
    for length in shape:
        numel *= length
    return numel


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        known = [key for key, value in vars(torch).items() if isinstance(value, torch.dtype)]
        raise UsageError(
            f"--input: torch has no data type {visible(name)!r}",
            hint=did_you_mean(name, known) or "for example float32, int64, bool",
        )
    return found


def _float_of(module: nn.Module) -> torch.dtype:
    """The type of the first floating-point parameter, else of the first complex one, else float32."""
    types = [p.dtype for p in module.parameters()]
    floats = [dtype for dtype in types if dtype.is_floating_point]
    return next(iter(floats or [dtype for dtype in types if dtype.is_complex]), torch.float32)


def _sized(args: tuple[Any, ...], kwargs: dict[str, Any], target: Any = None) -> Batch:
    lengths = [len(t) for t in _tensors((args, kwargs)) if t.ndim]
    return Batch(args, kwargs, target, lengths[0] if lengths else None)


# ------------------------------------------------------------------- worked out


def inferred_inputs(
    module: nn.Module, *, seed: int, device: torch.device, home: str | None = None
) -> Prepared:
    """
    Work an input out from a model: what its author offers, else what its first layer takes.

    In this order: ``example_input`` in the definition's file or of the module itself;
    ``dummy_inputs`` and the configuration of a Hugging Face model; the input size that a
    registry keeps (timm); the first layer that says what it takes. What is guessed is
    tried first, without autograd and in eval mode.

    Args:
        module: Built for real.
        seed: Of made-up values.
        device: Where the module is.
        home: File in which the definition was found, if there is one.

    Raises:
        DefinitionError: Nothing runs; the message says what was tried.
    """
    offered = _offered(module, home) or hugging_face_inputs(module, seed)
    if offered is not None:
        args, kwargs, origin = offered
        batch = _sized(args, kwargs)
        return Prepared(batch, described(batch), origin)
    failures: list[str] = []
    began = monotonic()
    for guess in guesses(module):
        if failures and monotonic() - began > _LONGEST_TRIAL:
            raise _nothing_runs(module, failures, f"not tried any longer than {_LONGEST_TRIAL:.0f} seconds")
        prepared = _tried(module, guess, seed, device, failures)
        if prepared is not None:
            return prepared
    raise _nothing_runs(module, failures)


def _offered(module: nn.Module, home: str | None) -> tuple[tuple[Any, ...], dict[str, Any], str] | None:
    """What the author of the definition says it can be called with."""
    kind = type(module).__name__
    places: list[tuple[Any, str, str]] = [
        (module, "example_input", kind),
        (module, "example_input_array", kind),
    ]
    places += [(file, "example_input", _file_name(file)) for file in _files_of(module, home)]
    for holder, name, owner in places:
        example = getattr(holder, name, None)
        if example is None:
            continue
        origin = f"{name}{'()' if callable(example) else ''} of {visible(owner)}"
        if callable(example):
            example = _called(example, origin)
        if isinstance(example, dict):
            return (), dict(example), origin
        return (example if isinstance(example, tuple) else (example,)), {}, origin
    return None


def _files_of(module: nn.Module, home: str | None) -> Iterator[ModuleType]:
    """The Python module of the definition: that of its class, or the file that it was found in."""
    of_class = sys.modules.get(type(module).__module__)
    if of_class is not None and not of_class.__name__.startswith("torch."):
        yield of_class
    if home is not None:
        yield from (m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == home)


def _file_name(file: ModuleType) -> str:
    return (getattr(file, "__file__", None) or file.__name__).rpartition("/")[2]


def _called(example: Callable[[], Any], origin: str) -> Any:
    try:
        return example()
    except (ModelInspectError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise raised(f"{origin} failed", error) from error


def _tried(
    module: nn.Module, guess: Guess, seed: int, device: torch.device, failures: list[str]
) -> Prepared | None:
    maker = _Maker(module, seed)
    args = tuple(maker.value(spec) for spec in guess.args)
    batch = _sized(args, {name: maker.value(spec) for name, spec in guess.kwargs.items()})
    # A lazy module is fixed by what it is first run with: it is not run to try things out.
    if any(is_lazy(parameter) for parameter in module.parameters()):
        return Prepared(batch, described(batch), guess.origin)
    try:
        with preserved(module), torch.no_grad():
            module.eval()
            ready = moved(batch, device, None)
            module(*ready.args, **ready.kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (whatever a model raises, the guess was wrong)
        place = where_raised(error)
        first = said(error).partition("\n")[0]
        at = f" at {place}" if place else ""
        failures.append(f"{described(batch)}: {type(error).__name__}: {visible(first)}{at}")
        return None
    return Prepared(batch, described(batch), guess.origin)


def _nothing_runs(module: nn.Module, failures: Sequence[str], *more_to_say: str) -> DefinitionError:
    more = len(failures) - _MOST_TRIED
    tried = [f"tried {failure}" for failure in failures[:_MOST_TRIED]]
    if more > 0:
        tried.append(f"and {more} more that failed, too")
    required = [p.name for p in _signature(module) if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    takes = f"forward({', '.join(required)})" if required else "forward()"
    return DefinitionError(
        f"no input for {type(module).__name__} could be worked out",
        details=(
            f"it is called as {visible(takes)}",
            *(tried or ["nothing in it says what it takes"]),
            *more_to_say,
        ),
        hint="give one: --input 2x3x224x224 or --input 'ids=int64[2,128]<1000'; or add an example_input() "
        "to its file",
    )


# ----------------------------------------------------------------------- batches


def moved(batch: Batch, device: torch.device, dtype: torch.dtype | None) -> Batch:
    """
    The batch on a device, its floats as another type; always a copy.

    Args:
        batch: Nested tuples, lists and dictionaries are followed.
        device: Where its tensors go.
        dtype: Of floating-point tensors; None leaves them as they are.
    """

    def move(tensor: Tensor) -> Tensor:
        cast = dtype is not None and tensor.is_floating_point() and dtype.is_floating_point
        return tensor.to(device, dtype if cast else None)

    args, kwargs, target = made((batch.args, batch.kwargs, batch.target), move)
    return copied(Batch(args, kwargs, target, batch.size))


def copied(batch: Batch) -> Batch:
    """
    The batch with tensors of its own, so that nothing done to them is seen in the caller's.

    Gradients of leaves stay in the copy; what was one tensor in several places is so again.
    """
    copies: dict[int, Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter):
            return tensor
        if id(tensor) not in copies:
            asks = tensor.requires_grad and tensor.is_leaf
            copies[id(tensor)] = tensor.detach().clone().requires_grad_() if asks else tensor.clone()
        return copies[id(tensor)]

    args, kwargs, target = made((batch.args, batch.kwargs, batch.target), copy)
    return Batch(args, kwargs, target, batch.size)


def samples(batch: Batch) -> Iterator[Batch]:
    """
    The samples of a batch, each as a batch of one.

    What does not have the batch's length along its first axis is part of each.

    Raises:
        UsageError: It isn't known how many samples there are.
    """
    if batch.size is None:
        raise UsageError("the samples of this batch can't be told apart: no tensor has a first axis")

    for number in range(batch.size):

        def cut(tensor: Tensor, number: int = number) -> Tensor:
            is_batched = tensor.ndim > 0 and len(tensor) == batch.size
            return tensor[number : number + 1] if is_batched else tensor

        args, kwargs, target = made((batch.args, batch.kwargs, batch.target), cut)
        yield Batch(args, kwargs, target, 1)


def made(thing: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested containers with each tensor changed; what is no container stays as it is."""
    if isinstance(thing, Tensor):
        return change(thing)
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(made(value, change) for value in thing))
    if isinstance(thing, (tuple, list)):
        return type(thing)(made(value, change) for value in thing)
    if isinstance(thing, dict):
        return {key: made(value, change) for key, value in thing.items()}
    # transformers' BatchEncoding is a UserDict.
    if isinstance(thing, Mapping):
        return {key: made(value, change) for key, value in thing.items()}
    return thing


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from _tensors(value)
    elif isinstance(thing, (tuple, list)):
        for value in thing:
            yield from _tensors(value)
    elif is_dataclass(thing) and not isinstance(thing, type):
        yield from _tensors(vars(thing))


def described(batch: Batch) -> str:
    """
    A batch in one line: ``float32[2, 3], mask=bool[2, 8]``.
    """
    parts = [_shown(value) for value in batch.args]
    parts += [f"{visible(str(name))}={_shown(value)}" for name, value in batch.kwargs.items()]
    return ", ".join(parts) or "nothing"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{visible(str(key))}: {_shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_shown, value))
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    text = visible(said(value, repr))
    return text if len(text) <= 40 else f"{text[:40]}…"
