"""
What goes into a model: spelt, offered by its author, or worked out from its layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT
from torch import Tensor, nn

import modelinspect as mi
from modelinspect.errors import DefinitionError, UsageError
from modelinspect.live import inputs
from modelinspect.live.input_spec import Literal, TensorSpec, parse_inputs
from modelinspect.live.inputs import Batch, described, given_inputs, inferred_inputs, moved, samples

CPU = torch.device("cpu")


# --------------------------------------------------------------------- the grammar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32x1", TensorSpec("", (32, 1))),
        ("8", TensorSpec("", (8,))),
        ("float16[2,3]", TensorSpec("float16", (2, 3))),
        ("int64[2, 128]<1000", TensorSpec("int64", (2, 128), 1000)),
        ("int64[2,128] < 1_000", TensorSpec("int64", (2, 128), 1000)),
        ("float32[]", TensorSpec("float32", ())),
        ("ones[2,8]", TensorSpec("", (2, 8), None, "ones")),
        ("arange[4]", TensorSpec("int64", (4,), None, "arange")),
    ],
)
def test_tensors_are_spelt_so(text: str, expected: TensorSpec) -> None:
    """A shape, a typed shape, a bound, a filling."""
    assert parse_inputs([text]).args == (expected,)


def test_names_dictionaries_and_literals() -> None:
    """Behind a name stands a tensor or a literal; dots make dictionaries."""
    parsed = parse_inputs(
        ["2x3", "ids=int64[2,8]<10", "batch.x=2x3", "batch.y=ones[2]", "flag=False", "n=3", "mode='a'"]
    )
    assert parsed.args == (TensorSpec("", (2, 3)),)
    assert parsed.kwargs == {
        "ids": TensorSpec("int64", (2, 8), 10),
        "batch": {"x": TensorSpec("", (2, 3)), "y": TensorSpec("", (2,), None, "ones")},
        "flag": Literal(False),
        "n": Literal(3),
        "mode": Literal("a"),
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["2x"], "--input 2x can't be read"),
        (["int64[2;3]"], "can't be read"),
        (["ids=open('x')"], "--input ids=open('x') can't be read"),
        (["a=2", "a=3"], "a is given twice"),
        (["a=2x3", "a.b=2x3"], "a is given as a tensor already"),
        (["99999x99999"], "limit: 2,147,483,648"),
        (["int64[2]<0"], "no integer lies between 0 and 0"),
        (["float32[2]<3"], "only random integers have a bound"),
        (["bool[2]<3"], "only random integers have a bound"),
        (["x=ones[2,4]<3"], "for example int64[2,4]<3"),
        (["\x1b[31m2"], "--input \\x1b[31m2 can't be read"),
    ],
)
def test_spellings_that_are_wrong(texts: list[str], message: str) -> None:
    """Each is one message that shows what was typed."""
    with pytest.raises(UsageError) as caught:
        parse_inputs(texts)
    assert message in str(caught.value)


# -------------------------------------------------------------------------- given


def test_given_tensors_are_what_was_asked_for() -> None:
    """Type, shape, bound and filling; standard normal floats of the seed's own generator."""
    prepared = given_inputs(
        nn.Identity(), ["4x3", "bool[2,2]", "int32[500]<7", "complex64[2]", "zeros[2]", "arange[2,3]"], seed=3
    )
    floats, bools, integers, complexes, zeros, counted = prepared.batch.args
    expected = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(floats, expected)
    assert (bools.dtype, integers.dtype, complexes.dtype) == (torch.bool, torch.int32, torch.complex64)
    assert (int(integers.min()), int(integers.max())) == (0, 6)
    assert torch.equal(zeros, torch.zeros(2))
    assert torch.equal(counted, torch.arange(6).reshape(2, 3))
    assert prepared.batch.size == 4
    assert prepared.origin == "given"
    assert prepared.described.startswith("float32[4, 3], bool[2, 2], int32[500]")


def test_floats_are_of_the_models_type() -> None:
    """A model in bfloat16 gets bfloat16, unless another type is spelt."""
    prepared = given_inputs(nn.Linear(3, 1).bfloat16(), ["2x3", "float32[2,3]"], seed=0)
    assert [value.dtype for value in prepared.batch.args] == [torch.bfloat16, torch.float32]


