"""
Files of torch.distributed.checkpoint, which are archives one behind the other, and other files that are.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict_saver import save

import modelinspect as mi
from modelinspect.analysis.scan import scan_target


class Runs:
    """Calls os.getcwd() when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


def saved(thing: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def written(folder: Path, tensors: int) -> Path:
    """A checkpoint of tensors of one size, whose archives are alike to the byte."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(
            {f"w{n}": torch.full((4,), float(n)) for n in range(tensors)}, checkpoint_id=folder, no_dist=True
        )
    return folder


def test_an_honest_checkpoint(tmp_path: Path) -> None:
    """Archives that are alike are no reason to take one for another: nothing is found, all are looked at."""
    report = scan_target(str(written(tmp_path / "dcp", 20)), "dcp")
    assert report.findings == ()
    assert sum(each.what == "torch.save archive" for each in report.looked_at) == 20
    assert len({each.record for each in report.looked_at if each.what == "pickle of protocol 2"}) == 20


def test_one_file_of_a_checkpoint_has_all_its_tensors(tmp_path: Path) -> None:
    """Without .metadata each archive is found, however alike they are."""
    path = written(tmp_path / "dcp", 20) / "__0_0.distcp"
    assert len(mi.open_checkpoint(path).section("all")) == 20


def test_an_archive_in_the_middle_that_runs_code(tmp_path: Path) -> None:
    """What would run is found in whichever archive it is, and where."""
    parts = [saved(torch.ones(4)), saved(torch.zeros(4)), saved(Runs()), saved(torch.ones(4))]
    path = tmp_path / "__0_0.distcp"
    path.write_bytes(b"".join(parts))
    report = scan_target(str(path), path.name)
    [finding] = report.findings
    assert finding.rule == "executes-code"
    assert finding.record == f"archive at byte {len(parts[0] + parts[1])}!archive/data.pkl"


def test_thousands_of_archives(tmp_path: Path) -> None:
    """They are looked at one after the other, not one inside the other."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text")
    for name in ("file.zip", "__0_0.distcp"):
        path = tmp_path / name
        path.write_bytes(buffer.getvalue() * 2_000)
        report = scan_target(str(path), name)
        assert {each.rule for each in report.findings} == (
            {"polyglot", "more"} if name == "file.zip" else set()
        )
        assert sum(each.what == "zip archive" for each in report.looked_at) == 2_000
