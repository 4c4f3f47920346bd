"""The plain loop's network computed in another order: the same function of the same parameters.

A transposed convolution of stride 2 is four ordinary convolutions, one for each place within a
square of 2 x 2 outputs (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional
layer?"). Two behind each other are sixteen. So both layers can be computed on the small image of
7 x 7, with more channels and a kernel of 3 x 3, and only the finished logits are put in their places.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_tutorial import VAE


def taps(block: int = 1) -> Tensor:
    """Which row and column of a transposed convolution's kernel stands where in that on blocks.

    For a kernel of 5, stride 2, padding 2 and output padding 1. The input is seen as blocks of
    ``block`` x ``block`` pixels, the output as blocks of twice that side.

    Returns:
        (25, 2b, 2b, b, b, 3, 3) of zeros and ones: the kernel's 25 entries; row and column of an
        output within its block; those of an input within its block; which of the 3 x 3 blocks around.
    """
    # Row 2 b M + q of the output meets row b m + s of the input in row q + 2 - 2 s - 2 b d of the
    # kernel, where d = m - M. Most of those rows are outside it: there, nothing is added.
    q, s = torch.arange(2 * block).view(-1, 1, 1), torch.arange(block).view(1, -1, 1)
    row = q + 2 - 2 * s - 2 * block * torch.tensor([-1, 0, 1])  # (2b, b, 3)
    one = torch.stack([(row == i).float() for i in range(5)])  # (5, 2b, b, 3)
    return torch.einsum("iqsd,jptc->ijqpstdc", one, one).flatten(0, 1)


class BlockTranspose(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d(n_in, n_out, 5, stride=2, padding=2, output_padding=1)`` on blocks.

    The parameters are the transposed convolution's own, so that a state dictionary of one loads into
    the other, and both learn the same.

    Shape:
        (B, n_in block^2, H, W) to (B, n_out (2 block)^2, H, W), a pixel's place in its block being
        part of the channel's number, in the order of ``nn.PixelShuffle``. With ``block=1`` and
        ``nn.PixelShuffle(2)`` behind it, it is the transposed convolution.
    """

    def __init__(self, n_in: int, n_out: int, block: int = 1) -> None:
        super().__init__(n_in, n_out, 5, stride=2, padding=2, output_padding=1)
        self.block = block
        self.register_buffer("taps", taps(block).flatten(1), persistent=False)

    def kernel(self) -> Tensor:
        """That of the ordinary convolution, (4 n_out block^2, n_in block^2, 3, 3)."""
        n_in, n_out, b = *self.weight.shape[:2], self.block
        # A product with zeros and ones. Picking by an index gives the same, but its gradient is slow:
        # it adds slice after slice.
        with torch.autocast(self.weight.device.type, enabled=False):
            found = self.weight.flatten(2) @ self.taps
        found = found.view(n_in, n_out, 4 * b**2, b**2, 9).permute(1, 2, 0, 3, 4)
        return found.reshape(4 * n_out * b**2, n_in * b**2, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.repeat_interleave(4 * self.block**2)
        return F.conv2d(x, self.kernel(), bias, padding=1)


class ChannelsLast(nn.Module):
    """The same numbers with the channels of a place side by side in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


def rearranged(vae: VAE) -> VAE:
    """A copy of the plain loop's network, computed on blocks and with channels last.

    The parameters keep their names and shapes.
    """
    vae = copy.deepcopy(vae).to(memory_format=torch.channels_last)
    layers, block = vae.decoder.network.layers, 1
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Unflatten):
            layers[i] = nn.Sequential(layer, ChannelsLast())
        if isinstance(layer, nn.ConvTranspose2d):
            layers[i] = BlockTranspose(layer.in_channels, layer.out_channels, block).to(
                layer.weight
            )
            layers[i].load_state_dict(layer.state_dict())
            block *= 2
    layers.append(nn.PixelShuffle(block))
    return vae
