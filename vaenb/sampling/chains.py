"""How far to trust Markov chains: effective sample size and split R-hat (Gelman et al., 2013, ch. 11; Geyer, 1992).

The ranks in place of the draws that Vehtari et al. (2021) recommend, for targets with heavy tails, are not taken.
Both take draws (..., C, S): S draws of each of C chains of one target, of any number of quantities at once. Each chain
is split in halves first, so that one chain is enough to see a drift.
"""

import math

import torch
from torch import Tensor


def split_rhat(draws: Tensor) -> Tensor:
    """Compare the variance between half chains with that within them: (...), 1 at agreement, inf if nothing moved."""
    halves = _halves(draws)
    within, plus = _variances(halves)
    return torch.where(within > 0, (plus / within.clamp_min(torch.finfo(within.dtype).tiny)).sqrt(), math.inf)


def ess(draws: Tensor) -> Tensor:
    """Count the independent draws that would tell the mean as precisely: (...), 0 if nothing moved.

    Autocorrelations are summed as far as Geyer's initial monotone sequence goes. Antithetic chains are worth more
    than their length, at most S·C·log₁₀(S·C). NaN for fewer than 10 draws of each chain: half of them show no
    autocorrelation.
    """
    halves = _halves(draws)
    chains, length = halves.shape[-2:]
    within, plus = _variances(halves)
    if length < 5:
        return torch.full_like(within, math.nan)
    covariance = _autocovariance(halves).mean(-2)  # (..., S/2)
    safe = torch.where(plus > 0, plus, 1)[..., None]
    rho = 1 - (within[..., None] - covariance) / safe
    rho[..., 0] = 1
    even = (length - 1) // 2 * 2  # as many lags as make whole pairs
    pairs = rho[..., :even].unflatten(-1, (-1, 2)).sum(-1)
    alive = (pairs > 0).cumprod(-1).bool()
    alive[..., -1] = False  # the last pair there is ends the sequence, whatever its sum
    total = torch.where(alive, pairs.cummin(-1).values, 0).sum(-1)
    # The first pair left out still has a believable half: its even member, where that is positive.
    rest = rho[..., ::2].gather(-1, alive.sum(-1, keepdim=True)).clamp_min(0).squeeze(-1)
    tau = 2 * total - 1 + rest
    count = chains * length
    return torch.where(within > 0, count / tau.clamp_min(1 / math.log10(count)), 0)


def _halves(draws: Tensor) -> Tensor:
    """Split every chain: (..., 2C, S // 2), in double precision; the middle draw of an odd number is left out."""
    if draws.ndim < 2 or not draws.is_floating_point():
        raise ValueError(f"draws: floats (..., C, S) expected, got {draws.dtype} of shape {tuple(draws.shape)}")
    half = draws.shape[-1] // 2
    if half < 2:
        raise ValueError(f"draws: at least 4 draws of each chain expected, got {draws.shape[-1]}")
    return torch.cat([draws[..., :half], draws[..., -half:]], dim=-2).double()


def _variances(halves: Tensor) -> tuple[Tensor, Tensor]:
    """Mean variance within the half chains, and the estimate of the target's variance that includes their spread."""
    length = halves.shape[-1]
    within = halves.var(-1).mean(-1)
    return within, within * (length - 1) / length + halves.mean(-1).var(-1)


def _autocovariance(draws: Tensor) -> Tensor:
    """At lags 0 … S − 1, divided by S as usual: (..., S)."""
    length = draws.shape[-1]
    centred = draws - draws.mean(-1, keepdim=True)
    power = torch.fft.rfft(centred, 2 * length).abs() ** 2
    return torch.fft.irfft(power, 2 * length)[..., :length] / length
