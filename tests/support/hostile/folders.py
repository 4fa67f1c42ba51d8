"""
Folders: shards that lead outside or are no files, indexes that lie, and what is pickled in them.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hostile.entry import SOME, Hostile, Outcome, Place, archive, opened, tensor, text

Files = Mapping[str, bytes]
Made = tuple[Files | Callable[[str], Files], Outcome, Outcome]
Built = tuple[Callable[[Path, Place], None], Outcome, Outcome]

_RUNS = (1, "executes-code")
_OUTSIDE = (2, "outside its folder")
_GOOD = archive(b"\x80\x02}" + text("w") + tensor() + b"s.")
_INDEX = "model.safetensors.index.json"


def _evil(marker: str) -> bytes:
    return archive(b"\x80\x02}(" + text("w") + tensor() + text("x") + opened(marker) + b"u.")


def _pickle(marker: str) -> bytes:
    return b"\x80\x02" + opened(marker) + b"."


def _shard(name: str = "a", metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of three numbers."""
    header: dict[str, Any] = {name: {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
    raw = json.dumps({**({"__metadata__": metadata} if metadata else {}), **header}).encode()
    return struct.pack("<Q", len(raw)) + raw + SOME


def _index(files: Mapping[str, Any] | Any, **more: Any) -> bytes:
    return json.dumps({"metadata": {"total_size": 12}, "weight_map": files, **more}).encode()


def _beside(name: str, content: bytes) -> Files:
    """A sound model with one more file."""
    return {"model.safetensors": _shard(), "config.json": b"{}", name: content}


_SOUND = (0, "3\n")
FOLDERS: dict[str, Made] = {
    "sound": (
        {_INDEX: _index({"a": "s1.safetensors"}), "s1.safetensors": _shard()},
        _SOUND,
        (0, "nothing found in"),
    ),
    "a shard outside": (
        {_INDEX: _index({"a": "../outside/secret.safetensors"})},
        _OUTSIDE,
        (1, "path-escape"),
    ),
    "a shard of an absolute name": ({_INDEX: _index({"a": "/etc/passwd"})}, _OUTSIDE, (1, "path-escape")),
    "a shard that is a device": ({_INDEX: _index({"a": "/dev/zero"})}, _OUTSIDE, (1, "path-escape")),
    "a shard that goes in and out": (
        {_INDEX: _index({"a": "x/../../outside/secret.safetensors"}), "x/y": b""},
        _OUTSIDE,
        (1, "path-escape"),
    ),
    "a shard outside, escaped": (
        {_INDEX: b'{"weight_map":{"a":"\\u002e\\u002e\\u002foutside\\u002fsecret.safetensors"}}'},
        _OUTSIDE,
        (1, "path-escape"),
    ),
    "a shard with a null byte": ({_INDEX: _index({"a": "a\0b"})}, _OUTSIDE, (1, "path-escape")),
    "a shard with half a surrogate": (
        {_INDEX: b'{"weight_map":{"a":"\\ud800"}}'},
        (2, ". names a file outside its folder"),
        (1, "path-escape"),
    ),
    "a shard with a name of 100 kB": (
        {_INDEX: _index({"a": "x" * 100_000})},
        (2, "shards are missing"),
        (0, "nothing found in"),
    ),
    "a shard that is a number": (
        {_INDEX: _index({"a": 7})},
        (2, "its weight_map names no file for"),
        (0, "nothing found in"),
    ),
    "a shard that is a list": (
        {_INDEX: _index({"a": ["x"]})},
        (2, "its weight_map names no file for"),
        (0, "nothing found in"),
    ),
    "a shard that is the index": (
        {_INDEX: _index({"a": _INDEX})},
        (2, "is an index of shards whose name does not end in .inde"),
        (0, "nothing found in"),
    ),
    "a shard that is a folder": (
        {_INDEX: _index({"a": "d"}), "d/x": b""},
        (2, "/d is a directory"),
        (0, "nothing found in"),
    ),
    "a shard that is not there": (
        {_INDEX: _index({"a": "s9.safetensors"})},
        (2, "shards are missing"),
        (0, "nothing found in"),
    ),
    "a tensor that is not there": (
        {_INDEX: _index({"b": "s1.safetensors"}), "s1.safetensors": _shard()},
        (2, "not in the shards that the index names"),
        (0, "nothing found in"),
    ),
    "a map that is a list": (
        {_INDEX: _index([1, 2])},
        (2, ". is not a checkpoint index"),
        (0, "nothing found in"),
    ),
    "a map that is null": (
        {_INDEX: b'{"weight_map":null}'},
        (2, ". is not a checkpoint index"),
        (0, "nothing found in"),
    ),
    "an index that is a list": ({_INDEX: b"[]"}, (2, ". is not a checkpoint index"), (0, "nothing found in")),
    "an index that is empty": ({_INDEX: b""}, (2, ". is not a checkpoint index"), (0, "nothing found in")),
    "an index nested 100,000 deep": (
        {_INDEX: b'{"weight_map":' + b"[" * 100_000},
        (2, ". is not a checkpoint index"),
        (0, "nothing found in"),
    ),
    "an index of a number of 100,000 digits": (
        {_INDEX: b'{"weight_map":{"a":' + b"9" * 100_000 + b"}}"},
        (2, ". is not a checkpoint index"),
        (0, "nothing found in"),
    ),
    "an index of NaN": (
        {_INDEX: b'{"metadata":{"total_size":NaN},"weight_map":{"a":NaN}}'},
        (2, "its weight_map names no file for"),
        (0, "nothing found in"),
    ),
    "an index of 20,000 shards": (
        lambda _: {_INDEX: _index({f"t{n}": f"s{n}.safetensors" for n in range(20_000)})},
        (2, ". names more than"),
        (0, "nothing found in"),
    ),
    "an index of 10 million lists": (
        lambda _: {_INDEX: b'{"weight_map":{"a":[' + b"[]," * 10_000_000 + b"[]]}}"},
        (2, "far more lists"),
        (0, "nothing found in"),
    ),
    "an index of a size of 10**400": (
        {
            _INDEX: b'{"metadata":{"total_size":1' + b"0" * 400 + b'},"weight_map":{"a":"s1.safetensors"}}',
            "s1.safetensors": _shard(),
        },
        (0, "3\n"),
        (0, "nothing found in"),
    ),
    "a payload as a shard": (
        lambda m: {"pytorch_model.bin.index.json": _index({"w": "p.bin"}), "p.bin": _evil(m)},
        _SOUND,
        _RUNS,
    ),
    "a payload with the suffix of safetensors": (
        lambda m: {_INDEX: _index({"w": "p.safetensors"}), "p.safetensors": _evil(m)},
        (0, "3\n"),
        _RUNS,
    ),
    "code beside": (
        lambda m: {
            **_beside("modeling.py", f"open({m!r}, 'w')\n".encode()),
            "config.json": b'{"auto_map":{"AutoModel":"modeling.Net"}}',
        },
        _SOUND,
        (1, "custom-code"),
    ),
    "a configuration nested 100,000 deep": (
        _beside("config.json", b"[" * 100_000 + b"]" * 100_000),
        _SOUND,
        (0, "nothing found in"),
    ),
    "a configuration of huge numbers": (
        _beside("config.json", b'{"hidden_size":' + b"9" * 5_000 + b',"x":1e999,"y":NaN}'),
        _SOUND,
        (0, "nothing found in"),
    ),
    "a configuration of 3 MB of lists": (
        _beside("config.json", b"[" + b"[]," * 1_000_000 + b"[]]"),
        _SOUND,
        (0, "nothing found in"),
    ),
    "a configuration in no UTF-8": (_beside("config.json", b"\xff\xfe{"), _SOUND, (0, "nothing found in")),
    "a quantization that lies": (
        _beside(
            "config.json",
            json.dumps(
                {
                    "quantization_config": {
                        "bits": "x" * 100,
                        "quant_method": ["gptq"],
                        "config_groups": {"g": {"weights": {"num_bits": -4}}},
                        "group_size": 10**30,
                    }
                }
            ).encode(),
        ),
        _SOUND,
        (0, "nothing found in"),
    ),
    "an adapter that lies": (
        {
            "adapter_model.safetensors": _shard("base_model.model.a.lora_A.weight"),
            "adapter_config.json": b'{"r":-1,"lora_alpha":1e308,"target_modules":[[[[1]]]],"peft_type":7}',
        },
        (0, "3\n"),
        (0, "nothing found in"),
    ),
    "an adapter's configuration nested deep": (
        {
            "adapter_model.safetensors": _shard("base_model.model.a.lora_A.weight"),
            "adapter_config.json": b"[" * 100_000,
        },
        (0, "3\n"),
        (0, "nothing found in"),
    ),
    "a payload as training arguments": (lambda m: _beside("training_args.bin", _evil(m)), (0, "3\n"), _RUNS),
    "a payload as an optimizer": (lambda m: _beside("optimizer.pt", _evil(m)), (0, "3\n"), _RUNS),
    "a payload as a random state": (lambda m: _beside("rng_state.pth", _pickle(m)), (0, "3\n"), _RUNS),
    "a state of a trainer, nested": (
        _beside("trainer_state.json", b'{"a":' * 50_000),
        _SOUND,
        (0, "nothing found in"),
    ),
    "modules of Python's names": (
        lambda m: {
            **_beside("config.json", b"{}"),
            **{
                f"{name}.py": f"open({m!r}, 'w')\n".encode()
                for name in (
                    "torch",
                    "json",
                    "numpy",
                    "typing",
                    "os",
                    "typer",
                    "rich",
                    "re",
                    "ast",
                    "safetensors",
                    "zlib",
                )
            },
        },
        _SOUND,
        (0, "nothing found in"),
    ),
    "a sitecustomize": (
        lambda m: _beside("sitecustomize.py", f"open({m!r}, 'w')\n".encode()),
        _SOUND,
        (0, "nothing found in"),
    ),
    "DCP, a payload in .metadata": (
        lambda m: {".metadata": _pickle(m), "__0_0.distcp": _GOOD},
        (2, "is damaged"),
        _RUNS,
    ),
    "DCP, no metadata": (lambda m: {"__0_0.distcp": _evil(m)}, (2, "which says what its files hold"), _RUNS),
    "DCP, a file outside": (
        {".metadata": b"", "__0_0.distcp": _GOOD},
        (2, "is truncated"),
        (0, "nothing found in"),
    ),
    "DCP, a memo of 2**31": (
        {".metadata": b"\x80\x02Nr\xff\xff\xff\x7f.", "__0_0.distcp": _GOOD},
        (2, "claims more than is read"),
        (1, "exhausts"),
    ),
    "DCP of safetensors that lies": (
        {
            "shard-00001-model-00001-of-00001.safetensors": _shard(
                "a",
                {"DCP_VERSION": "1", "DCP_SHARDING_INFO": '{"a":{"saved_offsets":[99999999999999999999]}}'},
            )
        },
        (2, "safetensors"),
        (0, "nothing found in"),
    ),
    "DCP of safetensors, nested": (
        {
            "shard-00001-model-00001-of-00001.safetensors": _shard(
                "a", {"DCP_VERSION": "1", "DCP_SHARDING_INFO": "[" * 50_000}
            )
        },
        (2, "safetensors"),
        (0, "nothing found in"),
    ),
    "DeepSpeed, a payload in the model's state": (
        lambda m: {
            "latest": b"global_step1",
            "global_step1/mp_rank_00_model_states.pt": _evil(m),
            "global_step1/zero_pp_rank_0_mp_rank_00_optim_states.pt": _GOOD,
        },
        (0, "3\n"),
        _RUNS,
    ),
    "DeepSpeed, a payload in the optimizer's state": (
        lambda m: {
            "latest": b"global_step1",
            "global_step1/mp_rank_00_model_states.pt": _GOOD,
            "global_step1/zero_pp_rank_0_mp_rank_00_optim_states.pt": _evil(m),
        },
        (0, "3\n"),
        _RUNS,
    ),
    "DeepSpeed, latest leads out": (
        {"latest": b"../outside", "global_step1/x_model_states.pt": _GOOD},
        (0, "3\n"),
        (1, "path-escape"),
    ),
    "DeepSpeed, latest is absolute": (
        {"latest": b"/etc", "x": b""},
        (2, ". is a directory that holds no checkpoint"),
        (1, "path-escape"),
    ),
    "DeepSpeed, latest of 1 MB": (
        {"latest": b"x" * 1_000_000, "x": b""},
        (2, ". is a directory that holds no checkpoint"),
        (0, "nothing found in"),
    ),
    "DeepSpeed, latest with controls": (
        {"latest": b"\x1b[31m\n\x00\xff", "x": b""},
        (2, ". is a directory that holds no checkpoint"),
        (0, "nothing found in"),
    ),
    "Megatron, a payload": (
        lambda m: {
            "latest_checkpointed_iteration.txt": b"1",
            "iter_0000001/mp_rank_00/model_optim_rng.pt": _evil(m),
        },
        (0, "3\n"),
        _RUNS,
    ),
    "Megatron, an iteration that leads out": (
        {
            "latest_checkpointed_iteration.txt": b"../../outside",
            "iter_0000001/mp_rank_00/model_optim_rng.pt": _GOOD,
        },
        (2, "latest_checkpointed_iteration.txt names no step"),
        (1, "path-escape"),
    ),
    "Megatron, an iteration of 10,000 digits": (
        {
            "latest_checkpointed_iteration.txt": b"9" * 10_000,
            "iter_0000001/mp_rank_00/model_optim_rng.pt": _GOOD,
        },
        (2, "latest_checkpointed_iteration.txt names no step"),
        (0, "nothing found in"),
    ),
    "a pipeline that leads out": (
        {
            "model_index.json": b'{"_class_name":"P","../outside":["a","b"],"unet":["diffusers","U"]}',
            "unet/model.safetensors": _shard(),
        },
        (0, "3\n"),
        (0, "nothing found in"),
    ),
    "folders 200 deep": (
        {"/".join(["d"] * 200) + "/model.safetensors": _shard()},
        (2, ". is a directory that holds no checkpoint"),
        (0, "nothing found in"),
    ),
    "3,000 folders": (
        {f"d{n}/x": b"" for n in range(3_000)},
        (2, ". is a directory that holds no checkpoint"),
        (0, "nothing found in"),
    ),
    "3,000 files": (
        {f"f{n}": b"" for n in range(3_000)},
        (2, ". is a directory that holds no checkpoint"),
        (0, "nothing found in"),
    ),
    "an empty folder": ({}, (2, ". is an empty directory"), (0, "nothing found in")),
    "several models": (
        {f"m{n}.safetensors": _shard(f"t{n}") for n in range(30)},
        (2, ". holds several checkpoints and none has a usual name"),
        (0, "nothing found in"),
    ),
    "a tensor in two shards": (
        {"model-1.safetensors": _shard(), "model-2.safetensors": _shard()},
        (2, ". holds several checkpoints and none has a usual name"),
        (0, "nothing found in"),
    ),
}


def _link(name: str, to: Callable[[Place], str]) -> Callable[[Path, Place], None]:
    """An index, and its shard a symbolic link."""

    def build(folder: Path, place: Place) -> None:
        (folder / _INDEX).write_bytes(_index({"a": name}))
        (folder / name).symlink_to(to(place))

    return build


def _pipe(name: str) -> Callable[[Path, Place], None]:
    def build(folder: Path, place: Place) -> None:
        (folder / _INDEX).write_bytes(_index({"a": "s.safetensors"}))
        os.mkfifo(folder / name)

    return build


def _socket(folder: Path, place: Place) -> None:
    (folder / _INDEX).write_bytes(_index({"a": "s.safetensors"}))
    before = os.getcwd()
    os.chdir(folder)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s.safetensors")
    finally:
        os.chdir(before)


def _sparse(name: str, size: int) -> Callable[[Path, Place], None]:
    def build(folder: Path, place: Place) -> None:
        (folder / "model.safetensors").write_bytes(_shard())
        with open(folder / name, "wb") as file:
            file.truncate(size)

    return build


def _linked_folder(folder: Path, place: Place) -> None:
    (folder / "latest").write_text("global_step1")
    (folder / "global_step1").symlink_to(place.outside)


def _loop(folder: Path, place: Place) -> None:
    (folder / "model.safetensors").write_bytes(_shard())
    (folder / "again").symlink_to(".")
    (folder / "x.bin").symlink_to("x.bin")


def _unreadable_name(folder: Path, place: Place) -> None:
    (folder / "model.safetensors").write_bytes(_shard())
    (folder / os.fsdecode(b"\xff\xfe\x1b[31m.bin")).write_bytes(_GOOD)


BUILT: dict[str, Built] = {
    "a link outside": (
        _link("s.safetensors", lambda p: str(p.outside / "secret.safetensors")),
        _OUTSIDE,
        (1, "link"),
    ),
    "a relative link outside": (
        _link("s.safetensors", lambda p: f"../{p.outside.name}/secret.safetensors"),
        _OUTSIDE,
        (1, "link"),
    ),
    "a link to a device": (_link("s.safetensors", lambda _: "/dev/zero"), _OUTSIDE, (1, "link")),
    "a link to itself": (
        _link("s.safetensors", lambda _: "s.safetensors"),
        (2, "shards are missing"),
        (1, "not-looked-into"),
    ),
    "a link to nothing": (
        _link("s.safetensors", lambda _: "nothing"),
        (2, "shards are missing"),
        (1, "not-looked-into"),
    ),
    "a link to a process's memory": (
        _link("s.safetensors", lambda _: "/proc/self/mem"),
        _OUTSIDE,
        (1, "link"),
    ),
    "a pipe as a shard": (_pipe("s.safetensors"), (2, "pipe"), (1, "not-looked-into")),
    "a pipe as a configuration": (_pipe("config.json"), (2, "shards are missing"), (1, "not-looked-into")),
    "a socket as a shard": (
        _socket,
        (2, "/s.safetensors is a socket or a pipe that nobody writes to"),
        (1, "not-looked-into"),
    ),
    "a pipe as an index": (
        lambda f, _: os.mkfifo(f / _INDEX),
        (2, "./model.safetensors.inde"),
        (1, "not-looked-into"),
    ),
    "a pipe as latest": (
        lambda f, _: os.mkfifo(f / "latest"),
        (2, ". is a directory that holds no checkpoint"),
        (1, "not-looked-into"),
    ),
    "a pipe as metadata": (
        lambda f, _: os.mkfifo(f / ".metadata"),
        (2, "/.metadata is a named pipe"),
        (1, "not-looked-into"),
    ),
    "a configuration of 1 TB": (_sparse("config.json", 1 << 40), _SOUND, (0, "nothing found in")),
    "an index of 1 TB": (_sparse(_INDEX, 1 << 40), (2, "the index has"), (0, "nothing found in")),
    "weights of 1 TB": (_sparse("pytorch_model.bin", 1 << 40), (0, "3\n"), (0, "nothing found in")),
    "metadata of 1 TB": (_sparse(".metadata", 1 << 40), (0, "3\n"), (1, "pickle-broken")),
    "latest of 1 TB": (_sparse("latest", 1 << 40), (0, "3\n"), (0, "nothing found in")),
    "DeepSpeed, a step that is a link outside": (
        _linked_folder,
        (2, ". names a file outside its folder"),
        (1, "link"),
    ),
    "links in a circle": (_loop, _SOUND, (1, "link")),
    "a file name in no encoding": (_unreadable_name, _SOUND, (0, "nothing found in")),
}


def _of_files(files: Files | Callable[[str], Files]) -> Callable[[Place], str]:
    def make(place: Place) -> str:
        for name, content in (files if isinstance(files, Mapping) else files(place.marker)).items():
            (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (place.folder / name).write_bytes(content)
        return "."

    return make


def _of_build(build: Callable[[Path, Place], None]) -> Callable[[Place], str]:
    def make(place: Place) -> str:
        build(place.folder, place)
        return "."

    return make


ENTRIES: tuple[Hostile, ...] = (
    *(
        Hostile(
            f"folder: {name}",
            _of_files(files),
            count,
            scan,
            costly="0,000" in name or "million" in name or "3,000" in name,
        )
        for name, (files, count, scan) in FOLDERS.items()
    ),
    *(
        Hostile(f"folder: {name}", _of_build(build), count, scan)
        for name, (build, count, scan) in BUILT.items()
    ),
)
