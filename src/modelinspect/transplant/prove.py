"""
Run the source and the target side by side: prove a plan, settle its doubts, say what else differs.

Random weights go into the source, the plan carries them into the target, both get one input.
Where outputs differ, the first activation that the source has nowhere says what to look at;
what fits is tried there, and what makes most of the following activations agree is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from modelinspect.errors import DefinitionError, ModelInspectError, UsageError, visible
from modelinspect.transplant.patterns import name_patterns
from modelinspect.transplant.plan import Assignment, Label, Missing, Plan, Unused
from modelinspect.transplant.proof import PROVEN, OutputGap, Proof, Settled
from modelinspect.transplant.prove_edits import Edit, Heads, edited, edits
from modelinspect.transplant.prove_units import patterns_of, units_of
from modelinspect.transplant.transforms import apply_steps

if TYPE_CHECKING:
    from modelinspect.live.compare import Comparison, Shared
    from modelinspect.live.compare_breaks import Break
    from modelinspect.live.prove_bench import Bench

__all__ = ["prove"]

_MOST_RUNS = 500
_MOST_DECISIONS = 24
_WINDOW = 100
"""Events after a break that a change is judged by."""
_PATIENCE = 12
"""Changes that are still tried after one that helps; more of them after one that helps little."""
_LITTLE = 5
_SMALL = 1e-3
"""Relative difference that no wrong assignment makes."""
_MOST_SINGLE = 240
_MOST_BESIDE = 80
_MOST_MIXED = 24
_MOST_PAIRED = 12
_MOST_APART = 100
_BESIDE = "it goes with what is proven of its module; no output shows it"
_AGREES = "the activations that follow agree when both models are run"

Progress = Callable[[int, int], None]


def prove(
    plan: Plan,
    source_definition: Any,
    target_definition: Any,
    *,
    source_weights: Any = None,
    inputs: Sequence[str] = (),
    seed: int = 0,
    settle: bool = True,
    progress: Progress | None = None,
) -> tuple[Plan, Proof]:
    """
    Run both models and say what that proves.

    Args:
        plan: From the source's names to the target's.
        source_definition: What computed with the source's weights: a module, a definition or
            a target such as ``net.py:Old``. A module is left as it was.
        target_definition: The same of the target.
        source_weights: The checkpoint's own weights, for one more comparison: a path or an
            opened checkpoint, a mapping of names to tensors, or a function that returns one.
        inputs: As ``--input`` spells them; empty: worked out.
        seed: Of weights, inputs and generators.
        settle: Try what else fits where the outputs differ.
        progress: Told of runs made and of the most there will be.

    Returns:
        The plan, with what was proven and settled, and the report. Where no input is found
        that both take, the plan as it was.

    Raises:
        DefinitionError: A definition can't be built.
        UsageError: An input is spelt badly.
    """
    from modelinspect.live.compare import shared_inputs

    source, source_home = _built(source_definition, seed)
    target, target_home = _built(target_definition, seed)
    both = _Both(source, target, seed)
    try:
        ways = shared_inputs(source, target, inputs, seed=seed, homes=(source_home, target_home))
    except DefinitionError as error:
        return plan, Proof(False, notes=(f"not run: {error.message}", *error.details))
    try:
        way = ways[0] if len(ways) == 1 else _best_way(plan, both, ways)
        proven, proof, accepted = _judged(plan, both, way, progress, settle=settle)
    except DefinitionError as error:
        return plan, Proof(False, notes=(f"not run to the end: {error.message}", *error.details))
    if source_weights is None and source is not source_definition:
        return proven, proof
    try:
        return proven, replace(proof, own_outputs=_own_gaps(proven, both, way, source_weights, accepted))
    except ModelInspectError as error:
        note = f"not run with the checkpoint's own weights: {error.message}"
        return proven, replace(proof, notes=(*proof.notes, note, *error.details))


class _Both(NamedTuple):
    source: Any
    target: Any
    seed: int


def _judged(
    plan: Plan, both: _Both, way: Shared, progress: Progress | None, *, settle: bool
) -> tuple[Plan, Proof, list[Any]]:
    """The plan as a run leaves it, the report, and the differences that were accepted."""
    from modelinspect.live.prove_bench import bench_of

    with bench_of(both.source, both.target, way, seed=both.seed) as bench:
        session = _Session(bench, plan, both.seed, progress)
        session.start()
        if settle:
            session.settle()
        return (*session.result(), session.accepted)


def _built(definition: Any, seed: int) -> tuple[Any, str | None]:
    """A module that can be run, and the file it is from."""
    from modelinspect.live.definition import Definition, load_definition

    if isinstance(definition, Definition):
        tensors = (*definition.module.parameters(), *definition.module.buffers())
        if not any(tensor.is_meta for tensor in tensors):
            return definition.module, definition.home
        definition = definition.target
    if not isinstance(definition, str):
        return definition, None
    loaded = load_definition(definition, meta=False, seed=seed)
    return loaded.module, loaded.home


def _best_way(plan: Plan, both: _Both, ways: Sequence[Shared]) -> Shared:
    """Of several ways to call both: the one in which most activations agree."""
    from modelinspect.live.prove_bench import bench_of

    scores = []
    for way in ways:
        with bench_of(both.source, both.target, way, seed=both.seed) as bench:
            session = _Session(bench, plan, both.seed, None)
            session.start()
            if session.comparison.equal:
                return way
            scores.append(bench.score(None))
    return ways[scores.index(max(scores))]


def _own_gaps(
    plan: Plan, both: _Both, way: Shared, weights: Any, accepted: Sequence[Any]
) -> tuple[OutputGap, ...]:
    """What the outputs are with the checkpoint's own weights; None: those that the source has."""
    from modelinspect.live.prove_bench import bench_of

    with bench_of(both.source, both.target, way, seed=both.seed) as bench:
        session = _Session(bench, plan, both.seed, None)
        for difference in accepted:
            bench.accept(difference)
        if callable(weights):
            weights = weights()
        if isinstance(weights, Mapping):
            names = _renamed(list(weights), bench.source_names())
            bench.load_source({names[name]: value for name, value in weights.items() if name in names})
        elif weights is not None:
            from modelinspect.live.weights import load_weights

            load_weights(both.source, weights)
            bench.changed()
        session.fill()
        return _output_gaps(bench.compare())


