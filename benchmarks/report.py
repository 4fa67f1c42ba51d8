"""
What is not right about a plan, for those who want to mend it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pair_scores import Score, Verdict

__all__ = ["failure_lines"]


def failure_lines(score: Score) -> Iterator[str]:
    """Each tensor that is not right, those that differ in numbers only together: the worst first."""
    alike: dict[tuple[str, ...], list[Verdict]] = {}
    for verdict in score.failures:
        names = (re.sub(r"\d+", "#", text) for text in (verdict.target, verdict.claimed, verdict.true))
        alike.setdefault((verdict.outcome, verdict.label, *names), []).append(verdict)
    order = {"wrong": 0, "doubted": 1, "missing": 2}
    for group in sorted(alike.values(), key=lambda found: order[found[0].outcome]):
        yield from _lines(group[0], len(group))


def _lines(each: Verdict, count: int) -> Iterator[str]:
    first = " (the first candidate is right)" if each.outcome == "doubted" and each.is_equal else ""
    more = f"  and {count - 1} more whose numbers differ" if count > 1 else ""
    yield f"    {f'{each.label}, ' if each.label else ''}{each.outcome}{first}: {each.target}{more}"
    yield f"        claimed {each.claimed}"
    yield f"        true    {each.true}"
    if each.reason:
        yield f"        because {each.reason}"
