"""Definitions by a library's registry, with stand-ins for the libraries."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelinspect.errors import DefinitionError, MissingDependencyError, ModelInspectError, TargetError
from modelinspect.live.definition import load_definition

Write = Callable[..., str]

TIMM = """
def is_model(name): return name.split(".")[0] in list_models()
def list_models(): return ["resnet18", "resnet50", "vit_base"]
def create_model(name, pretrained=True, num_classes=1000):
    assert not pretrained
    return nn.Linear(2, num_classes)
"""
TORCHVISION = """
def list_models(): return ["resnet50", "fcn_resnet50"]
def get_model_builder(name):
    return {"resnet50": resnet50, "fcn_resnet50": fcn_resnet50}[name]
def resnet50(*, weights=None, num_classes=1000):
    return nn.Linear(2, num_classes)
def fcn_resnet50(*, weights="DEFAULT", weights_backbone="DEFAULT", **kwargs):
    assert weights is None and weights_backbone is None
    return nn.Linear(1, 1)
"""
TRANSFORMERS = """
import json, os, types
class AutoConfig:
    @staticmethod
    def from_pretrained(path, *, local_files_only, trust_remote_code, **changes):
        assert local_files_only and not trust_remote_code
        file = os.path.join(path, "config.json") if os.path.isdir(path) else path
        with open(file) as stream:
            values = {**json.load(stream), **changes}
        if "model_type" not in values and "auto_map" in values:
            raise ValueError("Please pass the argument `trust_remote_code=True`")
        if "model_type" not in values:
            raise ValueError("Unrecognized model")
        return types.SimpleNamespace(**values)
class GPT(nn.Linear):
    @classmethod
    def _from_config(cls, config): return cls(config.width, 2)
class AutoModel:
    @staticmethod
    def from_config(config, trust_remote_code):
        assert not trust_remote_code
        return nn.Linear(config.width, 1)
