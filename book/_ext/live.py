"""Figures under the reader's hand: the decoders of committed runs, as files that the page can read.

A cell that is tagged ``live-NAME`` shows its stored figure; where scripts run, the figure NAME of
:data:`FIGURES` takes its place. ``book/_extra/live/live.js`` draws it. Here its networks are
written beside that script: a header in JSON, then the weights in half precision, as they are stored.
"""

import json
import struct
from pathlib import Path

import numpy as np
from bs4 import BeautifulSoup
from safetensors.numpy import load_file
from sphinx.application import Sphinx

FIGURES = {  # the tag of a cell: the kind of figure (a script KIND.js), and its runs
    "live-codes": ("planes", ["mnist/ae-2d", "mnist/vae-2d"]),
    "live-plane": ("planes", ["mnist/vae-2d"]),
    "live-rate": ("rate", [f"mnist/beta-{b:g}" for b in (0.1, 0.25, 0.5, 1, 2, 4, 8)]),
    "live-toy": ("toy", [f"{name}/vae" for name in ("mixture", "ring", "pinwheel")]),
}
SCRIPT = "live/live.js"
ACTIVATIONS = {"torch.nn.SiLU": "silu", "torch.nn.ReLU": "relu", "torch.nn.Tanh": "tanh"}


def decoder(folder: Path) -> tuple[list[dict], list[np.ndarray]]:
    """A decoder of Bernoulli pixel means: its layers in words, and their numbers in half precision.

    Raises:
        ValueError: where the run's decoder is another one than a chain of linear layers.
    """
    model = json.loads((folder / "run.json").read_text(encoding="utf-8"))["identity"]["model"]
    spec = model["decoder"]
    kinds = spec["network"]["class"], spec["likelihood"]["class"]
    if kinds != ("networks.MLP", "likelihoods.Bernoulli"):
        raise ValueError(
            f"{folder}: live.js knows chains of layers and Bernoulli means, not {kinds}"
        )
    return chain(folder, "decoder", spec, "sigmoid")


def chain(folder: Path, part: str, spec: dict, last: str) -> tuple[list[dict], list[np.ndarray]]:
    """The linear layers of a run's encoder or decoder, as :func:`decoder` gives them."""
    tensors = load_file(folder / "model.safetensors")
    prefix, suffix = f"{part}.network.layers.", ".weight"
    named = [name for name in tensors if name.startswith(prefix) and name.endswith(suffix)]
    named.sort(key=lambda name: int(name.removeprefix(prefix).removesuffix(suffix)))
    between = ACTIVATIONS[spec["network"]["activation"]["import"]]
    layers, numbers = [], []
    for name in named:
        weight, bias = tensors[name], tensors[name.removesuffix(suffix) + ".bias"]
        outputs, inputs = weight.shape
        activation = last if name == named[-1] else between
        layers.append({"inputs": inputs, "outputs": outputs, "activation": activation})
        numbers += [weight.astype("<f2").ravel(), bias.astype("<f2")]
    return layers, numbers


def packed(root: Path, run: str) -> bytes:
    """The file of one run: what live.js's ``parse`` reads."""
    known = json.loads((root / "book" / "_extra" / "live" / "codes.json").read_text("utf-8"))
    codes = dict(known["planes"][run])
    layers, numbers = decoder(root / "artifacts" / run)
    about = {
        "title": codes.pop("title"),
        "palette": known["palette"],
        "codes": codes,
        "layers": layers,
    }
    return filed(about, numbers)


def filed(about: dict, numbers: list[np.ndarray]) -> bytes:
    """A header and its numbers, one behind the other."""
    header = json.dumps(about, separators=(",", ":")).encode()
    header += b" " * (len(header) % 2)  # numbers of two bytes begin at an even place
    return struct.pack("<I", len(header)) + header + np.concatenate(numbers).tobytes()


