"""The committed runs: whole, unchanged, and as good as they say."""

from __future__ import annotations

import ast
import json
import math
import re
from functools import lru_cache, partial

import numpy as np
import pytest
from conftest import ROOT
from torch import nn

from vae_tutorial import (
    MLP,
    VAE,
    Autoencoder,
    ConvDecoder,
    ConvEncoder,
    StandardNormal,
    data,
    likelihoods,
    posteriors,
    toy,
)
from vae_tutorial.artifacts import load_run
from vae_tutorial.evaluation import (
    evaluate_codes,
    evaluate_elbo,
    evaluate_ladder,
    evaluate_reconstruction,
    evaluate_vqvae,
)
from vae_tutorial.ladder import LadderVAE
from vae_tutorial.likelihoods import binarize
from vae_tutorial.pixelcnn import GatedPixelCNN, codes_of
from vae_tutorial.priors import AutoregressiveFlow
from vae_tutorial.vae import Decoder, Encoder
from vae_tutorial.vqvae import VQVAE, VectorQuantizer

FOLDERS = sorted(
    path.parent
    for path in (ROOT / "artifacts").glob("*/run.json")
    if not path.parent.name.startswith("digits-")
)
# Nats an image, negative ELBO on the test images; for the Gaussians 0.02 above what is possible.
TARGETS = {"vae-2d": 133.0, "vae-20d": 96.0}
TARGETS |= {f"toy-{name}": toy.entropy(name) + 0.02 for name in toy.GAUSSIANS}

CHAPTERS = {"ae-2d", "vae-2d", "ae-20d", "vae-20d"}
CHAPTERS |= {
    f"{family}-{seed}" for family in ("mean-field", "full-covariance") for seed in range(3)
}
CHAPTERS |= {f"collapse-{how}-{seed}" for how in ("plain", "warm-up") for seed in range(3)}
CHAPTERS |= {"collapse-cyclical", "collapse-free-bits"}
CHAPTERS |= {f"beta-{beta}" for beta in ("0.1", "0.25", "0.5", "1", "2", "4", "8")}
CHAPTERS |= {
    f"{name}-{kind}"
    for name in ("mnist", "fashion-mnist", "textures", "cifar10-jpeg")
    for kind in ("small", "dense", "conv")
}
CHAPTERS |= {f"toy-{name}" for name in toy.NAMES}
CHAPTERS |= {f"toy-{name}-warm-up" for name in toy.GAUSSIANS}
CHAPTERS |= {
    "bernoulli-dynamic", "bernoulli-static", "bce-greys", "continuous-bernoulli", "gaussian-fixed",
    "gaussian-learnt", "gaussian-imagewise", "gaussian-pixelwise", "gaussian-beta-nll",
    "discretized-logistic",
}  # fmt: skip
CHAPTERS |= {f"prior-{kind}-{seed}" for kind in ("normal", "flow") for seed in range(3)}
CHAPTERS |= {"prior-flow-colour-0", "vqvae-gradient", "vqvae-ema", "pixelcnn"}
CHAPTERS |= {f"hierarchy-{kind}" for kind in ("ladder", "plain", "one-layer")}
SETS = (
    "mnist", "mnist-binarized", "fashion-mnist", "textures", "cifar10-jpeg", "cifar10-jpeg-codes",
    *toy.NAMES,
)  # fmt: skip
every_run = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def rebuild(folder) -> nn.Module:
    """The model a run was made with, read off the layers it names.

    The names of parts, and their arguments as ``name=value``, are those of the package: what is
    printed is what is built.
    """
    text = json.loads((folder / "run.json").read_text())["configuration"]["model"]
    if text.startswith("VQVAE"):
        arguments = re.search(r"VectorQuantizer\((.*)\)", text)[1]
        call = ast.parse(f"f({arguments})", mode="eval").body
        quantizer = VectorQuantizer(**{k.arg: ast.literal_eval(k.value) for k in call.keywords})
        first, second = (tuple(map(int, m)) for m in re.findall(
            r"HeConv2d\((\d+), (\d+), kernel_size=\(4, 4\)", text))  # fmt: skip
        blocks = text.count("ResidualBlock(") // 2
        return VQVAE((first[0], 32, 32), quantizer, (first[1], second[1]), blocks)
    if text.startswith("GatedPixelCNN"):
        num_codes, channels = (
            int(n) for n in re.search(r"Embedding\((\d+), (\d+)\)", text).groups()
        )
        later = int(re.search(r"(\d+) x GatedLayer", text)[1])  # alike, and printed once
        hidden = int(re.search(r"\(head\).*?Conv2d\(\d+, (\d+)", text, re.DOTALL)[1])
        grid = (8, 8)  # of images of 32 by 32
        return GatedPixelCNN(num_codes, grid, channels=channels, layers=1 + later, hidden=hidden)
    if text.startswith("LadderVAE"):
        (call,) = re.findall(r"image_shape=.*ladder=.*", text)
        arguments = {k.arg: ast.literal_eval(k.value)
                     for k in ast.parse(f"f({call})", mode="eval").body.keywords}  # fmt: skip
        shape = arguments.pop("image_shape")
        return LadderVAE(shape, likelihoods.Bernoulli(shape), **arguments)
    coder, decoder = text.split("(decoder): ")
    decoder, prior = decoder.split("(prior): ") if "(prior): " in decoder else (decoder, "")

    def part(where: str, module, names) -> nn.Module:
        """The posterior or likelihood: one line, ``Name(argument=value, ...)``."""
        name, arguments = re.search(rf"({'|'.join(names)})\((.*)\)\n", where).groups()
        call = ast.parse(f"f({arguments})", mode="eval").body
        return getattr(module, name)(**{k.arg: ast.literal_eval(k.value) for k in call.keywords})

    def network(where: str, in_shape, out_shape) -> nn.Module:
        """An MLP's widths or a convolutional network's channels, from the layers."""
        named = re.search(r": (SiLU|ReLU|Tanh)\(", where)
        activation = getattr(nn, named[1] if named else "ReLU")
        linear = [int(n) for n in re.findall(r"Linear\(.*out_features=(\d+)", where)]
        channels = [int(n) for n in re.findall(r"Conv2d\(\d+, (\d+)", where)]
        transposed = [int(n) for n in re.findall(r"ConvTranspose2d\((\d+),", where)]
        if channels:
            return ConvEncoder(in_shape, out_shape, channels, linear[0], activation)
        if transposed:
            return ConvDecoder(in_shape, out_shape, transposed, linear[0], activation)
        return MLP(in_shape, out_shape, linear[:-1], activation)

    likelihood = part(
        decoder,
        likelihoods,
        ("Bernoulli", "ContinuousBernoulli", "Gaussian", "DiscretizedLogistic"),
    )
    image_shape = likelihood.image_shape
    latent_dim = int(re.search(r"Linear\(in_features=(\d+)", decoder)[1])
    decoder = Decoder(network(decoder, latent_dim, likelihood.param_shape), likelihood)
    if text.startswith("Autoencoder"):
        return Autoencoder(network(coder, image_shape, latent_dim), decoder)
    posterior = part(coder, posteriors, ("MeanFieldGaussian", "FullCovarianceGaussian"))
    encoder = Encoder(network(coder, image_shape, posterior.param_shape), posterior)
    if prior.startswith("AutoregressiveFlow"):
        widths = [int(n) for n in re.findall(r"MaskedLinear\(.*out_features=(\d+)", prior)]
        return VAE(encoder, decoder, AutoregressiveFlow(latent_dim, widths[:-1]))
    return VAE(encoder, decoder, StandardNormal(latent_dim))


