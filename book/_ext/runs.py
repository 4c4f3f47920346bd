"""``{run-table}``: the committed runs, each number read from its run.json when the page is made."""

import inspect
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from contents import MarkdownDirective
from package import build
from sphinx.application import Sphinx

Run = dict[str, Any]
NOTHING = "–"
DATA = {  # what a data set is called on the page, in the order there; others follow
    "mnist": "MNIST",
    "mnist-binarized": "MNIST, statically binarized",
    "fashion-mnist": "Fashion-MNIST",
    "textures": "Textures",
    "cifar10": "CIFAR-10",
}
WORDS = {  # for the name of a class, where it is not clear enough
    "ContinuousBernoulli": "Continuous Bernoulli",
    "DiscretizedGaussian": "Discretized Gaussian",
    "DiscretizedLogistic": "Discretized logistic",
    "VQVAE": "VQ-VAE",
    "GatedPixelCNN": "Gated PixelCNN, prior over the codes",
}


def stored(root: Path) -> list[Path]:
    """Every artifacts/DATA/RUN/run.json that .gitignore lets in, in the order of the names."""
    lines = (root / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignored = [line.rstrip("/") for line in lines if line.startswith("artifacts/")]
    return [
        path
        for path in sorted(root.glob("artifacts/*/*/run.json"))
        if not any(f.match(glob) for f in path.relative_to(root).parents for glob in ignored)
    ]


def find(tree: Any, key: str) -> Any:
    """The first value under ``key``, at whatever depth; None where there is none."""
    if isinstance(tree, dict) and key in tree:
        return tree[key]
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return next((value for b in branches if (value := find(b, key)) is not None), None)


def in_words(spec: dict) -> str:
    name = spec["class"].rpartition(".")[2]
    return WORDS.get(name, name)


# ---------------------------------------------------------------- what stands in a column


def run_name(run: Run) -> str:
    """DATA/RUN, which may break behind the slash alone: the table is wider than the page."""
    data, _, name = run["name"].partition("/")
    name = f'{data}/<wbr><span style="white-space: nowrap">{name}</span>'
    return f'<code class="docutils literal" style="white-space: normal">{name}</code>'


def likelihood(run: Run) -> str:
    """The likelihood in words, with what tells it from others of its kind."""
    spec = find(run["identity"]["model"], "likelihood")
    if spec is None:
        return NOTHING
    if spec.get("greys"):
        return "Cross-entropy on greys"
    words, more = in_words(spec), spec.get("noise")
    drawn = run["identity"]["settings"]["prepare"] == {"import": "likelihoods.binarize"}
    if words == "Bernoulli" and drawn:
        more = "dynamic"
    elif spec.get("scale") is not None:
        more = f"fixed to {spec['scale']}"
    return f"{words}, {more}" if more else words


def latents(run: Run) -> str:
    """D; of a hierarchy, from the image's layer to the top; of an autoencoder, its code's size."""
    model = run["identity"]["model"]
    sizes = find(model, "latent_dims") or find(model, "latent_dim")
    sizes = sizes or find(model.get("encoder"), "out_shape") or [NOTHING]
    return " + ".join(map(str, sizes if isinstance(sizes, list) else [sizes]))


def discrete(run: Run) -> str:
    """A VQ-VAE or a prior over its codes, in words."""
    model = run["identity"]["model"]
    if quantizer := model.get("quantizer"):
        learnt = "learnt by gradient" if quantizer["decay"] is None else "of moving averages"
        return f"{in_words(model)}, codebook {learnt}"
    return in_words(model)


def metric(run: Run, name: str, show: str = "{:,.2f}", power: float = 1) -> str:
    """A metric on test images as ``show`` writes its mean, to this power, and its standard error."""
    mean, error = run["metrics"].get(f"test_{name}", (None, None))
    return NOTHING if mean is None else show.format(mean**power, error)


def has_bound(run: Run) -> bool:
    return "test_negative_elbo" in run["metrics"]


def duration(run: Run) -> str:
    minutes, rest = divmod(round(run["seconds"]), 60)
    return f"{minutes}\u00a0min {rest}\u00a0s" if minutes else f"{rest}\u00a0s"


def samples(run: Run) -> str:
    """Draws from each posterior in the test: the measure's own number, or its objective's."""
    measure = run["identity"]["measure"]
    if (number := find(measure, "samples")) is None:
        try:
            objective = build(find(measure, "objective") or run["identity"]["objective"])
            number = inspect.signature(objective).parameters["samples"].default
        except (KeyError, ValueError):  # it draws none, or is a notebook's own function
            return NOTHING
    return str(number)


Columns = dict[str, Callable[[Run], str]]
WITH_ERROR = "{:,.2f}\u00a0±\u00a0{:.2f}"
BOUNDS: Columns = {
    "Run": run_name,
    "Likelihood": likelihood,
    "Latents": latents,
    "Test −ELBO": lambda run: metric(run, "negative_elbo", WITH_ERROR),
    "Reconstruction": lambda run: metric(
        run, "reconstruction", "{:,.2f}" if has_bound(run) else WITH_ERROR
    ),
    "KL": lambda run: metric(run, "kl"),
    "Epochs": lambda run: str(run["identity"]["settings"]["epochs"]),
    "Training time": duration,
}
CODES: Columns = {
    "Run": run_name,
    "What it is": discrete,
    "RMSE": lambda run: metric(run, "reconstruction", "{:.3f}", power=0.5),
    "Codes used": lambda run: metric(run, "codes_used", "{:.0%}"),
    "Perplexity": lambda run: metric(run, "perplexity", "{:.1f}"),
    "Bits per code": lambda run: metric(run, "bits"),
    "Epochs": lambda run: str(run["identity"]["settings"]["epochs"]),
    "Training time": duration,
}
MADE: Columns = {
    "Run": run_name,
    "Seed": lambda run: str(run["identity"]["settings"]["seed"]),
    "Posterior samples": samples,
    "Trained on": lambda run: run["device"],
    "torch": lambda run: run["versions"]["torch"],
    "Python": lambda run: run["versions"]["python"],
}

# ---------------------------------------------------------------- the tables


def table(columns: Columns, left: int, runs: list[Run]) -> list[str]:
    """Markdown; columns after the first ``left`` are numbers. One that says nothing is left out."""
    cells = {head: [column(run) for run in runs] for head, column in columns.items()}
    cells = {head: column for head, column in cells.items() if set(column) != {NOTHING}}
    rule = ["---" if i < left else "---:" for i in range(len(cells))]
    rows = [list(cells), rule, *zip(*cells.values(), strict=True)]
    return [*(f"| {' | '.join(row)} |" for row in rows), ""]


def section(title: str, columns: Columns, runs: list[Run]) -> list[str]:
    """The runs under one title, and how they were made, folded."""
    folded = [f":::{{dropdown}} How these were made: {title}", "", *table(MADE, len(MADE), runs)]
    return [f"**{title}**", "", *table(columns, 2, runs), *folded, ":::", ""] if runs else []


def tables(runs: list[Run]) -> list[str]:
    """The page's lines: a group for each data set, then the discrete codes."""
    groups, codes = {name: [] for name in DATA}, []
    for run in runs:
        data = run["identity"]["data"]["name"]
        discrete = likelihood(run) == NOTHING and not has_bound(run)
        (codes if discrete else groups.setdefault(data, [])).append(run)
    sections = [section(DATA.get(data, data), BOUNDS, group) for data, group in groups.items()]
    sections += [section("Discrete codes of CIFAR-10", CODES, codes)]
    return list(chain(*sections)) or [
        "No run is stored here yet. A chapter trains its model where it finds none."
    ]


class RunTable(MarkdownDirective):
    def markdown(self) -> str:
        found = [json.loads(self.read(path)) for path in stored(self.root)]
        return "\n".join(["::::{container} vae-runs", "", *tables(found), "::::"])


def setup(app: Sphinx) -> None:
    app.add_directive("run-table", RunTable)
