"""`modelinspect transplant` as a script and as a person sees it: real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import ROOT, Cli, Finished
from safetensors.torch import load_file, save_file
from torch import nn

import modelinspect as mi
from modelinspect.cli.app import app
from modelinspect.cli.boundary import guarded

Here = Callable[..., Finished]
NETS = """
import torch
from torch import nn


class Old(nn.Module):
    def __init__(self, tie=False):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        parts = [{"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)} for _ in range(3)]
        self.layers = nn.ModuleList(map(nn.ModuleDict, parts))

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = x + layer["down"](layer["up"](x).tanh())
        return x


class New(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        blocks = [nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)) for _ in range(3)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        x = self.tokens(x)
        for block in self.blocks:
            x = x + block(x)
        return x


class Wider(New):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 5)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.two(self.one(x).relu())


class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.q7, self.x3 = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.q7(self.x3(x).relu())


class Counted(New):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6, affine=False)
        self.register_buffer("position_ids", torch.arange(5))


class Drawn(New):
    def __init__(self):
        super().__init__()
        self.register_buffer("position_ids", torch.rand(5))


def example_input():
    return torch.arange(10).reshape(2, 5)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of classes, and weights of some of them."""
    made = tmp_path_factory.mktemp("transplant")
    (made / "nets.py").write_text(NETS)
    names: dict[str, type[nn.Module]] = {}
    exec(NETS, names)
    torch.manual_seed(0)
    state = names["Old"]().state_dict()
    torch.save(state, made / "old.pt")
    save_file(state, made / "old.safetensors")
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in state.items()}, "ema": state}, made / "training.ckpt"
    )
    save_file(names["Pair"]().state_dict(), made / "pair.safetensors")
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """The command in this process, in that folder: torch is loaded once for many calls."""
    monkeypatch.chdir(folder)

    def run(*arguments: str | Path) -> Finished:
        capfd.readouterr()
        words = ["transplant", *map(str, arguments)]
        code = guarded(lambda: app(words, prog_name="modelinspect", standalone_mode=False))
        return Finished(code, *capfd.readouterr())

    return run


PLAIN = [
    "embed.weight\ttokens.weight\t\t1\tcertain",
    "layers.{0..2}.up.weight\tblocks.{0..2}.0.weight\t\t3\tcertain",
    "layers.{0..2}.up.bias\tblocks.{0..2}.0.bias\t\t3\tcertain",
    "layers.{0..2}.down.weight\tblocks.{0..2}.2.weight\t\t3\tcertain",
    "layers.{0..2}.down.bias\tblocks.{0..2}.2.bias\t\t3\tcertain",
]


def test_the_plan_goes_into_a_pipe(cli: Cli, folder: Path) -> None:
    """One row a line: source, target, transform, count, label, reason; nothing is written."""
    before = sorted(folder.iterdir())
    code, out, err = cli("transplant", "old.pt", "nets.py:New", cwd=folder)
    assert (code, err) == (0, "")
    assert [line.rpartition("\t")[0] for line in out.splitlines()] == PLAIN
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.parametrize("source", ["old.pt", "old.safetensors"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_written_does_what_the_old_one_did(
    here: Here, folder: Path, tmp_path: Path, source: str, suffix: str
) -> None:
    """Written, loaded strictly with the ordinary loader, both models put out the same."""
    out = tmp_path / f"new{suffix}"
    code, stdout, err = here(source, "nets.py:New", "-o", out)
    assert (code, stdout) == (0, "")
    assert "13 tensors" in err
    assert "it fits nets.py:New: load_state_dict takes it, strict" in err
    names: dict[str, type[nn.Module]] = {}
    exec(NETS, names)
    old, new = names["Old"](), names["New"]()
    old.load_state_dict(torch.load(folder / "old.pt"))
    new.load_state_dict(torch.load(out) if suffix == ".pt" else load_file(out), strict=True)
    ids = torch.arange(11)
    assert torch.equal(old(ids), new(ids))


def test_the_twins_of_the_example_models(cli: Cli, tmp_path: Path) -> None:
    """The regression network, fitted and saved by ``grads``, runs in its twin."""
    fitted, out = tmp_path / "fitted.safetensors", tmp_path / "twin.safetensors"
    data = ("--data", "models/regression.csv", "--steps", "3")
    assert cli("grads", "models/regression.py", *data, "--save", fitted).code == 0
    assert cli("transplant", fitted, "models/regression_named.py", "-o", out, "-q") == (0, "", "")
    assert torch.equal(load_file(out)["output_linear.weight"], load_file(fitted)["2.weight"])


def test_quiet_is_quiet_on_success(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """With -q and -o nothing is said on either stream."""
    assert cli("transplant", "old.pt", "nets.py:New", "-q", "-o", tmp_path / "x.pt", cwd=folder) == (
        0,
        "",
        "",
    )


def test_what_is_missing_is_not_written(here: Here, folder: Path, tmp_path: Path) -> None:
    """Exit 1, no file, and the message names the tensors; allowed, they are left out and it is said."""
    out = tmp_path / "x.pt"
    code, stdout, err = here("old.pt", "nets.py:Wider", "-q", "-o", out)
    assert (code, stdout, out.exists()) == (1, "", False)
    assert "x.pt was not written: old.pt does not fill nets.py:Wider: 2 tensors get nothing" in err
    assert "head.weight, head.bias" in err
    assert "--allow-missing" in err
    code, _, err = here("old.pt", "nets.py:Wider", "-o", out, "--allow-missing")
    assert code == 0
    assert "it fits nets.py:Wider but for 2 tensors, which stay as they are" in err
    assert len(torch.load(out)) == 13


def test_missing_without_output_shows_the_plan(here: Here, folder: Path) -> None:
    """The plan goes to stdout all the same, what is open to stderr, and the exit code is 1."""
    code, out, err = here("old.pt", "nets.py:Wider")
    assert code == 1
    assert "\thead.weight\t\t1\tmissing\t" in out
    assert "2 tensors get nothing" in err


def test_what_the_target_makes_itself_is_written(here: Here, folder: Path, tmp_path: Path) -> None:
    """Position numbers that the source lacks are those of a new model, so that the file loads strictly."""
    state = torch.load(folder / "old.pt")
    state |= {"last.running_mean": torch.randn(6), "last.running_var": torch.rand(6)}
    source, out = tmp_path / "counted.pt", tmp_path / "new.safetensors"
    torch.save(state, source)
    code, _, err = here(source, "nets.py:Counted", "-o", out)
    assert code == 0, err
    assert "it fits nets.py:Counted: load_state_dict takes it, strict" in err
    assert load_file(out)["position_ids"].tolist() == [0, 1, 2, 3, 4]
    assert load_file(out)["norm.num_batches_tracked"].item() == 0
    before = out.read_bytes()
    assert here(source, "nets.py:Counted", "-o", out).code == 0
    assert out.read_bytes() == before
    code, _, _ = here(source, out, "-o", tmp_path / "again.pt")
    assert torch.load(tmp_path / "again.pt")["position_ids"].tolist() == [0, 1, 2, 3, 4]


def test_what_the_target_draws_at_random_is_not_written(here: Here, folder: Path, tmp_path: Path) -> None:
    """A buffer that is other in each new model has no value to be written; that is said."""
    out = tmp_path / "new.pt"
    code, _, err = here("old.pt", "nets.py:Drawn", "-o", out, "--allow-missing")
    assert code == 0, err
    assert "position_ids" not in torch.load(out)
    assert "it fits nets.py:Drawn but for 1 tensor, which stays as it is" in err


def test_an_ambiguity_lists_its_candidates(here: Here, folder: Path, tmp_path: Path) -> None:
    """Two tensors that nothing tells apart: exit 1, a --map that settles it, and with it exit 0."""
    out = tmp_path / "twins.pt"
    code, _, err = here("pair.safetensors", "nets.py:Twins", "-o", out)
    assert (code, out.exists()) == (1, False)
    assert "ambiguous" in err
    assert "--map '" in err
    code, _, _ = here("pair.safetensors", "nets.py:Twins", "--map", "one=x3", "-o", out)
    assert code == 0
    assert torch.equal(torch.load(out)["x3.weight"], load_file(folder / "pair.safetensors")["one.weight"])
    code, _, _ = here("pair.safetensors", "nets.py:Twins", "-o", out, "--accept-doubtful")
    assert code == 0


def test_a_source_definition_proves_and_settles(here: Here, folder: Path, tmp_path: Path) -> None:
    """Both models are run: what names can't tell, outputs do, and each row is proven."""
    out = tmp_path / "twins.safetensors"
    code, stdout, err = here("pair.safetensors", "nets.py:Twins", "--source-definition", "nets.py:Pair",
        "--input", "3x4", "-o", out, "--json")  # fmt: skip
    document = json.loads(stdout)
    assert (code, document["proof"]["equal"]) == (0, True), err
    assert document["labels"] == {"proven": 2}
    assert torch.equal(load_file(out)["x3.weight"], load_file(folder / "pair.safetensors")["one.weight"])


