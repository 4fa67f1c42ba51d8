"""What every command owes: pipes, terminals, colours, errors, exit codes, imports."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command import ROOT, Cli, plain_environment
from safetensors.torch import save_file

from modelinspect.cli.app import COMMANDS


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A safetensors file of 30,000 tensors: its listing is larger than a pipe's buffer."""
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    save_file({f"layer{n}.name{n}.weight": torch.zeros(1) for n in range(30_000)}, path)
    return path


def on_a_terminal(cli: Cli, *arguments: str, columns: int = 80, **environment: str) -> str:
    """What the command writes to a terminal of that width."""
    parent, child = pty.openpty()
    env = {**plain_environment(), "TERM": "xterm-256color", "COLUMNS": str(columns), **environment}
    process = subprocess.Popen([cli.script, *arguments], stdout=child, stderr=child, cwd=ROOT, env=env)
    os.close(child)
    chunks = []
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(parent)
    process.wait(60)
    return b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_an_example_and_a_readme_line(cli: Cli, name: str) -> None:
    """`--help` shows an example, and the README knows the command."""
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert "Example" in out
    # One example a line, as it is typed.
    assert f"\n    modelinspect {name} " in out
    assert "\\b" not in out
    assert f"modelinspect {name} " in out
    assert f"modelinspect {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_help_of_the_whole_lists_the_commands(cli: Cli) -> None:
    """`--help` and `-h`: every command with its line; without a command that is an error."""
    out = cli("--help").stdout
    assert all(name in out and line.split(":")[0] in out for name, (_, line) in COMMANDS.items())
    assert cli("-h").stdout == out
    assert cli("--version").stdout.startswith("modelinspect ")


LOADED = """
import sys, runpy
sys.argv = ["modelinspect", *{arguments!r}]
try:
    from modelinspect.cli.app import main
    main()
except SystemExit as end:
    assert not end.code, end.code
print(sorted({{"torch", "numpy", "rich"}} & set(sys.modules)), file=sys.stderr)
"""


def modules_after(*arguments: str) -> str:
    """Which of the heavy modules are loaded when the command has run."""
    code = LOADED.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pth"])
@pytest.mark.parametrize(
    "flags", [["count"], ["params"], ["params", "--tree", "--json"], ["count", "--by", "dtype"]]
)
def test_files_are_read_without_torch_numpy_and_rich(tmp_path: Path, suffix: str, flags: list[str]) -> None:
    """No heavy module is in `sys.modules` after a command on a file."""
    path = tmp_path / f"x{suffix}"
    if suffix == ".safetensors":
        save_file({"w": torch.zeros(2)}, path)
    else:
        torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=suffix == ".pt")
    assert modules_after(*flags, str(path)) == "[]"


