"""
Gradients of definitions and modules against those that torch gives by hand.
"""

from __future__ import annotations

import importlib.util
import json
import math
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT
from torch import Tensor, nn

import modelinspect as mi
from modelinspect.analysis.gradients import GradientsReport
from modelinspect.errors import DefinitionError, UsageError

MODELS = ROOT / "models"
SMALL_GIANT = "(layers=2, width=64, inner=128, heads=4, groups=2, vocabulary=100)"
TARGETS = [
    ("regression.py", "Regression", ""),
    ("regression_named.py", "Thermometer", ""),
    ("encoder_a.py", "TextEncoder", ""),
    ("encoder_b.py", "Classifier", ""),
    ("tied.py", "Speller", ""),
    ("convolutional.py", "Digits", ""),
    ("tiny_lm.py", "TinyLM", ""),
    ("sigmoid_stack.py", "SigmoidStack", ""),
    ("giant.py", "Giant", SMALL_GIANT),
]


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"by_hand_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_hand(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    """Gradients by name, as any script gets them."""
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same(report: GradientsReport, expected: dict[str, Tensor | None]) -> None:
    """Every figure of every row, and the global norm, in float64."""
    assert [row.name for row in report.rows] == list(expected)
    squares = 0.0
    for row in report.rows:
        gradient = expected[row.name]
        if gradient is None:
            assert row.figures is None
            continue
        exact = gradient.detach().to_dense()
        exact = exact.abs().double() if exact.is_complex() else exact.double()
        assert row.figures is not None
        assert row.figures.l2 == pytest.approx(exact.norm().item(), rel=1e-6, abs=1e-300), row.name
        assert row.figures.l1 == pytest.approx(exact.abs().sum().item(), rel=1e-6, abs=1e-300)
        assert row.figures.largest == pytest.approx(exact.abs().max().item(), rel=1e-6)
        assert row.figures.zeros == int((exact == 0).sum())
        squares += exact.square().sum().item()
    assert report.global_norm == pytest.approx(math.sqrt(squares), rel=1e-6)


# The speller and the giant make tensors that no cast reaches: they run as they are only.
CASES = [
    (*row, dtype)
    for row in TARGETS
    for dtype in (None, "float64", "bfloat16")
    if dtype is None or row[0] not in {"tied.py", "giant.py"}
]


@pytest.mark.parametrize(("file", "name", "arguments", "dtype"), CASES)
def test_example_models_are_as_by_hand(file: str, name: str, arguments: str, dtype: str | None) -> None:
    """Each model in models/, with its example input and the sum of its output as the loss."""
    target = f"{MODELS / file}:{name}{arguments}"
    report = mi.grads(target, loss="sum", dtype=dtype, seed=3)
    module = _imported(MODELS / file)
    torch.manual_seed(3)
    sizes = dict(part.split("=") for part in arguments.strip("()").split(", ") if part)
    model = getattr(module, name)(**{key: int(value) for key, value in sizes.items()})
    example = module.example_input()
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
        example = example.to(getattr(torch, dtype)) if example.is_floating_point() else example
    torch.manual_seed(3)
    output = model(example)
    finite = output.sum()
    assert_same(report, by_hand(model, finite))
    assert report.loss == pytest.approx(finite.item(), rel=1e-6, nan_ok=True)


HUGGING_FACE = {
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"], "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 60,
        "n_positions": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
    "bert": {
        "architectures": ["BertForSequenceClassification"], "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 60, "max_position_embeddings": 32,
    },
    "vit": {
        "architectures": ["ViTForImageClassification"], "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 8,
    },
    "t5": {
        "architectures": ["T5ForConditionalGeneration"], "d_model": 16, "d_kv": 8, "d_ff": 32,
        "num_layers": 2, "num_heads": 2, "vocab_size": 60, "decoder_start_token_id": 0,
    },
    "llama": {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "vocab_size": 60,
    },
}  # fmt: skip
INPUTS = {
    "gpt2": ("input_ids=int64[2,9]<60",),
    "bert": ("input_ids=int64[2,9]<60",),
    "vit": ("pixel_values=2x3x32x32",),
    "t5": ("input_ids=int64[2,9]<60", "decoder_input_ids=int64[2,5]<60"),
    "llama": ("input_ids=int64[2,9]<60",),
}


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_hugging_face_models_are_as_by_hand(kind: str, tmp_path: Path) -> None:
    """Models from a configuration, on an input that is given: the sum of the logits."""
    import transformers

    from modelinspect.live.inputs import given_inputs

    config = {"model_type": kind, **HUGGING_FACE[kind]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    report = mi.grads(
        f"transformers:{tmp_path}", inputs=INPUTS[kind], loss=lambda output: output.logits.sum(), mode="eval"
    )
    torch.manual_seed(0)
    model = getattr(transformers, config["architectures"][0])._from_config(  # type: ignore[index]
        transformers.AutoConfig.from_pretrained(tmp_path)
    )
    model.eval()
    batch = given_inputs(model, INPUTS[kind], seed=0).batch
    assert_same(report, by_hand(model, model(*batch.args, **batch.kwargs).logits.sum()))


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_hugging_face_models_need_no_input(kind: str, tmp_path: Path) -> None:
    """Worked out from the configuration, with labels: the loss is the model's own, and nothing is sick."""
    config = {"model_type": kind, **HUGGING_FACE[kind]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    report = mi.grads(f"transformers:{tmp_path}")
    assert report.loss is not None
    assert report.setup["loss"] == "the model's own loss"
    assert {row.verdict for row in report.rows} <= {"ok", "cancelled"}


# ------------------------------------------------------------------- every kind of model


def _definition(folder: Path, source: str) -> str:
    path = folder / "net.py"
    head = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
    path.write_text(head + textwrap.dedent(source), encoding="utf-8")
    return str(path)


KINDS = {
    "frozen": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)
                self.one.requires_grad_(False)
            def forward(self, x):
                return self.two(self.one(x))
    """,
    "tied": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
                self.two.weight = self.one.weight
            def forward(self, x):
                return self.two(torch.tanh(self.one(x)))
    """,
    "unused": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.spare = nn.Linear(4, 4), nn.Linear(4, 2)
            def forward(self, x):
                return self.one(x)
    """,
    "in place": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.act, self.two = nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)
            def forward(self, x):
                x = self.act(self.one(x)) * 1
                x += 1
                x[:, 0] *= 2
                return self.two(x).mul_(3)
    """,
    "checkpointed": """
        from torch.utils.checkpoint import checkpoint
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            def forward(self, x):
                x = checkpoint(self.one, x, use_reentrant=False)
                return checkpoint(self.two, x, use_reentrant=True)
    """,
    "complex": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
            def forward(self, x):
                return (x.to(torch.complex64) @ self.w).abs()
    """,
    "sparse": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.out = nn.Embedding(50, 4, sparse=True), nn.Linear(4, 2)
            def forward(self, x):
                return self.out(self.embedding(x.abs().long()))
    """,
    "several outputs": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)
            def forward(self, x):
                return {"one": self.one(x), "two": [self.two(x), (self.two(x) * 2,)]}
    """,
    "lazy": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.LazyLinear(4), nn.LazyLinear(2)
            def forward(self, x):
                return self.two(self.one(x))
    """,
}  # fmt: skip


