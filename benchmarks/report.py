"""Write the tables of `README.md` from `results.json`.

    python benchmarks/report.py

A table stands between two comments that carry its name. No number is typed there by hand: the
benchmarks store what they measured, and this script words it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from measuring import RESULTS, describe
from time_to_elbo import mean_and_error

README = Path(__file__).with_name("README.md")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value: float) -> str:
    """Three digits that mean something: 0.0123, 1.23, 12.3, 123, 1,230."""
    return f"{float(f'{value:.3g}'):,.10g}" if value else "0"


def races(found: dict) -> str:
    """Time to each target: the plain loop's line, then one for each recipe."""
    plain = found["plain"]
    rows = [[
        f"plain loop, {plain['epochs']} epochs", f"{plain['test_negative_elbo']:.2f}",
        f"{plain['test_negative_elbo']:.2f}", number(plain["seconds"]), "1", "",
    ]]  # fmt: skip
    for row in found.get("races", {}).values():
        mean, error = mean_and_error(row["test_negative_elbo"])
        # The plain loop never gets to a harder target: there is nothing to be sooner than.
        same = row["target"] == plain["test_negative_elbo"]
        rows.append([
            row["recipe"], f"{row['target']:.2f}", f"{mean:.2f} ± {error:.2f}",
            number(row["median_seconds"]), f"**{number(row['times_sooner'])}**" if same else "",
            f"{row['reached']} of {row['seeds']}",
        ])  # fmt: skip
    head = ["trained", "target, nats", "test negative ELBO", "seconds", "speed-up", "reach it"]
    return table(head, rows)


def without(found: dict) -> str:
    """What one part of the first recipe is worth."""
    rows = []
    for title, row in found.get("without", {}).items():
        base = found["races"]["first"]["test_negative_elbo"]  # the same seeds
        more = [a - b for a, b in zip(row["test_negative_elbo"], base, strict=True)]
        rows.append([
            title, f"{row['nats_more']:+.2f} ± {row['standard_error']:.2f}",
            f"{min(more):+.1f} to {max(more):+.1f}", number(row["times_the_seconds"]),
            f"{row['reached']} of {row['seeds']}",
        ])  # fmt: skip
    head = ["changed", "nats more", "range over seeds", "times the seconds", "reach the target"]
    return table(head, rows)


def throughput(found: dict) -> str:
    """The plain loop's network, one way after the other."""
    rows = [
        [title, number(row["images_per_second"]), number(row["ratio"]),
         f"{row['test_negative_elbo']:.2f}", number(row["first_seconds"])]
        for title, row in found["ways"].items()
    ]  # fmt: skip
    head = ["way", "images per second", "times the plain loop's", "ends at, nats",
            "seconds before the first round"]  # fmt: skip
    return table(head, rows)


def convolutions(found: dict) -> str:
    """What the convolutions of the plain loop's network take by themselves."""
    rows = [
        [title, number(1e3 * row["seconds"]), number(row["ratio"])]
        for title, row in found["convolutions_alone"].items()
    ]
    return table(["convolutions of a step, alone", "milliseconds", "plain step / this"], rows)


def rates(found: dict) -> str:
    """The machine's limits."""
    rows = [
        [name, number(rate / 1e9)]
        for name, rate in found["rates"].items()
        if name not in ("copy", "call")
    ]
    limits = table(["one thread", "10⁹ operations per second"], rows)
    copy, call = found["rates"]["copy"] / 1e9, found["rates"]["call"] * 1e6
    return (
        f"{limits}\n\nCopying reads and writes {number(copy)} · 10⁹ bytes per second; a call on two "
        f"numbers takes {number(call)} µs."
    )


def profile(found: dict) -> str:
    """Milliseconds of a step's parts, and at the limits."""
    rows = []
    for title, row in found["steps"].items():
        parts = [number(1e3 * value) for value in row["seconds"].values()]
        limits = [number(1e3 * value) for value in row["limits"].values()]
        what = f"{title}; {row['batch_size']}, {row['precision']}"
        rows.append([what, *parts, f"**{number(1e3 * sum(row['seconds'].values()))}**", *limits])
    head = ["model; batch, precision", "batch", "forward", "backward", "update", "step",
            "arithmetic", "memory", "calls"]  # fmt: skip
    return table(head, rows)


