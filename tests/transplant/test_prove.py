"""
Plans that are spoilt in one way or another, and what a run of both models makes of them.

The truth is what the plan was before; it holds where the outputs of both models are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from modelinspect.live.module_table import module_table
from modelinspect.transplant.plan import Assignment, Doubt, Label, Missing, Piece, Plan, Unused
from modelinspect.transplant.prove import prove
from modelinspect.transplant.transforms import parse_steps
from models import encoder_a, encoder_b

WIDTH, HEADS, BLOCKS = 24, 3, 2
Function = Callable[[Tensor], Tensor]


# ------------------------------------------------------------------------- models


def turned(x: Tensor, *, halves: bool) -> Tensor:
    """Rotary positions for (batch, heads, tokens, size), in halves or in pairs."""
    size = x.shape[-1]
    angles = torch.arange(x.shape[-2])[:, None] / 10.0 ** (torch.arange(size // 2) / 4)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    one, two = x.chunk(2, -1) if halves else (x[..., ::2], x[..., 1::2])
    first, second = one * cos - two * sin, one * sin + two * cos
    return torch.cat([first, second], -1) if halves else torch.stack([first, second], -1).flatten(-2)


def heads_of(x: Any) -> Any:
    """(batch, tokens, width) to (batch, heads, tokens, size)."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class Apart(nn.Module):
    """Attention with one layer each for q, k, v and the output."""

    def __init__(self, rotary: str = "") -> None:
        super().__init__()
        self.num_heads, self.rotary = HEADS, rotary
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Any:
        q, k, v = (heads_of(layer(x)) for layer in (self.q, self.k, self.v))
        if self.rotary:
            q, k = (turned(each, halves=self.rotary == "halves") for each in (q, k))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(1, 2).flatten(2))


class Fused(nn.Module):
    """Attention with q, k and v in one layer: stacked, or head by head."""

    def __init__(self, *, by_head: bool) -> None:
        super().__init__()
        self.n_head, self.by_head = HEADS, by_head
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Any:
        fused = self.qkv(x)
        if self.by_head:
            q, k, v = (each.transpose(1, 2) for each in fused.unflatten(-1, (HEADS, -1)).chunk(3, -1))
        else:
            q, k, v = map(heads_of, fused.chunk(3, -1))
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Conv1D(nn.Module):
    """A linear layer whose weight has its inputs first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(inputs, outputs)),
            nn.Parameter(torch.zeros(outputs)),
        )

    def forward(self, x: Tensor) -> Any:
        return x @ self.weight + self.bias


class Gated(nn.Module):
    """A gated feed-forward net."""

    def __init__(
        self, act: Function = functional.silu, layer: Callable[[int, int], nn.Module] = nn.Linear
    ) -> None:
        super().__init__()
        self.act = act
        self.gate, self.up = layer(WIDTH, 40), layer(WIDTH, 40)
        self.down = layer(40, WIDTH)

    def forward(self, x: Tensor) -> Any:
        return self.down(self.act(self.gate(x)) * self.up(x))


class Net(nn.Module):
    """Tokens to scores; every block is what ``mix`` and ``feed`` make."""

    def __init__(
        self,
        mix: Callable[[], nn.Module] = Apart,
        feed: Callable[[], nn.Module] = Gated,
        norm: Callable[[], nn.Module] = lambda: nn.LayerNorm(WIDTH),
        *,
        words: int = 50,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, WIDTH)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm1": norm(), "mix": mix(), "norm2": norm(), "feed": feed()})
            for _ in range(BLOCKS)
        )
        self.norm, self.head = norm(), nn.Linear(WIDTH, 7)

    def forward(self, tokens: Tensor) -> Any:
        x = self.embed(tokens)
        for block in self.blocks:
            parts: Any = block
            x = x + parts["mix"](parts["norm1"](x))
            x = x + parts["feed"](parts["norm2"](x))
        return self.head(self.norm(x))


class Offset(nn.Module):
    """A norm that keeps its weight less one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Any:
        return functional.rms_norm(x, (WIDTH,), eps=1e-6) * (1 + self.weight)


