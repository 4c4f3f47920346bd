"""Training and stored runs: what is recorded, what a crash leaves behind, what is refused."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import random_images, tiny_autoencoder, tiny_vae
from torch.utils.data import DataLoader, TensorDataset

from vae_tutorial import artifacts, elbo, fit, fit_or_load, reconstruction_error, training
from vae_tutorial.data import load, to_float
from vae_tutorial.evaluation import evaluate_elbo
from vae_tutorial.likelihoods import binarize
from vae_tutorial.schedules import LinearWarmUp, OneCycle
from vae_tutorial.training import NonFiniteLossError, write_atomically

IMAGES = (random_images(50, (1, 6, 6), seed=1) * 255).byte()
HELD_OUT = (random_images(7, (1, 6, 6), seed=2) * 255).byte()
STEPS = 5  # an epoch of IMAGES in batches of 10


def train(model=None, objective=elbo, images=IMAGES, **settings):
    """Three epochs of five steps; returns the model and its history."""
    model = tiny_vae((1, 6, 6)) if model is None else model
    settings = {"epochs": 3, "batch_size": 10, "held_out": HELD_OUT} | settings
    return model, fit(model, objective, images, progress=False, device="cpu", **settings)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    """The same names and the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def assert_same_history(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        a.drop(columns="seconds"), b.drop(columns="seconds"), rtol=0, atol=0
    )


# ------------------------------------------------------------------------------ what fit does


@pytest.mark.parametrize("loader", [False, True])
def test_training_lowers_the_held_out_loss(digits, loader):
    images = digits.train.images
    if loader:
        pairs = TensorDataset(to_float(images), digits.train.labels)
        images = DataLoader(pairs, batch_size=100, shuffle=True)
    model = tiny_vae(hidden=(64,))
    before = evaluate_elbo(model, digits.validation.images)["test_negative_elbo"]
    _, history = train(model, images=images, held_out=digits.validation.images, epochs=8,
                       batch_size=100, learning_rate=OneCycle(5e-3))  # fmt: skip
    curve = history[(history.scope == "epoch") & (history.split == "held-out")].loss
    assert len(curve) == 8
    assert curve.iloc[-1] < 0.6 * before
    assert curve.iloc[-1] < curve.iloc[0]


def test_history():
    seen = []

    def objective(model, x):
        terms = elbo(model, x)
        seen.append((model.training, len(x), {k: v.detach().double() for k, v in terms.items()}))
        return terms

    images = IMAGES[:47]  # the last batch of an epoch is smaller
    _, history = train(objective=objective, images=images)
    steps = history[history.scope == "step"]
    assert list(history.columns) == [
        "scope", "split", "epoch", "step", "learning_rate", "gradient_norm",
        "loss", "reconstruction", "kl", "seconds",
    ]  # fmt: skip
    assert steps.step.tolist() == list(range(1, 3 * STEPS + 1))
    assert steps.epoch.tolist() == [1] * STEPS + [2] * STEPS + [3] * STEPS
    assert (steps.split == "train").all()
    assert (steps.learning_rate == 1e-3).all()
    assert (steps.gradient_norm > 0).all()
    for split, training_mode in (("train", True), ("held-out", False)):
        rows = history[(history.scope == "epoch") & (history.split == split)]
        assert rows.step.tolist() == [5, 10, 15]
        assert rows.seconds.is_monotonic_increasing
        calls = [(n, terms) for mode, n, terms in seen if mode is training_mode]
        per_epoch = len(calls) // 3
        for epoch in range(3):
            part = calls[epoch * per_epoch : (epoch + 1) * per_epoch]
            assert sum(n for n, _ in part) == (47 if training_mode else 7)
            for name in ("loss", "reconstruction", "kl"):
                expected = float(torch.cat([terms[name] for _, terms in part]).mean())
                assert rows[name].iloc[epoch] == pytest.approx(expected, rel=1e-5)