def _output_gaps(found: Comparison) -> tuple[OutputGap, ...]:
    return tuple(
        OutputGap(*gap[:5], equal=gap.relative <= found.tolerance, note=gap.note) for gap in found.gaps
    )


class _Session:
    """One bench, the plan as it stands, and what was decided so far."""

    comparison: Comparison

    def __init__(self, bench: Bench, plan: Plan, seed: int, progress: Progress | None) -> None:
        from modelinspect.live.compare_settings import attention_numbers

        self._bench, self._plan, self._seed, self._progress = bench, plan, seed, progress
        self._heads = Heads(*attention_numbers((bench.target, bench.source)))
        self.source_names = _renamed([row.name for row in plan.source], bench.source_names())
        self._synthetic: dict[str, Any] = {}
        self._settled: list[Settled] = []
        self._kept_plans = [plan.assignments]
        self._differences: list[str] = []
        self._notes: list[str] = []
        self.accepted: list[Any] = []
        self._runs, self._most_runs = 0, _MOST_RUNS

    # ---------------------------------------------------------------- weights

    def start(self) -> None:
        """Random weights, carried over, and a first comparison."""
        used = {self.source_names.get(name, name) for each in self._plan.assignments for name in each.sources}
        self._bench.randomise(used, self._seed)
        left = [each.name for each in self._plan.missing if not each.is_made]
        self._bench.randomise_target(left, self._seed + 1)
        self.fill()
        self.compare()

    def fill(self) -> None:
        """What the plan says, into the target."""
        try:
            lacks = self._bench.fill(self._values(self._plan.assignments))
        except (ValueError, IndexError) as error:
            raise UsageError(f"the plan does not fit the target's definition: {error}") from error
        if lacks:
            self._notes.append(f"the target's definition has no {visible(lacks[0])}{_more(lacks)}")

    def compare(self) -> None:
        """Outputs as they are now."""
        self.comparison = self._bench.compare()
        self._count(2)

    def _values(self, assignments: Iterable[Assignment]) -> dict[str, Any]:
        from modelinspect.live.prove_bench import library

        values = {}
        for each in assignments:
            arrays = [
                apply_steps([self._tensor(piece.name or each.sources[0])], piece.steps, library)
                for piece in each.pieces
            ]
            values[each.target] = apply_steps(arrays, each.steps, library)
        return values

    def _tensor(self, name: str) -> Any:
        """A tensor of the source; a made-up one where its definition has none of the name."""
        known = self.source_names.get(name)
        if known is not None:
            return self._bench.source_tensor(known)
        if name not in self._synthetic:
            self._synthetic[name] = self._bench.random_tensor(
                self._plan.source[name].shape, len(self._synthetic)
            )
            self._notes.append(f"the source's definition has no {visible(name)}")
        return self._synthetic[name]

    def _count(self, runs: int = 1) -> None:
        self._runs += runs
        if self._progress is not None:
            self._progress(min(self._runs, _MOST_RUNS), _MOST_RUNS)

    # ----------------------------------------------------------------- settle

    def settle(self) -> None:
        """Change what makes more of the activations agree, until outputs do or nothing helps."""
        kept, furthest = 0, -1
        if not self.comparison.gaps:  # an output that only one has breaks off anyway
            self._most_runs = _MOST_RUNS // 4
        for _ in range(_MOST_DECISIONS):
            if self.comparison.equal or self._runs >= self._most_runs:
                break
            if _worst(self.comparison) < _SMALL and self._sharpened():
                self.compare()
                continue
            broken = self._bench.break_of(self._filled())
            self._count()
            if broken is not None and broken.at > furthest:
                kept, furthest = len(self._settled), broken.at
            if broken is None:
                kept = len(self._settled)
                if not self.comparison.gaps or not self._by_outputs():
                    break
            elif not self._decide(broken):
                self._give_up(broken)
                break
            self.compare()
        if not self.comparison.equal:
            self._take_back(kept)

    def _take_back(self, kept: int) -> None:
        """What was changed in vain at the last place is as it was."""
        targets = {target for each in self._settled[kept:] for target in each.targets}
        if not targets:
            return
        del self._settled[kept:]
        self._plan = replace(self._plan, assignments=self._kept_plans[kept])
        self.fill()
        self.compare()

    def _filled(self) -> set[str]:
        return {each.target for each in self._plan.assignments}

    def _decide(self, broken: Break) -> bool:
        """
        One more decision: another operation, or another assignment, whichever helps more.
        """
        limit = broken.at + _WINDOW
        base = self._bench.score(limit)
        self._count()
        most, words, difference = self._best_difference(broken, base, limit)
        if difference is not None and self._bench.is_setting(difference):
            self._accept(words, difference)
            return True
        tried = _MOST_BESIDE if difference is not None else _MOST_SINGLE
        found = self._best_of(islice(self._candidates(broken), tried), most, limit)
        if found is None and difference is not None:
            self._accept(words, difference)
            return True
        apart = edits(self._plan, broken.suspects, self._heads, apart=True)
        found = (
            found
            or self._best_mixed(broken, base, limit)
            or self._best_pair(broken, base, limit)
            or self._best_of(islice(apart, _MOST_APART), base, limit)
        )
        if found is not None:
            self._keep(found)
        return found is not None

    def _best_difference(self, broken: Break, base: int, limit: int) -> tuple[int, str, Any]:
        """The operation near a break that, made as the source makes it, helps most."""
        best: tuple[int, str, Any] = (base, "", None)
        for words, difference in self._bench.differences(broken):
            self._count()
            score = self._bench.score_with(difference, limit)
            if score > best[0]:
                best = (score, words, difference)
        return best

    def _accept(self, words: str, difference: Any) -> None:
        self._bench.accept(difference)
        self._differences.append(words)
        self.accepted.append(difference)

    def _best_mixed(self, broken: Break, base: int, limit: int) -> Edit | None:
        """A change that helps once an operation is made as the source makes it, too."""
        for edit in islice(self._candidates(broken), _MOST_MIXED):
            with self._changed(edit) as fits:
                for words, difference in self._bench.differences(broken) if fits else ():
                    self._count()
                    if self._bench.score_with(difference, limit) > base + _LITTLE:
                        self._accept(words, difference)
                        return edit
        return None

    def _candidates(self, broken: Break) -> Iterator[Edit]:
        return edits(self._plan, broken.suspects, self._heads)

    def _best_of(self, candidates: Iterable[Edit], base: int, limit: int) -> Edit | None:
        best, most, since = None, base, 0
        for edit in candidates:
            since += best is not None
            patience = _PATIENCE if most > base + _LITTLE else 3 * _PATIENCE
            if since > patience or self._runs >= self._most_runs:
                break
            score = self._score(edit, limit)
            if score > most:
                best, most, since = edit, score, 0
        return best

    def _best_pair(self, broken: Break, base: int, limit: int) -> Edit | None:
        """Two changes at once: each alone may help nothing."""
        return self._best_of(self._pairs(broken), base, limit)

    def _pairs(self, broken: Break) -> Iterator[Edit]:
        for first in islice(self._candidates(broken), _MOST_PAIRED):
            plan = replace(self._plan, assignments=edited(self._plan.assignments, first.changes))
            for second in islice(edits(plan, broken.suspects, self._heads), _MOST_PAIRED):
                changes = {each.target: each for each in (*first.changes, *second.changes)}
                yield Edit(f"{first.how}; {second.how}", tuple(changes.values()))

    def _score(self, edit: Edit, limit: int) -> int:
        """What the target is worth with a change, which is taken back."""
        self._count()
        with self._changed(edit) as fits:
            return self._bench.score(limit) if fits else -1

    @contextmanager
    def _changed(self, edit: Edit) -> Iterator[bool]:
        """The target has a change inside; whether it fits."""
        kept = self._bench.target_values([change.target for change in edit.changes])
        try:
            self._bench.fill(self._values(edit.changes))
            fits = True
        except (ValueError, IndexError):
            fits = False
        try:
            yield fits
        finally:
            self._bench.fill(kept)

    def _keep(self, edit: Edit) -> None:
        self._plan = replace(self._plan, assignments=edited(self._plan.assignments, edit.changes))
        self._bench.fill(self._values(edit.changes))
        self._kept_plans.append(self._plan.assignments)
        self._settled.append(Settled(tuple(change.target for change in edit.changes), edit.how))

    def _by_outputs(self) -> bool:
        """Every activation is there, and the outputs' elements lie otherwise: the last layers."""
        last = self._bench.last_used()
        worst = _worst(self.comparison)
        for edit in islice(edits(self._plan, last, self._heads), _MOST_SINGLE // 2):
            if self._runs >= self._most_runs:
                return False
            self._count()
            with self._changed(edit) as fits:
                helps = fits and self._bench.quick_gap() < min(worst / 10, 0.01)
            if helps:
                self._keep(edit)
                return True
        return False

    def _sharpened(self) -> bool:
        """A small difference everywhere: find the operation that makes it."""
        if not self._bench.sharpen():
            return False
        broken = self._bench.break_of(self._filled())
        self._count()
        if broken is not None:
            limit = broken.at + _WINDOW
            _, words, difference = self._best_difference(broken, self._bench.score(limit), limit)
            if difference is not None:
                self._accept(words, difference)
                return True
        self._bench.soften()
        return False

    def _give_up(self, broken: Break) -> None:
        place = visible(broken.event.place) or "the outermost module"
        self._notes.append(
            f"the first activation that the source has nowhere is that of {broken.event.call.kind} "
            f"in {place}; nothing that was tried mends it"
        )
        self._differences += list(dict.fromkeys(words for words, _ in self._bench.differences(broken)))[:3]

    # ----------------------------------------------------------------- result

    def result(self) -> tuple[Plan, Proof]:
        """The plan with its new labels, and the report."""
        from modelinspect.live.compare_settings import differing_settings

        equal = self.comparison.equal
        patterns = patterns_of(units_of({row.name: row.shape for row in self._plan.target}))
        pairs = _module_pairs(self._plan.assignments, self.source_names)
        told = differing_settings(self._bench.source, self._bench.target, pairs)
        names = [each.target for each in self._plan.assignments]
        taking, until = set[str](), ""
        if equal:
            taking = self._bench.taking_part(names, patterns)
        elif not self.comparison.gaps:
            taking, until = self._bench.taking_part_until(names, patterns)
        plan = self._labelled(taking, until)
        unproven = tuple(name for name in names if name not in taking) if equal else ()
        notes = list(dict.fromkeys((*self._notes, *self._said_of(unproven, until))))
        activations, agreeing, first = self._activations(pairs)
        return plan, Proof(
            equal=equal and not self.accepted,
            outputs=_output_gaps(self.comparison),
            input=self.comparison.input.described,
            origin=self.comparison.input.origin,
            dtype=self.comparison.dtype,
            activations=activations,
            agreeing=agreeing,
            first_apart=first,
            settled=tuple(self._settled),
            differences=tuple(dict.fromkeys((*self._differences, *_not_said(told, self._differences)))),
            equal_but_for=equal and bool(self.accepted),
            unproven=unproven,
            runs=self._runs,
            notes=tuple(notes),
        )

    def _said_of(self, unproven: Sequence[str], until: str) -> list[str]:
        if not self.comparison.gaps:
            agree = f"; activations agree up to {visible(until)}" if until else ""
            return [f"no two outputs have one shape: they were not compared{agree}"]
        counted = [name for name in unproven if self._plan.target[name].dtype.category == "float"]
        shown = name_patterns(counted)
        if not shown:
            return []
        return [
            f"no influence on the outputs, so not proven: {visible(', '.join(shown[:4]))}{_more(shown[3:])}"
        ]

    def _labelled(self, taking: set[str], until: str) -> Plan:
        proof = f"the activations of both models agree up to {visible(until)}" if until else PROVEN
        settled = {target: each.how for each in self._settled for target in each.targets}
        proven = {
            (each.target.rpartition(".")[0], _owners(each))
            for each in self._plan.assignments
            if each.target in taking
        }
        assignments = []
        for each in self._plan.assignments:
            how = settled.get(each.target, "")
            label: Label
            beside = (each.target.rpartition(".")[0], _owners(each)) in proven
            if each.target in taking:
                label, reason = "proven", f"{proof}; {how}" if how else proof
            elif beside and (each.label == "ambiguous" or how):
                label, reason = "likely", _BESIDE
            elif how:
                label, reason = "likely", f"{_AGREES}; {how}"
            else:
                label, reason = each.label, each.reason
            assignments.append(each._replace(label=label, reason=reason))
        places = {row.name: at for at, row in enumerate(self._plan.target)}
        assignments.sort(key=lambda each: places.get(each.target, len(places)))
        plan = replace(self._plan, assignments=tuple(assignments))
        plan = replace(plan, missing=_still_missing(plan), unused=_still_unused(plan))
        open_ones = {each.target for each in plan.assignments if each.label == "ambiguous"}
        doubts = tuple(doubt for doubt in plan.doubts if open_ones.intersection(doubt.targets))
        return replace(plan, doubts=doubts)

    def _activations(self, pairs: Mapping[str, str]) -> tuple[int, int, str]:
        theirs, ours = self._bench.module_prints()
        count = agree = 0
        first = ""
        for path, prints in ours.items():  # in the order in which they ended
            if path not in pairs or pairs[path] not in theirs:
                continue
            same = self._bench.agrees(prints[1], theirs[pairs[path]][1])
            if same is None:
                continue
            count += 1
            agree += same
            if not same and not first:
                first = path
        return count, agree, first


# --------------------------------------------------------------------------- helpers


def _owners(assignment: Assignment) -> tuple[str, ...]:
    """The source's modules that an assignment takes from."""
    return tuple(name.rpartition(".")[0] for name in assignment.sources)


def _worst(found: Comparison) -> float:
    return max((gap.relative for gap in found.gaps), default=float("inf"))


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""


def _not_said(told: Iterable[str], already: Sequence[str]) -> list[str]:
    """Settings that differ, where no operation has said so."""
    words = {each.partition(" ")[0] for each in already}
    return [each for each in told if each.partition(" ")[0] not in words]


def _renamed(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Names of the plan's source to those in its definition, where only a prefix differs."""
    there = set(known)
    same = {name: name for name in names if name in there}
    if len(same) == len(names):
        return same
    shorter = [_cut(names, prefix, there) for prefix in _prefixes(names)]
    longer = [
        {name: prefix + name for name in names if prefix + name in there} for prefix in _prefixes(known)
    ]
    return max((same, *shorter, *longer), key=len)


def _cut(names: Sequence[str], prefix: str, there: set[str]) -> dict[str, str]:
    without = {name: name[len(prefix) :] for name in names if name.startswith(prefix)}
    return {name: rest for name, rest in without.items() if rest in there}


def _prefixes(names: Iterable[str]) -> list[str]:
    """``module.``, ``module.model.``: beginnings that many names share."""
    found: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, min(4, len(parts))):
            prefix = ".".join(parts[:depth]) + "."
            found[prefix] = found.get(prefix, 0) + 1
    return [prefix for prefix, _ in sorted(found.items(), key=lambda each: -each[1])[:8]]


def _still_missing(plan: Plan) -> tuple[Missing, ...]:
    filled = {each.target for each in plan.assignments}
    return tuple(each for each in plan.missing if each.name not in filled)


def _still_unused(plan: Plan) -> tuple[Unused, ...]:
    used = {name for each in plan.assignments for name in each.sources}
    kept = [each for each in plan.unused if each.name not in used]
    known = {each.name for each in plan.unused}
    ties = plan.source.tied_to
    firsts = {ties.get(name, name) for name in used}
    freed = [
        Unused(row.name, row.shape, "settled by running both models")
        for row in plan.source
        if row.name not in used and row.name not in known and ties.get(row.name, row.name) not in firsts
        and row.persistent is not False
    ]  # fmt: skip
    return (*kept, *freed)


def _module_pairs(assignments: Sequence[Assignment], names: Mapping[str, str]) -> dict[str, str]:
    """Modules that take their tensors from one module, and it gives them to no other: target to source."""
    ours: dict[str, set[str]] = {}
    theirs: dict[str, set[str]] = {}
    for each in assignments:
        for name in each.sources:
            source = names.get(name, name)
            for path in _paths(each.target):
                ours.setdefault(path, set()).add(source)
            for path in _paths(source):
                theirs.setdefault(path, set()).add(each.target)
    pairs = {}
    for path, sources in ours.items():
        common = _common(sources)
        while common is not None:
            users = theirs.get(common, set())
            if all(_is_in(user, path) for user in users):
                pairs[path] = common
                break
            common = None
    return pairs


def _paths(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _common(names: Iterable[str]) -> str | None:
    """The innermost module that holds all."""
    paths = [_paths(name) for name in names]
    shared = set(paths[0]).intersection(*paths[1:])
    return max(shared, key=len, default=None)


def _is_in(name: str, path: str) -> bool:
    return not path or name.startswith(f"{path}.")
