"""
Count what a table holds, so that the figures reconcile with the bytes.

Every tensor counts under one of its names, the first; every storage counts for
the first tensor that looks into it. So the groups of any ``--by`` add up to the
totals, and the bytes of the data types to the bytes of the section.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from modelinspect.analysis.reach import reached
from modelinspect.analysis.remarks import quantization_remarks, unregistered_remarks
from modelinspect.display import Displayed
from modelinspect.dtypes import DType
from modelinspect.errors import UnknownAnswerError, UsageError, visible
from modelinspect.tensors import ParameterTable, Storage, TensorInfo

if TYPE_CHECKING:
    from modelinspect.analysis.quantization import QuantizationTotal

__all__ = [
    "CountReport",
    "DTypeTotal",
    "GroupTotal",
    "Grouping",
    "Quantity",
    "TieGroup",
    "count_table",
    "sort_groups",
]

Grouping = Literal["dtype", "kind", "module", "prefix", "section", "shard"]
Quantity = Literal["unique", "named", "stored", "trainable", "frozen", "buffers", "bytes"]


class TieGroup(NamedTuple):
    """Names of one and the same parameter."""

    names: tuple[str, ...]
    numel: int


class DTypeTotal(NamedTuple):
    """Everything of one data type; bytes are those of the storages, each once."""

    dtype: str
    tensors: int
    numel: int
    nbytes: int


class GroupTotal(NamedTuple):
    """One line of ``--by``: the totals of the tensors that share a label."""

    label: str
    tensors: int
    unique: int
    """Unique parameters; a tensor counts where its first name stands."""
    named: int
    trainable: int | None
    buffers: int
    nbytes: int
    stored: int = 0
    frozen: int | None = None


@dataclass(frozen=True)
class CountReport(Displayed):
    """
    How much there is of what in one section of one target. All figures are
    elements unless they are called tensors or bytes.
    """

    target: str
    section: str
    unique: int
    """The headline: parameters, each once; packed values as what they stand for."""
    named: int
    """Parameters under every name, so tied ones more than once."""
    stored: int
    """Elements that the parameters' storages hold, each storage once and whole: less
    than unique where values are packed or expanded, more where a view drags a
    larger storage along."""
    trainable: int | None
    """None: unknown, as in a bare state_dict."""
    frozen: int | None
    buffers: int
    persistent_buffers: int
    """Elements of the buffers that are part of the state_dict."""
    non_persistent_buffers: int | None
    """None where a file can't tell, because it holds a state_dict only."""
    nbytes: int
    """Bytes of all storages of the section, each once: parameters, buffers and others."""
    tensors: int
    """Names in the section."""
    parameter_tensors: int
    """Distinct parameters."""
    buffer_tensors: int
    dtypes: tuple[DTypeTotal, ...]
    ties: tuple[TieGroup, ...]
    by: Grouping | None = None
    groups: tuple[GroupTotal, ...] = ()
    notes: tuple[str, ...] = ()
    quantized: tuple[QuantizationTotal, ...] = ()
    """Weights in quantized layouts by scheme; their values are in ``unique``, their scales
    are not."""

    def quantity(self, what: Quantity) -> int:
        """
        One figure by its name on the command line.

        Raises:
            UnknownAnswerError: The target does not say which parameters are trainable.
            UsageError: There is no such figure.
        """
        if what not in get_args(Quantity):
            raise UsageError(
                f"no figure is called {what!r}", details=(f"figures: {', '.join(get_args(Quantity))}",)
            )
        value: int | None = self.nbytes if what == "bytes" else getattr(self, what)
        if value is None:
            raise UnknownAnswerError(
                f"{visible(self.target)} does not say which parameters are {what}",
                details=(
                    "state_dict() detaches its tensors, so a bare state_dict never holds requires_grad",
                ),
                hint="ask the definition instead, e.g. modelinspect count net.py:Net --what " + what,
            )
        return value