def rms() -> nn.Module:
    """A norm without a bias."""
    return nn.RMSNorm(WIDTH, eps=1e-6)


# -------------------------------------------------------------------------- plans

Rules = Mapping[str, Sequence[tuple[str, str]]]


def plan_of(
    source: nn.Module, target: nn.Module, rules: Rules | None = None, label: Label = "likely"
) -> Plan:
    """
    Equal names go together but where rules say otherwise.

    A rule gives for a part of a target's name its pieces: what stands for it in the source,
    and steps. Several pieces are joined by their rows.
    """
    ours, theirs = module_table(target, "target"), module_table(source, "source")
    assignments = []
    for row in ours:
        part = next((part for part in rules or {} if f".{part}." in f".{row.name}"), None)
        pieces = tuple(
            Piece(row.name.replace(part, name), parse_steps(steps))
            for name, steps in (rules or {})[part]
        ) if part else (Piece(row.name),)  # fmt: skip
        steps = parse_steps("cat(0, 1)") if len(pieces) > 1 else ()
        assignments.append(Assignment(row.name, pieces, steps, label, "names"))
    return Plan(theirs, ours, tuple(assignments))


def exchanged(plan: Plan, one: str, other: str) -> Plan:
    """Two parts of the target's names exchanged: what a matcher might have got wrong."""
    now = {each.target: each for each in plan.assignments}

    def partner(name: str) -> str:
        parts = name.split(".")
        return ".".join({one: other, other: one}.get(part, part) for part in parts)

    return replace(
        plan,
        assignments=tuple(
            now[partner(each.target)]._replace(target=each.target) for each in plan.assignments
        ),
    )


def sources(plan: Plan) -> dict[str, tuple[tuple[Piece, ...], Any]]:
    """Where each tensor comes from."""
    return {each.target: (each.pieces, each.steps) for each in plan.assignments}


def labels(plan: Plan) -> dict[str, Label]:
    """How sure each tensor is."""
    return {each.target: each.label for each in plan.assignments}


# -------------------------------------------------------------------------- tests


def test_twins_are_proven_but_for_key_biases() -> None:
    """Equal outputs prove every tensor that has an influence; a key's bias has none."""
    source, target = encoder_a.TextEncoder(), encoder_b.Classifier()
    names = {
        "tok": "word_embeddings", "pos": "position_embeddings", "ln0": "embedding_norm", "head": "classifier",
        "blocks": "encoder", "attn.wq": "attention.query", "attn.wk": "attention.key",
        "attn.wv": "attention.value", "attn.wo": "attention.dense", "ln1": "attention_norm",
        "mlp.0": "intermediate", "mlp.2": "output",
        "ln2": "output_norm",
    }  # fmt: skip
    theirs, ours = module_table(source, "a"), module_table(target, "b")
    assignments = []
    for row in ours:
        name = row.name
        for new, old in names.items():
            name = f".{name}".replace(f".{new}.", f".{old}.")[1:]
        assignments.append(Assignment(row.name, (Piece(name),), (), "ambiguous"))
    plan, proof = prove(Plan(theirs, ours, tuple(assignments)), source, target)
    assert proof.equal
    assert proof.activations == proof.agreeing > 20
    assert set(proof.unproven) == {"blocks.0.attn.wk.bias", "blocks.1.attn.wk.bias"}
    assert {name for name, label in labels(plan).items() if label == "likely"} == set(proof.unproven)
    assert set(labels(plan).values()) == {"proven", "likely"}
    assert any("wk.bias" in note for note in proof.notes)


