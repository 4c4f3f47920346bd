"""The built site, read as files: links, alternative text, no request to anywhere else."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "book" / "_build" / "html"
PLACEHOLDER = "https://github.com/OWNER/vae-tutorial"
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
NOT_PAGES = {"_static", "_sources", "mathjax"}


def find_pages() -> list[str]:
    """Every page of the site, relative to it; one name that fails where nothing is built."""
    pages = [
        path.relative_to(SITE).as_posix()
        for path in sorted(SITE.rglob("*.html"))
        if path.relative_to(SITE).parts[0] not in NOT_PAGES
    ]
    return pages or ["book/index.html"]


PAGES = find_pages()


@cache
def soup(page: str) -> BeautifulSoup:
    path = SITE / page
    if not path.exists():
        pytest.fail(
            f"{path.relative_to(ROOT)} does not exist: run `make book` first", pytrace=False
        )
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(page: str) -> frozenset[str]:
    return frozenset(tag["id"] for tag in soup(page).select("[id]")) | frozenset(
        tag["name"] for tag in soup(page).select("a[name]")
    )


def test_the_site_is_built_and_complete():
    soup("index.html")
    for name in ("notation", "glossary", "results", "bibliography", "api/index"):
        assert (SITE / "book" / f"{name}.html").exists(), f"the site lacks book/{name}.html"
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        page = SITE / "notebooks" / f"{notebook.stem}.html"
        assert page.exists(), f"the site lacks {page.relative_to(SITE)}: run `make book`"


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    """Every local link leads to a file, every anchor to an element."""
    broken = []
    for tag, attribute in (("a", "href"), ("link", "href"), ("script", "src"), ("img", "src")):
        for element in soup(page).select(f"{tag}[{attribute}]"):
            target = element[attribute].strip()
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            path = (SITE / page).parent / unquote(url.path) if url.path else SITE / page
            path = path.resolve()
            if not path.is_file() or not path.is_relative_to(SITE):
                broken.append(target)
            elif url.fragment and path.suffix == ".html":
                known = anchors(path.relative_to(SITE).as_posix())
                if unquote(url.fragment) not in known:
                    broken.append(target)
    assert not broken, f"{page}: these lead nowhere: {sorted(set(broken))}"


@pytest.mark.parametrize("page", PAGES)
def test_images_have_alternative_text(page):
    bare = [
        img["src"] for img in soup(page).select("article img") if not img.get("alt", "").strip()
    ]
    named = [
        img["alt"]
        for img in soup(page).select("article img")
        if img.get("alt", "").startswith(("../_images", "_images"))
        or img.get("alt") == "PLACEHOLDER"
    ]
    assert not bare + named, f"{page}: no alternative text that says anything: {bare + named}"


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_from_elsewhere(page):
    loaded = [
        ("script", "src"),
        ("img", "src"),
        ("img", "srcset"),
        ("iframe", "src"),
        ("source", "src"),
        ("video", "src"),
        ("object", "data"),
        ("embed", "src"),
        ('link:not([rel~="canonical"]):not([rel~="license"])', "href"),
    ]
    found = [
        element[attribute]
        for tag, attribute in loaded
        for element in soup(page).select(f"{tag}[{attribute}]")
        if element[attribute].strip().startswith(("http:", "https:", "//"))
    ]
    found += [
        str(script)[:120]
        for script in soup(page).select("script:not([src]), style")
        if any(word in script.get_text() for word in ("unpkg.com", "cdn.", "@import", "cdnjs"))
    ]
    found += [meta["content"] for meta in soup(page).select('meta[property^="og:image"]')]
    assert not found, f"{page} loads from elsewhere: {found}"


def test_stylesheets_load_nothing_from_elsewhere():
    found = [
        path.name
        for path in (SITE / "_static").rglob("*.css")
        if "url(http" in path.read_text(encoding="utf-8").replace('"', "").replace("'", "")
    ]
    assert not found, f"these stylesheets name another host: {found}"


@pytest.mark.parametrize("page", PAGES)
def test_no_dead_repository_link(page):
    """While the address is the placeholder, no page shows it, or a link to Colab."""
    text = str(soup(page))
    if REPOSITORY == PLACEHOLDER:
        assert "OWNER" not in text, f"{page} shows the placeholder address"
        assert "colab.research.google.com" not in text, f"{page} links to Colab"
    assert "colab-badge" not in text, f"{page} shows a badge that lies elsewhere"


@pytest.mark.parametrize("page", PAGES)
def test_pages_say_what_they_are(page):
    html = soup(page)
    assert html.html["lang"] == "en"
    assert html.title is not None
    assert html.title.get_text(strip=True), f"{page} has no title"
    description = html.select_one('meta[name="description"]')
    assert description is not None, f"{page} has no description"
    assert len(description["content"]) >= 40, f"{page}: {description['content']!r} says too little"
    assert "\\" not in description["content"], f"{page}: TeX in the description"
    assert len(html.select("h1")) >= 1, f"{page} has no h1"


def test_titles_differ():
    titles: dict[str, str] = {}
    for page in PAGES:
        if page == "index.html":  # it only leads to the front page
            continue
        title = soup(page).title.get_text(strip=True)
        assert title not in titles, f"{page} and {titles.get(title)} are both called {title!r}"
        titles[title] = page


def test_mathjax_lies_with_the_site():
    folder = SITE / "mathjax"
    assert (folder / "LICENSE").exists()
    assert (folder / "tex-chtml.js").stat().st_size > 500_000
    assert len(list((folder / "output/chtml/fonts/woff-v2").glob("*.woff"))) > 20
