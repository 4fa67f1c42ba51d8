"""safetensors: every rule of the format, with the library as the judge."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import command
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from modelinspect.analysis.statistics import summarise_files
from modelinspect.dtypes import BY_SAFETENSORS
from modelinspect.errors import CheckpointError, DamagedFileError, LimitError
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.readers.registry import open_checkpoint
from modelinspect.values import read_values


def pack(header: str | bytes, data: bytes = b"") -> bytes:
    """A file with this header, sound or not."""
    raw = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """One tensor's entry."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def library_accepts(path: Path) -> bool:
    """What the safetensors library itself says of the file."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except SafetensorError:
        return False


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
            lambda k: k != "__metadata__"
        ),
        st.tuples(
            st.lists(st.integers(0, 4), max_size=4),
            st.sampled_from([torch.float32, torch.int8, torch.bfloat16]),
        ),
        max_size=6,
    )
)
def test_equals_the_library(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any]) -> None:
    """For any names, shapes and data types: what the library wrote is what is read."""
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    saved = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in tensors.items()}
    save_file(saved, path, metadata={"format": "pt"})
    checkpoint = open_checkpoint(str(path))
    assert {t.name: (list(t.shape), f"torch.{t.dtype}") for t in checkpoint.table} == {
        name: (list(tensor.shape), str(tensor.dtype)) for name, tensor in saved.items()
    }
    assert checkpoint.metadata == {"format": "pt"}


@pytest.mark.parametrize("spelling", sorted(BY_SAFETENSORS))
def test_every_data_type(spelling: str, tmp_path: Path) -> None:
    """Every spelling of the format, with shapes in elements and sizes in whole bytes."""
    bits = BY_SAFETENSORS[spelling].bits
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(json.dumps({"w": entry(spelling, (4, 2), (0, bits))}), bytes(bits)))
    assert library_accepts(path)
    row = open_checkpoint(str(path)).table["w"]
    assert (row.dtype.safetensors, row.shape, row.nbytes) == (spelling, (4, 2), bits)


E = entry()
SECOND = entry(offsets=(8, 16))
BROKEN: dict[str, tuple[bytes, str]] = {
    "not an object": (pack("[]"), "'{'"),
    "leading space": (pack(' {"w": 1}'), "'{'"),
    "no JSON": (pack("{w}"), "not JSON"),
    "trailing comma": (pack('{"__metadata__":{},}'), "not JSON"),
    "NaN": (pack('{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'), "NaN"),
    "not UTF-8": (pack(b'{"\xff":{}}'), "not UTF-8"),
    "nested": (pack('{"a":' + "[" * 100_000), "nested too deeply"),
    "entry is a number": (pack('{"w":1}'), "not an object"),
    "no dtype": (pack(json.dumps({"w": {"shape": [2], "data_offsets": [0, 8]}}), bytes(8)), "no 'dtype'"),
    "unknown dtype": (pack(json.dumps({"w": entry("F33")}), bytes(8)), "unknown data type"),
    "negative shape": (pack(json.dumps({"w": entry(shape=[-2])}), bytes(8)), "list of sizes"),
    "float shape": (pack(json.dumps({"w": entry(shape=[2.0])}), bytes(8)), "list of sizes"),
    "bool shape": (pack(json.dumps({"w": entry("F32", [True, 2])}), bytes(8)), "list of sizes"),
    "three offsets": (pack(json.dumps({"w": entry(offsets=[0, 8, 8])}), bytes(8)), "two positions"),
    "backwards": (pack(json.dumps({"w": entry(offsets=[8, 0])}), bytes(8)), "backwards"),
    "size differs": (pack(json.dumps({"w": entry(shape=[3])}), bytes(8)), "takes 12 bytes"),
    "huge shape": (pack(json.dumps({"w": entry(shape=[2**62, 2**62])}), bytes(8)), "64 bits"),
    "over u64": (pack(json.dumps({"w": entry(shape=[2**64, 0], offsets=[0, 0])})), "list of sizes"),
    "half a byte": (pack(json.dumps({"w": entry("F4", [3], [0, 2])}), bytes(2)), "whole bytes"),
    "hole": (pack(json.dumps({"w": entry(offsets=(8, 16))}), bytes(16)), "leaves a gap"),
    "overlap": (pack(json.dumps({"v": E, "w": E}), bytes(8)), "overlaps"),
    "bytes behind": (pack(json.dumps({"w": E}), bytes(9)), "no tensor claims"),
    "bytes missing": (pack(json.dumps({"w": E}), bytes(7)), "truncated"),
    "metadata twice": (pack('{"__metadata__":{},"__metadata__":{}}'), "twice"),
    "metadata of numbers": (pack('{"__metadata__":{"a":1}}'), "texts"),
    "metadata a list": (pack('{"__metadata__":[1]}'), "texts"),
    "inner key twice": (
        pack('{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "repeats 'dtype'",
    ),
    "half a surrogate": (
        pack('{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "surrogate",
    ),
    "shape an object": (
        pack('{"w":{"dtype":"F32","shape":{},"data_offsets":[0,4]}}', bytes(4)),
        "list of sizes",
    ),
    "shape a text": (
        pack('{"w":{"dtype":"F32","shape":"","data_offsets":[0,4]}}', bytes(4)),
        "list of sizes",
    ),
    "shape twice": (
        pack('{"w":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "repeats 'shape'",
    ),
    "metadata an empty list": (pack('{"__metadata__":[]}'), "texts"),
    "metadata zero": (pack('{"__metadata__":0}'), "texts"),
    "half a surrogate in metadata": (pack('{"__metadata__":{"a":"\\udc00"}}'), "surrogate"),
    "more than 64 bits count": (
        pack(json.dumps({"w": entry(shape=[2**64 - 1] * 300, offsets=[0, 0])})),
        "64 bits",
    ),
    "no entry among many": (pack(json.dumps({str(n): {} for n in range(50)})), "no 'dtype'"),
    "huge number": (pack('{"w":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,8]}}'), "JSON"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_broken_rules_have_their_sentences(case: str, tmp_path: Path) -> None:
    """The library refuses each of these, and so do we, saying which rule is broken."""
    raw, expected = BROKEN[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    # The library is lenient in one point: it takes a space before the brace.
    assert library_accepts(path) is False or case == "leading space"
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(path), read_as="safetensors")
    assert expected in str(caught.value)
    assert "x.safetensors" in caught.value.message


def test_a_header_longer_than_allowed_names_the_limit(tmp_path: Path) -> None:
    """A length of 2^60 allocates nothing."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(LimitError) as caught:
        open_checkpoint(str(path), read_as="safetensors")
    assert "limit: 100,000,000" in str(caught.value)


