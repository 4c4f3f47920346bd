"""What a link to a page shows elsewhere: a title, a sentence and a picture (Open Graph)."""

from bs4 import BeautifulSoup

PREVIEW = "_static/preview.jpg"  # made by tools/make_hero.py
ALT = "A map of small handwritten digits, each drawn by a decoder from one point of a plane."


def address(repository: str) -> str:
    """Where GitHub serves the pages of https://github.com/OWNER/NAME."""
    owner, name = repository.rstrip("/").split("/")[-2:]
    return f"https://{owner.lower()}.github.io/{name}/"


def put(soup: BeautifulSoup, page: str, pictures: dict[str, str], site: str | None) -> None:
    """The page's picture and description. Safe to apply twice.

    A picture's address must be absolute: without an address of the site there is none, and no
    address of the page.
    """
    if soup.head is None:
        return
    for tag in soup.head.select('meta[property^="og:image"], meta[property="og:url"]'):
        tag.decompose()
    written = soup.head.select_one('meta[name="description"]')
    if written:
        for tag in soup.head.select('meta[property="og:description"]'):
            tag["content"] = written["content"]
    if site is not None:
        found = {"og:url": site + page, "og:image": site + pictures.get(page, PREVIEW)}
        found |= {} if page in pictures else {"og:image:alt": ALT}
        for key, value in found.items():
            soup.head.append(soup.new_tag("meta", attrs={"property": key, "content": value}))
        if not soup.head.select_one('meta[name="twitter:card"]'):
            card = {"name": "twitter:card", "content": "summary_large_image"}
            soup.head.append(soup.new_tag("meta", attrs=card))
