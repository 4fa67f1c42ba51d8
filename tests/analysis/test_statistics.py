"""Summaries: figures of numpy in float64 are the truth; parts merge into the whole."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from modelinspect.analysis import statistics
from modelinspect.analysis.statistics import (
    Moments,
    moments_of,
    moments_of_counts,
    summarise,
    summarise_all,
    summarise_files,
)
from modelinspect.analysis.summary import ValueSummary
from modelinspect.dtypes import dtype_named
from modelinspect.errors import DamagedFileError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Quantized, Storage, TensorInfo
from modelinspect.values import CHUNK_ELEMENTS, ReadFunction

Array = npt.NDArray[Any]


def stored(tensor: torch.Tensor, name: str = "w") -> tuple[TensorInfo, ReadFunction]:
    """A contiguous tensor as a row and a function that reads its bytes."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    dtype = dtype_named(str(tensor.dtype))
    row = TensorInfo(name, dtype, tuple(tensor.shape), Storage("f", name, 0, len(raw)))
    return row, reader(raw)


def reader(raw: bytes) -> ReadFunction:
    """Reads from memory, whatever the storage."""
    return lambda _, first, n: raw[first : first + n]


def truth(numbers: Array) -> dict[str, Any]:
    """The figures in float64, straight from their definitions."""
    finite = numbers[np.isfinite(numbers)]
    return {
        "minimum": finite.min().item() if finite.size else None,
        "maximum": finite.max().item() if finite.size else None,
        "mean": float(finite.mean()) if finite.size else None,
        "std": float(finite.std(ddof=1)) if finite.size > 1 else None,
        "zeros": int((numbers == 0).sum()),
        "nans": int(np.isnan(numbers).sum()),
        "infinities": int(np.isinf(numbers).sum()),
    }


def check(summary: ValueSummary, expected: dict[str, Any]) -> None:
    """Extremes and counts exact, moments to the rounding of float64."""
    for field in ("minimum", "maximum", "zeros", "nans", "infinities"):
        assert getattr(summary, field) == expected[field], field
    largest = max(abs(expected["minimum"] or 0), abs(expected["maximum"] or 0))
    for field in ("mean", "std"):
        found, wanted = getattr(summary, field), expected[field]
        assert (found is None) == (wanted is None)
        if wanted is not None:
            assert math.isclose(found, wanted, rel_tol=1e-12, abs_tol=1e-13 * largest), field


FLOATS = [
    "float64", "float32", "float16", "bfloat16",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip
INTEGERS = ["int64", "int32", "int16", "int8", "uint8"]


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS, "bool"])
def test_figures_of_every_type_of_number(name: str) -> None:
    """Two chunks and a bit of random numbers: the figures are those of all of them at once."""
    generator = torch.Generator().manual_seed(1)
    made = torch.randn(2 * CHUNK_ELEMENTS + 77, generator=generator).mul(9).to(getattr(torch, name))
    check(summarise(*stored(made)), truth(made.double().numpy()))


@pytest.mark.parametrize("name", FLOATS)
def test_all_patterns_of_random_bytes(name: str) -> None:
    """NaN and infinity are counted and left out of the figures; no bit pattern is trouble."""
    raw = np.random.default_rng(2).integers(0, 256, 8 * 3000, dtype=np.uint8)
    made = torch.from_numpy(raw).view(getattr(torch, name))
    if name == "float64":
        made = made[made.abs() < 1e100]
    check(summarise(*stored(made)), truth(made.double().numpy()))


def test_large_integers_are_exact() -> None:
    """The ends of an int64 come as integers, not as the nearest floats."""
    made = torch.tensor([2**63 - 1, -(2**63), 5] * 10)
    summary = summarise(*stored(made))
    assert (summary.minimum, summary.maximum) == (-(2**63), 2**63 - 1)
    assert type(summary.minimum) is int


def test_no_square_runs_over_or_under() -> None:
    """The spread of very large and very small numbers is a number, not infinity or zero."""
    for size in (1e308, 1e200, 1e-200, 5e-324):
        made = torch.tensor([size, -size] * 15, dtype=torch.float64)
        summary = summarise(*stored(made))
        assert summary.std == pytest.approx(size * math.sqrt(30 / 29))
        assert summary.mean == 0


