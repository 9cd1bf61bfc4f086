"""Seatbelt-VAE: layers of latents, the total correlation penalised on top (document 003, Willetts et al. 2019).

    p(x, z¹…z^L) = p(x|z¹…z^L) Π_{i<L} p(z^i|z^{i+1}) p(z^L),    p(z^L) = N(0, I)
    q(z¹…z^L|x)  = q(z¹|x) Π_{i<L} q(z^{i+1}|z^i, x)

Training minimises

    −E_q[log p(x|z¹…z^L)] + Σ_{i<L} E_q[log q(z^i|·) − log p(z^i|z^{i+1})]
        + I_q(z^L; x, z^{L−1}) + β·TC(z^L) + Σ_j KL[q(z^L_j) ‖ p(z^L_j)]

where the last three are `regularizers.TotalCorrelation` of the top layer. With one layer this is the β-TCVAE, with
β = 1 a hierarchical VAE whose decoder sees all layers. The middle terms are log ratios on the sampled path: q goes up
where p goes down, so that a closed form of the KL, given a z^{i+1} that was itself drawn from z^i, is no part of the
ELBO. A flat latent (N, L·d) holds z¹…z^L side by side, in their own units: p(z^i|z^{i+1}) is a learned Gaussian.
"""

from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from vaenb.checks import check_choice, check_counts, check_input, check_number
from vaenb.contract import NotDefined
from vaenb.distributions import DiagonalGaussian, as_rows, randn_like, standard_normal
from vaenb.models.autoencoder import VAE, Parts
from vaenb.models.layered import OnPath, conditional, kl_by_layer, layer_columns, side_by_side
from vaenb.models.likelihoods import PLAIN, named_likelihood
from vaenb.models.nets import Shape, coders
from vaenb.models.regularizers import TotalCorrelation
from vaenb.precision import after_autocast

_HIDDEN = 256  # units of the nets between layers
ORDERS = ("bottom_up", "top_down")


