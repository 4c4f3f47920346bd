"""Figures under the reader's hand: the decoders of committed runs, as files that the page can read.

A cell that is tagged ``live-NAME`` shows its stored figure; where scripts run, the figure NAME of
:data:`FIGURES` takes its place. ``book/_extra/live/live.js`` draws it. Here its networks are
written beside that script: a header in JSON, then the weights in half precision, as they are stored.
"""

import base64
import json
import struct
from collections.abc import Callable
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
    "live-paint": ("paint", ["fashion-mnist/vqvae"]),
    "live-ellipse": ("ellipse", ["mnist/mean-field-0"]),
}
KEPT = FIGURES.keys() - {"live-plane"}  # stand below the stored figure, and do not take its place
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


def alphabet(root: Path, run: str) -> bytes:
    """A VQ-VAE's codebook and decoder, and what tools/make_symbols.py has written about them.

    Every layer but the first (a look-up) is a convolution. Its weights go to the file in the order
    (kernel's row, column, input, output), in which the page's loops read them.

    Raises:
        ValueError: where the run is another model, or has been trained again since.
    """
    spec = json.loads((root / "artifacts" / run / "run.json").read_text("utf-8"))
    model = spec["identity"]["model"]
    if model["class"] != "models.vqvae.VQVAE":
        raise ValueError(f"{run}: paint.js knows the decoder of a VQ-VAE, not {model['class']}")
    known = json.loads((root / "book" / "_extra" / "live" / "symbols.json").read_text("utf-8"))
    about = dict(known[run])
    if about.pop("weights") != spec["weights_sha256"]:
        raise ValueError(f"{run} has other weights than symbols.json: run tools/make_symbols.py")
    tensors = load_file(root / "artifacts" / run / "model.safetensors")
    codebook = tensors["quantizer.codebook"]
    blocks = model["blocks"]
    names = ["0"] + [f"{i}.layers.{j}" for i in range(1, blocks + 1) for j in (1, 3)]
    names += [str(blocks + 2), str(blocks + 4)]
    layers = [{"inputs": codebook.shape[0], "outputs": codebook.shape[1]}]
    numbers = [codebook.ravel(), np.zeros(codebook.shape[1])]
    for name in names:
        weight, bias = tensors[f"decoder.{name}.weight"], tensors[f"decoder.{name}.bias"]
        up = name in names[-2:]  # transposed convolutions, whose weights begin with the inputs
        weight = weight.transpose((2, 3, 0, 1) if up else (2, 3, 1, 0))
        kernel, _, inputs, outputs = weight.shape
        shape = {"inputs": inputs, "outputs": outputs, "kernel": kernel, "up": up}
        layers.append(shape | {"adds": name.endswith(".3")})  # to what entered the block
        numbers += [weight.ravel(), bias]
    return filed(about | {"layers": layers}, [part.astype("<f2") for part in numbers])


def seen(root: Path, run: str) -> bytes:
    """A decoder as ellipse.js reads it, and test images with the Gaussians its encoder gives them.

    Raises:
        ValueError: where the run is no chain of SiLU layers to a mean-field Gaussian of two latents.
    """
    folder = root / "artifacts" / run
    model = json.loads((folder / "run.json").read_text(encoding="utf-8"))["identity"]["model"]
    layers, numbers = decoder(folder)
    encoder, more = chain(folder, "encoder", model["encoder"], "none")
    kind, bound = (model["encoder"]["posterior"][key] for key in ("class", "log_variance_bound"))
    between = {layer["activation"] for layer in (*layers[:-1], *encoder[:-1])}
    if (kind, layers[0]["inputs"], between) != ("posteriors.MeanFieldGaussian", 2, {"silu"}):
        raise ValueError(f"{run}: ellipse.js knows SiLU and a mean-field Gaussian of two latents")
    known = json.loads((root / "book" / "_extra" / "live" / "ellipse.json").read_text("utf-8"))
    for image in known["images"]:
        value = np.frombuffer(base64.b64decode(image["pixels"]), np.uint8) / 255
        for layer, weight, bias in zip(encoder, more[::2], more[1::2], strict=True):
            shape = layer["outputs"], layer["inputs"]
            value = weight.astype(float).reshape(shape) @ value + bias
            value = value / (1 + np.exp(-value)) if layer["activation"] == "silu" else value
        mean, log_variance = np.split(value, 2)
        sds = np.exp(bound * np.tanh(log_variance / bound) / 2)
        image["encoder"] = {"mean": mean.round(5).tolist(), "sds": sds.round(5).tolist()}
    return filed(known | {"layers": layers}, numbers)


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


def through(layers: list[dict], numbers: list[np.ndarray], values: np.ndarray) -> np.ndarray:
    """What a chain of layers makes of vectors (N, inputs)."""
    for layer, weight, bias in zip(layers, numbers[::2], numbers[1::2], strict=True):
        weight = weight.astype(float).reshape(layer["outputs"], layer["inputs"])
        values = values @ weight.T + bias.astype(float)
        values = np.tanh(values) if layer["activation"] == "tanh" else values
    return values


def squares(low: float, high: float, n: int) -> np.ndarray:
    """The points of a grid, n to a side, the first coordinate changing first: (n * n, 2)."""
    side = np.linspace(low, high, n)
    return np.stack([np.tile(side, n), np.repeat(side, n)], axis=1)


