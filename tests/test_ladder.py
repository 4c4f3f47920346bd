"""The ladder VAE and the plain hierarchy: merges, KL terms and bounds against other computations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_images
from torch.distributions import Independent, Normal

from vae_tutorial import Bernoulli, build, evaluate, fit, spec
from vae_tutorial.models.ladder import HierarchicalVAE, LadderVAE, ladder_elbo, precision_weighted
from vae_tutorial.randomness import seeded

SHAPE = (1, 4, 4)
NUMBERS = st.floats(-4, 4)
both = pytest.mark.parametrize("kind", [LadderVAE, HierarchicalVAE])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny(kind=LadderVAE, dims=(4, 3, 2), hidden=(8, 7, 6), **others):
    """In evaluation mode, where no example depends on the others of its batch."""
    with seeded(0), torch.no_grad():
        model = kind(SHAPE, Bernoulli(SHAPE), dims, hidden, **others)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(0.5)  # so that averages over draws have a small spread
    return model.eval()


def gaussian(numbers: torch.Tensor) -> Independent:
    """What a layer's numbers mean, with the default bound of 8."""
    mean, log_variance = numbers.chunk(2, -1)
    return Independent(Normal(mean, (4 * torch.tanh(log_variance / 8)).exp()), 1)


@settings(deadline=None, max_examples=50)
@given(a=st.tuples(NUMBERS, NUMBERS), b=st.tuples(NUMBERS, NUMBERS))
def test_the_merge_is_the_normalized_product_of_densities(a, b):
    a, b = (Independent(Normal(torch.tensor([m]).double(), math.exp(v / 2)), 1) for m, v in (a, b))
    merged = precision_weighted(a, b)
    # On a grid: multiply the densities, normalize, take the moments.
    x = torch.linspace(-80, 80, 400_001).double()
    weight = (a.log_prob(x[:, None]) + b.log_prob(x[:, None])).softmax(0)
    expected = (weight * x).sum()
    assert float(merged.mean) == pytest.approx(float(expected), abs=1e-4)
    variance = (weight * (x - expected) ** 2).sum()
    assert float(merged.variance) == pytest.approx(float(variance), rel=1e-3, abs=1e-6)


def test_a_layer_whose_image_part_knows_nothing_has_no_kl():
    model = tiny(log_variance_bound=60.0).requires_grad_(False)
    for says, d in zip(model.says[:2], model.latent_dims[:2], strict=True):
        says.bias[d:] = 1e4  # the largest log-variance that the bound allows
    _, kl = model.infer_latents(random_images(5, SHAPE))
    assert torch.stack([kl[1], kl[2]]).abs().max() < 1e-6  # posterior and prior agree


@both
@pytest.mark.parametrize("dims", [(4, 3, 2), (3,)])
def test_every_image_and_draw_has_terms_of_its_own(kind, dims):
    """All densities along the path by hand, from the noise that the seed gives."""
    model = tiny(kind, dims, (8, 7, 6)[: len(dims)]).requires_grad_(False)
    x, layers = random_images(6, SHAPE, binary=True), range(1, len(dims) + 1)
    order = layers[::-1] if kind is LadderVAE else layers
    with seeded(3):
        terms = ladder_elbo(model, x, beta=0.3, samples=2)
    with seeded(3):
        noise = {k: torch.randn(12, dims[k - 1]) for k in order}
    d = pixels = torch.cat([x, x]).flatten(1)
    q, p, z = {}, {len(dims): gaussian(torch.zeros(12, 2 * dims[-1]))}, {}
    if kind is LadderVAE:
        for k in layers:
            d = model.up[k - 1](d)
            q[k] = gaussian(model.says[k - 1](d))
    for k in order:
        if kind is HierarchicalVAE:
            q[k] = gaussian(model.infer[k - 1](z.get(k - 1, d)))
        elif k < len(dims):
            p[k] = gaussian(model.down[k - 1](z[k + 1]))
            q[k] = precision_weighted(q[k], p[k])
        z[k] = q[k].mean + q[k].stddev * noise[k]
    p |= {k: gaussian(model.down[k - 1](z[k + 1])) for k in layers[:-1]}
    white = torch.sigmoid(model.to_image(z[1])).double()
    expected = {"reconstruction": -torch.where(pixels == 1, white, 1 - white).log().sum(1)}
    for k in layers:
        ratio, move = q[k].variance / p[k].variance, (q[k].mean - p[k].mean) / p[k].stddev
        closed = 0.5 * (ratio + move**2 - 1 - ratio.log()).sum(1)
        drawn = q[k].log_prob(z[k]) - p[k].log_prob(z[k])
        expected[f"kl_{k}"] = closed if kind is LadderVAE else drawn
    expected = {name: term.unflatten(0, (2, 6)).mean(0).float() for name, term in expected.items()}
    expected["kl"] = sum(expected[f"kl_{k}"] for k in layers)
    expected["negative_elbo"] = expected["reconstruction"] + expected["kl"]
    expected["loss"] = expected["reconstruction"] + 0.3 * expected["kl"]
    assert next(iter(terms)) == "loss"
    torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)


