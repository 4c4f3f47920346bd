"""The one training loop of the book: a model, an objective, batches; in one process or in many."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from vae_tutorial import distributed
from vae_tutorial.batches import Batches, Data, as_tuple
from vae_tutorial.checkpoint import load_checkpoint, save_checkpoint
from vae_tutorial.compiled import compiled
from vae_tutorial.data import floats
from vae_tutorial.evaluate import evaluate_together
from vae_tutorial.history import History, check_weights
from vae_tutorial.networks import device_of, free_to_read
from vae_tutorial.progress import progress_bar
from vae_tutorial.randomness import seeded
from vae_tutorial.schedules import Constant
from vae_tutorial.spec import Part, identify, spec

Schedule = Callable[[float], float]


def fit(
    model: nn.Module,
    objective: Callable[..., dict[str, Tensor]],
    data: Data,
    *,
    epochs: int,
    held_out: Data | None = None,
    prepare: Callable = floats,
    batch_size: int = 128,
    learning_rate: float | Schedule = 1e-3,
    schedules: Mapping[str, Schedule] | None = None,
    clip_norm: float | None = 100.0,
    weight_decay: float | None = None,
    bfloat16: bool = False,
    compile: bool | str = False,
    seed: int = 0,
    after_step: Callable[[nn.Module, int], None] | None = None,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model in place, and return what happened.

    Under ``torchrun`` (:mod:`vae_tutorial.distributed`) every process runs the same loop. Each takes
    its share of every batch and draws noise of its own; gradients are averaged, so a step is that of
    the whole batch. The first process alone writes the checkpoint and draws the bar.

    Args:
        model: any module that ``objective`` can be called with.
        objective: ``objective(model, *batch, **scheduled)`` to a dictionary of terms of shape (B,),
            among them ``"loss"``; see :mod:`vae_tutorial.objectives`.
        data: a tensor (N, ...), a tuple of tensors of one length (images and labels, say), or a
            loader with a length; see :class:`~vae_tutorial.batches.Batches`. (A loader that shuffles
            with a ``generator`` of its own cannot be resumed to the same bytes.) Many processes are
            all given the same, whole batches: no ``DistributedSampler``.
        epochs: how often each example is seen.
        held_out: data in the same form. They are evaluated after every epoch with the objective as
            it stands, without ``schedules`` (so at beta = 1), and never influence training.
        prepare: ``prepare(*stored)``, from the tensors of a stored batch to what the objective
            reads. By default bytes become floats in [0, 1] and all else stays;
            :func:`~vae_tutorial.likelihoods.binarize` draws black or white afresh.
        batch_size: examples per step, where ``data`` are tensors; of all processes together.
        learning_rate: a number, or a schedule of :mod:`vae_tutorial.schedules`.
        schedules: named arguments of the objective that change during training, for example
            ``{"beta": LinearWarmUp()}``.
        clip_norm: gradients longer than this are shortened to it; ``None`` leaves them.
        weight_decay: AdamW's decoupled decay (Loshchilov & Hutter 2019): every step shrinks each
            parameter by the fraction learning rate times this. ``None`` trains with plain Adam.
        bfloat16: compute the objective under autocast to bfloat16. Weights, their updates and all
            held-out numbers stay float32. It pays for convolutions on a GPU, and on CPUs with
            matrix units.
        compile: train through ``torch.compile`` (:class:`~vae_tutorial.compiled.Compiled`), or as it
            is, with a warning, where there is no compiler. A text is its mode:
            ``"reduce-overhead"`` on a GPU also records the objective's kernels and those of its
            gradient as CUDA graphs, for small models. Held-out examples are evaluated as ever.
            Values outside a likelihood's support then show as a loss that is not finite.
        seed: covers the order of the examples and every draw, from generators of their own. On one
            machine the same seed gives the same bytes, as long as ``compile`` and the numbers of
            threads and processes stay. First
            weights are drawn when the model is built: seed that, too. (Many processes start from
            the first one's.)
        after_step: called as ``after_step(model, step)`` behind every update, for example to average
            weights. Where it has a ``state_dict``, that is kept in checkpoints.
        device: chosen by itself when ``None``: a GPU where there is one. Of many processes each has
            the GPU of its number, or all have the CPU.
        checkpoint: a file that is replaced atomically after every epoch. When it is there, it must
            belong to the same run, and training goes on from it to the same bytes as a run that was
            never interrupted. It holds tensors and JSON; nothing is unpickled. Many processes all
            read it, from a disk that they share; it may be gone on with by more or by fewer.
        progress: show a bar (never where the environment says ``TQDM_DISABLE=1``).

    Returns:
        One row per step and one per split and epoch, told apart by ``scope`` ("step" or "epoch")
        and ``split`` ("train" or "held-out"); columns ``epoch`` (from 1), ``step`` (from 1),
        ``seconds`` since the start, ``learning_rate``, ``gradient_norm`` (before clipping), and
        every term of the objective, as a mean over examples.

    Raises:
        ValueError: for data that are no batches, or a checkpoint of another run.
        NonFiniteLossError: at the end of an epoch with a loss, gradient or weight that is not
            finite, naming the first.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    device = torch.device(device) if device is not None else default_device()
    device = distributed.join(device)  # one process on its own stays where it is
    model.to(device).train()
    batches = Batches(data, batch_size, device)
    at_once = 1000 * distributed.world_size()
    followed = None if held_out is None else Batches(held_out, at_once, device)
    rate = learning_rate if callable(learning_rate) else Constant(learning_rate)
    schedules = dict(schedules or {})
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(parameters, rate(0.0), weight_decay)
    kept = None
    if checkpoint is not None:
        identity = {
            "model": spec(model) if isinstance(model, Part) else type(model).__qualname__,
            "shapes": {k: list(v.shape) for k, v in model.state_dict().items()},
            "data": [batches.fingerprint(), followed and followed.fingerprint()],
            "settings": identify(
                {"objective": objective, "epochs": epochs, "prepare": prepare, "seed": seed,
                 "batch_size": batch_size, "learning_rate": rate, "schedules": schedules,
                 "clip_norm": clip_norm, "weight_decay": weight_decay, "bfloat16": bfloat16,
                 "after_step": after_step}
            ),
        }  # fmt: skip
        kept = _Checkpoint(Path(checkpoint), model, optimizer, after_step, identity)
    first, seconds, rows = kept.resume() if kept else (0, 0.0, [])
    history, total = History(len(batches), rows, seconds), epochs * len(batches)
    # Called with a batch, it says the terms.
    answer = distributed.together(model, compiled(objective, compile))

    with progress_bar(total, progress, initial=first * len(batches)) as bar:
        for epoch in range(first, epochs):
            # Seeds are made from (seed, epoch). So an epoch does not depend on the draws before it,
            # and resuming needs no saved random state.
            order, noise, judging = (3 * (seed * 1_000_003 + epoch) + i for i in range(3))
            with seeded(noise):
                shares = distributed.shares(batches.shuffled(order), noise)
                for i, (batch, weight, size) in enumerate(shares):
                    step = epoch * len(batches) + i
                    now = step / max(1, total - 1)  # from 0 (first step) to 1 (last step)
                    for group in optimizer.param_groups:
                        group["lr"] = rate(now)
                    scheduled = {name: schedule(now) for name, schedule in schedules.items()}
                    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                        terms = answer(*as_tuple(prepare(*batch)), **scheduled)
                    means = {name: term.mean() for name, term in terms.items()}
                    # Of many processes, one may have more examples than another.
                    means = {k: v if weight == 1 else weight * v for k, v in means.items()}
                    norm = _gradients(means["loss"], parameters, clip_norm)
                    optimizer.step()
                    if after_step is not None:
                        after_step(model, step)
                    history.step(means, norm, rate(now), size)
                    bar.update()
            history.end_epoch(epoch)
            distributed.share_buffers(model)
            check_weights(model, epoch)
            if followed is not None:
                terms = evaluate_together(model, objective, followed, prepare=prepare, seed=judging)
                history.held_out(terms, epoch)
                bar.set_postfix(epoch=epoch + 1, held_out=f"{terms['loss']:.2f}")
            if kept:
                kept.save(epoch + 1, history)
    model.eval()
    return history.frame()


def default_device() -> torch.device:
    """A CUDA GPU, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _gradients(loss: Tensor, parameters: list[Tensor], clip_norm: float | None) -> Tensor:
    """Give parameters their gradients, none longer than ``clip_norm``; return the norm before.

    For a finite norm the same bytes as ``clip_grad_norm_``, which multiplies by one where there is
    nothing to shorten. On a CPU that is seen without waiting for anything, and a pass over all
    gradients left out.
    """
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    longest = math.inf if clip_norm is None else clip_norm
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients or not free_to_read(gradients[0]):
        return torch.nn.utils.clip_grad_norm_(parameters, longest)
    norm = torch.nn.utils.get_total_norm(gradients)
    if not norm + 1e-6 <= longest:  # also where the norm is not a number
        torch.nn.utils.clip_grads_with_norm_(parameters, longest, norm)
    return norm


