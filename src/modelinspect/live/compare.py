"""
Two models on the same input: what both can take, and how far apart their outputs are.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from itertools import permutations
from math import isqrt
from time import monotonic
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelinspect.errors import DefinitionError, ModelInspectError, visible
from modelinspect.live.compare_inputs import combined_inputs, role_of
from modelinspect.live.input_spec import parse_inputs
from modelinspect.live.inputs import Batch, Prepared, described, given_inputs, inferred_inputs, made, moved
from modelinspect.live.preserve import preserved
from modelinspect.live.surroundings import undisturbed
from modelinspect.live.user_errors import said

__all__ = [
    "Comparison",
    "Gap",
    "Shared",
    "compare_models",
    "flat_outputs",
    "gaps",
    "run_model",
    "shared_inputs",
]

_LABELS = ("labels", "start_positions", "end_positions", "next_sentence_label")
_MOST_WAYS = 4
"""Ways to call both that are returned."""
_MOST_ELEMENTS = 3e8
"""Parameters up to which float64 is tried."""
_LARGE = 25_000
"""Numbers in an input, above which a smaller one is tried."""
_SIZES = (4_096, 16_384)
_LONGEST_TRIAL = 5.0
"""Seconds in which combinations of arguments are tried."""
_CPU = torch.device("cpu")


class Shared(NamedTuple):
    """One input in the two forms in which two models take it."""

    source: Batch
    target: Batch
    described: str
    """``int64[2, 8] as input_ids, int64[2, 8] as tokens``."""
    origin: str


class Gap(NamedTuple):
    """Two outputs side by side."""

    source: str
    """Where it lies in what the source puts out: ``logits``, ``0``; empty: all there is."""
    target: str
    shape: tuple[int, ...]
    absolute: float
    """The largest difference."""
    relative: float
    """The same as a share of the largest value."""
    note: str = ""


class Comparison(NamedTuple):
    """Two models on one input."""

    input: Shared
    gaps: tuple[Gap, ...]
    """Empty: no two outputs have one shape."""
    noise: float
    """What float rounding alone makes of the source's output, relative."""
    dtype: str

    @property
    def equal(self) -> bool:
        """Every pair of outputs agrees but for rounding."""
        return bool(self.gaps) and all(gap.relative <= self.tolerance for gap in self.gaps)

    @property
    def tolerance(self) -> float:
        """Relative difference that rounding explains."""
        if self.dtype == "float64":
            return max(1e-9, min(1e-4, 4 * self.noise))
        return max(1e-4, min(1e-3, 4 * self.noise))


# ------------------------------------------------------------------------ running


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    with undisturbed(seed), torch.no_grad():
        yield


def run_model(module: nn.Module, batch: Batch, dtype: torch.dtype | None = None) -> Any:
    """
    One call with a copy of the batch.

    Args:
        module: In the mode that it is to run in.
        batch: Its floats are cast.
        dtype: None leaves them.
    """
    ready = moved(batch, _CPU, dtype)
    return module(*ready.args, **ready.kwargs)


def _trial(module: nn.Module, batch: Batch, seed: int) -> str:
    """What is wrong with a batch; empty if the module runs with it."""
    try:
        with _quiet(seed), preserved(module):
            module.eval()
            if not flat_outputs(run_model(module, batch)):
                return "it puts out no tensor"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (whatever a model raises, it does not take this)
        return f"{type(error).__name__}: {visible(said(error).partition(chr(10))[0])}"
    return ""


def compare_models(
    source: nn.Module, target: nn.Module, *, inputs: Sequence[str] = (), seed: int = 0
) -> Comparison:
    """
    Run two models as they are on one input that both take.

    Args:
        source: Left as it was.
        target: Left as it was.
        inputs: As ``--input`` spells them; empty: worked out.
        seed: Of made-up values and of all generators.

    Raises:
        DefinitionError: No input that both take could be found.
        UsageError: An input is spelt badly.
    """
    ways = shared_inputs(source, target, inputs, seed=seed)
    found = [_compared(source, target, way, seed) for way in ways]
    return min(found, key=_badness)


def _badness(found: Comparison) -> tuple[bool, float]:
    return not found.gaps, max((gap.relative for gap in found.gaps), default=0.0)


def _compared(source: nn.Module, target: nn.Module, way: Shared, seed: int) -> Comparison:
    single = [
        _outputs(source, way.source, seed, torch.float32),
        _outputs(target, way.target, seed, torch.float32),
    ]
    double: list[Any] = []
    if all(_is_small(module) for module in (source, target)):
        try:
            double = [_outputs(source, way.source, seed, torch.float64)]
            double += [_outputs(target, way.target, seed, torch.float64)]
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  (something in it wants float32)
            double = []
    if not double:
        return Comparison(way, gaps(single[0], single[1]), 0.0, "float32")
    noise = max((gap.relative for gap in gaps(double[0], single[0])), default=0.0)
    return Comparison(way, gaps(double[0], double[1]), noise, "float64")


