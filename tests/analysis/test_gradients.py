"""
Verdicts on gradients, and what several of them are together.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from modelinspect.analysis.gradients import (
    CANCELLED_SHARE,
    SICK,
    WEIGHT_FLOOR,
    Figures,
    Finding,
    FindingKind,
    GradientRow,
    GradientsReport,
    Thresholds,
    Verdict,
    combined,
    global_norm,
    judge,
    root_of_squares,
    settled,
    with_history,
    worst,
)
from modelinspect.live.norms import measure, unique_parameters

NAN, INF = math.nan, math.inf
USUAL = Thresholds()


def sized(rms: float, numel: int = 100, weight: float | None = None, **counts: int) -> Figures:
    """Figures of a gradient whose root mean square is given, and its weight's."""
    root = math.sqrt(numel)
    norm = None if weight is None else weight * root
    return Figures(numel, rms * numel, rms * root, rms, counts.pop("zeros", 0), weight=norm, **counts)


def row(name: str, figures: Figures | None, verdict: Verdict, **more: Any) -> GradientRow:
    """A bias has one dimension, anything else two."""
    shape = (10,) if "bias" in name else (10, 10)
    return GradientRow(name, more.pop("shape", shape), "float32", figures, verdict, **more)


# ------------------------------------------------------------------------ one gradient


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        (None, "none"),
        (sized(1e-3, weight=0.1), "ok"),
        (sized(0.0, weight=0.1), "zero"),
        (Figures(0, 0.0, 0.0, 0.0, 0), "ok"),
        (sized(1.0, nans=1), "nan"),
        (sized(NAN, nans=1), "nan"),
        (sized(NAN, nans=1, infinities=1), "nan"),
        (sized(INF, infinities=1), "inf"),
        (sized(NAN), "nan"),
        (sized(INF), "inf"),
        (sized(0.99e-7, weight=1.0), "vanishing"),
        (sized(1.01e-7, weight=1.0), "ok"),
        (sized(0.99e4, weight=1.0), "ok"),
        (sized(1.01e4, weight=1.0), "exploding"),
        (sized(0.99e-9, weight=0.0), "vanishing"),
        (sized(1.01e-9, weight=0.0), "ok"),
        (sized(0.99e-9), "vanishing"),
        (sized(1.01e-9), "ok"),
        (sized(101.0), "exploding"),
        (sized(1e-300, weight=1e-300), "vanishing"),
        (sized(1e-3, weight=NAN), "ok"),
        (sized(1e-3, weight=INF), "ok"),
    ],
)
def test_verdict_on_one_gradient(figures: Figures | None, verdict: Verdict) -> None:
    """Beside the size of its weight, which counts as 0.01 at least, or where it isn't known."""
    assert judge(figures, USUAL) == verdict
    assert judge(figures, USUAL, trainable=False) == "frozen"


def test_size_does_not_depend_on_how_many_elements_there_are() -> None:
    """A large layer vanishes where a small one does."""
    for numel in (1, 100, 10**9):
        assert judge(sized(0.9e-7, numel, weight=1.0), USUAL) == "vanishing"
        assert judge(sized(1.1e-7, numel, weight=1.0), USUAL) == "ok"
        assert sized(0.5, numel, weight=2.0).ratio == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("thresholds", "verdict"),
    [
        (Thresholds(vanishing=1e-2), "vanishing"),
        (Thresholds(exploding=1e-4), "exploding"),
        (Thresholds(vanishing=0.0, exploding=INF), "ok"),
    ],
)
def test_thresholds_can_be_set(thresholds: Thresholds, verdict: Verdict) -> None:
    """The same gradient is judged otherwise; a threshold of 0 never calls anything vanishing."""
    assert judge(sized(1e-3, weight=1.0), thresholds) == verdict


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (0.0, 0.0, "zero"),
        (0.0, 1e-3, "ok"),
        (1e-12, 1e-3, "ok"),
        (1e-12, 1e-11, "vanishing"),
        (0.0, 1e-11, "vanishing"),
        (1e-3, 1e5, "exploding"),
        (1e-3, 1e-12, "ok"),
        (1e-3, None, "ok"),
    ],
)
def test_second_moment_of_an_optimizer(first: float, second: float | None, verdict: Verdict) -> None:
    """The larger of the two is judged: the mean of a gradient that changes its sign is small."""
    assert judge(sized(first, weight=1.0), USUAL, second_rms=second) == verdict


