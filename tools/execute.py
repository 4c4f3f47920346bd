"""Execute the notebooks in place, so that running twice gives the same bytes.

    python tools/execute.py [PREFIX ...]

Without a prefix all notebooks run, in reading order. ``RETRAIN=1`` trains the runs anew.
Timings, progress bars and the kernel's own metadata are left out of the files.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# One thread for loading and evaluating: results can differ in their last bits with the number of
# threads. Training uses what there is.
os.environ.setdefault("OMP_NUM_THREADS", "1" if os.environ.get("RETRAIN", "0") in ("", "0") else "")
if not os.environ["OMP_NUM_THREADS"]:
    del os.environ["OMP_NUM_THREADS"]
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("PYTHONHASHSEED", "0")

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def execute(path: Path) -> None:
    """Run one notebook from a fresh kernel and store its outputs."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("metadata", {}).pop("execution", None)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    text = nbformat.writes(notebook) + "\n"
    text = text.rstrip("\n") + "\n"
    if text != path.read_text(encoding="utf-8"):
        path.write_text(text, encoding="utf-8")


def main(prefixes: list[str]) -> int:
    paths = [
        p
        for p in sorted(NOTEBOOKS.glob("*.ipynb"))
        if not prefixes or p.name.startswith(tuple(prefixes))
    ]
    if not paths:
        print(f"no notebook in {NOTEBOOKS} begins with {' or '.join(prefixes)}")
        return 2
    failed = 0
    for path in paths:
        start = time.perf_counter()
        try:
            execute(path)
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: FAILED\n{error}")
        else:
            size = path.stat().st_size / 1e6
            print(f"{path.name}: {time.perf_counter() - start:.0f} s, {size:.2f} MB", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
