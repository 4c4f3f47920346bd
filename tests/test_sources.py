"""Where data come from: small files in the real formats, and the photographs of textures."""

import gzip
import pickle
import struct
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.io
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, SVHN

from vae_tutorial import data
from vae_tutorial.data import sources


@pytest.fixture
def download(monkeypatch):
    """Torchvision's attempts to download, none of which succeeds."""
    refuse = Mock(side_effect=OSError("no route to host"))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setattr(CIFAR10, "download", refuse)
    monkeypatch.setattr(SVHN, "download", refuse)
    return refuse


def sizes(loaded) -> list[int]:
    return [len(split) for split in loaded.splits]


def test_digits_are_resized_to_the_nearest_level_in_a_frame(digits):
    assert sizes(digits) == [1197, 200, 400]
    assert digits.classes == tuple("0123456789")
    assert all(set(split.labels.tolist()) == set(range(10)) for split in digits.splits)
    small = torch.from_numpy(load_digits().images)[:, None] / 16
    large = F.pad(F.interpolate(small, size=(20, 20), mode="bicubic"), (4, 4, 4, 4)).clamp(0, 1)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(20131220))
    made = torch.cat([digits.test.images, digits.validation.images, digits.train.images])
    assert made.dtype == torch.uint8
    assert (255 * large[order] - made).abs().max() <= 0.5 + 1e-9


