"""
A plan as Python that people paste: one function, which needs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from modelinspect.errors import visible
from modelinspect.transplant.patterns import (
    Brace,
    Bracket,
    Numbers,
    ParsedPiece,
    ParsedRow,
    Part,
    PatternRow,
    parse_row,
    rows,
)
from modelinspect.transplant.plan import Plan
from modelinspect.transplant.transforms import JOINS, parse_steps

__all__ = ["emit_python"]

_JOIN = '''\
def _joined(parts, axis, groups=1):
    """The parts one behind the other along an axis, group by group."""
    shapes = [tuple(part.shape) for part in parts]
    lead, rest = shapes[0][:axis], shapes[0][axis + 1 :]
    parts = [part.reshape(lead + (groups, s[axis] // groups) + rest) for part, s in zip(parts, shapes)]
    widths = [part.shape[axis + 1] for part in parts]
    out = _empty(parts[0], lead + (groups, sum(widths)) + rest)
    start = 0
    for part, width in zip(parts, widths):
        out[(slice(None),) * (axis + 1) + (slice(start, start + width),)] = part
        start += width
    return out.reshape(lead + (groups * start,) + rest)
'''
_STACK = '''\
def _stacked(parts, axis):
    """The parts side by side along a new axis."""
    return _joined([part.reshape(part.shape[:axis] + (1,) + part.shape[axis:]) for part in parts], axis)
'''
_TAKE = '''\
def _taken(tensor, axis, start, stop, groups):
    """A range of each group of an axis."""
    lead, length, rest = tuple(tensor.shape[:axis]), tensor.shape[axis], tuple(tensor.shape[axis + 1 :])
    split = tensor.reshape(lead + (groups, length // groups) + rest)
    part = split[(slice(None),) * (axis + 1) + (slice(start, stop),)]
    return part.reshape(lead + (groups * (stop - start),) + rest)
'''
_SWAP = '''\
def _swapped(tensor, axis, outer, a, b):
    """An axis seen as (outer, a, b, rest) becomes (outer, b, a, rest)."""
    lead, length, rest = tuple(tensor.shape[:axis]), tensor.shape[axis], tuple(tensor.shape[axis + 1 :])
    split = tensor.reshape(lead + (outer, a, b, length // (outer * a * b)) + rest)
    return split.swapaxes(axis + 1, axis + 2).reshape(lead + (length,) + rest)
'''
_PERMUTE = '''\
def _permuted(tensor, *axes):
    """The axes in another order."""
    return tensor.permute(*axes) if hasattr(tensor, "permute") else tensor.transpose(axes)
'''
_REORDER = '''\
def _reordered(tensor, axis, *order):
    """Equal parts of an axis in another order."""
    length = tensor.shape[axis] // len(order)
    return _joined([_taken(tensor, axis, at * length, (at + 1) * length, 1) for at in order], axis)
'''
_FLIP = '''\
def _flipped(tensor, axis):
    """An axis turned round."""
    return _reordered(tensor, axis, *range(tensor.shape[axis] - 1, -1, -1))
'''
_PAD = '''\
def _padded(tensor, axis, count):
    """Zeros at the end of an axis."""
    shape = tuple(tensor.shape)
    return _joined([tensor, _zeros(tensor, *shape[:axis], count, *shape[axis + 1 :])], axis)
'''
_ZEROS = """\
def _zeros(like, *shape):
    out = _empty(like, shape)
    out[...] = 0
    return out
