"""Chapter 8: networks and data."""

import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

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
    steps, before = {}, {}  # of each parameter: how many, and what it was in front of the first

    def note(optimizer, *_) -> None:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            steps[id(p)] = steps.get(id(p), 0) + 1
            before.setdefault(id(p), (p, p.detach().clone()))  # p is kept, and so is its id

    hook = register_optimizer_step_pre_hook(note)
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
    _check_trained(vae, steps, before)


def _check_trained(vae: VAE, steps: dict, before: dict) -> None:
    """Two epochs are two steps at least, of every parameter of this very model."""
    taken = min(steps.get(id(p), 0) for p in vae.parameters())
    if not taken:
        raise Hint("It has not been trained. Call fit before you return it, and return that one.")
    if taken < 2:
        raise Hint("One step is not two epochs: give fit epochs=2.")
    if not any((p != first).any() for p, first in before.values() if p.requires_grad):
        raise Hint("Training did not change it. Is the learning rate zero?")
