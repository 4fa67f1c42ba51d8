"""
Values that a model makes itself when it is built: masks, position numbers, counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modelinspect.errors import ModelInspectError, visible
from modelinspect.live.definition import Definition, load_definition

__all__ = ["save_own_values"]

_LARGEST = 8 << 30
"""Bytes of a model that is built for its own values."""


def save_own_values(holder: Any, names: Sequence[str], path: str) -> tuple[str, ...]:
    """
    Write the values that a new model has in some of its tensors.

    Args:
        holder: A module in hand, or a definition, which is built twice, so that what is
            drawn at random is told from what is always the same.
        names: Of its tensors.
        path: File to write, as ``torch.save`` does.

    Returns:
        What is to be said: names whose values could not be had are left out.
    """
    try:
        states = _states(holder)
    except ModelInspectError as error:
        states, why = [], f"it can't be built for real: {error.message}"
    else:
        why = "they are another time other ones" if states else "it is too large to be built for it"
    found = {name: states[0][name] for name in names if _is_settled(states, name)}
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in found.items()}, path)
    left = [name for name in names if name not in found]
    if not left:
        return ()
    return (f"what the target makes itself is left out ({visible(', '.join(left[:4]))}): {visible(why)}",)


def _states(holder: Any) -> list[dict[str, Tensor]]:
    """The state_dict of the module, or of two that are built; none where that takes too much."""
    if isinstance(holder, nn.Module):
        return [dict(holder.state_dict())]
    assert isinstance(holder, Definition)
    if not any(tensor.is_meta for tensor in (*holder.module.parameters(), *holder.module.buffers())):
        return [dict(holder.module.state_dict())]
    if sum(row.nbytes for row in holder.table) > _LARGEST:
        return []
    built = (load_definition(holder.target, meta=False, seed=seed) for seed in (0, 1))
    return [dict(each.module.state_dict()) for each in built]


def _is_settled(states: Sequence[dict[str, Tensor]], name: str) -> bool:
    tensors = [state[name] for state in states if isinstance(state.get(name), Tensor)]
    if not tensors or any(tensor.is_meta for tensor in tensors):
        return False
    return all(torch.equal(tensors[0], tensor) for tensor in tensors[1:])
