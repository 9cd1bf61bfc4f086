"""What an attack does to the posterior that images deserve, p(z|x), and to the one the encoder gives them, q(z|x).

Document 002a's theory (Kuzina et al., 2022), for x^a = x + e, and q^(t) the law after t HMC transitions from q(z|x^a):
TV[q^(t), q(z|x)] ≤ √(½KL[q^(t) ‖ p(z|x^a)]) + √(½KL[q(z|x) ‖ p(z|x)]) + √(½KL[p(z|x) ‖ p(z|x^a)]),
by the triangle inequality and Pinsker's. The document writes o(√‖e‖) for the last term; all three can be estimated.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.checks import check_images, check_latents, check_model
from vaenb.contract import LatentModel
from vaenb.metrics.likelihood import elbo

_RELIABLE = 10  # effective draws tell a log mean weight to about 0.3 nats, about what AIS does


def posterior_ratio(model: LatentModel, x: Tensor, z: Tensor, z_adv: Tensor) -> Tensor:
    """Compute log p(z|x) − log p(z_adv|x) of codes (N, D) of the clean images x (N, C, H, W): (N,) nats.

    Document 002a's measure, with z a code of the clean image and z_adv one of the attacked image, before or after the
    repair: above 0 the attacked code is the less likely one. log p(x) cancels.
    """
    check_model(model)
    check_images(x)
    for name, codes in (("z", z), ("z_adv", z_adv)):
        check_latents(codes, name)
        if len(codes) != len(x) or codes.shape != z.shape:
            raise ValueError(f"{name}: one code for each of the {len(x)} images expected, got {tuple(codes.shape)}")
    return _log_joint(model, x, z) - _log_joint(model, x, z_adv)


def inference_gap(
    model: LatentModel,
    x: Tensor,
    log_evidence: Tensor,
    *,
    samples: int = 64,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate KL[q(z|x) ‖ p(z|x)] = log p(x) − ELBO, given log p(x) (N,) of images x (N, C, H, W): (N,) nats.

    With `log_evidence` from `ais` or `iwae` it is estimated from below; it may come out a little negative.
    """
    _check_nats(log_evidence, x, "log_evidence")
    return log_evidence - elbo(model, x, samples=samples, generator=generator)


@dataclass(frozen=True, eq=False)
class Tilt:
    """How far an attack moves the true posterior: two estimates of KL[p(z|x) ‖ p(z|x_adv)], in nats."""

    kl: Tensor  # (N,), log E[exp s] − E[s], exact for many samples; too small where ess is
    second_order: Tensor  # (N,), ½ Var[s]
    ess: Tensor  # (N,), effective draws behind E[exp s], from 1 to S
    mean: Tensor  # (N,), E[s]


def likelihood_tilt(model: LatentModel, x: Tensor, x_adv: Tensor, z: Tensor) -> Tilt:
    """Measure how far p(z|x_adv) is from p(z|x), given samples z (N, S, D) of p(z|x) from `repair(model, x)`.

    p(z|x_adv) ∝ p(z|x) exp s(z) with s = log p(x_adv|z) − log p(x|z) for every likelihood. Of a Bernoulli's s only
    e·ℓ(z) depends on z, linear in e = x_adv − x with the decoder's logits ℓ, so that second_order = ½ eᵀCov[ℓ]e errs
    by O(‖e‖³). `kl` is at most max s − mean s, so that it falls short of a KL well above log S nats; `ess`, which takes
    the samples for independent, is then near 1.
    """
    check_model(model)
    check_images(x)
    check_images(x_adv, "x_adv")
    if x_adv.shape != x.shape:
        raise ValueError(f"x_adv: images {tuple(x.shape)}, as x, expected, got {tuple(x_adv.shape)}")
    if not isinstance(z, Tensor) or z.ndim != 3 or len(z) != len(x) or z.shape[1] < 2:
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"z: ({len(x)}, S, D), at least two samples for each of the images, expected, got {got}")
    check_latents(z.flatten(0, 1))
    s = _tilts(model, x, x_adv, z)
    log_mean = s.logsumexp(1) - math.log(s.shape[1])
    ess = (2 * s.logsumexp(1) - (2 * s).logsumexp(1)).exp()
    values = (log_mean - s.mean(1), s.var(1) / 2, ess, s.mean(1))
    return Tilt(*(v.to(x.dtype) for v in values))


@dataclass(frozen=True, eq=False)
class TVBound:
    """The terms of document 002a's bound on TV[q(z|x_adv), q(z|x)], each (N,) and not capped: 1 or more says nothing.

    After t transitions of HMC, its settings frozen, the first term is at most the one given here, for t = 0: no Markov
    kernel takes a distribution further, in KL, from the kernel's stationary one.
    """

    encoder_adv: Tensor  # √(½ KL[q(z|x_adv) ‖ p(z|x_adv)])
    encoder: Tensor  # √(½ KL[q(z|x) ‖ p(z|x)])
    model: Tensor  # √(½ KL[p(z|x) ‖ p(z|x_adv)]), the document's o(√‖e‖)

    @property
    def total(self) -> Tensor:
        return self.encoder_adv + self.encoder + self.model


def tv_bound(
    model: LatentModel,
    x: Tensor,
    x_adv: Tensor,
    z: Tensor,
    *,
    log_evidence: Tensor,
    log_evidence_adv: Tensor,
    samples: int = 64,
    generator: torch.Generator | None = None,
) -> TVBound:
    """Estimate document 002a's bound for images x and x_adv (N, C, H, W), given samples z (N, S, D) of p(z|x).

    The evidences are log p(x) and log p(x_adv) (N,), from `ais`. The model term is `likelihood_tilt`'s where that has
    10 effective draws, and elsewhere log p(x_adv) − log p(x) − E[s], which does not fall short but is no more precise
    than the evidences. The terms are estimates: an evidence that is too low makes those of its encoder too small.
    """
    for name, nats in (("log_evidence", log_evidence), ("log_evidence_adv", log_evidence_adv)):
        _check_nats(nats, x, name)
    tilt = likelihood_tilt(model, x, x_adv, z)
    draws = {"samples": samples, "generator": generator}
    gaps = inference_gap(model, x_adv, log_evidence_adv, **draws), inference_gap(model, x, log_evidence, **draws)
    kl = torch.where(tilt.ess >= _RELIABLE, tilt.kl, log_evidence_adv - log_evidence - tilt.mean)
    return TVBound(*((v.clamp_min(0) / 2).sqrt() for v in (*gaps, kl)))


@torch.no_grad()
def _log_joint(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    parts = zip(x.split(512), z.split(512), strict=True)
    return torch.cat([model.log_prior(u) + model.log_likelihood(part, u) for part, u in parts])


@torch.no_grad()
def _tilts(model: LatentModel, x: Tensor, x_adv: Tensor, z: Tensor) -> Tensor:
    """s(z) = log p(x_adv|z) − log p(x|z): (N, S), in double precision."""
    rows = torch.arange(len(x), device=x.device).repeat_interleave(z.shape[1])
    parts = zip(rows.split(512), z.flatten(0, 1).split(512), strict=True)
    s = torch.cat([model.log_likelihood(x_adv[i], u) - model.log_likelihood(x[i], u) for i, u in parts])
    return s.view(z.shape[:2]).double()


def _check_nats(nats: Tensor, x: Tensor, name: str) -> None:
    if not isinstance(nats, Tensor) or nats.shape != (len(x),):
        got = tuple(nats.shape) if isinstance(nats, Tensor) else type(nats).__name__
        raise ValueError(f"{name}: one number for each of the {len(x)} images expected, got {got}")
