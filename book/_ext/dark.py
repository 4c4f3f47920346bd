"""Figures for dark pages: ink and paper change places, and pictures stay as they are.

The book's figures are PNG files of 256 colours on white paper (``vae_tutorial.style.to_png``).
Beside each a second one is written, whose paper is the dark page's ground. A chart's colours keep
their hue, and stand out from the ground as they stood out from paper. Images, and heat maps with
their colour bars, are rectangles full of colours that no chart mixes: there no pixel changes.
"""

import copy
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bs4 import BeautifulSoup, Tag

PAPER, INK = (255, 255, 255), (0x26, 0x32, 0x3F)  # of the figures, as they are stored
GROUND, LIGHT = (0x12, 0x16, 0x1F), (0xDF, 0xE4, 0xEE)  # what they become: see book.css
SIGNATURE = b"\x89PNG\r\n\x1a\n"

# ---------------------------------------------------------------- files


def read(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """A palette (K, 3) and the places in it (H, W); None for another kind of PNG."""
    data, parts, at = path.read_bytes(), {}, len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8]
        parts[name] = parts.get(name, b"") + data[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, *kind = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    if kind != [8, 3, 0, 0, 0] or b"tRNS" in parts:
        return None
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, width + 1)
    if rows[:, 0].any():
        return None  # rows that are told as differences: none of the book's
    return np.frombuffer(parts[b"PLTE"], np.uint8).reshape(-1, 3), rows[:, 1:]


def write(path: Path, colours: np.ndarray, places: np.ndarray) -> None:
    """What :func:`read` reads; where there are more than 256 colours, one in full colour."""
    height, width = places.shape
    small = len(colours) <= 256
    pixels = places.astype(np.uint8) if small else colours[places]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # each begins with its filter: none
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3 if small else 2, 0, 0, 0)}
    if small:
        chunks[b"PLTE"] = colours.tobytes()
    chunks |= {b"IDAT": zlib.compress(rows.tobytes(), 9), b"IEND": b""}
    content = SIGNATURE
    for name, part in chunks.items():
        content += struct.pack(">I", len(part)) + name + part
        content += struct.pack(">I", zlib.crc32(name + part))
    path.write_bytes(content)


# ---------------------------------------------------------------- colours

# Bytes to OKLab, in which equal steps look equal: lightness, green to red, blue to yellow.
TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
LIFT, LIGHTEST = 0.2, 0.96


def to_oklab(colours: np.ndarray) -> np.ndarray:
    values = np.asarray(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ TO_CONES.T) @ TO_LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """The inverse, in floats: outside of 0 to 255 where a screen cannot show the colour."""
    linear = (lab @ np.linalg.inv(TO_LAB).T) ** 3 @ np.linalg.inv(TO_CONES).T
    size = np.abs(linear)
    values = np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** (1 / 2.4) - 0.055)
    return 255 * np.copysign(values, linear)


def darkened(colours: np.ndarray) -> np.ndarray:
    """Colours (K, 3) of a chart on paper to those of the same chart on the ground.

    How far a colour is from paper, in lightness and in chroma, is how much lighter than the ground
    it becomes: yellow, which hardly differs from paper in lightness, does not vanish. What blends
    with paper at an edge blends with the ground.
    """
    ground, light, ink = map(to_oklab, (GROUND, LIGHT, INK))

    def strength(lab: np.ndarray) -> np.ndarray:
        lightness = lab[..., :1]
        return 1 - lightness + 2 * lightness * np.hypot(lab[..., 1:2], lab[..., 2:])

    lab = to_oklab(colours)
    share = strength(lab) / strength(ink)  # 0 for paper, 1 for ink
    lifted = share * (1 + LIFT * (1 - share))  # a little more, as the dark swallows what is faint
    lightness = np.clip(ground[0] + lifted * (light[0] - ground[0]), 0, LIGHTEST)
    tint = lab[:, 1:] + (1 - share) * ground[1:] + share * (light[1:] - ink[1:])
    result = np.zeros(lab.shape)
    for part in np.linspace(0, 1, 65)[:, None]:  # as much of its chroma as a screen can show
        tried = from_oklab(np.hstack([lightness, part * tint]))
        result = np.where(((tried > -0.5) & (tried < 255.5)).all(1, keepdims=True), tried, result)
    return np.rint(result).clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------- pictures

