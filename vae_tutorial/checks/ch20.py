"""Chapter 20: latent diffusion."""

import torch

from vae_tutorial.checks.protocol import ask, close, exercise, number, randn

number(
    "ch20-compression",
    24.0,
    "In numbers it is 1 in 48; the numbers of the latent are twice as long.",
    1,
)(
    (48, "That counts numbers. Count bits: a pixel's number takes 8, a latent's 16."),
    (96, "Upside down in the bits: the pixels take 8 bits each, the latents 16."),
    (8, "Three colours: an image has 3 times 1,024 times 1,024 numbers."),
    (6, "There are 4 channels of 128 by 128, not 16."),
    (1 / 24, "Upside down: how many times as many bits has the image?"),
    (..., "Divide 3 * 1024 * 1024 * 8 bits by 4 * 128 * 128 * 16 bits."),
)


@exercise("ch20-guidance", "At w = 0 the class is ignored, at w = 1 it is taken as learnt.")
def _guidance(answer) -> None:
    without, told, w = randn(1, 5, 3), randn(2, 5, 3), 2.5
    expected = without + w * (told - without)
    wrong = [
        (
            told + w * (told - without),
            "This is the papers' w, one less than ours: begin at v_none.",
        ),
        (told + w * (without - told), "You went away from the class: the other way round."),
        (without + w * told, "Add the difference of the two fields, not the second one."),
        (w * told, "The field without the class is missing."),
        ((without + w * told) / (1 + w), "No average: for w above 1 one goes beyond both."),
    ]
    close(ask(answer, without, told, w), expected, "v_none + w (v_class - v_none).", wrong)


@exercise("ch20-precision", "Exchange the two sets, and the same function is recall.")
def _precision(answer) -> None:
    real, drawn = randn(3, 60, 2), 1.5 * randn(4, 53, 2)
    between, among = torch.cdist(drawn, real), torch.cdist(real, real)
    k = 2
    radius = among.kthvalue(k + 1, dim=1).values  # of each real point
    expected = (between <= radius).any(1).double().mean()
    own = torch.cdist(drawn, drawn).kthvalue(k + 1, dim=1).values
    wrong = [
        (
            (between <= among.kthvalue(k, dim=1).values).any(1).double().mean(),
            "A point is its own nearest neighbour, at distance 0. Leave it out.",
        ),
        (
            (own >= between.T).any(1).double().mean(),
            "This is recall: balls around the real points, please, and count drawn ones.",
        ),
        (
            (between <= radius).double().mean(),
            "One ball is enough: count points that lie in any of them.",
        ),
        (
            (between <= radius.mean()).any(1).double().mean(),
            "Each ball has a radius of its own.",
        ),
        (expected * len(drawn), "That is a count. The share is asked for."),
        (1 - expected, "That is the share outside."),
    ]
    hint = "The share of drawn points within the k-th neighbour's distance of some real point."
    close(ask(answer, real, drawn, k), expected, hint, wrong)
