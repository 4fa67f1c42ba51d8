"""What is known and not read: each kind is named, with what to do, whatever its suffix."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import command
import pytest
from onnx_bytes import number, part

from modelinspect.errors import TargetError, UnrecognisedFileError
from modelinspect.readers.parts.foreign import known_folder
from modelinspect.readers.registry import open_checkpoint


def zipped(*names: str) -> bytes:
    """A zip archive with these names."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        return file.getvalue()


def tarred(*names: str) -> bytes:
    """A tar archive with these names."""
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = 700
                archive.addfile(info, io.BytesIO(bytes(700)))
        return file.getvalue()


SSTABLE_END = bytes.fromhex("57fb808b247547db")
NODE = part(1, "input") + part(3, "Placeholder") + part(2, "Placeholder")
# Name of the file, its bytes, what is said of it, a word of what to do.
KINDS: dict[str, tuple[bytes, str, str]] = {
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5", "h5py"),
    "model.keras": (zipped("metadata.json", "config.json", "model.weights.h5"), "Keras model", "keras"),
    "saved_model.pb": (number(1, 1) + part(2, part(1, "meta")), "TensorFlow SavedModel", "safetensors"),
    "frozen.pb": (part(1, NODE.replace(b"\x1a", b"\x12", 1)) * 3, "frozen TensorFlow graph", "safetensors"),
    "model.ckpt.index": (b"\0\0\0" * 20 + SSTABLE_END, "index of a TensorFlow checkpoint", "tf.train"),
    "model.ckpt.data-00000-of-00001": (b"\x3f" * 99, "data of a TensorFlow checkpoint", "tf.train"),
    "flax_model.msgpack": (b"\x81\xa6params\x81\xa5Dense\xc7" + bytes(60), "Flax", "flax"),
    "t5x": (b"\xde\x00\x11\xa7version\x03" + bytes(60), "Flax", "flax"),
    "manifest.ocdbt": (b"\x0c\xdb\x3a\x2a" + bytes(60), "Orbax", "orbax"),
    "model.tflite": (b"\x1c\0\0\0TFL3" + bytes(60), "TensorFlow Lite", "converted from"),
    "model.ort": (b"\x1c\0\0\0ORTM" + bytes(60), "ONNX Runtime", "ONNX model"),
    "model.pte": (b"\x1c\0\0\0ET12" + bytes(60), "ExecuTorch", "exported"),
    "model.mlmodel": (number(1, 4) + part(2, b"") + part(500, b"net"), "Core ML", "coremltools"),
    "model.mlpackage.zip": (zipped("a/Manifest.json", "a/Data/com.apple.CoreML/x"), "Core ML", "coremltools"),
    "openvino.xml": (b'<?xml version="1.0"?>\n<net name="x" version="11">', "OpenVINO", "ONNX"),
    "model.engine": (b"ftrt" + bytes(60), "TensorRT engine", "ONNX"),
    "model.plan": (b"\x01\x02\x03" * 20, "TensorRT engine (by its name)", "ONNX"),
    "model.pdiparams": (b"\0\0\0\0\x01" * 20, "PaddlePaddle", "paddle2onnx"),
    "model.params": (b"\x12\x01" + bytes(62), "MXNet", "mxnet"),
    "model.caffemodel": (part(1, "net") + part(100, part(1, "conv1")), "Caffe", "converted"),
    "yolo.weights": (b"\0\0\0\0\2\0\0\0\5\0\0\0" + b"\x3f" * 60, "Darknet", ".cfg"),
    "model.param": (b"7767517\n75 83\n", "ncnn", "ONNX"),
    "ggml-model.bin": (b"lmgg" + bytes(60), "ggml", "GGUF"),
    "ggjt.bin": (b"tjgg\3\0\0\0" + bytes(60), "ggml", "GGUF"),
    "llava.llamafile": (b"MZqFpD='\n" + bytes(60), "llamafile", "unzip"),
    "model.rknn": (b"RKNN" + bytes(60), "RKNN", "ONNX"),
    "model.t7": (b"\x04\0\0\0\1\0\0\0\3\0\0\0V 1" + bytes(60), "Lua Torch", "load_lua"),
    "model.safetensors.json": (
        json.dumps({"metadata": {}, "weight_map": {"a": "model.safetensors"}}).encode(),
        "index of shards",
        ".index.json",
    ),
    "x.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(60), "7-Zip", "7z x"),
    "x.gz": (b"\x1f\x8b\x08" + bytes(60), "gzip", "gzip -dc"),
    "x.bz2": (b"BZh9" + bytes(60), "bzip2", "bzip2 -dc"),
    "x.xz": (b"\xfd7zXZ\x00" + bytes(60), "xz", "xz -dc"),
    "x.zst": (b"\x28\xb5\x2f\xfd" + bytes(60), "Zstandard", "zstd -dc"),
    "x.lz4": (b"\x04\x22\x4d\x18" + bytes(60), "LZ4", "lz4 -dc"),
    "x.Z": (b"\x1f\x9d\x90" + bytes(60), "compress", "uncompress"),
    "x.rar": (b"Rar!\x1a\x07\x01\x00" + bytes(60), "RAR", "unrar"),
    "x.tar": (tarred("folder/model.safetensors", "readme"), "folder/model.safetensors inside", "tar -xf"),
    "y.tar": (tarred("readme"), "a tar archive", "tar -xf"),
    "model.nemo": (tarred("./model_config.yaml", "./model_weights.ckpt"), "NeMo", "model_weights.ckpt"),
    "x.zip": (zipped("folder/a.safetensors", "folder/readme"), "folder/a.safetensors inside", "unzip"),
    "y.zip": (zipped("a.txt", "b.txt"), "zip archive", "unzip"),
    "x.whl": (zipped("pkg/__init__.py", "pkg-1.dist-info/WHEEL"), "Python package", "unzip"),
    "model.mar": (zipped("MAR-INF/MANIFEST.json", "x.py"), "TorchServe", "unzip"),
    "x.docx": (zipped("[Content_Types].xml", "word/document.xml"), "Office", ""),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid 0\n", "Git LFS pointer", "git lfs pull"),
    "page": (b"\n  <!doctype html><html></html>", "HTML page", "fetch"),
    "page2": (b"\xef\xbb\xbf<HTML lang=en>", "HTML page", "fetch"),
    "error": (b'{"error": "Repository not found"}', "JSON error message", "fetch"),
    "config.json": (b'{"model_type": "llama", "hidden_size": 8}', "configuration of a model", "folder"),
    "other.json": (b'{"a": [1, 2, 3]}', "JSON text", ""),
    "x.xml": (b'<?xml version="1.0"?><a/>', "XML", ""),
    "x.pdf": (b"%PDF-1.7\n" + bytes(60), "PDF", ""),
    "x.png": (b"\x89PNG\r\n\x1a\n" + bytes(60), "image", ""),
    "x.jpg": (b"\xff\xd8\xff\xe0" + bytes(60), "image", ""),
    "x.webp": (b"RIFF\0\0\0\0WEBP" + bytes(60), "image", ""),
    "zeros": (bytes(1 << 20), "zeros", "fetch"),
    "lib.so": (b"\x7fELF\2\1\1" + bytes(60), "shared library", ""),
    "x.exe": (b"MZ\x90\0" + bytes(60), "program", ""),
    "net.py": (b"# A model.\nimport torch\n\nclass Net:\n    pass\n", "Python source", "FILE.py:CLASS"),
    "x.parquet": (b"PAR1" + bytes(60), "Parquet", "pandas"),
    "x.arrow": (b"ARROW1\0\0" + bytes(60), "Arrow", "pyarrow"),
    "x.db": (b"SQLite format 3\x00" + bytes(60), "SQLite", "sqlite3"),
}  # fmt: skip
BY_NAME = ("model.ckpt.data-00000-of-00001", "model.plan", "model.pdiparams", "yolo.weights")


