"""
The work that is measured. Each function runs one comparison and yields the lines to print.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.corpus import CACHE, ROOT, huge_names, made, many_names, safetensors_file, torch_file
from benchmarks.gradients import by_hand, watching
from benchmarks.measure import COMMAND, Sample, in_pipe, in_turns, inside, on_terminal, python
from benchmarks.plans import plans
from benchmarks.row import Row
from benchmarks.writing import writing
from modelinspect.analysis.gradients import Figures, Thresholds
from modelinspect.analysis.runs import Parameter, end_line, header_line, step_line, table_line

__all__ = ["CASES"]

_BARE_PROGRAM = """\
import typer

app = typer.Typer()


@app.command()
def first(word: str) -> None:
    print(word)


@app.command()
def second(word: str) -> None:
    print(word)


app()
"""
_OPEN = "from modelinspect.readers.registry import open_checkpoint"


def _bare_program() -> str:
    return made("bare.py", lambda path: _write(path, _BARE_PROGRAM))


def _write(path: os.PathLike[str], text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def start_up(rounds: int) -> Iterator[Row]:
    """Whole processes, output in a pipe: commands on a small file, and help."""
    small = {"safetensors": _small("safetensors"), "torch zip": _small("torch")}
    ours = {
        "count, safetensors": [COMMAND, "count", small["safetensors"]],
        "params, safetensors": [COMMAND, "params", small["safetensors"]],
        "count, torch zip": [COMMAND, "count", small["torch zip"]],
        "info, torch zip": [COMMAND, "info", small["torch zip"]],
        "params, torch zip": [COMMAND, "params", small["torch zip"]],
        "bytes, torch zip": [COMMAND, "bytes", small["torch zip"]],
        "scan, torch zip": [COMMAND, "scan", small["torch zip"]],
        "count --help": [COMMAND, "count", "--help"],
        "grads --help": [COMMAND, "grads", "--help"],
        "grads, a run": [COMMAND, "grads", _small_run()],
    }
    peers = {
        "bare Typer program": [sys.executable, _bare_program(), "first", "word"],
        "import torch": python("import torch"),
    }
    runs = {name: in_pipe(command) for name, command in {**ours, **peers}.items()}
    taken = in_turns(runs, rounds)
    for name in ours:
        for peer, budget in (("bare Typer program", 1.5), ("import torch", 0.1)):
            yield Row(f"start-up: {name}", taken[name].seconds, peer, taken[peer].seconds, budget=budget)


def _small_run() -> str:
    """The record of a run of 20 parameters and 50 steps."""

    def write(path: Path) -> None:
        parameters = [Parameter(f"layers.{number}.weight", (8, 8), "float32") for number in range(20)]
        lines = [header_line("Net", "2", 50, Thresholds(), parameters)]
        lines += [step_line(step, 1.0, 1.0, [0.5] * 20) for step in range(1, 51)]
        lines += [table_line(50, [Figures(64, 1.0, 0.5, 0.1, 0, weight=1.0)] * 20), end_line(50)]
        path.write_text("".join(lines), encoding="utf-8")

    return made("small.jsonl", write)


def _small(kind: str) -> str:
    make = safetensors_file if kind == "safetensors" else torch_file
    return made(f"small.{kind}", make(huge_names(40)))


def _huge(kind: str) -> str:
    make = safetensors_file if kind == "safetensors" else torch_file
    return made(f"huge.{kind}", make(huge_names(1280)))


def listing(rounds: int) -> Iterator[Row]:
    """A file of 1 GiB: its tensors' names, shapes and types, by us and by those who load it."""
    huge_zip, huge_flat = _huge("torch"), _huge("safetensors")
    yield from _listing_whole("torch zip", huge_zip, _TORCH_PEERS, rounds)
    yield from _listing_inside("torch zip", huge_zip, _TORCH_PEERS, rounds)
    yield from _listing_whole("safetensors", huge_flat, _SAFETENSORS_PEERS, rounds)
    yield from _listing_inside("safetensors", huge_flat, _SAFETENSORS_PEERS, rounds)


_READ_SLICES = """\
with safe_open({path!r}, "numpy") as file:
    slices = [file.get_slice(name) for name in file.keys()]
    [(s.get_shape(), s.get_dtype()) for s in slices]
"""
# Peer: (what it imports, what it does with PATH).
_TORCH_PEERS = {
    "torch.load": ("import torch", "torch.load({path!r}, weights_only=True)"),
    "torch.load, mmap": ("import torch", "torch.load({path!r}, mmap=True, weights_only=True)"),
}
_SAFETENSORS_PEERS = {
    "safetensors load_file": ("from safetensors.torch import load_file", "load_file({path!r})"),
    "safetensors safe_open": ("import numpy\nfrom safetensors import safe_open", _READ_SLICES),
}
_Peers = dict[str, tuple[str, str]]


def _listing_whole(kind: str, path: str, peers: _Peers, rounds: int) -> Iterator[Row]:
    runs = {"ours": in_pipe([COMMAND, "params", path])}
    for name, (setup, work) in peers.items():
        runs[name] = in_pipe(python(f"{setup}\n{work.format(path=path)}"))
    taken = in_turns(runs, rounds)
    for name in peers:
        work_name = f"params of 1 GiB, {kind}, whole process"
        yield Row(work_name, taken["ours"].seconds, name, taken[name].seconds)
        yield Row(f"{work_name}: memory", taken["ours"].mib, name, taken[name].mib, unit="MiB")


