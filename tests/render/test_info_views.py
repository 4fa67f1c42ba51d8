"""The views of info: a card that fits a screen, lines for scripts, JSON; hostile texts in all of them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest

from modelinspect.analysis.info import InfoReport, checkpoint_info, table_info
from modelinspect.render.output import FORMATS, Terminal, write_sheet, write_sheets
from modelinspect.render.sheet import Sheet
from modelinspect.render.views.info import info_card, info_fields, info_records
from modelinspect.tensors import (
    Checkpoint,
    FileInfo,
    GlobalName,
    OptimizerGroup,
    OptimizerState,
    ParameterTable,
    Quantized,
    Setting,
)


def training_checkpoint(samples: Any) -> Checkpoint:
    """GPT-2 as a training script saves it: an optimizer, EMA, counters, a foreign class."""
    moments = [
        samples.tensor(f"state.{key}.{name}", (768, 768), kind="optimizer")
        for key in range(3)
        for name in ("exp_avg", "exp_avg_sq")
    ]
    optimizer = ParameterTable("last.ckpt", moments, "file", section="optimizer_states.0")
    model = replace(samples.gpt2(), section="state_dict")
    settings: dict[str, Setting] = {"lr": 0.0003, "betas": (0.9, 0.95), "weight_decay": 0.1}
    return Checkpoint(
        source="last.ckpt",
        format="torch-zip",
        files=(FileInfo("last.ckpt", 1_600_000_000, 40_000),),
        tables={"state_dict": model, "optimizer_states.0": optimizer},
        roles={"state_dict": "model", "optimizer_states.0": "optimizer"},
        model_section="state_dict",
        metadata={
            "epoch": "3",
            "global_step": "1200",
            "pytorch-lightning_version": "2.4.0",
            "hyper_parameters.arch": "gpt2",
            **{f"hyper_parameters.setting_{n}": str(n) for n in range(496)},
        },
        globals=(
            GlobalName("collections", "OrderedDict", "last.ckpt", "archive/data.pkl", 9, True),
            GlobalName("my_project.config", "Config", "last.ckpt", "archive/data.pkl", 99, False),
        ),
        optimizers={"optimizer_states.0": OptimizerState((OptimizerGroup((0, 1, 2), (), settings),))},
        version="3",
        facts={"byte order": "little", "root": "archive", "written by": "torch 2.7 or later"},
    )


def quantized_checkpoint(samples: Any) -> Checkpoint:
    """Packed weights beside their scales, in shards."""
    tensors = [samples.tensor("model.embed_tokens.weight", (32000, 4096), "float16")]
    for layer in range(4):
        at = f"model.layers.{layer}.self_attn.q_proj"
        packed = Quantized("GPTQ", (4096, 4096), 4096 * 4096, 4, (f"{at}.scales",))
        tensors += [
            samples.tensor(f"{at}.qweight", (512, 4096), "int32", quantized=packed),
            samples.tensor(f"{at}.scales", (32, 4096), "float16", kind="buffer", declared=True),
        ]
    table = ParameterTable("llama-gptq", tensors, "file")
    files = tuple(FileInfo(f"{n}.safetensors", 200_000_000, 4_000) for n in range(2))
    metadata = {"format": "pt", "config.architectures.0": "LlamaForCausalLM", "prompt": "x" * 300}
    return Checkpoint(
        "llama-gptq", "sharded safetensors", files, {"": table}, {"": "model"}, "", metadata=metadata
    )


REPORTS: dict[str, Callable[[Any], InfoReport]] = {
    "info-training": lambda s: checkpoint_info(training_checkpoint(s)),
    "info-quantized": lambda s: checkpoint_info(quantized_checkpoint(s)),
    "info-definition": lambda s: table_info(s.regression()),
    "info-partly-frozen": lambda s: table_info(s.partly_frozen()),
}


def written(sheet: Sheet, form: Any, *, width: int | None = None, colour: bool = False) -> str:
    """The sheet in that form."""
    stream = StringIO()
    write_sheet(sheet, form, stream, terminal=Terminal(width, colour))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", REPORTS)
def test_golden(samples: Any, golden: Callable[[str, str], None], name: str, width: int) -> None:
    """What a user sees at 80 and 200 columns is what someone read and accepted."""
    golden(f"{name}-{width}", written(info_card(REPORTS[name](samples)), "table", width=width))


@pytest.mark.parametrize("name", REPORTS)
def test_lines_for_scripts(samples: Any, golden: Callable[[str, str], None], name: str) -> None:
    """The keys and values of a pipe, which scripts hold on to."""
    text = written(info_fields([REPORTS[name](samples)]), "plain")
    assert {line.count("\t") for line in text.splitlines()} == {1}
    kept = [line for line in text.splitlines(keepends=True) if "setting_" not in line]
    golden(f"{name}-plain", "".join(kept))


@pytest.mark.parametrize("name", REPORTS)
def test_a_card_fits_a_screen(samples: Any, name: str) -> None:
    """80 columns and 40 lines, whatever there is."""
    lines = written(info_card(REPORTS[name](samples)), "table", width=80).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


def test_colour_changes_nothing_but_colour(samples: Any) -> None:
    """The same card, and the answer about code in a colour of its own."""
    card = info_card(REPORTS["info-training"](samples))
    coloured = written(card, "table", width=80, colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == written(card, "table", width=80)
    assert "\x1b[1;33mnot by itself" in coloured


def test_nothing_empty_is_shown(samples: Any) -> None:
    """No line says that there is none of something."""
    text = written(info_card(REPORTS["info-definition"](samples)), "table", width=80)
    for label in ("format", "adapter", "optimizer", "metadata", "sections", "executes", "named", "buffers"):
        assert label not in text


def test_many_entries_are_counted_and_kept(samples: Any) -> None:
    """A card has the first dozen; a pipe and JSON have them all."""
    report = REPORTS["info-training"](samples)
    assert "484 more entries: --json shows all" in written(info_card(report), "table", width=80)
    assert written(info_fields([report]), "plain").count("\nmetadata.") == 500
    (record,) = json.loads(written(info_records([report]), "json"))["targets"]
    assert len(record["metadata"]) == 500


def test_long_values_are_cut_on_a_card_alone(samples: Any) -> None:
    """An ellipsis on the card, the whole text elsewhere."""
    report = REPORTS["info-quantized"](samples)
    assert "x…" in written(info_card(report), "table", width=80)
    assert "x" * 300 in written(info_fields([report]), "plain")
    assert "x" * 300 in written(info_records([report]), "json")


def test_several_targets_come_first(samples: Any) -> None:
    """Of several, each line and each row of a spreadsheet names its target."""
    reports = [make(samples) for make in REPORTS.values()]
    lines = written(info_fields(reports), "plain").splitlines()
    assert {line.split("\t")[0] for line in lines} == {report.target for report in reports}
    assert written(info_fields(reports), "csv").startswith("target,key,value\n")
    assert written(info_fields(reports[:1]), "csv").startswith("key,value\n")


def test_json_holds_raw_values(samples: Any) -> None:
    """Numbers are numbers, what nothing tells is null, names of blocks are folded."""
    document = json.loads(written(info_records([make(samples) for make in REPORTS.values()]), "json"))
    assert (document["schema_version"], document["report"]) == (1, "info")
    training, quantized, definition, _ = document["targets"]
    assert training["count"]["unique"] == 124_439_808
    assert training["optimizers"][0]["settings"]["betas"] == [0.9, 0.95]
    assert training["loading"]["names"] == ["my_project.config.Config"]
    assert [each["model"] for each in training["sections"]] == [True, False]
    assert quantized["quantized"][0]["numel"] == 4 * 4096 * 4096
    assert quantized["largest"][1]["names"] == ["model.layers.{0..3}.self_attn.q_proj.qweight"]
    assert quantized["architecture"] == "LlamaForCausalLM"
    assert definition["loading"] is None
    assert definition["format"] is None


def test_a_rate_of_zero_is_shown(samples: Any) -> None:
    """A schedule that ended there: unlike a momentum or a decay of zero, it says something."""
    settings: dict[str, Setting] = {"lr": 0.0, "momentum": 0.0}
    state = OptimizerState((OptimizerGroup((0, 1, 2), (), settings),))
    report = checkpoint_info(replace(training_checkpoint(samples), optimizers={"optimizer_states.0": state}))
    text = written(info_card(report), "table", width=100)
    assert "· lr 0.0" in text
    assert "momentum" not in text


def test_alike_sections_and_optimizers_are_one_line(samples: Any) -> None:
    """Eight ranks of a training are not eight lines."""
    checkpoint = training_checkpoint(samples)
    moments = checkpoint.tables["optimizer_states.0"]
    settings = checkpoint.optimizers["optimizer_states.0"]
    ranks = [f"rank_{number}.optimizer" for number in range(8)]
    report = checkpoint_info(
        replace(
            checkpoint,
            tables={"state_dict": checkpoint.table, **dict.fromkeys(ranks, moments)},
            roles={"state_dict": "model", **dict.fromkeys(ranks, "optimizer")},
            optimizers=dict.fromkeys(ranks, settings),
        )
    )
    text = written(info_card(report), "table", width=100)
    assert "rank_{0..7}.optimizer, 6 tensors ×8" in text
    assert "weight_decay 0.1 ×8" in text
    (record,) = json.loads(written(info_records([report]), "json"))["targets"]
    assert len(record["sections"]) == 9
    assert len(record["optimizers"]) == 8


def test_rare_types_are_added_up(samples: Any) -> None:
    """A file of twenty data types has lines for six."""
    names = ("float32", "float16", "bfloat16", "float64", "int8", "int16", "int32", "int64", "uint8")
    tensors = [samples.tensor(name, (8,), name) for name in names]
    text = written(info_card(table_info(ParameterTable("t", tensors, "file"))), "table", width=100)
    assert re.search(r"others +32  3 further types", text)


HOSTILE = {
    "ansi": "a\x1b[31mred",
    "bidi": "weight\u202egpj.exe",
    "lines": "a\nb\r\nc\u2028d",
    "tabs": "a\tb",
    "null": "a\x00b",
    "surrogate": "a\ud800b",
    "tag": "a\U000e0041",
    "markup": "[red]a[/red]",
    "markdown": "a|b`c`<img src=x onerror=alert(1)>",
    "formula": '=HYPERLINK("http://evil")',
    "percent": "%s%d {0}",
}


def hostile_report(text: str, samples: Any) -> InfoReport:
    """A text of a file in every place where one can be."""
    tensor = samples.tensor(text, (2, 3))
    tensor = tensor._replace(storage=tensor.storage._replace(device=text))
    table = ParameterTable(text, [tensor], "file", section=text, modules={"": text, "a": text})
    other = ParameterTable(text, [samples.tensor(f"state.0.{text}", (2,))], "file", section="optimizer")
    checkpoint = Checkpoint(
        source=text,
        format="torch-zip",
        files=(FileInfo(text, 99, 9),),
        tables={text: table, "optimizer": other},
        roles={text: "model", "optimizer": "optimizer"},
        model_section=text,
        metadata={text: text, "epoch": text, "arch": text, "x.chat_template": text},
        globals=(GlobalName(text, text, text, text, 1, False),),
        optimizers={"optimizer": OptimizerState((OptimizerGroup((0,), (), {"lr": text, text: text}),))},
        version=text,
        facts={text: text, "written by": text},
        notes=(text,),
    )
    return checkpoint_info(checkpoint)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("form", FORMATS)
def test_no_control_character_gets_out(samples: Any, text: str, form: Any) -> None:
    """In no form does a control or bidirectional character of any text remain."""
    report = hostile_report(text, samples)
    sheets = {
        "json": info_records([report]), "jsonl": info_records([report]),
        "table": info_card(report), "markdown": info_card(report),
    }  # fmt: skip
    out = written(sheets.get(form, info_fields([report])), form, width=80 if form == "table" else None)
    harmful = ("Cc", "Cf", "Cs", "Zl", "Zp")
    assert not any(unicodedata.category(char) in harmful and char not in "\n\t" for char in out)
    if form == "plain":
        assert {line.count("\t") for line in out.splitlines()} == {1}
    if form == "markdown":
        assert "<img" not in out


@pytest.mark.parametrize("colour", [False, True])
def test_megabytes_stay_off_a_card(samples: Any, colour: bool) -> None:
    """A text of a megabyte in every place gives a card of a screen or two."""
    card = info_card(hostile_report("x" * 1_000_000, samples))
    title = "x" * 1_000_000
    out = written(replace(card, title=card.title.replace(title, "t")), "table", width=80, colour=colour)
    assert len(out) < 20_000


def test_markdown_has_a_card_each(samples: Any) -> None:
    """One below the other, with an empty line between."""
    stream = StringIO()
    write_sheets([info_card(make(samples)) for make in REPORTS.values()], "markdown", stream)
    assert stream.getvalue().count("**models/") == 2
