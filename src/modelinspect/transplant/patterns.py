"""
A plan as rows of patterns, so that 100,000 tensors are a page, and the way back.

A pattern is a name with numbers in braces: ``blocks.{0..11}.attn.weight`` stands for twelve
names, ``{0..3,5}`` for 0, 1, 2, 3 and 5, ``{0..8..2}`` for the even numbers, ``{11..0}`` for
a range from its end; two pairs of braces stand for every combination. A row's source has
the same braces as its target, and each takes its values in step with the target's:
``h.{0..11}`` goes with ``blocks.{1..12}`` one by one. Where places alone do not say which
braces belong together, they have names: ``{i:0..11}`` in the target goes with ``{i:1..12}``
in the source, and ``{i}`` is short for the target's values. Braces stand among the numbers
of a transform as well: ``index(0, {j})``.

Square brackets in a source stand for several tensors that are joined: ``experts.[0..7].w1``
are eight. A brace, bracket or backslash of a name itself has a backslash before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from math import prod
from typing import NamedTuple

from modelinspect.transplant.plan import Assignment, Doubt, Label, Piece, Plan
from modelinspect.transplant.transforms import Step, parse_steps

__all__ = [
    "Brace",
    "Bracket",
    "DoubtRow",
    "Numbers",
    "ParsedPiece",
    "ParsedRow",
    "Part",
    "PatternPiece",
    "PatternRow",
    "doubt_rows",
    "expand",
    "expand_names",
    "name_patterns",
    "numbers_of",
    "parse_pattern",
    "parse_row",
    "rows",
    "rows_of",
]

_MOST_NUMBERS = 12
"""Numbers in a name that may vary; with more of them no one would read the braces."""
_MOST_VALUES = 1_000_000
"""That one row may stand for."""
_FEWEST_JOINED = 3
"""Fewer tensors that are joined are named one by one."""
_DEEPEST = 12
"""Times that a group is divided; what is left then has a row each."""
_MAY_VARY = frozenset({"index", "take"})
"""Operations whose arguments may go with the numbers of a row; shapes don't."""
_LETTERS = "ijklmnopqrst"

# Leading zeros and the first of more than nine digits are text, so that str(int(n)) is n.
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,8})(?![0-9])")
_SPECIAL = re.compile(r"[{}\[\]\\]")
_BRACE = re.compile(r"\{(?:(?P<name>[a-z]):)?(?P<values>[-0-9.,]+)\}|\{(?P<alone>[a-z])\}")
_DOT = re.compile(r"\.(?![^{\[]*[}\]])")
"""Not one inside a brace."""
_RANGE = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9})(?:\.\.(\d{1,9}))?)?")

Numbers = tuple[int, ...]


class PatternPiece(NamedTuple):
    """One source of a row and what is done to it before it is joined to others."""

    name: str
    """A pattern; empty for a constant."""
    transform: str = ""
    """Its steps as :func:`~modelinspect.transplant.transforms.show_steps` spells them, with braces."""


@dataclass(frozen=True)
class PatternRow:
    """Assignments that differ in numbers only."""

    target: str
    pieces: tuple[PatternPiece, ...]
    transform: str = ""
    """Of the joined pieces."""
    count: int = 1
    """Target tensors that the row stands for."""
    label: Label = "certain"
    reason: str = ""

    @property
    def source(self) -> str:
        """All sources in words: ``h.{0..11}.(q, k, v).weight``."""
        return _put_together([piece.name or "zeros" for piece in self.pieces])

    @property
    def steps(self) -> str:
        """All steps in words, those of the pieces first; empty for a plain copy."""
        own = list(dict.fromkeys(piece.transform for piece in self.pieces))
        lead = own[0] if len(own) == 1 else "; ".join(piece.transform or "as is" for piece in self.pieces)
        return " | ".join(filter(None, (lead, self.transform)))


# ---------------------------------------------------------------- assignments to rows


def rows(plan: Plan) -> tuple[PatternRow, ...]:
    """
    The plan's assignments as few rows; what is irregular has more rows.

    Returns:
        In the order in which each row's first tensor stands in the target.
    """
    return rows_of(plan.assignments)


