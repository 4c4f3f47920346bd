"""A Gated PixelCNN: a prior over grids of symbols, one place after the other.

van den Oord et al. (2016). p(codes) is a product over the places in reading order, each symbol given
those before it. The vertical stack of convolutions sees all rows above a place, the horizontal one the
places to its left in the row: together they leave no blind spot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_tutorial.models.vqvae import check_codes
from vae_tutorial.networks import device_of
from vae_tutorial.progress import progress_bar
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part


class GatedLayer(Part):
    """One layer of both stacks (B, C, H, W): van den Oord et al. (2016), figure 2.

    No kernel is masked: each is cut to the half that may be looked at, and padding shifts it there.
    The vertical stack at row i sees rows up to and including i of its own input; on its path to the
    horizontal stack it is shifted down by one row, so that only rows above arrive.

    Args:
        channels: C, of each stack.
        kernel: side of the (whole) kernel, odd.
        first: type A, the horizontal stack does not see its own place, and there is nothing to add
            the result to. Later layers (type B) see features of their own place, which hold nothing
            of its symbol, and are residual.
        classes: how many; each moves what enters the gates by vectors of its own (equation 4).
            ``None`` knows no classes.
        dropout: the share of a gate's outputs that training leaves out.

    Example:
        >>> v, h = GatedLayer(4, first=True)(*torch.zeros(2, 1, 4, 5, 6))
        >>> v.shape, h.shape
        (torch.Size([1, 4, 5, 6]), torch.Size([1, 4, 5, 6]))
    """

    def __init__(
        self, channels: int, kernel: int = 3, *, first: bool = False, classes: int | None = None,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 3, got {kernel}")
        self.first, self.reach = first, kernel // 2
        self.vertical = nn.Conv2d(channels, 2 * channels, (self.reach + 1, kernel))
        self.to_horizontal = nn.Conv2d(2 * channels, 2 * channels, 1)
        width = self.reach if first else self.reach + 1
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, width))
        self.out = nn.Conv2d(channels, channels, 1)
        self.dropout = nn.Dropout(dropout)
        if classes is not None:
            self.shift = nn.Embedding(classes, 4 * channels)
            nn.init.zeros_(self.shift.weight)  # at first all classes are alike

    def forward(self, v: Tensor, h: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r = self.reach
        rows = self.vertical(F.pad(v, (r, r, r, 0)))  # row i from rows i - r to i
        above = F.pad(rows, (0, 0, 1, 0))[..., :-1, :]  # row i gets what was made at row i - 1
        left = F.pad(h, (r, 0, 0, 0))
        if self.first:
            left = left[..., :-1]  # column j from columns j - r to j - 1
        return self.down(rows, labels), self.across(left, h, self.to_horizontal(above), labels)

    def down(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        """What the vertical convolution found (B, 2 C, H, W) to the next layer's ``v``."""
        return _gate(rows if labels is None else rows + self._shifts(labels)[0])

    def across(self, left: Tensor, h: Tensor, above: Tensor, labels: Tensor | None) -> Tensor:
        """What lies to the left, what the rows above say, and the labels, to the next layer's ``h``."""
        here = self.horizontal(left) + above
        if labels is not None:
            here = here + self._shifts(labels)[1]
        new = self.out(self.dropout(_gate(here)))
        return new if self.first else h + new

    def _shifts(self, labels: Tensor) -> tuple[Tensor, ...]:
        return self.shift(labels)[..., None, None].chunk(2, dim=1)  # (B, 2 C, 1, 1) each


def _gate(x: Tensor) -> Tensor:
    """tanh of one half of the channels times sigmoid of the other: equation 2."""
    value, gate = x.chunk(2, dim=1)
    return torch.tanh(value) * torch.sigmoid(gate)


