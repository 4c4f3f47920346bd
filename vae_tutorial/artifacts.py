"""Trained runs on disk: save, load, and ``fit_or_load``.

A run is a folder with two files: ``model.safetensors`` (the weights) and ``run.json`` (what they
are: configuration and its hash, seed, data set with checksum, package versions, device, seconds,
history, metrics). No pickle is ever read.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from vae_tutorial.data import ImageData, project_root
from vae_tutorial.networks import device_of
from vae_tutorial.training import default_device, describe, fit, write_atomically

_PACKAGES = ("torch", "torchvision", "numpy", "vae-tutorial")
_STORED_STEPS = 100  # rows of the per-step history that a run keeps, evenly spaced


@dataclass
class Run:
    """A trained model and what is known of it."""

    name: str
    model: nn.Module = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    metrics: dict[str, float]
    info: dict = field(repr=False)

    def epochs(self, split: str = "held-out") -> pd.DataFrame:
        """The history's rows of one split, one an epoch."""
        rows = self.history[(self.history.scope == "epoch") & (self.history.split == split)]
        return rows.dropna(axis=1, how="all").reset_index(drop=True)


def fit_or_load(
    name: str,
    model: nn.Module,
    objective: Callable,
    data: ImageData,
    *,
    evaluate: Callable[[nn.Module, Tensor], dict[str, float]] | None = None,
    root: str | Path | None = None,
    retrain: bool | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    **settings,
) -> Run:
    """Load a run whose configuration matches; train, evaluate and save it where there is none.

    The configuration is made from the arguments: the model's layers, the objective, the data set's
    checksum and every setting. So changing a number here never shows the results of another one.

    Args:
        name: the run's folder under ``artifacts/``. On the bundled digits it is put behind
            ``digits-``.
        model: the untrained model; its weights are drawn anew from ``settings["seed"]`` before
            training, by ``reset_parameters`` of each layer.
        objective: as for :func:`~vae_tutorial.training.fit`.
        data: trained on ``data.train``, followed on ``data.validation``, evaluated on
            ``data.test``.
        evaluate: ``evaluate(model, test_images)`` to a dictionary of numbers.
        root: where runs live; by default ``artifacts/`` in the checkout.
        retrain: train although there is a run, and replace it in the end. By default what the
            environment variable ``RETRAIN`` says.
        progress: show a bar.
        device: chosen by itself when ``None``.
        **settings: further arguments of :func:`~vae_tutorial.training.fit`.

    Returns:
        The run; its model is in evaluation mode, on the device.

    Raises:
        ValueError: when the folder holds a damaged run or one of another configuration; nothing
            is overwritten then.
    """
    if retrain is None:
        retrain = os.environ.get("RETRAIN", "0") not in ("", "0")
    if data.name.startswith("digits"):
        name = f"digits-{name}"
    folder = (Path(root) if root is not None else project_root() / "artifacts") / name
    configuration = configure(model, objective, data, evaluate, settings)
    device = torch.device(device) if device is not None else default_device()
    if (folder / "run.json").exists() and not retrain:
        run = load_run(folder, model, configuration)
        run.model.to(device)
        return run
    checkpoint = folder / "checkpoint.safetensors"
    if (folder / "model.safetensors").exists() and not (retrain or checkpoint.exists()):
        raise ValueError(
            f"{folder} holds weights but no run.json: a damaged run. Restore the file, or delete the folder "
            "to train anew; nothing was overwritten."
        )

    reset_parameters(model, settings.get("seed", 0))
    if retrain and not _resumable(checkpoint, folder):
        checkpoint.unlink(missing_ok=True)
    start = time.perf_counter()
    history = fit(
        model,
        objective,
        data.train.images,
        held_out=data.validation.images,
        checkpoint=checkpoint,
        device=device,
        progress=progress,
        **settings,
    )
    train_rows = history[history.scope == "epoch"]
    seconds = float(train_rows.seconds.iloc[-1]) if len(train_rows) else time.perf_counter() - start
    round_weights(model)  # so that the metrics are those of the weights that are stored
    metrics = {} if evaluate is None else evaluate(model, data.test.images)
    run = save_run(folder, model, configuration, history, metrics, seconds)
    checkpoint.unlink(missing_ok=True)
    return run


def configure(model, objective, data: ImageData, evaluate, settings: dict) -> dict:
    """Everything that decides a run's result, as JSON values with stable names."""
    defaults = {
        k: p.default
        for k, p in inspect.signature(fit).parameters.items()
        if p.kind is p.KEYWORD_ONLY
        and k not in ("held_out", "device", "checkpoint", "progress")
        and p.default is not p.empty
    }
    unknown = set(settings) - set(defaults) - {"epochs"}
    if unknown or "epochs" not in settings:
        raise ValueError(
            f"settings are those of fit: epochs (needed), {', '.join(sorted(defaults))}; "
            f"got {', '.join(sorted(settings)) or 'none'}"
        )
    return {
        "model": str(model),
        "objective": describe(objective),
        "evaluate": None if evaluate is None else describe(evaluate),
        "dataset": {"name": data.name, "sha256": data.sha256},
        # Settings that are None are left out: an option that `fit` gains later, None by default,
        # does not turn every earlier run into one of another configuration.
        "settings": {
            k: _plain(v) for k, v in sorted((defaults | settings).items()) if v is not None
        },
    }


