"""
Where the bytes of a checkpoint's files went: a partition of each file, to the byte.

Every byte has one owner, so that the lines add up to the size of the files, whatever these
claim; :mod:`modelinspect.analysis.partition` says who owns what. A remedy is named only where
it is one, with the bytes that it saves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from modelinspect.analysis.duplicates import Candidate, Duplicate, find_duplicates, repeated_bytes
from modelinspect.analysis.partition import Claims, Held, Shares, claims_of, partition, spans_of
from modelinspect.display import Displayed
from modelinspect.errors import visible
from modelinspect.readers.parts.file_map import FileMap, map_file
from modelinspect.readers.source import ByteSource, open_local
from modelinspect.tensors import Checkpoint

__all__ = ["Duplicate", "FileTotal", "FootprintLine", "FootprintReport", "Group", "Remedy", "footprint"]

Group = Literal["tensors", "contents", "container", "waste"]
"""``contents`` is what the files hold beside tensors, ``container`` what holds it all together."""

MANY_TENSORS = 1_000
HEAVY_CONTAINER = 0.1
"""Share of the files from which the headers of many small tensors are spoken of."""

_GROUPS: dict[str, Group] = {
    "objects": "contents", "code": "contents", "metadata": "contents", "records": "contents",
    "files": "contents", "header": "container", "alignment": "container",
    "slack": "waste", "unclaimed": "waste",
}  # fmt: skip
_NAME = 200
"""Characters of a tensor's name in a remedy."""
_VIEWS = 3
"""Names in a remedy's text."""
_WORDS, _WORD = 6, 40
"""Names of settings beside a pickle's line, and characters of one."""
_ORDER: tuple[Group, ...] = ("tensors", "contents", "container", "waste")


class FootprintLine(NamedTuple):
    """Bytes of one kind."""

    group: Group
    kind: str
    """The role of the section for tensors: ``model``, ``ema``, ``optimizer``, ``gradients``,
    ``other``; else ``objects``, ``code``, ``metadata``, ``records``, ``files``; ``header``,
    ``alignment``; ``slack``, ``unclaimed``."""
    section: str
    """Of the checkpoint; empty for the only one and for what is in none."""
    label: str
    """E.g. ``parameters``, ``exp_avg``, ``data.pkl``, ``zip: directory``."""
    nbytes: int
    tensors: int = 0
    """Tensors whose bytes these are; tied ones once."""
    remark: str = ""


class Remedy(NamedTuple):
    """What would make the files smaller, and by how much."""

    text: str
    saves: int
    """Bytes."""
    tensors: tuple[str, ...] = ()
    """Those that something is to be done with."""


class FileTotal(NamedTuple):
    """One file of the checkpoint; its bytes by group."""

    path: str
    nbytes: int
    groups: dict[Group, int]


@dataclass(frozen=True)
class FootprintReport(Displayed):
    """Where the bytes went: ``sum(line.nbytes for line in lines) == nbytes``."""

    target: str
    format: str
    nbytes: int
    """Of all files of the checkpoint."""
    lines: tuple[FootprintLine, ...] = field(repr=False)
    """By group; in each the largest first."""
    files: tuple[FileTotal, ...] = field(repr=False)
    duplicates: tuple[Duplicate, ...] | None = field(default=None, repr=False)
    """The most wasteful first. None: not known, because no values were read and the files
    keep no checksums."""
    remedies: tuple[Remedy, ...] = ()
    """The one that saves most first."""
    bytes_read: int = 0
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> dict[Group, int]:
        """Bytes of each group that has any, in their order."""
        return _by_group(self.lines)

    @property
    def waste(self) -> int:
        """Bytes that nothing needs: slack, what belongs to nothing, further copies of equal bytes."""
        return self.groups.get("waste", 0) + repeated_bytes(self.duplicates or ())


def _by_group(lines: Iterable[FootprintLine]) -> dict[Group, int]:
    totals: Counter[Group] = Counter()
    for line in lines:
        totals[line.group] += line.nbytes
    return {group: totals[group] for group in _ORDER if totals[group]}


def footprint(
    checkpoint: Checkpoint,
    *,
    values: bool = False,
    progress: Callable[[int, int], None] | None = None,
    open_source: Callable[[str], ByteSource] = open_local,
) -> FootprintReport:
    """
    Partition the files of a checkpoint.

    Args:
        checkpoint: Read from files.
        values: Read tensors of equal size, to tell which are stored twice.
        progress: While values are read: told of the bytes done and of those in all.
        open_source: Opens a file by its path.

    Raises:
        ModelInspectError: A file can't be opened any more.
    """
    claims, whole = claims_of(checkpoint), Shares()
    files: list[FileTotal] = []
    candidates: list[Candidate] = []
    read = 0
    for path in dict.fromkeys(file.path for file in checkpoint.files):
        with open_source(path) as source:
            storages = claims.by_file.get(path, [])
            drawn = map_file(source, checkpoint.format, spans_of(storages, source.size))
            read += source.bytes_read
        shares = partition(drawn, storages, whole.runs_left)
        files.append(FileTotal(path, drawn.size, _by_group(_lines(claims, shares, ""))))
        candidates += _candidates(drawn, storages, claims)
        whole.add(shares)
    found = find_duplicates(candidates, values, progress)
    lines = _lines(claims, whole, _settings(checkpoint))
    nbytes = sum(file.nbytes for file in files)
    return FootprintReport(
        target=checkpoint.source,
        format=checkpoint.format,
        nbytes=nbytes,
        lines=lines,
        files=tuple(files),
        duplicates=found.groups,
        remedies=_remedies(claims, lines, found.groups or ()),
        bytes_read=checkpoint.bytes_read + read + found.bytes_read,
        notes=tuple(filter(None, (*_notes(claims, whole, lines, nbytes), found.note))),
    )


