"""Two levels of codes: the round trip, who is told what, the gradients, and the measurement."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from tiny import random_images

from vae_tutorial import fit
from vae_tutorial.models.vqvae import FiniteScalarQuantizer, VectorQuantizer
from vae_tutorial.models.vqvae2 import TwoLevelVQVAE, measure_two_levels, two_level_loss
from vae_tutorial.randomness import seeded

SHAPE = (3, 8, 12)


def tiny(top=None, bottom=None) -> TwoLevelVQVAE:
    with seeded(0):
        top = top or VectorQuantizer(5, 4, start=1.0)
        return TwoLevelVQVAE(SHAPE, top, bottom or FiniteScalarQuantizer((3, 2)), (8, 10))


def moved(terms, group):
    """Whether the gradient of a sum reaches some of these parameters."""
    found = torch.autograd.grad(terms.sum(), [*group], allow_unused=True, retain_graph=True)
    return any(g is not None and bool(g.any()) for g in found)


def test_the_codes_alone_redraw_what_the_forward_pass_redraws():
    model, x = tiny().eval(), random_images(6, SHAPE)
    redrawn, codes, _ = model(x)
    top, bottom = model.encode(x)
    assert torch.equal(top, codes[0])
    assert torch.equal(bottom, codes[1])
    assert (top.shape, bottom.shape) == ((6, 2, 3), (6, 4, 6))
    assert top.dtype == bottom.dtype == torch.int64
    expected = ((redrawn + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(model.decode(top, bottom), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.reconstruct(x), expected, atol=1e-5, rtol=1e-5)


def test_the_bottom_is_written_knowing_the_top_and_not_the_other_way_round():
    model, x = tiny().eval(), random_images(6, SHAPE)
    top, bottom = model.encode(x)
    with torch.no_grad():
        model.down[0].bias.add_(30.0 * torch.randn(10, generator=torch.Generator().manual_seed(0)))
    after = model.encode(x)
    assert torch.equal(after[0], top)  # the path down starts behind it
    assert not torch.equal(after[1], bottom)
    with torch.no_grad():  # cut the message, and the bottom is written without it
        model.join.weight[:, 8:] = 0
    alone = model.encode(x)[1]
    with torch.no_grad():
        model.down[0].bias.mul_(-1)
    assert torch.equal(model.encode(x)[1], alone)


def test_the_decoder_looks_at_both_levels():
    model, x = tiny().eval(), random_images(6, SHAPE)
    top, bottom = model.encode(x)
    whole = model.decode(top, bottom)
    assert not torch.allclose(model.decode((top + 1) % 5, bottom), whole)
    assert not torch.allclose(model.decode(top, (bottom + 1) % 6), whole)


def test_which_parameters_each_term_moves():
    model, x = tiny().train(), random_images(6, SHAPE)
    terms = two_level_loss(model, x)
    weights = {
        name: [*getattr(model, name).parameters()]
        for name in ("fine", "coarse", "down", "join", "decoder")
    }
    assert all(moved(terms["reconstruction"], group) for group in weights.values())
    assert not moved(terms["reconstruction"], [model.top.codebook])
    assert moved(terms["codebook"], [model.top.codebook])
    assert not any(moved(terms["codebook"], group) for group in weights.values())
    assert [name for name in weights if moved(terms["commitment"], weights[name])] == [
        "fine",
        "coarse",
    ]


def test_the_loss_against_the_parts():
    model, x = tiny(bottom=VectorQuantizer(6, 3, start=1.0)).eval(), random_images(6, SHAPE)
    terms = two_level_loss(model, x, commitment_weight=0.5)
    fine = model.fine(2 * x - 1)
    v = model.coarse(fine)
    e = model.top.lookup(model.top.codes(v))
    told = model.down(e)
    w = model.join(torch.cat([fine, told], 1))
    d = model.bottom.lookup(model.bottom.codes(w))
    off = [((a - b) ** 2).mean((1, 2, 3)) for a, b in ((v, e), (w, d))]
    redrawn = model.decoder(torch.cat([d, told], 1))
    squares = ((redrawn - (2 * x - 1)) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(terms["reconstruction"], squares)
    torch.testing.assert_close(terms["codebook"], off[0] + off[1])
    torch.testing.assert_close(terms["loss"], squares + 1.5 * (off[0] + off[1]))


def test_encoding_moves_no_codebook():
    quantizer = VectorQuantizer(5, 4, decay=0.9, reset_below=1.0)
    model, x = tiny(top=quantizer).train(), random_images(6, SHAPE)
    before = quantizer.codebook.clone()
    model.encode(x)
    assert model.training
    assert torch.equal(quantizer.codebook, before)
    model(x)
    assert not torch.equal(quantizer.codebook, before)


def test_the_measurement_against_numpy():
    model = tiny(top=VectorQuantizer(50, 4, start=1.0)).eval()  # more than 42 places can use
    x = random_images(7, SHAPE)
    found = measure_two_levels(model, x, batch_size=3)
    top, bottom = (codes.numpy() for codes in model.encode(x))
    redrawn = model.reconstruct(x)
    squares = (redrawn - x).square().mean((1, 2, 3)).numpy()
    assert float(found["reconstruction"]) == pytest.approx(squares.mean(), rel=1e-4)
    assert found["reconstruction"].standard_error == pytest.approx(
        squares.std() / np.sqrt(7), rel=1e-3
    )
    for level, codes, k in (("top", top, 50), ("bottom", bottom, 6)):
        share = np.bincount(codes.ravel(), minlength=k)
        assert float(found[f"{level}_perplexity"]) == pytest.approx(np.exp(entropy(share)))
    used = [len(np.unique(top)) / 50, len(np.unique(bottom)) / 6]
    assert used[0] < used[1]
    assert float(found["codes_used"]) == pytest.approx(min(used))


def test_it_learns():
    with seeded(0):
        model = TwoLevelVQVAE(
            (1, 8, 8), FiniteScalarQuantizer((4,)), FiniteScalarQuantizer((2,)), (8, 10)
        )
    x = random_images(64, (1, 8, 8)).round()[..., ::4, ::4].repeat_interleave(4, 2)
    x = x.repeat_interleave(4, 3)
    before = two_level_loss(model, x)["loss"].mean()
    fit(model, two_level_loss, x, epochs=60, batch_size=16, learning_rate=3e-3, progress=False)
    assert two_level_loss(model, x)["loss"].mean() < 0.5 * before


@pytest.mark.parametrize(("message", "call"), [
    ("multiples of 4", lambda: TwoLevelVQVAE((1, 6, 8), VectorQuantizer(4, 2), VectorQuantizer(4, 2))),
    ("expected images", lambda: tiny()(torch.zeros(1, 3, 8, 8))),
    ("expected codes", lambda: tiny().decode(torch.zeros(1, 4, 6).long(), torch.zeros(1, 4, 6).long())),
    ("from 0 to 5", lambda: tiny().decode(torch.zeros(1, 2, 3).long(), torch.full((1, 4, 6), 6))),
])  # fmt: skip
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