def _total(output: Any) -> Tensor:
    """The sum over every tensor in an output."""
    if isinstance(output, Tensor):
        return output.sum()
    values = output.values() if isinstance(output, dict) else output
    return torch.stack([_total(value) for value in values]).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_every_kind_of_model_is_as_by_hand(kind: str, tmp_path: Path) -> None:
    """Frozen, tied, unused, in place, checkpointed, complex, sparse, many outputs, lazy."""
    from modelinspect.live.inputs import given_inputs

    target = _definition(tmp_path, KINDS[kind])
    report = mi.grads(target, inputs="3x4", loss="sum", seed=1)
    torch.manual_seed(1)
    model = _imported(Path(target)).Net()
    batch = given_inputs(model, ("3x4",), seed=1).batch
    torch.manual_seed(1)
    assert_same(report, by_hand(model, _total(model(*batch.args))))


def test_tied_weights_have_one_row(tmp_path: Path) -> None:
    """Under the first name, with the other beside it; the global norm counts them once."""
    report = mi.grads(_definition(tmp_path, KINDS["tied"]), inputs="3x4")
    assert [(row.name, row.also) for row in report.rows if row.also] == [("one.weight", ("two.weight",))]


def test_frozen_and_unreached_parameters_are_told_apart(tmp_path: Path) -> None:
    """One asks for no gradient, the other gets none, and why is said."""
    frozen = mi.grads(_definition(tmp_path, KINDS["frozen"]), inputs="3x4")
    assert [row.verdict for row in frozen.rows] == ["frozen", "frozen", "ok", "ok"]
    assert frozen.is_healthy
    unused = mi.grads(_definition(tmp_path, KINDS["unused"]), inputs="3x4")
    assert [row.verdict for row in unused.rows] == ["ok", "ok", "none", "none"]
    assert not unused.is_healthy
    (finding,) = unused.findings
    assert finding.text == "no gradient for spare (Linear) (2 parameters): it never ran in the forward pass"


