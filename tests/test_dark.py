"""Figures for dark pages: what changes places, what stays as it is, and which file a page loads."""

import re

import numpy as np
import pytest
from conftest import ROOT, SITE
from PIL import Image

from vae_tutorial import style

PAGE = "notebooks/03_autoencoder_vs_vae.html"


@pytest.fixture
def dark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return pytest.importorskip("dark", reason="the book's tools are not installed")


@pytest.fixture
def drawn(dark, tmp_path):
    """A figure in the book's style, and its variant for dark pages, as arrays of colours."""

    def draw(fig):
        path = tmp_path / "figure.png"
        path.write_bytes(style.to_png(fig))
        return pixels(path), pixels(dark.made(path))

    return draw


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def a_chart(**kwargs):
    with style.mpl.rc_context(style.RC):
        fig = style.figure(6, 3)
        ax = fig.add_subplot()
        for n, colour in enumerate(style.PALETTE):
            ax.plot([0, 1], [n, n + 3], color=colour, lw=5, **kwargs)
        ax.set(title="A title in bold", xlabel="epoch", ylabel="nats")
        ax.bar([1.2, 1.4], [8, 5], 0.15, color=style.INK)
    return fig


def luminance(colour):
    values = np.array(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def rgb(text):
    return tuple(bytes.fromhex(text.removeprefix("#")))


def closest(dark, colours):
    """The least distance of two of these colours, in OKLab."""
    lab = dark.to_oklab(np.array(colours))
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return apart[np.triu_indices(len(lab), 1)].min()


def test_the_colours_are_those_of_the_figures_and_of_the_page(dark):
    assert [tuple(c) for c in dark.CHART] == [rgb(c) for c in (style.INK, *style.PALETTE)]
    assert rgb(style.INK) == dark.INK
    css = (ROOT / "book" / "_static" / "book.css").read_text(encoding="utf-8")
    rules = re.search(r'html\[data-theme="dark"\] \{(.*?)\}', css, re.DOTALL)[1]
    assert f"--pst-color-background: #{bytes(dark.GROUND).hex()};" in rules
    assert f"--pst-color-text-base: #{bytes(dark.LIGHT).hex()};" in rules


def test_ink_and_paper_change_places_and_colours_keep_their_hue(dark):
    changed = dark.darkened(np.array([dark.PAPER, dark.INK]))
    assert changed.tolist() == [list(dark.GROUND), list(dark.LIGHT)]
    assert contrast(*changed) >= 7
    before, after = (dark.to_oklab(c[1:]) for c in (dark.CHART, dark.darkened(dark.CHART)))
    coloured = np.hypot(*before[:, 1:].T) > 0.05
    turned = np.arctan2(before[:, 2], before[:, 1]) - np.arctan2(after[:, 2], after[:, 1])
    assert np.degrees(np.abs(turned[coloured])).max() < 5
    # No two colours come closer to each other, none is fainter than it was on paper.
    assert closest(dark, dark.darkened(dark.CHART)) >= closest(dark, dark.CHART)
    for colour, new in zip(dark.CHART, dark.darkened(dark.CHART), strict=True):
        assert contrast(new, dark.GROUND) >= min(3, contrast(colour, dark.PAPER))


def test_an_edge_has_no_halo(dark):
    """From paper to any colour of a chart: ever lighter, as its blends with the ground are."""
    share = np.linspace(0, 1, 52)[:, None]
    for colour in dark.CHART:
        blends = 255 + share * (colour - 255.0)
        lightness = dark.to_oklab(dark.darkened(np.rint(blends)))[:, 0]
        assert np.diff(lightness).min() > -0.01  # a byte's rounding


def test_oklab_and_back(dark):
    colours = np.random.default_rng(0).integers(0, 256, (100, 3))
    np.testing.assert_allclose(dark.from_oklab(dark.to_oklab(colours)), colours, atol=1e-6)
    white, red = dark.to_oklab(np.array([(255, 255, 255), (255, 0, 0)]))
    np.testing.assert_allclose(white, (1, 0, 0), atol=1e-6)
    np.testing.assert_allclose(red, (0.62796, 0.22486, 0.12585), atol=1e-4)  # as published


def test_a_chart_is_drawn_anew(dark, drawn):
    light, new = drawn(a_chart())
    assert light.shape == new.shape
    paper = (light == dark.PAPER).all(-1)
    assert (new[paper] == dark.GROUND).all()
    ink = (light == dark.INK).all(-1)
    assert ink.sum() > 100
    assert np.abs(new[ink].astype(int) - dark.LIGHT).max() <= 1
    lines = [(light == rgb(c)).all(-1) for c in style.PALETTE]
    seen = [new[line][0] for line in lines if line.any()]
    assert len(seen) == len(style.PALETTE)
    assert closest(dark, [*seen, dark.GROUND]) > closest(dark, [*dark.CHART[1:]])
    assert not (new == dark.PAPER).all(-1).any()


def test_a_sheet_of_digits_stays_to_the_bit(dark, drawn, digits):
    with style.mpl.rc_context(style.RC):
        fig = style.figure(6, 3)
        ax = fig.add_subplot()
        style.show_image(ax, style.mosaic(digits.train.images[:40], 10))
        ax.set_title("Digits")
    light, new = drawn(fig)
    black = np.argwhere((light == 0).all(-1))
    (top, left), (bottom, right) = black.min(0), black.max(0) + 1
    assert bottom - top > 100
    around = np.ones(light.shape[:2], bool)
    around[top:bottom, left:right] = False
    white = (light == dark.PAPER).all(-1)
    assert (light == new).all(-1)[~around & ~white].all()
    paper = white & (around | white.all(0) | white[top:bottom].all(0))  # and between the images
    assert (new[paper] == dark.GROUND).all()
    assert new[:top].max() > 200  # the title


def test_a_black_and_white_digit_half_covered_with_grey_stays(dark, drawn, digits):
    image = (digits.train.images[:1] > 127).float()
    image[..., 14:, :] = 0.5
    with style.mpl.rc_context(style.RC):
        fig = style.figure(9, 3)
        left, right = fig.subplots(1, 2)
        style.show_image(left, style.to_array(image)[0])
        right.plot([0, 1], [0, 1], color=style.INK)
    light, new = drawn(fig)
    assert (light == 0).all(-1).sum() > 1000
    for value in (0, 128):  # black, and the cover
        part = (light == value).all(-1)
        assert (new[part] == light[part]).all()


@pytest.mark.parametrize("name", ["viridis", "magma_r", "vlag"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_map_its_colour_bar_and_its_neighbour_of_one_colour_stay(name, whole, dark, drawn):
    values = np.add.outer(np.arange(6), np.arange(6)) / 10
    with style.mpl.rc_context(style.RC):
        fig = style.figure(8, 3)
        ax, other, chart = fig.subplots(1, 3)
        shown = ax.imshow(values if whole else np.where(np.tri(6), values, np.nan), cmap=name)
        other.imshow(np.ones((6, 6)), cmap=name, vmin=0, vmax=1)
        bar = fig.colorbar(shown, ax=other)
        chart.bar([0, 1], [3, 4], color=style.TRAIN)
        chart.spines[:].set_visible(False)
    light, new = drawn(fig)
    height, dpi = len(light), style.SHARP / 8
    saved = fig.get_tightbbox().padded(style.mpl.rcParams["savefig.pad_inches"])
    for panel in (ax, other, bar.ax):  # seven pixels within each: its frame is ink
        box = panel.get_window_extent().transformed(fig.dpi_scale_trans.inverted())
        left, right = (int(dpi * (x - saved.x0)) for x in (box.x0, box.x1))
        low, high = (height - int(dpi * (y - saved.y0)) for y in (box.y0, box.y1))
        inner = np.s_[high + 7 : low - 7, left + 7 : right - 7]
        assert light[inner].size > 1000
        assert (light[inner] == new[inner]).all()
    bars = (light == rgb(style.TRAIN)).all(-1)
    assert bars.sum() > 1000
    assert (new[bars] != light[bars]).any(-1).all()


def test_a_file_is_written_once_for_each_content_and_read_back(dark, drawn, tmp_path, monkeypatch):
    drawn(a_chart())
    path = tmp_path / "figure.png"
    first = dark.made(path)
    content, written = first.read_bytes(), []
    monkeypatch.setattr(dark, "write", lambda *given: written.append(given))
    assert dark.made(path) == first
    assert not written
    monkeypatch.undo()
    first.unlink()
    assert dark.made(path).read_bytes() == content
    colours, places = dark.read(path)
    assert (colours[places] == pixels(path)).all()
    many = np.arange(3 * 400).reshape(400, 3).astype(np.uint8)  # more colours than a palette holds
    dark.write(path, many, np.arange(400).reshape(20, 20))
    assert (pixels(path).reshape(-1, 3) == many).all()
    assert dark.made(path) is None  # in full colour, and so none of the book's
    path.write_bytes(style.to_png(a_chart(alpha=0.5)))
    assert dark.made(path) != first


def test_a_figure_without_a_variant_stays_alone(dark, drawn, tmp_path):
    soup = pytest.importorskip("bs4").BeautifulSoup
    (tmp_path / "_images").mkdir()
    fig = a_chart()
    (tmp_path / "_images" / "a.png").write_bytes(style.to_png(fig))
    Image.new("RGB", (9, 9)).save(tmp_path / "_images" / "b.png")
    page = soup(
        '<article><figure><img alt="A" class="x" id="a" src="_images/a.png"/></figure>'
        '<img src="_images/b.png"/><img src="_images/c.svg"/></article>',
        "html.parser",
    )
    for _ in range(2):
        used = dark.pair(page, tmp_path)
        one, two = page.select("figure img")
        assert (one["class"], two["class"]) == (["x", "only-light"], ["x", "only-dark"])
        assert (one["src"], [two["src"]]) == ("_images/a.png", [f"_images/{name}" for name in used])
        assert two["alt"] == "A"
        assert len(page.select("#a")) == 1
        assert len(page.select("article > img")) == 2
    old = tmp_path / "_images" / f"a{dark.MARK}00000000.png"
    old.touch()
    dark.drop_unused(tmp_path, used)
    left = {path.name for path in (tmp_path / "_images").iterdir()}
    assert left == {"a.png", "b.png", *used}


# ---------------------------------------------------------------- the built site

built = pytest.mark.skipif(
    not (SITE / "index.html").exists(), reason="no site: run `make book` first"
)


@built
def test_every_figure_of_the_book_has_a_variant_of_its_size(dark):
    text = "".join(path.read_text(encoding="utf-8") for path in SITE.glob("notebooks/*.html"))
    names = set(re.findall(r'src="\.\./_images/([^"/]+\.png)"', text))
    figures = [SITE / "_images" / name for name in sorted(names) if dark.MARK not in name]
    assert len(figures) > 100
    for path in figures:
        (other,) = SITE.glob(f"_images/{path.stem}{dark.MARK}*.png")
        light, new = pixels(path), pixels(other)
        assert light.shape == new.shape
        assert tuple(new[0, 0]) == dark.GROUND, f"{path.name}: the corner is paper"
        colours, places = dark.read(path)
        for box in dark.pictures(colours, places):
            kept = (light[box] == new[box]).all(-1)
            assert (kept | (light[box] == dark.PAPER).all(-1)).all(), path.name


@built
@pytest.mark.browser
@pytest.mark.xdist_group("browser")
class TestInTheBrowser:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_a_tapped_figure_opens_in_the_colours_of_the_page(self, theme, dark, opened):
        tab = opened(PAGE, color_scheme=theme)
        figure = tab.locator(f".cell_output a.vae-enlarge img.only-{theme}").first
        figure.scroll_into_view_if_needed()
        shown = figure.get_attribute("src").rsplit("/", 1)[1]
        figure.click()
        tab.wait_for_url("**/_images/*")
        assert tab.url.endswith(shown)
        assert (dark.MARK in shown) == (theme == "dark")

    @pytest.mark.parametrize("theme", ["light", "dark"])
    @pytest.mark.parametrize("page", [PAGE, "book/index.html"])
    def test_a_page_loads_the_files_of_its_theme_alone(self, page, theme, dark, opened):
        tab = opened(page, color_scheme=theme)
        images = tab.locator(f"article img.only-{theme}:not(.vae-hero)")
        hidden = tab.locator(f"article img:is(.only-light, .only-dark):not(.only-{theme})")
        assert images.count() > 3
        for image in images.all():
            if image.is_visible():  # and not in a folded solution
                image.scroll_into_view_if_needed()
                image.evaluate("(image) => image.decode()")
        assert not hidden.filter(visible=True).count()
        asked = [path for path in tab.asked if "_images/" in path and path.endswith(".png")]
        assert len(asked) > 3
        assert {dark.MARK in path for path in asked} == {theme == "dark"}
        assert not tab.said

    def test_the_button_changes_the_files_and_captions_stay(self, opened):
        tab = opened(PAGE)
        figure = tab.locator("article figure:has(img)").first
        light, night = figure.locator(".only-light"), figure.locator(".only-dark")
        for theme, shown, other in (("dark", night, light), ("light", light, night)):
            tab.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            assert shown.is_visible()
            assert not other.is_visible()
            assert figure.locator("figcaption").is_visible()
        assert figure.locator("figcaption").count() == 1

    def test_without_scripts_and_in_print_figures_are_on_paper(self, opened):
        bare = opened(PAGE, java_script_enabled=False, color_scheme="dark")
        printed = opened(PAGE, color_scheme="dark")
        printed.emulate_media(media="print")
        for tab in (bare, printed):
            figure = tab.locator("article figure:has(img)").first
            assert figure.locator(".only-light").is_visible()
            assert figure.locator("figcaption").is_visible()
            assert not tab.locator("article .only-dark").filter(visible=True).count()

    def test_a_live_figure_takes_the_place_of_both(self, opened):
        tab = opened("notebooks/02_vae.html", color_scheme="dark")
        tab.locator("[data-live=planes]").scroll_into_view_if_needed()
        tab.locator(".vae-live-plane").first.wait_for(timeout=20_000)
        stills = tab.locator("[data-live=planes] img")
        assert stills.count() == 2
        assert not stills.filter(visible=True).count()
        tab.emulate_media(media="print")
        assert stills.filter(visible=True).count() == 1
        assert "only-light" in stills.filter(visible=True).get_attribute("class")
