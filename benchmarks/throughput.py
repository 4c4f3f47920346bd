"""How many images per second does the plain loop's own network train on, when nothing is wasted?

    python benchmarks/throughput.py [--clock cpu] [--json benchmarks/results.json]

The network, the batch of 32, the three samples and the rate are those of the plain loop in
`time_to_elbo.py`. Each way trains from the same weights on the same number of images; the ways take
turns, and what is quoted is the median over rounds. What they end with is printed beside it: they
compute the same function, those in bfloat16 with fewer digits. `torch.compile` is given a batch
before the clock starts, and the seconds that it takes for that are told apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measuring import parser, seconds_per_call, start, store
from rearranged import rearranged
from time_to_elbo import mnist_through_torchvision, negative_elbo, plain_loop, plain_vae
from torch import Tensor, nn

from vae_tutorial import VAE, data, elbo, fit
from vae_tutorial.randomness import seeded

SAMPLES, BATCH, RATE = 3, 32, 1e-4


def three_samples(vae: VAE, x: Tensor) -> dict[str, Tensor]:
    """The ELBO with the plain loop's three samples, in one decoder pass."""
    return elbo(vae, x, samples=SAMPLES)


def by_fit(vae: VAE, images: Tensor, clock: Callable, *, bfloat16: bool = False) -> float:
    """Seconds of one epoch of `fit`."""
    begin = clock()
    fit(
        vae, three_samples, images, epochs=1, batch_size=BATCH, learning_rate=RATE, clip_norm=None,
        bfloat16=bfloat16, device="cpu", progress=False,
    )  # fmt: skip
    return clock() - begin


def block_loss(vae: VAE, x: Tensor, noise: Tensor) -> Tensor:
    """The plain loop's loss of a rearranged network, with the images cut into the logits' blocks.

    Images (B, 1, 28, 28) and noise (S, B, 2) to a scalar. A sum over pixels may be taken in any
    order, so that the logits need not be put in their places.
    """
    *layers, shuffle = vae.decoder.network.layers
    mean, log_variance = vae.encoder.network(x).float().chunk(2, dim=1)
    logits = (mean + torch.exp(0.5 * log_variance) * noise).flatten(0, 1)
    for layer in layers:
        logits = layer(logits)
    logits = logits.float().unflatten(0, noise.shape[:2])
    target = F.pixel_unshuffle(x, shuffle.upscale_factor)
    reconstruction = (F.softplus(logits) - logits * target).sum() / len(noise)
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return (reconstruction + kl) / len(x)


