"""An encoder fitted to samples of the true posterior: the HMC defence paid for in advance (document 002a's outlook).

Minimises E_x E_{z ~ p(z|x)}[−log q(z|x)], which is KL[p(z|x) ‖ q(z|x)] plus a constant: the forward KL, where the ELBO
has the reverse one. The decoder stays as it is.
"""

import copy

import torch
from torch import Tensor, nn

from vaenb.checks import check_images, check_model
from vaenb.contract import LatentModel
from vaenb.data import ImageSet
from vaenb.training import History, fit


class _ForwardKL(nn.Module):
    """What `fit` trains: the encoder of a model, on images whose label is their row in `samples`."""

    def __init__(self, model: nn.Module, samples: Tensor) -> None:
        super().__init__()
        self.model, self.samples = model, samples

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        device = generator.device if generator else x.device
        draw = torch.randint(self.samples.shape[1], labels.shape, generator=generator, device=device).to(labels.device)
        return {"loss": -self.model.posterior(x).log_prob(self.samples[labels, draw]).mean()}


def _take_out_decoder(model: nn.Module, x: Tensor, z: Tensor) -> list[nn.Parameter]:
    """Exclude the parameters of p(x|z)p(z) from training, and return them: a posterior may share them."""
    with torch.enable_grad():
        log_joint = (model.log_prior(z) + model.log_likelihood(x, z)).sum()
    trained = [p for p in model.parameters() if p.requires_grad]
    if not log_joint.requires_grad:
        return []
    gradients = torch.autograd.grad(log_joint, trained, allow_unused=True)
    of_decoder = [p for p, gradient in zip(trained, gradients, strict=True) if gradient is not None]
    return [p.requires_grad_(False) for p in of_decoder]


def refit_encoder(
    model: LatentModel,
    x: Tensor,
    samples: Tensor,
    *,
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 5e-4,
    seed: int = 0,
    progress: bool = True,
) -> tuple[LatentModel, History]:
    """Return a copy of `model` whose encoder is trained on samples (N, S, D) of p(z|x), one set for each image of x.

    `samples` are those of `hmc.repair` for images x (N, C, H, W), attacked ones for a defence; the images are rounded
    to 8 bits. `model` is a torch module with parameters and stays as it is; in the copy, parameters that p(x|z) or p(z)
    depend on do. Other arguments: see `training.fit`.
    """
    check_model(model)
    check_images(x)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: a torch module expected, which can be trained; got {type(model).__name__}")
    with torch.no_grad():
        dims = model.posterior(x[:1]).mean.shape[1]
    if not isinstance(samples, Tensor) or samples.ndim != 3 or samples.shape[::2] != (len(x), dims):
        got = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(f"samples: ({len(x)}, S, {dims}), some for each of the images, expected, got {got}")
    if not samples.isfinite().all():
        raise ValueError("samples: NaN or infinite values")
    refitted = copy.deepcopy(model)
    rows = torch.arange(len(x), device=x.device)
    images = ImageSet((x * 255).round().to(torch.uint8), rows, name="posterior samples", split="train")
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "progress": progress}
    of_decoder = _take_out_decoder(refitted, x[:1], samples[:1, 0].detach())
    if not any(p.requires_grad for p in refitted.parameters()):
        raise ValueError("model: no weight is left to refit; p(x|z) and p(z) depend on all that can be trained")
    history = fit(_ForwardKL(refitted, samples.detach()), images, **settings)
    for parameter in of_decoder:
        parameter.requires_grad_()
    return refitted, history
