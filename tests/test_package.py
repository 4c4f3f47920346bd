"""What holds for every module of the package: one-way imports, docstrings, no pickle."""

import ast
import graphlib

import pytest
from conftest import ROOT

import vae_tutorial

PACKAGE = ROOT / "vae_tutorial"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
}
# From the ground up. A module may import from its own line's folder and from the lines before it.
LAYERS = (
    ("randomness", "distributed", "progress", "schedules", "spec"),
    ("data",),
    ("networks",),
    ("posteriors", "likelihoods"),
    ("flows", "priors"),
    ("batches", "history", "checkpoint"),
    ("models.vae", "models.autoencoder", "objectives"),
    ("evaluate", "compiled"),
    ("exchange", "detection", "missing", "coverage"),
    ("fit", "models", "latent", "style", "diagrams"),
    ("runs", "plots", "checks"),
    ("coding", "measure"),
    ("__init__",),
)


def layer_of(module: str) -> int:
    """The layer of a module or of the nearest folder above it that is named."""
    named = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    module = module.removesuffix(".__init__") or "__init__"
    while module not in named:
        assert "." in module, f"{module} is new: give it a place in LAYERS"
        module = module.rpartition(".")[0]
    return named[module]


def own_imports(name: str) -> set[str]:
    """Modules of the package that a module imports when it is loaded."""
    found = set()
    for node in MODULES[name].body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vae_tutorial"):
            below = node.module.removeprefix("vae_tutorial").strip(".")
            for inside in (f"{below}.{alias.name}".strip(".") for alias in node.names):
                candidates = (inside, f"{inside}.__init__", below, f"{below}.__init__")
                found.add(next((c for c in candidates if c in MODULES), inside))
    return found


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name):
    assert max(map(layer_of, own_imports(name)), default=-1) <= layer_of(name)


def test_imports_have_no_circle():
    graph = {name: own_imports(name) for name in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError where there is one


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name):
    assert ast.get_docstring(MODULES[name])
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [n for n in MODULES[name].body if isinstance(n, kinds) and not n.name.startswith("_")]
    inside = [n for thing in public if isinstance(thing, ast.ClassDef) for n in thing.body]
    methods = [n for n in inside if isinstance(n, kinds) and not n.name.startswith("_")]
    for node in public + methods:  # what torch calls needs no words: the class says its shapes
        assert ast.get_docstring(node) or node.name == "forward", f"{name}.{node.name}"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unpickles(name):
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not {"pickle", "joblib", "dill", "shelve", "cloudpickle"} & names
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.load", "torch.save", "np.load", "numpy.load")


def test_what_is_listed_is_there():
    assert all(hasattr(vae_tutorial, name) for name in vae_tutorial.__all__)
