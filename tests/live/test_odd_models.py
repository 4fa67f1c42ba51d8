"""
Models, inputs and settings that are out of the ordinary: right figures, or one message.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Cli
from torch import Tensor, nn

import modelinspect as mi
from modelinspect.analysis.gradients import GradientsReport
from modelinspect.errors import DefinitionError, ModelInspectError, TargetError, UsageError
from modelinspect.live.norms import figures_of


class Net(nn.Module):
    """Two layers; what happens between them is for each test to say."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        """The second layer of what is between."""
        out: Tensor = self.second(self.between(self.first(x)))
        return out


def summed(output: Tensor) -> Tensor:
    """A loss that is easy to take by hand."""
    return output.square().sum()


def by_hand(model: nn.Module, x: Tensor) -> dict[str, float]:
    """L2 norms in float64."""
    model.zero_grad()
    summed(model(x)).backward()
    return {name: p.grad.double().norm().item() for name, p in model.named_parameters() if p.grad is not None}


def norms(report: GradientsReport) -> dict[str, float]:
    """What the report says of them."""
    return {row.name: row.figures.l2 for row in report.rows if row.figures is not None}


# ------------------------------------------------------------------------ inputs


class Tripling(Net):
    """Changes its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        """Of three times the input."""
        return super().forward(x.mul_(3))


