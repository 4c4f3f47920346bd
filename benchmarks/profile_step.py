"""Where does a training step go: into arithmetic, into memory, or into Python?

    python benchmarks/profile_step.py [--clock cpu] [--json benchmarks/results.json]

For five models of the book, with images and codes drawn at random, a step like `fit`'s is timed in
four parts: the batch, the objective (forward), backward with the norm of the gradient, and the
update. `fit`'s means, history and schedule are left out. Beside the sum stand three yardsticks, each a
count times a rate that is measured in the same process, one after the other on one thread:

* arithmetic: the floating-point operations of the step's matrix products and convolutions, at the
  rate of one large product of square matrices (in the precision that the step computes in);
* memory: the bytes that the step's operations read and write, at the rate of copying a tensor that
  no cache of one core holds;
* calls: the operations that torch carries out, at the time of adding two tensors of one number.

They are not parts of the step: what is computed while memory is read is counted twice, and small
products and convolutions of few channels do not reach the rate of a large one. The rates of smaller
ones are measured, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from measuring import parser, seconds_per_call, start, store
from throughput import three_samples
from time_to_elbo import plain_vae
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vae_tutorial import (
    VAE,
    ConvDecoder,
    ConvEncoder,
    Decoder,
    Encoder,
    MeanFieldGaussian,
    StandardNormal,
    build,
    data,
    elbo,
    load_run,
)
from vae_tutorial.fit import _gradients
from vae_tutorial.likelihoods import DiscretizedLogistic
from vae_tutorial.models.pixelcnn import GatedPixelCNN, code_loss
from vae_tutorial.models.vqvae import VQVAE, VectorQuantizer, vq_loss
from vae_tutorial.randomness import seeded


@dataclass(frozen=True)
class Case:
    """A model, its objective, and a stored data set of random examples to cut batches from."""

    build: Callable[[], nn.Module]
    objective: Callable
    examples: Callable[[int], Tensor]
    batch_size: int
    bfloat16: bool = False


def grey(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8)


def colour(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)


def codes(n: int) -> Tensor:
    return torch.randint(0, 128, (n, 7, 7))


def chapter_2() -> VAE:
    """Untrained: built from what its stored run says that it is."""
    return build(load_run("mnist/vae-2d").info["identity"]["model"])


def chapter_8() -> VAE:
    """The convolutional VAE of its table, for digits."""
    posterior = MeanFieldGaussian(16)
    likelihood = DiscretizedLogistic((1, 28, 28), noise="homoscedastic")
    ends = ((1, 28, 28), posterior.param_shape), (16, likelihood.param_shape)
    encoder = ConvEncoder(*ends[0], (16, 32, 32), 64, nn.SiLU)
    decoder = ConvDecoder(*ends[1], (32, 32, 16), 64, nn.SiLU)
    return VAE(Encoder(encoder, posterior), Decoder(decoder, likelihood), StandardNormal(16))


def chapter_11() -> VQVAE:
    """The one for colour photographs."""
    return VQVAE((3, 32, 32), VectorQuantizer(256, 64, decay=0.99, reset_below=1.0), (48, 96))


def chapter_12() -> GatedPixelCNN:
    """The one for the codes of clothes."""
    return GatedPixelCNN(128, (7, 7), channels=40, layers=5, hidden=128)


CASES = {
    "plain loop's network, 3 samples": Case(plain_vae, three_samples, grey, 32),
    "chapter 2, dense": Case(chapter_2, elbo, grey, 256),
    "chapter 8, convolutional": Case(chapter_8, elbo, grey, 128),
    "chapter 11, VQ-VAE": Case(chapter_11, vq_loss, colour, 128, bfloat16=True),
    "chapter 12, PixelCNN": Case(chapter_12, code_loss, codes, 64, bfloat16=True),
}


class Traffic(TorchDispatchMode):
    """Counts the operations that are carried out, and the bytes of what they read and write.

    An operation that only looks at memory in another shape costs a call, and no bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        written = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        memory = {t.untyped_storage().data_ptr() for t in read}
        views = all(t.untyped_storage().data_ptr() in memory for t in written)
        in_place = func._schema.is_mutable
        if in_place or not views:
            self.bytes += sum(t.numel() * t.element_size() for t in [*read, *written])
        return result


