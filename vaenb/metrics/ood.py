"""Out-of-distribution scores built on likelihoods (document 004): larger is more out of distribution, for all of them.

likelihood_regret   max_q ELBO(x; q) − ELBO(x; q(z|x)), q diagonal Gaussian   Xiao et al., 2020, 2003.02977
encoder_regret      the same over the encoder's weights, as published
hmc_regret          E_p(z|x)[log p(x, z)] − E_q(z|x)[log p(x, z)]             ours
input_complexity    −log₂ p(x) − L(x), L the bits of a lossless file          Serrà et al., 2020, 1909.11480
bias_corrected      log p of a perfect reconstruction − ELBO(x)               Chauhan et al., 2022, 2108.08760
waic                Var_m[log p_m(x)] − E_m[log p_m(x)] over models m         Choi et al., 2018, 1810.01392
typicality          |log p(x) − E_train[log p]|                               Nalisnick et al., 2019, 1906.02994
"""

import copy
import io
import math
from numbers import Real

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor, nn
from tqdm.auto import tqdm

from vaenb.checks import check_images, check_model
from vaenb.contract import LatentModel, NotDefined, Posterior
from vaenb.distributions import DiagonalGaussian, randn_like
from vaenb.metrics.detection import _BLOCK, _check_model_and_images
from vaenb.metrics.likelihood import elbo
from vaenb.sampling.posterior import sample_posterior

_CODECS = {"PNG": ("zlib", {"optimize": True}), "WEBP": ("webp", {"lossless": True}), "JPEG2000": ("jpg_2000", {})}
_FLAT = 1e-2  # nats for each unit of a latent: Adam would follow the rounding of smaller gradients at full speed


