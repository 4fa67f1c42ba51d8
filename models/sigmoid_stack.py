"""
Thirty sigmoid layers on top of each other: the gradient vanishes on its way down.

The derivative of a sigmoid is at most 1/4, so that each layer leaves less than a
quarter of the gradient to the one below it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SigmoidStack(nn.Module):
    """Numbers in, one number out, through a stack of layers of one width."""

    def __init__(self, depth: int = 30, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to (batch, 1)."""
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return self.out(x)


def example_input() -> Tensor:
    """Eight rows of numbers between -1 and 1, shape (8, 16)."""
    return torch.linspace(-1.0, 1.0, 8 * 16).reshape(8, 16)
