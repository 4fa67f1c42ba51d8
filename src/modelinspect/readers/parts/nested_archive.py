"""
An object that torch.save wrote into a part of a file: what it is, and where its storages lie.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.parts.pickle_symbols import Pickle
from modelinspect.readers.parts.torch_archive import StorageRecords, TorchArchive, bind
from modelinspect.readers.parts.torch_checkpoint import global_names
from modelinspect.readers.parts.torch_objects import BARE, HeldStorage, TensorReader
from modelinspect.readers.parts.zip_directory import ZipDirectory, read_directory
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import GlobalName, TensorInfo

__all__ = ["Nested", "read_nested"]


class Nested(NamedTuple):
    """One archive, read."""

    value: Any
    """Its object in symbols; names of tensors have their meaning and their storages."""
    pickle: Pickle
    reader: TensorReader
    directory: ZipDirectory
    globals: tuple[GlobalName, ...]
    notes: tuple[str, ...]

    def tensor(self, name: str) -> TensorInfo | None:
        """The row of the object where it is a tensor itself."""
        maker = self.reader.maker(self.value)
        return None if maker is None else self.reader.read(maker, self.value, name, BARE)


def read_nested(source: ByteSource, where: str, label: str, reader: TensorReader | None = None) -> Nested:
    """
    Read a torch zip archive; no tensor's bytes are touched.

    Args:
        source: The part of the file.
        where: Names it in errors.
        label: Stands before the keys of its storages: other parts have storages of the same key.
        reader: That of a file's other parts, which share a budget.

    Raises:
        DamagedFileError: It is truncated, makes no sense or lacks a storage.
        LimitError: It claims more than a limit allows.
    """
    directory = read_directory(source)
    archive = TorchArchive(directory, where)
    pickle, record, notes = archive.pickle("data.pkl")
    records = StorageRecords(archive, "data")
    held, twice = bind(pickle.pids, records.place)
    labelled: dict[str, HeldStorage] = {}
    for key, (storage, dtype, first, nbytes, fault) in held.items():
        if fault is not None:
            raise DamagedFileError(f"{visible(where)} is truncated or damaged", details=(fault,))
        labelled[key] = storage._replace(key=f"{label}/{storage.key}"), dtype, first, nbytes, None
    meanings = {id(before): after for before, after in zip(held.values(), labelled.values())}
    for pid in pickle.pids:
        pid.meaning = meanings.get(id(pid.meaning), pid.meaning)
    if reader is None:
        reader = TensorReader(where, ())
    reader.know(pickle.globals, pickle.end)
    names = global_names([pickle], source.path, f"{label}/{record.name}")
    said = (*twice, *notes, *archive.notes(), *directory.disagreements)
    return Nested(pickle.value, pickle, reader, directory, names, said)
