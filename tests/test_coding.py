"""Files of images: they come back, they are as long as the model says, and what is wrong is named."""

import math
import subprocess
import sys
from functools import cache, partial

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_vae

import vae_tutorial as vt
from vae_tutorial import coding
from vae_tutorial.coding import BIN, BitsBack, compress, decompress
from vae_tutorial.fit import fit
from vae_tutorial.likelihoods import BetaBinomial, DiscretizedLogistic, Gaussian
from vae_tutorial.randomness import seeded
from vae_tutorial.runs import fit_or_load

SHAPE = (1, 6, 5)


def grey_vae(likelihood, latent_dim=3, seed=0):
    with seeded(seed):
        posterior = vt.MeanFieldGaussian(latent_dim)
        encoder = vt.Encoder(vt.MLP(SHAPE, posterior.param_shape, (8,)), posterior)
        decoder = vt.Decoder(vt.MLP(latent_dim, likelihood.param_shape, (8,)), likelihood)
        return vt.VAE(encoder, decoder, vt.StandardNormal(latent_dim))


def bytes_like(n, binary, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, *SHAPE), generator=generator)
    return (images // 128 * 255 if binary else images).to(torch.uint8)


MAKERS = {
    "Bernoulli": (lambda: tiny_vae(SHAPE, 3, greys=False, spread=3.0), True),
    "BetaBinomial": (lambda: grey_vae(BetaBinomial(SHAPE)), False),
    "DiscretizedLogistic": (lambda: grey_vae(DiscretizedLogistic(SHAPE)), False),
}
every_maker = pytest.mark.parametrize("maker", MAKERS)
VAES = {name: make() for name, (make, _) in MAKERS.items()}


@cache
def codec_of(maker):
    """Its table is made once."""
    return BitsBack(VAES[maker], step=0.5)


@cache
def content():
    return compress(VAES["Bernoulli"], bytes_like(9, True))


@every_maker
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 12), seed=st.integers(0, 9))
def test_images_come_back_and_the_stack_is_as_before(maker, n, seed):
    codec, images = codec_of(maker), bytes_like(n, MAKERS[maker][1], seed)
    stack = codec.stack()
    assert codec.is_start(stack)
    for image in images:
        codec.push(stack, image)
    assert not codec.is_start(stack)
    back = [codec.pop(stack) for _ in range(n)][::-1]
    assert torch.equal(torch.stack(back), images)
    assert codec.is_start(stack)


@every_maker
def test_a_new_stack_holds_the_bits_of_the_first_latent(maker):
    """24 bits a dimension, the most that the coder can use for one."""
    codec = codec_of(maker)
    assert 24 * 3 <= codec.stack().num_valid_bits() <= 24 * 3 + 2 * 32


@every_maker
def test_a_file_and_back(maker):
    vae, images = VAES[maker], bytes_like(3, MAKERS[maker][1])
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    content = compress(vae, images, step=0.5)
    assert torch.equal(decompress(vae, content, step=0.5), images)
    assert all(torch.equal(before[k], v) for k, v in vae.state_dict().items())
    assert content == compress(vae, images, step=0.5)


def train(likelihood, images, epochs=40):
    vae = grey_vae(likelihood, latent_dim=2)
    fit(vae, vt.elbo, images, epochs=epochs, learning_rate=1e-2, progress=False, device="cpu")
    return vae


