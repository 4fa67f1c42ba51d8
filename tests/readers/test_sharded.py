"""Sharded checkpoints and Hugging Face directories, and what they may not open."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelinspect.errors import DamagedFileError, ModelInspectError, RefusedError, TargetError
from modelinspect.readers.registry import open_checkpoint

SHARDS = {
    "model-00001-of-00002.safetensors": {"h.0.w": torch.zeros(2, 3), "h.10.w": torch.zeros(4)},
    "model-00002-of-00002.safetensors": {"h.2.w": torch.zeros(5, dtype=torch.float16)},
}
INDEX = "model.safetensors.index.json"
NATURAL = ["h.0.w", "h.2.w", "h.10.w"]


def write_index(folder: Path, weight_map: dict[str, object], name: str = INDEX) -> Path:
    """An index that claims 50 bytes in all."""
    path = folder / name
    path.write_text(json.dumps({"metadata": {"total_size": 50}, "weight_map": weight_map}))
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A folder of two shards and their index."""
    weight_map: dict[str, object] = {}
    for shard, tensors in SHARDS.items():
        save_file(tensors, tmp_path / shard)
        weight_map.update(dict.fromkeys(tensors, shard))
    write_index(tmp_path, weight_map)
    return tmp_path


def test_directory_index_and_shards_are_one_checkpoint(sharded: Path) -> None:
    """The folder and its index read the same; names come in natural order over all shards."""
    by_folder = open_checkpoint(str(sharded))
    by_index = open_checkpoint(str(sharded / "model.safetensors.index.json"))
    for checkpoint in (by_folder, by_index):
        assert [tensor.name for tensor in checkpoint.table] == NATURAL
        assert checkpoint.format == "sharded safetensors"
        assert checkpoint.metadata["index.total_size"] == "50"
        assert checkpoint.notes == ()
    shard = by_folder.table["h.2.w"].storage
    assert shard is not None
    assert os.path.basename(shard.file) == "model-00002-of-00002.safetensors"


def test_only_headers_are_read(tmp_path: Path) -> None:
    """A shard of 4 MB costs its header and the index costs its size."""
    save_file({"w": torch.zeros(1_000_000)}, tmp_path / "a.safetensors")
    write_index(tmp_path, {"w": "a.safetensors"})
    assert open_checkpoint(str(tmp_path)).bytes_read < 1000


