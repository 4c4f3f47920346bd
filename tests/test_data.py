"""Data sets by name, their checksums and shapes, and what is said about images that are none."""

import hashlib
import re
import shutil

import pytest
import torch
from conftest import ROOT

from vae_tutorial import data
from vae_tutorial.data import Dataset, Split

BYTES = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2)
LABELS = torch.arange(6)


def dataset(examples=BYTES, labels=LABELS, **others) -> Dataset:
    rest = [Split(examples[:2], labels[:2]), Split(examples[2:3], labels[2:3])]
    return Dataset("greys", Split(examples, labels), *rest, **others)


def test_images_know_their_shape_and_other_examples_do_not_pass_for_images():
    greys = dataset(classes=("one",))
    titles = [Dataset(name, *greys.splits).title for name in ("cifar10", "ring")]
    assert titles == ["CIFAR-10", "ring"]
    assert str(greys) == "greys: 6 / 2 / 1 images (train / validation / test) of (1, 2, 2)"
    assert greys.example_shape == greys.image_shape == (1, 2, 2)
    assert torch.equal(greys.train.images, BYTES)
    points, codes = dataset(torch.zeros(6, 2)), dataset(torch.zeros(6, 4, 4, dtype=torch.int64))
    assert str(points) == "greys: 6 / 2 / 1 examples (train / validation / test) of (2,)"
    assert codes.example_shape == (4, 4)
    for other in (points, codes, dataset(BYTES[:, 0]), dataset(BYTES / 255)):
        for use in (lambda d: d.image_shape, lambda d: d.test.images, data.binarized):
            with pytest.raises(ValueError, match="expected images"):
                use(other)


def test_the_checksum_is_over_every_byte_or_else_over_the_recipe():
    in_order = [part for split in dataset().splits for part in (split.examples, split.labels)]
    content = b"".join(part.numpy().tobytes() for part in in_order)
    assert dataset().sha256 == hashlib.sha256(content).hexdigest()
    turned = BYTES.transpose(2, 3).contiguous().transpose(2, 3)  # the same in other strides
    assert dataset(turned).sha256 == dataset().sha256
    made = dataset(BYTES.flip(0), recipe="points, seed 0").sha256
    assert made == hashlib.sha256(b"points, seed 0").hexdigest()


def test_a_source_is_one_entry_and_the_first_that_is_there_is_loaded(monkeypatch, tmp_path, capsys):
    def missing(root):
        raise FileNotFoundError(root)

    names = ("mnist", "fashion-mnist", "cifar10", "svhn", "digits", "textures",
             "gaussian", "gaussian-rotated", "mixture", "ring", "pinwheel",
             "python-tokens", "fertility", *data.tables.MISSING)  # fmt: skip
    with pytest.raises(ValueError, match=f"{', '.join(names)} and folder:PATH"):
        data.load_first("minst", "digits")  # a wrong name is no missing file
    found = dataset()
    monkeypatch.setenv("VAE_TUTORIAL_DATA", str(tmp_path))
    monkeypatch.setitem(data.LOADERS, "gone", missing)
    monkeypatch.setitem(data.LOADERS, "here", lambda root: found if root == tmp_path else None)
    assert data.load("here") is found
    assert data.load_first("gone", "here", "digits") is found
    assert capsys.readouterr().out == "gone is not on this machine\n"
    assert data.load_first("gone") is None


def test_the_environment_names_the_data_set_and_its_folder(monkeypatch, tmp_path, recwarn):
    monkeypatch.setenv("VAE_TUTORIAL_DATASET", "digits")
    assert data.load().name == "digits"
    monkeypatch.setenv("VAE_TUTORIAL_DATA", str(tmp_path / "there"))
    assert data.data_root(tmp_path) == tmp_path
    assert data.data_root() == tmp_path / "there"
    monkeypatch.delenv("VAE_TUTORIAL_DATA")  # in the checkout then, or in the working directory
    checkout = tmp_path / "checkout"
    (checkout / "notebooks").mkdir(parents=True)
    (checkout / ".git").mkdir()
    monkeypatch.chdir(checkout / "notebooks")
    assert data.data_root() == checkout / "data"
    (checkout / ".git").rmdir()
    assert data.data_root() == checkout / "notebooks" / "data"
    # The repository's own .here file marks its root where there is no .git: a downloaded archive.
    shutil.copy(ROOT / ".here", checkout)
    assert data.data_root() == checkout / "data"
    assert not recwarn.list


def test_bytes_become_floats_and_all_else_stays():
    grey = torch.tensor([0, 51, 255], dtype=torch.uint8)
    others = torch.arange(3), torch.randn(3, 2)
    images, *same = data.floats(grey, *others)
    torch.testing.assert_close(images, torch.tensor([0, 0.2, 1]))
    assert grey.tolist() == [0, 51, 255]
    assert [id(part) for part in same] == [id(part) for part in others]


GOOD = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("images", "message"), [
    (GOOD[:, 0], "images.unsqueeze(1)"),
    (GOOD.flatten(1), "images.reshape("),
    (GOOD[:0], "empty"),
    (GOOD * 255, "divide"),
    (GOOD - 0.5, "normalization"),
    (GOOD.log().sqrt(), "NaN"),
    (GOOD.double(), "images.float()"),
    (GOOD.long(), "torch.int64"),
    (GOOD.numpy(), "torch.as_tensor"),
    (torch.full((2, 2, 1, 1), 3.0), "divide"),  # one pixel is an image, not a point
])  # fmt: skip
def test_bad_images_are_refused_in_words(images, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data.check_images(images)
    for good in (GOOD, (GOOD * 255).to(torch.uint8)):
        assert data.check_images(good) is good


def test_static_binarization_is_drawn_once_with_the_greys_as_probabilities():
    n, levels = 3000, torch.tensor([0, 1, 64, 128, 254, 255], dtype=torch.uint8)
    split = Split(levels.reshape(1, 1, 1, 6).repeat(n, 1, 1, 1), torch.zeros(n, dtype=torch.int64))
    source = Dataset("greys", split, split, split, ("one",))
    drawn = data.binarized(source)
    assert (drawn.name, drawn.classes) == ("greys-binarized", ("one",))
    assert set(drawn.train.images.unique().tolist()) == {0, 255}
    share = (drawn.train.images == 255).float().mean((0, 1, 2))
    p = levels.double() / 255
    error = 4 * (p * (1 - p) / n).sqrt() + 1e-9  # none at black and white
    assert ((share - p).abs() <= error).all()
    assert drawn.sha256 == data.binarized(source).sha256 != data.binarized(source, seed=1).sha256
    assert not torch.equal(drawn.train.images, drawn.test.images)  # each split has its own draw