@pytest.mark.parametrize("name", list(KINDS))
def test_each_kind_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    """What it is, that it is not read, and the next step, if there is one."""
    raw, expected, todo = KINDS[name]
    for file in [name] if name in BY_NAME else [name, "model.pt", "no suffix"]:
        path = tmp_path / file
        path.write_bytes(raw)
        with pytest.raises(UnrecognisedFileError) as caught:
            open_checkpoint(str(path))
        assert expected in caught.value.message
        assert "does not read" in caught.value.message
        assert todo in (caught.value.hint or "")
        assert (caught.value.hint is None) == (not todo)


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    """Nothing is guessed of it."""
    path = tmp_path / "x.pt"
    path.touch()
    with pytest.raises(UnrecognisedFileError, match="is empty"):
        open_checkpoint(str(path))


def test_a_sparse_terabyte_of_zeros_costs_nothing(tmp_path: Path) -> None:
    """It is looked at in a few places and no more."""
    path = tmp_path / "x.pt"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnrecognisedFileError, match="zeros"):
        open_checkpoint(str(path))


@pytest.mark.parametrize(
    "raw",
    [
        b"{" * 5_000,
        b"[" * 100_000,
        b"\x0a\xff\xff\xff\xff\x7f",
        b"\x81\xbfparams",
        b'{"a": 1',
        b"\x08\x01\x12\x7f",
    ],
)  # fmt: skip
def test_what_only_begins_like_something_is_not_named(raw: bytes, tmp_path: Path) -> None:
    """Broken texts and messages: unknown, with what was tried."""
    path = tmp_path / "x"
    path.write_bytes(raw)
    with pytest.raises(UnrecognisedFileError, match="not a checkpoint this version can read"):
        open_checkpoint(str(path))


