"""Numbers as people read them, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.render.units import (
    long_bytes,
    long_count,
    parse_bytes,
    parse_count,
    ratio_text,
    shape_text,
    short_bytes,
    short_count,
)


@pytest.mark.parametrize(
    ("count", "short"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.0 K"),
        (1_049, "1.0 K"),
        (1_050, "1.1 K"),
        (999_949, "999.9 K"),
        (999_950, "1.0 M"),
        (124_439_808, "124.4 M"),
        (6_738_415_616, "6.7 B"),
        (652_061_347_840, "652.1 B"),
        (1_234_500_000_000_000, "1,234.5 T"),
    ],
)
def test_short_count(count: int, short: str) -> None:
    """One decimal, rounded half up, carried over to the next unit."""
    assert short_count(count) == short


def test_long_count_is_exact() -> None:
    """The full figure always stands there, the short one where it helps."""
    assert long_count(40) == "40"
    assert long_count(99_999) == "99,999"
    assert long_count(124_439_808) == "124,439,808 (124.4 M)"


@pytest.mark.parametrize(
    ("nbytes", "short", "long"),
    [
        (0, "0 B", "0 bytes"),
        (1, "1 B", "1 byte"),
        (1023, "1023 B", "1,023 bytes"),
        (1024, "1.0 KiB", "1,024 bytes (1.0 KiB)"),
        (1024**2 - 1, "1.0 MiB", "1,048,575 bytes (1.0 MiB)"),
        (3 * 1024**3, "3.0 GiB", "3,221,225,472 bytes (3.0 GiB)"),
        (5 * 1024**5, "5.0 PiB", "5,629,499,534,213,120 bytes (5.0 PiB)"),
    ],
)
def test_bytes(nbytes: int, short: str, long: str) -> None:
    """MiB and GiB are powers of 1024."""
    assert short_bytes(nbytes) == short
    assert long_bytes(nbytes) == long


@given(st.integers(10_000, 10**30))
def test_short_count_is_near(count: int) -> None:
    """The short form is within half of its last digit, however large the count."""
    figure, suffix = short_count(count).split(" ")
    unit = 1000 ** ("KMBT".index(suffix) + 1)
    whole, tenth = figure.replace(",", "").split(".")
    assert abs(10 * count - (int(whole) * 10 + int(tenth)) * unit) * 2 <= unit


def test_ratio_hides_nothing() -> None:
    """A share is not rounded to nothing or to all."""
    shown = [ratio_text(share) for share in (0.0, 1e-9, 0.0005, 0.5, 0.9994, 0.99999, 1.0)]
    assert shown == ["0.0%", "<0.1%", "0.1%", "50.0%", "99.9%", ">99.9%", "100.0%"]


def test_shapes() -> None:
    """Shapes look as in torch."""
    assert [shape_text(shape) for shape in ((), (13,), (13, 1))] == ["[]", "[13]", "[13, 1]"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1_000", 1000),
        ("1,234,567", 1_234_567),
        ("10k", 10_000),
        ("1M", 1_000_000),
        ("1.5B", 1_500_000_000),
        ("0.5 K", 500),
        (" 124.4 M ", 124_400_000),
        ("2t", 2 * 10**12),
    ],
)
def test_parse_count(text: str, count: int) -> None:
    """What people write for a count; 1M is 10⁶."""
    assert parse_count(text) == count


@given(st.integers(0, 10**18))
def test_parse_count_reads_what_is_shown(count: int) -> None:
    """Thousands separators of either sort are read back."""
    assert parse_count(f"{count:,}") == parse_count(f"{count:_}") == parse_count(str(count)) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a count; examples: 1000, 1,000, 10K, 1.5M, 7B"),
        ("many", "'many' is not a count; examples: 1000, 1,000, 10K, 1.5M, 7B"),
        ("-1", "'-1' is not a count; examples: 1000, 1,000, 10K, 1.5M, 7B"),
        ("1,5B", "'1,5B' is not a count; examples: 1000, 1,000, 10K, 1.5M, 7B"),
        ("1__0", "'1__0' is not a count; examples: 1000, 1,000, 10K, 1.5M, 7B"),
        ("1MiB", "'1MiB' is not a count; examples: 1000, 1,000, 10K, 1.5M, 7B"),
        ("١", "'١' is not a count; examples: 1000, 1,000, 10K, 1.5M, 7B"),
        ("1.5", "'1.5' is not a whole number"),
        ("1.2345K", "'1.2345K' is not a whole number"),
        ("9" * 50, f"'{'9' * 40}' is not a count; examples: 1000, 1,000, 10K, 1.5M, 7B"),
    ],
)
def test_parse_count_says_no(text: str, message: str) -> None:
    """What is no count is named, with examples of what is."""
    with pytest.raises(ValueError, match="is not") as caught:
        parse_count(text)
    assert str(caught.value) == message


def test_parse_bytes() -> None:
    """MB is 10⁶ and MiB 2²⁰; B is bytes, not billions."""
    assert parse_bytes("10B") == 10
    assert parse_bytes("10MB") == parse_bytes("10M") == 10_000_000
    assert parse_bytes("1.5GiB") == 3 * 2**29
    with pytest.raises(ValueError, match=r"^'7 Q' is not an amount of bytes; examples: 1000, 10MB, 1.5GiB$"):
        parse_bytes("7 Q")