def test_integers_without_a_bound_take_it_from_the_embeddings() -> None:
    """The smallest embedding says how large they may be, and a note says so."""
    prepared = given_inputs(nn.ModuleList([nn.Embedding(9, 2), nn.Embedding(5, 2)]), ["int64[2,400]"], seed=0)
    assert int(prepared.batch.args[0].max()) == 4
    (note,) = prepared.notes
    assert "below 5 (the smallest embedding)" in note


def test_complex_models_get_complex_numbers() -> None:
    """Where no parameter is a float, the first complex one says what numbers are."""
    weight = nn.Parameter(torch.ones(3, 2, dtype=torch.complex64))
    prepared = given_inputs(nn.ParameterList([weight]), ["2x3"], seed=0)
    assert prepared.described == "complex64[2, 3]"
    assert prepared.batch.args[0].imag.any()


def test_bags_of_embeddings_bound_integers_too() -> None:
    """As embeddings do."""
    prepared = given_inputs(nn.EmbeddingBag(4, 2), ["int64[2,400]"], seed=0)
    assert int(prepared.batch.args[0].max()) == 3


def test_argument_that_forward_lacks() -> None:
    """The names that there are, and the nearest one."""
    with pytest.raises(UsageError) as caught:
        given_inputs(nn.Transformer(8, 2, 1, 1, batch_first=True), ["srcc=2x3"], seed=0)
    assert "takes no such argument" in str(caught.value)
    assert "did you mean src?" in str(caught.value)


def test_making_inputs_leaves_the_generators_alone() -> None:
    """Neither given nor worked-out inputs draw from the global generator."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    state = torch.get_rng_state()
    given_inputs(model, ["2x3"], seed=0)
    inferred_inputs(model, seed=0, device=CPU)
    assert torch.equal(torch.get_rng_state(), state)


# --------------------------------------------------------------------- worked out


class LeNet(nn.Module):
    """Runs at 28 pixels a side, and at no other size."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5))
        self.head = nn.Linear(16 * 8 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, 28, 28) to (batch, 10)."""
        return self.head(self.features(x).flatten(1))  # type: ignore[no-any-return]


class TwoArguments(nn.Module):
    """Tokens and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, tokens) twice to (batch, tokens, 4)."""
        return self.embedding(ids) * attention_mask[..., None]  # type: ignore[no-any-return]


class Bare(nn.Module):
    """Nothing but a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 5) to (batch, 3)."""
        return x @ self.weight


class Coloured(nn.Module):
    """Flattens images itself, and takes them apart before."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3 * 8 * 8, 2)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, 8, 8) to (batch, 2)."""
        batch, _, _, _ = images.shape
        return self.one(images.reshape(batch, -1))  # type: ignore[no-any-return]


class HeadFirst(nn.Module):
    """Registers the layer that runs first behind three others."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.two, self.three = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 4)
        self.first = nn.Embedding(9, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, tokens) to (batch, tokens, 2)."""
        return self.head(self.three(self.two(self.first(ids))))  # type: ignore[no-any-return]


class BareBefore(nn.Module):
    """A parameter goes before the only layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7, 3))
        self.one = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 7) to (batch, 1)."""
        return self.one(x @ self.weight)  # type: ignore[no-any-return]


class Towers(nn.Module):
    """Two arguments of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch, 4) and (batch, 6) to (batch, 2)."""
        return self.a(x) + self.b(y)  # type: ignore[no-any-return]


class Labelled(nn.Module):
    """Returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 3)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(batch, 4) and (batch,) to a number."""
        return nn.functional.cross_entropy(self.one(x), labels)