@pytest.mark.parametrize(("one", "other"), [("q", "k"), ("v", "o"), ("norm1", "norm2"), ("gate", "up")])
def test_modules_of_one_shape_are_told_apart(one: str, other: str) -> None:
    """What a plan exchanged is put right in all blocks, by the activations that follow."""
    truth = plan_of(Net(), Net(), label="ambiguous")
    plan, proof = prove(exchanged(truth, one, other), Net(), Net())
    assert proof.equal
    assert sources(plan) == sources(truth)
    assert len(proof.settled) == 1
    assert labels(plan)["blocks.1.feed.down.weight"] == "proven"


def test_two_exchanges_and_a_third_are_undone() -> None:
    """Several wrong decisions are found one after the other, in order of execution."""
    truth = plan_of(Net(), Net())
    wrong = exchanged(exchanged(exchanged(truth, "q", "v"), "norm1", "norm2"), "gate", "up")
    plan, proof = prove(wrong, Net(), Net())
    assert proof.equal
    assert sources(plan) == sources(truth)


def test_rotary_rows_are_turned() -> None:
    """Rows of q and k that lie in halves in the source lie in pairs in the target."""
    source, target = Net(lambda: Apart("halves")), Net(lambda: Apart("pairs"))
    plan, proof = prove(plan_of(source, target), source, target)
    assert proof.equal
    assert {each.transform for each in plan.assignments if ".q." in each.target} == {"swap(0, 3, 2, 4)"}
    assert {each.transform for each in plan.assignments if ".v." in each.target} == {""}


@pytest.mark.parametrize("by_head", [False, True])
def test_layout_of_fused_rows_is_found(by_head: bool) -> None:
    """q, k and v as one tensor: stacked or head by head, whatever the plan said first."""
    source, target = Net(Apart), Net(lambda: Fused(by_head=by_head))
    rules = {"qkv": [("q", ""), ("k", ""), ("v", "")], "proj": [("o", "")]}
    plan, proof = prove(plan_of(source, target, rules), source, target)
    assert proof.equal
    joined = {str(each.steps[0]) for each in plan.assignments if "qkv" in each.target}
    assert joined == {"cat(0, 3)" if by_head else "cat(0, 1)"}


@pytest.mark.parametrize("by_head", [False, True])
def test_layout_of_split_rows_is_found(by_head: bool) -> None:
    """The same the other way round: ranges of one tensor, or of each head."""
    source, target = Net(lambda: Fused(by_head=by_head)), Net(Apart)
    rules = {
        "q": [("qkv", "take(0, 0, 24, 1)")], "k": [("qkv", "take(0, 24, 48, 1)")],
        "v": [("qkv", "take(0, 48, 72, 1)")], "o": [("proj", "")],
    }  # fmt: skip
    truth = plan_of(
        source, target, {name: [(f"mix.{s[0][0]}", s[0][1])] for name, s in _in_mix(rules).items()}
    )
    plan, proof = prove(truth, source, target)
    assert proof.equal
    queries = {each.transform for each in plan.assignments if ".q." in each.target}
    assert queries == {"take(0, 0, 8, 3)" if by_head else "take(0, 0, 24, 1)"}


def _in_mix(rules: Rules) -> Rules:
    return {f"mix.{name}": pieces for name, pieces in rules.items()}


def test_stacked_becomes_head_by_head() -> None:
    """One fused tensor to one of equal shape, in another layout."""
    source, target = Net(lambda: Fused(by_head=False)), Net(lambda: Fused(by_head=True))
    plan, proof = prove(plan_of(source, target), source, target)
    assert proof.equal
    assert {each.transform for each in plan.assignments if "qkv" in each.target} == {"swap(0, 1, 3, 3)"}


def test_square_weights_are_transposed() -> None:
    """A square weight says nothing by its shape: a run decides."""
    source = Net(lambda: nn.Sequential(Conv1D(WIDTH, WIDTH), nn.Tanh(), Conv1D(WIDTH, WIDTH)))
    target = Net(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)))
    plan, proof = prove(plan_of(source, target), source, target)
    assert proof.equal
    mixed = [each for each in plan.assignments if ".mix." in each.target and each.target.endswith("weight")]
    assert {each.transform for each in mixed} == {"transpose"}


