"""The comparison of notebooks' outputs lets a last digit pass, and nothing that a reader would see."""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import compare
import nbformat
import numpy as np
import pytest
from compare import Rule, share_that_differs, text_differences
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

TESTS = Path(compare.__file__).parent


TEXTS = [  # what is stored, what may stand there as well, and what may not
    ("-ELBO 94.87 nats", "-ELBO 94.88 nats", "-ELBO 94.89 nats"),
    ("a   9.9   b", "a  10.0  b", "a   9.9   c"),
    ("1,234.5 | 999.9", "1234.4 | 1,000.0", "1,234.5 | 1,001.9"),
    ("x = -0.0", "x = 0.0", "x = 0.2"),
    ("-0.5", "-0.4", "0.5"),
    ("beta  49% off", "beta  50 % off", "beta  51% off"),
    ("100%", " 99%", "100"),
    ("1.2e-05, 9.99e-06, 1e-8", "1.1E-05, 1.00e-05, 2e-8", "1.2e-06, 9.99e-06, 1e-8"),
    ("0.3 and 1", "0.2999 and 1.0", "0.3 and 2"),
    ("nan, inf by ch01-pca 2.0.1", "nan, inf by ch01-pca 2.0.1", "nan, -inf by ch01-pca 2.0.1"),
    ("10,000 images", "10000 images", "10,001 images"),
    ("S = 10.", "S = 10.", "S = 11."),
    ("ch01-pca 0.5", "ch01-pca 0.4", "ch02-pca 0.5"),
    ("torch 2.1.0", "torch 2.1.0", "torch 2.2.0"),
    ("v2.1, 1e5abc", "v2.1, 1e5abc", "v2.2, 1e5abc"),
    ("v2.1, 1e5abc", "v2.1, 1e5abc", "v2.1, 2e5abc"),
    ("1.0 2.0", "1.1 1.9", "1.0"),
    ("the same: True 0.5", "the same: True 0.4", "the same: False 0.5"),
    ("two  spaces", "two  spaces", "two spaces"),
    ("0.5\n1.5", "0.6\n1.4", "1.5\n0.5"),
    ("one", "one", "one\n"),
]
WIDER = [  # the same where a cell's metadata widen the rule
    (Rule(units=3), "94.87 of 7", "94.90 of 7", "94.91 of 7"),
    (Rule(units=3), "94.87 of 7", "94.84 of 7", "94.87 of 8"),
    (Rule(integers=True), "94.87 of 7", "94.88 of 8", "94.87 of 9"),
    (Rule(units=3, integers=True), "94.87 of 7", "94.87 of 10", "94.87 of 11"),
]


@pytest.mark.parametrize(
    ("rule", "stored", "near", "far"), [*((Rule(), *texts) for texts in TEXTS), *WIDER]
)
def test_text(rule, stored, near, far):
    assert text_differences(stored, near, rule) == text_differences(near, stored, rule) == []
    for left, right in ((stored, far), (far, stored)):
        shown = "\n".join(text_differences(left, right, rule)).split("\n")
        for sign, side, other in (("-", left, right), ("+", right, left)):
            for line in set(side.split("\n")) - set(other.split("\n")):
                assert sign + line in [x.replace(f"{sign} ", sign, 1) for x in shown]


@pytest.mark.parametrize(
    "compare", [{"skip": True}, {"units": 0}, {"units": 1.5}, {"integers": 1}, {"picture": 1.0}]
)
def test_metadata_cannot_say_anything_else(compare):
    with pytest.raises((TypeError, ValueError), match=r"units|skip"):
        Rule(**compare)


def figure(low=0.0, curves="abc", ticks=(0, 5, 10), turned=1, order=(0, 1), labels="xy") -> bytes:
    """Three curves and two images, as a PNG of 256 colours."""
    drawn = Figure(figsize=(6, 2.4), layout="constrained")
    axes = drawn.subplots(1, 3)
    x = np.linspace(0, 10, 30)
    curve = {"a": 9 * np.exp(-x / 4), "b": 9 * np.exp(-x / 5), "c": np.full(30, 4)}
    for name, colour in zip(curves, ("tab:blue", "tab:orange", "0.6"), strict=False):
        axes[0].plot(*(x, curve[name] + low)[::turned], color=colour, lw=1)
    axes[0].set(xlim=(0, 10), ylim=(0, 10), xlabel=labels[0] * 5, ylabel=labels[1] * 5)
    axes[0].set_xticks([0, 5, 10], ticks)
    images = np.random.default_rng(0).uniform(size=(2, 6, 6))
    for panel, i in zip(axes[1:], order, strict=True):
        panel.imshow(images[i], cmap="gray")
    buffer, small = io.BytesIO(), io.BytesIO()
    drawn.savefig(buffer)
    Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT).save(small, "png")
    return small.getvalue()


