"""
What is known and not read: files of other programs, named so that their owner knows what to do.

Loaded only where no reader took a file for its own. First bytes tell most kinds; of others a
little more is looked at: names in an archive, the first fields of a protocol buffer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from modelinspect.errors import CheckpointError, visible
from modelinspect.readers.parts.forward import Forward
from modelinspect.readers.parts.zip_directory import read_directory
from modelinspect.readers.source import ByteSource

__all__ = ["Known", "known_by_first_bytes", "known_folder", "known_otherwise"]


class Known(NamedTuple):
    """A kind of file that is not read."""

    title: str
    """What it is, with its article."""
    hint: str | None
    """What to do."""
    why: str = ""
    """Why it is not read."""


def _packed(title: str, tool: str) -> Known:
    return Known(
        title,
        f"unpack it first, or read it through a pipe: <({tool} FILE)",
        "what is compressed as a whole has no header to read",
    )


def _unpack(title: str, tool: str) -> Known:
    return Known(title, f"unpack it first: {tool}", "the checkpoint lies inside")


_SAVE = "save the arrays with safetensors.numpy.save_file"
_TENSORFLOW = f"load it with tensorflow or keras and {_SAVE}"
_BUILT_FROM = "inspect the ONNX model that it was built from"
_CONVERTED_FROM = "inspect the model that it was converted from"
_DOWNLOAD = "fetch the file again; look at the address and at whether you are logged in"
_LEGACY_GGML = Known(
    "a ggml model of before GGUF",
    "convert it to GGUF with a llama.cpp of 2023 (convert-llama-ggml-to-gguf.py)",
    "its header says nothing of names and versions",
)
_IMAGE = Known("an image", None)
_PROGRAM = Known("a program or a shared library", None, "its weights, if any, lie where only it knows")
_HDF5 = Known(
    "HDF5 (Keras weights?)",
    f"load it with keras or h5py and {_SAVE}",
    "an HDF5 file may link to any other file, and only its library reads it",
)
_FLAX = Known(
    "a msgpack file (weights of Flax?)", "load it with flax.serialization and save with safetensors.flax"
)
_SAVED_MODEL = Known("a TensorFlow SavedModel", _TENSORFLOW, "its weights lie in a checkpoint beside it")
_TF_CHECKPOINT = Known(
    "a TensorFlow checkpoint",
    f"load it with tf.train.load_checkpoint and {_SAVE}",
)
_ORBAX = Known("an Orbax checkpoint (OCDBT)", "load it with orbax and save with safetensors.flax")
_COREML = Known(
    "a Core ML model", "coremltools reads it; or inspect the PyTorch model that it was converted from"
)
_OPENVINO = Known("an OpenVINO model", "inspect the ONNX or PyTorch model that it was converted from")
_KERAS = Known("a Keras model (.keras)", "load it with keras and save with model.export or save_weights")

# First bytes, what they are the first of.
_STARTS: tuple[tuple[bytes, Known], ...] = (
    (b"\x89HDF\r\n\x1a\n", _HDF5),
    (b"\x1f\x8b", _packed("gzip", "gzip -dc")),
    (b"\x1f\x9d", _packed("compress (.Z)", "uncompress -c")),
    (b"BZh", _packed("bzip2", "bzip2 -dc")),
    (b"\xfd7zXZ\x00", _packed("xz", "xz -dc")),
    (b"\x5d\x00\x00\x80\x00", _packed("lzma", "xz -dc --format=lzma")),
    (b"\x28\xb5\x2f\xfd", _packed("Zstandard", "zstd -dc")),
    (b"\x04\x22\x4d\x18", _packed("LZ4", "lz4 -dc")),
    (b"7z\xbc\xaf\x27\x1c", _unpack("7-Zip", "7z x FILE")),
    (b"Rar!\x1a\x07", _unpack("RAR", "unrar x FILE")),
    (
        b"version https://git-lfs",
        Known("a Git LFS pointer, not the file", "fetch the file with git lfs pull"),
    ),
    (b"%PDF-", Known("a PDF document", None)),
    (b"\x89PNG\r\n\x1a\n", _IMAGE),
    (b"\xff\xd8\xff", _IMAGE),
    (b"GIF8", _IMAGE),
    (b"\x7fELF", _PROGRAM),
    (
        b"MZqFpD",
        Known(
            "a llamafile (a program with a GGUF model inside)",
            "unzip -l lists what is inside; unpack the .gguf with unzip",
            "the model lies inside of a program",
        ),
    ),
    (b"MZ", _PROGRAM),
    (b"\xcf\xfa\xed\xfe", _PROGRAM),
    (b"\xca\xfe\xba\xbe", _PROGRAM),
    (b"!<arch>\n", _PROGRAM),
    (b"PAR1", Known("a Parquet table", "pyarrow or pandas reads it")),
    (b"ARROW1", Known("an Arrow file", "pyarrow reads it")),
    (b"SQLite format 3\x00", Known("a SQLite database", "sqlite3 reads it")),
    (b"lmgg", _LEGACY_GGML),
    (b"fmgg", _LEGACY_GGML),
    (b"tjgg", _LEGACY_GGML),
    (b"algg", _LEGACY_GGML._replace(title="a ggml LoRA adapter of before GGUF")),
    (b"ptrt", Known("a TensorRT engine", _BUILT_FROM)),
    (b"ftrt", Known("a TensorRT engine", _BUILT_FROM)),
    (b"RKNN", Known("an RKNN model", _BUILT_FROM)),
    (
        b"\x12\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        Known("MXNet parameters (.params)", f"load it with mxnet.nd.load and {_SAVE}"),
    ),
    (b"7767517\n", Known("an ncnn model (.param)", _BUILT_FROM)),
    (b"\x0c\xdb\x3a\x2a", _ORBAX),
    (
        b"\x04\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00V 1",
        Known("a file of Lua Torch (.t7)", "convert it with torchfile, or with torch 0.4's load_lua"),
    ),
)  # fmt: skip
# The same, from byte 4 on: identifiers of flatbuffers.
_FLATBUFFERS = {
    b"TFL3": Known("a TensorFlow Lite model", _CONVERTED_FROM),
    b"ORTM": Known("an ONNX Runtime model (.ort)", _BUILT_FROM),
    b"ET12": Known("an ExecuTorch program (.pte)", "inspect the model that it was exported from"),
}


def known_by_first_bytes(head: bytes) -> Known | None:
    """
    What a file is that begins so, where that is known.

    Args:
        head: Its first bytes, some hundred of them.
    """
    for start, known in _STARTS:
        if head.startswith(start):
            return known
    if head[4:8] in _FLATBUFFERS:
        return _FLATBUFFERS[head[4:8]]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _IMAGE
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html)", head, re.IGNORECASE):
        return Known("an HTML page", _DOWNLOAD, "the download fetched a web page instead of the file")
    return None


def known_otherwise(source: ByteSource, head: bytes) -> Known | None:
    """
    What a file is whose first bytes alone don't say it; a little more of it is read.

    Args:
        source: The file.
        head: Its first bytes.
    """
    for look in _LOOKS:
        try:
            known = look(source, head)
        except CheckpointError:
            continue  # it is not what this look is for
        if known is not None:
            return known
    return None


# -- archives --------------------------------------------------------------------------------

_ARCHIVES: tuple[tuple[str, Known], ...] = (
    ("model.weights.h5", _KERAS),
    ("com.apple.CoreML/", _COREML),
    ("saved_model.pb", _SAVED_MODEL),
    ("MAR-INF/", _unpack("a TorchServe archive (.mar)", "unzip FILE")),
    ("[Content_Types].xml", Known("an Office document", None)),
    ("AndroidManifest.xml", _unpack("an Android application", "unzip FILE")),
    (".dist-info/", _unpack("a Python package (.whl)", "unzip FILE")),
    ("META-INF/MANIFEST.MF", Known("a Java archive", None)),
)
"""What a name in it holds, and what the archive is then."""
_WEIGHTS = (
    ".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".gguf", ".onnx", ".h5", ".npz", ".npy", ".distcp",
)  # fmt: skip
_MAX_NAMES = 2_000
_MAX_NAME = 300


def _look_into_zip(source: ByteSource, head: bytes) -> Known | None:
    if head[:2] != b"PK":
        return None
    raw = read_directory(source).names[:_MAX_NAMES]
    names = [name[:_MAX_NAME].decode("utf-8", "replace") for name in raw if len(name) <= _MAX_NAME]
    for mark, known in _ARCHIVES:
        if any(mark in name for name in names):
            return known
    return _unpack(_with_weights("a zip archive", names), "unzip FILE")


def _with_weights(title: str, names: Sequence[str]) -> str:
    inside = next((name for name in names if name.endswith(_WEIGHTS)), None)
    return title if inside is None else f"{title} with {visible(inside[:80])} inside"


_BLOCK = 512
_MAX_MEMBERS = 50


def _look_into_tar(source: ByteSource, head: bytes) -> Known | None:
    if head[257:262] != b"ustar":
        return None
    names = _tar_names(source)
    last = {name.rpartition("/")[2] for name in names}
    if "model_config.yaml" in last and any(name.endswith(".ckpt") for name in last):
        return _unpack("a NeMo model (.nemo)", "tar -xf FILE, then read model_weights.ckpt")
    return _unpack(_with_weights("a tar archive", names), "tar -xf FILE")


def _tar_names(source: ByteSource) -> list[str]:
    names: list[str] = []
    at = 0
    while len(names) < _MAX_MEMBERS and at + _BLOCK <= source.size:
        block = source.read(at, _BLOCK, "the header of a tar member")
        digits = block[124:136].strip(b" \0")
        if not block[0] or not re.fullmatch(rb"[0-7]{1,12}", digits):
            break
        names.append(block[:100].split(b"\0")[0].decode("utf-8", "replace"))
        at += _BLOCK + -(-int(digits, 8) // _BLOCK) * _BLOCK
    return names


# -- texts -----------------------------------------------------------------------------------

_MAX_JSON = 1 << 20


def _look_at_text(source: ByteSource, head: bytes) -> Known | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text or re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head):
        return None
    if text[:1] in (b"{", b"["):
        return _json(source)
    if text.startswith(b"<"):
        return _xml(text)
    if text.startswith((b"#!", b"@", b'"""')) or re.search(
        rb"^(import \w|from [\w.]+ import |def \w+\(|class \w+[(:])", text, re.MULTILINE
    ):
        return Known("Python source", "a model in it is named FILE.py:CLASS")
    return None


