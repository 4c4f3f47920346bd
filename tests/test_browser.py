"""The built site in headless Chromium: every page, two widths, light and dark."""

from __future__ import annotations

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "book" / "_build" / "html"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first"),
    pytest.mark.xdist_group("browser"),
]

PAGES = [
    path.relative_to(SITE).as_posix()
    for path in sorted(SITE.rglob("*.html"))
    if path.relative_to(SITE).parts[0] not in {"_static", "_sources", "_modules", "mathjax"}
    and path != SITE / "index.html"
]
TYPESET = """async () => {
    if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
    await document.fonts.ready;
}"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# preload: axe would fetch the style sheets again, by addresses that it gets wrong.
AXE = "axe.run(document, {resultTypes: ['violations'], preload: false})"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with playwright.sync_playwright() as machine:
        chromium = machine.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def tabs(browser, site):
    """One tab a theme and width. Each notes its errors, and its requests to elsewhere."""
    opened = {}
    for theme in ("light", "dark"):
        for width in (1280, 360):
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=theme,
                reduced_motion="reduce",
            )
            context.add_init_script(
                f"localStorage.setItem('theme', '{theme}'); localStorage.setItem('mode', '{theme}')"
            )
            tab = context.new_page()
            watch(tab, site)
            opened[theme, width] = tab
    yield opened
    for tab in opened.values():
        tab.context.close()


def watch(tab, site: str) -> None:
    tab.faults = []

    def console(message):
        if message.type == "error":
            tab.faults.append(f"console: {message.text} {message.location.get('url', '')}")

    def request(asked):
        if urlsplit(asked.url).scheme in {"http", "https"} and not asked.url.startswith(site):
            tab.faults.append(f"a request to elsewhere: {asked.url}")

    tab.on("console", console)
    tab.on("pageerror", lambda error: tab.faults.append(f"script error: {error}"))
    tab.on("request", request)
    tab.on(
        "response",
        lambda answer: (
            answer.status >= 400 and tab.faults.append(f"HTTP {answer.status}: {answer.url}")
        ),
    )


def violations(tab) -> list[str]:
    tab.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    return [
        f"{fault['id']} ({fault['impact']}), {len(fault['nodes'])} times, first: "
        + json.dumps(fault["nodes"][0]["html"][:160], ensure_ascii=False)
        for fault in tab.evaluate(AXE)["violations"]
    ]


@pytest.mark.parametrize("page", PAGES)
def test_page(page, site, tabs):
    faults = []
    for (theme, width), tab in tabs.items():
        tab.faults.clear()
        tab.goto(site + page)
        tab.evaluate(TYPESET)
        where = f"{theme}, {width} px: "
        assert tab.evaluate("document.documentElement.dataset.theme") == theme
        wanted = tab.locator("article .math").count()
        if wanted:
            made = tab.locator("article .math mjx-container").count()
            if made < wanted:
                tab.faults.append(f"{wanted} formulas, but {made} typeset")
            if tab.locator("mjx-merror, [data-mjx-error]").count():
                tab.faults.append("MathJax shows an error")
        overflow = tab.evaluate(OVERFLOW)
        if overflow > 0:
            tab.faults.append(f"the page is {overflow} px wider than the window")
        if width == 1280:
            tab.faults += violations(tab)
        faults += [where + fault for fault in tab.faults]
    assert not faults, f"{page}:\n" + "\n".join(faults)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("notebooks/")])
def test_solutions_unfold(page, site, tabs):
    tab = tabs["light", 360]
    tab.faults.clear()
    tab.goto(site + page)
    tab.evaluate(TYPESET)
    folded = tab.locator("article details")
    assert folded.count() > 0, f"{page} folds no solution away"
    for i in range(folded.count()):
        box = folded.nth(i)
        inside = box.locator("xpath=./*[not(self::summary)]").first
        assert not inside.is_visible()
        box.locator("summary").first.click()
        assert inside.is_visible(), f"{page}: fold {i + 1} does not open"
    assert tab.evaluate(OVERFLOW) <= 0, f"{page} is too wide for a phone with all folds open"
    faults = tab.faults + violations(tab)
    assert not faults, f"{page}, all folds open:\n" + "\n".join(faults)


def test_the_address_alone_leads_to_the_front_page(site, tabs):
    tab = tabs["light", 1280]
    tab.goto(site)
    tab.wait_for_url("**/book/index.html")
    assert tab.locator("article h1").count() == 1


def test_the_theme_can_be_switched(site, tabs):
    tab = tabs["light", 1280]
    tab.goto(site + "book/notation.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = set()
    for _ in range(3):
        tab.locator(".theme-switch-button:visible").first.click()
        seen.add(tab.evaluate(ground))
    assert len(seen) == 2, "the button does not lead from light to dark and back"


def test_search_finds(site, tabs):
    tab = tabs["light", 1280]
    tab.faults.clear()
    tab.goto(site + "search.html?q=reparameterization")
    tab.locator("#search-results li").first.wait_for(timeout=10_000)
    assert not tab.faults
