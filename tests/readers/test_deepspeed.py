"""DeepSpeed's folders: logical shapes, where each parameter's elements lie, and what is refused."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed_files import (
    BUFFERS,
    FROZEN,
    GROUPS,
    NO_PADDINGS,
    model_states,
    optimizer_states,
    parameters,
    write,
)

import modelinspect as mi
from modelinspect.errors import CheckpointError, DamagedFileError, ModelInspectError, RefusedError
from modelinspect.readers.parts.flat_groups import divided, shared_out
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint, TensorInfo

NAMED = {**parameters(), **FROZEN, **BUFFERS}
UNIQUE = sum(t.numel() for t in parameters().values()) + sum(t.numel() for t in FROZEN.values())


def stored(row: TensorInfo) -> torch.Tensor:
    """The elements of a row, taken from the extents that it names."""
    pieces = []
    for part in row.parts or (row,):
        extent = part.extent
        assert extent is not None
        raw = Path(extent.file).read_bytes()[extent.offset : extent.offset + extent.nbytes]
        pieces.append(torch.frombuffer(bytearray(raw), dtype=getattr(torch, part.dtype.name)))
    return torch.cat(pieces).reshape(row.shape)


def opened(path: Path) -> Checkpoint:
    """As a user would."""
    return open_checkpoint(str(path))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_parameter_is_where_its_row_says(stage: int, ranks: int, tmp_path: Path) -> None:
    """Names and shapes are the model's; weights and moments lie at the extents, whatever the ranks."""
    write(tmp_path, stage, ranks)
    checkpoint = opened(tmp_path)
    assert checkpoint.format == "deepspeed"
    assert {row.name: row.shape for row in checkpoint.table} == {
        **{name: tuple(tensor.shape) for name, tensor in NAMED.items()},
        "head.weight": (7, 5),
    }
    weights = checkpoint.table if stage == 3 else checkpoint.tables["fp32"]
    for name, tensor in parameters().items():
        assert torch.equal(stored(weights[name]), tensor)
        for more, moment in ((1000, "exp_avg"), (2000, "exp_avg_sq")):
            row = checkpoint.tables["optimizer"][f"state.{name}.{moment}"]
            assert torch.equal(stored(row), tensor + more)
    for name, tensor in FROZEN.items():
        assert torch.equal(stored(checkpoint.table[name]), tensor)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_counts(stage: int, tmp_path: Path) -> None:
    """Tied parameters count once, buffers and what isn't trained are told apart; never 0 parameters."""
    write(tmp_path, stage, 2)
    report = mi.count(str(tmp_path))
    assert report.unique == UNIQUE
    assert report.buffers == 3
    assert report.frozen == sum(tensor.numel() for tensor in FROZEN.values())
    assert [tie.names for tie in report.ties] == [("emb.weight", "head.weight")]


def test_latest_names_the_step_and_the_step_reads_the_same(tmp_path: Path) -> None:
    """The folder above, through `latest`, and the step's own are one checkpoint."""
    step = write(tmp_path, 3, 2)
    above, own = opened(tmp_path), opened(step)
    assert above.notes[0] == "read global_step12, which 'latest' names"
    assert [row._replace(storage=None) for row in above.table] == [
        row._replace(storage=None) for row in own.table
    ]
    assert own.facts["ZeRO stage"] == "3"
    assert own.facts["ranks"] == "2"
    assert own.facts["DeepSpeed"] == "0.19.8"
    assert own.facts["global step"] == "12"


def test_placement_says_how_a_parameter_is_spread(tmp_path: Path) -> None:
    """What lies in several files says so; what lies in one piece is a plain view of it."""
    write(tmp_path / "two", 3, 2)
    row = opened(tmp_path / "two").table["fc.weight"]
    assert (row.placement, len(row.parts)) == ("ZeRO-3 over 2 ranks", 2)
    assert [part.shape for part in row.parts] == [(28,), (27,)]
    write(tmp_path / "one", 3, 1)
    alone = opened(tmp_path / "one").table["fc.weight"]
    assert (alone.placement, alone.parts) == ("", ())


