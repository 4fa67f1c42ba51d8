"""How a target is spelt: what is a checkpoint, what is a definition, what is neither."""

from __future__ import annotations

import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.errors import ModelInspectError, TargetError
from modelinspect.targets import Target, did_you_mean, no_such_file, parse_target, scheme_names

SPELLINGS = "a definition is spelt net.py:Net, package.module:factory or timm:resnet50"
LITERALS = "expected literals: numbers, strings, True, False, None, tuples, lists, dicts, sets"
QUOTE = "quote the whole target for the shell: 'net.py:Net(\"name\", depth=2)'"


def definition(text: str, **fields: Any) -> Target:
    """A target of that kind; its other fields keep their defaults."""
    return Target(text, "definition", **fields)


DEFINITIONS = [
    definition("net.py", path="net.py", scheme="file"),
    definition("a/b/net.py:Net", path="a/b/net.py", scheme="file", attribute="Net"),
    definition("net.py:obj.inner.0", path="net.py", scheme="file", attribute="obj.inner.0"),
    definition("net.py:Net()", path="net.py", scheme="file", attribute="Net", called=True),
    definition(
        "net.py:Net(1, hidden=13)",
        path="net.py", scheme="file", attribute="Net", args=(1,), kwargs={"hidden": 13}, called=True,
    ),
    definition(
        "net.py:Net('a.py:b(c)', [(-1, 2.5), None], name=\")\", flags={'x': {True, False}}, z=1+2j)",
        path="net.py", scheme="file", attribute="Net",
        args=("a.py:b(c)", [(-1, 2.5), None]),
        kwargs={"name": ")", "flags": {"x": {True, False}}, "z": 1 + 2j}, called=True,
    ),
    definition("with:colon/net.py:Net", path="with:colon/net.py", scheme="file", attribute="Net"),
    definition(r"C:\code\net.py:Net", path=r"C:\code\net.py", scheme="file", attribute="Net"),
    definition("package.module:factory", scheme="module", module="package.module", attribute="factory"),
    definition("module:obj.inner", scheme="module", module="module", attribute="obj.inner"),
    definition("m:f(x=-1)", scheme="module", module="m", attribute="f", kwargs={"x": -1}, called=True),
    definition("timm:resnet50", scheme="timm", attribute="resnet50"),
    definition("timm:resnet50.a1_in1k", scheme="timm", attribute="resnet50.a1_in1k"),
    definition(
        "torchvision:resnet50(num_classes=10)",
        scheme="torchvision", attribute="resnet50", kwargs={"num_classes": 10}, called=True,
    ),
    definition("timm:net('a.py:b')", scheme="timm", attribute="net", args=("a.py:b",), called=True),
    definition("transformers:some/folder", scheme="transformers", attribute="some/folder"),
    definition("transformers:./config.json", scheme="transformers", attribute="./config.json"),
    definition("py:timm:resnet50", scheme="module", module="timm", attribute="resnet50"),
    definition("py:package.module", scheme="module", module="package.module"),
]  # fmt: skip


