"""
GGUF: a header of keys and tensors, then the tensors' bytes, each aligned.

Written after ``docs/gguf.md`` of ggml and, where that leaves something open, after
what gguf 0.19 (``gguf_reader.py``, ``constants.py``) and ``gguf.cpp`` of ggml do.
Version 1 counts in 32 bits, versions 2 and 3 in 64; a file is big-endian where its
version reads so. Shapes are stored fastest axis first and turned round here.

Nothing of a tokenizer is kept: its hundred thousands of texts are passed over by
their lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import repeat
from math import prod
from typing import NamedTuple

from modelinspect.dtypes import BY_GGML, DType
from modelinspect.errors import CheckpointError, DamagedFileError, LimitError, visible
from modelinspect.readers.parts.forward import Forward, readable
from modelinspect.readers.parts.kinds import infer_kind, settled_by_siblings
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import (
    Checkpoint,
    FileInfo,
    Kind,
    ParameterTable,
    Storage,
    TensorInfo,
    rows_of_columns,
    unique_names,
)

__all__ = ["header_ends", "read"]

MAX_KEYS = 100_000
MAX_KEY = 65_535
"""Bytes of a key (a rule of the format)."""
MAX_TENSORS = 1_000_000
MAX_NAME = 65_536
MAX_TEXTS = 1 << 27
"""Bytes of all keys, names and texts that are shown."""
MAX_LEVELS = 1_000
"""Dotted parts of a tensor's name."""
MAX_AXES = 4
"""``GGML_MAX_DIMS``."""
MAX_ITEMS = 10_000_000
"""Texts and inner arrays that are passed over, in all arrays together."""
MAX_NESTING = 16
"""Arrays in arrays; there are none in practice."""
MAX_TEXT = 200
"""Characters of a text that is shown as metadata."""
_FEW = 16
"""Numbers, or texts, of an array that is shown as metadata."""
_LONG_TEXT = 1 << 16
_COST_OF_ARRAY = 10
_VERSIONS = (1, 2, 3)
_ALIGNMENT = 32
_I63 = 1 << 63

_STRING, _ARRAY = 8, 9
# The types of values: number to struct's letter and plural (ggml/include/gguf.h, enum gguf_type).
_NUMBERS = {
    0: ("B", "8-bit integers"), 1: ("b", "8-bit integers"), 2: ("H", "16-bit integers"),
    3: ("h", "16-bit integers"), 4: ("I", "integers"), 5: ("i", "integers"), 6: ("f", "floats"),
    7: ("?", "booleans"), 10: ("Q", "64-bit integers"), 11: ("q", "64-bit integers"),
    12: ("d", "64-bit floats"),
}  # fmt: skip
# enum llama_ftype, as gguf 0.19 has it (constants.py, LlamaFileType).
_MIXES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 4: "Q4_1, some F16", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
    10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS",
    24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS",
    31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip
_REMOVED = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip
_BUFFERS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_SCALES = (".scale", ".input_scale")
"""What stands beside a quantized ``.weight``."""


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read the header of a GGUF file; no tensor's bytes are touched.

    Tensors come in the order of the file, which is that of the model's layers.

    Raises:
        DamagedFileError: The file breaks a rule of the format or is truncated.
        LimitError: It claims more than a limit allows.
        CheckpointError: It is of a version or has a data type that is not known here.
    """
    header = _Header(source, target)
    pairs = header.pairs()
    rows = header.tensors()
    alignment = _alignment(pairs, header)
    start = header.forward.position
    start += -start % alignment
    _check_sizes(rows, target)
    notes = [*_repeated(rows), *_check_places(rows, start, alignment, source.size, target)]
    if (part := _part(pairs)) is not None:
        notes.append(f"it is part {part} of a model: its other parts hold the other tensors")
    table = ParameterTable(
        source=target, tensors=_table(rows, start, source.path, header.order), origin="file"
    )
    return Checkpoint(
        source=target,
        format="gguf",
        files=(FileInfo(source.path, source.size, source.bytes_read),),
        tables={"": table},
        roles={"": "model"},
        model_section="",
        metadata={key: value.text for key, value in pairs.items()},
        notes=tuple(notes),
        version=str(header.version),
        facts=_facts(pairs, header, alignment, part),
    )


def header_ends(source: ByteSource) -> tuple[int, int, int]:
    """
    Where the header's parts end: keys and values, what is said of tensors, and padding.

    Raises:
        CheckpointError: As :func:`read`.
    """
    header = _Header(source, source.path)
    pairs = header.pairs()
    keys = header.forward.position
    header.tensors()
    end = header.forward.position
    return keys, end, end + -end % _alignment(pairs, header)


class _Value(NamedTuple):
    """One value of the header."""

    text: str
    """As it is shown."""
    number: int | float | None = None
    """None for texts and arrays."""
    length: int = 0
    """Bytes of a text."""


class _Row(NamedTuple):
    """What the header says of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    offset: int
    """From where the data begins."""
    nbytes: int
    """Bytes that it takes."""


