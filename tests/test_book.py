"""The book's own extension, and the built site read as files: links, alternative text, hosts."""

import json
import re
import statistics
import sys
from fnmatch import fnmatch
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT, SITE, pages
from pybtex.database import Entry, Person
from tiny import tiny_autoencoder, tiny_vae

from vae_tutorial import Bernoulli, Part, data, elbo, evaluate, measure, reconstruction_error, spec
from vae_tutorial.likelihoods import BetaBinomial, DiscretizedLogistic, Gaussian, binarize
from vae_tutorial.models.ladder import LadderVAE
from vae_tutorial.models.pixelcnn import GatedPixelCNN, code_loss
from vae_tutorial.models.vqvae import VQVAE, VectorQuantizer
from vae_tutorial.spec import identify

sys.path.append(str(ROOT / "book" / "_ext"))
OWN = (
    "boxes",
    "contents",
    "heads",
    "light",
    "live",
    "mending",
    "prose",
    "references",
    "repository",
    "runs",
    "social",
)
boxes, contents, heads, light, live, mending, prose, references, repository, runs, social = map(
    import_module, OWN
)
PAGES = pages()
every_page = pytest.mark.parametrize("page", PAGES)

# ---------------------------------------------------------------- diagrams


def test_diagrams_stand_in_the_page_and_other_drawings_stay_images(tmp_path):
    drawing = (
        '<svg viewBox="0 0 2 1" aria-labelledby="t"><title id="t">Two</title><desc>A line.</desc>'
        '<path stroke="{}"/><text>t</text></svg>'
    )
    (tmp_path / "one.svg").write_text(drawing.format("currentColor"))
    (tmp_path / "two.svg").write_text(drawing.format("#123456"))
    image = '<a href="{0}.svg"><img src="{0}.svg" alt="What {0} shows"/></a>'
    page = f"<article>{image.format('one')}{image.format('two')}</article>"
    html = BeautifulSoup(page, "html.parser")
    mending.draw_diagrams(html, tmp_path)
    assert [svg["aria-label"] for svg in html.select('article > svg[role="img"]')] == [
        "What one shows"
    ]
    assert not html.select("svg title, svg desc, svg[aria-labelledby]")
    mending.mend_names(
        html
    )  # also over a page of the build before, where the drawing stands already
    assert html.svg["aria-label"] == "What one shows"
    assert [img["src"] for img in html.select("a > img")] == ["two.svg"]


# ---------------------------------------------------------------- boxes, heads, what is loaded


def html_of(text: str) -> BeautifulSoup:
    return BeautifulSoup(text, "html.parser")


def test_boxes_are_found_by_their_words():
    page = html_of(
        "<article><h1>7. Beta, warm-up</h1><blockquote><p><strong>Guess first.</strong> (a) or (b)?</p>"
        "</blockquote><blockquote><p>A citation.</p></blockquote><p><strong>Takeaway.</strong> It is.</p>"
        "<p><strong>The answer is (b).</strong> And so on.</p><p>The <strong>answer</strong>: nothing.</p>"
        "<p>So it goes. The answers are (c), and about the same.</p><p>Solution, folded:</p></article>"
    )
    for _ in range(2):  # an incremental build does it again
        boxes.mark(page)
        assert page.h1.get_text() == "7. Beta, warm\u2011up"
        assert [" ".join(q.get("class", [])) for q in page("blockquote")] == ["vae-guess", ""]
        found = [(p.get("class"), p.get("data-answer")) for p in page.select("article > p")]
        answer = ["vae-answer"]
        assert found == [(["vae-takeaway"], None), (answer, "b"), (None, None), (answer, "c")]