def test_the_chapters_runs_are_there():
    assert {folder.name for folder in FOLDERS} >= CHAPTERS


@every_run
def test_a_committed_run_is_whole(folder):
    model = rebuild(folder)
    run = load_run(folder, model)  # looks at the hash and at the weights' checksum
    assert run.info["configuration"]["model"] == str(model)
    assert run.name == folder.name
    assert run.info["dataset"]["name"] in SETS
    assert all(np.isfinite(list(run.metrics.values())))
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    settings = run.info["configuration"]["settings"]
    assert len(run.epochs("held-out")) == len(run.epochs("train")) == settings["epochs"]
    assert not list(folder.glob("checkpoint*")) + list(folder.glob(".*"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6


@every_run
def test_a_committed_vae_reaches_its_target(folder):
    metrics = json.loads((folder / "run.json").read_text())["metrics"]
    if folder.name in TARGETS:
        assert metrics["test_negative_elbo"] <= TARGETS[folder.name]


def test_full_covariance_is_at_least_as_good_as_mean_field():
    """On the test images, on average over three seeds."""
    reached = {}
    for family in ("mean-field", "full-covariance"):
        folders = [ROOT / "artifacts" / f"{family}-{seed}" for seed in range(3)]
        runs = [json.loads((folder / "run.json").read_text()) for folder in folders]
        assert [run["seed"] for run in runs] == [0, 1, 2]
        reached[family] = np.array([run["metrics"]["test_negative_elbo"] for run in runs])
    assert reached["full-covariance"].mean() <= reached["mean-field"].mean()


@lru_cache
def load(name: str) -> data.ImageData:
    """The images of a run; a set that is not on this machine is named, not passed over."""
    if name.endswith("-binarized"):
        return data.binarized(load(name.removesuffix("-binarized")))
    if name.endswith("-codes"):
        folder = ROOT / "artifacts" / "vqvae-ema"
        return codes_of(load_run(folder, rebuild(folder)).model, load(name.removesuffix("-codes")))
    try:
        return data.load(name)
    except FileNotFoundError:
        pytest.skip(f"needs {name}, which is neither on disk nor downloadable")


def bound(name: str) -> dict[str, float]:
    return json.loads((ROOT / "artifacts" / name / "run.json").read_text())["metrics"]


def test_the_runs_stay_small():
    """A clone of the repository brings them all."""
    sizes = {f.name: sum(path.stat().st_size for path in f.iterdir()) for f in FOLDERS}
    foundations = {"ae-2d", "vae-2d", "ae-20d", "vae-20d"}
    later = ("toy-", "prior-", "vqvae-", "pixelcnn", "hierarchy-")
    choices = [n for n in sizes if n not in foundations and not n.startswith(later)]
    assert sum(sizes[name] for name in choices) < 15e6
    assert sum(sizes.values()) < 40e6


def test_the_gaussians_spend_the_least_rate_that_is_possible():
    """Nothing along the axes, the common information ln 5 when turned."""
    assert bound("toy-gaussian")["test_kl"] == pytest.approx(0, abs=0.02)
    assert bound("toy-gaussian-rotated")["test_kl"] == pytest.approx(math.log(5), abs=0.02)


def test_rate_falls_and_distortion_climbs_with_beta_and_the_bound_is_best_at_one():
    runs = [bound(f"beta-{beta}") for beta in ("0.1", "0.25", "0.5", "1", "2", "4", "8")]
    assert (np.diff([run["test_kl"] for run in runs]) < 0).all()
    assert (np.diff([run["test_reconstruction"] for run in runs]) > 0).all()
    assert np.argmin([run["test_negative_elbo"] for run in runs]) == 3


def test_warm_up_beats_plain_training_for_every_seed():
    for seed in range(3):
        plain, warm = (bound(f"collapse-{how}-{seed}") for how in ("plain", "warm-up"))
        assert warm["test_negative_elbo"] < plain["test_negative_elbo"]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "textures", "cifar10-jpeg"])