def rows_of(assignments: Sequence[Assignment]) -> tuple[PatternRow, ...]:
    """Rows as :func:`rows` makes them, of some of a plan's assignments."""
    groups: dict[_Form, list[tuple[Numbers, int]]] = {}
    for at, assignment in enumerate(assignments):
        form, numbers = _taken_apart(assignment)
        groups.setdefault(form, []).append((numbers, at))
    found: list[tuple[int, PatternRow]] = []
    for form, members in groups.items():
        found.extend((box.first, _row(form, box)) for box in _boxes(form, members, _DEEPEST))
    return tuple(row for _, row in sorted(found, key=lambda each: each[0]))


def name_patterns(names: Iterable[str]) -> tuple[str, ...]:
    """
    Names as few patterns, in the order of their first names.

    >>> name_patterns(["h.0.w", "h.1.w", "out"])
    ('h.{0..1}.w', 'out')
    """
    return tuple(row.target for row in rows_of([Assignment(name, ()) for name in dict.fromkeys(names)]))


class DoubtRow(NamedTuple):
    """Doubts that differ in numbers only."""

    targets: tuple[str, ...]
    """Patterns."""
    candidates: tuple[str, ...]
    """Patterns."""
    settle: str
    """What would settle them, mostly a ``--map`` that can be added to the command as it is."""
    doubts: int
    """That the row stands for."""


def doubt_rows(doubts: Iterable[Doubt]) -> tuple[DoubtRow, ...]:
    """
    Doubts as few rows: the same doubt in each of twelve blocks is one.
    """
    groups: dict[tuple[object, ...], list[Doubt]] = {}
    for doubt in doubts:
        names = (doubt.targets, doubt.candidates)
        form = tuple(tuple(numbers_of(name)[0] for name in some) for some in names)
        groups.setdefault((form, numbers_of(doubt.settle)[0]), []).append(doubt)
    return tuple(_doubt_row(group) for group in groups.values())


def _doubt_row(group: Sequence[Doubt]) -> DoubtRow:
    targets = name_patterns(name for doubt in group for name in doubt.targets)
    candidates = name_patterns(name for doubt in group for name in doubt.candidates)
    settle = group[0].settle
    if not settle.startswith("--map") and group[0].targets and group[0].candidates:
        settle = _map_line(group)
    return DoubtRow(targets, candidates, settle, len(group))


def _map_line(group: Sequence[Doubt]) -> str:
    """A ``--map`` that says the first reading, for all of the blocks where their numbers agree."""
    first = group[0]
    source, target = first.candidates[0], first.targets[0]
    apart = [(numbers_of(doubt.candidates[0])[1], numbers_of(doubt.targets[0])[1]) for doubt in group]
    varying = [[at for at, values in enumerate(zip(*each)) if len(set(values)) > 1] for each in zip(*apart)]
    ours, theirs = varying
    agree = len(ours) == len(theirs) and all(a[i] == b[j] for a, b in apart for i, j in zip(ours, theirs))
    if agree:
        source, target = _starred(source, ours), _starred(target, theirs)
    return f"--map '{source}={target}'"


def _starred(name: str, positions: Sequence[int]) -> str:
    texts, numbers = numbers_of(name)
    shown = ["*" if at in positions else str(number) for at, number in enumerate(numbers)]
    return "".join(text + number for text, number in zip(texts, [*shown, ""]))


class _PieceForm(NamedTuple):
    texts: tuple[str, ...]
    bracket: tuple[int, Numbers] | None
    """Of pieces that stand as one: the number that differs, and its values."""
    steps: tuple[StepForm, ...]


class _Form(NamedTuple):
    """What assignments of a row have in common: everything but numbers."""

    texts: tuple[str, ...]
    pieces: tuple[_PieceForm, ...]
    steps: tuple[StepForm, ...]
    label: Label
    reason: str

    @property
    def own(self) -> int:
        """How many of the numbers are the target's; they come first."""
        return len(self.texts) - 1

    def is_part(self, position: int) -> bool:
        """Is that number of the target a part of the name by itself, as in ``layers.3.bias``?"""
        before, after = self.texts[position], self.texts[position + 1]
        return (not before or before[-1] == ".") and (not after or after[0] == ".")


