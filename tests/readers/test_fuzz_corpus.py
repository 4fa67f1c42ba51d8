"""
What fuzzing found, tried again; and random changes of honest files, tried each time anew.
"""

from __future__ import annotations

import random
from functools import cache

import fuzz_corpus
import fuzz_seeds
import fuzz_targets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

OPCODES = bytes(range(0x28, 0x7E)) + bytes(range(0x80, 0x99))


@cache
def _seeds(target: str) -> list[bytes]:
    return [data for name, data in fuzz_seeds.seeds() if name == target]


def test_the_corpus_is_of_the_targets() -> None:
    """Every parser that is fuzzed has kept inputs, and no input is of anything else."""
    assert {path.stem for path in fuzz_corpus.ARCHIVES.iterdir()} == set(fuzz_targets.TARGETS)


@pytest.mark.parametrize("target", list(fuzz_targets.TARGETS))
def test_kept_inputs_end_in_a_result_or_an_error_of_ours(target: str) -> None:
    """Inputs that once reached a new line, or broke one: nothing but errors of ours comes out."""
    inputs = list(fuzz_corpus.inputs(target))
    assert inputs
    for data in inputs:
        fuzz_targets.run(target, data)


@pytest.mark.parametrize("target", list(fuzz_targets.TARGETS))
def test_changed_seeds_end_in_a_result_or_an_error_of_ours(target: str) -> None:
    """Honest files with bytes changed, dropped, doubled: nothing but errors of ours comes out."""
    chance = random.Random(target)
    for data in _seeds(target)[:12]:
        for _ in range(40):
            changed = bytearray(data)
            for _ in range(chance.randrange(1, 4)):
                _change(changed, chance)
            fuzz_targets.run(target, bytes(changed))


def _change(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    match chance.randrange(4):
        case 0:
            data[at : at + 1] = chance.randbytes(1)
        case 1:
            del data[at : at + chance.choice((1, 2, 8, 64))]
        case 2:
            data[at:at] = data[at : at + chance.choice((1, 4, 32))]
        case _:
            data[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)))


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.one_of(st.sampled_from([bytes([op]) for op in OPCODES]), st.binary(max_size=6)), max_size=40)
)
def test_any_opcodes_in_any_order(pieces: list[bytes]) -> None:
    """Opcodes and arguments thrown together: nothing but errors of ours comes out."""
    fuzz_targets.run("pickle", b"".join(pieces))
    fuzz_targets.run("torch_pickle", b"".join(pieces) + b".")


@pytest.mark.parametrize("target", ["zip", "safetensors", "gguf"])
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_header_fields(target: str, data: st.DataObject) -> None:
    """Any bytes at any place of an honest file: nothing but errors of ours comes out."""
    seed = bytearray(data.draw(st.sampled_from(_seeds(target))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(seed) - 1))
        seed[at : at + 8] = data.draw(st.binary(max_size=8))
    fuzz_targets.run(target, bytes(seed))
