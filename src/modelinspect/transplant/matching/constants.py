"""
Tensors that hold no weights: masks, indices, frequencies. The target makes its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from modelinspect.tensors import TensorInfo
from modelinspect.transplant.matching.vocabulary import tokens_of
from modelinspect.transplant.plan import Assignment, Piece

__all__ = ["has_telling_name", "is_constant", "matching_constants"]

_NAMES = frozenset({
    "position_ids", "token_type_ids", "inv_freq", "original_inv_freq", "relative_position_index", "attn_mask",
    "causal_mask", "masked_bias", "freqs_cis", "freqs_cos", "freqs_sin", "cos_cached", "sin_cached",
    "rotary_freqs", "relative_coords_table", "relative_position_bucket", "attention_bias_idxs", "mask",
    "tril", "triu",
})  # fmt: skip


def is_constant(row: TensorInfo) -> bool:
    """
    Does a tensor hold what follows from the architecture alone, by its name and type?

    ``num_batches_tracked`` is none: it goes with the statistics beside it.
    """
    last = row.name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return False
    if row.dtype.category == "bool" or row.dtype.name in ("int64", "int32"):
        return True
    if last in _NAMES and not (row.declared and row.kind == "parameter"):
        return True
    # The lower triangle that a causal attention keeps under the name of a bias.
    is_square = len(row.shape) >= 3 and row.shape[-1] == row.shape[-2] and set(row.shape[:-2]) == {1}
    return is_square and last in ("bias", "tril") and "attn" in tokens_of(row.name)


def has_telling_name(row: TensorInfo) -> bool:
    """A mask, an index or a table of frequencies, as they are called everywhere."""
    return row.name.rpartition(".")[2] in _NAMES


def matching_constants(
    sources: Sequence[TensorInfo], targets: Sequence[TensorInfo], modules: Mapping[str, str]
) -> Iterator[Assignment]:
    """
    Constants that both sides keep under the same name in modules that correspond.

    Args:
        sources: Constants of the source.
        targets: Of the target.
        modules: Of the target to those of the source, as far as weights tell.
    """
    known: dict[tuple[str, tuple[int, ...]], list[TensorInfo]] = defaultdict(list)
    for row in sources:
        known[row.name.rpartition(".")[2], row.shape].append(row)
    for row in targets:
        module, _, last = row.name.rpartition(".")
        found = known.get((last, row.shape), [])
        partner = modules.get(module)
        same = [each for each in found if partner is not None and each.name.rpartition(".")[0] == partner]
        chosen = same or (found if len(found) == 1 else [])
        if chosen and chosen[0].dtype is row.dtype:
            reason = "a constant of the same name"
            yield Assignment(row.name, (Piece(chosen[0].name),), (), "certain" if same else "likely", reason)
