"""The book's one style for figures, and images on an axes: what every figure is made with."""

import io
from typing import TypeAlias

import matplotlib as mpl
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Ten classes, the same colours in every chapter, told apart by most colour-blind readers.
PALETTE = sns.color_palette("colorblind", 10).as_hex()
TRAIN, HELD_OUT, ACCENT, INK = PALETTE[0], PALETTE[1], PALETTE[2], "#26323f"
SEQUENTIAL, DIVERGING = "viridis", "vlag"
Array: TypeAlias = "Tensor | np.ndarray"
WIDTH = 7.2  # inches; with the dpi below a figure fills the text column
SHARP = 1400  # pixels across a stored figure: two for each of the text column's
RC = {
    "figure.dpi": 120, "savefig.dpi": 120, "figure.figsize": [WIDTH, 4.0], "axes.grid": False,
    "figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.titlesize": 12, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.labelsize": 11.5, "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5, "legend.fontsize": 10.5, "legend.frameon": False,
    "image.interpolation": "none", "image.cmap": "gray",
}  # fmt: skip


def use_style() -> None:
    """The book's one style: seaborn's ticks on matplotlib, labels one can read on a phone.

    In a notebook, a figure made without pyplot is shown as well, as a small PNG.
    """
    sns.set_theme(context="notebook", style="ticks", palette=PALETTE, rc=RC)
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if (shell := get_ipython()) is not None:
        shell.display_formatter.formatters["image/png"].for_type(Figure, to_png)


def to_png(fig: Figure) -> bytes:
    """A figure as a PNG of 256 colours, a third of the size of one in full colour.

    It has two pixels for each of the page's, so that screens with fine pixels show it sharp.
    """
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    dpi = SHARP / max(fig.get_figwidth(), WIDTH)
    fig.savefig(buffer, format="png", bbox_inches="tight", dpi=dpi)
    full = Image.open(buffer).convert("RGB")
    reduced = full.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.save(small, format="png", optimize=True)
    return small.getvalue()


def figure(width: float = WIDTH, height: float = 4.0) -> Figure:
    """An empty figure with constrained layout, its sides in inches.

    >>> figure(6, 3).get_size_inches().tolist()
    [6.0, 3.0]
    """
    return Figure(figsize=(width, height), layout="constrained")


def numbers(values: Array) -> np.ndarray:
    """A tensor of any device, with a gradient or without, or anything array-like, as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def to_array(images: Array) -> np.ndarray:
    """Images (..., C, H, W), bytes or floats, to floats (..., H, W) or (..., H, W, 3) in [0, 1]."""
    array = numbers(images)
    if array.ndim < 3 or array.shape[-3] not in (1, 3):
        raise ValueError(f"expected images (..., C, H, W) with C of 1 or 3, got {array.shape}")
    array = array / 255.0 if array.dtype == np.uint8 else array.clip(0, 1)
    return array[..., 0, :, :] if array.shape[-3] == 1 else np.moveaxis(array, -3, -1)


def mosaic(images: Array, columns: int, gap: int = 1, paper: float = 1.0) -> np.ndarray:
    """Images (N, C, H, W) side by side in one array, row by row, ``gap`` pixels of paper between.

    >>> mosaic(torch.zeros(3, 1, 2, 2), columns=2)[:, 3]
    array([0., 0., 1., 1., 1.])
    """
    from torchvision.utils import make_grid  # imported here, as it takes more than a second

    array, shape = to_array(images), tuple(np.shape(images))
    if len(shape) != 4 or not shape[0] or columns < 1:
        raise ValueError(f"needs at least one image, (N, C, H, W), and column: {shape}, {columns}")
    n, c, h, w = shape
    tiles = np.ascontiguousarray(array, dtype=float).reshape(n, h, w, c)
    # Tiles of paper at the end, cut off again: make_grid narrows the sheet where a row is not
    # full, and lets a single image be.
    tiles = np.concatenate([tiles, np.full((columns, h, w, c), paper)])
    sheet = make_grid(torch.from_numpy(tiles).movedim(-1, 1), columns, gap, pad_value=paper)
    rows = -(-n // columns)
    return to_array(sheet[:c, gap : rows * (h + gap), gap : columns * (w + gap)])


def show_image(ax: Axes, sheet: np.ndarray, **kwargs) -> mpl.image.AxesImage:
    """One array of greys or colours in [0, 1] on an axes without ticks; pixels stay pixels."""
    style = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "none"}
    shown = ax.imshow(sheet, **style | kwargs)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return shown