@pytest.mark.parametrize("command", ["count", "params", "info", "bytes", "scan"])
def test_what_few_files_need_is_imported_for_those_alone(cli: Cli, tmp_path: Path, command: str) -> None:
    """A folder of plain weights loads no reader of other folders, no quantized layouts, no OpenSSL."""
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    imports = [sys.executable, "-X", "importtime", str(cli.script), command, str(tmp_path)]
    done = subprocess.run(imports, capture_output=True, text=True, env=plain_environment(), check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "modelinspect.cli.app" in loaded
    rare = ("directories.dcp", "directories.deepspeed", "parts.torch_archive", "analysis.quantization")
    assert not [name for name in loaded if name.endswith((*rare, "_hashlib"))]


def test_the_import_test_can_fail() -> None:
    """A definition does load torch, and the same check sees it."""
    assert "torch" in modules_after("count", "models/regression.py")


def test_importing_the_package_imports_next_to_nothing() -> None:
    """`import modelinspect` loads one hook; each public name resolves when it is asked for."""
    code = (
        "import sys, importlib; before = set(sys.modules); import modelinspect as mi;"
        "print(sorted(m for m in set(sys.modules) - before if m.startswith('modelinspect.')));"
        "print([name for name in mi.__all__ if not hasattr(mi, name)]);"
        "print(set(dir(mi)) >= set(mi.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert done.stdout.splitlines() == ["['modelinspect.display']", "[]", "True"]


def test_a_closed_pipe_ends_quietly(cli: Cli, wide: Path) -> None:
    """`modelinspect params FILE | head -1`: no message, the exit code of SIGPIPE."""
    process = subprocess.Popen(
        [cli.script, "params", wide], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=plain_environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"layer0.")
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_full_disk_is_an_error(cli: Cli) -> None:
    """Output that can't be written is exit 2 with one line, not a traceback."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [cli.script, "count", "models/regression.py"],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=plain_environment(), check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device\n"


def test_interruption_is_130_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    """Ctrl-C while a definition is being built: exit 130, no traceback, no half-written output."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import torch, time\nprint('building', flush=True)\ntime.sleep(60)\nclass Net(torch.nn.Module): ...\n"
    )
    out = tmp_path / "out.json"
    process = subprocess.Popen(
        [cli.script, "count", slow, "-o", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=plain_environment(),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"building\n", "what the user prints goes to stderr"
    process.send_signal(signal.SIGINT)
    out_bytes, err_bytes = process.communicate(timeout=30)
    assert (process.returncode, out_bytes, err_bytes) == (130, b"", b"")
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "__pycache__"] == ["slow.py"]


def test_long_work_shows_how_far_it_is(cli: Cli, tmp_path: Path) -> None:
    """Reading many values shows a line on a terminal that is gone at the end, and none in a pipe."""
    path = tmp_path / "big.safetensors"
    with open(path, "wb") as file:
        header = b'{"w":{"dtype":"F32","shape":[100000000],"data_offsets":[0,400000000]}}'
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 400_000_000)
    shown = on_a_terminal(cli, "params", str(path), "--values", NO_COLOR="1")
    assert "reading values: " in shown
    assert "all zeros" in shown.rpartition("\r")[2]
    assert cli("params", path, "--values").stderr == ""


def test_a_definition_that_prints_at_exit_does_not_spoil_the_result(cli: Cli, tmp_path: Path) -> None:
    """Prints on import, in the constructor and at exit all go to stderr."""
    (tmp_path / "loud.py").write_text(
        "import atexit, os, torch\nprint('import')\natexit.register(lambda: print('exit'))\n"
        "class Net(torch.nn.Linear):\n    def __init__(self):\n        os.system('echo built')\n"
        "        super().__init__(2, 3)\n"
    )
    code, out, err = cli("count", "loud.py", cwd=tmp_path)
    assert (code, out) == (0, "9\n")
    assert err.split() == ["import", "built", "exit"]


def test_colour_on_a_terminal_only(cli: Cli) -> None:
    """Colour on a terminal; none in a pipe, with NO_COLOR or on a dumb terminal; FORCE_COLOR adds it."""
    shown = on_a_terminal(cli, "params", "models/regression.py")
    assert "\x1b[" in shown
    assert "\x1b[" not in on_a_terminal(cli, "params", "models/regression.py", NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal(cli, "params", "models/regression.py", TERM="dumb")
    assert "\x1b[" not in cli("params", "models/regression.py", "--format", "table").stdout
    forced = cli("params", "models/regression.py", "--format", "table", env={"FORCE_COLOR": "1"})
    assert "\x1b[" in forced.stdout


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_names_are_whole_at_every_width(cli: Cli, tmp_path: Path, columns: int) -> None:
    """A long name is never cut: at a narrow width it goes on in the next line."""
    path = tmp_path / "x.safetensors"
    name = ".".join(["encoder_layer"] * 12)
    save_file({name: torch.zeros(1), "b": torch.zeros(1)}, path)
    shown = on_a_terminal(cli, "params", str(path), columns=columns, NO_COLOR="1")
    assert "…" not in shown
    assert name in shown.replace("\n", "").replace(" ", "") or name in shown


def test_several_targets_have_a_total_on_a_terminal(cli: Cli) -> None:
    """A terminal shows the sum; a pipe does not."""
    shown = on_a_terminal(cli, "count", "models/regression.py", "models/regression_named.py", NO_COLOR="1")
    assert "80" in shown
    assert "80" not in cli("count", "models/regression.py", "models/regression_named.py").stdout


HOSTILE = "a\x1b[31mred\x1b]8;;http://x\x07\u202ebidi\n\t[bold]=1+1"


@pytest.mark.parametrize("form", ["table", "plain", "json", "jsonl", "csv", "tsv", "markdown"])
def test_names_in_a_file_are_data(cli: Cli, tmp_path: Path, form: str) -> None:
    """Escape sequences, bidi marks and markup of a file never reach the output."""
    path = tmp_path / "x.safetensors"
    save_file({HOSTILE: torch.zeros(1)}, path)
    for flags in (["params"], ["count", "--by", "prefix"], ["params", "--tree"], ["params", "--values"]):
        out = cli(*flags, path, "--format", form, env={"FORCE_COLOR": ""}).stdout
        assert out
        assert not any(c in "\x7f\u202e" or (ord(c) < 32 and c not in "\t\r\n") for c in out), out


def test_errors_show_no_control_characters(cli: Cli, tmp_path: Path) -> None:
    """Also what an error repeats of a target is escaped."""
    code, out, err = cli("count", "gone\x1b[31m.pt")
    assert (code, out) == (2, "")
    assert "gone\\x1b[31m.pt: no such file" in err
    assert "\x1b" not in err


NEEDS_ARGUMENTS = """
import torch
class Net(torch.nn.Module):
    def __init__(self, width: int, depth=2):
        super().__init__()
"""
SOURCES = {
    "empty.pt": "",
    "text.pt": "hello " * 20,
    "raises.py": "import torch\nraise RuntimeError('no luck')\n",
    "plain.py": "class Net: ...\nN = 3\n",
    "needs.py": NEEDS_ARGUMENTS,
    "broken.py": "def f(:\n",
    "two.py": "import torch\nclass One(torch.nn.Module): ...\nclass Two(torch.nn.Module): ...\n",
}
BAD_TARGETS = {
    "no such file": ("gone.pt", "gone.pt: no such file or directory"),
    "near miss": ("emtpy.pt", "did you mean empty.pt?"),
    "empty": ("empty.pt", "empty.pt is empty"),
    "text": ("text.pt", "text.pt is not a checkpoint this version can read"),
    "empty folder": ("void", "void is an empty directory"),
    "truncated": ("cut.pt", "cut.pt"),
    "raises": ("raises.py", "no luck"),
    "no module": ("plain.py:Net", "Net"),
    "a number": ("plain.py:N", "N"),
    "no such name": ("needs.py:Nett", "did you mean"),
    "needs arguments": ("needs.py:Net", "width: int"),
    "bad arguments": ("needs.py:Net(depht=3)", "depht"),
    "no literal": ("needs.py:Net(open('x'))", "no literal"),
    "syntax": ("broken.py", "broken.py"),
    "several": ("two.py", "two.py:Two"),
    "network": ("https://example.org/x.pt", "https"),
    "standard input": ("-", "standard input"),
}
"""What is given in a folder with :data:`SOURCES`, and what is said."""


@pytest.mark.parametrize("case", list(BAD_TARGETS))
@pytest.mark.parametrize("command", ["count", "params"])
def test_bad_targets_have_clear_errors(cli: Cli, tmp_path: Path, case: str, command: str) -> None:
    """One message on stderr, nothing on stdout, exit 2, and never a traceback."""
    for name, text in SOURCES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "void").mkdir()
    torch.save({"w": torch.zeros(100)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:700])
    target, expected = BAD_TARGETS[case]
    code, out, err = cli(command, target, cwd=tmp_path)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert expected in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["count"], "Missing argument"),
        ([], "Missing command"),
        (["cuont", "x"], "did you mean count?"),
        (["count", "x", "--wat", "unique"], "No such option"),
        (["count", "x", "--what", "uniq"], "uniq"),
        (["params", "models/regression.py", "--top", "-1"], "-1"),
        (["params", "models/regression.py", "--json", "--format", "csv"], "contradict"),
        (["count", "models/regression.py", "--section", "x"], "only a checkpoint has sections"),
        (["count", "models/regression.py", "--by", "shard"], "no shards"),
        (["count", "models/regression.py", "--by", "dtype", "--depth", "1"], "means nothing"),
        (["count", "models/regression.py", "--sort", "unique"], "are of groups"),
        (["params", "models/regression.py", "--tree", "--against", "models/regression.py"], "one table"),
    ],
)
def test_wrong_calls_have_clear_errors(cli: Cli, arguments: list[str], expected: str) -> None:
    """Usage errors look like all others: one message, exit 2, no traceback."""
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_nothing_in_the_current_folder_is_imported(cli: Cli, tmp_path: Path) -> None:
    """A json.py or torch.py beside a model does nothing, also with `python -m`."""
    for name in ("json", "torch", "typer", "numpy", "random", "inspect", "modelinspect"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()\n")
    save_file({"w": torch.zeros(2)}, tmp_path / "x.safetensors")
    assert cli("params", "x.safetensors", "--json", cwd=tmp_path).code == 0
    (tmp_path / "modelinspect.py").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "modelinspect", "params", "x.safetensors", "--json"],
        cwd=tmp_path, capture_output=True, text=True, env=plain_environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_output_over_an_existing_file_is_whole_or_not_at_all(cli: Cli, tmp_path: Path) -> None:
    """A command that fails leaves the old file as it was."""
    out = tmp_path / "out.csv"
    out.write_text("old")
    assert cli("params", "gone.pt", "-o", out).code == 2
    assert out.read_text() == "old"
    assert cli("params", "models/regression.py", "-o", out).code == 0
    assert out.read_text().startswith("name,")


