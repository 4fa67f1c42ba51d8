"""
Directories of DeepSpeed: ZeRO 1 to 3, experts, pipelines, universal checkpoints.

``latest`` names the folder of a step. In it lie, by rank (deepspeed 0.19,
``runtime/engine.py``, ``runtime/pipe/module.py``, ``checkpoint/ds_to_universal.py``)::

    mp_rank_MM_model_states.pt, under ZeRO-3 zero_pp_rank_D_mp_rank_MM_model_states.pt
    [bf16_]zero_pp_rank_D_mp_rank_MM_optim_states.pt
    layer_L_expert_E_mp_rank_MM_model_states.pt         experts
    layer_LL-model_MM-model_states.pt                   layers of a pipeline
    zero/NAME/fp32.pt, exp_avg.pt, exp_avg_sq.pt, step.pt   universal

Under ZeRO-3 the parameters are those of the flat fp32 tensors that the optimizers' files
hold; rows have the logical shapes and say in which parts the elements lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import prod
from typing import NamedTuple

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.directories.named_files import (
    Gathered,
    Opened,
    check_number,
    entries_of,
    opened,
    short_text,
)
from modelinspect.readers.directories.ranks import Rank, merged, several_ranks
from modelinspect.readers.parts.deepspeed_states import (
    ModelStates,
    OptimizerStates,
    facts_of,
    model_states,
    optimizer_states,
)
from modelinspect.readers.parts.flat_groups import MAX_PIECES, Piece, divided, laid_out, shared_out
from modelinspect.readers.parts.zip_checksums import storage_checksums
from modelinspect.tensors import Checkpoint, OptimizerGroup, OptimizerState, TensorInfo

__all__ = ["is_one", "read"]

_MODEL = re.compile(
    r"(?:zero_pp_rank_(?P<dp>\d{1,6})_)?mp_rank_(?P<mp>\d{1,6}(?:_\d{1,6})?)_model_states\.pt"
)
_OPTIMIZER = re.compile(
    r"(?:(?:bf16_|fp16_)?zero_pp_rank_(?P<dp>\d{1,6})|expp_rank_(?P<ep>\d{1,6}))"
    r"_mp_rank_(?P<mp>\d{1,6}(?:_\d{1,6})?)_?optim_states\.pt"
)
_EXPERT = re.compile(r"(?:layer_\d{1,6}_)?expert_\d{1,6}_mp_rank_(?P<mp>\d{1,6})_model_states\.pt")
_LAYER = re.compile(r"layer_(?P<layer>\d{1,6})-(?:.*?model_(?P<mp>\d{1,6})-)?(?:[\w-]*-)?model_states\.pt")
_KINDS = (_MODEL, _OPTIMIZER, _EXPERT, _LAYER)
_UNIVERSAL = "zero"
_STATES = {"fp32.pt": "fp32", "exp_avg.pt": "exp_avg", "exp_avg_sq.pt": "exp_avg_sq", "step.pt": "step"}

_FLAT = re.compile(
    r"optimizer_state_dict\.(?:fp32_flat_groups|single_partition_of_fp32_groups)\.(?P<group>\d{1,6})"
)
_STATE = re.compile(
    r"optimizer_state_dict\.(?:optimizer_state_dict|base_optimizer_state)\.(?:state\.)?"
    r"(?P<group>\d{1,6})\.(?P<state>.+)"
)
_MODULE, _OPTIMIZER_SECTION, _MASTER, _FRAGMENTS = "module", "optimizer", "fp32", "frozen_param_fragments"
_OTHERS, _COPIES = "others", "copies"

Shape = tuple[int, ...]


def is_one(folder: str, entries: Sequence[str]) -> bool:
    """Is the folder a checkpoint of that kind? Only names are looked at, and what ``latest`` says."""
    if _own(entries):
        return True
    if "latest" not in entries or any(entry.startswith("model.safetensors") for entry in entries):
        return False
    tag = short_text(folder, "latest", folder)
    return tag is not None and _is_tag(tag) and bool(_own(entries_of(folder, tag, folder)))


def _own(entries: Iterable[str]) -> list[str]:
    return [name for name in entries if any(kind.fullmatch(name) for kind in _KINDS)]


def _is_tag(tag: str) -> bool:
    return bool(tag) and "/" not in tag and "\\" not in tag and tag not in (".", "..") and tag.isprintable()


def read(folder: str, entries: Sequence[str], target: str) -> Checkpoint:
    """
    Read the headers of all its files.

    Raises:
        DamagedFileError: Files of the model or of some ranks are missing.
        RefusedError: A link leads out of it.
    """
    notes = []
    prefix = ""
    if not _own(entries):
        prefix = short_text(folder, "latest", target) or ""
        entries = entries_of(folder, prefix, target)
        notes = [f"read {visible(prefix)}, which 'latest' names"]
    files = _Files(folder, prefix, entries, target)
    made = _Reading(files, Gathered(target, notes=notes))
    return made.checkpoint()


class _Files:
    """The files of one step, by kind and rank."""

    def __init__(self, folder: str, prefix: str, entries: Sequence[str], target: str) -> None:
        self.folder, self.prefix, self.target = folder, f"{prefix}/" if prefix else "", target
        names = _own(entries)
        self.universal = self._universal(entries)
        check_number([*names, *self.universal], target)
        several = len({self._rank(name) for name in names}) > 1
        sums = storage_checksums if several else None
        self.models: dict[str, list[Opened]] = {}
        self.optimizers: dict[str, list[Opened]] = {}
        self.extra: list[tuple[str, str, Opened]] = []
        """Experts and layers of a pipeline: rank, what stands before the names, file."""
        for name in names:
            self._sort(name, sums)
        if not (self.models or self.extra or self.universal):
            raise DamagedFileError(
                f"{visible(target)}: the files of the model are missing",
                details=("there are *_optim_states.pt and no *_model_states.pt",),
                hint="other ranks write them, maybe on other machines; each file can be read by its own name",
            )

    def _rank(self, name: str) -> str:
        match = next(found for kind in _KINDS if (found := kind.fullmatch(name)) is not None)
        return match["mp"] or "00"

    def _sort(self, name: str, sums: object) -> None:
        rank, where = self._rank(name), self.prefix + name
        if _MODEL.fullmatch(name):
            file = opened(self.folder, where, self.target, model_states, sums)  # type: ignore[arg-type]
            self.models.setdefault(rank, []).append(file)
        elif _OPTIMIZER.fullmatch(name):
            file = opened(self.folder, where, self.target, optimizer_states)
            self.optimizers.setdefault(rank, []).append(file)
        else:
            layer = _LAYER.fullmatch(name)
            before = f"{int(layer['layer'])}." if layer is not None else ""
            file = opened(self.folder, where, self.target, None, sums)  # type: ignore[arg-type]
            self.extra.append((rank, before, file))

    def _universal(self, entries: Sequence[str]) -> list[str]:
        """Parameters of a universal checkpoint: each is a folder."""
        if _UNIVERSAL not in entries:
            return []
        return entries_of(self.folder, self.prefix + _UNIVERSAL, self.target)

    def all(self) -> list[Opened]:
        """Every file, in the order of ranks."""
        return [
            *chain.from_iterable(self.models.values()),
            *(file for _, _, file in self.extra),
            *chain.from_iterable(self.optimizers.values()),
        ]


class _Flat(NamedTuple):
    """A tensor of one rank's optimizer, and where it was found."""

    file: str
    path: str
    row: TensorInfo


