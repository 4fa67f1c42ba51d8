"""
The stack machine says what CPython's unpickler makes, for every protocol and window.
"""

from __future__ import annotations

import collections
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelinspect.errors import DamagedFileError
from modelinspect.readers.parts import pickle_machine
from modelinspect.readers.parts.pickle_entries import call_entries
from modelinspect.readers.parts.pickle_machine import Feed, read_pickle
from modelinspect.readers.parts.pickle_symbols import Blob, Call, Global, Pickle, PickledDict, PickledSet

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def interpreted(raw: bytes, *, eager: bool = True) -> Pickle:
    """One pickle at the start of those bytes."""
    return read_pickle(Feed(lambda at, n: raw[at : at + n], len(raw), "test", eager))


def python(symbol: Any) -> Any:
    """Plain data made of symbols."""
    if isinstance(symbol, PickledDict):
        return {python(key): python(value) for key, value in symbol.pairs()}
    if isinstance(symbol, PickledSet):
        return frozenset(map(python, symbol.items))
    if isinstance(symbol, (list, tuple)):
        return type(symbol)(map(python, symbol))
    if isinstance(symbol, Call):
        return CALLS[symbol.func.name](symbol)
    return symbol


# What protocols 0 to 3 write with calls.
CALLS: dict[str, Callable[[Call], Any]] = {
    "set": lambda call: frozenset(map(python, call.args[0])),
    "frozenset": lambda call: frozenset(map(python, call.args[0])),
    "bytearray": lambda call: python(call.args[0]) if isinstance(call.args[0], (bytes, Call)) else b"",
    "bytes": lambda _: b"",
    "encode": lambda call: call.args[0].encode(call.args[1]),
    "complex": lambda call: complex(*call.args),
    "OrderedDict": lambda call: {
        python(key): python(value) for key, value in call_entries(call, lambda _: None)
    },
}

