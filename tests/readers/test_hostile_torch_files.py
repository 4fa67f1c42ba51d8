"""
Files made to do harm: nothing runs, little memory and time are spent, what is there is still shown.
"""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_truth

from modelinspect.errors import DamagedFileError, LimitError, ModelInspectError, UnrecognisedFileError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint

# Kinds of tensors that torch calls a prototype or deprecated, and names in archives that repeat.
pytestmark = pytest.mark.filterwarnings("ignore")

STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x03tQ"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n("
    + STORAGE
    + b"K\0K\3\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR"
)
VALUES = struct.pack("<3f", 1, 2, 3)


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def archive(data: bytes, **records: bytes) -> bytes:
    """A torch zip archive around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        for name, content in {"data.pkl": data, "data/0": VALUES, "version": b"3\n", **records}.items():
            out.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def opened(raw: bytes, folder: Path, name: str = "x.pt") -> Checkpoint:
    """Read those bytes as a file."""
    path = folder / name
    path.write_bytes(raw)
    return open_checkpoint(str(path))


def with_tensor(*before: bytes) -> bytes:
    """A pickle: things of all kinds in a list beside a tensor."""
    return b"\x80\x02]" + b"".join(part + b"a" for part in before) + TENSOR + b"a."


# -- nothing runs ---------------------------------------------------------------------------


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"echo ran > {self.marker}",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_payload_is_shown_and_not_run(legacy: bool, protocol: int, tmp_path: Path) -> None:
    """The call is listed with its module and name, its neighbours are read, and no marker file appears."""
    marker = tmp_path / "marker"
    value = {"weight": torch.zeros(3), "evil": Payload(marker), "bias": torch.zeros(2)}
    path = torch_truth.save(value, tmp_path / "x.pt", legacy=legacy, protocol=protocol)
    checkpoint = open_checkpoint(str(path))
    assert not marker.exists()
    assert [row.name for row in checkpoint.table] == ["weight", "bias"]
    foreign = {(name.module, name.name) for name in checkpoint.globals if not name.understood}
    assert foreign == {(os.system.__module__, "system")}
    assert any(f"{os.system.__module__}.system" in note for note in checkpoint.notes)
    # The payload is real: torch runs it.
    torch_truth.loaded(path)
    assert marker.exists()


WAYS_TO_CALL = {
    "REDUCE": b"cos\nsystem\n" + text("id") + b"\x85R",
    "REDUCE and POP": b"cos\nsystem\n" + text("id") + b"\x85R0N",
    "INST": b"(" + text("id") + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + text("id") + b"o",
    "NEWOBJ": b"cos\nsystem\n" + text("id") + b"\x85\x81",
    "NEWOBJ_EX": b"cos\nsystem\n" + text("id") + b"\x85}\x92",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93" + text("id") + b"\x85R",
    "BUILD": b"cposixpath\nPath\n)R" + b"cos\nsystem\n" + text("id") + b"\x85Rb",
    "in a key": b"}cos\nsystem\n" + text("id") + b"\x85RNs",
    "in a persistent id": b"cos\nsystem\n" + text("id") + b"\x85RQ",
    "as the function": b"cos\nsystem\n" + text("id") + b"\x85R)R",
    "in hooks": TENSOR[: -len(b"ccollections\nOrderedDict\n)RtR")]
    + b"cos\nsystem\n"
    + text("id")
    + b"\x85RtR",
}


@pytest.mark.parametrize("way", list(WAYS_TO_CALL))
def test_every_way_to_call_is_seen(way: str, tmp_path: Path) -> None:
    """Whatever opcode calls, wherever the result goes, the name is listed; the tensor beside it is read."""
    checkpoint = opened(archive(with_tensor(WAYS_TO_CALL[way])), tmp_path)
    assert ("os", "system") in {
        (name.module, name.name) for name in checkpoint.globals if not name.understood
    }
    assert any(row.shape == (3,) for row in checkpoint.table)
    [found] = [name for name in checkpoint.globals if name.name == "system"]
    assert found.record == "archive/data.pkl"
    pickled = archive(with_tensor(WAYS_TO_CALL[way]))
    inside = zipfile.ZipFile(io.BytesIO(pickled)).read("archive/data.pkl")
    assert inside[found.position :][:20].startswith((b"cos\nsystem", b"ios\nsystem", b"\x93"))


def test_a_computed_name_is_found(tmp_path: Path) -> None:
    """A name that is made by a call can't be known, and that is said."""
    computed = (
        b"cbuiltins\ngetattr\n" + text("os") + b"\x85R" + text("system") + b"\x93" + text("id") + b"\x85R"
    )
    checkpoint = opened(archive(with_tensor(computed)), tmp_path)
    assert any(name.module == "<computed>" and not name.understood for name in checkpoint.globals)
    assert any("computed" in note for note in checkpoint.notes)


def test_understood_names_in_other_modules_are_foreign(tmp_path: Path) -> None:
    """Only the whole name counts: nothing that merely ends like one of torch's is understood."""
    for name in (b"evil\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_evil", b"evil\nFloatStorage"):
        checkpoint = opened(archive(with_tensor(b"c" + name + b"\n)R")), tmp_path)
        [foreign] = [name for name in checkpoint.globals if not name.understood]
        assert "evil" in f"{foreign.module}.{foreign.name}"