Box = tuple[slice, slice]  # rows and columns
SOLID = 8  # pixels: lines, ticks and letters are thinner
GAP = 12  # pixels: the gaps of a sheet are narrower
APART = 7  # pixels: the images of a sheet stand closer to each other, most panels do not
CLOSE = 5  # pixels: a colour bar may stand so close to its map
NARROW, SHORT = 10, 30  # pixels: the sides of the smallest picture, which is a colour bar
MANY, SHARE = 12, 0.002  # so many colours, each of this share of a rectangle, are many
NEAR = 24  # bytes: two colours that are closer are one
CHART = np.array(  # ink and the ten colours that charts are drawn with
    [
        INK, (0x01, 0x73, 0xB2), (0xDE, 0x8F, 0x05), (0x02, 0x9E, 0x73), (0xD5, 0x5E, 0x00),
        (0xCC, 0x78, 0xBC), (0xCA, 0x91, 0x61), (0xFB, 0xAF, 0xE4), (0x94, 0x94, 0x94),
        (0xEC, 0xE1, 0x33), (0x56, 0xB4, 0xE9),
    ]
)  # fmt: skip


def opened(mask: np.ndarray, side: int) -> np.ndarray:
    """Where squares of that side fit into the mask."""

    def count(values: np.ndarray) -> np.ndarray:
        summed = np.pad(values, ((1, 0), (1, 0))).cumsum(0, dtype=np.int32).cumsum(1)
        wide = summed[side:] - summed[:-side]
        return wide[:, side:] - wide[:, :-side]

    return count(np.pad(count(mask) == side**2, side - 1)) > 0


def stretches(line: np.ndarray, apart: int, start: int = 0) -> list[slice]:
    """Where a line of booleans is true; over gaps of fewer than ``apart`` it goes on."""
    found = np.flatnonzero(line) + start
    runs = np.split(found, np.flatnonzero(np.diff(found) > apart) + 1)
    return [slice(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]


def pieces(mask: np.ndarray, box: Box) -> list[Box]:
    """The mask within a box, cut along its empty rows and columns, again and again."""
    found = [
        (rows, columns)
        for rows in stretches(mask[box].any(1), APART, box[0].start)
        for columns in stretches(mask[rows, box[1]].any(0), APART, box[1].start)
    ]
    return found if found == [box] else [part for each in found for part in pieces(mask, each)]


def trimmed(mask: np.ndarray, box: Box) -> Box:
    """A box without a title or label that stands close to it: apart, and not full."""
    for axis in (0, 1):
        inner, start = mask[box], box[axis].start
        parts = stretches(inner.any(1 - axis), 1)
        full = [p for p in parts if inner.take(range(p.start, p.stop), axis).mean() > 0.5]
        if full:
            cut = slice(start + full[0].start, start + full[-1].stop)
            box = (box[0], cut) if axis else (cut, box[1])
    return box


def strange(colours: np.ndarray) -> np.ndarray:
    """For each colour (K, 3), whether it is none of a chart's, thinned with paper or not."""
    away, full = 255.0 - colours[:, None], 255.0 - CHART  # (K, 1, 3), (M, 3)
    part = ((away * full).sum(-1) / (full**2).sum(-1)).clip(0, 1)
    return np.linalg.norm(away - part[..., None] * full, axis=-1).min(1) > NEAR


def large(mask: np.ndarray) -> bool:
    return min(mask.shape) >= NARROW and max(mask.shape) >= SHORT


def is_picture(mask: np.ndarray, places: np.ndarray, odd: np.ndarray, black: np.ndarray) -> bool:
    """Whether a box has straight sides, and many colours or such as no chart has.

    ``odd`` and ``black`` say of each colour whether no chart has it, and whether it is darker than ink.
    """
    if not large(mask):
        return False
    sides = [side.mean() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])]
    shares = np.bincount(places[mask], minlength=len(odd)) / mask.sum()
    many, other, full = (shares > SHARE).sum() >= MANY, shares[odd].sum(), mask.mean()
    # Two-coloured digits, some of their pixels covered with grey: few colours, but much black.
    if full > 0.5 and shares[black].sum() > 0.3 and sum(side > 0.7 for side in sides) > 1:
        return True
    if full < 0.8:  # half a map has two sides of its own, a cloud of points has none
        return full > 0.5 and many and other > 0.2 and sum(side > 0.7 for side in sides) > 1
    # The thick of a cloud of points is full, and has many shades of one colour, but no sides.
    return other > (0.2 if many else 0.8) or (many and full > 0.9 and min(sides) > 0.93)


