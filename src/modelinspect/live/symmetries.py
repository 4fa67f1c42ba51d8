"""
How rows lie in a model's own fused weights, found by running it alone.

The right reading of a weight has a symmetry: q twice as large and k half as large leave every
score of an attention as it was, whatever the weights. A wrong reading has none. So random
weights go in, and what leaves the outputs as they were tells how the model reads its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from modelinspect.errors import DefinitionError
from modelinspect.live.compare import Shared, flat_outputs, shared_inputs
from modelinspect.live.compare_settings import attention_numbers
from modelinspect.live.definition import Definition, load_definition
from modelinspect.live.inputs import described, made
from modelinspect.live.prove_bench import Bench, bench_of

__all__ = ["Layout", "Rows", "SymmetryBench", "symmetry_bench"]

_SHOWS = 1e-6
"""Relative change of an output that more than rounding makes."""
_SHARE = 1e-3
"""Of the change that a wrong reading makes, which an epsilon in a norm may make as well."""
_MOST_CHANGE = {torch.float64: 1e-4, torch.float32: 5e-4}


class Layout(NamedTuple):
    """How parts alternate in a fused axis."""

    roles: tuple[str, ...]
    """In the order in which they lie: ``("q", "k", "v")``."""
    lengths: tuple[int, ...]
    """Rows of each, in the same order."""
    groups: int
    """1: one after the other; as many as heads: head by head."""

    def rows(self, role: str) -> Tensor:
        """Numbers of the rows of a part, in its own order."""
        at = self.roles.index(role)
        start, width = sum(self.lengths[:at]) // self.groups, self.lengths[at] // self.groups
        whole = sum(self.lengths) // self.groups
        return (torch.arange(self.groups)[:, None] * whole + start + torch.arange(width)).flatten()


class Rows(NamedTuple):
    """Some rows of a tensor."""

    name: str
    axis: int
    at: Tensor | None = None
    """None: all of them."""


Rotation = Literal["halves", "pairs", "none"]
PatchOrder = Literal["channels first", "channels last"]
Fused = Sequence[tuple[str, int]]
"""Names of tensors that are fused alike, each with the axis of its rows."""


@contextmanager
def symmetry_bench(
    definition: Any,
    used: Iterable[str],
    inputs: Sequence[str] = (),
    *,
    guesses: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[SymmetryBench]:
    """
    A model in eval mode with random weights, in float64 where it runs in it.

    It is as it was when the block ends.

    Args:
        definition: A module, a definition or a target such as ``net.py:Net``.
        used: Names of the tensors that weights are for.
        inputs: As ``--input`` spells them; empty: worked out.
        guesses: What to try where nothing is said and nothing could be worked out.
        seed: Of weights, inputs and generators.

    Raises:
        DefinitionError: It can't be built, or no input for it is found.
        UsageError: An input is spelt badly.
    """
    module, home = _built(definition, seed)
    way = _way(module, home, inputs, guesses, seed)
    with bench_of(module, module, way, seed=seed) as bench:
        bench.randomise(frozenset(used), seed)
        yield SymmetryBench(bench, module, seed)


def _way(
    module: nn.Module, home: str | None, inputs: Sequence[str], guesses: Sequence[str], seed: int
) -> Shared:
    """What the module is run on."""
    found = _tried(module, home, inputs, seed)
    for guess in () if inputs else guesses:
        if isinstance(found, Shared):
            break
        found = _tried(module, home, (guess,), seed)
    if isinstance(found, Shared):
        return found
    raise DefinitionError(
        f"no input for {type(module).__name__} could be worked out",
        details=found.details[:3],
        hint="give one: --input 2x3x224x224 or --input 'int64[2,8]<1000'",
    ) from found


def _tried(module: nn.Module, home: str | None, inputs: Sequence[str], seed: int) -> Shared | DefinitionError:
    try:
        return shared_inputs(module, module, inputs, seed=seed, homes=(home, home))[0]
    except DefinitionError as error:
        return error


def _built(definition: Any, seed: int) -> tuple[nn.Module, str | None]:
    """A module that can be run, and the file it is from."""
    if isinstance(definition, Definition):
        tensors = (*definition.module.parameters(), *definition.module.buffers())
        if not any(tensor.is_meta for tensor in tensors):
            return definition.module, definition.home
        definition = definition.target
    if isinstance(definition, nn.Module):
        return definition, None
    loaded = load_definition(definition, meta=False, seed=seed)
    return loaded.module, loaded.home


class SymmetryBench:
    """
    Made by :func:`symmetry_bench`.

    Args:
        bench: With the model on both sides.
        module: The model.
        seed: Of what is drawn.
    """

    def __init__(self, bench: Bench, module: nn.Module, seed: int) -> None:
        self._bench, self._module, self._seed = bench, module, seed
        self.head_counts, self.head_sizes = attention_numbers((module,))
        self.input = described(bench.shared.target)
        self.runs = 0
        self._most = _MOST_CHANGE[bench.dtype]
        self._base = self._run()

    # ------------------------------------------------------------------- runs

    def _run(self) -> list[Tensor]:
        self.runs += 1
        return [tensor.double() for _, tensor in flat_outputs(self._bench.run_target())]

    @contextmanager
    def _with(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        kept = {name: self._bench.source_tensor(name).clone() for name in values}
        try:
            self._bench.fill(values)
            yield
        finally:
            self._bench.fill(kept)

    @contextmanager
    def _under(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Other values for a while, which all changes are compared with."""
        before = self._base
        with self._with(values):
            if values:
                self._base = self._run()
            try:
                yield
            finally:
                self._base = before

    def _change(self, values: Mapping[str, Tensor]) -> float:
        """The largest relative change of an output that other values make."""
        try:
            with self._with(values):
                now = self._run()
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  (with these weights it does not run)
            return float("inf")
        return max((_relative(one, other) for one, other in zip(self._base, now)), default=0.0)

    def _keeps(self, change: float, wrong: float) -> bool:
        """A change that rounding explains, or an epsilon, where a wrong reading makes a large one."""
        return wrong > _SHOWS and change <= min(self._most, _SHARE * wrong)

    # ------------------------------------------------------------------ edits

    def _edited(self, edits: Iterable[tuple[Rows, Callable[[Tensor], Tensor]]]) -> dict[str, Tensor]:
        """New values for tensors, each edit applied to its rows."""
        values: dict[str, Tensor] = {}
        for (name, axis, at), edit in edits:
            if name not in values:
                values[name] = self._bench.source_tensor(name).clone()
            moved = values[name].movedim(axis, 0)
            if at is None:
                moved.copy_(edit(moved))
            else:
                moved[at] = edit(moved[at])
        return values

    def _scaled(self, factors: Iterable[tuple[Rows, float]]) -> float:
        return self._change(
            self._edited((rows, lambda t, factor=factor: t * factor) for rows, factor in factors)  # type: ignore[misc]
        )

    def _has(self, name: str) -> bool:
        return name in self._bench.source_names()

    # ------------------------------------------------------------- q, k and v

    def fused_layout(
        self,
        fused: Fused,
        layouts: Iterable[Layout],
        silent: Sequence[str] = (),
        queries: Sequence[Rows] = (),
    ) -> Layout | None:
        """
        The one layout in which q, k and v lie in fused tensors; None where runs don't tell.

        Args:
            fused: The tensors, of all blocks that are alike.
            layouts: What may be, each with the roles q, k and v; without q if that is apart.
            silent: Vectors beside them, taken as 0: they may be added to the rows.
            queries: Rows of q, where they are apart.
        """
        zeros = {
            name: torch.zeros_like(self._bench.source_tensor(name)) for name in silent if self._has(name)
        }
        passing: list[Layout] = []
        with self._under(zeros):
            for layout in layouts:
                if self._is_read_so(fused, layout, queries):
                    passing.append(layout)
                if len(passing) > 1:
                    return None
        return passing[0] if passing else None

    def _fits(self, fused: Fused, layout: Layout) -> bool:
        """The model has all of these tensors, with as many rows."""
        tensors = [(self._bench.source_tensor(name), axis) for name, axis in fused if self._has(name)]
        return len(tensors) == len(fused) and all(
            tensor.ndim > axis and tensor.shape[axis] == sum(layout.lengths) for tensor, axis in tensors
        )

    def _is_read_so(self, fused: Fused, layout: Layout, queries: Sequence[Rows]) -> bool:
        if not self._fits(fused, layout):
            return False

        def of(role: str) -> list[Rows]:
            return [Rows(name, axis, layout.rows(role)) for name, axis in fused]

        q, k = queries or of("q"), of("k")
        both = self._scaled([*((rows, 2.0) for rows in q), *((rows, 0.5) for rows in k)])
        if both > self._most:
            return False
        values = self._noisy(of("v"))
        alone = self._scaled((rows, 2.0) for rows in q)
        if self._keeps(alone, values):  # a norm hides how large q is: then each alone is hidden
            return self._keeps(self._scaled((rows, 3.0) for rows in k), values) and self._keeps(both, values)
        return self._keeps(both, alone) and values > _SHOWS

    def _noisy(self, parts: Iterable[Rows]) -> float:
        """The change that other values in these rows make."""
        generator = torch.Generator().manual_seed(self._seed + 7)

        def edit(tensor: Tensor) -> Tensor:
            return tensor * (0.5 + torch.rand(tensor.shape, generator=generator).to(tensor))

        return self._change(self._edited((rows, edit) for rows in parts))

    # ------------------------------------------------------------ gate and up

    def gated_layout(
        self, fused: Fused, layouts: Iterable[Layout], downs: Iterable[Sequence[str]]
    ) -> Layout | None:
        """
        The layout in which gate and up lie in fused tensors; None where runs don't tell.

        Args:
            fused: The tensors, of all blocks that are alike.
            layouts: What may be, each with the roles gate and up.
            downs: What may follow: each the names of one matrix in all blocks.
        """
        layouts = list(layouts)
        for down in downs:
            passing = [layout for layout in layouts if self._is_gated_so(fused, layout, down)]
            if len(passing) == 1:
                return passing[0]
        return None

    def _is_gated_so(self, fused: Fused, layout: Layout, down: Sequence[str]) -> bool:
        """The minus: twice as much of a gate with relu is twice as much of what it lets through."""
        if not self._fits(fused, layout) or not all(map(self._has, down)):
            return False
        after = [(Rows(name, 0), -0.5) for name in down]
        up = [(Rows(name, axis, layout.rows("up")), -2.0) for name, axis in fused]
        both = self._scaled([*up, *after])
        return both <= self._most and self._keeps(both, self._scaled(up))

    # ------------------------------------------------------------------ rotary

    def rotation(
        self, q: Sequence[Rows], k: Sequence[Rows], sizes: Iterable[int], norms: Sequence[str] = ()
    ) -> list[tuple[Rotation, int]]:
        """
        Which rows of a head are turned against each other, with each size that fits; mostly one.

        Pairs of neighbours are the same for all sizes. Empty: runs don't tell.

        Args:
            q: Rows of queries, head by head, of all blocks that are alike.
            k: Rows of keys.
            sizes: What the rows of a head may be.
            norms: Vectors of norms of q and k, the same for all rows meanwhile.
        """
        even = {
            name: torch.full_like(self._bench.source_tensor(name), 0.7) for name in norms if self._has(name)
        }
        found: list[tuple[Rotation, int]] = []
        with self._under(even):
            for size in sizes:
                shown = self._rotation(q, k, size)
                if shown == "none":
                    return [("none", size)]
                if shown is not None:
                    found.append((shown, size))
        return found

    def _rotation(self, q: Sequence[Rows], k: Sequence[Rows], size: int) -> Rotation | None:
        angles = 0.5 + 2 * torch.rand(size // 2, generator=torch.Generator().manual_seed(self._seed + 3))

        def change(parts: Iterable[Rows], halves: bool) -> float:
            return self._change(
                self._edited((rows, lambda t: _turned(t, size, angles, halves)) for rows in parts)
            )

        wrong = change(q, True)
        passing = [halves for halves in (True, False) if self._keeps(change([*q, *k], halves), wrong)]
        if len(passing) == 2:
            return "none"
        return ("halves" if passing[0] else "pairs") if passing else None

    # ------------------------------------------------------------------- heads

    def head_size(
        self, parts: Sequence[Sequence[Rows]], after: Sequence[Rows], sizes: Iterable[int]
    ) -> int | None:
        """
        Rows of a head of k and v; None where runs don't tell.

        Heads may change places, parts of them may not.

        Args:
            parts: Rows of q, k and v, head by head.
            after: The columns of what follows, in the order of the rows of q.
            sizes: What may be, all divisors included.
        """
        q, k, v = parts
        shared = self._length(k[0])
        ratio = self._length(q[0]) // shared
        for size in sorted(set(sizes)):
            if size >= shared:
                return None

            def moved(some: Iterable[Rows], by: int) -> Iterator[tuple[Rows, Callable[[Tensor], Tensor]]]:
                return ((rows, lambda t: t.roll(by, 0)) for rows in some)

            wide, narrow = list(moved([*q, *after], size * ratio)), list(moved([*k, *v], size))
            alone = self._change(self._edited(moved(q, size * ratio)))
            if self._keeps(self._change(self._edited([*wide, *narrow])), alone):
                return size
        return None

    def _length(self, rows: Rows) -> int:
        return len(rows.at) if rows.at is not None else self._bench.source_tensor(rows.name).shape[rows.axis]

    # ------------------------------------------------------------------- norms

    def norm_offset(self, weights: Sequence[str]) -> int | None:
        """
        What norms add to their weight, 0 or 1; None where runs don't tell.

        Args:
            weights: Vectors, each all that is in a module.
        """
        if not all(map(self._has, weights)):
            return None
        fitting = [offset for offset in (0, 1) if self._is_silent(weights, -float(offset))]
        return fitting[0] if len(fitting) == 1 else None

    def _is_silent(self, weights: Sequence[str], value: float) -> bool:
        """The modules put out nothing but zeros with that value in their weights."""
        seen: list[bool] = []

        def look(_module: nn.Module, _given: Any, out: Any) -> None:
            seen.append(isinstance(out, Tensor) and not bool(out.any()))

        values = {name: torch.full_like(self._bench.source_tensor(name), value) for name in weights}
        handles = [
            self._module.get_submodule(name.rpartition(".")[0]).register_forward_hook(look)
            for name in weights
        ]
        try:
            self._change(values)
        finally:
            for handle in handles:
                handle.remove()
        return bool(seen) and all(seen)

    # ----------------------------------------------------------------- patches

    def patch_order(self, weights: Sequence[str], beside: Sequence[str], channels: int) -> PatchOrder | None:
        """
        How the columns of a matrix over patches go; None where runs don't tell.

        Args:
            weights: The matrix.
            beside: Vectors with a number for each column: a norm before it.
            channels: Of the image.
        """
        orders: tuple[PatchOrder, ...] = ("channels first", "channels last")
        passing = [order for order in orders if self._is_ordered_so(weights, beside, channels, order)]
        return passing[0] if len(passing) == 1 else None

    def _is_ordered_so(
        self, weights: Sequence[str], beside: Sequence[str], channels: int, order: PatchOrder
    ) -> bool:
        def edit(tensor: Tensor) -> Tensor:
            lengths = (channels, -1) if order == "channels first" else (-1, channels)
            return (
                tensor.reshape(*lengths, *tensor.shape[1:])
                .roll(1, lengths.index(channels))
                .reshape(tensor.shape)
            )

        columns = [Rows(name, self._bench.source_tensor(name).ndim - 1) for name in (*weights, *beside)]
        values = self._edited((rows, edit) for rows in columns)
        wrong = self._change(values)
        with self._rolled_image(channels) as is_rolled:
            return is_rolled and self._keeps(self._change(values), wrong)

    @contextmanager
    def _rolled_image(self, channels: int) -> Iterator[bool]:
        """The image with its channels moved by one."""
        shared = self._bench.shared
        rolled: list[Tensor] = []

        def roll(tensor: Tensor) -> Tensor:
            if tensor.ndim == 4 and tensor.shape[1] == channels and tensor.is_floating_point():
                rolled.append(tensor)
                return tensor.roll(1, 1)
            return tensor

        args, kwargs = made((shared.target.args, shared.target.kwargs), roll)
        self._bench.shared = shared._replace(target=shared.target._replace(args=args, kwargs=kwargs))
        try:
            yield len(rolled) == 1
        finally:
            self._bench.shared = shared


def _turned(rows: Tensor, size: int, angles: Tensor, halves: bool) -> Tensor:
    """Rows of each head turned in pairs, by the same angles in all heads."""
    heads = rows.reshape(-1, size, *rows.shape[1:])
    one, two = heads.chunk(2, 1) if halves else (heads[:, ::2], heads[:, 1::2])
    shape = (1, size // 2, *(1,) * (rows.ndim - 1))
    cos, sin = (each.to(rows).reshape(shape) for each in (angles.cos(), angles.sin()))
    parts = [one * cos - two * sin, one * sin + two * cos]
    turned: Tensor = torch.cat(parts, 1) if halves else torch.stack(parts, 2)
    return turned.reshape(rows.shape)


def _relative(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape or not torch.equal(torch.isfinite(one), torch.isfinite(other)):
        return float("inf")
    finite = torch.isfinite(one)
    if not finite.any():
        return 0.0
    difference, scale = float((one - other)[finite].abs().max()), float(one[finite].abs().max())
    return difference / scale if scale else float(difference > 0)
