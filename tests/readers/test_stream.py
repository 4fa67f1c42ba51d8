"""
Checkpoints out of pipes and from standard input.
"""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import command
import pytest
import torch
from safetensors.torch import save_file

from modelinspect.errors import ModelInspectError, RefusedError
from modelinspect.readers.parts import stream
from modelinspect.readers.registry import open_checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file of 60 parameters."""
    path = tmp_path / "a b.pt"
    torch.save({"w": torch.zeros(20, 3)}, path)
    return path


def _shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A line of bash in which modelinspect is the installed command."""
    folder = str(command.installed().script.parent)
    environ = {**command.plain_environment(), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    "line",
    [
        "modelinspect count - < 'a b.pt'",
        "cat 'a b.pt' | modelinspect count -",
        "modelinspect count <(cat 'a b.pt')",
        "modelinspect count /dev/stdin < 'a b.pt'",
        "gzip -c 'a b.pt' > z.gz; modelinspect count <(gzip -dc z.gz)",
        "(sleep 0.3; cat 'a b.pt') | modelinspect count -",
        "mkfifo p; (cat 'a b.pt' > p &) ; modelinspect count p",
    ],
)
def test_pipes_are_read_as_files_are(line: str, saved: Path) -> None:
    """Standard input from a file and a pipe, a process substitution, a named pipe: the same figure."""
    done = _shell(line, saved.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "60\n", "")


def test_values_are_read_out_of_pipes(tmp_path: Path) -> None:
    """What a listing of values needs is still there when the stream has ended."""
    save_file({"w": torch.arange(3.0)}, tmp_path / "s.safetensors")
    done = _shell("cat s.safetensors | modelinspect params - --values", tmp_path)
    assert done.returncode == 0
    assert "[0, 1, 2]" in done.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("yes | modelinspect count -", "first bytes: 79 0a"),
        ("modelinspect count - < /dev/zero", "is a device"),
        ("cat /dev/zero | modelinspect count -", "first bytes: 00 00"),
        ("modelinspect count - <&-", "standard input is closed"),
        ("head -c 700 'a b.pt' | modelinspect count -", "standard input is a truncated"),
        ("gzip -c 'a b.pt' | modelinspect count -", "gzip"),
        ("true | modelinspect count -", "standard input"),
    ],
)
def test_streams_of_anything_else_are_refused_at_once(line: str, said: str, saved: Path) -> None:
    """Streams without end, devices, closed ones, compressed ones: one message, exit 2, nothing on stdout."""
    done = _shell(line, saved.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "/dev/fd" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_without_a_writer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has it open: refused after a moment."""
    monkeypatch.setattr(stream, "SECONDS_WITHOUT_WRITER", 0.1)
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(RefusedError, match="nobody writes"):
        open_checkpoint(str(tmp_path / "pipe.pt"))


def test_a_pipe_named_twice_is_read_once(saved: Path) -> None:
    """The second time it is the copy that is read: a pipe is empty by then."""
    pipe = saved.parent / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(saved.read_bytes()))
    writer.start()
    first, second = open_checkpoint(str(pipe)), open_checkpoint(str(pipe))
    writer.join()
    assert len(first.table) == len(second.table) == 1


def test_a_stream_longer_than_the_disk_is_an_error(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the copy: said with the folder and what to do."""
    monkeypatch.setattr(stream, "MAX_SHARE_OF_DISK", 0)
    pipe = saved.parent / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: _write_what_is_taken(pipe, saved.read_bytes()))
    writer.start()
    with pytest.raises(ModelInspectError, match="too long"):
        open_checkpoint(str(pipe))
    writer.join()


def _write_what_is_taken(pipe: Path, data: bytes) -> None:
    with suppress(BrokenPipeError):
        pipe.write_bytes(data)
