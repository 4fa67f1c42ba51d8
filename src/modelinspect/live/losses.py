"""
The number that is differentiated: a function of the output and, where there is one, the target.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from modelinspect.errors import DefinitionError, ModelInspectError, UsageError, visible
from modelinspect.live.locate import user_object
from modelinspect.live.probes import tensors_in
from modelinspect.live.user_errors import raised
from modelinspect.targets import did_you_mean

__all__ = ["Loss", "checked"]

_OWN = ("sum", "mean", "probe", "model")
Function = Callable[[Any, Any], Tensor]


def checked(value: Any, name: str) -> Tensor:
    """
    What a loss returned, as a tensor without axes.

    Raises:
        DefinitionError: It is no single real number.
    """
    name = visible(name)
    if not isinstance(value, Tensor):
        raise DefinitionError(f"the loss {name} is a {type(value).__name__}, not a tensor")
    if value.numel() != 1:
        raise DefinitionError(
            f"the loss {name} has {value.numel():,} values, and one is differentiated",
            details=(f"its shape: {list(value.shape)}",),
            hint="reduce it, for example by .mean()",
        )
    if value.is_complex():
        raise DefinitionError(f"the loss {name} is complex, and a real number is differentiated")
    return value.reshape(())


class Loss:
    """
    A loss by its name, or the one that suits the output and the target.

    Left to itself, it is the model's own where the model returns one; with a target of
    integers ``cross_entropy``, with any other ``mse_loss``; without a target ``probe``:
    the sum, over the floating-point tensors in the output, of their mean squared distance
    to ``torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))``. Unlike
    a plain sum it sees what a softmax or a LayerNorm at the end puts out.

    Args:
        name: ``mse``, ``cross_entropy`` … (``torch.nn.functional.NAME`` or ``NAME_loss``),
            ``sum``, ``mean``, ``probe``, ``model``, ``file.py:fn``; None: see above.
        seed: Of the probe's targets.

    Raises:
        UsageError: There is no such loss.
    """

    def __init__(self, name: str | None, *, seed: int) -> None:
        self._seed = seed
        self._function: Function | None = None
        self.described = name or ""
        self.notes: tuple[str, ...] = ()
        self.sample: tuple[int, int] | None = None
        """Which sample of a batch of how many the next output is of; None: the whole batch."""
        if name is not None:
            self.described, self._function = self._named(name)

    def __call__(self, output: Any, target: Any) -> Tensor:
        """
        The loss of an output.

        Raises:
            DefinitionError: It can't be computed, is no single number, or depends on no parameter.
        """
        if self._function is None:
            # Outputs that come one by one are looked at twice: to choose, and to compute.
            output = list(output) if isinstance(output, Iterator) else output
            self.described, self._function = self._suited(output, target)
        try:
            value: Any = self._function(output, target)
        except (ModelInspectError, KeyboardInterrupt):
            raise
        except BaseException as error:
            failure = raised(f"the loss {visible(self.described)} failed", error)
            failure.details = (f"output: {_shown(output)}; target: {_shown(target)}", *failure.details)
            failure.hint = failure.hint or "--loss names another one"
            raise failure from error
        return checked(value, self.described)

    # ------------------------------------------------------------------ by name

    def _named(self, name: str) -> tuple[str, Function]:
        if name in _OWN:
            return name, self._own(name)
        if ":" in name or name.endswith(".py"):
            return name, _users_function(name)
        for spelt in (_SHORT.get(name, name), f"{name}_loss"):
            function = getattr(functional, spelt, None)
            if callable(function) and _takes_a_target(function):
                return spelt, _with_target(function)
        known = [*_OWN, *_known_losses()]
        raise UsageError(
            f"there is no loss {visible(name)!r}",
            details=(f"losses: {', '.join(known)}, file.py:fn",),
            hint=did_you_mean(name.removesuffix("Loss"), [*known, *_torchs_losses()]),
        )

    def _own(self, name: str) -> Function:
        if name == "model":
            return lambda output, _: _models_own(output)
        if name == "probe":
            return lambda output, _: self._probe(output)
        reduce = torch.sum if name == "sum" else torch.mean
        return lambda output, _: _added(reduce(_real(tensor)) for tensor in _floats(output))

    def _probe(self, output: Any) -> Tensor:
        return _added(self._distance(_real(tensor)) for tensor in _floats(output))

    def _distance(self, tensor: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed)
        shape = tuple(tensor.shape)
        if self.sample is not None and shape[:1] == (1,):
            number, size = self.sample
            target = torch.randn((size, *shape[1:]), generator=generator)[number : number + 1]
        else:
            target = torch.randn(shape, generator=generator)
        return functional.mse_loss(tensor, target.to(tensor.device, tensor.dtype))

    # -------------------------------------------------------------- what is suited

    def _suited(self, output: Any, target: Any) -> tuple[str, Function]:
        if _own_loss(output) is not None:
            return "the model's own loss", self._own("model")
        if target is None:
            return "probe (mean squared distance to a random target)", self._own("probe")
        if _is_of_classes(output, target):
            return "cross_entropy", _with_target(functional.cross_entropy)
        return "mse_loss", _with_target(functional.mse_loss)


def _is_of_classes(output: Any, target: Any) -> bool:
    """Integers that are not as many as the numbers put out: those may well be whole by chance."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
        return False
    return target.numel() != _the_output(output).numel()


