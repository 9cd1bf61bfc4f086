"""Out-of-distribution scores built on likelihoods (document 004): larger is more out of distribution, for all of them.

likelihood_regret   and hmc_regret: see `regret`
input_complexity    −log₂ p(x) − L(x), L the bits of a lossless file          Serrà et al., 2020, 1909.11480
bias_corrected      log p of a perfect reconstruction − ELBO(x)               Chauhan et al., 2022, 2108.08760
waic                Var_m[log p_m(x)] − E_m[log p_m(x)] over models m         Choi et al., 2018, 1810.01392
typicality          |log p(x) − E_train[log p]|                               Nalisnick et al., 2019, 1906.02994
"""

import io
import math

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from vaenb.checks import check_batch, check_channels, check_each, check_images, check_nats, check_vector, check_whole
from vaenb.contract import LatentModel, NotDefined
from vaenb.metrics.blocks import in_blocks
from vaenb.metrics.likelihood import elbo
from vaenb.metrics.regret import hmc_regret as hmc_regret
from vaenb.metrics.regret import likelihood_regret as likelihood_regret
from vaenb.precision import check_precision, no_autocast, widened

CODECS = {
    "PNG": ("zlib", {"optimize": True}),
    "WEBP": ("webp", {"lossless": True}),
    "JPEG2000": ("jpg_2000", {}),
}  # the feature of Pillow that each needs, and how it is saved


def codecs() -> tuple[str, ...]:
    """The lossless codecs of PNG, WEBP and JPEG2000 that the installed Pillow has: name them beside the numbers."""
    return tuple(name for name, (feature, _) in CODECS.items() if features.check(feature))


def compressed_bits(x: Tensor) -> Tensor:
    """Measure the smallest lossless file of each image x (N, C, H, W), rounded to 8 bits: (N,) float64, in bits.

    The smallest is that of all `codecs()`, header included, which depends a little on their versions; grey or RGB.
    """
    check_images(x)
    check_channels(x)
    grey = x.shape[1] == 1
    pixels = (255 * widened(x.detach())).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    smallest = []
    for image in pixels[..., 0] if grey else pixels:
        sizes = [_file_size(image, codec) for codec in codecs()]
        smallest.append(min(sizes))
    return torch.tensor(smallest, dtype=torch.float64, device=x.device) * 8


def input_complexity(log_likelihood: Tensor, x: Tensor) -> Tensor:
    """Compute S = −log₂ p(x) − L(x), images' bits under a model beyond those of `compressed_bits`: (N,) float64.

    `log_likelihood` (N,) in nats is that of the 8-bit image: a discrete family's, or a density's on [0, 1], which lacks
    a constant C·H·W·8 bits. A Bernoulli's of grey pixels is neither, and S then has no unit and no meaning.
    """
    bits = compressed_bits(x)
    check_nats(log_likelihood, "log_likelihood", len(x))
    return -log_likelihood.detach().to(bits) / math.log(2) - bits


@no_autocast
@torch.no_grad()
def bias_corrected(
    model: LatentModel, x: Tensor, *, samples: int = 16, generator: torch.Generator | None = None
) -> Tensor:
    """Compute what images x (N, C, H, W) lose to a perfect reconstruction: log p(x|x̂ = x) − ELBO(x), (N,) nats.

    The first is `model.likelihood.best_log_prob(x)`, the largest log p(x|·) over all outputs of a decoder. The paper
    has log p(x) by importance weights in place of the ELBO, and for a Gaussian a correction learnt from the training
    images. Raises NotDefined for a model without `best_log_prob`.
    """
    check_precision("x", x)
    bound = elbo(model, x, samples=samples, generator=generator)
    best = getattr(getattr(model, "likelihood", None), "best_log_prob", None)
    if best is None:
        got = type(model).__name__
        raise NotDefined(f"bias_corrected needs model.likelihood.best_log_prob(x), (N,) nats; this {got} has none")
    highest = in_blocks(best, x.detach())
    check_each(highest, "model.likelihood.best_log_prob", len(x))
    return highest - bound


def waic(log_likelihoods: Tensor) -> Tensor:
    """Compute the variance less the mean of M independently trained models' log likelihoods (M, N) in nats: (N,).

    The variance, in nats², is the unbiased one, over M − 1, M ≥ 2; the authors' public code divides by M.
    """
    check_batch(log_likelihoods, "log_likelihoods", dims=2, shape="(M, N)")
    check_whole("len(log_likelihoods)", len(log_likelihoods), least=2)
    nats = widened(log_likelihoods.detach())
    return nats.var(0) - nats.mean(0)


def typicality(log_likelihood: Tensor, train_log_likelihood: Tensor) -> Tensor:
    """Compute |log p(x) − mean log p of training images| from log likelihoods (N,) and (M,) in nats: (N,).

    The test of typicality for batches of one image, with the training images' mean for the model's entropy.
    """
    check_vector(log_likelihood, "log_likelihood")
    check_vector(train_log_likelihood, "train_log_likelihood")
    typical = widened(train_log_likelihood.detach()).mean()
    return (widened(log_likelihood.detach()) - typical).abs()


def _file_size(pixels: np.ndarray, codec: str) -> int:
    _, settings = CODECS[codec]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=codec, **settings)
    return len(file.getvalue())
