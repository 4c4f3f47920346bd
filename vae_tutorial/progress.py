"""Progress bars, which the environment can switch off."""

import os

from tqdm.auto import tqdm

from vae_tutorial import distributed


def hidden() -> bool:
    """Whether the environment variable ``TQDM_DISABLE`` asks for silence.

    tqdm itself reads it only where it is not told whether to show a bar. Here the environment has
    the last word, so that stored notebooks hold no half-drawn bars.
    """
    return os.environ.get("TQDM_DISABLE", "") not in ("", "0")


def progress_bar(total: int, shown: bool, *, initial: int = 0) -> tqdm:
    """A bar over steps, to be used as a context.

    Args:
        total: how many steps there are.
        shown: whether a bar is wanted. Of many processes, the first alone draws one.
        initial: steps that were done before.
    """
    return tqdm(
        total=total, initial=initial, disable=not shown or hidden() or distributed.rank() > 0
    )
