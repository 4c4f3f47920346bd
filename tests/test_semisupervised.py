"""M2: its two bounds against enumeration in NumPy and quadrature, and its data."""

import math

import numpy as np
import pytest
import torch
from test_conditional import LABELS, SHAPE, K, X, exact, tiny
from torch import nn

from vae_tutorial import MLP
from vae_tutorial.data import Dataset, Split
from vae_tutorial.models.conditional import conditional_elbo
from vae_tutorial.models.semisupervised import (
    SemiSupervisedVAE,
    balanced_subset,
    classifier_loss,
    code_drawn,
    code_mean,
    few_labels,
    label_errors,
    semisupervised_elbo,
    unlabelled_bound,
)
from vae_tutorial.posteriors import FullCovarianceGaussian
from vae_tutorial.randomness import seeded

MISSING = torch.full((5,), -1)


def tiny_m2() -> SemiSupervisedVAE:
    with seeded(7):
        classifier = MLP(SHAPE, K, (6,))
        for parameter in classifier.parameters():
            nn.init.normal_(parameter, std=0.7)
    return SemiSupervisedVAE(classifier, tiny())


def test_the_sum_over_labels_by_enumeration():
    rng = np.random.default_rng(0)
    labelled = rng.normal(-90, 4, (6, K))
    q = rng.dirichlet(np.ones(K), 6)
    by_hand = [
        sum(q[i, y] * labelled[i, y] for y in range(K))
        - sum(q[i, y] * math.log(q[i, y]) for y in range(K))
        for i in range(6)
    ]
    found = unlabelled_bound(torch.as_tensor(labelled), torch.as_tensor(q).log())
    np.testing.assert_allclose(found, by_hand)
    highest = np.logaddexp.reduce(labelled, 1)
    assert (found.numpy() < highest).all()
    best = unlabelled_bound(torch.as_tensor(labelled), torch.as_tensor(labelled).log_softmax(1))
    np.testing.assert_allclose(best, highest)


def test_both_bounds_are_below_what_they_bound():
    model = tiny_m2()
    joint = np.array([[exact(model.vae, x, y) - math.log(K) for y in range(K)] for x in X])
    evidence = np.logaddexp.reduce(joint, 1)  # log p(x)
    with seeded(0):
        terms = conditional_elbo(model.vae, X, model.vae.all_labels(), samples=20_000)
        labelled = -terms["loss"].T.double().numpy() - math.log(K)
        with_label = -semisupervised_elbo(model, X, LABELS, samples=20_000)["negative_bound"]
        without = -semisupervised_elbo(model, X, MISSING, samples=20_000)["negative_bound"]
    own = joint[np.arange(5), LABELS]
    assert (labelled < joint).all()
    assert (with_label.detach().numpy() < own).all()
    np.testing.assert_allclose(
        with_label.detach(), labelled[np.arange(5), LABELS], atol=0.05
    )  # the same integral
    between = np.logaddexp.reduce(labelled, 1)
    assert (between < evidence).all()
    assert (without.detach().numpy() < between + 0.01).all()
    q = model.log_q(X).exp().detach().double().numpy()
    by_hand = (q * (labelled - np.log(q))).sum(1)
    np.testing.assert_allclose(without.detach(), by_hand, atol=0.05)


def test_rows_with_and_without_labels_stand_in_one_batch_in_any_order():
    model = tiny_m2()
    y = torch.tensor([-1, 0, -1, 3, 1])
    with seeded(0):
        found = semisupervised_elbo(model, X, y, alpha=3.0, samples=4000)
    with seeded(1):
        all_known = semisupervised_elbo(model, X, y.clamp(min=0), alpha=3.0, samples=4000)
        none_known = semisupervised_elbo(model, X, MISSING, alpha=3.0, samples=4000)
    for name, values in found.items():
        expected = torch.where(y >= 0, all_known[name], none_known[name])
        torch.testing.assert_close(values, expected, atol=0.12, rtol=0)
    q = model.classifier(X).double().softmax(1).detach().numpy()
    entropy = [-math.log(q[i, k]) if k >= 0 else 0.0 for i, k in enumerate(y)]
    np.testing.assert_allclose(found["cross_entropy"].detach(), entropy, rtol=1e-5)
    loss = found["negative_bound"] + 3.0 * found["cross_entropy"]
    torch.testing.assert_close(found["loss"], loss)


def test_without_alpha_labels_do_not_reach_the_classifier_and_images_without_labels_do():
    model = tiny_m2()
    for y, alpha, reached in ((LABELS, 0.0, False), (LABELS, 1.0, True), (MISSING, 0.0, True)):
        model.zero_grad()
        for parameter in model.classifier.parameters():
            parameter.requires_grad_()
        semisupervised_elbo(model, X, y, alpha=alpha)["loss"].sum().backward()
        size = sum(float(p.grad.abs().sum()) for p in model.classifier.parameters())
        assert (size > 0) == reached


