"""A VAE whose encoder learns by the forward KL, from p(z|x) to q(z|x): document 004's proposal.

The decoder minimises the negative ELBO, as ever, with codes drawn from q(z|x) that pass no gradient on. The encoder
minimises E_{z ~ p(z|x)}[−log q(z|x)] = KL[p(z|x) ‖ q(z|x)] + H[p(z|x)], and the `targets` say where its z come from:

    wake   Σ_k w_k [−log q(z_k|x)], z_k ~ q(z|x), w_k ∝ p(x, z_k) / q(z_k|x), Σ_k w_k = 1  (Bornschein and Bengio, 2015)
    sleep  −log q(z|x̃) of dreams, z ~ p(z), x̃ ~ p(x|z)  (Hinton et al., 1995)
    hmc    the end of an HMC chain on p(z|x) that starts at a draw of q(z|x)  (after Naesseth et al., 2020)

The two KLs differ where q can't be p: of a Gaussian posterior with covariance Σ = Λ⁻¹ a diagonal q gets the variances
1/Λ_ii from the ELBO and Σ_ii, never smaller, from the forward KL. Few draws and short chains pull wake and hmc towards
the q at hand (at K = 1 nothing would be learnt); sleep has no such bias, but learns the model's images, not the data's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vaenb.distributions import DiagonalGaussian, rand_like, randn_like, standard_normal
from vaenb.models.autoencoder import VAE, vae
from vaenb.models.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    LearnedGaussian,
    dequantize,
)
from vaenb.models.regularizers import KL
from vaenb.sampling.hmc import start, transition, value_and_gradient

TARGETS = ("wake", "sleep", "hmc")
_LEAPFROG = 3  # steps a transition
_ACCEPT = 0.8  # the acceptance rate that the step size aims at
_CHUNK = 512  # codes decoded at a time


class ForwardKLVAE(VAE):
    """A VAE with two objectives in one loss, of which neither reaches the other's weights; see the module.

    `samples` is the number of draws K for wake and of transitions for hmc; sleep has one dream for each image.

    Targets are made with the decoder's BatchNorm at rest: they belong to the posterior that the finished model will
    have, a code's density must not depend on the other codes, and the running statistics stay those of the ELBO's step.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, *, targets: str = "wake", samples: int = 16, **settings
    ) -> None:
        super().__init__(encoder, decoder, **settings)
        if targets not in TARGETS:
            raise ValueError(f"targets: one of {', '.join(TARGETS)} expected, got {targets!r}")
        if not isinstance(samples, int) or samples < 2:
            raise ValueError(f"samples: a whole number ≥ 2 expected, got {samples!r}")
        if self.regularizer != KL(1.0):
            raise ValueError(f"regularizer: kl with beta=1, the ELBO's, expected, got {self.regularizer}")
        self.targets, self.samples = targets, samples
        # of hmc, in units of q's standard deviation; moved between batches, so that in a chain it is fixed
        self.register_buffer("step_size", torch.tensor(0.5), persistent=False)

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute the batch's statistics in nats per image; `loss` is nll + forward_kl.

        Its gradient is that of nll + kl, the negative ELBO, in the decoder, and of forward_kl in the encoder.
        `forward_kl` includes the entropy of the targets. Wake adds `ess`, the mean effective sample size 1 / Σ_k w_k²
        (1…K; near 1 a single draw is the target), and hmc the `accept_rate`.
        """
        if getattr(self.likelihood, "dequantized", False):
            x = dequantize(x, generator)
        learn = {"wake": self._wake, "sleep": self._sleep, "hmc": self._hmc}[self.targets]
        posterior, forward_kl, statistics = learn(x, generator)
        z = posterior.rsample(generator=generator).detach()
        nll = -self.log_likelihood(x, z).mean()
        kl = posterior.kl(standard_normal(z)).mean().detach()
        return {"loss": nll + forward_kl, "nll": nll, "kl": kl, "forward_kl": forward_kl, **statistics}

    def _wake(self, x: Tensor, generator) -> tuple[DiagonalGaussian, Tensor, dict[str, Tensor]]:
        posterior, K = self.posterior(x), self.samples
        repeated = DiagonalGaussian(posterior.mean.repeat(K, 1), posterior.logvar.repeat(K, 1))
        z = repeated.rsample(generator=generator).detach()
        log_q = repeated.log_prob(z).view(K, -1)
        with torch.no_grad(), _resting(self.decoder):
            pairs = zip(x.repeat(K, 1, 1, 1).split(_CHUNK), z.split(_CHUNK), strict=True)
            log_joint = torch.cat([self._log_joint(*pair) for pair in pairs]).view(K, -1)
            weights = (log_joint - log_q).softmax(0)
        return posterior, -(weights * log_q).sum(0).mean(), {"ess": (1 / (weights**2).sum(0)).mean()}

    def _sleep(self, x: Tensor, generator) -> tuple[DiagonalGaussian, Tensor, dict[str, Tensor]]:
        with torch.no_grad(), _resting(self.decoder):
            z = randn_like(x.new_empty(len(x), self.latent_dim), generator)
            dreams = draw(self.likelihood, self.logits(z), generator)
        # one pass: the encoder's BatchNorm must do the same to images as to the dreams that it learns from
        both = self.posterior(torch.cat([x, dreams]))
        return both[: len(x)], -both[len(x) :].log_prob(z).mean(), {}

    def _hmc(self, x: Tensor, generator) -> tuple[DiagonalGaussian, Tensor, dict[str, Tensor]]:
        posterior = self.posterior(x)
        z, scale = posterior.rsample(generator=generator).detach(), posterior.stddev.detach()
        index = torch.arange(len(x), device=x.device)
        density = value_and_gradient(lambda z, i: self._log_joint(x[i], z), index, _CHUNK)
        rates = []
        with _resting(self.decoder):
            state = start(density, z)
            for _ in range(self.samples):
                momentum, (uniform, wobble) = randn_like(z, generator), rand_like(z.new_empty(2, len(z)), generator)
                step = self.step_size * (0.5 + wobble)  # or a whole period would bring a chain nowhere
                state, probability, _ = transition(density, state, momentum, uniform, step, scale, _LEAPFROG)
                rates.append(probability.mean())
        rate = torch.stack(rates).mean()
        if self.training:
            self.step_size *= (0.5 * (rate - _ACCEPT)).exp()
        return posterior, -posterior.log_prob(state.z).mean(), {"accept_rate": rate}

    def _log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        return self.log_prior(z) + self.log_likelihood(x, z)


def forward_kl_vae(*, targets: str = "wake", samples: int = 16, **config) -> ForwardKLVAE:
    """Build a VAE (`config` as for `vae`, regularizer kl and beta 1) whose encoder learns by the forward KL.

    For each image a training step decodes `samples` codes more for wake and one more for sleep; hmc takes
    3·`samples` + 1 gradients through the decoder, so that 2 to 4 `samples` are what a CPU can bear. Raises ValueError
    for another regularizer or beta, unknown `targets`, and fewer than 2 `samples`.
    """
    plain = vae(**config)
    shapes = {"image_shape": plain.image_shape, "latent_dim": plain.latent_dim}
    parts = {"likelihood": plain.likelihood, "regularizer": plain.regularizer}
    return ForwardKLVAE(plain.encoder, plain.decoder, targets=targets, samples=samples, **shapes, **parts)


def draw(likelihood, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw images (N, C, H, W) from p(x|z), noise and all, for a decoder's logits.

    Not the mean image, although a Bernoulli's draws are black and white where the data are grey, and a Gaussian's leave
    [0, 1]: the noise is why p(z|x) has a width. A mean image tells its z exactly, and an encoder that learns from it
    loses its variance without bound. Raises TypeError for a likelihood that it can't draw from.
    """
    uniform = rand_like(logits, generator).clamp_min(1e-7)  # the logarithms below need it above 0
    match likelihood:
        case Bernoulli():
            return (uniform < logits.sigmoid()).to(logits.dtype)
        case ContinuousBernoulli():
            slope = logits.abs().clamp_min(1e-4)  # inverts F(x) = (1 − e^−|l|x) / (1 − e^−|l|), mirrored where l > 0
            x = -torch.log1p(uniform * torch.expm1(-slope)) / slope
            return torch.where(logits > 0, 1 - x, x)
        case Gaussian():
            return likelihood.mean(logits) + likelihood.sigma * randn_like(logits, generator)
        case LearnedGaussian():
            return likelihood.mean(logits) + likelihood.log_sigma.exp() * randn_like(logits, generator)
        case DiscretizedLogistic():
            x = likelihood.mean(logits) + likelihood.log_scale.exp() * uniform.logit()
            return (255 * x).round().clamp(0, 255) / 255
        case Categorical():
            return (logits - (-uniform.log()).log()).unflatten(1, (-1, 256)).argmax(2) / 255  # Gumbel's trick
    raise TypeError(f"likelihood: no way to draw images from a {type(likelihood).__name__}; use targets wake or hmc")


@contextmanager
def _resting(net: nn.Module) -> Iterator[None]:
    """Put `net` in evaluation mode, and back in the mode it had, whatever happens."""
    mode = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(mode)