def test_inputs_changed_in_place_are_those_of_the_caller_once() -> None:
    """Tried out, run and run sample by sample on the same values; the tensor in hand stays as it is."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    report = mi.grads(Tripling(), inputs=x, loss=summed, per_sample=True)
    assert torch.equal(x, before)
    assert norms(report) == pytest.approx(by_hand(Net(), before * 3), rel=1e-6)
    spread = report.rows[0].spread
    assert spread is not None
    alone = [by_hand(Net(), before[n : n + 1] * 3)["first.weight"] for n in range(3)]
    assert (spread.least, spread.most) == pytest.approx((min(alone), max(alone)), rel=1e-6)


def test_inputs_that_are_tried_out_are_not_spoilt_by_it() -> None:
    """A guess is run once before it counts."""
    report = mi.grads(Tripling(), loss=summed)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert norms(report) == pytest.approx(by_hand(Net(), x * 3), rel=1e-6)


def test_an_input_that_asks_for_a_gradient_gets_none() -> None:
    """What is the caller's stays the caller's."""
    x = torch.ones(2, 4, requires_grad=True)
    mi.grads(Net(), inputs=x)
    assert x.grad is None


def test_one_tensor_in_two_places_stays_one() -> None:
    """Attention runs another way where query and key are the same."""
    seen: list[bool] = []

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 1)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            seen.append(x is y)
            return self.inner(x)

    x = torch.ones(2, 3)
    mi.grads(Asks(), inputs=(x, x))
    assert seen == [True]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("int64[2,4]<_", "can't be read"),
        ("float32[2,,4]", "can't be read"),
        ("float32[2 4]", "can't be read"),
        ("int64[2,4]<99999999999999999999", "below 2^63"),
        ("2x" + "9" * 5000, "more than 30 digits"),
        ("int64[2]<" + "1_" * 5000 + "1", "more than 30 digits"),
        ("int8[2,4]<300", "its largest integer is 127"),
        ("bits8[2,4]", "torch can't make bits8[2, 4]"),
        ("int4[2,4]", "torch can't make int4[2, 4]"),
        ("float4_e2m1fn_x2[2,4]", "torch can't make float4_e2m1fn_x2[2, 4]"),
    ],
)
def test_inputs_that_cannot_be_made(spec: str, message: str) -> None:
    """Each is one message that says so."""
    with pytest.raises(UsageError) as caught:
        mi.grads(Net(), inputs=spec)
    assert message in str(caught.value)


# ------------------------------------------------------------------------ models


class Barrier(torch.autograd.Function):
    """Has no gradient to give."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        """As it is."""
        return x.clone()

    @staticmethod
    def backward(_: Any, *__: Tensor) -> None:
        """None, which autograd takes for no gradient at all."""


def test_a_function_that_gives_no_gradient() -> None:
    """Hooks are told of none, and the layers before it have none, as by hand."""
    model = Net(Barrier.apply)
    report = mi.grads(model, inputs=torch.ones(2, 4), loss=summed)
    assert [row.verdict for row in report.rows] == ["none", "none", "ok", "ok"]
    assert norms(report) == pytest.approx(by_hand(model, torch.ones(2, 4)), rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_compiled_parts_have_plain_names_everywhere() -> None:
    """Compiled as a whole or in part, also where the compiler may not give way to hooks."""
    inner: Any = torch.compile(Net(), backend="eager", fullgraph=True)
    model = nn.Sequential(inner, nn.Linear(3, 1))
    report = mi.grads(model, inputs=torch.ones(2, 4), loss=summed)
    assert [row.name for row in report.rows[:2]] == ["0.first.weight", "0.first.bias"]
    assert report.modules["0.first"] == "Linear"
    assert norms(report) == pytest.approx(
        {name.replace("_orig_mod.", ""): norm for name, norm in by_hand(model, torch.ones(2, 4)).items()},
        rel=1e-6,
    )


def test_a_cache_and_the_number_that_says_how_large_it_is_stay_together() -> None:
    """A model runs after the report as it did before."""

    class Rotary(nn.Linear):
        cache: Tensor

        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("cache", torch.ones(3, 1))
            self.length = 3

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > self.length:
                self.length = len(x)
                self.cache = torch.ones(len(x), 1)
            return super().forward(x) * self.cache[: len(x)]

    model = Rotary()
    mi.grads(model, inputs=torch.ones(8, 2))
    assert (model.length, len(model.cache)) == (3, 3)
    assert model(torch.ones(8, 2)).shape == (8, 2)


def test_asking_for_a_gradient_is_given_back() -> None:
    """A model that freezes itself when it runs is not frozen afterwards."""

    class Freezing(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.first.weight.requires_grad_(False)
            return super().forward(x)

    model = Freezing()
    report = mi.grads(model, inputs=torch.ones(2, 4))
    assert report.rows[0].verdict == "frozen"
    assert model.first.weight.requires_grad


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_inside_of_no_grad_and_inference_mode(around: Callable[[], Any], steps: int | None) -> None:
    """What is asked for is a gradient, whatever is around it; that is back afterwards."""
    x, model = torch.ones(2, 4), Net()
    expected = mi.grads(model, inputs=x, steps=steps)
    with around():
        report = mi.grads(model, inputs=torch.ones(2, 4), steps=steps)
        assert not torch.is_grad_enabled()
    assert norms(report) == norms(expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_what_cannot_be_copied_is_not_trained() -> None:
    """It is a copy that is: a model whose tensors have a past has none."""
    model = nn.utils.weight_norm(nn.Linear(2, 2))
    model(torch.ones(1, 2))
    with pytest.raises(DefinitionError, match="can't be copied"):
        mi.grads(model, inputs=torch.ones(1, 2), steps=1)


def test_parameters_that_cannot_be_listed() -> None:
    """A model's own method raises: its error, and where."""

    class Shy(Net):
        def named_parameters(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("none of your business")

    with pytest.raises(DefinitionError, match="none of your business"):
        mi.grads(Shy(), inputs=torch.ones(2, 4))


def test_zeros_have_no_sign() -> None:
    """Neither norm nor largest entry is -0.0."""
    for figures in (figures_of(torch.zeros(5)), figures_of(-torch.zeros(5))):
        assert [math.copysign(1, value) for value in (figures.l1, figures.l2, figures.largest)] == [1, 1, 1]


def test_one_gradient_vanishes_and_two_vanish() -> None:
    """As English has it."""
    model = Net()
    with torch.no_grad():
        model.second.weight.mul_(1e-20)
    report = mi.grads(model, inputs=torch.ones(2, 4), loss=lambda output: output.sum(), include="first.*")
    assert report.findings[0].text.startswith("2 gradients vanish: ")
    model.first.bias.requires_grad_(False)
    report = mi.grads(model, inputs=torch.ones(2, 4), loss=lambda output: output.sum())
    assert report.findings[0].text.startswith("1 gradient vanishes: ")


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "meta"}, "on the meta device"),
        ({"seed": 2**64}, "out of range"),
        ({"seed": -(2**63) - 1}, "out of range"),
        ({"autocast": "float64"}, "bfloat16 or float16"),
        ({"steps": 1.5}, "must be an integer"),
        ({"steps": 1, "optimizer": "adam(betas=(0.9,))"}, "torch.optim.Adam can't be made"),
        ({"loss": lambda output: output}, "has 6 values"),
        ({"loss": lambda _: 1.0}, "is a float, not a tensor"),
        ({"loss": lambda output: output.sum().to(torch.complex64)}, "is complex"),
        ({"steps": 1, "loss": lambda _: None}, "is a NoneType, not a tensor"),
    ],
)
def test_settings_that_cannot_be_met(settings: dict[str, Any], message: str) -> None:
    """Each is one message that says so, before anything is trained."""
    with pytest.raises(ModelInspectError) as caught:
        mi.grads(Net(), inputs=torch.ones(2, 4), **settings)
    assert message in str(caught.value)


