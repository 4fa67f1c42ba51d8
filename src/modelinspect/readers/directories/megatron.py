"""
Directories of Megatron-LM: one folder a step, in it one a rank; or a distributed checkpoint.

``latest_checkpointed_iteration.txt`` says the step, ``iter_0000100`` or ``release`` is its
folder. In it lie ``mp_rank_TT[_PPP]/model_optim_rng.pt`` (older: ``model_rng.pt`` and
``optim.pt``; with a distributed optimizer ``distrib_optim.pt`` beside it), or, since Megatron
Core 0.5, the files of torch.distributed.checkpoint with ``common.pt`` and ``metadata.json``
(megatron/training/checkpointing.py, megatron/core/dist_checkpointing).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from modelinspect.errors import DamagedFileError, UnrecognisedFileError, visible
from modelinspect.readers.directories.beside import load_json
from modelinspect.readers.directories.named_files import (
    Gathered,
    Opened,
    check_number,
    entries_of,
    opened,
    short_text,
)
from modelinspect.readers.directories.ranks import Rank, merged, several_ranks, tied_embeddings
from modelinspect.readers.parts.inside import inside
from modelinspect.readers.parts.zip_checksums import storage_checksums
from modelinspect.tensors import Checkpoint, TensorInfo

__all__ = ["is_one", "read"]

_LATEST = "latest_checkpointed_iteration.txt"
_RANK = re.compile(r"mp_rank_(?P<tp>\d{2,6})(?:_(?P<pp>\d{3,6}))?(?:_(?P<ep>\d{3,6}))?")
_FILES = ("model_optim_rng.pt", "model_rng.pt", "optim.pt", "distrib_optim.pt")
_MAIN = _FILES[:2]
_COMMON, _METADATA = "common.pt", "metadata.json"
_FACTS = {
    "iteration": "iteration",
    "args.tensor_model_parallel_size": "tensor-parallel ranks",
    "args.pipeline_model_parallel_size": "pipeline-parallel ranks",
    "checkpoint_version": "Megatron checkpoint version",
}


def is_one(folder: str, entries: Sequence[str]) -> bool:
    """Is the folder a checkpoint of that kind? Only names are looked at."""
    if _LATEST in entries or {_COMMON, _METADATA} <= set(entries):
        return True
    ranks = [name for name in entries if _RANK.fullmatch(name)]
    return bool(ranks) and bool(set(_FILES) & set(entries_of(folder, ranks[0], folder)))


def read(folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    """
    Read the headers of all files of the last step.

    Raises:
        DamagedFileError: The step's folder, or its files, are missing.
        RefusedError: A link leads out of it.
    """
    notes: tuple[str, ...] = ()
    if _LATEST in entries:
        name = _step(folder, target)
        entries = entries_of(folder, name, target)
        if not entries:
            raise DamagedFileError(
                f"{visible(target)}: the folder of the last step is missing",
                details=(f"{_LATEST} says {visible(name)}",),
            )
        folder = inside(folder, name, target)
        notes = (f"read {visible(name)}, which {_LATEST} names",)
    distributed = _COMMON in entries and not any(_RANK.fullmatch(name) for name in entries)
    found = (_distributed if distributed else _ranks)(folder, entries, target)
    return replace(found, notes=(*notes, *found.notes))


def _step(folder: str, target: str) -> str:
    """Name of the folder of the last step."""
    said = short_text(folder, _LATEST, target) or ""
    if said == "release":
        return said
    if not said.isascii() or not said.isdigit() or len(said) > 18:
        raise DamagedFileError(
            f"{visible(target)}: {_LATEST} names no step", details=(f"it says {visible(said[:80])!r}",)
        )
    return f"iter_{int(said):07d}"


# -- one folder a rank -----------------------------------------------------------------------


def _ranks(folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    labels = [name for name in entries if _RANK.fullmatch(name)]
    files: dict[str, list[Opened]] = {}
    held = {label: entries_of(folder, label, target) for label in labels}
    names = [f"{label}/{name}" for label in labels for name in _FILES if name in held[label]]
    check_number(names, target)
    if not names:
        raise DamagedFileError(f"{visible(target)} holds no file of a rank", details=(", ".join(_FILES),))
    sums = storage_checksums if len(labels) > 1 else None
    for name in names:
        label = name.partition("/")[0]
        files.setdefault(label, []).append(opened(folder, name, target, None, sums))
    return _gathered(files, target)


def _gathered(files: dict[str, list[Opened]], target: str) -> Checkpoint:
    gathered = Gathered(target)
    several = len(files) > 1
    copies, alike = 0, []
    stages = _stages(files)
    for stage in stages:
        together = merged(stage) if several else merged(stage[:1])
        rows = together.rows
        if several and len(stage) == 1:
            rows = [row._replace(name=f"{stage[0].label}.{row.name}") for row in rows]
        gathered.add("model", "model", rows)
        alike += together.copies
        copies += together.alike
    embeddings = tied_embeddings(chain.from_iterable(stages))
    if embeddings:
        rows = gathered.rows["model"]
        alike += [row for row in rows if row.name in embeddings]
        gathered.rows["model"] = [row for row in rows if row.name not in embeddings]
        copies += len(embeddings)
    for label, opened_files in files.items():
        for file in opened_files:
            _pass_on(gathered, file, f"{label}." if several else "")
    gathered.add("copies", "other", alike)
    everything = [file for group in files.values() for file in group]
    _say(gathered, everything[0].checkpoint, files, copies)
    model = "model" if "model" in gathered.rows else next(iter(gathered.rows), "")
    return gathered.checkpoint("megatron", model, everything)


def _stages(files: dict[str, list[Opened]]) -> list[list[Rank]]:
    """Ranks that hold slices of the same layers, together."""
    stages: dict[tuple[str | None, str | None], list[Rank]] = {}
    for label, group in files.items():
        match = _RANK.fullmatch(label)
        assert match is not None
        main = next((file for file in group if file.name.endswith(_MAIN)), None)
        if main is not None:
            rank = Rank(label, _model_rows(main), main.sums)
            stages.setdefault((match["pp"], match["ep"]), []).append(rank)
    return list(stages.values())


def _model_rows(file: Opened) -> list[TensorInfo]:
    checkpoint = file.checkpoint
    return list(checkpoint.table) if checkpoint.roles[checkpoint.model_section] == "model" else []


def _pass_on(gathered: Gathered, file: Opened, before: str) -> None:
    """Sections of a rank's file beside the model."""
    checkpoint = file.checkpoint
    stem = file.name.rpartition("/")[2].removesuffix(".pt")
    is_main = file.name.endswith(_MAIN)
    for name, table in checkpoint.tables.items():
        role = checkpoint.roles[name]
        if is_main and name == checkpoint.model_section and role == "model":
            continue
        section = before + (name if is_main else ".".join(part for part in (stem, name) if part))
        if not is_main:
            role = "optimizer"
        gathered.add(section or "others", role, table)
        if name in checkpoint.optimizers:
            gathered.optimizers[section or "others"] = checkpoint.optimizers[name]


