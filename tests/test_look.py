"""How the site looks: its typefaces, and the one style sheet that is left of all the theme's."""

import re
import sys
from importlib import import_module

import pytest
import tinycss2
from conftest import ROOT, SITE, pages

sys.path += [str(ROOT / "book" / "_ext"), str(ROOT / "tools")]
light, make_fonts, styles = map(import_module, ("light", "make_fonts", "styles"))
FONTS = ROOT / "book" / "_static" / "fonts"
CHAPTER = "notebooks/02_vae.html"
needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first"),
    pytest.mark.xdist_group("browser"),
]

# ---------------------------------------------------------------- typefaces


def held(family: str, style: str = "normal") -> set[str]:
    """The characters that fonts.css promises of a family."""
    found = set()
    css = (ROOT / "book" / "_static" / "fonts.css").read_text(encoding="utf-8")
    for face in re.findall(r"@font-face {(.+?)}", css, re.DOTALL):
        if f'"{family}";' in face and f"font-style: {style};" in face:
            spans = re.findall(r"U\+([0-9A-F]+)(?:-([0-9A-F]+))?", face)
            for low, high in spans:
                found |= set(map(chr, range(int(low, 16), int(high or low, 16) + 1)))
    return found


@pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first")
@pytest.mark.parametrize("family", list(make_fonts.FACES))
def test_the_typefaces_have_every_character_of_the_pages(family):
    shown = make_fonts.wanted(make_fonts.characters(SITE))
    missing = sorted(shown - held(family) - make_fonts.LEFT_TO_SYSTEM)
    named = [f"U+{ord(character):04X} {character}" for character in missing]
    assert not missing, f"{named}: run tools/make_fonts.py"


def test_each_typeface_lies_here_with_its_licence():
    css = (ROOT / "book" / "_static" / "fonts.css").read_text(encoding="utf-8")
    named = set(re.findall(r'url\("fonts/([^"]+)"\)', css))
    assert named == {path.name for path in FONTS.glob("*.woff2")}
    for package, *_ in make_fonts.FACES.values():
        licence = (FONTS / f"{package}-LICENSE.txt").read_text(encoding="utf-8")
        assert "SIL OPEN FONT LICENSE" in licence.upper()
    assert {f"fonts/{name}" for name in named} >= set(styles.FIRST_FONTS)


@pytest.fixture
def tab(browser):
    chromium, address = browser
    context = chromium.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


@pytest.mark.parametrize(
    ("selector", "family"),
    [
        ("article p:not([class])", "Source Serif 4"),
        ("article h1", "Inter"),
        ("article .cell_output pre", "JetBrains Mono"),
    ],
)
class TestBrowser:
    pytestmark = needs_browser

    def test_text_is_set_in_the_typefaces_of_this_site(self, selector, family, tab):
        asked = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(CHAPTER, wait_until="load")
        tab.locator(selector).first.scroll_into_view_if_needed()
        tab.evaluate("async () => document.fonts.ready")
        cdp = tab.context.new_cdp_session(tab)
        cdp.send("DOM.enable")
        cdp.send("CSS.enable")
        root = cdp.send("DOM.getDocument")["root"]["nodeId"]
        node = cdp.send("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
        used = cdp.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]
        assert used
        assert all(font["isCustomFont"] for font in used), used
        assert any(font["familyName"].startswith(family.rsplit(" ", 1)[0]) for font in used), used
        fonts = [url for url in asked if ".woff" in url]
        assert fonts
        assert all(url.startswith("http://127.0.0.1:") for url in fonts)


@pytest.mark.browser
@pytest.mark.xdist_group("browser")
@pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first")
def test_text_does_not_jump_when_the_typefaces_come(tab):
    waiting = []
    tab.route(
        "**/*.woff2", lambda route: waiting.append(route)
    )  # held back until the page is drawn
    tab.add_init_script(
        "window.shifted = 0; new PerformanceObserver((list) => {"
        " for (const shift of list.getEntries()) window.shifted += shift.value;"
        "}).observe({ type: 'layout-shift', buffered: true });"
    )
    drawn = "async () => { for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame); }"
    tab.goto(CHAPTER, wait_until="commit")
    tab.locator("article h2").first.wait_for(state="attached")
    tab.evaluate(drawn)
    assert waiting
    before = tab.evaluate("document.querySelector('article h1').getBoundingClientRect().width")
    for route in waiting:
        route.continue_()
    tab.unroute("**/*.woff2")
    tab.evaluate("async () => document.fonts.ready")
    tab.evaluate(drawn)
    assert before
    assert tab.evaluate("window.shifted") < 0.05