class Timed(nn.Module):
    """Takes a step for each sample, by name only, and a mask that it inverts."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.steps = nn.Linear(4, 4), nn.Embedding(10, 4)

    def forward(self, x: Tensor, mask: Tensor, *, t: Tensor) -> Tensor:
        """(batch, tokens, 4), (batch, tokens) and (batch,) to (batch, tokens, 4)."""
        return self.one(x + self.steps(t.long())[:, None]).masked_fill(~mask[..., None], 0)  # type: ignore[no-any-return]


MODULES: list[tuple[nn.Module, str, str]] = [
    (nn.Linear(13, 2), "float32[2, 13]", "in_features=13"),
    (nn.Sequential(nn.Flatten(), nn.Linear(13, 2)), "float32[2, 13]", "1 (Linear, in_features=13)"),
    (nn.Bilinear(3, 4, 2), "float32[2, 3], float32[2, 4]", "in1_features=3, in2_features=4"),
    (nn.Conv1d(4, 2, 3), "float32[2, 4, 32]", "in_channels=4"),
    (nn.Conv2d(3, 2, 3), "float32[2, 3, 32, 32]", "in_channels=3"),
    (nn.Conv3d(3, 2, 3), "float32[2, 3, 16, 16, 16]", "in_channels=3"),
    (nn.ConvTranspose2d(3, 2, 3), "float32[2, 3, 32, 32]", "in_channels=3"),
    (nn.Embedding(9, 3), "int64[2, 8]", "num_embeddings=9"),
    (nn.EmbeddingBag(9, 3), "int64[2, 8]", "num_embeddings=9"),
    (nn.LSTM(5, 3), "float32[8, 2, 5]", "input_size=5"),
    (nn.GRU(5, 3, batch_first=True), "float32[2, 8, 5]", "input_size=5"),
    (nn.GRUCell(5, 3), "float32[2, 5]", "input_size=5"),
    (nn.LayerNorm((4, 3)), "float32[2, 4, 3]", "normalized_shape=[4, 3]"),
    (nn.RMSNorm(6), "float32[2, 6]", "normalized_shape=[6]"),
    (nn.BatchNorm2d(6), "float32[2, 6, 32, 32]", "num_features=6"),
    (nn.MultiheadAttention(8, 2), ", ".join(["float32[2, 8, 8]"] * 3), "embed_dim=8"),
    (nn.TransformerEncoderLayer(8, 2, 16), "float32[2, 8, 8]", "d_model=8"),
    (nn.TransformerDecoderLayer(8, 2, 16), "float32[2, 8, 8], float32[2, 8, 8]", "d_model=8"),
    (nn.Transformer(8, 2, 1, 1, 16, batch_first=True), "float32[2, 8, 8], float32[2, 8, 8]", "d_model=8"),
    (LeNet(), "float32[2, 1, 28, 28]", "features.0 (Conv2d, in_channels=1)"),
    (TwoArguments(), "int64[2, 8], int64[2, 8]", "embedding (Embedding, num_embeddings=11)"),
    (Bare(), "float32[2, 5]", "the shapes of its parameters"),
    (nn.GroupNorm(2, 6), "float32[2, 6]", "GroupNorm (num_channels=6)"),
    (nn.InstanceNorm2d(3, affine=True), "float32[2, 3, 32, 32]", "num_features=3"),
    (nn.Linear(3, 1, dtype=torch.complex64), "complex64[2, 3]", "in_features=3"),
    (Coloured(), "float32[2, 3, 8, 8]", "one (Linear, in_features=192)"),
    (HeadFirst(), "int64[2, 8]", "first (Embedding, num_embeddings=9)"),
    (BareBefore(), "float32[2, 7]", "the shapes of its parameters"),
    (Towers(), "float32[2, 4], float32[2, 6]", "a (Linear, in_features=4) and b (Linear, in_features=6)"),
    (Labelled(), "float32[2, 4], int64[2]", "in_features=4"),
    (Timed(), "float32[2, 8, 4], bool[2, 8], t=float32[2]", "in_features=4"),
]


@pytest.mark.parametrize(
    ("module", "expected", "why"), MODULES, ids=[type(row[0]).__name__ for row in MODULES]
)
def test_first_layer_says_what_a_model_takes(module: nn.Module, expected: str, why: str) -> None:
    """The input runs, says what it is, and says from which layer it was worked out."""
    prepared = inferred_inputs(module, seed=0, device=CPU)
    assert prepared.described == expected
    assert why in prepared.origin
    module(*prepared.batch.args, **prepared.batch.kwargs)


def test_trying_leaves_the_model_as_it_was() -> None:
    """Mode and running statistics are those of before, also where guesses failed."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 26 * 26, 2))
    before = model[1].running_mean.clone()  # type: ignore[operator]
    assert inferred_inputs(model, seed=0, device=CPU).described == "float32[2, 1, 28, 28]"
    assert model.training
    assert torch.equal(model[1].running_mean, before)  # type: ignore[arg-type]


