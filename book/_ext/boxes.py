"""What a reader should find at a glance: the guess, its answer, a figure, its takeaway."""

import re

from bs4 import BeautifulSoup, Tag

COLUMNS = re.compile(r"\S {2,}\S|\[\[|^ {2,}", re.MULTILINE)
ANSWER = re.compile(r"\bThe answers?\b[^.]{0,40}?\b(?:is|are) \(([a-e])\)")
TAKEAWAY = "Takeaway."


def mark(soup: BeautifulSoup) -> None:
    """Give the boxes of a chapter their classes. Safe to apply twice."""
    if title := soup.select_one("h1"):
        for text in title.find_all(string=True):
            text.replace_with(re.sub(r"(?<=\w)-(?=\w)", "\u2011", text))  # "warm-up" stays whole
    mark_cells(soup)
    for quote in soup.select("article blockquote"):
        if opening(quote) == "Guess first.":
            add(quote, "vae-guess")
    for paragraph in soup.select("article p"):
        text = " ".join(paragraph.get_text().split())
        if text == "Solution, folded:":
            paragraph.decompose()  # the bar below says it
        elif opening(paragraph) == TAKEAWAY:
            add(paragraph, "vae-takeaway")
        if paragraph.find_parent("blockquote") is None and (found := ANSWER.search(text)):
            add(paragraph, "vae-answer")
            paragraph["data-answer"] = found.group(1)


def mark_cells(soup: BeautifulSoup) -> None:
    """What is wide, and what is printed."""
    for output in soup.select("div.cell.tag_wide > .cell_output"):
        add(output, "full-width")  # into the margin; its code stays in the column
    for printed in soup.select("article .cell_output .stream pre"):
        if not COLUMNS.search(printed.get_text()):
            add(printed, "vae-sentences")  # which may break; columns scroll


def opening(element: Tag) -> str:
    """The bold words that an element begins with."""
    first = element.find("strong")
    words = first.get_text().strip() if first else ""
    return words if element.get_text().strip().startswith(words) else ""


def add(element: Tag, name: str) -> None:
    element["class"] = sorted({*element.get("class", []), name})
