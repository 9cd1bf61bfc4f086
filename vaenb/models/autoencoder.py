"""Autoencoders, variational and deterministic, over a net, a pixel likelihood and a regulariser.

Training minimises −E_q[log p(x|z)] + penalty, with z ~ q(z|x) = N(μ(x), diag σ²(x)) and p(z) = N(0, I); with the
penalty β·KL[q(z|x) ‖ p(z)] this is the (β-)VAE, and at β = 1 the negative ELBO. A deterministic autoencoder minimises
the same with z = μ(x); its regulariser is what makes its codes look like draws from p(z).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn

from vaenb.checks import check_choice, check_input
from vaenb.contract import NotDefined, Posterior
from vaenb.distributions import DiagonalGaussian, Point, standard_normal
from vaenb.models.likelihoods import PLAIN, Bernoulli, Gaussian, Likelihood, dequantize, named_likelihood
from vaenb.models.nets import Shape, coders
from vaenb.models.regularizers import KL, MMD, Regularizer, ShapiroWilk, TotalCorrelation
from vaenb.precision import after_autocast

REGULARIZERS = ("kl", "mmd", "sw", "sw_all", "tc")


class Parts(TypedDict):
    """What a VAE is made of."""

    encoder: nn.Module
    decoder: nn.Module
    image_shape: Shape
    latent_dim: int
    likelihood: NotRequired[Likelihood]
    regularizer: NotRequired[Regularizer]


class VAE(nn.Module):
    """A LatentModel (see `contract`) from an encoder and a decoder.

    `encoder` maps images (N, *image_shape) to (N, 2·latent_dim), means and log-variances side by side; `decoder` maps
    latents (N, latent_dim) to logits, (N, *image_shape) for a likelihood with one for each pixel.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        image_shape: Shape,
        latent_dim: int,
        likelihood: Likelihood = Bernoulli(),  # noqa: B008  (frozen, no state)
        regularizer: Regularizer = KL(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.image_shape: Shape = (image_shape[0], image_shape[1], image_shape[2])
        self.latent_dim = latent_dim
        self.likelihood, self.regularizer = likelihood, regularizer

    @property
    def parts(self) -> Parts:
        """What another kind of VAE with the same nets is built from: `Kind(**model.parts)`."""
        return {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "image_shape": self.image_shape,
            "latent_dim": self.latent_dim,
            "likelihood": self.likelihood,
            "regularizer": self.regularizer,
        }

    def posterior(self, x: Tensor) -> Posterior:
        check_input(self, x, "x", self.image_shape)
        mean, logvar = after_autocast(self.encoder(x)).chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar)

    def decode(self, z: Tensor) -> Tensor:
        return self.likelihood.mean(self.logits(z))

    def log_prior(self, z: Tensor) -> Tensor:
        return standard_normal(z).log_prob(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return self.likelihood.log_prob(x, self.logits(z))

    def logits(self, z: Tensor) -> Tensor:
        """The decoder's output (N, C, H, W) before the likelihood turns it into a mean image."""
        check_input(self, z, "z", (self.latent_dim,))
        return after_autocast(self.decoder(z))

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute the batch's statistics in nats per image; `fit` minimises the one called `loss`."""
        if self.likelihood.dequantized:
            x = dequantize(x, generator)
        posterior = self.posterior(x)
        z = posterior.rsample(generator=generator)
        nll = -self.log_likelihood(x, z).mean()
        penalty, statistics = self.regularizer(posterior, z, generator)
        return {"loss": nll + penalty, "nll": nll, **statistics}


class DeterministicAE(VAE):
    """The deterministic twin (document 001): `encoder` gives the code itself, (N, latent_dim).

    It decodes and can be attacked, but defines no distribution of images: KL, ELBO and HMC raise NotDefined.
    """

    def posterior(self, x: Tensor) -> Point:
        check_input(self, x, "x", self.image_shape)
        return Point(after_autocast(self.encoder(x)))

    def log_prior(self, z: Tensor) -> Tensor:
        raise NotDefined("a deterministic autoencoder has no p(z), so no ELBO, and no posterior for HMC to sample")


@contextmanager
def resting(net: nn.Module) -> Iterator[None]:
    """Put `net` in evaluation mode, and back in the mode it had, whatever happens."""
    modes = [(part, part.training) for part in net.modules()]  # a frozen BatchNorm's is its own
    net.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def vae(
    *,
    image_shape: Shape,
    latent_dim: int,
    net: str = "conv001",
    likelihood: str = "bernoulli",
    regularizer: str = "kl",
    beta: float = 1.0,
    size: int | None = None,
    sigma: float | None = None,
    width: float = 1.0,
) -> VAE:
    """Build a VAE from plain values, which are then also its description in the checkpoint store.

    `net` is conv001, conv002a, conv003, conv004, mlp or mlp003 (see `nets`), with `width` times its channels;
    `likelihood` is bernoulli, continuous_bernoulli, gaussian (of `sigma`, by default √½: document 001's summed squared
    error), learned_gaussian or discretized_logistic (see `likelihoods`); `regularizer`, of weight `beta`, is kl, mmd,
    sw (Shapiro–Wilk), sw_all (on as many random directions, too) or tc (total correlation, which needs the number of
    training images, `size`).
    """
    if sigma is not None and likelihood != "gaussian":
        raise ValueError(f"sigma: only with likelihood='gaussian', got {sigma!r} with {likelihood!r}")
    family = named_likelihood(likelihood) if sigma is None else Gaussian(sigma)
    penalty = _regularizer(regularizer, beta, latent_dim, size)
    nets = coders(net, image_shape, latent_dim, width=width)
    return VAE(*nets, image_shape=image_shape, latent_dim=latent_dim, likelihood=family, regularizer=penalty)


def deterministic_ae(
    *,
    image_shape: Shape,
    latent_dim: int,
    net: str = "conv001",
    likelihood: str = "gaussian",
    regularizer: str = "mmd",
    beta: float = 1.0,
) -> DeterministicAE:
    """Build a deterministic autoencoder from plain values; the arguments are those of `vae`, without kl and tc."""
    if regularizer in ("kl", "tc"):
        raise NotDefined(f"regularizer: {regularizer} needs a posterior with a density; mmd, sw or sw_all expected")
    family = named_likelihood(likelihood, PLAIN)
    penalty = _regularizer(regularizer, beta, latent_dim)
    nets = coders(net, image_shape, latent_dim, outputs=1)
    return DeterministicAE(
        *nets, image_shape=image_shape, latent_dim=latent_dim, likelihood=family, regularizer=penalty
    )


def _regularizer(name: str, beta: float, latent_dim: int, size: int | None = None) -> Regularizer:
    check_choice("regularizer", name, REGULARIZERS)
    if name == "tc" and size is not None:
        return TotalCorrelation(size, beta)
    if name == "tc" or size is not None:
        raise ValueError(f"size: the number of training images expected with regularizer='tc' only, got {size!r}")
    if name == "kl":
        return KL(beta)
    if name == "mmd":
        return MMD(beta)
    directions = latent_dim if name == "sw_all" else 0
    return ShapiroWilk(beta, projections=directions)
