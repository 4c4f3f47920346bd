"""The figures: what the artists of each hold, for data that tell x from y, train from held-out."""

import inspect
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_hex
from matplotlib.patches import Polygon, Rectangle
from PIL import Image
from tiny import random_images

from vae_tutorial import plots, style
from vae_tutorial.plots import ACCENT, HELD_OUT, INK, PALETTE, TRAIN, mosaic

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tensor(values) -> torch.Tensor:
    """Numbers as a model leaves them: on its device, with a gradient."""
    return torch.as_tensor(values).float().to(DEVICE).requires_grad_()


def leaves(thing) -> list:
    """Strings and numbers of nested dicts, lists and arrays, in order; an array's shape first."""
    if isinstance(thing, np.ndarray):
        return [*thing.shape, *thing.ravel().tolist()]
    if isinstance(thing, str) or not hasattr(thing, "__iter__"):
        return [thing]
    parts = thing.items() if isinstance(thing, dict) else thing
    return [leaf for part in parts for leaf in leaves(part)]


def colour(artist) -> str:
    """Of a line, a bar or a legend's handle."""
    return to_hex(artist.get_color() if hasattr(artist, "get_color") else artist.get_facecolor())


def ticks(axis) -> dict:
    labels = [label.get_text() for label in axis.get_ticklabels()]
    return dict(zip(labels, axis.get_ticklocs(), strict=True))


def words(ax) -> list:
    """Each text on the axes, where it is, and the colour of the badge behind it if there is one."""
    badges = [[colour(t.get_bbox_patch())] if t.get_bbox_patch() else [] for t in ax.texts]
    places = [getattr(t, "xy", t.get_position()) for t in ax.texts]
    return [*zip([t.get_text() for t in ax.texts], places, badges, strict=True)]


def cells(ax) -> list:
    """Of a 2-D histogram, the centres (x, y) of the cells that hold anything, and how much."""
    mesh = ax.collections[0]
    corners, counts = mesh.get_coordinates(), mesh.get_array().reshape(45, 45)
    centres = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    return [*zip(centres[counts > 0].tolist(), counts[counts > 0].tolist(), strict=True)]


def outlines(ax) -> list:
    """Of histograms drawn as outlines, the bins that hold anything: (centre, height, colour)."""
    found = []
    for patch in ax.patches:
        if isinstance(patch, Polygon):
            assert not patch.get_fill()
            assert patch.get_linewidth() > 0
            bins = patch.get_xy()[1:-1].reshape(-1, 2, 2)  # two corners each, side by side
            found += [
                (*((a + b) / 2).tolist(), to_hex(patch.get_edgecolor())) for a, b in bins if a[1]
            ]
    return found


def legend(ax) -> dict:
    """Words to colours, of the axes' legend or the figure's."""
    one = ax.get_legend() or next(iter(ax.figure.legends), SimpleNamespace(texts=[]))
    return {text.get_text(): colour(one.legend_handles[i]) for i, text in enumerate(one.texts)}


READ = {
    "image": lambda ax: ax.images[0].get_array().data,
    "colours": lambda ax: (ax.images[0].cmap.name, ax.images[0].get_clim()),
    "blur": lambda ax: ax.images[0].get_interpolation(),
    "names": lambda ax: (ax.get_title("left") or ax.get_title(), ax.get_xlabel(), ax.get_ylabel()),
    "x ticks": lambda ax: ticks(ax.xaxis),
    "y ticks": lambda ax: ticks(ax.yaxis),
    "box": lambda ax: (ax.get_xlim(), ax.get_ylim()),
    "scales": lambda ax: (ax.get_xscale(), ax.get_yscale(), ax.get_aspect()),
    "visible": lambda ax: ax.get_visible(),
    "lines": lambda ax: {c.get_label(): (colour(c), c.get_linestyle(), *c.get_xydata().T.tolist())
                         for c in ax.lines},
    "columns": lambda ax: [(p.get_x() + p.get_width() / 2, p.get_height(), colour(p))
                           for p in ax.patches if isinstance(p, Rectangle) and p.get_height()],
    "outlines": outlines,
    "rows": lambda ax: [(p.get_y(), p.get_width(), colour(p)) for p in ax.patches],
    "circles": lambda ax: [(p.center, p.radius, to_hex(p.get_edgecolor())) for p in ax.patches],
    "whiskers": lambda ax: [segment.tolist() for segment in ax.collections[0].get_segments()],
    "points": lambda ax: zip(ax.collections[0].get_offsets().tolist(),
                             map(to_hex, ax.collections[0].get_facecolors()), strict=True),
    "words": words, "cells": cells, "legend": legend,
}  # fmt: skip