def test_nothing_that_runs() -> None:
    """What was tried, what the model raised and where, and how to give an input."""

    class Picky(nn.Module):
        """Refuses everything."""

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x: Tensor, *, scale: float) -> Tensor:
            """Raises."""
            raise ValueError(f"not {tuple(x.shape)} at {scale}")

    with pytest.raises(DefinitionError) as caught:
        inferred_inputs(Picky(), seed=0, device=CPU)
    text = str(caught.value)
    assert "no input for Picky could be worked out" in text
    assert "it is called as forward(x, scale)" in text
    assert "tried float32[2, 4], scale=float32[2, 4]: ValueError: not (2, 4) at" in text
    assert "--input 2x3x224x224" in text


def test_trying_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes long to refuse an input is not tried with all of them; that is said."""
    calls: list[torch.Size] = []

    class Slow(nn.Module):
        """Refuses everything, after ten seconds by the clock that is looked at."""

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            """Raises."""
            calls.append(x.shape)
            raise ValueError("no")

    monkeypatch.setattr(inputs, "monotonic", lambda: 10.0 * len(calls))
    with pytest.raises(DefinitionError) as caught:
        inferred_inputs(Slow(), seed=0, device=CPU)
    assert len(calls) == 1
    assert caught.value.details[-1] == "not tried any longer than 5 seconds"


class Offering(nn.Module):
    """Says itself what it takes."""

    def __init__(self, example: Any) -> None:
        super().__init__()
        self.example_input = example
        self.one = nn.Linear(2, 2)

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """(batch, 2) and perhaps another to (batch, 2)."""
        return self.one(a if b is None else a + b)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (torch.ones(7, 2), "float32[7, 2]"),
        ((torch.ones(7, 2), torch.ones(7, 2)), "float32[7, 2], float32[7, 2]"),
        ({"a": torch.ones(7, 2), "b": torch.ones(1, 2)}, "a=float32[7, 2], b=float32[1, 2]"),
        (lambda: torch.ones(7, 2), "float32[7, 2]"),
    ],
)
def test_author_of_a_model_offers_an_input(example: Any, expected: str) -> None:
    """A tensor, a tuple, a dictionary or a function that returns one goes before any guess."""
    prepared = inferred_inputs(Offering(example), seed=0, device=CPU)
    assert prepared.described == expected
    assert "example_input" in prepared.origin


def test_example_input_of_the_file_of_a_factory(tmp_path: Path) -> None:
    """A factory's module has a class of torch's; the file that it was found in still counts."""
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\nfrom torch import nn\n"
        "def make() -> nn.Module:\n    return nn.Sequential(nn.Linear(3, 1))\n"
        "def example_input():\n    return torch.ones(11, 3)\n",
        encoding="utf-8",
    )
    report = mi.grads(f"{path}:make")
    assert report.setup["input"] == "float32[11, 3], example_input() of net.py"


def test_example_input_that_raises(tmp_path: Path) -> None:
    """It is the user's code: where and what, no bug of ours."""
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\nclass Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(3, 1)\n"
        "def example_input():\n    return 1 / 0\n",
        encoding="utf-8",
    )
    with pytest.raises(DefinitionError) as caught:
        mi.grads(str(path))
    assert "example_input() of net.py failed" in str(caught.value)
    assert "net.py:6, in example_input" in str(caught.value)