def test_every_image_once_an_epoch_in_another_order():
    order = []

    def objective(model, x):
        if model.training:
            order.append((x[:, 0, 0, 0] * 255).round().int().tolist())
        return elbo(model, x)

    images = torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1).expand(50, 1, 6, 6)
    train(objective=objective, images=images, epochs=2)
    first, second = (np.concatenate(part).tolist() for part in (order[:STEPS], order[STEPS:]))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != sorted(first)


def test_schedules_reach_the_objective_and_not_the_held_out_images():
    betas, held_out = [], []

    def objective(model, x, beta=1.0):
        (betas if model.training else held_out).append(beta)
        return elbo(model, x, beta=beta)

    _, history = train(objective=objective, schedules={"beta": LinearWarmUp(2.0, 0.5)},
                       learning_rate=OneCycle(1e-2))  # fmt: skip
    progress = np.arange(15) / 14
    assert betas == pytest.approx(2 * np.minimum(1, progress / 0.5))
    assert held_out == [1.0] * 3
    rates = history[history.scope == "step"].learning_rate
    assert rates.tolist() == pytest.approx([OneCycle(1e-2)(t) for t in progress])
    rows = history[(history.scope == "epoch") & (history.split == "held-out")]
    np.testing.assert_allclose(rows.loss, rows.reconstruction + rows.kl, rtol=1e-6)


def test_the_learning_rate_is_the_optimizers():
    # Adam's steps are as long as the rate says: 15 steps cannot go further than their sum.
    start = weights(tiny_vae((1, 6, 6)))
    for rate in (1e-4, 1e-2):
        moved = weights(train(learning_rate=rate)[0])
        far = max(float((moved[k] - start[k]).abs().max()) for k in start)
        assert 5 * rate < far < 16 * rate


def test_held_out_images_do_not_change_the_weights():
    with_them, _ = train()
    without, history = train(held_out=None)
    assert same(weights(with_them), weights(without))
    assert set(history.split) == {"train"}


def test_transform_is_applied_to_both():
    seen = []

    def objective(model, x):
        seen.append((model.training, set(x.unique().tolist())))
        return elbo(model, x)

    train(objective=objective, transform=binarize)
    assert {mode for mode, _ in seen} == {True, False}
    assert all(values <= {0.0, 1.0} for _, values in seen)


def test_fit_leaves_the_model_ready_and_the_random_state_alone():
    loader = DataLoader(TensorDataset(to_float(IMAGES)), batch_size=10, shuffle=True)
    for images in (IMAGES, loader):
        state = torch.get_rng_state()
        model, _ = train(images=images)
        assert not model.training
        assert torch.equal(torch.get_rng_state(), state)
    assert same(weights(model), weights(train(images=loader)[0]))


def test_clipping():
    _, history = train(objective=partial(scaled_elbo, factor=1e4), clip_norm=None)
    assert history.gradient_norm.max() > 1e4  # the norm before clipping is what is recorded
    # With Adam a constant factor changes nothing; what clipping changes is one wild batch.
    calm, wild = (partial(one_wild_batch, factor=factor) for factor in (1.0, 1e4))

    def distance(clip_norm):
        a, b = (weights(train(objective=o, clip_norm=clip_norm)[0]) for o in (calm, wild))
        return sum(float((a[k] - b[k]).square().sum()) for k in a)

    assert distance(clip_norm=1.0) < 1e-6 < distance(clip_norm=None)


def test_weight_decay_shrinks_the_weights_and_is_decoupled_from_the_gradient():
    # Without a gradient AdamW multiplies a parameter by (1 - rate * decay) a step (Loshchilov &
    # Hutter 2019, algorithm 2), and Adam leaves it alone.
    def flat(model, x):
        return {"loss": 0 * elbo(model, x)["loss"]}

    start = weights(tiny_vae((1, 6, 6)))
    decayed = weights(train(objective=flat, learning_rate=0.01, weight_decay=0.5)[0])
    for name, value in start.items():
        torch.testing.assert_close(decayed[name], value * (1 - 0.01 * 0.5) ** (3 * STEPS))
    assert same(start, weights(train(objective=flat, learning_rate=0.01)[0]))