@both
def test_training_lowers_the_bound(kind):
    x = random_images(200, SHAPE, binary=True)
    x[:, :, 2:] = x[:, :, :2]  # the lower half repeats the upper
    model = tiny(kind)
    before = evaluate(model, ladder_elbo, x, samples=2)
    fit(model, ladder_elbo, x, epochs=60, batch_size=50, learning_rate=1e-2, progress=False)
    after = evaluate(model, ladder_elbo, x, samples=2)
    assert after["negative_elbo"] < min(before["negative_elbo"] - 0.1, 16 * math.log(2))


@both
def test_a_model_without_normalization_learns_from_a_single_image(kind):
    x, bare = random_images(1, SHAPE, binary=True), tiny(kind, batch_norm=False)
    terms = ladder_elbo(build(spec(bare)).train(), x)
    assert all(term.isfinite().all() for term in terms.values())
    with pytest.raises(ValueError, match="more than 1 value"):  # torch's: nothing to average over
        ladder_elbo(tiny(kind).train(), x)


def test_held_layers_stay_and_so_does_the_noise_of_the_others():
    model = tiny()
    images, z = model.generate(4, seed=0)
    assert {k: tuple(v.shape) for k, v in z.items()} == {1: (4, 4), 2: (4, 3), 3: (4, 2)}
    assert torch.equal(images, model.sample(4, seed=0))
    # What would have been drawn anyway, held: nothing changes below.
    for held in ({3: z[3]}, {2: z[2]}, z):
        same, again = model.generate(4, given=held, seed=0)
        assert torch.equal(images, same)
        assert all(torch.equal(z[layer], again[layer]) for layer in z)
    other, moved = model.generate(4, given={3: z[3], 2: z[2]}, seed=1)
    assert [torch.equal(moved[layer], z[layer]) for layer in (3, 2, 1)] == [True, True, False]
    assert not torch.equal(other, images)


@both
def test_the_words_of_all_models_mean_the_same_here(kind):
    model, x = tiny(kind), random_images(5, SHAPE, binary=True)
    z_1 = torch.randn(5, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.decode(z_1).sum(), z_1)
    assert gradient.abs().sum() > 0
    with seeded(2), torch.no_grad():
        expected = model.decode(model.encode(x)[1])
    assert torch.equal(model.reconstruct(x, seed=2), expected)
    assert not torch.equal(model.reconstruct(x, seed=3), expected)


@pytest.mark.parametrize(("message", "call"), [
    ("hidden", lambda: tiny(hidden=(8,))),
    ("latent_dim", lambda: tiny(dims=(4, 0), hidden=(8, 8))),
    ("images", lambda: tiny().infer_latents(torch.zeros(2, 1, 5, 5))),
    ("layers", lambda: tiny().generate(2, given={4: torch.zeros(2, 2)})),
    ("samples", lambda: ladder_elbo(tiny(), random_images(2, SHAPE), samples=0)),
])  # fmt: skip
def test_bad_settings_are_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()


@both
def test_the_importance_weights_of_a_hierarchy(kind):
    """Their mean is p(x), which a sum over a grid of both latents gives without an encoder."""
    with seeded(3):
        model = kind((1, 2, 2), Bernoulli((1, 2, 2)), (1, 1), (6, 5), batch_norm=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]]).reshape(2, 1, 2, 2)
    line = torch.linspace(-9, 9, 901)
    step = float(line[1] - line[0])
    with torch.no_grad():
        likelihood = torch.stack([model.decoder(line[:, None]).log_prob(one) for one in x]).exp()
        below = (
            model.prior(1, line[:, None]).log_prob(line[:, None, None]).exp()
        )  # p(z_1|z_2), (z_1, z_2)
        top = model.prior(2).log_prob(line[:, None]).exp()
        exact = (likelihood @ (below @ top) * step**2).log()
        log_w = model.log_weights(x, 40_000)
    estimate = log_w.logsumexp(0) - math.log(len(log_w))
    assert log_w.shape == (40_000, 2)
    torch.testing.assert_close(estimate, exact, rtol=0, atol=0.03)
    terms = ladder_elbo(model, x, samples=20_000)
    error = 5 * log_w.std(0) / math.sqrt(20_000)
    assert bool(((-log_w.mean(0) - terms["negative_elbo"]).abs() < error).all())
