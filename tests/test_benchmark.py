"""The benchmark runs, and compares what it says it compares. No timing decides anything here."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import ROOT

from vae_tutorial import elbo
from vae_tutorial.networks import count_parameters

sys.path.insert(0, str(ROOT / "benchmarks"))
import time_to_elbo


def test_the_plain_network_is_the_one_described():
    vae = time_to_elbo.plain_vae()
    conv = lambda a, b: 5 * 5 * a * b + b  # noqa: E731
    linear = lambda a, b: a * b + b  # noqa: E731
    encoder = conv(1, 8) + conv(8, 8) + 2 * 16 + 2 * (linear(392, 64) + linear(64, 2))
    decoder = linear(2, 64) + linear(64, 392) + conv(8, 8) + conv(8, 1)
    assert count_parameters(vae) == encoder + decoder
    assert vae.sample(3, seed=0).shape == (3, 1, 28, 28)


def test_the_plain_loss_and_ours_are_the_same_number():
    """The plain loop's loss, one sample, is the package's negative ELBO."""
    vae = time_to_elbo.plain_vae().eval()
    x = torch.rand(5, 1, 28, 28)
    torch.manual_seed(1)
    ours = elbo(vae, x)["loss"]
    torch.manual_seed(1)
    mean, log_variance = vae.encoder.network(x).chunk(2, dim=1)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn(1, *mean.shape)[0]
    logits = vae.decoder.network(z)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
    torch.testing.assert_close(ours, bce.sum((1, 2, 3)) + kl)


@pytest.mark.mnist
def test_the_benchmark_runs(tmp_path, capsys):
    small = ["--epochs", "1", "--limit", "640", "--test", "200", "--longest", "2", "--repeats", "1"]
    result = time_to_elbo.main([*small, "--json", str(tmp_path / "result.json")])
    assert (tmp_path / "result.json").exists()
    assert result["plain"]["images_per_second"] > 0
    assert result["fit"]["test_negative_elbo"] > 0
    assert "times the throughput" in capsys.readouterr().out