def test_a_checkpoint_gives_names_too(here: Here, folder: Path, tmp_path: Path) -> None:
    """DST may be another checkpoint, whose names are taken."""
    names, out = tmp_path / "names.safetensors", tmp_path / "renamed.pt"
    assert here("old.pt", "nets.py:New", "-q", "-o", names).code == 0
    assert here("old.safetensors", names, "-q", "-o", out).code == 0
    assert set(torch.load(out)) == set(load_file(names))


def test_sections_and_prefixes(here: Here, folder: Path, tmp_path: Path) -> None:
    """A section of a training checkpoint, and parts of both sides."""
    for section in ("state_dict", "ema"):
        out = tmp_path / f"{section}.pt"
        done = here("training.ckpt", "nets.py:New", "--section", section, "-o", out)
        assert done.code == 0
        assert len(torch.load(out)) == 13
    code, stdout, _ = here("old.pt", "nets.py:New", "--from-prefix", "layers.2", "--to-prefix", "blocks.0")
    assert code == 0
    assert {line.split("\t")[1] for line in stdout.splitlines()} == {
        f"blocks.0.{part}.{kind}" for part in (0, 2) for kind in ("weight", "bias")
    }


def test_a_plan_is_written_edited_and_applied(here: Here, folder: Path, tmp_path: Path) -> None:
    """The same plan gives the same bytes; an edited one does what it says."""
    plan, one, two = tmp_path / "plan.json", tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    assert here("old.pt", "nets.py:New", "--plan-out", plan, "-q", "-o", one).code == 0
    assert here("old.pt", "nets.py:New", "--plan", plan, "-q", "-o", two).code == 0
    assert one.read_bytes() == two.read_bytes()
    plan.write_text(plan.read_text().replace('"layers.{0..2}.up.weight"', '"layers.{2..0}.up.weight"'))
    assert here("old.pt", "nets.py:New", "--plan", plan, "-q", "-o", two).code == 0
    assert torch.equal(load_file(two)["blocks.0.0.weight"], load_file(one)["blocks.2.0.weight"])
    plan.write_text(plan.read_text().replace("layers.{2..0}", "layers.{3..0}"))
    code, _, err = here("old.pt", "nets.py:New", "--plan", plan)
    assert code == 2
    assert "row 2, blocks.{0..2}.0.weight: {3..0} has 4 values, and the target's {0..2} has 3" in err


