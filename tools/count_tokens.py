"""Count words and signs of Python, module by module: the table of chapter 22.

    python tools/count_tokens.py vae_tutorial/data/tokens.csv.gz

Rows are the modules of Python's own library and of eight packages that this book installs, tests
left out, of 300 to 20,000 tokens; at most 400 of one library, drawn under a fixed seed. Columns are
the library, the module, its tokens of all kinds, and how often each of Python's keywords, operators
and built-in names occurs in it, with "self", numbers, strings and comments. The counts change with
the packages' versions, so the table is stored; the versions are those of constraints.txt.
"""

import builtins
import csv
import gzip
import importlib.util
import io
import keyword
import os
import sys
import tokenize
from collections import Counter
from pathlib import Path
from random import Random

LIBRARIES = ("python", "numpy", "scipy", "pandas", "sklearn", "matplotlib", "networkx", "torch",
             "sympy")  # fmt: skip
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "lib2to3",
            "encodings", "turtledemo", "ensurepip", "pydoc_data", "_vendor", "vendor",
            "lib-dynload", "externals"}  # fmt: skip
FEWEST, MOST, MODULES, RAREST = 300, 20_000, 400, 0.02
CLOSING = {")", "]", "}"}  # as many as are opened
KINDS = {tokenize.NUMBER: "NUMBER", tokenize.STRING: "STRING", tokenize.COMMENT: "COMMENT"}
NAMES = {*keyword.kwlist, *(n for n in dir(builtins) if not n.startswith("_")), "self"}


def folder(library: str) -> Path:
    """Where the modules of a library lie."""
    if library == "python":
        return Path(os.__file__).parent
    return Path(importlib.util.find_spec(library).origin).parent


def modules(library: str) -> list[Path]:
    """The library's modules, without tests and what it carries of others."""
    top = folder(library)
    return [
        path
        for path in sorted(top.rglob("*.py"))
        if not set(path.relative_to(top).parts[:-1]) & LEFT_OUT
        and not any(
            p.startswith(("test", "_test", "conftest")) for p in path.relative_to(top).parts
        )
    ]


def count(path: Path) -> Counter:
    """How often each token occurs; names that are no word of Python's count as ``""``."""
    found = Counter()
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type in KINDS:
                found[KINDS[token.type]] += 1
            elif token.type == tokenize.OP and token.string not in CLOSING:
                found[token.string] += 1
            elif token.type == tokenize.NAME:
                found[token.string if token.string in NAMES else ""] += 1
    return found


def table() -> tuple[list[str], list[list]]:
    """The names of the columns, and the rows."""
    rows = []
    for library in LIBRARIES:
        top, own = folder(library), []
        for path in modules(library):
            counted = count(path)
            if FEWEST <= counted.total() <= MOST:
                own.append((library, str(path.relative_to(top)), counted))
        rows += sorted(Random(0).sample(own, min(MODULES, len(own))), key=lambda row: row[1])
    spread = Counter(name for *_, counted in rows for name in counted if name)
    names = sorted(name for name, n in spread.items() if n >= RAREST * len(rows))
    return names, [[*place, c.total(), *(c[name] for name in names)] for *place, c in rows]


if __name__ == "__main__":
    names, rows = table()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["library", "module", "tokens", *names], *rows])
    Path(sys.argv[1]).write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
    print(f"{len(rows):,} modules, {len(names)} columns")
