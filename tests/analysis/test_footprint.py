"""Where the bytes went: the lines add up to the size of the files, and each says what is true."""

from __future__ import annotations

import json
import random
import runpy
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from modelinspect import api
from modelinspect.analysis.fill_checksums import repeated_crc
from modelinspect.analysis.footprint import FootprintReport
from modelinspect.analysis.reach import runs
from modelinspect.dtypes import BY_NAME
from modelinspect.errors import ModelInspectError, UsageError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Storage, TensorInfo

WRITERS = runpy.run_path(str(ROOT / "tests/readers/test_contract.py"))["WRITERS"]


def looked_at(path: Path, **options: Any) -> FootprintReport:
    """The report of a file, whose lines and files add up to the bytes on disk."""
    report = api.footprint(path, **options)
    checkpoint = open_checkpoint(str(path))
    on_disk = sum(Path(file.path).stat().st_size for file in checkpoint.files)
    assert report.nbytes == on_disk == sum(line.nbytes for line in report.lines)
    assert sum(report.groups.values()) == report.nbytes
    assert [file.nbytes for file in report.files] == [sum(file.groups.values()) for file in report.files]
    assert all(line.nbytes > 0 for line in report.lines)
    assert all(0 < remedy.saves < report.nbytes for remedy in report.remedies)
    return report


def bytes_of(report: FootprintReport, *words: str) -> int:
    """Bytes of the lines of a kind and, if given, a label."""
    return sum(line.nbytes for line in report.lines if words in ((line.kind,), (line.kind, line.label)))


@pytest.fixture(scope="module", params=list(WRITERS))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A small file of each format."""
    writer = WRITERS[request.param]
    path: Path = tmp_path_factory.mktemp("written") / f"small{writer.suffix}"
    writer.write(writer.tensors(), path)
    return request.param, path


def test_each_format_adds_up(written: tuple[str, Path]) -> None:
    """Of each format: every tensor's bytes, as the library has them, and all others by what they are."""
    form, path = written
    report = looked_at(path)
    assert report.format == form
    assert bytes_of(report, "model") == sum(tensor.nbytes for tensor in WRITERS[form].tensors().values())
    assert "waste" not in report.groups


@pytest.mark.parametrize("form", [form for form in WRITERS if form != "torch-export"])
def test_values_are_not_read(form: str, tmp_path: Path) -> None:
    """A megabyte of values more costs no byte more than its longer numbers."""
    writer = WRITERS[form]
    read = []
    for numel in (1_000, 260_000):
        path = tmp_path / f"n{numel}{writer.suffix}"
        names = ("tensor",) if form == "npy" else ("a", "b")
        writer.write({name: torch.zeros(numel) for name in names}, path)
        read.append(api.footprint(path).bytes_read)
    assert read[1] <= read[0] + 64 * 5


