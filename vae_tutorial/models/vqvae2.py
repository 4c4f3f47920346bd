"""A VQ-VAE on two levels: a coarse grid of symbols, and a fine one that is written knowing the coarse.

Razavi et al. (2019), VQ-VAE-2, in small. The top level is quantized first. The bottom level's encoder
and the decoder are both told what the top says. A prior over such codes is a product of two: the
top's grid, then the bottom's given the top's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vae_tutorial.data import Split
from vae_tutorial.evaluate import Estimate, per_example
from vae_tutorial.models.vqvae import (
    FiniteScalarQuantizer,
    ResidualBlock,
    VectorQuantizer,
    check_codes,
    perplexity,
)
from vae_tutorial.networks import HeConv2d, HeConvTranspose2d
from vae_tutorial.spec import Part

Quantizer = VectorQuantizer | FiniteScalarQuantizer
Terms = dict[str, Tensor]


class TwoLevelVQVAE(Part):
    """Images (B, C, H, W) to codes (B, H / 4, W / 4) and (B, H / 2, W / 2), and back.

    Razavi et al. (2019), section 3.1 and algorithm 1. As in :class:`~vae_tutorial.models.vqvae.VQVAE`,
    the networks see images in [-1, 1], and all else is in [0, 1].

    Args:
        image_shape: (C, H, W), the sides multiples of four.
        top, bottom: the quantizers of the coarse grid and of the fine one; the ``dim`` of each is
            the number of channels of its code.
        channels: of the fine maps and of the coarse ones.
        blocks: residual blocks of each of the four networks that have any.

    Example:
        >>> quantizers = VectorQuantizer(16, dim=8), FiniteScalarQuantizer((2, 2))
        >>> model = TwoLevelVQVAE((3, 32, 32), *quantizers, channels=(8, 16))
        >>> top, bottom = model.encode(torch.zeros(5, 3, 32, 32))
        >>> top.shape, bottom.shape, model.decode(top, bottom).shape
        (torch.Size([5, 8, 8]), torch.Size([5, 16, 16]), torch.Size([5, 3, 32, 32]))
    """

    def __init__(
        self, image_shape: Sequence[int], top: Quantizer, bottom: Quantizer,
        channels: Sequence[int] = (64, 128), blocks: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        c, h, w = image_shape
        if h % 4 or w % 4:
            raise ValueError(f"crop or pad images to sides that are multiples of 4, got {h}x{w}")
        self.image_shape = (c, h, w)
        self.top_grid, self.bottom_grid = (h // 4, w // 4), (h // 2, w // 2)
        fine, coarse = channels

        def residual(width: int) -> list[nn.Module]:
            return [*(ResidualBlock(width, width // 2) for _ in range(blocks)), nn.ReLU()]

        self.fine = nn.Sequential(HeConv2d(c, fine, 4, stride=2, padding=1), *residual(fine))
        self.coarse = nn.Sequential(
            HeConv2d(fine, coarse, 4, stride=2, padding=1),
            *residual(coarse),
            HeConv2d(coarse, top.dim, 1),
        )
        self.top, self.bottom = top, bottom
        self.down = nn.Sequential(  # what the top says, at every place of the bottom
            HeConv2d(top.dim, coarse, 3, padding=1),
            *residual(coarse),
            HeConvTranspose2d(coarse, fine, 4, stride=2, padding=1),
        )
        self.join = HeConv2d(2 * fine, bottom.dim, 1)
        self.decoder = nn.Sequential(
            HeConv2d(fine + bottom.dim, fine, 3, padding=1),
            *residual(fine),
            HeConvTranspose2d(fine, c, 4, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Terms]:
        """Images (B, C, H, W) to their redrawn selves in [-1, 1], both codes, and the quantizers' terms.

        The terms, each (B,), are sums over the two levels of those of each quantizer.
        """
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"expected images (B, {self.image_shape}), got {tuple(x.shape)}")
        fine = self.fine((2 * x - 1).contiguous(memory_format=torch.channels_last))
        entries, top, terms = self.top(self.coarse(fine))
        told = self.down(entries)
        details, bottom, more = self.bottom(self.join(torch.cat([fine, told], 1)))
        redrawn = self.decoder(torch.cat([details, told], 1))
        return redrawn, (top, bottom), {name: terms[name] + more[name] for name in terms}

    @torch.no_grad()  # whole numbers have no gradient
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) to the codes of the top and of the bottom, int64."""
        mode = self.training
        self.eval()  # looking things up must not move a codebook
        _, codes, _ = self(x)
        self.train(mode)
        return codes

    def decode(self, top: Tensor, bottom: Tensor) -> Tensor:
        """The codes of both levels to mean images (B, C, H, W), clamped to [0, 1]."""
        check_codes(top, self.top_grid, self.top.num_codes)
        check_codes(bottom, self.bottom_grid, self.bottom.num_codes)
        told = self.down(self.top.lookup(top))
        redrawn = self.decoder(torch.cat([self.bottom.lookup(bottom), told], 1))
        return ((redrawn + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Through both codes and back: mean images (B, C, H, W)."""
        return self.decode(*self.encode(x))


def two_level_loss(model: TwoLevelVQVAE, x: Tensor, *, commitment_weight: float = 0.25) -> Terms:
    """The objective of Razavi et al. (2019), equation 2: that of one level, with the terms of both.

    Args:
        model, x: the model, and images (B, C, H, W) in [0, 1].
        commitment_weight: beta, 0.25 as there.

    Returns:
        ``loss`` = ``reconstruction`` + ``codebook`` + commitment_weight * ``commitment``, each (B,). The
        reconstruction is the mean squared error over the numbers of an image in [-1, 1].
    """
    redrawn, _, terms = model(x)
    reconstruction = (redrawn - (2 * x - 1)).square().mean((1, 2, 3))
    loss = reconstruction + terms["codebook"] + commitment_weight * terms["commitment"]
    return {"loss": loss, "reconstruction": reconstruction, **terms}


def measure_two_levels(
    model: TwoLevelVQVAE, data: Split | Tensor, *, batch_size: int = 500
) -> dict[str, Estimate]:
    """As :func:`~vae_tutorial.models.vqvae.measure_vqvae`, with numbers for each level.

    ``reconstruction`` is the mean squared error over the numbers of an image in [0, 1];
    ``top_perplexity`` and ``bottom_perplexity`` are those of all codes of all images; ``codes_used``
    is the smaller share of K of the two.
    """

    def redrawn(model: TwoLevelVQVAE, x: Tensor) -> Terms:
        top, bottom = model.encode(x)
        squares = (model.decode(top, bottom) - x).square().mean((1, 2, 3))
        return {"top": top, "bottom": bottom, "squares": squares}

    terms = per_example(model, redrawn, data, batch_size=batch_size)
    squares, found, used = terms["squares"], {}, []
    for level in ("top", "bottom"):
        k, codes = getattr(model, level).num_codes, terms[level].long()
        found[f"{level}_perplexity"] = Estimate(perplexity(codes, k))
        used.append(len(codes.unique()) / k)
    error = squares.std(correction=0) / math.sqrt(len(squares))
    return {
        "reconstruction": Estimate(squares.mean(), error),
        **found,
        "codes_used": Estimate(min(used)),
    }
