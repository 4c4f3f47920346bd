"""The finished HTML: the theme's accessibility faults put right, and nothing from other hosts."""

from itertools import takewhile
from pathlib import Path
from textwrap import shorten

import boxes
import dark
import heads
import light
import live
import prose
import repository
import social
from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx

ABOUT = "A book of notebooks that teaches variational autoencoders by building them."
ATTRIBUTES = {  # what each of these elements should say of itself
    ".search-button-field": {"aria-label": "Search (Ctrl + K)"},
    ".search-button-field :is(kbd, .kbd-shortcut__modifier)": {"aria-hidden": "true"},
    "#pst-primary-sidebar": {"role": "complementary", "aria-label": "Book"},
}
WORDS = {  # what these elements should read; a cell that is folded whole is a solution
    ".search-button-field .search-button__default-text": "Search",
    "div.cell.tag_hide-cell summary > .collapsed": "Show a solution",
    "div.cell.tag_hide-cell summary > .expanded": "Hide a solution",
}
UNWANTED = (  # scripts and style sheets of other hosts, and of live kernels, which are not used
    'script:is([src*="://"], [src*="thebe"], [type*="thebe"])',
    'script:-soup-contains("thebe", "kernelName")',
    'link[rel="stylesheet"]:is([href*="://"], [href*="thebe"])',
)


def mend(soup: BeautifulSoup) -> None:
    """All of it. Safe to apply twice: an incremental build leaves some pages as they were."""
    mend_names(soup)
    for selector, attributes in ATTRIBUTES.items():
        for element in soup.select(selector):
            element.attrs.update(attributes)
    for selector, words in WORDS.items():
        for element in soup.select(selector):
            element.string = words
    for script in soup.select(", ".join(UNWANTED)):
        script.decompose()
    mend_tables(soup)
    if (printed := soup.select_one("#jb-print-docs-body h1")) and (
        h1 := soup.select_one("article h1")
    ):
        printed.string = h1.get_text().rstrip("#¶ ")  # with the chapter's number
    if soup.head and soup.title:
        mend_head(soup)


def mend_names(soup: BeautifulSoup) -> None:
    """What is visible is part of the accessible name; all of a page lies in a landmark."""
    for control in soup.select('[aria-label]:not([role="img"])'):  # a picture's is its name
        if control.get_text(" ", strip=True).lower() not in control["aria-label"].lower():
            del control["aria-label"]  # a tooltip
    for summary in soup.select("summary"):
        if not summary.get_text(strip=True):  # an arrow of the sidebar
            link = summary.find_previous("a")
            summary["aria-label"] = "Pages under " + (link.get_text(strip=True) if link else "this")
    for element in soup.select('[role="doc-biblioentry"], [role="list"]:has(.citation)'):
        del element["role"]  # a list whose entries are not list items
    if (top := soup.select_one("#pst-back-to-top")) and (main := soup.select_one("main")):
        main.append(top.extract())


def mend_tables(soup: BeautifulSoup) -> None:
    """A table that is wider than the page scrolls by itself, by keyboard, too."""
    for heading in soup.select("th"):
        if not heading.get_text(strip=True) and heading.find(True) is None:
            heading.name = "td"  # the corner of a data frame
    for head in soup.select("table.dataframe thead"):
        merge_head(head)
    for count, table in enumerate(soup.select("article table"), start=1):
        box = table.parent
        if not {"pst-scrollable-table-container", "vae-scroll"} & set(box.get("class", [])):
            box = table.wrap(soup.new_tag("div"))
        heading = table.find("caption") or table.find_previous(["h1", "h2", "h3", "h4"])
        label = heading.get_text(" ", strip=True).rstrip("#¶ ") if heading else ""
        box["class"] = sorted({*box.get("class", []), "vae-scroll"})
        box.attrs |= {"tabindex": "0", "role": "region", "aria-label": f"Table {count}: {label}"}


