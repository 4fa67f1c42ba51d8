"""What a checkpoint says of gradients; the truth is the live optimizer's state, in float64."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelinspect.analysis.gradients import GradientRow, GradientsReport, Thresholds
from modelinspect.analysis.optimizer_state import checkpoint_gradients, optimizer_gradients, saved_gradients
from modelinspect.errors import UnknownAnswerError, UsageError
from modelinspect.live.module_table import module_table
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint

Truth = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[torch.Tensor, torch.Tensor | None]]
Make = Callable[[Any], torch.optim.Optimizer]


class Net(nn.Module):
    """Shapes that repeat, and buffers between them."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, dtype=dtype)
        self.norm = nn.BatchNorm1d(4, dtype=dtype)
        self.second = nn.Linear(4, 4, dtype=dtype)
        self.head = nn.Linear(4, 2, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.norm(self.first(x)).tanh()))  # type: ignore[no-any-return]


def trained(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    """A few steps; the loss is not symmetric, so that no moment is 0."""
    generator = torch.Generator().manual_seed(0)
    dtype = next(iter(net.parameters())).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 4, generator=generator, dtype=torch.float64).to(dtype)
        out = net(x)
        (out.abs().square().mean() + out.real.sum() * 0.1).backward()
        optimizer.step()


def saved(path: Path, value: Any, *, legacy: bool = False) -> Checkpoint:
    """Write with torch, open as a user does."""
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return open_checkpoint(str(path))


def both(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What most training scripts save."""
    return {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


def rows_of(report: GradientsReport) -> dict[str, GradientRow]:
    """By name."""
    found = {row.name: row for row in report.rows}
    assert len(found) == len(report.rows) == report.parameters
    return found


def note(report: GradientsReport, start: str) -> str:
    """The one note that begins like that."""
    (found,) = [said for said in report.notes if said.startswith(start)]
    return found


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float64."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def assert_figures(row: GradientRow, first: torch.Tensor, weight: torch.Tensor | None) -> None:
    """The row's figures are those of the tensor."""
    first, figures = wide(first).abs().reshape(-1), row.figures
    assert figures is not None
    assert figures.numel == first.numel()
    assert figures.l1 == pytest.approx(first.sum().item(), rel=1e-12)
    assert figures.l2 == pytest.approx(first.norm().item(), rel=1e-12)
    assert figures.largest == pytest.approx(first.max().item(), rel=1e-12)
    assert figures.zeros == int((first == 0).sum())
    if weight is None:
        assert figures.weight is None
    else:
        assert figures.weight == pytest.approx(wide(weight).norm().item(), rel=1e-12)


def assert_live(
    report: GradientsReport, net: nn.Module, optimizer: torch.optim.Optimizer, truth: Truth, rel: float = 1e-6
) -> None:
    """Every row is what the live optimizer holds of the parameter of that name."""
    rows = rows_of(report)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    held = {name: p for name, p in net.named_parameters() if len(optimizer.state.get(p, {}))}
    assert list(rows) == list(held)
    squares = 0.0
    for name, parameter in held.items():
        row = rows[name]
        first, second = truth(optimizer.state[parameter], groups[id(parameter)])
        assert row.shape == tuple(parameter.shape)
        assert f"torch.{row.dtype}" == str(parameter.dtype)
        assert_figures(row, first, parameter.detach())
        squares += wide(first).norm().item() ** 2
        if second is None:
            assert row.second_rms is None
        else:
            assert row.second_rms == pytest.approx(math.sqrt(second.mean().item()), rel=rel)
    assert report.global_norm == pytest.approx(math.sqrt(squares), rel=rel)


def squares_of(tensor: torch.Tensor) -> torch.Tensor:
    """Of a complex parameter the squares of both parts are kept."""
    return tensor.real.double() + tensor.imag.double() if tensor.is_complex() else tensor.double()


def adam(state: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As ``_single_tensor_adam`` corrects them."""
    (beta1, beta2), step = group["betas"], float(state["step"])
    second = squares_of(state["exp_avg_sq"]) / (1 - beta2**step) if "exp_avg_sq" in state else None
    return wide(state["exp_avg"]) / (1 - beta1**step), second


def root(leaf: str) -> Truth:
    """Of optimizers that keep squares alone."""
    return lambda state, _: (squares_of(state[leaf]).sqrt(), squares_of(state[leaf]))


def adagrad(state: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sum of squares over the steps."""
    mean = (squares_of(state["sum"]) - group["initial_accumulator_value"]) / float(state["step"])
    return mean.sqrt(), mean


def plain(leaf: str) -> Truth:
    """As it is stored."""
    return lambda state, _: (state[leaf], None)


OPTIMIZERS: dict[str, tuple[Make, Truth]] = {
    "Adam": (torch.optim.Adam, adam),
    "AdamW amsgrad": (lambda p: torch.optim.AdamW(p, amsgrad=True, betas=(0.8, 0.95)), adam),
    "Adam of beta 0": (lambda p: torch.optim.Adam(p, betas=(0.0, 0.9)), adam),
    "NAdam": (torch.optim.NAdam, adam),
    "RAdam": (torch.optim.RAdam, adam),
    "Adamax": (torch.optim.Adamax, adam),
    "SGD": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), plain("momentum_buffer")),
    "RMSprop": (torch.optim.RMSprop, root("square_avg")),
    "RMSprop momentum": (lambda p: torch.optim.RMSprop(p, momentum=0.9), root("square_avg")),
    "RMSprop centered": (
        lambda p: torch.optim.RMSprop(p, centered=True),
        lambda state, _: (state["grad_avg"], squares_of(state["square_avg"])),
    ),
    "Adadelta": (torch.optim.Adadelta, root("square_avg")),
    "Adagrad": (torch.optim.Adagrad, adagrad),
    "Adagrad from 0.1": (lambda p: torch.optim.Adagrad(p, initial_accumulator_value=0.1), adagrad),
    "Rprop": (torch.optim.Rprop, plain("prev")),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("legacy", [False, True])
def test_equal_to_the_live_optimizer(kind: str, legacy: bool, tmp_path: Path) -> None:
    """Moments of torch's optimizers, under the names of the parameters, from both layouts."""
    torch.manual_seed(0)
    make, truth = OPTIMIZERS[kind]
    net = Net()
    optimizer = make(net.parameters())
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer), legacy=legacy))
    assert report.source == "optimizer"
    assert_live(report, net, optimizer, truth)
    assert note(report, "names are inferred").endswith("no other reading in that order fits the shapes")
    assert report.setup["section"] == "optimizer"
    # What a bias adds before a batch norm is taken away again.
    assert {row.name: row.verdict for row in report.rows if row.verdict not in ("ok", "cancelled")} == {}
    assert {row.name for row in report.rows if row.verdict == "cancelled"} <= {"first.bias"}