FOLDERS = {
    "SavedModel": ["saved_model.pb", "variables", "assets"],
    "TensorFlow checkpoint": ["checkpoint", "model.ckpt.index", "model.ckpt.data-00000-of-00001"],
    "Orbax": ["manifest.ocdbt", "d", "_METADATA"],
    "Zarr": [".zgroup", "w"],
    "Core ML": ["Manifest.json", "Data"],
    "Flax": ["flax_model.msgpack", "config.json"],
    "HDF5": ["tf_model.h5", "config.json"],
    "Keras": ["model.keras"],
    "TensorFlow.js": ["model.json", "group1-shard1of1.bin"],
    "OpenVINO": ["openvino_model.xml", "openvino_model.bin"],
}


@pytest.mark.parametrize("expected", list(FOLDERS))
def test_folders_of_others_are_told_by_their_names(expected: str) -> None:
    """What lies in them says what they are."""
    known = known_folder(FOLDERS[expected])
    assert known is not None
    assert expected in known.title
    assert known_folder(["a.txt", "model.xml"]) is None


def test_a_folder_of_others_is_refused_with_its_name(tmp_path: Path) -> None:
    """As a file is: what it is, and what to do."""
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    (tmp_path / "variables").mkdir()
    with pytest.raises(TargetError) as caught:
        open_checkpoint(str(tmp_path))
    assert "is a TensorFlow SavedModel, which is not read" in caught.value.message
    assert "safetensors" in (caught.value.hint or "")


def test_the_command_shows_it(cli: command.Cli, tmp_path: Path) -> None:
    """One message on stderr, exit code 2, and no control characters of the file's."""
    path = tmp_path / "x.zip"
    path.write_bytes(zipped("a\x1b[31m.safetensors"))
    done = cli("count", path)
    assert done.code == 2
    assert "zip archive with a\\x1b[31m.safetensors inside" in done.stderr
    assert "\x1b" not in done.stderr