def _taken_apart(assignment: Assignment) -> tuple[_Form, Numbers]:
    target, given, after, label, reason = assignment
    texts, numbers = numbers_of(target)
    pieces: list[_PieceForm] = []
    for (words, own), bracket, steps in _bracketed(given):
        form, args = _steps_apart(steps)
        pieces.append(_PieceForm(words, bracket, form))
        numbers += own + args
    form, args = _steps_apart(after)
    return _Form(texts, tuple(pieces), form, label, reason), numbers + args


def numbers_of(name: str) -> tuple[tuple[str, ...], Numbers]:
    """
    A name taken apart: the texts before, between and after its numbers, and those.

    >>> numbers_of("h.3.w1")
    (('h.', '.w', ''), (3, 1))
    """
    parts = _NUMBER.split(name)
    if not 1 < len(parts) <= 2 * _MOST_NUMBERS + 1:
        return (name,), ()
    return tuple(parts[::2]), tuple(map(int, parts[1::2]))


StepForm = tuple[str, Numbers | int]
"""An operation and its arguments; or how many it has where they may vary in a row."""


@lru_cache(maxsize=4096)
def _steps_apart(steps: tuple[Step, ...]) -> tuple[tuple[StepForm, ...], Numbers]:
    return (
        tuple((step.op, len(step.args) if step.op in _MAY_VARY else step.args) for step in steps),
        tuple(arg for step in steps if step.op in _MAY_VARY for arg in step.args),
    )


_Apart = tuple[tuple[str, ...], Numbers]


_Bracketed = tuple[_Apart, tuple[int, Numbers] | None, tuple[Step, ...]]


def _bracketed(pieces: Sequence[Piece]) -> Iterable[_Bracketed]:
    """Pieces, those that differ in one evenly rising number put together."""
    if len(pieces) < _FEWEST_JOINED:
        return [(numbers_of(name), None, steps) for name, steps in pieces]
    return _with_brackets(pieces)


def _with_brackets(pieces: Sequence[Piece]) -> Iterator[_Bracketed]:
    apart = [numbers_of(piece.name) for piece in pieces]
    at = 0
    while at < len(pieces):
        end, place = _joined_run(pieces, apart, at)
        if end - at < _FEWEST_JOINED:
            yield apart[at], None, pieces[at].steps
            at += 1
            continue
        texts, numbers = apart[at]
        values = tuple(apart[each][1][place] for each in range(at, end))
        yield (texts, (*numbers[:place], *numbers[place + 1 :])), (place, values), pieces[at].steps
        at = end


def _joined_run(pieces: Sequence[Piece], apart: Sequence[_Apart], at: int) -> tuple[int, int]:
    """Where the run of like pieces that begins here ends, and which number differs in it."""
    end, place, step = at + 1, -1, 0
    while end < len(pieces):
        texts, numbers = apart[end]
        before = apart[end - 1]
        if texts != before[0] or pieces[end].steps != pieces[at].steps:
            break
        differing = [i for i, (a, b) in enumerate(zip(before[1], numbers)) if a != b]
        if len(differing) != 1:
            break
        rise = numbers[differing[0]] - before[1][differing[0]]
        if end > at + 1 and (differing[0], rise) != (place, step):
            break
        place, step = differing[0], rise
        end += 1
    return end, place


# ------------------------------------------------------------------- groups to boxes


class _Driven(NamedTuple):
    """A number that goes with a variable."""

    variable: int
    values: Numbers


class _Box(NamedTuple):
    """Members of a group that are every combination of some numbers."""

    first: int
    """Where the first of them stands in the plan."""
    sizes: tuple[int, ...]
    """How many values each variable takes."""
    numbers: tuple[int | _Driven, ...]


_Members = Sequence[tuple[Numbers, int]]


def _boxes(form: _Form, members: _Members, depth: int) -> Iterator[_Box]:
    if len(members) == 1 or depth == 0:
        for numbers, at in members:
            yield _Box(at, (), numbers)
        return
    found = _box_or_parts(form, members)
    if isinstance(found, _Box):
        yield found
        return
    for part in found:
        yield from _boxes(form, part, depth - 1)


