"""The contract between a model and everything that attacks, defends or measures it.

Images are float tensors (N, C, H, W) in [0, 1]; latents are flat float tensors (N, D). A `LatentModel` has four
methods, and anything that has them can be attacked, sampled and audited: someone else's VAE needs an adapter of a
few lines and no base class.
"""

import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vaenb.checks import (
    GAUSSIAN,
    NotDefined,
    check_decoded,
    check_images,
    check_model,
    check_model_and_images,
    check_nats,
    check_pixels,
    check_posterior,
    check_whole,
    evaluating,
)

# whose lines are not the user's
_LIBRARIES = [Path(__file__).parent, *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))]


class Posterior(Protocol):
    """A distribution over flat latents, one for each of N images."""

    @property
    def mean(self) -> Tensor:
        """(N, D)."""

    @property
    def stddev(self) -> Tensor:
        """(N, D), not negative."""

    def rsample(self, *, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """Draw one latent for each image, differentiably: (N, D); with given `noise` (N, D) ~ N(0, I), always the same.

        Only attacks on an expectation over draws give the noise: `encoder`'s divergence "output", and `adaptive`.
        """

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (N, D) in nats: (N,)."""

    def kl(self, other: Any) -> Tensor:
        """KL[self ‖ other] in nats, for another posterior of the same class: (N,)."""

    def __getitem__(self, index: Any) -> "Posterior":
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


def log_joint(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z) = log p(z) + log p(x|z) in nats, of images x (N, C, H, W) and codes z (N, D): (N,)."""
    return model.log_prior(z) + model.log_likelihood(x, z)


@torch.no_grad()
def reconstruct(model: LatentModel, x: Tensor) -> Tensor:
    """Decode the posterior mean of each image: (N, C, H, W) in [0, 1], without gradient, 512 images at a time."""
    check_model_and_images(model, x)
    return torch.cat([model.decode(model.posterior(part).mean) for part in x.split(512)])


@torch.enable_grad()  # also where the caller has switched gradients off
@evaluating("model")
def check_contract(model, x: Tensor) -> None:
    """Call a model's four methods on images x (N, C, H, W), N ≥ 2, and refuse what breaks the contract.

    Shapes, ranges, gradients in x and z, and that an image's reconstruction and densities hang neither on its batch
    nor on chance; not whether the densities are right. What raises NotDefined passes. Raises TypeError or ValueError,
    saying what to do.
    """
    check_model(model)
    check_images(x)
    check_whole("len(x)", len(x), least=2)
    x = x.detach().clone().requires_grad_()
    q = _called("posterior", model.posterior, x)
    check_posterior(q, len(x))
    _check_spread(q)
    z = q.mean.detach().requires_grad_()
    images = _called("decode", model.decode, z)
    check_decoded(images, x)
    check_pixels(images)
    first = _called("posterior", model.posterior, x[:1])
    _check_independence(_called("decode", model.decode, first.mean), images[:1])
    for name, value, given in (("decode(z)", images, z), ("posterior(x).mean", q.mean, x)):
        if not _reaches(value, given):
            raise ValueError(f"{name}: attacks need its gradient; take torch.no_grad(), .detach() or .data out of it")
    for name, method, alone, arguments in (
        ("log_prior", model.log_prior, model.log_prior, [z]),
        ("log_likelihood", model.log_likelihood, model.log_likelihood, [x, z]),
        ("posterior.log_prob", q.log_prob, first.log_prob, [z]),
    ):
        try:
            value = _called(name, method, *arguments)
            single = _called(name, alone, *[argument[:1] for argument in arguments])
        except NotDefined:
            continue
        check_nats(value, name, len(x))
        _check_density(value, single, z, name)


def _called(name: str, method: Callable, *arguments, **keywords):
    """Call one of the model's methods; what it raises names the method and what it was given."""
    try:
        return method(*arguments, **keywords)
    except NotDefined:
        raise
    except Exception as error:  # whatever somebody's code raises
        given = [f"{a.dtype} {tuple(a.shape)}" for a in arguments if isinstance(a, Tensor)]
        given += [f"{keyword}=…" for keyword in keywords]
        called = f"called with {' and '.join(given)} " if given else ""
        raised = f"{type(error).__name__}: {error}{raised_at(error)}"
        raise ValueError(f"{name}: {called}it raised {raised}{_hint(name, error)}") from error


def raised_at(error: BaseException) -> str:
    """The last line of the user's own files that an error came through, as " (mine.py, line 12)", or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        in_library = any(path.is_relative_to(library) for library in _LIBRARIES)
        if path.is_file() and not in_library:
            return f" ({path.name}, line {frame.lineno})"
    return ""


def _hint(name: str, error: Exception) -> str:
    text = str(error)
    if "dtype" in text:
        return "; images are float32: call .float() on the network"
    if "more than 1 value per channel" in text:
        return "; a network in training mode: call .eval() on it"
    if name == "posterior" and ("shape" in text or "channels" in text):
        return "; does the model take images of another size, or of other channels?"
    return ""


def _check_spread(q) -> None:
    if (q.stddev < 0).any():
        raise ValueError(f"posterior.stddev: not negative expected, got {q.stddev.min():.4g}; is it the log variance?")
    draw = _called("posterior.rsample", q.rsample, generator=torch.Generator().manual_seed(0))
    again = _called("posterior.rsample", q.rsample, generator=torch.Generator().manual_seed(0))
    wanted = "posterior.rsample: one draw (N, D) from generator=… expected"
    if draw.shape != q.mean.shape:
        raise ValueError(f"{wanted}, got shape {tuple(draw.shape)}; {GAUSSIAN}")
    if not torch.equal(draw, again):
        raise ValueError(f"{wanted}, the same seed gave two draws; {GAUSSIAN}")


def _check_independence(alone: Tensor, together: Tensor) -> None:
    if not torch.allclose(alone, together, atol=1e-3):
        gap = (alone - together).abs().max()
        raise ValueError(
            f"posterior and decode: an image's reconstructions alone and in a batch are up to {gap:.2g} apart; leave "
            "out what mixes a batch (statistics over it) or is random (dropout, a draw in place of the mean)"
        )


def _reaches(value: Tensor, given: Tensor) -> bool:
    """Whether a gradient of the value reaches what was given; one that reaches weights alone is no use."""
    if not value.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(value.sum(), given, allow_unused=True, retain_graph=True)
    return gradient is not None


def _check_density(value: Tensor, alone: Tensor, z: Tensor, name: str) -> None:
    if not torch.allclose(alone, value[:1], rtol=1e-4, atol=1e-3):
        raise ValueError(
            f"{name}: {alone.item():.6g} nats for an image alone and {value[0].item():.6g} for it in a batch; leave "
            "out what mixes a batch (a mean over it) or is random"
        )
    if value.detach().max() == value.detach().min():  # as a flat prior is
        return
    if not _reaches(value, z):
        raise ValueError(
            f"{name}: chains and attacks need its gradient in z; take torch.no_grad(), .detach() or .data out of it"
        )
