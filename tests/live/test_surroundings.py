"""What a definition may do to the process, and what is left of it: nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modelinspect.errors import DefinitionError
from modelinspect.live.definition import load_definition
from modelinspect.live.surroundings import stdout_to_stderr

Write = Callable[..., str]
SOURCE = Path(__file__).parents[2] / "src"

MEDDLER = """
import os, random, sys
import numpy as np
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_grad_enabled(False)
torch.manual_seed(1); random.seed(1); np.random.seed(1)
os.chdir("/")
sys.argv.append("meddled")
assert sys.argv[0] == "net.py", sys.argv
class Net(nn.Module):
    def __init__(self, fail=False):
        super().__init__()
        torch.rand(3); random.random(); np.random.rand()
        self.fc = nn.Linear(2, 2)
        if fail: raise ValueError
"""


def state() -> list[object]:
    """Everything of the process that a definition likes to change."""
    return [
        torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state()),
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
        Path.cwd(), list(sys.argv), sys.stdout, sys.dont_write_bytecode,
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [None, 3])
def test_the_process_stays_as_it_was(seed: int | None, write: Write) -> None:
    """Generators, defaults, folder and arguments are restored, whether loading succeeds or fails."""
    path = write("net.py", MEDDLER)
    before = state()
    load_definition(path, meta=False, seed=seed)
    assert state() == before
    with pytest.raises(DefinitionError):
        load_definition(f"{path}:Net(fail=True)", seed=seed)
    assert state() == before


def test_a_default_device_of_the_callers_is_kept(write: Write) -> None:
    """A caller who works on another default device gets it back."""
    torch.set_default_device("meta")
    try:
        load_definition(write("net.py", "torch.set_default_device('cpu')\nnet = nn.Linear(1, 1)"))
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


def test_a_seed_covers_import_and_all_generators(write: Write) -> None:
    """Values drawn on import, from torch, Python and NumPy, are the same under one seed."""
    path = write(
        "net.py",
        "import random, numpy\nnet = nn.Linear(2, 1)\n"
        "net.drawn = (random.random(), float(numpy.random.rand()), torch.rand(1).item())",
    )
    first, second, other = (load_definition(path, seed=seed).module.drawn for seed in (5, 5, 6))
    assert first == second != other


NOISY = """
import atexit, ctypes, os, subprocess, sys
def shout(where):
    print("python", where)
    sys.__stdout__.write(f"stream {where}\\n")
    os.write(1, f"descriptor {where}\\n".encode())
    libc = ctypes.CDLL(None)
    libc.printf(b"printf %s\\n", where.encode())
    subprocess.run(["echo", "child", where])
shout("import")
class Net(nn.Linear):
    def __init__(self):
        shout("init")
        super().__init__(2, 3)
"""
ADD_UP = """
import sys
from modelinspect.live.definition import load_definition
print("first")
print(sum(row.numel for row in load_definition(sys.argv[1]).table))
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, its output in pipes."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )


def test_nothing_of_the_definition_reaches_stdout(write: Write) -> None:
    """Prints of Python, of C and of child processes go to stderr; stdout holds the result alone."""
    done = run(ADD_UP, write("net.py", NOISY))
    assert done.returncode == 0
    assert done.stdout == "first\n9\n"
    for where in ("import", "init"):
        for how in ("python", "stream", "descriptor", "printf", "child"):
            assert f"{how} {where}\n" in done.stderr


def test_prints_of_a_failing_definition(write: Write) -> None:
    """What is printed before an exception goes to stderr as well, and stdout works again."""
    code = """
import sys
from modelinspect.errors import DefinitionError
from modelinspect.live.definition import load_definition
try:
    load_definition(sys.argv[1])
except DefinitionError as error:
    print(error.message)
"""
    done = run(code, write("net.py", NOISY + "raise ValueError"))
    assert done.stdout == "net.py cannot be imported\n"
    assert "printf import\n" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(closed: str, write: Write) -> None:
    """A process without stdout or stderr can load a definition that prints."""
    path = write(
        "net.py", 'print("loud")\nclass Net(nn.Linear):\n    def __init__(self): super().__init__(2, 3)'
    )
    code = f"""
from modelinspect.live.definition import load_definition
with open("done", "w") as file:
    file.write(str(len(load_definition({path!r}).table)))
"""
    subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code],
        check=True, env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert Path("done").read_text() == "2"


def test_an_exception_passes_through() -> None:
    """The redirection swallows nothing, OSError included, and is undone."""
    before = sys.stdout
    with pytest.raises(OSError, match="mine"), stdout_to_stderr():
        raise OSError("mine" if sys.stdout is not before else "not redirected")
    assert sys.stdout is before


def test_the_users_folder_is_searched_last(write: Write) -> None:
    """A ``torch.py`` beside the definition, or one that hides a part of torch, is not what is imported."""
    for name in ("torch.py", "typing_extensions.py", "sympy.py", "numpy.py"):
        write(name, "raise RuntimeError('shadowed')", head="")
    write("net.py", "import numpy\nnet = nn.Linear(2, 3)")
    done = run("import sys; sys.path.remove('')\n" + ADD_UP, "net.py")
    assert (done.stdout, done.returncode) == ("first\n9\n", 0)


@pytest.mark.parametrize(
    ("torch_file", "message"),
    [
        ("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')", "which is not installed"),
        (
            "raise ModuleNotFoundError('x', name='filelock')",
            "torch can't be imported: it needs filelock, which is not",
        ),
        (
            "raise OSError('libtorch_cpu.so: cannot open shared object file')",
            "OSError: libtorch_cpu.so: cannot open",
        ),
    ],
)
def test_torch_missing_or_broken(torch_file: str, message: str, tmp_path: Path) -> None:
    """Without a working torch the error says so in one line, with the line that installs it."""
    (tmp_path / "torch.py").write_text(torch_file)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from modelinspect.errors import MissingDependencyError
from modelinspect.api import count
try:
    count("net.py:Net")
except MissingDependencyError as error:
    print(error)
"""
    done = run(code)
    assert message in done.stdout, done.stderr
    assert done.stdout.endswith("hint: pip install torch --index-url https://download.pytorch.org/whl/cpu\n")


GIANT = """
import resource, sys
import torch
from modelinspect.live.definition import load_definition
def resident(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = resident()
definition = load_definition(sys.argv[1])
assert {p.device.type for p in definition.module.parameters()} == {"meta"}
print(sum(row.numel for row in definition.table), resident() - before, "torch._dynamo" in sys.modules)
"""


def test_a_hundred_billion_parameters_cost_nothing() -> None:
    """The largest example, made larger, is counted in less memory than one of its matrices takes."""
    path = Path(__file__).parents[2] / "models" / "giant.py"
    done = run(GIANT, f"{path}:Giant(layers=115)")
    numel, grown, compiler = done.stdout.split()
    assert int(numel) == 100_501_610_496
    assert int(grown) < 200 * 2**20
    assert compiler == "False"
