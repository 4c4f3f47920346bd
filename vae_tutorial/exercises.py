"""The answers to the exercises, checked with a friendly message.

``check("kl", answer)`` looks an exercise up by its name, compares the answer with an independent
computation, and prints one line: right, not answered yet, or what is off. It raises nothing, so a
notebook with open exercises still runs from top to bottom; it returns whether the answer is right,
which is what the tests look at.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

CHECKS: dict[str, Callable] = {}


class Hint(Exception):
    """Raised by a check: what is off about an answer, in words for the reader."""


def exercise(name: str) -> Callable:
    """Register a check under the exercise's name."""

    def register(function: Callable) -> Callable:
        CHECKS[name] = function
        return function

    return register


def check(name: str, answer: object) -> bool:
    """Check an exercise's answer, print what came of it, and return whether it is right.

    Args:
        name: the exercise, as named in the chapter.
        answer: a number, a tensor or a function, as the exercise asks; ``...`` or ``None`` for
            one that is not answered yet.

    Raises:
        ValueError: for an exercise that does not exist.
    """
    if name not in CHECKS:
        raise ValueError(f"there is no exercise {name!r}; known are {', '.join(sorted(CHECKS))}")
    if answer is None or answer is ...:
        print(f"{name}: not answered yet. Put your answer in place of the three dots.")
        return False
    try:
        praise = CHECKS[name](answer)
    except Hint as hint:
        print(f"{name}: not yet. {hint}")
        return False
    except Exception as error:
        print(f"{name}: your answer could not be used ({type(error).__name__}: {error}).")
        return False
    print(f"{name}: right. {praise or ''}".rstrip())
    return True


def close(answer, expected, hint: str, tolerance: float = 1e-4) -> None:
    """The answer must have the expected shape and be close to it."""
    answer = torch.as_tensor(answer, dtype=torch.float64).detach()
    expected = torch.as_tensor(expected, dtype=torch.float64)
    if answer.shape != expected.shape:
        raise Hint(f"Expected shape {tuple(expected.shape)}, got {tuple(answer.shape)}. {hint}")
    if not torch.allclose(answer, expected, rtol=tolerance, atol=tolerance):
        raise Hint(hint)


def same(answer, expected) -> bool:
    """Whether a tensor equals another up to rounding, without complaint about its shape."""
    answer = torch.as_tensor(answer).detach()
    return answer.shape == expected.shape and torch.allclose(
        answer.double(), expected.double(), rtol=1e-4, atol=1e-4
    )