def pictures(colours: np.ndarray, places: np.ndarray) -> list[Box]:
    """The rectangles of a figure that hold what no chart draws: images, heat maps, colour bars."""
    mask, odd = (colours != PAPER).any(1)[places], strange(colours)
    black = colours.max(1) < min(INK)
    solid, whole = opened(mask, SOLID), (slice(0, mask.shape[0]), slice(0, mask.shape[1]))

    def shown(box: Box) -> bool:
        return is_picture(mask[box], places[box], odd, black)

    boxes = [trimmed(mask, box) for box in pieces(solid, whole)]
    halves = [part for box in boxes if shown(box) for part in parted(mask, box, shown)]
    boxes += [trimmed(mask, box) for half in halves for box in pieces(solid, half)]
    found = [box for box in boxes if shown(box) and not parted(mask, box, shown)]
    # A full panel in a picture's colours is one, too: an image or a map of one shade alone.
    known = np.zeros(len(colours), bool)
    for box in found:
        known[places[box]] = True
    full = [box for box in boxes if large(mask[box]) and mask[box].mean() > 0.9]
    found += [box for box in full if box not in found and known[places[box]].mean() > 0.9]
    return found + sheet(found) + rest_of_rows(found)


def sheet(found: list[Box]) -> list[Box]:
    """The places that are missing in a sheet of images: one that is white itself has no sides."""
    sizes = np.array([[part.stop - part.start for part in box] for box in found]).reshape(-1, 2)
    usual = np.abs(sizes - np.median(sizes, 0)).max(1) < APART if len(found) else []
    alike = [box for box, same in zip(found, usual, strict=True) if same]
    rows, columns = (places_of([box[axis] for box in alike]) for axis in (0, 1))
    if len(rows) * len(columns) < 20 or len(alike) < 0.7 * len(rows) * len(columns):
        return []
    return [(row, column) for row in rows for column in columns]


def rest_of_rows(found: list[Box]) -> list[Box]:
    """Where most rows of a sheet are pictures as a whole, the other rows are, too."""
    rows = []
    for _, wide in found:
        alike = [box for box in found if near(box[1], wide)]
        within = [
            box for box in found
            if box[1].start >= wide.start - SOLID and box[1].stop <= wide.stop + SOLID
        ]  # fmt: skip
        if len(alike) >= 3:
            rows += [(box[0], wide) for box in within if box not in alike]
    return rows


def near(a: slice, b: slice) -> bool:
    return max(abs(a.start - b.start), abs(a.stop - b.stop)) < SOLID


def places_of(spans: list[slice]) -> list[slice]:
    """Spans that begin at nearly the same place are one."""
    kept: list[slice] = []
    for span in sorted(spans, key=lambda span: span.start):
        if not kept or span.start - kept[-1].start >= APART:
            kept.append(span)
    return kept


def parted(mask: np.ndarray, box: Box, shown: Callable[[Box], bool]) -> list[Box]:
    """A map and the colour bar that stands close to it, where a box holds both."""
    for axis in (0, 1):
        cuts = stretches(mask[box].any(1 - axis), CLOSE, box[axis].start)
        parts = [(box[0], cut) if axis else (cut, box[1]) for cut in cuts]
        wide = sorted(cut.stop - cut.start for cut in cuts)
        if len(parts) == 2 and wide[1] > 4 * wide[0] and all(map(shown, parts)):
            return parts
    return []


