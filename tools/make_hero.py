"""Draw the front page's figure from the committed run ``mnist/vae-2d``: the plane that it learnt.

    python tools/make_hero.py

Every small image is what the decoder makes of one point of the latent plane. Its ink has the
colour of the digits whose codes lie around that point, mixed in proportion. One picture for the
light theme and one for the dark; the background is transparent in both. A third, with the book's
title below, is what a link to the book shows elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageFont
from sklearn.neighbors import KNeighborsClassifier

from vae_tutorial import data, latent, load_run
from vae_tutorial.plots import PALETTE
from vae_tutorial.style import INK

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 38, 19


def main() -> int:
    mnist = data.load("mnist")
    vae = load_run("mnist/vae-2d").model

    # Quantiles of the prior along both axes: every cell is equally probable.
    x = torch.special.ndtri((torch.arange(COLUMNS) + 0.5) / COLUMNS)
    y = torch.special.ndtri((torch.arange(ROWS) + 0.5) / ROWS).flip(0)
    z = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (ROWS, COLUMNS, 2)
    ink = latent.decode(vae, z)[:, :, 0].numpy()  # (ROWS, COLUMNS, H, W)

    codes = latent.encode(vae, mnist.train.images[:20_000])
    neighbours = KNeighborsClassifier(60).fit(codes.numpy(), mnist.train.labels[:20_000].numpy())
    share = neighbours.predict_proba(z.reshape(-1, 2).numpy())  # (ROWS * COLUMNS, 10)

    for theme in ("light", "dark"):
        colour = (share @ ink_colours(theme)).reshape(ROWS, COLUMNS, 1, 1, 3)
        # The faint haze of a blurred edge is left out: on paper it looks like dirt.
        alpha = ((ink - 0.06) / 0.94).clip(0, 1)[..., None] ** 0.8
        rgba = np.concatenate([np.broadcast_to(colour, (*ink.shape, 3)), alpha], axis=-1)
        sheet = rgba.transpose(0, 2, 1, 3, 4).reshape(ROWS * 28, COLUMNS * 28, 4)
        image = Image.fromarray((sheet * 255).round().astype(np.uint8), "RGBA")
        path = ROOT / "book" / "_static" / f"hero-{theme}.webp"
        image.save(path, quality=84, alpha_quality=70, method=6)
        tell(path, image)
        if theme == "light":
            tell(*preview(image))
    return 0


def preview(sheet: Image.Image) -> tuple[Path, Image.Image]:
    """The map on white, 1,200 by 630 with the title: the size that social networks ask for."""
    title, path = "Variational autoencoders from the ground up", ROOT / "book/_static/preview.jpg"
    canvas = Image.new("RGB", (1200, 630), "white")
    wide = sheet.resize((1200, 600), Image.Resampling.LANCZOS).crop((0, 0, 1200, 505))
    canvas.paste(wide, (0, 12), wide)
    bold = font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight="bold"))
    draw = ImageDraw.Draw(canvas)
    draw.text((600, 573), title, INK, ImageFont.truetype(bold, 42), anchor="mm")
    canvas.save(path, quality=85)
    return path, canvas


def tell(path: Path, image: Image.Image) -> None:
    size, weight = "x".join(map(str, image.size)), path.stat().st_size / 1e3
    print(f"{path.relative_to(ROOT)}: {size}, {weight:.0f} kB")


def ink_colours(theme: str) -> np.ndarray:
    """The ten classes' colours, made legible as thin strokes: darker on white, lighter on black."""
    colours = np.array([to_rgb(c) for c in PALETTE])
    if theme == "dark":
        return colours * 0.65 + 0.35
    luminance = (colours @ [0.2126, 0.7152, 0.0722])[:, None]
    return colours * np.minimum(1, 0.55 / luminance)


if __name__ == "__main__":
    sys.exit(main())
