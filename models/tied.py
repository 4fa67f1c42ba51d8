"""
A speller that shows what a count must get right.

Tied weights, a frozen layer, a buffer that is saved and one that is not, and
the classic slip: a state kept as a plain tensor attribute, which neither
``.to()`` nor ``state_dict()`` sees.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Speller(nn.Module):
    """Reads letters one after the other and scores the next one."""

    usage: Tensor
    stop: Tensor

    def __init__(self, letters: int = 27, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        self.cell = nn.GRUCell(width, width)
        self.out = nn.Linear(width, letters)
        self.out.weight = self.embedding.weight  # tied: one tensor, two names

        self.rotation = nn.Linear(width, width, bias=False).requires_grad_(False)  # frozen

        self.register_buffer("usage", torch.ones(letters))  # in the state_dict
        self.register_buffer("stop", torch.zeros(letters, dtype=torch.bool), persistent=False)

        self.h = torch.zeros(1, width)  # never registered: a slip, here on purpose

    def forward(self, letters: Tensor) -> Tensor:
        """Letters of shape (batch, length) to scores of shape (batch, 27)."""
        h = self.h.expand(letters.shape[0], -1)
        for letter in letters.unbind(dim=1):
            h = self.cell(self.rotation(self.embedding(letter)), h)
        return (self.out(h) / self.usage).masked_fill(self.stop, float("-inf"))


def example_input() -> Tensor:
    """Three words of five letters, shape (3, 5)."""
    return torch.arange(15).reshape(3, 5)
