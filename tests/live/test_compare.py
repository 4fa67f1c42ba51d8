"""
Two models on one input: what both take, and what is said of their outputs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelinspect.errors import DefinitionError, UsageError
from modelinspect.live.activations import Prints, print_of, record
from modelinspect.live.compare import compare_models, flat_outputs, gaps, shared_inputs
from modelinspect.live.compare_settings import attention_numbers, differing_settings


class Tokens(nn.Module):
    """Takes tokens and what they belong to, under names of its own."""

    def __init__(self, words: int = 20) -> None:
        super().__init__()
        self.word, self.kind = nn.Embedding(words, 6), nn.Embedding(2, 6)

    def forward(self, ids: Tensor, segments: Tensor) -> Any:
        return self.word(ids) + self.kind(segments)


class Named(Tokens):
    """The same under other names, with a mask that hides nothing and segments last."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Any:
        assert attention_mask is None or attention_mask.all()
        found = self.word(input_ids)
        if token_type_ids is not None:
            found = found + self.kind(token_type_ids)
        return {"hidden": found, "loss": found.sum(), "past_key_values": [found]}


def test_arguments_are_found_by_what_their_names_say() -> None:
    """``ids`` and ``segments`` are ``input_ids`` and ``token_type_ids``, whatever the order."""
    one, other = Tokens(), Named()
    other.load_state_dict(one.state_dict())
    found = compare_models(one, other)
    assert found.equal
    assert found.gaps[0].target == "hidden"
    assert {"input_ids", "token_type_ids"} == set(found.input.target.kwargs)


def test_outputs_that_differ_are_measured() -> None:
    """The largest difference, in itself and as a share of the largest value."""
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    nn.init.constant_(one.weight, 1.0)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        other.bias.add_(0.5)
    (gap,) = compare_models(one, other).gaps
    assert gap.absolute == pytest.approx(0.5)
    assert gap.shape == (2, 2)
    assert not compare_models(one, other).equal
    assert compare_models(one, one).equal


