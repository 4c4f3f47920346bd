"""The comparison of notebooks' outputs lets a last digit pass, and nothing that a reader would see."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("-ELBO 94.87 nats", "-ELBO 94.88 nats"),
        ("a   9.9   b", "a  10.0  b"),
        ("1,234.5 | 999.9", "1234.4 | 1,000.0"),
        ("x = -0.0", "x = 0.0"),
        ("beta  49% off", "beta  50 % off"),
        ("100%", " 99%"),
        ("1.2e-05, 9.99e-06, 1e-8", "1.1E-05, 1.00e-05, 2e-8"),
        ("0.3 and 1", "0.2999 and 1.0"),
        ("nan, inf of 10,000 by ch01-pca 2.0.1", "nan, inf of 10000 by ch01-pca 2.0.1"),
    ],
)
def test_last_printed_digit_may_differ(stored, new):
    assert text_differences(stored, new, Rule()) == []
    assert text_differences(new, stored, Rule()) == []


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("94.87", "94.89"),
        ("94.87", "95.87"),
        ("-0.5", "0.5"),
        ("49%", "51%"),
        ("49%", "49"),
        ("1.2e-05", "1.2e-06"),
        ("1e-08", "1e-07"),
        ("10,000 images", "10,001 images"),
        ("S = 10.", "S = 11."),
        ("ch01-pca 0.5", "ch02-pca 0.5"),
        ("torch 2.1.0", "torch 2.2.0"),
        ("v2.1, 1e5abc", "v2.2, 1e5abc"),
        ("v2.1, 1e5abc", "v2.1, 2e5abc"),
        ("inf", "-inf"),
        ("nan", "0.1"),
        ("1.0 2.0", "1.0"),
        ("the same: True 0.5", "the same: False 0.5"),
        ("two  spaces", "two spaces"),
        ("one\n0.5", "one"),
        ("0.5\n1.5", "1.5\n0.5"),
        ("one", "one\n"),
    ],
)
def test_anything_else_fails_and_both_sides_are_shown(stored, new):
    for left, right in ((stored, new), (new, stored)):
        shown = "\n".join(text_differences(left, right, Rule())).split("\n")
        for sign, side, other in (("-", left, right), ("+", right, left)):
            for line in set(side.split("\n")) - set(other.split("\n")):
                assert sign + line in [x.replace(f"{sign} ", sign, 1) for x in shown]


@pytest.mark.parametrize(
    ("rule", "near", "far"),
    [
        (Rule(units=3), "94.90 of 7", "94.91 of 7"),
        (Rule(units=3), "94.84 of 7", "94.87 of 8"),
        (Rule(integers=True), "94.88 of 8", "94.87 of 9"),
        (Rule(units=3, integers=True), "94.87 of 10", "94.87 of 11"),
    ],
)
def test_metadata_widen_the_rule(rule, near, far):
    assert not text_differences("94.87 of 7", near, rule)
    assert text_differences("94.87 of 7", far, rule)


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


# Each cell's code, what is stored of it, its metadata and whether it passes.
CELLS = {
    "last digit": ("print(0.51)", "0.52\n", {}, True),
    "further left": ("print(0.51)", "0.61\n", {}, False),
    "less certain": ("print(0.51)", "0.61\n", {"units": 10}, True),
    "unknown metadata": ("print(0.51)", "0.51\n", {"skip": True}, False),
    "changed word": ("print('new', 1)", "old 1\n", {}, False),
    "missing line": ("print('a')", "a\nb\n", {}, False),
    "added line": ("print('a\\nb')", "a\n", {}, False),
    "no output": ("pass", "a\n", {}, False),
    "new output": ("print('a')", None, {}, False),
    "exception": ("print('a'); 1 / 0", "a\n", {}, False),
    "address": ("print(hex(id(pass_)))\n", "0x7f0000000000\n", {}, True),
}


def test_in_nbval(tmp_path):
    """Every case is a cell of one notebook, which pytest runs."""
    cells, passes = [new_code_cell("from IPython.display import Image; pass_ = 0")], [True]
    for code, text, metadata, passed in CELLS.values():
        outputs = [] if text is None else [new_output("stream", name="stdout", text=text)]
        cells.append(new_code_cell(code, outputs=outputs, metadata={"compare": metadata}))
        passes.append(passed)
    shown = {"text/plain": "<IPython.core.display.Image object>"}
    stored = base64.b64encode(figure()).decode()
    changes = {"nothing": {}, "low": {"low": 0.03}} | CHANGED
    for name, change in changes.items():
        (tmp_path / f"{name}.png").write_bytes(figure(**change))
        output = new_output("execute_result", shown | {"image/png": stored}, execution_count=1)
        cells.append(new_code_cell(f"Image(filename='{name}.png')", outputs=[output]))
        passes.append(name not in CHANGED)
    wide = {"compare": {"picture": 0.3}}
    cells.append(new_code_cell(cells[-1].source, outputs=[output], metadata=wide))
    cells.append(new_code_cell("print('no picture')", outputs=[output]))
    passes += [True, False]
    for cell in cells:
        cell.execution_count = 1
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "cells.ipynb")
    options = "--nbval cells.ipynb -v -p compare --color=no --rootdir=. --nbval-sanitize-with"
    command = [sys.executable, "-m", "pytest", *options.split(), TESTS / "nbval_sanitize.cfg"]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    results = re.findall(r"::Cell \d+ (PASSED|FAILED)", run.stdout)
    assert [result == "PASSED" for result in results] == passes, run.stdout + run.stderr
    for side in ("- 0.61", "+ 0.51", "- old 1", "+ new 1", "-b", "+b", "ZeroDivisionError", "skip"):
        assert side in run.stdout
    assert len(list(tmp_path.glob(".pytest_cache/**/*.png"))) == len(CHANGED)