def test_figures_answer_for_themselves() -> None:
    """Norms by order, shares and ratios; an empty gradient divides by nothing."""
    figures = Figures(8, 3.0, 2.0, 1.5, 2, weight=4.0)
    assert [figures.norm("1"), figures.norm("2"), figures.norm("inf")] == [3.0, 2.0, 1.5]
    assert (figures.zero_share, figures.ratio, figures.rms) == (0.25, 0.5, 2.0 / math.sqrt(8))
    empty = Figures(0, 0.0, 0.0, 0.0, 0, weight=0.0)
    assert (empty.zero_share, empty.ratio, empty.rms, empty.relative_size) == (0.0, None, 0.0, 0.0)
    assert figures._replace(weight=None).ratio is None
    assert sized(1.0, weight=0.0).relative_size == pytest.approx(1 / WEIGHT_FLOOR)


# ---------------------------------------------------------------------- its neighbours

GOOD = sized(1e-3, weight=0.1)
NOTHING = sized(0.0)
ROUNDING = sized(1e-11)

NEIGHBOURS = {
    "zero beside a weight that learns": ([row("a.weight", GOOD, "ok"), row("a.bias", NOTHING, "zero")], True),
    "rounding beside a weight that learns": (
        [row("a.weight", GOOD, "ok"), row("a.bias", ROUNDING, "vanishing")], True,
    ),
    "the weight comes later": ([row("a.bias", NOTHING, "zero"), row("a.weight", GOOD, "ok")], True),
    "a bias among several": (
        [row("a.in_proj_weight", GOOD, "ok"), row("a.in_proj_bias", NOTHING, "zero")], True,
    ),
    "the model itself": ([row("weight", GOOD, "ok"), row("bias", NOTHING, "zero")], True),
    "the weight is dead too": ([row("a.weight", NOTHING, "zero"), row("a.bias", NOTHING, "zero")], False),
    "the weight vanishes too": (
        [row("a.weight", ROUNDING, "vanishing"), row("a.bias", ROUNDING, "vanishing")], False,
    ),
    "both are about to vanish": (
        [row("a.weight", sized(2e-9), "ok"), row("a.bias", sized(0.9e-9), "vanishing")], False,
    ),
    "the weight of another module": ([row("a.weight", GOOD, "ok"), row("b.bias", NOTHING, "zero")], False),
    "a module inside": ([row("a.b.weight", GOOD, "ok"), row("a.bias", NOTHING, "zero")], False),
    "the weight is NaN": ([row("a.weight", sized(NAN), "nan"), row("a.bias", NOTHING, "zero")], False),
    "a frozen weight": ([row("a.weight", None, "frozen"), row("a.bias", NOTHING, "zero")], False),
    "the scale of a norm": (
        [row("a.weight", GOOD, "ok", shape=(10,)), row("a.bias", NOTHING, "zero")], False,
    ),
    "no bias": ([row("a.weight", GOOD, "ok"), row("a.scale", NOTHING, "zero", shape=(10,))], False),
    "a bias of two dimensions": (
        [row("a.weight", GOOD, "ok"), row("a.bias", NOTHING, "zero", shape=(2, 5))], False,
    ),
    "never reached": ([row("a.weight", GOOD, "ok"), row("a.bias", None, "none")], False),
    "exploding": ([row("a.weight", GOOD, "ok"), row("a.bias", sized(1e9), "exploding")], False),
}  # fmt: skip


@pytest.mark.parametrize("case", NEIGHBOURS)
def test_bias_that_cancels_out(case: str) -> None:
    """Only a bias, only beside a weight of its own module that learns, only when far below it."""
    rows, is_cancelled = NEIGHBOURS[case]
    after = {each.name: each for each in settled(rows)}
    for each in rows:
        now = after[each.name]
        if is_cancelled and "bias" in each.name:
            assert (now.verdict, now.remark) == ("cancelled", "cancels out downstream")
            assert now.figures == each.figures
        else:
            assert now == each


def test_remark_that_is_there_stays() -> None:
    """What else was to be said of the row is not lost."""
    rows = settled([row("a.weight", GOOD, "ok"), row("a.bias", NOTHING, "zero", remark="of 3 steps")])
    assert rows[1].remark == "of 3 steps"