def _box_or_parts(form: _Form, members: _Members) -> _Box | list[_Members]:
    """One box, or the members divided into parts that are nearer to being one."""
    columns = list(zip(*(numbers for numbers, _ in members)))
    variables, tied = _variables(form, columns)
    values = {variable: sorted(set(columns[variable])) for variable in variables}
    if prod(map(len, values.values())) != len(members):
        return _parts_by_rest(members, variables)
    numbers: list[int | _Driven] = []
    for position, column in enumerate(columns):
        if len(set(column)) == 1:
            numbers.append(column[0])
            continue
        variable = position if position in values else tied.get(position, _driver(columns, values, position))
        if variable is None:
            fewest = min(variables, key=lambda each: len(values[each]))
            return _parts_by_value(members, fewest, [[value] for value in values[fewest]])
        images = dict(zip(columns[variable], column))
        driven = tuple(images[value] for value in values[variable])
        if not _is_even(values[variable], driven, form.is_part(variable)):
            runs = _even_runs(values[variable], driven, form.is_part(variable))
            return _parts_by_value(members, variable, runs)
        numbers.append(_Driven(variables.index(variable), driven))
    first = min(at for _, at in members)
    return _Box(first, tuple(len(values[variable]) for variable in variables), tuple(numbers))


def _variables(form: _Form, columns: Sequence[Numbers]) -> tuple[list[int], dict[int, int]]:
    """The target's numbers that vary by themselves; those that go with an earlier one, and it."""
    variables: list[int] = []
    tied: dict[int, int] = {}
    for position in range(form.own):
        column = columns[position]
        count = len(set(column))
        if count == 1:
            continue
        for variable in variables:
            other = columns[variable]
            if len(set(zip(other, column))) == count == len(set(other)):
                tied[position] = variable
                break
        else:
            variables.append(position)
    return variables, tied


def _driver(columns: Sequence[Numbers], values: dict[int, list[int]], position: int) -> int | None:
    """The variable that alone decides a number."""
    for variable, taken in values.items():
        if len(set(zip(columns[variable], columns[position]))) == len(taken):
            return variable
    return None


def _is_even(values: Sequence[int], driven: Sequence[int], may_step: bool) -> bool:
    """Do the two go in step, so that both are ranges, or one the other moved by a constant?"""
    first = driven[0] - values[0]
    if all(b - a == first for a, b in zip(values, driven)):
        return True
    return may_step and _is_range(values) and _is_range(driven)


def _is_range(values: Sequence[int]) -> bool:
    rise = values[1] - values[0]
    return all(b - a == rise for a, b in pairwise(values))


def _even_runs(values: Sequence[int], driven: Sequence[int], may_step: bool) -> list[list[int]]:
    """The values divided into runs in which :func:`_is_even` holds."""
    runs, at = [], 0
    while at < len(values):
        end = at + 1
        rise = driven[end] - driven[at] if end < len(values) else 0
        step = values[end] - values[at] if end < len(values) else 0
        if rise == step or may_step:
            while end < len(values) and driven[end] - driven[end - 1] == rise:
                if values[end] - values[end - 1] != step:
                    break
                end += 1
        if end - at == 2 and rise != step and end < len(values):
            end = at + 1  # two points make any range; the second may begin a better one
        runs.append(list(values[at:end]))
        at = end
    return runs


def _parts_by_value(members: _Members, variable: int, runs: Sequence[Sequence[int]]) -> list[_Members]:
    part_of = {value: at for at, run in enumerate(runs) for value in run}
    parts: list[list[tuple[Numbers, int]]] = [[] for _ in runs]
    for member in members:
        parts[part_of[member[0][variable]]].append(member)
    return list(parts)