def on_curve(folder: Path) -> list[float]:
    """Where a run lies in the plane of rate and distortion: beta, and its two test means in nats."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    beta = run["identity"]["settings"]["schedules"]["beta"]["value"]
    means = (run["metrics"][name][0] for name in ("test_kl", "test_reconstruction"))
    return [beta, *(round(mean, 2) for mean in means)]


def whole(root: Path, run: str) -> bytes:
    """Encoder and decoder of one run, as rate.js reads them, and where all its curve's runs lie.

    Raises:
        ValueError: where the encoder is another one than a chain of layers to a mean-field Gaussian.
    """
    folder = root / "artifacts" / run
    model = json.loads((folder / "run.json").read_text(encoding="utf-8"))["identity"]["model"]
    spec = model["encoder"]
    kinds = spec["network"]["class"], spec["posterior"]["class"]
    if kinds != ("networks.MLP", "posteriors.MeanFieldGaussian"):
        raise ValueError(f"{folder}: rate.js knows layers to means and log-variances, not {kinds}")
    encoder, numbers = chain(folder, "encoder", spec, "none")
    decoded, more = decoder(folder)
    decoded[-1]["activation"] = "none"  # logits, of which the cost of an image is exact
    about = {
        "curve": [on_curve(root / "artifacts" / name) for name in FIGURES["live-rate"][1]],
        "bound": spec["posterior"]["log_variance_bound"],
        "encoder": len(encoder),
        "layers": encoder + decoded,
    }
    return filed(about, numbers + more)


def points(root: Path, run: str) -> bytes:
    """Encoder and decoder of a toy set's run, as toy.js reads them, and points of the set.

    Raises:
        ValueError: where they are others than chains of layers to two Gaussians.
    """
    folder, name = root / "artifacts" / run, run.partition("/")[0]
    model = json.loads((folder / "run.json").read_text(encoding="utf-8"))["identity"]["model"]
    posterior, likelihood = model["encoder"]["posterior"], model["decoder"]["likelihood"]
    networks = [model[part]["network"]["class"] for part in ("encoder", "decoder")]
    kinds = (*networks, posterior["class"], likelihood["class"])
    if kinds != (*2 * ["networks.MLP"], "posteriors.MeanFieldGaussian", "likelihoods.Gaussian") or (
        likelihood["noise"] != "pixelwise" or likelihood["bounded_mean"]
    ):
        raise ValueError(f"{folder}: toy.js knows layers to two mean-field Gaussians, not {kinds}")
    encoder, numbers = chain(folder, "encoder", model["encoder"], "none")
    decoded, more = chain(folder, "decoder", model["decoder"], "none")
    live = root / "book" / "_extra" / "live"
    about = {
        **json.loads((live / "toy.json").read_text("utf-8"))[name],
        "palette": json.loads((live / "codes.json").read_text("utf-8"))["palette"],
        "bound": posterior["log_variance_bound"],
        "scales": [likelihood["smallest_scale"], likelihood["largest_scale"]],
        "encoder": len(encoder),
        "layers": encoder + decoded,
    }
    return filed(about, numbers + more)


PACKED = {"planes": packed, "rate": whole, "toy": points}  # what a kind of figure reads of a run


def named(run: str) -> str:
    """What a run's file is called: several sets have a run of the same name."""
    return run.removeprefix("mnist/").replace("/", "-")


def mark(soup: BeautifulSoup, static: str) -> None:
    """Say on the page which figures come alive, and load the script where there is one."""
    found = soup.select("img.vae-hero")
    for tag, (kind, runs) in FIGURES.items():
        for cell in soup.select(f".tag_{tag}"):
            cell["data-live"] = kind
            cell["data-runs"] = " ".join(map(named, runs))
            found.append(cell)
    if found and not soup.select_one(f'script[src$="{SCRIPT}"]'):
        attributes = {"type": "module", "src": static + SCRIPT}
        soup.head.append(soup.new_tag("script", attrs=attributes))


def write(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir) / "live"
        for kind, run in sorted({(kind, run) for kind, runs in FIGURES.values() for run in runs}):
            content = PACKED[kind](Path(app.srcdir), run)
            (folder / f"{named(run)}.bin").write_bytes(content)
        (folder / "toy.json").unlink(missing_ok=True)
        (folder / "codes.json").unlink(missing_ok=True)  # its points lie in those files


def setup(app: Sphinx) -> None:
    app.connect("build-finished", write)