def test_adafactor_is_shown_by_its_factors(tmp_path: Path) -> None:
    """Rows and columns of means stand for the matrix that Adafactor makes of them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = torch.optim.Adafactor(net.parameters())
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))

    def truth(state: Mapping[str, Any], _: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        if "variance" in state:
            return state["variance"].double().sqrt(), state["variance"].double()
        row, column = state["row_var"].double(), state["col_var"].double()
        estimate = row @ column / row.mean(dim=-2, keepdim=True)
        return estimate.sqrt(), estimate

    assert_live(report, net, optimizer, truth)


def test_adafactor_of_transformers(tmp_path: Path) -> None:
    """Its factors lack the axis that was averaged, and may be of a stack of matrices."""
    row, column = torch.rand(2, 3) + 0.1, torch.rand(2, 4) + 0.1
    state = {0: {"step": 5, "exp_avg_sq_row": row, "exp_avg_sq_col": column}}
    value = {"state": state, "param_groups": [{"params": [0], "lr": None}]}
    (found,) = checkpoint_gradients(saved(tmp_path / "x.pt", value)).rows
    estimate = row.double()[..., None] * column.double()[:, None] / row.double().mean(-1)[:, None, None]
    assert found.shape == (2, 3, 4)
    assert_figures(found, estimate.sqrt(), None)


def test_muon_and_adam_in_one_file(tmp_path: Path) -> None:
    """Two optimizers share a model: matrices to the one, vectors to the other."""
    net = Net()
    optimizers = [
        torch.optim.Muon([p for p in net.parameters() if p.ndim == 2]),
        torch.optim.AdamW([p for p in net.parameters() if p.ndim < 2]),
    ]
    for optimizer in optimizers:
        trained(net, optimizer)
    value = {"state_dict": net.state_dict(), "optimizer_states": [each.state_dict() for each in optimizers]}
    report = checkpoint_gradients(saved(tmp_path / "x.ckpt", value))
    rows = rows_of(report)
    assert list(rows) == [name for name, _ in net.named_parameters()]
    for name, parameter in net.named_parameters():
        state = optimizers[parameter.ndim < 2].state[parameter]
        first = state["momentum_buffer"] if parameter.ndim == 2 else adam(state, {"betas": (0.9, 0.999)})[0]
        assert_figures(rows[name], first, parameter.detach())
    assert report.setup["optimizer"] == "Muon: momentum_buffer; Adam-like: exp_avg, exp_avg_sq"
    assert report.setup["section"] == "optimizer_states.0; optimizer_states.1"
    only = checkpoint_gradients(open_checkpoint(str(tmp_path / "x.ckpt")), section="optimizer_states.1")
    assert [row.name for row in only.rows] == [name for name, p in net.named_parameters() if p.ndim < 2]


def test_two_optimizers_of_one_model_twice(tmp_path: Path) -> None:
    """Optimizers that share their parameters are each read by themselves."""
    net = Net()
    optimizers = [torch.optim.Adam(net.parameters()), torch.optim.SGD(net.parameters(), 0.1, momentum=0.5)]
    for optimizer in optimizers:
        trained(net, optimizer)
    value = {
        "model": net.state_dict(),
        "opt_a": optimizers[0].state_dict(),
        "opt_b": optimizers[1].state_dict(),
    }
    report = checkpoint_gradients(saved(tmp_path / "x.pt", value))
    names = [name for name, _ in net.named_parameters()]
    assert [row.name for row in report.rows] == [name for name in names for _ in range(2)]
    assert len([said for said in report.notes if "names are inferred" in said]) == 2


# -- kinds of parameters -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
@pytest.mark.parametrize("kind", ["Adam", "RMSprop", "Adagrad from 0.1"])
def test_other_data_types(dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    """Moments have the data type of their parameter; squares of complex ones come in two parts."""
    torch.manual_seed(0)
    make, truth = OPTIMIZERS[kind]
    if dtype.is_complex and kind.startswith("Adagrad"):
        kind, (make, truth) = "Adagrad", OPTIMIZERS["Adagrad"]
    net = nn.Sequential(nn.Linear(4, 3, dtype=dtype), nn.Linear(3, 2, dtype=dtype))
    optimizer = make(net.parameters())
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert_live(report, net, optimizer, truth)


def test_moments_of_channels_last(tmp_path: Path) -> None:
    """Moments keep the strides of their parameter."""
    net = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 3, 5, 5)).square().mean().backward()
    optimizer.step()
    assert_live(checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer))), net, optimizer, adam)


def test_tied_parameters_count_once(tmp_path: Path) -> None:
    """A tied weight has one state and one row, with its other name."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert_live(report, net, optimizer, adam)
    assert rows_of(report)["0.weight"].also == ("2.weight",)


