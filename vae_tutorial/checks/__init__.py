"""The answers to the exercises, checked with a friendly message.

    checks.check("ch02-kl", answer)

prints one line: right, not answered yet, or what is off. Each chapter has a file ``chNN.py`` here,
which is found by its name: a new chapter adds its file and nothing else.
"""

import importlib
import pkgutil

from vae_tutorial.checks.protocol import CHECKS, Hint, Number, check, close, exercise, number, same

__all__ = ["CHECKS", "Hint", "Number", "check", "close", "discover", "exercise", "number", "same"]


def discover() -> None:
    """Import every chapter's file, which registers its exercises."""
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("ch"):
            importlib.import_module(f"{__name__}.{module.name}")


discover()
