"""Hints, prefixes and orders: what is said of the two sides before anything is matched."""

from __future__ import annotations

import pytest

from modelinspect.dtypes import BY_NAME
from modelinspect.errors import UsageError
from modelinspect.tensors import ParameterTable, TensorInfo
from modelinspect.transplant.plan import Hint
from modelinspect.transplant.sides import check_hints, in_order_of, is_sorted, parse_hint, under_prefix


def table(*names: str, shape: tuple[int, ...] = (2,), **fields: object) -> ParameterTable:
    """Tensors that are alike but for their names."""
    rows = [TensorInfo(name, BY_NAME["float32"], shape, None) for name in names]
    return ParameterTable("net.py", rows, "file", **fields)  # type: ignore[arg-type]


SOURCE = table("embed.weight", "h.0.q.weight", "h.0.q.bias", "h.1.q.weight", "h.1.q.bias")
TARGET = table("tok.weight", "b.0.wq.weight", "b.0.wq.bias", "b.1.wq.weight", "b.1.wq.bias")


@pytest.mark.parametrize("text", ["", "a", "=b", "a=", "a.*=b", "a=b.*.*"])
def test_what_is_no_hint_is_refused(text: str) -> None:
    """A hint has two sides with as many stars."""
    with pytest.raises(UsageError, match="--map"):
        parse_hint(text)


@pytest.mark.parametrize(
    "text", ["h.*=b.*", "h.*.q=b.*.wq", "h.0.q=b.1.wq", "h.*.q.*=b.*.wq.*", "embed.weight=tok.weight"]
)
def test_hints_of_modules_and_of_tensors(text: str) -> None:
    """A glob names modules or tensors; a star is the same on both sides."""
    check_hints([parse_hint(text)], SOURCE, TARGET)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (Hint("g.*", "b.*"), "no name of net.py matches 'g.*'"),
        (Hint("h.*", "c.*"), "no name of net.py matches 'c.*'"),
        (Hint("*.weight", "b.*.wq"), "pairs nothing"),
    ],
)
def test_hints_that_say_nothing_are_refused(hint: Hint, said: str) -> None:
    """A slip in a name is an error that shows names that are there."""
    with pytest.raises(UsageError) as caught:
        check_hints([hint], SOURCE, TARGET)
    assert said in str(caught.value)


def test_a_prefix_is_a_module() -> None:
    """With or without its dot; half a module's name is none."""
    for prefix in ("h.1", "h.1."):
        assert [row.name for row in under_prefix(SOURCE, prefix, "--from-prefix")] == [
            "h.1.q.weight",
            "h.1.q.bias",
        ]
    assert under_prefix(SOURCE, "", "--from-prefix") is SOURCE
    with pytest.raises(UsageError, match=r"names begin with: embed\., h\."):
        under_prefix(SOURCE, "emb", "--from-prefix")


def test_sorted_names_are_no_order_of_registration() -> None:
    """A state_dict that safetensors loaded is sorted; one that a module made is not."""
    assert not is_sorted(SOURCE)
    assert is_sorted(table(*sorted(row.name for row in SOURCE)))
    assert is_sorted(table("h.2.bias", "h.2.weight", "h.10.bias", "h.10.weight"))
    assert not is_sorted(table("only"))


def test_a_checkpoint_in_the_order_of_its_definition() -> None:
    """Sorted rows get the order, the kinds and the modules that the definition knows; others don't."""
    definition = table("h.0.weight", "h.0.bias", modules={"": "Net", "h.0": "Linear"})
    found = in_order_of(table("h.0.bias", "h.0.weight"), definition)
    assert found is not None
    assert [row.name for row in found] == ["h.0.weight", "h.0.bias"]
    assert found.modules == {"": "Net", "h.0": "Linear"}
    assert all(row.declared for row in found)
    assert in_order_of(table("g.0.bias"), definition) is None
    assert in_order_of(table("h.0.bias", shape=(3,)), definition) is None
