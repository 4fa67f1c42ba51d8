"""
Files as torch 0.1 wrote them in 2016: tar archives, which today's torch still loads.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

MEMBERS = ("sys_info", "pickle", "tensors", "storages")
"""In the order of writing."""


class Pickler(pickle.Pickler):
    """Refers to tensors by number."""

    def __init__(self, file: io.BytesIO, keys: dict[int, int]) -> None:
        super().__init__(file, protocol=2)
        self.keys = keys
        self.tensors: dict[int, torch.Tensor] = {}

    def persistent_id(self, obj: Any) -> Any:
        """The key of a tensor, as text; None for anything else."""
        if not isinstance(obj, torch.Tensor):
            return None
        key = self.keys.setdefault(id(obj), 140_000_000 + 16 * len(self.keys))
        self.tensors[key] = obj
        return str(key)


def members_of(value: Any, make: type[Pickler] = Pickler) -> dict[str, bytes]:
    """The four files: storages that tensors share are written once."""
    file = io.BytesIO()
    pickler = make(file, {})
    pickler.dump(value)
    storages: dict[int, tuple[int, torch.Tensor]] = {}
    tensors = [_dumped(len(pickler.tensors))]
    for key, tensor in pickler.tensors.items():
        address = tensor.untyped_storage().data_ptr() or -key
        storage_key, _ = storages.setdefault(address, (150_000_000 + 16 * len(storages), tensor))
        tensors.append(_dumped((key, storage_key, getattr(torch, _class_of(tensor, "Tensor")))))
        tensors.append(struct.pack("<i4x", tensor.dim()))
        tensors.append(
            struct.pack(f"<{2 * tensor.dim() + 1}q", *tensor.shape, *tensor.stride(), tensor.storage_offset())
        )
    kept = [_dumped(len(storages))]
    for key, tensor in storages.values():
        kept.append(_dumped((key, "cpu", getattr(torch, _class_of(tensor, "Storage")))))
        raw = torch.tensor([], dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().tobytes()
        kept.append(struct.pack("<q", len(raw) // tensor.element_size()) + raw)
    kept.append(_dumped([]))
    system = {"protocol_version": 1000, "little_endian": sys.byteorder == "little"}
    return {
        "sys_info": _dumped(system),
        "pickle": file.getvalue(),
        "tensors": b"".join(tensors),
        "storages": b"".join(kept),
    }


def archive(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive of those files, without the zeros at its end."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=form) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    length = sum(512 + -(-len(content) // 512) * 512 for content in members.values())
    return buffer.getvalue()[:length]


def save(value: Any, path: Path) -> Path:
    """The file that torch.save of torch 0.1 made of a value."""
    path.write_bytes(archive(members_of(value)))
    return path


def _dumped(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def _class_of(tensor: torch.Tensor, what: str) -> str:
    return tensor.type().removeprefix("torch.").removesuffix("Tensor") + what
