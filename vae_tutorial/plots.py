"""Every figure of the book: data in, a matplotlib ``Figure`` out; nothing here trains or draws.

Figures are made without pyplot's global state. So a notebook shows one by ending a cell with the
call, and nothing is shown twice. Data may be tensors, with a gradient or without, or arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from torch import Tensor

from vae_tutorial.diagrams import Diagram as diagram  # noqa: F401 (chapters find it here)
from vae_tutorial.style import (  # noqa: F401 (chapters find all of these here)
    ACCENT,
    DIVERGING,
    HELD_OUT,
    INK,
    PALETTE,
    SEQUENTIAL,
    TRAIN,
    WIDTH,
    Array,
    figure,
    mosaic,
    numbers,
    show_image,
    to_array,
    use_style,
)

AXIS_NAMES = ("$z_1$", "$z_2$")


def image_grid(
    images: Array, columns: int = 10, *, title: str = "", width: float = WIDTH
) -> Figure:
    """A sheet of images (N, C, H, W), row by row."""
    sheet = mosaic(images, columns)
    fig = figure(width, width * sheet.shape[0] / sheet.shape[1] + (0.35 if title else 0.05))
    ax = fig.subplots()
    show_image(ax, sheet)
    ax.set_title(title)
    return fig


def image_rows(
    rows: Mapping[str, Array], *, columns: Iterable[str] = (), width: float = WIDTH
) -> Figure:
    """Rows of images under each other, each with its name on the left.

    A row is (N, C, H, W), with the same N throughout; (C, H, W) may differ from row to row.
    ``columns`` are N names, which stand above the first row.
    """
    counts, titles = {name: len(images) for name, images in rows.items()}, [*columns]
    if len(set(counts.values())) != 1:
        raise ValueError(f"every row needs the same number of images, got {counts}")
    if titles and len(titles) != len(next(iter(rows.values()))):
        raise ValueError(f"every column needs a name: got {len(titles)} for {counts}")
    sheets = {name: mosaic(images, len(images)) for name, images in rows.items()}
    ratios = [sheet.shape[0] / sheet.shape[1] for sheet in sheets.values()]
    label_width = 0.085 * max(len(line) for name in rows for line in name.split("\n")) + 0.15
    height = (width - label_width) * sum(ratios) + 0.06 * len(rows) + 0.2 * bool(titles)
    fig = figure(width, height)
    fig.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0, wspace=0)
    axes = fig.subplots(len(rows), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for ax, (name, sheet) in zip(axes, sheets.items(), strict=True):
        _named_image(ax, sheet, name)
    for i, title in enumerate(titles):  # above the middle of each image
        style = {"ha": "center", "va": "bottom", "transform": axes[0].transAxes, "fontsize": 9.5}
        axes[0].text((i + 0.5) / len(titles), 1.03, str(title), **style)
    return fig


def _named_image(ax: Axes, sheet: np.ndarray, name: str) -> None:
    """One array of greys or colours, its name on the left."""
    show_image(ax, sheet)
    ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10.5)


def _side_by_side(n: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure with ``n`` axes in one row."""
    fig = figure(width, height)
    return fig, fig.subplots(1, n, squeeze=False)[0]


def manifold(
    images: Tensor, *, ticks: Sequence[float] | None = None, title: str = "",
    ax: Axes | None = None, labels: tuple[str, str] = AXIS_NAMES, width: float = WIDTH,
) -> Figure:  # fmt: skip
    """Decoded images (n, n, C, H, W) of a grid over the latent plane, as one sheet with axes.

    Args:
        images: the first row at the top (see ``latent.linear_grid``).
        ticks: the grid's coordinates along an axis, ascending; five of them are marked.
        ax: draw here, in an existing figure.
    """
    n = len(images)
    sheet = mosaic(images.flatten(0, 1), n, gap=0)
    ax = ax or figure(width, width).subplots()
    show_image(ax, sheet)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    if ticks is not None:
        shown = np.unique(np.linspace(0, n - 1, 5).round().astype(int))
        height, width = sheet.shape[0] / n, sheet.shape[1] / n  # of an image
        text = [f"{float(ticks[i]):.1f}".replace("-", "\N{MINUS SIGN}") for i in shown]
        ax.set_xticks((shown + 0.5) * width - 0.5, text)
        ax.set_yticks((n - 1 - shown + 0.5) * height - 0.5, text)
        ax.tick_params(length=3)
    ax.set_title(title)
    return ax.figure


