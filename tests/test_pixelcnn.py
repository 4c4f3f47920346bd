"""The Gated PixelCNN: what each place sees, what it learns, how it samples."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import random_images

from vae_tutorial import fit
from vae_tutorial.data import to_float
from vae_tutorial.evaluation import evaluate_codes
from vae_tutorial.pixelcnn import (
    GatedLayer,
    GatedPixelCNN,
    code_loss,
    codes_as_images,
    codes_of,
)
from vae_tutorial.progress import progress_bar
from vae_tutorial.randomness import seeded
from vae_tutorial.sources import ImageData, Split
from vae_tutorial.vqvae import VQVAE, VectorQuantizer


def tiny(grid=(5, 6), layers=4, num_codes=4, kernel=3, seed=0) -> GatedPixelCNN:
    with seeded(seed):
        model = GatedPixelCNN(num_codes, grid, channels=6, layers=layers, hidden=8, kernel=kernel)
    return model.double()


def seen(model: GatedPixelCNN, y: int, x: int) -> torch.Tensor:
    """Which places the logits at (y, x) depend on, by gradient: (H, W), bool."""
    torch.manual_seed(1)
    embedded = torch.randn(3, 6, *model.grid, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.features(embedded)[:, :, y, x].sum(), embedded)
    return gradient.abs().sum((0, 1)) > 0


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_place_sees_everything_before_it_and_nothing_else(kernel):
    """No look ahead, and no blind spot: with enough layers every earlier place is seen."""
    model = tiny(layers=7, kernel=kernel)
    height, width = model.grid
    for y in range(height):
        for x in range(width):
            before = torch.zeros(height, width, dtype=torch.bool)
            before[:y] = True
            before[y, :x] = True
            assert torch.equal(seen(model, y, x), before), (y, x)


def test_one_layer_sees_its_kernel():
    model = tiny(layers=1)
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[1, 2:5] = True  # two rows above: the vertical stack's row, shifted down
    expected[2, 2:5] = True
    expected[3, 2] = True  # to the left, not itself
    assert torch.equal(seen(model, 3, 3), expected)


def test_probabilities_of_all_grids_add_up_to_one():
    model = tiny(grid=(2, 2), num_codes=3, layers=3)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).reshape(-1, 2, 2)  # all 81
    with torch.no_grad():
        assert float(model.log_prob(every).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_samples_follow_the_probabilities():
    model = tiny(grid=(2, 2), num_codes=3, layers=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
        every = torch.cartesian_prod(*[torch.arange(3)] * 4).reshape(-1, 2, 2)
        p = model.log_prob(every).exp()
    drawn = model.sample(20_000, seed=0).flatten(1)
    index = (drawn * torch.tensor([27, 9, 3, 1])).sum(1)
    share = torch.bincount(index, minlength=81).double() / len(drawn)
    assert float((share - p).abs().max()) < 0.012
    assert float((share - p).abs().sum()) < 0.08
    assert torch.equal(drawn, model.sample(20_000, seed=0).flatten(1))


def test_rows_that_are_given_are_kept_and_the_rest_follows_from_them():
    model = tiny(grid=(2, 2), num_codes=3, layers=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
        top = torch.tensor([2, 1])
        bottoms = torch.cartesian_prod(torch.arange(3), torch.arange(3))  # (9, 2)
        every = torch.stack([top.expand(9, 2), bottoms], 1)
        p = model.log_prob(every).softmax(0)  # of the bottom row, given the top
    drawn = model.sample(20_000, above=top.expand(20_000, 1, 2), seed=0)
    assert torch.equal(drawn[:, 0], top.expand(20_000, 2))
    share = torch.bincount(drawn[:, 1] @ torch.tensor([3, 1]), minlength=9).double() / len(drawn)
    assert float((share - p).abs().max()) < 0.012
    for wrong in (top, top.expand(5, 1, 2), torch.zeros(3, 2, 2), torch.zeros(3, 1, 4)):
        with pytest.raises(ValueError, match="above must be"):
            model.sample(3, above=wrong)


def test_codes_of_images_are_those_of_the_model():
    images = (255 * random_images(30, (1, 8, 8))).byte()
    parts = [Split(images[i : i + 10], torch.arange(10)) for i in (0, 10, 20)]
    source = ImageData("some", *parts, ("a",))
    with seeded(0):
        first, second = (VQVAE((1, 8, 8), VectorQuantizer(16, 4), (4, 8)) for _ in range(2))
    found = codes_of(first, source, batch_size=7)
    assert found.name == "some-codes"
    assert found.image_shape == (1, 2, 2)
    for part, split in zip(parts, (found.train, found.validation, found.test), strict=True):
        assert torch.equal(split.images[:, 0].long(), first.encode(to_float(part.images)))
        assert torch.equal(split.labels, part.labels)
    # The checksum is the source's and the model's, whatever rounding made of the codes.
    assert found.sha256 == codes_of(first, source).sha256
    assert found.sha256 != codes_of(second, source).sha256
    other = ImageData("some", parts[1], *parts[1:], ("a",))
    assert found.sha256 != codes_of(first, other).sha256
    assert found.sha256 != source.sha256


def test_the_evaluation_is_the_mean_over_grids():
    model = tiny(grid=(4, 4), num_codes=5)
    codes = torch.randint(0, 5, (23, 4, 4), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        bits = -model.log_prob(codes).double() / (16 * math.log(2))
    metrics = evaluate_codes(model, codes_as_images(codes), batch_size=10)
    assert metrics["test_bits"] == pytest.approx(float(bits.mean()), rel=1e-5)
    assert metrics["test_nats"] == pytest.approx(float(bits.mean()) * 16 * math.log(2), rel=1e-5)
    error = float(bits.std(correction=0)) / math.sqrt(23)
    assert metrics["test_standard_error"] == pytest.approx(error, rel=1e-4)


def test_a_low_temperature_makes_the_likeliest_grid_likelier():
    model = tiny(grid=(2, 2), num_codes=3, layers=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
    cold, warm = (model.sample(500, seed=0, temperature=t) for t in (0.2, 1.0))
    with torch.no_grad():
        assert model.log_prob(cold).mean() > model.log_prob(warm).mean() + 0.1


def test_it_learns_a_grid_that_is_a_rule():
    """Each symbol is the one to its left plus the one above, modulo 3: the rest is free."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 3, (4000, 4, 4), generator=generator)
    for y in range(1, 4):
        for x in range(1, 4):
            codes[:, y, x] = (codes[:, y, x - 1] + codes[:, y - 1, x]) % 3
    with seeded(0):
        model = GatedPixelCNN(3, (4, 4), channels=16, layers=4, hidden=32)
    train, held_out = codes_as_images(codes).split([3000, 1000])
    history = fit(model, code_loss, train, held_out=held_out, epochs=10, batch_size=50,
                  learning_rate=3e-3, progress=False)  # fmt: skip
    last = history[(history.scope == "epoch") & (history.split == "held-out")].iloc[-1]
    free = 7 * math.log(3)  # the first row and column are random, nothing else
    assert free - 0.1 < last.loss < free + 0.4
    assert last.bits == pytest.approx(last.loss / (16 * math.log(2)), rel=1e-5)
    drawn = model.sample(200, seed=1)
    follows = drawn[:, 1:, 1:] == (drawn[:, 1:, :-1] + drawn[:, :-1, 1:]) % 3
    assert float(follows.float().mean()) > 0.95


def test_codes_survive_the_way_through_bytes():
    codes = torch.randint(0, 256, (5, 3, 2))
    images = codes_as_images(codes)
    assert images.shape == (5, 1, 3, 2)
    assert torch.equal((images.float() / 255 * 255).round().long().squeeze(1), codes)


def test_bad_input_is_named():
    model = tiny()
    with pytest.raises(ValueError, match="expected codes"):
        model(torch.zeros(2, 5, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected codes"):
        model(torch.zeros(2, 5, 6))
    with pytest.raises(ValueError, match="temperature > 0"):
        model.sample(2, temperature=0)
    with pytest.raises(ValueError, match="num_codes >= 2"):
        GatedPixelCNN(1, (4, 4))
    with pytest.raises(ValueError, match="odd"):
        GatedLayer(4, 2)
    with pytest.raises(ValueError, match="fit into a byte"):
        codes_as_images(torch.full((1, 2, 2), 256))


def test_bars_are_shown_where_wanted_and_not_switched_off(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert not progress_bar(3, True).disable
    assert progress_bar(3, False).disable
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert progress_bar(3, True).disable