def test_unit_offsets_of_norms_are_found() -> None:
    """Norms that keep their weight less one get one taken off."""
    source, target = Net(norm=rms), Net(norm=Offset)
    plan, proof = prove(plan_of(source, target), source, target)
    assert proof.equal
    norms = [each for each in plan.assignments if "norm" in each.target]
    assert {each.transform for each in norms} == {"add(-1)"}


def test_gates_of_a_recurrent_layer_are_reordered() -> None:
    """An LSTM written by hand has its gates in another order."""
    source, target = nn.LSTM(6, 8, batch_first=True), HandWritten(6, 8)
    plan, proof = prove(plan_of(source, target), source, target)
    assert proof.equal
    assert {each.transform for each in plan.assignments} == {"reorder(0, 0, 1, 3, 2)"}


class HandWritten(nn.Module):
    """Gates i, f, o, g where torch has i, f, g, o."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight_ih_l0 = nn.Parameter(torch.randn(4 * hidden, size))
        self.weight_hh_l0 = nn.Parameter(torch.randn(4 * hidden, hidden))
        self.bias_ih_l0, self.bias_hh_l0 = (nn.Parameter(torch.randn(4 * hidden)) for _ in range(2))

    def example_input(self) -> Tensor:
        return torch.randn(2, 5, 6)

    def forward(self, x: Tensor) -> Any:
        h = c = x.new_zeros(len(x), self.hidden)
        outputs = []
        for step in x.unbind(1):
            gates = step @ self.weight_ih_l0.T + self.bias_ih_l0 + h @ self.weight_hh_l0.T + self.bias_hh_l0
            i, f, o, g = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, 1)


def test_halves_of_a_fused_gate_are_exchanged() -> None:
    """Gate and up in one tensor, in either order."""
    source, target = Net(feed=lambda: Halves(first=True)), Net(feed=lambda: Halves(first=False))
    plan, proof = prove(plan_of(source, target), source, target)
    assert proof.equal
    assert {each.transform for each in plan.assignments if "both" in each.target} == {"reorder(0, 1, 0)"}


class Halves(nn.Module):
    """The gate is the first or the second half."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.both, self.down = nn.Linear(WIDTH, 80), nn.Linear(40, WIDTH)

    def forward(self, x: Tensor) -> Any:
        one, two = self.both(x).chunk(2, -1)
        return self.down(functional.silu(one) * two if self.first else functional.silu(two) * one)


def test_reversed_blocks_are_put_in_order() -> None:
    """Blocks that were matched from the wrong end."""
    truth = plan_of(Net(), Net())
    plan, proof = prove(exchanged(truth, "0", "1"), Net(), Net())
    assert proof.equal
    assert sources(plan) == sources(truth)


def test_a_left_over_tensor_fills_a_gap() -> None:
    """A target without a source takes the one of its shape that goes nowhere."""
    truth = plan_of(Net(), Net())
    gap = [each for each in truth.assignments if not each.target.startswith("head.bias")]
    missing = (Missing("head.bias", (7,), "no tensor is like it"),)
    holed = replace(
        truth, assignments=tuple(gap), missing=missing, unused=(Unused("head.bias", (7,), "left"),)
    )
    plan, proof = prove(holed, Net(), Net())
    assert proof.equal
    assert sources(plan) == sources(truth)
    assert not plan.missing
    assert not plan.unused


def without(plan: Plan, *parts: str, unused: str = "") -> Plan:
    """The plan without what it says of some targets, and with what it takes for them left over."""
    lost = [each for each in plan.assignments if any(f".{part}." in f".{each.target}." for part in parts)]
    kept = [each for each in plan.assignments if each not in lost]
    missing = [Missing(each.target, plan.target[each.target].shape, "no tensor is like it") for each in lost]
    spare = [Unused(row.name, row.shape, "left") for row in plan.source if f".{unused}." in f".{row.name}."]
    return replace(plan, assignments=tuple(kept), missing=tuple(missing), unused=tuple(spare))


