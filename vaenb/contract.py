"""The contract between a model and everything that attacks, defends or measures it.

Images are float tensors (N, C, H, W) in [0, 1]; latents are flat float tensors (N, D). A `LatentModel` has four
methods, and anything that has them can be attacked, sampled and audited: someone else's VAE needs an adapter of a
few lines and no base class.
"""

from typing import Protocol

import torch
from torch import Tensor

from vaenb.checks import check_batch, check_images, check_model


class Posterior(Protocol):
    """A distribution over flat latents, one for each of N images."""

    mean: Tensor  # (N, D)
    stddev: Tensor  # (N, D)

    def rsample(self, *, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """Draw one latent for each image, differentiably: (N, D); with given `noise` (N, D) ~ N(0, I), always the same.

        Only attacks on an expectation over draws give the noise: `encoder`'s objective "output", and `adaptive`.
        """

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (N, D) in nats: (N,)."""

    def kl(self, other: "Posterior") -> Tensor:
        """KL[self ‖ other] in nats, for another posterior of the same class: (N,)."""

    def __getitem__(self, index: Tensor) -> "Posterior":
        """The posterior of some of the images: attacks run in chunks."""


class LatentModel(Protocol):
    """A generative model of images with an encoder: p(x|z)p(z) and q(z|x)."""

    def posterior(self, x: Tensor) -> Posterior:
        """q(z|x) for images x (N, C, H, W) in [0, 1]."""

    def decode(self, z: Tensor) -> Tensor:
        """The mean image of p(x|z), (N, C, H, W) in [0, 1], for z (N, D)."""

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z) in nats: (N,)."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) in nats, summed over the pixels: (N,)."""


class NotDefined(TypeError):
    """What was asked for does not exist for this model; the message says why."""


@torch.no_grad()
def reconstruct(model: LatentModel, x: Tensor) -> Tensor:
    """Decode the posterior mean of each image: (N, C, H, W) in [0, 1], without gradient, 512 images at a time."""
    check_model(model)
    check_images(x)
    return torch.cat([model.decode(model.posterior(part).mean) for part in x.split(512)])


@torch.enable_grad()  # also where the caller has switched gradients off
def check_contract(model, x: Tensor) -> None:
    """Call a model's four methods on images x (N, C, H, W), N ≥ 2, and refuse what breaks the contract.

    Shapes, ranges, gradients in x and z, and that an image's reconstruction and densities hang neither on its batch
    nor on chance; not whether the densities are right. What raises NotDefined passes. Raises TypeError or ValueError,
    saying what to do.
    """
    check_model(model)
    check_images(x)
    x = x.detach().clone().requires_grad_()
    q = _called("posterior", model.posterior, x)
    _check_posterior(q, len(x))
    z = q.mean.detach().requires_grad_()
    images = _called("decode", model.decode, z)
    _check_decoded(images, x)
    with torch.no_grad():
        alone = _called("decode", model.decode, _called("posterior", model.posterior, x[:1]).mean)
    if not torch.allclose(alone, images[:1], atol=1e-3):
        gap = (alone - images[:1]).abs().max()
        raise ValueError(
            f"posterior and decode: an image's reconstructions alone and in a batch are up to {gap:.2g} apart; leave "
            "out what mixes a batch (statistics over it) or is random (dropout, a draw in place of the mean)"
        )
    if not images.requires_grad or not q.mean.requires_grad:
        name = "posterior(x).mean" if images.requires_grad else "decode(z)"
        raise ValueError(f"{name}: attacks need its gradient; take torch.no_grad(), .detach() or .data out of it")
    first = model.posterior(x[:1])
    for name, whole, single in (
        ("log_prior", (model.log_prior, z), (model.log_prior, z[:1])),
        ("log_likelihood", (model.log_likelihood, x, z), (model.log_likelihood, x[:1], z[:1])),
        ("posterior.log_prob", (q.log_prob, z), (first.log_prob, z[:1])),
    ):
        try:
            value, alone = _called(name, *whole), _called(name, *single)
        except NotDefined:
            continue
        _check_values(value, name, len(x))
        _check_density(value, alone, z, name)


def _called(name: str, method, *arguments: Tensor, **keywords):
    """Call one of the model's methods; what it raises names the method and what it was given."""
    try:
        return method(*arguments, **keywords)
    except NotDefined:
        raise
    except Exception as error:  # whatever somebody's code raises
        given = " and ".join(f"{a.dtype} {tuple(a.shape)}" for a in arguments) or ", ".join(f"{k}=…" for k in keywords)
        raise ValueError(f"{name}: called with {given} it raised {type(error).__name__}: {error}") from error


def _check_posterior(q, count: int) -> None:
    hint = "return vaenb.models.DiagonalGaussian(mean, logvar)"
    missing = [name for name in ("mean", "stddev", "rsample", "log_prob", "__getitem__") if not hasattr(q, name)]
    if isinstance(q, (tuple, list, dict, Tensor)) or missing:
        lacks = f" without {', '.join(missing).replace('__getitem__', '[index]')}" if missing else ""
        raise TypeError(
            f"posterior: a distribution with mean, stddev, rsample, log_prob, kl and [index] expected, got "
            f"{type(q).__name__}{lacks}; {hint}"
        )
    for name in ("mean", "stddev"):
        value = getattr(q, name)
        if isinstance(value, Tensor) and value.ndim > 2:
            raise ValueError(
                f"posterior.{name}: flat latents (N, D) expected, got {tuple(value.shape)}; use .flatten(1), and "
                f"z.unflatten(1, {tuple(value.shape[1:])}) first in decode"
            )
        check_batch(value, f"posterior.{name}", dims=2, shape="flat latents (N, D)")
        if len(value) != count or value.shape != q.mean.shape:
            raise ValueError(f"posterior.{name}: a row for each of {count} images expected, got {tuple(value.shape)}")
    if (q.stddev < 0).any():
        raise ValueError(f"posterior.stddev: not negative expected, got {q.stddev.min():.4g}; is it the log variance?")
    first, second = (_called("posterior.rsample", q.rsample, generator=torch.Generator().manual_seed(0)) for _ in "ab")
    if first.shape != q.mean.shape or not torch.equal(first, second):
        what = "the same seed gave two draws" if first.shape == q.mean.shape else f"got shape {tuple(first.shape)}"
        raise ValueError(f"posterior.rsample: one draw (N, D) from generator=… expected, {what}; {hint}")


def _check_decoded(images, x: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(
            f"decode: a tensor of images expected, got {type(images).__name__}; return the tensor in it, such as "
            ".sample (diffusers) or .reconstruction (pythae)"
        )
    if images.shape != x.shape:
        size = "flat pixels need .view(-1, C, H, W)" if images.ndim == 2 else "is it the images' size and channels?"
        raise ValueError(f"decode: images {tuple(x.shape)}, as x, expected, got {tuple(images.shape)}; {size}")
    try:
        check_images(images, "decode")
    except ValueError as error:
        logits = images.detach().isfinite().all() and images.detach().min() < -1.01
        raise ValueError(f"{error}{'; these look like logits: use .sigmoid()' if logits else ''}") from None


def _check_values(value, name: str, count: int) -> None:
    if not isinstance(value, Tensor) or value.shape != (count,):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        many = isinstance(value, Tensor) and value.ndim > 1
        hint = "use .flatten(1).sum(1)" if many else "sum over pixels or dimensions, never over the images"
        raise ValueError(f"{name}: nats, one number for each image, ({count},), expected, got {got}; {hint}")
    if not value.isfinite().all():
        raise ValueError(f"{name}: finite nats expected, got {value.tolist()}")


def _check_density(value: Tensor, alone: Tensor, z: Tensor, name: str) -> None:
    if not torch.allclose(alone, value[:1], rtol=1e-4, atol=1e-3):
        raise ValueError(
            f"{name}: {alone.item():.6g} nats for an image alone and {value[0].item():.6g} for it in a batch; leave "
            "out what mixes a batch (a mean over it) or is random"
        )
    constant = value.detach().max() == value.detach().min()  # as a flat prior is
    followed = value.requires_grad and torch.autograd.grad(value.sum(), z, allow_unused=True, retain_graph=True)[0]
    if not constant and (followed is False or followed is None):
        raise ValueError(f"{name}: HMC needs its gradient in z; take torch.no_grad(), .detach() or .data out of it")