def configuration_hash(configuration: dict) -> str:
    """SHA-256 of the configuration's JSON with sorted keys."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def reset_parameters(model: nn.Module, seed: int) -> None:
    """Draw every layer's initial weights anew, from a seed of their own."""
    from vae_tutorial.randomness import seeded

    with seeded(seed):
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


@torch.no_grad()
def round_weights(model: nn.Module) -> None:
    """Round weights to float16 in place: what :func:`save_run` stores, at half the size."""
    for tensor in model.state_dict().values():
        if tensor.dtype == torch.float32:
            tensor.copy_(tensor.half())


def save_run(
    folder: Path, model: nn.Module, configuration: dict, history: pd.DataFrame, metrics: dict,
    seconds: float,
) -> Run:  # fmt: skip
    """Write ``model.safetensors`` and ``run.json``, each atomically, the second naming the first.

    Weights are stored as float16. Call :func:`round_weights` before measuring, so that the
    metrics are those of the stored weights.
    """
    weights = {
        k: (v.half() if v.dtype == torch.float32 else v).cpu().contiguous()
        for k, v in model.state_dict().items()
    }
    content = save_tensors(weights)
    steps = history[history.scope == "step"]
    keep = steps.iloc[:: max(1, -(-len(steps) // _STORED_STEPS))]
    stored = pd.concat([keep, history[history.scope == "epoch"]]).sort_values(
        ["step", "scope"], ascending=[True, False], kind="stable"
    )
    info = {
        "name": folder.name,
        "configuration": configuration,
        "hash": configuration_hash(configuration),
        "seed": configuration["settings"]["seed"],
        "dataset": configuration["dataset"],
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
        "device": _device_name(device_of(model)),
        "seconds": round(seconds, 1),
        "metrics": metrics,
        "history": {column: _column(stored[column]) for column in stored.columns},
    }
    # The weights first: a run.json is only ever there beside the weights it names.
    write_atomically(folder / "model.safetensors", content)
    write_atomically(folder / "run.json", (json.dumps(info, indent=1) + "\n").encode())
    return load_run(folder, model, configuration)


def load_run(folder: str | Path, model: nn.Module, configuration: dict | None = None) -> Run:
    """Load a run into a model of the same layers.

    Args:
        folder: with ``run.json`` and ``model.safetensors``.
        model: gets the weights; untouched when anything is wrong.
        configuration: what the run must have been made with; ``None`` does not look.

    Raises:
        ValueError: naming the file, and what is wrong with it: another configuration, a checksum
            that does not fit, truncated or swapped weights. The model is never half-loaded.
    """
    folder = Path(folder)
    path = folder / "run.json"
    try:
        info = json.loads(path.read_text())
        stored, digest, name = info["configuration"], info["weights_sha256"], info["name"]
        history, metrics, known = pd.DataFrame(info["history"]), info["metrics"], info["hash"]
    except FileNotFoundError:
        raise ValueError(f"there is no run in {folder}: {path.name} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). {_ADVICE}") from error
    if configuration_hash(stored) != known:
        raise ValueError(f"{path} was changed by hand: its hash does not fit. {_ADVICE}")
    if configuration is not None and configuration_hash(configuration) != known:
        raise ValueError(
            f"{path} is a run of another configuration; it differs in "
            f"{'; '.join(_differences(stored, configuration))}. Give the run another name, or set RETRAIN=1 to "
            "replace it. Nothing was overwritten."
        )
    weights_path = folder / "model.safetensors"
    try:
        content = weights_path.read_bytes()
    except OSError as error:
        raise ValueError(f"{weights_path} cannot be read ({error}). {_ADVICE}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(
            f"{weights_path} is not the file that {path.name} names: truncated, damaged, or of "
            f"another run. {_ADVICE}"
        )
    try:
        weights = load_tensors(content)
    except SafetensorError as error:
        raise ValueError(f"{weights_path} is damaged ({error}). {_ADVICE}") from error
    current = model.state_dict()
    wrong = set(weights) ^ set(current) or {
        k for k in current if current[k].shape != weights[k].shape
    }
    if wrong:
        raise ValueError(
            f"{weights_path} belongs to another model: {', '.join(sorted(wrong)[:4])} differ(s)"
        )
    model.load_state_dict({k: v.to(current[k].dtype) for k, v in weights.items()})
    model.eval()
    return Run(name, model, history, metrics, info)


_ADVICE = (
    "Restore the folder (git checkout -- artifacts), or delete it to train anew. "
    "Nothing was overwritten."
)


def _resumable(checkpoint: Path, folder: Path) -> bool:
    """A checkpoint newer than the finished run is an interrupted retraining: go on with it."""
    run = folder / "run.json"
    return checkpoint.exists() and (
        not run.exists() or checkpoint.stat().st_mtime > run.stat().st_mtime
    )


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return describe(value)


def _column(series: pd.Series) -> list:
    """A column as JSON: integers stay integers, missing numbers become null, 6 digits are kept."""
    if series.dtype.kind == "f":
        return [None if pd.isna(v) else float(f"{v:.6g}") for v in series]
    return series.tolist()


def _differences(stored: dict, wanted: dict, prefix: str = "") -> list[str]:
    found = []
    for key in sorted(set(stored) | set(wanted)):
        a, b = stored.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            short = len(str(a)) + len(str(b)) < 120
            found.append(f"{prefix}{key}" + (f" ({a} there, {b} here)" if short else ""))
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
