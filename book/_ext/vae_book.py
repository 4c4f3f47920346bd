"""The book's own Sphinx extension: what the theme and its helpers do not do by themselves.

- No request leaves the site: scripts from elsewhere are taken out, Colab badges become text links.
- While the repository's address in pyproject.toml is the placeholder, no link to it is shown.
- The theme's accessibility faults are mended in the finished HTML.
- ``run-table`` makes the table of trained runs from ``artifacts/*/run.json``.
- Names of torch, NumPy and friends in the API pages link to their documentation, without any
  look-up over the network.
- Citations read "Kingma and Welling (2013)", and the bibliography is in alphabetical order.
"""

from __future__ import annotations

import json
import re
import tomllib
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from docutils import nodes
from docutils.statemachine import StringList
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as UnsrtStyle
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinxcontrib.bibtex.plugin import register_plugin as register_citation_style
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

PLACEHOLDER = "https://github.com/OWNER/vae-tutorial"
COLAB = "https://colab.research.google.com/"
DESCRIPTION = (
    "A book of notebooks that teaches variational autoencoders by building them, "
    "for readers with basic PyTorch."
)


# ---------------------------------------------------------------- the repository's address


def repository_url(root: Path) -> str:
    """The address that pyproject.toml gives: the one place where it stands."""
    with (root / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


def set_repository(app: Sphinx, config: Any) -> None:
    url = repository_url(Path(app.srcdir))
    app.config.vae_repository = url
    options = config.html_theme_options
    if url == PLACEHOLDER:
        for name in [name for name in options if name.startswith("repository_")]:
            options.pop(name)
        for button in ("repository", "issues", "edit_page"):
            options[f"use_{button}_button"] = False
    else:
        options["repository_url"] = url
    options["launch_buttons"] = {}


def rewrite_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Leave out what the site does not need of a notebook, and what would make a request.

    The stored notebook stays as it is: this changes only what the page is made from.
    """
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    placeholder = app.config.vae_repository == PLACEHOLDER
    kept = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        tags = cell.get("metadata", {}).get("tags", [])
        if "colab-badge" in tags or "colab-badge.svg" in text:
            if placeholder:
                continue
            link = re.search(re.escape(COLAB) + r"github/[^)\s]+", text)
            if link is None:
                continue
            cell["source"] = f'<p><a class="vae-colab" href="{link[0]}">Open in Colab</a></p>\n'
        elif placeholder and PLACEHOLDER in text:
            continue  # the setup cell: it clones a repository that has no address yet
        kept.append(cell)
    notebook["cells"] = kept
    notebook["metadata"].pop("widgets", None)  # progress bars: their scripts come from elsewhere
    # The lexer that knows Jupyter's own lines, such as "!git clone" in the setup cell.
    notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    source[0] = json.dumps(notebook)


# ---------------------------------------------------------------- scripts from elsewhere


def drop_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    def wanted(script: Any) -> bool:
        filename = str(getattr(script, "filename", None) or "")
        body = str((getattr(script, "attributes", None) or {}).get("body") or "")
        return "thebe" not in filename + body and "://" not in filename

    context["script_files"] = [file for file in context.get("script_files", []) if wanted(file)]
    context["css_files"] = [
        file
        for file in context.get("css_files", [])
        if "thebe" not in str(getattr(file, "filename", file))
    ]


# ---------------------------------------------------------------- names documented elsewhere

TORCH = "https://docs.pytorch.org/docs/stable/"
ELSEWHERE = {
    "torch.Tensor": f"{TORCH}tensors.html#torch.Tensor",
    "torch._tensor.Tensor": f"{TORCH}tensors.html#torch.Tensor",
    "torch.Generator": f"{TORCH}generated/torch.Generator.html",
    "torch._C.Generator": f"{TORCH}generated/torch.Generator.html",
    "torch.device": f"{TORCH}tensor_attributes.html#torch.device",
    "torch.dtype": f"{TORCH}tensor_attributes.html#torch.dtype",
    "torch.nn.Module": f"{TORCH}generated/torch.nn.Module.html",
    "torch.nn.modules.module.Module": f"{TORCH}generated/torch.nn.Module.html",
    "torch.distributions.Distribution": f"{TORCH}distributions.html",
    "torch.distributions.distribution.Distribution": f"{TORCH}distributions.html",
    "torch.utils.data.DataLoader": f"{TORCH}data.html#torch.utils.data.DataLoader",
    "torch.utils.data.dataloader.DataLoader": f"{TORCH}data.html#torch.utils.data.DataLoader",
    "numpy.ndarray": "https://numpy.org/doc/stable/reference/generated/numpy.ndarray.html",
    "pandas.DataFrame": "https://pandas.pydata.org/docs/reference/api/pandas.DataFrame.html",
    "pandas.core.frame.DataFrame": (
        "https://pandas.pydata.org/docs/reference/api/pandas.DataFrame.html"
    ),
    "matplotlib.figure.Figure": (
        "https://matplotlib.org/stable/api/figure_api.html#matplotlib.figure.Figure"
    ),
    "matplotlib.axes._axes.Axes": "https://matplotlib.org/stable/api/axes_api.html",
    "matplotlib.axes.Axes": "https://matplotlib.org/stable/api/axes_api.html",
    "pathlib.Path": "https://docs.python.org/3/library/pathlib.html#pathlib.Path",
    "collections.abc.Callable": (
        "https://docs.python.org/3/library/collections.abc.html#collections.abc.Callable"
    ),
}
NOT_OURS = re.compile(
    r"(torch|torchvision|numpy|np|pandas|pd|matplotlib|plt|seaborn|sklearn|scipy|nn|pathlib|collections|typing|"
    r"contextlib|enum|dataclasses|os|PIL|tqdm|Path|Tensor|Callable|Sequence|Mapping|Iterable|Iterator)(\.|$)"
)


def external_reference(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Link a name of another project to its documentation; leave an unlisted one as plain text."""
    if node.get("refdomain") != "py":
        return None
    target = node.get("reftarget", "")
    if target in ELSEWHERE:
        return nodes.reference(
            "", "", contnode, refuri=ELSEWHERE[target], internal=False, reftitle=target
        )
    return contnode if NOT_OURS.match(target) else None


def keep_property(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Before napoleon: it would read "A sum: of all" on a property as a type and a description."""
    if what in {"property", "attribute", "data"}:
        app.env.temp_data[f"vae_docstring {name}"] = list(lines)


def escape_bars(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """After napoleon: give the property's text back; |a| is an absolute value, not reST's markup."""
    lines[:] = app.env.temp_data.pop(f"vae_docstring {name}", lines)
    for i, line in enumerate(lines):
        pieces = line.split("``")
        pieces[::2] = [piece.replace("|", r"\|") for piece in pieces[::2]]
        lines[i] = "``".join(pieces)


# ---------------------------------------------------------------- the table of trained runs


def find(tree: Any, key: str) -> Any:
    """The first value under ``key``, at whatever depth; None where there is none."""
    if isinstance(tree, dict):
        if key in tree:
            return tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            value = find(branch, key)
            if value is not None:
                return value
    return None


def duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\u00a0min {rest}\u00a0s" if minutes else f"{rest}\u00a0s"


def number(value: Any, digits: int = 2) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else "–"


def load_runs(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every readable artifacts/NAME/run.json, in the order of the names."""
    runs = []
    for path in sorted((root / "artifacts").glob("*/run.json")):
        if path.parent.name.startswith((".", "digits-")):
            continue  # half done, or not part of the book
        run = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(run, dict):
            runs.append((path, run))
    return runs


def model_text(run: dict[str, Any]) -> str:
    """The model's printed layers."""
    return str(find(run.get("configuration") or {}, "model"))


def is_discrete(run: dict[str, Any]) -> bool:
    """A VQ-VAE or a prior over its codes: measured by other numbers than a VAE."""
    return model_text(run).startswith(("VQVAE", "GatedPixelCNN"))


def latents(run: dict[str, Any]) -> str:
    """D, from the configuration: a number, or what the model's printed layers say."""
    configuration = run.get("configuration") or {}
    layers = re.search(r"latent_dims=\(([\d, ]+)\)", model_text(run))
    if layers:  # of a hierarchy: from the image's layer to the top
        return " + ".join(re.findall(r"\d+", layers[1]))
    value = find(configuration, "latent_dim")
    if value is None:
        layers = str(find(configuration, "model"))
        match = re.search(r"latent_dim=(\d+)", layers) or re.search(
            r"\(decoder\):.*?in_features=(\d+)", layers, re.DOTALL
        )
        value = match[1] if match else "–"
    return str(value)


COLUMNS = [
    "Run",
    "Likelihood",
    "Latents",
    "Test −ELBO",
    "Reconstruction",
    "KL",
    "Epochs",
    "Training time",
]
DATA = {  # the order on the page, and what each set is called there
    "mnist": "MNIST",
    "mnist-binarized": "MNIST, statically binarized",
    "fashion-mnist": "Fashion-MNIST",
    "textures": "Textures",
    "cifar10-jpeg": "CIFAR-10 (JPEG copy): not CIFAR-10, and no number of it is one",
}


def data_name(run: dict[str, Any]) -> str:
    dataset = run.get("dataset") or {}
    return str(dataset.get("name", "–") if isinstance(dataset, dict) else dataset)


def likelihood(run: dict[str, Any]) -> str:
    """The likelihood's name in words, from the model's printed layers."""
    configuration = run.get("configuration") or {}
    found = re.search(r"\(likelihood\): (\w+)\((.*)\)", str(find(configuration, "model")))
    if found is None:
        return "–"
    name, arguments = found.groups()
    words = {
        "Bernoulli": "Bernoulli",
        "ContinuousBernoulli": "Continuous Bernoulli",
        "Gaussian": "Gaussian",
        "DiscretizedLogistic": "Discretized logistic",
    }.get(name, name)
    if "greys=True" in arguments:
        return "Cross-entropy on greys"
    if name == "Bernoulli" and (configuration.get("settings") or {}).get("transform"):
        return "Bernoulli, dynamic"
    noise = re.search(r"noise='(\w+)'", arguments)
    fixed = re.search(r"[^_]scale=([\d.]+)", arguments)
    if fixed:
        words += f", fixed to {fixed[1]}"
    elif noise:
        words += f", {noise[1]}"
    return words


def describe(path: Path, run: dict[str, Any]) -> list[str]:
    """One run's row: what it is, what it reached, what it cost."""
    metrics = run.get("metrics") or {}
    epochs = find(run.get("configuration"), "epochs")
    elbo, reconstruction, kl = (
        number(metrics.get(f"test_{name}")) for name in ("negative_elbo", "reconstruction", "kl")
    )
    error = metrics.get("test_standard_error")
    if isinstance(error, int | float):  # it belongs to the loss: the bound, where there is one
        if elbo != "–":
            elbo += f"\u00a0±\u00a0{error:.2f}"
        elif reconstruction != "–":
            reconstruction += f"\u00a0±\u00a0{error:.2f}"
    return [
        f"`{run.get('name') or path.parent.name}`",
        likelihood(run),
        latents(run),
        elbo,
        reconstruction,
        kl,
        "–" if epochs is None else str(epochs),
        duration(run.get("seconds")),
    ]


CODE_COLUMNS = [
    "Run",
    "What it is",
    "RMSE",
    "Codes used",
    "Perplexity",
    "Bits a code",
    "Epochs",
    "Training time",
]


def describe_codes(path: Path, run: dict[str, Any]) -> list[str]:
    """The row of a VQ-VAE or of a prior over its codes."""
    metrics = run.get("metrics") or {}
    error, used = metrics.get("test_reconstruction"), metrics.get("test_codes_used")
    what = "VQ-VAE, codebook of moving averages"
    if "decay=None" in model_text(run):
        what = "VQ-VAE, codebook learnt by gradient"
    if model_text(run).startswith("GatedPixelCNN"):
        what = "Gated PixelCNN, prior over the codes"
    return [
        f"`{run.get('name') or path.parent.name}`",
        what,
        number(None if error is None else error**0.5, 3),
        "–" if used is None else f"{used:.0%}",
        number(metrics.get("test_perplexity"), 1),
        number(metrics.get("test_bits")),
        str(find(run.get("configuration"), "epochs")),
        duration(run.get("seconds")),
    ]


def provenance(path: Path, run: dict[str, Any]) -> list[str]:
    """How one run was made: its row in the folded table."""
    metrics, versions = run.get("metrics") or {}, run.get("versions") or {}
    return [
        f"`{run.get('name') or path.parent.name}`",
        str(run.get("seed", "–")),
        str(metrics.get("posterior_samples", "–")),
        str(run.get("device", "–")),
        str(versions.get("torch", "–")),
        str(versions.get("python", "–")),
    ]


def markdown_table(heads: list[str], right: int, rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table whose last ``right`` columns are numbers."""
    rule = ["---"] * (len(heads) - right) + ["---:"] * right
    return ["| " + " | ".join(row) + " |" for row in (heads, rule, *rows)] + [""]


class RunTable(SphinxDirective):
    """``{run-table}``: the committed runs, each number read from its run.json at build time."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        runs = load_runs(root)
        for path, _ in runs:
            self.env.note_dependency(str(path))
        lines = []
        if not runs:
            lines = ["No run is stored here yet. A chapter trains its model where it finds none."]
        codes = [(path, run) for path, run in runs if is_discrete(run)]
        runs = [(path, run) for path, run in runs if not is_discrete(run)]
        known = {data_name(run) for _, run in runs}
        for name in [n for n in DATA if n in known] + sorted(known - set(DATA)):
            group = [(path, run) for path, run in runs if data_name(run) == name]
            lines += [f"**{DATA.get(name, name)}**", ""]
            lines += markdown_table(COLUMNS, 6, [describe(*one) for one in group])
            heads = ["Run", "Seed", "Posterior samples", "Trained on", "torch", "Python"]
            lines += [f":::{{dropdown}} How these were made: {DATA.get(name, name)}", ""]
            lines += markdown_table(heads, 0, [provenance(*one) for one in group])
            lines += [":::", ""]
        if codes:
            name = "Discrete codes of CIFAR-10 (JPEG copy)"
            lines += [f"**{name}**", ""]
            lines += markdown_table(CODE_COLUMNS, 6, [describe_codes(*one) for one in codes])
            heads = ["Run", "Seed", "Trained on", "torch", "Python"]
            rows = [provenance(*one) for one in codes]
            lines += [f":::{{dropdown}} How these were made: {name}", ""]
            lines += markdown_table(heads, 0, [[*row[:2], *row[3:]] for row in rows])
            lines += [":::", ""]
        container = nodes.container(classes=["vae-runs"])
        self.state.nested_parse(StringList(lines, source="run-table"), 0, container)
        return [container]


class ColabNote(SphinxDirective):
    """``{colab-note}``: one line on Colab, once the repository has an address."""

    def run(self) -> list[nodes.Node]:
        url = self.config.vae_repository
        if url == PLACEHOLDER:
            return []
        chapter = f"{COLAB}github/{url.removeprefix('https://github.com/')}/blob/main/notebooks"
        text = (
            f"**In Colab.** [Open chapter 1]({chapter}/01_autoencoder.ipynb), or press *Open in "
            "Colab* at the top of any chapter. Its first cell installs the package."
        )
        container = nodes.container()
        self.state.nested_parse(StringList([text], source="colab-note"), 0, container)
        return list(container.children)


# ---------------------------------------------------------------- the bibliography


class AuthorYear(BaseLabelStyle):
    """Labels such as "Kingma and Welling, 2013"."""

    def format_labels(self, entries: Any) -> Any:
        labels = [self.label(entry) for entry in entries]
        seen: dict[str, int] = {}
        for label in labels:
            if labels.count(label) == 1:
                yield label
                continue
            seen[label] = seen.get(label, 0) + 1  # two of one year: 2016a, 2016b
            yield label + "abcdefgh"[seen[label] - 1]

    def label(self, entry: Any) -> str:
        people = entry.persons.get("author", [])
        names = [" ".join(map(str, person.prelast_names + person.last_names)) for person in people]
        if len(names) > 2:
            names = [names[0] + " et al."]
        return " and ".join(names).replace("{", "").replace("}", "") + f", {entry.fields['year']}"


class BookStyle(UnsrtStyle):
    default_sorting_style = "author_year_title"
    default_label_style = "vae_author_year"


@dataclass
class RoundBrackets(AuthorYearReferenceStyle):
    """Kingma and Welling (2013), and (Kingma and Welling, 2013)."""

    bracket_parenthetical: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))
    bracket_textual: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))
    bracket_author: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))
    bracket_label: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))
    bracket_year: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))