scalars = (
    st.none() | st.booleans() | st.integers() | st.integers(-(1 << 200), 1 << 200)
    | st.floats(allow_nan=False) | st.text(st.characters(), max_size=300) | st.binary(max_size=300)
    | st.complex_numbers(allow_nan=False)
)  # fmt: skip
keys = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=9)
    | st.tuples(st.integers(), st.text(max_size=3))
)
values = st.recursive(
    scalars | st.frozensets(keys) | st.sets(keys),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner) | st.tuples(inner),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(value=values, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    """Whatever is pickled in whatever protocol, the symbols stand for the same data."""
    raw = pickle.dumps(value, protocol)
    found = interpreted(raw + b"more")
    assert python(found.value) == value
    assert found.end == len(raw)
    assert not found.findings


@settings(max_examples=100, deadline=None)
@given(value=values, protocol=st.sampled_from(PROTOCOLS), step=st.integers(1, 40))
def test_windows_do_not_matter(value: Any, protocol: int, step: int) -> None:
    """However small the pieces are that a pickle is read in, the result is the same."""
    raw = pickle.dumps([value, "x" * 100, value, b"y" * 100], protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle_machine, "_FIRST_STEP", step)
        assert python(interpreted(raw, eager=False).value) == [value, "x" * 100, value, b"y" * 100]


@settings(max_examples=100, deadline=None)
@given(value=values, protocol=st.sampled_from(PROTOCOLS))
def test_the_end_is_where_pickletools_sees_it(value: Any, protocol: int) -> None:
    """Cut anywhere before STOP it is an error; the opcodes are those that pickletools lists."""
    raw = pickle.dumps(value, protocol)
    *_, (opcode, _, position) = pickletools.genops(raw)
    assert opcode.name == "STOP"
    assert position is not None
    assert interpreted(raw).end == position + 1
    for cut in range(0, len(raw), max(1, len(raw) // 20)):
        with pytest.raises(DamagedFileError):
            interpreted(raw[:cut])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_cyclic_objects_keep_their_identity(protocol: int) -> None:
    """What is one object in Python is one symbol."""
    shared: list[Any] = [1]
    cycle: list[Any] = [shared, shared, {"a": shared}]
    cycle.append(cycle)
    value = interpreted(pickle.dumps(cycle, protocol)).value
    assert value[0] is value[1]
    assert value[2].flat[1] is value[0]
    assert value[3] is value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_globals_are_named_where_they_stand(protocol: int) -> None:
    """Each name once, with the byte where it is first made."""
    raw = pickle.dumps([math.sin, collections.OrderedDict, math.sin], protocol)
    names = interpreted(raw).globals
    assert [name.dotted for name in names] == ["math.sin", "collections.OrderedDict"]
    opcodes = {position: opcode.name for opcode, _, position in pickletools.genops(raw)}
    assert all(opcodes[name.position] in {"GLOBAL", "STACK_GLOBAL"} for name in names)
    assert interpreted(raw).protocol == (protocol if protocol >= 2 else 0)


def test_old_opcodes() -> None:
    """Those that Python 2 wrote and that nothing writes any more."""
    cases: dict[bytes, Any] = {
        b"I01\n.": True,
        b"I00\n.": False,
        b"I12\n.": 12,
        b"L-12345678901234567890L\n.": -12345678901234567890,
        b"F-1.5\n.": -1.5,
        b"S'a\\x41\\n'\n.": "aA\n",
        b'S"it\'s"\n.': "it's",
        b"S'\\xc3\\xa9'\n.": "é",
        b"S'\\xe9'\n.": "é",
        b"Va\\u20ac\n.": "a€",
        b"T\3\0\0\0abc.": "abc",
        b"U\2\xc3\xa9.": "é",
        b"U\1\xe9.": "é",
        b"(I1\nI2\nl.": [1, 2],
        b"(S'a'\nI2\nd.": {"a": 2},
        b"(I1\nI2\nt.": (1, 2),
        b"]q\x05(K\1K\2eh\x05.": [1, 2],
        b"\x8a\x00.": 0,
        b"\x8a\x01\xff.": -1,
        b"\x8b\x02\x00\x00\x00\x00\x80.": -32768,
        b"K\x05K\x062\x87.": (5, 6, 6),
        b"((K\1K\x020tK\x07t.": ((1,), 7),
        b"K\x09(K\1K\x021.": 9,
        b"K\x03(00K\4.": 4,
    }
    for raw, expected in cases.items():
        assert python(interpreted(raw).value) == expected, raw
        if b"\\xe9" not in raw and b"\xe9" not in raw and raw != b"K\x03(00K\4.":
            assert pickle.loads(raw, encoding="utf-8") == expected, raw


def test_every_way_to_make_an_object() -> None:
    """INST, OBJ, REDUCE, NEWOBJ and NEWOBJ_EX keep the class, the arguments and how it was called."""
    ways = {
        b"(K\1K\2ia\nB\n.": 0x69,
        b"(ca\nB\nK\1K\2o.": 0x6F,
        b"ca\nB\nK\1K\2\x86R.": 0x52,
        b"ca\nB\nK\1K\2\x86\x81.": 0x81,
        b"ca\nB\nK\1K\2\x86}\x92.": 0x92,
        b"\x8c\1a\x8c\1B\x93K\1K\2\x86R.": 0x52,
    }
    for raw, how in ways.items():
        found = interpreted(raw)
        call = found.value
        assert (call.func.dotted, call.args, call.how) == ("a.B", (1, 2), how)
        assert found.calls == [call]


def test_what_is_done_to_an_object_is_kept() -> None:
    """States, items and entries given to an object after it was made."""
    call = interpreted(b"ca\nB\n)R}(K\1K\2ub(K\3K\4e(K\5K\6uK\7K\x08sK\x09a.").value
    assert [python(state) for state in call.states] == [{1: 2}]
    assert (call.items, call.flat) == ([3, 4, 9], [5, 6, 7, 8])


def test_calls_are_recorded_even_when_thrown_away() -> None:
    """A call whose result is popped is in the list of calls."""
    found = interpreted(b"cos\nsystem\nX\2\0\0\0id\x85R0N.")
    assert found.value is None
    assert [(call.func.dotted, call.args) for call in found.calls] == [("os.system", ("id",))]


def test_long_texts_are_a_blob() -> None:
    """Of a text of megabytes the place and the length are kept; it is not even fetched."""
    raw = pickle.dumps(["x" * 3_000_000, b"y" * 2_000_000, 5], 4)
    fetched: list[int] = []

    def fetch(at: int, n: int) -> bytes:
        fetched.append(n)
        return raw[at : at + n]

    text, data, five = read_pickle(Feed(fetch, len(raw), "test", eager=False)).value
    assert (text.kind, text.nbytes, data.kind, data.nbytes, five) == (
        "text",
        3_000_000,
        "bytes",
        2_000_000,
        5,
    )
    assert isinstance(text, Blob)
    assert raw[text.position :][:3] == b"xxx"
    assert raw[data.position - 1 :][:2] != b"yy"
    assert sum(fetched) < 600_000


def test_oddities_are_findings() -> None:
    """What no honest pickle does is said with its place."""
    cases = {
        b"\x80\x04\x95\x02\0\0\0\0\0\0\0N\x95\0\0\0\0\0\0\0\0.": "inside another frame",
        b"\x80\x04\x95\xff\0\0\0\0\0\0\0N.": "more than there are",
        b"\x82\x05.": "extension code 5",
        b"\x97.": "outside the pickle",
        b"N}b.": "a state is given to",
        b"ca\nB\nN}sN.": "",
    }
    for raw, expected in cases.items():
        if expected:
            [finding] = interpreted(raw).findings
            assert expected in finding.text


def test_an_unknown_global_is_a_name() -> None:
    """A global is neither imported nor looked up."""
    value = interpreted(b"cno.such.module\nNoSuchName\n.").value
    assert isinstance(value, Global)
    assert repr(value) == "<Global no.such.module.NoSuchName>"