@pytest.mark.parametrize("expected", DEFINITIONS, ids=lambda target: target.text)
def test_definitions(expected: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every spelling of a definition is taken apart, whether or not its file exists."""
    monkeypatch.chdir(tmp_path)
    assert parse_target(expected.text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "weights.pt",
        "folder/",
        "a/model.safetensors.index.json",
        "no.such",
        r"C:\weights.pt",
        "C:/w.pt",
        "./-",
    ],
)
def test_paths_are_checkpoints(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like a path and no definition is a checkpoint; opening it says that it isn't there."""
    monkeypatch.chdir(tmp_path)
    assert parse_target(text) == Target(text, "checkpoint", path=text)


@pytest.mark.parametrize(
    "name", ["weights", "timm:resnet50", "net:Net", "a.py:b", "resnet50(1)", "x://y", "hf:z"]
)
def test_an_existing_file_is_a_checkpoint(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that exists is named by its name, even where that reads like a definition."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    assert parse_target(name).kind == "checkpoint"
    assert parse_target(name).path == name


def test_a_folder_called_net_py_is_a_checkpoint(tmp_path: Path) -> None:
    """Only a file is run as Python."""
    (tmp_path / "net.py").mkdir()
    assert parse_target(str(tmp_path / "net.py")).kind == "checkpoint"


def test_the_path_that_exists_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ``.py:`` stands twice, the existing file says which colon ends the path."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "odd.py:folder (copy)"
    folder.mkdir()
    (folder / "net.py").touch()
    target = parse_target("odd.py:folder (copy)/net.py:Net(2)")
    assert (target.path, target.attribute, target.args) == ("odd.py:folder (copy)/net.py", "Net", (2,))


def test_a_configuration_folder_may_have_parentheses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``transformers:`` takes the folder that exists, not a call."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt (1)").mkdir()
    target = parse_target("transformers:gpt (1)")
    assert (target.attribute, target.called) == ("gpt (1)", False)


ERRORS: list[tuple[str, str, tuple[str, ...], str | None]] = [
    ("", "the target is empty", (SPELLINGS,), None),
    (
        "https://example.org/model.pt",
        "this version does not read https:// targets, only local files",
        ("target: https://example.org/model.pt",),
        "download it first and name the file or folder",
    ),
    *(
        (
            f"{scheme}://bucket/model",
            f"this version does not read {scheme}:// targets, only local files",
            (f"target: {scheme}://bucket/model",),
            "download it first and name the file or folder",
        )
        for scheme in ("s3", "gs", "hf", "HTTP")
    ),
    (
        "file:///tmp/model.pt",
        "file:///tmp/model.pt: a local file is named by its path",
        (),
        "/tmp/model.pt",
    ),
    ("resnet50", "resnet50 is neither a file nor a definition", (SPELLINGS,), None),
    ("network", "network is neither a file nor a definition", (SPELLINGS,), "did you mean network.py?"),
    ("Net(1)", "Net(1) is neither a file nor a definition", (SPELLINGS,), None),
    ("a b", "a b is neither a file nor a definition", (SPELLINGS,), None),
    ("net:3", "net:3 is neither a file nor a definition", (SPELLINGS,), None),
    ("\x1b[31mred", r"\x1b[31mred is neither a file nor a definition", (SPELLINGS,), None),
    ("network:", "network: names nothing after the colon", (SPELLINGS,), "did you mean network.py?"),
    ("timm:", "timm: names nothing after the colon", (SPELLINGS,), None),
    (
        "network.py:",
        "network.py: names no definition after the colon",
        (),
        "network.py alone is the one definition in it",
    ),
    (
        "network.py(3)",
        "network.py(3) gives arguments to a file",
        (),
        "name the definition in it: network.py:NAME(3)",
    ),
    (
        "weights.pt:model",
        "weights.pt is a checkpoint, and nothing can follow its name",
        ("target: weights.pt:model",),
        "--section NAME picks a part of a checkpoint",
    ),
    ("net.py:3x", "net.py:3x: '3x' is no name of a definition", (SPELLINGS,), None),
    ("net.py:a-b(1)", "net.py:a-b(1): 'a-b' is no name of a definition", (SPELLINGS,), None),
    *(
        (text, f"the arguments of {text} can't be read", (why, LITERALS), QUOTE)
        for text, why in [
            ("net.py:Net(hidden=WIDTH)", "no literal: WIDTH"),
            ("net.py:Net(__import__('os').getcwd())", "no literal: __import__('os').getcwd()"),
            ("net.py:Net(2**9)", "no literal: 2 ** 9"),
            ("net.py:Net(f'{x}')", "no literal: f'{x}'"),
            ("net.py:Net({[]: 1})", "no literal: {[]: 1}"),
            ("net.py:Net(*[1])", "no literal: *[1]"),
            ("net.py:Net(**{'a': 1})", "** has no names: {'a': 1}"),
            ("net.py:Net(a=1, a=2)", "a is given twice"),
            ("net.py:Net(1)(2)", "expected one pair of parentheses, and nothing after it"),
            ("net.py:Net(1).inner", "expected one pair of parentheses, and nothing after it"),
            ("net.py:Net(1", "'(' was never closed"),
        ]
    ),
]


@pytest.mark.parametrize(("text", "message", "details", "hint"), ERRORS, ids=[row[0] for row in ERRORS])
def test_messages(
    text: str,
    message: str,
    details: tuple[str, ...],
    hint: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each slip has its own sentence and, where there is one, a next step."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").touch()
    (tmp_path / "weights.pt").touch()
    with pytest.raises(TargetError) as caught:
        parse_target(text)
    assert (caught.value.message, caught.value.details, caught.value.hint) == (message, details, hint)


@pytest.mark.parametrize(
    "arguments",
    ["(" * 5000, "[" * 300 + "]" * 300, "-" * 100_000 + "1", "1" * 10_000, "'\\ud800'", "a\0b", "1;2"],
)
def test_no_arguments_break_the_parser(arguments: str) -> None:
    """However the arguments are spelt, they are read or refused; nothing else is raised."""
    try:
        target = parse_target(f"net.py:Net({arguments})")
    except ModelInspectError as error:
        assert "can't be read" in error.message  # noqa: PT017  either outcome is right
    else:
        assert target.called


LITERAL = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=string.printable) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip
NAMES = st.from_regex(r"[a-z]{1,3}_", fullmatch=True)


