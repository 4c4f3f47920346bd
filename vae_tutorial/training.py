"""The one training loop of the book: a model, an objective, images."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vae_tutorial.data import check_images, to_float
from vae_tutorial.progress import progress_bar
from vae_tutorial.randomness import seeded
from vae_tutorial.schedules import Constant

Schedule = Callable[[float], float]


class NonFiniteLossError(ArithmeticError):
    """A loss became NaN or infinite; the message names the step and the term."""


class Batches:
    """Shuffled mini-batches of a tensor that stays in one piece on the device.

    A batch is one indexing operation on bytes, turned to floats there: no per-image Python work,
    which is what a plain ``DataLoader`` over images spends most of its time on.
    """

    def __init__(self, images: Tensor, batch_size: int, device: torch.device, shuffle: bool):
        self.images, self.batch_size, self.shuffle = images.to(device), batch_size, shuffle

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self):
        n = len(self.images)
        if not self.shuffle:
            for start in range(0, n, self.batch_size):
                yield to_float(self.images[start : start + self.batch_size])
            return
        order = torch.randperm(n).to(self.images.device)  # drawn on the CPU: the same everywhere
        for indices in order.split(self.batch_size):
            yield to_float(self.images[indices])


def fit(
    model: nn.Module,
    objective: Callable[..., dict[str, Tensor]],
    images: Tensor | Iterable,
    *,
    epochs: int,
    held_out: Tensor | Iterable | None = None,
    batch_size: int = 128,
    learning_rate: float | Schedule = 1e-3,
    schedules: Mapping[str, Schedule] | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    clip_norm: float | None = 100.0,
    weight_decay: float | None = None,
    bfloat16: bool | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model in place, and return what happened.

    Args:
        model: any module that ``objective`` can be called with.
        objective: ``objective(model, x, **scheduled)`` to a dictionary of terms of shape (B,),
            among them ``"loss"``; see :mod:`vae_tutorial.objectives`.
        images: a tensor (N, C, H, W), uint8 or float32 in [0, 1], or any iterable of batches
            with a length, such as a ``DataLoader``; of a batch that is a tuple the first part is
            taken. (A loader that shuffles with a ``generator`` of its own cannot be resumed to
            the same bytes.)
        epochs: how often each image is seen.
        held_out: images in the same form. They are evaluated after every epoch with the
            objective as it stands, without ``schedules`` (so at beta = 1), and never influence
            training.
        batch_size: images a step, where ``images`` is a tensor.
        learning_rate: a number, or a schedule of :mod:`vae_tutorial.schedules`.
        schedules: named arguments of the objective that change during training, for example
            ``{"beta": LinearWarmUp()}``.
        transform: applied to each float batch, training and held-out, for example
            :func:`~vae_tutorial.likelihoods.binarize`.
        clip_norm: gradients longer than this are shortened to it; ``None`` leaves them.
        weight_decay: AdamW's decoupled decay (Loshchilov & Hutter 2019): every step pulls each
            parameter towards zero by learning rate times this. ``None`` trains with plain Adam.
        bfloat16: compute the objective under autocast to bfloat16. Weights, their updates and all
            held-out numbers stay float32. It pays for convolutions on a GPU, and on CPUs with
            matrix units.
        seed: covers the order of the images and every draw. On the CPU the same seed gives the
            same bytes (with the same number of threads). Initial weights are drawn when the model
            is built: seed that, too.
        device: chosen by itself when ``None``: a GPU where there is one.
        checkpoint: a file that is replaced atomically after every epoch. When it is there, its
            configuration must match, and training goes on from it to the same bytes as a run that
            was never interrupted. It holds tensors and JSON; nothing is unpickled.
        progress: show a bar (never where the environment says ``TQDM_DISABLE=1``).

    Returns:
        One row a step and one a split and epoch, told apart by ``scope`` ("step" or "epoch") and
        ``split`` ("train" or "held-out"); columns ``epoch`` (from 1), ``step`` (from 1),
        ``seconds`` since the start, ``learning_rate``, ``gradient_norm`` (before clipping), and
        every term of the objective, as a mean over images.

    Raises:
        ValueError: for images of the wrong shape, range or type, or a checkpoint of another run.
        NonFiniteLossError: as soon as an epoch's losses are looked at, naming the first bad step.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    device = torch.device(device) if device is not None else default_device()
    model.to(device).train()
    batches = _as_batches(images, batch_size, device, shuffle=True)
    held_out_batches = None if held_out is None else _as_batches(held_out, 1000, device, False)
    rate = learning_rate if callable(learning_rate) else Constant(learning_rate)
    schedules = dict(schedules or {})
    parameters = [p for p in model.parameters() if p.requires_grad]
    if weight_decay is None:
        optimizer = torch.optim.Adam(parameters, lr=rate(0.0), fused=True)
    else:
        optimizer = torch.optim.AdamW(
            parameters, lr=rate(0.0), weight_decay=weight_decay, fused=True
        )
    total_steps = epochs * len(batches)

    identity = {  # what a checkpoint must agree on
        "epochs": epochs,
        "steps_per_epoch": len(batches),
        "batch_size": batch_size,
        "seed": seed,
        "learning_rate": repr(rate),
        "schedules": {k: repr(v) for k, v in schedules.items()},
        "clip_norm": clip_norm,
        "weight_decay": weight_decay,
        "bfloat16": bool(bfloat16),
        "objective": describe(objective),
        "transform": None if transform is None else describe(transform),
        "model": str(model),
    }
    if checkpoint is not None:
        identity |= {"images": _fingerprint(images), "held_out": _fingerprint(held_out)}
    rows: list[dict] = []
    first_epoch, elapsed = 0, 0.0
    if checkpoint is not None and Path(checkpoint).exists():
        first_epoch, elapsed, rows = _resume(Path(checkpoint), model, optimizer, identity)

    def prepared(batch) -> Tensor:
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        x = to_float(x.to(device, non_blocking=True))
        return x if transform is None else transform(x)

    start = time.perf_counter() - elapsed
    with progress_bar(total_steps, progress, initial=first_epoch * len(batches)) as bar:
        for epoch in range(first_epoch, epochs):
            # Each epoch is seeded from (seed, epoch). So an epoch does not depend on the draws
            # before it, and resuming needs no saved random state.
            with seeded(_epoch_seed(seed, epoch)):
                logs: list[Tensor] = []
                rates: list[float] = []
                for batch in batches:
                    step = epoch * len(batches) + len(logs)
                    now = step / max(1, total_steps - 1)
                    for group in optimizer.param_groups:
                        group["lr"] = rate(now)
                    x = prepared(batch)
                    scheduled = {k: s(now) for k, s in schedules.items()}
                    with torch.autocast(device.type, torch.bfloat16, enabled=bool(bfloat16)):
                        terms = objective(model, x, **scheduled)
                    means = {name: term.mean() for name, term in terms.items()}
                    optimizer.zero_grad(set_to_none=True)
                    means["loss"].backward()
                    norm = torch.nn.utils.clip_grad_norm_(
                        parameters, math.inf if clip_norm is None else clip_norm
                    )
                    optimizer.step()
                    # Kept on the device: reading a number here would make the GPU wait.
                    size = means["loss"].new_tensor(len(x))
                    logs.append(
                        torch.stack([size, norm.detach(), *(m.detach() for m in means.values())])
                    )
                    rates.append(rate(now))
                    bar.update()
                if not logs:
                    raise ValueError("the images gave no batch at all; is the data set empty?")
                names = list(means)
                # Sums over mini-batches in float64: a mean of 50,000 losses keeps its digits.
                log = torch.stack(logs).cpu().double()
                _check_finite(log[:, 1:], ["gradient_norm", *names], epoch, len(batches))
                seconds = time.perf_counter() - start
                rows += _step_rows(log, names, rates, epoch, len(batches))
                rows.append(
                    _mean_row(log[:, 2:], log[:, 0], names, epoch, len(batches), "train", seconds)
                )
            if held_out_batches is not None:
                with seeded(_epoch_seed(seed, epoch) + 1):
                    row = _evaluate(model, objective, held_out_batches, prepared)
                seconds = time.perf_counter() - start
                rows.append(
                    {"scope": "epoch", "split": "held-out", "epoch": epoch + 1,
                     "step": (epoch + 1) * len(batches), "seconds": seconds, **row}
                )  # fmt: skip
                bar.set_postfix(epoch=epoch + 1, held_out=f"{row['loss']:.2f}")
            if checkpoint is not None:
                elapsed = time.perf_counter() - start
                _save_checkpoint(
                    Path(checkpoint), model, optimizer, identity, epoch + 1, elapsed, rows
                )
    model.eval()
    return pd.DataFrame(rows)


def default_device() -> torch.device:
    """A CUDA GPU, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def describe(thing: object) -> str:
    """A name for a function or object that is the same in every process (no addresses)."""
    if hasattr(thing, "func") and hasattr(thing, "keywords"):  # functools.partial
        extra = ", ".join(
            f"{k}={describe(v) if callable(v) else repr(v)}"
            for k, v in sorted(thing.keywords.items())
        )
        return f"{describe(thing.func)}({extra})"
    name = getattr(thing, "__qualname__", None)
    if name is None:
        return repr(thing)
    if "<lambda>" in name:
        raise ValueError(
            "a lambda has no name that tells it from another one, so a stored run or checkpoint "
            "could not say what it was made with; give the function a name with def."
        )
    return name


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the file, flush to the disk, then rename: readers see the old or the new file.

    Raises:
        OSError: when the disk is full, say; the file that was there before is untouched, and
            nothing half-written is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {path} ({error.strerror}); the file that was there is unchanged. "
            "Is the disk full?",
        ) from error
    finally:  # also when a notebook's cell is interrupted; after the rename there is nothing left
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------ the details