class _Tally:
    """Running totals of some tensors; one for the whole and one a group."""

    def __init__(self) -> None:
        self.tensors = self.parameter_tensors = self.buffer_tensors = 0
        self.unique = self.named = self.stored = self.nbytes = 0
        self.trainable = self.frozen = self.unknown = 0
        self.persistent = self.non_persistent = 0

    def add(self, tensor: TensorInfo, is_repeat: bool) -> None:
        """Add one name; a repeat is a further name of a tensor that was added."""
        self.tensors += 1
        numel = tensor.logical_numel
        if tensor.kind == "parameter":
            self.named += numel
        if is_repeat:
            return
        if tensor.kind == "parameter":
            self._add_parameter(numel, tensor.requires_grad)
        elif tensor.kind == "buffer":
            self.buffer_tensors += 1
            if tensor.persistent is False:
                self.non_persistent += numel
            else:
                self.persistent += numel

    def _add_parameter(self, numel: int, requires_grad: bool | None) -> None:
        self.parameter_tensors += 1
        self.unique += numel
        if requires_grad is None:
            self.unknown += 1
        elif requires_grad:
            self.trainable += numel
        else:
            self.frozen += numel

    def add_storages(self, tensor: TensorInfo, seen: dict[Storage, None]) -> list[tuple[DType, int]]:
        """Add the storages that no tensor before it looked into; returns their types and bytes."""
        new = []
        for storage, dtype in tensor.storages():
            if storage in seen:
                continue
            seen[storage] = None
            new.append((dtype, storage.nbytes))
            self.nbytes += storage.nbytes
            if tensor.kind == "parameter":
                self.stored += dtype.numel(storage.nbytes)
        return new

    @property
    def buffers(self) -> int:
        return self.persistent + self.non_persistent

    def group(self, label: str) -> GroupTotal:
        trainable = None if self.unknown else self.trainable
        frozen = None if self.unknown else self.frozen
        return GroupTotal(
            label, self.tensors, self.unique, self.named, trainable, self.buffers, self.nbytes,
            self.stored, frozen,
        )  # fmt: skip


def count_table(
    table: ParameterTable,
    *,
    by: Grouping | None = None,
    depth: int | None = None,
    group_over: ParameterTable | None = None,
) -> CountReport:
    """
    Count one table.

    Args:
        table: Any table, from a file, a definition or memory.
        by: Also total by this property.
        depth: Dotted parts kept by ``prefix`` (default 1) and ``module`` (default
            all); 0 gives one row, the whole.
        group_over: The table to group when it is not *table*: all sections, for
            ``by="section"``.

    Raises:
        UsageError: *depth* is negative, or *by* makes no sense for this table.
    """
    total, dtypes = _Tally(), _DTypeTally()
    tied_to = table.tied_to
    storages: dict[Storage, None] = {}
    for tensor in table:
        is_repeat = tensor.name in tied_to
        total.add(tensor, is_repeat)
        if not is_repeat:
            dtypes.add(tensor, storages, total)
    quantized = _quantized(table)
    return CountReport(
        target=table.source,
        section=table.section,
        unique=total.unique,
        named=total.named,
        stored=total.stored,
        trainable=None if total.unknown else total.trainable,
        frozen=None if total.unknown else total.frozen,
        buffers=total.buffers,
        persistent_buffers=total.persistent,
        non_persistent_buffers=total.non_persistent if _tells_non_persistent(table) else None,
        nbytes=total.nbytes,
        tensors=total.tensors,
        parameter_tensors=total.parameter_tensors,
        buffer_tensors=total.buffer_tensors,
        dtypes=dtypes.totals(),
        ties=_ties(table),
        by=by,
        groups=() if by is None else _groups(group_over or table, by, depth),
        notes=(*table.notes, *_remarks(table, storages, quantized)),
        quantized=quantized,
    )


