"""Few labels and many images: the model M2 of Kingma, Mohamed, Rezende & Welling (2014).

A conditional VAE p(x|y,z) p(z) p(y), and a classifier q(y|x) that stands in for the labels that are
missing. Where a label is missing, the bound sums over all K of them, exactly.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_tutorial.data import Dataset, Split
from vae_tutorial.exchange import draw
from vae_tutorial.models.conditional import ConditionalVAE, conditional_elbo
from vae_tutorial.objectives import kl_divergence
from vae_tutorial.posteriors import MeanFieldGaussian
from vae_tutorial.spec import Part

UNKNOWN = -1  # in the place of a label that is missing


class SemiSupervisedVAE(Part):
    """M2: a conditional VAE, a uniform p(y), and q(y|x) = softmax of a network's K numbers.

    Args:
        classifier: a network from images (B, C, H, W) to logits (B, K).
        vae: a conditional VAE of K classes, with a mean-field Gaussian posterior.

    Example:
        >>> from vae_tutorial import MLP, Bernoulli, MeanFieldGaussian, StandardNormal
        >>> from vae_tutorial.models.conditional import (
        ...     ConditionalDecoder, ConditionalEncoder, ConditionalVAE, LabelledMLP)
        >>> shape = (1, 28, 28)
        >>> encoder = ConditionalEncoder(LabelledMLP(shape, 4, 10), MeanFieldGaussian(2))
        >>> decoder = ConditionalDecoder(LabelledMLP(2, shape, 10), Bernoulli(shape))
        >>> vae = ConditionalVAE(encoder, decoder, StandardNormal(2))
        >>> SemiSupervisedVAE(MLP(shape, 10), vae).predict(torch.zeros(5, *shape)).shape
        torch.Size([5])
    """

    def __init__(self, classifier: nn.Module, vae: ConditionalVAE) -> None:
        super().__init__()
        given = tuple(getattr(classifier, "out_shape", (vae.classes,)))
        if given != (vae.classes,):
            needed = f"out_shape=({vae.classes},)"
            raise ValueError(f"the classifier gives {given}, the VAE has {vae.classes}: {needed}")
        if not isinstance(vae.encoder.posterior, MeanFieldGaussian):  # all labels share its noise
            got = type(vae.encoder.posterior).__name__
            raise ValueError(f"needs an encoder with a MeanFieldGaussian posterior, got {got}")
        self.classifier, self.vae = classifier, vae

    def log_q(self, x: Tensor) -> Tensor:
        """log q(y|x) of every label, (B, K), for images (B, C, H, W)."""
        return self.classifier(x).float().log_softmax(-1)

    def predict(self, x: Tensor) -> Tensor:
        """The likeliest label of each image (B, C, H, W) under q(y|x): (B,), int64."""
        return self.log_q(x).argmax(-1)


def unlabelled_bound(labelled: Tensor, log_q: Tensor) -> Tensor:
    """The bound on log p(x), (...), from bounds on log p(x, y) of all labels: exact in y.

    sum_y q(y|x) [L(x, y) - log q(y|x)], Kingma et al. (2014), equation 7, their -U(x). It is largest,
    logsumexp_y L(x, y), where q(y|x) is the softmax of L(x, y).

    Args:
        labelled: L(x, y), (..., K), in nats.
        log_q: log q(y|x), (..., K).
    """
    return (log_q.exp() * (labelled - log_q)).sum(-1)


def semisupervised_elbo(
    model: SemiSupervisedVAE, x: Tensor, y: Tensor, *, alpha: float = 1.0,
    trust: float = 1.0, samples: int = 1,
) -> dict[str, Tensor]:  # fmt: skip
    """M2's objective, Kingma et al. (2014), equations 6 to 9, one number per image.

    With a label, -L(x, y) - alpha log q(y|x); without one, -U(x), the sum over all labels. (In their
    equation 9 alpha, 0.1 times the number of all images, stands before an expectation over the
    labelled images. Here it stands before each term.)

    Args:
        model, x: the model, and images (B, C, H, W).
        y: (B,), int64, -1 where the label is missing.
        alpha: weight of the classifier's cross-entropy. At 0 nothing but the sum over labels
            trains q(y|x), and the labels themselves do not.
        trust: how much of its gradient from images without labels the classifier gets. At 1 this
            is their objective. At 0 the labels alone train q(y|x), and the rest of the model learns
            what q(y|x) tells it. It changes gradients, no values.
        samples: S, draws of z for each image and label.

    Returns:
        ``loss``; ``negative_bound``, that on log p(x, y) or on log p(x); and ``cross_entropy``,
        zero where there is no label. Each (B,), in nats.
    """
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        got = f"{y.dtype} {tuple(y.shape)}"
        raise ValueError(f"needs a label of int64 for each image, {UNKNOWN} if unknown, got {got}")
    known, log_q, log_k = y >= 0, model.log_q(x), math.log(model.vae.classes)
    bound = log_q.new_zeros(len(x))
    cross_entropy = F.nll_loss(log_q, y, ignore_index=UNKNOWN, reduction="none")
    if known.any():
        terms = conditional_elbo(model.vae, x[known], y[known], samples=samples)
        bound = bound.masked_scatter(known, -terms["loss"] - log_k)
    if not known.all():
        labelled = _all_bounds(model.vae, x[~known], samples) - log_k  # (B, K)
        heard = trust * log_q[~known] + (1 - trust) * log_q[~known].detach()
        bound = bound.masked_scatter(~known, unlabelled_bound(labelled, heard))
    loss = alpha * cross_entropy - bound
    return {"loss": loss, "negative_bound": -bound, "cross_entropy": cross_entropy}


def _all_bounds(vae: ConditionalVAE, x: Tensor, samples: int) -> Tensor:
    """The bounds on log p(x|y) of every label, (B, K), in nats, all from the same noise.

    What decides between labels is the difference of their bounds, and shared noise cancels in it.
    """
    y = vae.all_labels()
    q = vae.encoder(x, y)  # (K, B) of (D,)
    noise = torch.randn(samples, 1, *q.mean.shape[1:], device=x.device)
    z = q.mean + q.stddev * noise  # (S, K, B, D)
    likelihood = vae.decoder(z, y).log_prob(x).mean(0)
    return (likelihood - kl_divergence(q, vae.prior_of(y), z)).T


def classifier_loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy (B,), in nats, and error (B,), 0 or 1, of a classifier of images (B, C, H, W)."""
    logits = model(x)
    wrong = (logits.argmax(-1) != y).float()
    return {"loss": F.cross_entropy(logits, y, reduction="none"), "error": wrong}


