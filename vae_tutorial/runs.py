"""Trained runs on disk: ``fit_or_load`` and ``load_run``.

A run is a folder ``artifacts/DATA SET/RUN`` with two files: ``model.safetensors`` (the weights) and
``run.json`` (what they are: identity, package versions, device, seconds, history, metrics, and a
checksum over all of it). The identity is what decides the result: the model's spec, the objective,
the data and every setting. A run that serves its numbers alone may go without the weights. No
pickle is ever read.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from tqdm.auto import tqdm

from vae_tutorial import distributed
from vae_tutorial.checkpoint import differences, write_atomically
from vae_tutorial.data import Dataset, project_root
from vae_tutorial.evaluate import Estimate, evaluate
from vae_tutorial.fit import default_device, fit
from vae_tutorial.networks import device_of
from vae_tutorial.progress import hidden
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part, identify, spec
from vae_tutorial.spec import build as build_part

_PACKAGES = ("torch", "torchvision", "numpy", "vae-tutorial")
_STORED_STEPS = 100  # rows of the per-step history that a run keeps, evenly spaced
# The last two change how a run is computed, and nothing but rounding and draws.
_NOT_SETTINGS = ("held_out", "checkpoint", "progress", "device", "compile")
_ADVICE = (
    "Restore the folder (git checkout -- artifacts), or delete it to train anew. "
    "Nothing was overwritten."
)


@dataclass
class Run:
    """A trained model and what is known of it; no model where its weights were not kept."""

    name: str
    model: nn.Module | None = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    metrics: dict[str, Estimate]
    info: dict = field(repr=False)

    def epochs(self, split: str = "held-out") -> pd.DataFrame:
        """The history's rows of one split, one per epoch."""
        rows = self.history[(self.history.scope == "epoch") & (self.history.split == split)]
        return rows.dropna(axis=1, how="all").reset_index(drop=True)


def fit_or_load(
    name: str,
    build: Callable[[], nn.Module],
    objective: Callable,
    data: Dataset,
    *,
    measure: Callable[..., dict] | None = None,
    labels: bool = False,
    keep_weights: bool = True,
    root: str | Path | None = None,
    retrain: bool | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    compile: bool | str = False,
    **settings,
) -> Run:
    """Load a run whose identity matches; train, measure and save it where there is none.

    Under ``torchrun``, all processes train and measure, and the first one writes.

    The identity is made from the arguments: the model's spec, the objective, the data set's checksum
    and every setting. So changing a number here never shows the results of another one.

    Args:
        name: the run's folder in ``artifacts/DATA SET/``.
        build: makes the untrained model; called under the seed, which its first weights come from.
        objective: as for :func:`~vae_tutorial.fit.fit`.
        data: trained on ``data.train``, followed on ``data.validation``, measured on ``data.test``.
        measure: ``measure(model=..., data=...)`` to a dictionary of numbers. By default
            :func:`~vae_tutorial.evaluate.evaluate` with the training objective; a usual choice is
            ``partial(evaluate, objective=elbo, samples=10)``.
        labels: whether the objective is called with the labels, too.
        keep_weights: whether the trained weights are stored. The second and third seed of a
            comparison often serve their metrics and history alone: then ``False`` keeps the folder
            small, and the run's model is ``None``.
        root: where runs live; by default ``artifacts/`` in the checkout.
        retrain: train although there is a run, and replace it in the end. By default what the
            environment variable ``RETRAIN`` says. A run that was interrupted is gone on with.
        progress: show a bar.
        device: chosen by itself when ``None``.
        compile: as for :func:`~vae_tutorial.fit.fit`; like the device, no part of the identity.
        **settings: further arguments of :func:`~vae_tutorial.fit.fit`.

    Returns:
        The run; its model is in evaluation mode, on the device.

    Raises:
        ValueError: when the folder holds a damaged run, one with another identity, or one without
            the weights that are asked for; nothing is overwritten then.
    """
    settings = _completed_settings(settings)
    prepare = settings["prepare"]
    measure = measure or partial(evaluate, objective=objective, prepare=prepare)
    with seeded(settings["seed"]):
        model = build()
    identity = {
        "model": spec(model) if isinstance(model, Part) else {"builder": identify(build)},
        "objective": identify(objective),
        "measure": identify(measure),
        "data": {"name": data.name, "sha256": data.sha256},
        "labels": labels,
        "settings": identify(settings),
    }
    folder = runs_folder(root) / data.name / name
    device = distributed.join(torch.device(device) if device is not None else default_device())
    retrain = retraining() if retrain is None else retrain
    checkpoint = folder / "checkpoint.safetensors"
    if (folder / "run.json").exists():
        if not retrain:
            return _load(folder, model.to(device) if keep_weights else None, identity)
        finished = (folder / "run.json").stat().st_mtime
        mine = distributed.rank() == 0 and checkpoint.exists()
        if mine and checkpoint.stat().st_mtime <= finished:
            checkpoint.unlink()  # of the training that made the run: nothing would be trained anew
    if (folder / "model.safetensors").exists() and not (retrain or checkpoint.exists()):
        raise ValueError(f"{folder} holds weights but no run.json: a damaged run. {_ADVICE}")
    distributed.wait()  # until all have looked at what is there
    if progress and not hidden() and distributed.rank() == 0:
        tqdm.write(_announcement(folder, checkpoint, settings["epochs"]))

    def tensors(split) -> tuple[Tensor, ...]:
        return (split.examples, split.labels) if labels else (split.examples,)

    history = fit(
        model, objective, tensors(data.train), held_out=tensors(data.validation),
        checkpoint=checkpoint, device=device, compile=compile, progress=progress, **settings,
    )  # fmt: skip
    _round(model)  # so that the metrics are those of the weights that are stored
    found = measure(model=model, data=tensors(data.test))
    metrics = {f"test_{k}": v for k, v in found.items() if k != "loss" or len(found) == 1}
    if distributed.rank() == 0:
        _save(folder, model, identity, history, metrics, keep_weights)
        checkpoint.unlink(missing_ok=True)
    distributed.wait()
    return _load(folder, model if keep_weights else None, identity)


