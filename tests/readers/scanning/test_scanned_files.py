"""
Files that would run something, hide something or lie about their size, each with what is found.

The payload is always harmless, and always reported: nothing of it may run here.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_bytes
import pytest
import torch
from gguf_bytes import Gguf

from modelinspect.analysis.scan import ScanReport, scan_target
from modelinspect.readers.scanning.budget import Budget
from modelinspect.readers.scanning.item import Scan
from modelinspect.readers.scanning.seen import NamedGlobal

PAYLOAD = b"cos\ngetcwd\n(tR."
"""Protocol 0: calls os.getcwd()."""
HONEST = b"\x80\x02}q\x00X\x01\x00\x00\x00aK\x01s."
SYSTEM = "executes-code"


class Runs:
    """Calls os.getcwd() when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


def scanned(raw: bytes, folder: Path, name: str = "file.bin") -> ScanReport:
    """The report of a file."""
    path = folder / name
    path.write_bytes(raw)
    return scan_target(str(path), name)


def rules(report: ScanReport) -> set[str]:
    """What was found, notes aside."""
    return {finding.rule for finding in report.findings if finding.level != "note"}


def zipped(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as Python writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(records: dict[str, bytes]) -> bytes:
    """The same as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in records.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def saved(thing: Any, **how: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(thing, buffer, **how)
    return buffer.getvalue()


def replaced(raw: bytes, old: bytes, new: bytes, which: int = 0) -> bytes:
    """One of several places changed, the length kept."""
    assert len(old) == len(new)
    at = -1
    for _ in range(which + 1):
        at = raw.index(old, at + 1)
    return raw[:at] + new + raw[at + len(old) :]


def text(word: str) -> bytes:
    """A text of protocol 4."""
    return b"\x8c" + bytes([len(word)]) + word.encode()


def array_of_objects(thing: Any) -> bytes:
    """What numpy.save writes of Python objects."""
    buffer = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = thing
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def framed(inner: bytes, rest: bytes) -> bytes:
    """A pickle whose frame ends where *rest* begins."""
    return b"\x80\x04\x95" + struct.pack("<Q", len(inner)) + inner + rest


ARCHIVE = zipped({"m/data.pkl": HONEST, "m/version": b"3\n"})
HIDDEN = zipped({"m/other.pkl": PAYLOAD})
DIRECTORY_AT = ARCHIVE.index(b"PK\1\2")


def with_hidden_record() -> bytes:
    """A record between the others and the directory, which does not list it."""
    local = HIDDEN[: HIDDEN.index(b"PK\1\2")]
    moved = bytearray(ARCHIVE[:DIRECTORY_AT] + local + ARCHIVE[DIRECTORY_AT:])
    end = moved.index(b"PK\5\6")
    struct.pack_into("<L", moved, end + 16, DIRECTORY_AT + len(local))
    return bytes(moved)


def nested(levels: int) -> bytes:
    """Archives inside each other around a pickle."""
    raw, name = PAYLOAD, "data.pkl"
    for level in range(levels):
        raw, name = zipped({name: raw}), f"{level}.zip"
    return raw


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    # Pickles of every protocol, under any name.
    **{f"protocol {n}": (lambda n=n: pickle.dumps(Runs(), n), SYSTEM) for n in range(6)},  # type: ignore[misc]
    "protocol 0, by hand": (lambda: PAYLOAD, SYSTEM),
    "INST": (lambda: b"(S'x'\nios\ngetcwd\n.", SYSTEM),
    "OBJ, popped": (lambda: b"(cos\ngetcwd\no0N.", SYSTEM),
    "NEWOBJ": (lambda: b"\x80\x02cos\ngetcwd\n)\x81.", SYSTEM),
    "NEWOBJ_EX": (lambda: b"\x80\x04" + text("os") + text("getcwd") + b"\x93)}\x92.", SYSTEM),
    "STACK_GLOBAL": (lambda: b"\x80\x04" + text("os") + text("getcwd") + b"\x93)R.", SYSTEM),
    "a name out of the memo": (
        lambda: b"\x80\x04" + text("os") + b"\x940" + text("getcwd") + b"\x940h\0h\1\x93)R.",
        SYSTEM,
    ),
    "a computed name": (
        lambda: b"\x80\x04c_codecs\nencode\n" + text("os") + b"\x85R" + text("getcwd") + b"\x93)R.",
        "computed-name",
    ),
    "an attribute of a module": (
        lambda: b"\x80\x04" + text("torch.serialization") + text("os.getcwd") + b"\x93)R.",
        SYSTEM,
    ),
    "an extension code": (lambda: b"\x80\x02\x82\x05)R.", "extension"),
    "a call in a key": (lambda: b"\x80\x02}cos\ngetcwd\n)RNs.", SYSTEM),
    "a call in a value that is popped": (lambda: b"\x80\x02cos\ngetcwd\n)R0N.", SYSTEM),
    "a call in a persistent id": (lambda: b"\x80\x02cos\ngetcwd\n)RQ.", SYSTEM),
    "a call in a state": (
        lambda: b"\x80\x02ccollections\nOrderedDict\n)Rcos\ngetcwd\n)Rb.",
        SYSTEM,
    ),
    "a call of what was got": (
        lambda: b"\x80\x02c__builtin__\ngetattr\ncos\n__name__\nX\x06\x00\x00\x00getcwd\x86R)R.",
        SYSTEM,
    ),
    "an unknown name": (lambda: b"\x80\x02cmy_package.net\nNet\n)R.", "unknown-global"),
    "a name that is not called": (lambda: b"\x80\x02cmy_package.net\nNet\n.", "unknown-global"),
    "a class that is changed": (
        lambda: b"\x80\x02ctorch\nTensor\nN}X\x01\x00\x00\x00aNs\x86b.",
        "changes-global",
    ),
    "what torch is told to call": (
        lambda: (
            b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\ncos\ngetcwd\nctorch\nTensor\n)Nt"
            b"R."
        ).replace(b"cos", b"(cos", 1),
        SYSTEM,
    ),
    "a payload, then a break": (lambda: PAYLOAD[:-1] + b"\xff\xff\xff", "pickle-broken"),
    "a payload behind an honest pickle": (lambda: HONEST + PAYLOAD, SYSTEM),
    "a payload behind a hundred pickles": (lambda: HONEST * 100 + PAYLOAD, SYSTEM),
    "a frame that ends inside a text": (
        lambda: framed(b"N0X\x14\0\0\0AAAAA", b"B" * 15 + b".\0\0\0\0" + b"0cos\ngetcwd\n)R."),
        SYSTEM,
    ),
    "a frame that ends inside a name": (lambda: framed(b"N0cos", b"posix\ngetcwd\n)R."), "frame"),
    "a frame inside a frame": (
        lambda: framed(b"\x95" + struct.pack("<Q", 1) + b"N", b"0" + HONEST[2:]),
        "frame",
    ),
    "a frame beyond the end": (lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.", "frame"),
    # Pickles in byte strings that are handed to loaders.
    "pickle.loads": (lambda: b"\x80\x03cpickle\nloads\nC\x10" + PAYLOAD + b"\n\x85R.", SYSTEM),
    "a storage out of bytes": (
        lambda: b"\x80\x03ctorch.storage\n_load_from_bytes\nB"
        + struct.pack("<I", len(saved(Runs())))
        + saved(Runs())
        + b"\x85R.",
        SYSTEM,
    ),
    # Sizes and keys.
    "a byte array of a terabyte": (
        lambda: b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\1\x85R.",
        "exhausts",
    ),
    "a list of a range": (
        lambda: b"\x80\x02c__builtin__\nlist\nc__builtin__\nxrange\nJ\xff\xff\xff\x7f\x85R\x85R.",
        "exhausts",
    ),
    "a key of keys": (lambda: b"\x80\x02}N\x85" + b"2\x86" * 60 + b"Ns.", "exhausts"),
    "a set of sets": (lambda: b"\x80\x04\x8f(N\x85" + b"2\x86" * 60 + b"\x90.", "exhausts"),
    "a name without a protocol": (lambda: text("os") + text("getcwd") + b"\x93)R.", SYSTEM),
    "an odd encoding": (lambda: b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\4\0\0\0idna\x86R.", "exhausts"),
    "a memo of 2 billion": (lambda: b"\x80\x02Nr\xff\xff\xff\x7f.", "exhausts"),
    # NumPy.
    "an array of objects": (lambda: array_of_objects(Runs()), SYSTEM),
    "an array of objects in an archive": (lambda: zipped({"a.npy": array_of_objects(Runs())}), SYSTEM),
    "an array that is too long": (
        lambda: b"\x93NUMPY\1\0" + struct.pack("<H", 70)
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999,), }".ljust(69) + b"\n",
        "size-lie",
    ),
    # Archives.
    "torch.save": (lambda: saved({"w": torch.zeros(2), "x": Runs()}), SYSTEM),
    "torch.save before 1.6": (lambda: saved({"x": Runs()}, _use_new_zipfile_serialization=False), SYSTEM),
    "a magic number that is computed": (
        lambda: b"\x80\x02c__builtin__\neval\nX\x01\0\0\x001\x85R." + HONEST * 4,
        SYSTEM,
    ),
    "a record in capitals": (lambda: zipped({"m/DATA.PKL": PAYLOAD}), SYSTEM),
    "a record without a suffix": (lambda: zipped({"m/notes": PAYLOAD}), SYSTEM),
    "a compressed record": (lambda: zipped({"m/data.pkl": PAYLOAD}, zipfile.ZIP_DEFLATED), SYSTEM),
    "a record compressed with bzip2": (lambda: zipped({"m/data.pkl": PAYLOAD}, zipfile.ZIP_BZIP2), SYSTEM),
    "a record compressed with lzma": (
        lambda: zipped({"m/data.pkl": PAYLOAD}, zipfile.ZIP_LZMA),
        SYSTEM,
    ),
    "archives inside each other": (lambda: nested(4), SYSTEM),
    "archives inside each other, too many": (lambda: nested(9), "not-looked-into"),
    "a tar archive": (lambda: tarred({"a/notes.txt": PAYLOAD}), SYSTEM),
    "a tar archive in a zip archive": (lambda: zipped({"x": tarred({"y": PAYLOAD})}), SYSTEM),
    "a tar archive of torch 0.1": (
        lambda: tarred({
            "storages": pickle.dumps(1, 2)
            + b"\x80\x02X\1\0\0\0aX\3\0\0\0cpuctorch\nFloatStorage\n\x87."
            + struct.pack("<q", 2) + b"\xff" * 8 + PAYLOAD,
            "tensors": pickle.dumps(0, 2),
            "pickle": HONEST,
        }),
        SYSTEM,
    ),
    "gzip": (lambda: gzip.compress(PAYLOAD), SYSTEM),
    "bzip2": (lambda: bz2.compress(PAYLOAD), SYSTEM),
    "xz": (lambda: lzma.compress(PAYLOAD), SYSTEM),
    "zlib": (lambda: zlib.compress(PAYLOAD), SYSTEM),
    "a compressed tar archive": (lambda: gzip.compress(tarred({"a": PAYLOAD})), SYSTEM),
    "the second of two streams": (lambda: gzip.compress(HONEST) + gzip.compress(PAYLOAD), SYSTEM),
    "another name in the local header": (lambda: replaced(ARCHIVE, b"m/data.pkl", b"m/data.pk1"), "zip-name"),
    "another method in the local header": (
        lambda: ARCHIVE[:8] + b"\x08\0" + ARCHIVE[10:],
        "zip-flags",
    ),
    "two records of a name": (
        lambda: zipped({"m/data.pkl": HONEST, "m/DATA.PKL": PAYLOAD}),
        "zip-duplicate",
    ),
    "a checksum that is wrong": (
        lambda: replaced(ARCHIVE, HONEST, HONEST[:-3] + b"\x02s."),
        "zip-checksum",
    ),
    "a record that is not listed": (with_hidden_record, "zip-hidden"),
    "a record that is not listed, and runs": (with_hidden_record, SYSTEM),
    "a pickle before the archive": (lambda: PAYLOAD + ARCHIVE, SYSTEM),
    "an archive behind a pickle": (lambda: HONEST + zipped({"x": PAYLOAD}), "polyglot"),
    "an archive behind a pickle runs": (lambda: HONEST + zipped({"x": PAYLOAD}), SYSTEM),
    "an archive of torch, with the records of large ones, behind other bytes": (
        lambda: b"\x93\xff" * 500 + saved(Runs()),
        SYSTEM,
    ),
    "an archive of torch behind text": (lambda: b"text\n" + saved(Runs()), "polyglot"),
    "an archive behind an archive": (lambda: ARCHIVE + HIDDEN, "polyglot"),
    "a pickle behind an archive": (lambda: ARCHIVE + PAYLOAD, SYSTEM),
    "a pickle behind a pickle in an archive": (lambda: zipped({"m/data.pkl": HONEST * 2}), "trailing-pickle"),
    "bytes behind a pickle in an archive": (
        lambda: zipped({"m/data.pkl": HONEST + b"\xff\xfe"}),
        "trailing-bytes",
    ),
    "two roots": (lambda: zipped({"m/data.pkl": HONEST, "n/data.pkl": HONEST}), "zip-roots"),
    "a name that leads out": (lambda: zipped({"../../x": b"1"}), "path-escape"),
    "a member that leads out": (lambda: tarred({"../x": b"1"}), "path-escape"),
    "a damaged directory": (
        lambda: HIDDEN[: HIDDEN.index(b"PK\1\2")] + b"\0" * 50,
        SYSTEM,
    ),
    "a record marked as encrypted": (
        lambda: HIDDEN.replace(b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0"),
        SYSTEM,
    ),
    "a storage that is not there": (
        lambda: zipped({"m/data.pkl": pickle_of_tensor(b"9"), "m/data/0": bytes(8)}),
        "size-lie",
    ),
    "a storage of another size": (
        lambda: zipped({"m/data.pkl": pickle_of_tensor(b"0"), "m/data/0": bytes(4)}),
        "size-lie",
    ),
    "a record that grows ten thousand times": (
        lambda: zipped({"m/data.pkl": bytes(40_000_000)}, zipfile.ZIP_DEFLATED),
        "compression-bomb",
    ),
    "a stream that grows a thousand times": (
        lambda: gzip.compress(bytes(100_000_000), 9),
        "compression-bomb",
    ),
    "a library": (lambda: zipped({"m/data/aotinductor/x.so": b"\x7fELF" + bytes(60)}), "native-code"),
    "a package with code": (
        lambda: zipped({"p/.data/extern_modules": b"", "p/x.py": b"import os\n", "p/m.pkl": HONEST}),
        "python-code",
    ),
    "an unknown compression": (lambda: b"\x28\xb5\x2f\xfd" + bytes(20), "not-looked-into"),
    "7-Zip": (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(20), "not-looked-into"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(64), "not-looked-into"),
    "HDF5 with a Lambda layer": (
        lambda: b"\x89HDF\r\n\x1a\n" + b'{"class_name": "Lambda"}',
        "keras-lambda",
    ),
    "a GGUF template that leaves its sandbox": (
        lambda: Gguf().file([("tokenizer.chat_template", 8, "{{ x.__init__.__globals__ }}")], []),
        "template-escape",
    ),
    "an ONNX tensor outside the folder": (
        lambda: onnx_bytes.model(
            onnx_bytes.graph(initializers=[onnx_bytes.tensor("w", [1], 1, external={"location": "../x"})])
        ),
        "external-data",
    ),
    "an ONNX tensor outside the folder, in a constant": (
        lambda: onnx_bytes.model(
            onnx_bytes.graph([
                onnx_bytes.node("Constant", [], ["c"], [
                    onnx_bytes.attribute(
                        "value", value=onnx_bytes.tensor("w", [1], 1, external={"location": "/etc/passwd"})
                    )
                ])
            ])
        ),
        "external-data",
    ),
    "an ONNX operator that is Python": (
        lambda: onnx_bytes.model(onnx_bytes.graph([onnx_bytes.node("PyOp", [], ["c"], domain="ai.x")])),
        "custom-operators",
    ),
    # Texts.
    "a Keras Lambda layer": (
        lambda: zipped({
            "config.json": json.dumps({
                "class_name": "Functional",
                "config": {"layers": [{"class_name": "Lambda", "config": {"function": ["4wEA"]}}]},
            }).encode(),
            "model.weights.h5": b"",
        }),
        "keras-lambda",
    ),
    "a Keras object of a foreign module": (
        lambda: json.dumps({"module": "os", "class_name": "system", "config": "id"}).encode(),
        SYSTEM,
    ),
    "code of its own folder": (
        lambda: json.dumps({"auto_map": {"AutoModel": "modeling.Net"}}).encode(),
        "custom-code",
    ),
    "a template that leaves its sandbox": (
        lambda: json.dumps({"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}).encode(),
        "template-escape",
    ),
    "safetensors with a name twice": (
        lambda: safetensors(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
        ),
        "header",
    ),
    "safetensors that is too short": (
        lambda: safetensors(b'{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}'),
        "header",
    ),
}  # fmt: skip


def safetensors(header: bytes) -> bytes:
    """A file of one byte of data."""
    return struct.pack("<Q", len(header)) + header + b"\1"


def pickle_of_tensor(key: bytes) -> bytes:
    """A data.pkl that refers to two floats of that key."""
    return b"\x80\x02(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + key + b"X\3\0\0\0cpuK\2tQ."


@pytest.mark.parametrize("kind", list(FILES))
def test_it_is_found(kind: str, tmp_path: Path) -> None:
    """A file that runs, hides or lies gives its finding, under a name that says nothing."""
    make, rule = FILES[kind]
    report = scanned(make(), tmp_path)
    assert rule in rules(report)
    assert report.found
    assert report.looked_at
    for finding in report.findings:
        assert finding.message.isprintable()
        assert finding.place.isprintable()


def honest_files() -> dict[str, bytes]:
    """What writers write."""
    numbers = io.BytesIO()
    np.save(numbers, np.arange(5.0))
    objects = array_of_objects("text")
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    several = io.BytesIO()
    np.savez(several, a=np.arange(3), b=np.zeros((2, 2)))
    compressed = io.BytesIO()
    np.savez_compressed(compressed, a=np.arange(3), b=np.zeros((1000, 1000)))
    return {
        "a pickle": pickle.dumps({"a": [1, (2.0, "x")], "b": {1, 2}}, 4),
        "pickles in a row": HONEST * 3,
        "a long pickle with frames": pickle.dumps([("x" * n, n) for n in range(2_000)], 5),
        "a state_dict": saved({"w": torch.zeros(3), "b": torch.ones(2, dtype=torch.bfloat16)}),
        "a state_dict, old": saved({"w": torch.zeros(3)}, _use_new_zipfile_serialization=False),
        "an optimizer": saved(torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).state_dict()),
        "a quantized tensor": saved(torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)),
        "a sparse tensor": saved(torch.eye(3).to_sparse()),
        "arrays in a checkpoint": saved({"rng": np.arange(4), "seed": np.float64(3)}),
        "tensors, pickled": pickle.dumps({"w": torch.zeros(2)}),
        "GGUF": Gguf().file(
            [("tokenizer.chat_template", 8, "{% for m in messages %}{{ m }}{% endfor %}")], []
        ),
        "ONNX": onnx_bytes.model(
            onnx_bytes.graph(
                [onnx_bytes.node("Relu", ["x"], ["y"])], [onnx_bytes.tensor("w", [1], 1, b"abcd")]
            )
        ),
        "an array": numbers.getvalue(),
        "an array of texts": objects,
        "arrays": several.getvalue(),
        "arrays, compressed": compressed.getvalue(),
        "TorchScript": script.getvalue(),
        "gzip": gzip.compress(pickle.dumps([1, 2])),
        "a tar archive": tarred({"a.txt": b"hello\n", "b.pkl": HONEST}),
        "JSON": b'{"hidden_size": 12, "chat": "no"}',
        "text": b"count\nvalue\n12, 13\n",
        "a template": json.dumps(
            {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
        ).encode(),
        "numbers that begin like a pickle": zipped({"m/data.pkl": HONEST, "m/data/0": b"(]}" + bytes(61)}),
    }


def test_honest_files_give_no_findings(tmp_path: Path) -> None:
    """What libraries write of plain data is looked into, and nothing is found, which is not called safe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch still writes and no longer likes
        files = honest_files()
    for kind, raw in files.items():
        report = scanned(raw, tmp_path)
        assert rules(report) == set(), kind
        assert report.headline.startswith("nothing found in: "), kind
        assert "safe" not in report.headline
        assert all(name.group == "understood" for name in report.globals), kind


def test_names_that_are_understood_are_listed_once_where_there_are_very_many() -> None:
    """Archives one behind the other repeat the names of torch; one that is not understood stays."""
    scan = Scan("x", Budget(1))
    for number in range(30_000):
        scan.name(NamedGlobal("torch", "FloatStorage", "understood", "x", "", number, (), 0))
    scan.name(NamedGlobal("os", "system", "executes code", "x", "", 30_001, ("os.system('id')",), 1))
    assert len(scan.names) == 1_001
    assert scan.names[-1].dotted == "os.system"
    assert not scan.has_more_names
