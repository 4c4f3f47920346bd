"""The package's contracts: shapes, refusals in plain words, data, repeatable draws, figures."""

from __future__ import annotations

import ast
import gzip
import itertools
import struct
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from tiny import random_images, tiny_autoencoder, tiny_vae
from torch import nn

import vae_tutorial as vt
from vae_tutorial import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    checks,
    data,
    elbo,
    exercises,
    fit,
    latent,
    plots,
)
from vae_tutorial.autoencoder import Autoencoder
from vae_tutorial.evaluation import (
    evaluate_elbo,
    importance_weighted_bound,
    moments_from_standard_normal,
)
from vae_tutorial.networks import count_parameters
from vae_tutorial.objectives import reconstruction_error
from vae_tutorial.randomness import seeded
from vae_tutorial.vae import VAE, Decoder, Encoder

settings.register_profile("book", max_examples=30, deadline=None, derandomize=True)
settings.load_profile("book")

MODULES = {path.stem: path for path in sorted((ROOT / "vae_tutorial").glob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}

# ------------------------------------------------------------------------------------- shapes

SIDE = st.integers(4, 21)


@given(st.integers(1, 3), SIDE, SIDE, st.integers(1, 4), st.sampled_from([(3,), (3, 4)]))
def test_shapes_of_all_parts(c, h, w, d, channels):
    shape = (c, h, w)
    posterior, likelihood = vt.MeanFieldGaussian(d), vt.Bernoulli(shape, greys=True)
    encoder = Encoder(ConvEncoder(shape, posterior.param_shape, channels, hidden=5), posterior)
    decoder = Decoder(ConvDecoder(d, likelihood.param_shape, channels[::-1], hidden=5), likelihood)
    for vae in (
        VAE(encoder, decoder, vt.StandardNormal(d)),
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


def test_autoencoder_shapes():
    model, x = tiny_autoencoder((3, 5, 7), latent_dim=4), random_images(6, (3, 5, 7))
    assert model.encode(x).shape == latent.encode(model, x, batch_size=4).shape == (6, 4)
    assert model.reconstruct(x).shape == x.shape
    assert reconstruction_error(model, x)["loss"].shape == (6,)


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
    together = vae.decoder(z).mean
    one_by_one = torch.stack([torch.stack([vae.decoder(a).mean for a in b]) for b in z])
    torch.testing.assert_close(together, one_by_one)


def test_reconstruct_decodes_the_posterior_mean_and_draws_nothing():
    vae, x = tiny_vae(), random_images()
    state = torch.get_rng_state()
    expected = torch.sigmoid(vae.decoder.network(vae.encoder(x).mean))
    torch.testing.assert_close(vae.reconstruct(x), expected.detach())
    assert torch.equal(torch.get_rng_state(), state)
    means, scales = latent.encode_distribution(vae, x, batch_size=3)
    torch.testing.assert_close(means, vae.encode(x))
    torch.testing.assert_close(scales, vae.encoder(x).stddev.detach())


def test_sample_gives_means_or_pixels():
    vae = tiny_vae()
    assert set(vae.sample(3, seed=0, pixels=True).unique().tolist()) == {0.0, 1.0}
    assert len(vae.sample(3, seed=0).unique()) > 2


def test_count_parameters():
    network = MLP(4, 3, hidden=(5,))
    assert count_parameters(network) == 4 * 5 + 5 + 5 * 3 + 3
    network.layers[0].weight.requires_grad_(False)
    assert count_parameters(network) == 5 + 5 * 3 + 3


# --------------------------------------------------------------------------------- refusals


def fit_one(images):
    return fit(tiny_vae(), elbo, images, epochs=1, progress=False, device="cpu")


GOOD = random_images()
WITH_NAN = GOOD.clone()
WITH_NAN[0, 0, 0, 0] = float("nan")

BAD_IMAGES = [
    (GOOD[:, 0], r"\(N, C, H, W\), got \(4, 28, 28\).*unsqueeze\(1\)"),
    (GOOD.flatten(1), r"got \(4, 784\).*reshape"),
    (GOOD[:0], "empty"),
    (GOOD * 255, r"\[0, 1\].*divide"),
    (GOOD - 0.5, r"\[0, 1\].*normalization"),
    (WITH_NAN, "remove NaN"),
    (GOOD.double(), r"got torch.float64.*images.float\(\)"),
    (GOOD.long(), "got torch.int64"),
    (GOOD[:, :, :14], r"expects batches of shape \(B, 1, 28, 28\), got \(4, 1, 14, 28\)"),
]


@pytest.mark.parametrize("use", [fit_one, lambda x: evaluate_elbo(tiny_vae(), x),
                                 lambda x: latent.encode(tiny_vae(), x)])  # fmt: skip
@pytest.mark.parametrize(("images", "message"), BAD_IMAGES)
def test_bad_images_are_refused_in_words(use, images, message):
    with pytest.raises(ValueError, match=message):
        use(images)


def test_images_that_are_no_tensor():
    for use in (data.check_images, lambda x: evaluate_elbo(tiny_vae(), x)):
        with pytest.raises(ValueError, match=r"got ndarray.*torch.as_tensor"):
            use(GOOD.numpy())
    with pytest.raises(ValueError, match=r"\(1, 14, 14\), got \(1, 28, 28\)"):
        data.check_images(GOOD, (1, 14, 14))


@pytest.mark.parametrize("latent_dim", [0, -1, True, 2.5, "2"])
@pytest.mark.parametrize("part", [vt.MeanFieldGaussian, vt.StandardNormal])
def test_latent_dim_must_be_a_whole_number(part, latent_dim):
    with pytest.raises(ValueError, match="latent_dim must be a whole number of at least 1"):
        part(latent_dim)


IMAGE = (1, 8, 8)
POSTERIOR, LIKELIHOOD = vt.MeanFieldGaussian(2), vt.Bernoulli(IMAGE)
ENCODER, DECODER = Encoder(MLP(IMAGE, 4), POSTERIOR), Decoder(MLP(2, IMAGE), LIKELIHOOD)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Encoder(MLP(IMAGE, 2), POSTERIOR), r"out_shape=posterior.param_shape"),
        (lambda: Decoder(MLP(2, 64), LIKELIHOOD), r"needs \(1, 8, 8\).*likelihood.param_shape"),
        (lambda: VAE(ENCODER, DECODER, vt.StandardNormal(3)), "latent_dim=2 and the prior.*3"),
        (
            lambda: VAE(Encoder(MLP((3, 8, 8), 4), POSTERIOR), DECODER, vt.StandardNormal(2)),
            r"reads images of shape \(3, 8, 8\) and the decoder gives \(1, 8, 8\)",
        ),
        (lambda: POSTERIOR(torch.zeros(5, 6)), r"needs 4 numbers.*got .*\(5, 6\)"),
        (lambda: LIKELIHOOD(torch.zeros(5, 3, 8, 8)), r"\(\.\.\., 1, 8, 8\), got \(5, 3, 8, 8\)"),
        (lambda: vt.MeanFieldGaussian(2, log_variance_bound=0), "positive or None"),
        (lambda: vt.Bernoulli((8, 8)), r"\(C, H, W\), got \(8, 8\)"),
        (lambda: MLP((1, 0), 2), "positive whole numbers"),
        (lambda: MLP(4, 2, hidden=(3.5,)), "hidden needs positive whole numbers"),
        (lambda: ConvEncoder((1, 3, 8), 4), "at least 4 pixels a side"),
        (lambda: ConvDecoder(2, (8, 8)), r"\(C, H, W\)"),
        (lambda: ConvEncoder(IMAGE, 4, channels=()), "channels is empty"),
        (lambda: ConvEncoder(IMAGE, 4, channels=(0,)), "channels needs positive"),
        (lambda: MLP(3, 2)(torch.zeros(5, 4)), r"expects .*\(B, 3\), got \(5, 4\).*in_shape"),
        (lambda: elbo(tiny_vae(), GOOD, samples=0), "samples must be at least 1, got 0"),
        (lambda: importance_weighted_bound(tiny_vae(), GOOD, samples=0), "at least 1, got 0"),
        (lambda: tiny_vae().sample(0), "n must be at least 1"),
        (lambda: latent.interpolate(torch.zeros(2), torch.zeros(2), 1), "at least 2"),
        (lambda: latent.interpolate(torch.zeros(2), torch.zeros(3), 4), r"both be \(D,\)"),
        (lambda: latent.interpolate(torch.zeros(2), torch.ones(2), 4, spherical=True), "not zero"),
        (lambda: latent.traverse(torch.zeros(3), 3, torch.ones(2)), "dimension from 0 to D - 1"),
        (lambda: latent.four_corners(torch.zeros(3, 2), 4), r"\(4, D\), got \(3, 2\)"),
        (lambda: latent.linear_grid(1), "at least 2 points"),
        (lambda: latent.tsne(torch.zeros(5, 2)), "more codes than the perplexity"),
        (lambda: moments_from_standard_normal(torch.zeros(3, 3)), "more codes than dimensions"),
        (lambda: fit(tiny_vae(), elbo, GOOD, epochs=0), "at least 1, got 0 and 128"),
        (lambda: fit(tiny_vae(), elbo, GOOD, epochs=1, batch_size=0), "got 1 and 0"),
        (lambda: fit(tiny_vae(), elbo, 3, epochs=1), "tensor .* or a DataLoader"),
        (lambda: fit(tiny_vae(), elbo, [], epochs=1), "empty"),
    ],
)
def test_misuse_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_likelihood_refuses_greys_unless_told():
    logits = torch.zeros(4, 1, 28, 28)
    with pytest.raises(ValueError, match=r"0 or 1.*Binarize.*greys=True"):
        vt.Bernoulli((1, 28, 28))(logits).log_prob(GOOD)
    with pytest.raises(ValueError, match="0 or 1"):
        vt.Bernoulli((1, 28, 28))(logits).log_prob(WITH_NAN.round())
    assert vt.Bernoulli((1, 28, 28))(logits).log_prob(GOOD.round()).isfinite().all()
    assert vt.Bernoulli((1, 28, 28), greys=True)(logits).log_prob(GOOD).isfinite().all()