class _Header:
    """
    Reads keys, then tensors; each part moves on to the next.
    """

    def __init__(self, source: ByteSource, target: str) -> None:
        self.target = target
        head = source.read(0, 8, "magic number and version")
        if head[:4] != b"GGUF":
            raise NotThisFormat("does not begin with GGUF")
        # A version is small: where its lower half is 0 it was written the other way round.
        self.order = ">" if head[4:6] == b"\0\0" else "<"
        self.version = int(struct.unpack_from(self.order + "I", head, 4)[0])
        if self.version not in _VERSIONS:
            raise CheckpointError(
                f"{visible(target)} is GGUF of a version that this one does not know",
                details=(f"version {self.version:,}; known: 1, 2 and 3",),
            )
        self.forward = Forward(source, self.order, target, start=8)
        self.count = struct.Struct(self.order + ("I" if self.version == 1 else "Q"))
        self.u32 = struct.Struct(self.order + "I")
        # By the number of axes: that number, the shape, the type and where the bytes are.
        self.places = [
            struct.Struct(f"{self.order}I{axes}{self.count.format[-1]}IQ") for axes in range(MAX_AXES + 1)
        ]
        self.shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.items = 0
        self.texts = 0
        width = self.count.size
        self.n_tensors, self.n_keys = self._counts(width)

    def _counts(self, width: int) -> tuple[int, int]:
        """Tensors and keys, no more of either than the file has room for."""
        forward = self.forward
        (tensors,), (keys,) = (forward.unpack(self.count, "the counts of the header") for _ in range(2))
        for number, least, most, what in (
            (keys, width + 5, MAX_KEYS, "keys"),
            (tensors, width + 16, MAX_TENSORS, "tensors"),
        ):
            if number * least > forward.left:
                raise forward.damaged(f"the header claims {number:,} {what}, {forward.left:,} bytes are left")
            if number > most:
                raise LimitError(
                    f"{visible(self.target)}: the header claims {number:,} {what}",
                    details=(f"limit: {most:,} {what}",),
                )
        return tensors, keys

    # -- keys -------------------------------------------------------------------------

    def pairs(self) -> dict[str, _Value]:
        """Keys and what they stand for. A repeated key is an error, as in ggml."""
        found: dict[str, _Value] = {}
        for _ in range(self.n_keys):
            key = self._text(MAX_KEY, "a key")
            if key in found:
                raise self.forward.damaged(f"the key {visible(key[:80])!r} is there twice")
            (kind,) = self.forward.unpack(self.u32, "the type of a value")
            found[key] = self._value(kind)
        return found

    def _value(self, kind: int) -> _Value:
        if kind == _STRING:
            return self._shown_text()
        if kind == _ARRAY:
            return self._array()
        if kind not in _NUMBERS:
            raise self.forward.damaged(f"a value has type {kind:,}; 0 to 12 are known")
        (number,) = self._numbers(kind, 1)
        return _Value(_shown(number, kind), number)

    def _numbers(self, kind: int, count: int) -> tuple[int | float, ...]:
        letter, _ = _NUMBERS[kind]
        form = struct.Struct(f"{self.order}{count}{letter}")
        return self.forward.unpack(form, "a number")

    def _length(self, what: str) -> int:
        """The length in bytes of the text that follows, which is there."""
        (length,) = self.forward.unpack(self.count, what)
        if length > self.forward.left:
            raise self.forward.source.truncated(self.forward.position, length, what)
        return length

    def _text(self, most: int, what: str) -> str:
        length = self._length(what)
        if length > most:
            raise LimitError(
                f"{visible(self.target)}: {what} is {length:,} bytes long",
                details=(f"limit: {most:,} bytes",),
            )
        return self._readable(length, what)

    def _readable(self, length: int, what: str) -> str:
        text, cost = readable(self.forward.take(length, what))
        self.texts += cost
        if self.texts > MAX_TEXTS:
            raise LimitError(
                f"{visible(self.target)}: its names and texts are too long",
                details=(f"limit: {MAX_TEXTS:,} bytes in all",),
            )
        return text

    def _shown_text(self) -> _Value:
        length = self._length("a text")
        if length > 4 * MAX_TEXT:
            self.forward.skip(length, "a text")
            return _Value(f"text of {length:,} bytes", None, length)
        text = self._readable(length, "a text")
        if len(text) > MAX_TEXT:
            text = f"text of {length:,} bytes"
        return _Value(text, None, length)

    # -- arrays -----------------------------------------------------------------------

    def _array(self) -> _Value:
        """What a few words say of an array: its numbers where they are few, else how many there are."""
        kind, count = self._array_head()
        if kind in _NUMBERS and 0 < count <= _FEW:
            return _Value(f"[{', '.join(_shown(number, kind) for number in self._numbers(kind, count))}]")
        if kind == _STRING and 0 < count <= _FEW:
            texts = [self._shown_text().text for _ in range(count)]
            listed = ", ".join(texts)
            if len(listed) <= MAX_TEXT:
                return _Value(f"[{listed}]")
        else:
            self._skip(kind, count)
        name = {_STRING: "strings", _ARRAY: "arrays"}.get(kind) or _NUMBERS[kind][1]
        return _Value(f"array of {count:,} {name}")

    def _array_head(self) -> tuple[int, int]:
        """Type and number of the elements that follow; so many are possible."""
        (kind,) = self.forward.unpack(self.u32, "the type of an array")
        (count,) = self.forward.unpack(self.count, "the length of an array")
        if kind in _NUMBERS:
            least = struct.calcsize("=" + _NUMBERS[kind][0])
        elif kind in (_STRING, _ARRAY):
            least = self.count.size + (4 if kind == _ARRAY else 0)
        else:
            raise self.forward.damaged(f"an array has type {kind:,}; 0 to 12 are known")
        if count * least > self.forward.left:
            raise self.forward.damaged(
                f"an array claims {count:,} elements, {self.forward.left:,} bytes are left"
            )
        return kind, count

    def _skip(self, kind: int, count: int) -> None:
        """Pass over the elements of an array, those of arrays in it too."""
        pending = [(kind, count)]
        while pending:
            kind, count = pending.pop()
            if kind == _STRING:
                self._spend(count)
                self._skip_texts(count)
            elif kind != _ARRAY:
                self.forward.skip(count * struct.calcsize("=" + _NUMBERS[kind][0]), "an array")
            elif count:
                if len(pending) >= MAX_NESTING:
                    raise LimitError(
                        f"{visible(self.target)}: arrays lie in arrays",
                        details=(f"limit: {MAX_NESTING} levels",),
                    )
                self._spend(_COST_OF_ARRAY)
                pending += [(_ARRAY, count - 1), self._array_head()]

    def _spend(self, items: int) -> None:
        self.items += items
        if self.items > MAX_ITEMS:
            raise LimitError(
                f"{visible(self.target)}: its arrays hold too many texts",
                details=(f"limit: {MAX_ITEMS:,} of them",),
            )

    def _skip_texts(self, count: int) -> None:
        forward, width = self.forward, self.count.size
        length_at = self.count.unpack_from
        while count:
            forward.need(width, "a text of an array")
            held, at, last = forward.held, forward.at, len(forward.held) - width
            while count and at <= last:
                after = at + width + length_at(held, at)[0]
                if after > last + width:
                    break
                at = after
                count -= 1
            if at == forward.at:  # it is not held to its end
                length = self._length("a text of an array")
                if length <= _LONG_TEXT:
                    forward.need(length, "a text of an array")
                forward.skip(length, "a text of an array")
                count -= 1
            else:
                forward.at = at

    # -- tensors ----------------------------------------------------------------------

    def tensors(self) -> list[_Row]:
        """What is said of each tensor, in the order of the file."""
        return [self._tensor() for _ in range(self.n_tensors)]

    def _tensor(self) -> _Row:
        name = self._text(MAX_NAME, "the name of a tensor")
        if name.count(".") >= MAX_LEVELS:
            raise LimitError(
                f"{visible(self.target)}: a name is too long",
                details=(f"limit: {MAX_LEVELS:,} dotted parts in the name of a tensor",),
            )
        forward = self.forward
        at = forward.need(4, "the number of a tensor's axes")
        (axes,) = self.u32.unpack_from(forward.held, at)
        if axes > MAX_AXES:
            raise forward.damaged(f"tensor {_short(name)} has {axes:,} axes; the format allows {MAX_AXES}")
        _, *fastest_first, number, offset = forward.unpack(
            self.places[axes], "the shape, type and place of a tensor"
        )
        dtype = BY_GGML.get(number)
        if dtype is None:
            raise _unknown_type(self.target, name, number)
        shape = tuple(reversed(fastest_first))
        shape = self.shapes.setdefault(shape, shape)  # few differ, and a million may be equal
        return _Row(name, shape, dtype, offset, dtype.nbytes(prod(shape)))


