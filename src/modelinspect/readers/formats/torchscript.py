"""
TorchScript: what torch.jit.save writes, a zip archive of a model's objects and of its code.

``data.pkl`` is the model: objects of classes of the archive's own (``__torch__.net.Net``), each
with its attributes, parameters, buffers and plain tensors alike. Which is which stands in
``code/__torch__/net.py``: ``__parameters__ = ["weight", ]``. Tensors that the code uses as
constants (``CONSTANTS.c0``) are in ``constants.pkl``; a frozen model keeps all its weights there.
``extra/`` holds files of the author's (torch 2.13, ``torch/csrc/jit/serialization/
export_module.cpp``, ``python_print.cpp`` and ``import.cpp``). Nothing of the code is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.parts.extra_files import extra_files
from modelinspect.readers.parts.pickle_symbols import Pickle, PickledDict
from modelinspect.readers.parts.script_code import ScriptClasses, as_modules
from modelinspect.readers.parts.tensor_walk import TensorWalk
from modelinspect.readers.parts.torch_archive import StorageRecords, TorchArchive, bind
from modelinspect.readers.parts.torch_checkpoint import finding_notes, foreign_note, global_names
from modelinspect.readers.parts.torch_objects import BARE, STORAGE_TYPES, How, TensorReader
from modelinspect.readers.parts.zip_directory import ZipDirectory, read_directory
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import (
    Checkpoint,
    FileInfo,
    GlobalName,
    ParameterTable,
    TensorInfo,
    unique_names,
)

__all__ = ["read"]

_OLD = "model.json"


class _Part(NamedTuple):
    """One pickle of the archive with its storages."""

    pickle: Pickle
    record: str
    reader: TensorReader
    notes: list[str]


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read a TorchScript archive: its pickles and its classes; no tensor's bytes are touched.

    Raises:
        NotThisFormat: It is a zip archive of something else.
        DamagedFileError: It is truncated or makes no sense.
        LimitError: It claims more than a limit allows.
    """
    directory = read_directory(source)
    root = directory.root
    if directory.find(root + b"/constants.pkl") is None or directory.find(root + b"/data.pkl") is None:
        raise _another(directory)
    archive = TorchArchive(directory, target)
    model = _part(archive, "data", "data")
    constants = _part(archive, "constants", "constants")
    classes = ScriptClasses(archive)
    as_modules(model.pickle, classes)
    table, notes = _model_table(target, model, constants)
    parts = [model, constants]
    names = _names(parts, source.path)
    notes += classes.notes
    return Checkpoint(
        source=target,
        format="torchscript",
        files=(FileInfo(source.path, source.size, source.bytes_read),),
        tables={"": table},
        roles={"": "model"},
        model_section="",
        metadata=extra_files(directory, root + b"/extra/"),
        globals=names,
        notes=(
            *notes,
            *foreign_note(names),
            *finding_notes([part.pickle for part in parts]),
            *(note for part in parts for note in part.notes),
            *archive.notes(),
            *directory.disagreements,
        ),
        version=archive.version,
        facts=_facts(archive, classes),
    )


def _another(directory: ZipDirectory) -> NotThisFormat:
    """Why it is none; archives of torch 1.0 to 1.3 are named."""
    if directory.find(directory.root + b"/" + _OLD.encode()) is not None:
        title = "a TorchScript archive of torch 1.0 to 1.3 (model.json)"
        hint = "torch.jit.load reads it, and torch.jit.save writes it anew"
        return NotThisFormat(title, really=title, hint=hint)
    return NotThisFormat("a zip archive without constants.pkl beside data.pkl in its first folder")


def _part(archive: TorchArchive, name: str, folder: str) -> _Part:
    """One pickle, its storages bound to the records of a folder."""
    pickle, record, notes = archive.pickle(f"{name}.pkl")
    records = StorageRecords(archive, folder)
    held, twice = bind(pickle.pids, records.place)
    for *_, fault in held.values():
        if fault is not None:
            raise DamagedFileError(f"{visible(archive.target)} is truncated or damaged", details=(fault,))
    reader = TensorReader(archive.target, pickle.globals, pickle.end)
    return _Part(pickle, record.name, reader, [*twice, *notes, *records.notes()])


def _model_table(target: str, model: _Part, constants: _Part) -> tuple[ParameterTable, list[str]]:
    """The model's tensors, then the constants of its code."""
    walk = TensorWalk(model.reader, model.pickle, target)
    table = walk.table(model.pickle.value, BARE, "")
    notes: list[str] = []
    # Freezing turns every parameter and buffer into a constant: then these are the weights.
    frozen = not any(row.kind == "parameter" for row in table)
    rows = _constant_rows(target, constants, BARE if frozen else How("other"))
    if frozen:
        rows = [_weight_or_other(row) for row in rows]
        taken = sum(row.kind == "parameter" for row in rows)
        if taken:
            notes.append(
                f"it is frozen, so its code has no parameters but constants: {taken:,} of "
                f"{len(rows):,}, those of floating point with an axis, are counted as parameters"
            )
    return replace(table, tensors=unique_names([*table.tensors, *rows])), notes


def _constant_rows(target: str, constants: _Part, how: How) -> Sequence[TensorInfo]:
    """Rows named as the code refers to them: ``CONSTANTS.c0``."""
    value = constants.pickle.value
    if not isinstance(value, (tuple, list)):
        return []
    flat = [part for number, constant in enumerate(value) for part in (f"c{number}", constant)]
    walk = TensorWalk(constants.reader, constants.pickle, target)
    return walk.table(PickledDict(["CONSTANTS", PickledDict(flat)]), how, "").tensors


def _weight_or_other(row: TensorInfo) -> TensorInfo:
    """Of a frozen model: a constant with an axis and of floating point was a weight."""
    is_weight = row.shape and row.dtype.category in ("float", "complex", "quantized")
    return row._replace(kind="parameter" if is_weight else "other")


def _names(parts: Sequence[_Part], path: str) -> tuple[GlobalName, ...]:
    """
    Globals of all pickles. Classes of the archive's own are understood: they are compiled from its
    code by the library and nothing of Python's is imported for them.
    """
    found: dict[tuple[str, str], GlobalName] = {}
    for part in parts:
        for name in global_names([part.pickle], path, part.record):
            is_own = name.module.partition(".")[0] == "__torch__" or name.module == "torch.jit._pickle"
            is_own = is_own or (name.module == "torch" and name.name in STORAGE_TYPES)
            found.setdefault((name.module, name.name), name._replace(understood=name.understood or is_own))
    return tuple(found.values())


def _facts(archive: TorchArchive, classes: ScriptClasses) -> dict[str, str]:
    facts = archive.facts()
    files = classes.files
    facts["code"] = f"{files:,} files of TorchScript" if files != 1 else "1 file of TorchScript"
    if archive.has("bytecode.pkl"):
        facts["lite interpreter"] = "yes: it has bytecode.pkl"
    facts["written by"] = archive.generation()
    return facts
