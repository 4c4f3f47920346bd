"""The finished HTML made light: what a page does not use, it does not load."""

import json
import re
from pathlib import Path

import imagesize
from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx

# The theme's dozen icons, as strokes in a box of 24 by 24, in place of a script of 1.5 MB.
ICONS = {
    "magnifying-glass": "M16 16l5 5M10.5 18a7.5 7.5 0 1 1 0-15 7.5 7.5 0 0 1 0 15z",
    "chevron-down": "M5 9l7 7 7-7",
    "bars": "M4 6h16M4 12h16M4 18h16",
    "list": "M9 6h11M9 12h11M9 18h11M4 6h.01M4 12h.01M4 18h.01",
    "sun": "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 2v3M12 19v3M2 12h3M19 12h3"
    "M4.9 4.9l2.1 2.1M17 17l2.1 2.1M4.9 19.1l2.1-2.1M17 7l2.1-2.1",
    "moon": "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
    "circle-half-stroke": "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 3v18M15 4.6v14.8M18 6.8v10.4",
    "arrow-up": "M12 20V4M5 11l7-7 7 7",
    "angle-left": "M15 5l-7 7 7 7",
    "angle-right": "M9 5l7 7-7 7",
    "download": "M12 3v12M6 10l6 6 6-6M4 21h16",
    "file": "M6 3h8l5 5v13H6zM14 3v5h5",
    "file-pdf": "M6 3h8l5 5v13H6zM14 3v5h5M9 13h6M9 17h6",
    "expand": "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
    "github": "M9 20c-4 1-4-2-6-2.5M15 22v-3.5c0-1 .1-1.4-.5-2 2.8-.3 5.5-1.4 5.5-6a4.6 4.6 0 0 0-1.3-3.2"
    "c.1-.5.5-1.7-.2-3.3 0 0-1-.3-3.5 1.3a12 12 0 0 0-6 0C6.5 3.7 5.5 4 5.5 4c-.7 1.6-.3 2.8-.2 3.3"
    "A4.6 4.6 0 0 0 4 10.5c0 4.6 2.7 5.7 5.5 6-.6.6-.6 1.2-.5 2V22",
    "lightbulb": "M9 18h6M10 22h4M12 2a7 7 0 0 0-4 12.7V18h8v-3.3A7 7 0 0 0 12 2z",
}
NEEDED = {  # a script or style sheet by its name: where a page holds none of these, it goes
    "mathjax": ".math",
    "togglebutton": ".toggle, .admonition.dropdown",
    "design-tabs": ".sd-tab-set",
    "sphinx-design": "[class*='sd-']",
    "exercise.css": ".exercise, .solution",
    "proof.css": ".proof",
    "clipboard": "div.highlight",
    "copybutton": "div.highlight",
    "mystnb": "div.cell",
    "searchtools": "#search-results",
    "language_data": "#search-results",
    "searchindex": "#search-results",
    "fontawesome": "nothing",
}
AT_ONCE = "documentation_options"  # inline scripts read what it sets
UNUSED = (  # files of the theme that no page asks for
    "_static/scripts/fontawesome.js",
    "_static/scripts/*.map",
    "_static/scripts/*LICENSE.txt",
    "_static/styles/*.map",
    "_static/locales",
    "_static/sphinx-thebe.*",
    "_static/vendor",  # Font Awesome's fonts
    "_static/images",
    "_static/webpack-macros.html",
    "_static/sbt-webpack-macros.html",
)


def lighten(soup: BeautifulSoup, folder: Path) -> None:
    """All of it. Safe to apply twice."""
    draw_icons(soup)
    drop_unneeded(soup)
    know_the_theme(soup)
    put_off_maths(soup)
    write_in_options(soup, folder)
    for hurried in soup.select('head link[rel="preload"][as="script"]'):
        hurried.decompose()  # the page is drawn without these
    for script in soup.select("head script[src]:not([defer], [type=module])"):
        if AT_ONCE not in script["src"]:
            script["defer"] = ""  # in their order, once the page is there
    for image in soup.select("article img"):
        settle(image, folder)
    hurry_map(soup)


