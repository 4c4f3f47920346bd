"""Data as tensors in one piece: ``load`` by name; batches are cut from them where they are used.

Images stay uint8 (N, C, H, W), points are float32 (N, 2), codes int64 (N, H, W). What a program
makes, points, textures, resized digits and binarized images, is the same on every machine.
"""

import os
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from vae_tutorial.data import sources, tables, toy
from vae_tutorial.data.sources import Dataset, Split

# A new source is one entry: what it is called, and what makes a data set of the data's folder.
LOADERS: dict[str, Callable[[Path], Dataset]] = {
    **{name: partial(sources.load_torchvision, name) for name in sources.TORCHVISION},
    "cifar10": sources.load_cifar10,
    "digits": lambda root: sources.load_digits(),
    "textures": lambda root: sources.load_textures(),
    **{name: lambda root, name=name: toy.load(name) for name in toy.NAMES},
    "python-tokens": lambda root: tables.load_tokens(),
    "fertility": lambda root: tables.load_fertility(),
    **{name: lambda root, of=of: tables.load_missing(*of) for name, of in tables.MISSING.items()},
}


def load(name: str | None = None, root: str | Path | None = None) -> Dataset:
    """Load a data set by its name. What was loaded last is remembered.

    - ``"mnist"`` and ``"fashion-mnist"`` (55,000 / 5,000 / 10,000 images of 1x28x28), ``"cifar10"``
      (45,000 / 5,000 / 10,000 of 3x32x32) and ``"svhn"`` (68,257 / 5,000 / 26,032 of 3x32x32):
      torchvision downloads them at the first use. The validation images are drawn from the
      training images under a fixed seed; the test images are the original ones.
      CIFAR-10 may also lie in folders ``cifar10/{train,test}/CLASS`` of PNG files, as many
      mirrors have it; either way its images come in the same order, one of the book's own.
    - ``"folder:PATH"``: your own images, all of one size, in 80 / 10 / 10 per cent. Subfolders,
      where there are any, are the classes.

    No files are needed for

    - ``"digits"``: scikit-learn's handwritten digits, 28x28 instead of 8x8: 1,197 / 200 / 400.
    - ``"textures"``: crops of 1x28x28 from scikit-image's photographs of brick, grass and gravel:
      12,000 / 600 / 3,000. No pixel of a photograph is in two splits.
    - ``"gaussian"``, ``"gaussian-rotated"``, ``"mixture"``, ``"ring"``, ``"pinwheel"``: the points
      of :mod:`vae_tutorial.data.toy`.
    - ``"python-tokens"``, ``"fertility"``, ``"breast-cancer-30-0"`` and its like: the rows of
      :mod:`vae_tutorial.data.tables`.

    Args:
        name: by default what the environment variable ``VAE_TUTORIAL_DATASET`` says, or MNIST.
        root: the folder that the files are in; by default :func:`data_root`.

    Raises:
        ValueError: for an unknown name, an empty folder, or images of different sizes.
        FileNotFoundError: where the files are neither there nor downloadable.
    """
    name = name or os.environ.get("VAE_TUTORIAL_DATASET") or "mnist"
    if name.startswith("folder:"):
        return sources.load_folder(Path(name.removeprefix("folder:")).expanduser())
    if name not in LOADERS:
        known = f"known are {', '.join(LOADERS)} and folder:PATH (a folder of your own images)"
        raise ValueError(f"unknown data set {name!r}; {known}")
    return _load(name, data_root(root))


@lru_cache(maxsize=6)
def _load(name: str, root: Path) -> Dataset:
    return LOADERS[name](root)


def load_first(*names: str) -> Dataset | None:
    """The first of these data sets that is to be had, or ``None``; it prints which are missing."""
    for name in names:
        try:
            return load(name)
        except FileNotFoundError:
            print(f"{name} is not on this machine")
    return None


def binarized(source: Dataset, *, seed: int = 0) -> Dataset:
    """A data set whose pixels are drawn **once** as black or white: static binarization.

    Each pixel is white with its grey value as the probability (Salakhutdinov & Murray 2008). The
    draw, under a seed, is part of the data from then on. To draw afresh for every batch is
    :func:`~vae_tutorial.likelihoods.binarize`.
    """
    random, drawn = torch.Generator().manual_seed(seed), []
    for split in source.splits:
        # Of 255 equally likely thresholds, as many lie below a byte as its value says: exact.
        threshold = torch.randint(0, 255, split.images.shape, generator=random, dtype=torch.uint8)
        drawn.append(Split((split.images > threshold).to(torch.uint8) * 255, split.labels))
    return Dataset(f"{source.name}-binarized", *drawn, source.classes)


def data_root(root: str | Path | None = None) -> Path:
    """``root``, or the environment variable ``VAE_TUTORIAL_DATA``, or ``data`` in the project."""
    return Path(root or os.environ.get("VAE_TUTORIAL_DATA") or project_root() / "data")


def project_root() -> Path:
    """The checkout around the working directory, or the working directory where there is none."""
    from pyhere import here

    with warnings.catch_warnings():  # where nothing is found, pyhere warns and answers with "/"
        warnings.simplefilter("ignore")
        found = Path(here())
    return found if found != Path(found.anchor) else Path.cwd()


def to_float(images: Tensor) -> Tensor:
    """Bytes to float32 in [0, 1]; everything else passes through."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def floats(*batch: Tensor) -> tuple[Tensor, ...]:
    """What a model reads of a stored batch: its bytes by :func:`to_float`, the rest as it is."""
    return tuple(map(to_float, batch))


def check_images(images: Tensor) -> Tensor:
    """Return the images, or say in a ValueError what is wrong with them and what to do.

    They must be a tensor (N, C, H, W) with N >= 1, uint8, or float32 without NaN in [0, 1].
    """
    wrong, shape = "", tuple(getattr(images, "shape", ()))
    if not isinstance(images, Tensor):
        wrong = f"{type(images).__name__}; use torch.as_tensor(...) for arrays, or data.load(...)"
    elif images.ndim != 4:
        hints = {2: "; flat rows need images.reshape(-1, C, H, W)",
                 3: "; add the channel axis: images.unsqueeze(1)"}  # fmt: skip
        wrong = f"{shape}{hints.get(images.ndim, '')}"
    elif not len(images):
        wrong = f"{shape}: the data set is empty"
    elif images.dtype not in (torch.uint8, torch.float32):
        wrong = f"{images.dtype}; convert with images.to(torch.uint8) or images.float()"
    elif images.dtype == torch.float32 and not ((images >= 0) & (images <= 1)).all():
        wrong = (f"values from {images.min():g} to {images.max():g}; divide 0-to-255 values by 255, "
                 "undo any normalization, remove NaN")  # fmt: skip
    if wrong:
        raise ValueError(f"expected images (N, C, H, W), uint8 or float32 in [0, 1], got {wrong}")
    return images
