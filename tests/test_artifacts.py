"""The committed runs: whole, unchanged, and as good as they say."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from conftest import ROOT
from safetensors.torch import load_file
from torch import nn

from vae_tutorial import MLP, VAE, Autoencoder, Bernoulli, MeanFieldGaussian, StandardNormal
from vae_tutorial.artifacts import load_run
from vae_tutorial.evaluation import evaluate_elbo, evaluate_reconstruction
from vae_tutorial.posteriors import FullCovarianceGaussian
from vae_tutorial.vae import Decoder, Encoder

FOLDERS = sorted(
    path.parent
    for path in (ROOT / "artifacts").glob("*/run.json")
    if not path.parent.name.startswith("digits-")
)
TARGETS = {"vae-2d": 133.0, "vae-20d": 96.0}  # nats an image, negative ELBO on MNIST's test images

CHAPTERS = {"ae-2d", "vae-2d", "ae-20d", "vae-20d"}
CHAPTERS |= {
    f"{family}-{seed}" for family in ("mean-field", "full-covariance") for seed in range(3)
}
every_run = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def rebuild(folder) -> nn.Module:
    """The model a run was made with, read off its weights' shapes and the layers it names."""
    layers = json.loads((folder / "run.json").read_text())["configuration"]["model"]
    shapes = {k: v.shape for k, v in load_file(folder / "model.safetensors").items()}
    activation = getattr(nn, re.search(r"\(1\): (\w+)\(", layers)[1])
    image_shape = tuple(
        int(n) for n in re.search(r"image_shape=\((\d+), (\d+), (\d+)\)", layers).groups()
    )
    greys = "greys=True" in layers

    def widths(prefix: str) -> list[int]:
        """Inputs, hidden layers and outputs of an MLP."""
        found = [
            shape
            for name, shape in sorted(
                shapes.items(), key=lambda item: [*map(int, re.findall(r"\d+", item[0]))]
            )
            if name.startswith(prefix) and name.endswith("weight")
        ]
        return [found[0][1], *(shape[0] for shape in found)]

    latent_dim, *hidden, _ = widths("decoder.")
    network = MLP(latent_dim, image_shape, hidden, activation)
    decoder = Decoder(network, Bernoulli(image_shape, greys=greys))
    _, *hidden, _ = widths("encoder.")
    if layers.startswith("Autoencoder"):
        return Autoencoder(MLP(image_shape, latent_dim, hidden, activation), decoder)
    bound = float(re.search(r"log_variance_bound=([\d.]+)", layers)[1])
    family = FullCovarianceGaussian if "FullCovariance" in layers else MeanFieldGaussian
    posterior = family(latent_dim, bound)
    network = MLP(image_shape, posterior.param_shape, hidden, activation)
    return VAE(Encoder(network, posterior), decoder, StandardNormal(latent_dim))


def test_the_chapters_runs_are_there():
    assert {folder.name for folder in FOLDERS} >= CHAPTERS


@every_run
def test_a_committed_run_is_whole(folder):
    model = rebuild(folder)
    run = load_run(folder, model)  # looks at the hash and at the weights' checksum
    assert run.info["configuration"]["model"] == str(model)
    assert run.name == folder.name
    assert run.info["dataset"]["name"] == "mnist"
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


@pytest.mark.mnist
@every_run
def test_the_stored_metrics_are_measured_again(folder, mnist):
    run = load_run(folder, rebuild(folder))
    assert run.info["dataset"]["sha256"] == mnist.sha256
    images = mnist.test.images
    assert len(images) == 10_000
    if isinstance(run.model, VAE):
        samples = run.metrics["posterior_samples"]
        assert samples >= 5
        measured = evaluate_elbo(run.model, images, samples=samples)
    else:
        measured = evaluate_reconstruction(run.model, images)
    for name, value in measured.items():
        assert run.metrics[name] == pytest.approx(value, abs=0.01), name
    # What the last epoch's held-out images said is near what the test images say.
    held_out = run.epochs("held-out").loss.iloc[-1]
    assert held_out == pytest.approx(
        run.metrics.get("test_negative_elbo", run.metrics["test_reconstruction"]), rel=0.05
    )