def test_small_tensors_are_given_in_full() -> None:
    """Up to twenty values, in their shape; one more and there are none."""
    made = torch.arange(20, dtype=torch.bfloat16).reshape(4, 5)
    assert summarise(*stored(made)).values == made.tolist()
    assert summarise(*stored(torch.tensor(0.5))).values == 0.5
    assert summarise(*stored(torch.tensor([True, False]))).values == [True, False]
    assert summarise(*stored(torch.arange(21))).values is None
    assert summarise(*stored(torch.arange(21)), small=21).values == list(range(21))


def test_empty_tensors_have_no_figures() -> None:
    """No values, no figures, and however long the other axes claim to be, no list."""
    row, read = stored(torch.zeros(0, 4))
    summary = summarise(row._replace(shape=(2**50, 0)), read)
    assert summary == ValueSummary(0, None, None, None, None, 0, 0, 0)


def test_a_tensor_of_nothing_but_nan_and_infinity() -> None:
    """Counts, and no figures: there is no finite value."""
    summary = summarise(*stored(torch.tensor([math.nan] * 30 + [math.inf] * 20 + [-math.inf])))
    assert (summary.nans, summary.infinities, summary.zeros) == (30, 21, 0)
    assert (summary.minimum, summary.maximum, summary.mean, summary.std) == (None,) * 4


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", ["complex64", "complex128", "complex32"])
def test_complex_numbers_are_counted_only(name: str) -> None:
    """They have no order: zeros, NaN and infinity are counted, the rest is None with a reason."""
    parts = torch.tensor([[0, 0], [1, 2], [math.nan, 0], [math.inf, 1], [math.nan, math.inf], [0, -0.0]])
    made = torch.view_as_complex(parts).to(getattr(torch, name))
    summary = summarise(*stored(made), small=0)
    assert (summary.zeros, summary.nans, summary.infinities) == (2, 2, 1)
    assert (summary.minimum, summary.mean, summary.std, summary.values) == (None,) * 4
    assert "order" in summary.reason


def test_expanded_tensors_count_every_repetition() -> None:
    """What is stored once and repeated along an axis counts as often as torch sees it."""
    base = torch.tensor([0.0, 1.0, math.nan])
    row, read = stored(base)
    expanded = base.expand(100, 3)
    summary = summarise(row._replace(shape=(100, 3), explicit_stride=(0, 1)), read)
    check(summary, truth(expanded.double().numpy()))
    assert summary.numel == 300


def test_float4_counts_both_halves_of_a_byte() -> None:
    """The figures are of the numbers, twice as many as bytes."""
    raw = bytes([0x20, 0x7F]) * 20
    row = TensorInfo("w", dtype_named("float4_e2m1fn_x2"), (40,), Storage("f", "w", 0, 40))
    summary = summarise(row, reader(raw))
    assert (summary.numel, summary.zeros, summary.minimum, summary.maximum) == (80, 20, -6.0, 6.0)
    assert summary.mean == pytest.approx((0 + 1 - 6 + 6) / 4)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (TensorInfo("w", dtype_named("bits8"), (2,), Storage("f", "w", 0, 2)), "bit patterns"),
        (TensorInfo("w", dtype_named("float32"), (2,), None), "meta device"),
        (TensorInfo("w", dtype_named("float32"), (), None, layout="uninitialized"), "not initialised"),
        (TensorInfo("w", dtype_named("float32"), (2,), None, layout="sparse_coo"), "sparse_coo"),
        (TensorInfo("w", dtype_named("float32"), (2,), None, layout="wrapper", class_name="a.B"), "a.B"),
        (TensorInfo("w", dtype_named("float32"), (2,), Storage("f", "w", 0, 8), layout="nested"), "nested"),
    ],
)
def test_what_has_no_figures_says_why(row: TensorInfo, reason: str) -> None:
    """A reason instead of figures, and nothing is read."""
    summary = summarise(row, _unreadable)
    assert reason in summary.reason
    assert summary.mean is None


