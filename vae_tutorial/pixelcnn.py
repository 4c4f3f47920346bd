"""A Gated PixelCNN: a prior over grids of symbols, one place after the other.

van den Oord et al. (2016). p(codes) is a product over the places in reading order, each symbol given
those before it. Two stacks of convolutions see what lies before a place: the vertical one all rows
above, the horizontal one the row's own places to the left. Together they leave no blind spot.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_tutorial.data import to_float
from vae_tutorial.networks import device_of
from vae_tutorial.progress import progress_bar
from vae_tutorial.randomness import seeded
from vae_tutorial.sources import ImageData, Split
from vae_tutorial.vqvae import VQVAE

Terms = dict[str, Tensor]


class GatedLayer(nn.Module):
    """One layer of both stacks: van den Oord et al. (2016), figure 2.

    Nothing here is masked by multiplication: kernels are cut to the half that may be looked at,
    and padding shifts them there. The vertical stack at row i sees rows up to and including i of
    its own input; on its way to the horizontal stack it is shifted down by one row, so that only
    rows above arrive.

    Args:
        channels: of each stack.
        kernel: side of the (whole) kernel, odd.
        first: type A, the horizontal stack does not see its own place, and there is nothing to add
            the result to. Later layers (type B) see their own place's features, which hold
            nothing of the place's own symbol, and are residual.
    """

    def __init__(self, channels: int, kernel: int = 3, *, first: bool = False) -> None:
        super().__init__()
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 3, got {kernel}")
        self.first, self.reach = first, kernel // 2
        self.vertical = nn.Conv2d(channels, 2 * channels, (self.reach + 1, kernel))
        self.to_horizontal = nn.Conv2d(2 * channels, 2 * channels, 1)
        width = self.reach if first else self.reach + 1
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, width))
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Two stacks (B, C, H, W) to the next two."""
        r = self.reach
        rows = self.vertical(F.pad(v, (r, r, r, 0)))  # row i from rows i - r to i
        above = F.pad(rows, (0, 0, 1, 0))[..., :-1, :]  # row i gets what was made at row i - 1
        left = F.pad(h, (r, 0, 0, 0))
        if self.first:
            left = left[..., :-1]  # column j from columns j - r to j - 1
        columns = self.horizontal(left) + self.to_horizontal(above)
        new = self.out(_gate(columns))
        return _gate(rows), new if self.first else h + new


def _gate(x: Tensor) -> Tensor:
    """tanh of one half of the channels times sigmoid of the other: equation 2."""
    value, gate = x.chunk(2, dim=1)
    return torch.tanh(value) * torch.sigmoid(gate)


