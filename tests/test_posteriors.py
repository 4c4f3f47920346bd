"""From a network's numbers to q(z|x)."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from vae_tutorial.posteriors import FullCovarianceGaussian, MeanFieldGaussian, bounded

both_families = pytest.mark.parametrize("family", [MeanFieldGaussian, FullCovarianceGaussian])


def drawn(family, batch: int, d: int, dtype=torch.float64):
    posterior, generator = family(d), torch.Generator().manual_seed(0)
    return posterior(torch.randn(batch, *posterior.param_shape, generator=generator).to(dtype))


def test_what_each_number_means():
    """Each *row* below the diagonal is in units of that row's standard deviation."""
    log_variance = 2 * torch.tensor([1.0, 2.0, 5.0]).log()
    parameters = torch.cat([torch.arange(3.0), log_variance, torch.tensor([0.5, 0.25, -2.0])])
    q = FullCovarianceGaussian(3, log_variance_bound=None)(parameters.unsqueeze(0))
    tril = [[1.0, 0.0, 0.0], [0.5 * 2, 2.0, 0.0], [0.25 * 5, -2.0 * 5, 5.0]]
    torch.testing.assert_close(q.scale_tril, torch.tensor([tril]))
    mean_field = MeanFieldGaussian(3, log_variance_bound=None)(parameters[:6])
    torch.testing.assert_close(mean_field.stddev, torch.tensor([1.0, 2.0, 5.0]))
    assert mean_field.mean.tolist() == q.mean[0].tolist() == [0.0, 1.0, 2.0]


@both_families
@pytest.mark.parametrize("d", [1, 2, 5])
def test_density_is_scipys(family, d):
    q = drawn(family, 3, d)
    assert (q.batch_shape, q.event_shape) == ((3,), (d,))
    z = q.sample((4,))  # (S, B, D)
    full = q.variance.diag_embed() if family is MeanFieldGaussian else q.covariance_matrix
    for i, covariance in enumerate(full):
        reference = scipy.stats.multivariate_normal(q.mean[i], covariance)
        np.testing.assert_allclose(q.log_prob(z)[:, i], reference.logpdf(z[:, i]), rtol=1e-9)


@both_families
def test_reparameterized_gradient_is_the_analytic_one(family):
    """E[z^2] = mu^2 + sigma^2, so the gradient is (2 mu, sigma^2) in (mu, log sigma^2)."""
    parameters = torch.tensor([[0.7, math.log(0.5)]], requires_grad=True)
    torch.manual_seed(0)
    family(1, None)(parameters).rsample((400_000,)).square().mean().backward()
    torch.testing.assert_close(parameters.grad, torch.tensor([[1.4, 0.5]]), atol=0.01, rtol=0)


@both_families
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_cpu(family, dtype):
    q, exact = drawn(family, 3, 4, dtype), drawn(family, 3, 4)
    z = q.rsample((2,))
    assert z.dtype == dtype
    found, expected = q.log_prob(z).double(), exact.log_prob(z.double())
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_bounded():
    value = torch.tensor([0.0, 0.01, 30.0, -30.0, 1e30, -1e30], requires_grad=True)
    out = bounded(value, 10.0)
    out.sum().backward()
    assert out.tolist() == pytest.approx([0, 0.01, 9.95, -9.95, 10, -10], rel=1e-3)
    assert value.grad.tolist() == pytest.approx([1, 1, 0.01, 0.01, 0, 0], rel=0.02)  # "1%"
    assert bounded(value, None) is value


@both_families
def test_the_docstrings_range_of_standard_deviations(family):
    low, high = family(1)(torch.tensor([[0.0, -1e6], [0.0, 1e6]])).stddev.flatten().tolist()
    assert f"{low:.2g} to {high:.0f}" in MeanFieldGaussian.__doc__


@both_families
@pytest.mark.parametrize("wrong", [(0,), (-1,), (True,), (2.5,), ("2",), (2, -1.0), (2, 0)])
def test_misuse_is_named(family, wrong):
    with pytest.raises(ValueError, match="latent_dim" if len(wrong) == 1 else "positive or None"):
        family(*wrong)
    with pytest.raises(ValueError, match=r"got \(3, 6\)"):
        family(2)(torch.zeros(3, 6))