"""


@pytest.fixture
def libraries(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand-ins where installed packages are found; the current folder is another."""
    hidden = ("timm", "torchvision", "transformers")
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        monkeypatch.delitem(sys.modules, name)
    write("site/timm.py", TIMM)
    write("site/torchvision/__init__.py", "", head="")
    write("site/torchvision/models.py", TORCHVISION)
    write("site/transformers.py", TRANSFORMERS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[name]


def config(folder: Path, **values: object) -> str:
    """Writes a configuration; gives the target."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return f"transformers:{folder.name}"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("timm:resnet50", 3000), ("timm:resnet50.a1_in1k(num_classes=10)", 30),
        ("torchvision:resnet50", 3000),
        ("torchvision:resnet50(num_classes=3)", 9), ("torchvision:fcn_resnet50", 2),
        ("py:timm:create_model('x', False, 4)", 12),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("libraries")
def test_registries(target: str, expected: int) -> None:
    """Models are built by name and arguments, on meta, and never with weights."""
    definition = load_definition(target)
    assert sum(row.numel for row in definition.table) == expected
    assert {row.device for row in definition.table} == {"meta"}
    assert definition.notes == ()


@pytest.mark.usefixtures("libraries")
def test_transformers(tmp_path: Path) -> None:
    """A folder or its config.json: the named architecture, else AutoModel, and the note says which."""
    target = config(tmp_path / "gpt", model_type="gpt", architectures=["GPT"], width=5)
    for spelling in (target, f"{target}/config.json"):
        definition = load_definition(spelling)
        assert definition.table["weight"].shape == (2, 5)
        assert definition.notes == ("built GPT, the configuration's architecture",)
    assert load_definition(f"{target}(width=7)").table["weight"].shape == (2, 7)
    target = config(tmp_path / "bare", model_type="gpt", width=5, quantization_config={"bits": 4})
    definition = load_definition(target)
    assert definition.table["weight"].shape == (1, 5)
    assert definition.notes == (
        "built by AutoModel, without a head: the configuration names none",
        "the configuration's quantization was not applied; data types are those before it",
    )


@pytest.mark.usefixtures("libraries")
def test_code_beside_a_configuration_is_never_run(tmp_path: Path) -> None:
    """``auto_map`` is noted where transformers knows the type itself, and refused where it doesn't."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "net.py").write_text("open('ran', 'w')")
    target = config(
        tmp_path / "own", model_type="gpt", architectures=["Mine"], width=5, auto_map={"AutoModel": "net.M"}
    )
    assert load_definition(target).notes == (
        "built by AutoModel, without a head: transformers has no Mine",
        "the configuration's auto_map names code in its folder; it was not run",
    )
    config(tmp_path / "own", auto_map={"AutoConfig": "net.C"})
    with pytest.raises(DefinitionError) as caught:
        load_definition(target)
    assert caught.value.message == "transformers:own needs code of its own (auto_map), which is never run"
    assert not (tmp_path / "ran").exists()


ERRORS: list[tuple[str, type[ModelInspectError], str, str | None]] = [
    (
        "timm:resnett50", DefinitionError,
        "timm has no model 'resnett50'", "did you mean timm:resnet50 or timm:resnet18?",
    ),
    ("torchvision:vit", DefinitionError, "torchvision has no model 'vit'", None),
    (
        "timm:resnet50(pretrained=True)", DefinitionError,
        "timm:resnet50(pretrained=True) asks for weights (pretrained), which a definition never loads",
        "leave it out; name a checkpoint to inspect its weights",
    ),
    (
        "torchvision:resnet50(weights='DEFAULT')", DefinitionError,
        "torchvision:resnet50(weights='DEFAULT') asks for weights (weights), which a definition never loads",
        "leave it out; name a checkpoint to inspect its weights",
    ),
    (
        "timm:resnet50(num_clases=3)", DefinitionError,
        "the arguments of timm:resnet50(num_clases=3) don't fit: got an unexpected keyword argument",
        "did you mean num_classes?",
    ),
    (
        "transformers:gptt", TargetError, "transformers:gptt: there is no folder or config.json gptt",
        "did you mean gpt?",
    ),
    (
        "transformers:gpt(3)", DefinitionError,
        "transformers:gpt(3): a configuration takes its values by name only", None,
    ),
    (
        "transformers:gpt", DefinitionError,
        "transformers:gpt: transformers can't read the configuration", None,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("target", "kind", "message", "hint"), ERRORS, ids=[row[0] for row in ERRORS])
@pytest.mark.usefixtures("libraries")
def test_messages(
    target: str, kind: type[ModelInspectError], message: str, hint: str | None, tmp_path: Path
) -> None:
    """A name that a registry lacks, a wish for weights, a configuration that isn't one."""
    config(tmp_path / "gpt", width=1)
    with pytest.raises(kind) as caught:
        load_definition(target)
    assert caught.value.message.startswith(message)
    assert hint is None or caught.value.hint == hint


def test_a_missing_library(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package and the line that installs it; a local file is no stand-in."""
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    monkeypatch.setattr(sys, "meta_path", [_Nowhere(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "timm")
    write("timm.py", TIMM)
    with pytest.raises(MissingDependencyError) as caught:
        load_definition("timm:resnet50")
    assert caught.value.message == "timm:resnet50 needs timm, which is not installed"
    assert caught.value.hint == "pip install timm; a module of that name is py:timm:resnet50"


class _Nowhere:
    """Finds no timm anywhere."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")


@pytest.mark.usefixtures("libraries")
def test_a_broken_library(write: Write) -> None:
    """A library that raises on import is said to be there and broken."""
    write("site/timm.py", "raise RuntimeError('operator torchvision::nms does not exist')")
    with pytest.raises(MissingDependencyError) as caught:
        load_definition("timm:resnet50")
    assert caught.value.message == "timm:resnet50 needs timm, which is installed and can't be imported"
    assert caught.value.details == ("RuntimeError: operator torchvision::nms does not exist",)


PLUGIN = """
def build(name, *args, **kwargs):
    print("built", name)
    return nn.Linear(*args, **kwargs)
broken = 3
"""


def test_entry_points(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package's entry point adds a scheme: it is called with the name and the arguments."""
    write("site/zoo_models.py", PLUGIN)
    info = tmp_path / "site" / "zoo_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-models\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[modelinspect.definitions]\n"
        "zoo = zoo_models:build\nbad = zoo_models:broken\ngone = zoo_models:gone\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    definition = load_definition("zoo:tiger(3, out_features=2)")
    assert definition.table["weight"].shape == (2, 3)
    assert definition.table["weight"].device == "meta"
    with pytest.raises(DefinitionError, match="the scheme bad: zoo_models:broken can't be called"):
        load_definition("bad:tiger")
    with pytest.raises(DefinitionError, match="the scheme gone: can't be loaded from zoo_models:gone"):
        load_definition("gone:tiger")
    with pytest.raises(DefinitionError, match=r"zoo:tiger\(1\) cannot be built"):
        load_definition("zoo:tiger(1)")
