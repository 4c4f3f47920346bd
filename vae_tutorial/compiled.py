"""Objectives through ``torch.compile``: one pass over memory where torch would take several.

An objective is many small operations. Carried out one after the other, each reads all its numbers
from memory and writes them back, and Python names the next one. ``torch.compile`` (Ansel et al.
2024) writes one kernel for what can be done together. Compiling takes seconds to a minute, so it
pays for long trainings.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from vae_tutorial.posteriors import MeanFieldGaussian
from vae_tutorial.priors import StandardNormal


def compiled(objective: Callable[..., dict[str, Tensor]], how: bool | str) -> Callable:
    """The objective itself; or :class:`Compiled`, where ``how`` is true or a mode."""
    if how is False:
        return objective
    return Compiled(objective, how if isinstance(how, str) else None)


class Compiled:
    """An objective that is compiled for batches as large as its first one.

    A batch of another size, the last of an epoch for example, is computed as it always was: to
    compile for it would cost more than it brings. Scheduled arguments become tensors, since the
    compiler would take a new number for a new program.

    Where there is no compiler (on a CPU it needs one for C++), a warning says so, and everything is
    computed as it always was. The draws of a compiled objective come from the same seed, but they
    are other draws, and sums are taken in another order.

    Args:
        objective: see :mod:`vae_tutorial.objectives`.
        mode: of ``torch.compile``; ``None`` for its default.
    """

    def __init__(
        self, objective: Callable[..., dict[str, Tensor]], mode: str | None = None
    ) -> None:
        # What was compiled before, for other models, counts against the number of programs that one
        # function may have, beyond which it is not compiled any more.
        torch.compiler.reset()
        self.objective, self.size, self.works = objective, None, None
        self.compiled = torch.compile(objective, dynamic=False, mode=mode)

    def __call__(self, model, *batch: Tensor, **scheduled: float) -> dict[str, Tensor]:
        """The objective's terms of a batch."""
        self.size = self.size or len(batch[0])
        if self.works is False or len(batch[0]) != self.size:
            return self.objective(model, *batch, **scheduled)
        numbers = {  # filled in where they are needed: a copy would make a GPU wait
            name: torch.full((), value, device=batch[0].device)
            if isinstance(value, float)
            else value
            for name, value in scheduled.items()
        }
        if self.works:
            return self.compiled(model, *batch, **numbers)
        return self._try(model, *batch, plain=scheduled, **numbers)

    def _try(self, model, *batch: Tensor, plain: dict, **numbers) -> dict[str, Tensor]:
        """The first batch. If the objective can do without the compiler, the fault is the latter's."""
        _remember_formulas()
        try:
            terms = self.compiled(model, *batch, **numbers)
        except Exception as error:
            terms = self.objective(model, *batch, **plain)
            self.works = False
            warnings.warn(
                f"torch.compile failed, so training goes on without it: {_first_line(error)}",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            self.works = True
        return terms


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _remember_formulas() -> None:
    """Let torch look up the KL term of the usual posterior and prior.

    It searches its formulas once for each pair of types, in a way that the compiler cannot follow,
    and remembers what it found, which the compiler can.
    """
    kl_divergence(MeanFieldGaussian(1)(torch.zeros(1, 2)), StandardNormal(1)())
