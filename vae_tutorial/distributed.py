"""Many processes that train one model: who is who, whose share of a batch, averages over all.

The same script runs as one process or as many::

    python train.py
    torchrun --nproc-per-node 2 train.py

:func:`~vae_tutorial.fit.fit` joins the processes by itself, and everything between them is torch's:
``torch.distributed`` for what is summed, ``DistributedDataParallel`` (Li et al. 2020) for the
gradients. Here are the few lines around it. In one process each of them does nothing.

A job that died is gone on with by the same command: ``fit`` finds its checkpoint. (``torchrun
--max-restarts`` starts it again by itself. In some releases of torch new processes then look for
dead ones, unless ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1``: pytorch's issue 135712.)
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# Odd, and far from every small multiple of itself modulo 2^32, which is all that a CPU's generator
# reads of a seed: no rank's noise is another epoch's.
_APART = 2_654_435_761


def world_size() -> int:
    """How many processes train together; 1 unless they have joined."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; the first one writes files and draws the bar."""
    return dist.get_rank() if world_size() > 1 else 0


def join(device: torch.device) -> torch.device:
    """Become one of ``torchrun``'s processes, where it started this one; later calls change nothing.

    Args:
        device: what one process would compute on.

    Returns:
        The device of this process, for CUDA the GPU with its number on this machine (``LOCAL_RANK``).
        Apple's GPUs cannot be shared out so: the CPU in their place.

    Raises:
        ValueError: where there are fewer GPUs than processes on this machine.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return device
    if device.type == "cuda":
        local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if here > torch.cuda.device_count():
            raise ValueError(
                f"torchrun started {here} processes for {torch.cuda.device_count()} GPU(s); start as "
                'many processes as there are GPUs, or train on CPUs with device="cpu"'
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    return device


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Go on when all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def own(seed: int) -> int:
    """A seed for this process's own noise: the first one's is the seed itself."""
    return seed + _APART * rank()


# ------------------------------------------------------------------------- shares of a batch


def share(batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], float]:
    """This process's examples of a batch, and the weight of their mean.

    With W processes, rank r takes the examples r, r + W, r + 2W, ... of tensors (B, ...). The weight
    is n W / B for n examples, so that the plain average over the processes of (weight times mean of
    the share) is the mean of the batch, equal shares or not. A process for which none is left
    computes on the first example, at weight 0: each must have a part in every average.
    """
    size, many = len(batch[0]), world_size()
    if many == 1:
        return batch, 1.0
    mine = tuple(part[rank() :: many] for part in batch)
    if not len(mine[0]):
        return tuple(part[:1] for part in batch), 0.0
    return mine, len(mine[0]) * many / size


def shares(
    batches: Iterable[tuple[Tensor, ...]], noise: int
) -> Iterator[tuple[tuple[Tensor, ...], float, int]]:
    """Batches as :func:`share` cuts them, each with its weight and the size of the whole batch.

    To be used inside ``seeded(noise)``. Once the first batch is there, each process goes on with
    noise of its own. Not before: a loader that shuffles draws its order then, and all need the same.
    """
    for i, batch in enumerate(batches):
        if i == 0 and rank():
            torch.manual_seed(own(noise))
        yield *share(batch), len(batch[0])


class Shares:
    """The batches of a data set, without what other processes look at; to be evaluated.

    Args:
        batches: with a length; all processes must be given the same.
    """

    def __init__(self, batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self.batches:
            mine, weight = share(batch)
            if weight:
                yield mine


# ------------------------------------------------------------------------- sums and averages


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, without a gradient; the tensor itself in one process."""
    if world_size() == 1:
        return tensor
    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed


def mean(tensor: Tensor) -> Tensor:
    """The average over all processes, without a gradient; the tensor itself in one process."""
    return tensor if world_size() == 1 else total(tensor) / world_size()


def from_first(tensor: Tensor) -> Tensor:
    """The first process's tensor, copied into this one in place."""
    if world_size() > 1:
        dist.broadcast(tensor, 0)
    return tensor


