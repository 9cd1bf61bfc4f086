"""What an attack does to the posterior that images deserve, p(z|x), and to the one the encoder gives them, q(z|x).

Document 002a's theory (Kuzina et al., 2022), for x^a = x + e, and q^(t) the law after t HMC transitions from q(z|x^a):
TV[q^(t), q(z|x)] ≤ √(½KL[q^(t) ‖ p(z|x^a)]) + √(½KL[q(z|x) ‖ p(z|x)]) + √(½KL[p(z|x) ‖ p(z|x^a)]),
by the triangle inequality and Pinsker's. For the last term, which
`likelihood_tilt` measures, the document writes o(√‖e‖).
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vaenb.checks import check_batch, check_images, check_latents, check_model_and_images, check_shape, first_of
from vaenb.contract import LatentModel, log_joint
from vaenb.metrics.blocks import in_blocks
from vaenb.precision import check_precision, no_autocast


@no_autocast
def posterior_ratio(model: LatentModel, x: Tensor, z: Tensor, z_adv: Tensor) -> Tensor:
    """Compute log p(z|x) − log p(z_adv|x) of codes (N, D) of the clean images x (N, C, H, W): (N,) nats.

    Document 002a's measure, with z_adv a code of the attacked image: above 0 it is the less likely one.
    """
    check_model_and_images(model, x)
    check_latents(z)
    check_latents(z_adv, "z_adv")
    check_precision("x, z and z_adv", x, z, z_adv)
    check_shape(z, "z", (len(x), z.shape[1]), "one code for each image")
    check_shape(z_adv, "z_adv", z.shape, "as z")
    joint = partial(log_joint, model)
    with torch.no_grad():
        return in_blocks(joint, x, z) - in_blocks(joint, x, z_adv)


@dataclass(frozen=True, eq=False)
class Tilt:
    """How far an attack moves the true posterior: two estimates of KL[p(z|x) ‖ p(z|x_adv)], in nats."""

    kl: Tensor  # (N,), log E[exp s] − E[s], exact for many samples; too small where ess is
    second_order: Tensor  # (N,), ½ Var[s]
    ess: Tensor  # (N,), effective draws behind E[exp s], from 1 to S
    mean: Tensor  # (N,), E[s]


@no_autocast
def likelihood_tilt(model: LatentModel, x: Tensor, x_adv: Tensor, z: Tensor) -> Tilt:
    """Measure how far p(z|x_adv) is from p(z|x), given samples z (N, S, D) of p(z|x) from `repair(model, x)`.

    p(z|x_adv) ∝ p(z|x) exp s(z) with s = log p(x_adv|z) − log p(x|z). Of a Bernoulli's s only e·ℓ(z) depends on z, with
    e = x_adv − x and the decoder's logits ℓ, so that second_order = ½ eᵀCov[ℓ]e errs by O(‖e‖³). `kl` is at most
    max s − mean s: it falls short of a KL well above log S nats; `ess`, by independent samples, is then near 1. Samples
    that are all equal, of a chain that never moved, would say 0 and are refused.
    """
    check_model_and_images(model, x)
    check_images(x_adv, "x_adv")
    check_shape(x_adv, "x_adv", x.shape, "as x")
    check_batch(z, "z", dims=3, shape="samples (N, S, D)")
    if len(z) != len(x) or z.shape[1] < 2:
        raise ValueError(f"z: ({len(x)}, S, D), at least two samples for each image, expected, got {tuple(z.shape)}")
    check_precision("x, x_adv and z", x, x_adv, z)
    if still := first_of((z == z[:, :1]).flatten(1).all(1)):
        raise ValueError(f"z: samples that differ expected, those of image(s) {still} are all equal; sample again")
    s = _tilts(model, x, x_adv, z)
    mean = s.mean(1)
    log_sum = s.logsumexp(1)
    kl = log_sum - math.log(s.shape[1]) - mean
    ess = (2 * log_sum - (2 * s).logsumexp(1)).exp()
    second_order = s.var(1) / 2
    return Tilt(kl.to(x.dtype), second_order.to(x.dtype), ess.to(x.dtype), mean.to(x.dtype))


@torch.no_grad()
def _tilts(model: LatentModel, x: Tensor, x_adv: Tensor, z: Tensor) -> Tensor:
    """s(z) = log p(x_adv|z) − log p(x|z): (N, S), in double precision."""
    codes = z.flatten(0, 1)
    rows = torch.arange(len(x), device=x.device).repeat_interleave(z.shape[1])
    after = in_blocks(lambda i, u: model.log_likelihood(x_adv[i], u), rows, codes)
    before = in_blocks(lambda i, u: model.log_likelihood(x[i], u), rows, codes)
    return (after - before).view(z.shape[:2]).double()