def _unreadable(storage: Storage, first: int, n: int) -> bytes:
    raise DamagedFileError("the disk is on fire", details=("all of it",))


def test_integers_of_a_quantized_tensor_say_what_they_are() -> None:
    """Figures are of the stored integers; the reason says so."""
    row = TensorInfo("w", dtype_named("qint8"), (3,), Storage("f", "w", 0, 3), layout="quantized")
    summary = summarise(row, reader(b"\xff\x00\x05"))
    assert (summary.minimum, summary.maximum, summary.values) == (-1, 5, [-1, 0, 5])
    assert "integers" in summary.reason


def test_figures_of_packed_weights_are_of_the_words() -> None:
    """Of as many as are stored, and the reason says so."""
    row = TensorInfo("w", dtype_named("int8"), (3,), Storage("f", "w", 0, 3))
    summary = summarise(row._replace(quantized=Quantized("X", (6,), 6, 4)), reader(b"\xff\x00\x05"))
    assert (summary.numel, summary.minimum, summary.values) == (3, -1, [-1, 0, 5])
    assert summary.reason == "the numbers that are stored, not what they stand for"


def test_composites_are_summarised_by_what_they_store() -> None:
    """A sparse tensor by its stored values, and said so; a per-channel quantized one by its integers."""
    values, read = stored(torch.tensor([0.0, 2.0, 4.0]), "values")
    indices = values._replace(name="indices", storage=None)
    sparse = values._replace(
        name="w", shape=(9, 9), storage=None, layout="sparse_coo", parts=(indices, values)
    )
    summary = summarise(sparse, read)
    assert (summary.numel, summary.zeros, summary.mean, summary.values) == (3, 1, 2.0, None)
    assert summary.reason == "of its 3 stored values; all others are zero"
    data = TensorInfo("data", dtype_named("qint8"), (2,), Storage("f", "d", 0, 2), layout="quantized")
    quantized = data._replace(name="w", storage=None, parts=(data,))
    assert summarise(quantized, reader(b"\xff\x01")).values == [-1, 1]
    told: list[tuple[int, int]] = []
    summarise_all([sparse], read, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (12, 12)


# ---------------------------------------------------------------- properties

NUMBERS = st.lists(st.one_of(st.floats(), st.floats(-10, 10), st.sampled_from([0.0, -0.0])), max_size=40)


@given(NUMBERS, NUMBERS, NUMBERS)
@example([1.7e308, -1.7e308], [1.7e308], [])
@example([5e-324], [0.0], [-5e-324])
def test_parts_merge_into_the_whole(a: list[float], b: list[float], c: list[float]) -> None:
    """The moments of three parts, merged in either order, are those of all numbers."""
    parts = [moments_of(np.array(part)) for part in (a, b, c)]
    whole = moments_of(np.array([*a, *b, *c]))
    for merged in (
        parts[0].merged(parts[1]).merged(parts[2]),
        parts[0].merged(parts[1].merged(parts[2])),
    ):
        _check_moments(merged, whole)


def _check_moments(found: Moments, expected: Moments) -> None:
    exact = ("finite", "minimum", "maximum", "zeros", "nans", "infinities")
    assert [getattr(found, name) for name in exact] == [getattr(expected, name) for name in exact]
    largest = max(abs(expected.minimum or 0), abs(expected.maximum or 0))
    slack = max(1e-13 * largest, 1e-322)
    assert math.isclose(found.mean, expected.mean, rel_tol=1e-12, abs_tol=slack)
    assert math.isclose(found.spread, expected.spread, rel_tol=1e-7, abs_tol=1e-7 * slack + slack)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=50))
