"""One style sheet for all pages: those of the theme, its helpers and the book, without unused rules."""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tinycss2
from sphinx.application import Sphinx

SHEET = "_static/site.css"
ORDER = (  # in which the sheets follow each other; of those that no page asks for, none is taken
    "styles/theme.css",
    "styles/pydata-sphinx-theme.css",
    "pygments.css",
    "styles/sphinx-book-theme.css",
    "togglebutton.css",
    "copybutton.css",
    "mystnb.*.css",
    "sphinx-design.min.css",
    "exercise.css",
    "proof.css",
    "fonts.css",
    "book.css",
    "live-*.css",
)
FIRST_FONTS = ("fonts/source-serif-4-latin-normal.woff2", "fonts/inter-latin-normal.woff2")
# What scripts write into a page. Their words are looked up; those of Bootstrap's script, most of
# which the site has no use for, are not, and MathJax brings style sheets of its own.
OWN_SCRIPTS = ("_static/*.js", "_static/scripts/[!b]*.js", "live/*.js")
BOOTSTRAP = (
    "active show fade collapsing collapsed disabled dropdown dropdown-menu tooltip tooltip-inner"
    " tooltip-arrow bs-tooltip-auto bs-tooltip-top bs-tooltip-bottom bs-tooltip-start bs-tooltip-end"
)
ATTRIBUTES = (
    "data-popper-placement data-bs-popper open hidden checked disabled data-theme data-mode"
)
ICON_FONT = re.compile(r"Font Awesome|--fa-")  # icons are drawn in the page (light.draw_icons)
LINK = re.compile(r'<link\b[^>]*\brel="stylesheet"[^>]*>\s*')
HREF = re.compile(r'href="(?:\.\./)*_static/([^"?]+)')
PRELOAD = re.compile(r"<link\b[^>]*\bdata-font\b[^>]*>\s*")


@dataclass
class Words:
    """What pages hold, and scripts may put into them: of each kind the names."""

    tags: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    begins: set[str] = field(default_factory=set)  # of classes that scripts compose

    def read_page(self, html: str) -> None:
        self.tags |= {tag.lower() for tag in re.findall(r"<([a-zA-Z][\w-]*)", html)}
        for kind, found in (("class", self.classes), ("id", self.ids)):
            for value in re.findall(rf'\s{kind}="([^"]*)"', html):
                found.update(value.split())
        self.attributes |= {
            name.lower() for name in re.findall(r"\s([a-zA-Z][\w:-]*)[=\s>/]", html)
        }

    def read_script(self, script: str) -> None:
        strings = re.findall(r'"[^"\n]*"|\'[^\'\n]*\'|`[^`]*`', script)
        self.add(word for text in strings for word in re.findall(r"[\w-]+", text))

    def have_class(self, name: str) -> bool:
        """Whether a page holds it, or a script may: `vae-live-${kind}` is any that begins so."""
        return name in self.classes or name.startswith(tuple(self.begins))

    def add(self, words: Iterable[str]) -> None:
        """Words that may be anything."""
        for word in words:
            for kind in (self.tags, self.classes, self.ids, self.attributes):
                kind.add(word)
            if re.fullmatch(r"\w[\w-]{3,}-", word):
                self.begins.add(word)


def parts(tokens: list) -> Iterator[list]:
    """What stands between the commas."""
    part: list = []
    for token in tokens:
        if token.type == "literal" and token.value == ",":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def may_match(selector: list, words: Words) -> bool:
    """Whether pages hold every name that the selector asks for. Its shape is not looked at."""
    before = ""
    for token in selector:
        if token.type == "ident":
            if before == "." and not words.have_class(token.value):
                return False
            if before not in {".", ":"} and token.lower_value not in words.tags:
                return False
        elif token.type == "hash" and token.value not in words.ids:
            return False
        elif token.type == "[] block":
            name = next((inner for inner in token.content if inner.type == "ident"), None)
            if name and name.lower_value not in words.attributes:
                return False
        elif token.type == "function" and token.lower_name in {"is", "where", "has"}:
            found = [may_match(part, words) for part in parts(token.arguments)]
            if not any(found):
                return False
        before = token.value if token.type == "literal" else ""
    return True


def prune(rules: list, words: Words, named: set[str] | None) -> Iterator[str]:
    """The rules that may match something, as text; comments are left out.

    Of properties whose names begin with -- those remain that are ``named``, or all.
    """
    for rule in rules:
        if rule.type == "error":
            raise ValueError(
                f"a style sheet cannot be read, line {rule.source_line}: {rule.message}"
            )
        if rule.type == "at-rule" and rule.content is None:
            yield rule.serialize() + "\n"
        elif rule.type == "at-rule" and rule.lower_at_keyword in {"media", "supports", "layer"}:
            inside = tinycss2.parse_blocks_contents(rule.content, skip_whitespace=True)
            if text := "".join(prune(inside, words, named)):
                yield f"@{rule.at_keyword} {tight(rule.prelude)}{{{text}}}\n"
        elif rule.type in {"at-rule", "qualified-rule"}:
            content = tight(rule.content)
            if rule.type == "at-rule":
                before = f"@{rule.at_keyword} {tight(rule.prelude)}"
            else:
                before = ",".join(tight(p) for p in parts(rule.prelude) if may_match(p, words))
                content = ";".join(declarations(rule.content, named))
            if before and content and not ICON_FONT.search(content):
                yield f"{before}{{{content}}}\n"


