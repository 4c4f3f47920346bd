"""The book's diagrams: SVG files in the colour of the text that surrounds them."""

import re
from pathlib import Path

FOLDER = Path(__file__).parent


class Diagram:
    """A drawing that a notebook shows as SVG, and that says in words what it shows.

    Args:
        name: its file's name, without ``.svg``.

    Raises:
        ValueError: where there is no such diagram.

    Example:
        >>> Diagram("ladder")
        <diagram ladder: ...>
    """

    def __init__(self, name: str) -> None:
        names = sorted(path.stem for path in FOLDER.glob("*.svg"))
        if name not in names:
            raise ValueError(f"there is no diagram {name!r}; there are {', '.join(names)}")
        self.name = name
        self.svg = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")

    @property
    def description(self) -> str:
        """What is drawn, in words: the SVG's own ``<desc>``."""
        return " ".join(re.search(r"<desc[^>]*>(.*?)</desc>", self.svg, re.DOTALL)[1].split())

    def __repr__(self) -> str:
        return f"<diagram {self.name}: {self.description}>"

    def _repr_svg_(self) -> str:
        return self.svg
