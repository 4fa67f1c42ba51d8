"""
Folders of several models: diffusers' pipelines, and the modules of sentence-transformers.

``model_index.json`` names the components of a pipeline, each in a folder of its own (diffusers
0.36, ``pipelines/pipeline_utils.py``); ``modules.json`` names modules and their folders, the
first of which is mostly the folder itself (sentence-transformers 5.2, ``SentenceTransformer.py``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.directories.beside import load_json, with_configurations
from modelinspect.readers.directories.named_files import entries_of
from modelinspect.readers.directories.sharded import has_weights, read_entries
from modelinspect.readers.parts.inside import inside
from modelinspect.tensors import Checkpoint, ParameterTable, Role

__all__ = ["is_one", "read"]

_PIPELINE, _MODULES = "model_index.json", "modules.json"
_MODEL_CONFIGURATION = "config.json"
_PREFERRED = ("transformer", "unet", "prior")
"""Components that a pipeline is known by."""
MAX_COMPONENTS = 64


def is_one(folder: str, entries: Sequence[str]) -> bool:
    """Is the folder a checkpoint of that kind? Only names are looked at."""
    if _PIPELINE in entries:
        return True
    return _MODULES in entries and any(
        entry[:1].isdigit() and has_weights(entries_of(folder, entry, folder)) for entry in entries
    )


def read(folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    """
    Read every component's weights, each as a section.

    Raises:
        DamagedFileError: The list of components makes no sense, or none has weights.
        RefusedError: A link leads out of the folder.
    """
    is_pipeline = _PIPELINE in entries
    listed = _PIPELINE if is_pipeline else _MODULES
    inside(folder, listed, target)  # without this file there is no model, so a link out is an error
    document = load_json(folder, listed, target)
    names = _components(document) if is_pipeline else _modules(document)
    found: dict[str, Checkpoint] = {}
    without: list[str] = []
    for name in names[:MAX_COMPONENTS]:
        inner = entries_of(folder, name, target) if name else list(entries)
        if not has_weights(inner):
            # Tokenizers and schedulers call their configuration something else.
            without += [name] if is_pipeline and _MODEL_CONFIGURATION in inner else []
        else:
            place = inside(folder, name, target) if name else folder
            found[name] = read_entries(place, inner, os.path.join(target, name) if name else target)
    if not found:
        raise DamagedFileError(
            f"{visible(target)} holds no weights of the components that it names",
            details=(document if isinstance(document, str) else f"it names {len(names)}",),
        )
    joined = _joined(found, target)
    if without:
        joined = replace(joined, notes=(*joined.notes, _without_weights(without)))
    return with_configurations(joined, folder, [_PIPELINE], target) if is_pipeline else joined


def _components(document: Any) -> list[str]:
    """Folders of ``{"unet": ["diffusers", "UNet2DConditionModel"], ...}``."""
    if not isinstance(document, dict):
        return []
    return [name for name, value in document.items() if isinstance(value, list) and _is_plain(name)]


def _modules(document: Any) -> list[str]:
    """Folders of ``[{"idx": 0, "path": ""}, {"idx": 2, "path": "2_Dense"}]``."""
    entries = document if isinstance(document, list) else []
    paths = [entry.get("path") for entry in entries if isinstance(entry, dict)]
    return list(
        dict.fromkeys(path for path in paths if isinstance(path, str) and (not path or _is_plain(path)))
    )


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and name not in (".", "..")


def _without_weights(names: Sequence[str]) -> str:
    listed = ", ".join(visible(name) for name in names)
    return f"{_MODEL_CONFIGURATION} and no weights in {listed}: a download may have stopped early"


def _joined(found: dict[str, Checkpoint], target: str) -> Checkpoint:
    """Components as the sections of one checkpoint."""
    tables: dict[str, ParameterTable] = {}
    roles: dict[str, Role] = {}
    models: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for component, each in found.items():
        for section, table in each.tables.items():
            name = ".".join(part for part in (component, section) if part)
            tables[name], roles[name] = replace(table, section=name, source=target), each.roles[section]
            if section == each.model_section:
                models[component] = name
        before = f"{component}." if component else ""
        metadata.update((before + key, value) for key, value in each.metadata.items())
    chosen = next((name for name in _PREFERRED if name in models), None) or max(
        models, key=lambda name: sum(row.numel for row in tables[models[name]])
    )
    others = ", ".join(repr(visible(name)) for name in tables if name != models[chosen])
    notes = (
        (f"section {models[chosen]!r} is taken for the model; the folder also holds {others}",)
        if others
        else ()
    )
    return Checkpoint(
        source=target,
        format=" and ".join(sorted({each.format for each in found.values()})),
        files=tuple(file for each in found.values() for file in each.files),
        tables=tables,
        roles=roles,
        model_section=models[chosen],
        metadata=metadata,
        globals=tuple(name for each in found.values() for name in each.globals),
        notes=(*notes, *_told(found)),
        optimizers={},
    )


def _told(found: dict[str, Checkpoint]) -> list[str]:
    """What the components' readers said, with the component where it is not the folder itself."""
    return [
        f"{visible(name)}: {note}" if name else note for name, each in found.items() for note in each.notes
    ]
