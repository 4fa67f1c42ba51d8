"""
Data to train on or to take gradients of: files of columns or tensors, and a user's own loader.

A file is read as checkpoints are: no pickle is executed. Only ``file.py:NAME`` runs
Python, the user's own.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

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
_KINDS = ".csv, .pt, .pth, .safetensors, .npz, or file.py:dataloader"


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
    if suffix == ".npz":
        tensors: Mapping[str, Tensor] = _arrays(text)
    elif suffix in (".pt", ".pth", ".bin", ".safetensors"):
        tensors = _tensors(text)
    else:
        raise UsageError(
            f"--data {visible(text)}: data of this kind can't be read", details=(f"known: {_KINDS}",)
        )
    batch = _by_keys(tensors, module, inputs, target, text)
    size = _common_length(batch, text)
    return Data(f"{visible(text)} ({size:,} samples)", whole=batch._replace(size=size))


# ---------------------------------------------------------------------- columns


def _columns(path: str, inputs: Sequence[str], target: Sequence[str]) -> Data:
    names, rows = _read_csv(path)
    targets = _chosen(names, target, path) if target else [] if inputs else names[-1:]
    features = _chosen(names, inputs, path) if inputs else [name for name in names if name not in targets]
    if not features:
        raise UsageError(
            f"{visible(path)} has no column left to go in", details=(f"columns: {', '.join(names)}",)
        )
    places = {name: place for place, name in enumerate(names)}
    x = _matrix(rows, [places[name] for name in features], names, path)
    y = None
    if targets:
        y = _matrix(rows, [places[name] for name in targets], names, path)
        is_of_integers = all(_is_integer(row[places[targets[0]]]) for row in rows)
        if len(targets) == 1 and is_of_integers and bool((y.abs() < EXACT).all()):
            y = y.squeeze(1).long()
    note = f"of {visible(os.path.basename(path))}: {_listed(features)} in"
    note += f", {_listed(targets)} as the target" if targets else ""
    batch = Batch((x,), {}, y, len(rows))
    return Data(f"{visible(path)} ({len(rows):,} rows)", whole=batch, notes=(note,))


def _read_csv(path: str) -> tuple[list[str], list[list[str]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedFileError(f"{visible(path)} is no CSV file: {error}") from error
    if not rows:
        raise DamagedFileError(f"{visible(path)} is empty")
    names = [name.strip() for name in rows[0]]
    if all(map(_is_number, names)):
        return [str(number) for number in range(len(names))], rows
    if len(rows) == 1:
        raise DamagedFileError(f"{visible(path)} has a header and no rows")
    return names, rows[1:]


def _matrix(rows: Sequence[Sequence[str]], places: Sequence[int], names: Sequence[str], path: str) -> Tensor:
    values = []
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise DamagedFileError(
                f"{visible(path)}, line {number}: {len(row)} cells, and the header has {len(names)}"
            )
        values.append([_number(row[place], names[place], number, path) for place in places])
    return torch.tensor(values, dtype=torch.float32)


def _number(cell: str, name: str, line: int, path: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise DamagedFileError(
            f"{visible(path)}, line {line}, column {visible(name)}: {visible(cell[:40])!r} is no number",
            hint="--x and --y choose the columns",
        ) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_integer(cell: str) -> bool:
    return cell.strip().removeprefix("-").isdigit()


def _chosen(names: Sequence[str], patterns: Sequence[str], path: str) -> list[str]:
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not found:
            raise UsageError(
                f"{visible(path)} has no column {visible(pattern)!r}",
                details=(f"columns: {visible(', '.join(names))}",),
                hint=did_you_mean(pattern, names),
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(visible, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


# ------------------------------------------------------------------------- keys


def _tensors(path: str) -> dict[str, Tensor]:
    """Every tensor of a file under its name: no pickle is executed."""
    table = open_checkpoint(path, path, None).section("all")
    with StorageReader() as reader:
        return {row.name: tensor_of(row, reader.read) for row in table}


def _arrays(path: str) -> dict[str, Tensor]:
    try:
        import numpy as np
    except ImportError as error:
        raise MissingDependencyError(f".npz needs numpy: {error}", hint="pip install numpy") from error
    try:
        # Opened here, as numpy leaves a file open that is no archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except Exception as error:  # of the zip archive, of what it is compressed by, of the arrays
        raise DamagedFileError(f"{visible(path)} can't be read as .npz: {visible(str(error))}") from error


def _by_keys(
    tensors: Mapping[str, Any], module: nn.Module, inputs: Sequence[str], target: Sequence[str], what: str
) -> Batch:
    """Keys to the arguments of forward, and to the target."""
    arguments = _argument_names(module)
    y = _target_of(tensors, arguments, target, what)
    left = {key: value for key, value in tensors.items() if key not in y}
    wanted = dict(_renamed(spec) for spec in inputs) or {key: key for key in left}
    for key in wanted.values():
        if key not in tensors:
            raise _no_key(key, tensors, what)
    goal: Any = next(iter(y.values()), None) if len(y) < 2 else y
    named = {name: tensors[key] for name, key in wanted.items() if name in arguments}
    if named and len(named) == len(wanted):
        return Batch((), named, goal)
    if named or (len(wanted) > len(arguments) and arguments):
        strange = [name for name in wanted if name not in arguments]
        raise UsageError(
            f"{visible(what)}: it is not clear where {_listed(strange)} goes",
            details=(f"forward() takes: {', '.join(arguments)}",),
            hint="--x ARGUMENT=KEY,… says which key goes where",
        )
    return Batch(tuple(tensors[key] for key in wanted.values()), {}, goal)


def _renamed(spec: str) -> tuple[str, str]:
    name, equals, key = spec.partition("=")
    return (name, key) if equals else (spec, spec)


def _target_of(
    tensors: Mapping[str, Any], arguments: Sequence[str], target: Sequence[str], what: str
) -> dict[str, Any]:
    for key in target:
        if key not in tensors:
            raise _no_key(key, tensors, what)
    if target:
        return {key: tensors[key] for key in target}
    found = [key for key in tensors if key.lower() in TARGET_NAMES and key not in arguments]
    # A tuple of two is input and target, as a TensorDataset has it.
    if not found and list(tensors) == ["0", "1"] and len(arguments) < 2:
        found = ["1"]
    return {key: tensors[key] for key in found[:1]}


def _no_key(key: str, tensors: Mapping[str, Any], what: str) -> UsageError:
    return UsageError(
        f"{visible(what)} holds no {visible(key)!r}",
        details=(f"it holds: {_listed(list(tensors))}",),
        hint=did_you_mean(key, tensors),
    )


def _argument_names(module: nn.Module) -> list[str]:
    try:
        parameters = signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


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
            source = found() if callable(found) else found
            for item in source:
                yield _batch_of(item, module, inputs, target, text)
        except (UsageError, DamagedFileError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise raised(f"--data {visible(text)} failed", error) from error

    return Data(visible(text), stream=epoch)


def _batch_of(item: Any, module: nn.Module, inputs: Sequence[str], target: Sequence[str], what: str) -> Batch:
    """What a loader yields: a tensor, (inputs…, target), or a dictionary."""
    if isinstance(item, Mapping):
        batch = _by_keys(dict(item), module, inputs, target, what)
    elif isinstance(item, (tuple, list)) and len(item) > 1:
        batch = Batch(tuple(item[:-1]), {}, item[-1])
    else:
        batch = Batch(tuple(item) if isinstance(item, (tuple, list)) else (item,))
    tensors = [value for value in (*batch.args, *batch.kwargs.values()) if isinstance(value, Tensor)]
    return batch._replace(size=len(tensors[0]) if tensors and tensors[0].ndim else None)