def load_run(
    name: str | Path,
    *,
    root: str | Path | None = None,
    build: Callable[[], nn.Module] | None = None,
) -> Run:
    """Load a run by its name alone: the model is built from the spec that the run holds.

    Args:
        name: ``"mnist/vae-2d"``, a folder below ``artifacts/``.
        root: where runs live; by default ``artifacts/`` in the checkout.
        build: makes the model of a run whose model is no :class:`~vae_tutorial.spec.Part`.

    Returns:
        The run; its model is in evaluation mode, on the CPU, or ``None`` where the run was stored
        without weights.

    Raises:
        ValueError: naming the file, and what is wrong with it: damaged, truncated or swapped
            weights, a class that no longer exists. Nothing is ever half-loaded.
    """
    folder = runs_folder(root) / name
    info = _read(folder)
    if info["weights_sha256"] is None:
        return _load(folder, None, None)
    stored = info["identity"]["model"]
    if "builder" in stored and build is None:
        raise ValueError(
            f"the model of {folder} is no vae_tutorial.spec.Part, so it cannot be built from its "
            "run.json; give the function that builds it: load_run(name, build=...)"
        )
    try:
        with seeded(0):  # first weights are drawn, and replaced
            model = build() if build is not None else build_part(stored)
    except ValueError as error:
        raise ValueError(f"the model of {folder / 'run.json'} cannot be built: {error}") from error
    return _load(folder, model, None)


def retraining() -> bool:
    """Whether the environment variable ``RETRAIN`` asks for all runs to be trained anew."""
    return os.environ.get("RETRAIN", "0") not in ("", "0")


def _completed_settings(given: dict) -> dict:
    """Settings of ``fit``, its defaults filled in."""
    parameters = inspect.signature(fit).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for name in _NOT_SETTINGS:
        known.pop(name)
    if set(given) - set(known) or "epochs" not in given:
        raise ValueError(
            f"settings are those of fit: epochs (needed), {', '.join(sorted(known))}; "
            f"got {', '.join(sorted(given)) or 'none'}"
        )
    settings = known | given
    return settings | {"schedules": dict(settings["schedules"] or {})}


def runs_folder(root: str | Path | None = None) -> Path:
    """Where runs live: ``root``, or ``artifacts/`` in the checkout."""
    return Path(root) if root is not None else project_root() / "artifacts"


def _announcement(folder: Path, checkpoint: Path, epochs: int) -> str:
    """What is about to be done, and how long it took last time, where that is known."""
    if checkpoint.exists():
        return f"A half-trained run at {folder}: going on with it"
    try:
        seconds = json.loads((folder / "run.json").read_text())["seconds"]
    except (OSError, ValueError, KeyError):
        return f"No stored run at {folder}: training for {epochs} epochs"
    return f"Training {folder} anew (it took about {max(1, round(seconds / 60))} min last time)"


# ------------------------------------------------------------------------- files


@torch.no_grad()
def _round(model: nn.Module) -> None:
    """Round weights in place to what :func:`_save` stores."""
    for tensor in model.state_dict().values():
        tensor.copy_(_stored(tensor))


def _stored(tensor: Tensor) -> Tensor:
    """float32 as float16, at half the size, unless a number is too large for that."""
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor


