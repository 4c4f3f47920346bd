"""Write what the figure to paint in starts from: a committed VQ-VAE's alphabet, and garments in it.

    python tools/make_symbols.py

For each symbol a tile: the 4 by 4 pixels that the decoder draws in its place, averaged over all the
places of the test images that have it. For each class the codes of the first test image. The
decoder's weights are not here: book/_ext/live.py takes them from the run whenever the site is built.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from vae_tutorial import data, load_run

ROOT = Path(__file__).resolve().parent.parent
RUN = "fashion-mnist/vqvae"


def main() -> int:
    model = load_run(RUN).model
    clothes = data.load("fashion-mnist")
    codes, sums = [], torch.zeros(model.quantizer.num_codes, 16)
    with torch.no_grad():
        for images in clothes.test.images.split(500):
            codes.append(model.encode(data.to_float(images)))
            blocks = F.pixel_unshuffle(model.decode(codes[-1]), 4).movedim(1, -1)  # (500, 7, 7, 16)
            sums.index_add_(0, codes[-1].flatten(), blocks.reshape(-1, 16))
    codes = torch.cat(codes)  # (N, 7, 7)
    tiles = sums / codes.flatten().bincount(minlength=len(sums))[:, None]
    first = [int((clothes.test.labels == i).nonzero()[0]) for i in range(len(clothes.classes))]
    run = json.loads((ROOT / "artifacts" / RUN / "run.json").read_text(encoding="utf-8"))
    found = {
        "weights": run["weights_sha256"],  # for live.py: these are the symbols of that very run
        "order": tiles.mean(1).argsort().tolist(),  # from dark to bright
        "tiles": (255 * tiles).round().int().tolist(),
        "garments": [
            {"name": name, "codes": grid}
            for name, grid in zip(clothes.classes, codes[first].flatten(1).tolist(), strict=True)
        ],
    }
    path = ROOT / "book" / "_extra" / "live" / "symbols.json"
    path.write_text(json.dumps({RUN: found}) + "\n")
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
