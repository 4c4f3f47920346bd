"""Training: what it sees, in which order, what it does to the weights, and what it leaves alone."""

from collections import Counter
from functools import partial
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import HELD_OUT, ROWS, STEPS, noisy_error, same, squeeze, train, weights
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

from vae_tutorial import evaluate
from vae_tutorial.data import Split, floats
from vae_tutorial.likelihoods import binarize
from vae_tutorial.schedules import LinearWarmUp, OneCycle


def recorded(rows, draw, **settings):
    """Which rows each training step saw, and the numbers that its objective drew there."""
    order, noise = [], []

    def objective(model, x):
        drawn = draw()
        if model.training:
            order.append((x[:, 0] * 50).round().int().tolist())
            noise.append(drawn[:10].tolist())
        return {"loss": (model(x) - x).square().sum(1)}

    data = torch.arange(float(rows))[:, None].expand(-1, 6) / 50
    train(objective=objective, data=data, **settings)
    return order, noise


def test_order_and_noise_come_from_generators_of_their_own():
    few, many = partial(torch.rand, 20), partial(torch.rand, 1000)
    order, noise = recorded(50, few)
    first, second = (np.concatenate(order[i : i + STEPS]).tolist() for i in (0, STEPS))
    assert sorted(first) == sorted(second) == list(range(50))  # each row once an epoch
    assert len({str(rows) for rows in (first, second, sorted(first))}) == 3
    assert len({str(numbers) for numbers in noise}) == len(noise)
    assert recorded(50, many)[0] == order  # whatever was drawn
    assert recorded(50, few, seed=1)[0] != order
    # At an epoch's beginning, whatever was ordered and drawn before.
    assert recorded(40, few)[1][::4] == noise[::STEPS]
    assert recorded(50, few, seed=1)[1][0] != noise[0]
    order, noise = recorded(50, lambda: torch.randperm(50))
    assert order[0] != noise[0]  # as if both were drawn from one seed


def test_held_out_examples_are_judged_as_the_objective_stands_and_change_nothing():
    seen = {True: [], False: []}  # in training, or not

    def objective(model, x, weight=1.0):
        seen[model.training].append(weight)
        return noisy_error(model, x, weight=weight)

    rate, path = OneCycle(1e-2), [squeeze().down.weight]
    settings = {"schedules": {"weight": LinearWarmUp(2.0, 0.5)}, "learning_rate": rate,
                "after_step": lambda model, step: path.append(model.down.weight.detach().clone())}  # fmt: skip
    model, history = train(objective=objective, **settings)
    progress = np.arange(15) / 14  # 0 at the first step, 1 at the last
    assert seen[True] == pytest.approx(2 * np.minimum(1, progress / 0.5))
    assert seen[False] == [1.0] * 3
    rates = history[history.scope == "step"].learning_rate.tolist()
    assert rates == pytest.approx([rate(t) for t in progress])
    steps = [float((b - a).detach().abs().max()) for a, b in pairwise(path)]  # as long as it says
    assert all(step < 4 * rate for rate, step in zip(rates, steps, strict=True))
    without, history = train(objective=objective, **settings, held_out=None)
    assert same(weights(model), weights(without))
    assert set(history.split) == {"train"}
    model, history = train(objective=partial(noisy_error, noise=0.0))
    measured = evaluate(model, noisy_error, HELD_OUT, noise=0.0)
    assert history.loss.iloc[-1] == pytest.approx(measured["loss"], rel=1e-6)


@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize("clip", [None, 100.0, 1e-7])
def test_a_step_is_adams_of_a_gradient_of_bounded_length(decay, clip):
    model, found, rate = squeeze(), [], 0.01
    error = (model(ROWS) - ROWS).square().sum(1).mean()
    gradients = torch.autograd.grad(error, model.parameters())
    length = float(torch.cat([g.flatten() for g in gradients]).norm())
    shorten = 1.0 if clip is None else min(1.0, clip / length)
    # Loshchilov & Hutter (2019), algorithm 2; at the first step both moments, corrected, are g and g^2.
    expected = [p * (1 - rate * (decay or 0)) - rate * g * shorten / ((g * shorten).abs() + 1e-8)
                for p, g in zip(model.parameters(), gradients, strict=True)]  # fmt: skip
    _, history = train(
        model, partial(noisy_error, noise=0.0), epochs=1, batch_size=50, learning_rate=rate,
        weight_decay=decay, clip_norm=clip, held_out=None,
        after_step=lambda model, step: found.append((step, [p.grad for p in model.parameters()])),
    )  # fmt: skip
    for moved, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(moved, value, rtol=1e-4, atol=1e-5)
    assert history.gradient_norm.iloc[0] == pytest.approx(length, rel=1e-4)  # before clipping
    ((step, after),) = found
    assert step == 0
    after = float(torch.cat([g.flatten() for g in after]).norm())
    assert after == pytest.approx(length * shorten, rel=1e-3)


