"""
Leave a model as it was found: mode, attributes, gradients, buffers, device, data type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

__all__ = ["preserved"]


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """
    Whatever is done to a model inside, apart from training it, is undone.

    Each module gets back its mode and its attributes, each parameter its gradient and the
    very memory it had, so that a cast to float16 loses nothing; buffers, such as running
    statistics, get back their values. A lazy module that is run for the first time stays
    initialised.
    """
    modes = [(module, module.training) for module in model.modules()]
    attributes = [_attributes_of(module) for module in model.modules() if not _is_special(module)]
    parameters = [(p, p.grad, p.requires_grad, _memory_of(p)) for p in model.parameters()]
    buffers = [
        (module, name, buffer, None if _is_lazy(buffer) else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    # A cast would change the very gradients that are to be given back.
    for parameter, *_ in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for tables in attributes:
            for there, then in tables:
                _restore(there, then)
        for module, mode in modes:
            module.training = mode
        for parameter, gradient, asks, data in parameters:
            # Cast first: a gradient must be of the parameter's type and device.
            parameter.grad = None
            if data is not None:
                parameter.data = data
            parameter.requires_grad = asks
            parameter.grad = gradient
        for module, name, buffer, values in buffers:
            if values is not None:
                _give_back(module, name, buffer, values)


_Table = dict[Any, Any]
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def _is_special(module: nn.Module) -> bool:
    """Its attributes are not its own to give back: of a script, or of one that its first run initialises."""
    own = (*module._parameters.values(), *module._buffers.values())
    return isinstance(module, torch.jit.ScriptModule) or any(map(_is_lazy, own))


def _attributes_of(module: nn.Module) -> list[tuple[_Table, _Table]]:
    """
    What a module holds, each table with a copy of what is in it.

    A cache and the number that says how large it is go together: one given back
    without the other would make the next call fail.
    """
    tables = [module.__dict__, module._parameters, module._buffers, module._modules]
    # A model may hang hooks into itself when it first runs, and note in an attribute that it did.
    tables += [vars(module)[name] for name in _HOOKS if isinstance(vars(module).get(name), dict)]
    return [(table, dict(table)) for table in tables]


def _restore(there: _Table, then: _Table) -> None:
    if there.keys() == then.keys() and all(there[name] is then[name] for name in then):
        return
    there.clear()
    there.update(then)


def _memory_of(parameter: nn.Parameter) -> Tensor | None:
    return None if _is_lazy(parameter) else parameter.data


def _is_lazy(tensor: Tensor | None) -> bool:
    return isinstance(tensor, (UninitializedParameter, UninitializedBuffer))


def _give_back(module: nn.Module, name: str, buffer: Tensor, values: Tensor) -> None:
    module._buffers[name] = buffer
    # A meta or an inference tensor takes no values, and has not been changed either.
    with suppress(RuntimeError, NotImplementedError), torch.no_grad():
        buffer.copy_(values)
