"""
Which tensor each byte of a file belongs to, and what belongs to none: no byte twice.

Storages claim their bytes in the order of the file, and within a storage the tensors in the
order in which they were named, the model's first. What a storage holds and no tensor reaches
is slack. All other bytes are what the file's own map says they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

from modelinspect.analysis.reach import MAX_ALL_RUNS, leaves, runs
from modelinspect.readers.parts.file_map import FileMap
from modelinspect.tensors import Checkpoint, Storage, TensorInfo

__all__ = ["Claims", "Held", "Shares", "claims_of", "partition", "spans_of"]

MAX_MOMENTS = 12
"""Lines of one optimizer; what else its state holds is one more."""
_SPAN = re.compile(r"\[[\d:, ]+\]$")
"""Which part of a tensor a chunk of a distributed checkpoint is: ``exp_avg[3:5, 0:3]``."""

Key = tuple[str, str, str]
"""Of a line: kind, section, label."""
Piece = tuple[int, int, int]
"""First byte, the byte after the last, and the number of the line."""


class Held:
    """One storage and the tensors that look into it."""

    __slots__ = ("has_slack", "line", "pieces", "section", "slack", "storage", "ties")

    def __init__(self, storage: Storage, section: str, line: int, slack: int) -> None:
        self.storage = storage
        self.section = section
        self.line = line
        """Of its first tensor."""
        self.slack = slack
        """Number of the line for what no tensor reaches."""
        self.pieces: list[tuple[TensorInfo, int]] = []
        self.ties: set[object] = set()
        self.has_slack = False

    def saved_by_cloning(self) -> int:
        """Bytes less if each tensor had a storage of its own. Tensors that overlap may need more."""
        if len(self.pieces) == 1:
            return max(0, self.storage.nbytes - self.pieces[0][0].nbytes)
        sizes = {tensor.tie_key: tensor.nbytes for tensor, _ in self.pieces}
        return max(0, self.storage.nbytes - sum(sizes.values()))


class Claims:
    """All storages of a checkpoint by their files, and the lines that their bytes go to."""

    def __init__(self) -> None:
        self.lines: list[Key] = []
        self.tensors: Counter[int] = Counter()
        """Of each line; tied ones once."""
        self.by_file: dict[str, list[Held]] = {}
        self.held: dict[Storage, Held] = {}
        self.names: dict[Storage, str] = {}
        """A tensor of each storage, preceded by its section's name where there are several."""
        self.shared: dict[tuple[str, str], list[int]] = {}
        """Of a section and the earlier one that has the bytes: tensors and bytes."""
        self.has_sections = False
        self.without_bytes = 0
        """Tensors that are saved without any."""
        self._known: dict[Key, int] = {}

    def line(self, kind: str, section: str, label: str) -> int:
        """The number of a line."""
        key = (kind, section, label)
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.lines)
            self.lines.append(key)
        return number

    def views(self, one: Held) -> Iterator[str]:
        """Names of all tensors of a storage, preceded by their sections' where there are several."""
        for tensor, line in one.pieces:
            section = self.lines[line][1]
            yield f"{section}.{tensor.name}" if section and self.has_sections else tensor.name

    def add(self, tensor: TensorInfo, storage: Storage, section: str, line: int, slack: int) -> bool:
        """A tensor and the storage that it looks into. Is it the first there?"""
        one = self.held.get(storage)
        if one is None:
            one = self.held[storage] = Held(storage, section, line, slack)
            self.by_file.setdefault(storage.file, []).append(one)
            one.pieces.append((tensor, line))
            self.tensors[line] += 1
            return True
        if one.section != section:
            shared = self.shared.setdefault((section, one.section), [0, 0])
            shared[0] += 1
            shared[1] += tensor.span[1]
        if not one.ties:
            one.ties.add(one.pieces[0][0].tie_key)
        if tensor.tie_key not in one.ties:
            one.ties.add(tensor.tie_key)
            one.pieces.append((tensor, line))
            if one.section == section:
                self.tensors[line] += 1
        return False


