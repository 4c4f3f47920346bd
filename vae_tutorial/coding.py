"""Lossless files from a VAE: bits back with asymmetric numeral systems.

Townsend, Bird & Barber (2019), "BB-ANS": images are pushed onto one stack of bits, and each image's
latent is drawn by popping bits of those before it. An image costs -log p(x|z) - log p(z) + log q(z|x),
on average the negative ELBO. From the command line,

    python -m vae_tutorial.coding RUN FILE IMAGES.npy

decodes a file with a stored run. The decoder must compute the encoder's numbers to the last bit. So
the networks run in float64, one image at a time, and what they say is rounded to a grid: two
machines then disagree only where a number lies within their rounding errors of the middle between
two grid points.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from constriction import stream
from torch import Tensor
from torch.distributions import Independent, Normal

from vae_tutorial.likelihoods import Bernoulli, BetaBinomial, DiscretizedLogistic
from vae_tutorial.models.vae import VAE
from vae_tutorial.priors import IndependentStandardNormal
from vae_tutorial.runs import load_run
from vae_tutorial.spec import build, spec

AnsCoder = stream.stack.AnsCoder

BIN = 1 / 64  # the width of a latent's bins
_EDGE = 512  # latents lie in the bins -512 to 512: within 8 standard deviations of the prior
_PRIOR = stream.model.QuantizedGaussian(-_EDGE, _EDGE)
# The coder gives each symbol a probability of at least 2^-24. If the posterior had all those bins, a
# latent would now and then be drawn from bins where it has no mass, and its image would cost much.
# So it has those within 8 of its standard deviations alone, up to the next power of two.
_WINDOWS = {n: stream.model.QuantizedGaussian(-n, n) for n in (2**i for i in range(3, 9))}
_REACH = 16.0  # the decoder's numbers are coded as if none were further from zero
_CATEGORICAL = stream.model.Categorical(perfect=False)

_MAGIC = b"VAEfile1"
_HEADER = struct.Struct("<8sI3H8sII")  # magic, images, C, H, W, model, pixels' and words' checksums


class BitsBack:
    """What encoder and decoder of a file share: images onto a stack of bits, and off it again.

    Townsend, Bird & Barber (2019), table 1 and figure 5. Latents are rounded to bins of width
    :data:`BIN`. The width cancels: it makes the prior's and the posterior's probabilities smaller by
    the same factor. A pixel's probabilities come from a table, with one row for each point of a
    grid of the numbers that the decoder gives for it.

    Args:
        vae: with a standard normal prior, a mean-field Gaussian posterior, and a likelihood that
            gives each pixel the probabilities of its values: Bernoulli, BetaBinomial or pixelwise
            DiscretizedLogistic. It is copied, not changed.
        step: the grid's step.

    Raises:
        ValueError: for another prior, posterior or likelihood, or a step out of (0, 1].

    Example:
        >>> from vae_tutorial import MLP, Decoder, Encoder, MeanFieldGaussian, StandardNormal
        >>> encoder = Encoder(MLP((1, 8, 8), 4), MeanFieldGaussian(2))
        >>> decoder = Decoder(MLP(2, (1, 8, 8)), Bernoulli((1, 8, 8)))
        >>> codec = BitsBack(VAE(encoder, decoder, StandardNormal(2)))
        >>> stack, image = codec.stack(), torch.zeros(1, 8, 8, dtype=torch.uint8)
        >>> z = codec.push(stack, image)
        >>> torch.equal(codec.pop(stack), image), codec.is_start(stack)
        (True, True)
    """

    def __init__(self, vae: VAE, *, step: float = 0.25) -> None:
        if not 0 < step <= 1:
            raise ValueError(f"step must be above 0 and at most 1, got {step}")
        self.vae = copy.deepcopy(vae).double().cpu().eval().requires_grad_(False)
        self.image_shape = tuple(_likelihood(self.vae).image_shape)
        self.step, self._points = step, round(2 * _REACH / step) + 1
        self._table, self._levels = self._tabulate()
        self._number = np.zeros(256, np.int32)  # of a byte among the values of a pixel
        self._number[self._levels.numpy()] = np.arange(len(self._levels))
        self._check_gaussians()

    def stack(self) -> Any:
        """A new stack. It starts with some words for the first latent to be drawn from."""
        return AnsCoder(_seed_words(self.vae.latent_dim), seal=True)

    def is_start(self, stack: Any) -> bool:
        """Whether a stack holds what :meth:`stack` started it with, and nothing else."""
        try:
            left = stack.get_compressed(unseal=True)
        except (AssertionError, ValueError):
            return False
        return np.array_equal(left, _seed_words(self.vae.latent_dim))

    @torch.no_grad()
    def push(self, stack: Any, image: Tensor) -> Tensor:
        """Put one image onto the stack: pop its latent with q, push the pixels, push the latent.

        Args:
            stack: from :meth:`stack`; changed in place.
            image: uint8 (C, H, W).

        Returns:
            The latent (D,), float64, that was drawn from the bits on the stack.

        Raises:
            ValueError: for an image of another type or shape, or with a value that the likelihood
                gives no probability to.
        """
        symbols = self._symbols(image)
        z = np.zeros(self.vae.latent_dim, np.int32)
        for window, which, centre, mean, scale in self._posterior(image):  # 1. pop z with q(z|x)
            z[which] = centre + stack.decode(window, mean, scale)
        stack.encode_reverse(symbols, _CATEGORICAL, self._table[self._rows(z)])  # 2. x with p(x|z)
        stack.encode_reverse(z, _PRIOR, *self._prior())  # 3. push z with p(z)
        return torch.from_numpy(z * BIN)

    @torch.no_grad()
    def pop(self, stack: Any) -> Tensor:
        """Take the last image off the stack: the steps of :meth:`push`, undone from last to first.

        Afterwards the stack is what it was before that image was pushed.

        Args:
            stack: from :meth:`stack`, with an image on it; changed in place.

        Returns:
            The image, uint8 (C, H, W), with the bytes that were pushed.

        Raises:
            ValueError: where the stack shows that no image of this model is on it: what was popped
                as a latent lies outside the bins that :meth:`push` draws latents from. The stack is
                of no more use then. Where it does not show, some image comes off that nobody
                pushed; :func:`decompress` compares checksums for that reason.
        """
        z = stack.decode(_PRIOR, *self._prior())  # undoes step 3: the prior needs no image
        symbols = stack.decode(_CATEGORICAL, self._table[self._rows(z)])  # undoes step 2
        image = self._levels[torch.from_numpy(symbols).long()].reshape(self.image_shape)
        try:  # undoes step 1: with the image there is a posterior, and the bits go back
            for window, which, centre, mean, scale in reversed(self._posterior(image)):
                stack.encode_reverse(z[which] - centre, window, mean, scale)
        except KeyError as error:
            raise ValueError(
                "expected an image of this model on the stack, got a latent outside its posterior's "
                "bins; pop no more images than were pushed, with the model that pushed them"
            ) from error
        return image

    def check(self, images: Tensor) -> None:
        """Whether images (N, C, H, W) can be coded; else a ValueError that says why."""
        wanted = (len(images), *self.image_shape)
        if images.dtype != torch.uint8 or tuple(images.shape) != wanted or not len(images):
            raise ValueError(
                f"needs at least one image, uint8 (N, {', '.join(map(str, self.image_shape))}), got "
                f"{images.dtype} {tuple(images.shape)}; give the images as they are stored"
            )
        if len(self._levels) < 256 and not torch.isin(images, self._levels).all():
            raise ValueError(
                f"{type(_likelihood(self.vae)).__name__} gives probabilities to the values "
                f"{self._levels.tolist()} alone, but some pixels have others; binarize the images, or "
                "take a likelihood of 256 levels"
            )

    def _posterior(self, image: Tensor) -> list[tuple]:
        """q(z|x) in bins, rounded to a grid, the narrow latents first.

        Of all latents with one window: that, which they are, the bin in its middle, and mean and
        standard deviation, counted from there.
        """
        q = self.vae.encoder(image.double()[None] / 255)
        # exp differs in its last digits between machines: as float32 it is the same number again.
        scale = torch.exp((q.stddev[0].log() * 16).round() / 16).float().double().numpy() / BIN
        sizes = 2 ** np.ceil(np.log2(8 * scale)).clip(3, 8).astype(int)
        mean = ((q.mean[0] / BIN * 8).round() / 8).numpy().clip(sizes - _EDGE, _EDGE - sizes)
        centre = np.rint(mean).astype(np.int32)
        groups = [(n, np.flatnonzero(sizes == n)) for n in sorted(set(sizes.tolist()))]
        return [
            (_WINDOWS[n], i, centre[i], mean[i] - centre[i], scale[i].clip(max=2 * n))
            for n, i in groups
        ]

    def _prior(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of p(z)."""
        return np.zeros(self.vae.latent_dim), np.full(self.vae.latent_dim, 1 / BIN)

    def _rows(self, z: np.ndarray) -> np.ndarray:
        """The row of the table (P,) that each pixel of the image of a latent is coded with."""
        given = self.vae.decoder.network(torch.from_numpy(z * BIN)[None])
        given = given.clamp(-_REACH, _REACH).reshape(-1, math.prod(self.image_shape))
        points = ((given + _REACH) / self.step).round().long()  # (numbers per pixel, P)
        row = points[0]
        for more in points[1:]:
            row = row * self._points + more
        return row.numpy()

    def _symbols(self, image: Tensor) -> np.ndarray:
        """The number of each pixel's value among the values that it may have, (P,)."""
        self.check(image[None])
        return self._number[image.numpy().ravel()]

    def _tabulate(self) -> tuple[np.ndarray, Tensor]:
        """The probabilities (rows, L) float32 of the L values of a pixel, and the values as bytes."""
        likelihood = _likelihood(self.vae)
        pixel = build(spec(likelihood) | {"image_shape": [1, 1, 1]})  # the same for one pixel
        binary = isinstance(likelihood, Bernoulli)
        levels = torch.tensor([0, 255] if binary else range(256), dtype=torch.uint8)
        axis = torch.linspace(-_REACH, _REACH, self._points, dtype=torch.float64)
        rows = torch.cartesian_prod(*[axis] * math.prod(pixel.param_shape))
        rows = rows.reshape(-1, *pixel.param_shape)
        values = (levels.double() / 255).reshape(-1, 1, 1, 1, 1)
        parts = [pixel(part).log_prob(values).exp().T.float() for part in rows.split(1024)]
        return torch.cat(parts).numpy(), levels

    def _check_gaussians(self) -> None:
        q = self.vae.encoder(torch.zeros(1, *self.image_shape, dtype=torch.float64))
        mean_field = isinstance(q, Independent) and isinstance(q.base_dist, Normal)
        if not mean_field or not isinstance(self.vae.prior(), IndependentStandardNormal):
            raise ValueError(
                "codes latents with a MeanFieldGaussian posterior and a StandardNormal prior, got "
                f"{type(self.vae.encoder.posterior).__name__} and {type(self.vae.prior).__name__}"
            )

    def fingerprint(self) -> bytes:
        """Eight bytes that tell this model and grid from another."""
        digest = hashlib.sha256(json.dumps([spec(self.vae), self.step], sort_keys=True).encode())
        for name, tensor in sorted(self.vae.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.digest()[:8]


def compress(vae: VAE, images: Tensor, *, step: float = 0.25) -> bytes:
    """Images as the content of a file, which the same VAE turns back into the same images.

    Args:
        vae, step: as for :class:`BitsBack`.
        images: uint8 (N, C, H, W), at least one.

    Returns:
        A header of 34 bytes, then the stack, the words that it started with included.

    Raises:
        ValueError: as :class:`BitsBack` and :meth:`BitsBack.push`.
    """
    codec = BitsBack(vae, step=step)
    codec.check(images)
    stack = codec.stack()
    for image in images:
        codec.push(stack, image)
    words = stack.get_compressed().astype("<u4").tobytes()
    checks = zlib.crc32(images.contiguous().numpy().tobytes()), zlib.crc32(words)
    header = (_MAGIC, len(images), *codec.image_shape, codec.fingerprint(), *checks)
    return _HEADER.pack(*header) + words


def decompress(vae: VAE, content: bytes, *, step: float = 0.25) -> Tensor:
    """The images (N, C, H, W), uint8, of a file that :func:`compress` made with the same VAE.

    Raises:
        ValueError: for a file that is none of these, is truncated or damaged, was made with another
            model, or does not decode to its images because this machine's networks gave other
            numbers. Nothing is returned then.
    """
    if len(content) < _HEADER.size or not content.startswith(_MAGIC):
        raise ValueError(f"no file of this kind: it should start with {_MAGIC!r} and a header")
    _, count, *shape, model, pixels, damage = _HEADER.unpack_from(content)
    words = content[_HEADER.size :]
    if zlib.crc32(words) != damage:
        raise ValueError("the file is truncated or damaged: its checksum does not fit")
    codec = BitsBack(vae, step=step)
    if tuple(shape) != codec.image_shape or model != codec.fingerprint():
        raise ValueError(
            "the file was made with another model (or another step): decode it with that one"
        )
    stack = AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
    images = torch.empty(count, *shape, dtype=torch.uint8)
    try:
        for i in reversed(range(count)):  # last in, first out
            images[i] = codec.pop(stack)
        whole = zlib.crc32(images.numpy().tobytes()) == pixels and codec.is_start(stack)
    except ValueError:  # a latent outside its posterior's bins
        whole = False
    if not whole:
        raise ValueError(
            "the file is whole, but what was decoded is not what was encoded: on this machine the "
            "networks gave other numbers. Decode it where it was made"
        )
    return images


def _likelihood(vae: VAE) -> Bernoulli | BetaBinomial | DiscretizedLogistic:
    found = vae.decoder.likelihood
    tabled = isinstance(found, (Bernoulli, BetaBinomial, DiscretizedLogistic))
    if not tabled or getattr(found, "noise", "pixelwise") != "pixelwise":
        raise ValueError(
            f"codes pixels with Bernoulli, BetaBinomial or pixelwise DiscretizedLogistic, got {found}"
        )
    return found


def _seed_words(latent_dim: int) -> np.ndarray:
    """Words without a pattern, as many as a first latent can need: at most 24 bits a dimension."""
    count = math.ceil(24 * latent_dim / 32) + 1
    return (np.arange(1, count + 1, dtype=np.uint64) * 2654435761 % 2**32).astype(np.uint32)


def main(arguments: list[str]) -> None:
    """Decode FILE with the stored run RUN, and write the images to IMAGES.npy."""
    if len(arguments) != 3:
        sys.exit("usage: python -m vae_tutorial.coding RUN FILE IMAGES.npy")
    run, file, out = arguments
    np.save(out, decompress(load_run(run).model, Path(file).read_bytes()).numpy())


if __name__ == "__main__":
    main(sys.argv[1:])