def test_settings_of_groups_belong_to_the_parameters(tmp_path: Path) -> None:
    """param_groups name flat tensors in the file and parameters here; `params` says whose each moment is."""
    write(tmp_path, 2, 2)
    groups = opened(tmp_path).optimizers["optimizer"].groups
    assert [group.params for group in groups] == [tuple(group) for group in GROUPS]
    assert groups[1].settings["lr"] == 0.2
    report = mi.params(str(tmp_path), section="optimizer")
    assert report.of["state.fc.bias.exp_avg"] == "fc.bias"
    assert report.of["state.fc.bias.step"] == "fc.bias"


def test_paddings_between_parameters(tmp_path: Path) -> None:
    """`param_alignment_paddings` are passed over."""
    write(tmp_path, 2, 2, [(5, 1), (1, 0, 3)])
    weights = opened(tmp_path).tables["fp32"]
    for name, tensor in parameters().items():
        assert torch.equal(stored(weights[name]), tensor)


def test_bfloat16_files_have_a_prefix(tmp_path: Path) -> None:
    """`bf16_zero_pp_rank_…` is the same by another name."""
    write(tmp_path, 1, 2, before="bf16_")
    assert torch.equal(stored(opened(tmp_path).tables["fp32"]["one"]), parameters()["one"])