@pytest.mark.parametrize("as_number", [int, float, None])
def test_steps_as_numbers(as_number: Callable[[torch.Tensor], Any] | None, tmp_path: Path) -> None:
    """Before 1.12 torch stored the steps as integers."""
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer, 12)
    value = both(net, optimizer)
    if as_number is not None:
        for state in value["optimizer"]["state"].values():
            state["step"] = as_number(state["step"])
    report = checkpoint_gradients(saved(tmp_path / "x.pt", value))
    assert report.setup["step"] == "12"
    if as_number is None:
        assert_live(report, net, optimizer, adam)
    expected, _ = adam(optimizer.state[net.head.bias], optimizer.param_groups[0])
    assert_figures(rows_of(report)["head.bias"], expected, net.head.bias.detach())


def test_steps_of_a_group(tmp_path: Path) -> None:
    """Apex's FusedAdam counts the steps in the group."""
    m, v = torch.randn(3), torch.rand(3)
    group = {"params": [0], "betas": (0.9, 0.99), "step": 4, "lr": 0.1}
    value = {"state": {0: {"exp_avg": m, "exp_avg_sq": v}}, "param_groups": [group]}
    (row,) = checkpoint_gradients(saved(tmp_path / "x.pt", value)).rows
    assert_figures(row, m.double() / (1 - 0.9**4), None)
    assert row.second_rms == pytest.approx(math.sqrt(v.double().mean().item() / (1 - 0.99**4)))


def test_order_of_the_norm(tmp_path: Path) -> None:
    """The global norm is of the order asked for."""
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    checkpoint = saved(tmp_path / "x.pt", both(net, optimizer))
    firsts = [adam(optimizer.state[p], optimizer.param_groups[0])[0] for p in net.parameters()]
    whole = torch.cat([first.reshape(-1) for first in firsts])
    assert checkpoint_gradients(checkpoint, order="1").global_norm == pytest.approx(whole.abs().sum().item())
    assert checkpoint_gradients(checkpoint, order="inf").global_norm == pytest.approx(
        whole.abs().max().item()
    )