def agree(number: int, what: str, device: torch.device) -> None:
    """Raise a ValueError, on all processes, unless all have the same number.

    Args:
        number: a whole number.
        what: what it is, for the message.
        device: of this process.
    """
    if world_size() > 1:
        numbers = torch.zeros(world_size(), dtype=torch.int64, device=device)
        numbers[rank()] = number
        found = total(numbers).tolist()
        if len(set(found)) > 1:
            raise ValueError(f"the processes differ in {what}: {found}")


# ------------------------------------------------------------------------- gradients


def together(model: nn.Module, objective: Callable) -> Callable[..., dict[str, Tensor]]:
    """``objective(model, ...)`` whose gradients become the averages over all processes.

    :class:`~torch.nn.parallel.DistributedDataParallel` gives every process the first one's weights,
    and averages gradients while the backward pass still runs. It listens to the forward pass of a
    module. An objective may call any part of a model, so the module is made here: one whose forward
    pass is the objective. Buffers (running means of batch normalization, say) are the first
    process's at every step.
    """
    if world_size() == 1:
        return partial(objective, model)
    # Some objectives leave parameters out, at some steps. (Where none does, DDP warns once that it
    # looked for them in vain.)
    device = next(model.parameters()).device
    return DistributedDataParallel(
        _Objective(model, objective),
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=True,
    )


class _Objective(nn.Module):
    """An objective as a module: its forward pass are the terms, with a gradient for the loss alone.

    No backward pass comes from the others, and DDP is not to wait for one: it asks that all outputs
    have a part in the loss.
    """

    def __init__(self, model: nn.Module, objective: Callable) -> None:
        super().__init__()
        self.model, self.terms = model, partial(objective, model)

    def forward(self, *batch, **scheduled) -> dict[str, Tensor]:
        terms = self.terms(*batch, **scheduled)
        return {k: term if k == "loss" else term.detach() for k, term in terms.items()}


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers, in place."""
    for buffer in model.buffers():
        from_first(buffer)


# ------------------------------------------------------------------------- batch normalization


class _Sum(torch.autograd.Function):
    """The sum over all processes; what comes back is the sum of what all processes send back."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return total(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return total(gradient)


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization over the whole batch, of which each process holds a share.

    Each process adds up its share's numbers, and then their squared distances from the common mean.
    Each sum goes over all processes, forward and backward, and all normalize by the same mean and
    variance (Ioffe & Szegedy 2015, algorithm 1).
    That is what ``torch.nn.SyncBatchNorm`` does on GPUs, the only devices it knows; this one works
    on CPUs, too. Arguments and state are those of ``torch.nn.BatchNorm1d``; x (B, C) or (B, C, ...).
    In one process, and in evaluation, it is ordinary batch normalization.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (B, C) or (B, C, ...), got {tuple(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        kind, over = x.dtype, [0, *range(2, x.ndim)]
        x = x.to(torch.promote_types(kind, torch.float32))  # sums of bfloat16 lose their digits
        # The mean first, then squares around it: their difference would cancel.
        n = x.new_tensor([x.numel() / x.shape[1]])
        summed = _Sum.apply(torch.cat([x.sum(over), n]))
        count = summed[-1].detach()
        mean = self._along(summed[:-1] / count, x)
        variance = _Sum.apply((x - mean).square().sum(over)) / count
        with torch.no_grad():
            self._follow(mean.flatten(), variance * count / (count - 1))
        normal = (x - mean) * self._along((variance + self.eps).rsqrt(), x)
        if self.affine:
            normal = normal * self._along(self.weight, x) + self._along(self.bias, x)
        return normal.to(kind)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance, rate)

    @staticmethod
    def _along(values: Tensor, x: Tensor) -> Tensor:
        """(C,) shaped so that it goes along the channels of x."""
        return values.view(1, -1, *[1] * (x.ndim - 2))


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every batch normalization of a model by a :class:`SyncBatchNorm` with its state.

    In place, except where the model itself is one; weights keep their names. The like of
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` for any device.
    """
    if isinstance(model, nn.modules.batchnorm._BatchNorm):
        keeps = ("num_features", "eps", "momentum", "affine", "track_running_stats")
        made = SyncBatchNorm(**{name: getattr(model, name) for name in keeps})
        made._parameters, made._buffers = model._parameters, model._buffers  # the same tensors
        return made.train(model.training)
    for name, child in model.named_children():
        setattr(model, name, synchronize_batch_norm(child))
    return model