def _as_batches(images, batch_size: int, device: torch.device, shuffle: bool):
    if isinstance(images, Tensor):
        return Batches(check_images(images), batch_size, device, shuffle)
    if not (hasattr(images, "__len__") and hasattr(images, "__iter__")):
        raise ValueError(
            f"images must be a tensor (N, C, H, W) or a DataLoader with a length, got {type(images)}"
        )
    with seeded(0):  # looking at the first batch leaves the global random state alone
        first = next(iter(images), None)
    if first is None:
        raise ValueError("the DataLoader is empty: it gave no batch")
    check_images(first[0] if isinstance(first, (tuple, list)) else first)
    return images


def _fingerprint(images) -> str | None:
    """What a checkpoint knows its images by: a checksum of a tensor, a loader's length."""
    if images is None:
        return None
    if not isinstance(images, Tensor):
        return f"a loader of {len(images)} batches"
    digest = hashlib.sha256(images.detach().cpu().contiguous().numpy()).hexdigest()
    return f"{tuple(images.shape)}, sha256 {digest}"


def _epoch_seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) * 2  # even: training; odd: the held-out images


@torch.no_grad()
def _evaluate(model, objective, batches, prepared) -> dict[str, float]:
    """Means over images of every term, with the objective's own defaults."""
    model.eval()
    total: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        x = prepared(batch)
        count += len(x)
        for name, term in objective(model, x).items():
            total[name] = total.get(name, 0.0) + term.sum()  # summed on the device, read at the end
    model.train()
    return {name: float(value) / count for name, value in total.items()}