def test_bfloat16_computes_the_objective_and_nothing_else():
    seen = set()

    def objective(model, x):
        seen.add((model.training, model(x).dtype))
        return noisy_error(model, x)

    model, _ = train(objective=objective, bfloat16=True)
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


LABELS, FLOAT, INT = torch.arange(50) % 4, torch.float32, torch.int64
SHUFFLING = DataLoader(TensorDataset(ROWS, LABELS), batch_size=10, shuffle=True)


@pytest.mark.parametrize(
    ("data", "dtypes"),
    [(ROWS * 1e3 - 500, [FLOAT]), ((ROWS, LABELS), [FLOAT, INT]), (Split(ROWS, LABELS), [FLOAT]),
     (((ROWS * 255).byte(), LABELS), [FLOAT, INT]),  # bytes become floats
     (LABELS.reshape(50, 1, 1), [INT]), (SHUFFLING, [FLOAT, INT]), ((ROWS * 255).byte(), [FLOAT])],
    ids=["any range", "labels", "split", "bytes", "codes", "loader", "prepared"],
)  # fmt: skip
def test_forms_of_data(data, dtypes, request):
    prepare = binarize if "prepared" in request.node.name else floats

    def objective(model, x, *others):
        assert [part.dtype for part in (x, *others)] == dtypes
        assert x.dtype == INT or x.max() <= 1 or x.max() > 100  # bytes are scaled, floats are not
        assert prepare is floats or x.unique().tolist() == [0, 1]
        wide = x.float().flatten(1).expand(-1, 6)
        return {"loss": (model(wide) - wide).square().mean(1) * (1 + sum(others))}

    results = []
    for _ in range(2):
        state = torch.get_rng_state()
        model, history = train(None, objective, data, held_out=data, prepare=prepare)
        assert torch.equal(torch.get_rng_state(), state)
        assert not model.training
        results.append(weights(model))
    assert same(*results)
    epochs = history[(history.scope == "epoch") & (history.split == "held-out")]
    assert epochs.loss.iloc[-1] < epochs.loss.iloc[0]


class Waits(TorchFunctionMode):
    """Counts what makes a GPU wait for the CPU, or copies from one to the other."""

    NAMES = frozenset({"item", "tolist", "numpy", "cpu", "cuda", "__bool__", "__float__", "__int__", "__index__",
                       "is_nonzero", "nonzero", "equal", "allclose", "new_tensor", "tensor", "as_tensor"})  # fmt: skip

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.NAMES:
            self.counts[function.__name__] += 1
        return function(*args, **(kwargs or {}))

    def of(self, function):
        """The counts of a call."""
        self.counts = Counter()
        with self:
            function()
        return self.counts


@pytest.mark.parametrize(
    "changed", [{}, {"clip_norm": None}, {"bfloat16": True}, {"weight_decay": 0.1}]
)
def test_no_step_waits_for_a_gpu(changed, monkeypatch):
    module = import_module("vae_tutorial.fit")  # the package has a function of that name
    monkeypatch.setattr(module, "free_to_read", lambda value: False)  # as on a GPU
    settings = {"learning_rate": OneCycle(0.01)} | changed
    few, many = (Waits().of(lambda n=n: train(data=(ROWS[:n],), **settings)) for n in (20, 50))
    assert few == many  # with two steps an epoch as with five
    assert few["cpu"] > 0  # at the end of an epoch all is fetched at once
    assert Waits().of(lambda: float(torch.tensor(1.0))) == {"tensor": 1, "__float__": 1}


def test_a_bar_is_shown_where_allowed_and_no_epochs_are_refused(monkeypatch, capsys):
    for disable, progress, shown in (("1", True, False), ("0", True, True), ("0", False, False)):
        monkeypatch.setenv("TQDM_DISABLE", disable)
        train(epochs=1, progress=progress)
        assert ("5/5" in capsys.readouterr().err) is shown
    with pytest.raises(ValueError, match="epochs"):
        train(epochs=0)
