"""
Which kind of checkpoint a folder is: asked of each kind in turn, by the names in it.

A folder that is none itself may hold one in a folder inside it, as accelerate's and a training's
output do (``checkpoint-10/pytorch_model_fsdp_0/.metadata``); that one is read, and a note says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from modelinspect.errors import RefusedError, TargetError, visible
from modelinspect.readers.directories.sharded import has_weights, read_entries
from modelinspect.readers.parts.inside import inside
from modelinspect.readers.parts.natural_order import naturally_sorted
from modelinspect.tensors import Checkpoint

__all__ = ["KINDS", "read_directory"]

# Most folders are none of these, and a listing starts in a few milliseconds: a module is
# imported where a name in the folder holds one of the words.
KINDS = {
    "hub_cache": ("snapshots",),
    "megatron": ("latest_checkpointed_iteration", "common.pt", "mp_rank_"),
    "dcp": ("metadata", ".distcp", "shard-"),
    "deepspeed": ("latest", "_states.pt"),
    "pipeline": ("model_index.json", "modules.json"),
}
"""
Modules beside this one with ``is_one(folder, entries)`` and ``read(folder, entries, target)``,
asked in this order; and words without which a folder is none of that kind.
"""
MAX_INNER = 1_000
"""Folders in the folder that are looked into."""
_SHOWN = 8
_MODEL = re.compile(r"(pytorch_)?model(_fsdp)?(_\d{1,3})?")
_OPTIMIZER = re.compile(r"optim(izer)?(_\d{1,3})?")
"""What accelerate 1.15 (``utils/fsdp_utils.py``) calls the two folders of one state."""


def read_directory(folder: str, target: str) -> Checkpoint:
    """
    The checkpoint that a folder holds.

    Raises:
        TargetError: It holds none, or several and no usual name among them.
        RefusedError: A link leads out of it.
    """
    try:
        entries = naturally_sorted(os.listdir(folder))
    except OSError as error:
        raise TargetError(f"{visible(target)} cannot be listed: {error.strerror}") from error
    kind = _kind(folder, entries)
    if kind is not None:
        return kind.read(folder, entries, target)  # type: ignore[no-any-return]
    if not has_weights(entries):
        inner = _inner(folder, entries, target)
        if inner:
            return _from_inner(folder, inner, target)
    return read_entries(folder, entries, target)


def _kind(folder: str, entries: Sequence[str]) -> Any:
    """The module that reads such a folder; None: its files are read one by one."""
    names = "\n".join(entries)
    for name, words in KINDS.items():
        if not any(word in names for word in words):
            continue
        module = import_module(f"modelinspect.readers.directories.{name}")
        if module.is_one(folder, entries):
            return module
    return None


def _inner(folder: str, entries: Sequence[str], target: str) -> list[str]:
    """Folders inside the folder that are checkpoints."""
    from modelinspect.readers.directories.named_files import entries_of

    found = []
    for name in entries[:MAX_INNER]:
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            continue
        try:
            names = entries_of(folder, name, target)
        except (TargetError, RefusedError):
            continue  # it can't be listed, or a link leads out: not the one that is looked for
        if has_weights(names) or _kind(path, names) is not None:
            found.append(name)
    return found


def _from_inner(folder: str, inner: Sequence[str], target: str) -> Checkpoint:
    """The only one; of a model and its optimizer, side by side, both."""
    models = [name for name in inner if _MODEL.fullmatch(name)]
    optimizers = [name for name in inner if _OPTIMIZER.fullmatch(name)]
    if len(inner) == 1:
        found = _read_inner(folder, inner[0], target)
        return replace(found, notes=(f"read {visible(inner[0])} in this folder", *found.notes))
    if len(models) == len(optimizers) == 1 and len(inner) == 2:
        both = [_read_inner(folder, name, target) for name in (models[0], optimizers[0])]
        note = f"read {visible(models[0])} and {visible(optimizers[0])} in this folder"
        return _beside(both[0], both[1], note)
    listed = [visible(os.path.join(target, name)) for name in inner]
    raise TargetError(
        f"{visible(target)} holds checkpoints in {len(inner)} folders",
        details=(*listed[:_SHOWN], *((f"… {len(listed) - _SHOWN} more",) if len(listed) > _SHOWN else ())),
        hint=f"name one of them, e.g. {listed[-1]}",
    )


def _read_inner(folder: str, name: str, target: str) -> Checkpoint:
    from modelinspect.readers.directories.named_files import entries_of

    path = inside(folder, name, target)
    entries = entries_of(folder, name, target)
    kind = _kind(path, entries)
    shown = os.path.join(target, name)
    if kind is not None:
        return kind.read(path, entries, shown)  # type: ignore[no-any-return]
    return read_entries(path, entries, shown)


def _beside(model: Checkpoint, optimizer: Checkpoint, note: str) -> Checkpoint:
    """A model with the optimizer of the folder beside it."""
    names = {
        name: name if name and name not in model.tables else f"optimizer.{name}".rstrip(".")
        for name in optimizer.tables
    }
    tables = {names[name]: replace(table, section=names[name]) for name, table in optimizer.tables.items()}
    return replace(
        model,
        files=(*model.files, *optimizer.files),
        tables={**model.tables, **tables},
        roles={**model.roles, **{names[name]: role for name, role in optimizer.roles.items()}},
        metadata={**optimizer.metadata, **model.metadata},
        globals=(*model.globals, *optimizer.globals),
        optimizers={**model.optimizers, **{names[name]: said for name, said in optimizer.optimizers.items()}},
        notes=(note, *dict.fromkeys((*model.notes, *optimizer.notes))),
    )