@dataclass(frozen=True, eq=False)
class LayeredPosterior(OnPath):
    """q(z¹…z^L|x): each layer is a diagonal Gaussian given the layer that was drawn before it, its path."""

    model: "Seatbelt"
    features: Tensor  # what the encoder sees in x, (N, F)
    path: DiagonalGaussian  # the layers' conditionals along the mean path, (N, L·d)

    @property
    def layer_slices(self) -> list[slice]:
        """The columns of z¹…z^L."""
        return self.model.layer_slices

    def rsample(self, *, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """Draw each layer given the draw before it, differentiably: (N, L·d)."""
        noise = randn_like(self.mean, generator) if noise is None else noise
        z, _ = self.model.draw(self.features, noise)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """Sum log q(z^i|·) over the layers, exact for any z (N, L·d), in nats: (N,)."""
        check_input(self.model, z, "z", (self.model.latent_dim,))
        return self.model.conditionals(self.features, z).log_prob(z)

    def kl_layers(self, other: "LayeredPosterior") -> Tensor:
        """KL[q(z^i|z^{i−1}, x) ‖ q(z^i|z^{i−1}, x')] of each layer, z¹ first, in nats: (N, L).

        Both conditionals are given the same path, the means of self: beyond the first layer drawn, the term is the
        value on that path, not the expectation over paths. `other` is a posterior of the same model. The prior is no
        Gaussian over all layers, so that KL[q ‖ p] has no closed form: see `metrics.likelihood.elbo`.
        """
        if not isinstance(other, LayeredPosterior):
            raise NotDefined(f"other: a posterior of the same Seatbelt expected, got a {type(other).__name__}")
        if other.model is not self.model:
            raise ValueError("other: a posterior of the same model expected, got one of another model")
        given = self.model.conditionals(other.features, self.mean)
        return kl_by_layer(self.path, given, self.layer_slices)

    def __getitem__(self, index) -> "LayeredPosterior":
        rows = as_rows(index)
        return LayeredPosterior(self.model, self.features[rows], self.path[rows])


class Seatbelt(VAE):
    """A LatentModel with a `LayeredPosterior`; see the module.

    `encoder` ends in a linear layer to the first layer's means and log-variances; what goes into it is what the other
    layers see of x. `decoder` reads all layers, or with `skip=False` z¹ alone. `order` is that of the draws.
    """

    encoder: nn.Sequential

    def __init__(
        self,
        *,
        layers: int,
        free_bits: float,
        top_free_bits: float,
        skip: bool,
        order: str,
        **parts: Unpack[Parts],
    ) -> None:
        super().__init__(**parts)
        width = self.latent_dim // layers
        features = cast(nn.Linear, self.encoder[-1]).in_features
        self.layer_slices = layer_columns([width] * layers)
        self.free_bits, self.top_free_bits = free_bits, top_free_bits
        self.skip, self.order = skip, order
        self.posteriors = nn.ModuleList(_between(features + width, width) for _ in range(layers - 1))
        self.priors = nn.ModuleList(_between(width, width) for _ in range(layers - 1))

    def posterior(self, x: Tensor) -> LayeredPosterior:
        features = self._features(x)
        _, path = self.draw(features, features.new_zeros(len(x), self.latent_dim))
        return LayeredPosterior(self, features, path)

    def log_prior(self, z: Tensor) -> Tensor:
        check_input(self, z, "z", (self.latent_dim,))
        return self.prior(z).log_prob(z)

    def logits(self, z: Tensor) -> Tensor:
        check_input(self, z, "z", (self.latent_dim,))
        return after_autocast(self.decoder(z if self.skip else z[:, self.layer_slices[0]]))

    def prior(self, z: Tensor) -> DiagonalGaussian:
        """p(z^i|z^{i+1}) of each layer given the one above in z, and p(z^L), side by side: (N, L·d)."""
        given = []
        for net, above in zip(self.priors, self.layer_slices[1:], strict=True):
            given.append(conditional(net(z[:, above])))
        top = standard_normal(z[:, self.layer_slices[-1]])
        return side_by_side([*given, top])

    def conditionals(self, features: Tensor, z: Tensor) -> DiagonalGaussian:
        """q(z^i|·) of the image with these features, each layer given the one drawn before it in z: (N, L·d)."""
        given = [self._first(features)]
        for net, before in zip(self.posteriors, self._in_turn(self.layer_slices)[:-1], strict=True):
            given.append(conditional(net(torch.cat([features, z[:, before]], 1))))
        return side_by_side(self._in_turn(given))

    def draw(self, features: Tensor, noise: Tensor) -> tuple[Tensor, DiagonalGaussian]:
        """Draw the layers one after the other with the given noise (N, L·d), 0 for the means; z, and each given q."""
        first, *later = self._in_turn(self.layer_slices)
        given = [self._first(features)]
        codes = [given[0].mean + given[0].stddev * noise[:, first]]
        for net, part in zip(self.posteriors, later, strict=True):
            q = conditional(net(torch.cat([features, codes[-1]], 1)))
            codes.append(q.mean + q.stddev * noise[:, part])
            given.append(q)
        return torch.cat(self._in_turn(codes), 1), side_by_side(self._in_turn(given))

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute the module's loss, in nats per image, and its parts; kl1…kl{L−1} are the middle terms.

        The log ratios are summed as Σ_j max(free_bits, ·) over the latents of a layer, each a mean over the batch
        (free bits: Kingma et al. 2016). With `top_free_bits` f the top costs Σ_j max(f, ·) + (β − 1)·TC instead of the
        module's three terms. Without any free bits and at β = 1 the loss is a one-sample estimate of the negative ELBO.
        """
        features = self._features(x)
        z, given = self.draw(features, randn_like(x.new_empty(len(x), self.latent_dim), generator))
        nll = -self.log_likelihood(x, z).mean()
        *lower, top = self.layer_slices
        penalty, statistics = self.regularizer(given[:, top], z[:, top], generator)
        ratio = (given.log_densities(z) - self.prior(z).log_densities(z)).mean(0)  # (L·d,)
        middle, kls = torch.zeros_like(nll), {}
        for i, part in enumerate(lower, start=1):
            kls[f"kl{i}"] = ratio[part].sum()
            cost = ratio[part].clamp(min=self.free_bits) if self.free_bits else ratio[part]
            middle = middle + cost.sum()
        if self.top_free_bits:
            penalty = ratio[top].clamp(min=self.top_free_bits).sum()
            beta = cast(TotalCorrelation, self.regularizer).beta
            penalty = penalty + (beta - 1) * statistics["tc"]
        return {"loss": nll + middle + penalty, "nll": nll, **kls, **statistics}

    def _features(self, x: Tensor) -> Tensor:
        check_input(self, x, "x", self.image_shape)
        return self.encoder[:-1](x)

    def _first(self, features: Tensor) -> DiagonalGaussian:
        mean, logvar = after_autocast(self.encoder[-1](features)).chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar)

    def _in_turn(self, layers: list) -> list:
        """The layers from z¹ up in the order of the draws, or those in the order of the draws from z¹ up."""
        return layers if self.order == "bottom_up" else layers[::-1]


def seatbelt(
    *,
    image_shape: Shape,
    latent_dim: int,
    layers: int,
    size: int,
    beta: float = 1.0,
    net: str = "conv003",
    likelihood: str = "bernoulli",
    free_bits: float = 0.125,
    top_free_bits: float = 0.0,
    skip: bool = True,
    order: str = "bottom_up",
) -> Seatbelt:
    """Build a Seatbelt-VAE from plain values, which are then also its description in the checkpoint store.

    Each of the `layers` has `latent_dim` latents; `size` is the number of training images, `beta` weighs the total
    correlation, `net` and `likelihood` are as in `vae`. `free_bits` are the nats that a latent below the top costs at
    least (.125 in the document; to each latent of a layer is our reading), and `top_free_bits` those of a latent of the
    top (none in the document, where β may silence that layer). Two ablations: `skip=False` decodes z¹
    alone, and `order="top_down"` draws q(z^L|x)Π q(z^i|z^{i+1}, x). One layer is `vae(regularizer="tc")`.
    """
    check_counts(latent_dim=latent_dim, layers=layers)
    for name, bits in (("free_bits", free_bits), ("top_free_bits", top_free_bits)):
        check_number(name, bits, "a finite number of nats ≥ 0", least=0)
    check_choice("order", order, ORDERS)
    inputs = latent_dim * (layers if skip else 1)
    encoder, decoder = coders(net, image_shape, latent_dim, inputs=inputs)
    return Seatbelt(
        encoder=encoder,
        decoder=decoder,
        layers=layers,
        free_bits=free_bits,
        top_free_bits=top_free_bits,
        skip=skip,
        order=order,
        image_shape=image_shape,
        latent_dim=layers * latent_dim,
        likelihood=named_likelihood(likelihood, PLAIN),
        regularizer=TotalCorrelation(size, beta),
    )


def _between(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, _HIDDEN), nn.LeakyReLU(), nn.Linear(_HIDDEN, 2 * width))