def test_share_below_which_a_bias_cancels_out() -> None:
    """One on either side of it; the second moment counts where it is larger."""
    weight = row("a.weight", sized(1e-7), "ok")
    for share, verdict in ((0.9, "cancelled"), (1.1, "vanishing")):
        bias = row("a.bias", sized(1e-7 * CANCELLED_SHARE * share), "vanishing")
        assert settled([weight, bias])[1].verdict == verdict
        averaged = row("a.bias", NOTHING, "vanishing", second_rms=1e-7 * CANCELLED_SHARE * share)
        assert settled([weight, averaged])[1].verdict == verdict


def verdicts(model: nn.Module, loss: Tensor) -> dict[str, Verdict]:
    """Of a real model's gradients."""
    loss.backward()
    named = unique_parameters(model)
    found = measure((each.parameter.grad, each.parameter) for each in named)
    rows = [
        GradientRow(each.name, tuple(each.parameter.shape), "float32", figures, judge(figures, USUAL))
        for each, figures in zip(named, found)
    ]
    return {each.name: each.verdict for each in settled(rows)}


class Attention(nn.Module):
    """Queries, keys and values from layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / 8
        out: Tensor = scores.softmax(-1) @ self.v(x)
        return out


def test_bias_of_the_keys() -> None:
    """The softmax takes away what it adds to all scores of a query; the others learn."""
    torch.manual_seed(0)
    model = Attention().double()
    found = verdicts(model, model(torch.randn(2, 5, 8, dtype=torch.float64)).pow(2).mean())
    assert found.pop("k.bias") == "cancelled"
    assert set(found.values()) == {"ok"}


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_bias_before_a_batch_norm(dimensions: int) -> None:
    """The mean that is taken away is its own; in eval mode, where none is, it learns."""
    torch.manual_seed(0)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
    model = nn.Sequential(convolution(2, 4, 3), norm(4), nn.Tanh()).double()
    x = torch.randn(4, 2, *[6] * dimensions, dtype=torch.float64)
    found = verdicts(model, (model(x) - 1).pow(2).mean())
    assert found.pop("0.bias") == "cancelled"
    assert set(found.values()) == {"ok"}
    model.eval().zero_grad()
    assert set(verdicts(model, (model(x) - 1).pow(2).mean()).values()) == {"ok"}


def test_dead_layer_before_a_batch_norm_is_not_excused() -> None:
    """Nothing comes back to its weight either."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.constant_(norm.bias, -100.0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 1))
    found = verdicts(model, model(torch.randn(4, 2, 6, 6)).pow(2).mean())
    assert (found["0.weight"], found["0.bias"]) == ("zero", "zero")
    assert (found["1.weight"], found["1.bias"]) == ("zero", "zero")


# ----------------------------------------------------------------------------- several


@pytest.mark.parametrize(
    ("several", "expected"),
    [
        ([], "ok"),
        (["ok", "frozen", "cancelled"], "ok"),
        (["frozen", "cancelled"], "cancelled"),
        (["frozen"], "frozen"),
        (["ok", "vanishing"], "vanishing"),
        (["vanishing", "zero"], "zero"),
        (["zero", "none"], "none"),
        (["none", "exploding"], "exploding"),
        (["exploding", "inf"], "inf"),
        (["inf", "nan"], "nan"),
    ],
)
def test_gravest_of_several(several: list[Verdict], expected: Verdict) -> None:
    """Whatever is wrong comes before whatever is not, in either order."""
    assert worst(several) == worst(several[::-1]) == expected
    assert worst([*several, "ok"]) not in {"cancelled", "frozen"}


def test_every_verdict_has_its_place() -> None:
    """None of those that --check objects to is hidden by one that is well."""
    for verdict in SICK:
        assert worst(["ok", "cancelled", verdict, "frozen"]) == verdict


