"""Measured likelihoods: against the exact one, and what is stored is what the weights give."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import ROOT, on_digits
from tiny import tiny_vae
from torch.distributions import MultivariateNormal

from vae_tutorial import Bernoulli, data, load_run, measure
from vae_tutorial.data import Dataset, Split
from vae_tutorial.evaluate import importance_weighted_bound, log_weights
from vae_tutorial.measure import Measured, bounds_of, measured
from vae_tutorial.models.ladder import LadderVAE
from vae_tutorial.runs import Run

STORED = sorted(ROOT.glob(f"artifacts/*/*/{measure.FILE}"))


class Linear(torch.nn.Module):
    """x = Wz + noise: the marginal is known, and q is the prior, so that the bound has a gap."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(4, 2, generator=torch.Generator().manual_seed(3)))

    def encoder(self, x):
        return MultivariateNormal(torch.zeros(len(x), 2), torch.eye(2))

    def prior(self):
        return MultivariateNormal(torch.zeros(2), torch.eye(2))

    def decoder(self, z):
        return MultivariateNormal(z @ self.w.T, torch.eye(4))

    def exact(self, x):
        return MultivariateNormal(torch.zeros(4), self.w @ self.w.T + torch.eye(4)).log_prob(x)


def test_bounds_rise_to_the_exact_likelihood():
    model = Linear()
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    bounds = bounds_of(model, x, samples=2000)
    exact = model.exact(x).detach().double()
    short = {s: float((exact - values).mean()) for s, values in bounds.items()}
    assert list(short) == [1, 50, 2000]
    assert short[1] > 10 * short[50] > 50 * abs(short[2000])
    assert abs(short[2000]) < 0.01
    # q is the prior: the ELBO is the mean log-likelihood over the prior, in closed form.
    w = model.w.detach().double()
    log_p = -0.5 * (x.double().square().sum(1) + w.square().sum() + 4 * math.log(2 * math.pi))
    assert float((bounds[1] - log_p).mean()) == pytest.approx(0, abs=0.05)