def _json(source: ByteSource) -> Known | None:
    raw = source.read_upto(0, _MAX_JSON)
    if b'"weight_map"' in raw:
        return Known(
            "an index of shards whose name does not end in .index.json",
            "rename it to model.safetensors.index.json, or name its folder",
        )
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return Known("a JSON text", None) if source.size > _MAX_JSON else None
    keys = found if isinstance(found, dict) else {}
    if any(word in keys for word in ("error", "errors", "message", "detail")):
        return Known(
            "a JSON error message of a server", _DOWNLOAD, "the download fetched it instead of the file"
        )
    if "model_type" in keys or "architectures" in keys:
        return Known("the configuration of a model", "name the folder that it lies in, or its weights")
    return Known("a JSON text", None)


def _xml(text: bytes) -> Known | None:
    if re.search(rb"<net[ >]", text):
        return _OPENVINO
    return Known("an XML document", None) if text.startswith(b"<?xml") else None


# -- protocol buffers ------------------------------------------------------------------------

_MAX_FIELDS = 200
_FIRST_OF_CORE_ML = 200
_TEXT_FIELD = re.compile(rb"[\x20-\x7e]*")


def _look_at_protobuf(source: ByteSource, head: bytes) -> Known | None:
    if head[:1] not in (b"\x08", b"\x0a", b"\x12"):
        return None
    fields = _fields(source)
    numbers = {number for number, _, _ in fields}
    if fields[:1] and fields[0][0] == 1 and fields[0][1] == 0:
        if numbers == {1, 2} and fields[0][2] == 1:
            return _SAVED_MODEL
        return _COREML if any(number >= _FIRST_OF_CORE_ML for number in numbers) else None
    if not fields or fields[0][1] != 2:
        return None
    return _graph_or_net(source, fields)


