"""
Pickles, bare and in archives: every way to hide a call, and every way to cost much.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

from hostile.entry import Hostile, archive, one, opened, short, tensor, text

RUNS = (1, "executes-code")


def _state(*parts: bytes) -> bytes:
    """A pickle of a state_dict with one tensor; the parts are values of further keys."""
    out = b"\x80\x02}(" + text("w") + tensor()
    return out + b"".join(text(f"k{n}") + part for n, part in enumerate(parts)) + b"u."


def _bare(*parts: bytes, protocol: int = 2) -> bytes:
    """A pickle of a list of the parts."""
    return b"\x80" + bytes([protocol]) + b"](" + b"".join(parts) + b"e."


def _name(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


# Each is one value on the stack whose making runs the payload.
CALLS: dict[str, bytes | Callable[[str], bytes]] = {
    "REDUCE": opened,
    "REDUCE of os.system": lambda m: b"cos\nsystem\n" + text(f"touch {m}") + b"\x85R",
    "REDUCE of posix.system": lambda m: b"cposix\nsystem\n" + text(f"touch {m}") + b"\x85R",
    "REDUCE of exec": lambda m: b"cbuiltins\nexec\n" + text(f"open({m!r}, 'w')") + b"\x85R",
    "REDUCE of builtins.eval": lambda m: b"cbuiltins\neval\n" + text(f"open({m!r}, 'w')") + b"\x85R",
    "REDUCE of subprocess": lambda m: b"csubprocess\ncheck_call\n](" + text("touch") + text(m) + b"e\x85R",
    "REDUCE of pathlib": lambda m: (
        b"cpathlib\nPath.touch\ncpathlib\nPosixPath\n" + text(m) + b"\x85R\x85R"
    ).replace(b"cpathlib\nPath.touch\n", _name("pathlib", "Path.touch")),
    "REDUCE of logging.FileHandler": lambda m: b"clogging\nFileHandler\n" + text(m) + b"\x85R",
    "REDUCE of shutil": lambda m: b"cshutil\ncopy\n" + text("/dev/null") + text(m) + b"\x86R",
    "REDUCE of numpy": lambda m: b"cnumpy\nsavetxt\n" + text(m) + b"](K\0e\x86R",
    "REDUCE of runpy": lambda m: b"crunpy\n_run_code\n" + text(f"open({m!r}, 'w')") + b"}\x86R",
    "INST": lambda m: b"(" + text(m) + text("w") + b"iio\nopen\n",
    "OBJ": lambda m: b"(cio\nFileIO\n" + text(m) + text("w") + b"o",
    "NEWOBJ": lambda m: (b"\x80\x02cplanted_new\nMarked\n" + text(m) + b"\x85\x81")[2:],
    "NEWOBJ_EX": lambda m: b"cplanted_new\nMarked\n" + text(m) + b"\x85}\x92",
    "STACK_GLOBAL": lambda m: _name("io", "open") + text(m) + text("w") + b"\x86R",
    "STACK_GLOBAL out of the memo": lambda m: (
        short("io") + b"q\xc80" + short("open") + b"q\xc90h\xc8h\xc9\x93" + text(m) + text("w") + b"\x86R"
    ),
    "STACK_GLOBAL of unicode text": lambda m: (
        b"Vi\\u006f\n" + b"Vope\\u006e\n" + b"\x93" + text(m) + text("w") + b"\x86R"
    ),
    "a dotted name": lambda m: _name("torch.serialization", "io.open") + text(m) + text("w") + b"\x86R",
    "a dotted name of an understood class": lambda m: (
        _name("collections", "_sys.modules.__class__") + b")R0" + opened(m)
    ),
    "popped": lambda m: opened(m) + b"0N",
    "popped with its mark": lambda m: b"(" + opened(m) + b"1N",
    "duplicated": lambda m: opened(m) + b"20",
    "overwritten in the memo": lambda m: opened(m) + b"q\xc80Nq\xc80h\xc8",
    "in a key": lambda m: b"}" + opened(m) + b"Ns",
    "in a set": lambda m: b"\x8f(" + opened(m) + b"\x90",
    "in a frozen set": lambda m: b"(" + opened(m) + b"\x91",
    "as the function of a call": lambda m: b"cbuiltins\nid\n" + opened(m) + b"\x85R",
    "in BUILD's state": lambda m: b"ccollections\nOrderedDict\n)R" + opened(m) + b"0}b",
    "getattr": lambda m: (
        b"cbuiltins\ngetattr\ncio\n__class__\n0cio\nBytesIO\n" + text("__class__") + b"\x86R0" + opened(m)
    ),
    "map": lambda m: (
        b"cbuiltins\nlist\ncbuiltins\nmap\ncbuiltins\nexec\n](" + text(f"open({m!r}, 'w')") + b"e\x86R\x85R"
    ),
    "functools.partial": lambda m: b"cfunctools\npartial\ncio\nopen\n" + text(m) + text("w") + b"\x87R)R",
    "functools.reduce": lambda m: b"cfunctools\nreduce\ncio\nopen\n](" + text(m) + text("w") + b"e\x86R",
    "operator.methodcaller": lambda m: (
        b"coperator\nmethodcaller\n" + text("touch") + b"\x85Rcpathlib\nPosixPath\n" + text(m) + b"\x85R\x85R"
    ),
    "pickle.loads": lambda m: (
        b"cpickle\nloads\nB" + struct.pack("<I", len(_bare(opened(m)))) + _bare(opened(m)) + b"\x85R"
    ),
    "_pickle.loads of text": lambda m: (
        b"c_pickle\nloads\nc_codecs\nencode\n"
        + text((b"cio\nopen\n(V" + m.encode() + b"\nVw\ntR.").decode("latin1"))
        + text("latin1")
        + b"\x86R\x85R"
    ),
    "SETITEM of an object with __setitem__": lambda m: b"cplanted_new\nSets\n)R" + text(m) + b"Ns",
    "APPEND to an object": lambda m: b"cplanted_new\nSets\n)R" + text(m) + b"a",
    "APPENDS with extend": lambda m: b"cplanted_new\nSets\n)R(" + text(m) + b"e",
    "ADDITEMS to an object": lambda m: b"cplanted_new\nSets\n)R(" + text(m) + b"\x90",
    "BUILD with __setstate__": lambda m: b"cplanted_new\nSets\n)R" + text(m) + b"b",
    "BUILD of a class's slots": lambda m: (
        b"cplanted_new\nMarked\nN}" + text("put") + b"cio\nopen\ns\x86b0" + opened(m)
    ),
    "an import that runs": b"cplanted\nx\n",
    "an import that runs, by STACK_GLOBAL": _name("planted", "x"),
    "an import that runs, popped": b"cplanted\nx\n0N",
    "a submodule that runs": b"cplanted.sub\nx\n",
}
_UNKNOWN = ("planted", "SETITEM", "APPEND", "ADDITEMS", "BUILD with", "an import", "a submodule", "NEWOBJ")


def _rule(name: str) -> str:
    return "unknown-global" if name.startswith(_UNKNOWN) else "executes-code"


def _of_calls() -> list[Hostile]:
    """Each call bare, in an archive beside a tensor, and in the old layout."""
    entries = []
    for name, call in CALLS.items():
        scan = (1, _rule(name))
        said = (0, "would import or call: ")
        entries.append(one(f"pickle: {name}", partial(_alone, call), said, scan, "x.pkl", runs=True))
        entries.append(one(f"archive: {name}", partial(_beside, call), (0, "3"), scan))
    return entries


def _alone(call: bytes | Callable[[str], bytes], marker: str) -> bytes:
    return _bare(call if isinstance(call, bytes) else call(marker), protocol=4)


def _beside(call: bytes | Callable[[str], bytes], marker: str) -> bytes:
    return archive(_state(call if isinstance(call, bytes) else call(marker)))


_HONEST = b"\x80\x02}" + text("a") + b"K\1s."
_BROKEN = (2, "damaged")
_DAMAGED = (1, "pickle-broken")
_NOTHING = (0, "nothing found in")
_LIMIT = "claims more than is read"
_CUT = (2, "is truncated")


def _size(raw: bytes) -> bytes:
    return struct.pack("<I", len(raw)) + raw


def _framed(inner: bytes, rest: bytes) -> bytes:
    """A pickle whose frame ends where *rest* begins."""
    return b"\x80\x04\x95" + struct.pack("<Q", len(inner)) + inner + rest


def _laughs(make: Callable[[bytes], bytes], levels: int, first: bytes) -> bytes:
    """Each level holds the one before ten times."""
    out = first + b"q\0"
    for level in range(levels):
        out += make(b"h" + bytes([level])) + b"q" + bytes([level + 1])
    return out


def _list(get: bytes) -> bytes:
    return b"](" + get * 10 + b"e"


def _tuple(get: bytes) -> bytes:
    return b"(" + get * 10 + b"t"


def _key() -> bytes:
    """A tuple whose hash takes 2**100 steps."""
    out = b")"
    for level in range(100):
        out += b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86"
    return out


def _of_protocol(number: int, marker: str) -> bytes:
    return b"\x80" + bytes([number]) + opened(marker) + b"."


# Where a payload stands among other things: name, bytes, count, scan; loads runs it if *runs*.
def _placed_outcome(name: str) -> tuple[int, str]:
    if name.startswith("cut"):
        return _CUT
    if name.startswith(("broken", "an empty stack", "no memo", "bad", "a bad")):
        return _BROKEN
    if name.startswith(("behind another", "behind a thousand", "behind a pickle", "behind a gap")):
        return (0, "bytes follow the pickle")
    return (2, "is not a checkpoint") if name == "protocol 200" else (0, "would import or call: io.open")


def _placed() -> list[Hostile]:
    made: list[tuple[str, Callable[[str], bytes], tuple[int, str], bool]] = [
        (f"protocol {n}", partial(_of_protocol, n), RUNS, True) for n in range(2, 6)
    ]
    made += [
        ("protocol 0", lambda m: f"cio\nopen\n(V{m}\nVw\ntR.".encode(), RUNS, True),
        ("protocol 0, text in quotes", lambda m: f"cio\nopen\n(S'{m}'\nS'w'\ntR.".encode(), RUNS, True),
        ("protocol 200", lambda m: b"\x80\xc8" + opened(m) + b".", (1, "pickle-"), False),
        ("broken behind the payload", lambda m: b"\x80\x02" + opened(m) + b"\xff\xff.", RUNS, True),
        ("cut behind the payload", lambda m: b"\x80\x02" + opened(m), RUNS, True),
        (
            "cut in a text behind the payload",
            lambda m: b"\x80\x02" + opened(m) + b"X\xff\xff\xff\x7f",
            RUNS,
            True,
        ),
        ("an empty stack behind the payload", lambda m: b"\x80\x02" + opened(m) + b"000.", RUNS, True),
        ("no memo entry behind the payload", lambda m: b"\x80\x02" + opened(m) + b"h\x09.", RUNS, True),
        (
            "bad UTF-8 behind the payload",
            lambda m: b"\x80\x02" + opened(m) + b"X\2\0\0\0\xff\xfe.",
            RUNS,
            True,
        ),
        ("a bad number behind the payload", lambda m: b"\x80\x02" + opened(m) + b"Ixyz\n.", RUNS, True),
        ("a bad float behind the payload", lambda m: b"\x80\x02" + opened(m) + b"Fxyz\n.", RUNS, True),
        ("a bad text behind the payload", lambda m: b"\x80\x02" + opened(m) + b"S'\n.", RUNS, True),
        ("a persistent id behind the payload", lambda m: b"\x80\x02" + opened(m) + b"Q.", RUNS, True),
        ("an extension behind the payload", lambda m: b"\x80\x02" + opened(m) + b"\x82\xf0.", RUNS, True),
        (
            "a frame in a text",
            lambda m: _framed(b"N0X\x0a\0\0\0AAAAA", b"BBBBB" + opened(m) + b"."),
            RUNS,
            False,
        ),
        (
            "a frame in a name",
            lambda m: _framed(b"N0cio", b"\nopen\n" + text(m) + text("w") + b"\x86R."),
            (1, "executes-code"),
            False,
        ),
        (
            "a frame in a frame",
            lambda m: _framed(b"\x95" + struct.pack("<Q", 1) + b"N", b"0" + opened(m) + b"."),
            RUNS,
            False,
        ),
        ("a frame beyond the end", lambda m: b"\x80\x04\x95" + b"\xff" * 8 + opened(m) + b".", RUNS, False),
        ("an empty frame", lambda m: b"\x80\x04\x95" + bytes(8) + opened(m) + b".", RUNS, True),
        (
            "many empty frames",
            lambda m: b"\x80\x04" + (b"\x95" + bytes(8)) * 5_000 + opened(m) + b".",
            RUNS,
            True,
        ),
        ("a thousand protocol marks", lambda m: b"\x80\x04" * 1_000 + opened(m) + b".", RUNS, True),
        ("behind 300,000 opcodes", lambda m: b"\x80\x02" + b"N0" * 100_000 + opened(m) + b".", RUNS, True),
        (
            "behind 5 MB of text",
            lambda m: b"\x80\x02X" + _size(b"x" * 5_000_000) + b"0" + opened(m) + b".",
            RUNS,
            True,
        ),
        (
            "behind 5 MB of bytes",
            lambda m: b"\x80\x03B" + _size(b"." * 5_000_000) + b"0" + opened(m) + b".",
            RUNS,
            True,
        ),
        (
            "behind a line of 3 MB",
            lambda m: b"\x80\x02V" + b"x" * 3_000_000 + b"\n0" + opened(m) + b".",
            RUNS,
            True,
        ),
        (
            "behind 20 MB of nothing",
            lambda m: b"\x80\x02" + b"N0" * 10 + b"B" + _size(bytes(20_000_000)) + b"0" + opened(m) + b".",
            RUNS,
            True,
        ),
        (
            "behind an integer of 100 kB",
            lambda m: b"\x80\x02\x8b" + _size(b"\1" * 100_000) + b"0" + opened(m) + b".",
            RUNS,
            True,
        ),
        (
            "behind deep tuples",
            lambda m: b"\x80\x02N" + b"\x85" * 50_000 + b"0" + opened(m) + b".",
            RUNS,
            False,
        ),
        ("behind deep marks", lambda m: b"\x80\x02" + b"(" * 50_000 + opened(m) + b".", RUNS, True),
        (
            "behind a memo of 100,000",
            lambda m: b"\x80\x04N" + b"\x94" * 100_000 + opened(m) + b".",
            RUNS,
            True,
        ),
        ("behind another pickle", lambda m: _HONEST + b"\x80\x02" + opened(m) + b".", RUNS, False),
        (
            "behind a thousand pickles",
            lambda m: _HONEST * 1_000 + b"\x80\x02" + opened(m) + b".",
            RUNS,
            False,
        ),
        (
            "behind a pickle and zeros",
            lambda m: _HONEST + bytes(4_096) + b"\x80\x02" + opened(m) + b".",
            (1, "trailing-bytes"),
            False,
        ),
        (
            "behind a gap of 1 MB",
            lambda m: _HONEST + b"\xff" * 1_000_000 + b"\x80\x02" + opened(m) + b".",
            (1, "trailing-bytes"),
            False,
        ),
    ]
    return [
        one(f"placed: {name}", raw, _placed_outcome(name), scan, "x.pkl", runs=runs)
        for name, raw, scan, runs in made
    ]


# Name: the value, count of an archive with it beside a tensor, scan.
COSTS: dict[str, tuple[Callable[[], bytes], tuple[int, str], tuple[int, str]]] = {
    "laughing lists": (lambda: _laughs(_list, 60, b"N"), (0, "3"), _NOTHING),
    "laughing lists of a tensor": (lambda: _laughs(_list, 60, tensor()), (2, _LIMIT), _NOTHING),
    "laughing tuples": (lambda: _laughs(_tuple, 60, b"N"), (0, "3"), (1, "exhausts")),
    "a key that hashes for ever": (lambda: b"}" + _key() + b"Ns", (0, "3"), (1, "exhausts")),
    "a set that hashes for ever": (lambda: b"\x8f(" + _key() + b"\x90", (0, "3"), (1, "exhausts")),
    "a frozen set that hashes for ever": (lambda: b"(" + _key() + b"\x91", (0, "3"), (1, "exhausts")),
    "deep tuples": (lambda: b"N" + b"\x85" * 200_000, (0, "3"), _NOTHING),
    "deep lists": (lambda: b"]" * 100_000 + b"N" + b"a" * 100_000, (0, "3"), _NOTHING),
    "deep lists of a tensor": (lambda: b"]" * 30_000 + tensor() + b"a" * 30_000, (2, _LIMIT), _NOTHING),
    "deep dictionaries": (
        lambda: b"}K\0" * 50_000 + b"N" + b"s" * 50_000,
        (0, "3"),
        _NOTHING,
    ),
    "a list in itself": (lambda: b"]q\0h\0a", (0, "3"), _NOTHING),
    "a dictionary in itself": (lambda: b"}q\0" + text("a") + b"h\0s", (0, "3"), _NOTHING),
    "many lists": (lambda: b"](" + b"]" * 200_000 + b"e", (0, "3"), _NOTHING),
    "many numbers": (lambda: b"](" + b"K\1" * 200_000 + b"e", (0, "3"), _NOTHING),
    "a memo of 2**31": (lambda: b"Nr\xff\xff\xff\x7f", (2, _LIMIT), (1, "exhausts")),
    "a memo of 2**32": (lambda: b"Nr\xff\xff\xff\xff", (2, _LIMIT), (1, "exhausts")),
    "a memo of 10**40": (lambda: b"Np" + b"9" * 40 + b"\n", (2, _LIMIT), (1, "exhausts")),
    "a text of 4 GB": (lambda: b"X\xff\xff\xff\xffabc", _CUT, _DAMAGED),
    "a text of 2**63": (lambda: b"\x8d" + b"\xff" * 7 + b"\x7fabc", _CUT, _DAMAGED),
    "bytes of 2**64": (lambda: b"\x8e" + b"\xff" * 8 + b"abc", _CUT, _DAMAGED),
    "a byte array of 2**63": (lambda: b"\x96" + b"\xff" * 7 + b"\x7fabc", _CUT, _DAMAGED),
    "an integer of 2 GB": (lambda: b"\x8b\xff\xff\xff\x7fabc", _CUT, _DAMAGED),
    "an integer of negative length": (lambda: b"\x8b\xff\xff\xff\xffabc", _BROKEN, _DAMAGED),
    "bytes of negative length": (lambda: b"T\xff\xff\xff\xffabc", _CUT, _DAMAGED),
    "an integer of 1 MB": (lambda: b"\x8b" + _size(b"\1" * 1_000_000), (0, "3"), (1, "pickle-odd")),
    "a decimal of 3 MB": (lambda: b"L" + b"9" * 3_000_000 + b"L\n", (2, _LIMIT), (1, "exhausts")),
    "a decimal of 60 kB": (lambda: b"L" + b"9" * 60_000 + b"L\n", (0, "3"), (0, "nothing found in")),
    "a float of 1 MB": (lambda: b"F" + b"9" * 1_000_000 + b"\n", (2, _LIMIT), (1, "exhausts")),
    "a name of 5 MB": (lambda: b"c" + b"a" * 5_000_000 + b"\nx\n", (2, _LIMIT), (1, "exhausts")),
    "many names": (
        lambda: b"](" + b"".join(b"cm%x\nx\n" % n for n in range(40_000)) + b"e",
        (0, "3"),
        (1, "unknown-global"),
    ),
    "many calls": (lambda: b"cos\nsystem\n" + b")R" * 50_000, (0, "3"), RUNS),
    "many persistent ids": (lambda: b"](" + b"NQ" * 100_000 + b"e", (0, "3"), (1, "size-lie")),
    "persistent id of itself": (lambda: b"N" + b"Q" * 1_000, (0, "3"), (1, "size-lie")),
    "a persistent id as a line": (lambda: b"P" + b"x" * 900_000 + b"\n", (2, _LIMIT), (1, "exhausts")),
    "a key of 900 kB": (
        lambda: b"}" + text("k" * 900_000) + tensor() + b"s",
        (2, _LIMIT),
        (0, "nothing found in"),
    ),
    "a byte array asked for": (
        lambda: b"cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\1\x85R",
        (0, "3"),
        (1, "exhausts"),
    ),
    "a range made a list": (
        lambda: b"cbuiltins\nlist\ncbuiltins\nrange\nJ\xff\xff\xff\x7f\x85R\x85R",
        (0, "3"),
        (1, "exhausts"),
    ),
    "bytes multiplied": (
        lambda: b"coperator\nmul\n" + text("x") + b"\x8a\x06\0\0\0\0\0\1\x86R",
        (0, "3"),
        (1, "unknown-global"),
    ),
    "a power": (lambda: b"cbuiltins\npow\nK\xffJ\xff\xff\xff\x7f\x86R", (0, "3"), (1, "unknown-global")),
    "extension codes": (lambda: b"](\x82\1\x83\1\2\x84\1\2\3\4e", (0, "3"), (1, "extension")),
    "an extension code of 0": (lambda: b"\x82\0", (0, "3"), (1, "extension")),
    "a negative extension code": (lambda: b"\x84\xff\xff\xff\xff", (0, "3"), (1, "extension")),
    "out-of-band buffers": (lambda: b"](\x97\x97\x98e", (0, "3"), (1, "pickle-odd")),
    "a storage of -1 elements": (
        lambda: tensor(
            b"("
            + text("storage")
            + b"ctorch\nFloatStorage\n"
            + text("0")
            + text("cpu")
            + b"J\xff\xff\xff\xfftQ"
        ),
        _BROKEN,
        (1, "size-lie"),
    ),
    "a storage of 2**62 elements": (
        lambda: tensor(
            b"("
            + text("storage")
            + b"ctorch\nFloatStorage\n"
            + text("0")
            + text("cpu")
            + b"\x8a\x08"
            + bytes(7)
            + b"\x40tQ"
        ),
        (0, "named with two types or sizes"),
        (1, "size-lie"),
    ),
    "a storage of 10**1000 elements": (
        lambda: tensor(
            b"("
            + text("storage")
            + b"ctorch\nFloatStorage\n"
            + text("0")
            + text("cpu")
            + b"L1"
            + b"0" * 1_000
            + b"L\ntQ"
        ),
        _BROKEN,
        (1, "size-lie"),
    ),
    "a storage whose key leads out": (
        lambda: tensor(
            b"("
            + text("storage")
            + b"ctorch\nFloatStorage\n"
            + text("../../../etc/passwd")
            + text("cpu")
            + b"K\3tQ"
        ),
        _BROKEN,
        (1, "size-lie"),
    ),
    "a size of 2**63 squared": (
        lambda: tensor(size=(b"\x8a\x08" + b"\xff" * 7 + b"\x7f") * 2 + b"\x86", stride=b"K\0K\0\x86"),
        _BROKEN,
        (0, "nothing found in"),
    ),
    "a view beyond its storage": (lambda: tensor(offset=b"K\2"), _BROKEN, (0, "nothing found in")),
    "a negative stride": (lambda: tensor(stride=b"J\xff\xff\xff\xff\x85"), _BROKEN, (0, "nothing found in")),
    "a million axes": (
        lambda: tensor(size=b"(" + b"K\1" * 1_000_000 + b"t", stride=b"(" + b"K\1" * 1_000_000 + b"t"),
        _BROKEN,
        (0, "nothing found in"),
    ),
    "BUILD on a tuple": (lambda: b")}" + text("a") + b"Nsb", (0, "3"), (1, "pickle-odd")),
    "BUILD on a name": (lambda: b"ctorch\nTensor\n}" + text("a") + b"Nsb", (0, "3"), (1, "changes-global")),
    "BUILD with slots": (
        lambda: b"ccollections\nOrderedDict\n)RN}" + text("a") + b"Ns\x86b",
        (0, "3"),
        (0, "nothing found in"),
    ),
    "SETITEM on a tensor": (lambda: tensor() + b"K\0K\1s", (0, "3"), (0, "nothing found in")),
    "SETITEM on a list": (lambda: b"]K\0K\1s", (0, "3"), (1, "pickle-odd")),
    "APPEND to a name": (lambda: b"ctorch\nTensor\nNa", (0, "3"), (1, "changes-global")),
    "a surrogate in a key": (
        lambda: b"}X\3\0\0\0\xed\xa0\x80" + tensor() + b"s",
        (0, "3"),
        (0, "nothing found in"),
    ),
    "an odd codec": (
        lambda: b"c_codecs\nencode\n" + text("a" * 50_000) + text("idna") + b"\x86R",
        (0, "3"),
        (1, "exhausts"),
    ),
    "a codec of the zlib kind": (
        lambda: b"c_codecs\nencode\n" + text("a") + text("zlib_codec") + b"\x86R",
        (0, "3"),
        (1, "exhausts"),
    ),
    "no mark": (lambda: b"NNt", _BROKEN, _DAMAGED),
    "an unknown opcode": (lambda: b"\xff", _BROKEN, _DAMAGED),
    "a pop too many": (lambda: b"0000000000", _BROKEN, _DAMAGED),
}


def _beside_of(make: Callable[[], bytes]) -> bytes:
    return archive(_state(make()))


def _costly() -> list[Hostile]:
    return [
        one(f"cost: {name}", partial(_beside_of, make), count, scan, costly=True)
        for name, (make, count, scan) in COSTS.items()
    ]


ENTRIES: tuple[Hostile, ...] = (*_of_calls(), *_placed(), *_costly())
