"""Autoencoders, variational and deterministic, over a net, a pixel likelihood and a regulariser.

Training minimises −E_q[log p(x|z)] + penalty, with z ~ q(z|x) = N(μ(x), diag σ²(x)) and p(z) = N(0, I); with the
penalty β·KL[q(z|x) ‖ p(z)] this is the (β-)VAE, and at β = 1 the negative ELBO. A deterministic autoencoder minimises
the same with z = μ(x); its regulariser is what makes its codes look like draws from p(z).
"""

import torch
from torch import Tensor, nn

from vaenb.contract import NotDefined
from vaenb.distributions import DiagonalGaussian, Point, standard_normal
from vaenb.models import nets
from vaenb.models.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    LearnedGaussian,
    dequantize,
)
from vaenb.models.regularizers import KL, MMD, ShapiroWilk, TotalCorrelation

_NETS = {
    "conv001": nets.conv001,
    "conv002a": nets.conv002a,
    "conv003": nets.conv003,
    "conv004": nets.conv004,
    "mlp": nets.mlp,
    "mlp003": nets.mlp003,
}
_LIKELIHOODS = {"bernoulli": Bernoulli, "continuous_bernoulli": ContinuousBernoulli, "gaussian": Gaussian}
_MORE = {
    "learned_gaussian": LearnedGaussian,
    "discretized_logistic": DiscretizedLogistic,
    "categorical": Categorical,
}


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
        image_shape: tuple[int, int, int],
        latent_dim: int,
        likelihood=Bernoulli(),  # noqa: B008  (frozen, no state)
        regularizer=KL(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.image_shape, self.latent_dim = tuple(image_shape), latent_dim
        self.likelihood, self.regularizer = likelihood, regularizer

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        self._check_images(x)
        return self._posterior(self.encoder(x))

    def _posterior(self, outputs: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(*outputs.chunk(2, dim=1))

    def decode(self, z: Tensor) -> Tensor:
        return self.likelihood.mean(self.logits(z))

    def log_prior(self, z: Tensor) -> Tensor:
        return standard_normal(z).log_prob(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return self.likelihood.log_prob(x, self.logits(z))

    def logits(self, z: Tensor) -> Tensor:
        """The decoder's output (N, per_pixel·C, H, W) before the likelihood turns it into a mean image."""
        self._check_latents(z)
        return self.decoder(z)

    def _check_images(self, x: Tensor) -> None:
        if x.shape[1:] != self.image_shape:
            raise ValueError(f"x: images {('N', *self.image_shape)} expected, got {tuple(x.shape)}")
        self._check_dtype(x, "x")

    def _check_latents(self, z: Tensor) -> None:
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z: latents (N, {self.latent_dim}) expected, got {tuple(z.shape)}")
        self._check_dtype(z, "z")

    def _check_dtype(self, tensor: Tensor, name: str) -> None:
        weight = next(self.parameters())
        if (tensor.dtype, tensor.device) != (weight.dtype, weight.device):
            expected, got = f"{weight.dtype} on {weight.device}", f"{tensor.dtype} on {tensor.device}"
            hint = f"{name}.to(…)" if tensor.is_floating_point() else f"{name}.float() / 255"
            raise TypeError(f"{name}: the model's {expected} expected, got {got}; use {hint}")

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute the batch's statistics in nats per image; `fit` minimises the one called `loss`."""
        if getattr(self.likelihood, "dequantized", False):
            x = dequantize(x, generator)
        posterior = self.posterior(x)
        z = posterior.rsample(generator=generator)
        nll = -self.log_likelihood(x, z).mean()
        penalty, statistics = self.regularizer(posterior, z, generator)
        return {"loss": nll + penalty, "nll": nll, **statistics}


class DAE(VAE):
    """The deterministic twin (document 001): `encoder` gives the code itself, (N, latent_dim).

    It decodes and can be attacked, but defines no distribution of images: KL, ELBO and HMC raise NotDefined.
    """

    def _posterior(self, outputs: Tensor) -> Point:
        return Point(outputs)

    def log_prior(self, z: Tensor) -> Tensor:
        raise NotDefined("a deterministic autoencoder has no p(z), so no ELBO, and no posterior for HMC to sample")


def vae(
    *,
    image_shape: tuple[int, int, int],
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
    error), learned_gaussian, discretized_logistic or categorical (see `likelihoods`); `regularizer`, of weight `beta`,
    is kl, mmd, sw (Shapiro–Wilk), sw_all (on as many random directions, too) or tc (total correlation, which needs the
    number of training images, `size`).
    """
    if sigma is not None and likelihood != "gaussian":
        raise ValueError(f"sigma: only with likelihood='gaussian', got {sigma!r} with {likelihood!r}")
    family = _named(_LIKELIHOODS | _MORE, "likelihood", likelihood)(**({} if sigma is None else {"sigma": sigma}))
    weighted = _regularizer(regularizer, beta, latent_dim, size)
    return _build(VAE, 2, image_shape, latent_dim, net, family, weighted, width=width)


def dae(
    *,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    net: str = "conv001",
    likelihood: str = "gaussian",
    regularizer: str = "mmd",
    beta: float = 1.0,
) -> DAE:
    """Build a deterministic autoencoder from plain values; the arguments are those of `vae`, without kl and tc."""
    if regularizer in ("kl", "tc"):
        raise NotDefined(f"regularizer: {regularizer} needs a posterior with a density; mmd, sw or sw_all expected")
    family = _named(_LIKELIHOODS, "likelihood", likelihood)()
    return _build(DAE, 1, image_shape, latent_dim, net, family, _regularizer(regularizer, beta, latent_dim, None))


def _build(
    kind: type[VAE], outputs: int, image_shape, latent_dim: int, net: str, family, regularizer, *, width: float = 1.0
) -> VAE:
    if latent_dim < 1:
        raise ValueError(f"latent_dim: at least one dimension expected, got {latent_dim}")
    ends = {"outputs": outputs, "per_pixel": family.per_pixel, "width": width}
    encoder, decoder = _named(_NETS, "net", net)(image_shape, latent_dim, **ends)
    shapes = {"image_shape": image_shape, "latent_dim": latent_dim}
    return kind(encoder, decoder, **shapes, likelihood=family, regularizer=regularizer)


def _regularizer(name: str, beta: float, latent_dim: int, size: int | None):
    if (name == "tc") != (size is not None):
        raise ValueError(f"size: the number of training images expected with regularizer='tc' only, got {size!r}")
    known = {
        "kl": lambda: KL(beta),
        "mmd": lambda: MMD(beta),
        "sw": lambda: ShapiroWilk(beta),
        "sw_all": lambda: ShapiroWilk(beta, projections=latent_dim),
        "tc": lambda: TotalCorrelation(size, beta),
    }
    return _named(known, "regularizer", name)()


def _named(table: dict, argument: str, name: str):
    if name not in table:
        raise ValueError(f"{argument}: one of {', '.join(table)} expected, got {name!r}")
    return table[name]