@pytest.mark.parametrize("kind", [vt.Bernoulli, BetaBinomial])
def test_the_length_is_the_models_information_content(kind):
    """Of each pixel and latent by SciPy: 0.5% for all images; and the bound within 3%."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 30)[None] > rng.uniform(0.1, 0.9, (400, 1))
    grey = (ramp ^ (rng.uniform(size=(400, 30)) < 0.05)) * 255
    if kind is BetaBinomial:
        grey = np.where(rng.uniform(size=(400, 30)) < 0.3, rng.integers(256, size=(400, 30)), grey)
    images = torch.from_numpy(grey).to(torch.uint8).reshape(-1, *SHAPE)
    vae = train(kind(SHAPE), images)
    codec, wide = BitsBack(vae, step=1 / 8), vae.double()
    stack = codec.stack()
    before, latents = stack.num_valid_bits(), []
    for image in images:
        latents.append(codec.push(stack, image))
    coded = stack.num_valid_bits() - before

    z = torch.stack(latents)
    assert np.array_equal(z / BIN, (z / BIN).round())
    with torch.no_grad():
        q = wide.encoder(images.double() / 255)
        given = wide.decoder.network(z).numpy()
    x = images.numpy()
    if kind is vt.Bernoulli:
        log_x = scipy.stats.bernoulli(1 / (1 + np.exp(-given))).logpmf(x // 255)
    else:
        a, b = (np.exp(8 * np.tanh((part + 2) / 8) - 2) for part in np.split(given, 2, axis=1))
        log_x = scipy.stats.betabinom(255, a, b).logpmf(x)
    log_p, log_q = scipy.stats.norm.logpdf(z), scipy.stats.norm(q.mean, q.stddev).logpdf(z)
    content = -(log_x.sum() + log_p.sum() - log_q.sum()) / math.log(2)
    assert coded == pytest.approx(content, rel=0.005)
    bound = vt.evaluate(wide.float(), vt.elbo, images, samples=50)["negative_elbo"]
    assert coded / len(images) == pytest.approx(bound / math.log(2), rel=0.03)
    header = 34 + 4 * len(coding._seed_words(2)) + 8
    assert len(compress(vae, images, step=1 / 8)) == pytest.approx(coded / 8 + header, abs=16)


def test_a_collapsed_latent_is_free_and_q_as_the_prior_costs_what_the_pixels_cost():
    """With q = p pops and pushes of latents cancel; what is left is the pixels."""
    vae = tiny_vae(SHAPE, 3, greys=False, spread=3.0)
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.zero_()
    codec, images = BitsBack(vae), bytes_like(200, True)
    stack = codec.stack()
    before = stack.num_valid_bits()
    z = torch.stack([codec.push(stack, image) for image in images])
    grown = stack.num_valid_bits() - before
    pixels = -vae.double().decoder(z).log_prob(images.double() / 255).sum() / math.log(2)
    assert grown == pytest.approx(float(pixels.detach()), rel=0.005)


def test_latents_popped_from_random_bits_are_samples_of_the_posterior():
    codec = codec_of("Bernoulli")
    words = np.random.default_rng(0).integers(2**32, size=8 * 1500, dtype=np.uint32)
    image = bytes_like(1, True)[0]
    z = [codec.push(coding.AnsCoder(part, seal=True), image) for part in words.reshape(-1, 8)]
    with torch.no_grad():
        q = codec.vae.encoder(image.double()[None] / 255)
    for values, mean, scale in zip(torch.stack(z).T, q.mean[0], q.stddev[0], strict=True):
        assert scipy.stats.kstest(values, scipy.stats.norm(mean, scale).cdf).pvalue > 0.01


def test_narrow_posteriors_are_never_left():
    """Each latent lies within its window: no bin far from its posterior gets any probability."""
    vae = tiny_vae(SHAPE, 4, greys=False)
    with torch.no_grad():
        vae.encoder.network.layers[-1].bias[4:] = torch.tensor([-6.0, -4.0, 0.0, 3.0])
    codec, images = BitsBack(vae), bytes_like(300, True)
    with torch.no_grad():
        q = vae.encoder(images.float() / 255)
    words = np.random.default_rng(0).integers(2**32, size=(300, 8), dtype=np.uint32)
    stacks = [coding.AnsCoder(part, seal=True) for part in words]
    z = torch.stack([codec.push(*pair) for pair in zip(stacks, images, strict=True)])
    assert (abs(z - q.mean) < 17 * q.stddev).all()
    spread = ((z - q.mean) / q.stddev).std(0)[:3]
    torch.testing.assert_close(spread.float(), torch.ones(3), atol=0.15, rtol=0)
    assert torch.equal(torch.stack([codec.pop(stack) for stack in stacks]), images)


def test_extreme_parameters_still_come_back():
    """Logits beyond the grid, means beyond the bins, standard deviations wider than all bins."""
    vae = tiny_vae(SHAPE, 3, greys=False)
    with torch.no_grad():
        vae.decoder.network.layers[-1].bias[:] = torch.linspace(-200, 200, 30)
        vae.encoder.network.layers[-1].bias[:] = torch.tensor([-50.0, 50.0, 0, 9.0, -9.0, 9.0])
    images = bytes_like(20, True)
    assert torch.equal(decompress(vae, compress(vae, images)), images)


def shuffled(vae, seed=0):
    """The same functions, the sums of their hidden layers in another order."""
    generator = torch.Generator().manual_seed(seed)
    for network in (vae.encoder.network, vae.decoder.network):
        first, second = (m for m in network.modules() if isinstance(m, torch.nn.Linear))
        order = torch.randperm(first.out_features, generator=generator)
        first.weight.data, first.bias.data = first.weight[order], first.bias[order]
        second.weight.data = second.weight[:, order]
    return vae


def test_another_order_of_the_sums_does_not_matter():
    """In double precision and on a grid; in single precision a few pixels in a million change."""
    assert {p.dtype for p in codec_of("Bernoulli").vae.parameters()} == {torch.float64}
    make = partial(tiny_vae, SHAPE, 3, (64,), greys=False, spread=2.0)
    sender, receiver = BitsBack(make()), BitsBack(shuffled(make()))
    images, stack = bytes_like(100, True), sender.stack()
    for image in images:
        sender.push(stack, image)
    assert torch.equal(torch.stack([receiver.pop(stack) for _ in images]).flip(0), images)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda c: b"", "no file of this kind"),
        (lambda c: b"PNG" + c, "no file of this kind"),
        (lambda c: c[:30], "no file of this kind"),
        (lambda c: c[:-4], "truncated or damaged"),
        (lambda c: c[:-1], "truncated or damaged"),
        (lambda c: c + b"more", "truncated or damaged"),
        (lambda c: c[:40] + bytes([c[40] ^ 1]) + c[41:], "truncated or damaged"),
        (lambda c: c[:8] + b"\x08" + c[9:], "not what was encoded"),  # 8 images instead of 9
        (lambda c: c[:26] + bytes([c[26] ^ 1]) + c[27:], "not what was encoded"),
        (lambda c: c[:12] + b"\x03" + c[13:], "another model"),  # channels
    ],
)
def test_a_file_that_is_not_whole(broken, message):
    with pytest.raises(ValueError, match=message):
        decompress(VAES["Bernoulli"], broken(content()))


@pytest.mark.parametrize("seed", range(3))
def test_a_stack_that_no_image_was_pushed_onto(seed):
    """Sooner or later a latent lies where its posterior has no bin, and that is said."""
    codec, words = codec_of("Bernoulli"), np.random.default_rng(seed).integers(2**32, size=12)
    stack = coding.AnsCoder(words.astype(np.uint32), seal=True)
    with pytest.raises(ValueError, match="no more images than were pushed"):
        [codec.pop(stack) for _ in range(100)]


def test_another_models_file():
    vae = VAES["Bernoulli"]
    for other, step in ((tiny_vae(SHAPE, 3, greys=False, seed=1), 0.25), (vae, 0.5)):
        with pytest.raises(ValueError, match="another model"):
            decompress(other, content(), step=step)


def test_other_numbers_on_another_machine_are_noticed(monkeypatch):
    rows, wanted = BitsBack._rows, content()
    monkeypatch.setattr(BitsBack, "_rows", lambda self, z: np.maximum(rows(self, z) - 1, 0))
    with pytest.raises(ValueError, match="gave other numbers"):
        decompress(VAES["Bernoulli"], wanted)


def full_covariance():
    posterior = vt.posteriors.FullCovarianceGaussian(2)
    encoder = vt.Encoder(vt.MLP(SHAPE, posterior.param_shape), posterior)
    return vt.VAE(encoder, vt.Decoder(vt.MLP(2, SHAPE), vt.Bernoulli(SHAPE)), vt.StandardNormal(2))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: BitsBack(tiny_vae(SHAPE, greys=False), step=0), "step"),
        (lambda: BitsBack(grey_vae(Gaussian(SHAPE))), "codes pixels with"),
        (
            lambda: BitsBack(grey_vae(DiscretizedLogistic(SHAPE, noise="homoscedastic"))),
            "pixelwise",
        ),
        (lambda: BitsBack(full_covariance()), "MeanFieldGaussian"),
        (lambda: compress(VAES["Bernoulli"], bytes_like(2, False)), "binarize"),
        (lambda: compress(VAES["Bernoulli"], bytes_like(2, True).float()), "uint8"),
        (lambda: compress(VAES["Bernoulli"], bytes_like(2, True)[:0]), "at least one"),
        (lambda: compress(VAES["Bernoulli"], bytes_like(2, True)[..., 1:]), r"\(N, 1, 6, 5\)"),
        (
            lambda: codec_of("Bernoulli").push(codec_of("Bernoulli").stack(), torch.zeros(SHAPE)),
            "uint8",
        ),
    ],
)
def test_misuse_is_named(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_another_process_decodes_with_a_stored_run(tmp_path, monkeypatch):
    images = bytes_like(30, True)
    split = vt.data.Split(images, torch.zeros(30))
    stored = vt.data.Dataset("tiny", split, split, split)
    build = partial(tiny_vae, SHAPE, 3, greys=False)
    run = fit_or_load("run", build, vt.elbo, stored, epochs=1, root=tmp_path, device="cpu")
    file, out = tmp_path / "file", tmp_path / "images.npy"
    file.write_bytes(compress(run.model, images))
    command = [sys.executable, "-m", "vae_tutorial.coding", str(tmp_path / "tiny/run")]
    subprocess.run([*command, str(file), str(out)], check=True)
    assert np.array_equal(np.load(out), images.numpy())
    assert subprocess.run(command, capture_output=True).returncode != 0