def test_textures_are_crops_of_the_photographs():
    from skimage import data as photographs

    textures = data.load("textures")
    assert textures.image_shape == (1, 28, 28)
    assert sizes(textures) == [12000, 600, 3000]
    assert textures.classes == ("brick", "grass", "gravel")
    columns = ((0, 344), (344, 396), (396, 512))  # the parts share no pixel
    for split, (first, last) in zip(textures.splits, columns, strict=True):
        for label, name in enumerate(textures.classes):
            photograph = getattr(photographs, name)()[:, first:last]
            part = np.lib.stride_tricks.sliding_window_view(photograph, (28, 28))
            images = split.images[split.labels == label, 0]
            assert len(images) == len(split) // 3
            for image in images[:: len(split) // 30].numpy():
                corner = part[:, :, 0, 0] == image[0, 0]  # few places need a closer look
                assert (part[corner] == image).all((1, 2)).any()


@pytest.mark.mnist
def test_mnist(mnist):
    assert sizes(mnist) == [55_000, 5_000, 10_000]
    rows = torch.cat([split.images for split in mnist.splits]).flatten(1).numpy()
    assert len({row.tobytes() for row in rows}) == 70_000  # no image is in two parts
    # The checksums that committed runs name: every image, label, and validation image drawn.
    assert mnist.sha256.startswith("9df426e8899e765d")
    assert data.binarized(mnist).sha256.startswith("009e53f6c1b99f29")


def write_idx(path, array: np.ndarray) -> None:
    """A file in MNIST's format."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A small MNIST in torchvision's layout under ``tmp_path``: black, but for one white pixel."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for stem, n in (("train", 12), ("t10k", 5)):
        images = np.zeros((n, 28, 28))
        images[0, 3, 4] = 255
        write_idx(folder / f"{stem}-images-idx3-ubyte", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", np.arange(n) % 10)
    monkeypatch.setitem(sources.TORCHVISION, "mnist", ("MNIST", "MNIST/raw", 2, (12, 5)))
    return folder


def test_mnist_layout_in_a_root_of_ones_own(tmp_path, raw, download, monkeypatch):
    loaded = data.load("mnist", root=tmp_path)
    assert sizes(loaded) == [10, 2, 5]
    assert loaded.test.images[0, 0, 3, 4] == loaded.test.images.sum() == 255  # axes in their order
    assert loaded.test.labels.tolist() == [*range(5)]
    assert loaded.classes == tuple("0123456789")  # not "0 - zero", as torchvision names them
    monkeypatch.setenv("VAE_TUTORIAL_DATA", str(tmp_path))
    monkeypatch.delenv("VAE_TUTORIAL_DATASET", raising=False)
    assert data.load() is loaded  # both variables' defaults, and nothing is read twice
    assert not download.called


@pytest.mark.parametrize("keep", [0, 3, 10, 17])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                  "t10k-images-idx3-ubyte"])  # fmt: skip
def test_half_downloaded_files_are_named_and_kept(tmp_path, raw, download, name, keep):
    path = raw / name
    content = path.read_bytes()[:keep]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{raw} are damaged or half downloaded.*Delete them"):
        data.load("mnist", root=tmp_path)
    assert path.read_bytes() == content
    assert not download.called


def test_too_few_images_are_damage(tmp_path, raw, download):
    write_idx(raw / "t10k-images-idx3-ubyte", np.zeros((4, 28, 28)))
    write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros(4))
    with pytest.raises(ValueError, match="wrong number of images"):
        data.load("mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "place"),
    [("mnist", "MNIST/raw"), ("cifar10", "cifar-10-batches-py"), ("svhn", r"\*_32x32.mat")],
)
def test_no_data_and_download_says_what_to_do(tmp_path, download, name, place):
    if name == "mnist":  # a download that broke off: the archive is there in part
        (tmp_path / place).mkdir(parents=True)
        part = tmp_path / place / "train-images-idx3-ubyte.gz"
        part.write_bytes(gzip.compress(bytes(1000))[:20])
    expected = f"no route to host.*{tmp_path}/{place}.*VAE_TUTORIAL_DATASET=digits"
    with pytest.raises(FileNotFoundError, match=expected):
        data.load(name, root=tmp_path)
    assert download.called


def write_cifar10(root, classes=tuple("abcdefghij")):
    """The python version: five batches and a test batch, rows of 3,072 bytes, pickled."""
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (24, 3072), dtype=np.uint8)
    labels = rng.integers(0, len(classes), 24).tolist()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    content = [{"data": rows[i : i + 4], "labels": labels[i : i + 4]} for i in range(0, 24, 4)]
    for name, part in zip(names, [*content, {"label_names": list(classes)}], strict=True):
        (folder / name).write_bytes(pickle.dumps(part))
    return rows, labels


def test_cifar10_in_its_real_format(tmp_path, monkeypatch):
    rows, labels = write_cifar10(tmp_path)
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", Mock())  # of the real files
    monkeypatch.setitem(
        sources.TORCHVISION, "cifar10", ("CIFAR10", CIFAR10.base_folder, 2, (20, 4))
    )
    loaded = data.load("cifar10", tmp_path)
    assert sizes(loaded) == [18, 2, 4]
    assert loaded.image_shape == (3, 32, 32)
    assert loaded.classes == tuple("abcdefghij")
    # A row is 1,024 reds, then greens, then blues, each plane row by row.
    place = {row.tobytes(): i for i, row in enumerate(rows)}
    found = [[place[image.numpy().tobytes()] for image in s.images] for s in loaded.splits]
    assert sorted([*found[0], *found[1]]) == list(range(20))
    assert sorted(found[2]) == list(range(20, 24))
    for split, places in zip(loaded.splits, found, strict=True):  # each with its own label
        assert split.labels.tolist() == [labels[i] for i in places]


def test_svhn_in_its_real_format(tmp_path, monkeypatch):
    """Cropped digits: Matlab files with X (32, 32, 3, N) and y (N, 1), zero as ten."""
    for split, n in (("train", 12), ("test", 5)):
        x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        content = {"X": x, "y": (10 - np.arange(n) % 10).astype(np.uint8)[:, None]}
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", content)
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", Mock())  # of the real files
    monkeypatch.setitem(sources.TORCHVISION, "svhn", ("SVHN", "", 3, (12, 5)))
    loaded = data.load("svhn", tmp_path)
    assert sizes(loaded) == [9, 3, 5]
    assert np.array_equal(loaded.test.images, x.transpose(3, 2, 0, 1))
    assert loaded.test.labels.tolist() == [0, 9, 8, 7, 6]  # Matlab's ten is zero
    assert loaded.classes == tuple("0123456789")


def test_cifar10_is_the_same_from_torchvisions_files_and_from_class_folders(tmp_path, monkeypatch):
    """Whatever the order of a mirror's files: the same bytes in the same places."""
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", Mock())  # of the real files
    monkeypatch.setitem(
        sources.TORCHVISION, "cifar10", ("CIFAR10", CIFAR10.base_folder, 2, (20, 4))
    )
    images, labels = write_cifar10(tmp_path / "one", classes=("bird", "cat"))
    for i, number in enumerate(np.random.default_rng(1).permutation(24)):
        place = (
            tmp_path
            / "two"
            / "cifar10"
            / ("train" if i < 20 else "test")
            / ("bird", "cat")[labels[i]]
        )
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i].reshape(3, 32, 32).transpose(1, 2, 0)).save(
            place / f"{number:05}.png"
        )
    one, two = (data.load("cifar10", tmp_path / folder) for folder in ("one", "two"))
    assert one.sha256 == two.sha256
    assert sizes(one) == sizes(two) == [18, 2, 4]
    assert one.classes == two.classes == ("bird", "cat")
    # Sorted by their bytes, and then drawn: no split begins with the darkest corners.
    assert one.test.images.flatten(1).tolist() != sorted(images[20:].tolist())
    assert sorted(one.test.images.flatten(1).tolist()) == sorted(images[20:].tolist())
    (tmp_path / "two" / "cifar10" / "test" / "cat" / "99999.png").touch()
    data._load.cache_clear()
    with pytest.raises(ValueError, match="half unpacked"):
        data.load("cifar10", tmp_path / "two")


