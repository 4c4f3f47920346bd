"""Specs and identities: what goes into JSON comes back, and different things never look the same."""

import copy
import importlib.util
import inspect
import json
import math
import os
import pkgutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import pytest
import torch
from tiny import Squeeze, noisy_error, squeeze, tiny_autoencoder, tiny_vae
from torch import nn

import vae_tutorial as vt
from vae_tutorial import MLP, Bernoulli, Part, build, elbo, evaluate, likelihoods, spec
from vae_tutorial.data import floats
from vae_tutorial.models import (
    classifier,
    conditional,
    ladder,
    pixelcnn,
    semisupervised,
    sharp_decoder,
    vqvae,
)
from vae_tutorial.models.flow_matching import FlowMatching
from vae_tutorial.models.transformer import CodeTransformer
from vae_tutorial.models.vqvae2 import TwoLevelVQVAE
from vae_tutorial.networks import TimeMLP
from vae_tutorial.posteriors import FullCovarianceGaussian
from vae_tutorial.priors import AutoregressiveFlow, MixtureOfGaussians, StackedFlow, VampPrior
from vae_tutorial.schedules import Cyclical, LinearWarmUp, OneCycle
from vae_tutorial.spec import identify

SHAPE = (1, 8, 8)


class Child(Squeeze):
    """A part of a part, with arguments of every kind."""

    def __init__(self, times, *more, **options):
        super().__init__(width=2 * times)
        self.total = times + sum(more) + sum(options.values())


class Holder(Part):
    """Holds anything."""

    def __init__(self, held):
        super().__init__()
        self.held = held


PARTS = [
    lambda: tiny_vae(bound=4.0), tiny_autoencoder, squeeze, lambda: squeeze(5, norm=True),
    lambda: vqvae.VQVAE((3, 8, 8), vqvae.VectorQuantizer(4, 5, decay=0.9), (4, 5), 1),
    lambda: pixelcnn.GatedPixelCNN(5, (3, 3), channels=4, layers=3, hidden=6),
    lambda: pixelcnn.GatedPixelCNN(5, (3, 3), channels=4, layers=3, hidden=6, classes=2),
    lambda: ladder.LadderVAE(SHAPE, Bernoulli(SHAPE), [4, 2], [6, 5], batch_norm=False),
    lambda: ladder.HierarchicalVAE(SHAPE, Bernoulli(SHAPE, greys=True), (4,), (6,)),
    lambda: vt.ConvEncoder(SHAPE, 9, [4, 6], 5, activation=nn.Tanh), lambda: vt.ConvDecoder(3, SHAPE, (6, 4), 5),
    lambda: vt.networks.ResidualEncoder(SHAPE, 9, [4, 6], 2, 3), lambda: vt.networks.ResidualDecoder(3, SHAPE, [6, 4], 0),
    lambda: vt.networks.PooledConv(SHAPE, 3, [4, 6], nn.Tanh), lambda: vt.networks.GridEncoder(SHAPE, 24, [4, 6]), lambda: vt.networks.GridDecoder(8, SHAPE, (6, 4, 3)),
    lambda: classifier.Classifier(SHAPE, 3, (4, 6), 5), lambda: sharp_decoder.PatchDiscriminator(SHAPE, (3, 4)),
    lambda: sharp_decoder.SharpDecoder(tiny_vae(SHAPE), classifier.Classifier(SHAPE, 3, (4,), 5), None, "abc"),
    lambda: vt.MLP(3, 2, linear=vt.networks.HeLinear),
    lambda: FullCovarianceGaussian(3, None), lambda: AutoregressiveFlow(3, hidden=(4,)), lambda: MixtureOfGaussians(3, 2),
    lambda: conditional.ConditionalVAE(
        conditional.ConditionalEncoder(conditional.LabelledMLP(SHAPE, 4, 3, (5, 4), nn.Tanh), vt.MeanFieldGaussian(2)),
        conditional.ConditionalDecoder(conditional.LabelledMLP(2, SHAPE, 3), Bernoulli(SHAPE)), conditional.ClassPrior(2, 3)),
    lambda: semisupervised.SemiSupervisedVAE(vt.MLP(SHAPE, 3), conditional.ConditionalVAE(
        conditional.ConditionalEncoder(conditional.LabelledMLP(SHAPE, 4, 3), vt.MeanFieldGaussian(2)),
        conditional.ConditionalDecoder(conditional.LabelledMLP(2, SHAPE, 3), Bernoulli(SHAPE)), vt.StandardNormal(2))),
    lambda: StackedFlow([AutoregressiveFlow(3, hidden=(4,)) for _ in range(2)]),
    lambda: CodeTransformer(4, (2, 2), width=4, layers=1, heads=2), lambda: vqvae.FiniteScalarQuantizer((4, 3)),
    lambda: TwoLevelVQVAE((1, 8, 8), vqvae.VectorQuantizer(4, 3), vqvae.FiniteScalarQuantizer((2, 2)), (4, 6)),
    lambda: FlowMatching(TimeMLP(3, width=4, classes=2), steps=5),
    lambda: VampPrior(vt.Encoder(vt.MLP(SHAPE, 6), vt.MeanFieldGaussian(3)), SHAPE, 2),
    lambda: likelihoods.Gaussian(SHAPE, noise="pixelwise"), lambda: likelihoods.ContinuousBernoulli(SHAPE),
    lambda: likelihoods.BetaBinomial(SHAPE), lambda: likelihoods.DiscretizedLogistic(SHAPE), lambda: likelihoods.DiscretizedGaussian(SHAPE, scale=0.1),
    lambda: likelihoods.Observed(likelihoods.Gaussian((4,), noise="pixelwise", bounded_mean=False)),
    lambda: likelihoods.Poisson(3), lambda: likelihoods.NegativeBinomial(3, bound=4.0), lambda: vt.networks.Rates(vt.MLP(3, 2)),
    lambda: Child(1, 2, 3, extra=4.5), lambda: Holder({"a": [1, math.inf]}),
]  # fmt: skip


