"""Bodies of encoders and decoders: plain layers from one shape to another.

A network here knows nothing of probability. What the numbers that come out *mean* is said by the
posterior or the likelihood behind it (its ``param_shape`` is the ``out_shape`` to ask for). A shape
without positive whole numbers is a ValueError, as is an input of another shape than ``in_shape``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_tutorial.spec import Part

Shape = tuple[int, ...]


def as_shape(shape: int | Sequence[int], name: str) -> Shape:
    """A shape without the batch as a tuple of positive whole numbers, or a ValueError."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not shape or any(type(n) is not int or n < 1 for n in shape):
        raise ValueError(
            f"{name} needs positive whole numbers, at least one, got {shape}; for example "
            "(1, 28, 28) for the shape of MNIST's images, 2 for two latent dimensions"
        )
    return shape


def as_image_shape(shape: Sequence[int], name: str, halvings: int = 0) -> Shape:
    """A shape (C, H, W) whose sides can be halved that often, or a ValueError."""
    shape = as_shape(shape, name)
    if len(shape) != 3 or min(shape[1:]) < 2**halvings:
        raise ValueError(
            f"{name} must be (C, H, W), got {shape}; {halvings} layers of stride 2 need at least "
            f"{2**halvings} pixels per side"
        )
    return shape


def check_latent_dim(latent_dim: int) -> int:
    """A latent dimension is a positive whole number; anything else is a ValueError."""
    return as_shape((latent_dim,), "latent_dim")[0]


class _Body(Part):
    """``self.layers``, from batches of ``in_shape`` to batches of ``out_shape``."""

    def __init__(self, in_shape: int | Sequence[int], out_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.in_shape = as_shape(in_shape, "in_shape")
        self.out_shape = as_shape(out_shape, "out_shape")

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.in_shape:
            raise ValueError(
                f"{type(self).__name__} expects batches (B, {', '.join(map(str, self.in_shape))}), "
                f"got {tuple(x.shape)}; build it with in_shape={tuple(x.shape[1:])}, or reshape"
            )
        x = x.flatten(1) if isinstance(self.layers[0], nn.Linear) else x
        return self.layers(x).reshape(len(x), *self.out_shape)


class MLP(_Body):
    """A multi-layer perceptron: flatten, linear layers with an activation between, reshape.

    Args:
        in_shape: shape of one input without the batch, ``(1, 28, 28)`` or ``2``.
        out_shape: shape of one output.
        hidden: widths of the hidden layers, from input to output; ``()`` gives one linear map.
        activation: the non-linearity between layers.
        linear: the linear layer, which says how its first weights are drawn (:class:`HeLinear`).

    Shape:
        ``(B, *in_shape) -> (B, *out_shape)``

    Example:
        >>> MLP((1, 28, 28), 4, hidden=(64,))(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 4])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        hidden: Sequence[int] = (512, 256),
        activation: type[nn.Module] = nn.ReLU,
        linear: type[nn.Linear] = nn.Linear,
    ) -> None:
        super().__init__(in_shape, out_shape)
        widths = as_shape([prod(self.in_shape), *hidden, prod(self.out_shape)], "hidden")
        layers = [part for pair in pairwise(widths) for part in (linear(*pair), activation())]
        self.layers = nn.Sequential(*layers[:-1])  # no activation behind the last layer


class Rates(Part):
    """Counts to what a network can read: log(1 + counts per unit of exposure).

    Args:
        network: reads the C logarithms.

    Shape:
        C counts and their exposure, ``(B, C + 1)``, to ``(B, *network.out_shape)``.

    Example:
        >>> Rates(MLP(4, 2, hidden=()))(torch.ones(16, 5)).shape
        torch.Size([16, 2])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.in_shape, self.out_shape = (network.in_shape[0] + 1,), network.out_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.network(torch.log1p(x[:, :-1] / x[:, -1:]))


def _draw_he(layer: nn.Module) -> None:
    """He et al. (2015), equation 10: variance 2 / (inputs of a unit), biases zero.

    torch's own start has a sixth of that variance, and the signal shrinks with every layer. In a
    deep encoder the posterior means then hardly differ between images, while their noise does, and
    a decoder that hears mostly noise learns to ignore its latents before they carry anything.
    """
    inputs = layer.weight.shape[1:].numel()
    if isinstance(layer, nn.ConvTranspose2d):  # one in stride^2 of its entries meets a given pixel
        inputs = layer.weight[:, 0].numel() // prod(layer.stride) or 1
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / inputs))
    nn.init.zeros_(layer.bias)


