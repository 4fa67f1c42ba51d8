"""
Two models on a bench: weights go in, both are run, what passes in them is compared.

Real checkpoints may hold neutral values, norm weights of 1 and biases of 0, behind which a
wrong assignment hides. So the source gets random weights of the same names and shapes, none
of them neutral, and such that signals keep a size of about 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from modelinspect.live.activations import Prints, Rewrites, Tape, place_pattern, record
from modelinspect.live.compare import Comparison, Shared, gaps, run_model
from modelinspect.live.compare_breaks import (
    Break,
    are_numbers,
    first_break,
    of_weights_alone,
    otherwise_made,
    said_difference,
    similar_calls,
)
from modelinspect.live.preserve import preserved
from modelinspect.live.surroundings import undisturbed
from modelinspect.live.user_errors import raised

__all__ = ["Bench", "bench_of", "library"]

library: Any = torch
"""What :func:`modelinspect.transplant.transforms.apply_steps` works with here."""
_MOST_ELEMENTS = 3e8
"""Parameters of one model up to which it is run in float64."""
_FEW_ELEMENTS = 3e6
_LOOSE = {torch.float64: 2e-5, torch.float32: 2e-4}
"""Tolerances of prints: an epsilon that differs is no wrong assignment."""


@contextmanager
def bench_of(source: nn.Module, target: nn.Module, shared: Shared, *, seed: int = 0) -> Iterator[Bench]:
    """
    A bench with two models on it, in eval mode and in float64 where they run in it.

    Both are as they were when the block ends.
    """
    with ExitStack() as stack:
        stack.enter_context(undisturbed(seed))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(_one_thread(source, target))
        warnings.simplefilter("ignore")
        fixed = {id(p) for p in source.parameters() if not p.requires_grad}
        if len(fixed) == len(list(source.parameters())):  # all of it is frozen: that says nothing
            fixed = set()
        for module in {id(each): each for each in (source, target)}.values():
            stack.enter_context(preserved(module))
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)
                # Memory of its own: what is written into it is undone by putting the old back.
                if not is_lazy(parameter):
                    parameter.data = parameter.data.clone()
        dtype = _precision(source, target, shared, seed)
        yield Bench(source, target, shared, seed, dtype, fixed)


@contextmanager
def _one_thread(*modules: nn.Module) -> Iterator[None]:
    """Small models run faster on one: theirs is the work of starting operations."""
    before = torch.get_num_threads()
    try:
        if all(sum(p.numel() for p in module.parameters()) < _FEW_ELEMENTS for module in modules):
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def _precision(source: nn.Module, target: nn.Module, shared: Shared, seed: int) -> torch.dtype:
    """float64 where both run in it; the modules are left in what is found."""
    both = ((source, shared.source), (target, shared.target))
    if all(sum(p.numel() for p in module.parameters()) <= _MOST_ELEMENTS for module, _ in both):
        try:
            for module, batch in both:
                module.double()
                with torch.no_grad(), undisturbed(seed):
                    run_model(module, batch, torch.float64)
            return torch.float64
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001, S110  (something in it wants float32)
            pass
    for module, _ in both:
        module.float()
    return torch.float32


class Bench:
    """
    Made by :func:`bench_of`.

    Args:
        source: In eval mode, of the bench's precision.
        target: The same.
        shared: What both are run on.
        seed: Of generators during runs, and of random weights.
        dtype: float64 or float32.
        fixed: Identities of the source's parameters that don't learn.
    """

    def __init__(
        self,
        source: nn.Module,
        target: nn.Module,
        shared: Shared,
        seed: int,
        dtype: torch.dtype,
        fixed: Collection[int] = (),
    ) -> None:
        self.shared, self.dtype = shared, dtype
        self.source, self.target = source, target
        self._source, self._target, self._seed, self._fixed = source, target, seed, fixed
        self._tolerance = _LOOSE[dtype]
        self._rewrites: dict[Any, Any] = {}
        self._prints = Prints((), self._tolerance)
        self._left_out: set[int] = set()
        self._source_tape: Tape | None = None
        self._source_tensors = _live_tensors(source)
        self._target_tensors = _live_tensors(target)

    # ---------------------------------------------------------------- weights

    def source_names(self) -> tuple[str, ...]:
        """Names of the source's parameters and persistent buffers."""
        return tuple(self._source_tensors)

    def source_tensor(self, name: str) -> Tensor:
        """A tensor of the source as it is now."""
        return self._source_tensors[name].detach()

    def randomise(self, used: Collection[str], seed: int) -> None:
        """
        Give the source random weights, none neutral.

        Args:
            used: Names that the target takes. Others that don't learn stay: the target may
                make them itself.
            seed: Of the values.
        """
        generator = torch.Generator().manual_seed(seed)
        owners = _owners(self._source)
        done: set[int] = set()
        for name, tensor in self._source_tensors.items():
            owner = owners.get(name.rpartition(".")[0])
            is_weight = isinstance(tensor, nn.Parameter) or "running_" in name
            is_kept = id(tensor) in self._fixed and name not in used
            if id(tensor) in done or not tensor.is_floating_point() or not is_weight or is_kept:
                continue
            done.add(id(tensor))
            tensor.data.copy_(_random(name, tensor, owner, generator).to(tensor.dtype))
        self._settle_statistics(generator)
        _refresh(self._source)
        self.changed()

    def _settle_statistics(self, generator: torch.Generator) -> None:
        """Running statistics near those of the signals, so that deep networks don't decay."""
        norms: list[Any] = [
            m for m in self._source.modules() if isinstance(m, _NormBase) and m.running_mean is not None
        ]
        if not norms:
            return
        before = [(norm.momentum, norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
        try:
            for norm in norms:
                norm.momentum = 1.0
                norm.train()
            self.run_source()
            for norm in norms:
                spread = norm.running_var.sqrt()
                norm.running_mean.add_(
                    0.2 * spread * torch.randn(spread.shape, generator=generator).to(spread)
                )
                norm.running_var.mul_(
                    1 + 0.3 * torch.rand(spread.shape, generator=generator).to(spread)
                ).add_(1e-3)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  (too few values for statistics)
            for norm, (_, mean, variance) in zip(norms, before):
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
        finally:
            for norm, (momentum, _, _) in zip(norms, before):
                norm.momentum = momentum
                norm.eval()

    def randomise_target(self, names: Collection[str], seed: int) -> None:
        """Random values for those tensors of the target that nothing fills."""
        generator = torch.Generator().manual_seed(seed)
        owners = _owners(self._target)
        for name in names:
            tensor = self._target_tensors.get(name)
            if isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
                value = _random(name, tensor, owners.get(name.rpartition(".")[0]), generator)
                tensor.data.copy_(value.to(tensor.dtype))

    def fill(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """
        Put values into the target; the names that it does not have.

        Raises:
            ValueError: A shape does not fit.
        """
        lacks = []
        for name, value in values.items():
            tensor = self._target_tensors.get(name)
            if tensor is None:
                lacks.append(name)
                continue
            if tuple(tensor.shape) != tuple(value.shape):
                raise ValueError(f"{name}: {list(value.shape)} for {list(tensor.shape)}")
            with torch.no_grad():
                tensor.data.copy_(value)
        _refresh(self._target)
        return tuple(lacks)

    def target_values(self, names: Sequence[str]) -> dict[str, Tensor]:
        """What is in tensors of the target now."""
        there = self._target_tensors
        return {name: there[name].detach().clone() for name in names if name in there}

    def random_tensor(self, shape: Sequence[int], seed: int) -> Tensor:
        """Something of a shape that the source's definition does not have."""
        generator = torch.Generator().manual_seed(self._seed + 1000 + seed)
        return torch.randn(tuple(shape), generator=generator).to(self.dtype)

    def load_source(self, values: Mapping[str, Any]) -> None:
        """Put values into the source."""
        for name, value in values.items():
            tensor = self._source_tensors.get(name)
            if tensor is not None and tuple(tensor.shape) == tuple(value.shape):
                tensor.data.copy_(value)
        _refresh(self._source)
        self.changed()

    def sharpen(self) -> bool:
        """Tell activations apart that differ by little; False where rounding forbids it."""
        if self.dtype is not torch.float64:
            return False
        self._tolerance = 1e-8
        self.changed()
        return True

    def soften(self) -> None:
        """Take activations for the same that differ by little."""
        self._tolerance = _LOOSE[self.dtype]
        self.changed()

    def changed(self) -> None:
        """The source has other weights: what is known of its run is forgotten."""
        self._source_tape = None

    # ------------------------------------------------------------------- runs

    def run_source(self) -> Any:
        """What the source puts out."""
        with torch.no_grad():
            return self._run_seeded(self._source, self.shared.source)()

    def run_target(self) -> Any:
        """What the target puts out, with the differences that were accepted made away with."""
        if self._rewrites:
            return self._target_tape().outputs
        with torch.no_grad():
            return self._run_seeded(self._target, self.shared.target)()

    def _restart(self) -> None:
        """Models may draw numbers. ``torch.manual_seed`` itself asks for a stack trace."""
        torch.default_generator.manual_seed(self._seed)

    def _run_seeded(self, module: nn.Module, batch: Any) -> Callable[[], Any]:
        def run() -> Any:
            self._restart()
            try:
                return run_model(module, batch, self.dtype)
            except Exception as error:  # with random weights, or with those that are tried
                raise raised(f"{type(module).__name__} does not run", error) from error

        return run

    def source_tape(self) -> Tape:
        """What passes in the source."""
        if self._source_tape is None:
            run = self._run_seeded(self._source, self.shared.source)
            self._source_tape = record(run, self._source, inputs=True)
            self._prints = Prints(
                (
                    *(event.print for event in self._source_tape.events),
                    *(given for event in self._source_tape.events for given in event.inputs),
                ),
                self._tolerance,
            )
        return self._source_tape

    def _target_tape(
        self, *, limit: int | None = None, inputs: bool = False, rewrites: Rewrites | None = None
    ) -> Tape:
        run = self._run_seeded(self._target, self.shared.target)
        chosen = {**self._rewrites, **(rewrites or {})}
        return record(run, self._target, limit=limit, inputs=inputs, rewrites=chosen)

    def compare(self) -> Comparison:
        """Outputs of both, with what is in them now."""
        one, other = self.run_source(), self.run_target()
        return Comparison(
            self.shared, gaps(one, other), self._noise(one), str(self.dtype).removeprefix("torch.")
        )

    def _noise(self, outputs: Any) -> float:
        """What the source's output loses in float32."""
        if self.dtype is not torch.float64:
            return 0.0
        kept = {name: tensor.detach().clone() for name, tensor in self._source_tensors.items()}
        try:
            self._source.float()
            with torch.no_grad():
                self._restart()
                single = run_model(self._source, self.shared.source, torch.float32)
            return max((gap.relative for gap in gaps(outputs, single)), default=0.0)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  (it runs in float64 alone)
            return 0.0
        finally:
            self._source.double()
            self._source_tensors = _live_tensors(self._source)
            with torch.no_grad():
                for name, value in kept.items():
                    self._source_tensors[name].data.copy_(value)
            _refresh(self._source)

    def score(self, limit: int | None) -> int:
        """How many of the target's activations the source has, too, among the first so many."""
        self.source_tape()
        try:
            tape = self._target_tape(limit=limit)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  (with these weights it does not run)
            return -1
        return self._agreeing(tape)

    # ---------------------------------------------------------- where they part

    def break_of(self, filled: Collection[str]) -> Break | None:
        """Where the target parts from the source; None: nowhere."""
        self.source_tape()
        tape = self._target_tape(inputs=True)
        self._left_out = of_weights_alone(tape)
        return first_break(tape, self._prints, filled)

    def last_used(self) -> dict[str, int]:
        """Names of the target's tensors and how many events before the end they were used."""
        events = self._target_tape(inputs=True).events
        return {name: len(events) - at for at, event in enumerate(events) for name in event.parameters}

    def quick_gap(self) -> float:
        """The largest relative difference of outputs."""
        try:
            found = gaps(self.run_source(), self.run_target())
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  (with these weights it does not run)
            return float("inf")
        return max((gap.relative for gap in found), default=float("inf"))

    def differences(self, broken: Break) -> list[tuple[str, Any]]:
        """What differs in words, and what to hand to :meth:`score_with`: everywhere, then in such places."""
        tape = self._target_tape(inputs=True)
        pairs = similar_calls(broken, tape, self.source_tape(), self._tolerance)
        return [
            (said_difference(ours, theirs), (ours, theirs, scope))
            for ours, theirs in pairs
            for scope in dict.fromkeys(("", place_pattern(ours.place)))
        ]

    def score_with(self, difference: Any, limit: int | None) -> int:
        """The score with an operation made as the source makes it."""
        ours, theirs, scope = difference
        if not otherwise_made(ours, theirs):
            return -1
        self.source_tape()
        try:
            tape = self._target_tape(limit=limit, rewrites={(ours.call, scope): theirs.call})
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  (the two take different tensors)
            return -1
        return self._agreeing(tape)

    def _agreeing(self, tape: Tape) -> int:
        return sum(
            each in self._prints
            for at, each in enumerate(tape.prints)
            if each is not None and at not in self._left_out
        )

    def is_setting(self, difference: Any) -> bool:
        """True: the same operation, told something else."""
        ours, theirs, _ = difference
        return bool(ours.call.kind == theirs.call.kind) and are_numbers(ours, theirs)

    def accept(self, difference: Any) -> None:
        """From now on the target's operation is made as the source makes it."""
        ours, theirs, scope = difference
        self._rewrites[ours.call, scope] = theirs.call

    def module_prints(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Path to what went into and came out of each module, of the source and of the target."""
        return self.source_tape().modules, self._target_tape(inputs=True).modules

    def agrees(self, one: Any, other: Any) -> bool | None:
        """Whether two prints are of one activation; None where one of them says nothing."""
        return None if one is None or other is None else bool(one.agrees(other, self._tolerance))

    # ----------------------------------------------------------- participation

    def taking_part(self, names: Sequence[str], groups: Mapping[str, str]) -> set[str]:
        """
        Which of the target's tensors have an influence on its outputs.

        Args:
            names: To be looked at.
            groups: Name to its pattern: what has no gradient is tried a pattern at a time.
        """
        parameters = {
            name: tensor
            for name in names
            if isinstance(tensor := self._target_tensors.get(name), nn.Parameter)
            and tensor.is_floating_point()
        }
        shares = self._influence(parameters)
        found = {name for name, share in shares.items() if share > 1e-4}
        open_ones = [name for name in names if name not in found and name in self._target_tensors]
        patterns: dict[str, list[str]] = {}
        for name in open_ones:
            patterns.setdefault(groups.get(name, name), []).append(name)
        base = self.run_target()

        def differs() -> bool:
            least = 1e-9 if self.dtype is torch.float64 else 1e-5
            return any(gap.relative > least for gap in gaps(base, self.run_target()))

        return found | self._moving(patterns, differs)

    def taking_part_until(self, names: Sequence[str], groups: Mapping[str, str]) -> tuple[set[str], str]:
        """
        The same where outputs can't be compared: up to the last activation that agrees.

        What makes that activation directly is left out: its elements may lie in any order.

        Returns:
            The names, and the place of the activation; empty where it is not near the end.
        """
        self.source_tape()
        events = self._target_tape(inputs=True).events
        last = max((at for at, event in enumerate(events) if event.print in self._prints), default=-1)
        wanted = events[last].print if last >= 0.6 * len(events) else None
        if wanted is None:
            return set(), ""
        used = [event.parameters for event in events[: last + 1] if event.parameters]
        direct = {name for parameters in used[-2:] for name in parameters}
        patterns: dict[str, list[str]] = {}
        for name in names:
            if name in self._target_tensors and name not in direct:
                patterns.setdefault(groups.get(name, name), []).append(name)

        def differs() -> bool:
            now = self._target_tape(limit=last + 1).prints
            return len(now) <= last or now[last] is None or not wanted.agrees(now[last] or wanted, 1e-7)

        return self._moving(patterns, differs), events[last].place

    def _moving(self, patterns: Mapping[str, list[str]], differs: Callable[[], bool]) -> set[str]:
        """Of each pattern all, where other values in all of them make a difference and in each."""
        found: set[str] = set()
        for members in patterns.values():
            if self._moves(members, differs):
                found.update(each for each in members if len(members) == 1 or self._moves([each], differs))
        return found

    def _influence(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        """Gradient times value of each, as a share of the largest."""
        unique = list({id(tensor): tensor for tensor in parameters.values()}.values())
        try:
            for tensor in unique:
                tensor.requires_grad_(True)
            with torch.enable_grad():
                self._restart()
                outputs = _with_gradient(run_model(self._target, self.shared.target, self.dtype))
                generator = torch.Generator().manual_seed(self._seed)
                total = sum(
                    (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum() / _size(out)
                    for out in outputs
                )
                gradients: Any = torch.autograd.grad(total, unique, allow_unused=True)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  (something in it can't be differentiated)
            return {}
        finally:
            for tensor in unique:
                tensor.requires_grad_(False)
        by_id = {
            id(tensor): float(gradient.norm() * tensor.detach().norm()) if gradient is not None else 0.0
            for tensor, gradient in zip(unique, gradients)
        }
        most = max(by_id.values(), default=0.0) or 1.0
        return {name: by_id[id(tensor)] / most for name, tensor in parameters.items()}

    def _moves(self, names: Sequence[str], differs: Callable[[], bool]) -> bool:
        """Whether other values in these tensors make a difference."""
        generator = torch.Generator().manual_seed(self._seed + 1)
        kept = {}
        for name in names:
            tensor = self._target_tensors[name]
            if not tensor.is_floating_point():
                continue
            kept[name] = tensor.detach().clone()
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
            size = float(tensor.detach().float().abs().mean()) or 1.0
            with torch.no_grad():
                tensor.data.add_(0.3 * size * (noise.abs() if "var" in name else noise))
        try:
            _refresh(self._target)
            return differs()
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  (other values make it fail: they matter)
            return True
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    self._target_tensors[name].data.copy_(value)
            _refresh(self._target)


def _size(tensor: Tensor) -> float:
    return float(tensor.detach().abs().mean()) * tensor.numel() ** 0.5 or 1.0


def _with_gradient(outputs: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def walk(thing: Any) -> None:
        if isinstance(thing, Tensor):
            if thing.requires_grad and thing.is_floating_point():
                found.append(thing)
        elif isinstance(thing, Mapping):
            for value in thing.values():
                walk(value)
        elif isinstance(thing, (tuple, list)):
            for value in thing:
                walk(value)
        elif hasattr(thing, "__dataclass_fields__"):
            for value in vars(thing).values():
                walk(value)

    walk(outputs)
    return found


def _live_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under every name, the very objects."""
    found: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found |= dict(module.named_buffers(remove_duplicate=False))
    return found


def _owners(module: nn.Module) -> dict[str, nn.Module]:
    return dict(module.named_modules(remove_duplicate=False))


def _refresh(module: nn.Module) -> None:
    """Some modules keep in eval mode what they made of their weights."""
    if any(type(part).train is not nn.Module.train for part in module.modules()):
        with suppress(Exception):
            module.train()
        module.eval()


def _random(name: str, tensor: Tensor, owner: nn.Module | None, generator: torch.Generator) -> Tensor:
    noise = torch.randn(tensor.shape, generator=generator)
    if "running_var" in name:
        return 0.5 + noise.abs()
    if tensor.ndim <= 1 or max(tensor.shape) == tensor.numel():
        values = tensor.detach().float()
        centre = float(values.mean()) if tensor.numel() and "running" not in name else 0.0
        return (1.0 if abs(centre - 1) < 0.3 else 0.0) + 0.3 * noise
    if isinstance(owner, _ConvNd):
        return noise * float((2.0 / max(1, tensor[0].numel())) ** 0.5)
    inputs = tensor.shape[1] if tensor.ndim == 2 else (tensor.shape[-1] * tensor.shape[-2]) ** 0.5
    return noise * float((2.0 / max(1, inputs)) ** 0.5)