# -------------------------------------------------------------------------------------- data


def splits(loaded):
    return loaded.train, loaded.validation, loaded.test


def assert_disjoint(loaded, total):
    """No image lies in two parts, and the parts together are everything."""
    rows = torch.cat([part.images for part in splits(loaded)])
    assert len(rows) == total
    keys = [{image.numpy().tobytes() for image in part.images} for part in splits(loaded)]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(keys, 2))


def test_digits(digits):
    assert [len(part) for part in splits(digits)] == [1197, 200, 400]
    assert digits.image_shape == (1, 28, 28)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.labels.dtype == torch.int64
    assert digits.classes == tuple("0123456789")
    assert_disjoint(digits, 1797)
    assert digits.train.images.max() == 255
    assert (digits.train.images[:, :, :4] == 0).all()  # the frame
    for part in splits(digits):
        assert set(part.labels.tolist()) == set(range(10))
    assert digits.test.labels[:8].tolist() == [6, 4, 7, 7, 8, 2, 5, 0]  # the same draw everywhere
    first = digits.sha256
    data.load_digits.cache_clear()
    assert data.load("digits").sha256 == first
    assert (
        str(digits) == "digits: 1,197 / 200 / 400 images (train / validation / test) of (1, 28, 28)"
    )


def test_checksum_sees_pixels_labels_and_order(digits):
    def changed(**parts):
        train = data.Split(
            **({"images": digits.train.images, "labels": digits.train.labels} | parts)
        )
        return data.ImageData("digits", train, digits.validation, digits.test).sha256

    brighter = digits.train.images.clone()
    brighter[5, 0, 14, 14] ^= 1
    assert changed() == digits.sha256
    assert changed(images=brighter) != digits.sha256
    assert changed(labels=digits.train.labels.flip(0)) != digits.sha256
    assert changed(images=digits.train.images.flip(0)) != digits.sha256