def test_rounding_is_told_from_a_difference() -> None:
    """The same function in other steps is equal; one part in a hundred thousand is not."""
    linear = nn.Linear(64, 64)

    class Half(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.linear, self.factor = linear, factor

        def forward(self, x: Tensor) -> Any:
            return 2 * nn.functional.linear(x / 2 * self.factor, self.linear.weight, self.linear.bias / 2)

    assert compare_models(linear, Half(1.0)).equal
    assert not compare_models(linear, Half(1.00001)).equal
    assert compare_models(linear, Half(1.0)).dtype == "float64"


def test_a_batch_that_comes_second_is_tried() -> None:
    """One model has the batch first, the other the time: the plainest way that is equal is taken."""
    one, other = nn.GRU(5, 7, batch_first=True), nn.GRU(5, 7)
    other.load_state_dict(one.state_dict())
    found = compare_models(one, other)
    assert found.equal
    assert found.gaps[0].note == "its axes lie in another order"


def test_given_inputs_are_taken_by_both() -> None:
    """What a user spells is tried on both; a name only one knows is a position for the other."""
    one, other = Tokens(), Named()
    other.load_state_dict(one.state_dict())
    found = compare_models(one, other, inputs=["ids=int64[3,5]<20", "segments=int64[3,5]<2"])
    assert found.equal
    assert found.gaps[0].shape == (3, 5, 6)
    with pytest.raises(UsageError, match="can't be read"):
        compare_models(one, other, inputs=["3by5"])


def test_no_common_input_is_an_error_that_says_what_was_tried() -> None:
    """An image model and a table of words have nothing in common."""
    with pytest.raises(DefinitionError, match="both models take") as caught:
        shared_inputs(nn.Conv2d(3, 4, 3), nn.Embedding(5, 4))
    assert len(caught.value.details) >= 2
    assert caught.value.hint is not None


def test_one_word_is_not_preferred_to_several() -> None:
    """Inputs of one token show little: longer ones come first."""
    one, other = Tokens(20), Tokens(9)
    assert shared_inputs(one, other)[0].source.args[0].shape == (2, 8)


def test_outputs_are_paired_by_shape_and_nearness() -> None:
    """The order in which models return things does not matter, nor what only one returns."""
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    found = gaps({"first": a, "second": b, "more": torch.ones(4)}, (b, a))
    assert [(gap.source, gap.target, gap.absolute) for gap in found] == [
        ("second", "0", 0),
        ("first", "1", 0),
    ]
    assert gaps(a, torch.randn(5)) == ()
    assert [name for name, _ in flat_outputs({"loss": a.sum(), "x": [a, 3, None]})] == ["x.0"]


def test_values_that_are_not_finite_are_no_agreement() -> None:
    """NaN in one output alone is an infinite difference."""
    whole = torch.ones(3)
    broken = torch.tensor([1.0, float("nan"), 1.0])
    assert gaps(whole, broken)[0].relative == float("inf")
    assert gaps(broken, broken)[0].relative == 0


def test_prints_know_an_activation_in_any_layout() -> None:
    """Order and repetition don't matter; another scale or other values do."""
    x = torch.randn(2, 3, 4)
    known = Prints([print_of(x)], 1e-5)
    assert print_of(x.permute(2, 0, 1)) in known
    assert print_of(x.repeat(1, 2, 1)) in known
    assert print_of(x * 1.001) not in known
    assert print_of(torch.randn(2, 3, 4)) not in known
    assert print_of(torch.ones(8)) is None
    assert print_of(torch.arange(8)) is None
    assert print_of(torch.tensor([1.0, 2.0, 3.0, float("inf")])) is None


def test_recording_leaves_no_hook_and_stops_where_it_is_told() -> None:
    """Events come with places and parameters; a limit ends the run."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    batch = torch.randn(3, 4)
    tape = record(lambda: net(batch), net, inputs=True)
    assert [event.call.kind for event in tape.events] == ["addmm", "relu", "addmm"]
    assert [event.place for event in tape.events] == ["0", "1", "2"]
    assert tape.events[2].parameters == ("2.bias", "2.weight")
    assert list(tape.modules) == ["0", "1", "2", ""]
    assert torch.equal(tape.outputs, net(batch))
    short = record(lambda: net(batch), net, limit=2)
    assert short.outputs is None
    assert short.prints == tape.prints[:2]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_an_operation_is_made_instead_of_another() -> None:
    """A rewrite takes the tensors of one call and the rest of another."""
    net, other = nn.GELU(), nn.GELU(approximate="tanh")
    batch = torch.randn(3, 4)
    (ours,) = record(lambda: net(batch), net, inputs=True).events
    (theirs,) = record(lambda: other(batch), other, inputs=True).events
    tape = record(lambda: net(batch), net, rewrites={(ours.call, ""): theirs.call})
    assert torch.equal(tape.outputs, other(batch))
    assert theirs.call.settings() == {"approximate": "tanh"}


def test_settings_of_modules_that_correspond() -> None:
    """A different epsilon is one line, however many modules have it; 2 and (2, 2) are the same."""
    source = nn.Sequential(
        nn.LayerNorm(4, eps=1e-12), nn.LayerNorm(4, eps=1e-12), nn.Conv2d(3, 3, 3, stride=2)
    )
    target = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4), nn.Conv2d(3, 3, 3, stride=(2, 2)))
    assert differing_settings(source, target, {"0": "0", "1": "1", "2": "2"}) == (
        "eps 1e-12 in 0, 1e-05 in 0 and 1 more",
    )


def test_numbers_of_heads_are_read_from_attributes() -> None:
    """Modules say them under many names; booleans are no numbers."""
    module = nn.MultiheadAttention(8, 2)
    module.n_kv_heads, module.head_dim, module.heads = 1, 4, True  # type: ignore[assignment]
    counts, sizes = attention_numbers([module])
    assert set(counts) == {2, 1}
    assert set(sizes) == {4}