class HeLinear(nn.Linear):
    """A linear layer that starts as in He et al. (2015).

    Example:
        >>> HeLinear(3, 2).bias.tolist()
        [0.0, 0.0]
    """

    reset_parameters = _draw_he  # torch's constructor calls it


class HeConv2d(nn.Conv2d):
    """A convolution that starts as in He et al. (2015).

    Example:
        >>> HeConv2d(1, 8, kernel_size=4, stride=2)(torch.zeros(1, 1, 28, 28)).shape
        torch.Size([1, 8, 13, 13])
    """

    reset_parameters = _draw_he


class HeConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that starts as in He et al. (2015).

    Example:
        >>> HeConvTranspose2d(8, 1, kernel_size=4, stride=2)(torch.zeros(1, 8, 13, 13)).shape
        torch.Size([1, 1, 28, 28])
    """

    reset_parameters = _draw_he


_LAYERS = {  # whether they start as in He et al. (2015)
    True: (HeConv2d, HeConvTranspose2d, HeLinear),
    False: (nn.Conv2d, nn.ConvTranspose2d, nn.Linear),
}


class PooledConv(_Body):
    """Convolutions with the largest of 2 x 2 behind them, then one linear layer: it classifies.

    The first convolution (kernel 5) has stride 2. Each further one (kernel 3) is followed by
    max-pooling, which keeps what was found and forgets where exactly.

    Args:
        in_shape: (C, H, W) of one image; at least 2^n pixels per side for n convolutions.
        out_shape: shape of the output, usually the number of classes.
        channels: output channels of each convolution.
        activation: the non-linearity behind each convolution.

    Shape:
        ``(B, C, H, W) -> (B, *out_shape)``

    Example:
        >>> PooledConv((1, 28, 28), 10)(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 10])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: int | Sequence[int],
        channels: Sequence[int] = (16, 32, 32),
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__(in_shape, out_shape)
        n = len(as_shape(channels, "channels"))
        c, h, w = as_image_shape(in_shape, "in_shape", n)
        layers = [nn.Conv2d(c, channels[0], 5, stride=2, padding=2), activation()]
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation(), nn.MaxPool2d(2)]
        # The first convolution halves a side upwards, pooling downwards.
        h, w = (((side + 1) // 2) >> (n - 1) for side in (h, w))
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels[-1] * h * w, prod(self.out_shape))
        )


