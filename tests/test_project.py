"""
The package as it is published, and what the project promises of every command.
"""

from __future__ import annotations

import doctest
import email
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import venv
import zipfile
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from command import ROOT, Cli
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import modelinspect
from modelinspect.cli.app import COMMANDS

SOURCE = ROOT / "src"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of what is in the checkout."""
    return _built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def _built(kind: str, project: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    (made,) = folder.iterdir()
    return made


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def _package_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module and py.typed are in the wheel; tests, models and benchmarks are not."""
    files = {
        str(path.relative_to(SOURCE))
        for path in (SOURCE / "modelinspect").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert _package_files(wheel) == files
    assert "modelinspect/py.typed" in files


def test_wheel_metadata_is_complete(wheel: Path) -> None:
    """What a package index shows is there: licence, readme, classifiers, command."""
    fields = _metadata(wheel)
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["License-File"] == "LICENSE"
    assert fields["Description-Content-Type"] == "text/markdown"
    assert fields["Summary"]
    assert fields["Keywords"]
    assert "Typing :: Typed" in fields.get_all("Classifier", [])
    assert {
        Requirement(line).name for line in fields.get_all("Requires-Dist", []) if "extra" not in line
    } == {
        "numpy",
        "rich",
        "torch",
        "typer",
    }


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """The source distribution is complete: it builds the same files and holds the tests."""
    sdist = _built("sdist", ROOT, tmp_path / "sdist")
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], check=True)
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert _package_files(_built("wheel", unpacked, tmp_path / "wheel")) == _package_files(wheel)
    for path in ("tests/test_project.py", "models/regression.csv", "benchmarks/cases.py", "LICENSE"):
        assert (unpacked / path).is_file()


def test_version_is_one(cli: Cli) -> None:
    """The command, the library and the metadata agree on the version, and the changelog has it."""
    version = metadata.version("modelinspect")
    assert modelinspect.__version__ == version
    assert cli("--version") == (0, f"modelinspect {version}\n", "")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_pinned() -> None:
    """constraints.txt names exactly one version, for this Python, of each dependency and tool."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    applying = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in applying}
    assert len(versions) == len(applying)
    for requirement in map(Requirement, metadata.requires("modelinspect") or []):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help_with_an_example(name: str, cli: Cli) -> None:
    """``--help`` of each command shows how it is typed."""
    code, stdout, stderr = cli(name, "--help")
    assert (code, stderr) == (0, "")
    assert re.search(rf"^ +.*\bmodelinspect {name} \S", stdout, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_in_the_readme(name: str) -> None:
    """The README shows each command at work."""
    assert f"modelinspect {name} " in (ROOT / "README.md").read_text(encoding="utf-8")


def _module_names() -> list[str]:
    found = pkgutil.walk_packages(modelinspect.__path__, "modelinspect.")
    return sorted(module.name for module in found if module.name != "modelinspect.__main__")


@pytest.mark.parametrize("name", _module_names())
def test_doctests_hold(name: str) -> None:
    """Examples in docstrings give what they say."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.fixture(scope="session")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The wheel in an environment of its own that lacks torch and numpy."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in _closure("typer", "rich"):
        for top in {Path(path).parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}:
            (packages / top).symlink_to(str(distribution.locate_file(top)))
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return Cli(folder / "bin" / "modelinspect")


def _closure(*names: str) -> list[metadata.Distribution]:
    """These distributions and all that they need."""
    found: dict[str, metadata.Distribution] = {}
    pending = list(names)
    while pending:
        name = canonicalize_name(pending.pop())
        if name not in found:
            found[name] = metadata.distribution(name)
            needed = map(Requirement, found[name].requires or ())
            pending += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return list(found.values())


def _write_safetensors(path: Path) -> Path:
    header = {"0.weight": {"dtype": "F32", "shape": [13, 1], "data_offsets": [0, 52]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(52))
    return path


def test_files_need_no_torch(bare: Cli, tmp_path: Path) -> None:
    """With torch and numpy missing, what reads files works."""
    path = _write_safetensors(tmp_path / "small.safetensors")
    assert bare("count", path) == (0, "13\n", "")
    code, stdout, stderr = bare("params", path)
    assert (code, stdout.split("\t")[0], stderr) == (0, "0.weight", "")


def test_definitions_without_torch_say_what_to_install(bare: Cli) -> None:
    """With torch missing, a definition is an error that names torch, and no traceback."""
    code, stdout, stderr = bare("count", "models/regression.py")
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert "pip install torch" in stderr
    assert "Traceback" not in stderr
