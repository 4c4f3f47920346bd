"""Images as tensors: ``load`` by name, bytes in one piece, batches sliced from them.

Images stay uint8 (N, C, H, W); a batch becomes float32 in [0, 1] where it is used.
"""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from vae_tutorial import toy
from vae_tutorial.sources import (
    ImageData,
    Split,
    load_digits,
    load_folder,
    load_jpeg_copy,
    load_textures,
    load_torchvision,
)

NAMES = (
    "mnist", "fashion-mnist", "cifar10", "svhn", "cifar10-jpeg", "digits", "textures", *toy.NAMES,
)  # fmt: skip


def load(name: str | None = None, root: str | Path | None = None) -> ImageData:
    """Load a data set by its name.

    - ``"mnist"``, ``"fashion-mnist"``: 55,000 / 5,000 / 10,000 images of 1x28x28, through
      torchvision, which downloads them at the first use. The validation images are drawn from
      the 60,000 training images under a fixed seed; the test images are the original ones.
    - ``"cifar10"``, ``"svhn"``: 45,000 / 5,000 / 10,000 and 68,257 / 5,000 / 26,032 colour images
      of 3x32x32, in the same way.
    - ``"cifar10-jpeg"``: a copy of CIFAR-10 re-encoded as JPEG, so smoother: files
      ``{train,test}/CLASS/*.jpg`` in the folder ``cifar10-jpeg`` or the archive
      ``cifar10-jpeg.tar.xz``. Not for download. A number measured on it is no CIFAR-10 number.
    - ``"textures"``: crops of 1x28x28 from scikit-image's photographs of brick, grass and gravel:
      12,000 / 600 / 3,000. Each split is cut from a part of its own of each photograph, so no
      pixel is in two of them. No download.
    - the points of :mod:`vae_tutorial.toy`: ``"gaussian"``, ``"gaussian-rotated"``, ``"mixture"``,
      ``"ring"``, ``"pinwheel"``. No download.
    - ``"digits"``: the 1,797 handwritten digits that come with scikit-learn, resized from 8x8 to
      28x28: 1,197 / 200 / 400. No download.
    - ``"folder:PATH"``: your own images. Subfolders, where there are any, are the classes. All
      images must have one size. 80 / 10 / 10 per cent.

    Args:
        name: one of the above; ``None`` is what the environment variable
            ``VAE_TUTORIAL_DATASET`` says, and MNIST where it says nothing.
        root: the folder with torchvision's files; by default the environment variable
            ``VAE_TUTORIAL_DATA``, else ``data/`` in the checkout, else ``data/`` in the working
            directory.

    Raises:
        ValueError: for an unknown name, an empty folder, or images of different sizes.
        FileNotFoundError: where the files are neither there nor downloadable.
    """
    name = name or os.environ.get("VAE_TUTORIAL_DATASET") or "mnist"
    if name.startswith("folder:"):
        return load_folder(Path(name.removeprefix("folder:")).expanduser())
    if name not in NAMES:
        raise ValueError(
            f"unknown data set {name!r}; known are {', '.join(NAMES)} and folder:PATH "
            "(a folder of your own images)"
        )
    if name == "digits":
        return load_digits()
    if name in toy.NAMES:
        return toy.load(name)
    if name == "textures":
        return load_textures()
    if name == "cifar10-jpeg":
        return load_jpeg_copy(data_root(root))
    return load_torchvision(name, data_root(root))


def binarized(source: ImageData, *, seed: int = 0) -> ImageData:
    """A data set whose pixels are drawn **once** as black or white: static binarization.

    Each pixel is white with its grey value as the probability (Salakhutdinov & Murray 2008). The
    draw is part of the data from then on. To draw afresh for every batch is the transform
    :func:`~vae_tutorial.likelihoods.binarize`.

    Args:
        source: a data set of greys.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(split: Split) -> Split:
        # Of 255 equally likely thresholds, as many lie below a byte as its value says: exact.
        shape = split.images.shape
        threshold = torch.randint(0, 255, shape, generator=generator, dtype=torch.uint8)
        return Split((split.images > threshold).to(torch.uint8) * 255, split.labels)

    parts = [draw(split) for split in (source.train, source.validation, source.test)]
    return ImageData(f"{source.name}-binarized", *parts, source.classes)


def data_root(root: str | Path | None = None) -> Path:
    """The folder that torchvision's files lie in; see :func:`load`."""
    if root is not None:
        return Path(root)
    if os.environ.get("VAE_TUTORIAL_DATA"):
        return Path(os.environ["VAE_TUTORIAL_DATA"])
    return project_root() / "data"


def project_root() -> Path:
    """The checkout around the working directory, or the working directory where there is none."""
    from pyhere import here

    with warnings.catch_warnings():  # where nothing is found, pyhere warns and answers with "/"
        warnings.simplefilter("ignore")
        found = Path(here())
    return found if found != Path(found.anchor) else Path.cwd()


def to_float(images: Tensor) -> Tensor:
    """Bytes to float32 in [0, 1]; floats pass through."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def check_images(images: Tensor, image_shape: tuple[int, ...] | None = None) -> Tensor:
    """Return the images, or say in a ValueError what is wrong with them and what to do.

    They must be a tensor (N, C, H, W) with N >= 1, uint8, or float32 without NaN in [0, 1].
    Points (N, C, 1, 1), see :mod:`vae_tutorial.toy`, may have any finite values.
    """
    if not isinstance(images, Tensor):
        raise ValueError(
            f"expected a tensor of images (N, C, H, W), got {type(images).__name__}; "
            "use torch.as_tensor(...) for arrays, or data.load(...)"
        )
    if images.ndim != 4:
        hint = {3: "; add the channel axis: images.unsqueeze(1)",
                2: "; flat rows need images.reshape(-1, C, H, W)"}.get(images.ndim, "")  # fmt: skip
        raise ValueError(f"expected images of shape (N, C, H, W), got {tuple(images.shape)}{hint}")
    if not len(images):
        raise ValueError("the data set is empty: there is not a single image in it")
    if image_shape is not None and tuple(images.shape[1:]) != tuple(image_shape):
        raise ValueError(
            f"expected images of (C, H, W) = {tuple(image_shape)}, got {tuple(images.shape[1:])}"
        )
    if images.dtype == torch.uint8:
        return images
    if images.dtype != torch.float32:
        raise ValueError(
            f"expected uint8 (0 to 255) or float32 (0 to 1), got {images.dtype}; "
            "convert with images.to(torch.uint8) or images.float()"
        )
    low, high = float(images.min()), float(images.max())
    if images.shape[2:] == (1, 1):
        if not math.isfinite(low + high):
            raise ValueError("some points are not finite; remove NaN and infinities")
        return images
    if not (low >= 0 and high <= 1):  # written so that NaN fails it, too
        raise ValueError(
            f"expected values in [0, 1], got values from {low:g} to {high:g}; "
            "divide 0-to-255 values by 255, undo any normalization, remove NaN"
        )
    return images
