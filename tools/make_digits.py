"""Write ten test digits, in black and white, for the site's figures that start from an image.

    python tools/make_digits.py

Of each class the first in the test set. A pixel is white where its grey level is above one half:
196 hexadecimal digits are the 784 pixels of an image, row by row.
"""

import json
import sys
from pathlib import Path

from vae_tutorial import data


def main() -> int:
    mnist = data.load("mnist")
    white = (mnist.test.images > 127).flatten(1).int().tolist()
    labels = mnist.test.labels.tolist()
    found = [white[labels.index(label)] for label in range(10)]
    digits = [f"{int(''.join(map(str, pixels)), 2):0196x}" for pixels in found]
    path = Path(__file__).resolve().parent.parent / "book" / "_extra" / "live" / "digits.json"
    path.write_text(json.dumps(digits, indent=0) + "\n")
    print(f"{path.name}: {path.stat().st_size / 1e3:.1f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
