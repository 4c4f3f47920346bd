"""Missing pixels: every answer against a linear-Gaussian model's closed form or a grid."""

import math

import pytest
import torch
from tiny import random_images, tiny_vae
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import vae_tutorial as vt
from vae_tutorial.likelihoods import Gaussian, Observed
from vae_tutorial.missing import Imputation, fit_proposal, gibbs, importance, log_likelihood

NOISE = 0.6


class Linear(vt.Part):
    """x -> numbers (B, n, 1, 1) or (B, 2 D), linear."""

    def __init__(self, weight, bias, out_shape):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.out_shape = out_shape

    def forward(self, x):
        return (x.flatten(1) @ self.weight.T + self.bias).unflatten(1, self.out_shape)


def linear_vae(wrong=1.0, pixels=6):
    """x = W z + noise, z of two dimensions; the encoder is exact, but for a factor of its scales."""
    random = torch.Generator().manual_seed(3)
    # Orthogonal columns, so that the exact posterior of a whole image is mean-field.
    W = torch.linalg.qr(torch.randn(pixels, 2, generator=random))[0] * torch.tensor([1.5, 0.8])
    precision = 1 + W.square().sum(0) / NOISE**2
    weight = torch.cat([W.T / NOISE**2 / precision[:, None], torch.zeros(2, pixels)])
    bias = torch.cat([torch.zeros(2), 2 * math.log(wrong) - precision.log()])
    posterior = vt.MeanFieldGaussian(2, None)
    encoder = vt.Encoder(Linear(weight, bias, (4,)), posterior)
    likelihood = Gaussian((1, 1, pixels), scale=NOISE, bounded_mean=False)
    decoder = vt.Decoder(Linear(W, torch.zeros(pixels), (1, 1, pixels)), likelihood)
    x = random_images(3, (1, 1, pixels), seed=4) * 3 - 1
    observed = torch.ones(3, 1, 1, pixels, dtype=torch.bool)
    observed[0, ..., 2:], observed[1, ..., ::2], observed[2, ..., -1] = False, False, False
    return vt.VAE(encoder, decoder, vt.StandardNormal(2)), W, x, observed


def conditional(W, x, observed):
    """Of one image: the exact N(x_mis | x_obs), from the covariance W W' + s^2 I, and of z."""
    C = W @ W.T + NOISE**2 * torch.eye(len(W))
    o, x = observed.flatten(), x.flatten()
    gain = C[~o][:, o] @ torch.linalg.inv(C[o][:, o])
    missing = MultivariateNormal(gain @ x[o], C[~o][:, ~o] - gain @ C[o][:, ~o])
    covariance = torch.linalg.inv(torch.eye(2) + W[o].T @ W[o] / NOISE**2)
    return missing, MultivariateNormal(covariance @ W[o].T @ x[o] / NOISE**2, covariance)


def check(vae, W, x, observed, answer, tolerance):
    found, together = answer.mean(vae), answer.log_prob(vae, x, ~observed)
    for i in range(len(x)):
        missing, posterior = conditional(W.detach(), x[i], observed[i])
        hidden = ~observed[i]
        assert found[i][hidden].tolist() == pytest.approx(missing.mean.tolist(), abs=tolerance)
        exact = missing.log_prob(x[i][hidden])
        assert together[i].item() == pytest.approx(exact.item(), abs=2 * tolerance)
        weight = answer.log_weight[:, i].exp()
        assert weight.sum().item() == pytest.approx(1, abs=1e-4)
        mean = weight @ answer.z[:, i]
        assert mean.tolist() == pytest.approx(posterior.mean.tolist(), abs=tolerance)
        covariance = (weight[:, None] * answer.z[:, i]).T @ answer.z[:, i] - mean.outer(mean)
        torch.testing.assert_close(covariance, posterior.covariance_matrix, atol=tolerance, rtol=0)


