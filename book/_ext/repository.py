"""The repository's address, and the notebooks as the site shows them.

While the address in pyproject.toml is the placeholder, no page shows a link to it.
"""

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
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def set_repository(app: Sphinx, config: Any) -> None:
    url = config.vae_repository = repository_url(Path(app.srcdir))
    options = {"repository_url": url}
    if url == PLACEHOLDER:
        buttons = ("repository", "issues", "edit_page")
        options = {"repository_url": ""} | {f"use_{button}_button": False for button in buttons}
    config.html_theme_options |= options | {"launch_buttons": {}}


def shown_cells(cells: list[dict], placeholder: bool) -> list[dict]:
    """The cells that the site shows; a badge, which is a picture from elsewhere, becomes a link."""
    kept = []
    for cell in cells:
        text = "".join(cell["source"])
        badge = "colab-badge" in cell["metadata"].get("tags", [])
        if placeholder and (badge or PLACEHOLDER in text):
            continue  # the setup cell, too, clones a repository that has no address yet
        if badge:
            link = re.search(re.escape(COLAB) + r"github/[^)\s]+", text)[0]
            cell["source"] = f'<p><a class="vae-colab" href="{link}">Open in Colab</a></p>\n'
        kept.append(cell)
    return kept


def rewrite_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change what a page is made from; the stored notebook stays as it is."""
    if str(app.env.doc2path(docname)).endswith(".ipynb"):
        notebook = json.loads(source[0])
        notebook["cells"] = shown_cells(notebook["cells"], app.config.vae_repository == PLACEHOLDER)
        notebook["metadata"].pop("widgets", None)  # progress bars: their scripts lie elsewhere
        # The lexer that knows Jupyter's own lines, such as "!git clone" in the setup cell.
        notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        source[0] = json.dumps(notebook)


class ColabNote(MarkdownDirective):
    """``{colab-note}``: one line on Colab, once the repository has an address."""

    def markdown(self) -> str:
        url = self.config.vae_repository
        folder = f"{COLAB}github/{url.removeprefix('https://github.com/')}/blob/main/notebooks"
        note = (
            f"**In Colab.** [Open chapter 1]({folder}/01_autoencoder.ipynb), or press *Open in "
            "Colab* at the top of any chapter. Its first cell installs the package."
        )
        return "" if url == PLACEHOLDER else note


def setup(app: Sphinx) -> None:
    app.add_config_value("vae_repository", PLACEHOLDER, "env")
    app.add_directive("colab-note", ColabNote)
    app.connect("config-inited", set_repository)
    app.connect("source-read", rewrite_notebook)
