"""Flow matching: the field in closed form, its density, the regression's least loss, labels."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from vae_tutorial import fit
from vae_tutorial.models.flow_matching import FlowMatching, flow_matching
from vae_tutorial.networks import TimeMLP
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part

MEAN = np.array([0.5, -1.0])
COVARIANCE = np.array([[1.5, 0.6], [0.6, 0.4]])


class Known(Part):
    """The best field for codes from a Gaussian, less the part that the model adds by itself."""

    latent_dim, classes = 2, None

    def forward(self, z, t, labels=None):
        t = torch.as_tensor(t).to(z)[..., None]
        if t.ndim == 1:
            t = t.expand(*z.shape[:-1], 1)
        mean, cov, eye = (
            torch.from_numpy(MEAN).to(z),
            torch.from_numpy(COVARIANCE).to(z),
            torch.eye(2),
        )
        spread = t[..., None] ** 2 * cov + (1 - t[..., None]) ** 2 * eye  # of z_t
        shared = t[..., None] * cov - (1 - t[..., None]) * eye.to(z)  # of z - epsilon with z_t
        away = torch.linalg.solve(spread, (z - t * mean)[..., None])
        return mean + (shared @ away)[..., 0] - (2 * t - 1) / (t**2 + (1 - t) ** 2) * z


class Told(Part):
    """Writes down which labels it is asked with."""

    latent_dim, classes = 2, 10

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, z, t, labels=None):
        self.seen.append(labels)
        if labels is None:
            return torch.zeros_like(z)
        return labels[..., None] + torch.zeros_like(z)


def points(n=200):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).double()


def test_the_known_field_carries_noise_to_the_gaussian():
    expected = scipy.stats.multivariate_normal(MEAN, COVARIANCE)
    model, z = FlowMatching(Known(), steps=20).double(), points()
    found = model().log_prob(z)
    np.testing.assert_allclose(found, expected.logpdf(z), atol=1e-4, rtol=1e-4)
    assert (model(steps=40).log_prob(z) - found).abs().max() < 1e-4
    drawn = model.sample(20_000, seed=0)
    np.testing.assert_allclose(drawn.mean(0), MEAN, atol=0.04)
    np.testing.assert_allclose(drawn.T.cov(), COVARIANCE, atol=0.05)


def test_without_training_it_is_the_standard_normal():
    model = FlowMatching(TimeMLP(2, width=8)).double()
    expected = scipy.stats.multivariate_normal(np.zeros(2), np.eye(2)).logpdf(points())
    np.testing.assert_allclose(model().log_prob(points()).detach(), expected, atol=1e-4)
    torch.testing.assert_close(model.sample(5, seed=1), model.base().sample((5,)), rtol=9, atol=9)
    with seeded(1):
        noise = model.base().sample((5,))
    torch.testing.assert_close(model.sample(5, seed=1), noise, rtol=1e-4, atol=1e-4)


def test_a_drawn_density_integrates_to_one():
    with seeded(0), torch.no_grad():
        model = FlowMatching(TimeMLP(2, width=16), steps=20).double()
        model.network.last.weight.normal_(0, 0.5)
        model.network.last.bias.normal_(0, 0.5)
    side = torch.linspace(-9, 9, 121).double()
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        density = model().log_prob(grid).exp()
    assert abs(float(density.sum()) * float(side[1] - side[0]) ** 2 - 1) < 2e-3
    assert density.max() > 0.25  # it is not the standard normal, whose density is 0.16 at most


def test_the_least_loss_of_the_regression():
    """For codes of variance s^2, one dimension: the integral of s^2 / (t^2 s^2 + (1 - t)^2), s pi / 2."""
    model = FlowMatching(Known()).double().eval()
    with seeded(0):
        z = (
            torch.from_numpy(MEAN)
            + points(200_000) @ torch.from_numpy(np.linalg.cholesky(COVARIANCE)).T
        )
        loss = flow_matching(model, z)["loss"]
        worse = flow_matching(FlowMatching(TimeMLP(2, 4)).double(), z)["loss"].mean()
    least = math.pi / 2 * np.sqrt(np.linalg.eigvalsh(COVARIANCE)).sum()
    assert loss.shape == (200_000,)
    assert abs(loss.mean() - least) < 4 * loss.std() / len(loss) ** 0.5
    assert worse > least + 0.5


def test_training_finds_the_gaussian():
    z = torch.from_numpy(MEAN) + points(4000) @ torch.from_numpy(np.linalg.cholesky(COVARIANCE)).T
    with seeded(0):
        model = FlowMatching(TimeMLP(2, width=64), steps=10)
    arguments = dict(epochs=15, batch_size=200, learning_rate=3e-3, progress=False)
    fit(model, flow_matching, z.float(), **arguments)
    truth = scipy.stats.multivariate_normal(MEAN, COVARIANCE).logpdf(z)
    standard = scipy.stats.multivariate_normal(np.zeros(2), np.eye(2)).logpdf(z)
    found = model().log_prob(z.float()).mean()
    assert truth.mean() - found < 0.05 < truth.mean() - standard.mean()


def test_labels_are_hidden_in_training_alone():
    model, labels = FlowMatching(Told(), drop=0.25), torch.zeros(4000, dtype=torch.int64)
    with seeded(0):
        flow_matching(model, torch.zeros(4000, 2), labels)
        flow_matching(model.eval(), torch.zeros(4000, 2), labels)
    training, evaluation = model.network.seen
    assert abs((training == 10).float().mean() - 0.25) < 0.03
    assert ((training == 10) | (training == 0)).all()
    assert not evaluation.any()


def test_times_are_spread_over_the_batch():
    class Times(Told):
        classes = None

        def forward(self, z, t, labels=None):
            self.seen.append(t)
            return torch.zeros_like(z)

    model = FlowMatching(Times())
    for seed in range(3):
        with seeded(seed):
            flow_matching(model, torch.zeros(50, 2))
    for t in model.network.seen:
        np.testing.assert_allclose(np.diff(np.sort(t)), 1 / 50, atol=1e-6)
    assert len({float(t[0]) for t in model.network.seen}) == 3


def test_guidance_goes_on_along_the_difference():
    model, z, labels = FlowMatching(Told()), torch.zeros(3, 2), torch.tensor([1, 2, 3])
    for guidance, factor in ((0.0, 0.0), (1.0, 1.0), (2.5, 2.5)):
        v = model.velocity(z, 0.5, labels, guidance)
        torch.testing.assert_close(v, factor * labels[:, None].expand(3, 2).float())
    assert model(labels).batch_shape == (3,)
    assert model(labels).log_prob(torch.zeros(4, 3, 2)).shape == (4, 3)
    assert model.sample(labels, guidance=2.0, seed=0).shape == (3, 2)
    shift = model.sample(labels, seed=0) - model.sample(3, seed=0)
    assert (shift.diff(dim=0) > 0).all()  # the larger the label, the further it is carried


def test_errors():
    plain = FlowMatching(TimeMLP(2, width=4))
    with pytest.raises(ValueError, match="without classes"):
        plain.velocity(torch.zeros(3, 2), 0.5, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="classes=None"):
        plain.network(torch.zeros(3, 2), 0.5, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="drop"):
        FlowMatching(TimeMLP(2, width=4), drop=1.0)
    with pytest.raises(ValueError, match="positive"):
        TimeMLP(2, width=0)