class GatedPixelCNN(Part):
    """A prior over grids (H, W) of whole numbers from 0 to K - 1.

    Called without arguments it answers with a distribution of event shape (H, W): ``log_prob`` of
    codes (B, H, W), int64, is (B,), in nats. With classes it is called with their labels (B,), and
    answers with one distribution for each.

    Args:
        num_codes, grid: K and (H, W).
        channels: of each stack, and of the embedding that symbols enter through.
        layers: gated layers, the first of type A.
        hidden: channels of the 1x1 convolution before the logits.
        kernel: side of the convolutions.
        classes: how many there are, or ``None``.
        dropout: of :class:`GatedLayer`.

    Example:
        >>> prior = GatedPixelCNN(num_codes=8, grid=(3, 4), channels=4, layers=2, hidden=16)
        >>> codes = prior.sample(5, seed=0)
        >>> codes.shape, prior.logits(codes).shape, prior().log_prob(codes).shape
        (torch.Size([5, 3, 4]), torch.Size([5, 8, 3, 4]), torch.Size([5]))
    """

    def __init__(
        self, num_codes: int, grid: Sequence[int], *, channels: int = 64, layers: int = 11,
        hidden: int = 512, kernel: int = 3, classes: int | None = None, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_codes < 2 or layers < 1 or min(grid) < 1:
            got = f"{num_codes}, {layers}, {grid}"
            raise ValueError(f"needs num_codes >= 2, layers >= 1 and a grid, got {got}")
        self.num_codes, self.grid, self.classes = num_codes, tuple(grid), classes
        self.embedding = nn.Embedding(num_codes, channels)
        settings = {"classes": classes, "dropout": dropout}
        gated = [GatedLayer(channels, kernel, first=i == 0, **settings) for i in range(layers)]
        self.layers = nn.ModuleList(gated)
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, num_codes, 1)
        )

    def forward(self, labels: Tensor | None = None) -> Distribution:
        return _Grids(self, labels)

    def features(self, embedded: Tensor, labels: Tensor | None = None) -> Tensor:
        """Embedded grids (B, C, H, W) to logits: what can be differentiated by its input."""
        self._check(labels)
        v = h = embedded
        for layer in self.layers:
            v, h = layer(v, h, labels)
        return self.head(h)

    def _check(self, labels: Tensor | None) -> None:
        if (labels is None) != (self.classes is None):
            needed = "no labels" if self.classes is None else f"labels (B,) below {self.classes}"
            raise ValueError(f"this model takes {needed}; it was built with {self.classes} classes")

    def logits(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Codes (B, H, W) to the logits (B, K, H, W) of each place given those before it."""
        check_codes(codes, self.grid, self.num_codes)
        return self.features(self.embedding(codes).movedim(-1, 1), labels)

    @torch.no_grad()
    def sample(
        self, n: int, *, labels: Tensor | None = None, above: Tensor | None = None,
        seed: int | None = None, temperature: float = 1.0, progress: bool = False,
    ) -> Tensor:  # fmt: skip
        """Draw codes (n, H, W), int64, place after place.

        What the layers found before is kept (Ramachandran et al. 2017), so each place is computed
        once: one column of the horizontal stack for each, one row of the vertical stack for each
        row.

        Args:
            n: how many.
            labels: the class of each, (n,), where the model knows classes.
            above: the first rows of each grid, (n, rows, W), that the rest is drawn given.
            seed: makes the draw repeatable.
            temperature: of the logits; below 1 likely symbols get likelier than the model says.
            progress: show a bar.
        """
        if n < 1 or not temperature > 0:
            raise ValueError(f"needs n >= 1 and temperature > 0, got {n} and {temperature}")
        height, width = self.grid
        codes = torch.zeros(n, height, width, dtype=torch.int64, device=device_of(self))
        above = codes[:, :0] if above is None else above
        first = above.shape[1] if above.ndim == 3 else -1
        if above.shape != (n, first, width) or not 0 <= first < height:
            wanted = f"({n}, rows, {width}) with fewer than {height} rows"
            raise ValueError(f"above must be {wanted}, got {tuple(above.shape)}")
        codes[:, :first] = above.to(codes.device)
        labels = labels if labels is None else labels.to(codes.device)
        self._check(labels)
        drawing = _Drawing(self, n, labels)
        for y in range(first):
            drawing.end_row(codes[:, y])
        with seeded(seed), progress_bar((height - first) * width, progress) as bar:
            for y in range(first, height):
                for x in range(width):
                    logits = drawing.logits() / temperature  # (n, K)
                    codes[:, y, x] = torch.multinomial(logits.softmax(1), 1).squeeze(1)
                    drawing.put(codes[:, y, x])
                    bar.update()
                drawing.end_row(codes[:, y])
        return codes


class _Drawing:
    """Grids that grow place by place, and what the layers have found so far.

    ``v[i]`` is what layer i's vertical convolution looks at, all rows (n, C, reach + H, W + 2 reach);
    ``h[i]`` what its horizontal one looks at, the present row (n, C, 1, reach + W). Both hold the
    zeros that convolutions pad with, so a place stands ``reach`` further. ``above[i]`` is what the
    horizontal stack is told of the rows above, (n, 2 C, 1, W).
    """

    def __init__(self, model: GatedPixelCNN, n: int, labels: Tensor | None) -> None:
        self.model, self.labels, self.reach = model, labels, model.layers[0].reach
        (height, width), channels = model.grid, model.embedding.embedding_dim
        r, layers, zeros = self.reach, len(model.layers), model.embedding.weight.new_zeros
        self.v = [zeros(n, channels, r + height, width + 2 * r) for _ in range(layers)]
        self.h = [zeros(n, channels, 1, r + width) for _ in range(layers + 1)]
        nothing = zeros(n, 2 * channels, 1, width)
        self.above = [layer.to_horizontal(nothing) for layer in model.layers]
        self.row = self.column = 0

    def logits(self) -> Tensor:
        """Of the next place, (n, K)."""
        r, x = self.reach, self.column
        place = slice(r + x, r + x + 1)
        for i, layer in enumerate(self.model.layers):
            left = self.h[i][..., x : r + x + (0 if layer.first else 1)]
            here, above = self.h[i][..., place], self.above[i][..., x : x + 1]
            self.h[i + 1][..., place] = layer.across(left, here, above, self.labels)
        return self.model.head(self.h[-1][..., place]).flatten(1).float()

    def put(self, symbols: Tensor) -> None:
        """The symbols (n,) of that place."""
        self.h[0][..., 0, self.reach + self.column] = self.model.embedding(symbols)
        self.column += 1

    def end_row(self, symbols: Tensor) -> None:
        """All symbols (n, W) of the row: the vertical stack may look at them from now on."""
        r, y = self.reach, self.row
        new = self.model.embedding(symbols).movedim(-1, 1)[:, :, None]
        for i, layer in enumerate(self.model.layers):
            self.v[i][:, :, r + y : r + y + 1, r:-r] = new
            rows = layer.vertical(self.v[i][:, :, y : r + y + 1])
            self.above[i] = layer.to_horizontal(rows)
            new = layer.down(rows, self.labels)
        self.row, self.column = y + 1, 0


class _Grids(Distribution):
    arg_constraints: ClassVar[dict] = {}

    def __init__(self, model: GatedPixelCNN, labels: Tensor | None) -> None:
        self.model, self.labels = model, labels
        batch = torch.Size() if labels is None else labels.shape
        super().__init__(batch, torch.Size(model.grid), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        codes = value.reshape(-1, *value.shape[-2:])
        labels = self.labels
        if labels is not None:
            labels = labels.expand(value.shape[:-2]).reshape(-1)
        logits = self.model.logits(codes, labels)
        nats = F.cross_entropy(logits, codes, reduction="none").sum((1, 2))
        return -nats.view(value.shape[:-2])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        labels = self.labels
        if labels is not None:
            labels = labels.expand(shape).reshape(-1)
        return self.model.sample(math.prod(shape), labels=labels).view(*shape, *self.model.grid)


def code_loss(
    model: GatedPixelCNN, codes: Tensor, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """The negative log-likelihood of codes (B, H, W), int64: exact, not a bound.

    ``loss`` and ``nats`` are the same number, per grid; ``bits`` are per code; each (B,). A model
    with classes takes the labels (B,), too, and the likelihood is that given them.
    """
    nats = -model(labels).log_prob(codes)
    return {"loss": nats, "nats": nats, "bits": nats / (math.prod(model.grid) * math.log(2))}