@pytest.mark.mnist
def test_mnist(mnist):
    assert [len(part) for part in splits(mnist)] == [55_000, 5_000, 10_000]
    assert mnist.image_shape == (1, 28, 28)
    assert mnist.classes == tuple("0123456789")
    assert_disjoint(mnist, 70_000)
    # The original test set, in its order, and all of the original training set.
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = torch.cat([mnist.train.labels, mnist.validation.labels]).bincount()
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.to_float(mnist.train.images[:5000]).mean() == pytest.approx(0.1307, abs=0.003)


def write_idx(path: Path, array: np.ndarray) -> None:
    """A file in MNIST's format."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def black_mnist(tmp_path_factory):
    """Black images in torchvision's files; the first has one white pixel."""
    folder = tmp_path_factory.mktemp("mnist")
    for stem, n in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((n, 28, 28), np.uint8)
        images[0, 3, 4] = 255
        write_idx(folder / f"{stem}-images-idx3-ubyte", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", np.arange(n) % 10)
    return folder


@pytest.fixture
def raw(black_mnist, tmp_path):
    """Links to those files in torchvision's layout under ``tmp_path``."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for path in black_mnist.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Torchvision cannot download; returns what it was asked for."""
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    return asked


def test_mnist_layout_in_a_root_of_ones_own(tmp_path, raw, no_network, monkeypatch):
    loaded = data.load("mnist", root=tmp_path)
    assert [len(part) for part in splits(loaded)] == [55_000, 5_000, 10_000]
    assert loaded.test.images[0, 0, 3, 4] == 255  # axes in the right order
    assert loaded.test.images.sum() == 255
    assert loaded.test.labels[:12].tolist() == [*range(10), 0, 1]
    monkeypatch.setenv("VAE_TUTORIAL_DATA", str(tmp_path))
    monkeypatch.delenv("VAE_TUTORIAL_DATASET", raising=False)
    assert data.load() is loaded  # both variables' defaults, and nothing is read twice
    assert not no_network


@pytest.mark.parametrize("keep", [0, 3, 10, 16, 20_000])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                  "t10k-images-idx3-ubyte"])  # fmt: skip
def test_half_downloaded_files_are_named_and_kept(tmp_path, raw, no_network, name, keep):
    path = raw / name
    content = path.read_bytes()[:keep]
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged or half downloaded") as caught:
        data.load("mnist", root=tmp_path)
    assert str(raw) in str(caught.value)
    assert "Delete them" in str(caught.value)
    assert path.read_bytes() == content
    assert not no_network