def test_a_single_file_of_zero3_has_logical_shapes(tmp_path: Path) -> None:
    """Its tensors are empty; shapes come from param_shapes, and a note says where the bytes are."""
    step = write(tmp_path, 3, 2)
    checkpoint = opened(step / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    assert mi.count(checkpoint).unique == UNIQUE
    assert checkpoint.table["emb.weight"].shape == (7, 5)
    assert checkpoint.table["emb.weight"].nbytes == 0
    assert any("*_optim_states.pt" in note for note in checkpoint.notes)


def test_a_single_file_of_zero2(tmp_path: Path) -> None:
    """The module is whole, and what the file declares of it is kept."""
    step = write(tmp_path, 2, 2)
    checkpoint = opened(step / "mp_rank_00_model_states.pt")
    assert checkpoint.model_section == "module"
    assert mi.count(checkpoint).unique == UNIQUE
    assert checkpoint.table["scale"].kind == "buffer"
    assert checkpoint.table["frozen.weight"].requires_grad is False
    assert checkpoint.table["fc.weight"].requires_grad is True


def test_a_single_file_of_an_optimizer_is_no_model(tmp_path: Path) -> None:
    """Flat copies of the weights in it are the optimizer's."""
    step = write(tmp_path, 2, 2)
    checkpoint = opened(step / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert set(checkpoint.roles.values()) == {"optimizer"}


def test_missing_ranks(tmp_path: Path) -> None:
    """A rank's optimizer that is not there is an error that names it."""
    step = write(tmp_path, 3, 3)
    (step / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(DamagedFileError, match="1 of 3 ranks are missing") as caught:
        opened(tmp_path)
    assert "ranks 1" in str(caught.value)


def test_optimizers_alone_are_no_model(tmp_path: Path) -> None:
    """What a machine has whose ranks wrote no model states: an error says what is missing."""
    step = write(tmp_path, 2, 2)
    (step / "mp_rank_00_model_states.pt").unlink()
    for folder in (tmp_path, step):
        with pytest.raises(DamagedFileError, match="the files of the model are missing"):
            opened(folder)


def test_without_optimizer_shapes_stay_known(tmp_path: Path) -> None:
    """All optimizer files deleted: the parameters count, and a note says that their bytes are gone."""
    step = write(tmp_path, 3, 2)
    for path in step.glob("*_optim_states.pt"):
        path.unlink()
    checkpoint = opened(step)
    assert mi.count(checkpoint).unique == UNIQUE
    assert any("are not found" in note for note in checkpoint.notes)


def test_flat_tensors_that_are_too_short(tmp_path: Path) -> None:
    """Parameters that can't lie in them keep their shapes and have no bytes; the flat tensors are listed."""
    step = write(tmp_path, 3, 1)
    path = step / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    states = optimizer_states(3, 1, 0, NO_PADDINGS)
    states["optimizer_state_dict"]["fp32_flat_groups"][0] = torch.zeros(3)
    torch.save(states, path)
    checkpoint = opened(tmp_path)
    assert checkpoint.table["fc.weight"].shape == (11, 5)
    assert checkpoint.table["fc.weight"].nbytes == 0
    assert torch.equal(stored(checkpoint.table["fc.bias"]), parameters()["fc.bias"])
    assert any(row.shape == (3,) for row in checkpoint.tables["optimizer.flat"])


@pytest.mark.parametrize(
    "shape", [None, "text", (2, "a"), (-1,), (2, 10**30), (2,) * 70, (1 << 40, 1 << 40), {"a": 1}]
)
def test_shapes_that_make_no_sense(shape: Any, tmp_path: Path) -> None:
    """Whatever stands in the place of a shape: an error of ours that names the parameter."""
    states = model_states(3, 1, 0)
    states["param_shapes"] = [OrderedDict([("emb.weight", shape)])]
    path = tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    torch.save(states, path)
    for target in (path, tmp_path):
        with pytest.raises(DamagedFileError, match=r"emb\.weight"):
            opened(target)


@pytest.mark.parametrize("value", [None, 3, "x", [None], [[1, 2]], {"a": (2,)}, [{1: (2,)}]])
def test_param_shapes_of_wrong_types(value: Any, tmp_path: Path) -> None:
    """Whatever stands in the place of param_shapes, the module is read."""
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({**model_states(2, 1, 0), "param_shapes": value}, path)
    assert len(opened(path).table) == len(opened(tmp_path).table) == len(NAMED) + 1


def test_one_group_named_a_million_times(tmp_path: Path) -> None:
    """A list that costs two bytes each time it is named is not read each time."""
    group = OrderedDict((f"p{n}", torch.Size([1])) for n in range(1000))
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({**model_states(2, 1, 0), "param_shapes": [group] * 100_000}, path)
    with pytest.raises(CheckpointError, match="claims more than is read"):
        opened(path)


@pytest.mark.parametrize("tag", ["../outside", "/etc", ".", "", "a\x00b", "gone", "x" * 5000])
def test_latest_leads_nowhere_else(tag: str, tmp_path: Path) -> None:
    """A tag that is no plain name of a folder here is not followed."""
    write(tmp_path / "outside", 3, 1)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "latest").write_text(tag)
    with pytest.raises(ModelInspectError):
        opened(folder)


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    """Neither the step's folder nor a file in it may be a link to somewhere else."""
    step = write(tmp_path / "real", 3, 1)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "latest").write_text("global_step12")
    (linked / "global_step12").symlink_to(step)
    with pytest.raises(RefusedError):
        opened(linked)
    files = tmp_path / "files"
    files.mkdir()
    for path in step.iterdir():
        (files / path.name).symlink_to(path)
    with pytest.raises(RefusedError):
        opened(files)


def test_layers_of_a_pipeline(tmp_path: Path) -> None:
    """Each layer's file holds names of its own; they begin with its number, as PipelineModule has them."""
    torch.save(
        {"module": None, "buffer_names": [], "param_shapes": None}, tmp_path / "mp_rank_00_model_states.pt"
    )
    for layer in (0, 3, 10):
        torch.save(
            {"weight": torch.zeros(2, layer + 1)}, tmp_path / f"layer_{layer:02d}-model_00-model_states.pt"
        )
    checkpoint = opened(tmp_path)
    assert [(row.name, row.shape) for row in checkpoint.table] == [
        ("0.weight", (2, 1)),
        ("3.weight", (2, 4)),
        ("10.weight", (2, 11)),
    ]


def test_files_of_experts(tmp_path: Path) -> None:
    """Experts lie in files of their own, under their global numbers, and count with the rest."""
    step = write(tmp_path, 2, 1)
    for expert in range(2):
        name = f"moe.deepspeed_moe.experts.deepspeed_experts.{expert}.w"
        torch.save({name: torch.zeros(4, 4)}, step / f"layer_0_expert_{expert}_mp_rank_00_model_states.pt")
    checkpoint = opened(tmp_path)
    assert mi.count(checkpoint).unique == UNIQUE + 32
    assert any("which parameter each element belongs to is not told" in note for note in checkpoint.notes)


def test_tensor_parallel_ranks(tmp_path: Path) -> None:
    """Slices of one name are different tensors; what is the same bytes on all ranks counts once."""
    norm = torch.arange(8.0)
    for rank in range(2):
        module = {"norm": norm.clone(), "up": torch.rand(8, 4)}
        states: dict[str, Any] = {
            "module": module,
            "buffer_names": [],
            "param_shapes": None,
            "mp_world_size": 2,
        }
        torch.save(states, tmp_path / f"mp_rank_{rank:02d}_model_states.pt")
    checkpoint = opened(tmp_path)
    assert [row.name for row in checkpoint.table] == ["mp_rank_00.norm", "mp_rank_00.up", "mp_rank_01.up"]
    assert mi.count(checkpoint).unique == 8 + 64
    assert [row.name for row in checkpoint.tables["copies"]] == ["mp_rank_01.norm"]
    assert any(re.search("cut across 2 ranks.*1 tensor ", note) for note in checkpoint.notes)


def test_universal_checkpoints(tmp_path: Path) -> None:
    """`zero/NAME/fp32.pt` and the moments beside it, one folder a parameter."""
    torch.save(model_states(3, 2, 0), tmp_path / "mp_rank_00_model_states.pt")
    for name, tensor in parameters().items():
        folder = tmp_path / "zero" / name
        folder.mkdir(parents=True)
        # Those of ZeRO-3 are flat (``_merge_zero_shards`` without shapes).
        torch.save({"param": tensor.flatten(), "cat_dim": 0}, folder / "fp32.pt")
        torch.save({"param": tensor.flatten() + 1000}, folder / "exp_avg.pt")
        torch.save(3, folder / "step.pt")
    checkpoint = opened(tmp_path)
    assert {row.name for row in checkpoint.table} == {*parameters(), *BUFFERS, *FROZEN, "head.weight"}
    assert mi.count(checkpoint).unique == UNIQUE
    assert torch.equal(stored(checkpoint.table["fc.weight"]), parameters()["fc.weight"])
    assert torch.equal(
        stored(checkpoint.tables["optimizer"]["state.one.exp_avg"]), parameters()["one"] + 1000
    )


def test_only_headers_are_read(tmp_path: Path) -> None:
    """A flat tensor of 4 MB costs no more than a small one."""
    states = model_states(3, 1, 0)
    states["param_shapes"] = [OrderedDict([("emb.weight", torch.Size([1_000_000]))])]
    torch.save(states, tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    optimizer = {"zero_stage": 3, "partition_count": 1, "fp32_flat_groups": [torch.zeros(1_000_000)]}
    torch.save({"optimizer_state_dict": optimizer}, tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    checkpoint = opened(tmp_path)
    assert checkpoint.table["emb.weight"].nbytes == 4_000_000
    assert checkpoint.bytes_read < 30_000
    assert checkpoint.nbytes > 4_000_000


def test_every_tensor_of_the_files_is_in_a_section(tmp_path: Path) -> None:
    """Storages of all sections together are those of all files: nothing is left out."""
    for stage in (1, 2, 3):
        step = write(tmp_path / str(stage), stage, 2)
        whole = opened(step)
        found = {storage for row in whole.section("all") for storage, _ in row.storages()}
        expected = set()
        for path in step.iterdir():
            single = opened(path).section("all")
            expected |= {storage for row in single for storage, _ in row.storages() if storage.nbytes}
        assert {storage for storage in found if storage.nbytes} == expected


def test_very_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where moments would take more pieces than are listed they stay flat, and the model is whole."""
    monkeypatch.setattr("modelinspect.readers.directories.deepspeed.MAX_PIECES", 12)
    write(tmp_path, 3, 2)
    checkpoint = opened(tmp_path)
    assert torch.equal(stored(checkpoint.table["fc.weight"]), parameters()["fc.weight"])
    assert "optimizer" not in checkpoint.tables
    assert len(checkpoint.tables["optimizer.flat"]) == 2 * 2 * 3


def test_where_elements_lie() -> None:
    """The two rules, by hand."""
    assert shared_out({"a": (5,), "b": (1,)}, 2, [4, 4]) == {"a": [(0, 0, 3), (1, 0, 2)], "b": [(0, 3, 1)]}
    assert shared_out({"a": (5,)}, 2, [2, 3]) is None
    assert divided({"a": (3,), "b": (4,)}, [4, 4], ()) == {"a": [(0, 0, 3)], "b": [(0, 3, 1), (1, 0, 3)]}
    assert divided({"a": (9,)}, [4, 4], ()) is None
    assert divided({"a": (3,)}, [4, 4], (1, 2)) is None