# -- names ---------------------------------------------------------------------------------


def decay_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Matrices that decay, and vectors that do not."""
    matrices = [p for p in net.parameters() if p.ndim >= 2 and p.requires_grad]
    vectors = [p for p in net.parameters() if p.ndim < 2 and p.requires_grad]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


def by_name_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Biases and norms apart, as Hugging Face's Trainer puts them."""
    plain_ones = [p for name, p in net.named_parameters() if "bias" in name or "norm" in name]
    others = [p for name, p in net.named_parameters() if not ("bias" in name or "norm" in name)]
    return [{"params": others}, {"params": plain_ones}]


def head_first(net: nn.Module) -> list[dict[str, Any]]:
    """A head with a learning rate of its own, before the rest."""
    head = [p for name, p in net.named_parameters() if name.startswith("head")]
    rest = [p for name, p in net.named_parameters() if not name.startswith("head")]
    return [{"params": head, "lr": 0.1}, {"params": rest}]


def layer_by_layer(net: nn.Module) -> list[dict[str, Any]]:
    """A group for each module's weights and one for its biases."""
    return [{"params": [p], "lr": 0.1 / (n + 1)} for n, p in enumerate(net.parameters())]


@pytest.mark.parametrize("split", [decay_groups, by_name_groups, head_first, layer_by_layer])
@pytest.mark.parametrize("reverse", [False, True])
def test_groups_are_put_together(
    split: Callable[[nn.Module], list[dict[str, Any]]], reverse: bool, tmp_path: Path
) -> None:
    """Each parameter finds its name again, in whichever way people split them."""
    net = Net()
    groups = split(net)
    if reverse and split is not layer_by_layer:
        groups.reverse()
    optimizer = torch.optim.AdamW(groups)
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert_live(report, net, optimizer, adam)
    assert note(report, "names are inferred")


@pytest.mark.parametrize("where", [0, 2])
def test_frozen_parameters_that_the_optimizer_lacks(where: int, tmp_path: Path) -> None:
    """The frozen part is found, and what the optimizer lacks is counted."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    net[where].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert_live(report, net, optimizer, adam)
    assert "2 parameters of section 'model' are not in the optimizer" in report.notes


def test_frozen_parameters_with_decay_groups(tmp_path: Path) -> None:
    """A frozen first layer among layers of one shape, and two groups: the later layers were trained."""
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    net[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(decay_groups(net))
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert_live(report, net, optimizer, adam)
    assert note(report, "names are inferred").endswith("two names of one shape may be exchanged")


def test_frozen_parameters_that_the_optimizer_has(tmp_path: Path) -> None:
    """A parameter without a state keeps its place and has no row."""
    net = Net()
    net.second.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert_live(report, net, optimizer, adam)
    assert "2 parameters of the optimizer have no state: frozen, or never stepped" in report.notes


def test_buffers_that_were_taken_for_parameters(tmp_path: Path) -> None:
    """A buffer of a state_dict that looks like a parameter is passed over."""
    net = Net()
    net.first.register_buffer("offset", torch.ones(3))
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert "first.offset" in open_checkpoint(str(tmp_path / "x.pt")).table
    assert_live(report, net, optimizer, adam)


def test_parameters_that_were_taken_for_buffers(tmp_path: Path) -> None:
    """A parameter whose name is that of a buffer is found where nothing else fits."""
    net = nn.Module()
    net.weight = nn.Parameter(torch.randn(4, 3))
    net.position_ids = nn.Parameter(torch.randn(7))
    optimizer = torch.optim.Adam(net.parameters())
    (net.weight.sum() + net.position_ids.square().sum()).backward()
    optimizer.step()
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert_live(report, net, optimizer, adam)
    assert "buffers included" in note(report, "names are inferred")


def test_names_that_the_optimizer_was_given(tmp_path: Path) -> None:
    """Named parameters are told exactly, whatever their order."""
    net = Net()
    optimizer = torch.optim.Adam(list(net.named_parameters())[::-1])
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert_live(report, net, optimizer, adam)
    assert not [said for said in report.notes if "inferred" in said]


def test_states_under_names(tmp_path: Path) -> None:
    """torch.distributed gathers states under the names of the parameters."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    value = {"model": net.state_dict(), "optim": get_optimizer_state_dict(net, optimizer)}
    assert set(value["optim"]["state"]) == {name for name, _ in net.named_parameters()}
    report = checkpoint_gradients(saved(tmp_path / "x.pt", value))
    assert_live(report, net, optimizer, adam)
    assert report.notes == ()