def test_pickled_shards_keep_their_order(tmp_path: Path) -> None:
    """`pytorch_model.bin` shards: each in its pickle's order, one after the other."""
    torch.save({"z": torch.zeros(1), "a": torch.zeros(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"m": torch.zeros(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    names = {"z": 1, "a": 1, "m": 2}
    write_index(
        tmp_path,
        {name: f"pytorch_model-0000{n}-of-00002.bin" for name, n in names.items()},
        "pytorch_model.bin.index.json",
    )
    checkpoint = open_checkpoint(str(tmp_path))
    assert [tensor.name for tensor in checkpoint.table] == ["z", "a", "m"]
    assert checkpoint.format == "sharded torch-zip"


def test_shards_without_index_are_put_together(sharded: Path) -> None:
    """The numbers in the names say whether all are there; a note says that no index was."""
    (sharded / "model.safetensors.index.json").unlink()
    checkpoint = open_checkpoint(str(sharded))
    assert [tensor.name for tensor in checkpoint.table] == NATURAL
    assert any("no index" in note for note in checkpoint.notes)
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DamagedFileError, match="1 of 2 shards are missing"):
        open_checkpoint(str(sharded))


def test_directory_of_one_model(tmp_path: Path) -> None:
    """A usual Hugging Face folder: the weights are found among the other files, and named."""
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.format == "safetensors"
    assert checkpoint.notes == (
        "read model.safetensors of this folder",
        "the folder also holds pytorch_model.bin",
    )


def test_hugging_face_cache_links_are_followed(tmp_path: Path) -> None:
    """`snapshots/<revision>/model.safetensors` is a link to the sibling `blobs/`."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file({"w": torch.zeros(2)}, blobs / "123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    assert open_checkpoint(str(snapshot)).table["w"].shape == (2,)
    index = write_index(blobs, {"w": "model.safetensors"}, "456")
    (snapshot / "model.safetensors.index.json").symlink_to(f"../../blobs/{index.name}")
    assert open_checkpoint(str(snapshot / "model.safetensors.index.json")).table["w"].shape == (2,)


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/hostname",
        "a/../../secret.safetensors",
        "link.safetensors",
        "",
        "a\x00b",
        "\ud800",
    ],
)
def test_nothing_outside_the_folder_is_opened(tmp_path: Path, shard: str) -> None:
    """Absolute names, names with .., and links that lead out are refused."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.zeros(2)}, tmp_path / "secret.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    write_index(folder, {"w": shard})
    with pytest.raises(RefusedError, match="outside its folder"):
        open_checkpoint(str(folder))


def test_a_directory_link_to_one_weight_file_outside_is_refused(tmp_path: Path) -> None:
    """What a folder offers is held to the same rule as what an index names."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.zeros(2)}, tmp_path / "secret.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    with pytest.raises(RefusedError):
        open_checkpoint(str(folder))


BAD_INDEXES = [
    ("", "not JSON"),
    ("[]", "no object"),
    ("{}", "no weight_map"),
    ('{"weight_map": {}}', "no weight_map"),
    ('{"weight_map": {"w": 3}}', "names no file"),
    ("[" * 100_000, "not JSON"),
    ('{"weight_map": {"w": "gone.safetensors"}}', "1 of 1 shards are missing"),
    ('{"weight_map": {"v": "a.safetensors"}}', "not in the shards that the index names: 1 tensor"),
]


@pytest.mark.parametrize(("text", "expected"), BAD_INDEXES)
def test_bad_indexes_have_clear_errors(tmp_path: Path, text: str, expected: str) -> None:
    """Each way in which an index can be wrong has its own sentence."""
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(DamagedFileError) as caught:
        open_checkpoint(str(tmp_path))
    assert expected in str(caught.value)


def test_tensors_that_the_index_leaves_out_are_counted_and_said(tmp_path: Path) -> None:
    """A shard that holds more than the index says: nothing is dropped silently."""
    save_file({"w": torch.zeros(2), "extra": torch.zeros(3)}, tmp_path / "a.safetensors")
    write_index(tmp_path, {"w": "a.safetensors"})
    checkpoint = open_checkpoint(str(tmp_path))
    assert [tensor.name for tensor in checkpoint.table] == ["extra", "w"]
    assert any("not in the index" in note and "extra" in note for note in checkpoint.notes)


def test_a_wrong_total_size_is_said(tmp_path: Path) -> None:
    """The index's own figure is compared with what the shards hold."""
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    write_index(tmp_path, {"w": "a.safetensors"})
    assert "the index says total_size 50 bytes, the shards hold 8" in open_checkpoint(str(tmp_path)).notes


def test_directories_without_a_checkpoint_say_what_they_hold(tmp_path: Path) -> None:
    """Empty, nothing of use, or several without a usual name: three different errors."""
    with pytest.raises(TargetError, match="empty directory"):
        open_checkpoint(str(tmp_path))
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(TargetError, match="holds no checkpoint") as caught:
        open_checkpoint(str(tmp_path))
    assert "readme.md" in str(caught.value)
    save_file({"w": torch.zeros(2)}, tmp_path / "one.safetensors")
    assert open_checkpoint(str(tmp_path)).table["w"].shape == (2,)
    save_file({"w": torch.zeros(2)}, tmp_path / "two.safetensors")
    with pytest.raises(TargetError, match="several checkpoints") as caught:
        open_checkpoint(str(tmp_path))
    assert "two.safetensors" in str(caught.value)


def test_a_damaged_shard_names_the_shard(sharded: Path) -> None:
    """The error says which of the files is broken."""
    (sharded / "model-00002-of-00002.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(ModelInspectError, match="not in the shards"):
        open_checkpoint(str(sharded))
    (sharded / "model-00002-of-00002.safetensors").write_bytes(b"\xff\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(DamagedFileError, match=r"model-00002-of-00002\.safetensors"):
        open_checkpoint(str(sharded))


def test_a_shard_spelt_in_many_ways_is_opened_once(tmp_path: Path) -> None:
    """`./a.safetensors` and `././a.safetensors` are one file, read once."""
    tensors = {f"w{n}": torch.zeros(1) for n in range(50)}
    save_file(tensors, tmp_path / "a.safetensors")
    write_index(tmp_path, {name: "./" * n + "a.safetensors" for n, name in enumerate(tensors)})
    checkpoint = open_checkpoint(str(tmp_path))
    assert len(checkpoint.files) == 2
    assert len(checkpoint.table) == 50
