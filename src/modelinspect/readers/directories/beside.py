"""
What lies beside the weights of a folder: configurations, an optimizer, a training's state.

Files as transformers' Trainer (5.23, ``trainer.py``), accelerate's ``save_state`` (1.15,
``utils/constants.py``) and PEFT write them. None of them is needed to read the weights, so
one that can't be read is a note and no error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelinspect.errors import ModelInspectError, visible
from modelinspect.readers.parts.inside import inside
from modelinspect.readers.registry import open_file
from modelinspect.readers.source import open_local
from modelinspect.tensors import Checkpoint, Kind, ParameterTable, Role

__all__ = ["is_beside", "load_json", "with_configurations", "with_training"]

MAX_JSON_BYTES = 4_000_000
"""A million empty lists of them take 60 MB."""
MAX_ENTRIES = 200
"""Of one file that are kept."""
MAX_TEXT = 200
MAX_LIST = 16
"""Entries of a list that is kept as a text."""
MAX_FILES = 64
"""States of ranks that are opened; there may be one for each of thousands of processes."""

# Name of a file to what stands before its entries.
_CONFIGURATIONS = {
    "config.json": "config",
    "adapter_config.json": "adapter",
    "trainer_state.json": "trainer",
    "model_index.json": "pipeline",
}
_TRAINING: tuple[tuple[re.Pattern[str], Role], ...] = (
    (re.compile(r"optimizer(_\d+)?\.(pt|bin)"), "optimizer"),
    (re.compile(r"scheduler(_\d+)?\.(pt|bin)"), "other"),
    (re.compile(r"(grad)?scaler\.pt"), "other"),
    (re.compile(r"rng_state(_\d+)?\.pth"), "other"),
    (re.compile(r"random_states_\d+\.pkl"), "other"),
    (re.compile(r"(dl_state_dict|sampler)(_\d+)?\.bin"), "other"),
    (re.compile(r"custom_checkpoint_\d+\.pkl"), "other"),
    (re.compile(r"training_args\.bin"), "other"),
)
# What a training's state says of itself that people ask for.
_FACTS = {"trainer.global_step": "global step", "trainer.epoch": "epoch"}


def is_beside(name: str) -> bool:
    """Is it a file of a training's state, and not one of weights?"""
    return any(pattern.fullmatch(name) for pattern, _ in _TRAINING)


def with_configurations(found: Checkpoint, folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    """
    The checkpoint with what the configurations beside it say, as metadata.

    Args:
        found: The weights.
        folder: They lie in.
        entries: Names in it.
        target: The folder as the user spelt it.
    """
    metadata: dict[str, str] = {}
    notes: list[str] = []
    for name, prefix in _CONFIGURATIONS.items():
        if name not in entries:
            continue
        document = load_json(folder, name, target)
        if isinstance(document, dict):
            metadata.update(_flattened(document, prefix))
        elif isinstance(document, str):
            notes.append(document)
    facts = {title: visible(metadata[key]) for key, title in _FACTS.items() if key in metadata}
    return replace(
        found,
        metadata={**metadata, **found.metadata},
        facts={**found.facts, **facts},
        notes=(*found.notes, *notes),
    )


def load_json(folder: str, name: str, target: str) -> Any:
    """What a JSON file of the folder holds; a text that says why where it can't be read."""
    try:
        path = inside(folder, name, target)
        with open_local(path) as source:
            if source.size > MAX_JSON_BYTES:
                return f"{name} is not read: it has {source.size:,} bytes, of {MAX_JSON_BYTES:,} allowed"
            return json.loads(source.read(0, source.size, name))
    except (ValueError, RecursionError):
        return f"{name} is not read: it is not JSON"
    except ModelInspectError as error:
        return f"{name} is not read: {error.message}"


def _flattened(document: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Short scalars and lists of them, by dotted path; no deeper than a dictionary in a dictionary."""
    found: dict[str, str] = {}
    for key, value in _entries(document):
        text = _text(value)
        if text is not None:
            found[f"{prefix}.{key}"] = text
            if len(found) == MAX_ENTRIES:
                break
    return found


def _entries(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if len(key) > MAX_TEXT:
            continue
        if isinstance(value, dict):
            for inner, deeper in list(value.items())[:MAX_ENTRIES]:
                if len(inner) <= MAX_TEXT:
                    yield f"{key}.{inner}", deeper
        else:
            yield key, value


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        texts = [_text(part) for part in value[: MAX_LIST + 1] if not isinstance(part, (list, dict))]
        if not texts or len(texts) != len(value) or len(texts) > MAX_LIST or None in texts:
            return None
        value = ", ".join(text for text in texts if text is not None)
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else None
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > MAX_TEXT:
        return None
    return str(value) if isinstance(value, (int, float, bool)) else None


def with_training(found: Checkpoint, folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    """
    The checkpoint with the sections of a training's state that lies beside the weights.

    Arguments as :func:`with_configurations`.
    """
    names = [name for name in entries if is_beside(name)]
    for name in names[:MAX_FILES]:
        found = _with_file(found, folder, name, target)
    if len(names) > MAX_FILES:
        found = replace(
            found, notes=(*found.notes, f"{len(names) - MAX_FILES:,} more files of the training's state")
        )
    return found


def _with_file(found: Checkpoint, folder: str, name: str, target: str) -> Checkpoint:
    try:
        opened = open_file(inside(folder, name, target), f"{target} ({name})")
    except ModelInspectError as error:
        return replace(found, notes=(*found.notes, f"{visible(name)} is not read: {error.message}"))
    return _joined(found, opened, name)


def _joined(found: Checkpoint, other: Checkpoint, name: str) -> Checkpoint:
    """One file's sections beside those that there are."""
    role = next(role for pattern, role in _TRAINING if pattern.fullmatch(name))
    stem = name.rpartition(".")[0]
    tables: dict[str, ParameterTable] = dict(found.tables)
    roles: dict[str, Role] = dict(found.roles)
    optimizers = dict(found.optimizers)
    for section, table in other.tables.items():
        title = _free(f"{stem}.{section}" if section else stem, tables)
        if len(table):
            tables[title], roles[title] = _as_of(table, title, role), role
        if section in other.optimizers and role == "optimizer":
            optimizers[title] = other.optimizers[section]
    notes = [f"{name}: {note}" for note in other.notes if note.startswith("loading it")]
    return replace(
        found,
        tables=tables,
        roles=roles,
        optimizers=optimizers,
        files=(*found.files, *other.files),
        globals=(*found.globals, *other.globals),
        metadata={**{f"{stem}.{key}": value for key, value in other.metadata.items()}, **found.metadata},
        notes=(*found.notes, *notes),
    )


def _free(name: str, tables: Mapping[str, ParameterTable]) -> str:
    while name in tables:
        name += " (2)"
    return name


def _as_of(table: ParameterTable, section: str, role: Role) -> ParameterTable:
    kind: Kind = "optimizer" if role == "optimizer" else "other"
    tensors = [row if row.kind == kind else row._replace(kind=kind, declared=False) for row in table]
    return replace(table, tensors=tensors, section=section)
