"""
What torch.package writes: a zip archive of pickled objects with the Python source that they need.

``.data/extern_modules`` lists the modules that are not in it, ``.data/N.storage`` are the storages of
all its pickles, ``{package}/{resource}`` is one that ``save_pickle`` wrote, ``*.py`` is source, which is
imported when an object of its classes is loaded; ``.data/ts_code/N/data.pkl`` are TorchScript modules
(torch 2.13, ``torch/package/package_exporter.py``, ``package_importer.py``). Nothing of it is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.readers.parts.pickle_symbols import Call, PersistentId, Pickle, PickledDict
from modelinspect.readers.parts.script_code import ScriptClasses, as_modules
from modelinspect.readers.parts.sections import Sections, read_sections
from modelinspect.readers.parts.tensor_walk import TensorWalk
from modelinspect.readers.parts.torch_archive import StorageRecords, TorchArchive, bind
from modelinspect.readers.parts.torch_checkpoint import finding_notes, foreign_note, global_names
from modelinspect.readers.parts.torch_objects import TensorReader
from modelinspect.readers.parts.zip_directory import STORED, ZipDirectory, read_directory
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import (
    Checkpoint,
    FileInfo,
    GlobalName,
    OptimizerState,
    ParameterTable,
    Role,
    Storage,
)

__all__ = ["read"]

MAX_PICKLES = 100
"""That are looked into; more are said to be there."""
MAX_UNPACKED = 1 << 26
"""Bytes of all pickles that are compressed, which torch's never are."""
MAX_LISTED = 200
"""Characters of a list of modules."""
_EXTERN = ".data/extern_modules"
_SCRIPTS = ".data/ts_code/"
_STORAGE = ".storage"
_SHOWN = 4


class _Resource(NamedTuple):
    """One pickle of the archive."""

    name: str
    """Of the record, below the root."""
    pickle: Pickle
    sections: Sections
    globals: tuple[GlobalName, ...]
    notes: list[str]


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read a torch.package archive: its pickles and its lists; no tensor's bytes are touched.

    Raises:
        NotThisFormat: It is a zip archive of something else.
        DamagedFileError: It is truncated or makes no sense.
        LimitError: It claims more than a limit allows.
    """
    directory = read_directory(source)
    archive = TorchArchive(directory, target)
    if not archive.has(_EXTERN):
        raise NotThisFormat("a zip archive without .data/extern_modules in its first folder")
    records = StorageRecords(archive, ".data")
    classes = ScriptClasses(archive, f"{_SCRIPTS}code")
    pickles = _pickles(archive)
    reading = _Reading(archive, records, classes)
    resources = [reading.resource(name) for name in pickles[:MAX_PICKLES]]
    names: dict[tuple[str, str], GlobalName] = {}
    for resource in resources:
        for name in resource.globals:
            names.setdefault((name.module, name.name), name)
    notes = [*reading.notes, *classes.notes]
    if len(pickles) > MAX_PICKLES:
        notes.append(f"{len(pickles) - MAX_PICKLES:,} more pickles in it were not looked into")
    else:
        notes += _unclaimed(records)
    return _Made(resources, target).checkpoint(source, archive, tuple(names.values()), notes)


def _pickles(archive: TorchArchive) -> list[str]:
    """Names of the records that are pickles: by their suffix, or by how they begin and end."""
    directory, root = archive.directory, archive.root + b"/"
    found: list[str] = []
    unpacked = 0
    for number, whole in enumerate(directory.names):
        name = whole[len(root) :]
        if not whole.startswith(root) or not _may_be(directory, number, name):
            continue
        record = directory.record(number)
        unpacked += 0 if record.method == STORED or len(found) >= MAX_PICKLES else record.size
        if unpacked > MAX_UNPACKED:
            raise LimitError(
                f"{visible(archive.target)} claims more than is read",
                details=(f"its compressed pickles have more than {MAX_UNPACKED:,} bytes",),
            )
        found.append(name.decode("utf-8", "surrogateescape"))
    return found


def _may_be(directory: ZipDirectory, number: int, name: bytes) -> bool:
    if name.startswith(_SCRIPTS.encode()):
        return name.endswith(b"/data.pkl")
    if name.startswith(b".data/") or name == b"byteorder" or name.endswith(b".py"):
        return False
    record = directory.record(number)
    if name.endswith(b".pkl"):
        return True
    if record.method != STORED or record.size < 4:
        return False
    read = directory.opened(record)
    return read(0, 1) == b"\x80" and read(1, 1) in b"\2\3\4\5" and read(record.size - 1, 1) == b"."


class _Reading:
    """Pickle after pickle; they share their storages, and a budget."""

    def __init__(self, archive: TorchArchive, records: StorageRecords, classes: ScriptClasses) -> None:
        self.archive = archive
        self.records = records
        self.classes = classes
        self.reader = TensorReader(archive.target, ())
        self.walk: TensorWalk | None = None
        self.notes: list[str] = []

    def resource(self, name: str) -> _Resource:
        """Read one."""
        archive = self.archive
        pickle, record, notes = archive.pickle(name)
        objects = [pid for pid in pickle.pids if _is_object(pid)]
        held, twice = bind([pid for pid in pickle.pids if not _is_object(pid)], self.place)
        for *_, fault in held.values():
            if fault is not None:
                raise DamagedFileError(f"{visible(archive.target)} is truncated or damaged", details=(fault,))
        left = _put_in(pickle, {id(pid): _as_call(pid) for pid in objects}) if objects else 0
        if left:
            self.notes.append(f"{left:,} objects in {visible(name)} stand where they were not looked into")
        self.reader.know(pickle.globals, pickle.end)
        is_script = name.startswith(_SCRIPTS)
        if is_script:
            as_modules(pickle, self.classes)
        if self.walk is None:
            self.walk = TensorWalk(self.reader, pickle, archive.target)
        else:
            self.walk.go_on(pickle)
        sections = read_sections(pickle, self.reader, archive.target, self.walk)
        names = global_names([pickle], archive.directory.source.path, record.name)
        if is_script:
            # Compiled from the archive's own code; nothing of Python's is imported for them.
            names = tuple(
                found._replace(understood=found.understood or found.module.startswith("__torch__."))
                for found in names
            )
        return _Resource(name, pickle, sections, names, [*twice, *notes])

    def place(self, key: str, nbytes: int, device: str) -> tuple[Storage, str | None]:
        """Pickles name a storage by its number, TorchScript's by its record."""
        return self.records.place(key if key.endswith(_STORAGE) else key + _STORAGE, nbytes, device)


