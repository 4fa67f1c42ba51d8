"""
What writing a transplant costs: beside a plain copy of the file, and beside loading and saving.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from statistics import median

from benchmarks.corpus import CACHE, huge_names, made
from benchmarks.measure import python
from benchmarks.row import Row

__all__ = ["writing"]

_WIDTH = 1_800
"""Of :func:`benchmarks.corpus.huge_names`: 2 GB of float32."""

# Every tensor under another name, which is all that can be done without looking at one.
_OURS = """\
import json, resource, sys
from dataclasses import replace
from modelinspect.readers.registry import open_checkpoint
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.write import write_plan
source = open_checkpoint(sys.argv[1])
rows = [row._replace(name="model." + row.name) for row in source.table]
lines = tuple(Assignment("model." + row.name, (Piece(row.name),)) for row in source.table)
plan = Plan(source.table, replace(source.table, tensors=rows), lines)
written = write_plan(plan, sys.argv[2], metadata=source.metadata)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([written.write_seconds, written.verify_seconds, peak]))
"""
_IN_MEMORY = """\
import json, os, resource, sys, time
from safetensors.torch import load_file, save_file
start = time.perf_counter()
state = load_file(sys.argv[1])
save_file({"model." + name: tensor for name, tensor in state.items()}, sys.argv[2])
descriptor = os.open(sys.argv[2], os.O_RDONLY)
os.fsync(descriptor)
seconds = time.perf_counter() - start
print(json.dumps([seconds, 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""
_MIB = 1024
"""Units of ``ru_maxrss`` on Linux."""


def writing(rounds: int) -> Iterator[Row]:
    """
    2 GB of safetensors, every tensor under another name, on disk at the end; in turns.

    The budget is of the write phase, 1 / 0.9 of the copy's time; rereading comes on top.
    """
    source = made("write.safetensors", _random_file(huge_names(_WIDTH)))
    out = str(CACHE / "written.safetensors")
    runs: dict[str, Callable[[], tuple[float, ...]]] = {
        "ours": lambda: _script(_OURS, source, out),
        "copy": lambda: _copy(source, out),
        "in memory": lambda: _script(_IN_MEMORY, source, out),
    }
    samples: dict[str, list[tuple[float, ...]]] = {name: [] for name in runs}
    for number in range(rounds + 1):  # the first round only fills the caches
        for name, run in runs.items():
            _remove(out)
            sample = run()
            if number:
                samples[name].append(sample)
    _remove(out)
    yield from _rows({name: [median(column) for column in zip(*taken)] for name, taken in samples.items()})


def _rows(medians: Mapping[str, list[float]]) -> Iterator[Row]:
    write, verify, peak = medians["ours"]
    copy, saving = medians["copy"][0], medians["in memory"]
    size = f"{4 * sum(map(prod, huge_names(_WIDTH).values())) / 1e9:.1f} GB"
    yield Row(f"write {size} under other names", write, "cp and sync", copy, budget=1 / 0.9)
    yield Row("  the same, reread and compared too", write + verify, "cp and sync", copy)
    yield Row("  the same", write + verify, "load_file, save_file", saving[0])
    yield Row("  resident", peak / _MIB, "the most allowed", 150, "MiB", budget=1)
    yield Row("  resident", peak / _MIB, "load_file, save_file", saving[2] / _MIB, "MiB")


def _script(code: str, source: str, out: str) -> tuple[float, ...]:
    done = subprocess.run([*python(code), source, out], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


def _copy(source: str, out: str) -> tuple[float, ...]:
    start = time.perf_counter()
    subprocess.run(["cp", source, out], check=True)
    subprocess.run(["sync"], check=True)
    return (time.perf_counter() - start,)


def _remove(path: str) -> None:
    """And have that on disk, so that it costs the next run nothing."""
    if os.path.exists(path):
        os.unlink(path)
    os.sync()


def _random_file(shapes: Mapping[str, tuple[int, ...]]) -> Callable[[Path], None]:
    """Write tensors that no file system can keep as a hole."""

    def make(path: Path) -> None:
        header, position = {}, 0
        for name in sorted(shapes):
            end = position + 4 * prod(shapes[name])
            header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": (position, end)}
            position = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        block = os.urandom(1 << 20)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for start in range(0, position, len(block)):
                file.write(block[: position - start])

    return make
