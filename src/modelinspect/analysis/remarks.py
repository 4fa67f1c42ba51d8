"""
What several reports have to say about a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelinspect.errors import visible
from modelinspect.tensors import Checkpoint, ParameterTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelinspect.analysis.quantization import QuantizationTotal

__all__ = ["optimizer_remarks", "quantization_remarks", "unregistered_remarks"]

MOST_NAMED = 5


# Last name parts that only quantized layouts have: GPTQ and AWQ, bitsandbytes,
# compressed-tensors, FP8 and MXFP4 checkpoints, HQQ, SpQR.
_QUANTIZED_LEAVES = frozenset(
    {
        "qweight", "qzeros", "absmax", "quant_map", "SCB", "weight_packed", "weight_scale",
        "weight_scale_inv", "W_q", "dense_weights",
    }
)  # fmt: skip


def quantization_remarks(table: ParameterTable, totals: Sequence[QuantizationTotal]) -> tuple[str, ...]:
    """
    How much of a quantized model serves its weights, and what of it is not understood.

    Args:
        table: The model's tensors.
        totals: Its weights in quantized layouts, by scheme.
    """
    leaves = {tensor.name.rpartition(".")[2] for tensor in table}
    unclear = _QUANTIZED_LEAVES & leaves
    if "indices" in leaves and any(tensor.name.endswith(".centroids.weight") for tensor in table):
        unclear |= {"centroids", "indices"}  # VPTQ
    if totals and unclear:
        serving = {name for row in table if row.quantized is not None for name in row.quantized.beside}
        rows = (row for row in table if row.quantized is None and row.name not in serving)
        unclear = _QUANTIZED_LEAVES.intersection(row.name.rpartition(".")[2] for row in rows)
    remarks = []
    tensors = sum(total.scales for total in totals)
    if tensors:
        elements = sum(total.scale_numel for total in totals)
        nbytes = sum(total.scale_nbytes for total in totals)
        what = "tensors of scales and the like are" if tensors > 1 else "tensor of scales is"
        remarks.append(
            f"{tensors:,} {what} not counted as parameters: {elements:,} elements, {nbytes:,} bytes"
        )
    if unclear:
        named = ", ".join(sorted(unclear))
        remarks.append(
            f"looks like a quantized layout ({named}): counted as stored, not as the weights it stands for"
        )
    return tuple(remarks)


# What optimizers keep one of for each parameter: Adam and its kin, SGD.
_MOMENTS = ("exp_avg", "momentum_buffer")


def optimizer_remarks(checkpoint: Checkpoint, unique: int) -> tuple[str, ...]:
    """
    Whether the optimizer's state speaks of another number of elements than were counted.

    Args:
        checkpoint: Of which the model's section was counted, by inference.
        unique: Its parameters.
    """
    held = 0
    for name, table in checkpoint.tables.items():
        if checkpoint.roles[name] == "optimizer":
            by_leaf = dict.fromkeys(_MOMENTS, 0)
            for tensor in table:
                leaf = tensor.name.rpartition(".")[2]
                if leaf in by_leaf:
                    by_leaf[leaf] += tensor.logical_numel
            held += max(by_leaf.values())
    if not unique or held in (0, unique):
        return ()
    if held > unique:
        return (f"the optimizer's state is of {held:,} elements, more than were counted",)
    reason = "the others are frozen, further copies of tied ones, or buffers taken for parameters"
    return (f"the optimizer's state is of {held:,} elements, fewer than were counted: {reason}",)


def unregistered_remarks(table: ParameterTable) -> tuple[str, ...]:
    """
    Tensors that hang on a module without being registered, as one sentence or none.
    """
    found = table.unregistered
    if not found:
        return ()
    names = ", ".join(visible(tensor.name) for tensor in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    what = "plain attributes that were" if len(found) > 1 else "a plain attribute that was"
    them = "them" if len(found) > 1 else "it"
    return (f"{names}{more}: {what} never registered, so neither .to() nor state_dict() sees {them}",)