# ---------------------------------------------------------------- the style sheet


def test_rules_that_match_nothing_go():
    words = styles.Words()
    words.read_page('<main id="top" data-kind="a"><p class="used seen">x</p></main>')
    words.read_script("element.classList.add('shown'); let absent = 1;")
    css = """
        /* a comment */ .used:hover, .absent { --named: 1px; --other: 2px; margin: var(--named) }
        #top > p::before { content: "/" } #bottom { color: red } table.used { color: red }
        p:not(.rare) { color: blue } :is(.absent, table) a { color: red } :is(.rare, p) { top: 0 }
        main[data-kind="a"] { color: green } [data-absent] { color: red } .shown { left: 0 }
        @media print { .absent { top: 1px } .seen { top: 2px } } @media screen { .absent { top: 3px } }
        @keyframes turn { to { top: 4px } } @keyframes rest { to { top: 5px } }
        .used { animation: turn 1s; background: url("data:image/svg+xml;utf8,<svg/>") !important }
        @font-face { font-family: "Font Awesome 6 Free"; src: url(x.woff2) }
    """
    small = styles.shrink(css, words, "")
    rules = tinycss2.parse_stylesheet(small)
    assert not [rule for rule in rules if rule.type == "error"]
    for gone in (
        "absent",
        "--other",
        "bottom",
        "red",
        "table",
        "screen",
        "rest",
        "Awesome",
        "comment",
    ):
        assert gone not in small, gone
    for kept in (".used:hover{", "--named", "#top", "blue", ":is(", "green", ".shown", "top:2px",
                 "turn", "utf8,<svg/>", "!important"):  # fmt: skip
        assert kept in small, kept
    assert styles.shrink(small, words, "") == small
    with pytest.raises(ValueError, match="rules within rules"):
        styles.shrink("main { p { top: 0 } }", words, "")


def test_classes_that_scripts_compose_are_known():
    words = styles.Words()
    words.read_script('frame.className = `vae-live vae-live-${kind}`; box.id = "x-";')
    css = ".vae-live-rate{a:b}\n.vae-other{a:b}\n.x-1{a:b}\n"
    assert styles.shrink(css, words, "") == ".vae-live-rate{a:b}\n"


@pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first")
def test_no_rule_of_a_live_figure_is_cut():
    united = re.sub(r"\s", "", (SITE / styles.SHEET).read_text(encoding="utf-8"))
    own = [path for path in sorted((ROOT / "book" / "_static").glob("live-*.css"))]
    names = {
        name for path in own for name in re.findall(r"\.(vae-[\w-]+)", path.read_text("utf-8"))
    }
    assert len(own) > 3
    assert {name for name in names if f".{name}" not in united} == set()


def test_a_page_asks_for_one_sheet_and_twice_is_once():
    page = (
        '<head><title>x</title><link href="../_static/a.css?v=1" rel="stylesheet"/>\n'
        '<link href="a" rel="icon"/><link rel="stylesheet" href="../_static/b.css"></head>'
    )
    once = styles.linked(page, "../", 10)
    assert once.count('rel="stylesheet"') == 1
    assert f'href="../{styles.SHEET}?v=a"' in once
    assert '<link href="a" rel="icon"/>' in once
    assert styles.linked(once, "../", 10) == once
    assert styles.linked("<p>plain</p>", "", 1) == "<p>plain</p>"


@pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first")
def test_every_page_has_the_sheet_and_no_font_of_the_theme():
    for page in pages("index.html"):
        html = (SITE / page).read_text(encoding="utf-8")
        links = styles.LINK.findall(html)
        assert len(links) <= 1, page
        assert links or page == "index.html" or "<body" not in html, page
    assert (SITE / styles.SHEET).stat().st_size < 150_000
    loaded = {path.relative_to(SITE / "_static").parts[0] for path in SITE.rglob("*.woff2")}
    assert loaded == {"fonts"}


def test_the_map_is_asked_for_at_once():
    from bs4 import BeautifulSoup

    head = '<head><script>localStorage.getItem("mode") || ""</script></head>'
    pictures = "".join(
        f'<img class="vae-hero only-{t}" src="{t}.webp"/>' for t in ("light", "dark")
    )
    page = BeautifulSoup(f"<html>{head}<article>{pictures}</article></html>", "html.parser")
    light.know_the_theme(page)
    for _ in range(2):
        light.hurry_map(page)
    scripts = page.select("script")
    assert len(scripts) == 2
    assert "dataset.theme" in scripts[0].string  # what the second asks for
    assert '"dark": "dark.webp"' in scripts[1].string
