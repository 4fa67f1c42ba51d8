"""ONNX: every place where weights hide, every data type, data beside the graph, and hostile graphs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import command
import numpy as np
import pytest
from onnx_bytes import attribute, floats, graph, model, node, number, part, tensor, value, varint

from modelinspect.dtypes import BY_ONNX
from modelinspect.errors import (
    CheckpointError,
    DamagedFileError,
    ModelInspectError,
    RefusedError,
    UnrecognisedFileError,
)
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint
from modelinspect.values import read_values

Read = Callable[[bytes], Checkpoint]
F, I8, I64, U8, TEXT = 1, 3, 7, 2, 8


@pytest.fixture
def opened(tmp_path: Path) -> Read:
    """Writes bytes to a file and opens it."""

    def read(raw: bytes) -> Checkpoint:
        path = tmp_path / "x.onnx"
        path.write_bytes(raw)
        return open_checkpoint(str(path))

    return read


def weight(name: str, *shape: int) -> bytes:
    """Floats in raw_data."""
    return tensor(name, shape, F, floats(int(np.prod(shape, dtype=int))))


def constant(name: str, *shape: int) -> bytes:
    """A node whose output they are."""
    return node("Constant", [], [name], [attribute("value", value=weight("", *shape))])


def kinds(checkpoint: Checkpoint) -> dict[str, str]:
    """Name to kind."""
    return {t.name: t.kind for t in checkpoint.table}


# What onnx 1.23 says of files that packages ship: tensors, and a hash of the lines
# "name dtype shape sha256(raw_data)" in the order graph, bodies of If, initializers, functions.
REAL = {
    "silero-vad==6.2.3/silero_vad/data/silero_vad.onnx": (345, "a7b87821bff58a60"),
    "silero-vad==6.2.3/silero_vad/data/silero_vad_16k_op15.onnx": (177, "eef35ff4be60353c"),
    "silero-vad==6.2.3/silero_vad/data/silero_vad_half.onnx": (172, "675765b14c6cea81"),
    "silero-vad==6.2.3/silero_vad/data/silero_vad_op18_ifless.onnx": (45, "68a06e4ed26144bf"),
    "silero-vad==6.2.3/silero_vad/data/silero_vad_openvino_16k.onnx": (99, "3e5b589b1d8df4c1"),
    # Written by tf2onnx, by torch (through ultralytics) and by paddle2onnx, in that order.
    "basic-pitch==0.4.0/basic_pitch/saved_models/icassp_2022/nmp.onnx": (102, "3944fb7a27010ef4"),
    "nudenet==3.4.2/nudenet/320n.onnx": (202, "49e03437e03a1b08"),
    "rapidocr-onnxruntime==1.4.4/rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": (
        342,
        "8c1b7aedf479019e",
    ),
}


@pytest.mark.parametrize("name", list(REAL))
def test_real_models_read_as_onnx_reads_them(name: str, shipped_weights: Callable[[str], Path]) -> None:
    """Names, types, shapes and bytes; constants of If bodies and functions among them."""
    package, _, inner = name.partition("/")
    path = shipped_weights(package) / inner
    checkpoint = open_checkpoint(str(path))
    raw = path.read_bytes()
    lines = []
    for row in checkpoint.table:
        extent = row.extent
        data = raw[extent.offset : extent.offset + extent.nbytes] if extent else b""
        lines.append(f"{row.name} {row.dtype} {list(row.shape)} {hashlib.sha256(data).hexdigest()}")
    count, digest = REAL[name]
    assert len(lines) == count
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest
    assert checkpoint.bytes_read < max(140_000, checkpoint.nbytes / 10)


def test_weights_in_every_place(opened: Read) -> None:
    """Initializers, constants, bodies of If, sparse tensors and functions."""
    body = graph([constant("inner", 2, 2)], [weight("deep", 3)])
    branches = [attribute("then_branch", graph=body), attribute("else_branch", graph=body)]
    indices = tensor("", [2], I64, bytes(16))
    raw = model(
        graph(
            [
                node("Constant", [], ["const"], [attribute("value", value=weight("ignored", 4, 2))]),
                constant("half"),
                node("If", ["c"], ["y"], branches),
                node("ConstantOfShape", ["s"], ["z"], [attribute("value", value=weight("", 1))], name="fill"),
            ],
            [weight("w", 2, 3), weight("bn.running_mean", 3), tensor("shape", [2], I64, bytes(16))],
            inputs=[value("x", F, ["batch", 3]), value("w", F, [2, 3])],
            outputs=[value("y", F, [1]), value("z", F, [2**64 - 1]), value("f", F, ["floor(n/2)" * 20])],
            sparse=[part(1, weight("sp", 2)) + part(2, indices) + number(3, 5) + number(3, 6)],
        ),
        functions=[part(1, "f") + part(7, constant("of_f", 7))],
    )  # fmt: skip
    checkpoint = opened(raw)
    assert [(t.name, t.shape, t.kind) for t in checkpoint.table] == [
        ("const", (4, 2), "parameter"),
        ("half", (), "buffer"),
        ("inner", (2, 2), "parameter"),
        ("deep", (3,), "parameter"),
        ("inner (2)", (2, 2), "parameter"),
        ("deep (2)", (3,), "parameter"),
        ("fill.value", (1,), "other"),
        ("w", (2, 3), "parameter"),
        ("bn.running_mean", (3,), "buffer"),
        ("shape", (2,), "buffer"),
        ("sp", (5, 6), "parameter"),
        ("of_f", (7,), "parameter"),
    ]
    sparse = checkpoint.table["sp"]
    assert (sparse.layout, [p.shape for p in sparse.parts]) == ("sparse_coo", [(2,), (2,)])
    assert checkpoint.version == "8"
    assert checkpoint.facts == {
        "producer": "maker 1.0",
        "operator sets": "ai.onnx 21, com.microsoft 1",
        "inputs": "x [batch, 3] float32",
        "outputs": "y [1] float32, z [?] float32, f […] float32",
    }
    assert checkpoint.metadata == {"author": "me"}
    assert not any(t.declared for t in checkpoint.table)


@pytest.mark.parametrize("kind", sorted(BY_ONNX))
def test_every_data_type(kind: int, opened: Read) -> None:
    """Shape in elements, bytes rounded up where several share one."""
    dtype = BY_ONNX[kind]
    raw = bytes(dtype.nbytes(6))
    row = opened(model(graph([], [tensor("w", [2, 3], kind, raw)]))).table["w"]
    assert (row.dtype, row.shape, row.nbytes, row.numel) == (dtype, (2, 3), len(raw), 6)


def test_the_data_types_are_those_of_onnx() -> None:
    """Numbers and widths of ``TensorProto.DataType`` of onnx 1.23."""
    bits = {
        1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128,
        16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2, 27: 6, 28: 6,
    }  # fmt: skip
    assert {number: dtype.bits for number, dtype in BY_ONNX.items()} == bits


def test_small_integers_keep_their_sign(opened: Read) -> None:
    """Two to a byte, the first in its low half; int4 is signed, uint4 is not."""
    kinds_and_values = ((21, [1, 15, 8]), (22, [1, -1, -8]), (25, [1, 3, 2]), (26, [1, -1, -2]))
    for kind, expected in kinds_and_values:
        raw = b"\xf1\x08" if kind in (21, 22) else bytes([0b101101])
        checkpoint = opened(model(graph([], [tensor("w", [3], kind, raw)])))
        with StorageReader() as reader:
            assert read_values(checkpoint.table["w"], reader.read).tolist() == expected


def test_texts_are_no_tensors(opened: Read) -> None:
    """A tensor of strings is named among what holds none."""
    checkpoint = opened(model(graph([], [tensor("words", [1], TEXT, more=part(6, "hello")), weight("w", 2)])))
    assert checkpoint.table.others == ("words",)
    assert list(kinds(checkpoint)) == ["w"]


def test_typed_data_is_found_where_it_lies_as_it_is(opened: Read) -> None:
    """Packed floats are the numbers themselves; varints and single floats are not, and that is said."""
    packed = tensor("packed", [3], F, more=part(4, floats(3)))
    single = tensor("single", [2], F, more=b"\x25\0\0\0\0\x25\0\0\0\0")
    varints = tensor("varints", [2], I64, more=part(7, varint(5) + varint(300)))
    nothing = tensor("nothing", [2], F)
    checkpoint = opened(model(graph([], [packed, single, varints, nothing])))
    with StorageReader() as reader:
        assert read_values(checkpoint.table["packed"], reader.read).tolist() == [0, 1, 2]
        for name in ("single", "varints", "nothing"):
            with pytest.raises(CheckpointError, match=r"do not lie|no bytes of its own"):
                read_values(checkpoint.table[name], reader.read)
    assert any("'single', 'varints': the file does not hold" in note for note in checkpoint.notes)
    assert any("'nothing': no data" in note for note in checkpoint.notes)


def test_quantize_dequantize_weights_are_parameters(opened: Read) -> None:
    """int8 behind DequantizeLinear counts; its scale and zero point don't."""
    raw = model(
        graph(
            [
                node("DequantizeLinear", ["wq", "wq_scale", "wq_zero"], ["w"]),
                node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
                node("MatMulInteger", ["xq", "v_quantized", "xz", "vz"], ["y"]),
                node("BatchNormalization", ["y", "g", "b", "m", "v"], ["z"]),
            ],
            [
                tensor("wq", [8, 4], I8, bytes(32)), weight("wq_scale", 4),
                tensor("wq_zero", [4], I8, bytes(4)),
                weight("xs", 1), tensor("xz", [1], U8, bytes(1)),
                tensor("v_quantized", [4, 4], U8, bytes(16)), weight("v_scale", 1),
                tensor("vz", [1], U8, bytes(1)),
                weight("g", 4), weight("b", 4), weight("m", 4), weight("v", 4),
            ],
        )
    )  # fmt: skip
    checkpoint = opened(raw)
    parameters = {name for name, kind in kinds(checkpoint).items() if kind == "parameter"}
    assert parameters == {"wq", "v_quantized", "g", "b"}
    quantized = checkpoint.table["wq"].quantized
    assert quantized is not None
    assert (quantized.scheme, quantized.shape, quantized.bits) == ("ONNX QDQ", (8, 4), 8)