def test_no_bar_where_the_environment_says_so(monkeypatch, capsys):
    def fit_with_a_bar():
        fit(tiny_vae((1, 6, 6)), elbo, IMAGES, epochs=1, batch_size=10, device="cpu")
        return capsys.readouterr().err

    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert fit_with_a_bar() == ""
    monkeypatch.setenv("TQDM_DISABLE", "0")
    assert "5/5" in fit_with_a_bar()


def scaled_elbo(model, x, factor):
    return {"loss": factor * elbo(model, x)["loss"]}


def one_wild_batch(model, x, factor):
    """The ELBO, but the batch that holds the first image weighs more."""
    is_wild = (x == to_float(IMAGES[:1])).all(dim=3).all(dim=2).any()
    return {"loss": elbo(model, x)["loss"] * (factor if is_wild else 1.0)}


# ----------------------------------------------------------------------- losses that break


BAD_STEP = 2 * STEPS + 3  # in the third epoch


class BreaksAt:
    """The ELBO until a step; then a term, or only its gradient, is not finite."""

    def __init__(self, step: int, how: str):
        self.step, self.how, self.calls = step, how, 0

    def __repr__(self) -> str:
        return "BreaksAt"

    def __call__(self, model, x):
        terms = elbo(model, x)
        self.calls += model.training
        if model.training and self.calls == self.step:
            if self.how == "gradient":  # 0 * sqrt(0): its value is fine, its derivative is not
                terms["loss"] = terms["loss"] + 0 * (terms["loss"] * 0).sqrt()
            else:
                terms["kl"] = terms["kl"] * float(self.how)
                terms["loss"] = terms["reconstruction"] + terms["kl"]
        return terms


@pytest.mark.parametrize(
    ("step", "how", "words"),
    [
        (BAD_STEP, "nan", "kl = nan"),
        (BAD_STEP, "inf", "kl = inf"),
        (BAD_STEP, "gradient", "gradient_norm = nan"),
        (3 * STEPS, "gradient", "gradient_norm = nan"),  # no later loss would show it
    ],
)
def test_non_finite_losses_stop_with_step_and_term(tmp_path, step, how, words):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(NonFiniteLossError, match=rf"at step {step} \(epoch 3\).*{words}") as caught:
        train(objective=BreaksAt(step, how), checkpoint=checkpoint)
    assert "log_variance_bound" in str(caught.value)
    assert "reconstruction" not in str(caught.value)  # only the terms that broke
    # The checkpoint is still the second epoch's, and training goes on from it.
    resumed, history = train(objective=BreaksAt(-1, how), checkpoint=checkpoint)
    assert same(weights(resumed), weights(train()[0]))
    assert len(history) == 3 * (STEPS + 2)


def test_unbounded_log_variance_is_named_and_a_bound_helps():
    def wild(bound):
        model = tiny_vae((1, 6, 6), bound=bound)
        with torch.no_grad():
            model.encoder.network.layers[-1].bias[2:] = 200.0
        return model

    with pytest.raises(NonFiniteLossError, match=r"at step 1 \(epoch 1\).*kl = (nan|inf)"):
        train(wild(None))
    train(wild(10.0))


# ---------------------------------------------------- processes that are killed, and full disks


DEATHS = {"step": 0, "calls": 0, "how": None}


