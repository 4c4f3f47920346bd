"""``{run-table}``: committed runs that answer one question, read from their run.json files.

    ```{run-table} mnist/beta-*  mnist/vae-2d
    ```

Each argument is a pattern of names. Runs that differ in nothing but their seed share a row.

``{nats}`mnist/iwae-50` `` is the measured -log p(x) of a run, with its standard error, read from the
likelihood.json beside it.
"""

import inspect
import json
import re
import statistics
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from contents import MarkdownDirective
from docutils import nodes
from package import build
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

Run = dict[str, Any]
NOTHING = "–"
WORDS = {  # for the name of a class, where it is not clear enough
    "NegativeBinomial": "Negative binomial",
    "Observed": "Gaussian, of known entries",
    "GridEncoder": "fully convolutional",
    "SharpDecoder": "Decoder trained on",
    "BetaBinomial": "Beta-binomial",
    "ContinuousBernoulli": "Continuous Bernoulli",
    "DiscretizedGaussian": "Discretized Gaussian",
    "DiscretizedLogistic": "Discretized logistic",
    "VQVAE": "VQ-VAE",
    "TwoLevelVQVAE": "VQ-VAE on two levels",
    "CodeTransformer": "Transformer",
    "FlowMatching": "Flow matching",
    "GatedPixelCNN": "Gated PixelCNN",
    "LadderVAE": "Ladder VAE",
    "HierarchicalVAE": "Plain hierarchy",
    "StackedFlow": "Stacked autoregressive flows",
    "AutoregressiveFlow": "Autoregressive flow",
    "MixtureOfGaussians": "Mixture of Gaussians",
    "FullCovarianceGaussian": "Full-covariance Gaussian",
    "SemiSupervisedVAE": "M2",
    "LabelledMLP": "conditional MLP",
    "ConvEncoder": "convolutional",
    "PooledConv": "pooled convolutions",
    "ResidualEncoder": "residual",
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


def one_of(runs: list[Run]) -> str:
    """DATA/RUN, which may break behind the slash alone; of several runs what their names share."""
    name = min((run["name"] for run in runs), key=len)
    if not all(run["name"].startswith(name) for run in runs):
        name = re.sub(r"-\d+$", "", name)
    data, _, name = name.partition("/")
    name = f'{data}/<wbr><span style="white-space: nowrap">{name}</span>'
    return f'<code class="docutils literal" style="white-space: normal">{name}</code>'


def model(run: Run) -> str:
    """What the model is, in words: its kind where that is no VAE, its network, what is special."""
    spec = run["identity"]["model"]
    if quantizer := spec.get("quantizer"):
        if levels := quantizer.get("levels"):
            return f"{in_words(spec)}, lattice of {' · '.join(map(str, levels))}"
        return f"{in_words(spec)}, codebook " + (
            "learnt by gradient" if quantizer["decay"] is None else "of moving averages"
        )
    if "encoder" not in spec:
        words = in_words(spec)
        return words[0].upper() + words[1:]
    words = [] if "posterior" in spec["encoder"] else ["Autoencoder"]
    network = find(spec["encoder"], "network") or spec["encoder"]
    network = network.get("network", network)  # behind what prepares the counts
    widths = network["channels"] if "channels" in network else network.get("hidden", [])
    words.append(f"{in_words(network)} {'-'.join(map(str, widths))}".strip())
    for part, usual in (("posterior", "MeanFieldGaussian"), ("prior", "StandardNormal")):
        found = find(spec, part)
        if found and not found["class"].endswith(usual):
            words.append(f"{in_words(found).lower()} as {part}")
    return ", ".join(words)


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


def metric(runs: list[Run], name: str, show: str = "{:,.2f}", power: float = 1) -> str:
    """A metric on test images as ``show`` writes its mean, to this power, and its standard error.

    The error is over images for one run, over seeds for several.
    """
    found = [run["metrics"][f"test_{name}"] for run in runs if f"test_{name}" in run["metrics"]]
    if not found:
        return NOTHING
    values, error = [mean**power for mean, _ in found], found[0][1]
    if len(values) > 1:
        error = statistics.stdev(values) / len(values) ** 0.5
    elif power != 1:
        error = None  # that of a power is another
    if error is None:
        show = show.partition("\u00a0±")[0]
    return show.format(statistics.mean(values), error)


def has_bound(run: Run) -> bool:
    return "test_negative_elbo" in run["metrics"]


def duration(runs: list[Run]) -> str:
    minutes, rest = divmod(round(statistics.median(run["seconds"] for run in runs)), 60)
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


Columns = dict[str, Callable[[list[Run]], str]]
WITH_ERROR = "{:,.2f}\u00a0±\u00a0{:.2f}"
LEFT = 4  # columns of words; what follows are numbers
COMMON = ("Seeds", "Model", "Likelihood", "Latents", "Epochs", "Posterior samples", "Trained on",
          "torch", "Python")  # fmt: skip
SHOWN: Columns = {
    "Run": one_of,
    "Seeds": lambda runs: str(len(runs)),
    "Model": lambda runs: model(runs[0]),
    "Likelihood": lambda runs: likelihood(runs[0]),
    "Latents": lambda runs: latents(runs[0]),
    "Test −ELBO": lambda runs: metric(runs, "negative_elbo", WITH_ERROR),
    "Reconstruction": lambda runs: (
        metric(runs, "reconstruction", "{:,.2f}" if has_bound(runs[0]) else WITH_ERROR)
        if "test_codes_used" not in runs[0]["metrics"]
        else NOTHING
    ),
    "KL": lambda runs: metric(runs, "kl"),
    "Nats saved": lambda runs: metric(runs, "saved", WITH_ERROR),
    "RMSE": lambda runs: (
        metric(runs, "reconstruction", "{:.3f}\u00a0±\u00a0{:.3f}", power=0.5)
        if "test_codes_used" in runs[0]["metrics"]
        else NOTHING
    ),
    "Squared error": lambda runs: metric(runs, "squared", WITH_ERROR),
    "Absolute error": lambda runs: metric(runs, "absolute", WITH_ERROR),
    "Regression loss": lambda runs: metric(runs, "loss", WITH_ERROR),
    "Classes wrong": lambda runs: metric(runs, "error", "{:.1%}\u00a0±\u00a0{:.1%}"),
    "Codes used": lambda runs: metric(runs, "codes_used", "{:.0%}"),
    "Perplexity": lambda runs: metric(runs, "perplexity", "{:.1f}"),
    "Bits per code": lambda runs: metric(runs, "bits", "{:.3f}\u00a0±\u00a0{:.3f}"),
    "Errors": lambda runs: metric(runs, "error", "{:.1%}\u00a0±\u00a0{:.1%}"),
}
MADE: Columns = {
    "Run": one_of,
    "Seeds": lambda runs: ", ".join(str(run["identity"]["settings"]["seed"]) for run in runs),
    "Epochs": lambda runs: str(runs[0]["identity"]["settings"]["epochs"]),
    "Time per run": duration,
    "Posterior samples": lambda runs: samples(runs[0]),
    "Trained on": lambda runs: " / ".join(sorted({run["device"] for run in runs})),
    "torch": lambda runs: " / ".join(sorted({run["versions"]["torch"] for run in runs})),
    "Python": lambda runs: " / ".join(sorted({run["versions"]["python"] for run in runs})),
}

# ---------------------------------------------------------------- the tables


def alike(a: Any, b: Any) -> bool:
    """Whether two identities agree but for the seed, and options that one is too old to name.

    Codes of a model differ with its seed: the data's checksum counts as little as that.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return all(alike(a[key], b[key]) for key in a.keys() & b.keys() - {"seed", "sha256"})
    return a == b


def names(run: Run) -> set[str]:
    """A run's name, with the number behind it and without."""
    return {run["name"], re.sub(r"-\d+$", "", run["name"])}


def rows(runs: list[Run]) -> list[list[Run]]:
    """Runs in their order, those that differ in the seed alone side by side in one row."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            first = group[0]
            if names(run) & names(first) and alike(run["identity"], first["identity"]):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def table(columns: Columns, left: int, groups: list[list[Run]]) -> list[str]:
    """Markdown; columns after the first ``left`` are numbers. One that says nothing is left out.

    What all rows have in common is said once, above.
    """
    cells = {head: [column(group) for group in groups] for head, column in columns.items()}
    cells = {head: column for head, column in cells.items() if set(column) != {NOTHING}}
    alike = [h for h in COMMON if h in cells and len(groups) > 1 and len(set(cells[h])) == 1]
    common = [f"{head.lower()}: {cells.pop(head)[0]}" for head in alike]
    words = [head for head in [*columns][:left] if head in cells]
    rule = ["---" if head in words else "---:" for head in cells]
    lines = [list(cells), rule, *zip(*cells.values(), strict=True)]
    said = [f"All rows: {'; '.join(common)}.", ""] if common else []
    return [*said, *(f"| {' | '.join(line)} |" for line in lines), ""]


def tables(runs: list[Run]) -> list[str]:
    """What the runs reached, and, folded, how they were made."""
    if not runs:
        return ["No run is stored here yet. A chapter trains its model where it finds none."]
    groups = rows(runs)
    folded = [":::{dropdown} How these were made", "", *table(MADE, len(MADE), groups), ":::"]
    return [*table(SHOWN, LEFT, groups), *folded, ""]


class RunTable(MarkdownDirective):
    required_arguments, optional_arguments, final_argument_whitespace = 1, 0, True

    def markdown(self) -> str:
        found = [json.loads(self.read(path)) for path in stored(self.root)]
        patterns = self.arguments[0].split()
        chosen = [run for p in patterns for run in found if fnmatch(run["name"], p)]
        return "\n".join(["::::{container} vae-runs", "", *tables(chosen), "::::"])


def nats(root: Path, name: str) -> str:
    """-L_S per image for the largest S that is stored, with the standard error of its blocks."""
    bounds = json.loads((root / "artifacts" / name / "likelihood.json").read_text())["bounds"]
    blocks = bounds[max(bounds, key=int)]
    error = statistics.stdev(blocks) / len(blocks) ** 0.5
    return f"{-statistics.mean(blocks):.2f} ± {error:.2f}"


class Nats(SphinxRole):
    """``{nats}`DATA/RUN` ``: see the head of this module."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(root / "artifacts" / self.text / "likelihood.json"))
        return [nodes.Text(nats(root, self.text))], []


def setup(app: Sphinx) -> None:
    app.add_directive("run-table", RunTable)
    app.add_role("nats", Nats())