def test_a_header_that_ends_early_is_truncated(tmp_path: Path) -> None:
    """The header claims more bytes than the file has."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 500) + b'{"w":')
    with pytest.raises(DamagedFileError, match="truncated"):
        open_checkpoint(str(path))


@pytest.mark.parametrize("second", ["w", "\\u0077"])
def test_repeated_names_keep_the_last_and_say_so(second: str, tmp_path: Path) -> None:
    """Loaders silently keep the last of two equal names, also escaped ones; we say it."""
    header = (
        '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        f'"{second}":{{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}}}'
    )
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(header, bytes(8)))
    assert library_accepts(path)
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.table["w"].dtype.name == "int32"
    assert any("more than once" in note for note in checkpoint.notes)


def test_accepted_oddities(tmp_path: Path) -> None:
    """Unknown fields, null metadata, padding, empty and scalar tensors: as the library."""
    header = {
        "__metadata__": None,
        "scalar": {**entry(shape=(), offsets=(0, 4)), "unknown": [1, 2]},
        "empty": entry(shape=(0, 2**40), offsets=(4, 4)),
        "row": ["F32", [1], [4, 8]],
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(json.dumps(header) + "   ", bytes(8)))
    assert library_accepts(path)
    rows = [(t.name, t.shape) for t in open_checkpoint(str(path)).table]
    assert rows == [("empty", (0, 2**40)), ("row", (1,)), ("scalar", ())]


def test_an_empty_header_is_an_empty_checkpoint(tmp_path: Path) -> None:
    """No tensors at all is a valid file."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack("{}      "))
    assert library_accepts(path)
    assert len(open_checkpoint(str(path)).table) == 0


