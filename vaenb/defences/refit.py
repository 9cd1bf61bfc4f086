"""An encoder fitted to samples of the true posterior: the HMC defence paid for in advance (document 002a's outlook).

Minimises E_x E_{z ~ p(z|x)}[−log q(z|x)], which is KL[p(z|x) ‖ q(z|x)] plus a constant: the forward KL, where the ELBO
has the reverse one. The decoder stays as it is.
"""

import copy
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from vaenb.checks import check_batch, check_gradients, check_model_and_images, ordinary
from vaenb.contract import LatentModel, log_joint
from vaenb.training import History, Recipe, fit

_GENTLE: Recipe = {"epochs": 20, "batch_size": 64, "lr": 5e-4, "schedule": "constant"}  # the encoder is a trained one


def refit_encoder(
    model: LatentModel,
    x: Tensor,
    samples: Tensor,
    *,
    progress: bool = True,
    **recipe: Unpack[Recipe],
) -> tuple[LatentModel, History]:
    """Return a copy of `model` whose encoder is trained on samples (N, S, D) of p(z|x), one set for each image of x.

    `samples` are those of `repair` for images x (N, C, H, W), attacked ones for a defence. `model` is a torch module
    with parameters and stays as it is; in the copy, parameters that p(x|z) or p(z) depend on do. The recipe is that of
    `training.fit`; what it leaves out is 20 epochs, batches of 64, and a constant lr of 5e-4.
    """
    check_gradients()
    check_model_and_images(model, x)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: a torch module expected, which can be trained; got {type(model).__name__}")
    with torch.no_grad():
        dims = model.posterior(x[:1]).mean.shape[1]
    shape = f"({len(x)}, S, {dims}), some for each of the images,"
    check_batch(samples, "samples", dims=3, shape=shape)
    if samples.shape[::2] != (len(x), dims):
        raise ValueError(f"samples: {shape} expected, got {tuple(samples.shape)}")
    refitted = copy.deepcopy(model)
    x, samples = ordinary(x), ordinary(samples)
    of_decoder = _take_out_decoder(refitted, x[:1], samples[:1, 0])
    if not any(p.requires_grad for p in refitted.parameters()):
        raise ValueError("model: no weight is left to refit; p(x|z) and p(z) depend on all that can be trained")
    data = _Sampled(x, samples)
    history = fit(_ForwardKL(refitted), data, progress=progress, **(_GENTLE | recipe))
    for parameter in of_decoder:
        parameter.requires_grad_()
    return refitted, history


@dataclass(frozen=True, eq=False)
class _Sampled:
    """What `fit` learns from: images, and samples of each one's posterior."""

    x: Tensor  # (N, C, H, W)
    samples: Tensor  # (N, S, D)

    @property
    def device(self) -> torch.device:
        return self.x.device

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[index], self.samples[index]


class _ForwardKL(nn.Module):
    """What `fit` trains: the encoder of a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def losses(self, x: Tensor, samples: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """−log q(z|x) in nats, z one of the samples (n, S, D) of each image."""
        count, draws, _ = samples.shape
        draw = torch.randint(draws, (count,), generator=generator, device=generator.device).to(samples.device)
        z = samples[torch.arange(count, device=samples.device), draw]
        return {"loss": -self.model.posterior(x).log_prob(z).mean()}


def _take_out_decoder(model: Any, x: Tensor, z: Tensor) -> list[nn.Parameter]:
    """Exclude the parameters of p(x|z)p(z) from training, and return them: a posterior may share them."""
    with torch.enable_grad():
        total = log_joint(model, x, z).sum()
    if not total.requires_grad:
        return []
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    of_decoder = [p for p, gradient in zip(trained, gradients, strict=True) if gradient is not None]
    for parameter in of_decoder:
        parameter.requires_grad_(False)
    return of_decoder
