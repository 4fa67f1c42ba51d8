"""
Terabytes cost what their headers cost. The files are sparse: nothing but headers is on the disk.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_bytes
import pytest
import torch
from gguf_bytes import Gguf, Tensor

import modelinspect as mi

TENSORS, SIDE = 100, 50_000
EACH = SIDE * SIDE * 4
NAMES = [f"layers.{number}.weight" for number in range(TENSORS)]


def sparse(path: Path, head: bytes, nbytes: int) -> Path:
    """A file of some bytes and a hole behind them."""
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(len(head) + nbytes)
    return path


def safetensors(folder: Path) -> Path:
    """One header, one run of bytes."""
    rows = {
        name: {"dtype": "F32", "shape": [SIDE, SIDE], "data_offsets": [at * EACH, (at + 1) * EACH]}
        for at, name in enumerate(NAMES)
    }
    header = json.dumps(rows).encode()
    return sparse(folder / "x.safetensors", struct.pack("<Q", len(header)) + header, TENSORS * EACH)


def gguf(folder: Path) -> Path:
    """Keys, tensors, padding."""
    rows = [Tensor(name, (SIDE, SIDE), 0, b"", at * EACH) for at, name in enumerate(NAMES)]
    head = Gguf().header([], rows)
    return sparse(folder / "x.gguf", head + bytes(-len(head) % 32), TENSORS * EACH)


def npy(folder: Path) -> Path:
    """One array."""
    head = io.BytesIO()
    shape = (TENSORS * SIDE, SIDE)
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return sparse(folder / "x.npy", head.getvalue(), TENSORS * EACH)


def torch_zip(folder: Path) -> Path:
    """An archive of torch's own, with records beyond 4 GiB and at places beyond it."""
    blank = sparse(folder / "blank", b"", EACH)
    with torch.serialization.skip_data():  # leaves room for the bytes and does not write them
        weights = {
            name: torch.from_file(str(blank), shared=True, size=SIDE * SIDE).view(SIDE, SIDE)
            for name in NAMES
        }
        torch.save(weights, folder / "x.pt")
    return folder / "x.pt"


def onnx(folder: Path) -> Path:
    """A graph, and a file with all of the data."""
    sparse(folder / "x.data", b"", TENSORS * EACH)
    rows = [
        onnx_bytes.tensor(
            name,
            [SIDE, SIDE],
            1,
            external={"location": "x.data", "offset": str(at * EACH), "length": str(EACH)},
        )
        for at, name in enumerate(NAMES)
    ]
    path = folder / "x.onnx"
    path.write_bytes(onnx_bytes.model(onnx_bytes.graph([], rows)))
    return path


@pytest.mark.parametrize("write", [safetensors, gguf, npy, torch_zip, onnx])
def test_a_terabyte_costs_what_its_header_costs(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """Counted and listed to the last byte, and less than 100 KB are read."""
    path = write(tmp_path)
    checkpoint = mi.open_checkpoint(path)
    assert mi.count(checkpoint).unique == TENSORS * SIDE * SIDE
    assert sum(row.nbytes for row in checkpoint.table) == TENSORS * EACH
    last = checkpoint.table.tensors[-1].extent
    assert last is not None
    assert last.offset + last.nbytes >= TENSORS * EACH
    assert checkpoint.nbytes > TENSORS * EACH
    assert checkpoint.bytes_read < 100_000


@pytest.mark.parametrize("write", [safetensors, gguf, npy, torch_zip, onnx])
def test_a_terabyte_is_looked_through(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """``info``, ``bytes`` and ``scan`` of it: the lines add up to its size, nothing of weight is found."""
    path = write(tmp_path)
    assert mi.info(path).bytes_read < 100_000
    footprint = mi.footprint(path)
    assert sum(line.nbytes for line in footprint.lines) == mi.open_checkpoint(path).nbytes
    # Of ONNX alone: the writer of the tests names operators of com.microsoft.
    assert not [found for found in mi.scan(path).findings if found.level != "note"]
