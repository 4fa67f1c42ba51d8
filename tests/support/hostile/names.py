"""
Names that would move a terminal, a spreadsheet, a browser or a reader's eye, wherever names stand.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_bytes as onnx
from gguf_bytes import ARRAY, STRING, Gguf, Tensor

from hostile.entry import SOME, Hostile, Place, archive, tensor, text, zipped

WORDS: dict[str, str] = {
    "ANSI": "\x1b[31;5mred\x1b[0m\x1b[2J\x1b[H",
    "OSC": "\x1b]52;c;ZXZpbA==\x07\x1b]8;;http://x/\x1b\\link\x1b]0;title\x07",
    "C1": "\x9b31m\x9d52;c;AAAA\x9c\x85\x84",
    "lines": "a\nb\r\nc\rd\x0b\x0ce\u2028f\u2029g\x85",
    "bidirectional": "\u202eevil\u2066abc\u2069\u200f\u061c",
    "invisible": "a\u200bb\ufeffc\u2060d\xade\U000e0041\u180e",
    "bells": "\x07\x08\x08\x7f\x00",
    "markup": "[bold red]x[/bold red][link=http://x]y[/link][/]",
    "formula": "=cmd|' /C calc'!A0",
    "formula with a plus": '+HYPERLINK("http://x","y")',
    "formula with a minus": "-2+3+cmd|' /C calc'!A0",
    "formula with an at": "@SUM(1+1)*cmd|' /C calc'!A0",
    "formula behind a tab": "\t=1+1",
    "tags": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "pipes": "a|b|c`d`*e*_f_[g](javascript:alert(1))",
    "quotes": "a\"b'c\\d;e,f",
    "braces": "{0} {name} %s %(x)s $HOME `id` {{7*7}} {0..9}",
    "combining": "z" + "\u0301" * 300,
    "half a surrogate": "a\ud800b\udc80c",
    "wide": "\u5b57\U0001f600" * 50,
    "long": "x" * 30_000,
}
_GGUF = Gguf()


def _raw(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")


def _safetensors(word: str) -> bytes:
    """In the names of tensors and in what stands beside them."""
    header = {
        "__metadata__": {word: word, "format": word},
        word: {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        f"{word}.0.{word}": {"dtype": "F32", "shape": [0], "data_offsets": [12, 12]},
    }
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + SOME


def _wrong_safetensors(word: str) -> bytes:
    """In a header that is refused."""
    raw = json.dumps({word: {"dtype": word, "shape": [3], "data_offsets": [0, 12]}}).encode()
    return struct.pack("<Q", len(raw)) + raw + SOME


def _line(word: str) -> bytes:
    """A word as a line of a pickle may hold it."""
    return _raw(word).replace(b"\n", b"")[:60_000] or b"x"


def _pickle(word: str) -> bytes:
    """In keys, sections, metadata, classes, devices, references."""
    named = b"c" + _line(word) + b"\n" + _line(word) + b"\n"
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text(word) + b"K\3tQ"
    parts = [
        text("state_dict"), b"}(" + text(word) + tensor() + text("b") + tensor(storage) + b"u",
        text(word), b"}(" + text("w") + tensor() + b"u",
        text("epoch"), text(word),
        text("hyper_parameters"), b"}(" + text(word) + text(word) + b"u",
        text("x"), named + text(word) + b"\x85R}" + text(word) + b"Nsb",
        text("y"), text(word) + b"Q",
    ]  # fmt: skip
    return archive(b"\x80\x02}(" + b"".join(parts) + b"u.")


def _bare(word: str) -> bytes:
    named = b"c" + _line(word) + b"\n" + _line(word) + b"\n"
    return b"\x80\x02}(" + text(word) + text(word) + text("f") + named + text(word) + b"\x85Ru."


def _broken(word: str) -> bytes:
    """A call that makes no sense, under that name."""
    return archive(b"\x80\x02}" + text(word) + tensor(storage=text(word)) + b"s.")


def _zip(word: str) -> bytes:
    name = word.replace("\x00", "")[:20_000].encode("utf-8", "replace").decode()
    return zipped({
        "m/data.pkl": b"\x80\x02}" + text("w") + tensor() + b"s.", "m/data/0": SOME, f"m/{name}": b"x",
        f"../{name}": b"cos\nsystem\n.", f"n/{name}.pkl": b"cos\nsystem\n(V1\ntR.",
    })  # fmt: skip


def _gguf(word: str) -> bytes:
    raw: Any = _raw(word)  # texts of any bytes

    pairs = [
        ("general.architecture", STRING, raw), ("general.name", STRING, raw), (raw, STRING, raw),
        ("a", ARRAY, (STRING, [raw, raw])), ("tokenizer.chat_template", STRING, raw),
    ]  # fmt: skip
    named = Tensor("w", (4,), 0, bytes(16))
    return _GGUF.file(pairs, [named._replace(name=raw), named])


def _onnx(word: str) -> bytes:
    raw: Any = _raw(word)
    made = onnx.tensor(raw, [3], 1, SOME)
    elsewhere = onnx.tensor("e", [3], 1, external={"location": word.encode("utf-8", "replace").decode()})
    nodes = [onnx.node(raw, [raw], [raw], name=raw, domain=raw)]
    return onnx.model(onnx.graph(nodes, [made, elsewhere]))


def _npz(word: str) -> bytes:
    name = word.replace("\x00", "")[:20_000].encode("utf-8", "replace").decode()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }".ljust(69) + b"\n"
    array = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + SOME
    return zipped({f"{name}.npy": array, f"{name}/x.npy": array})


def _npy(word: str) -> bytes:
    header = repr({"descr": word, "fortran_order": False, "shape": (3,)}).encode("latin1", "replace") + b"\n"
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(header)) + header + SOME


def _script(word: str) -> bytes:
    code = f"class N(Module):\n  __parameters__ = [{json.dumps(word)}]\n  __buffers__ = []\n".encode()
    return zipped({
        "m/data.pkl": b"\x80\x02c__torch__\n" + _line(word) + b"\n)\x81}(" + text(word) + tensor() + b"ub.",
        "m/constants.pkl": b"\x80\x02).", "m/data/0": SOME, "m/version": _raw(word)[:200],
        "m/code/__torch__.py": code,
    })  # fmt: skip


def _config(word: str) -> bytes:
    return json.dumps({word: word, "architectures": [word], "model_type": word, "torch_dtype": word,
                       "auto_map": {word: word}, "chat_template": "{{" + word}).encode()  # fmt: skip


FILES: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "safetensors": ("x.safetensors", _safetensors),
    "wrong safetensors": ("x.safetensors", _wrong_safetensors),
    "archive": ("x.pt", _pickle),
    "pickle": ("x.pkl", _bare),
    "broken archive": ("x.pt", _broken),
    "zip": ("x.pt", _zip),
    "gguf": ("x.gguf", _gguf),
    "onnx": ("x.onnx", _onnx),
    "npz": ("x.npz", _npz),
    "npy": ("x.npy", _npy),
    "script": ("x.pt", _script),
}


def _file(name: str, make: Callable[[str], bytes], word: str) -> Callable[[Place], str]:
    def write(place: Place) -> str:
        (place.folder / name).write_bytes(make(word))
        return name

    return write


def _named(word: str) -> Callable[[Place], str]:
    """A folder whose files have such names, and whose texts hold them."""

    def write(place: Place) -> str:
        name = os.fsencode(word.encode("utf-8", "replace").decode().replace("/", "").replace("\x00", ""))[
            :200
        ]
        folder = os.fsencode(place.folder)
        index = {"metadata": {word: word}, "weight_map": {word: word, "b": "b.bin"}}
        contents = {
            b"pytorch_model.bin.index.json": json.dumps(index).encode(),
            b"config.json": _config(word),
            b"adapter_config.json": _config(word),
            b"latest": _raw(word),
            name + b".bin": _pickle(word),
            name + b".pkl": _bare(word),
        }
        for each, content in contents.items():
            Path(os.fsdecode(os.path.join(folder, each))).write_bytes(content)
        return "."

    return write


_ANY = (-1, "")
ENTRIES: tuple[Hostile, ...] = tuple(
    Hostile(f"name: {what} in {where}", made, _ANY, _ANY)
    for what, word in WORDS.items()
    for where, made in (
        *((kind, _file(file, make, word)) for kind, (file, make) in FILES.items()),
        ("a folder", _named(word)),
    )
)
