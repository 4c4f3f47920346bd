"""The repository's address, and the notebooks as the site shows them.

While the address in pyproject.toml is the placeholder, no page shows a link to it.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from contents import MarkdownDirective
from sphinx.application import Sphinx

PLACEHOLDER = "https://github.com/OWNER/vae-tutorial"
COLAB = "https://colab.research.google.com/"


def repository_url(root: Path) -> str:
    """The address that pyproject.toml gives: the one place where it stands."""
    with (root / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


def set_repository(app: Sphinx, config: Any) -> None:
    url = config.vae_repository = repository_url(Path(app.srcdir))
    options = config.html_theme_options
    if url == PLACEHOLDER:
        for name in [name for name in options if name.startswith("repository_")]:
            options.pop(name)
        for button in ("repository", "issues", "edit_page"):
            options[f"use_{button}_button"] = False
    else:
        options["repository_url"] = url
    options["launch_buttons"] = {}


def shown_cells(cells: list[dict], placeholder: bool) -> list[dict]:
    """The cells that the site shows; a badge, which is a picture from elsewhere, becomes a link."""
    kept = []
    for cell in cells:
        text = "".join(cell["source"])
        if "colab-badge" in cell.get("metadata", {}).get("tags", []) or "colab-badge.svg" in text:
            link = re.search(re.escape(COLAB) + r"github/[^)\s]+", text)
            if placeholder or link is None:
                continue
            cell["source"] = f'<p><a class="vae-colab" href="{link[0]}">Open in Colab</a></p>\n'
        elif placeholder and PLACEHOLDER in text:
            continue  # the setup cell: it clones a repository that has no address yet
        kept.append(cell)
    return kept


def rewrite_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change what a page is made from; the stored notebook stays as it is."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    notebook["cells"] = shown_cells(notebook["cells"], app.config.vae_repository == PLACEHOLDER)
    notebook["metadata"].pop("widgets", None)  # progress bars: their scripts come from elsewhere
    # The lexer that knows Jupyter's own lines, such as "!git clone" in the setup cell.
    notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    source[0] = json.dumps(notebook)


class ColabNote(MarkdownDirective):
    """``{colab-note}``: one line on Colab, once the repository has an address."""

    def lines(self) -> list[str]:
        url = self.config.vae_repository
        if url == PLACEHOLDER:
            return []
        folder = f"{COLAB}github/{url.removeprefix('https://github.com/')}/blob/main/notebooks"
        return [
            f"**In Colab.** [Open chapter 1]({folder}/01_autoencoder.ipynb), or press *Open in "
            "Colab* at the top of any chapter. Its first cell installs the package."
        ]


def setup(app: Sphinx) -> None:
    app.add_config_value("vae_repository", PLACEHOLDER, "env")
    app.add_directive("colab-note", ColabNote)
    app.connect("config-inited", set_repository)
    app.connect("source-read", rewrite_notebook)
