"""Whatever goes wrong, the old file is there, whole; sources are never touched."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hand_plans import Rule, assert_same, load, plan_for
from safetensors.torch import save_file

from modelinspect.errors import CheckpointError, TargetError
from modelinspect.transplant.plan import Plan
from modelinspect.transplant.write import write_plan
from modelinspect.writers import copying

OUTPUTS = ("out.safetensors", "out.pt")
RULES: dict[str, Rule] = {"big": "w", "turned": ("w", "transpose"), "n": "n"}


def _state() -> dict[str, torch.Tensor]:
    return {"w": torch.arange(512 * 512, dtype=torch.float32).reshape(512, 512), "n": torch.arange(4)}


def _wanted() -> dict[str, torch.Tensor]:
    state = _state()
    return {"big": state["w"], "turned": state["w"].T.contiguous(), "n": state["n"]}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """From a source of a megabyte, which is copied in many small steps."""
    monkeypatch.setattr(copying, "_AT_ONCE", 1 << 17)
    monkeypatch.setattr(copying, "_FLUSH_EVERY", 1 << 18)
    save_file(_state(), tmp_path / "source.safetensors")
    return plan_for(tmp_path / "source.safetensors", RULES, _wanted())


@contextmanager
def _stays(out: Path) -> Iterator[None]:
    """OUT is what it was, and nothing else has come beside it."""
    out.write_bytes(b"old")
    before = {entry.name for entry in out.parent.iterdir()}
    yield
    assert out.read_bytes() == b"old"
    assert {entry.name for entry in out.parent.iterdir()} == before


# -------------------------------------------------------------------- never a source


def _same(source: Path, out: Path) -> Path:
    return source


def _link(source: Path, out: Path) -> Path:
    out.symlink_to(source)
    return out


def _hard_link(source: Path, out: Path) -> Path:
    out.hardlink_to(source)
    return out


def _roundabout(source: Path, out: Path) -> Path:
    (source.parent / "here").symlink_to(source.parent)
    return source.parent / "here" / source.name


@pytest.mark.parametrize("name", [_same, _link, _hard_link, _roundabout])
def test_a_source_is_never_written_over(
    name: Callable[[Path, Path], Path], plan: Plan, tmp_path: Path
) -> None:
    """Under whatever name."""
    source = tmp_path / "source.safetensors"
    content = source.read_bytes()
    with pytest.raises(TargetError, match="never written over"):
        write_plan(plan, str(name(source, tmp_path / "out.safetensors")))
    assert source.read_bytes() == content


def test_no_shard_of_the_source_is_written_over(tmp_path: Path) -> None:
    """Nor one that the plan takes nothing from."""
    (tmp_path / "from").mkdir()
    save_file({"w": torch.zeros(3)}, tmp_path / "from" / "model-00001-of-00002.safetensors")
    save_file({"x": torch.zeros(3)}, tmp_path / "from" / "model-00002-of-00002.safetensors")
    plan = plan_for(tmp_path / "from", {"v": "w"}, {"v": torch.zeros(3)})
    for number in (1, 2):
        with pytest.raises(TargetError, match="never written over"):
            write_plan(plan, str(tmp_path / "from" / f"model-{number:05d}-of-00002.safetensors"))
    with pytest.raises(TargetError, match="no empty folder"):
        write_plan(plan, str(tmp_path / "from"), shard_size=1)


def test_what_a_link_leads_to_is_replaced(plan: Plan, tmp_path: Path) -> None:
    """The link stays one; permissions stay; a link that leads nowhere leads somewhere now."""
    real = tmp_path / "elsewhere" / "real.safetensors"
    real.parent.mkdir()
    real.write_bytes(b"old")
    real.chmod(0o640)
    (tmp_path / "out.safetensors").symlink_to(real)
    (tmp_path / "new.safetensors").symlink_to(tmp_path / "elsewhere" / "new.safetensors")
    for name in ("out", "new"):
        write_plan(plan, str(tmp_path / f"{name}.safetensors"))
        assert (tmp_path / f"{name}.safetensors").is_symlink()
        assert_same(load(tmp_path / f"{name}.safetensors"), _wanted())
    assert real.stat().st_mode & 0o777 == 0o640


def test_what_is_no_file_is_not_replaced(plan: Plan, tmp_path: Path) -> None:
    """A pipe can't be reread."""
    os.mkfifo(tmp_path / "out.pt")
    with pytest.raises(TargetError, match="no regular file"):
        write_plan(plan, str(tmp_path / "out.pt"))


# ------------------------------------------------------------------------ the disk


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_file_that_may_not_grow(out: str, plan: Plan, tmp_path: Path) -> None:
    """The system's limit of a file's size comes like a full disk, in the middle of a copy."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with _stays(tmp_path / out):
        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))
        try:
            with pytest.raises(TargetError, match="cannot be written: File too large"):
                write_plan(plan, str(tmp_path / out))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("call", ["sendfile", "write", "fsync", "fdatasync", "replace", "open"])
@pytest.mark.parametrize("out", OUTPUTS)
def test_a_full_disk(
    call: str, out: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever call the system says so; the background's word counts as well."""
    original = getattr(os, call)

    def full(*arguments: object, **options: object) -> object:
        if call != "open" or arguments[1] & os.O_CREAT:  # type: ignore[operator]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments, **options)

    if call in ("sendfile", "write"):
        monkeypatch.delattr(os, "copy_file_range")
    if call == "sendfile" and out.endswith(".pt"):
        call = "write"  # checksums are taken on the way
    with _stays(tmp_path / out), monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(TargetError, match="cannot be written: No space left on device"):
            write_plan(plan, str(tmp_path / out))


