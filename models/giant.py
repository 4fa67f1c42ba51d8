"""
A decoder of 70.6 billion parameters: 282 GB, so it is built on the meta device only.

The sizes are arguments, for something larger (``Giant(layers=115)`` is 100.5
billion) or something that runs (``Giant(layers=2, width=64, inner=128, heads=4,
groups=2, vocabulary=100)``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu


class RMSNorm(nn.Module):
    """Divides by the root mean square of the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that ends in the width, to the same."""
        return self.weight * x * (x.square().mean(dim=-1, keepdim=True) + 1e-5).rsqrt()


class GroupedAttention(nn.Module):
    """Causal attention in which several query heads share one key and value head."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.shared_by = heads // groups
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, groups * self.head_width, bias=False)
        self.v_proj = nn.Linear(width, groups * self.head_width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        query, key, value = (
            layer(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        key, value = (t.repeat_interleave(self.shared_by, dim=1) for t in (key, value))
        mixed = scaled_dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def rotated(x: Tensor) -> Tensor:
    """Rotary positions: turn each half pair by an angle that grows with its position."""
    half = x.shape[-1] // 2
    speeds = 500_000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * speeds
    first, second = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class DecoderLayer(nn.Module):
    """Grouped attention and a gated feed-forward net; a norm precedes each."""

    def __init__(self, width: int, inner: int, heads: int, groups: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = GroupedAttention(width, heads, groups)
        self.mlp_norm = RMSNorm(width)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        x = x + self.attention(self.attention_norm(x))
        inner = self.mlp_norm(x)
        return x + self.down_proj(silu(self.gate_proj(inner)) * self.up_proj(inner))


class Giant(nn.Module):
    """Token numbers in, scores for the token that follows each out."""

    def __init__(
        self,
        layers: int = 80,
        width: int = 8192,
        inner: int = 28672,
        heads: int = 64,
        groups: int = 8,
        vocabulary: int = 128256,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(DecoderLayer(width, inner, heads, groups) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of shape (batch, length) to scores of shape (batch, length, vocabulary)."""
        x = self.tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def example_input() -> Tensor:
    """One text of eight tokens, shape (1, 8)."""
    return torch.arange(8).reshape(1, 8)