def test_the_emitted_function_does_the_same(here: Here, folder: Path, tmp_path: Path) -> None:
    """Python on stdout, pasted into a script, makes the tensors that the command writes."""
    out = tmp_path / "new.pt"
    code, stdout, _ = here("old.pt", "nets.py:New", "--emit", "python", "-o", out)
    assert code == 0
    script = (
        f"{stdout}\n\nimport torch\nmade, wanted = convert(torch.load('old.pt')), torch.load({str(out)!r})\n"
    )
    script += "assert list(made) == list(wanted) and all(torch.equal(made[k], wanted[k]) for k in made)\n"
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)


def test_data_types_and_shards(here: Here, folder: Path, tmp_path: Path) -> None:
    """Converted on the way, and in shards with an index that the ordinary reader reads."""
    out = tmp_path / "shards"
    code, _, err = here("old.pt", "nets.py:New", "--dtype", "bfloat16", "--shard-size", "300B", "-o", out)
    assert code == 0, err
    assert "files" in err
    table = mi.open_checkpoint(out).table
    assert {tensor.dtype.name for tensor in table} == {"bfloat16"}
    assert len(list(out.glob("*.safetensors"))) > 1


def test_each_form(here: Here, folder: Path) -> None:
    """A table with whole modules in a row, Markdown, CSV, JSON Lines."""
    table = here("old.pt", "nets.py:New", "--format", "table").stdout
    assert "layers.{0..2}.up.*    blocks.{0..2}.0.*" in table
    assert table.endswith("complete: -o OUT writes it\n")
    assert "| layers.{0..2}.up.\\* |" in here("old.pt", "nets.py:New", "-f", "markdown").stdout
    assert len(here("old.pt", "nets.py:New", "-f", "csv").stdout.splitlines()) == 6
    lines = here("old.pt", "nets.py:New", "-f", "jsonl").stdout.splitlines()
    assert json.loads(lines[1])["count"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["old.pt", "nets.py:Wder"], "did you mean nets.py:Wider?"),
        (["odl.pt", "nets.py:New"], "did you mean old.pt?"),
        (["old.pt", "nts.py"], "did you mean nets.py?"),
        (
            ["nets.py:Old", "nets.py:New", "-o", "x.pt"],
            "nets.py:Old is a definition: it has no weights to write",
        ),
        (["old.pt", "nets.py:New", "-o", "old.pt"], "old.pt is a file of the source"),
        (["old.pt", "nets.py:New", "-o", "x.gguf"], "its suffix says no format to write"),
        (["old.pt", "nets.py:New", "-o", "nowhere/x.pt"], "there is no folder nowhere"),
        (["old.pt", "nets.py:New", "--dtype", "float16"], "add -o OUT"),
        (["old.pt", "nets.py:New", "--shard-size", "5GB"], "add -o OUT"),
        (["old.pt", "nets.py:New", "-o", "x.pt", "--dtype", "float17"], "float17"),
        (["old.pt", "nets.py:New", "--emit", "python", "--json"], "one thing goes to stdout"),
        (["old.pt", "old.pt", "--input", "2x3"], "add --source-definition"),
        (["old.pt", "nets.py:New", "--source-definition", "old.pt"], "is a checkpoint"),
        (["old.pt", "old.safetensors", "--source-definition", "nets.py:Old"], "the target is no definition"),
        (["old.pt", "nets.py:New", "--map", "layers"], "is no SOURCE=TARGET"),
        (["old.pt", "nets.py:New", "--map", "layers.*=blocks"], "has 1 stars before the = and 0 after it"),
        (["old.pt", "nets.py:New", "--map", "layer.*=blocks.*"], "no name of old.pt matches 'layer.*'"),
        (["old.pt", "nets.py:New", "--map", "layers.*=block.*"], "no name of nets.py:New matches 'block.*'"),
        (["old.pt", "nets.py:New", "--map", "layers.*.up=blocks.*.bias"], "pairs nothing"),
        (["old.pt", "nets.py:New", "--plan", "p.json"], "no such file"),
        (["old.pt", "nets.py:New", "--plan", "nets.py"], "is no plan"),
        (["old.pt", "nets.py:New", "--from-prefix", "encoder"], "names begin with: embed., layers."),
        (["old.pt", "nets.py:New", "--section", "ema"], "has no section 'ema'"),
    ],
)
def test_trouble_is_one_message_and_exit_2(here: Here, folder: Path, arguments: list[str], said: str) -> None:
    """Each way of calling it wrongly says what is wrong and what to do; nothing is on stdout."""
    code, out, err = here(*arguments)
    assert (code, out) == (2, ""), err
    assert said in err
    assert "Traceback" not in err


