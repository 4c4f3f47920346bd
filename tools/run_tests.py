"""All tests in one pytest run: unit, maths, every notebook, the built site.

    python tools/run_tests.py [--workers N] [pytest's own arguments]

Looks first what there is to run on. With real MNIST every notebook is run again and its outputs
compared with the stored ones, as ``tests/compare.py`` says. Without it the notebooks run on the
bundled digits, and their numbers are not compared, since the stored ones are MNIST's. The header
says so, and which instructions of the CPU are used: ``ATEN_CPU_CAPABILITY=default`` (or ``avx2``)
in the environment has one machine compute as others do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def mnist_is_there() -> bool:
    """Whether data.load finds MNIST, on the disk or by downloading it."""
    code = "from vae_tutorial import data; data.load('mnist')"
    environment = os.environ | {"VAE_TUTORIAL_DATASET": ""}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True
    )
    return found.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", default="2")
    arguments, rest = parser.parse_known_args()
    # One thread a worker: two workers of two threads each on two cores crawl. And the stored
    # outputs were made with one thread.
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "agg",
    }
    environment.pop("RETRAIN", None)
    real = os.environ.get("VAE_TUTORIAL_DATASET", "") in ("", "mnist") and mnist_is_there()
    environment["VAE_TUTORIAL_DATASET"] = "mnist" if real else "digits"
    compare = (
        ["--nbval", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg", "-p", "compare"]
        if real
        else ["--nbval-lax"]
    )
    # The slowest first, so that no worker ends on a long one alone: that is the later chapters.
    notebooks = sorted(map(str, (ROOT / "notebooks").glob("*.ipynb")), reverse=True)
    command = [
        sys.executable, "-m", "pytest", "-o", "pythonpath=tests", *compare,
        "-n", arguments.workers, "--dist", "loadfile", "--no-loadscope-reorder",
        "--nbval-cell-timeout", "900", *(rest or [*notebooks, "tests", "vae_tutorial", "--doctest-modules"]),
    ]  # fmt: skip
    return subprocess.run(command, env=environment, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
