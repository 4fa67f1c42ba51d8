"""Definitions that load: how they are found, how they are built, what they leave behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from modelinspect.errors import DefinitionError, TargetError
from modelinspect.live.definition import load_definition
from modelinspect.targets import parse_target

Write = Callable[..., str]
MODELS = Path(__file__).parents[2] / "models"
NET = """
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, width)

class Net(nn.Module):
    def __init__(self, width=3, *, depth: int = 2):
        super().__init__()
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
"""


def numel(target: str) -> int:
    """Parameters of the definition, by torch."""
    return sum(parameter.numel() for parameter in load_definition(target).module.parameters())


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("", 24), (":Net", 24), (":Net()", 24), (":Net(4)", 40), (":Net(4, depth=1)", 20),
        (":Net(width=1)", 4),
        (":Block(5)", 30), (":factory", 6), (":factory(4)", 20), (":instance", 24), (":instance.blocks", 24),
        (":instance.blocks.0.fc", 12), (":partial", 2), (":Holder.made", 6), (":Holder.make(3)", 12),
        (":space.net", 24), (":unsaid", 6),
    ],
)  # fmt: skip
def test_every_spelling_names_its_module(call: str, expected: int, write: Write) -> None:
    """Classes, calls with literals, factories, instances, dotted attributes, and the bare file."""
    extras = """
import functools, types
def factory(n: int = 2) -> nn.Linear:
    return nn.Linear(n, n)
def unsaid():
    return nn.Linear(2, 2)
instance = Net()
partial = functools.partial(nn.Linear, 1, 1)
space = types.SimpleNamespace(net=instance)
class Holder:
    made = nn.Linear(2, 2)
    @classmethod
    def make(cls, n): return nn.Linear(n, n)
"""
    path = write("net.py", NET + (extras if call else ""))
    assert numel(path + call) == expected


def test_modules_by_dotted_name(write: Write) -> None:
    """``package.module:factory`` is looked for in the current folder, after what is installed."""
    write("pkg_of_nets/__init__.py", "")
    write("pkg_of_nets/nets.py", NET)
    write("json.py", NET)
    assert numel("pkg_of_nets.nets:Net") == 24
    assert numel("pkg_of_nets:nets.Net(1)") == 4
    assert numel("py:pkg_of_nets.nets") == 24
    with pytest.raises(DefinitionError, match="json has no definition 'Net'"):
        load_definition("json:Net")


ABSTRACT = """
import abc
class Base(nn.Module, abc.ABC):
    @abc.abstractmethod
    def f(self): ...
"""
ONE = {
    "a class and its parts": (NET, "Net"),
    "a factory and what it makes": (NET + "def build() -> Net:\n    return Net()", "build"),
    "an instance of a class": (NET + "model = Net()", "model"),
    "a factory that says so in quotes": ('def build() -> "nn.Module":\n    return nn.Linear(1, 1)', "build"),
    "named by __all__": (NET + "class Other(nn.Module): ...\n__all__ = ['Other', 'helper']", "Other"),
    "imported and named by __all__": ("from torch.nn import Tanh\n__all__ = ['Tanh']", "Tanh"),
    "an unsaid factory named by __all__": ("def build(): return nn.Tanh()\n__all__ = ['build']", "build"),
    "an alias is no second one": (NET + "Model = Net", "Net"),
    "private parts": (NET + "class _Unused(nn.Module): ...", "Net"),
    "private only": ("class _Net(nn.Module): ...", "_Net"),
    "what is imported doesn't count": ("from torch.nn import Linear\nclass Net(nn.Module): ...", "Net"),
    "what takes a model doesn't count": (NET + "def frozen(net: Net) -> Net:\n    return net", "Net"),
    "what returns no module doesn't count": (NET + "def example_input() -> Tensor: ...\ndef f(): ...", "Net"),
    "abstract classes don't count": (
        ABSTRACT + "class Net(nn.Module): ...",
        "Net",
    ),
    "a helper stands between": (
        "class A(nn.Module): ...\ndef layer(): return A()\nclass B(nn.Module):\n    make = layer", "B",
    ),
    "an example in the main block": (NET + "if __name__ == '__main__':\n    model = Net()", "Net"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "name"), ONE.values(), ids=ONE)
def test_a_bare_file_is_its_one_definition(source: str, name: str, write: Write) -> None:
    """The one that ``__all__`` names, else the one that no other definition is built from."""
    definition = load_definition(write("one.py", source))
    named = load_definition(f"one.py:{name}")
    assert type(definition.module).__name__ == type(named.module).__name__
    assert [tensor.name for tensor in definition.table] == [tensor.name for tensor in named.table]


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.py")), ids=lambda path: path.name)
def test_examples(path: Path) -> None:
    """Every example file is a target by itself, built on meta, with torch's own names and count."""
    definition = load_definition(str(path))
    assert {parameter.device.type for parameter in definition.module.parameters()} == {"meta"}
    parameters = [row for row in definition.table if row.kind == "parameter"]
    expected = definition.module.named_parameters(remove_duplicate=False)
    assert [(row.name, row.shape) for row in parameters] == [(name, tuple(p.shape)) for name, p in expected]
    assert definition.notes == definition.table.notes == ()


