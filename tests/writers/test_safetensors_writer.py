"""
Files that are byte for byte those of the safetensors library; files written whole or not at all.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from modelinspect.dtypes import DType, dtype_named
from modelinspect.errors import TargetError, UsageError
from modelinspect.writers.atomic import replacing, replacing_bytes
from modelinspect.writers.safetensors import Entry, write_safetensors

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def _entry(name: str, tensor: torch.Tensor) -> Entry:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return Entry(name, dtype_named(str(tensor.dtype)), tuple(tensor.shape), lambda: [raw])


def _written(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    write_safetensors(stream, [_entry(name, tensor) for name, tensor in tensors.items()], metadata)
    return stream.getvalue()


def test_bytes_are_those_of_the_library() -> None:
    """All types together, names that need sorting and escaping, scalars and empty tensors."""
    tensors = {
        f"{name}.{number}": torch.arange(6).reshape(2, 3).to(dtype)
        for number, dtype in enumerate(DTYPES)
        for name in ("z", "a", 'quote"', "名")
    }
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    assert _written(tensors) == save(tensors)
    assert _written(tensors, {"format": "pt"}) == save(tensors, metadata={"format": "pt"})
    assert _written({}) == save({})


@pytest.mark.parametrize("length", range(8))
def test_header_is_padded(length: int) -> None:
    """To a multiple of eight bytes, whatever the names are."""
    tensors = {"n" * (length + 1): torch.ones(2)}
    assert _written(tensors) == save(tensors)


def test_what_the_format_lacks() -> None:
    """A type, a second tensor of one name, a name that is no Unicode text."""
    stream = io.BytesIO()
    complex128 = Entry("w", dtype_named("complex128"), (1,), lambda: [b"\0" * 16])
    float32: DType = dtype_named("float32")
    one = Entry("w", float32, (1,), lambda: [b"\0" * 4])
    for entries, message in (
        ([complex128], "has no data type complex128"),
        ([one, one], "that name is taken"),
        ([one._replace(name="\udc80")], "can't be written as UTF-8"),
        ([one._replace(name="__metadata__")], "that name is taken"),
    ):
        with pytest.raises(UsageError, match=message):
            write_safetensors(stream, entries, {})
    assert stream.getvalue() == b""
    with pytest.raises(ValueError, match="takes 8 bytes, and 4 came"):
        write_safetensors(stream, [one._replace(shape=(2,))])


# ----------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("write", [replacing, replacing_bytes])
def test_file_is_replaced_at_the_end(write: object, tmp_path: Path) -> None:
    """Until then the old one is there; afterwards nothing else is; its permissions stay."""
    path = tmp_path / "out"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o640)
    new = "new" if write is replacing else b"new"
    with write(str(path)) as stream:  # type: ignore[operator]
        stream.write(new)
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_error_leaves_the_old_file(tmp_path: Path) -> None:
    """And no temporary one."""
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with suppress(ZeroDivisionError), replacing_bytes(str(path)) as stream:
        stream.write(b"half")
        stream.write(bytes(1 // 0))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_kill_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that dies in the middle has not touched it."""
    path = tmp_path / "out"
    path.write_bytes(b"old")
    script = (
        "import os, signal, sys\nfrom modelinspect.writers.atomic import replacing_bytes\n"
        "with replacing_bytes(sys.argv[1]) as stream:\n"
        "    stream.write(b'half')\n    stream.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"


def test_link_stays_a_link_and_pipes_are_written_to(tmp_path: Path) -> None:
    """The file behind a link is replaced; what is no regular file is not."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with replacing_bytes(str(link)) as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    with replacing_bytes(os.devnull) as stream:
        stream.write(b"gone")
    assert Path(os.devnull).is_char_device()


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """Said, with the path."""
    with pytest.raises(TargetError, match="cannot be written"), replacing_bytes(str(tmp_path / "no" / "out")):
        pass
