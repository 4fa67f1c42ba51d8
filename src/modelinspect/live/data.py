"""
Data to train on or to take gradients of: files of columns or tensors, and a user's own loader.

A file is read as checkpoints are: no pickle is executed. Only ``file.py:NAME`` runs
Python, the user's own.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from inspect import Parameter, signature
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from modelinspect.errors import DamagedFileError, MissingDependencyError, TargetError, UsageError, visible
from modelinspect.live.inputs import Batch, made
from modelinspect.live.locate import user_object
from modelinspect.live.user_errors import raised
from modelinspect.live.weights import tensor_of
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.readers.registry import open_checkpoint
from modelinspect.targets import did_you_mean, no_such_file

__all__ = ["Data", "open_data"]

TARGET_NAMES = ("y", "target", "targets", "label", "labels")
"""Keys that are the target, unless the model takes an argument of that name."""
EXACT = 2**24
"""Integers below it are exact in float32."""
_KINDS = ".csv, .pt, .pth, .safetensors, .npz, .npy, or file.py:dataloader"


class Data:
    """
    Batches, whole or in parts.

    Args:
        described: For people: the file, and how much it holds.
        whole: Everything as one batch; None where batches come from a user's loader.
        stream: Gives the loader's batches of one epoch; None for a file.
    """

    def __init__(
        self,
        described: str,
        *,
        whole: Batch | None = None,
        stream: Callable[[], Iterable[Batch]] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.described = described
        self.notes = notes
        self._whole = whole
        self._stream = stream

    @property
    def size(self) -> int | None:
        """Samples in all; None where a user's loader makes batches of its own."""
        return None if self._whole is None else self._whole.size

    def whole(self) -> Batch:
        """Everything; of a loader its first batch."""
        if self._whole is not None:
            return self._whole
        return next(self.batches(None, None), Batch(()))

    def batches(self, size: int | None, generator: torch.Generator | None) -> Iterator[Batch]:
        """
        One epoch.

        Args:
            size: Samples a batch; None: all in one. A loader's batches stay what they are.
            generator: Shuffles; None keeps the order.
        """
        if self._stream is not None:
            yield from self._stream()
            return
        assert self._whole is not None
        count = self._whole.size or 0
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        for chosen in order.split(count if size is None else size):
            yield _picked(self._whole, chosen)


def _picked(batch: Batch, chosen: Tensor) -> Batch:
    args, kwargs, target = made((batch.args, batch.kwargs, batch.target), lambda t: t[chosen])
    return Batch(args, kwargs, target, len(chosen))


def open_data(
    text: str, module: nn.Module, *, inputs: Sequence[str] = (), target: Sequence[str] = ()
) -> Data:
    """
    Open what ``--data`` names.

    Args:
        text: A file, or ``file.py:NAME`` of a loader or a function that returns one.
        module: The names of its arguments tell which key goes where.
        inputs: Columns or keys that go in, globs for columns, ``ARGUMENT=KEY`` for keys.
        target: Columns or keys that are the target.

    Raises:
        TargetError: There is no such file.
        UsageError: It is of no known kind, or lacks a column or key.
        DamagedFileError: It can't be read.
    """
    suffix = os.path.splitext(text)[1].lower()
    if suffix == ".py" or (".py:" in text and not os.path.isfile(text)):
        return _loader(text, module, inputs, target)
    if not os.path.exists(text):
        raise no_such_file(text)
    if not os.path.isfile(text):
        raise TargetError(f"{visible(text)} is no file", details=(f"known: {_KINDS}",))
    if suffix == ".csv":
        return _columns(text, inputs, target)
    if suffix in (".npz", ".npy"):
        values: Mapping[str, Any] = _arrays(text)
    elif suffix in (".pt", ".pth", ".bin", ".safetensors"):
        values = _tensors(text)
    else:
        raise UsageError(
            f"--data {visible(text)}: data of this kind can't be read", details=(f"known: {_KINDS}",)
        )
    batch, notes = _by_keys(values, module, inputs, target, text)
    size = _common_length(batch, text)
    return Data(f"{visible(text)} ({size:,} samples)", whole=batch._replace(size=size), notes=notes)


# ---------------------------------------------------------------------- columns