def claims_of(checkpoint: Checkpoint) -> Claims:
    """
    What the tensors of a checkpoint claim. Bytes that sections share are the model's, else the first's.
    """
    claims = Claims()
    order = sorted(checkpoint.tables, key=lambda name: name != checkpoint.model_section)
    claims.has_sections = len(order) > 1
    for name in order:
        table, role = checkpoint.tables[name], checkpoint.roles[name]
        slack = claims.line("slack", name, "slack of views")
        prefix = f"{name}." if name and claims.has_sections else ""
        word_of = _labeller(role)
        for tensor in (*table.tensors, *table.unregistered):
            line = claims.line(role, name, word_of(tensor))
            for part in leaves(tensor) if tensor.parts else (tensor,):
                if part.storage is None:
                    claims.without_bytes += part.numel > 0
                elif claims.add(part, part.storage, name, line, slack):
                    claims.names[part.storage] = prefix + tensor.name
    return claims


def _labeller(role: str) -> Callable[[TensorInfo], str]:
    """The word for a tensor's line among those of its section."""
    if role == "model":
        kinds = {"parameter": "parameters", "buffer": "buffers"}
        return lambda tensor: kinds.get(tensor.kind, "other tensors")
    if role != "optimizer":
        return lambda tensor: "tensors"  # noqa: ARG005
    words: set[str] = set()

    def moment(tensor: TensorInfo) -> str:
        parts = [part for part in tensor.name.split(".") if not part.isdigit()]
        word = _SPAN.sub("", parts[-1]) if parts else "state"
        if word not in words and len(words) >= MAX_MOMENTS:
            return "other state"
        words.add(word)
        return word

    return moment


class Shares:
    """What the bytes of one file, or of several, went to."""

    def __init__(self) -> None:
        self.lines: Counter[int] = Counter()
        """Bytes by the number of a line of the claims."""
        self.rest: Counter[tuple[str, str, str]] = Counter()
        """Bytes of the container by kind, label and remark."""
        self.packed = [0, 0, 0]
        """Compressed records that hold tensors: how many, their bytes, and unpacked."""
        self.nowhere = 0
        """Storages that are in the file in no form of their own."""
        self.claimed_twice = 0
        """Bytes that belong to two storages, or to two parts of the container."""
        self.untold = 0
        """Views with holes of which there are too many to tell."""
        self.runs_left = MAX_ALL_RUNS

    def add(self, other: Shares) -> None:
        """Add those of another file."""
        self.lines.update(other.lines)
        self.rest.update(other.rest)
        self.packed = [mine + its for mine, its in zip(self.packed, other.packed)]
        self.nowhere += other.nowhere
        self.claimed_twice += other.claimed_twice
        self.untold += other.untold
        self.runs_left = other.runs_left


def spans_of(storages: Sequence[Held], size: int) -> list[tuple[int, int]]:
    """Where the storages of a file lie, in order, inside it."""
    places = (
        (one.storage.offset, min(one.storage.offset + one.storage.nbytes, size))
        for one in storages
        if one.storage.offset is not None and one.storage.nbytes
    )
    return sorted(place for place in places if place[0] < place[1])


def partition(drawn: FileMap, storages: Sequence[Held], runs_left: int = MAX_ALL_RUNS) -> Shares:
    """
    Give each byte of a file to one line.

    Args:
        drawn: The file's map.
        storages: Those that lie in it.
        runs_left: Pieces of tensors that may be told apart.

    Returns:
        Shares that add up to the size of the file.
    """
    shares = Shares()
    shares.runs_left = runs_left
    shares.claimed_twice = drawn.overlaps
    pieces: list[Piece] = []
    for one in storages:
        _claim(one, drawn, pieces, shares)
    pieces.sort()
    _lay(pieces, drawn, shares)
    return shares


def _claim(one: Held, drawn: FileMap, pieces: list[Piece], shares: Shares) -> None:
    storage = one.storage
    begin, nbytes = storage.offset, storage.nbytes
    if begin is None:
        place = drawn.find(storage.key) if drawn.find is not None else None
        if place is None or not place.packed:
            shares.nowhere += nbytes > 0
            return
        pieces.append((place.data, place.data + place.packed, one.line))
        shares.packed = [mine + more for mine, more in zip(shares.packed, (1, place.packed, nbytes))]
        return
    if len(one.pieces) == 1:
        tensor, line = one.pieces[0]
        if tensor.explicit_stride is None and tensor.span == (0, nbytes):
            if nbytes:
                pieces.append((begin, begin + nbytes, line))
            return
    pieces += _inside(one, begin, shares)