def test_model_without_parameters(tmp_path: Path) -> None:
    """There is nothing to differentiate, which is said, and no error of torch's."""
    target = _definition(tmp_path, "class Net(nn.Module):\n    def forward(self, x):\n        return x * 2\n")
    report = mi.grads(target, inputs="3x4")
    assert (report.rows, report.global_norm) == ([], None)
    assert "the model has no parameters" in report.notes


def test_only_frozen_parameters(tmp_path: Path) -> None:
    """The same for a model that is frozen as a whole."""
    target = _definition(
        tmp_path, "def Net() -> nn.Module:\n    return nn.Linear(4, 2).requires_grad_(False)\n"
    )
    report = mi.grads(target, inputs="3x4")
    assert [row.verdict for row in report.rows] == ["frozen", "frozen"]
    assert "every parameter is frozen (requires_grad is False)" in report.notes


# ----------------------------------------------------------------------- seeds and modes


def test_a_seed_gives_the_same_figures(tmp_path: Path) -> None:
    """Dropout included; another seed gives others; the caller's generator does not matter."""
    target = _definition(
        tmp_path,
        "def Net() -> nn.Module:\n    return nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 1))\n",
    )
    first = mi.grads(target, seed=5)
    torch.manual_seed(999)
    state = torch.get_rng_state()
    assert mi.grads(target, seed=5).rows == first.rows
    assert torch.equal(torch.get_rng_state(), state)
    assert mi.grads(target, seed=6).global_norm != first.global_norm
    assert mi.grads(target, seed=5, mode="eval").global_norm != first.global_norm


def test_module_in_hand_comes_back_as_it_was() -> None:
    """Mode, gradients, running statistics, data type, values, hooks and generators."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    model[2].eval()
    model[0].weight.grad = marked = torch.ones(4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    state = torch.get_rng_state()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    mi.grads(model, inputs=x, dtype="bfloat16", mode="train")
    mi.grads(model, inputs=x, steps=3, optimizer="sgd", lr=0.1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model] == [True, True, False, True]
    assert model[0].weight.grad is marked
    assert all(parameter.grad is None for parameter in list(model.parameters())[1:])
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_gradients_of_a_module_in_hand() -> None:
    """Tensors as a tuple and as a dict, a target, a loss of one's own."""
    torch.manual_seed(0)
    model = nn.Bilinear(3, 4, 2)
    x, y, target = torch.randn(5, 3), torch.randn(5, 4), torch.randn(5, 2)
    loss = nn.functional.smooth_l1_loss(model(x, y), target)
    expected = by_hand(model, loss)
    for inputs in ((x, y), {"input1": x, "input2": y}):
        report = mi.grads(model, inputs=inputs, target=target, loss=nn.functional.smooth_l1_loss)
        assert_same(report, expected)
        assert_same(mi.grads(model, inputs=inputs, target=target, loss="smooth_l1"), expected)


def test_definition_in_hand_must_be_real() -> None:
    """On the meta device there is nothing to differentiate; built for real it is a module like any other."""
    target = str(MODELS / "regression.py")
    with pytest.raises(UsageError, match="meta device"):
        mi.grads(mi.load_definition(target))
    assert mi.grads(mi.load_definition(target, real=True, seed=0)).rows == mi.grads(target).rows