def test_names_of_wrappers(tmp_path: Path) -> None:
    """DistributedDataParallel's and compile's parts of a name do not keep it from being found."""
    net = Net()
    optimizer = torch.optim.Adam((f"module._orig_mod.{name}", p) for name, p in net.named_parameters())
    trained(net, optimizer)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert_live(report, net, optimizer, adam)


def test_an_optimizer_alone(tmp_path: Path) -> None:
    """Hugging Face's optimizer.pt: numbers for names, unless the model is named."""
    net = Net()
    optimizer = torch.optim.AdamW(by_name_groups(net))
    trained(net, optimizer)
    checkpoint = saved(tmp_path / "optimizer.pt", optimizer.state_dict())
    report = checkpoint_gradients(checkpoint)
    assert [row.name for row in report.rows] == [f"parameter {n}" for n in range(8)]
    assert note(report, "parameters have numbers").endswith("--weights MODEL gives them")
    assert note(report, "without values of the weights")
    names = saved(tmp_path / "model.pt", net.state_dict()).table
    assert_live(checkpoint_gradients(checkpoint, names=names), net, optimizer, adam)
    named = checkpoint_gradients(checkpoint, names=module_table(net, "net.py:Net"))
    assert [row.name for row in named.rows] == [name for name, _ in net.named_parameters()]
    assert "net.py:Net" in note(named, "names are inferred")
    assert note(named, "without values of the weights")


def test_names_that_are_sorted_are_doubtful(tmp_path: Path) -> None:
    """A model whose file is sorted by name does not say the order of registration."""
    from safetensors.torch import save_file

    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    names = open_checkpoint(str(tmp_path / "model.safetensors")).table
    report = checkpoint_gradients(saved(tmp_path / "optimizer.pt", optimizer.state_dict()), names=names)
    rows = rows_of(report)
    for name, parameter in net.named_parameters():
        first, _ = adam(optimizer.state[parameter], optimizer.param_groups[0])
        assert_figures(rows[name], first, parameter.detach())
    said = note(report, "names are inferred")
    assert "whose names are sorted" in said
    assert said.endswith("two names of one shape may be exchanged")


def test_sorted_names_that_do_not_fit(tmp_path: Path) -> None:
    """Modules sorted out of the order of registration: numbers stay, and the note says what helps."""
    from safetensors.torch import save_file

    net = nn.Sequential()
    net.add_module("z", nn.Linear(4, 3))
    net.add_module("a", nn.Linear(3, 2))
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    checkpoint = saved(tmp_path / "optimizer.pt", optimizer.state_dict())
    names = open_checkpoint(str(tmp_path / "model.safetensors")).table
    report = checkpoint_gradients(checkpoint, names=names)
    assert [row.name for row in report.rows] == [f"parameter {n}" for n in range(4)]
    assert "a definition as --weights" in note(report, "parameters have numbers")
    helped = checkpoint_gradients(checkpoint, names=module_table(net, "net.py:Net"))
    assert [row.name for row in helped.rows] == ["z.weight", "z.bias", "a.weight", "a.bias"]


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    """Numbers stay where the model is another one, and the note says why."""
    net, other = Net(), nn.Linear(5, 7)
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    few = checkpoint_gradients(
        saved(tmp_path / "a.pt", {"model": other.state_dict(), **both(other, optimizer)})
    )
    assert [row.name for row in few.rows] == [f"parameter {n}" for n in range(8)]
    assert "the optimizer has 8 parameters, the model 2" in note(few, "parameters have numbers")
    bigger = nn.Sequential(*(nn.Linear(5, 7) for _ in range(6)))
    many = checkpoint_gradients(saved(tmp_path / "b.pt", both(bigger, optimizer)))
    assert "its parameter 0 is 4×4" in note(many, "parameters have numbers")


def test_a_large_model_of_equal_layers(tmp_path: Path) -> None:
    """Hundreds of layers of one shape, some of them frozen, are aligned in bounded work."""
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(300)))
    state = {
        "state": {
            n: {"step": 1, "exp_avg": torch.ones(s), "exp_avg_sq": torch.ones(s)} for n, s in _shapes(500)
        },
        "param_groups": [{"params": list(range(500)), "betas": (0.9, 0.999)}],
    }
    report = checkpoint_gradients(saved(tmp_path / "x.pt", {"model": net.state_dict(), "optimizer": state}))
    assert [row.name for row in report.rows] == [name for name, _ in net.named_parameters()][100:]


def _shapes(count: int) -> Iterable[tuple[int, tuple[int, ...]]]:
    return ((n, (2, 2) if n % 2 == 0 else (2,)) for n in range(count))


