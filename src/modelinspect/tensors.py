"""
What is known of tensors without their values: rows, tables, sections, checkpoints.

Standard library only. Rows are named tuples, not dataclasses, because a header
may hold a million of them: a frozen dataclass of this size takes ten times as
long to make as a tuple that is built from columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat
from math import prod
from typing import Literal, NamedTuple

from modelinspect.display import Displayed
from modelinspect.dtypes import DType
from modelinspect.errors import UsageError

__all__ = [
    "Checkpoint",
    "Extent",
    "FileInfo",
    "GlobalName",
    "Kind",
    "OptimizerGroup",
    "OptimizerState",
    "ParameterTable",
    "Quantized",
    "Role",
    "Section",
    "Storage",
    "TensorInfo",
    "TieKey",
    "contiguous_stride",
    "rows_of_columns",
    "unique_names",
]

Kind = Literal["parameter", "buffer", "optimizer", "other"]
Role = Literal["model", "ema", "optimizer", "gradients", "other"]
TieKey = tuple[object, ...]
Setting = int | float | str | None | tuple[int | float, ...]
"""One setting of an optimizer, e.g. ``lr`` or ``betas``."""


class Extent(NamedTuple):
    """Where bytes lie: file, first byte, length in bytes."""

    file: str
    offset: int
    nbytes: int


class Storage(NamedTuple):
    """
    One run of bytes that tensors look into. Equal storages are the same storage.
    """

    file: str
    """File as opened, ``""`` for a live model. Shards differ here."""
    key: str
    """Name inside its file (a zip record, a storage key, a tensor's name)."""
    offset: int | None
    """First byte in the file; None where the file does not hold the bytes as they
    are (compressed, never saved, a live model)."""
    nbytes: int
    device: str = "cpu"
    """Device the storage had when it was saved, e.g. ``cuda:7``."""
    byteorder: Literal["little", "big"] = "little"
    """Of its numbers; big only where torch.save ran on such a machine."""


class Quantized(NamedTuple):
    """
    The weight that a packed tensor stands for. Its scales and zero points are tensors
    of their own, of kind ``buffer``.
    """

    scheme: str
    """Layout, e.g. ``GPTQ``, ``AWQ``, ``bitsandbytes nf4``, ``FP8``."""
    shape: tuple[int, ...] | None
    """As a float model has it; None where only the number of values is known."""
    numel: int
    """Values that it stands for."""
    bits: float
    """Bits a value, scales aside."""
    beside: tuple[str, ...] = ()
    """Names of its scales, zero points and what else only serves it, in its section."""


class TensorInfo(NamedTuple):
    """
    One named tensor as its file or its module describes it. Holds no values.
    """

    name: str
    """Dotted name in its section, e.g. ``layers.0.attn.q_proj.weight``."""
    dtype: DType
    shape: tuple[int, ...]
    """Elements along each axis, outermost first; ``()`` is a scalar."""
    storage: Storage | None
    """None: no bytes of its own (a composite, whose ``parts`` have them; a tensor
    saved on the meta device; an uninitialised parameter)."""
    explicit_stride: tuple[int, ...] | None = None
    """Elements from one index to the next along each axis; None means contiguous.
    Read :attr:`stride`, which is never None."""
    storage_offset: int = 0
    """Elements before the first one in the storage."""
    kind: Kind = "parameter"
    declared: bool = False
    """True: a class or a pickled Parameter says the kind. False: inferred."""
    requires_grad: bool | None = None
    """None: unknown, as in every bare state_dict."""
    layout: str = "strided"
    """``strided`` (``conjugate`` and ``negative`` where the numbers stored are to be
    conjugated or negated), ``sparse_coo`` (csr, csc, bsr, bsc), ``quantized``, ``nested``,
    ``wrapper`` (a tensor subclass around other tensors) or ``uninitialized``."""
    persistent: bool | None = None
    """Of a buffer: is it part of the state_dict? None: unknown, or no buffer."""
    class_name: str = ""
    """Dotted class of a tensor subclass; empty for Tensor and Parameter."""
    parts: tuple[TensorInfo, ...] = ()
    """What a composite is stored as: indices and values, data and scales ..."""
    section: str = ""
    quantized: Quantized | None = None
    """The weight that packed bytes stand for, where a layout of quantized models says so."""
    placement: str = ""
    """How a distributed tensor is laid over ranks, e.g. ``Shard(dim=0)`` or ``3 chunks``;
    its ``parts`` are then the pieces that were saved. Empty for all others."""

    @property
    def numel(self) -> int:
        """Elements as torch counts them: the product of the shape."""
        return 0 if self.layout == "uninitialized" else prod(self.shape)

    @property
    def logical_numel(self) -> int:
        """Values the tensor stands for; differs from numel where bytes hold several."""
        if self.quantized is not None:
            return self.quantized.numel
        return self.numel * self.dtype.packed

    @property
    def nbytes(self) -> int:
        """Bytes of the elements; of a composite, of its parts. Ties are not known here."""
        if self.parts:
            return sum(part.nbytes for part in self.parts)
        return 0 if self.storage is None else self.dtype.nbytes(self.numel)

    @property
    def stride(self) -> tuple[int, ...]:
        """Elements from one index to the next along each axis."""
        return contiguous_stride(self.shape) if self.explicit_stride is None else self.explicit_stride

    @property
    def is_contiguous(self) -> bool:
        """True where the elements lie in the storage in order, without holes."""
        return self.explicit_stride is None or _is_contiguous(self.shape, self.explicit_stride)

    @property
    def device(self) -> str:
        """Device at the time of saving, e.g. ``cuda:7``; ``meta`` without storage."""
        if self.storage is not None:
            return self.storage.device
        return self.parts[0].device if self.parts else "meta"

    @property
    def extent(self) -> Extent | None:
        """Bytes from the first element to the last; None where the file lacks them."""
        storage = self.storage
        if storage is None or storage.offset is None:
            return None
        first, length = self.span
        return Extent(storage.file, storage.offset + first, length)

    @property
    def span(self) -> tuple[int, int]:
        """First byte in the storage, and bytes from there to the last element's end."""
        first = self.storage_offset * self.dtype.bits // 8
        if self.explicit_stride is None:
            return first, self.dtype.nbytes(self.numel)
        return first, self.dtype.nbytes(_reach(self.shape, self.explicit_stride))

    @property
    def tie_key(self) -> TieKey | None:
        """
        Equal for tied tensors: same storage, offset, shape and stride. None: never tied.
        """
        if self.storage is None:
            return None if not self.parts else (self.shape, *(part.tie_key for part in self.parts))
        return (self.storage, self.storage_offset, self.shape, self.stride, self.dtype)

    def storages(self) -> Iterator[tuple[Storage, DType]]:
        """The storages that hold the tensor, those of its parts included."""
        pending = [self]
        while pending:
            tensor = pending.pop()
            if tensor.storage is not None:
                yield tensor.storage, tensor.dtype
            pending.extend(reversed(tensor.parts))


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """
    Stride of a contiguous tensor, as torch reports it: ``(2, 3)`` gives ``(3, 1)``.
    """
    stride, step = [], 1
    for length in reversed(shape):
        stride.append(step)
        step *= max(1, length)
    return tuple(reversed(stride))


def _is_contiguous(shape: Sequence[int], stride: Sequence[int]) -> bool:
    expected = 1
    for length, step in zip(reversed(shape), reversed(stride)):
        if length == 0:
            return True
        if length != 1:
            if step != expected:
                return False
            expected *= length
    return True


def _reach(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Elements of storage from the first to the last that the tensor touches."""
    if 0 in shape:
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(shape, stride))


def rows_of_columns(
    names: Iterable[str],
    dtypes: Iterable[DType],
    shapes: Iterable[tuple[int, ...]],
    storages: Iterable[Storage],
    kinds: Iterable[Kind],
) -> list[TensorInfo]:
    """Contiguous tensors with a storage each, made from whole columns at once."""
    given = {"name": names, "dtype": dtypes, "shape": shapes, "storage": storages, "kind": kinds}
    defaults = TensorInfo._field_defaults
    columns = (given[name] if name in given else repeat(defaults[name]) for name in TensorInfo._fields)
    return list(map(TensorInfo._make, zip(*columns)))


def unique_names(rows: Sequence[TensorInfo]) -> Sequence[TensorInfo]:
    """
    The rows, each with a name of its own: a second ``a.b`` becomes ``a.b (2)``.

    Two paths of a file may read the same, ``{"a.b": x, "a": {"b": y}}``; nothing that
    goes by names must then take one tensor for the other.
    """
    if len({row.name for row in rows}) == len(rows):
        return rows
    taken = {row.name for row in rows}
    seen: Counter[str] = Counter()
    renamed = []
    for row in rows:
        seen[row.name] += 1
        name, number = row.name, seen[row.name]
        while number > 1 and name in taken:
            name = f"{row.name} ({number})"
            number += 1
            seen[row.name] = number - 1
        taken.add(name)
        renamed.append(row if name == row.name else row._replace(name=name))
    return renamed


def _in_section(tensor: TensorInfo, prefix: str, section: str) -> TensorInfo:
    """The row in a table of all sections: names preceded by their section's."""
    found = tensor.quantized
    if found is not None and prefix:
        found = found._replace(beside=tuple(prefix + name for name in found.beside))
    return tensor._replace(name=prefix + tensor.name, section=section, quantized=found)


@dataclass(frozen=True)
class ParameterTable(Displayed):
    """
    The tensors of one section or one module tree, in their order.
    """

    source: str
    """The target as the user spelt it."""
    tensors: Sequence[TensorInfo] = field(repr=False)
    origin: Literal["definition", "file", "memory"]
    section: str = ""
    modules: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Dotted path of a module to its class name; ``""`` is the root. Empty if unknown."""
    unregistered: Sequence[TensorInfo] = field(default=(), repr=False)
    """Tensors that hang on a module as plain attributes: neither ``state_dict()``
    nor ``.to()`` sees them."""
    others: tuple[str, ...] = field(default=(), repr=False)
    """Names of entries that hold no tensor: counters and texts beside the tensors of a
    state_dict, and the extra state that a module keeps in one."""
    versions: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Of a state_dict that keeps them: dotted path of a module to the version of its
    layout, as ``state_dict()._metadata`` holds it."""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tensors)

    def __iter__(self) -> Iterator[TensorInfo]:
        return iter(self.tensors)

    def __getitem__(self, name: str) -> TensorInfo:
        """The tensor of that name. Raises KeyError."""
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def tied_to(self) -> dict[str, str]:
        """
        Name of a tied tensor to the first name of the same tensor. First names are absent.
        """
        # Most storages have one tensor; only the others need the full comparison.
        users = Counter(tensor.storage for tensor in self.tensors)
        first: dict[TieKey, str] = {}
        tied: dict[str, str] = {}
        for tensor in self.tensors:
            if users[tensor.storage] == 1 or tensor.numel == 0:
                continue
            key = tensor.tie_key
            if key is None:
                continue
            # A parameter that shares its storage with a buffer stays a parameter.
            key = (tensor.kind, *key)
            name = first.setdefault(key, tensor.name)
            if name != tensor.name:
                tied[tensor.name] = name
        return tied


class Section(NamedTuple):
    """One state_dict inside a checkpoint."""

    name: str
    """Dotted path in the file, e.g. ``optimizer_states.0``; ``""`` is the file itself."""
    role: Role
    tensors: int
    """Names in the section."""


class FileInfo(NamedTuple):
    """One file of a checkpoint: path as opened, size and bytes that were read, in bytes."""

    path: str
    nbytes: int
    bytes_read: int


class GlobalName(NamedTuple):
    """A Python global that a pickle names. It was not imported."""

    module: str
    name: str
    file: str
    record: str
    """The zip record, ``""`` for a bare pickle."""
    position: int
    """Byte in the record."""
    understood: bool
    """True: one of the few names whose meaning is known here."""


class OptimizerGroup(NamedTuple):
    """One of an optimizer's ``param_groups``: parameters that share settings."""

    params: tuple[int | str, ...]
    """Keys of the parameters, in the order in which they were given: numbers that run
    through all groups, or names."""
    names: tuple[str, ...] = ()
    """Names of the parameters, where the optimizer was given them; empty otherwise."""
    settings: Mapping[str, Setting] = {}
    """Short settings, e.g. ``{"lr": 0.001, "betas": (0.9, 0.999)}``."""


class OptimizerState(NamedTuple):
    """What an optimizer's state_dict says beside its tensors."""

    groups: tuple[OptimizerGroup, ...] = ()
    steps: Mapping[str, int | float] = {}
    """Key of a parameter, as the names of its tensors have it, to the steps taken; only
    those that are stored as plain numbers. Others are tensors of the section."""
    fault: str = ""
    """Why there is no more than this, as a part of a sentence; empty mostly."""


@dataclass(frozen=True)
class Checkpoint(Displayed):
    """
    What the headers of a checkpoint say. No value of a tensor has been read.
    """

    source: str
    """The target as the user spelt it."""
    format: str
    """Name in the registry, e.g. ``safetensors``, ``torch-zip``."""
    files: tuple[FileInfo, ...]
    tables: Mapping[str, ParameterTable] = field(repr=False)
    """Section name to its tensors, in file order."""
    roles: Mapping[str, Role]
    """Section name to what it is taken for."""
    model_section: str
    """The section taken for the model."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Free text pairs that the format keeps; dotted paths for nested scalars."""
    globals: tuple[GlobalName, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    optimizers: Mapping[str, OptimizerState] = field(default_factory=dict, repr=False)
    """Name of a section that is an optimizer's to what it says beside its tensors."""
    version: str = ""
    """Of the format, as the file says it, e.g. ``3``; empty where it says none."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the container says about itself, for people: ``{"byte order": "big"}``. Unlike
    ``metadata``, which is what its author put in, these are found by the reader."""

    @property
    def table(self) -> ParameterTable:
        """The model section's tensors."""
        return self.tables[self.model_section]

    @property
    def sections(self) -> tuple[Section, ...]:
        """Every section, in file order."""
        return tuple(Section(name, self.roles[name], len(table)) for name, table in self.tables.items())

    @property
    def bytes_read(self) -> int:
        """Bytes read so far from all files."""
        return sum(file.bytes_read for file in self.files)

    @property
    def nbytes(self) -> int:
        """Size of all files in bytes."""
        return sum(file.nbytes for file in self.files)

    def section(self, name: str | None) -> ParameterTable:
        """
        The tensors of one section.

        Args:
            name: A section's name; None is the model section; ``"all"`` is every
                section, names preceded by their section's.

        Raises:
            UsageError: There is no such section.
        """
        if name is None:
            return self.table
        if name in self.tables:
            return self.tables[name]
        if name == "all":
            return self._everything()
        known = ", ".join(repr(section) for section in [*self.tables, "all"])
        raise UsageError(f"{self.source} has no section {name!r}", details=(f"sections: {known}",))

    def _everything(self) -> ParameterTable:
        tensors: list[TensorInfo] = []
        modules: dict[str, str] = {}
        unregistered: list[TensorInfo] = []
        for name, table in self.tables.items():
            prefix = f"{name}." if name else ""
            tensors.extend(_in_section(t, prefix, name) for t in table)
            modules.update({(prefix + path).rstrip("."): cls for path, cls in table.modules.items()})
            unregistered.extend(t._replace(name=prefix + t.name) for t in table.unregistered)
        return replace(
            self.table,
            tensors=unique_names(tensors),
            section="all",
            modules=modules,
            unregistered=unregistered,
        )
