"""
Runs commands on hostile files, many in one process, and watches it: a program of its own.

``python -m hostile.batch JOBS RESULTS``: the jobs are JSON, a result is a line of JSON for each
command. What is watched: the code, both streams, files opened or listed outside the job's
folder, calls that reach outside the process, marker files, processor time and peak memory.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import signal
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""Of processor time that one command may take."""
_KEPT = 20_000
_COLLECTED = 150
"""Megabytes from which garbage of earlier commands is looked for."""
_HARMLESS = ("\n", "\t")
_REACHING = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile",
    "subprocess.Popen", "socket.connect", "socket.bind", "pickle.find_class", "ctypes.dlopen", "pty.spawn",
    "urllib.Request", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink",
    "os.truncate", "os.chmod", "os.chown", "shutil.rmtree",
)  # fmt: skip


class TooLongError(BaseException):
    """A command takes more than its time."""


class Watch:
    """
    What the interpreter tells of files and calls while a command runs.

    Args:
        trusted: Folders of Python and of the packages: importing reads there.
    """

    def __init__(self, trusted: list[str]) -> None:
        self.trusted = tuple(os.path.realpath(path) + os.sep for path in trusted)
        self.folder = ""
        self.is_on = False
        self.outside: list[str] = []
        self.calls: list[str] = []

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook: PEP 578."""
        if not self.is_on:
            return
        if event in {"open", "os.listdir", "os.scandir"}:
            if event == "os.listdir" and args[0] in sys.path:
                return  # looks for a module
            self.is_on = False  # what this looks at itself
            try:
                self._opened(args[0])
            finally:
                self.is_on = True
        elif event.startswith(_REACHING) and args != (None,):  # dlopen of nothing is the interpreter itself
            self.calls.append(f"{event} {args!r}"[:300])

    def _opened(self, path: Any) -> None:
        if path is None or isinstance(path, int):
            return
        real = os.path.realpath(os.fsdecode(path))
        if not (real + os.sep).startswith((self.folder + os.sep, *self.trusted)) and real != os.devnull:
            self.outside.append(real[:300])


def _too_long(number: int, frame: Any) -> None:
    raise TooLongError


def _odd_characters(raw: bytes) -> str:
    """Control, invisible and bidirectional characters, and what is no UTF-8; ``""`` where there are none."""
    text = raw.decode("utf-8", "surrogateescape")
    found = {
        letter
        for letter in set(text)
        if unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and letter not in _HARMLESS
    }
    return ascii("".join(sorted(found))) if found else ""


def _held(what: str) -> float:
    """Megabytes that the process holds (VmRSS), or held at most since :func:`_forget_peak` (VmHWM)."""
    found = re.search(what + r":\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found.group(1)) / 1e3 if found else 0.0


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # the peak of all commands before counts as well
        return


def _run(arguments: list[str]) -> int | str:
    from modelinspect.cli.app import app
    from modelinspect.cli.boundary import guarded

    try:
        return guarded(lambda: app(args=arguments, prog_name="modelinspect", standalone_mode=False))
    except TooLongError:
        return "too long"
    except BaseException as error:  # noqa: BLE001 - that there is none is what is tested
        return f"{type(error).__name__}: {error}"


class Streams:
    """Standard output and error go into files and are given back as bytes."""

    def __init__(self, folder: Path) -> None:
        self.files = [open(folder / name, "w+b", buffering=0) for name in ("stdout", "stderr")]  # noqa: SIM115
        self.own = [os.dup(number) for number in (1, 2)]

    def take(self) -> None:
        """From now on what is written goes into the files."""
        for number, file in enumerate(self.files, 1):
            file.seek(0)
            file.truncate()
            os.dup2(file.fileno(), number)

    def give_back(self) -> list[bytes]:
        """What was written since."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        written = []
        for number, file in enumerate(self.files, 1):
            os.dup2(self.own[number - 1], number)
            file.seek(0)
            written.append(file.read())
        return written


def _observe(watch: Watch, streams: Streams, arguments: list[str]) -> dict[str, Any]:
    if _held("VmRSS") > _COLLECTED:
        gc.collect()
    _forget_peak()
    watch.outside, watch.calls = [], []
    streams.take()
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS * 2)
    watch.is_on = True
    code = _run(arguments)
    watch.is_on = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - start
    out, err = streams.give_back()
    return {
        "code": code,
        "out": out[:_KEPT].decode("utf-8", "replace"),
        "err": err[:_KEPT].decode("utf-8", "replace"),
        "odd": _odd_characters(out) + _odd_characters(err),
        "traceback": b"Traceback (most recent" in err + out or b"a bug in modelinspect" in err,
        "outside": watch.outside[:5],
        "calls": watch.calls[:5],
        "seconds": round(seconds, 3),
        "megabytes": round(_held("VmHWM"), 1),
    }


def main(jobs: str, results: str) -> None:
    """Run all jobs in their order."""
    listed = json.loads(Path(jobs).read_text(encoding="utf-8"))
    resource.setrlimit(resource.RLIMIT_AS, (3_000_000_000, 3_000_000_000))
    sys.path.remove(os.getcwd())  # python -m put it there, the command does not
    signal.signal(signal.SIGPROF, _too_long)
    gc.disable()  # as the command does
    streams = Streams(Path(results).parent)
    watch = Watch(listed["trusted"])
    sys.addaudithook(watch.hook)
    with open(results, "w", encoding="utf-8") as out:
        for job in listed["jobs"]:
            os.chdir(job["folder"])
            watch.folder = os.path.realpath(job["folder"])
            seen = _observe(watch, streams, job["arguments"])
            seen["marker"] = os.path.exists(job["marker"])
            out.write(json.dumps({"name": job["name"], "arguments": job["arguments"], **seen}) + "\n")
            out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
