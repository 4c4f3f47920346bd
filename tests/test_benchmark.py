"""The benchmarks run, and compare what they say they compare. No timing decides anything here."""

import json
import math
import os
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from tiny import random_images
from torch import nn

from vae_tutorial import elbo, evaluate
from vae_tutorial.networks import count_parameters
from vae_tutorial.randomness import seeded

sys.path.insert(0, str(ROOT / "benchmarks"))
import devices
import draws
import fit_step
import many_processes
import measuring
import profile_step
import rearranged
import report
import throughput
import time_to_elbo

BYTES = (random_images(50, seed=3) * 255).byte()


def test_the_plain_network_is_the_one_described():
    vae = time_to_elbo.plain_vae()
    # Inputs, and 1 for the bias, times outputs.
    encoder = 26 * 8 + (25 * 8 + 1) * 8 + 2 * 16 + 2 * (393 * 64 + 65 * 2)
    decoder = 3 * 64 + 65 * 392 + (25 * 8 + 1) * 8 + (25 * 8 + 1) * 1
    assert count_parameters(vae) == encoder + decoder
    assert vae.sample(3, seed=0).shape == (3, 1, 28, 28)
    # The plain loop squashes no log-variance; otherwise the two losses would differ.
    assert vae.encoder.posterior.log_variance_bound is None


@pytest.mark.parametrize(
    ("n_in", "n_out", "shape"), [(3, 2, (5, 4)), (8, 1, (1, 1)), (1, 4, (2, 7))]
)
@pytest.mark.parametrize("block", [1, 2])
def test_a_transposed_convolution_on_blocks_is_the_transposed_convolution(
    n_in, n_out, shape, block
):
    """Outputs, and the gradients by the input, the kernel and the bias."""
    torch.manual_seed(0)
    usual = nn.ConvTranspose2d(n_in, n_out, 5, stride=2, padding=2, output_padding=1).double()
    ours = rearranged.BlockTranspose(n_in, n_out, block).double()
    ours.load_state_dict(usual.state_dict())
    found = []
    x = torch.randn(2, n_in, *(block * side for side in shape), dtype=torch.float64)
    weights = torch.randn(2, n_out, *(2 * block * side for side in shape), dtype=torch.float64)
    for layer in (usual, ours):
        inputs = x.clone().requires_grad_()
        if layer is ours:
            outputs = F.pixel_shuffle(layer(F.pixel_unshuffle(inputs, block)), 2 * block)
        else:
            outputs = layer(inputs)
        (outputs * weights).sum().backward()
        found.append([outputs, inputs.grad, layer.weight.grad, layer.bias.grad])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected)


def test_the_rearranged_network_computes_and_learns_the_same():
    with seeded(0):
        plain = time_to_elbo.plain_vae().double()
    ours = rearranged.rearranged(plain)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    x, noise = random_images(6).double(), torch.randn(3, 6, 2, dtype=torch.float64)
    mean, log_variance = plain.encoder.network(x).chunk(2, dim=1)
    logits = plain.decoder.network((mean + (log_variance / 2).exp() * noise).flatten(0, 1))
    target = x.repeat(3, 1, 1, 1)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / 3
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
    loss = (bce + kl) / 6
    loss.backward()
    again = throughput.block_loss(ours, x, noise)
    again.backward()
    # The loss is summed in float32, for the sake of bfloat16: seven digits, here and below.
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(again.double(), loss, **close)
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, **close)
    # And as a VAE, with its logits in their places.
    z = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(ours.eval().decoder.network(z), plain.eval().decoder.network(z))


def test_the_start_is_the_best_of_all_constant_decoders():
    recipe = time_to_elbo.RECIPES["first"]
    with seeded(0):
        vae = recipe.build(BYTES)
    last = vae.decoder.network.layers[-1]
    with torch.no_grad():
        last.weight.zero_()  # now it ignores its latents
    x = BYTES.float() / 255
    loss = -vae.decoder(torch.zeros(1, 2)).log_prob(x).mean()
    loss.backward()
    assert last.bias.grad.abs().max() < 1e-6  # nothing to be gained by another constant
    mean = x.mean(0)
    entropy = -(mean * mean.log() + (1 - mean) * (1 - mean).log()).sum()
    torch.testing.assert_close(loss.detach(), entropy)
    black = time_to_elbo.start_at_the_mean(vae, torch.zeros_like(BYTES))
    assert black.decoder.network.layers[-1].bias.isfinite().all()