def test_regression_is_as_torch_shows_it() -> None:
    """The names, shapes and order of the regression network, and its 40 parameters."""
    table = load_definition(str(MODELS / "regression.py")).table
    assert [(row.name, row.shape) for row in table] == [
        ("0.weight", (13, 1)), ("0.bias", (13,)), ("2.weight", (1, 13)), ("2.bias", (1,)),
    ]  # fmt: skip
    assert sum(row.numel for row in table) == 40
    assert table.modules == {"": "Regression", "0": "Linear", "1": "Tanh", "2": "Linear"}
    assert table.source == str(MODELS / "regression.py")
    assert table.origin == "definition"


NOT_ON_META = {
    "item": "torch.linspace(0, 1, 4)[1].item()",
    "tolist": "torch.linspace(0, 1, 4).tolist()",
    "a branch": "1 if torch.ones(1) > 0 else 2",
    "numpy": "torch.ones(2).numpy()",
    "to": "nn.Linear(2, 2).to('cpu')",
    "unique": "torch.unique(torch.ones(3))",
}


@pytest.mark.parametrize("expression", NOT_ON_META.values(), ids=NOT_ON_META)
def test_a_constructor_that_needs_values_is_run_for_real(expression: str, write: Write) -> None:
    """What the meta device can't do is done with memory, and a note says so and where."""
    path = write(
        "real.py",
        f"class N(nn.Linear):\n  def __init__(self):\n    x = {expression}\n    super().__init__(2, 2)",
    )
    definition = load_definition(path)
    assert definition.module.weight.device.type == "cpu"
    assert len(definition.notes) == 1
    assert definition.notes[0].startswith(
        "real.py was built for real, with memory for its values: on the meta device it raised "
    )
    assert definition.notes[0].endswith(" at real.py:5, in __init__")
    assert definition.table.notes == definition.notes


def test_real_construction_on_request(write: Write) -> None:
    """Without the meta device the parameters are initialised, reproducibly under a seed."""
    path = write("net.py", NET)
    first, second = (load_definition(path, meta=False, seed=7).module.state_dict() for _ in range(2))
    other = load_definition(path, meta=False, seed=8).module.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["blocks.0.fc.weight"], other["blocks.0.fc.weight"])


def test_real_and_meta_agree(write: Write) -> None:
    """The table says the same of a model on the meta device and of a real one, device aside."""
    for path in sorted(MODELS.glob("*.py")):
        if path.name != "giant.py":
            meta, real = (load_definition(str(path), meta=meta).table for meta in (True, False))
            assert [row._replace(storage=None) for row in meta] == [
                row._replace(storage=None) for row in real
            ]
            assert meta.tied_to == real.tied_to
            assert meta.modules == real.modules


def test_an_instance_is_used_as_it_is(write: Write) -> None:
    """What the file has made already is neither copied nor built again."""
    path = write("made.py", "model = nn.Linear(2, 3)\nmodel.weight.requires_grad = False\nkept = [model]")
    definition = load_definition(f"{path}:model")
    assert definition.module is sys.modules["made"].kept[0]
    assert [row.requires_grad for row in definition.table] == [False, True]


def test_relatives_are_found(write: Write) -> None:
    """A file imports its neighbours; each of two folders gets its own, and the edited one again."""
    for folder, width in (("a", 2), ("b", 5)):
        write(
            f"{folder}/blocks.py",
            f"class Block(nn.Linear):\n    def __init__(self): super().__init__({width}, 1)",
        )
        write(
            f"{folder}/net.py",
            "from blocks import Block\ndef build() -> nn.Module:\n    return nn.Sequential(Block())",
        )
    assert [numel(f"{folder}/net.py:build") for folder in "aba"] == [3, 6, 3]
    write("a/blocks.py", "class Block(nn.Linear):\n    def __init__(self): super().__init__(9, 1)")
    assert numel("a/net.py") == 10