class ConvEncoder(_Body):
    """Convolutions of stride 2, each halving the image, then one hidden layer.

    Args:
        in_shape: (C, H, W) of one image; at least 2^n pixels per side for n convolutions.
        out_shape: shape of the output, usually ``posterior.param_shape``.
        channels: output channels of each convolution (kernel 4, stride 2, padding 1).
        hidden: width of a fully connected layer behind the convolutions.
        activation: the non-linearity between layers.
        he_start: draw the first weights as He et al. (2015), not as torch does.

    Shape:
        ``(B, C, H, W) -> (B, *out_shape)``

    Example:
        >>> ConvEncoder((3, 32, 32), 40)(torch.zeros(16, 3, 32, 32)).shape
        torch.Size([16, 40])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: int | Sequence[int],
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        activation: type[nn.Module] = nn.ReLU,
        he_start: bool = True,
    ) -> None:
        super().__init__(in_shape, out_shape)
        convolution, _, linear = _LAYERS[he_start]
        c, h, w = as_image_shape(in_shape, "in_shape", len(as_shape(channels, "channels")))
        layers: list[nn.Module] = []
        for before, after in pairwise([c, *channels]):
            layers += [convolution(before, after, kernel_size=4, stride=2, padding=1), activation()]
            h, w = h // 2, w // 2
        layers += [nn.Flatten(), linear(channels[-1] * h * w, hidden), activation()]
        self.layers = nn.Sequential(*layers, linear(hidden, prod(self.out_shape)))


class ConvDecoder(_Body):
    """The path back: linear layers to a small image, then transposed convolutions of stride 2.

    The small image is as large as :class:`ConvEncoder` with the same ``channels`` (reversed)
    would leave it; ``output_padding`` gives back the odd pixel that halving dropped.

    Args:
        in_shape: the latent's shape, usually ``latent_dim``.
        out_shape: (C, H, W) of the output, usually ``likelihood.param_shape``.
        channels: input channels of each transposed convolution.
        hidden: width of the fully connected layer in front.
        activation: the non-linearity between layers.
        he_start: draw the first weights as He et al. (2015), not as torch does.

    Shape:
        ``(B, *in_shape) -> (B, C, H, W)``

    Example:
        >>> ConvDecoder(20, (3, 32, 32))(torch.zeros(16, 20)).shape
        torch.Size([16, 3, 32, 32])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        hidden: int = 256,
        activation: type[nn.Module] = nn.ReLU,
        he_start: bool = True,
    ) -> None:
        super().__init__(in_shape, out_shape)
        _, transposed, linear = _LAYERS[he_start]
        n = len(as_shape(channels, "channels"))
        c, h, w = as_image_shape(out_shape, "out_shape", n)
        small = (channels[0], h >> n, w >> n)  # halved n times
        layers = [nn.Flatten(), linear(prod(self.in_shape), hidden), activation()]
        layers += [linear(hidden, prod(small)), activation(), nn.Unflatten(1, small)]
        for i, (before, after) in enumerate(pairwise([*channels, c]), start=1):
            odd = ((h >> n - i) % 2, (w >> n - i) % 2)
            layers += [
                transposed(before, after, 4, stride=2, padding=1, output_padding=odd),
                activation(),
            ]
        self.layers = nn.Sequential(*layers[:-1])


class ResidualBlock(nn.Module):
    """Two convolutions that correct their input, x + f(x): He et al. (2016), section 3.

    Activations come first, as in their second paper. The last convolution starts at zero (Zhang et
    al. 2019, section 3), so that at the start a block hands its input on as it is, and a network
    of many blocks keeps the size of its signal without any normalization.

    Args:
        channels: of the images that come in and go out.
        activation: the non-linearity in front of each convolution (kernel 3, padding 1).

    Shape:
        ``(B, channels, H, W) -> (B, channels, H, W)``

    Example:
        >>> x = torch.rand(2, 8, 7, 7)
        >>> bool((ResidualBlock(8)(x) == x).all())  # before any training
        True
    """

    def __init__(self, channels: int, activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            activation(), HeConv2d(channels, channels, 3, padding=1),
            activation(), HeConv2d(channels, channels, 3, padding=1),
        )  # fmt: skip
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class _ChannelsLast(nn.Module):
    """The same numbers in the order in which convolutions are fastest."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


class _InFloat32(nn.Module):
    """A layer that computes in float32 also where autocast would take bfloat16."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())


