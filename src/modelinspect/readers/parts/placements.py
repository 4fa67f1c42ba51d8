"""
How a distributed tensor is laid over ranks, from the description that it is pickled with.

``DTensorSpec`` has ``placements``, one for each axis of the mesh: ``Shard`` with its ``dim``,
``Replicate``, ``Partial`` with its ``reduce_op`` (torch 2.13, ``torch/distributed/tensor/
placement_types.py``).
"""

from __future__ import annotations

from typing import Any

from modelinspect.readers.parts.pickle_symbols import Call, Global, PickledDict

__all__ = ["placement_of"]

_MOST = 8
"""Axes of a mesh, and settings of one placement."""
_MAX_WORD = 40


def placement_of(spec: Any) -> str:
    """``Shard(dim=0), Replicate()``; empty where the description is of another kind."""
    placements = _fields(spec).get("placements")
    if not isinstance(placements, (tuple, list)) or not 0 < len(placements) <= _MOST:
        return ""
    texts = [_text(placement) for placement in placements]
    return ", ".join(texts) if all(texts) else ""


def _text(placement: Any) -> str:
    """As Python shows it."""
    if type(placement) is not Call or type(placement.func) is not Global:
        return ""
    fields = _fields(placement)
    if placement.func.name == "Partial" and type(fields.get("reduce_op")) is str:
        return f"Partial({fields['reduce_op'][:_MAX_WORD]})"
    shown = [
        f"{name[:_MAX_WORD]}={str(value)[:_MAX_WORD]}"
        for name, value in fields.items()
        if type(value) in (int, str, bool)
    ]
    return f"{placement.func.name[:_MAX_WORD]}({', '.join(shown)})"


def _fields(symbol: Any) -> dict[str, Any]:
    state = symbol.states[-1] if type(symbol) is Call and symbol.states else None
    if type(state) is not PickledDict or len(state.flat) > 4 * _MOST:
        return {}
    return {key: value for key, value in state.pairs() if type(key) is str}
