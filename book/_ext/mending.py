"""The finished HTML: the theme's accessibility faults put right, and nothing from other hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from sphinx.application import Sphinx

ABOUT = "A book of notebooks that teaches variational autoencoders by building them."


def drop_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Take out live kernels, which this book does not use, and scripts from other hosts."""

    def wanted(file: Any) -> bool:
        name = str(getattr(file, "filename", file) or "")
        body = str((getattr(file, "attributes", None) or {}).get("body") or "")
        return "thebe" not in name + body and "://" not in name

    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context.get(kind, []) if wanted(file)]


# ---------------------------------------------------------------- what axe finds on a page


def mend_names(soup: BeautifulSoup) -> None:
    """A visible name must be part of the accessible name: the tooltip becomes the name."""
    for control in soup.select("[aria-label]"):
        visible = control.get_text(" ", strip=True)
        if visible and visible.lower() not in control["aria-label"].lower():
            del control["aria-label"]
    for dropdown in soup.select(".search-button-field"):
        dropdown["aria-label"] = "Search (Ctrl + K)"
        for key in dropdown.select("kbd, .kbd-shortcut__modifier"):
            key["aria-hidden"] = "true"
        for text in dropdown.select(".search-button__default-text"):
            text.string = "Search"


def mend_landmarks(soup: BeautifulSoup) -> None:
    """Everything on a page lies in a landmark; the sidebar's arrows say what they unfold."""
    top, main = soup.select_one("#pst-back-to-top"), soup.select_one("main")
    if top is not None and main is not None:
        main.append(top.extract())
    for sidebar in soup.select("#pst-primary-sidebar"):
        sidebar["role"], sidebar["aria-label"] = "complementary", "Book"
    for summary in soup.select("summary"):
        if not summary.get_text(strip=True):
            link = summary.find_previous("a")
            summary["aria-label"] = "Pages under " + (link.get_text(strip=True) if link else "this")


def mend_bibliography(soup: BeautifulSoup) -> None:
    """It is marked as a list whose entries are not list items."""
    for entry in soup.select('[role="doc-biblioentry"]'):
        del entry["role"]
    for bibliography in soup.select('[role="list"]:has(.citation)'):
        del bibliography["role"]


def mend_tables(soup: BeautifulSoup) -> None:
    """A table that is wider than the page scrolls by itself, by keyboard, too."""
    for heading in soup.select("th"):
        if not heading.get_text(strip=True) and heading.find(True) is None:
            heading.name = "td"  # the corner of a data frame
    for count, table in enumerate(soup.select("article table"), start=1):
        box = table.parent
        if not {"pst-scrollable-table-container", "vae-scroll"} & set(box.get("class", [])):
            box = table.wrap(soup.new_tag("div"))
        heading = table.find("caption") or table.find_previous(["h1", "h2", "h3", "h4"])
        label = heading.get_text(" ", strip=True).rstrip("#¶ ") if heading else ""
        box["class"] = sorted({*box.get("class", []), "vae-scroll"})
        box["tabindex"], box["role"] = "0", "region"
        box["aria-label"] = f"Table {count}: {label}"


def mend_folds(soup: BeautifulSoup) -> None:
    """A cell that is folded whole is a solution, and says so."""
    for cell in soup.select("div.cell.tag_hide-cell"):
        for word, line in zip(("Show", "Hide"), cell.select("summary > p"), strict=False):
            line.string = f"{word} a solution"


def mend_scripts(soup: BeautifulSoup) -> None:
    """Nothing of the live kernels that this book does not use."""
    for script in soup.select("article script"):
        if script.get("type") == "text/x-thebe-config" or "kernelName" in script.get_text():
            script.decompose()


def mend_head(soup: BeautifulSoup) -> None:
    """A title that does not repeat itself, and a description in words, without TeX."""
    if soup.head is None or soup.title is None:
        return
    title, _, book = soup.title.get_text().partition(" — ")
    if title == book:
        soup.title.string = title
    found = soup.head.select_one('meta[name="description"]')
    description = found["content"] if found else ""
    if len(description) >= 50 and "\\" not in description:
        return
    text = first_words(soup)
    description = text if len(text) >= 50 else f"{title}. {ABOUT}"
    for tag in soup.head.select('meta[name="description"], meta[property="og:description"]'):
        tag.decompose()
    for key, value in (("name", "description"), ("property", "og:description")):
        soup.head.append(soup.new_tag("meta", attrs={key: value, "content": description}))


def first_words(soup: BeautifulSoup) -> str:
    """How the page's prose begins, up to its first formula, in about 200 characters."""
    words = []
    for paragraph in soup.select("article p"):
        if paragraph.find_parent(["table", "nav", "details", "figure"]) is None:
            if paragraph.select_one(".math"):
                break
            words += paragraph.get_text(" ").split()
    text = " ".join(words)
    return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " …"


MENDS = (
    mend_names, mend_landmarks, mend_bibliography, mend_tables, mend_folds, mend_scripts, mend_head
)  # fmt: skip


def mend(soup: BeautifulSoup) -> None:
    """All of it. Safe to apply twice: an incremental build leaves some pages as they were."""
    for part in MENDS:
        part(soup)


def finish(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for path in sorted(out.rglob("*.html")):
        page = path.relative_to(out)
        if page.parts[0] in {"_static", "_sources", "mathjax"}:
            continue
        gone = page.with_suffix("").as_posix() not in app.env.found_docs
        if gone and page.parts[0] in {"book", "notebooks"}:
            path.unlink()  # its source is gone, and an incremental build left it
            continue
        soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        mend(soup)
        path.write_text(str(soup), encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", drop_scripts, priority=900)
    app.connect("build-finished", finish, priority=900)