def test_names_come_in_natural_order(tmp_path: Path) -> None:
    """The writer sorted by data type and text; the order shown is by number and part."""
    names = ["h.10.w", "h.2.w", "h.2.b", "a-b.w", "a.w", "emb"]
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path)
    assert [t.name for t in open_checkpoint(str(path)).table] == [
        "a.w",
        "a-b.w",
        "emb",
        "h.2.b",
        "h.2.w",
        "h.10.w",
    ]


@pytest.mark.parametrize("name", ["a." * 2000 + "x", "9" * 70_000, "x" * 70_000])
def test_names_without_end_name_the_limit(name: str, tmp_path: Path) -> None:
    """A name of thousands of parts or characters would cost more to show than the file is large."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(json.dumps({name: E}), bytes(8)))
    with pytest.raises(LimitError) as caught:
        open_checkpoint(str(path))
    assert "limit: " in str(caught.value)
    assert len(str(caught.value)) < 500


WRITTEN = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16",
    "uint32", "uint64", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu",
]  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_values_of_every_type_that_torch_and_the_library_share(name: str, tmp_path: Path) -> None:
    """What the library wrote is read to the number, figures included."""
    path = tmp_path / "x.safetensors"
    patterns = torch.arange(1, 129, dtype=torch.uint8)
    saved = patterns.view(getattr(torch, name)) if name != "bool" else patterns % 3 == 0
    save_file({"w": saved.reshape(2, -1)}, path)
    checkpoint = open_checkpoint(str(path))
    row = checkpoint.table["w"]
    assert (str(row.dtype), row.shape, row.nbytes) == (name, (2, saved.numel() // 2), saved.nbytes)
    with StorageReader() as reader:
        ours = read_values(row, reader.read).reshape(-1)
    theirs = saved.float() if "float8" in name or name == "bfloat16" else saved
    assert np.array_equal(ours, theirs.numpy(), equal_nan=theirs.is_floating_point())
    summary = summarise_files(checkpoint.table)["w"]
    finite = theirs.double()[theirs.double().isfinite()] if not theirs.is_complex() else None
    if finite is not None and name not in ("int64", "uint64"):
        assert (summary.minimum, summary.maximum) == (finite.min().item(), finite.max().item())


def test_four_bit_floats_count_one_by_one(cli: command.Cli, tmp_path: Path) -> None:
    """Torch's pairs are written as single values: 2 x 4 pairs are 16 parameters in 8 bytes."""
    path = tmp_path / "x.safetensors"
    raw = torch.arange(8, dtype=torch.uint8) * 31
    save_file({"w": raw.view(torch.float4_e2m1fn_x2).reshape(2, 4)}, path)
    row = open_checkpoint(str(path)).table["w"]
    assert (row.dtype.safetensors, row.shape, row.nbytes) == ("F4", (2, 8), 8)
    assert row.numel == row.logical_numel == 16
    assert cli("count", path).stdout.strip() == "16"
    assert cli("params", path, "--values").stdout.startswith("w\t[2, 8]\tfloat4_e2m1fn\t16\t8\t")
    with StorageReader() as reader:
        ours = read_values(row, reader.read)
    table = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    nibbles = [nibble for byte in raw.tolist() for nibble in (byte & 15, byte >> 4)]
    assert ours.reshape(-1).tolist() == [table[n & 7] * (-1 if n & 8 else 1) for n in nibbles]


@pytest.mark.parametrize(("spelling", "most"), [("F6_E2M3", 7.5), ("F6_E3M2", 28.0)])
def test_six_bit_floats(spelling: str, most: float, cli: command.Cli, tmp_path: Path) -> None:
    """Four values in three bytes: counted, listed, and their figures with a word of caution."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(json.dumps({"w": entry(spelling, (2, 4), (0, 6))}), b"\x1f\x00\x00" * 2))
    assert library_accepts(path)
    checkpoint = open_checkpoint(str(path))
    row = checkpoint.table["w"]
    assert (row.shape, row.numel, row.logical_numel, row.nbytes) == ((2, 4), 8, 8, 6)
    assert cli("count", path).stdout.strip() == "8"
    summary = summarise_files(checkpoint.table)["w"]
    assert (summary.minimum, summary.maximum, summary.zeros) == (0.0, most, 6)
    assert "six bits" in summary.reason
