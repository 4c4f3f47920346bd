"""Write the points of the live planes: where the encoders of two committed runs put test images.

    python tools/make_codes.py

The site's figures under the reader's hand (book/_extra/live/) draw these points behind the place
that the pointer is at. The decoders' weights are not here: book/_ext/live.py takes them from the
runs whenever the site is built.
"""

import json
import sys
from pathlib import Path

import torch

from vae_tutorial import data, latent, load_run
from vae_tutorial.plots import PALETTE

PLANES = {  # run: title, the scale of both axes, the limits in that scale (None: all but a few)
    "mnist/ae-2d": ("Autoencoder", "asinh", None),  # asinh pulls far codes inwards
    "mnist/vae-2d": ("VAE", "linear", 4.2),
}
POINTS = 1500


def main() -> int:
    mnist = data.load("mnist")
    images, labels = mnist.test.images[:POINTS], mnist.test.labels[:POINTS]
    planes = {}
    for name, (title, scale, limit) in PLANES.items():
        codes = latent.encode(load_run(name).model, images)  # (POINTS, 2)
        scaled = codes.asinh() if scale == "asinh" else codes
        low, high = torch.quantile(scaled, torch.tensor([0.002, 0.998]), dim=0)
        half = limit or float((high - low).max()) / 2  # a square, so that a circle is a circle
        centre = [0.0, 0.0] if limit else ((low + high) / 2).tolist()
        planes[name] = {
            "title": title,
            "scale": scale,
            "circles": [1, 2, 3] if limit else [],  # the prior's: 39, 86 and 99 % of its draws
            "limits": [[round(c - half, 3), round(c + half, 3)] for c in centre],
            "points": [[round(v, 2) for v in point] for point in codes.tolist()],
            "labels": "".join(map(str, labels.tolist())),
        }
    path = Path(__file__).resolve().parent.parent / "book" / "_extra" / "live" / "codes.json"
    path.write_text(json.dumps({"palette": list(PALETTE), "planes": planes}) + "\n")
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
