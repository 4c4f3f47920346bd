"""How long does a step of training take in 1, 2, 4 processes, and what does averaging cost?

    python benchmarks/many_processes.py [--json FILE]

Three measurements on this machine, with one thread for each process and gloo between them:

(a) a step of one process, by the size of its batch: without any averaging;
(b) an all-reduce, by the number of bytes and of processes;
(c) a step of n processes that share a batch, with `fit`'s own averaging.

The appendix "From one loop to many" makes a model of (a) and (b), and holds it against (c). Each
time is the shortest of several: what other programs take away is only ever added.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from vae_tutorial import (
    MLP,
    VAE,
    Bernoulli,
    Decoder,
    Encoder,
    MeanFieldGaussian,
    StandardNormal,
    distributed,
    elbo,
)
from vae_tutorial.networks import count_parameters

PROCESSES = (1, 2, 4)
BATCH = 512
BATCHES = (128, 256, 512)
NUMBERS = tuple(4**k for k in range(6, 13))  # of float32: 16 kB to 67 MB


def model_of(width: int = 512) -> VAE:
    """A VAE of MLPs on 28 by 28 pixels."""
    shape, posterior = (1, 28, 28), MeanFieldGaussian(20)
    encoder = Encoder(MLP(shape, posterior.param_shape, (width, width)), posterior)
    decoder = Decoder(MLP(20, shape, (width, width)), Bernoulli(shape, greys=True))
    return VAE(encoder, decoder, StandardNormal(20))


def seconds(function, repeats: int, warm: int = 3) -> float:
    """The shortest time of a call, in seconds; processes begin each one together."""
    taken = []
    for i in range(warm + repeats):
        distributed.wait()
        start = time.perf_counter()
        function()
        if i >= warm:
            taken.append(time.perf_counter() - start)
    return min(taken)


def step_of(batch_size: int):
    """A function that takes one step of `fit`'s kind on this process's share of a batch."""
    vae = model_of()
    x = torch.rand(batch_size, 1, 28, 28)
    (x,), weight = distributed.share((x,))
    answer = distributed.together(vae, elbo)
    parameters = list(vae.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (weight * answer(x)["loss"].mean()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 100.0)
        optimizer.step()

    return step


def measured(repeats: int, numbers=NUMBERS, batch: int = BATCH, batches=BATCHES) -> dict:
    """What this process, one of several or alone, finds: times in seconds."""
    found = {"step": seconds(step_of(batch), repeats)}
    if distributed.world_size() == 1:
        found["steps"] = {str(size): seconds(step_of(size), repeats) for size in batches}
    else:
        tensors = {n: torch.randn(n) for n in numbers}
        found["all_reduce"] = {
            str(4 * n): seconds(partial(dist.all_reduce, tensor), repeats)
            for n, tensor in tensors.items()
        }
    return found


def launch(processes: int, options: list[str]) -> dict:
    """The first process's findings of a torchrun of so many."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   f"--nproc-per-node={processes}", __file__, "--worker", str(path), *options]  # fmt: skip
        root = Path(__file__).resolve().parent.parent
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        subprocess.run(command, env=environment, check=True)
        return json.loads(path.read_text())


def shortest(findings: list):
    """The same findings, measured several times: each time the shortest of them."""
    first = findings[0]
    if isinstance(first, dict):
        return {key: shortest([found[key] for found in findings]) for key in first}
    return min(findings)


def main(arguments: list[str] | None = None) -> dict | None:
    """Measure, print, and write the JSON that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of all measurements, in turns")
    parser.add_argument("--small", action="store_true", help="little of each, as a test")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        distributed.join(torch.device("cpu"))
        small = {"numbers": NUMBERS[:2], "batch": 8, "batches": (4, 8)} if given.small else {}
        found = measured(given.repeats, **small)
        if distributed.rank() == 0:
            given.worker.write_text(json.dumps(found))
        return None
    options = ["--repeats", str(given.repeats), *["--small"] * given.small]
    chosen = PROCESSES[:2] if given.small else PROCESSES
    rounds = [{str(n): launch(n, options) for n in chosen} for _ in range(given.rounds)]
    result = {
        "parameters": count_parameters(model_of()),
        "batch": 8 if given.small else BATCH,
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()}, {platform.system()}, torch {torch.__version__}",
        "processes": shortest(rounds),
    }
    for n, found in result["processes"].items():
        print(f"{n} process(es): {1000 * found['step']:.1f} ms a step")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