class ResidualEncoder(_Body):
    """:class:`ConvEncoder` with residual blocks behind each convolution of stride 2.

    The last layer computes in float32, also under autocast to bfloat16.

    Args:
        in_shape: (C, H, W) of one image; at least 2^n pixels per side for n sizes.
        out_shape: shape of the output, usually ``posterior.param_shape``.
        channels: of each size: half of the image's, a quarter, ...
        blocks: how many residual blocks each size has.
        narrow: to so many channels a convolution of kernel 1 brings the smallest image, in front of
            the linear layer (which would otherwise have most of the weights).
        activation: the non-linearity.

    Shape:
        ``(B, C, H, W) -> (B, *out_shape)``

    Example:
        >>> ResidualEncoder((3, 32, 32), 40, (8, 16))(torch.zeros(16, 3, 32, 32)).shape
        torch.Size([16, 40])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: int | Sequence[int],
        channels: Sequence[int] = (64, 128),
        blocks: int = 1,
        narrow: int = 32,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__(in_shape, out_shape)
        c, h, w = as_image_shape(in_shape, "in_shape", len(as_shape(channels, "channels")))
        layers: list[nn.Module] = [_ChannelsLast()]
        for before, after in pairwise([c, *channels]):
            layers += [HeConv2d(before, after, kernel_size=4, stride=2, padding=1)]
            layers += [ResidualBlock(after, activation) for _ in range(blocks)]
            h, w = h // 2, w // 2
        layers += [activation(), HeConv2d(channels[-1], narrow, 1), activation(), nn.Flatten()]
        last = _InFloat32(HeLinear(narrow * h * w, prod(self.out_shape)))
        self.layers = nn.Sequential(*layers, last)


class ResidualDecoder(_Body):
    """The path back: :class:`ConvDecoder` with residual blocks before each transposed convolution.

    The last layer computes in float32, also under autocast to bfloat16.

    Args:
        in_shape: the latent's shape, usually ``latent_dim``.
        out_shape: (C, H, W) of the output, usually ``likelihood.param_shape``.
        channels: of each size, the smallest first: those of the encoder, reversed.
        blocks, narrow, activation: as for :class:`ResidualEncoder`.

    Shape:
        ``(B, *in_shape) -> (B, C, H, W)``

    Example:
        >>> ResidualDecoder(20, (3, 32, 32), (16, 8))(torch.zeros(16, 20)).shape
        torch.Size([16, 3, 32, 32])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: Sequence[int],
        channels: Sequence[int] = (128, 64),
        blocks: int = 1,
        narrow: int = 32,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__(in_shape, out_shape)
        n = len(as_shape(channels, "channels"))
        c, h, w = as_image_shape(out_shape, "out_shape", n)
        small = (narrow, h >> n, w >> n)  # halved n times
        layers = [nn.Flatten(), HeLinear(prod(self.in_shape), prod(small)), activation()]
        layers += [nn.Unflatten(1, small), _ChannelsLast(), HeConv2d(narrow, channels[0], 1)]
        for i, (before, after) in enumerate(pairwise([*channels, c]), start=1):
            odd = ((h >> n - i) % 2, (w >> n - i) % 2)
            layers += [ResidualBlock(before, activation) for _ in range(blocks)]
            layers += [
                activation(),
                HeConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=odd),
            ]
        self.layers = nn.Sequential(*layers[:-1], _InFloat32(layers[-1]))


def _per_position(shape: Shape, h: int, w: int, name: str) -> int:
    """How many of the numbers of a shape each position of an h x w grid gets, or a ValueError."""
    channels, rest = divmod(prod(shape), h * w)
    if rest:
        raise ValueError(
            f"{name} holds {prod(shape)} numbers, which do not divide over the grid of {h} x {w} "
            f"positions that halving leaves; take a multiple of {h * w}"
        )
    return channels