def test_a_work_is_cited_once_and_punctuation_stays_with_its_formula():
    cited = '<span>(<a class="reference" href="bibliography.html#id9" title="T">Burda et al., 2015</a>)</span>'
    page = html_of(
        f"<article><p>Active units: Burda et al. (2015), equation 8 {cited}. See {cited}.</p>"
        f'<p>Lucas et al. (2015) {cited} say that <span class="math">x</span>, not y.</p>'
        f"<p>A unit is active (after Burda & Co, 2015) {cited}. Not here.</p></article>"
    )
    for _ in range(2):
        prose.mend(page)
        first, second, third = (" ".join(p.get_text().split()) for p in page("p"))
        assert first == "Active units: Burda et al. (2015), equation 8. See (Burda et al., 2015)."
        assert second == "Lucas et al. (2015) (Burda et al., 2015) say that x, not y."
        assert third == "A unit is active (after Burda & Co, 2015). Not here."
        assert [a.get_text() for a in page("a")] == ["2015", *["Burda et al., 2015"] * 2, "2015"]
        assert page.select_one(".vae-together").get_text() == "x,"


def test_every_chapters_guess_meets_its_answer():
    for path in sorted(SITE.glob("notebooks/*.html")):
        page = soup(path)
        guess = page.select_one(".vae-guess")
        letters = set(re.findall(r"\(([a-e])\)", guess.get_text()))
        answer = page.select_one(".vae-answer[data-answer]")
        assert len(letters) > 1, f"{path.name}: nothing to choose from"
        assert answer, f"{path.name}: no paragraph says that the answer is (x)"
        assert answer["data-answer"] in letters
        assert guess.find_next(class_="vae-answer") is answer, (
            f"{path.name}: the answer comes first"
        )


def test_a_head_says_how_long_a_chapter_takes_and_cards_show_its_figure():
    prose = f"<p>{'word ' * 2000}</p>"
    figure = '<div class="cell tag_banner"><img alt="Digits" src="../_images/a.png"/></div>'
    chapter = html_of(f"<article><h1>1. One</h1>{prose}{figure}</article>")
    front = html_of(
        '<article><div class="vae-chapters"><div class="sd-card"><a href="../notebooks/1.html">One'
        '</a></div><div class="sd-card"><a href="../notebooks/2.html">Two</a></div></div></article>'
    )
    pictures = {"notebooks/1.html": "_images/a.png"}
    for _ in range(2):
        heads.put(chapter, "notebooks/1.html", pictures)
        heads.put(front, "book/index.html", pictures)
    assert [img["src"] for img in chapter.select("h1 + .vae-head img")] == ["../_images/a.png"]
    assert "About 10 minutes" in chapter.select_one(".vae-about").get_text()
    assert chapter.select_one(".vae-about a")["href"] == "../_sources/notebooks/1.ipynb"
    assert [len(card("img")) for card in front.select(".sd-card")] == [1, 0]
    assert front.img["src"] == "../_images/a.png"


def test_every_chapter_has_a_figure_for_its_head():
    chapters = {f"notebooks/{path.name}" for path in SITE.glob("notebooks/*.html")}
    assert set(heads.banners(SITE)) == chapters
    cards = soup("book/index.html").select(".vae-chapters .sd-card")
    for theme in ("light", "dark"):
        assert sum(len(card.select(f"img.only-{theme}")) for card in cards) == len(chapters)


def test_a_page_loads_what_it_uses(tmp_path):
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="30" height="20"/>'
    )
    head = (
        '<script>window.MathJax = {}</script><script src="mathjax/startup.js"></script>'
        '<script src="_static/scripts/fontawesome.js"></script><script src="searchindex.js"></script>'
        '<link href="_static/exercise.css" rel="stylesheet"/><script src="documentation_options.js">'
        '</script><script>localStorage.getItem("mode") || ""</script>'
    )
    body = '<i class="theme-switch fa-solid fa-sun fa-lg" data-mode="light" title="Light"></i>'
    body += '<article><img src="a.svg" alt="A"/>{}</article>'
    plain, maths = (
        html_of(f"<html><head>{head}</head><body>{body.format(more)}</body></html>")
        for more in ("", '<span class="math">x</span><div class="exercise">E</div>')
    )
    for page in (plain, plain, maths):
        light.lighten(page, tmp_path)
        icon = page.select_one("svg.vae-icon.theme-switch[data-mode=light] > path")
        assert icon["d"] == light.ICONS["sun"]
        assert (page.img["loading"], page.img["width"], page.img["height"]) == ("lazy", "30", "20")
        assert '|| "auto"' in str(page.head)
    kept = [element.get("src") or element.get("href") for element in plain.select("[src], [href]")]
    assert kept == ["documentation_options.js", "a.svg"]
    assert "MathJax" not in str(plain)
    kept = [(s["src"], s.has_attr("defer")) for s in maths.select("head script[src]")]
    assert kept == [("documentation_options.js", False)]
    assert [s["data-maths"] for s in maths.select("script[data-maths]")] == ["mathjax/startup.js"]
    assert maths.select('link[href*="exercise"]')
    with pytest.raises(ValueError, match="fa-unheard-of"):
        light.draw_icons(html_of('<i class="fas fa-unheard-of"></i>'))