def test_notes_are_quiet_on_request(cli: Cli, tmp_path: Path) -> None:
    """`-q` leaves notes out and keeps errors."""
    path = tmp_path / "x.safetensors"
    save_file({"bn.running_mean": torch.zeros(2)}, path)
    assert cli("count", path).stderr
    assert not cli("count", path, "-q").stderr
    assert cli("count", "gone.pt", "-q").stderr


SETTINGS = ("bell-style none", "show-all-if-ambiguous on", "completion-query-items 0", "page-completions off")


def bash_completes(line: str, script: Path, cwd: Path) -> str:
    """The line after Tab in a real, interactive bash."""
    parent, child = pty.openpty()
    env = {
        **plain_environment(),
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "TERM": "dumb",
        "PS1": "$ ",
    }
    process = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=child, stdout=child, stderr=child, cwd=cwd, env=env,
        start_new_session=True,
    )  # fmt: skip
    os.close(child)
    for setting in SETTINGS:
        os.write(parent, f"bind 'set {setting}'\n".encode())
    os.write(parent, b"source <(modelinspect completion bash); PS1='REA''DY'\n")
    _read_until(parent, "READY")
    os.write(parent, line.encode() + b"\t\t")
    seen = _read_quiet(parent)
    process.kill()
    process.wait()
    os.close(parent)
    return seen