@pytest.mark.parametrize(("nbytes", "logical"), [(3 * 2 * 16, 120), (17, 17)])
def test_packed_four_bit_weights_count_what_they_stand_for(nbytes: int, logical: int, opened: Read) -> None:
    """MatMulNBits says K and N; where the bytes don't fit, they count as stored and a note says so."""
    numbers = {"K": 40, "N": 3, "bits": 4, "block_size": 32}
    attributes = [attribute(name, integer=value) for name, value in numbers.items()]
    raw = model(
        graph(
            [node("MatMulNBits", ["x", "B", "s"], ["y"], attributes, domain="com.microsoft")],
            [tensor("B", [nbytes], U8, bytes(nbytes)), weight("s", 6)],
        )
    )
    checkpoint = opened(raw)
    row = checkpoint.table["B"]
    assert row.logical_numel == logical
    assert row.kind == "parameter"
    assert checkpoint.table["s"].kind == "buffer"
    assert any("other bytes" in note for note in checkpoint.notes) == (logical == 17)


def test_data_beside_the_graph(opened: Read, tmp_path: Path) -> None:
    """Location, offset and length; two names of one place are tied."""
    (tmp_path / "w.data").write_bytes(bytes(16) + floats(4))
    place = {"location": "w.data", "offset": "16", "length": "16"}
    rows = [tensor(name, [2, 2], F, external=place) for name in ("a", "b")]
    checkpoint = opened(model(graph([], [*rows, tensor("c", [4], F, external={"location": "w.data"})])))
    with StorageReader() as reader:
        assert read_values(checkpoint.table["a"], reader.read).tolist() == [[0, 1], [2, 3]]
    assert checkpoint.table.tied_to == {"b": "a"}
    assert [os.path.basename(file.path) for file in checkpoint.files] == ["x.onnx", "w.data"]
    assert checkpoint.bytes_read < 1_000


