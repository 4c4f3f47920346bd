"""A decoder whose training is told more than the error of each pixel: features, and an opponent.

The squared error has its best answer in the mean of all images that fit a latent, which is blurred
wherever they differ. The first stage of latent diffusion adds two terms against that (Rombach et al.
2022, appendix G; Esser et al. 2021, section 3.1): a distance in the features of a classifier, and a
discriminator that judges patches. Neither is a likelihood. The encoder is left as it is here, so that
what was fitted to its latents stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from vae_tutorial.models.classifier import Classifier, feature_distance
from vae_tutorial.models.vae import VAE
from vae_tutorial.networks import HeConv2d, as_image_shape, as_shape
from vae_tutorial.objectives import Terms
from vae_tutorial.spec import Part


class PatchDiscriminator(Part):
    """One judgement per patch: convolutions of stride 2, then one number at each position.

    Above zero it says "real", below zero "made", Isola et al. (2017), section 3.2.2.

    Args:
        image_shape: (C, H, W).
        channels: of each size: half of the image's, a quarter, ...

    Shape:
        ``(B, C, H, W) -> (B, 1, h, w)``

    Example:
        >>> PatchDiscriminator((1, 28, 28))(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 1, 7, 7])
    """

    def __init__(self, image_shape: Sequence[int], channels: Sequence[int] = (24, 48)) -> None:
        super().__init__()
        n = len(as_shape(channels, "channels"))
        c, h, w = as_image_shape(image_shape, "image_shape", n)
        self.image_shape = (c, h, w)
        layers = [
            part
            for before, after in pairwise([c, *channels])
            for part in (HeConv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2))
        ]
        self.layers = nn.Sequential(*layers, HeConv2d(channels[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SharpDecoder(Part):
    """A trained VAE whose decoder trains on, beside a frozen encoder, with what its loss needs.

    Args:
        vae: its encoder is frozen; its decoder learns.
        teacher: a classifier for :func:`~vae_tutorial.models.classifier.feature_distance`, frozen.
        discriminator: the opponent, which learns.
        start: a name for the weights that are put into ``vae`` and ``teacher`` before training, for
            example a checksum; it is part of what a run is known by.
    """

    def __init__(
        self,
        vae: VAE,
        teacher: Classifier | None = None,
        discriminator: PatchDiscriminator | None = None,
        start: str = "",
    ) -> None:
        super().__init__()
        self.vae, self.teacher, self.discriminator = vae, teacher, discriminator
        self.start = start
        self.vae.encoder.requires_grad_(False)
        if teacher is not None:
            teacher.requires_grad_(False)


def sharp_loss(
    model: SharpDecoder,
    x: Tensor,
    *,
    pixels: str = "squared",
    perceptual: float = 0.0,
    adversarial: float = 0.0,
) -> Terms:
    """What a decoder is told, beside a frozen encoder: pixels, features, an opponent's judgement.

    ``loss`` = the pixels' error + ``perceptual`` * feature distance + ``adversarial`` * r * opponent's
    mean of -D(y) + the discriminator's own hinge loss, mean of max(0, 1 - D(x)) + max(0, 1 + D(y)).
    Decoder and discriminator each get the gradient of their own part alone: D's weights are held in
    the decoder's part, y in D's (Lim & Ye 2017, section 2). The factor r is that of Esser et al.
    (2021), equation 7, at the image in place of the last layer: how long the pixel error's gradient
    is over the batch, divided by how long the opponent's is. So the weight 1 lets both pull equally.

    Args:
        model, x: and images (B, C, H, W) in [0, 1]. One latent is drawn for each from q(z|x).
        pixels: ``"squared"``, 50 times the squared error (-log p of a Gaussian with a standard
            deviation of 0.1, but for its constant), or ``"absolute"``, 10 times the absolute one
            (a Laplacian's with a scale of 0.1); summed over pixels.
        perceptual, adversarial: weights; at zero the term is left out.

    Returns:
        ``loss`` and ``squared``, ``absolute`` (the plain errors, summed over pixels), and what the
        weights call for: ``features``, ``opponent``, ``discriminator``. All (B,).

    Raises:
        ValueError: for another name of a pixel error, or a weight whose part the model lacks.
    """
    if pixels not in ("squared", "absolute"):
        raise ValueError(f"pixels must be 'squared' or 'absolute', got {pixels!r}")
    for weight, part in ((perceptual, "teacher"), (adversarial, "discriminator")):
        if weight and getattr(model, part) is None:
            raise ValueError(f"a weight of {weight} needs SharpDecoder(..., {part}=...)")
    with torch.no_grad():
        z = model.vae.encoder(x).sample()
    y = model.vae.decode(z)
    terms = {"squared": (y - x).square().sum((1, 2, 3)), "absolute": (y - x).abs().sum((1, 2, 3))}
    loss = _pixel_error(x, y, pixels)
    if perceptual:
        terms["features"] = feature_distance(model.teacher, x, y)
        loss = loss + perceptual * terms["features"]
    if adversarial:
        opponent = model.discriminator
        held = {name: weight.detach() for name, weight in opponent.named_parameters()}

        def mistrust(y: Tensor) -> Tensor:
            return -functional_call(opponent, held, (y,)).mean((1, 2, 3))

        pull = _slope(lambda y: _pixel_error(x, y, pixels), y) / _slope(mistrust, y)
        terms["opponent"] = mistrust(y)
        real, made = opponent(x), opponent(y.detach())
        terms["discriminator"] = (F.relu(1 - real) + F.relu(1 + made)).mean((1, 2, 3))
        loss = loss + adversarial * pull * terms["opponent"] + terms["discriminator"]
    return {"loss": loss} | terms


def _pixel_error(x: Tensor, y: Tensor, pixels: str) -> Tensor:
    if pixels == "squared":
        return 50 * (y - x).square().sum((1, 2, 3))
    return 10 * (y - x).abs().sum((1, 2, 3))


@torch.enable_grad()
def _slope(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """How long the gradient of a function's sum is at images y, all of them together; no graph."""
    y = y.detach().float().requires_grad_()
    (gradient,) = torch.autograd.grad(function(y).sum(), y)
    return gradient.norm().clamp(min=1e-12)