def dying_elbo(model, x):
    """The ELBO; at the appointed training step of this process something happens."""
    DEATHS["calls"] += model.training
    if model.training and DEATHS["calls"] == DEATHS["step"]:
        match DEATHS["how"]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "full disk":
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
            case "replace" | "fsync":  # dies at the next checkpoint's rename, or before it
                setattr(os, DEATHS["how"], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    return elbo(model, x)


def _child(checkpoint: Path, step: int, how: str) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    DEATHS.update(step=step, how=how)
    try:
        train(objective=dying_elbo, checkpoint=checkpoint)
    except OSError as error:
        checkpoint.with_name("error.txt").write_text(str(error))


def train_in_a_process(checkpoint: Path, step: int, how: str) -> int:
    """Its exit code: -9 for a process that was killed."""
    context = multiprocessing.get_context("forkserver")  # imports torch once, not once a process
    context.set_forkserver_preload(["vae_tutorial", "test_training"])
    process = context.Process(target=_child, args=(checkpoint, step, how))
    process.start()
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def unbroken():
    """The weights and history of a run that nothing happened to."""
    model, history = train(objective=dying_elbo)
    return weights(model), history


def epochs_done(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, framework="pt") as file:
        return json.loads(file.metadata()["vae_tutorial"])["epoch"]


def assert_resumes_to(checkpoint: Path, unbroken) -> None:
    model, history = train(
        tiny_vae((1, 6, 6), seed=99), objective=dying_elbo, checkpoint=checkpoint
    )
    expected, expected_history = unbroken
    assert same(weights(model), expected)
    assert_same_history(history, expected_history)


@pytest.mark.parametrize(
    ("step", "how", "epochs"),
    [
        (STEPS + 1, "kill", 1),  # at the first step after a checkpoint
        (STEPS + 3, "kill", 1),  # in the middle of an epoch
        (3 * STEPS, "kill", 2),  # at the very last step
        (2 * STEPS, "fsync", 1),  # a checkpoint written in part
        (2 * STEPS, "replace", 1),  # a checkpoint written, but not yet in its place
    ],
)
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, unbroken, step, how, epochs):
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert train_in_a_process(checkpoint, step, how) == -signal.SIGKILL
    assert epochs_done(checkpoint) == epochs
    assert_resumes_to(checkpoint, unbroken)


def test_killed_before_the_first_checkpoint_and_then_again_and_again(tmp_path, unbroken):
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert train_in_a_process(checkpoint, 3, "kill") == -signal.SIGKILL
    assert not checkpoint.exists()
    done = []
    while train_in_a_process(checkpoint, STEPS + 2, "kill") == -signal.SIGKILL:
        done.append(epochs_done(checkpoint))
    assert done == [1, 2]
    assert_resumes_to(checkpoint, unbroken)


def test_a_full_disk_loses_nothing(tmp_path, unbroken):
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert train_in_a_process(checkpoint, 2 * STEPS, "full disk") == 0
    error = (tmp_path / "error.txt").read_text()
    assert "could not write" in error
    assert str(checkpoint) in error
    assert "Is the disk full?" in error
    assert epochs_done(checkpoint) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "error.txt"]
    assert_resumes_to(checkpoint, unbroken)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


# -------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    """A finished training's checkpoint."""
    path = tmp_path / "checkpoint.safetensors"
    train(checkpoint=path)
    return path


def test_a_finished_checkpoint_gives_the_finished_run(checkpoint):
    def never(model, x):
        raise AssertionError("nothing is left to train")

    never.__qualname__ = "elbo"
    resumed, history = train(tiny_vae((1, 6, 6), seed=5), objective=never, checkpoint=checkpoint)
    expected, expected_history = train()
    assert same(weights(resumed), weights(expected))
    assert_same_history(history, expected_history)
    assert not resumed.training


OTHERS = {
    "epochs": {"epochs": 4},
    "steps_per_epoch": {"images": IMAGES[:30]},
    "images": {"images": IMAGES.flip(0)},
    "held_out": {"held_out": None},
    "batch_size": {"batch_size": 11},
    "seed": {"seed": 1},
    "learning_rate": {"learning_rate": OneCycle(1e-3)},
    "schedules": {"schedules": {"beta": LinearWarmUp()}},
    "transform": {"transform": binarize},
    "clip_norm": {"clip_norm": None},
    "objective": {"objective": partial(elbo, samples=2)},
    "model": {"model": tiny_vae((1, 6, 6), hidden=(9,))},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(checkpoint, what):
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=rf"belongs to another run: .*{what}") as caught:
        train(**OTHERS[what], checkpoint=checkpoint)
    assert str(checkpoint) in str(caught.value)
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_truncated_checkpoint_is_refused(checkpoint, keep):
    content = checkpoint.read_bytes()[:keep]
    checkpoint.write_bytes(content)
    model = tiny_vae((1, 6, 6))
    before = weights(model)
    with pytest.raises(ValueError, match="is damaged") as caught:
        train(model, checkpoint=checkpoint)
    assert str(checkpoint) in str(caught.value)
    assert checkpoint.read_bytes() == content
    assert same(weights(model), before)


