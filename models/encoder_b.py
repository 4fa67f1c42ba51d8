"""
The classifier of ``encoder_a.py``, as another author would write it.

Same shapes and the same function; other names, another nesting, another order of
registration. A state_dict of one runs in the other once its names are changed:
45,557 parameters each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class SelfAttention(nn.Module):
    """Self-attention; the projection out is registered before the three in."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.wo = nn.Linear(dim, dim)
        self.wv = nn.Linear(dim, dim)
        self.wk = nn.Linear(dim, dim)
        self.wq = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        batch, length, dim = x.shape
        shape = (batch, length, self.num_heads, dim // self.num_heads)
        q = self.wq(x).view(shape).transpose(1, 2)
        k = self.wk(x).view(shape).transpose(1, 2)
        v = self.wv(x).view(shape).transpose(1, 2)
        return self.wo(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """The feed-forward part comes first here, and is a Sequential."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.ln2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))
        self.ln1 = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        x = self.ln1(x + self.attn(x))
        return self.ln2(x + self.mlp(x))


class Classifier(nn.Module):
    """Token numbers in, one score per class out; the head is registered first."""

    def __init__(
        self,
        num_tokens: int = 120,
        dim: int = 48,
        depth: int = 2,
        num_heads: int = 4,
        mlp_dim: int = 96,
        max_length: int = 32,
        num_classes: int = 5,
    ) -> None:
        super().__init__()
        self.head = nn.Linear(dim, num_classes)
        self.blocks = nn.Sequential(*(Block(dim, num_heads, mlp_dim) for _ in range(depth)))
        self.ln0 = nn.LayerNorm(dim)
        self.pos = nn.Embedding(max_length, dim)
        self.tok = nn.Embedding(num_tokens, dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens of shape (batch, tokens) to scores of shape (batch, num_classes)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.head(self.blocks(self.ln0(self.tok(ids) + self.pos(places))).mean(dim=1))


def example_input() -> Tensor:
    """Two texts of eight tokens, shape (2, 8)."""
    return torch.arange(16).reshape(2, 8)
