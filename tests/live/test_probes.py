"""
Faults that are planted in small models, and what is said of them.

Whatever is watched, the gradients are bit for bit those that there are without, and no
hook stays behind.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as all the world calls it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modelinspect.analysis.gradients import Finding, GradientRow, Thresholds, judge, settled
from modelinspect.live.norms import measure, unique_parameters
from modelinspect.live.probes import Probe, tensors_in

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
Loss = Callable[[Any], Tensor]


chain = nn.Sequential


class Code(nn.Module):
    """A module whose forward is a function of itself and its inputs."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def linear(
    out: int = 4, *, weight: float | None = None, bias: float | None = None, width: int = 4
) -> nn.Linear:
    """Four in; weights and biases may be filled with a number."""
    layer = nn.Linear(width, out)
    if weight is not None:
        nn.init.constant_(layer.weight, weight)
    if bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


def total(output: Any) -> Tensor:
    """The sum over all that a model puts out."""
    parts = [(tensor.abs() if tensor.is_complex() else tensor).float().sum() for tensor in tensors_in(output)]
    return torch.stack(parts).sum()


def rows_of(model: nn.Module) -> list[GradientRow]:
    """As the table has them."""
    named = unique_parameters(model)
    found = measure((each.parameter.grad, each.parameter) for each in named)
    return settled(
        [
            GradientRow(
                each.name, tuple(each.parameter.shape), str(each.parameter.dtype), figures,
                judge(figures, Thresholds(), trainable=each.parameter.requires_grad),
            )
            for each, figures in zip(named, found)
        ]
    )  # fmt: skip


def gradients_of(
    model: nn.Module, args: tuple[Any, ...], loss: Loss, probe: Probe | None
) -> tuple[Any, float]:
    """Gradients, and the loss; generators start where they did before."""
    torch.manual_seed(1)
    model.zero_grad()
    if probe is None:
        value = loss(model(*args))
        value.backward()
    else:
        with probe.attached():
            with probe.forward():
                output = model(*args)
            value = loss(output)
            value.backward()
    gradients = [None if p.grad is None else p.grad.detach().to_dense().clone() for p in model.parameters()]
    return gradients, float(value.detach())


