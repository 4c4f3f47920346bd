"""The VQ-VAE: an autoencoder whose code is a grid of entries from a learnt codebook.

van den Oord et al. (2017). The encoder gives a vector for each place of a small grid; the quantizer
puts the nearest of K codebook vectors in its place; the decoder sees those alone. A prior over such
grids of whole numbers is learnt afterwards.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from vae_tutorial import distributed
from vae_tutorial.data import Dataset, Split
from vae_tutorial.evaluate import Estimate, per_example
from vae_tutorial.likelihoods import _DiscretizedLogistic
from vae_tutorial.networks import HeConv2d, HeConvTranspose2d, as_shape, device_of, free_to_read
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part

Terms = dict[str, Tensor]


def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Vectors (N, D) to the indices (N,), int64, of their nearest entries in a codebook (K, D).

    |v - e|^2 = |v|^2 - 2 v'e + |e|^2, and the first part is the same for all e. So one matrix
    product is enough; the (N, K, D) tensor of differences is never made. Both are seen from the
    codebook's mean: far from zero the two parts nearly cancel, and rounding is left.
    """
    centre = codebook.mean(0)
    vectors, codebook = vectors - centre, codebook - centre
    return (codebook.square().sum(1) - 2 * vectors @ codebook.T).argmin(1)


def check_codes(codes: Tensor, grid: Sequence[int], num_codes: int) -> None:
    """A ValueError for what are no codes: int64 (B, H, W) from 0 to K - 1."""
    if codes.ndim != 3 or tuple(codes.shape[1:]) != tuple(grid) or codes.dtype != torch.int64:
        got = f"{tuple(codes.shape)} of {codes.dtype}"
        raise ValueError(f"expected codes (B, {', '.join(map(str, grid))}) of int64, got {got}")
    # An accelerator would have to be waited for. A compiled program looks out for itself.
    if free_to_read(codes) and len(codes):
        low, high = map(int, codes.aminmax())
        if not 0 <= low <= high < num_codes:
            raise ValueError(f"expected codes from 0 to {num_codes - 1}, got {low} to {high}")