def test_the_script_of_live_figures_is_loaded_where_one_stands():
    tagged = html_of(
        '<html><head></head><article><div class="cell tag_live-plane"></div></article></html>'
    )
    plain = html_of("<html><head></head><article></article></html>")
    for page in (tagged, tagged, plain):
        live.mark(page, "../")
    assert tagged.select_one("[data-live=planes]")["data-runs"] == "vae-2d"
    assert [s["src"] for s in tagged("script")] == ["../live/live.js"]
    assert not plain("script")


def test_only_a_chain_of_layers_and_bernoulli_means_can_come_alive():
    layers, numbers = live.decoder(ROOT / "artifacts" / "mnist" / "vae-2d")
    assert [layer["inputs"] for layer in layers] == [2, 128, 256, 256, 512]
    assert [layer["activation"] for layer in layers] == ["silu"] * 4 + ["sigmoid"]
    assert sum(map(len, numbers)) == sum((1 + n["inputs"]) * n["outputs"] for n in layers)
    with pytest.raises(ValueError, match="ConvDecoder"):
        live.decoder(ROOT / "artifacts" / "mnist" / "conv")


# ---------------------------------------------------------------- what cells print


@pytest.mark.parametrize(
    ("frame", "heads"),
    [
        (pd.DataFrame({"a": [1], "b": [2]}).rename_axis("row"), [["row", "a", "b"]]),
        (pd.DataFrame({"a": {("x", "y"): 1}}).rename_axis(["i", "j"]), [["i", "j", "a"]]),
        (pd.DataFrame({"a": [1]}), [["", "a"]]),
        (pd.DataFrame({("a", "b"): [1]}), [["", "a"], ["", "b"]]),  # two true rows
    ],
)
def test_a_data_frames_names_share_a_row(frame, heads):
    html = BeautifulSoup(f"<article>{frame.to_html()}</article>", "html.parser")
    for _ in range(2):
        mending.mend_tables(html)
        rows = html.select("thead tr")
        assert [[cell.get_text() for cell in row.select("th, td")] for row in rows] == heads
    assert len(html.select("tbody td")) == frame.size


@pytest.mark.parametrize(
    ("text", "breaks"),
    [("a sentence, 3.0 nats", True), ("one   two   three\n1     2     3", False),
     ("tensor([[1, 2]])", False), ("a list:\n  indented", False)],
)  # fmt: skip
def test_printed_sentences_may_break_and_columns_may_not(text, breaks):
    page = f'<article><div class="cell_output"><div class="stream"><pre>{text}</pre></div></div>'
    html = BeautifulSoup(page, "html.parser")
    boxes.mark(html)
    assert bool(html.select("pre.vae-sentences")) == breaks


# ---------------------------------------------------------------- what a link shows elsewhere


@pytest.mark.parametrize("page", ["book/index.html", "notebooks/02_vae.html"])
def test_a_link_shows_a_picture_once_the_site_has_an_address(page):
    html = BeautifulSoup(
        '<head><meta name="description" content="About it."/><meta property="og:url" content="x"/>'
        '<meta property="og:description" content="A map of …"/></head>',
        "html.parser",
    )
    pictures = {"notebooks/02_vae.html": "_images/a.png"}

    def told() -> dict[str, str]:
        return {tag.get("property", tag.get("name")): tag["content"] for tag in html.select("meta")}

    social.put(html, page, pictures, site=None)
    assert told() == {"description": "About it.", "og:description": "About it."}
    site = social.address("https://github.com/Ada/vae-tutorial")
    for _ in range(2):  # a second time changes nothing
        social.put(html, page, pictures, site)
        found = told()
        picture = found["og:image"].removeprefix("https://ada.github.io/vae-tutorial/")
        assert picture == pictures.get(page, social.PREVIEW)
        assert found["og:url"] == site + page
        assert len(html.select("meta")) == len(found)
    assert (ROOT / "book" / social.PREVIEW).is_file()