class _DTypeTally:
    """Tensors, elements and bytes by data type; remembers which storages were counted."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}

    def _row(self, name: str) -> list[int]:
        return self._rows.setdefault(name, [0, 0, 0])

    def add(self, tensor: TensorInfo, storages: dict[Storage, None], total: _Tally) -> None:
        row = self._row(tensor.dtype.name)
        row[0] += 1
        # Of packed words, as they are: what they stand for is not of this type.
        row[1] += tensor.logical_numel if tensor.quantized is None else tensor.numel
        for dtype, nbytes in total.add_storages(tensor, storages):
            self._row(dtype.name)[2] += nbytes

    def totals(self) -> tuple[DTypeTotal, ...]:
        rows = sorted(self._rows.items(), key=lambda item: -item[1][2])
        return tuple(DTypeTotal(name, *figures) for name, figures in rows)


def _tells_non_persistent(table: ParameterTable) -> bool:
    return table.origin != "file" or bool(table.modules)


def _ties(table: ParameterTable) -> tuple[TieGroup, ...]:
    groups: dict[str, list[str]] = {}
    for name, first in table.tied_to.items():
        groups.setdefault(first, [first]).append(name)
    return tuple(
        TieGroup(tuple(names), table[first].logical_numel)
        for first, names in groups.items()
        if table[first].kind == "parameter"
    )


def _groups(table: ParameterTable, by: Grouping, depth: int | None) -> tuple[GroupTotal, ...]:
    label = _labeller(table, by, depth)
    tied_to = table.tied_to
    tallies: dict[str, _Tally] = {}
    seen: dict[Storage, None] = {}
    for tensor in table:
        tally = tallies.setdefault(label(tensor), _Tally())
        tally.add(tensor, tensor.name in tied_to)
        if tensor.name not in tied_to:
            tally.add_storages(tensor, seen)
    return tuple(tally.group(name) for name, tally in tallies.items())


def sort_groups(groups: tuple[GroupTotal, ...], key: str | None, reverse: bool) -> tuple[GroupTotal, ...]:
    """
    Groups in the order of one of their figures, or in their own; unknown figures first.

    Raises:
        UsageError: Groups have no such figure.
    """
    if key is None:
        return groups[::-1] if reverse else groups
    field = "nbytes" if key == "bytes" else key
    if field not in GroupTotal.__annotations__:
        known = [name if name != "nbytes" else "bytes" for name in GroupTotal.__annotations__]
        raise UsageError(f"groups can't be sorted by {key!r}", details=(f"choices: {', '.join(known)}",))
    if field == "label":
        return tuple(sorted(groups, key=lambda group: group.label, reverse=reverse))

    def figure(group: GroupTotal) -> int:
        value = getattr(group, field)
        return -1 if value is None else value

    return tuple(sorted(groups, key=figure, reverse=reverse))


def _labeller(table: ParameterTable, by: Grouping, depth: int | None) -> Callable[[TensorInfo], str]:
    if depth is not None and depth < 0:
        raise UsageError(f"--depth is {depth}, and can't be negative")
    if depth is not None and by not in ("prefix", "module"):
        raise UsageError(
            f"--depth means nothing for --by {by}", hint="it goes with --by prefix and --by module"
        )
    if by == "dtype":
        return lambda tensor: tensor.dtype.name
    if by == "kind":
        return lambda tensor: tensor.kind
    if by == "section":
        return lambda tensor: tensor.section
    if by == "prefix":
        return lambda tensor: _first_parts(tensor.name, 1 if depth is None else depth)
    if by == "module":
        return lambda tensor: _first_parts(tensor.name.rpartition(".")[0], depth)
    if by == "shard":
        if table.origin != "file":
            raise UsageError(f"{visible(table.source)} is not a file, so it has no shards")
        return _file_of
    raise UsageError(f"can't group by {by!r}", details=(f"choices: {', '.join(get_args(Grouping))}",))


def _first_parts(name: str, depth: int | None) -> str:
    return name if depth is None else ".".join(name.split(".")[:depth])


def _file_of(tensor: TensorInfo) -> str:
    for storage, _ in tensor.storages():
        return os.path.basename(storage.file)
    return ""


def _quantized(table: ParameterTable) -> tuple[QuantizationTotal, ...]:
    # Few tables hold quantized weights, and a listing starts in a few milliseconds.
    if all(tensor.quantized is None for tensor in table):
        return ()
    from modelinspect.analysis.quantization import quantization

    return quantization(table)


def _remarks(
    table: ParameterTable, storages: Iterable[Storage], quantized: Sequence[QuantizationTotal]
) -> tuple[str, ...]:
    """What a reader of the figures should know."""
    remarks = []
    serving = {name for t in table if t.quantized is not None for name in t.quantized.beside}
    inferred = [t for t in table if t.kind == "buffer" and not t.declared and t.name not in serving]
    if inferred:
        remarks.append(_inferred_buffers(inferred))
    slack = _slack(table, storages)
    if slack:
        remarks.append(slack)
    remarks.extend(unregistered_remarks(table))
    remarks.extend(quantization_remarks(table, quantized))
    remarks.extend(_neither(table))
    return tuple(remarks)


def _neither(table: ParameterTable) -> list[str]:
    """Tensors that are no parameters and no buffers: an optimizer's, or of something else."""
    kinds: Counter[str] = Counter(tensor.kind for tensor in table)
    sentences = {"optimizer": "hold optimizer state", "other": "are neither parameters nor buffers"}
    one = {"optimizer": "holds optimizer state", "other": "is neither parameter nor buffer"}
    return [
        f"{kinds[kind]:,} tensors {what}, and are not counted"
        if kinds[kind] > 1
        else f"1 tensor {one[kind]}, and is not counted"
        for kind, what in sentences.items()
        if kinds[kind]
    ]


def _inferred_buffers(inferred: list[TensorInfo]) -> str:
    # Of names in ONNX the parts are divided by slashes.
    leaves = Counter(tensor.name.rpartition(".")[2].rpartition("/")[2] for tensor in inferred)
    listed = ", ".join(
        f"{visible(leaf)} ×{n}" if n > 1 else visible(leaf) for leaf, n in leaves.most_common(6)
    )
    more = ", …" if len(leaves) > 6 else ""
    plural = "s" if len(inferred) > 1 else ""
    taken = f"{len(inferred):,} tensor{plural} taken for buffers by name or data type"
    return f"{taken}, and not counted: {listed}{more}"


def _slack(table: ParameterTable, storages: Iterable[Storage]) -> str | None:
    """Views of larger storages: the bytes that no tensor of the table uses."""
    held = sum(storage.nbytes for storage in storages)
    used = 0
    for spans in reached(table).values():
        end = 0
        for first, last in sorted(spans):
            used += max(0, last - max(first, end))
            end = max(end, last)
    unused = held - used
    if unused <= 0:
        return None
    return f"{unused:,} of {held:,} bytes belong to storages larger than the tensors that look into them"
