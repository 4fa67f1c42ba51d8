"""
Losses: by name, and the one that suits an output and a target.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modelinspect.errors import DefinitionError, ModelInspectError, UsageError
from modelinspect.live.losses import Loss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 4, generator=GENERATOR)
CLASSES = torch.tensor([0, 1, 2, 3, 0, 1])


def _loss(name: str | None, output: Any, target: Any) -> tuple[Tensor, str]:
    loss = Loss(name, seed=5)
    return loss(output, target), loss.described


def test_classes_get_cross_entropy() -> None:
    """Integers beside (n, classes), (n, classes, …) and, as language models have it, (n, …, classes)."""
    value, described = _loss(None, LOGITS, CLASSES)
    assert described == "cross_entropy"
    assert torch.equal(value, functional.cross_entropy(LOGITS, CLASSES))
    images, pixels = torch.randn(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.long)
    assert torch.equal(_loss(None, images, pixels)[0], functional.cross_entropy(images, pixels))
    words, tokens = torch.randn(2, 7, 9), torch.randint(9, (2, 7))
    expected = functional.cross_entropy(words.flatten(0, 1), tokens.flatten())
    assert torch.equal(_loss(None, words, tokens)[0], expected)
    assert torch.equal(_loss(None, LOGITS, CLASSES[:, None])[0], functional.cross_entropy(LOGITS, CLASSES))


def test_numbers_get_the_mean_squared_error() -> None:
    """Floats; and integers that are as many as the numbers put out, which may be whole by chance."""
    output, target = torch.randn(6, 1), torch.randn(6, 1)
    assert _loss(None, output, target)[1] == "mse_loss"
    assert torch.equal(_loss(None, output, target)[0], functional.mse_loss(output, target))
    assert _loss(None, output, torch.arange(6))[1] == "mse_loss"


def test_a_column_beside_a_vector_is_not_broadcast() -> None:
    """(n, 1) beside (n,) would be (n, n); the target takes the shape of the output."""
    output, target = torch.randn(6, 1), torch.randn(6)
    assert torch.equal(_loss(None, output, target)[0], functional.mse_loss(output, target[:, None]))


def test_shapes_that_do_not_fit() -> None:
    """An error that shows both, instead of a broadcast."""
    for name, output, target in (("mse", torch.randn(6, 2), torch.randn(6)), (None, LOGITS, torch.arange(5))):
        with pytest.raises(UsageError) as caught:
            _loss(name, output, target)
        assert "the output and the target don't fit together" in str(caught.value)
        assert "output: float32[6," in str(caught.value)


def test_models_own_loss() -> None:
    """Alone, as an attribute, as an entry; --loss model also takes the first of a tuple."""
    one = torch.tensor(2.5, requires_grad=True)
    for output in (one, SimpleNamespace(loss=one), {"loss": one, "logits": LOGITS}):
        assert _loss(None, output, None) == (one, "the model's own loss")
    assert _loss("model", (one, LOGITS), None)[0] is not None
    with pytest.raises(UsageError, match="the model returns no loss"):
        _loss("model", LOGITS, None)


def test_probe_can_be_recomputed_by_hand() -> None:
    """Without a target: each output against torch.randn of the seed's generator, summed."""
    outputs = {
        "a": LOGITS,
        "b": [torch.ones(3), (torch.ones(2, dtype=torch.complex64),)],
        "n": torch.arange(3),
    }
    value, described = _loss(None, outputs, None)
    assert described.startswith("probe")
    expected = torch.zeros(())
    for tensor in (LOGITS, torch.ones(3), torch.view_as_real(torch.ones(2, dtype=torch.complex64))):
        random = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5))
        expected = expected + functional.mse_loss(tensor, random)
    torch.testing.assert_close(value, expected)


def _layer_norm(x: Tensor, dim: int) -> Tensor:
    return functional.layer_norm(x, x.shape[dim:])


@pytest.mark.parametrize("end", [torch.softmax, _layer_norm])
def test_probe_sees_what_a_sum_does_not(end: Any) -> None:
    """The sum of a softmax, the sum and the mean square of a LayerNorm are constant: no gradient."""
    x = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_loss("sum", end(x, dim=-1), None)[0], x)
    assert gradient.abs().max() < 1e-6
    (gradient,) = torch.autograd.grad(_loss(None, end(x, dim=-1), None)[0], x)
    assert gradient.abs().max() > 1e-3


