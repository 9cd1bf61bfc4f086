"""Diffusion models as generators and as denoisers (document 002b: Deja et al., 2022, 2206.00070).

    x_t = √ᾱ_t (2x − 1) + √(1 − ᾱ_t) ε,   ᾱ_t = Π_{s≤t} (1 − β_s),   SNR_t = ᾱ_t / (1 − ᾱ_t),   ε ~ N(0, I)

A DDGM learns to tell ε from x_t by one network for all steps (Ho et al., 2020, 2006.11239), and walks back from noise
one step after another. A DAED leaves the last step of that walk, from x₁ = √(1 − β₁) (2x − 1) + √β₁ ε to the image, to
a network of its own: the document's DAE, a denoising autoencoder, here `denoiser`, which is a DDGM of one step. Images
x are in [0, 1]; the states x_t are not.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from vaenb.checks import check_batch, check_choice, check_counts, check_images, check_input, check_number, check_whole
from vaenb.distributions import randn_like
from vaenb.models.nets import Shape
from vaenb.models.unet import UNet

SCHEDULES = ("linear", "cosine")
_LARGEST = 0.999  # of a step's β: after β = 1 there is nothing left to walk back from
_SHARE = "the share of noise of one step, between 0 and 1,"


class Sampler(TypedDict, total=False):
    """How to walk back; see `DDGM.reverse`."""

    evaluations: int | None
    eta: float
    generator: torch.Generator | None


def linear(steps: int, *, start: float = 1e-4, end: float = 0.02, first: float | None = None) -> Tensor:
    """ᾱ_0 = 1, ᾱ_1, …, ᾱ_T, in doubles, of β rising evenly from `start` to `end` for T = 1000, scaled by 1000/T.

    Ho et al. (2020) start at 1e-4, the public code of document 002b at 1e-3; `first` replaces β₁ alone, as there in a
    DAED. Raises ValueError where a β would not lie in (0, 1): with the default `end` no schedule has 20 steps or fewer.
    """
    check_whole("steps", steps, least=2)
    scale = 1000 / steps
    if not 0 < start <= end or scale * end >= 1:
        raise ValueError(
            f"steps, start, end: 0 < start ≤ end < {1 / scale:.3g} = steps/1000 expected, as β_t is scaled by "
            f"1000/steps and must stay below 1; got steps={steps}, start={start}, end={end}"
        )
    betas = torch.linspace(scale * start, scale * end, steps, dtype=torch.float64)
    return _levels(betas, first)


def cosine(steps: int, *, first: float | None = None) -> Tensor:
    """ᾱ_0 = 1, …, ᾱ_T ∝ cos²((t/T + .008)/1.008 · π/2), with β_t ≤ .999 (Nichol & Dhariwal, 2021, 2102.09672)."""
    check_whole("steps", steps, least=2)
    times = torch.arange(steps + 1, dtype=torch.float64) / steps
    curve = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - curve[1:] / curve[:-1]).clamp_max(_LARGEST)
    return _levels(betas, first)


def snr(alpha_bar: Tensor) -> Tensor:
    """ᾱ/(1 − ᾱ), the signal-to-noise ratio; infinite where nothing is lost yet."""
    return alpha_bar / (1 - alpha_bar)


def as_images(x: Tensor) -> Tensor:
    """States in [−1, 1], the scale of a diffusion model, as images in [0, 1]; what lies outside is clipped."""
    return ((x + 1) / 2).clamp(0, 1)


class DDGM(nn.Module):
    """A diffusion model: `net(x_t, t/T)` predicts the noise ε of x_t; `alpha_bar` (T + 1,) falls from ᾱ_0 = 1.

    It is not a LatentModel: there is no decoder and no posterior to attack or to sample.
    """

    alpha_bar: Tensor
    nats_a_pixel = 0.5  # that its loss, the squared error of noise of variance 1, is worth

    def __init__(self, net: nn.Module, alpha_bar: Tensor, *, image_shape: Shape) -> None:
        super().__init__()
        levels = alpha_bar.ndim == 1 and len(alpha_bar) >= 2 and alpha_bar[0] == 1 and alpha_bar[-1] > 0
        if not levels or not (alpha_bar.diff() < 0).all():
            raise ValueError("alpha_bar: (T + 1,) values expected that fall from ᾱ_0 = 1 and stay above 0")
        self.net = net
        self.image_shape: Shape = (image_shape[0], image_shape[1], image_shape[2])
        self.register_buffer("alpha_bar", alpha_bar.double(), persistent=False)

    def _apply(self, fn: Callable, recurse: bool = True) -> "DDGM":
        """Move the levels, too, and leave them in double precision: in half of it neighbours are one level."""
        levels = self.alpha_bar
        super()._apply(fn, recurse)
        self.alpha_bar = levels.to(self.alpha_bar.device)
        return self

    @property
    def steps(self) -> int:
        """T."""
        return len(self.alpha_bar) - 1

    def noised(self, x: Tensor, t: int | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw x_t for images x (N, C, S, S) and a step from 0 to T, one for all or one for each (N,)."""
        check_images(x)
        check_input(self.net, x, "x", self.image_shape)
        return self._mixed(x, self._level(t, x), randn_like(x, generator))

    def dimmed(self, x: Tensor, t: int) -> Tensor:
        """The mean of x_t for images x (N, C, S, S): √ᾱ_t (2x − 1), a state without noise."""
        check_images(x)
        check_input(self.net, x, "x", self.image_shape)
        return self._level(t, x).sqrt() * (2 * x - 1)

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The mean squared error of the predicted noise, per pixel, at steps drawn evenly from 1 to T (`loss`)."""
        home = generator.device if generator else x.device  # as in randn_like
        t = torch.randint(1, self.steps + 1, (len(x),), generator=generator, device=home).to(x.device)
        noise = randn_like(x, generator)
        x_t = self._mixed(x, self._level(t, x), noise)
        return {"loss": (self._noise(x_t, t) - noise).square().mean()}

    def reverse(
        self,
        x_t: Tensor,
        t: int,
        s: int = 0,
        *,
        evaluations: int | None = None,
        eta: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Walk states x_t (N, C, S, S) back to step s < t: the states x_s, for s = 0 in [−1, 1].

        `eta` 1 is ancestral sampling with the posterior's variance, `eta` 0 is DDIM, which draws nothing (Song et
        al., 2021, 2010.02502, eq. 12 and 16). The walk takes every step, or `evaluations` calls of the network, evenly
        spaced from t to s + 1; with one, and s = 0, it is the network's guess of the image. Differentiable in x_t, but
        for guesses on the way that are clipped to [−1, 1]. Raises ValueError for steps outside 0 … T.
        """
        check_whole("t", t, least=1, most=self.steps)
        check_whole("s", s, least=0, most=t - 1)
        times = _spaced(int(t), int(s), evaluations)
        return self.walk(x_t, times, self.alpha_bar[times].tolist(), eta, generator)

    def denoise(self, x_t: Tensor, t: int, **sampler: Unpack[Sampler]) -> Tensor:
        """Walk states x_t (N, C, S, S) back to images (N, C, S, S) in [0, 1]; see `reverse`. Step 0 is the image."""
        check_whole("t", t, least=0, most=self.steps)
        if t == 0:
            self._check_states(x_t)
            return as_images(x_t)
        return as_images(self.reverse(x_t, t, **sampler))

    def sample(self, count: int, *, chunk: int = 256, **sampler: Unpack[Sampler]) -> Tensor:
        """Draw images (count, C, S, S) in [0, 1] from noise; see `reverse`.

        They are drawn `chunk` at a time; at `eta` > 0 the images of a seed depend on it.
        """
        return _from_noise(self, self, count, chunk, **sampler)

    def walk(
        self, x: Tensor, times: list[int], levels: list[float], eta: float, generator: torch.Generator | None
    ) -> Tensor:
        """Walk from the first of `levels` ᾱ to the last; `times` are what the network is told on the way."""
        self._check_states(x)
        check_number("eta", eta, "0 (DDIM) to 1 (ancestral)", least=0, most=1)
        for t, (now, then) in zip(times, pairwise(levels), strict=False):  # ᾱ before the step, and after it
            noise = self._noise(x, torch.full((len(x),), t, device=x.device))
            image = ((x - math.sqrt(1 - now) * noise) / math.sqrt(now)).clamp(-1, 1)
            if then == 1:
                x = image
                continue
            noise = (x - math.sqrt(now) * image) / math.sqrt(1 - now)  # of the clipped image
            variance = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
            x = math.sqrt(then) * image + math.sqrt(max(1 - then - variance, 0.0)) * noise
            if eta > 0:
                x = x + math.sqrt(variance) * randn_like(x, generator)
        return x

    def _noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.net(x_t, t / self.steps)

    def _mixed(self, x: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        return level.sqrt() * (2 * x - 1) + (1 - level).sqrt() * noise

    def _level(self, t: int | Tensor, x: Tensor) -> Tensor:
        if not isinstance(t, Tensor):
            check_whole("t", t, least=0, most=self.steps)
            return self.alpha_bar[t].to(x.dtype)
        if t.shape != (len(x),) or t.dtype not in (torch.int64, torch.int32) or t.min() < 0 or t.max() > self.steps:
            raise ValueError(f"t: whole steps from 0 to {self.steps}, one for each of {len(x)} images, expected")
        return self.alpha_bar[t].to(x.dtype)[:, None, None, None]

    def _check_states(self, x: Tensor) -> None:
        check_batch(x, "x", dims=4, shape="states (N, C, S, S)")
        check_input(self.net, x, "x", self.image_shape)


class DAED:
    """A DDGM whose first steps are replaced by a `denoiser`: its walk ends at x₁, and the denoiser makes the image.

    The switch is at step s = argmin_t |ᾱ_t − (1 − β₁)|: the DDGM walks from T to s + 1, then with β = 1 − ᾱ_{s+1} /
    (1 − β₁) to x₁. On a DDGM whose schedule has β₁ for `first` this is the document's DAED; on any other it is
    their combination of two trained models. Raises ValueError where nothing of the DDGM would be left.
    """

    def __init__(self, ddgm: DDGM, first: DDGM) -> None:
        if first.steps != 1 or first.image_shape != ddgm.image_shape:
            raise ValueError(f"first: a denoiser, a model of one step, of images {ddgm.image_shape} expected")
        self.ddgm, self.first = ddgm, first
        self.image_shape, self.steps = ddgm.image_shape, ddgm.steps
        self.level = first.alpha_bar[1].item()  # 1 − β₁
        self.switch = 1 + int((ddgm.alpha_bar[1:] - self.level).abs().argmin())
        if self.switch == ddgm.steps:
            raise ValueError(f"first: β₁ = {1 - self.level:.3g} is as much noise as all {ddgm.steps} steps add")

    def denoise(
        self,
        x_t: Tensor,
        t: int,
        *,
        evaluations: int | None = None,
        eta: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Walk states x_t of a step t > `switch` back to images (N, C, S, S) in [0, 1]; see `DDGM.reverse`.

        `evaluations` counts calls of both networks, and is 2 at least.
        """
        check_whole("t", t, least=self.switch + 1, most=self.steps)
        if evaluations is not None:
            check_whole("evaluations", evaluations, least=2)
            evaluations -= 1  # one is the denoiser's
        times = _spaced(int(t), self.switch, evaluations)
        levels = [*self.ddgm.alpha_bar[times[:-1]].tolist(), self.level]
        x_1 = self.ddgm.walk(x_t, times, levels, eta, generator)
        return self.first.denoise(x_1, 1)

    def by_own_steps(self, x_1: Tensor, **sampler: Unpack[Sampler]) -> Tensor:
        """Walk states x₁ (N, C, S, S) back to images by the DDGM's steps instead of the denoiser.

        The network is told that this were its step `switch`, whose noise is nearest to β₁; with one of `evaluations`
        it guesses from there. Other arguments: `DDGM.reverse`.
        """
        times = _spaced(self.switch, 0, sampler.get("evaluations"))
        levels = [self.level, *self.ddgm.alpha_bar[times[1:]].tolist()]
        found = self.ddgm.walk(x_1, times, levels, sampler.get("eta", 1.0), sampler.get("generator"))
        return as_images(found)

    def sample(self, count: int, *, chunk: int = 256, **sampler: Unpack[Sampler]) -> Tensor:
        """Draw images (count, C, S, S) in [0, 1] from noise, as `DDGM.sample` does."""
        return _from_noise(self, self.first, count, chunk, **sampler)


def ddgm(
    *,
    image_shape: Shape,
    steps: int,
    schedule: str = "linear",
    start: float | None = None,
    first: float | None = None,
    channels: int = 32,
    blocks: int = 1,
) -> DDGM:
    """Build a DDGM over a `UNet` from plain values, for `training.trained` (with `ema`).

    `start` is the linear schedule's. Document 002b: T = 500, linear from 1e-3, 64 channels, 3 blocks.
    """
    check_choice("schedule", schedule, SCHEDULES)
    if schedule == "cosine" and start is not None:
        raise ValueError(f"start: only with schedule='linear', got {start!r} with {schedule!r}")
    if schedule == "cosine":
        alpha_bar = cosine(steps, first=first)
    else:
        alpha_bar = linear(steps, start=1e-4 if start is None else start, first=first)
    return DDGM(UNet(image_shape, channels=channels, blocks=blocks), alpha_bar, image_shape=image_shape)


def denoiser(*, image_shape: Shape, beta_1: float, channels: int = 32, blocks: int = 1) -> DDGM:
    """Build document 002b's DAE from plain values: a DDGM of one step, ᾱ_1 = 1 − β₁, that predicts that step's noise.

    `denoise(noised(x, 1), 1)` is its use as a denoiser. Raises ValueError for β₁ outside (0, 1).
    """
    check_number("beta_1", beta_1, _SHARE, above=0, below=1)
    alpha_bar = torch.tensor([1, 1 - beta_1], dtype=torch.float64)
    return DDGM(UNet(image_shape, channels=channels, blocks=blocks), alpha_bar, image_shape=image_shape)


@torch.no_grad()
def _from_noise(model: DDGM | DAED, first: DDGM, count: int, chunk: int, **sampler: Unpack[Sampler]) -> Tensor:
    check_counts(count=count, chunk=chunk)
    weights = next(first.parameters(), first.alpha_bar.float())  # whose device and precision the states have
    like = weights.new_zeros(count, *model.image_shape)
    noise = randn_like(like, sampler.get("generator"))
    return torch.cat([model.denoise(part, model.steps, **sampler) for part in noise.split(chunk)])


def _spaced(t: int, s: int, evaluations: int | None) -> list[int]:
    """The steps of a walk from t down to s: all, or evenly spaced for so many calls of the network."""
    if evaluations is None:
        evaluations = t - s
    check_counts(evaluations=evaluations)
    calls = min(evaluations, t - s)
    span, gaps = t - s - 1, max(1, calls - 1)
    taken = [t - round(k * span / gaps) for k in range(calls)]
    return [*taken, s]


def _levels(betas: Tensor, first: float | None) -> Tensor:
    """ᾱ of these β, with another β₁ where one is given."""
    if first is not None:
        check_number("first", first, _SHARE, above=0, below=1)
        betas[0] = first
    return torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
