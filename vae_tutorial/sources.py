"""Where images come from: one loader a source, each to an :class:`ImageData` of bytes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "svhn": tuple("0123456789"),
}  # fmt: skip
# name: torchvision's class, validation images, (training, test) images
_TORCHVISION = {
    "mnist": ("MNIST", 5000, (60_000, 10_000)),
    "fashion-mnist": ("FashionMNIST", 5000, (60_000, 10_000)),
    "cifar10": ("CIFAR10", 5000, (50_000, 10_000)),
    "svhn": ("SVHN", 5000, (73_257, 26_032)),
}
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

    Args:
        origin: what the images were computed from, in words that tell it from anything else;
            empty for images that were read from files.
    """

    name: str
    train: Split = field(repr=False)
    validation: Split = field(repr=False)
    test: Split = field(repr=False)
    classes: tuple[str, ...] = ()
    origin: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])

    @property
    def sha256(self) -> str:
        """A checksum over every pixel and label, in order: a run's configuration names it.

        Of computed images it is one over their origin: another machine's rounding may move a few
        values, and that makes no other data set.
        """
        digest = hashlib.sha256(self.origin.encode())
        if self.origin:
            return digest.hexdigest()
        for split in (self.train, self.validation, self.test):
            digest.update(np.ascontiguousarray(split.images.numpy()))
            digest.update(np.ascontiguousarray(split.labels.numpy()))
        return digest.hexdigest()

    def __str__(self) -> str:
        parts = f"{len(self.train):,} / {len(self.validation):,} / {len(self.test):,}"
        return f"{self.name}: {parts} images (train / validation / test) of {self.image_shape}"


@lru_cache(maxsize=4)
def load_torchvision(name: str, root: Path) -> ImageData:
    """MNIST, Fashion-MNIST, CIFAR-10 or SVHN, downloaded where they are not on disk."""
    import torchvision

    class_name, n_validation, sizes = _TORCHVISION[name]
    source = getattr(torchvision.datasets, class_name)
    parts = {}
    for train, size in zip((True, False), sizes, strict=True):
        # SVHN names its splits; the others have a flag.
        split = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
        try:
            images, labels = _as_tensors(source(root=str(root), download=False, **split))
        except Exception as error:  # a damaged file fails in torchvision in many ways
            if not str(error).startswith("Dataset not found"):
                raise ValueError(_damaged(name, root, class_name, error)) from error
            images, labels = _as_tensors(_download(source, name, root, split))
        if not len(images) == len(labels) == size:
            raise ValueError(_damaged(name, root, class_name, "wrong number of images"))
        parts[train] = images, labels
    images, labels = parts[True]
    # A fixed draw, not the last ones: the files are not in a random order.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(20131220))
    val, train = order[:n_validation].sort().values, order[n_validation:].sort().values
    return ImageData(
        name,
        Split(images[train], labels[train]),
        Split(images[val], labels[val]),
        Split(*parts[False]),
        _CLASSES.get(name) or tuple(str(c).split(" - ")[0] for c in source.classes),
    )


def _as_tensors(source) -> tuple[Tensor, Tensor]:
    """The arrays of one of torchvision's data sets as images (N, C, H, W) and labels (N,)."""
    images = torch.as_tensor(source.data)
    if images.ndim == 3:  # greys (N, H, W)
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:  # CIFAR-10's colours come last
        images = images.permute(0, 3, 1, 2)
    labels = source.targets if hasattr(source, "targets") else source.labels
    return images.contiguous(), torch.as_tensor(labels).long()


def _place(root: Path, class_name: str) -> Path:
    """Where torchvision puts the files of a data set."""
    folders = {"CIFAR10": "cifar-10-batches-py", "SVHN": "*_32x32.mat"}
    return root / folders.get(class_name, f"{class_name}/raw")


def _damaged(name: str, root: Path, class_name: str, error: object) -> str:
    return (
        f"the files of {name} in {_place(root, class_name)} are damaged or half downloaded ({error}). "
        "Delete them and load again to download afresh; nothing was changed."
    )


