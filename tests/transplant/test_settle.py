"""
Plans that names leave in doubt, settled by running the target alone; outputs of both models are the truth.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import modelinspect as mi
from modelinspect.live.facts import module_facts
from modelinspect.live.module_table import module_table
from modelinspect.transplant.match import match
from modelinspect.transplant.plan import Plan, Side
from modelinspect.transplant.settle import settle_by_target

WIDTH, HEADS, SIZE, INNER = 48, 4, 12, 80


# ------------------------------------------------------------------------- models


def turned(x: Tensor, kind: str) -> Tensor:
    """Rotary positions for (batch, heads, tokens, size)."""
    if not kind:
        return x
    angles = torch.arange(x.shape[-2])[:, None] / 10.0 ** (torch.arange(SIZE // 2) / 4)
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    one, two = x.chunk(2, -1) if kind == "halves" else (x[..., ::2], x[..., 1::2])
    parts = [one * cos - two * sin, one * sin + two * cos]
    return torch.cat(parts, -1) if kind == "halves" else torch.stack(parts, -1).flatten(-2)


def mixed(q: Any, k: Any, v: Any, kind: str) -> Any:
    """Attention of (batch, heads, tokens, size), heads side by side."""
    k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], 1) for each in (k, v))
    out = functional.scaled_dot_product_attention(turned(q, kind), turned(k, kind), v)
    return out.transpose(1, 2).flatten(2)


def heads(x: Any) -> Any:
    """(batch, tokens, rows) to (batch, heads, tokens, size)."""
    return x.unflatten(-1, (-1, SIZE)).transpose(1, 2)


class Apart(nn.Module):
    """Attention and a gated net, each matrix on its own."""

    def __init__(
        self, shared: int = HEADS, rotary: str = "", names: str = "q_proj k_proj v_proj o_proj"
    ) -> None:
        super().__init__()
        self.rotary, self.names, self.num_heads = rotary, names.split(), HEADS
        for name, rows in zip(self.names, (WIDTH, shared * SIZE, shared * SIZE, WIDTH)):
            setattr(self, name, nn.Linear(WIDTH, rows, bias=name != self.names[-1]))
        self.gate_proj, self.up_proj = nn.Linear(WIDTH, INNER), nn.Linear(WIDTH, INNER)
        self.down_proj = nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Any:
        q, k, v, o = (getattr(self, name) for name in self.names)
        x = x + o(mixed(heads(q(x)), heads(k(x)), heads(v(x)), self.rotary))
        return x + self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Fused(nn.Module):
    """The same with what belongs together in one matrix."""

    def __init__(
        self,
        shared: int = HEADS,
        rotary: str = "",
        order: str = "stacked",
        up_first: bool = True,
        gate: Callable[[Tensor], Tensor] = functional.silu,
    ) -> None:
        super().__init__()
        self.rotary, self.order, self.up_first, self.gate = rotary, order, up_first, gate
        self.num_heads, self.num_kv_heads = HEADS, shared
        self.in_proj, self.out = (
            nn.Linear(WIDTH, WIDTH + 2 * shared * SIZE),
            nn.Linear(WIDTH, WIDTH, bias=False),
        )
        self.fc_in, self.fc_out = nn.Linear(WIDTH, 2 * INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Any:
        fused, rows = self.in_proj(x), self.num_kv_heads * SIZE
        if self.order == "stacked":
            q, k, v = map(heads, fused.split([WIDTH, rows, rows], -1))
        elif self.order == "values first":
            v, q, k = map(heads, fused.split([rows, WIDTH, rows], -1))
        else:
            groups = fused.unflatten(-1, (self.num_kv_heads, -1, SIZE))
            q, k, v = groups[..., :-2, :], groups[..., -2:-1, :], groups[..., -1:, :]
            q, k, v = (each.flatten(2, 3).transpose(1, 2) for each in (q, k, v))
        x = x + self.out(mixed(q, k, v, self.rotary))
        one, two = self.fc_in(x).chunk(2, -1)
        return x + self.fc_out(one * self.gate(two) if self.up_first else self.gate(one) * two)


class Net(nn.Module):
    """Tokens to scores."""

    def __init__(self, block: Callable[[], nn.Module], names: str = "embed layers head") -> None:
        super().__init__()
        self.names = names.split()
        embed, layers, head = self.names
        setattr(self, embed, nn.Embedding(50, WIDTH))
        setattr(self, layers, nn.ModuleList(block() for _ in range(2)))
        setattr(self, head, nn.Linear(WIDTH, 7))

    def forward(self, tokens: Tensor) -> Any:
        embed, layers, head = (getattr(self, name) for name in self.names)
        x = embed(tokens)
        for layer in layers:
            x = layer(x)
        return head(x)


class Patches(nn.Module):
    """An image to scores, its patches by a convolution or by a matrix."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        kernel = nn.Conv2d(3, 16, 4, 4) if way == "convolution" else nn.Linear(48, 16)
        self.patch_embed, self.positions = kernel, nn.Parameter(torch.randn(36, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Any:
        if self.way == "convolution":
            x = self.patch_embed(image).flatten(2).transpose(1, 2)
        else:
            cut = image.unflatten(3, (-1, 4)).unflatten(2, (-1, 4))  # batch, channel, y, 4, x, 4
            order = (0, 2, 4, 3, 5, 1) if self.way == "channels last" else (0, 2, 4, 1, 3, 5)
            x = self.patch_embed(cut.permute(order).flatten(3).flatten(1, 2))
        return self.head(functional.gelu(x + self.positions).mean(1))


# -------------------------------------------------------------------------- plans


def plans(source: nn.Module, target: nn.Module) -> tuple[Plan, Plan]:
    """By names and shapes, the source in the order of its names; then settled."""
    table = module_table(source, "source")
    rows = sorted(table, key=lambda row: row.name)
    theirs = Side(type(table)("source", rows, "file"), is_ordered=False)
    plan = match(theirs, Side(module_table(target, "target"), facts=module_facts(target)))
    return plan, settle_by_target(plan, target)


def gap(plan: Plan, source: nn.Module, target: nn.Module, given: Tensor) -> float:
    """How far the outputs of both are apart once the plan was carried out."""
    target.load_state_dict(plan.apply(source.state_dict()))
    with torch.no_grad():
        return float((source(given) - target(given)).abs().max())


def tokens() -> Tensor:
    """Two sentences."""
    return torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(1))


def is_settled(source: nn.Module, target: nn.Module) -> bool:
    """Nothing is ambiguous any longer, and outputs are equal."""
    _, plan = plans(source, target)
    return not plan.is_ambiguous and gap(plan, source, target, tokens()) < 1e-4


# -------------------------------------------------------------------------- tests


@pytest.mark.parametrize("up_first", [True, False])
@pytest.mark.parametrize("gate", [functional.silu, functional.relu, torch.sigmoid, torch.tanh])
def test_gate_and_up_are_told_apart(up_first: bool, gate: Callable[[Tensor], Tensor]) -> None:
    """Twice up and half of what follows leaves outputs as they were, whatever the gate's function."""
    source, target = Net(Apart), Net(lambda: Fused(up_first=up_first, gate=gate))
    before, plan = plans(source, target)
    assert before.is_ambiguous
    assert not plan.is_ambiguous
    order = ("up_proj", "gate_proj") if up_first else ("gate_proj", "up_proj")
    sources = {each.target: each.sources for each in plan.assignments}
    assert sources["layers.1.fc_in.weight"] == tuple(f"layers.1.{name}.weight" for name in order)
    assert sources["layers.0.fc_in.bias"] == tuple(f"layers.0.{name}.bias" for name in order)


@pytest.mark.parametrize("shared", [HEADS, 2, 1])
@pytest.mark.parametrize("order", ["stacked", "by head", "values first"])
def test_fused_attention_is_read_as_the_target_reads_it(order: str, shared: int) -> None:
    """Rows of q, k and v one after the other, head by head, or v first; of fewer heads of k, too."""
    assert is_settled(Net(lambda: Apart(shared)), Net(lambda: Fused(shared, order=order)))


@pytest.mark.parametrize("kind", ["halves", "pairs", ""])
@pytest.mark.parametrize("shared", [HEADS, 2])
def test_rotary_rows_go_where_the_target_turns_them(kind: str, shared: int) -> None:
    """Names wq and wk are at home where neighbours are turned, and the target shows what it turns."""
    names = "wq wk wv wo"
    source = Net(lambda: Apart(shared, "pairs" if kind else "", names), "tok blocks out")
    assert is_settled(source, Net(lambda: Apart(shared, kind)))


@pytest.mark.parametrize("kind", ["halves", "pairs"])
@pytest.mark.parametrize("order", ["stacked", "by head"])
def test_rotary_rows_in_fused_attention(kind: str, order: str) -> None:
    """The layout and what is turned are both measured."""
    source = Net(lambda: Apart(2, "pairs", "wq wk wv wo"), "tok blocks out")
    assert is_settled(source, Net(lambda: Fused(2, kind, order)))


def test_pairs_in_both_are_not_taken_for_granted() -> None:
    """A target that turns neighbours and does not say so by its names leaves its source open."""
    source, target = (
        Net(lambda: Apart(rotary="halves")),
        Net(lambda: Apart(rotary="pairs", names="query key value o")),
    )
    _, plan = plans(source, target)
    label = {each.target: each.label for each in plan.assignments}
    assert label["layers.0.query.weight"] == label["layers.1.key.weight"] == "ambiguous"
    assert gap(plan, source, target, tokens()) < 1e-4


def test_a_copy_goes_from_the_custom_of_its_name() -> None:
    """query_key_value goes head by head; a target that reads stacked rows gets them so."""

    class ByHead(Fused):
        def __init__(self) -> None:
            super().__init__(order="by head")
            self.query_key_value = self.in_proj
            del self.in_proj

        def forward(self, x: Tensor) -> Any:
            self.__dict__["in_proj"] = self.query_key_value
            return super().forward(x)

    source, target = Net(ByHead), Net(Fused)
    before, plan = plans(source, target)
    assert before.is_ambiguous
    assert {each.transform for each in plan.assignments if "in_proj" in each.target} == {"swap(0, 1, 4, 3)"}
    assert gap(plan, source, target, tokens()) < 1e-4


@pytest.mark.parametrize("way", ["channels last", "channels first"])
def test_patches_as_a_matrix(way: str) -> None:
    """Channels of an image change places, and columns with them; the image is as large as positions say."""
    source, target = Patches("convolution"), Patches(way)
    before, plan = plans(source, target)
    assert before.is_ambiguous
    assert not plan.is_ambiguous
    assert gap(plan, source, target, torch.randn(2, 3, 24, 24)) < 1e-4


class Normed(nn.Module):
    """A norm without a bias, which may add one to its weight."""

    def __init__(self, offset: int) -> None:
        super().__init__()
        self.offset, self.weight = offset, nn.Parameter(torch.randn(WIDTH) * 0.3 + 1 - offset)

    def forward(self, x: Tensor) -> Any:
        return functional.rms_norm(x, (WIDTH,)) * (self.weight + self.offset)


@pytest.mark.parametrize("offset", [0, 1])
def test_norms_that_add_one(offset: int) -> None:
    """Where values show that a source stores weights less one, the target shows whether it does so, too."""

    def net(own: int, name: str) -> nn.Module:
        return nn.Sequential(
            OrderedDict({"first": nn.Linear(WIDTH, WIDTH), name: Normed(own), "last": nn.Linear(WIDTH, 3)})
        )

    source, target = net(1, "norm"), net(offset, "rms_norm")
    plan = mi.plan_transplant(source, target)
    assert not plan.is_ambiguous
    assert gap(plan, source, target, torch.randn(4, WIDTH)) < 1e-5


def test_what_a_target_hides_stays_open() -> None:
    """A gate without a function is one with what it lets through: nothing tells them apart."""
    _, plan = plans(Net(Apart), Net(lambda: Fused(gate=lambda x: x)))
    assert {each.label for each in plan.assignments if "fc_in" in each.target} == {"ambiguous"}
    assert any("was run alone" in note for note in plan.notes)


def test_a_target_that_does_not_run_leaves_the_plan() -> None:
    """The plan is as it was, with a note."""

    class Broken(Fused):
        def forward(self, x: Tensor) -> Any:
            raise RuntimeError(f"not today: {x.shape}")

    before, plan = plans(Net(Apart), Net(Broken))
    assert plan.assignments == before.assignments
    assert any("not tried" in note for note in plan.notes)


def test_a_plan_without_doubts_is_returned_as_it_is() -> None:
    """Equal names: nothing is run."""
    net = Net(Apart)
    plan = match(Side(module_table(net, "source")), Side(module_table(net, "target")))
    assert settle_by_target(plan, "no_such_file.py:Net") is plan


def test_the_library_settles_by_itself() -> None:
    """A module as the target of plan_transplant is run, and left as it was."""
    source, target = Net(Apart), Net(Fused)
    weights = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    plan = mi.plan_transplant(source.state_dict(), target)
    assert not plan.is_ambiguous
    assert all(torch.equal(tensor, weights[name]) for name, tensor in target.state_dict().items())
    mi.transplant(source, target)
    with torch.no_grad():
        assert torch.allclose(source(tokens()), target(tokens()), atol=1e-5)