"""
_EMPTY = '''\
def _empty(like, shape):
    """Room for a tensor of torch or an array of numpy, whichever the other one is."""
    if hasattr(like, "new_empty"):
        return like.new_empty(shape)
    return type(like)(shape, like.dtype)
'''

_HELPERS = {
    "_flipped": (_FLIP, ("_reordered",)),
    "_reordered": (_REORDER, ("_taken", "_joined")),
    "_padded": (_PAD, ("_joined", "_zeros")),
    "_stacked": (_STACK, ("_joined",)),
    "_joined": (_JOIN, ("_empty",)),
    "_taken": (_TAKE, ()),
    "_swapped": (_SWAP, ()),
    "_permuted": (_PERMUTE, ()),
    "_zeros": (_ZEROS, ("_empty",)),
    "_empty": (_EMPTY, ()),
}
"""Helper to its text and to what it calls; callers before what they call."""
_CALLS = {
    "permute": "_permuted",
    "take": "_taken",
    "reorder": "_reordered",
    "swap": "_swapped",
    "flip": "_flipped",
    "pad": "_padded",
}
_LETTERS = "ijklmnopqrst"
_JOINED = "number"
"""Variable of the tensors that are joined."""
_ANY = "next(iter(state_dict.values()))"
_STAND_INS = 10**12
"""Above every number of a pattern: stands for a brace while steps are parsed."""
_WIDEST = 100
_BREAK, _GAP = "\0", "\1"
"""Where a long line may be broken, and what is a blank where it is not; names have neither."""


def emit_python(plan: Plan) -> str:
    """
    A module's text with one function, ``convert(state_dict)``, that does what a plan says.

    It imports nothing, works on tensors of torch and arrays of numpy alike, and has loops
    where the plan's rows have ranges.

    Args:
        plan: Any; what it doesn't fill, the function leaves out.
    """
    emitter = _Emitter()
    body = list(emitter.lines([_Loop(row, parse_row(row)) for row in rows(plan)], 0))
    head = (
        f'"""{_in_quotes(plan.source.source)} to {_in_quotes(plan.target.source)}: '
        'the state_dict of one as that of the other."""'
    )
    function = [
        "def convert(state_dict):",
        '    """The tensors by their new names; memory is shared with those given where it can be."""',
        "    new = {}",
        *(f"    {line}" for line in body),
        "    return new",
    ]
    helpers = [text.rstrip("\n") for name, (text, _) in _HELPERS.items() if name in emitter.called]
    return "\n\n\n".join([head, "\n".join(function), *helpers]) + "\n"


class _Loop(NamedTuple):
    row: PatternRow
    parsed: ParsedRow

    def values(self, depth: int) -> Numbers:
        """What the loop of that depth runs over; empty where the row has none."""
        ranges = list(self.parsed.variables.values())
        return ranges[depth] if depth < len(ranges) else ()


class _Emitter:
    """Puts rows into lines and remembers which helpers they call."""

    def __init__(self) -> None:
        self.called: set[str] = set()

    def lines(self, loops: Sequence[_Loop], depth: int) -> Iterator[str]:
        for values, inside in groupby(loops, key=lambda loop: loop.values(depth)):
            if values:
                yield f"for {_LETTERS[depth]} in {_range(values)}:"
                yield from (f"    {line}" for line in self.lines(list(inside), depth + 1))
            else:
                for loop in inside:
                    yield from self._row(loop)

    def _row(self, loop: _Loop) -> Iterator[str]:
        row, (variables, target, pieces, transform) = loop
        letters = {name: (_LETTERS[at], values) for at, (name, values) in enumerate(variables.items())}
        like = next((_subscript(_first_of(piece.name), letters) for piece in pieces if any(piece.name)), _ANY)
        made = [
            self._stepped(_subscript(piece.name, letters), _steps(piece.transform, letters), like)
            for piece in pieces
        ]
        steps = _steps(transform, letters)
        if steps and steps[0][0] in JOINS:
            value, steps = self._joined(made, pieces, steps[0]), steps[1:]
        else:
            (value,) = made
        value = self._stepped(value, steps, like)
        remark = f"  # {row.label}" if row.label in ("likely", "ambiguous") else ""
        yield from _fitted(f"new[{_text(target, letters)}] = {value}{remark}")

    def _joined(self, made: Sequence[str], pieces: Sequence[ParsedPiece], join: _Step) -> str:
        op, args = join
        items = []
        for value, piece in zip(made, pieces):
            bracket = next((part for part in piece.name if isinstance(part, Bracket)), None)
            loop = "" if bracket is None else f"{value} for {_JOINED} in {_range(bracket.values)}"
            items.append(value if bracket is None else loop if len(made) == 1 else f"*({loop})")
        if op == "cat" and args[1] == "1":
            args = args[:1]
        listed = f"[{_BREAK}{f',{_GAP}'.join(items)}{_BREAK}]"
        return self._call("_joined" if op == "cat" else "_stacked", listed, *args)

    def _stepped(self, value: str, steps: Sequence[_Step], like: str) -> str:
        for op, args in steps:
            value = self._step(value, op, args, like)
        return value

    def _step(self, value: str, op: str, args: Sequence[str], like: str) -> str:
        match op:
            case "transpose":
                return f"{value}.swapaxes(0, 1)"
            case "reshape":
                return f"{value}.reshape({', '.join(args) or '()'})"
            case "index":
                return f"{value}[{':, ' * int(args[0])}{args[1]}]"
            case "take" if args[3] == "1":
                return f"{value}[{':, ' * int(args[0])}{'' if args[1] == '0' else args[1]}:{args[2]}]"
            case "add":
                return f"({value} {'-' if args[0][0] == '-' else '+'} {args[0].lstrip('-')})"
            case "zeros":
                return self._call("_zeros", like, *args)
        return self._call(_CALLS[op], value, *args)

    def _call(self, helper: str, *args: str) -> str:
        pending = [helper]
        while pending:
            name = pending.pop()
            if name not in self.called:
                self.called.add(name)
                pending.extend(_HELPERS[name][1])
        return f"{helper}({', '.join(args)})"


