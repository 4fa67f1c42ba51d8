"""
Directories of torch.distributed.checkpoint (FSDP, DTensor): global tensors in chunks.

``.metadata`` names every tensor, its whole shape and in which file which chunk of it lies;
``__{rank}_{n}.distcp`` holds the chunks, each an archive of torch.save's. Where the ranks saved
each for itself there is one ``__{rank}.metadata`` a rank. Loading it unpickles ``.metadata``
without any restriction (torch 2.13, ``torch/distributed/checkpoint/filesystem.py``); here it is
interpreted and nothing of it is run. The flavour of safetensors is in :mod:`dcp_shards`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from modelinspect.errors import CheckpointError, DamagedFileError, TargetError, visible
from modelinspect.readers.directories.named_files import check_number
from modelinspect.readers.parts.chunks import chunked_row, span_of
from modelinspect.readers.parts.dcp_archives import Archives, places_back_to_back
from modelinspect.readers.parts.dcp_metadata import (
    KNOWN_GLOBALS,
    Chunk,
    ChunkedTensor,
    Description,
    Place,
    describe,
)
from modelinspect.readers.parts.inside import inside
from modelinspect.readers.parts.natural_order import naturally_sorted
from modelinspect.readers.parts.pickle_machine import Feed, read_pickle
from modelinspect.readers.parts.pickle_symbols import Pickle
from modelinspect.readers.parts.sections import role_of
from modelinspect.readers.parts.state_tree import Path, leaf, sections_of
from modelinspect.readers.parts.torch_checkpoint import finding_notes, foreign_note, global_names
from modelinspect.readers.parts.torch_objects import TensorReader
from modelinspect.readers.source import open_local
from modelinspect.tensors import Checkpoint, FileInfo, GlobalName, Storage, TensorInfo

__all__ = ["is_one", "read", "read_alone"]

_WHOLE = ".metadata"
_OF_RANK = re.compile(r"__\d{1,6}\.metadata")
_DATA = re.compile(r"__(?P<rank>\d{1,6})_\d{1,6}\.distcp")
_SHARD = re.compile(r"shard-\d{5,6}-model-\d{5,6}-of-\d{5,6}\.safetensors")
MAX_OBJECTS = 2_000
"""Entries that are no tensor and are looked into; each takes some kilobytes."""
_SHOWN = 8


def is_one(folder: str, entries: Sequence[str]) -> bool:  # noqa: ARG001
    """Is the folder a checkpoint of that kind? Only names are looked at."""
    if any(_SHARD.fullmatch(name) for name in entries):
        return True
    has_data = any(name.endswith(".distcp") for name in entries)
    has_others = any(name.endswith((".safetensors", ".bin", ".pt", ".pth")) for name in entries)
    return (
        has_data
        or any(_OF_RANK.fullmatch(name) for name in entries)
        or (_WHOLE in entries and not has_others)
    )


def read(folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    """
    Read ``.metadata`` and the headers of every chunk.

    Raises:
        DamagedFileError: A file is missing or too short, or the metadata contradicts itself.
        RefusedError: A file's name or link leads out of the folder.
        LimitError: The metadata claims more than a limit allows.
    """
    names = [_WHOLE] if _WHOLE in entries else [name for name in entries if _OF_RANK.fullmatch(name)]
    if not names:
        shards = [name for name in entries if _SHARD.fullmatch(name)]
        if shards:
            from modelinspect.readers.directories.dcp_shards import read_shards

            return read_shards(folder, shards, target)
        raise DamagedFileError(
            f"{visible(target)}: its .metadata is missing, which says what its files hold",
            details=("it is written last, so saving may have been cut short",),
            hint="name one of its .distcp files to see the tensors in it, without their names",
        )
    reading = _Reading(folder, target)
    for name in names:
        reading.metadata(name)
    return reading.checkpoint(naturally_sorted([name for name in entries if name.endswith(".distcp")]))


def read_alone(path: str, target: str) -> Checkpoint:
    """
    One ``.distcp`` file: what it holds of the checkpoint beside it or, without that, no names.

    Raises:
        DamagedFileError: It is none, or is too short.
        LimitError: The metadata claims more than a limit allows.
    """
    folder, name = os.path.dirname(path) or ".", os.path.basename(path)
    reading = _Reading(folder, target)
    if os.path.isfile(os.path.join(folder, _WHOLE)):
        reading.metadata(_WHOLE)
        return reading.of_file(name)
    return reading.without_names(name)


class _Job(NamedTuple):
    """One archive to look into."""

    place: Place
    name: str
    chunk: Chunk | None
    """None: an object that is no tensor."""


@dataclass
class _Found:
    """What the archives hold."""

    parts: dict[str, list[tuple[Chunk, TensorInfo]]] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    files: list[FileInfo] = field(default_factory=list)
    globals: list[GlobalName] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unread: int = 0
    """Objects that can't be read, or are too many."""
    unplaced: int = 0
    """Chunks whose numbers can't be read."""


