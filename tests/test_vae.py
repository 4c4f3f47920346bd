"""The VAE and the autoencoder: shapes, what is drawn and what is not, gradients, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from tiny import random_images, tiny_autoencoder, tiny_vae

from vae_tutorial import (
    MLP,
    VAE,
    Bernoulli,
    ConvDecoder,
    ConvEncoder,
    Decoder,
    Encoder,
    MeanFieldGaussian,
    StandardNormal,
    elbo,
    fit,
    latent,
    reconstruction_error,
)  # fmt: skip
from vae_tutorial.evaluate import importance_weighted_bound
from vae_tutorial.schedules import OneCycle

SIDE = st.integers(4, 21)


@given(st.integers(1, 3), SIDE, SIDE, st.integers(1, 4), st.sampled_from([(3,), (3, 4)]))
def test_shapes_of_all_parts(c, h, w, d, channels):
    shape = (c, h, w)
    posterior, likelihood = MeanFieldGaussian(d), Bernoulli(shape, greys=True)
    encoder = Encoder(ConvEncoder(shape, posterior.param_shape, channels, hidden=5), posterior)
    decoder = Decoder(ConvDecoder(d, likelihood.param_shape, channels[::-1], hidden=5), likelihood)
    for vae in (
        VAE(encoder, decoder, StandardNormal(d)),
        tiny_vae(shape, latent_dim=d, hidden=(5,)),
    ):
        x = random_images(3, shape)
        q = vae.encoder(x)
        assert (q.batch_shape, q.event_shape) == ((3,), (d,))
        assert (vae.prior().batch_shape, vae.prior().event_shape) == ((), (d,))
        for leading in [(), (3,), (2, 3)]:
            p = vae.decoder(torch.zeros(*leading, d))
            assert (p.batch_shape, p.event_shape) == (leading, shape)
        assert all(term.shape == (3,) for term in elbo(vae, x, samples=2).values())
        assert vae.encode(x).shape == (3, d)
        assert vae.reconstruct(x).shape == x.shape
        assert vae.sample(2, seed=0).shape == (2, *shape)
        assert latent.decode(vae, torch.zeros(2, 4, d), batch_size=3).shape == (2, 4, *shape)


def test_all_monte_carlo_samples_take_one_decoder_pass():
    vae, batches = tiny_vae(), []
    vae.decoder.network.register_forward_hook(
        lambda m, inputs, out: batches.append(inputs[0].shape)
    )
    elbo(vae, random_images(3), samples=7)
    assert batches == [(21, 2)]


def test_folding_keeps_samples_apart():
    vae = tiny_vae()
    z = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.stack([torch.stack([vae.decoder(a).mean for a in b]) for b in z])
    torch.testing.assert_close(vae.decoder(z).mean, one_by_one)


def test_reconstruct_decodes_the_posterior_mean_and_draws_nothing():
    vae, x = tiny_vae(), random_images()
    state = torch.get_rng_state()
    expected = torch.sigmoid(vae.decoder.network(vae.encoder(x).mean))
    torch.testing.assert_close(vae.reconstruct(x), expected.detach())
    assert torch.equal(torch.get_rng_state(), state)


def test_sample_gives_means_or_pixels():
    vae = tiny_vae()
    assert set(vae.sample(3, seed=0, pixels=True).unique().tolist()) == {0.0, 1.0}
    assert len(vae.sample(3, seed=0).unique()) > 2
    with pytest.raises(ValueError, match="n must"):
        vae.sample(0)


@pytest.mark.parametrize("model", [tiny_vae(), tiny_autoencoder()], ids=["VAE", "autoencoder"])
def test_encode_and_decode_keep_gradients_reconstruct_and_sample_have_none(model):
    x = random_images(2).requires_grad_()
    image = model.decode(model.encode(x))
    (gradient,) = torch.autograd.grad(image.sum(), x)
    assert gradient.abs().sum() > 0
    assert not model.reconstruct(x).requires_grad
    torch.testing.assert_close(model.reconstruct(x), image.detach())
    assert 0 < image.min() < image.max() < 1  # greys, not logits


def test_an_objective_through_decode_trains_the_decoder():
    def redraw(vae, x):
        return {"loss": (vae.decode(vae.encode(x)) - x).square().sum((1, 2, 3))}

    vae = tiny_vae()
    before = vae.decoder.network.layers[0].weight.clone()
    fit(vae, redraw, random_images(), epochs=1, progress=False, device="cpu")
    assert not torch.equal(vae.decoder.network.layers[0].weight, before)


def test_the_decoder_and_the_bound_are_drawn_from_the_seed_alone():
    draws = [
        lambda seed: tiny_vae().sample(3, seed=seed),
        lambda seed: tiny_vae().sample(3, seed=seed, pixels=True),
        lambda seed: importance_weighted_bound(tiny_vae(), random_images(), samples=3, seed=seed),
    ]
    for draw in draws:
        torch.manual_seed(1)
        first = draw(3)
        torch.rand(5)
        state = torch.get_rng_state()
        assert torch.equal(draw(3), first)
        assert torch.equal(torch.get_rng_state(), state)  # nothing outside is disturbed
        assert not torch.equal(draw(4), first)


IMAGE = (1, 8, 8)
POSTERIOR, LIKELIHOOD = MeanFieldGaussian(2), Bernoulli(IMAGE)
ENCODER, DECODER = Encoder(MLP(IMAGE, 4), POSTERIOR), Decoder(MLP(2, IMAGE), LIKELIHOOD)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Encoder(MLP(IMAGE, 2), POSTERIOR), "posterior.param_shape"),
        (lambda: Decoder(MLP(2, 64), LIKELIHOOD), "likelihood.param_shape"),
        (lambda: VAE(ENCODER, DECODER, StandardNormal(3)), "latent_dim"),
        (lambda: VAE(Encoder(MLP((3, 8, 8), 4), POSTERIOR), DECODER, StandardNormal(2)), "shape"),
        (lambda: elbo(tiny_vae(), random_images(), samples=0), "samples"),
    ],
)
def test_parts_that_do_not_fit_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --------------------------------------------------------------------------- the autoencoder


def test_autoencoder_shapes():
    model, x = tiny_autoencoder((3, 5, 7), latent_dim=4), random_images(6, (3, 5, 7))
    assert model.encode(x).shape == latent.encode(model, x, batch_size=4).shape == (6, 4)
    assert model.reconstruct(x).shape == x.shape
    assert {k: v.shape for k, v in reconstruction_error(model, x).items()} == {
        "loss": (6,), "reconstruction": (6,)
    }  # fmt: skip


def test_linear_autoencoder_finds_the_principal_subspace():
    generator = torch.Generator().manual_seed(0)
    x = 0.03 * torch.rand(300, 3, 3, generator=generator)
    x[:, 0] += 0.9 * torch.rand(300, 1, generator=generator)  # a row and a column of one grey each
    x[:, :, 0] += 0.05 + 0.5 * torch.rand(300, 1, generator=generator)
    x = x.unsqueeze(1) / x.max()
    model = tiny_autoencoder((1, 3, 3), hidden=())

    def squared_error(model, x):
        return {"loss": (model.decoder.network(model.encode(x)) - x).square().sum((1, 2, 3))}

    fit(model, squared_error, x, epochs=800, batch_size=300, learning_rate=OneCycle(0.1),
        progress=False, device="cpu")  # fmt: skip
    centred = x.flatten(1).numpy() - x.flatten(1).numpy().mean(0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    learnt = model.decoder.network.layers[0].weight.detach().numpy()
    assert subspace_angles(learnt, vt[:2].T).max() < 0.02
    residual = float(squared_error(model, x)["loss"].mean().detach())
    assert residual == pytest.approx((s[2:] ** 2).sum() / 300, abs=1e-4)