def hooks_of(model: nn.Module) -> int:
    """How many are there."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def watched(model: nn.Module, *args: Any, loss: Loss = total) -> tuple[Finding, ...]:
    """What is said of a model; it behaves as it does without the probe."""
    args = args or (X,)
    unwatched, _ = gradients_of(model, args, loss, None)
    probe, hooks = Probe(model), hooks_of(model)
    gradients, value = gradients_of(model, args, loss, probe)
    assert hooks_of(model) == hooks
    for mine, own in zip(gradients, unwatched, strict=True):
        torch.testing.assert_close(mine, own, rtol=0, atol=0, equal_nan=True)
    return probe.findings(rows_of(model), value)


def said(model: nn.Module, *args: Any, loss: Loss = total) -> list[tuple[str, str | None, str]]:
    """Kind, module and text of each finding."""
    return [(found.kind, found.module, found.text) for found in watched(model, *args, loss=loss)]


# Forward: not finite. Backward only: finite forward, infinite slope.
log_of_zero = Code(lambda _, x: torch.log(F.relu(x)))
square_root_of_zero = Code(lambda _, x: (x - x.detach()).sqrt() + x)
norm_of_zero = Code(lambda _, x: (x * 0).pow(2).sum(1, keepdim=True).sqrt() + x)
guarded_log = Code(lambda _, x: torch.where(x.detach() > 0, (x * (x.detach() > 0)).log(), x))


# ------------------------------------------------------------------- NaN in the forward

FORWARD: dict[str, tuple[Callable[[], tuple[Any, ...]], str, str, str]] = {
    "log(0) in a module": (
        lambda: (chain(linear(), chain(linear(), log_of_zero, linear()), linear(1)),),
        "nan-forward", "1.1", "forward: NaN or infinity first appears in what 1.1 (Code) puts out",
    ),
    "log(0) at the end": (
        lambda: (chain(linear(), chain(linear(), log_of_zero)),),
        "nan-forward", "1.1", "forward: NaN or infinity first appears in what 1.1 (Code) puts out",
    ),
    "a division between two layers": (
        lambda: (Code(lambda s, x: s.b(s.a(x) / torch.zeros(4)), a=linear(), b=linear(1)),),
        "nan-forward", "",
        ("forward: NaN or infinity first appears in the forward() of the model (Code), "
         "before it calls b (Linear)"),
    ),
    "a division between two layers, inside": (
        lambda: (
            chain(linear(), Code(lambda s, x: s.b(s.a(x) / torch.zeros(4)), a=linear(), b=linear())),
        ),
        "nan-forward", "1",
        "forward: NaN or infinity first appears in the forward() of 1 (Code), before it calls 1.b (Linear)",
    ),
    "between two entries of a list": (
        lambda: (Code(lambda s, x: s.all[1](s.all[0](x) / 0), all=nn.ModuleList([linear(), linear()])),),
        "nan-forward", "",
        ("forward: NaN or infinity first appears in the forward() of the model (Code), "
         "before it calls all.1 (Linear)"),
    ),
    "after the last layer": (
        lambda: (Code(lambda s, x: s.a(x) / torch.zeros(4), a=linear()),),
        "nan-forward", "", "forward: NaN or infinity first appears in what the model (Code) puts out",
    ),
    "a residual branch": (
        lambda: (
            chain(linear(), Code(lambda s, x: x + s.b(x), b=chain(linear(), log_of_zero))),
        ),
        "nan-forward", "1.b.1", "forward: NaN or infinity first appears in what 1.b.1 (Code) puts out",
    ),
    "the second call of a module": (
        lambda: (
            Code(lambda s, x: s.a(s.a(s.b(x).abs() + 1) * -1), a=Code(lambda _, x: x.sqrt()), b=linear()),
        ),
        "nan-forward", "a",
        "forward: NaN or infinity first appears in what a (Code, call 2 of 2) puts out",
    ),
    "an overflow in float32": (
        lambda: (chain(linear(), Code(lambda _, x: (x * 1000).exp()), linear(1)),),
        "nan-forward", "1", "forward: NaN or infinity first appears in what 1 (Code) puts out",
    ),
    "an overflow in float16": (
        lambda: (chain(linear(), Code(lambda _, x: x * 6e4 * 9), linear(1)).half(), X.half()),
        "nan-forward", "1", "forward: NaN or infinity first appears in what 1 (Code) puts out",
    ),
    "complex values": (
        lambda: (chain(linear(), Code(lambda _, x: torch.complex(x, x / 0)), Code(lambda _, x: x.abs())),),
        "nan-forward", "1", "forward: NaN or infinity first appears in what 1 (Code) puts out",
    ),
    "the input": (
        lambda: (chain(linear(), linear(1)), X.where(X.max() > X, math.nan)),
        "nan-input", "", "forward: the input holds NaN or infinity",
    ),
    "the second of two inputs": (
        lambda: (Code(lambda s, x, y: s.a(x) * s.a(y), a=linear()), X, X / 0),
        "nan-input", "", "forward: the input holds NaN or infinity, in argument 2",
    ),
    "a checkpointed part": (
        lambda: (
            Code(lambda s, x: checkpoint(s.b, s.a(x), use_reentrant=False),
                 a=linear(), b=chain(linear(), log_of_zero)),
        ),
        "nan-forward", "b.1", "forward: NaN or infinity first appears in what b.1 (Code) puts out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORWARD)
def test_first_value_that_is_not_finite(case: str) -> None:
    """The module in whose output, or in whose code, or the input."""
    make, kind, module, text = FORWARD[case]
    torch.manual_seed(0)
    assert said(*make())[0] == (kind, module, text)


def test_input_by_keyword_is_named() -> None:
    """As the model's forward() has it."""
    probe = Probe(model := Code(lambda _, x, scale: x * scale))
    with probe.attached(), probe.forward():
        model(X, scale=torch.tensor(math.nan))
    (found,) = probe.findings([], math.nan)
    assert found.text == "forward: the input holds NaN or infinity, in scale"


def test_weight_that_is_not_finite() -> None:
    """The weight first, then the module that holds it."""
    broken = linear()
    with torch.no_grad():
        broken.weight[0, 0] = math.nan
    model = chain(linear(), chain(broken, nn.Tanh()), linear(1))
    weight, forward, backward = said(model)
    assert weight == ("nan-weight", "1.0", "NaN or infinity in the weights themselves: 1.0.weight")
    text = "forward: NaN or infinity first appears in what 1.0 (Linear) puts out, as its weights hold some"
    assert forward == ("nan-forward", "1.0", text)
    assert backward[0] == "nan-backward"
    assert backward[2].endswith("; to be expected after the forward pass")


def test_many_weights_that_are_not_finite() -> None:
    """The first few by name, the rest by number."""
    model = chain(*[linear(weight=math.inf, bias=0.0) for _ in range(8)])
    text = said(model)[0][2]
    assert text.endswith(": 0.weight, 1.weight, 2.weight, 3.weight, 4.weight and 3 more")


def test_loss_that_is_not_finite() -> None:
    """Everything that the model puts out is."""
    model = chain(linear(), linear(1))
    first = said(model, loss=lambda output: (-output.abs()).sqrt().sum())[0]
    assert first == ("nan-forward", None, "forward: NaN or infinity first appears in the loss (nan)")


# ------------------------------------------------------------ what is no fault at all