def test_convolutions_beat_dense_layers(name):
    small, dense, conv = (bound(f"{name}-{k}") for k in ("small", "dense", "conv"))
    order = [run["test_negative_elbo"] for run in (conv, dense, small)]
    assert order == sorted(order)


def test_a_learnt_prior_beats_the_standard_normal_for_every_seed():
    for seed in range(3):
        normal, flow = (bound(f"prior-{kind}-{seed}") for kind in ("normal", "flow"))
        assert flow["test_negative_elbo"] < normal["test_negative_elbo"] - 1


def test_the_codes_are_used_and_the_prior_over_them_knows_more_than_their_frequencies():
    codes = bound("vqvae-ema")
    assert codes["test_codes_used"] >= 0.9
    assert bound("pixelcnn")["test_bits"] < math.log2(codes["test_perplexity"]) - 0.5


def test_the_ladder_beats_one_layer():
    ladder, one = (
        bound(f"hierarchy-{kind}")["test_negative_elbo"] for kind in ("ladder", "one-layer")
    )
    assert ladder < one - 1


@pytest.mark.mnist
@every_run
def test_the_stored_metrics_are_measured_again(folder):
    run = load_run(folder, rebuild(folder))
    dataset = load(run.info["dataset"]["name"])
    assert run.info["dataset"]["sha256"] == dataset.sha256
    images = dataset.test.images
    assert len(images) >= 3_000
    if isinstance(run.model, VQVAE):
        measured = evaluate_vqvae(run.model, images)
    elif isinstance(run.model, GatedPixelCNN):
        measured = evaluate_codes(run.model, images)
    elif isinstance(run.model, VAE | LadderVAE):
        samples = run.metrics["posterior_samples"]
        assert samples >= 5
        transform = run.info["configuration"]["settings"].get("transform")
        assert transform in (None, "binarize")
        evaluate = evaluate_elbo if isinstance(run.model, VAE) else evaluate_ladder
        measure = partial(evaluate, transform=binarize if transform else None)
        measured = measure(run.model, images, samples=samples)
    else:
        measured = evaluate_reconstruction(run.model, images)
    for name, value in measured.items():
        assert run.metrics[name] == pytest.approx(value, rel=1e-4, abs=0.01), name
    # What the last epoch's held-out images said is near what the test images say.
    if isinstance(run.model, VQVAE):
        return  # its loss is not what is measured
    last = run.epochs("held-out").iloc[-1]
    if isinstance(run.model, GatedPixelCNN):
        assert last.bits == pytest.approx(run.metrics["test_bits"], rel=0.05)
        return
    said = last.reconstruction + last.kl if "kl" in last else last.loss
    assert said == pytest.approx(
        run.metrics.get("test_negative_elbo", run.metrics["test_reconstruction"]), rel=0.05
    )
