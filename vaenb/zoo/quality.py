"""What the zoo measures of a model: the statistics of its gate, and its quality on test images."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from vaenb import data
from vaenb.attacks import encoder, latent
from vaenb.attacks.classifier import predict
from vaenb.checks import NotDefined
from vaenb.contract import reconstruct
from vaenb.data import ImageSet
from vaenb.distributions import seeded, standard_normal
from vaenb.metrics.detection import auroc
from vaenb.metrics.images import ms_ssim, mse, ssim
from vaenb.metrics.likelihood import elbo
from vaenb.models.classifier import Classifier
from vaenb.models.diffusion import DDGM, as_images

_ATTACKED = 100  # validation images
_TESTED = 1_000


@dataclass(frozen=True)
class Statistic:
    """A number of a model and images that the gate watches beside the loss, and the margin of its claim.

    `runs_differ` is the 95 % t range of the difference between two training runs of one length, where it was measured.
    """

    words: str
    measure: Callable[[Any, ImageSet], float]
    margin: float
    runs_differ: float = 0.0


def quality(model: Any, test: ImageSet) -> dict[str, float]:
    """Measure a model on the first 1,000 test images: accuracy; or ELBO (β = 1, 16 draws) and KL in nats, and SSIM.

    A deterministic autoencoder has SSIM alone, and a diffusion model what `denoised` gives.
    """
    part = test.take(slice(_TESTED))
    if isinstance(model, DDGM):
        before, after = denoised(model, part)
        return {"images": len(part), "noisy MSE": before, "MSE": after}
    if isinstance(model, Classifier):
        return {"images": len(part), "accuracy": accuracy(model, part)}
    x = part.float()
    found: dict[str, float] = {"images": len(part)}
    try:
        found["ELBO"] = elbo(model, x, generator=seeded(0, x.device)).mean().item()
        with torch.no_grad():
            q = model.posterior(x)
        found["KL"] = q.kl(standard_normal(q.mean)).mean().item()
    except NotDefined:
        pass
    return found | {"SSIM": ssim(x, reconstruct(model, x)).mean().item()}


def accuracy(model: Classifier, images: ImageSet) -> float:
    """The share of images whose label is right."""
    right = predict(model, images.float(), chunk=500) == images.labels
    return right.double().mean().item()


def latent_attack(model: Any, images: ImageSet) -> float:
    """The mean SSIM that an untargeted attack on the codes takes away at ‖d‖₂ = 3·√(D/10)."""
    x = images.float(slice(_ATTACKED))
    with torch.no_grad():
        z = model.posterior(x).mean
    reach = 3 * math.sqrt(z.shape[1] / 10)
    found = latent.attack(model, z, eps=reach, steps=10, restarts=3, generator=seeded(0, x.device))
    with torch.no_grad():
        return 1 - ssim(model.decode(z), model.decode(found.adversarial)).mean().item()


def encoder_attack(model: Any, images: ImageSet) -> float:
    """Mean MS-SSIM between reconstructions of clean and of attacked images: untargeted, skl, ‖d‖∞ ≤ .1."""
    x = images.float(slice(_ATTACKED))
    found = encoder.attack(model, x, eps=0.1, steps=50, restarts=2, generator=seeded(0, x.device))
    return ms_ssim(reconstruct(model, x), reconstruct(model, found.adversarial)).mean().item()


@torch.no_grad()
def drawn_copies(model: Any, images: ImageSet) -> float:
    """Mean SSIM between images and copies of them, one drawn from each posterior."""
    x = images.float(slice(_ATTACKED))
    z = model.posterior(x).rsample(generator=seeded(0, x.device))
    return ssim(x, model.decode(z)).mean().item()


def digits_outside(model: Any, images: ImageSet) -> float:
    """AUROC of −ELBO, 1,000 digits against as many images."""
    digits = data.load("mnist_small", split="test", size=images.shape[-1]).to(images.device)
    scores = []
    for part in (images, digits):
        x = part.float(slice(_TESTED))
        scores.append(-elbo(model, x, generator=seeded(0, x.device)))
    return auroc(*scores)


@torch.no_grad()
def denoised(model: DDGM, images: ImageSet) -> tuple[float, float]:
    """The mean squared error of images with the noise of a tenth of the steps, and what the walk back leaves of it.

    A denoiser has one step.
    """
    x = images.float()
    generator = seeded(0, x.device)
    t = max(1, model.steps // 10)
    x_t = model.noised(x, t, generator=generator)
    noisy = as_images(x_t / model.alpha_bar[t].sqrt().to(x.dtype))
    parts = []
    for some in x_t.split(250):
        parts.append(model.denoise(some, t, generator=generator))
    return mse(x, noisy).mean().item(), mse(x, torch.cat(parts)).mean().item()


def denoising(model: Any, images: ImageSet) -> float:
    """What `denoised` leaves, of few images."""
    return denoised(model, images.take(slice(_ATTACKED)))[1]


STATISTICS = {
    "accuracy": Statistic("accuracy on the validation images (margin our choice)", accuracy, margin=0.01),
    "latent attack": Statistic(
        "SSIM lost to an untargeted attack on the codes at radius 3 sqrt(D / 10), PGD 10 x 3, 100 validation images "
        "(statistic and margin of 001.vulnerable)",
        latent_attack,
        margin=0.05,
    ),
    "encoder attack": Statistic(
        "MS-SSIM of reconstructions, untargeted attack on the encoder, delta .1, PGD 50 x 2, 100 validation images "
        "(margin of 002a.hmc.sim)",
        encoder_attack,
        margin=0.01,
        runs_differ=0.13,  # five runs of mnist/vae: .57 to .65, standard deviation .033
    ),
    "digits outside": Statistic(
        "AUROC of -ELBO, 1,000 MNIST digits against 1,000 validation images (margin of 004.fashion-mnist)",
        digits_outside,
        margin=0.05,
    ),
    "denoising": Statistic(
        "mean squared error left of the noise of a tenth of the steps (a denoiser: of its own), 100 validation images "
        "(margin of 002b.transition)",
        denoising,
        margin=0.001,
    ),
    "drawn copies": Statistic(
        "SSIM of 100 validation images and copies drawn from their posteriors (margin our choice)",
        drawn_copies,
        margin=0.05,
    ),
}