def encoder() -> nn.TransformerEncoder:
    """Two layers of attention."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


MASK = nn.Transformer.generate_square_subsequent_mask(3)
SENTENCES = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


def squares(output: Tensor) -> Tensor:
    """A loss that no LayerNorm cancels out."""
    return (output - torch.linspace(0, 1, 4)).pow(2).mean()


INNOCENT: dict[str, Callable[[], tuple[Any, ...]]] = {
    "mask in the model": lambda: (Code(lambda s, x: s.e(x, mask=MASK), e=encoder()), SENTENCES),
    "mask as an input": lambda: (Code(lambda s, x, mask: s.e(x, mask=mask), e=encoder()), SENTENCES, MASK),
    "masked scores": lambda: (
        Code(lambda s, x: s.soft((s.a(x) @ x.mT).masked_fill(MASK < 0, -math.inf)) @ s.b(x),
             a=linear(), soft=nn.Softmax(-1), b=linear()), SENTENCES,
    ),
    "masks from a module": lambda: (
        Code(lambda s, x: (s.a(x) @ x.mT + s.mask(x)).softmax(-1) @ s.b(x),
             a=linear(), mask=Code(lambda *_: MASK.clone()), b=linear()), SENTENCES,
    ),
    "an output that nobody uses": lambda: (Code(lambda s, x: (s.a(x), x / 0)[0], a=linear()),),
    "infinity behind a clamp": lambda: (
        chain(linear(), Code(lambda _, x: x.detach() / 0 * 0 + x), Code(lambda _, x: x.nan_to_num()),
                      linear()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INNOCENT)
def test_infinity_without_consequences_is_no_finding(case: str) -> None:
    """Masks hold it, scores do before their softmax; loss and gradients are finite."""
    torch.manual_seed(0)
    findings = watched(*INNOCENT[case](), loss=squares)
    assert [found for found in findings if found.kind.startswith("nan")] == []


def test_mask_is_not_blamed_for_what_another_module_does() -> None:
    """A NaN in a weight of the second layer, with the mask as an input."""
    attention: Any = encoder()
    with torch.no_grad():
        attention.layers[1].linear1.weight[0, 0] = math.nan
    model = Code(lambda s, x, mask: s.e(x, mask=mask), e=attention)
    findings = said(model, SENTENCES, MASK)
    assert [(kind, module) for kind, module, _ in findings[:2]] == [
        ("nan-weight", "e.layers.1.linear1"), ("nan-forward", "e.layers.1.linear1"),
    ]  # fmt: skip


def test_mask_is_not_blamed_for_the_loss() -> None:
    """The scores were masked and went through their softmax; the loss is what is NaN."""
    torch.manual_seed(0)
    model, sentences = INNOCENT["masked scores"]()
    first = said(model, sentences, loss=lambda output: (-output.abs() - 1).log().sum())[0]
    assert first[2] == "forward: NaN or infinity first appears in the loss (nan)"


def test_nan_that_reaches_the_loss_by_a_side_way() -> None:
    """A module keeps an auxiliary loss, and puts out what is finite."""

    def keep(self: Any, x: Tensor) -> Any:
        self.kept = self.gate(x).sum()
        return self.out(x)

    aux = Code(keep, gate=Code(lambda _, x: (-x.abs() - 1).sqrt()), out=linear())
    model = chain(linear(), aux, linear())
    found = said(model, loss=lambda output: output.sum() + aux.kept)[0]
    assert found[:2] == ("nan-forward", "1.gate")


# ------------------------------------------------------------------ NaN in the backward

BACKWARD: dict[str, tuple[Callable[[], tuple[Any, ...]], str, str]] = {
    "where around a log": (
        lambda: (chain(linear(), chain(linear(), guarded_log), linear(1)),), "1.1", "1.1 (Code)",
    ),
    "square root at 0": (
        lambda: (chain(linear(), chain(linear(), square_root_of_zero), linear(1)),),
        "1.1", "1.1 (Code)",
    ),
    "norm at 0": (
        lambda: (chain(linear(), chain(linear(), norm_of_zero), linear(1)),), "1.1", "1.1 (Code)",
    ),
    "a residual branch": (
        lambda: (
            chain(linear(), Code(lambda s, x: x + s.b(x), b=chain(linear(), square_root_of_zero))),
        ),
        "1.b.1", "1.b.1 (Code)",
    ),
    "a residual branch of one module": (
        lambda: (chain(linear(), Code(lambda s, x: x + s.b(x), b=square_root_of_zero), linear()),),
        "1.b", "1.b (Code)",
    ),
    "one of two branches": (
        lambda: (chain(linear(), Code(lambda s, x: s.b(x) + s.c(x), b=linear(), c=square_root_of_zero)),),
        "1", "1.b (Linear) or 1.c (Code), which take in the same values",
    ),
    "between two layers": (
        lambda: (Code(lambda s, x: s.b((s.a(x) * 0).sqrt()), a=linear(), b=linear(1)),),
        "", "the forward() of the model (Code), in what it does with the output of a (Linear)",
    ),
    "between two layers, inside": (
        lambda: (chain(linear(), Code(lambda s, x: s.b((s.a(x) * 0).sqrt()), a=linear(), b=linear())),),
        "1", "the forward() of 1 (Code), in what it does with the output of 1.a (Linear)",
    ),
    "after the last layer of a module": (
        lambda: (chain(Code(lambda s, x: (s.a(x) * 0).sqrt(), a=linear()), linear()),),
        "0", "the forward() of 0 (Code), in what it does with the output of 0.a (Linear)",
    ),
    "before the first layer of a module": (
        lambda: (chain(linear(), Code(lambda s, x: s.a((x * 0).sqrt()), a=linear()), linear()),),
        "1", "1 (Code)",
    ),
    "where a parameter is used": (
        lambda: (chain(linear(), Code(lambda s, x: x + (s.p * 0).sqrt(), p=nn.Parameter(torch.ones(4)))),),
        "1", "1 (Code), at 1.p",
    ),
    "the second call of a module": (
        lambda: (chain(linear(), act := Code(lambda _, x: (x - x.detach()).sqrt() + x), linear(), act),),
        "1", "1 (Code, call 2 of 2)",
    ),
    "a checkpointed part": (
        lambda: (
            Code(lambda s, x: checkpoint(s.b, s.a(x), use_reentrant=False),
                 a=linear(), b=chain(linear(), square_root_of_zero)),
        ),
        "b.1", "b.1 (Code)",
    ),
    "a checkpointed part, the old way": (
        lambda: (
            Code(lambda s, x: checkpoint(s.b, s.a(x), use_reentrant=True),
                 a=linear(), b=chain(linear(), square_root_of_zero)),
        ),
        "b.1", "b.1 (Code)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BACKWARD)
def test_first_gradient_that_is_not_finite(case: str) -> None:
    """Where the forward pass is finite: one finding, of the module whose slope is infinite."""
    make, module, place = BACKWARD[case]
    torch.manual_seed(0)
    findings = [found for found in said(*make()) if found[0].startswith("nan")]
    assert findings == [("nan-backward", module, f"backward: NaN or infinity first appears in {place}")]


def test_slope_of_the_loss() -> None:
    """The model is not to blame."""
    model = chain(linear(), linear(1))
    findings = said(model, loss=lambda output: (output - output.detach()).sqrt().sum())
    assert findings == [("nan-backward", "", "backward: NaN or infinity first appears in the loss")]


def test_gradient_that_is_masked_again_is_no_finding() -> None:
    """The slope of a root is infinite at 0, where the ReLU before it lets nothing through."""
    model = chain(linear(), nn.ReLU(), Code(lambda _, x: x.sqrt()), linear(1))
    assert [found.kind for found in watched(model)] == []


# --------------------------------------------------------------------------------- dead


def rezero() -> nn.Module:
    """A branch whose factor starts at 0."""
    return Code(lambda s, x: x + s.alpha * s.f(x), alpha=nn.Parameter(torch.zeros(1)), f=linear())


def adapter() -> nn.Module:
    """As LoRA starts."""
    return Code(
        lambda s, x: s.base(x) + s.up(s.down(x)),
        base=linear().requires_grad_(False), down=linear(2), up=linear(4, weight=0.0, width=2),
    )  # fmt: skip


DEAD: dict[str, tuple[Callable[[], nn.Module], str, str, str]] = {
    "ReLU, a module": (
        lambda: chain(linear(), chain(linear(bias=-100.0), nn.ReLU(), linear()), linear(1)),
        "dead", "1.1", "1.1 (ReLU) puts out zeros only: nothing passes back through it",
    ),
    "ReLU, a function": (
        lambda: Code(lambda s, x: s.c(F.relu(s.b(F.relu(s.a(x))))),
                     a=linear(), b=linear(bias=-100.0), c=linear(1)),
        "dead", "",
        ("gradients become zero in the forward() of the model (Code), in what it does with the output of "
         "b (Linear): what stands there is dead or saturated"),
    ),
    "ReLU, a function inside": (
        lambda: chain(
            linear(), Code(lambda s, x: s.b(F.relu(s.a(x))), a=linear(bias=-100.0), b=linear()), linear(1)
        ),
        "dead", "1",
        ("gradients become zero in the forward() of 1 (Code), in what it does with the output of "
         "1.a (Linear): what stands there is dead or saturated"),
    ),
    "ReLU, a function at the end of a module": (
        lambda: chain(linear(), Code(lambda s, x: F.relu(s.a(x)), a=linear(bias=-100.0)), linear(1)),
        "dead", "1",
        ("gradients become zero in the forward() of 1 (Code), in what it does with the output of "
         "1.a (Linear): what stands there is dead or saturated"),
    ),
    "one ReLU in two places": (
        lambda: Code(lambda s, x: s.c(s.act(s.b(s.act(s.a(x))))),
                     a=linear(), b=linear(bias=-100.0), c=linear(1), act=nn.ReLU()),
        "dead", "act", "act (ReLU, call 2 of 2) puts out zeros only: nothing passes back through it",
    ),
    "behind a layer that puts out zeros": (
        lambda: chain(linear(), linear(weight=0.0, bias=0.0), nn.ReLU(), linear(1)),
        "dead", "2", "2 (ReLU) takes in and puts out zeros only: nothing passes back through it",
    ),
    "a dropout that drops all": (
        lambda: chain(linear(), nn.Tanh(), nn.Dropout(1.0), linear(1)),
        "dead", "2", "2 (Dropout) puts out zeros only: nothing passes back through it",
    ),
    "saturated": (
        lambda: chain(linear(bias=1e4), nn.Sigmoid(), linear(1)),
        "dead", "1", "nothing passes back through 1 (Sigmoid): it is saturated, or flat as rounding is",
    ),
    "rounded": (
        lambda: chain(linear(), Code(lambda _, x: (x * 9).round()), linear(1)),
        "dead", "1", "nothing passes back through 1 (Code): it is saturated, or flat as rounding is",
    ),
    "a last layer of zeros": (
        lambda: chain(linear(), nn.Tanh(), linear(1, weight=0.0, bias=0.0)),
        "zero-weight", "2", "2 (Linear) has a weight of zeros: nothing passes back through it",
    ),
    "a last layer of zeros with a bias": (
        lambda: chain(linear(), nn.Tanh(), linear(1, weight=0.0, bias=1.0)),
        "zero-weight", "2", "2 (Linear) has a weight of zeros: nothing passes back through it",
    ),
    "the last layer of a branch": (
        lambda: chain(
            linear(), Code(lambda s, x: x + s.b(x), b=chain(linear(), linear(weight=0.0))), linear(1)
        ),
        "zero-weight", "1.b.1", "1.b.1 (Linear) has a weight of zeros: nothing passes back through it",
    ),
    "an adapter": (
        lambda: chain(linear(), adapter()),
        "zero-weight", "1.up", "1.up (Linear) has a weight of zeros: nothing passes back through it",
    ),
    "a factor of zero": (
        lambda: chain(linear(), rezero(), linear(1)),
        "zero-weight", "1",
        ("gradients become zero in the forward() of 1 (Code), in what it does with the output of "
         "1.f (Linear): 1.alpha is zero"),
    ),
    "inside a checkpointed part": (
        lambda: Code(lambda s, x: checkpoint(s.b, s.a(x), use_reentrant=True),
                     a=linear(), b=chain(linear(bias=-100.0), nn.ReLU(), linear())),
        "dead", "b.1", "b.1 (ReLU) puts out zeros only: nothing passes back through it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DEAD)
def test_where_gradients_become_zero(case: str) -> None:
    """One finding, and no other, wherever the zero rows are."""
    make, kind, module, text = DEAD[case]
    torch.manual_seed(0)
    assert said(make()) == [(kind, module, text)]


def test_loss_whose_slope_is_zero() -> None:
    """The model is not to blame."""
    findings = said(chain(linear(), nn.ReLU(), linear(1)), loss=lambda output: (output * 0).sum())
    assert findings == [
        ("dead", "", "the gradient of the loss is zero where the model's output goes into it")
    ]


def test_one_of_two_outputs_that_counts_nothing() -> None:
    """The loss has a slope for the other: what is dead below that is named."""
    model = Code(
        lambda s, x: (s.a(x), s.b(x)), a=linear(), b=chain(linear(bias=-100.0), nn.ReLU(), linear(1))
    )  # fmt: skip
    text = "b.1 (ReLU) puts out zeros only: nothing passes back through it"
    findings = said(model, loss=lambda outputs: (outputs[0] * 0).sum() + outputs[1].sum())
    assert findings == [("dead", "b.1", text)]


def test_input_of_zeros() -> None:
    """Is said first; the first layer is what it starves."""
    first, second = said(chain(linear(), nn.Tanh(), linear(1)), torch.zeros(3, 4))
    assert first == ("dead", "", "the input holds zeros only")
    assert second == ("dead", "0", "0 (Linear) takes in zeros only, so that its weight gets no gradient")


def test_some_of_many_are_named() -> None:
    """Five, and how many more."""
    blocks = [Code(lambda s, x: x + s.b(x), b=chain(linear(), linear(weight=0.0))) for _ in range(8)]
    findings = said(chain(*blocks))
    assert [module for _, module, _ in findings[:5]] == [f"{place}.b.1" for place in range(5)]
    assert findings[5] == ("zero-weight", "5.b.1", "and 3 more like these")


@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(linear(), nn.ReLU(), nn.Dropout(0.2), linear(1)),
        lambda: chain(linear(), nn.LayerNorm(4), nn.GELU(), linear(1)),
        lambda: chain(linear().requires_grad_(False), nn.ReLU(), linear(1)),
        lambda: Code(lambda s, x: x + s.b(x), b=linear()),
    ],
)
def test_healthy_models_have_no_findings(make: Callable[[], nn.Module]) -> None:
    """Zeros of a ReLU, a dropout, a frozen part: all as it should be."""
    torch.manual_seed(0)
    assert said(make()) == []


# ---------------------------------------------------------------------------- unreached


def without_autograd(self: Any, x: Tensor) -> Any:
    """A branch under no_grad."""
    with torch.no_grad():
        y = self.b(x)
    return self.a(x) + y


def branch() -> nn.Module:
    """Four parameters."""
    return chain(linear(), nn.ReLU(), linear())


DETACHED = (
    "no gradient for b (Sequential) (4 parameters): what it puts out is detached, or not used for the loss"
)
UNREACHED: dict[str, tuple[Callable[[], nn.Module], str, str, str]] = {
    "detached": (
        lambda: Code(lambda s, x: s.a(x) + s.b(x).detach(), a=linear(), b=branch()),
        "detached", "b", DETACHED,
    ),
    "output is not used": (
        lambda: Code(lambda s, x: (s.a(x), s.b(x))[0], a=linear(), b=branch()), "detached", "b", DETACHED,
    ),
    "argmax": (
        lambda: chain(linear(), Code(lambda _, x: x.argmax(1, keepdim=True) * 1.0), linear(1, width=1)),
        "detached", "0",
        "no gradient for 0 (Linear) (2 parameters): what it puts out is detached, or not used for the loss",
    ),
    "under no_grad": (
        lambda: Code(without_autograd, a=linear(), b=branch()), "detached", "b",
        ("no gradient for b (Sequential) (4 parameters): it ran without autograd (torch.no_grad), "
         "or what it puts out needs no gradient"),
    ),
    "never called": (
        lambda: Code(lambda s, x: s.a(x), a=linear(), b=branch()), "unused", "b",
        "no gradient for b (Sequential) (4 parameters): it never ran in the forward pass",
    ),
    "one entry of several": (
        lambda: Code(lambda s, x: s.all["a"](x), all=nn.ModuleDict({"a": linear(), "b": linear()})),
        "unused", "all.b", "no gradient for all.b (Linear) (2 parameters): it never ran in the forward pass",
    ),
    "a parameter by itself": (
        lambda: chain(linear(), Code(lambda s, x: s.a(x), a=linear(), p=nn.Parameter(torch.ones(3)))),
        "unused", "1",
        "no gradient for 1.p: the loss does not depend on it, though it does on the rest of 1 (Code)",
    ),
    "a bias that the code leaves out": (
        lambda: Code(lambda s, x: F.linear(x, s.a.weight), a=linear()), "unused", "a",
        "no gradient for a.bias: the loss does not depend on it, though it does on the rest of a (Linear)",
    ),
    "a list of parameters": (
        lambda: Code(lambda s, x: s.a(x), a=linear(), p=nn.ParameterList([nn.Parameter(torch.ones(3))])),
        "unused", "p", "no gradient for p (ParameterList) (1 parameter): the loss does not depend on it",
    ),
    "in a checkpointed part": (
        lambda: Code(lambda s, x: s.a(checkpoint(s.c, x, use_reentrant=False)),
                     a=linear(), c=Code(lambda s, x: x + s.b(x).detach(), b=linear())),
        "detached", "c",
        "no gradient for c (Code) (2 parameters): what it puts out is detached, or not used for the loss",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREACHED)
def test_why_no_gradient_arrives(case: str) -> None:
    """The outermost module that has none, how many parameters, and why."""
    make, kind, module, text = UNREACHED[case]
    assert said(make()) == [(kind, module, text)]


def test_parameters_that_are_used_without_their_module() -> None:
    """Attention never calls its out_proj, which has gradients all the same."""
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    model = Code(lambda s, x: s.a(x, x, x)[0], a=attention)
    assert [found.kind for found in watched(model, SENTENCES, loss=squares)] == []


# ------------------------------------------------------------------- models of all kinds


@dataclasses.dataclass
class Output:
    """What some libraries put out."""

    first: Any
    second: Any = None


@dataclasses.dataclass(slots=True)
class Slotted:
    """Without a __dict__."""

    first: Any


def in_place(self: Any, x: Tensor) -> Any:
    """Changes what modules put out."""
    y = self.a(x)
    y += x
    y[:, 0] = 0
    z = self.act(self.b(y))
    z = z + 0
    z *= 2
    left, right = self.split(z)
    return self.c(torch.cat([left, right], 1)).mul_(3)


def in_place_view(self: Any, x: Tensor) -> Any:
    """Changes a view of what a module puts out."""
    y = self.a(x)
    y.view(-1).mul_(2)
    return self.act(y)


def checkpointed(*, use_reentrant: bool) -> nn.Module:
    """With a dropout inside, which must drop the same twice."""
    return Code(
        lambda s, x: s.c(checkpoint(s.b, s.a(x), use_reentrant=use_reentrant)),
        a=linear(), b=chain(linear(), nn.Dropout(), nn.Tanh()), c=linear(1),
    )  # fmt: skip


def packed(self: Any, x: Tensor) -> Any:
    """Sequences of several lengths."""
    inner = nn.utils.rnn.pack_padded_sequence(x, [3, 2], batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(self.a(self.same(inner))[0], batch_first=True)[0]


def recursive(self: Any, x: Tensor, depth: int = 3) -> Any:
    """A module that calls itself."""
    return self.a(x) if depth == 0 else self(self.a(x), depth - 1)


def model_output(_: Any, x: Tensor) -> Any:
    """Of transformers."""
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=x)


def scripted(module: nn.Module) -> Any:
    """By torch.jit, which warns that it is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


