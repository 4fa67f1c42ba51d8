"""
The regression network with one hidden layer: 40 parameters in 4 tensors, named by number.

It turns the reading of an unlabelled thermometer into degrees Celsius and can be
fitted to ``regression.csv`` beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Regression(nn.Sequential):
    """One number in, one number out: Linear, Tanh, Linear."""

    def __init__(self, hidden: int = 13) -> None:
        super().__init__(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))


def example_input() -> Tensor:
    """Readings over the range of the data, shape (8, 1)."""
    return torch.linspace(1.0, 7.0, 8).unsqueeze(1)