def test_from_type_with_a_foreign_function(tmp_path: Path) -> None:
    """The function that a subclass is told to be made with is foreign unless it is torch's."""
    call = b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n" + text("id") + b"\x85NtR"
    checkpoint = opened(archive(with_tensor(call)), tmp_path)
    assert [row.name for row in checkpoint.table] == ["1"]
    assert any("os.system" in note for note in checkpoint.notes)


def test_names_are_shown_escaped(tmp_path: Path) -> None:
    """Escape sequences in a global's name do not reach the terminal."""
    checkpoint = opened(archive(with_tensor(b"cevil\x1b[31m\nname\xe2\x80\xae\n")), tmp_path)
    assert not any("\x1b" in note or "\u202e" in note for note in checkpoint.notes)
    assert any("\\x1b" in note and "\\u202e" in note for note in checkpoint.notes)


# -- bombs ------------------------------------------------------------------------------------


def laughs(container: Callable[[bytes], bytes], levels: int, seed: bytes) -> bytes:
    """Each level holds the one before ten times."""
    out = b"\x80\x02" + seed + b"q\x00"
    for level in range(levels):
        out += container(b"h" + bytes([level])) + b"q" + bytes([level + 1])
    return out + b"."


def as_list(get: bytes) -> bytes:
    """A list of ten references."""
    return b"](" + get * 10 + b"e"


def as_tuple(get: bytes) -> bytes:
    """A tuple of ten references."""
    return b"(" + get * 10 + b"t"


def tuple_keys() -> bytes:
    """A dictionary whose key takes 2**100 steps to hash."""
    out = b"\x80\x02)"
    for level in range(100):
        out += b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86"
    return out[:2] + b"}(" + out[2:] + b"K\1" + text("w") + TENSOR + b"u."


