"""Repeat the repository's address wherever it must stand.

The one place to change it is ``[project.urls] Repository`` in pyproject.toml. ``make url`` then
rewrites the notebooks' Colab badges and setup cells, the book's configuration, README.md and
CITATION.cff. Running it twice changes nothing the second time.

    python tools/set_url.py            rewrite
    python tools/set_url.py --check    change nothing; name what is out of step, and exit with 1
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "OWNER/vae-tutorial"
NAME = r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]*[A-Za-z0-9_-]"


def repository(root: Path) -> str:
    """OWNER/NAME, from the address in pyproject.toml."""
    with (root / "pyproject.toml").open("rb") as file:
        url = tomllib.load(file)["project"]["urls"]["Repository"]
    match = re.fullmatch(rf"https://github\.com/({NAME})", url)
    if match is None or match[1].endswith(".git"):
        raise SystemExit(
            f"pyproject.toml, [project.urls] Repository: expected https://github.com/OWNER/NAME, "
            f"without a slash or .git at the end, got {url!r}"
        )
    return match[1]


def previous(root: Path) -> str:
    """OWNER/NAME as the book's configuration has it: what the last run of this tool wrote."""
    text = (root / "book" / "_config.yml").read_text(encoding="utf-8")
    match = re.search(rf"^repository:\n(?:  .*\n)*?  url: https://github\.com/({NAME})", text, re.M)
    if match is None:
        raise SystemExit("book/_config.yml: no line 'url: https://github.com/...' under repository")
    return match[1]


def replace(text: str, old: str, new: str) -> str:
    """Swap one repository for another in every address that names it, and nothing else.

    The placeholder is swapped, too: a chapter that was added later still carries it.
    """
    names = "|".join(map(re.escape, sorted({old, PLACEHOLDER} - {new})))
    if not names:
        return text
    return re.sub(
        rf"(https://(?:github\.com|colab\.research\.google\.com/github)/)(?:{names})"
        r"(?![A-Za-z0-9_-]|\.(?!git\b)[A-Za-z0-9])(\.git)?",
        lambda match: match[1] + new + (match[2] or ""),
        text,
    )


def replace_in_notebook(text: str, old: str, new: str) -> str:
    """Rewrite the cells' sources alone; outputs are what a run printed."""
    notebook = json.loads(text)
    changed = False
    for cell in notebook["cells"]:
        source = cell["source"]
        joined = source if isinstance(source, str) else "".join(source)
        updated = replace(joined, old, new)
        if updated != joined:
            changed = True
            cell["source"] = updated if isinstance(source, str) else updated.splitlines(True)
    if not changed:
        return text
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def stale(root: Path) -> dict[Path, str]:
    """Each file that is out of step, with the text that it should have."""
    old, new = previous(root), repository(root)
    found = {}
    for path in [
        root / "book" / "_config.yml",
        root / "README.md",
        root / "CITATION.cff",
        *sorted((root / "notebooks").glob("*.ipynb")),
    ]:
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        swap = replace_in_notebook if path.suffix == ".ipynb" else replace
        updated = swap(text, old, new)
        if updated != text:
            found[path] = updated
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, name what is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    found = stale(arguments.root)
    for path, text in found.items():
        print(("stale: " if arguments.check else "wrote ") + str(path.relative_to(arguments.root)))
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    if arguments.check and found:
        print("run: make url")
    return int(arguments.check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
