"""One way to make a piece of code repeatable: a seed that is put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block under a seed of its own, and leave torch's global random state as it was.

    :mod:`torch.distributions` draws from the global generator and takes no other. So a function
    of this package that draws something has a ``seed`` argument and draws inside this block: the
    same seed gives the same draw, whatever was drawn before, and nothing outside is disturbed.

    Args:
        seed: any whole number; ``None`` leaves the block to the global random state.
    """
    if seed is None:
        yield
        return
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
