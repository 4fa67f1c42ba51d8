"""
Whisper of OpenAI and of transformers, both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration
from whisper.model import ModelDimensions, Whisper

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import mapped, tokens

_RULES = {
    "encoder.positional_embedding": "model.encoder.embed_positions.weight",
    "decoder.positional_embedding": "model.decoder.embed_positions.weight",
    "decoder.token_embedding.weight": "model.decoder.embed_tokens.weight",
    "encoder.conv1": "model.encoder.conv1",
    "encoder.conv2": "model.encoder.conv2",
    "encoder.ln_post": "model.encoder.layer_norm",
    "decoder.ln": "model.decoder.layer_norm",
}
for _side in ("encoder", "decoder"):
    for _ours, _theirs in (("attn", "self_attn"), ("cross_attn", "encoder_attn")):
        _at, _own = f"{_side}.blocks.*.{_ours}", f"model.{_side}.layers.*.{_theirs}"
        _RULES |= {
            f"{_at}.query": f"{_own}.q_proj", f"{_at}.key": f"{_own}.k_proj",
            f"{_at}.value": f"{_own}.v_proj", f"{_at}.out": f"{_own}.out_proj",
            f"{_at}_ln": f"{_own}_layer_norm",
        }  # fmt: skip
    for _ours, _theirs in (("mlp.0", "fc1"), ("mlp.2", "fc2"), ("mlp_ln", "final_layer_norm")):
        _RULES[f"{_side}.blocks.*.{_ours}"] = f"model.{_side}.layers.*.{_theirs}"


def _openai() -> Whisper:
    return Whisper(
        ModelDimensions(
            n_mels=20, n_audio_ctx=24, n_audio_state=32, n_audio_head=4, n_audio_layer=3, n_vocab=101,
            n_text_ctx=18, n_text_state=32, n_text_head=4, n_text_layer=2,
        )
    )  # fmt: skip


def _transformers() -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=101, num_mel_bins=20, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, d_model=32,
            max_source_positions=24, max_target_positions=18, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1,
        )
    )  # fmt: skip


def _runs() -> tuple[Callable[[nn.Module], Any], Callable[[nn.Module], Any]]:
    mel = torch.randn(2, 20, 48, generator=torch.Generator().manual_seed(0))
    ids = tokens(2, 7, 101)
    return lambda net: net(mel, ids), lambda net: net(input_features=mel, decoder_input_ids=ids).logits


@pair("whisper-openai-transformers", family="whisper")
def _whisper_out() -> Pair:
    target = _transformers()
    rules = {theirs: ours for ours, theirs in _RULES.items()}
    truth = mapped(target, rules | {"proj_out.weight": "decoder.token_embedding.weight"})
    run_openai, run_transformers = _runs()
    return Pair(_openai(), target, truth, run_openai, run_transformers)


@pair("whisper-transformers-openai", family="whisper")
def _whisper_in() -> Pair:
    target = _openai()
    run_openai, run_transformers = _runs()
    return Pair(_transformers(), target, mapped(target, _RULES), run_transformers, run_openai)
