"""The head of a chapter: its best figure, and how long it takes; on the front page its card."""

from pathlib import Path

from bs4 import BeautifulSoup, Tag

WORDS_PER_MINUTE, LINES_PER_MINUTE = 200, 25  # prose is read, code is looked through
CODE = "article .cell > .cell_input, article .cell > details.above-input"
BANNER = "div.cell.tag_banner img"


def minutes(soup: BeautifulSoup) -> int:
    """How long a chapter's prose and code take to read, to the nearest five minutes."""
    prose = soup.select("article :is(p, li):not(.cell *)")
    words = sum(len(part.get_text().split()) for part in prose)
    code = soup.select("article .cell_input pre")
    lines = sum(part.get_text().count("\n") for part in code)
    return 5 * max(1, round((words / WORDS_PER_MINUTE + lines / LINES_PER_MINUTE) / 5))


def banners(out: Path) -> dict[str, str]:
    """For each chapter's page the picture that its head and its card show, from the site's root."""
    found = {}
    for path in sorted(out.glob("notebooks/*.html")):
        soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        if image := soup.select_one(BANNER):
            found[f"notebooks/{path.name}"] = image["src"].removeprefix("../")
    return found


def put(soup: BeautifulSoup, page: str, pictures: dict[str, str]) -> None:
    """The head of a chapter, or the pictures of the cards. Safe to apply twice."""
    if page in pictures and not soup.select_one(".vae-head"):
        head = soup.new_tag("div", attrs={"class": "vae-head"})
        head.append(picture(soup, "../" + pictures[page], "vae-banner"))
        about = soup.new_tag("p", attrs={"class": "vae-about"})
        about.append(f"About {minutes(soup)} minutes to read. ")
        link = soup.new_tag("a", attrs={"href": f"../_sources/{page[:-5]}.ipynb", "download": ""})
        link.string = "Download the notebook"
        about.append(link)
        head.append(about)
        if len(soup.select(CODE)) >= 3:  # page.js makes it work; nothing moves when it does
            switch = {"type": "button", "class": "vae-code-switch pst-js-only"}
            head.append(soup.new_tag("button", attrs=switch, string="Hide the code"))
        soup.select_one("article h1").insert_after(head)
    for card in soup.select(".vae-chapters .sd-card"):
        target = card.select_one("a[href]")["href"].removeprefix("../")
        if target in pictures and not card.select_one("img"):
            up = "../" if page.startswith("book/") else ""
            card.insert(0, picture(soup, up + pictures[target], "vae-card-picture"))


def picture(soup: BeautifulSoup, source: str, name: str) -> Tag:
    """A picture that repeats one of the page or of another: it needs no words of its own."""
    return soup.new_tag("img", attrs={"src": source, "alt": "", "class": name})
