"""What trainings leave beside weights: transformers' Trainer, accelerate, Lightning; pipelines and caches."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import modelinspect as mi
from modelinspect.errors import DamagedFileError, RefusedError, TargetError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint


def opened(path: Path) -> Checkpoint:
    """As a user would."""
    return open_checkpoint(str(path))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that transformers' Trainer wrote after two steps, weights as safetensors."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    folder = tmp_path_factory.mktemp("trained")
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=19, n_positions=8)
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(4)]
    arguments = TrainingArguments(
        str(folder),
        max_steps=2,
        save_steps=2,
        report_to=[],
        per_device_train_batch_size=2,
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(GPT2LMHeadModel(config), arguments, train_dataset=data).train()
    return folder


def test_a_folder_of_the_trainers(trained: Path) -> None:
    """Weights are the model, the optimizer a section; states and settings are metadata."""
    folder = trained / "checkpoint-2"
    checkpoint = opened(folder)
    weights = opened(folder / "model.safetensors")
    assert checkpoint.table.tensors == weights.table.tensors
    assert checkpoint.roles == {"": "model", "optimizer": "optimizer", "rng_state": "other"}
    optimizer = opened(folder / "optimizer.pt")
    assert [row.name for row in checkpoint.tables["optimizer"]] == [row.name for row in optimizer.table]
    assert len(checkpoint.optimizers["optimizer"].groups) == 2
    assert checkpoint.metadata["config.architectures"] == "GPT2LMHeadModel"
    assert checkpoint.metadata["config.model_type"] == "gpt2"
    assert checkpoint.metadata["trainer.global_step"] == "2"
    assert checkpoint.facts["global step"] == "2"
    assert checkpoint.facts["epoch"] == "1.0"
    assert checkpoint.metadata["scheduler.last_epoch"] == "2"
    assert checkpoint.metadata["training_args.max_steps"] == "2"
    assert {Path(file.path).name for file in checkpoint.files} >= {"optimizer.pt", "training_args.bin"}


def test_only_headers_of_it_are_read(trained: Path) -> None:
    """The optimizer's moments and the generators' states are not."""
    checkpoint = opened(trained / "checkpoint-2")
    held = sum(row.nbytes for row in checkpoint.section("all"))
    assert checkpoint.bytes_read < checkpoint.nbytes - held + 2_000


def test_the_folder_above(trained: Path) -> None:
    """A training's folder with one step in it is that step."""
    checkpoint = opened(trained)
    assert checkpoint.notes[0] == "read checkpoint-2 in this folder"
    assert checkpoint.roles["optimizer"] == "optimizer"


def test_the_trainers_arguments_alone(trained: Path) -> None:
    """`training_args.bin` is an object of a foreign class, which is named; its plain fields are metadata."""
    checkpoint = opened(trained / "checkpoint-2" / "training_args.bin")
    assert checkpoint.metadata["optim"].startswith("adamw")
    assert checkpoint.metadata["lr_scheduler_type"] == "linear"
    assert checkpoint.metadata["per_device_train_batch_size"] == "2"
    assert any("TrainingArguments" in note for note in checkpoint.notes)


def test_what_a_function_would_give_is_no_value(tmp_path: Path) -> None:
    """A member of an enumeration is its value; the argument of any function is not its result."""
    import os

    class Calls:
        def __reduce__(self) -> Any:
            return os.system, ("true",)

    path = tmp_path / "x.pt"
    torch.save({"n": Calls(), "where": torch.device("cpu"), "k": 3, "w": torch.ones(1)}, path)
    assert opened(path).metadata == {"where": "cpu", "k": "3"}


def test_moments_under_the_names_of_their_parameters(tmp_path: Path) -> None:
    """Groups with and without decay: each moment has the parameter that the optimizer was given."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 5))
    names = dict(net.named_parameters())
    decay = [name for name, p in names.items() if p.ndim > 1]
    rest = [name for name, p in names.items() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": [names[n] for n in decay]},
        {"params": [names[n] for n in rest], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    report = mi.params(str(tmp_path), section="optimizer")
    for number, name in enumerate([*decay, *rest]):
        for state in ("step", "exp_avg", "exp_avg_sq"):
            assert report.of[f"state.{number}.{state}"] == name
    assert any("names are inferred" in note for note in report.notes)
    assert mi.params(str(tmp_path)).of == {}
    everything = mi.params(str(tmp_path), section="all")
    assert everything.of["optimizer.state.0.exp_avg"] == decay[0]


def test_a_moment_whose_parameter_cannot_be_told(tmp_path: Path) -> None:
    """Shapes that fit no order of the model: no name, and a note that says why."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    state = {"state": {0: {"exp_avg": torch.zeros(7)}}, "param_groups": [{"params": [0]}]}
    torch.save(state, tmp_path / "optimizer.pt")
    report = mi.params(str(tmp_path), section="optimizer")
    assert report.of == {}
    assert any("fit no names" in note for note in report.notes)


