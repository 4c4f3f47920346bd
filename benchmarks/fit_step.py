"""What does `fit` cost over the bare steps, and what does `torch.compile` bring?

    python benchmarks/fit_step.py [--clock cpu] [--json benchmarks/results.json]

For three dense networks a bare loop is written by hand: the batch, the loss as one expression, the
gradient, Adam, and no more. `fit` computes the same loss through distributions, looks whether the
images lie where the likelihood is defined, measures and bounds the gradient, and keeps a history.
The ways take turns; what is quoted is the median over rounds of the time of one step, and its ratio
in the same round. A round's first steps, with the compiling in them, are not in it.

The bigger models of the book are trained by `fit` alone, as it is and compiled, on images and codes
that are drawn at random: a step takes as long on them as on real ones.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from measuring import parser, start, store
from profile_step import CASES, Case
from time_to_elbo import RECIPES, Recipe
from torch import Tensor, nn

from vae_tutorial import VAE, data, elbo, fit
from vae_tutorial.networks import device_of
from vae_tutorial.randomness import seeded

RATE = 1e-4


def dense(*hidden: int, activation: type[nn.Module] = nn.SiLU) -> Callable[[], VAE]:
    """A VAE of two latents; the decoder mirrors the encoder."""
    recipe = Recipe(
        None, hidden, hidden[::-1], 0, 0, 0, 0.0, activation=activation, mean_start=False
    )
    return lambda: recipe.build(torch.zeros(0))


DENSE = {
    "784-128-128-128-2": (dense(*RECIPES["first"].encoder), 96),
    "784-192-192-192-2": (dense(192, 192, 192), 64),
    "chapter 2, 784-512-256-256-128-2": (dense(512, 256, 256, 128), 256),
}


MODELS = {title: case for title, case in CASES.items() if title != "chapter 2, dense"}


def bare_loss(vae: VAE, x: Tensor) -> Tensor:
    """The negative ELBO of a dense Bernoulli VAE as one expression; a scalar."""
    bound = vae.encoder.posterior.log_variance_bound
    mean, log_variance = vae.encoder.network(x).chunk(2, dim=1)
    log_variance = bound * torch.tanh(log_variance / bound)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    logits = vae.decoder.network(z)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return (reconstruction + kl) / len(x)


def bare(case: Case, stored: Tensor, tick: Callable[[], None]) -> nn.Module:
    """Steps by hand; `tick` is called behind each of them."""
    with seeded(0):
        vae = case.build().train()
        optimizer = torch.optim.Adam(vae.parameters(), lr=RATE, fused=True)
        for _ in range(2):
            for where in torch.randperm(len(stored)).split(case.batch_size):
                loss = bare_loss(vae, data.to_float(stored[where]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                tick()
    return vae


def by_fit(
    case: Case, stored: Tensor, tick: Callable[[], None], *, compile: bool = False
) -> nn.Module:
    """The same number of steps by `fit`."""
    with seeded(0):
        model = case.build()
    fit(
        model, case.objective, stored, epochs=2, batch_size=case.batch_size, learning_rate=RATE,
        bfloat16=case.bfloat16, compile=compile, after_step=lambda model, step: tick(),
        device="cpu", progress=False,
    )  # fmt: skip
    return model


def compiled(case: Case, stored: Tensor, tick: Callable[[], None]) -> nn.Module:
    """`fit` through `torch.compile`."""
    return by_fit(case, stored, tick, compile=True)


def seconds_per_step(
    way: Callable, case: Case, stored: Tensor, clock: Callable[[], float]
) -> tuple[float, nn.Module]:
    """Over as many steps as an epoch has, its end included; and the trained model."""
    steps, first = len(stored) // case.batch_size, 5
    ticks: list[float] = []
    model = way(case, stored, lambda: ticks.append(clock()))
    return (ticks[steps + first - 1] - ticks[first - 1]) / steps, model


@torch.no_grad()
def loss_of(model: nn.Module, case: Case, stored: Tensor) -> float:
    """The objective of a trained model on its first batch of data, from one seed."""
    x = data.floats(stored[: case.batch_size].to(device_of(model)))
    with seeded(1):
        return float(case.objective(model.eval(), *x)["loss"].mean())


def compare(
    ways: Sequence[Callable], case: Case, stored: Tensor, clock: Callable, rounds: int
) -> dict:
    """Seconds per step of each way, ratios to the first, and what each way's model ends with."""
    seconds: dict[str, list[float]] = {way.__name__: [] for way in ways}
    losses, wall = {}, 0.0
    for i in range(rounds + 1):
        for way in ways:
            begin = time.perf_counter()
            # The first round compiles, and warms up; a batch or two are enough for that.
            shown = stored if i else stored[: 6 * case.batch_size]
            found, model = seconds_per_step(way, case, shown, clock)
            if not i:
                wall = time.perf_counter() - begin
            else:
                seconds[way.__name__].append(found)
                losses[way.__name__] = loss_of(model, case, stored)
    first = seconds[ways[0].__name__]
    return {
        "batch_size": case.batch_size,
        "precision": "bfloat16" if case.bfloat16 else "float32",
        "seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "ratio": {
            name: statistics.median(a / b for a, b in zip(found, first, strict=True))
            for name, found in seconds.items()
        },
        "loss": losses,
        "first_seconds": wall,  # of the last way, which is the compiled one
    }


def main(arguments: list[str] | None = None) -> dict:
    """Measure all models; return and store what was found."""
    options_of = parser(__doc__)
    options_of.add_argument("--rounds", type=int, default=7)
    options_of.add_argument(
        "--steps", type=int, help="of an epoch; by default 20,000 images' worth, else 25"
    )
    options_of.add_argument("--no-compile", action="store_true", help="where no compiler is")
    options = options_of.parse_args(arguments)
    clock = start(options)
    if options.quick:
        options.rounds, options.steps = 1, 6
    # What was compiled earlier must not be found: the first round says how long that takes.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
    last = [] if options.no_compile else [compiled]
    result: dict = {"dense": {}, "models": {}}
    grey = data.load("mnist").train.images
    for title, (build, batch_size) in DENSE.items():
        stored = grey[: batch_size * (options.steps or 40_000 // batch_size // 2)]
        case = Case(build, elbo, lambda n: grey[:n], batch_size)
        found = compare([bare, by_fit, *last], case, stored, clock, options.rounds)
        result["dense"][title] = report(title, found)
        store(options.json, "fit_step", result, options.clock)
    for title, case in MODELS.items():
        with seeded(0):
            stored = case.examples(case.batch_size * (options.steps or 25))
        found = compare([by_fit, *last], case, stored, clock, options.rounds)
        result["models"][title] = report(title, found)
        store(options.json, "fit_step", result, options.clock)
    return result


def report(title: str, found: dict) -> dict:
    """Print a line of the table; return it."""
    times = ", ".join(
        f"{name} {1e3 * seconds:.2f} ms ({found['ratio'][name]:.3f})"
        for name, seconds in found["seconds"].items()
    )
    print(f"{title}; {found['batch_size']}, {found['precision']}: {times}", flush=True)
    return found


if __name__ == "__main__":
    main()