# -- what is odd ---------------------------------------------------------------------------


def one_state(state: dict[str, Any], **group: Any) -> dict[str, Any]:
    """An optimizer of one parameter."""
    return {"state": {0: state}, "param_groups": [{"params": [0], **group}]}


def test_lion(tmp_path: Path) -> None:
    """Only exp_avg: nothing is corrected, which is said."""
    m = torch.randn(3, 2)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", one_state({"exp_avg": m}, betas=(0.9, 0.99))))
    assert_figures(report.rows[0], m, None)
    assert report.rows[0].second_rms is None
    assert note(report, "exp_avg is shown as stored")


def test_unknown_optimizer(tmp_path: Path) -> None:
    """What looks most like a first moment is shown as it is stored, and that is said."""
    m = torch.randn(3)
    state = {"step": 3, "exp_avg": m, "exp_avg_sq": torch.ones(3), "p0": torch.ones(3)}
    report = checkpoint_gradients(saved(tmp_path / "x.pt", one_state(state, betas=(0.9, 0.99))))
    assert_figures(report.rows[0], m, None)
    assert note(report, "no optimizer known here keeps exp_avg, exp_avg_sq, p0")


def test_states_of_8_bits_are_left_out(tmp_path: Path) -> None:
    """Blocks of bitsandbytes are said and skipped, not read as numbers."""
    packed = {"state1": torch.zeros(4096, dtype=torch.uint8), "qmap1": torch.zeros(256), "step": 3}
    state = {0: packed, 1: {"step": 3, "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}
    value = {"state": state, "param_groups": [{"params": [0, 1], "betas": (0.9, 0.99)}]}
    report = checkpoint_gradients(saved(tmp_path / "x.pt", value))
    assert [row.name for row in report.rows] == ["parameter 1"]
    assert "bitsandbytes" in note(report, "1 parameter is left out")
    with pytest.raises(UnknownAnswerError, match="says nothing of gradients") as caught:
        checkpoint_gradients(saved(tmp_path / "y.pt", one_state(packed)))
    assert "bitsandbytes" in str(caught.value)


def test_integer_moments_are_left_out(tmp_path: Path) -> None:
    """A moment that holds no floating-point numbers is not taken for one."""
    state = {"exp_avg": torch.ones(2, dtype=torch.int8), "exp_avg_sq": torch.ones(2)}
    with pytest.raises(UnknownAnswerError, match="int8, no floating-point numbers"):
        checkpoint_gradients(saved(tmp_path / "x.pt", one_state(state)))


def test_lbfgs_has_no_moments(tmp_path: Path) -> None:
    """LBFGS keeps one flat gradient of everything; it is not taken for a parameter's."""
    net = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(net.parameters())

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = net(torch.ones(2, 3)).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with pytest.raises(UnknownAnswerError, match="no mean of gradients or squares"):
        checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))


@pytest.mark.parametrize(
    "step", [math.nan, math.inf, -math.inf, 0, -3, 2**70, "3", True, None, torch.ones(2)]
)
@pytest.mark.parametrize("betas", [(0.9, 0.999), (1.0, -1.0), (math.nan, 0.5), (0.9,), "0.9", None])
def test_odd_steps_and_betas(step: Any, betas: Any, tmp_path: Path) -> None:
    """Moments are corrected by what makes sense, else shown as stored, with a remark."""
    m, v = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 4.0])
    value = one_state({"step": step, "exp_avg": m, "exp_avg_sq": v}, betas=betas)
    (row,) = checkpoint_gradients(saved(tmp_path / "x.pt", value)).rows
    assert row.figures is not None
    assert row.figures.l1 == 3
    assert row.second_rms == 2
    is_sound = (
        step in (math.inf, 2**70) if isinstance(step, (int, float)) and not isinstance(step, bool) else False
    )
    corrected = is_sound and betas == (0.9, 0.999)
    assert bool(row.remark) is not corrected


