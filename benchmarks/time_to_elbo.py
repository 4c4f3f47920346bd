"""How soon does a VAE with two latents reach the test ELBO that a plain training loop ends with?

    python benchmarks/time_to_elbo.py [--clock cpu] [--json benchmarks/results.json]

Everything runs in one process, one after the other, on the same machine, so that the *ratios* mean
something where the seconds do not. Three measurements:

(a) The plain loop, as tutorials write it: torchvision's MNIST with transforms applied image by
    image, a DataLoader, batches of 32, Adam at 1e-4, three Monte Carlo samples in a Python loop,
    a small convolutional network, ten epochs. The test ELBO that it ends with is the first target.
(b) `fit`, with a network and a schedule chosen for the target, on validation images. For each target
    a recipe is trained from the start with five seeds. What is quoted is the median of the seconds
    that the whole call takes, building the model included, and how many of the five end at or under
    the target on the test images.
(c) What one part of the first recipe is worth: it is trained again without that part, as many steps
    on the same images with the same seeds.

Evaluation is never inside a timing. All are measured on the 10,000 test images with the same
function. `--parts` runs some of the three; what is missing is then read from the file of results.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from measuring import CLOCKS, machine, parser, start, store
from torch import Tensor, nn
from torchvision.transforms import v2

from vae_tutorial import (
    MLP,
    VAE,
    Bernoulli,
    Decoder,
    Encoder,
    MeanFieldGaussian,
    StandardNormal,
    data,
    elbo,
    evaluate,
    fit,
)
from vae_tutorial.networks import count_parameters
from vae_tutorial.randomness import seeded
from vae_tutorial.schedules import OneCycle

SHAPE = (1, 28, 28)


class PlainEncoder(nn.Module):
    """Convolution, pool, batch norm, ReLU, twice; two heads 392-64-2."""

    out_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2), nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 5, padding=2), nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.mean = nn.Sequential(nn.Linear(392, 64), nn.ReLU(), nn.Linear(64, 2))
        self.log_variance = nn.Sequential(nn.Linear(392, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return torch.cat([self.mean(h), self.log_variance(h)], dim=1)


class PlainDecoder(nn.Module):
    """2-64-392, then two transposed convolutions 8-8-1 of stride 2."""

    out_shape = SHAPE

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 392), nn.ReLU(), nn.Unflatten(1, (8, 7, 7)),
            nn.ConvTranspose2d(8, 8, 5, stride=2, padding=2, output_padding=1), nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 5, stride=2, padding=2, output_padding=1),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def plain_vae() -> VAE:
    """(a)'s network as the package's parts, so that both are measured by the same function."""
    return VAE(
        Encoder(PlainEncoder(), MeanFieldGaussian(2, log_variance_bound=None)),
        Decoder(PlainDecoder(), Bernoulli(SHAPE, greys=True)),
        StandardNormal(2),
    )


def mnist_through_torchvision(images: Tensor, labels: Tensor):
    """The same images as torchvision's data set: each a transform away from a float tensor."""
    made = torchvision.datasets.MNIST(
        data.data_root(),
        train=True,
        transform=v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    )
    made.data, made.targets = images[:, 0], labels
    return made


def plain_loop(
    vae: VAE, dataset, epochs: int, samples: int = 3, clock: Callable[[], float] = CLOCKS["wall"]
) -> dict[str, float]:
    """Train as tutorials do; return seconds in all, waiting for data, and in the steps."""
    loader = torch.utils.data.DataLoader(dataset, batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-4)
    encoder, decoder = vae.encoder.network, vae.decoder.network
    vae.train()
    waiting, count, start = 0.0, 0, clock()
    before = start
    for _ in range(epochs):
        for x, _label in loader:
            waiting += clock() - before
            mean, log_variance = encoder(x).chunk(2, dim=1)
            reconstruction = 0.0
            for _sample in range(samples):
                z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
                logits = decoder(z)
                bce = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
                reconstruction = reconstruction + bce.sum((1, 2, 3)) / samples
            kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
            loss = (reconstruction + kl).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            count += len(x)
            before = clock()
    seconds = clock() - start
    return {"seconds": seconds, "waiting": waiting, "images_per_second": count / seconds}


@torch.no_grad()
def start_at_the_mean(vae: VAE, images: Tensor) -> VAE:
    """Set the decoder's last bias to the logit of the mean image: what is known before training.

    Of all decoders that ignore their latents, the one that answers with the mean image has the
    smallest cross-entropy. Without this, the first steps are spent on finding it.

    Args:
        vae: its decoder ends in a linear layer, and its likelihood reads logits.
        images: uint8 (N, C, H, W); those of the first 2,000 are enough.
    """
    mean = data.to_float(images[:2000]).mean(0).flatten()
    # A pixel that is black in all of these may not be so in the next: no infinite logit.
    vae.decoder.network.layers[-1].bias.copy_(torch.logit(mean.clamp(1e-3, 1 - 1e-3)))
    return vae