def _candidates(drawn: FileMap, storages: Sequence[Held], claims: Claims) -> list[Candidate]:
    """The storages of one file that are tensors to their last byte, with what it says of their bytes."""
    found = []
    seen: set[int] = set()
    for one in storages:
        storage = one.storage
        if one.has_slack or storage.offset in seen:
            continue
        if storage.offset is not None and storage.nbytes:
            seen.add(storage.offset)
        place = drawn.find(storage.key) if drawn.find is not None else None
        dtype, name = one.pieces[0][0].dtype.name, claims.names[storage]
        begin = storage.offset
        if place is None or not (begin is None or 0 <= begin - place.data <= place.size - storage.nbytes):
            found.append(Candidate(storage, name, dtype, None))
        else:
            # Of a NumPy archive a record has a header before the numbers.
            found.append(Candidate(storage, name, dtype, place.checksum, place.size == storage.nbytes))
    return found


def _settings(checkpoint: Checkpoint) -> str:
    """The first words of what the pickles hold beside tensors, as far as it was kept."""
    words = list(dict.fromkeys(key.partition(".")[0] for key in checkpoint.metadata))
    shown = [visible(word[:_WORD]) for word in words[:_WORDS]]
    return ": " + ", ".join(shown) + (", …" if len(words) > len(shown) else "") if shown else ""


def _lines(claims: Claims, shares: Shares, settings: str) -> tuple[FootprintLine, ...]:
    """All lines that have bytes, by group, the largest first."""
    several = len({section for _, section, _ in claims.lines}) > 1
    lines = []
    for number, (kind, section, label) in enumerate(claims.lines):
        if shares.lines[number]:
            where = section if several else ""
            group = _GROUPS.get(kind, "tensors")
            lines.append(
                FootprintLine(group, kind, where, label, shares.lines[number], claims.tensors[number])
            )
    for (kind, label, remark), nbytes in shares.rest.items():
        if kind == "objects" and remark:
            remark += settings  # noqa: PLW2901
        lines.append(FootprintLine(_GROUPS[kind], kind, "", label, nbytes, 0, remark))
    return tuple(sorted(lines, key=lambda line: (_ORDER.index(line.group), -line.nbytes)))


# -- what to do about it --------------------------------------------------------------------


def _remedies(
    claims: Claims, lines: Sequence[FootprintLine], duplicates: Sequence[Duplicate]
) -> tuple[Remedy, ...]:
    sums: Counter[str] = Counter()
    for line in lines:
        sums[line.kind] += line.nbytes
    held = [one for one in claims.held.values() if one.saved_by_cloning()] if sums["slack"] else []
    held.sort(key=lambda one: -one.saved_by_cloning())
    views = tuple(name for one in held for name in claims.views(one))
    proposed = [
        Remedy(
            f".clone() before saving, of views of larger storages: {_some(views)}",
            sum(one.saved_by_cloning() for one in held),
            views,
        ),
        Remedy("save without the optimizer", sums["optimizer"] if sums["model"] else 0),
        Remedy("save without the gradients", sums["gradients"] if sums["model"] else 0),
        Remedy(
            "save one tensor under all its names where they are meant to be equal", repeated_bytes(duplicates)
        ),
        Remedy("load it and save it anew, which leaves out what belongs to nothing", sums["unclaimed"]),
    ]
    return tuple(sorted((one for one in proposed if one.saves > 0), key=lambda one: -one.saves))


def _some(names: Sequence[str]) -> str:
    """The first names, and how many others there are; a view left as it is keeps its whole storage."""
    more = f" and {len(names) - _VIEWS:,} more" if len(names) > _VIEWS else ""
    return ", ".join(visible(name[:_NAME]) for name in names[:_VIEWS]) + more


def _notes(claims: Claims, shares: Shares, lines: Sequence[FootprintLine], nbytes: int) -> Iterable[str]:
    for (section, owner), (tensors, shared) in claims.shared.items():
        yield (
            f"{_section(section)} shares {shared:,} bytes ({_tensors(tensors)}) with {_section(owner)}, "
            "where they are counted"
        )
    records, packed, unpacked = shares.packed
    if records:
        yield (
            f"{records:,} of its records with tensors are compressed: {packed:,} bytes stand for "
            f"{unpacked:,}; slack is not told in them"
        )
    if shares.nowhere:
        yield (
            f"the numbers of {_tensors(shares.nowhere)} are written in another form than a tensor's bytes: "
            "they count with what is no tensor"
        )
    if claims.without_bytes:
        yield f"without bytes in the files: {_tensors(claims.without_bytes)}"
    if shares.claimed_twice:
        yield f"{shares.claimed_twice:,} bytes are claimed twice and count for the first that does"
    if shares.untold:
        yield f"{_tensors(shares.untold)} with too many holes to tell the slack in between"
    yield from _heavy(lines, nbytes)


def _heavy(lines: Sequence[FootprintLine], nbytes: int) -> Iterable[str]:
    overhead = sum(line.nbytes for line in lines if line.group == "container")
    tensors = sum(line.tensors for line in lines)
    if tensors >= MANY_TENSORS and overhead >= HEAVY_CONTAINER * nbytes:
        yield (
            f"headers and alignment take {overhead // tensors:,} bytes a tensor: its {tensors:,} tensors are "
            "small, and fewer of them, stacked, would take less"
        )


def _tensors(count: int) -> str:
    return f"{count:,} tensor{'' if count == 1 else 's'}"


def _section(name: str) -> str:
    return visible(name) or "what is in no section"
