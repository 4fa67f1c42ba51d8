"""
A small transformer text classifier, as one author would write it.

``encoder_b.py`` computes the same function with the same shapes, under other
names and registered in another order: 45,557 parameters each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class Attention(nn.Module):
    """Multi-head self-attention with one linear layer each for query, key, value and output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = scaled_dot_product_attention(query, key, value)
        return self.dense(mixed.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Attention and a feed-forward net; a LayerNorm follows each."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        self.intermediate = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width)
        self.output_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        x = self.attention_norm(x + self.attention(x))
        return self.output_norm(x + self.output(gelu(self.intermediate(x))))


class TextEncoder(nn.Module):
    """Token numbers in, one score per class out."""

    def __init__(
        self,
        vocabulary: int = 120,
        width: int = 48,
        layers: int = 2,
        heads: int = 4,
        inner: int = 96,
        length: int = 32,
        classes: int = 5,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(length, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, inner) for _ in range(layers))
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of shape (batch, tokens) to scores of shape (batch, classes)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedding_norm(self.word_embeddings(tokens) + self.position_embeddings(positions))
        for layer in self.encoder:
            x = layer(x)
        return self.classifier(x.mean(dim=1))


def example_input() -> Tensor:
    """Two texts of eight tokens, shape (2, 8)."""
    return torch.arange(16).reshape(2, 8)