_SHORT = {"bce": "binary_cross_entropy", "bce_with_logits": "binary_cross_entropy_with_logits"}


def _known_losses() -> list[str]:
    """As they can be spelt, the shorter of two ways."""
    short = {spelt: name for name, spelt in _SHORT.items()}
    return sorted(short.get(name, name.removesuffix("_loss")) for name in _torchs_losses())


def _torchs_losses() -> list[str]:
    names = (name for name in vars(functional) if not name.startswith("_"))
    return [name for name in names if _takes_a_target(getattr(functional, name))]


def _takes_a_target(function: Any) -> bool:
    """A loss of two tensors, and no third: what came out, and what should have."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    return required == ["input", "target"]


def _with_target(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def loss(output: Any, target: Any) -> Tensor:
        if target is None:
            raise UsageError(
                f"the loss {function.__name__} needs a target, and there is none",
                hint="--data FILE brings one (--y says which); --loss sum, mean and probe need none",
            )
        if not isinstance(target, Tensor):
            raise UsageError(
                f"the loss {function.__name__} takes one tensor as the target, and here it is "
                f"{_shown(target)}",
                hint="--y chooses one, or --loss file.py:fn is a function of yours that takes it as it is",
            )
        return function(*_fitted(_the_output(output), target, function))

    return loss


def _fitted(output: Tensor, target: Tensor, function: Any) -> tuple[Tensor, Tensor]:
    """
    Output and target in shapes that go together; nothing is broadcast in silence.

    Raises:
        UsageError: They don't, and no rearrangement of the same elements does.
    """
    if function in _OF_CLASS_NUMBERS:
        return output, target if target.is_floating_point() else target.long()
    if function in (functional.cross_entropy, functional.nll_loss) and not target.is_floating_point():
        return _with_classes(output, target)
    if output.shape == target.shape:
        return output, target.to(output.dtype) if not target.is_floating_point() else target
    # (n, 1) beside (n,) would be broadcast to (n, n).
    if output.numel() == target.numel():
        return output, target.reshape(output.shape).to(output.dtype)
    if function in _OF_OTHER_SHAPES:
        return output, target
    raise _dont_fit(output, target)


_OF_OTHER_SHAPES = (functional.cross_entropy, functional.nll_loss)
_OF_CLASS_NUMBERS = (functional.multi_margin_loss, functional.multilabel_margin_loss)


def _with_classes(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    target = target.long()
    if target.ndim == output.ndim and target.shape[-1:] == (1,):
        target = target.squeeze(-1)
    if output.ndim == 1 and target.ndim == 0:  # one sample without the axis of a batch
        return output, target
    if output.ndim == target.ndim + 1:
        if output.shape[0:1] + output.shape[2:] == target.shape:
            return output, target
        if output.shape[:-1] == target.shape:  # classes last, as language models put them out
            return output.flatten(0, -2), target.flatten()
    raise _dont_fit(output, target)


def _dont_fit(output: Tensor, target: Tensor) -> UsageError:
    return UsageError(
        "the output and the target don't fit together",
        details=(f"output: {_shown(output)}", f"target: {_shown(target)}"),
        hint="--y names the target, --loss another loss, or file.py:fn a function of yours",
    )


def _users_function(name: str) -> Function:
    function: Any = user_object(name, "--loss")
    if not callable(function):
        raise UsageError(f"--loss {visible(name)} names no function", hint="spelt file.py:NAME")
    try:
        takes = len(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        takes = 2
    return (lambda output, _: function(output)) if takes == 1 else function


# -------------------------------------------------------------------- the output


def _own_loss(output: Any) -> Tensor | None:
    """The loss that a model returns: alone, as ``.loss`` or under ``"loss"``."""
    if isinstance(output, Tensor):
        return output if output.ndim == 0 and output.is_floating_point() else None
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return found if isinstance(found, Tensor) and found.numel() == 1 else None


def _models_own(output: Any) -> Tensor:
    loss = _own_loss(output)
    if loss is None and isinstance(output, (tuple, list)) and output:
        loss = _own_loss(output[0])
    if loss is None:
        raise UsageError(
            f"the model returns no loss, but {_shown(output)}",
            details=("looked for: a single number, .loss, ['loss'], the first of a tuple",),
            hint="give the model its labels: --input labels=…, or name another --loss",
        )
    return loss


def _the_output(output: Any) -> Tensor:
    """The one tensor that a target is compared with."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "prediction", "predictions", "last_hidden_state"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    return _floats(output)[0]


def _floats(output: Any) -> list[Tensor]:
    """Every tensor in the output that a gradient can flow through."""
    found = list(tensors_in(list(output) if isinstance(output, Iterator) else output))
    if not found:
        raise DefinitionError(
            f"the model puts out {_shown(output)}, which no gradient flows through",
            hint="--loss file.py:fn is a function of yours",
        )
    return found


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _added(values: Iterator[Tensor]) -> Tensor:
    first, *more = values
    total = first
    for value in more:
        total = total + value.to(first.device)
    return total


def _shown(thing: Any) -> str:
    if isinstance(thing, Tensor):
        return f"{str(thing.dtype).removeprefix('torch.')}{list(thing.shape)}"
    if thing is None:
        return "nothing"
    if isinstance(thing, (tuple, list)):
        return f"a {type(thing).__name__} of {', '.join(map(_shown, thing[:4])) or 'nothing'}"
    return f"a {visible(type(thing).__name__)}"