def _read_until(parent: int, marker: str) -> str:
    seen = ""
    while marker not in seen:
        seen += os.read(parent, 65536).decode(errors="replace")
    return seen


def _read_quiet(parent: int) -> str:
    """All that comes until nothing has come for a while."""
    seen = ""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ready, _, _ = select.select([parent], [], [], 3.0)
        if not ready:
            break
        seen += os.read(parent, 65536).decode(errors="replace")
    return seen


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("modelinspect count two.", "two.py"),
        ("modelinspect count two.py:T", "two.py:Two"),
        ("modelinspect count run.ckpt --section e", "ema"),
        ("modelinspect params run.ckpt --include enc", "encoder."),
        ("modelinspect count --wha", "--what"),
        ("modelinspect params fol", "folder/"),
    ],
)
def test_completion_in_a_real_bash(cli: Cli, tmp_path: Path, line: str, expected: str) -> None:
    """Paths, definitions behind a colon, sections, names and options complete with Tab."""
    (tmp_path / "two.py").write_text(SOURCES["two.py"] + "open('ran', 'w').close()\n")
    (tmp_path / "folder").mkdir()
    torch.save(
        {"state_dict": {"encoder.w": torch.zeros(1), "head.w": torch.zeros(1)}, "ema": {"w": torch.zeros(1)}},
        tmp_path / "run.ckpt",
    )
    completed = line.rpartition(" ")[0] + " " + expected
    assert completed in bash_completes(line, cli.script, tmp_path)
    assert not (tmp_path / "ran").exists(), "nothing is imported to complete it"


def test_completion_offers_every_definition(cli: Cli, tmp_path: Path) -> None:
    """Two candidates behind the colon: both are listed."""
    (tmp_path / "two.py").write_text(
        "import torch\nclass NetA(torch.nn.Module): ...\nclass NetB(torch.nn.Module): ...\n"
    )
    seen = bash_completes("modelinspect count two.py:", cli.script, tmp_path)
    assert "two.py:Net" in seen
    assert "NetA" in seen
    assert "NetB" in seen
