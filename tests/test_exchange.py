"""Another prior for a finished VAE: its data, and what is saved, against numbers known beforehand."""

import math

import pytest
import torch
from tiny import random_images, tiny_vae
from torch.distributions import MultivariateNormal

from vae_tutorial import VAE, elbo, evaluate, fit
from vae_tutorial.data import Dataset, Split
from vae_tutorial.exchange import draw, posteriors_of, prior_cross_entropy, standardized
from vae_tutorial.priors import MixtureOfGaussians, StandardNormal
from vae_tutorial.randomness import seeded

IMAGES = (random_images(60) * 255).to(torch.uint8)
SOURCE = Dataset("images", *(Split(part, torch.zeros(20).long()) for part in IMAGES.split(20)))


def test_posteriors_are_the_encoders_and_name_their_encoder():
    vae, other = tiny_vae(latent_dim=3), tiny_vae(latent_dim=3, seed=1)
    codes = posteriors_of(vae, SOURCE, batch_size=7)
    q = vae.encoder(SOURCE.test.images / 255)
    expected = torch.stack([q.mean, q.stddev], 1)
    assert (codes.name, codes.test.examples.shape) == ("images-posteriors", (20, 2, 3))
    torch.testing.assert_close(codes.test.examples, expected.detach())
    assert posteriors_of(vae, SOURCE).sha256 == codes.sha256
    assert posteriors_of(other, SOURCE).sha256 != codes.sha256
    assert posteriors_of(VAE(vae.encoder, other.decoder, vae.prior), SOURCE).sha256 == codes.sha256


def test_standardized_codes_have_mean_zero_and_variance_one_together():
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 2, 4, generator=random) * 3 + torch.tensor([1.0, 2.0, 5.0, 9.0])
    rows[:, 1] = rows[:, 1].abs() * 0.5
    parts = [Split(part, torch.zeros(len(part)).long()) for part in rows.split((2000, 500, 500))]
    source = Dataset("codes", *parts, (), "made")
    codes, shift, factor = standardized(source)
    with seeded(0):
        before, after = draw(source.train.examples, 200), draw(codes.train.examples, 200)
    assert float(before.mean()) == pytest.approx(shift, abs=0.01)
    assert float(before.std()) == pytest.approx(1 / factor, rel=0.01)
    assert float(after.mean()) == pytest.approx(0, abs=0.01)
    assert float(after.std()) == pytest.approx(1, abs=0.01)
    test = (source.test.examples[:, 0] - shift) * factor  # those of training, on every split
    torch.testing.assert_close(codes.test.examples[:, 0], test)
    torch.testing.assert_close(codes.test.examples[:, 1], source.test.examples[:, 1] * factor)
    assert codes.sha256 != source.sha256
    assert codes.sha256 == standardized(source)[0].sha256


def test_draws_have_the_posteriors_mean_and_scale():
    posteriors = torch.tensor([[[1.0, -2.0], [0.5, 3.0]]])
    with seeded(0):
        z = draw(posteriors, 20_000)
    assert z.shape == (20_000, 1, 2)
    torch.testing.assert_close(z.mean(0), posteriors[:, 0], atol=0.05, rtol=0)
    torch.testing.assert_close(z.std(0), posteriors[:, 1], atol=0.05, rtol=0)


def test_what_is_saved_is_what_the_bound_gains():
    vae, posteriors = tiny_vae(latent_dim=3), posteriors_of(tiny_vae(latent_dim=3), SOURCE)
    with seeded(0):
        other = MixtureOfGaussians(3, 4)
    both = [VAE(vae.encoder, vae.decoder, prior) for prior in (vae.prior, other)]
    old, new = (evaluate(model, elbo, SOURCE.test, samples=2000)["negative_elbo"] for model in both)
    found = evaluate(other, prior_cross_entropy, posteriors.test, samples=2000)
    assert found["saved"] == pytest.approx(old - new, abs=0.05)
    same = prior_cross_entropy(StandardNormal(3), posteriors.test.examples)
    assert not same["saved"].any()


def test_the_gain_of_the_best_prior_is_the_divergence():
    """Codes of a correlated Gaussian: nothing saves more than KL(N(0, C) || N(0, I))."""
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    with seeded(0):
        means = MultivariateNormal(torch.zeros(2), covariance).sample((4000,))
    posteriors = torch.stack([means, torch.full_like(means, 1e-3)], 1)
    exact = MultivariateNormal(torch.zeros(2), covariance)
    best = prior_cross_entropy(lambda: exact, posteriors)["saved"].mean()
    assert float(best) == pytest.approx(-0.5 * math.log(1 - 0.8**2), abs=0.05)
    with seeded(0):
        learnt = MixtureOfGaussians(2, 2)
    fit(learnt, prior_cross_entropy, posteriors, epochs=10, learning_rate=0.02, progress=False)
    found = float(prior_cross_entropy(learnt, posteriors)["saved"].detach().mean())
    assert 0.4 < found < best + 0.02