def _columns(path: str, inputs: Sequence[str], target: Sequence[str]) -> Data:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _table(_Rows(file, path), inputs, target)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedFileError(f"{visible(path)} is no CSV file: {error}") from error
    except OSError as error:
        raise TargetError(f"{visible(path)} cannot be opened: {error.strerror}") from error


class _Rows:
    """
    Rows of a CSV file, read one at a time.

    Args:
        file: Open. Its first line says what separates the cells: a comma, where there is
            one, else a semicolon or a tab.
        path: For messages.
    """

    def __init__(self, file: TextIO, path: str) -> None:
        first_line = file.readline()
        file.seek(0)
        self.path = path
        self.separator = next((mark for mark in ",;\t" if mark in first_line), ",")
        self._reader = csv.reader(file, delimiter=self.separator)
        self._first = next(self._lines(), None)
        if self._first is None:
            raise DamagedFileError(f"{visible(path)} is empty")
        names = [name.strip() for name in self._first[1]]
        self.has_header = not all(map(_is_number, names))
        self.names = names if self.has_header else [str(number) for number in range(len(names))]
        """Of the columns; their numbers, where the first row is one of numbers."""

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Each row, and the line of the file that it begins on."""
        if self._first is not None and not self.has_header:
            yield self._first
        for line, row in self._lines():
            if len(row) != len(self.names):
                what = "the header has" if self.has_header else "the first row has"
                raise DamagedFileError(
                    f"{visible(self.path)}, line {line}: {len(row)} cells, and {what} {len(self.names)}"
                )
            yield line, row

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        line = self._reader.line_num + 1
        for row in self._reader:
            if row:
                yield line, row
            line = self._reader.line_num + 1

    def chosen(self, patterns: Sequence[str]) -> list[int]:
        """
        Places of the columns that names or globs choose, each once.

        Raises:
            UsageError: One of them chooses none.
        """
        places: dict[int, None] = {}
        for pattern in patterns:
            found = [place for place, name in enumerate(self.names) if name == pattern]
            found = found or [place for place, name in enumerate(self.names) if fnmatchcase(name, pattern)]
            if not found:
                raise UsageError(
                    f"{visible(self.path)} has no column {visible(pattern)!r}",
                    details=(f"columns: {visible(', '.join(self.names))}",),
                    hint=did_you_mean(pattern, self.names),
                )
            places.update(dict.fromkeys(found))
        return list(places)


class _Numbers:
    """
    Numbers of some columns, row after row, in the four bytes each that they take in the end.
    """

    def __init__(self, rows: _Rows, places: Sequence[int]) -> None:
        self._rows = rows
        self._places = places
        self._values = array("f")
        self.are_integers = True
        """Is every cell so far written as an integer?"""

    def add(self, line: int, row: Sequence[str]) -> None:
        """The cells of one row."""
        for place in self._places:
            cell = row[place]
            self._values.append(self._number(cell, line, place))
            self.are_integers = self.are_integers and _is_integer(cell)

    def matrix(self) -> Tensor:
        """Of the shape (rows, columns)."""
        return torch.frombuffer(self._values, dtype=torch.float32).reshape(-1, len(self._places))

    def _number(self, cell: str, line: int, place: int) -> float:
        try:
            return float(cell)
        except ValueError as error:
            where = f"{visible(self._rows.path)}, line {line}, column {visible(self._rows.names[place])}"
            raise DamagedFileError(
                f"{where}: {visible(cell[:40])!r} is no number" if cell.strip() else f"{where} is empty",
                hint="--x and --y choose the columns",
            ) from error


def _table(rows: _Rows, inputs: Sequence[str], target: Sequence[str]) -> Data:
    path = visible(rows.path)
    everything = range(len(rows.names))
    targets = rows.chosen(target) if target else [] if inputs else list(everything[-1:])
    # A glob takes the target in only where it is named itself.
    wanted = rows.chosen(inputs) if inputs else everything
    features = [place for place in wanted if place not in targets or rows.names[place] in inputs]
    if not features:
        raise UsageError(
            f"{path} has no column left to go in", details=(f"columns: {visible(', '.join(rows.names))}",)
        )
    x, y = _Numbers(rows, features), _Numbers(rows, targets)
    count = 0
    for line, row in rows:
        x.add(line, row)
        y.add(line, row)
        count += 1
    if not count:
        raise DamagedFileError(f"{path} has a header and no rows")
    batch = Batch((x.matrix(),), {}, _target_column(y) if targets else None, count)
    note = (
        f"of {visible(os.path.basename(rows.path))}: {_listed([rows.names[place] for place in features])} in"
    )
    note += f", {_listed([rows.names[place] for place in targets])} as the target" if targets else ""
    note += "" if rows.separator == "," else f" (separated by {rows.separator!r})"
    return Data(f"{path} ({count:,} rows)", whole=batch, notes=(note,))


def _target_column(numbers: _Numbers) -> Tensor:
    """Several columns and floats as they are, one column of integers as a vector of classes."""
    y = numbers.matrix()
    is_of_classes = y.shape[1] == 1 and numbers.are_integers and bool((y.abs() < EXACT).all())
    return y.squeeze(1).long() if is_of_classes else y


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_integer(cell: str) -> bool:
    return cell.strip().removeprefix("-").isdigit()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(visible, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


# ------------------------------------------------------------------------- keys


def _tensors(path: str) -> dict[str, Tensor]:
    """Every tensor of a file under its name: no pickle is executed."""
    table = open_checkpoint(path, path, None).section("all")
    with StorageReader() as reader:
        return {row.name: tensor_of(row, reader.read) for row in table}


def _arrays(path: str) -> dict[str, Any]:
    """The arrays of a file, of those that hold numbers tensors; a lone array has the name 0."""
    try:
        import numpy as np
    except ImportError as error:
        raise MissingDependencyError(
            f"{visible(path)} needs numpy: {error}", hint="pip install numpy"
        ) from error
    try:
        # Opened here, as numpy leaves a file open that is no archive.
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            arrays = {"0": found} if isinstance(found, np.ndarray) else dict(found)
            return {name: _of_numbers(value) for name, value in arrays.items()}
    except Exception as error:  # of the zip archive, of what it is compressed by, of the arrays
        kind = os.path.splitext(path)[1]
        raise DamagedFileError(f"{visible(path)} can't be read as {kind}: {visible(str(error))}") from error


def _of_numbers(values: Any) -> Any:
    if values.dtype.kind not in "biufc":  # texts, dates, records
        return values
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))


class _Keyed(NamedTuple):
    """A batch made of named values, and what to say of it."""

    batch: Batch
    notes: tuple[str, ...]


def _by_keys(
    values: Mapping[str, Any], module: nn.Module, inputs: Sequence[str], target: Sequence[str], what: str
) -> _Keyed:
    """Keys to the arguments of forward, and to the target."""
    takes = _Takes(module)
    y = _target_of(values, takes, target, what)
    wanted = dict(_renamed(spec) for spec in inputs)
    for key in wanted.values():
        if key not in values:
            raise _no_key(key, values, what)
    left_out: list[str] = []
    if not wanted:
        rest = [key for key in values if key not in y]
        left_out = [key for key in rest if key not in takes.names and not _has_samples(values[key])]
        wanted = {key: key for key in rest if key not in left_out}
    goal: Any = next(iter(y.values()), None) if len(y) < 2 else y
    named = {name: values[key] for name, key in wanted.items() if name in takes.names or takes.only_names}
    if named and len(named) == len(wanted):
        batch, goes = Batch((), named, goal), wanted
    elif named or not takes.so_many(len(wanted)):
        strange = [name for name in wanted if name not in takes.names]
        raise UsageError(
            f"{visible(what)}: it is not clear where {_listed(strange)} goes",
            details=(f"forward() takes: {', '.join(takes.names)}",),
            hint="--x ARGUMENT=KEY,… says which key goes where",
        )
    else:
        batch = Batch(tuple(values[key] for key in wanted.values()), {}, goal)
        goes = dict(zip((*takes.names, *wanted), wanted.values())) if len(wanted) > 1 else wanted
    return _Keyed(batch, _key_notes(goes, list(y), left_out, what))


def _has_samples(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _key_notes(
    goes: Mapping[str, str], targets: Sequence[str], left_out: Sequence[str], what: str
) -> tuple[str, ...]:
    file = visible(os.path.basename(what))
    shown = [key if key == name else f"{key} as {name}" for name, key in goes.items()]
    note = f"of {file}: {_listed(shown)} in"
    note += f", {_listed(targets)} as the target" if targets else ""
    said = (note,) if goes else ()
    return (*said, f"of {file}: {_listed(left_out)} left out, no tensor with samples") if left_out else said


def _renamed(spec: str) -> tuple[str, str]:
    name, equals, key = spec.partition("=")
    return (name, key) if equals else (spec, spec)


def _target_of(values: Mapping[str, Any], takes: _Takes, target: Sequence[str], what: str) -> dict[str, Any]:
    for key in target:
        if key not in values:
            raise _no_key(key, values, what)
    if target:
        return {key: values[key] for key in target}
    found = [key for key in values if key.lower() in TARGET_NAMES and key not in takes.names]
    places = [str(place) for place in range(len(values))]
    if not found and list(values) == places and takes.last_is_target(len(values)):
        found = places[-1:]
    return {key: values[key] for key in found[:1]}


def _no_key(key: str, values: Mapping[str, Any], what: str) -> UsageError:
    return UsageError(
        f"{visible(what)} holds no {visible(key)!r}",
        details=(f"it holds: {_listed(list(values))}",),
        hint=did_you_mean(key, values),
    )


class _Takes:
    """What a model's forward takes."""

    def __init__(self, module: nn.Module) -> None:
        try:
            parameters = list(signature(module.forward).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        """Arguments that can be given by name."""
        kinds = {p.kind for p in parameters}
        self.only_names = kinds == {Parameter.VAR_KEYWORD}
        """Is it ``forward(**arguments)``?"""
        self._required = sum(p.default is p.empty for p in positional)
        self._most = None if Parameter.VAR_POSITIONAL in kinds or not parameters else len(positional)

    def so_many(self, count: int) -> bool:
        """Can it be called with so many positional arguments?"""
        return self._most is None or count <= self._most

    def last_is_target(self, count: int) -> bool:
        """Of so many values in a row, is the last one no argument that the model needs?"""
        return count > max(1, self._required)


def _common_length(batch: Batch, what: str) -> int:
    named = {str(place): value for place, value in enumerate(batch.args)} | batch.kwargs
    if isinstance(batch.target, Mapping):
        named |= batch.target
    elif batch.target is not None:
        named["target"] = batch.target
    lengths = {name: len(value) for name, value in named.items() if isinstance(value, Tensor) and value.ndim}
    if len(set(lengths.values())) != 1:
        said = ", ".join(f"{visible(name)} has {length:,}" for name, length in lengths.items())
        raise UsageError(
            f"{visible(what)}: its tensors have different numbers of samples",
            details=(said or "none of them has a first axis",),
            hint="--x and --y choose some of them",
        )
    return next(iter(lengths.values()))


# ------------------------------------------------------------------- a user's loader


def _loader(text: str, module: nn.Module, inputs: Sequence[str], target: Sequence[str]) -> Data:
    found: Any = user_object(text, "--data")

    def epoch() -> Iterator[Batch]:
        try:
            for item in _checked_source(found() if callable(found) else found, text):
                yield _batch_of(item, module, inputs, target, text)
        except (UsageError, DamagedFileError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise raised(f"--data {visible(text)} failed", error) from error

    return Data(visible(text), stream=epoch)


def _checked_source(source: Any, text: str) -> Iterable[Any]:
    """What gives batches; a dataset would give single samples, without the axis of a batch."""
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        raise UsageError(
            f"--data {visible(text)} is a {type(source).__name__}, which gives samples and not batches",
            hint="name a loader of it: torch.utils.data.DataLoader(dataset, batch_size=32)",
        )
    if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
        raise UsageError(
            f"--data {visible(text)} is of type {visible(type(source).__name__)}",
            details=("expected a DataLoader, an iterable of batches, or a function that returns one",),
        )
    return source  # type: ignore[no-any-return]


def _batch_of(item: Any, module: nn.Module, inputs: Sequence[str], target: Sequence[str], what: str) -> Batch:
    """What a loader yields: a tensor, (inputs…, target), or a dictionary."""
    if isinstance(item, Mapping):
        batch = _by_keys(dict(item), module, inputs, target, what).batch
    elif not isinstance(item, (tuple, list)):
        batch = Batch((item,))
    elif _Takes(module).last_is_target(len(item)):
        batch = Batch(tuple(item[:-1]), {}, item[-1])
    else:
        batch = Batch(tuple(item))
    tensors = [value for value in (*batch.args, *batch.kwargs.values()) if isinstance(value, Tensor)]
    return batch._replace(size=len(tensors[0]) if tensors and tensors[0].ndim else None)
