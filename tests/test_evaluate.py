"""One evaluation for every model, and the other estimators, each computed anew."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from tiny import random_images, tiny_autoencoder, tiny_vae
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from vae_tutorial import elbo, evaluate, reconstruction_error
from vae_tutorial.data import Split
from vae_tutorial.evaluate import (
    Estimate,
    active_units,
    calibration,
    importance_weighted_bound,
    latent_usage,
    moments_from_standard_normal,
    nearest_images,
    per_example,
)  # fmt: skip
from vae_tutorial.likelihoods import binarize
from vae_tutorial.randomness import seeded


def test_evaluation_is_each_terms_mean_over_all_examples_with_its_standard_error():
    vae, x = tiny_vae(spread=2.0), random_images(16)
    numbers = evaluate(vae, elbo, x, samples=3, batch_size=7, seed=4)
    with seeded(4), torch.no_grad():
        parts = [elbo(vae, batch, samples=3) for batch in x.split(7)]
    for name, value in numbers.items():
        each = torch.cat([p[name] for p in parts]).double().numpy()
        assert value == pytest.approx(each.mean())
        assert value.standard_error == pytest.approx(each.std() / 4)
    assert list(numbers) == ["loss", "negative_elbo", "reconstruction", "kl"]
    assert evaluate(vae, elbo, Split((x * 255).byte(), torch.zeros(16)), seed=4) == pytest.approx(
        evaluate(vae, elbo, ((x * 255).byte(),), seed=4)
    )


def test_an_objective_with_labels_is_evaluated_on_tuples():
    def right(model, x, labels, *, shift=0):
        return {"loss": (x.argmax(1) == labels + shift).float()}

    x, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert evaluate(nn.Identity(), right, (x, labels), batch_size=3)["loss"] == 0.75
    assert evaluate(nn.Identity(), right, (x, labels), shift=1)["loss"] == 0.0
    assert per_example(nn.Identity(), right, (x, labels))["loss"].tolist() == [1, 1, 1, 0]


def test_evaluation_of_an_autoencoder():
    model, x = tiny_autoencoder(), random_images(9)
    with torch.no_grad():
        logits = model.decoder.network(model.encoder(x)).double().numpy()
    each = (np.logaddexp(0, logits) - x.numpy() * logits).sum((1, 2, 3))  # its definition
    found = evaluate(model, reconstruction_error, x, batch_size=4)["reconstruction"]
    assert found == pytest.approx(each.mean(), rel=1e-5)
    assert found.standard_error == pytest.approx(each.std() / 3, rel=1e-3)


def test_what_prepares_a_batch_is_part_of_the_evaluation_and_of_its_seed():
    vae, x = tiny_vae(greys=False), random_images(40)
    with pytest.raises(ValueError, match="Binarize"):
        evaluate(vae, elbo, x)
    first, again = (evaluate(vae, elbo, x, prepare=binarize, seed=3) for _ in range(2))
    assert first == again
    assert first != evaluate(vae, elbo, x, prepare=binarize, seed=4)


def test_each_submodule_is_left_in_its_mode_even_after_an_error():
    vae = tiny_vae().train()
    vae.decoder.eval()
    modes = [module.training for module in vae.modules()]
    seen = []

    def watch(model, x):
        seen.append([module.training for module in model.modules()])
        assert not torch.is_grad_enabled()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        evaluate(vae, watch, random_images())
    assert not any(seen[0])
    assert [module.training for module in vae.modules()] == modes


def test_an_estimate_is_a_float_that_keeps_its_error():
    estimate = Estimate(1234.567, 0.0321)
    assert str(estimate) == "1,234.567 ± 0.032"
    assert f"{estimate:.1f}" == "1234.6"
    assert (estimate + 1, copy.deepcopy(estimate).standard_error) == (1235.567, 0.0321)
    assert (str(Estimate(2.5)), str(Estimate(97.3, 12.0))) == ("2.5", "97 ± 12")


# ---------------------------------------------------------------------- the other estimators


def test_importance_weighted_bound_of_one_image_by_hand():
    vae, x = tiny_vae(spread=2.0), random_images(5)
    with seeded(3), torch.no_grad():
        q = vae.encoder(x)
        z = q.rsample((6,))
        prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        weights = (vae.decoder(z).log_prob(x) + prior - q.log_prob(z)).double()
    largest = weights.max(0).values
    expected = largest.numpy() + np.log(np.exp((weights - largest).numpy()).mean(0))
    ours = importance_weighted_bound(vae, x, samples=6, seed=3)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="samples"):
        importance_weighted_bound(vae, x, samples=0)


def test_latent_usage_against_numpy():
    vae, x = tiny_vae(latent_dim=3, spread=3.0), random_images(50)
    usage = latent_usage(vae, x, batch_size=7)
    with torch.no_grad():
        q = vae.encoder(x)
    mean, scale = q.mean.double().numpy(), q.stddev.double().numpy()
    kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale)).mean(0)
    np.testing.assert_allclose(usage["kl"], kl, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(usage["activity"], mean.var(0, ddof=1), rtol=1e-4)


def test_a_dimension_that_ignores_the_image_is_not_active():
    vae, x = tiny_vae(latent_dim=3, spread=4.0), random_images(50)
    last = vae.encoder.network.layers[-1]
    with torch.no_grad():  # the mean and log-variance of the second dimension: always zero
        last.weight[[1, 4]] = 0
        last.bias[[1, 4]] = 0
    usage = latent_usage(vae, x)
    assert (usage["kl"][1], usage["activity"][1]) == (0, 0)
    assert active_units(vae, x) == int((usage["activity"] > 0.01).sum()) <= 2
    assert active_units(vae, x, threshold=math.inf) == 0
    with pytest.raises(ValueError, match="at least 2"):
        latent_usage(vae, x[:1])


def test_calibration_of_variances_that_are_true():
    generator = torch.Generator().manual_seed(0)
    variances = torch.rand(400, 1, 10, 10, generator=generator) + 0.01
    errors = variances.sqrt() * torch.randn(variances.shape, generator=generator)
    found = calibration(variances, errors, bins=8)
    assert found["predicted"].shape == found["actual"].shape == (8,)
    assert (found["predicted"].diff() > 0).all()
    np.testing.assert_allclose(found["actual"], found["predicted"], rtol=0.06)
    twice = calibration(variances, 2 * errors, bins=8)
    np.testing.assert_allclose(twice["actual"], 4 * found["actual"], rtol=1e-5)


def test_calibration_keeps_every_pixel():
    variances, errors = torch.rand(3, 1, 5, 5), torch.randn(3, 1, 5, 5)
    found = calibration(variances, errors, bins=75)  # one pixel per bin
    order = variances.flatten().argsort()
    assert torch.allclose(found["actual"], errors.flatten().double().square()[order])
    for bins in (0, 76):
        with pytest.raises(ValueError, match="bins"):
            calibration(variances, errors, bins=bins)
    with pytest.raises(ValueError, match="same pixels"):
        calibration(variances, errors[:2])


def test_nearest_images_are_scikit_learns():
    known, labels = random_images(60, (1, 6, 6), seed=1), torch.arange(60) % 7
    images = random_images(9, (1, 6, 6), seed=2)
    distance, votes = nearest_images(images, (known * 255).byte(), labels, k=4)
    model = NearestNeighbors(n_neighbors=4).fit((known * 255).byte().flatten(1).numpy() / 255)
    expected, found = model.kneighbors(images.flatten(1).numpy())
    np.testing.assert_allclose(distance, expected[:, 0], rtol=1e-4)
    assert torch.equal(votes, labels[torch.from_numpy(found)])
    itself, _ = nearest_images(known, known, labels, k=1)
    assert float(itself.max()) < 1e-6
    for k in (0, 61):
        with pytest.raises(ValueError, match="k must"):
            nearest_images(images, known, labels, k=k)


def test_moments_against_torchs_gaussian_kl():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(500, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 0.4
    q = MultivariateNormal(codes.mean(0).double(), torch.from_numpy(np.cov(codes.numpy().T)))
    standard = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    expected = float(kl_divergence(q, standard))
    std = codes.numpy().std(0, ddof=1)
    assert moments_from_standard_normal(codes) == pytest.approx(
        {"kl": expected, "kl_per_dimension": expected / 3, "smallest_std": std.min(),
         "largest_std": std.max(), "largest_mean": np.abs(codes.numpy().mean(0)).max()},
        rel=1e-4,
    )  # fmt: skip
    one = moments_from_standard_normal(codes[:, :1])["kl"]
    closed = kl_divergence(Normal(codes[:, 0].mean(), codes[:, 0].std()), Normal(0.0, 1.0))
    assert one == pytest.approx(float(closed), rel=1e-4)
    with pytest.raises(ValueError, match="more codes"):
        moments_from_standard_normal(torch.zeros(3, 3))