def _fields(source: ByteSource) -> list[tuple[int, int, int]]:
    """The first fields of the file: number, type, and number or length."""
    forward = Forward(source, "<", source.path)
    fields: list[tuple[int, int, int]] = []
    while forward.left and len(fields) < _MAX_FIELDS:
        number, wire, value = forward.tag()
        if wire not in (0, 1, 2, 5) or not number:
            return []
        forward.skip({0: 0, 1: 8, 2: value, 5: 4}[wire], "a field")
        fields.append((number, wire, value))
    return fields


def _graph_or_net(source: ByteSource, fields: Sequence[tuple[int, int, int]]) -> Known | None:
    numbers = {number for number, _, _ in fields}
    forward = Forward(source, "<", source.path)
    _, _, length = forward.tag()
    first = forward.take(min(length, 100), "a field")
    # tensorflow/core/framework/graph.proto: nodes, each with a name and an operation.
    if numbers <= {1, 2, 3, 4, 5} and re.match(rb"\x0a.[\w./-]+\x12", first, re.DOTALL):
        return Known("a frozen TensorFlow graph (.pb)", _TENSORFLOW)
    # caffe.proto: a name, then layers.
    if numbers & {100, 2} and fields[0][0] == 1 and _TEXT_FIELD.fullmatch(first):
        return Known("a Caffe model", _CONVERTED_FROM)
    return None


# -- others ----------------------------------------------------------------------------------