def _inside(one: Held, begin: int, shares: Shares) -> list[Piece]:
    """Who has which bytes of a storage that is not one tensor's from end to end."""
    end = one.storage.nbytes
    wanted: list[tuple[int, int, int, int]] = []
    for order, (tensor, line) in enumerate(one.pieces):
        reached = runs(tensor, shares.runs_left)
        shares.runs_left -= max(0, len(reached) - 1)
        shares.untold += len(reached) == 1 and tensor.nbytes < tensor.span[1]
        wanted += [(max(0, first), min(last, end), order, line) for first, last in reached]
    wanted.sort()
    found: list[Piece] = []
    position = 0
    for first, last, line in _in_turn(wanted):
        if first > position:
            found.append((begin + position, begin + first, one.slack))
        found.append((begin + first, begin + last, line))
        position = last
    if position < end:
        found.append((begin + position, begin + end, one.slack))
    one.has_slack = any(line == one.slack for *_, line in found)
    return found


def _in_turn(wanted: Sequence[tuple[int, int, int, int]]) -> Iterator[Piece]:
    """
    Ranges apart and in order; where several want the same bytes, those of the least number have them.

    Args:
        wanted: First byte, the byte after the last, number and line, sorted.
    """
    waiting: list[tuple[int, int, int]] = []
    position = index = 0
    while index < len(wanted) or waiting:
        if not waiting:
            position = max(position, wanted[index][0])
        while index < len(wanted) and wanted[index][0] <= position:
            _, last, order, line = wanted[index]
            heappush(waiting, (order, last, line))
            index += 1
        _, last, line = waiting[0]
        if last <= position:
            heappop(waiting)
            continue
        after = min(last, wanted[index][0]) if index < len(wanted) else last
        yield position, after, line
        position = after


def _lay(pieces: Sequence[Piece], drawn: FileMap, shares: Shares) -> None:
    """Lay the tensors' pieces, in order, over the map."""
    starts, codes = drawn.starts, drawn.codes
    sizes = [end - start for start, end in zip(starts, [*starts[1:], drawn.size])]
    touched = [False] * len(starts)
    position = number = 0
    lines: Counter[int] = shares.lines
    last = len(starts) - 1
    for begin, end, line in pieces:
        if begin < position:
            shares.claimed_twice += min(position, end) - begin
            begin = position  # noqa: PLW2901
        end = min(end, drawn.size)  # noqa: PLW2901
        if begin >= end:
            continue
        lines[line] += end - begin
        position = end
        while number < last and starts[number + 1] <= begin:
            number += 1
        while True:
            after = starts[number + 1] if number < last else drawn.size
            touched[number] = True
            sizes[number] -= min(after, end) - max(starts[number], begin)
            if end <= after:
                break
            number += 1
    _leave(sizes, codes, touched, drawn, shares)


def _leave(
    sizes: Sequence[int], codes: Sequence[int], touched: Sequence[bool], drawn: FileMap, shares: Shares
) -> None:
    """What no tensor has goes to the container."""
    plain = [0] * len(drawn.whats)
    beside = [0] * len(drawn.whats)
    for nbytes, code, is_touched in zip(sizes, codes, touched):
        if is_touched:
            beside[code] += nbytes
        else:
            plain[code] += nbytes
    for what, alone, besides in zip(drawn.whats, plain, beside):
        if what.kind != "data":
            if alone + besides:
                shares.rest[what] += alone + besides
            continue
        if alone:
            kind = "records" if what.label == "arrays of objects" else "unclaimed"
            shares.rest[(kind, what.label, what.remark)] += alone
        if besides:
            # A record with a tensor in it holds a header of its own, or more tensors than are known.
            shares.rest[("header", "headers inside records", "")] += besides
