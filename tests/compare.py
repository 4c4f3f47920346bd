"""How the outputs of a notebook that was run again are compared with the stored ones.

A plugin for nbval, loaded by ``tools/run_tests.py``. Another CPU computes other last bits, so
numbers with a decimal point, an exponent or a percent sign may differ by one unit of the last
printed digit: those that agree further than they are printed round to neighbours at most. Pictures
must look the same (:func:`share_that_differs`). All else must be equal, but for spaces next to a
number: a digit more moves them. A cell that is less certain says so in its metadata::

    "compare": {"units": 3}          numbers may differ by three units of the last printed digit
    "compare": {"integers": true}    whole numbers may differ as the others may
    "compare": {"picture": 0.02}     so large a share of each picture may look different
"""

import base64
import difflib
import io
import re
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import product, zip_longest
from pathlib import Path

import numpy as np
import pytest
from nbval.plugin import IPyNbCell
from PIL import Image
from scipy import ndimage

# A digit after a letter or after another number's point belongs to a name: ch01, 2.1.0.
NUMBER = re.compile(
    r" *(?P<number>(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+(?!\w))?)"
    r"(?!\.?\d)(?P<percent> ?%)? *"
)


@dataclass(frozen=True)
class Rule:
    """How far the outputs of one cell may lie from the stored ones."""

    units: int = 1
    integers: bool = False
    picture: float = 0.0001

    def __post_init__(self) -> None:
        kinds = (type(self.units), type(self.integers), type(self.picture))
        if kinds != (int, bool, float) or self.units < 1 or not 0 < self.picture <= 0.3:
            raise ValueError(f"units is a whole number, picture a share up to 0.3; here: {self}")


def _too_far(stored: re.Match, new: re.Match, rule: Rule) -> str:
    """How far two printed numbers lie apart, in words; nothing where that is near enough."""
    left, right = (Decimal(match["number"].replace(",", "")) for match in (stored, new))
    # Where one has more digits than the other (9.99 and 10.0; 0.3 and 0.2999), its unit counts.
    unit = Decimal(1).scaleb(min(left.as_tuple().exponent, right.as_tuple().exponent))
    allowed = rule.units if rule.integers or re.search(r"[.eE%]", stored[0] + new[0]) else 0
    if (units := abs(left - right) / unit) <= allowed:
        return ""
    return f"    {stored['number']} and {new['number']}: {units:f} units apart, {allowed} may be"


def text_differences(stored: str, new: str, rule: Rule) -> list[str]:
    """Both sides of each line that differs, and why; an empty list where the texts agree."""
    lines, others = stored.split("\n"), new.split("\n")
    if len(lines) != len(others):
        return list(difflib.unified_diff(lines, others, "stored", "new", lineterm=""))
    messages = []
    for line, other in zip(lines, others, strict=True):
        words = [NUMBER.sub(lambda m: "\0%" if m["percent"] else "\0", x) for x in (line, other)]
        if words[0] != words[1]:
            found = ["    the words differ"]
        else:
            pairs = zip(NUMBER.finditer(line), NUMBER.finditer(other), strict=True)
            found = list(filter(None, (_too_far(*pair, rule) for pair in pairs)))
        messages += [f"- {line}", f"+ {other}", *found] if found else []
    return messages


def share_that_differs(stored: np.ndarray, new: np.ndarray) -> float:
    """The share of the pixels of two pictures, (H, W, 3) in [0, 1], that look different; in [0, 1].

    A colour that the other picture has one pixel further on is found there, and each neighbourhood
    of 5 by 5 pixels may have moved by one more: lines may move a little, and their edges be drawn
    otherwise. A pixel looks different where, over its neighbourhood, more than 0.1 is not found.
    Pictures whose sizes differ by more than two pixels differ everywhere.
    """
    if max(abs(np.subtract(stored.shape, new.shape))) > 2:
        return 1.0
    height, width = np.minimum(stored.shape, new.shape)[:2]
    stored, new = (np.moveaxis(p[:height, :width], -1, 0).copy() for p in (stored, new))
    high, new_high = (ndimage.maximum_filter(p, (1, 3, 3)) for p in (stored, new))
    low, new_low = (ndimage.minimum_filter(p, (1, 3, 3)) for p in (stored, new))
    least = np.ones((height, width), np.float32)
    for shift in product((0, 1, -1), repeat=2):
        moved, above, below = (np.roll(p, shift, (1, 2)) for p in (new, new_high, new_low))
        missed = np.max([stored - above, below - stored, moved - high, low - moved], axis=(0, 1))
        least = np.minimum(least, ndimage.uniform_filter(missed.clip(0), 5))
        if not (different := least > 0.1).any():
            break
    return float(different.mean())


def _pixels(encoded: str) -> np.ndarray:
    """A picture of a notebook, (H, W, 3) in [0, 1], on white."""
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"), dtype=np.float32) / 255


def picture_differences(stored: str, new: str, rule: Rule, path: Path) -> list[str]:
    """How much of two pictures differs; then both lie at ``path``, the stored one above."""
    pictures = [_pixels(stored), _pixels(new)]
    if (share := share_that_differs(*pictures)) <= rule.picture:
        return []
    width = max(p.shape[1] for p in pictures)
    both = np.concatenate([np.pad(p, ((0, 9), (0, width - p.shape[1]), (0, 0))) for p in pictures])
    Image.fromarray((both * 255).astype(np.uint8)).save(path)
    words = "{:.3%} of the pixels look different, {:.3%} may; stored above new: {}"
    return ["    " + words.format(share, rule.picture, path)]


def _contents(outputs: list) -> dict[str, list]:
    """What a cell put out: a kind (a stream, a MIME type, an error) and all that is of it."""
    found = defaultdict(list)
    for output in outputs:
        if "text" in output:
            found[output["name"]].append(output["text"])
        elif "ename" in output:
            found["error"].append(f"{output['ename']}: {output['evalue']}")
        for kind, value in output.get("data", {}).items():
            found[kind].append(str(value))
    found.pop("application/vnd.jupyter.widget-view+json", None)  # its names are random
    return found


def differences(stored: list, new: list, rule: Rule, picture: Path, sanitize=str) -> list[str]:
    """Both sides of all that differs in a cell's outputs; pictures go to ``picture``-0.png, ..."""
    stored, new, messages = _contents(stored), _contents(new), []
    for kind in sorted(stored.keys() | new.keys()):
        is_picture = kind in ("image/png", "image/jpeg")
        for number, pair in enumerate(zip_longest(stored[kind], new[kind])):
            if None in pair:
                texts = ("a picture" if x and is_picture else x or "nothing" for x in pair)
                found = ["- stored: {}\n+ new: {}".format(*texts)]
            elif is_picture:
                found = picture_differences(*pair, rule, Path(f"{picture}-{number}.png"))
            else:
                found = text_differences(*map(sanitize, pair), rule)
            messages += [f"{kind}:", *found] if found else []
    return messages


def _compare_outputs(item: IPyNbCell, new: list, stored: list) -> bool:
    """In place of nbval's own: whether a cell's outputs agree; the cell remembers what differs."""
    try:
        rule = Rule(**item.cell.metadata.get("compare", {}))
    except (TypeError, ValueError) as error:
        item.comparison_traceback = [f"the cell's metadata, compare: {error}"]
        return False
    picture = item.config.cache.mkdir("pictures") / f"{item.path.stem}-cell-{item.cell_num}"
    item.comparison_traceback = differences(stored, new, rule, picture, item.sanitize)
    return not item.comparison_traceback


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, IPyNbCell):
        item.compare_outputs = partial(_compare_outputs, item)
