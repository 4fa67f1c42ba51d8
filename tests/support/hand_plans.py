"""
Plans made by hand, and what torch itself makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from modelinspect.live.module_table import tensors_table
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import ParameterTable
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.transforms import apply_steps, parse_steps

State = Mapping[str, torch.Tensor]
Rule = str | tuple[str, str] | tuple[list[tuple[str, str]], str]
"""A source's name; that and its steps; or several of these and the steps that join them."""


def assignment(target: str, rule: Rule) -> Assignment:
    """One line of a plan."""
    if isinstance(rule, str):
        return Assignment(target, (Piece(rule),))
    first, steps = rule
    if isinstance(first, str):
        return Assignment(target, (Piece(first, parse_steps(steps)),))
    pieces = tuple(Piece(name, parse_steps(own)) for name, own in first)
    return Assignment(target, pieces, parse_steps(steps))


def expected(state: State, rules: Mapping[str, Rule], like: State | None = None) -> dict[str, torch.Tensor]:
    """What torch makes of a state_dict in memory."""
    return {
        name: _made(assignment(name, rule), state, (like or {}).get(name)) for name, rule in rules.items()
    }


def _made(line: Assignment, state: State, like: torch.Tensor | None) -> torch.Tensor:
    found = [state[name] for name in line.sources]
    stand_in = found[0] if found else like
    pieces = [
        apply_steps([state[piece.name] if piece.name else stand_in], piece.steps, torch)
        for piece in line.pieces
    ]
    made = apply_steps(pieces, line.steps, torch)
    assert isinstance(made, torch.Tensor)
    return made.contiguous().clone()  # tensors that are not tied


def plan_for(
    source: str | Path,
    rules: Mapping[str, Rule],
    target: State | ParameterTable,
    origin: Literal["definition", "file", "memory"] = "definition",
) -> Plan:
    """
    A plan from a file to tensors in hand, as if they were of a definition's.
    """
    if isinstance(target, ParameterTable):
        table = target
    else:
        table = ParameterTable("Target", tensors_table(target, "Target").tensors, origin)
    lines = tuple(assignment(name, rule) for name, rule in rules.items())
    return Plan(open_checkpoint(str(source)).table, table, lines)


def load(path: str | Path) -> dict[str, torch.Tensor]:
    """A written file by the ordinary loaders."""
    if str(path).endswith(".safetensors"):
        return load_file(path)
    loaded: Any = torch.load(path, weights_only=True)
    return dict(loaded)


def assert_same(found: State, wanted: State) -> None:
    """The same names, data types, shapes and bits."""
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert bits(found[name]) == bits(tensor), name


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor's elements."""
    plain = (
        tensor.detach().resolve_conj().resolve_neg().reshape(-1).clone(memory_format=torch.contiguous_format)
    )
    return bytes(plain.view(torch.uint8).numpy()) if plain.numel() else b""
