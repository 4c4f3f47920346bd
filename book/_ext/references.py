"""Names documented elsewhere, docstrings as reStructuredText, and how citations read."""

import pkgutil
import re
from contextlib import suppress
from functools import partial
from typing import Any

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as UnsrtStyle
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx
from sphinxcontrib.bibtex.plugin import register_plugin as register_citation_style
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

TORCH = "https://docs.pytorch.org/docs/stable/"
PYTHON = "https://docs.python.org/3/library/"
PANDAS = "https://pandas.pydata.org/docs/reference/api/"
ELSEWHERE = {  # by project and name: torch.Tensor is defined in torch._tensor
    ("torch", "Tensor"): f"{TORCH}tensors.html#torch.Tensor",
    ("torch", "Generator"): f"{TORCH}generated/torch.Generator.html",
    ("torch", "device"): f"{TORCH}tensor_attributes.html#torch.device",
    ("torch", "dtype"): f"{TORCH}tensor_attributes.html#torch.dtype",
    ("torch", "Module"): f"{TORCH}generated/torch.nn.Module.html",
    ("torch", "DistributedDataParallel"): (
        f"{TORCH}generated/torch.nn.parallel.DistributedDataParallel.html"
    ),
    ("torch", "Distribution"): f"{TORCH}distributions.html",
    ("torch", "DataLoader"): f"{TORCH}data.html#torch.utils.data.DataLoader",
    ("numpy", "ndarray"): "https://numpy.org/doc/stable/reference/generated/numpy.ndarray.html",
    ("pandas", "DataFrame"): f"{PANDAS}pandas.DataFrame.html",
    ("matplotlib", "Figure"): "https://matplotlib.org/stable/api/figure_api.html",
    ("matplotlib", "Axes"): "https://matplotlib.org/stable/api/axes_api.html",
    ("matplotlib", "AxesImage"): "https://matplotlib.org/stable/api/image_api.html",
    ("pathlib", "Path"): f"{PYTHON}pathlib.html#pathlib.Path",
    ("collections", "Callable"): f"{PYTHON}collections.abc.html#collections.abc.Callable",
}


def find_elsewhere(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """A name that Sphinx does not know, but Python does: it must exist, or the build fails.

    One of this package that another module passes on links to where it is defined, one of another
    project to its documentation; all else stays plain text.
    """
    target, place = node["reftarget"], node.get("py:module")
    if uri := ELSEWHERE.get((target.partition(".")[0], target.rpartition(".")[2])):
        return nodes.reference("", "", contnode, refuri=uri, internal=False, reftitle=target)
    if node.get("refdomain") != "py" or (found := resolve(f"{place}.{target}", target)) is None:
        return None
    module, name = getattr(found, "__module__", None) or "", getattr(found, "__qualname__", "")
    if module.startswith("vae_tutorial") and name:
        where = (env, node["refdoc"], app.builder, "obj", f"{module}.{name}")
        return env.get_domain("py").resolve_xref(*where, node, contnode)
    if uri := ELSEWHERE.get((module.partition(".")[0], name)):
        return nodes.reference("", "", contnode, refuri=uri, internal=False, reftitle=target)
    return contnode


def resolve(*names: str) -> Any:
    """What the first of these names means that means anything to Python; else None."""
    for name in names:
        with suppress(ImportError, AttributeError, ValueError):
            return pkgutil.resolve_name(name)


def mend_docstring(app: Sphinx, what: str, name: str, obj: Any, _: Any, lines: list[str]) -> None:
    """Before napoleon: |a| is an absolute value, and not reST's markup."""
    lines[:] = [re.sub(r"(``.*?``)|\|", lambda found: found[1] or r"\|", line) for line in lines]
    if what in {"property", "attribute", "data"}:
        # An escaped line end is nothing, but keeps "A sum: of all" from being a type and its text.
        lines.insert(0, "\\")


# ---------------------------------------------------------------- the bibliography


class AuthorYear(BaseLabelStyle):
    """Labels such as "Kingma and Welling, 2013"."""

    def format_labels(self, entries: Any) -> Any:
        labels = [self.label(entry) for entry in entries]
        for i, label in enumerate(labels):  # two of one year: 2016a, 2016b
            letter = "abcdefgh"[labels[:i].count(label)] if labels.count(label) > 1 else ""
            yield label + letter

    def label(self, entry: Any) -> str:
        people = entry.persons.get("author", [])
        names = [" ".join(map(str, person.prelast_names + person.last_names)) for person in people]
        words = names[0] + " et al." if len(names) > 2 else " and ".join(names)
        return re.sub("[{}]", "", words) + f", {entry.fields['year']}"


class BookStyle(UnsrtStyle):
    default_sorting_style = "author_year_title"
    default_label_style = "vae_author_year"


def setup(app: Sphinx) -> None:
    # Kingma and Welling (2013), and (Kingma and Welling, 2013).
    kinds = ("parenthetical", "textual", "author", "label", "year")
    brackets = {f"bracket_{kind}": BracketStyle("(", ")") for kind in kinds}
    style = partial(AuthorYearReferenceStyle, **brackets)
    register_citation_style("sphinxcontrib.bibtex.style.referencing", "vae", style)
    register_plugin("pybtex.style.labels", "vae_author_year", AuthorYear)
    register_plugin("pybtex.style.formatting", "vae", BookStyle)
    app.connect("missing-reference", find_elsewhere)
    app.connect("autodoc-process-docstring", mend_docstring, priority=100)