def test_parts_of_a_left_over_tensor_fill_gaps() -> None:
    """Three layers without a source, and one fused tensor that goes nowhere: which rows are whose."""
    source, target = Net(lambda: Fused(by_head=True)), Net(Apart)
    plan = without(plan_of(source, target, {"mix.o": [("mix.proj", "")]}), "q", "k", "v", unused="qkv")
    plan, proof = prove(plan, source, target)
    assert proof.equal
    assert not plan.missing
    assert not plan.unused
    assert {each.transform for each in plan.assignments if ".q." in each.target} == {"take(0, 0, 8, 3)"}
    assert [each.target for each in plan.assignments] == [row.name for row in plan.target]


class Stacked(nn.Module):
    """Layers of one tensor for each kind of weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 6)
        self.weight, self.bias = nn.Parameter(torch.randn(3, 6, 6)), nn.Parameter(torch.randn(3, 6))

    def forward(self, tokens: Tensor) -> Any:
        x = self.embed(tokens)
        for weight, bias in zip(self.weight, self.bias):
            x = x + (x @ weight + bias).tanh()
        return x


class Rows(nn.Module):
    """The same with a layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 6)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, tokens: Tensor) -> Any:
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x


def test_slices_of_a_stack_fill_layers() -> None:
    """One tensor for all layers becomes one each, transposed where that is what agrees."""
    source, target = Stacked(), Rows()
    ours, theirs = module_table(target, "target"), module_table(source, "source")
    missing = [Missing(row.name, row.shape, "none") for row in ours if "layers" in row.name]
    unused = [Unused(row.name, row.shape, "left") for row in theirs if row.name != "embed.weight"]
    embed = Assignment("embed.weight", (Piece("embed.weight"),))
    plan, proof = prove(Plan(theirs, ours, (embed,), tuple(missing), tuple(unused)), source, target)
    assert proof.equal
    assert plan.assignments[3].transform == "index(0, 1) | transpose"
    assert plan.assignments[4].transform == "index(0, 1)"


class Functional(nn.Module):
    """Everything in one module, without layers."""

    def __init__(self, order: Sequence[str] = ("a", "b", "c")) -> None:
        super().__init__()
        self.order = order
        self.table = nn.Parameter(torch.randn(20, 8))
        for name in ("a", "b", "c"):
            setattr(self, name, nn.Parameter(torch.randn(8, 8)))

    def example_input(self) -> Tensor:
        return torch.arange(12).reshape(2, 6)

    def forward(self, tokens: Tensor) -> Any:
        x = self.table[tokens]
        first, second, third = (getattr(self, name) for name in self.order)
        weights = (x @ first) @ (x @ second).transpose(1, 2)
        return weights.softmax(-1) @ (x @ third)


def test_models_without_layers_are_settled_too() -> None:
    """Bare parameters of one shape, used in another order."""
    source, target = Functional(), Functional(("c", "a", "b"))
    plan, proof = prove(plan_of(source, target), source, target)
    assert proof.equal
    taken = {each.target: each.sources[0] for each in plan.assignments}
    assert taken == {"table": "table", "c": "a", "a": "b", "b": "c"}


def test_heads_of_other_sizes_leave_the_body_proven() -> None:
    """Outputs that can't be compared: what leads to the last activation that agrees is proven."""
    source, target = Net(), Net()
    target.head = nn.Linear(WIDTH, 3)
    plan = without(plan_of(source, target), "head", unused="head")
    plan, proof = prove(plan, source, target)
    assert not proof.equal
    assert proof.outputs == ()
    assert labels(plan)["blocks.0.feed.gate.weight"] == "proven"
    assert labels(plan)["norm.weight"] == "likely"
    assert [each.name for each in plan.missing] == ["head.weight", "head.bias"]
    assert any("no two outputs have one shape" in note for note in proof.notes)


