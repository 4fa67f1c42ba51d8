"""
Makes hostile files, has the commands run on them, and says what is wrong with what came of it.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import modelinspect
from hostile.entry import Hostile, Place

__all__ = ["MEGABYTES", "marker_of", "planted", "problems", "run"]

MEGABYTES = 300
"""That a command may hold."""
_FORMS = ("table", "json", "jsonl", "csv", "tsv", "markdown")
_PLANTED = """
import os
open(os.environ["HOSTILE_MARKER"], "w").close()
x = None
"""
_PLANTED_NEW = """
class Marked:
    def __new__(cls, path):
        open(path, "w").close()
        return object.__new__(cls)

class Sets:
    def put(self, path):
        open(path, "w").close()
    append = add = __setstate__ = put
    def extend(self, paths):
        for path in paths: self.put(path)
    update = extend
    def __setitem__(self, path, value):
        self.put(path)
"""


def planted(base: Path) -> Path:
    """A folder of modules that make the marker when they are imported or used."""
    folder = base / "planted"
    (folder / "planted").mkdir(parents=True)
    (folder / "planted" / "__init__.py").write_text(_PLANTED)
    (folder / "planted" / "sub.py").write_text(_PLANTED)
    (folder / "planted_new.py").write_text(_PLANTED_NEW)
    return folder


def marker_of(base: Path, number: int) -> str:
    """The marker of an entry."""
    return str(base / "markers" / str(number))


def commands(target: str, number: int, costly: bool) -> list[list[str]]:
    """What is run on a target: the two whose outcome is known, the others, in changing forms."""
    number += number // len(_FORMS)  # each kind in every form
    form = _FORMS[number % len(_FORMS)]
    other = _FORMS[(number + 3) % len(_FORMS)]
    others = [
        ["info", target, "--format", form],
        ["bytes", target, "--format", other],
        ["params", target, "--format", form],
        ["scan", target, "--format", "sarif" if number % 2 else other],
    ]
    chosen = [others[number % 3]] if costly else others
    return [["count", target], ["scan", target], *chosen]


def run(entries: Sequence[Hostile], base: Path) -> list[dict[str, Any]]:
    """Make the files and run all commands on them in one process; what each gave."""
    modules = planted(base)
    (base / "markers").mkdir()
    outside = base / "outside"
    outside.mkdir()
    (outside / "secret.bin").write_bytes(b"secret" * 100)
    header = b'{"secret":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    (outside / "secret.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    jobs = []
    for number, entry in enumerate(entries):
        folder = base / f"e{number}"
        folder.mkdir()
        marker = marker_of(base, number)
        target = entry.make(Place(folder, marker, outside))
        jobs += [
            {"name": entry.name, "folder": str(folder), "marker": marker, "arguments": arguments}
            for arguments in commands(target, number, entry.costly)
        ]
    return _batch(jobs, base, modules)


def _batch(jobs: list[dict[str, Any]], base: Path, modules: Path) -> list[dict[str, Any]]:
    source = str(Path(modelinspect.__file__).parents[1])
    support = str(Path(__file__).parents[1])
    trusted = [sys.prefix, sys.base_prefix, source, support, str(Path(os.__file__).parent)]
    listed, results = base / "jobs.json", base / "results.jsonl"
    listed.write_text(json.dumps({"trusted": trusted, "jobs": jobs}))
    paths = os.pathsep.join([source, support, str(modules)])
    done = subprocess.run(
        [sys.executable, "-m", "hostile.batch", str(listed), str(results)],
        env={
            **_clean(),
            "PYTHONPATH": paths,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOSTILE_MARKER": str(base / "markers" / "imported"),
        },
        cwd=base,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    lines = results.read_text(encoding="utf-8").splitlines()
    if done.returncode or len(lines) != len(jobs):
        last = jobs[len(lines)] if len(lines) < len(jobs) else jobs[-1]
        raise AssertionError(f"{last['name']}: {last['arguments']} ended the process: {done.stderr[-2_000:]}")
    return [json.loads(line) for line in lines]


def _clean() -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name in kept}


def problems(entry: Hostile, results: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong: a sentence each."""
    found = []
    for expected, result in zip((entry.counted, entry.scanned), results):
        code, piece = expected
        if code < 0:  # any answer will do
            continue
        if result["code"] != code or piece not in result["out"] + result["err"]:
            found.append(
                f"{result['arguments']}: expected {expected}, got {result['code']}: "
                f"{result['out'][:600]!r} {result['err'][:600]!r}"
            )
    return found + [text for result in results for text in _broken_promises(result)]


def _formula(result: dict[str, Any]) -> str:
    """A cell of a table for spreadsheets that begins as a formula does."""
    form = result["arguments"][-1]
    if form not in {"csv", "tsv"} or "\0" in result["out"]:
        return ""
    rows = csv.reader(result["out"].splitlines(), delimiter="," if form == "csv" else "\t")
    begun = [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]
    return begun[0] if begun else ""


def _broken_promises(result: dict[str, Any]) -> list[str]:
    """What holds of every command on every file."""
    from hostile.batch import SECONDS

    wrong = {
        "ran code: the marker is there": result["marker"],
        "opened files outside": result["outside"],
        "reached outside the process": result["calls"],
        "a traceback": result["traceback"] and result["err"][-2_000:],
        "odd characters in the output": result["odd"],
        f"an exit code of {result['code']}": result["code"] not in {0, 1, 2},
        f"{result['seconds']} seconds": result["seconds"] > SECONDS,
        f"{result['megabytes']} MB": result["megabytes"] > MEGABYTES,
        "a cell that a spreadsheet runs": _formula(result),
        "nothing said": result["code"] != 0 and not result["err"].strip() and not result["out"].strip(),
    }
    return [f"{result['arguments']}: {what} {value}" for what, value in wrong.items() if value]