GREYS, COLOURS = tensor(random_images(3, (1, 2, 4))), random_images(3, (3, 5, 3)).mul(255).byte()
SHEET, TICKS = tensor(random_images(36, (1, 2, 4))).reshape(6, 6, 1, 2, 4), np.arange(-2.0, 4.0)
SHEETS = mosaic(SHEET.flatten(0, 1), 6, 0), mosaic(1 - SHEET.flatten(0, 1), 6, 0)
# An image is 2 high and 4 wide; five of the six places are marked.
X_TICKS = {"−2.0": 1.5, "−1.0": 5.5, "0.0": 9.5, "2.0": 17.5, "3.0": 21.5}
Y_TICKS = {"−2.0": 10.5, "−1.0": 8.5, "0.0": 6.5, "2.0": 2.5, "3.0": 0.5}
PLANE = ("$z_1$", "$z_2$")
KINDS = (("step", "train", 9.0), ("epoch", "train", 3.0), ("epoch", "held-out", 6.0))
HISTORY = pd.DataFrame([(*kind, e, kind[2] / e, kind[2] + e) for kind in KINDS for e in (1, 2, 3)])
HISTORY.columns = ["scope", "split", "start", "epoch", "loss", "kl"]
BOTH = {"train": TRAIN, "held-out": HELD_OUT}
CODES, LABELS = tensor([[0, 1], [2, 5], [7, 3], [6, -7]]), torch.tensor([1, 1, 1, 0])
POINTS = [(xy, PALETTE[k]) for xy, k in zip(CODES.tolist(), LABELS.tolist(), strict=True)]
# Whole numbers are the centres of the 45 bins of 0.2 from -4.5 to 4.5; 8 lies beyond.
FIVE, X = tensor([[0, 9, 1, -2, 8], [0, 9, 3, -4, 8]]), np.linspace(-4.5, 4.5, 200)
NORMAL = {"standard normal": (INK, "-", [*X], [*np.exp(-(X**2) / 2) / np.sqrt(2 * np.pi)])}
ROW = {"z": tensor([1.0, -4.0]), "z_mean": tensor([2.0, 0.5]), "z_std": tensor([0.25, 1.0])}
ROW |= zip(("image", "mean", "std"), tensor(random_images(3, (3, 2, 4))), strict=True)
CURVE = {"predicted": tensor([0.01, 0.04]), "actual": tensor([0.0, 0.25])}
HALF, TIMES_4 = ({key: a * x[key] for key in x} for a, x in ((0.5, ROW), (4, CURVE)))

