"""
What fuzzing begins with: small files of every format, made by the libraries that write them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import old_tar
import onnx_bytes
import torch
from safetensors.torch import save

__all__ = ["write"]


def write(folder: Path) -> None:
    """Write every seed below ``folder/TARGET/``, named by its hash."""
    for target, data in seeds():
        place = folder / target
        place.mkdir(parents=True, exist_ok=True)
        (place / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Name of the target and the bytes; everything is also something to scan."""
    for target, data in _seeds():
        yield target, data
        yield "scan", data


def _seeds() -> Iterator[tuple[str, bytes]]:
    yield from _torch_files()
    yield from _pickles()
    yield from _arrays()
    yield from _modules()
    yield "safetensors", save({"w": torch.zeros(2, 3), "b": torch.ones(2)}, metadata={"a": "b"})
    yield "safetensors", save({"f": torch.zeros(2, dtype=torch.float8_e5m2), "e": torch.zeros(0)})
    yield "gguf", gguf()
    yield "torch_tar", old_tar.archive(old_tar.members_of({"w": torch.zeros(2, 3), "t": torch.ones(4)[1:]}))
    yield "onnx", onnx()


def _saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def _objects() -> list[Any]:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    adam = torch.optim.Adam(net.parameters())
    net(torch.randn(3, 2)).sum().backward()
    adam.step()
    return [
        {"w": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)},
        {"f8": torch.zeros(2, dtype=torch.float8_e4m3fn), "c": torch.zeros(2, dtype=torch.complex64).conj()},
        net,
        {"state_dict": net.state_dict(), "optimizer": adam.state_dict(), "epoch": 3},
        {"s": torch.eye(3).to_sparse(), "p": torch.nn.Parameter(torch.zeros(2))},
        [torch.zeros(2), (torch.zeros(1),), {1: torch.zeros(1)}],
        {"n": np.zeros(3), "scalar": np.float64(2)},
    ]


def _torch_files() -> Iterator[tuple[str, bytes]]:
    for value in _objects():
        for protocol in (2, 4):
            raw = _saved(value, pickle_protocol=protocol)
            if len(raw) < 6000:
                yield "torch_zip", raw
                yield "zip", raw
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                inner = archive.read("archive/data.pkl")
            yield "torch_pickle", inner
            yield "pickle", inner
    old = {"w": torch.zeros(2, 3), "t": torch.ones(4)[1:]}
    yield "torch_legacy", _saved(old, _use_new_zipfile_serialization=False)


def _pickles() -> Iterator[tuple[str, bytes]]:
    plain = {
        "a": [1, 2.5, "x", b"y", None, True, (1, 2), {3}, frozenset([4]), -5, 1 << 70, bytearray(b"z")],
        "o": OrderedDict(a=1), "c": gzip.GzipFile,
    }  # fmt: skip
    for protocol in range(6):
        yield "pickle", pickle.dumps(plain, protocol)
        yield "plain_pickle", pickle.dumps({"w": np.zeros((2, 2), np.float32)}, protocol)
        yield "plain_pickle", pickle.dumps({"w": torch.zeros(2)}, protocol)


def _arrays() -> Iterator[tuple[str, bytes]]:
    arrays = [np.zeros(3), np.asfortranarray(np.ones((2, 3), ">i2")), np.array(["a"]), np.array([None])]
    for array in [*arrays, np.zeros(2, [("a", "f4"), ("b", "i8")])]:
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=True)
        yield "npy", stream.getvalue()
    for writer in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        writer(stream, a=np.zeros(30), b=np.ones((2, 2), ">f4"))
        yield "npz", stream.getvalue()
        yield "zip", stream.getvalue()


class _Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def _modules() -> Iterator[tuple[str, bytes]]:
    given = (torch.zeros(1, 2),)
    writers: dict[str, Callable[[io.BytesIO], None]] = {
        "torchscript": lambda stream: torch.jit.save(torch.jit.trace(_Small(), given), stream),
        "torch_export": lambda stream: torch.export.save(torch.export.export(_Small(), given), stream),
        "torch_package": _packaged,
    }
    for target, write_to in writers.items():
        stream = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit and torch.package are deprecated
            write_to(stream)
        yield target, stream.getvalue()


def _packaged(stream: io.BytesIO) -> None:
    from torch.package.package_exporter import PackageExporter

    with PackageExporter(stream) as exporter:
        exporter.extern("**")
        exporter.save_pickle("weights", "model.pkl", {"w": torch.zeros(2, 3), "b": torch.ones(2)})


def onnx() -> bytes:
    """Weights in initializers, a Constant, the body of an If, and external data."""
    w, m = onnx_bytes.tensor("w", (2, 3), 1, bytes(24)), onnx_bytes.tensor("m", (2,), 7, bytes(16))
    far = onnx_bytes.tensor("far", (2,), 1, external={"location": "beside.bin", "offset": "0", "length": "8"})
    given = onnx_bytes.attribute("value", value=onnx_bytes.tensor("c", (2,), 10, bytes(4)))
    body = onnx_bytes.graph([onnx_bytes.node("Constant", [], ["d"], [given])], [m])
    branch = onnx_bytes.node("If", ["x"], ["z"], [onnx_bytes.attribute("then_branch", graph=body)])
    constant = onnx_bytes.node("Constant", [], ["y"], [given], name="n")
    inputs = [onnx_bytes.value("x", 1, ["batch", 3])]
    return onnx_bytes.model(onnx_bytes.graph([constant, branch], [w, m, far], inputs=inputs))


def gguf() -> bytes:
    """Two tensors, a text, an array of texts and a number, version 3, little-endian."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def tensor(name: str, sizes: tuple[int, ...], kind: int, offset: int) -> bytes:
        return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)

    pairs = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    pairs += text("general.alignment") + struct.pack("<2I", 4, 32)
    pairs += text("tokens") + struct.pack("<2IQ", 9, 8, 2) + text("a") + text("b")
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 3) + pairs
    head += tensor("blk.0.w", (32, 2), 2, 0) + tensor("norm", (4,), 0, 64)
    return head + bytes(-len(head) % 32) + bytes(64) + bytes(16)
