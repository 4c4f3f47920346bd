"""The VQ-VAE: nearest codes, the straight-through gradient, both methods of learning a codebook."""

import hashlib
import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from tiny import random_images
from torch.distributions import Categorical, Independent, kl_divergence

from vae_tutorial import fit
from vae_tutorial.data import Dataset, Split, to_float
from vae_tutorial.models import vqvae
from vae_tutorial.models.vqvae import (
    VQVAE,
    FiniteScalarQuantizer,
    VectorQuantizer,
    measure_vqvae,
    perplexity,
    vq_loss,
)
from vae_tutorial.randomness import seeded

SHAPE = (3, 8, 8)
both = pytest.mark.parametrize("decay", [None, 0.9], ids=["gradient", "averages"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny(decay=None, shape=SHAPE) -> VQVAE:
    with seeded(0):
        return VQVAE(shape, VectorQuantizer(8, 6, decay=decay), (8, 10), blocks=1)


def quantizer_at(*codebook, **settings) -> VectorQuantizer:
    """With moving averages, and these entries."""
    quantizer = VectorQuantizer(len(codebook), len(codebook[0]), **settings)
    quantizer.codebook.copy_(torch.tensor(codebook))
    quantizer.sums.copy_(quantizer.codebook)
    return quantizer


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 40), k=st.integers(2, 20), d=st.integers(1, 10), seed=st.integers(0, 99),
       centre=st.sampled_from([0, 1e8]))  # fmt: skip
