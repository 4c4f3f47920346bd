"""Images as tensors: ``load`` by name, bytes in one piece, batches sliced from them.

Images stay uint8 (N, C, H, W); a batch becomes float32 in [0, 1] where it is used.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("mnist", "fashion-mnist", "digits")
_TORCHVISION = {"mnist": ("MNIST", 5000), "fashion-mnist": ("FashionMNIST", 5000)}
_IMAGE_FILES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), uint8, and labels (N,), int64."""

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ImageData:
    """A data set in three parts that share no image.

    ``train`` is what training sees, ``validation`` what choices are made by, ``test`` what is
    reported, once.
    """

    name: str
    train: Split = field(repr=False)
    validation: Split = field(repr=False)
    test: Split = field(repr=False)
    classes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])

    @property
    def sha256(self) -> str:
        """A checksum over every pixel and label, in order: a run's configuration names it."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(np.ascontiguousarray(split.images.numpy()))
            digest.update(np.ascontiguousarray(split.labels.numpy()))
        return digest.hexdigest()

    def __str__(self) -> str:
        parts = f"{len(self.train):,} / {len(self.validation):,} / {len(self.test):,}"
        return f"{self.name}: {parts} images (train / validation / test) of {self.image_shape}"


def load(name: str | None = None, root: str | Path | None = None) -> ImageData:
    """Load a data set by its name.

    - ``"mnist"``, ``"fashion-mnist"``: 55,000 / 5,000 / 10,000 images of 1x28x28, through
      torchvision, which downloads them at the first use. The validation images are drawn from
      the 60,000 training images under a fixed seed; the test images are the original ones.
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
        return _load_folder(Path(name.removeprefix("folder:")).expanduser())
    if name not in NAMES:
        raise ValueError(
            f"unknown data set {name!r}; known are {', '.join(NAMES)} and folder:PATH "
            "(a folder of your own images)"
        )
    if name == "digits":
        return _load_digits()
    return _load_torchvision(name, data_root(root))


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
    if not (low >= 0 and high <= 1):  # written so that NaN fails it, too
        raise ValueError(
            f"expected values in [0, 1], got values from {low:g} to {high:g}; "
            "divide 0-to-255 values by 255, undo any normalization, remove NaN"
        )
    return images


# ------------------------------------------------------------------------------ the sources


@lru_cache(maxsize=4)
def _load_torchvision(name: str, root: Path) -> ImageData:
    import torchvision

    class_name, n_validation = _TORCHVISION[name]
    source = getattr(torchvision.datasets, class_name)
    parts = {}
    for train in (True, False):
        try:
            part = source(root=str(root), train=train, download=False)
            complete = part.data.shape == ((60000 if train else 10000), 28, 28)
        except Exception as error:  # a damaged file fails in torchvision in many ways
            if not str(error).startswith("Dataset not found"):
                raise ValueError(_damaged(name, root, class_name, error)) from error
            part = _download(source, name, root, train)
            complete = True
        if not complete or len(part.targets) != len(part.data):
            raise ValueError(_damaged(name, root, class_name, "wrong number of images"))
        parts[train] = part.data.unsqueeze(1).contiguous(), part.targets.long()
    images, labels = parts[True]
    # A fixed draw, not the last ones: the files are not in a random order.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(20131220))
    val, train = order[:n_validation].sort().values, order[n_validation:].sort().values
    names = (
        tuple(str(c).split(" - ")[0] for c in source.classes) if name == "mnist" else source.classes
    )
    return ImageData(
        name,
        Split(images[train], labels[train]),
        Split(images[val], labels[val]),
        Split(*parts[False]),
        tuple(names),
    )


def _damaged(name: str, root: Path, class_name: str, error: object) -> str:
    return (
        f"the files of {name} in {root / class_name / 'raw'} are damaged or half downloaded ({error}). "
        "Delete that folder and load again to download afresh; nothing was changed."
    )


def _download(source, name: str, root: Path, train: bool):
    try:
        return source(root=str(root), train=train, download=True)
    except Exception as error:
        raise FileNotFoundError(
            f"{name} is not in {root}, and downloading it failed ({type(error).__name__}: {error}). "
            f"No network? Put torchvision's files at {root / source.__name__ / 'raw'}, or name a folder "
            "that has them in the environment variable VAE_TUTORIAL_DATA, or use the bundled digits: "
            'data.load("digits"), or VAE_TUTORIAL_DATASET=digits for the chapters that use MNIST.'
        ) from error


@lru_cache(maxsize=1)
def _load_digits() -> ImageData:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)  # (1797, 1, 8, 8) in [0, 1]
    # 8x8 to 20x20 in a frame of 4 pixels, like MNIST's digits.
    large = F.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    images = F.pad(large, (4, 4, 4, 4)).mul(255).round().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    return _split("digits", images, labels, 200, 400, tuple("0123456789"))


def _split(name, images, labels, n_validation, n_test, classes) -> ImageData:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(20131220))
    test, val, train = order.split([n_test, n_validation, len(images) - n_test - n_validation])
    pick = [Split(images[i], labels[i]) for i in (train, val, test)]
    return ImageData(name, *pick, classes)


def _load_folder(folder: Path) -> ImageData:
    from PIL import Image

    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder; write folder:PATH with the path of your images"
        )
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGE_FILES)
    if len(files) < 10:
        raise ValueError(
            f"{folder} holds {len(files)} images, at least 10 are needed (to split 80/10/10); "
            f"files that count end in {', '.join(sorted(_IMAGE_FILES))}"
        )
    arrays = []
    for path in files:
        try:
            with Image.open(path) as image:
                arrays.append(np.asarray(image.convert("L" if image.mode in "1L" else "RGB")))
        except OSError as error:
            raise ValueError(
                f"{path} is damaged or no image ({error}); restore or remove it"
            ) from error
    shapes = {a.shape for a in arrays}
    if len({s[:2] for s in shapes}) > 1:
        raise ValueError(
            f"the images in {folder} have different sizes, among them "
            f"{sorted({f'{s[1]}x{s[0]}' for s in shapes})[:4]}; crop or resize them to one"
        )
    if len(shapes) > 1:  # some grey, some colour: all become colour
        arrays = [a if a.ndim == 3 else np.repeat(a[..., None], 3, -1) for a in arrays]
    stacked = np.stack(arrays)
    images = torch.from_numpy(stacked if stacked.ndim == 4 else stacked[..., None])
    images = images.permute(0, 3, 1, 2).contiguous()
    parents = [p.relative_to(folder).parts[0] if p.parent != folder else "" for p in files]
    classes = tuple(sorted(set(parents)))
    labels = torch.tensor([classes.index(p) for p in parents])
    tenth = max(1, len(files) // 10)
    return _split(f"folder:{folder.name}", images, labels, tenth, tenth, classes)
