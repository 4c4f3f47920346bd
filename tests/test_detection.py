"""Detection: the AUROC against scikit-learn's, and PNG's bits against files and a closed form."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from vae_tutorial.detection import auroc, png_bits


def scores(n, m, seed=0, ties=False):
    random = np.random.default_rng(seed)
    inside, outside = random.normal(size=n), random.normal(0.7, 1.4, size=m)
    if ties:
        inside, outside = inside.round(), outside.round()
    return torch.from_numpy(inside), torch.from_numpy(outside)


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_scikit_learns(ties):
    inside, outside = scores(83, 41, ties=ties)
    expected = roc_auc_score([0] * 83 + [1] * 41, torch.cat([inside, outside]))
    assert auroc(inside, outside) == pytest.approx(expected, rel=1e-12)
    assert auroc(outside, inside) == pytest.approx(1 - expected, rel=1e-12)
    assert auroc(inside, outside).standard_error is None
    assert auroc(inside, inside) == pytest.approx(0.5)
    assert auroc(inside.float(), inside.float() + 9) == 1.0


def test_its_error_is_that_of_fresh_images_and_comes_from_its_seed():
    inside, outside = scores(200, 150)
    area = auroc(inside, outside, resamples=400, seed=1)
    # For two normals: the spread of the area over many fresh sets of the same size.
    fresh = np.std([auroc(*scores(200, 150, seed=i)) for i in range(1, 401)])
    assert area.standard_error == pytest.approx(fresh, rel=0.2)
    again = auroc(inside, outside, resamples=400, seed=1)
    assert (float(area), area.standard_error) == (float(again), again.standard_error)
    assert area.standard_error != auroc(inside, outside, resamples=400, seed=2).standard_error
    assert area == pytest.approx(0.5 * math.erfc(-0.7 / math.hypot(1, 1.4) / 2**0.5), abs=0.05)


@pytest.mark.parametrize("wrong", [
    torch.zeros(0), torch.zeros(3, 2), torch.tensor([1.0, math.nan]), torch.tensor(1.0),
])  # fmt: skip
def test_what_is_no_row_of_scores_is_refused(wrong):
    good = torch.zeros(3)
    with pytest.raises(ValueError, match="inside must be scores"):
        auroc(wrong, good)
    with pytest.raises(ValueError, match="outside must be scores"):
        auroc(good, wrong)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_bits_are_those_of_a_file_without_its_frame(channels, tmp_path):
    random = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (3, channels, 20, 12), generator=random, dtype=torch.uint8)
    x[1] //= 64
    x[2] = 7
    found = png_bits(x)
    assert found.shape == (3,)
    assert found.dtype == torch.float64
    assert (found.diff() < 0).all()  # noise, few levels, one level
    assert found[0] >= 8 * x[0].numel()  # noise cannot be compressed
    for image, bits in zip(x, found, strict=True):
        file = io.BytesIO()
        array = image.permute(1, 2, 0).numpy()
        Image.fromarray(array[..., 0] if channels == 1 else array).save(file, "PNG", optimize=True)
        content = file.getvalue()
        assert bits == 8 * (len(content) - 57)
        # 57: a signature of 8, three chunks of 12 around their contents, a header of 13.
        start = content.index(b"IDAT")
        assert bits == 8 * int.from_bytes(content[start - 4 : start], "big")
        back = np.array(Image.open(file)).reshape(array.shape)
        assert (back == array).all()


@pytest.mark.parametrize("wrong", [torch.rand(2, 1, 8, 8), torch.zeros(1, 8, 8).byte(),
                                   torch.zeros(2, 2, 8, 8).byte()])  # fmt: skip
def test_only_bytes_have_a_file(wrong):
    with pytest.raises(ValueError, match="expected bytes"):
        png_bits(wrong)
