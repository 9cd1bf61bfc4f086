"""The variational autoencoder over a net, a pixel likelihood and a regulariser.

Training minimises −E_q[log p(x|z)] + penalty, with z ~ q(z|x) = N(μ(x), diag σ²(x)) and p(z) = N(0, I); with the
penalty β·KL[q(z|x) ‖ p(z)] this is the (β-)VAE, and at β = 1 the negative ELBO.
"""

import torch
from torch import Tensor, nn

from vaenb.models import nets
from vaenb.models.contract import DiagonalGaussian, standard_normal
from vaenb.models.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from vaenb.models.regularizers import KL

_NETS = {"conv001": nets.conv001, "conv002a": nets.conv002a, "mlp": nets.mlp}
_LIKELIHOODS = {"bernoulli": Bernoulli, "continuous_bernoulli": ContinuousBernoulli, "gaussian": Gaussian}


class VAE(nn.Module):
    """A LatentModel (see `contract`) from an encoder and a decoder.

    `encoder` maps images (N, *image_shape) to (N, 2·latent_dim), means and log-variances side by side; `decoder` maps
    latents (N, latent_dim) to logits (N, *image_shape).
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
        if x.shape[1:] != self.image_shape:
            raise ValueError(f"x: images {('N', *self.image_shape)} expected, got {tuple(x.shape)}")
        self._check_dtype(x, "x")
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar)

    def decode(self, z: Tensor) -> Tensor:
        return self.likelihood.mean(self.logits(z))

    def log_prior(self, z: Tensor) -> Tensor:
        return standard_normal(z).log_prob(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return self.likelihood.log_prob(x, self.logits(z))

    def logits(self, z: Tensor) -> Tensor:
        """The decoder's output (N, *image_shape) before the likelihood turns it into a mean image."""
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z: latents (N, {self.latent_dim}) expected, got {tuple(z.shape)}")
        self._check_dtype(z, "z")
        return self.decoder(z)

    def _check_dtype(self, tensor: Tensor, name: str) -> None:
        weight = next(self.parameters())
        if (tensor.dtype, tensor.device) != (weight.dtype, weight.device):
            expected, got = f"{weight.dtype} on {weight.device}", f"{tensor.dtype} on {tensor.device}"
            raise TypeError(f"{name}: the model's {expected} expected, got {got}; use {name}.to(…)")

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute the batch's statistics in nats per image; `fit` minimises the one called `loss`."""
        posterior = self.posterior(x)
        z = posterior.rsample(generator=generator)
        nll = -self.log_likelihood(x, z).mean()
        penalty, statistics = self.regularizer(posterior, z, generator)
        return {"loss": nll + penalty, "nll": nll, **statistics}


def vae(
    *,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    net: str = "conv001",
    likelihood: str = "bernoulli",
    beta: float = 1.0,
) -> VAE:
    """Build a VAE from plain values, which are then also its description in the checkpoint store.

    `net` is conv001, conv002a or mlp (see `nets`); `likelihood` is bernoulli, continuous_bernoulli or gaussian.
    """
    if latent_dim < 1:
        raise ValueError(f"latent_dim: at least one dimension expected, got {latent_dim}")
    encoder, decoder = _named(_NETS, "net", net)(image_shape, latent_dim)
    return VAE(
        encoder,
        decoder,
        image_shape=image_shape,
        latent_dim=latent_dim,
        likelihood=_named(_LIKELIHOODS, "likelihood", likelihood)(),
        regularizer=KL(beta),
    )


def _named(table: dict, argument: str, name: str):
    if name not in table:
        raise ValueError(f"{argument}: one of {', '.join(table)} expected, got {name!r}")
    return table[name]
