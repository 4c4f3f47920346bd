"""The built site in headless Chromium: every page, two widths, light and dark."""

import re
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from conftest import SITE, TYPESET, browsing, pages

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first"),
    pytest.mark.xdist_group("browser"),
]
PAGES = pages("_modules", "index.html")
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# preload: axe would fetch the style sheets again, by addresses that it gets wrong.
AXE = "axe.run(document, {resultTypes: ['violations'], preload: false})"
# A page of code has ten thousand coloured words, and axe measures the contrast of each, which took two
# thirds of all these tests. In each box one word of each colour, size and background stays, one that
# can be seen; the others become plain.
ONE_OF_EACH = """() => {
    const more = [];
    let box, seen;
    for (const word of document.querySelectorAll('pre span')) {
        if (box !== word.closest('pre')) [box, seen] = [word.closest('pre'), new Set()];
        if (!word.textContent.trim() || word.querySelector('span') || !word.checkVisibility()) continue;
        const {color, fontSize, fontWeight, opacity} = getComputedStyle(word);
        let below = word, background;
        do background = getComputedStyle(below).backgroundColor;
        while (background === 'rgba(0, 0, 0, 0)' && (below = below.parentElement));
        const look = [color, fontSize, fontWeight, opacity, background].join();
        if (seen.has(look)) more.push(word);
        seen.add(look);
    }
    for (const word of more) word.replaceWith(...word.childNodes);
}"""
FAULTS = {  # of what happens in a tab, what should not; nothing where all is well
    "console": lambda said: said.type == "error" and f"console: {said.text}",
    "pageerror": lambda error: f"script error: {error}",
    "request": lambda asked: re.match(r"http(?!://127\.0\.0\.1:)", asked.url) and asked.url,
    "response": lambda got: got.status >= 400 and f"HTTP {got.status}: {got.url}",
}


# What is wide becomes a stop for Tab in idle time.
MEASURED = """() => [...document.querySelectorAll('article :is(div.math, pre, .vae-scroll)')]
    .every((box) => box.scrollWidth <= box.clientWidth + 1 || box.tabIndex === 0
        || getComputedStyle(box).overflowX === 'visible' || !box.offsetParent)"""


@pytest.fixture(scope="module")
def tabs():
    """One tab per theme and width. Each notes its errors, and its requests to elsewhere."""
    with browsing(SITE) as (chromium, address):
        opened = {}
        for theme, width in product(("light", "dark"), (1280, 360)):
            context = chromium.new_context(
                base_url=address,
                viewport={"width": width, "height": 900},
                color_scheme=theme,
                reduced_motion="reduce",
            )
            keep = f"for (const key of ['theme', 'mode']) localStorage.setItem(key, '{theme}')"
            context.add_init_script(keep)
            opened[theme, width] = tab = context.new_page()
            tab.faults = []
            for event, fault in FAULTS.items():
                tab.on(event, partial(note, tab.faults, fault))
        yield opened


def note(faults: list[str], fault, event) -> None:
    faults += filter(None, [fault(event)])


def visit(tab, page: str):
    tab.faults.clear()
    tab.goto(page)
    tab.evaluate(TYPESET)
    tab.wait_for_function(MEASURED)
    return tab


def violations(tab) -> list[str]:
    """What axe finds; the page is of no more use afterwards."""
    tab.evaluate(ONE_OF_EACH)
    tab.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    return [
        f"{fault['id']} ({fault['impact']}), {len(fault['nodes'])} times, first: "
        + fault["nodes"][0]["html"][:160]
        for fault in tab.evaluate(AXE)["violations"]
    ]


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tabs):
    faults = []
    for (theme, width), tab in tabs.items():
        visit(tab, page)
        found = violations(tab) if width == 1280 else []
        assert tab.evaluate("document.documentElement.dataset.theme") == theme
        wanted = tab.locator("article .math").count()
        made = tab.locator("article .math mjx-container").count()
        if made < wanted or tab.locator("mjx-merror, [data-mjx-error]").count():
            found.append(f"{wanted} formulas, {made} typeset, or one that MathJax cannot read")
        if (overflow := tab.evaluate(OVERFLOW)) > 0:
            found.append(f"the page is {overflow} px wider than the window")
        faults += [f"{theme}, {width} px: {fault}" for fault in tab.faults + found]
    assert not faults, f"{page}:\n" + "\n".join(faults)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("notebooks/")])
def test_solutions_unfold(page, tabs):
    tab = visit(tabs["light", 360], page)
    folded = tab.locator("article details").all()
    assert folded, f"{page} folds no solution away"
    for box in folded:
        inside = box.locator("xpath=./*[not(self::summary)]").first
        assert not inside.is_visible()
        box.locator("summary").first.click()
        assert inside.is_visible(), f"{page}: a fold does not open"
    assert tab.evaluate(OVERFLOW) <= 0, f"{page} is too wide for a phone with all folds open"
    faults = tab.faults + violations(tab)
    assert not faults, f"{page}, all folds open:\n" + "\n".join(faults)


def test_pale_words_in_code_are_found(tabs):
    """Among the few words of code that are looked at is one of every colour."""
    tab = visit(tabs["light", 1280], "notebooks/02_vae.html")
    assert not violations(tab)
    tab = visit(tab, "notebooks/02_vae.html")
    words = tab.locator("pre span.k").count()
    tab.add_style_tag(content="pre span.k { color: #e8e8e8 !important; }")
    [found] = violations(tab)
    assert found.startswith("color-contrast")
    assert 0 < tab.locator("pre span.k").count() < words


def test_the_address_alone_leads_to_the_front_page(tabs):
    tab = tabs["light", 1280]
    tab.goto("/")
    tab.wait_for_url("**/book/index.html")
    assert tab.locator("article h1").count() == 1


def test_the_theme_can_be_switched(tabs):
    tab = visit(tabs["light", 1280], "book/notation.html")
    seen = set()
    for _ in range(3):
        tab.locator(".theme-switch-button:visible").first.click()
        seen.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(seen) == 2, "the button does not lead from light to dark and back"


def test_search_finds(tabs):
    tab = visit(tabs["light", 1280], "search.html?q=reparameterization")
    tab.locator("#search-results li").first.wait_for(timeout=10_000)
    assert not tab.faults