def _say(gathered: Gathered, first: Checkpoint, files: dict[str, list[Opened]], alike: int) -> None:
    gathered.metadata = dict(first.metadata)
    gathered.facts = {
        title: visible(first.metadata[key]) for key, title in _FACTS.items() if key in first.metadata
    }
    gathered.notes = [note for note in first.notes if note.startswith("loading it")]
    if len(files) > 1:
        gathered.facts["ranks"] = str(len(files))
        gathered.notes.append(several_ranks(len(files), alike))
        return
    label, size = next(iter(files)), first.metadata.get("args.tensor_model_parallel_size", "1")
    if size not in ("0", "1"):
        gathered.notes.append(
            f"{label} is one of {visible(size)} tensor-parallel ranks: a slice of the model"
        )


# -- distributed checkpoints -----------------------------------------------------------------


def _distributed(folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    """The files of torch.distributed.checkpoint, with what ``common.pt`` says."""
    from modelinspect.readers.directories import dcp

    said = load_json(folder, _METADATA, target) if _METADATA in entries else None
    backend = said.get("sharded_backend") if isinstance(said, dict) else None
    if not dcp.is_one(folder, entries):
        raise UnrecognisedFileError(
            f"{visible(target)} is a Megatron checkpoint of a kind that this version does not read",
            details=(f"sharded_backend: {visible(str(backend)[:80])}; torch_dist is read",),
            hint="convert it with Megatron: --ckpt-convert-format torch_dist",
        )
    found = dcp.read(folder, entries, target)
    common = opened(folder, _COMMON, target).checkpoint
    facts = {title: visible(common.metadata[key]) for key, title in _FACTS.items() if key in common.metadata}
    if isinstance(backend, str):
        facts["Megatron backend"] = visible(backend[:80])
    return replace(
        found,
        metadata={**common.metadata, **found.metadata},
        facts={**found.facts, **facts},
        files=(*found.files, *common.files),
        globals=(*found.globals, *common.globals),
        notes=(*found.notes, *(note for note in common.notes if note.startswith("loading it"))),
    )