def test_several_together() -> None:
    """Sums, roots of squares, the largest; a weight that isn't known makes the whole's unknown."""
    one = Figures(4, 3.0, 3.0, 3.0, 3, 0, 0, 6.0)
    two = Figures(2, 4.0, 4.0, 4.0, 1, 0, 0, 8.0)
    assert combined([one, None, two]) == Figures(6, 7.0, 5.0, 4.0, 4, 0, 0, 10.0)
    unknown = combined([one, two._replace(weight=None)])
    assert unknown is not None
    assert unknown.weight is None
    assert combined([None, None]) is None
    assert combined([]) is None
    assert [global_norm([one, two], order) for order in ("1", "2", "inf")] == [7.0, 5.0, 4.0]
    assert global_norm([None], "2") is None


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([], 0.0),
        ([0.0, 0.0], 0.0),
        ([3.0, 4.0], 5.0),
        ([3e200, 4e200], 5e200),
        ([3e-200, 4e-200], 5e-200),
        ([5e-324], 5e-324),
        ([1e308, 1e308], math.sqrt(2) * 1e308),
        ([1.7e308] * 4, INF),
        ([1.0, INF], INF),
        ([INF, NAN], NAN),
        ([NAN, INF], NAN),
    ],
)
def test_root_of_squares(norms: list[float], expected: float) -> None:
    """Nothing leaves the range of float64 before the result does."""
    assert root_of_squares(norms) == pytest.approx(expected, rel=1e-14, nan_ok=True)


def test_what_is_not_finite_is_not_lost_in_the_sum() -> None:
    """NaN before infinity; a sum that leaves the range is infinite, and no error."""
    nan = Figures(1, NAN, NAN, NAN, 0, nans=1)
    inf = Figures(1, INF, INF, INF, 0, infinities=1)
    both = combined([inf, GOOD, nan])
    assert both is not None
    assert (both.nans, both.infinities) == (1, 1)
    assert all(math.isnan(norm) for norm in (both.l1, both.l2, both.largest))
    assert global_norm([GOOD, inf], "1") == INF
    huge = Figures(1, 1.7e308, 1.7e308, 1.7e308, 0)
    assert global_norm([huge, huge], "1") == INF


SIZES = st.floats(0, 1e300)


@given(norms=st.lists(SIZES, max_size=20), cut=st.integers(0, 20))
def test_a_part_at_a_time(norms: list[float], cut: int) -> None:
    """The norm of norms is the norm, wherever they are parted."""
    whole = root_of_squares(norms)
    assert root_of_squares([root_of_squares(norms[:cut]), root_of_squares(norms[cut:])]) == pytest.approx(
        whole, rel=1e-12, abs=1e-300
    )
    assert whole >= max(norms, default=0.0) * (1 - 1e-15)


# -------------------------------------------------------------------------- the report


def report(rows: list[GradientRow], findings: tuple[Finding, ...] = ()) -> GradientsReport:
    """The least that a report holds."""
    return GradientsReport("net", "backward", rows, len(rows), "2", 1.0, findings=findings)


def test_healthy_report() -> None:
    """What learns, what is frozen and what cancels out is well."""
    good = [row("a", GOOD, "ok"), row("b", None, "frozen"), row("c", NOTHING, "cancelled")]
    assert report(good).is_healthy
    assert report(good).sick == ()
    assert report([]).is_healthy


@pytest.mark.parametrize("verdict", sorted(SICK))
def test_one_sick_row_is_enough(verdict: Verdict) -> None:
    """Each verdict that is not well."""
    sick = row("b", GOOD, verdict)
    found = report([row("a", GOOD, "ok"), sick])
    assert not found.is_healthy
    assert found.sick == (sick,)


@pytest.mark.parametrize(
    ("kind", "is_grave"),
    [
        ("nan-forward", True),
        ("nan-backward", True),
        ("nan-weight", True),
        ("nan-input", True),
        ("diverging", True),
        ("dead", False),
        ("unused", False),
        ("vanishing", False),
    ],
)
def test_findings_that_make_a_report_sick(kind: FindingKind, is_grave: bool) -> None:
    """A NaN in the loss has no row; what has one is judged by its row, shown or not."""
    assert report([row("a", GOOD, "ok")], (Finding(kind, "said"),)).is_healthy is not is_grave


def test_history_goes_to_its_rows() -> None:
    """By name; a row that was not recorded has none."""
    one, two = with_history([row("a", GOOD, "ok"), row("b", GOOD, "ok")], {"a": [1.0, None, 0.5]})
    assert (one.history, two.history) == ((1.0, None, 0.5), ())


def test_elements_of_a_row() -> None:
    """A scalar is one element, an empty shape none."""
    assert row("a", GOOD, "ok", shape=()).numel == 1
    assert row("a", GOOD, "ok", shape=(3, 0, 2)).numel == 0
    assert row("a", GOOD, "ok", shape=(3, 2)).numel == 6