class VectorQuantizer(Part):
    """Vectors to their nearest neighbours in a codebook: van den Oord et al. (2017), equations 1, 2.

    Forward the output is the codebook vector; backward its gradient is passed to the input as it
    is (the straight-through estimator), because the nearest neighbour has no gradient of its own.

    The codebook learns by gradient: the codebook loss |sg(v) - e|^2 pulls each entry towards the
    vectors that chose it (equation 3, second term). Or, with ``decay``, without a loss: each entry is
    the running mean of those vectors (appendix A.1). Resets go with either.

    Args:
        num_codes: K, entries.
        dim: D.
        decay: of the moving averages; ``None`` learns the codebook by gradient.
        reset_below: an entry whose running count in a batch falls below this is dead, and is put on
            a random vector of the batch. ``None`` leaves it where it is.
        start: the entries are drawn from a normal distribution with this standard deviation, by
            default uniformly from [-1/K, 1/K].

    Example:
        >>> quantized, codes, terms = VectorQuantizer(8, dim=4)(torch.zeros(2, 4, 5, 6))
        >>> quantized.shape, codes.shape, terms["commitment"].shape
        (torch.Size([2, 4, 5, 6]), torch.Size([2, 5, 6]), torch.Size([2]))
    """

    def __init__(
        self, num_codes: int = 128, dim: int = 256, *, decay: float | None = None,
        reset_below: float | None = None, start: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_codes < 2 or dim < 1:
            raise ValueError(f"needs num_codes >= 2 and dim >= 1, got {num_codes} and {dim}")
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1) or be None, got {decay}")
        self.num_codes, self.dim, self.decay, self.reset_below = num_codes, dim, decay, reset_below
        codebook = torch.empty(num_codes, dim)
        if start is None:
            codebook.uniform_(-1 / num_codes, 1 / num_codes)
        else:
            codebook.normal_(0, start)
        if decay is None:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("sums", codebook.clone())
        if decay is not None or reset_below is not None:
            self.register_buffer("counts", torch.ones(num_codes))

    @torch.no_grad()  # whole numbers have no gradient
    def codes(self, z: Tensor) -> Tensor:
        """(B, D, h, w) to the indices (B, h, w) of the nearest entries."""
        # In bfloat16 two near entries would often be told apart by rounding alone.
        flat = z.movedim(1, -1).to(self.codebook.dtype)  # (B, h, w, D)
        with torch.autocast(z.device.type, enabled=False):
            return nearest_codes(flat.reshape(-1, self.dim), self.codebook).view(flat.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to their vectors (B, D, h, w)."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Terms]:
        """(B, D, h, w) to vectors of the same shape, codes (B, h, w), and the losses' terms (B,).

        They are ``codebook`` |sg(v) - e|^2 (zero with moving averages) and ``commitment``
        |v - sg(e)|^2, each a mean over all numbers of an image's vectors.
        """
        z = z.to(self.codebook.dtype)
        codes = self.codes(z)
        entries = self.lookup(codes)
        commitment = (z - entries.detach()).square().mean((1, 2, 3))
        if self.decay is None:
            codebook = (z.detach() - entries).square().mean((1, 2, 3))
        else:
            codebook = torch.zeros_like(commitment)
        if self.training and hasattr(self, "counts"):
            with torch.autocast(z.device.type, enabled=False):  # running sums in full precision
                self._update(z.detach(), codes)
        quantized = z + (entries - z).detach()  # entries forward, the identity backward
        return quantized, codes, {"codebook": codebook, "commitment": commitment}

    @torch.no_grad()
    def _update(self, z: Tensor, codes: Tensor) -> None:
        vectors = z.movedim(1, -1).reshape(-1, self.dim)  # (N, D)
        chosen = F.one_hot(codes.flatten(), self.num_codes).to(vectors.dtype)  # (N, K)
        rate = 1 - (self.decay or 0.99)
        # Sums of the whole batch, of which this may be one process's share.
        self.counts.lerp_(distributed.total(chosen.sum(0)), rate)
        if self.decay is not None:
            self.sums.lerp_(distributed.total(chosen.T @ vectors), rate)
        if self.reset_below is not None:
            self._reset(vectors)
        if self.decay is not None:
            self.codebook.copy_(self.sums / self.counts[:, None])

    def _reset(self, vectors: Tensor) -> None:
        dead = self.counts < self.reset_below
        # Drawn for every entry, so that the random numbers do not depend on how many are dead.
        picks = vectors[torch.randint(len(vectors), (self.num_codes,)).to(vectors.device)]
        picks = distributed.from_first(picks)  # where one draws, all move to the same places
        moved = self.codebook if self.decay is None else self.sums
        moved.copy_(torch.where(dead[:, None], picks, moved))
        self.counts.copy_(torch.where(dead, torch.ones_like(self.counts), self.counts))


class FiniteScalarQuantizer(Part):
    """Numbers rounded to a few levels each: finite scalar quantization, Mentzer et al. (2024), section 3.

    There is no codebook to learn and none that could die: with levels L_1, ..., L_D a vector of D
    numbers becomes one of L_1 ... L_D points of a fixed lattice. Number d is squashed to the levels
    0, ..., L_d - 1, rounded, and handed on in [-1, 1]; backward, the rounding counts as the
    identity. (The squashing here, L_d sigmoid(2 v) - 1/2, makes all levels equally wide before the
    sigmoid's bend, for even L_d and odd ones alike; the paper has a tanh, and a shift for even ones.)

    It takes the place of a :class:`VectorQuantizer` in a :class:`VQVAE`.

    Args:
        levels: L_1, ..., L_D, each at least 2.

    Example:
        >>> quantizer = FiniteScalarQuantizer((8, 4, 4))
        >>> quantizer.num_codes, quantizer.dim
        (128, 3)
        >>> quantizer.lookup(torch.tensor([[[0, 127]]]))[0, :, 0].T.tolist()
        [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        levels = as_shape(levels, "levels")
        if min(levels) < 2:
            raise ValueError(f"every number needs at least 2 levels, got {levels}")
        self.levels, self.dim, self.num_codes = levels, len(levels), math.prod(levels)
        counts = torch.tensor(levels)
        # Of the index, as in a number with digits of several bases: the first digit counts most.
        places = counts.flip(0).cumprod(0).flip(0) // counts
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("places", places, persistent=False)

    def _squashed(self, z: Tensor) -> Tensor:
        """(B, D, h, w) to (B, h, w, D), number d between -1/2 and L_d - 1/2."""
        z = z.movedim(1, -1).float()
        return self.counts * torch.sigmoid(2 * z) - 0.5

    def _digits(self, squashed: Tensor) -> Tensor:
        return torch.minimum(squashed.round().clamp(min=0), self.counts - 1.0)

    @torch.no_grad()  # whole numbers have no gradient
    def codes(self, z: Tensor) -> Tensor:
        """(B, D, h, w) to the indices (B, h, w), int64, of their lattice points."""
        return (self._digits(self._squashed(z)).long() * self.places).sum(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to their lattice points (B, D, h, w), each number in [-1, 1]."""
        digits = codes[..., None] // self.places % self.counts
        return (2 * digits / (self.counts - 1) - 1).movedim(-1, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Terms]:
        """(B, D, h, w) to lattice points of the same shape, codes (B, h, w), and two terms (B,).

        The terms are those of :class:`VectorQuantizer`, zero here: nothing has to be pulled anywhere.
        """
        squashed = self._squashed(z)
        digits = self._digits(squashed)
        straight = squashed + (digits - squashed).detach()  # digits forward, the identity backward
        quantized = (2 * straight / (self.counts - 1) - 1).movedim(-1, 1)
        codes = (digits.detach().long() * self.places).sum(-1)
        nothing = torch.zeros(len(z), device=z.device)
        return quantized, codes, {"codebook": nothing, "commitment": nothing}


class ResidualBlock(Part):
    """x + conv1x1(relu(conv3x3(relu(x)))): the block of van den Oord et al. (2017), section 4.1.

    Example:
        >>> ResidualBlock(4, hidden=2)(torch.zeros(1, 4, 5, 6)).shape
        torch.Size([1, 4, 5, 6])
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            HeConv2d(channels, hidden, 3, padding=1),
            nn.ReLU(),
            HeConv2d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class VQVAE(Part):
    """Encoder, quantizer, decoder: images (B, C, H, W) to codes (B, H / 4, W / 4) and back.

    The networks see images in [-1, 1]; what goes in and comes out of the model is in [0, 1], as
    everywhere in this package.

    Args:
        image_shape: (C, H, W), the sides multiples of four.
        quantizer: between the two; its ``dim`` is the number of channels of the code.
        channels: of the two convolutions of stride 2, in front of and behind the code.
        blocks: residual blocks on either side.

    Example:
        >>> model = VQVAE((3, 32, 32), VectorQuantizer(num_codes=16, dim=8), channels=(8, 16))
        >>> codes = model.encode(torch.zeros(5, 3, 32, 32))
        >>> codes.shape, model.decode(codes).shape, model.prior().log_prob(codes).shape
        (torch.Size([5, 8, 8]), torch.Size([5, 3, 32, 32]), torch.Size([5]))
    """

    def __init__(
        self, image_shape: Sequence[int], quantizer: VectorQuantizer | FiniteScalarQuantizer,
        channels: Sequence[int] = (64, 128), blocks: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        c, h, w = image_shape
        if h % 4 or w % 4:
            raise ValueError(f"crop or pad images to sides that are multiples of 4, got {h}x{w}")
        self.image_shape, self.grid = (c, h, w), (h // 4, w // 4)
        first, second = channels
        residual = [ResidualBlock(second, second // 2) for _ in range(2 * blocks)]
        self.encoder = nn.Sequential(
            HeConv2d(c, first, 4, stride=2, padding=1),
            nn.ReLU(),
            HeConv2d(first, second, 4, stride=2, padding=1),
            *residual[:blocks],
            nn.ReLU(),
            HeConv2d(second, quantizer.dim, 1),
        )
        self.quantizer = quantizer
        self.decoder = nn.Sequential(
            HeConv2d(quantizer.dim, second, 3, padding=1),
            *residual[blocks:],
            nn.ReLU(),
            HeConvTranspose2d(second, first, 4, stride=2, padding=1),
            nn.ReLU(),
            HeConvTranspose2d(first, c, 4, stride=2, padding=1),
        )

    def _features(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"expected images (B, {self.image_shape}), got {tuple(x.shape)}")
        # Channels last in memory: convolutions of this kind are faster so, on CPUs and GPUs.
        return self.encoder((2 * x - 1).contiguous(memory_format=torch.channels_last))

    @torch.no_grad()  # whole numbers have no gradient
    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to their codes (B, h, w), int64."""
        return self.quantizer.codes(self._features(x))

    def posterior(self, x: Tensor) -> Distribution:
        """q(z|x) of images (B, C, H, W): all on the nearest entries, equation 1; event (h, w).

        From :meth:`prior` it is always h w log K nats away: the KL term that the loss leaves out.
        """
        chosen = F.one_hot(self.encode(x), self.quantizer.num_codes).float()
        return Independent(Categorical(logits=chosen.log(), validate_args=False), 2)

    def prior(self) -> Distribution:
        """The p(z) of training, event (h, w): every grid is equally likely."""
        logits = torch.zeros(*self.grid, self.quantizer.num_codes, device=device_of(self))
        return Independent(Categorical(logits=logits, validate_args=False), 2)

    def likelihood(self, codes: Tensor) -> Distribution:
        """p(x|z) of codes (B, h, w), event (C, H, W): Gaussian pixels, for images in [0, 1].

        Their one scale is the one that :func:`vq_loss` stands for: with M numbers in the vectors of
        a grid, M times its loss is equation 3 of van den Oord et al. (2017), summed over the grid,
        up to a constant.
        """
        check_codes(codes, self.grid, self.quantizer.num_codes)
        mean = (self.decoder(self.quantizer.lookup(codes)) + 1) / 2
        # M / P (2 x - 2 mean)^2 = (x - mean)^2 / (2 scale^2), with P numbers per image.
        ratio = math.prod(self.image_shape) / (math.prod(self.grid) * self.quantizer.dim)
        scale = math.sqrt(ratio / 8)
        return Independent(Normal(mean, scale, validate_args=False), 3)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to mean images (B, C, H, W), clamped to [0, 1]."""
        return self.likelihood(codes).mean.clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Through the codes and back: mean images (B, C, H, W)."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def sample(
        self, n: int, *, prior: Callable[[], Distribution] | None = None, seed: int | None = None
    ) -> Tensor:
        """Draw codes from a prior, and decode them to mean images (n, C, H, W).

        The prior, by default the uniform one, is called without arguments: for example a
        :class:`~vae_tutorial.models.pixelcnn.GatedPixelCNN`.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        with seeded(seed):
            return self.decode((prior or self.prior)().sample((n,)).to(device_of(self)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Terms]:
        """Images (B, C, H, W) to their redrawn selves in [-1, 1], codes, and the quantizer's terms."""
        quantized, codes, terms = self.quantizer(self._features(x))
        return self.decoder(quantized), codes, terms


def perplexity(codes: Tensor, num_codes: int) -> Tensor:
    """exp of the entropy of how often each code occurs: from 1 (always one) to ``num_codes``."""
    share = torch.bincount(codes.flatten(), minlength=num_codes).double() / codes.numel()
    return torch.exp(-torch.xlogy(share, share).sum())


def vq_loss(model: VQVAE, x: Tensor, *, commitment_weight: float = 0.25) -> Terms:
    """The objective of van den Oord et al. (2017), equation 3, with means in place of sums.

    That is the equation itself, summed over a grid and divided by the M numbers of its vectors, for
    the Gaussian pixels of :meth:`VQVAE.likelihood`. So beta weighs the commitment as theirs does.

    Args:
        model, x: the VQ-VAE, and images (B, C, H, W) in [0, 1].
        commitment_weight: their beta.

    Returns:
        ``loss`` = ``reconstruction`` + ``codebook`` + commitment_weight * ``commitment``, and
        ``perplexity`` (of the batch, the same number for every image); each (B,). The
        reconstruction is the mean squared error over the numbers of an image in [-1, 1].
    """
    redrawn, codes, terms = model(x)
    reconstruction = (redrawn - (2 * x - 1)).square().mean((1, 2, 3))
    loss = reconstruction + terms["codebook"] + commitment_weight * terms["commitment"]
    used = perplexity(codes, model.quantizer.num_codes).to(loss.dtype).expand(len(x))
    return {"loss": loss, "reconstruction": reconstruction, **terms, "perplexity": used}


def measure_vqvae(
    model: VQVAE, data: Split | Tensor, *, batch_size: int = 500
) -> dict[str, Estimate]:
    """How well a VQ-VAE redraws held-out images (N, C, H, W), and how many codes it uses for them.

    ``reconstruction`` is the mean squared error over the numbers of an image in [0, 1],
    ``perplexity`` that of all codes of all images, ``codes_used`` the share of K that occurs at all.
    """

    def redrawn(model: VQVAE, x: Tensor) -> Terms:
        codes = model.encode(x)
        return {"codes": codes, "squares": (model.decode(codes) - x).square().mean((1, 2, 3))}

    terms = per_example(model, redrawn, data, batch_size=batch_size)
    k, codes, squares = model.quantizer.num_codes, terms["codes"].long(), terms["squares"]
    return {
        "reconstruction": Estimate(squares.mean(), squares.std(correction=0) / len(squares) ** 0.5),
        "perplexity": Estimate(perplexity(codes, k)),
        "codes_used": Estimate(len(codes.unique()) / k),
    }


def _place_bits(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    """-log2 of the probability of the pixels' levels, a mean over each place's numbers: (B, h, w).

    By a discretized logistic around y, its scale a number or (B, 1, H, W), in float64.
    """
    y = y.double()
    log_prob = _DiscretizedLogistic(y, torch.as_tensor(scale).to(y)).log_prob(x.double())
    return F.avg_pool2d(-log_prob.mean(1), 4) / math.log(2)


@torch.no_grad()
def fit_scales(model: VQVAE, x: Tensor) -> Tensor:
    """For each symbol the scale, of fifteen, of a discretized logistic that fits its places best.

    Fitted to images (N, C, H, W) in [0, 1]; the scales (K,), in greys, lie between 2 and 50 levels.
    """
    codes = model.encode(x)
    redrawn, k = model.decode(codes), model.quantizer.num_codes
    scales = torch.logspace(0.3, 1.7, 15, dtype=torch.float64, device=codes.device) / 255
    cost = torch.zeros(len(scales), k, dtype=torch.float64, device=codes.device)
    for row, scale in zip(cost, scales, strict=True):
        row.index_add_(0, codes.flatten(), _place_bits(x, redrawn, scale).flatten())
    return scales[cost.argmin(0)]


def pixel_bits(
    model: VQVAE, data: Split | Tensor, scales: Tensor, *, batch_size: int = 500
) -> Tensor:
    """Bits per dimension of images given their codes, (N,), float64: -log2 p(x|k) / P.

    With those of the codes, -log2 p(k) / P, they are an upper bound on -log2 p(x) / P, for p(x) is a
    sum over all grids. Pixels are discretized logistics with the scales (K,) of their symbols.
    """

    def bits(model: VQVAE, x: Tensor) -> Terms:
        codes = model.encode(x)
        wide = scales.to(x.device)[codes].repeat_interleave(4, 1).repeat_interleave(4, 2)
        return {"bits": _place_bits(x, model.decode(codes), wide[:, None]).mean((1, 2))}

    return per_example(model, bits, data, batch_size=batch_size)["bits"]


def codes_of(model: VQVAE, source: Dataset, *, batch_size: int = 500) -> Dataset:
    """A data set of codes (N, h, w), int64: every image of ``source`` as a VQ-VAE writes it.

    The recipe is the source's checksum and the model's weights, so a prior that was trained on these
    codes is told from one on the codes of another model.
    """
    weights = b"".join(value.cpu().numpy().tobytes() for value in model.state_dict().values())
    recipe = f"codes of {source.sha256} by {hashlib.sha256(weights).hexdigest()}"

    def encode(split: Split) -> Split:
        terms = per_example(
            model, lambda model, x: {"codes": model.encode(x)}, split, batch_size=batch_size
        )
        return Split(terms["codes"].long(), split.labels)

    return Dataset(f"{source.name}-codes", *map(encode, source.splits), source.classes, recipe)
