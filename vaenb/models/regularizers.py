"""What makes an autoencoder generative: the second term of the training loss.

A regulariser is called with the posterior of a batch, a sample z from it and the generator, and returns the penalty
in nats per image (a scalar) and the statistics worth watching.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.models.contract import Posterior, standard_normal


@dataclass(frozen=True)
class KL:
    """β·KL[q(z|x) ‖ N(0, I)], averaged over the batch (β = 1: Kingma and Welling 2014; β-VAE: Higgins et al. 2017)."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta: a finite weight ≥ 0 expected, got {self.beta}")

    def __call__(
        self, posterior: Posterior, z: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        kl = posterior.kl(standard_normal(z)).mean()
        return self.beta * kl, {"kl": kl}
