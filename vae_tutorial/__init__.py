"""The helper package of the book *Variational autoencoders from the ground up*.

An **encoder** maps images to the approximate posterior q(z|x), a **decoder** maps latents to the
likelihood p(x|z), a **prior** is p(z), and each answers with a
:class:`torch.distributions.Distribution`. A VAE is those three; an objective is a function of
them; training knows only "model, objective, batches".

    encoder = Encoder(network, posterior)     # encoder(x) -> q(z|x)
    decoder = Decoder(network, likelihood)    # decoder(z) -> p(x|z)
    vae = VAE(encoder, decoder, prior)        # vae.prior() -> p(z)
    history = fit(vae, elbo, images)          # elbo(vae, x) -> its terms, one number per example
"""

from vae_tutorial.evaluate import evaluate
from vae_tutorial.fit import fit
from vae_tutorial.likelihoods import Bernoulli
from vae_tutorial.models.autoencoder import Autoencoder, reconstruction_error
from vae_tutorial.models.vae import VAE, Decoder, Encoder
from vae_tutorial.networks import MLP, ConvDecoder, ConvEncoder
from vae_tutorial.objectives import elbo
from vae_tutorial.posteriors import MeanFieldGaussian
from vae_tutorial.priors import StandardNormal
from vae_tutorial.runs import fit_or_load, load_run
from vae_tutorial.spec import Part, build, spec

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
    "Part",
    "StandardNormal",
    "build",
    "elbo",
    "evaluate",
    "fit",
    "fit_or_load",
    "load_run",
    "reconstruction_error",
    "spec",
]
