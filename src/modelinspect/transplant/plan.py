"""
What a transplant is going to do: which tensors of a target come from which of a source.

A plan holds an assignment a target tensor. People read, edit and review it as rows of
patterns (:mod:`modelinspect.transplant.patterns`), so that 100,000 tensors are a page.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from modelinspect.display import Displayed
from modelinspect.tensors import ParameterTable
from modelinspect.transplant.transforms import Step, show_steps

if TYPE_CHECKING:
    from modelinspect.transplant.proof import Proof
    from modelinspect.transplant.write import Written

__all__ = ["Assignment", "Doubt", "Hint", "Label", "Missing", "Piece", "Plan", "Side", "Unused"]

Label = Literal["certain", "likely", "ambiguous", "proven"]
"""``certain``: shape, role and structure leave one reading, or a person said so. ``likely``:
names or order decide among readings that shapes allow. ``ambiguous``: the evidence does not
separate them; the assignment is the first of the candidates. ``proven``: both models were run."""


class Piece(NamedTuple):
    """One source tensor and what is done to it before it is joined to others."""

    name: str
    """Name in the source; empty for a constant, which ``zeros`` makes."""
    steps: tuple[Step, ...] = ()


class Assignment(NamedTuple):
    """Where one target tensor comes from."""

    target: str
    pieces: tuple[Piece, ...]
    """Mostly one. Several are joined by the first of ``steps``, a ``cat`` or a ``stack``."""
    steps: tuple[Step, ...] = ()
    """After the pieces are joined."""
    label: Label = "certain"
    reason: str = ""
    """Why, as a part of a sentence: ``the only tensor of this shape in its block``."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the source's tensors, constants left out."""
        return tuple(piece.name for piece in self.pieces if piece.name)

    @property
    def transform(self) -> str:
        """All steps in words; empty where the tensor is taken as it is."""
        own = {show_steps(piece.steps) for piece in self.pieces}
        lead = own.pop() if len(own) == 1 else "; ".join(show_steps(piece.steps) for piece in self.pieces)
        return " | ".join(filter(None, (lead, show_steps(self.steps))))

    @property
    def is_copy(self) -> bool:
        """True: the bytes of one source tensor, as they are."""
        return len(self.pieces) == 1 and not self.pieces[0].steps and not self.steps


class Doubt(NamedTuple):
    """Targets whose candidates the evidence does not separate."""

    targets: tuple[str, ...]
    candidates: tuple[str, ...]
    """Names in the source that fit each of the targets."""
    settle: str
    """What would settle it, e.g. ``--map 'a.q.*=b.wq.*'``."""


class Missing(NamedTuple):
    """A target tensor that gets nothing."""

    name: str
    shape: tuple[int, ...]
    why: str
    is_made: bool = False
    """True: the target makes it itself (masks, position ids, counters): nothing is amiss."""


class Unused(NamedTuple):
    """A source tensor that goes nowhere."""

    name: str
    shape: tuple[int, ...]
    why: str


class Hint(NamedTuple):
    """What a person said: ``source=target``, two globs whose stars stand for the same."""

    source: str
    target: str


@dataclass(frozen=True)
class Side:
    """One of the two sides as the matcher sees it."""

    table: ParameterTable
    is_ordered: bool = True
    """The order of the rows is that of registration; False where the writer sorted."""
    facts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Dotted path of a module to whole-number attributes that say how its weights lie:
    ``num_heads``, ``head_dim`` … Empty for files."""


@dataclass(frozen=True)
class Plan(Displayed):
    """
    A source and a target side by side: what goes where, and what does not.
    """

    source: ParameterTable = field(repr=False)
    target: ParameterTable = field(repr=False)
    assignments: tuple[Assignment, ...] = field(repr=False)
    """In the target's order; a tied target tensor has an assignment under each name."""
    missing: tuple[Missing, ...] = ()
    unused: tuple[Unused, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    notes: tuple[str, ...] = ()
    proof: Proof | None = field(default=None, repr=False)
    """What running both models found; None where they were not run."""
    target_of: Any = field(default=None, repr=False, compare=False)
    """The definition or module that the target is of, where there is one in hand."""

    @property
    def is_complete(self) -> bool:
        """True: every tensor that the target expects gets one."""
        return all(each.is_made for each in self.missing)

    @property
    def is_ambiguous(self) -> bool:
        """True: the evidence leaves something open."""
        return any(each.label == "ambiguous" for each in self.assignments)

    @property
    def labels(self) -> Mapping[Label, int]:
        """How many assignments carry each label, the surest first."""
        order: Sequence[Label] = ("proven", "certain", "likely", "ambiguous")
        found = [each.label for each in self.assignments]
        return {label: found.count(label) for label in order if label in found}

    def apply(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """
        The target's tensors, made of the source's in hand, of torch or numpy.

        They share memory with those given where nothing moves; names that are tied in the
        target hold one tensor. Nothing is asked about what is missing or ambiguous.

        Raises:
            UsageError: A tensor that the plan takes is not there, or is of another shape.
        """
        from modelinspect.transplant.in_memory import apply_plan

        return apply_plan(self, state_dict)

    def write(
        self,
        out: str,
        *,
        dtype: str | None = None,
        shard_size: int | str | None = None,
        metadata: Mapping[str, str] | None = None,
        allow_missing: bool = False,
        accept_doubtful: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Written:
        """
        Write the target's tensors, made of those in the source's file. What the target makes
        itself is written as a new one of it has it, so that the file loads strictly.

        Args:
            out: ``.safetensors``, ``.pt``, ``.pth`` or ``.bin``; a folder of shards.
            dtype: To convert floating-point numbers to.
            shard_size: Most bytes of a shard, or a text such as ``5GB``.
            metadata: Texts to keep, :attr:`Checkpoint.metadata`.
            allow_missing: Write although tensors of the target get nothing.
            accept_doubtful: Write although something is ambiguous.
            progress: Told of bytes done and of those in all.

        Raises:
            UnknownAnswerError: The plan is not complete, or ambiguous.
            ModelInspectError: It can't be written; what *out* was before is still there.
        """
        from modelinspect.transplant.own_values import with_own_values
        from modelinspect.transplant.refusal import require
        from modelinspect.transplant.write import write_plan

        require(self, allow_missing=allow_missing, accept_doubtful=accept_doubtful)
        with with_own_values(self) as (plan, notes):
            written = write_plan(
                plan, out, dtype=dtype, shard_size=shard_size, metadata=metadata, progress=progress
            )
        return replace(written, notes=(*written.notes, *notes))

    def save(self, path: str) -> None:
        """
        Write the plan itself to a file that people review, edit and give as ``plan=``.
        """
        from modelinspect.transplant.plan_file import write_plan_file

        write_plan_file(self, path)

    def to_python(self) -> str:
        """The text of a Python function ``convert(state_dict)`` that needs nothing."""
        from modelinspect.transplant.emit import emit_python

        return emit_python(self)

    def inverted(self) -> Plan:
        """
        The plan from the target back to the source.

        Raises:
            ValueError: A row loses elements; the message says which.
        """
        from modelinspect.transplant.invert import inverted

        return inverted(self)
