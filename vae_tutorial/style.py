"""The book's one style for figures, and images on an axes: what every figure is made with."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Ten classes, the same colours in every chapter, told apart by most colour-blind readers.
PALETTE = sns.color_palette("colorblind", 10).as_hex()
TRAIN, HELD_OUT, ACCENT, INK = PALETTE[0], PALETTE[1], PALETTE[2], "#26323f"
SEQUENTIAL, DIVERGING = "viridis", "vlag"
WIDTH = 7.2  # inches; with the dpi below a figure fills the text column


def use_style() -> None:
    """The book's one style: seaborn's ticks on matplotlib, labels one can read on a phone."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
        rc={
            "figure.dpi": 120,
            "savefig.dpi": 120,
            "figure.figsize": (WIDTH, 4.0),
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.labelsize": 11.5,
            "xtick.labelsize": 10.5,
            "ytick.labelsize": 10.5,
            "legend.fontsize": 10.5,
            "legend.frameon": False,
            "image.interpolation": "none",
            "image.cmap": "gray",
            "axes.grid": False,
        },
    )
    _show_in_notebooks()


def _show_in_notebooks() -> None:
    """Have IPython show a Figure, though it was made without pyplot."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if (shell := get_ipython()) is not None:
        shell.display_formatter.formatters["image/png"].for_type(Figure, to_png)


def to_png(fig: Figure) -> bytes:
    """A figure as a PNG of 256 colours, a third of the size of one in full colour."""
    from PIL import Image

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", bbox_inches="tight")
    full = Image.open(buffer).convert("RGB")
    small = full.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def figure(width: float = WIDTH, height: float = 4.0) -> Figure:
    """An empty figure with constrained layout, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def to_array(images: Tensor | np.ndarray) -> np.ndarray:
    """Images (..., C, H, W), bytes or floats, to floats (..., H, W) or (..., H, W, 3) in [0, 1]."""
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.ndim < 3 or array.shape[-3] not in (1, 3):
        raise ValueError(f"expected images (..., C, H, W) with C of 1 or 3, got {array.shape}")
    array = array / 255.0 if array.dtype == np.uint8 else array.clip(0, 1)
    return array[..., 0, :, :] if array.shape[-3] == 1 else np.moveaxis(array, -3, -1)


def mosaic(
    images: Tensor | np.ndarray, columns: int, gap: int = 1, paper: float = 1.0
) -> np.ndarray:
    """Images (N, C, H, W) side by side in one array, row by row, ``gap`` pixels of paper between."""
    array = to_array(images)
    n, h, w = array.shape[:3]
    rows = -(-n // columns)
    shape = (rows * (h + gap) - gap, columns * (w + gap) - gap, *array.shape[3:])
    sheet = np.full(shape, paper, dtype=float)
    for i, image in enumerate(array):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        sheet[top : top + h, left : left + w] = image
    return sheet


def show_image(ax: Axes, sheet: np.ndarray, **kwargs) -> mpl.image.AxesImage:
    """One array of greys or colours in [0, 1] on an axes without ticks; pixels stay pixels."""
    shown = ax.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="none", **kwargs)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return shown
