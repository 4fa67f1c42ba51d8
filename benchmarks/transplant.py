"""
``python -m benchmarks.transplant``: of how many pairs are how many tensors matched, by us and by others.

Pairs are the proven ones of ``benchmarks/pairs``, by their small files in ``tests/transplant/pairs``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from invented_pairs import invented
from pair_scores import Score, Verdict, Weights, score_plan
from pairs import SOURCES, TARGETS, Fixture, Form, fixtures

from benchmarks.baselines import BASELINES, is_installed, run_baseline
from modelinspect.transplant.match import match

_OURS = "modelinspect"
_FORM = {"pt": ".pt", "safetensors": ".safet."}


class Result(NamedTuple):
    """One method on one pair."""

    method: str
    form: Form
    """Of the source."""
    score: Score
    seconds: float


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transplant", description=__doc__)
    parser.add_argument("--pairs", default="*", metavar="GLOB", help="of names of pairs")
    parser.add_argument(
        "--failures", action="store_true", help="ours alone, with each tensor that is not right"
    )
    parser.add_argument("--invented", action="store_true", help="made-up pairs instead of the proven ones")
    parser.add_argument("--target", choices=TARGETS, default="definition", help="what the target is given as")
    chosen = parser.parse_args()
    found = fixtures(chosen.pairs)
    if chosen.invented:
        found = [each for each in invented() if fnmatch(each.name, chosen.pairs)]
    if not found:
        parser.error(f"no pair is called {chosen.pairs}")
    ours = [_ours(fixture, form, chosen.target) for fixture in found for form in SOURCES]
    if chosen.failures:
        _print(_failures(ours))
        _print(_totals(ours))
        return
    _print(_ours_table(ours))
    others = _baselines(found, chosen.target)
    _print(_others_table(others))
    _print(_totals([*ours, *others]))


def _ours(fixture: Fixture, form: Form, target: Form) -> Result:
    source_side, target_side = fixture.source_side(form), fixture.target_side(target)
    start = time.perf_counter()
    plan = match(source_side, target_side)
    seconds = time.perf_counter() - start
    score = score_plan(fixture, plan, is_ordered=source_side.is_ordered)
    return Result(_OURS, form, score, seconds)


def _baselines(found: Iterable[Fixture], target: Form) -> list[Result]:
    names = [name for name in (*BASELINES, "weightbridge") if is_installed(name)]
    results = []
    for fixture in found:
        weights, theirs = Weights(fixture), fixture.target_side(target)
        for form in SOURCES:
            side = fixture.source_side(form)
            for name in names:
                start = time.perf_counter()
                score = run_baseline(name, fixture, side, theirs, weights)
                results.append(Result(name, form, score, time.perf_counter() - start))
    return results


# --------------------------------------------------------------------------- tables


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line.rstrip())
    print()
    sys.stdout.flush()


def _count(number: int, width: int) -> str:
    return f"{number or '·':>{width}}"


def _ours_table(results: Sequence[Result]) -> Iterator[str]:
    yield f"{'pair':<44} {'from':<8} {'right':>6} {'wrong':>6} {'doubted':>8} {'missing':>8} {'seconds':>8}"
    before = ""
    for each in results:
        name = each.score.fixture.name
        yield _ours_line(each, "" if name == before else name)
        before = name


def _ours_line(result: Result, name: str) -> str:
    score = result.score
    mark = "whole" if score.is_whole else "WRONG" if score.has_wrong else "open"
    right, wrong = _count(score.count("right"), 6), _count(score.count("wrong"), 6)
    doubted, missing = _count(score.count("doubted"), 8), _count(score.count("missing"), 8)
    figures = f"{right} {wrong} {doubted} {missing} {result.seconds:>8.3f}"
    return f"{name:<44} {_FORM[result.form]:<8} {figures}  {mark}"


def _failures(results: Sequence[Result]) -> Iterator[str]:
    order = {"wrong": 0, "doubted": 1, "missing": 2}
    for each in results:
        yield _ours_line(each, each.score.fixture.name)
        for verdict in sorted(each.score.failures, key=lambda found: order[found.outcome]):
            yield from _failure(verdict)


def _failure(each: Verdict) -> Iterator[str]:
    first = " (the first candidate is right)" if each.outcome == "doubted" and each.is_equal else ""
    yield f"    {f'{each.label}, ' if each.label else ''}{each.outcome}{first}: {each.target}"
    yield f"        claimed {each.claimed}"
    yield f"        true    {each.true}"
    if each.reason:
        yield f"        because {each.reason}"


def _others_table(results: Sequence[Result]) -> Iterator[str]:
    methods = list(dict.fromkeys(each.method for each in results))
    yield "The others: tensors right / wrong; – where the method gives up"
    yield f"{'pair':<32} {'from':<8}" + "".join(f"{method:>13}" for method in methods)
    lines: dict[tuple[str, Form], dict[str, str]] = {}
    for each in results:
        cell = f"{each.score.count('right')} / {each.score.count('wrong') or '·'}"
        key = (each.score.fixture.name, each.form)
        lines.setdefault(key, {})[each.method] = "–" if each.score.gave_up else cell
    before = ""
    for (name, form), cells in lines.items():
        cut = "" if name == before else name if len(name) <= 32 else f"{name[:31]}…"
        yield f"{cut:<32} {_FORM[form]:<8}" + "".join(f"{cells[method]:>13}" for method in methods)
        before = name


def _totals(results: Sequence[Result]) -> Iterator[str]:
    kinds = sorted({each.score.fixture.kind for each in results})
    yield (
        f"{'pairs':<13} {'method':<14} {'from':<8} {'whole':>9} {'with wrong':>11} {'right':>8} {'wrong':>6}"
        f" {'doubted':>8} {'missing':>8} {'seconds':>8}"
    )
    for kind in (*kinds, *(["all"] if len(kinds) > 1 else [])):
        chosen = [each for each in results if kind in (each.score.fixture.kind, "all")]
        for method in dict.fromkeys(each.method for each in chosen):
            for form in SOURCES:
                group = [each for each in chosen if each.method == method and each.form == form]
                yield _total(kind, method, form, group)
                yield from _sureness(group) if method == _OURS else ()


def _total(kind: str, method: str, form: Form, group: Sequence[Result]) -> str:
    scores = [each.score for each in group]
    tensors = sum(len(score.verdicts) for score in scores)
    counts = {name: sum(s.count(name) for s in scores) for name in ("right", "wrong", "doubted", "missing")}
    whole = f"{sum(score.is_whole for score in scores)} / {len(scores)}"
    return (
        f"{kind:<13} {method:<14} {_FORM[form]:<8} {whole:>9} {_count(sum(s.has_wrong for s in scores), 11)}"
        f" {counts['right'] / tensors:>8.1%} {_count(counts['wrong'], 6)} {_count(counts['doubted'], 8)}"
        f" {_count(counts['missing'], 8)} {sum(each.seconds for each in group):>8.2f}"
    )


def _sureness(group: Sequence[Result]) -> Iterator[str]:
    """Of what was called certain and likely: how much is wrong, as tensors and as rows of patterns."""
    parts = []
    for label in ("certain", "likely"):
        tensors = sum(each.score.count("wrong", label) for each in group)
        rows = [each.score.rows_wrong(label) for each in group]
        parts.append(
            f"{label}: {tensors} tensors, {sum(a for a, _ in rows)} of {sum(b for _, b in rows)} rows"
        )
    yield f"{'':<13} {'':<14} wrong though {'; '.join(parts)}"


if __name__ == "__main__":
    main()
