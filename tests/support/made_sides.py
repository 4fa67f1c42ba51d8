"""
Small tables of tensors, written down by hand, as the matcher sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelinspect.dtypes import dtype_named
from modelinspect.readers.parts.kinds import infer_kind, settled_by_siblings
from modelinspect.tensors import ParameterTable, Storage, TensorInfo
from modelinspect.transplant.match import match
from modelinspect.transplant.plan import Hint, Plan, Side

__all__ = [
    "Tensors",
    "batch_norm",
    "claims",
    "conv",
    "definition",
    "file",
    "hint_in",
    "labels",
    "linear",
    "matched",
    "merged",
    "norm",
    "numbered",
    "safetensors",
    "values_of",
]

Shape = tuple[int, ...]
Tensors = dict[str, Shape]
_WHOLE_NUMBERS = ("num_batches_tracked", "position_ids", "token_type_ids", "relative_position_index")
_TRUTHS = ("causal_mask", "attn_mask")


def merged(*parts: Tensors) -> Tensors:
    """All tensors of the parts, in their order."""
    found: Tensors = {}
    for part in parts:
        assert found.keys().isdisjoint(part), "two tensors of one name"
        found |= part
    return found


def linear(module: str, rows: int = 8, columns: int = 8, *, bias: bool = True) -> Tensors:
    """A linear layer."""
    return {f"{module}.weight": (rows, columns)} | ({f"{module}.bias": (rows,)} if bias else {})


def norm(module: str, width: int = 8) -> Tensors:
    """A layer norm."""
    return {f"{module}.weight": (width,), f"{module}.bias": (width,)}


def conv(module: str, out: int = 8, into: int = 8, size: int = 3, *, bias: bool = False) -> Tensors:
    """A convolution in two dimensions."""
    return {f"{module}.weight": (out, into, size, size)} | ({f"{module}.bias": (out,)} if bias else {})


def batch_norm(module: str, width: int = 8, *, is_old: bool = False) -> Tensors:
    """A batch norm; old ones don't count their batches."""
    leaves = ("weight", "bias", "running_mean", "running_var")
    count: Tensors = {} if is_old else {f"{module}.num_batches_tracked": ()}
    return {f"{module}.{leaf}": (width,) for leaf in leaves} | count


def numbered(prefix: str, block: Tensors, count: int, start: int = 0) -> Tensors:
    """The block so many times, its numbers after the prefix."""
    return {
        f"{prefix}{at}.{name}": shape for at in range(start, start + count) for name, shape in block.items()
    }


# --------------------------------------------------------------------------- sides


def file(tensors: Tensors, *, tied: Mapping[str, str] | None = None, ordered: bool = True) -> Side:
    """
    A state_dict in the order of registration, whose file says nothing else.

    Args:
        tensors: Names and shapes.
        tied: Second names to first names.
        ordered: Whether the order is that of registration.
    """
    rows = [_row(name, shape, (tied or {}).get(name)) for name, shape in tensors.items()]
    return Side(ParameterTable("made", settled_by_siblings(rows), "file"), is_ordered=ordered)


def safetensors(tensors: Tensors) -> Side:
    """The same in a file that is sorted by name."""
    return file(dict(sorted(tensors.items())), ordered=False)


def definition(
    tensors: Tensors,
    *,
    buffers: Iterable[str] = (),
    tied: Mapping[str, str] | None = None,
    modules: Mapping[str, str] | None = None,
    facts: Mapping[str, Mapping[str, int]] | None = None,
) -> Side:
    """
    A class, which says what is a buffer.

    Args:
        tensors: Names and shapes.
        buffers: Names; those that torch's own modules register are known.
        tied: Second names to first names.
        modules: Paths to class names.
        facts: Paths of modules to whole-number attributes.
    """
    rows = []
    for name, shape in tensors.items():
        row = _row(name, shape, (tied or {}).get(name))
        is_buffer = name in set(buffers) or row.kind == "buffer"
        row = row._replace(declared=True, requires_grad=not is_buffer)
        rows.append(row._replace(kind="buffer", persistent=True) if is_buffer else row)
    return Side(ParameterTable("made", rows, "definition", modules=modules or {}), facts=facts or {})


def _row(name: str, shape: Shape, first: str | None) -> TensorInfo:
    dtype = dtype_named(_dtype(name))
    storage = Storage("", first or name, None, dtype.nbytes(prod(shape)))
    return TensorInfo(name, dtype, shape, storage, kind=infer_kind(name, dtype, shape))


def _dtype(name: str) -> str:
    if name.endswith(_WHOLE_NUMBERS):
        return "int64"
    return "bool" if name.endswith(_TRUTHS) else "float32"


# ----------------------------------------------------------------------- what came out


def matched(source: Tensors | Side, target: Tensors | Side, *hints: str) -> Plan:
    """
    The plan for two sides.

    Args:
        source: A side, or tensors of a file in the order of registration.
        target: The same.
        hints: As ``--map`` takes them.
    """
    sides = [side if isinstance(side, Side) else file(side) for side in (source, target)]
    return match(*sides, hints=[Hint(*hint.split("=")) for hint in hints])


def claims(plan: Plan) -> dict[str, str]:
    """Each target tensor to the one of the source that it is, or to what is done: ``a, b -> cat(0, 1)``."""
    found = {}
    for each in plan.assignments:
        names = ", ".join(piece.name or "nothing" for piece in each.pieces)
        found[each.target] = f"{names} -> {each.transform}" if each.transform else names
    return found


def labels(plan: Plan) -> dict[str, str]:
    """Each target tensor to its label."""
    return {each.target: each.label for each in plan.assignments}


def hint_in(settle: str) -> str:
    """The hint that a doubt proposes, as ``--map`` takes it."""
    flag, text = settle.split(" ", 1)
    assert flag == "--map", settle
    return text.strip().strip("'")


def values_of(tensors: Tensors, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Arrays of these shapes in which no number comes twice."""
    found, start = {}, 1
    for name in names or tensors:
        size = prod(tensors[name])
        found[name] = np.arange(start, start + size, dtype=np.float64).reshape(tensors[name])
        start += size
    return found
