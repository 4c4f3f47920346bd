"""Where data come from: one loader for each source, each to a :class:`Dataset`."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# name: torchvision's class, where it has its files, validation images, (training, test) images
TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw", 5000, (60_000, 10_000)),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw", 5000, (60_000, 10_000)),
    "cifar10": ("CIFAR10", "cifar-10-batches-py", 5000, (50_000, 10_000)),
    "svhn": ("SVHN", "*_32x32.mat", 5000, (73_257, 26_032)),
}
_TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10",
           "svhn": "SVHN"}  # fmt: skip
_IMAGE_FILES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Split:
    """Examples (N, ...) and labels (N,), int64.

    Images are uint8 (N, C, H, W), points float32 (N, 2), codes int64 (N, H, W).
    """

    examples: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def images(self) -> Tensor:
        """The examples where they are images, uint8 (N, C, H, W); a ValueError elsewhere."""
        if self.examples.dtype != torch.uint8 or self.examples.ndim != 4:
            got = f"{self.examples.dtype} {tuple(self.examples.shape)}; use .examples"
            raise ValueError(f"expected images, uint8 (N, C, H, W), got {got}")
        return self.examples


@dataclass(frozen=True)
class Dataset:
    """A data set in three parts that share no example.

    ``train`` is what training sees, ``validation`` what choices are made by, ``test`` what is
    reported, once. ``recipe`` says in words of its own what the examples were computed from; it is
    empty for those that were read from files.
    """

    name: str
    train: Split = field(repr=False)
    validation: Split = field(repr=False)
    test: Split = field(repr=False)
    classes: tuple[str, ...] = ()
    recipe: str = ""

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Training, validation, test."""
        return self.train, self.validation, self.test

    @property
    def title(self) -> str:
        """The name as a figure writes it."""
        return _TITLES.get(self.name, self.name)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.train.examples.shape[1:])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of images; a ValueError elsewhere."""
        return tuple(self.train.images.shape[1:])

    @property
    def sha256(self) -> str:
        """A checksum over the recipe, or else over every byte in order: a run names it."""
        digest = hashlib.sha256(self.recipe.encode())
        for split in () if self.recipe else self.splits:
            digest.update(np.ascontiguousarray(split.examples.numpy()))
            digest.update(np.ascontiguousarray(split.labels.numpy()))
        return digest.hexdigest()

    def __str__(self) -> str:
        sizes = " / ".join(f"{len(split):,}" for split in self.splits)
        kind = "images" if self.train.examples.dtype == torch.uint8 else "examples"
        return f"{self.name}: {sizes} {kind} (train / validation / test) of {self.example_shape}"


def _divide(split: Split, *sizes: int, in_order: bool = False) -> list[Split]:
    """What is left, and before it parts of these sizes, drawn once and for all; the last comes first.

    They are drawn, not cut off the end, for files have an order; ``in_order`` keeps it in a part.
    """
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(20131220))
    parts = order.tensor_split(np.cumsum(sizes).tolist())[::-1]
    parts = [part.sort().values if in_order else part for part in parts]
    return [Split(split.examples[i], split.labels[i]) for i in parts]


def load_torchvision(name: str, root: Path) -> Dataset:
    """MNIST, Fashion-MNIST, CIFAR-10 or SVHN, downloaded where they are not on disk."""
    train, test, classes = _from_torchvision(name, root)
    return Dataset(name, *_divide(train, TORCHVISION[name][2], in_order=True), test, classes)


def _from_torchvision(name: str, root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Training and test images in the order of the files, and the classes."""
    import torchvision

    class_name, place, _, sizes = TORCHVISION[name]
    source = getattr(torchvision.datasets, class_name)
    damage = f"the files of {name} in {root / place} are damaged or half downloaded"
    advice = "Delete them and load again to download afresh; nothing was changed."
    splits = []
    for part, size in zip(("train", "test"), sizes, strict=True):
        # SVHN names its splits; the others have a flag.
        which = {"split": part} if name == "svhn" else {"train": part == "train"}
        try:
            found = source(root=str(root), download=False, **which)
        except Exception as error:  # a damaged file fails in torchvision in many ways
            if not str(error).startswith("Dataset not found"):
                raise ValueError(f"{damage} ({error}). {advice}") from error
            found = _download(source, name, root, place, which)
        splits.append(_as_split(found))
        if not len(splits[-1]) == len(splits[-1].labels) == size:
            raise ValueError(f"{damage} (wrong number of images). {advice}")
    classes = tuple(str(c).split(" - ")[0] for c in getattr(found, "classes", "0123456789"))
    return *splits, classes


def _as_split(found) -> Split:
    """What one of torchvision's data sets holds."""
    images = torch.as_tensor(found.data)
    if images.ndim == 3:  # greys (N, H, W)
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:  # CIFAR-10's colours come last
        images = images.permute(0, 3, 1, 2)
    labels = found.targets if hasattr(found, "targets") else found.labels
    return Split(images.contiguous(), torch.as_tensor(labels).long())


def _download(source, name: str, root: Path, place: str, which: dict):
    try:
        return source(root=str(root), download=True, **which)
    except Exception as error:
        raise FileNotFoundError(
            f"{name} is not in {root}, and downloading it failed ({type(error).__name__}: {error}). "
            f"No network? Put torchvision's files at {root / place}, or name a folder "
            "that has them in the environment variable VAE_TUTORIAL_DATA, or use the bundled digits: "
            'data.load("digits"), or VAE_TUTORIAL_DATASET=digits for the chapters that use MNIST.'
        ) from error


