"""The rows of a training, and what is not finite: named with step and term."""

import numpy as np
import pytest
import torch
from tiny import HELD_OUT, ROWS, STEPS, noisy_error, squeeze, train
from torch import nn

from vae_tutorial.history import NonFiniteLossError


def test_one_row_a_step_and_one_an_epoch_and_split():
    seen = {True: [], False: []}  # in training, or not

    def objective(model, x):
        terms = noisy_error(model, x)
        seen[model.training].append({k: v.detach().double() for k, v in terms.items()})
        return terms

    _, history = train(objective=objective, data=ROWS[:47])  # the last batch is smaller
    steps = history[history.scope == "step"]
    columns = "scope split epoch step learning_rate gradient_norm loss error seconds"
    assert list(history.columns) == columns.split()
    assert steps.step.tolist() == list(range(1, 3 * STEPS + 1))
    assert steps.epoch.tolist() == [1] * STEPS + [2] * STEPS + [3] * STEPS
    assert set(steps.split) == {"train"}
    assert set(steps.learning_rate) == {1e-3}
    assert (steps.gradient_norm > 0).all()
    assert steps.loss.tolist() == pytest.approx([float(t["loss"].mean()) for t in seen[True]])
    for split, training, n in (("train", True, 47), ("held-out", False, 7)):
        rows = history[(history.scope == "epoch") & (history.split == split)]
        assert rows.step.tolist() == [5, 10, 15]
        assert rows.seconds.is_monotonic_increasing
        for epoch, part in enumerate(np.array_split(seen[training], 3)):
            for name in ("loss", "error"):  # means over examples, not over batches
                values = torch.cat([terms[name] for terms in part])
                assert len(values) == n
                assert rows[name].iloc[epoch] == pytest.approx(float(values.mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("at", "how", "where"),
    [(9, "nan", r"step 8 \(epoch 2\).*extra = nan"), (9, "-inf", r"step 8 \(epoch 2\).*extra = -inf"),
     (6, "inf", "held-out examples after epoch 1.*extra = inf"), (9, "gradient", r"step 8.*gradient_norm = nan"),
     (17, "gradient", r"step 15 \(epoch 3\).*gradient_norm = nan")],  # no later loss would show it
)  # fmt: skip
def test_what_is_not_finite_is_named_with_its_step(at, how, where):
    calls = []

    def objective(model, x):
        terms = noisy_error(model, x)
        calls.append(x)
        if how != "gradient":
            return terms | {"extra": terms["error"] * float(how if len(calls) == at else 1)}
        if len(calls) == at:  # 0 * sqrt(0): its value is fine, its derivative is not
            terms["loss"] = terms["loss"] + 0 * (terms["loss"] * 0).sqrt()
        return terms

    with pytest.raises(NonFiniteLossError, match=where) as caught:
        train(objective=objective)
    assert "error =" not in str(caught.value)  # only the terms that broke


def test_weights_that_break_in_the_very_last_update_are_noticed():
    def masked():
        model = squeeze()
        model.idle = nn.Parameter(torch.zeros(2))  # no loss shows it
        model.register_buffer("mask", torch.full((2,), -torch.inf))  # as attention has it
        return model

    def spoil(model, step):
        model.idle.data[0] = torch.nan if step == 3 * STEPS - 1 else 0.0

    train(masked())
    with pytest.raises(NonFiniteLossError, match=r"epoch 3.*idle"):
        train(masked(), after_step=spoil)
    for held_out in (HELD_OUT, None):
        with pytest.raises(NonFiniteLossError, match=r"epoch 1.*down\.weight"):
            train(held_out=held_out, learning_rate=1e38, epochs=1, batch_size=2000)