def draws(found: dict) -> str:
    """Drawing with and without what was kept."""
    rows = [
        [f"{row['grid']} x {row['grid']}", row["draws"], number(row["plain, s"]),
         number(row["kept, s"]), number(row["times sooner"])]
        for row in found["rows"]
    ]  # fmt: skip
    return table(["grid", "at a time", "plain, s", "kept, s", "times sooner"], rows)


def fit_dense(found: dict) -> str:
    """`fit` beside the bare steps."""
    rows = []
    for title, row in found["dense"].items():
        seconds, ratio = row["seconds"], row["ratio"]
        rows.append([
            f"{title}; {row['batch_size']}", number(1e3 * seconds["bare"]),
            number(1e3 * seconds["by_fit"]), f"{ratio['by_fit']:.2f}",
            number(1e3 * seconds["compiled"]), f"{ratio['compiled']:.2f}",
        ])  # fmt: skip
    head = ["network; batch", "bare step, ms", "`fit`, ms", "`fit` / bare", "`fit` compiled, ms",
            "`fit` compiled / bare, not compiled"]  # fmt: skip
    return table(head, rows)


def fit_compiled(found: dict) -> str:
    """`fit` with and without `torch.compile`."""
    rows = []
    for title, row in found["models"].items():
        seconds = row["seconds"]
        saved = 1 - row["ratio"]["compiled"]  # of each second
        earned = f"{row['first_seconds'] / saved:.0f}" if saved > 0 else "never"
        rows.append([
            f"{title}; {row['batch_size']}, {row['precision']}", number(1e3 * seconds["by_fit"]),
            number(1e3 * seconds["compiled"]), f"{1 / row['ratio']['compiled']:.2f}",
            number(row["first_seconds"]), earned,
        ])  # fmt: skip
    head = ["model; batch, precision", "`fit`, ms", "compiled, ms", "times as fast",
            "first round, s", "earned back after, s"]  # fmt: skip
    return table(head, rows)


def devices(found: dict) -> str:
    """One thread, all cores, a GPU."""
    rows = []
    for title, row in found["rows"].items():
        mean, error = mean_and_error(row["test_negative_elbo"])
        rows.append([
            title, number(row["median_seconds"]),
            f"{number(min(row['seconds']))} to {number(max(row['seconds']))}",
            f"{row['times_sooner']:.2f}",
            f"{mean:.2f} ± {error:.2f}", f"{row['reached']} of {len(row['seconds'])}",
        ])  # fmt: skip
    head = ["computed with", "seconds, median", "seconds, range", "speed-up",
            "test negative ELBO", "reach it"]  # fmt: skip
    return table(head, rows)


TABLES = {
    "races": ("time_to_elbo", races),
    "without": ("time_to_elbo", without),
    "throughput": ("throughput", throughput),
    "convolutions": ("throughput", convolutions),
    "rates": ("profile", rates),
    "profile": ("profile", profile),
    "draws": ("draws", draws),
    "fit": ("fit_step", fit_dense),
    "compiled": ("fit_step", fit_compiled),
    "devices": ("devices", devices),
}


def rewritten(text: str, results: dict) -> str:
    """The text with every table made anew; a table without a result stays away.

    Raises:
        ValueError: where the text has no place for a table.
    """
    for name, (section, make) in TABLES.items():
        if section in results:
            about = results[section]["machine"]
            if name == "devices":
                about = about | {"threads": None}  # each row has its own
            body = f"{make(results[section])}\n\n*{describe(about)}*"
        else:
            body = f"*Not measured yet: run the command above with `--json {RESULTS.name}`.*"
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        text, count = re.subn(
            pattern,
            lambda found: f"{found[1]}\n{body}\n\n{found[2]}",  # noqa: B023
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"README.md needs one place for the table {name!r}, has {count}")
    return text


def main() -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    README.write_text(rewritten(README.read_text(), results))


if __name__ == "__main__":
    main()
