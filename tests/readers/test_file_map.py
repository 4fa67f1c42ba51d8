"""Maps of files: from the first byte to the last, in order, whatever the bytes are."""

from __future__ import annotations

import random
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.readers.parts.file_map import FileMap, MapBuilder, What, map_file
from modelinspect.readers.source import Unpacked, open_local

GAP, PART, REST = What("unclaimed", "gap"), What("header", "part"), What("files", "rest")


def check(drawn: FileMap) -> None:
    """Pieces without holes, none of them empty, neighbours of different meaning."""
    assert drawn.starts[0] == 0
    assert len(drawn.starts) == len(drawn.codes)
    assert all(first < second for first, second in pairwise([*drawn.starts, max(1, drawn.size)]))
    assert all(first != second for first, second in pairwise(drawn.codes))
    assert all(0 <= code < len(drawn.whats) for code in drawn.codes)


@given(st.integers(0, 40), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30))))
def test_any_parts_make_a_whole_map(size: int, parts: list[tuple[int, int]]) -> None:
    """Parts that overlap, touch, lie beyond the end or are empty: each byte has the first that claims it."""
    builder = MapBuilder(size, GAP)
    owner = [REST] * size
    reached = 0
    for begin, length in sorted(parts):
        builder.add(begin, begin + length, builder.code(PART))
        for place in range(reached, min(begin, size)):
            owner[place] = GAP
        for place in range(max(begin, reached), min(begin + length, size)):
            owner[place] = PART
        reached = max(reached, min(begin, size), min(begin + length, size))
    drawn = builder.finished(REST)
    check(drawn)
    assert [drawn.at(place) for place in range(size)] == owner


def test_labels_are_bounded(tmp_path: Path) -> None:
    """An archive of a thousand strange records: some lines and one for all others."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(1000):
            archive.writestr(f"a/strange{number}", "x")
    with open_local(str(tmp_path / "a.zip")) as source:
        drawn = map_file(source, "torch-zip", ())
    check(drawn)
    assert len(drawn.whats) < 80
    assert What("records", "other records") in drawn.whats


@pytest.mark.parametrize(
    "start", [b"PK\3\4", b"GGUF", b"\x93NUMPY", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"]
)
def test_what_only_begins_as_a_container_has_a_map(start: bytes) -> None:
    """Random bytes behind each magic number: its storages, and what lies before, between and behind."""
    chance = random.Random(start)
    for _ in range(50):
        raw = start + chance.randbytes(chance.randrange(5000))
        spans = [(10, 20), (30, 90)] if len(raw) > 90 else []
        check(map_file(Unpacked("f", raw), "torch-zip", spans))


def test_gaps_of_no_container_are_told_by_their_length() -> None:
    """A short one is alignment, a page or more is a gap that belongs to nothing."""
    drawn = map_file(Unpacked("f", bytes(20_000)), "unknown", [(100, 200), (256, 300), (9_000, 9_100)])
    check(drawn)
    kinds = [drawn.at(place).label for place in (0, 220, 5_000, 15_000)]
    assert kinds == ["header", "alignment of tensors", "gaps between tensors", "bytes after the last tensor"]


def test_zip_ends_are_told_apart(tmp_path: Path) -> None:
    """Directory, comment and trailing bytes of an archive, prefix and gap before them."""
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.comment = b"twelve bytes"
        start = archive.start_dir
    raw = (tmp_path / "a.pt").read_bytes() + bytes(7)
    drawn = map_file(Unpacked("f", raw), "torch-zip", [])
    check(drawn)
    size = len(raw)
    assert drawn.at(start).label == "zip: directory"
    assert drawn.at(size - 8).label == drawn.at(size - 19).label == "zip: comment"
    assert drawn.at(size - 20).label == "zip: directory"
    assert drawn.at(size - 1).label == drawn.at(size - 7).label == "bytes after the archive"


def test_records_are_found_by_name(tmp_path: Path) -> None:
    """Place, sizes and checksum are those of Python's zipfile."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"x" * 500)
        info = archive.infolist()[0]
    with open_local(str(tmp_path / "a.zip")) as source:
        find = map_file(source, "torch-zip", ()).find
    assert find is not None
    assert find("a/data.pkl") == (30 + len("a/data.pkl"), info.compress_size, 500, info.CRC)
    assert find("a/other") is None
