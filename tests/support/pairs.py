"""
Pairs of implementations of one architecture as the matcher sees them: fixtures to sides.

``benchmarks/pairs`` proves the pairs and writes the files; here no library of theirs is needed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

from modelinspect.dtypes import dtype_named
from modelinspect.readers.parts.kinds import infer_kind, settled_by_siblings
from modelinspect.tensors import ParameterTable, Storage, TensorInfo
from modelinspect.transplant.plan import Assignment, Piece, Side
from modelinspect.transplant.transforms import parse_steps

__all__ = [
    "FOLDER",
    "SOURCES",
    "TARGETS",
    "Fixture",
    "Form",
    "Tensor",
    "fixtures",
    "renamed",
    "shuffled",
    "side_of",
]

FOLDER = Path(__file__).parents[1] / "transplant" / "pairs"

Form = Literal["definition", "pt", "safetensors"]
"""What a side is given as: a class, or a file of one of two formats."""
SOURCES: tuple[Form, ...] = ("pt", "safetensors")
TARGETS: tuple[Form, ...] = ("definition", "pt", "safetensors")


class Tensor(NamedTuple):
    """A tensor of a fixture."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str
    tied: str | None
    """First name of the same tensor."""


class _Half(NamedTuple):
    """One of the two models."""

    tensors: tuple[Tensor, ...]
    modules: Mapping[str, str]
    facts: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Fixture:
    """Names, shapes and truth of a pair."""

    name: str
    family: str
    kind: str
    """``same-shapes`` or ``transforms``."""
    source: _Half
    target: _Half
    truth: Mapping[str, Assignment]
    """By name in the target; names that are left out are made by the target itself."""
    made: frozenset[str]
    free: frozenset[str]
    """Their values show in no output, so that any claim is right."""
    open: frozenset[str] = frozenset()
    """Nobody can know where they come from, the source having no order."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Fixture:
        """A fixture as ``benchmarks.pairs.pair.fixture`` gives it."""
        return cls(
            data["name"],
            data["family"],
            data["kind"],
            _half(data["source"]),
            _half(data["target"]),
            {target: _truth(target, *each) for target, each in data["truth"].items()},
            frozenset(data["made"]),
            frozenset(data["free"]),
            frozenset(data.get("open", ())),
        )

    @classmethod
    def load(cls, path: Path) -> Fixture:
        """A fixture from its file."""
        return cls.of(json.loads(path.read_text(encoding="utf-8")))

    def source_side(self, form: Form) -> Side:
        """The source as that form gives it."""
        return side_of(self.source, form, "source")

    def target_side(self, form: Form) -> Side:
        """The target as that form gives it."""
        return side_of(self.target, form, "target")

    @cached_property
    def first_names(self) -> dict[str, str]:
        """Each name in the source to the first name of the same tensor."""
        return {tensor.name: tensor.tied or tensor.name for tensor in self.source.tensors}

    @cached_property
    def source_rows(self) -> dict[str, Tensor]:
        """The source's tensors by name."""
        return {tensor.name: tensor for tensor in self.source.tensors}


def fixtures(pattern: str = "*") -> list[Fixture]:
    """The fixtures whose names fit a glob, by name."""
    return [Fixture.load(path) for path in sorted(FOLDER.glob(f"{pattern}.json"))]


def renamed(fixture: Fixture, seed: int) -> Fixture:
    """
    The same pair with a random word for each word in the names of the source's modules.

    Numbers and the last part of a name stay.
    """
    chance, words = random.Random(seed), dict[str, str]()

    def word(match: re.Match[str]) -> str:
        if match[0] not in words:
            words[match[0]] = "".join(chance.choices("bcdfghjklmnprstvwz", k=6))
        return words[match[0]]

    def other(name: str, *, is_tensor: bool = True) -> str:
        path, dot, leaf = name.rpartition(".") if is_tensor else (name, "", "")
        return re.sub(r"[A-Za-z]+", word, path) + dot + leaf

    half = fixture.source
    tensors = tuple(
        row._replace(name=other(row.name), tied=row.tied and other(row.tied)) for row in half.tensors
    )
    modules = {other(path, is_tensor=False): name for path, name in half.modules.items()}
    facts = {other(path, is_tensor=False): found for path, found in half.facts.items()}
    truth = {
        target: each._replace(pieces=tuple(p._replace(name=p.name and other(p.name)) for p in each.pieces))
        for target, each in fixture.truth.items()
    }
    return replace(fixture, source=_Half(tensors, modules, facts), truth=truth)


def _half(data: Mapping[str, Any]) -> _Half:
    rows = tuple(
        Tensor(name, dtype, tuple(shape), kind, tied) for name, dtype, shape, kind, tied in data["tensors"]
    )
    return _Half(rows, data.get("modules", {}), data.get("facts", {}))


def _truth(target: str, pieces: Sequence[Sequence[str]], steps: str) -> Assignment:
    parts = tuple(Piece(name, parse_steps(own)) for name, own in pieces)
    return Assignment(target, parts, parse_steps(steps), "proven")


# --------------------------------------------------------------------------- sides


def side_of(half: _Half, form: Form, label: str) -> Side:
    """
    A model as its class, or a file of it, shows it.

    Args:
        half: The model.
        form: ``safetensors`` sorts and keeps one name of each tensor; only a definition knows
            modules, which tensors are buffers, and facts.
        label: What the table says that it was read from.
    """
    is_definition = form == "definition"
    tensors: Iterable[Tensor] = _as_safetensors(half.tensors) if form == "safetensors" else half.tensors
    rows: Sequence[TensorInfo] = [_row(tensor, form) for tensor in tensors]
    table = ParameterTable(
        label,
        rows if is_definition else settled_by_siblings(rows),
        "definition" if is_definition else "file",
        modules=half.modules if is_definition else {},
    )
    return Side(table, is_ordered=form != "safetensors", facts=half.facts if is_definition else {})


def shuffled(side: Side, seed: int) -> Side:
    """The same with its rows in another order, which is said to mean nothing."""
    rows = list(side.table.tensors)
    random.Random(seed).shuffle(rows)
    return replace(side, table=replace(side.table, tensors=rows), is_ordered=False)


def _row(tensor: Tensor, form: Form) -> TensorInfo:
    name, shape, is_declared = tensor.name, tensor.shape, form == "definition"
    dtype = dtype_named(tensor.dtype)
    inferred = infer_kind(name, dtype, shape)
    return TensorInfo(
        name,
        dtype,
        shape,
        Storage("", tensor.tied or name, None, dtype.nbytes(prod(shape))),
        kind=("buffer" if tensor.kind == "buffer" else "parameter") if is_declared else inferred,
        declared=is_declared,
        requires_grad=tensor.kind == "parameter" if is_declared else None,
        persistent=True if is_declared and tensor.kind == "buffer" else None,
    )


def _as_safetensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Wide types first, then by name; of tied tensors the one whose name sorts first."""
    kept: dict[str, Tensor] = {}
    for tensor in sorted(tensors, key=lambda each: each.name):
        kept.setdefault(tensor.tied or tensor.name, tensor._replace(tied=None))
    return sorted(kept.values(), key=lambda each: (-dtype_named(each.dtype).bits, each.dtype, each.name))