def test_a_weights_file_is_no_checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(tiny_vae((1, 6, 6)).state_dict(), path)
    with pytest.raises(ValueError, match="is damaged"):
        train(checkpoint=path)


# --------------------------------------------------------------------------------- artifacts


SETTINGS = {"epochs": 2, "batch_size": 100, "learning_rate": OneCycle(2e-3), "seed": 3}


@pytest.fixture
def fits(monkeypatch):
    """How often something was trained."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return fit(*args, **kwargs)

    counted.__signature__ = inspect.signature(fit)
    monkeypatch.setattr(artifacts, "fit", counted)
    monkeypatch.delenv("RETRAIN", raising=False)
    return calls


def run_of(root, name="run", model=None, **changes):
    arguments = {"evaluate": partial(evaluate_elbo, samples=2)} | SETTINGS | changes
    return fit_or_load(name, tiny_vae() if model is None else model, elbo, load("digits"),
                       root=root, progress=False, device="cpu", **arguments)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one trained run, made once; tests copy it."""
    root = tmp_path_factory.mktemp("artifacts")
    return root, run_of(root)


@pytest.fixture
def stored(trained, tmp_path):
    """A copy of the trained run's folder."""
    shutil.copytree(trained[0], tmp_path / "runs")
    return tmp_path / "runs" / "digits-run"


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_trains_once_then_loads(tmp_path, fits, monkeypatch):
    first = run_of(tmp_path)
    folder = tmp_path / "digits-run"
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "run.json"]
    before = bytes_in(folder)
    second = run_of(tmp_path, model=tiny_vae(seed=8))
    assert len(fits) == 1
    assert bytes_in(folder) == before
    assert same(weights(first.model), weights(second.model))
    assert not second.model.training
    assert first.metrics == second.metrics
    pd.testing.assert_frame_equal(first.history, second.history)
    monkeypatch.setenv("RETRAIN", "0")
    run_of(tmp_path)
    assert len(fits) == 1
    monkeypatch.setenv("RETRAIN", "1")
    run_of(tmp_path, seed=4)
    assert len(fits) == 2
    assert json.loads((folder / "run.json").read_text())["seed"] == 4
    assert bytes_in(folder)["model.safetensors"] != before["model.safetensors"]


def test_stored_metrics_are_those_of_the_stored_weights(trained):
    root, run = trained
    again = run_of(root)
    measured = evaluate_elbo(again.model, load("digits").test.images, samples=2)
    assert measured == run.metrics == run.info["metrics"]
    stored = load_file(root / "digits-run" / "model.safetensors")
    assert same({k: v.float() for k, v in stored.items()}, weights(run.model))


def test_run_json_says_what_the_run_is(trained):
    _, run = trained
    digits = load("digits")
    info = run.info
    assert info["dataset"] == {"name": "digits", "sha256": digits.sha256}
    assert info["configuration"]["settings"]["batch_size"] == 100
    assert info["configuration"]["settings"]["learning_rate"] == repr(OneCycle(2e-3))
    assert info["seed"] == 3
    assert info["versions"]["torch"] == importlib.metadata.version("torch")
    assert info["device"].startswith("cpu")
    assert info["seconds"] >= 0
    assert len(run.epochs()) == len(run.epochs("train")) == 2
    assert run.epochs("train").kl.notna().all()
    expected = fit(reset(tiny_vae(), 3), elbo, digits.train.images, progress=False, device="cpu",
                   held_out=digits.validation.images, **SETTINGS)  # fmt: skip
    columns = ["scope", "split", "epoch", "step", "loss", "kl", "gradient_norm", "learning_rate"]
    pd.testing.assert_frame_equal(run.history[columns], expected[columns], rtol=1e-5)


def reset(model, seed):
    artifacts.reset_parameters(model, seed)
    return model


def test_initial_weights_come_from_the_seed_alone():
    a, b, c = (reset(tiny_vae(seed=i), s) for i, s in ((1, 3), (2, 3), (1, 4)))
    assert same(weights(a), weights(b))
    assert not same(weights(a), weights(c))