# ---------------------------------------------------------------- the finished HTML


def mend(soup: BeautifulSoup) -> None:
    """What axe finds in the theme's pages, put right. Safe to apply twice."""
    # A visible name must be part of the accessible name: the tooltip becomes the name.
    for control in soup.select("[aria-label]"):
        visible = control.get_text(" ", strip=True)
        if visible and visible.lower() not in control["aria-label"].lower():
            del control["aria-label"]
    for dropdown in soup.select(".search-button-field"):
        dropdown["aria-label"] = "Search (Ctrl + K)"
        for key in dropdown.select("kbd, .kbd-shortcut__modifier"):
            key["aria-hidden"] = "true"
        for text in dropdown.select(".search-button__default-text"):
            text.string = "Search"
    # Everything on a page lies in a landmark.
    top = soup.select_one("#pst-back-to-top")
    if top is not None:
        main = soup.select_one("main")
        if main is not None:
            main.append(top.extract())
    sidebar = soup.select_one("#pst-primary-sidebar")
    if sidebar is not None:
        sidebar["role"] = "complementary"
        sidebar["aria-label"] = "Book"
    for summary in soup.select("summary"):
        if not summary.get_text(strip=True):  # the sidebar's arrows
            link = summary.find_previous("a")
            summary["aria-label"] = "Pages under " + (link.get_text(strip=True) if link else "this")
    # The bibliography is marked as a list whose entries are not list items.
    for entry in soup.select('[role="doc-biblioentry"]'):
        del entry["role"]
    for bibliography in soup.select('[role="list"]'):
        if bibliography.select_one(".citation"):
            del bibliography["role"]
    for heading in soup.select("th"):
        if not heading.get_text(strip=True) and heading.find(True) is None:
            heading.name = "td"  # the corner of a data frame
    # What is wider than the page scrolls by itself, by keyboard, too.
    for count, table in enumerate(soup.select("article table"), start=1):
        box = table.parent
        if not {"pst-scrollable-table-container", "vae-scroll"} & set(box.get("class", [])):
            box = table.wrap(soup.new_tag("div"))
        heading = table.find("caption") or table.find_previous(["h1", "h2", "h3", "h4"])
        label = heading.get_text(" ", strip=True).rstrip("#¶ ") if heading else ""
        box["class"] = sorted({*box.get("class", []), "vae-scroll"})
        box["tabindex"], box["role"] = "0", "region"
        box["aria-label"] = f"Table {count}: {label}"
    # A folded solution says so.
    for cell in soup.select("div.cell.tag_hide-cell"):
        heading = cell.find_previous(["h2", "h3", "h4"])
        code = cell.find("pre")
        solution = "tag_solution" in cell["class"] or (
            "solution" in (code.get_text()[:80].lower() if code else "")
            or "exercise" in (heading.get_text().lower() if heading else "")
        )
        what = "a solution" if solution else "the code and its output"
        for word, line in zip(("Show", "Hide"), cell.select("summary > p"), strict=False):
            line.string = f"{word} {what}"
    # Nothing of the live kernels that this book does not use.
    for script in soup.select("article script"):
        if script.get("type") == "text/x-thebe-config" or "kernelName" in script.get_text():
            script.decompose()
    name_page(soup)


