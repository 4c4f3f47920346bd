"""Lists that pages make by themselves: the chapters, and the modules of the package."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

CHAPTER = re.compile(r"^(\d+)\. \[(.+?)\]\((notebooks/.+?)\.ipynb\)\. (.+)$", re.MULTILINE)


class MarkdownDirective(SphinxDirective):
    """A directive that stands for Markdown, which ``lines`` makes when the page is made."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        box = nodes.container()
        lines = StringList(self.lines(), source=self.name)
        self.state.nested_parse(lines, 0, box, match_titles=True)
        return box.children

    @property
    def root(self) -> Path:
        return Path(self.env.srcdir)


class Chapters(MarkdownDirective):
    """``{chapters}``: a card for each chapter that README.md lists."""

    def lines(self) -> list[str]:
        self.env.note_dependency(str(self.root / "README.md"))
        lines = ["::::{grid} 1 1 2 2", ":gutter: 3", ":class-container: vae-chapters", ""]
        for number, title, page, text in chapters(self.root):
            lines += [f":::{{grid-item-card}} {number} · {title}", f":link: /{page}"]
            lines += [":link-type: doc", "", text, ":::", ""]
        return [*lines, "::::"]


def chapters(root: Path) -> list[tuple[str, str, str, str]]:
    """Number, title, page and text of every chapter in README.md's list."""
    return CHAPTER.findall((root / "README.md").read_text(encoding="utf-8"))


class Modules(MarkdownDirective):
    """``{modules} NAME ...``: the reference of these modules, and of all below them.

    Without a name: of all modules that no page under book/api/ names, so that a new one is never
    left out.
    """

    optional_arguments = 1
    final_argument_whitespace = True

    def lines(self) -> list[str]:
        known, pages = modules(self.root), sorted((self.root / "book" / "api").glob("*.md"))
        if self.arguments:
            names = self.arguments[0].split()
            chosen = [module for name in names for module in known if within(module, name)]
            if gone := [name for name in names if not any(within(m, name) for m in known)]:
                raise self.error(f"these are no modules of vae_tutorial: {gone}")
        else:
            chosen = unnamed(known, "".join(page.read_text(encoding="utf-8") for page in pages))
            for page in pages:
                self.env.note_dependency(str(page))
        lines = []
        for module in chosen:
            # A package shows what it defines; what it passes on stands where it is defined.
            lines += [f"## `vae_tutorial.{module}`", "", "```{eval-rst}"]
            lines += [f".. automodule:: vae_tutorial.{module}", "   :members:"]
            lines += ["   :ignore-module-all:", "```", ""]
        return lines


def modules(root: Path) -> list[str]:
    """Every module with a public class or function of its own: "fit", "models.vae"."""
    package, names = root / "vae_tutorial", []
    for path in [*package.rglob("[!_]*.py"), *package.glob("*/__init__.py")]:
        if re.search(r"^(class|def) [^_]", path.read_text(encoding="utf-8"), re.MULTILINE):
            parts = path.relative_to(package).with_suffix("").parts
            names.append(".".join(parts).removesuffix(".__init__"))
    return sorted(names)


def within(module: str, name: str) -> bool:
    return f"{module}.".startswith(f"{name}.")


def unnamed(known: list[str], pages: str) -> list[str]:
    """The modules that the text of the pages does not name."""
    named = " ".join(re.findall(r"{modules} (.+)", pages)).split()
    single = re.findall(r"automodule:: vae_tutorial\.(\S+)", pages)
    return [m for m in known if m not in single and not any(within(m, name) for name in named)]


def setup(app: Sphinx) -> None:
    app.add_directive("chapters", Chapters)
    app.add_directive("modules", Modules)