def pixels(png: bytes) -> np.ndarray:
    return compare._pixels(base64.b64encode(png).decode())


CHANGED = {
    "a missing curve": {"curves": "ab"},
    "exchanged colours": {"curves": "bac"},
    "swapped axes": {"turned": -1},
    "swapped labels": {"labels": "yx"},
    "reversed ticks": {"ticks": (10, 5, 0)},
    "exchanged panels": {"order": (1, 0)},
    "a moved curve": {"low": 1.0},
}


def test_share_that_differs():
    first, missing = pixels(figure()), pixels(figure(curves="ab"))
    assert min(share_that_differs(first, missing), share_that_differs(missing, first)) > 5e-4
    noise = np.random.default_rng(0).normal(scale=0.01, size=first.shape).astype(np.float32)
    up, down, both = (np.roll(first, by, (0, 1)) for by in ((-2, 0), (2, 0), (2, -2)))
    for other in (first + noise, both, np.hstack([up[:, :224], down[:, 224:]]), first[1:, 2:]):
        assert share_that_differs(first, other) == share_that_differs(other, first) == 0
    assert share_that_differs(first, np.roll(first, 5, 0)) > 0.1
    assert share_that_differs(first, first[3:]) == 1


CELLS = [  # each cell's code, what is stored of it, its metadata and whether it passes
    ("print(0.51)", "0.52\n", {}, True),
    ("print(0.51)", "0.61\n", {}, False),
    ("print(0.51)", "0.61\n", {"units": 10}, True),
    ("print(0.51)", "0.51\n", {"skip": True}, False),
    ("pass", "a\n", {}, False),
    ("print('a')", None, {}, False),
    ("print('a'); 1 / 0", "a\n", {}, False),
    ("print(hex(id(pass_)))\n", "0x7f0000000000\n", {}, True),
]


def test_in_nbval(tmp_path):
    """Every case is a cell of one notebook, which pytest runs."""
    cells, passes = [], []

    def add(code: str, outputs: list, metadata: dict, passed: bool) -> None:
        metadata = {"compare": metadata}
        cells.append(new_code_cell(code, outputs=outputs, metadata=metadata, execution_count=1))
        passes.append(passed)

    add("from IPython.display import Image; pass_ = 0", [], {}, True)
    for code, text, metadata, passed in CELLS:
        outputs = [] if text is None else [new_output("stream", name="stdout", text=text)]
        add(code, outputs, metadata, passed)
    stored = {"image/png": base64.b64encode(figure()).decode()}
    shown = stored | {"text/plain": "<IPython.core.display.Image object>"}
    outputs = [new_output("execute_result", shown, execution_count=1)]
    for name, change in ({"nothing": {}, "low": {"low": 0.03}} | CHANGED).items():
        (tmp_path / f"{name}.png").write_bytes(figure(**change))
        add(f"Image(filename='{name}.png')", outputs, {}, name not in CHANGED)
    add(cells[-1].source, outputs, {"picture": 0.3}, True)
    add("print('no picture')", outputs, {}, False)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "cells.ipynb")
    options = "--nbval cells.ipynb -v -p compare --color=no --rootdir=. --nbval-sanitize-with"
    command = [sys.executable, "-m", "pytest", *options.split(), TESTS / "nbval_sanitize.cfg"]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    results = re.findall(r"::Cell \d+ (PASSED|FAILED)", run.stdout)
    assert [result == "PASSED" for result in results] == passes, run.stdout + run.stderr
    for side in ("- 0.61", "+ 0.51", "ZeroDivisionError", "skip"):
        assert side in run.stdout
    assert len(list(tmp_path.glob(".pytest_cache/**/*.png"))) == len(CHANGED)
