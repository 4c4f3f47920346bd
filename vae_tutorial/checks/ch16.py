"""Chapter 16: the bound is a file size."""

from math import log, log2

from vae_tutorial.checks.protocol import close, exercise, number, randn

number("ch16-pixels", -15 * log2(0.9) - 5 * log2(0.1), "A single surprise costs as much as 22 others.")(
    (-15 * log(0.9) - 5 * log(0.1), "These are nats. Take logarithms to base 2."),
    (20 * -(0.9 * log2(0.9) + 0.1 * log2(0.1)), "This is the average over images that the decoder "
     "expects. This image has 5 black pixels, not 2."),
    (-15 * log2(0.1) - 5 * log2(0.9), "Black and white are exchanged."),
    (-20 * log2(0.9), "The black pixels have probability 0.1."),
    (20, "That is a bit for each pixel. What does the decoder know?"),
    (..., "Add up -log2 of the probability of each pixel's value."),
)  # fmt: skip


@exercise("ch16-bits", "On average over the latents it is the negative ELBO, in bits.")
def _bits(answer) -> None:
    log_px, log_pz = -80 - 3 * randn(7, 6), -14 - randn(8, 6)
    log_qz = 6 + randn(9, 6)
    net = log_px + log_pz - log_qz
    expected = -net / log(2)
    wrong = [
        (net / log(2), "The sign: a less probable image makes the stack longer."),
        (-net, "These are nats. Divide by the natural logarithm of 2."),
        (-net * log(2), "Divide by the natural logarithm of 2, do not multiply."),
        (-(log_px + log_pz) / log(2), "That is the plain message. What does popping z take away?"),
        (-log_px / log(2), "These are the pixels alone. The latents are pushed and popped."),
        (-(log_px + log_pz + log_qz) / log(2), "Popping z makes the stack shorter, not longer."),
        (-(log_px - log_pz + log_qz) / log(2), "z is popped with q and pushed with p, not the other way."),
        (expected.mean(), "You averaged over the images. One number per image is asked for."),
        (expected.sum(), "You summed over the images. One number per image is asked for."),
    ]  # fmt: skip
    hint = "Two pushes and one pop, each -log2 of a probability: shape (B,)."
    close(answer(log_px, log_pz, log_qz), expected, hint, wrong)


number("ch16-start", 401, "A file for a single image would pay them alone.", decimals=0)(
    (5, "From there on the images outweigh the start. It should be less than 1%."),
    (41, "That is 10%."),
    (..., "When is 600 smaller than 0.01 times 150 n?"),
)

_NATS = 10 * (0.5 * (1.5**2 - 1) - log(1.5))
number("ch16-wide", _NATS / log(2), "The coder pays for every bit of the gap.")(
    (_NATS, "These are nats. Divide by ln 2."),
    (_NATS / 10 / log(2), "That is one latent. There are ten."),
    (10 * (0.5 * (1.5 - 1) - log(1.5)) / log(2), "f is squared in the first term."),
    (10 * (0.5 * (1.5**-2 - 1) + log(1.5)) / log(2), "That is the divergence the other way round."),
    (10 * (0.5 * (1.5**2 - 1)) / log(2), "The logarithm is missing."),
    (..., "Ten times the divergence of one latent with f = 1.5, over ln 2."),
)
