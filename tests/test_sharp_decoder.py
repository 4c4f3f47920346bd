"""A decoder with an opponent: each part gets its own gradient, and no other."""

import pytest
import torch
from test_classifier import tiny_classifier
from tiny import random_images, tiny_vae

from vae_tutorial import evaluate, fit
from vae_tutorial.models.classifier import feature_distance
from vae_tutorial.models.sharp_decoder import PatchDiscriminator, SharpDecoder, sharp_loss
from vae_tutorial.randomness import seeded

X = random_images(6, (1, 8, 8))


def tiny_sharp(**parts):
    with seeded(0):
        opponent = PatchDiscriminator((1, 8, 8), (3, 4))
    given = {"teacher": tiny_classifier(), "discriminator": opponent} | parts
    return SharpDecoder(tiny_vae((1, 8, 8), spread=3.0), **given)


def slope(values, y):
    """How long the gradient with respect to all images is."""
    return torch.autograd.grad(values.sum(), y, retain_graph=True)[0].square().sum().sqrt()


def gradients(part):
    return [None if p.grad is None else p.grad.clone() for p in part.parameters()]


@pytest.mark.parametrize(("pixels", "factor"), [("squared", 50), ("absolute", 10)])
def test_the_terms_add_up_to_the_loss(pixels, factor):
    model = tiny_sharp()
    with seeded(3):
        z = model.vae.encoder(X).sample()
    y = model.vae.decode(z)
    squared, absolute = ((y - X) ** 2).sum((1, 2, 3)), (y - X).abs().sum((1, 2, 3))
    d_real, d_made = model.discriminator(X), model.discriminator(y)
    hinge = ((1 - d_real).clamp(min=0) + (1 + d_made).clamp(min=0)).mean((1, 2, 3))
    features = feature_distance(model.teacher, X, y)
    expected = factor * (squared if pixels == "squared" else absolute)
    pull = 3 * slope(expected, y) / slope(d_made.mean((1, 2, 3)), y)
    expected = expected + 7 * features - pull * d_made.mean((1, 2, 3)) + hinge
    with seeded(3):
        terms = sharp_loss(model, X, pixels=pixels, perceptual=7, adversarial=3)
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["squared"], squared)
    torch.testing.assert_close(terms["absolute"], absolute)
    with seeded(3):
        plain = sharp_loss(model, X, pixels=pixels)
    assert set(plain) == {"loss", "squared", "absolute"}
    torch.testing.assert_close(plain["loss"], factor * plain[pixels])


def test_each_side_of_the_game_gets_its_own_gradient():
    model = tiny_sharp()
    with seeded(3):
        sharp_loss(model, X, adversarial=3)["loss"].mean().backward()
    decoder, opponent = gradients(model.vae.decoder), gradients(model.discriminator)
    assert all(g is None for g in gradients(model.vae.encoder) + gradients(model.teacher))
    with seeded(3):
        z = model.vae.encoder(X).sample()
    # The decoder's: pixels, and the opponent's mind about y, its weights held.
    y = model.vae.decode(z)
    error, praise = 50 * (y - X).square().sum((1, 2, 3)), model.discriminator(y).mean((1, 2, 3))
    pull = (3 * slope(error, y) / slope(praise, y)).detach()
    loss = (error - pull * praise).mean()
    wanted = torch.autograd.grad(loss, list(model.vae.decoder.parameters()))
    for got, want in zip(decoder, wanted, strict=True):
        torch.testing.assert_close(got, want)
    # The opponent's: its own hinge loss, the image held.
    y = y.detach()
    real, made = model.discriminator(X), model.discriminator(y)
    loss = ((1 - real).relu() + (1 + made).relu()).mean()
    wanted = torch.autograd.grad(loss, list(model.discriminator.parameters()))
    for got, want in zip(opponent, wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_the_encoder_and_the_teacher_are_frozen():
    model = tiny_sharp()
    frozen = [p for part in (model.vae.encoder, model.teacher) for p in part.parameters()]
    assert not any(p.requires_grad for p in frozen)
    learns = [p for part in (model.vae.decoder, model.discriminator) for p in part.parameters()]
    assert all(p.requires_grad for p in learns)


def test_training_moves_decoder_and_opponent_alone():
    model = tiny_sharp()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = lambda model, x: sharp_loss(model, x, perceptual=1, adversarial=1)  # noqa: E731
    fit(model, loss, X, epochs=1, batch_size=3, learning_rate=1e-2, progress=False)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    wanted = {n for n in before if n.startswith(("vae.decoder", "discriminator"))}
    # While both hinges are open, the last bias is pushed up as hard as down.
    assert wanted - {"discriminator.layers.4.bias"} <= moved <= wanted
    assert float(evaluate(model, loss, X)["features"]) > 0  # without gradients, too


def test_what_is_missing_is_named():
    bare = tiny_sharp(teacher=None, discriminator=None)
    with pytest.raises(ValueError, match="teacher"):
        sharp_loss(bare, X, perceptual=1)
    with pytest.raises(ValueError, match="discriminator"):
        sharp_loss(bare, X, adversarial=1)
    with pytest.raises(ValueError, match="pixels"):
        sharp_loss(bare, X, pixels="cubed")
