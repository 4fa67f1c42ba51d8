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
        raise UnknownAnswerError(
            _message(plan, allow_missing), details=details, hint=_hint(plan, allow_missing)
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
    if plan.proof is not None and not plan.proof.outputs and not accept_doubtful:
        lines.append("nothing is proven: the models were not run")
        lines += (f"  {visible(each)}" for each in plan.proof.notes[:1])
    if plan.proof is not None and plan.proof.is_refuted and not accept_doubtful:
        worst = max(gap.relative for gap in plan.proof.outputs)
        lines.append(f"the outputs of both models differ: by {worst:.2g} of the largest value")
        lines += (f"  {visible(each)}" for each in plan.proof.differences)
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
    for each in rows_of(left)[:_MOST_LISTED]:
        yield f"ambiguous: {visible(each.target)} ← {visible(each.source)}: {visible(each.reason)}"
    if left:
        yield "  settled by --source-definition, which runs both models, or by a label in the --plan file"


def _listed(what: str, count: int, patterns: Sequence[str]) -> Iterator[str]:
    if count:
        more = f", … ({count:,} in all)" if len(patterns) > _MOST_LISTED else ""
        yield f"{what} {visible(', '.join(patterns[:_MOST_LISTED]))}{more}"


def _message(plan: Plan, allow_missing: bool) -> str:
    source, target = visible(plan.source.source), visible(plan.target.source)
    missing = sum(not each.is_made for each in plan.missing)
    if missing and not allow_missing:
        what = "1 tensor gets" if missing == 1 else f"{missing:,} tensors get"
        return f"{source} does not fill {target}: {what} nothing"
    count = plan.labels.get("ambiguous", 0)
    if not count:
        return f"{source} does not do in {target} what it did"
    what = "1 tensor is" if count == 1 else f"{count:,} tensors are"
    return f"{source} does not fill {target} without doubt: {what} ambiguous"


def _hint(plan: Plan, allow_missing: bool) -> str:
    if not plan.is_complete and not allow_missing:
        return "--allow-missing (allow_missing=True) leaves them at the target's own initialisation"
    return "--accept-doubtful (accept_doubtful=True) takes the first candidates"