def _unknown_type(target: str, name: str, number: int) -> CheckpointError:
    was = f" ({_REMOVED[number]}, removed from GGUF)" if number in _REMOVED else ""
    return CheckpointError(
        f"{visible(target)}: tensor {_short(name)} has a data type that is not known here",
        details=(f"ggml type {number:,}{was}",),
    )


def _shown(number: float, kind: int) -> str:
    if kind == 6:
        return f"{number:.7g}"  # as many digits as 32 bits hold
    return str(number).lower() if kind == 7 else str(number)


# -- checks --------------------------------------------------------------------------------


def _alignment(pairs: dict[str, _Value], header: _Header) -> int:
    value = pairs.get("general.alignment")
    if value is None:
        return _ALIGNMENT
    number = value.number
    if not isinstance(number, int) or number <= 0 or number & (number - 1) or number >= _I63:
        raise header.forward.damaged(
            f"general.alignment is {visible(value.text)}; a power of two is expected"
        )
    return number


def _check_sizes(rows: Sequence[_Row], target: str) -> None:
    """As ggml: rows are made of whole blocks, and 63 bits count the elements."""
    for row in rows:
        if prod(row.shape) >= _I63:
            _damaged(target, f"tensor {_short(row.name)}: its shape has more elements than 63 bits can count")
        last = row.shape[-1] if row.shape else 1
        if last % row.dtype.block:
            _damaged(
                target,
                f"tensor {_short(row.name)}: {row.dtype} stores blocks of {row.dtype.block}, "
                f"its last axis has {last:,} elements",
            )


