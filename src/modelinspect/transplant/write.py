"""
A plan carried out from file to file: whole and verified, or not at all.

Bytes that stay as they are go from file to file without passing through this process;
transformed tensors come one at a time. What is written is reread and compared with its
sources before it takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import NamedTuple

from modelinspect.dtypes import BY_NAME, DType
from modelinspect.errors import CheckpointError, UsageError, visible
from modelinspect.readers.registry import no_collector, open_checkpoint, open_file
from modelinspect.tensors import TensorInfo
from modelinspect.transplant.destination import Destination, check_space, destination_of, free_place
from modelinspect.transplant.jobs import Job, Span, jobs_of, parse_dtype
from modelinspect.transplant.plan import Plan
from modelinspect.transplant.sources import SourceFiles
from modelinspect.writers.copying import Chunk, FileRange, Sink, is_at
from modelinspect.writers.entry import Entry
from modelinspect.writers.safetensors import write_safetensors
from modelinspect.writers.sharded import index_text, parse_size, shard_name, split
from modelinspect.writers.temporary import Temporary, TemporaryFile, TemporaryFolder, cannot_write
from modelinspect.writers.torch_zip import write_torch_zip

__all__ = ["ORIGIN", "Progress", "Written", "write_plan"]

ORIGIN = "modelinspect.origin"
"""Key of the metadata that says what a file was made of."""
Progress = Callable[[int, int], None]
"""Told of the bytes done and of those in all. Each counts when it is written and when it is reread."""

_AT_ONCE = 1 << 22
"""Bytes that are converted at a time."""


@dataclass(frozen=True)
class Written:
    """
    What a transplant has written.
    """

    path: str
    """The file, or the folder of the shards."""
    files: tuple[str, ...]
    """The file; or the shards and their index."""
    nbytes: int
    """Of all files."""
    tensors: int
    """Names that were written."""
    copied: int
    """Tensors whose bytes are the source's, range by range."""
    transformed: int
    """Tensors whose elements were put in order, computed or converted."""
    verified: int
    """Tensors that were reread and equal their sources through their transforms: all of them."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """In safetensors: a name that was left out to the name of the same tensor that is there."""
    write_seconds: float = 0.0
    """Writing, and having it on disk."""
    verify_seconds: float = 0.0
    """Rereading and comparing."""
    notes: tuple[str, ...] = ()


def write_plan(
    plan: Plan,
    out: str,
    *,
    dtype: str | None = None,
    shard_size: int | str | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Written:
    """
    Write the tensors that a plan makes of its source's.

    Args:
        plan: Of a checkpoint. What it lacks or doubts is not asked about here.
        out: A file: ``.safetensors``, ``.pt``, ``.pth`` or ``.bin``. With a *shard_size* also
            a folder that is new or empty, or a file in one, which says what shards are called.
        dtype: To convert floating-point numbers to; integers stay as they are.
        shard_size: Most bytes of the tensors of a shard, or a text such as ``5GB``. What fits
            into one shard is written as one file.
        metadata: The source's texts (:attr:`Checkpoint.metadata`), which are kept.
        progress: See :data:`Progress`.

    Returns:
        What was written, once it was verified and took its place.

    Raises:
        UsageError: The path says no format, the plan does not fit, a tensor can't be written.
        TargetError: *out* is a source, its folder is not there or not empty, the disk is full.
        CheckpointError: A source can't be read or changed meanwhile, or what was written is
            not what it should be. Whatever the error, what *out* was before is still there.
    """
    most = parse_size(shard_size) if isinstance(shard_size, str) else shard_size
    if most is not None and most < 1:
        raise UsageError(f"a shard of {most} bytes holds nothing")
    destination = destination_of(out, is_sharded=most is not None)
    with no_collector():
        jobs = jobs_of(plan, None if dtype is None else parse_dtype(dtype))
    if not jobs:
        raise UsageError("the plan makes no tensor: there is nothing to write")
    with SourceFiles(storage for job in jobs for storage in job.storages) as sources:
        run = _Run(plan, destination, sources, progress)
        with no_collector():
            run.prepare(jobs)
        return run.write(most, _texts(plan, metadata or {}))


_OF_THE_FOLDER = (
    "index.", "config.", "adapter.", "trainer.", "pipeline.", "scheduler.", "training_args.",
)  # fmt: skip
"""What files beside the weights say; they are not copied, so neither is that."""


def _texts(plan: Plan, metadata: Mapping[str, str]) -> dict[str, str]:
    """The source's metadata, without what is true of its own names and files only."""
    from importlib.metadata import version

    kept = {
        key: value
        for key, value in metadata.items()
        if not key.startswith(_OF_THE_FOLDER) and (value not in plan.source or key in plan.source)
    }
    origin = visible(os.path.basename(plan.source.source.rstrip("/")))
    return {"format": "pt", **kept, ORIGIN: f"{origin} (modelinspect {version('modelinspect')})"}


class _Item(NamedTuple):
    """A tensor of the output."""

    entry: Entry
    names: tuple[str, ...]
    """That it has in the output."""
    job: Job


