"""
Files that an author puts into an archive beside the model: ``extra/`` of torch's formats.
"""

from __future__ import annotations

from modelinspect.readers.parts.zip_directory import ZipDirectory

__all__ = ["extra_files"]

MAX_FILES = 100
MAX_TEXT = 200
"""Bytes of a file that are shown as a text."""


def extra_files(directory: ZipDirectory, prefix: bytes) -> dict[str, str]:
    """
    Name of each file to its text, where that is short; of others to their size.

    Args:
        directory: Of the archive.
        prefix: What the names of such records begin with.
    """
    found: dict[str, str] = {}
    for number, name in enumerate(directory.names):
        if not name.startswith(prefix) or name == prefix:
            continue
        record = directory.record(number)
        label = record.name[len(prefix) :][:MAX_TEXT]
        text = None
        if record.size <= MAX_TEXT:
            text = _as_text(directory.content(record, MAX_TEXT))
        found[label] = f"{record.size:,} bytes" if text is None else text
        if len(found) == MAX_FILES:
            break
    return found


def _as_text(raw: bytes) -> str | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return text if text.replace("\n", "").replace("\t", "").isprintable() else None
