"""The helper package of the book *Variational autoencoders from the ground up*.

One room, one idea: an **encoder** maps images to the approximate posterior q(z|x), a **decoder**
maps latents to the likelihood p(x|z), a **prior** is p(z), and each answers with a
:class:`torch.distributions.Distribution`. A VAE is those three; an objective is a function of
them; training knows only "model, objective, images".

    encoder = Encoder(network, posterior)     # encoder(x) -> q(z|x)
    decoder = Decoder(network, likelihood)    # decoder(z) -> p(x|z)
    vae = VAE(encoder, decoder, prior)        # vae.prior() -> p(z)
    history = fit(vae, elbo, images)          # elbo(vae, x) -> its terms, one number an example
"""

from vae_tutorial.artifacts import fit_or_load
from vae_tutorial.autoencoder import Autoencoder
from vae_tutorial.likelihoods import Bernoulli
from vae_tutorial.networks import MLP, ConvDecoder, ConvEncoder
from vae_tutorial.objectives import elbo, reconstruction_error
from vae_tutorial.posteriors import MeanFieldGaussian
from vae_tutorial.priors import StandardNormal
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE, Decoder, Encoder

__all__ = [
    "MLP",
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "Decoder",
    "Encoder",
    "MeanFieldGaussian",
    "StandardNormal",
    "elbo",
    "fit",
    "fit_or_load",
    "reconstruction_error",
]