@pytest.mark.parametrize("proposal", ["prior", "encoder", "fitted"])
def test_weighted_draws_find_the_exact_conditional(proposal):
    vae, W, x, observed = linear_vae()
    r = {
        "prior": lambda: vae.prior().expand((3,)),
        "encoder": lambda: Independent(Normal(vae.encode(x * observed), 1.2), 1),
        "fitted": lambda: fit_proposal(vae, x, observed, torch.zeros(2, 1, 1, 1, 6)),
    }[proposal]()
    answer = importance(vae, x, observed, r, samples=20_000, seed=1)
    check(vae, W, x, observed, answer, 0.05)
    assert ((answer.effective > 1) & (answer.effective < 20_000)).all()
    again = importance(vae, torch.where(observed, x, 7.0), observed, r, samples=20_000, seed=1)
    assert torch.equal(answer.log_weight, again.log_weight)  # what is missing has no say


def test_a_fitted_proposal_is_the_best_gaussian_and_wider():
    vae, W, x, observed = linear_vae()
    fill = torch.zeros(1, 1, 1, 1, 6)
    for widen in (1.0, 1.5):
        r = fit_proposal(vae, x, observed, fill, steps=300, learning_rate=0.05, widen=widen)
        for i in range(3):
            posterior = conditional(W.detach(), x[i], observed[i])[1]
            assert r.mean[i].tolist() == pytest.approx(posterior.mean.tolist(), abs=0.05)
            # The best mean-field Gaussian has the precisions of the diagonal.
            best = posterior.precision_matrix.diagonal() ** -0.5
            scale = r.component_distribution.stddev[i, 0]
            assert scale.tolist() == pytest.approx((widen * best).tolist(), rel=0.08)
    assert all(p.grad is None for p in vae.parameters())
    many = fit_proposal(vae, x, observed, torch.stack([fill[0], fill[0] + 3]), steps=1)
    assert many.component_distribution.mean.shape == (3, 2, 2)
    assert many.batch_shape == (3,)


def test_with_no_step_the_proposal_is_the_encoders_answers_widened():
    vae, _, x, observed = linear_vae()
    fills = torch.stack([torch.zeros_like(x), torch.full_like(x, 2.0)])
    r = fit_proposal(vae, x, observed, fills, steps=0, widen=1.3)
    z = vae.prior().sample((5, 3))
    parts = [vae.encoder(torch.where(observed, x, fill)) for fill in fills]
    densities = [Normal(q.mean, 1.3 * q.stddev).log_prob(z).sum(-1).exp() for q in parts]
    torch.testing.assert_close(r.log_prob(z).exp(), sum(densities) / 2)


@pytest.mark.slow
def test_metropolis_repairs_the_chain_of_a_wrong_encoder():
    vae, W, x, observed = linear_vae(wrong=1.4)
    settings = {"sweeps": 6_000, "burn_in": 200}
    right = gibbs(vae, x, observed, torch.zeros(()), **settings)
    check(vae, W, x, observed, right, 0.15)
    wrong = gibbs(vae, x, observed, torch.zeros(()), metropolis=False, **settings)
    spread = conditional(W.detach(), x[0], observed[0])[1].covariance_matrix.diagonal()
    assert (wrong.z[:, 0].var(0) > 1.3 * spread).all()  # it keeps the encoder's error
    assert wrong.z.shape == (5_800, 3, 2)


def test_with_an_exact_encoder_every_draw_is_accepted():
    vae, W, x, observed = linear_vae()
    settings = {"sweeps": 6_000, "burn_in": 200, "metropolis": False}
    check(vae, W, x, observed, gibbs(vae, x, observed, torch.zeros(()), **settings), 0.15)
    chains = [gibbs(vae, x, observed, torch.zeros(()), sweeps=50, burn_in=0, metropolis=m).z
              for m in (False, True)]  # fmt: skip
    assert (chains[1].diff(dim=0).abs().sum(-1) > 0).all()