def test_bounds_in_parts_are_the_bound_of_all_draws():
    model, x = Linear(), torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    with torch.no_grad():
        log_w = log_weights(model, x)(100).double()  # as two parts of fifty draw it
    found = bounds_of(model, x, samples=100, seed=7)
    assert torch.allclose(found[100], log_w.logsumexp(0) - math.log(100), atol=1e-5)
    assert torch.allclose(found[1], log_w.mean(0), atol=1e-5)
    halves = log_w.unflatten(0, (2, 50)).logsumexp(1) - math.log(50)
    assert torch.allclose(found[50], halves.mean(0), atol=1e-5)
    for samples in (1, 2, 7):
        parts = importance_weighted_bound(model, x, samples=samples, at_once=1, seed=7)
        torch.manual_seed(7)
        with torch.no_grad():
            drawn = torch.cat([log_weights(model, x)(1) for _ in range(samples)]).double()
        assert torch.allclose(parts, drawn.logsumexp(0) - math.log(samples), atol=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        importance_weighted_bound(model, x, at_once=0)
    with pytest.raises(ValueError, match="multiple of 50"):
        bounds_of(model, x, samples=120)


def test_a_hierarchy_is_measured_too():
    model = LadderVAE((1, 8, 8), Bernoulli((1, 8, 8)), (3, 2), (16, 8))
    bounds = bounds_of(model, torch.zeros(5, 1, 8, 8), samples=100)
    assert (bounds[1] < bounds[50]).all()
    assert (bounds[50] < bounds[100] + 0.01).all()


@pytest.fixture
def run():
    vae = tiny_vae((1, 8, 8), greys=False, spread=3.0).eval()
    return Run("toy/vae", vae, None, {}, {"weights_sha256": "abc"})


@pytest.fixture
def images():
    x = (torch.rand(230, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8)
    split = Split(x * 255, torch.zeros(230))
    return Dataset("toy", split, split, split)


def test_measured_once_and_stored(run, images, tmp_path, monkeypatch):
    shape = images.image_shape
    assert shape == run.model.decoder.likelihood.image_shape
    first = measured(run, images, samples=50, root=tmp_path)
    stored = json.loads((tmp_path / "toy/vae" / measure.FILE).read_text())
    assert stored["weights_sha256"] == "abc"
    assert len(stored["bounds"]["50"]) == 100
    whole = bounds_of(run.model, images.test.images, samples=50)[50]
    assert float(first.nats()) == pytest.approx(-float(whole.mean()), abs=0.3)
    error = float(whole.std() / math.sqrt(230))
    assert first.nats().standard_error == pytest.approx(error, rel=0.4)

    # Blocks are spread over the set: the fourth holds images 3, 103 and 203.
    rows = torch.cat([torch.arange(i, 230, 100) for i in range(100)])
    ordered = bounds_of(run.model, images.test.images[rows], samples=50)[50]
    at = (rows % 100 == 3).nonzero().flatten()
    assert rows[at].tolist() == [3, 103, 203]
    assert first.bounds[50][3] == pytest.approx(float(ordered[at].mean()), abs=1e-4)

    # A part of the images is spread over the set, too.
    some = measured(run, images, samples=50, images=100, again=True, root=tmp_path)
    at_once = bounds_of(run.model, images.test.images[:200:2], samples=50)[50]
    assert some.images == 100
    assert some.bounds[50] == pytest.approx(at_once.tolist(), abs=1e-4)

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(measure, "bounds_of", never)
    assert measured(run, images, samples=50, root=tmp_path) == first
    for change in ({"seed": 1}, {"samples": 100}, {"images": 100}, {"again": True}):
        with pytest.raises(AssertionError, match="again"):
            measured(run, images, root=tmp_path, **{"samples": 50} | change)
    run.info["weights_sha256"] = "other"  # trained anew
    with pytest.raises(AssertionError, match="again"):
        measured(run, images, samples=50, root=tmp_path)


def test_differences_are_taken_block_by_block():
    rng = np.random.default_rng(0)
    a = rng.normal(-90, 5, 100)
    b = a + rng.normal(-2, 0.1, 100)
    one, two = (
        Measured(name, "x", {"name": "toy"}, 0, 1000, {1: (v - 3).tolist(), 5: v.tolist()})
        for name, v in (("a", a), ("b", b))
    )
    difference = two.minus(one)
    assert float(difference) == pytest.approx(np.mean(a - b))
    assert difference.standard_error == pytest.approx(np.std(a - b, ddof=1) / 10)
    assert difference.standard_error < one.nats().standard_error / 10
    assert float(one.nats(1)) == pytest.approx(float(one.nats()) + 3)
    with pytest.raises(ValueError, match=r"\[1, 5\], not 7"):
        one.nats(7)
    other = Measured("c", "x", {"name": "else"}, 0, 1000, {5: a.tolist()})
    with pytest.raises(ValueError, match="different images"):
        one.minus(other)


@pytest.mark.skipif(not STORED, reason="nothing is measured")
@pytest.mark.parametrize("path", STORED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_what_is_stored_is_of_the_weights_that_are_stored(path):
    stored = json.loads(path.read_text())
    name = "/".join(path.parts[-3:-1])
    about = json.loads((path.parent / "run.json").read_text())
    assert stored["run"] == name
    assert stored["weights_sha256"] == about["weights_sha256"]
    one, fifty, most = (np.asarray(stored["bounds"][s]) for s in ("1", "50", "5000"))
    assert (one < fifty).all()
    assert (fifty < most).all()
    # The plain bound is that of the run's own record, up to what is random: other draws, and of the
    # costly models only a share of the images. A record of greys is of other pixels.
    if '"greys": true' in json.dumps(about["identity"]):
        return
    mean, error = about["metrics"]["test_negative_elbo"]
    share = stored["images"] / 10_000
    assert -one.mean() == pytest.approx(mean, abs=5 * error / math.sqrt(share))


@pytest.mark.skipif(not STORED or on_digits(), reason="measured on MNIST")
def test_the_first_block_comes_out_again():
    images = data.binarized(data.load("mnist"))
    path = ROOT / "artifacts/mnist/iwae-50" / measure.FILE
    stored = json.loads(path.read_text())
    assert stored["data"] == {"name": images.name, "sha256": images.sha256}
    assert stored["images"] == len(images.test.images) == 10_000
    now = bounds_of(load_run("mnist/iwae-50").model, images.test.images[::100])
    for samples, values in now.items():  # the same draws, but for the machine's last bits
        stored_block = stored["bounds"][str(samples)][0]
        assert float(values.mean()) == pytest.approx(stored_block, abs=0.03)


def test_the_command_says_what_is_stored_and_what_it_finds(
    run, images, tmp_path, monkeypatch, capsys
):
    run.info["identity"] = {"data": {"name": "toy"}}
    monkeypatch.setattr(measure, "load_run", lambda name: run)
    monkeypatch.setattr(measure, "runs_folder", lambda root=None: tmp_path)
    monkeypatch.setattr(measure.datasets, "load", lambda name: images)
    monkeypatch.setattr(measure.datasets, "binarized", lambda source: images)
    measure.main(["toy/vae", "--samples", "100"])
    assert "toy/vae, now: " in capsys.readouterr().out
    monkeypatch.setattr(measure, "SAMPLES", 100)
    measure.main(["toy/vae", "--samples", "100", "--again", "--images", "100"])
    said = capsys.readouterr().out
    assert "100 test images" in said
    assert "nats per image" in said
