"""What the processes of tests/test_distributed.py do: run by torchrun, or by the test itself.

    torchrun --nproc-per-node 2 many.py TASK FOLDER

Each process writes what came out to FOLDER/TASK-RANK.pt.
"""

import os
import sys
from pathlib import Path

import torch
from tiny import HELD_OUT, ROWS, random_images, squeeze, train, weights
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vae_tutorial import checkpoint, distributed, evaluate, fit_or_load, runs
from vae_tutorial.data import Dataset, Split
from vae_tutorial.evaluate import evaluate_together
from vae_tutorial.likelihoods import binarize
from vae_tutorial.models.vqvae import VQVAE, VectorQuantizer, vq_loss
from vae_tutorial.progress import progress_bar
from vae_tutorial.randomness import seeded

NOISE = torch.randn(50, 6, generator=torch.Generator().manual_seed(3))
LABELS = torch.zeros(50, dtype=torch.int64)
DATA = Dataset("rows", *(Split(ROWS[i], LABELS[i]) for i in map(slice, (0, 30, 40), (30, 40, 50))))
WIDE = (ROWS.double(), NOISE.double())
FOLDER = None  # where this process writes
KILLED_AT = 12  # of 15 steps: in the third epoch


def given_noise(model, x, noise):
    """An objective that draws nothing: the noise comes with the examples."""
    error = (model(x + 0.1 * noise) - x).square().sum(1)
    return {"loss": error, "error": error}


def drawn_noise(model, x):
    """One that draws, of an autoencoder."""
    error = (model(x + 0.1 * torch.randn_like(x)) - x).square().sum(1)
    return {"loss": error}


