"""Likelihoods p(x|z): from the numbers that a decoder gives to a distribution over images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, Independent


class _StrictBernoulli(TorchBernoulli):
    """A Bernoulli that says in the book's words why it refuses a grey pixel."""

    def log_prob(self, value: Tensor) -> Tensor:
        if not ((value == 0) | (value == 1)).all():
            raise ValueError(
                "a Bernoulli likelihood is defined for pixels that are 0 or 1, but some pixels lie "
                f"elsewhere (smallest {float(value.min()):g}, largest {float(value.max()):g}). "
                "Binarize the images, or say Bernoulli(image_shape, greys=True) for the customary "
                "shortcut: the binary cross-entropy of grey pixels, which is no likelihood."
            )
        return super().log_prob(value)


class Bernoulli(nn.Module):
    """Independent black-or-white pixels: p(x|z) = prod_i y_i^x_i (1 - y_i)^(1 - x_i).

    Kingma & Welling (2013), appendix C.1. The network gives one logit a pixel, log(y / (1 - y));
    the log-likelihood is computed from the logit, so that no log(0) can arise.

    Args:
        image_shape: (C, H, W) of one image.
        greys: allow pixels between 0 and 1. The result is then the **binary cross-entropy** that
            most tutorials train with. It is not the log of a density (it does not integrate to
            one over [0, 1]); it is a useful loss, and is named as such throughout the book.

    Shape:
        logits ``(..., C, H, W)`` to a distribution with batch shape ``(...)`` and event shape
        ``(C, H, W)``: ``log_prob`` sums over the pixels, one number an image, in nats.

    Raises:
        ValueError: from ``log_prob``, when ``greys`` is false and a pixel is neither 0 nor 1.
    """

    def __init__(self, image_shape: Sequence[int], *, greys: bool = False) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        if len(self.image_shape) != 3:
            raise ValueError(f"image_shape must be (C, H, W), got {self.image_shape}")
        self.greys = greys
        self.param_shape = self.image_shape

    def forward(self, logits: Tensor) -> Distribution:
        if tuple(logits.shape[-3:]) != self.image_shape:
            raise ValueError(
                f"Bernoulli expects one logit a pixel, (..., {', '.join(map(str, self.image_shape))}), "
                f"got {tuple(logits.shape)}; give the network out_shape=likelihood.param_shape."
            )
        if self.greys:
            return Independent(TorchBernoulli(logits=logits, validate_args=False), 3)
        return Independent(_StrictBernoulli(logits=logits, validate_args=False), 3)

    def extra_repr(self) -> str:
        return f"image_shape={self.image_shape}, greys={self.greys}"


def binarize(x: Tensor) -> Tensor:
    """Draw each pixel as black or white, with its grey value as the probability of white.

    Salakhutdinov & Murray (2008). Done afresh for every batch this is *dynamic* binarization.
    """
    return torch.bernoulli(x)
