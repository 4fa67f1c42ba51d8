"""
What is this? Everything that a checkpoint's headers, or a definition, say of themselves.

Nothing is measured here that needs a tensor's values; what other reports work out is
put beside each other: counts, adapters, quantized layouts, kinds of optimizers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from modelinspect.analysis.count import CountReport, count_table
from modelinspect.analysis.loading import Loading, how_it_loads
from modelinspect.analysis.remarks import optimizer_remarks
from modelinspect.display import Displayed
from modelinspect.tensors import (
    Checkpoint,
    OptimizerState,
    ParameterTable,
    Role,
    Setting,
    Storage,
    TensorInfo,
)

if TYPE_CHECKING:
    from modelinspect.analysis.adapters import Adapter
    from modelinspect.analysis.quantization import QuantizationTotal

__all__ = [
    "DeviceTotal",
    "InfoReport",
    "LargestTensors",
    "OptimizerInfo",
    "SectionInfo",
    "checkpoint_info",
    "table_info",
]

MOST_LARGEST = 5
"""Groups of largest tensors that a report keeps."""


class SectionInfo(NamedTuple):
    """One state_dict of a checkpoint."""

    name: str
    role: Role
    tensors: int
    """Names in it."""
    numel: int
    """Elements of all its tensors, tied ones once; packed values as what they stand for."""
    nbytes: int
    """Bytes of its storages, each once."""
    is_model: bool
    """Is it the one that the figures are of?"""


class LargestTensors(NamedTuple):
    """Tensors of one shape and data type whose names differ only in numbers."""

    names: tuple[str, ...]
    """In the order of the table."""
    shape: tuple[int, ...]
    dtype: str
    numel: int
    """Elements of all of them together; packed values as what they stand for."""
    nbytes: int
    """Bytes of the elements of all of them."""
    share: float
    """Of the bytes of all tensors of the section, from 0 to 1."""


class DeviceTotal(NamedTuple):
    """Tensors that lay on one device when they were saved, those of all sections."""

    device: str
    tensors: int
    nbytes: int


class OptimizerInfo(NamedTuple):
    """An optimizer's state."""

    section: str
    kind: str
    """By the names of its states, e.g. ``Adam-like: exp_avg, exp_avg_sq``; empty if unknown."""
    parameters: int
    """Parameters that it keeps something of."""
    states: Mapping[str, int]
    """Name of a state to how many tensors there are of it."""
    settings: Mapping[str, Setting]
    """Of its first group, e.g. ``lr``."""
    groups: int
    step: int | float | None
    """Steps taken, the most of any parameter; None where they are tensors, which are not read."""