# ---------------------------------------------------------------- the table of runs


def stored_run(name: str, model: dict, metrics: dict, prepare=data.floats, measure=None) -> dict:
    """What run.json holds of a run."""
    settings = {"epochs": 80, "seed": 3, "prepare": identify(prepare)}
    of = {"measure": identify(measure or partial(evaluate, objective=elbo)), "settings": settings}
    return {
        "name": name,
        "identity": {"model": model, "data": {"name": name.partition("/")[0]}, **of},
        "versions": {"torch": "2.15.0", "python": "3.11.7"},
        "device": "cpu, 1 threads",
        "seconds": 324.5,
        "metrics": {f"test_{key}": value for key, value in metrics.items()},
    }


def vae(likelihood: Part) -> dict:
    model = spec(tiny_vae())
    return model | {"decoder": model["decoder"] | {"likelihood": spec(likelihood)}}


S = (1, 28, 28)
LIKELIHOODS = {
    "Bernoulli": Bernoulli(S),
    "Cross-entropy on greys": Bernoulli(S, greys=True),
    "Gaussian, homoscedastic": Gaussian(S, noise="homoscedastic"),
    "Gaussian, fixed to 1.0": Gaussian(S, scale=1.0),
    "Discretized logistic, pixelwise": DiscretizedLogistic(S),
    "Beta-binomial": BetaBinomial(S),
}
PLAIN, LADDER = vae(Bernoulli(S)), spec(LadderVAE(S, Bernoulli(S), (8, 3), (4, 4)))
AUTOENCODER = spec(tiny_autoencoder(latent_dim=5))
PIXELCNN = spec(GatedPixelCNN(4, (2, 2), channels=4, layers=1))
GRADIENT, AVERAGES = (
    spec(VQVAE((3, 8, 8), VectorQuantizer(4, 2, decay=decay), (2, 2))) for decay in (None, 0.9)
)
BOUND = {"negative_elbo": [1132.833, 0.489], "reconstruction": [125.454, 0.3], "kl": [7.379, 0.1]}
ELBO = "1,132.83\u00a0±\u00a00.49 | 125.45 | 7.38"
ERROR, BITS = {"reconstruction": [60.45, 0.193]}, {"bits": [4.793, 0.009]}
VQ = {"reconstruction": [0.0045616, 0.1], "perplexity": [107.897, None], "codes_used": [1, None]}
ROWS = {f"MLP 8 | {words} | 2 | {ELBO}": (vae(part), BOUND) for words, part in LIKELIHOODS.items()} | {
    f"Ladder VAE | Bernoulli | 8 + 3 | {ELBO}": (LADDER, BOUND),
    "Autoencoder, MLP 8 | Cross-entropy on greys | 5 | 60.45\u00a0±\u00a00.19": (AUTOENCODER, ERROR),
    "VQ-VAE, codebook of moving averages | 0.068 | 100% | 107.9": (AVERAGES, VQ),
    "VQ-VAE, codebook learnt by gradient | 0.068 | 100% | 107.9": (GRADIENT, VQ),
    "Gated PixelCNN | 4.793\u00a0±\u00a00.009": (PIXELCNN, BITS),
    "Diffusion | 4.793\u00a0±\u00a00.009": ({"class": "models.new.Diffusion"}, BITS),
    "Diffusion | 5.10\u00a0±\u00a00.20": ({"class": "models.new.Diffusion"}, {"saved": [5.1, 0.2]}),
}  # fmt: skip


