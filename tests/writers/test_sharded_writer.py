"""
Sizes as people write them, and what goes into which shard.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.errors import UsageError
from modelinspect.writers.sharded import index_text, parse_size, split


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1GiB", 2**30), ("1.5GiB", 3 * 2**29), ("10 kb", 10_000),
        ("0.1TB", 10**11), ("1234", 1234), ("2G", 2 * 10**9), ("7B", 7), ("3Mi", 3 * 2**20),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    """Powers of 1000 without an i, of 1024 with one."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "5 apples", "0", "0.1", "1e9", "5GBB", "5ib\n5"])
def test_no_sizes(text: str) -> None:
    """What is none is said to be none."""
    with pytest.raises(UsageError, match="no size of a file"):
        parse_size(text)


@given(st.lists(st.integers(0, 10), min_size=1), st.integers(1, 12))
def test_parts_are_as_full_as_may_be(sizes: list[int], most: int) -> None:
    """In order, none too large but one that can't help it, none that could take the next one."""
    parts = split(sizes, most, lambda size: size)
    assert [size for part in parts for size in part] == sizes
    assert all(sum(part) <= most or len([size for size in part if size]) == 1 for part in parts)
    assert all(sum(part) + following[0] > most for part, following in pairwise(parts))


def test_names_that_json_can_not_have() -> None:
    """Half a surrogate pair is no text."""
    with pytest.raises(UsageError, match="UTF-8"):
        index_text({"\ud800": "model.bin"}, 1)