def test_accelerates_save_state(tmp_path: Path) -> None:
    """`optimizer.bin` and `scheduler.bin` beside `model.safetensors`, as accelerate writes them."""
    from accelerate import Accelerator  # type: ignore[import-untyped]

    accelerator = Accelerator(cpu=True)
    net = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(net.parameters())
    net, optimizer = accelerator.prepare(net, optimizer)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    accelerator.save_state(str(tmp_path / "state"))
    checkpoint = opened(tmp_path / "state")
    assert [row.name for row in checkpoint.table] == ["bias", "weight"]
    assert checkpoint.roles["optimizer"] == "optimizer"
    assert mi.count(checkpoint).unique == 16
    # safetensors sorts names; weights come before biases where modules register them.
    assert mi.params(str(tmp_path / "state"), section="optimizer").of["state.0.exp_avg"] == "weight"


def test_lightning(tmp_path: Path) -> None:
    """What Lightning writes: the model, the optimizer, counters, callbacks and hyper-parameters."""
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint

    class Net(pl.LightningModule):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.fc = torch.nn.Linear(3, width)

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            return self.fc(batch[0]).sum()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 3)), batch_size=2)
        kept = [ModelCheckpoint(str(tmp_path)), EMAWeightAveraging()]
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, callbacks=kept, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=str(tmp_path),
        )  # fmt: skip
        trainer.fit(Net(), data)
        path = tmp_path / "x.ckpt"
        trainer.save_checkpoint(path)
    checkpoint = opened(path)
    assert checkpoint.model_section == "state_dict"
    assert [row.name for row in checkpoint.table] == ["fc.weight", "fc.bias"]
    assert checkpoint.roles["optimizer_states.0"] == "optimizer"
    assert checkpoint.metadata["epoch"] == "1"
    assert checkpoint.metadata["global_step"] == "2"
    assert checkpoint.metadata["pytorch-lightning_version"] == version("pytorch-lightning")
    assert checkpoint.metadata["hyper_parameters.width"] == "4"
    assert any("best_model_path" in key for key in checkpoint.metadata)
    assert checkpoint.roles["current_model_state"] == "model"
    assert any("holds averaged weights" in note for note in checkpoint.notes)
    assert mi.params(str(path), section="optimizer_states.0").of["state.1.exp_avg"] == "fc.bias"


def pipeline(folder: Path) -> Path:
    """A folder as diffusers' ``save_pretrained`` writes it."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    for name, size in (("unet", 10), ("vae", 20), ("text_encoder", 5)):
        (folder / name).mkdir()
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        save_file({"w": torch.zeros(size)}, folder / name / f"{stem}.safetensors")
        (folder / name / "config.json").write_text(json.dumps({"_class_name": name, "layers": 3}))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    return folder


def test_a_pipeline_has_a_section_a_component(tmp_path: Path) -> None:
    """The unet is taken for the model; all components are counted with --section all."""
    checkpoint = opened(pipeline(tmp_path))
    assert list(checkpoint.tables) == ["unet", "vae", "text_encoder"]
    assert checkpoint.model_section == "unet"
    assert mi.count(checkpoint).unique == 10
    assert mi.count(checkpoint, section="all").unique == 35
    assert checkpoint.metadata["pipeline._class_name"] == "StableDiffusionPipeline"
    assert checkpoint.metadata["vae.config.layers"] == "3"
    assert any("'vae', 'text_encoder'" in note for note in checkpoint.notes)


def test_a_component_without_its_weights_is_said(tmp_path: Path) -> None:
    """A configuration of a model with no weights beside it; schedulers and tokenizers have none to miss."""
    folder = pipeline(tmp_path)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    checkpoint = opened(folder)
    assert list(checkpoint.tables) == ["unet", "text_encoder"]
    said = [note for note in checkpoint.notes if "no weights" in note]
    assert said == ["config.json and no weights in vae: a download may have stopped early"]


@pytest.mark.parametrize("text", ["", "[]", '{"../out": ["a", "b"]}', '{"unet": 3}'])
def test_pipelines_that_name_nothing(text: str, tmp_path: Path) -> None:
    """A list of components that makes no sense is an error that says so."""
    (pipeline(tmp_path) / "model_index.json").write_text(text)
    with pytest.raises(DamagedFileError, match="components"):
        opened(tmp_path)


def test_a_component_that_leads_out_is_refused(tmp_path: Path) -> None:
    """A component's folder may be no link to somewhere else."""
    real = pipeline(tmp_path / "real")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text((real / "model_index.json").read_text())
    (other / "unet").symlink_to(real / "unet")
    with pytest.raises(RefusedError):
        opened(other)