def _save(
    folder: Path,
    model: nn.Module,
    identity: dict,
    history: pd.DataFrame,
    metrics: dict,
    keep_weights: bool,
) -> None:
    """Write ``model.safetensors`` and ``run.json``, each atomically, the second naming the first."""
    weights = {k: _stored(v).cpu().contiguous() for k, v in model.state_dict().items()}
    content = save_tensors(weights) if keep_weights else b""
    steps, epochs = (history[history.scope == scope] for scope in ("step", "epoch"))
    keep = steps.iloc[:: max(1, -(-len(steps) // _STORED_STEPS))]
    rows = pd.concat([keep, epochs]).sort_values(
        ["step", "scope"], ascending=[True, False], kind="stable"
    )
    device, many = device_of(model), distributed.world_size()
    cuda = device.type == "cuda"
    info = {
        "name": f"{folder.parent.name}/{folder.name}",
        "identity": identity,
        "weights_sha256": hashlib.sha256(content).hexdigest() if keep_weights else None,
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
        "device": torch.cuda.get_device_name(device)
        if cuda
        else f"{device.type}, {torch.get_num_threads()} threads"
        + (f", {many} processes" if many > 1 else ""),
        "seconds": round(float(epochs.seconds.max()), 1),
        "metrics": {k: [float(v), getattr(v, "standard_error", None)] for k, v in metrics.items()},
        "history": {column: _column(rows[column]) for column in rows.columns},
    }
    # The weights first: a run.json is only ever there beside the weights it names.
    if keep_weights:
        write_atomically(folder / "model.safetensors", content)
    write_atomically(folder / "run.json", _sealed(info))
    if not keep_weights:  # those of an earlier run, which would belong to nothing
        (folder / "model.safetensors").unlink(missing_ok=True)


def _sealed(info: dict) -> bytes:
    """A run's description as a file, with a checksum over all of it."""
    text = json.dumps(info | {"sha256": _checksum(info)}, indent=1)
    # A list of numbers on one line: half the size. A string holds no line break in JSON.
    text = re.sub(r"\[\n[^][{}]*\n *\]", lambda found: re.sub(r"\s*\n\s*", "", found[0]), text)
    return (text + "\n").encode()


def _checksum(info: dict) -> str:
    rest = {k: v for k, v in info.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> dict:
    """A run's description, once its checksum was looked at."""
    path = folder / "run.json"
    try:
        info = json.loads(path.read_text())
        whole = _checksum(info) == info["sha256"]
    except FileNotFoundError:
        raise ValueError(f"there is no run in {folder}: {path.name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). {_ADVICE}") from error
    if not whole:
        raise ValueError(
            f"{path} was damaged or changed by hand: its checksum does not fit. {_ADVICE}"
        )
    return info


def _load(folder: Path, model: nn.Module | None, identity: dict | None) -> Run:
    """A run with its weights in a model, which is left alone when anything is wrong."""
    info = _read(folder)
    if identity is not None and info["identity"] != identity:
        differs = differences(_with_defaults(info["identity"]), identity)
        if differs:
            raise ValueError(
                f"{folder / 'run.json'} is another run; it differs in {'; '.join(differs)}. Give "
                "the run another name, or set RETRAIN=1 to replace it. Nothing was overwritten."
            )
    if model is not None:
        _read_weights(folder / "model.safetensors", model, info["weights_sha256"])
        model.eval()
    metrics = {k: Estimate(*v) for k, v in info["metrics"].items()}
    return Run(info["name"], model, pd.DataFrame(info["history"]), metrics, info)


def _read_weights(path: Path, model: nn.Module, digest: str | None) -> None:
    """Weights from a file into a model, once all of it is known to fit."""
    if digest is None:
        raise ValueError(
            f"{path.parent} was stored without its weights (keep_weights=False); RETRAIN=1 trains "
            "them anew. Nothing was overwritten."
        )
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("it is truncated, damaged, or of another run")
        weights = load_tensors(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{path} is not the file that run.json names ({error}). {_ADVICE}"
        ) from error
    current = model.state_dict()
    wrong = set(weights) ^ set(current) or {
        k for k in current if current[k].shape != weights[k].shape
    }
    if wrong:
        raise ValueError(
            f"{path} belongs to another model: {', '.join(sorted(wrong)[:4])} differ(s)"
        )
    model.load_state_dict({k: v.to(current[k].dtype) for k, v in weights.items()})


def _with_defaults(stored: dict) -> dict:
    """An identity written by an earlier version, options that came later at their defaults.

    So a new option does not turn every earlier run into another one.
    """
    settings = identify(_completed_settings({"epochs": 0})) | stored["settings"]
    model = stored["model"]
    if "builder" not in model:
        with contextlib.suppress(ValueError), seeded(0):  # no longer to be built: it differs
            model = spec(build_part(model))
    return stored | {"settings": settings, "model": model}


def _column(series: pd.Series) -> list:
    """A column as JSON: integers stay integers, missing numbers become null, 6 digits are kept."""
    if series.dtype.kind == "f":
        return [None if pd.isna(v) else float(f"{v:.6g}") for v in series]
    return series.tolist()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