def _parts_by_rest(members: _Members, variables: Sequence[int]) -> list[_Members]:
    """
    Members that are no full combination: values that have the same combinations of the
    other numbers go together, by the variable that gives the fewest parts.
    """
    best: list[_Members] | None = None
    for variable in variables:
        rest = [each for each in variables if each != variable]
        under: dict[int, list[tuple[Numbers, int]]] = {}
        for member in members:
            under.setdefault(member[0][variable], []).append(member)
        alike: dict[frozenset[Numbers], list[tuple[Numbers, int]]] = {}
        for part in under.values():
            key = frozenset(tuple(numbers[each] for each in rest) for numbers, _ in part)
            alike.setdefault(key, []).extend(part)
        if len(alike) > 1 and (best is None or len(alike) < len(best)):
            best = list(alike.values())
    if best is None:  # the target holds a name twice
        return [[member] for member in members]
    return best


# --------------------------------------------------------------------- boxes to text


def _row(form: _Form, box: _Box) -> PatternRow:
    spelling = _Spelling(form, box)
    target = spelling.name(form.texts, None)
    pieces = []
    for piece in form.pieces:
        name = spelling.name(piece.texts, piece.bracket)
        pieces.append(PatternPiece(name, spelling.steps(piece.steps)))
    return PatternRow(
        target, tuple(pieces), spelling.steps(form.steps), prod(box.sizes), form.label, form.reason
    )


class _Spelling:
    """Takes a box's numbers one after the other and puts them into words."""

    def __init__(self, form: _Form, box: _Box) -> None:
        self._numbers = iter(box.numbers)
        self._are_named = _need_names(form, box)
        self._introduced: dict[int, Numbers] = {}

    def name(self, texts: Sequence[str], bracket: tuple[int, Numbers] | None) -> str:
        place, joined = bracket or (-1, ())
        shown = [_escaped(texts[0])]
        for at, text in enumerate(texts[1:]):
            shown.append(f"[{_values_text(joined)}]" if at == place else self._number())
            shown.append(_escaped(text))
        return "".join(shown)

    def steps(self, steps: Sequence[StepForm]) -> str:
        shown = []
        for op, own in steps:
            numbers = [self._number(is_short=True) for _ in range(own)] if isinstance(own, int) else own
            args = ", ".join(map(str, numbers))
            shown.append(f"{op}({args})" if args else op)
        return " | ".join(shown)

    def _number(self, *, is_short: bool = False) -> str:
        number = next(self._numbers)
        if isinstance(number, int):
            return str(number)
        if not self._are_named:
            return f"{{{_values_text(number.values)}}}"
        letter = _LETTERS[number.variable]
        if is_short and self._introduced.get(number.variable) == number.values:
            return f"{{{letter}}}"
        self._introduced.setdefault(number.variable, number.values)
        return f"{{{letter}:{_values_text(number.values)}}}"


def _need_names(form: _Form, box: _Box) -> bool:
    """Would braces without names leave open which of them go together?"""
    places = iter(box.numbers)

    def variables(count: int) -> list[int]:
        taken = [next(places) for _ in range(count)]
        return [number.variable for number in taken if isinstance(number, _Driven)]

    everything = list(range(len(box.sizes)))
    if variables(form.own) != everything:
        return True
    for piece in form.pieces:
        held = variables(len(piece.texts) - 1 - (piece.bracket is not None))
        if held not in ([], everything):
            return True
        if variables(_varying(piece.steps)) and len(everything) > 1:
            return True
    return bool(variables(_varying(form.steps))) and len(everything) > 1


def _varying(steps: Sequence[StepForm]) -> int:
    return sum(own for _, own in steps if isinstance(own, int))


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def _values_text(values: Sequence[int]) -> str:
    """
    Numbers as braces hold them: ``0..3,5``.

    >>> _values_text([0, 1, 2, 3, 5]), _values_text([8, 4, 0])
    ('0..3,5', '8..0..4')
    """
    runs, at = [], 0
    while at < len(values):
        end = at + 1
        rise = values[end] - values[at] if end < len(values) else 0
        while rise and end < len(values) and values[end] - values[end - 1] == rise:
            end += 1
        if end - at > 2 or (end - at == 2 and abs(rise) == 1):
            step = "" if abs(rise) == 1 else f"..{abs(rise)}"
            runs.append(f"{values[at]}..{values[end - 1]}{step}")
        else:
            end = at + 1
            runs.append(str(values[at]))
        at = end
    return ",".join(runs)