def _optimizer(parameters, rate: float, weight_decay: float | None) -> torch.optim.Optimizer:
    if weight_decay is None:
        return torch.optim.Adam(parameters, lr=rate, fused=True)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=True)


class _Checkpoint:
    """What training needs to go on: weights, the optimizer's state, the rows so far."""

    def __init__(self, path: Path, model, optimizer, hook, identity: dict) -> None:
        self.path, self.model, self.optimizer, self.identity = path, model, optimizer, identity
        self.hook = hook if hasattr(hook, "state_dict") else None
        # Each row becomes JSON once: a long training has hundreds of thousands of them.
        self._encoded: list[str] = []
        self._rows = 0

    def save(self, epochs: int, history: History) -> None:
        """The first process writes; the others wait until it has."""
        if distributed.rank() == 0:
            self._write(epochs, history)
        distributed.wait()

    def _write(self, epochs: int, history: History) -> None:
        slots = self.optimizer.state_dict()["state"]
        state = {
            "model": self.model.state_dict(),
            "optimizer": {f"{i}.{k}": v for i, slot in slots.items() for k, v in slot.items()},
            "hook": self.hook.state_dict() if self.hook is not None else {},
        }
        about = {"identity": self.identity, "epochs": epochs, "seconds": history.seconds}
        self._encoded += [json.dumps(row) for row in history.rows[self._rows :]]
        self._rows = len(history.rows)
        rows = ", ".join(self._encoded)
        save_checkpoint(self.path, state, f'{json.dumps(about)[:-1]}, "rows": [{rows}]}}')

    def resume(self) -> tuple[int, float, list[dict]]:
        """Epochs done, seconds they took, their rows; nothing of each where there is no file."""
        found = self._read()
        distributed.agree(
            found[0],
            f"the epochs that {self.path} holds; is its disk shared?",
            device_of(self.model),
        )
        return found

    def _read(self) -> tuple[int, float, list[dict]]:
        if not self.path.exists():
            return 0, 0.0, []
        state, about = load_checkpoint(self.path, self.identity)
        self.model.load_state_dict(state["model"])
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in state.get("optimizer", {}).items():
            index, _, key = name.partition(".")
            slots.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if self.hook is not None:
            self.hook.load_state_dict(state.get("hook", {}))
        return about["epochs"], about["seconds"], about["rows"]