def likelihood_regret(
    model: LatentModel,
    x: Tensor,
    *,
    steps: int = 100,
    lr: float = 0.2,
    samples: int = 16,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> Tensor:
    """Measure by how many nats the ELBO of images x (N, C, H, W) rises when each gets the q that suits it best: (N,).

    q is a diagonal Gaussian whose mean and log-variance start at q(z|x) and make `steps` steps of Adam, all images at
    once, each step with a fresh pair of draws and at a rate that falls linearly from `lr` to 0. `samples` draws, the
    same before and after, measure the rise, which is slightly negative where there was nothing to gain. `chunk` images
    are decoded at a time; the draws do not depend on it. Raises NotDefined for a posterior that is no DiagonalGaussian.
    """
    _check_model_and_images(model, x, steps=steps, samples=samples, chunk=chunk)
    _check_rate(lr)

    def regret(part: Tensor) -> Tensor:
        with torch.no_grad():
            q = model.posterior(part)
        if not isinstance(q, DiagonalGaussian):
            raise NotDefined(
                "likelihood_regret moves the mean and variance of a diagonal Gaussian, and this model's posterior is a "
                f"{type(q).__name__}; encoder_regret refits the encoder of a torch module instead"
            )
        noise = [randn_like(q.mean, generator) for _ in range(samples)]
        best = _best_gaussian(model, part, q, steps=steps, lr=lr, generator=generator, chunk=chunk)
        return _elbo(model, part, best, noise, chunk) - _elbo(model, part, q, noise, chunk)

    return _finite(torch.cat([regret(part) for part in x.split(_BLOCK)]), lr)


def encoder_regret(
    model: LatentModel,
    x: Tensor,
    *,
    steps: int = 100,
    lr: float = 1e-4,
    samples: int = 16,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Measure the likelihood regret as published: refit a copy of the encoder to each image of x by itself: (N,) nats.

    `model` is a torch module with a submodule `encoder`, which should be all of q (in a layered model it is the part
    that is named so); it stays as it is. Each image starts from its weights and
    makes `steps` steps of Adam on one draw's ELBO. BatchNorm stays in evaluation mode: in training mode a batch of one
    would be normalised by itself. The public code differs: lr 2e-4, weight decay, and the rise of an importance
    weighted bound of 1,000 draws in place of the ELBO's by `samples`, so that q's shape counts less. Takes about
    `steps` · N gradients of encoder and decoder, one after the other; `likelihood_regret` batches them.
    """
    _check_model_and_images(model, x, steps=steps, samples=samples)
    _check_rate(lr)
    if not isinstance(model, nn.Module) or not isinstance(getattr(model, "encoder", None), nn.Module):
        raise TypeError(f"model: a torch module with a submodule `encoder` expected, got {type(model).__name__}")
    own = copy.deepcopy(model).requires_grad_(False)
    own.encoder.requires_grad_(True)

    def regret(image: Tensor) -> Tensor:
        own.encoder.load_state_dict(model.encoder.state_dict())
        copies = image.expand(samples, -1, -1, -1)
        with torch.no_grad():
            q = own.posterior(copies)
            noise = randn_like(q.mean, generator)
            before = _log_weights(own, copies, q, q.rsample(noise=noise)).mean()
        _refit(own, image, steps, lr, generator)
        with torch.no_grad():
            q = own.posterior(copies)
            return _log_weights(own, copies, q, q.rsample(noise=noise)).mean() - before

    images = tqdm(x.detach().split(1), leave=False, disable=not progress, unit="image", mininterval=1)
    return _finite(torch.stack([regret(image) for image in images]), lr)


def hmc_regret(
    model: LatentModel,
    x: Tensor,
    *,
    num_samples: int = 20,
    warmup: int = 40,
    leapfrog_steps: int = 5,
    samples: int = 16,
    chunk: int = 64,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Measure how much log p(x, z) rises, in the mean, from `samples` draws of q(z|x) to a chain's states: (N,) nats.

    Our score: log p(x) − ELBO(x) + H[q(z|x)] − H[p(z|x)], so that unlike a regret it is negative where q is too narrow.
    It needs no diagonal Gaussian. The chains are those of `hmc.repair`, which has the other arguments.
    """
    _check_model_and_images(model, x, samples=samples)
    chains = sample_posterior(
        model,
        x,
        num_samples=num_samples,
        warmup=warmup,
        leapfrog_steps=leapfrog_steps,
        chunk=chunk,
        generator=generator,
        progress=progress,
    )

    @torch.no_grad()
    def before(part: Tensor) -> Tensor:
        q = model.posterior(part)
        draws = [q.rsample(generator=generator) for _ in range(samples)]
        return torch.stack([model.log_prior(z) + model.log_likelihood(part, z) for z in draws]).mean(0)

    return chains.log_density.mean(1) - torch.cat([before(part) for part in x.split(_BLOCK)])


def codecs() -> tuple[str, ...]:
    """The lossless codecs of PNG, WEBP and JPEG2000 that the installed Pillow has: name them beside the numbers."""
    return tuple(name for name, (feature, _) in _CODECS.items() if features.check(feature))


def compressed_bits(x: Tensor) -> Tensor:
    """Measure the smallest lossless file of each image x (N, C, H, W), rounded to 8 bits: (N,) float64, in bits.

    The smallest is that of all `codecs()`, header included; the images are grey or RGB. Another version of a codec
    gives slightly other lengths.
    """
    check_images(x)
    if x.shape[1] not in (1, 3):
        raise ValueError(f"x: 1 or 3 channels expected, which image files have, got shape {tuple(x.shape)}")
    pixels = (255 * x.detach()).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels[..., 0] if x.shape[1] == 1 else pixels
    sizes = [min(_file_size(image, name) for name in codecs()) for image in pixels]
    return torch.tensor(sizes, dtype=torch.float64, device=x.device) * 8


def input_complexity(log_likelihood: Tensor, x: Tensor) -> Tensor:
    """Compute S = −log₂ p(x) − L(x), images' bits under a model beyond those of `compressed_bits`: (N,) float64.

    `log_likelihood` (N,) in nats is that of the 8-bit image: a discrete family's, or a density's on [0, 1], which lacks
    a constant C·H·W·8 bits. A Bernoulli's of grey pixels is neither, and S then has no unit and no meaning.
    """
    bits = compressed_bits(x)
    nats = _log_likelihood(log_likelihood, "log_likelihood", (len(x),))
    return -nats.to(bits) / math.log(2) - bits


@torch.no_grad()
def bias_corrected(
    model: LatentModel, x: Tensor, *, samples: int = 16, generator: torch.Generator | None = None
) -> Tensor:
    """Compute what images x (N, C, H, W) lose to a perfect reconstruction: log p(x|x̂ = x) − ELBO(x), (N,) nats.

    The first is `model.likelihood.best_log_prob(x)`, the largest log p(x|·) over all outputs of a decoder, which a
    family owes to the pixels' values alone. The paper has log p(x) by importance weights in place of the ELBO, and for
    a Gaussian a correction learnt from the training images. Raises NotDefined for a model without `best_log_prob`.
    """
    check_model(model)
    check_images(x)
    best = getattr(getattr(model, "likelihood", None), "best_log_prob", None)
    if best is None:
        raise NotDefined(
            "bias_corrected needs model.likelihood.best_log_prob(x), the largest log p(x|·) over all outputs of a "
            f"decoder, (N,) nats; this {type(model).__name__} has none"
        )
    bound = elbo(model, x, samples=samples, generator=generator)
    return torch.cat([best(part) for part in x.detach().split(_BLOCK)]) - bound


def waic(log_likelihoods: Tensor) -> Tensor:
    """Compute the variance less the mean of M independently trained models' log likelihoods (M, N) in nats: (N,).

    The variance is the unbiased one, over M − 1, M ≥ 2; the authors' public code divides by M. It is in nats²: where
    the models differ by more than a few nats, it is nearly all of the score.
    """
    nats = _log_likelihood(log_likelihoods, "log_likelihoods", (None, None))
    if len(nats) < 2:
        raise ValueError(f"log_likelihoods: (M, N) of M ≥ 2 models expected, got shape {tuple(nats.shape)}")
    return nats.var(0) - nats.mean(0)


def typicality(log_likelihood: Tensor, train_log_likelihood: Tensor) -> Tensor:
    """Compute |log p(x) − mean log p of training images| from log likelihoods (N,) and (M,) in nats: (N,).

    The test of typicality for batches of one image, with the training images' mean for the model's entropy.
    """
    nats = _log_likelihood(log_likelihood, "log_likelihood", (None,))
    train = _log_likelihood(train_log_likelihood, "train_log_likelihood", (None,))
    return (nats - train.mean()).abs()


def _best_gaussian(model, x: Tensor, q: DiagonalGaussian, *, steps, lr, generator, chunk) -> DiagonalGaussian:
    """Maximise each image's ELBO over q's mean and log-variance.

    Draws come in pairs ±ε, and log q is taken at fixed parameters, which leaves out a part of the gradient that is zero
    in the mean (Roeder et al., 2017): where q is exact, so is the gradient of every draw, 0.
    """
    pairs = zip(q.mean.split(chunk), q.logvar.split(chunk), strict=True)
    parts = [[t.detach().clone().requires_grad_() for t in pair] for pair in pairs]
    optimizer = torch.optim.Adam([t for part in parts for t in part], lr=lr, eps=_FLAT)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - k / steps)
        noise = randn_like(q.mean, generator)
        for part, images, half in zip(parts, x.split(chunk), noise.split(chunk), strict=True):
            with torch.enable_grad():  # also where the caller has switched gradients off
                now, still = DiagonalGaussian(*part), DiagonalGaussian(*(t.detach() for t in part))
                draws = [now.rsample(noise=sign * half) for sign in (1, -1)]
                loss = -sum(_log_weights(model, images, still, z).sum() for z in draws) / 2
                gradients = torch.autograd.grad(loss, part)  # none for the model's own weights
            for t, gradient in zip(part, gradients, strict=True):
                t.grad = gradient
        optimizer.step()
    means, logvars = zip(*parts, strict=True)
    return DiagonalGaussian(torch.cat(means).detach(), torch.cat(logvars).detach())


def _refit(model: nn.Module, image: Tensor, steps: int, lr: float, generator) -> None:
    optimizer = torch.optim.Adam(model.encoder.parameters(), lr=lr)
    for _ in range(steps):
        with torch.enable_grad():
            q = model.posterior(image)
            loss = -_log_weights(model, image, q, q.rsample(generator=generator)).sum()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()


def _log_weights(model: LatentModel, x: Tensor, q: Posterior, z: Tensor) -> Tensor:
    return model.log_likelihood(x, z) + model.log_prior(z) - q.log_prob(z)


@torch.no_grad()
def _elbo(model: LatentModel, x: Tensor, q: DiagonalGaussian, noise: list[Tensor], chunk: int) -> Tensor:
    rows = torch.arange(len(x), device=x.device).split(chunk)
    means = [
        torch.stack([_log_weights(model, x[i], q[i], q[i].rsample(noise=draws[i])) for draws in noise]).mean(0)
        for i in rows
    ]
    return torch.cat(means)


def _file_size(pixels: np.ndarray, codec: str) -> int:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=codec, **_CODECS[codec][1])
    return len(file.getvalue())


def _log_likelihood(values: Tensor, name: str, shape: tuple[int | None, ...]) -> Tensor:
    wanted = tuple("MN"[2 - len(shape) + i] if n is None else n for i, n in enumerate(shape))
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(
            f"{name}: a float tensor of nats expected, got {getattr(values, 'dtype', type(values).__name__)}"
        )
    if values.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, values.shape, strict=True)):
        raise ValueError(f"{name}: {wanted} expected, got shape {tuple(values.shape)}")
    if values.numel() == 0 or not values.isfinite().all():
        raise ValueError(f"{name}: finite numbers of nats expected, got {(~values.isfinite()).sum()} NaN or infinite")
    return values.detach()


def _finite(regret: Tensor, lr: float) -> Tensor:
    if not regret.isfinite().all():
        bad = (~regret.isfinite()).nonzero().flatten().tolist()
        raise ValueError(f"lr: the ELBO of image(s) {bad[:5]} of {len(regret)} is not finite; try less than {lr}")
    return regret


def _check_rate(lr: float) -> None:
    if not isinstance(lr, Real) or not 0 < lr < math.inf:
        raise ValueError(f"lr: a positive learning rate expected, got {lr!r}")