def write_images(folder, n=12, size=(9, 7), seed=0, cut=None) -> None:
    """Noise of a size (width, height, and 3 where it has colours); ``cut`` leaves few bytes of one."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (n, size[1], size[0], *size[2:])
    for i, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    if cut is not None:
        (folder / "004.png").write_bytes((folder / "004.png").read_bytes()[:cut])


def test_folder_of_grey_images(tmp_path):
    write_images(tmp_path, n=20)
    (tmp_path / "notes.txt").write_text("not an image")
    loaded = data.load(f"folder:{tmp_path}")
    assert sizes(loaded) == [16, 2, 2]
    assert loaded.image_shape == (1, 7, 9)
    originals = [np.asarray(Image.open(p)).tobytes() for p in tmp_path.glob("*.png")]
    found = [i.numpy().tobytes() for split in loaded.splits for i in split.images]
    assert sorted(found) == sorted(originals)  # each in one part
    assert data.load(f"folder:{tmp_path}").sha256 == loaded.sha256


def test_folder_with_classes_and_colour_images(tmp_path):
    write_images(tmp_path / "cats" / "tabby", n=5)  # the outermost folder is the class
    write_images(tmp_path / "cats" / "persian", n=4, seed=2)
    write_images(tmp_path / "dogs", n=9, size=(9, 7, 3), seed=1)
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.image_shape == (3, 7, 9)
    assert loaded.classes == ("cats", "dogs")
    for split in loaded.splits:
        is_grey = [bool((i == i[:1]).all()) for i in split.images]
        assert is_grey == [label == 0 for label in split.labels.tolist()]


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: None, "is not a folder"),
    (lambda p: p.mkdir(), "holds 0 images"),
    (lambda p: write_images(p, n=9), "holds 9 images"),
    (lambda p: (write_images(p), write_images(p / "more", size=(8, 8))), "8x8.*9x7"),
    (lambda p: write_images(p, cut=4), r"004\.png is damaged"),
    (lambda p: write_images(p, size=(60, 60), cut=500), r"004\.png is damaged"),
])  # fmt: skip
def test_folders_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(ValueError, match=message):
        data.load(f"folder:{tmp_path / 'images'}")