def maps(
    encode: Callable[[np.ndarray], tuple], decode: Callable[[np.ndarray], tuple], half: float = 7.0
) -> dict:
    """Maps of a model over the plane, at 71 x 71 points: its KL terms and the log of its density.

    Both in hundredths of a nat. The density is added up over a grid of latents, as in chapter 9.
    """
    mean, sigma = encode(squares(-half, half, 71))
    kl = 0.5 * (mean**2 + sigma**2 - 1 - 2 * np.log(sigma)).sum(1)
    z, side = squares(-4.5, 4.5, 181), np.linspace(-half, half, 71)
    prior = np.exp(-0.5 * (z**2).sum(1)) / (2 * np.pi) * (z[1, 0] - z[0, 0]) ** 2  # of each cell
    mean, sigma = decode(z)
    away = (side[:, None, None] - mean) / sigma  # (71, G, 2)
    along, up = np.moveaxis(np.exp(-0.5 * away**2) / (sigma * np.sqrt(2 * np.pi)), 2, 0)
    density = (up * prior) @ along.T  # a Gaussian of two coordinates is a product: (71, 71)
    return {
        "half": half,
        "kl": np.rint(100 * kl).astype(int).tolist(),
        "density": np.rint(100 * np.log(density + 1e-9)).astype(int).ravel().tolist(),
    }


def points(root: Path, run: str) -> bytes:
    """Encoder and decoder of a toy set's run, as toy.js reads them, points of the set, and maps.

    Raises:
        ValueError: where they are others than chains of layers to two Gaussians.
    """
    folder, name = root / "artifacts" / run, run.partition("/")[0]
    model = json.loads((folder / "run.json").read_text(encoding="utf-8"))["identity"]["model"]
    posterior, likelihood = model["encoder"]["posterior"], model["decoder"]["likelihood"]
    networks = [model[part]["network"] for part in ("encoder", "decoder")]
    kinds = [network[key] for network in networks for key in ("class", "activation")]
    wanted = 2 * ["networks.MLP", {"import": "torch.nn.Tanh"}]
    wanted += ["posteriors.MeanFieldGaussian", "likelihoods.Gaussian", "pixelwise", False]
    kinds += [posterior["class"], likelihood["class"]]
    kinds += [likelihood.get(key) for key in ("noise", "bounded_mean")]
    if kinds != wanted:
        raise ValueError(f"{folder}: toy.js knows layers to two mean-field Gaussians, not {kinds}")
    bound = posterior["log_variance_bound"]
    scales = [likelihood["smallest_scale"], likelihood["largest_scale"]]
    low, high = 2 * np.log(scales)
    middle, reach = (low + high) / 2, (high - low) / 2
    first, numbers = chain(folder, "encoder", model["encoder"], "none")
    second, more = chain(folder, "decoder", model["decoder"], "none")

    def encode(x: np.ndarray) -> tuple:
        found = through(first, numbers, x)
        return found[:, :2], np.exp(0.5 * bound * np.tanh(found[:, 2:] / bound))

    def decode(z: np.ndarray) -> tuple:
        found = through(second, more, z)
        return found[:, :2], np.exp(
            0.5 * (middle + reach * np.tanh((found[:, 2:] - middle) / reach))
        )

    live = root / "book" / "_extra" / "live"
    known = json.loads((live / "toy.json").read_text("utf-8"))[name]
    arrows = squares(-6.3, 6.3, 15)
    about = {
        **known,
        "means": encode(np.array(known["points"]))[0].round(2).tolist(),
        "arrows": np.hstack([arrows, encode(arrows)[0]]).round(2).tolist(),
        "maps": maps(encode, decode),
        "palette": json.loads((live / "codes.json").read_text("utf-8"))["palette"],
        "bound": bound,
        "scales": scales,
        "encoder": len(first),
        "layers": first + second,
    }
    return filed(about, numbers + more)


PACKED = {  # what a kind of figure reads of a run
    "planes": packed,
    "rate": whole,
    "toy": points,
    "paint": alphabet,
    "ellipse": seen,
}


def named(run: str) -> str:
    """What a run's file is called: several sets have a run of the same name."""
    return run.removeprefix("mnist/").replace("/", "-")


def mark(soup: BeautifulSoup, static: str) -> None:
    """Say on the page which figures come alive, and load the script where there is one."""
    found = soup.select("img.vae-hero")
    for tag, (kind, runs) in FIGURES.items():
        for cell in soup.select(f".tag_{tag}"):
            cell["data-live"] = kind
            if tag in KEPT:
                cell["data-keep"] = ""
            cell["data-runs"] = " ".join(map(named, runs))
            found.append(cell)
    if found and not soup.select_one(f'script[src$="{SCRIPT}"]'):
        attributes = {"type": "module", "src": static + SCRIPT}
        soup.head.append(soup.new_tag("script", attrs=attributes))
    for kind in sorted({cell["data-live"] for cell in soup.select("[data-live]")}):
        style = f"_static/live-{kind}.css"  # of a kind that has one of its own
        if (Path(__file__).parent.parent / style).exists() and not soup.select_one(
            f'link[href$="{style}"]'
        ):
            attributes = {"rel": "stylesheet", "href": static + style}
            soup.head.append(soup.new_tag("link", attrs=attributes))


def write(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir) / "live"
        for kind, run in sorted({(kind, run) for kind, runs in FIGURES.values() for run in runs}):
            content = PACKED[kind](Path(app.srcdir), run)
            (folder / f"{named(run)}.bin").write_bytes(content)
        (folder / "toy.json").unlink(missing_ok=True)
        (folder / "symbols.json").unlink(missing_ok=True)
        (folder / "ellipse.json").unlink(missing_ok=True)
        (folder / "codes.json").unlink(missing_ok=True)  # its points lie in those files


def setup(app: Sphinx) -> None:
    app.connect("build-finished", write)
