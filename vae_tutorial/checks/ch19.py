"""Chapter 19: flow matching."""

from math import pi, sqrt

import torch

from vae_tutorial.checks.protocol import Hint, ask, close, exercise, number, randn, tensor

number("ch19-least", 1.5 * pi, "A network at this loss is perfect.")(
    (3 / 2 * pi * 3, "The integral of s / (1 + u^2) has one s, not two."),
    (pi / 2, "That is for s = 1."),
    (1.5 * pi / 2, "From u = 0 to infinity the arc tangent grows by pi / 2; times s."),
    (3 * pi, "Half of that: u runs from zero to infinity, not from minus infinity."),
    (0, "Lines with different velocities pass through one place: something stays."),
    (..., "The integral of s / (1 + u^2) over u from zero to infinity."),
)


@exercise(
    "ch19-field", "Along the line like a Gaussian of variance 2, across it straight to the line."
)
def _field(answer) -> None:
    z = randn(20, 7, 2).double()
    code = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)  # the codes' covariance
    eye = torch.eye(2, dtype=torch.float64)

    def gaussian(t, cov=code, sign=1.0):
        # Independently: the mean of one Gaussian vector given another, with full matrices.
        both = t**2 * cov + (1 - t) ** 2 * eye
        return torch.linalg.solve(both, z.T).T @ (t * cov - sign * (1 - t) * eye)

    for t in (0.3, 0.8):
        got = tensor(ask(lambda z: answer(z, t), z))  # noqa: B023
        wrong = [
            (gaussian(t, eye), "That is for codes that fill the plane."),
            (
                gaussian(t, code / 2),
                "The vector (1, 1) has length sqrt 2: along it the variance is 2.",
            ),
            (gaussian(t, sign=-1.0), "The noise counts negatively: z - noise."),
            (-gaussian(t), "The other way round: from noise to code."),
        ]
        close(
            got,
            gaussian(t),
            "v_k of the text, with m = 0 and s^2 = 2 along, s^2 = 0 across.",
            wrong,
        )


@exercise("ch19-trace", "No matrix was made.")
def _trace(answer) -> None:
    matrix = randn(21, 5, 5).double()
    signs = randn(22, 40, 5).sign().double()
    # Independently: with the matrix.
    values = torch.einsum("ki,ij,kj->k", signs, matrix, signs)
    mean, error = values.mean(), values.std() / sqrt(40)

    def apply(vectors):
        return (
            vectors @ matrix.to(vectors).T
            if isinstance(vectors, torch.Tensor)
            else vectors @ matrix.numpy().T
        )

    found = ask(lambda signs: answer(apply, signs), signs)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Hint("Two numbers are asked for: the estimate and its standard error.")
    got_mean, got_error = (tensor(part) for part in found)
    close(got_mean, mean, "The mean over the K probes of e'Je.", [
        (values.sum(), "The mean over the probes, not the sum."),
        (mean / 5, "A trace is a sum over the dimensions, not a mean."),
    ])  # fmt: skip
    close(got_error, error, "The standard deviation of the K values over the square root of K.", [
        (values.std(), "That is the spread of one value; the mean's is smaller by the root of K."),
        (values.std() / 40, "Divide by the square root of K."),
    ])  # fmt: skip


def _turning_at(x, y, t):
    """A field that turns, faster with time."""
    return -y * (1 + 3 * t) + t, x * (1 + 3 * t) + t


def _turning(z, t):
    return torch.stack(_turning_at(z[:, 0], z[:, 1], t), 1)


@exercise(
    "ch19-midpoint", "Twice the evaluations, and an error that falls with the square of the step."
)
def _midpoint(answer) -> None:
    noise = randn(23, 6, 2).double()

    def walk(steps, whole=1.0, clock=0.5, reach=0.5, restart=True, once=False):
        # Independently: point by point, with plain numbers.
        ends, h = [], 1 / steps
        for x, y in noise.tolist():
            for i in range(steps):
                a, b = _turning_at(x, y, i * h)
                mx, my = x + reach * h * a, y + reach * h * b
                if not once:
                    a, b = _turning_at(mx, my, (i + clock) * h)
                x, y = (x, y) if restart else (mx, my)
                x, y = x + whole * h * a, y + whole * h * b
            ends.append((x, y))
        return ends

    for steps in (1, 7):
        got = ask(lambda noise: answer(_turning, noise, steps), noise)  # noqa: B023
        wrong = [
            (noise, "That is the noise itself."),
            (walk(steps, once=True), "That is Euler's rule, which asks once."),
            (
                walk(steps, clock=0.0),
                "The second question is for the middle of the step's time, too.",
            ),
            (
                walk(steps, reach=1.0, clock=1.0),
                "Half a step with the first answer, not a whole one.",
            ),
            (
                walk(steps, restart=False),
                "The whole step begins where the step began, not half-way.",
            ),
            (walk(steps, whole=0.5), "The second answer is followed for a whole step."),
        ]
        if steps > 1:
            wrong += [(walk(1), "That is a single step, whatever `steps` says.")]
        close(
            got, walk(steps), "Half a step, ask again, then the whole step from its start.", wrong
        )
