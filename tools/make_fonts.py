"""Cut the book's typefaces down to the characters that its pages use.

    make book && python tools/make_fonts.py [FOLDER]

It reads the built site, takes the fonts from the npm registry (or from FOLDER, where ``npm pack``
has put them), and writes ``book/_static/fonts/`` with their licences, and ``book/_static/fonts.css``:
the faces with the characters that each holds, and for each a face of the reader's system, made as
wide and as high, which stands in until the other is there. It needs fonttools and brotli. The same
pages give the same bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from collections import Counter
from itertools import product
from pathlib import Path

from bs4 import BeautifulSoup
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from fontTools.varLib.instancer import instantiateVariableFont

ROOT = Path(__file__).resolve().parent.parent
SITE, STATIC = ROOT / "book" / "_build" / "html", ROOT / "book" / "_static"
ASCII = {chr(code) for code in range(32, 127)}
NAMES_OF_PEOPLE = {chr(code) for code in range(0xC0, 0x100)}  # their letters, before they are cited
# No typeface of the book has these: a circled dot, a circumflex that combines, a script D, an arrow
# and two indices, in diagrams, in the symbols of code and in figures under the hand.
LEFT_TO_SYSTEM = {"\u2299", "\u0302", "\U0001d49f", "\u2192", "\u2081", "\u2082"}
STANDS_FOR = {0x2011: 0x2010}  # a hyphen that does not break is drawn as a hyphen
FACES = {  # the family's name: package, version, its files' name, styles with their weights, features
    "Source Serif 4": (
        "source-serif-4",
        "5.3.1",
        {"normal": (400, 700), "italic": (400, 400)},
        ["kern", "liga", "tnum"],
    ),
    "Inter": ("inter", "5.3.0", {"normal": (400, 750)}, ["kern", "tnum"]),
    "JetBrains Mono": ("jetbrains-mono", "5.3.0", {"normal": (400, 700)}, []),
}
PARTS = ("latin", "greek")  # of a family, a file each
STAND_INS = {  # of each family: a package with the measures of a system's face, and what that is called
    "Source Serif 4": {
        "tinos": ["Times New Roman", "Liberation Serif", "Tinos"],
        "noto-serif": ["Noto Serif"],
        "dejavu-serif": ["DejaVu Serif"],
    },
    "Inter": {
        "arimo": ["Arial", "Liberation Sans", "Arimo"],
        "roboto": ["Roboto"],
        "dejavu-sans": ["DejaVu Sans"],
    },
    "JetBrains Mono": {
        "cousine": ["Courier New", "Liberation Mono", "Cousine"],
        "dejavu-mono": ["DejaVu Sans Mono"],
    },
}
STAND_IN_VERSION = "5.3.0"
NAMES = {  # how book.css calls them, and what comes last
    "serif": ("Source Serif 4", "serif"),
    "sans": ("Inter", "system-ui, sans-serif"),
    "mono": ("JetBrains Mono", "ui-monospace, monospace"),
}
HEAD = (
    "/* Written by tools/make_fonts.py: the typefaces, each with the characters that it holds. */\n"
)


def characters(site: Path) -> Counter:
    """How often each character is shown on the pages, or stands in a script that writes on them."""
    found = Counter()
    for path in sorted(site.rglob("*.html")):
        if path.relative_to(site).parts[0] not in {"_static", "_sources", "live", "mathjax"}:
            soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            for unseen in soup(["script", "style"]):
                unseen.decompose()
            found.update(soup.get_text())
    for path in [*sorted(site.glob("live/*.js")), site / "_static" / "page.js"]:
        found.update(set(path.read_text(encoding="utf-8")))
    return found


def wanted(counted: Counter) -> set[str]:
    """Those that are drawn, and not only obeyed."""
    return {character for character in counted if unicodedata.category(character)[0] != "C"}


def fetch(scope: str, package: str, version: str, folder: Path) -> Path:
    """A package's folder, unpacked."""
    name, place = f"{scope}-{package}-{version}", folder / f"unpacked-{scope}-{package}-{version}"
    if not place.exists():
        if not (folder / f"{name}.tgz").exists():
            wanted = f"@{scope}/{package}@{version}"
            subprocess.run(["npm", "pack", "--silent", wanted], cwd=folder, check=True)
        with tarfile.open(folder / f"{name}.tgz") as packed:
            packed.extractall(place, filter="data")
    return place / "package"


