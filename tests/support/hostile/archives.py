"""
Zip and tar archives that lie, hide or unpack without end, and what torch keeps in them.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial

from hostile.entry import SOME, Hostile, Outcome, archive, one, opened, tensor, text, zipped

_RUNS = (1, "executes-code")
_NOTHING = (0, "nothing found in")
_THREE = (0, "3\n")
_GOOD = b"\x80\x02}" + text("w") + tensor() + b"s."


def _evil(marker: str) -> bytes:
    """A data.pkl with a tensor that runs the payload."""
    return b"\x80\x02}(" + text("w") + tensor() + text("x") + opened(marker) + b"u."


def _pickle(marker: str) -> bytes:
    return b"\x80\x02" + opened(marker) + b"."


def _replaced(raw: bytes, old: bytes, new: bytes, which: int = 0) -> bytes:
    """One of several places changed; ``-1`` is the last."""
    places = [at for at in range(len(raw)) if raw.startswith(old, at)]
    at = places[which]
    return raw[:at] + new + raw[at + len(old) :]


def _end(raw: bytes) -> int:
    return raw.rindex(b"PK\5\6")


def _with_end(raw: bytes, offset: int, form: str, value: int) -> bytes:
    """A field of the end record changed."""
    changed = bytearray(raw)
    struct.pack_into("<" + form, changed, _end(raw) + offset, value)
    return bytes(changed)


def _with_header(raw: bytes, magic: bytes, which: int, offset: int, form: str, value: int) -> bytes:
    """A field of a local or central header changed."""
    changed, at = bytearray(raw), -1
    for _ in range(which + 1):
        at = raw.index(magic, at + 1)
    struct.pack_into("<" + form, changed, at + offset, value)
    return bytes(changed)


_LOCAL, _CENTRAL = b"PK\3\4", b"PK\1\2"


def _hidden(marker: str) -> bytes:
    """A record between the others and the directory, which does not list it."""
    raw = archive(_GOOD)
    at = raw.index(_CENTRAL)
    local = zipped({"m/hidden.pkl": _pickle(marker)})
    moved = raw[:at] + local[: local.index(_CENTRAL)] + raw[at:]
    return _with_end(moved, 16, "L", moved.index(_CENTRAL))


def _end_in_comment(marker: str) -> bytes:
    """A whole archive in the comment of another."""
    inner = archive(_evil(marker))
    return _with_end(archive(_GOOD), 20, "H", len(inner)) + inner


def _nested(levels: int, marker: str) -> bytes:
    raw, name = _pickle(marker), "data.pkl"
    for level in range(levels):
        raw, name = zipped({name: raw}), f"{level}.zip"
    return raw


def _bomb(
    size: int, name: str = "m/data.pkl", first: bytes = b"\x80\x02", fill: bytes = b"N0" * 500_000
) -> bytes:
    """A record that unpacks to many zeros, or to many opcodes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(first) + b"".join(packer.compress(fill) for _ in range(size // 1_000_000))
    packed += packer.flush()
    raw = zipped({name: packed})
    total = len(first) + size // 1_000_000 * 1_000_000
    for magic, at in ((_LOCAL, 8), (_CENTRAL, 10)):
        raw = _with_header(raw, magic, 0, at, "H", 8)
        raw = _with_header(raw, magic, 0, at + 14, "L", total)
    return raw


def _claims(count: int) -> bytes:
    """A zip64 end record that claims many entries."""
    raw = archive(_GOOD)
    at, end = raw.index(_CENTRAL), _end(raw)
    size = end - at
    far = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    last = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return raw[:end] + far + locator + last


def _links(marker: str) -> bytes:
    """A record that is a symbolic link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        info = zipfile.ZipInfo("m/data/0")
        info.external_attr = 0o120777 << 16
        out.writestr("m/data.pkl", _GOOD)
        out.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def _many_records(count: int) -> bytes:
    return archive(_GOOD, **{f"data__{n}": b"" for n in range(1, count)})


def _many_claimed() -> bytes:
    """A directory of 20,000 entries, all of the same local record."""
    raw = zipped({"m/data.pkl": _GOOD})
    at = raw.index(_CENTRAL)
    entry = raw[at : _end(raw)]
    directory = entry * 20_000
    last = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 20_000, 20_000, len(directory), at, 0)
    return raw[:at] + directory + last


_SCRIPT = b'class Net(Module):\n  __parameters__ = ["w"]\n  __buffers__ = []\n  w : Tensor\n'


def _script(marker: str, where: str) -> bytes:
    """A TorchScript archive with the payload in one of its pickles."""
    honest = {
        "m/constants.pkl": b"\x80\x02).",
        "m/data.pkl": b"\x80\x02c__torch__\nNet\n)\x81}(" + text("w") + tensor() + b"ub.",
    }
    records = {**honest, "m/code/__torch__.py": _SCRIPT, "m/data/0": SOME, "m/version": b"3\n"}
    records[f"m/{where}"] = _evil(marker) if where == "data.pkl" else _pickle(marker)
    return zipped(records)


def _export(marker: str, where: str) -> bytes:
    """A torch.export archive whose pickled part is the payload."""
    config = {
        "config": {
            "w": {
                "path_name": "weight_0",
                "is_param": True,
                "use_pickle": where.endswith("weight_0"),
                "tensor_meta": {
                    "dtype": 7, "sizes": [{"as_int": 3}], "requires_grad": False, "device": {"type": "cpu"},
                    "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}, "layout": 7,
                },
            }
        }
    }  # fmt: skip
    records = {
        "m/archive_format": b"pt2", "m/archive_version": b"0", "m/.data/version": b"6\n",
        "m/byteorder": b"little", "m/models/model.json": b"{}", "m/data/weights/weight_0": SOME,
        "m/data/weights/model_weights_config.json": json.dumps(config).encode(),
        "m/data/constants/model_constants_config.json": b'{"config": {}}',
    }  # fmt: skip
    return zipped({**records, f"m/{where}": archive(_evil(marker))})


def _package(marker: str) -> bytes:
    return zipped({
        "p/.data/extern_modules": b"torch\n", "p/.data/python_version": b"3.11", "p/.data/version": b"6\n",
        "p/model/model.pkl": _pickle(marker), "p/model/net.py": f"open({marker!r}, 'w')\n".encode(),
    })  # fmt: skip


def _tar(members: dict[str, bytes], **special: tuple[bytes, str]) -> bytes:
    """A tar archive; *special* are members of another type with a link's name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
        for name, (kind, link) in special.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            out.addfile(info)
    return buffer.getvalue()


def _sized(field: bytes) -> bytes:
    """A tar archive whose only member has that size; the header's checksum is right."""
    raw = bytearray(_tar({"pickle": b"x"}))
    raw[124:136], raw[148:156] = field, b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


def _old_tar(where: str, marker: str) -> bytes:
    number, payload = b"\x80\x02K\0.", _pickle(marker)
    members = {
        "sys_info": b"\x80\x02}.",
        "pickle": b"\x80\x02}.",
        "tensors": number,
        "storages": number + b"\x80\x02].",
    }
    return _tar({**members, where: payload})


def _legacy(where: int, marker: str) -> bytes:
    """A file of torch before 1.6 with the payload in one of its five pickles."""
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    parts = [magic, b"\x80\x02M\xe9\x03.", b"\x80\x02}.", b"\x80\x02}.", b"\x80\x02]."]
    parts[where] = parts[where][:2] + opened(marker) + b"0" + parts[where][2:]
    return b"".join(parts)


def _swapped_names(marker: str) -> bytes:
    """The local header of the payload bears another name than the directory has."""
    raw = archive(_GOOD, notes=_pickle(marker))
    return _replaced(raw, b"m/notes", b"m/notez", 0)


Made = tuple[bytes | Callable[[], bytes] | Callable[[str], bytes], Outcome, Outcome]

_ARCHIVE = archive(_GOOD)
ZIPS: dict[str, Made] = {
    "sound": (_ARCHIVE, _THREE, _NOTHING),
    "a payload in data.pkl": (lambda m: archive(_evil(m)), _THREE, _RUNS),
    "a payload in DATA.PKL": (lambda m: zipped({"m/DATA.PKL": _evil(m), "m/data/0": SOME}), _THREE, _RUNS),
    "a payload in another record": (lambda m: archive(_GOOD, other__pkl=_pickle(m)), _THREE, _RUNS),
    "a payload without a suffix": (lambda m: archive(_GOOD, notes=_pickle(m)), _THREE, _RUNS),
    "a payload as a storage": (
        lambda m: zipped({"m/data.pkl": _GOOD, "m/data/0": SOME, "m/data/1": _pickle(m)}),
        _THREE,
        (1, "executes-code"),
    ),
    "a payload in the version": (
        lambda m: zipped({"m/data.pkl": _GOOD, "m/data/0": SOME, "m/version": _pickle(m)}),
        (0, "3\n"),
        _RUNS,
    ),
    "a deflated payload": (
        lambda m: zipped({"m/data.pkl": _evil(m), "m/data/0": SOME}, zipfile.ZIP_DEFLATED),
        _THREE,
        _RUNS,
    ),
    "a bzip2 payload": (
        lambda m: zipped({"m/data.pkl": _evil(m), "m/data/0": SOME}, zipfile.ZIP_BZIP2),
        (2, "is a damaged zip archive"),
        _RUNS,
    ),
    "an lzma payload": (
        lambda m: zipped({"m/data.pkl": _evil(m), "m/data/0": SOME}, zipfile.ZIP_LZMA),
        (2, "is a damaged zip archive"),
        _RUNS,
    ),
    "two records of a name": (
        lambda m: zipped({"m/data.pkl": _evil(m), "m/DATA.pkl": _GOOD, "m/data/0": SOME}),
        (0, "3\n"),
        (1, "zip-duplicate"),
    ),
    "a name in the local header alone": (_swapped_names, _THREE, (1, "zip-name")),
    "data.pkl in the local header alone": (
        _replaced(_ARCHIVE, b"m/data.pkl", b"m/data.pk1", 0),
        (0, "3\n"),
        (1, "zip-name"),
    ),
    "data.pkl in the directory alone": (
        _replaced(_ARCHIVE, b"m/data.pkl", b"m/data.pk1", -1),
        (2, "which this version does not read"),
        (1, "zip-name"),
    ),
    "a flag of encryption": (_with_header(_ARCHIVE, _CENTRAL, 0, 8, "H", 1), (0, "3\n"), (1, "zip-flags")),
    "a flag of encryption, local": (
        _with_header(_ARCHIVE, _LOCAL, 0, 6, "H", 1),
        (0, "3\n"),
        (1, "zip-flags"),
    ),
    "a payload with flags": (
        lambda m: _with_header(
            _with_header(archive(_evil(m)), _CENTRAL, 0, 8, "H", 0x61), _LOCAL, 0, 6, "H", 0x61
        ),
        (0, "3\n"),
        _RUNS,
    ),
    "another method in the local header": (
        _with_header(_ARCHIVE, _LOCAL, 0, 8, "H", 8),
        (0, "3\n"),
        (1, "zip-flags"),
    ),
    "an unknown method": (
        _with_header(_with_header(_ARCHIVE, _LOCAL, 0, 8, "H", 99), _CENTRAL, 0, 10, "H", 99),
        (2, "is a damaged zip archive"),
        (1, "not-looked-into"),
    ),
    "a wrong checksum": (lambda m: _with_header(archive(_evil(m)), _CENTRAL, 0, 16, "L", 1), _THREE, _RUNS),
    "a size of 4 GB": (
        _with_header(_ARCHIVE, _CENTRAL, 0, 24, "L", 0xFFFFFFFE),
        (2, "is a truncated or damaged zip archive"),
        (1, "zip-damaged"),
    ),
    "a packed size of 4 GB": (
        _with_header(_ARCHIVE, _CENTRAL, 0, 20, "L", 0xFFFFFFFE),
        (2, "is a truncated or damaged zip archive"),
        (1, "zip-damaged"),
    ),
    "sizes of 2**32 - 1 without zip64": (
        _with_header(_ARCHIVE, _CENTRAL, 0, 24, "L", 0xFFFFFFFF),
        (2, "is a truncated or damaged zip archive"),
        (1, "zip-damaged"),
    ),
    "an offset beyond the end": (
        _with_header(_ARCHIVE, _CENTRAL, 0, 42, "L", 0xFFFFFF),
        (2, "the local header of a record"),
        (1, "zip-damaged"),
    ),
    "an offset into another record": (
        lambda: _with_header(_ARCHIVE, _CENTRAL, 1, 42, "L", 0),
        (0, "3\n"),
        (1, "zip-name"),
    ),
    "a directory beyond the end": (
        _with_end(_ARCHIVE, 16, "L", 0xFFFFFF),
        (2, "is a truncated or damaged zip archive"),
        (1, "zip-damaged"),
    ),
    "a directory of 4 GB": (
        _with_end(_ARCHIVE, 12, "L", 0xFFFFFFFE),
        (2, "is a truncated or damaged zip archive"),
        (1, "zip-damaged"),
    ),
    "more entries than there are": (
        _with_end(_with_end(_ARCHIVE, 10, "H", 60_000), 8, "H", 60_000),
        (0, "3\n"),
        (1, "zip-count"),
    ),
    "fewer entries than there are": (
        _with_end(_with_end(_ARCHIVE, 10, "H", 1), 8, "H", 1),
        (0, "3\n"),
        (1, "zip-count"),
    ),
    "no entry claimed": (_with_end(_with_end(_ARCHIVE, 10, "H", 0), 8, "H", 0), (0, "3\n"), (1, "zip-count")),
    "10**6 entries claimed": (lambda: _claims(1_000_000), (0, "3\n"), (1, "zip-count")),
    "2**63 entries claimed": (lambda: _claims(1 << 63), (0, "3\n"), (1, "zip-count")),
    "20,000 entries of one record": (_many_claimed, (2, "record m/data/"), (1, "zip-duplicate")),
    "30,000 empty records": (lambda: _many_records(30_000), _THREE, (0, "nothing found in")),
    "a disk number": (_with_end(_ARCHIVE, 4, "H", 7), (0, "3\n"), (0, "nothing found in")),
    "a second end in the comment": (
        _end_in_comment,
        (2, "bytes of another zip archive stand before the one whose dire"),
        (1, "polyglot"),
    ),
    "a comment that lies": (_with_end(_ARCHIVE, 20, "H", 500), (0, "3\n"), (1, "zip-trailing")),
    "bytes behind": (_ARCHIVE + bytes(500), _THREE, (1, "zip-trailing")),
    "a payload behind": (lambda m: _ARCHIVE + _pickle(m), (0, "3\n"), _RUNS),
    "a payload before": (lambda m: _pickle(m) + _ARCHIVE, (0, "0\n"), _RUNS),
    "a payload before, as a program": (
        lambda m: f"#!/bin/sh\ntouch {m}\nexit\n".encode() + _ARCHIVE,
        (2, "is not a checkpoint this version can read"),
        (1, "polyglot"),
    ),
    "an archive behind an archive": (
        lambda m: _ARCHIVE + archive(_evil(m)),
        (2, "bytes of another zip archive stand before the one whose dire"),
        _RUNS,
    ),
    "a hidden record": (_hidden, _THREE, _RUNS),
    "two roots": (
        lambda m: zipped({"m/data.pkl": _GOOD, "m/data/0": SOME, "n/data.pkl": _evil(m)}),
        (0, "3\n"),
        _RUNS,
    ),
    "no root": (
        lambda m: zipped({"data.pkl": _evil(m), "data/0": SOME}),
        (2, "which this version does not read"),
        _RUNS,
    ),
    "a name that leads out": (
        zipped({"m/data.pkl": _GOOD, "m/data/0": SOME, "../../etc/x": b"1"}),
        _THREE,
        (1, "path-escape"),
    ),
    "an absolute name": (
        zipped({"m/data.pkl": _GOOD, "m/data/0": SOME, "/etc/x": b"1"}),
        _THREE,
        (1, "path-escape"),
    ),
    "a name with a drive": (
        zipped({"m/data.pkl": _GOOD, "m/data/0": SOME, "C:\\x": b"1"}),
        _THREE,
        (1, "path-escape"),
    ),
    "a symbolic link": (_links, (2, "the pickle claims"), (1, "size-lie")),
    "an empty name": (
        lambda: zipped({"m/data.pkl": _GOOD, "m/data/0": SOME, "?": b"1"}).replace(b"?", b"\0"),
        _THREE,
        (1, "zip-roots"),
    ),
    "a name of 60 kB": (
        zipped({"m/data.pkl": _GOOD, "m/data/0": SOME, "m/" + "x" * 60_000: b"1"}),
        _THREE,
        (0, "nothing found in"),
    ),
    "a name in no encoding": (
        lambda: zipped({"m/data.pkl": _GOOD, "m/data/0": SOME, "m/QQ": b"1"}).replace(b"m/QQ", b"m/\xff\xfe"),
        _THREE,
        (0, "nothing found in"),
    ),
    "archives inside each other": (partial(_nested, 5), (2, "which this version does not read"), _RUNS),
    "archives inside each other, too many": (
        partial(_nested, 30),
        (2, "which this version does not read"),
        (1, "not-looked-into"),
    ),
    "a bomb of 300 MB": (
        lambda: _bomb(300_000_000),
        (2, "record m/data.pkl claims to unpack to"),
        (1, "compression-bomb"),
    ),
    "a bomb beside data.pkl": (
        lambda: _bomb(100_000_000, "m/other.pkl", fill=bytes(1_000_000)),
        (2, "which this version does not read"),
        (1, "compression-bomb"),
    ),
    "only an end": (b"PK\5\6" + bytes(18), (2, "is a truncated or damaged zip archive"), (1, "zip-damaged")),
    "only a beginning": (
        b"PK\3\4" + bytes(50),
        (2, "is a truncated or damaged zip archive"),
        (1, "zip-damaged"),
    ),
    "cut in the directory": (
        _ARCHIVE[:-40],
        (2, "is a truncated or damaged zip archive"),
        (1, "zip-damaged"),
    ),
    "cut in a record, with a payload": (
        lambda m: archive(_evil(m))[:250],
        (2, "is a truncated or damaged zip archive"),
        (1, "executes-code"),
    ),
    "TorchScript, a payload in data.pkl": (partial(_script, where="data.pkl"), (0, "3\n"), _RUNS),
    "TorchScript, a payload in constants.pkl": (partial(_script, where="constants.pkl"), (0, "3\n"), _RUNS),
    "TorchScript, a payload in bytecode.pkl": (partial(_script, where="bytecode.pkl"), (0, "3\n"), _RUNS),
    "TorchScript, a payload in debug_pkl": (
        partial(_script, where="code/__torch__.py.debug_pkl"),
        (0, "3\n"),
        _RUNS,
    ),
    "TorchScript, a payload in extra": (partial(_script, where="extra/notes"), (0, "3\n"), _RUNS),
    "torch.export, a payload in sample_inputs": (
        partial(_export, where="data/sample_inputs/model.pt"),
        _THREE,
        _RUNS,
    ),
    "torch.export, a payload as a weight": (
        partial(_export, where="data/weights/weight_0"),
        (2, "is damaged"),
        _RUNS,
    ),
    "torch.export, a payload as a constant": (
        partial(_export, where="data/constants/custom_obj_0"),
        _THREE,
        _RUNS,
    ),
    "torch.export, a library": (
        lambda: _export("", "x").replace(b"m/x", b"m/x"),
        (0, "3\n"),
        (1, "executes-code"),
    ),
    "torch.export, old, a payload in its state": (
        lambda m: zipped(
            {
                "serialized_exported_program.json": b"{}",
                "serialized_state_dict.pt": archive(_evil(m)),
                "serialized_constants.pt": archive(_GOOD),
                "version": b"5.1",
            }
        ),
        (0, "3\n"),
        _RUNS,
    ),
    "torch.package": (_package, (0, "0\n"), _RUNS),
    "npz of objects": (
        lambda m: zipped(
            {
                "a.npy": b"\x93NUMPY\1\0"
                + struct.pack("<H", 70)
                + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(69)
                + b"\n"
                + _pickle(m)
            }
        ),
        (0, "0\n"),
        _RUNS,
    ),
}
OTHERS: dict[str, Made] = {
    **{
        f"tar of torch 0.1, a payload in {where}": (partial(_old_tar, where), said, _RUNS)
        for where, said in {
            "sys_info": (0, "0\n"),
            "pickle": (0, "io.open"),
            "tensors": (2, "its number of tensors is no number"),
            "storages": (2, "its number of storages is no"),
        }.items()
    },
    "a tar with a payload": (
        lambda m: _tar({"a/notes.txt": _pickle(m)}),
        (2, "which this version does not read"),
        _RUNS,
    ),
    "a tar that leads out": (
        _tar({"../../x": b"1"}),
        (2, "which this version does not read"),
        (1, "path-escape"),
    ),
    "a tar with a link": (
        _tar({"x": b"1"}, pickle=(tarfile.SYMTYPE, "/etc/passwd")),
        (2, "which this version does not read"),
        (1, "path-escape"),
    ),
    "a tar with a hard link": (
        _tar({"x": b"1"}, pickle=(tarfile.LNKTYPE, "../../etc/passwd")),
        (2, "which this version does not read"),
        (1, "path-escape"),
    ),
    "a tar with a device": (
        _tar({"x": b"1"}, pickle=(tarfile.CHRTYPE, "")),
        (2, "which this version does not read"),
        (1, "path-escape"),
    ),
    "a tar with a size of 8 GB": (
        lambda: _sized(b"77777777777\0"),
        (2, "a member of the archive"),
        (1, "size-lie"),
    ),
    "a tar with a negative size": (
        lambda: _sized(b"\xff" * 12),
        (2, "which this version does not read"),
        (1, "size-lie"),
    ),
    "a tar with 3,000 members": (
        lambda: _tar({f"m{n}": b"" for n in range(3_000)}),
        (2, "which this version does not read"),
        (0, "nothing found in"),
    ),
    **{
        f"torch before 1.6, a payload in pickle {where}": (partial(_legacy, where), (0, "io.open"), _RUNS)
        for where in range(5)
    },
    "gzip of a payload": (lambda m: gzip.compress(_pickle(m)), (2, "gzip"), _RUNS),
    "gzip of an archive": (lambda m: gzip.compress(archive(_evil(m))), (2, "gzip"), _RUNS),
    "gzip bomb": (lambda: gzip.compress(bytes(200_000_000), 9), (2, "gzip"), (1, "compression-bomb")),
    "gzip in gzip in gzip": (
        lambda m: gzip.compress(gzip.compress(gzip.compress(_pickle(m)))),
        (2, "gzip"),
        _RUNS,
    ),
    "zlib of a payload": (
        lambda m: zlib.compress(_pickle(m)),
        (2, "is not a checkpoint this version can read"),
        _RUNS,
    ),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c" + bytes(60), (2, "7-Zip"), (1, "not-looked-into")),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), (2, "HDF5"), (1, "not-looked-into")),
    "a program": (b"\x7fELF\2\1\1" + bytes(60), (2, "is a program or a shared library"), (1, "native-code")),
    "nothing at all": (b"", (2, "is empty"), (2, "is empty")),
    "one zero": (b"\0", (2, "which this version does not read"), (2, "is nothing that is looked into here")),
    "4 kB of zeros": (
        bytes(4_096),
        (2, "which this version does not read"),
        (2, "is nothing that is looked into here"),
    ),
    "4 kB of ones": (
        b"\xff" * 4_096,
        (2, "is not a checkpoint this version can read"),
        (2, "is nothing that is looked into here"),
    ),
    "a page": (
        b"<!DOCTYPE html><script>alert(1)</script>" + b" " * 100,
        (2, "which this version does not read"),
        (0, "nothing found in"),
    ),
    "a pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n",
        (2, "LFS"),
        (0, "nothing found in"),
    ),
}

_COSTLY = ("bomb", "20,000", "30,000", "10**6", "2**63")
ENTRIES: tuple[Hostile, ...] = tuple(
    one(f"{kind}: {name}", raw, count, scan, costly=any(word in name for word in _COSTLY))
    for kind, made in (("zip", ZIPS), ("other", OTHERS))
    for name, (raw, count, scan) in made.items()
)
