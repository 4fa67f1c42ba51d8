"""GGUF: both byte orders, three versions, every data type, and what a hostile header may claim."""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import command
import pytest
from gguf_bytes import ARRAY, LETTERS, STRING, Gguf, Tensor

from modelinspect.dtypes import BY_GGML
from modelinspect.errors import CheckpointError, DamagedFileError, LimitError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint

Read = Callable[[bytes], Checkpoint]
# GGML_QUANT_SIZES of gguf 0.19: number, elements of a block, its bytes.
SIZES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
    22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
    29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path) -> Read:
    """Writes bytes to a file and opens it."""

    def read(raw: bytes) -> Checkpoint:
        path = tmp_path / "x.gguf"
        path.write_bytes(raw)
        return open_checkpoint(str(path))

    return read


def f32(name: str, *shape: int, offset: int | None = None) -> Tensor:
    """A tensor of zeros."""
    return Tensor(name, shape, 0, bytes(4 * prod(shape)), offset)


PAIRS: list[tuple[str, int, Any]] = [
    ("general.architecture", STRING, "llama"),
    ("general.file_type", 4, 15),
    ("general.tags", ARRAY, (STRING, ["a", "b"])),
    ("llama.epsilon", 6, 1e-5),
    ("llama.sections", ARRAY, (5, [16, -24, 24])),
    ("tokenizer.tokens", ARRAY, (STRING, [f"t{n}" for n in range(3000)])),
    ("tokenizer.scores", ARRAY, (6, [0.5] * 3000)),
    ("tokenizer.chat_template", STRING, "x" * 5000),
    ("nested", ARRAY, (ARRAY, [(4, [1, 2]), (STRING, ["a", "b"])])),
    *((f"one.{kind}", kind, 1) for kind in LETTERS),
]


@pytest.mark.parametrize(("version", "order"), [(1, "<"), (2, "<"), (3, "<"), (3, ">")])
def test_versions_and_byte_orders_say_the_same(version: int, order: str, opened: Read) -> None:
    """Counts of 32 and 64 bits, little- and big-endian: names, shapes, places and metadata are equal."""
    tensors = [
        f32("token_embd.weight", 4, 3),
        Tensor("blk.0.attn_q.weight", (3, 64), 8, bytes(3 * 68)),
        f32("output_norm.weight", 3),
        f32("rope_freqs.weight", 8),
        f32("scalar"),
    ]
    raw = Gguf(version, order).file(PAIRS, tensors)
    checkpoint = opened(raw)
    assert [(t.name, t.shape) for t in checkpoint.table] == [(t.name, t.shape) for t in tensors]
    for row, tensor in zip(checkpoint.table, tensors):
        assert row.storage is not None
        assert row.storage.offset is not None
        assert row.storage.byteorder == {"<": "little", ">": "big"}[order]
        assert row.storage.offset % 32 == 0
        assert row.nbytes == len(tensor.data)
    assert [t.kind for t in checkpoint.table] == ["parameter"] * 3 + ["buffer", "parameter"]
    assert checkpoint.version == str(version)
    assert checkpoint.facts == {
        "byte order": {"<": "little", ">": "big"}[order],
        "alignment": "32 bytes",
        "architecture": "llama",
        "quantization": "Q4_K_M",
        "chat template": "5,000 bytes",
    }
    assert checkpoint.metadata == {
        "general.architecture": "llama",
        "general.file_type": "15",
        "general.tags": "[a, b]",
        "llama.epsilon": "1e-05",
        "llama.sections": "[16, -24, 24]",
        "tokenizer.tokens": "array of 3,000 strings",
        "tokenizer.scores": "array of 3,000 floats",
        "tokenizer.chat_template": "text of 5,000 bytes",
        "nested": "array of 2 arrays",
        **{f"one.{kind}": "true" if kind == 7 else "1" for kind in LETTERS},
        "one.12": "1.0",
    }
    assert checkpoint.notes == ()


def test_every_data_type_has_its_blocks() -> None:
    """Elements and bytes of a block are those of ggml."""
    found = {number: (dtype.block, dtype.nbytes(dtype.block)) for number, dtype in BY_GGML.items()}
    assert found == SIZES