def _repeated(rows: Sequence[_Row]) -> list[str]:
    if len({row.name for row in rows}) == len(rows):
        return []
    seen: set[str] = set()
    twice = next(row.name for row in rows if row.name in seen or seen.add(row.name))  # type: ignore[func-returns-value]
    return [f"the header names {_short(twice)} more than once: ggml refuses such a file"]


def _check_places(rows: Sequence[_Row], start: int, alignment: int, size: int, target: str) -> list[str]:
    """Do the tensors lie in the file, one after the other?"""
    spans = sorted((row.offset, row.offset + row.nbytes, row.name) for row in rows if row.nbytes)
    end = unclaimed = 0
    for begin, after, name in spans:
        if begin < end:
            _damaged(
                target,
                f"tensor {_short(name)} overlaps the one before it (byte {begin:,}, expected {end:,})",
            )
        # Padding to the next aligned byte belongs to the format.
        unclaimed += max(0, begin - end - -end % alignment)
        end = after
    have = max(0, size - start)
    if end > have:
        raise DamagedFileError(
            f"{visible(target)} is truncated",
            details=(f"its tensors take {end:,} bytes after the header, the file has {have:,}",),
            hint="compare its size with the original; a download may have stopped early",
        )
    unclaimed += max(0, have - end - -end % alignment)
    notes = [f"{unclaimed:,} bytes belong to no tensor"] if unclaimed else []
    crooked = [row.name for row in rows if row.offset % alignment]
    if crooked:
        notes.append(
            f"tensor {_short(crooked[0])} is not aligned to {alignment:,} bytes: ggml refuses such a file"
        )
    return notes


