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
    kind = type(module).__name__
    made = _Made(config, kind, torch.Generator().manual_seed(seed))
    arguments = made.main_inputs(main, taken)
    if arguments is None:
        offered = getattr(module, "dummy_inputs", None)
        if not isinstance(offered, dict) or main not in offered:
            return None
        return (), dict(offered), "dummy_inputs of the model"
    arguments.update(made.labels(arguments, taken))
    return (), arguments, f"from the configuration ({config.model_type})"


_CHOICES = 3
_WRITERS = ("CausalLM", "LMHead", "MaskedLM", "ConditionalGeneration", "PreTraining")


class _Made:
    """
    Makes arguments by a configuration.

    Args:
        config: Of the model.
        kind: Name of the model's class, which says what its head does.
        generator: Of the values.
    """

    def __init__(self, config: Any, kind: str, generator: torch.Generator) -> None:
        self._config = config
        self._kind = kind
        self._generator = generator
        has_padding = self._setting("pad_token_id") is not None
        # Without a token for padding, the last of several texts can't be told from it.
        self._batch = _BATCH if has_padding or "SequenceClassification" not in kind else 1

    def main_inputs(self, main: str, taken: set[str]) -> dict[str, Tensor] | None:
        """What the model is about, and what has to come along; None: it isn't known."""
        arguments: dict[str, Tensor] = {}
        for make in (self._tokens, self._image, self._sound, self._series):
            arguments.update(make(taken))
        if main not in arguments:
            return None
        vocabulary = self._setting("vocab_size", "decoder")
        if self._setting("is_encoder_decoder") and "decoder_input_ids" in taken and vocabulary:
            arguments["decoder_input_ids"] = self._integers(vocabulary, self._batch, self._length())
        return {name: value for name, value in arguments.items() if name in taken}

    def _tokens(self, taken: set[str]) -> dict[str, Tensor]:
        vocabulary = self._setting("vocab_size")
        if "input_ids" not in taken or not vocabulary:
            return {}
        choices = (_CHOICES,) if "MultipleChoice" in self._kind else ()
        ids = self._integers(vocabulary, self._batch, *choices, self._length())
        end = self._setting("eos_token_id")
        if self._setting("is_encoder_decoder") and "SequenceClassification" in self._kind and end is not None:
            # What is classified is the place of the one token that ends a text.
            ids[ids == end] = (end + 1) % vocabulary
            ids[..., -1] = end
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _image(self, taken: set[str]) -> dict[str, Tensor]:
        if "pixel_values" not in taken:
            return {}
        size = self._setting("image_size") or 224
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return {"pixel_values": self._floats(self._setting("num_channels") or 3, height, width)}

    def _sound(self, taken: set[str]) -> dict[str, Tensor]:
        """Waves; or spectra, in the order of axes that the model has them in."""
        made = {}
        bins, frames = self._setting("num_mel_bins"), self._setting("max_length")
        if "input_values" in taken:
            made["input_values"] = self._floats(frames, bins) if bins and frames else self._floats(16_000)
        if "input_features" in taken:
            frames = 2 * (self._setting("max_source_positions") or 500)
            features = self._setting("input_feat_per_channel")
            shape = (frames, features) if features else (bins or 80, frames)
            made["input_features"] = self._floats(*shape)
        return made

    def _series(self, taken: set[str]) -> dict[str, Tensor]:
        length, channels = self._setting("context_length"), self._setting("num_input_channels")
        if "past_values" not in taken or not length or not channels:
            return {}
        return {"past_values": self._floats(length, channels)}

    def labels(self, arguments: dict[str, Tensor], taken: set[str]) -> dict[str, Tensor]:
        """What the head of a model compares with; empty where that isn't known."""
        if "start_positions" in taken:
            ends = self._integers(arguments["input_ids"].shape[-1], self._batch)
            return {"start_positions": ends, "end_positions": ends}
        if "labels" not in taken:
            return {}
        found = self._classes(arguments)
        if found is None and any(word in self._kind for word in _WRITERS):
            found = arguments.get("decoder_input_ids", arguments.get("input_ids"))
            # The decoder's own input follows from the labels.
            arguments.pop("decoder_input_ids", None)
        if found is None:
            return {}
        more = (
            {"next_sentence_label": self._integers(2, self._batch)} if "next_sentence_label" in taken else {}
        )
        return {"labels": found, **more}

    def _classes(self, arguments: dict[str, Tensor]) -> Tensor | None:
        classes = self._setting("num_labels") or 2
        if "MultipleChoice" in self._kind:
            return self._integers(_CHOICES, self._batch)
        if "NextSentence" in self._kind:
            return self._integers(2, self._batch)
        if self._kind == "ElectraForPreTraining":  # tells tokens that were replaced
            return self._integers(2, *arguments["input_ids"].shape)
        if "TokenClassification" in self._kind:
            return self._integers(classes, *arguments["input_ids"].shape)
        if "Classification" not in self._kind:
            return None
        if self._setting("problem_type") == "multi_label_classification":
            return self._integers(2, self._batch, classes).float()
        return self._integers(classes, self._batch)

    def _length(self) -> int:
        """Of a text; half the positions at most, as some models count them from the padding's number on."""
        most = self._setting("max_position_embeddings") or 0
        return min(_TOKENS, max(1, most // 2)) if most > 0 else _TOKENS

    def _setting(self, name: str, *first: str) -> Any:
        """Of the configuration, or of a part in it: for text, image, audio; some *first*."""
        parts = (*(self._part(part) for part in first), self._config, *(self._part(part) for part in _PARTS))
        return next((value for part in parts if (value := getattr(part, name, None)) is not None), None)

    def _part(self, name: str) -> Any:
        """Configurations of one model made of several call it ``text_config``, or ``encoder``."""
        return getattr(self._config, f"{name}_config", None) or getattr(self._config, name, None)

    def _integers(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self._generator)

    def _floats(self, *shape: int) -> Tensor:
        return torch.randn((self._batch, *shape), generator=self._generator)


_PARTS = ("text", "vision", "audio", "encoder", "decoder")