TINY: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 60,
}  # fmt: skip
HUGGING_FACE: dict[str, dict[str, Any]] = {
    "BertModel": {"model_type": "bert", **TINY},
    "BertForMaskedLM": {"model_type": "bert", **TINY},
    "BertForQuestionAnswering": {"model_type": "bert", **TINY},
    "BertForTokenClassification": {"model_type": "bert", **TINY},
    "BertForPreTraining": {"model_type": "bert", **TINY},
    "BertForMultipleChoice": {"model_type": "bert", **TINY},
    "BertForNextSentencePrediction": {"model_type": "bert", **TINY},
    "BertForSequenceClassification": {
        "model_type": "bert", "problem_type": "multi_label_classification", **TINY
    },
    "ElectraForPreTraining": {"model_type": "electra", "embedding_size": 8, **TINY},
    "RobertaForMaskedLM": {"model_type": "roberta", "max_position_embeddings": 8, **TINY},
    "GPT2ForSequenceClassification": {
        "model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 60
    },
    "BartForSequenceClassification": {
        "model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32, "vocab_size": 60, "max_position_embeddings": 32,
    },
    "ASTForAudioClassification": {
        "model_type": "audio-spectrogram-transformer", "max_length": 64, "num_mel_bins": 32,
        "patch_size": 8, "frequency_stride": 8, "time_stride": 8, **TINY,
    },
    "Speech2TextForConditionalGeneration": {
        "model_type": "speech_to_text", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32, "vocab_size": 60, "conv_channels": 16, "input_feat_per_channel": 20,
        "max_source_positions": 60, "max_target_positions": 20,
    },
    "PatchTSTModel": {
        "model_type": "patchtst", "num_input_channels": 2, "context_length": 16, "d_model": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "patch_length": 4,
        "patch_stride": 4,
    },
    "EncoderDecoderModel": {
        "model_type": "encoder-decoder", "encoder": {"model_type": "bert", **TINY},
        "decoder": {"model_type": "bert", "is_decoder": True, "add_cross_attention": True, **TINY},
    },
    "Qwen2ForCausalLM": {"model_type": "qwen2", "num_key_value_heads": 1, **TINY},
    "ViTModel": {"model_type": "vit", "image_size": 32, "patch_size": 8, **TINY},
    "WhisperForConditionalGeneration": {
        "model_type": "whisper", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32, "vocab_size": 60, "max_source_positions": 20, "max_target_positions": 20,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3,
    },
    "CLIPModel": {
        "model_type": "clip", "projection_dim": 16,
        "text_config": {"max_position_embeddings": 16, "eos_token_id": 2, **TINY},
        "vision_config": {"image_size": 32, "patch_size": 8, **TINY},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_hugging_face_configurations_say_what_goes_in(kind: str, tmp_path: Path) -> None:
    """Text, images and audio, with and without a head: it runs, and most parameters get a gradient."""
    config = {**HUGGING_FACE[kind], "architectures": [kind]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    report = mi.grads(f"transformers:{tmp_path}")
    assert f"from the configuration ({config['model_type']})" in report.setup["input"]
    if "For" in kind:
        assert report.setup["loss"] == "the model's own loss"
    reached = [row for row in report.rows if row.figures is not None]
    assert len(reached) > 0.8 * len(report.rows)


def test_models_of_the_repository_offer_theirs() -> None:
    """Each file in models/ has an example_input() that is found."""
    for file in sorted((ROOT / "models").glob("*.py")):
        if file.name != "giant.py":
            assert "example_input() of" in mi.grads(str(file)).setup["input"]


# ------------------------------------------------------------------------ batches


def test_batches_are_moved_whole() -> None:
    """Floats take the type, integers keep theirs, at any depth; what is no tensor stays."""
    batch = Batch(
        (torch.ones(2), [torch.arange(2)]), {"a": {"b": torch.ones(2)}, "flag": True}, torch.ones(2)
    )
    there = moved(batch, CPU, torch.float16)
    assert there.args[0].dtype is torch.float16
    assert there.args[1][0].dtype is torch.int64
    assert there.kwargs["a"]["b"].dtype is torch.float16
    assert there.kwargs["flag"] is True
    assert there.target.dtype is torch.float16


def test_samples_of_a_batch() -> None:
    """Each has an axis of one; what is not as long as the batch is part of every one."""
    batch = Batch((torch.arange(6).reshape(3, 2),), {"table": torch.ones(5)}, torch.arange(3), 3)
    cut = list(samples(batch))
    assert [sample.args[0].tolist() for sample in cut] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [sample.target.tolist() for sample in cut] == [[0], [1], [2]]
    assert all(len(sample.kwargs["table"]) == 5 for sample in cut)


def test_description_is_one_line() -> None:
    """Nested containers and literals, long ones cut, control characters escaped."""
    batch = Batch((torch.ones(2), (torch.ones(1), None)), {"a": [1], "text": "x\x1b" * 40})
    assert described(batch).startswith("float32[2], (float32[1], None), a=[1], text=")
    assert "\x1b" not in described(batch)
    assert "\n" not in described(batch)