# -- rows ----------------------------------------------------------------------------------


def _table(rows: Sequence[_Row], start: int, path: str, order: str) -> Sequence[TensorInfo]:
    byteorder = repeat("big" if order == ">" else "little")
    names, shapes, dtypes, offsets, sizes = zip(*rows) if rows else ((), (), (), (), ())
    storages = map(
        Storage._make,
        zip(
            repeat(path), names, map(start.__add__, offsets), sizes, repeat("cpu"), byteorder,
        ),
    )  # fmt: skip
    quantized = {row.name[: -len(".weight")] for row in rows if row.dtype.block > 1}
    kinds = [_kind(row, quantized) for row in rows]
    tensors = rows_of_columns(names, dtypes, shapes, storages, kinds)
    return settled_by_siblings(unique_names(tensors))


def _kind(row: _Row, quantized: set[str]) -> Kind:
    if row.name.endswith(_BUFFERS):
        return "buffer"
    if row.name.endswith(_SCALES) and row.name.rpartition(".")[0] in quantized:
        return "buffer"
    return infer_kind(row.name, row.dtype, row.shape)


# -- facts ---------------------------------------------------------------------------------


def _facts(pairs: dict[str, _Value], header: _Header, alignment: int, part: str | None) -> dict[str, str]:
    facts = {
        "byte order": "big" if header.order == ">" else "little",
        "alignment": f"{alignment:,} bytes",
    }
    architecture = pairs.get("general.architecture")
    if architecture is not None:
        facts["architecture"] = architecture.text
    mix = pairs.get("general.file_type")
    if mix is not None and isinstance(mix.number, int):
        facts["quantization"] = _MIXES.get(mix.number, f"file type {mix.number}")
    template = pairs.get("tokenizer.chat_template")
    if template is not None:
        facts["chat template"] = f"{template.length:,} bytes"
    if part is not None:
        facts["part"] = part
    return facts


def _part(pairs: dict[str, _Value]) -> str | None:
    """``1 of 3`` where the file is one of several (gguf-split of llama.cpp counts from 0)."""
    number, total = (pairs.get(f"split.{key}") for key in ("no", "count"))
    if number is None or total is None:
        return None
    if not isinstance(number.number, int) or not isinstance(total.number, int) or total.number < 2:
        return None
    return f"{number.number + 1:,} of {total.number:,}"


def _short(name: str) -> str:
    return repr(visible(name[:200])) + ("…" if len(name) > 200 else "")


def _damaged(target: str, reason: str) -> None:
    raise DamagedFileError(f"{visible(target)} is not valid GGUF", details=(reason,))