@dataclass(frozen=True)
class InfoReport(Displayed):
    """
    What a target is. Texts, names and numbers come from a file and may be anything.
    """

    target: str
    origin: Literal["file", "definition", "memory"]
    format: str
    """Name in the registry, e.g. ``torch-zip``; empty of what is no file."""
    version: str
    """Of the format, as the file says it; empty where it says none."""
    files: int
    nbytes: int
    """Size of all files in bytes; 0 of what is no file."""
    bytes_read: int
    """Bytes of them that were read for this."""
    writer: str
    """Library that wrote it, with its version where it says one; empty where nothing tells."""
    architecture: str
    """Class or architecture of the model, as it says itself; empty where nothing tells."""
    count: CountReport
    """Figures of the section taken for the model: parameters, buffers, data types, ties."""
    sections: tuple[SectionInfo, ...] = ()
    """In the order of the file; one that is not a file's has none."""
    modules: Mapping[str, int] = field(default_factory=dict)
    """Classes of the modules to how many there are, most first; empty where only names are known."""
    quantized: tuple[QuantizationTotal, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    epoch: str = ""
    """As the file says it; empty where it does not."""
    step: str = ""
    optimizers: tuple[OptimizerInfo, ...] = ()
    largest: tuple[LargestTensors, ...] = ()
    """By bytes, those of a group together; at most :data:`MOST_LARGEST`."""
    devices: tuple[DeviceTotal, ...] = ()
    """Only of formats that keep them."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What its author put beside the tensors, whole."""
    said: frozenset[str] = frozenset()
    """Keys of the metadata that writer, architecture, epoch and step were taken from."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the reader found out about the container."""
    loading: Loading | None = None
    """None of what is no file."""
    notes: tuple[str, ...] = ()


def checkpoint_info(checkpoint: Checkpoint, section: str | None = None) -> InfoReport:
    """
    What a checkpoint is.

    Args:
        checkpoint: Its headers.
        section: Whose figures to give instead of the model's; ``"all"`` is every section.

    Raises:
        UsageError: There is no such section.
    """
    table = checkpoint.section(section)
    count = count_table(table)
    said = optimizer_remarks(checkpoint, count.unique) if table is checkpoint.table else ()
    found = _Searched(checkpoint.metadata)
    facts = dict(checkpoint.facts)
    return InfoReport(
        target=checkpoint.source,
        origin="file",
        format=checkpoint.format,
        version=checkpoint.version,
        files=len(checkpoint.files),
        nbytes=checkpoint.nbytes,
        bytes_read=checkpoint.bytes_read,
        writer=", ".join(filter(None, [found.writer(), *(facts.pop(title, "") for title in _WRITERS)])),
        architecture=table.modules.get("") or found.first(_ARCHITECTURES) or facts.get("architecture", ""),
        count=count,
        sections=tuple(_sections(checkpoint, table.section)),
        modules=_classes(table),
        quantized=count.quantized,
        adapters=_adapters(checkpoint),
        epoch=found.number(_EPOCHS),
        step=found.number(_STEPS),
        optimizers=tuple(_optimizers(checkpoint)),
        largest=_largest(table),
        devices=_devices(checkpoint.tables.values()) if _keeps_devices(checkpoint.format) else (),
        metadata=checkpoint.metadata,
        said=frozenset(found.said),
        facts=facts,
        loading=how_it_loads(checkpoint),
        notes=tuple(_without_what_is_said((*checkpoint.notes, *said, *count.notes))),
    )


def table_info(table: ParameterTable) -> InfoReport:
    """
    What a definition, a module in hand or any table is.

    Args:
        table: Its parameters and buffers, with its modules.
    """
    count = count_table(table)
    devices = _devices([table])
    return InfoReport(
        target=table.source,
        origin=table.origin,
        format="",
        version="",
        files=0,
        nbytes=0,
        bytes_read=0,
        writer="",
        architecture=table.modules.get("", ""),
        count=count,
        modules=_classes(table),
        quantized=count.quantized,
        largest=_largest(table),
        # A definition lies on the meta device, or wherever its constructor puts it.
        devices=devices if table.origin == "memory" else (),
        notes=count.notes,
    )


# What the report says itself; the reader says it for reports that don't.
_SAID_ELSEWHERE = ("loading it the usual way would", "section '", "what stands in no section is")


def _without_what_is_said(notes: Iterable[str]) -> Iterator[str]:
    return (note for note in dict.fromkeys(notes) if not note.startswith(_SAID_ELSEWHERE))


# ------------------------------------------------------------------- sections


def _sections(checkpoint: Checkpoint, chosen: str) -> Iterator[SectionInfo]:
    for name, table in checkpoint.tables.items():
        tied_to = table.tied_to
        storages: dict[Storage, None] = {}
        numel = 0
        for tensor in table:
            if tensor.name not in tied_to:
                numel += tensor.logical_numel
                storages.update(dict.fromkeys(storage for storage, _ in tensor.storages()))
        nbytes = sum(storage.nbytes for storage in storages)
        yield SectionInfo(name, checkpoint.roles[name], len(table), numel, nbytes, name == chosen)


_NO_DEVICES = ("safetensors", "gguf", "npy", "npz", "onnx")


def _keeps_devices(form: str) -> bool:
    return not any(name in form for name in _NO_DEVICES)


def _devices(tables: Iterable[ParameterTable]) -> tuple[DeviceTotal, ...]:
    tensors: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    seen: set[Storage] = set()
    for table in tables:
        for tensor in table:
            tensors[tensor.device] += 1
            for storage, _ in tensor.storages():
                if storage not in seen:
                    seen.add(storage)
                    nbytes[storage.device] += storage.nbytes
    return tuple(DeviceTotal(name, number, nbytes[name]) for name, number in tensors.most_common())


# ------------------------------------------------------------- what the model is


def _classes(table: ParameterTable) -> dict[str, int]:
    """Classes of the modules inside the root, most first."""
    return dict(Counter(name for path, name in table.modules.items() if path).most_common())


# Parts of the names of all tensors that adapters know; most files have none of them, and
# a report starts in a few milliseconds.
_MARKS = (
    "lora", "dora", "ia3_", "hada_", "lokr_", "vera_", "oft_", "hra_", "fourierft_", "ln_tuning_",
    "prompt_embeddings", "adaption_", "ranknum", "bone_block", "miss_block",
)  # fmt: skip


def _adapters(checkpoint: Checkpoint) -> tuple[Adapter, ...]:
    names = "\n".join([tensor.name for table in checkpoint.tables.values() for tensor in table])
    if not any(mark in names for mark in _MARKS):
        return ()
    from modelinspect.analysis.adapters import adapters

    return adapters(checkpoint)


# ------------------------------------------------------- what the metadata says

# Last parts of keys that name what the model is, the surest first: configurations of
# transformers and diffusers, GGUF, training scripts of timm.
_ARCHITECTURES = ("architectures", "_class_name", "general.architecture", "arch", "model_type")
_WRITERS = ("written by", "producer")
"""Titles of facts that say who wrote the file."""
_VERSIONS = {
    "pytorch-lightning_version": "PyTorch Lightning",
    "transformers_version": "transformers",
    "_diffusers_version": "diffusers",
    "peft_version": "PEFT",
    "ss_sd_scripts_commit_hash": "kohya's sd-scripts",
}
"""Last part of a key that holds a library's version to that library."""
_FRAMEWORKS = {"pt": "PyTorch", "tf": "TensorFlow", "flax": "Flax", "np": "NumPy", "mlx": "MLX"}
"""What safetensors' callers put under ``format``."""
_EPOCHS = ("epoch", "current_epoch")
_STEPS = ("global_step", "iteration", "iter", "iter_num", "num_updates", "step", "steps", "global_steps")
_SETTINGS = ("hyper_parameters.", "hparams.", "args.", "config.", "cfg.", "opt.", "options.", "adapter.")
"""What was asked of the training, rather than how far it got."""
_NUMBER = r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_INNERMOST = 2
"""Dots in the key of an entry that is of the whole file, such as ``trainer_state.epoch``."""


class _Searched:
    """Metadata in which known entries are looked up, and which keys were of use."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata
        keys = [key for key, text in metadata.items() if text and key.count(".") <= _INNERMOST]
        # Those of the whole file before those of a part of it.
        self._keys = sorted(keys, key=lambda key: key.count("."))
        self.said: set[str] = set()

    def first(self, ends: Iterable[str]) -> str:
        """The value of the first key that ends so, else nothing."""
        return self._value(ends, lambda key: True)  # noqa: ARG005

    def number(self, ends: Iterable[str]) -> str:
        """The same of keys that are no settings, where it is a number."""
        metadata = self._metadata
        return self._value(
            ends,
            lambda key: (
                not key.startswith(_SETTINGS) and re.fullmatch(_NUMBER, metadata[key][:40]) is not None
            ),
        )

    def writer(self) -> str:
        """Library and version, else the framework that safetensors was called from."""
        for end, library in _VERSIONS.items():
            version = self.first([end])
            if version:
                return f"{library} {version}"
        framework = _FRAMEWORKS.get(self._metadata.get("format", ""), "")
        self.said.update(["format"] if framework else [])
        return framework

    def _value(self, ends: Iterable[str], is_wanted: Callable[[str], bool]) -> str:
        for end in ends:
            for key in self._keys:
                stem = key.removesuffix(".0")
                if (stem == end or stem.endswith(f".{end}")) and is_wanted(key):
                    self.said.add(key)
                    return self._metadata[key]
        return ""


# ------------------------------------------------------------------- training


def _optimizers(checkpoint: Checkpoint) -> Iterator[OptimizerInfo]:
    for name, table in checkpoint.tables.items():
        if checkpoint.roles[name] == "optimizer":
            yield _optimizer(name, table, checkpoint.optimizers.get(name, OptimizerState()))


def _optimizer(section: str, table: ParameterTable, said: OptimizerState) -> OptimizerInfo:
    from modelinspect.analysis.optimizer_kinds import named_family

    states: Counter[str] = Counter()
    keys = set(said.steps)
    for tensor in table:
        # "state.0.exp_avg": whatever stands between the two is the parameter's key.
        path, _, leaf = tensor.name.rpartition(".")
        states[leaf] += 1
        keys.add(path.removeprefix("state."))
    settings = dict(said.groups[0].settings) if said.groups else {}
    moments = [state for state in states if state != "step"]
    family = named_family(moments, settings) if moments else None
    return OptimizerInfo(
        section=section,
        kind="" if family is None else family.label,
        parameters=len(keys),
        states=dict(states),
        settings=settings,
        groups=len(said.groups),
        step=max(said.steps.values(), default=None),
    )


# -------------------------------------------------------------------- largest

_FEWEST = 3
"""Tensors that are put together; as many as a table of parameters folds."""
_DIGITS = r"[0-9]+"


class _Group(NamedTuple):
    """Tensors whose names differ only in numbers, and the bytes of one of them."""

    tensors: list[TensorInfo]
    each: int

    @property
    def nbytes(self) -> int:
        return self.each * len(self.tensors)


def _largest(table: ParameterTable) -> tuple[LargestTensors, ...]:
    groups = list(_alike(table))
    whole = sum(group.nbytes for group in groups)
    largest = sorted(groups, key=lambda group: -group.nbytes)[:MOST_LARGEST]
    return tuple(
        LargestTensors(
            tuple(tensor.name for tensor in group.tensors),
            group.tensors[0].shape,
            group.tensors[0].dtype.name,
            sum(tensor.logical_numel for tensor in group.tensors),
            group.nbytes,
            group.nbytes / whole,
        )
        for group in largest
    )


def _alike(table: ParameterTable) -> Iterator[_Group]:
    """Tensors by all that has to be equal in a block; a block has three or more."""
    tied_to = table.tied_to
    without = re.compile(_DIGITS).sub
    groups: dict[tuple[str, tuple[int, ...], str, int], list[TensorInfo]] = {}
    for tensor in table:
        nbytes = tensor.nbytes
        if nbytes and tensor.name not in tied_to:
            key = (without("0", tensor.name), tensor.shape, tensor.dtype.name, nbytes)
            groups.setdefault(key, []).append(tensor)
    for (*_, nbytes), tensors in groups.items():
        if len(tensors) >= _FEWEST:
            yield _Group(tensors, nbytes)
        else:
            yield from (_Group([tensor], nbytes) for tensor in tensors)