def name_page(soup: BeautifulSoup) -> None:
    """A title that does not repeat itself, and a description in words, without TeX."""
    if soup.head is None or soup.title is None:
        return
    title, _, book = soup.title.get_text().partition(" — ")
    if title == book:
        soup.title.string = title
    found = soup.head.select_one('meta[name="description"]')
    description = found["content"] if found else ""
    if len(description) < 50 or "\\" in description:
        words = []
        for paragraph in soup.select("article p"):
            if paragraph.find_parent(["table", "nav", "details", "figure"]) is None:
                if paragraph.select_one(".math"):
                    break
                words += paragraph.get_text(" ").split()
        text = " ".join(words)
        if len(text) > 200:
            text = text[:200].rsplit(" ", 1)[0] + " …"
        description = text if len(text) >= 50 else f"{title}. {DESCRIPTION}"
        for tag in soup.head.select('meta[name="description"], meta[property="og:description"]'):
            tag.decompose()
        for key, value in (("name", "description"), ("property", "og:description")):
            soup.head.append(soup.new_tag("meta", attrs={key: value, "content": description}))


def leave_out_gone_pages(app: Sphinx, out: Path) -> None:
    """A page whose source is gone stays behind in an incremental build: take it away."""
    for folder in ("book", "notebooks"):
        for path in (out / folder).rglob("*.html"):
            if path.relative_to(out).with_suffix("").as_posix() not in app.env.found_docs:
                path.unlink()