def test_a_recipe_says_what_it_trains():
    recipe = time_to_elbo.Recipe(
        140.0, (32, 16), (8,), images=50, epochs=3, batch_size=16, peak=1e-3, bfloat16=True
    )
    assert (
        recipe.describe()
        == "784-32-16-2-8-784, SiLU; 12 steps of 16 in bfloat16, one cycle to 0.001"
    )
    with seeded(0):
        vae = recipe.build(BYTES)
    widths = [p.shape[0] for p in vae.parameters() if p.ndim == 2]
    assert widths == [32, 16, 4, 8, 784]
    trained = recipe.train(BYTES, seed=0)
    before = evaluate(vae, elbo, BYTES)["loss"]
    assert evaluate(trained, elbo, BYTES)["loss"] < before
    same = recipe.train(BYTES, seed=0)
    assert all(map(torch.equal, same.state_dict().values(), trained.state_dict().values()))
    for changed in time_to_elbo.without(recipe).values():
        assert changed != recipe
        assert (changed.images, changed.epochs, changed.batch_size) == (50, 3, 16)


def test_a_race_counts_who_arrives():
    recipe = time_to_elbo.RECIPES["140"]
    found = {"seconds": [3.0, 1.0, 2.0], "test_negative_elbo": [139.0, 141.0, 140.0]}
    row = time_to_elbo.race(recipe, found, 140.0, plain_seconds=300.0)
    assert (row["median_seconds"], row["reached"], row["seeds"]) == (2.0, 2, 3)
    assert row["times_sooner"] == 150
    mean, error = time_to_elbo.mean_and_error(found["test_negative_elbo"])
    assert mean == 140
    assert error == pytest.approx(1 / math.sqrt(3))


@pytest.mark.mnist
def test_time_to_elbo_runs(tmp_path, capsys):
    file = tmp_path / "result.json"
    with pytest.raises(ValueError, match="plain loop comes first"):
        time_to_elbo.main(["--quick", "--parts", "first", "--json", str(file)])
    time_to_elbo.main(["--quick", "--parts", "plain", "--json", str(file)])
    result = time_to_elbo.main(["--quick", "--parts", "first", "140", "--json", str(file)])
    assert json.loads(file.read_text())["time_to_elbo"]["plain"] == result["plain"]
    assert result["plain"]["images_per_second"] > 0
    assert result["races"]["first"]["target"] == result["plain"]["test_negative_elbo"]
    assert result["races"]["140"]["target"] == 140
    assert "reach it" in capsys.readouterr().out


@pytest.mark.mnist
def test_throughput_runs_and_trains_the_same(tmp_path):
    result = throughput.main(["--quick", "--no-compile", "--json", str(tmp_path / "result.json")])
    ways = result["ways"]
    assert ways["plain loop"]["ratio"] == 1
    ends = [way["test_negative_elbo"] for way in ways.values()]
    assert max(ends) - min(ends) < 0.01 * min(ends)  # other draws, and in bfloat16 fewer digits
    assert "throughput" in json.loads((tmp_path / "result.json").read_text())


@pytest.mark.mnist
def test_devices_train_the_same(tmp_path):
    result = devices.main(["--quick", "--json", str(tmp_path / "result.json")])
    rows = result["rows"]
    assert next(iter(rows)) == "one thread"
    assert len(rows) >= min(2, os.cpu_count())
    ends = [row["test_negative_elbo"][0] for row in rows.values()]
    assert max(ends) - min(ends) < 0.01 * min(ends)
    assert torch.get_num_threads() == 1 or "OMP_NUM_THREADS" not in os.environ  # as before
    assert "devices" in json.loads((tmp_path / "result.json").read_text())
    with pytest.raises(ValueError, match="on the wall"):
        devices.main(["--clock", "cpu"])


def test_the_bare_step_computes_what_fit_does():
    """One loss and one gradient from one seed, whichever way it is written."""
    with seeded(0):
        vae = fit_step.dense(8, 6)().double()
    x, found = BYTES[:9].double() / 255, []
    for loss_of in (fit_step.bare_loss, lambda vae, x: elbo(vae, x)["loss"].mean()):
        vae.zero_grad()
        with seeded(1):
            loss = loss_of(vae, x)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in vae.parameters())])
    torch.testing.assert_close(*found)


@pytest.mark.mnist
def test_the_steps_of_fit_are_timed_and_train_the_same(tmp_path):
    result = fit_step.main(["--quick", "--no-compile", "--json", str(tmp_path / "result.json")])
    assert {*result["models"]} == {*profile_step.CASES} - {"chapter 2, dense"}
    for row in result["dense"].values():
        assert row["ratio"]["bare"] == 1
        assert row["loss"]["by_fit"] == pytest.approx(row["loss"]["bare"], rel=0.01)
    assert "fit_step" in json.loads((tmp_path / "result.json").read_text())