@pytest.mark.parametrize("make", PARTS)
def test_a_part_is_built_again_from_json(make):
    part = make()
    described = json.loads(json.dumps(spec(part)))
    again = build(described)
    assert described == spec(part) == spec(again) == spec(copy.deepcopy(part))
    assert (type(again), str(again)) == (type(part), str(part))
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (part, again)]
    assert shapes[0] == shapes[1]


def test_every_part_of_the_package_is_in_the_test_above():
    modules = [importlib.import_module(m.name)
               for m in pkgutil.walk_packages(vt.__path__, "vae_tutorial.")]  # fmt: skip
    found = {thing for m in modules for thing in vars(m).values()
             if inspect.isclass(thing) and issubclass(thing, Part)}  # fmt: skip
    abstract = {cls for cls in found if any(other.__base__ is cls for other in found)}
    covered = {type(module) for make in PARTS for module in make().modules()
               if isinstance(module, Part)}  # fmt: skip
    assert found - abstract <= covered


def test_a_spec_says_all_arguments_with_their_defaults():
    defaults = {name: p.default for name, p in inspect.signature(MLP).parameters.items()}
    assert spec(MLP([2, 3], 4)) == {
        "class": "networks.MLP", "in_shape": [2, 3], "out_shape": [4],
        "hidden": list(defaults["hidden"]), "activation": identify(defaults["activation"]),
        "linear": identify(defaults["linear"]),
    }  # fmt: skip
    said = spec(Squeeze(norm=True))  # of a reader's own class its source, too
    assert (said["width"], said["norm"], said["class"]["import"]) == (3, True, "tiny.Squeeze")
    assert "self.down(x)" in said["class"]["source"]
    child = spec(Child(1, 2, b=3))
    assert {**child, "class": 0} == {"class": 0, "times": 1, "more": [2], "options": {"b": 3}}
    assert build(child).total == 6
    with pytest.raises(ValueError, match="not what it was"):
        build({**child, "class": {**child["class"], "source": "class Child: pass"}})
    for module in (nn.Linear(2, 3), nn.Sequential(MLP(2, 3)), Holder(nn.Linear(2, 3))):
        with pytest.raises(ValueError, match=r"Part|Linear"):
            spec(module)
    with pytest.raises(TypeError, match="breadth"):
        Squeeze(breadth=3)


@dataclass(frozen=True)
class Halve:
    """A schedule of a reader's own."""

    start: float = 1.0

    def __call__(self, progress):
        return self.start / 2**progress


def make(scale):
    def closes(x):
        return x * scale

    def default(x, scale=scale):
        return x * scale

    def keyword(x, *, scale=scale):
        return x * scale

    return [closes, default, keyword]


def plain(x):
    return x


NAMED = [
    None, True, 2, 2.5, "2", [1, [2]], {"a": 1, "b": {"c": None}}, math.inf, -math.inf, elbo, floats,
    torch.bernoulli, torch.nn.functional.relu, math.sqrt, nn.SiLU, nn.ReLU, Squeeze, plain, noisy_error,
    partial(elbo, samples=2), partial(elbo, samples=3), partial(elbo, beta=2), partial(plain, 1.0),
    partial(plain, 2.0), partial(evaluate, objective=elbo), OneCycle(0.1), OneCycle(0.2), Halve(),
    Halve(2.0), LinearWarmUp(), Cyclical(), squeeze(), squeeze(4),
]  # fmt: skip
THINGS = [*NAMED, *make(1.0), *make(100.0), math.nan]


