"""Bodies of encoders and decoders: plain layers from one shape to another.

A network here knows nothing of probability. It maps a batch of ``in_shape`` to a batch of
``out_shape``; what the numbers that come out *mean* is said by the posterior or the likelihood
that is put behind it (its ``param_shape`` is the ``out_shape`` to ask for).
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
    if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(
            f"{name} needs positive whole numbers, one per axis (without the batch), got {shape}; "
            "write for example (1, 28, 28) for MNIST's images or 2 for two latent dimensions."
        )
    return shape


def check_latent_dim(latent_dim: int) -> int:
    """A latent dimension is a positive whole number; anything else is named in a ValueError."""
    if isinstance(latent_dim, bool) or not isinstance(latent_dim, int) or latent_dim < 1:
        raise ValueError(
            f"latent_dim must be a whole number of at least 1, got {latent_dim!r}; "
            "2 is good for pictures of the latent space, 20 for good samples of MNIST."
        )
    return latent_dim


def _check_input(x: Tensor, in_shape: Shape, network: nn.Module) -> None:
    if tuple(x.shape[1:]) != in_shape:
        raise ValueError(
            f"{type(network).__name__} expects batches of shape (B, {', '.join(map(str, in_shape))}),"
            f" got {tuple(x.shape)}; build it with in_shape={tuple(x.shape[1:])}, or reshape the input."
        )


class MLP(Part):
    """A multi-layer perceptron: flatten, linear layers with an activation between, reshape.

    Args:
        in_shape: shape of one input without the batch, ``(1, 28, 28)`` or ``2``.
        out_shape: shape of one output.
        hidden: widths of the hidden layers, from input to output; ``()`` gives one linear map.
        activation: the non-linearity between layers.

    Shape:
        ``(B, *in_shape) -> (B, *out_shape)``

    Raises:
        ValueError: for a shape without positive whole numbers, or an input of another shape.

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
    ) -> None:
        super().__init__()
        self.in_shape = as_shape(in_shape, "in_shape")
        self.out_shape = as_shape(out_shape, "out_shape")
        widths = [prod(self.in_shape), *hidden, prod(self.out_shape)]
        as_shape(widths, "hidden")
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), activation()]
        self.layers = nn.Sequential(*layers[:-1])  # no activation behind the last layer

    def forward(self, x: Tensor) -> Tensor:
        _check_input(x, self.in_shape, self)
        return self.layers(x.flatten(1)).unflatten(1, self.out_shape)


def _draw_he(layer: nn.Module, inputs: int) -> None:
    """He et al. (2015), equation 10: variance 2 / (inputs of a unit), biases zero.

    torch's own start has a sixth of that variance, and the signal shrinks with every layer. In a
    deep encoder the posterior means then hardly differ between images, while their noise does, and
    a decoder that hears mostly noise learns to ignore its latents before they carry anything.
    """
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / inputs))
    nn.init.zeros_(layer.bias)


class HeLinear(nn.Linear):
    """A linear layer that starts as in He et al. (2015).

    Example:
        >>> HeLinear(3, 2).bias.tolist()
        [0.0, 0.0]
    """

    def reset_parameters(self) -> None:
        """Draw the weights; torch's constructor calls this."""
        _draw_he(self, self.in_features)


class HeConv2d(nn.Conv2d):
    """A convolution that starts as in He et al. (2015).

    Example:
        >>> HeConv2d(1, 8, kernel_size=4, stride=2)(torch.zeros(1, 1, 28, 28)).shape
        torch.Size([1, 8, 13, 13])
    """

    def reset_parameters(self) -> None:
        """Draw the weights; torch's constructor calls this."""
        _draw_he(self, self.in_channels * prod(self.kernel_size))


class HeConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that starts as in He et al. (2015).

    With stride s only one in s^2 of the kernel's entries meets a given output pixel.

    Example:
        >>> HeConvTranspose2d(8, 1, kernel_size=4, stride=2)(torch.zeros(1, 8, 13, 13)).shape
        torch.Size([1, 1, 28, 28])
    """

    def reset_parameters(self) -> None:
        """Draw the weights; torch's constructor calls this."""
        _draw_he(self, max(1, self.in_channels * prod(self.kernel_size) // prod(self.stride)))


class ConvEncoder(Part):
    """Convolutions of stride 2, each halving the image, then one hidden layer.

    Args:
        in_shape: (C, H, W) of one image; at least 2^n pixels a side for n convolutions.
        out_shape: shape of the output, usually ``posterior.param_shape``.
        channels: output channels of each convolution (kernel 4, stride 2, padding 1).
        hidden: width of a fully connected layer behind the convolutions.
        activation: the non-linearity between layers.

    Shape:
        ``(B, C, H, W) -> (B, *out_shape)``

    Raises:
        ValueError: for a shape that cannot be halved that often, or an input of another shape.

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
    ) -> None:
        super().__init__()
        self.in_shape = _as_image_shape(in_shape, channels)
        self.out_shape = as_shape(out_shape, "out_shape")
        c, h, w = self.in_shape
        layers: list[nn.Module] = []
        for n_out in channels:
            layers += [HeConv2d(c, n_out, kernel_size=4, stride=2, padding=1), activation()]
            c, h, w = n_out, h // 2, w // 2
        layers += [nn.Flatten(), HeLinear(c * h * w, hidden), activation()]
        self.layers = nn.Sequential(*layers, HeLinear(hidden, prod(self.out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        _check_input(x, self.in_shape, self)
        return self.layers(x).unflatten(1, self.out_shape)


class ConvDecoder(Part):
    """The path back: linear layers to a small image, then transposed convolutions of stride 2.

    The small image is as large as :class:`ConvEncoder` with the same ``channels`` (reversed)
    would leave it; ``output_padding`` gives back the odd pixel that halving dropped.

    Args:
        in_shape: the latent's shape, usually ``latent_dim``.
        out_shape: (C, H, W) of the output, usually ``likelihood.param_shape``.
        channels: input channels of each transposed convolution.
        hidden: width of the fully connected layer in front.
        activation: the non-linearity between layers.

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
    ) -> None:
        super().__init__()
        self.in_shape = as_shape(in_shape, "in_shape")
        self.out_shape = _as_image_shape(out_shape, channels)
        c_out, h, w = self.out_shape
        sizes = [(h, w)]
        for _ in channels:
            sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
        h, w = sizes[0]
        layers: list[nn.Module] = [
            nn.Flatten(),
            HeLinear(prod(self.in_shape), hidden),
            activation(),
            HeLinear(hidden, channels[0] * h * w),
            activation(),
            nn.Unflatten(1, (channels[0], h, w)),
        ]
        for i, n_in in enumerate(channels):
            n_out = channels[i + 1] if i + 1 < len(channels) else c_out
            odd = (sizes[i + 1][0] % 2, sizes[i + 1][1] % 2)
            layers += [
                HeConvTranspose2d(n_in, n_out, 4, stride=2, padding=1, output_padding=odd),
                activation(),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        _check_input(z, self.in_shape, self)
        return self.layers(z)


def _as_image_shape(shape: Sequence[int], channels: Sequence[int]) -> tuple[int, int, int]:
    shape = as_shape(shape, "image shape")
    if len(shape) != 3 or min(shape[1:]) < 2 ** len(channels):
        raise ValueError(
            f"expected an image shape (C, H, W) of at least {2 ** len(channels)} pixels a side "
            f"({len(channels)} layers of stride 2), got {shape}; use fewer channels=... or larger images."
        )
    if not channels:
        raise ValueError(
            "channels is empty: name at least one convolution, e.g. channels=(32, 64)."
        )
    as_shape(channels, "channels")
    return shape  # type: ignore[return-value]


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are held at zero by a mask.

    The mask is a buffer and is applied in every forward pass, so no optimizer step can fill in a
    weight that must be zero: Germain et al. (2015), equation 8.

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
        layers: list[nn.Module] = []
        for before, after in pairwise(degrees):
            layers += [MaskedLinear(after[:, None] >= before), nn.ReLU()]
        last = degrees[0].repeat(outputs)  # all first outputs, then all second ones
        self.layers = nn.Sequential(*layers, MaskedLinear(last[:, None] > degrees[-1]))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(-1, (self.outputs, self.latent_dim))


def count_parameters(module: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters (or buffers) lie; the CPU for a module with none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