def test_too_few_images_are_damage(tmp_path, raw, no_network):
    for kind, array in (
        ("images-idx3", np.zeros((9_999, 28, 28))),
        ("labels-idx1", np.zeros(9_999)),
    ):
        (raw / f"t10k-{kind}-ubyte").unlink()
        write_idx(raw / f"t10k-{kind}-ubyte", array)
    with pytest.raises(ValueError, match="wrong number of images"):
        data.load("mnist", root=tmp_path)


@pytest.mark.parametrize("half", [False, True])
def test_no_data_and_no_network_names_the_digits(tmp_path, no_network, half):
    raw = tmp_path / "MNIST" / "raw"
    if half:  # a download that broke off: the archive is there in part
        raw.mkdir(parents=True)
        (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(1000))[:20])
    with pytest.raises(FileNotFoundError) as caught:
        data.load("mnist", root=tmp_path)
    message = str(caught.value)
    assert "no route to host" in message
    assert str(raw) in message
    assert "VAE_TUTORIAL_DATASET=digits" in message
    assert no_network


def test_environment_chooses_the_data_set(monkeypatch, tmp_path):
    monkeypatch.setenv("VAE_TUTORIAL_DATASET", "digits")
    assert data.load().name == "digits"
    monkeypatch.setenv("VAE_TUTORIAL_DATA", str(tmp_path / "there"))
    assert data.data_root() == tmp_path / "there"
    assert data.data_root(tmp_path) == tmp_path


def test_paths_hang_on_the_checkout_or_else_on_the_working_directory(
    monkeypatch, tmp_path, recwarn
):
    monkeypatch.delenv("VAE_TUTORIAL_DATA", raising=False)
    (tmp_path / "checkout" / "notebooks").mkdir(parents=True)
    (tmp_path / "checkout" / ".git").mkdir()
    monkeypatch.chdir(tmp_path / "checkout" / "notebooks")
    assert data.data_root() == tmp_path / "checkout" / "data"
    (tmp_path / "checkout" / ".git").rmdir()
    assert data.data_root() == tmp_path / "checkout" / "notebooks" / "data"
    # The repository's own .here file marks its root where there is no .git: a downloaded archive.
    (tmp_path / "checkout" / ".here").touch()
    assert (ROOT / ".here").exists()
    assert data.data_root() == tmp_path / "checkout" / "data"
    assert not recwarn.list


def test_unknown_data_set():
    with pytest.raises(ValueError, match=r"unknown data set 'minst'; known are mnist.*folder:PATH"):
        data.load("minst")