def _put_together(names: Sequence[str]) -> str:
    """
    Names with what they have in common said once.

    >>> _put_together(["h.q.weight", "h.k.weight", "h.v.weight"])
    'h.(q, k, v).weight'
    """
    if len(names) == 1:
        return names[0]
    parts = [_DOT.split(name) for name in dict.fromkeys(names)]
    if len(parts) < len(names):
        return ", ".join(names)
    shortest = min(map(len, parts))
    head = next((i for i in range(shortest) if len({tuple(part[: i + 1]) for part in parts}) > 1), shortest)
    tail = next(
        (i for i in range(shortest - head) if len({tuple(part[len(part) - i - 1 :]) for part in parts}) > 1),
        shortest - head,
    )
    middles = [".".join(part[head : len(part) - tail]) for part in parts]
    if not (head or tail) or not all(middles):
        return ", ".join(names)
    return ".".join(
        filter(None, [*parts[0][:head], f"({', '.join(middles)})", *parts[0][len(parts[0]) - tail :]])
    )


# ---------------------------------------------------------------- rows to assignments


class Brace(NamedTuple):
    """A place in a pattern that takes values in step with a variable."""

    variable: str
    """Its letter, or its number in the row as text where it has none."""
    values: Numbers
    """Empty where they are those that the variable was introduced with."""


class Bracket(NamedTuple):
    """A place in a source whose values are joined."""

    values: Numbers


Part = str | Brace | Bracket


def parse_pattern(text: str) -> tuple[Part, ...]:
    """
    A pattern taken apart: texts, braces and brackets.

    Raises:
        ValueError: A brace or bracket is not closed, or what it holds is no range.
    """
    parts: list[Part] = []
    literal, at, unnamed = "", 0, 0
    while at < len(text):
        char = text[at]
        if char not in "{}[]\\":
            literal += char
            at += 1
            continue
        if char == "\\" and at + 1 < len(text):
            literal += text[at + 1]
            at += 2
            continue
        end = text.find("}" if char == "{" else "]", at)
        if char not in "{[" or end < 0:
            raise ValueError(f"{text!r} has a {char} that nothing goes with; \\{char} stands for itself")
        parts, literal = [*parts, literal], ""
        if char == "[":
            parts.append(Bracket(_values(text[at + 1 : end])))
        else:
            parts.append(_brace(text[at : end + 1], unnamed))
            unnamed += parts[-1].variable.isdigit()  # type: ignore[union-attr]
        at = end + 1
    return (*parts, literal)


def _brace(text: str, unnamed: int) -> Brace:
    match = _BRACE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} holds no range: expected {{0..11}}, {{0..3,5}}, {{i:0..11}} or {{i}}")
    if match["alone"]:
        return Brace(match["alone"], ())
    return Brace(match["name"] or str(unnamed), _values(match["values"]))


def _values(text: str) -> Numbers:
    values: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{text!r} is no range: expected numbers, 0..11 or 0..8..2, joined by commas")
        first, last, step = (None if each is None else int(each) for each in match.groups())
        assert first is not None
        last, step = first if last is None else last, step or 1
        if abs(last - first) // step + len(values) >= _MOST_VALUES:
            raise ValueError(f"{text!r} stands for more than {_MOST_VALUES:,} numbers")
        values.extend(range(first, last + 1, step) if last >= first else range(first, last - 1, -step))
    return tuple(values)


def expand_names(pattern: str) -> tuple[str, ...]:
    """
    The names that a pattern stands for, the first brace's values varying slowest.

    Raises:
        ValueError: It is no pattern.

    >>> expand_names("h.{0..1}.{2,5}")
    ('h.0.2', 'h.0.5', 'h.1.2', 'h.1.5')
    """
    return tuple(assignment.target for assignment in expand(PatternRow(pattern, ())))


class ParsedPiece(NamedTuple):
    """A source of a row taken apart."""

    name: tuple[Part, ...]
    transform: tuple[Part, ...]