def cells_of(lines: list[str]) -> list[list[str]]:
    """The rows of the first table, each as what its cells say."""
    lines = [
        line for line in lines[: lines.index(":::{dropdown} How these were made")] if "|" in line
    ]
    shown = lines[2:]
    texts = [[*map(str.strip, line.strip("|").split(" | "))] for line in shown]
    return [[BeautifulSoup(cell, "html.parser").get_text() for cell in row] for row in texts]


@pytest.mark.parametrize("cells", ROWS)
def test_the_row_of_a_run(cells):
    lines = runs.tables([stored_run("mnist/a", *ROWS[cells])])
    assert cells_of(lines) == [["mnist/a", "1", *cells.split(" | ")]]
    assert any("| 80 | 5\u00a0min 24\u00a0s |" in line for line in lines[lines.index("") :])


def test_binary_images_drawn_afresh_are_named():
    (row,) = cells_of(runs.tables([stored_run("a/b", PLAIN, BOUND, prepare=binarize)]))
    assert row[3] == "Bernoulli, dynamic"


def test_seeds_share_a_row():
    """Its numbers are means over them, with the standard error over them."""

    def seed(name: str, number: int, bound: float, epochs: int = 80) -> dict:
        run = stored_run(name, PLAIN, BOUND | {"negative_elbo": [bound, 0.5]})
        run["identity"]["settings"] |= {"seed": number, "epochs": epochs}
        return run

    found = [seed(f"mnist/a-10{'-' * bool(i)}{i or ''}", i, 100.0 + i) for i in range(3)]
    found += [seed(f"mnist/b-{i}", i, 7.0, epochs=2) for i in range(2)] + [seed("mnist/c", 0, 9, 2)]
    found[4]["identity"]["model"]["later"] = "option"
    shown = cells_of(runs.tables(found))
    assert [row[:2] for row in shown] == [["mnist/a-10", "3"], ["mnist/b", "2"], ["mnist/c", "1"]]
    error = statistics.stdev([100, 101, 102]) / 3**0.5
    expected = [f"101.00\u00a0±\u00a0{error:.2f}", "7.00\u00a0±\u00a00.00", "9.00\u00a0±\u00a00.50"]
    assert [row[2] for row in shown] == expected


def test_what_all_rows_have_in_common_is_said_once():
    found = [stored_run(f"mnist/{name}", PLAIN, BOUND) for name in "ab"]
    found[1]["identity"]["settings"]["epochs"] = 7
    lines = runs.tables(found)
    assert lines[0] == "All rows: seeds: 1; model: MLP 8; likelihood: Bernoulli; latents: 2."
    assert [row[0] for row in cells_of(lines)] == ["mnist/a", "mnist/b"]
    assert sum("| 7 |" in line for line in lines) == 1  # epochs differ: a column


def test_columns_that_say_nothing_are_left_out():
    measure = partial(evaluate, objective=code_loss)
    lines = runs.tables([stored_run("codes/c", PIXELCNN, BITS, measure=measure)])
    heads = [line for line in lines if line.startswith("| Run")]
    assert "Likelihood" not in heads[0]
    assert "Bits per code" in heads[0]
    assert "Posterior samples" not in heads[1]


def test_the_front_page_says_what_was_measured():
    """The number in its text is that of the package, which reads the same file."""
    name = "mnist/iwae-50"
    path = ROOT / "artifacts" / name / measure.FILE
    stored = json.loads(path.read_text())
    stored["bounds"] = {int(s): blocks for s, blocks in stored["bounds"].items()}
    nats = measure.Measured(**stored).nats()
    expected = f"{nats:.2f} ± {nats.standard_error:.2f}"
    assert runs.nats(ROOT, name) == expected
    page = BeautifulSoup((SITE / "book/index.html").read_text(encoding="utf-8"), "html.parser")
    assert f"needs {expected} nats" in " ".join(page.select_one("article").get_text().split())


def test_every_run_answers_one_question():
    """Each stored run stands on the page of results, once."""
    page = (ROOT / "book" / "results.md").read_text(encoding="utf-8")
    patterns = " ".join(re.findall(r"```\{run-table\} (.+)", page)).split()
    names = ["/".join(path.parts[-3:-1]) for path in runs.stored(ROOT)]
    asked = {name: sum(fnmatch(name, pattern) for pattern in patterns) for name in names}
    assert names
    assert {name: n for name, n in asked.items() if n != 1} == {}
    unused = [p for p in patterns if not any(fnmatch(name, p) for name in names)]
    assert unused == []


