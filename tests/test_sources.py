"""Where images come from: small files in the real formats, and the photographs of textures."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, SVHN

from vae_tutorial import data, sources


@pytest.fixture(autouse=True)
def _forget():
    """Loaders remember what they loaded; a test's files are new."""
    yield
    sources.load_torchvision.cache_clear()
    sources.load_jpeg_copy.cache_clear()


def md5(path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """CIFAR-10's python version: five batches and a test batch, rows of 3,072 bytes, pickled."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    lists = {"train_list": [f"data_batch_{i}" for i in range(1, 6)], "test_list": ["test_batch"]}
    written = {}
    for attribute, names in lists.items():
        entries = []
        for name in names:
            rows = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
            labels = rng.integers(0, 10, 4).tolist()
            (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
            entries.append([name, md5(folder / name)])
            written.setdefault(attribute, []).append((rows, labels))
        monkeypatch.setattr(CIFAR10, attribute, entries)
    meta = folder / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5(meta)})
    monkeypatch.setitem(sources._TORCHVISION, "cifar10", ("CIFAR10", 2, (20, 4)))
    return tmp_path, written


def test_cifar10_in_its_real_format(cifar10):
    root, written = cifar10
    loaded = data.load("cifar10", root)
    assert loaded.image_shape == (3, 32, 32)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (18, 2, 4)
    rows, labels = written["test_list"][0]
    # A row is 1,024 reds, then greens, then blues, each plane row by row.
    expected = torch.from_numpy(rows.reshape(4, 3, 32, 32))
    assert torch.equal(loaded.test.images, expected)
    assert loaded.test.labels.tolist() == labels
    assert loaded.classes[0] == "airplane" and loaded.classes[9] == "truck"  # noqa: PT018
    everything = np.concatenate([rows for rows, _ in written["train_list"]])
    both = torch.cat([loaded.train.images, loaded.validation.images]).flatten(1)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, everything.tolist()))


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """SVHN's cropped digits: Matlab files with X (32, 32, 3, N) and y (N, 1), zero as ten."""
    rng = np.random.default_rng(0)
    lists, written = {}, {}
    for split, n in (("train", 12), ("test", 5)):
        x = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        y = (np.arange(n) % 10 + 1).astype(np.uint8)[:, None]
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": x, "y": y})
        lists[split] = ["http://127.0.0.1:9/none", path.name, md5(path)]
        written[split] = x, y
    monkeypatch.setattr(SVHN, "split_list", SVHN.split_list | lists)
    monkeypatch.setitem(sources._TORCHVISION, "svhn", ("SVHN", 3, (12, 5)))
    return tmp_path, written


def test_svhn_in_its_real_format(svhn):
    root, written = svhn
    loaded = data.load("svhn", root)
    assert loaded.image_shape == (3, 32, 32)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (9, 3, 5)
    x, y = written["test"]
    for i in range(5):
        assert np.array_equal(loaded.test.images[i], x[..., i].transpose(2, 0, 1))
    assert loaded.test.labels.tolist() == (y[:, 0] % 10).tolist()
    everything = torch.cat([loaded.train.labels, loaded.validation.labels])
    assert 0 in everything.tolist()  # Matlab's ten
    assert loaded.classes == tuple("0123456789")


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_missing_colour_files_say_what_to_do(name, tmp_path, monkeypatch):
    def no_network(self):
        raise OSError("no route")

    monkeypatch.setattr({"cifar10": CIFAR10, "svhn": SVHN}[name], "download", no_network)
    with pytest.raises(FileNotFoundError, match=r"No network\? Put torchvision's files at"):
        data.load(name, tmp_path)


def test_a_wrong_number_of_images_is_damage(cifar10, monkeypatch):
    monkeypatch.setitem(sources._TORCHVISION, "cifar10", ("CIFAR10", 2, (50_000, 4)))
    with pytest.raises(ValueError, match="wrong number of images"):
        data.load("cifar10", cifar10[0])


def jpeg(colour, mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (32, 32), colour).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def jpeg_files() -> dict[str, bytes]:
    files = {}
    for i in range(20):
        files[f"train/{'cat' if i % 2 else 'bird'}/{i:04d}.jpg"] = jpeg((10 * i, 0, 200))
    for i in range(4):
        files[f"test/{'cat' if i % 2 else 'bird'}/{i:04d}.jpg"] = jpeg((0, 50 * i, 0))
    return files


def test_the_jpeg_copy_is_the_same_from_its_folder_and_its_archive(tmp_path):
    for name, content in jpeg_files().items():
        path = tmp_path / "one" / "cifar10-jpeg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "two").mkdir()
    with tarfile.open(tmp_path / "two" / "cifar10-jpeg.tar.xz", "w:xz") as tar:
        for name, content in reversed(jpeg_files().items()):  # its order does not matter
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    one, two = (data.load("cifar10-jpeg", tmp_path / folder) for folder in ("one", "two"))
    assert one.sha256 == two.sha256
    assert one.name == "cifar10-jpeg"
    assert one.classes == ("bird", "cat")
    assert (len(one.train), len(one.validation), len(one.test)) == (18, 2, 4)
    assert one.test.labels.tolist() == [0, 0, 1, 1]  # by class, then by name
    greens = one.test.images[:, 1].float().mean((1, 2))
    assert torch.allclose(greens, torch.tensor([0.0, 100.0, 50.0, 150.0]), atol=3)


def test_no_jpeg_copy_says_what_to_use_instead(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'data.load\("cifar10"\)'):
        data.load("cifar10-jpeg", tmp_path)


def test_textures_are_crops_of_the_photographs():
    from skimage import data as photographs

    textures = data.load("textures")
    assert textures.image_shape == (1, 28, 28)
    assert (len(textures.train), len(textures.validation), len(textures.test)) == (12000, 600, 3000)
    assert textures.classes == ("brick", "grass", "gravel")
    columns = {"train": (0, 344), "validation": (344, 396), "test": (396, 512)}
    assert columns["train"][1] <= columns["validation"][0]  # the parts share no pixel
    assert columns["validation"][1] <= columns["test"][0]
    for name, (first, last) in columns.items():
        split = getattr(textures, name)
        assert split.labels.bincount().tolist() == [len(split) // 3] * 3
        for label in range(3):
            photograph = getattr(photographs, textures.classes[label])()
            part = np.lib.stride_tricks.sliding_window_view(photograph[:, first:last], (28, 28))
            for image in split.images[split.labels == label][:: len(split) // 30, 0].numpy():
                corner = part[:, :, 0, 0] == image[0, 0]  # few places need a closer look
                assert (part[corner] == image).all((1, 2)).any()


def test_loading_textures_twice_gives_the_same_crops():
    first = data.load("textures").sha256
    sources.load_textures.cache_clear()
    assert data.load("textures").sha256 == first
