"""The transformer over codes: what a place sees, exact probabilities, cached draws, classes."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from vae_tutorial import fit
from vae_tutorial.models.pixelcnn import code_loss
from vae_tutorial.models.transformer import CausalBlock, CodeTransformer
from vae_tutorial.randomness import seeded

K, GRID = 3, (2, 3)


def drawn(**settings) -> CodeTransformer:
    """A model away from its start, whose symbols are not equally likely."""
    with seeded(0), torch.no_grad():
        model = CodeTransformer(K, GRID, width=8, layers=2, heads=2, **settings)
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval()


def every_grid() -> torch.Tensor:
    return torch.tensor(list(product(range(K), repeat=math.prod(GRID)))).view(-1, *GRID)


def test_attention_against_numpy():
    """One block, one head at a time, with explicit softmaxes over the places up to each."""
    with seeded(1):
        block = CausalBlock(6, heads=2).double().eval()
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    weights = {name: value.detach().numpy() for name, value in block.named_parameters()}

    def normalized(v, name):
        v = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)
        return v * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(v, name):
        return v @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    v = x.numpy()
    both = linear(normalized(v, "normalize"), "attend")
    seen = np.zeros_like(v)
    for b, head, i in product(range(2), range(2), range(5)):
        asked, keys, values = (
            both[b, :, 6 * j + 3 * head : 6 * j + 3 * head + 3] for j in range(3)
        )
        scores = keys[: i + 1] @ asked[i] / math.sqrt(3)
        share = np.exp(scores - scores.max())
        seen[b, i, 3 * head : 3 * head + 3] = share / share.sum() @ values[: i + 1]
    v = v + linear(seen, "gather")
    inner = linear(normalized(v, "normalize_again"), "perceptron.0")
    inner = inner * torch.special.ndtr(torch.from_numpy(inner)).numpy()
    expected = v + linear(inner, "perceptron.2")
    np.testing.assert_allclose(block(x)[0].detach(), expected, rtol=1e-9, atol=1e-12)


def test_a_place_sees_those_before_it_and_nothing_else():
    model = drawn()
    codes = torch.zeros(1, *GRID, dtype=torch.int64)
    base = model.logits(codes).flatten(2)
    for place in range(math.prod(GRID)):
        changed = codes.flatten(1).clone()
        changed[0, place] = 1
        moved = (model.logits(changed.view(1, *GRID)).flatten(2) - base).abs().sum((0, 1)) > 1e-6
        assert moved.tolist() == [i > place for i in range(math.prod(GRID))]


@pytest.mark.parametrize("classes", [None, 2])
def test_probabilities_add_up_to_one(classes):
    model = drawn(classes=classes)
    grids = every_grid()
    for label in range(classes or 1):
        labels = None if classes is None else torch.full((len(grids),), label)
        total = model(labels).log_prob(grids).double().logsumexp(0)
        assert abs(float(total.detach())) < 1e-5


def test_draws_follow_the_probabilities_with_what_is_kept():
    """Cached keys and values give what whole passes give: the frequencies of all 729 grids."""
    model, n = drawn(), 60_000
    probabilities = model().log_prob(every_grid()).exp().detach().double()
    codes = model.sample(n, seed=0)
    index = (codes.flatten(1) * K ** torch.arange(5, -1, -1)).sum(1)
    counts = torch.bincount(index, minlength=len(probabilities)).double()
    chi_square = ((counts - n * probabilities).square() / (n * probabilities)).sum()
    assert abs(chi_square - 728) < 5 * math.sqrt(2 * 728)
    assert torch.equal(model.sample(5, seed=3), model.sample(5, seed=3))
    cold = model.sample(2000, seed=0, temperature=0.3)
    likelier = model().log_prob(cold).mean() - model().log_prob(codes[:2000]).mean()
    assert likelier > 0.5


def test_one_place_at_a_time_gives_the_same_vectors():
    block, x = drawn().blocks[0], torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    whole, keys, values = block(x)
    kept = (None, None)
    for i in range(6):
        one, *kept = block(x[:, i : i + 1], *kept)
        torch.testing.assert_close(one[:, 0], whole[:, i])
    torch.testing.assert_close(kept[0], keys)
    torch.testing.assert_close(kept[1], values)


def test_at_first_all_grids_are_equally_likely_and_it_learns():
    with seeded(0):
        model = CodeTransformer(K, GRID, width=16, layers=1, heads=2, classes=2)
    labels = torch.arange(400) % 2
    codes = labels[:, None, None].expand(400, *GRID).contiguous()  # the class, everywhere
    start = code_loss(model, codes, labels)
    torch.testing.assert_close(start["nats"], torch.full((400,), 6 * math.log(K)))
    fit(
        model,
        code_loss,
        (codes, labels),
        epochs=15,
        batch_size=50,
        learning_rate=3e-3,
        progress=False,
    )
    assert code_loss(model.eval(), codes, labels)["nats"].mean() < 0.5
    model.train()
    found = model.sample(400, labels=labels, seed=0).flatten(1)
    assert (found == labels[:, None]).float().mean() > 0.9
    assert model.training  # as it was


def test_bad_input_is_named():
    for call, message in (
        (lambda: CausalBlock(10, heads=3), "multiple of heads"),
        (lambda: CodeTransformer(1, GRID), "num_codes >= 2"),
        (lambda: CodeTransformer(K, (0, 2)), "grid"),
        (lambda: drawn().sample(0), "n >= 1"),
        (lambda: drawn()(torch.tensor([0])).log_prob(torch.zeros(1, *GRID).long()), "no labels"),
        (lambda: drawn(classes=2)().log_prob(torch.zeros(1, *GRID).long()), "below 2"),
        (lambda: drawn().logits(torch.full((1, *GRID), K)), "from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