def test_codes_are_numpys_argmin_however_far_from_zero(n, k, d, seed, centre):
    rng = np.random.default_rng(seed)
    vectors, codebook = rng.normal(centre, 1, (n, d)), rng.normal(centre, 1, (k, d))
    expected = ((vectors[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)
    found = vqvae.nearest_codes(torch.from_numpy(vectors), torch.from_numpy(codebook))
    np.testing.assert_array_equal(found, expected)


def test_the_codebook_starts_between_minus_and_plus_one_over_k():
    low, high = VectorQuantizer(128, 256).codebook.detach().aminmax()
    assert -1 / 128 <= low < -0.99 / 128 < 0.99 / 128 < high <= 1 / 128


@both
def test_the_gradient_goes_straight_through(decay):
    quantizer = VectorQuantizer(8, 4, decay=decay).eval()
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantized, codes, _ = quantizer(z)
    upstream = torch.randn_like(quantized)
    (gradient,) = torch.autograd.grad(quantized, z, upstream)
    assert torch.equal(gradient, upstream)  # the identity, and none of it into the codebook
    entries = quantizer.codebook.detach().numpy()[codes.numpy()].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(quantized.detach(), entries, atol=1e-6)


def test_the_losses_move_what_they_should():
    """|sg(v) - e|^2 moves the codebook alone, |v - sg(e)|^2 the encoder alone."""
    quantizer = VectorQuantizer(8, 4)
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    _, codes, terms = quantizer(z)
    entries = quantizer.codebook.detach().numpy()[codes.numpy()]
    expected = ((z.detach().numpy().transpose(0, 2, 3, 1) - entries) ** 2).mean((1, 2, 3))
    for name, moves in {"codebook": [False, True], "commitment": [True, False]}.items():
        np.testing.assert_allclose(terms[name].detach(), expected, rtol=1e-5)
        leaves = (z, quantizer.codebook)
        found = torch.autograd.grad(terms[name].sum(), leaves, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in found] == moves


def test_moving_averages_are_running_means():
    """Recomputed in NumPy: counts and sums decay, and an entry is their ratio."""
    quantizer = quantizer_at([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], decay=0.8, reset_below=0.0)
    counts, sums = np.ones(3), quantizer.codebook.numpy().copy()
    for _ in range(3):
        z = torch.randn(5, 2, 1, 1)
        flat = z.flatten(1).numpy()
        codes = ((flat[:, None] - (sums / counts[:, None])[None]) ** 2).sum(-1).argmin(1)
        _, found, terms = quantizer(z)
        np.testing.assert_array_equal(found.flatten(), codes)
        assert not terms["codebook"].any()
        chosen = np.eye(3)[codes]
        counts = 0.8 * counts + 0.2 * chosen.sum(0)
        sums = 0.8 * sums + 0.2 * chosen.T @ flat
        np.testing.assert_allclose(quantizer.codebook, sums / counts[:, None], rtol=1e-5)
    before = quantizer.codebook.clone()
    quantizer.eval()(torch.randn(5, 2, 1, 1))
    assert torch.equal(quantizer.codebook, before)  # only training moves it


def test_dead_codes_are_put_on_vectors_of_the_batch():
    far, z = ([0.0, 0.0], [50.0, 0.0], [0.0, 50.0]), torch.randn(20, 2, 1, 1)
    quantizer = quantizer_at(*far, decay=0.5, reset_below=0.3)
    quantizer(z)  # the counts of the two far entries are now 1/2,
    assert quantizer.codebook[1:].max() == 50
    quantizer(z)  # and 1/4: dead
    vectors, (alive, *put) = z.flatten(1).tolist(), quantizer.codebook.tolist()
    assert [entry in vectors for entry in (alive, *put)] == [False, True, True]
    assert put[0] != put[1]  # each draws its own
    assert quantizer.counts[1:].tolist() == [1, 1]


def test_a_learnt_codebook_is_reset_as_well_and_only_where_it_is_asked_for():
    z = torch.randn(20, 2, 1, 1)
    for threshold, moved in ((None, False), (0.9899, False), (0.995, True)):
        quantizer = VectorQuantizer(3, 2, reset_below=threshold)
        far = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
        quantizer.codebook.data.copy_(far)
        _, codes, terms = quantizer(z)  # the counts of the far entries are now 0.99
        vectors, entries = z.flatten(1).tolist(), quantizer.codebook.tolist()
        assert not codes.any()
        assert [entry in vectors for entry in entries] == [False, moved, moved]
        terms["codebook"].sum().backward()  # of the entries as they were
        assert quantizer.codebook.grad[0].any()
        assert not quantizer.codebook.grad[1:].any()
        assert ("counts" in quantizer.state_dict()) == (threshold is not None)
        if moved:
            torch.testing.assert_close(quantizer.counts, torch.tensor([0.99 + 0.2, 1.0, 1.0]))
            quantizer.eval()(z)
            assert quantizer.codebook.tolist() == entries


def test_without_a_threshold_averages_leave_the_dead_where_they_are():
    quantizer = quantizer_at([0.0, 0.0], [50.0, 0.0], decay=0.5)
    for _ in range(30):
        quantizer(torch.randn(20, 2, 1, 1))
    assert quantizer.codebook[1].tolist() == pytest.approx([50, 0])


def test_a_start_is_normal_with_its_standard_deviation():
    with seeded(0):
        codebook = VectorQuantizer(128, 64, start=4.0).codebook.detach()
    assert float(codebook.std()) == pytest.approx(4, rel=0.03)


@both
def test_the_quantizer_works_in_full_precision_under_autocast(decay):
    plain, mixed = (VectorQuantizer(8, 4, decay=decay) for _ in range(2))
    mixed.load_state_dict(plain.state_dict())
    z = torch.randn(64, 4, 8, 8)  # many, so that some lie halfway between two entries
    with seeded(0):
        expected = plain(z)
    with seeded(0), torch.autocast("cpu", torch.bfloat16):
        found = mixed(z)
    assert all(map(torch.equal, expected[:2], found[:2]))
    assert all(map(torch.equal, plain.state_dict().values(), mixed.state_dict().values()))
    x = random_images(16, SHAPE)
    fit(tiny(decay), vq_loss, x, epochs=1, batch_size=8, bfloat16=True, progress=False)


@both
def test_a_model_in_double_precision_stays_in_it_and_a_gradient_reaches_every_weight(decay):
    double, x = tiny(decay).double(), random_images(4, SHAPE)
    expected, terms = vq_loss(tiny(decay), x), vq_loss(double, x.double())
    terms["loss"].sum().backward()
    assert all(weight.grad.any() for weight in double.parameters())
    for name, term in terms.items():
        assert term.dtype == torch.float64
        torch.testing.assert_close(term.float(), expected[name], rtol=1e-3, atol=1e-5)
    assert {v.dtype for v in double.state_dict().values()} == {torch.float64}
    assert double.reconstruct(x.double()).dtype == torch.float64


def test_the_loss_is_the_sum_of_its_terms():
    model, x = tiny(), random_images(4, SHAPE)
    terms = vq_loss(model, x, commitment_weight=0.5)
    assert next(iter(terms)) == "loss"
    redrawn, codes, expected = model(x)
    expected["reconstruction"] = (redrawn - (2 * x - 1)).square().mean((1, 2, 3))
    loss = expected["reconstruction"] + expected["codebook"] + 0.5 * expected["commitment"]
    expected |= {"loss": loss, "perplexity": perplexity(codes, 8).float().expand(4)}
    torch.testing.assert_close(terms, expected)


def test_codes_and_images_have_their_shapes():
    model, x = tiny(shape=(1, 12, 8)), random_images(5, (1, 12, 8))
    codes = model.encode(x)
    assert (codes.shape, codes.dtype) == ((5, 3, 2), torch.int64)
    images = model.decode(codes)
    assert torch.equal(model.reconstruct(x), images)
    torch.testing.assert_close(images, ((model(x)[0] + 1) / 2).clamp(0, 1))
    images.sum().backward()
    assert model.quantizer.codebook.grad.abs().sum() > 0
    with torch.no_grad():
        model.decoder[-1].bias.fill_(9.0)  # white, and more
    assert torch.equal(model.decode(codes), torch.ones_like(x))


def test_prior_posterior_and_likelihood_are_what_the_loss_leaves_out():
    model, x = tiny(), random_images(5, SHAPE)
    codes, (prior, q) = model.encode(x), (model.prior(), model.posterior(x))
    nats = 4 * math.log(8)  # 2 x 2 places, 8 codes
    np.testing.assert_allclose(prior.log_prob(codes), np.full(5, -nats), rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(q, prior), np.full(5, nats), rtol=1e-6)
    assert torch.equal(q.sample(), codes)
    assert q.log_prob((codes + 1) % 8).tolist() == [-math.inf] * 5
    share = torch.bincount(prior.sample((4000,)).flatten(), minlength=8) / 16_000
    assert float((share - 1 / 8).abs().max()) < 0.01
    # 2 x 2 places of 6 numbers: so many times the mean is the sum that the likelihood has
    constant = -model.likelihood(codes).log_prob(x) - 24 * vq_loss(model, x)["reconstruction"]
    np.testing.assert_allclose(constant.detach(), np.full(5, constant[0].item()), atol=1e-3)


def test_samples_are_decoded_draws_of_a_prior():
    model = tiny()
    with seeded(3), torch.no_grad():
        expected = model.decode(model.prior().sample((4,)))
    assert torch.equal(model.sample(4, seed=3), expected)
    grid = model.encode(random_images(1, SHAPE))[0]
    certain = Independent(Categorical(torch.eye(8)[grid]), 2)  # this grid and no other
    drawn = model.sample(3, prior=lambda: certain)
    torch.testing.assert_close(drawn, model.decode(grid[None]).expand(3, *SHAPE).detach())


def test_held_out_quality_against_numpy():
    model, x = tiny(), random_images(30, SHAPE)
    found = measure_vqvae(model, x, batch_size=7)
    squares = ((model.reconstruct(x).numpy() - x.numpy()) ** 2).mean((1, 2, 3))
    assert found["reconstruction"] == pytest.approx(squares.mean())
    assert found["reconstruction"].standard_error == pytest.approx(squares.std() / 30**0.5)
    counts = np.bincount(model.encode(x).flatten(), minlength=8)
    assert found["perplexity"] == pytest.approx(np.exp(entropy(counts)))
    assert found["codes_used"] == (counts > 0).mean()


def test_bits_of_pixels_given_their_codes_against_numpy():
    model, x = tiny(), (random_images(30, SHAPE) * 255).round() / 255
    codes, y = model.encode(x).numpy(), model.reconstruct(x).double().numpy()

    def bits(scale):  # (30, 2, 2): the mean over each place's 3 x 4 x 4 numbers
        edges = np.arange(255) / 255 + 1 / 510
        below = 1 / (1 + np.exp((y[..., None] - edges) / np.asarray(scale)[..., None]))
        levels = np.diff(below, prepend=0, append=1)
        chosen = (x.numpy() * 255).round().astype(int)[..., None]
        found = -np.log2(np.take_along_axis(levels, chosen, -1)[..., 0])
        return found.reshape(30, 3, 2, 4, 2, 4).mean((1, 3, 5))

    scales = np.logspace(0.3, 1.7, 15) / 255
    costs = np.stack([bits(np.full_like(y, s)) for s in scales])
    expected = [scales[costs[:, codes == k].sum(1).argmin()] for k in range(8)]
    fitted = vqvae.fit_scales(model, x)
    used = np.unique(codes)
    assert len(used) > 2
    np.testing.assert_allclose(fitted[used], np.array(expected)[used])
    wide = fitted.numpy()[codes].repeat(4, 1).repeat(4, 2)[:, None]
    found = vqvae.pixel_bits(model, x, fitted, batch_size=7)
    np.testing.assert_allclose(found, bits(np.broadcast_to(wide, y.shape)).mean((1, 2)), rtol=1e-6)


def test_codes_of_images_are_those_of_the_model():
    images, labels = (255 * random_images(30, SHAPE)).byte(), torch.arange(10)
    parts = [Split(images[i : i + 10], labels) for i in (0, 10, 20)]
    source, model = Dataset("some", *parts, ("a",)), tiny(decay=0.9)
    found = vqvae.codes_of(model, source, batch_size=7)
    assert (found.name, found.classes) == ("some-codes", ("a",))
    for part, split in zip(parts, found.splits, strict=True):
        assert torch.equal(split.examples, model.encode(to_float(part.images)))
        assert torch.equal(split.labels, labels)
    # The checksum is the source's and the model's, whatever rounding made of the codes.
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    recipe = f"codes of {source.sha256} by {hashlib.sha256(weights).hexdigest()}"
    assert found.sha256 == hashlib.sha256(recipe.encode()).hexdigest()


def test_a_residual_block_adds():
    block, x = vqvae.ResidualBlock(4, 2), torch.randn(2, 4, 5, 5)
    assert not torch.equal(block(x), x)
    torch.nn.init.zeros_(block.layers[-1].weight)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("message", "call"), [
    ("multiples", lambda: VQVAE((1, 30, 28), VectorQuantizer(4, 4))),
    ("num_codes", lambda: VectorQuantizer(1, 4)),
    ("decay", lambda: VectorQuantizer(4, 4, decay=1.0)),
    ("images", lambda: tiny().encode(torch.zeros(2, 1, 8, 8))),
    ("codes", lambda: tiny().decode(torch.zeros(1, 2, 2))),
    ("codes", lambda: tiny().decode(torch.zeros(1, 2, 3).long())),
    ("codes", lambda: tiny().decode(torch.full((1, 2, 2), 8))),
    ("n must", lambda: tiny().sample(0)),
])  # fmt: skip
def test_bad_settings_are_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_lattice_point_has_one_index_and_comes_back():
    quantizer = FiniteScalarQuantizer((8, 4, 3))
    codes = torch.arange(quantizer.num_codes).view(1, 8, 12)
    points = quantizer.lookup(codes)[0].flatten(1).T  # (96, 3)
    grid = [np.linspace(-1, 1, levels) for levels in (8, 4, 3)]
    np.testing.assert_allclose(points, list(product(*grid)), atol=1e-6)  # in the index's order
    # Numbers that are squashed to a lattice point: v = logit((k + 1/2) / L) / 2.
    digits = (points.numpy() + 1) / 2 * (np.array([8, 4, 3]) - 1)
    share = (digits + 0.5) / np.array([8, 4, 3])
    z = torch.from_numpy(np.log(share / (1 - share)) / 2).T.view(1, 3, 8, 12)
    assert torch.equal(quantizer.codes(z), codes)
    quantized, again, terms = quantizer(z)
    torch.testing.assert_close(quantized, quantizer.lookup(codes))
    assert torch.equal(again, codes)
    assert not any(term.any() for term in terms.values())
    far = quantizer.codes(torch.tensor([[-60.0, 60.0], [-60, 60], [-60, 60]]).view(1, 3, 1, 2))
    assert far.tolist() == [[[0, 95]]]


def test_rounding_is_the_identity_backward():
    quantizer = FiniteScalarQuantizer((5, 2))
    z = torch.randn(4, 2, 3, 3, requires_grad=True)
    upstream = torch.randn(4, 2, 3, 3)
    quantizer(z)[0].backward(upstream)
    levels = torch.tensor([5.0, 2.0])[:, None, None]
    sigmoid = torch.sigmoid(2 * z.detach())
    expected = upstream * 2 / (levels - 1) * levels * 2 * sigmoid * (1 - sigmoid)
    torch.testing.assert_close(z.grad, expected)


def test_a_model_with_fixed_levels_learns():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VQVAE(SHAPE, FiniteScalarQuantizer((4, 4)), channels=(8, 16), blocks=1)
    x = torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(0)).round()
    x = F.interpolate(x[..., ::4, ::4], scale_factor=4)
    before = vq_loss(model, x)
    assert torch.equal(before["loss"], before["reconstruction"])
    fit(model, vq_loss, x, epochs=60, batch_size=16, learning_rate=3e-3, progress=False)
    assert vq_loss(model, x)["loss"].mean() < 0.5 * before["loss"].mean()
    assert model.prior().log_prob(model.encode(x)).shape == (64,)
    for levels in ((), (4, 1), (0, 3)):
        with pytest.raises(ValueError, match="level"):
            FiniteScalarQuantizer(levels)