class Step:
    """A step like `fit`'s, without its records, cut into the four parts that are timed."""

    def __init__(self, case: Case) -> None:
        self.case = case
        with seeded(0):
            self.model = case.build().train()
            self.stored = case.examples(4 * case.batch_size)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-4, fused=True)

    def batch(self) -> None:
        part = self.stored[torch.randperm(len(self.stored))[: self.case.batch_size]]
        [self.x] = data.floats(part)

    def forward(self) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.case.bfloat16):
            self.loss = self.case.objective(self.model, self.x)["loss"].mean()

    def backward(self) -> None:
        _gradients(self.loss, self.parameters, 100.0)

    def update(self) -> None:
        self.optimizer.step()

    def parts(self) -> dict[str, Callable[[], None]]:
        return {"batch": self.batch, "forward": self.forward, "backward": self.backward,
                "update": self.update}  # fmt: skip

    def __call__(self) -> None:
        for part in self.parts().values():
            part()


def rates(clock: Callable[[], float], quick: bool) -> dict[str, float]:
    """What the machine can do: operations and bytes per second, seconds of a call."""
    n, rounds = (64, 1) if quick else (1024, 5)
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        square = torch.randn(n, n).to(dtype)
        taken = seconds_per_call(lambda: square @ square, clock, calls=5, rounds=rounds)  # noqa: B023
        found[f"{name} product"] = 2 * n**3 / taken
        dense, weight = torch.randn(256, 256).to(dtype), torch.randn(256, 256).to(dtype)
        taken = seconds_per_call(lambda: F.linear(dense, weight), clock, rounds=rounds)  # noqa: B023
        found[f"{name} product of 256 x 256"] = 2 * 256**3 / taken
        for channels in (8, 64):
            x = torch.randn(32, channels, 14, 14).to(dtype).to(memory_format=torch.channels_last)
            kernel = torch.randn(channels, channels, 3, 3).to(dtype)
            kernel = kernel.to(memory_format=torch.channels_last)
            taken = seconds_per_call(
                lambda: F.conv2d(x, kernel, padding=1),  # noqa: B023
                clock, rounds=rounds,
            )  # fmt: skip
            operations = 2 * 32 * 14 * 14 * 9 * channels**2
            found[f"{name} convolution of {channels} channels"] = operations / taken
    large = torch.zeros((1 if quick else 64) * 2**18)
    into = torch.empty_like(large)
    taken = seconds_per_call(lambda: into.copy_(large), clock, calls=5, rounds=rounds)
    found["copy"] = 2 * large.numel() * 4 / taken
    one = torch.zeros(1)
    found["call"] = seconds_per_call(lambda: one + one, clock, calls=1000, rounds=rounds)
    return found


def count(step: Step) -> dict[str, int]:
    """Operations of products and convolutions, bytes, and calls of one step."""
    with FlopCounterMode(display=False) as operations:
        step()
    with Traffic() as traffic:
        step()
    return {
        "operations": operations.get_total_flops(),
        "bytes": traffic.bytes,
        "calls": traffic.calls,
    }


def timed(step: Step, clock: Callable[[], float], steps: int) -> dict[str, float]:
    """Median seconds of each part over so many steps."""
    for _ in range(3):
        step()
    found = {name: [] for name in step.parts()}
    for _ in range(steps):
        for name, part in step.parts().items():
            begin = clock()
            part()
            found[name].append(clock() - begin)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def main(arguments: list[str] | None = None) -> dict:
    options_of = parser(__doc__)
    options_of.add_argument("--steps", type=int, default=30)
    options = options_of.parse_args(arguments)
    if options.threads not in (None, 1):
        raise ValueError("the profile takes one thread, so that a rate means the same everywhere")
    options.threads = 1
    clock = start(options)
    limits = rates(clock, options.quick)
    print(", ".join(f"{name} {rate / 1e9:,.1f} G/s" for name, rate in limits.items()
                    if name != "call"), f"; a call {limits['call'] * 1e6:.2f} us")  # fmt: skip
    rows = {}
    for title, case in CASES.items():
        step = Step(case)
        row = count(step)
        row |= {"seconds": timed(step, clock, 2 if options.quick else options.steps)}
        precision = "bfloat16" if case.bfloat16 else "float32"
        row["precision"], row["batch_size"] = precision, case.batch_size
        row["limits"] = {
            "arithmetic": row["operations"] / limits[f"{precision} product"],
            "memory": row["bytes"] / limits["copy"],
            "calls": row["calls"] * limits["call"],
        }
        rows[title] = row
        both = {**row["seconds"], "| at the limit:": None, **row["limits"]}
        print(
            f"{title:34} {1e3 * sum(row['seconds'].values()):6.1f} ms:",
            *(k if v is None else f"{k} {1e3 * v:.2f}" for k, v in both.items()),
            flush=True,
        )
    store(options.json, "profile", {"rates": limits, "steps": rows}, options.clock)
    return {"rates": limits, "steps": rows}


if __name__ == "__main__":
    main()