class ParsedRow(NamedTuple):
    """A row taken apart: every brace has values, as many as its variable."""

    variables: dict[str, Numbers]
    """The target's, in the order in which they are introduced, and their values there."""
    target: tuple[Part, ...]
    pieces: tuple[ParsedPiece, ...]
    transform: tuple[Part, ...]


def parse_row(row: PatternRow) -> ParsedRow:
    """
    A row taken apart.

    Raises:
        ValueError: Something in it is no pattern, or its ranges don't go together.
    """
    target = parse_pattern(row.target)
    if any(isinstance(part, Bracket) for part in target):
        raise ValueError(f"{row.target!r} has brackets, which join sources; a target takes braces")
    variables = _introduced(row.target, target)
    if prod(map(len, variables.values())) > _MOST_VALUES:
        raise ValueError(f"{row.target!r} stands for more than {_MOST_VALUES:,} tensors")
    pieces = tuple(
        ParsedPiece(
            _filled(parse_pattern(piece.name), variables),
            _filled(_steps_pattern(piece.transform), variables),
        )
        for piece in row.pieces
    )
    return ParsedRow(
        variables, _filled(target, variables), pieces, _filled(_steps_pattern(row.transform), variables)
    )


def expand(row: PatternRow) -> tuple[Assignment, ...]:
    """
    The assignments that a row stands for; the inverse of :func:`rows`.

    Raises:
        ValueError: Something in it is no pattern or no step, or its ranges don't go together.
    """
    variables, target, pieces, transform = parse_row(row)
    found = []
    for places in product(*(range(len(values)) for values in variables.values())):
        at = dict(zip(variables, places))
        joined = [
            Piece(name, _parsed(_at(piece.transform, at)))
            for piece in pieces
            for name in _names_at(piece.name, at)
        ]
        steps = _parsed(_at(transform, at))
        found.append(Assignment(_at(target, at), tuple(joined), steps, row.label, row.reason))
    return tuple(found)


_parsed = lru_cache(maxsize=65536)(parse_steps)


def _steps_pattern(text: str) -> tuple[Part, ...]:
    """Steps with their braces; where there is one variable, its braces need no name."""
    return tuple(
        Brace("0", part.values) if isinstance(part, Brace) and part.variable.isdigit() else part
        for part in parse_pattern(text)
    )


def _introduced(text: str, target: Sequence[Part]) -> dict[str, Numbers]:
    """The target's variables and their values."""
    variables: dict[str, Numbers] = {}
    for part in target:
        if not isinstance(part, Brace):
            continue
        values = variables.setdefault(part.variable, part.values)
        if not values:
            raise ValueError(f"{text!r} uses {{{part.variable}}} before it says its values")
    return variables


def _filled(parts: Sequence[Part], variables: dict[str, Numbers]) -> tuple[Part, ...]:
    """Each brace with values, as many as its variable has."""
    filled = []
    for part in parts:
        if isinstance(part, Brace):
            if part.variable not in variables:
                shown = "" if part.variable.isdigit() else f"{part.variable}:"
                values = f"{{{shown}{_values_text(part.values)}}}"
                raise ValueError(f"nothing in the target goes with {values}")
            own = variables[part.variable]
            values_here = part.values or own
            if len(values_here) != len(own):
                raise ValueError(
                    f"{{{_values_text(values_here)}}} has {len(values_here):,} values, and the target's "
                    f"{{{_values_text(own)}}} has {len(own):,}"
                )
            filled.append(Brace(part.variable, values_here))
        else:
            filled.append(part)  # type: ignore[arg-type]
    return tuple(filled)


def _at(parts: Sequence[Part], places: dict[str, int]) -> str:
    return "".join(
        part if isinstance(part, str) else str(part.values[places[part.variable]])  # type: ignore[union-attr]
        for part in parts
    )


def _names_at(parts: Sequence[Part], places: dict[str, int]) -> list[str]:
    """One name, or as many as the brackets have values."""
    options = [
        [str(value) for value in part.values] if isinstance(part, Bracket) else [_at([part], places)]
        for part in parts
    ]
    return ["".join(each) for each in product(*options)]