class GatedPixelCNN(nn.Module):
    """A distribution over grids of whole numbers from 0 to K - 1.

    Args:
        num_codes: K.
        grid: (H, W) of a grid.
        channels: of each stack, and of the embedding that symbols enter through.
        layers: gated layers, the first of type A.
        hidden: channels of the 1x1 convolution before the logits.
        kernel: side of the convolutions.

    Shape:
        codes ``(B, H, W)``, int64, to logits ``(B, K, H, W)``.
    """

    def __init__(
        self, num_codes: int, grid: tuple[int, int], *, channels: int = 64, layers: int = 11,
        hidden: int = 512, kernel: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_codes < 2 or layers < 1 or min(grid) < 1:
            raise ValueError(
                f"needs num_codes >= 2, layers >= 1 and a grid, got {num_codes}, {layers}, {grid}"
            )
        self.num_codes, self.grid = num_codes, tuple(grid)
        self.embedding = nn.Embedding(num_codes, channels)
        self.layers = nn.ModuleList(
            GatedLayer(channels, kernel, first=i == 0) for i in range(layers)
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, num_codes, 1)
        )

    def features(self, embedded: Tensor) -> Tensor:
        """Embedded grids (B, C, H, W) to logits: what can be differentiated by its input."""
        v = h = embedded
        for layer in self.layers:
            v, h = layer(v, h)
        return self.head(h)

    def forward(self, codes: Tensor) -> Tensor:
        _check_codes(codes, self)
        return self.features(self.embedding(codes).movedim(-1, 1))

    def log_prob(self, codes: Tensor) -> Tensor:
        """log p of grids (B, H, W): the sum over their places, (B,), in nats."""
        return -F.cross_entropy(self(codes).float(), codes, reduction="none").sum((1, 2))

    @torch.no_grad()
    def sample(
        self, n: int, *, above: Tensor | None = None, seed: int | None = None,
        temperature: float = 1.0, progress: bool = False,
    ) -> Tensor:  # fmt: skip
        """Draw grids, one place after the other: one pass through the network for each.

        Args:
            n: how many.
            above: the first rows of each grid, (n, rows, W): they are kept, and the rest is drawn
                given them.
            seed: makes the draw repeatable.
            temperature: logits are divided by it. Below 1 likely symbols get likelier; what is
                drawn is then no longer the model's distribution.
            progress: show a bar.

        Returns:
            (n, H, W), int64.
        """
        if n < 1 or not temperature > 0:
            raise ValueError(f"needs n >= 1 and temperature > 0, got {n} and {temperature}")
        height, width = self.grid
        codes = torch.zeros(n, height, width, dtype=torch.int64, device=device_of(self))
        first = 0
        if above is not None:
            first = above.shape[1] if above.ndim == 3 else -1
            if above.shape != (n, first, width) or not 0 <= first < height:
                raise ValueError(
                    f"above must be ({n}, rows, {width}) with fewer than {height} rows, got "
                    f"{tuple(above.shape)}"
                )
            codes[:, :first] = above.to(codes.device)
        with seeded(seed), progress_bar((height - first) * width, progress) as bar:
            for y in range(first, height):
                for x in range(width):
                    # Rows below do not matter to this place, so they need not be computed.
                    embedded = self.embedding(codes[:, : y + 1]).movedim(-1, 1)
                    logits = self.features(embedded)[:, :, y, x].float() / temperature  # (n, K)
                    codes[:, y, x] = torch.multinomial(logits.softmax(1), 1).squeeze(1)
                    bar.update()
        return codes


def codes_as_images(codes: Tensor) -> Tensor:
    """Grids (N, H, W) of numbers below 256 as bytes (N, 1, H, W): what ``fit`` takes."""
    if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < 256:
        raise ValueError(
            f"codes must be from 0 to 255 to fit into a byte, got {int(codes.min())} to "
            f"{int(codes.max())}"
        )
    return codes.to(torch.uint8).unsqueeze(1)


def codes_of(model: VQVAE, source: ImageData, *, batch_size: int = 500) -> ImageData:
    """A data set of codes: every image of ``source`` as the grid that a VQ-VAE writes for it.

    Its origin is the source's checksum and the model's weights, so a prior that was trained on
    these codes is told from one on the codes of another model.

    Args:
        model: a trained VQ-VAE with at most 256 codes.
        source: images of the shape that it takes.
        batch_size: images at a time.

    Returns:
        Grids as images (N, 1, h, w) of bytes, with the labels of the source.
    """

    def encode(split: Split) -> Split:
        device = device_of(model)
        parts = [model.encode(to_float(x.to(device))) for x in split.images.split(batch_size)]
        return Split(codes_as_images(torch.cat(parts).cpu()), split.labels)

    weights = hashlib.sha256()
    for tensor in model.state_dict().values():
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    parts = [encode(split) for split in (source.train, source.validation, source.test)]
    origin = f"codes of {source.sha256} by {weights.hexdigest()}"
    return ImageData(f"{source.name}-codes", *parts, source.classes, origin)


def code_loss(model: GatedPixelCNN, x: Tensor) -> Terms:
    """The negative log-likelihood of grids that come as images: see :func:`codes_as_images`.

    Args:
        model: the PixelCNN.
        x: (B, 1, H, W), floats k / 255 as ``fit`` makes them from bytes.

    Returns:
        ``loss`` (B,), in nats a grid, and ``bits`` (B,), in bits a code.
    """
    nats = -model.log_prob((x * 255).round().long().squeeze(1))
    return {"loss": nats, "bits": nats / (math.prod(model.grid) * math.log(2))}


def _check_codes(codes: Tensor, model: GatedPixelCNN) -> None:
    if codes.ndim != 3 or tuple(codes.shape[1:]) != model.grid or codes.dtype != torch.int64:
        raise ValueError(
            f"expected codes (B, {', '.join(map(str, model.grid))}) of int64, got "
            f"{tuple(codes.shape)} of {codes.dtype}"
        )