@given(args=st.lists(LITERAL, max_size=3), kwargs=st.dictionaries(NAMES, LITERAL, max_size=3))
def test_literals_come_back_as_they_were(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Python's own spelling of any literal is read back as that value."""
    spelt = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
    target = parse_target(f"net.py:Net({spelt})")
    assert target.args == tuple(args)
    assert target.kwargs == kwargs


@given(st.text(max_size=30) | st.text(alphabet="net.py:()/\\=,1'\"[]{}- ", max_size=30))
def test_any_text_is_a_target_or_an_error(text: str) -> None:
    """Whatever is typed, the parser gives a target with that text or an error of ours."""
    try:
        target = parse_target(text)
    except TargetError:
        return
    assert target.text == text


def test_missing_file_names_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a path that isn't there offers near names from its folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Resnet50.pt").touch()
    (tmp_path / "models" / "resnet51.pt").touch()
    error = no_such_file("models/resnet50.pth")
    assert error.message == "models/resnet50.pth: no such file or directory"
    assert error.hint == "did you mean models/Resnet50.pt or models/resnet51.pt?"


def test_missing_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a folder on the way is missing, the error says which and offers near folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "file").touch()
    error = no_such_file("modles/a/b.pt")
    assert error.details == ("there is no folder modles",)
    assert error.hint == "did you mean models?"
    assert no_such_file("file/b.pt").details == ("file is no folder",)
    assert no_such_file("elsewhere.pt").hint is None


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("Nett", ["Net", "train"], "did you mean Net?"),
        ("NET", ["net"], "did you mean net?"),
        ("model", ["model.safetensors", "readme"], "did you mean model.safetensors?"),
        ("lstm", ["lstm1", "lstm2"], "did you mean lstm1 or lstm2?"),
        ("net", ["net1", "net2", "net3", "net4"], "did you mean net1, net2 or net3?"),
        ("x", [], None),
        ("bad", ["bad\x1b"], r"did you mean bad\x1b?"),
    ],
)
def test_did_you_mean(name: str, known: list[str], hint: str | None) -> None:
    """Near names are offered, the nearest first, three at most; control characters are shown escaped."""
    assert did_you_mean(name, known) == hint


def add_scheme(folder: Path, scheme: str, value: str) -> None:
    """What an installed package with an entry point leaves in site-packages."""
    info = folder / f"{scheme}_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {scheme}-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[modelinspect.definitions]\n{scheme} = {value}\n")


def test_entry_points_add_schemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed scheme wins over a module of that name, which ``py:`` still reaches."""
    assert parse_target("zoo:tiger(1)").scheme == "module"
    add_scheme(tmp_path, "zoo", "zoo_plugin:build")
    monkeypatch.syspath_prepend(tmp_path)
    target = parse_target("zoo:tiger-v2.x(1)")
    assert (target.scheme, target.attribute, target.args) == ("zoo", "tiger-v2.x", (1,))
    assert parse_target("py:zoo:tiger").scheme == "module"
    assert scheme_names() == ("timm", "torchvision", "transformers", "zoo")


def test_parsing_imports_nothing_heavy() -> None:
    """Telling a path or a file's definition loads neither torch nor what only errors need."""
    code = (
        "import sys; from modelinspect.targets import parse_target;"
        "parse_target('weights.pt'); parse_target('net.py:Net');"
        "print([m for m in ('torch', 'numpy', 'importlib.metadata', 'difflib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
