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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from vaenb.distributions import DiagonalGaussian, randn_like, standard_normal
from vaenb.models.autoencoder import _LIKELIHOODS, VAE, _named
from vaenb.models.nets import Shape
from vaenb.models.regularizers import KL

Groups = Sequence[Sequence[int]]  # (size, channels) of each group's latents, from the top to the image
_LOGVAR = 10.0  # log-variances stay within ±10, softly: under attack no exponential overflows


@dataclass(frozen=True, eq=False)
class PathPosterior:
    """q(u|x) = Π_l q(u_l|u_<l, x): each group is a diagonal Gaussian given the groups above it, its path.

    `mean` is the ancestral mean, each group's mean given the means above (noise fixed at 0), and `stddev` belongs to
    the same path. `kl_layers` and `kl` cost no further way down from the top: h_l depends on the codes alone, so that
    both posteriors share it.
    """

    decoder: "TopDown"
    features: tuple[Tensor, ...]  # x's bottom-up features for each group, (N, C, S_l, S_l)
    states: tuple[Tensor, ...]  # h_l along the mean path, (N, C, S_l, S_l)
    path: DiagonalGaussian  # the groups' conditionals along the mean path, (N, D)

    @property
    def mean(self) -> Tensor:
        return self.path.mean

    @property
    def stddev(self) -> Tensor:
        return self.path.stddev

    @property
    def layer_slices(self) -> list[slice]:
        """The columns of each group, top group first."""
        return self.decoder.slices

    def rsample(self, *, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """Draw each group given the draws above it, differentiably: (N, D)."""
        noise = randn_like(self.mean, generator) if noise is None else noise
        return self.decoder.ancestral(self.features, noise).codes

    def log_prob(self, u: Tensor) -> Tensor:
        """Sum log q(u_l|u_<l, x) over the groups, exact for any u (N, D), in nats: (N,)."""
        return self.decoder.conditionals(self.decoder.follow(u).states, self.features).log_prob(u)

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
        return self.decoder.per_group(self.path, other)

    def kl(self, other: "PathPosterior | DiagonalGaussian") -> Tensor:
        """Sum `kl_layers` over the groups: (N,)."""
        return self.kl_layers(other).sum(1)

    def __getitem__(self, index) -> "PathPosterior":
        features, states = (tuple(t[index] for t in tensors) for tensors in (self.features, self.states))
        return PathPosterior(self.decoder, features, states, self.path[index])


class HierarchicalVAE(VAE):
    """A LatentModel with a `PathPosterior`: the encoder is the way up, the decoder the way down.

    `group_slices` are the groups' columns of a flat latent, top group first: z[:, model.group_slices[0]].
    """

    def __init__(self, encoder: "BottomUp", decoder: "TopDown", *, free_bits: float = 0.0, **settings) -> None:
        super().__init__(encoder, decoder, latent_dim=decoder.latent_dim, **settings)
        self.group_slices, self.free_bits = decoder.slices, free_bits

    def posterior(self, x: Tensor) -> PathPosterior:
        features = self._features(x)
        walk = self.decoder.ancestral(features, x.new_zeros(len(x), self.latent_dim))
        return PathPosterior(self.decoder, features, walk.states, walk.given)

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute nll + β·Σ_l max(free_bits, KL_l) in nats per image, and its parts; kl1 is the top group's KL_l.

        KL_l is the batch's mean of KL[q(u_l|u_<l, x) ‖ N(0, I)] along a sampled path: q goes down as p does, so the
        closed form given u_<l is part of the ELBO. Without free bits and at β = 1 the loss is the negative ELBO.
        """
        noise = randn_like(x.new_empty(len(x), self.latent_dim), generator)
        walk = self.decoder.ancestral(self._features(x), noise)
        nll = -self.likelihood.log_prob(x, walk.logits).mean()
        kls = self.decoder.per_group(walk.given, standard_normal(noise)).mean(0)
        loss = nll + self.regularizer.beta * kls.clamp(min=self.free_bits).sum()
        return {"loss": loss, "nll": nll, "kl": kls.sum(), **{f"kl{i}": kl for i, kl in enumerate(kls, start=1)}}

    def _features(self, x: Tensor) -> tuple[Tensor, ...]:
        self._check_images(x)
        return self.encoder(x)


@dataclass(frozen=True, eq=False)
class Walk:
    """One way down from the constant to the image."""

    codes: Tensor  # u, (N, D)
    states: tuple[Tensor, ...]  # h_l, which each group's conditionals see, (N, C, S_l, S_l)
    logits: Tensor  # (N, *image_shape)
    given: DiagonalGaussian | None = None  # q(u_l|u_<l, x) along this path, (N, D), where an image led the way


class TopDown(nn.Module):
    """The generative ladder, and the heads of the posteriors along it: codes (N, D) → logits (N, *image_shape)."""

    def __init__(self, image_shape: Shape, channels: int, groups: Groups) -> None:
        super().__init__()
        sizes = [*(size for size, _ in groups), image_shape[1]]
        widths = [*(channels for _ in groups[1:]), image_shape[0]]
        self.top = nn.Parameter(torch.randn(1, channels, sizes[0], sizes[0]))
        self.groups = nn.ModuleList(
            _Group(channels, size, zchannels, below // size, c_out)
            for (size, zchannels), below, c_out in zip(groups, sizes[1:], widths, strict=True)
        )
        ends = [0, *accumulate(size**2 * zchannels for size, zchannels in groups)]
        self.slices = [slice(start, end) for start, end in pairwise(ends)]
        self.latent_dim = ends[-1]

    def forward(self, u: Tensor) -> Tensor:
        return self.follow(u).logits

    def follow(self, u: Tensor) -> Walk:
        """Go down with the codes u (N, D)."""
        return self._walk(len(u), lambda i, h: u[:, self.slices[i]])

    def ancestral(self, features: Sequence[Tensor], noise: Tensor) -> Walk:
        """Go down with u_l = m_l + s_l·noise_l, for noise (N, D): 0 for the means."""
        given: list[DiagonalGaussian] = []

        def choose(i: int, h: Tensor) -> Tensor:
            given.append(self.groups[i].posterior(h, features[i]))
            return given[i].mean + given[i].stddev * noise[:, self.slices[i]]

        return replace(self._walk(len(noise), choose), given=_side_by_side(given))

    def conditionals(self, states: Sequence[Tensor], features: Sequence[Tensor]) -> DiagonalGaussian:
        """q(u_l|u_<l, x) of the image with these features along the path with these states: (N, D)."""
        parts = zip(self.groups, states, features, strict=True)
        return _side_by_side([group.posterior(h, f) for group, h, f in parts])

    def per_group(self, p: DiagonalGaussian, q: DiagonalGaussian) -> Tensor:
        """KL[p ‖ q] of each group's columns: (N, G)."""
        return torch.stack([p[:, part].kl(q[:, part]) for part in self.slices], dim=1)

    def _walk(self, n: int, choose: Callable[[int, Tensor], Tensor]) -> Walk:
        """Go down with choose(i, h), the codes (n, d_i) of group i."""
        h, codes, states = self.top.expand(n, -1, -1, -1), [], []
        for i, group in enumerate(self.groups):
            states.append(h)
            codes.append(choose(i, h))
            h = group(h, codes[i])
        return Walk(torch.cat(codes, 1), tuple(states), h)


class _Group(nn.Module):
    """A group of latents: its two conditionals, the residual block after it, and the way to the size below."""

    def __init__(self, channels: int, size: int, zchannels: int, factor: int, c_out: int) -> None:
        super().__init__()
        self.p = nn.Conv2d(channels, 2 * zchannels, 1)
        self.q = nn.Sequential(_conv(2 * channels, channels, size), nn.SiLU(), nn.Conv2d(channels, 2 * zchannels, 1))
        self.inject = nn.Conv2d(zchannels, channels, 1)
        self.block = _Residual(channels, size)
        self.up = nn.ConvTranspose2d(channels, c_out, factor + 2, stride=factor, padding=1)

    def posterior(self, h: Tensor, features: Tensor) -> DiagonalGaussian:
        mean, logvar = self.q(torch.cat([h, features], 1)).flatten(1).chunk(2, 1)
        return DiagonalGaussian(mean, _bounded(logvar))

    def forward(self, h: Tensor, u: Tensor) -> Tensor:
        mean, logvar = self.p(h).chunk(2, 1)
        z = mean + (_bounded(logvar) / 2).exp() * u.reshape(mean.shape)
        return self.up(self.block(h + self.inject(z)))


class BottomUp(nn.Module):
    """Images (N, *image_shape) → features for each group, (N, C, S_l, S_l), top group first."""

    def __init__(self, image_shape: Shape, channels: int, groups: Groups) -> None:
        super().__init__()
        sizes = [image_shape[1], *(size for size, _ in reversed(groups))]
        widths = [image_shape[0], *(channels for _ in groups[1:])]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c_in, channels, above // size + 2, stride=above // size, padding=1), _Residual(channels, size)
            )
            for c_in, (above, size) in zip(widths, pairwise(sizes), strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = list(accumulate(self.levels, lambda h, level: level(h), initial=x))
        return tuple(features[:0:-1])


class _Residual(nn.Module):
    """h + conv(SiLU(conv(SiLU(h))))."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        first, second = _conv(channels, channels, size), _conv(channels, channels, size)
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
    both ways, `likelihood` as in `vae`, `free_bits` the nats up to which a group's KL costs nothing in training.
    """
    _check(image_shape, channels, groups, free_bits)
    return HierarchicalVAE(
        BottomUp(image_shape, channels, groups),
        TopDown(image_shape, channels, groups),
        image_shape=image_shape,
        likelihood=_named(_LIKELIHOODS, "likelihood", likelihood)(),
        regularizer=KL(beta),
        free_bits=free_bits,
    )


def _check(image_shape: Shape, channels: int, groups: Groups, free_bits: float) -> None:
    if channels < 1:
        raise ValueError(f"channels: at least one expected, got {channels}")
    if not 0 <= free_bits < math.inf:
        raise ValueError(f"free_bits: a finite number of nats ≥ 0 expected, got {free_bits}")
    if not groups or not all(isinstance(g, (tuple, list)) and len(g) == 2 and min(g) >= 1 for g in groups):
        raise ValueError(f"groups: pairs (size, channels) such as ((1, 16), (4, 2), (8, 1)) expected, got {groups!r}")
    if image_shape[1] != image_shape[2]:
        raise ValueError(f"image_shape: square images expected, got {image_shape}")
    sizes = [*(size for size, _ in groups), image_shape[1]]
    if any(below not in (above << k for k in range(12)) for above, below in zip(sizes, sizes[1:], strict=False)):
        raise ValueError(f"groups: sizes 1, 2, 4, … times the one before expected, up to the image's, got {sizes}")


def _bounded(logvar: Tensor) -> Tensor:
    return _LOGVAR * (logvar / _LOGVAR).tanh()


def _side_by_side(parts: Sequence[DiagonalGaussian]) -> DiagonalGaussian:
    return DiagonalGaussian(torch.cat([p.mean for p in parts], 1), torch.cat([p.logvar for p in parts], 1))


def _conv(c_in: int, c_out: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1) if size > 1 else nn.Conv2d(c_in, c_out, 1)
