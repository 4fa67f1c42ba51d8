"""
What every reader owes. A new format is one line in ``WRITERS``.

The truth comes from the library that wrote the file: names, shapes, data types
and bytes must be those that it was given.
"""

from __future__ import annotations

import os
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import old_tar
import onnx_bytes
import pytest
import torch
from gguf_bytes import STRING, Gguf, Tensor
from safetensors.torch import save_file
from torch.package.package_exporter import PackageExporter

from modelinspect.dtypes import BY_GGML, BY_ONNX
from modelinspect.errors import DamagedFileError, ModelInspectError, UnrecognisedFileError
from modelinspect.readers.parts import stream
from modelinspect.readers.registry import FORMATS, open_checkpoint
from modelinspect.tensors import Checkpoint

StateDict = dict[str, torch.Tensor]


def small() -> StateDict:
    """A few tensors of several data types, a scalar and an empty one among them."""
    return {
        "block.0.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "block.0.bias": torch.ones(3, dtype=torch.bfloat16),
        "block.10.weight": torch.zeros(2, 2, 2, dtype=torch.float16),
        "step": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "mask": torch.tensor([True, False]),
        "tiny": torch.zeros(5, dtype=torch.float8_e4m3fn),
        "tensor": torch.arange(4, dtype=torch.float64),
    }


def legacy(tensors: StateDict, path: Path) -> None:
    """The layout that torch wrote before 1.6."""
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def plain(tensors: StateDict, path: Path) -> None:
    """Python's own pickle."""
    path.write_bytes(pickle.dumps(tensors, protocol=4))


class Tree(torch.nn.Module):
    """Modules whose buffers are given; it does nothing else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What torch.export asks for."""
        return x + 1


def module_of(tensors: StateDict, root: torch.nn.Module) -> torch.nn.Module:
    """The tensors as buffers of a tree of modules."""
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        module = root
        for part in parents:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        module.register_buffer(leaf, tensor)
    return root


def script(tensors: StateDict, path: Path) -> None:
    """A TorchScript module whose buffers they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module_of(tensors, torch.nn.Module())), path)


def exported(tensors: StateDict, path: Path) -> None:
    """An exported program of a module whose buffers they are."""
    torch.export.save(torch.export.export(module_of(tensors, Tree()), (torch.ones(2),)), path)


def package(tensors: StateDict, path: Path) -> None:
    """One pickle of a torch.package archive."""
    with warnings.catch_warnings(), PackageExporter(str(path)) as exporter:
        warnings.simplefilter("ignore", UserWarning)  # it reaches for TypedStorage itself
        exporter.save_pickle("model", "tensors.pkl", tensors)


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor."""
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy()) if tensor.numel() else b""


def gguf(tensors: StateDict, path: Path) -> None:
    """GGUF of the data types that it shares with torch."""
    numbers = {dtype.name: number for number, dtype in BY_GGML.items()}
    rows = [
        Tensor(name, tuple(t.shape), numbers[str(t.dtype).removeprefix("torch.")], raw(t))
        for name, t in tensors.items()
    ]
    path.write_bytes(Gguf().file([("general.architecture", STRING, "llama")], rows))


def one_array(tensors: StateDict, path: Path) -> None:
    """The one array that a file of NumPy's holds."""
    with path.open("wb") as file:
        np.save(file, [*tensors.values()][-1].numpy())


