"""log p(x) of whole test sets, by thousands of draws per image: measured once, stored with the run.

    python -m vae_tutorial.measure mnist/iwae-50

shows what is stored; ``--again`` measures anew (``--images 1000`` a thousand alone, evenly spread, in
a tenth of the time).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vae_tutorial import data as datasets
from vae_tutorial.checkpoint import write_atomically
from vae_tutorial.data import Dataset
from vae_tutorial.evaluate import Estimate, log_weights, per_example
from vae_tutorial.runs import Run, load_run, runs_folder

FILE = "likelihood.json"
SAMPLES = 5000
_BLOCKS = 100  # of images, every hundredth one each; the mean of each is stored


@dataclass(frozen=True)
class Measured:
    """Importance-weighted bounds on log p(x) of a test set, as means over blocks of its images.

    ``bounds[S][i]`` is L_S in nats per image (Burda et al. 2015, equation 8), the mean over images i,
    i + 100, i + 200, ... So each of a hundred blocks is spread over the whole set: test sets are
    often in some order (MNIST's first half is easier), and blocks of neighbours would differ by it.
    Their spread gives standard errors, and the same block of two models compares them on the same
    images.
    """

    run: str
    weights_sha256: str
    data: dict
    seed: int
    images: int
    bounds: dict[int, list[float]]

    def nats(self, samples: int | None = None) -> Estimate:
        """The mean of -L_S over all images: smaller is better. By default for the largest S."""
        return _estimate(-self._blocks(samples))

    def minus(self, other: Measured, samples: int | None = None) -> Estimate:
        """By how many nats per image this model needs more than the other, image by image."""
        if self.data != other.data or self.images != other.images:
            raise ValueError(
                f"{self.run} and {other.run} were measured on different images: "
                f"{self.images} of {self.data['name']}, {other.images} of {other.data['name']}"
            )
        return _estimate(other._blocks(samples) - self._blocks(samples))

    def _blocks(self, samples: int | None) -> np.ndarray:
        samples = max(self.bounds) if samples is None else samples
        if samples not in self.bounds:
            raise ValueError(f"bounds were stored for S in {sorted(self.bounds)}, not {samples}")
        return np.asarray(self.bounds[samples])


def measured(
    run: Run, data: Dataset, *, samples: int = SAMPLES, images: int | None = None, seed: int = 0,
    again: bool = False, root: str | Path | None = None,
) -> Measured:  # fmt: skip
    """The stored measurement of a run's weights on ``data.test``; measured and stored if there is none.

    Args:
        run: with its weights; a VAE or a hierarchy whose likelihood fits the test images.
        data: binary images for a Bernoulli likelihood (:func:`~vae_tutorial.data.binarized`).
        samples: S of the tightest bound, a multiple of 50; S = 1 and S = 50 come from the same draws.
        images: only so many, evenly spread over the set, best a multiple of 100; by default all.
        seed: of the draws.
        again: measure although there is a fitting file, and store nothing.
        root: where runs live; by default ``artifacts/`` in the checkout.
    """
    x = data.test.images
    if images is not None:
        x = x[:: max(len(x) // images, 1)][:images]
    about = {
        "run": run.name,
        "weights_sha256": run.info["weights_sha256"],
        "data": {"name": data.name, "sha256": data.sha256},
        "seed": seed,
        "images": len(x),
    }
    path = runs_folder(root) / run.name / FILE
    if not again and path.exists():
        stored = json.loads(path.read_text())
        stored["bounds"] = {int(s): blocks for s, blocks in stored["bounds"].items()}
        found = Measured(**stored)
        if about.items() <= stored.items() and max(found.bounds) == samples:
            return found
    blocks = [torch.arange(i, len(x), _BLOCKS) for i in range(min(_BLOCKS, len(x)))]
    bounds = bounds_of(run.model, x[torch.cat(blocks)], samples=samples, seed=seed)
    sizes = [len(block) for block in blocks]
    means = {
        s: [round(float(block.mean()), 4) for block in values.split(sizes)]
        for s, values in bounds.items()
    }
    found = Measured(**about, bounds=means)
    if not again:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(found)).encode() + b"\n")
    return found


def bounds_of(
    model: nn.Module, images: Tensor, *, samples: int = SAMPLES, at_once: int = 50, seed: int = 0
) -> dict[int, Tensor]:
    """The bounds L_1, L_50 and L_S of each image from the same S draws: (N,) each, float64, nats.

    Draws in parts of ``at_once`` give as many independent estimates of L_50 (or of what ``at_once``
    says), whose mean is taken.
    """
    if samples % at_once or samples < at_once < 1:
        raise ValueError(f"samples must be a multiple of {at_once}, got {samples}")

    def bounds(model: nn.Module, x: Tensor) -> dict[int, Tensor]:
        draw, one, part = log_weights(model, x), [], []
        for _ in range(samples // at_once):
            log_weight = draw(at_once)  # (at_once, B)
            one.append(log_weight.mean(0))
            part.append(log_weight.logsumexp(0) - math.log(at_once))
        part = torch.stack(part)  # (parts, B)
        whole = part.logsumexp(0) - math.log(len(part))
        return {1: torch.stack(one).mean(0), at_once: part.mean(0), samples: whole}

    return per_example(model, bounds, images, batch_size=20, seed=seed)


def _estimate(blocks: np.ndarray) -> Estimate:
    error = blocks.std(ddof=1) / math.sqrt(len(blocks)) if len(blocks) > 1 else None
    return Estimate(blocks.mean(), error)


def _words(found: Measured) -> str:
    return (
        f"{found.nats()} nats per image (S = {max(found.bounds):,}, {found.images:,} test images)"
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the head of this module."""
    parser = argparse.ArgumentParser(prog="python -m vae_tutorial.measure", description=__doc__)
    parser.add_argument("runs", nargs="+", help="for example mnist/iwae-50")
    parser.add_argument("--again", action="store_true", help="measure anew; store nothing")
    parser.add_argument("--images", type=int, help="only so many test images, evenly spread")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="draws per image")
    given = parser.parse_args(arguments)
    for name in given.runs:
        run = load_run(name)
        source = run.info["identity"]["data"]["name"].removesuffix("-binarized")
        images = datasets.binarized(datasets.load(source))
        stored = measured(run, images) if (runs_folder() / name / FILE).exists() else None
        if stored:
            print(f"{name}, stored: {_words(stored)}")
        if given.again or not stored:
            settings = {"samples": given.samples, "images": given.images, "again": given.again}
            started = time.perf_counter()
            print(f"{name}, now: {_words(measured(run, images, **settings))}", end="")
            print(f", in {time.perf_counter() - started:,.0f} s")


if __name__ == "__main__":
    main()
