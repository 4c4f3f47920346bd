"""``check(name, answer)``: the answers to the exercises of every chapter, checked.

    checks.check("ch02-kl", answer)

prints one line: right, not answered yet, or what is off; see :func:`~vae_tutorial.exercises.check`.
"""

# Importing the answers registers them.
from vae_tutorial import answers_choices, answers_foundations, answers_models  # noqa: F401
from vae_tutorial.exercises import CHECKS, check  # noqa: F401
