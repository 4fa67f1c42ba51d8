"""
The formats: how each is recognised and which module reads it.

A format is one row here and one module with ``read(source, target)``. The
first bytes decide; the suffix only orders the guesses. A module that finds
that the file is not its own raises :class:`NotThisFormat` with the reason, and
the next candidate is asked; any other error is final, because the file is of
that format and broken.
"""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from modelinspect.errors import (
    CheckpointError,
    ModelInspectError,
    UnrecognisedFileError,
    UsageError,
    visible,
)
from modelinspect.readers.parts.quantized import settled
from modelinspect.readers.source import ByteSource, open_local
from modelinspect.tensors import Checkpoint

__all__ = [
    "FORMATS", "Format", "NotThisFormat", "no_collector", "open_checkpoint", "open_file",
    "open_source",
]  # fmt: skip

HEAD_BYTES = 512
"""Bytes that every check below may look at."""


class NotThisFormat(CheckpointError):  # noqa: N818 - it is no error where another reader follows
    """
    A reader does not take the file for its own; the message says why.

    Args:
        message: The reason, short.
        really: What the file is instead, where the reader knows, e.g. "a Keras model".
        hint: What to do with such a file.
    """

    def __init__(self, message: str, *, really: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.really = really


_Objection = Callable[[bytes, int], "str | None"]
_Known = tuple[str, "str | None", tuple[str, ...]]
"""What a file is, what to do with it, and sentences why it is not read."""


class Format(NamedTuple):
    """One row of the registry."""

    name: str
    title: str
    suffixes: tuple[str, ...]
    module: str
    """Has ``read(source: ByteSource, target: str) -> Checkpoint``."""
    objection: _Objection
    """Given the first bytes and the size: why it can't be this format, or None."""


def _not_safetensors(head: bytes, size: int) -> str | None:
    if size < 10:
        return "shorter than the smallest header"
    length = int.from_bytes(head[:8], "little")
    if length > 100_000_000:
        return "header would be longer than the 100,000,000 bytes allowed"
    if head[8:9] != b"{":
        return "no '{' after the first 8 bytes"
    return None


def _not_zip(head: bytes, size: int) -> str | None:  # noqa: ARG001
    return None if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") else "does not begin with PK 03 04"


# The first pickle of a legacy file is the integer 0x1950a86a20f9469cfc6c, as LONG1
# after a protocol mark and from protocol 4 on the mark of a frame; as decimal text in
# protocols 0 and 1 (torch/serialization.py, MAGIC_NUMBER).
_LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_LEGACY_MAGIC_TEXT = b"L119547037146038801333356L"


def _not_legacy(head: bytes, size: int) -> str | None:  # noqa: ARG001
    if _LEGACY_MAGIC in head[:32] or head.startswith(_LEGACY_MAGIC_TEXT):
        return None
    return "does not begin with the magic number of torch before 1.6"


def _not_tar(head: bytes, size: int) -> str | None:  # noqa: ARG001
    return None if head[257:262] == b"ustar" else "no 'ustar' at byte 257"


# What a pickle of protocol 2 or later begins with, and the opcodes that earlier ones do.
_PICKLE_STARTS = (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5", b"(", b"}", b"]", b")", b"c", b"l", b"d")


def _not_pickle(head: bytes, size: int) -> str | None:
    if size < 4:
        return "shorter than a pickle that holds something"
    return None if head.startswith(_PICKLE_STARTS) else "does not begin as a pickle does"


def _not_gguf(head: bytes, size: int) -> str | None:  # noqa: ARG001
    return None if head[:4] == b"GGUF" else "does not begin with GGUF"


def _not_npy(head: bytes, size: int) -> str | None:  # noqa: ARG001
    return None if head[:6] == b"\x93NUMPY" else "does not begin with 93 NUMPY"


def _not_onnx(head: bytes, size: int) -> str | None:
    # Protocol buffers have no magic: the fields of a ModelProto come in any order, mostly
    # ir_version (field 1, a varint) first (onnx.proto3).
    if size < 8:
        return "shorter than a model"
    return None if head[:1] in _MODEL_PROTO_TAGS else "does not begin with a field of a ModelProto"