def call(name: str, *args: bytes) -> bytes:
    """What ``name(*args)`` is pickled as."""
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n(".encode() + b"".join(args) + b"tR"


def dictionary(*flat: bytes) -> bytes:
    """What a dictionary of these keys and values is pickled as."""
    return b"}(" + b"".join(flat) + b"u"


def named(part: bytes) -> bytes:
    """Keep it in the memo as number 0, and drop it from the stack."""
    return part + b"q\x000"


def at_least_once(first: bytes, *rest: bytes) -> bytes:
    """A pickle of a list of the last parts; the first is written before them."""
    return b"\x80\x02" + first + b"](" + b"".join(rest) + TENSOR + b"e."


def laughing_parts(make: Callable[[bytes], bytes]) -> bytes:
    """Tensors made of the tensor before them several times."""
    out = b"\x80\x02" + TENSOR + b"q\x01"
    for _ in range(40):
        out += b"0" + make(b"h\x01") + b"q\x01"
    return out + b"."


def nested_tensor(part: bytes) -> bytes:
    """A nested tensor, all of whose parts are that one."""
    return call("torch._utils._rebuild_nested_tensor", part * 4)


def wrapper(part: bytes, offset: bytes = b"K\0") -> bytes:
    """A tensor subclass that holds one tensor under 30 names."""
    args = b"cx\nY\nctorch\nfloat32\nK\1\x85K\1\x85" + offset + b"ctorch\nstrided\n" + text("cpu") + b"\x89"
    state = dictionary(*(text(f"part{number}") + part for number in range(30)))
    return call("torch._utils._rebuild_wrapper_subclass", args) + state + b"b"


def module(*entries: bytes) -> bytes:
    """An object of a class of nobody's with the attributes of a module."""
    state = dictionary(text("_modules"), b"}", text("_parameters"), b"}", text("_buffers"), b"}", *entries)
    return b"cx\nY\n)\x81" + state + b"b"


def dictionary_of_dictionaries(count: int) -> bytes:
    """Many of them in one, none with a tensor."""
    return b"\x80\x02" + dictionary(*(text(f"k{number}") + b"}" for number in range(count))) + b"."


SPARSE = "torch._utils._rebuild_sparse_tensor"
LAYOUT = "torch.serialization._get_layout"
MANY_KEYS = dictionary(*(text(f"k{number}") + b"N" for number in range(50_000)))
ONE_KEY_OFTEN = dictionary(text("k") + b"q\1N", b"h\1N" * 50_000)
NAMES = b"".join(text(f"name {number}") for number in range(20_000))


BOMBS: dict[str, tuple[Callable[[], bytes], type[ModelInspectError] | None]] = {
    "laughing lists": (lambda: laughs(as_list, 60, b"N"), None),
    "laughing lists of a tensor": (lambda: laughs(as_list, 60, TENSOR), LimitError),
    "laughing tuples": (lambda: laughs(as_tuple, 60, TENSOR), LimitError),
    "a key that hashes for ever": (tuple_keys, None),
    "deep tuples": (lambda: b"\x80\x02N" + b"\x85" * 900_000 + b".", None),
    "deeper tuples": (lambda: b"\x80\x02N" + b"\x85" * 5_000_000 + b".", LimitError),
    "deep lists around a tensor": (
        lambda: b"\x80\x02" + b"]" * 100_000 + TENSOR + b"a" * 100_000 + b".",
        LimitError,
    ),
    "deep dictionaries": (
        lambda: (
            b"\x80\x02ccollections\nOrderedDict\nq\0" + b"h\0" * 90_000 + b")R" + b"\x85R" * 90_000 + b"."
        ),
        None,
    ),
    "deep calls": (lambda: b"\x80\x02cos\nsystem\n" + b")R" * 300_000 + b".", None),
    "deep calls in arguments": (
        lambda: b"\x80\x02" + b"cos\nsystem\n" * 9000 + b"N" + b"\x85R" * 9000 + b".",
        None,
    ),
    "deep parameters": (
        lambda: (
            b"\x80\x02" + b"ctorch._utils\n_rebuild_parameter\n" * 50 + TENSOR + b"\x88N\x87R" * 50 + b"."
        ),
        LimitError,
    ),
    "many marks": (lambda: b"\x80\x02" + b"(" * 5_000_000 + b".", LimitError),
    "many lists": (lambda: b"\x80\x02]" + b"]a" * 3_000_000 + b".", LimitError),
    "many sets": (lambda: b"\x80\x04]" + b"\x8fa" * 3_000_000 + b".", LimitError),
    "many calls": (lambda: b"\x80\x02cos\nsystem\n" + b")R" * 3_000_000 + b".", LimitError),
    "many states": (lambda: b"\x80\x02cos\nsystem\n)R" + b"}b" * 3_000_000 + b".", LimitError),
    "many references": (lambda: b"\x80\x02N" + b"Q" * 5_000_000 + b".", LimitError),
    "many globals": (
        lambda: b"\x80\x02" + b"".join(b"c%x\nx\n" % number for number in range(700_000)) + b".",
        LimitError,
    ),
    "the memo at its end": (lambda: b"\x80\x02Nr\xff\xff\xff\xff.", LimitError),
    "the memo as text": (lambda: b"\x80\x02Np99999999999\n.", LimitError),
    "the memo by name": (lambda: b"\x80\x02Np-1\n.", DamagedFileError),
    "memo entries": (lambda: b"\x80\x04N" + b"\x94" * 3_000_000 + b".", None),
    "a text of 4 GB": (lambda: b"\x80\x02X\xff\xff\xff\xffabc.", DamagedFileError),
    "a text of 2**63": (lambda: b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.", DamagedFileError),
    "bytes of 2**64": (lambda: b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.", DamagedFileError),
    "a bytearray of 2**63": (lambda: b"\x80\x05\x96" + b"\xff" * 7 + b"\x7fabc.", DamagedFileError),
    "a frame of 2**64": (lambda: b"\x80\x04\x95" + b"\xff" * 8 + b"N.", None),
    "an integer of 2 GB": (lambda: b"\x80\x02\x8b\xff\xff\xff\x7fabc.", DamagedFileError),
    "an integer of negative length": (lambda: b"\x80\x02\x8b\xff\xff\xff\xffabc.", DamagedFileError),
    "an integer of 3 MB": (
        lambda: b"\x80\x02\x8b" + struct.pack("<I", 3_000_000) + b"\1" * 3_000_000 + b".",
        None,
    ),
    "a decimal of 3 MB": (lambda: b"L" + b"9" * 3_000_000 + b"L\n.", LimitError),
    "a decimal of 60 kB": (lambda: b"L" + b"9" * 60_000 + b"L\n.", None),
    "a decimal that is none": (lambda: b"I12x\n.", DamagedFileError),
    "a name of 5 MB": (lambda: b"\x80\x02c" + b"a" * 5_000_000 + b"\nx\n.", LimitError),
    "a name of 5 MB on the stack": (
        lambda: b"\x80\x04" + text("a" * 900_000) + text("b") + b"\x93.",
        LimitError,
    ),
    "a key of 900 kB": (lambda: b"\x80\x02}" + text("k" * 900_000) + TENSOR + b"s.", LimitError),
    "an empty stack": (lambda: b"\x80\x02.", DamagedFileError),
    "a pop too many": (lambda: b"\x80\x020.", DamagedFileError),
    "an append to nothing": (lambda: b"\x80\x02Na.", DamagedFileError),
    "no mark": (lambda: b"\x80\x02NNt.", DamagedFileError),
    "a memo entry never written": (lambda: b"\x80\x02h\x05.", DamagedFileError),
    "a memo entry in a gap": (lambda: b"\x80\x02Nq\x05h\x03.", DamagedFileError),
    "no stop": (lambda: b"\x80\x02NNNN", DamagedFileError),
    "an unknown opcode": (lambda: b"\x80\x02\xff.", DamagedFileError),
    "protocol 9": (lambda: b"\x80\x09N.", DamagedFileError),
    "half a pair": (lambda: b"\x80\x02}(Nu.", DamagedFileError),
    "half a surrogate": (lambda: b"\x80\x02}X\3\0\0\0\xed\xa0\x80" + TENSOR + b"s.", None),
    "no UTF-8": (lambda: b"\x80\x02X\2\0\0\0\xff\xfe.", DamagedFileError),
    "entries set on a tuple": (lambda: b"\x80\x02)NNs.", None),
    "items appended to a name": (lambda: b"\x80\x02cos\nsystem\nNa.", None),
    "a state for a list": (lambda: b"\x80\x02]}b.", None),
    "extension codes": (lambda: b"\x80\x02](\x82\1\x83\1\2\x84\1\2\3\4e.", None),
    "out-of-band buffers": (lambda: b"\x80\x05](\x97\x97\x98e.", None),
    "a tensor in its own attributes": (
        lambda: (
            b"\x80\x02]q\1ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n("
            + STORAGE
            + b"K\0K\3\x85K\1\x85\x89Nt}"
            + text("me")
            + b"h\1stRah\1."
        ),
        None,
    ),
    "tensors in each other's attributes": (
        lambda: (
            b"\x80\x02]N"
            b"q\x010ctorch._tensor\n_rebuild_from_type_v2\nq\2(ctorch._utils\n_rebuild_tensor_v2\nq\3ctorch\nTensor\nq\4("
            + STORAGE
            + b"q\5K\0K\3\x85K\1\x85\x89Ntq\6}"
            + text("x")
            + b"h\1stRq\7"
            + b"h\2(h\3h\4h\6}X\1\0\0\0xh\7stRq\7" * 3_000
            + b"a."
        ),
        LimitError,
    ),
    "a list in itself": (lambda: b"\x80\x02]q\0h\0a" + TENSOR + b"a.", None),
    "a dictionary in itself": (
        lambda: b"\x80\x02}q\0" + text("a") + b"h\0s" + text("t") + TENSOR + b"s.",
        None,
    ),
    "an object in itself": (lambda: b"\x80\x02cx\ny\n)Rq\0}" + text("a") + b"h\0sb.", None),
    "a call of itself": (lambda: b"\x80\x02]q\0(h\0tq\1cx\ny\nh\1Rah\0.", None),
    "a layout of laughing tuples": (
        lambda: at_least_once(
            b"N" + b"q\x000h\0h\0\x86" * 60 + b"q\x000",
            call(SPARSE, call(LAYOUT, b"h\0"), b"(" + TENSOR * 2 + b"K\1\x85t"),
        ),
        DamagedFileError,
    ),
    "a layout of deep tuples": (
        lambda: at_least_once(
            b"", call(SPARSE, call(LAYOUT, b"N" + b"\x85" * 100_000), b"(" + TENSOR * 2 + b"K\1\x85t")
        ),
        DamagedFileError,
    ),
    "laughing nested tensors": (lambda: laughing_parts(nested_tensor), LimitError),
    "laughing wrappers": (lambda: laughing_parts(wrapper), LimitError),
    "attributes that tensors share": (
        lambda: at_least_once(
            named(MANY_KEYS),
            b"ctorch._tensor\n_rebuild_from_type_v2\nq\1(ctorch._utils\n_rebuild_tensor_v2\nq\2ctorch\nTensor\nq\3("
            + STORAGE
            + b"K\0K\3\x85K\1\x85\x89Ntq\4h\0tR"
            + b"h\1(h\2h\3h\4h\0tR" * 20_000,
        ),
        LimitError,
    ),
    "dictionaries made of one dictionary": (
        lambda: at_least_once(named(MANY_KEYS), call("collections.OrderedDict", b"h\0" * 30_000)),
        None,
    ),
    "one key written often in what many share": (
        lambda: at_least_once(named(ONE_KEY_OFTEN), *([b"cx\nY\n)R", b"h\0b", TENSOR] * 3_000)),
        LimitError,
    ),
    "a tuple of many names as a key": (
        lambda: at_least_once(named(b"(" + NAMES + b"t"), b"}h\0" + TENSOR + b"s" + b"}h\0Ns" * 20_000),
        None,
    ),
    "a long key at every level": (
        lambda: b"\x80\x02" + text("k" * 900_000) + b"q\x000" + b"}h\0" * 900 + TENSOR + b"s" * 900 + b".",
        LimitError,
    ),
    "names that modules share": (
        lambda: at_least_once(
            named(b"](" + NAMES + b"e"),
            module(text("_non_persistent_buffers_set"), b"c__builtin__\nset\nh\0\x85Rq\5"),
            *[module(text("_non_persistent_buffers_set"), b"h\5")] * 3_000,
        ),
        None,
    ),
    "many dictionaries of scalars": (
        lambda: dictionary_of_dictionaries(100_000),
        None,
    ),
    "keyword arguments of keyword arguments": (
        lambda: b"\x80\x04" + (b"ccollections\nOrderedDict\n)" * 20_000) + b"}" + b"\x92" * 20_000 + b".",
        None,
    ),
    "a wrapper from an infinite element on": (
        lambda: at_least_once(b"", wrapper(TENSOR, b"F1e999\n")),
        DamagedFileError,
    ),
    "a device of 60 kB": (
        lambda: at_least_once(b"", TENSOR.replace(text("cpu"), text("c" * 60_000))),
        DamagedFileError,
    ),
    "a list of 5 million entries": (
        lambda: b"\x80\x02](" + b"N" * 5_000_000 + TENSOR + b"e.",
        None,
    ),
    "names of 60 kB": (
        lambda: b"\x80\x02" + b"".join(b"c%x\n" % n + b"x" * 60_000 + b"\n" for n in range(30)) + b".",
        LimitError,
    ),
}


@pytest.mark.parametrize("bomb", list(BOMBS))
def test_bombs(bomb: str, tmp_path: Path) -> None:
    """A checkpoint or an error that names what is wrong; never another exception."""
    make, expected = BOMBS[bomb]
    raw = archive(make())
    if expected is None:
        assert isinstance(opened(raw, tmp_path), Checkpoint)
    else:
        with pytest.raises(expected) as caught:
            opened(raw, tmp_path)
        assert caught.value.details


def test_bombs_cost_little(tmp_path: Path) -> None:
    """All of them, one after the other in a process that may have no more than 300 MB."""
    for number, (make, _) in enumerate(BOMBS.values()):
        (tmp_path / f"{number}.pt").write_bytes(archive(make()))
    program = (
        "import resource, sys\n"
        "from modelinspect.errors import ModelInspectError\n"
        "from modelinspect.readers.registry import open_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_AS, (300_000_000, 300_000_000))\n"
        "for path in sys.argv[1:]:\n"
        "    try: open_checkpoint(path)\n"
        "    except ModelInspectError: pass\n"
    )
    paths = [str(path) for path in tmp_path.glob("*.pt")]
    done = subprocess.run([sys.executable, "-c", program, *paths], env=environment(), check=False)
    assert done.returncode == 0


def test_a_record_that_inflates_without_end(tmp_path: Path) -> None:
    """A compressed pickle is read up to a limit that is named, and an honest one is read."""
    for size, error in ((1_000_000, None), (500_000_000, LimitError)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
            with out.open("archive/data.pkl", "w") as record:
                record.write(b"\x80\x02")
                for _ in range(size // 100_000):
                    record.write(b"N0" * 50_000)
                record.write(TENSOR + b".")
            out.writestr("archive/data/0", VALUES)
        if error is None:
            [row] = opened(buffer.getvalue(), tmp_path).table
            assert row.storage is not None
            assert row.storage.offset is None
        else:
            with pytest.raises(error, match="claims to unpack"):
                opened(buffer.getvalue(), tmp_path)


def test_a_compressed_pickle_of_too_many_objects(tmp_path: Path) -> None:
    """What a compressed pickle may make goes by its size in the file."""
    pickled = b"\x80\x02]" + (b"(" + b"\x8c\x02ab" * 1_000 + b"e") * 2_000 + TENSOR + b"."
    assert opened(archive(pickled), tmp_path).table
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", pickled)
        out.writestr("archive/data/0", VALUES)
    with pytest.raises(LimitError, match="objects that one of its compressed size may hold"):
        opened(buffer.getvalue(), tmp_path)


def test_long_texts_in_a_compressed_pickle_are_passed_over(tmp_path: Path) -> None:
    """The tensor behind a text of 5 MB is found, and a stream that ends early is damaged."""
    pickled = b"\x80\x02" + text("".join(map(str, range(900_000)))) + b"0" + TENSOR + b"."
    for size in (len(pickled), len(pickled) + 1):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr("archive/data.pkl", pickled)
            out.writestr("archive/data/0", VALUES)
            out.filelist[0].file_size = size
        if size == len(pickled):
            assert opened(buffer.getvalue(), tmp_path).table["tensor"].shape == (3,)
        else:
            with pytest.raises(DamagedFileError, match="does not unpack"):
                opened(buffer.getvalue(), tmp_path)


@pytest.mark.parametrize(
    ("version", "loads"), [(b"3\n", True), (b"10", True), (b"999\n", False), (b"x", False)]
)
def test_versions_of_archives(version: bytes, loads: bool, tmp_path: Path) -> None:
    """Of a version that torch refuses there is a note, and the tensors are read all the same."""
    raw = archive(b"\x80\x02" + TENSOR + b".", version=version)
    checkpoint = opened(raw, tmp_path)
    assert checkpoint.table["tensor"].shape == (3,)
    assert any("torch loads 1 to 10" in note for note in checkpoint.notes) is not loads
    try:
        torch.load(tmp_path / "x.pt")
    except RuntimeError:
        assert not loads
    else:
        assert loads


def test_names_in_notes_are_few(tmp_path: Path) -> None:
    """Of thousands of sections only some are named."""
    parts = (text(f"ema_{number}") + b"}" + text("w") + TENSOR + b"s" for number in range(3_000))
    checkpoint = opened(archive(b"\x80\x02" + dictionary(*parts) + b"."), tmp_path)
    assert len(checkpoint.tables) == 3_000
    assert any(note.endswith("and 2,991 more") for note in checkpoint.notes)
    assert sum(map(len, checkpoint.notes)) < 1_000


def test_two_paths_that_read_the_same(tmp_path: Path) -> None:
    """``{"a.b": x, "a": {"b": y}}`` gives rows of two names."""
    inner = dictionary(text("b"), TENSOR)
    checkpoint = opened(
        archive(b"\x80\x02" + dictionary(text("a.b"), TENSOR, text("a"), inner) + b"."), tmp_path
    )
    assert [row.name for row in checkpoint.table] == ["a.b", "a.b (2)"]


def test_tensors_whose_bytes_are_not_their_values(tmp_path: Path) -> None:
    """A tensor that torch conjugates or negates when it is read is not called strided."""
    numbers = torch.ones(3, dtype=torch.complex64)
    path = tmp_path / "x.pt"
    torch.save({"conj": numbers.conj(), "neg": numbers.clone().conj().imag, "plain": numbers}, path)
    assert [row.layout for row in open_checkpoint(str(path)).table] == ["conjugate", "negative", "strided"]


# -- tensors that lie -----------------------------------------------------------------------


def tensor(
    storage: bytes = STORAGE, offset: bytes = b"K\0", size: bytes = b"K\3\x85", stride: bytes = b"K\1\x85"
) -> bytes:
    """A call of _rebuild_tensor_v2 with parts replaced."""
    hooks = b"\x89ccollections\nOrderedDict\n)RtR"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + hooks


LIES = {
    "a million axes": (
        tensor(
            size=b"(" + b"\x8a\x08" + b"\xff" * 7 + b"\x7f" + b"2" * 999_999 + b"t",
            stride=b"(" + b"K\0" * 1_000_000 + b"t",
        ),
        "make no sense",
    ),
    "too long": (tensor(size=b"K\4\x85"), "reaches beyond its storage"),
    "an offset beyond": (tensor(offset=b"K\1"), "reaches beyond its storage"),
    "a stride beyond": (tensor(stride=b"K\2\x85"), "reaches beyond its storage"),
    "a negative size": (tensor(size=b"J\xff\xff\xff\xff\x85"), "make no sense"),
    "a negative stride": (tensor(stride=b"J\xff\xff\xff\xff\x85"), "make no sense"),
    "a negative offset": (tensor(offset=b"J\xff\xff\xff\xff"), "make no sense"),
    "elements without number": (
        tensor(
            size=b"\x8a\x08" + b"\xff" * 7 + b"\x7f" + b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x86",
            stride=b"K\0K\0\x86",
        ),
        "reaches beyond its storage",
    ),
    "a size that is a text": (tensor(size=text("3") + b"\x85"), "make no sense"),
    "a size that is a float": (tensor(size=b"G" + struct.pack(">d", 3.0) + b"\x85"), "make no sense"),
    "more sizes than strides": (tensor(size=b"K\1K\3\x86"), "make no sense"),
    "no storage": (tensor(storage=b"N"), "has no storage"),
    "a storage that is a number": (tensor(storage=b"K\1Q"), "something other than a storage"),
    "a record that is not there": (tensor(storage=STORAGE.replace(b"\x000X", b"\x007X")), "is missing"),
    "a record of another size": (
        tensor(storage=STORAGE.replace(b"K\x03t", b"K\x04t")),
        "the pickle claims 16",
    ),
    "a type of nobody": (tensor(storage=STORAGE.replace(b"FloatStorage", b"FlotStorage")), "unknown type"),
    "a type that is called": (
        tensor(storage=STORAGE.replace(b"ctorch\nFloatStorage\n", b"K\1")),
        "no known type",
    ),
    "a key that is a list": (tensor(storage=STORAGE.replace(b"X\1\0\0\x000", b"]")), "no number"),
    "no arguments": (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "make no sense"),
    "an argument that is no tuple": (b"ctorch._utils\n_rebuild_tensor_v2\nK\1R", "make no sense"),
    "a parameter of nothing": (b"ctorch._utils\n_rebuild_parameter\nN\x88N\x87R", "no tensor"),
    "a layout of nobody": (
        b"ctorch._utils\n_rebuild_sparse_tensor\nctorch.serialization\n_get_layout\n"
        + text("x")
        + b"\x85R)\x86R",
        "is not known",
    ),
    "a data type of nobody": (
        b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(K\1))\x89tR",
        "data type is not known",
    ),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_tensors_that_lie(lie: str, tmp_path: Path) -> None:
    """The error names the tensor and what is wrong with it."""
    call, expected = LIES[lie]
    raw = archive(b"\x80\x02}" + text("net.weight") + call + b"s.")
    with pytest.raises(DamagedFileError) as caught:
        opened(raw, tmp_path)
    assert expected in str(caught.value)
    assert "net.weight" in str(caught.value)


# -- archives that lie ----------------------------------------------------------------------


def good() -> bytes:
    """An archive of one tensor, written by torch."""
    buffer = io.BytesIO()
    torch.save({"w": torch.tensor([1.0, 2.0, 3.0])}, buffer)
    return buffer.getvalue()


def records(raw: bytes) -> list[tuple[str, bytes]]:
    """Names and contents."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive_:
        return [(name, archive_.read(name)) for name in archive_.namelist()]


def packed(entries: list[tuple[str, bytes]]) -> bytes:
    """An archive of those records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        for name, content in entries:
            out.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("copies", range(2, 7))
@pytest.mark.parametrize("first", [False, True])
def test_of_records_with_one_name_the_one_that_torch_takes(copies: int, first: bool, tmp_path: Path) -> None:
    """Which of several torch takes depends on their number; it is followed, and they are reported."""
    entries = records(good())
    doubles = [("archive/data/0", struct.pack("<3f", number, 0, 0)) for number in range(1, copies)]
    head, *rest = entries
    raw = packed([head, *doubles, *rest] if first else [*entries, *doubles])
    checkpoint = opened(raw, tmp_path)
    [row] = checkpoint.table
    assert row.extent is not None
    [found] = struct.unpack_from("<f", raw, row.extent.offset)
    assert found == torch_truth.loaded(tmp_path / "x.pt")["w"][0]
    assert any("more than once" in note for note in checkpoint.notes)


def test_names_in_another_case(tmp_path: Path) -> None:
    """Torch finds DATA.PKL, and so it is read."""
    raw = packed([(name.upper(), content) for name, content in records(good())])
    [row] = opened(raw, tmp_path).table
    assert row.shape == (3,)
    assert torch_truth.loaded(tmp_path / "x.pt")["w"].shape == (3,)


def test_disagreements_are_notes(tmp_path: Path) -> None:
    """Where another reader would see another archive, a note says so."""
    raw = good()
    local = raw.index(b"archive/data.pkl")
    renamed = raw[:local] + b"archive/data.txt" + raw[local + 16 :]
    cases = {
        "has another name in its local header": renamed,
        "1,000 bytes follow the end": raw + b"x" * 1000,
        "lies outside the folder": packed([*records(raw), ("other/data.pkl", b"N.")]),
        "stand before the archive": b"PK\3\4" + b"x" * 100 + raw,
        "is marked as encrypted": raw[:6] + bytes([raw[6] | 1]) + raw[7:],
        "belong to no tensor": packed([*records(raw), ("archive/data/7", b"12345678")]),
        "bytes follow the pickle": packed(
            [(name, content + b"N." if name.endswith("pkl") else content) for name, content in records(raw)]
        ),
    }
    central = raw.index(b"PK\1\2")
    encrypted = bytearray(raw)
    encrypted[central + 8] |= 1
    cases["is marked as encrypted"] = bytes(encrypted)
    for expected, changed in cases.items():
        checkpoint = opened(changed, tmp_path)
        assert [row.name for row in checkpoint.table] == ["w"], expected
        assert any(expected in note for note in checkpoint.notes), expected
    assert opened(raw, tmp_path).notes == ()


def test_a_byteorder_of_nobody(tmp_path: Path) -> None:
    """Torch refuses it, and so it is an error; big-endian is said."""
    entries = records(good())
    for order, expected in ((b"big", "big-endian"), (b"middle", "byte order")):
        raw = packed([(name, order if name.endswith("byteorder") else content) for name, content in entries])
        if order == b"middle":
            with pytest.raises(DamagedFileError, match=expected):
                opened(raw, tmp_path)
        else:
            checkpoint = opened(raw, tmp_path)
            assert any(expected in note for note in checkpoint.notes)
            [row] = checkpoint.table
            assert row.storage is not None
            assert row.storage.byteorder == "big"


def test_more_than_65535_records(tmp_path: Path) -> None:
    """An archive with a zip64 end is read whole."""
    values = {str(number): torch.zeros(1) for number in range(66_000)}
    path = torch_truth.save(values, tmp_path / "x.pt")
    assert path.read_bytes()[-200:].count(b"PK\6\6") == 1
    assert len(open_checkpoint(str(path)).table) == 66_000


OTHER_ARCHIVES = {
    "TorchScript archive of torch 1.0": [("m/model.json", b"{}"), ("m/tensors/0", bytes(4))],
    "Keras model": [("metadata.json", b"{}"), ("config.json", b"{}"), ("model.weights.h5", b"")],
    "Office document": [("[Content_Types].xml", b""), ("word/document.xml", b"")],
    "weights/best.pt inside": [("weights/best.pt", b""), ("README", b"")],
    "is a zip archive": [("a/b.txt", b"hello")],
}


@pytest.mark.parametrize("kind", list(OTHER_ARCHIVES))
def test_other_archives_are_named(kind: str, tmp_path: Path) -> None:
    """A zip archive of something else: the error says of what."""
    with pytest.raises(UnrecognisedFileError, match=kind):
        opened(packed(OTHER_ARCHIVES[kind]), tmp_path)


# -- truncated and damaged ------------------------------------------------------------------


def checkpoints() -> dict[str, tuple[Any, bool]]:
    """Small files with something of everything."""
    channels = torch.quantize_per_channel(torch.randn(2, 3), torch.ones(2), torch.zeros(2), 0, torch.qint8)
    value = {
        "model": {"w": torch.nn.Parameter(torch.zeros(2, 2)), "later": torch.zeros(2, dtype=torch.uint16)},
        "net": torch.nn.Linear(1, 2),
        "parts": [torch.eye(2).to_sparse(), channels],
        "epoch": 3,
    }
    # That layout can't say the one, and keeps the source of every class beside the other.
    old = {**value, "model": {"w": torch.zeros(2, 2)}, "net": {}}
    return {"zip": (value, False), "legacy": (old, True)}


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_truncated_at_every_byte(kind: str, protocol: int, tmp_path: Path) -> None:
    """Always an error of ours that says where and what, never a result."""
    value, legacy = checkpoints()[kind]
    raw = torch_truth.save(value, tmp_path / "whole.pt", legacy=legacy, protocol=protocol).read_bytes()
    for length in range(len(raw)):
        with pytest.raises(ModelInspectError) as caught:
            opened(raw[:length], tmp_path)
        assert caught.value.details


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bit_flipped_in_every_byte(kind: str, protocol: int, tmp_path: Path) -> None:
    """A checkpoint or an error of ours, nothing else."""
    value, legacy = checkpoints()[kind]
    raw = torch_truth.save(value, tmp_path / "whole.pt", legacy=legacy, protocol=protocol).read_bytes()
    chance = random.Random(1)
    refused = 0
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << chance.randrange(8)
        try:
            checkpoint = opened(bytes(damaged), tmp_path)
            assert len(list(checkpoint.section("all"))) >= 0
        except ModelInspectError:
            refused += 1
    assert 0 < refused < len(raw)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_a_truncated_file_lacks_is_named(legacy: bool, tmp_path: Path) -> None:
    """The first tensor whose bytes are not all there is named, wherever the file is cut."""
    value = {f"layer.{number}.weight": torch.zeros(100) for number in range(10)}
    path = torch_truth.save(value, tmp_path / "x.pt", legacy=legacy)
    raw = path.read_bytes()
    ends = {row.name: row.extent[1] + row.extent[2] for row in open_checkpoint(str(path)).table if row.extent}
    for length in range(min(ends.values()) - 400, len(raw), 7):
        with pytest.raises(DamagedFileError) as caught:
            opened(raw[:length], tmp_path)
        lacking = [name for name, end in ends.items() if end > length]
        named = [line for line in caught.value.details if "layer." in line]
        assert len(named) == bool(lacking)
        if lacking:
            assert f"'{lacking[0]}'" in named[0]
            assert "cut off or missing" in named[0]


def test_random_opcodes(tmp_path: Path) -> None:
    """Ten thousand random programs of the stack machine: a result or an error of ours."""
    chance = random.Random(2)
    pieces = [
        TENSOR,
        STORAGE,
        b"(",
        b"t",
        b"]",
        b"}",
        b")",
        b"R",
        b"b",
        b"s",
        b"u",
        b"a",
        b"e",
        b"0",
        b"1",
        b"2",
        b"N",
        b"q\0",
        b"h\0",
        b"\x94",
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x81",
        b"\x92",
        b"\x93",
        b"\x8f",
        b"\x90",
        b"\x91",
        b"K\1",
        b"o",
        b"Q",
        b"l",
        b"d",
        b"Pname\n",
        b"cx\ny\n",
        b"(ix\ny\n",
        text("state"),
        text("_modules"),
        text("_parameters"),
        text("model"),
        b"I1\n",
        b"S'a'\n",
        b"Va\\u1234\n",
        b"F1.5\n",
        b"g0\n",
        b"p1\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch\nSize\n",
        b"ctorch._tensor\n_rebuild_from_type_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch.nn.parameter\nUninitializedParameter\n",
        b".",
    ]
    results = 0
    for _ in range(10_000):
        program = b"\x80\x02" + b"".join(chance.choices(pieces, k=chance.randrange(1, 25))) + b"."
        try:
            opened(archive(program), tmp_path)
            results += 1
        except ModelInspectError:
            pass
    assert results > 500


# -- what is imported -----------------------------------------------------------------------


def environment() -> dict[str, str]:
    """The environment with the package on the path of a bare interpreter."""
    import modelinspect

    return {**os.environ, "PYTHONPATH": str(Path(modelinspect.__file__).parents[1])}


def modules_after(program: str, path: Path) -> set[str]:
    """Names in sys.modules of a fresh process that ran the program on the path."""
    done = subprocess.run(
        [sys.executable, "-c", program + "\nimport sys\nprint(*sys.modules)", str(path)],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    )
    return set(done.stdout.split())


READ = """
import sys
from modelinspect.readers.registry import open_checkpoint
open_checkpoint(sys.argv[1]).table
"""


@pytest.mark.parametrize("legacy", [False, True])
def test_neither_torch_nor_numpy_nor_pickle_is_imported(legacy: bool, tmp_path: Path) -> None:
    """Reading a file leaves nothing behind in sys.modules that could run it."""
    path = torch_truth.save(checkpoints()["legacy"][0], tmp_path / "x.pt", legacy=legacy)
    assert not modules_after(READ, path) & {"torch", "numpy", "pickle", "zipfile", "safetensors"}


def test_the_test_above_can_fail(tmp_path: Path) -> None:
    """The same check finds numpy and pickle where a program imports them."""
    path = torch_truth.save({}, tmp_path / "x.pt")
    assert modules_after(READ + "import numpy, pickle", path) >= {"numpy", "pickle"}
