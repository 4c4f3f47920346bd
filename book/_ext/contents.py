"""Lists that pages make by themselves: the chapters, and the modules of the package."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

CHAPTER = re.compile(r"^(\d+)\. \[(.+?)\]\((notebooks/.+?)\.ipynb\)\. (.+)$", re.MULTILINE)
CARD = """:::{{grid-item-card}} {} · {}
:link: /{}
:link-type: doc

{}
:::
"""
# A package shows what it defines; what it passes on stands where it is defined.
REFERENCE = """## `{0}`

```{{eval-rst}}
.. automodule:: vae_tutorial.{0}
   :members:
   :ignore-module-all:
```
"""


class MarkdownDirective(SphinxDirective):
    """A directive that stands for the text of its ``markdown()``, made when the page is made."""

    def run(self) -> list[nodes.Node]:
        self.root = Path(self.env.srcdir)
        return self.parse_text_to_nodes(self.markdown(), allow_section_headings=True)

    def read(self, path: Path) -> str:
        """A file that the page is made of: where it changes, the page is made anew."""
        self.env.note_dependency(str(path))
        return path.read_text(encoding="utf-8")


class Chapters(MarkdownDirective):
    """``{chapters}``: a card for each chapter that README.md lists."""

    def markdown(self) -> str:
        cards = [
            CARD.format(*found) for found in CHAPTER.findall(self.read(self.root / "README.md"))
        ]
        grid = "::::{grid} 1 1 2 2\n:gutter: 3\n:class-container: vae-chapters\n"
        return "\n".join([grid, *cards, "::::"])


class Modules(MarkdownDirective):
    """``{modules} NAME ...``: the reference of these modules, and of all below them.

    Without a name: of all modules that no page under book/api/ names, so that a new one is never
    left out.
    """

    optional_arguments = 1
    final_argument_whitespace = True

    def markdown(self) -> str:
        known, names = modules(self.root), " ".join(self.arguments).split()
        if gone := [name for name in names if not below([name], known)]:
            raise self.error(f"these are no modules of vae_tutorial: {gone}")
        pages = map(self.read, sorted((self.root / "book" / "api").glob("*.md")))
        chosen = below(names, known) or unnamed(known, "".join(pages))
        return "\n".join(REFERENCE.format(module) for module in chosen)


def modules(root: Path) -> list[str]:
    """Every module with a public class or function of its own: "fit", "models.vae"."""
    package, public = root / "vae_tutorial", re.compile(r"^(class|def) [^_]", re.MULTILINE)
    paths = [*package.rglob("[!_]*.py"), *package.glob("*/__init__.py")]
    found = [p.relative_to(package) for p in paths if public.search(p.read_text(encoding="utf-8"))]
    return sorted(".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in found)


def below(names: list[str], known: list[str]) -> list[str]:
    """The modules of these names, and those of packages of these names."""
    return [module for name in names for module in known if f"{module}.".startswith(f"{name}.")]


def unnamed(known: list[str], pages: str) -> list[str]:
    """The modules that the text of the pages does not name."""
    named = below(" ".join(re.findall(r"{modules} (.+)", pages)).split(), known)
    named += re.findall(r"automodule:: vae_tutorial\.(\S+)", pages)
    return [module for module in known if module not in named]


def without_form_lines(app: Sphinx, docname: str, source: list[str]) -> None:
    """Colab folds a solution by a comment on its first line; on the page it says nothing."""
    source[0] = re.sub(r'"# @title [^\n]*\\n",\s*', "", source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", without_form_lines)
    app.add_directive("chapters", Chapters)
    app.add_directive("modules", Modules)
