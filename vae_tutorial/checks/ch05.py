"""Chapter 5: likelihoods."""

from math import log, sqrt

import torch

from vae_tutorial.checks.protocol import Hint, close, exercise, number, tensor

_PIXELS = 3 * 32 * 32
_CHANNELS = "Colour images have three values per pixel."

number("ch05-sigma", sqrt(_PIXELS * 0.001 / 2), "Wider than the whole range of a pixel.")(
    (_PIXELS * 0.001 / 2, "That is the variance. The standard deviation is asked for."),
    (sqrt(_PIXELS / 2), "The weight of the KL term is missing."),
    (sqrt(32 * 32 * 0.001 / 2), _CHANNELS),
    (sqrt(0.001 / 2), "mse_loss divides by the number of pixels."),
    (..., "Bring the loss to the form ||x - y||^2 / (2 sigma^2) + KL."),
)


@exercise("ch05-normalizer", "Even in the logit: black and white are treated alike.")
def _normalizer(answer) -> None:
    logits = torch.tensor([-9.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    # Independently: the integral of what the factor is to normalize, over a fine grid.
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    bce = torch.nn.functional.softplus(logits) - x * logits
    expected = -torch.trapezoid(torch.exp(-bce), x, dim=0).log()
    wrong = [
        (-expected, "That is the logarithm of the integral. C divides by it."),
        (expected.exp(), "That is C. Its logarithm is asked for."),
        ((logits / logits.tanh()).log(), "Nearly: tanh is taken of half the logit."),
    ]
    hint = "C = l / tanh(l / 2). Compare with a sum over a fine grid of x."
    close(answer(logits), expected, hint, wrong)
    far = tensor(answer(torch.tensor([-200.0, 200.0])))
    if not far.isfinite().all():
        raise Hint("Right for small logits, but not finite at 200: avoid exp of the logit.")
    close(far, [log(200)] * 2, "Right for small logits, but at 200 log C should be log 200.")


number("ch05-bits", 7000 / (_PIXELS * log(2)), "An uncompressed file has 8.")(
    (7000 / _PIXELS, "Those are nats per dimension. One bit is log 2 nats."),
    (7000 / (32 * 32 * log(2)), _CHANNELS),
    (7000 / log(2), "Those are bits per image."),
    (7000 * log(2) / _PIXELS, "Divide by log 2: there are more bits than nats."),
    (..., "Nats to bits, and divide by the dimensions."),
)