def test_a_disk_without_room_is_told_before(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both figures are named."""
    real = os.statvfs(tmp_path)
    nearly_full = os.statvfs_result((*real[:4], 1, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: nearly_full)
    with _stays(tmp_path / "out.pt"), pytest.raises(TargetError, match="2,097,184 bytes are needed"):
        write_plan(plan, str(tmp_path / "out.pt"))


def test_a_full_disk_leaves_no_shards(plan: Plan, tmp_path: Path) -> None:
    """A folder comes whole or not at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))
    try:
        with pytest.raises(TargetError, match="File too large"):
            write_plan(plan, str(tmp_path / "shards"), shard_size=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["source.safetensors"]


# ---------------------------------------------------------------------- the sources


def _once(action: Callable[[], object]) -> Callable[[int, int], None]:
    """A progress callback that acts on its first call."""
    left = [action]

    def progress(done: int, of: int) -> None:
        if left:
            left.pop()()

    return progress


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("size", [200_000, 1_100_000])
def test_a_source_that_is_cut_short_meanwhile(size: int, out: str, plan: Plan, tmp_path: Path) -> None:
    """Before the bytes that are still needed, or behind them."""
    source = tmp_path / "source.safetensors"
    with _stays(tmp_path / out):
        cut = _once(lambda: os.truncate(source, size if size < source.stat().st_size else 10))
        with pytest.raises(CheckpointError, match=r"ends at byte|has changed|truncated"):
            write_plan(plan, str(tmp_path / out), progress=cut)


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_source_that_is_written_to_meanwhile(out: str, plan: Plan, tmp_path: Path) -> None:
    """Also where not a byte of it is another one afterwards."""
    source = tmp_path / "source.safetensors"
    content = source.read_bytes()
    os.utime(source, ns=(0, 10**18))
    with _stays(tmp_path / out), pytest.raises(CheckpointError, match="has changed since it was opened"):
        write_plan(plan, str(tmp_path / out), progress=_once(lambda: source.write_bytes(content)))


def test_a_source_that_is_replaced_meanwhile(plan: Plan, tmp_path: Path) -> None:
    """By another file of the same name; or removed."""
    source, other = tmp_path / "source.safetensors", tmp_path / "other.safetensors"
    other.write_bytes(source.read_bytes())
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        write_plan(plan, str(tmp_path / "out.pt"), progress=_once(lambda: other.replace(source)))
    with pytest.raises(TargetError, match="no such file"):
        write_plan(plan, str(tmp_path / "out.pt"), progress=_once(source.unlink))
    with pytest.raises(TargetError, match="no such file"):
        write_plan(plan, str(tmp_path / "out.pt"))


def test_a_source_that_was_replaced_before(plan: Plan, tmp_path: Path) -> None:
    """The plan was made of other bytes: its places mean nothing any more."""
    save_file({"more": torch.zeros(9), **_state()}, tmp_path / "source.safetensors")
    with _stays(tmp_path / "out.pt"), pytest.raises(CheckpointError, match="has changed"):
        write_plan(plan, str(tmp_path / "out.pt"))
    (tmp_path / "source.safetensors").write_bytes(b"something else")
    with _stays(tmp_path / "out.pt"), pytest.raises(CheckpointError):
        write_plan(plan, str(tmp_path / "out.pt"))


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_source_that_can_not_be_read(
    out: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad block: the error names the source and the place."""

    def broken(*arguments: object, **options: object) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for call in ("sendfile", "copy_file_range", "preadv"):
        monkeypatch.setattr(os, call, broken)
    with _stays(tmp_path / out), pytest.raises(CheckpointError, match=r"source\.safetensors can't be read"):
        write_plan(plan, str(tmp_path / out))


# --------------------------------------------------------------- ways of the kernel's


@pytest.mark.parametrize("works", ["sendfile", "copy_file_range", "neither", "not known"])
def test_bytes_come_by_whatever_works(
    works: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between file systems the kernel may refuse, and elsewhere the calls aren't there."""

    def refused(*arguments: object, **options: object) -> object:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    for call in {"sendfile", "copy_file_range"} - {works}:
        if works == "not known":
            monkeypatch.delattr(os, call)
        else:
            monkeypatch.setattr(os, call, refused)
    if works == "not known":
        monkeypatch.delattr(os, "preadv")
        monkeypatch.delattr(os, "fdatasync")
    write_plan(plan, str(tmp_path / "out.safetensors"))
    assert_same(load(tmp_path / "out.safetensors"), _wanted())


# ------------------------------------------------------------------------ rereading


def _spoil(folder: Path, share: float) -> None:
    """Turn one bit of what is being written; *share* of the way through the file."""
    (path,) = folder.glob(".*.modelinspect-tmp")
    with path.open("r+b") as file:
        at = int(path.stat().st_size * share)
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.00005, 0.9999])
def test_a_byte_that_is_not_what_was_written(
    share: float, out: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors that were copied or transformed, and headers, are reread before the old file goes."""
    flush = copying.Sink.flush

    def spoiling(sink: copying.Sink) -> None:
        flush(sink)
        _spoil(tmp_path, share)

    monkeypatch.setattr(copying.Sink, "flush", spoiling)
    with _stays(tmp_path / out), pytest.raises(CheckpointError, match="was not written"):
        write_plan(plan, str(tmp_path / out))


def test_interrupted(plan: Plan, tmp_path: Path) -> None:
    """Ctrl-C leaves nothing behind."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    for out in (*OUTPUTS, "new.pt"):
        with pytest.raises(KeyboardInterrupt):
            write_plan(plan, str(tmp_path / out), progress=_once(interrupt))
    with pytest.raises(KeyboardInterrupt):
        write_plan(plan, str(tmp_path / "shards"), shard_size=9, progress=_once(interrupt))
    assert [entry.name for entry in tmp_path.iterdir()] == ["source.safetensors"]