class _Reading:
    """One checkpoint's metadata, then its archives, file by file."""

    def __init__(self, folder: str, target: str) -> None:
        self.folder = folder
        self.target = target
        self.description = Description()
        self.names: dict[tuple[str, str], GlobalName] = {}
        self.odd: list[Pickle] = []
        """What is left of the pickles: oddities in them."""
        self.nbytes = 0
        self.found = _Found()
        self.archives = Archives()

    def metadata(self, name: str) -> None:
        """Read one file of metadata."""
        path = inside(self.folder, name, self.target)
        where = f"{self.target} ({name})"
        with open_local(path) as source:
            pickle = read_pickle(Feed(source.read, source.size, where))
            self.found.files.append(FileInfo(path, source.size, source.bytes_read))
            if pickle.end < source.size:
                self.found.notes.append(
                    f"{source.size - pickle.end:,} bytes follow the pickle in {visible(name)}"
                )
        TensorReader(where, pickle.globals)  # gives the names of torch's own their meaning
        said = describe(pickle, where)
        for each in global_names([pickle], path, ""):
            known = each.understood or f"{each.module}.{each.name}" in KNOWN_GLOBALS
            self.names.setdefault((each.module, each.name), each._replace(understood=known))
        # The symbols themselves, hundreds of megabytes of a large checkpoint, are let go.
        self.odd.append(Pickle(None, pickle.end, [], [], [], pickle.findings, pickle.protocol))
        self.nbytes += pickle.end
        if self.description.order:
            self.description.add(said)
        else:
            self.description = said

    def checkpoint(self, entries: Sequence[str]) -> Checkpoint:
        """All of it."""
        description = self.description
        self.read_files(_jobs(description, MAX_OBJECTS))
        leaves: dict[str, tuple[Path, Any]] = {}
        paths = _paths(description)
        for name in description.order:
            tensor = description.tensors.get(name)
            if tensor is None:
                leaves[name] = paths[name], self.found.objects.get(name)
            else:
                leaves[name] = paths[name], leaf(self.row(name, tensor))
        unused = set(entries) - {place.path for place in description.places()}
        if unused:
            listed = ", ".join(visible(name) for name in naturally_sorted(list(unused))[:_SHOWN])
            self.found.notes.append(f"its metadata names nothing in {listed}")
        return self.made(leaves)

    def row(self, name: str, tensor: ChunkedTensor) -> TensorInfo:
        parts = self.found.parts[name]
        row = chunked_row(
            name, tensor.size, [part for _, part in parts], [chunk.offsets for chunk, _ in parts]
        )
        held = sum(prod(chunk.sizes) for chunk in tensor.chunks)
        if held < row.numel:
            raise DamagedFileError(
                f"{visible(self.target)} lacks a part of a tensor",
                details=(f"{visible(name[:200])}: its chunks hold {held:,} of {row.numel:,} elements",),
                hint="files of other ranks may be missing",
            )
        return row._replace(requires_grad=True) if tensor.requires_grad else row

    def of_file(self, name: str) -> Checkpoint:
        """The chunks of one file, under the names that the checkpoint beside it has for them."""
        description, paths = self.description, _paths(self.description)
        jobs = [job for job in _jobs(description, MAX_OBJECTS) if job.place.path == name]
        if not jobs:
            raise TargetError(f"{visible(self.target)}: the .metadata beside it names nothing in it")
        self.read_files(jobs)
        leaves: dict[str, tuple[Path, Any]] = {}
        for label, parts in self.found.parts.items():
            whole = description.tensors[label].size
            for _, part in parts:
                key = label if part.shape == whole else f"{label}{part.name}"
                end = paths[label][-1] if part.shape == whole else f"{paths[label][-1]}{part.name}"
                leaves[key] = (*paths[label][:-1], end), leaf(part)
        for label, value in self.found.objects.items():
            leaves[label] = paths[label], value
        self.found.notes.insert(0, "it is one file of a checkpoint: name its folder to see all")
        return self.made(leaves)

    def without_names(self, name: str) -> Checkpoint:
        """The archives of one file, with nothing beside it that names them."""
        path = inside(self.folder, name, self.target)
        leaves: dict[str, tuple[Path, Any]] = {}
        with open_local(path) as source:
            for number, place in enumerate(places_back_to_back(source, name, self.target)):
                label = f"archive {number}"
                nested = self.archives.nested(source, place, label, self.target)
                row = nested.tensor(label)
                leaves[label] = (label,), nested.value if row is None else leaf(row)
                self.found.globals.extend(nested.globals)
                self.nbytes += nested.pickle.end
            self.found.files.append(FileInfo(path, source.size, source.bytes_read))
        self.found.notes.append(
            "its tensors have no names here: those are in the .metadata of its checkpoint"
        )
        return self.made(leaves)

    # -- archives --------------------------------------------------------------------------

    def read_files(self, jobs: Iterable[_Job]) -> None:
        """Look into the archives, file by file, from the first byte on."""
        by_file: dict[str, list[_Job]] = {}
        for job in jobs:
            by_file.setdefault(job.place.path, []).append(job)
        names = naturally_sorted(list(by_file))
        check_number(names, self.target)
        paths = {name: inside(self.folder, name, self.target) for name in names}
        missing = [name for name, path in paths.items() if not os.path.exists(path)]
        if missing:
            raise DamagedFileError(
                f"{visible(self.target)}: {len(missing)} of its {len(names)} files are missing",
                details=tuple(visible(name[:200]) for name in missing[:_SHOWN])
                + (("…",) if len(missing) > _SHOWN else ()),
                hint="a download may have stopped early, or a rank could not write",
            )
        for name in names:
            self.read_file(paths[name], name, sorted(by_file[name], key=lambda job: job.place[1:3]))

    def read_file(self, path: str, name: str, jobs: list[_Job]) -> None:
        with open_local(path) as source:
            self.check(jobs, source.size, name)
            for job in jobs:
                if job.chunk is None:
                    self.object(source, job)
                else:
                    part = job.chunk, self.part(source, job, job.chunk)
                    self.found.parts.setdefault(job.name, []).append(part)
            self.found.files.append(FileInfo(path, source.size, source.bytes_read))

    def check(self, jobs: list[_Job], size: int, name: str) -> None:
        """Nothing reaches beyond the file's end, and nothing lies in two places' bytes."""
        last = max(jobs, key=lambda job: job.place.offset + job.place.length)
        end = last.place.offset + last.place.length
        if end > size:
            raise DamagedFileError(
                f"{visible(self.target)}: {visible(name[:200])} is truncated",
                details=(f"{visible(last.name[:200])} ends at byte {end:,}, the file has {size:,} bytes",),
                hint="compare its size with the original; a download may have stopped early",
            )
        before = jobs[0].place
        for job in jobs[1:]:
            place = job.place
            if place.offset < before.offset + before.length and place != before:
                raise DamagedFileError(
                    f"{visible(self.target)} is damaged",
                    details=(
                        f"{visible(job.name[:200])} lies in bytes of {visible(name[:200])} that others take",
                    ),
                )
            before = place

    def part(self, source: Any, job: _Job, chunk: Chunk) -> TensorInfo:
        """The row of a chunk."""
        tensor = self.description.tensors[job.name]
        span = span_of(chunk.offsets, chunk.sizes)
        key = f"{job.name}{span}"
        row = None
        if not job.place.transforms:
            where = f"{self.target} ({job.place.path})"
            row = self.archives.tensor(source, job.place, key, span, where)
        if row is None:
            self.found.unplaced += 1
            nbytes = tensor.dtype.nbytes(prod(chunk.sizes))
            return TensorInfo(span, tensor.dtype, chunk.sizes, Storage(source.path, key, None, nbytes))
        if row.shape != chunk.sizes or row.dtype is not tensor.dtype:
            found = f"{row.dtype} of shape {str(row.shape)[:100]} in its file"
            claimed = f"{tensor.dtype} of shape {str(chunk.sizes)[:100]} in .metadata"
            raise DamagedFileError(
                f"{visible(self.target)} is damaged",
                details=(f"{visible(job.name[:200])}{span} is {found}, {claimed}",),
            )
        return row

    def object(self, source: Any, job: _Job) -> None:
        """What is no tensor: counters, settings, whole objects that may hold tensors."""
        if job.place.transforms:
            self.found.unread += 1
            return
        try:
            nested = self.archives.nested(source, job.place, job.name, f"{self.target} ({job.place.path})")
        except CheckpointError:
            self.found.unread += 1
            return
        self.found.objects[job.name] = nested.value
        self.found.globals.extend(nested.globals)
        self.nbytes += nested.pickle.end

    # -- the checkpoint ----------------------------------------------------------------------

    def made(self, leaves: dict[str, tuple[Path, Any]]) -> Checkpoint:
        found, description = self.found, self.description
        sections = sections_of(leaves, self.target, self.nbytes)
        names = dict(self.names)
        for name in found.globals:
            names.setdefault((name.module, name.name), name)
        return Checkpoint(
            source=self.target,
            format="dcp",
            files=tuple(found.files),
            tables=sections.tables,
            roles=sections.roles,
            model_section=sections.model_section,
            metadata=sections.metadata,
            globals=tuple(names.values()),
            notes=(
                *sections.notes,
                *foreign_note(tuple(names.values())),
                *finding_notes(self.odd),
                *dict.fromkeys(found.notes),
                *self.notes(),
            ),
            optimizers=sections.optimizers,
            version=description.version,
            facts={**self.facts(), **description.facts},
        )

    def notes(self) -> list[str]:
        found, description = self.found, self.description
        objects = sum(place is not None for place in description.objects.values())
        skipped = max(0, objects - MAX_OBJECTS) + found.unread
        notes = []
        if found.unplaced:
            notes.append(
                f"the values of {found.unplaced:,} chunks can't be read: they went through "
                "another form on the way to the file, or are too many to be looked up"
            )
        if skipped:
            notes.append(f"{skipped:,} of its {objects:,} entries that are no tensor were not looked into")
        if description.repeated:
            notes.append(f"{description.repeated:,} chunks were saved by several ranks and count once")
        if any(name.rpartition(".")[2] in ("_flat_param", "flat_param") for name in description.tensors):
            notes.append(
                "FSDP has flattened its parameters: names and shapes of those inside are not in the file"
            )
        return notes

    def facts(self) -> dict[str, str]:
        description = self.description
        paths = {place.path for place in description.places()}
        ranks = {match["rank"] for match in map(_DATA.fullmatch, paths) if match}
        chunks = sum(len(tensor.chunks) for tensor in description.tensors.values())
        facts = {"files": f"{len(paths):,}", "ranks that wrote": f"{len(ranks):,}", "chunks": f"{chunks:,}"}
        return {title: text for title, text in facts.items() if text != "0"}


def _jobs(description: Description, objects: int) -> Iterable[_Job]:
    for name, tensor in description.tensors.items():
        for chunk in tensor.chunks:
            yield _Job(chunk.place, name, chunk)
    placed = ((name, place) for name, place in description.objects.items() if place is not None)
    for _, (name, place) in zip(range(objects), placed):
        yield _Job(place, name, None)


def _paths(description: Description) -> dict[str, Path]:
    """
    Name to its keys. Where the planner says no more than the names, as Megatron's does, they are those
    of a flat state_dict: their first words make sections only if one of them is an optimizer's.
    """
    paths = {name: description.paths.get(name, (name,)) for name in description.order}
    if any(len(path) > 1 for path in paths.values()):
        return paths
    tops = {name: role_of(name.partition(".")[0]) for name in description.order if "." in name}
    if "optimizer" not in tops.values():
        return {name: (name,) for name in description.order}
    return {
        name: tuple(name.split(".", 1)) if tops.get(name) is not None else (name,)
        for name in description.order
    }