class _Run:
    """One transplant under way."""

    def __init__(
        self, plan: Plan, destination: Destination, sources: SourceFiles, progress: Progress | None
    ) -> None:
        self._plan = plan
        self._destination = destination
        self._sources = sources
        self._progress = progress
        self._items: dict[str, _Item] = {}
        self._tied: dict[str, str] = {}
        self._notes: list[str] = []
        self._done = self._in_all = self._nbytes = 0
        self._verify_seconds = 0.0

    # -- what there is to write

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Decide under which names tensors are written."""
        for job in self._united(jobs):
            self._add(job)
        self._in_all = 2 * sum(item.entry.nbytes for item in self._items.values())

    def _united(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Jobs; those of one tensor of the target are one if the bytes of their sources are equal."""
        tied = self._plan.target.tied_to
        groups: dict[str, list[Job]] = {}
        for job in jobs:
            group = groups.setdefault(tied.get(job.names[0], job.names[0]), [])
            for number, other in enumerate(group):
                if self._are_equal(job, other):
                    group[number] = replace(other, names=(*other.names, *job.names))
                    break
            else:
                group.append(job)
        for group in groups.values():
            if len(group) > 1:
                names = ", ".join(visible(name) for job in group for name in job.names)
                self._notes.append(f"one tensor in the target, but from sources that differ: {names}")
            yield from group

    def _are_equal(self, one: Job, other: Job) -> bool:
        """Of two plain copies; others are taken to differ."""
        spans = [part for job in (one, other) for part in job.parts if isinstance(part, Span)]
        if not (one.is_copy and other.is_copy and len(spans) == 2):
            return False
        return one.dtype is other.dtype and self._sources.are_equal(
            *((s.storage, s.first, s.nbytes) for s in spans)
        )

    def _add(self, job: Job) -> None:
        names = job.names
        if self._destination.is_safetensors:
            if self._plan.target.origin != "file":
                # As safetensors.torch.save_model has it, which load_model understands.
                names = (min(job.names),)
                self._tied.update((name, names[0]) for name in job.names if name != names[0])
            for name in names:
                self._items[name] = _Item(self._entry(job, name), (name,), job)
        else:
            self._items[names[0]] = _Item(self._entry(job, names[0]), names, job)

    def _entry(self, job: Job, name: str) -> Entry:
        dtype, shape = _of_format(job, self._destination)
        return Entry(name, dtype, shape, lambda: self._chunks(job))

    def _chunks(self, job: Job) -> Iterator[Chunk]:
        """The bytes of a tensor as they are to be."""
        for part in job.parts:
            if not isinstance(part, Span):
                from modelinspect.transplant.arrays import made

                yield from made(part, self._sources.read)
            elif part.is_copy:
                yield from self._sources.chunks(part.storage, part.first, part.nbytes)
            else:
                yield from self._converted(part)

    def _converted(self, part: Span) -> Iterator[Chunk]:
        from modelinspect.transplant.arrays import converted

        for start in range(0, part.nbytes, _AT_ONCE):
            raw = self._sources.read(part.storage, part.first + start, min(_AT_ONCE, part.nbytes - start))
            yield converted(raw, part.stored, part.written)

    # -- files

    def write(self, most: int | None, texts: Mapping[str, str]) -> Written:
        """Everything, to where it belongs."""
        start = perf_counter()
        items = list(self._items.values())
        shards = [items] if most is None else split(items, most, lambda item: item.entry.nbytes)
        is_file = len(shards) == 1 and self._destination.is_file
        place = self._destination.path if is_file else self._destination.folder
        used = {storage.file for row in self._plan.source for storage, _ in row.storages()}
        real = free_place(place, used, is_folder=not is_file)
        check_space(real, self._in_all // 2, place)
        texts = {**self._tied, **texts}
        if is_file:
            files = [place]
            with TemporaryFile(real) as temporary:
                self._write_file(temporary.descriptor, temporary.path, items, texts)
                self._settle(temporary)
        else:
            files = [os.path.join(place, name) for name in self._write_folder(real, shards, texts)]
        copied = sum(item.job.is_copy for item in items)
        return Written(
            path=place,
            files=tuple(files),
            nbytes=self._nbytes,
            tensors=sum(len(item.names) for item in items),
            copied=copied,
            transformed=len(items) - copied,
            verified=len(items),
            tied=self._tied,
            write_seconds=perf_counter() - start - self._verify_seconds,
            verify_seconds=self._verify_seconds,
            notes=tuple(self._notes),
        )

    def _write_folder(
        self, real: str, shards: Sequence[Sequence[_Item]], texts: Mapping[str, str]
    ) -> list[str]:
        """The names of the files."""
        stem, suffix = self._destination.stem, self._destination.suffix
        names = [shard_name(stem, suffix, number, len(shards)) for number in range(1, len(shards) + 1)]
        names = names if len(shards) > 1 else [stem + suffix]
        with TemporaryFolder(real) as temporary:
            for file, items in zip(names, shards):
                path = os.path.join(temporary.path, file)
                with _new_file(path, self._destination.path) as descriptor:
                    self._write_file(descriptor, path, items, texts)
            if len(shards) > 1:
                names.append(f"{stem}{suffix}.index.json")
                self._write_index(os.path.join(temporary.path, names[-1]), dict(zip(names, shards)))
            self._settle(temporary)
        return names

    def _settle(self, temporary: Temporary) -> None:
        self._sources.check()
        temporary.take_place()
        self._advance(self._in_all)

    def _write_file(
        self, descriptor: int, path: str, items: Sequence[_Item], texts: Mapping[str, str]
    ) -> None:
        """One file, written, verified and on disk."""
        shown = self._destination.path
        with Sink(descriptor, shown, self._advance) as sink:
            if self._destination.is_safetensors:
                write_safetensors(sink, [item.entry for item in items], texts)
            else:
                tensors = {name: item.entry for item in items for name in item.names}
                versions = self._plan.target.versions
                write_torch_zip(sink, self._in_order(tensors), versions=versions, metadata=texts)
            sink.flush()
            self._verify(path, descriptor, items, texts)  # while what was written goes to the disk
            sink.finish()
            self._nbytes += sink.written

    def _in_order(self, tensors: Mapping[str, Entry]) -> dict[str, Entry]:
        """Tied names stand where the target has them."""
        return {
            each.target: tensors[each.target] for each in self._plan.assignments if each.target in tensors
        }

    def _write_index(self, path: str, shards: Mapping[str, Sequence[_Item]]) -> None:
        where = {name: file for file, items in shards.items() for item in items for name in item.names}
        total = sum(item.entry.nbytes for items in shards.values() for item in items)
        shown = self._destination.path
        with _new_file(path, shown) as descriptor, Sink(descriptor, shown) as sink:
            sink.write(index_text(where, total))
            sink.finish()
            self._nbytes += sink.written
        found = open_checkpoint(path, self._destination.path)
        if {row.name for row in found.table} != set(where):
            raise _not_as_meant(self._destination.path, "its index names other tensors")

    def _advance(self, count: int) -> None:
        self._done = min(self._done + count, self._in_all)
        if self._progress is not None:
            self._progress(self._done, self._in_all)

    # -- what was written

    def _verify(self, path: str, descriptor: int, items: Sequence[_Item], texts: Mapping[str, str]) -> None:
        """
        Read a file as anybody would, and compare each tensor with its source.
        """
        start = perf_counter()
        shown = self._destination.path
        try:
            with no_collector():
                checkpoint = open_file(path, shown, self._destination.reader)
        except CheckpointError as error:
            raise _not_as_meant(shown, error.message) from error
        if self._destination.is_safetensors and checkpoint.metadata != texts:
            raise _not_as_meant(shown, "its metadata is different")
        rows = {row.name: row for row in checkpoint.section("all")}
        if set(rows) != {name for item in items for name in item.names}:
            raise _not_as_meant(shown, "its header names other tensors")
        for item in items:
            for name in item.names:
                self._check_row(rows[name], item.entry, rows[item.names[0]])
            self._check_bytes(rows[item.names[0]], item, descriptor)
        self._verify_seconds += perf_counter() - start

    def _check_row(self, row: TensorInfo, entry: Entry, first: TensorInfo) -> None:
        is_same = row.dtype is entry.dtype and row.shape == entry.shape and row.storage == first.storage
        if not is_same or not row.is_contiguous or row.extent is None or row.nbytes != entry.nbytes:
            raise _not_as_meant(self._destination.path, f"its header has {visible(row.name)!r} otherwise")

    def _check_bytes(self, row: TensorInfo, item: _Item, descriptor: int) -> None:
        assert row.extent is not None
        position = row.extent.offset
        for chunk in self._chunks(item.job):
            count = chunk.nbytes if isinstance(chunk, FileRange) else memoryview(chunk).nbytes
            if isinstance(chunk, FileRange):
                is_same = is_at(chunk, descriptor, position)
            else:
                is_same = os.pread(descriptor, count, position) == bytes(chunk)
            if not is_same:
                raise _not_as_meant(self._destination.path, f"{visible(row.name)!r} differs from its source")
            position += count
            self._advance(count)


@contextmanager
def _new_file(path: str, shown: str) -> Iterator[int]:
    """The descriptor of a new file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise cannot_write(shown, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _not_as_meant(path: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{visible(path)} was not written: what was reread is not what it should be",
        details=(reason,),
        hint="the disk, the memory or this program is at fault",
    )


def _of_format(job: Job, destination: Destination) -> tuple[DType, tuple[int, ...]]:
    """Data type and shape as the format has them: of 4-bit numbers torch counts pairs."""
    pairs, single = BY_NAME["float4_e2m1fn_x2"], BY_NAME["float4_e2m1fn"]
    if destination.is_safetensors and job.dtype is pairs and job.shape:
        return single, (*job.shape[:-1], 2 * job.shape[-1])
    if not destination.is_safetensors and job.dtype is single and job.shape and job.shape[-1] % 2 == 0:
        return pairs, (*job.shape[:-1], job.shape[-1] // 2)
    return job.dtype, job.shape
