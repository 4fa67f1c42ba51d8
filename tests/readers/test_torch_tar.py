"""
The tar archives of torch 0.1 are read as torch loads them still; nothing is extracted.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import old_tar
import pytest
import torch
import torch_truth

from modelinspect.errors import DamagedFileError, LimitError, ModelInspectError, UnrecognisedFileError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint


def read(path: Path) -> Checkpoint:
    """As a user opens it."""
    return open_checkpoint(str(path))


def state_dict() -> dict[str, Any]:
    """Tensors of the data types of 2016, views, a tie, an empty one and a scalar."""
    base = torch.arange(12.0).reshape(3, 4)
    return collections.OrderedDict(
        w=base, view=base[1:, ::2], tied=base, i=torch.ones(2, dtype=torch.int64), half=torch.ones(3).half(),
        byte=torch.ones(5, dtype=torch.uint8), empty=torch.zeros(0, 3), scalar=torch.tensor(3.0),
    )  # fmt: skip


VALUES: dict[str, Callable[[], Any]] = {
    "state_dict": state_dict,
    "checkpoint": lambda: {"state_dict": state_dict(), "epoch": 3, "optimizer": [torch.zeros(4)]},
    "tensor": lambda: torch.arange(3.0),
    "list": lambda: [torch.ones(2), [torch.zeros(1)]],
    "empty": dict,
}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("kind", list(VALUES))
def test_rows_are_what_torch_loads(kind: str, form: int, tmp_path: Path) -> None:
    """Names, shapes, data types, strides, offsets, ties and sizes of storages; the bytes at each extent."""
    path = tmp_path / "x.pt"
    path.write_bytes(old_tar.archive(old_tar.members_of(VALUES[kind]()), form))
    checkpoint, value = read(path), torch_truth.loaded(path)
    assert checkpoint.format == "torch-tar"
    if kind == "tensor":
        value = {"tensor": value}
    torch_truth.assert_equal(checkpoint, value)
    raw, expected = path.read_bytes(), dict(torch_truth.named_tensors(value))
    for name, row in torch_truth.rows_of(checkpoint).items():
        if row.numel and row.is_contiguous:
            assert row.extent is not None
            numbers = bytes(expected[name].flatten().view(torch.uint8).numpy())
            assert raw[row.extent.offset :][: row.extent.nbytes] == numbers


def test_views_of_storages(tmp_path: Path) -> None:
    """A storage that is a part of another: tensors count from its first element."""
    members = old_tar.members_of({"w": torch.arange(6.0)})
    views = pickle.dumps([(7, 150_000_000, 2, 3)], 2)
    members["storages"] = members["storages"][: -len(pickle.dumps([], 2))] + views
    head = pickle.dumps(1, 2) + pickle.dumps((140_000_000, 7, torch.FloatTensor), 2)
    members["tensors"] = head + struct.pack("<i4x3q", 1, 2, 1, 1)
    path = tmp_path / "x.pt"
    path.write_bytes(old_tar.archive(members))
    assert torch_truth.loaded(path)["w"].tolist() == [3.0, 4.0]
    [row] = read(path).table
    assert row.extent is not None
    assert path.read_bytes()[row.extent.offset :][: row.extent.nbytes] == struct.pack("<2f", 3, 4)


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    """The writer, its machine, and names that are all understood."""
    checkpoint = read(old_tar.save(state_dict(), tmp_path / "x.pt"))
    assert checkpoint.facts["written by"] == "torch 0.1"
    assert checkpoint.facts["saved on"] == "a little-endian machine"
    assert all(name.understood for name in checkpoint.globals)
    assert {name.record for name in checkpoint.globals} == {"pickle", "tensors", "storages"}


def test_only_headers_are_read(tmp_path: Path) -> None:
    """Four megabytes of numbers cost some kilobytes."""
    path = old_tar.save({"a": torch.zeros(500_000), "b": torch.zeros(500_000)}, tmp_path / "x.pt")
    assert read(path).bytes_read < 10_000


def test_another_tar_archive_is_none(tmp_path: Path) -> None:
    """One with other files inside is named, with what to do."""
    path = tmp_path / "x.tar"
    path.write_bytes(old_tar.archive({"weights.pt": b"", "readme": b"hello"}))
    with pytest.raises(UnrecognisedFileError, match="is a tar archive") as caught:
        read(path)
    assert "tar -xf" in str(caught.value)


def linked(members: dict[str, bytes], name: str, to: str, kind: bytes) -> bytes:
    """The archive with one of its files a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as tar:
        for each, content in members.items():
            member = tarfile.TarInfo(each)
            if each == name:
                member.type, member.linkname = kind, to
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_are_not_followed(kind: bytes, tmp_path: Path) -> None:
    """A member that is a link to a file outside is refused, and that file is not opened."""
    members = old_tar.members_of({"w": torch.zeros(2)})
    secret = tmp_path / "secret"
    secret.write_bytes(members["storages"])
    before = os.stat(secret).st_atime_ns
    path = tmp_path / "x.pt"
    path.write_bytes(linked(members, "storages", str(secret), kind))
    with pytest.raises(DamagedFileError, match="not followed"):
        read(path)
    assert os.stat(secret).st_atime_ns == before


