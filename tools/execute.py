"""Execute the notebooks in place, so that running twice gives the same bytes.

    python tools/execute.py [PREFIX ...]

Without a prefix all notebooks run, in reading order. ``RETRAIN=1`` trains the runs anew, and says
after each cell how long its trainings took, and about how long those that are left will take.
Timings, progress bars and the kernel's own metadata are left out of the files.
"""

from __future__ import annotations

import json
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

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


class Trainings:
    """The stored runs, which of them are being replaced, and how long the rest will take.

    The guess for the rest is the time that they took last, times the ratio of new time to old time
    over the runs that are done.

    Args:
        folder: with DATA SET/RUN/run.json.
        whole: whether all runs are going to be trained, so that one can say what is left.
    """

    def __init__(self, folder: Path, *, whole: bool) -> None:
        self.folder, self.whole = folder, whole
        self.before = {path: self._seconds(path) for path in self._paths()}
        self.stamps = {path: path.stat().st_mtime_ns for path in self.before}
        self.done: dict[Path, float] = {}

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*/*/run.json"))

    @staticmethod
    def _seconds(path: Path) -> float:
        return float(json.loads(path.read_text())["seconds"])

    def total(self) -> str:
        hours = sum(self.before.values()) / 3600
        return f"{len(self.before)} stored runs took {hours:.1f} h when they were trained last"

    def news(self) -> list[str]:
        """A line for each run that was written since the last call."""
        lines = []
        for path in self._paths():
            stamp = path.stat().st_mtime_ns
            if self.stamps.get(path) == stamp:
                continue
            self.stamps[path], self.done[path] = stamp, self._seconds(path)
            old = self.before.get(path)
            last = "new" if old is None else f"{old:.0f} s last time"
            name = path.parent.relative_to(self.folder).as_posix()
            lines.append(f"{name}: {self.done[path]:.0f} s ({last}){self._left()}")
        return lines

    def _left(self) -> str:
        known = [path for path in self.done if path in self.before]
        old = sum(self.before[path] for path in known)
        if not self.whole or not old:
            return ""
        ratio = sum(self.done[path] for path in known) / old
        left = [seconds for path, seconds in self.before.items() if path not in self.done]
        return f"; {len(left)} left, about {ratio * sum(left) / 3600:.1f} h"


def execute(path: Path, trainings: Trainings | None = None) -> None:
    """Run one notebook from a fresh kernel and store its outputs."""

    def tell(**_) -> None:
        for line in trainings.news() if trainings else ():
            print(f"  {line}", flush=True)

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None if trainings else 3600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=tell,
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
    failed, trainings = 0, None
    if os.environ.get("RETRAIN", "0") not in ("", "0"):
        trainings = Trainings(ROOT / "artifacts", whole=not prefixes)
        print(trainings.total(), flush=True)
    for path in paths:
        start = time.perf_counter()
        try:
            execute(path, trainings)
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: FAILED\n{error}")
        else:
            size = path.stat().st_size / 1e6
            print(f"{path.name}: {time.perf_counter() - start:.0f} s, {size:.2f} MB", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
