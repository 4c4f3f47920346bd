"""What must agree with what: versions, addresses, chapters and what the front pages say."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

# ---------------------------------------------------------------- versions


def requirements() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = [Requirement(text) for group in groups for text in group]
    return [one for one in found if canonicalize_name(one.name) != PROJECT["name"]]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_each_requirement_is_pinned_within_its_range(requirement):
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {canonicalize_name(n): v for n, v in re.findall(r"^([\w.-]+)==([^\s#]+)", text, re.M)}
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)], True)


def test_conda_and_citation_agree_with_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *found, last = conda["dependencies"]
    python, make, pip = (Requirement(item.replace(" ", "")) for item in found)
    assert [conda["name"], make.name, pip.name] == [PROJECT["name"], "make", "pip"]
    assert str(python) == "python" + PROJECT["requires-python"]
    install, constraints = sorted(last["pip"], reverse=True)
    assert constraints == "-c constraints.txt"
    extras = Requirement("x" + install.removeprefix("-e .")).extras
    assert extras <= set(PROJECT["optional-dependencies"])
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]


def test_only_tests_import_what_only_tests_install():
    extra = {"scipy", "hypothesis", "pytest"}
    files = [*(ROOT / "vae_tutorial").rglob("*.py"), *NOTEBOOKS]
    imports = "".join(path.read_text(encoding="utf-8") for path in files)
    assert not extra & set(re.findall(r"(?:import|from) (\w+)", imports))


# ---------------------------------------------------------------- the repository's address


def set_url(root: Path, *options: str, url: str | None = None) -> subprocess.CompletedProcess:
    """Call the tool, once the project has this address."""
    if url:
        path = root / "pyproject.toml"
        text = re.sub('(Repository = )".*"', rf'\1"{url}"', path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
    command = [sys.executable, ROOT / "tools" / "set_url.py", "--root", root, *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_address_is_the_same_everywhere():
    result = set_url(ROOT, "--check")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def copy(tmp_path):
    """A copy of what the tool reads and writes, with a notebook as the chapters have it."""
    for name in ("pyproject.toml", "README.md", "CITATION.cff", "book/_config.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    lines = [
        "# Título [![x](y)](https://colab.research.google.com/github/OWNER/vae-tutorial/blob/x)\n",
        "URL = 'https://github.com/OWNER/vae-tutorial'; !git clone {URL}.git\n",
        "!pip install git+https://github.com/OWNER/vae-tutorial.git\n",
        "https://github.com/OWNER/vae-tutorial-extras is another one",
    ]
    notebook = {"cells": [{"cell_type": "markdown", "source": lines}], "nbformat": 4}
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "x.ipynb").write_text(text, encoding="utf-8")
    return tmp_path


def snapshot(root: Path) -> dict[str, str]:
    return {p.name: p.read_text(encoding="utf-8") for p in root.rglob("*") if p.is_file()}


def test_set_url_rewrites_once_and_back(copy):
    old, new = PROJECT["urls"]["Repository"], "https://github.com/ada/my.vae_book"
    assert set_url(copy, url=old).returncode == 0
    before = snapshot(copy)
    stale = set_url(copy, "--check", url=new)
    assert stale.returncode == 1
    assert "x.ipynb" in stale.stdout
    assert set_url(copy).returncode == 0
    assert set_url(copy).stdout == ""
    names = [url.removeprefix("https://github.com/") for url in (old, new)]
    wanted = {k: re.sub(rf"{names[0]}(?!-extras)", names[1], text) for k, text in before.items()}
    assert snapshot(copy) == wanted
    assert set_url(copy, url=old).returncode == 0
    assert snapshot(copy) == before


@pytest.mark.parametrize("url", ["github.com/a/b", "https://github.com/a/b/", "https://x.org/a/b"])
def test_set_url_refuses_what_is_no_address(copy, url):
    result = set_url(copy, url=url)
    assert result.returncode != 0
    assert "expected" in result.stderr


# ---------------------------------------------------------------- chapters and front pages


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_fit_for_the_book(notebook):
    assert notebook.stat().st_size < 1_500_000, "a notebook stays under 1.5 MB"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert any("colab-badge" in cell["metadata"].get("tags", []) for cell in cells)
    for cell in cells:
        pictures = [
            kind
            for output in cell.get("outputs", [])
            for kind in output.get("data", {})
            if kind.startswith("image/")
        ]
        if pictures:
            shown, source = cell["metadata"].get("mystnb", {}), "".join(cell["source"])
            assert len(shown.get("image", {}).get("alt", "")) >= 20, f"no text instead of: {source}"
            assert len(shown.get("figure", {}).get("caption", "")) >= 20, f"no caption: {source}"
            assert len(pictures) == 1, f"two pictures under one caption: {source}"


def test_readme_lists_the_chapters():
    """In order, by their own titles: the front page's cards are made of this list."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(\d+)\. \[(.+)\]\(notebooks/(\d\d)_(\w+)\.ipynb\)\. .{40}", text, re.M)
    found = []
    for path in NOTEBOOKS:
        head = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
        number, _, name = path.stem.partition("_")
        found.append((str(int(number)), "".join(head).split("\n")[0][2:], number, name))
    assert listed == found


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_front_pages_name_what_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r'(?:\]\(|src="|srcset=")([^)"#]+)', text)
    named += re.findall(r"`([a-z_./]+/[a-z_./]*|\w+\.(?:py|toml|txt|md|bib))`", text)
    gone = [name for name in named if "://" not in name and not (ROOT / name).exists()]
    assert not gone, f"{page} names what does not exist: {gone}"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"make ([a-z]+)(?=[`\n ]+(?:`|#|\n))", text)) <= set(targets)