def _is_small(module: nn.Module) -> bool:
    return sum(parameter.numel() for parameter in module.parameters()) <= _MOST_ELEMENTS


def _outputs(module: nn.Module, batch: Batch, seed: int, dtype: torch.dtype) -> Any:
    with _quiet(seed), preserved(module):
        module.eval()
        module.double() if dtype is torch.float64 else module.float()
        return run_model(module, batch, dtype)


# ------------------------------------------------------------------------ outputs


def flat_outputs(outputs: Any) -> list[tuple[str, Tensor]]:
    """
    The floating-point tensors of what a model puts out, by where they lie in it.

    A loss is left out, and so is what a model of transformers keeps for the next call.
    """
    return list(_flat(outputs, ""))


def _flat(thing: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(thing, Tensor):
        if thing.is_complex():
            thing = torch.view_as_real(thing.resolve_conj())
        if thing.is_floating_point() and path != "loss" and thing.numel():
            yield path, thing.detach()
        return
    if isinstance(thing, Mapping):
        parts = [(str(key), value) for key, value in thing.items() if key != "past_key_values"]
    elif isinstance(thing, (tuple, list)):
        names = getattr(thing, "_fields", range(len(thing)))
        parts = [(str(name), value) for name, value in zip(names, thing)]
    elif is_dataclass(thing) and not isinstance(thing, type):
        parts = list(vars(thing).items())
    else:
        return
    for name, value in parts:
        yield from _flat(value, f"{path}.{name}" if path else name)


def gaps(source: Any, target: Any) -> tuple[Gap, ...]:
    """
    Outputs of two models in pairs, each of the target's with the nearest of its shape.

    Args:
        source: Whatever the source put out.
        target: Whatever the target put out.
    """
    ours, theirs = flat_outputs(target), flat_outputs(source)
    every = [
        (gap.relative, abs(place - other), place, other, gap)
        for place, (name, tensor) in enumerate(ours)
        for other, (their_name, their_tensor) in enumerate(theirs)
        if (gap := _gap(their_name, their_tensor, name, tensor)) is not None
    ]
    chosen: dict[int, Gap] = {}
    taken: set[int] = set()
    for _, _, place, other, gap in sorted(every, key=lambda each: each[:4]):
        if place not in chosen and other not in taken:
            chosen[place] = gap
            taken.add(other)
    return tuple(chosen[place] for place in sorted(chosen))


def _gap(source_name: str, source: Tensor, target_name: str, target: Tensor) -> Gap | None:
    one, other = source.double(), target.double()
    note = ""
    if one.shape != other.shape:
        turned = _turned(one, other)
        if turned is None:
            return None
        one, note = turned, "its axes lie in another order"
    both = torch.isfinite(one) & torch.isfinite(other)
    if not torch.equal(torch.isfinite(one), torch.isfinite(other)):
        return Gap(source_name, target_name, tuple(target.shape), float("inf"), float("inf"), "not finite")
    difference = float((one - other)[both].abs().max()) if both.any() else 0.0
    scale = float(one[both].abs().max()) if both.any() else 0.0
    relative = difference / scale if scale else float(difference > 0)
    return Gap(source_name, target_name, tuple(target.shape), difference, relative, note)


def _turned(one: Tensor, other: Tensor) -> Tensor | None:
    """One with its axes in the order of the other's, where lengths of 1 come and go."""
    if one.numel() != other.numel():
        return None
    plain, wanted = one.squeeze(), other.squeeze()
    if plain.ndim != wanted.ndim or plain.ndim > 4:
        return None
    orders = [
        order
        for order in permutations(range(plain.ndim))
        if tuple(plain.shape[axis] for axis in order) == tuple(wanted.shape)
    ]
    turned = [plain.permute(order).reshape(other.shape) for order in orders]
    return min(turned, key=lambda each: float((each - other).abs().max()), default=None)


# ------------------------------------------------------------------------- inputs


def shared_inputs(
    source: nn.Module,
    target: nn.Module,
    specs: Sequence[str] = (),
    *,
    seed: int = 0,
    homes: tuple[str | None, str | None] = (None, None),
) -> list[Shared]:
    """
    Inputs that both models take, the plainest first.

    What is worked out for one is tried on the other: by its names, in its order, without
    masks that hide nothing, with axes exchanged.

    Args:
        source: Left as it was.
        target: Left as it was.
        specs: What a user says, for either; empty: worked out.
        seed: Of made-up values.
        homes: Files of the two definitions.

    Raises:
        DefinitionError: There is none; the message says what was tried.
        UsageError: A spec is spelt badly.
    """
    parse_inputs(specs)
    found: list[Shared] = []
    failures: list[str] = []
    modules = (source, target)
    for first in (0, 1):
        owner, other = modules[first], modules[1 - first]
        prepared = _prepared(owner, specs, seed, homes[first], failures)
        if prepared is None:
            continue
        own = _without_labels(owner, prepared.batch, seed)
        taken: set[tuple[int, ...]] = set()
        for batch in _ways(own, owner, other):
            same = tuple(map(id, _tensors(batch)))  # by position and by name are one way
            if same in taken:
                continue
            problem = _trial(other, batch, seed)
            if problem:
                failures.append(f"{type(other).__name__} does not take {described(batch)}: {problem}")
                continue
            taken.add(same)
            both = (own, batch) if first == 0 else (batch, own)
            found.append(Shared(*both, _described(*both), prepared.origin))
            if len(found) >= _MOST_WAYS * (first + 1):
                break
    # One token or one pixel shows little.
    found.sort(key=lambda way: sum(1 in value.shape[1:] for value in _tensors(way.source)))
    found = [_smaller(source, target, way, seed) for way in found]
    found += [] if specs else _longer(source, target, found[:1], seed)
    if not found:
        raise DefinitionError(
            "no input was found that both models take",
            details=tuple(failures[:6]),
            hint="give one that both take: --input 2x3x224x224 or --input 'int64[2,8]<1000'",
        )
    return found


def _smaller(source: nn.Module, target: nn.Module, way: Shared, seed: int) -> Shared:
    """A shorter signal or a smaller image, where both take it and one run takes long."""
    if sum(value.numel() for value in _tensors(way.source) if value.is_floating_point()) < _LARGE:
        return way
    for size in _SIZES:
        both = (_cut(way.source, size), _cut(way.target, size))
        if both[0] is None or both[1] is None:
            continue
        if not _trial(source, both[0], seed) and not _trial(target, both[1], seed):
            return Shared(both[0], both[1], _described(both[0], both[1]), way.origin)
    return way


def _longer(source: nn.Module, target: nn.Module, ways: Sequence[Shared], seed: int) -> list[Shared]:
    """Twice as long a text: one model may fill it up to a length that it likes."""
    for way in ways:
        both = [_doubled(batch) for batch in (way.source, way.target)]
        if _shapes(both[0]) != _shapes(way.source) and not (
            _trial(source, both[0], seed) or _trial(target, both[1], seed)
        ):
            return [Shared(both[0], both[1], _described(both[0], both[1]), way.origin)]
    return []


def _doubled(batch: Batch) -> Batch:
    """Texts, and what goes with them, with themselves in reverse behind them."""

    def double(tensor: Tensor) -> Tensor:
        is_text = tensor.ndim == 2 and not tensor.is_floating_point() and tensor.shape[1] > 1
        return torch.cat([tensor, tensor.flip(1)], 1) if is_text else tensor

    args, kwargs = made((batch.args, batch.kwargs), double)
    return Batch(args, kwargs, None, batch.size)


def _cut(batch: Batch, size: int) -> Batch | None:
    """Signals of so many samples, images of as few pixels as that makes."""
    side = isqrt(size) // 2

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        if tensor.ndim in (2, 3) and tensor.shape[-1] > size:
            return tensor[..., :size].clone()
        if tensor.ndim == 4 and tensor.shape[-1] == tensor.shape[-2] > side:
            return tensor[..., :side, :side].clone()
        return tensor

    args, kwargs = made((batch.args, batch.kwargs), cut)
    smaller = Batch(args, kwargs, None, batch.size)
    return None if _shapes(smaller) == _shapes(batch) else smaller


def _shapes(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in _tensors(batch)]


def _prepared(
    module: nn.Module, specs: Sequence[str], seed: int, home: str | None, failures: list[str]
) -> Prepared | None:
    try:
        if not specs:
            with undisturbed(seed):
                return inferred_inputs(module, seed=seed, device=_CPU, home=home)
        prepared = given_inputs(module, specs, seed=seed)
    except ModelInspectError as error:
        failures.append("; ".join((error.message, *error.details[:2])))
        return None if specs else _combined(module, seed)
    problem = _trial(module, prepared.batch, seed)
    if problem:
        failures.append(f"{type(module).__name__} does not take {described(prepared.batch)}: {problem}")
        return None
    return prepared


def _combined(module: nn.Module, seed: int) -> Prepared | None:
    """What several arguments may be, tried together."""
    began = monotonic()
    for batch in combined_inputs(module, seed):
        if not _trial(module, batch, seed):
            return Prepared(batch, described(batch), "tried out, argument by argument")
        if monotonic() - began > _LONGEST_TRIAL:
            break
    return None


def _without_labels(module: nn.Module, batch: Batch, seed: int) -> Batch:
    """Labels make a loss, which needs no comparing; a decoder may take its input from them."""
    labels = {name: batch.kwargs[name] for name in _LABELS if name in batch.kwargs}
    kwargs = {name: value for name, value in batch.kwargs.items() if name not in labels}
    names = _parameters(module)
    if "use_cache" in names and hasattr(module, "config"):
        kwargs["use_cache"] = False
    if "labels" in labels and "decoder_input_ids" in names and "decoder_input_ids" not in kwargs:
        kwargs["decoder_input_ids"] = labels["labels"]
    plain = Batch(batch.args, kwargs, None, batch.size)
    return plain if kwargs == batch.kwargs or not _trial(module, plain, seed) else batch


def _parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return {}


def _ways(batch: Batch, owner: nn.Module, module: nn.Module) -> Iterator[Batch]:
    """How a module may take what another takes."""
    parameters = _parameters(module)
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    if batch.kwargs and not open_ended and all(name in parameters for name in batch.kwargs):
        yield batch
    positions = [name for name, each in _parameters(owner).items() if each.kind is not each.VAR_POSITIONAL]
    named = [*zip([*positions, *map(str, range(len(batch.args)))], batch.args), *batch.kwargs.items()]
    given = {
        name: value for name, value in named if isinstance(value, Tensor) and not _hides_nothing(name, value)
    }
    cache = {"use_cache": False} if "use_cache" in parameters and hasattr(module, "config") else {}
    yield from _by_roles(given, parameters, cache, batch.size)
    tensors = list(given.values())
    orders = [tensors, tensors[::-1]] if len(tensors) > 1 else [tensors]
    for few in range(len(tensors), 0, -1):
        for order in orders:
            for turned in _axes(order[:few]):
                yield from _calls(turned, parameters, cache, batch.size)


def _by_roles(
    given: Mapping[str, Tensor],
    parameters: Mapping[str, inspect.Parameter],
    cache: dict[str, Any],
    size: int | None,
) -> Iterator[Batch]:
    """``ids`` and ``segments`` as ``input_ids`` and ``token_type_ids``."""
    taken = {role_of(name): name for name in reversed(list(parameters)) if role_of(name)}
    roles = [role_of(name) for name in given]
    if len(set(roles)) == len(roles) > 0 and all(role in taken for role in roles):
        named = {taken[role]: value for role, value in zip(roles, given.values())}
        yield Batch((), named | cache, None, size)


def _calls(
    tensors: list[Tensor],
    parameters: Mapping[str, inspect.Parameter],
    cache: dict[str, Any],
    size: int | None,
) -> Iterator[Batch]:
    """By position; then by the names that are required, or that main inputs have."""
    unmasked = [name for name in parameters if role_of(name) != "mask"]
    if len(tensors) > 1 and unmasked[: len(tensors)] != list(parameters)[: len(tensors)]:
        yield Batch((), dict(zip(unmasked, tensors)) | cache, None, size)
    yield Batch(tuple(tensors), dict(cache), None, size)
    required = [
        name
        for name, each in parameters.items()
        if each.default is each.empty and each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    usual = ["decoder_input_ids"] if len(tensors) == 2 and "decoder_input_ids" in parameters else []
    names = required or list(parameters)[:1]
    if usual and len(names) == 1 and names != usual:
        names = [*names, *usual]
    if len(names) == len(tensors) and all(name in parameters for name in names):
        yield Batch((), dict(zip(names, tensors)) | cache, None, size)


def _axes(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """As they are; with the batch second, or the channels last or first, where there is one of floats."""
    yield tensors
    if len(tensors) != 1 or not tensors[0].is_floating_point():
        return
    (only,) = tensors
    if only.ndim == 3:
        yield [only.transpose(1, 2).contiguous()]
        yield [only.transpose(0, 1).contiguous()]
    if only.ndim == 4:
        yield [only.permute(0, 2, 3, 1).contiguous()]
        yield [only.permute(0, 3, 1, 2).contiguous()]


def _tensors(batch: Batch) -> list[Tensor]:
    return [each for each in (*batch.args, *batch.kwargs.values()) if isinstance(each, Tensor)]


def _hides_nothing(name: str, value: Tensor) -> bool:
    return "mask" in name and bool((value == 1).all())


def _described(source: Batch, target: Batch) -> str:
    one, other = described(source), described(target)
    return one if one == other else f"{one} for the source, {other} for the target"
