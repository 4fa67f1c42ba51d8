"""
Leave a model as it was found: mode, gradients, buffers, device, data type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

__all__ = ["preserved"]


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """
    Whatever is done to a model inside, apart from training it, is undone.

    Each module gets back its mode, each parameter its gradient and the very memory it
    had, so that a cast to float16 loses nothing; buffers, such as running statistics,
    get back their values. A lazy module that is run for the first time stays initialised.
    """
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(p, p.grad, _memory_of(p)) for p in model.parameters()]
    buffers = [
        (module, name, buffer, None if _is_lazy(buffer) else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    # A cast would change the very gradients that are to be given back.
    for parameter, _, _ in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, gradient, data in parameters:
            # Cast first: a gradient must be of the parameter's type and device.
            parameter.grad = None
            if data is not None:
                parameter.data = data
            parameter.grad = gradient
        for module, name, buffer, values in buffers:
            if values is not None:
                _give_back(module, name, buffer, values)


def _memory_of(parameter: nn.Parameter) -> Tensor | None:
    return None if _is_lazy(parameter) else parameter.data


def _is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, (UninitializedParameter, UninitializedBuffer))


def _give_back(module: nn.Module, name: str, buffer: Tensor, values: Tensor) -> None:
    module._buffers[name] = buffer
    # A meta or an inference tensor takes no values, and has not been changed either.
    with suppress(RuntimeError, NotImplementedError), torch.no_grad():
        buffer.copy_(values)