def test_absolute_names_and_strangers_are_ignored_and_said(tmp_path: Path) -> None:
    """Only the four members count; others are named in a note, and the last of two is read."""
    members = old_tar.members_of({"w": torch.zeros(2)})
    path = tmp_path / "x.pt"
    path.write_bytes(old_tar.archive({"/tmp/evil": b"x", "../up": b"y", **members}))
    checkpoint = read(path)
    assert len(checkpoint.table) == 1
    assert any("2 other members" in note and "/tmp/evil" in note for note in checkpoint.notes)
    other = old_tar.members_of({"v": torch.zeros(3)})
    path.write_bytes(old_tar.archive(members) + old_tar.archive(other))
    assert list(torch_truth.loaded(path)) == [row.name for row in read(path).table] == ["v"]
    assert any("more than once" in note for note in read(path).notes)


def test_long_names_of_pax_and_gnu(tmp_path: Path) -> None:
    """What renames a member is believed, as tarfile does."""
    members = old_tar.members_of({"w": torch.zeros(2)})
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / "x.pt"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:", format=form) as tar:
            for name, content in {"d/" * 80 + "x": b"", **members}.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                member.pax_headers = {"path": name} if form == tarfile.PAX_FORMAT else {}
                tar.addfile(member, io.BytesIO(content))
        path.write_bytes(buffer.getvalue())
        assert len(read(path).table) == len(torch_truth.loaded(path)) == 1


class Container(torch.nn.Module):
    """A module of which the file keeps the source."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(2))
        self.inner = torch.nn.ReLU()


class WithSource(old_tar.Pickler):
    """Refers to the class of a container with its file and its source, once."""

    told = False

    def persistent_id(self, obj: Any) -> Any:
        """As torch 0.1 did."""
        if obj is Container and not self.told:
            self.told = True
            return (Container, "net.py", "class Container: ...")
        return super().persistent_id(obj)


def test_whole_modules(tmp_path: Path) -> None:
    """Classes come with their source, which is not compiled; modules and buffers are known."""
    path = tmp_path / "x.pt"
    path.write_bytes(old_tar.archive(old_tar.members_of(Container(), WithSource)))
    checkpoint = read(path)
    assert checkpoint.table.modules == {"": "Container", "inner": "ReLU"}
    assert [(row.name, row.kind, row.declared) for row in checkpoint.table] == [("mean", "buffer", True)]


TENSOR = pickle.dumps((140_000_000, 150_000_000, torch.FloatTensor), 2)
HOSTILE: dict[str, tuple[str, bytes, type[ModelInspectError]]] = {
    "storages without end": ("storages", pickle.dumps(10**9, 2), LimitError),
    "a number that is none": ("storages", pickle.dumps("x", 2), DamagedFileError),
    "a negative number": ("tensors", pickle.dumps(-1, 2), DamagedFileError),
    "a storage of 2**62 elements": (
        "storages",
        pickle.dumps(1, 2) + pickle.dumps((1, "cpu", torch.FloatStorage), 2) + struct.pack("<q", 1 << 62),
        DamagedFileError,
    ),
    "a storage of no type": (
        "storages",
        pickle.dumps(1, 2) + pickle.dumps((1, "cpu", int), 2),
        DamagedFileError,
    ),
    "a tensor of no storage": ("tensors", pickle.dumps(1, 2) + pickle.dumps((1, 2, 3), 2), DamagedFileError),
    "a billion axes": ("tensors", pickle.dumps(1, 2) + TENSOR + struct.pack("<i4x", 10**9), DamagedFileError),
    "a negative size": (
        "tensors",
        pickle.dumps(1, 2) + TENSOR + struct.pack("<i4x3q", 1, -1, 1, 0),
        DamagedFileError,
    ),
    "beyond the storage": (
        "tensors",
        pickle.dumps(1, 2) + TENSOR + struct.pack("<i4x3q", 1, 9, 1, 0),
        DamagedFileError,
    ),
    "a reference to nothing": ("pickle", b"\x80\x02}X\x01\0\0\0wX\x01\0\0\x005Qs.", DamagedFileError),
    "cut off": ("tensors", pickle.dumps(1, 2), DamagedFileError),
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_members(kind: str, tmp_path: Path) -> None:
    """What makes no sense is an error that says what; no memory is taken for what is claimed."""
    name, content, error = HOSTILE[kind]
    members = {**old_tar.members_of({"w": torch.zeros(2)}), name: content}
    path = tmp_path / "x.pt"
    path.write_bytes(old_tar.archive(members))
    with pytest.raises(error) as caught:
        read(path)
    assert caught.value.details


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"echo ran > {self.marker}",)


@pytest.mark.parametrize("member", ["pickle", "storages", "tensors"])
def test_payloads_in_any_member_are_shown_and_not_run(member: str, tmp_path: Path) -> None:
    """All of them are unpickled by torch; the name is listed with the member that holds it."""
    marker = tmp_path / "marker"
    evil = pickle.dumps(Payload(marker), 2)[:-1] + b"0"  # made and thrown away
    members = old_tar.members_of({"w": torch.zeros(2)})
    members[member] = evil + members[member][2:]  # which begins with its protocol
    path = tmp_path / "x.pt"
    path.write_bytes(old_tar.archive(members))
    checkpoint = read(path)
    foreign = {(name.name, name.record) for name in checkpoint.globals if not name.understood}
    assert foreign == {("system", member)}
    assert any("system" in note for note in checkpoint.notes)
    assert not marker.exists()
    assert len(checkpoint.table) == len(torch_truth.loaded(path)) == 1
    assert marker.exists()