def _download(source, name: str, root: Path, split: dict):
    try:
        return source(root=str(root), download=True, **split)
    except Exception as error:
        raise FileNotFoundError(
            f"{name} is not in {root}, and downloading it failed ({type(error).__name__}: {error}). "
            f"No network? Put torchvision's files at {_place(root, source.__name__)}, or name a folder "
            "that has them in the environment variable VAE_TUTORIAL_DATA, or use the bundled digits: "
            'data.load("digits"), or VAE_TUTORIAL_DATASET=digits for the chapters that use MNIST.'
        ) from error


@lru_cache(maxsize=1)
def load_jpeg_copy(root: Path) -> ImageData:
    """The JPEG copy of CIFAR-10, from its folder or straight from its archive."""
    folder, archive = root / "cifar10-jpeg", root / "cifar10-jpeg.tar.xz"
    found: dict[str, list] = {"train": [], "test": []}  # (class, name, the file's bytes)
    if folder.is_dir():
        for path in sorted(folder.glob("*/*/*.jpg")):
            if path.parts[-3] in found:
                found[path.parts[-3]].append((*path.parts[-2:], path.read_bytes()))
    elif archive.is_file():
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = Path(member.name).parts
                if member.isfile() and len(parts) == 3 and parts[0] in found:
                    found[parts[0]].append((*parts[1:], tar.extractfile(member).read()))
    if not (found["train"] and found["test"]):
        raise FileNotFoundError(
            f"there is no JPEG copy of CIFAR-10 in {root} (neither cifar10-jpeg/train/CLASS/*.jpg nor "
            'cifar10-jpeg.tar.xz), and it is not for download. Use data.load("cifar10"), which '
            "torchvision downloads, or name a folder that has the copy in VAE_TUTORIAL_DATA."
        )
    classes = tuple(sorted({name for name, _, _ in found["train"]}))

    def decode(files: list) -> tuple[Tensor, Tensor]:
        files = sorted(files, key=lambda file: file[:2])
        images = np.stack([_decode_colour(content) for _, _, content in files])
        labels = torch.tensor([classes.index(name) for name, _, _ in files])
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels

    (images, labels), test = decode(found["train"]), decode(found["test"])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(20131220))
    val, train = (part.sort().values for part in order.tensor_split([len(images) // 10]))
    parts = [Split(images[i], labels[i]) for i in (train, val)]
    return ImageData("cifar10-jpeg", *parts, Split(*test), classes)


def _decode_colour(content: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


@lru_cache(maxsize=1)
def load_textures() -> ImageData:
    """Crops at drawn places, each split from columns of its own of the 512x512 photographs."""
    from skimage import data as photographs

    generator = torch.Generator().manual_seed(20131220)
    classes, size = ("brick", "grass", "gravel"), 28
    columns = {"train": (0, 344, 4000), "validation": (344, 396, 200), "test": (396, 512, 1000)}
    splits = []
    for first, last, n in columns.values():
        crops = []
        for name in classes:
            photograph = torch.from_numpy(getattr(photographs, name)())  # (512, 512), uint8
            top = torch.randint(0, len(photograph) - size + 1, (n,), generator=generator)
            left = torch.randint(first, last - size + 1, (n,), generator=generator)
            crops += [
                photograph[y : y + size, x : x + size]
                for y, x in zip(top.tolist(), left.tolist(), strict=True)
            ]
        labels = torch.arange(len(classes)).repeat_interleave(n)
        splits.append(Split(torch.stack(crops).unsqueeze(1), labels))
    return ImageData("textures", *splits, classes)


@lru_cache(maxsize=1)
def load_digits() -> ImageData:
    """scikit-learn's 8x8 digits, resized to 28x28."""
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


def load_folder(folder: Path) -> ImageData:
    """A reader's own images; subfolders are classes."""
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