def test_a_steps_time_is_one_epochs_with_its_end():
    case = fit_step.Case(fit_step.dense(4), elbo, lambda n: BYTES[:n], 10)
    times = iter(range(1000))
    for way in (fit_step.bare, fit_step.by_fit):
        seconds, _ = fit_step.seconds_per_step(way, case, BYTES, lambda: float(next(times)))
        assert seconds == 1.0  # one tick behind every step


def test_the_profile_counts_operations_bytes_and_calls():
    a, b = torch.zeros(30, 20), torch.zeros(20, 10)
    with profile_step.Traffic() as traffic:
        a @ b
    assert (traffic.calls, traffic.bytes) == (1, 4 * (600 + 200 + 300))
    with profile_step.Traffic() as traffic:
        a.view(-1)  # looks at the same memory
        a.add_(1)
    assert (traffic.calls, traffic.bytes) == (2, 4 * (600 + 600))
    # Two layers of 6-3-6: each product once forward; backward by its weights, and by its input
    # wherever that has a gradient. A product of n numbers counts 2 n operations.
    case = profile_step.Case(
        lambda: nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 6)),
        lambda model, x: {"loss": model(x).square().sum(1)},
        lambda n: torch.rand(n, 6), batch_size=4,
    )  # fmt: skip
    assert profile_step.count(profile_step.Step(case))["operations"] == 5 * 2 * 4 * 18


def test_the_profile_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(profile_step, "CASES", dict(list(profile_step.CASES.items())[:1]))
    threads = torch.get_num_threads()
    try:
        result = profile_step.main(["--quick", "--json", str(tmp_path / "result.json")])
    finally:
        torch.set_num_threads(threads)
    [row] = result["steps"].values()
    assert set(row["seconds"]) == {"batch", "forward", "backward", "update"}
    assert all(value > 0 for value in row["limits"].values())


def test_drawing_is_compared_with_the_same_draws(tmp_path):
    rows = draws.main(["--quick", "--json", str(tmp_path / "result.json")])
    assert [(row["grid"], row["draws"]) for row in rows] == [(4, 2)]
    torch.manual_seed(0)
    model = draws.GatedPixelCNN(8, (3, 4), channels=4, layers=2, hidden=8).eval()
    assert torch.equal(draws.plain_draw(model, 5, seed=1), model.sample(5, seed=1))


def test_results_of_other_benchmarks_stay(tmp_path):
    file = tmp_path / "results.json"
    measuring.store(file, "one", {"rows": [1]}, "cpu")
    measuring.store(file, "other", {"rows": [2]}, "wall")
    measuring.store(file, "one", {"rows": [3]}, "wall")
    found = json.loads(file.read_text())
    assert (found["one"]["rows"], found["other"]["rows"]) == ([3], [2])
    assert found["one"]["machine"]["clock"] == "wall"
    with pytest.raises(ValueError, match="adds up threads"):
        measuring.start(measuring.parser("x").parse_args(["--clock", "cpu", "--threads", "2"]))


def test_the_tables_of_the_page_are_those_of_the_results():
    results = json.loads(measuring.RESULTS.read_text())
    assert set(results) == {section for section, _ in report.TABLES.values()}
    text = report.README.read_text()
    assert report.rewritten(text, results) == text
    changed = json.loads(json.dumps(results))
    changed["draws"]["rows"][0]["times sooner"] = 12345
    assert "12,300" in report.rewritten(text, changed)
    with pytest.raises(ValueError, match="needs one place"):
        report.rewritten(text.replace("<!-- races -->", ""), results)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (1.5, "1.5"), (1234.5, "1,230"), (0, "0"), (155.5, "156")],
)
def test_numbers_are_written_with_three_digits(value, text):
    assert report.number(value) == text


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_many_processes_are_measured_and_stored_in_one_form(tmp_path):
    small = ["--small", "--rounds", "1", "--repeats", "2", "--json", str(tmp_path / "found.json")]
    result = many_processes.main(small)
    assert json.loads((tmp_path / "found.json").read_text()) == result
    stored = json.loads((ROOT / "benchmarks" / "many_processes.json").read_text())
    assert stored.keys() == result.keys()
    assert stored["parameters"] == result["parameters"]
    for n, found in stored["processes"].items():
        assert found.keys() == result["processes"][min(n, "2")].keys()
    # What the appendix makes a model of: at least two batches, and two lengths.
    assert len(stored["processes"]["1"]["steps"]) > 1
    assert len(stored["processes"]["2"]["all_reduce"]) > 1
    assert min(found["step"] for found in result["processes"].values()) > 0


def test_of_several_rounds_each_time_is_the_shortest():
    rounds = [{"a": 2.0, "b": {"c": 3.0}}, {"a": 1.0, "b": {"c": 5.0}}]
    assert many_processes.shortest(rounds) == {"a": 1.0, "b": {"c": 3.0}}
