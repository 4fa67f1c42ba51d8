"""The report of a scan: what it says it looked at, whole folders, fingerprints and baselines."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import modelinspect as mi
from modelinspect import api
from modelinspect.errors import ModelInspectError, RefusedError, UnrecognisedFileError, UsageError
from modelinspect.readers.scanning import budget


class Runs:
    """Calls os.getcwd() when it is loaded."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __reduce__(self) -> tuple[Any, ...]:
        return os.fspath, ("harmless", *self.args)[:1]


class Kept(torch.nn.Module):
    """A class that a checkpoint names."""


def dumped(path: Path, thing: Any) -> Path:
    """A pickle."""
    path.write_bytes(pickle.dumps(thing))
    return path


def test_it_says_what_it_looked_at_and_never_safe(tmp_path: Path) -> None:
    """Nothing found is said with what was looked at: pickles, bytes, names; data only by their beginnings."""
    path = tmp_path / "net.pt"
    torch.save({"w": torch.zeros(3)}, path)
    report = mi.scan(path)
    assert not report.found
    assert report.headline == (
        "nothing found in: 1 pickle (net/data.pkl, 162 bytes), 3 names, all understood, "
        "torch.save archive, 6 × data (not looked into)"
    )
    assert [name.dotted for name in report.globals] == [
        "torch._utils._rebuild_tensor_v2",
        "torch.FloatStorage",
        "collections.OrderedDict",
    ]
    (data,) = [each for each in report.looked_at if each.record == "*"]
    assert (data.records, data.looked_into) == (6, False)
    assert "checksums of data not checked" in data.why


def test_only_headers_are_read(tmp_path: Path) -> None:
    """A hundred times the values cost nothing."""
    read = []
    for numel in (1_000, 1_000_000):
        path = tmp_path / "net.pt"
        torch.save({"w": torch.zeros(numel)}, path)
        from modelinspect.readers.scanning.scanner import scan_source
        from modelinspect.readers.source import open_local

        with open_local(str(path)) as source:
            scan_source(source, "net.pt")
            read.append(source.bytes_read)
    assert read[1] <= read[0] + 64


def test_calls_are_shown_with_their_arguments(tmp_path: Path) -> None:
    """The headline and the finding say what would be called with what, and where."""
    path = dumped(tmp_path / "bad.pkl", {"a": [Runs()]})
    report = mi.scan(path)
    (finding,) = report.findings
    assert finding.level == "error"
    assert finding.message == "runs posix.fspath('harmless')"
    assert report.headline == "what would run: posix.fspath('harmless')"
    raw = path.read_bytes()
    assert raw[finding.position : finding.position + 1] == b"R"  # type: ignore[operator]
    assert finding.offset == finding.position
    (name,) = report.globals
    assert (name.group, name.calls, name.times) == ("executes code", ("posix.fspath('harmless')",), 1)


def test_a_pickled_module_names_its_classes(tmp_path: Path) -> None:
    """A whole module is no code by itself: its classes are imported, which is a warning."""
    torch.save(torch.nn.Linear(2, 3), tmp_path / "module.pt")
    report = mi.scan(tmp_path / "module.pt")
    assert [(each.rule, each.level) for each in report.findings] == [("unknown-global", "warning")]
    assert report.headline == "loading it imports torch.nn.modules.linear.Linear"


