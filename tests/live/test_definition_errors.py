"""Definitions that don't load: one message each, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from modelinspect.errors import DefinitionError, ModelInspectError, TargetError
from modelinspect.live import locate
from modelinspect.live.definition import load_definition
from modelinspect.live.module_table import module_table

Write = Callable[..., str]

NET = """\
class Net(nn.Linear):
    def __init__(self, width: int, depth=2):
        super().__init__(width, depth)
"""
MANY = """\
class Net(nn.Module):
    def __init__(self, n, /, name: str, rate: 'float', sizes: list[int], on: bool, *rest, x, **more): ...
"""
UNSHOWN = """\
class Odd:
    def __repr__(self): raise GeneratorExit
"""
JSON = sys.modules["json"].__file__
EXPECTED = "expected a subclass of nn.Module, an instance, or a function that returns one"
MAIN = 'what a script does belongs under if __name__ == "__main__":'

# Call after the path, source of net.py (two lines of imports stand before it), message, details, hint.
MESSAGES: dict[str, tuple[str, str, str, tuple[str, ...], str | None]] = {
    "a syntax error": (
        "", "class Net(nn.Module)\n    pass",
        "net.py cannot be imported", ("at net.py:3: class Net(nn.Module)", "SyntaxError: expected ':'"), None,
    ),
    "an exception on import": (
        "", "def f():\n    return 1 / 0\nf()",
        "net.py cannot be imported", ("at net.py:4, in f", "ZeroDivisionError: division by zero"), None,
    ),
    "a package that is missing": (
        "", "import no_such_package.part",
        "net.py cannot be imported",
        ("at net.py:3", "ModuleNotFoundError: No module named 'no_such_package'"),
        "is it installed in this environment? for example: pip install no_such_package",
    ),
    "a name that is missing from a package": (
        "", "from json import lods",
        "net.py cannot be imported",
        ("at net.py:3", f"ImportError: cannot import name 'lods' from 'json' ({JSON})"),
        None,
    ),
    "sys.exit on import": (
        "", "import sys\nsys.exit('usage: net.py FILE')",
        "net.py cannot be imported", ("at net.py:4", "it called sys.exit('usage: net.py FILE')"), MAIN,
    ),
    "arguments parsed on import": (
        "", "import argparse\nparse = argparse.ArgumentParser()\nparse.add_argument('x')\nparse.parse_args()",
        "net.py cannot be imported", ("at net.py:6", "it called sys.exit(2)"), MAIN,
    ),
    "an exception with many lines": (
        "", "raise ValueError('\\n'.join(map(str, range(20))))",
        "net.py cannot be imported",
        ("at net.py:3", "ValueError: 0", "1", "2", "3", "4", "5", "6", "7", "…"), None,
    ),
    "an exception that can't be shown": (
        "", "class Odd(Exception):\n    def __str__(self): raise OSError\nraise Odd",
        "net.py cannot be imported", ("at net.py:5", "Odd"), None,
    ),
    "an exception with control characters": (
        "", "raise ValueError('\\x1b[2Jgone')",
        "net.py cannot be imported", ("at net.py:3", r"ValueError: \x1b[2Jgone"), None,
    ),
    "an exception beside Exception": (
        "", "raise GeneratorExit", "net.py cannot be imported", ("at net.py:3", "GeneratorExit"), None,
    ),
    "an exception beside Exception in a constructor": (
        ":Net",
        "class Stop(BaseException): ...\nclass Net(nn.Module):\n    def __init__(self): raise Stop('here')",
        "net.py:Net cannot be built", ("at net.py:5, in __init__", "Stop: here"), None,
    ),
    "an exception that can't be shown at all": (
        "",
        "class Odd(Exception):\n    def __str__(self): raise GeneratorExit\nraise Odd",
        "net.py cannot be imported", ("at net.py:5", "Odd"), None,
    ),
    "an exception that says very much": (
        "", "raise ValueError('x' * 5_000_000)",
        "net.py cannot be imported", ("at net.py:3", f"ValueError: {'x' * 2_000} …"), None,
    ),
    "an exception with control characters in its name": (
        "", "raise type('\\x1b[2JE', (Exception,), {})",
        "net.py cannot be imported", ("at net.py:3", r"\x1b[2JE"), None,
    ),
    "sys.exit with what can't be shown": (
        "", "class Odd:\n    def __repr__(self): return 1\nraise SystemExit(Odd())",
        "net.py cannot be imported", ("at net.py:5", "it called sys.exit()"), MAIN,
    ),
    "a default that can't be shown": (
        ":f",
        f"{UNSHOWN}class Number:\n    def __repr__(self): return 1\ndef f(x, y=Odd(), z=Number()): ...",
        "net.py:f needs arguments: x", ("signature: f(x, y=…, z=…)",), "for example: 'net.py:f(x=8)'",
    ),
    "an annotation that can't be shown": (
        ":f", f"{UNSHOWN}def f(x, y: Odd() = 1): ...",
        "net.py:f needs arguments: x", ("signature: f(x, y: … = 1)",), "for example: 'net.py:f(x=8)'",
    ),
    "code that runs when an object is looked at": (
        ":net",
        f"{UNSHOWN}    __class__ = property(__repr__)\nnet = nn.Tanh()\nvars(net)['held'] = Odd()",
        "net.py:net cannot be used", ("at net.py:4, in __repr__", "GeneratorExit"), None,
    ),
    "a name that isn't there": (
        ":Nett", NET + "class Other(nn.Module): ...\n",
        "net.py has no definition 'Nett'",
        ("it holds:", "net.py:Net", "net.py:Other"), "did you mean net.py:Net?",
    ),
    "a name in a file that holds none": (
        ":Net", "x = 1",
        "net.py has no definition 'Net'", (), None,
    ),
    "an attribute that isn't there": (
        ":model.hed", "model = nn.Sequential()\nmodel.head = nn.Tanh()",
        "net.py:model has no attribute 'hed'", (), "did you mean net.py:model.head?",
    ),
    "several definitions": (
        "", "class A(nn.Module): ...\nclass B(nn.Module): ...\nmodel = nn.Tanh()\ndef c() -> nn.Module: ...",
        "net.py holds 4 definitions, and none is built from the others",
        ("net.py:A", "net.py:B", "net.py:model", "net.py:c"), "name one of them",
    ),
    "no definition": (
        "", "x = 1\nclass Config: ...",
        "net.py holds no model", (EXPECTED,), None,
    ),
    "functions that don't say": (
        "", "def build(): ...\ndef _private(): ...\ndef count() -> int: ...",
        "net.py holds nothing that is known to be a model",
        ('functions that don\'t say "-> nn.Module":', "net.py:build"), "name the one that returns the model",
    ),
    "missing arguments": (
        "", NET,
        "net.py:Net needs arguments: width",
        ("signature: Net(width: int, depth=2)",), "for example: 'net.py:Net(width=8)'",
    ),
    "missing arguments of many kinds": (
        ":Net",
        MANY,
        "net.py:Net needs arguments: n, name, rate, sizes, on, x",
        ("signature: Net(n, /, name: str, rate: float, sizes: list[int], on: bool, *rest, x, **more)",),
        "for example: 'net.py:Net(8, name=\"name\", rate=0.5, sizes=[8, 8], on=True, x=8)'",
    ),
    "one more argument missing": (
        ":build(1)", "def build(a, b) -> nn.Module: ...",
        "the arguments of net.py:build(1) don't fit: missing a required argument: 'b'",
        ("signature: build(a, b)",), "for example: 'net.py:build(1, b=8)'",
    ),
    "an argument that is no literal": (
        ":Net", "class Config: ...\nclass Net(nn.Module):\n    def __init__(self, config: Config): ...",
        "net.py:Net needs arguments: config", ("signature: Net(config: {module}.Config)",),
        "config is no literal: add a function to the file that returns the module, and name that",
    ),
    "too many arguments": (
        ":Net(1, 2, 3)", NET,
        "the arguments of net.py:Net(1, 2, 3) don't fit: too many positional arguments",
        ("signature: Net(width: int, depth=2)",), None,
    ),
    "an unknown argument": (
        ":Net(1, dpth=3)", NET,
        "the arguments of net.py:Net(1, dpth=3) don't fit: got an unexpected keyword argument 'dpth'",
        ("signature: Net(width: int, depth=2)",), "did you mean depth?",
    ),
    "a constructor that raises": (
        ":Net(-1)", NET,
        "net.py:Net(-1) cannot be built",
        (
            "at net.py:5, in __init__",
            "RuntimeError: Trying to create tensor with negative dimension -1: [2, -1]",
        ), None,
    ),
    "a constructor that exits": (
        ":Net", "class Net(nn.Module):\n    def __init__(self): exit()",
        "net.py:Net cannot be built", ("at net.py:4, in __init__", "it called sys.exit()"), MAIN,
    ),
    "a constructor without super": (
        ":Net", "class Net(nn.Module):\n    def __init__(self): self.n = 1",
        "net.py:Net is not initialised", (), "its __init__ must call super().__init__()",
    ),
    "a factory of nothing": (
        ":build", "def build(): pass", "net.py:build returned nothing, not an nn.Module", (), None,
    ),
    "a factory of something else": (
        ":build", "def build(): return {}", "net.py:build returned a dict, not an nn.Module", (), None,
    ),
    "a factory of a number": (
        ":build", "def build(): return 3", "net.py:build returned an int, not an nn.Module", (), None,
    ),
    "a factory of several": (
        ":build", "def build(): return nn.Tanh(), 3", "net.py:build returned a tuple, not an nn.Module", (),
        "add a function to the file that returns the module alone, and name that",
    ),
    "a factory of a class": (
        ":build", "def build(): return nn.Tanh", "net.py:build returned the class Tanh, not an nn.Module", (),
        "return an instance of it",
    ),
    "an abstract class": (
        ":Net",
        "import abc\nclass Net(nn.Module, abc.ABC):\n    @abc.abstractmethod\n    def forward(self, x): ...",
        "net.py:Net is an abstract class", ("without a body: forward",), "name a class that derives from it",
    ),
    "a class that is no module": (
        ":Net", "class Net(dict): ...",
        "net.py:Net is a class that derives from dict, not from nn.Module", (), None,
    ),
    "an instance that is called": (
        ":net(1)", "net = nn.Tanh()",
        "net.py:net(1): net.py:net is an instance already and takes no arguments", (),
        "name it alone: net.py:net",
    ),
    "a dict of tensors": (
        ":w", "w = {'a': torch.zeros(2)}", "net.py:w is a dict of tensors, not an nn.Module", (),
        "torch.save it and name the file; in Python, modelinspect.count() takes a dict of tensors",
    ),
    "a tensor": (
        ":w", "w = torch.zeros(2)", "net.py:w is a tensor, not an nn.Module", (),
        "torch.save it and name the file; in Python, modelinspect.count() takes a dict of tensors",
    ),
    "a number": (":w", "w = 3", "net.py:w is an int, not an nn.Module", (EXPECTED,), None),
    "a Python module": (
        ":nn", "", "net.py:nn is the Python module torch.nn, not an nn.Module", (EXPECTED,),
        "name what is in it: torch.nn:NAME",
    ),
    "a property that raises": (
        ":thing.model", "class T:\n    @property\n    def model(self): return [][0]\nthing = T()",
        "net.py:thing.model cannot be looked up",
        ("at net.py:5, in model", "IndexError: list index out of range"),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "source", "message", "details", "hint"), MESSAGES.values(), ids=MESSAGES)
def test_messages(
    call: str, source: str, message: str, details: tuple[str, ...], hint: str | None, write: Write
) -> None:
    """Every way a definition can be wrong has its own message, with the place in the user's file."""
    target = write("net.py", source) + call
    with pytest.raises(DefinitionError) as caught:
        load_definition(target)
    error = caught.value
    details = tuple(line.format(module="net") if "{module}" in line else line for line in details)
    assert (error.message, error.details, error.hint) == (message, details, hint)


