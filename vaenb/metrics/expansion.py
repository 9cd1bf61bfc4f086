"""Why the likelihood of another data set is higher or lower: log p expanded about the mean image x₀.

    E_out[log p] − E_in[log p] ≈ ∇·δ + ½ δᵀHδ + ½ Tr[H (Σ_out − Σ_in)],   δ = m_out − m_in,   ∇ and H at x₀ = m_in

(Nalisnick et al., 2019, 1810.09136, for equal means.) Where log p is concave, images that vary less are more likely.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.checks import check_images, check_model_and_images, check_shape
from vaenb.contract import LatentModel
from vaenb.distributions import rand_like
from vaenb.metrics.blocks import BLOCK, in_blocks
from vaenb.metrics.likelihood import elbo
from vaenb.precision import check_precision, no_autocast
from vaenb.sampling.chains import ess, split_rhat
from vaenb.sampling.posterior import sample_posterior


@dataclass(frozen=True)
class SecondOrder:
    """E_outside[log p] − E_inside[log p] in nats: its expansion about the mean inside image, and what it is.

    The published explanation takes the means for equal, and consists of `second` alone.
    """

    first: float  # ∇ · δ, with δ the difference of the two sets' mean images
    shift: float  # ½ δᵀ H δ
    second: float  # ½ Tr[H (Σ_outside − Σ_inside)]
    measured: float  # the difference of the mean ELBOs
    ess: float  # effective sample size of the draws' worst latent: below a few hundred, H is rough
    rhat: float  # its split R-hat, 1 where the chains agree; `samples` and `warmup` bring it there

    @property
    def predicted(self) -> float:
        return self.first + self.shift + self.second


@torch.inference_mode(False)
@no_autocast
def second_order(
    model: LatentModel,
    inside: Tensor,
    outside: Tensor,
    *,
    samples: int = 512,
    chains: int = 32,
    warmup: int = 100,
    generator: torch.Generator | None = None,
) -> SecondOrder:
    """Expand log p to second order about the mean x₀ of images `inside`, and compare it on images `outside`.

    Both are (N, C, H, W). With g = ∇ log p(x₀|z) and all means over p(z|x₀), ∇ is E[g] and H is E[∇² log p(x₀|z)] +
    Cov[g] (Louis, 1982), by at least `samples` draws from `chains` chains of HMC, 10 or more of each (x₀ is a blur that
    no encoder has seen, so that importance weights would not do). Raises NotDefined for a likelihood without a gradient
    in x.
    """
    check_model_and_images(model, inside, samples=samples, chains=chains)
    samples, chains = int(samples), int(chains)
    check_images(outside, "outside")
    check_shape(outside[0], "outside", inside.shape[1:], "as the images inside")
    check_precision("inside and outside", inside, outside)
    x0 = inside.detach().mean(0, keepdim=True)
    _gradient(model, x0, model.posterior(x0).mean)  # a likelihood without one says so before the chains run
    found = sample_posterior(
        model,
        x0.expand(chains, -1, -1, -1),
        num_samples=max(10, math.ceil(samples / chains)),  # fewer have no effective sample size
        warmup=warmup,
        leapfrog_steps=10,
        chunk=BLOCK,
        generator=generator,
    )
    gradient, hessian = _derivatives(model, x0, found.samples.flatten(0, 1), generator)
    mean_inside, curved_inside = _moments(inside, hessian)
    mean_outside, curved_outside = _moments(outside, hessian)
    delta = mean_outside - mean_inside
    bound_inside = elbo(model, inside, generator=generator).double().mean().item()
    bound_outside = elbo(model, outside, generator=generator).double().mean().item()
    draws = found.samples.permute(2, 0, 1)  # latents first
    return SecondOrder(
        first=(gradient @ delta).item(),
        shift=(delta @ hessian @ delta / 2).item(),
        second=(curved_outside - curved_inside) / 2,
        measured=bound_outside - bound_inside,
        ess=ess(draws).amin().item(),
        rhat=split_rhat(draws).amax().item(),
    )


def _derivatives(model: LatentModel, x0: Tensor, z: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Gradient (P,) and Hessian (P, P) of log p at x₀, by draws z of p(z|x₀), in float64."""

    def product(v: Tensor) -> Tensor:  # E[∇² log p(x₀|z)] v
        total = torch.zeros_like(v)
        for part in z.split(BLOCK):
            x, gradient = _gradient(model, x0, part)
            direction = v.to(gradient).view_as(x0).expand_as(x)
            (curved,) = torch.autograd.grad(gradient, x, direction)
            total += curved.flatten(1).double().sum(0)
        return total / len(z)

    each = in_blocks(lambda part: _gradient(model, x0, part)[1].detach(), z).flatten(1).double()
    return each.mean(0), _from_products(product, each[0], generator) + torch.cov(each.T)


def _gradient(model: LatentModel, x0: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """∇ log p(x₀|z) of each z, (K, C, H, W), with the copies of x₀ in whose graph it is."""
    with torch.enable_grad():
        x = x0.expand(len(z), -1, -1, -1).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model.log_likelihood(x, z.detach()).sum(), x, create_graph=True)
        return x, gradient + 0 * x  # in the graph also where log p(x|z) is linear in x


def _from_products(product: Callable[[Tensor], Tensor], like: Tensor, generator) -> Tensor:
    """A symmetric matrix (P, P) by its products: by two where pixels are independent given z, and it is diagonal."""
    diagonal = product(torch.ones_like(like))
    probe = rand_like(like, generator)
    error = (product(probe) - diagonal * probe).abs().max()
    if error <= 1e-4 * diagonal.abs().max():
        return diagonal.diag()
    return torch.stack([product(unit) for unit in torch.eye(len(like)).to(like)])


def _moments(x: Tensor, hessian: Tensor) -> tuple[Tensor, float]:
    """The mean image (P,) and Tr[H Σ] of images x."""
    flat = x.detach().flatten(1).double()
    centred = flat - flat.mean(0)
    return flat.mean(0), ((centred @ hessian) * centred).sum(1).mean().item()