def _listing_inside(kind: str, path: str, peers: _Peers, rounds: int) -> Iterator[Row]:
    runs = {"ours": _opening(path, kind)}
    for name, (setup, work) in peers.items():
        runs[name] = inside(setup, work.format(path=path))
    taken = in_turns(runs, rounds)
    for name in peers:
        yield Row(f"open 1 GiB, {kind}, imports aside", taken["ours"].seconds, name, taken[name].seconds)


def _opening(path: str, kind: str) -> Callable[[], Sample]:
    reader = "torch_zip" if kind == "torch zip" else "safetensors"
    return inside(f"{_OPEN}\nimport modelinspect.readers.formats.{reader}", f"open_checkpoint({path!r})")


def many_tensors(rounds: int) -> Iterator[Row]:
    """Headers of 100,000 tensors, imports and process start aside."""
    names = many_names(100_000)
    flat = made("many.safetensors", safetensors_file(names))
    zipped = made("many.torch", torch_file(names))
    taken = in_turns(
        {
            "ours, safetensors": _opening(flat, "safetensors"),
            "json.loads": inside(
                "import json, struct\n"
                f"f = open({flat!r}, 'rb')\n"
                "raw = f.read(struct.unpack('<Q', f.read(8))[0])",
                "json.loads(raw)",
            ),
            "ours, torch zip": _opening(zipped, "torch zip"),
            "torch.load": inside("import torch", f"torch.load({zipped!r}, mmap=True, weights_only=True)"),
        },
        rounds,
    )
    work, peer = taken["ours, safetensors"], taken["json.loads"]
    yield Row("header of 100,000, safetensors", work.seconds, "json.loads of it", peer.seconds, budget=3)
    yield Row("the same: memory", work.mib, "json.loads of it", peer.mib, unit="MiB")
    work, peer = taken["ours, torch zip"], taken["torch.load"]
    yield Row("header of 100,000, torch zip", work.seconds, "torch.load, mmap", peer.seconds, budget=0.25)
    yield Row("the same: memory", work.mib, "torch.load, mmap", peer.mib, unit="MiB")


def more_data(rounds: int) -> Iterator[Row]:
    """The same names with 1,000 times the data: the answer must cost the same."""
    for kind, title in (("safetensors", "safetensors"), ("torch", "torch zip")):
        taken = in_turns(
            {
                size: in_pipe([COMMAND, "params", path])
                for size, path in (("1", _small(kind)), ("k", _huge(kind)))
            },
            2 * rounds,
        )
        work = f"params of 1,000 × the data, {title}"
        yield Row(work, taken["k"].seconds, "the small file", taken["1"].seconds, budget=1.05)
        yield Row(
            f"{work}: memory", taken["k"].mib, "the small file", taken["1"].mib, unit="MiB", budget=1.05
        )


def definition(rounds: int) -> Iterator[Row]:
    """A definition of 100 billion parameters, over what importing torch costs."""
    target = f"{ROOT / 'models' / 'giant.py'}:Giant(layers=115)"
    taken = in_turns(
        {
            "count": in_pipe([COMMAND, "count", target]),
            "params": in_pipe([COMMAND, "params", target]),
            "torch": in_pipe(python("import torch")),
        },
        rounds,
    )
    torch = taken["torch"]
    for name in ("count", "params"):
        work, ours = f"{name} of a definition of 100 billion", taken[name]
        yield Row(work, ours.seconds, "import torch", torch.seconds, budget=5, excess=True)
        yield Row(f"{work}: memory", ours.mib, "import torch", torch.mib, unit="MiB", budget=200, excess=True)


def terminal(rounds: int) -> Iterator[Row]:
    """100,000 rows on a terminal, against printing the same lines."""
    path = made("many.safetensors", safetensors_file(many_names(100_000)))
    command = [COMMAND, "params", "--no-fold", path]
    shown: list[bytes] = []
    on_terminal(command, keep=shown)()
    lines = CACHE / "lines.txt"
    lines.write_bytes(b"".join(shown).replace(b"\r\n", b"\n"))
    printing = python(f"for line in open({os.fspath(lines)!r}, encoding='utf-8'): print(line, end='')")
    taken = in_turns({"ours": on_terminal(command), "print": on_terminal(printing)}, rounds)
    name = "printing the lines"
    yield Row("100,000 rows on a terminal", taken["ours"].seconds, name, taken["print"].seconds, budget=3)


CASES: dict[str, tuple[Callable[[int], Iterator[Row]], int]] = {
    "start-up": (start_up, 11),
    "listing": (listing, 5),
    "many-tensors": (many_tensors, 5),
    "more-data": (more_data, 7),
    "definition": (definition, 5),
    "terminal": (terminal, 5),
    "grads": (by_hand, 5),
    "watch": (watching, 3),
    "write": (writing, 5),
    "plans": (plans, 3),
}
"""Name to the comparison and the rounds that its median is of."""