# -- objects that take themselves apart ----------------------------------------------------------


def _is_object(pid: PersistentId) -> bool:
    """``("reduce_package", id, function, arguments)``; earlier without the id: a GraphModule, say."""
    symbol = pid.pid
    return type(symbol) is tuple and len(symbol) in (3, 4) and symbol[0] == "reduce_package"


def _as_call(pid: PersistentId) -> Call:
    *_, function, arguments = pid.pid
    return Call(function, arguments)


def _put_in(pickle: Pickle, calls: dict[int, Call]) -> int:
    """
    Put the calls where the references to them stand, in everything that can be changed.

    Returns:
        How many stand nowhere but in tuples, which can't.
    """
    left = set(calls)
    if id(pickle.value) in calls:
        left.discard(id(pickle.value))
        pickle.value = calls[id(pickle.value)]
    pending: list[Any] = [pickle.value, *calls.values()]
    seen: set[int] = set()
    while pending:
        symbol = pending.pop()
        if id(symbol) in seen:
            continue
        seen.add(id(symbol))
        for items in _held(symbol):
            if type(items) is list:
                for place, item in enumerate(items):
                    if type(item) is PersistentId and id(item) in calls:
                        left.discard(id(item))
                        items[place] = calls[id(item)]
            pending.extend(item for item in items if type(item) in _HOLDERS)
    return len(left)


_HOLDERS = (Call, PickledDict, list, tuple)


def _held(symbol: Any) -> Iterator[Sequence[Any]]:
    """What a symbol holds, list by list."""
    if type(symbol) is PickledDict:
        yield symbol.flat
    elif type(symbol) is Call:
        if type(symbol.args) is tuple:
            yield symbol.args
        yield from (symbol.states, symbol.items, symbol.flat)
    else:
        yield symbol


# -- the checkpoint ------------------------------------------------------------------------------