IDS = torch.tensor([[0, 2, 2], [5, 1, 2]])
KINDS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "ReLU in place": lambda: (chain(linear(), nn.ReLU(inplace=True), linear(1)),),
    "in place": lambda: (
        Code(in_place, a=linear(), b=linear(), act=nn.ReLU(inplace=True), c=linear(1),
             split=Code(lambda _, x: x.split(2, 1))),
    ),
    "in place on a view": lambda: (
        Code(in_place_view, a=Code(lambda s, x: s.l(x).view(5, 4), l=linear()), act=nn.ReLU(inplace=True)),
    ),
    "checkpointed": lambda: (checkpointed(use_reentrant=False),),
    "checkpointed, the old way": lambda: (checkpointed(use_reentrant=True),),
    "outputs in dicts, lists, classes": lambda: (
        Code(lambda s, x: Output({"x": [s.a(x), (s.b(x)["k"], None)]}, s.none(x)),
             a=linear(), b=Code(lambda s, x: {"k": s.l(x)}, l=linear()), none=Code(lambda *_: None)),
    ),
    "a slotted class inside": lambda: (
        chain(Code(lambda s, x: Slotted(s.l(x)), l=linear()), Code(lambda _, x: x.first * 2)),
    ),
    "a mapping that is no dict": lambda: (
        chain(Code(lambda s, x: UserDict(a=s.l(x)), l=linear()), Code(lambda _, x: x["a"] * 2)),
    ),
    "transformers' outputs": lambda: (chain(linear(), Code(model_output)),),
    "a generator inside": lambda: (
        Code(lambda s, x: sum(s.g(x)),
             g=Code(lambda s, x: (f(x) for f in (s.a, s.b)), a=linear(), b=linear())),
    ),
    "whole numbers beside": lambda: (Code(lambda s, x: (y := s.a(x), y.argmax(1)), a=linear()),),
    "script": lambda: (chain(linear(), scripted(chain(linear(), nn.ReLU())), linear(1)),),
    "script as a whole": lambda: (scripted(chain(linear(), nn.ReLU(), linear())),),
    "LSTM": lambda: (Code(lambda s, x: s.a(x)[0], a=nn.LSTM(4, 3, 2, batch_first=True)), SENTENCES),
    "GRU, last state": lambda: (Code(lambda s, x: s.a(x)[1], a=nn.GRU(4, 3, batch_first=True)), SENTENCES),
    "RNN of packed sequences": lambda: (
        Code(packed, a=nn.RNN(4, 3, batch_first=True), same=nn.Identity()), SENTENCES,
    ),
    "a cell in a loop": lambda: (
        Code(lambda s, x: s.a(x[:, 1], s.a(x[:, 0])), a=nn.GRUCell(4, 3)), SENTENCES,
    ),
    "Transformer": lambda: (
        chain(Code(lambda s, x: s.t(x, x), t=nn.Transformer(4, 2, 1, 1, 8, 0.0, batch_first=True)),
                      linear(3)), SENTENCES,
    ),
    "complex": lambda: (
        chain(Code(lambda s, x: x @ s.w, w=nn.Parameter(torch.randn(4, 4) + 1j)),
                      Code(lambda _, x: x.abs())), X + 0j,
    ),
    "sparse embedding": lambda: (chain(nn.Embedding(9, 4, sparse=True), linear(1)), IDS),
    "bag of embeddings": lambda: (chain(nn.EmbeddingBag(9, 4, sparse=True), linear(1)), IDS),
    "weight norm": lambda: (chain(nn.utils.parametrizations.weight_norm(linear()), linear()),),
    "shared weights": lambda: (chain(one := linear(), nn.Tanh(), one),),
    "calls itself": lambda: (Code(recursive, a=linear()),),
    "expanded": lambda: (chain(linear(1), Code(lambda _, x: x.expand(-1, 4)), linear(1)),),
    "input that asks for gradients": lambda: (chain(linear(), linear(1)), X.clone().requires_grad_()),
    "vmap": lambda: (Code(lambda s, x: torch.func.vmap(s.a)(x), a=linear()),),
    "gradients inside": lambda: (
        Code(lambda s, x: torch.func.grad(lambda y: s.a(y).tanh().sum())(x), a=linear()),
    ),
    "data parallel": lambda: (nn.DataParallel(chain(linear(), linear(1))),),
    "double": lambda: (chain(linear(), linear(1)).double(), X.double()),
    "bfloat16": lambda: (chain(linear(), linear(1)).bfloat16(), X.bfloat16()),
    "no hidden layer": lambda: (linear(),),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind_run_as_they_do_unwatched(kind: str) -> None:
    """Gradients are equal to the bit, nothing is found, no hook is left."""
    torch.manual_seed(0)
    assert said(*KINDS[kind]()) == []