# ---------------------------------------------------------------- figures

UNSEEN = 0.02  # of OKLab: a step that no eye sees


def variant(colours: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same figure for a dark page: its colours and the places in them, as of 256 as can be."""
    kept, paper = np.zeros(places.shape, bool), (colours == PAPER).all(1)[places]
    for box in pictures(colours, places):
        # Between the images of a sheet lies paper.
        kept[box] = ~(narrow(paper[box].all(0))[None, :] | narrow(paper[box].all(1))[:, None])
    size = len(colours)
    both = np.concatenate([colours, darkened(colours)])
    new = places + np.where(kept, 0, size)
    counts = np.bincount(new.ravel(), minlength=2 * size)
    # The ground and the pictures' colours are exact; then the chart's, by how often each is there.
    chart = np.argsort(-counts[size:], kind="stable") + size
    exact = [int(chart[0]), *np.flatnonzero(counts[:size]).tolist()]
    used = exact + [n for n in chart[1:].tolist() if counts[n]]
    _, first = np.unique(both[used], axis=0, return_index=True)
    palette = both[used][np.sort(first)]
    steps = np.linalg.norm(to_oklab(both[used])[:, None] - to_oklab(palette), axis=-1)
    lost = steps[:, :256].min(1)
    if lost.max() < UNSEEN and not lost[: len(exact)].any():
        palette, steps = palette[:256], steps[:, :256]
    table = np.zeros(2 * size, int)
    table[used] = steps.argmin(1)
    return palette, table[new]


def narrow(line: np.ndarray) -> np.ndarray:
    """A line of booleans with its short stretches of true ones alone."""
    result = np.zeros(len(line), bool)
    for part in stretches(line, 1):
        result[part] = part.stop - part.start <= GAP
    return result


def made(path: Path) -> Path | None:
    """The file of a figure for dark pages, written unless it is there; None where none can be.

    Its name says what it was made of and by: another figure, or other code, has another file.
    """
    recipe = zlib.crc32(path.read_bytes() + Path(__file__).read_bytes())
    result = path.with_name(f"{path.stem}{MARK}{recipe:08x}.png")
    if not result.is_file():
        figure = read(path)
        if figure is None:
            return None
        write(result, *variant(*figure))
    return result


MARK = "-dark-"


def pair(soup: BeautifulSoup, folder: Path) -> set[str]:
    """Beside each figure its variant, which the theme shows in the dark; the names of the files.

    Both are loaded only when they are in view, which one of the two never is. Safe to apply twice.
    """
    for image in soup.select('article img[src*="_images/"][src$=".png"]'):
        light = folder / image["src"]
        if {"only-light", "only-dark"} & set(image.get("class", [])) or not light.is_file():
            continue
        if dark := made(light):
            other = copy.copy(image)
            other.attrs.pop("id", None)
            other["src"] = image["src"].replace(light.name, dark.name)
            image["class"] = [*image.get("class", []), "only-light"]
            other["class"] = [*other.get("class", []), "only-dark"]
            image.insert_after(other)
    for image in soup.select("article .cell_output img:not(a img)"):
        if "only-dark" not in image.get("class", []):
            enlargeable(soup, image)
    return {Path(image["src"]).name for image in soup.select(f'article img[src*="{MARK}"]')}


def enlargeable(soup: BeautifulSoup, image: Tag) -> None:
    """A tap on a figure opens it alone, where fingers can enlarge it (page.js picks the theme's).

    It is no stop for Tab, by which a page is enlarged as a whole; but for a wide figure, which on
    a phone scrolls within its frame.
    """
    other = image.find_next_sibling("img", class_="only-dark")
    where = {"class": "vae-enlarge", "href": image["src"]}
    if not image.find_parent(class_="full-width"):
        where["tabindex"] = "-1"
    link = image.wrap(soup.new_tag("a", attrs=where))
    if other:
        link.append(other.extract())


def drop_unused(out: Path, used: set[str]) -> None:
    """What an earlier build left, of figures or by code that are no more."""
    for path in out.glob(f"_images/*{MARK}*.png"):
        if path.name not in used:
            path.unlink()