def draw_icons(soup: BeautifulSoup) -> None:
    for element in soup.select("i[class*='fa-'], span[class*='fa-']"):
        classes = element["class"]
        name = next((c[3:] for c in classes if c.startswith("fa-") and c[3:] in ICONS), None)
        if name is None:
            raise ValueError(f"light.ICONS has no drawing for {' '.join(classes)}")
        kept = [c for c in classes if not c.startswith(("fa", "svg"))]
        attributes = {k: v for k, v in element.attrs.items() if k not in ("class", "title")}
        attributes |= {"class": ["vae-icon", f"vae-icon-{name}", *kept], "viewBox": "0 0 24 24"}
        drawing = soup.new_tag("svg", attrs=attributes | {"aria-hidden": "true"})
        drawing.append(soup.new_tag("path", attrs={"d": ICONS[name]}))
        element.replace_with(drawing)


def drop_unneeded(soup: BeautifulSoup) -> None:
    for name, selector in NEEDED.items():
        if not soup.select_one(selector):
            for element in soup.select(f'script[src*="{name}"], link[href*="{name}"]'):
                element.decompose()
    if not soup.select_one('script[src*="mathjax"], script[data-maths]'):
        for script in soup.select("head script:not([src])"):
            if (script.string or "").lstrip().startswith("window.MathJax"):
                script.decompose()


def know_the_theme(soup: BeautifulSoup) -> None:
    """The first visit has a theme, too: the one that the reader's system asks for.

    The theme's own line leaves it empty, complains of that, and repaints the page.
    """
    for script in soup.select("head script:not([src])"):
        if script.string and 'localStorage.getItem("mode") || ""' in script.string:
            script.string = (
                'const mode = localStorage.getItem("mode") || "auto", root = document.documentElement;'
                'root.dataset.mode = mode; root.dataset.theme = mode !== "auto" ? mode :'
                ' matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";'
            )


def put_off_maths(soup: BeautifulSoup) -> None:
    """page.js loads MathJax, and not before a formula is nearly in view."""
    for script in soup.select('head script[src*="mathjax"]'):
        script.attrs = {"data-maths": script["src"].replace("_static/../", "")}


def write_in_options(soup: BeautifulSoup, folder: Path) -> None:
    """The few words that scripts share stand in the page, which need not wait for a file."""
    for script in soup.select(f'head script[src*="{AT_ONCE}"]'):
        path = folder / script["src"].partition("?")[0]
        if path.is_file():
            del script["src"]
            script.string = path.read_text(encoding="utf-8")


def hurry_map(soup: BeautifulSoup) -> None:
    """The front page's map comes first, and of its two pictures the one that the theme shows."""
    pictures = {
        theme: image["src"]
        for theme in ("light", "dark")
        if (image := soup.select_one(f"img.vae-hero.only-{theme}"))
    }
    if pictures and not soup.select_one("script[data-map]"):
        script = soup.new_tag("script", attrs={"data-map": ""})
        script.string = (
            'document.head.append(Object.assign(document.createElement("link"), { rel: "preload",'
            f' as: "image", fetchPriority: "high", href: {json.dumps(pictures)}[root.dataset.theme] }}));'
        )
        next(
            s for s in soup.select("head script") if "dataset.theme" in (s.string or "")
        ).insert_after(script)


def settle(image: Tag, folder: Path) -> None:
    """An image knows its size before it is there, and comes when it is nearly in view."""
    image["loading"], image["decoding"] = "lazy", "async"
    path = folder / image["src"]
    if not image.has_attr("width") and path.is_file():
        width, height = imagesize.get(str(path))
        if width > 0:
            image["width"], image["height"] = str(round(width)), str(round(height))


def tidy(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        out = Path(app.outdir)
        for path in (path for pattern in UNUSED for path in sorted(out.glob(pattern))):
            for inner in sorted(path.rglob("*"), reverse=True) if path.is_dir() else ():
                inner.unlink() if inner.is_file() else inner.rmdir()
            path.rmdir() if path.is_dir() else path.unlink()
        for path in [*out.glob("_static/scripts/*.js"), *out.glob("_static/styles/*.css")]:
            text = path.read_text(encoding="utf-8")
            mended = re.sub(r"\n?/[/*]# sourceMappingURL=\S+(\s*\*/)?", "", text)
            if mended != text:
                path.write_text(mended, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("build-finished", tidy, priority=950)
