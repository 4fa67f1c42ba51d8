"""
Pickles that are no torch.save file: ``pickle.dump`` of whatever it may be.

Tensors in them hold whole files of torch.save in byte strings
(:mod:`modelinspect.readers.parts.nested_saves`), NumPy arrays their numbers. A pickle of protocol 2
or later says so in its first two bytes; earlier ones begin with an opcode, which is a letter or a
bracket, so many texts begin as they do: only what is a pickle to its end is taken for one, or
begins with what Python writes at the start of one (CPython, ``Lib/pickle.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from modelinspect.errors import CheckpointError
from modelinspect.readers.parts.legacy_layout import begins_as_legacy
from modelinspect.readers.parts.nested_saves import load_saves
from modelinspect.readers.parts.pickle_machine import SparseFeed, read_pickle
from modelinspect.readers.parts.pickle_symbols import PersistentId, Pickle
from modelinspect.readers.parts.torch_checkpoint import assemble
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint, Storage

__all__ = ["read"]

_HEAD = 512
_PROTOCOLS = (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")
_START = re.compile(
    # A dictionary, list or tuple of protocol 0 and 1, a class called or instanced.
    rb"\((?:[dl]p\d+\n|i[\w.]+\n\w+\n|c[\w.]+\n\w+\n[op(])|[\]})]q.|c[\w.]+\n\w+\n(?:p\d+\n|q.|[()])",
    re.DOTALL,
)
_JOBLIB = b"joblib.numpy_pickle"


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read a pickle; nothing in it is run, and of long byte strings only the place is taken.

    Raises:
        NotThisFormat: It is no pickle, or one of a layout with a name of its own.
        DamagedFileError: It is truncated or makes no sense.
        LimitError: It claims more than a limit allows.
    """
    head = source.read_upto(0, _HEAD)
    if begins_as_legacy(head):
        raise NotThisFormat("it is a file of torch.save")
    pickle = _pickle(source, target, head)
    saves = load_saves(pickle, source, target)
    _nowhere(pickle.pids)
    notes = []
    if pickle.end < source.size:
        notes.append(f"{source.size - pickle.end:,} bytes follow the pickle")
    if saves.closed:
        files = "a further file" if saves.closed == 1 else f"{saves.closed:,} further files"
        notes.append(
            f"it would load {files} in its byte strings, not looked into here: modelinspect scan does"
        )
    checkpoint = assemble(source, target, "pickle", [pickle, *saves.pickles], "", saves.held, notes)
    return replace(checkpoint, version=str(pickle.protocol) if pickle.protocol else "before 2")


def _pickle(source: ByteSource, target: str, head: bytes) -> Pickle:
    """The pickle at the start of the file. What only looks like one is none of ours."""
    says_so = head.startswith(_PROTOCOLS)
    try:
        pickle = read_pickle(SparseFeed(lambda at, n: source.read(at, n, "a pickle"), source.size, target))
    except CheckpointError as error:
        if _JOBLIB in source.read_upto(0, 1 << 16):
            title = "a joblib file, with the numbers of its arrays between the opcodes of a pickle"
            raise NotThisFormat(
                title, really=title, hint="joblib.load reads it, and runs what it says"
            ) from error
        if says_so or _START.match(head):
            raise
        raise NotThisFormat("it begins as a pickle does, and is none") from error
    if not says_so and pickle.end < source.size and not pickle.calls:
        raise NotThisFormat("it begins as a pickle does, and goes on as none")
    return pickle


def _nowhere(pids: Sequence[PersistentId]) -> None:
    """References to storages that are somewhere else: of a data.pkl taken out of its archive."""
    fault = "its storage is kept outside this file (is it the data.pkl of an archive?)"
    for pid in pids:
        pid.meaning = (Storage("", "", None, 0), None, 0, 0, fault)
