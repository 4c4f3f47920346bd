"""What happened during training: one row per step, one per split and epoch."""

import time
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from vae_tutorial import distributed


class NonFiniteLossError(ArithmeticError):
    """A loss, a gradient or a weight became NaN or infinite; the message says which and when."""


class History:
    """Collects the numbers of a training run.

    Within an epoch they stay on the device: to read one would make a GPU wait for it.

    Args:
        steps_per_epoch: how many batches an epoch has.
        rows: of the epochs that were done before, where training is resumed.
        seconds: that those took.
    """

    def __init__(self, steps_per_epoch: int, rows: list[dict], seconds: float) -> None:
        self.steps, self.rows = steps_per_epoch, rows
        self._start = time.perf_counter() - seconds
        self._sizes: list[int] = []
        self._rates: list[float] = []
        self._values: list[Tensor] = []  # one (1 + number of terms,) per step, on the device
        self._names: list[str] = []

    @property
    def seconds(self) -> float:
        """Since the start, earlier sessions of a resumed run counted in."""
        return time.perf_counter() - self._start

    def step(self, terms: Mapping[str, Tensor], norm: Tensor, rate: float, size: int) -> None:
        """Note one step: the terms' means over its batch, the gradient's norm, the rate.

        Of many processes, each notes means whose average over the processes is the batch's.
        """
        self._names = ["gradient_norm", *terms]
        values = [norm, *terms.values()]
        self._values.append(torch.stack([v.detach().float() for v in values]))
        self._rates.append(rate)
        self._sizes.append(size)

    def end_epoch(self, epoch: int) -> None:
        """Make rows of the steps since the last call, and one of their mean over examples.

        Raises:
            NonFiniteLossError: naming the first bad step and its terms.
        """
        if not self._values:
            raise ValueError("the data gave no batch at all; is the loader empty?")
        # In float64: a mean of 50,000 losses keeps its digits.
        values = distributed.mean(torch.stack(self._values)).cpu().double()
        for i, row in enumerate(values.tolist()):
            named = dict(zip(self._names, row, strict=True))
            self._refuse(named, f"at step {epoch * self.steps + i + 1} (epoch {epoch + 1})")
            self._row("step", "train", epoch, epoch * self.steps + i + 1,
                      {"learning_rate": self._rates[i], **named})  # fmt: skip
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        means = ((values * sizes[:, None]).sum(0) / sizes.sum()).tolist()
        named = dict(zip(self._names[1:], means[1:], strict=True))
        self._row("epoch", "train", epoch, (epoch + 1) * self.steps,
                  {"seconds": self.seconds, **named})  # fmt: skip
        self._values, self._rates, self._sizes = [], [], []

    def held_out(self, terms: Mapping[str, float], epoch: int) -> None:
        """Note the held-out examples' means after an epoch."""
        self._refuse(terms, f"on the held-out examples after epoch {epoch + 1}")
        values = {name: float(value) for name, value in terms.items()}
        self._row("epoch", "held-out", epoch, (epoch + 1) * self.steps,
                  {"seconds": self.seconds, **values})  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """All rows."""
        return pd.DataFrame(self.rows)

    def _row(self, scope: str, split: str, epoch: int, step: int, values: dict) -> None:
        self.rows.append(
            {"scope": scope, "split": split, "epoch": epoch + 1, "step": step, **values}
        )

    def _refuse(self, values: Mapping[str, float], where: str) -> None:
        bad = [f"{k} = {float(v)}" for k, v in values.items() if not abs(float(v)) < float("inf")]
        if bad:
            raise NonFiniteLossError(f"not finite {where}: {', '.join(bad)}. {_ADVICE}")


def check_weights(model: nn.Module, epoch: int) -> None:
    """Raise a :class:`NonFiniteLossError` where a weight is not finite after an epoch.

    The last step's update shows in no loss any more; here it does.
    """
    finite = {name: p.isfinite().all() for name, p in model.named_parameters()}  # no masks of -inf
    if finite and not bool(torch.stack(list(finite.values())).all()):
        bad = next(name for name, fine in finite.items() if not fine)
        raise NonFiniteLossError(f"not finite after epoch {epoch + 1}: the weight {bad}. {_ADVICE}")


_ADVICE = (
    "Do the data lie where the likelihood has a density (images in [0, 1])? Bound the log-variances "
    "(log_variance_bound), lower the learning rate or warm it up (schedules.OneCycle). Clipping "
    "(clip_norm) shortens a long gradient, but not Adam's first steps, which move every parameter by "
    "about the learning rate. Earlier checkpoints are untouched."
)