def test_moments_equal_exact_arithmetic(numbers: list[float]) -> None:
    """Mean and spread agree with those computed in fractions, without any rounding."""
    exact = [Fraction(number) for number in numbers]
    mean = sum(exact) / len(exact)
    variance = sum((number - mean) ** 2 for number in exact) / len(exact)
    found = moments_of(np.array(numbers))
    largest = max(map(abs, numbers))
    assert math.isclose(found.mean, float(mean), rel_tol=1e-12, abs_tol=1e-14 * largest)
    assert math.isclose(found.spread, math.sqrt(float(variance)), rel_tol=1e-9, abs_tol=1e-14 * largest)


@given(st.lists(st.integers(0, 65535), max_size=80))
def test_counting_patterns_is_the_same_as_looking_at_each(patterns: list[int]) -> None:
    """A histogram of float16 patterns has the figures of the numbers themselves."""
    values = np.arange(65536, dtype=np.uint16).view(np.float16)
    counts = np.bincount(patterns, minlength=65536) if patterns else np.zeros(65536, np.int64)
    numbers = np.array(patterns, np.uint16).view(np.float16).astype(np.float64)
    _check_moments(moments_of_counts(values, counts), moments_of(numbers))


# --------------------------------------------------------------- many tensors


def test_tied_tensors_are_read_once() -> None:
    """Two names of one tensor: one reading, the same summary for both."""
    row, read = stored(torch.arange(1000.0))
    asked: list[int] = []

    def counted(storage: Storage, first: int, n: int) -> bytes | memoryview:
        asked.append(n)
        return read(storage, first, n)

    found = summarise_all([row, row._replace(name="tied")], counted)
    assert sum(asked) == 4000
    assert found["w"] is found["tied"]


def test_one_bad_tensor_does_not_hide_the_others() -> None:
    """What can't be read says why; the next tensor is read all the same."""
    good, read = stored(torch.ones(3), "good")

    def sometimes(storage: Storage, first: int, n: int) -> bytes | memoryview:
        return read(storage, first, n) if storage.key == "good" else _unreadable(storage, first, n)

    bad = good._replace(name="bad", storage=Storage("f", "bad", 0, 12))
    found = summarise_all([bad, good], sometimes)
    assert found["bad"].reason == "the disk is on fire; all of it"
    assert found["good"].mean == 1.0


def test_progress_ends_with_everything() -> None:
    """Bytes done never shrink and end at the bytes in all."""
    one, read = stored(torch.ones(3 * CHUNK_ELEMENTS), "w")
    told: list[tuple[int, int]] = []
    summarise_all([one], read, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert len(told) == 3
    assert told[-1] == (one.nbytes, one.nbytes)


def test_memory_is_a_chunk_however_large_the_tensor() -> None:
    """No read is larger than a chunk of elements."""
    row, read = stored(torch.zeros(CHUNK_ELEMENTS * 3 + 5, dtype=torch.float64))
    asked: list[int] = []

    def counted(storage: Storage, first: int, n: int) -> bytes | memoryview:
        asked.append(n)
        return read(storage, first, n)

    summarise(row, counted)
    assert max(asked) == CHUNK_ELEMENTS * 8
    assert sum(asked) == row.nbytes


def test_a_file_from_end_to_end(tmp_path: Path) -> None:
    """A safetensors file: every tensor's figures, read from the file."""
    path = tmp_path / "m.safetensors"
    made = {"a": torch.randn(40, 50), "b": torch.arange(7), "c": torch.randn(300).to(torch.bfloat16)}
    save_file(made, path)
    table = open_checkpoint(str(path)).table
    found = summarise_files(table)
    assert list(found) == ["a", "b", "c"]
    for name, tensor in made.items():
        check(found[name], truth(tensor.double().numpy()))
    assert list(summarise_files(table, [table["b"]])) == ["b"]


def test_reports_are_imported_without_numpy() -> None:
    """What lists, compares and selects never loads numpy; the same question finds it in statistics."""
    assert _loads_numpy("count", "listing", "fit", "selection", "summary") == "False"
    assert _loads_numpy("statistics") == "True"
    assert statistics.ValueSummary is ValueSummary


def _loads_numpy(*modules: str) -> str:
    imports = ", ".join(f"modelinspect.analysis.{module}" for module in modules)
    code = f"import sys, {imports}; print('numpy' in sys.modules)"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