def test_modules_of_a_sentence_transformer(tmp_path: Path) -> None:
    """The folder's own weights are the model, a dense module after it is a section."""
    save_file({"w": torch.zeros(10)}, tmp_path / "model.safetensors")
    (tmp_path / "2_Dense").mkdir()
    save_file({"linear.weight": torch.zeros(3)}, tmp_path / "2_Dense" / "model.safetensors")
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    checkpoint = opened(tmp_path)
    assert list(checkpoint.tables) == ["", "2_Dense"]
    assert checkpoint.model_section == ""


def cache(folder: Path, revisions: dict[str, int], main: str | None) -> Path:
    """A model's folder in the hub's cache: links to blobs."""
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    for revision, size in revisions.items():
        snapshot = folder / "snapshots" / revision
        snapshot.mkdir(parents=True)
        save_file({"w": torch.zeros(size)}, folder / "blobs" / f"b{size}")
        (snapshot / "model.safetensors").symlink_to(f"../../blobs/b{size}")
    if main is not None:
        (folder / "refs" / "main").write_text(main)
    return folder


def test_a_models_folder_in_the_cache(tmp_path: Path) -> None:
    """The snapshot that refs/main names is read, and said."""
    checkpoint = opened(cache(tmp_path / "models--a--b", {"abc": 3, "def": 4}, "def"))
    assert mi.count(checkpoint).unique == 4
    assert checkpoint.notes[0] == "read snapshots/def, which refs/main names; the cache holds 1 more"
    assert checkpoint.facts["revision"] == "def"


def test_a_cache_without_refs(tmp_path: Path) -> None:
    """The only snapshot is read; of several none is guessed."""
    assert mi.count(opened(cache(tmp_path / "one", {"abc": 3}, None))).unique == 3
    for number, main in enumerate((None, "../../etc", "gone")):
        with pytest.raises(TargetError, match="2 snapshots"):
            opened(cache(tmp_path / str(number), {"abc": 3, "def": 4}, main))


def test_a_cache_inside_a_cache(tmp_path: Path) -> None:
    """Caches that lie in each other without end are not followed."""
    inner = cache(tmp_path / "outer", {"abc": 3}, "abc") / "snapshots" / "abc"
    cache(inner, {"abc": 3}, "abc")
    with pytest.raises(TargetError, match="cache inside a cache"):
        opened(tmp_path / "outer")


def test_components_of_a_pipeline_in_the_cache(tmp_path: Path) -> None:
    """Links from a folder in a snapshot to the blobs are followed as those of the snapshot are."""
    folder = cache(tmp_path / "models--a--b", {"abc": 3}, "abc")
    unet = folder / "snapshots" / "abc" / "unet"
    unet.mkdir()
    (unet / "model.safetensors").symlink_to("../../../blobs/b3")
    (unet.parent / "model_index.json").write_text('{"unet": ["a", "b"]}')
    assert mi.count(opened(folder)).unique == 3
    assert mi.count(opened(unet)).unique == 3


def test_what_lies_beside_and_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    """A broken optimizer or configuration, or one that leads out, does not keep weights from being read."""
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({"w": torch.zeros(2)}, folder / "model.safetensors")
    (folder / "optimizer.pt").write_bytes(b"PK\x03\x04 broken")
    (folder / "config.json").write_text("[" * 50_000)
    (tmp_path / "secret").write_text('{"secret": 1}')
    (folder / "trainer_state.json").symlink_to(tmp_path / "secret")
    (folder / "adapter_config.json").write_bytes(b" " * 5_000_000)
    checkpoint = opened(folder)
    assert [row.name for row in checkpoint.table] == ["w"]
    told = "\n".join(checkpoint.notes)
    for name in ("optimizer.pt", "config.json", "trainer_state.json", "adapter_config.json"):
        assert f"{name} is not read" in told
    assert "secret" not in str(checkpoint.metadata)


def test_configurations_are_bounded(tmp_path: Path) -> None:
    """Of a large configuration some entries are kept, of each no more than a line."""
    document = {f"k{n}": {"a": n, "b": "x" * 1000, "c": [1, 2], "d": [[1]]} for n in range(1000)}
    (tmp_path / "config.json").write_text(json.dumps(document))
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    metadata = opened(tmp_path).metadata
    assert len(metadata) == 200
    assert metadata["config.k0.a"] == "0"
    assert metadata["config.k0.c"] == "1, 2"
    assert max(map(len, metadata.values())) < 201


def test_an_index_as_target_has_its_configuration(tmp_path: Path) -> None:
    """`*.index.json` is the folder's model, so config.json is its configuration; a shard alone has none."""
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    assert opened(index).metadata == {"config.model_type": "x"}
    assert opened(tmp_path / "a.safetensors").metadata == {}


def test_weights_in_two_formats(tmp_path: Path) -> None:
    """Safetensors is read, and the other is said to be there; nothing is counted twice."""
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    checkpoint = opened(tmp_path)
    assert mi.count(checkpoint).unique == 2
    assert "the folder also holds pytorch_model.bin" in checkpoint.notes