class GridEncoder(_Body):
    """A fully convolutional encoder: its output is a small image, flattened, channel by channel.

    :class:`ResidualEncoder` ends in a linear layer, in which every output sees the whole image. Here
    a last convolution of kernel 3 gives each position of the halved image a few numbers of its own,
    as the encoders inside latent diffusion models do: Rombach et al. (2022), section 3.1. So with a
    mean-field Gaussian behind it of ``latent_dim = k h w``, the latent is a grid (k, h, w).

    Args:
        in_shape: (C, H, W) of one image; n sizes leave a grid of (H / 2^n, W / 2^n), rounded down.
        out_shape: shape of the output; its numbers must divide over the positions of the grid.
        channels: of each size: half of the image's, a quarter, ...
        blocks: how many residual blocks each size has.
        activation: the non-linearity.

    Shape:
        ``(B, C, H, W) -> (B, *out_shape)``

    Example:
        >>> GridEncoder((1, 28, 28), 2 * 4 * 7 * 7)(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 392])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: int | Sequence[int],
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__(in_shape, out_shape)
        n = len(as_shape(channels, "channels"))
        c, h, w = as_image_shape(in_shape, "in_shape", n)
        each = _per_position(self.out_shape, h >> n, w >> n, "out_shape")
        layers: list[nn.Module] = [_ChannelsLast()]
        for before, after in pairwise([c, *channels]):
            layers += [HeConv2d(before, after, kernel_size=4, stride=2, padding=1)]
            layers += [ResidualBlock(after, activation) for _ in range(blocks)]
        last = _InFloat32(HeConv2d(channels[-1], each, 3, padding=1))
        self.layers = nn.Sequential(*layers, activation(), last)


class GridDecoder(_Body):
    """The path back: :class:`GridEncoder` upside down, from a flattened small image to a large one.

    Args:
        in_shape: the latent's shape, usually ``latent_dim``; its numbers must divide over the grid.
        out_shape: (C, H, W) of the output, usually ``likelihood.param_shape``.
        channels: of each size, the smallest first, that of the output last: one more than halvings.
        blocks: how many residual blocks each size has but the last.
        activation: the non-linearity.

    Shape:
        ``(B, *in_shape) -> (B, C, H, W)``

    Example:
        >>> GridDecoder(4 * 7 * 7, (1, 28, 28))(torch.zeros(16, 196)).shape
        torch.Size([16, 1, 28, 28])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: Sequence[int],
        channels: Sequence[int] = (64, 32, 16),
        blocks: int = 1,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__(in_shape, out_shape)
        n = len(as_shape(channels, "channels")) - 1
        c, h, w = as_image_shape(out_shape, "out_shape", n)
        each = _per_position(self.in_shape, h >> n, w >> n, "in_shape")
        layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, (each, h >> n, w >> n))]
        layers += [_ChannelsLast(), HeConv2d(each, channels[0], 3, padding=1)]
        for i, (before, after) in enumerate(pairwise(channels), start=1):
            odd = ((h >> n - i) % 2, (w >> n - i) % 2)
            layers += [ResidualBlock(before, activation) for _ in range(blocks)]
            layers += [
                activation(),
                HeConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=odd),
            ]
        last = _InFloat32(HeConv2d(channels[-1], c, 3, padding=1))
        self.layers = nn.Sequential(*layers, activation(), last)


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are held at zero by a mask.

    The mask is applied in every forward pass, so no optimizer step can fill in a weight that must
    be zero: Germain et al. (2015), section 4.

    Args:
        mask: (out_features, in_features), of zeros and ones.

    Example:
        >>> layer = MaskedLinear(torch.tensor([[1, 0]]))  # its output never sees the second input
        >>> bool(layer(torch.tensor([0.0, 9.0])) == layer.bias)
        True
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(Part):
    """A masked autoencoder: output i of an input z depends on z_1, ..., z_(i-1) alone.

    Each unit gets a degree. Input i has degree i; a hidden unit with degree m may look at units
    of degree at most m, and output i at hidden units of degree below i: Germain et al. (2015),
    equations 12 and 13. Degrees of hidden units go round 1, ..., D - 1, so that no draw decides
    what can be learnt.

    Args:
        latent_dim: D.
        outputs: how many numbers each dimension gets.
        hidden: widths of the hidden layers.

    Shape:
        ``(..., D) -> (..., outputs, D)``

    Example:
        >>> made = MADE(3, outputs=1, hidden=(16,))
        >>> jacobian = torch.autograd.functional.jacobian(made, torch.ones(3))  # (1, 3, 3)
        >>> bool(jacobian.triu().any())  # does any output see its own input, or a later one?
        False
    """

    def __init__(
        self, latent_dim: int, outputs: int = 2, hidden: Sequence[int] = (512, 512)
    ) -> None:
        super().__init__()
        self.latent_dim, self.outputs = check_latent_dim(latent_dim), outputs
        degrees = [torch.arange(1, latent_dim + 1)]
        degrees += [torch.arange(width) % max(1, latent_dim - 1) + 1 for width in hidden]
        masks = [after[:, None] >= before for before, after in pairwise(degrees)]
        layers = [part for mask in masks for part in (MaskedLinear(mask), nn.ReLU())]
        last = degrees[0].repeat(outputs)  # all first outputs, then all second ones
        self.layers = nn.Sequential(*layers, MaskedLinear(last[:, None] > degrees[-1]))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(-1, (self.outputs, self.latent_dim))


