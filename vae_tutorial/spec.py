"""A model as data: what it was built with, as JSON, and the way back.

Every part of a model remembers the arguments of its constructor. :func:`spec` writes them down,
:func:`build` makes the same part again (with first weights of its own). :func:`identify` does the
same for what is no part: functions, schedules, settings. Two things that could behave differently
never get the same identity; what cannot be told from another is refused.
"""

import ast
import contextlib
import functools
import importlib.util
import inspect
import math
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

_PACKAGE = __name__.partition(".")[0]
_RESERVED = ("class", "import", "float", "partial")  # what a description is known by


class _Recording(type):
    """Classes whose instances remember how they were made, defaults filled in."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's, not that of ``__call__`` below."""
        own = inspect.signature(cls.__init__)
        return own.replace(parameters=list(own.parameters.values())[1:])

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        bound = inspect.signature(cls).bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if isinstance(value, int) and getattr(made, name, None) == (value,):
                bound.arguments[name] = (value,)  # a lone number, kept as a shape of one axis
        # Past nn.Module's own bookkeeping: parts among the arguments are registered once already.
        made.__dict__["_arguments"] = dict(bound.arguments)
        return made


class Part(nn.Module, metaclass=_Recording):
    """A module that remembers the arguments it was built with; the base of every part of a model.

    Arguments must be what JSON can hold (numbers, text, None, sequences of them), activation
    classes such as ``nn.SiLU``, or other parts. Sequences come back as lists.

    Example:
        >>> class Shift(Part):
        ...     def __init__(self, by, times=1):
        ...         super().__init__()
        ...         self.by = by * times
        >>> spec(Shift(2.0))
        {'class': 'spec.Shift', 'by': 2.0, 'times': 1}
    """


def spec(part: nn.Module) -> dict:
    """A part as JSON: the name of its class and the arguments it was built with, defaults filled in.

    Raises:
        ValueError: for a module that is no :class:`Part`, or one built from something that cannot
            be written down.
    """
    if not isinstance(part, Part):
        raise ValueError(
            f"{type(part).__name__} does not remember what it was built with; derive it from "
            "vae_tutorial.spec.Part in place of nn.Module"
        )
    arguments = {name: identify(value) for name, value in part._arguments.items()}
    return {"class": _class_of(part), **arguments}


def build(described: Any) -> Any:
    """What :func:`spec` or :func:`identify` wrote down, made again.

    Only classes and functions of this package, of torch, and those that are loaded already are
    looked up: reading a file imports nothing else.

    Example:
        >>> build({"class": "schedules.LinearWarmUp", "value": 1.0, "fraction": 0.5})
        LinearWarmUp(value=1.0, fraction=0.5)

    Raises:
        ValueError: for a name that does not exist, or arguments that it does not take.
    """
    if isinstance(described, list):
        return [build(value) for value in described]
    if not isinstance(described, dict):
        return described
    if "import" in described:
        found = _find(described["import"])
        if "source" in described and identify(found) != described:
            raise ValueError(f"{described['import']} is not what it was when it was written down")
        return found
    if described.keys() == {"float"}:
        return float(described["float"])
    if described.keys() == {"partial", "args", "keywords"}:
        keywords = {k: build(v) for k, v in described["keywords"].items()}
        return functools.partial(build(described["partial"]), *build(described["args"]), **keywords)
    if "class" not in described:
        return {name: build(value) for name, value in described.items()}
    name = described["class"]
    made = build(name) if isinstance(name, dict) else _find(name)
    if not (isinstance(made, type) and (issubclass(made, Part) or is_dataclass(made))):
        raise ValueError(f"{name} is no part of a model")
    arguments = {k: build(v) for k, v in described.items() if k != "class"}
    # *args and **kwargs of a constructor stand under their names in the signature.
    bound = inspect.BoundArguments(inspect.signature(made), arguments)
    unknown = sorted(arguments.keys() - bound.signature.parameters.keys())
    try:
        return made(*bound.args, **bound.kwargs, **dict.fromkeys(unknown))
    except TypeError as error:
        raise ValueError(f"{name} cannot be built: {error}") from error


