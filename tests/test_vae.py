"""The VAE and the autoencoder: shapes, what is drawn and what is not, gradients, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_images, tiny_autoencoder, tiny_vae

import vae_tutorial as vt
from vae_tutorial import latent

SIDE = st.integers(4, 21)


@settings(deadline=None)
@given(st.integers(1, 3), SIDE, SIDE, st.integers(1, 4), st.sampled_from([(3,), (3, 4)]))
def test_shapes_of_all_parts(c, h, w, d, channels):
    shape = (c, h, w)
    posterior, likelihood = vt.MeanFieldGaussian(d), vt.Bernoulli(shape, greys=True)
    network = vt.ConvEncoder(shape, posterior.param_shape, channels, hidden=5)
    drawing = vt.ConvDecoder(d, likelihood.param_shape, channels[::-1], hidden=5)
    parts = vt.Encoder(network, posterior), vt.Decoder(drawing, likelihood), vt.StandardNormal(d)
    x = random_images(3, shape)
    for vae in (vt.VAE(*parts), tiny_vae(shape, latent_dim=d, hidden=(5,))):
        q = vae.encoder(x)
        assert (q.batch_shape, q.event_shape) == ((3,), (d,))
        assert (vae.prior().batch_shape, vae.prior().event_shape) == ((), (d,))
        for leading in [(), (3,), (2, 3)]:
            p = vae.decoder(torch.zeros(*leading, d))
            assert (p.batch_shape, p.event_shape) == (leading, shape)
        assert all(term.shape == (3,) for term in vt.elbo(vae, x, samples=2).values())
        assert vae.sample(2, seed=0).shape == (2, *shape)
        assert latent.decode(vae, torch.zeros(2, 4, d), batch_size=3).shape == (2, 4, *shape)
    for model in (vae, tiny_autoencoder(shape, latent_dim=d, hidden=(5,))):
        assert model.encode(x).shape == latent.encode(model, x, batch_size=2).shape == (3, d)
        assert model.reconstruct(x).shape == x.shape
    terms = vt.reconstruction_error(model, x)
    assert {name: term.shape for name, term in terms.items()} == {
        "loss": (3,), "reconstruction": (3,)
    }  # fmt: skip


def test_all_monte_carlo_samples_take_one_decoder_pass():
    vae, batches = tiny_vae(), []
    vae.decoder.network.register_forward_hook(lambda m, given, out: batches.append(given[0].shape))
    vt.elbo(vae, random_images(3), samples=7)
    assert batches == [(21, 2)]


def test_sample_gives_means_or_pixels():
    vae = tiny_vae()
    assert set(vae.sample(3, seed=0, pixels=True).unique().tolist()) == {0.0, 1.0}
    assert len(vae.sample(3, seed=0).unique()) > 2


@pytest.mark.parametrize("model", [tiny_vae(), tiny_autoencoder()], ids=["VAE", "autoencoder"])
def test_reconstruct_draws_nothing_encode_and_decode_keep_gradients(model):
    x, state = random_images(2).requires_grad_(), torch.get_rng_state()
    answer = model.encoder(x)  # the posterior, or the codes themselves
    code = answer if isinstance(answer, torch.Tensor) else answer.mean
    image = model.decode(model.encode(x))
    torch.testing.assert_close(image, torch.sigmoid(model.decoder.network(code)))
    (gradient,) = torch.autograd.grad(image.sum(), x)
    assert gradient.abs().sum() > 0
    assert not model.reconstruct(x).requires_grad
    torch.testing.assert_close(model.reconstruct(x), image.detach())
    assert torch.equal(torch.get_rng_state(), state)


IMAGE = (1, 8, 8)
POSTERIOR, LIKELIHOOD = vt.MeanFieldGaussian(2), vt.Bernoulli(IMAGE)
ENCODER = vt.Encoder(vt.MLP(IMAGE, 4), POSTERIOR)
COLOUR = vt.Encoder(vt.MLP((3, 8, 8), 4), POSTERIOR)
DECODER = vt.Decoder(vt.MLP(2, IMAGE), LIKELIHOOD)


@pytest.mark.parametrize(("message", "call"), [
    ("posterior.param_shape", lambda: vt.Encoder(vt.MLP(IMAGE, 2), POSTERIOR)),
    ("likelihood.param_shape", lambda: vt.Decoder(vt.MLP(2, 64), LIKELIHOOD)),
    ("latent_dim", lambda: vt.VAE(ENCODER, DECODER, vt.StandardNormal(3))),
    ("shape", lambda: vt.VAE(COLOUR, DECODER, vt.StandardNormal(2))),
    ("samples", lambda: vt.elbo(tiny_vae(), random_images(), samples=0)),
    ("n must", lambda: tiny_vae().sample(0)),
])  # fmt: skip
def test_what_does_not_fit_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()