def test_long_histories_are_thinned_but_keep_every_epoch(tmp_path):
    rows = [
        {"scope": "step", "split": "train", "epoch": 1, "step": i + 1, "loss": 1.0}
        for i in range(1201)
    ]
    rows.append({"scope": "epoch", "split": "train", "epoch": 1, "step": 1201, "loss": 1.0})
    configuration = {"settings": {"seed": 0}, "dataset": {}}
    run = artifacts.save_run(tmp_path / "r", tiny_vae(), configuration, pd.DataFrame(rows), {}, 1.0)
    assert 80 <= (run.history.scope == "step").sum() <= 100
    assert (run.history.scope == "epoch").sum() == 1


def test_bfloat16_trains_float32_weights_and_is_part_of_what_a_run_is(digits, tmp_path):
    seen = []

    def watched(model, x):
        seen.append((torch.is_autocast_enabled("cpu"), model.training))
        return elbo(model, x)

    model = reset(tiny_vae(), 0)
    x = digits.train.images[:64]
    history = fit(model, watched, x, held_out=x, epochs=2, batch_size=32, bfloat16=True,
                  progress=False)  # fmt: skip
    assert all(on is training for on, training in seen)  # held-out numbers are in full precision
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert history.loss.notna().all()
    kwargs = {"epochs": 1, "progress": False, "checkpoint": tmp_path / "c"}
    fit(reset(tiny_vae(), 0), elbo, x, bfloat16=True, **kwargs)
    with pytest.raises(ValueError, match="bfloat16"):
        fit(reset(tiny_vae(), 0), elbo, x, **kwargs)


def test_a_function_inside_a_partial_is_named_without_its_address():
    from vae_tutorial.evaluation import evaluate_elbo
    from vae_tutorial.likelihoods import binarize

    said = training.describe(partial(evaluate_elbo, transform=binarize, samples=5))
    assert said == "evaluate_elbo(samples=5, transform=binarize)"


def cut(name, keep):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def edit(*path, value):
    def change(folder):
        info = json.loads((folder / "run.json").read_text())
        inner = info
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / "run.json").write_text(json.dumps(info))

    return change


def swap_weights(folder):
    """Sound weights of the same layers, of another run."""
    save_file(
        {k: v.half() for k, v in tiny_vae(seed=7).state_dict().items()},
        folder / "model.safetensors",
    )