class TimeMLP(Part):
    """A body for points that move: it reads a point, a time, and perhaps a class.

    Residual blocks, each a perceptron with one hidden layer. The time enters as cosines and sines
    of pi k t, k = 1, ..., ``frequencies``; a class as a vector that is learnt. Both are added to every
    block's hidden layer. The last layer starts at zero.

    Args:
        latent_dim: D.
        width: of the blocks.
        blocks: how many.
        frequencies: of the time's features.
        classes: how many classes there are, or ``None``. The number ``classes`` itself stands for
            "not told which".
        activation: the non-linearity.

    Shape:
        z (..., D), t (...) or without axes, labels (...) int64 ``-> (..., D)``

    Example:
        >>> body = TimeMLP(2, width=16, classes=10)
        >>> body(torch.zeros(5, 2), torch.rand(5), torch.arange(5)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        latent_dim: int,
        width: int = 256,
        blocks: int = 2,
        frequencies: int = 8,
        classes: int | None = None,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.latent_dim, self.classes = check_latent_dim(latent_dim), classes
        as_shape((width, blocks, frequencies), "width, blocks, frequencies")
        self.first = nn.Linear(latent_dim, width)
        self.time = nn.Linear(2 * frequencies, width)
        self.label = None if classes is None else nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"read": nn.Linear(width, width), "write": nn.Linear(width, width)})
            for _ in range(blocks)
        )
        self.activation = activation()
        self.last = nn.Linear(width, latent_dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        rates = math.pi * torch.arange(1.0, frequencies + 1)
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        angles = torch.as_tensor(t, dtype=z.dtype, device=z.device)[..., None] * self.rates
        told = self.time(torch.cat([angles.cos(), angles.sin()], -1))  # (..., width)
        if self.label is not None:
            unknown = torch.tensor(self.classes, device=z.device)
            told = told + self.label(unknown if labels is None else labels)
        elif labels is not None:
            raise ValueError("labels came, but the network was built with classes=None")
        h = self.first(z)
        for block in self.blocks:
            h = h + block["write"](self.activation(block["read"](self.activation(h)) + told))
        return self.last(self.activation(h))


def count_parameters(module: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def free_to_read(value: Tensor) -> bool:
    """Whether a look at a tensor's numbers costs nothing.

    On another device than the CPU it waits for all that was asked for before. In the middle of what
    ``torch.compile`` compiles, it splits the program in two.
    """
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters (or buffers) lie; the CPU for a module with none."""
    tensors = (*module.parameters(), *module.buffers())
    return tensors[0].device if tensors else torch.device("cpu")
