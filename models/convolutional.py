"""
A small convolutional network with BatchNorm: buffers beside the parameters.

BatchNorm keeps a running mean, a running variance and a counter of batches;
they are saved and not trained, so they count as buffers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Digits(nn.Module):
    """Grey images of 28 by 28 pixels in, one score per digit out."""

    def __init__(self, channels: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Linear(2 * channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images of shape (batch, 1, 28, 28) to scores of shape (batch, classes)."""
        return self.classifier(self.features(images).flatten(1))


def example_input() -> Tensor:
    """Four images, shape (4, 1, 28, 28)."""
    return torch.linspace(0.0, 1.0, 4 * 28 * 28).reshape(4, 1, 28, 28)
