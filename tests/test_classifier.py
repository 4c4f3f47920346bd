"""The small classifier: its objective, and the distance in its features, against plain NumPy."""

import numpy as np
import pytest
import torch
from tiny import random_images

from vae_tutorial import fit
from vae_tutorial.models.classifier import Classifier, class_cross_entropy, feature_distance
from vae_tutorial.randomness import seeded


def tiny_classifier(classes=3, seed=0):
    with seeded(seed):
        return Classifier((1, 8, 8), classes, (4, 6), 5)


def test_the_loss_is_the_cross_entropy_and_the_error_counts_misses():
    model, x, labels = tiny_classifier(), random_images(9, (1, 8, 8)), torch.arange(9) % 3
    logits = model(x).detach().double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    found = class_cross_entropy(model, x, labels)
    np.testing.assert_allclose(
        found["loss"].detach(), -log_p[np.arange(9), labels.numpy()], rtol=1e-5
    )
    np.testing.assert_array_equal(found["error"], logits.argmax(1) != labels.numpy())


def test_features_are_what_the_logits_are_made_of():
    model, x = tiny_classifier(), random_images(4, (1, 8, 8))
    assert [tuple(part.shape) for part in model.maps(x)] == [(4, 4, 4, 4), (4, 6, 2, 2)]
    assert model.features(x).shape == (4, 5)
    torch.testing.assert_close(model.head(model.features(x)), model(x))


def test_it_learns_what_is_easy():
    x = random_images(60, (1, 8, 8)) * 0.2
    labels = torch.arange(60) % 3
    for c in (1, 2):
        x[labels == c, :, :, c * 2 : c * 2 + 2] = 1.0  # a bright column per class
    model = tiny_classifier()
    fit(model, class_cross_entropy, (x, labels), epochs=15, learning_rate=1e-2, progress=False)
    assert float(class_cross_entropy(model, x, labels)["error"].mean()) == 0


def test_the_feature_distance_is_that_of_directions_averaged_over_positions():
    model = tiny_classifier()
    x, y = random_images(3, (1, 8, 8)), random_images(3, (1, 8, 8), seed=1)
    expected = np.zeros(3)
    for a, b in zip(model.maps(x), model.maps(y), strict=True):
        a, b = (part.detach().double().numpy() for part in (a, b))
        a, b = (part / np.sqrt((part**2).sum(1, keepdims=True)) for part in (a, b))
        expected += ((a - b) ** 2).sum(1).mean((1, 2))
    np.testing.assert_allclose(feature_distance(model, x, y).detach(), expected, rtol=1e-4)
    assert feature_distance(model, x, x).tolist() == [0, 0, 0]


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="stride 2"):
        Classifier((1, 2, 2), 3)
    with pytest.raises(ValueError, match="classes"):
        Classifier((1, 8, 8), 0)
