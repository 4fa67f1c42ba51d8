"""
Go through the tables of a checkpoint and mark packed weights, scales and what else serves them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from modelinspect.errors import visible
from modelinspect.readers.parts.quantization import (
    bitsandbytes,
    compressed,
    others,
    packed_integers,
    scaled,
    torchao,
)
from modelinspect.readers.parts.quantization.layer import Found, Layer, Modules, Rule
from modelinspect.readers.parts.quantization.small_reads import SmallReads
from modelinspect.readers.parts.quantized import CONFIGURED
from modelinspect.tensors import Checkpoint, ParameterTable, TensorInfo

__all__ = ["settle"]

# By the last part of the name of the tensor that a layout is known by.
_RULES: dict[str, tuple[Rule, ...]] = {
    "qweight": (
        packed_integers.gptq,
        packed_integers.awq,
        packed_integers.awq_fast,
        packed_integers.marlin,
        others.fp_quant,
        others.eetq,
    ),
    "B": (packed_integers.marlin,),
    "q_weight": (packed_integers.exl2,),
    "trellis": (packed_integers.exl3,),
    "weight": (bitsandbytes.int8, others.mlx, others.higgs, scaled.scaled),
    "weight_packed": (compressed.pack_quantized, compressed.marlin_24, scaled.scaled),
    "bitmask": (compressed.bitmask,),
    "W_q": (others.hqq,),
    "codes": (others.aqlm,),
    "blocks": (scaled.blocks,),
    "_data": (others.quanto,),
    "bitsandbytes__nf4": (bitsandbytes.four_bit,),
    "bitsandbytes__fp4": (bitsandbytes.four_bit,),
}
_ANY: tuple[Rule, ...] = (scaled.scaled,)
# Numbers of a key-value cache and of activations, wherever they stand in a quantized model.
_CACHE_SCALES = frozenset(
    {
        "k_scale",
        "v_scale",
        "q_scale",
        "prob_scale",
        "kv_scale",
        "k_zero_point",
        "v_zero_point",
        "output_scale",
    }
)


def settle(checkpoint: Checkpoint, sections: Iterable[str]) -> Checkpoint:
    """
    The checkpoint with the packed weights of some sections marked.

    Args:
        checkpoint: As its reader made it.
        sections: Those that may hold quantized weights.
    """
    tables = dict(checkpoint.tables)
    with SmallReads() as reads:
        for name in sections:
            tables[name] = _settled(tables[name], reads, checkpoint.metadata)
        settled = replace(checkpoint, tables=tables, files=reads.counted(checkpoint.files))
    return replace(settled, notes=(*settled.notes, *_disagreements(settled)))


def _disagreements(checkpoint: Checkpoint) -> Iterator[str]:
    """What config.json says and the tensors don't."""
    method = checkpoint.metadata.get(CONFIGURED)
    found = [row.quantized for row in checkpoint.table if row.quantized is not None]
    if method is not None and not found:
        yield f"config.json says the weights are quantized ({visible(method)}), their tensors don't show how"
    said = checkpoint.metadata.get("config.quantization_config.bits", "")
    bits = {f"{each.bits:g}" for each in found}
    if found and said.isdecimal() and said not in bits:
        yield f"config.json says {said} bits, the tensors hold {' and '.join(sorted(bits))}"


def _settled(table: ParameterTable, reads: SmallReads, metadata: Mapping[str, str]) -> ParameterTable:
    modules: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for row in table:
        stem, dot, leaf = row.name.rpartition(".")
        modules[stem + dot][leaf] = row
    marked: dict[str, TensorInfo] = {}
    serving: set[str] = set()
    for found in _found(modules, table, reads, metadata):
        marked[found.row.name] = _marked(found)
        serving.update(found.quantized.beside)
    if not marked:
        return table
    for stem, own in modules.items():
        serving.update(stem + leaf for leaf in _CACHE_SCALES.intersection(own) if _is_float(own[leaf]))
    rows = [marked.get(row.name) or (_served(row) if row.name in serving else row) for row in table]
    return replace(table, tensors=rows)


def _found(
    modules: Modules, table: ParameterTable, reads: SmallReads, metadata: Mapping[str, str]
) -> Iterator[Found]:
    widths = lru_cache(1)(lambda: _widths(table))
    for stem, own in modules.items():
        layer = None
        for leaf, row in own.items():
            rules = _rules(row, leaf)
            if rules:
                layer = layer or Layer(modules, stem, reads, metadata, widths)
                found = next((found for rule in rules if (found := rule(row, layer)) is not None), None)
                if found is not None:
                    yield found


def _is_float(row: TensorInfo) -> bool:
    return row.dtype.category == "float"


def _rules(row: TensorInfo, leaf: str) -> Sequence[Rule]:
    """The rules that may know a tensor, by the last part of its name and its type."""
    category, bits = row.dtype.category, row.dtype.bits
    if category == "quantized":
        return (others.torch_ao,)
    if row.layout == "wrapper" and row.quantized is None and row.class_name.startswith("torchao."):
        return (torchao.subclass,)
    if row.parts or row.quantized is not None or row.kind == "optimizer":
        return ()
    is_packed = category == "integer" or (category == "float" and bits <= 8)
    if not is_packed:
        return ()
    rules = _RULES.get(leaf)
    if rules is None and leaf.endswith("_blocks"):
        return (scaled.blocks, scaled.scaled)
    if rules is None and leaf.endswith("_qdata"):
        return (torchao.torchao,)
    return rules or (_ANY if bits <= 8 else ())


def _widths(table: ParameterTable) -> frozenset[int]:
    return frozenset(row.shape[0] for row in table if row.shape and len(row.shape) <= 2)


def _marked(found: Found) -> TensorInfo:
    row = found.row
    is_declared = row.declared and row.kind == "parameter"
    return row._replace(kind="parameter", declared=is_declared, quantized=found.quantized)


def _served(row: TensorInfo) -> TensorInfo:
    """A scale or the like: no parameter, whatever its file calls it."""
    return row if row.kind == "buffer" else row._replace(kind="buffer", declared=False)