class _Made:
    """All resources as one checkpoint: a section, or several, of each."""

    def __init__(self, resources: Sequence[_Resource], target: str) -> None:
        self.resources = resources
        self.target = target
        self.tables: dict[str, ParameterTable] = {}
        self.roles: dict[str, Role] = {}
        self.optimizers: dict[str, OptimizerState] = {}
        self.metadata: dict[str, str] = {}
        self.chosen = ""
        holders = [each for each in resources if any(map(_holds, each.sections.tables.values()))]
        for each in holders:
            self._add(each, "" if len(holders) == 1 else each.name)
        if not holders:
            self.tables[""] = ParameterTable(target, (), "file")
            self.roles[""] = "other"
        self._choose(holders)

    def _add(self, resource: _Resource, prefix: str) -> None:
        sections = resource.sections
        for name, table in sections.tables.items():
            label = _label(prefix, name)
            self.tables[label] = ParameterTable(
                self.target, table.tensors, "file", label, table.modules, table.unregistered, table.others,
                table.versions,
            )  # fmt: skip
            self.roles[label] = sections.roles[name]
        self.optimizers.update((_label(prefix, name), said) for name, said in sections.optimizers.items())
        self.metadata.update((_label(prefix, key), value) for key, value in sections.metadata.items())

    def _choose(self, holders: Sequence[_Resource]) -> None:
        """The largest of what is taken for a model; a module before a state_dict."""
        if not holders:
            return
        labels = {
            _label("" if len(holders) == 1 else each.name, each.sections.model_section): each
            for each in holders
        }

        def rank(label: str) -> tuple[bool, bool, int]:
            table = self.tables[label]
            size = sum(row.numel for row in table if row.kind == "parameter")
            return self.roles[label] == "model", bool(table.modules), size

        self.chosen = max(labels, key=rank)

    def checkpoint(
        self, source: ByteSource, archive: TorchArchive, names: tuple[GlobalName, ...], notes: list[str]
    ) -> Checkpoint:
        resources = self.resources
        return Checkpoint(
            source=self.target,
            format="torch-package",
            files=(FileInfo(source.path, source.size, source.bytes_read),),
            tables=self.tables,
            roles=self.roles,
            model_section=self.chosen,
            metadata=self.metadata,
            globals=names,
            notes=(
                *self._sections_note(),
                *foreign_note(names),
                *finding_notes([each.pickle for each in resources]),
                *(note for each in resources for note in each.notes),
                *notes,
                *archive.notes(),
                *archive.directory.disagreements,
            ),
            optimizers=self.optimizers,
            version=archive.version,
            facts=_facts(archive, resources),
        )

    def _sections_note(self) -> list[str]:
        if not any(map(_holds, self.tables.values())):
            return ["it holds no tensor"]
        others = [name for name in self.tables if name != self.chosen]
        if not others:
            return []
        shown = ", ".join(f"'{visible(name[:80])}' ({self.roles[name]})" for name in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
        taken = f"section '{visible(self.chosen[:80])}' is" if self.chosen else "what stands in no section is"
        return [f"{taken} taken for the model; the archive also holds {shown}{more}"]


def _holds(table: ParameterTable) -> bool:
    return bool(len(table) or table.unregistered)


def _label(prefix: str, name: str) -> str:
    return ".".join(part for part in (prefix, name) if part)


def _facts(archive: TorchArchive, resources: Sequence[_Resource]) -> dict[str, str]:
    facts = archive.facts()
    root = archive.root + b"/"
    sources = [name[len(root) :] for name in archive.directory.names if name.endswith(b".py")]
    sources = [name for name in sources if not name.startswith(_SCRIPTS.encode())]
    facts["pickles"] = f"{len(resources):,}"
    if sources:
        shown = ", ".join(visible(name.decode("utf-8", "backslashreplace")[:80]) for name in sources[:_SHOWN])
        more = ", …" if len(sources) > _SHOWN else ""
        facts["Python sources"] = f"{len(sources):,}, imported when it is loaded: {shown}{more}"
    modules = _listed(archive)
    if modules:
        facts["external modules"] = modules
    version = archive.text(".data/python_version")
    if version:
        facts["written by"] = f"Python {visible(version)}"
    return facts


def _listed(archive: TorchArchive) -> str:
    """Modules that loading it imports from where it is loaded."""
    number = archive.directory.find(archive.root + f"/{_EXTERN}".encode())
    assert number is not None
    raw = archive.directory.content(archive.directory.record(number), MAX_LISTED * 4)
    text = ", ".join(raw.decode("utf-8", "backslashreplace").split())
    return visible(text if len(text) <= MAX_LISTED else f"{text[:MAX_LISTED]}…")


def _unclaimed(records: StorageRecords) -> list[str]:
    """Storages that no pickle refers to."""
    directory, wanted, prefix = records.directory, set(records.wanted), records.prefix
    sizes = [
        directory.sizes[number]
        for number, name in enumerate(directory.names)
        if number not in wanted and name.startswith(prefix) and name.endswith(_STORAGE.encode())
    ]
    sizes = [size for size in sizes if size]
    if not sizes:
        return []
    return [f"{len(sizes):,} of its records of data ({sum(sizes):,} bytes) belong to no tensor"]
