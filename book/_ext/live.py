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

FIGURES = {  # the tag of a cell: the runs whose planes stand there
    "live-codes": ["mnist/ae-2d", "mnist/vae-2d"],
    "live-plane": ["mnist/vae-2d"],
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
    tensors = load_file(folder / "model.safetensors")
    prefix, suffix = "decoder.network.layers.", ".weight"
    named = [name for name in tensors if name.startswith(prefix) and name.endswith(suffix)]
    named.sort(key=lambda name: int(name.removeprefix(prefix).removesuffix(suffix)))
    between = ACTIVATIONS[spec["network"]["activation"]["import"]]
    layers, numbers = [], []
    for name in named:
        weight, bias = tensors[name], tensors[name.removesuffix(suffix) + ".bias"]
        outputs, inputs = weight.shape
        activation = "sigmoid" if name == named[-1] else between
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
    header = json.dumps(about, separators=(",", ":")).encode()
    header += b" " * (len(header) % 2)  # numbers of two bytes begin at an even place
    return struct.pack("<I", len(header)) + header + np.concatenate(numbers).tobytes()


def mark(soup: BeautifulSoup, static: str) -> None:
    """Say on the page which figures come alive, and load the script where there is one."""
    found = soup.select("img.vae-hero")
    for tag, runs in FIGURES.items():
        for cell in soup.select(f".tag_{tag}"):
            cell["data-live"] = " ".join(run.rpartition("/")[2] for run in runs)
            found.append(cell)
    if found and not soup.select_one(f'script[src$="{SCRIPT}"]'):
        attributes = {"type": "module", "src": static + SCRIPT}
        soup.head.append(soup.new_tag("script", attrs=attributes))


def write(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir) / "live"
        for run in sorted({run for runs in FIGURES.values() for run in runs}):
            (folder / f"{run.rpartition('/')[2]}.bin").write_bytes(packed(Path(app.srcdir), run))
        (folder / "codes.json").unlink(missing_ok=True)  # its points lie in those files


def setup(app: Sphinx) -> None:
    app.connect("build-finished", write)