@pytest.mark.parametrize(
    ("m", "v", "verdict"),
    [
        ([1.0, math.nan], [1.0, 1.0], "nan"),
        ([1.0, math.inf], [1.0, 1.0], "inf"),
        ([1.0, 1.0], [1.0, math.nan], "nan"),
        ([1.0, 1.0], [1.0, math.inf], "inf"),
        ([1.0, 1.0], [1.0, -5.0], "nan"),
        ([0.0, 0.0], [0.0, 0.0], "zero"),
        ([0.0, 0.0], [1.0, 1.0], "ok"),
        ([1e-12, 0.0], [1e-24, 0.0], "vanishing"),
        ([1e9, 0.0], [1e18, 0.0], "exploding"),
    ],
)
def test_verdicts(m: list[float], v: list[float], verdict: str, tmp_path: Path) -> None:
    """Both moments have a say: a mean of 0 may hide gradients that change their sign."""
    state = {"step": 1000, "exp_avg": torch.tensor(m), "exp_avg_sq": torch.tensor(v)}
    report = checkpoint_gradients(saved(tmp_path / "x.pt", one_state(state, betas=(0.9, 0.99))))
    assert report.rows[0].verdict == verdict
    assert report.is_healthy is (verdict == "ok")


def test_thresholds(tmp_path: Path) -> None:
    """Where ok ends is the caller's to say."""
    state = {"exp_avg": torch.ones(2)}
    checkpoint = saved(tmp_path / "x.pt", one_state(state))
    assert (
        checkpoint_gradients(checkpoint, thresholds=Thresholds(exploding=10)).rows[0].verdict == "exploding"
    )
    assert (
        checkpoint_gradients(checkpoint, thresholds=Thresholds(vanishing=1e3)).rows[0].verdict == "vanishing"
    )


def test_numbers_whose_squares_leave_the_range(tmp_path: Path) -> None:
    """Norms are right where squares are not finite or 0."""
    for scale in (1e-300, 1e300):
        value = one_state({"exp_avg": torch.tensor([3.0, 4.0], dtype=torch.float64) * scale})
        (row,) = checkpoint_gradients(saved(tmp_path / "x.pt", value)).rows
        assert row.figures is not None
        assert row.figures.l2 == pytest.approx(5 * scale, rel=1e-12)


def test_more_than_one_chunk(tmp_path: Path) -> None:
    """A tensor of many chunks is measured as one, and an expanded one as what it stands for."""
    m = torch.randn(3, 2**18 + 5)
    (row,) = checkpoint_gradients(saved(tmp_path / "x.pt", one_state({"exp_avg": m}))).rows
    assert_figures(row, m, None)
    (row,) = checkpoint_gradients(
        saved(tmp_path / "x.pt", one_state({"exp_avg": m[:1, :7].expand(6, 7)}))
    ).rows
    assert_figures(row, m[:1, :7].expand(6, 7), None)


def test_weight_decay_is_said(tmp_path: Path) -> None:
    """Adam's weight decay goes through its moments, AdamW's does not."""
    net = Net()
    for make, said in ((torch.optim.Adam, True), (torch.optim.AdamW, False)):
        optimizer = make(net.parameters(), weight_decay=0.25)
        trained(net, optimizer)
        report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
        found = [text for text in report.notes if "weight decay" in text]
        assert found == (
            ["what the optimizer keeps includes its weight decay (up to 0.25 × the weight)"] * said
        )


def test_what_the_setup_says(tmp_path: Path) -> None:
    """Settings of all groups, steps, and the section."""
    net = Net()
    groups = decay_groups(net)
    groups[1]["lr"] = 0.5
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    trained(net, optimizer, 7)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", both(net, optimizer)))
    assert report.setup == {
        "optimizer": "Adam-like: exp_avg, exp_avg_sq",
        "step": "7",
        "lr": "0.1; 0.5",
        "betas": "0.9, 0.999",
        "weight_decay": "0.1; 0.0",
        "section": "optimizer",
    }


# -- gradients that were saved -------------------------------------------------------------


def backward(net: nn.Module) -> None:
    """One pass, so that every parameter has a gradient."""
    net(torch.randn(8, 4, generator=torch.Generator().manual_seed(1))).square().mean().backward()


def grads_of(net: nn.Module) -> dict[str, torch.Tensor]:
    """By name."""
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


SAVED: dict[str, Callable[[nn.Module], dict[str, Any]]] = {
    "a section": lambda net: {"model": net.state_dict(), "gradients": grads_of(net)},
    "a list": lambda net: {"model": net.state_dict(), "grads": list(grads_of(net).values())},
    "beside the model": lambda net: {
        "model": net.state_dict(),
        **{f"{name}.grad": grad for name, grad in grads_of(net).items()},
    },
    "among the parameters": lambda net: {
        **net.state_dict(),
        **{f"grad.{name}": grad for name, grad in grads_of(net).items()},
    },
    "under their ending": lambda net: {
        "model": net.state_dict(),
        "grad": {f"{name}.grad": grad for name, grad in grads_of(net).items()},
    },
}