def code_drawn(posteriors: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """A fresh draw (B, D) of the codes of posteriors (B, 2, D); what else is in the batch passes.

    For models of another model's codes (M1+M2), as the ``prepare`` of a training.
    """
    return draw(posteriors).squeeze(0), *others


def code_mean(posteriors: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The means (B, D) of posteriors (B, 2, D), for evaluation; what else is in the batch passes."""
    return posteriors[:, 0], *others


def label_errors(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Whether q(y|x) of an M2 misses the label (B,) of each image: ``error``, (B,), 0 or 1."""
    return {"error": (model.predict(x) != y).float()}


def balanced_subset(labels: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Places of ``count`` labels, equally many of each class, drawn under a seed: (count,), int64.

    Args:
        labels: (N,), int64.
        count: a multiple of the number of classes.
        seed: of the draw.
    """
    classes = labels.unique()
    if count < 1 or count % len(classes):
        raise ValueError(f"count must be a multiple of the {len(classes)} classes, got {count}")
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for k in classes:
        where = (labels == k).nonzero().squeeze(1)
        if len(where) < count // len(classes):
            raise ValueError(f"class {k} has {len(where)} examples, {count // len(classes)} wanted")
        chosen.append(
            where[torch.randperm(len(where), generator=generator)[: count // len(classes)]]
        )
    return torch.cat(chosen)


def few_labels(
    source: Dataset, count: int, *, unlabelled: int = 0, repeats: int = 1, seed: int = 0
) -> Dataset:
    """A data set of which few labels are known: these images, repeated, and others without labels.

    Training rows are ``repeats`` copies of the :func:`balanced_subset`, and ``unlabelled`` further
    images with the label -1; the same ones for every seed and count, as far as they are not among
    the labelled. Validation and test images keep their labels.
    """
    labels = source.train.labels
    chosen = balanced_subset(labels, count, seed=seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(20140620))
    others = order[~torch.isin(order, chosen)][:unlabelled]
    if len(others) < unlabelled:
        raise ValueError(f"{unlabelled} images without labels wanted, there are {len(others)}")
    rows = torch.cat([chosen.repeat(repeats), others])
    known = torch.cat([labels[chosen].repeat(repeats), labels.new_full((unlabelled,), UNKNOWN)])
    train = Split(source.train.examples[rows], known)
    name = f"{source.name}-few-labels"
    recipe = (
        source.recipe
        and f"{source.recipe}, {count} labels, {unlabelled} without, x {repeats}, seed {seed}"
    )
    return Dataset(name, train, source.validation, source.test, source.classes, recipe)
