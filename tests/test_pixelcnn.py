"""The Gated PixelCNN: what each place sees, what it learns, how it samples."""

import math

import pytest
import torch
import torch.nn.functional as F

from vae_tutorial import evaluate
from vae_tutorial.models.pixelcnn import GatedLayer, GatedPixelCNN, _Drawing, code_loss
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
    """Which places (H, W) the logits at (y, x) depend on, by gradient."""
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
    expected[1:3, 2:5] = True  # two rows above: the vertical stack's rows, shifted down
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
    assert float((share - model().log_prob(every).exp()).abs().sum()) < 0.08


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


def test_the_loss_is_the_cross_entropy_in_nats_and_in_bits():
    model, every = sharp()
    nats = -float(model().log_prob(every).mean())
    found = evaluate(model, code_loss, every, batch_size=10)
    assert found == pytest.approx({"loss": nats, "nats": nats, "bits": nats / 4 / math.log(2)})
    assert next(iter(found)) == "loss"


def test_the_sum_over_places_is_exact_under_autocast():
    model = tiny().float()
    codes = torch.randint(0, 4, (6, 5, 6))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, logits = model().log_prob(codes), model.logits(codes)
    assert logits.dtype == torch.bfloat16
    expected = -F.cross_entropy(logits.double(), codes, reduction="none").sum((1, 2))
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def classy(dropout=0.0) -> GatedPixelCNN:
    """A model of 2x2 grids of three symbols in three classes that differ."""
    with seeded(0):
        model = GatedPixelCNN(
            3, (2, 2), channels=6, layers=3, hidden=8, classes=3, dropout=dropout
        ).double()
        for parameter in model.requires_grad_(False).parameters():
            parameter.mul_(2.5)
        for layer in model.layers:
            layer.shift.weight.normal_()
    return model


def test_classes_start_alike_and_then_have_a_distribution_each():
    codes, labels = torch.randint(0, 4, (6, 5, 6)), torch.tensor([0, 1, 2, 0, 1, 2])
    with seeded(0):
        start = GatedPixelCNN(4, (5, 6), channels=6, layers=4, hidden=8, classes=3).double()
    assert torch.equal(start(labels).log_prob(codes), start(labels.flip(0)).log_prob(codes))
    model, every = classy(), sharp()[1]
    found = [model(torch.full((81,), c)).log_prob(every).exp() for c in range(3)]
    assert [float(p.sum()) for p in found] == pytest.approx([1, 1, 1])
    assert min(float((found[i] - found[j]).abs().sum()) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1
    drawn = model.sample(20_000, labels=torch.full((20_000,), 1), seed=0)
    share = torch.bincount(drawn.flatten(1) @ torch.tensor([27, 9, 3, 1]), minlength=81) / 20_000
    assert float((share - found[1]).abs().sum()) < 0.08
    # One distribution for each label, as torch's own.
    prior = model(torch.tensor([2, 0]))
    assert (prior.batch_shape, prior.event_shape) == ((2,), (2, 2))
    assert prior.sample((5,)).shape == (5, 2, 2, 2)
    both = prior.log_prob(every[:, None].expand(81, 2, 2, 2)).exp()
    torch.testing.assert_close(both, torch.stack([found[2], found[0]], 1))


def test_the_loss_knows_the_classes():
    model, every = classy(), sharp()[1]
    labels = torch.arange(81) % 3
    nats = -float(model(labels).log_prob(every).mean())
    found = evaluate(model, code_loss, (every, labels), batch_size=10)
    assert found["nats"] == pytest.approx(nats)
    for wrong in ((model, every), (tiny(grid=(2, 2)), every, labels)):
        with pytest.raises(ValueError, match="labels"):
            code_loss(*wrong)


def test_dropout_is_for_training_alone():
    model, codes, labels = classy(0.5), torch.zeros(4, 2, 2).long(), torch.zeros(4).long()
    plain = classy()(labels).log_prob(codes)
    assert not torch.allclose(model.train()(labels).log_prob(codes), plain)
    torch.testing.assert_close(model.eval()(labels).log_prob(codes), plain)


def test_a_gradient_reaches_every_weight():
    model = tiny()
    code_loss(model, torch.randint(0, 4, (6, 5, 6)))["loss"].sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_bad_input_is_named():
    zeros = torch.zeros(2, 5, 6, dtype=torch.int64)
    for wrong in (zeros[:, :, 1:], zeros.float(), zeros + 4, zeros - 1):
        with pytest.raises(ValueError, match="codes"):
            tiny()().log_prob(wrong)
    with pytest.raises(ValueError, match="temperature"):
        tiny().sample(2, temperature=0)
    with pytest.raises(ValueError, match="num_codes"):
        GatedPixelCNN(1, (4, 4))
    with pytest.raises(ValueError, match="odd"):
        GatedLayer(4, 2)


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_draw_keeps_what_the_whole_network_would_find_again(kernel):
    """Place by place, with what was found before, the logits are those of the whole grid."""
    for model, labels in ((tiny(kernel=kernel), None), (classy(), torch.tensor([2, 0, 1]))):
        height, width = model.grid
        codes = torch.randint(0, model.num_codes, (3, height, width))
        whole = model.logits(codes, labels)
        with torch.no_grad():
            drawing = _Drawing(model, 3, labels)
            for y in range(height):
                for x in range(width):
                    found = drawing.logits()
                    torch.testing.assert_close(found, whole[:, :, y, x].float(), msg=f"{y}, {x}")
                    drawing.put(codes[:, y, x])
                drawing.end_row(codes[:, y])