def test_every_file_of_a_folder_is_looked_into(tmp_path: Path) -> None:
    """Below a folder: all regular files, whatever their names; what is not one is named."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    dumped(tmp_path / "a" / "b" / "notes.txt", Runs())
    dumped(tmp_path / "fine.bin", [1])
    (tmp_path / "random").write_bytes(b"\xfe\xfd" * 9)
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    report = mi.scan(tmp_path)
    assert [(each.rule, each.file) for each in report.findings] == [
        ("executes-code", "a/b/notes.txt"),
        ("not-looked-into", "pipe"),
    ]
    assert {each.file for each in report.looked_at} == {
        "a/b/notes.txt",
        "fine.bin",
        "random",
        "empty",
        "pipe",
    }


def test_links_are_followed_inside_only(tmp_path: Path) -> None:
    """A link inside the folder is looked into; one that leads out is not opened."""
    folder = tmp_path / "model"
    folder.mkdir()
    dumped(tmp_path / "secret.pkl", Runs())
    dumped(folder / "real.bin", Runs())
    (folder / "inside").symlink_to("real.bin")
    (folder / "outside").symlink_to("../secret.pkl")
    (folder / "loop").symlink_to(".")
    report = mi.scan(folder)
    assert {(each.rule, each.file) for each in report.findings} == {
        ("executes-code", "inside"),
        ("executes-code", "real.bin"),
        ("link", "outside"),
        ("link", "loop"),
    }


def test_a_cache_of_hugging_face_is_followed(tmp_path: Path) -> None:
    """``snapshots/REVISION/`` links to the sibling ``blobs/``, as everywhere else."""
    (tmp_path / "blobs").mkdir()
    dumped(tmp_path / "blobs" / "0123", Runs())
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_model.bin").symlink_to("../../blobs/0123")
    assert [each.rule for each in mi.scan(snapshot).findings] == ["executes-code"]


def test_an_index_brings_its_shards(tmp_path: Path) -> None:
    """The shards that an index names are looked into; a name that leads out is a finding."""
    dumped(tmp_path / "one.bin", Runs())
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.bin", "b": "../x.bin", "c": "gone.bin"}}))
    found = {(each.rule, each.file) for each in mi.scan(index).findings}
    assert found == {
        ("executes-code", "one.bin"),
        ("path-escape", "../x.bin"),
        ("not-looked-into", "gone.bin"),
    }


def test_what_is_nothing_known_is_an_error(tmp_path: Path) -> None:
    """A file that is nothing known, an empty one, none and a pipe without a writer are not passed over."""
    (tmp_path / "random").write_bytes(b"\xfe\xfd" * 9)
    with pytest.raises(UnrecognisedFileError):
        mi.scan(tmp_path / "random")
    (tmp_path / "empty").touch()
    with pytest.raises(UnrecognisedFileError, match="is empty"):
        mi.scan(tmp_path / "empty")
    with pytest.raises(ModelInspectError, match="no such file"):
        mi.scan(tmp_path / "gone")
    with pytest.raises(RefusedError):
        mi.scan("/dev/zero")


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    """Equal under another name in another folder; different for another call in the same place."""
    (tmp_path / "other").mkdir()
    first = mi.scan(dumped(tmp_path / "a.pkl", Runs())).findings
    moved = mi.scan(dumped(tmp_path / "other" / "b.pkl", Runs())).findings
    assert [each.fingerprint for each in first] == [each.fingerprint for each in moved]
    path = tmp_path / "a.pkl"
    path.write_bytes(path.read_bytes().replace(b"harmless", b"harmfull"))
    changed = mi.scan(path).findings
    assert {each.fingerprint for each in first}.isdisjoint(each.fingerprint for each in changed)


def test_a_baseline_accepts_what_was_found(tmp_path: Path) -> None:
    """What a baseline lists is put aside, what is new is not."""
    path, baseline = dumped(tmp_path / "a.pkl", Runs()), tmp_path / "accepted.json"
    api.write_scan_baseline(baseline, [mi.scan(path)])
    accepted = api.read_scan_baseline(baseline)
    report = mi.scan(path, accepted=accepted)
    assert not report.found
    assert [each.rule for each in report.accepted] == ["executes-code"]
    path.write_bytes(path.read_bytes().replace(b"harmless", b"harmfull"))
    assert mi.scan(path, accepted=accepted).found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1, "accepted": [1]}', "{" * 9999])
def test_a_baseline_that_is_none(tmp_path: Path, text: str) -> None:
    """An error that says so, never an empty list."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError):
        api.read_scan_baseline(tmp_path / "x.json")
    with pytest.raises(UsageError):
        api.read_scan_baseline(tmp_path / "gone.json")


def test_findings_are_bounded(tmp_path: Path) -> None:
    """A file of a million calls gives a thousand findings and says that there are more."""
    path = tmp_path / "many.pkl"
    path.write_bytes(b"".join(b"cm%d\nn\n)R0" % number for number in range(20_000)) + b"N.")
    report = mi.scan(path)
    assert len(report.findings) == 1_001
    assert report.findings[-1].rule == "more"


def test_records_that_share_their_bytes_are_no_endless_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty thousand entries of one record: the scan ends, and says that it did not look at all."""
    import struct
    from zipfile import ZipFile

    monkeypatch.setattr(budget, "_MAX_SECONDS", 0.1)
    path = tmp_path / "overlap.zip"
    with ZipFile(path, "w") as archive:
        archive.writestr("a.pkl", b"\x80\x02" + b"N0" * 40_000 + b"N.")
    raw = path.read_bytes()
    start, end = raw.index(b"PK\1\2"), raw.index(b"PK\5\6")
    entries = b"".join(raw[start:end].replace(b"a.pkl", b"%05x" % number) for number in range(60_000))
    tail = bytearray(raw[end:])
    struct.pack_into("<HHLL", tail, 8, 60_000, 60_000, len(entries), start)
    path.write_bytes(raw[:start] + entries + tail)
    found = {each.rule for each in mi.scan(path).findings}
    assert {"zip-overlap", "not-looked-into"} <= found
