"""A VAE whose encoder learns by the forward KL, from p(z|x) to q(z|x): document 004's proposal.

The decoder minimises the negative ELBO, as ever, with codes drawn from q(z|x) that pass no gradient on. The encoder
minimises E_{z ~ p(z|x)}[−log q(z|x)] = KL[p(z|x) ‖ q(z|x)] + H[p(z|x)], and the `targets` say where its z come from:

    wake   Σ_k w_k [−log q(z_k|x)], z_k ~ q(z|x), w_k ∝ p(x, z_k) / q(z_k|x), Σ_k w_k = 1  (Bornschein and Bengio, 2015)
    hmc    the end of an HMC chain on p(z|x) that starts at a draw of q(z|x)  (after Naesseth et al., 2020)

The two KLs differ where q can't be p: of a Gaussian posterior with covariance Σ = Λ⁻¹ a diagonal q gets the variances
1/Λ_ii from the ELBO and Σ_ii, never smaller, from the forward KL. Few draws and short chains pull wake and hmc towards
the q at hand (at K = 1 nothing would be learnt).
"""

from typing import Unpack, cast

import torch
from torch import Tensor

from vaenb.checks import check_choice, check_whole
from vaenb.contract import Posterior, log_joint
from vaenb.distributions import DiagonalGaussian, rand_like, randn_like, standard_normal
from vaenb.models.autoencoder import VAE, Parts, resting, vae
from vaenb.models.likelihoods import dequantize
from vaenb.models.regularizers import KL
from vaenb.sampling.hmc import start, transition, value_and_gradient

TARGETS = ("wake", "hmc")
_LEAPFROG = 3  # steps a transition
_ACCEPT = 0.8  # the acceptance rate that the step size aims at
_CHUNK = 512  # codes decoded at a time

Lesson = tuple[Posterior, Tensor, dict[str, Tensor]]  # q(z|x), the encoder's loss, and statistics


class ForwardKLVAE(VAE):
    """A VAE with two objectives in one loss, of which neither reaches the other's weights; see the module.

    `samples` is the number of draws K for wake and of transitions for hmc.

    Targets are made with the decoder's BatchNorm at rest: they belong to the posterior that the finished model will
    have, a code's density must not depend on the other codes, and the running statistics stay those of the ELBO's step.
    """

    step_size: Tensor  # of hmc, in units of q's standard deviation

    def __init__(self, *, targets: str = "wake", samples: int = 16, **parts: Unpack[Parts]) -> None:
        super().__init__(**parts)
        check_choice("targets", targets, TARGETS)
        check_whole("samples", samples, least=2)
        if self.regularizer != KL(1.0):
            raise ValueError(f"regularizer: kl with beta=1, the ELBO's, expected, got {self.regularizer}")
        self.targets, self.samples = targets, samples
        # moved between batches, so that in a chain it is fixed
        self.register_buffer("step_size", torch.tensor(0.5), persistent=False)

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute the batch's statistics in nats per image; `loss` is nll + forward_kl.

        Its gradient is that of nll + kl, the negative ELBO, in the decoder, and of forward_kl in the encoder.
        `forward_kl` includes the entropy of the targets. Wake adds `ess`, the mean effective sample size 1 / Σ_k w_k²
        (1…K; near 1 a single draw is the target), and hmc the `accept_rate`.
        """
        if self.likelihood.dequantized:
            x = dequantize(x, generator)
        learn = self._wake if self.targets == "wake" else self._hmc
        posterior, forward_kl, statistics = learn(x, generator)
        z = posterior.rsample(generator=generator).detach()
        nll = -self.log_likelihood(x, z).mean()
        kl = posterior.kl(standard_normal(z)).mean().detach()
        return {"loss": nll + forward_kl, "nll": nll, "kl": kl, "forward_kl": forward_kl, **statistics}

    def _wake(self, x: Tensor, generator: torch.Generator | None) -> Lesson:
        posterior, K = cast(DiagonalGaussian, self.posterior(x)), self.samples
        repeated = DiagonalGaussian(posterior.mean.repeat(K, 1), posterior.logvar.repeat(K, 1))
        z = repeated.rsample(generator=generator).detach()
        log_q = repeated.log_prob(z).view(K, -1)
        with torch.no_grad(), resting(self.decoder):
            copies = x.repeat(K, 1, 1, 1)
            parts = zip(copies.split(_CHUNK), z.split(_CHUNK), strict=True)
            log_p = torch.cat([log_joint(self, images, codes) for images, codes in parts]).view(K, -1)
            weights = (log_p - log_q).softmax(0)  # (K, N)
        forward_kl = -(weights * log_q).sum(0).mean()
        ess = (1 / (weights**2).sum(0)).mean()
        return posterior, forward_kl, {"ess": ess}

    def _hmc(self, x: Tensor, generator: torch.Generator | None) -> Lesson:
        posterior = self.posterior(x)
        z = posterior.rsample(generator=generator).detach()
        scale = posterior.stddev.detach()
        index = torch.arange(len(x), device=x.device)
        density = value_and_gradient(lambda z, i: log_joint(self, x[i], z), index, _CHUNK)
        rates = []
        with resting(self.decoder):
            state = start(density, z)
            for _ in range(self.samples):
                momentum = randn_like(z, generator)
                uniform, wobble = rand_like(z.new_empty(2, len(z)), generator)
                step = self.step_size * (0.5 + wobble)  # or a whole period would bring a chain nowhere
                state, probability, _ = transition(density, state, momentum, uniform, step, scale, _LEAPFROG)
                rates.append(probability.mean())
        rate = torch.stack(rates).mean()
        if self.training:
            self.step_size *= (0.5 * (rate - _ACCEPT)).exp()
        forward_kl = -posterior.log_prob(state.z).mean()
        return posterior, forward_kl, {"accept_rate": rate}


def forward_kl_vae(*, targets: str = "wake", samples: int = 16, **config) -> ForwardKLVAE:
    """Build a VAE (`config` as for `vae`, regularizer kl and beta 1) whose encoder learns by the forward KL.

    For each image a training step decodes `samples` codes more for wake; hmc takes 3·`samples` + 1 gradients through
    the decoder, so that 2 to 4 `samples` are what a CPU can bear. Raises ValueError for another regularizer or beta,
    unknown `targets`, and fewer than 2 `samples`.
    """
    return ForwardKLVAE(targets=targets, samples=samples, **vae(**config).parts)