# ----------------------------------------------------------------- files, commands

SOURCE = """
import sys, torch
from torch import nn

class Net(nn.Linear):
    def __init__(self, leaves=False, device=None):
        super().__init__(4, 1, device=device)
        self.leaves = leaves

    def forward(self, x):
        if self.leaves:
            sys.exit()
        open(__file__ + ".ran", "w").close()
        return super().forward(x)

once = iter([(torch.ones(2, 4), torch.ones(2, 1))])
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A definition in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(SOURCE, encoding="utf-8")
    return f"{tmp_path / 'net.py'}:Net"


def test_a_model_that_leaves_while_its_input_is_worked_out(cli: Cli, net: str) -> None:
    """It does not end the command with its own exit code."""
    code, stdout, stderr = cli("grads", f"{net}(leaves=True)")
    assert (code, stdout) == (2, "")
    assert "SystemExit" in stderr


def test_a_definition_without_values(net: str) -> None:
    """One that is on the meta device of its own accord."""
    with pytest.raises(UsageError, match="meta device"):
        mi.grads(f'{net}(device="meta")')


def test_data_that_is_used_up(net: str) -> None:
    """A generator has one epoch: the message says what has more."""
    with pytest.raises(UsageError, match="in epoch 2") as caught:
        mi.grads(net, data=net.replace(":Net", ":once"), epochs=2)
    assert "used up" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04garbage", b"\x93NUMPY\x01\x00"])
def test_archives_that_are_none(net: str, content: bytes) -> None:
    """Whatever zip and numpy raise, it is one message."""
    Path("data.npz").write_bytes(content)
    with pytest.raises(ModelInspectError, match=r"data\.npz can't be read as \.npz"):
        mi.grads(net, data="data.npz")


def test_data_that_is_a_folder(net: str) -> None:
    """It is there, and is no file."""
    with pytest.raises(TargetError, match="is no file"):
        mi.grads(net, data=".")


def test_integers_too_large_for_classes_stay_numbers(net: str) -> None:
    """float32 has them rounded; as int64 they would turn into others."""
    Path("data.csv").write_text(f"a,b,c,d,y\n1,2,3,4,{10**30}\n4,3,2,1,5\n", encoding="utf-8")
    report = mi.grads(net, data="data.csv")
    assert report.loss == pytest.approx(math.inf)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--save", "missing/fitted.pt"),
        ("--save", "folder.pt"),
        ("--plot", "missing/plot.svg", "--every", "1"),
        ("--output", "missing/table.json", "--format", "json"),
    ],
)
def test_nothing_is_trained_for_a_folder_that_is_not_there(
    cli: Cli, net: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """What would be lost in the end is refused at the beginning."""
    (tmp_path / "folder.pt").mkdir()
    flag, path, *more = arguments
    code, stdout, stderr = cli("grads", net, "--steps", "2", flag, tmp_path / path, *more)
    assert (code, stdout) == (2, "")
    assert "cannot be written" in stderr
    assert not (tmp_path / "net.py.ran").exists()