def cut(path: Path, weights: tuple[int, int], characters: set[str], features: list[str]) -> TTFont:
    """The font with these characters, as far as it has them, and these weights."""
    font = TTFont(path, recalcTimestamp=False)
    for code, drawn in STANDS_FOR.items():
        for table in font["cmap"].tables:
            if table.isUnicode() and code not in table.cmap:
                glyph = table.cmap.get(drawn) or table.cmap.get(ord("-"))
                if glyph:
                    table.cmap[code] = glyph
    options = Options(
        layout_features=features, hinting=False, desubroutinize=True, name_IDs=[0, 1, 13, 14]
    )
    subsetter = Subsetter(options)
    subsetter.populate(unicodes={ord(character) for character in characters})
    subsetter.subset(font)
    low, high = weights
    font = instantiateVariableFont(font, {"wght": low if low == high else weights})
    font.flavor = "woff2"
    return font


def ranges(codes: list[int]) -> str:
    """Codes as CSS writes them: U+20-7E, U+A0."""
    spans: list[list[int]] = []
    for code in sorted(codes):
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return ", ".join(f"U+{low:X}" + (f"-{high:X}" if high > low else "") for low, high in spans)


def width(font: TTFont, counted: Counter) -> float:
    """The mean advance of a letter in the book's text, in em."""
    glyphs, advances = font.getBestCmap(), font["hmtx"].metrics
    known = {character: n for character, n in counted.items() if ord(character) in glyphs}
    total = sum(n * advances[glyphs[ord(character)]][0] for character, n in known.items())
    return total / sum(known.values()) / font["head"].unitsPerEm


def stand_ins(family: str, font: TTFont, counted: Counter, folder: Path) -> str:
    """Faces of the readers' systems, as wide and as high as the family."""
    letters = Counter({c: n for c, n in counted.items() if c in ASCII})
    line, em, css = font["hhea"], font["head"].unitsPerEm, ""
    for package, names in STAND_INS[family].items():
        place = fetch("fontsource", package, STAND_IN_VERSION, folder)
        other = TTFont(place / "files" / f"{package}-latin-400-normal.woff2")
        size = width(font, letters) / width(other, letters)
        sources = ", ".join(f'local("{name}")' for name in names)
        shares = {"ascent": line.ascent, "descent": -line.descent, "line-gap": line.lineGap}
        css += (
            f'@font-face {{\n  font-family: "{family} as {names[0]}";\n'
            f"  src: {sources};\n"
            f"  size-adjust: {100 * size:.2f}%;\n"
            + "".join(f"  {k}-override: {100 * v / em / size:.2f}%;\n" for k, v in shares.items())
            + "}\n"
        )
    return css


def write_family(family: str, characters: set[str], counted: Counter, folder: Path) -> str:
    """The family's files and licence; returns its faces."""
    package, version, styles, features = FACES[family]
    source, css = fetch("fontsource-variable", package, version, folder), ""
    licence = (source / "LICENSE").read_text(encoding="utf-8")
    (STATIC / "fonts" / f"{package}-LICENSE.txt").write_text(licence, encoding="utf-8")
    held: dict[str, set[str]] = {style: set() for style in styles}
    for (style, weights), part in product(styles.items(), PARTS):
        file = source / "files" / f"{package}-{part}-wght-{style}.woff2"
        font = cut(file, weights, characters - held[style], features)
        held[style] |= set(map(chr, font.getBestCmap()))
        target = f"fonts/{package}-{part}-{style}.woff2"
        font.save(STATIC / target)
        print(f"{target}: {(STATIC / target).stat().st_size / 1e3:.1f} kB")
        css += (
            f'@font-face {{\n  font-family: "{family}";\n  font-style: {style};\n'
            f"  font-weight: {' '.join(map(str, sorted(set(weights))))};\n  font-display: swap;\n"
            f'  src: url("{target}") format("woff2");\n'
            f"  unicode-range: {ranges(list(font.getBestCmap()))};\n}}\n"
        )
        if (style, part) == ("normal", "latin"):
            css += stand_ins(family, font, counted, folder)
    return css


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where npm pack has put the fonts")
    folder = parser.parse_args().folder
    counted = characters(SITE)
    cut_to = ASCII | NAMES_OF_PEOPLE | wanted(counted)
    (STATIC / "fonts").mkdir(exist_ok=True)
    for old in (STATIC / "fonts").glob("*.woff2"):
        old.unlink()
    css = HEAD + ":root {\n"
    for name, (family, last) in NAMES.items():
        quoted = [f'"{family}"']
        quoted += [f'"{family} as {names[0]}"' for names in STAND_INS[family].values()]
        css += f"  --vae-{name}: {', '.join([*quoted, last])};\n"
    css += "}\n"
    with tempfile.TemporaryDirectory() as temporary:
        for family in FACES:
            css += write_family(family, cut_to, counted, folder or Path(temporary))
    (STATIC / "fonts.css").write_text(css, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
