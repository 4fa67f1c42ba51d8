"""
The files of a folder that a framework wrote, each opened as a checkpoint of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelinspect.errors import LimitError, TargetError, visible
from modelinspect.readers.parts.inside import inside
from modelinspect.readers.parts.natural_order import naturally_sorted
from modelinspect.readers.parts.pickle_symbols import Pickle
from modelinspect.readers.parts.torch_checkpoint import PICKLE
from modelinspect.readers.registry import open_source
from modelinspect.readers.source import ByteSource, open_local
from modelinspect.tensors import (
    Checkpoint,
    FileInfo,
    OptimizerState,
    ParameterTable,
    Role,
    TensorInfo,
    unique_names,
)

__all__ = ["MAX_FILES", "Gathered", "Opened", "entries_of", "opened", "short_text"]

MAX_FILES = 10_000
MAX_SHORT = 4_096
"""Bytes of a file that holds a name or a number."""

Ask = Callable[[Pickle, str], Any]


class Opened(NamedTuple):
    """One file of the folder."""

    name: str
    checkpoint: Checkpoint
    said: Any
    """What was asked of its pickle; None where it has none."""
    sums: Mapping[str, int]
    """Key of a storage to the checksum of its bytes, where those were asked for."""


def opened(
    folder: str,
    name: str,
    target: str,
    ask: Ask | None = None,
    sums: Callable[[ByteSource], Mapping[str, int]] | None = None,
) -> Opened:
    """
    Open a file by its name in the folder.

    Args:
        folder: Of the checkpoint.
        name: Of the file.
        target: The folder as the user spelt it.
        ask: Given the pickle of a file that torch wrote, while it is there.
        sums: Reads checksums.

    Raises:
        RefusedError: The name, or what it links to, lies outside.
        CheckpointError: The file can't be read.
    """
    path = inside(folder, name, target)
    shown = f"{target} ({name})"
    with open_local(path) as source:
        checkpoint = open_source(source, shown)
        pickle = source.kept.get(PICKLE)
        said = ask(pickle, shown) if ask is not None and type(pickle) is Pickle else None
        found = sums(source) if sums is not None else {}
    return Opened(name, checkpoint, said, found)


def entries_of(folder: str, name: str, target: str) -> list[str]:
    """Names in a folder inside the folder, in natural order; none where there is no such folder."""
    if not os.path.isdir(os.path.join(folder, name)):
        return []
    try:
        return naturally_sorted(os.listdir(inside(folder, name, target)))
    except OSError as error:
        raise TargetError(f"{visible(target)} cannot be listed: {error.strerror}") from error


def short_text(folder: str, name: str, target: str) -> str | None:
    """What a short text file holds, without blanks around it; None where it is missing, long or no text."""
    path = inside(folder, name, target)
    if not os.path.isfile(path):
        return None
    with open_local(path) as source:
        if source.size > MAX_SHORT:
            return None
        try:
            return source.read(0, source.size).decode("utf-8").strip()
        except UnicodeDecodeError:
            return None


@dataclass
class Gathered:
    """Sections from several files, until they are one checkpoint."""

    target: str
    rows: dict[str, list[TensorInfo]] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    optimizers: dict[str, OptimizerState] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, section: str, role: Role, rows: Iterable[TensorInfo]) -> None:
        """Put rows into a section, which begins to be where there is any."""
        rows = list(rows)
        if rows or section in self.rows:
            self.rows.setdefault(section, []).extend(rows)
            self.roles.setdefault(section, role)

    def checkpoint(self, form: str, model_section: str, files: Sequence[Opened]) -> Checkpoint:
        """All of it as one."""
        tables = {
            name: ParameterTable(
                source=self.target,
                tensors=unique_names(rows),
                origin="file",
                section=name,
                modules=self.modules.get(name, {}),
            )
            for name, rows in self.rows.items()
        }
        infos: dict[str, FileInfo] = {}
        for each in files:
            infos.update((info.path, info) for info in each.checkpoint.files)
        return Checkpoint(
            source=self.target,
            format=form,
            files=tuple(infos.values()),
            tables=tables,
            roles=self.roles,
            model_section=model_section,
            metadata=self.metadata,
            globals=tuple(name for each in files for name in each.checkpoint.globals),
            notes=tuple(dict.fromkeys(self.notes)),
            optimizers=self.optimizers,
            facts=self.facts,
        )


def check_number(names: Sequence[str], target: str) -> None:
    """Keep the number of files within bounds. Raises LimitError."""
    if len(names) > MAX_FILES:
        raise LimitError(f"{visible(target)} holds more than the {MAX_FILES:,} files that are read")
