"""Document 002a's defence (Kuzina et al., 2022): sample p(z|x) by HMC from where the encoder put an image."""

from typing import Unpack

from torch import Tensor

from vaenb.contract import LatentModel
from vaenb.sampling.hmc import Chains
from vaenb.sampling.posterior import PosteriorSchedule, sample_posterior

# Document 002a's schedule on MNIST (T = 1000 and step size 0.05 on the others): about 15,000 gradients an image.
PUBLISHED: PosteriorSchedule = {
    "num_samples": 500,
    "warmup": 250,
    "leapfrog_steps": 20,
    "step_size": 0.1,
    "target_accept": 0.9,
    "jitter": 0.0,
    "unit_mass": True,
}


def repair(model: LatentModel, x: Tensor, **schedule: Unpack[PosteriorSchedule]) -> Chains:
    """Defend images x (N, C, H, W): sample p(z|x) by HMC from z₀ ~ q(z|x).

    `model.decode(repair(model, x).last)` is the repaired reconstruction. By default 300 gradients an image; the
    document's own schedule is `repair(model, x, **PUBLISHED)`. Arguments: see `sample_posterior`.
    """
    return sample_posterior(model, x, **schedule)
