"""A small deep hierarchical VAE: groups of latents along a residual path from a learned constant down to the image.

Group l adds its latents z_l to the path, h_{l+1} = block(h_l + W z_l), from a constant h_1 on, in the spirit of NVAE
(Vahdat and Kautz, 2020) and VDVAE (Child, 2021):

    p(z_l | z_<l) = N(μ_l, σ_l²)          of h_l
    z_l = μ_l + σ_l·u_l
    q(u_l | u_<l, x) = N(m_l, s_l²)       of h_l and of x's bottom-up features at the group's resolution

A flat latent (N, D) holds the u_l side by side, top group first. In these non-centred coordinates p(u) = N(0, I): the
prior is a closed form, and one HMC with one step size serves all groups. In z the scale of a lower group would depend
on the groups above it, a funnel that no one step size fits. Nothing is lost: (m_l, s_l) is NVAE's posterior relative
to its prior, and as z_l is affine in u_l, KL[q(u_l|·) ‖ N(0, I)] is the KL between the two conditionals of z_l.

Nothing is normalised over a batch: its images never influence each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from vaenb.checks import check_counts, check_input, check_number
from vaenb.distributions import DiagonalGaussian, as_rows, randn_like, standard_normal
from vaenb.models.autoencoder import VAE, Parts
from vaenb.models.layered import OnPath, conditional, kl_by_layer, layer_columns, side_by_side
from vaenb.models.likelihoods import PLAIN, named_likelihood
from vaenb.models.nets import Shape
from vaenb.models.regularizers import KL
from vaenb.precision import after_autocast

Groups = Sequence[Sequence[int]]  # (size, channels) of each group's latents, from the top to the image


@dataclass(frozen=True, eq=False)
class PathPosterior(OnPath):
    """q(u|x) = Π_l q(u_l|u_<l, x): each group is a diagonal Gaussian given the groups above it, its path.

    `kl_layers` and `kl` cost no further way down from the top: h_l depends on the codes alone, so that both posteriors
    share it.
    """

    decoder: "TopDown"
    features: tuple[Tensor, ...]  # x's bottom-up features for each group, (N, C, S_l, S_l)
    states: tuple[Tensor, ...]  # h_l along the mean path, (N, C, S_l, S_l)
    path: DiagonalGaussian  # the groups' conditionals along the mean path, (N, D)

    @property
    def layer_slices(self) -> list[slice]:
        """The columns of each group, top group first."""
        return self.decoder.slices

    def rsample(self, *, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """Draw each group given the draws above it, differentiably: (N, D)."""
        noise = randn_like(self.mean, generator) if noise is None else noise
        walk, _ = self.decoder.ancestral(self.features, noise)
        return walk.codes

    def log_prob(self, u: Tensor) -> Tensor:
        """Sum log q(u_l|u_<l, x) over the groups, exact for any u (N, D), in nats: (N,)."""
        walk = self.decoder.follow(u)
        return self.decoder.conditionals(walk.states, self.features).log_prob(u)

    def kl_layers(self, other: "PathPosterior | DiagonalGaussian") -> Tensor:
        """KL[q(u_l|u_<l, x) ‖ q'(u_l|u_<l)] of each group, top group first, in nats: (N, G).

        Both conditionals are given the same u_<l, the means of self. Below the top group the term depends on that
        path: it is the value at the mean path, not the expectation over paths. `other` is another posterior of the same
        model, or a DiagonalGaussian such as the prior.
        """
        if isinstance(other, PathPosterior):
            if other.decoder is not self.decoder:
                raise ValueError("other: a posterior of the same model expected, got one of another model")
            other = self.decoder.conditionals(self.states, other.features)
        return kl_by_layer(self.path, other, self.layer_slices)

    def __getitem__(self, index) -> "PathPosterior":
        rows = as_rows(index)
        features = tuple(feature[rows] for feature in self.features)
        states = tuple(state[rows] for state in self.states)
        return PathPosterior(self.decoder, features, states, self.path[rows])


class HierarchicalVAE(VAE):
    """A LatentModel with a `PathPosterior`: the encoder is the way up, the decoder the way down.

    `group_slices` are the groups' columns of a flat latent, top group first: z[:, model.group_slices[0]].
    """

    encoder: "BottomUp"
    decoder: "TopDown"
    regularizer: KL

    def __init__(self, *, free_bits: float = 0.0, **parts: Unpack[Parts]) -> None:
        super().__init__(**parts)
        self.group_slices, self.free_bits = self.decoder.slices, free_bits

    def posterior(self, x: Tensor) -> PathPosterior:
        check_input(self, x, "x", self.image_shape)
        features = self.encoder(x)
        walk, given = self.decoder.ancestral(features, x.new_zeros(len(x), self.latent_dim))
        return PathPosterior(self.decoder, features, walk.states, given)

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute nll + β·Σ_l max(free_bits, KL_l) in nats per image, and its parts; kl1 is the top group's KL_l.

        KL_l is the batch's mean of KL[q(u_l|u_<l, x) ‖ N(0, I)] along a sampled path: q goes down as p does, so the
        closed form given u_<l is part of the ELBO. Without free bits and at β = 1 the loss is the negative ELBO.
        """
        check_input(self, x, "x", self.image_shape)
        noise = randn_like(x.new_empty(len(x), self.latent_dim), generator)
        walk, given = self.decoder.ancestral(self.encoder(x), noise)
        nll = -self.likelihood.log_prob(x, walk.logits).mean()
        kls = kl_by_layer(given, standard_normal(noise), self.group_slices).mean(0)  # (G,)
        loss = nll + self.regularizer.beta * kls.clamp(min=self.free_bits).sum()
        statistics = {"loss": loss, "nll": nll, "kl": kls.sum()}
        for i, kl in enumerate(kls, start=1):
            statistics[f"kl{i}"] = kl
        return statistics


@dataclass(frozen=True, eq=False)
class Walk:
    """One way down from the constant to the image."""

    codes: Tensor  # u, (N, D)
    states: tuple[Tensor, ...]  # h_l, which each group's conditionals see, (N, C, S_l, S_l)
    logits: Tensor  # (N, *image_shape)


class TopDown(nn.Module):
    """The generative ladder, and the heads of the posteriors along it: codes (N, D) → logits (N, *image_shape)."""

    def __init__(self, image_shape: Shape, channels: int, groups: Groups) -> None:
        super().__init__()
        colors, side, _ = image_shape
        sizes = [size for size, _ in groups]
        self.top = nn.Parameter(torch.randn(1, channels, sizes[0], sizes[0]))
        ladder = nn.ModuleList()
        for (size, zchannels), below in zip(groups, [*sizes[1:], side], strict=True):
            c_out = colors if len(ladder) == len(groups) - 1 else channels
            ladder.append(_Group(channels, size, zchannels, factor=below // size, c_out=c_out))
        self.groups = cast("Sequence[_Group]", ladder)
        self.slices = layer_columns(size**2 * zchannels for size, zchannels in groups)
        self.latent_dim = self.slices[-1].stop

    def forward(self, u: Tensor) -> Tensor:
        return self.follow(u).logits

    def follow(self, u: Tensor) -> Walk:
        """Go down with the codes u (N, D)."""
        h = self.top.expand(len(u), -1, -1, -1)
        states = []
        for group, part in zip(self.groups, self.slices, strict=True):
            states.append(h)
            h = group(h, u[:, part])
        return Walk(u, tuple(states), logits=after_autocast(h))

    def ancestral(self, features: Sequence[Tensor], noise: Tensor) -> tuple[Walk, DiagonalGaussian]:
        """Go down with u_l = m_l + s_l·noise_l, for noise (N, D), 0 for the means; and q(u_l|u_<l, x) on this path."""
        h = self.top.expand(len(noise), -1, -1, -1)
        codes, states, given = [], [], []
        for group, feature, part in zip(self.groups, features, self.slices, strict=True):
            q = group.posterior(h, feature)
            u = q.mean + q.stddev * noise[:, part]
            codes.append(u)
            states.append(h)
            given.append(q)
            h = group(h, u)
        return Walk(torch.cat(codes, 1), tuple(states), logits=after_autocast(h)), side_by_side(given)

    def conditionals(self, states: Sequence[Tensor], features: Sequence[Tensor]) -> DiagonalGaussian:
        """q(u_l|u_<l, x) of the image with these features along the path with these states: (N, D)."""
        parts = zip(self.groups, states, features, strict=True)
        return side_by_side([group.posterior(h, feature) for group, h, feature in parts])


class _Group(nn.Module):
    """A group of latents: its two conditionals, the residual block after it, and the way to the size below."""

    def __init__(self, channels: int, size: int, zchannels: int, *, factor: int, c_out: int) -> None:
        super().__init__()
        self.p = nn.Conv2d(channels, 2 * zchannels, 1)
        self.q = nn.Sequential(_conv(2 * channels, channels, size), nn.SiLU(), nn.Conv2d(channels, 2 * zchannels, 1))
        self.inject = nn.Conv2d(zchannels, channels, 1)
        self.block = _Residual(channels, size)
        self.up = nn.ConvTranspose2d(channels, c_out, factor + 2, stride=factor, padding=1)

    def posterior(self, h: Tensor, features: Tensor) -> DiagonalGaussian:
        outputs = self.q(torch.cat([h, features], 1))  # (N, 2·zchannels, S_l, S_l)
        return conditional(outputs.flatten(1))

    def forward(self, h: Tensor, u: Tensor) -> Tensor:
        p = conditional(self.p(h))
        z = p.mean + p.stddev * u.reshape(p.mean.shape)
        return self.up(self.block(h + self.inject(z)))


class BottomUp(nn.Module):
    """Images (N, *image_shape) → features for each group, (N, C, S_l, S_l), top group first."""

    def __init__(self, image_shape: Shape, channels: int, groups: Groups) -> None:
        super().__init__()
        c_in, side, _ = image_shape
        self.levels = nn.ModuleList()
        for size, _ in reversed(groups):
            factor = side // size
            shrink = nn.Conv2d(c_in, channels, factor + 2, stride=factor, padding=1)
            self.levels.append(nn.Sequential(shrink, _Residual(channels, size)))
            c_in, side = channels, size

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features: list[Tensor] = []
        for level in self.levels:
            x = level(x)
            features.insert(0, x)
        return tuple(features)


class _Residual(nn.Module):
    """h + conv(SiLU(conv(SiLU(h))))."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        first = _conv(channels, channels, size)
        second = _conv(channels, channels, size)
        self.net = nn.Sequential(nn.SiLU(), first, nn.SiLU(), second)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.net(h)


def hierarchical_vae(
    *,
    image_shape: Shape,
    channels: int = 32,
    groups: Groups = ((1, 16), (4, 2), (8, 1)),
    likelihood: str = "bernoulli",
    beta: float = 1.0,
    free_bits: float = 5.0,
) -> HierarchicalVAE:
    """Build a hierarchical VAE from plain values, which are then also its description in the checkpoint store.

    `groups` are (size, channels) of each group's latents, from the top to the image: the default has 16 + 32 + 64 of
    them, 1×1, 4×4 and 8×8. A size is 1, 2, 4, … times the one before; so is the image's. `channels` is the width of
    both ways, `likelihood` bernoulli, continuous_bernoulli or gaussian, `free_bits` the nats up to which a group's KL
    costs nothing in training.
    """
    check_counts(channels=channels)
    check_number("free_bits", free_bits, "a finite number of nats ≥ 0", least=0)
    _check_groups(image_shape, groups)
    encoder = BottomUp(image_shape, channels, groups)
    decoder = TopDown(image_shape, channels, groups)
    return HierarchicalVAE(
        encoder=encoder,
        decoder=decoder,
        image_shape=image_shape,
        latent_dim=decoder.latent_dim,
        likelihood=named_likelihood(likelihood, PLAIN),
        regularizer=KL(beta),
        free_bits=free_bits,
    )


def _check_groups(image_shape: Shape, groups: Groups) -> None:
    if not groups or not all(isinstance(g, (tuple, list)) and len(g) == 2 and min(g) >= 1 for g in groups):
        raise ValueError(f"groups: pairs (size, channels) such as ((1, 16), (4, 2), (8, 1)) expected, got {groups!r}")
    if image_shape[1] != image_shape[2]:
        raise ValueError(f"image_shape: square images expected, got {image_shape}")
    sizes = [*(size for size, _ in groups), image_shape[1]]
    for above, below in pairwise(sizes):
        if below % above or (below // above).bit_count() != 1:
            raise ValueError(f"groups: sizes 1, 2, 4, … times the one before expected, up to the image's, got {sizes}")


def _conv(c_in: int, c_out: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1) if size > 1 else nn.Conv2d(c_in, c_out, 1)
