"""
When a plan is not carried out: what it leaves open, and what would settle it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelinspect.errors import UnknownAnswerError, visible
from modelinspect.transplant.patterns import doubt_rows, name_patterns, rows_of
from modelinspect.transplant.plan import Plan

__all__ = ["open_questions", "require"]

_MOST_LISTED = 8


def require(plan: Plan, *, allow_missing: bool = False, accept_doubtful: bool = False) -> None:
    """
    Refuse a plan that is not complete, or ambiguous.

    Raises:
        UnknownAnswerError: It leaves something open that isn't allowed; the details say what.
    """
    details = open_questions(plan, allow_missing=allow_missing, accept_doubtful=accept_doubtful)
    if details:
        source, target = visible(plan.source.source), visible(plan.target.source)
        raise UnknownAnswerError(
            f"{source} does not fill {target} without doubt", details=details, hint=_hint(plan)
        )


def open_questions(
    plan: Plan, *, allow_missing: bool = False, accept_doubtful: bool = False
) -> tuple[str, ...]:
    """What keeps a plan from being carried out, a line each; empty: nothing."""
    lines: list[str] = []
    missing = [each.name for each in plan.missing if not each.is_made]
    if missing and not allow_missing:
        lines += _listed("nothing fills", len(missing), name_patterns(missing))
    if plan.is_ambiguous and not accept_doubtful:
        lines += _doubts(plan)
    return tuple(lines)


def _doubts(plan: Plan) -> Iterator[str]:
    """Each doubt with its candidates and what settles it; assignments in doubt that no doubt names."""
    named = {name for doubt in plan.doubts for name in doubt.targets}
    shown = doubt_rows(plan.doubts)
    for row in shown[:_MOST_LISTED]:
        targets, candidates = visible(", ".join(row.targets)), visible(", ".join(row.candidates))
        yield f"ambiguous: {targets} may be any of {candidates}"
        if row.settle:
            yield f"  settled by {visible(row.settle)}"
    if len(shown) > _MOST_LISTED:
        yield f"… and {len(shown) - _MOST_LISTED:,} more doubts"
    left = [a for a in plan.assignments if a.label == "ambiguous" and a.target not in named]
    yield from _listed("ambiguous:", len(left), [f"{row.target} ← {row.source}" for row in rows_of(left)])


def _listed(what: str, count: int, patterns: Sequence[str]) -> Iterator[str]:
    if count:
        more = f", … ({count:,} in all)" if len(patterns) > _MOST_LISTED else ""
        yield f"{what} {visible(', '.join(patterns[:_MOST_LISTED]))}{more}"


def _hint(plan: Plan) -> str:
    if not plan.is_complete:
        return "--allow-missing (allow_missing=True) leaves them at the target's own initialisation"
    return "--accept-doubtful (accept_doubtful=True) takes the first candidate"
