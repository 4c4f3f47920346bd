"""What the tests run on, said at the top of every run, and fixtures that several files use."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest
import torch

from vae_tutorial import data

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in BROWSERS if (path := shutil.which(name))), None)


def _mnist():
    try:
        return data.load("mnist")
    except (FileNotFoundError, ValueError):
        return None


def on_digits() -> bool:
    return os.environ.get("VAE_TUTORIAL_DATASET") == "digits"


def pytest_report_header() -> list[str]:
    if on_digits():
        source = (
            "bundled digits: tests marked mnist are left out; the notebooks run on digits and "
            "their numbers are not compared with the stored ones"
        )
    else:
        source = f"real MNIST in {data.data_root()}: every notebook's outputs are compared"
    gpu = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else "none (GPU paths are not run)"
    )
    browser = find_browser() or "none (tests marked browser are left out)"
    return [
        f"data: {source}",
        f"GPU: {gpu}",
        f"Chromium: {browser}",
        f"CPU: {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_mnist = pytest.mark.skip(
        reason="needs real MNIST, which is neither on disk nor downloadable"
    )
    no_browser = pytest.mark.skip(reason="needs Chromium, which is not installed")
    for item in items:
        if item.get_closest_marker("mnist") and on_digits():
            item.add_marker(no_mnist)
        if item.get_closest_marker("browser") and find_browser() is None:
            item.add_marker(no_browser)


@pytest.fixture(scope="session")
def mnist():
    """Real MNIST (55,000 / 5,000 / 10,000 images); mark the test with ``mnist``."""
    return data.load("mnist")


@pytest.fixture(scope="session")
def digits():
    """The bundled digits (1,197 / 200 / 400 images)."""
    return data.load("digits")