def merge_head(head: Tag) -> None:
    """The names of a data frame's index stand in the row of its columns' names."""
    rows = [row.find_all(["th", "td"]) for row in head.find_all("tr")]
    if len(rows) != 2 or len(rows[0]) != len(rows[1]):
        return
    pairs = list(zip(*rows, strict=True))
    if any(above.get_text(strip=True) and below.get_text(strip=True) for above, below in pairs):
        return
    for above, below in pairs:
        if not above.get_text(strip=True):
            below["class"] = "vae-index-name"
            above.replace_with(below.extract())
    head.find_all("tr")[1].decompose()


def mend_head(soup: BeautifulSoup) -> None:
    """A title that does not repeat itself, and a description in words, without TeX."""
    title, _, book = soup.title.get_text().partition(" — ")
    if title == book:
        soup.title.string = title
    found = soup.head.select('meta[name="description"], meta[property="og:description"]')
    written = next((tag["content"] for tag in found if tag.get("name")), "")
    if len(written) < 50 or "\\" in written:
        text = first_words(soup)
        description = text if len(text) >= 50 else f"{title}. {ABOUT}"
        for tag in found:
            tag.decompose()
        for key, value in (("name", "description"), ("property", "og:description")):
            soup.head.append(soup.new_tag("meta", attrs={key: value, "content": description}))


def draw_diagrams(soup: BeautifulSoup, folder: Path) -> None:
    """Diagrams stand in the page itself: only there do they take the colour of the text.

    An SVG is a diagram if it draws in ``currentColor``; it is read by its image's alternative text.
    """
    for image in soup.select('article img[src$=".svg"]'):
        path = folder / image["src"]
        drawing = path.is_file() and path.read_text(encoding="utf-8")
        if drawing and "currentColor" in drawing:
            svg = BeautifulSoup(drawing, "html.parser").svg
            for unread in svg.find_all(["title", "desc"]):
                unread.decompose()  # a tooltip everywhere, and the image's text says it
            svg.attrs.pop("aria-labelledby", None)
            svg.attrs |= {"role": "img", "aria-label": image["alt"], "class": "vae-diagram"}
            (image.parent if image.parent.name == "a" else image).replace_with(svg)


def drop_unread(soup: BeautifulSoup, folder: Path) -> None:
    """The list of sources names only what was read: a stand-in for a module has no source."""
    for link in soup.select("article li > a[href]"):
        if not (folder / link["href"]).is_file():
            link.parent.decompose()


def first_words(soup: BeautifulSoup) -> str:
    """How the page's prose begins, up to its first formula, in about 200 characters."""
    prose = soup.select("article p:not(:is(table, nav, details, figure) p)")
    plain = takewhile(lambda paragraph: not paragraph.select_one(".math"), prose)
    return shorten(" ".join(paragraph.get_text(" ") for paragraph in plain), 200, placeholder=" …")


def finish(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    pictures, variants = heads.banners(out), set()
    url = app.config.vae_repository
    site = None if url == repository.PLACEHOLDER else social.address(url)
    for path in sorted(out.rglob("*.html")):
        page = path.relative_to(out)
        gone = page.with_suffix("").as_posix() not in app.env.found_docs
        if gone and page.parts[0] in {"book", "notebooks"}:
            path.unlink()  # its source is gone, and an incremental build left it
        elif page.parts[0] not in {"_static", "_sources", "live", "mathjax"}:
            soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            mend(soup)
            draw_diagrams(soup, path.parent)
            if page.parts[0] == "_modules":
                drop_unread(soup, path.parent)
            boxes.mark(soup)
            prose.mend(soup)
            heads.put(soup, page.as_posix(), pictures)
            social.put(soup, page.as_posix(), pictures, site)
            light.lighten(soup, path.parent)
            variants |= dark.pair(soup, path.parent)
            live.mark(soup, "../" * (len(page.parts) - 1))
            path.write_text(str(soup), encoding="utf-8")
    dark.drop_unused(out, variants)


def setup(app: Sphinx) -> None:
    app.connect("build-finished", finish, priority=900)