_Step = tuple[str, tuple[str, ...]]
_Letters = Mapping[str, tuple[str, Numbers]]
"""Variable of a row to the name of its loop's variable, and the values of that."""


def _steps(parts: Sequence[Part], letters: _Letters) -> list[_Step]:
    """Operations and their arguments as Python."""
    braces = [part for part in parts if isinstance(part, Brace)]
    numbered = iter(range(_STAND_INS, _STAND_INS + len(braces)))
    text = "".join(str(next(numbered)) if isinstance(part, Brace) else str(part) for part in parts)
    return [
        (
            step.op,
            tuple(
                _expression(braces[arg - _STAND_INS], letters) if arg >= _STAND_INS else str(arg)
                for arg in step.args
            ),
        )
        for step in parse_steps(text)
    ]


def _first_of(name: Sequence[Part]) -> list[Part]:
    """The name of the first of several tensors that are joined."""
    return [str(part.values[0]) if isinstance(part, Bracket) else part for part in name]


def _subscript(name: Sequence[Part], letters: _Letters) -> str:
    return f"state_dict[{_text(name, letters)}]"


def _text(parts: Sequence[Part], letters: _Letters) -> str:
    """A name as a string, formatted where it has numbers."""
    if all(isinstance(part, str) for part in parts):
        return f'"{_in_quotes("".join(map(str, parts)))}"'
    shown = [
        _in_quotes(part).replace("{", "{{").replace("}", "}}")
        if isinstance(part, str)
        else "{" + (_JOINED if isinstance(part, Bracket) else _expression(part, letters)) + "}"
        for part in parts
    ]
    return f'f"{"".join(shown)}"'


def _in_quotes(text: str) -> str:
    return visible(text.replace("\\", "\\\\").replace('"', '\\"'))


def _expression(brace: Brace, letters: _Letters) -> str:
    """A brace's number, by the variable of the loop."""
    letter, values = letters[brace.variable]
    own = brace.values
    offset, rise, step = own[0] - values[0], *(len(each) > 1 and each[1] - each[0] for each in (own, values))
    if all(b - a == offset for a, b in zip(values, own)):
        return letter if offset == 0 else f"{letter} {'+' if offset > 0 else '-'} {abs(offset)}"
    if not (_is_even(own) and _is_even(values) and step):
        return f"{dict(zip(values, own))}[{letter}]"
    if rise % step == 0:
        slope = rise // step
        return _line(letter, slope, own[0] - slope * values[0])
    moved = letter if values[0] == 0 else f"({_line(letter, 1, -values[0])})"
    return (
        _line(f"{moved} // {step}", rise, own[0]) if rise == 1 else f"{moved} // {step} * {rise} + {own[0]}"
    )


def _line(letter: str, slope: int, start: int) -> str:
    """``2 * i + 1``, ``11 - i``."""
    if slope < 0:
        return f"{start} - {letter if slope == -1 else f'{-slope} * {letter}'}"
    scaled = letter if slope == 1 else f"{slope} * {letter}"
    return scaled if start == 0 else f"{scaled} {'+' if start > 0 else '-'} {abs(start)}"


def _range(values: Numbers) -> str:
    if len(values) < 2 or not _is_even(values) or values[0] == values[1]:
        return f"({', '.join(map(str, values))}{',' * (len(values) == 1)})"
    step = values[1] - values[0]
    end = values[-1] + (1 if step > 0 else -1)
    if step != 1:
        return f"range({values[0]}, {end}, {step})"
    return f"range({values[0]}, {end})" if values[0] else f"range({end})"


def _is_even(values: Numbers) -> bool:
    return len({b - a for a, b in pairwise(values)}) <= 1


def _fitted(line: str) -> Iterator[str]:
    """A statement on a line, or what is joined in it a line each where that is too long."""
    text, mark, remark = line.partition("  # ")
    short = text.replace(_BREAK, "").replace(_GAP, " ")
    if len(short) <= _WIDEST or _BREAK not in text:
        yield f"{short}{mark}{remark}"
        return
    first, inside, last = text.split(_BREAK)
    yield f"{first}{mark}{remark}"
    items = inside.split(_GAP)
    comma = "" if len(items) == 1 else ","  # one item is a comprehension
    yield from (f"    {item.rstrip(',')}{comma}" for item in items)
    yield last
