"""
NumPy arrays (``np.save``): a short header, then the numbers of one array.
"""

from __future__ import annotations

from modelinspect.errors import visible
from modelinspect.readers.parts.kinds import infer_kind
from modelinspect.readers.parts.npy_header import HEAD_BYTES, MAGIC, NpyHeader, read_header
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint, FileInfo, ParameterTable, Storage, TensorInfo

__all__ = ["read"]

_NAME = "tensor"
"""Of the one array, which has no name of its own."""


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read the header of an array; its numbers are not touched, and no pickle is run.

    Raises:
        DamagedFileError: The file breaks a rule of the format or is truncated.
        LimitError: It claims more than a limit allows.
    """
    head = source.read_upto(0, HEAD_BYTES)
    if head[:6] != MAGIC:
        raise NotThisFormat("does not begin with 93 NUMPY")

    def part(at: int, n: int) -> bytes:
        return head[at : at + n] if at + n <= len(head) else source.read(at, n, "the header of the array")

    header = read_header(part, target)
    rows, others = ((_row(header, source),), ()) if header.dtype is not None else ((), (_NAME,))
    return Checkpoint(
        source=target,
        format="npy",
        files=(FileInfo(source.path, source.size, source.bytes_read),),
        tables={"": ParameterTable(source=target, tensors=rows, origin="file", others=others)},
        roles={"": "model"},
        model_section="",
        notes=tuple(_notes(header, source)),
        version=header.version,
        facts={"byte order": header.byteorder} if header.dtype is not None else {},
    )


def _row(header: NpyHeader, source: ByteSource) -> TensorInfo:
    assert header.dtype is not None
    nbytes = header.nbytes or 0
    if header.data + nbytes > source.size:
        raise source.truncated(header.data, nbytes, "the numbers of the array")
    storage = Storage(source.path, _NAME, header.data, nbytes, "cpu", header.byteorder)
    kind = infer_kind(_NAME, header.dtype, header.shape)
    return TensorInfo(_NAME, header.dtype, header.shape, storage, header.stride, kind=kind)


def _notes(header: NpyHeader, source: ByteSource) -> list[str]:
    notes = [f"its elements are {visible(header.said)}"] if header.said else []
    if header.nbytes is None:
        return ["it holds no tensor", *notes]
    behind = source.size - header.data - header.nbytes
    return [*notes, f"{behind:,} bytes follow the array"] if behind else notes