def test_doubts_that_are_settled_are_gone() -> None:
    """A doubt whose targets are proven is no doubt any more."""
    truth = plan_of(Net(), Net(), label="ambiguous")
    pair = ("blocks.0.mix.q.weight", "blocks.0.mix.k.weight")
    plan, _ = prove(replace(truth, doubts=(Doubt(pair, pair, "run both"),)), Net(), Net())
    assert not plan.doubts
    assert not plan.is_ambiguous


def test_an_epsilon_that_differs_is_named() -> None:
    """Every tensor is right and the outputs are not: the epsilons of both are said, and where."""
    source, target = (
        Net(norm=lambda: nn.LayerNorm(WIDTH, eps=1e-12)),
        Net(norm=lambda: nn.LayerNorm(WIDTH, eps=0.1)),
    )
    plan, proof = prove(plan_of(source, target), source, target)
    assert not proof.equal
    assert proof.equal_but_for
    assert proof.differences == ("eps 1e-12 in blocks.0.norm1, 0.1 in blocks.0.norm1",)
    assert labels(plan)["norm.weight"] == "proven"


def test_a_small_epsilon_is_named_too() -> None:
    """So little difference that no activation looks wrong."""
    source, target = (
        Net(norm=lambda: nn.LayerNorm(WIDTH, eps=1e-12)),
        Net(norm=lambda: nn.LayerNorm(WIDTH, eps=1e-4)),
    )
    _, proof = prove(plan_of(source, target), source, target)
    assert proof.equal_but_for
    assert len(proof.differences) == 1
    assert proof.differences[0].startswith("eps 1e-12 in blocks.0.norm1, 0.0001 in")


def test_an_activation_that_differs_is_named() -> None:
    """GELU and its approximation, or another function, with the modules where they run."""
    source = Net(feed=lambda: Gated(functional.gelu))
    target = Net(feed=lambda: Gated(lambda x: functional.gelu(x, approximate="tanh")))
    _, proof = prove(plan_of(source, target), source, target)
    assert proof.equal_but_for
    assert proof.differences == ("approximate none in blocks.0.feed, tanh in blocks.0.feed",)
    other = Net(feed=lambda: Gated(functional.relu))
    _, proof = prove(plan_of(source, other), source, other)
    assert proof.equal_but_for
    assert proof.differences == ("gelu in blocks.0.feed, relu in blocks.0.feed",)


def test_a_difference_and_a_wrong_assignment_are_both_found() -> None:
    """Another activation does not keep what lies behind it from being settled."""
    source, target = Net(feed=lambda: Gated(functional.gelu)), Net(feed=lambda: Gated(functional.relu))
    truth = plan_of(source, target)
    plan, proof = prove(exchanged(exchanged(truth, "gate", "up"), "q", "k"), source, target)
    assert proof.equal_but_for
    assert sources(plan) == sources(truth)


def test_what_nothing_mends_stays_as_it_was() -> None:
    """Two models that are not the same function: no row changes, and where they part is said."""
    source, target = Net(), Net(feed=Squared)
    before = plan_of(source, target)
    after, proof = prove(before, source, target)
    assert not proof.equal
    assert not proof.equal_but_for
    assert after.assignments == before.assignments
    assert proof.first_apart.startswith("blocks.0")
    assert any("blocks.0.feed" in note for note in proof.notes)


class Squared(Gated):
    """Another function of the same weights."""

    def forward(self, x: Tensor) -> Any:
        return self.down(self.gate(x).sin() + self.up(x) ** 2).cumsum(1)


def test_models_without_a_common_input_are_not_run() -> None:
    """A note says what each was tried with, and the plan is what it was."""
    before = plan_of(nn.Linear(3, 3), nn.Linear(3, 3))
    after, proof = prove(before, nn.Conv2d(3, 3, 3), nn.Embedding(5, 3))
    assert after == before
    assert not proof.equal
    assert proof.notes[0] == "not run: no input was found that both models take"
    assert len(proof.notes) > 1