def manifolds(
    panels: Mapping[str, tuple[Tensor, Sequence[float]]], *, width: float = 11.0
) -> Figure:
    """Several :func:`manifold` sheets side by side: title to (images, ticks)."""
    fig, axes = _side_by_side(len(panels), width, width / len(panels) + 0.35)
    for ax, (title, (images, ticks)) in zip(axes, panels.items(), strict=True):
        manifold(images, ticks=ticks, title=title, ax=ax)
    return fig


def loss_curves(
    history: pd.DataFrame, terms: Sequence[str] = ("loss", "reconstruction", "kl"), *,
    names: Mapping[str, str] | None = None, skip: int = 0,
) -> Figure:  # fmt: skip
    """A panel for each term of what :func:`~vae_tutorial.fit.fit` returned, over the epochs.

    ``names`` are nicer names of terms and splits. The first ``skip`` epochs, whose loss would flatten the rest, are
    left out.
    """
    titles = {"loss": "Negative ELBO", "reconstruction": "Reconstruction term", "kl": "KL term"}
    titles |= names or {}
    rows = history[(history.scope == "epoch") & (history.epoch > skip)]
    fig, axes = _side_by_side(len(terms), 3.4 * len(terms) + 0.6, 3.3)
    for ax, term in zip(axes, terms, strict=True):
        for split, colour, line in (("train", TRAIN, "-"), ("held-out", HELD_OUT, "--")):
            part = rows[rows.split == split]
            if len(part):
                label = (names or {}).get(split, split)
                ax.plot(part.epoch, part[term], line, color=colour, label=label, lw=2)
        ax.set(title=titles.get(term, term), xlabel="epoch")
    axes[0].set_ylabel("nats per image")
    axes[0].legend()
    return fig