def test_a_definition_as_source_gives_a_plan(here: Here, folder: Path) -> None:
    """Without weights there is still a plan, and a function to emit."""
    code, out, _ = here("nets.py:Old", "nets.py:New")
    assert code == 0
    assert [line.rpartition("\t")[0] for line in out.splitlines()] == PLAIN


def test_help_is_enough(cli: Cli) -> None:
    """The help has the examples, every flag, and needs neither torch nor numpy."""
    done = cli("transplant", "--help")
    assert done.code == 0
    for word in (
        "-o new.safetensors",
        "--source-definition",
        "--plan-out",
        "--emit",
        "--allow-missing",
        "{0..11}",
    ):
        assert word in done.stdout
    assert "transplant" in cli("--help").stdout
    code = (
        "import sys; from modelinspect.cli.app import app; "
        "app(['transplant', '--help'], standalone_mode=False); "
        "sys.exit(bool({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("what", ["old.pt", "nets.py", "new.pt"])
def test_a_plan_is_never_written_over_what_it_is_made_of(here: Here, folder: Path, what: str) -> None:
    """--plan-out refuses the source, the definition and the output, and leaves them as they are."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, _, err = here("old.pt", "nets.py:New", "-o", "new.pt", "--plan-out", what)
    assert (code, "--plan-out" in err) == (2, True)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_plan_is_a_regular_file(here: Here) -> None:
    """A device that never ends is not read as a plan."""
    code, _, err = here("old.pt", "nets.py:New", "--plan", "/dev/zero")
    assert (code, "no regular file" in err) == (2, True)
