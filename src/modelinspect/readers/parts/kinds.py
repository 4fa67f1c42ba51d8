"""
Guess from its name whether a tensor of a bare state_dict is a buffer.

A bare state_dict does not say. What torch's own modules and the large model
libraries register as buffers is known by its last name part; what is guessed
here is marked as inferred wherever it is shown.
"""

from __future__ import annotations

from modelinspect.dtypes import DType
from modelinspect.tensors import Kind

__all__ = ["infer_kind"]

# Registered as buffers by torch.nn (batch norm, spectral norm, quantisation
# observers), transformers, timm, torchvision and torchaudio.
_BUFFER_LEAVES = frozenset(
    {
        "running_mean", "running_var", "num_batches_tracked",
        "inv_freq", "original_inv_freq", "rotary_emb_inv_freq", "cos_cached", "sin_cached",
        "freqs_cis", "freqs_cos", "freqs_sin", "rope_cache",
        "position_ids", "token_type_ids", "relative_position_index", "relative_coords_table",
        "attn_mask", "attention_mask", "causal_mask", "masked_bias", "tril",
        "pos_embed_cached", "attention_bias_idxs", "rel_pos_index",
        "fake_quant_enabled", "observer_enabled", "eps_buffer",
        "weight_u", "weight_v",
        "mel_filters", "mel_basis", "mel_fb", "hann_window", "fft_window",
    }
)  # fmt: skip
# Integer tensors that hold weights: quantized linear layers pack several into one.
_PACKED_LEAVES = frozenset(
    {
        "weight",
        "qweight",
        "weight_packed",
        "weight_qdata",
        "qdata",
        "blocks",
        "packed_weight",
        "in_proj_weight",
    }
)


def infer_kind(name: str, dtype: DType, shape: tuple[int, ...]) -> Kind:
    """
    ``"buffer"`` or ``"parameter"`` for a tensor whose file does not say which.

    Args:
        name: Dotted name; only its last part counts.
        dtype: Integers and booleans can't be trained, so they are buffers, unless
            the name says that they are packed weights.
        shape: ``attn.bias`` of shape (1, 1, n, n) is a causal mask (GPT-2), not a bias.
    """
    leaf = name.rpartition(".")[2]
    if leaf in _BUFFER_LEAVES:
        return "buffer"
    if dtype.category in ("integer", "bool"):
        return "parameter" if leaf in _PACKED_LEAVES or leaf.endswith("_blocks") else "buffer"
    if leaf == "bias" and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3] > 1:
        return "buffer"
    return "parameter"
