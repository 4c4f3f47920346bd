"""A small classifier: what its features say about images, where no outside network is to judge.

Features of a network that was trained to tell classes apart see what a sum over pixels does not:
Zhang et al. (2018) compare images by them, Kynkäänniemi et al. (2019) sets of images. Both take
networks trained on a million photographs. Here they are trained on the images of the chapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from vae_tutorial.networks import HeConv2d, HeLinear, ResidualBlock, as_image_shape, as_shape
from vae_tutorial.objectives import Terms
from vae_tutorial.spec import Part


class Classifier(Part):
    """Convolutions of stride 2 with a residual block each, a hidden layer, one logit per class.

    Args:
        image_shape: (C, H, W).
        classes: how many.
        channels: of each size: half of the image's, a quarter, ...
        hidden: width of the layer in front of the logits, whose values are :meth:`features`.

    Shape:
        ``(B, C, H, W) -> (B, classes)``, logits.

    Example:
        >>> import torch
        >>> Classifier((1, 28, 28), 10)(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 10])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        channels: Sequence[int] = (24, 48),
        hidden: int = 64,
    ) -> None:
        super().__init__()
        n = len(as_shape(channels, "channels"))
        c, h, w = as_image_shape(image_shape, "image_shape", n)
        self.image_shape, self.classes = (c, h, w), as_shape(classes, "classes")[0]
        self.stages = nn.ModuleList(
            nn.Sequential(HeConv2d(before, after, 4, 2, 1), ResidualBlock(after), nn.SiLU())
            for before, after in pairwise([c, *channels])
        )
        self.narrow = nn.Sequential(
            nn.Flatten(), HeLinear(channels[-1] * (h >> n) * (w >> n), hidden), nn.SiLU()
        )
        self.head = HeLinear(hidden, classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each size of convolutions gives, (B, channels, h, w) each, the finest first."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def features(self, x: Tensor) -> Tensor:
        """The hidden layer in front of the logits, (B, hidden)."""
        return self.narrow(self.maps(x)[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def class_cross_entropy(model: Classifier, x: Tensor, labels: Tensor) -> Terms:
    """-log p(label|x) of images (B, C, H, W) with labels (B,), in nats, as an objective for ``fit``.

    Returns:
        ``loss``, and ``error``, 1 where another class has the largest logit, else 0; (B,) each.
    """
    logits = model(x)
    loss = F.cross_entropy(logits, labels, reduction="none")
    return {"loss": loss, "error": (logits.argmax(1) != labels).to(loss.dtype)}


def feature_distance(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """How differently two images look to a classifier, (B,): a sum over its sizes.

    At each position the channels are a vector, which is scaled to length one; squared differences
    are averaged over positions. Zhang et al. (2018), equation 1, with all channel weights one.

    Args:
        model: its weights get no gradient from here where they are frozen; x and y do.
        x, y: images (B, C, H, W) each.
    """
    total = x.new_zeros(len(x))
    for a, b in zip(model.maps(x), model.maps(y), strict=True):
        a, b = (F.normalize(part, dim=1, eps=1e-6) for part in (a, b))
        total = total + (a - b).square().sum(1).mean((1, 2))
    return total
