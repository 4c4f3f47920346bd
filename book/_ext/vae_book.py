"""The book's own Sphinx extension: what the theme and its helpers do not do by themselves."""

import zlib
from pathlib import Path
from typing import Any

import contents
import light
import live
import mending
import package
import references
import repository
import runs
import styles
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    for part in (contents, light, live, mending, package, references, repository, runs, styles):
        part.setup(app)
    # A changed extension, a new module or a new run makes every page anew.
    root, sources = Path(app.srcdir), sorted(Path(__file__).parent.glob("*.py"))
    listed = "\n".join([*contents.modules(root), *map(str, runs.stored(root))])
    version = zlib.crc32(b"".join(path.read_bytes() for path in sources) + listed.encode())
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
