"""Write the points of the live toy sets: test points of chapter 9, as their figure shows them.

    python tools/make_toy.py

The networks are not here: book/_ext/live.py takes them from the runs whenever the site is built.
"""

import json
import sys
from pathlib import Path

from vae_tutorial.data import toy

SETS = {  # equal sectors that are told apart by colour, and how far they turn per unit of radius
    "mixture": (8, 0.0),
    "ring": (8, 0.0),
    "pinwheel": (5, 0.25 / 1.4),  # a blade turns by 0.25 per unit, and is then 1.4 times as large
}
POINTS = 800


def points(name: str) -> list[list[float]]:
    return [[round(v, 2) for v in x] for x in toy.load(name).test.examples[:POINTS].tolist()]


def main() -> int:
    found = {
        name: {"title": name, "sectors": sectors, "twist": twist, "points": points(name)}
        for name, (sectors, twist) in SETS.items()
    }
    path = Path(__file__).resolve().parent.parent / "book" / "_extra" / "live" / "toy.json"
    path.write_text(json.dumps(found) + "\n")
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
