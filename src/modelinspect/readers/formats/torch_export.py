"""
What torch.export.save writes: ``.pt2``, a zip archive of a model's graph and its tensors.

Since torch 2.8 (``torch/export/pt2_archive/_package.py`` of 2.13): ``archive_format`` is ``pt2``;
``models/{model}.json`` is a graph; ``data/weights/weight_N`` and ``data/constants/tensor_N`` are raw
storages, or whole files of torch.save's, which the configurations beside them describe;
``data/sample_inputs/{model}.pt`` is a file of torch.save's that is unpickled whenever the archive is
loaded; ``data/aotinductor/{model}/`` is compiled code; ``extra/`` is the author's. Before, up to 2.7
(``torch/export/__init__.py``): ``serialized_exported_program.json`` beside ``serialized_state_dict.pt``
and ``serialized_constants.pt``, whole files of torch.save's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from modelinspect.errors import CheckpointError, DamagedFileError, visible
from modelinspect.readers.parts.export_config import (
    MAX_JSON_BYTES,
    Given,
    Graph,
    Meta,
    Payload,
    as_given,
    load_graph,
    load_json,
    payloads,
    too_long,
)
from modelinspect.readers.parts.extra_files import extra_files
from modelinspect.readers.parts.kinds import infer_kind, settled_by_siblings
from modelinspect.readers.parts.nested_archive import Nested, read_nested
from modelinspect.readers.parts.pickle_machine import Feed, read_pickle
from modelinspect.readers.parts.tensor_walk import TensorWalk
from modelinspect.readers.parts.torch_archive import TorchArchive
from modelinspect.readers.parts.torch_checkpoint import finding_notes, foreign_note, global_names
from modelinspect.readers.parts.torch_objects import BARE, How, TensorReader
from modelinspect.readers.parts.zip_directory import STORED, Record, ZipDirectory, read_directory
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource, Unpacked, Window
from modelinspect.tensors import (
    Checkpoint,
    FileInfo,
    GlobalName,
    ParameterTable,
    Role,
    Storage,
    TensorInfo,
    unique_names,
)

__all__ = ["read"]

MAX_MODELS = 1_000
MAX_GRAPH_BYTES = 64_000_000
"""Of a graph that is looked into for what its inputs are."""
MAX_DOCUMENTS = 120_000_000
"""Bytes of all graphs and configurations together."""
_OLD = b"serialized_exported_program.json"
_FORMAT = "archive_format"
_SHOWN = 4
_SAMPLES = "sample_inputs"
_COMPILED = (".so", ".dll", ".dylib", ".pyd", ".cubin", ".ptx", ".hsaco")


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read a torch.export archive; no tensor's bytes are touched.

    Raises:
        NotThisFormat: It is a zip archive of something else.
        DamagedFileError: It is truncated or makes no sense.
        LimitError: It claims more than a limit allows.
    """
    directory = read_directory(source)
    if directory.find(_OLD) is not None:
        reading = _Reading(directory, target, "")
        reading.old_layout()
        return reading.checkpoint(reading.text("version"))
    archive = TorchArchive(directory, target)
    if not archive.has(_FORMAT):
        raise NotThisFormat("a zip archive without archive_format in its first folder")
    said = archive.text(_FORMAT)
    if said != "pt2":
        title = f"an archive of the format {visible(said)!r}"
        raise NotThisFormat(title, really=title)
    root = archive.root.decode("utf-8", "backslashreplace")
    reading = _Reading(directory, target, f"{root}/", archive)
    for model in reading.models():
        reading.model(model)
    return reading.checkpoint(archive.text("archive_version"))


class _Section(NamedTuple):
    """The tensors of one model."""

    rows: list[TensorInfo]
    others: list[str]
    """Names of constants that are no tensor."""