def load_cifar10(root: Path) -> Dataset:
    """CIFAR-10 from torchvision's files, or from ``cifar10/{train,test}/CLASS/*.png``.

    Mirrors give the same images in other orders. So they are sorted by their bytes, then drawn:
    every reader has the same training, validation and test images, in the same places.
    """
    name, folder = "cifar10", root / "cifar10"
    if (root / TORCHVISION[name][1]).is_dir() or not folder.is_dir():
        train, test, classes = _from_torchvision(name, root)
    else:
        files = {part: sorted((folder / part).glob("*/*.png")) for part in ("train", "test")}
        classes = tuple(sorted({path.parent.name for path in files["train"]}))
        for (part, paths), size in zip(files.items(), TORCHVISION[name][3], strict=True):
            if len(paths) != size:
                raise ValueError(
                    f"{folder / part} holds {len(paths):,} images (CLASS/*.png), not {size:,}: it is "
                    "half unpacked. Unpack it again, or remove it and torchvision downloads CIFAR-10."
                )
        train, test = (_from_class_folders(paths, classes) for paths in files.values())
    (test,) = _divide(_by_bytes(test))
    return Dataset(name, *_divide(_by_bytes(train), TORCHVISION[name][2]), test, classes)


def _from_class_folders(paths: list[Path], classes: tuple[str, ...]) -> Split:
    images = torch.from_numpy(np.stack([_decode(path, "RGB") for path in paths]))
    labels = torch.tensor([classes.index(path.parent.name) for path in paths])
    return Split(images.permute(0, 3, 1, 2).contiguous(), labels)


def _by_bytes(split: Split) -> Split:
    """The same examples, smallest bytes first."""
    rows = split.examples.flatten(1).numpy()
    order = torch.tensor(sorted(range(len(split)), key=lambda i: rows[i].tobytes()))
    return Split(split.examples[order], split.labels[order])


def _decode(file: Path, mode: str | None = None) -> np.ndarray:
    """A picture's bytes (H, W) or (H, W, 3), in a mode or else in its own."""
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert(mode or ("L" if image.mode in ("1", "L") else "RGB")))


def load_textures() -> Dataset:
    """Crops at drawn places, each split from columns of its own of the 512x512 photographs."""
    from skimage import data as photographs

    generator = torch.Generator().manual_seed(20131220)
    classes, size = ("brick", "grass", "gravel"), 28
    splits = []
    for first, last, n in ((0, 344, 4000), (344, 396, 200), (396, 512, 1000)):
        crops = []
        for name in classes:
            photograph = torch.from_numpy(getattr(photographs, name)())  # (512, 512), uint8
            top = torch.randint(0, len(photograph) - size + 1, (n, 1, 1), generator=generator)
            left = torch.randint(first, last - size + 1, (n, 1, 1), generator=generator)
            crops.append(photograph[top + torch.arange(size)[:, None], left + torch.arange(size)])
        labels = torch.arange(len(classes)).repeat_interleave(n)
        splits.append(Split(torch.cat(crops).unsqueeze(1), labels))
    return Dataset("textures", *splits, classes)


def load_digits() -> Dataset:
    """scikit-learn's 8x8 digits, resized to 20x20 in a frame of 4 pixels, like MNIST's."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).double().div(16).unsqueeze(1)  # (1797, 1, 8, 8)
    large = F.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    # The weights are multiples of 1/4000, so what is rounded are multiples of 255 / 16 / 4000^2, about
    # 1e-6: ties go up, and the last bits, which differ between machines, decide nothing.
    images = F.pad(large.mul(255).add(1e-9).round().to(torch.uint8), (4, 4, 4, 4))
    everything = Split(images, torch.from_numpy(bunch.target).long())
    return Dataset("digits", *_divide(everything, 400, 200), tuple("0123456789"))


def load_folder(folder: Path) -> Dataset:
    """A reader's own images; the outermost subfolders are classes."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; write folder:PATH, the path of your images")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGE_FILES)
    if len(files) < 10:
        raise ValueError(
            f"{folder} holds {len(files)} images, at least 10 are needed (to split 80/10/10); "
            f"files that count end in {', '.join(sorted(_IMAGE_FILES))}"
        )
    arrays = []
    for path in files:
        try:
            arrays.append(_decode(path))
        except OSError as error:
            raise ValueError(f"{path} is damaged or no image ({error}); remove it") from error
    if len(sizes := {f"{a.shape[1]}x{a.shape[0]}" for a in arrays}) > 1:
        some = f"among them {sorted(sizes)[:4]}; crop or resize them to one"
        raise ValueError(f"the images in {folder} have different sizes, {some}")
    # Where some are grey and some are colour, all become colour: axes (C, H, W).
    arrays = np.broadcast_arrays(*(np.moveaxis(np.atleast_3d(a), -1, 0) for a in arrays))
    parents = [p.relative_to(folder).parts[0] if p.parent != folder else "" for p in files]
    classes, labels = np.unique(parents, return_inverse=True)
    everything = Split(torch.from_numpy(np.stack(arrays)).contiguous(), torch.from_numpy(labels))
    parts = _divide(everything, *[max(1, len(files) // 10)] * 2)
    return Dataset(f"folder:{folder.name}", *parts, tuple(classes.tolist()))