class Alternating(nn.Module):
    """Uses one of two layers in turns, and a third never; only the loss is to be followed."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.calls = 0


def in_turns(model, x, noise):
    if model.training:
        model.calls += 1
    used, other = model.layers[model.calls % 2], model.layers[2]
    return {"loss": (used(x) - x).square().sum(1), "other": other(x).square().sum(1)}


def made(model_of, *, wide=True):
    with seeded(1 + distributed.rank()):  # different at first: the first process's are shared
        model = model_of()
    return model.double() if wide else model


def trained(model, objective=given_noise, examples=WIDE, held_out=None, **settings):
    settings = {"batch_size": 15, "learning_rate": 0.01} | settings
    model, history = train(model, objective, examples, held_out=held_out, **settings)
    return {"weights": weights(model), "history": history.drop(columns="seconds").to_dict("list")}


def trainings():
    """The same trainings in one process and in many: name to a function without arguments."""
    held_out = (WIDE[0][:7], WIDE[1][:7])
    sync = lambda: distributed.synchronize_batch_norm(squeeze(norm=True))  # noqa: E731
    vqvae = lambda: VQVAE((3, 8, 8), VectorQuantizer(4, 2, decay=0.9), (2, 2))  # noqa: E731
    images = random_images(50, (3, 8, 8))
    loader = DataLoader(TensorDataset(*WIDE), batch_size=15, shuffle=True)
    return {
        "plain": lambda: trained(made(squeeze), held_out=held_out),
        "single precision": lambda: trained(made(squeeze, wide=False), examples=(ROWS, NOISE)),
        "clipped": lambda: trained(made(squeeze), clip_norm=0.01),
        "a last batch of two": lambda: trained(made(squeeze), batch_size=16),
        "loader": lambda: trained(made(squeeze), examples=loader),
        "compiled": lambda: trained(made(squeeze), compile=True),
        # What has no gradient does not decay, either; a gradient of zero would be another matter.
        "unused": lambda: trained(made(Alternating), in_turns, weight_decay=0.1),
        "batch norm": lambda: trained(made(lambda: squeeze(norm=True))),
        "synchronized": lambda: trained(made(sync)),
        "moving codebook": lambda: trained(made(vqvae, wide=False), vq_loss, images),
        "bfloat16": lambda: trained(
            made(squeeze, wide=False), examples=(ROWS, NOISE), bfloat16=True
        ),
        "drawn": lambda: trained(squeeze(), drawn_noise, ROWS, prepare=binarize, held_out=HELD_OUT),
    }


def compare(folder):
    return {name: function() for name, function in trainings().items()}


def compare_few(folder):
    return {name: trainings()[name]() for name in ("plain", "a last batch of two")}


def seen(examples):
    """Which rows a process sees at each step, and the first number that it draws there."""
    steps = []

    def objective(model, x):
        steps.append(((x[:, 0] * 50).round().int().tolist(), float(torch.rand(()))))
        return {"loss": (model(x) - x).square().sum(1)}

    train(objective=objective, data=examples, held_out=None, batch_size=16, epochs=2)
    return steps


NUMBERED = torch.arange(50.0)[:, None].expand(-1, 6) / 50


def share_examples(folder):
    loader = DataLoader(TensorDataset(NUMBERED), batch_size=16, shuffle=True)
    found = {"tensors": seen(NUMBERED)}
    with seeded(5):
        found["loader"] = seen(loader)
    model = squeeze().double()
    found["evaluated"] = {
        name: (float(value), value.standard_error)
        for name, value in evaluate_together(model, given_noise, WIDE, batch_size=15).items()
    }
    return found


def normalize(folder):
    """Synchronized batch normalization of a share, against the whole: outputs and gradients."""
    found = {}
    for name, settings in {
        "usual": {},
        "all": {"momentum": None},
        "bare": {"affine": False},
    }.items():
        with seeded(0):
            x, weight = torch.randn(2, 7, 3, 2, 2, dtype=torch.float64)
            norm = nn.BatchNorm2d(3, **settings).double()
        norm = distributed.synchronize_batch_norm(norm) if distributed.world_size() > 1 else norm
        (x,), _ = distributed.share((x,))
        (weight,), _ = distributed.share((weight,))
        x.requires_grad_()
        for _ in range(2):
            y = norm(x)
        (weight * y.square()).sum().backward()
        gradients = [p.grad for p in norm.parameters()]
        found[name] = {
            "y": y.detach(), "x": x.grad, "gradients": list(map(distributed.total, gradients)),
            "buffers": list(norm.buffers()), "judged": norm.eval()(x).detach(),
        }  # fmt: skip
    return found


def write(folder):
    """What is written, and by whom, where a run is trained and then loaded."""
    written, write_atomically = [], checkpoint.write_atomically

    def noted(path, content):
        written.append(path.name)
        write_atomically(path, content)

    checkpoint.write_atomically = runs.write_atomically = noted
    os.environ["TQDM_DISABLE"] = "0"
    for _ in range(2):
        run = fit_or_load(
            "many", squeeze, silent, DATA, epochs=2, batch_size=15, root=folder / "runs",
            progress=False, device="cpu",
        )  # fmt: skip
    checkpoint.write_atomically = runs.write_atomically = write_atomically
    return {
        "written": written, "bar": not progress_bar(3, True).disable, "device": run.info["device"],
        "weights": weights(run.model), "metrics": dict(run.metrics),
    }  # fmt: skip


def silent(model, x):
    return {"loss": (model(x) - x).square().sum(1)}


def too_few(folder):
    try:
        evaluate_together(squeeze(), drawn_noise, ROWS[: distributed.world_size() - 1])
    except ValueError as error:
        return str(error)


def disagree(folder):
    path = folder / f"checkpoint-{distributed.rank()}.safetensors"
    if distributed.rank() == 0:
        path.write_bytes((folder / "checkpoint.safetensors").read_bytes())
    distributed.wait()
    try:
        killed(folder, path)
    except ValueError as error:
        return str(error)


def dies(model, step):
    """A hook: the last process ends without a word, the first time."""
    died = FOLDER / "died"
    if step == KILLED_AT and distributed.rank() == 1 and not died.exists():
        died.touch()
        os._exit(3)


def killed(folder, path=None, hook=dies):
    path = path or folder / "checkpoint.safetensors"
    settings = {"batch_size": 10, "held_out": HELD_OUT, "after_step": hook, "checkpoint": path}
    return trained(squeeze(), drawn_noise, ROWS, **settings)


def unbroken(folder):
    return killed(folder, hook=None)


def stops(model, step):
    """A hook: of many processes, each is interrupted in the third epoch."""
    if step == KILLED_AT and distributed.world_size() > 1:
        raise InterruptedError


def half(folder):
    """A checkpoint after two epochs of two processes."""
    path = folder / "half.safetensors"
    try:
        killed(folder, path, stops)
    except InterruptedError:
        return path


def after_all(folder):
    """A gradient of one process alone, after a training of all: nobody else is waited for."""
    model = squeeze()
    trained(model, drawn_noise, ROWS)
    if distributed.rank() == 0:
        evaluate(model, drawn_noise, ROWS)
        (model(ROWS) - ROWS).square().sum().backward()
        return float(model.down.weight.grad.norm())


TASKS = {
    "all": (compare, share_examples, normalize, write, too_few, after_all, unbroken, half),
    "three": (compare_few, share_examples, too_few),
    "killed": (killed, disagree),
}


def main(task, folder):
    global FOLDER
    FOLDER = Path(folder)
    distributed.join(torch.device("cpu"))
    found = {function.__name__: function(FOLDER) for function in TASKS[task]}
    torch.save(found, FOLDER / f"{task}-{distributed.rank()}.pt")


if __name__ == "__main__":
    import many  # by its name, which checkpoints know functions by

    many.main(*sys.argv[1:])