def _look_for_msgpack(source: ByteSource, head: bytes) -> Known | None:  # noqa: ARG001
    # A map whose first key is a short text.
    match = re.match(rb"[\x81-\x8f]|\xde..|\xdf....", head, re.DOTALL)
    if match is None:
        return None
    key = re.match(rb"([\xa1-\xbf]|\xd9.)([\w./ -]+)", head[match.end() :], re.DOTALL)
    if key is None or not key[2].isascii():
        return None
    length = key[1][0] - 0xA0 if len(key[1]) == 1 else key[1][1]
    return _FLAX if len(key[2]) >= length else None


_SSTABLE_MAGIC = bytes.fromhex("57fb808b247547db")


def _look_at_end(source: ByteSource, head: bytes) -> Known | None:  # noqa: ARG001
    # The footer of a table of LevelDB, which TensorFlow's index is (table/format.h).
    if source.size >= 48 and source.read(source.size - 8, 8) == _SSTABLE_MAGIC:
        return _TF_CHECKPOINT._replace(title="the index of a TensorFlow checkpoint")
    return None


_SAMPLES = 16


def _look_for_zeros(source: ByteSource, head: bytes) -> Known | None:
    if any(head):
        return None
    step = max(1, source.size // _SAMPLES)
    if any(any(source.read_upto(at, _BLOCK)) for at in range(0, source.size, step)):
        return None
    return Known(
        "a file of zeros, wherever it was looked at",
        "fetch it again",
        "a download that had reserved its space and did not come, or a damaged disk",
    )


_Look = Callable[[ByteSource, bytes], "Known | None"]
_NAMES: tuple[tuple[str, bytes, Known], ...] = (
    (r".*\.data-\d{5}-of-\d{5}", b"", _TF_CHECKPOINT._replace(title="data of a TensorFlow checkpoint")),
    # Three numbers of 32 bits: major version 0, minor 1 or 2 (darknet/src/parser.c).
    (
        r".*\.weights",
        rb"\0{4}[\1\2]\0{3}",
        Known(
            "weights of Darknet (YOLO)",
            "convert them with the .cfg file that belongs to them",
            "they have no names: the .cfg file says what they are",
        ),
    ),
    (r".*\.caffemodel", b"\n", Known("a Caffe model", _CONVERTED_FROM)),
    (
        r".*\.(pdiparams|pdmodel)",
        b"",
        Known("a PaddlePaddle inference model", "inspect its .pdparams, or convert it with paddle2onnx"),
    ),
    (r".*\.(engine|plan|trt)", b"", Known("a TensorRT engine (by its name)", _BUILT_FROM)),
    (r".*\.rknn", b"", Known("an RKNN model (by its name)", _BUILT_FROM)),
)
"""How names end, what their first bytes are then, what they are."""


def _look_at_name(source: ByteSource, head: bytes) -> Known | None:
    name = os.path.basename(source.path).lower()
    for pattern, start, known in _NAMES:
        if re.fullmatch(pattern, name) and re.match(start, head):
            return known
    return None


_LOOKS: tuple[_Look, ...] = (
    _look_into_zip,
    _look_into_tar,
    _look_at_text,
    _look_at_name,
    _look_at_protobuf,
    _look_for_msgpack,
    _look_at_end,
    _look_for_zeros,
)

# -- folders ---------------------------------------------------------------------------------

_FOLDERS: tuple[tuple[str, Known], ...] = (
    (r"saved_model\.pb(txt)?", _SAVED_MODEL),
    (r".*\.data-\d{5}-of-\d{5}", _TF_CHECKPOINT),
    (r"manifest\.ocdbt|ocdbt\.process_\d+|_CHECKPOINT_METADATA", _ORBAX),
    (r"\.zarray|\.zgroup|zarr\.json", Known("a Zarr store", "zarr or orbax reads it")),
    (r"coremldata\.bin|com\.apple\.CoreML", _COREML),
    (r"flax_model(-\d+-of-\d+)?\.msgpack", _FLAX),
    (r".*\.h5|.*\.hdf5", _HDF5),
    (r".*\.keras", _KERAS),
    (r"group\d+-shard\d+of\d+\.bin", Known("a TensorFlow.js model", _TENSORFLOW)),
    (r".*\.tflite", _FLATBUFFERS[b"TFL3"]),
    (r".*\.mlmodel", _COREML),
)


def known_folder(entries: Collection[str]) -> Known | None:
    """
    What a folder with these names in it is, where it is something that is not read.
    """
    for pattern, known in _FOLDERS:
        if any(re.fullmatch(pattern, entry) for entry in entries):
            return known
    if {"Manifest.json", "Data"} <= set(entries):
        return _COREML
    stems = {entry[: -len(".xml")] for entry in entries if entry.endswith(".xml")}
    return _OPENVINO if any(f"{stem}.bin" in entries for stem in stems) else None