@dataclass(frozen=True)
class Recipe:
    """What is trained for a target, and how. ``nats`` is the target: None stands for (a)'s end."""

    nats: float | None
    encoder: Sequence[int]
    decoder: Sequence[int]
    images: int
    epochs: int
    batch_size: int
    peak: float
    warm_up: float = 0.1
    activation: type[nn.Module] = nn.SiLU
    bfloat16: bool = False
    mean_start: bool = True

    def build(self, images: Tensor) -> VAE:
        """The untrained model."""
        posterior, likelihood = MeanFieldGaussian(2), Bernoulli(SHAPE, greys=True)
        encoder = MLP(SHAPE, posterior.param_shape, self.encoder, self.activation)
        decoder = MLP(2, likelihood.param_shape, self.decoder, self.activation)
        vae = VAE(Encoder(encoder, posterior), Decoder(decoder, likelihood), StandardNormal(2))
        return start_at_the_mean(vae, images) if self.mean_start else vae

    def shortened(self, images: int) -> Recipe:
        """One epoch of so many images: to see that it works."""
        return replace(self, images=images, epochs=1)

    def train(
        self, images: Tensor, seed: int, *, device: str = "cpu", compile: bool | str = False
    ) -> VAE:
        """The trained model: all that is timed."""
        with seeded(seed):
            vae = self.build(images)
        fit(
            vae, elbo, images[: self.images], epochs=self.epochs, batch_size=self.batch_size,
            learning_rate=OneCycle(self.peak, self.warm_up), bfloat16=self.bfloat16, seed=seed,
            device=device, compile=compile, progress=False,
        )  # fmt: skip
        return vae

    def describe(self) -> str:
        """Network and schedule in one line."""
        layers = [784, *self.encoder, 2, *self.decoder, 784]
        steps = self.epochs * math.ceil(self.images / self.batch_size)
        width = " in bfloat16" if self.bfloat16 else ""
        return (
            f"{'-'.join(map(str, layers))}, {self.activation.__name__}; {steps:,} steps of "
            f"{self.batch_size}{width}, one cycle to {self.peak:g}"
        )


RECIPES = {
    "first": Recipe(None, (128,) * 3, (128,) * 3, 34_560, 1, 96, 2e-2, 0.2),
    "140": Recipe(
        140.0, (256,) * 3, (128, 256, 256, 512), 55_000, 7, 256, 6e-3, 0.2, nn.GELU, bfloat16=True
    ),
    "133": Recipe(
        133.0, (512, 256, 256, 128), (128, 256, 256, 512), 55_000, 120, 256, 4e-3, bfloat16=True
    ),
}
PARTS = ["plain", *RECIPES, "without"]


def negative_elbo(vae: VAE, images: Tensor) -> float:
    """Nats per image, smaller is better."""
    return float(evaluate(vae, elbo, images, samples=10)["negative_elbo"])