def test_no_two_things_look_the_same_and_each_looks_the_same_in_another_process():
    found = [json.dumps(identify(thing)) for thing in THINGS]
    assert len(set(found)) == len(THINGS)
    assert identify(make(1.0)) == identify(tuple(make(1.0)))  # made twice, and sequences alike
    code = "import json, test_spec as t; print(json.dumps([json.dumps(t.identify(x)) for x in t.THINGS]))"
    there = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, text=True,
                           env=os.environ | {"PYTHONHASHSEED": "12345"}, stdout=subprocess.PIPE,
                           check=True)  # fmt: skip
    assert json.loads(there.stdout) == found


def test_what_has_a_name_is_found_again_and_nothing_else_in_its_place(monkeypatch):
    for thing in NAMED:
        found = build(json.loads(json.dumps(identify(thing))))
        assert identify(found) == identify(thing)
        assert found == thing or isinstance(thing, partial | Part), thing
    assert math.isnan(build(identify(math.nan)))
    before = identify(plain)
    monkeypatch.setattr(sys.modules[__name__], "plain", noisy_error)  # another under its name
    for described in (before, *map(identify, make(1.0))):  # or made by a function, which alone can
        with pytest.raises(ValueError, match=r"is not what|there is no"):
            build(described)


@pytest.mark.parametrize(
    "thing",
    [lambda x: x, Halve().__call__, nn.Linear(2, 2).forward, [1, lambda: 2], nn.Linear(2, 2), {1: 2}, {"float": "inf"},
     partial(lambda x: x, 1), make(lambda: 2), make(torch.ones(2)), torch.ones(2), object(), [].append,
     torch.ones(1).add, lru_cache(plain),
     type(plain)(compile("0", "nowhere", "eval"), {}, "without_source")],
    ids=lambda thing: type(thing).__name__,  # no addresses: every worker must find the same tests
)  # fmt: skip
def test_what_cannot_be_told_from_another_is_refused(thing):
    for refuse in (identify, lambda thing: spec(Holder(thing))):
        with pytest.raises(ValueError, match=r"told|tells|there is no|text|not to be had"):
            refuse(thing)


DECORATED = """from functools import wraps
def twice(g):
    @wraps(g)
    def h(x): return {} * g(x)
    return h
@twice
def f(x): return x"""
ALIKE = ["def f(x):\n    return x + 1",
         "import math\n\n\ndef f( x ):  # why\n\n    # because\n    return (x\n            + 1)"]  # fmt: skip
OTHERS = ["def f(x): return x + 2", "class f: a = 1", "class f: a = 2", DECORATED.format(2),
          DECORATED.format(3), "def g():\n def f(n): return n and f(n - 1)\n return f\nf = g()"]  # fmt: skip


def test_the_body_is_what_counts_and_neither_comments_nor_layout(tmp_path, monkeypatch):
    def defined(source, name="readers_own"):
        """What a file of a reader's own defines as ``f``."""
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(source + "\n")
        found = importlib.util.spec_from_file_location(name, path)
        monkeypatch.setitem(sys.modules, name, importlib.util.module_from_spec(found))
        found.loader.exec_module(sys.modules[name])
        return identify(sys.modules[name].f)

    found = [defined(source) for source in ALIKE + OTHERS]
    assert found[0] == found[1]
    assert len({json.dumps(identity) for identity in found}) == 1 + len(OTHERS)
    assert {identity["import"] for identity in found[:-1]} == {"readers_own.f"}
    # A reader's file that is called like a module of the package would be taken for that.
    with pytest.raises(ValueError, match="rename"):
        defined(ALIKE[0], "networks")
    assert build({"import": "networks.MLP"}) is MLP


@pytest.mark.parametrize(
    ("described", "match"),
    [({"import": "antigravity.fly"}, "there is no"), ({"import": "floats"}, "there is no"),
     ({"class": "networks.MPL", "in_shape": 2}, "networks.MPL"), ({"class": "objectives.elbo"}, "no part"),
     ({"class": "torch.nn.Linear", "in_features": 2, "out_features": 2}, "no part"),
     ({"class": "subprocess.Popen", "args": "true"}, "no part"),
     ({"class": "networks.MLP", "in_shape": 2}, "out_shape"), ({"class": "schedules.OneCycle", "peak": -1}, "peak"),
     ({"class": "networks.MLP", "in_shape": 2, "out_shape": 2, "depth": 3}, "depth")],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(described, match):
    with pytest.raises(ValueError, match=match):
        build(described)
    assert "antigravity" not in sys.modules  # a file cannot make anything be imported
