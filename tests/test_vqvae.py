"""The VQ-VAE: nearest codes, the straight-through gradient, both ways of learning a codebook."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_images

from vae_tutorial import fit
from vae_tutorial.evaluation import evaluate_vqvae
from vae_tutorial.randomness import seeded
from vae_tutorial.vqvae import (
    VQVAE,
    ResidualBlock,
    VectorQuantizer,
    nearest_codes,
    perplexity,
    vq_loss,
)


def tiny(decay=None, num_codes=8, dim=6, shape=(3, 8, 8), seed=0) -> VQVAE:
    with seeded(seed):
        return VQVAE(shape, VectorQuantizer(num_codes, dim, decay=decay), (8, 10), blocks=1)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 40), k=st.integers(2, 20), d=st.integers(1, 10), seed=st.integers(0, 99))
def test_codes_are_numpys_argmin(n, k, d, seed):
    rng = np.random.default_rng(seed)
    vectors, codebook = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    expected = ((vectors[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)
    found = nearest_codes(torch.from_numpy(vectors), torch.from_numpy(codebook))
    np.testing.assert_array_equal(found, expected)


def test_the_codebook_starts_between_minus_and_plus_one_over_k():
    quantizer = VectorQuantizer(128, 256)
    low, high = float(quantizer.codebook.detach().min()), float(quantizer.codebook.detach().max())
    assert -1 / 128 <= low < -0.99 / 128
    assert 0.99 / 128 < high <= 1 / 128


@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_gradient_goes_straight_through(decay):
    quantizer = VectorQuantizer(8, 4, decay=decay)
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantized, codes, _ = quantizer(z)
    upstream = torch.randn_like(quantized)
    (gradient,) = torch.autograd.grad(quantized, z, upstream)
    assert torch.equal(gradient, upstream)  # the identity, and no way into the codebook
    if decay is None:
        torch.testing.assert_close(quantized, quantizer.lookup(codes))
    for i in range(2):
        for y in range(3):
            for x in range(3):
                entry = quantizer.codebook[codes[i, y, x]] if decay is None else None
                if entry is not None:
                    torch.testing.assert_close(quantized[i, :, y, x], entry)


def test_the_losses_move_what_they_should():
    """|sg(v) - e|^2 moves the codebook alone, |v - sg(e)|^2 the encoder alone."""
    quantizer = VectorQuantizer(8, 4)
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    _, codes, terms = quantizer(z)
    numpy_z = z.detach().numpy().transpose(0, 2, 3, 1)
    entries = quantizer.codebook.detach().numpy()[codes.numpy()]
    expected = ((numpy_z - entries) ** 2).mean((1, 2, 3))
    for name in ("codebook", "commitment"):
        np.testing.assert_allclose(terms[name].detach(), expected, rtol=1e-5)
    by_z, by_book = torch.autograd.grad(
        terms["codebook"].sum(), (z, quantizer.codebook), retain_graph=True, allow_unused=True
    )
    assert by_z is None
    assert by_book.abs().sum() > 0
    by_z, by_book = torch.autograd.grad(
        terms["commitment"].sum(), (z, quantizer.codebook), allow_unused=True
    )
    assert by_book is None
    torch.testing.assert_close(by_z, 2 * (z.detach() - quantizer.lookup(codes).detach()) / 36)


def test_moving_averages_are_running_means():
    """Recomputed in NumPy: counts and sums decay, and an entry is their ratio."""
    quantizer = VectorQuantizer(3, 2, decay=0.8, reset_below=0.0)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        quantizer.sums.copy_(quantizer.codebook)
    counts, sums = np.ones(3), quantizer.codebook.numpy().copy()
    for seed in range(3):
        z = torch.randn(5, 2, 1, 1, generator=torch.Generator().manual_seed(seed))
        flat = z.flatten(1).numpy()
        codes = ((flat[:, None] - (sums / counts[:, None])[None]) ** 2).sum(-1).argmin(1)
        _, found, terms = quantizer(z)
        np.testing.assert_array_equal(found.flatten(), codes)
        assert not terms["codebook"].any()
        for k in range(3):
            counts[k] = 0.8 * counts[k] + 0.2 * (codes == k).sum()
            sums[k] = 0.8 * sums[k] + 0.2 * flat[codes == k].sum(0)
        np.testing.assert_allclose(quantizer.codebook, sums / counts[:, None], rtol=1e-5)
    before = quantizer.codebook.clone()
    quantizer.eval()
    quantizer(torch.randn(5, 2, 1, 1))
    assert torch.equal(quantizer.codebook, before)  # only training moves it


def test_dead_codes_are_put_on_vectors_of_the_batch():
    quantizer = VectorQuantizer(4, 2, decay=0.5, reset_below=0.3)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [50.0, 0], [0, 50.0], [60.0, 60.0]]))
        quantizer.sums.copy_(quantizer.codebook)
    z = torch.randn(20, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    with seeded(0):
        for _ in range(3):  # counts of the three far entries: 1/2, 1/4: dead in the second round
            quantizer(z)
    vectors = {tuple(v.tolist()) for v in z.flatten(1)}
    assert (quantizer.codebook.abs() < 10).all()
    assert all(math.isfinite(v) for v in quantizer.counts.tolist())
    assert len(quantizer.codes(z).unique()) >= 3
    assert vectors


@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_quantizer_works_in_full_precision_under_autocast(decay):
    plain, mixed = (VectorQuantizer(8, 4, decay=decay) for _ in range(2))
    mixed.load_state_dict(plain.state_dict())
    z = torch.randn(16, 4, 2, 2)
    with seeded(0):
        expected = plain(z)
    with seeded(0), torch.autocast("cpu", torch.bfloat16):
        found = mixed(z)
    assert torch.equal(expected[0], found[0])
    assert torch.equal(expected[1], found[1])
    for name, value in plain.state_dict().items():
        assert torch.equal(value, mixed.state_dict()[name]), name
    x = random_images(16, (3, 8, 8))
    fit(tiny(decay), vq_loss, x, epochs=1, batch_size=8, bfloat16=True, progress=False)


def test_training_without_randomness_in_the_weights_repeats_itself():
    x = random_images(32, (3, 8, 8))
    weights = []
    for _ in range(2):
        model = tiny(decay=0.9)
        fit(model, vq_loss, x, epochs=2, batch_size=8, progress=False)
        weights.append(torch.cat([v.flatten().float() for v in model.state_dict().values()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_training_lowers_the_error_and_uses_the_codes(decay):
    base = torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    x = base[torch.arange(120) % 6].expand(-1, -1, 8, 8).contiguous()  # six flat colours
    model = tiny(decay)
    history = fit(
        model, vq_loss, x, epochs=60, batch_size=24, learning_rate=3e-3, progress=False, seed=1
    )
    rows = history[history.scope == "epoch"]
    assert rows.reconstruction.iloc[-1] < 0.2 * rows.reconstruction.iloc[0]
    assert rows.perplexity.iloc[-1] > 2


def test_the_loss_is_the_sum_of_its_terms():
    model, x = tiny(), random_images(4, (3, 8, 8))
    terms = vq_loss(model, x, commitment_weight=0.5)
    expected = terms["reconstruction"] + terms["codebook"] + 0.5 * terms["commitment"]
    torch.testing.assert_close(terms["loss"], expected)
    redrawn = model(x)[0].detach().numpy()
    np.testing.assert_allclose(
        terms["reconstruction"].detach(), ((redrawn - (2 * x.numpy() - 1)) ** 2).mean((1, 2, 3)),
        rtol=1e-5,
    )  # fmt: skip
    assert all(term.shape == (4,) for term in terms.values())


def test_codes_and_images_have_their_shapes():
    model, x = tiny(shape=(1, 12, 8)), random_images(5, (1, 12, 8))
    codes = model.encode(x)
    assert codes.shape == (5, 3, 2)
    assert codes.dtype == torch.int64
    images = model.decode(codes)
    assert images.shape == x.shape
    assert ((images >= 0) & (images <= 1)).all()
    assert torch.equal(model.reconstruct(x), images)


def test_perplexity_counts_codes_in_use():
    assert float(perplexity(torch.zeros(10, dtype=torch.int64), 8)) == pytest.approx(1)
    assert float(perplexity(torch.arange(8), 8)) == pytest.approx(8)
    assert float(perplexity(torch.tensor([0, 0, 1, 1]), 8)) == pytest.approx(2)


def test_evaluation_against_numpy():
    model, x = tiny(), random_images(30, (3, 8, 8))
    found = evaluate_vqvae(model, x, batch_size=7)
    redrawn = model.reconstruct(x).numpy()
    assert found["test_reconstruction"] == pytest.approx(((redrawn - x.numpy()) ** 2).mean())
    counts = np.bincount(model.encode(x).flatten().numpy(), minlength=8)
    share = counts[counts > 0] / counts.sum()
    assert found["test_perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert found["test_codes_used"] == (counts > 0).sum() / 8


def test_a_residual_block_adds():
    block = ResidualBlock(4, 2)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="multiples of 4"):
        VQVAE((1, 30, 28), VectorQuantizer(4, 4))
    with pytest.raises(ValueError, match="num_codes >= 2"):
        VectorQuantizer(1, 4)
    with pytest.raises(ValueError, match="decay must lie"):
        VectorQuantizer(4, 4, decay=1.0)
    with pytest.raises(ValueError, match="expected images"):
        tiny().encode(torch.zeros(2, 1, 8, 8))
