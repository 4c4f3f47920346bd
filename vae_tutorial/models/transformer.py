"""A transformer as a prior over grids of symbols: the same product over places as a PixelCNN's.

Vaswani et al. (2017), with the decoder alone, as in Radford et al. (2019): layer normalization comes first
in each block. The grid is read row by row. Each place looks at all places before it, however far, in
the very first layer; a PixelCNN sees further with each of its layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_tutorial.models.pixelcnn import _Grids
from vae_tutorial.models.vqvae import check_codes
from vae_tutorial.networks import as_shape, device_of
from vae_tutorial.progress import progress_bar
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part


class CausalBlock(Part):
    """Attention to oneself and to what came before, then a perceptron; both are added to the input.

    Args:
        width: of the vectors, a multiple of ``heads``.
        heads: attention heads.
        dropout: the share of what is added that training leaves out.

    Example:
        >>> block = CausalBlock(8, heads=2)
        >>> x, keys, values = block(torch.zeros(3, 5, 8))
        >>> x.shape, keys.shape
        (torch.Size([3, 5, 8]), torch.Size([3, 2, 5, 4]))
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.heads = heads
        self.normalize, self.normalize_again = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.gather = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors (B, N, width) to vectors, and all keys and values (B, heads, places, width / heads).

        Without keys and values these are all N places, and place i sees the places up to i. With
        those of the places before, N is 1: the next place alone, which sees all of them.
        """
        parts = self.attend(self.normalize(x)).unflatten(-1, (3, self.heads, -1))
        asked, new_keys, new_values = parts.permute(
            2, 0, 3, 1, 4
        )  # each (B, heads, N, width / heads)
        if keys is not None:
            new_keys, new_values = (
                torch.cat([keys, new_keys], 2),
                torch.cat([values, new_values], 2),
            )
        seen = F.scaled_dot_product_attention(asked, new_keys, new_values, is_causal=keys is None)
        x = x + self.dropout(self.gather(seen.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.perceptron(self.normalize_again(x))), new_keys, new_values


class CodeTransformer(Part):
    """A prior over grids (H, W) of whole numbers from 0 to K - 1, by a transformer.

    It can stand wherever a :class:`~vae_tutorial.models.pixelcnn.GatedPixelCNN` can, and is trained by
    the same :func:`~vae_tutorial.models.pixelcnn.code_loss`. Called without arguments it answers with a
    distribution of event shape (H, W): ``log_prob`` of codes (B, H, W), int64, is (B,), in nats. With
    classes it is called with their labels (B,), and answers with one distribution for each: the class
    is the first word of the sentence.

    Args:
        num_codes, grid: K and (H, W).
        width: of the vectors.
        layers: blocks.
        heads: attention heads of each.
        classes: how many there are, or ``None``.
        dropout: of :class:`CausalBlock`.

    Example:
        >>> prior = CodeTransformer(num_codes=8, grid=(3, 4), width=16, layers=2, heads=2)
        >>> codes = prior.sample(5, seed=0)
        >>> codes.shape, prior.logits(codes).shape, prior().log_prob(codes).shape
        (torch.Size([5, 3, 4]), torch.Size([5, 8, 3, 4]), torch.Size([5]))
    """

    def __init__(
        self, num_codes: int, grid: Sequence[int], *, width: int = 128, layers: int = 6,
        heads: int = 4, classes: int | None = None, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_codes < 2 or layers < 1:
            raise ValueError(f"needs num_codes >= 2 and layers >= 1, got {num_codes} and {layers}")
        self.num_codes, self.grid, self.classes = num_codes, as_shape(grid, "grid"), classes
        self.start = nn.Embedding(1 if classes is None else classes, width)
        self.symbols = nn.Embedding(num_codes, width)
        self.places = nn.Parameter(torch.empty(math.prod(self.grid), width))
        self.blocks = nn.ModuleList(CausalBlock(width, heads, dropout) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_codes))
        for table in (self.start.weight, self.symbols.weight, self.places):
            nn.init.normal_(table, 0.0, 0.02)  # small beside what the blocks add, as is usual
        nn.init.zeros_(self.head[1].weight)  # at first all symbols are equally likely
        nn.init.zeros_(self.head[1].bias)

    def forward(self, labels: Tensor | None = None) -> Distribution:
        return _Grids(self, labels)

    def _first(self, n: int, labels: Tensor | None) -> Tensor:
        """The vector (n, width) that stands before the first place."""
        if (labels is None) != (self.classes is None):
            needed = "no labels" if self.classes is None else f"labels (B,) below {self.classes}"
            raise ValueError(f"this model takes {needed}; it was built with {self.classes} classes")
        if labels is None:
            labels = torch.zeros(n, dtype=torch.int64, device=device_of(self))
        return self.start(labels)

    def logits(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Codes (B, H, W) to the logits (B, K, H, W) of each place given those before it."""
        check_codes(codes, self.grid, self.num_codes)
        first = self._first(len(codes), labels)
        before = self.symbols(codes.flatten(1)[:, :-1])  # place i is told what stands at i - 1
        x = torch.cat([first[:, None], before], 1) + self.places  # (B, H W, width)
        for block in self.blocks:
            x, _, _ = block(x)
        return self.head(x).movedim(-1, 1).unflatten(-1, self.grid)

    @torch.no_grad()
    def sample(
        self, n: int, *, labels: Tensor | None = None, seed: int | None = None,
        temperature: float = 1.0, progress: bool = False,
    ) -> Tensor:  # fmt: skip
        """Draw codes (n, H, W), int64, place after place.

        Keys and values of the places before are kept, so that each place costs one vector through
        the network, and not a whole grid.

        Args:
            n: how many.
            labels: the class of each, (n,), where the model knows classes.
            seed: makes the draw repeatable.
            temperature: of the logits; below 1 likely symbols get likelier than the model says.
            progress: show a bar.
        """
        if n < 1 or not temperature > 0:
            raise ValueError(f"needs n >= 1 and temperature > 0, got {n} and {temperature}")
        labels = labels if labels is None else labels.to(device_of(self))
        kept: list[tuple] = [(None, None)] * len(self.blocks)
        drawn: list[Tensor] = []
        mode = self.training
        self.eval()
        with seeded(seed), progress_bar(len(self.places), progress) as bar:
            for place in self.places:
                told = self.symbols(drawn[-1]) if drawn else self._first(n, labels)
                x = (told + place)[:, None]  # (n, 1, width)
                for i, block in enumerate(self.blocks):
                    x, *kept[i] = block(x, *kept[i])
                logits = self.head(x[:, 0]).float() / temperature
                drawn.append(torch.multinomial(logits.softmax(1), 1).squeeze(1))
                bar.update()
        self.train(mode)
        return torch.stack(drawn, 1).unflatten(1, self.grid)