def write_images(folder: Path, n=12, size=(9, 7), mode="L", seed=0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed)
    for i in range(n):
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        image = Image.fromarray(pixels.integers(0, 256, shape).astype(np.uint8), mode)
        image.save(folder / f"{i:03}.png")


def test_folder_of_grey_images(tmp_path):
    write_images(tmp_path, n=20)
    (tmp_path / "notes.txt").write_text("not an image")
    loaded = data.load(f"folder:{tmp_path}")
    assert [len(part) for part in splits(loaded)] == [16, 2, 2]
    assert loaded.image_shape == (1, 7, 9)
    assert_disjoint(loaded, 20)
    originals = {np.asarray(Image.open(p)).tobytes() for p in tmp_path.glob("*.png")}
    assert {i.numpy().tobytes() for part in splits(loaded) for i in part.images} == originals
    assert data.load(f"folder:{tmp_path}").sha256 == loaded.sha256


def test_folder_with_classes_and_a_colour_image(tmp_path):
    write_images(tmp_path / "cats", n=9)
    write_images(tmp_path / "dogs", n=9, mode="RGB", seed=1)
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.image_shape == (3, 7, 9)
    assert loaded.classes == ("cats", "dogs")
    for part in splits(loaded):
        is_grey = [bool((i == i[:1]).all()) for i in part.images]
        assert is_grey == [label == 0 for label in part.labels.tolist()]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "is not a folder"),
        (lambda p: p.mkdir(), "holds 0 images, at least 10"),
        (lambda p: write_images(p, n=9), "holds 9 images, at least 10"),
        (lambda p: (write_images(p), write_images(p / "more", size=(8, 8))), "8x8.*9x7.*crop or resize"),
        (lambda p: (write_images(p), (p / "broken.png").write_bytes(b"\x89PNG")), "broken.png.*damaged"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(ValueError, match=message):
        data.load(f"folder:{tmp_path / 'images'}")


def test_a_half_downloaded_image_is_named(tmp_path):
    write_images(tmp_path, size=(60, 60))
    path = tmp_path / "004.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"004\.png is damaged"):
        data.load(f"folder:{tmp_path}")


def test_to_float():
    grey = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(data.to_float(grey), torch.tensor([0, 0.2, 1]))
    assert grey.tolist() == [0, 51, 255]
    assert data.to_float(GOOD) is GOOD


# ------------------------------------------------------------------------------- randomness


def test_seeded_restores_the_global_state_even_after_an_error():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded(7):
        first = torch.rand(3)
    with pytest.raises(RuntimeError, match="invalid"), seeded(8):
        torch.rand(2).reshape(3)
    with seeded(7):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(1)
    with seeded(None):
        assert torch.equal(torch.rand(3), expected)


def _fit_weights(seed):
    vae = tiny_vae()
    fit(vae, elbo, GOOD, epochs=2, batch_size=2, seed=seed, progress=False, device="cpu")
    return torch.cat([p.flatten() for p in vae.parameters()])


@pytest.mark.parametrize(
    "draw",
    [
        _fit_weights,
        lambda seed: tiny_vae().sample(3, seed=seed),
        lambda seed: tiny_vae().sample(3, seed=seed, pixels=True),
        lambda seed: torch.tensor(evaluate_elbo(tiny_vae(), GOOD, seed=seed)["test_negative_elbo"]),
        lambda seed: importance_weighted_bound(tiny_vae(), GOOD, samples=3, seed=seed),
        lambda seed: torch.from_numpy(latent.tsne(GOOD.flatten(1).repeat(9, 1)[:, :5], seed=seed)),
    ],
    ids=["fit", "sample", "pixels", "elbo", "bound", "tsne"],
)
def test_same_seed_same_bytes_whatever_was_drawn_before(draw, request):
    torch.manual_seed(1)
    first = draw(3)
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(draw(3), first)
    assert torch.equal(torch.get_rng_state(), state)  # and nothing outside is disturbed
    if "tsne" not in request.node.name:  # started from PCA: the seed decides little
        assert not torch.equal(draw(4), first)


def test_evaluation_leaves_the_mode_of_the_model():
    for training in (True, False):
        vae = tiny_vae().train(training)
        evaluate_elbo(vae, GOOD)
        assert vae.training is training


# ---------------------------------------------------------------------------------- figures

CODES, LABELS = torch.randn(60, 5), torch.arange(60) % 10
HISTORY = pd.DataFrame(
    {"scope": "epoch", "split": split, "epoch": e, "loss": 3.0 / e, "reconstruction": 2.0, "kl": 1.0}
    for e in (1, 2, 3)
    for split in ("train", "held-out")
)  # fmt: skip
SHEET = random_images(9, (1, 5, 5)).reshape(3, 3, 1, 5, 5)


def _on_its_way(seed: int) -> dict[str, torch.Tensor]:
    """A row of the pipeline figure."""
    generator = torch.Generator().manual_seed(seed)
    row = {key: torch.rand(1, 6, 4, generator=generator) for key in ("image", "mean", "std")}
    return row | {key: torch.rand(5, generator=generator) for key in ("z", "z_mean", "z_std")}


FIGURES = {
    "pipeline": lambda: plots.pipeline({"a": _on_its_way(0), "b": _on_its_way(1)}),
    "calibration_curves": lambda: plots.calibration_curves(
        {"a": {"predicted": torch.tensor([0.1, 0.2]), "actual": torch.tensor([0.0, 0.3])}}
    ),
    "image_grid": lambda: plots.image_grid(random_images(7, (3, 6, 4)), columns=3, title="seven"),
    "image_rows": lambda: plots.image_rows({"a": GOOD, "b": (GOOD * 255).byte()}),
    "image_rows of two sizes": lambda: plots.image_rows(
        {"a": GOOD, "b": random_images(len(GOOD), (3, 9, 5))}
    ),
    "manifold": lambda: plots.manifold(SHEET, ticks=[-1, 0, 1], title="plane"),
    "manifolds": lambda: plots.manifolds({"a": (SHEET, [-1, 0, 1]), "b": (SHEET, [-2, 0, 2])}),
    "loss_curves": lambda: plots.loss_curves(HISTORY, skip=1),
    "latent_scatter": lambda: plots.latent_scatter(CODES[:, :2], LABELS, limit=3, axis_names=None),
    "latent_scatters": lambda: plots.latent_scatters(
        {"a": CODES[:, :2]}, LABELS, classes=[f"class {k}" for k in range(10)]
    ),
    "prior_circles": lambda: plots.prior_circles(plots.latent_scatter(CODES[:, :2], LABELS)),
    "marginals": lambda: plots.marginals({"a": CODES, "b": CODES * 2}, columns=3),
    "pair_plot": lambda: plots.pair_plot(CODES, [0, 2, 4], title="pairs"),
    "bars": lambda: plots.bars({"a": 1.0, "b": 2.0}, xlabel="nats"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_come_back_and_leave_pyplot_alone(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert any(ax.has_data() for ax in figure.axes)
    assert plt.get_fignums() == []  # nothing is shown twice in a notebook
    plots.save(figure, tmp_path / "a.png", dpi=50)
    plots.save(FIGURES[name](), tmp_path / "b.png", dpi=50)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_every_figure_of_the_package_is_drawn_here():
    drawn = {
        node.name
        for node in TREES["plots"].body
        if isinstance(node, ast.FunctionDef)
        and ast.unparse(node.returns or ast.Constant(0)) == "Figure"
    }
    assert drawn - {"figure"} == {name.split()[0] for name in FIGURES}


def test_mosaic_puts_every_pixel_in_its_place():
    images = random_images(5, (1, 2, 3))
    sheet = plots.mosaic(images, columns=2, gap=1, paper=1.0)
    assert sheet.shape == (8, 7)
    for i, (row, column) in enumerate([(0, 0), (0, 4), (3, 0), (3, 4), (6, 0)]):
        np.testing.assert_array_equal(sheet[row : row + 2, column : column + 3], images[i, 0])
    assert (sheet[6:, 3:] == 1).all()
    np.testing.assert_allclose(
        plots.mosaic((images * 255).byte(), 5), plots.mosaic(images, 5), atol=1 / 255
    )


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.image_grid(torch.zeros(3, 2, 5, 5)), "C of 1 or 3"),
        (lambda: plots.image_grid(torch.zeros(5, 5)), "C of 1 or 3"),
        (
            lambda: plots.image_rows({"a": torch.zeros(3, 1, 5, 5), "b": torch.zeros(2, 1, 5, 5)}),
            "same number of images, got {'a': 3, 'b': 2}",
        ),
        (
            lambda: plots.latent_scatter(torch.zeros(9, 3), torch.zeros(9)),
            r"\(N, 2\), got \(9, 3\)",
        ),
        (lambda: plots.latent_scatter(torch.zeros(9), torch.zeros(9)), r"\(N, 2\), got \(9,\)"),
    ],
)
def test_figures_refuse_wrong_shapes(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


# ------------------------------------------------------------------------------------ checks


@pytest.fixture
def one_exercise(monkeypatch):
    monkeypatch.setattr(exercises, "CHECKS", {})

    @exercises.exercise("double")
    def _(answer):
        exercises.close(
            answer(torch.tensor([1.0, 2.0])), [2.0, 4.0], "Think of adding it to itself."
        )
        return "Two times two is four."


@pytest.mark.parametrize(
    ("answer", "right", "words"),
    [
        (..., False, "not answered yet"),
        (None, False, "not answered yet"),
        (lambda x: x**3, False, "not yet. Think of adding"),
        (lambda x: x.sum(), False, r"Expected shape (2,), got ()"),
        (lambda x: x / "2", False, "could not be used (TypeError"),
        (7, False, "could not be used (TypeError"),
        (lambda x: x + x, True, "right. Two times two is four."),
    ],
)
def test_check_protocol(one_exercise, capsys, answer, right, words):
    assert checks.check("double", answer) is right
    printed = capsys.readouterr().out
    assert printed.startswith("double: ")
    assert words in printed
    assert printed.count("\n") == 1


def test_check_of_an_unknown_exercise(one_exercise):
    with pytest.raises(ValueError, match="no exercise 'treble'; known are double"):
        checks.check("treble", 3)


# --------------------------------------------------------------------------- the house rules

# Each module may import only from those before it (plots and checks stand beside each other).
ORDER = ["randomness", "progress", "schedules", "networks", "posteriors", "likelihoods", "priors", "sources", "toy", "data", "vae",
         "autoencoder", "vqvae", "pixelcnn", "ladder", "objectives", "training", "artifacts", "latent", "evaluation", "style", "plots",
         "exercises", "answers_foundations", "answers_choices", "answers_models", "checks", "__init__"]  # fmt: skip


def own_imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vae_tutorial":
            below = node.module.split(".")[1:]
            found |= {below[0]} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                a.name.split(".")[1] for a in node.names if a.name.startswith("vae_tutorial.")
            }
    return found


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name):
    assert name in ORDER, "a new module: put it in its place above"
    assert own_imports(TREES[name]) <= set(ORDER[: ORDER.index(name)])