@pytest.mark.parametrize("how", SAVED)
def test_gradients_that_were_saved(how: str, tmp_path: Path) -> None:
    """Gradients are found where people put them, beside their weights."""
    net = Net()
    backward(net)
    report = checkpoint_gradients(saved(tmp_path / "x.pt", SAVED[how](net)))
    assert report.source == "saved"
    rows = rows_of(report)
    assert list(rows) == [name for name, _ in net.named_parameters()]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert_figures(rows[name], parameter.grad, parameter.detach())
    assert len(report.notes) == (how == "a list")


def test_gradients_before_optimizers(tmp_path: Path) -> None:
    """Saved gradients come first, unless the section says otherwise."""
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    net.head.bias.grad = None
    checkpoint = saved(tmp_path / "x.pt", {**both(net, optimizer), "grads": grads_of(net)})
    first = checkpoint_gradients(checkpoint)
    assert first.source == "saved"
    assert "1 parameter of section 'model' has no saved gradient" in first.notes
    assert checkpoint_gradients(checkpoint, section="grads") == saved_gradients(checkpoint, section="grads")
    of_optimizer = checkpoint_gradients(checkpoint, section="optimizer")
    assert of_optimizer.source == "optimizer"
    assert of_optimizer == optimizer_gradients(checkpoint)
    assert_live(of_optimizer, net, optimizer, adam)


def test_sparse_gradients(tmp_path: Path) -> None:
    """Of an embedding's sparse gradient what isn't stored is zero, and repeated rows add up."""
    net = nn.Embedding(50, 3, sparse=True)
    net(torch.tensor([4, 4, 9, 0])).square().sum().backward()
    grad = net.weight.grad
    assert grad is not None
    for stored in (grad, grad.coalesce()):
        value = {"model": net.state_dict(), "grads": {"weight": stored}}
        (row,) = checkpoint_gradients(saved(tmp_path / "x.pt", value)).rows
        assert_figures(row, grad.to_dense(), net.weight.detach())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the layout a prototype
        value = {"model": net.state_dict(), "grads": {"weight": grad.to_dense().to_sparse_csr()}}
        (row,) = checkpoint_gradients(saved(tmp_path / "x.pt", value)).rows
    assert_figures(row, grad.to_dense(), net.weight.detach())


def test_integers_are_no_gradients(tmp_path: Path) -> None:
    """What is saved as a gradient and can't be one is said and left out."""
    value = {"grads": {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.int64)}}
    report = checkpoint_gradients(saved(tmp_path / "x.pt", value))
    assert [row.name for row in report.rows] == ["a"]
    assert note(report, "1 gradient is left out: stored values are int64")


# -- nothing there -------------------------------------------------------------------------


def test_nothing_to_show(tmp_path: Path) -> None:
    """The error says what the file holds and what to do."""
    net = Net()
    value = both(net, torch.optim.SGD(net.parameters(), 0.1))
    for checkpoint in (saved(tmp_path / "a.pt", value), saved(tmp_path / "b.pt", net.state_dict())):
        with pytest.raises(UnknownAnswerError, match="no gradients and no optimizer's state") as caught:
            checkpoint_gradients(checkpoint)
        assert "(model)" in str(caught.value)
        assert "--weights FILE" in str(caught.value.hint)
    optimizer = torch.optim.Adam(net.parameters())
    trained(net, optimizer)
    checkpoint = saved(tmp_path / "c.pt", both(net, optimizer))
    with pytest.raises(UsageError, match="no section 'nowhere'"):
        checkpoint_gradients(checkpoint, section="nowhere")
    with pytest.raises(UnknownAnswerError, match=r"section 'model' of .* holds no gradients"):
        checkpoint_gradients(checkpoint, section="model")
    with pytest.raises(UnknownAnswerError, match="saved as such"):
        saved_gradients(checkpoint)


# -- what is read --------------------------------------------------------------------------


def test_a_listing_reads_no_moments_and_progress_reaches_its_end(tmp_path: Path) -> None:
    """Opening reads headers; measuring reads each moment and weight once, in chunks."""
    net = nn.Linear(512, 512)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 512)).square().mean().backward()
    optimizer.step()
    checkpoint = saved(tmp_path / "x.pt", both(net, optimizer))
    assert checkpoint.bytes_read < 8_000 < checkpoint.nbytes / 100
    told: list[tuple[int, int]] = []
    checkpoint_gradients(checkpoint, progress=lambda done, total: told.append((done, total)))
    total = 3 * 4 * (512 * 512 + 512)
    assert told == sorted(told)
    assert told[-1] == (total, total)
    assert {whole for _, whole in told} == {total}
