"""
The twin of ``regression.py``: the same 40 parameters under other names.

Its layers are attributes instead of numbers, so a state_dict of one does not
load into the other, although every shape is equal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Thermometer(nn.Module):
    """One number in, one number out: ``hidden_linear``, ``hidden_activation``, ``output_linear``."""

    def __init__(self, hidden: int = 13) -> None:
        super().__init__()
        self.hidden_linear = nn.Linear(1, hidden)
        self.hidden_activation = nn.Tanh()
        self.output_linear = nn.Linear(hidden, 1)

    def forward(self, reading: Tensor) -> Tensor:
        """Celsius for each reading; both of shape (N, 1)."""
        return self.output_linear(self.hidden_activation(self.hidden_linear(reading)))


def example_input() -> Tensor:
    """Readings over the range of the data, shape (8, 1)."""
    return torch.linspace(1.0, 7.0, 8).unsqueeze(1)
