"""Seeds: the same one gives the same bytes, whatever was drawn before, and disturbs nothing."""

import pytest
import torch
from tiny import random_images, tiny_vae, train

from vae_tutorial import elbo
from vae_tutorial.evaluate import importance_weighted_bound, per_example
from vae_tutorial.latent import tsne
from vae_tutorial.likelihoods import binarize
from vae_tutorial.randomness import seeded

IMAGES = random_images()
DRAWS = {
    "fit": lambda seed: train(seed=seed)[0].down.weight,
    "sample": lambda seed: tiny_vae().sample(3, seed=seed),
    "pixels": lambda seed: tiny_vae().sample(3, seed=seed, pixels=True),
    "elbo": lambda seed: per_example(tiny_vae(), elbo, IMAGES, seed=seed)["loss"],
    "binarize": lambda seed: per_example(
        tiny_vae(), lambda _, x: {"x": x}, IMAGES, prepare=binarize, seed=seed)["x"],
    "bound": lambda seed: importance_weighted_bound(tiny_vae(), IMAGES, samples=3, seed=seed),
    "tsne": lambda seed: torch.from_numpy(tsne(IMAGES.flatten(1).repeat(9, 1)[:, :5], seed=seed)),
}  # fmt: skip


@pytest.mark.parametrize("what", DRAWS)
def test_same_seed_same_bytes_whatever_was_drawn_before(what):
    torch.manual_seed(1)
    first = DRAWS[what](3)
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(DRAWS[what](3), first)
    assert torch.equal(torch.get_rng_state(), state)
    if what != "tsne":  # started from PCA: the seed decides little
        assert not torch.equal(DRAWS[what](4), first)


def test_seeded_restores_the_global_state_even_after_an_error():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with pytest.raises(RuntimeError, match="invalid"), seeded(8):
        torch.rand(2).reshape(3)
    with seeded(None):  # leaves the block to the global state
        assert torch.equal(torch.rand(3), expected)