def test_a_missing_file_of_data_is_said(opened: Read) -> None:
    """The graph still says names and shapes."""
    rows = [tensor("a", [2, 2], F, external={"location": "gone.data"})]
    checkpoint = opened(model(graph([], rows)))
    assert checkpoint.table["a"].shape == (2, 2)
    assert any("'gone.data'" in note and "not there" in note for note in checkpoint.notes)


EXTERNAL: dict[str, tuple[dict[str, str], type[ModelInspectError], str]] = {
    "up": ({"location": "../w.data"}, RefusedError, "outside its folder"),
    "absolute": ({"location": "/etc/passwd"}, RefusedError, "outside its folder"),
    "a link": ({"location": "link"}, RefusedError, "outside its folder"),
    "nothing": ({}, RefusedError, "outside its folder"),
    "null": ({"location": "a\0b"}, RefusedError, "outside its folder"),
    "pipe": ({"location": "pipe"}, RefusedError, "named pipe"),
    "folder": ({"location": "folder"}, RefusedError, "a directory"),
    "short": ({"location": "w.data", "offset": "8"}, DamagedFileError, "truncated"),
    "negative": ({"location": "w.data", "offset": "-8"}, DamagedFileError, "its offset is"),
    "no number": ({"location": "w.data", "length": "١٦"}, DamagedFileError, "its length is"),
    "another length": ({"location": "w.data", "length": "8"}, DamagedFileError, "8 are given"),
}


@pytest.mark.parametrize("case", list(EXTERNAL))
def test_files_outside_the_folder_are_not_opened(case: str, opened: Read, tmp_path: Path) -> None:
    """Names that lead out, pipes, and places that the file lacks."""
    (tmp_path / "w.data").write_bytes(bytes(16))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    place, error, expected = EXTERNAL[case]
    with pytest.raises(error) as caught:
        opened(model(graph([], [tensor("a", [2, 2], F, external=place)])))
    assert expected in str(caught.value)


def nested(levels: int) -> bytes:
    """Graphs in attributes of nodes in graphs."""
    content = graph([], [weight("w", 1)])
    for _ in range(levels):
        content = graph([node("If", ["c"], ["y"], [attribute("then_branch", graph=content)])])
    return content


