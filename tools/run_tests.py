"""All tests in one pytest run: unit, maths, every notebook, the built site.

    python tools/run_tests.py [--workers N] [pytest's own arguments]

With real MNIST every notebook is run again and its outputs compared with the stored ones, as
``tests/compare.py`` says. Without it the notebooks run on the bundled digits, and their numbers are
not compared, since the stored ones are MNIST's. The header says so, and which instructions of the
CPU are used: ``ATEN_CPU_CAPABILITY=default`` (or ``avx2``) has one machine compute as others do.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# One thread a worker: two workers of two threads each on two cores crawl. And the stored outputs
# were made with one thread.
SETTINGS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TQDM_DISABLE"), "1")
SETTINGS |= {"PYTHONHASHSEED": "0", "MPLBACKEND": "agg", "RETRAIN": ""}
COMPARE = "--nbval --nbval-sanitize-with tests/nbval_sanitize.cfg -p compare"


def mnist_is_there() -> bool:
    """Whether data.load finds MNIST, on the disk or by downloading it."""
    command = [sys.executable, "-c", "from vae_tutorial import data; data.load('mnist')"]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", default="2")
    arguments, rest = parser.parse_known_args()
    real = os.environ.get("VAE_TUTORIAL_DATASET", "") in ("", "mnist") and mnist_is_there()
    # The slowest first, so that no worker ends on a long one alone: the stored runs, measured again,
    # then the later chapters.
    notebooks = sorted(map(str, (ROOT / "notebooks").glob("*.ipynb")), reverse=True)
    options = (
        f"-o pythonpath=tests {COMPARE if real else '--nbval-lax'} --nbval-cell-timeout 900 "
        f"-n {arguments.workers} --dist loadfile --no-loadscope-reorder"
    )
    first = ROOT / "tests" / "test_runs.py"
    files = [str(p) for p in sorted((ROOT / "tests").glob("test_*.py")) if p != first]
    what = rest or [str(first), *notebooks, *files, "vae_tutorial", "--doctest-modules"]
    command = [sys.executable, "-m", "pytest", *options.split(), *what]
    environment = os.environ | SETTINGS | {"VAE_TUTORIAL_DATASET": "mnist" if real else "digits"}
    return subprocess.run(command, env=environment, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
