"""
What a Hugging Face model takes, by its configuration; small, and with labels where it has a head.

transformers is not imported here: the model brings its configuration along.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["hugging_face_inputs"]

_BATCH, _TOKENS = 2, 8
Offered = tuple[tuple[Any, ...], dict[str, Any], str]


def hugging_face_inputs(module: nn.Module, seed: int) -> Offered | None:
    """
    Arguments for a model of transformers; None for any other.

    A model with a head that takes labels gets some, so that it returns its own loss: for
    language models the tokens themselves, for others classes below ``num_labels``.

    Args:
        module: Has ``config`` and ``main_input_name``.
        seed: Of the values.
    """
    config, main = getattr(module, "config", None), getattr(module, "main_input_name", None)
    if config is None or not isinstance(main, str) or not hasattr(config, "model_type"):
        return None
    taken = set(inspect.signature(module.forward).parameters)
    made = _Made(config, torch.Generator().manual_seed(seed))
    arguments = made.main_inputs(main, taken)
    if arguments is None:
        offered = getattr(module, "dummy_inputs", None)
        return None if not isinstance(offered, dict) else ((), dict(offered), "dummy_inputs of the model")
    if "labels" in taken or "start_positions" in taken:
        arguments.update(made.labels(type(module).__name__, arguments, taken))
    return (), arguments, f"from the configuration ({config.model_type})"


class _Made:
    """Makes arguments by a configuration."""

    def __init__(self, config: Any, generator: torch.Generator) -> None:
        self._config = config
        self._generator = generator

    def main_inputs(self, main: str, taken: set[str]) -> dict[str, Tensor] | None:
        """What the model is about, and what has to come along; None: it isn't known."""
        arguments: dict[str, Tensor] = {}
        if "input_ids" in taken:
            vocabulary = self._setting("vocab_size")
            if vocabulary is None:
                return None
            length = min(_TOKENS, self._setting("max_position_embeddings") or _TOKENS)
            arguments["input_ids"] = self._integers(vocabulary, _BATCH, length)
            arguments["attention_mask"] = torch.ones(_BATCH, length, dtype=torch.int64)
        if "pixel_values" in taken:
            size = self._setting("image_size") or 224
            height, width = size if isinstance(size, (tuple, list)) else (size, size)
            channels = self._setting("num_channels") or 3
            arguments["pixel_values"] = self._floats(_BATCH, channels, height, width)
        if "input_features" in taken:
            frames = 2 * (self._setting("max_source_positions") or 500)
            arguments["input_features"] = self._floats(_BATCH, self._setting("num_mel_bins") or 80, frames)
        if "input_values" in taken:
            arguments["input_values"] = self._floats(_BATCH, 16_000)
        if main not in arguments:
            return None
        if self._setting("is_encoder_decoder") and "decoder_input_ids" in taken:
            vocabulary = self._setting("vocab_size") or 2
            arguments["decoder_input_ids"] = self._integers(vocabulary, _BATCH, _TOKENS)
        return {name: value for name, value in arguments.items() if name in taken}

    def labels(self, kind: str, arguments: dict[str, Tensor], taken: set[str]) -> dict[str, Tensor]:
        """What the head of a model compares with; empty where that isn't known."""
        if "start_positions" in taken:
            ends = self._integers(_TOKENS, _BATCH)
            return {"start_positions": ends, "end_positions": ends}
        classes = self._setting("num_labels") or 2
        if "TokenClassification" in kind:
            return {"labels": self._integers(classes, *arguments["input_ids"].shape)}
        if "Classification" in kind:
            return {"labels": self._integers(classes, _BATCH)}
        words = ("CausalLM", "LMHead", "MaskedLM", "ConditionalGeneration", "PreTraining")
        if any(word in kind for word in words):
            tokens = arguments.get("decoder_input_ids", arguments.get("input_ids"))
            # The decoder's own input follows from the labels.
            arguments.pop("decoder_input_ids", None)
            return {} if tokens is None else {"labels": tokens}
        return {}

    def _setting(self, name: str) -> Any:
        """Of the configuration, or of the part for text, image or audio in it."""
        parts = (self._config, *(getattr(self._config, f"{part}_config", None) for part in _PARTS))
        return next((value for part in parts if (value := getattr(part, name, None)) is not None), None)

    def _integers(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self._generator)

    def _floats(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)


_PARTS = ("text", "vision", "audio", "encoder", "decoder")