def latent_scatter(
    codes: Array, labels: Array, *,
    classes: Sequence[str] = tuple("0123456789"), title: str = "", limit: float | None = None,
    axis_names: tuple[str, str] | None = AXIS_NAMES, ax: Axes | None = None, legend: bool = True,
    size: float = 5.0,
) -> Figure:  # fmt: skip
    """Codes (N, 2), coloured by class, each class named at its median.

    Args:
        labels: (N,), numbers into ``classes``.
        limit: half the side of the square shown; by default everything is.
        axis_names: ``None`` hides the axes, for embeddings whose units mean nothing.
        ax: draw here, in an existing figure.
    """
    codes, labels = numbers(codes), numbers(labels)
    if codes.ndim != 2 or codes.shape[1] != 2:
        raise ValueError(f"codes must be (N, 2), got {codes.shape}; embed them first (PCA, t-SNE)")
    ax = ax or figure(6.4, 5.8).subplots()
    # One call in the order given: class by class, the last class would hide the others.
    colours = np.array(PALETTE)[labels % len(PALETTE)]
    ax.scatter(*codes.T, c=colours, s=size, alpha=0.65, linewidths=0, rasterized=True)
    badge = {"ha": "center", "va": "center", "fontsize": 12, "weight": "bold", "color": "white"}
    present = {k: PALETTE[k % 10] for k in np.unique(labels)}
    for k, colour in present.items():
        box = {"boxstyle": "circle,pad=0.22", "fc": colour, "ec": "white", "lw": 1.2}
        ax.text(*np.median(codes[labels == k], axis=0), classes[k], **badge, clip_on=True, bbox=box)
    if limit is not None:
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit))
    ax.set_aspect("equal", adjustable="box" if limit is not None else "datalim")
    if axis_names is None:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    else:
        ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    ax.set_title(title)
    if legend and max(len(c) for c in classes) > 2:  # digits are named by their badges alone
        handles = [Line2D([], [], marker="o", ls="", color=colour) for colour in present.values()]
        shown = [classes[k] for k in present]
        ax.legend(handles, shown, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax.figure


def latent_scatters(
    panels: Mapping[str, Array], labels: Array, *,
    width: float = 11.0, **kwargs,
) -> Figure:  # fmt: skip
    """Several :func:`latent_scatter` side by side: title to codes (N, 2) of the same examples."""
    fig, axes = _side_by_side(len(panels), width, width / len(panels) + 0.2)
    for ax, (title, codes) in zip(axes, panels.items(), strict=True):
        latent_scatter(codes, labels, title=title, ax=ax, legend=ax is axes[-1], **kwargs)
    return fig


def _circles(ax: Axes, radii: Sequence[float], **style) -> None:
    for radius in radii:
        ax.add_patch(Circle((0, 0), radius, fill=False, ls="--", **style))


def prior_circles(fig: Figure) -> Figure:
    """On a latent scatter: the circles that hold 39%, 86% and 99% of a 2-D standard normal."""
    for ax in fig.axes:
        _circles(ax, (1, 2, 3), ec=INK, lw=1, alpha=0.7)
    return fig


def _histogram(ax: Axes, values: np.ndarray, edges: np.ndarray, **style) -> None:
    """The density of (N,) numbers; those beyond the edges are counted in the last bins."""
    ax.hist(values.clip(edges[0], edges[-1]), edges, density=True, **{"lw": 0} | style)


def _standard_normal(ax: Axes, limit: float) -> None:
    """The density of N(0, 1) as a line, on an axes whose height needs no numbers."""
    grid = np.linspace(-limit, limit, 200)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    ax.plot(grid, density, color=INK, lw=1.3, label="standard normal")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def marginals(
    codes: Mapping[str, Array], *, columns: int = 5, limit: float = 4.0, bins: int = 41
) -> Figure:
    """Histograms of each dimension of codes (N, D), the standard normal's density over them.

    There are ``bins`` edges from -limit to limit; what lies beyond is counted in the last bins.
    The first codes' histograms are filled, those of all others are outlines, so that none is hidden.
    """
    arrays = {name: numbers(code) for name, code in codes.items()}
    d, edges = next(iter(arrays.values())).shape[1], np.linspace(-limit, limit, bins)
    rows = -(-d // columns)
    fig = figure(WIDTH * 1.3, 1.45 * rows + 0.7)
    axes = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for ax in axes[d:]:
        ax.set_visible(False)
    for i, ax in enumerate(axes[:d]):
        for j, ((name, code), colour) in enumerate(zip(arrays.items(), PALETTE, strict=False)):
            style = {"histtype": "step", "lw": 1.7} if j else {"alpha": 0.55}
            _histogram(ax, code[:, i], edges, color=colour, label=name, **style)
        _standard_normal(ax, limit)
        ax.set_title(f"$z_{{{i + 1}}}$", fontsize=10.5, y=0.72, x=0.03)
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper center", ncols=len(handles))
    return fig


def pair_plot(
    codes: Array, dimensions: Sequence[int], *, title: str = "", limit: float = 4.0,
    width: float = WIDTH,
) -> Figure:  # fmt: skip
    """Histograms of every pair of dimensions (from 0) of codes (N, D), marginals on the diagonal.

    The axes run from -limit to limit.
    """
    last, array = len(dimensions) - 1, numbers(codes)
    fig = figure(width, width * 0.97)
    axes = fig.subplots(last + 1, last + 1, sharex=True, squeeze=False)
    edges, ticks = np.linspace(-limit, limit, 46), [-limit / 2, 0, limit / 2]
    for (row, col), ax in np.ndenumerate(axes):
        ax.set(xticks=ticks)
        i, j = dimensions[row], dimensions[col]
        if col > row:
            ax.set_visible(False)
            continue
        if row == col:
            _histogram(ax, array[:, i], edges, color=TRAIN, alpha=0.6)
            _standard_normal(ax, limit)
        else:
            ax.hist2d(*array[:, [j, i]].T, [edges, edges], cmap=SEQUENTIAL, rasterized=True)
            _circles(ax, (1, 2), ec="white", lw=0.8)
            ax.set(ylim=(-limit, limit), yticks=ticks if col == 0 else [])
        below = f"$z_{{{j + 1}}}$" if row == last else ""
        left = f"$z_{{{i + 1}}}$" if col == 0 < row else ""
        ax.set(xlim=(-limit, limit), xlabel=below, ylabel=left)
        ax.set_box_aspect(1)  # so that circles are round
    if title:
        fig.suptitle(title, x=0.02, ha="left", weight="bold", fontsize=12)
    return fig


def bars(
    values: Mapping[str, float] | pd.Series, *, xlabel: str, title: str = "", fmt: str = "%.1f"
) -> Figure:
    """Horizontal bars with their values written at the end."""
    names = list(values.keys())
    fig = figure(WIDTH, 0.5 * len(names) + 1.1)
    ax = fig.subplots()
    lengths = [float(numbers(values[name])) for name in names]
    drawn = ax.barh(names, lengths, color=PALETTE[: len(names)], height=0.62)
    ax.bar_label(drawn, fmt=fmt, padding=5)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set(xlabel=xlabel, title=title)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return fig


def pipeline(
    rows: Mapping[str, Mapping[str, Array]], *, largest_std: float = 0.5, width: float = 9.5
) -> Figure:
    """One image on its way through several VAEs, a row each: image, latents, mean, uncertainty.

    A row has ``image`` (C, H, W), what the encoder saw; ``z_mean``, ``z_std`` and ``z``, each (D,),
    the posterior and one sample of it; ``mean`` and ``std``, each (C, H, W), of the likelihood at
    that sample. The colour bar ends at ``largest_std``; larger ones get its last colour.
    """
    fig = figure(width, width * 0.155 * len(rows) + 0.75)
    axes = fig.subplots(len(rows), 4, squeeze=False, width_ratios=(1, 2.6, 1, 1))
    titles = ("image", "sample of $q(z\\mid x)$, one bar per latent", "mean", "std. deviation")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=11)
    rows = {name: {key: numbers(value) for key, value in row.items()} for name, row in rows.items()}
    limit = max(3.0, *(float(abs(row["z"]).max()) for row in rows.values())) * 1.05
    for (name, row), (image, latents, mean, std) in zip(rows.items(), axes, strict=True):
        _named_image(image, to_array(row["image"]), name)
        d = np.arange(1, len(row["z"]) + 1)
        latents.bar(d, row["z"], color=TRAIN, alpha=0.75, width=0.72)
        latents.errorbar(d, row["z_mean"], row["z_std"], fmt="none", ecolor=INK, elinewidth=1.4)
        latents.axhline(0, color=INK, lw=0.8)
        latents.set(ylim=(-limit, limit), xticks=[], yticks=[-2, 0, 2], box_aspect=1 / 2.6)
        latents.spines["bottom"].set_visible(False)
        show_image(mean, to_array(row["mean"]))
        shown = show_image(std, row["std"].mean(0), cmap=SEQUENTIAL, vmax=largest_std)
    axes[-1, 1].set_xlabel("whiskers: mean and one standard deviation of $q$", fontsize=10.5)
    style = {"shrink": min(1.0, 2.6 / len(rows)), "aspect": 14, "extend": "max"}
    fig.colorbar(shown, ax=axes[:, 3], label="of each pixel, in grey levels from 0 to 1", **style)
    return fig


def calibration_curves(
    curves: Mapping[str, Mapping[str, Array]], *, title: str = "", smallest: float = 1e-3,
    width: float = WIDTH,
) -> Figure:  # fmt: skip
    """Predicted standard deviations against root mean squared errors, both axes logarithmic.

    A curve is what :func:`~vae_tutorial.evaluate.calibration` answers. What lies below
    ``smallest``, where both axes begin, is cut off.
    """
    fig = figure(width, 5.0)
    ax = fig.subplots()
    for i, (name, curve) in enumerate(curves.items()):
        x, y = (np.sqrt(numbers(curve[key])) for key in ("predicted", "actual"))
        style = {"marker": "osD^vP"[i % 6], "color": PALETTE[i % 10], "lw": 1.5, "ms": 8 - 0.5 * i}
        ax.plot(x, y.clip(smallest / 10), **style, label=name, zorder=4 - 0.1 * i)
    ax.plot([smallest, 1], [smallest, 1], color=INK, ls="--", lw=1.3, label="calibrated")
    ax.set(xscale="log", yscale="log", title=title, xlim=(smallest, 1), ylim=(smallest, 1))
    ax.set(xlabel="predicted standard deviation", ylabel="root mean squared error")
    ax.legend()
    return fig


def save(fig: Figure, path, *, dpi: int = 200) -> None:
    """Write a figure as PNG: the same figure, the same bytes, as no version or time is written."""
    fig.savefig(path, dpi=dpi, metadata={"Software": None}, bbox_inches="tight")