def test_damaged_files_add_up_or_are_refused(written: tuple[str, Path], tmp_path: Path) -> None:
    """Flipped bits, bytes before and behind: what is read at all adds up to the file's size."""
    form, whole = written
    raw, chance, path = whole.read_bytes(), random.Random(form), tmp_path / whole.name
    damaged = [raw + b"x" * 99, b"y" * 40 + raw, raw + raw]
    for _ in range(30):
        flipped = bytearray(raw)
        flipped[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        try:
            report = api.footprint(path)
        except ModelInspectError:
            continue
        assert sum(line.nbytes for line in report.lines) == report.nbytes == len(content)


# -- random checkpoints ------------------------------------------------------------------


def made(draw: Any, base: list[torch.Tensor]) -> torch.Tensor:
    """A tensor of one of many kinds: whole, a slice, a column, expanded, empty, on the meta device."""
    source: torch.Tensor = draw(st.sampled_from(base))
    first, last = sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    kind = draw(st.integers(0, 8))
    if kind == 0:
        return source
    if kind == 1:
        return source[first:last]
    if kind == 2:
        return source[:, first:last]
    if kind == 3:
        return source[first, :1].expand(5, 3)
    if kind == 4:
        return torch.zeros(0, 3)
    if kind == 5:
        return torch.empty(2, 2, device="meta")
    if kind == 6:
        return source.t()
    if kind == 7:
        return source[first:, ::2]
    return source.clone()


@st.composite
def checkpoints(draw: Any) -> dict[str, Any]:
    """A model, perhaps an EMA of it, two optimizers, a scheduler, arrays and texts."""
    base = [torch.arange(56.0).reshape(7, 8) + 100 * n for n in range(draw(st.integers(1, 3)))]
    names = [f"layers.{n}.weight" for n in range(draw(st.integers(0, 5)))]
    model = {name: made(draw, base) for name in names}
    found: dict[str, Any] = {"model": model, "epoch": 3, "rng": np.arange(draw(st.integers(0, 9)))}
    if draw(st.booleans()):
        found["ema"] = dict(model) if draw(st.booleans()) else {k: made(draw, base) for k in names}
    for number in range(draw(st.integers(0, 2))):
        state = {n: {"step": torch.tensor(1.0), "exp_avg": made(draw, base)} for n in range(len(names))}
        groups = [{"lr": 0.1, "params": list(range(len(names)))}]
        found[f"optimizer_{number}"] = {"state": state, "param_groups": groups}
    return found


def union_of(value: Any, by_storage: dict[int, set[int]]) -> dict[int, set[int]]:
    """Bytes of each storage that tensors look at, counted one by one as torch walks them."""
    if isinstance(value, torch.Tensor) and value.device.type != "meta":
        reached = by_storage.setdefault(value.untyped_storage().data_ptr(), set())
        places = torch.arange(value.untyped_storage().nbytes() // value.element_size())
        seen = places.as_strided(value.size(), value.stride(), value.storage_offset()).flatten()
        reached.update(int(place) * value.element_size() for place in seen)
    elif isinstance(value, dict):
        for item in value.values():
            union_of(item, by_storage)
    return by_storage


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(checkpoints(), st.booleans())
def test_random_checkpoints_add_up(tmp_path: Path, saved: dict[str, Any], legacy: bool) -> None:
    """Slices, columns, expanded, shared, empty and meta tensors: reached bytes and slack are torch's own."""
    path = tmp_path / "made.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    report = looked_at(path)
    reached = union_of(saved, {})
    # Arrays of NumPy are tensors too, and lie in the pickle.
    assert report.groups.get("tensors", 0) == 4 * sum(map(len, reached.values()))
    assert "unclaimed" not in {line.kind for line in report.lines}


# -- what is said is true ----------------------------------------------------------------


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model after one step of Adam."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 60), torch.nn.BatchNorm1d(60), torch.nn.Linear(60, 5))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(8, 40)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_sections_and_moments_have_lines(tmp_path: Path) -> None:
    """Model, buffers, EMA and each moment of an optimizer, with tensors and bytes as torch has them."""
    model, optimizer = trained()
    state = model.state_dict()
    ema = {name: tensor * 0.5 for name, tensor in state.items()}
    torch.save({"model": state, "ema": ema, "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    report = looked_at(tmp_path / "c.pt")
    parameters = sum(p.nbytes for p in model.parameters())
    assert bytes_of(report, "model", "parameters") == parameters
    assert bytes_of(report, "model", "buffers") == sum(b.nbytes for b in model.buffers())
    assert bytes_of(report, "ema") == sum(tensor.nbytes for tensor in ema.values())
    assert (
        bytes_of(report, "optimizer", "exp_avg") == bytes_of(report, "optimizer", "exp_avg_sq") == parameters
    )
    assert bytes_of(report, "optimizer", "step") == 4 * 6
    assert [line.tensors for line in report.lines if line.label == "exp_avg"] == [6]


def test_saving_without_the_optimizer_saves_what_it_says(tmp_path: Path) -> None:
    """The file is saved again without it: smaller by the figure and by what held it together."""
    model, optimizer = trained()
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(whole, tmp_path / "c.pt")
    remedy = looked_at(tmp_path / "c.pt").remedies[0]
    assert remedy.text == "save without the optimizer"
    torch.save({"model": model.state_dict()}, tmp_path / "m.pt")
    saved = (tmp_path / "c.pt").stat().st_size - (tmp_path / "m.pt").stat().st_size
    assert remedy.saves <= saved <= remedy.saves + 12_000


def test_cloning_saves_what_it_says(tmp_path: Path) -> None:
    """Rows and a column of large storages: cloned and saved again, the difference is the figure."""
    large = torch.randn(500, 100)
    views = {"rows": large[:3], "column": torch.randn(500, 100)[:, 7], "whole": torch.randn(9)}
    torch.save(views, tmp_path / "views.pt")
    report = looked_at(tmp_path / "views.pt")
    [remedy] = report.remedies
    assert remedy.text.startswith(".clone() before saving")
    assert bytes_of(report, "slack") == remedy.saves == 2 * large.nbytes - 4 * (300 + 500)
    torch.save({name: view.clone() for name, view in views.items()}, tmp_path / "cloned.pt")
    less = (tmp_path / "views.pt").stat().st_size - (tmp_path / "cloned.pt").stat().st_size
    assert abs(less - remedy.saves) < 200  # padding falls otherwise
    assert "waste" not in looked_at(tmp_path / "cloned.pt").groups


def test_each_view_of_a_storage_is_to_be_cloned(tmp_path: Path) -> None:
    """One that is left as it is keeps the whole storage, so the remedy names them all."""
    large = torch.randn(500, 100)
    views = {"head": large[:3], "tail": large[400:410, :5], "own": torch.randn(9)}
    torch.save({"model": views, "optimizer": {}}, tmp_path / "views.pt")
    [remedy] = looked_at(tmp_path / "views.pt").remedies
    assert remedy.tensors == ("head", "tail")
    assert remedy.text.endswith("head, tail")
    cloned = {name: view.clone() if name in remedy.tensors else view for name, view in views.items()}
    torch.save({"model": cloned, "optimizer": {}}, tmp_path / "cloned.pt")
    less = (tmp_path / "views.pt").stat().st_size - (tmp_path / "cloned.pt").stat().st_size
    assert abs(less - remedy.saves) < 300


def test_views_that_share_all_of_a_storage_are_no_waste(tmp_path: Path) -> None:
    """Three column blocks of one matrix, as of fused attention: nothing is slack, nothing to clone."""
    fused = torch.randn(64, 96)
    torch.save(dict(zip("qkv", fused.chunk(3, dim=1))), tmp_path / "qkv.pt")
    report = looked_at(tmp_path / "qkv.pt")
    assert "waste" not in report.groups
    assert report.remedies == ()


def test_cloning_overlapping_views_is_not_proposed(tmp_path: Path) -> None:
    """Windows of a series share most of its bytes: clones would take more, so there is no remedy."""
    series = torch.arange(1000.0)
    torch.save({f"w{n}": series[n : n + 900] for n in range(0, 50, 10)}, tmp_path / "w.pt")
    report = looked_at(tmp_path / "w.pt")
    assert bytes_of(report, "slack") == 4 * (1000 - 940)
    assert report.remedies == ()


@pytest.mark.parametrize("legacy", [False, True])
def test_sections_that_share_storages_are_said(legacy: bool, tmp_path: Path) -> None:
    """An EMA that is the model: its bytes are the model's, and a note says how many."""
    model, _ = trained()
    state = model.state_dict()
    path = tmp_path / "c.pt"
    torch.save({"ema": state, "model": dict(state)}, path, _use_new_zipfile_serialization=not legacy)
    report = looked_at(path)
    total = sum(tensor.nbytes for tensor in state.values())
    assert bytes_of(report, "model") == total
    assert not bytes_of(report, "ema")
    assert any(note.startswith(f"ema shares {total:,} bytes (9 tensors) with model") for note in report.notes)


def test_tensors_without_bytes_are_said(tmp_path: Path) -> None:
    """A tensor of the meta device takes nothing, and is not passed over in silence."""
    torch.save({"a": torch.ones(3), "m": torch.ones(4, device="meta")}, tmp_path / "m.pt")
    assert "without bytes in the files: 1 tensor" in looked_at(tmp_path / "m.pt").notes


# -- twice -------------------------------------------------------------------------------


def test_equal_records_are_known_by_their_checksums(tmp_path: Path) -> None:
    """An EMA that never moved; zeros and ones of equal size are equal by chance and no waste."""
    model, _ = trained()
    saved = {
        "model": model.state_dict(),
        "ema": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "other": {"z1": torch.zeros(99), "z2": torch.zeros(99), "o1": torch.ones(77), "o2": torch.ones(77)},
    }
    torch.save(saved, tmp_path / "c.pt")
    report = looked_at(tmp_path / "c.pt")
    assert report.duplicates is not None
    by_name = {one.names: one for one in report.duplicates}
    assert by_name["model.0.weight", "ema.0.weight"] == (
        ("model.0.weight", "ema.0.weight"),
        9600,
        "checksum",
        "",
    )
    assert by_name["other.z1", "other.z2"].fill == "zeros"
    assert by_name["other.o1", "other.o2"].fill == "ones"
    repeated = sum(one.nbytes for one in report.duplicates if not one.fill)
    assert report.waste == repeated == next(r.saves for r in report.remedies if "all its names" in r.text)


@pytest.mark.parametrize("form", ["torch-zip", "safetensors", "torch-legacy", "npz"])
def test_values_tell_what_is_stored_twice(form: str, tmp_path: Path) -> None:
    """Equal bytes, and bytes that differ in the last one only; progress is told to the end."""
    first = torch.randn(3000)
    almost = first.clone()
    almost[-1] += 1
    tensors = {"a": first, "b": first.clone(), "c": almost, "d": torch.zeros(3000)}
    path = tmp_path / f"t{WRITERS[form].suffix}"
    WRITERS[form].write(tensors, path)
    steps: list[tuple[int, int]] = []
    report = looked_at(path, values=True, progress=lambda done, total: steps.append((done, total)))
    assert report.duplicates == ((("a", "b"), 12_000, "values", ""),)
    # What differs in its checksum is not read, and d, which begins otherwise, not to its end.
    expected = 24_000 if form in ("torch-zip", "npz") else 36_000
    assert steps[-1] == (expected, expected)
    assert report.bytes_read >= expected


def test_without_values_it_is_said_that_nobody_looked(tmp_path: Path) -> None:
    """A safetensors file has no checksums: unknown, unless the sizes alone say that nothing is equal."""
    save_file({"a": torch.randn(30), "b": torch.randn(30)}, tmp_path / "a.safetensors")
    report = looked_at(tmp_path / "a.safetensors")
    assert report.duplicates is None
    assert "--values reads them" in report.notes[-1]
    save_file({"a": torch.randn(30), "b": torch.randn(31)}, tmp_path / "b.safetensors")
    report = looked_at(tmp_path / "b.safetensors")
    assert (report.duplicates, report.notes) == ((), ())


def test_fills_are_told_by_checksums_alone() -> None:
    """The checksum of a value over and over is what zlib computes of it, for any length."""
    for unit in (b"\0", b"\0\0\x80?", b"ab", struct.pack("<d", 1)):
        for times in (0, 1, 2, 3, 31, 1000, 65537):
            assert repeated_crc(unit, times) == zlib.crc32(unit * times)


# -- containers --------------------------------------------------------------------------


def test_a_zip_is_what_its_directory_says(tmp_path: Path) -> None:
    """Lines of a torch zip against Python's zipfile: records, directory, headers and the rest."""
    torch.save({"a": torch.randn(100), "b": torch.randn(7)}, tmp_path / "a.pt")
    report = looked_at(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        start = archive.start_dir
    size = (tmp_path / "a.pt").stat().st_size
    assert bytes_of(report, "objects", "data.pkl") == infos["data.pkl"].file_size
    assert bytes_of(report, "header", "zip: directory") == size - start
    marks = sum(info.file_size for name, info in infos.items() if name != "data.pkl" and "data/" not in name)
    assert (
        bytes_of(report, "header", "version and byte order")
        == marks + infos[".data/serialization_id"].file_size
    )
    assert bytes_of(report, "alignment") > 0


def test_data_that_no_tensor_uses_is_unclaimed(tmp_path: Path) -> None:
    """A record of data more, bytes before, between and behind: waste, each by what it is."""
    torch.save({"a": torch.randn(100)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("a/data/77", bytes(1000))
        archive.writestr("a/notes.txt", "hello")
    path = tmp_path / "a.pt"
    path.write_bytes(path.read_bytes() + bytes(50))
    report = looked_at(path)
    assert bytes_of(report, "unclaimed", "data that no tensor uses") == 1000
    assert bytes_of(report, "unclaimed", "bytes after the archive") == 50
    assert bytes_of(report, "records", "notes.txt") == 5
    assert report.remedies[0].saves == report.waste == 1050


def test_compressed_records_count_as_they_lie_there(tmp_path: Path) -> None:
    """Of a repacked archive: the packed bytes are the tensors', and a note has both figures."""
    torch.save({"a": torch.zeros(1000), "b": torch.randn(100)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        packed = sum(info.compress_size for info in new.infolist() if "/data/" in info.filename)
    report = looked_at(tmp_path / "b.pt")
    assert bytes_of(report, "model") == packed
    assert any(f"{packed:,} bytes stand for 4,400" in note for note in report.notes)


def test_a_safetensors_header_is_taken_apart(tmp_path: Path) -> None:
    """The metadata that its author put in, the spaces behind the header, the rest of it."""
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors", metadata={"note": "é" * 500})
    report = looked_at(tmp_path / "a.safetensors")
    raw = (tmp_path / "a.safetensors").read_bytes()
    header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    metadata = len(f'"__metadata__":{{"note":"{"é" * 500}"}}'.encode())
    assert bytes_of(report, "metadata") == metadata
    spaces = len(header) - len(header.rstrip(b" "))
    assert bytes_of(report, "alignment") == spaces
    assert bytes_of(report, "header") == 8 + len(header) - spaces - metadata


def test_a_terabyte_takes_no_longer(tmp_path: Path) -> None:
    """A sparse file of a terabyte: added up from some hundred bytes."""
    size = 1 << 40
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "t.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    report = looked_at(tmp_path / "t.safetensors")
    assert bytes_of(report, "model") == size
    assert report.bytes_read < 2_000


def test_every_file_of_a_folder_counts(tmp_path: Path) -> None:
    """Shards and their index: a total a file, and what holds no tensor is said to."""
    for number in (1, 2):
        save_file(
            {f"w{number}": torch.randn(5 * number)}, tmp_path / f"model-0000{number}-of-00002.safetensors"
        )
    index = {"weight_map": {f"w{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    report = looked_at(tmp_path)
    assert len(report.files) == 3
    assert bytes_of(report, "files") == len(json.dumps(index))


def test_storages_that_overlap_count_once(tmp_path: Path) -> None:
    """Two records that claim the same bytes: each byte once, and the overlap is said."""
    torch.save({"a": torch.randn(100), "b": torch.randn(100)}, tmp_path / "a.pt")
    raw = bytearray((tmp_path / "a.pt").read_bytes())
    entries = [raw.rfind(b"PK\1\2", 0, raw.rfind(name)) for name in (b"a/data/0", b"a/data/1")]
    first, second = (slice(at + 42, at + 46) for at in entries)
    raw[second] = raw[first]
    (tmp_path / "b.pt").write_bytes(raw)
    report = looked_at(tmp_path / "b.pt")
    assert bytes_of(report, "model") == 400
    assert any("claimed twice" in note for note in report.notes)


def test_many_small_tensors_are_told_of_their_headers(tmp_path: Path) -> None:
    """A thousand scalars: the container takes most of the file, and a note says how much a tensor."""
    torch.save({f"p{number}": torch.tensor(1.0) for number in range(1000)}, tmp_path / "s.pt")
    assert any("bytes a tensor" in note for note in looked_at(tmp_path / "s.pt").notes)


def test_a_definition_has_no_file() -> None:
    """It is refused before anything of it runs, with the command that answers."""
    with pytest.raises(UsageError) as caught:
        api.footprint("models/regression.py:missing")
    assert caught.value.hint == "modelinspect count models/regression.py:missing --what bytes"


def test_runs_are_what_torch_walks() -> None:
    """The bytes of any strided view are those of its elements, walked one by one."""
    chance = random.Random(3)
    for _ in range(300):
        shape = tuple(chance.randrange(1, 5) for _ in range(chance.randrange(4)))
        stride = tuple(chance.randrange(0, 30) for _ in shape)
        offset = chance.randrange(5)
        row = TensorInfo("t", BY_NAME["int16"], shape, Storage("f", "k", 0, 9999), stride, offset)
        places = torch.arange(9999 // 2).as_strided(shape, stride, offset).flatten().tolist()
        expected = {2 * place + byte for place in places for byte in (0, 1)}
        assert {byte for first, last in runs(row) for byte in range(first, last)} == expected