def test_the_plane_of_a_bernoulli_model_by_a_grid():
    vae = tiny_vae(greys=False, spread=3.0)
    x, observed = random_images(4, binary=True), random_images(4, seed=8) < 0.3
    axis = torch.linspace(-5, 5, 101)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        logits = vae.decoder.network(grid).flatten(1).double()
    y = logits.sigmoid()
    sign = 2 * x.flatten(1)[:, None] - 1
    each = torch.nn.functional.logsigmoid(sign * logits)  # (4, G, 784)
    seen = observed.flatten(1)[:, None]
    posterior = (each * seen).sum(-1) - grid.square().sum(1) / 2
    weight = posterior.softmax(1)
    answer = importance(vae, x, observed, vae.prior().expand((4,)), samples=10_000)
    torch.testing.assert_close(answer.mean(vae).flatten(1).double(), weight @ y, atol=0.03, rtol=0)
    together = (weight.log() + (each * ~seen).sum(-1)).logsumexp(1)
    found = answer.log_prob(vae, x, ~observed)
    torch.testing.assert_close(found.double(), together, atol=0.5, rtol=0)
    few = log_likelihood(vae, grid[:7, None].expand(7, 4, 2), x, observed)
    torch.testing.assert_close(few.double(), (each * seen).sum(-1)[:, :7].T, atol=1e-2, rtol=1e-4)


def test_draws_follow_the_weights_and_the_pixels():
    vae = tiny_vae(greys=False, spread=3.0)
    z = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    log_weight = torch.tensor([[1.0, 0.0], [0.0, 0.25], [0.0, 0.75]]).log()
    answer = Imputation(z, log_weight)
    assert answer.effective.tolist() == pytest.approx([1, 1 / (0.25**2 + 0.75**2)])
    drawn = answer.draw(vae, 3000, seed=5)
    assert drawn.shape == (3000, 2, 1, 28, 28)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), answer.mean(vae), atol=0.05, rtol=0)
    assert torch.equal(drawn, answer.draw(vae, 3000, seed=5))


def test_what_cannot_be_filled_in_is_refused():
    vae, x = tiny_vae(greys=False), random_images(4, binary=True)
    observed = torch.ones_like(x, dtype=torch.bool)
    prior = vae.prior().expand((4,))
    for wrong in (observed.float(), observed[:1]):
        with pytest.raises(ValueError, match="observed must be booleans"):
            importance(vae, x, wrong, prior)
        with pytest.raises(ValueError, match="observed must be booleans"):
            gibbs(vae, x, wrong, x)
        with pytest.raises(ValueError, match="observed must be booleans"):
            fit_proposal(vae, x, wrong, x[None])
    with pytest.raises(ValueError, match="a proposal for each of 4"):
        importance(vae, x, observed, vae.prior())
    with pytest.raises(ValueError, match="at least 1 sample"):
        importance(vae, x, observed, prior, samples=0)
    with pytest.raises(ValueError, match="burn_in < sweeps"):
        gibbs(vae, x, observed, x, sweeps=5, burn_in=5)


def test_a_model_that_was_trained_with_holes_is_asked_with_its_mask():
    torch.manual_seed(0)
    likelihood = Observed(Gaussian((5,), scale=0.5, bounded_mean=False))
    encoder = vt.Encoder(vt.MLP((2, 5), 4, ()), vt.MeanFieldGaussian(2))
    vae = vt.VAE(encoder, vt.Decoder(vt.MLP(2, 5, ()), likelihood), vt.StandardNormal(2))
    vae.requires_grad_(False)
    x, observed = torch.randn(6, 5), torch.rand(6, 5) < 0.6
    rows = torch.stack([torch.where(observed, x, 0), observed.float()], 1)
    start = fit_proposal(vae, x, observed, torch.full((1, 1), 9.0), steps=0, widen=1.0)
    torch.testing.assert_close(start.mean, encoder(rows).mean)  # whatever the fill
    fitted = fit_proposal(vae, x, observed, torch.zeros(1, 1), steps=400)
    found = importance(vae, x, observed, fitted, samples=100_000).mean(vae)
    W, b = vae.decoder.network.layers[0].weight, vae.decoder.network.layers[0].bias
    for i, known in enumerate(observed):  # the linear model's conditional, in closed form
        w = W[known]
        precision = torch.eye(2) + w.T @ w / 0.25
        z = torch.linalg.solve(precision, w.T @ (x[i, known] - b[known]) / 0.25)
        torch.testing.assert_close(found[i], W @ z + b, atol=0.03, rtol=0)