def _check_finite(log: Tensor, names: list[str], epoch: int, steps_per_epoch: int) -> None:
    bad = ~torch.isfinite(log)
    if bad.any():
        row = int(bad.any(1).nonzero()[0])
        terms = [
            f"{n} = {float(v)}" for n, v, b in zip(names, log[row], bad[row], strict=True) if b
        ]
        raise NonFiniteLossError(
            f"the loss or its gradient is not finite at step {epoch * steps_per_epoch + row + 1} (epoch {epoch + 1}): "
            f"{', '.join(terms)}. Bound the log-variances (log_variance_bound), lower the learning "
            "rate or warm it up (schedules.OneCycle). Clipping (clip_norm) shortens a long "
            "gradient, but not Adam's first steps, whose length is the learning rate. "
            "Earlier checkpoints are untouched."
        )


def _step_rows(log: Tensor, names: list[str], rates: list[float], epoch: int, steps: int):
    for i, (row, rate) in enumerate(zip(log.tolist(), rates, strict=True)):
        yield {"scope": "step", "split": "train", "epoch": epoch + 1, "step": epoch * steps + i + 1,
               "learning_rate": rate, "gradient_norm": row[1],
               **dict(zip(names, row[2:], strict=True))}  # fmt: skip


def _mean_row(
    log: Tensor, sizes: Tensor, names, epoch: int, steps: int, split: str, seconds: float
):
    means = (log * sizes[:, None]).sum(0) / sizes.sum()
    return {"scope": "epoch", "split": split, "epoch": epoch + 1, "step": (epoch + 1) * steps,
            "seconds": seconds, **dict(zip(names, means.tolist(), strict=True))}  # fmt: skip


def _save_checkpoint(path, model, optimizer, identity, epoch, elapsed, rows) -> None:
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v.cpu().contiguous() for k, v in state.items()}
    metadata = {"identity": identity, "epoch": epoch, "seconds": elapsed, "rows": rows}
    write_atomically(path, save(tensors, {"vae_tutorial": json.dumps(metadata)}))


def _resume(path: Path, model, optimizer, identity: dict) -> tuple[int, float, list[dict]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["vae_tutorial"])
            # Cloned: the optimizer must not go on working in memory that is mapped to the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the checkpoint {path} is damaged ({error}); delete it to train from the start"
        ) from error
    differs = [k for k in identity if metadata["identity"].get(k) != identity[k]]
    if differs:
        raise ValueError(
            f"the checkpoint {path} belongs to another run: {', '.join(differs)} differ(s). "
            "Name another checkpoint file, or delete this one to train from the start."
        )
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return metadata["epoch"], metadata["seconds"], metadata["rows"]