def declarations(content: list, named: set[str] | None) -> Iterator[str]:
    """What a rule says. Old browsers' secrets, which are no declarations, are left out."""
    for found in tinycss2.parse_blocks_contents(content):
        if found.type == "qualified-rule":
            raise ValueError(f"styles.py does not know rules within rules: {found.serialize()}")
        if found.type == "declaration" and (
            not found.name.startswith("--") or named is None or found.name in named
        ):
            yield f"{found.name}:{tight(found.value)}{'!important' if found.important else ''}"


def tight(tokens: list) -> str:
    """Tokens as text, without comments, each run of white space a single space."""
    kept = (token for token in tokens if token.type != "comment")
    return "".join(
        " " if token.type == "whitespace" else token.serialize() for token in kept
    ).strip()


def shrink(css: str, words: Words, more: str) -> str:
    """Without rules that match nothing, and properties and animations that nothing names."""
    elsewhere, named, before = set(re.findall(r"--[\w-]+", more)), None, ""
    while css != before:
        before = css
        rules = tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True)
        css = "".join(prune(rules, words, named))
        named = elsewhere | set(re.findall(r"var\(\s*(--[\w-]+)", css))
    for name in set(re.findall(r"@keyframes ([\w-]+)", css)):
        if not re.search(rf"animation[\w-]*:[^;}}]*{name}\b", css):
            css = re.sub(rf"@keyframes {name}{{(?:[^{{}}]*{{[^{{}}]*}})*\s*}}\n", "", css)
    return css


def read(path: Path, root: Path) -> str:
    """A sheet with what it imports, its addresses as seen from ``root``."""

    def moved(found: re.Match) -> str:
        target = (path.parent / found[1]).resolve()
        return f"url({target.relative_to(root)})" if target.is_relative_to(root) else found[0]

    text = path.read_text(encoding="utf-8").removeprefix('@charset "UTF-8";')
    text = re.sub(r"url\(['\"]?(?!data:|#)([^)'\"?#]+)[^)]*\)", moved, text)
    imported = re.compile(r'@import "([^"]+)";')
    return imported.sub(lambda found: read((path.parent / found[1]).resolve(), root), text)


def unite(app: Sphinx, exception: Exception | None) -> None:
    """Write the sheet, and have every page ask for it. Safe to apply twice."""
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir).resolve()
    static = out / "_static"
    pages = {
        path: path.read_text(encoding="utf-8")
        for path in sorted(out.rglob("*.html"))
        if path.relative_to(out).parts[0] not in {"_static", "_sources", "live", "mathjax"}
    }
    words, asked = Words(), set()
    for html in pages.values():
        words.read_page(html)
        asked |= {found[1] for link in LINK.findall(html) if (found := HREF.search(link))}
    scripts = [p.read_text("utf-8") for pattern in OWN_SCRIPTS for p in sorted(out.glob(pattern))]
    for script in scripts:
        words.read_script(script)
    words.add([*BOOTSTRAP.split(), *ATTRIBUTES.split()])
    sheets = [path for pattern in ORDER for path in sorted(static.glob(pattern))]
    names = [path.relative_to(static).as_posix() for path in sheets]
    if unknown := asked - {*names, Path(SHEET).name}:
        raise ValueError(f"styles.ORDER does not say where these come: {sorted(unknown)}")
    whole = "\n".join(read(path, static) for path in sheets)
    css = shrink(whole, words, "".join([*scripts, *pages.values()]))
    (out / SHEET).write_text(css, encoding="utf-8")
    for path, html in pages.items():
        up = "../" * (len(path.relative_to(out).parts) - 1)
        path.write_text(linked(html, up, zlib.crc32(css.encode())), encoding="utf-8")


def linked(html: str, up: str, version: int) -> str:
    """A page that asks for the one sheet, and at once for the two faces that it begins with."""
    if not LINK.search(html):
        return html
    links = f'<link href="{up}{SHEET}?v={version:x}" rel="stylesheet"/>\n'
    links += "".join(
        f'<link as="font" crossorigin="" data-font="" href="{up}_static/{font}" rel="preload" type="font/woff2"/>\n'
        for font in FIRST_FONTS
    )
    html = PRELOAD.sub("", html)
    first = LINK.search(html).start()
    return html[:first] + links + LINK.sub("", html[first:])


def setup(app: Sphinx) -> None:
    app.connect("build-finished", unite, priority=940)  # once the pages are mended
