"""
One thing to look into, and everything that was found so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from modelinspect.errors import visible
from modelinspect.readers.parts.pickle_symbols import Pickle
from modelinspect.readers.scanning.budget import MAX_DEPTH, MAX_FINDINGS, Budget
from modelinspect.readers.scanning.parts import absolute
from modelinspect.readers.scanning.seen import RULES, Finding, Level, LookedAt, NamedGlobal
from modelinspect.readers.source import ByteSource

__all__ = ["Item", "Scan"]

_MAX_RECORD = 200
_MAX_LINES = 10_000
"""Of what was looked at; further lines are counted."""
_MAX_NAMES = 10_000
_EVERY_NAME = 1_000
"""So many names are kept wherever they stand, and further ones that are not understood."""


class Item(NamedTuple):
    """A file, a record of an archive, or bytes that a pickle hands to a loader."""

    source: ByteSource
    record: str
    """Where in the file; empty for the file itself."""
    depth: int = 0
    context: str = ""
    """What it lies in, where that matters: ``script``, ``package``, ``torch``, ``argument`` (of a call), or
    which part of the tar layout of torch."""
    is_pickle: bool = False
    """Its name or place says that a loader takes it for a pickle."""
    begin: int = 0
    """Where in the source it begins."""
    is_archive: bool = False
    """It is a zip archive, whatever it begins with."""
    after: Callable[[Pickle], None] | None = None
    """Is told of its first pickle."""

    def inside(self, source: ByteSource, name: str, *, context: str = "", is_pickle: bool = False) -> Item:
        """Something that lies in this one."""
        shown = visible(name)
        shown = shown if len(shown) <= _MAX_RECORD else shown[: _MAX_RECORD - 1] + "…"
        record = f"{self.record}!{shown}" if self.record else shown
        return Item(source, record, self.depth + 1, context, is_pickle)


@dataclass
class Scan:
    """
    What was found in one file; its parts are handed on to be looked into.
    """

    file: str
    budget: Budget
    looked_at: list[LookedAt] = field(default_factory=list)
    names: list[NamedGlobal] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    waiting: deque[Item] = field(default_factory=deque)
    has_more_names: bool = False
    understood: set[tuple[str, str]] = field(default_factory=set)
    """Module and name of what was kept and is understood."""

    def push(self, item: Item) -> None:
        """Look into it later."""
        if item.depth > MAX_DEPTH:
            self.find(item, "not-looked-into", f"more than {MAX_DEPTH} things inside each other")
            return
        self.waiting.append(item)

    def find(
        self,
        item: Item,
        rule: str,
        message: str,
        position: int | None = None,
        *,
        level: Level | None = None,
        content: bytes = b"",
        key: str = "",
    ) -> None:
        """
        Keep a finding.

        Args:
            item: Where.
            rule: Key of :data:`RULES`.
            message: What a person reads; escaped here.
            position: Byte of the item.
            level: Instead of the rule's.
            content: What a fingerprint is to depend on beside rule, record and key.
            key: Instead of the message in the fingerprint.
        """
        if len(self.findings) >= MAX_FINDINGS:
            if len(self.findings) == MAX_FINDINGS:
                text = f"more than {MAX_FINDINGS:,} findings in this file; the rest is left out"
                self.findings.append(self._finding(item, "more", text, None, None, b"", ""))
            return
        self.findings.append(self._finding(item, rule, visible(message), position, level, content, key))

    def _finding(
        self,
        item: Item,
        rule: str,
        message: str,
        position: int | None,
        level: Level | None,
        content: bytes,
        key: str,
    ) -> Finding:
        from hashlib import sha256  # OpenSSL takes milliseconds to load, and most files have no findings

        pieces = (rule, item.record, key or message)
        digest = sha256("\0".join(pieces).encode("utf-8", "backslashreplace") + b"\0" + content)
        offset = absolute(item.source, position or 0)
        fingerprint = digest.hexdigest()[:32]
        return Finding(
            rule, level or RULES[rule].level, message, self.file, item.record, position, offset, fingerprint
        )

    def looked(
        self, item: Item, what: str, *, into: bool = True, why: str = "", records: int = 1, names: int = 0
    ) -> None:
        """Note what was done with an item."""
        if len(self.looked_at) < _MAX_LINES:
            size = item.source.size - item.begin
            self.looked_at.append(LookedAt(self.file, item.record, what, size, into, why, records, names))
            return
        last = self.looked_at[-1]
        self.looked_at[-1] = last._replace(what="and more", record="", records=last.records + 1)

    def name(self, found: NamedGlobal) -> None:
        """Keep a name; of very many those that are understood once, for archives repeat them."""
        if found.group == "understood":
            spelt = found.module, found.name
            if len(self.names) >= _EVERY_NAME and spelt in self.understood:
                return
            self.understood.add(spelt)
        if len(self.names) < _MAX_NAMES:
            self.names.append(found)
        else:
            self.has_more_names = True
