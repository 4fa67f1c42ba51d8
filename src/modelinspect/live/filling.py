"""
A module filled in place, as a plan says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modelinspect.errors import DefinitionError, visible
from modelinspect.live.weights import tensor_of
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.tensors import Checkpoint, ParameterTable

__all__ = ["fill", "tensors_of", "values_of"]


def fill(module: nn.Module, plan: Any, source: Any) -> None:
    """
    Load what a plan makes of a source into a module.

    Args:
        module: Filled in place; what the plan leaves out stays as it is.
        plan: A :class:`~modelinspect.transplant.plan.Plan` whose target is the module.
        source: A module, a dict of tensors or an opened checkpoint.

    Raises:
        DefinitionError: torch refuses a tensor.
        UsageError: The source has no values.
    """
    names = {name for assignment in plan.assignments for name in assignment.sources}
    with torch.no_grad():
        tensors = plan.apply(tensors_of(source, plan.source, names))
        is_meta = any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
        try:
            module.load_state_dict(tensors, strict=False, assign=is_meta)
        except RuntimeError as error:
            name = type(module).__name__
            raise DefinitionError(
                f"{visible(name)} can't be filled", details=tuple(visible(str(error)).split("\\x0a"))
            ) from error


def tensors_of(source: Any, table: ParameterTable, names: set[str]) -> Mapping[str, Any]:
    """
    Tensors by name, of a module, a dict or a checkpoint.
    """
    if isinstance(source, Checkpoint) or table.origin == "file":
        with StorageReader() as reader:
            return {name: tensor_of(table[name], reader.read) for name in names}
    module = getattr(source, "module", source)
    if isinstance(module, nn.Module):
        held: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
        held.update(module.named_buffers(remove_duplicate=False))
        return held
    from modelinspect.live.module_table import flattened

    return dict(flattened(source)) if isinstance(source, Mapping) else {}


def values_of(source: Any) -> Callable[[str], Any] | None:
    """
    A function that gives a tensor's values by name, as an array of numpy; None where
    there are none.
    """
    tensors = tensors_of(source, ParameterTable("", (), "memory"), set())
    if any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors.values()):
        return None

    def values(name: str) -> Any:
        tensor = tensors[name]
        if not isinstance(tensor, Tensor):
            return tensor
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    return values
