"""
What fuzzing and the corpus that it found call: one function a parser, from bytes to nothing.

Each may raise errors of ours and nothing else, must come to an end and must not hold on to memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module

from modelinspect.errors import ModelInspectError
from modelinspect.readers.parts.pickle_machine import Feed, read_pickle
from modelinspect.readers.parts.torch_archive import bind
from modelinspect.readers.parts.torch_checkpoint import assemble
from modelinspect.readers.parts.zip_directory import read_directory
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Storage

__all__ = ["TARGETS", "InMemory", "run"]


class InMemory(ByteSource):
    """Bytes that lie in no file."""

    def __init__(self, data: bytes) -> None:
        super().__init__("fuzzed", len(data))
        self._data = data

    def _fetch(self, offset: int, n: int) -> bytes:
        return self._data[offset : offset + n]


def _pickle(data: bytes) -> None:
    """The machine alone."""
    source = InMemory(data)
    read_pickle(Feed(source.read, source.size, "fuzzed"))


def _torch_pickle(data: bytes) -> None:
    """The pickle of a torch checkpoint whose storages are all there, down to its tables."""
    source = InMemory(data)
    pickle = read_pickle(Feed(source.read, source.size, "fuzzed"))
    held, notes = bind(pickle.pids, lambda key, nbytes, device: (Storage("", key, 0, nbytes, device), None))
    checkpoint = assemble(source, "fuzzed", "torch-zip", [pickle], "data.pkl", held, notes)
    for table in checkpoint.tables.values():
        _ = table.tied_to, [(row.nbytes, row.extent, row.stride) for row in table]


def _zip(data: bytes) -> None:
    """The directory of an archive, and the first bytes of every record."""
    directory = read_directory(InMemory(data))
    for number in range(min(len(directory), 16)):
        record = directory.record(number)
        directory.content(record, 64)


def _format(name: str, data: bytes) -> None:
    """A reader as the registry calls it, once the first bytes are its own."""
    checkpoint = import_module(f"modelinspect.readers.formats.{name}").read(InMemory(data), "fuzzed")
    for table in checkpoint.tables.values():
        _ = table.tied_to, [(row.nbytes, row.extent, row.stride) for row in table]


def _scan(data: bytes) -> None:
    """What a scan looks for in any file."""
    from modelinspect.readers.scanning.scanner import scan_source

    scan_source(InMemory(data), "fuzzed")


_FORMATS = (
    "safetensors", "torch_zip", "torch_legacy", "torchscript", "torch_export", "torch_package", "torch_tar",
    "plain_pickle", "gguf", "npy", "npz", "onnx",
)  # fmt: skip

TARGETS: dict[str, Callable[[bytes], None]] = {
    "pickle": _pickle,
    "torch_pickle": _torch_pickle,
    "zip": _zip,
    "scan": _scan,
    **{name: partial(_format, name) for name in _FORMATS},
}
"""Name to function; the folders of the corpus have the same names."""


def run(name: str, data: bytes) -> None:
    """One execution: what a hostile file does to the parser of that name."""
    with suppress(ModelInspectError):  # an error of ours is a right answer
        TARGETS[name](data)