@pytest.mark.parametrize("is_detached", [True, False])
def test_script_that_the_loss_does_not_depend_on(is_detached: bool) -> None:
    """It runs no hooks, so that nobody can say whether it ran."""
    script = scripted(branch())
    model = Code(lambda s, x: s.a(x) + s.b(x).detach() if is_detached else s.a(x), a=linear(), b=script)
    text = "no gradient for b (RecursiveScriptModule) (4 parameters): the loss does not depend on it"
    assert said(model) == [("unused", "b", text)]


def compiled_all(model: nn.Sequential) -> nn.Module:
    """Its wrapper is no part of any name."""
    return Code(lambda s, x: s.inner(x), inner=torch.compile(model, backend="eager", fullgraph=True))


def compiled_part(model: nn.Sequential) -> nn.Module:
    """In place."""
    model[1].compile(backend="eager")
    return Code(lambda s, x: s.inner(x), inner=model)


def compiled_code(model: nn.Sequential) -> nn.Module:
    """A function that calls modules."""

    def run(self: Any, x: Tensor) -> Any:
        return self.inner(x)

    return Code(torch.compile(run, backend="eager"), inner=model)


@pytest.mark.parametrize("compiled", [compiled_all, compiled_part, compiled_code])
def test_compiled_models_run_as_they_were_written(compiled: Callable[[nn.Sequential], nn.Module]) -> None:
    """Hooks see every module, and no compiler sees a hook."""
    model = chain(linear(), chain(linear(bias=-100.0), nn.ReLU(), linear()), linear(1))
    text = "inner.1.1 (ReLU) puts out zeros only: nothing passes back through it"
    assert said(compiled(model)) == [("dead", "inner.1.1", text)]