@pytest.mark.parametrize(
    ("objective", "more", "samples"),
    [(elbo, {}, "1"), (elbo, {"samples": 7}, "7"), (reconstruction_error, {}, "–"), (vae, {}, "–")],
)
def test_samples_are_the_measures_own_or_its_objectives(objective, more, samples):
    measure = partial(evaluate, objective=objective, **more)
    assert runs.samples(stored_run("mnist/a", PLAIN, BOUND, measure=measure)) == samples


def test_only_the_books_runs_are_read(tmp_path):
    lines = ["artifacts/digits*/", "artifacts/textures/vq-*/", "artifacts/.*", "artifacts/*/.*"]
    (tmp_path / ".gitignore").write_text("\n".join(["book/", *lines]))
    for name in ("mnist/b", "mnist/a", "digits/a", ".x/a", "mnist/.x", "textures/vq-a"):
        (tmp_path / "artifacts" / name).mkdir(parents=True)
        (tmp_path / "artifacts" / name / "run.json").write_text("{}")
    found = [path.parent.relative_to(tmp_path / "artifacts") for path in runs.stored(tmp_path)]
    assert [path.as_posix() for path in found] == ["mnist/a", "mnist/b"]


# ---------------------------------------------------------------- the rest of the extension


def test_a_new_module_finds_its_page(tmp_path):
    empty = ("__init__", "_own", "models/__init__", "checks/ch01")
    for name in (*empty, "checks/__init__", "fit", "fitting", "models/new"):
        path = tmp_path / "vae_tutorial" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def _f(): ..." if name in empty else "import a\nclass Fit: ...")
    known = contents.modules(tmp_path)
    assert known == ["checks", "fit", "fitting", "models.new"]
    pages = "```{modules} checks fit\n```\n.. automodule:: vae_tutorial.models.new\n"
    assert contents.unnamed(known, pages) == ["fitting"]
    assert contents.unnamed(known, "```{modules} models\n```") == known[:3]


def test_a_notebooks_badge_is_a_link_once_there_is_an_address():
    link = f"{repository.COLAB}github/ada/vae/blob/main/notebooks/x.ipynb"
    badge = {"source": f"[![x](y)]({link})", "metadata": {"tags": ["colab-badge"]}}
    clone = {"source": ["!git clone ", repository.PLACEHOLDER], "metadata": {}}
    text = {"source": "# A chapter", "metadata": {}}
    assert repository.shown_cells([text, dict(badge), clone], placeholder=True) == [text]
    shown = repository.shown_cells([text, dict(badge), clone], placeholder=False)
    assert [shown[0], shown[2]] == [text, clone]
    assert BeautifulSoup(shown[1]["source"], "html.parser").a["href"] == link


def test_citations_name_authors_and_tell_years_apart():
    def paper(*names):
        persons = {"author": [Person(name) for name in names]}
        return Entry("article", fields={"year": "2016"}, persons=persons)

    papers = [paper("Ada Byron"), paper("A. de la Cruz", "B. Li"), paper("Ada Byron")]
    labels = list(references.AuthorYear().format_labels([*papers, paper("A B", "C D", "E F")]))
    assert labels == ["Byron, 2016a", "de la Cruz and Li, 2016", "Byron, 2016b", "B et al., 2016"]


# ---------------------------------------------------------------- the built site


@cache
def soup(page: str | Path) -> BeautifulSoup:
    path = SITE / page
    if not path.exists():
        pytest.fail(f"the site lacks {page}: run `make book` first", pytrace=False)
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(page: Path) -> set[str]:
    return {tag.get(key) for tag in soup(page).select("[id], a[name]") for key in ("id", "name")}