_MODEL_PROTO_TAGS = (b"\x08", b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42", b"\x72")


def _row(name: str, title: str, suffixes: tuple[str, ...], module: str, objection: _Objection) -> Format:
    return Format(name, title, suffixes, f"modelinspect.readers.formats.{module}", objection)


_TORCH = (".pt", ".pth", ".bin", ".ckpt")
FORMATS: tuple[Format, ...] = (
    _row("safetensors", "safetensors", (".safetensors",), "safetensors", _not_safetensors),
    _row("torch-zip", "torch.save zip archive (torch 1.6 and later)", _TORCH, "torch_zip", _not_zip),
    _row("torch-legacy", "torch.save before 1.6", (*_TORCH, ".t7"), "torch_legacy", _not_legacy),
    _row(
        "torchscript",
        "TorchScript archive (torch.jit.save)",
        (".pt", ".ptl", ".jit", ".torchscript"),
        "torchscript",
        _not_zip,
    ),
    _row("torch-export", "torch.export archive", (".pt2",), "torch_export", _not_zip),
    _row("torch-package", "torch.package archive", (".pt",), "torch_package", _not_zip),
    _row("torch-tar", "torch.save of torch 0.1 (tar archive)", _TORCH, "torch_tar", _not_tar),
    _row("gguf", "GGUF", (".gguf",), "gguf", _not_gguf),
    _row("npy", "NumPy array", (".npy",), "npy", _not_npy),
    _row("npz", "NumPy archive", (".npz",), "npz", _not_zip),
    _row("pickle", "pickle", (".pkl", ".pickle"), "plain_pickle", _not_pickle),
    _row("onnx", "ONNX model", (".onnx",), "onnx", _not_onnx),
)


def open_checkpoint(path: str, target: str | None = None, read_as: str | None = None) -> Checkpoint:
    """
    Read the headers of a checkpoint: a file, a sharded index or a directory.

    Args:
        path: What to open; ``-`` is standard input. A pipe is read to its end first.
        target: How the user spelt it; shown in reports and errors.
        read_as: A format's name; skips recognition.

    Raises:
        TargetError: There is nothing to read.
        CheckpointError: It cannot be read; the class and message say why.
    """
    target = path if target is None else target
    if is_stream(path):
        return _open_stream(path, target, read_as)
    with no_collector():
        if os.path.isdir(path):
            return settled(_directories("folder").read_directory(path, target))
        if path.endswith(".index.json"):
            return settled(_directories("sharded").read_index(path, target))
        if path.endswith(".distcp") and read_as is None:
            return settled(_directories("dcp").read_alone(path, target))
        return settled(open_file(path, target, read_as))


def _open_stream(path: str, target: str, read_as: str | None) -> Checkpoint:
    from modelinspect.readers.parts.stream import as_file

    copy = as_file(path, None if read_as else why_not)
    try:
        return open_checkpoint(copy, target, read_as)
    except ModelInspectError as error:
        # What speaks of the file means the stream.
        shown = "standard input" if path == "-" else visible(target)
        error.message = error.message.replace(copy, shown)
        error.details = tuple(line.replace(copy, shown) for line in error.details)
        raise


def is_stream(path: str) -> bool:
    """Standard input, or a pipe?"""
    if path == "-":
        return True
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def why_not(head: bytes) -> str | None:
    """Why a stream that begins so can't be a checkpoint; None where it may be one."""
    known = _known(head)
    if known is not None:
        return f"it is {known[0]}" + (f": {known[1]}" if known[1] else "")
    # Of a stream the length is not known: as if there was enough.
    if any(row.objection(head, 1 << 62) is None for row in FORMATS):
        return None
    return f"first bytes: {head[:8].hex(' ') or 'none'}"


def open_file(path: str, target: str, read_as: str | None = None) -> Checkpoint:
    """One file, whatever its format. Arguments and errors as :func:`open_checkpoint`."""
    with open_local(path) as source:
        return open_source(source, target, read_as)


def open_source(source: ByteSource, target: str, read_as: str | None = None) -> Checkpoint:
    """The same of a file that is open; what its reader keeps on the source can be asked for afterwards."""
    if source.size == 0:
        raise UnrecognisedFileError(f"{visible(target)} is empty", details=("it has 0 bytes",))
    if read_as is not None:
        return _forced(source, target, _named(read_as))
    return _first_reader(source, target)


def _forced(source: ByteSource, target: str, row: Format) -> Checkpoint:
    try:
        return _reader(row.module)(source, target)
    except NotThisFormat as error:
        raise UnrecognisedFileError(
            f"{visible(target)} cannot be read as {row.name}", details=(error.message,)
        ) from error


def _first_reader(source: ByteSource, target: str) -> Checkpoint:
    head = source.read_upto(0, HEAD_BYTES)
    known: _Known | None = None
    tried: dict[str, list[str]] = {}
    for candidate in _by_suffix(source.path):
        objection = candidate.objection(head, source.size)
        if objection is None:
            try:
                return _reader(candidate.module)(source, target)
            except NotThisFormat as error:
                objection = error.message
                if error.really is not None:
                    known = error.really, error.hint, ()
        tried.setdefault(objection, []).append(candidate.name)
    raise _unrecognised(target, head, known or _known(head, source), tried)


def _unrecognised(
    target: str, head: bytes, known: _Known | None, tried: dict[str, list[str]]
) -> UnrecognisedFileError:
    first = f"first bytes: {head[:8].hex(' ')}"
    if known is not None:
        return UnrecognisedFileError(
            f"{visible(target)} is {known[0]}, which this version does not read",
            details=(*known[2], first),
            hint=known[1],
        )
    return UnrecognisedFileError(
        f"{visible(target)} is not a checkpoint this version can read",
        details=(first, *(f"no {', '.join(names)}: {reason}" for reason, names in tried.items())),
        hint="--read-as NAME reads it as NAME anyway",
    )


def _known(head: bytes, source: ByteSource | None = None) -> _Known | None:
    """What the file is where that is known, what to do about it, and perhaps why it is not read."""
    from modelinspect.readers.parts.foreign import known_by_first_bytes, known_otherwise

    known = known_by_first_bytes(head)
    if known is None and source is not None:
        known = known_otherwise(source, head)
    return None if known is None else (known.title, known.hint, (known.why,) if known.why else ())


def _by_suffix(path: str) -> list[Format]:
    lowered = path.lower()
    return sorted(FORMATS, key=lambda row: not lowered.endswith(row.suffixes))


def _named(name: str) -> Format:
    for row in FORMATS:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in FORMATS)
    raise UsageError(f"there is no format {name!r}", details=(f"formats: {known}",))


def _reader(module: str) -> Callable[[ByteSource, str], Checkpoint]:
    return import_module(module).read  # type: ignore[no-any-return]


def _directories(name: str) -> Any:
    return import_module(f"modelinspect.readers.directories.{name}")


@contextmanager
def no_collector() -> Iterator[None]:
    """
    Switch the cycle collector off while rows are made.

    A header of 100,000 tensors makes some million objects and no garbage; the
    collector would walk them all again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_freeze_count() == 0:
                # Makes old what is there, for nothing; else the next allocation walks all of it.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