# What is drawn: the call, and of each axes (by its number) what its artists must hold.
FIGURES = {
    "image_grid": (lambda: plots.image_grid(GREYS, 2, title="three"),
        {0: {"image": mosaic(GREYS, 2), "colours": ("gray", 0, 1), "blur": "none",
             "names": ("three", "", ""), "x ticks": {}, "y ticks": {}}}),
    "image_rows": (lambda: plots.image_rows({"greys": GREYS, "colours": COLOURS}, columns="abc"),
        {0: {"image": mosaic(GREYS, 3), "names": ("", "", "greys"),
             "words": [(letter, (i / 3 + 1 / 6, 1.03), []) for i, letter in enumerate("abc")]},
         1: {"image": mosaic(COLOURS, 3), "names": ("", "", "colours")}}),
    "manifold": (lambda: plots.manifold(SHEET, ticks=TICKS, title="plane"),
        {0: {"image": SHEETS[0], "x ticks": X_TICKS, "y ticks": Y_TICKS,
             "names": ("plane", *PLANE)}}),
    "manifolds": (lambda: plots.manifolds({"a": (SHEET, TICKS + 1), "b": (1 - SHEET, TICKS)}),
        {0: {"image": SHEETS[0], "names": ("a", *PLANE)},
         1: {"image": SHEETS[1], "names": ("b", *PLANE), "y ticks": Y_TICKS}}),
    "loss_curves": (lambda: plots.loss_curves(HISTORY, ("loss", "kl"), skip=1),
        {0: {"lines": {"train": (TRAIN, "-", [2, 3], [1.5, 1]),
                       "held-out": (HELD_OUT, "--", [2, 3], [3, 2])}, "legend": BOTH},
         1: {"lines": {"train": (TRAIN, "-", [2, 3], [5, 6]),
                       "held-out": (HELD_OUT, "--", [2, 3], [8, 9])},
             "names": ("KL term", "epoch", "")}}),
    "loss_curves of training alone": (
        lambda: plots.loss_curves(HISTORY.query("split == 'train'"), ["kl"], names={"kl": "own"}),
        {0: {"lines": {"train": (TRAIN, "-", [1, 2, 3], [4, 5, 6])}, "legend": {"train": TRAIN}}}),
    "latent_scatter": (lambda: plots.latent_scatter(CODES, LABELS, title="codes", limit=8),
        {0: {"points": POINTS, "words": [("0", (6, -7), PALETTE[0]), ("1", (2, 3), PALETTE[1])],
             "legend": {}, "box": (-8, 8, -8, 8), "scales": ("linear", "linear", 1),
             "names": ("codes", *PLANE)}}),
    "latent_scatters": (lambda: plots.latent_scatters({"a": CODES, "b": CODES.tolist()}, LABELS,
                                      classes=["no", "yes"], axis_names=None),
        {0: {"points": POINTS, "names": ("a", "", ""), "legend": {}, "x ticks": {}},
         1: {"points": POINTS, "names": ("b", "", ""),
             "legend": {"no": PALETTE[0], "yes": PALETTE[1]}}}),
    "prior_circles": (lambda: plots.prior_circles(plots.latent_scatter(CODES, LABELS)),
        {0: {"circles": [(0, 0, radius, INK) for radius in (1, 2, 3)], "points": POINTS}}),
    "marginals": (
        lambda: plots.marginals({"a": FIVE, "b": -FIVE, "c": FIVE}, columns=4, limit=4.5, bins=46),
        {2: {"columns": [(1, 2.5, TRAIN), (3, 2.5, TRAIN)],
             "outlines": [(x, 2.5, shade) for shade, two in ((HELD_OUT, (-3, -1)), (ACCENT, (1, 3)))
                          for x in two],
             "legend": {"a": TRAIN, "b": HELD_OUT, "c": ACCENT, "standard normal": INK},
             "lines": NORMAL, "names": ("$z_{3}$", "", "")},
         4: {"columns": [(4.4, 5, TRAIN)], "outlines": [(-4.4, 5, HELD_OUT), (4.4, 5, ACCENT)]},
         5: {"visible": False}}),
    "pair_plot": (lambda: plots.pair_plot(FIVE, [0, 3, 2], limit=4.5),
        {0: {"columns": [(0, 5, TRAIN)], "lines": NORMAL, "names": ("", "", "")},
         1: {"visible": False},
         3: {"cells": [(0, -4, 1), (0, -2, 1)], "names": ("", "", "$z_{4}$")},
         4: {"columns": [(-4, 2.5, TRAIN), (-2, 2.5, TRAIN)]},
         6: {"y ticks": {"−2.25": -2.25, "0.00": 0, "2.25": 2.25},
             "circles": [(0, 0, 1, "#ffffff"), (0, 0, 2, "#ffffff")]},
         7: {"cells": [(-2, 1, 1), (-4, 3, 1)], "names": ("", "$z_{4}$", ""),
             "box": (-4.5, 4.5, -4.5, 4.5)},
         8: {"columns": [(1, 2.5, TRAIN), (3, 2.5, TRAIN)]}}),
    "bars": (lambda: plots.bars({"first": tensor(2.0), "second": 5.5}, xlabel="nats", title="two"),
        {0: {"rows": [(-0.31, 2, TRAIN), (0.69, 5.5, HELD_OUT)], "names": ("two", "nats", ""),
             "y ticks": {"first": 0, "second": 1}, "words": [("2.0", 2, 0), ("5.5", 5.5, 1)],
             "box": (0, 6.16, 1.391, -0.391)}}),
    "pipeline": (lambda: plots.pipeline({"a": ROW, "b": HALF}, largest_std=0.7),
        {0: {"image": plots.to_array(ROW["image"]), "names": ("image", "", "a")},
         1: {"columns": [(1, 1, TRAIN), (2, -4, TRAIN)], "box": (0.554, 2.446, -4.2, 4.2),
             "whiskers": [(1, 1.75, 1, 2.25), (2, -0.5, 2, 1.5)]},
         2: {"image": plots.to_array(ROW["mean"])},
         3: {"image": plots.numbers(ROW["std"].mean(0)), "colours": ("viridis", 0, 0.7),
             "blur": "none"},
         4: {"image": plots.to_array(HALF["image"]), "names": ("", "", "b")},
         5: {"whiskers": [(1, 0.875, 1, 1.125), (2, -0.25, 2, 0.75)]}, 8: {"box": (0, 1, 0, 0.7)}}),
    "calibration_curves": (lambda: plots.calibration_curves({"a": CURVE, "b": TIMES_4}),
        {0: {"lines": {"a": (TRAIN, "-", [0.1, 0.2], [0.0001, 0.5]),
                       "b": (HELD_OUT, "-", [0.2, 0.4], [0.0001, 1]),
                       "calibrated": (INK, "--", [0.001, 1], [0.001, 1])},
             "legend": {"a": TRAIN, "b": HELD_OUT, "calibrated": INK},
             "scales": ("log", "log", "auto"), "box": (0.001, 1, 0.001, 1),
             "names": ("", "predicted standard deviation", "root mean squared error")}}),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_artists(name, tmp_path):
    draw, expected = FIGURES[name]
    fig = draw()
    found = {i: {key: READ[key](fig.axes[i]) for key in of} for i, of in expected.items()}
    said = [x if isinstance(x, str) else pytest.approx(x, 1e-5, 1e-6) for x in leaves(expected)]
    assert leaves(found) == said
    plots.save(fig, tmp_path / "a.png", dpi=30)
    assert Image.open(tmp_path / "a.png").info.keys() == {"dpi"}  # no version, no time
    assert plt.get_fignums() == []  # nothing is shown twice in a notebook


def test_every_figure_of_the_package_is_drawn_here():
    functions = inspect.getmembers(plots, inspect.isfunction)
    made = {
        n
        for n, f in functions
        if inspect.get_annotations(f, eval_str=True).get("return") is plots.Figure
    }
    assert made - {"figure"} == {name.split()[0] for name in FIGURES}


@pytest.mark.parametrize(
    ("n", "c", "columns", "gap"), [(5, 1, 2, 1), (4, 3, 3, 2), (2, 1, 4, 0), (1, 1, 1, 3)]
)
def test_mosaic_puts_every_pixel_in_its_place(n, c, columns, gap):
    images, rows = random_images(n, (c, 2, 3)).mul(255).byte(), -(-n // columns)
    expected = np.full((rows * (2 + gap) - gap, columns * (3 + gap) - gap, c), 0.5)
    for i, image in enumerate(images):
        top, left = i // columns * (2 + gap), i % columns * (3 + gap)
        expected[top : top + 2, left : left + 3] = image.permute(1, 2, 0) / 255
    sheet = mosaic(images, columns, gap, paper=0.5)
    np.testing.assert_allclose(sheet, expected[..., 0] if c == 1 else expected, atol=1e-7)


@pytest.mark.parametrize(("draw", "word"), [
    (lambda: plots.image_grid(torch.zeros(3, 2, 5, 5)), "1 or 3"),
    (lambda: plots.image_grid(torch.zeros(5, 5)), "1 or 3"),
    (lambda: plots.image_grid(torch.zeros(1, 5, 5)), "N, C, H, W"),
    (lambda: plots.image_grid(torch.zeros(0, 1, 5, 5)), "at least one"),
    (lambda: plots.image_grid(GREYS, columns=0), "at least one"),
    (lambda: plots.image_rows({"a": GREYS, "b": GREYS[:2]}), "same number"),
    (lambda: plots.image_rows({"a": GREYS}, columns="ab"), "every column"),
    (lambda: plots.latent_scatter(torch.zeros(9, 3), LABELS), "N, 2"),
    (lambda: plots.latent_scatter(torch.zeros(9), LABELS), "N, 2"),
])  # fmt: skip
def test_figures_refuse_wrong_shapes(draw, word):
    with pytest.raises(ValueError, match=word):
        draw()


def test_a_notebook_shows_figures_made_without_pyplot(monkeypatch):
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    with mpl.rc_context():
        style.use_style()
        assert {key: mpl.rcParams[key] for key in style.RC} == style.RC
        shown, _ = shell.display_formatter.format(plots.image_grid(GREYS))
    assert shown["image/png"].startswith(b"\x89PNG")
    assert len(set(PALETTE)) == 10
