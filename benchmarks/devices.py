"""The same bound with one thread, with all cores, on a GPU: how many seconds?

    python benchmarks/devices.py [--json benchmarks/results.json]

The recipe for 140 nats of `time_to_elbo.py`, trained from the start over seeds, by the clock on the
wall. Every row trains the same network on the same images in the same order for as many steps; what
differs is where it is computed. The first row is the yardstick, and all rows are of one process.
Where a GPU is, it is used in three ways: as it comes, compiled, and with its kernels recorded as a
CUDA graph.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from measuring import describe, machine, parser, store
from time_to_elbo import RECIPES, Recipe, negative_elbo
from torch import Tensor

from vae_tutorial import data


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ways() -> dict[str, tuple[int, dict]]:
    """Title to threads, and what `Recipe.train` is told; those that this machine has."""
    cores = os.cpu_count() or 1
    found: dict[str, tuple[int, dict]] = {"one thread": (1, {})}
    if cores > 1:
        found[f"{cores} threads"] = (cores, {})
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        graphs = {"device": "cuda", "compile": "reduce-overhead"}
        found[name] = (1, {"device": "cuda"})
        found[f"{name}, compiled"] = (1, {"device": "cuda", "compile": True})
        found[f"{name}, CUDA graphs"] = (1, graphs)
    return found


def train(recipe: Recipe, images: Tensor, test: Tensor, how: dict, seeds: int) -> dict:
    """Seconds on the wall, and what is reached on test images, of each seed."""
    found: dict = {"seconds": [], "test_negative_elbo": []}
    recipe.train(
        images[:2048], 0, **how
    )  # wakes the device, fills the compiler's cache on the disk
    for seed in range(seeds):
        begin = time.perf_counter()
        vae = recipe.train(images, seed, **how)
        # A GPU is still at work when Python is done; to read a number waits for it.
        float(next(vae.parameters()).detach().sum())
        found["seconds"].append(time.perf_counter() - begin)
        found["test_negative_elbo"].append(negative_elbo(vae, test))
    return found


def main(arguments: list[str] | None = None) -> dict:
    """Train in all ways that there are; return and store what was found."""
    options_of = parser(__doc__)
    options_of.add_argument("--seeds", type=int, default=3)
    options = options_of.parse_args(arguments)
    if options.clock != "wall" or options.threads:
        raise ValueError("this benchmark counts seconds on the wall, and chooses its own threads")
    print(describe(machine("wall")))
    mnist, recipe = data.load("mnist"), RECIPES["140"]
    images, test = mnist.train.images, mnist.test.images
    if options.quick:
        recipe, options.seeds = recipe.shortened(640), 1
        images, test = images[:640], test[:200]
    result: dict = {"recipe": recipe.describe(), "target": recipe.nats, "rows": {}}
    for title, (number, how) in ways().items():
        with threads(number):
            found = train(recipe, images, test, how, options.seeds)
        seconds = statistics.median(found["seconds"])
        first = result["rows"].get("one thread", {"median_seconds": seconds})
        found |= {
            "median_seconds": seconds,
            "times_sooner": first["median_seconds"] / seconds,
            "reached": sum(value <= recipe.nats for value in found["test_negative_elbo"]),
        }
        result["rows"][title] = found
        print(f"{title}: {seconds:.1f} s, {found['times_sooner']:.2f} times as soon", flush=True)
    store(options.json, "devices", result, options.clock)
    return result


if __name__ == "__main__":
    main()
