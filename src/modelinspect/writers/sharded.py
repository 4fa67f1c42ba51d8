"""
One checkpoint in several files: sizes as people write them, what goes where, the index.

The names and the index are those of Hugging Face: ``model-00001-of-00003.safetensors`` and
``model.safetensors.index.json`` with ``{"metadata": {...}, "weight_map": {name: file}}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

from modelinspect.errors import UsageError, visible

__all__ = ["index_text", "parse_size", "shard_name", "split"]

Item = TypeVar("Item")

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """
    Bytes that a text like ``5GB``, ``500MB`` or ``1.5GiB`` stands for.

    Raises:
        UsageError: It is no such text, or stands for less than a byte.

    >>> parse_size("5GB"), parse_size("1GiB"), parse_size("1000")
    (5000000000, 1073741824, 1000)
    """
    match = _SIZE.fullmatch(text)
    size = 0
    if match is not None:
        unit = 1024 if match[3] else 1000
        size = int(Fraction(match[1]) * unit ** _POWERS[match[2].lower()])
    if size < 1:
        raise UsageError(
            f"{visible(text)!r} is no size of a file", hint="e.g. 5GB, 500MB or 1GiB; a number alone is bytes"
        )
    return size


def split(items: Sequence[Item], most: int, nbytes: Callable[[Item], int]) -> list[list[Item]]:
    """
    Items in their order, cut so that those of each part take at most *most* bytes.

    One that alone takes more has a part of its own.
    """
    parts: list[list[Item]] = [[]]
    filled = 0
    for item in items:
        if parts[-1] and filled + nbytes(item) > most:
            parts.append([])
            filled = 0
        parts[-1].append(item)
        filled += nbytes(item)
    return parts


def shard_name(stem: str, suffix: str, number: int, total: int) -> str:
    """
    Of the file with that number, from 1.

    >>> shard_name("model", ".safetensors", 1, 3)
    'model-00001-of-00003.safetensors'
    """
    return f"{stem}-{number:05d}-of-{total:05d}{suffix}"


def index_text(files: Mapping[str, str], total_size: int) -> bytes:
    """
    The index.

    Args:
        files: Name of each tensor to the file that it is in.
        total_size: Bytes of all tensors.
    """
    document = {"metadata": {"total_size": total_size}, "weight_map": dict(files)}
    try:
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError as error:
        raise UsageError("a name can't be written as UTF-8", hint="save as one file, .pt") from error
