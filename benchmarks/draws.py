"""How much sooner does a Gated PixelCNN draw when it keeps what its layers have found?

    python benchmarks/draws.py [--clock cpu] [--json benchmarks/results.json]

Both ways draw from the same untrained model, one after the other, in one process; the ratio is taken
within each round, and its median printed. The plain way runs the network on all rows down to the
place that is being drawn, for each place; the package's computes each place once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from measuring import parser, start, store

from vae_tutorial.models.pixelcnn import GatedPixelCNN
from vae_tutorial.randomness import seeded


@torch.no_grad()
def plain_draw(model: GatedPixelCNN, n: int, seed: int) -> torch.Tensor:
    """Codes (n, H, W): a pass through the network over all rows so far for each place."""
    height, width = model.grid
    codes = torch.zeros(n, height, width, dtype=torch.int64)
    with seeded(seed):
        for y in range(height):
            for x in range(width):
                embedded = model.embedding(codes[:, : y + 1]).movedim(-1, 1)
                p = model.features(embedded)[:, :, y, x].softmax(1)
                codes[:, y, x] = torch.multinomial(p, 1).squeeze(1)
    return codes


def seconds(draw: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    draw()
    return clock() - begin


def main(arguments: list[str] | None = None) -> list[dict]:
    options_of = parser(__doc__)
    options_of.add_argument("--rounds", type=int, default=5)
    options_of.add_argument("--grids", type=int, nargs="+", default=[7, 14, 28])
    options_of.add_argument("--draws", type=int, nargs="+", default=[1, 50])
    options = options_of.parse_args(arguments)
    clock = start(options)
    if options.quick:
        options.rounds, options.grids, options.draws = 1, [4], [2]
    print("chapter 12's network; seconds are medians")
    rows = []
    for side in options.grids:
        torch.manual_seed(0)
        model = GatedPixelCNN(128, (side, side), channels=40, layers=5, hidden=128).eval()
        for n in options.draws:
            plain, kept = [], []
            for seed in range(options.rounds):
                plain.append(seconds(lambda: plain_draw(model, n, seed), clock))  # noqa: B023
                kept.append(seconds(lambda: model.sample(n, seed=seed), clock))  # noqa: B023
            ratio = statistics.median(a / b for a, b in zip(plain, kept, strict=True))
            row = {"grid": side, "draws": n, "plain, s": statistics.median(plain),
                   "kept, s": statistics.median(kept), "times sooner": ratio}  # fmt: skip
            rows.append(row)
            print(
                f"{side:3d} x {side:<3d} {n:4d} at a time: {row['plain, s']:8.3f} s, "
                f"{row['kept, s']:7.3f} s, {ratio:6.1f} times sooner",
                flush=True,
            )
    store(options.json, "draws", {"rows": rows}, options.clock)
    return rows


if __name__ == "__main__":
    main()