@pytest.mark.parametrize("number", sorted(SIZES))
def test_packed_values_count_as_what_they_stand_for(number: int, opened: Read) -> None:
    """A weight of 2 x 512 has 1,024 parameters, in however few bytes it is packed."""
    block, nbytes = SIZES[number]
    data = bytes(1024 // block * nbytes)
    row = opened(Gguf().file([], [Tensor("blk.0.w.weight", (2, 512), number, data)])).table.tensors[0]
    assert (row.numel, row.logical_numel, row.nbytes) == (1024, 1024, len(data))
    assert row.kind == "parameter"
    assert row.dtype.bits_each == nbytes * 8 / block


def test_the_order_is_that_of_the_file(opened: Read) -> None:
    """GGUF keeps the order of the layers, which is no natural order."""
    names = ["token_embd.weight", "blk.10.a.weight", "blk.2.a.weight", "output.weight"]
    assert [t.name for t in opened(Gguf().file([], [f32(name, 2) for name in names])).table] == names


def test_scales_beside_quantized_weights_are_no_parameters(opened: Read) -> None:
    """``x.scale`` beside a quantized ``x.weight`` is a buffer; beside a plain one nothing is known."""
    tensors = [
        Tensor("a.weight", (64,), 40, bytes(36)), f32("a.scale", 1), f32("a.input_scale", 1),
        f32("b.weight", 2), f32("b.scale", 1),
    ]  # fmt: skip
    kinds = {t.name: t.kind for t in opened(Gguf().file([], tensors)).table}
    assert kinds == {
        "a.weight": "parameter",
        "a.scale": "buffer",
        "a.input_scale": "buffer",
        "b.weight": "parameter",
        "b.scale": "parameter",
    }


def test_a_large_tokenizer_costs_one_pass(opened: Read) -> None:
    """64,000 texts are passed over; numbers and long texts are not even read."""
    texts = (STRING, [f"token{n}" for n in range(64_000)])
    raw = Gguf().file(
        [
            ("a", ARRAY, texts),
            ("b", ARRAY, (0, bytes(3_000_000))),
            ("c", STRING, "x" * 3_000_000),
            ("general.alignment", 4, 64),
        ],
        [f32("w", 2)],
        alignment=64,
    )
    checkpoint = opened(raw)
    row = checkpoint.table["w"]
    assert row.storage is not None
    assert row.storage.offset == len(raw) - 64
    assert checkpoint.metadata["a"] == "array of 64,000 strings"
    assert checkpoint.bytes_read < len(raw) - 3_500_000


def test_a_part_of_a_model_says_so(opened: Read) -> None:
    """One file of several: which it is, and that the others hold the rest."""
    pairs = [("split.no", 2, 0), ("split.count", 2, 3), ("split.tensors.count", 5, 9)]
    checkpoint = opened(Gguf().file(pairs, [f32("w", 2)]))
    assert checkpoint.facts["part"] == "1 of 3"
    assert any("part 1 of 3" in note for note in checkpoint.notes)


def test_parts_of_a_model_are_one_checkpoint(tmp_path: Path) -> None:
    """A folder of parts: all tensors in order, and no part says that others are missing."""
    for number in range(3):
        pairs = [("split.no", 2, number), ("split.count", 2, 3)]
        raw = Gguf().file(pairs, [f32(f"blk.{number}.w", 2)])
        (tmp_path / f"m-{number + 1:05}-of-00003.gguf").write_bytes(raw)
    checkpoint = open_checkpoint(str(tmp_path))
    assert [t.name for t in checkpoint.table] == ["blk.0.w", "blk.1.w", "blk.2.w"]
    assert not any("it is part" in note for note in checkpoint.notes)
    assert checkpoint.version == "3"
    assert "part" not in checkpoint.facts


def test_what_ggml_refuses_and_can_be_read_is_said(opened: Read) -> None:
    """Names twice, gaps, odd places: the rows, and a note."""
    twice = opened(Gguf().file([], [f32("w", 2), f32("w", 3)]))
    assert [t.name for t in twice.table] == ["w", "w (2)"]
    assert any("more than once" in note for note in twice.notes)
    gap = opened(Gguf().file([], [f32("v", 2), f32("w", 8, offset=64)]) + bytes(64))
    assert any("64 bytes belong to no tensor" in note for note in gap.notes)
    crooked = opened(Gguf().file([], [f32("v", 2), f32("w", 2, offset=36)]))
    assert any("not aligned" in note for note in crooked.notes)


def head(tensors: int, keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    """A header that claims what it likes."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def claim(kind: int, count: int) -> bytes:
    """One key whose array claims so many elements."""
    return head(0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", ARRAY, kind, count) + bytes(64))


G = Gguf()
BROKEN: dict[str, tuple[bytes, str]] = {
    "version 4": (head(0, 0, version=4), "version 4"),
    "version 0": (head(0, 0, version=0), "version 0"),
    "2^60 tensors": (head(1 << 60, 0), "tensors"),
    "2^60 keys": (head(0, 1 << 60), "keys"),
    "2^60 texts": (claim(STRING, 1 << 60), "an array claims"),
    "2^60 numbers": (claim(12, 1 << 60), "an array claims"),
    "2^60 arrays": (claim(ARRAY, 1 << 60), "an array claims"),
    "array of no type": (claim(99, 1), "type 99"),
    "value of no type": (head(0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<I", 13)), "type 13"),
    "key of 2^60": (head(0, 1, struct.pack("<Q", 1 << 60) + bytes(64)), "truncated"),
    "key too long": (G.file([("k" * 70_000, 4, 1)], []), "limit: 65,535"),
    "text of 2^60": (G.header([("a", 4, 1)], [])[:-8] + struct.pack("<IQ", STRING, 1 << 60), "truncated"),
    "a key twice": (G.file([("a", 4, 1), ("a", 4, 1)], []), "twice"),
    "alignment 0": (G.file([("general.alignment", 4, 0)], []), "power of two"),
    "alignment 48": (G.file([("general.alignment", 4, 48)], []), "power of two"),
    "alignment a text": (G.file([("general.alignment", STRING, "32")], []), "power of two"),
    "five axes": (G.file([], [f32("w", 1, 1, 1, 1, 1)]), "5 axes"),
    "2^32 axes": (head(1, 0, struct.pack("<Q", 1) + b"w" + b"\xff" * 40), "4,294,967,295 axes"),
    "type 4": (G.file([], [Tensor("w", (32,), 4, bytes(64))]), "ggml type 4 (Q4_2, removed"),
    "type 99": (G.file([], [Tensor("w", (32,), 99, bytes(64))]), "ggml type 99"),
    "half a block": (G.file([], [Tensor("w", (33,), 2, bytes(64))]), "blocks of 32"),
    "2^64 elements": (G.file([], [Tensor("w", (1 << 40, 1 << 40), 0, bytes(64))]), "63 bits"),
    "overlap": (G.file([], [f32("v", 16), f32("w", 16, offset=32)]), "overlaps"),
    "beyond the end": (G.file([], [f32("w", 16, offset=1 << 40)]), "truncated"),
    "bytes missing": (G.file([], [f32("w", 64)])[:-1], "truncated"),
    "a name without end": (G.file([], [f32("a." * 2000, 1)]), "dotted parts"),
    "a long name": (G.file([], [f32("a" * 70_000, 1)]), "limit: 65,536"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_broken_rules_have_their_sentences(case: str, opened: Read) -> None:
    """Each is refused before anything is allocated, saying what was found."""
    raw, expected = BROKEN[case]
    with pytest.raises(CheckpointError) as caught:
        opened(raw)
    assert expected in str(caught.value)
    assert "x.gguf" in caught.value.message


def test_arrays_in_arrays_without_end_name_the_limit(opened: Read) -> None:
    """A thousand levels are not followed."""
    deep = struct.pack("<IQ", ARRAY, 1) * 1000 + struct.pack("<IQ", 4, 0)
    raw = head(0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<I", ARRAY) + deep)
    with pytest.raises(LimitError, match="arrays lie in arrays"):
        opened(raw)


def test_empty_texts_without_end_name_the_limit(tmp_path: Path) -> None:
    """A sparse file may claim any number of empty texts; so many are not passed over."""
    path = tmp_path / "x.gguf"
    path.write_bytes(claim(STRING, 1 << 36))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitError, match="too many texts"):
        open_checkpoint(str(path))


def test_names_that_are_no_text_name_the_limit(opened: Read) -> None:
    """Bytes that are no text take time and room once they are shown: that counts."""
    row = struct.pack("<Q", 65_000) + b"\xff" * 65_000 + struct.pack("<IIQ", 0, 0, 0)
    with pytest.raises(LimitError, match="texts are too long"):
        opened(head(200, 0, row * 200))


def test_cut_anywhere_is_an_error_of_ours(tmp_path: Path) -> None:
    """Every length of a small file with all kinds of keys: refused as truncated or damaged."""
    pairs = [pair for pair in PAIRS if not pair[0].startswith("tokenizer")]
    raw = Gguf().file(pairs, [f32("w", 8)])
    path = tmp_path / "x.gguf"
    for length in range(8, len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(DamagedFileError):
            open_checkpoint(str(path))


def test_count_and_params(cli: command.Cli, tmp_path: Path) -> None:
    """The commands count a packed model's parameters and list its types."""
    path = tmp_path / "x.gguf"
    path.write_bytes(Gguf().file([], [Tensor("blk.0.w.weight", (4, 256), 12, bytes(4 * 144)), f32("n", 4)]))
    assert cli("count", path).stdout.strip() == "1028"
    rows = cli("params", path).stdout.splitlines()
    assert rows[0].split("\t")[:5] == ["blk.0.w.weight", "[4, 256]", "q4_K", "1024", "576"]
