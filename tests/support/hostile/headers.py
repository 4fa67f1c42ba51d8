"""
Formats whose header is no pickle: safetensors, GGUF, NumPy, ONNX; and texts that cost or mislead.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import onnx_bytes as onnx
from gguf_bytes import ARRAY, STRING, Gguf, Tensor

from hostile.entry import Hostile, Outcome, one, opened

Made = tuple[bytes | Callable[[], bytes] | Callable[[str], bytes], Outcome, Outcome]
_HEADER = (1, "header")
_BAD = (2, "")
_ROW = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


# -- safetensors ------------------------------------------------------------------------------


def _tensors(header: bytes | dict[str, Any], data: bytes = b"\1", length: int | None = None) -> bytes:
    """A file with that header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def _row(text: str) -> bytes:
    """A header of one tensor, whose entry is that."""
    return b'{"a":' + text.encode() + b"}"


_ENTRY = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
SAFETENSORS: dict[str, Made] = {
    "sound": (_tensors({"a": _ROW}), (0, "0\n"), (0, "nothing found in")),
    "a length of 2**64 - 1": (
        _tensors(_row(_ENTRY), length=(1 << 64) - 1),
        (2, "is not a checkpoint this version can read"),
        (2, "is nothing that is looked into here"),
    ),
    "a length of 100 MB": (_tensors(_row(_ENTRY), length=100_000_000), (2, "bytes at byte"), _HEADER),
    "a length beyond the end": (_tensors(_row(_ENTRY), length=1_000), (2, "bytes at byte"), _HEADER),
    "a length of 2": (_tensors(_row(_ENTRY), length=2), (2, "is not valid safetensors"), _HEADER),
    "a space before": (
        _tensors(b" " + _row(_ENTRY)),
        (2, "is not a checkpoint this version can read"),
        (2, "is nothing that is looked into here"),
    ),
    "a byte order mark": (
        _tensors(b"\xef\xbb\xbf" + _row(_ENTRY)),
        (2, "is not a checkpoint this version can read"),
        (2, "is nothing that is looked into here"),
    ),
    "UTF-16": (_tensors(_row(_ENTRY).decode().encode("utf-16-le")), (2, "is not valid safetensors"), _HEADER),
    "tabs behind": (_tensors(_row(_ENTRY) + b"\t\t"), (0, "0\n"), (0, "nothing found in")),
    "zeros behind": (_tensors(_row(_ENTRY) + b"\0\0"), (2, "is not valid safetensors"), _HEADER),
    "two objects": (_tensors(_row(_ENTRY) * 2), (2, "is not valid safetensors"), _HEADER),
    "a trailing comma": (
        _tensors(b'{"a":' + _ENTRY.encode() + b",}"),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "a comment": (_tensors(b"{/**/}", b""), (2, "is not valid safetensors"), _HEADER),
    "NaN": (
        _tensors(_row('{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":NaN}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "Infinity": (
        _tensors(_row('{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":-Infinity}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "1e999": (
        _tensors(_row('{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1e999}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "a leading zero": (
        _tensors(_row('{"dtype":"U8","shape":[01],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "a float as a size": (
        _tensors(_row('{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "an exponent as a size": (
        _tensors(_row('{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "true as a size": (
        _tensors(_row('{"dtype":"U8","shape":[true],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "a text as a size": (
        _tensors(_row('{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "a negative size": (
        _tensors(_row('{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "minus zero": (
        _tensors(_row('{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}'), b""),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "a size of 2**64": (
        _tensors(_row('{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "a size of 5,000 digits": (
        _tensors(_row('{"dtype":"U8","shape":[' + "9" * 5_000 + '],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "a size of a million digits": (
        lambda: _tensors(_row('{"dtype":"U8","shape":[' + "9" * 1_000_000 + '],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "sizes whose product is 2**128": (
        _tensors(
            _row('{"dtype":"U8","shape":[18446744073709551615,18446744073709551615],"data_offsets":[0,1]}')
        ),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "sizes whose product is 0 and not": (
        _tensors(
            _row('{"dtype":"U8","shape":[18446744073709551615,18446744073709551615,0],"data_offsets":[0,0]}'),
            b"",
        ),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "300,000 sizes": (
        lambda: _tensors(_row('{"dtype":"U8","shape":[' + "1," * 299_999 + '1],"data_offsets":[0,1]}')),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "offsets the wrong way round": (
        _tensors(_row('{"dtype":"U8","shape":[1],"data_offsets":[1,0]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "three offsets": (
        _tensors(_row('{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "offsets beyond the end": (
        _tensors(_row('{"dtype":"U8","shape":[9],"data_offsets":[0,9]}')),
        (2, "is truncated"),
        _HEADER,
    ),
    "a hole": (
        _tensors(_row('{"dtype":"U8","shape":[1],"data_offsets":[1,2]}'), b"\1\1"),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "bytes behind the last": (
        _tensors(_row(_ENTRY), b"\1\1"),
        (2, "holds bytes that no tensor claims"),
        _HEADER,
    ),
    "an overlap": (_tensors({"a": _ROW, "b": _ROW}), (2, "is not valid safetensors"), _HEADER),
    "a dtype of nobody": (
        _tensors(_row('{"dtype":"C128","shape":[1],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "a dtype that is a list": (
        _tensors(_row('{"dtype":["U8"],"shape":[1],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "half a byte": (
        _tensors(_row('{"dtype":"F4","shape":[1],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "no dtype": (
        _tensors(_row('{"shape":[1],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "an entry that is null": (_tensors(_row("null"), b""), (2, "is not valid safetensors"), _HEADER),
    "an entry that is a list": (_tensors(_row('["U8",[1],[0,1]]')), (0, "0\n"), (0, "nothing found in")),
    "a name twice": (
        _tensors(b'{"a":' + _ENTRY.encode() + b',"a":' + _ENTRY.encode() + b"}"),
        (0, "more than once"),
        _HEADER,
    ),
    "a name twice, once escaped": (
        _tensors(b'{"a":' + _ENTRY.encode() + b',"\\u0061":' + _ENTRY.encode() + b"}"),
        (0, "more than once"),
        _HEADER,
    ),
    "a key of an entry twice": (
        _tensors(_row('{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}')),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "metadata twice": (
        _tensors(b'{"__metadata__":{},"__metadata__":{},"a":' + _ENTRY.encode() + b"}"),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "metadata of numbers": (
        _tensors({"__metadata__": {"a": 1}, "a": _ROW}),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "metadata that is a list": (
        _tensors({"__metadata__": [], "a": _ROW}),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "metadata of 5 MB": (
        lambda: _tensors({"__metadata__": {"k": "x" * 5_000_000}, "a": _ROW}),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "metadata of 100,000 keys": (
        lambda: _tensors({"__metadata__": {f"k{n}": "v" for n in range(100_000)}, "a": _ROW}),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "half a surrogate": (
        _tensors(b'{"\\ud800":' + _ENTRY.encode() + b"}"),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "no UTF-8": (_tensors(b'{"\xff":' + _ENTRY.encode() + b"}"), (2, "is not valid safetensors"), _HEADER),
    "a raw control character": (
        _tensors(b'{"a\nb":' + _ENTRY.encode() + b"}"),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "an empty name": (_tensors({"": _ROW}), (0, "0\n"), (0, "nothing found in")),
    "a name of 3 MB": (lambda: _tensors({"a" * 3_000_000: _ROW}), (2, "a name is too long"), (1, "header")),
    "nested 100,000 deep": (
        lambda: _tensors(
            _row('{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":' + "[" * 100_000 + "]" * 100_000 + "}")
        ),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "open 5,000,000 deep": (
        lambda: _tensors(b'{"a":' + b"[" * 5_000_000),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "open objects, a million deep": (
        lambda: _tensors(b'{"a":' * 1_000_000),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "an unfinished text of 5 MB": (
        lambda: _tensors(b'{"' + b"\\" * 5_000_000),
        (2, "is not valid safetensors"),
        _HEADER,
    ),
    "10 million lists": (
        lambda: _tensors(b'{"a":[' + b"[]," * 10_000_000 + b"[]]}"),
        (2, "far more lists"),
        _HEADER,
    ),
    "5 million texts": (
        lambda: _tensors(b'{"a":[' + b'"ab",' * 5_000_000 + b"1]}"),
        (2, "far more lists"),
        _HEADER,
    ),
    "a text of 4 MB of brackets": (
        lambda: _tensors({"__metadata__": {"k": "[]," * 1_300_000}, "a": _ROW}),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "20,000 tensors of nothing": (
        lambda: _tensors(
            {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_000)}, b""
        ),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "an adapter without a rank": (
        _tensors(
            {"base_model.model.a.lora_A.weight": {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]}},
            b"",
        ),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "a pointer of GPTQ that lies": (
        _tensors(
            {
                "a.qweight": {"dtype": "I32", "shape": [1, 2], "data_offsets": [0, 8]},
                "a.scales": {"dtype": "F16", "shape": [0, 2], "data_offsets": [8, 8]},
                "a.g_idx": {"dtype": "I32", "shape": [0], "data_offsets": [8, 8]},
                "a.qzeros": {"dtype": "I32", "shape": [0, 0], "data_offsets": [8, 8]},
            },
            bytes(8),
        ),
        (0, "2\n"),
        (0, "nothing found in"),
    ),
    "a state of bitsandbytes that lies": (
        lambda: _tensors(
            {
                "a.weight": {"dtype": "U8", "shape": [2, 1], "data_offsets": [0, 2]},
                "a.weight.absmax": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
                "a.weight.quant_state.bitsandbytes__nf4": {
                    "dtype": "U8",
                    "shape": [9_000],
                    "data_offsets": [6, 9_006],
                },
            },
            bytes(6) + b"[" * 9_000,
        ),
        (0, "3\n"),
        (0, "nothing found in"),
    ),
    "a shape of bitsandbytes that lies": (
        lambda: _tensors(
            {
                "a.weight": {"dtype": "U8", "shape": [2, 1], "data_offsets": [0, 2]},
                "a.weight.absmax": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
                "a.weight.quant_state.bitsandbytes__nf4": {
                    "dtype": "U8",
                    "shape": [60],
                    "data_offsets": [6, 66],
                },
            },
            bytes(6) + b'{"shape":[99999999999999,9999999999999999],"blocksize":0}'.ljust(60),
        ),
        (0, "3\n"),
        (0, "nothing found in"),
    ),
    "torchao metadata that lies": (
        _tensors(
            {"__metadata__": {"tensor_names": '["a","b",7]', "a": "[" * 5_000, "b": '{"_type":7}'}, "a": _ROW}
        ),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "sharding of DCP that lies": (
        _tensors(
            {
                "__metadata__": {
                    "DCP_VERSION": "1",
                    "DCP_SHARDING_INFO": '{"a":{"saved_offsets":[99999999999999999999]}}',
                },
                "a": _ROW,
            }
        ),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "sharding of DCP, nested": (
        _tensors({"__metadata__": {"DCP_VERSION": "1", "DCP_SHARDING_INFO": "[" * 50_000}, "a": _ROW}),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
}


# -- GGUF -------------------------------------------------------------------------------------

_G = Gguf()
_T = Tensor("w", (32,), 0, bytes(128))
_ALIGNED = "general.alignment"


def _raw(pairs: int, tensors: int, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + body


def _pair(kind: int, body: bytes, key: str = "k") -> bytes:
    return _G.text(key) + struct.pack("<I", kind) + body


def _shape(*dims: int, kind: int = 0, offset: int = 0) -> bytes:
    """A file of one tensor with those dimensions."""
    body = _G.text("w") + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return _raw(0, 1, body) + bytes(512)


GGUF: dict[str, Made] = {
    "sound": (_G.file([("general.name", STRING, "x")], [_T]), (0, "32\n"), (0, "nothing found in")),
    "cut": (_G.file([], [_T])[:40], (2, "is damaged"), (1, "header")),
    "version 0": (
        _raw(0, 0, version=0),
        (2, "is GGUF of a version that this one does not know"),
        (1, "header"),
    ),
    "version 2**32 - 1": (
        _raw(0, 0, version=0xFFFFFFFF),
        (2, "is GGUF of a version that this one does not know"),
        (1, "header"),
    ),
    "2**64 - 1 tensors": (_raw(0, (1 << 64) - 1, bytes(64)), (2, "is damaged"), (1, "header")),
    "2**64 - 1 pairs": (_raw((1 << 64) - 1, 0, bytes(64)), (2, "is damaged"), (1, "header")),
    "a key of 2**63 bytes": (
        _raw(1, 0, struct.pack("<Q", 1 << 63) + bytes(64)),
        (2, "bytes at byte"),
        (1, "header"),
    ),
    "a text of 2**64 - 1 bytes": (
        _raw(1, 0, _pair(STRING, b"\xff" * 8 + bytes(64))),
        (2, "bytes at byte"),
        (1, "header"),
    ),
    "an array of 2**60": (
        _raw(1, 0, _pair(ARRAY, struct.pack("<IQ", 0, 1 << 60) + bytes(64))),
        (2, "is damaged"),
        (1, "header"),
    ),
    "an array of 2**60 texts": (
        _raw(1, 0, _pair(ARRAY, struct.pack("<IQ", STRING, 1 << 60) + bytes(64))),
        (2, "is damaged"),
        (1, "header"),
    ),
    "an array of 2**60 arrays": (
        _raw(1, 0, _pair(ARRAY, struct.pack("<IQ", ARRAY, 1 << 60) + bytes(64))),
        (2, "is damaged"),
        (1, "header"),
    ),
    "an array of 2**64 - 1 eights": (
        _raw(1, 0, _pair(ARRAY, struct.pack("<IQ", 10, (1 << 64) - 1))),
        (2, "is damaged"),
        (1, "header"),
    ),
    "arrays inside each other": (
        lambda: _raw(1, 0, _pair(ARRAY, struct.pack("<IQ", ARRAY, 1) * 200_000 + struct.pack("<IQ", 0, 0))),
        (2, "arrays lie in arrays"),
        (1, "header"),
    ),
    "arrays of empty arrays": (
        lambda: _raw(
            1, 0, _pair(ARRAY, struct.pack("<IQ", ARRAY, 100_000) + struct.pack("<IQ", 0, 0) * 100_000)
        ),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "a million empty texts": (
        lambda: _raw(1, 0, _pair(ARRAY, struct.pack("<IQ", STRING, 1_000_000) + bytes(8_000_000))),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "100,000 pairs": (
        lambda: _raw(100_000, 0, b"".join(_pair(0, b"\1", f"k{n}") for n in range(100_000))),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "a type of nobody": (_raw(1, 0, _pair(99, bytes(64))), (2, "is damaged"), (1, "header")),
    "a bool of 7": (_raw(1, 0, _pair(7, b"\7")), (0, "0\n"), (0, "nothing found in")),
    "a key twice": (_raw(2, 0, _pair(0, b"\1") * 2), (2, "is damaged"), (1, "header")),
    "a key in no UTF-8": (
        _raw(1, 0, _G.text(b"\xff\xfe") + struct.pack("<I", 0) + b"\1"),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "an alignment of 0": (_raw(1, 0, _pair(4, bytes(4), _ALIGNED)), (2, "is damaged"), (1, "header")),
    "an alignment of 3": (_raw(1, 0, _pair(4, b"\3\0\0\0", _ALIGNED)), (2, "is damaged"), (1, "header")),
    "an alignment of 2**31": (_G.file([(_ALIGNED, 4, 1 << 31)], [_T]), (2, "is truncated"), (1, "header")),
    "an alignment that is a text": (
        _G.file([(_ALIGNED, STRING, "32")], [_T]),
        (2, "is damaged"),
        (1, "header"),
    ),
    "a negative alignment": (_G.file([(_ALIGNED, 5, -32)], [_T]), (2, "is damaged"), (1, "header")),
    "5 dimensions": (_shape(1, 1, 1, 1, 1), (2, "is damaged"), (1, "header")),
    "2**32 - 1 dimensions": (
        _raw(0, 1, _G.text("w") + b"\xff" * 4 + bytes(64)),
        (2, "is damaged"),
        (1, "header"),
    ),
    "no dimension": (_shape(), (0, "1\n"), (0, "nothing found in")),
    "a dimension of 0": (_shape(0, 1 << 63), (0, "0\n"), (0, "nothing found in")),
    "dimensions of 2**32 each": (_shape(1 << 32, 1 << 32), (2, "is not valid GGUF"), (1, "header")),
    "dimensions of 2**62 each": (
        _shape(1 << 62, 1 << 62, 1 << 62, 1 << 62),
        (2, "is not valid GGUF"),
        (1, "header"),
    ),
    "rows that are no blocks": (_shape(33, kind=2), (2, "is not valid GGUF"), (1, "header")),
    "a removed type": (_shape(32, kind=4), (2, "has a data type that is not known here"), (1, "header")),
    "a type of 2**32 - 1": (
        _shape(32, kind=0xFFFFFFFF),
        (2, "has a data type that is not known here"),
        (1, "header"),
    ),
    "an offset of 2**63": (_shape(32, offset=1 << 63), (2, "is truncated"), (1, "header")),
    "an odd offset": (_shape(32, offset=7), (0, "ggml refuses"), (1, "header")),
    "an overlap": (
        _G.file([], [_T, _T._replace(name="v", offset=0)]),
        (2, "is not valid GGUF"),
        (1, "header"),
    ),
    "a name twice": (_G.file([], [_T, _T]), (0, "64\n"), (1, "header")),
    "a name of 5 MB": (
        lambda: _G.file([], [_T._replace(name="w" * 5_000_000)]),
        (2, "the name of a tensor is"),
        (1, "header"),
    ),
    "an empty name": (_G.file([], [_T._replace(name="")]), (0, "32\n"), (0, "nothing found in")),
    "a split of 65,535 files": (
        _G.file([("split.no", 2, 0), ("split.count", 2, 65_535), ("split.tensors.count", 5, 9)], [_T]),
        (0, "32\n"),
        (0, "nothing found in"),
    ),
    "a template that reaches": (
        _G.file(
            [("tokenizer.chat_template", STRING, "{{ ''.__class__.__mro__[1].__subclasses__() }}")], [_T]
        ),
        (0, "32\n"),
        (1, "template-escape"),
    ),
}


# -- NumPy ------------------------------------------------------------------------------------


def _npy(header: str | bytes, data: bytes = bytes(24), version: int = 1) -> bytes:
    raw = header.encode("latin1") if isinstance(header, str) else header
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + struct.pack("<H" if version == 1 else "<I", len(raw))
        + raw
        + data
    )


def _described(descr: str, shape: str = "(3,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


_F8 = "'<f8'"
NPY: dict[str, Made] = {
    "sound": (_npy(_described(_F8)), (0, "3\n"), (0, "nothing found in")),
    "a call": (
        lambda m: _npy(_described(_F8, f"(open({m!r}, 'w'),)")),
        (2, "is not a NumPy array"),
        (1, "header"),
    ),
    "an import": (
        lambda m: _npy(f"__import__('os').system('touch {m}')\n"),
        (2, "is not a NumPy array"),
        (1, "header"),
    ),
    "a lambda": (_npy(_described(_F8, "(lambda: 3)()")), (2, "is not a NumPy array"), (1, "header")),
    "a comprehension": (
        _npy(_described(_F8, "tuple(3 for x in range(10**9))")),
        (2, "is not a NumPy array"),
        (1, "header"),
    ),
    "a power": (_npy(_described(_F8, "(9**9**9,)")), (2, "is not a NumPy array"), (1, "header")),
    "a product": (_npy(_described(_F8, "(3*1,)")), (2, "is not a NumPy array"), (1, "header")),
    "a text multiplied": (_npy(_described("'<f8'*10**9")), (2, "is not a NumPy array"), (1, "header")),
    "nested 20,000 deep": (
        lambda: _npy("(" * 20_000 + ")" * 20_000, version=2),
        (2, "the header of an array claims"),
        (1, "header"),
    ),
    "open 60,000 deep": (lambda: _npy("[" * 60_000), (2, "the header of an array claims"), (1, "header")),
    "minus 60,000 times": (
        lambda: _npy("-" * 60_000 + "1"),
        (2, "the header of an array claims"),
        (1, "header"),
    ),
    "a header of 4 GB": (
        b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(64),
        (2, "the header of an array claims"),
        (1, "header"),
    ),
    "a header of 2 MB": (
        lambda: _npy(_described(_F8) + " " * 2_000_000, version=2),
        (2, "the header of an array claims"),
        (1, "header"),
    ),
    "a header beyond the end": (_npy(_described(_F8))[:30], (2, "the header of the array"), (1, "header")),
    "version 9": (_npy(_described(_F8), version=9), (2, "is not a NumPy array"), (1, "header")),
    "a negative size": (_npy(_described(_F8, "(-3,)")), (2, "is not a NumPy array"), (1, "header")),
    "a size of 5,000 digits": (
        _npy(_described(_F8, "(" + "9" * 5_000 + ",)")),
        (2, "is not a NumPy array"),
        (1, "header"),
    ),
    "sizes of 2**62 each": (
        _npy(_described(_F8, "(4611686018427387904, 4611686018427387904)")),
        (2, "is not a NumPy array"),
        (1, "header"),
    ),
    "a size that is a text": (_npy(_described(_F8, "('3',)")), (2, "is not a NumPy array"), (1, "header")),
    "a size that is true": (_npy(_described(_F8, "(True,)")), (2, "is not a NumPy array"), (1, "header")),
    "a shape that is a number": (_npy(_described(_F8, "3")), (2, "is not a NumPy array"), (1, "header")),
    "too long": (_npy(_described(_F8, "(9999999,)")), (2, "the numbers of the array"), (1, "size-lie")),
    "bytes behind": (_npy(_described(_F8), bytes(100)), (0, "3\n"), (0, "nothing found in")),
    "objects": (
        lambda m: _npy(_described("'|O'", "(1,)"), b"\x80\x02" + opened(m) + b"."),
        (0, "0\n"),
        (1, "executes-code"),
    ),
    "objects in fields": (
        lambda m: _npy(_described("[('a', '|O'), ('b', '<f8')]", "(1,)"), b"\x80\x02" + opened(m) + b"."),
        (0, "0\n"),
        (1, "executes-code"),
    ),
    "objects deeper in fields": (
        lambda m: _npy(_described("[('a', [('b', 'O', (2,))])]", "(1,)"), b"\x80\x02" + opened(m) + b"."),
        (0, "0\n"),
        (1, "executes-code"),
    ),
    "objects by another name": (
        lambda m: _npy(_described("'object'", "(1,)"), b"\x80\x02" + opened(m) + b"."),
        (0, "0\n"),
        (1, "executes-code"),
    ),
    "objects in a comma text": (
        lambda m: _npy(_described("'i4,O'", "(1,)"), b"\x80\x02" + opened(m) + b"."),
        (0, "0\n"),
        (1, "executes-code"),
    ),
    "objects in an array of arrays": (
        lambda m: _npy(_described("('|O', (2,))", "(1,)"), b"\x80\x02" + opened(m) + b"."),
        (0, "0\n"),
        (1, "executes-code"),
    ),
    "a type of 10**9 bytes": (
        _npy(_described("'|V1000000000'", "(1,)")),
        (0, "elements of type"),
        (0, "nothing found in"),
    ),
    "a type of nobody": (_npy(_described("'<z99'")), (0, "elements of type"), (0, "nothing found in")),
    "fields inside each other": (
        lambda: _npy(_described("[('a', " * 3_000 + "'<f8'" + ")]" * 3_000)),
        (2, "the header of an array claims"),
        (1, "header"),
    ),
    "a key twice": (
        _npy("{'descr': '<f8', 'descr': '|O', 'fortran_order': False, 'shape': (3,)}\n"),
        (0, "0\n"),
        (1, "pickle-broken"),
    ),
    "a set": (_npy("{'descr', 'fortran_order', 'shape'}\n"), (2, "is not a NumPy array"), (1, "header")),
    "no header": (_npy(""), (2, "is not a NumPy array"), (1, "header")),
    "a null byte": (_npy(_described(_F8).replace("}", "\0}")), (2, "is not a NumPy array"), (1, "header")),
}


# -- ONNX -------------------------------------------------------------------------------------


def _model(*initializers: bytes, nodes: tuple[bytes, ...] = ()) -> bytes:
    return onnx.model(onnx.graph(nodes, initializers))


def _deep(levels: int, raw: bytes) -> bytes:
    """Graphs inside each other's attributes; lengths are varints, so from the inside out."""
    for _ in range(levels):
        raw = onnx.graph([onnx.node("If", ["c"], ["y"], [onnx.attribute("then_branch", graph=raw)])])
    return onnx.model(raw)


def _external(location: str, **more: str) -> bytes:
    return _model(
        onnx.tensor("w", [2], 1, external={"location": location, "offset": "0", "length": "8", **more})
    )


_W = onnx.tensor("w", [2], 1, bytes(8))
ONNX: dict[str, Made] = {
    "sound": (_model(_W), (0, "2\n"), (0, "nothing found in")),
    "a varint without end": (
        b"\x08" + b"\xff" * 100,
        (2, "is not a checkpoint this version can read"),
        (1, "header"),
    ),
    "a varint of 2**64 - 1 as a length": (
        b"\x08\x08\x3a" + b"\xff" * 9 + b"\x01",
        (2, "bytes at byte"),
        (1, "header"),
    ),
    "a length beyond the end": (_model(_W)[:-5], (2, "bytes at byte"), (1, "header")),
    "cut": (_model(_W)[:20], (2, "bytes at byte"), (1, "header")),
    "groups inside each other": (
        lambda: b"\x08\x08" + b"\x3b" * 500_000,
        (2, "is not a checkpoint this version can read"),
        (1, "header"),
    ),
    "graphs inside each other": (
        lambda: _deep(60, onnx.graph([], [_W])),
        (2, "holds too much"),
        (1, "header"),
    ),
    "graphs inside each other, 2,000": (
        lambda: _deep(2_000, onnx.graph([], [_W])),
        (2, "holds too much"),
        (1, "header"),
    ),
    "50,000 nodes": (
        lambda: onnx.model(onnx.graph([onnx.node("Relu", ["a"], ["b"])] * 50_000)),
        (0, "0\n"),
        (0, "nothing found in"),
    ),
    "100,000 empty nodes": (lambda: onnx.model(b"\x0a\x00" * 100_000), (0, "0\n"), (0, "nothing found in")),
    "a size of 2**63": (
        _model(onnx.tensor("w", [1 << 63, 1 << 63], 1, bytes(8))),
        (2, "is not valid ONNX"),
        (1, "header"),
    ),
    "a negative size": (
        _model(onnx.tensor("w", [(1 << 64) - 1], 1, bytes(8))),
        (2, "is not valid ONNX"),
        (1, "header"),
    ),
    "a million sizes": (
        lambda: _model(onnx.tensor("w", [1] * 1_000_000, 1, bytes(4))),
        (2, "holds too much"),
        (1, "header"),
    ),
    "bytes unlike the shape": (
        _model(onnx.tensor("w", [3], 1, bytes(8))),
        (2, "is not valid ONNX"),
        (1, "header"),
    ),
    "a type of nobody": (
        _model(onnx.tensor("w", [2], 99, bytes(8))),
        (2, "has a data type that is not known here"),
        (1, "header"),
    ),
    "a name twice": (_model(_W, _W), (0, "4\n"), (0, "nothing found in")),
    "external data outside": (_external("../outside/secret.bin"), (2, "outside"), (1, "external-data")),
    "external data, /etc/passwd": (
        _external("/etc/passwd"),
        (2, "names a file outside its folder"),
        (1, "external-data"),
    ),
    "external data, ../../etc/passwd": (
        _external("../../../../../../etc/passwd"),
        (2, "names a file outside its folder"),
        (1, "external-data"),
    ),
    "external data, a device": (
        _external("/dev/zero"),
        (2, "names a file outside its folder"),
        (1, "external-data"),
    ),
    "external data, the folder": (
        _external("."),
        (2, "names a file outside its folder"),
        (1, "external-data"),
    ),
    "external data, a null byte": (
        _external("a\0b"),
        (2, "names a file outside its folder"),
        (1, "external-data"),
    ),
    "external data, a name of 100 kB": (_external("x" * 100_000), (0, "and not there"), (1, "header")),
    "external data, itself": (_external("x.onnx"), (0, "2\n"), (0, "nothing found in")),
    "external data, itself, too long": (
        _external("x.onnx", length="99999999"),
        (2, "is not valid ONNX"),
        (1, "header"),
    ),
    "external data, a negative offset": (
        _external("x.onnx", offset="-8"),
        (2, "is not valid ONNX"),
        (1, "header"),
    ),
    "external data, an offset that is no number": (
        _external("x.onnx", offset="1e9"),
        (2, "is not valid ONNX"),
        (1, "header"),
    ),
    "external data, an offset of 5,000 digits": (
        _external("x.onnx", offset="9" * 5_000),
        (2, "is not valid ONNX"),
        (1, "header"),
    ),
    "external data, a URL": (
        _external("https://example.com/w.bin"),
        (0, "and not there"),
        (0, "nothing found in"),
    ),
    "an operator of nobody": (
        _model(_W, nodes=(onnx.node("Run", ["w"], ["y"], domain="evil"),)),
        (0, "2\n"),
        (0, "nothing found in"),
    ),
}


# -- texts ------------------------------------------------------------------------------------

TEXTS: dict[str, Made] = {
    "JSON, 100,000 deep": (
        lambda: b"[" * 100_000 + b"]" * 100_000,
        (2, "is not a checkpoint this version can read"),
        (0, "nothing found in"),
    ),
    "JSON, a number of a million digits": (
        lambda: b'{"a":' + b"9" * 1_000_000 + b"}",
        (2, "is not a checkpoint this version can read"),
        (0, "nothing found in"),
    ),
    "JSON of 5 MB": (
        lambda: b'{"a":"' + b"x" * 5_000_000 + b'"}',
        (2, "which this version does not read"),
        (0, "nothing found in"),
    ),
    "JSON that asks for code": (
        b'{"auto_map":{"AutoModel":"evil.Net"}}',
        (2, "which this version does not read"),
        (1, "custom-code"),
    ),
    "JSON with a name twice": (
        b'{"auto_map":{},"auto_map":{"AutoModel":"evil.Net"}}',
        (2, "which this version does not read"),
        (1, "custom-code"),
    ),
    "a template that reaches": (
        b'{"chat_template":"{{ cycler.__init__.__globals__.os.popen(1) }}"}',
        (2, "which this version does not read"),
        (1, "template-escape"),
    ),
    "a template, 100,000 braces": (
        lambda: json.dumps({"chat_template": "{{" * 100_000}).encode(),
        (2, "which this version does not read"),
        (0, "nothing found in"),
    ),
    "Python": (
        lambda m: f"open({m!r}, 'w')\n".encode(),
        (2, "is not a checkpoint this version can read"),
        (0, "nothing found in"),
    ),
    "YAML": (
        lambda m: f"!!python/object/apply:os.system ['touch {m}']\n".encode(),
        (2, "is not a checkpoint this version can read"),
        (0, "nothing found in"),
    ),
}


ENTRIES: tuple[Hostile, ...] = tuple(
    one(f"{kind}: {name}", raw, count, scan, file, costly=callable(raw))
    for kind, file, made in (
        ("safetensors", "x.safetensors", SAFETENSORS),
        ("gguf", "x.gguf", GGUF),
        ("npy", "x.npy", NPY),
        ("onnx", "x.onnx", ONNX),
        ("text", "x.json", TEXTS),
    )
    for name, (raw, count, scan) in made.items()
)