def finish(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    leave_out_gone_pages(app, out)
    for path in sorted(out.rglob("*.html")):
        if path.relative_to(out).parts[0] in {"_static", "_sources", "mathjax"}:
            continue
        text = path.read_text(encoding="utf-8")
        soup = BeautifulSoup(text, "html.parser")
        mend(soup)
        path.write_text(str(soup), encoding="utf-8")
    first = app.config.root_doc + ".html"
    (out / "index.html").write_text(
        f"""<!DOCTYPE html>
<html lang="{app.config.language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{app.config.html_title or app.config.project}</title>
<meta name="description" content="{DESCRIPTION}">
<meta http-equiv="refresh" content="0; url={first}">
<link rel="icon" href="_static/favicon.svg">
</head>
<body><main><h1>{app.config.html_title or app.config.project}</h1>
<p><a href="{first}">Open the book</a></p></main></body>
</html>
""",
        encoding="utf-8",
    )


def setup(app: Sphinx) -> dict[str, Any]:
    register_plugin("pybtex.style.labels", "vae_author_year", AuthorYear)
    register_plugin("pybtex.style.formatting", "vae", BookStyle)
    register_citation_style("sphinxcontrib.bibtex.style.referencing", "vae", RoundBrackets)
    app.add_config_value("vae_repository", PLACEHOLDER, "env")
    app.add_directive("run-table", RunTable)
    app.add_directive("colab-note", ColabNote)
    app.connect("config-inited", set_repository)
    app.connect("source-read", rewrite_notebook)
    app.connect("html-page-context", drop_scripts, priority=900)
    app.connect("missing-reference", external_reference)
    app.connect("autodoc-process-docstring", keep_property, priority=100)
    app.connect("autodoc-process-docstring", escape_bars, priority=900)
    app.connect("build-finished", finish, priority=900)
    # A changed extension makes every page anew, in an incremental build, too.
    version = zlib.crc32(Path(__file__).read_bytes())
    return {
        "version": "1",
        "env_version": version,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
