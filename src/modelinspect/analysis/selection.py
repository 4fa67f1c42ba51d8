"""
Which rows, in which order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from typing import Any

from modelinspect.errors import unknown_choice, visible
from modelinspect.readers.parts.natural_order import naturally_sorted
from modelinspect.tensors import TensorInfo

__all__ = ["SORT_KEYS", "matching", "select", "sort_rows"]


def select(
    tensors: Sequence[TensorInfo], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[TensorInfo], tuple[str, ...]]:
    """
    Choose rows by globs of their names.

    Args:
        tensors: The rows.
        include: Keep what matches any of these; empty keeps everything.
        exclude: Then leave out what matches any of these.

    A glob is matched against the whole name, upper and lower case apart: ``*`` is any
    text, dots too, ``?`` any character, ``[ab]`` one of these. A name that is spelt
    exactly like the glob always matches, so ``layers[0].w`` finds itself.

    Returns:
        The rows that remain, in their order, and the globs that match no row at all.
    """
    names = [tensor.name for tensor in tensors]
    wanted, unmatched = matching(names, include)
    unwanted, more_unmatched = matching(names, exclude)
    chosen = [
        tensor for tensor in tensors if (not include or tensor.name in wanted) and tensor.name not in unwanted
    ]
    return chosen, (*unmatched, *more_unmatched)


def matching(names: Sequence[str], patterns: Sequence[str]) -> tuple[set[str], list[str]]:
    """
    The names that globs match, and the globs that match none; rules as of :func:`select`.
    """
    found: set[str] = set()
    unmatched: list[str] = []
    for pattern in patterns:
        is_match = re.compile(translate(pattern)).match
        matches = [name for name in names if is_match(name) or name == pattern]
        found.update(matches)
        if not matches:
            unmatched.append(pattern)
    return found, unmatched


def _trainable(tensor: TensorInfo) -> int:
    """Unknown, no, yes."""
    return -1 if tensor.requires_grad is None else int(tensor.requires_grad)


def _place(tensor: TensorInfo) -> tuple[str, int]:
    extent = tensor.extent
    return ("", -1) if extent is None else (extent.file, extent.offset)


def _storage_name(tensor: TensorInfo) -> tuple[str, int, str]:
    """Keys are numbers mostly: the shorter comes first."""
    storage = tensor.storage
    return ("", -1, "") if storage is None else (storage.file, len(storage.key), storage.key)


_KEYS: dict[str, Callable[[TensorInfo], Any]] = {
    "numel": lambda tensor: tensor.numel if tensor.quantized is None else tensor.quantized.numel,
    "bytes": lambda tensor: tensor.nbytes,
    "percent": lambda tensor: tensor.nbytes,
    "shape": lambda tensor: tensor.shape,
    "stride": lambda tensor: tensor.stride,
    "dtype": lambda tensor: tensor.dtype.name,
    "kind": lambda tensor: tensor.kind,
    "trainable": _trainable,
    "device": lambda tensor: tensor.device,
    "storage": _storage_name,
    "offset": lambda tensor: _place(tensor)[1],
    "file": lambda tensor: _place(tensor)[0],
    "section": lambda tensor: tensor.section,
}
SORT_KEYS = ("name", *_KEYS)
"""What rows can be sorted by."""


def sort_rows(tensors: Sequence[TensorInfo], key: str, reverse: bool = False) -> list[TensorInfo]:
    """
    Rows in the order of one column; equal ones stay in the order they came in.

    Args:
        tensors: The rows.
        key: One of :data:`SORT_KEYS`. Names are sorted naturally, ``2`` before ``10``;
            what is unknown comes first.
        reverse: Largest first.

    Raises:
        UsageError: There is no such column.
    """
    if key == "name":
        order = {name: at for at, name in enumerate(naturally_sorted([tensor.name for tensor in tensors]))}
        return sorted(tensors, key=lambda tensor: order[tensor.name], reverse=reverse)
    if key not in _KEYS:
        raise unknown_choice(f"rows can't be sorted by {visible(key)!r}", key, "choices", SORT_KEYS)
    return sorted(tensors, key=_KEYS[key], reverse=reverse)
