"""Training through torch.compile: the same training, one program, and a way on without a compiler."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from tiny import ROWS, Squeeze, noisy_error, random_images, same, tiny_vae, train, weights
from torch import nn

import vae_tutorial as vt
from vae_tutorial.compiled import Compiled, _remember_formulas
from vae_tutorial.data import Dataset, Split
from vae_tutorial.models.pixelcnn import GatedPixelCNN, code_loss
from vae_tutorial.schedules import LinearWarmUp, OneCycle

IMAGES = random_images(20, seed=3)
HAS_COMPILER = any(
    map(shutil.which, ("g++", "clang++", "c++"))
)  # of the three that torch looks for


def recorded(monkeypatch):
    """Replace torch.compile by one that notes the sizes it is called with, and compiles nothing."""
    sizes = []

    def compile(objective, **settings):
        assert settings["dynamic"] is False

        def call(model, x, **scheduled):
            assert all(isinstance(value, torch.Tensor) for value in scheduled.values())
            sizes.append(len(x))
            return objective(model, x, **scheduled)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    return sizes


def test_batches_of_one_size_are_compiled_and_held_out_ones_are_not(monkeypatch):
    rate = {"schedules": {"weight": LinearWarmUp(2.0, 0.5)}, "learning_rate": OneCycle(1e-2)}
    plain, expected = train(data=ROWS[:47], **rate)
    sizes = recorded(monkeypatch)
    model, found = train(data=ROWS[:47], compile=True, **rate)
    assert sizes == 3 * [10, 10, 10, 10]  # not the last seven, nor the seven that are held out
    columns = ["loss", "error", "gradient_norm"]
    np.testing.assert_allclose(found[columns], expected[columns], rtol=1e-5)
    for name, weight in weights(model).items():
        torch.testing.assert_close(weight, weights(plain)[name], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler on this machine")
def test_a_compiled_training_is_the_training():
    """Through the real compiler, with an objective that draws nothing, up to rounding."""
    still = partial(noisy_error, noise=0.0)
    plain, expected = train(objective=still, data=ROWS[:47])
    model, found = train(objective=still, data=ROWS[:47], compile=True)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-4)
    for name, weight in weights(model).items():
        torch.testing.assert_close(weight, weights(plain)[name], rtol=1e-3, atol=1e-5)


HALT = {"at": None}  # the step behind which training breaks off


def halt(model, step):
    if step == HALT["at"]:
        raise KeyboardInterrupt


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler on this machine")
def test_a_compiled_training_is_gone_on_with_to_the_same_bytes(tmp_path, monkeypatch):
    whole, _ = train(compile=True, after_step=halt)  # its objective draws noise
    path = tmp_path / "half"
    monkeypatch.setitem(HALT, "at", 7)
    with pytest.raises(KeyboardInterrupt):
        train(compile=True, checkpoint=path, after_step=halt)
    monkeypatch.setitem(HALT, "at", None)
    model, _ = train(compile=True, checkpoint=path, after_step=halt)
    assert same(weights(model), weights(whole))


@pytest.mark.parametrize("broken", [False, True])
def test_without_a_compiler_training_goes_on(monkeypatch, broken):
    """The warning says why; where the objective itself is at fault, its error is what is raised."""

    def compile(objective, **settings):
        def call(*batch, **scheduled):
            raise RuntimeError("no working compiler\nand much more")

        return call

    def objective(model, x):
        if broken:
            raise ZeroDivisionError("mine")
        return noisy_error(model, x)

    monkeypatch.setattr(torch, "compile", compile)
    if broken:
        with pytest.raises(ZeroDivisionError, match="mine"):
            train(objective=objective, compile=True)
        return
    with pytest.warns(RuntimeWarning, match="goes on without it: no working compiler$"):
        model, _ = train(objective=objective, compile=True)
    assert same(weights(model), weights(train(objective=objective)[0]))


def test_a_text_is_the_mode_and_bools_are_none(monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda f, **settings: modes.append(settings["mode"]) or f)
    for given in (True, "reduce-overhead", False):
        train(compile=given, epochs=1)
    assert modes == [None, "reduce-overhead"]


@pytest.mark.parametrize("greys", [True, False])
def test_the_elbo_is_one_program(greys):
    """No look at a number splits it. (The compiler's own front end alone: it needs no C++.)"""
    _remember_formulas()
    vae, x = tiny_vae(greys=greys), IMAGES.round()
    compiled = torch.compile(vt.elbo, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = vt.elbo(vae, x)
    torch.manual_seed(0)
    for name, term in compiled(vae, x).items():
        torch.testing.assert_close(term, expected[name])
    assert not bool(compiled(vae, x + 5)["loss"].isfinite().any())  # what `fit` then refuses


def test_a_pixelcnns_loss_is_one_program():
    model = GatedPixelCNN(5, (3, 3), channels=4, layers=2, hidden=8)
    codes = torch.randint(5, (4, 3, 3), generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(code_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(model, codes)["loss"], code_loss(model, codes)["loss"])


def test_more_models_than_a_function_may_have_programs():
    """Each training begins anew; else the ninth model would not be compiled any more."""
    limit = torch._dynamo.config.recompile_limit
    seen = []

    def objective(model, x):
        if torch.compiler.is_compiling():
            seen.append(model.out_features)
        return {"loss": model(x).square().sum(1)}

    for width in range(1, limit + 3):
        compiled = Compiled(objective)
        compiled.compiled = torch.compile(objective, backend="eager", dynamic=False)
        compiled(nn.Linear(6, width), ROWS)
    assert seen == list(range(1, limit + 3))


def test_a_run_is_the_same_run_compiled_or_not(monkeypatch, tmp_path):
    """Like the device, it is no part of what a run is known by."""
    labels = torch.zeros(50, dtype=torch.int64)
    parts = (Split(ROWS[i], labels[i]) for i in map(slice, (0, 30, 40), (30, 40, 50)))
    settings = {"root": tmp_path, "epochs": 2, "batch_size": 10, "device": "cpu", "progress": False}
    rows = Dataset("rows", *parts)
    sizes = recorded(monkeypatch)
    trained = vt.fit_or_load("run", Squeeze, noisy_error, rows, compile=True, **settings)
    assert sizes == 6 * [10]
    loaded = vt.fit_or_load("run", Squeeze, noisy_error, rows, **settings)
    assert same(weights(loaded.model), weights(trained.model))
    assert len(sizes) == 6