_Group = dict[str, list[_Flat]]
"""Flat tensors of one group: of each kind, such as ``exp_avg``, one a rank."""
_WEIGHTS = "fp32"
_LAST_STAGE = 3


class _Reading:
    """Puts the files of one step together."""

    def __init__(self, files: _Files, gathered: Gathered) -> None:
        self.files = files
        self.gathered = gathered
        self.opened = files.all()
        self.stage = self._stage()
        self._known: dict[str, list[_Group]] = {}
        self.pieces = 0
        self.used: set[tuple[str, str]] = set()
        """File and name of what an optimizer's file holds and is in a row."""

    def _stage(self) -> int | None:
        for file in chain.from_iterable(self.files.optimizers.values()):
            if isinstance(file.said, OptimizerStates) and file.said.stage is not None:
                return file.said.stage
        placeholders = any(
            row.placement for files in self.files.models.values() for file in files for row in _module(file)
        )
        return _LAST_STAGE if placeholders else None

    def checkpoint(self) -> Checkpoint:
        """The checkpoint of the folder."""
        names = dict.fromkeys([*self.files.models, *(rank for rank, _, _ in self.files.extra)])
        ranks = [self._rank(rank) for rank in names]
        several = len(ranks) > 1
        together = merged(ranks)
        self.gathered.add(_MODULE, "model", [] if self.files.universal else together.rows)
        self._universal(together.rows)
        for rank in self.files.optimizers:
            self._optimizer(rank, f"mp_rank_{rank}." if several else "")
        self._passed_on(several)
        self.gathered.add(_COPIES, "other", together.copies)
        self._others()
        self._say(ranks, together.alike)
        return self.gathered.checkpoint("deepspeed", self._model_section(), self.opened)

    def _model_section(self) -> str:
        return _MODULE if _MODULE in self.gathered.rows else next(iter(self.gathered.rows), "")

    # -- the model ---------------------------------------------------------------------

    def _rank(self, rank: str) -> Rank:
        """What one rank holds of the model, with the parameters of ZeRO-3 laid over its files."""
        files = self.files.models.get(rank, [])
        rows: list[TensorInfo] = []
        sums: dict[str, int] = {}
        if files:
            rows += _module(files[0]) if self.stage != _LAST_STAGE else self._zero3(rank, files)
            sums.update(files[0].sums)
        for other, before, file in self.files.extra:
            if other == rank:
                rows += [row._replace(name=before + row.name) for row in file.checkpoint.table]
                sums.update(file.sums)
        return Rank(f"mp_rank_{rank}", rows, sums)

    def _zero3(self, rank: str, files: Sequence[Opened]) -> list[TensorInfo]:
        said = files[0].said
        if not isinstance(said, ModelStates):
            return _module(files[0])
        laid = self._laid(rank, said, _WEIGHTS)
        frozen = self._frozen(said, files)
        found = []
        missing = 0
        for row in _module(files[0]):
            name = said.shared.get(row.name, row.name)
            place = laid.get(name, frozen.get(name))
            if not row.placement:
                found.append(row)
            elif place is not None:
                kept = row._replace(parts=(), placement="")
                found.append(place._replace(
                    name=row.name, kind=kept.kind, declared=kept.declared, requires_grad=kept.requires_grad,
                ))  # fmt: skip
            else:
                missing += 1
                found.append(row)
        if missing and not self.files.universal:
            self.gathered.notes.append(
                f"the bytes of {missing:,} parameters are not found in the files of the optimizer; "
                "their shapes are those of param_shapes"
            )
        return found

    def _frozen(self, said: ModelStates, files: Sequence[Opened]) -> dict[str, TensorInfo]:
        """Parameters that are not trained: a part of each is in every rank's file of model states."""
        found: dict[str, TensorInfo] = {}
        tables = [file.checkpoint.tables.get(_FRAGMENTS, ()) for file in files]
        flats = [{row.name: row for row in table} for table in tables]
        for name, shape in said.frozen.items():
            held = [each[name] for each in flats if name in each]
            if len(held) != len(files):
                continue
            places = shared_out({name: shape}, len(held), [prod(row.shape) for row in held])
            row = None if places is None else laid_out(
                held[0]._replace(name=name), shape, places[name], held, self._placement(len(held))
            )  # fmt: skip
            if row is not None:
                found[name] = row
                self.used.update((file.name, f"{_FRAGMENTS}.{name}") for file in files)
        return found

    def _placement(self, ranks: int) -> str:
        stage = f"ZeRO-{self.stage}" if self.stage is not None else "ZeRO"
        return f"{stage} over {ranks} ranks"

    # -- flat tensors --------------------------------------------------------------------

    def _groups(self, rank: str) -> list[_Group]:
        """Of each group, the flat tensors of all data-parallel ranks; checks that all are there."""
        if rank not in self._known:
            files = self.files.optimizers.get(rank, [])
            self._complete(files)
            groups: dict[int, _Group] = {}
            for file in files:
                for path, row in _everything(file):
                    match = _FLAT.fullmatch(path) or _STATE.fullmatch(path)
                    if match is not None:
                        group = groups.setdefault(int(match["group"]), {})
                        state = match.groupdict().get("state", _WEIGHTS)
                        group.setdefault(state, []).append(_Flat(file.name, path, row))
            self._known[rank] = [groups[number] for number in sorted(groups)]
        return self._known[rank]

    def _complete(self, files: Sequence[Opened]) -> None:
        counts = {file.said.partitions for file in files if isinstance(file.said, OptimizerStates)} - {None}
        expected = max((count for count in counts if count is not None), default=len(files))
        if files and len(counts) == 1 and len(files) < expected:
            have = {match["dp"] for file in files if (match := _OPTIMIZER.search(file.name)) is not None}
            missing = [str(n) for n in range(min(expected, 1000)) if str(n) not in have]
            listed = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
            raise DamagedFileError(
                f"{visible(self.files.target)}: files of {len(missing)} of {expected} ranks are missing",
                details=(f"optimizer states of ranks {listed}",),
                hint="every rank writes its own; they may lie on other machines",
            )

    def _said(self, rank: str) -> tuple[ModelStates | None, OptimizerStates | None]:
        models, optimizers = self.files.models.get(rank, []), self.files.optimizers.get(rank, [])
        model = models[0].said if models else None
        optimizer = optimizers[0].said if optimizers else None
        return (
            model if isinstance(model, ModelStates) else None,
            optimizer if isinstance(optimizer, OptimizerStates) else None,
        )

    def _places(self, rank: str, number: int, group: _Group) -> dict[str, list[Piece]] | None:
        """Where the parameters of a group lie in its flat tensors; None where that can't be told."""
        model, optimizer = self._said(rank)
        flats = group.get(_WEIGHTS, [])
        if model is None or optimizer is None or number >= len(model.groups) or not flats:
            return None
        if any(_EXPERT.search(file.name) for _, _, file in self.files.extra):
            return None  # ranks hold different experts under the same names
        shapes = model.groups[number]
        sizes = [prod(flat.row.shape) for flat in flats]
        if self.stage == _LAST_STAGE:
            return shared_out(shapes, len(self.files.optimizers[rank]), sizes)
        paddings = optimizer.paddings[number] if number < len(optimizer.paddings) else ()
        return divided(shapes, sizes, paddings)

    def _laid(self, rank: str, said: ModelStates, state: str) -> dict[str, TensorInfo]:
        """Rows of all parameters over the flat tensors of one kind; groups that don't fit are left out."""
        found: dict[str, TensorInfo] = {}
        for number, group in enumerate(self._groups(rank)):
            flats = group.get(state, [])
            places = self._places(rank, number, group)
            if places is None or len(flats) != len(self.files.optimizers[rank]):
                continue
            # The model comes first; moments of very many ranks stay as they are stored.
            self.pieces += sum(map(len, places.values()))
            if self.pieces > MAX_PIECES:
                continue
            rows = self._group_laid(places, said.groups[number], [flat.row for flat in flats])
            if rows is not None:
                found.update(rows)
                self.used.update((flat.file, flat.path) for flat in flats)
        return found

    def _group_laid(
        self, places: Mapping[str, list[Piece]], shapes: Mapping[str, Shape], flats: Sequence[TensorInfo]
    ) -> dict[str, TensorInfo] | None:
        rows = {}
        for name, pieces in places.items():
            blank = flats[0]._replace(name=name, section="", kind="optimizer", requires_grad=None)
            row = laid_out(blank, shapes[name], pieces, flats, self._placement(len(flats)))
            if row is None:
                return None
            rows[name] = row
        return rows

    # -- the optimizer -------------------------------------------------------------------

    def _optimizer(self, rank: str, before: str) -> None:
        """Moments under the names of their parameters, and master weights where the model has others."""
        model, _ = self._said(rank)
        if model is None:
            return
        groups = self._groups(rank)
        states = dict.fromkeys(state for group in groups for state in group)
        rows: dict[str, dict[str, TensorInfo]] = {}
        for state in states:
            for name, row in self._laid(rank, model, state).items() if state != _WEIGHTS else ():
                rows.setdefault(name, {})[state] = row
        for number, group in enumerate(groups[: len(model.groups)]):
            self._step(group, [rows[name] for name in model.groups[number] if name in rows])
        for name, held in rows.items():
            moments = [row._replace(name=f"state.{before}{name}.{state}") for state, row in held.items()]
            self.gathered.add(_OPTIMIZER_SECTION, "optimizer", moments)
        if self.stage != _LAST_STAGE:
            weights = self._laid(rank, model, _WEIGHTS).values()
            self.gathered.add(_MASTER, "optimizer", [row._replace(name=before + row.name) for row in weights])
        if rows:
            self._settings(rank, model, before)

    def _step(self, group: _Group, rows: Sequence[dict[str, TensorInfo]]) -> None:
        """The steps of a group are one tensor on each rank: those of the first stand for all."""
        for file, path, step in group.get("step", [])[:1]:
            if step.shape == () and rows:
                for held in rows:
                    held["step"] = step._replace(section="", kind="optimizer")
                self.used.add((file, path))

    def _settings(self, rank: str, model: ModelStates, before: str) -> None:
        """Groups and steps, with names of parameters where the file has numbers of flat tensors."""
        first = self.files.optimizers[rank][0].checkpoint
        said = next((each for each in first.optimizers.values() if each.groups), None)
        if said is None:
            return
        named = {number: [before + name for name in group] for number, group in enumerate(model.groups)}
        groups = []
        for group in said.groups:
            names = tuple(name for key in group.params if isinstance(key, int) for name in named.get(key, ()))
            groups.append(OptimizerGroup(names, names, group.settings))
        steps = {
            name: step
            for key, step in said.steps.items()
            if key.isdigit()
            for name in named.get(int(key), ())
        }
        known = self.gathered.optimizers.get(_OPTIMIZER_SECTION, OptimizerState())
        self.gathered.optimizers[_OPTIMIZER_SECTION] = OptimizerState(
            (*known.groups, *groups), {**known.steps, **steps}
        )

    # -- universal checkpoints -------------------------------------------------------------

    def _universal(self, held: Sequence[TensorInfo]) -> None:
        """Parameters that each have a folder with their weights and moments."""
        weights: dict[str, TensorInfo] = {}
        moments: list[TensorInfo] = []
        for name in self.files.universal:
            where = f"{self.files.prefix}{_UNIVERSAL}/{name}"
            for entry in entries_of(self.files.folder, where, self.files.target):
                if entry not in _STATES:
                    continue
                file = opened(self.files.folder, f"{where}/{entry}", self.files.target)
                self.opened.append(file)
                for row in file.checkpoint.table:
                    if row.name in ("param", "tensor"):
                        self._whole(name, entry, row, weights, moments)
        if not weights:
            self.gathered.add(_MODULE, "model", held if self.files.universal else ())
            return
        self.gathered.notes.append("a universal checkpoint: whole parameters, each in a folder of its own")
        self.gathered.add(_MODULE, "model", [*weights.values(), *self._beside_universal(held, weights)])
        self.gathered.add(_OPTIMIZER_SECTION, "optimizer", moments)
        if moments:
            names = tuple(weights)
            self.gathered.optimizers[_OPTIMIZER_SECTION] = OptimizerState((OptimizerGroup(names, names),))

    def _whole(
        self,
        name: str,
        entry: str,
        row: TensorInfo,
        weights: dict[str, TensorInfo],
        moments: list[TensorInfo],
    ) -> None:
        """One state of one parameter; those of ZeRO-3 are flat, and their shapes are said elsewhere."""
        shape = self._shapes().get(name)
        if shape is not None and row.is_contiguous and prod(shape) == row.numel:
            row = row._replace(shape=shape, explicit_stride=None)
        if _STATES[entry] == _WEIGHTS:
            weights[name] = row._replace(name=name, kind="parameter", declared=True, requires_grad=True)
        else:
            moments.append(row._replace(name=f"state.{name}.{_STATES[entry]}", kind="optimizer"))

    def _shapes(self) -> dict[str, Shape]:
        said = self.opened[0].said
        return said.shapes if isinstance(said, ModelStates) else {}

    def _beside_universal(
        self, held: Sequence[TensorInfo], weights: Mapping[str, TensorInfo]
    ) -> list[TensorInfo]:
        """Of what the ranks hold: buffers, what isn't trained, further names; 16-bit copies go elsewhere."""
        said = self.opened[0].said
        shared = said.shared if isinstance(said, ModelStates) else {}
        found, copies = [], []
        for row in held:
            first = weights.get(shared.get(row.name, ""))
            if row.name in weights:
                copies += [] if row.placement else [row]
            elif first is not None:
                found.append(first._replace(name=row.name))
            else:
                found.append(row)
        self.gathered.add("bit16", "other", copies)
        return found

    # -- the rest --------------------------------------------------------------------------

    def _passed_on(self, several: bool) -> None:
        """What a rank's file of model states holds beside the module: schedulers, other states."""
        for rank, files in self.files.models.items():
            checkpoint = files[0].checkpoint
            for name, table in checkpoint.tables.items():
                if name == _MODULE or (name == _FRAGMENTS and self.used):
                    continue
                section = f"mp_rank_{rank}.{name}" if several else name
                section = section or _OTHERS
                self.gathered.add(section, checkpoint.roles[name], table)
                if name in checkpoint.optimizers:
                    self.gathered.optimizers[section] = checkpoint.optimizers[name]

    def _others(self) -> None:
        """Every tensor that is in no row yet, so that nothing of the files is left out."""
        rest = [
            row._replace(name=f"{_stem(file)}.{name}")
            for files in self.files.models.values()
            for place, file in enumerate(files)
            for name, row in _everything(file)
            if self._is_left(file, place, name, row)
        ]
        self.gathered.add(_OTHERS, "other", rest)
        flat = [
            row._replace(name=f"{_stem(file)}.{name}", kind="optimizer")
            for files in self.files.optimizers.values()
            for file in files
            for name, row in _everything(file)
            if (file.name, name) not in self.used
        ]
        if any(row.numel > 1 for row in flat):
            self.gathered.notes.append(
                "section 'optimizer.flat' holds tensors of the optimizer as they are stored: which parameter "
                "each element belongs to is not told"
            )
        self.gathered.add("optimizer.flat", "optimizer", flat)

    def _is_left(self, file: Opened, place: int, name: str, row: TensorInfo) -> bool:
        """Is it in no row: what further ranks have of the module, or fragments that make no parameter?"""
        if name.startswith(f"{_FRAGMENTS}."):
            return (file.name, name) not in self.used and bool(place or self.used)
        return bool(place and row.numel) and not row.placement

    def _say(self, ranks: Sequence[Rank], alike: int) -> None:
        """Facts and notes."""
        gathered = self.gathered
        first = self.opened[0]
        gathered.metadata = dict(first.checkpoint.metadata)
        if isinstance(first.said, ModelStates):
            gathered.facts.update(facts_of(first.said, self.stage))
        elif self.stage is not None:
            gathered.facts["ZeRO stage"] = str(self.stage)
        for files in list(self.files.optimizers.values())[:1]:
            gathered.facts["ranks"] = str(len(files))
        for note in first.checkpoint.notes:
            if note.startswith("loading it"):
                gathered.notes.append(note)
        if self.stage == _LAST_STAGE and not self.files.universal:
            gathered.notes.append(
                "ZeRO-3: parameters are the fp32 weights of the optimizer, with the shapes of param_shapes"
            )
        if len(ranks) > 1:
            gathered.notes.append(several_ranks(len(ranks), alike))


def _module(file: Opened) -> list[TensorInfo]:
    table = file.checkpoint.tables.get(_MODULE)
    return [] if table is None else list(table)


def _everything(file: Opened) -> list[tuple[str, TensorInfo]]:
    """Every tensor of a file with its whole path in it."""
    return [
        (f"{section}.{row.name}" if section else row.name, row)
        for section, table in file.checkpoint.tables.items()
        for row in table
    ]


def _stem(file: Opened) -> str:
    return file.name.rpartition("/")[2].removesuffix(".pt")
