"""What must agree with what: versions, addresses, chapters and the table of contents."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def direct_requirements() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    requirements = [Requirement(text) for group in groups for text in group]
    return [one for one in requirements if canonicalize_name(one.name) != PROJECT["name"]]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    named = [line.split("#")[0].strip() for line in lines]
    pairs = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in named if line]
    assert all(pairs), "constraints.txt: every line must read name==version"
    return {canonicalize_name(pair[1]): Version(pair[2]) for pair in pairs}


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize("requirement", direct_requirements(), ids=str)
def test_each_requirement_is_pinned_within_its_range(requirement):
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"{requirement.name} is not in constraints.txt"
    assert requirement.specifier.contains(pinned, prereleases=True), (
        f"constraints.txt pins {requirement.name} {pinned}, pyproject.toml wants {requirement}"
    )


def test_conda_environment_is_a_shell_around_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    python = Requirement(next(item for item in conda if item.startswith("python")).replace(" ", ""))
    assert str(python.specifier) == PROJECT["requires-python"]
    assert {item.split()[0] for item in conda} == {"python", "make", "pip"}, (
        "packages belong in pyproject.toml, not in environment.yml"
    )
    assert "-c constraints.txt" in pip
    (install,) = [line for line in pip if line != "-c constraints.txt"]
    match = re.fullmatch(r"-e \.\[([a-z,]+)\]", install)
    assert match is not None, f"environment.yml: expected -e .[extras], got {install!r}"
    assert set(match[1].split(",")) <= set(PROJECT["optional-dependencies"])


def test_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]


# ---------------------------------------------------------------- the repository's address


def set_url(root: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / "set_url.py", "--root", root, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_address_is_the_same_everywhere():
    result = set_url(ROOT, "--check")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def house(tmp_path):
    """A copy of what the tool reads and writes, with a notebook as the chapters have it."""
    for name in ("pyproject.toml", "README.md", "CITATION.cff", "book/_config.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    link = "https://colab.research.google.com/github/OWNER/vae-tutorial/blob/main/notebooks/x.ipynb"
    sources = [
        ["# Título\n", "é, σ²"],
        [f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"],
        ["URL = 'https://github.com/OWNER/vae-tutorial'\n", "!git clone {URL}.git"],
        ["!pip install git+https://github.com/OWNER/vae-tutorial.git"],
        ["https://github.com/OWNER/vae-tutorial-extras is another one"],
    ]
    notebook = {"cells": [{"cell_type": "markdown", "source": s} for s in sources], "nbformat": 4}
    (tmp_path / "notebooks").mkdir()
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    (tmp_path / "notebooks" / "x.ipynb").write_text(text, encoding="utf-8")
    return tmp_path


def name_repository(root: Path, url: str) -> None:
    path = root / "pyproject.toml"
    text = re.sub(r'Repository = ".*"', f'Repository = "{url}"', path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")


def snapshot(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_set_url_rewrites_once_and_back(house):
    name_repository(house, PROJECT["urls"]["Repository"])
    assert set_url(house).returncode == 0
    before = snapshot(house)
    name_repository(house, "https://github.com/ada/my.vae_book")
    stale = set_url(house, "--check")
    assert stale.returncode == 1
    assert "x.ipynb" in stale.stdout
    assert set_url(house).returncode == 0
    assert set_url(house, "--check").returncode == 0

    after = snapshot(house)
    notebook = after["x.ipynb"].decode()
    assert "https://github.com/ada/my.vae_book'" in notebook
    assert "git+https://github.com/ada/my.vae_book.git" in notebook
    assert "colab.research.google.com/github/ada/my.vae_book/blob/main" in notebook
    assert "https://github.com/OWNER/vae-tutorial-extras" in notebook
    assert "Título" in notebook
    assert notebook.endswith("}\n")
    assert "https://github.com/ada/my.vae_book" in after["CITATION.cff"].decode()
    assert set_url(house).stdout == ""
    assert snapshot(house) == after

    name_repository(house, PROJECT["urls"]["Repository"])
    assert set_url(house).returncode == 0
    assert snapshot(house) == before


@pytest.mark.parametrize("url", ["github.com/a/b", "https://github.com/a/b/", "https://x.org/a/b"])
def test_set_url_refuses_what_is_no_address(house, url):
    name_repository(house, url)
    result = set_url(house)
    assert result.returncode != 0
    assert "expected https://github.com/OWNER/NAME" in result.stderr


# ---------------------------------------------------------------- the book


def table_of_contents() -> list[str]:
    def files(tree):
        if isinstance(tree, dict):
            if "file" in tree:
                yield tree["file"]
            for branch in tree.values():
                yield from files(branch)
        elif isinstance(tree, list):
            for branch in tree:
                yield from files(branch)

    tree = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    return [tree["root"], *files(tree)]


def test_contents_and_notebooks_agree():
    named = [name for name in table_of_contents() if name.startswith("notebooks/")]
    assert named == [f"notebooks/{path.stem}" for path in NOTEBOOKS]


def test_contents_name_files_that_exist():
    for name in table_of_contents():
        assert (ROOT / f"{name}.md").exists() or (ROOT / f"{name}.ipynb").exists(), name


def test_every_module_is_in_the_reference():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book/api").glob("*.md"))
    for path in (ROOT / "vae_tutorial").glob("[a-z]*.py"):
        assert f"automodule:: vae_tutorial.{path.stem}\n" in pages, f"book/api/ lacks {path.stem}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_fit_for_the_book(notebook):
    assert notebook.stat().st_size < 1_500_000, "a notebook stays under 1.5 MB"
    content = json.loads(notebook.read_text(encoding="utf-8"))
    tags = [cell["metadata"].get("tags", []) for cell in content["cells"]]
    assert any("colab-badge" in one for one in tags), "no cell tagged colab-badge"
    for cell in content["cells"]:
        pictures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        if pictures:
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) >= 20, "a picture without alternative text: " + "".join(cell["source"])


@pytest.mark.parametrize(
    "name", ["LICENSE", "LICENSE-TEXT", "CITATION.cff", "README.md", "CONTRIBUTING.md"]
)
def test_the_house_has(name):
    assert (ROOT / name).stat().st_size > 200


def test_readme_names_files_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r'\]\(([^)#]+)\)|(?:src|srcset)="([^"]+)"', text):
        target = "".join(target)
        if "://" not in target:
            assert (ROOT / target).exists(), f"README.md links to {target}"
