"""What a file of definitions holds, by its syntax alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelinspect.outline import definitions_in, leading, outline_of

MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.py")), ids=lambda path: path.name)
def test_examples_lead_with_one_definition(path: Path) -> None:
    """Of the classes in each example file exactly one is not a part of another."""
    source = path.read_text()
    names = [name for name, _ in definitions_in(source)]
    assert len(leading(names, outline_of(source))) == 1


def test_definitions() -> None:
    """Classes with a base that may be a module, functions that say so, and instances are offered."""
    source = """
import torch
from torch import nn

class Block(nn.Module): ...
class Child(Block): ...
class Config: ...
class Failure(ValueError): ...
class Settings(BaseConfig): ...
class Data(Dataset): ...
def build() -> nn.Module: ...
def quoted() -> "nn.Module": ...
def child(depth: int = 3) -> Child: ...
def train(model: nn.Module) -> None: ...
def unsaid(): ...
model = nn.Sequential()
other: nn.Module = load()
child_instance = Child()
number = max(1, 2)
if torch.cuda.is_available():
    class Gpu(nn.Module): ...
try:
    import missing
except ImportError:
    class Fallback(nn.Module): ...
if __name__ == "__main__":
    net = Child()
"""
    assert definitions_in(source) == [
        ("Block", "class"), ("Child", "class"), ("build", "function"), ("quoted", "function"),
        ("child", "function"), ("model", "instance"), ("other", "instance"), ("child_instance", "instance"),
        ("Gpu", "class"), ("Fallback", "class"),
    ]  # fmt: skip


INSTANCES = {
    "one of torch's": ("from torch import nn\nnet = nn.Linear(1, 2)", True),
    "one of torch's in full": ("import torch\nnet = torch.nn.Linear(1, 2)", True),
    "a module of this file": ("class A(nn.Module): ...\nnet = A()", True),
    "what a factory says": ("def make() -> nn.Module: ...\nnet = make()", True),
    "changed on the way": ("class A(nn.Module): ...\nnet = A().to('cpu').eval()", True),
    "a parameter": ("net = nn.Parameter(x)", False),
    "a function of torch": ("net = nn.functional.relu(x)", False),
    "another class": ("class A: ...\nnet = A()", False),
    "a method's result": ("class A(nn.Module): ...\nnet = A().parameters()", False),
}


@pytest.mark.parametrize(("source", "offered"), INSTANCES.values(), ids=INSTANCES)
def test_instances(source: str, offered: bool) -> None:
    """What is made by a call is offered where the syntax says that it is a module."""
    assert (("net", "instance") in definitions_in(source)) is offered


LEADING = {
    "a part in a body": ("class A: ...\nclass B:\n def __init__(self): self.a = A()", "AB", "B"),
    "a base": ("class A: ...\nclass B(A): ...", "AB", "B"),
    "a default": ("class A: ...\ndef B(kind=A): ...", "AB", "B"),
    "a decorator": ("def A(f): ...\n@A\nclass B: ...", "AB", "B"),
    "by a helper": ("class A: ...\ndef h(): return A()\nclass B:\n x = h()", "AB", "B"),
    "by a constant": ("class A: ...\nKINDS = {'a': A}\nclass B:\n x = KINDS", "AB", "B"),
    "an instance": ("class A: ...\nB = A()", "AB", "B"),
    "an attribute set later": ("class A: ...\nB = make()\nB.head = A()", "AB", "B"),
    "two": ("class A: ...\nclass B: ...", "AB", "AB"),
    "an annotation only": ("class A: ...\ndef B(net: A) -> A: ...", "AB", "AB"),
    "each other": ("class A:\n x = lambda: B\nclass B:\n x = lambda: A", "AB", "AB"),
    "itself": ("class A:\n def f(self): return A()", "A", "A"),
    "main does not count": ("class A: ...\nif __name__ == '__main__':\n B = A()", "A", "A"),
    "a branch": ("class A: ...\nif x:\n B = A()\nelse:\n B = A()", "AB", "B"),
    "a type checker's branch": ("class A: ...\nif TYPE_CHECKING:\n B = A()\nelse:\n B = 1", "AB", "AB"),
    "a chain": ("class A: ...\nclass B(A): ...\nclass C(B): ...", "ABC", "C"),
}


@pytest.mark.parametrize(("source", "candidates", "expected"), LEADING.values(), ids=LEADING)
def test_leading(source: str, candidates: str, expected: str) -> None:
    """The definitions that no other is built from, through helpers and constants."""
    assert "".join(leading(list(candidates), outline_of(source))) == expected


def test_deep_source_is_an_error_of_pythons() -> None:
    """What isn't Python says so with Python's own exceptions."""
    with pytest.raises(SyntaxError):
        outline_of("class")
    with pytest.raises((SyntaxError, ValueError)):
        outline_of("a\0b")