def identify(thing: Any) -> Any:
    """Anything that decides a run's result, as JSON that no other thing has.

    A function of this package or of torch is known by its name. Any other is recorded whole, with its
    source, its defaults and the values that it closes over (the globals it reads are not seen). Frozen
    dataclasses, partials and parts are recorded with what they hold.

    Raises:
        ValueError: for a lambda, an object or a method of an object that keeps its state to itself.
    """
    if isinstance(thing, float) and not math.isfinite(thing):
        return {"float": str(thing)}
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, list | tuple):
        return [identify(value) for value in thing]
    if isinstance(thing, Mapping):
        if any(not isinstance(name, str) or name in _RESERVED for name in thing):
            raise ValueError(f"names in {_short(thing)} must be text, and none of {_RESERVED}")
        return {name: identify(value) for name, value in sorted(thing.items())}
    if isinstance(thing, Part):
        return spec(thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        values = {f.name: identify(getattr(thing, f.name)) for f in fields(thing)}
        return {"class": _class_of(thing), **values}
    if isinstance(thing, functools.partial):
        return {
            "partial": identify(thing.func),
            "args": identify(thing.args),
            "keywords": identify(thing.keywords),
        }
    if isinstance(thing, type) or inspect.isbuiltin(thing) or inspect.isfunction(thing):
        return _identify_by_name(thing)
    raise ValueError(
        f"{_short(thing)} cannot be told from another {type(thing).__name__}, so a stored run could "
        "not say what it was made with; use a function made with def, a functools.partial of one, "
        "or a frozen dataclass."
    )


def _class_of(thing: Any) -> str | dict:
    """The name of an object's class; of one from outside this package, what it is made of, too."""
    return _name_of(type(thing)) if _is_known(type(thing)) else _identify_by_name(type(thing))


def _is_known(thing: Callable) -> bool:
    """Whether a name says it all: of this package, of torch, or built into Python."""
    module = getattr(thing, "__module__", None) or ""
    return inspect.isbuiltin(thing) or module.partition(".")[0] in (_PACKAGE, "torch")


def _identify_by_name(thing: Callable) -> dict:
    """A class or function: by its name where that says it all, else with its source and closure."""
    name = _name_of(thing)
    if "<lambda>" in name:
        raise ValueError("a lambda has no name that tells it from another one; use def")
    if _is_known(thing):
        if _find(name) is not thing:  # made by a function, or hidden behind a decorator
            raise ValueError(f"{name} is not what its module has under that name")
        return {"import": name}
    if isinstance(thing, type):
        return {"import": name, "source": _source_of_class(thing, name)}
    closed = inspect.getclosurevars(thing).nonlocals
    return {
        "import": name,
        # Of its code: inspect would show what is behind a decorator, and not the decorator's own.
        "source": _source(thing.__code__, name),
        "defaults": identify([thing.__defaults__, thing.__kwdefaults__]),
        "closure": identify({k: v for k, v in closed.items() if v is not thing}),
    }


def _source_of_class(thing: type, name: str) -> Any:
    """Of a class from a file its source; a notebook keeps only that of the functions in it."""
    try:
        return _source(thing, name)
    except ValueError:
        found = {}
        for key, value in vars(thing).items():
            if not inspect.isfunction(value):
                found |= {} if key.startswith("__") else {key: identify(value)}
            elif value.__code__.co_filename != "<string>" and key != "__repr__":
                found[key] = _source(value.__code__, key)  # not what a dataclass wrote by itself
        return found


def _source(thing: Any, name: str) -> str:
    """The code without its comments and layout, so that neither makes another run."""
    try:
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(thing))))
    except (OSError, TypeError, SyntaxError) as error:
        raise ValueError(
            f"the source of {name} is not to be had ({error}), so a stored run could not "
            "say what it was made with; define it in a file or a notebook's cell"
        ) from error


def _name_of(thing: Callable) -> str:
    """The full name of a class or function, without the package's own: ``networks.MLP``."""
    module = getattr(thing, "__module__", None) or "builtins"
    if inspect.isbuiltin(thing):  # torch.bernoulli is a method of a class without a name outside
        return f"{module}.{thing.__name__}"
    if getattr(nn, thing.__name__, None) is thing:  # torch.nn.SiLU, wherever torch defines it
        module = "torch.nn"
    top = module.partition(".")[0]
    if top != _PACKAGE and importlib.util.find_spec(f"{_PACKAGE}.{top}"):
        raise ValueError(f"the module {top} has the name of one of this package; rename it")
    return f"{module}.{thing.__qualname__}".removeprefix(f"{_PACKAGE}.")


def _find(name: str) -> Any:
    """The class or function of a full name; a module of this package is imported for it."""
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        with contextlib.suppress(AttributeError):
            return functools.reduce(getattr, parts[split:], _module(".".join(parts[:split])))
    raise ValueError(f"there is no {name} in this package, in torch, or in what is loaded")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except ModuleNotFoundError:
        return sys.modules.get(name)


def _short(thing: object) -> str:
    text = repr(thing)
    return text if len(text) < 60 else f"{text[:57]}..."
