"""
How ``--input`` spells what goes into a model.

========================== ==========================================================
``32x1``, ``2x3x224x224``   a float32 tensor of that shape, standard normal
``8``                       a tensor of one axis
``float16[2,3]``            the same of another type: any of torch's
``int64[2,128]<1000``       integers from 0 up to, but not including, 1000
``zeros[2,3]``              also ``ones`` and ``arange``; float32, or int64 for ``arange``
``ids=int64[2,128]<1000``   the keyword argument ``ids`` of ``forward``
``batch.ids=2x3``           the entry ``ids`` of a dictionary that is the argument ``batch``
``use_cache=False``         a literal: True, False, None, a number, a quoted text
``top=3``                   a literal, too: behind a name, a number alone is a number
========================== ==========================================================

Without a name, inputs are positional, in the order they are given.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from modelinspect.dtypes import BY_NAME
from modelinspect.errors import UsageError, visible

__all__ = ["InputSpec", "Literal", "TensorSpec", "parse_inputs"]

MOST_DIGITS = 30
"""Of one number: Python refuses to read those of thousands."""
MOST_ELEMENTS = 2**31
"""Of one input."""
_EXAMPLES = "2x3x224x224, int64[2,128]<1000, mask=ones[2,8], use_cache=False"
_NAME = re.compile(r"(?P<path>[^\W\d]\w*(?:\.\w+)*)=(?P<rest>.*)", re.DOTALL)
_PLAIN = re.compile(r"\d+(?:x\d+)*")
_TYPED = re.compile(
    r"(?P<kind>[A-Za-z]\w*)\[\s*(?P<shape>(?:\d+(?:\s*,\s*\d+)*\s*,?\s*)?)\]"
    r"\s*(?:<\s*(?P<bound>\d+(?:_\d+)*))?",
)
_FILLS = ("zeros", "ones", "arange")


class TensorSpec(NamedTuple):
    """A tensor to be made."""

    dtype: str
    """As torch calls it; empty: that of the model's parameters."""
    shape: tuple[int, ...]
    bound: int | None = None
    """Integers are drawn below it; None: it is to be worked out."""
    fill: str = ""
    """``zeros``, ``ones``, ``arange``; empty: random."""


class Literal(NamedTuple):
    """A value that is passed on as it is."""

    value: Any


class InputSpec(NamedTuple):
    """What was asked for, taken apart."""

    args: tuple[TensorSpec, ...]
    kwargs: Mapping[str, Any]
    """Specs and literals; dictionaries of them where names have dots."""


def parse_inputs(texts: Sequence[str]) -> InputSpec:
    """
    Take the values of ``--input`` apart; nothing is made.

    Raises:
        UsageError: One of them is spelt otherwise, or a name is given twice.

    >>> parse_inputs(["2x3", "ids=int64[2,8]<10"]).args
    (TensorSpec(dtype='', shape=(2, 3), bound=None, fill=''),)
    """
    args: list[TensorSpec] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        named = _NAME.fullmatch(text.strip())
        if named is None:
            args.append(_tensor(text.strip(), text))
            continue
        _put(kwargs, named["path"].split("."), _value(named["rest"].strip(), text), text)
    return InputSpec(tuple(args), kwargs)


def _put(place: dict[str, Any], path: Sequence[str], value: TensorSpec | Literal, text: str) -> None:
    *outer, last = path
    for part in outer:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--input {visible(text)}: {visible(part)} is given as a tensor already")
        place = inner
    if last in place:
        raise UsageError(f"--input {visible(text)}: {visible('.'.join(path))} is given twice")
    place[last] = value


def _value(rest: str, text: str) -> TensorSpec | Literal:
    """Behind a name: a literal, or a tensor."""
    try:
        return Literal(ast.literal_eval(rest))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return _tensor(rest, text)


def _tensor(spec: str, text: str) -> TensorSpec:
    if any(len(digits) > MOST_DIGITS for digits in re.findall(r"[\d_]+", spec)):
        raise UsageError(f"--input {visible(text[:60])}… has a number of more than {MOST_DIGITS} digits")
    if _PLAIN.fullmatch(spec):
        return _checked(TensorSpec("", tuple(map(int, spec.split("x")))), text)
    typed = _TYPED.fullmatch(spec)
    if typed is None:
        raise UsageError(
            f"--input {visible(text)} can't be read",
            details=(f"expected a shape, a typed shape or NAME=VALUE, for example {_EXAMPLES}",),
            hint="quote it for the shell: --input 'int64[2,128]<1000'",
        )
    shape = tuple(int(length) for length in typed["shape"].split(",") if length.strip())
    bound = None if typed["bound"] is None else int(typed["bound"])
    kind = typed["kind"]
    if kind in _FILLS:
        return _checked(TensorSpec("int64" if kind == "arange" else "", shape, bound, kind), text)
    return _checked(TensorSpec(kind, shape, bound), text)


def _checked(spec: TensorSpec, text: str) -> TensorSpec:
    if prod(spec.shape) > MOST_ELEMENTS:
        raise UsageError(
            f"--input {visible(text)} has {prod(spec.shape):,} elements; limit: {MOST_ELEMENTS:,}"
        )
    if spec.bound is not None and (spec.fill or not _is_of_integers(spec.dtype)):
        raise UsageError(
            f"--input {visible(text)}: only random integers have a bound",
            hint=f"for example {visible(_example(spec))}",
        )
    if spec.bound == 0:
        raise UsageError(f"--input {visible(text)}: no integer lies between 0 and 0")
    if spec.bound is not None and spec.bound >= 2**63:
        raise UsageError(f"--input {visible(text)}: integers are drawn below 2^63 at most")
    return spec


def _is_of_integers(dtype: str) -> bool:
    """Whether a bound makes sense; a type that is not known here is torch's to judge."""
    return dtype not in BY_NAME or BY_NAME[dtype].category == "integer"


def _example(spec: TensorSpec) -> str:
    return f"int64{list(spec.shape)}<{spec.bound}".replace(" ", "")
