"""The benchmark runs, and compares what it says it compares. No timing decides anything here."""

import sys

import pytest
from conftest import ROOT

from vae_tutorial.networks import count_parameters

sys.path.insert(0, str(ROOT / "benchmarks"))
import time_to_elbo


def test_the_plain_network_is_the_one_described():
    vae = time_to_elbo.plain_vae()
    # Inputs, and 1 for the bias, times outputs.
    encoder = 26 * 8 + (25 * 8 + 1) * 8 + 2 * 16 + 2 * (393 * 64 + 65 * 2)
    decoder = 3 * 64 + 65 * 392 + (25 * 8 + 1) * 8 + (25 * 8 + 1) * 1
    assert count_parameters(vae) == encoder + decoder
    assert vae.sample(3, seed=0).shape == (3, 1, 28, 28)
    # The plain loop squashes no log-variance; otherwise the two losses would differ.
    assert vae.encoder.posterior.log_variance_bound is None


@pytest.mark.mnist
def test_the_benchmark_runs(tmp_path, capsys):
    small = ["--epochs", "1", "--limit", "640", "--test", "200", "--longest", "2", "--repeats", "1"]
    result = time_to_elbo.main([*small, "--json", str(tmp_path / "result.json")])
    assert (tmp_path / "result.json").exists()
    assert result["plain"]["images_per_second"] > 0
    assert result["fit"]["test_negative_elbo"] > 0
    assert "times the throughput" in capsys.readouterr().out