def bare(
    vae: VAE,
    images: Tensor,
    clock: Callable,
    *,
    bfloat16: bool = False,
    loss: Callable = block_loss,
) -> float:
    """Seconds of one epoch of nothing but the steps: no history, no norms, no checks."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=RATE, fused=True)
    vae.train()
    begin = clock()
    for where in torch.randperm(len(images)).split(BATCH):
        x = data.to_float(images[where])
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            value = loss(vae, x, torch.randn(SAMPLES, len(x), 2))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return clock() - begin


def ways(dataset, compiled: bool) -> dict[str, tuple[Callable[[], VAE], Callable]]:
    """Title to what builds the network, and what trains it: (vae, images, clock) to seconds."""

    def plain(vae: VAE, images: Tensor, clock: Callable) -> float:
        return plain_loop(vae, dataset, 1, clock=clock)["seconds"]

    def blocks() -> VAE:
        return rearranged(plain_vae())

    found = {
        "plain loop": (plain_vae, plain),
        "`fit`": (plain_vae, by_fit),
        "`fit`, rearranged": (blocks, by_fit),
        "`fit`, rearranged, bfloat16": (blocks, partial(by_fit, bfloat16=True)),
        "bare steps, rearranged": (blocks, bare),
        "bare steps, rearranged, bfloat16": (blocks, partial(bare, bfloat16=True)),
    }
    if compiled:
        for title, bfloat16 in (("", False), (", bfloat16", True)):
            loss = torch.compile(block_loss, dynamic=False)
            found[f"bare steps, rearranged, compiled{title}"] = (
                blocks,
                partial(bare, bfloat16=bfloat16, loss=loss),
            )
    return found


def convolutions_alone(
    vae: VAE, images: Tensor, clock: Callable, *, bfloat16: bool = False, calls: int = 20
) -> float:
    """Seconds that the convolution layers of a step take by themselves, autograd's work included.

    Each is timed alone, forward and backward, on what it is given in a step: an estimate of what is
    left of a step with these layers when all around them is free.
    """
    layers = [m for m in vae.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    given: dict[nn.Module, Tensor] = {}
    hooks = [m.register_forward_pre_hook(lambda m, x: given.update({m: x[0]})) for m in layers]
    three_samples(vae, data.to_float(images[:BATCH]))
    for hook in hooks:
        hook.remove()
    total = 0.0
    for i, layer in enumerate(layers):
        # The images themselves need no gradient.
        x = given[layer].detach().requires_grad_(i > 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            ahead = torch.randn_like(layer(x))

            def step(layer=layer, x=x, ahead=ahead) -> None:
                layer(x).backward(ahead)

            total += seconds_per_call(step, clock, calls=calls)
    return total


def main(arguments: list[str] | None = None) -> dict:
    options_of = parser(__doc__)
    options_of.add_argument("--rounds", type=int, default=5)
    options_of.add_argument("--images", type=int, default=6400, help="trained on in a round")
    options_of.add_argument("--no-compile", action="store_true", help="where no compiler is")
    options = options_of.parse_args(arguments)
    clock = start(options)
    if options.quick:
        options.rounds, options.images = 1, 128
    mnist = data.load("mnist")
    images = mnist.train.images[: options.images]
    test = mnist.test.images[: 200 if options.quick else None]
    dataset = mnist_through_torchvision(images, mnist.train.labels[: options.images])

    rows = {}
    for title, (build, train) in ways(dataset, not options.no_compile).items():
        begin = (
            time.perf_counter()
        )  # a compiler works in processes of its own: no CPU clock sees them
        with seeded(0):
            train(build(), images[: 2 * BATCH], clock)
        rows[title] = {"first_seconds": time.perf_counter() - begin, "seconds": [], "train": train}
        rows[title]["build"] = build
    for _ in range(options.rounds):
        for row in rows.values():
            with seeded(0):
                vae = row["build"]()
                row["seconds"].append(row["train"](vae, images, clock))
            row["vae"] = vae.eval()
    plain = rows["plain loop"]["seconds"]
    for title, row in rows.items():
        del row["build"], row["train"]
        row["test_negative_elbo"] = negative_elbo(row.pop("vae"), test)
        row["images_per_second"] = len(images) / statistics.median(row["seconds"])
        row["ratios"] = [a / b for a, b in zip(plain, row["seconds"], strict=True)]
        row["ratio"] = statistics.median(row["ratios"])
        print(
            f"{title:42} {row['images_per_second']:7,.0f} images/s, {row['ratio']:5.2f} times the "
            f"plain loop's; ends at {row['test_negative_elbo']:.2f} nats; before the first round "
            f"{row['first_seconds']:.1f} s"
        )
    alone = {}
    for title, build, bfloat16 in (
        ("as torch's layers", plain_vae, False),
        ("rearranged", lambda: rearranged(plain_vae()), False),
        ("rearranged, bfloat16", lambda: rearranged(plain_vae()), True),
    ):
        calls = 1 if options.quick else 20
        taken = convolutions_alone(build(), images, clock, bfloat16=bfloat16, calls=calls)
        step = BATCH * statistics.median(plain) / len(images)
        alone[title] = {"seconds": taken, "ratio": step / taken}
        print(
            f"the convolutions of a step alone, {title}: {1e3 * taken:.2f} ms; with these, no step is "
            f"more than {alone[title]['ratio']:.1f} times as fast as the plain loop's"
        )
    result = {"images": options.images, "rounds": options.rounds, "ways": rows}
    result |= {"convolutions_alone": alone}
    store(options.json, "throughput", result, options.clock)
    return result


if __name__ == "__main__":
    main()