def train_over_seeds(
    recipe: Recipe, images: Tensor, test: Tensor, seeds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds and negative ELBO on test images of each seed's training."""
    found = {"seconds": [], "test_negative_elbo": []}
    for seed in range(seeds):
        begin = clock()
        vae = recipe.train(images, seed)
        found["seconds"].append(clock() - begin)
        found["test_negative_elbo"].append(negative_elbo(vae, test))
    return found


def race(recipe: Recipe, found: dict, target: float, plain_seconds: float) -> dict:
    """A target's line of the table, from the seconds and ELBOs over seeds."""
    nats = found["test_negative_elbo"]
    median = statistics.median(found["seconds"])
    return {
        "target": target,
        "recipe": recipe.describe(),
        **found,
        "median_seconds": median,
        "reached": sum(value <= target for value in nats),
        "seeds": len(nats),
        "times_sooner": plain_seconds / median,
    }


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error; not a number for a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.mean(values), error


def without(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe with one thing changed each."""
    return {
        "last bias as torch draws it": replace(recipe, mean_start=False),
        "ReLU for SiLU": replace(recipe, activation=nn.ReLU),
        "chapter 2's network": replace(
            recipe, encoder=(512, 256, 256, 128), decoder=(128, 256, 256, 512)
        ),
        "chapter 2's peak rate, 4e-3": replace(recipe, peak=4e-3),
    }


def run_plain(images: Tensor, labels: Tensor, test: Tensor, epochs: int, clock: Callable) -> dict:
    """(a): the plain loop's seconds, and what it ends with."""
    with seeded(0):
        vae = plain_vae()
        size = count_parameters(vae)
        print(f"(a) plain loop, {size:,} parameters, {epochs} epoch(s) ...", flush=True)
        found = plain_loop(vae, mnist_through_torchvision(images, labels), epochs, clock=clock)
    found |= {"test_negative_elbo": negative_elbo(vae, test), "epochs": epochs, "parameters": size}
    print(
        f"    {found['seconds']:.1f} s, {found['images_per_second']:,.0f} images/s, test negative "
        f"ELBO {found['test_negative_elbo']:.2f} nats; "
        f"{found['waiting'] / found['seconds']:.0%} of the time went into making batches"
    )
    return found


def run_race(recipe: Recipe, plain: dict, train: Callable[[Recipe], dict]) -> dict:
    """(b): a recipe against its target."""
    target = plain["test_negative_elbo"] if recipe.nats is None else recipe.nats
    print(f"(b) to {target:.2f} nats: {recipe.describe()}", flush=True)
    row = race(recipe, train(recipe), target, plain["seconds"])
    mean, error = mean_and_error(row["test_negative_elbo"])
    print(
        f"    median {row['median_seconds']:.2f} s, {row['reached']} of {row['seeds']} reach it "
        f"(test negative ELBO {mean:.2f} ± {error:.2f} nats, largest "
        f"{max(row['test_negative_elbo']):.2f})"
    )
    if recipe.nats is None:  # the plain loop does not get to the others
        print(f"    (a) took {row['times_sooner']:.1f} times as long")
    return row


def run_without(recipe: Recipe, target: float, train: Callable[[Recipe], dict]) -> dict:
    """(c): the recipe with one thing changed at a time, in pairs of one seed."""
    print("(c) the first recipe with one thing changed, the same steps and seeds", flush=True)
    base, rows = train(recipe), {}
    for title, changed in without(recipe).items():
        found = train(changed)
        pairs = zip(found["test_negative_elbo"], base["test_negative_elbo"], strict=True)
        mean, error = mean_and_error([one - other for one, other in pairs])
        slower = statistics.median(found["seconds"]) / statistics.median(base["seconds"])
        rows[title] = found | {
            "nats_more": mean,
            "standard_error": error,
            "times_the_seconds": slower,
            "reached": sum(value <= target for value in found["test_negative_elbo"]),
            "seeds": len(found["seconds"]),
        }
        print(
            f"    {title}: {mean:+.2f} ± {error:.2f} nats, {slower:.2f} times the seconds, "
            f"{rows[title]['reached']} of {rows[title]['seeds']} reach {target:.2f}",
            flush=True,
        )
    return rows


def main(arguments: list[str] | None = None) -> dict:
    """Run the parts that are asked for, in order; return and store what was found."""
    options_of = parser(__doc__)
    options_of.add_argument("--epochs", type=int, default=10, help="of the plain loop")
    options_of.add_argument("--seeds", type=int, default=5)
    options_of.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = options_of.parse_args(arguments)
    clock = start(options)
    mnist = data.load("mnist")
    images, labels, test = mnist.train.images, mnist.train.labels, mnist.test.images
    recipes = RECIPES
    if options.quick:
        images, labels, test = images[:640], labels[:640], test[:200]
        options.epochs, options.seeds = 1, 2
        recipes = {k: r.shortened(640) for k, r in recipes.items()}

    result = earlier(options.json, options.clock)
    train = partial(train_over_seeds, images=images, test=test, seeds=options.seeds, clock=clock)
    for part in [part for part in PARTS if part in options.parts]:
        if part == "plain":
            result[part] = run_plain(images, labels, test, options.epochs, clock)
        elif "plain" not in result:
            raise ValueError("the plain loop comes first: --parts plain, with the same --json")
        elif part == "without":
            target = result["plain"]["test_negative_elbo"]
            result[part] = run_without(recipes["first"], target, train)
        else:
            row = run_race(recipes[part], result["plain"], train)
            result["races"] = result.get("races", {}) | {part: row}
        store(options.json, "time_to_elbo", result, options.clock)
    return result


def earlier(path: Path | None, clock: str) -> dict:
    """What the file holds of this benchmark, if it is of this machine: else no ratio means anything."""
    if path is None or not path.exists():
        return {}
    found = json.loads(path.read_text()).get("time_to_elbo", {})
    return found if found.pop("machine", None) == machine(clock) else {}


if __name__ == "__main__":
    main()