def arrays(tensors: StateDict, path: Path) -> None:
    """A NumPy archive."""
    with path.open("wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]


def onnx(tensors: StateDict, path: Path) -> None:
    """The initializers of an otherwise empty graph."""
    numbers = {dtype.name: number for number, dtype in BY_ONNX.items()}
    rows = [
        onnx_bytes.tensor(name, t.shape, numbers[str(t.dtype).removeprefix("torch.")], raw(t))
        for name, t in tensors.items()
    ]
    path.write_bytes(onnx_bytes.model(onnx_bytes.graph([], rows)))


class Writer(NamedTuple):
    """How a format's own library writes tensors, and what the format can't do."""

    suffix: str
    write: Callable[[StateDict, Any], object]
    lacks: tuple[str, ...] = ()
    """Names in :func:`small` that it has no way to hold."""
    says_where_it_ends: bool = True
    """False: some prefixes of a file are files, too."""
    overhead: int = 8_000
    """Bytes that the header of two tensors takes at most."""
    step: int = 1
    """Bytes from one cut, or flipped bit, to the next: more than 1 where a small file is long."""

    def tensors(self) -> StateDict:
        """What a small file of the format holds."""
        return {name: tensor for name, tensor in small().items() if name not in self.lacks}


# A line a format: NAME: Writer(suffix, function of the tensors and the path).
WRITERS: dict[str, Writer] = {
    # It has the data types of 2016; behind the last number are up to 511 zeros.
    "torch-tar": Writer(
        ".tar", old_tar.save, lacks=("block.0.bias", "mask", "tiny"), says_where_it_ends=False, step=7
    ),
    # torch 2.13 can't load the data types of later years back from one.
    "pickle": Writer(".pkl", plain, lacks=("tiny",), step=3),
    "safetensors": Writer(".safetensors", save_file),
    "torch-zip": Writer(".pt", torch.save),
    # It has no storage class for the data types of later years.
    "torch-legacy": Writer(".pth", legacy, lacks=("tiny",)),
    # A cut in the padding at the end takes nothing away.
    "gguf": Writer(".gguf", gguf, lacks=("mask", "tiny"), says_where_it_ends=False),
    "onnx": Writer(".onnx", onnx, says_where_it_ends=False),
    "npy": Writer(".npy", one_array, lacks=tuple(name for name in small() if name != "tensor")),
    "npz": Writer(".npz", arrays, lacks=("block.0.bias", "tiny")),
    "torchscript": Writer(".jit", script, step=7),
    "torch-export": Writer(".pt2", exported, overhead=16_000, step=61),
    "torch-package": Writer(".pt", package, step=7),
}


@pytest.fixture(params=list(WRITERS))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A small file of each format."""
    writer = WRITERS[request.param]
    path = tmp_path / f"small{writer.suffix}"
    writer.write(writer.tensors(), path)
    return request.param, path


def read(path: Path) -> Checkpoint:
    """Open a path as a user would."""
    return open_checkpoint(str(path))


def test_every_format_has_a_line_here() -> None:
    """The registry and this suite name the same formats."""
    assert set(WRITERS) == {row.name for row in FORMATS}


def test_rows_are_what_was_written(written: tuple[str, Path]) -> None:
    """Names, shapes, data types, strides and bytes equal those of the tensors saved."""
    name, path = written
    checkpoint = read(path)
    expected = WRITERS[name].tensors()
    assert checkpoint.format == name
    assert {tensor.name for tensor in checkpoint.table} == set(expected)
    for row in checkpoint.table:
        tensor = expected[row.name]
        assert row.shape == tuple(tensor.shape)
        assert row.stride == tensor.stride()
        assert f"torch.{row.dtype}" == str(tensor.dtype)
        assert (row.numel, row.nbytes) == (tensor.numel(), tensor.nbytes)


def test_extents_hold_the_values(written: tuple[str, Path]) -> None:
    """The bytes at each extent are the tensor's own, read from the file without the library."""
    _, path = written
    raw = path.read_bytes()
    for row in read(path).table:
        extent = row.extent
        assert extent is not None
        assert os.path.samefile(extent.file, path)
        expected = small()[row.name].contiguous().flatten().view(torch.uint8) if row.numel else torch.zeros(0)
        found = np.frombuffer(raw[extent.offset : extent.offset + extent.nbytes], dtype=np.uint8)
        assert found.tolist() == expected.tolist()


def test_reading_twice_is_equal(written: tuple[str, Path]) -> None:
    """Nothing depends on what was read before."""
    _, path = written
    assert read(path) == read(path)


@pytest.mark.parametrize("name", list(WRITERS))
def test_only_headers_are_read(name: str, tmp_path: Path) -> None:
    """Eight megabytes of values cost no more bytes than eight kilobytes of them."""
    writer = WRITERS[name]
    sizes = []
    for numel in (1_000, 1_000_000):
        path = tmp_path / f"n{numel}{writer.suffix}"
        writer.write({"a": torch.zeros(numel), "b": torch.zeros(numel)}, path)
        sizes.append(read(path).bytes_read)
    # Numbers in the header have more digits, and the larger file's zip is padded.
    assert sizes[1] <= sizes[0] + 64 * 5
    assert sizes[1] < writer.overhead


def _error_of(path: Path) -> ModelInspectError | None:
    try:
        read(path)
    except ModelInspectError as error:
        return error
    return None


def test_truncated_anywhere_is_a_clear_error(written: tuple[str, Path], tmp_path: Path) -> None:
    """Cut at every byte: an error of ours that names the file, never another one, never a result."""
    name, path = written
    raw = path.read_bytes()
    cut = tmp_path / f"cut{path.suffix}"
    whole = 0
    for length in range(0, len(raw), WRITERS[name].step):
        cut.write_bytes(raw[:length])
        error = _error_of(cut)
        if error is None:
            whole += 1
        else:
            assert "cut" in error.message
            assert error.details or error.hint
    assert whole == 0 or not WRITERS[name].says_where_it_ends
    assert whole < len(raw) // 10 // WRITERS[name].step


def test_a_flipped_bit_gives_a_result_or_a_clear_error(written: tuple[str, Path], tmp_path: Path) -> None:
    """One flip in every byte: a checkpoint or an error of ours, nothing else."""
    name, path = written
    raw = bytearray(path.read_bytes())
    chance = random.Random(0)
    flipped = tmp_path / f"flipped{path.suffix}"
    refused = 0
    for at in range(0, len(raw), WRITERS[name].step):
        damaged = raw.copy()
        damaged[at] ^= 1 << chance.randrange(8)
        flipped.write_bytes(damaged)
        try:
            read(flipped)
        except ModelInspectError:
            refused += 1
    assert refused > 0


def test_the_suffix_does_not_decide(written: tuple[str, Path], tmp_path: Path) -> None:
    """Under any other format's suffix, and under none, the bytes decide."""
    name, path = written
    for suffix in [*{writer.suffix for writer in WRITERS.values()}, "", ".txt"]:
        other = tmp_path / f"other{suffix}"
        other.write_bytes(path.read_bytes())
        assert read(other).format == name


def test_another_formats_bytes_are_refused_when_forced(written: tuple[str, Path]) -> None:
    """`--read-as` another format: an error, not a guess."""
    name, path = written
    assert open_checkpoint(str(path), read_as=name).format == name
    for other in WRITERS:
        if other != name:
            with pytest.raises(ModelInspectError):
                open_checkpoint(str(path), read_as=other)


FOREIGN = {
    "empty": (b"", "is empty"),
    "one byte": (b"P", "not a checkpoint this version can read"),
    "text": (b"hello, world, this is a text\n" * 9, "not a checkpoint this version can read"),
    "zeros": (bytes(4096), "a file of zeros"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), "gzip"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "html": (b"<!DOCTYPE html><html></html>", "HTML page"),
}


@pytest.mark.parametrize("kind", list(FOREIGN))
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_what_is_no_checkpoint_is_named(kind: str, suffix: str, tmp_path: Path) -> None:
    """Files of other kinds: what they are where it is known, and what was tried where not."""
    raw, expected = FOREIGN[kind]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(raw)
    with pytest.raises(UnrecognisedFileError) as caught:
        read(path)
    assert expected in str(caught.value)


def test_a_missing_pipe_device_or_folder_is_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named pipe and a device are refused at once; a missing file is said to be missing."""
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    monkeypatch.setattr(stream, "SECONDS_WITHOUT_WRITER", 0.1)
    with pytest.raises(ModelInspectError, match="named pipe"):
        read(pipe)
    with pytest.raises(ModelInspectError, match="character device"):
        read(Path("/dev/zero"))
    with pytest.raises(ModelInspectError, match="no such file"):
        read(tmp_path / "gone.pt")


def test_reading_past_the_end_is_an_error_of_ours(tmp_path: Path) -> None:
    """The byte source names what was wanted, where, and how large the file is."""
    from modelinspect.readers.source import open_local

    path = tmp_path / "x"
    path.write_bytes(b"12345")
    with open_local(str(path)) as source:
        assert source.read(1, 3) == b"234"
        assert source.read_upto(3, 10) == b"45"
        assert source.bytes_read == 5
        with pytest.raises(DamagedFileError, match="truncated or damaged"):
            source.read(4, 2)
        with pytest.raises(DamagedFileError):
            source.read(-1, 1)
