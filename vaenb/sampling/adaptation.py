"""What a warm-up learns: each chain's step size, and the scale of its target in each dimension."""

import torch
from torch import Tensor


class Adaptation:
    """Each chain's step size by dual averaging, and its scale from the draws of growing windows."""

    def __init__(self, step_size: Tensor, scale: Tensor, warmup: int, target_accept: float, adapt_scale: bool) -> None:
        self.target_accept = target_accept
        self.warmup = warmup
        self.step_size = step_size
        self.scale = scale
        self.first = round(0.15 * warmup)  # transitions that only find the target: they say nothing of its scale
        self.windows = _windows(warmup, self.first) if adapt_scale else set()
        self.count = 0
        self.draws: list[Tensor] = []
        self._restart(towards=10)

    def _restart(self, *, towards: float) -> None:
        """Begin dual averaging at the present step size, drawn towards that many times it."""
        self.k = 0
        self.shrink_to = (towards * self.step_size).log()
        self.error = torch.zeros_like(self.step_size)
        self.log_average = torch.zeros_like(self.step_size)

    def update(self, probability: Tensor, z: Tensor) -> None:
        """Take in a transition of the warm-up; after the last one the step size is the average, and stays."""
        self.count += 1
        self._dual_averaging(probability)
        if self.windows and self.count > self.first:
            self.draws.append(z)
        if self.count in self.windows:
            self._learn_scale()
        if self.count == self.warmup:
            self.step_size = self.log_average.exp()

    def _dual_averaging(self, probability: Tensor) -> None:
        """Algorithm 5 of Hoffman and Gelman with their constants γ = 0.05, t₀ = 10, κ = 0.75."""
        self.k += 1
        self.error += (self.target_accept - probability - self.error) / (self.k + 10)
        log_step = self.shrink_to - self.error * self.k**0.5 / 0.05
        self.log_average += self.k**-0.75 * (log_step - self.log_average)
        self.step_size = log_step.exp()

    def _learn_scale(self) -> None:
        """Take the window's standard deviation, weighted against the present scale as five draws of it would be.

        The mean is geometric: an arithmetic one would not forget a scale that began far too large.
        """
        draws = torch.stack(self.draws)
        n = len(draws)
        ratio = (draws.std(0) / self.scale).clamp_min(1e-3)
        self.scale = self.scale * ratio ** (n / (n + 5))
        self.step_size = self.log_average.exp()
        self.draws = []
        self._restart(towards=2)  # near by now: ten times would leave short warm-ups with too large a step


def _windows(warmup: int, first: int) -> set[int]:
    """Transitions at which the scale is learnt: windows that double, between the first ones and a last part without."""
    last = round(0.75 * warmup)
    if last - first < 10:
        return set()
    ends = {last}
    size = max(10, warmup // 20)
    end = first + size
    while end + 2 * size <= last:
        ends.add(end)
        size *= 2
        end += size
    return ends
