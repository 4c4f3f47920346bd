"""How a sentence reads: citations said once; a formula keeps its comma, a number its error."""

import re

from bs4 import BeautifulSoup, NavigableString, Tag

NEAR = 70  # how many characters before a citation its year may stand


def mend(soup: BeautifulSoup) -> None:
    """All of it. Safe to apply twice."""
    for text in soup.find_all(string=re.compile(r"\d ± \d")):
        if text.find_parent("article") and not text.find_parent("pre"):
            text.replace_with(re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", text))
    for link in soup.select('article span > a.reference[href*="bibliography"]'):
        say_once(soup, link)
    for formula in soup.select("article span.math"):
        keep_punctuation(soup, formula)


def say_once(soup: BeautifulSoup, link: Tag) -> None:
    """A work that the sentence names already is not named again: its year becomes the link.

    "Burda et al. (2015) (Burda et al., 2015)" becomes "Burda et al. (2015)", and "(Higgins et al.,
    2017) (Higgins et al., 2017)" becomes "(Higgins et al., 2017)".
    """
    bracket = link.parent
    before = bracket.previous_sibling
    if [str(part) for part in bracket.contents] != ["(", str(link), ")"]:
        return  # several works in one bracket
    if not isinstance(before, NavigableString):
        return
    names, _, year = link.get_text().replace("\xa0", " ").rpartition(", ")
    text, surname = str(before), re.split(r" and | et al", names)[0]
    found = [*re.finditer(rf"(?:\(|, ){re.escape(year)}\)", text)]
    place = found[-1].start() if found else -1
    if place < max(0, len(text) - NEAR) or surname not in text[max(0, place - NEAR) : place]:
        return
    after = text[found[-1].end() :].rstrip()
    link.string = year
    if text[place] == ",":  # the sentence's own bracket goes on
        place, after = place + 2, ")" + after
        bracket.contents[0].extract()
        bracket.contents[-1].extract()
    before.replace_with(NavigableString(text[:place]))
    bracket.insert_after(NavigableString(after))


def keep_punctuation(soup: BeautifulSoup, formula: Tag) -> None:
    """A comma or a full stop does not begin a line after a formula."""
    after = formula.next_sibling
    if isinstance(after, NavigableString) and (found := re.match(r"[,.;:!?)]+", str(after))):
        together = formula.wrap(soup.new_tag("span", attrs={"class": "vae-together"}))
        together.append(NavigableString(found.group()))
        after.replace_with(NavigableString(str(after)[found.end() :]))