# What a constructor does, what is said of it, and the hint.
REGISTRIES: dict[str, tuple[str, str, str | None]] = {
    "no parameters": ("self._parameters = None", "_parameters is None, not a dict", None),
    "a list of parameters": ("self._parameters = [1]", "_parameters is of type list, not a dict", None),
    "a number": ("self._parameters['x'] = 5", "_parameters['x'] is of type int, not a tensor", None),
    "an int for a name": (
        "self._parameters[5] = self.weight", "_parameters has the key 5, which is not a string", None,
    ),
    "a text": ("self._buffers['x'] = 's'", "_buffers['x'] is of type str, not a tensor", None),
    "no module": ("self._modules['x'] = 5", "_modules['x'] is of type int, not a module", None),
    "no set": (
        "self._non_persistent_buffers_set = None", "_non_persistent_buffers_set is None, not a set", None,
    ),
    "in a part": (
        "self.part = nn.Tanh(); self.part._buffers['\\x1b'] = 1",
        r"part: _buffers['\x1b'] is of type int, not a tensor", None,
    ),
    "a part without super": (
        "self.part = Part()", "part: has no _parameters", "its __init__ must call super().__init__()",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("does", "detail", "hint"), REGISTRIES.values(), ids=REGISTRIES)
def test_registries_that_torch_would_refuse(does: str, detail: str, hint: str | None, write: Write) -> None:
    """A module whose own dicts were tampered with is refused, with the entry that is wrong."""
    source = f"""
class Part(nn.Module):
    def __init__(self): ...
class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 3)
        {does}
"""
    with pytest.raises(DefinitionError) as caught:
        load_definition(write("net.py", source) + ":Net")
    error = caught.value
    assert error.message == "net.py:Net: its module can't be listed"
    assert (error.details, error.hint) == ((detail,), hint)


def test_registries_of_a_module_in_hand() -> None:
    """A module that the library is given is checked in the same way."""
    module = nn.Tanh()
    module._parameters = None  # type: ignore[assignment]
    with pytest.raises(DefinitionError, match="its module can't be listed"):
        module_table(module, "module", "memory")


def test_bytes_that_are_no_text_in_a_comment(tmp_path: Path, write: Write) -> None:
    """What Python imports has its one definition, whatever its comments are encoded in."""
    path = write("net.py", "class Part(nn.Module): ...\nclass Net(nn.Linear):\n  def __init__(self):\n")
    source = (tmp_path / path).read_text() + "    super().__init__(2, 3); self.part = Part()\n"
    (tmp_path / path).write_bytes(source.encode() + b"# \xff\n")
    try:
        compile((tmp_path / path).read_bytes(), path, "exec")
    except SyntaxError:  # as some versions of Python have it
        with pytest.raises(DefinitionError, match=r"net\.py cannot be imported"):
            load_definition(path)
    else:
        assert type(load_definition(path).module).__name__ == "Net"


def test_a_coroutine_is_closed(write: Write, recwarn: pytest.WarningsRecorder) -> None:
    """An async factory is told what it returned, without Python's warning."""
    with pytest.raises(DefinitionError) as caught:
        load_definition(write("net.py", "async def build() -> nn.Module: ...") + ":build")
    assert caught.value.message == "net.py:build returned a coroutine, not an nn.Module"
    assert caught.value.hint == "name a function that is no async def"
    assert not recwarn.list


@pytest.mark.parametrize("then", ["pass", "sys.exit(3)", "raise ValueError('child')"])
def test_a_forked_child_says_nothing(then: str, write: Write) -> None:
    """A constructor that forks has one result: the child ends, however it left."""
    source = "import os, sys\nclass Net(nn.Module):\n  def __init__(self):\n    super().__init__()\n"
    source += f"    if os.fork() == 0:\n      {then}\n"
    run = f"from modelinspect.live.definition import load_definition as l; l({write('net.py', source)!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"{run}; print('done')"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_the_place_is_where_the_users_code_raised(write: Write, tmp_path: Path) -> None:
    """Of a chain of calls through torch and a neighbour, the innermost line of the user's is named."""
    write("layers.py", "def deep(n):\n    return nn.Sequential(None, n)[5]\n")
    write("net.py", "from layers import deep\nclass Net(nn.Module):\n    def __init__(self): deep(1)")
    with pytest.raises(DefinitionError) as caught:
        load_definition("net.py")
    assert caught.value.details[0] == "at layers.py:4, in deep"
    assert caught.value.details[1].startswith("TypeError: ")


def test_a_syntax_error_in_a_neighbour(write: Write) -> None:
    """The file that is wrong is named, not the one that imports it."""
    write("layers.py", "def (\n", head="")
    write("net.py", "import layers")
    with pytest.raises(DefinitionError) as caught:
        load_definition("net.py")
    assert caught.value.message == "net.py cannot be imported"
    assert caught.value.details == ("at layers.py:1: def (", "SyntaxError: invalid syntax")


def test_part_of_a_package(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative import says how to name the file as part of its package."""
    write("outer_pkg/__init__.py", "", head="")
    write("outer_pkg/inner/__init__.py", "", head="")
    write("outer_pkg/inner/net.py", "from . import missing")
    write("lone/net.py", "from .other import x")
    with pytest.raises(DefinitionError) as caught:
        load_definition("outer_pkg/inner/net.py:Net")
    assert caught.value.hint == "it is part of a package: name it outer_pkg.inner.net:NAME"
    with pytest.raises(DefinitionError) as caught:
        load_definition("lone/net.py:Net")
    assert caught.value.hint == "it is part of a package: name it lone.net:NAME"
    monkeypatch.chdir(tmp_path / "outer_pkg")
    with pytest.raises(DefinitionError) as caught:
        load_definition("inner/net.py")
    assert (
        caught.value.hint == f"it is part of a package: name it outer_pkg.inner.net:NAME after cd {tmp_path}"
    )


def test_the_file_of_a_package(write: Write) -> None:
    """A package's own file finds its parts, afresh each time; one that reaches above it is to be named."""
    write("own_pkg/__init__.py", "from .part import Net")
    for width in (2, 3, 4):
        write("own_pkg/part.py", f"class Net(nn.Linear):\n  def __init__(self): super().__init__({width}, 1)")
        assert load_definition("own_pkg/__init__.py:Net").table["weight"].shape == (1, width)
    write("own_pkg/inner/__init__.py", "from ..part import Net")
    with pytest.raises(DefinitionError) as caught:
        load_definition("own_pkg/inner/__init__.py:Net")
    assert caught.value.hint == "it is part of a package: name it own_pkg.inner:NAME"


def test_a_library_named_as_a_module(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme's library that isn't there is to be installed, not to be meant."""
    monkeypatch.chdir(os.path.dirname(write("empty/net.py", "")))
    monkeypatch.setattr(locate, "scheme_names", lambda: ("timm", "no_such_library"))
    with pytest.raises(DefinitionError) as caught:
        load_definition("py:no_such_library:Net")
    assert caught.value.message == "py:no_such_library:Net: there is no module 'no_such_library'"
    assert (
        caught.value.hint == "is it installed in this environment? for example: pip install no_such_library"
    )


def test_modules_that_are_not_there(write: Write) -> None:
    """A dotted name that leads nowhere: which part is missing, and what was near."""
    write("networks.py", NET)
    write("some_pkg/__init__.py", "", head="")
    write("some_pkg/nets.py", NET)
    rows = [
        ("netwrks:Net", "netwrks:Net: there is no module 'netwrks'", "did you mean networks?"),
        ("tim:resnet50", "tim:resnet50: there is no module 'tim'", "did you mean timm?"),
        (
            "some_pkg.net:Net",
            "some_pkg.net:Net: there is no module 'some_pkg.net'",
            "did you mean some_pkg.nets?",
        ),
        ("networks.a:Net", "networks.a:Net: there is no module 'networks.a'", None),
        ("no_such:Net", "no_such:Net: there is no module 'no_such'", None),
    ]
    for target, message, hint in rows:
        with pytest.raises(DefinitionError) as caught:
            load_definition(target)
        assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_module_that_fails(write: Write) -> None:
    """A dotted name whose file raises, or misses a package, is that file's error."""
    write("failing.py", "import no_such_package")
    with pytest.raises(DefinitionError) as caught:
        load_definition("failing:Net")
    assert caught.value.message == "failing:Net cannot be imported"
    assert caught.value.details[0] == "at failing.py:3"
    assert "failing" not in sys.modules


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    """A folder of that name, a link to nothing: said, not tried."""
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "link.py").symlink_to("nowhere.py")
    with pytest.raises(TargetError, match=r"folder\.py is no regular file"):
        load_definition("folder.py:Net")
    with pytest.raises(TargetError, match=r"link\.py is no regular file"):
        load_definition("link.py")


def test_a_file_that_is_no_text(write: Write, tmp_path: Path) -> None:
    """Bytes that aren't Python, in a file that is called so."""
    for content in (b"\x80\x02\xff\x00PK", b"x = 1\0"):
        (tmp_path / "net.py").write_bytes(content)
        with pytest.raises(DefinitionError, match=r"net\.py cannot be imported"):
            load_definition("net.py")


def test_ctrl_c_passes(write: Write) -> None:
    """An interrupted definition is interrupted, not wrong."""
    for source in (
        "raise KeyboardInterrupt",
        "class N(nn.Module):\n    def __init__(self): raise KeyboardInterrupt",
    ):
        with pytest.raises(KeyboardInterrupt):
            load_definition(write("net.py", source))


def test_a_failed_import_leaves_no_module(write: Write) -> None:
    """A file that raised can be mended and loaded again."""
    path = write("mended.py", "raise ValueError")
    with pytest.raises(ModelInspectError):
        load_definition(path)
    assert "mended" not in sys.modules
    write("mended.py", "net = nn.Tanh()")
    assert type(load_definition(path).module).__name__ == "Tanh"


def test_too_large_to_be_built_for_real(write: Write) -> None:
    """Where memory runs out after the meta device failed, the message says both."""
    path = write(
        "huge.py",
        "class N(nn.Module):\n  def __init__(self):\n    torch.ones(1).item()\n    torch.ones(2**59)",
    )
    with pytest.raises(DefinitionError) as caught:
        load_definition(path)
    assert caught.value.details[0] == "at huge.py:6, in __init__"
    assert "was built for real" in caught.value.details[-1]
