"""How an answer is checked: looked up by name, compared, and commented on in one line.

A check is a function of the answer that raises a :class:`Hint` unless it is right. Where the
answer is a number, the check is a table, :class:`Number`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHECKS: dict[str, tuple[Callable, str]] = {}  # the check, and what is said to a right answer


class Hint(Exception):
    """Raised by a check: what is off about an answer, in words for the reader."""


def exercise(name: str, praise: str) -> Callable:
    """Register a check under the exercise's name, with what is said to a right answer."""

    def register(function: Callable) -> Callable:
        CHECKS[name] = function, praise
        return function

    return register


def check(name: str, answer: object) -> bool:
    """Print what is to be said to an answer, and return whether it is right.

    An answer is a number, a tensor or a function. ``...`` or ``None``, where there is none yet, says
    nothing. No answer raises an error, so a notebook with open exercises still runs from top to
    bottom. An exercise that does not exist is a ValueError.
    """
    if name not in CHECKS:
        raise ValueError(f"there is no exercise {name!r}; known are {', '.join(sorted(CHECKS))}")
    if answer is None or answer is ...:
        return False
    function, praise = CHECKS[name]
    try:
        function(answer)
    except Hint as hint:
        print(f"{name}: not yet. {hint}")
    except Exception as error:
        print(f"{name}: your answer could not be used ({type(error).__name__}: {error}).")
    else:
        print(f"{name}: right. {praise}")
        return True
    return False


@dataclass(frozen=True)
class Number:
    """A check of a number that must be right to so many decimals.

    The pairs ``wrong`` are (value that a likely slip leads to, hint); ``hint`` is for all others.
    """

    expected: float
    wrong: tuple[tuple[float, str], ...]
    hint: str
    decimals: int

    def window(self, value: float) -> float:
        """How far from a value an answer may be and still count as it.

        A value is recognized to as many digits as the right one, so to fewer decimals if larger.
        """
        return 0.51 * 10**-self.decimals * max(1.0, abs(value / self.expected))

    def __call__(self, answer) -> None:
        answer = float(answer)
        for value, hint in self.wrong:
            if abs(answer - value) <= self.window(value):
                raise Hint(hint)
        off = abs(answer - self.expected) / self.window(self.expected)
        if 1 < off < 10:
            raise Hint(f"Close: it must be right to {10**-self.decimals}. Round at the end only.")
        if not off <= 1:  # written so that NaN fails it, too
            raise Hint(self.hint)


def number(name: str, expected: float, praise: str, decimals: int = 2) -> Callable:
    """Register a :class:`Number`: what this returns is called with the rows of its table.

    A row is a pair (wrong value, hint); the last one, (..., hint), is for all other values.
    """

    def register(*rows: tuple) -> None:
        exercise(name, praise)(Number(expected, rows[:-1], rows[-1][1], decimals))

    return register


def tensor(answer) -> Tensor:
    """Numbers, arrays and (nested) lists of tensors as one float64 tensor; gradients are kept."""
    if isinstance(answer, (list, tuple)):
        return torch.stack([tensor(part) for part in answer])
    return torch.as_tensor(answer, dtype=torch.float64, device="cpu")


def ask(answer: Callable, *args):
    """What an answer says to tensors; if it cannot take them, to float64 ones, or to arrays.

    A reader may compute in float64 or in NumPy, and both refuse to be mixed with float32 tensors.
    """
    first = None
    for form in (Tensor.float, Tensor.double, Tensor.numpy):
        try:
            return answer(*(form(x) if isinstance(x, Tensor) else x for x in args))
        except (TypeError, RuntimeError, AttributeError) as error:
            first = first or error
    raise first


def randn(seed: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal numbers from a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(answer, expected) -> bool:
    """Whether an answer has the expected shape, and its values up to rounding."""
    a, b = tensor(answer).detach(), tensor(expected).detach()
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def close(answer, expected, hint: str, wrong=()) -> None:
    """Raise a hint unless the answer has the expected shape and is close to it.

    All numbers are in any form that :func:`tensor` takes. ``wrong`` are pairs (value of any shape
    that a likely slip leads to, its hint); ``hint`` is for what is neither right nor there.
    """
    for value, its_hint in wrong:
        if same(answer, value):
            raise Hint(its_hint)
    got, asked = tuple(tensor(answer).shape), tuple(tensor(expected).shape)
    if got != asked:
        raise Hint(f"Expected shape {asked}, got {got}. {hint}")
    if not same(answer, expected):
        raise Hint(hint)