@pytest.mark.parametrize("name", MODULES)
def test_a_room_is_one_sittings_reading(name):
    lines = len(MODULES[name].read_text().splitlines())
    assert lines <= (450 if name == "plots" else 400)


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name):
    assert ast.get_docstring(TREES[name])
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [n for n in TREES[name].body if isinstance(n, kinds) and not n.name.startswith("_")]
    for thing in public:
        methods = [
            n for n in thing.body if isinstance(thing, ast.ClassDef) and isinstance(n, kinds)
        ]
        # What torch calls needs no words of its own: the class says what goes in and out.
        said = {"forward", "extra_repr"}
        for node in [thing, *(m for m in methods if not m.name.startswith("_"))]:
            assert ast.get_docstring(node) or node.name in said, f"{name}.{node.name}"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unpickles(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not {"pickle", "joblib", "dill", "shelve", "cloudpickle"} & names
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.load", "torch.save", "np.load", "numpy.load")


def test_the_front_door_lists_what_it_opens():
    assert all(hasattr(vt, name) for name in vt.__all__)
    assert issubclass(Autoencoder, nn.Module)


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.SiLU])
def test_convolutional_networks_start_with_a_signal_that_keeps_its_size(activation):
    torch.manual_seed(0)
    encoder = ConvEncoder((3, 32, 32), 16, (16, 32, 32), 64, activation)
    decoder = ConvDecoder(16, (3, 32, 32), (32, 32, 16), 64, activation)
    for network, x in ((encoder, torch.randn(200, 3, 32, 32)), (decoder, torch.randn(200, 16))):
        spread = float(network(x).std(0).mean().detach())  # from one input to another
        assert 0.3 < spread < 3, type(network).__name__