def test_every_chapter_stands_in_the_contents_and_on_the_front_page():
    chapters = [f"{path.stem}.html" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    for place in ("#pst-primary-sidebar a", ".vae-chapters a"):
        links = [urlsplit(a["href"]).path for a in soup("book/index.html").select(place)]
        assert [link.split("/")[-1] for link in links if "/notebooks/" in link] == chapters, place


def test_every_module_is_in_the_reference_once():
    sections = [
        tag["id"].removeprefix("module-vae_tutorial.")
        for page in PAGES
        if page.startswith("book/")
        for tag in soup(page).select('[id^="module-vae_tutorial."]')
    ]
    assert sorted(sections) == contents.modules(ROOT)


def test_names_link_to_where_they_are_documented():
    links = {a.get_text(): a["href"] for a in soup("book/api/training.html").select("dd a")}
    assert links["Tensor"].startswith("https://docs.pytorch.org/")
    assert links["Split"] == "data.html#vae_tutorial.data.sources.Split"


@every_page
def test_links(page):
    """Every local link leads to a file of the site, every anchor to an element."""
    broken = set()
    for element in soup(page).select("a[href], link[href], script[src], img[src]"):
        address = element.get("href") or element.get("src", "")
        url = urlsplit(address.strip())
        path = (SITE / page).parent.joinpath(unquote(url.path) or (SITE / page)).resolve()
        if url.scheme or url.netloc:
            continue
        there = path.is_file() and path.is_relative_to(SITE)
        if there and url.fragment:
            there = unquote(url.fragment) in anchors(path.relative_to(SITE))
        broken |= set() if there else {address}
    assert not broken, f"{page}: these lead nowhere: {sorted(broken)}"


LOADED = (
    "script[src], img[src], img[srcset], iframe[src], source[src], video[src], object[data], "
    'embed[src], link[href]:not([rel~="canonical"], [rel~="license"]), meta[property^="og:image"]'
)


@every_page
def test_nothing_is_loaded_from_elsewhere(page):
    attributes = ("src", "srcset", "data", "href", "content")
    named = [
        str(tag.get(key, "")).strip() for tag in soup(page).select(LOADED) for key in attributes
    ]
    found = [address for address in named if address.startswith(("http:", "https:", "//"))]
    text = " ".join(tag.get_text() for tag in soup(page).select("script:not([src]), style"))
    found += [word for word in ("unpkg.com", "cdn.", "@import", "cdnjs") if word in text]
    assert not found, f"{page} loads from elsewhere: {found}"


@every_page
def test_pages_say_what_they_are(page):
    html = soup(page)
    assert html.html["lang"] == "en"
    assert html.title.get_text(strip=True)
    assert html.select("h1")
    description = html.select_one('meta[name="description"]')["content"]
    assert len(description) >= 40, "too short"
    assert "\\" not in description, "TeX"
    repeated = ".vae-banner, .vae-card-picture"  # figures that stand, with their words, elsewhere
    alts = [img.get("alt", "").strip() for img in html.select(f"article img:not({repeated})")]
    bare = [alt for alt in alts if alt in ("", "PLACEHOLDER") or "_images/" in alt]
    assert not bare, "no alternative text that says anything"
    assert not html.select("article svg.vae-diagram:not([aria-label])")
    assert "@title" not in html.get_text()  # a line for Colab alone
    hidden = ["colab-badge"]  # a picture from elsewhere
    if repository.repository_url(ROOT) == repository.PLACEHOLDER:
        hidden += ["OWNER", "colab.research.google.com"]
    assert not [word for word in hidden if word in str(html)]


def test_titles_differ():
    # The address alone only leads to the front page.
    titles = [soup(page).title.get_text(strip=True) for page in PAGES if page != "index.html"]
    assert len(set(titles)) == len(titles), sorted(titles)


def test_what_pages_load_lies_with_the_site():
    files = {path.name for path in (SITE / "mathjax").rglob("*")}
    needed = {"startup.js", "core.js", "tex.js", "chtml.js", "lazy.js", "assistive-mml.js"}
    assert {"LICENSE", "MathJax_Main-Regular.woff", *needed} <= files
    sheets = {p.name: p.read_text(encoding="utf-8") for p in (SITE / "_static").rglob("*.css")}
    assert not [n for n, text in sheets.items() if re.search("url\\([\"']?http", text)]
