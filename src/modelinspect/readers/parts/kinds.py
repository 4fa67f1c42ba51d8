"""
Guess from its name whether a tensor of a bare state_dict is a buffer.

A bare state_dict does not say. What torch's own modules and the large model
libraries register as buffers is known by its last name part, or by the tensors
beside it; what is guessed here is marked as inferred wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from modelinspect.dtypes import DType
from modelinspect.tensors import Kind, TensorInfo

__all__ = ["infer_kind", "settled_by_siblings"]

# Registered as buffers by torch.nn (batch norm, observers), transformers, timm,
# torchvision, torchaudio and e3nn.
_BUFFER_LEAVES = frozenset(
    {
        "running_mean", "running_var", "num_batches_tracked",
        "inv_freq", "original_inv_freq", "rotary_emb_inv_freq", "cos_cached", "sin_cached",
        "freqs_cis", "freqs_cos", "freqs_sin", "rope_cache",
        "position_ids", "token_type_ids", "relative_position_index", "relative_coords_table",
        "attn_mask", "attention_mask", "causal_mask", "masked_bias", "tril",
        "pos_embed_cached", "attention_bias_idxs", "rel_pos_index",
        "fake_quant_enabled", "observer_enabled",
        "final_logits_bias", "output_mask",
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
        name: Dotted name; mostly its last part counts.
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
    if leaf[0:1] == "_" and (
        leaf.startswith("_w3j_") or (leaf in ("_u", "_v") and "parametrizations." in name)
    ):
        return "buffer"  # e3nn's Wigner symbols; power iteration of spectral_norm
    if leaf == "base" and "parametrizations." in name:
        return "buffer"  # of orthogonal
    if "activation_post_process" in name or "fake_quant" in name:
        return "buffer"  # observers of torch.ao
    return "parameter"


# Endings that only the tensors beside them explain: what has to be there instead.
_BESIDE_ENDING = {
    "_u": "_orig",  # torch.nn.utils.spectral_norm; weight_v beside weight_g is weight_norm's
    "_v": "_orig",
    "_mask": "_orig",  # torch.nn.utils.prune
}
_BESIDE_LEAF = {"scale": "zero_point", "min_val": "max_val", "max_val": "min_val"}  # torch.ao


def settled_by_siblings(rows: Sequence[TensorInfo]) -> Sequence[TensorInfo]:
    """
    The rows, with inferred parameters made buffers where the names beside them say so.

    Args:
        rows: All tensors of one state_dict.
    """
    endings = tuple(_BESIDE_ENDING)
    # Mostly no name is of that kind, which one look at all of them together says.
    together = "\n".join([row.name for row in rows]) + "\n"
    if not any(f"{ending}\n" in together for ending in (*endings, *_BESIDE_LEAF)):
        return rows
    doubtful = [
        at
        for at, row in enumerate(rows)
        if (row.name.endswith(endings) or row.name.rpartition(".")[2] in _BESIDE_LEAF)
        and row.kind == "parameter"
        and not row.declared
    ]
    if not doubtful:
        return rows
    names = {row.name for row in rows}
    settled = list(rows)
    for at in doubtful:
        if _is_explained(rows[at].name, names):
            settled[at] = rows[at]._replace(kind="buffer")
    return settled


def _is_explained(name: str, names: Container[str]) -> bool:
    stem, dot, leaf = name.rpartition(".")
    if leaf in _BESIDE_LEAF:
        return f"{stem}{dot}{_BESIDE_LEAF[leaf]}" in names
    return any(
        name.endswith(ending) and name[: -len(ending)] + beside in names
        for ending, beside in _BESIDE_ENDING.items()
    )