@pytest.mark.parametrize(
    "name", ["torch.py", "json.py", "random.py", "modelinspect.py", "my-net.py", "a.b.py", "class.py"]
)
def test_a_file_may_have_any_name(name: str, write: Write) -> None:
    """A definition called like another module neither hides it nor is hidden by it."""
    before = {module: sys.modules.get(module) for module in ("torch", "json", "random", "modelinspect")}
    path = write(
        name,
        "import json, dataclasses\n@dataclasses.dataclass\nclass C:\n    x: 'int' = json.loads('3')\n" + NET,
    )
    assert numel(path) == 24
    assert numel(f"{path}:Net") == 24
    assert {module: sys.modules.get(module) for module in before} == before
    assert json.__file__ != path


def test_a_neighbour_does_not_hide_what_is_installed(write: Write) -> None:
    """The file's folder is searched last: a ``random.py`` beside the definition is not Python's."""
    write("fractions.py", "raise RuntimeError('not this one')", head="")
    assert numel(write("net.py", "import fractions\n" + NET)) == 24


def test_the_path_grows_at_its_end_and_only_by_one_folder(write: Write, tmp_path: Path) -> None:
    """``sys.path`` keeps its order; the last definition's folder is its last entry."""
    before = [entry for entry in sys.path if not entry.startswith(str(tmp_path))]
    write("a/net.py", NET)
    write("b/net.py", NET)
    load_definition("a/net.py")
    load_definition("b/net.py")
    assert [entry for entry in sys.path if not entry.startswith(str(tmp_path.parent))][: len(before)] == [
        entry for entry in before if not entry.startswith(str(tmp_path.parent))
    ]
    assert sys.path[-1] == str(tmp_path / "b")
    assert str(tmp_path / "a") not in sys.path


def test_no_bytecode_is_left_or_trusted(write: Write, tmp_path: Path) -> None:
    """Looking at a definition leaves nothing beside it, and an edit within a second is seen."""
    path = write("net.py", "class Net(nn.Linear):\n    def __init__(self): super().__init__(2, 1)")
    write("part.py", "", head="")
    assert numel(path) == 3
    write("net.py", "import part\nclass Net(nn.Linear):\n    def __init__(self): super().__init__(4, 1)")
    assert numel(path) == 5
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.py", "part.py"]


def test_lazy_modules(write: Write) -> None:
    """Parameters without a shape are listed, count as nothing, and a note names them."""
    definition = load_definition(write("lazy.py", "net = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))"))
    rows = [(row.name, row.layout, row.numel) for row in definition.table]
    assert rows == [
        ("0.weight", "uninitialized", 0), ("0.bias", "uninitialized", 0),
        ("1.weight", "strided", 3), ("1.bias", "strided", 1),
    ]  # fmt: skip
    assert definition.notes == (
        "2 tensors without a shape until the first forward pass, counted as 0: 0.weight, 0.bias",
    )


def test_a_parsed_target_will_do(write: Write) -> None:
    """The command line parses once and hands on the target."""
    assert load_definition(parse_target(write("net.py", NET))).target == "net.py"


def test_a_checkpoint_is_no_definition(tmp_path: Path) -> None:
    """A file that isn't Python is never run."""
    path = tmp_path / "net.pt"
    path.write_text("raise SystemExit")
    with pytest.raises(DefinitionError, match="names a checkpoint, not a definition"):
        load_definition(str(path))


def test_a_missing_file_is_a_target_error(write: Write) -> None:
    """The path is what is wrong, and near names are offered."""
    write("network.py", NET)
    with pytest.raises(TargetError) as caught:
        load_definition("netwrok.py:Net")
    assert caught.value.message == "netwrok.py: no such file or directory"
    assert caught.value.hint == "did you mean network.py?"


def test_modules_of_all_makes(write: Write) -> None:
    """Scripted, traced and exported modules are modules like any other."""
    write(
        "makes.py",
        """
        import warnings
        def traced() -> nn.Module:
            with torch.device("cpu"):
                return torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
        def normed() -> nn.Module:
            return nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        def wrapped() -> nn.Module:
            return nn.Sequential(nn.Linear(2, 2).double(), nn.BatchNorm1d(2).half())
        """,
    )
    for name in ("traced", "normed", "wrapped"):
        definition = load_definition(f"makes.py:{name}")
        assert [row.name for row in definition.table] == list(definition.module.state_dict())
        assert isinstance(definition.module, nn.Module)