def test_hooks_are_gone_after_an_error() -> None:
    """And hooks of others stay where they were."""

    def fail(_: Any, x: Tensor) -> Tensor:
        raise ZeroDivisionError

    model = chain(linear(), Code(fail))
    own = model[0].register_forward_hook(lambda *_: None)
    probe = Probe(model)
    with pytest.raises(ZeroDivisionError), probe.attached(), probe.forward():
        model(X)
    assert hooks_of(model) == 1
    own.remove()


def test_error_that_the_model_catches() -> None:
    """The call that was broken off does not become the caller of what comes later."""

    def fail(_: Any, x: Tensor) -> Tensor:
        raise ZeroDivisionError

    def attempt(self: Any, x: Tensor) -> Any:
        try:
            return self.broken(x)
        except ZeroDivisionError:
            return self.b(self.a(x) / 0)

    model = chain(Code(attempt, broken=chain(Code(fail)), a=linear(), b=linear()))
    text = "forward: NaN or infinity first appears in the forward() of 0 (Code), before it calls 0.b (Linear)"
    assert said(model)[0] == ("nan-forward", "0", text)


def test_names_are_made_visible() -> None:
    """A module may be called anything."""
    model = chain()
    model.add_module("a\x1b[31m", log_of_zero)
    model.add_module("b", linear())
    assert all("\x1b" not in text for _, _, text in said(model))


# ---------------------------------------------------------------------- tensors in things


def test_tensors_in_all_kinds_of_things() -> None:
    """Floating-point and complex ones, in their order; what is no container is passed over."""
    one, two = torch.ones(1), torch.ones(2, dtype=torch.complex64)
    thing = [
        one,
        {"a": (two, torch.ones(3, dtype=torch.int64)), "b": "text"},
        Output(one, [None]),
        Slotted(two),
    ]
    assert [tensor.numel() for tensor in tensors_in(thing)] == [1, 2, 1, 2]
    assert list(tensors_in(Output)) == []
    assert list(tensors_in(None)) == []


def test_a_list_that_holds_itself() -> None:
    """Ends."""
    loop: list[Any] = [torch.ones(1)]
    loop.append(loop)
    assert 1 <= len(list(tensors_in(loop))) <= 10


def test_generators_are_left_to_whom_they_are_for() -> None:
    """Looking into one would use it up."""
    generator = (tensor for tensor in [torch.ones(1)])
    assert list(tensors_in(generator)) == []
    assert len(list(generator)) == 1