class _Reading:
    """One archive: models, one after the other."""

    def __init__(
        self, directory: ZipDirectory, target: str, prefix: str, archive: TorchArchive | None = None
    ) -> None:
        self.directory = directory
        self.source = directory.source
        self.target = target
        self.prefix = prefix
        self.archive = archive
        self.sections: dict[str, _Section] = {}
        self.roles: dict[str, Role] = {}
        self.facts: dict[str, str] = dict(archive.facts()) if archive else {}
        self.notes: list[str] = []
        self.nested: dict[str, Nested] = {}
        self.globals: list[GlobalName] = []
        self.without_values = 0
        self.reader = TensorReader(target, ())
        self.walk: TensorWalk | None = None
        self.inputs: list[tuple[str, TensorInfo]] = []
        self.left = MAX_DOCUMENTS

    # -- records ---------------------------------------------------------------------------

    def find(self, name: str) -> Record | None:
        number = self.directory.find((self.prefix + name).encode("utf-8", "surrogatepass"))
        return None if number is None else self.directory.record(number)

    def needed(self, name: str) -> Record:
        record = self.find(name)
        if record is None:
            raise DamagedFileError(
                f"{visible(self.target)} is damaged", details=(f"record {visible(name[:200])} is missing",)
            )
        return record

    def text(self, name: str) -> str:
        """A short record; empty where there is none."""
        record = self.find(name)
        raw = b"" if record is None else self.directory.content(record, 64)
        return visible(raw.decode("latin-1").strip())

    def names_in(self, folder: str) -> Iterator[str]:
        """Names of records in a folder, without it."""
        before = (self.prefix + folder).encode("utf-8", "surrogatepass")
        for name in self.directory.names:
            if name.startswith(before) and len(name) > len(before):
                yield name[len(before) :].decode("utf-8", "backslashreplace")

    def document(self, record: Record) -> object:
        where = f"{self.target}: {record.name}"
        if record.size > min(MAX_JSON_BYTES, self.left):
            raise too_long(where, record.size, min(MAX_JSON_BYTES, self.left))
        self.left -= record.size
        return load_json(self.directory.opened(record)(0, record.size), where)

    def graph(self, name: str) -> Graph:
        record = self.find(name)
        if record is None:
            return Graph({}, {})
        if record.size > min(MAX_GRAPH_BYTES, self.left):
            self.notes.append(
                f"the graph in {visible(record.name[:200])} was not looked into: it has {record.size:,} bytes"
            )
            return Graph({}, {})
        self.left -= record.size
        return load_graph(self.directory.opened(record)(0, record.size))

    def saved(self, record: Record) -> Nested:
        """A whole file of torch.save's in a record, which several tensors may name."""
        found = self.nested.get(record.name)
        if found is None:
            where = f"{self.target}: {record.name}"
            found = read_nested(self._inner(record), where, record.name, self.reader)
            self.nested[record.name] = found
            self.globals.extend(found.globals)
        return found

    def walked(self, nested: Nested) -> TensorWalk:
        """What finds the tensors in a file of torch.save's; all of them share a budget."""
        if self.walk is None:
            self.walk = TensorWalk(self.reader, nested.pickle, self.target)
        else:
            self.walk.go_on(nested.pickle)
        return self.walk

    def _inner(self, record: Record) -> ByteSource:
        if record.method == STORED:
            return Window(self.source, record.data, record.size)
        return Unpacked(self.source.path, self.directory.opened(record)(0, record.size))

    # -- models ----------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names of models: of graphs, and of what was compiled."""
        graphs = [name[: -len(".json")] for name in self.names_in("models/") if name.endswith(".json")]
        compiled = [name.partition("/")[0] for name in self.names_in("data/aotinductor/") if "/" in name]
        names = list(dict.fromkeys([*graphs, *compiled]))
        if len(names) > MAX_MODELS:
            raise too_long(f"{self.target}: its list of models", len(names), MAX_MODELS)
        self._say_what_else(len(graphs), compiled)
        return names

    def model(self, name: str) -> None:
        graph = self.graph(f"models/{name}.json")
        self.facts.update(graph.facts)
        section = self.sections[name] = _Section([], [])
        self.roles[name] = "model"
        self.payloads(section, name, "weights", graph.inputs)
        self.payloads(section, name, "constants", graph.inputs)
        self.compiled_weights(section, name)
        self._in_order(section, graph.inputs)
        self.samples(name, f"data/{_SAMPLES}/{name}.pt")

    def payloads(self, section: _Section, model: str, what: str, inputs: Mapping[str, Given]) -> None:
        """Tensors that a configuration describes."""
        # As torch 2.8 wrote them at first: all in one file of torch.save's.
        whole = self.find(f"data/{what}/{model}.pt")
        if whole is not None:
            self.state_dict(section, whole, what, inputs)
            return
        config = self.find(f"data/{what}/{model}_{what}_config.json")
        if config is None:
            return
        for name, payload in payloads(self.document(config), f"{self.target}: {config.name}").items():
            record = self.needed(f"data/{what}/{payload.record}")
            if payload.meta is None:
                section.others.append(name)
                self.object(record)
                continue
            given = Given("parameter", None) if payload.is_param else inputs.get(name) or _default(what)
            row = self.pickled(name, record) if payload.pickled else self.row(name, record, payload.meta)
            section.rows.append(_as_given(row, given, payload))

    def row(self, name: str, record: Record, meta: Meta) -> TensorInfo:
        """A tensor over a raw storage."""
        if not record.size and 0 not in meta.shape:
            self.without_values += 1
            return TensorInfo(name, meta.dtype, meta.shape, None, meta.stride)
        offset = record.offset
        if offset is not None and self.source.base is not None:
            offset += self.source.base
        order = self.archive.byteorder if self.archive else "little"
        storage = Storage(self.source.path, record.name, offset, record.size, meta.device, order)
        row = TensorInfo(name, meta.dtype, meta.shape, storage, meta.stride, meta.offset)
        if 0 not in meta.shape and sum(row.span) > record.size:
            raise DamagedFileError(
                f"{visible(self.target)} is truncated or damaged",
                details=(f"tensor {visible(name[:200])} reaches beyond its {record.size:,} bytes",),
            )
        return row

    def pickled(self, name: str, record: Record) -> TensorInfo:
        """A tensor subclass, or what was compiled with its weights: a file of torch.save's."""
        row = self.saved(record).tensor(name)
        if row is None:
            raise DamagedFileError(
                f"{visible(self.target)} is damaged",
                details=(f"record {visible(record.name[:200])} holds no tensor",),
            )
        return row

    def object(self, record: Record) -> None:
        """A constant that is no tensor: what its pickle names is all that is wanted of it."""
        try:
            if record.name.rpartition("/")[2].startswith("opaque_obj_"):
                where = f"{self.target}: {record.name}"
                packed = None if record.method == STORED else record.packed
                pickle = read_pickle(Feed(self.directory.opened(record), record.size, where, packed=packed))
                TensorReader(where, pickle.globals)
                self.globals.extend(global_names([pickle], self.source.path, record.name))
            else:
                self.saved(record)
        except CheckpointError as error:
            self._unread(record, error)

    def state_dict(self, section: _Section, record: Record, what: str, inputs: Mapping[str, Given]) -> None:
        """All weights, or all constants, in one file of torch.save's."""
        nested = self.saved(record)
        how = BARE if what == "weights" else How("other")
        table = self.walked(nested).table(nested.value, how, "")
        section.others.extend(table.others)
        for row in table:
            given = inputs.get(row.name)
            if given is None and not row.declared:
                section.rows.append(row)
            else:
                section.rows.append(_as_given(row, given or Given(row.kind, row.persistent), None))

    def compiled_weights(self, section: _Section, model: str) -> None:
        """Weights that AOTInductor left beside its code, each a file of torch.save's."""
        config = self.find(f"data/aotinductor/{model}/weights_config.json")
        document = None if config is None else self.document(config)
        for name, entry in document.items() if isinstance(document, dict) else ():
            if not isinstance(entry, list) or len(entry) != 4 or not isinstance(entry[0], str):
                raise DamagedFileError(
                    f"{visible(self.target)} is damaged",
                    details=(f"tensor {visible(name[:200])}: its entry makes no sense",),
                )
            whole = self.pickled(name, self.needed(f"data/weights/{entry[0]}"))
            row = whole._replace(shape=_sizes(entry[1]), explicit_stride=_sizes(entry[2]))
            row = row._replace(storage_offset=entry[3] if type(entry[3]) is int else -1)
            self._check(row)
            section.rows.append(row._replace(kind=infer_kind(name, row.dtype, row.shape), declared=False))

    def samples(self, model: str, name: str) -> None:
        """The inputs that the model was exported with: tensors, but none of the model's."""
        record = self.find(name)
        if record is None or not record.size:
            return
        try:
            nested = self.saved(record)
            rows = self.walked(nested).table(nested.value, How("other"), _SAMPLES).tensors
        except CheckpointError as error:
            self._unread(record, error)
            return
        self.inputs.extend((model, row) for row in rows)

    def old_layout(self) -> None:
        graph = self.graph(_OLD.decode())
        self.facts["layout"] = "of torch 2.7 and earlier"
        self.facts.update(graph.facts)
        section = self.sections[""] = _Section([], [])
        self.roles[""] = "model"
        for what in ("state_dict", "constants"):
            name = f"serialized_{what}"
            # Earlier ones called the same bytes .json.
            record = self.find(f"{name}.pt") or self.needed(f"{name}.json")
            if record.size:
                self.state_dict(section, record, "weights" if what == "state_dict" else what, graph.inputs)
        self._in_order(section, graph.inputs)
        self.samples("", "serialized_example_inputs.pt")

    # -- the checkpoint ----------------------------------------------------------------------

    def checkpoint(self, version: str) -> Checkpoint:
        chosen = self._chosen()
        single = sum(role == "model" for role in self.roles.values()) < 2
        if self.inputs:
            label = next(name for name in (_SAMPLES, f"{_SAMPLES} (2)") if name not in self.sections)
            rows = [row if single else row._replace(name=f"{model}.{row.name}") for model, row in self.inputs]
            self.sections[label], self.roles[label] = _Section(rows, []), "other"
        found: dict[tuple[str, str], GlobalName] = {}
        for each in self.globals:
            found.setdefault((each.module, each.name), each)
        names = tuple(found.values())
        tables, roles = {}, {}
        for name, section in self.sections.items():
            label = "" if single and name == chosen else name
            tables[label] = ParameterTable(
                source=self.target,
                tensors=unique_names(settled_by_siblings(section.rows)),
                origin="file",
                section=label,
                others=tuple(section.others),
            )
            roles[label] = self.roles[name]
        return Checkpoint(
            source=self.target,
            format="torch-export",
            files=(FileInfo(self.source.path, self.source.size, self.source.bytes_read),),
            tables=tables,
            roles=roles,
            model_section="" if single else chosen,
            metadata=extra_files(self.directory, (self.prefix + self._extra_folder()).encode()),
            globals=names,
            notes=(
                *self._sections_note(roles, "" if single else chosen),
                *self._notes(names),
            ),
            version=version,
            facts=self.facts,
        )

    def _extra_folder(self) -> str:
        return "extra/" if self.archive else "extra_files/"

    def _chosen(self) -> str:
        """The model that torch.export.load gives, else the largest."""
        models = [name for name, role in self.roles.items() if role == "model"]
        if not models:
            self.sections[""], self.roles[""] = _Section([], []), "model"
            return ""
        if "model" in models:
            return "model"
        return max(models, key=lambda name: sum(row.numel for row in self.sections[name].rows))

    def _sections_note(self, roles: Mapping[str, Role], chosen: str) -> list[str]:
        models = [name for name, role in roles.items() if role == "model" and name != chosen]
        if not models:
            return []
        others = ", ".join(f"'{visible(name[:80])}'" for name in models[:_SHOWN])
        more = f" and {len(models) - _SHOWN:,} more" if len(models) > _SHOWN else ""
        return [
            f"section '{visible(chosen[:80])}' is taken for the model; the file also holds {others}{more}"
        ]

    def _notes(self, names: tuple[GlobalName, ...]) -> list[str]:
        notes = list(self.notes)
        if not any(section.rows for section in self.sections.values()):
            notes.append("it holds no tensor")
        if self.without_values:
            notes.append(f"{self.without_values:,} tensors have no values in it: they were exported without")
        pickles = [nested.pickle for nested in self.nested.values()]
        notes += [*foreign_note(names), *finding_notes(pickles)]
        notes += dict.fromkeys(note for nested in self.nested.values() for note in nested.notes)
        return [*notes, *(self.archive.notes() if self.archive else ()), *self.directory.disagreements]

    def _say_what_else(self, graphs: int, compiled: list[str]) -> None:
        """What there is beside graphs and tensors."""
        if graphs > 1:
            self.facts["models"] = f"{graphs:,}"
        files = list(self.names_in("data/aotinductor/"))
        if files:
            libraries = [name for name in files if name.endswith(_COMPILED)]
            self.facts["AOTInductor"] = f"{len(files):,} files of compiled code"
            if libraries:
                shown = ", ".join(visible(name[:80]) for name in libraries[:_SHOWN])
                self.notes.append(f"loading it with AOTInductor runs the machine code in {shown}")
            if not graphs:
                self.facts["models"] = "compiled only: " + ", ".join(
                    visible(name[:80]) for name in list(dict.fromkeys(compiled))[:_SHOWN]
                )
        for folder, title in (("data/executorch/", "ExecuTorch"), ("xl_model_weights/", "xl_model_weights")):
            count = sum(1 for _ in self.names_in(folder))
            if count:
                self.facts[title] = f"{count:,} files"

    def _in_order(self, section: _Section, inputs: Mapping[str, Given]) -> None:
        """As they were registered, which the signature says."""
        places = {name: place for place, name in enumerate(inputs)}
        section.rows.sort(key=lambda row: places.get(row.name, len(places)))

    def _check(self, row: TensorInfo) -> None:
        storage, numbers = row.storage, (row.storage_offset, *row.shape, *row.stride)
        sound = storage is not None and min(numbers) >= 0 and len(row.shape) == len(row.stride)
        if not sound or storage is None or (row.numel and sum(row.span) > storage.nbytes):
            raise DamagedFileError(
                f"{visible(self.target)} is truncated or damaged",
                details=(f"tensor {visible(row.name[:200])} reaches beyond its storage",),
            )

    def _unread(self, record: Record, error: CheckpointError) -> None:
        why = "; ".join((error.message, *error.details))
        self.notes.append(f"record {visible(record.name[:200])} can't be read: {why}"[:400])


def _default(what: str) -> Given:
    """What a tensor is of which no signature speaks: weights that are no parameters are buffers."""
    return as_given("buffer" if what == "weights" else "tensor_constant")


def _as_given(row: TensorInfo, given: Given, payload: Payload | None) -> TensorInfo:
    """The row with what the archive declares of it."""
    grad = row.requires_grad
    if payload is not None and payload.meta is not None:
        grad = payload.meta.requires_grad
    parts = tuple(part._replace(kind=given.kind) for part in row.parts)
    return row._replace(
        kind=given.kind, declared=True, persistent=given.persistent, requires_grad=grad, parts=parts
    )


def _sizes(value: object) -> tuple[int, ...]:
    """Sizes of an entry; what is none makes a row that is found out."""
    items = value if isinstance(value, list) and len(value) <= 64 else [-1]
    return tuple(item if type(item) is int else -1 for item in items)
