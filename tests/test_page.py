"""What a page does under the reader's hand: guesses, the code switch, what scrolls, the search."""

import pytest
from conftest import SITE, TYPESET

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first"),
    pytest.mark.xdist_group("browser"),
]
CHAPTER = "notebooks/07_beta_and_collapse.html"


@pytest.fixture
def context(browser):
    chromium, address = browser
    made = chromium.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    yield made
    made.close()


@pytest.fixture
def tab(context):
    tab = context.new_page()
    tab.goto(CHAPTER, wait_until="load")
    return tab


def test_a_guess_is_kept_and_met_again_at_the_answer(tab, context):
    answer = tab.locator(".vae-answer[data-answer]").first
    right = answer.get_attribute("data-answer")
    note, buttons = tab.locator(".vae-guess-note"), tab.locator(".vae-guess-row button")
    assert buttons.count() > 1
    assert not note.is_visible()
    assert not tab.locator('.vae-guess-row [aria-pressed="true"]').count()
    wrong = next(b for b in buttons.all() if b.get_attribute("data-letter") != right)
    wrong.click()
    assert wrong.get_attribute("aria-pressed") == "true"
    assert "right" not in note.inner_text()
    again = context.new_page()
    again.goto(CHAPTER, wait_until="load")
    assert again.locator('[aria-pressed="true"]').inner_text() == wrong.inner_text()
    again.locator(f'[data-letter="{right}"]').click()
    assert "right" in again.locator(".vae-guess-note").inner_text()
    assert again.locator('.vae-guess-row [aria-pressed="true"]').count() == 1
    # The note stands right before the answer.
    assert again.locator(".vae-guess-note + .vae-answer").count() == 1


def test_code_is_hidden_and_shown_and_the_choice_is_kept(tab, context):
    code = tab.locator("article .cell_input").nth(2)
    output = tab.locator("article .cell_output").nth(2)
    assert code.is_visible()
    tab.locator(".vae-code-switch").click()
    assert not code.is_visible()
    assert output.is_visible()
    other = context.new_page()
    other.goto("notebooks/01_autoencoder.html", wait_until="load")
    assert not other.locator("article .cell:not(.tag_hide-cell) > .cell_input").first.is_visible()
    assert other.locator("article .cell.tag_hide-cell summary").first.is_visible()  # solutions
    other.locator(".vae-code-switch").click()
    assert other.locator("article .cell > .cell_input").first.is_visible()


def test_only_what_scrolls_is_a_stop_for_the_keyboard(tab):
    wrong = """() => [...document.querySelectorAll('article div.math, article pre, article .vae-scroll')]
        .filter((box) => (box.scrollWidth > box.clientWidth + 1) !== (box.tabIndex === 0))
        .filter((box) => box.offsetParent && getComputedStyle(box).overflowX !== 'visible').length"""
    tab.wait_for_function(f"({wrong})() === 0")  # measured a few at a time, in idle time
    assert not tab.locator("article span.math [tabindex]").count()


def test_a_search_result_leads_to_its_word(tab):
    tab.goto("search.html?q=collapse")
    link = tab.locator("#search-results a[href*='07_beta']").first
    link.wait_for(timeout=20_000)
    link.click()
    tab.wait_for_load_state("load")
    tab.wait_for_timeout(500)
    assert tab.locator("article .highlighted").count() > 3
    assert tab.locator("article .highlighted").first.is_visible()


def test_the_search_shows_words(tab):
    tab.goto("search.html?q=slope+beta")
    shown = tab.locator("#search-results li:has(a[href*='07_beta']) p.context").first
    shown.wait_for(timeout=20_000)
    text = shown.inner_text()
    assert len(text) > 100
    for residue in ("\\(", "\\beta", ".ipynb", "Hide the code", "Contents", "import "):
        assert residue not in text


@pytest.mark.parametrize("page", [CHAPTER, "notebooks/02_vae.html"])
def test_nothing_is_cut_on_paper(page, context):
    tab = context.new_page()
    tab.set_viewport_size({"width": 720, "height": 1000})
    tab.goto(page, wait_until="load")
    tab.emulate_media(media="print")
    tab.evaluate(TYPESET)
    cut = """() => [...document.querySelectorAll('article pre, article div.math, article table')]
        .filter((box) => box.offsetParent && box.getBoundingClientRect().right > innerWidth + 2)
        .map((box) => box.textContent.slice(0, 80))"""
    assert tab.evaluate(cut) == []


def test_mathjax_comes_when_a_formula_is_near(context):
    tab = context.new_page()
    tab.set_viewport_size({"width": 360, "height": 780})
    tab.clock.install()  # so that the page never comes to rest by itself
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto("notebooks/02_vae.html", wait_until="load")
    tab.clock.run_for(100)
    assert not [url for url in asked if "mathjax" in url]
    tab.locator("article .math").first.scroll_into_view_if_needed()
    tab.clock.resume()
    tab.locator("article mjx-container").first.wait_for(timeout=30_000)
    assert not tab.locator("script[data-maths]").count()
