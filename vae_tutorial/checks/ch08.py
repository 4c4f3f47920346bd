"""Chapter 8: networks and data."""

import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

from vae_tutorial.checks.protocol import Hint, exercise, number, randn
from vae_tutorial.models.vae import VAE

_SIDE = "That is one side. A channel has height times width."
number("ch08-pixels", (64 // 16) * (48 // 16), "A dense layer can take over from here.")(
    (64 * 48 / 16, "Each convolution halves both sides, not the number of pixels."),
    (4, _SIDE),
    (3, _SIDE),
    (..., "Halve 64 and 48 four times."),
)

number("ch08-parameters", 32 * 64 * 9 + 64, "The size of the image does not enter.")(
    (32 * 64 * 9, "The biases are missing: one for each output channel."),
    (32 * 64 * 9 + 32, "Biases belong to the output channels."),
    (64 * 9 + 64, "Each output channel looks at all 32 input channels."),
    (..., "Count the weights of all windows, and the biases."),
)


@exercise("ch08-folder", "Now with your own.")
def _folder(answer) -> None:
    images = torch.sigmoid(randn(0, 40, 16, 12, 3)).mul(256).byte().numpy()
    steps = []  # of any optimizer, while the answer runs
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    with hook, tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            Image.fromarray(image).save(Path(folder) / f"{i:02d}.png")
        vae = answer(folder)
    if not isinstance(vae, VAE):
        raise Hint(f"The function should return the VAE, it returned {type(vae).__name__}.")
    if vae.latent_dim != 4:
        raise Hint(f"Four latents are asked for, this VAE has {vae.latent_dim}.")
    got = tuple(vae.cpu().sample(3, seed=0).shape)
    if got != (3, 3, 16, 12):
        raise Hint(f"Three samples should have the shape (3, 3, 16, 12) here, they have {got}.")
    if not any(isinstance(layer, torch.nn.Conv2d) for layer in vae.modules()):
        raise Hint("There is no convolution in it. Use ConvEncoder and ConvDecoder.")
    if not all(p.isfinite().all() for p in vae.parameters()):
        raise Hint("Some weights are not finite. A smaller learning rate?")
    if not steps:
        raise Hint("It has not been trained. Call fit before you return it.")