def test_what_a_person_said_is_not_taken_back() -> None:
    """Other sources are tried for the rest alone, even where the outputs differ."""
    truth = plan_of(Net(), Net())
    wrong = exchanged(truth, "q", "k")
    said = [each._replace(label="certain", reason="as --map says") for each in wrong.assignments]
    plan, proof = prove(replace(wrong, assignments=tuple(said)), Net(), Net())
    assert not proof.equal
    assert proof.is_refuted
    assert sources(plan) == sources(wrong)


def test_a_checkpoint_of_another_class_is_noted() -> None:
    """The plan is proven with random weights; that the file's don't fit the class is said."""
    source, target = Net(), Net()
    weights = {name: value for name, value in Net(words=60).state_dict().items() if "embed" in name}
    _, proof = prove(plan_of(source, target), source, target, source_weights=weights)
    assert proof.equal
    _, proof = prove(plan_of(source, target), source, target, source_weights="nowhere.pt")
    assert proof.equal
    assert proof.own_outputs == ()
    assert proof.notes[-1].startswith("not run with the checkpoint's own weights")


class Choosy(nn.Module):
    """Runs with the weights that it was made with, and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        nn.init.ones_(self.linear.weight)

    def forward(self, x: Tensor) -> Any:
        if not (self.linear.weight == 1).all():
            raise ValueError("the weights must be 1")
        return self.linear(x)


class Held(nn.Module):
    """A layer in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x)


def test_a_model_that_fails_with_random_weights_is_noted() -> None:
    """Nobody's traceback, and the plan as it was."""
    source, target = Choosy(), Held()
    before = plan_of(source, target)
    after, proof = prove(before, source, target)
    assert after == before
    assert proof.notes[0] == "not run to the end: Choosy does not run"
    assert "ValueError: the weights must be 1" in proof.notes


def test_modules_are_left_as_they_were() -> None:
    """Weights, buffers, gradients, modes and generators: nothing of the run stays."""
    source, target = Net(), Net()
    source.train()
    state = {
        name: value.clone() for name, value in (*source.state_dict().items(), *target.state_dict().items())
    }
    mode, asks = source.training, [parameter.requires_grad for parameter in source.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    prove(exchanged(plan_of(source, target), "q", "k"), source, target)
    assert torch.equal(torch.rand(3), expected)
    now = dict((*source.state_dict().items(), *target.state_dict().items()))
    assert all(
        torch.equal(value, now[name]) and value.dtype == now[name].dtype for name, value in state.items()
    )
    assert source.training is mode
    assert [parameter.requires_grad for parameter in source.parameters()] == asks
    assert all(not module._forward_hooks for module in source.modules())


def test_neutral_weights_hide_nothing() -> None:
    """Two norms with a weight of 1 and a bias of 0 are equal, and still told apart."""
    source, target = Net(), Net()
    for module in source.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    truth = plan_of(source, target)
    plan, proof = prove(exchanged(truth, "norm1", "norm2"), source, target)
    assert sources(plan) == sources(truth)
    assert all(gap.equal for gap in proof.own_outputs)


def test_definitions_and_checkpoints_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line hands over: two targets and the file of the weights."""
    code = (
        "from torch import nn\nclass {0}(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__({1})\n"
    )
    (tmp_path / "old_net.py").write_text(code.format("Old", "nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)"))
    (tmp_path / "new_net.py").write_text(code.format("New", "nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)"))
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, "old.pt")
    plan = plan_of(nn.ModuleDict({"module": model}), model)
    assignments = [each._replace(pieces=(Piece(f"module.{each.target}"),)) for each in plan.assignments]
    plan = replace(plan, assignments=tuple(assignments))
    after, proof = prove(plan, "old_net.py:Old", "new_net.py:New", source_weights="old.pt", inputs=["3x4"])
    assert proof.input == "float32[3, 4]"
    assert proof.differences == ("tanh in 1, relu in 1",)
    assert proof.equal_but_for
    assert all(gap.equal for gap in proof.own_outputs)
    assert {each.label for each in after.assignments} == {"proven"}
