"""How soon does a VAE with two latents reach the test ELBO that a plain training loop ends with?

    python benchmarks/time_to_elbo.py [--epochs 10] [--limit N] [--json FILE]

Everything runs in one process, one after the other, on the same machine, so that the *ratios* mean
something where the seconds do not. Three measurements:

(a) The plain loop, as tutorials write it: torchvision's MNIST with transforms applied image by
    image, a DataLoader, batches of 32, Adam at 1e-4, three Monte Carlo samples in a Python loop,
    a small convolutional network, ten epochs.
(b) Chapter 2's own model with `fit`, trained for 1, 2, 3, ... epochs under its one-cycle rate until
    a whole training, from fresh weights, ends at or under (a)'s test ELBO. What counts is the time
    of that whole training; the unsuccessful shorter ones are printed, too.
(c) `fit` on (a)'s own network, batch size, samples and learning rate: images per second against (a).

Evaluation is never inside a timing. Both train on the same 55,000 images, and are measured on the
10,000 test images with the same function.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.transforms import v2

from vae_tutorial import (
    VAE,
    Bernoulli,
    Decoder,
    Encoder,
    MeanFieldGaussian,
    StandardNormal,
    build,
    data,
    elbo,
    evaluate,
    fit,
    load_run,
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


def chapter_vae() -> VAE:
    """The model of chapter 2, untrained: built from what its stored run says that it is."""
    return build(load_run("mnist/vae-2d").info["identity"]["model"])


def plain_loop(vae: VAE, dataset, epochs: int, samples: int = 3) -> dict[str, float]:
    """Train as tutorials do; return seconds in all, waiting for data, and in the steps."""
    loader = torch.utils.data.DataLoader(dataset, batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-4)
    encoder, decoder = vae.encoder.network, vae.decoder.network
    vae.train()
    waiting, count, start = 0.0, 0, time.perf_counter()
    before = start
    for _ in range(epochs):
        for x, _label in loader:
            waiting += time.perf_counter() - before
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
            before = time.perf_counter()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "waiting": waiting, "images_per_second": count / seconds}


def timed_fit(vae: VAE, images: Tensor, **settings) -> float:
    """Seconds that a whole `fit` takes, without held-out images."""
    start = time.perf_counter()
    fit(vae, settings.pop("objective", elbo), images, progress=False, device="cpu", **settings)
    return time.perf_counter() - start


def negative_elbo(vae: VAE, images: Tensor) -> float:
    return evaluate(vae, elbo, images, samples=10)["negative_elbo"]


def profile(vae: VAE, images: Tensor) -> dict[str, float]:
    """Where a step of (a)'s network goes, by torch's own profiler: share of CPU time, five largest."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    x = data.to_float(images[:32])
    with torch_profile(activities=[ProfilerActivity.CPU]) as result:
        for _ in range(20):
            elbo(vae, x, samples=3)["loss"].mean().backward()
    events = sorted(result.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return {e.key: e.self_cpu_time_total / total for e in events[:6]}


def three_samples(vae: VAE, x: Tensor) -> dict[str, Tensor]:
    """The ELBO with the plain loop's three samples, in one decoder pass."""
    return elbo(vae, x, samples=3)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10, help="of the plain loop")
    parser.add_argument("--limit", type=int, help="use only the first N training images")
    parser.add_argument("--longest", type=int, default=10, help="most epochs tried for (b)")
    parser.add_argument("--test", type=int, help="measure on the first N test images only")
    parser.add_argument("--repeats", type=int, default=3, help="of (c), interleaved with (a)")
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args(arguments)

    mnist = data.load("mnist")
    test = mnist.test.images[: options.test]
    images = mnist.train.images[: options.limit]
    # (a) reads the same images through torchvision's data set and per-image transforms.
    source = torchvision.datasets.MNIST(
        data.data_root(),
        train=True,
        transform=v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    )
    source.data, source.targets = images[:, 0], mnist.train.labels[: options.limit]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")

    with seeded(0):
        plain = plain_vae()
        print(
            f"(a) plain loop, {count_parameters(plain):,} parameters, {options.epochs} epochs ..."
        )
        a = plain_loop(plain, source, options.epochs)
    target = negative_elbo(plain, test)
    share = a["waiting"] / a["seconds"]
    print(
        f"    {a['seconds']:.1f} s, {a['images_per_second']:,.0f} images/s, test negative ELBO "
        f"{target:.2f} nats; {share:.0%} of the time went into making batches"
    )

    print(f"(b) chapter 2's model, {count_parameters(chapter_vae()):,} parameters")
    b = {}
    for epochs in range(1, options.longest + 1):
        with seeded(0):
            vae = chapter_vae()
        rate = OneCycle(4e-3)
        seconds = timed_fit(vae, images, epochs=epochs, batch_size=256, learning_rate=rate)
        reached = negative_elbo(vae, test)
        print(f"    {epochs} epoch(s): {seconds:.1f} s, test negative ELBO {reached:.2f} nats")
        b = {"epochs": epochs, "seconds": seconds, "test_negative_elbo": reached}
        if reached <= target:
            break
    sooner = a["seconds"] / b["seconds"] if b["test_negative_elbo"] <= target else float("nan")
    print(f"    reaches (a)'s test ELBO {sooner:.1f} times sooner")

    print("(c) our loop on (a)'s network, batch size, samples and rate, against (a)'s, interleaved")
    ratios = []
    part = images[: min(len(images), 12_800)]
    source.data, source.targets = part[:, 0], source.targets[: len(part)]
    for _ in range(options.repeats):
        with seeded(0):
            theirs = plain_loop(plain_vae(), source, 1)["images_per_second"]
        seconds = timed_fit(
            plain_vae(), part, objective=three_samples, epochs=1, batch_size=32,
            learning_rate=1e-4, clip_norm=None,
        )  # fmt: skip
        ratios.append(len(part) / seconds / theirs)
        print(
            f"    {len(part) / seconds:,.0f} against {theirs:,.0f} images/s: {ratios[-1]:.2f} times"
        )
    print(f"    median {statistics.median(ratios):.2f} times the throughput")

    shares = profile(plain_vae(), images)
    print("    where a step of it goes:", ", ".join(f"{k} {v:.0%}" for k, v in shares.items()))
    result = {
        "plain": a | {"test_negative_elbo": target},
        "fit": b,
        "times_sooner": sooner,
        "throughput_ratio": statistics.median(ratios),
        "throughput_ratios": ratios,
        "profile": shares,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
