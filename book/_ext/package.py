"""The package, read without what it computes with: the book's environment has no PyTorch.

Reading docstrings and signatures needs the package's modules, but none of their results. What they
import and is not installed is stood in for, by Sphinx's own stand-ins.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.ext.autodoc.mock import mock

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = (
    "torch torchvision constriction pandas matplotlib seaborn sklearn skimage PIL tqdm pyhere"
)
MISSING = [name for name in IMPORTED.split() if find_spec(name) is None]

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
with mock(MISSING):
    from vae_tutorial.spec import build as build


def stand_in(app: Sphinx, config: Config) -> None:
    config.autodoc_mock_imports = MISSING


def setup(app: Sphinx) -> None:
    app.connect("config-inited", stand_in)
