"""
Checkpoints made of several files: Hugging Face directories, shards and their index.

The index is ``{"metadata": {...}, "weight_map": {name: file}}`` (huggingface_hub's
serialization, used for safetensors and for ``pytorch_model.bin`` alike). A shard
is a plain relative name inside the folder. A symbolic link may lead to another
place inside it or, as in a Hugging Face cache, from ``snapshots/<revision>/`` to
the sibling ``blobs/``; nowhere else is anything opened.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from modelinspect.errors import DamagedFileError, LimitError, TargetError, visible
from modelinspect.readers.directories.beside import is_beside, with_configurations, with_training
from modelinspect.readers.parts.inside import inside
from modelinspect.readers.parts.json_size import is_dense
from modelinspect.readers.parts.kinds import settled_by_siblings
from modelinspect.readers.parts.natural_order import naturally_sorted
from modelinspect.readers.registry import FORMATS, open_file
from modelinspect.readers.source import open_local
from modelinspect.tensors import Checkpoint, FileInfo, ParameterTable, Role, TensorInfo

__all__ = ["has_weights", "read_entries", "read_index"]

MAX_INDEX_BYTES = 200_000_000
MAX_SHARDS = 10_000

# Names that libraries write, the preferred first: safetensors before pickles.
_USUAL_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model", "consolidated")
_USUAL_SUFFIXES = (".safetensors.index.json", ".safetensors", ".bin.index.json", ".bin", ".pt", ".pth")
_SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,6})-of-(?P<total>\d{1,6})(?P<suffix>\.[A-Za-z]+)")
_SUFFIXES = tuple({suffix for row in FORMATS for suffix in row.suffixes})


def read_entries(folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    """
    The checkpoint that a folder of weights holds: its index, its shards or its one file.

    What lies beside them, configurations and the state of a training, is read as well.

    Args:
        folder: Its path.
        entries: Names in it, in natural order.
        target: The folder as the user spelt it.

    Raises:
        TargetError: It holds none, or several and no usual name among them.
        RefusedError: A link leads out of it.
    """
    name, others = _choose(entries, target)
    if name.endswith(".index.json"):
        found = _read_index(os.path.join(folder, name), target)
    elif (shard := _SHARD_NAME.fullmatch(name)) is not None:
        found = _without_index(folder, entries, shard, target)
    else:
        path = inside(folder, name, target)
        opened = open_file(path, target)
        found = replace(opened, notes=(f"read {visible(name)} of this folder", *opened.notes))
    if others:
        listed = ", ".join(visible(other) for other in others[:4]) + (", …" if len(others) > 4 else "")
        found = replace(found, notes=(*found.notes, f"the folder also holds {listed}"))
    if not is_beside(name):
        found = with_training(found, folder, entries, target)
    return with_configurations(found, folder, entries, target)


def has_weights(entries: Sequence[str]) -> bool:
    """Is there a file of weights among the names?"""
    return any(
        entry.lower().endswith((*_SUFFIXES, ".index.json")) and not is_beside(entry) for entry in entries
    )


def _choose(entries: Sequence[str], target: str) -> tuple[str, list[str]]:
    """The entry to read, and what else could have been read."""
    weights = [entry for entry in entries if entry.lower().endswith((*_SUFFIXES, ".index.json"))]
    # What a training leaves beside its weights is read with them, or where there is nothing else.
    weights = [entry for entry in weights if not is_beside(entry)] or weights
    usual = [stem + suffix for suffix in _USUAL_SUFFIXES for stem in _USUAL_STEMS]
    chosen = next((name for name in usual if name in weights), None)
    chosen = chosen or next((name for name in weights if name.endswith(".index.json")), None)
    shards = [name for name in weights if _SHARD_NAME.fullmatch(name)]
    single = [name for name in weights if name not in shards]
    families = {_SHARD_NAME.fullmatch(name)["stem"] for name in shards}  # type: ignore[index]
    if chosen is None and len(families) == 1 and not single:
        chosen = shards[0]
    if chosen is None and len(single) == 1:
        chosen = single[0]
    if chosen is None:
        _nothing_chosen(entries, weights, target)
    others = [name for name in single if name != chosen]
    return chosen, others


def _nothing_chosen(entries: Sequence[str], weights: list[str], target: str) -> NoReturn:
    if weights:
        listed = tuple(visible(os.path.join(target, name)) for name in weights[:12])
        raise TargetError(
            f"{visible(target)} holds several checkpoints and none has a usual name",
            details=listed + ((f"… {len(weights) - 12} more",) if len(weights) > 12 else ()),
            hint="name one of them",
        )
    if not entries:
        raise TargetError(f"{visible(target)} is an empty directory")
    from modelinspect.readers.parts.foreign import known_folder

    if (known := known_folder(entries)) is not None:
        raise TargetError(f"{visible(target)} is {known.title}, which is not read", hint=known.hint)
    seen = ", ".join(visible(entry) for entry in entries[:6]) + (", …" if len(entries) > 6 else "")
    raise TargetError(
        f"{visible(target)} is a directory that holds no checkpoint",
        details=(f"it holds: {seen}", f"looked for: *.index.json, {', '.join(f'*{s}' for s in _SUFFIXES)}"),
    )


def read_index(path: str, target: str) -> Checkpoint:
    """
    The checkpoint that an index file describes, with the configurations beside it.

    Raises:
        DamagedFileError: The index is not one, a shard is missing, or a shard lacks a
            tensor that the index promises.
        RefusedError: A shard's name or link leads out of the folder.
    """
    folder = os.path.dirname(path) or "."
    found = _read_index(path, target)
    return with_configurations(found, folder, os.listdir(folder), target)


def _read_index(path: str, target: str) -> Checkpoint:
    folder = os.path.dirname(path) or "."
    real = inside(folder, os.path.basename(path), target) if os.path.islink(path) else path
    document, nbytes = _load_json(real, target)
    weight_map = _weight_map(document, target)
    shard_names = naturally_sorted(list(dict.fromkeys(weight_map.values())))
    shards = _open_shards(folder, shard_names, target)
    merged = _merge(shards, target, extra=FileInfo(real, nbytes, nbytes))
    notes = [*merged.notes, *_compare(weight_map, shards, target), *_compare_size(document, merged)]
    return replace(merged, metadata={**merged.metadata, **_index_metadata(document)}, notes=tuple(notes))


def _load_json(path: str, target: str) -> tuple[dict[str, Any], int]:
    with open_local(path) as source:
        if source.size > MAX_INDEX_BYTES:
            raise LimitError(
                f"{visible(target)}: the index has {source.size:,} bytes",
                details=(f"limit: {MAX_INDEX_BYTES:,} bytes",),
            )
        raw = source.read(0, source.size, "index")
    try:
        text = raw.decode("utf-8-sig")
        if is_dense(text):
            raise LimitError(
                f"{visible(target)} is not a checkpoint index",
                details=("it holds far more lists and texts than an index of its length",),
            )
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{visible(target)} is not a checkpoint index", details=(f"it is not JSON: {error}",)
        ) from error
    if not isinstance(document, dict):
        raise DamagedFileError(f"{visible(target)} is not a checkpoint index", details=("it is no object",))
    return document, len(raw)


def _weight_map(document: dict[str, Any], target: str) -> dict[str, str]:
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DamagedFileError(
            f"{visible(target)} is not a checkpoint index",
            details=("it has no weight_map of names to files",),
        )
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise DamagedFileError(
                f"{visible(target)}: its weight_map names no file for {visible(name)!r}",
            )
    # "./a.safetensors" is a.safetensors: each file is opened once, however it is spelt.
    weight_map = {name: os.path.normpath(shard) if shard else shard for name, shard in weight_map.items()}
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise LimitError(f"{visible(target)} names more than {MAX_SHARDS:,} shards")
    return weight_map


def _without_index(folder: str, entries: Sequence[str], first: re.Match[str], target: str) -> Checkpoint:
    """Shards that name their number and total, with no index beside them."""
    family = [
        match
        for match in map(_SHARD_NAME.fullmatch, entries)
        if match
        and (match["stem"], match["suffix"], match["total"])
        == (first["stem"], first["suffix"], first["total"])
    ]
    have = {int(match["number"]) for match in family}
    total = int(first["total"])
    missing = [number for number in range(1, min(total, MAX_SHARDS) + 1) if number not in have]
    if missing:
        listed = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        raise DamagedFileError(
            f"{visible(target)}: {len(missing)} of {total} shards are missing",
            details=(f"numbers: {listed}",),
        )
    shards = _open_shards(folder, [match.string for match in family], target)
    merged = _merge(shards, target)
    return replace(merged, notes=(*merged.notes, "there is no index; the shards' numbers are complete"))


def _open_shards(folder: str, names: Iterable[str], target: str) -> dict[str, Checkpoint]:
    paths = {name: inside(folder, name, target) for name in names}
    missing = [name for name, path in paths.items() if not os.path.exists(path)]
    if missing:
        raise DamagedFileError(
            f"{visible(target)}: {len(missing)} of {len(paths)} shards are missing",
            details=tuple(visible(name) for name in missing[:8]) + (("…",) if len(missing) > 8 else ()),
            hint="a download may have stopped early",
        )
    return {name: open_file(path, f"{target} ({name})") for name, path in paths.items()}


def _merge(shards: dict[str, Checkpoint], target: str, extra: FileInfo | None = None) -> Checkpoint:
    """Several checkpoints as one: sections of the same name are joined."""
    parts = list(shards.values())
    formats = sorted({part.format for part in parts})
    tables: dict[str, _Joined] = {}
    roles: dict[str, Role] = {}
    for part in parts:
        for name, table in part.tables.items():
            tables.setdefault(name, _Joined([], {})).add(table)
            roles.setdefault(name, part.roles[name])
    by_name = formats == ["safetensors"]
    merged = {
        name: ParameterTable(
            source=target,
            # A tensor that explains another may lie in another shard.
            tensors=settled_by_siblings(joined.in_natural_order() if by_name else joined.tensors),
            origin="file",
            section=name,
            modules=joined.modules,
        )
        for name, joined in tables.items()
    }
    files = tuple(file for part in parts for file in part.files)
    return Checkpoint(
        source=target,
        format=f"sharded {' and '.join(formats)}",
        files=files if extra is None else (extra, *files),
        tables=merged,
        roles=roles,
        model_section=parts[0].model_section,
        metadata={key: value for part in parts for key, value in part.metadata.items()},
        globals=tuple(found for part in parts for found in part.globals),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes if not _is_of_one(note))),
        version=parts[0].version,
        facts={key: value for key, value in parts[0].facts.items() if key != "part"},
    )


def _is_of_one(note: str) -> bool:
    """That a GGUF file is a part of several is no news where all of them are read."""
    return note.startswith("it is part ")


@dataclass
class _Joined:
    """The tensors of one section from all shards."""

    tensors: list[TensorInfo]
    modules: dict[str, str]

    def add(self, table: ParameterTable) -> None:
        self.tensors.extend(table)
        self.modules.update(table.modules)

    def in_natural_order(self) -> list[TensorInfo]:
        by_name = {tensor.name: tensor for tensor in self.tensors}
        return [by_name[name] for name in naturally_sorted(list(by_name))]


def _compare(weight_map: dict[str, str], shards: dict[str, Checkpoint], target: str) -> list[str]:
    """Does every shard hold what the index promises, and nothing else?"""
    held = {
        name: {tensor.name for table in shard.tables.values() for tensor in table}
        for name, shard in shards.items()
    }
    absent = [name for name, shard in weight_map.items() if name not in held[shard]]
    if absent:
        listed = tuple(f"{visible(name)} in {visible(weight_map[name])}" for name in absent[:6])
        raise DamagedFileError(
            f"{visible(target)}: not in the shards that the index names: {_tensors(len(absent))}",
            details=listed + (("…",) if len(absent) > 6 else ()),
        )
    extra = [name for shard, names in held.items() for name in names if weight_map.get(name) != shard]
    if not extra:
        return []
    listed_extra = ", ".join(visible(name) for name in naturally_sorted(extra)[:4])
    return [f"in the shards and not in the index, but counted: {_tensors(len(extra))}: {listed_extra}"]


def _tensors(count: int) -> str:
    return f"{count:,} tensor{'' if count == 1 else 's'}"


def _compare_size(document: dict[str, Any], merged: Checkpoint) -> list[str]:
    metadata = document.get("metadata")
    claimed = metadata.get("total_size") if isinstance(metadata, dict) else None
    held = sum(tensor.nbytes for tensor in merged.table)
    if not isinstance(claimed, int) or claimed == held:
        return []
    return [f"the index says total_size {claimed:,} bytes, the shards hold {held:,}"]


def _index_metadata(document: dict[str, Any]) -> dict[str, str]:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return {}
    return {
        f"index.{key}": str(value)
        for key, value in list(metadata.items())[:100]
        if not isinstance(value, (dict, list))
    }
