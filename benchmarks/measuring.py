"""What the benchmarks share: two clocks, the machine's name, one file of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("results.json")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description.split("\n")[0])
    made.add_argument(
        "--clock", choices=CLOCKS, default="wall",
        help="cpu counts the seconds that this process computes, with one thread: "
        "for a machine that others use at the same time",
    )  # fmt: skip
    made.add_argument("--threads", type=int, help="of torch; the cpu clock always takes one")
    made.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    made.add_argument("--json", type=Path, help=f"store the result there, for example {RESULTS}")
    return made


def start(options: argparse.Namespace) -> Callable[[], float]:
    """Set the threads, print the machine, and return the clock: seconds as a float."""
    if options.clock == "cpu" and options.threads not in (None, 1):
        raise ValueError(f"the cpu clock adds up threads; ask for one, not {options.threads}")
    if options.clock == "cpu" or options.threads:
        torch.set_num_threads(options.threads or 1)
    print(describe(machine(options.clock)))
    return CLOCKS[options.clock]


def machine(clock: str) -> dict:
    """What the seconds were measured on, and with which clock."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": clock,
    }


def describe(machine: dict) -> str:
    """One line of the machine, for a person."""
    number = machine["threads"]
    threads = "" if number is None else "one thread, " if number == 1 else f"{number} threads, "
    clock = {"wall": "seconds by the clock on the wall", "cpu": "seconds of CPU time"}
    return (
        f"{machine['processor']} ({machine['cores']} cores), {threads}torch {machine['torch']}, "
        f"Python {machine['python']}; {clock[machine['clock']]}"
    )


def _processor() -> str:
    name, flags = platform.processor() or platform.machine(), ""
    about = Path("/proc/cpuinfo")
    if about.exists():
        lines = [line.partition(":") for line in about.read_text().splitlines()]
        found = {key.strip(): value.strip() for key, _, value in lines}
        name, flags = found.get("model name", name), found.get("flags", "")
    units = [unit for unit in ("avx512f", "amx_bf16") if unit in flags.split()]
    return f"{name} with {' and '.join(units)}" if units else name


def store(path: Path | None, section: str, found: dict, clock: str) -> None:
    """Put a benchmark's result, and the machine it is of, into the file; other sections stay."""
    if path is None:
        return
    results = json.loads(path.read_text()) if path.exists() else {}
    results[section] = {"machine": machine(clock)} | found
    path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")


def seconds_per_call(
    call: Callable[[], object], clock: Callable[[], float], *, calls: int = 20, rounds: int = 5
) -> float:
    """Seconds of one call: the median over rounds of so many calls each, after a few unmeasured."""
    for _ in range(3):
        call()
    found = []
    for _ in range(rounds):
        begin = clock()
        for _ in range(calls):
            call()
        found.append((clock() - begin) / calls)
    return statistics.median(found)