def flip_a_bit(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (folder / "model.safetensors").write_bytes(content)


DAMAGE = {
    "truncated weights": (cut("model.safetensors", 1000), {}, r"model\.safetensors is not the file"),
    "empty weights": (cut("model.safetensors", 0), {}, r"model\.safetensors is not the file"),
    "one bit of the weights": (flip_a_bit, {}, r"model\.safetensors is not the file"),
    "another run's weights": (swap_weights, {}, r"model\.safetensors is not the file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), {}, r"model\.safetensors cannot be read"),
    "truncated JSON": (cut("run.json", 700), {}, r"run\.json is damaged"),
    "empty JSON": (cut("run.json", 0), {}, r"run\.json is damaged"),
    "JSON of something else": (lambda f: (f / "run.json").write_text("[1, 2]"), {}, r"run\.json is damaged"),
    "bytes": (lambda f: (f / "run.json").write_bytes(bytes(range(256))), {}, r"run\.json is damaged"),
    "edited by hand": (edit("configuration", "settings", "epochs", value=9), {}, "changed by hand"),
    "no run.json": (lambda f: (f / "run.json").unlink(), {}, r"weights but no run\.json"),
    "other epochs": (lambda f: None, {"epochs": 5}, r"another configuration; .*settings\.epochs \(2 there, 5 here\)"),
    "other seed": (lambda f: None, {"seed": 0}, r"settings\.seed"),
    "other model": (lambda f: None, {"model": tiny_vae(hidden=(9,))}, "differs in model"),
    "other evaluation": (lambda f: None, {"evaluate": evaluate_elbo}, "differs in evaluate"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_or_mismatched_runs_are_named_and_kept(stored, fits, what):
    damage, changes, message = DAMAGE[what]
    damage(stored)
    before = bytes_in(stored)
    model = changes.get("model", tiny_vae())
    initial = weights(model)
    with pytest.raises(ValueError, match=message) as caught:
        run_of(stored.parent, **({"model": model} | changes))
    assert str(stored) in str(caught.value)
    assert "othing was overwritten" in str(caught.value)
    assert bytes_in(stored) == before
    assert same(weights(model), initial)
    assert not fits


def test_another_models_weights_are_never_half_loaded(stored):
    # The same names, but other shapes: load_state_dict would copy the first layers, then stop.
    other = tiny_vae(latent_dim=3)
    initial = weights(other)
    with pytest.raises(ValueError, match="belongs to another model"):
        artifacts.load_run(stored, other)
    with pytest.raises(ValueError, match="belongs to another model"):
        artifacts.load_run(stored, tiny_autoencoder())
    assert same(weights(other), initial)


def test_no_run_at_all(tmp_path):
    with pytest.raises(ValueError, match=r"no run in .*nowhere"):
        artifacts.load_run(tmp_path / "nowhere", tiny_vae())


def test_unknown_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"those of fit: epochs.*got .*epoch_count"):
        run_of(tmp_path, epoch_count=3)


class Stop(Exception):
    pass


def stops_in_the_second_epoch(*args, _write=training.write_atomically):
    _write(*args)
    raise Stop


def test_an_interrupted_run_is_resumed_and_an_interrupted_retraining_keeps_the_old(
    tmp_path, trained, monkeypatch, fits
):
    _, expected = trained
    with monkeypatch.context() as patch:
        patch.setattr(training, "write_atomically", stops_in_the_second_epoch)
        with pytest.raises(Stop):
            run_of(tmp_path)
    folder = tmp_path / "digits-run"
    assert [p.name for p in folder.iterdir()] == ["checkpoint.safetensors"]
    run = run_of(tmp_path)
    assert same(weights(run.model), weights(expected.model))
    assert run.metrics == expected.metrics

    before = bytes_in(folder)
    with monkeypatch.context() as patch:
        patch.setattr(training, "write_atomically", stops_in_the_second_epoch)
        with pytest.raises(Stop):
            run_of(tmp_path, retrain=True)
    assert bytes_in(folder).items() >= before.items()
    assert run_of(tmp_path).metrics == expected.metrics
    assert run_of(tmp_path, retrain=True).metrics == expected.metrics
    assert bytes_in(folder).keys() == before.keys()


def test_killed_between_the_weights_and_the_json_it_goes_on(tmp_path, trained, monkeypatch):
    def weights_only(path, content):
        if path.name == "run.json":
            raise Stop
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "write_atomically", weights_only)
        with pytest.raises(Stop):
            run_of(tmp_path)
    assert run_of(tmp_path).metrics == trained[1].metrics


def test_plain_autoencoders_are_stored_too(tmp_path):
    digits = load("digits")
    run = fit_or_load("ae", tiny_autoencoder(), reconstruction_error, digits, root=tmp_path,
                      progress=False, device="cpu", epochs=1)  # fmt: skip
    assert run.metrics == {}
    assert run.info["configuration"]["objective"] == "reconstruction_error"


def test_configuration_hash_is_the_same_in_every_process(trained):
    code = (
        "from test_training import *\n"
        "print(artifacts.configuration_hash(artifacts.configure(tiny_vae(), elbo, load('digits'),"
        " partial(evaluate_elbo, samples=2), SETTINGS)))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    here = Path(__file__).parent
    found = subprocess.run([sys.executable, "-c", code], cwd=here, env=environment,
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert found.stdout.strip() == trained[1].info["hash"]


def test_describe_holds_no_addresses():
    described = training.describe(partial(elbo, samples=2, beta=3.0))
    assert described == "elbo(beta=3.0, samples=2)"
    assert training.describe(OneCycle(0.1)) == "OneCycle(peak=0.1, warm_up=0.1)"
    with pytest.raises(ValueError, match=r"a lambda has no name.*with def"):
        training.describe(lambda model, x: elbo(model, x))