def test_bodies_in_bodies_are_followed(opened: Read) -> None:
    """Thirty levels of If, one weight."""
    assert list(kinds(opened(model(nested(30))))) == ["w"]


BROKEN: dict[str, tuple[bytes, str]] = {
    "two hundred levels": (model(nested(200)), "limit: 100 messages"),
    "unknown type": (model(graph([], [tensor("w", [2], 99, bytes(8))])), "ONNX data type 99"),
    "no type": (model(graph([], [part(8, "w")])), "ONNX data type 0"),
    "too few bytes": (model(graph([], [tensor("w", [3], F, bytes(8))])), "takes 12 bytes, it holds 8"),
    "too few floats": (model(graph([], [tensor("w", [3], F, more=part(4, bytes(8)))])), "it holds 8"),
    "negative axis": (model(graph([], [tensor("w", [2**64 - 1], F, bytes(8))])), "makes no sense"),
    "2^80 elements": (model(graph([], [tensor("w", [2**40, 2**40], F, bytes(8))])), "makes no sense"),
    "a hundred axes": (model(graph([], [tensor("w", [1] * 100, F, bytes(4))])), "100 axes"),
    "sparse without values": (model(graph([], [], sparse=[number(3, 1)])), "no values"),
    "a long name": (model(graph([], [weight("x" * 70_000, 1)])), "limit: 65,536"),
    "a field too long": (
        number(1, 8) + part(7, part(2, "g") + b"\x2a\x7f") + bytes(99),
        "longer than what it stands in",
    ),
    "a group": (number(1, 8) + part(7, part(2, "g") + b"\x2b"), "has type 3"),
    "eleven bytes": (number(1, 8) + part(7, part(2, "g") + b"\xff" * 20), "more than ten bytes"),
    "numbers without end": (
        model(graph([], [number(2, F) + part(1, b"\1" * 5000)])),
        "limit: 1,024 numbers",
    ),
    "truncated": (model(graph([], [weight("w", 100)]))[:300], "truncated"),
    "pairs without end": (model(graph(), more=part(14, part(1, "a")) * 10_001), "limit: 10,000 entries"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_broken_models_have_their_sentences(case: str, opened: Read) -> None:
    """Each is refused, saying what was found."""
    raw, expected = BROKEN[case]
    with pytest.raises(CheckpointError) as caught:
        opened(raw)
    assert expected in str(caught.value)
    assert "x.onnx" in caught.value.message


OTHERS = {
    "a TensorFlow SavedModel": number(1, 1) + part(2, part(1, "meta") + part(2, b"\x0a\x01x")),
    "CoreML": number(1, 4) + part(2, part(1, b"")) + part(500, b"abc"),
    "a text": b"\x08\x0a(see below) and so on, a text that goes on",
    "a text with a colon": b": hello, this is a text of some length and nothing else",
    "no version": part(7, graph([], [weight("w", 1)])),
    "no graph": number(1, 8) + part(2, "x") + part(8, number(2, 17)),
    "zeros": bytes(64),
}


@pytest.mark.parametrize("case", list(OTHERS))
def test_other_protocol_buffers_are_not_taken_for_onnx(case: str, opened: Read) -> None:
    """No magic number: fields of a ModelProto, a version and a graph are asked for."""
    with pytest.raises(UnrecognisedFileError):
        opened(OTHERS[case])


def test_training_information_is_a_section_of_its_own(opened: Read) -> None:
    """What training adds is not the model's."""
    more = part(20, part(1, graph([], [weight("momentum", 5)])))
    checkpoint = opened(model(graph([], [weight("w", 2)]), more=more))
    assert {name: [t.name for t in table] for name, table in checkpoint.tables.items()} == {
        "": ["w"],
        "training": ["momentum"],
    }
    assert checkpoint.roles == {"": "model", "training": "other"}


def test_only_the_graph_is_read(opened: Read) -> None:
    """Megabytes of weights cost nothing, wherever they stand."""
    checkpoint = opened(model(graph([constant("c", 1000, 500)], [weight("w", 1000, 500), weight("v", 10)])))
    assert checkpoint.nbytes > 4_000_000
    assert checkpoint.bytes_read < 3_000


def test_count_and_params(cli: command.Cli, tmp_path: Path) -> None:
    """The commands work on a model as on any checkpoint."""
    path = tmp_path / "x.onnx"
    path.write_bytes(model(graph([], [weight("w", 2, 3), tensor("i", [4], I64, bytes(32))])))
    assert cli("count", path).stdout.strip() == "6"
    rows = cli("params", path, "--values").stdout.splitlines()
    assert rows[0].startswith("w\t[2, 3]\tfloat32\t6\t24\tparameter")