def test_trust_changes_the_classifiers_gradient_alone():
    def gradients(trust):
        model = tiny_m2()
        for parameter in model.parameters():
            parameter.requires_grad_()
        with seeded(0):
            terms = semisupervised_elbo(model, X, MISSING, trust=trust)
        terms["loss"].sum().backward()
        parts = ([p.grad for p in part.parameters()] for part in (model.classifier, model.vae))
        flat = (torch.cat([g.flatten() for g in of if g is not None] or [torch.zeros(1)])
                for of in parts)  # fmt: skip
        return terms["loss"].detach(), *flat

    loss, classifier, vae = gradients(1.0)
    half_loss, half_classifier, half_vae = gradients(0.5)
    torch.testing.assert_close(half_loss, loss)
    torch.testing.assert_close(half_vae, vae)
    torch.testing.assert_close(half_classifier, 0.5 * classifier)
    assert float(gradients(0.0)[1].abs().sum()) == 0 < float(classifier.abs().sum())


def test_labels_that_make_no_difference_have_the_same_bound_for_one_draw():
    """All labels share the noise: with networks that ignore the label their bounds are equal."""
    model = tiny_m2()
    for body in (model.vae.encoder.network, model.vae.decoder.network):
        body.label.weight.zero_()
    with seeded(0):
        found = -semisupervised_elbo(model, X, MISSING)["negative_bound"]
    with seeded(0):
        noise = torch.randn(5, 1)
    y = torch.zeros(5, dtype=torch.int64)
    q = model.vae.encoder(X, y)
    z = q.mean + q.stddev * noise
    kl = 0.5 * (q.mean**2 + q.variance - 1 - q.variance.log()).sum(1)
    log_q = model.log_q(X)
    entropy = -(log_q.exp() * log_q).sum(1)
    expected = model.vae.decoder(z, y).log_prob(X) - kl - math.log(K) + entropy
    torch.testing.assert_close(found, expected)


def test_codes_are_drawn_for_training_and_means_for_evaluation():
    posteriors = torch.stack([torch.full((4000, 3), 2.0), torch.full((4000, 3), 0.5)], 1)
    y = torch.arange(4000)
    drawn, same = code_drawn(posteriors, y)
    assert torch.equal(same, y)
    assert drawn.shape == (4000, 3)
    assert float(drawn.mean()) == pytest.approx(2, abs=0.03)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.03)
    mean, same = code_mean(posteriors, y)
    assert torch.equal(same, y)
    assert torch.equal(mean, posteriors[:, 0])


def test_errors_are_counted():
    model = tiny_m2()
    guesses = model.predict(X)
    assert label_errors(model, X, guesses)["error"].tolist() == [0] * 5
    wrong = classifier_loss(model.classifier, X, (guesses + 1) % K)
    assert wrong["error"].tolist() == [1] * 5
    log_q = torch.log_softmax(model.classifier(X), 1)
    log_q = log_q.detach()
    expected = [-float(log_q[i, (g + 1) % K]) for i, g in enumerate(guesses)]
    np.testing.assert_allclose(wrong["loss"].detach(), expected, rtol=1e-5)


def test_a_subset_is_balanced_and_the_rest_has_no_labels():
    labels = torch.arange(4).repeat(25)
    images = torch.arange(100, dtype=torch.uint8).reshape(100, 1, 1, 1).repeat(1, 1, 3, 3)
    source = Dataset("toys", *[Split(images, labels)] * 3, tuple("abcd"))
    chosen = balanced_subset(labels, 8, seed=1)
    assert labels[chosen].bincount().tolist() == [2, 2, 2, 2]
    assert len(chosen.unique()) == 8
    assert not torch.equal(chosen, balanced_subset(labels, 8, seed=2))
    assert torch.equal(chosen, balanced_subset(labels, 8, seed=1))
    found = few_labels(source, 8, unlabelled=30, repeats=3, seed=1).train
    places = found.examples[:, 0, 0, 0].long()
    assert torch.equal(places[:24], chosen.repeat(3))
    assert torch.equal(found.labels[:24], labels[chosen].repeat(3))
    assert set(found.labels[24:].tolist()) == {-1}
    assert len(found) == 54
    assert len(places[24:].unique()) == 30
    assert not set(places[24:].tolist()) & set(chosen.tolist())
    assert not torch.equal(places[24:].sort().values, places[24:])  # in no order of the file
    with pytest.raises(ValueError, match="multiple"):
        balanced_subset(labels, 9)
    with pytest.raises(ValueError, match="25 examples"):
        balanced_subset(labels, 104)
    with pytest.raises(ValueError, match="without labels"):
        few_labels(source, 8, unlabelled=93)


def test_what_does_not_fit_is_refused():
    full = tiny_m2()
    full.vae.encoder.posterior = FullCovarianceGaussian(1)
    with pytest.raises(ValueError, match="MeanFieldGaussian"):
        SemiSupervisedVAE(full.classifier, full.vae)
    with pytest.raises(ValueError, match="out_shape"):
        SemiSupervisedVAE(MLP(SHAPE, K + 1), tiny())
    with pytest.raises(ValueError, match="int64"):
        semisupervised_elbo(tiny_m2(), X, LABELS.float())
    with pytest.raises(ValueError, match="for each image"):
        semisupervised_elbo(tiny_m2(), X, LABELS[:3])
