"""
What some bytes are, from how they begin.
"""

from __future__ import annotations

__all__ = ["HEAD_BYTES", "PICKLE_SUFFIXES", "TEXT_SUFFIXES", "is_tar", "is_text", "kind_of", "may_be_pickle"]

HEAD_BYTES = 512
PICKLE_SUFFIXES = (
    ".pkl", ".pickle", ".pck", ".pk", ".pcl", ".joblib", ".dill", ".p", ".debug_pkl", ".distcp", ".metadata",
)  # fmt: skip
"""Names that loaders take for pickles without looking."""
TEXT_SUFFIXES = (".json", ".py", ".jinja", ".jinja2", ".yaml", ".yml", ".so", ".pyc")
"""Names whose contents may be run, or say what is."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x93NUMPY", "npy"),
    (b"GGUF", "gguf"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\x04\x22\x4d\x18", "LZ4"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x7fELF", "program"),
    (b"MZ", "program"),
    (b"\xca\xfe\xba\xbe", "program"),
    (b"\xcf\xfa\xed\xfe", "program"),
    (b"\xce\xfa\xed\xfe", "program"),
    (b"version https://git-lfs", "Git LFS pointer"),
)
_ANY_START = tuple(start for start, _ in _STARTS)
# A zlib stream begins with the method and a check bit pattern (RFC 1950): joblib writes those.
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
# Opcodes that a pickle without a protocol can begin with: they push something onto an empty stack.
_STARTS_OF_PICKLES = frozenset(
    b"(]}cILNVSFGJKMTUX)PCB\x82\x83\x84\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96\x97"
)


def kind_of(head: bytes, size: int) -> str:
    """
    The kind, or an empty text where nothing is known.

    Args:
        head: The first :data:`HEAD_BYTES`, or fewer.
        size: Bytes in all.
    """
    # Before the others: a header may be as long as their first bytes say, 93 or 35,615.
    if _is_safetensors(head, size):
        return "safetensors"
    if head.startswith(_ANY_START):
        kind = next(kind for start, kind in _STARTS if head.startswith(start))
        return "" if kind == "program" and not _is_program(head, size) else kind
    if head[:2] in _ZLIB:
        return "zlib"
    if is_tar(head):
        return "tar"
    return ""


def _is_safetensors(head: bytes, size: int) -> bool:
    """A length and an object; one that is cut off in its header has a name or nothing in that."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or not 2 <= length <= 100_000_000:
        return False
    return length + 8 <= size or head[9:10] in (b'"', b"}")


def _is_program(head: bytes, size: int) -> bool:
    """Two letters prove nothing: a Windows program says where its second header is."""
    if head[:2] != b"MZ":
        return size > len(head[:4])
    return 64 <= int.from_bytes(head[60:64], "little") < size


def is_tar(head: bytes) -> bool:
    """A member's header carries a checksum, whichever the dialect (POSIX, ustar)."""
    if len(head) < 512 or not head[0]:
        return False
    field = head[148:156].strip(b" \0")
    if not field or not all(digit in b"01234567" for digit in field):
        return False
    return int(field, 8) == sum(head[:148]) + 8 * 32 + sum(head[156:512])


def may_be_pickle(head: bytes) -> bool:
    """Could a pickle begin so? To be asked before one is read."""
    if head[:1] == b"\x80":
        return len(head) > 2 and head[1] <= 5
    return bool(head) and head[0] in _STARTS_OF_PICKLES


_NO_TEXT = bytes(set(range(32)) - set(b"\t\n\f\r\x1b"))


def is_text(head: bytes) -> bool:
    """Is it text that people read?"""
    if head.translate(None, _NO_TEXT) != head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4
    return bool(head)
