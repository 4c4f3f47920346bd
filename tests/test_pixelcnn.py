"""The Gated PixelCNN: what each place sees, what it learns, how it samples."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vae_tutorial import evaluate, fit
from vae_tutorial.models.pixelcnn import GatedLayer, GatedPixelCNN, code_loss
from vae_tutorial.models.vqvae import VQVAE, VectorQuantizer
from vae_tutorial.randomness import seeded


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny(grid=(5, 6), layers=4, num_codes=4, kernel=3) -> GatedPixelCNN:
    with seeded(0):
        model = GatedPixelCNN(num_codes, grid, channels=6, layers=layers, hidden=8, kernel=kernel)
    return model.double()


def sharp() -> tuple[GatedPixelCNN, torch.Tensor]:
    """A model of 2x2 grids of three symbols, with weights large enough to matter; all 81 grids."""
    model = tiny(grid=(2, 2), num_codes=3, layers=3).requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(2.5)
    return model, torch.cartesian_prod(*[torch.arange(3)] * 4).reshape(-1, 2, 2)


def seen(model: GatedPixelCNN, y: int, x: int) -> torch.Tensor:
    """Which places the logits at (y, x) depend on, by gradient: (H, W), bool."""
    embedded = torch.randn(3, 6, *model.grid, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.features(embedded)[:, :, y, x].sum(), embedded)
    return gradient.abs().sum((0, 1)) > 0


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_place_sees_everything_before_it_and_nothing_else(kernel):
    """No look ahead, and no blind spot: with enough layers every earlier place is seen."""
    model = tiny(layers=7, kernel=kernel)
    for place in range(30):
        before = (torch.arange(30) < place).reshape(5, 6)
        assert torch.equal(seen(model, *divmod(place, 6)), before), place


def test_one_layer_sees_its_kernel():
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[1, 2:5] = True  # two rows above: the vertical stack's row, shifted down
    expected[2, 2:5] = True
    expected[3, 2] = True  # to the left, not itself
    assert torch.equal(seen(tiny(layers=1), 3, 3), expected)


def test_it_is_a_distribution_over_grids():
    model, every = sharp()
    prior = model()
    assert (prior.batch_shape, prior.event_shape) == ((), (2, 2))
    assert float(prior.log_prob(every).exp().sum()) == pytest.approx(1, abs=1e-9)
    by_hand = model.logits(every).log_softmax(1).gather(1, every[:, None]).sum((1, 2, 3))
    torch.testing.assert_close(prior.log_prob(every), by_hand)
    # As torch's own: any sample shape in front, none too.
    assert torch.equal(prior.log_prob(every.view(9, 9, 2, 2)), prior.log_prob(every).view(9, 9))
    assert prior.log_prob(prior.sample((4, 3))).shape == (4, 3)
    assert prior.log_prob(prior.sample()).shape == ()


def test_samples_follow_the_probabilities():
    model, every = sharp()
    with seeded(0):
        drawn = model().sample((20_000,))
    assert torch.equal(drawn, model.sample(20_000, seed=0))
    index = (drawn.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)
    share = torch.bincount(index, minlength=81).double() / len(drawn)
    difference = (share - model().log_prob(every).exp()).abs()
    assert float(difference.max()) < 0.012
    assert float(difference.sum()) < 0.08


def test_rows_that_are_given_are_kept_and_the_rest_follows_from_them():
    model, every = sharp()
    top = torch.tensor([2, 1])
    p = model().log_prob(every[(every[:, 0] == top).all(1)]).softmax(0)  # of the 9 bottom rows
    drawn = model.sample(20_000, above=top.expand(20_000, 1, 2), seed=0)
    assert torch.equal(drawn[:, 0], top.expand(20_000, 2))
    share = torch.bincount(drawn[:, 1] @ torch.tensor([3, 1]), minlength=9).double() / len(drawn)
    assert float((share - p).abs().max()) < 0.012
    for wrong in (top, top.expand(5, 1, 2), torch.zeros(3, 2, 2), torch.zeros(3, 1, 4)):
        with pytest.raises(ValueError, match="above"):
            model.sample(3, above=wrong)


def test_a_low_temperature_makes_the_likeliest_grid_likelier():
    model, _ = sharp()
    cold, warm = (model.sample(500, seed=0, temperature=t) for t in (0.2, 1.0))
    assert model().log_prob(cold).mean() > model().log_prob(warm).mean() + 0.1


def test_it_is_a_prior_that_a_vqvae_draws_from():
    with seeded(0):
        vqvae, prior = VQVAE((1, 8, 12), VectorQuantizer(4, 4), (4, 8)), tiny((2, 3))
    expected = vqvae.decode(prior.sample(5, seed=1))
    assert torch.equal(vqvae.sample(5, prior=prior, seed=1), expected)


def test_the_loss_is_the_cross_entropy_in_nats_and_in_bits():
    model = tiny(grid=(4, 4), num_codes=5)
    codes = torch.randint(0, 5, (23, 4, 4))
    with torch.no_grad():
        nats = F.cross_entropy(model.logits(codes), codes, reduction="none").sum((1, 2))
    found = evaluate(model, code_loss, codes, batch_size=10)
    assert list(found) == ["loss", "nats", "bits"]
    assert found["loss"] == found["nats"] == pytest.approx(float(nats.mean()))
    assert found["bits"] == pytest.approx(float(nats.mean()) / 16 / math.log(2))


def test_the_sum_over_places_is_exact_under_autocast():
    model = tiny().float()
    codes = torch.randint(0, 4, (6, 5, 6))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, logits = model().log_prob(codes), model.logits(codes)
    assert logits.dtype == torch.bfloat16
    expected = -F.cross_entropy(logits.double(), codes, reduction="none").sum((1, 2))
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_it_learns_a_grid_that_is_a_rule():
    """Each symbol is the one to its left plus the one above, modulo 3: the rest is free."""
    codes = torch.randint(0, 3, (4000, 4, 4))
    for y in range(1, 4):
        for x in range(1, 4):
            codes[:, y, x] = (codes[:, y, x - 1] + codes[:, y - 1, x]) % 3
    with seeded(0):
        model = GatedPixelCNN(3, (4, 4), channels=16, layers=4, hidden=32)
    train, held_out = codes.split([3000, 1000])
    fit(model, code_loss, train, epochs=10, batch_size=50, learning_rate=3e-3, progress=False)
    nats, free = evaluate(model, code_loss, held_out)["nats"], 7 * math.log(3)
    assert free - 0.1 < nats < free + 0.4  # the first row and column are random, nothing else
    drawn = model.sample(200, seed=1)
    follows = drawn[:, 1:, 1:] == (drawn[:, 1:, :-1] + drawn[:, :-1, 1:]) % 3
    assert float(follows.float().mean()) > 0.95


def test_bad_input_is_named():
    model, zeros = tiny(), torch.zeros(2, 5, 6, dtype=torch.int64)
    for wrong in (zeros[:, :, 1:], zeros.float(), zeros + 4, zeros - 1):
        with pytest.raises(ValueError, match="codes"):
            model().log_prob(wrong)
    with pytest.raises(ValueError, match="temperature"):
        model.sample(2, temperature=0)
    with pytest.raises(ValueError, match="num_codes"):
        GatedPixelCNN(1, (4, 4))
    with pytest.raises(ValueError, match="odd"):
        GatedLayer(4, 2)