def test_sum_and_mean() -> None:
    """Over every floating-point output; iterators are read."""
    outputs = iter([torch.ones(3), torch.full((2,), 4.0)])
    assert float(_loss("sum", outputs, None)[0]) == 11
    assert float(_loss("mean", [torch.ones(3), torch.full((2,), 4.0)], None)[0]) == 5


def test_outputs_that_come_one_by_one_meet_a_target() -> None:
    """The loss is chosen by the first of them, and computed from it."""
    value, described = _loss(None, (tensor for tensor in [LOGITS]), CLASSES)
    assert described == "cross_entropy"
    assert torch.equal(value, functional.cross_entropy(LOGITS, CLASSES))


def test_targets_that_are_numbers_of_classes_stay_integers() -> None:
    """Several classes a sample, one class a sample, one sample alone."""
    several = torch.tensor([[0, 2, -1, -1]] * 6)
    expected = functional.multilabel_margin_loss(LOGITS, several)
    assert torch.equal(_loss("multilabel_margin", LOGITS, several)[0], expected)
    expected = functional.multi_margin_loss(LOGITS, CLASSES)
    assert torch.equal(_loss("multi_margin", LOGITS, CLASSES.int())[0], expected)
    expected = functional.cross_entropy(LOGITS[0], CLASSES[0])
    assert torch.equal(_loss("cross_entropy", LOGITS[0], CLASSES[0])[0], expected)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mse", functional.mse_loss),
        ("l1", functional.l1_loss),
        ("smooth_l1", functional.smooth_l1_loss),
        ("huber_loss", functional.huber_loss),
        ("bce_with_logits", functional.binary_cross_entropy_with_logits),
        ("poisson_nll", functional.poisson_nll_loss),
        ("soft_margin", functional.soft_margin_loss),
    ],
)
def test_names_are_those_of_torch(name: str, function: Any) -> None:
    """With or without _loss; bce is short for binary_cross_entropy."""
    target = (LOGITS > 0).float()
    assert torch.equal(_loss(name, LOGITS, target)[0], function(LOGITS, target))


def test_loss_of_ones_own(tmp_path: Path) -> None:
    """A function of output and target, or of the output alone."""
    path = tmp_path / "mine.py"
    path.write_text(
        "def both(output, target):\n    return (output - target).abs().max()\n"
        "def alone(output):\n    return output.max()\n"
        "def vector(output):\n    return output\n"
        "def broken(output):\n    return output.no_such_thing\n",
        encoding="utf-8",
    )
    target = torch.zeros_like(LOGITS)
    assert torch.equal(_loss(f"{path}:both", LOGITS, target)[0], LOGITS.abs().max())
    assert torch.equal(_loss(f"{path}:alone", LOGITS, None)[0], LOGITS.max())
    with pytest.raises(DefinitionError, match="has 24 values, and one is differentiated"):
        _loss(f"{path}:vector", LOGITS, None)
    with pytest.raises(DefinitionError) as caught:
        _loss(f"{path}:broken", LOGITS, None)
    assert "mine.py:8, in broken" in str(caught.value)
    assert "output: float32[6, 4]; target: nothing" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "output", "target", "message"),
    [
        ("crossentropy", LOGITS, CLASSES, "did you mean cross_entropy or binary_cross_entropy?"),
        ("relu", LOGITS, None, "there is no loss 'relu'"),
        ("MSELoss", LOGITS, LOGITS, "did you mean mse?"),
        ("mse_los", LOGITS, LOGITS, "did you mean mse_loss?"),
        ("gaussian_nll", LOGITS, LOGITS, "there is no loss 'gaussian_nll'"),
        (None, LOGITS, {"a": CLASSES}, "takes one tensor as the target, and here it is a dict"),
        ("mse", LOGITS, None, "needs a target, and there is none"),
        (None, torch.arange(3), None, "which no gradient flows through"),
        (None, "text", None, "the model puts out a str"),
        ("sum", torch.ones(2, dtype=torch.complex64), None, None),
        ("nowhere.py:fn", LOGITS, None, "nowhere.py"),
    ],
)
def test_errors(name: str | None, output: Any, target: Any, message: str | None) -> None:
    """Each has a sentence of its own; a complex output is summed as pairs of numbers."""
    if message is None:
        assert float(_loss(name, output, target)[0]) == 2
        return
    with pytest.raises(ModelInspectError) as caught:
        _loss(name, output, target)
    assert message in str(caught.value)