# ------------------------------------------------------------------------- per sample


def test_spread_over_the_batch() -> None:
    """Least, median and most are those of the gradients of each sample alone."""
    torch.manual_seed(0)
    model, x, target = nn.Linear(4, 1), torch.randn(5, 4), torch.randn(5, 1)
    report = mi.grads(model, inputs=x, target=target, loss="mse", per_sample=True)
    norms = []
    for sample, wanted in zip(x, target):
        gradient = by_hand(model, nn.functional.mse_loss(model(sample[None]), wanted[None]))["weight"]
        assert gradient is not None
        norms.append(gradient.norm().item())
    assert report.rows[0].spread == pytest.approx((min(norms), sorted(norms)[2], max(norms)), rel=1e-6)
    assert report.sample_spread is not None
    whole = by_hand(model, nn.functional.mse_loss(model(x), target))
    assert report.rows[0].figures is not None
    assert whole["weight"] is not None
    assert report.rows[0].figures.l2 == pytest.approx(whole["weight"].norm().item(), rel=1e-6)


def test_samples_have_the_probes_targets_of_the_batch() -> None:
    """The gradients of the samples average to that of the batch, without a target, too."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(2, 4)
    report = mi.grads(model, inputs=x, per_sample=True)
    target = torch.randn(2, 1, generator=torch.Generator().manual_seed(0))
    norms = []
    for sample, wanted in zip(x, target):
        gradient = by_hand(model, nn.functional.mse_loss(model(sample[None]), wanted[None]))["weight"]
        assert gradient is not None
        norms.append(gradient.norm().item())
    assert report.rows[0].spread is not None
    assert (report.rows[0].spread.least, report.rows[0].spread.most) == pytest.approx(
        (min(norms), max(norms))
    )


# ------------------------------------------------------------------------------ errors


def test_forward_that_raises_shows_the_input_and_the_place(tmp_path: Path) -> None:
    """What went in, where in the user's file, what torch said, how to give another input."""
    target = _definition(
        tmp_path,
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Linear(4, 4), nn.Linear(5, 2)
            def forward(self, x):
                return self.two(self.one(x))
        """,
    )
    with pytest.raises(DefinitionError) as caught:
        mi.grads(target, inputs="3x4")
    text = str(caught.value)
    assert "the forward pass failed" in text
    assert "input: float32[3, 4], given" in text
    assert "net.py:10, in forward" in text
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in text
    assert "--input" in text


def test_definition_that_is_too_large_is_refused_before_it_is_built() -> None:
    """70 billion parameters take more than this machine has, and nothing is allocated to find out."""
    with pytest.raises(DefinitionError, match="too large for its gradients"):
        mi.grads(str(MODELS / "giant.py"))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"steps": 0}, "--steps is 0, and must be at least 1"),
        ({"steps": 1, "epochs": 1}, "--steps and --epochs are two ways"),
        ({"lr": 0.1}, "--lr is of training"),
        ({"every": 5}, "--every is of training"),
        ({"steps": 1, "lr": -1.0}, "--lr is -1.0, and must be a positive number"),
        ({"steps": 1, "optimizer": "adamm"}, "torch.optim has no optimizer 'adamm'"),
        ({"steps": 1, "optimizer": "sgd(momentun=1)"}, "torch.optim.SGD can't be made"),
        ({"dtype": "float17"}, "--dtype: torch has no floating-point type 'float17'"),
        ({"device": "tpu9"}, "can't be put on tpu9"),
        ({"batch_size": 3}, "are of data"),
        ({"parallel": "fsdp"}, "needs processes that torchrun has started"),
        ({"tree": True, "by_module": True}, "give one"),
        ({"depth": 1}, "no tree asked for"),
        ({"sort": "nrom"}, "can't be sorted by 'nrom'"),
    ],
)
def test_a_call_that_makes_no_sense(recipe: dict[str, Any], message: str) -> None:
    """Each has its own sentence, before anything is trained."""
    with pytest.raises(UsageError) as caught:
        mi.grads(str(MODELS / "regression.py"), **recipe)
    assert message in str(caught.value)
